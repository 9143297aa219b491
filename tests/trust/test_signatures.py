"""Ed25519 against published vectors and another implementation; RSA; keys of all algorithms; DSSE envelopes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.trust import (
    ALGORITHMS,
    Envelope,
    EnvelopeSignature,
    FormatError,
    GeoEvidenceError,
    PublicKey,
    SignatureError,
    der,
    pae,
    parse_envelope,
    verify_ed25519,
)
from geoevidence.trust.signatures import _L, _P, HASH_OIDS, parse_rsa_key, verify_rsa_pkcs1, verify_rsa_pss
from tests.trust.authority import openssl, private_key
from tests.trust.builder import Key

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "ed25519.json").read_text())


def refused(public_key: bytes, signature: bytes, message: bytes) -> str | None:
    try:
        verify_ed25519(public_key, signature, message)
    except SignatureError as error:
        return error.message_id
    return None


@pytest.mark.parametrize("vector", VECTORS["rfc8032"], ids=lambda vector: vector["comment"])
def test_rfc_8032(vector: dict[str, str]) -> None:
    key, message, signature = (bytes.fromhex(vector[name]) for name in ("public_key", "message", "signature"))
    assert refused(key, signature, message) is None
    assert refused(key, signature, message + b"\0") == "trust.signature_wrong"
    for bit in range(0, 512, 37):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert refused(key, bytes(changed), message) is not None


@pytest.mark.parametrize("vector", VECTORS["speccheck"], ids=lambda vector: vector["comment"])
def test_edge_cases_of_taming_the_many_eddsas(vector: dict[str, str]) -> None:
    key, message, signature = (bytes.fromhex(vector[name]) for name in ("public_key", "message", "signature"))
    assert (refused(key, signature, message) is None) is vector["accept"]


def test_s_plus_the_order_is_refused() -> None:
    # RFC 8032 section 8.4: malleability; the sum still fits 32 bytes
    key = Key(3)
    signature = key.sign(b"m")
    s = int.from_bytes(signature[32:], "little") + _L
    assert refused(key.public.raw, signature[:32] + s.to_bytes(32, "little"), b"m") == "trust.signature_malleable"


def small_order_points() -> list[bytes]:
    """Encodings of points of small order, also those that are not canonical (Chalkias et al. 2020, table 1)."""
    y8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")
    ys = [0, 1, _P - 1, y8, _P - y8, _P, _P + 1]
    return [(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)]


@pytest.mark.parametrize("point", small_order_points(), ids=lambda point: point.hex()[:8])
def test_small_order_and_other_spellings_of_keys_are_refused(point: bytes) -> None:
    key = Key(3)
    signature = key.sign(b"m")
    assert refused(point, signature, b"m") in ("trust.signature_small_order", "trust.signature_point")
    assert refused(key.public.raw, point + signature[32:], b"m") in ("trust.signature_small_order", "trust.signature_point")
    # the universal forgery: A and R neutral, S = 0 would satisfy the equation for every message
    assert refused(point, point + bytes(32), b"any") in ("trust.signature_small_order", "trust.signature_point")


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(0, 1 << 20))
def test_agrees_with_cryptography(seed: bytes, message: bytes, flip: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    signature = private.sign(message)
    assert refused(public, signature, message) is None
    changed = bytearray(public + signature)
    changed[flip % 96] ^= 1 << flip // 96 % 8
    key, bad = bytes(changed[:32]), bytes(changed[32:])
    with pytest.raises((InvalidSignature, ValueError)):
        Ed25519PublicKey.from_public_bytes(key).verify(bad, message)
    assert refused(key, bad, message) is not None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=70), st.binary(max_size=5))
def test_hostile_bytes_raise_only_our_error(key: bytes, signature: bytes, message: bytes) -> None:
    assert refused(key, signature, message) is not None


def test_fast_enough() -> None:
    """Under 10 ms each: what a log of many events by one key needs. The best of several, as the machine is shared."""
    key = Key(5)
    signature = key.sign(b"m")
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        verify_ed25519(key.public.raw, signature, b"m")
        best = min(best, time.perf_counter() - started)
    assert best < 0.010


def test_key_id_is_as_documented() -> None:
    key = Key(1).public
    assert key.key_id == hashlib.sha256(b"ed25519\0" + key.raw).hexdigest()
    assert key.chain == key.key_id[:8]


def rsa_raw(modulus: int, exponent: int = 65537) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_integer(modulus), der.encode_integer(exponent))


@pytest.mark.parametrize(
    ("algorithm", "raw", "message_id"),
    [
        ("rsa", bytes(32), "trust.key_algorithm"),
        ("ed25519", bytes(31), "trust.key_length"),
        ("ed25519", b"", "trust.key_length"),
        ("ecdsa-p256-sha256", b"\4" + bytes(64), "trust.key_point"),
        ("ecdsa-p256-sha256", bytes(32), "trust.key_point"),
        ("ecdsa-p384-sha384", b"\4" + bytes(64), "trust.key_point"),
        ("sm2-sm3", b"\4" + bytes(64), "trust.key_point"),
        ("rsa-pkcs1-sha256", b"", "trust.der_one"),
        ("rsa-pkcs1-sha256", rsa_raw(1 << 2047 | 1) + b"\5\0", "trust.der_one"),
        ("rsa-pkcs1-sha256", der.encode(der.SEQUENCE, der.encode_integer(1 << 2047 | 1)), "trust.der_structure"),
        ("rsa-pss-sha256", rsa_raw(1 << 2046 | 1), "trust.key_rsa_bits"),
        ("rsa-pss-sha256", rsa_raw(1 << 8192 | 1), "trust.key_rsa_bits"),
        ("rsa-pss-sha256", rsa_raw(-(1 << 2047 | 1)), "trust.key_rsa_bits"),
        ("rsa-pss-sha256", rsa_raw(1 << 2047), "trust.key_rsa_numbers"),
        ("rsa-pss-sha256", rsa_raw(1 << 2047 | 1, 1), "trust.key_rsa_numbers"),
        ("rsa-pss-sha256", rsa_raw(1 << 2047 | 1, 65536), "trust.key_rsa_numbers"),
        ("rsa-pss-sha256", rsa_raw(1 << 2047 | 1, -3), "trust.key_rsa_numbers"),
        ("rsa-pss-sha256", rsa_raw(1 << 2047 | 1, 1 << 256 | 1), "trust.key_rsa_numbers"),
    ],
)
def test_keys_that_are_none_are_refused(algorithm: str, raw: bytes, message_id: str) -> None:
    with pytest.raises(FormatError) as caught:
        PublicKey(algorithm, raw)
    assert caught.value.message_id == message_id


# ---- the algorithm belongs to the key -------------------------------------------------------


class Signer(NamedTuple):
    public: PublicKey
    sign: Callable[[bytes], bytes]


def signer(algorithm: str) -> Signer:
    """A key of `cryptography` with the one way in which it signs."""
    if algorithm == "ed25519":
        key = Key(7)
        return Signer(key.public, key.sign)
    if algorithm.startswith("rsa"):
        private = private_key("rsa")
        pad = padding.PKCS1v15() if "pkcs1" in algorithm else padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        raw = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        return Signer(PublicKey(algorithm, raw), lambda message: private.sign(message, pad, hashes.SHA256()))
    private = private_key("P-256" if "256-" in algorithm else "P-384")
    hashed = hashes.SHA256() if "256-" in algorithm else hashes.SHA384()
    raw = private.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return Signer(PublicKey(algorithm, raw), lambda message: private.sign(message, ec.ECDSA(hashed)))


SIGNERS = [each for each in ALGORITHMS if each != "sm2-sm3"]


def problem(key: PublicKey, signature: bytes, message: bytes) -> str | None:
    try:
        key.verify(signature, message)
    except SignatureError as error:
        assert "{" not in error.render("zh") + error.render("en")
        return error.message_id
    return None


def test_algorithms_are_those_documented() -> None:
    assert ALGORITHMS == ("ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519", "rsa-pkcs1-sha256", "rsa-pss-sha256", "sm2-sm3")


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_each_algorithm_verifies_its_own_signatures_alone(algorithm: str) -> None:
    key, sign = signer(algorithm)
    signature = sign(b"m")
    assert problem(key, signature, b"m") is None and problem(key, signature, b"M") is not None
    for bad in (b"", signature[:-1], signature + b"\0", b"\0" + signature, bytes(len(signature)), b"\xff" * len(signature)):
        assert problem(key, bad, b"m") is not None
    for other in SIGNERS:
        if other != algorithm:
            assert problem(key, signer(other).sign(b"m"), b"m") is not None
    assert key.key_id == hashlib.sha256(algorithm.encode() + b"\0" + key.raw).hexdigest()


@pytest.mark.parametrize("algorithm", SIGNERS)
@settings(max_examples=15, deadline=None)
@given(message=st.binary(max_size=200), flip=st.integers(0, 1 << 20))
def test_changed_signatures_are_refused(algorithm: str, message: bytes, flip: int) -> None:
    key, sign = signer(algorithm)
    signature = bytearray(sign(message))
    assert problem(key, bytes(signature), message) is None
    signature[flip % len(signature)] ^= 1 << flip // len(signature) % 8
    assert problem(key, bytes(signature), message) is not None


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_spki_is_read_by_others(algorithm: str, tmp_path: Path) -> None:
    key, sign = signer(algorithm)
    loaded = serialization.load_der_public_key(key.to_spki())
    assert loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo) == key.to_spki()
    (tmp_path / "key").write_bytes(key.to_spki())
    (tmp_path / "m").write_bytes(b"message")
    (tmp_path / "s").write_bytes(sign(b"message"))
    options = {
        "ed25519": ["-rawin"],
        "rsa-pss-sha256": ["-rawin", "-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:32"],
        "ecdsa-p384-sha384": ["-rawin", "-digest", "sha384"],
    }.get(algorithm, ["-rawin", "-digest", "sha256"])
    verify = [
        "pkeyutl",
        "-verify",
        "-pubin",
        "-keyform",
        "DER",
        "-inkey",
        tmp_path / "key",
        "-in",
        tmp_path / "m",
        "-sigfile",
        tmp_path / "s",
    ]
    assert openssl(*verify, *options, check=False).returncode == 0
    (tmp_path / "m").write_bytes(b"other")
    assert openssl(*verify, *options, check=False).returncode != 0


def test_one_rsa_key_is_two_keys() -> None:
    first, second = signer("rsa-pkcs1-sha256"), signer("rsa-pss-sha256")
    assert first.public.raw == second.public.raw and first.public.key_id != second.public.key_id
    assert first.public.to_spki() == second.public.to_spki()
    assert (
        problem(first.public, second.sign(b"m"), b"m")
        == problem(second.public, first.sign(b"m"), b"m")
        == "trust.signature_wrong"
    )


# ---- RSA ------------------------------------------------------------------------------------


def encrypt(block: bytes) -> bytes:
    """What the holder of the private key can make of any block: a signature with another content than the standard has."""
    numbers = private_key("rsa").private_numbers()
    modulus = numbers.public_numbers.n
    return pow(int.from_bytes(block, "big"), numbers.d, modulus).to_bytes(256, "big")


def test_pkcs1_blocks_other_than_the_one() -> None:
    key = signer("rsa-pkcs1-sha256").public
    digest = hashlib.sha256(b"m").digest()
    oid = der.encode_oid(HASH_OIDS["sha256"])

    def block(info: bytes, *, start: bytes = b"\0\1", fill: int = 0xFF, end: bytes = b"\0", after: bytes = b"") -> bytes:
        padding_length = 256 - len(start) - len(end) - len(info) - len(after)
        return start + bytes([fill]) * padding_length + end + info + after

    def info(parameters: bytes = b"\5\0", value: bytes = digest, identifier: bytes = oid) -> bytes:
        algorithm = der.encode(der.SEQUENCE, identifier, parameters)
        return der.encode(der.SEQUENCE, algorithm, der.encode(der.OCTET_STRING, value))

    assert problem(key, encrypt(block(info())), b"m") is None
    bad = {
        "no parameters": block(info(b"")),
        "hidden parameters": block(info(der.encode(der.OCTET_STRING, b"x" * 20))),
        "another hash": block(info(identifier=der.encode_oid(HASH_OIDS["sha384"]))),
        "another digest": block(info(value=hashlib.sha256(b"M").digest())),
        "block type 2": block(info(), start=b"\0\2"),
        "block type 0": block(info(), fill=0),
        "short padding and garbage after": block(info(), after=bytes(100)),
        "garbage in the padding": block(info()).replace(b"\xff" * 8, b"\xff" * 7 + b"\xfe", 1),
        "no end of the padding": block(info(), end=b"\xff"),
        "digest alone": block(digest),
        "long form of a length": block(info().replace(b"\x30\x0d", b"\x30\x81\x0d", 1)),
    }
    for name, each in bad.items():
        assert len(each) == 256 and problem(key, encrypt(each), b"m") == "trust.signature_wrong", name


def test_rsa_signatures_out_of_range() -> None:
    for algorithm in ("rsa-pkcs1-sha256", "rsa-pss-sha256"):
        key, sign = signer(algorithm)
        modulus, _ = parse_rsa_key(key.raw)
        number = int.from_bytes(sign(b"m"), "big")
        assert problem(key, modulus.to_bytes(256, "big"), b"m") == "trust.signature_range"
        assert problem(key, (number + modulus).to_bytes(257, "big"), b"m") == "trust.signature_length"
        if number + modulus < 1 << 2048:
            assert problem(key, (number + modulus).to_bytes(256, "big"), b"m") == "trust.signature_range"
        for small in (0, 1, modulus - 1):
            assert problem(key, small.to_bytes(256, "big"), b"m") == "trust.signature_wrong"


def pss_block(
    message: bytes,
    *,
    salt: bytes = b"s" * 32,
    mark: int = 1,
    trailer: int = 0xBC,
    top: int = 0,
    before: bytes = b"",
    bits: int = 2048,
) -> bytes:
    """An encoded message of RFC 8017 section 9.1.1, with room for faults."""
    length = (bits - 1 + 7) // 8
    hashed = hashlib.sha256(bytes(8) + hashlib.sha256(message).digest() + salt).digest()
    data = before.ljust(length - len(salt) - 34, b"\0") + bytes([mark]) + salt
    mask = b"".join(hashlib.sha256(hashed + n.to_bytes(4, "big")).digest() for n in range(9))
    block = bytearray(a ^ b for a, b in zip(data, mask, strict=False)) + hashed + bytes([trailer])
    unused = 8 * length - (bits - 1)
    block[0] = block[0] & 0xFF >> unused | top
    return bytes(block)


def test_pss_blocks_other_than_the_one() -> None:
    key = signer("rsa-pss-sha256").public
    assert problem(key, encrypt(pss_block(b"m")), b"m") is None
    bad = {
        "another message": pss_block(b"M"),
        "shorter salt": pss_block(b"m", salt=b"s" * 31),
        "longer salt": pss_block(b"m", salt=b"s" * 33),
        "no salt": pss_block(b"m", salt=b""),
        "another trailer": pss_block(b"m", trailer=0xCC),
        "another mark": pss_block(b"m", mark=2),
        "padding not zero": pss_block(b"m", before=b"\0" * 50 + b"\1"),
        "changed end": pss_block(b"m")[:-2] + b"\0\xbc",
    }
    for name, block in bad.items():
        assert problem(key, encrypt(block), b"m") == "trust.signature_wrong", name
    # the leftmost bit, which is zero: set, where the block is still below the modulus
    modulus, _ = parse_rsa_key(key.raw)
    if int.from_bytes(pss_block(b"m", top=0x80), "big") < modulus:
        assert problem(key, encrypt(pss_block(b"m", top=0x80)), b"m") == "trust.signature_wrong"


def rsa_of(bits: int) -> rsa.RSAPrivateKey:
    """A key whose modulus has exactly that many bits; the generator itself makes even ones alone."""
    if bits % 2 == 0:
        return rsa.generate_private_key(65537, bits)
    p, q = (rsa.generate_private_key(65537, each).private_numbers().p for each in (bits - 1, bits + 1))
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), rsa.RSAPublicNumbers(65537, p * q)
    )
    return numbers.private_key()


@pytest.mark.parametrize("bits", [2048, 2049, 2050, 2055, 2056])
def test_pss_with_moduli_of_all_lengths(bits: int) -> None:
    """8k + 1 bits leave an octet out of the encoded message (RFC 8017 section 9.1)."""
    private = rsa_of(bits)
    raw = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    numbers = private.private_numbers()
    assert numbers.public_numbers.n.bit_length() == bits
    size = (bits + 7) // 8
    for hash_name, hashed in (("sha256", hashes.SHA256()), ("sha512", hashes.SHA512())):
        for salt in (0, 32, 64):
            signature = private.sign(b"m", padding.PSS(padding.MGF1(hashed), salt), hashed)
            verify_rsa_pss(raw, signature, b"m", hash_name=hash_name, salt_length=salt)
            with pytest.raises(SignatureError):
                verify_rsa_pss(raw, signature, b"m", hash_name=hash_name, salt_length=salt + 1)
        signature = private.sign(b"m", padding.PKCS1v15(), hashed)
        verify_rsa_pkcs1(raw, signature, b"m", hash_name=hash_name)

    def judged(block: int, salt_length: int = 32) -> bool:
        signature = pow(block, numbers.d, numbers.public_numbers.n).to_bytes(size, "big")
        try:
            verify_rsa_pss(raw, signature, b"m", salt_length=salt_length)
        except SignatureError as error:
            assert error.message_id == "trust.signature_wrong"
            return False
        return True

    good = int.from_bytes(pss_block(b"m", bits=bits), "big")
    assert judged(good)
    # bits above the encoded message, still below the modulus
    for bit in range(bits - 1, size * 8):
        if good | 1 << bit < numbers.public_numbers.n:
            assert not judged(good | 1 << bit)
    assert not judged(good, 400)


def test_pae_of_the_dsse_specification() -> None:
    # DSSE protocol, section "Test Vectors"
    assert pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_envelope_round_trip_and_verification() -> None:
    first, second = sorted((Key(1), Key(2)), key=lambda key: key.public.key_id)
    message = pae("t", b"x")
    envelope = Envelope("t", b"x", tuple(EnvelopeSignature(key.public.key_id, key.sign(message)) for key in (first, second)))
    data = envelope.to_bytes()
    assert parse_envelope(data) == envelope and parse_envelope(data).to_bytes() == data
    envelope.verify({key.public.key_id: key.public for key in (first, second)})
    with pytest.raises(SignatureError) as caught:
        envelope.verify({first.public.key_id: first.public}, where="a.dsse")
    assert caught.value.message_id == "trust.key_unknown" and "a.dsse" in str(caught.value)
    with pytest.raises(SignatureError):
        Envelope("t", b"y", envelope.signatures).verify({key.public.key_id: key.public for key in (first, second)})


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b'{"payload":"eA==","payloadType":"t","signatures":[]}',
        b'{"payload":"eA==","payloadType":1,"signatures":[{"keyid":"a","sig":"eA=="}]}',
        b'{"payload":"eA==","payloadType":"t","signatures":[{"keyid":"a","sig":"eA=="},{"keyid":"a","sig":"eA=="}]}',
        b'{"payload":"eA==","payloadType":"t","signatures":[{"keyid":"b","sig":"eA=="},{"keyid":"a","sig":"eA=="}]}',
        b'{"payload":"eA==","payloadType":"t","signatures":[{"extra":1,"keyid":"a","sig":"eA=="}]}',
        b'{"extra":1,"payload":"eA==","payloadType":"t","signatures":[{"keyid":"a","sig":"eA=="}]}',
        b'{"payload":"eB==","payloadType":"t","signatures":[{"keyid":"a","sig":"eA=="}]}',
        b'{"payload":"eA==","payloadType":"t","signatures":[{"keyid":"a","sig":5}]}',
        b'{"payload":"eA==","payloadType":"t","signatures":{"keyid":"a"}}',
        b'{"payload": "eA==","payloadType":"t","signatures":[{"keyid":"a","sig":"eA=="}]}',
    ],
)
def test_envelope_refuses(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_envelope(data)


@given(st.binary(max_size=80))
def test_envelope_of_hostile_bytes(data: bytes) -> None:
    with pytest.raises(GeoEvidenceError):
        parse_envelope(data)
