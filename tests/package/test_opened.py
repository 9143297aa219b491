"""Packages opened to be read: every refusal is ours and names the file; what another program would trip over is bounded."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pkgutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from geoevidence.custody import Case, CustodyEvent
from geoevidence.custody.log import FileRef
from geoevidence.errors import DigestMismatchError, FormatError, LogInconsistentError, PackageError
from geoevidence.package import (
    PackageDraft,
    RedactionRequest,
    draft,
    html_verifier,
    opened,
    redact,
    redact_package,
    seal,
    seal_folder,
    supplement,
    supplement_package,
)
from geoevidence.package.bag import ShortDocument, new_bag
from geoevidence.package.crate import crate_parts
from geoevidence.package.mentions import Needles
from geoevidence.package.opened import open_package
from geoevidence.package.recompute import derived_events, fetch_from_container, recomputing
from geoevidence.trust import VerificationReport, verify_package
from geoevidence.trust.container import open_container
from geoevidence.trust.events import parse_leaf
from geoevidence.trust.manifest import LEAVES, PROOF, STATEMENT
from geoevidence.trust.notes import parse_proof
from tests.custody.workspaces import CARD, Place, full_case
from tests.trust import tree
from tests.trust.builder import sample_log, write_folder


def message_of(error: pytest.ExceptionInfo[FormatError]) -> tuple[str, object]:
    return error.value.message_id, error.value.values.get("where", error.value.values.get("path"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tree.base(), tmp_path / "P")


def test_documents_are_read_whole_and_in_bounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_package(folder) as package:
        assert package.read(PROOF) == tree.base()[PROOF] and STATEMENT in package.paths
        assert package.packaged().event.type == "packaged" and package.proof().index == 5
        with pytest.raises(FormatError) as missing:
            package.read("data/absent")
        assert message_of(missing) == ("package.document_missing", "data/absent")
        monkeypatch.setattr(opened, "MAX_DOCUMENT", 9)
        with pytest.raises(FormatError) as long:
            package.read(PROOF)
        assert message_of(long) == ("package.document_too_long", PROOF)
        assert package.read_long(PROOF) == tree.base()[PROOF]


def test_a_file_that_goes_away_is_named(folder: Path) -> None:
    with open_package(folder) as package:
        for path in (PROOF, LEAVES):
            (folder / path).unlink()
        for path, read in ((PROOF, lambda: package.read(PROOF)), (LEAVES, lambda: list(package.leaves()))):
            with pytest.raises(FormatError) as gone:
                read()
            assert message_of(gone) == ("core.cannot_read", path)


def test_lines_are_read_without_their_ends_and_in_bounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line counts though its end is lacking; the verifier is who refuses that."""
    with open_package(folder) as package:
        whole = list(package.lines(LEAVES))
        assert b"".join(line + b"\n" for line in whole) == tree.base()[LEAVES]
        (folder / LEAVES).write_bytes(tree.base()[LEAVES][:-1])
        assert list(package.lines(LEAVES)) == whole
        (folder / LEAVES).write_bytes(b"x" * 100)
        monkeypatch.setattr(opened, "MAX_LEAF", 99)
        with pytest.raises(FormatError) as long:
            list(package.lines(LEAVES))
        assert message_of(long) == ("package.document_too_long", LEAVES)


def test_a_proof_without_its_event_is_said(folder: Path) -> None:
    proof = parse_proof(tree.base()[PROOF])
    (folder / PROOF).write_bytes(type(proof)(proof.index, proof.hashes, proof.checkpoint, None).to_bytes())
    with open_package(folder) as package, pytest.raises(FormatError) as lacking:
        package.packaged()
    assert message_of(lacking) == ("package.document_missing", "seal/proof.tlog: extra")


# ---- what is made from a case or a package --------------------------------------------------------------


def test_a_draft_is_of_the_log_that_was_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = full_case(Place(tmp_path))
    events = case.events()
    monkeypatch.setattr(Case, "events", lambda self: (*events[:-1], events[0]))
    with pytest.raises(LogInconsistentError) as caught:
        draft(case)
    assert caught.value.message_id == "custody.log_differs"


def test_where_nothing_was_derived_there_is_no_record(tmp_path: Path) -> None:
    place = Place(tmp_path)
    case = place.workspace.new_case("1")
    case.ingest(place.card(CARD))
    assert recomputing(case, engines={})(draft(case), "0" * 64) is None


def test_an_event_without_its_result_is_not_computed_again() -> None:
    log = sample_log()
    log.append("derived", {"derived/{e}/dsm.tif": b"II*\0"})
    whole, lacking = derived_events(parse_leaf(leaf).event for leaf in log.leaves)
    assert whole.result.path == f"derived/{whole.event_id}/result.json"
    with pytest.raises(FormatError) as caught:
        _ = lacking.result
    assert (caught.value.message_id, caught.value.values["event"]) == ("package.recompute_no_result", lacking.event_id)


