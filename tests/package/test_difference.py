"""Two packages compared: what is the same is the same in any form, and each kind of difference is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from geoevidence.custody import Case
from geoevidence.errors import InputError, PackageError
from geoevidence.package import (
    PackageDifference,
    RedactionRequest,
    compare_packages,
    redact_package,
    seal_folder,
    seal_zip,
    supplement_package,
)
from geoevidence.package.difference import _finding_changes
from geoevidence.trust import loads
from geoevidence.trust.container import open_container
from tests.custody.workspaces import CARD, Place, derive, full_case


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    return full_case(place)


def test_a_folder_and_its_archive_are_the_same(place: Place, case: Case) -> None:
    from geoevidence.trust.archive import archive_bytes

    folder = seal_folder(case, place.root / "package").path
    files = [(f"renamed/{p.relative_to(folder).as_posix()}", p.read_bytes()) for p in folder.rglob("*") if p.is_file()]
    (place.root / "other.zip").write_bytes(archive_bytes(files))
    found = compare_packages(folder, place.root / "other.zip")
    assert found.same and found.log.relation == "same" and found.statement == {} and found.items == found.documents == ()
    assert found.a.verdicts == found.b.verdicts and found.a.exit_code == found.b.exit_code == 0
    assert json.loads(json.dumps(found.to_dict()))["same"] is True


def test_a_later_package_goes_on_where_the_earlier_ends(place: Place, case: Case) -> None:
    first = seal_folder(case, place.root / "first").path
    derive(case)
    second = seal_zip(case, place.root / "second.zip").path
    found = compare_packages(first, second)
    size = len(case.events()) - 4
    assert not found.same
    # derived, found and packaged came after the first sealing
    assert (found.log.relation, found.log.common, found.log.a_size, found.log.b_size) == (
        "a_is_prefix",
        size + 1,
        size + 1,
        size + 4,
    )
    assert {"package_root", "checkpoint_before", "time_claimed", "items"} <= set(found.statement)
    assert {change.change for change in found.items} == {"added"} and len(found.items) == 3
    assert all(change.item is not None and change.a is None for change in found.items)
    assert {change.path for change in found.documents if change.change == "changed"} >= {
        "data/findings.json",
        "data/log/leaves.jsonl",
    }
    assert [(change.finding, change.change) for change in found.findings] == [("S-001", "added")]
    assert compare_packages(second, first).log.relation == "b_is_prefix"


def test_two_histories_of_one_log_are_a_fork(place: Place, case: Case) -> None:
    shutil.copytree(place.workspace.path, place.root / "copy")
    first = seal_folder(case, place.root / "first").path
    shutil.rmtree(place.workspace.path)
    (place.root / "copy").rename(place.workspace.path)
    for note in (place.root / "keys" / "checkpoints").iterdir():
        note.unlink()
    twin = place.reopened().case(case.id)
    before = len(twin.events())
    twin.set_sheet({**twin.sheet, "witness": "王五"})
    second = seal_folder(twin, place.root / "second").path
    found = compare_packages(first, second)
    assert (found.log.relation, found.log.common) == ("fork", before)


def test_another_case_is_unrelated(place: Place, case: Case) -> None:
    first = seal_folder(case, place.root / "first").path
    other = place.workspace.new_case("2")
    other.ingest(place.card(CARD, name="again"))
    found = compare_packages(first, seal_folder(other, place.root / "second").path)
    assert found.log.relation == "unrelated" and "case" in found.statement and not found.same


def test_a_redacted_copy_differs_from_the_package_and_from_another_copy(place: Place, case: Case) -> None:
    package = seal_folder(case, place.root / "package").path
    copies = []
    for field in ("actor.id", "device.serial"):
        request = RedactionRequest(fields=(field,), reason=field)
        copies.append(redact_package(package, place.root / field, request, session=case.session).path)
    found = compare_packages(package, copies[0])
    assert not found.same and found.b.kind == "redacted" and found.b.reason == "actor.id" and found.log.relation == "same"
    assert found.items == () and {change.change for change in found.documents} == {"changed"}
    assert not compare_packages(*copies).same and compare_packages(copies[0], copies[0]).same


def test_a_broken_package_is_compared_and_its_verdict_says_so(place: Place, case: Case) -> None:
    first = seal_folder(case, place.root / "first").path
    second = Path(shutil.copytree(first, place.root / "second"))
    victim = next((second / "data/originals").rglob("*.JPG"))
    victim.write_bytes(b"?")
    found = compare_packages(first, second)
    assert found.a.exit_code == 0 and found.b.exit_code == 1 and found.b.verdicts["intact"] == "failed"
    # what was sealed is the same; the change is outside of what both state
    assert found.items == () and not found.same


def _finding(name: str, value: str, word: str = "x") -> dict[str, object]:
    quantity = {"value": value, "unit": "m2", "standard_uncertainty": "0.25", "coverage_factor": "2.0", "propagation": ""}
    return {"id": name, "quantity": quantity, "message": {"id": word}}


def test_another_coverage_factor_is_another_number() -> None:
    one = {"id": "S-001", "quantity": {"value": "7", "unit": "m2", "standard_uncertainty": "0.25", "coverage_factor": "2.0"}}
    other = {**one, "quantity": {**one["quantity"], "coverage_factor": "1.0"}}  # type: ignore[dict-item]
    (change,) = _finding_changes([("E-1-1", one)], [("E-1-1", other)])
    assert change.change == "number"


def test_numbers_that_changed_are_told_with_both_values() -> None:
    a = [("E-1-1", _finding("S-001", "12.5")), ("E-1-1", _finding("S-002", "7")), ("E-2-1", _finding("S-001", "3"))]
    # the same result unchanged; another run of the second, with other numbers
    b = [("E-1-1", _finding("S-001", "12.5")), ("E-1-1", _finding("S-002", "7", "y")), ("E-9-1", _finding("S-001", "4"))]
    found = [(each.finding, each.change, each.a, each.b) for each in _finding_changes(a, b)]
    seven = {"value": "7", "unit": "m2", "standard_uncertainty": "0.25", "coverage_factor": "2.0"}
    assert found == [
        ("S-002", "words", seven, seven),
        ("S-001", "number", {**seven, "value": "3"}, {**seven, "value": "4"}),
    ]
    assert [(each.change, each.result_b) for each in _finding_changes(a, a[:2])] == [("removed", None)]


def test_supplements_and_nothing_are_refused(place: Place, case: Case) -> None:
    package = seal_folder(case, place.root / "package").path
    note = supplement_package(package, place.root / "note", session=case.session, kind="note", text="x", author="y").path
    with pytest.raises(PackageError) as raised:
        compare_packages(package, note)
    assert raised.value.message_id == "package.is_supplement"
    with pytest.raises(InputError):
        compare_packages(package, place.root / "absent")


def test_the_comparison_reads_what_the_container_gives(place: Place, case: Case) -> None:
    """The record for machines holds digests as they stand in items.json."""
    first = seal_folder(case, place.root / "first").path
    derive(case)
    found: PackageDifference = compare_packages(first, seal_folder(case, place.root / "second").path)
    with open_container(place.root / "second") as container, container.open("items.json") as stream:
        lines = {line["path"]: line for line in loads(stream.read())}
    for change in found.items:
        assert change.b == {name: lines[change.path][name] for name in ("sha256", "sm3", "size")}
        assert change.item == lines[change.path]["item"]


def test_documents_that_a_copy_holds_in_another_form_differ(place: Place, case: Case) -> None:
    sealed = seal_folder(case, place.root / "package").path
    request = RedactionRequest(fields=("actor.id",), reason="保护个人信息")
    copy = redact_package(sealed, place.root / "copy", request, session=place.session).path
    found = {each.path: (each.change, each.a, each.b) for each in compare_packages(sealed, copy).documents}
    change, one, other = found["data/log/disclosures.jsonl"]
    assert change == "changed" and one and other and one["size"] > other["size"]
    assert {change for change, _, _ in found.values()} == {"changed"}
