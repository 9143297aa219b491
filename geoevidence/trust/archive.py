"""The one zip archive that holds given files: its headers, byte for byte (PKWARE APPNOTE 6.3.10).

Stored entries, DOS time 1980-01-01 00:00, UTF-8 names, no comments, no data descriptors, no
extra fields but ZIP64 where a number does not fit (docs/formats/package.md). The sealer writes
these bytes; the verifier makes them again from names, sizes and CRCs and compares, so no byte
of an archive is free. Makes bytes only: reads and writes no file. Standard library only.
"""

from __future__ import annotations

import struct
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from geoevidence.trust.errors import FormatError

_32 = 0xFFFFFFFF
_16 = 0xFFFF
_FLAG_UTF8 = 0x0800
_DATE_1980 = 0x0021
_MODE = 0o644 << 16
_UNIX = 3 << 8
END = struct.Struct("<IHHHHIIH")
CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
LOCAL = struct.Struct("<IHHHHHIIIHH")
END64 = struct.Struct("<IQHHIIQQQQ")
LOCATOR64 = struct.Struct("<IIQI")


def fold(path: str) -> str:
    """NFC, case-folded: two paths with one fold would be one file on some computer."""
    return unicodedata.normalize("NFC", path).casefold()


def sort_key(path: str) -> tuple[str, str]:
    """Order of files everywhere in a package: colliding names meet."""
    return fold(path), path


@dataclass(frozen=True)
class Entry:
    """One file of an archive.

    name: path with the top folder.
    size: bytes.
    crc: CRC-32 of the bytes.
    offset: of its local header.
    """

    name: str
    size: int
    crc: int
    offset: int

    @property
    def _name(self) -> bytes:
        name = self.name.encode("utf-8")
        if len(name) > _16:
            raise FormatError("trust.path_bad", path=self.name[:80])
        return name

    def local_header(self) -> bytes:
        """Header before the file's bytes."""
        big = self.size >= _32
        extra = struct.pack("<HHQQ", 1, 16, self.size, self.size) if big else b""
        size = _32 if big else self.size
        name = self._name
        head = LOCAL.pack(
            0x04034B50, 45 if big else 20, _FLAG_UTF8, 0, 0, _DATE_1980, self.crc, size, size, len(name), len(extra)
        )
        return head + name + extra

    def central_header(self) -> bytes:
        """Header in the central directory."""
        big, far = self.size >= _32, self.offset >= _32
        numbers = ([self.size, self.size] if big else []) + ([self.offset] if far else [])
        extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        version = 45 if numbers else 20
        size, offset = (_32 if big else self.size), (_32 if far else self.offset)
        name = self._name
        head = CENTRAL.pack(
            0x02014B50, _UNIX | version, version, _FLAG_UTF8, 0, 0, _DATE_1980, self.crc, size, size,
            len(name), len(extra), 0, 0, 0, _MODE, offset,
        )  # fmt: skip
        return head + name + extra

    @property
    def end(self) -> int:
        """Offset after the file's bytes."""
        return self.offset + len(self.local_header()) + self.size


def end_records(count: int, offset: int, size: int) -> bytes:
    """What follows a central directory of `count` entries at `offset`, `size` bytes long."""
    records = b""
    if count >= _16 or offset >= _32 or size >= _32:
        records = END64.pack(0x06064B50, 44, _UNIX | 45, 45, 0, 0, count, count, size, offset)
        records += LOCATOR64.pack(0x07064B50, 0, offset + size, 1)
    short = min(count, _16)
    return records + END.pack(0x06054B50, 0, 0, short, short, min(size, _32), min(offset, _32), 0)


def archive_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    """The whole archive of small files {name: bytes}, sorted by `sort_key`."""
    parts: list[bytes] = []
    entries: list[Entry] = []
    offset = 0
    for name, data in sorted(files, key=lambda each: sort_key(each[0])):
        entry = Entry(name, len(data), zlib.crc32(data), offset)
        entries.append(entry)
        parts += [entry.local_header(), data]
        offset = entry.end
    directory = b"".join(entry.central_header() for entry in entries)
    return b"".join([*parts, directory, end_records(len(entries), offset, len(directory))])
