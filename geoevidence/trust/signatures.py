"""Public keys with the algorithm that each is for, Ed25519 and RSA verification, and DSSE envelopes.

Ed25519 (RFC 8032) is verified strictly: S below the group order, canonical points, no point
of small order, and the equation without the cofactor, so that the answer is the same in
every verifier that is at least as strict. RSA as RFC 8017; ECDSA and SM2 are in curves.py.
The algorithm belongs to the key, never to the message. Only verification: no secret is ever
handled here, hence no care about timing. Raises FormatError or SignatureError. Standard
library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, NamedTuple, Optional

from geoevidence.trust import curves, der
from geoevidence.trust.canonical import base64_text, base64_value, dumps, loads_canonical
from geoevidence.trust.digests import new_sm3
from geoevidence.trust.errors import FormatError, SignatureError

# RFC 8032 section 5.1: field prime, group order, curve constant d, square root of -1
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_2D = 2 * _D % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
_BASE = (4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little")


class _Point:
    """Arithmetic on extended homogeneous coordinates (X, Y, Z, T), x = X/Z, y = Y/Z, xy = T/Z."""

    NEUTRAL: tuple[int, ...] = (0, 1, 1, 0)

    @staticmethod
    def add(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:
        """Sum; complete for all points. Hisil et al. 2008, RFC 8032 section 5.1.4."""
        a = (p[1] - p[0]) * (q[1] - q[0]) % _P
        b = (p[1] + p[0]) * (q[1] + q[0]) % _P
        c = p[3] * _2D % _P * q[3] % _P
        d = 2 * p[2] * q[2] % _P
        e, f, g, h = b - a, d - c, d + c, b + a
        return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)

    @staticmethod
    def double(p: tuple[int, ...]) -> tuple[int, ...]:
        """Twice a point. RFC 8032 section 5.1.4."""
        x, y, z = p[0], p[1], p[2]
        a, b = x * x % _P, y * y % _P
        h = a + b
        e, g = h - (x + y) * (x + y) % _P, a - b
        f = 2 * z * z % _P + g
        return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)

    @staticmethod
    def decode(data: bytes) -> Optional[tuple[int, ...]]:
        """The point of 32 bytes, or None where the bytes are not its one encoding. RFC 8032 section 5.1.3."""
        y = int.from_bytes(data, "little")
        sign, y = y >> 255, y & (2**255 - 1)
        if y >= _P:
            return None
        u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
        x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
        if (v * x * x - u) % _P:
            x = x * _ROOT % _P
            if (v * x * x - u) % _P:
                return None
        if x == 0 and sign:
            return None
        if x & 1 != sign:
            x = _P - x
        return (x, y, 1, x * y % _P)

    @staticmethod
    def encode(p: tuple[int, ...]) -> bytes:
        inverse = pow(p[2], _P - 2, _P)
        x, y = p[0] * inverse % _P, p[1] * inverse % _P
        return (y | (x & 1) << 255).to_bytes(32, "little")

    @staticmethod
    def has_small_order(p: tuple[int, ...]) -> bool:
        """True for the eight points whose order divides the cofactor 8."""
        for _ in range(3):
            p = _Point.double(p)
        return p[0] == 0 and p[1] == p[2]

    @staticmethod
    @lru_cache(maxsize=64)
    def table(encoded: bytes) -> tuple[list[tuple[int, ...]], ...]:
        """Row i holds 0, 1, ... 15 times 16^i P of a valid point.

        Made once a point (4 ms), it turns a multiplication into 64 additions. A log has
        few keys and many signatures, so it serves the keys as well as the base point.
        """
        point = _Point.decode(encoded)
        assert point is not None
        rows = []
        for _ in range(64):
            row = [_Point.NEUTRAL, point]
            while len(row) < 16:
                row.append(_Point.add(row[-1], point))
            rows.append(row)
            point = _Point.add(row[15], point)
        return tuple(rows)

    @staticmethod
    def times(scalar: int, encoded: bytes) -> tuple[int, ...]:
        """scalar P for 0 <= scalar < 2^256."""
        total = _Point.NEUTRAL
        for row in _Point.table(encoded):
            if scalar & 15:
                total = _Point.add(total, row[scalar & 15])
            scalar >>= 4
        return total


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Raises unless `signature` is the key's signature of `message`.

    RFC 8032 section 5.1.7 without the cofactor, and with the stricter rules of
    Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs" (2020): canonical S, A and R,
    A and R not of small order. Raises: SignatureError.
    """
    if len(public_key) != 32 or len(signature) != 64:
        raise SignatureError("trust.signature_length", key=len(public_key), signature=len(signature))
    s = int.from_bytes(signature[32:], "little")
    if s >= _L:
        raise SignatureError("trust.signature_malleable")
    a, r = _Point.decode(public_key), _Point.decode(signature[:32])
    if a is None or r is None:
        raise SignatureError("trust.signature_point")
    if _Point.has_small_order(a) or _Point.has_small_order(r):
        raise SignatureError("trust.signature_small_order")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % _L
    # R = S B - k A = S B + (L - k) A for A of order L, but A may carry a part of small order: negate the point
    x, y, z, t = _Point.times(k, public_key)
    # compared as bytes: R was canonical, so equal bytes are equal points
    if _Point.encode(_Point.add(_Point.times(s, _BASE), (_P - x, y, z, _P - t))) != signature[:32]:
        raise SignatureError("trust.signature_wrong")


