"""Verification on P-256 and P-384 (ECDSA) and on the curve of SM2.

ECDSA as FIPS 186-5 section 6.4.2 and SEC 1 section 4.1.4 say, SM2 as GB/T 32918.2-2016 section 7.1.
Keys are uncompressed points (SEC 1 section 2.3.3) and lie on the curve; signatures are the
strict DER of SEQUENCE {r, s} with 1 <= r, s < n. The three curves have prime order, so a
point on the curve is a point of the group. For ECDSA (r, n - s) is a signature wherever (r, s)
is: the standard has it so, and nothing here takes a signature for an identity. Only
verification: no secret is handled, hence no care about timing. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from geoevidence.trust import der
from geoevidence.trust.digests import new_sm3
from geoevidence.trust.errors import FormatError, SignatureError

SM2_SIGNER_ID = b"1234567812345678"
"""Signer ID where nothing else is agreed (GM/T 0009-2012 section 10)."""
_Point = tuple[int, int, int]
_INFINITY = (1, 1, 0)


@dataclass(frozen=True)
class Curve:
    """y^2 = x^3 - 3x + b over the integers modulo p, of prime order n.

    name: as messages say it.
    oid: of the named curve in a SubjectPublicKeyInfo.
    size: octets of a coordinate.
    gx, gy: base point.
    """

    name: str
    oid: str
    size: int
    p: int
    b: int
    n: int
    gx: int
    gy: int

    def point(self, raw: bytes) -> tuple[int, int]:
        """Coordinates of an uncompressed point on the curve, never infinity. SEC 1 sections 2.3.4 and 3.2.2.1.

        Raises: FormatError.
        """
        x, y = int.from_bytes(raw[1 : 1 + self.size], "big"), int.from_bytes(raw[1 + self.size :], "big")
        if len(raw) != 1 + 2 * self.size or raw[0] != 4 or max(x, y) >= self.p or (y * y - (x * x - 3) * x - self.b) % self.p:
            raise FormatError("trust.key_point", curve=self.name)
        return x, y

    def add(self, left: _Point, right: _Point) -> _Point:
        """Sum of two points in Jacobian coordinates (x = X/Z^2, y = Y/Z^3), right for all points.

        Cohen, Miyaji, Ono, "Efficient elliptic curve exponentiation using mixed coordinates" (1998), section 2.
        """
        p, (x1, y1, z1), (x2, y2, z2) = self.p, left, right
        if z1 == 0 or z2 == 0:
            return right if z1 == 0 else left
        z1z1, z2z2 = z1 * z1 % p, z2 * z2 % p
        u1, u2 = x1 * z2z2 % p, x2 * z1z1 % p
        s1, s2 = y1 * z2 * z2z2 % p, y2 * z1 * z1z1 % p
        h, r = u2 - u1, s2 - s1
        if h == 0:
            return self.double(left) if r == 0 else _INFINITY
        hh = h * h % p
        hhh, v = h * hh % p, u1 * hh % p
        x3 = (r * r - hhh - 2 * v) % p
        return (x3, (r * (v - x3) - s1 * hhh) % p, z1 * z2 * h % p)

    def double(self, point: _Point) -> _Point:
        """Twice a point; as `add`, with a = -3. An odd order has no point with y = 0."""
        p, (x, y, z) = self.p, point
        zz, yy = z * z % p, y * y % p
        s, m = 4 * x * yy % p, 3 * (x - zz) * (x + zz) % p
        x3 = (m * m - 2 * s) % p
        return (x3, (m * (s - x3) - 8 * yy * yy) % p, 2 * y * z % p)

    def multiples(self, x: int, y: int) -> list[_Point]:
        """0, 1, ... 15 times a point."""
        row: list[_Point] = [_INFINITY, (x, y, 1)]
        while len(row) < 16:
            row.append(self.add(row[-1], row[1]))
        return row

    def combine(self, g: int, q: int, point: tuple[int, int]) -> int:
        """The coordinate x of g G + q Q for 0 <= g, q < n, or -1 for infinity.

        Both scalars in windows of four bits over one chain of doublings (Straus 1964).
        """
        base, other, total = _base_multiples(self), self.multiples(*point), _INFINITY
        for shift in range(8 * self.size - 4, -1, -4):
            total = self.double(self.double(self.double(self.double(total))))
            total = self.add(total, base[g >> shift & 15])
            total = self.add(total, other[q >> shift & 15])
        return total[0] * pow(total[2], -2, self.p) % self.p if total[2] else -1


@lru_cache(maxsize=None)
def _base_multiples(curve: Curve) -> list[_Point]:
    return curve.multiples(curve.gx, curve.gy)


# SP 800-186 section 3.2.1
P256 = Curve(
    "P-256",
    "1.2.840.10045.3.1.7",
    32,
    p=2**256 - 2**224 + 2**192 + 2**96 - 1,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    n=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    gx=0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    gy=0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
P384 = Curve(
    "P-384",
    "1.3.132.0.34",
    48,
    p=2**384 - 2**128 - 2**96 + 2**32 - 1,
    b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    n=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    gx=0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
    gy=0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
)
# GB/T 32918.5-2017, the recommended parameters
SM2 = Curve(
    "SM2",
    "1.2.156.10197.1.301",
    32,
    p=2**256 - 2**224 - 2**96 + 2**64 - 1,
    b=0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93,
    n=0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123,
    gx=0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    gy=0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
CURVES = (P256, P384, SM2)


def verify_ecdsa(curve: Curve, public_key: bytes, signature: bytes, digest: bytes) -> None:
    """Raises unless `signature` is the key's ECDSA signature of a message with that digest. FIPS 186-5 section 6.4.2.

    Raises: FormatError for a key that is no point of the curve; SignatureError.
    """
    point = curve.point(public_key)
    r, s = _parse_signature(curve, signature)
    # the leftmost bits of a digest that is longer than n; the lengths here are whole octets
    e = int.from_bytes(digest[: curve.size], "big")
    inverse = pow(s, -1, curve.n)
    x = curve.combine(e * inverse % curve.n, r * inverse % curve.n, point)
    if x < 0 or x % curve.n != r:
        raise SignatureError("trust.signature_wrong")


def verify_sm2(public_key: bytes, signature: bytes, message: bytes, *, signer_id: bytes = SM2_SIGNER_ID) -> None:
    """Raises unless `signature` is the key's SM2 signature of `message` with SM3. GB/T 32918.2-2016 section 7.1.

    Args:
        signer_id: shorter than 8192 bytes.

    Raises: FormatError for a key that is no point of the curve; SignatureError.
    """
    point = SM2.point(public_key)
    r, s = _parse_signature(SM2, signature)
    digest = new_sm3()
    digest.update(sm2_identity(public_key, signer_id) + message)
    e = int.from_bytes(digest.digest(), "big")
    t = (r + s) % SM2.n
    x = SM2.combine(s, t, point) if t else -1
    if x < 0 or (e + x) % SM2.n != r:
        raise SignatureError("trust.signature_wrong")


def sm2_identity(public_key: bytes, signer_id: bytes) -> bytes:
    """Z_A: SM3 of signer ID, curve and key. GB/T 32918.2-2016 section 5.5. Raises FormatError for an ID of 8192 bytes or more."""
    if len(signer_id) >= 1 << 13:
        raise FormatError("trust.sm2_signer_id", found=len(signer_id))
    digest = new_sm3()
    digest.update((8 * len(signer_id)).to_bytes(2, "big") + signer_id)
    for value in (SM2.p - 3, SM2.b, SM2.gx, SM2.gy):
        digest.update(value.to_bytes(SM2.size, "big"))
    digest.update(public_key[1:])
    identity: bytes = digest.digest()
    return identity


def _parse_signature(curve: Curve, signature: bytes) -> tuple[int, int]:
    """r and s of the DER of SEQUENCE {r INTEGER, s INTEGER} (RFC 3279 section 2.2.3, GM/T 0009-2012 section 7.3)."""
    try:
        fields = der.Fields(der.read(signature, where=curve.name, tag=der.SEQUENCE))
        r, s = fields.take(der.INTEGER).integer(), fields.take(der.INTEGER).integer()
        fields.end()
    except FormatError as error:
        raise SignatureError("trust.signature_encoding") from error
    if not (0 < r < curve.n and 0 < s < curve.n):
        raise SignatureError("trust.signature_range")
    return r, s
