"""SM2 keys, keys that ended and field devices in a sealed package, judged by the verifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from geoevidence.custody import Case, KeyFolder, Session, TrustFile, keyfiles, read_certificate
from geoevidence.custody.keyfiles import certificates_pem
from geoevidence.errors import PackageError
from geoevidence.package import RedactionRequest, redact_package, seal_folder
from geoevidence.trust import verify_package
from geoevidence.trust.policy import TrustPolicy
from tests.custody.sm2 import Sm2Holder
from tests.custody.workspaces import CARD, Place, derive

ROLES = ("operator", "field_team", "log", "package")


@pytest.fixture(autouse=True)
def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "ITERATIONS", 1000)


class Person:
    """Somebody with a workspace, a software key made first, and an SM2 certificate."""

    def __init__(self, root: Path, *, seed: int, subject: str) -> None:
        root.mkdir()
        self.place = Place(root, seed=seed)
        self.holder = Sm2Holder(subject)
        folder = KeyFolder(root / "sm2-keys")
        folder.signer(passphrase="x")
        folder.import_sm2(*self.holder.files(root / "from-ca"), key_passphrase="import", passphrase="x")
        self.certified: Session = replace(self.place.session, signer=folder.signer(passphrase="x"))

    def case(self, number: str) -> Case:
        return self.place.reopened(as_session=self.certified).case(number)

    def trusted(self, file: TrustFile) -> None:
        """Its authority for the SM2 key, and the software keys by themselves."""
        root = self.place.root / "root.pem"
        root.write_bytes(certificates_pem((self.holder.root,)))
        file.add_authority(read_certificate(root), holder="根", purposes=["sign"], roles=ROLES)
        for signer in (self.place.session.signer, self.certified.signer.note_signer):
            file.add_key(signer.public_key, holder="本人", roles=ROLES, valid_from="2026-01-01")


@pytest.fixture
def device(tmp_path: Path) -> Person:
    """A field team whose log changes from a software key to an SM2 key."""
    person = Person(tmp_path / "device", seed=1, subject="张三")
    case = person.place.workspace.new_case("外业")
    case.ingest(person.place.card(CARD))
    case.rotate_key(person.certified.signer)
    person.case("外业").ingest(person.place.card({"late.txt": b"late"}, name="second"))
    person.case("外业").hand_over(tmp_path / "handover.zip")
    return person


@pytest.fixture
def server(tmp_path: Path) -> Person:
    return Person(tmp_path / "server", seed=2, subject="李四")


def policy(tmp_path: Path, *persons: Person) -> TrustPolicy:
    file = TrustFile(tmp_path / "trust.json")
    for person in persons:
        person.trusted(file)
    return file.policy


def sealed(server: Person, tmp_path: Path, *, revoked_from: int | None = None) -> Path:
    """A package with the device's log; the server's software key may end on the way."""
    server.place.workspace.new_case("检").absorb(tmp_path / "handover.zip")
    case = server.case("检")
    if revoked_from is not None:
        case.revoke_key(server.place.session.signer.public_key.key_id, "compromised", revoked_from)
    derive(case)
    return seal_folder(case, tmp_path / "package").path


def test_everything_holds_for_who_trusts_the_authorities(device: Person, server: Person, tmp_path: Path) -> None:
    report = verify_package(sealed(server, tmp_path, revoked_from=2), policy=policy(tmp_path, device, server))
    assert {name: report.verdicts[name] for name in ("intact", "signed", "continuous")} == {
        "intact": "passed",
        "signed": "passed",
        "continuous": "passed",
    }
    assert {each.holder for each in report.signers} == {"CN=张三", "CN=李四", "本人"}


def test_a_device_of_a_stranger_is_not_trusted(device: Person, server: Person, tmp_path: Path) -> None:
    report = verify_package(sealed(server, tmp_path), policy=policy(tmp_path, server))
    found = report.verdicts
    assert found["intact"] == found["continuous"] == "passed" and found["signed"] != "passed"


def test_what_a_stolen_key_signed_is_not_trusted(device: Person, server: Person, tmp_path: Path) -> None:
    """Revoked from tree size 1: the event at index 1 is by the key, and was logged before anybody noticed."""
    report = verify_package(sealed(server, tmp_path, revoked_from=1), policy=policy(tmp_path, device, server))
    found = report.verdicts
    assert found["intact"] == found["continuous"] == "passed" and found["signed"] != "passed"


def test_a_copy_cannot_leave_out_that_a_key_ended(device: Person, server: Person, tmp_path: Path) -> None:
    package = sealed(server, tmp_path, revoked_from=2)
    for withhold in ("*/key-change.json", "*"):
        request = RedactionRequest(reason="隐私", withhold=(withhold,))
        with pytest.raises(PackageError) as refused:
            redact_package(package, tmp_path / "copy", request=request, session=server.certified)
        assert refused.value.message_id == "package.redact_key_change" and not (tmp_path / "copy").exists()