RSA_BITS = (2048, 8192)
"""Shortest and longest modulus of an RSA key."""
# RFC 5912 section 2 (NIST) and GM/T 0006-2012
HASH_OIDS = {
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
    "sm3": "1.2.156.10197.1.401",
}
"""Hash functions known here and their object identifiers."""


def digest_of(algorithm: str, data: bytes) -> bytes:
    """The digest of `data` by one of `HASH_OIDS`."""
    digest = new_sm3() if algorithm == "sm3" else hashlib.new(algorithm)
    digest.update(data)
    value: bytes = digest.digest()
    return value


@lru_cache(maxsize=64)
def parse_rsa_key(raw: bytes) -> tuple[int, int]:
    """Modulus and exponent of the strict DER of a PKCS#1 RSAPublicKey (RFC 8017 appendix A.1.1).

    The modulus is odd and has 2048 to 8192 bits; the exponent is odd, at least 3 and below 2^256
    (65537 is what FIPS 186-5 would have at least).

    Raises: FormatError.
    """
    fields = der.Fields(der.read(raw, where="RSA", tag=der.SEQUENCE))
    modulus, exponent = fields.take(der.INTEGER).integer(), fields.take(der.INTEGER).integer()
    fields.end()
    bits = modulus.bit_length()
    if modulus < 0 or not RSA_BITS[0] <= bits <= RSA_BITS[1]:
        raise FormatError("trust.key_rsa_bits", found=bits, low=RSA_BITS[0], high=RSA_BITS[1])
    # a longer exponent only costs the verifier time
    if modulus % 2 == 0 or exponent % 2 == 0 or not 3 <= exponent < 1 << 256:
        raise FormatError("trust.key_rsa_numbers")
    return modulus, exponent


def _open_rsa(raw: bytes, signature: bytes) -> tuple[bytes, int]:
    """The encoded message inside an RSA signature, as long as the modulus, and the bits of the modulus. RFC 8017 section 5.2.2."""
    modulus, exponent = parse_rsa_key(raw)
    size = (modulus.bit_length() + 7) // 8
    number = int.from_bytes(signature, "big")
    if len(signature) != size:
        raise SignatureError("trust.signature_length", key=size, signature=len(signature))
    if number >= modulus:
        raise SignatureError("trust.signature_range")
    return pow(number, exponent, modulus).to_bytes(size, "big"), modulus.bit_length()


def verify_rsa_pkcs1(raw: bytes, signature: bytes, message: bytes, *, hash_name: str = "sha256") -> None:
    """Raises unless `signature` is the key's RSASSA-PKCS1-v1_5 signature of `message`. RFC 8017 section 8.2.2.

    The whole encoded message is made again and compared; nothing in it is parsed, which leaves no
    room for hidden bytes (Bleichenbacher 2006, CVE-2006-4339). Only the form with NULL parameters.

    Raises: FormatError for a key that is none; SignatureError.
    """
    found, _ = _open_rsa(raw, signature)
    algorithm = der.encode(der.SEQUENCE, der.encode_oid(HASH_OIDS[hash_name]), der.encode(der.NULL))
    info = der.encode(der.SEQUENCE, algorithm, der.encode(der.OCTET_STRING, digest_of(hash_name, message)))
    if found != b"\x00\x01" + b"\xff" * (len(found) - len(info) - 3) + b"\x00" + info:
        raise SignatureError("trust.signature_wrong")


