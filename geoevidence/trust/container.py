"""The files of a package as they lie in a folder or in a zip, with every irregularity.

A container lists its files and opens them for reading; what is not as the format asks
(symbolic links, empty folders, odd names, any byte of a zip header) becomes a `Defect`
that names the file, never an exception. Nothing is extracted, written or followed.
Memory grows with the number of files, not with their size. Standard library only.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, Union

from geoevidence.trust.archive import CENTRAL, END, END64, LOCATOR64, Entry, end_records, fold, sort_key
from geoevidence.trust.errors import InputError
from geoevidence.trust.events import path_defect

_MAX_DIRECTORY = 1 << 29
_MAX_DEPTH = 64


class Defect(NamedTuple):
    """subject: file. detail: message id. expected, found: texts or None."""

    subject: str
    detail: str
    expected: Optional[str] = None
    found: Optional[str] = None


class Container:
    """Files of a package.

    label: name of the folder or archive.
    sizes: path -> bytes, in package order.
    defects: of the container itself; grows while files are read.
    readable: False where the list of files could not be read at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = path.resolve().name
        self.sizes: dict[str, int] = {}
        self.defects: list[Defect] = []
        self.path_defects: list[Defect] = []
        self.readable = True

    def open(self, path: str) -> BinaryIO:
        """The file's bytes. Raises OSError where it cannot be read."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what is held open."""

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self, sizes: dict[str, int]) -> None:
        """Put files in package order; find bad names and names that collide on some computer."""
        self.sizes = {path: sizes[path] for path in sorted(sizes, key=sort_key)}
        seen: dict[str, str] = {}
        folders: dict[str, str] = {}
        for path in self.sizes:
            defect = path_defect(path)
            if defect:
                self.path_defects.append(Defect(path, defect))
            folded = fold(path)
            if folded in seen:
                self.path_defects.append(Defect(path, "trust.path_collides", None, seen[folded]))
            seen[folded] = path
            while "/" in folded:
                folded = folded.rpartition("/")[0]
                folders[folded] = path
        for folded in seen.keys() & folders.keys():
            self.path_defects.append(Defect(seen[folded], "trust.path_collides", None, folders[folded]))


