"""Digests of files and of short texts: SHA-256 and SM3, commitments, codes to read aloud.

SM3 (GB/T 32905-2016) comes from the system's OpenSSL where it has it, else from the pure
Python below, which gives the same bytes about a thousand times slower. Reads streams in
blocks, several files at once, since hashlib lets other threads run meanwhile; what comes out
does not depend on the threads. Memory does not grow with the files. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import queue
import re
import struct
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
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


THREADS = 2
_BATCH_FILES, _BATCH_BYTES = 64, 4 << 20
_LARGE = 64 << 20
_LARGE_BLOCK = 1 << 18
_AHEAD = 6


class DigestedFile(NamedTuple):
    """A file that was read.

    digests: None where it could not be read; `sm3` in it is empty where SM3 was not asked for.
    error: why not. defect: what its container says once all was read (a CRC that differs), or None.
    """

    path: str
    digests: Optional[FileDigests]
    error: Optional[str]
    defect: Any


class FileDigester:
    """Digests many files in threads, ahead of whoever takes the results, which come in the order of the files.

    open_file: gives a stream of a path, from any thread. sm3: compute it too. on_progress: called from the thread that takes
    the results, with the number of bytes read so far.
    """

    def __init__(
        self, open_file: Callable[[str], BinaryIO], *, sm3: bool = True, on_progress: Optional[Callable[[int], None]] = None
    ) -> None:
        self._open, self._sm3, self._on_progress = open_file, sm3, on_progress
        self._done = 0
        self._lock = threading.Lock()

    def digest(self, files: Iterable[tuple[str, int]]) -> Iterator[DigestedFile]:
        """The digests of files given as (path, size in bytes, as far as known)."""
        pool = ThreadPoolExecutor(THREADS)
        pending: deque[Future[list[DigestedFile]]] = deque()
        try:
            for batch in _batches(files):
                pending.append(pool.submit(self._digest_batch, batch))
                if len(pending) > _AHEAD:
                    yield from self._wait(pending.popleft())
            while pending:
                yield from self._wait(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _wait(self, future: Future[list[DigestedFile]]) -> list[DigestedFile]:
        while True:
            try:
                result = future.result(0.2)
            except FutureTimeout:
                self._tell()
            else:
                self._tell()
                return result

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._done)

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += size

    def _digest_batch(self, batch: list[tuple[str, int]]) -> list[DigestedFile]:
        return [self._digest_one(path, size) for path, size in batch]

    def _digest_one(self, path: str, size: int) -> DigestedFile:
        try:
            with self._open(path) as stream:
                digests = self._read(stream, size)
                return DigestedFile(path, digests, None, getattr(stream, "defect", None))
        except OSError as error:
            return DigestedFile(path, None, error.strerror or str(error), None)

    def _read(self, stream: BinaryIO, size: int) -> FileDigests:
        if not self._sm3:
            sha256, total = hashlib.sha256(), 0
            for block in iter(lambda: stream.read(BLOCK), b""):
                sha256.update(block)
                total += len(block)
                self._count(len(block))
            return FileDigests(sha256.hexdigest(), "", total)
        if size < _LARGE:
            return digest_file(stream, on_block=self._count)
        return self._read_large(stream)

    def _read_large(self, stream: BinaryIO) -> FileDigests:
        """SM3 here and SHA-256 beside it, so that one large file keeps two processors busy."""
        sha256, sm3, total = hashlib.sha256(), new_sm3(), 0
        blocks: queue.Queue[bytes] = queue.Queue(4)

        def beside() -> None:
            for block in iter(blocks.get, b""):
                sha256.update(block)

        helper = threading.Thread(target=beside)
        helper.start()
        try:
            for block in iter(lambda: stream.read(_LARGE_BLOCK), b""):
                blocks.put(block)
                sm3.update(block)
                total += len(block)
                self._count(len(block))
        finally:
            blocks.put(b"")
            helper.join()
        return FileDigests(sha256.hexdigest(), sm3.hexdigest(), total)


def _batches(files: Iterable[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Small files together, a large one alone."""
    batch: list[tuple[str, int]] = []
    total = 0
    for path, size in files:
        if batch and (len(batch) >= _BATCH_FILES or total + size > _BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append((path, size))
        total += size
    if batch:
        yield batch


class DigestingLines:
    """The lines of a stream, without LF, digested as they are read: what is parsed is what was digested.

    Iterating raises FormatError for a line longer than `longest`, a last line without LF, or a medium that fails;
    `finish` reads what is left. where: name for messages.
    """

    def __init__(self, stream: BinaryIO, *, where: str, longest: int, sm3: bool = True) -> None:
        self._stream, self._where, self._longest = stream, where, longest
        self._sha256, self._sm3, self._size = hashlib.sha256(), new_sm3() if sm3 else None, 0
        self._error: Optional[OSError] = None

    def _read(self) -> bytes:
        block = self._stream.read(_LARGE_BLOCK)
        self._sha256.update(block)
        if self._sm3 is not None:
            self._sm3.update(block)
        self._size += len(block)
        return block

    def __iter__(self) -> Iterator[bytes]:
        parts: list[bytes] = []
        length, number = 0, 1
        while True:
            try:
                block = self._read()
            except OSError as error:
                self._error = error
                raise FormatError("trust.cannot_read", path=self._where, reason=error.strerror or str(error)) from error
            if not block:
                break
            *lines, rest = block.split(b"\n")
            for line in lines:
                if length + len(line) > self._longest:
                    raise FormatError("trust.line_long", where=f"{self._where}:{number}", limit=self._longest)
                yield b"".join((*parts, line)) if parts else line
                parts, length = [], 0
                number += 1
            parts.append(rest)
            length += len(rest)
            if length > self._longest:
                raise FormatError("trust.line_long", where=f"{self._where}:{number}", limit=self._longest)
        if length:
            raise FormatError("trust.text_end", where=self._where)

    def finish(self) -> FileDigests:
        """The digests of the whole stream; SM3 empty where it was not asked for. Raises OSError where any reading failed."""
        if self._error is not None:
            raise self._error
        while self._read():
            pass
        return FileDigests(self._sha256.hexdigest(), self._sm3.hexdigest() if self._sm3 is not None else "", self._size)


def has_fast_sm3() -> bool:
    """True where the system's OpenSSL has SM3."""
    return not isinstance(new_sm3(), PureSM3)


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
