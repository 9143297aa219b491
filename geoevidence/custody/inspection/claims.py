"""What a photo says about itself, twice: EXIF against XMP, the picture against its preview.

Reads the two blocks by structure, parses no XML and resolves nothing. A contradiction or a trace of editing is a flag:
it says that a person has to look, not that the photo is false. Sources: CIPA DC-008 (EXIF 2.32), ISO 16684-1 (XMP),
WGS 84 distances on the mean sphere (6 371 008.8 m).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from geoevidence.custody.inspection.look import Look, RejectedError
from geoevidence.custody.media import jpeg_segments
from geoevidence.custody.store import shown

GPS_LIMIT = 50
"""Metres between the position in EXIF and in XMP from which both are shown; rounding of either is below a metre."""
_EARTH = 6_371_008.8
_CAMERA_NAME = re.compile(
    r"(DJI|IMG|DSC|DSCF|DSCN|DSC0|PXL|MVIMG|GOPR|GP|YUN|MAX|PANO|R00|SAM|HUAWEI|VID|P)[_-]?\d{3,}|\d{8}_\d{6}|DJI_\d{14}", re.I
)
_EDITORS = re.compile(
    r"photoshop|lightroom|adobe|gimp|snapseed|picasa|acdsee|affinity|capture ?one|darktable|rawtherapee|paint|picsart|meitu|美图|醒图|"
    r"polarr|vsco|pixelmator|exiftool|photo ?viewer|windows photo|microsoft|xnview|irfanview|faststone|canva|luminar|imagemagick|"
    r"photoscape|stable.?diffusion|midjourney|dall|firefly|topaz|photodirector|corel|skylum|pillow|opencv|ffmpeg",
    re.I,
)
_ENTITY = re.compile(rb"<\s*!\s*(DOCTYPE|ENTITY)", re.I)
_XMP_GPS = (
    ("exif:GPSLatitude", "exif:GPSLongitude"),
    ("drone-dji:GpsLatitude", "drone-dji:GpsLongitude"),
    ("drone-dji:GpsLatitude", "drone-dji:GpsLongtitude"),  # DJI's own spelling in older firmware
    ("Camera:GPSLatitude", "Camera:GPSLongitude"),
)
_POINTERS = {0x8769, 0x8825, 0xA005, 0x014A}
_MAKER_NOTE = 0x927C
_MAX_DIRECTORIES = 32
_MAX_TAGS = 4096
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True, slots=True)
class Claims:
    """taken: local time as written; offset: of that time, or empty; position: (latitude, longitude) in degrees, or None;
    software: programs named; preview: (width, height) of the preview picture, or None; turned: the picture is stored on its side.
    """

    taken: str = ""
    offset: str = ""
    position: tuple[float, float] | None = None
    software: tuple[str, ...] = ()
    preview: tuple[int, int] | None = None
    turned: bool = False


@dataclass(slots=True)
class _Block:
    data: bytes
    order: str = "<"
    outside: int | None = None
    tags: dict[tuple[str, int], tuple[int, int, int]] = field(default_factory=dict)

    def text(self, place: str, tag: int) -> str:
        kind, count, at = self.tags.get((place, tag), (0, 0, 0))
        return self.data[at : at + min(count, 200)].split(b"\x00")[0].decode("utf-8", "replace").strip() if kind == 2 else ""

    def number(self, place: str, tag: int) -> int | None:
        kind, count, at = self.tags.get((place, tag), (0, 0, 0))
        if kind not in (3, 4) or count != 1:
            return None
        return int(struct.unpack_from(self.order + ("H" if kind == 3 else "I"), self.data, at)[0])

    def degrees(self, tag: int, negative: str) -> float | None:
        kind, count, at = self.tags.get(("gps", tag), (0, 0, 0))
        if kind != 5 or count != 3:
            return None
        numbers = struct.unpack_from(self.order + "6I", self.data, at)
        if not all(numbers[1::2]):
            return None
        value: float = sum(top / bottom / 60**n for n, (top, bottom) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)))
        return -value if self.text("gps", tag - 1).upper() == negative else value


def read_exif(data: bytes, look: Look) -> Claims:
    """The claims of an EXIF block (a TIFF of its own). Tells what lies outside it.

    Raises: RejectedError where its directories run in a circle.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        look.tell("custody.inspect.exif_broken", offset=0)
        return Claims()
    block = _Block(data, order)
    pending = [("main", struct.unpack_from(order + "I", data, 4)[0])]
    seen: set[int] = set()
    while pending:
        place, at = pending.pop()
        if at == 0:
            continue
        if at in seen:
            raise RejectedError("custody.inspect.loop", offset=at)
        seen.add(at)
        if len(seen) > _MAX_DIRECTORIES:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        pending += _directory(block, place, at)
    if block.outside is not None:
        look.tell("custody.inspect.exif_broken", offset=block.outside)
    latitude, longitude = block.degrees(2, "S"), block.degrees(4, "W")
    position = None if latitude is None or longitude is None else (latitude, longitude)
    software = tuple(filter(None, (block.text("main", 0x0131), block.text("main", 0x000B))))
    return Claims(
        taken=block.text("exif", 0x9003),
        offset=block.text("exif", 0x9011),
        position=position,
        software=software,
        preview=_preview(block),
        turned=(block.number("main", 0x0112) or 1) >= 5,
    )


