"""A first look at files before anything is done with them: accept, flag or reject, and why.

Reads structure only: headers, segment lengths, directories, ends. Decodes no picture and unpacks no archive, so a
hostile file costs no more than its own bytes. `reject` is a file that is not what it says or is cut short; `flag` one
that can be used but holds something a person should look at; `accept` means only that no such defect was found here.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from geoevidence.custody.ingest import name_problem
from geoevidence.custody.media import jpeg_segments, media_type
from geoevidence.custody.store import HEAD, shown
from geoevidence.errors import FormatError
from geoevidence.trust.archive import fold
from geoevidence.trust.canonical import loads
from geoevidence.types import Message

Verdict = Literal["accept", "flag", "reject"]
MAX_PIXELS = 2_000_000_000
"""A picture of more pixels is not opened by anything here: 2 gigapixels, about 44 000 squared."""
_MAX_JSON = 64 << 20
_MAX_RATIO = 200
"""Unpacked to packed size of an archive above which it is refused; DEFLATE reaches 1032 only on constant data."""
_MAX_ENTRIES = 100_000
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionResult:
    """What was found about one file (or one package folder). details: name -> number or text."""

    path: Path
    verdict: Verdict
    reason: Message
    details: Mapping[str, str | int] = field(default_factory=dict)


class _Defect(Exception):
    """Carries a verdict out of a parser. Never leaves this module."""

    def __init__(self, verdict: Verdict, message_id: str, **values: str | int) -> None:
        super().__init__(message_id)
        self.verdict: Verdict = verdict
        self.reason = Message(id=message_id, values=values)


def inspect_path(path: Path) -> Iterator[InspectionResult]:
    """One result for a file; for a folder one for every file in it, in the order of paths. Never raises for content.

    A folder that is a package is one result: it is verified as a whole.
    """
    path = Path(path)
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        yield _result(path, "reject", "custody.inspect.unreadable", reason=error.strerror or str(error))
        return
    if stat.S_ISREG(mode):
        yield _inspect_file(path)
    elif stat.S_ISDIR(mode):
        if (path / "bagit.txt").is_file() and (path / "seal").is_dir():
            yield _inspect_package(path)
            return
        try:
            children = sorted(path.iterdir())
        except OSError as error:
            yield _result(path, "reject", "custody.inspect.unreadable", reason=error.strerror or str(error))
            return
        for child in children:
            yield from inspect_path(child)
    elif stat.S_ISLNK(mode):
        yield _result(path, "flag", "custody.inspect.link")
    else:
        yield _result(path, "reject", "custody.inspect.special")


def _result(path: Path, verdict: Verdict, message_id: str, **values: str | int) -> InspectionResult:
    return InspectionResult(path=path, verdict=verdict, reason=Message(id=message_id, values=values))


def _inspect_package(path: Path) -> InspectionResult:
    from geoevidence.trust.checks import verify_package

    report = verify_package(path)
    failed = [check for check in report.checks if check.status == "failed"]
    details: dict[str, str | int] = {"kind": "package", "failed_checks": len(failed)}
    if failed:
        reason = Message(id="custody.inspect.package_broken", values={"count": len(failed), "first": failed[0].name})
        return InspectionResult(path=path, verdict="reject", reason=reason, details=details)
    return InspectionResult(path=path, verdict="accept", reason=Message(id="custody.inspect.package_whole"), details=details)


def _inspect_file(path: Path) -> InspectionResult:
    details: dict[str, str | int] = {}
    try:
        with open(path, "rb") as stream:
            head = stream.read(HEAD)
            size = os.fstat(stream.fileno()).st_size
            kind = media_type(path.name, head)
            details.update(media_type=kind, size=size)
            if size == 0:
                raise _Defect("flag", "custody.inspect.empty")
            inspector = _INSPECTORS.get(kind)
            if inspector is None:
                return InspectionResult(
                    path=path, verdict="accept", reason=Message(id="custody.inspect.not_known"), details=details
                )
            if kind == "application/zip" and _is_package_zip(stream):
                found = _inspect_package(path)
                return InspectionResult(
                    path=path, verdict=found.verdict, reason=found.reason, details={**details, **found.details}
                )
            stream.seek(0)
            inspector(stream, size, details)
    except _Defect as defect:
        return InspectionResult(path=path, verdict=defect.verdict, reason=defect.reason, details=details)
    except OSError as error:
        return _result(path, "reject", "custody.inspect.unreadable", reason=error.strerror or str(error))
    return InspectionResult(path=path, verdict="accept", reason=Message(id="custody.inspect.sound"), details=details)


# ---------------------------------------------------------------- JPEG


def _inspect_jpeg(stream: BinaryIO, size: int, details: dict[str, str | int]) -> None:
    """Segments to the end of the first picture (ITU-T T.81 annex B); what stands after it is looked at, not decoded."""
    data = stream.read(size)
    at, frame = 2, None
    scan_seen = False
    while True:
        marker, at = _next_marker(data, at, scan_seen)
        if marker == 0xD9:
            break
        if marker in (0x01, *range(0xD0, 0xD8)):
            continue
        if at + 2 > len(data):
            raise _Defect("reject", "custody.inspect.cut_short", offset=len(data))
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            raise _Defect("reject", "custody.inspect.cut_short", offset=len(data))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if length < 8:
                raise _Defect("reject", "custody.inspect.bad_structure", offset=at)
            frame = struct.unpack_from(">HH", data, at + 3)
        scan_seen = scan_seen or marker == 0xDA
        at += length
    if frame is None or not scan_seen:
        raise _Defect("reject", "custody.inspect.no_picture")
    height, width = frame
    details.update(width=width, height=height)
    _bounded(width, height)
    rest = data[at:]
    if rest.strip(b"\x00\xff"):
        # multi-picture files (CIPA DC-007) announce what they append in an APP2 segment
        announced = any(m == 0xE2 and data[s : s + 4] == b"MPF\x00" for m, s, _ in jpeg_segments(data))
        details["appended_bytes"] = len(rest)
        if not announced:
            raise _Defect("flag", "custody.inspect.appended", count=len(rest), offset=at)


def _next_marker(data: bytes, at: int, in_scan: bool) -> tuple[int, int]:
    """The next marker from `at` and the offset after it; entropy-coded data are passed over once a scan has begun."""
    while True:
        found = data.find(b"\xff", at) if in_scan else at
        if found < 0 or found + 1 >= len(data):
            raise _Defect("reject", "custody.inspect.cut_short", offset=len(data))
        if data[found] != 0xFF:
            raise _Defect("reject", "custody.inspect.bad_structure", offset=found)
        following = data[found + 1]
        if following == 0xFF:
            at = found + 1
        elif in_scan and (following == 0x00 or 0xD0 <= following <= 0xD7):
            at = found + 2
        else:
            return following, found + 2


def _bounded(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise _Defect("reject", "custody.inspect.dimensions", width=width, height=height, limit=MAX_PIXELS)


# ---------------------------------------------------------------- PNG


def _inspect_png(stream: BinaryIO, size: int, details: dict[str, str | int]) -> None:
    """Chunks with their CRCs to IEND (PNG third edition, section 5)."""
    stream.seek(8)
    first = True
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise _Defect("reject", "custody.inspect.cut_short", offset=size)
        length, kind = struct.unpack(">I4s", head)
        if length > size:
            raise _Defect("reject", "custody.inspect.cut_short", offset=size)
        crc, left, body = zlib.crc32(kind), length, b""
        while left:
            block = stream.read(min(left, _CHUNK))
            if not block:
                raise _Defect("reject", "custody.inspect.cut_short", offset=size)
            crc, left = zlib.crc32(block, crc), left - len(block)
            body = body or block
        stored = stream.read(4)
        if len(stored) < 4:
            raise _Defect("reject", "custody.inspect.cut_short", offset=size)
        if int.from_bytes(stored, "big") != crc:
            raise _Defect("reject", "custody.inspect.checksum", offset=stream.tell() - 4)
        if first:
            if kind != b"IHDR" or length != 13:
                raise _Defect("reject", "custody.inspect.bad_structure", offset=8)
            width, height = struct.unpack_from(">II", body)
            details.update(width=width, height=height)
            _bounded(width, height)
            first = False
        if kind == b"IEND":
            break
    if stream.tell() < size:
        details["appended_bytes"] = size - stream.tell()
        raise _Defect("flag", "custody.inspect.appended", count=size - stream.tell(), offset=stream.tell())


# ---------------------------------------------------------------- TIFF


def _inspect_tiff(stream: BinaryIO, size: int, details: dict[str, str | int]) -> None:
    """Directories, dimensions, and that every strip and tile lies inside the file (TIFF 6.0; BigTIFF)."""
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = len(head) >= 16 and head[2:4] in (b"+\x00", b"\x00+")
    entry, number = (struct.Struct(order + "HHQ8s"), "Q") if big else (struct.Struct(order + "HHI4s"), "I")
    count_kind = struct.Struct(order + ("Q" if big else "H"))
    try:
        at = struct.unpack_from(order + number, head, 8 if big else 4)[0]
    except struct.error as error:
        raise _Defect("reject", "custody.inspect.cut_short", offset=size) from error
    seen: set[int] = set()
    while at:
        if at in seen or len(seen) > 4096:
            raise _Defect("reject", "custody.inspect.bad_structure", offset=at)
        seen.add(at)
        count = count_kind.unpack(_exactly(stream, at, count_kind.size, size))[0]
        if count == 0 or count > 4096:
            raise _Defect("reject", "custody.inspect.bad_structure", offset=at)
        raw = _exactly(stream, at + count_kind.size, count * entry.size, size)
        tags = {tag: (kind, values, inline) for tag, kind, values, inline in entry.iter_unpack(raw)}
        after = at + count_kind.size + count * entry.size
        following = struct.unpack(order + number, _exactly(stream, after, struct.calcsize(number), size))[0]
        values = {
            tag: _tiff_numbers(stream, *tags[tag], order=order, big=big, size=size)
            for tag in (256, 257, 273, 279, 324, 325)
            if tag in tags
        }
        if not values.get(256) or not values.get(257):
            raise _Defect("reject", "custody.inspect.bad_structure", offset=at)
        if "width" not in details:  # of the first picture
            details.update(width=values[256][0], height=values[257][0])
        _bounded(values[256][0], values[257][0])
        for offsets, lengths in ((273, 279), (324, 325)):
            pairs = zip(values.get(offsets, ()), values.get(lengths, ()), strict=False)
            if any(start + length > size for start, length in pairs):
                raise _Defect("reject", "custody.inspect.cut_short", offset=size)
        at = following
    if not seen:
        raise _Defect("reject", "custody.inspect.no_picture")
    details["directories"] = len(seen)


def _exactly(stream: BinaryIO, at: int, count: int, size: int) -> bytes:
    if at + count > size:
        raise _Defect("reject", "custody.inspect.cut_short", offset=size)
    stream.seek(at)
    return stream.read(count)


_TIFF_SIZES = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}


def _tiff_numbers(stream: BinaryIO, kind: int, count: int, inline: bytes, *, order: str, big: bool, size: int) -> tuple[int, ...]:
    if kind not in _TIFF_SIZES or count > 50_000_000:
        raise _Defect("reject", "custody.inspect.bad_structure", offset=0)
    code, width = _TIFF_SIZES[kind]
    if width * count <= len(inline):
        raw = inline[: width * count]
    else:
        raw = _exactly(stream, struct.unpack(order + ("Q" if big else "I"), inline)[0], width * count, size)
    return struct.unpack(f"{order}{count}{code}", raw)


# ---------------------------------------------------------------- zip, JSON


def _is_package_zip(stream: BinaryIO) -> bool:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        return False
    return any(name.count("/") == 2 and name.endswith("/seal/statement.dsse") for name in names)


def _inspect_zip(stream: BinaryIO, size: int, details: dict[str, str | int]) -> None:
    """Every entry by its name and sizes; nothing is unpacked."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise _Defect("reject", "custody.inspect.bad_archive", reason=str(error)) from error
    details["entries"] = len(entries)
    if len(entries) > _MAX_ENTRIES:
        raise _Defect("reject", "custody.inspect.archive_entries", count=len(entries), limit=_MAX_ENTRIES)
    unpacked = sum(entry.file_size for entry in entries)
    details["unpacked_bytes"] = unpacked
    if unpacked > _MAX_RATIO * max(size, 1 << 16):
        raise _Defect("reject", "custody.inspect.archive_bomb", unpacked=unpacked, packed=size)
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename.rstrip("/")
        mode = entry.external_attr >> 16
        if stat.S_ISLNK(mode):
            raise _Defect("reject", "custody.inspect.archive_link", name=shown(name))
        if name_problem(name) is not None:
            raise _Defect("reject", "custody.inspect.archive_name", name=shown(name))
        if fold(name) in seen:
            raise _Defect("reject", "custody.inspect.archive_twice", name=shown(name))
        seen.add(fold(name))
    if any(entry.flag_bits & 1 for entry in entries):
        raise _Defect("flag", "custody.inspect.archive_locked")


def _inspect_json(stream: BinaryIO, size: int, details: dict[str, str | int]) -> None:
    if size > _MAX_JSON:
        raise _Defect("flag", "custody.inspect.too_large", size=size, limit=_MAX_JSON)
    try:
        loads(stream.read(size), where="JSON", allow_floats=True)
    except FormatError as error:
        raise _Defect("reject", "custody.inspect.bad_json", reason=error.render("en")) from error


_INSPECTORS = {
    "image/jpeg": _inspect_jpeg,
    "image/png": _inspect_png,
    "image/tiff": _inspect_tiff,
    "application/zip": _inspect_zip,
    "application/json": _inspect_json,
    "application/geo+json": _inspect_json,
}