def test_files_of_a_package_are_compared_while_they_are_taken(folder: Path, tmp_path: Path) -> None:
    path = tree.find(tree.base(), "照片")
    data = tree.base()[path]
    ref = FileRef(
        item="x", path=path.removeprefix("data/"), size=len(data), sha256=hashlib.sha256(data).hexdigest(), sm3="0" * 64
    )
    with open_container(folder) as container:
        fetch = fetch_from_container(container)
        fetch(ref, tmp_path / "out" / "a")
        assert (tmp_path / "out" / "a").read_bytes() == data
        (folder / path).write_bytes(b"other")
        with pytest.raises(DigestMismatchError):
            fetch(ref, tmp_path / "out" / "b")
        (folder / path).unlink()
        with pytest.raises(PackageError) as missing:
            fetch(ref, tmp_path / "out" / "c")
    assert missing.value.message_id == "package.recompute_missing"


def test_mentions_in_what_looks_like_base64() -> None:
    """A payload of an envelope is looked into; what only looks like one is passed over, and the next is looked into."""
    needles = Needles(("0" * 64,), (), ("被害人张三",))
    hidden = base64.b64encode("被害人张三在场".encode() * 9)
    broken = b'"payload":"' + hidden[:-3] + b'"'
    assert needles.found_in(b'{"payload":"' + hidden + b'"}') == "被害人张三"
    assert needles.found_in(broken) is None
    assert needles.found_in(broken + b',"payload":"' + hidden + b'"') == "被害人张三"


def test_no_page_is_built_where_a_part_of_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkgutil, "get_data", lambda package, name: None)
    with pytest.raises(FileNotFoundError, match="checks"):
        html_verifier._source("checks.js")


def test_an_action_without_a_process_is_described_without_one(tmp_path: Path) -> None:
    made = draft(full_case(Place(tmp_path)))
    bare = replace(made, events=tuple(replace(event, process=None) for event in made.events))

    def described(of: PackageDraft) -> list[bool]:
        raw = b"".join(crate_parts(of, {}, day="2026-11-23", software="geoevidence 0.1.0"))
        return ["description" in each for each in json.loads(raw)["@graph"] if each.get("@type") == "CreateAction"]

    assert any(described(made)) and not any(described(bare)) and len(described(bare)) == len(described(made))


def test_an_event_that_opens_nothing_has_no_line_of_disclosures(tmp_path: Path) -> None:
    first, second = full_case(Place(tmp_path)).events()[:2]
    (line,) = seal._disclosure_lines([replace(first, disclosures={}), second])
    assert json.loads(line)["event"] == second.event_id and line.endswith(b"\n")


def test_a_rehearsed_checkpoint_of_another_history_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = full_case(Place(tmp_path))
    rehearse = Case.rehearse_sealing

    def other(self: Case, statement: bytes, *, expected_size: int) -> tuple[CustodyEvent, bytes]:
        return rehearse(self, statement, expected_size=expected_size)[0], self.checkpoint_bytes()

    monkeypatch.setattr(Case, "rehearse_sealing", other)
    with pytest.raises(PackageError) as caught:
        seal_folder(case, tmp_path / "package")
    assert caught.value.message_id == "package.log_moved" and case.events()[-1].type == "reported"
    assert not [path.name for path in tmp_path.iterdir() if "package" in path.name]


@pytest.mark.parametrize(
    ("module", "message_id"), [(redact, "package.copy_not_verified"), (supplement, "package.supplement_not_verified")]
)
def test_what_does_not_verify_does_not_get_its_name(
    tmp_path: Path, module: ModuleType, message_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that gives back other bytes than were written: the result is read again before it is published."""
    place = Place(tmp_path)
    package = seal_folder(full_case(place), tmp_path / "package").path
    verify = module.verify_package

    def spoilt(path: Path, **options: Any) -> VerificationReport:
        if Path(path) != package:
            (Path(path) / "bagit.txt").write_bytes(b"other")
        return verify(path, **options)

    monkeypatch.setattr(module, "verify_package", spoilt)
    with pytest.raises(PackageError) as caught:
        if module is redact:
            redact_package(package, tmp_path / "made", RedactionRequest(fields=("actor.id",), reason="x"), session=place.session)
        else:
            supplement_package(package, tmp_path / "made", session=place.session, kind="note", text="x", author="y")
    assert caught.value.message_id == message_id and "bagit.txt" in str(caught.value.values["check"])
    assert not [path.name for path in tmp_path.iterdir() if "made" in path.name]


def test_a_bag_is_finished_where_the_system_has_no_call_for_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sync", raising=False)
    with new_bag(tmp_path / "bag", archive=False) as made:
        made.add({"a": ShortDocument(b"abc")})
        assert made.finish() is None and made.size == 3
        made.publish()
    assert (tmp_path / "bag" / "a").read_bytes() == b"abc"


def test_a_file_that_two_patterns_name_is_withheld_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    case = full_case(place)
    package = seal_folder(case, tmp_path / "package").path
    photo = next(item for item in case.items() if item.path.endswith("DJI_0001.JPG"))
    request = RedactionRequest(withhold=("*DJI_0001.JPG", photo.id), withhold_mentions=True, reason="x")
    made = redact_package(package, tmp_path / "copy", request, session=place.session)
    assert not list(made.path.rglob("DJI_0001.JPG")) and not verify_package(made.path).failures
