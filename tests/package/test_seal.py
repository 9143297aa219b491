"""Sealing: what comes out verifies, what is changed does not, and what fails leaves nothing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import bagit
import pytest

from geoevidence.custody import Case, inspect_path
from geoevidence.errors import CustodyError, DigestMismatchError, LogInconsistentError, PackageError
from geoevidence.package import SealedPackage, draft, seal_folder, seal_zip
from geoevidence.package.instructions import commands_by_hand
from geoevidence.trust import verify_package
from geoevidence.trust.canonical import loads, loads_canonical
from geoevidence.trust.digests import digest_bytes
from geoevidence.trust.notes import parse_checkpoint
from tests.custody.test_log import check_log
from tests.custody.workspaces import CARD, Place, derive, full_case

Seal = Callable[..., SealedPackage]
BOTH = pytest.mark.parametrize(("seal", "name"), [(seal_folder, "package"), (seal_zip, "package.zip")])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    return full_case(place)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_left(place: Place) -> bool:
    return not any(path.name.startswith((".", "package")) for path in place.root.iterdir())


@BOTH
def test_a_sealed_case_verifies(place: Place, case: Case, seal: Seal, name: str) -> None:
    stages: list[str] = []
    before = case.log_checkpoint()
    sealed = seal(case, place.root / name, progress=lambda stage, part: stages.append(stage))
    report = verify_package(sealed.path)
    assert report.exit_code == 0 and report.failures == ()
    assert report.verdicts == {
        "intact": "passed", "signed": "not_checked", "time": "not_checked", "continuous": "passed", "recomputes": "not_checked",
    }  # fmt: skip
    assert report.facts["short_code"] == sealed.short_code and report.facts["demonstration"] is True
    assert sealed.event == case.events()[-1] and sealed.event.type == "packaged"
    assert sealed.event.anchor == (before.tree_size, before.root.hex())
    statement = case.path_of(case.items()[-1]).read_bytes()
    assert digest_bytes(statement).sha256 == sealed.statement_sha256
    assert list(dict.fromkeys(stages)) == ["package.stage.prepare", "package.stage.copy", "package.stage.verify"]
    assert [path.name for path in place.root.iterdir() if path.name.startswith(".")] == []
    # a checkpoint known outside proves that this is the history
    known = parse_checkpoint(case.checkpoint_bytes())[1].to_bytes()
    checked = verify_package(sealed.path, known_checkpoint=known)
    assert [check.status for check in checked.checks if check.name == "rollback"] == ["passed"]
    check_log(case)


def test_folder_and_archive_hold_the_same_kinds_of_files(place: Place, case: Case) -> None:
    folder = tree(seal_folder(case, place.root / "package").path)
    items = {f"data/{item.path}" for item in case.items() if not item.path.startswith("seal/")}
    assert items < set(folder) and {path for path in folder if path.startswith("data/originals/")} < items
    for item in case.items():
        if not item.path.startswith("seal/"):
            assert folder[f"data/{item.path}"] == case.path_of(item).read_bytes()
    sealed = seal_zip(case, place.root / "package.zip")
    with zipfile.ZipFile(sealed.path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert set(names) == {f"package/{path}" for path in folder}
        assert all(info.compress_type == zipfile.ZIP_STORED and info.extra == b"" for info in archive.infolist())
        archive.extractall(place.root / "unpacked")
    assert verify_package(place.root / "unpacked" / "package").exit_code == 0
    assert sealed.size == sealed.path.stat().st_size


@BOTH
def test_the_same_case_at_the_same_time_gives_the_same_bytes(tmp_path: Path, seal: Seal, name: str) -> None:
    made = []
    for number in range(2):
        place = Place(tmp_path / str(number))
        sealed = seal(full_case(place), place.root / name)
        made.append(tree(sealed.path) if sealed.path.is_dir() else sealed.path.read_bytes())
    assert made[0] == made[1]
    other = Place(tmp_path / "other", seed=2)
    sealed = seal(full_case(other), other.root / name)
    assert (tree(sealed.path) if sealed.path.is_dir() else sealed.path.read_bytes()) != made[0]


def _flips(place: Place, case: Case, count: int) -> None:
    sealed = seal_zip(case, place.root / "package.zip")
    whole = sealed.path.read_bytes()
    rng = random.Random(11)
    # beside random places: the archive's own headers, where a careless verifier does not look
    places = {rng.randrange(len(whole)) for _ in range(count)} | {0, 10, 27, len(whole) - 1, len(whole) - 22, len(whole) - 10}
    for at in sorted(places):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(8)
        (place.root / "changed.zip").write_bytes(changed)
        assert verify_package(place.root / "changed.zip").exit_code == 1, at


def test_a_flipped_bit_anywhere_in_an_archive_is_noticed(place: Place, case: Case) -> None:
    _flips(place, case, 20)


@pytest.mark.slow
def test_many_more_flipped_bits(place: Place, case: Case) -> None:
    _flips(place, case, 300)


def test_a_change_in_any_file_of_a_folder_is_noticed_and_named(place: Place, case: Case) -> None:
    sealed = seal_folder(case, place.root / "package")
    rng = random.Random(12)
    for path in sorted(sealed.path.rglob("*")):
        if not path.is_file():
            continue
        kept, name = path.read_bytes(), path.relative_to(sealed.path).as_posix()
        changed = bytearray(kept) or bytearray(b"x")
        changed[rng.randrange(len(changed))] ^= 1
        path.write_bytes(changed)
        report = verify_package(sealed.path)
        assert report.exit_code == 1, name
        assert any(name in check.subject for check in report.failures), (name, report.failures)
        path.write_bytes(kept)
    for extra in ("data/originals/added.txt", "note.txt", "seal/extra.tsr"):
        (sealed.path / extra).write_bytes(b"added")
        assert verify_package(sealed.path).exit_code == 1
        (sealed.path / extra).unlink()
    missing = sealed.path / "data" / case.items(role="original")[0].path
    missing.unlink()
    assert verify_package(sealed.path).exit_code == 1


def test_the_program_in_the_package_runs_alone(place: Place, case: Case) -> None:
    sealed = seal_folder(case, place.root / "package")
    command = [sys.executable, "-I", "-S", "verify.pyz", "--lang", "zh"]
    done = subprocess.run(command, cwd=sealed.path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert sealed.short_code in done.stdout.decode()


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("openssl") is None, reason="bash or openssl absent")
def test_the_commands_by_hand_say_what_the_program_says(place: Place, case: Case) -> None:
    sealed = seal_folder(case, place.root / "package")
    text = (sealed.path / "VERIFY.txt").read_text(encoding="utf-8")
    assert "演示数据" in text and "python3 verify.pyz" in text and case.id in text
    start = text.index("    # 1. SHA-256")
    by_hand = "".join(line[4:] if line.startswith("    ") else line for line in text[start:].splitlines(keepends=True))
    by_hand = by_hand[: by_hand.index("3. What it does not")].rstrip("\n") + "\n"
    assert by_hand == commands_by_hand()

    def run() -> str:
        done = subprocess.run(["bash"], input=by_hand.encode(), cwd=sealed.path, capture_output=True, timeout=60)
        return done.stdout.decode() + done.stderr.decode()

    assert run() == "Signature Verified Successfully\n"
    sm3 = sealed.path / "manifest-sm3.txt"
    kept = sm3.read_bytes()
    sm3.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    assert "SM3: " in run() and "statement: manifest-sm3.txt" in run() and "tagmanifest" not in run().split("SM3")[0]
    sm3.write_bytes(kept)
    statement = sealed.path / "seal" / "statement.dsse"
    envelope = statement.read_bytes()
    statement.write_bytes(envelope.replace(b'"payload":"eyJ', b'"payload":"eyK'))
    assert "Signature Verification Failure" in run()


def test_other_programs_read_the_package(place: Place, case: Case) -> None:
    sealed = seal_folder(case, place.root / "package")
    assert bagit.Bag(str(sealed.path)).is_valid()
    crate = loads((sealed.path / "data" / "ro-crate-metadata.json").read_bytes())
    graph = {entity["@id"]: entity for entity in crate["@graph"]}
    # RO-Crate 1.1: the descriptor, the root, and everything that is referred to
    assert crate["@context"] == "https://w3id.org/ro/crate/1.1/context"
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"} and graph["./"]["@type"] == "Dataset"
    assert {"name", "description", "datePublished", "license"} <= set(graph["./"])
    assert len(graph) == len(crate["@graph"])

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            inner = [each for part in value.values() for each in references(part)]
            return inner + ([value["@id"]] if set(value) == {"@id"} else [])
        return [each for part in value for each in references(part)] if isinstance(value, list) else []

    assert {name for name in references(crate["@graph"]) if not name.startswith("https:")} <= set(graph)
    from urllib.parse import unquote

    files = {unquote(name) for name, entity in graph.items() if entity["@type"] == "File"}
    present = {path.removeprefix("data/") for path in tree(sealed.path) if path.startswith("data/")}
    assert files == present - {"ro-crate-metadata.json"}
    assert "张三" not in (sealed.path / "data" / "ro-crate-metadata.json").read_text(encoding="utf-8")


def test_the_findings_of_the_package_are_those_of_the_log(place: Place, case: Case) -> None:
    derive(case)
    sealed = seal_folder(case, place.root / "package")
    raw = loads_canonical((sealed.path / "data" / "findings.json").read_bytes())
    assert raw["schema"] == "geoevidence.package-findings.v1"
    found = [finding["id"] for result in raw["results"] for finding in result["findings"]]
    assert found == [finding.id for _, finding in case.findings()] == ["S-001", "S-002", "S-001"]
    assert [result["folder"] for result in raw["results"]] == [f"derived/{s.event.event_id}/" for s in case.results()]


def test_sealing_again_includes_the_history_of_the_first(place: Place, case: Case) -> None:
    first = seal_folder(case, place.root / "package-1")
    case.set_sheet({**case.sheet, "reviewer": "赵六"})
    second = seal_zip(case, place.root / "package-2.zip")
    assert second.event.index == first.event.index + 2
    assert verify_package(first.path).exit_code == verify_package(second.path).exit_code == 0
    assert verify_package(first.path, known_checkpoint=case.checkpoint_bytes()).exit_code == 3
    with zipfile.ZipFile(second.path) as archive:
        assert sum(name.endswith("statement.dsse") for name in archive.namelist()) == 1
    check_log(case)


@BOTH
def test_nothing_is_overwritten_and_nothing_empty_is_sealed(place: Place, case: Case, seal: Seal, name: str) -> None:
    (place.root / name).write_bytes(b"mine")
    with pytest.raises(PackageError) as raised:
        seal(case, place.root / name)
    assert raised.value.message_id == "package.target_exists" and (place.root / name).read_bytes() == b"mine"
    (place.root / name).unlink()
    if os.name != "nt":
        (place.root / name).symlink_to("nowhere")
        with pytest.raises(PackageError):
            seal(case, place.root / name)
        (place.root / name).unlink()
    empty = place.workspace.new_case("2")
    with pytest.raises(PackageError) as raised:
        seal(empty, place.root / name)
    assert raised.value.message_id == "package.no_items"
    assert nothing_left(place) and case.events()[-1].type == "reported"


@BOTH
def test_a_damaged_object_stops_the_sealing(place: Place, case: Case, seal: Seal, name: str) -> None:
    path = case.path_of(case.items(role="original")[1])
    kept = path.read_bytes()
    path.chmod(0o644)
    for damage in (kept[:-1] + b"?", kept + b"?", kept[:-1]):
        path.write_bytes(damage)
        with pytest.raises(DigestMismatchError):
            seal(case, place.root / name)
    path.unlink()
    with pytest.raises(DigestMismatchError):
        seal(case, place.root / name)
    assert nothing_left(place) and case.events()[-1].type == "reported"


@BOTH
def test_a_log_that_grows_meanwhile_stops_the_sealing(place: Place, case: Case, seal: Seal, name: str) -> None:
    twin = place.reopened().case(case.id)

    def meanwhile(stage: str, part: float) -> None:
        if stage == "package.stage.copy" and not twin.sheet.get("witness"):
            twin.set_sheet({**twin.sheet, "witness": "王五"})

    with pytest.raises(CustodyError) as raised:
        seal(case, place.root / name, progress=meanwhile)
    assert raised.value.message_id == "custody.log_moved" and nothing_left(place)
    assert seal(case, place.root / name).path.exists()


@BOTH
def test_a_disk_that_refuses_stops_the_sealing(place: Place, case: Case, seal: Seal, name: str) -> None:
    (place.root / "file").write_bytes(b"")
    with pytest.raises(CustodyError) as raised:
        seal(case, place.root / "file" / "below" / name)
    assert raised.value.message_id.startswith("custody.disk_")
    assert case.events()[-1].type == "reported"


def test_a_package_that_is_changed_before_it_is_verified_is_removed(place: Place, case: Case) -> None:
    def disturb(stage: str, part: float) -> None:
        if stage == "package.stage.verify" and part == 0.0:
            (hidden,) = [path for path in place.root.iterdir() if path.name.startswith(".package")]
            target = hidden / "bagit.txt"
            target.write_bytes(target.read_bytes() + b"x")

    with pytest.raises(PackageError) as raised:
        seal_folder(case, place.root / "package", progress=disturb)
    assert raised.value.message_id == "package.not_verified" and "bagit.txt" in str(raised.value)
    assert nothing_left(place)


def test_the_draft_is_one_view(place: Place, case: Case) -> None:
    made = draft(case)
    assert (made.case, made.number, made.workspace) == (case.id, "川检 2026-1", place.workspace.id)
    assert made.items == case.items() and made.events == case.events() and made.findings == case.findings()
    assert made.checkpoint == case.log_checkpoint() and made.checkpoint.tree_size == len(made.events)
    assert made.sheet == case.sheet and made.demonstration and len(made.keys) == 1
    seal_folder(case, place.root / "package")
    assert [item.path for item in draft(case).items] == [item.path for item in made.items]
    (place.workspace.path / "checkpoints" / f"{case.id}.note").write_bytes(b"garbage")
    with pytest.raises(LogInconsistentError):
        draft(case)


def test_names_that_need_care_travel_well(place: Place) -> None:
    case = place.workspace.new_case("1")
    case.ingest(place.card({"100%.txt": b"", "a b/照片 1.JPG": b"x", "%0A.txt": b"y", "#frag&'.txt": b"z", **CARD}))
    sealed = seal_folder(case, place.root / "package")
    # not asked of bagit: it does not decode the %25 of RFC 8493, section 2.1.3
    assert verify_package(sealed.path).exit_code == 0
    if shutil.which("bash") and shutil.which("openssl"):
        done = subprocess.run(["bash"], input=commands_by_hand().encode(), cwd=sealed.path, capture_output=True, timeout=60)
        assert (done.stdout, done.stderr) == (b"Signature Verified Successfully\n", b"")
    assert [found.reason.id for found in inspect_path(sealed.path)] == ["custody.inspect.package_whole"]
    (sealed.path / "bagit.txt").write_bytes(b"")
    assert [(found.verdict, found.reason.id) for found in inspect_path(sealed.path)] == [
        ("reject", "custody.inspect.package_broken")
    ]
    archive = seal_zip(case, place.root / "package.zip")
    assert [(found.verdict, found.reason.id) for found in inspect_path(archive.path)] == [
        ("accept", "custody.inspect.package_whole")
    ]
