"""Sealing: what comes out verifies, what is changed does not, and what fails leaves nothing."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import bagit
import pytest

from geoevidence.catalogue import open_log_store
from geoevidence.custody import Case, EvidenceSources, KeyFolder, Workspace, inspect_path
from geoevidence.errors import CustodyError, DigestMismatchError, LogInconsistentError, PackageError
from geoevidence.package import PackageDraft, SealedPackage, bag, draft, seal_folder, seal_zip
from geoevidence.package.instructions import commands_by_hand
from geoevidence.trust import VerificationReport, parse_envelope, parse_time_stamp, verify_package
from geoevidence.trust.canonical import loads, loads_canonical
from geoevidence.trust.digests import digest_bytes
from geoevidence.trust.manifest import RecomputedQuantity, RecomputedResult, RecomputeRecord, parse_recompute
from geoevidence.trust.notes import parse_checkpoint
from geoevidence.types import ProcessResult
from tests.custody.authorities import client, log_key, stamper, unreachable, witness
from tests.custody.sm2 import Sm2Holder
from tests.custody.test_log import check_log
from tests.custody.workspaces import CARD, Place, derive, full_case, session

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
    checked = verify_package(sealed.path, known_checkpoints=[known])
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
    by_hand = by_hand[: by_hand.index("# time stamps, if")].rstrip("\n") + "\n"
    assert by_hand == commands_by_hand()
    assert "openssl ts -verify -data seal/proof.tlog -in seal/time-1.tsr" in text and "verify.html" in text

    def run() -> str:
        done = subprocess.run(["bash"], input=by_hand.encode(), cwd=sealed.path, capture_output=True, timeout=60)
        return done.stdout.decode() + done.stderr.decode()

    good = "statement Signature Verified Successfully\nclosing Signature Verified Successfully\n"
    assert run() == good
    sm3 = sealed.path / "manifest-sm3.txt"
    kept = sm3.read_bytes()
    sm3.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    assert "SM3: " in run() and "statement: manifest-sm3.txt" in run() and "tagmanifest" not in run().split("SM3")[0]
    sm3.write_bytes(kept)
    statement = sealed.path / "seal" / "statement.dsse"
    envelope = statement.read_bytes()
    statement.write_bytes(envelope.replace(b'"payload":"eyJ', b'"payload":"eyK'))
    assert "statement Signature Verification Failure" in run() and "closing: seal/statement.dsse" in run()
    statement.write_bytes(envelope)
    assert run() == good
    proof = sealed.path / "seal" / "proof.tlog"
    proof.write_bytes(proof.read_bytes() + b"\n")
    assert "closing: seal/proof.tlog" in run()


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
    assert verify_package(first.path, known_checkpoints=[case.checkpoint_bytes()]).exit_code == 3
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
    # what is not whole is not recorded either
    assert nothing_left(place) and case.events()[-1].type == "reported"
    check_log(case)
    assert seal_folder(case, place.root / "package").event.index == len(case.events()) - 1


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
        said = b"statement Signature Verified Successfully\nclosing Signature Verified Successfully\n"
        assert (done.stdout, done.stderr) == (said, b"")
    assert [found.reason.id for found in inspect_path(sealed.path)] == ["custody.inspect.package_whole"]
    (sealed.path / "bagit.txt").write_bytes(b"")
    assert [(found.verdict, found.reason.id) for found in inspect_path(sealed.path)] == [
        ("reject", "custody.inspect.package_broken")
    ]
    archive = seal_zip(case, place.root / "package.zip")
    assert [(found.verdict, found.reason.id) for found in inspect_path(archive.path)] == [
        ("accept", "custody.inspect.package_whole")
    ]


# ---------------------------------------------------------------- version 2


def status(report: VerificationReport, name: str) -> str:
    """passed, failed or not_checked: the worst of the checks of that name."""
    found = {check.status for check in report.checks if check.name == name}
    assert found, name
    return next(each for each in ("failed", "not_checked", "passed") if each in found)


def test_the_time_before_recording_is_in_the_package(place: Place) -> None:
    case = full_case(place)
    case.set_sheet({**case.sheet, "before_source": "李四拍摄", "before_witness": "王五在场"})
    sealed = seal_folder(case, place.root / "package")
    raw = loads_canonical((sealed.path / "data/before-recording.json").read_bytes())
    assert raw["schema"] == "geoevidence.before_recording.v1"
    assert raw["answers"] == {
        "source": "李四拍摄", "generation": None, "storage": None, "third_party_witness": "王五在场", "corroboration": None,
    }  # fmt: skip
    (recording,) = raw["recordings"]
    copied = next(event for event in case.events() if event.type == "copied")
    assert recording["event"] == copied.event_id and recording["source"] == "SD-1" and recording["files"] == len(CARD)
    assert recording["clock"] == {"source": "system", "offset_ms": None}
    assert (recording["acquired_first"], recording["acquired_last"], recording["acquired_from"]) == (None, None, [])


def test_each_derivation_has_an_attestation_that_other_software_reads(place: Place, case: Case) -> None:
    derive(case)
    sealed = seal_folder(case, place.root / "package")
    derived = [event for event in case.events() if event.type == "derived"]
    folder = sealed.path / "data/attestations"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{event.event_id}.dsse" for event in derived)
    for event in derived:
        statement = json.loads(base64.b64decode(json.loads((folder / f"{event.event_id}.dsse").read_bytes())["payload"]))
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert [each["name"] for each in statement["subject"]] == [ref.path for ref in event.outputs]
        assert statement["predicate"]["leaf_hash"] == event.leaf_hash


def test_evidence_of_others_goes_into_the_seal(place: Place, case: Case) -> None:
    watcher = witness(place.root / "watcher")
    watcher.allow(f"geoevidence/{case.workspace_id}/*", log_key(case.session))
    absent = stamper(unreachable, url="https://other.example")
    asked = EvidenceSources(stamps=(stamper(), absent), witnesses=(client(watcher),))
    sealed = seal_zip(case, place.root / "package.zip", evidence=asked)
    assert (sealed.time_stamps, sealed.witnesses) == (1, 1)
    assert [name for name, _ in sealed.evidence_missing] == ["https://other.example"]
    report = verify_package(sealed.path)
    assert report.exit_code == 0 and report.failures == ()
    assert status(report, "time_stamps") == status(report, "cosignatures") == status(report, "closing") == "passed"
    with zipfile.ZipFile(sealed.path) as archive:
        names = [name for name in archive.namelist() if "/seal/" in name]
        assert names == [
            f"package/seal/{n}" for n in ("closing.dsse", "proof.tlog", "statement.dsse", "time-1.tsr", "witness-1.cosig")
        ]
        stamp = parse_time_stamp(archive.read("package/seal/time-1.tsr"))
        stamp.verify_signature(archive.read("package/seal/proof.tlog"))
        keys = archive.read("package/data/log/keys.json").decode()
        assert watcher.key.key.key_id in keys
    check_log(case)
    # the witness has signed this very head, and will sign no other of its size
    assert status(verify_package(seal_folder(case, place.root / "next", evidence=asked).path), "cosignatures") == "passed"


def test_nobody_answering_does_not_stop_the_sealing(place: Place, case: Case) -> None:
    asked = EvidenceSources(stamps=(stamper(unreachable),))
    sealed = seal_folder(case, place.root / "package", evidence=asked)
    assert sealed.time_stamps == 0 and [why.id for _, why in sealed.evidence_missing] == ["custody.no_answer"]
    assert verify_package(sealed.path).exit_code == 0


class Liar:
    """Answers with bytes that are a time stamp of something else."""

    name = "https://liar.example"

    def stamp(self, message: bytes) -> bytes:
        return stamper().stamp(b"something else")


@BOTH
def test_evidence_that_does_not_verify_stays_out_and_the_package_is_whole(
    place: Place, case: Case, seal: Seal, name: str
) -> None:
    sealed = seal(case, place.root / name, evidence=EvidenceSources(stamps=(Liar(),)))
    assert sealed.time_stamps == 0
    assert [(who, why.id) for who, why in sealed.evidence_missing] == [("https://liar.example", "package.evidence_refused")]
    report = verify_package(sealed.path)
    assert report.exit_code == 0 and report.failures == ()
    assert sealed.event == case.events()[-1]
    check_log(case)


class Interrupted:
    """Ctrl-C while an authority is waited for; or something takes the name meanwhile."""

    name = "https://slow.example"

    def __init__(self, does: Callable[[], None]) -> None:
        self.does = does

    def stamp(self, message: bytes) -> bytes:
        self.does()
        return stamper().stamp(message)


@BOTH
def test_what_is_recorded_is_not_lost_when_the_waiting_is_broken_off(place: Place, case: Case, seal: Seal, name: str) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(case, place.root / name, evidence=EvidenceSources(stamps=(Interrupted(stop),)))
    assert case.events()[-1].type == "packaged"
    assert verify_package(place.root / name).verified and (place.root / f"{name}.record.html").exists()
    check_log(case)


@BOTH
def test_what_is_recorded_is_not_lost_when_its_name_is_taken(place: Place, case: Case, seal: Seal, name: str) -> None:
    with pytest.raises(PackageError) as raised:
        seal(case, place.root / name, evidence=EvidenceSources(stamps=(Interrupted((place.root / name).mkdir),)))
    assert raised.value.message_id == "package.recorded_elsewhere" and case.events()[-1].type == "packaged"
    report = verify_package(Path(str(raised.value.values["part"])))
    assert report.verified and status(report, "time_stamps") == "passed"


@BOTH
def test_a_disk_that_is_full_when_evidence_comes_leaves_the_package_that_was_verified(
    place: Place, case: Case, seal: Seal, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "_ZipSink" if name.endswith(".zip") else "_FolderSink"
    add = getattr(bag, kind).add

    class Half:
        """Some of the bytes go to the disk, then it is full."""

        def __init__(self, data: bytes) -> None:
            self.digests = digest_bytes(data)

        def blocks(self) -> Iterator[bytes]:
            yield b"half"
            raise OSError(28, "No space left on device")

    def full(sink: bag.Sink, path: str, content: bag.Content) -> None:
        add(sink, path, Half(b"half a stamp") if path == "seal/time-1.tsr" else content)

    monkeypatch.setattr(getattr(bag, kind), "add", full)
    sealed = seal(case, place.root / name, evidence=EvidenceSources(stamps=(stamper(),)))
    assert sealed.time_stamps == 0 and [why.id for _, why in sealed.evidence_missing] == ["custody.disk_full"]
    assert verify_package(sealed.path).verified and sealed.event == case.events()[-1]


def _record(case: Case, root: str, found: str, status: str) -> RecomputeRecord:
    stored, finding = case.findings()[0]
    result = stored.files[ProcessResult.FILE]
    assert finding.quantity is not None
    row = RecomputedQuantity(finding.id, "m2", repr(finding.quantity.value), found, "0.01", status)
    return RecomputeRecord(
        subjects=((result.path, result.sha256, result.sm3),),
        results=(RecomputedResult(stored.event.event_id, "drone.survey", status, quantities=(row,)),),
        case=case.id, workspace=case.workspace_id, package_root=root, scope="headline", software="geoevidence 0.1.0",
        code_digest=None, environment_digest=None, machine="tests", time_claimed="2026-11-23T09:00:00Z",
    )  # fmt: skip


def test_a_record_of_recomputation_goes_into_the_seal(place: Place, case: Case) -> None:
    seen: list[PackageDraft] = []

    def recompute(of: PackageDraft, root: str) -> RecomputeRecord:
        seen.append(of)
        return _record(case, root, "13.5", "identical")

    sealed = seal_folder(case, place.root / "package", recompute=recompute)
    assert sealed.recomputed == "identical" and seen[0].case == case.id
    report = verify_package(sealed.path)
    assert report.failures == () and report.exit_code == 0 and status(report, "other_signatures") == "passed"
    envelope = parse_envelope((sealed.path / "seal/recompute.dsse").read_bytes())
    assert parse_recompute(envelope.payload).package_root == sealed.package_root


@BOTH
def test_a_number_that_comes_out_different_stops_the_sealing(place: Place, case: Case, seal: Seal, name: str) -> None:
    with pytest.raises(PackageError) as raised:
        seal(case, place.root / name, recompute=lambda of, root: _record(case, root, "14.5", "differs"))
    assert raised.value.message_id == "package.recompute_differs"
    assert {raised.value.values[each] for each in ("finding", "stated", "found", "unit")} == {"S-001", "13.5", "14.5", "m2"}
    assert nothing_left(place) and case.events()[-1].type == "reported"


def test_an_sm2_certificate_and_a_second_key_sign_a_package(tmp_path: Path) -> None:
    """Statement, closing, events and attestations carry both signatures; checkpoints are signed with Ed25519."""
    keys = KeyFolder(tmp_path / "sm2 keys", random=random.Random(5).randbytes)
    keys.signer(passphrase="x")
    keys.import_sm2(*Sm2Holder().files(tmp_path / "from-ca"), key_passphrase="import", passphrase="x")
    base = session(tmp_path / "keys")
    both = replace(base, signer=keys.signer(passphrase="x"), cosigners=(base.signer,))
    store = open_log_store(tmp_path / "workspace")
    case = Workspace.create(tmp_path / "workspace", session=both, log_store=store).new_case("1", demonstration=True)
    (tmp_path / "card").mkdir()
    (tmp_path / "card/a.txt").write_bytes(b"a")
    case.ingest(tmp_path / "card")
    derive(case)
    sealed = seal_folder(case, tmp_path / "package")
    report = verify_package(sealed.path)
    assert report.exit_code == 0 and report.failures == ()
    rows = json.loads((sealed.path / "data/log/keys.json").read_bytes())
    assert sorted(row["algorithm"] for row in rows) == ["ed25519", "ed25519", "sm2-sm3"]
    assert [len(row["certificates"]) > 0 for row in rows if row["algorithm"] == "sm2-sm3"] == [True]
    for name in ("statement", "closing"):
        assert len(json.loads((sealed.path / f"seal/{name}.dsse").read_bytes())["signatures"]) == 2
    if shutil.which("bash") and shutil.which("openssl"):
        done = subprocess.run(["bash"], input=commands_by_hand().encode(), cwd=sealed.path, capture_output=True, timeout=60)
        said = [f"{name} Signature Verified Successfully" for name in ("statement", "statement", "closing", "closing")]
        assert (done.stdout.decode().splitlines(), done.stderr) == (said, b"")


CHANGES: list[tuple[str, str]] = [
    ("data/before-recording.json", "files"),
    ("data/attestations/", "files"),
    ("verify.html", "files"),
    ("seal/closing.dsse", "seal"),
    ("seal/time-1.tsr", "closing"),
    ("seal/witness-1.cosig", "closing"),
    ("seal/recompute.dsse", "closing"),
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with every optional file."""
    place = Place(tmp_path_factory.mktemp("everything"))
    case = full_case(place)
    watcher = witness(place.root / "watcher")
    watcher.allow(f"geoevidence/{case.workspace_id}/*", log_key(case.session))
    asked = EvidenceSources(stamps=(stamper(),), witnesses=(client(watcher),))
    sealed = seal_folder(
        case, place.root / "package", evidence=asked, recompute=lambda of, root: _record(case, root, "13.5", "identical")
    )
    assert verify_package(sealed.path).exit_code == 0
    return sealed.path


