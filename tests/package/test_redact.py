"""Redacted copies: what is here is proved, what is gone leaves no trace, and what still speaks of it is found."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from geoevidence.custody import Case, Session
from geoevidence.errors import PackageError
from geoevidence.package import (
    RedactedCopy,
    RedactionRequest,
    compare_packages,
    redact_package,
    seal_folder,
    seal_zip,
    supplement_package,
)
from geoevidence.package.instructions import commands_by_hand
from geoevidence.package.mentions import Needles
from geoevidence.trust import VerificationReport, loads_canonical, parse_envelope, verify_package
from geoevidence.trust.manifest import parse_redaction
from geoevidence.types import EvidenceItem, Finding, Message, ProcessResult, Product
from tests.custody.test_log import check_log
from tests.custody.workspaces import Clock, Place, full_case, session
from tests.package.test_seal import _record, status, tree
from tests.trust.builder import package_files, sample_log, write_folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    return full_case(place)


@pytest.fixture
def redactor(tmp_path: Path) -> Session:
    """Somebody else, with a key of their own and no workspace."""
    return session(tmp_path / "other keys", seed=9, name="李四", clock=Clock())


def photo(case: Case) -> EvidenceItem:
    return next(item for item in case.items() if item.path.endswith("DJI_0001.JPG"))


def redact(
    package: Path, out: Path, by: Session, *, case: Case | None = None, archive: bool = False, **more: object
) -> RedactedCopy:
    request = RedactionRequest(**{"reason": "保护个人信息", **more})  # type: ignore[arg-type]
    return redact_package(package, out, request, session=by, case=case, archive=archive)


def everything_in(folder: Path) -> dict[str, bytes]:
    """Every byte of a copy, and what its base64 hides."""
    found = tree(folder)
    for path, data in list(found.items()):
        hidden = [base64.b64decode(each) for each in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", data) if len(each) % 4 == 0]
        found[f"{path} (base64)"] = b"\n".join(hidden)
    return found


def assert_gone(folder: Path, *needles: str) -> None:
    for path, data in everything_in(folder).items():
        for needle in needles:
            for spelling in (needle, json.dumps(needle)[1:-1]):
                assert spelling.encode() not in data, (path, needle)


def verdicts(report: VerificationReport) -> tuple[str, str]:
    return report.verdicts["intact"], report.verdicts["continuous"]


@pytest.mark.parametrize("archive", [False, True])
def test_what_is_withheld_leaves_no_trace(place: Place, case: Case, redactor: Session, archive: bool) -> None:
    item = photo(case)
    sealed = seal_zip(case, place.root / "package.zip") if archive else seal_folder(case, place.root / "package")
    made = redact(sealed.path, place.root / "copy", redactor, withhold=(item.id,), withhold_mentions=True)
    report = verify_package(made.path)
    assert report.failures == () and verdicts(report) == ("passed", "not_checked")
    assert made.package_root == sealed.package_root
    # the photo, the report that lists it, and the attestation of the derivation that read it
    report_item = next(each for each in case.items() if each.path.startswith("report/"))
    assert set(made.withheld) == {item.id, report_item.id} and made.files_withheld == 3
    # copied, derived and reported name one or the other
    assert made.leaves_withheld == 3 and made.disclosures_withheld == 6
    assert_gone(made.path, "DJI_0001.JPG", item.id, item.sha256, item.sm3, report_item.sha256, report_item.sm3)
    files = tree(made.path)
    assert f"data/{item.path}" not in files and "data/log/leaves.jsonl" in files
    others = [each for each in case.items() if each.id not in made.withheld and not each.path.startswith("seal/")]
    assert all(files[f"data/{each.path}"] == case.path_of(each).read_bytes() for each in others)
    signed = parse_redaction(parse_envelope(files["seal/redaction.dsse"]).payload)
    assert (signed.files_withheld, signed.leaves_withheld, signed.reason) == (3, 3, "保护个人信息")
    assert files["seal/statement.dsse"] == case.read_object(sealed.statement_sha256)
    # 4.15 says how much is missing
    withheld = next(check for check in report.checks if check.name == "withheld")
    assert withheld.status == "not_checked" and {3} <= {value for value in withheld.values.values() if isinstance(value, int)}


def test_the_crate_describes_what_is_there(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, withhold=(photo(case).id,), withhold_mentions=True)
    from urllib.parse import unquote

    graph = json.loads((made.path / "data/ro-crate-metadata.json").read_bytes())["@graph"]
    files = {unquote(each["@id"]): int(each["contentSize"]) for each in graph if each["@type"] == "File"}
    present = {path.removeprefix("data/"): len(data) for path, data in tree(made.path).items() if path.startswith("data/")}
    del present["ro-crate-metadata.json"]
    assert files == present
    known = {each["@id"] for each in graph}
    root = next(each for each in graph if each["@id"] == "./")
    assert {each["@id"] for each in (*root["hasPart"], *root["mentions"])} <= known


def test_the_copy_is_checked_by_hand_too(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, withhold=(photo(case).id,), withhold_mentions=True)
    assert "删减副本" in (made.path / "VERIFY.txt").read_text(encoding="utf-8")
    if shutil.which("bash") and shutil.which("openssl"):
        done = subprocess.run(["bash"], input=commands_by_hand().encode(), cwd=made.path, capture_output=True, timeout=60)
        lines = [f"{name} Signature Verified Successfully" for name in ("statement", "closing", "redaction")]
        assert (done.stdout.decode().splitlines(), done.stderr) == (lines, b"")


def test_a_kept_log_still_names_what_is_gone(place: Place, case: Case, redactor: Session) -> None:
    item = photo(case)
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, withhold=(item.id,), keep_log=True, withhold_mentions=True)
    report = verify_package(made.path)
    assert report.failures == () and verdicts(report) == ("passed", "not_checked")
    assert made.leaves_withheld == 0 and made.disclosures_withheld == 0 and made.files_withheld == 2
    assert (made.path / "data/log/leaves.jsonl").read_bytes() == (package / "data/log/leaves.jsonl").read_bytes()
    assert not (made.path / f"data/{item.path}").exists()


def test_mentions_stop_the_redaction_and_are_named(place: Place, case: Case, redactor: Session) -> None:
    item = photo(case)
    package = seal_folder(case, place.root / "package").path
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "copy", redactor, withhold=(item.id,))
    assert raised.value.message_id == "package.redact_mentions" and "report-zh.pdf" in str(raised.value)
    assert not (place.root / "copy").exists()
    made = redact(package, place.root / "copy", redactor, withhold=(item.id,), allow_mentions=True)
    assert [each.path.rpartition("/")[2] for each in made.mentions] == ["report-zh.pdf"]
    assert verify_package(made.path).failures == ()


def test_a_result_that_states_the_digest_of_its_source_is_found(place: Place, redactor: Session) -> None:
    case = place.workspace.new_case("1", demonstration=True)
    case.ingest(place.card({"secret.JPG": b"\xff\xd8\xff\xe0s", "open.JPG": b"\xff\xd8\xff\xe0o"}))
    secret = next(item for item in case.items(role="original") if item.path.endswith("secret.JPG"))
    for source in (secret, case.items(role="original")[0]):
        with case.derivation(process="drone.survey", inputs=[source], parameters={}) as derivation:
            (derivation.out / "list.csv").write_text(f"file\n{source.path.rpartition('/')[2]}\n")
            finding = Finding(
                id="S-001", message=Message(id="x"), method=Message(id="x"), limitations=(Message(id="x"),),
                sources=(f"sha256:{source.sha256}",),
            )  # fmt: skip
            product = Product(path="list.csv", kind="scenes", media_type="text/csv", title=Message(id="x"))
            derivation.commit(
                ProcessResult(process="drone.survey", parameters={}, seed=None, products=(product,), findings=(finding,))
            )
    package = seal_folder(case, place.root / "package").path
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "copy", redactor, withhold=("*/secret.JPG",))
    assert raised.value.values["count"] == 4  # list.csv, result.json, findings.json, and the package's findings
    made = redact(package, place.root / "copy", redactor, withhold=("*/secret.JPG",), withhold_mentions=True)
    assert_gone(made.path, "secret.JPG", secret.sha256, secret.id)
    report = verify_package(made.path)
    assert report.failures == () and verdicts(report) == ("passed", "not_checked")
    # the findings of the other source are still there
    (kept,) = loads_canonical((made.path / "data/findings.json").read_bytes())["results"]
    assert kept["findings"][0]["sources"] == [f"sha256:{case.items(role='original')[0].sha256}"]
    (attested,) = (made.path / "data/attestations").iterdir()
    assert attested.name == f"{case.results()[1].event.event_id}.dsse"


def test_a_result_lists_the_products_that_are_withheld(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "copy", redactor, withhold=("derived/*/dsm.tif", "report/*"))
    assert raised.value.values["count"] == 3 and "result.json" in str(raised.value)
    made = redact(package, place.root / "copy", redactor, withhold=("derived/*/dsm.tif", "report/*"), withhold_mentions=True)
    assert verify_package(made.path).failures == ()
    assert_gone(made.path, "dsm.tif")


def test_names_of_people_are_withheld(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    assert any("张三".encode() in data for data in tree(package).values())
    made = redact(package, place.root / "copy", redactor, fields=("actor.id", "device.serial"))
    events = len(case.events()) - 1
    assert (made.files_withheld, made.leaves_withheld, made.disclosures_withheld) == (0, 0, 2 * events)
    assert_gone(made.path, "张三", "SN-0001")
    report = verify_package(made.path)
    assert report.failures == () and report.verdicts["intact"] == "passed"
    # the name stands in the case sheet as well: that is a mention
    case.set_sheet({**case.sheet, "investigators": "张三、王五"})
    package = seal_folder(case, place.root / "second").path
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "other", redactor, fields=("actor.id",))
    assert raised.value.message_id == "package.redact_mentions" and "case.json" in str(raised.value)


def test_the_export_stands_in_the_log_of_the_case(place: Place, case: Case) -> None:
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", case.session, fields=("actor.id",), case=case)
    assert made.event is not None and made.event == case.events()[-1] and made.event.type == "exported"
    (output,) = made.event.outputs
    assert output.path == f"seal/{made.event.event_id}/redaction.dsse"
    assert case.read_object(output.sha256) == (made.path / "seal/redaction.dsse").read_bytes()
    check_log(case)
    # such an item is no file of a later package
    later = seal_folder(case, place.root / "later")
    assert verify_package(later.path).exit_code == 0
    other = place.workspace.new_case("2")
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "again", case.session, fields=("actor.id",), case=other)
    assert raised.value.message_id == "package.redact_other_case" and len(other.events()) == 1


def test_a_copy_made_by_the_sealer_adds_no_key_and_one_by_another_does(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    own = redact(package, place.root / "own", case.session, fields=("note", "actor.id"))
    assert tree(own.path)["data/log/keys.json"] == tree(package)["data/log/keys.json"]
    other = redact(package, place.root / "other", redactor, fields=("actor.id",))
    assert redactor.signer.public_key.key_id.encode() in tree(other.path)["data/log/keys.json"]


def test_a_record_of_recomputation_that_names_what_is_withheld_is_said(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package", recompute=lambda of, root: _record(case, root, "13.5", "identical")).path
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "copy", redactor, withhold=("derived/*/result.json",), withhold_mentions=True)
    assert "seal/recompute.dsse" in str(raised.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"withhold": ("E-00000000-1-1",)}, "package.redact_no_match"),
        ({"withhold": ("*.JPG", "*.exe")}, "package.redact_no_match"),
        ({"withhold": ("data/findings.json",)}, "package.redact_no_match"),
        ({"fields": ("actor.name",)}, "package.redact_unknown_field"),
        ({"withhold": ("*",), "reason": " "}, "package.redact_no_reason"),
        ({}, "package.redact_nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(place: Place, case: Case, more: dict[str, object], message: str) -> None:
    package = seal_folder(case, place.root / "package").path
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "copy", case.session, **more)
    assert raised.value.message_id == message and not (place.root / "copy").exists()


def test_only_whole_sealed_packages_are_redacted(place: Place, case: Case) -> None:
    package = seal_folder(case, place.root / "package").path
    copy = redact(package, place.root / "copy", case.session, fields=("actor.id",)).path
    note = supplement_package(package, place.root / "note", session=case.session, kind="note", text="x", author="y").path
    for path in (copy, note):
        with pytest.raises(PackageError) as raised:
            redact(path, place.root / "bad", case.session, fields=("device.serial",))
        assert raised.value.message_id == "package.redact_not_sealed"
    next((package / "data/originals").rglob("*.MRK")).write_bytes(b"?")
    with pytest.raises(PackageError) as raised:
        redact(package, place.root / "bad", case.session, fields=("device.serial",))
    assert raised.value.message_id == "package.redact_broken" and not (place.root / "bad").exists()


def test_everything_can_be_withheld(place: Place, case: Case, redactor: Session) -> None:
    sealed = seal_folder(case, place.root / "package")
    made = redact(sealed.path, place.root / "copy.zip", redactor, withhold=("*",), archive=True)
    report = verify_package(made.path)
    assert report.failures == () and verdicts(report) == ("passed", "not_checked")
    with zipfile.ZipFile(made.path) as archive:
        assert not [
            n for n in archive.namelist() if "/originals/" in n or "/derived/" in n or "/report/" in n or "/records/" in n
        ]
    assert made.leaves_withheld == len(case.events()) - 1


def test_a_changed_copy_fails(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, withhold=(photo(case).id,), withhold_mentions=True)
    for path in sorted(made.path.rglob("*")):
        if path.is_file():
            kept = path.read_bytes()
            path.write_bytes(kept[:-2] + bytes([kept[-2] ^ 1]) + kept[-1:] if len(kept) > 1 else b"?")
            assert verify_package(made.path).exit_code == 1, path
            path.write_bytes(kept)
    (made.path / "seal/redaction.dsse").unlink()
    assert verify_package(made.path).exit_code == 1


def test_the_checks_of_the_redaction_itself(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, fields=("actor.id",))
    report = verify_package(made.path)
    for name in ("manifests", "closing", "statement_signature", "tree", "disclosures", "log_root"):
        assert status(report, name) == "passed", name


def test_what_was_computed_from_withheld_files_is_listed(place: Place, case: Case, redactor: Session) -> None:
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, withhold=(photo(case).id,), withhold_mentions=True)
    derived = {f"data/{item.path}" for item in case.items(role="derived")}
    assert derived and set(made.made_from) == derived and all((made.path / path).exists() for path in derived)
    rest = redact(package, place.root / "rest", redactor, withhold=(photo(case).id, "derived/*"), withhold_mentions=True)
    assert rest.made_from == ()


def test_a_label_of_a_key_that_names_a_withheld_person_is_said(tmp_path: Path, place: Place, redactor: Session) -> None:
    label = place.session.signers[0].label
    place.workspace = place.reopened(as_session=session(place.root / "keys", name=label))
    sealed = seal_folder(full_case(place), place.root / "package")
    with pytest.raises(PackageError) as raised:
        redact(sealed.path, place.root / "copy", redactor, fields=("actor.id",))
    assert raised.value.message_id == "package.redact_mentions" and "data/log/keys.json" in str(raised.value)


def test_a_kept_log_that_says_a_withheld_word_in_a_path_is_said(place: Place, redactor: Session) -> None:
    case = place.workspace.new_case("1", demonstration=True)
    case.ingest(place.card({"张三/a.jpg": b"a"}))
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, fields=("actor.id",), keep_log=True, allow_mentions=True)
    said = {each.path for each in made.mentions}
    assert {"data/log/leaves.jsonl", "data/ro-crate-metadata.json"} <= said and made.leaves_withheld == 0
    # without it the entry goes
    made = redact(package, place.root / "other", redactor, fields=("actor.id",), allow_mentions=True)
    assert "data/log/leaves.jsonl" not in {each.path for each in made.mentions} and made.leaves_withheld == 1


def test_an_archive_under_another_name_is_not_called_searched(place: Place, redactor: Session) -> None:
    case = place.workspace.new_case("1", demonstration=True)
    case.ingest(place.card({"secret.jpg": b"secret", "office.bin": b"PK\x03\x04....", "plain.bin": b"plain"}))
    package = seal_folder(case, place.root / "package").path
    made = redact(package, place.root / "copy", redactor, withhold=("originals/*/secret.jpg",))
    assert [path.rpartition("/")[2] for path in made.not_searched] == ["office.bin"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "gb18030"])
def test_needles_are_found_in_the_encodings_of_files(encoding: str) -> None:
    needles = Needles((), ("河道照片.jpg",))
    assert needles.found_in(b"\xff\xd8 " + "河道照片.jpg".encode(encoding) + b"\0\0") == "河道照片.jpg"
    assert needles.found_in("河道照片.png".encode(encoding)) is None
    certificate = base64.b64encode(bytes(40) + "河道照片.jpg".encode(encoding) + bytes(40))
    assert needles.found_in(b'{"certificates":["' + certificate + b'"]}') == "河道照片.jpg"


def test_needles_are_whole_words_in_any_spelling() -> None:
    needles = Needles(["E-1f3a9c02-2-1", "ab" * 32], ["照片 1.JPG"], ["root", "李四", "x"])
    assert needles.too_short == ["x"]
    for text in (
        "E-1f3a9c02-2-1",
        f'"{"AB" * 32}"',
        "照片 1.JPG",
        "\\u7167\\u7247 1.JPG",
        "%E7%85%A7%E7%89%87%201.JPG",
        "by root.",
        "王李四",
    ):
        assert needles.found_in(text.encode()) is not None, text
    for text in ("E-1f3a9c02-2-12", "E-1f3a9c02-2-2", "cd" * 32, "ab" * 33, "照片 1.JPEG", "package_root", "rooted"):
        assert needles.found_in(text.encode()) is None, text
    envelope = b'{"payload":"' + base64.b64encode(b'{"path":"x/E-1f3a9c02-2-1"}') + b'"}'
    assert needles.found_in(envelope) == "E-1f3a9c02-2-1"
    assert needles.found_in(b"extra " + base64.b64encode(b'signed by "root" here') + b"\n") == "root"
    assert not Needles((), ()) and Needles((), ()).found_in(b"anything") is None


# ---------------------------------------------------------------- packages of version 1


@pytest.fixture
def first_version(tmp_path: Path) -> Path:
    """A package as version 1 was written, made by the kernel's tests from the format alone."""
    package = write_folder(package_files(sample_log(), version=1), tmp_path / "v1")
    assert verify_package(package).exit_code == 0 and not (package / "seal/closing.dsse").exists()
    return package


def test_packages_of_version_1_are_redacted(first_version: Path, tmp_path: Path, redactor: Session) -> None:
    originals = sorted((first_version / "data/originals").rglob("*"))
    victim = next(path for path in originals if path.is_file())
    pattern = f"*/{victim.name}"
    made = redact(first_version, tmp_path / "copy", redactor, withhold=(pattern,), allow_mentions=True)
    report = verify_package(made.path)
    assert report.failures == () and verdicts(report) == ("passed", "not_checked")
    files = tree(made.path)
    assert "verify.html" not in files and "verify.pyz" in files
    assert made.files_withheld >= 1 and files["seal/statement.dsse"] == (first_version / "seal/statement.dsse").read_bytes()


def test_packages_of_version_1_are_added_to_and_compared(first_version: Path, tmp_path: Path, redactor: Session) -> None:
    note = supplement_package(first_version, tmp_path / "note", session=redactor, kind="note", text="x", author="y")
    assert verify_package(note.path, package=first_version).failures == ()
    assert compare_packages(first_version, first_version).same
