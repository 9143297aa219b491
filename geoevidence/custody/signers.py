"""Keys that sign events and checkpoints, and the folder outside the workspace that holds them.

The folder also keeps, for each log this key has signed, the highest checkpoint it has seen: a log
that comes back shorter or different is refused (see `log.py`). Copying a workspace copies no key.
A key made here is a software key that nobody has certified, and is always shown as such.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from geoevidence.custody.files import write_durably
from geoevidence.errors import CustodyError
from geoevidence.trust.signatures import PublicKey

_KEY_FILE = "ed25519.pem"
_ORIGIN = re.compile(r"geoevidence/(W-[0-9a-f]{10})/(C-[0-9a-f]{10})", re.ASCII)


class CheckpointMemory(Protocol):
    """Where the highest known checkpoint of each log is kept, apart from the log."""

    def known(self, origin: str) -> bytes | None:
        """Bytes of the signed checkpoint, or None where none was ever kept."""

    def keep(self, origin: str, checkpoint: bytes) -> None:
        """Replace what is known of `origin`. Raises CustodyError when it cannot be written."""


class Signer(Protocol):
    """Signs for one person on one device.

    public_key: says its algorithm; gives key id and chain.
    label: what the key is, in words that stand in packages (English, fixed).
    memory: the checkpoints this signer has seen.
    """

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def label(self) -> str: ...

    @property
    def memory(self) -> CheckpointMemory: ...

    def sign(self, message: bytes) -> bytes:
        """The raw signature of `message`."""


class SoftwareSigner:
    """An Ed25519 key in this process's memory."""

    label = "software key, not certified"

    def __init__(self, key: Ed25519PrivateKey, memory: CheckpointMemory) -> None:
        self._key = key
        self.public_key = PublicKey("ed25519", key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        self.memory = memory

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class FolderMemory:
    """Checkpoints as files `<workspace id>_<case id>.note` of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, origin: str) -> Path:
        match = _ORIGIN.fullmatch(origin)
        if match is None:
            raise ValueError(f"{origin!r} is not the origin of a log")
        return self._folder / f"{match[1]}_{match[2]}.note"

    def known(self, origin: str) -> bytes | None:
        path = self.path_of(origin)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CustodyError("custody.checkpoint_unreadable", path=path, reason=error.strerror) from error

    def keep(self, origin: str, checkpoint: bytes) -> None:
        path = self.path_of(origin)
        try:
            write_durably(path, checkpoint)
        except OSError as error:
            raise CustodyError("custody.checkpoint_not_kept", path=path, reason=error.strerror) from error


def key_folder_path(environment: Mapping[str, str], platform: str, home: Path) -> Path:
    """The folder for keys that the platform asks for: %APPDATA%, ~/Library/Application Support, XDG_CONFIG_HOME or ~/.config."""
    if platform == "win32":
        return Path(environment.get("APPDATA") or home / "AppData" / "Roaming") / "geoevidence" / "keys"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "geoevidence" / "keys"
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "geoevidence" / "keys"


class KeyFolder:
    """The keys of one person on one device.

    Args:
        path: the folder, or None for the user's configuration folder.
        random: gives that many random bytes; the operating system's unless a test gives another.
    """

    def __init__(self, path: Path | None = None, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self.path = path if path is not None else key_folder_path(os.environ, sys.platform, Path.home())
        self._random = random

    @property
    def has_key(self) -> bool:
        return (self.path / _KEY_FILE).exists()

    def signer(self, *, passphrase: str | None = None) -> SoftwareSigner:
        """The signer of this folder; its key is made at first use, readable by its owner alone (0600).

        Raises: CustodyError when the passphrase is wrong or missing, or the folder cannot be used.
        """
        path = self.path / _KEY_FILE
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                self._make(path, passphrase)
            raw = path.read_bytes()
        except OSError as error:
            raise CustodyError("custody.key_folder", path=path, reason=error.strerror) from error
        return SoftwareSigner(_load(raw, path, passphrase), FolderMemory(self.path / "checkpoints"))

    def _make(self, path: Path, passphrase: str | None) -> None:
        key = Ed25519PrivateKey.from_private_bytes(self._random(32))
        protection = BestAvailableEncryption(passphrase.encode("utf-8")) if passphrase else NoEncryption()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        # the folder never holds a partial key, and of two first uses at once the first key stays
        write_durably(path, pem, mode=0o600, replace=False)

    def backup(self, target: Path) -> Path:
        """A copy of the key file (as protected as the original) at `target`, which must not exist. Returns `target`.

        Raises: CustodyError.
        """
        source = self.path / _KEY_FILE
        try:
            pem = source.read_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            made = write_durably(target, pem, mode=0o600, replace=False)
        except OSError as error:
            raise CustodyError("custody.key_backup", path=target, reason=error.strerror) from error
        if not made:
            raise CustodyError("custody.target_exists", path=target)
        return target


def _load(pem: bytes, path: Path, passphrase: str | None) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, passphrase.encode("utf-8") if passphrase else None)
    except TypeError as error:
        # cryptography: a passphrase is missing, or given for a key without one
        raise CustodyError(
            "custody.key_passphrase_needed" if not passphrase else "custody.key_no_passphrase", path=path
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CustodyError("custody.key_unusable", path=path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CustodyError("custody.key_unusable", path=path)
    return key
