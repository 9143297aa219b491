"""Keys: made once, private, never in the workspace."""

from __future__ import annotations

import base64
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from geoevidence.custody import KeyFolder, Sm2Signer, keyfiles, signers
from geoevidence.custody.keyfiles import PrivateKey, certificates_pem, is_encrypted, read_private_key, write_private_key
from geoevidence.custody.signers import FolderMemory, key_folder_path
from geoevidence.errors import CustodyError, SignatureError
from geoevidence.trust.signatures import PublicKey
from tests.custody.sm2 import ENCRYPTS, Sm2Holder, certificate, public_pem
from tests.trust.authority import openssl

ORIGIN = "geoevidence/W-0123456789/C-0123456789"
STATED = keyfiles.ITERATIONS


@pytest.fixture(autouse=True)
def quick_passphrases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes guessing slow would make these tests slow; one test leaves it as it is."""
    if request.function is not test_openssl_reads_our_keys:
        monkeypatch.setattr(keyfiles, "ITERATIONS", 1000)


def test_a_key_is_made_once_and_signs_what_the_kernel_verifies(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    assert not folder.has_key
    signer = folder.signer()
    assert folder.has_key and signer.public_key == folder.signer().public_key
    signer.public_key.verify(signer.sign(b"message"), b"message")
    with pytest.raises(SignatureError):
        signer.public_key.verify(signer.sign(b"message"), b"another")
    assert signer.label == "software key, not certified"
    if os.name != "nt":
        assert (tmp_path / "keys" / "ed25519.pem").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_two_first_uses_at_once_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        keys = set(pool.map(lambda _: KeyFolder(tmp_path / "keys").signer().public_key.key_id, range(6)))
    assert len(keys) == 1 and [path.name for path in (tmp_path / "keys").iterdir()] == ["ed25519.pem"]


def test_the_key_follows_from_the_random_source(tmp_path: Path) -> None:
    made = {KeyFolder(tmp_path / str(n), random=random.Random(5).randbytes).signer().public_key.key_id for n in range(2)}
    assert len(made) == 1


def test_a_passphrase_protects_the_file(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    signer = folder.signer(passphrase="口令")
    assert folder.signer(passphrase="口令").public_key == signer.public_key
    assert b"ENCRYPTED" in (tmp_path / "keys" / "ed25519.pem").read_bytes()
    for passphrase, message_id in (("wrong", "custody.key_unusable"), (None, "custody.key_passphrase_needed")):
        with pytest.raises(CustodyError) as raised:
            folder.signer(passphrase=passphrase)
        assert raised.value.message_id == message_id
    plain = KeyFolder(tmp_path / "plain")
    plain.signer()
    with pytest.raises(CustodyError) as raised:
        plain.signer(passphrase="x")
    assert raised.value.message_id == "custody.key_no_passphrase"


def test_a_file_that_is_no_key_of_ours_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (b"nothing", other):
        (folder / "ed25519.pem").write_bytes(pem)
        with pytest.raises(CustodyError) as raised:
            KeyFolder(folder).signer()
        assert raised.value.message_id == "custody.key_unusable"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CustodyError) as raised:
        KeyFolder(tmp_path / "file" / "keys").signer()
    assert raised.value.message_id == "custody.key_folder"


def test_a_backup_is_the_key_and_overwrites_nothing(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    with pytest.raises(CustodyError) as raised:
        folder.backup(tmp_path / "backup.pem")
    assert raised.value.message_id == "custody.key_backup"
    signer = folder.signer()
    restored = tmp_path / "restored"
    folder.backup(restored / "ed25519.pem")
    assert KeyFolder(restored).signer().public_key == signer.public_key
    with pytest.raises(CustodyError) as raised:
        folder.backup(restored / "ed25519.pem")
    assert raised.value.message_id == "custody.target_exists"


def test_the_folder_of_each_platform() -> None:
    home = Path("/home/a")
    assert key_folder_path({}, "linux", home) == home / ".config/geoevidence/keys"
    assert key_folder_path({"XDG_CONFIG_HOME": "/x"}, "linux", home) == Path("/x/geoevidence/keys")
    assert key_folder_path({}, "darwin", home) == home / "Library/Application Support/geoevidence/keys"
    assert key_folder_path({"APPDATA": "/r"}, "win32", home) == Path("/r/geoevidence/keys")
    assert key_folder_path({}, "win32", home) == home / "AppData/Roaming/geoevidence/keys"


def test_the_memory_keeps_one_note_a_log(tmp_path: Path) -> None:
    memory = FolderMemory(tmp_path / "checkpoints")
    assert memory.known(ORIGIN) is None
    memory.keep(ORIGIN, b"first")
    memory.keep(ORIGIN, b"second")
    assert memory.known(ORIGIN) == b"second"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["W-0123456789_C-0123456789.note"]
    with pytest.raises(ValueError, match="origin"):
        memory.known("geoevidence/../../etc")
    (tmp_path / "file").write_bytes(b"")
    blocked = FolderMemory(tmp_path / "file")
    with pytest.raises(CustodyError) as raised:
        blocked.keep(ORIGIN, b"x")
    assert raised.value.message_id == "custody.checkpoint_not_kept"
    with pytest.raises(CustodyError) as raised:
        blocked.known(ORIGIN)
    assert raised.value.message_id == "custody.checkpoint_unreadable"


# ---------------------------------------------------------------- key files


class refused:
    """Expects a CustodyError of that id."""

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._raises = pytest.raises(CustodyError)

    def __enter__(self) -> None:
        self._raised = self._raises.__enter__()

    def __exit__(self, *details: Any) -> bool:
        suppressed = self._raises.__exit__(*details)
        assert self._raised.value.message_id == self._message_id
        return suppressed


@pytest.mark.parametrize("algorithm", ["sm2-sm3", "ed25519"])
@pytest.mark.parametrize(
    "words",
    [
        ("-nocrypt",),
        ("-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256"),
        ("-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"),
        ("-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA384"),
        ("-v2", "sm4-cbc", "-v2prf", "hmacWithSHA1", "-iter", "1000"),
    ],
    ids=lambda words: "-".join(word.lstrip("-") for word in words),
)
def test_keys_of_openssl_are_read(tmp_path: Path, algorithm: str, words: tuple[str, ...]) -> None:
    kind = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2") if algorithm == "sm2-sm3" else ("-algorithm", "ed25519")
    openssl("genpkey", *kind, "-out", tmp_path / "plain.pem")
    passphrase = None if words == ("-nocrypt",) else "口令"
    secret = () if passphrase is None else ("-passout", f"pass:{passphrase}")
    openssl("pkcs8", "-topk8", "-in", tmp_path / "plain.pem", *words, *secret, "-out", tmp_path / "key.pem")
    pem = (tmp_path / "key.pem").read_bytes()
    key = read_private_key(pem, passphrase=passphrase, path=tmp_path)
    assert key.algorithm == algorithm and is_encrypted(pem) is (passphrase is not None)
    shown = openssl("pkey", "-in", tmp_path / "plain.pem", "-text", "-noout").stdout.decode()
    digits = "".join(line.strip() for line in shown.split("priv:")[1].split("pub:")[0].splitlines())
    assert key.secret.hex() == digits.replace(":", "").lstrip("0").rjust(64, "0")
    assert key.secret.hex() not in repr(key)
    if passphrase is not None:
        with refused("custody.key_unusable"):
            read_private_key(pem, passphrase="wrong", path=tmp_path)


@pytest.mark.parametrize("algorithm", ["sm2-sm3", "ed25519"])
@pytest.mark.parametrize("passphrase", [None, "口令"])
def test_openssl_reads_our_keys(tmp_path: Path, algorithm: str, passphrase: str | None) -> None:
    key = PrivateKey(algorithm, bytes(range(1, 33)))
    pem = write_private_key(key, passphrase=passphrase, random=random.Random(1).randbytes)
    assert pem == write_private_key(key, passphrase=passphrase, random=random.Random(1).randbytes)
    assert read_private_key(pem, passphrase=passphrase, path=tmp_path) == key
    (tmp_path / "key.pem").write_bytes(pem)
    if passphrase is not None:
        assert f"INTEGER           :{STATED:06X}" in openssl("asn1parse", "-in", tmp_path / "key.pem").stdout.decode()
    shown = openssl("pkey", "-in", tmp_path / "key.pem", "-passin", f"pass:{passphrase}", "-text", "-noout").stdout.decode()
    assert key.secret.hex() in "".join(shown.split()).replace(":", "")


def test_damaged_key_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever byte of an encrypted key is changed: refused with our error, or the same key."""
    # a damaged iteration count must not cost minutes here
    monkeypatch.setattr(keyfiles, "_MAX_ITERATIONS", 2000)
    pem = write_private_key(PrivateKey("sm2-sm3", bytes(range(1, 33))), passphrase="x", random=random.Random(2).randbytes)
    raw = base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))
    rng = random.Random(3)
    for _ in range(300):
        changed = bytearray(raw)
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        text = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + base64.b64encode(changed) + b"\n-----END ENCRYPTED PRIVATE KEY-----\n"
        try:
            assert len(read_private_key(text, passphrase="x", path=tmp_path).secret) == 32
        except CustodyError as error:
            assert error.message_id == "custody.key_unusable"


