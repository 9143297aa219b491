"""Photos and survey files -> Flight. The only reader of photo metadata.

Every JPEG is walked from its first marker to its end mark and decoded, so that a cut-off or damaged file
is named in `Flight.rejected` instead of failing later. EXIF, GPS and DJI XMP are read as claims; XMP is
read attribute by attribute with a bounded pattern, so no entity and no DTD is ever resolved.
Ground points come as OpenDroneMap's gcp_list.txt: the reference system, then rows `x y z col row photo [name]`.
Nothing is written, and photos are only read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from pyproj import CRS
from pyproj.exceptions import ProjError

from drone.types import Camera, Flight, GroundPoint, HeightKind, Photo
from geoevidence.crs import parse_crs, report_crs, transformer
from geoevidence.errors import CrsError, FormatError, InputError
from geoevidence.types import Message

_JPEG = (".jpg", ".jpeg", ".jpe")
_OTHER_IMAGES = (".dng", ".tif", ".tiff", ".png", ".heic", ".raw", ".webp", ".bmp")
_ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_DJI_ATTRIBUTE = re.compile(rb"drone-dji:([A-Za-z]{1,40})\s*=\s*[\"']([^\"'<&]{0,80})[\"']")
_DJI_ELEMENT = re.compile(rb"<drone-dji:([A-Za-z]{1,40})>\s*([^<&]{0,80}?)\s*</drone-dji:")
_RTK_FIXED = 50  # DJI XMP RtkFlag: 50 fixed, 34 float, 16 single point

# Sensor width in mm by EXIF model: makers' data sheets (1/2.3 inch 6.17, 1 inch 13.2, 4/3 inch 17.3, 35 mm 35.9).
_SENSOR_WIDTH_MM: Mapping[str, float] = {
    "FC300C": 6.17,
    "FC300S": 6.17,
    "FC300X": 6.17,
    "FC220": 6.17,
    "FC330": 6.17,
    "FC350": 6.17,
    "FC2103": 6.17,
    "FC7203": 6.17,
    "FC6310": 13.2,
    "FC6310R": 13.2,
    "FC6310S": 13.2,
    "L1D-20c": 13.2,
    "FC550": 17.3,
    "FC6520": 17.3,
    "M3E": 17.3,
    "L2D-20c": 17.3,
    "ZenmuseP1": 35.9,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataConfig:
    """How photos and survey files are read.

    gps_sd: (E, N, U) m, one sigma of a photo position without RTK, common error included; consumer GNSS
        (GPS SPS Performance Standard 5th ed., 2020, s3.8: 8 m horizontal and 13 m vertical at 95 % worst site;
        typical open sky is three to five times better).
    rtk_floor: (E, N, U) m added in quadrature to the sd that an RTK receiver states: antenna offset and timing.
    control_sd, check_sd: (E, N, U) m, one sigma of surveyed ground points; the file format states none.
    max_pixels: largest photo that is decoded, px.
    max_bytes: largest photo file that is read, bytes.
    max_point_distance: m, how far outside the photos' positions a ground point may lie.
    """

    gps_sd: tuple[float, float, float] = (1.5, 1.5, 3.0)
    rtk_floor: tuple[float, float, float] = (0.02, 0.02, 0.03)
    control_sd: tuple[float, float, float] = (0.02, 0.02, 0.03)
    check_sd: tuple[float, float, float] = (0.02, 0.02, 0.03)
    max_pixels: int = 200_000_000
    max_bytes: int = 200_000_000
    max_point_distance: float = 1000.0


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one file says: the photo without its camera group, and what the group is made of."""

    photo: Photo
    make_model: str
    focal_mm: float | None
    focal_px: float | None
    focal_sd: float | None
    synthetic: bool


