"""Digests of files and of short texts: SHA-256 and SM3, commitments, codes to read aloud.

SM3 (GB/T 32905-2016) comes from the system's OpenSSL where it has it, else from the pure
Python below, which gives the same bytes about a thousand times slower. Reads streams in
blocks; memory does not grow with the file. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable, NamedTuple, Optional

from geoevidence.trust.canonical import dumps
from geoevidence.trust.errors import FormatError, VerificationError

BLOCK = 1 << 20
"""Bytes read at a time."""
LENGTHS = {"sha256": 32, "sm3": 32}
"""Algorithms of a `Digest` and their length in bytes."""
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Digest:
    """A digest that says how it was made; prints `sha256:<hex>`."""

    algorithm: str
    value: bytes

    def __post_init__(self) -> None:
        if self.algorithm not in LENGTHS or len(self.value) != LENGTHS[self.algorithm]:
            raise FormatError("trust.bad_digest", found=f"{self.algorithm}:{self.value.hex()}")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"

    @property
    def hex(self) -> str:
        return self.value.hex()

    @classmethod
    def parse(cls, text: Any) -> Digest:
        """The digest of `sha256:<64 lower-case hex digits>` or `sm3:...`. Raises FormatError."""
        if isinstance(text, str):
            algorithm, colon, value = text.partition(":")
            if colon and algorithm in LENGTHS and _HEX64.fullmatch(value):
                return cls(algorithm, bytes.fromhex(value))
        raise FormatError("trust.bad_digest", found=str(text)[:90])


class FileDigests(NamedTuple):
    """SHA-256 and SM3 (lower-case hex) and size in bytes, all of the same bytes."""

    sha256: str
    sm3: str
    size: int


def digest_file(stream: BinaryIO, *, on_block: Optional[Callable[[int], None]] = None) -> FileDigests:
    """Both digests and the size of what is left in `stream`, read once.

    Args:
        stream: open for reading bytes.
        on_block: called with the length of each block read.
    """
    sha256, sm3, size = hashlib.sha256(), new_sm3(), 0
    while True:
        block = stream.read(BLOCK)
        if not block:
            return FileDigests(sha256.hexdigest(), sm3.hexdigest(), size)
        sha256.update(block)
        sm3.update(block)
        size += len(block)
        if on_block is not None:
            on_block(len(block))


def digest_bytes(data: bytes) -> FileDigests:
    """Both digests and the size of `data`."""
    sm3 = new_sm3()
    sm3.update(data)
    return FileDigests(hashlib.sha256(data).hexdigest(), sm3.hexdigest(), len(data))


def new_sm3() -> Any:
    """An SM3 object like those of hashlib: OpenSSL's where it has SM3, else `PureSM3`."""
    try:
        return hashlib.new("sm3")
    except ValueError:
        return PureSM3()


def _rotate(x: int, n: int) -> int:
    n %= 32
    return ((x << n) | (x >> (32 - n))) & 0xFFFFFFFF


