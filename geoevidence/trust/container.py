"""The files of a package as they lie in a folder or in a zip, with every irregularity.

A container lists its files in the order of the package and opens them for reading; what is not
as the format asks (symbolic links, empty folders, any byte of a zip header) becomes a `Defect`
that names the file, never an exception. Nothing is extracted, written or followed. Memory grows
with the largest folder, and by 8 bytes a file of an archive. Standard library only.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Callable, NamedTuple, Optional, Union

from geoevidence.trust.archive import CENTRAL, END, END64, LOCATOR64, Entry, end_records, fold, sort_key
from geoevidence.trust.errors import InputError

_MAX_DEPTH = 64
_WINDOW = 1 << 20


class Defect(NamedTuple):
    """subject: file. detail: message id. expected, found: texts or None."""

    subject: str
    detail: str
    expected: Optional[str] = None
    found: Optional[str] = None


Report = Callable[[Defect], None]


class Container:
    """Files of a package.

    label: name of the folder or archive.
    readable: False where the list of files could not be read at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = path.resolve().name
        self.readable = True

    def files(self, report: Optional[Report] = None) -> Iterator[tuple[str, int]]:
        """(path, bytes) of each file in the order of the package, no path twice.

        report: is given the defects of the container, so that they are said once though files are listed often.
        """
        raise NotImplementedError

    def open(self, path: str) -> BinaryIO:
        """The file's bytes; from several threads at once if need be.

        A `defect` attribute of the stream holds, once all was read, what its CRC says. Raises OSError where the
        file is not there or cannot be read.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Release what is held open."""

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- folders -------------------------------------------------------------------------------------


class _Folder(Container):
    def files(self, report: Optional[Report] = None) -> Iterator[tuple[str, int]]:
        return self._walk([""], 0, report or _ignore)

    def _walk(self, folders: list[str], depth: int, report: Report) -> Iterator[tuple[str, int]]:
        """Files below folders whose names are equal folded (one, in a sound package).

        Sorted by folded name, a folder with "/" after it, the tree is walked in the order of folded paths: two
        paths first differ in one name, and "/" stands where the shorter of the two names ends.
        """
        found: list[tuple[str, str, int]] = []
        for folder in folders:
            try:
                with os.scandir(self.path / folder) as entries:
                    listed = list(entries)
            except OSError as error:
                report(Defect(folder or self.label, "trust.unreadable", None, error.strerror))
                continue
            if not listed:
                report(Defect(folder or self.label, "trust.empty_folder"))
            for entry in listed:
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    report(Defect(path, "trust.unreadable", None, error.strerror))
                    continue
                if stat.S_ISDIR(status.st_mode) and not entry.is_symlink():
                    if depth >= _MAX_DEPTH:
                        report(Defect(path, "trust.too_deep"))
                    else:
                        found.append((f"{fold(entry.name)}/", path, -1))
                elif stat.S_ISREG(status.st_mode) and not entry.is_symlink():
                    found.append((fold(entry.name), path, status.st_size))
                else:
                    report(Defect(path, "trust.not_a_file"))
        found.sort()
        position = 0
        while position < len(found):
            key, path, size = found[position]
            position += 1
            if size >= 0:
                yield path, size
                continue
            same = [path]
            while position < len(found) and found[position][0] == key:
                same.append(found[position][1])
                position += 1
            yield from self._walk(same, depth + 1, report)

    def open(self, path: str) -> BinaryIO:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self.path / path, flags)
        except ValueError as error:
            raise OSError(0, "name") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "not a plain file")
        return os.fdopen(descriptor, "rb")


def _ignore(_: Defect) -> None:
    pass


# ---- archives ------------------------------------------------------------------------------------


class _Damaged(Exception):
    pass