def read_flight(
    folder: Path,
    *,
    gcp: Path | None = None,
    checks: Path | None = None,
    crs: CRS | None = None,
    height_kind: HeightKind | None = None,
    config: MetadataConfig = MetadataConfig(),
) -> Flight:
    """The flight in a folder of JPEG photos (subfolders included), sorted by name.

    Args:
        gcp: control points, OpenDroneMap gcp_list.txt. Its pixels count from the outer corner of the first pixel.
        checks: check points in the same form; they are held out of the adjustment.
        crs: projected CRS of the result; by default that of `gcp`, else `geoevidence.crs.report_crs` of the median position.
        height_kind: what the heights are, where the caller knows better than the files.

    Photos that are damaged or of another format are named in `Flight.rejected`. Photos without a position are kept
    and named in `Flight.gaps`.

    Raises:
        InputError: no folder, no photos, fewer than two usable, or neither positions nor control points.
        FormatError: a survey file is not of its form, or names unknown photos.
        CrsError: a survey file's CRS is unknown, geographic where projected is asked, or its points lie elsewhere.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("drone.no_folder", path=folder.name)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    facts: list[_Facts] = []
    rejected: dict[str, Message] = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in _OTHER_IMAGES:
            rejected[name] = Message(id="drone.not_a_jpeg", values={"path": name})
        if path.suffix.lower() not in _JPEG:
            continue
        try:
            facts.append(_read_photo(path, name, config))
        except InputError as error:
            rejected[name] = Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()})
    rejected |= _drop_duplicates(facts)
    if not facts:
        raise InputError("drone.no_photos", path=folder.name, rejected=len(rejected))
    if len(facts) < 2:
        raise InputError("drone.one_photo", path=folder.name, photo=facts[0].photo.name)

    cameras, photos = _group_cameras(facts)
    positions = np.array([p.position for p in photos if p.position is not None], float).reshape(-1, 3)
    points_crs = _point_crs(gcp, checks)
    if crs is None:
        if points_crs is not None and points_crs.is_projected:
            crs = points_crs
        elif len(positions):
            crs = report_crs(float(np.median(positions[:, 0])), float(np.median(positions[:, 1])))
        else:
            raise InputError("drone.no_positions", photos=len(photos))
    if not crs.is_projected or abs(crs.axis_info[0].unit_conversion_factor - 1) > 1e-12:
        raise CrsError("drone.crs_not_projected", found=crs.name)

    points: list[GroundPoint] = []
    if gcp is not None:
        points += _read_points(Path(gcp), "control", photos, rejected, crs, config)
    if checks is not None:
        points += _read_points(Path(checks), "check", photos, rejected, crs, config)
    names = [point.name for point in points]
    for name in names:
        if names.count(name) > 1:
            raise FormatError("drone.point_twice", name=name)
    if not len(positions) and sum(p.role == "control" for p in points) < 3:
        raise InputError("drone.no_positions", photos=len(photos))
    if points_crs is not None and gcp is not None:
        found_kind: HeightKind = "orthometric" if points_crs.is_compound else "unknown"
    else:
        kinds = {photo.height_kind for photo in photos if photo.position is not None}
        found_kind = kinds.pop() if len(kinds) == 1 else "unknown"
    missing = [photo.name for photo in photos if photo.position is None]
    gaps = tuple(Message(id="drone.photo_without_position", values={"photo": name}) for name in missing)
    return Flight(
        photos=photos,
        cameras=cameras,
        ground_points=tuple(points),
        crs=crs,
        height_kind=height_kind or found_kind,
        rejected=rejected,
        synthetic=any(fact.synthetic for fact in facts),
        gaps=gaps,
    )


def _drop_duplicates(facts: list[_Facts]) -> dict[str, Message]:
    """Remove files with the bytes of an earlier one from `facts`; what was removed."""
    first: dict[str, str] = {}
    removed: dict[str, Message] = {}
    for fact in list(facts):
        other = first.setdefault(fact.photo.sha256, fact.photo.name)
        if other != fact.photo.name:
            facts.remove(fact)
            removed[fact.photo.name] = Message(id="drone.duplicate_photo", values={"path": fact.photo.name, "other": other})
    return removed


def _group_cameras(facts: list[_Facts]) -> tuple[dict[str, Camera], tuple[Photo, ...]]:
    groups: dict[str, Camera] = {}
    photos = []
    for fact in facts:
        width, height = fact.photo.size
        focal = "" if fact.focal_mm is None else f" {fact.focal_mm:g}mm"
        key = f"{fact.make_model or 'unknown'} {width}x{height}{focal}"
        if key not in groups:
            f = fact.focal_px or 1.2 * max(width, height)
            groups[key] = Camera(
                id=key,
                model="SIMPLE_RADIAL",
                params=(f, width / 2, height / 2, 0.0),
                size=(width, height),
                make_model=fact.make_model,
                focal_prior=fact.focal_px,
                focal_prior_sd=fact.focal_sd,
            )
        photos.append(_with_camera(fact.photo, key))
    return groups, tuple(photos)


def _with_camera(photo: Photo, camera_id: str) -> Photo:
    values = {name: getattr(photo, name) for name in Photo.__slots__}
    return Photo(**(values | {"camera_id": camera_id}))


def _read_photo(path: Path, name: str, config: MetadataConfig) -> _Facts:
    try:
        size = path.stat().st_size
        if size > config.max_bytes:
            raise FormatError("drone.photo_too_large", path=name, found=f"{size} B", limit=f"{config.max_bytes} B")
        data = path.read_bytes()
    except OSError as error:
        raise FormatError("core.cannot_read", path=name, reason=error.strerror or str(error)) from error
    width, height = _walk_jpeg(data, name)
    if width * height > config.max_pixels:
        raise FormatError("drone.photo_too_large", path=name, found=f"{width} x {height} px", limit=f"{config.max_pixels} px")
    try:
        with warnings.catch_warnings():
            # The size is bounded above; Pillow's own, smaller bound only warns. Damaged EXIF is no position, no time ...,
            # which the flight names.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as image:
                exif = image.getexif()
                tags = dict(exif) | dict(exif.get_ifd(0x8769))
                gps = dict(exif.get_ifd(0x8825))
                xmp = image.info.get("xmp", b"")
                # An eighth of the size needs the whole stream to be decoded, at a third of the cost.
                image.draft("L", (max(width // 8, 1), max(height // 8, 1)))
                image.load()
    except (UnidentifiedImageError, OSError, ValueError, TypeError, SyntaxError, KeyError, Image.DecompressionBombError) as error:
        raise FormatError("drone.damaged_jpeg", path=name, reason=str(error)) from error
    xmp = xmp if isinstance(xmp, bytes) else str(xmp).encode()
    dji = {
        key.decode(): value.decode("ascii", "replace") for key, value in _DJI_ELEMENT.findall(xmp) + _DJI_ATTRIBUTE.findall(xmp)
    }

    position, kind, sd = _position(gps, dji, config)
    words = " ".join(_text(tags.get(tag)) for tag in (0x010E, 0x0131, 0x9286)) + " " + xmp.decode("utf-8", "replace")
    make, model = _text(tags.get(0x010F)), _text(tags.get(0x0110))
    focal_mm = _number(tags.get(0x920A))
    focal_px, focal_sd = _focal(tags, dji, model, focal_mm, max(width, height))
    yaw, pitch, roll = (_number(dji.get(f"Gimbal{axis}Degree")) for axis in ("Yaw", "Pitch", "Roll"))
    attitude = (yaw, pitch, roll) if yaw is not None and pitch is not None and roll is not None else None
    photo = Photo(
        name=name,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=(width, height),
        taken=_taken(tags),
        position=position,
        height_kind=kind,
        position_sd=sd,
        attitude=attitude,
        relative_altitude=_number(dji.get("RelativeAltitude")),
        camera_id="",
    )
    return _Facts(
        photo=photo,
        make_model=" ".join(part for part in (make, model) if part),
        focal_mm=focal_mm if focal_mm and focal_mm > 0 else None,
        focal_px=focal_px,
        focal_sd=focal_sd,
        synthetic="synthetic" in words.lower() or "合成" in words,
    )


def _walk_jpeg(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) of a JPEG whose marker segments lead to an end mark (ITU-T T.81, annex B).

    Raises:
        FormatError: not a JPEG, or it ends before its end mark.
    """
    if data[:3] != b"\xff\xd8\xff":
        raise FormatError("drone.not_a_jpeg", path=name)
    at, size = 2, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise FormatError("drone.damaged_jpeg", path=name, reason=f"no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            raise FormatError("drone.damaged_jpeg", path=name, reason=f"segment of length {length} at byte {at}")
        if marker in (0xC0, 0xC1, 0xC2):
            size = (int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big"))
        at += 2 + length
        if marker == 0xDA:
            end = _ENTROPY_END.search(data, at)
            if end is None:
                raise FormatError("drone.truncated_jpeg", path=name, size=len(data))
            at = end.start()
    if data[at : at + 2] != b"\xff\xd9":
        raise FormatError("drone.truncated_jpeg", path=name, size=len(data))
    if size is None or min(size) < 1:
        raise FormatError("drone.damaged_jpeg", path=name, reason="no frame header")
    return size


def _text(value: Any) -> str:
    """EXIF text: up to the first NUL; UTF-8 that was read as Latin-1 is put right."""
    if isinstance(value, bytes):
        value = value.removeprefix(b"ASCII\0\0\0").removeprefix(b"UNICODE\0").decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    with contextlib.suppress(UnicodeError):
        value = value.encode("latin-1").decode("utf-8")
    return value.split("\0")[0].strip()


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _taken(tags: Mapping[int, Any]) -> datetime | None:
    text = _text(tags.get(0x9003)) or _text(tags.get(0x0132))
    try:
        taken = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    zone = re.fullmatch(r"([+-])(\d\d):(\d\d)", _text(tags.get(0x9011)))
    if zone:
        shift = timedelta(hours=int(zone[2]), minutes=int(zone[3]))
        if shift < timedelta(hours=24):
            taken = taken.replace(tzinfo=timezone(-shift if zone[1] == "-" else shift))
    return taken


def _degrees(value: Any, reference: Any, negative: str) -> float | None:
    try:
        d, m, s = (_number(part) for part in value)
    except (TypeError, ValueError):
        return None
    if d is None or m is None or s is None:
        return None
    angle = d + m / 60 + s / 3600
    return -angle if _text(reference).upper() == negative else angle


def _position(
    gps: Mapping[int, Any], dji: Mapping[str, str], config: MetadataConfig
) -> tuple[tuple[float, float, float] | None, HeightKind, tuple[float, float, float]]:
    """(lon, lat, height) or None, its height kind and sd.

    DJI writes latitude and longitude with more digits into XMP than into EXIF; the finer is taken.
    The height is "unknown" without RTK: Exif 2.x calls tag 5 = 0 sea level, Exif 3.0 the ellipsoid, and makers differ.
    """
    lat = _number(dji.get("GpsLatitude"))
    lon = _number(dji.get("GpsLongitude", dji.get("GpsLongtitude")))  # the second is DJI's own spelling
    if lat is None or lon is None:
        lat, lon = _degrees(gps.get(2), gps.get(1), "S"), _degrees(gps.get(4), gps.get(3), "W")
    height = _number(gps.get(6))
    reference = gps.get(5)
    code = reference[0] if isinstance(reference, bytes) and reference else reference if isinstance(reference, int) else 0
    if height is not None and code in (1, 3):
        height = -height
    if height is None:
        height = _number(dji.get("AbsoluteAltitude"))
    kind: HeightKind = "orthometric" if code in (2, 3) else "unknown"
    sd = config.gps_sd
    stated = [_number(dji.get(f"RtkStd{axis}")) for axis in ("Lon", "Lat", "Hgt")]
    if _number(dji.get("RtkFlag")) == _RTK_FIXED and all(s is not None and 0 < s < 1 for s in stated):
        e, n, u = (math.hypot(s or 0.0, floor) for s, floor in zip(stated, config.rtk_floor, strict=True))
        sd, kind = (e, n, u), "ellipsoidal"
    if lat is None or lon is None or height is None or not (-80 <= lat <= 84 and -180 <= lon <= 180) or lat == lon == 0:
        return None, "unknown", sd
    return (lon, lat, height), kind, sd


def _focal(
    tags: Mapping[int, Any], dji: Mapping[str, str], model: str, focal_mm: float | None, longest: int
) -> tuple[float | None, float | None]:
    """Focal length in px and its relative sd, from the best of: maker's calibration, sensor width, 35 mm equivalent.

    1 %: temperature and focus against the factory. 3 %: nominal sensor width and focal length. 7 %: the equivalent is a
    rounded integer and makers take either the width or the diagonal of 24 mm x 36 mm (CIPA DC-008) for it.
    """
    calibrated = _number(dji.get("CalibratedFocalLength"))
    if calibrated is not None and 0.3 < calibrated / longest < 10:
        return calibrated, 0.01
    if focal_mm and focal_mm > 0 and model in _SENSOR_WIDTH_MM:
        return focal_mm / _SENSOR_WIDTH_MM[model] * longest, 0.03
    equivalent = _number(tags.get(0xA405))
    if equivalent and 8 <= equivalent <= 500:
        return equivalent / 36 * longest, 0.07
    return None, None


def _survey_crs(text: str, path: Path) -> CRS:
    """CRS of the first line: `WGS84 UTM 15N`, `EPSG:4547`, `+proj=...` or WKT."""
    utm = re.fullmatch(r"WGS84\s+UTM\s+(\d{1,2})\s*([NS])", text.strip(), re.IGNORECASE)
    if utm:
        return parse_crs(f"EPSG:{(32600 if utm[2].upper() == 'N' else 32700) + int(utm[1])}")
    try:
        return parse_crs(text.strip())
    except CrsError as error:
        raise CrsError("drone.gcp_unknown_crs", path=path.name, found=text.strip()[:80]) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise FormatError("drone.gcp_not_text", path=path.name) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def _point_crs(gcp: Path | None, checks: Path | None) -> CRS | None:
    for path in (gcp, checks):
        if path is not None:
            first = next(_lines(Path(path)), None)
            if first is None:
                raise FormatError("drone.gcp_empty", path=Path(path).name)
            return _survey_crs(first[1], Path(path))
    return None


def _read_points(
    path: Path,
    role: Literal["control", "check"],
    photos: tuple[Photo, ...],
    rejected: Mapping[str, Message],
    crs: CRS,
    config: MetadataConfig,
) -> list[GroundPoint]:
    rows = list(_lines(path))
    if len(rows) < 2:
        raise FormatError("drone.gcp_empty", path=path.name)
    source = _survey_crs(rows[0][1], path)
    by_name = {photo.name: photo for photo in photos}
    by_base: dict[str, list[str]] = {}
    for name in (*by_name, *rejected):
        by_base.setdefault(name.rsplit("/", 1)[-1].lower(), []).append(name)
    named: dict[str, tuple[float, float, float]] = {}
    unnamed: dict[tuple[float, float, float], str] = {}
    seen: dict[str, dict[str, tuple[float, float]]] = {}
    for number, line in rows[1:]:
        parts = line.split("\t") if "\t" in line else line.split()
        parts = [part.strip() for part in parts]
        values = [_number(part) for part in parts[:5]]
        if len(parts) < 6 or any(value is None for value in values):
            raise FormatError("drone.gcp_bad_row", path=path.name, line=number, found=line[:80])
        x, y, z, col, row = (float(value) for value in values if value is not None)
        found = [parts[5]] if parts[5] in by_name else by_base.get(parts[5].rsplit("/", 1)[-1].lower(), [])
        if len(found) != 1:
            raise FormatError("drone.gcp_unknown_photo", path=path.name, line=number, photo=parts[5])
        name = parts[6] if len(parts) > 6 and parts[6] else unnamed.setdefault((x, y, z), f"{role}-{len(unnamed) + 1:02d}")
        if named.setdefault(name, (x, y, z)) != (x, y, z):
            raise FormatError("drone.gcp_two_positions", path=path.name, line=number, name=name)
        observations = seen.setdefault(name, {})
        if found[0] not in by_name:
            continue  # the photo is rejected, with its reason
        width, height = by_name[found[0]].size
        if not (0 <= col <= width and 0 <= row <= height):
            raise FormatError(
                "drone.gcp_outside_photo", path=path.name, line=number, photo=parts[5], col=f"{col:g}", row=f"{row:g}"
            )
        if found[0] in observations:
            raise FormatError("drone.gcp_seen_twice", path=path.name, line=number, name=name, photo=parts[5])
        observations[found[0]] = (col, row)
    sd = config.control_sd if role == "control" else config.check_sd
    result = []
    for name in sorted(named):
        position = _moved(named[name], source, crs, path, name)
        _require_near(position, name, path, photos, crs, config)
        result.append(GroundPoint(name=name, position=position, sd=sd, role=role, observations=dict(sorted(seen[name].items()))))
    return result


def _moved(position: tuple[float, float, float], source: CRS, crs: CRS, path: Path, name: str) -> tuple[float, float, float]:
    """Horizontal coordinates in `crs`; the height is kept as it is."""
    x, y, z = position
    try:
        x, y = transformer(source, crs).transform(x, y, errcheck=True)
    except ProjError as error:
        raise CrsError("drone.gcp_outside_crs", path=path.name, name=name, crs=source.name) from error
    return float(x), float(y), z


def _require_near(
    position: tuple[float, float, float], name: str, path: Path, photos: tuple[Photo, ...], crs: CRS, config: MetadataConfig
) -> None:
    """A ground point lies near the photos. Raises CrsError, naming swapped axes where that is the cause."""
    places = np.array([p.position[:2] for p in photos if p.position is not None], float).reshape(-1, 2)
    if not len(places):
        return
    e, n = transformer(CRS.from_epsg(4326), crs).transform(places[:, 0], places[:, 1])

    def distance(x: float, y: float) -> float:
        gap = max(e.min() - x, x - e.max(), n.min() - y, y - n.max(), 0.0)
        return float(gap) if math.isfinite(gap) else math.inf

    away = distance(position[0], position[1])
    if away <= config.max_point_distance:
        return
    if distance(position[1], position[0]) <= config.max_point_distance:
        raise CrsError("drone.gcp_axes_swapped", path=path.name, name=name)
    raise CrsError("drone.gcp_far_away", path=path.name, name=name, distance=f"{away / 1000:.0f} km", crs=crs.name)
