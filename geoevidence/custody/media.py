"""What a file is, by its content: media type, and the claimed time in a photo's EXIF.

Looks at the first bytes only and never decodes a picture. A claimed time is given only where the file states
it in UTC or with its offset (EXIF 2.31: OffsetTimeOriginal, or the GPS date and time): the local time of an
unknown zone is not a time in UTC.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from geoevidence.errors import FormatError
from geoevidence.trust.canonical import loads_canonical
from geoevidence.types import EvidenceItem, ProcessResult, Role

if TYPE_CHECKING:
    from geoevidence.custody.log import CustodyEvent
    from geoevidence.custody.store import ObjectStore

UNKNOWN = "application/octet-stream"
_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"LASF", "application/vnd.las"),
    (b"glTF", "model/gltf-binary"),
    (b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
    (b"CDF\x01", "application/x-netcdf"),
    (b"CDF\x02", "application/x-netcdf"),
    (b"\x1f\x8b", "application/gzip"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"\xfd7zXZ\x00", "application/x-xz"),
    (b"BZh", "application/x-bzip2"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"\x93NUMPY", "application/x-npy"),
)
# ISO/IEC 23008-12, annex B: brands of still pictures and sequences
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"})
# an array begins with a value; `[section]` begins a settings file
_JSON_START = re.compile(rb"\s*(\{|\[\s*([\[{\"\]0-9-]|true|false|null|$))")
_ROLES: dict[str, Role] = {"originals": "original", "derived": "derived"}
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII)


def describe_outputs(event: CustodyEvent, objects: ObjectStore) -> tuple[EvidenceItem, ...]:
    """The items of an event, with role, media type and claimed time read from the stored objects."""
    stated: dict[str, str] = {}
    if event.type == "derived":
        result = next(ref for ref in event.outputs if ref.path.endswith("/result.json") and ref.path.count("/") == 2)
        stated = {
            f"derived/{event.event_id}/{product.path}": product.media_type
            for product in ProcessResult.from_dict(loads_canonical(objects.read_bytes(result.sha256))).products
        }
    items = []
    for ref in event.outputs:
        head = objects.head(ref.sha256)
        acquired = exif_time(head) if ref.path.startswith("originals/") else None
        items.append(
            EvidenceItem(
                id=ref.item,
                path=ref.path,
                sha256=ref.sha256,
                sm3=ref.sm3,
                size=ref.size,
                role=_ROLES.get(ref.path.partition("/")[0], "record"),
                media_type=stated.get(ref.path) or media_type(PurePosixPath(ref.path).name, head),
                acquired=acquired,
                acquired_from=None if acquired is None else "exif",
            )
        )
    return tuple(items)


def media_type(name: str, head: bytes) -> str:
    """IANA media type by the first bytes; the name only tells kinds of text apart."""
    for magic, kind in _SIGNATURES:
        if head.startswith(magic):
            return kind
    if head.startswith(b"SQLite format 3\x00"):
        # OGC 12-128r18, requirement 2: application id "GPKG" at byte 68
        return "application/geopackage+sqlite3" if head[68:72] == b"GPKG" else "application/vnd.sqlite3"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _HEIF_BRANDS:
            return "image/heic"
        return "video/quicktime" if brand == b"qt  " else "video/mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[257:262] == b"ustar":
        return "application/x-tar"
    if not head or not _is_text(head):
        return UNKNOWN
    suffix = PurePosixPath(name).suffix.lower()
    if _JSON_START.match(head):
        return "application/geo+json" if suffix == ".geojson" else "application/json"
    if head.lstrip().startswith(b"<?xml"):
        return "application/xml"
    return "text/csv" if suffix == ".csv" else "text/plain"


def _is_text(head: bytes) -> bool:
    try:
        # the head may end inside a character
        text = head.decode("utf-8") if len(head) < 1 << 16 else head[: head.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(text) and not any(ord(c) < 32 and c not in "\t\r\n\f" for c in text)


def exif_time(head: bytes) -> datetime | None:
    """The UTC time of exposure that a JPEG's EXIF states, or None where it states none or none in UTC.

    Source: CIPA DC-008 (EXIF 2.31), tags 0x9003, 0x9011, GPS tags 0x0007 and 0x001D.
    """
    block = _exif_block(head)
    if block is None:
        return None
    try:
        tiff = _Tiff(block)
        main = tiff.directory(tiff.first)
        local = _exif(tiff, main)
        return local if local is not None else _gps(tiff, main)
    except (FormatError, struct.error, ValueError, OverflowError):
        # a damaged EXIF block states no time; the file itself is kept as it is
        return None


def _exif(tiff: _Tiff, main: dict[int, _Field]) -> datetime | None:
    if 0x8769 not in main:
        return None
    fields = tiff.directory(main[0x8769].offset)
    if 0x9003 not in fields or 0x9011 not in fields:
        return None
    time, offset = _TIME.match(tiff.text(fields[0x9003])), _OFFSET.match(tiff.text(fields[0x9011]))
    if time is None or offset is None:
        return None
    minutes = (int(offset[2]) * 60 + int(offset[3])) * (-1 if offset[1] == "-" else 1)
    year, month, day, hour, minute, second = map(int, time.groups())
    return datetime(year, month, day, hour, minute, second, tzinfo=timezone(timedelta(minutes=minutes))).astimezone(UTC)


def _gps(tiff: _Tiff, main: dict[int, _Field]) -> datetime | None:
    if 0x8825 not in main:
        return None
    fields = tiff.directory(main[0x8825].offset)
    if 0x0007 not in fields or 0x001D not in fields:
        return None
    date = re.match(r"(\d{4}):(\d\d):(\d\d)", tiff.text(fields[0x001D]), re.ASCII)
    clock = tiff.rationals(fields[0x0007], 3)
    if date is None or clock is None:
        return None
    year, month, day = map(int, date.groups())
    return datetime(year, month, day, int(clock[0]), int(clock[1]), int(clock[2]), tzinfo=UTC)


def _exif_block(head: bytes) -> bytes | None:
    for marker, start, end in jpeg_segments(head):
        if marker == 0xE1 and head[start : start + 6] == b"Exif\x00\x00":
            return head[start + 6 : end]
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the parameters of each segment before the first scan, as far as `data` reaches.

    Source: ITU-T T.81, annex B.1.1.
    """
    at = 2
    while data[:2] == b"\xff\xd8" and at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA or marker == 0xD9:
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            return
        yield marker, at + 4, at + 2 + length
        at += 2 + length


