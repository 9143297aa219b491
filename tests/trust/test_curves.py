"""ECDSA and SM2 against published vectors, another implementation, and points that trip formulas; DER that is not DER."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geoevidence.trust import FormatError, GeoEvidenceError, SignatureError, der, verify_ecdsa, verify_sm2
from geoevidence.trust.curves import CURVES, P256, P384, SM2, SM2_SIGNER_ID, Curve, sm2_identity
from geoevidence.trust.digests import new_sm3
from geoevidence.trust.signatures import PublicKey, digest_of
from tests.trust.authority import openssl

FOLDER = Path(__file__).parents[1] / "vectors"
ECDSA = json.loads((FOLDER / "ecdsa.json").read_text())
SM2_VECTORS = json.loads((FOLDER / "sm2.json").read_text())
NAMED = {"P-256": (P256, ec.SECP256R1(), "sha256"), "P-384": (P384, ec.SECP384R1(), "sha384")}


def encoded(r: int, s: int) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_integer(r), der.encode_integer(s))


def refused(curve: Curve, key: bytes, signature: bytes, digest: bytes) -> str | None:
    try:
        verify_ecdsa(curve, key, signature, digest)
    except GeoEvidenceError as error:
        assert isinstance(error, SignatureError | FormatError)
        return error.message_id
    return None


def refused_sm2(key: bytes, signature: bytes, message: bytes, signer_id: bytes = SM2_SIGNER_ID) -> str | None:
    try:
        verify_sm2(key, signature, message, signer_id=signer_id)
    except GeoEvidenceError as error:
        assert isinstance(error, SignatureError | FormatError)
        return error.message_id
    return None


def times(curve: Curve, scalar: int, point: tuple[int, int]) -> tuple[int, int] | None:
    """scalar times a point by the textbook formulas on x and y, None for infinity."""

    def add(p: tuple[int, int] | None, q: tuple[int, int] | None) -> tuple[int, int] | None:
        if p is None or q is None:
            return q if p is None else p
        if p[0] == q[0] and (p[1] + q[1]) % curve.p == 0:
            return None
        slope = (3 * p[0] * p[0] - 3) * pow(2 * p[1], -1, curve.p) if p == q else (q[1] - p[1]) * pow(q[0] - p[0], -1, curve.p)
        x = (slope * slope - p[0] - q[0]) % curve.p
        return x, (slope * (p[0] - x) - p[1]) % curve.p

    total = None
    for bit in bin(scalar)[2:]:
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def raw(curve: Curve, point: tuple[int, int]) -> bytes:
    return b"\x04" + b"".join(each.to_bytes(curve.size, "big") for each in point)


# ---- the curves ---------------------------------------------------------------------------


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_parameters(curve: Curve) -> None:
    g = (curve.gx, curve.gy)
    assert curve.point(raw(curve, g)) == g
    assert times(curve, curve.n, g) is None and times(curve, curve.n - 1, g) == (curve.gx, curve.p - curve.gy)
    # Hasse: with an order this close to p the cofactor is 1, so every point of the curve is one of the group
    assert abs(curve.n - curve.p - 1) <= 2 * int(curve.p**0.5 * (1 + 1e-9))


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_combination_agrees_with_the_textbook(curve: Curve, data: st.DataObject) -> None:
    g = (curve.gx, curve.gy)
    # small and extreme scalars meet the exceptional additions: equal points, opposite points, infinity
    scalar = st.one_of(st.integers(0, 40), st.integers(curve.n - 40, curve.n - 1), st.integers(0, curve.n - 1))
    factor = data.draw(st.one_of(st.integers(1, 40), st.integers(curve.n - 40, curve.n - 1)))
    u, v = data.draw(scalar), data.draw(scalar)
    point = times(curve, factor, g)
    assert point is not None
    expected = times(curve, (u + v * factor) % curve.n, g)
    assert curve.combine(u, v, point) == (-1 if expected is None else expected[0])


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_exceptional_additions(curve: Curve) -> None:
    g, minus = (curve.gx, curve.gy), (curve.gx, curve.p - curve.gy)
    assert curve.combine(5, 5, minus) == -1 and curve.combine(0, 0, g) == -1
    double = times(curve, 2, g)
    assert double is not None and curve.combine(1, 1, g) == double[0] == curve.combine(2, 0, g) == curve.combine(0, 2, minus)
    one = (curve.gx, curve.gy, 1)
    assert curve.add(one, (1, 1, 0)) == one == curve.add((1, 1, 0), one)
    assert curve.double((1, 1, 0))[2] == 0 and curve.add(one, (*minus, 1))[2] == 0
    assert curve.add(one, one) == curve.double(one)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_points_that_are_none(curve: Curve) -> None:
    good = raw(curve, (curve.gx, curve.gy))
    x = good[1 : 1 + curve.size]
    off = raw(curve, (curve.gx, curve.gy ^ 1))
    # the same point with y + p does not fit; with x = 0 and p, both spellings of zero can be written
    too_large = b"\x04" + curve.p.to_bytes(curve.size, "big") + bytes(curve.size)
    for bad in (
        b"",
        good[:-1],
        good + b"\0",
        b"\0",
        b"\x02" + x,
        b"\x03" + x,
        b"\x06" + good[1:],
        off,
        too_large,
        b"\x04" + bytes(2 * curve.size),
    ):
        with pytest.raises(FormatError) as caught:
            curve.point(bad)
        assert caught.value.message_id == "trust.key_point"


# ---- ECDSA ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", ECDSA["rfc6979"], ids=lambda vector: f"{vector['curve']} {vector['hash']} {vector['message']}")
def test_rfc_6979(vector: dict[str, str]) -> None:
    curve = NAMED[vector["curve"]][0]
    key, r, s = bytes.fromhex(vector["public_key"]), int(vector["r"], 16), int(vector["s"], 16)
    digest = hashlib.new(vector["hash"], vector["message"].encode()).digest()
    assert refused(curve, key, encoded(r, s), digest) is None
    assert refused(curve, key, encoded(r, s), digest[:-1] + b"\0" if len(digest) <= curve.size else b"\0" + digest[1:])
    assert refused(curve, key, encoded(s, r), digest) == "trust.signature_wrong"
    # the standard takes the other square root too (SEC 1 section 4.1.4)
    assert refused(curve, key, encoded(r, curve.n - s), digest) is None


@pytest.mark.parametrize("vector", ECDSA["wycheproof"], ids=lambda vector: f"{vector['tcId']}")
def test_wycheproof(vector: dict[str, Any]) -> None:
    key, message, signature = (bytes.fromhex(vector[name]) for name in ("public_key", "message", "signature"))
    found = refused(P256, key, signature, hashlib.sha256(message).digest())
    assert (found is None) is (vector["result"] == "valid"), vector["comment"]
    if "special case" in vector["comment"]:
        # r = n - 1 with s = n - 1 or 1 is in range, and wrong
        assert found in ("trust.signature_range", "trust.signature_wrong")
    elif found:
        assert found in ("trust.signature_encoding", "trust.signature_range")


def integer(content: bytes) -> bytes:
    return der.encode(der.INTEGER, content)


def test_other_encodings_of_a_signature() -> None:
    vector = ECDSA["rfc6979"][0]
    key, digest = bytes.fromhex(vector["public_key"]), hashlib.sha256(vector["message"].encode()).digest()
    r, s = (der.encode_integer(int(vector[name], 16)) for name in "rs")
    assert refused(P256, key, der.encode(der.SEQUENCE, r, s), digest) is None
    bad = {
        "trailing garbage": der.encode(der.SEQUENCE, r, s) + b"\0",
        "garbage inside": der.encode(der.SEQUENCE, r, s, der.encode(der.NULL)),
        "leading zeros": der.encode(der.SEQUENCE, integer(b"\0" + r[2:]), s),
        "indefinite length": b"\x30\x80" + r + s + b"\0\0",
        "long form of r": der.encode(der.SEQUENCE, b"\x02\x81\x21" + r[2:], s),
        "a set": der.encode(der.SET, *sorted((r, s))),
        "only r": der.encode(der.SEQUENCE, r),
        "octets for r": der.encode(der.SEQUENCE, b"\x04" + r[1:], s),
        "boolean for s": der.encode(der.SEQUENCE, r, der.encode(der.BOOLEAN, b"\xff")),
        "empty integer": der.encode(der.SEQUENCE, r, integer(b"")),
        "nothing": b"",
        "raw r and s": r[3:] + s[3:],
        "longer than any": bytes(der.MAX_BYTES + 1),
    }
    for name, signature in bad.items():
        assert refused(P256, key, signature, digest) == "trust.signature_encoding", name
    for low, high in ((0, 1), (1, 0), (-1, 1), (1, -1), (P256.n, 1), (1, P256.n), (P256.p, 1), (1 << 300, 1)):
        assert refused(P256, key, encoded(low, high), digest) == "trust.signature_range"
    assert refused(P256, key, der.encode(der.SEQUENCE, integer(r[3:]), s), digest) == "trust.signature_range"


@pytest.mark.parametrize("curve", [P256, P384], ids=lambda curve: curve.name)
@pytest.mark.parametrize("factor", [1, -1, 2, 12345])
def test_signatures_that_meet_exceptional_additions(curve: Curve, factor: int) -> None:
    """u1 G = factor u2 Q with chosen u1: the last addition doubles (1), cancels (-1) or is ordinary."""
    d, u2 = 0xC0FFEE, 0xBEEF
    point = times(curve, d, (curve.gx, curve.gy))
    assert point is not None
    u1 = factor * u2 * d % curve.n
    total = times(curve, (u1 + u2 * d) % curve.n, (curve.gx, curve.gy))
    r = 1 if total is None else total[0] % curve.n
    s = r * pow(u2, -1, curve.n) % curve.n
    digest = (u1 * s % curve.n).to_bytes(curve.size, "big")
    assert refused(curve, raw(curve, point), encoded(r, s), digest) == ("trust.signature_wrong" if total is None else None)


@pytest.mark.parametrize("name", sorted(NAMED))
@settings(max_examples=25, deadline=None)
@given(secret=st.integers(1, 2**255), message=st.binary(max_size=60), flip=st.integers(0, 1 << 20))
def test_agrees_with_cryptography(name: str, secret: int, message: bytes, flip: int) -> None:
    curve, other, hash_name = NAMED[name]
    private = ec.derive_private_key(secret, other)
    key = private.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    algorithm = ec.ECDSA({"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}[hash_name])
    signature, digest = private.sign(message, algorithm), hashlib.new(hash_name, message).digest()
    assert refused(curve, key, signature, digest) is None
    changed = bytearray(key + signature)
    changed[flip % len(changed)] ^= 1 << flip // len(changed) % 8
    bad_key, bad = bytes(changed[: len(key)]), bytes(changed[len(key) :])
    with pytest.raises((InvalidSignature, ValueError)):
        ec.EllipticCurvePublicKey.from_encoded_point(other, bad_key).verify(bad, message, algorithm)
    assert refused(curve, bad_key, bad, digest) is not None


@pytest.mark.parametrize("length", [0, 20, 32, 48, 64])
def test_digests_shorter_and_longer_than_the_order(length: int) -> None:
    private = ec.derive_private_key(77, ec.SECP256R1())
    key = private.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    hashed = {20: hashes.SHA1(), 32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}.get(length)
    if hashed is None:
        # an empty digest is zero: no hash gives it, and the formula still holds
        assert refused(P256, key, encoded(1, 1), b"") == "trust.signature_wrong"
        return
    digest = hashlib.sha512(b"m").digest()[:length]
    assert refused(P256, key, private.sign(digest, ec.ECDSA(Prehashed(hashed))), digest) is None


# ---- SM2 ------------------------------------------------------------------------------------


def test_gmt_0003_5() -> None:
    vector = SM2_VECTORS["gmt0003"][0]
    key, r, s = bytes.fromhex(vector["public_key"]), int(vector["r"], 16), int(vector["s"], 16)
    message, signer = vector["message"].encode(), vector["signer_id"].encode()
    sm3 = new_sm3()
    sm3.update(sm2_identity(key, signer) + message)
    assert sm3.hexdigest() == vector["e"] and signer == SM2_SIGNER_ID
    assert refused_sm2(key, encoded(r, s), message) is None
    assert refused_sm2(key, encoded(r, s), message, b"ALICE123@YAHOO.COM") == "trust.signature_wrong"
    assert refused_sm2(key, encoded(r, s), message, b"") == "trust.signature_wrong"
    for bad in ((r, SM2.n - s), (s, r), (r + 1, s), (r, s + 1)):
        assert refused_sm2(key, encoded(*bad), message) == "trust.signature_wrong"
    # r + s = n makes t zero, where the standard stops
    assert refused_sm2(key, encoded(r, SM2.n - r), message) == "trust.signature_wrong"
    for out in ((0, s), (r, 0), (SM2.n, s), (r, SM2.n), (-r, s), (r, SM2.p)):
        assert refused_sm2(key, encoded(*out), message) == "trust.signature_range"
    assert refused_sm2(key, encoded(r, s) + b"\0", message) == "trust.signature_encoding"
    assert refused_sm2(key[:-1], encoded(r, s), message) == "trust.key_point"
    assert refused_sm2(key, encoded(r, s), message, bytes(1 << 13)) == "trust.sm2_signer_id"
    assert refused_sm2(key, encoded(r, s), message, bytes((1 << 13) - 1)) == "trust.signature_wrong"


def test_sm2_sum_at_infinity() -> None:
    # s G + t P = 0 with P = d G: s = -t d; any r goes with it, and none is right
    d, t = 5, 1234567
    point = times(SM2, d, (SM2.gx, SM2.gy))
    assert point is not None
    s = -t * d % SM2.n
    assert refused_sm2(raw(SM2, point), encoded((t - s) % SM2.n, s), b"m") == "trust.signature_wrong"


def sm2_key(folder: Path) -> tuple[Path, PublicKey]:
    path = folder / "sm2.pem"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2", "-out", path)
    spki = openssl("pkey", "-in", path, "-pubout", "-outform", "DER").stdout
    key = PublicKey("sm2-sm3", spki[-65:])
    assert key.to_spki() == spki
    return path, key


def test_sm2_signatures_by_openssl(tmp_path: Path) -> None:
    path, key = sm2_key(tmp_path)
    for number, (message, signer) in enumerate([(b"", "1234567812345678"), (b"m" * 1000, "1234567812345678"), (b"x", "other")]):
        (tmp_path / "m").write_bytes(message)
        words = ["pkeyutl", "-rawin", "-digest", "sm3", "-pkeyopt", f"distid:{signer}", "-in", tmp_path / "m"]
        signature = openssl(*words, "-sign", "-inkey", path).stdout
        assert refused_sm2(key.raw, signature, message, signer.encode()) is None, number
        assert refused_sm2(key.raw, signature, message + b"!", signer.encode()) == "trust.signature_wrong"
        assert refused_sm2(key.raw, signature, message, b"third") == "trust.signature_wrong"
        # a changed signature is refused by both
        changed = bytearray(signature)
        changed[-1] ^= 1
        (tmp_path / "s").write_bytes(changed)
        (tmp_path / "key").write_bytes(key.to_spki())
        verify = ["-verify", "-pubin", "-keyform", "DER", "-inkey", tmp_path / "key", "-sigfile", tmp_path / "s"]
        assert openssl(*words, *verify, check=False).returncode != 0
        assert refused_sm2(key.raw, bytes(changed), message, signer.encode()) == "trust.signature_wrong"
        (tmp_path / "s").write_bytes(signature)
        assert openssl(*words, *verify, check=False).returncode == 0


# ---- all ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=80), st.binary(max_size=64))
def test_hostile_bytes_raise_only_our_errors(key: bytes, signature: bytes, message: bytes) -> None:
    for curve in CURVES:
        assume(len(key) != 1 + 2 * curve.size)
        good = raw(curve, (curve.gx, curve.gy))
        assert refused(curve, key, signature, message) == "trust.key_point"
        assert refused(curve, good, signature, message) is not None
    assert refused_sm2(raw(SM2, (SM2.gx, SM2.gy)), signature, message) is not None


@pytest.mark.parametrize(
    ("curve", "limit"), [(P256, 0.010), (SM2, 0.010), (P384, 0.025)], ids=lambda value: getattr(value, "name", "")
)
def test_fast_enough(curve: Curve, limit: float) -> None:
    """What a log of many events needs. The best of several, as the machine is shared."""
    key, signature, best = raw(curve, (curve.gx, curve.gy)), encoded(curve.n - 2, curve.n - 3), 1.0
    for _ in range(20):
        started = time.perf_counter()
        if curve is SM2:
            assert refused_sm2(key, signature, b"m")
        else:
            assert refused(curve, key, signature, digest_of("sha384", b"m"))
        best = min(best, time.perf_counter() - started)
    assert best < limit
