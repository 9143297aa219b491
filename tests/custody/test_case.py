"""Workspaces, cases, derivations and reports: what is recorded, and what is refused without a trace."""

from __future__ import annotations

import dataclasses
import errno
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from geoevidence.catalogue import open_log_store
from geoevidence.custody import (
    CASE_FIELDS,
    Case,
    Derivation,
    StoredResult,
    Workspace,
    case_template_text,
    provenance,
    read_case_toml,
)
from geoevidence.custody import case as case_module
from geoevidence.custody.sheet import read_sheet
from geoevidence.errors import ConfigError, CustodyError, DigestMismatchError, FormatError, InputError, LogInconsistentError
from geoevidence.messages import texts
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.types import EvidenceItem, Message, ProcessResult, Product
from tests.custody.test_log import check_log, edit_database
from tests.custody.workspaces import CARD, Place, derive, full_case, result, session


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    made = place.workspace.new_case("川检 2026-1", fields={"cause": "演示"})
    made.ingest(place.card(CARD))
    return made


def scratch(case: Case) -> list[str]:
    return [path.name for path in (case._workspace.path / "tmp").iterdir() if path.name != ".lock"]


# ---------------------------------------------------------------- workspaces and cases


def test_a_workspace_is_made_in_an_empty_folder_only(tmp_path: Path) -> None:
    who = session(tmp_path / "keys")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CustodyError) as raised:
        Workspace.create(tmp_path / "full", session=who, log_store=open_log_store(tmp_path / "full"))
    assert raised.value.message_id == "custody.workspace_not_empty"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["photo.jpg"]
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CustodyError):
            Workspace.create(bad, session=who, log_store=open_log_store(bad))
    made = Workspace.create(tmp_path / "empty", session=who, log_store=open_log_store(tmp_path / "empty"))
    assert made.id.startswith("W-") and made.cases() == ()
    with pytest.raises(CustodyError):
        Workspace.create(tmp_path / "empty", session=who, log_store=open_log_store(tmp_path / "empty"))