def _directory(block: _Block, place: str, at: int) -> list[tuple[str, int]]:
    """Read one directory into the block; the directories that it leads to."""
    data, order = block.data, block.order
    if at + 2 > len(data):
        block.outside = at
        return []
    count = struct.unpack_from(order + "H", data, at)[0]
    after = at + 2 + 12 * count
    if after > len(data) or count > _MAX_TAGS:
        block.outside = at
        return []
    found: list[tuple[str, int]] = []
    for n in range(count):
        entry = at + 2 + 12 * n
        tag, kind, values = struct.unpack_from(order + "HHI", data, entry)
        length = _SIZES.get(kind, 0) * values
        value_at = entry + 8 if length <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
        if value_at + length > len(data):
            if tag != _MAKER_NOTE:  # makers count its offsets in ways of their own
                block.outside = entry
            continue
        block.tags.setdefault((place, tag), (kind, values, value_at))
        if tag in _POINTERS and kind in (4, 13) and 1 <= values <= 16:
            name = {0x8769: "exif", 0x8825: "gps", 0xA005: "interop"}.get(tag, "sub")
            found += [(name, each) for each in struct.unpack_from(f"{order}{values}I", data, value_at)]
    # only the first directory has a next one: the preview's
    if place == "main" and after + 4 <= len(data):
        found.append(("preview", struct.unpack_from(order + "I", data, after)[0]))
    return found


def _preview(block: _Block) -> tuple[int, int] | None:
    start, length = block.number("preview", 0x0201), block.number("preview", 0x0202)
    if start is None or length is None or start + length > len(block.data):
        return None
    data = block.data[start : start + length]
    for marker, begin, end in jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and end - begin >= 5 and end <= len(data):
            height, width = struct.unpack_from(">HH", data, begin + 1)
            return (width, height) if width and height else None
    return None


def check_xmp(data: bytes) -> None:
    """Raises RejectedError for a document type or an entity in a metadata block: none has a use there."""
    if _ENTITY.search(data.replace(b"\x00", b"")):
        raise RejectedError("custody.inspect.xml_entities")


def read_xmp(data: bytes) -> Mapping[str, str]:
    """Values by qualified name, as attributes or simple elements give them. Raises RejectedError for entities."""
    check_xmp(data)
    text = data.decode("utf-8", "replace")
    found = dict(re.findall(r"<([A-Za-z-]{1,20}:[A-Za-z]{1,40})>([^<]{1,200})</", text))
    found.update(re.findall(r"\s([A-Za-z-]{1,20}:[A-Za-z]{1,40})\s*=\s*[\"']([^\"'<]{0,200})[\"']", text))
    return found