class PureSM3:
    """SM3 in pure Python, GB/T 32905-2016 (also ISO/IEC 10118-3:2018, dedicated hash-function 17)."""

    digest_size = 32
    block_size = 64
    name = "sm3"
    # section 4.2: T_j rotated left by j
    _T = tuple(_rotate(0x79CC4519 if j < 16 else 0x7A879D8A, j) for j in range(64))

    def __init__(self, data: bytes = b"") -> None:
        # section 4.1: initial value
        self._state = (
            0x7380166F, 0x4914B2B9, 0x172442D7, 0xDA8A0600, 0xA96F30BC, 0x163138AA, 0xE38DEE4D, 0xB0FB0E4E,
        )  # fmt: skip
        self._tail = b""
        self._length = 0
        self.update(data)

    def update(self, data: bytes) -> None:
        self._length += len(data)
        data = self._tail + bytes(data)
        whole = len(data) - len(data) % 64
        for start in range(0, whole, 64):
            self._compress(data[start : start + 64])
        self._tail = data[whole:]

    def _compress(self, block: bytes) -> None:
        # section 5.3.2: message expansion
        w = list(struct.unpack(">16I", block))
        for j in range(16, 68):
            v = w[j - 3]
            x = w[j - 16] ^ w[j - 9] ^ ((v << 15 | v >> 17) & 0xFFFFFFFF)
            v = w[j - 13]
            p1 = x ^ (x << 15 | x >> 17) ^ (x << 23 | x >> 9)
            w.append((p1 ^ (v << 7 | v >> 25) ^ w[j - 6]) & 0xFFFFFFFF)
        # section 5.3.3: compression; names as in the standard
        a, b, c, d, e, f, g, h = self._state
        for j in range(64):
            a12 = (a << 12 | a >> 20) & 0xFFFFFFFF
            ss1 = (a12 + e + self._T[j]) & 0xFFFFFFFF
            ss1 = (ss1 << 7 | ss1 >> 25) & 0xFFFFFFFF
            if j < 16:
                ff, gg = a ^ b ^ c, e ^ f ^ g
            else:
                ff, gg = (a & b) | (a & c) | (b & c), (e & f) | (~e & g)
            tt1 = (ff + d + (ss1 ^ a12) + (w[j] ^ w[j + 4])) & 0xFFFFFFFF
            tt2 = (gg + h + ss1 + w[j]) & 0xFFFFFFFF
            d, c, b, a = c, (b << 9 | b >> 23) & 0xFFFFFFFF, a, tt1
            h, g, f = g, (f << 19 | f >> 13) & 0xFFFFFFFF, e
            e = (tt2 ^ (tt2 << 9 | tt2 >> 23) ^ (tt2 << 17 | tt2 >> 15)) & 0xFFFFFFFF
        self._state = tuple(  # type: ignore[assignment]
            old ^ new for old, new in zip(self._state, (a, b, c, d, e, f, g, h))
        )

    def digest(self) -> bytes:
        final = PureSM3.__new__(PureSM3)
        final._state, final._length, final._tail = self._state, 0, b""
        # section 5.2: padding to 448 mod 512, then the length in bits
        padding = b"\x80" + b"\x00" * ((55 - self._length) % 64)
        final.update(self._tail + padding + struct.pack(">Q", self._length * 8))
        return struct.pack(">8I", *final._state)

    def hexdigest(self) -> str:
        return self.digest().hex()


def commitment(value: str, salt: str) -> str:
    """`sha256:<hex>` that fixes a text without showing it.

    SHA-256 over the RFC 8785 bytes of {"salt": 64 hex digits, "value": text}
    (docs/formats/event.md). The salt is 32 random bytes, so that a short text cannot be guessed.
    Raises: FormatError.
    """
    if not isinstance(salt, str) or not _HEX64.fullmatch(salt) or not isinstance(value, str):
        raise FormatError("trust.bad_disclosure")
    return "sha256:" + hashlib.sha256(dumps({"salt": salt, "value": value})).hexdigest()


def open_commitment(committed: str, disclosure: Any) -> str:
    """The text that a disclosure {salt, value} shows, checked against its commitment.

    Raises: FormatError for another shape; VerificationError when it does not open the commitment.
    """
    if not isinstance(disclosure, dict) or set(disclosure) != {"salt", "value"}:
        raise FormatError("trust.bad_disclosure")
    made = commitment(disclosure["value"], disclosure["salt"])
    if not hmac.compare_digest(made, str(Digest.parse(committed))):
        raise VerificationError("trust.commitment_not_opened", expected=committed, found=made)
    text: str = disclosure["value"]
    return text


def short_code(sha256: bytes) -> str:
    """The first 80 bits in Crockford base32, to be read aloud: `7K2M-9QXA-04ZT-PRW8`."""
    number = int.from_bytes(sha256[:10], "big")
    code = "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(75, -1, -5))
    return "-".join(code[start : start + 4] for start in range(0, 16, 4))