class _Zip(Container):
    """Headers are made again from names, sizes and CRCs and compared byte for byte.

    Of each entry only the place of its central header is kept; the directory is read in blocks.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = open(path, "rb")  # noqa: SIM115 (closed by close)
        self._lock = threading.Lock()
        self._directory = (0, 0)
        self._places = array("Q")
        """Central headers in the order of the package; those of names that came before are left out."""
        self._top = ""
        self._found: list[tuple[str, str, Optional[str], Optional[str]]] = []
        self._unreadable: set[int] = set()
        try:
            self._read_directory()
        except (struct.error, OSError, _Damaged) as error:
            self.readable = False
            self._places = array("Q")
            self._found = [("", "trust.zip_directory", None, str(error) or None)]

    def close(self) -> None:
        self._file.close()

    def files(self, report: Optional[Report] = None) -> Iterator[tuple[str, int]]:
        if report is not None:
            for name, detail, expected, found in self._found:
                report(Defect(self._inner(name) if name else self.label, detail, expected, found))
        block, block_at = b"", 0
        for place in self._places:
            # entries mostly follow one another: one reading serves many
            inside = block_at <= place < block_at + len(block)
            if not inside or (block_at + len(block) < self._directory[1] and place > block_at + len(block) - (1 << 18)):
                block, block_at = self._at(place, min(_WINDOW, self._directory[1] - place)), place
            try:
                entry, _ = _parse_entry(block, place - block_at)
            except (struct.error, _Damaged):
                # it was whole when the archive was opened: somebody writes to it, or the medium fails
                if report is not None:
                    report(Defect(self.label, "trust.unreadable"))
                return
            yield self._inner(entry.name), entry.size

    def open(self, path: str) -> BinaryIO:
        low, high, key = 0, len(self._places), sort_key(path)
        while low < high:
            middle = (low + high) // 2
            place = self._places[middle]
            entry = self._entry(place)
            found = sort_key(self._inner(entry.name))
            if found == key:
                if place in self._unreadable:
                    raise OSError(0, "zip header")
                stream: Any = _Member(self, path, entry)
                return stream  # type: ignore[no-any-return]
            low, high = (middle + 1, high) if found < key else (low, middle)
        raise FileNotFoundError(0, path)

    def _entry(self, place: int) -> Entry:
        left = self._directory[1] - place
        try:
            return _parse_entry(self._at(place, min(1 << 10, left)), 0)[0]
        except (struct.error, _Damaged):
            pass
        try:
            return _parse_entry(self._at(place, min(1 << 18, left)), 0)[0]
        except (struct.error, _Damaged) as error:
            raise OSError(0, str(error)) from error

    def _at(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)

    def _inner(self, name: str) -> str:
        return name[len(self._top) + 1 :] if name.startswith(f"{self._top}/") else name

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
        if offset + size > total:
            raise _Damaged("central directory")
        self._directory = (offset, offset + size)
        records = end_records(count, offset, size)
        if offset + size + len(records) != total or self._at(offset + size, len(records)) != records:
            self._found.append(("", "trust.zip_end", None, None))
        self._check_entries(count)

    def _scan(self) -> Iterator[tuple[int, Entry, bytes]]:
        """(place, entry, bytes of the central header) of the whole directory, in its order."""
        place, end = self._directory
        block, position = b"", 0
        while place < end:
            # a header with its three fields of 16 bits is shorter than 2^18
            if len(block) - position < 1 << 18:
                block, position = self._at(place, min(1 << 20, end - place)), 0
            entry, raw = _parse_entry(block, position)
            yield place, entry, raw
            place += len(raw)
            position += len(raw)

    def _check_entries(self, count: int) -> None:
        running, previous, one_top, ordered = 0, None, True, True
        for place, entry, raw in self._scan():
            top, slash, _ = entry.name.partition("/")
            if previous is None:
                self._top = top
            one_top = one_top and top == self._top and bool(slash)
            key = sort_key(entry.name)
            if previous is not None and previous >= key:
                ordered = False
                self._found.append((entry.name, "trust.zip_twice" if previous == key else "trust.zip_order", None, None))
            previous = key
            running = self._check_header(entry, raw, place, running)
            self._places.append(place)
        if len(self._places) != count:
            raise _Damaged(f"{count} != {len(self._places)}")
        if running != self._directory[0]:
            self._found.append(("", "trust.zip_end", None, None))
        if not (one_top and ordered):
            self._settle()

    def _settle(self) -> None:
        """Put files in the order of the package where the archive does not, the first of each name; memory grows with the directory."""
        tops = Counter(entry.name.partition("/")[0] for _, entry, _ in self._scan())
        self._top = max(sorted(tops), key=lambda name: tops[name])
        places: dict[str, int] = {}
        for place, entry, _ in self._scan():
            path = self._inner(entry.name)
            if path == entry.name:
                self._found.append((path, "trust.zip_top", self._top, entry.name))
            if places.setdefault(path, place) != place:
                self._found.append((entry.name, "trust.zip_twice", None, None))
        self._places = array("Q", (places[path] for path in sorted(places, key=sort_key)))

    def _check_header(self, entry: Entry, raw: bytes, place: int, running: int) -> int:
        """Compare the headers of one entry; the offset where the next one has to start."""
        try:
            local, central = entry.local_header(), entry.central_header()
        except (UnicodeEncodeError, struct.error):
            self._found.append((entry.name, "trust.zip_header", None, None))
            self._unreadable.add(place)
            return running
        if raw != central or entry.offset != running or self._at(entry.offset, len(local)) != local:
            self._found.append((entry.name, "trust.zip_header", None, None))
        # ranges that overlap are not read: a small archive must not cost an endless read
        if entry.offset < running or entry.end > self._directory[0]:
            self._unreadable.add(place)
            return running
        return entry.end


def _parse_entry(block: bytes, position: int) -> tuple[Entry, bytes]:
    """The entry of a central header, and the bytes of that header."""
    head = CENTRAL.unpack_from(block, position)
    name_size, extra_size, comment_size = head[10], head[11], head[12]
    start = position + CENTRAL.size
    end = start + name_size + extra_size + comment_size
    if head[0] != 0x02014B50 or end > len(block):
        raise _Damaged("entry of the central directory")
    name = block[start : start + name_size].decode("utf-8", "surrogateescape")
    extra = block[start + name_size : start + name_size + extra_size]
    size, offset = head[9], head[16]
    numbers = [number for (number,) in struct.iter_unpack("<Q", extra[4:])] if len(extra) % 8 == 4 else []
    if size == 0xFFFFFFFF and len(numbers) >= 2:
        size, numbers = numbers[0], numbers[2:]
    if offset == 0xFFFFFFFF and numbers:
        offset = numbers[0]
    return Entry(name, size, head[7], offset), block[position:end]


class _Member:
    """The bytes of one stored entry; its CRC is compared at the end."""

    def __init__(self, archive: _Zip, path: str, entry: Entry) -> None:
        self._archive, self._path, self._entry = archive, path, entry
        self._position = entry.offset + len(entry.local_header())
        self._left, self._crc = entry.size, 0
        self.defect: Optional[Defect] = None
        self._compare()

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        block = self._archive._at(self._position, wanted) if wanted else b""
        if len(block) < wanted:
            raise OSError(0, "zip")
        self._position += wanted
        self._left -= wanted
        self._crc = zlib.crc32(block, self._crc)
        self._compare()
        return block

    def _compare(self) -> None:
        if not self._left and self._crc != self._entry.crc:
            self.defect = Defect(self._path, "trust.zip_crc", f"{self._entry.crc:08x}", f"{self._crc:08x}")

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
