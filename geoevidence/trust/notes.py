"""Signed notes, log checkpoints and log proofs as text files (C2SP signed-note, tlog-checkpoint, tlog-proof).

Each parser accepts the one encoding that its writer gives: `parse(x).to_bytes() == x`.
Signatures are parsed here and checked by `SignedNote.verify`; other parties' signatures
(witnesses) may stand beside ours. Raises FormatError or SignatureError. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Optional

from geoevidence.trust.canonical import base64_text, base64_value
from geoevidence.trust.errors import FormatError, SignatureError
from geoevidence.trust.signatures import PublicKey

_PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_ED25519_TYPE = 0x01
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_MAX_NOTE = 1 << 20


def note_key_name(key: PublicKey) -> str:
    """Name under which a key signs notes: `geoevidence-<chain>`."""
    return f"geoevidence-{key.chain}"


def note_key_hash(name: str, public_key: bytes) -> bytes:
    """First 4 bytes of SHA-256(name || 0x0A || 0x01 || Ed25519 public key) (signed-note, section on signature types)."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + bytes([_ED25519_TYPE]) + public_key).digest()[:4]


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
        """Raises SignatureError unless `key` signed this note under its own name."""
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