@dataclass(frozen=True, slots=True)
class _Field:
    """A directory entry. kind: TIFF type; count: values; at: where the entry's value field stands; offset: its number."""

    kind: int
    count: int
    at: int
    offset: int


class _Tiff:
    """The few parts of TIFF 6.0 that EXIF times need."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        if not self._order:
            raise FormatError("custody.exif_unreadable")
        self.first = struct.unpack_from(self._order + "I", data, 4)[0]

    def directory(self, offset: int) -> dict[int, _Field]:
        count = struct.unpack_from(self._order + "H", self._data, offset)[0]
        fields = {}
        for n in range(min(count, 512)):
            at = offset + 2 + 12 * n
            tag, kind, values, number = struct.unpack_from(self._order + "HHII", self._data, at)
            fields[tag] = _Field(kind, values, at + 8, number)
        return fields

    def text(self, field: _Field) -> str:
        if field.kind != 2:
            return ""
        start = field.at if field.count <= 4 else field.offset
        return self._data[start : start + min(field.count, 64)].split(b"\x00")[0].decode("latin-1")

    def rationals(self, field: _Field, count: int) -> list[float] | None:
        if field.kind != 5 or field.count != count:
            return None
        numbers = struct.unpack_from(self._order + f"{2 * count}I", self._data, field.offset)
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        return None if any(bottom == 0 for _, bottom in pairs) else [top / bottom for top, bottom in pairs]
