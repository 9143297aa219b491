"""Signed notes, log checkpoints, cosignatures and log proofs as text files.

C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof. Each parser accepts the one encoding
that its writer gives: `parse(x).to_bytes() == x`. Signatures are parsed here and checked by `SignedNote.verify`
and `Cosignature.verify`; other parties' signatures may stand beside ours. All are Ed25519.
Raises FormatError or SignatureError. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Optional

from geoevidence.trust.canonical import base64_text, base64_value
from geoevidence.trust.errors import FormatError, SignatureError
from geoevidence.trust.signatures import PublicKey

_PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_ED25519_TYPE = 0x01
_COSIGNATURE_TYPE = 0x04
_LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_MAX_NOTE = 1 << 20


def note_key_name(key: PublicKey) -> str:
    """Name under which a key signs notes: `geoevidence-<chain>`."""
    return f"geoevidence-{key.chain}"


def note_key_hash(name: str, public_key: bytes) -> bytes:
    """First 4 bytes of SHA-256(name || 0x0A || 0x01 || Ed25519 public key) (signed-note, section on signature types)."""
    return _key_hash(name, _ED25519_TYPE, public_key)


def cosignature_key_hash(name: str, public_key: bytes) -> bytes:
    """First 4 bytes of SHA-256(name || 0x0A || 0x04 || Ed25519 public key) (tlog-cosignature, section Format)."""
    return _key_hash(name, _COSIGNATURE_TYPE, public_key)


def _key_hash(name: str, kind: int, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode("utf-8") + b"\n" + bytes([kind]) + public_key).digest()[:4]


def _require_ed25519(key: PublicKey) -> None:
    # the key hash does not bind the algorithm of another key to its bytes
    if key.algorithm != "ed25519":
        raise SignatureError("trust.note_algorithm", name=note_key_name(key), found=key.algorithm)


@dataclass(frozen=True)
class NoteSignature:
    """One signature line.

    name: key name, without spaces and plus signs.
    key_hash: 4 bytes that tell keys of one name apart.
    signature: raw signature.
    """

    name: str
    key_hash: bytes
    signature: bytes


@dataclass(frozen=True)
class SignedNote:
    """A text with its signatures.

    text: the signed text; ends with a newline.
    signatures: in the order of the file, at least one.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n") or any(ord(c) < 32 and c != "\n" for c in self.text):
            raise FormatError("trust.note_text")
        if not self.signatures or len({(each.name, each.key_hash) for each in self.signatures}) != len(self.signatures):
            raise FormatError("trust.note_signatures")
        for each in self.signatures:
            if not each.name or "+" in each.name or any(c.isspace() or ord(c) < 32 for c in each.name):
                raise FormatError("trust.note_signatures")
            if len(each.key_hash) != 4 or not each.signature:
                raise FormatError("trust.note_signatures")

    def to_bytes(self) -> bytes:
        lines = [f"\u2014 {each.name} {base64_text(each.key_hash + each.signature)}\n" for each in self.signatures]
        return (self.text + "\n" + "".join(lines)).encode("utf-8")

    def verify(self, key: PublicKey) -> None:
        """Raises SignatureError unless `key`, an Ed25519 key, signed this note under its own name."""
        _require_ed25519(key)
        name = note_key_name(key)
        wanted = note_key_hash(name, key.raw)
        for each in self.signatures:
            if (each.name, each.key_hash) == (name, wanted):
                key.verify(each.signature, self.text.encode("utf-8"))
                return
        raise SignatureError("trust.note_not_signed", name=name)


def parse_note(data: bytes, *, where: str = "note") -> SignedNote:
    """The note of its bytes. Raises FormatError."""
    if len(data) > _MAX_NOTE:
        raise FormatError("trust.note_syntax", where=where)
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("trust.note_syntax", where=where) from error
    # signed-note: the signatures follow the last empty line
    end = text.rfind("\n\n")
    if end < 0 or not text.endswith("\n"):
        raise FormatError("trust.note_syntax", where=where)
    signatures = []
    for line in text[end + 2 : -1].split("\n"):
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "\u2014":
            raise FormatError("trust.note_syntax", where=where)
        raw = base64_value(parts[2], where=where)
        signatures.append(NoteSignature(parts[1], raw[:4], raw[4:]))
    return SignedNote(text[: end + 1], tuple(signatures))


