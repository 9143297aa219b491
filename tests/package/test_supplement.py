"""Supplements: anybody may add, nobody may touch; what belongs together is checked, what is broken is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from geoevidence.custody import Case, EvidenceSources, Session
from geoevidence.errors import ConfigError, InputError, PackageError
from geoevidence.package import SealedSupplement, seal_folder, seal_zip, supplement_package
from geoevidence.trust import parse_envelope, parse_time_stamp, verify_package
from geoevidence.trust.manifest import parse_supplement
from tests.custody.authorities import stamper, unreachable
from tests.custody.workspaces import Clock, Place, full_case, session
from tests.package.test_seal import _record, tree


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    return full_case(place)


@pytest.fixture
def package(place: Place, case: Case) -> Path:
    return seal_folder(case, place.root / "package").path


@pytest.fixture
def appraiser(tmp_path: Path) -> Session:
    """Somebody else, with a key of their own and no workspace."""
    return session(tmp_path / "other keys", seed=9, name="某鉴定所", clock=Clock())


def add(package: Path, out: Path, by: Session, **more: object) -> SealedSupplement:
    values: dict[str, object] = {"kind": "disagreement", "text": "面积应按三月的边界计算。", "author": "某鉴定所 王五", **more}
    return supplement_package(package, out, session=by, **values)  # type: ignore[arg-type]


def status(path: Path, name: str, package: Path | None) -> set[str]:
    report = verify_package(path, package=package)
    return {check.status for check in report.checks if check.name == name}


@pytest.mark.parametrize("archive", [False, True])
def test_anybody_adds_and_the_package_stays(package: Path, tmp_path: Path, appraiser: Session, archive: bool) -> None:
    before = tree(package)
    (tmp_path / "照片 1.jpg").write_bytes(b"\xff\xd8\xff\xe0x")
    made = add(package, tmp_path / "note", appraiser, files=[tmp_path / "照片 1.jpg"], archive=archive)
    assert tree(package) == before and made.package.exit_code == 0 and made.files == 1
    report = verify_package(made.path, package=package)
    assert report.failures == () and report.verdicts["intact"] == "passed"
    assert status(made.path, "supplement_of", package) == {"passed"}
    # without the package nobody can say that they belong together
    assert status(made.path, "supplement_of", None) == {"not_checked"}
    assert made.document.text == "面积应按三月的边界计算。" and made.document.previous is None
    if not archive:
        names = set(tree(made.path))
        assert names >= {"data/supplement.json", "data/keys.json", "data/files/照片 1.jpg", "seal/closing.dsse"}
        assert "items.json" not in names
        assert parse_supplement((made.path / "data/supplement.json").read_bytes()) == made.document


def test_the_verifier_takes_package_and_supplements_together(package: Path, tmp_path: Path, appraiser: Session) -> None:
    made = add(package, tmp_path / "note", appraiser)
    report = verify_package(package, supplements=[made.path])
    assert report.exit_code == 0
    other = add(package, tmp_path / "second", appraiser, previous=made.path)
    assert other.document.previous == made.statement_sha256


def test_a_supplement_of_another_package_does_not_pass(place: Place, case: Case, package: Path, appraiser: Session) -> None:
    made = add(package, place.root / "note", appraiser)
    other = seal_zip(case, place.root / "other.zip").path
    assert status(made.path, "supplement_of", other) == {"failed"}
    with pytest.raises(PackageError) as raised:
        add(other, place.root / "second", appraiser, previous=made.path)
    assert raised.value.message_id == "package.supplement_of_other"


def test_previous_is_by_the_same_author_and_a_supplement(package: Path, case: Case, tmp_path: Path, appraiser: Session) -> None:
    made = add(package, tmp_path / "note", appraiser)
    with pytest.raises(PackageError) as raised:
        add(package, tmp_path / "second", case.session, previous=made.path)
    assert raised.value.message_id == "package.supplement_by_other"
    with pytest.raises(PackageError) as raised:
        add(package, tmp_path / "second", appraiser, previous=package)
    assert raised.value.message_id == "package.not_a_supplement"
    (broken := tmp_path / "broken").mkdir()
    shutil.copytree(made.path, broken, dirs_exist_ok=True)
    (broken / "VERIFY.txt").write_text("other")
    with pytest.raises(PackageError) as raised:
        add(package, tmp_path / "second", appraiser, previous=broken)
    assert raised.value.message_id == "package.supplement_broken_previous"
    with pytest.raises(PackageError) as raised:
        add(made.path, tmp_path / "second", appraiser)
    assert raised.value.message_id == "package.is_supplement" and not (tmp_path / "second").exists()


def test_a_broken_package_is_never_supplemented_silently(package: Path, tmp_path: Path, appraiser: Session) -> None:
    victim = next((package / "data/originals").rglob("*.JPG"))
    victim.write_bytes(b"?")
    with pytest.raises(PackageError) as raised:
        add(package, tmp_path / "note", appraiser)
    assert raised.value.message_id == "package.supplement_broken" and victim.name in str(raised.value)
    made = add(package, tmp_path / "note", appraiser, broken_too=True)
    assert made.package.exit_code == 1 and made.document.text.startswith("面积应按")
    # what was found is part of what was signed
    assert "1.7" in made.document.text and victim.name in made.document.text and "verification: 1" in made.document.text


def test_time_stamps_over_the_package_and_over_the_supplement(package: Path, tmp_path: Path, appraiser: Session) -> None:
    asked = EvidenceSources(stamps=(stamper(), stamper(unreachable, url="https://other.example")))
    made = add(package, tmp_path / "time", appraiser, kind="time", text="补充时间戳", evidence=asked)
    assert made.time_stamps == 1 and {name for name, _ in made.evidence_missing} == {"https://other.example"}
    proof = (package / "seal/proof.tlog").read_bytes()
    parse_time_stamp((made.path / "data/files/time-1.tsr").read_bytes()).verify_signature(proof)
    parse_time_stamp((made.path / "seal/time-1.tsr").read_bytes()).verify_signature(
        (made.path / "seal/statement.dsse").read_bytes()
    )
    report = verify_package(made.path, package=package)
    assert report.failures == ()
    # a stamp that came as a file goes before those that are asked for
    (tmp_path / "time-1.tsr").write_bytes((made.path / "data/files/time-1.tsr").read_bytes())
    again = add(package, tmp_path / "again", appraiser, kind="time", text="x", files=[tmp_path / "time-1.tsr"], evidence=asked)
    assert again.files == 2 and (again.path / "data/files/time-2.tsr").exists()
    with pytest.raises(PackageError) as raised:
        add(package, tmp_path / "none", appraiser, kind="time", text="x")
    assert raised.value.message_id == "package.supplement_no_time"
    (tmp_path / "stamp.tsr").write_bytes(b"x")
    with pytest.raises(PackageError) as raised:
        add(package, tmp_path / "none", appraiser, kind="time", text="x", files=[tmp_path / "stamp.tsr"])
    assert raised.value.message_id == "package.supplement_time_names" and not (tmp_path / "none").exists()


def test_a_record_of_recomputation_is_one_of_this_package(case: Case, package: Path, tmp_path: Path, appraiser: Session) -> None:
    from geoevidence.custody.log import sign_envelope
    from geoevidence.trust.manifest import STATEMENT_PAYLOAD_TYPE, parse_statement

    root = parse_statement(parse_envelope((package / "seal/statement.dsse").read_bytes()).payload).package_root

    def signed(root: str, by: Session) -> dict[str, bytes]:
        return {
            "recompute.dsse": sign_envelope(
                by, STATEMENT_PAYLOAD_TYPE, _record(case, root, "13.5", "identical").to_bytes()
            ).to_bytes()
        }

    made = add(package, tmp_path / "again", appraiser, kind="recompute", documents=signed(root, appraiser))
    assert verify_package(made.path, package=package).failures == ()
    report = verify_package(package, supplements=[made.path])
    assert report.failures == ()
    # signed by the sealer, whose key the package names
    assert add(package, tmp_path / "sealer", appraiser, kind="recompute", documents=signed(root, case.session)).files == 1
    for documents, message in (
        (signed("00" * 32, appraiser), "package.supplement_of_other"),
        (signed(root, session(tmp_path / "third", seed=77)), "package.supplement_unknown_key"),
        ({}, "package.supplement_no_record"),
    ):
        with pytest.raises(PackageError) as raised:
            add(package, tmp_path / "bad", appraiser, kind="recompute", documents=documents)
        assert raised.value.message_id == message and not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"kind": "opinion"}, ConfigError, "package.supplement_unknown_kind"),
        ({"text": " \n"}, PackageError, "package.supplement_empty"),
        ({"author": ""}, PackageError, "package.supplement_empty"),
        ({"documents": {"a/b": b""}}, InputError, "package.supplement_name"),
        ({"documents": {"..": b""}}, InputError, "package.supplement_name"),
        ({"documents": {"A.txt": b"", "a.TXT": b""}}, InputError, "package.supplement_name"),
        ({"files": [Path("absent")]}, InputError, "core.cannot_read"),
        ({"files": [Path("/")]}, InputError, "package.supplement_name"),
    ],
)
def test_what_cannot_be_is_refused(
    package: Path, tmp_path: Path, appraiser: Session, more: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as raised:
        add(package, tmp_path / "bad", appraiser, **more)
    assert raised.value.message_id == message  # type: ignore[attr-defined]
    assert not (tmp_path / "bad").exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_nothing_is_overwritten_and_no_link_followed(package: Path, tmp_path: Path, appraiser: Session) -> None:
    (tmp_path / "note").write_bytes(b"mine")
    with pytest.raises(PackageError):
        add(package, tmp_path / "note", appraiser)
    assert (tmp_path / "note").read_bytes() == b"mine"
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(InputError) as raised:
        add(package, tmp_path / "other", appraiser, files=[tmp_path / "link.txt"])
    assert raised.value.message_id == "package.not_a_file"


def test_a_change_in_any_file_of_a_supplement_is_noticed(package: Path, tmp_path: Path, appraiser: Session) -> None:
    asked = EvidenceSources(stamps=(stamper(),))
    made = add(package, tmp_path / "note", appraiser, evidence=asked, documents={"a.txt": b"a"})
    for path in sorted(made.path.rglob("*")):
        if path.is_file():
            kept = path.read_bytes()
            path.write_bytes(kept[:-2] + bytes([kept[-2] ^ 1]) + kept[-1:] if len(kept) > 1 else b"?")
            assert verify_package(made.path, package=package).exit_code == 1, path
            path.write_bytes(kept)
    assert verify_package(made.path, package=package).failures == ()
    shutil.rmtree(made.path / "data/files")
    assert verify_package(made.path, package=package).exit_code == 1


def test_the_same_words_at_the_same_time_give_the_same_bytes(package: Path, tmp_path: Path) -> None:
    made = []
    for number in range(2):
        by = session(tmp_path / "keys of one", seed=9, clock=Clock())
        made.append(tree(add(package, tmp_path / str(number), by).path))
    assert made[0] == made[1]
