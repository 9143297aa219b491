"""Keys: made once, private, never in the workspace."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from geoevidence.custody import KeyFolder
from geoevidence.custody.signers import FolderMemory, key_folder_path
from geoevidence.errors import CustodyError, SignatureError

ORIGIN = "geoevidence/W-0123456789/C-0123456789"


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