@dataclass(frozen=True)
class LogCheckpoint:
    """Head of a log.

    origin: name of the log, `geoevidence/<workspace id>/<case id>`.
    tree_size: number of leaves.
    root: 32 bytes (RFC 9162).
    """

    origin: str
    tree_size: int
    root: bytes

    def __post_init__(self) -> None:
        if not self.origin or any(ord(c) < 32 for c in self.origin):
            raise FormatError("trust.checkpoint_syntax", where="checkpoint")
        if not 0 <= self.tree_size < 10**18 or len(self.root) != 32:
            raise FormatError("trust.checkpoint_syntax", where="checkpoint")

    def to_text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.tree_size}\n{base64_text(self.root)}\n"

    @classmethod
    def from_text(cls, text: str, *, where: str = "checkpoint") -> LogCheckpoint:
        """Exactly three lines: extension lines of other logs are refused. Raises FormatError."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not _NUMBER.fullmatch(lines[1]):
            raise FormatError("trust.checkpoint_syntax", where=where)
        root = base64_value(lines[2], where=where)
        if not lines[0] or len(root) != 32:
            raise FormatError("trust.checkpoint_syntax", where=where)
        return cls(lines[0], int(lines[1]), root)


def parse_checkpoint(data: bytes, *, where: str = "checkpoint") -> tuple[LogCheckpoint, SignedNote]:
    """The checkpoint and the note that carries it. Raises FormatError."""
    note = parse_note(data, where=where)
    return LogCheckpoint.from_text(note.text, where=where), note


@dataclass(frozen=True)
class Cosignature:
    """A witness's statement that it has seen a checkpoint, and no other of its size, by a time (tlog-cosignature, Ed25519).

    name: key name of the witness.
    key_hash: 4 bytes, `cosignature_key_hash` of its key.
    seconds: Unix time by the clock of the witness, until the year 9999.
    signature: 64 bytes.
    """

    name: str
    key_hash: bytes
    seconds: int
    signature: bytes

    def __post_init__(self) -> None:
        if len(self.key_hash) != 4 or not 0 <= self.seconds <= _LAST_SECOND or len(self.signature) != 64:
            raise FormatError("trust.cosignature_syntax", where=self.name)

    @property
    def time(self) -> str:
        """The time of the witness, `YYYY-MM-DDThh:mm:ssZ`."""
        return f"{(datetime(1970, 1, 1) + timedelta(seconds=self.seconds)).isoformat()}Z"

    @property
    def latest(self) -> str:
        """The end of that second: the checkpoint was there before it. The last second there is has none after it."""
        return f"{(datetime(1970, 1, 1) + timedelta(seconds=min(self.seconds + 1, _LAST_SECOND))).isoformat()}Z"

    def message(self, text: str) -> bytes:
        """The bytes that are signed for the checkpoint of that signed text."""
        return f"cosignature/v1\ntime {self.seconds}\n{text}".encode()

    def verify(self, key: PublicKey, text: str) -> None:
        """Raises SignatureError unless `key`, under its own name, cosigned the checkpoint of that signed text."""
        _require_ed25519(key)
        name = note_key_name(key)
        if (self.name, self.key_hash) != (name, cosignature_key_hash(name, key.raw)):
            raise SignatureError("trust.note_not_signed", name=name)
        key.verify(self.signature, self.message(text))

    def to_bytes(self, text: str) -> bytes:
        """The cosignature as a note of its own, with the signed text of its checkpoint: a `.cosig` file."""
        raw = self.seconds.to_bytes(8, "big") + self.signature
        return SignedNote(text, (NoteSignature(self.name, self.key_hash, raw),)).to_bytes()

    @classmethod
    def of_signature(cls, signature: NoteSignature, *, where: str = "cosignature") -> Cosignature:
        """The cosignature in a signature line. Raises FormatError."""
        raw = signature.signature
        if len(raw) != 72 or int.from_bytes(raw[:8], "big") > _LAST_SECOND:
            raise FormatError("trust.cosignature_syntax", where=where)
        return cls(signature.name, signature.key_hash, int.from_bytes(raw[:8], "big"), raw[8:])


def parse_cosignature(data: bytes, *, where: str = "cosignature") -> tuple[LogCheckpoint, Cosignature]:
    """The checkpoint and its one cosignature, of the bytes of a `.cosig` file. Raises FormatError."""
    checkpoint, note = parse_checkpoint(data, where=where)
    if len(note.signatures) != 1:
        raise FormatError("trust.cosignature_syntax", where=where)
    return checkpoint, Cosignature.of_signature(note.signatures[0], where=where)


@dataclass(frozen=True)
class TlogProof:
    """A leaf's inclusion proof with the checkpoint it leads to.

    index: of the leaf, from 0.
    hashes: inclusion proof, leaf side first.
    checkpoint: bytes of the signed checkpoint.
    extra: bytes that travel along (ours: the leaf), or None.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: Optional[bytes] = None

    def to_bytes(self) -> bytes:
        extra = "" if self.extra is None else f"extra {base64_text(self.extra)}\n"
        hashes = "".join(f"{base64_text(each)}\n" for each in self.hashes)
        return f"{_PROOF_HEADER}\n{extra}index {self.index}\n{hashes}\n".encode() + self.checkpoint


def parse_proof(data: bytes, *, where: str = "tlog-proof") -> TlogProof:
    """The proof of its bytes; the checkpoint in it is parsed as well. Raises FormatError."""
    head, gap, checkpoint = bytes(data).partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("trust.proof_syntax", where=where) from error
    if not gap or lines.pop(0) != _PROOF_HEADER or not lines:
        raise FormatError("trust.proof_syntax", where=where)
    extra = None
    if lines[0].startswith("extra "):
        extra = base64_value(lines.pop(0)[6:], where=where)
    if not lines or not lines[0].startswith("index ") or not _NUMBER.fullmatch(lines[0][6:]):
        raise FormatError("trust.proof_syntax", where=where)
    hashes = tuple(base64_value(line, where=where) for line in lines[1:])
    if len(hashes) > 63 or any(len(each) != 32 for each in hashes):
        raise FormatError("trust.proof_syntax", where=where)
    parse_checkpoint(checkpoint, where=where)
    return TlogProof(int(lines[0][6:]), hashes, checkpoint, extra)