# ---------------------------------------------------------------- passphrase, backup, restore


def private_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.pem")]


def test_the_passphrase_is_changed_for_all_keys(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    with refused("custody.no_key"):
        folder.change_passphrase(None, "x")
    first = folder.signer()
    folder.next_signer()
    folder.promote_next()
    assert not folder.is_encrypted
    folder.change_passphrase(None, "one")
    assert folder.is_encrypted and all(b"ENCRYPTED" in path.read_bytes() for path in private_files(folder.path))
    for wrong in ("two", None):
        with refused("custody.key_unusable" if wrong else "custody.key_passphrase_needed"):
            folder.change_passphrase(wrong, "three")
    folder.change_passphrase("one", "two")
    assert [each.public_key for each in folder.retired_signers(passphrase="two")] == [first.public_key]
    folder.change_passphrase("two", None)
    assert not folder.is_encrypted and folder.signer().public_key != first.public_key
    if os.name != "nt":
        assert {path.stat().st_mode & 0o777 for path in private_files(folder.path)} == {0o600}


def test_an_interrupted_change_of_passphrase_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.signer(passphrase="old")
    folder.next_signer(passphrase="old")
    folder.promote_next(passphrase="old")
    written = KeyFolder._write
    calls: list[Path] = []

    def stop(self: KeyFolder, path: Path, data: bytes, *, replace: bool = False) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        written(self, path, data, replace=replace)

    monkeypatch.setattr(KeyFolder, "_write", stop)
    with refused("custody.key_folder"):
        folder.change_passphrase("old", "new")
    monkeypatch.setattr(KeyFolder, "_write", written)
    folder.change_passphrase("old", "new")
    assert folder.signer(passphrase="new") and folder.retired_signers(passphrase="new")


def test_a_backup_is_restored_where_there_is_no_key(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    signer = folder.signer(passphrase="x")
    backup = folder.backup(tmp_path / "stick" / "backup.pem")
    if os.name != "nt":
        assert backup.stat().st_mode & 0o777 == 0o600
    other = KeyFolder(tmp_path / "other")
    for passphrase, message_id in (("y", "custody.key_unusable"), (None, "custody.key_passphrase_needed")):
        with refused(message_id):
            other.restore(backup, passphrase=passphrase)
        assert not other.has_key
    assert other.restore(backup, passphrase="x").public_key == signer.public_key
    with refused("custody.target_exists"):
        other.restore(backup, passphrase="x")
    (tmp_path / "nothing").write_bytes(b"nothing")
    with refused("custody.key_unusable"):
        KeyFolder(tmp_path / "third").restore(tmp_path / "nothing")
    with refused("custody.key_folder"):
        KeyFolder(tmp_path / "third").restore(tmp_path / "absent")


def test_the_next_key_waits_until_it_is_promoted(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    first = folder.signer()
    following = folder.next_signer()
    assert folder.next_signer().public_key == following.public_key != first.public_key
    assert folder.signer().public_key == first.public_key
    assert [each.use for each in folder.describe()] == ["signing", "next"]
    assert folder.promote_next().public_key == following.public_key
    assert [(each.use, each.public_key) for each in folder.describe()] == [
        ("signing", following.public_key),
        ("retired", first.public_key),
    ]
    with refused("custody.key_folder"):
        folder.promote_next()
    assert folder.signer().public_key == following.public_key
    assert [each.public_key for each in folder.retired_signers()] == [first.public_key]


# ---------------------------------------------------------------- SM2


@pytest.fixture
def holder() -> Sm2Holder:
    return Sm2Holder()


def sm2_folder(tmp_path: Path, holder: Sm2Holder) -> KeyFolder:
    folder = KeyFolder(tmp_path / "keys")
    folder.signer(passphrase="x")
    folder.import_sm2(*holder.files(tmp_path / "from-ca"), key_passphrase="import", passphrase="x")
    return folder


def test_an_sm2_key_signs_what_the_kernel_and_openssl_verify(tmp_path: Path, holder: Sm2Holder) -> None:
    folder = sm2_folder(tmp_path, holder)
    signer = folder.signer(passphrase="x")
    assert isinstance(signer, Sm2Signer) and signer.public_key == PublicKey("sm2-sm3", b"\x04" + holder.key.public)
    assert signer.note_signer.public_key.algorithm == "ed25519" and signer.certificates == (holder.own, holder.root)
    (tmp_path / "public.pem").write_bytes(public_pem(holder.key))
    for message in (b"", b"message", bytes(100_000)):
        signature = signer.sign(message)
        signer.public_key.verify(signature, message)
        with pytest.raises(SignatureError):
            signer.public_key.verify(signature, message + b"x")
        (tmp_path / "message").write_bytes(message)
        (tmp_path / "signature").write_bytes(signature)
        words = ("-pubin", "-inkey", tmp_path / "public.pem", "-in", tmp_path / "message", "-sigfile", tmp_path / "signature")
        sm3 = ("-rawin", "-digest", "sm3", "-pkeyopt", "distid:1234567812345678")
        assert openssl("pkeyutl", "-verify", *words, *sm3).returncode == 0
    assert [each.use for each in folder.describe(passphrase="x")] == ["signing", "checkpoints"]
    shown = folder.describe(passphrase="x")[0].certificate
    assert shown is not None and shown.subject_text == "CN=张三"
    assert b"ENCRYPTED" in (folder.path / "sm2.pem").read_bytes()


def test_openssl_agrees_with_the_certificates_of_these_tests(tmp_path: Path, holder: Sm2Holder) -> None:
    for name, each in (("own", holder.own), ("root", holder.root)):
        (tmp_path / f"{name}.pem").write_bytes(certificates_pem((each,)))
    done = openssl("verify", "-vfyopt", "distid:1234567812345678", "-CAfile", tmp_path / "root.pem", tmp_path / "own.pem")
    assert done.stdout.endswith(b"OK\n")


def test_an_sm2_key_comes_with_a_passphrase_and_its_own_certificate(tmp_path: Path, holder: Sm2Holder) -> None:
    key, chain = holder.files(tmp_path / "from-ca")
    plain = KeyFolder(tmp_path / "plain")
    plain.signer()
    folder = KeyFolder(tmp_path / "keys")
    folder.signer(passphrase="x")

    def refuse(message_id: str, *, certificates: bytes | None = None, into: KeyFolder = folder, passphrase: str = "x") -> None:
        if certificates is not None:
            chain.write_bytes(certificates)
        with refused(message_id):
            into.import_sm2(key, chain, key_passphrase="import", passphrase=passphrase)
        assert not into.has_sm2_key

    refuse("custody.sm2_needs_passphrase", into=plain)
    refuse("custody.sm2_needs_passphrase", into=plain, passphrase="")
    refuse("custody.key_unusable", passphrase="wrong")
    other = Sm2Holder("李四")
    refuse("custody.certificate_other_key", certificates=certificates_pem((other.own, other.root)))
    refuse("custody.certificate_refused", certificates=certificates_pem((holder.own, other.root)))
    encrypting = certificate("张三", holder.key, "演示根", holder.root_key, usage=ENCRYPTS)
    refuse("custody.certificate_refused", certificates=certificates_pem((encrypting, holder.root)))
    refuse("custody.certificates_unreadable", certificates=b"nothing")
    refuse("custody.certificate_not_sm2", certificates=p256_certificate())
    chain.write_bytes(certificates_pem((holder.own,)))
    with refused("custody.key_passphrase_needed"):
        folder.import_sm2(key, chain, passphrase="x")
    with refused("custody.key_not_sm2"):
        folder.import_sm2(folder.path / "ed25519.pem", chain, key_passphrase="x", passphrase="x")
    assert folder.import_sm2(key, chain, key_passphrase="import", passphrase="x").certificates == (holder.own,)
    with refused("custody.key_known"):
        folder.import_sm2(key, chain, key_passphrase="import", passphrase="x")


def p256_certificate() -> bytes:
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "P-256")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, datetime(2026, 1, 1), datetime(2030, 1, 1))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_another_sm2_key_retires_the_first(tmp_path: Path, holder: Sm2Holder) -> None:
    folder = sm2_folder(tmp_path, holder)
    second = Sm2Holder("李四")
    folder.import_sm2(*second.files(tmp_path / "second", None), passphrase="x")
    (retired,) = folder.retired_signers(passphrase="x")
    assert isinstance(retired, Sm2Signer) and retired.certificates == (holder.own, holder.root)
    assert folder.signer(passphrase="x").certificates == (second.own, second.root)
    folder.change_passphrase("x", "y")
    assert folder.signer(passphrase="y").certificates == (second.own, second.root)
    assert [each.use for each in folder.describe(passphrase="y")] == ["signing", "checkpoints", "retired"]


def test_a_backup_holds_the_sm2_key(tmp_path: Path, holder: Sm2Holder) -> None:
    folder = sm2_folder(tmp_path, holder)
    backup = folder.backup(tmp_path / "backup.pem")
    restored = KeyFolder(tmp_path / "restored")
    assert restored.restore(backup, passphrase="x").certificates == (holder.own, holder.root)
    assert restored.software_signer(passphrase="x").public_key == folder.software_signer(passphrase="x").public_key
    changed = backup.read_bytes().replace(certificates_pem((holder.own,)), certificates_pem((Sm2Holder("李四").own,)))
    (tmp_path / "changed.pem").write_bytes(changed)
    with refused("custody.certificate_refused"):
        KeyFolder(tmp_path / "third").restore(tmp_path / "changed.pem", passphrase="x")
    assert not (tmp_path / "third").exists()


def test_without_the_library_the_message_says_what_to_install(
    tmp_path: Path, holder: Sm2Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sm2_folder(tmp_path, holder)
    monkeypatch.setitem(sys.modules, "gmssl_pyx", None)
    with refused("custody.sm2_not_installed"):
        folder.signer(passphrase="x")
    assert folder.software_signer(passphrase="x")
    plain = KeyFolder(tmp_path / "plain")
    assert plain.signer().public_key.algorithm == "ed25519"


def test_an_empty_folder_has_no_keys_to_describe(tmp_path: Path) -> None:
    assert KeyFolder(tmp_path / "absent").describe() == () and not (tmp_path / "absent").exists()


def test_a_file_of_another_algorithm_in_the_place_of_the_key_is_refused(tmp_path: Path, holder: Sm2Holder) -> None:
    folder = sm2_folder(tmp_path, holder)
    (sm2,) = (path for path in private_files(folder.path) if "sm2" in path.name)
    (folder.path / "ed25519.pem").write_bytes(sm2.read_bytes())
    with refused("custody.key_unusable"):
        folder.software_signer(passphrase="x")


def test_a_folder_that_cannot_be_written_takes_no_key(tmp_path: Path, holder: Sm2Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = KeyFolder(tmp_path / "plain")
    plain.signer()
    backup = plain.backup(tmp_path / "backup.pem")
    (tmp_path / "file").write_bytes(b"")
    with refused("custody.key_folder"):
        KeyFolder(tmp_path / "file" / "keys").restore(backup)
    folder = KeyFolder(tmp_path / "keys")
    folder.signer(passphrase="x")
    key, chain = holder.files(tmp_path / "from-ca")

    def refuse(*args: object, **options: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(signers, "write_durably", refuse)
    with refused("custody.key_folder"):
        folder.import_sm2(key, chain, key_passphrase="import", passphrase="x")
    assert not folder.has_sm2_key