@pytest.mark.parametrize(("path", "check"), CHANGES)
def test_a_change_in_each_new_file_fails_the_right_check(everything: Path, tmp_path: Path, path: str, check: str) -> None:
    package = Path(shutil.copytree(everything, tmp_path / "package"))
    (victim,) = [each for each in package.rglob("*") if each.is_file() and each.relative_to(package).as_posix().startswith(path)]
    data = bytearray(victim.read_bytes())
    data[-2] ^= 1
    victim.write_bytes(data)
    report = verify_package(package)
    assert report.exit_code == 1
    subject = victim.relative_to(package).as_posix()
    assert check in {each.name for each in report.failures if subject in each.subject}
    victim.unlink()
    assert verify_package(package).exit_code == 1


def test_the_paper_record_lies_beside_the_package(place: Place, case: Case) -> None:
    sealed = seal_zip(case, place.root / "package.zip")
    assert sealed.record == place.root / "package.zip.record.html"
    page = sealed.record.read_text(encoding="utf-8")
    for text in (
        sealed.short_code,
        case.id,
        case.number,
        sealed.statement_sha256[:8],
        sealed.package_root[:8],
        "取证人一",
        "见证人",
    ):
        assert text in page
    with pytest.raises(PackageError) as raised:
        seal_folder(case, place.root / "package.zip")
    assert raised.value.message_id == "package.target_exists"
    sealed.path.unlink()
    # a signed record is not overwritten either
    with pytest.raises(PackageError):
        seal_zip(case, place.root / "package.zip")
    assert sealed.record.read_text(encoding="utf-8") == page and case.events()[-1] == sealed.event
