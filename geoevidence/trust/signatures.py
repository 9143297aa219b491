"""Public keys, Ed25519 verification, and DSSE envelopes.

Ed25519 (RFC 8032) is verified in pure Python, strictly: S below the group order, canonical
points, no point of small order, and the equation without the cofactor, so that the answer
is the same in every verifier that is at least as strict. Only verification: no secret is
ever handled here, hence no care about timing. Raises FormatError or SignatureError.
Standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional

from geoevidence.trust.canonical import base64_text, base64_value, dumps, loads_canonical
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


_VERIFIERS = {"ed25519": (32, verify_ed25519)}
ALGORITHMS = tuple(sorted(_VERIFIERS))
"""Algorithms this verifier can check."""


@dataclass(frozen=True)
class PublicKey:
    """A public key that says its algorithm.

    algorithm: one of `ALGORITHMS`.
    raw: the key's bytes (ed25519: 32).
    """

    algorithm: str
    raw: bytes

    def __post_init__(self) -> None:
        if self.algorithm not in _VERIFIERS:
            raise FormatError("trust.key_algorithm", found=str(self.algorithm)[:40])
        if len(self.raw) != _VERIFIERS[self.algorithm][0]:
            raise FormatError("trust.key_length", algorithm=self.algorithm, found=len(self.raw))

    @property
    def key_id(self) -> str:
        """Hex SHA-256 of algorithm, a zero byte, and the raw key."""
        return hashlib.sha256(self.algorithm.encode("ascii") + b"\x00" + self.raw).hexdigest()

    @property
    def chain(self) -> str:
        """First 8 hex digits of the key id: names the key's events."""
        return self.key_id[:8]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises SignatureError unless `signature` is this key's over `message`."""
        _VERIFIERS[self.algorithm][1](self.raw, signature, message)


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
