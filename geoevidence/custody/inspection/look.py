"""What the readers share: the bytes of one file, what was found in it, how much may be inflated.

A reader gets a `Look`, reads through `Look.source` (bounded, never past the end), tells flags and details, and raises
`RejectedError` where the file must not be used. It opens, writes and starts nothing: the same readers run in the
caller's process (no budget: nothing is inflated or parsed by C code) and in the child process (`child.py`).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO

from geoevidence.types import Message

MAX_PIXELS = 2_000_000_000
"""A picture of more pixels is not opened by anything here: 2 gigapixels, about 44 000 squared."""
MAX_RATIO = 200
"""Unpacked to packed size above which a file is refused; DEFLATE reaches 1032 only on constant data."""
INFLATE_BUDGET = 256 << 20
"""Bytes that are inflated of one file at most, everything nested in it included; what is left is `in_part`."""
MAX_MEMBER = 32 << 20
"""A file in an archive up to this size is looked at like a file of its own."""
MAX_NESTING = 3
"""Archives in archives; deeper ones are refused."""
_WINDOW = 1 << 20

Detail = str | int | list[str]


class RejectedError(Exception):
    """Carries the reason of a rejection out of a reader. Never leaves this package."""

    def __init__(self, message_id: str, **values: str | int) -> None:
        super().__init__(message_id)
        self.reason = Message(id=message_id, values=values)


class OutOfBudgetError(Exception):
    """More would have to be inflated than one file may ask for. Never leaves this package."""


class Source:
    """The bytes of a file of fixed size, read by position with one window of memory."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self.size = size
        self._at = 0
        self._window = b""

    @classmethod
    def of_bytes(cls, data: bytes) -> Source:
        return cls(BytesIO(data), len(data))

    def read(self, at: int, count: int) -> bytes:
        """Exactly `count` bytes from `at`. Raises RejectedError where the file ends before."""
        if at < 0 or count < 0 or at + count > self.size:
            raise RejectedError("custody.inspect.cut_short", offset=self.size)
        start = at - self._at
        if start >= 0 and start + count <= len(self._window):
            return self._window[start : start + count]
        if count > _WINDOW:
            return self._load(at, count)
        self._window = self._load(at, min(_WINDOW, self.size - at))
        self._at = at
        return self._window[:count]

    def peek(self, at: int, count: int) -> bytes:
        """As `read`, for a few bytes far from where reading goes on: the window stays."""
        if at < 0 or count < 0 or at + count > self.size:
            raise RejectedError("custody.inspect.cut_short", offset=self.size)
        return self._load(at, count)

    def _load(self, at: int, count: int) -> bytes:
        self._stream.seek(at)
        data = self._stream.read(count)
        if len(data) != count:
            raise RejectedError("custody.inspect.changed")
        return data

    def upto(self, at: int, count: int) -> bytes:
        """As many of `count` bytes from `at` as there are."""
        at = min(max(at, 0), self.size)
        return self.read(at, min(count, self.size - at))

    def blocks(self, at: int, end: int) -> Iterator[bytes]:
        """The bytes from `at` to `end` in blocks."""
        while at < end:
            data = self.read(at, min(_WINDOW, end - at))
            yield data
            at += len(data)

    def search(self, pattern: re.Pattern[bytes], at: int, *, longest: int, end: int | None = None) -> tuple[int, bytes] | None:
        """(offset, match) of the first match between `at` and `end`; no match is longer than `longest` bytes."""
        stop = self.size if end is None else min(end, self.size)
        while at < stop:
            data = self.read(at, min(_WINDOW, stop - at))
            found = pattern.search(data)
            is_last = at + len(data) == stop
            if found and (found.end() < len(data) or is_last):
                return at + found.start(), found.group()
            if is_last:
                return None
            # what begins near the end of a block is matched again with what follows it
            step = min(found.start(), len(data) - longest) if found else len(data) - longest
            at += max(step, 1)
        return None

    def is_blank(self, at: int, end: int, blank: bytes = b"\x00") -> bool:
        """Whether nothing but bytes of `blank` lies between."""
        return all(not block.strip(blank) for block in self.blocks(at, end))


@dataclass(slots=True)
class Budget:
    """Bytes that may still be inflated. `allowed`: whether C decoders may run at all (in the child process only)."""

    left: int = INFLATE_BUDGET
    allowed: bool = True

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise OutOfBudgetError


@dataclass(slots=True)
class Look:
    """One file under examination. name: as its sender gave it; kind: media type; depth: archives around it."""

    name: str
    source: Source
    kind: str
    budget: Budget
    depth: int = 0
    flags: list[Message] = field(default_factory=list)
    details: dict[str, Detail] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.source.size

    def tell(self, message_id: str, **values: str | int) -> None:
        """Note something that a person should see; said once."""
        message = Message(id=message_id, values=values)
        if message not in self.flags:
            self.flags.append(message)

    def decoded(self, how: str) -> None:
        """How far compressed content was looked at: `all`, `in_part` or `not_checked`; the worst stays."""
        order = ("all", "in_part", "not_checked")
        before = str(self.details.get("decoded", "all"))
        self.details["decoded"] = max(before, how, key=order.index)


def inflate(blocks: Iterator[bytes], budget: Budget, *, bits: int, limit: int) -> Iterator[bytes]:
    """DEFLATE data unpacked block by block, at most `limit` bytes. bits: as `zlib.decompressobj` (-15 raw, 15 zlib).

    Raises: RejectedError for broken data, for data after the end, and where more than `limit` bytes come out;
    OutOfBudgetError.
    """
    machine = zlib.decompressobj(bits)
    total = 0
    for block in blocks:
        pending = block
        while pending and not machine.eof:
            try:
                out = machine.decompress(pending, 1 << 18)
            except zlib.error as error:
                raise RejectedError("custody.inspect.undecodable", reason=str(error)) from error
            pending = machine.unconsumed_tail
            total += len(out)
            if total > limit:
                raise RejectedError("custody.inspect.inflates_more", limit=limit)
            budget.take(len(out))
            yield out
        if machine.eof:
            break
    if not machine.eof:
        raise RejectedError("custody.inspect.undecodable", reason="deflate: end of data")


def bounded(width: int, height: int) -> None:
    """Raises RejectedError for a picture without pixels or with more than anything here opens."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise RejectedError("custody.inspect.dimensions", width=width, height=height, limit=MAX_PIXELS)
