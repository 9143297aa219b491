"""Keys that sign events and checkpoints, and the folder outside the workspace that holds them.

The folder also keeps, for each log this key has signed, the highest checkpoint it has seen: a log
that comes back shorter or different is refused (see `log.py`). Copying a workspace copies no key.
A key made here is a software key that nobody has certified, and is always shown as such. A key with an
SM2 certificate is imported; it signs events and statements, and the Ed25519 key beside it the checkpoints.
A token or a smart card needs no more than the protocol `Signer`: nothing outside asks for a secret.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from geoevidence.custody.files import write_durably
from geoevidence.custody.keyfiles import (
    PrivateKey,
    certificates_pem,
    is_encrypted,
    private_blocks,
    read_private_key,
    write_private_key,
)
from geoevidence.errors import CustodyError, FormatError, SignatureError, VerificationError
from geoevidence.trust.certificates import Certificate, check_purpose, parse_certificates_pem_or_der
from geoevidence.trust.signatures import PublicKey

_ED25519, _SM2 = "ed25519.pem", "sm2.pem"
_NEXT, _RETIRED = "next-ed25519.pem", "retired"
_MAX_FILE = 1 << 20
_ORIGIN = re.compile(r"geoevidence/(W-[0-9a-f]{10})/(C-[0-9a-f]{10})", re.ASCII)


class CheckpointMemory(Protocol):
    """Where the highest known checkpoint of each log is kept, apart from the log."""

    def known(self, origin: str) -> bytes | None:
        """Bytes of the signed checkpoint, or None where none was ever kept."""

    def keep(self, origin: str, checkpoint: bytes) -> None:
        """Replace what is known of `origin`. Raises CustodyError when it cannot be written."""


class NoteSigner(Protocol):
    """Signs checkpoints: Ed25519 always, as other programs read them."""

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def label(self) -> str: ...

    @property
    def certificates(self) -> tuple[bytes, ...]: ...

    def sign(self, message: bytes) -> bytes:
        """The raw signature of `message`."""


class Signer(Protocol):
    """Signs for one person on one device.

    public_key: says its algorithm; gives key id and chain.
    label: what the key is, in words that stand in packages (English, fixed).
    certificates: DER, the key's own first, then its issuers; empty for a key that nobody has certified.
    note_signer: signs checkpoints; the signer itself where its key is Ed25519.
    memory: the checkpoints this signer has seen.
    """

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def label(self) -> str: ...

    @property
    def certificates(self) -> tuple[bytes, ...]: ...

    @property
    def note_signer(self) -> NoteSigner: ...

    @property
    def memory(self) -> CheckpointMemory: ...

    def sign(self, message: bytes) -> bytes:
        """The raw signature of `message`."""


class SoftwareSigner:
    """An Ed25519 key in this process's memory."""

    label = "software key, not certified"
    certificates: tuple[bytes, ...] = ()

    def __init__(self, key: Ed25519PrivateKey, memory: CheckpointMemory) -> None:
        self._key = key
        self.public_key = PublicKey("ed25519", key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        self.memory = memory

    @property
    def note_signer(self) -> SoftwareSigner:
        return self

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class Sm2Signer:
    """An SM2 key with its certificates, in this process's memory; signatures by GmSSL (package gmssl-pyx).

    Each signature takes a new random number from GmSSL, so the same message gives other bytes each time.

    Args:
        secret: the private key, 32 bytes.
        certificates: its own first, then the issuers, each signed by the next.
        note_signer: signs checkpoints.
        memory: the checkpoints that are known.

    Raises: CustodyError when gmssl-pyx is not installed, or the certificates are not those of this key.
    """

    label = "software key with an SM2 certificate"

    def __init__(
        self, secret: bytes, certificates: tuple[Certificate, ...], *, note_signer: NoteSigner, memory: CheckpointMemory
    ) -> None:
        try:
            from gmssl_pyx import sm2_sign
        except ImportError as error:
            raise CustodyError("custody.sm2_not_installed") from error
        self._sm2_sign = sm2_sign
        self._secret = secret
        own = certificates[0]
        if own.key.kind != "SM2":
            raise CustodyError("custody.certificate_not_sm2", subject=own.subject_text, found=own.key.kind)
        try:
            check_purpose(own, "sign")
            for each, issuer in itertools.pairwise(certificates):
                each.check_issued_by(issuer)
        except VerificationError as error:
            raise CustodyError("custody.certificate_refused", subject=own.subject_text, reason=str(error)) from error
        self.public_key = PublicKey("sm2-sm3", own.key.raw)
        self.certificates = tuple(each.der for each in certificates)
        self.note_signer = note_signer
        self.memory = memory
        # the library signs with any pair of numbers: only a signature shows that they belong together
        try:
            self.public_key.verify(self.sign(b"geoevidence"), b"geoevidence")
        except SignatureError as error:
            raise CustodyError("custody.certificate_other_key", subject=own.subject_text) from error

    def sign(self, message: bytes) -> bytes:
        # signer ID 1234567812345678 (GM/T 0009 section 10) is the library's default
        signature: bytes = self._sm2_sign(self._secret, self.public_key.raw[1:], message)
        return signature


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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key of a folder, without its secret.

    use: signing, checkpoints, next (made for a rotation that is not finished) or retired.
    certificate: its own, or None. path: where it is kept. encrypted: whether a passphrase protects it.
    """

    use: str
    public_key: PublicKey
    label: str
    certificate: Certificate | None
    path: Path
    encrypted: bool


class KeyFolder:
    """The keys of one person on one device, all under one passphrase or none.

    `ed25519.pem` always; `sm2.pem`, key and certificates, where one was imported; `next-ed25519.pem` while a rotation is
    under way; `retired/<key id>.pem` what was in use before.

    Args:
        path: the folder, or None for the user's configuration folder.
        random: gives that many random bytes; the operating system's unless a test gives another.
    """

    def __init__(self, path: Path | None = None, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self.path = path if path is not None else key_folder_path(os.environ, sys.platform, Path.home())
        self._random = random

    @property
    def has_key(self) -> bool:
        return (self.path / _ED25519).exists()

    @property
    def has_sm2_key(self) -> bool:
        return (self.path / _SM2).exists()

    @property
    def is_encrypted(self) -> bool:
        """True where a passphrase is needed. Raises CustodyError when the key cannot be read."""
        return self.has_key and is_encrypted(self._read(self.path / _ED25519))

    def signer(self, *, passphrase: str | None = None) -> SoftwareSigner | Sm2Signer:
        """The signer of this folder: the SM2 key where there is one, else the Ed25519 key.

        The Ed25519 key is made at first use, readable by its owner alone (0600).

        Raises: CustodyError when the passphrase is wrong or missing, or the folder cannot be used.
        """
        notes = self.software_signer(passphrase=passphrase)
        return self._sm2_signer(self.path / _SM2, notes, passphrase) if self.has_sm2_key else notes

    def software_signer(self, *, passphrase: str | None = None) -> SoftwareSigner:
        """The Ed25519 key alone, made at first use. Raises CustodyError."""
        return self._made(self.path / _ED25519, passphrase)

    def _made(self, path: Path, passphrase: str | None) -> SoftwareSigner:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                key = PrivateKey("ed25519", self._random(32))
                # the folder never holds a partial key, and of two first uses at once the first key stays
                self._write(path, write_private_key(key, passphrase=passphrase, random=self._random))
        except OSError as error:
            raise CustodyError("custody.key_folder", path=path, reason=error.strerror) from error
        return self._software_signer(path, passphrase)

    def _software_signer(self, path: Path, passphrase: str | None) -> SoftwareSigner:
        found = self._private_key(path, "ed25519", passphrase)
        return SoftwareSigner(Ed25519PrivateKey.from_private_bytes(found.secret), self._memory())

    def _sm2_signer(self, path: Path, notes: NoteSigner, passphrase: str | None) -> Sm2Signer:
        found = self._private_key(path, "sm2-sm3", passphrase)
        certificates = _certificates(self._read(path), path)
        return Sm2Signer(found.secret, certificates, note_signer=notes, memory=self._memory())

    def _private_key(self, path: Path, algorithm: str, passphrase: str | None) -> PrivateKey:
        found = read_private_key(self._read(path), passphrase=passphrase, path=path)
        if found.algorithm != algorithm:
            raise CustodyError("custody.key_unusable", path=path)
        return found

    def _memory(self) -> FolderMemory:
        return FolderMemory(self.path / "checkpoints")

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as stream:
                return stream.read(_MAX_FILE)
        except OSError as error:
            raise CustodyError("custody.key_folder", path=path, reason=error.strerror) from error

    def _write(self, path: Path, data: bytes, *, replace: bool = False) -> None:
        write_durably(path, data, mode=0o600, replace=replace)

    def describe(self, *, passphrase: str | None = None) -> tuple[KeyInfo, ...]:
        """What is in the folder: the key that signs, the one for checkpoints where that is another, the rest. Raises CustodyError."""
        if not self.has_key:
            return ()
        first = self.signer(passphrase=passphrase)
        found = [self._info("signing", self.path / (_SM2 if self.has_sm2_key else _ED25519), first)]
        if self.has_sm2_key:
            found.append(self._info("checkpoints", self.path / _ED25519, self.software_signer(passphrase=passphrase)))
        if (self.path / _NEXT).exists():
            found.append(self._info("next", self.path / _NEXT, self.next_signer(passphrase=passphrase)))
        for path, signer in self._retired(passphrase):
            found.append(self._info("retired", path, signer))
        return tuple(found)

    def _info(self, use: str, path: Path, signer: SoftwareSigner | Sm2Signer) -> KeyInfo:
        return KeyInfo(
            use=use,
            public_key=signer.public_key,
            label=signer.label,
            certificate=_certificates(signer.certificates[0], path)[0] if signer.certificates else None,
            path=path,
            encrypted=is_encrypted(self._read(path)),
        )

    # ---------------------------------------------------------------- passphrase, backup

    def change_passphrase(self, old: str | None, new: str | None) -> None:
        """Put every key of the folder under another passphrase, or none.

        A change that was interrupted is completed by asking for it again.

        Raises: CustodyError when `old` does not open a key; no file is changed then.
        """
        opened = []
        for path in self._private_files():
            pem = self._read(path)
            certificates = _pem_of(_certificates(pem, path)) if b"CERTIFICATE" in pem else b""
            try:
                key = read_private_key(pem, passphrase=old, path=path)
            except CustodyError as refused:
                try:
                    # of an interrupted change: this file was done
                    key = read_private_key(pem, passphrase=new, path=path)
                except CustodyError:
                    raise refused from None
            opened.append((path, key, certificates))
        for path, key, certificates in opened:
            try:
                self._write(path, write_private_key(key, passphrase=new, random=self._random) + certificates, replace=True)
            except OSError as error:
                raise CustodyError("custody.key_folder", path=path, reason=error.strerror) from error

    def _private_files(self) -> list[Path]:
        if not self.has_key:
            raise CustodyError("custody.no_key", path=self.path)
        found = [self.path / name for name in (_ED25519, _SM2, _NEXT) if (self.path / name).exists()]
        return found + sorted((self.path / _RETIRED).glob("*.pem"))

    def backup(self, target: Path) -> Path:
        """A copy of the keys in use, as protected as they are here, at `target`, which must not exist. Returns `target`.

        One PEM text: the Ed25519 key, then the SM2 key and its certificates where there are any. Checkpoints and
        retired keys are not in it.

        Raises: CustodyError.
        """
        source = self.path / _ED25519
        try:
            pem = source.read_bytes()
            if self.has_sm2_key:
                pem += (self.path / _SM2).read_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            made = write_durably(target, pem, mode=0o600, replace=False)
        except OSError as error:
            raise CustodyError("custody.key_backup", path=target, reason=error.strerror) from error
        if not made:
            raise CustodyError("custody.target_exists", path=target)
        return target

    def restore(self, source: Path, *, passphrase: str | None = None) -> SoftwareSigner | Sm2Signer:
        """Put the keys of a backup into this folder, which has none, and return its signer.

        Args:
            source: made by `backup`.
            passphrase: of the keys in it; they keep it.

        Raises: CustodyError when a key is here already, or the backup cannot be opened; nothing is written then.
        """
        if self.has_key:
            raise CustodyError("custody.target_exists", path=self.path / _ED25519)
        pem = self._read(source)
        blocks = {}
        for block in private_blocks(pem):
            blocks[read_private_key(block, passphrase=passphrase, path=source).algorithm] = block
        if "ed25519" not in blocks:
            raise CustodyError("custody.key_unusable", path=source)
        if "sm2-sm3" in blocks:
            certificates = _certificates(pem, source)
            secret = read_private_key(blocks["sm2-sm3"], passphrase=passphrase, path=source).secret
            notes = read_private_key(blocks["ed25519"], passphrase=passphrase, path=source).secret
            software = SoftwareSigner(Ed25519PrivateKey.from_private_bytes(notes), self._memory())
            # refuses certificates of another key before anything is written
            Sm2Signer(secret, certificates, note_signer=software, memory=self._memory())
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if "sm2-sm3" in blocks:
                self._write(self.path / _SM2, blocks["sm2-sm3"] + _pem_of(certificates), replace=True)
            # last: without it the folder has no key, and restoring can be tried again
            self._write(self.path / _ED25519, blocks["ed25519"])
        except OSError as error:
            raise CustodyError("custody.key_folder", path=self.path, reason=error.strerror) from error
        return self.signer(passphrase=passphrase)

    # ---------------------------------------------------------------- SM2, rotation

    def import_sm2(
        self, key: Path, certificates: Path, *, key_passphrase: str | None = None, passphrase: str | None
    ) -> Sm2Signer:
        """Take an SM2 key and its certificates into the folder; an earlier SM2 key goes to `retired/`.

        Args:
            key: PKCS#8 in PEM.
            certificates: PEM or DER, the key's own first, then its issuers.
            key_passphrase: of the file `key`, or None where it has none.
            passphrase: of this folder; a certified key is not kept without one.

        Raises: CustodyError; nothing is changed then.
        """
        if not passphrase or (self.has_key and not self.is_encrypted):
            raise CustodyError("custody.sm2_needs_passphrase", path=self.path)
        found = read_private_key(self._read(key), passphrase=key_passphrase, path=key)
        if found.algorithm != "sm2-sm3":
            raise CustodyError("custody.key_not_sm2", path=key, found=found.algorithm)
        chain = _certificates(self._read(certificates), certificates)
        notes = self.software_signer(passphrase=passphrase)
        signer = Sm2Signer(found.secret, chain, note_signer=notes, memory=self._memory())
        try:
            if self.has_sm2_key:
                earlier = self._sm2_signer(self.path / _SM2, notes, passphrase)
                if earlier.public_key == signer.public_key:
                    raise CustodyError("custody.key_known", key_id=signer.public_key.key_id)
                self._retire(self.path / _SM2, earlier)
            pem = write_private_key(found, passphrase=passphrase, random=self._random) + certificates_pem(signer.certificates)
            self._write(self.path / _SM2, pem, replace=True)
        except OSError as error:
            raise CustodyError("custody.key_folder", path=self.path, reason=error.strerror) from error
        return signer

    def next_signer(self, *, passphrase: str | None = None) -> SoftwareSigner:
        """The Ed25519 key that is to follow, made at first use and kept aside until `promote_next`. Raises CustodyError."""
        self.software_signer(passphrase=passphrase)  # a wrong passphrase must not make a key under another one
        return self._made(self.path / _NEXT, passphrase)

    def promote_next(self, *, passphrase: str | None = None) -> SoftwareSigner:
        """Make the next Ed25519 key the one in use and keep the earlier one in `retired/`. Raises CustodyError."""
        earlier = self.software_signer(passphrase=passphrase)
        try:
            self._retire(self.path / _ED25519, earlier)
            os.replace(self.path / _NEXT, self.path / _ED25519)
        except OSError as error:
            raise CustodyError("custody.key_folder", path=self.path, reason=error.strerror) from error
        return self.software_signer(passphrase=passphrase)

    def _retire(self, path: Path, signer: SoftwareSigner | Sm2Signer) -> None:
        """A copy, so that the folder has a key in use at every moment."""
        self._write(self.path / _RETIRED / f"{signer.public_key.key_id}.pem", self._read(path), replace=True)

    def retired_signers(self, *, passphrase: str | None = None) -> tuple[SoftwareSigner | Sm2Signer, ...]:
        """The keys that were in use before, by key id. Raises CustodyError."""
        return tuple(signer for _, signer in self._retired(passphrase))

    def _retired(self, passphrase: str | None) -> list[tuple[Path, SoftwareSigner | Sm2Signer]]:
        notes = self.software_signer(passphrase=passphrase)
        found: list[tuple[Path, SoftwareSigner | Sm2Signer]] = []
        for path in self._private_files():
            if path.parent.name != _RETIRED:
                continue
            certified = b"CERTIFICATE" in self._read(path)
            signer = self._sm2_signer(path, notes, passphrase) if certified else self._software_signer(path, passphrase)
            # a crash between the two steps of `promote_next` leaves a copy of the key in use
            if signer.public_key != notes.public_key:
                found.append((path, signer))
        return found


def _certificates(data: bytes, path: Path) -> tuple[Certificate, ...]:
    """The certificates of a file. Raises CustodyError."""
    try:
        return parse_certificates_pem_or_der(data, where=str(path))
    except FormatError as error:
        raise CustodyError("custody.certificates_unreadable", path=path, reason=str(error)) from error


def _pem_of(certificates: tuple[Certificate, ...]) -> bytes:
    return certificates_pem(tuple(each.der for each in certificates))
