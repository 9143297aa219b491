"""Data files by their headers: NumPy arrays, pickles, SQLite and GeoPackage, shapefile parts, ISO media boxes, RIFF, PDF.

A pickle is a program for a stack machine that may call anything; it is refused wherever it hides and never loaded.
Sources: NumPy NEP 1, SQLite file format 3, OGC 12-128r18, ESRI shapefile description (1998), ISO/IEC 14496-12, ISO 32000-1.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import PurePosixPath

from geoevidence.custody.inspection.look import Look, RejectedError

_NPY_HEADER = re.compile(
    r"\s*\{\s*'descr':\s*('[^']*'|\[.*\]),\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([0-9, L]*)\),?\s*\}\s*", re.S
)
_NPY_PLAIN = re.compile(r"'[<>|=]?([biufcSUV?mM])([0-9]{0,9})(\[[^\]]*\])?'")
_MAX_HEADER = 1 << 16
_PDF_ACTIVE = re.compile(rb"/(JavaScript|JS|Launch|EmbeddedFile|OpenAction|AA|RichMedia)\b")
PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth"})


def read_pickle(look: Look) -> None:
    """Refused: reading it means running it."""
    raise RejectedError("custody.inspect.pickle", name=PurePosixPath(look.name).name[:100])


def read_npy(look: Look) -> None:
    """Header of a NumPy array, its element type, and that the file holds exactly the elements that it announces."""
    source = look.source
    major = source.read(6, 2)[0]
    if major not in (1, 2, 3):
        raise RejectedError("custody.inspect.bad_structure", offset=6)
    width = 2 if major == 1 else 4
    length = int.from_bytes(source.read(8, width), "little")
    if length > _MAX_HEADER:
        raise RejectedError("custody.inspect.bad_structure", offset=8)
    start = 8 + width
    text = source.read(start, length).decode("latin-1")
    header = _NPY_HEADER.fullmatch(text)
    if header is None:
        raise RejectedError("custody.inspect.bad_structure", offset=start)
    if re.search(r"'[<>|=]?O\d*'", header[1]):
        raise RejectedError("custody.inspect.pickle", name=PurePosixPath(look.name).name[:100])
    plain = _NPY_PLAIN.fullmatch(header[1])
    if plain is None:
        return
    size = int(plain[2] or (1 if plain[1] == "?" else 0)) * (4 if plain[1] == "U" else 1)
    shape = [int(part) for part in header[3].replace("L", "").split(",") if part.strip()]
    expected = size * math.prod(shape)
    rest = look.size - start - length
    if rest < expected:
        raise RejectedError("custody.inspect.cut_short", offset=look.size)
    if rest > expected:
        look.details["appended_bytes"] = rest - expected
        look.tell("custody.inspect.appended", count=rest - expected, offset=look.size - (rest - expected))


def read_sqlite(look: Look) -> None:
    """Page size and number of pages of the header against the file (SQLite file format, section 1.3)."""
    head = look.source.read(0, 100)
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    if page < 512 or page & (page - 1) or head[18] not in (1, 2) or head[19] not in (1, 2) or head[21:24] != b"\x40\x20\x20":
        raise RejectedError("custody.inspect.bad_structure", offset=16)
    pages, changed, valid_for = int.from_bytes(head[28:32], "big"), head[24:28], head[92:96]
    if head[18] == 2:
        look.tell("custody.inspect.unfinished", what="SQLite WAL")
    if pages and changed == valid_for:
        if pages * page > look.size:
            raise RejectedError("custody.inspect.cut_short", offset=look.size)
        if pages * page < look.size:
            look.tell("custody.inspect.appended", count=look.size - pages * page, offset=pages * page)


def read_shapefile(look: Look) -> None:
    """Header of a .shp or .shx: its length in 16-bit words is the file's."""
    head = look.source.read(0, 100)
    words, version = int.from_bytes(head[24:28], "big"), int.from_bytes(head[28:32], "little")
    if head[:4] != b"\x00\x00\x27\x0a" or version != 1000:
        raise RejectedError("custody.inspect.bad_structure", offset=0)
    if 2 * words > look.size:
        raise RejectedError("custody.inspect.cut_short", offset=look.size)
    if 2 * words < look.size:
        look.tell("custody.inspect.appended", count=look.size - 2 * words, offset=2 * words)
    if not all(math.isfinite(value) for value in struct.unpack_from("<4d", head, 36)):
        raise RejectedError("custody.inspect.bad_structure", offset=36)


def read_dbf(look: Look) -> None:
    """Header of a .dbf: records times their length."""
    head = look.source.read(0, 32)
    records, start, width = struct.unpack_from("<IHH", head, 4)
    end = start + records * width
    if start < 33 or width < 1:
        raise RejectedError("custody.inspect.bad_structure", offset=8)
    if end > look.size:
        raise RejectedError("custody.inspect.cut_short", offset=look.size)
    if look.size - end > 1:  # one end mark (0x1A) may follow
        look.tell("custody.inspect.appended", count=look.size - end, offset=end)


def read_boxes(look: Look) -> None:
    """Boxes of HEIC, MP4 and JPEG 2000 at the top level, one after the other to the end (ISO/IEC 14496-12, 4.2)."""
    at, count = 0, 0
    while at < look.size:
        length, kind = struct.unpack(">I4s", look.source.read(at, 8))
        head = 8
        if length == 1:
            length, head = struct.unpack(">Q", look.source.read(at + 8, 8))[0], 16
        if length == 0:
            length = look.size - at
        if not kind.isascii() or not all(32 <= byte < 127 for byte in kind):
            if count < 2:
                raise RejectedError("custody.inspect.bad_structure", offset=at)
            look.tell("custody.inspect.appended", count=look.size - at, offset=at)
            return
        if length < head:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        if at + length > look.size:
            raise RejectedError("custody.inspect.cut_short", offset=look.size)
        at, count = at + length, count + 1
        if count > 100_000:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
    look.decoded("not_checked")


def read_riff(look: Look) -> None:
    """WebP: the length of the RIFF container is the file's."""
    end = 8 + int.from_bytes(look.source.read(4, 4), "little")
    if end > look.size:
        raise RejectedError("custody.inspect.cut_short", offset=look.size)
    if end < look.size:
        look.tell("custody.inspect.appended", count=look.size - end, offset=end)
    look.decoded("not_checked")


def read_pdf(look: Look) -> None:
    """An end mark, and whether anything in plain sight acts when the document is opened."""
    tail = look.source.upto(max(look.size - 2048, 0), 2048)
    mark = tail.rfind(b"%%EOF")
    if mark < 0:
        raise RejectedError("custody.inspect.cut_short", offset=look.size)
    rest = tail[mark + 5 :]
    if rest.strip(b"\r\n \x00"):
        look.tell("custody.inspect.appended", count=len(rest), offset=look.size - len(rest))
    found = look.source.search(_PDF_ACTIVE, 0, longest=20)
    if found is not None:
        look.tell("custody.inspect.active_content", kind=f"PDF {found[1].decode('ascii')}")
