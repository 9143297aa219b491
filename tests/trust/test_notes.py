"""Signed notes, checkpoints, log proofs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.trust import (
    FormatError,
    GeoEvidenceError,
    LogCheckpoint,
    NoteSignature,
    SignatureError,
    SignedNote,
    TlogProof,
    note_key_hash,
    parse_checkpoint,
    parse_note,
    parse_proof,
    verify_ed25519,
)
from geoevidence.trust.canonical import base64_value
from tests.trust.builder import ORIGIN, Key

# The example of the Go package golang.org/x/mod/sumdb/note
NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
NOTE_KEY = base64_value("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", where="vkey")[1:]

HASHES = st.binary(min_size=32, max_size=32)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="+"), min_size=1, max_size=12)
SIGNATURES = st.builds(NoteSignature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=70))


def test_note_of_the_go_package() -> None:
    note = parse_note(NOTE)
    (signature,) = note.signatures
    assert note.to_bytes() == NOTE
    assert signature.name == "PeterNeumann"
    assert signature.key_hash.hex() == "c74f20a3" and note_key_hash("PeterNeumann", NOTE_KEY) == signature.key_hash
    verify_ed25519(NOTE_KEY, signature.signature, note.text.encode())


def test_checkpoint_is_signed_by_name_and_key() -> None:
    key, other = Key(1), Key(2)
    checkpoint, note = parse_checkpoint(key.checkpoint(7, b"r" * 32))
    assert checkpoint == LogCheckpoint(ORIGIN, 7, b"r" * 32)
    assert note.text == f"{ORIGIN}\n7\n{'cnJy' * 10}cnI=\n"
    note.verify(key.public)
    with pytest.raises(SignatureError) as caught:
        note.verify(other.public)
    assert caught.value.message_id == "trust.note_not_signed"
    with pytest.raises(SignatureError):
        SignedNote(note.text.replace("7", "8"), note.signatures).verify(key.public)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30),
    st.lists(SIGNATURES, min_size=1, max_size=3, unique_by=lambda s: (s.name, s.key_hash)),
)
def test_note_round_trip(text: str, signatures: list[NoteSignature]) -> None:
    note = SignedNote(text + "\n", tuple(signatures))
    assert parse_note(note.to_bytes()) == note


@given(
    HASHES,
    st.integers(0, 10**18 - 1),
    st.lists(HASHES, max_size=10),
    st.none() | st.binary(max_size=50),
    st.integers(0, 10**18 - 1),
)
def test_proof_round_trip(root: bytes, size: int, hashes: list[bytes], extra: bytes | None, index: int) -> None:
    proof = TlogProof(index, tuple(hashes), Key(1).checkpoint(size, root), extra)
    assert parse_proof(proof.to_bytes()) == proof
    assert parse_proof(proof.to_bytes()).to_bytes() == proof.to_bytes()


CHECKPOINT = Key(1).checkpoint(7, b"r" * 32)
PROOF = TlogProof(6, (b"h" * 32,), CHECKPOINT, b"leaf").to_bytes()


@given(st.integers(0, len(PROOF) - 1), st.integers(1, 255))
def test_proof_has_one_encoding(place: int, change: int) -> None:
    changed = bytearray(PROOF)
    changed[place] ^= change
    try:
        parsed = parse_proof(bytes(changed))
    except GeoEvidenceError:
        return
    assert parsed.to_bytes() == bytes(changed)


@given(st.integers(0, len(PROOF) - 1), st.integers(0, 3))
def test_cut_or_doubled_proofs_are_refused_or_the_same(place: int, size: int) -> None:
    for data in (PROOF[:place] + PROOF[place + size + 1 :], PROOF[: place + size] + PROOF[place:]):
        if data == PROOF:
            continue
        with contextlib.suppress(GeoEvidenceError):
            assert parse_proof(data).to_bytes() == data


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.replace(b"\n7\n", b"\n07\n"),
        lambda d: d.replace(b"\n7\n", b"\n-7\n"),
        lambda d: d.replace(b"\n7\n", b"\n7\next\n"),
        lambda d: d.replace(b"\n7\n", b"\n1" + b"0" * 18 + b"\n"),
        lambda d: d.replace(b"cnI=\n", b"cnJ=\n"),
        lambda d: d.replace(b"cnJycnI=\n", b"cnI=\n"),
        lambda d: d.replace(b"geoevidence/W", b"\ngeoevidence/W"),
        lambda d: d[:-1],
        lambda d: d + b"\n",
        lambda d: d + d.splitlines(keepends=True)[-1],
        lambda d: d.replace(b"\n", b"\r\n"),
        lambda d: d.replace("\u2014".encode(), b"-"),
        lambda d: d.replace("\u2014 ".encode(), "\u2014  ".encode()),
        lambda d: d.partition(b"\n\n")[0] + b"\n",
        lambda d: d.partition(b"\n\n")[0] + b"\n\n",
        lambda d: b"\xff" + d,
        lambda d: b"",
        lambda d: d + b"x" * (1 << 20),
    ],
)
def test_checkpoint_refuses(change: object) -> None:
    data = change(CHECKPOINT)  # type: ignore[operator]
    assert data != CHECKPOINT
    with pytest.raises(FormatError):
        parse_checkpoint(data, where="x")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.replace(b"@v1", b"@v2"),
        lambda d: d.replace(b"index 6", b"index 06"),
        lambda d: d.replace(b"index 6", b"index  6"),
        lambda d: d.replace(b"index 6\n", b""),
        lambda d: d.replace(b"extra bGVhZg==", b"extra bGVhZh=="),
        lambda d: d.replace(b"extra bGVhZg==\n", b"extra bGVhZg==\nextra bGVhZg==\n"),
        lambda d: d.replace(b"index 6\n", b"index 6\nAAAA\n"),
        lambda d: d.replace(b"index 6\n", b"index 6\n" + b"aGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGg=\n" * 63),
        lambda d: d.partition(b"\n\n")[0],
        lambda d: b"c2sp.org/tlog-proof@v1\n\n" + CHECKPOINT,
        lambda d: b"\xff" + d,
    ],
)
def test_proof_refuses(change: object) -> None:
    data = change(PROOF)  # type: ignore[operator]
    assert data != PROOF
    with pytest.raises(FormatError):
        parse_proof(data)


@pytest.mark.parametrize(
    ("text", "signatures"),
    [
        ("no end", (NoteSignature("a", b"1234", b"s"),)),
        ("tab\t\n", (NoteSignature("a", b"1234", b"s"),)),
        ("x\n", ()),
        ("x\n", (NoteSignature("a b", b"1234", b"s"),)),
        ("x\n", (NoteSignature("a+b", b"1234", b"s"),)),
        ("x\n", (NoteSignature("", b"1234", b"s"),)),
        ("x\n", (NoteSignature("a", b"123", b"s"),)),
        ("x\n", (NoteSignature("a", b"1234", b""),)),
    ],
)
def test_notes_that_could_not_be_read_are_not_made(text: str, signatures: tuple[NoteSignature, ...]) -> None:
    with pytest.raises(FormatError):
        SignedNote(text, signatures)


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [("", 1, bytes(32)), ("a\nb", 1, bytes(32)), ("a", -1, bytes(32)), ("a", 1, bytes(31)), ("a", 10**18, bytes(32))],
)
def test_checkpoints_that_could_not_be_read_are_not_made(origin: str, size: int, root: bytes) -> None:
    with pytest.raises(FormatError):
        LogCheckpoint(origin, size, root)


@given(st.binary(max_size=120))
def test_hostile_bytes_raise_only_our_error(data: bytes) -> None:
    for parse in (parse_note, parse_checkpoint, parse_proof):
        with pytest.raises(GeoEvidenceError):
            parse(data)