def test_copying_a_workspace_copies_no_key(place: Place) -> None:
    full_case(place)
    raw = (place.root / "keys" / "ed25519.pem").read_bytes()
    for path in place.workspace.path.rglob("*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes() and raw not in path.read_bytes()
    place.log_store.close()
    copy = place.root / "copy"
    shutil.copytree(place.workspace.path, copy)
    moved = Workspace.open(copy, session=place.session, log_store=open_log_store(copy))
    check_log(moved.case("川检 2026-1"))


def test_cases_are_found_by_id_and_number(place: Place) -> None:
    second = place.workspace.new_case("B", fields={"cause": "x"}, demonstration=True)
    first = place.workspace.new_case("A")
    listed = place.workspace.cases()
    assert [(each.id, each.number, each.demonstration) for each in listed] == [(first.id, "A", False), (second.id, "B", True)]
    assert listed[1].sheet == {"case_number": "B", "cause": "x"} and (listed[1].events, listed[1].items) == (1, 1)
    assert place.workspace.case("A").id == place.workspace.case(first.id).id == first.id
    with pytest.raises(CustodyError) as raised:
        place.workspace.case("C")
    assert "A, B" in str(raised.value)
    with pytest.raises(CustodyError) as raised:
        place.workspace.new_case(" A ")
    assert raised.value.message_id == "custody.number_taken"
    assert len(place.workspace.cases()) == 2


def test_a_catalogue_of_another_workspace_or_version_is_refused(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other", seed=2)
    with pytest.raises(CustodyError) as raised:
        Workspace.open(place.workspace.path, session=place.session, log_store=other.log_store)
    assert raised.value.message_id == "custody.catalogue_other"
    place.log_store.close()
    (place.workspace.path / "catalogue.sqlite").unlink()
    with pytest.raises(CustodyError) as raised:
        place.reopened()
    assert raised.value.message_id == "custody.catalogue_missing"
    assert not (place.workspace.path / "catalogue.sqlite").exists()
    with pytest.raises(CustodyError):
        place.workspace.cases()
    (place.workspace.path / "catalogue.sqlite").write_bytes(b"not a database at all, but long enough to be read as one")
    with pytest.raises(CustodyError) as raised:
        place.reopened()
    assert raised.value.message_id == "custody.catalogue_failed"
    for marker in (b"{}", b'{"id":"W-1","schema":"geoevidence.workspace.v9"}', b"["):
        (place.workspace.path / "workspace.json").write_bytes(marker)
        with pytest.raises(FormatError):
            place.reopened()


def test_a_killed_derivation_is_swept_at_the_next_opening(place: Place, case: Case) -> None:
    (place.workspace.path / "tmp" / "derivation-dead" / "out").mkdir(parents=True)
    (place.workspace.path / "tmp" / "dead.part").write_bytes(b"half")
    place.reopened()
    assert scratch(case) == []


# ---------------------------------------------------------------- the case sheet


def test_the_sheet_is_replaced_by_a_correction(place: Place) -> None:
    case = place.workspace.new_case("1", fields={"cause": "one", "place": " "})
    assert dict(case.sheet) == {"case_number": "1", "cause": "one"}
    event = case.set_sheet({"witness": " 王五 ", "case_number": "1"})
    assert event is not None and event.type == "corrected"
    assert [ref.path.split("/")[0] for ref in (*event.inputs, *event.outputs)] == ["records", "records"]
    assert dict(case.sheet) == {"case_number": "1", "witness": "王五"}
    assert case.set_sheet({"witness": "王五"}) is None
    assert place.workspace.cases()[0].sheet == case.sheet
    stored = read_sheet(case.path_of(case.items(role="record")[-1]).read_bytes())
    assert (stored.case, stored.workspace, stored.demonstration) == (case.id, place.workspace.id, False)
    check_log(case)


@pytest.mark.parametrize(
    ("fields", "message_id"),
    [
        ({"caus": "x"}, "custody.sheet_unknown_field"),
        ({"cause": 5}, "custody.sheet_not_text"),
        ({"cause": "x" * 30_000}, "custody.sheet_not_text"),
        ({"case_number": "2"}, "custody.sheet_other_number"),
        ({"cause": "\ud800"}, "custody.sheet_bad_character"),
    ],
)
def test_a_bad_sheet_is_refused(place: Place, fields: dict[str, str], message_id: str) -> None:
    case = place.workspace.new_case("1")
    with pytest.raises(ConfigError) as raised:
        case.set_sheet(fields)
    assert raised.value.message_id == message_id and len(case.events()) == 1
    with pytest.raises(ConfigError):
        place.workspace.new_case("  ")


def test_the_template_names_every_field_in_both_languages(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_text(case_template_text(), encoding="utf-8")
    assert read_case_toml(path) == {}
    for lang in ("zh", "en"):
        assert {f"case.field.{name}" for name in CASE_FIELDS} <= set(texts(lang))
    lines = case_template_text().splitlines()
    for name in CASE_FIELDS:
        before = lines[next(n for n, line in enumerate(lines) if line.startswith(f"{name} =")) - 1]
        chinese, _, english = before.removeprefix("# ").partition(" / ")
        assert any("\u4e00" <= c <= "\u9fff" for c in chinese + "中" * chinese.startswith("RTK")) and english.isascii()
    path.write_text('cause = "x"\nacceptance_date = 2026-11-23\nwitness = ""\n', encoding="utf-8")
    assert read_case_toml(path) == {"cause": "x", "acceptance_date": "2026-11-23"}


@pytest.mark.parametrize(
    ("content", "kind", "message_id"),
    [
        ("caus = 'x'", ConfigError, "custody.sheet_unknown_field"),
        ("cause = 5", ConfigError, "custody.sheet_not_text"),
        ("cause = ['x']", ConfigError, "custody.sheet_not_text"),
        ("cause = ", FormatError, "custody.sheet_not_toml"),
        ("cause = 'x'\ncause = 'y'", FormatError, "custody.sheet_not_toml"),
    ],
)
def test_a_bad_case_file_is_refused(tmp_path: Path, content: str, kind: type[Exception], message_id: str) -> None:
    path = tmp_path / "case.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(kind) as raised:
        read_case_toml(path)
    assert raised.value.message_id == message_id  # type: ignore[attr-defined]
    path.write_bytes(b"\xff")
    with pytest.raises(FormatError):
        read_case_toml(path)
    with pytest.raises(FormatError):
        read_case_toml(tmp_path / "nothing.toml")


# ---------------------------------------------------------------- derivations


def test_a_derivation_is_one_event_with_its_findings(case: Case) -> None:
    originals = case.items(role="original")
    with case.derivation(
        process="drone.survey", inputs=originals, parameters={"gsd": "0.05", "limits": (1, 2)}, seed=7
    ) as derivation:
        seen = sorted(path.relative_to(derivation.folder).as_posix() for path in derivation.folder.rglob("*") if path.is_file())
        assert seen == sorted(CARD) and derivation.inputs == originals
        assert all(derivation.path_of(item).read_bytes() == case.path_of(item).read_bytes() for item in originals)
        assert list(derivation.out.iterdir()) == []
        stored = derivation.commit(result(derivation, findings=2))
    assert isinstance(stored, StoredResult) and stored.event.type == "derived"
    assert set(stored.files) == {"dsm.tif", "result.json"} and stored.files["dsm.tif"].media_type.startswith("image/tiff;")
    assert [ref.item for ref in stored.event.inputs] == [item.id for item in originals]
    process = stored.event.process
    assert process is not None and process.parameters == {"gsd": "0.05", "limits": [1, 2]} and process.seed == 7
    assert process.code_digest.startswith("sha256:") and process.environment_digest.startswith("sha256:")
    assert case.results() == (stored,)
    assert [finding.id for _, finding in case.findings()] == ["S-001", "S-002"]
    assert case.findings()[0][0] == stored and case.findings()[0][1] == result(None, findings=2).findings[0]
    record = loads_canonical(case.path_of(case.items(role="record")[-1]).read_bytes())
    assert record["result"] == stored.files["result.json"].id and record["folder"] == f"derived/{stored.event.event_id}/"
    assert scratch(case) == [] and case._workspace.cases()[0].findings == 2
    check_log(case)


def test_without_findings_there_is_no_found_event(case: Case) -> None:
    derive(case, findings=0)
    assert [event.type for event in case.events()] == ["commissioned", "copied", "derived"]
    assert case.findings() == () and len(case.results()) == 1


def test_inputs_of_several_events_keep_their_full_paths(place: Place, case: Case) -> None:
    case.ingest(place.card({"flight.MRK": b"other"}, name="second"))
    derive(case)
    product = case.results()[0].files["dsm.tif"]
    with case.derivation(process="drone.measure", inputs=[product], parameters={}) as derivation:
        assert (derivation.folder / "dsm.tif").exists()
        (derivation.out / "dsm.tif").write_bytes(b"other")
        derivation.commit(result(None, process="drone.measure"))
    both = [product, *case.items(role="original")]
    with (
        pytest.raises(RuntimeError),
        case.derivation(process="x", inputs=both, parameters={}) as derivation,
    ):
        seen = {path.relative_to(derivation.folder).as_posix() for path in derivation.folder.rglob("*") if path.is_file()}
        assert seen == {item.path for item in both}
        raise RuntimeError
    assert [item.id for item in derivation.inputs] == [item.id for item in case.items() if item in both]
    check_log(case)


def _unlisted(derivation: Derivation) -> ProcessResult:
    made = result(derivation)
    (derivation.out / "extra.txt").write_bytes(b"x")
    return made


def _linked(derivation: Derivation) -> ProcessResult:
    made = result(derivation)
    (derivation.out / "dsm.tif").unlink()
    (derivation.out / "dsm.tif").symlink_to("/etc/hostname")
    return made


def _other_result(derivation: Derivation) -> ProcessResult:
    (derivation.out / "result.json").write_bytes(dumps({}))
    return result(derivation)


@pytest.mark.parametrize(
    ("make", "message_id"),
    [
        (_unlisted, "custody.product_unlisted"),
        (_linked, "custody.product_not_a_file"),
        (_other_result, "custody.result_differs"),
        (lambda derivation: result(None), "custody.product_missing"),
        (lambda derivation: result(derivation, process="drone.other"), "custody.other_process"),
        (lambda derivation: replaced(result(derivation), parameters={"gsd": "0.06"}), "custody.other_parameters"),
        (lambda derivation: replaced(result(derivation), parameters={}), "custody.other_parameters"),
        (lambda derivation: replaced(result(derivation), seed=8), "custody.other_parameters"),
        (lambda derivation: replaced(result(derivation), products=result(None).products * 2), "custody.product_twice"),
    ],
)
def test_a_result_that_does_not_agree_is_not_recorded(
    case: Case, make: Callable[[Derivation], ProcessResult], message_id: str
) -> None:
    before = case.events()
    with (
        pytest.raises(CustodyError) as raised,
        case.derivation(process="drone.survey", inputs=case.items(role="original"), parameters={"gsd": "0.05"}, seed=7) as one,
    ):
        one.commit(make(one))
    assert raised.value.message_id == message_id
    assert case.events() == before and scratch(case) == [] and case.results() == ()


def replaced(made: ProcessResult, **changes: object) -> ProcessResult:
    fields = {name: getattr(made, name) for name in ProcessResult.__slots__}
    return ProcessResult(**{**fields, **changes})


def test_an_exception_records_nothing(case: Case) -> None:
    before = case.events()
    items = case.items(role="original")
    with (
        pytest.raises(ZeroDivisionError),
        case.derivation(process="drone.survey", inputs=items, parameters={}) as derivation,
    ):
        result(derivation)
        raise ZeroDivisionError
    with (
        pytest.raises(CustodyError) as raised,
        case.derivation(process="drone.survey", inputs=items, parameters={}),
    ):
        pass
    assert raised.value.message_id == "custody.nothing_committed"
    with pytest.raises(FormatError), case.derivation(process="drone.survey", inputs=items, parameters={}) as derivation:
        derivation.commit(replaced(result(derivation), parameters={"float": 0.5}))
    assert case.events() == before and scratch(case) == []
    with (
        pytest.raises(CustodyError) as raised,
        case.derivation(process="drone.survey", inputs=items, parameters={}, seed=7) as derivation,
    ):
        made = result(derivation)
        derivation.commit(made)
        derivation.commit(made)
    assert raised.value.message_id == "custody.committed_twice"
    # what was committed stays, whatever comes after it
    assert len(case.results()) == 1 and scratch(case) == []


def test_inputs_are_those_of_the_case_and_unchanged(place: Place, case: Case) -> None:
    originals = case.items(role="original")
    other = place.workspace.new_case("2")
    other.ingest(place.card(CARD))
    for inputs, message_id in (
        ((), "custody.no_inputs"),
        (other.items(role="record"), "custody.foreign_item"),
        ([_moved(originals[0])], "custody.foreign_item"),
    ):
        with (
            pytest.raises(CustodyError) as raised,
            case.derivation(process="x", inputs=inputs, parameters={}),
        ):
            pytest.fail("the block must not be entered")
        assert raised.value.message_id == message_id
    path = case.path_of(originals[0])
    kept = path.read_bytes()
    # changed in the store while the process runs (a process of the administrator could)
    with (
        pytest.raises(DigestMismatchError) as changed,
        case.derivation(process="drone.survey", inputs=originals, parameters={}, seed=7) as derivation,
    ):
        path.chmod(0o644)
        path.write_bytes(kept + b"!")
        derivation.commit(result(derivation))
    assert changed.value.message_id == "custody.input_changed"
    # and before it starts
    with (
        pytest.raises(DigestMismatchError) as changed,
        case.derivation(process="drone.survey", inputs=originals, parameters={}),
    ):
        pytest.fail("the block must not be entered")
    assert changed.value.message_id == "custody.object_changed"
    path.unlink()
    with pytest.raises(DigestMismatchError):
        case.path_of(originals[0])
    assert case.results() == ()


def _moved(item: EvidenceItem) -> EvidenceItem:
    fields = {name: getattr(item, name) for name in EvidenceItem.__slots__}
    return EvidenceItem(**{**fields, "path": f"{item.path}x"})


# ---------------------------------------------------------------- reports


def test_a_report_is_an_item(place: Place, case: Case) -> None:
    pdf = place.root / "made.pdf"
    pdf.write_bytes(b"%PDF-1.7")
    item = case.attach_report(pdf, lang="zh", inputs=case.items(role="record"))
    event = case.events()[-1]
    assert event.type == "reported" and item.path == f"report/{event.event_id}/report-zh.pdf"
    assert (item.role, item.media_type) == ("record", "application/pdf")
    assert case.path_of(item).read_bytes() == b"%PDF-1.7"
    with pytest.raises(InputError):
        case.attach_report(place.root / "nothing.pdf", lang="zh", inputs=())
    with pytest.raises(ValueError, match="lang"):
        case.attach_report(pdf, lang="fr", inputs=())  # type: ignore[arg-type]
    with pytest.raises(CustodyError):
        case.attach_report(pdf, lang="zh", inputs=[_moved(item)])
    assert case.events()[-1] == event
    check_log(case)


def test_every_message_of_this_part_stands_in_both_languages(repository: Path) -> None:
    import re

    used: set[str] = set()
    for folder in ("custody", "catalogue", "package"):
        for path in (repository / "geoevidence" / folder).rglob("*.py"):
            used |= set(re.findall(r'"((?:custody|package|core)\.[a-z_]+(?:\.[a-z_]+)*)"', path.read_text(encoding="utf-8")))
    used = {name for name in used if not name.endswith(".json")} - {"custody.ingest", "custody.sync", "custody.upload"}
    assert len(used) > 80
    for lang in ("zh", "en"):
        assert used <= set(texts(lang))
    assert Message(id="custody.stage.copy").render("zh") != Message(id="custody.stage.copy").render("en")


class _FullLogStore:
    """A catalogue on a disk without room."""

    def create(self, workspace_id: str) -> None:
        raise CustodyError("custody.catalogue_failed", path="catalogue", reason="database or disk is full")


def test_a_workspace_that_could_not_be_made_can_be_made_later(tmp_path: Path) -> None:
    who = session(tmp_path / "keys")
    with pytest.raises(CustodyError) as raised:
        Workspace.create(tmp_path / "new", session=who, log_store=_FullLogStore())  # type: ignore[arg-type]
    assert raised.value.message_id == "custody.catalogue_failed" and list((tmp_path / "new").iterdir()) == []
    assert Workspace.create(tmp_path / "new", session=who, log_store=open_log_store(tmp_path / "new")).cases() == ()


def test_a_case_can_be_looked_at_where_no_receipt_can_be_written(place: Place, case: Case) -> None:
    shutil.rmtree(place.workspace.path / "receipts")
    (place.workspace.path / "receipts").write_bytes(b"in the way")
    assert len(place.reopened().case(case.id).items()) == 4
    with pytest.raises(CustodyError) as raised:
        case.ingest(place.card({"new.txt": b"new"}))
    assert raised.value.message_id.startswith("custody.disk_")
    # the event itself was recorded: nothing accepted is lost
    assert len(case.items(role="original")) == 4
    (place.workspace.path / "receipts").unlink()
    place.reopened().case(case.id)
    assert len(list((place.workspace.path / "receipts").rglob("*.html"))) == 2


def test_a_product_with_a_name_for_no_computer_is_refused(case: Case) -> None:
    bad = Product(path="a:b.tif", kind="dsm", media_type="image/tiff", title=Message(id="core.synthetic"))
    with (
        pytest.raises(CustodyError) as raised,
        case.derivation(process="drone.survey", inputs=case.items(role="original"), parameters={}, seed=7) as derivation,
    ):
        derivation.commit(replaced(result(derivation), products=(bad,)))
    assert raised.value.message_id == "custody.product_name"


def test_a_case_without_a_checkpoint_says_so(place: Place, case: Case) -> None:
    with pytest.raises(CustodyError) as raised:
        case.checkpoint_bytes(at_least=len(case.events()) + 1)
    assert raised.value.message_id == "custody.log_empty"
    edit_database(place, "DELETE FROM checkpoint")
    with pytest.raises(CustodyError) as raised:
        case.log_checkpoint()
    assert raised.value.message_id == "custody.log_empty"


def test_a_log_without_events_has_nothing_to_publish_or_heal(place: Place) -> None:
    log = place.workspace._log("C-0000000000")
    log.publish()
    log.heal()
    assert not (place.workspace.path / "checkpoints" / "C-0000000000.note").exists() and log.checkpoint() is None
    with pytest.raises(LogInconsistentError) as raised:
        log.opened_as()
    assert raised.value.message_id == "custody.leaf_missing"


def test_a_random_source_that_repeats_itself_opens_no_second_case(tmp_path: Path) -> None:
    who = dataclasses.replace(session(tmp_path / "keys"), random=bytes)
    workspace = Workspace.create(tmp_path / "w", session=who, log_store=open_log_store(tmp_path / "w"))
    assert workspace.session is who
    first = workspace.new_case("1")
    with pytest.raises(CustodyError) as raised:
        workspace.new_case("2")
    assert (raised.value.message_id, raised.value.values["case"]) == ("custody.id_taken", first.id)
    assert [each.number for each in workspace.cases()] == ["1"]


def test_a_card_that_another_process_records_meanwhile_is_taken_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    case, other = place.workspace.new_case("1"), place.reopened().case("1")
    take, card = case_module.take_files, place.card(CARD)

    def meanwhile(*args: Any, **options: Any) -> Any:
        found = take(*args, **options)
        monkeypatch.setattr(case_module, "take_files", take)
        assert len(other.ingest(card).items) == len(CARD)
        return found

    monkeypatch.setattr(case_module, "take_files", meanwhile)
    done = case.ingest(card)
    assert done.items == () and len(done.already_present) == len(CARD)
    assert len(case.items(role="original")) == len(CARD)
    check_log(case)


def test_inputs_are_copied_where_the_file_system_has_no_hard_links(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    items = case.items(role="original")
    with case.derivation(process="drone.survey", inputs=items, parameters={"gsd": "0.05"}, seed=7) as derivation:
        for item in items:
            laid = derivation.path_of(item)
            assert laid.read_bytes() == case.read_object(item.sha256) and laid.stat().st_nlink == 1
            assert laid.stat().st_mode & 0o222 == 0
        derivation.commit(result(derivation))
    assert len(case.results()) == 1


def test_a_derivation_that_cannot_be_laid_out_says_so(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    before = case.events()
    with (
        pytest.raises(CustodyError) as raised,
        case.derivation(process="x", inputs=case.items(role="original"), parameters={}),
    ):
        pytest.fail("the block must not be entered")
    assert raised.value.message_id == "custody.disk_full"
    assert case.events() == before and scratch(case) == []


def test_products_may_lie_in_folders_and_the_result_beside_them(case: Case) -> None:
    """A process may write result.json itself, if it is the one that is recorded."""
    with case.derivation(
        process="drone.survey", inputs=case.items(role="original"), parameters={"gsd": "0.05"}, seed=7
    ) as derivation:
        made = result(derivation)
        (derivation.out / "sub").mkdir()
        (derivation.out / "dsm.tif").rename(derivation.out / "sub" / "dsm.tif")
        moved = replaced(
            made,
            products=(dataclasses.replace(made.products[0], path="sub/dsm.tif"),),
            findings=tuple(dataclasses.replace(each, products=("sub/dsm.tif",)) for each in made.findings),
        )
        (derivation.out / "result.json").write_bytes(dumps(moved.to_dict()))
        stored = derivation.commit(moved)
    assert [PurePosixPath(item.path).parts[2:] for item in case.items() if item.path.endswith("dsm.tif")] == [("sub", "dsm.tif")]
    assert sum(item.path.endswith("result.json") for item in case.items()) == 1 and stored == case.results()[0]


def test_a_sheet_of_another_schema_is_refused(case: Case) -> None:
    raw = loads_canonical(case.read_object(case.events()[0].outputs[0].sha256))
    assert isinstance(raw, dict) and read_sheet(dumps(raw)).case == case.id
    with pytest.raises(FormatError) as raised:
        read_sheet(dumps({**raw, "schema": "geoevidence.case.v9"}))
    assert (raised.value.message_id, raised.value.values["found"]) == ("core.unknown_schema", "geoevidence.case.v9")


def test_the_machine_is_named_with_and_without_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse4_2 avx2 fma other\n\n"
        "processor\t: 1\nmodel name\t: Some CPU\nflags\t\t: fpu\n"
    )
    named = f"{platform.system()} {platform.machine()}"
    monkeypatch.setattr(Path, "read_text", lambda *args: text)
    assert provenance.machine_text.__wrapped__() == f"{named} Some CPU avx2 fma sse4_2"
    monkeypatch.setattr(Path, "read_text", lambda *args: "Features\t: fp asimd\n")
    assert provenance.machine_text.__wrapped__() == f"{named} asimd"

    def absent(*args: object) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert provenance.machine_text.__wrapped__() == f"{named} arm"