def compare_claims(look: Look, *, exif: bytes | None, xmp: bytes | None, size: tuple[int, int]) -> None:
    """Tell where a photo's own statements are missing, contradict each other or name an editing program."""
    claims = read_exif(exif, look) if exif is not None else Claims()
    other = read_xmp(xmp) if xmp is not None else {}
    if exif is None and look.kind == "image/jpeg" and _CAMERA_NAME.fullmatch(PurePosixPath(look.name).stem):
        look.tell("custody.inspect.no_exif")
    there = _xmp_position(other)
    if there is not None and claims.position is None:
        look.tell("custody.inspect.gps_stripped")
    elif there is not None and claims.position is not None:
        metres = round(_distance(there, claims.position))
        if metres > GPS_LIMIT:
            look.tell("custody.inspect.gps_differs", metres=metres)
    for name in (*claims.software, other.get("xmp:CreatorTool", ""), other.get("stEvt:softwareAgent", "")):
        if _EDITORS.search(name):
            look.tell("custody.inspect.edited", software=shown(name)[:100])
            break
    for key in ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate"):
        if claims.taken and not _same_time(claims, other.get(key, "")):
            look.tell("custody.inspect.times_differ", exif=shown(claims.taken)[:40], xmp=shown(other[key])[:40])
            break
    if claims.preview is not None and not _same_shape(claims.preview, size, turned=claims.turned):
        wide, tall = claims.preview
        look.tell("custody.inspect.preview_differs", preview=f"{wide} × {tall}", picture=f"{size[0]} × {size[1]}")


def _xmp_position(values: Mapping[str, str]) -> tuple[float, float] | None:
    for names in _XMP_GPS:
        latitude, longitude = (_xmp_degrees(values.get(name, "")) for name in names)
        if latitude is not None and longitude is not None and (latitude, longitude) != (0.0, 0.0):
            return latitude, longitude
    return None


def _xmp_degrees(text: str) -> float | None:
    """Degrees of `30,15.5N`, `30,15,30N` (ISO 16684-1) or of a signed decimal number."""
    text = text.strip()
    if re.fullmatch(r"[+-]?\d{1,3}(\.\d{1,15})?", text):
        return float(text)
    parts = re.fullmatch(r"(\d{1,3}),(\d{1,2}(?:\.\d{1,12})?)(?:,(\d{1,2}(?:\.\d{1,12})?))?([NSEW])", text)
    if parts is None:
        return None
    value = int(parts[1]) + float(parts[2]) / 60 + float(parts[3] or 0) / 3600
    return -value if parts[4] in "SW" else value


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Metres along the great circle (haversine)."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, each)) for each in (a, b))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * _EARTH * math.asin(math.sqrt(min(max(h, 0.0), 1.0)))


def _same_time(claims: Claims, text: str) -> bool:
    """Whether a time in XMP can be the one in EXIF: equal as far as both are given, or the same instant in another zone."""
    stated = re.match(r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d))?)?(?:\.\d+)?(Z|[+-]\d\d:\d\d)?", text.strip())
    taken = re.match(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)", claims.taken)
    if stated is None or taken is None:
        return True
    pairs = [(int(a), int(b)) for a, b in zip(stated.groups()[:6], taken.groups(), strict=True) if a is not None]
    if all(a == b for a, b in pairs):
        return True
    if len(pairs) < 5 or stated[7] is None:
        return False
    minutes = [_minutes([a for a, _ in pairs]) - _zone(stated[7]), _minutes([b for _, b in pairs])]
    if claims.offset:
        return minutes[0] == minutes[1] - _zone(claims.offset)
    # an instant in UTC beside a local time without its zone: they differ by a zone, a whole number of quarter hours
    gap = minutes[1] - minutes[0]
    return stated[7] in ("Z", "+00:00") and gap % 15 == 0 and -12 * 60 <= gap <= 14 * 60


def _minutes(parts: list[int]) -> int:
    year, month, day, hour, minute = parts[:5]
    # days of the proleptic calendar, months counted from March, so that no date raises
    y, m = (year, month - 3) if month > 2 else (year - 1, month + 9)
    days = 365 * y + y // 4 - y // 100 + y // 400 + (153 * m + 2) // 5 + day
    return (days * 24 + hour) * 60 + minute


def _zone(text: str) -> int:
    found = re.fullmatch(r"([+-])(\d\d):(\d\d)", text)
    return 0 if found is None else (int(found[2]) * 60 + int(found[3])) * (-1 if found[1] == "-" else 1)


def _same_shape(preview: tuple[int, int], picture: tuple[int, int], *, turned: bool) -> bool:
    """Whether a preview can be one of the picture: the same proportion to 5 %, or the 160 x 120 with bars that EXIF asks for."""
    wide, tall = preview
    if preview in ((160, 120), (320, 240), (640, 480)) and picture[0] >= picture[1]:
        return True
    shapes = [(wide, tall), (tall, wide)] if turned else [(wide, tall)]
    return any(abs(math.log(a / b * picture[1] / picture[0])) < 0.05 for a, b in shapes)
