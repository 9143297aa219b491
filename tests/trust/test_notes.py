"""Signed notes, checkpoints, log proofs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.trust import (
    Cosignature,
    FormatError,
    GeoEvidenceError,
    LogCheckpoint,
    NoteSignature,
    PublicKey,
    SignatureError,
    SignedNote,
    TlogProof,
    cosignature_key_hash,
    note_key_hash,
    note_key_name,
    parse_checkpoint,
    parse_cosignature,
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


# The example of C2SP tlog-cosignature, section Format: a checkpoint with its log's signature and a witness's
COSIGNED = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()
MESSAGE = (
    b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
)
# Verifier keys of witnesses that run (test data of github.com/transparency-dev/formats, note_cosigv1_test.go)
VERIFIER_KEY = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"


def cosignature(key: Key, text: str, seconds: int = 1795420800) -> Cosignature:
    name = note_key_name(key.public)
    unsigned = Cosignature(name, cosignature_key_hash(name, key.public.raw), seconds, bytes(64))
    return Cosignature(name, unsigned.key_hash, seconds, key.sign(unsigned.message(text)))


def test_cosignature_of_the_specification() -> None:
    log_line, witness_line = parse_note(COSIGNED).signatures
    found = Cosignature.of_signature(witness_line)
    assert (found.name, found.seconds, found.time) == ("witness.example.com/w1", 1679315147, "2023-03-20T12:25:47Z")
    text = parse_note(COSIGNED).text
    assert found.message(text) == MESSAGE
    alone = found.to_bytes(text)
    assert parse_cosignature(alone) == (LogCheckpoint.from_text(text), found)
    assert alone.replace(b"\n\n", b"\n\n" + COSIGNED.splitlines(keepends=True)[4]) == COSIGNED
    with pytest.raises(FormatError):
        Cosignature.of_signature(log_line)
    with pytest.raises(FormatError):
        parse_cosignature(COSIGNED)


def test_key_hash_of_a_witness() -> None:
    name, key_hash, material = VERIFIER_KEY.split("+")
    raw = base64_value(material, where="vkey")
    assert raw[0] == 4 and cosignature_key_hash(name, raw[1:]).hex() == key_hash
    assert note_key_hash(name, raw[1:]).hex() != key_hash


def test_cosignature_is_by_name_key_time_and_text() -> None:
    key, other = Key(1), Key(2)
    text = LogCheckpoint(ORIGIN, 7, b"r" * 32).to_text()
    found = cosignature(key, text)
    assert parse_cosignature(found.to_bytes(text)) == (LogCheckpoint(ORIGIN, 7, b"r" * 32), found)
    found.verify(key.public, text)
    assert found.time == "2026-11-23T08:00:00Z"
    for wrong, signer, of in (
        (found, other, text),
        (found, key, text.replace("7", "8")),
        (Cosignature(found.name, found.key_hash, found.seconds + 1, found.signature), key, text),
        (Cosignature(found.name, note_key_hash(found.name, key.public.raw), found.seconds, found.signature), key, text),
        (Cosignature("witness", cosignature_key_hash("witness", key.public.raw), found.seconds, found.signature), key, text),
    ):
        with pytest.raises(SignatureError):
            wrong.verify(signer.public, of)


def test_a_checkpoint_signature_is_no_cosignature_and_the_reverse() -> None:
    """The header line keeps the two apart: a witness that is also a log signs each with its own message."""
    key = Key(1)
    checkpoint, note = parse_checkpoint(key.checkpoint(7, b"r" * 32))
    text = checkpoint.to_text()
    found = cosignature(key, text)
    plain = NoteSignature(found.name, note_key_hash(found.name, key.public.raw), found.signature)
    with pytest.raises(SignatureError):
        SignedNote(text, (plain,)).verify(key.public)
    with pytest.raises(SignatureError):
        Cosignature(found.name, found.key_hash, found.seconds, note.signatures[0].signature).verify(key.public, text)


def test_notes_are_signed_with_ed25519_only() -> None:
    # the generator of P-256 (SEC 2 section 2.4.2) is a point, so it is a key
    point = bytes.fromhex(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    )
    key = PublicKey("ecdsa-p256-sha256", point)
    text = LogCheckpoint(ORIGIN, 7, b"r" * 32).to_text()
    name = note_key_name(key)
    note = SignedNote(text, (NoteSignature(name, note_key_hash(name, key.raw), b"s"),))
    for check in (
        lambda: note.verify(key),
        lambda: Cosignature(name, cosignature_key_hash(name, key.raw), 1, bytes(64)).verify(key, text),
    ):
        with pytest.raises(SignatureError) as caught:
            check()
        assert caught.value.message_id == "trust.note_algorithm"


@given(HASHES, st.integers(0, 10**18 - 1), st.integers(0, 253402300799), NAMES, st.binary(min_size=64, max_size=64))
def test_cosignature_round_trip(root: bytes, size: int, seconds: int, name: str, signature: bytes) -> None:
    checkpoint = LogCheckpoint(ORIGIN, size, root)
    found = Cosignature(name, b"hash", seconds, signature)
    data = found.to_bytes(checkpoint.to_text())
    assert parse_cosignature(data) == (checkpoint, found)
    assert len(found.time) == 20 and found.time <= "9999-12-31T23:59:59Z"


COSIGNATURE = cosignature(Key(1), LogCheckpoint(ORIGIN, 7, b"r" * 32).to_text()).to_bytes(
    LogCheckpoint(ORIGIN, 7, b"r" * 32).to_text()
)


@given(st.integers(0, len(COSIGNATURE) - 1), st.integers(1, 255))
def test_a_changed_cosignature_is_refused(place: int, change: int) -> None:
    changed = bytearray(COSIGNATURE)
    changed[place] ^= change
    with pytest.raises(GeoEvidenceError):
        checkpoint, found = parse_cosignature(bytes(changed))
        assert found.to_bytes(checkpoint.to_text()) == bytes(changed)
        found.verify(Key(1).public, checkpoint.to_text())


@pytest.mark.parametrize(
    "raw", [b"hash" + bytes(71), b"hash" + bytes(73), b"hash" + (253402300800).to_bytes(8, "big") + bytes(64)]
)
def test_cosignature_refuses(raw: bytes) -> None:
    text = LogCheckpoint(ORIGIN, 7, b"r" * 32).to_text()
    data = SignedNote(text, (NoteSignature("w", raw[:4], raw[4:]),)).to_bytes()
    with pytest.raises(FormatError):
        parse_cosignature(data)


@pytest.mark.parametrize(
    ("key_hash", "seconds", "signature"),
    [(b"123", 1, bytes(64)), (b"1234", -1, bytes(64)), (b"1234", 253402300800, bytes(64)), (b"1234", 1, bytes(63))],
)
def test_cosignatures_that_could_not_be_read_are_not_made(key_hash: bytes, seconds: int, signature: bytes) -> None:
    with pytest.raises(FormatError):
        Cosignature("w", key_hash, seconds, signature)


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
    for parse in (parse_note, parse_checkpoint, parse_proof, parse_cosignature):
        with pytest.raises(GeoEvidenceError):
            parse(data)