class _Folder(Container):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        sizes: dict[str, int] = {}
        pending = [("", 0)]
        while pending:
            folder, depth = pending.pop()
            empty = True
            try:
                entries = sorted(os.scandir(path / folder), key=lambda entry: entry.name)
            except OSError as error:
                self.defects.append(Defect(folder or self.label, "trust.unreadable", None, error.strerror))
                continue
            for entry in entries:
                empty = False
                name = f"{folder}/{entry.name}" if folder else entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode) and not entry.is_symlink():
                    if depth >= _MAX_DEPTH:
                        self.defects.append(Defect(name, "trust.too_deep"))
                    else:
                        pending.append((name, depth + 1))
                elif stat.S_ISREG(mode) and not entry.is_symlink():
                    sizes[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    self.defects.append(Defect(name, "trust.not_a_file"))
            if empty:
                self.defects.append(Defect(folder or self.label, "trust.empty_folder"))
        self._settle(sizes)

    def open(self, path: str) -> BinaryIO:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        return os.fdopen(os.open(self.path / path, flags), "rb")


class _Zip(Container):
    """Headers are made again from names, sizes and CRCs and compared byte for byte."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = open(path, "rb")  # noqa: SIM115 (closed by close)
        self._entries: dict[str, Entry] = {}
        self._unreadable: set[str] = set()
        try:
            self._read_directory()
        except (struct.error, OSError, _Damaged) as error:
            self.readable = False
            self.defects.append(Defect(self.label, "trust.zip_directory", None, str(error) or None))

    def close(self) -> None:
        self._file.close()

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _read_directory(self) -> None:
        total = self._file.seek(0, os.SEEK_END)
        if total < END.size:
            raise _Damaged("size")
        end = END.unpack(self._at(total - END.size, END.size))
        if end[0] != 0x06054B50 or end[7] != 0:
            raise _Damaged("end of central directory")
        count, size, offset = end[4], end[5], end[6]
        if count == 0xFFFF or size == 0xFFFFFFFF or offset == 0xFFFFFFFF:
            start = total - END.size - LOCATOR64.size - END64.size
            if start < 0:
                raise _Damaged("ZIP64")
            end64 = END64.unpack(self._at(start, END64.size))
            count, size, offset = end64[7], end64[8], end64[9]
        if offset + size > total or size > _MAX_DIRECTORY:
            raise _Damaged("central directory")
        directory = self._at(offset, size)
        named = self._parse_directory(directory, count)
        records = end_records(count, offset, size)
        if offset + size + len(records) != total or self._at(offset + size, len(records)) != records:
            self.defects.append(Defect(self.label, "trust.zip_end"))
        self._check_entries(named, offset)

    def _parse_directory(self, directory: bytes, count: int) -> list[tuple[Entry, bytes]]:
        named: list[tuple[Entry, bytes]] = []
        position = 0
        while position < len(directory):
            head = CENTRAL.unpack_from(directory, position)
            name_size, extra_size, comment_size = head[10], head[11], head[12]
            after = position + CENTRAL.size + name_size + extra_size + comment_size
            if head[0] != 0x02014B50 or after > len(directory):
                raise _Damaged(f"entry {len(named) + 1}")
            start = position + CENTRAL.size
            name = directory[start : start + name_size].decode("utf-8", "surrogateescape")
            extra = directory[start + name_size : start + name_size + extra_size]
            size, offset = head[9], head[16]
            numbers = [number for (number,) in struct.iter_unpack("<Q", extra[4:])] if len(extra) % 8 == 4 else []
            if size == 0xFFFFFFFF and len(numbers) >= 2:
                size, numbers = numbers[0], numbers[2:]
            if offset == 0xFFFFFFFF and numbers:
                offset = numbers[0]
            named.append((Entry(name, size, head[7], offset), directory[position:after]))
            position = after
        if len(named) != count:
            raise _Damaged(f"{count} != {len(named)}")
        return named

    def _check_entries(self, named: list[tuple[Entry, bytes]], directory_offset: int) -> None:
        tops = Counter(entry.name.partition("/")[0] for entry, _ in named)
        top = max(sorted(tops), key=lambda name: tops[name], default="")
        running, previous = 0, None
        sizes: dict[str, int] = {}
        for entry, raw in named:
            path = entry.name[len(top) + 1 :] if entry.name.startswith(f"{top}/") else entry.name
            if path in sizes:
                self.defects.append(Defect(path, "trust.zip_twice"))
                continue
            sizes[path] = entry.size
            self._entries[path] = entry
            if path == entry.name:
                self.defects.append(Defect(path, "trust.zip_top", top, entry.name))
            if previous is not None and sort_key(previous) >= sort_key(entry.name):
                self.defects.append(Defect(path, "trust.zip_order"))
            previous = entry.name
            try:
                local, central = entry.local_header(), entry.central_header()
            except (UnicodeEncodeError, struct.error):
                self.defects.append(Defect(path, "trust.zip_header"))
                self._unreadable.add(path)
                continue
            if raw != central or entry.offset != running or self._at(entry.offset, len(local)) != local:
                self.defects.append(Defect(path, "trust.zip_header"))
            # ranges that overlap are not read: a small archive must not cost an endless read
            if entry.offset < running or entry.end > directory_offset:
                self._unreadable.add(path)
            else:
                running = entry.end
        if running != directory_offset:
            self.defects.append(Defect(self.label, "trust.zip_end"))
        self._settle(sizes)

    def open(self, path: str) -> BinaryIO:
        if path in self._unreadable:
            raise OSError(0, "zip header")
        stream: Any = _Member(self, path, self._entries[path])
        return stream  # type: ignore[no-any-return]


class _Damaged(Exception):
    pass


class _Member:
    """The bytes of one stored entry; its CRC is compared at the end."""

    def __init__(self, archive: _Zip, path: str, entry: Entry) -> None:
        self._archive, self._path, self._entry = archive, path, entry
        self._position = entry.offset + len(entry.local_header())
        self._left, self._crc = entry.size, 0

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        block = self._archive._at(self._position, wanted)
        if len(block) < wanted:
            raise OSError(0, "zip")
        self._position += wanted
        self._left -= wanted
        self._crc = zlib.crc32(block, self._crc)
        if not self._left and wanted and self._crc != self._entry.crc:
            found = Defect(self._path, "trust.zip_crc", f"{self._entry.crc:08x}", f"{self._crc:08x}")
            self._archive.defects.append(found)
        if not self._entry.size and self._entry.crc:
            self._archive.defects.append(Defect(self._path, "trust.zip_crc", "00000000", f"{self._entry.crc:08x}"))
        return block

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open_container(path: Union[str, "os.PathLike[str]"]) -> Container:
    """The files of a folder or of a zip archive.

    Raises: InputError where there is nothing at `path`, or neither a folder nor a file.
    """
    where = Path(path)
    try:
        mode = where.stat().st_mode
        if stat.S_ISDIR(mode):
            return _Folder(where)
        if stat.S_ISREG(mode):
            return _Zip(where)
    except (OSError, ValueError) as error:
        raise InputError("trust.no_package", path=str(path)) from error
    raise InputError("trust.no_package", path=str(path))