def verify_rsa_pss(
    raw: bytes, signature: bytes, message: bytes, *, hash_name: str = "sha256", salt_length: Optional[int] = None
) -> None:
    """Raises unless `signature` is the key's RSASSA-PSS signature of `message`. RFC 8017 sections 8.1.2 and 9.1.2.

    The mask is made by MGF1 with the same hash; the trailer is 0xbc.

    Args:
        salt_length: octets of the salt, the length of the hash if None.

    Raises: FormatError for a key that is none; SignatureError.
    """
    found, bits = _open_rsa(raw, signature)
    hashed = digest_of(hash_name, message)
    size = len(hashed)
    salt_length = size if salt_length is None else salt_length
    # the encoded message has one bit less than the modulus: a whole octet less where that one has 8k + 1 bits
    unused = -(bits - 1) % 8
    encoded = found[1:] if unused == 0 else found
    padding = len(encoded) - salt_length - size - 2
    if padding < 0 or (unused == 0 and found[0]) or encoded[-1] != 0xBC or encoded[0] >> (8 - unused):
        raise SignatureError("trust.signature_wrong")
    masked, mark = encoded[: -size - 1], encoded[-size - 1 : -1]
    mask = b"".join(digest_of(hash_name, mark + n.to_bytes(4, "big")) for n in range(-(-len(masked) // size)))[: len(masked)]
    # the leftmost bits beyond the length are zero by definition, whatever the mask says
    number = (int.from_bytes(masked, "big") ^ int.from_bytes(mask, "big")) & ((1 << (8 * len(masked) - unused)) - 1)
    block = number.to_bytes(len(masked), "big")
    salt = block[padding + 1 :]
    if block[: padding + 1] != bytes(padding) + b"\x01" or digest_of(hash_name, bytes(8) + hashed + salt) != mark:
        raise SignatureError("trust.signature_wrong")


def _check_ed25519(raw: bytes) -> None:
    if len(raw) != 32:
        raise FormatError("trust.key_length", algorithm="ed25519", found=len(raw))


def _verify_p256(raw: bytes, signature: bytes, message: bytes) -> None:
    curves.verify_ecdsa(curves.P256, raw, signature, digest_of("sha256", message))


def _verify_p384(raw: bytes, signature: bytes, message: bytes) -> None:
    curves.verify_ecdsa(curves.P384, raw, signature, digest_of("sha384", message))


ED25519_OID = "1.3.101.112"
RSA_OID = "1.2.840.113549.1.1.1"
EC_OID = "1.2.840.10045.2.1"
"""Object identifiers of a subject's public key (RFC 8410, RFC 3279, RFC 5480)."""


class _Algorithm(NamedTuple):
    """check: raises FormatError unless the bytes are a key. verify: key, signature, message. spki: AlgorithmIdentifier."""

    check: Callable[[bytes], Any]
    verify: Callable[[bytes, bytes, bytes], None]
    spki: bytes


def _identifier(*parts: bytes) -> bytes:
    return der.encode(der.SEQUENCE, *parts)


_RSA_SPKI = _identifier(der.encode_oid(RSA_OID), der.encode(der.NULL))
_VERIFIERS = {
    "ed25519": _Algorithm(_check_ed25519, verify_ed25519, _identifier(der.encode_oid(ED25519_OID))),
    "ecdsa-p256-sha256": _Algorithm(
        curves.P256.point, _verify_p256, _identifier(der.encode_oid(EC_OID), der.encode_oid(curves.P256.oid))
    ),
    "ecdsa-p384-sha384": _Algorithm(
        curves.P384.point, _verify_p384, _identifier(der.encode_oid(EC_OID), der.encode_oid(curves.P384.oid))
    ),
    "sm2-sm3": _Algorithm(
        curves.SM2.point, curves.verify_sm2, _identifier(der.encode_oid(EC_OID), der.encode_oid(curves.SM2.oid))
    ),
    "rsa-pkcs1-sha256": _Algorithm(parse_rsa_key, verify_rsa_pkcs1, _RSA_SPKI),
    "rsa-pss-sha256": _Algorithm(parse_rsa_key, verify_rsa_pss, _RSA_SPKI),
}
ALGORITHMS = tuple(sorted(_VERIFIERS))
"""Algorithms this verifier can check."""


@dataclass(frozen=True)
class PublicKey:
    """A public key that says its algorithm; one key has one algorithm, also where its numbers would serve another.

    algorithm: one of `ALGORITHMS`.
    raw: the key's bytes. ed25519: 32 (RFC 8032); ecdsa-p256-sha256, ecdsa-p384-sha384, sm2-sm3: the
        uncompressed point, 65, 97, 65 (SEC 1 section 2.3.3); rsa-pkcs1-sha256, rsa-pss-sha256: DER of the
        RSAPublicKey (RFC 8017 appendix A.1.1). SM2 with the signer ID `curves.SM2_SIGNER_ID`, PSS with a
        salt as long as the hash.
    """

    algorithm: str
    raw: bytes

    def __post_init__(self) -> None:
        if self.algorithm not in _VERIFIERS:
            raise FormatError("trust.key_algorithm", found=str(self.algorithm)[:40])
        _VERIFIERS[self.algorithm].check(self.raw)

    @property
    def key_id(self) -> str:
        """Hex SHA-256 of algorithm, a zero byte, and the raw key."""
        return hashlib.sha256(self.algorithm.encode("ascii") + b"\x00" + self.raw).hexdigest()

    @property
    def chain(self) -> str:
        """First 8 hex digits of the key id: names the key's events."""
        return self.key_id[:8]

    def to_spki(self) -> bytes:
        """DER of the SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), as openssl reads it. An RSA key does not say its padding there."""
        return der.encode(der.SEQUENCE, _VERIFIERS[self.algorithm].spki, der.encode(der.BIT_STRING, b"\x00", self.raw))

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises SignatureError unless `signature` is this key's over `message`."""
        _VERIFIERS[self.algorithm].verify(self.raw, signature, message)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class EnvelopeSignature:
    """keyid: key id of the signer. sig: the raw signature."""

    keyid: str
    sig: bytes


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope.

    payload_type: media type of the payload.
    payload: the signed bytes.
    signatures: sorted by keyid, at least one, none twice.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]

    def __post_init__(self) -> None:
        ids = [each.keyid for each in self.signatures]
        if not ids or ids != sorted(set(ids)):
            raise FormatError("trust.envelope_signatures")

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes: the one encoding."""
        signatures = [{"keyid": each.keyid, "sig": base64_text(each.sig)} for each in self.signatures]
        return dumps({"payload": base64_text(self.payload), "payloadType": self.payload_type, "signatures": signatures})

    @property
    def signed_bytes(self) -> bytes:
        """What each signature is over."""
        return pae(self.payload_type, self.payload)

    def verify(self, keys: Mapping[str, PublicKey], *, where: str = "DSSE") -> None:
        """Raises SignatureError unless every signature is by a key of `keys` (key id -> key) and valid."""
        message = self.signed_bytes
        for each in self.signatures:
            key = keys.get(each.keyid)
            if key is None:
                raise SignatureError("trust.key_unknown", where=where, key_id=each.keyid)
            key.verify(each.sig, message)


def parse_envelope(data: bytes, *, where: str = "DSSE") -> Envelope:
    """The envelope of its RFC 8785 bytes; other spellings and unknown fields are refused. Raises FormatError."""
    return envelope_from_value(loads_canonical(data, where=where), where=where)


def envelope_from_value(value: Any, *, where: str) -> Envelope:
    """The envelope of a parsed JSON value. Raises FormatError."""
    if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
        raise FormatError("trust.envelope_fields", where=where)
    kind, raw = value["payloadType"], value["signatures"]
    if not isinstance(kind, str) or not isinstance(raw, list):
        raise FormatError("trust.envelope_fields", where=where)
    signatures = []
    for each in raw:
        if not isinstance(each, dict) or set(each) != {"keyid", "sig"} or not isinstance(each["keyid"], str):
            raise FormatError("trust.envelope_fields", where=where)
        signatures.append(EnvelopeSignature(each["keyid"], base64_value(each["sig"], where=where)))
    return Envelope(kind, base64_value(value["payload"], where=where), tuple(signatures))
