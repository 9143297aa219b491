"""Photos and survey files -> Flight. The only reader of photo metadata.

Every JPEG is walked from its first marker to its end mark and decoded, so that a cut-off or damaged file is named in
`Flight.rejected` instead of failing later. EXIF, the makers' XMP and MRK files (`drone.telemetry`) are read as claims. Where they
disagree, or a value is one that receivers write without a fix, the better is taken and `Flight.gaps` says so.
Ground points come from `drone.groundpoints`. Nothing is written, and photos are only read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import IFD
from pyproj import CRS, Geod

from drone.groundpoints import point_crs, read_points
from drone.marks import misplaced
from drone.telemetry import MrkRow, Telemetry, Triple, number_of, read_mrk, telemetry_of
from drone.types import Camera, FileTraces, Flight, GroundPoint, HeightKind, Photo
from geoevidence.crs import report_crs
from geoevidence.errors import CrsError, FormatError, InputError
from geoevidence.types import Message

_JPEG = (".jpg", ".jpeg", ".jpe")
_OTHER_IMAGES = (".dng", ".tif", ".tiff", ".png", ".heic", ".raw", ".webp", ".bmp")
_ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_NUMBER_IN_NAME = re.compile(r"(\d{3,6})(?:_[A-Za-z]{1,3})?$")
_WGS84 = Geod(ellps="WGS84")
_MARKERS = {0xC4: "DHT", 0xDB: "DQT", 0xDD: "DRI", 0xFE: "COM", 0xC0: "SOF0", 0xC1: "SOF1", 0xC2: "SOF2"}

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
    unknown_height_sd: m, one sigma of a height that the file leaves at 0 or does not tell; what 30 to 500 m of flight leave open.
    control_sd, check_sd: (E, N, U) m, one sigma of surveyed ground points; the file format states none.
    max_pixels: largest photo that is decoded, px.
    max_bytes: largest photo file that is read, bytes.
    max_point_distance: m, how far outside the photos' positions a ground point may lie.
    max_disagreement: m, horizontally between the positions of one photo in EXIF and XMP, or in XMP and MRK, before it is said.
    threads: photos read at once; the result does not depend on it.
    """

    gps_sd: tuple[float, float, float] = (1.5, 1.5, 3.0)
    rtk_floor: tuple[float, float, float] = (0.02, 0.02, 0.03)
    unknown_height_sd: float = 100.0
    control_sd: tuple[float, float, float] = (0.02, 0.02, 0.03)
    check_sd: tuple[float, float, float] = (0.02, 0.02, 0.03)
    max_pixels: int = 200_000_000
    max_bytes: int = 200_000_000
    max_point_distance: float = 1000.0
    max_disagreement: float = 10.0
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Look:
    """What a caller may see of a photo while it is open: brightness (rows, cols) uint8, and its EXIF thumbnail in the same form or None."""

    picture: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one file says: the photo without its camera group, what the group is made of, and what was found out on the way."""

    photo: Photo
    focal_mm: float | None
    focal_px: float | None
    focal_sd: float | None
    dewarp: tuple[float, ...] | None
    dewarped: bool
    synthetic: bool
    notes: frozenset[str]
    seen: Any


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
        gcp: control points (`drone.groundpoints`). Its pixels count from the outer corner of the first pixel.
        checks: check points in the same forms; they are held out of the adjustment.
        crs: projected CRS of the result; by default that of `gcp`, else `geoevidence.crs.report_crs` of the median position.
        height_kind: what the heights are, where the caller knows better than the files.

    Photos that are damaged or of another format are named in `Flight.rejected`. Photos without a position are kept
    and named in `Flight.gaps`. MRK files of RTK flights beside the photos are used where their lines belong to photos.

    Raises:
        InputError: no folder, no photos, fewer than two usable, or neither positions nor control points.
        FormatError: a survey file is not of its form, or names unknown photos.
        CrsError: a survey file's CRS is unknown, geographic where projected is asked, or its points lie elsewhere.
    """
    return look_through(folder, None, gcp=gcp, checks=checks, crs=crs, height_kind=height_kind, config=config)[0]


def look_through(
    folder: Path,
    look: Callable[[Look], Any] | None,
    *,
    gcp: Path | None = None,
    checks: Path | None = None,
    crs: CRS | None = None,
    height_kind: HeightKind | None = None,
    placeless: CRS | None = None,
    config: MetadataConfig = MetadataConfig(),
    progress: Callable[[float], None] | None = None,
) -> tuple[Flight, dict[str, Any]]:
    """The flight as `read_flight` gives it, and photo name -> what `look` returned for it.

    Every photo is decoded once; with `look` in full size, without in an eighth. `look` is called from several threads and must
    depend on its argument alone. placeless: CRS of a flight that tells no place, which is an error without it. progress: called with the
    share of files read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("drone.no_folder", path=folder.name)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {path: path.relative_to(folder).as_posix() for path in files}
    rejected = {
        name: Message(id="drone.not_a_jpeg", values={"path": name})
        for path, name in names.items()
        if path.suffix.lower() in _OTHER_IMAGES
    }
    jpegs = [path for path in files if path.suffix.lower() in _JPEG]

    def read(path: Path) -> _Facts | Message:
        try:
            return _read_photo(path, names[path], look, config)
        except InputError as error:
            return Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()})

    facts: list[_Facts] = []
    with ThreadPoolExecutor(max(config.threads, 1)) as pool:
        for done, (path, found) in enumerate(zip(jpegs, pool.map(read, jpegs), strict=True), start=1):
            if isinstance(found, Message):
                rejected[names[path]] = found
            else:
                facts.append(found)
            if progress is not None:
                progress(done / len(jpegs))
    rejected |= _drop_duplicates(facts)
    rejected = dict(sorted(rejected.items()))
    if not facts:
        raise InputError("drone.no_photos", path=folder.name, rejected=len(rejected))
    if len(facts) < 2:
        raise InputError("drone.one_photo", path=folder.name, photo=facts[0].photo.name)

    facts, gaps = _with_mrk(facts, [path for path in files if path.suffix.lower() == ".mrk"], folder, config)
    facts, more = _without_void_values(facts, config)
    gaps += more
    cameras, photos = _group_cameras(facts)
    if placeless is not None and crs is None and gcp is None and all(photo.position is None for photo in photos):
        flight = Flight(photos=photos, cameras=cameras, ground_points=(), crs=placeless, height_kind="unknown", rejected=rejected)
    else:
        flight = _with_points(photos, cameras, rejected, gcp, checks, crs, height_kind, config)
    gaps += misplaced(flight)
    missing = [photo.name for photo in photos if photo.position is None]
    gaps = [Message(id="drone.photo_without_position", values={"photo": name}) for name in missing] + gaps
    flight = replace(flight, synthetic=any(fact.synthetic for fact in facts), gaps=flight.gaps + tuple(gaps))
    return flight, {fact.photo.name: fact.seen for fact in facts}


def _with_points(
    photos: tuple[Photo, ...],
    cameras: Mapping[str, Camera],
    rejected: Mapping[str, Message],
    gcp: Path | None,
    checks: Path | None,
    crs: CRS | None,
    height_kind: HeightKind | None,
    config: MetadataConfig,
) -> Flight:
    positions = np.array([p.position for p in photos if p.position is not None], float).reshape(-1, 3)
    points_crs = point_crs(gcp, checks)
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
    gaps: list[Message] = []
    for path, role in ((gcp, "control"), (checks, "check")):
        if path is not None:
            found, said = read_points(
                Path(path),
                role,  # type: ignore[arg-type]
                photos=photos,
                rejected=rejected,
                crs=crs,
                sd=config.control_sd if role == "control" else config.check_sd,
                max_distance=config.max_point_distance,
            )
            points += found
            gaps += said
    names = [point.name for point in points]
    for name in names:
        if names.count(name) > 1:
            raise FormatError("drone.point_twice", name=name)
    if not len(positions) and sum(p.role == "control" for p in points) < 3:
        raise InputError("drone.no_positions", photos=len(photos))
    kinds = {photo.height_kind for photo in photos if photo.position is not None}
    if points_crs is not None and gcp is not None:
        found_kind: HeightKind = "orthometric" if points_crs.is_compound else "unknown"
    else:
        found_kind = next(iter(kinds)) if len(kinds) == 1 else "unknown"
    if len(kinds) > 1:
        counts = {kind: sum(p.position is not None and p.height_kind == kind for p in photos) for kind in sorted(kinds)}
        gaps.append(Message(id="drone.heights_mixed", values={"kinds": ", ".join(f"{k} {n}" for k, n in counts.items())}))
    return Flight(
        photos=photos,
        cameras=cameras,
        ground_points=tuple(points),
        crs=crs,
        height_kind=height_kind or found_kind,
        rejected=rejected,
        gaps=tuple(gaps),
    )


def _named(names: Sequence[str], limit: int = 5) -> dict[str, Any]:
    """Message values: how many photos, and the first few by name."""
    return {"count": len(names), "photos": ", ".join(names[:limit]) + (" ..." if len(names) > limit else "")}


def _apart(one: Triple, other: Triple | tuple[float, float]) -> float:
    """Horizontal distance in m between two places (lon, lat)."""
    return float(_WGS84.inv(one[0], one[1], other[0], other[1])[2])


def _with_mrk(facts: list[_Facts], files: list[Path], folder: Path, config: MetadataConfig) -> tuple[list[_Facts], list[Message]]:
    """The facts with positions, sd and times of MRK files, and what is to be said of these files.

    A line belongs to the photo of the same number in the folder of the file; where several files lie there, the number counts from
    one in each, so that the photo's name must begin like the file's. A line far from the photo's own position is not believed.
    """
    gaps: list[Message] = []
    by_name = {fact.photo.name: index for index, fact in enumerate(facts)}
    facts = list(facts)
    for path in files:
        label = path.relative_to(folder).as_posix()
        try:
            rows = read_mrk(path)
        except FormatError as error:
            gaps.append(Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()}))
            continue
        beside = label.rpartition("/")[0]
        alone = sum(other.parent == path.parent for other in files) == 1
        prefix = "" if alone else re.split(r"_?timestamp", path.stem, flags=re.IGNORECASE)[0]
        numbered: dict[int, list[str]] = {}
        for name in by_name:
            where, _, base = name.rpartition("/")
            number = _NUMBER_IN_NAME.search(base.rpartition(".")[0])
            if where == beside and number is not None and base.startswith(prefix):
                numbered.setdefault(int(number[1]), []).append(name)
        used, strange = [], []
        for row in rows:
            for name in numbered.get(row.number, []):
                fact = facts[by_name[name]]
                if fact.photo.position is not None and _apart(fact.photo.position, row.place) > config.max_disagreement:
                    strange.append(name)
                    continue
                facts[by_name[name]] = replace(fact, photo=_at_mark(fact.photo, row, config))
                used.append(name)
        gaps.append(Message(id="drone.mrk_used", values={"path": label, **_named(sorted(used)), "lines": len(rows)}))
        if strange:
            gaps.append(Message(id="drone.mrk_elsewhere", values={"path": label, **_named(sorted(strange))}))
    return facts, gaps


def _at_mark(photo: Photo, row: MrkRow, config: MetadataConfig) -> Photo:
    e, n, u = (math.hypot(s, floor) for s, floor in zip(row.sd, config.rtk_floor, strict=True))
    sd = (e, n, u)
    if row.rtk != "fixed":  # what a receiver says of its own noise leaves out the common error
        sd = tuple(max(stated, general) for stated, general in zip(sd, config.gps_sd, strict=True))  # type: ignore[assignment]
    return replace(
        photo,
        position=(*row.place, row.height),
        height_kind="ellipsoidal",
        position_sd=sd,
        rtk=row.rtk,
        lever_arm=row.lever_arm,
        exposed=row.exposed,
        exif_position=photo.exif_position or photo.position,
    )


def _without_void_values(facts: list[_Facts], config: MetadataConfig) -> tuple[list[_Facts], list[Message]]:
    """The facts without values that only stand for "not measured", and what is to be said about the flight's metadata."""
    gaps: list[Message] = []

    def say(message: str, names: list[str], **values: Any) -> None:
        if names:
            gaps.append(Message(id=f"drone.{message}", values={**_named(names), **values}))

    def with_note(note: str) -> list[str]:
        return [fact.photo.name for fact in facts if note in fact.notes]

    say("position_from_xmp", with_note("xmp"))
    say("position_void", with_note("void"))
    photos = [fact.photo for fact in facts]
    apart = {
        p.name: _apart(p.position, p.exif_position) for p in photos if p.position is not None and p.exif_position is not None
    }
    far = sorted(name for name, distance in apart.items() if distance > config.max_disagreement)
    say("positions_disagree", far, distance=f"{max((apart[n] for n in far), default=0):.1f}")

    dead = [p for p in photos if p.attitude == (0.0, 0.0, 0.0)]
    if len(dead) == sum(p.attitude is not None for p in photos):
        say("gimbal_dead", [p.name for p in dead])
        photos = [replace(p, attitude=None) if p.attitude == (0.0, 0.0, 0.0) else p for p in photos]

    flat = {p.name for p in photos if p.position is not None and p.position[2] == 0 and p.rtk != "fixed"}
    from_takeoff = [p.name for p in photos if p.name in flat and p.relative_altitude]
    lost = [p.name for p in photos if p.name in flat and not p.relative_altitude]
    if len(flat) < 2:  # one photo may well be at 0 m
        from_takeoff, lost = [], []
    say("height_from_takeoff", from_takeoff)
    say("height_zero", lost)
    photos = [_height_replaced(p, config) if p.name in {*from_takeoff, *lost} else p for p in photos]
    return [replace(fact, photo=photo) for fact, photo in zip(facts, photos, strict=True)], gaps


def _height_replaced(photo: Photo, config: MetadataConfig) -> Photo:
    """With the height above take-off in place of a height of 0; without one it stays 0, of unknown error."""
    if photo.position is None:
        return photo
    lon, lat, _ = photo.position
    if photo.relative_altitude:
        return replace(photo, position=(lon, lat, photo.relative_altitude), height_kind="relative")
    return replace(photo, position_sd=(*photo.position_sd[:2], config.unknown_height_sd), height_kind="unknown")


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
    """The cameras, told apart by model, size, focal length, and by serial number or calibration where a model has several."""

    def model(fact: _Facts) -> str:
        width, height = fact.photo.size
        focal = "" if fact.focal_mm is None else f" {fact.focal_mm:g}mm"
        return f"{_traces(fact).make_model or 'unknown'} {width}x{height}{focal}"

    bodies: dict[str, list[tuple[str, tuple[float, ...] | None]]] = {}
    for fact in facts:
        body = (_traces(fact).serial, fact.dewarp)
        if body not in bodies.setdefault(model(fact), []):
            bodies[model(fact)].append(body)
    cameras: dict[str, Camera] = {}
    photos = []
    for fact in facts:
        key, of_model = model(fact), bodies[model(fact)]
        if len(of_model) > 1:
            serial = _traces(fact).serial
            key += f" {serial or 'no serial number'}"
            same = [body for body in of_model if body[0] == serial]
            key += f" calibration {same.index((serial, fact.dewarp)) + 1}" if len(same) > 1 else ""
        width, height = fact.photo.size
        f = fact.focal_px or 1.2 * max(width, height)
        cameras.setdefault(
            key,
            Camera(
                id=key,
                model="SIMPLE_RADIAL",
                params=(f, width / 2, height / 2, 0.0),
                size=(width, height),
                make_model=_traces(fact).make_model,
                focal_prior=fact.focal_px,
                focal_prior_sd=fact.focal_sd,
                dewarp=fact.dewarp,
                dewarped=fact.dewarped,
            ),
        )
        photos.append(replace(fact.photo, camera_id=key))
    return cameras, tuple(photos)


def _traces(fact: _Facts) -> FileTraces:
    assert fact.photo.traces is not None, "every photo that was read has them"
    return fact.photo.traces


def _read_photo(path: Path, name: str, look: Callable[[Look], Any] | None, config: MetadataConfig) -> _Facts:
    try:
        size = path.stat().st_size
        if size > config.max_bytes:
            raise FormatError("drone.photo_too_large", path=name, found=f"{size} B", limit=f"{config.max_bytes} B")
        data = path.read_bytes()
    except OSError as error:
        raise FormatError("core.cannot_read", path=name, reason=error.strerror or str(error)) from error
    (width, height), markers, tables = _walk_jpeg(data, name)
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
                small = dict(exif.get_ifd(IFD.IFD1))
                block = image.info.get("exif", b"")
                xmp = image.info.get("xmp", b"")
                # Brightness alone; without a caller who looks, an eighth of the size, for which the whole stream is decoded as well.
                reduction = 1 if look is not None else 8
                image.draft("L", (max(width // reduction, 1), max(height // reduction, 1)))
                image.load()
                seen = None
                if look is not None:
                    luma = image if image.mode == "L" else image.convert("L")
                    seen = look(Look(np.asarray(luma), _thumbnail(block, small)))
    except (UnidentifiedImageError, OSError, ValueError, TypeError, SyntaxError, KeyError, Image.DecompressionBombError) as error:
        raise FormatError("drone.damaged_jpeg", path=name, reason=str(error)) from error
    xmp = xmp if isinstance(xmp, bytes) else str(xmp).encode()
    told = telemetry_of(xmp)

    position, kind, sd, other, notes = _position(gps, told, config)
    words = " ".join(_text(tags.get(tag)) for tag in (0x010E, 0x0131, 0x9286)) + " " + xmp.decode("utf-8", "replace")
    make_model = " ".join(part for part in (_text(tags.get(0x010F)), _text(tags.get(0x0110))) if part)
    focal_mm = number_of(tags.get(0x920A))
    dewarp = _dewarp_of(told, width, height)
    focal_px, focal_sd = _focal(tags, told, dewarp, _text(tags.get(0x0110)), focal_mm, max(width, height))
    taken = _taken(tags)
    exposure = number_of(tags.get(0x829A))
    stated = (number_of(tags.get(0xA002)), number_of(tags.get(0xA003)))
    tools = {_text(tags.get(0x000B)), _text(tags.get(0x013C)), *told.tools} - {""}
    photo = Photo(
        name=name,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=(width, height),
        taken=taken,
        position=position,
        height_kind=kind,
        position_sd=sd,
        attitude=told.attitude,
        relative_altitude=told.relative_altitude,
        camera_id="",
        flight_attitude=told.flight_attitude,
        velocity=told.velocity,
        rtk=told.rtk,
        exposed=told.exposed or _gps_time(gps),
        exposure_s=exposure if exposure is not None and 0 < exposure < 3600 else None,
        shutter_count=told.shutter_count,
        exif_position=other,
        traces=FileTraces(
            tables=tables,
            markers=markers,
            software=_text(tags.get(0x0131)),
            tools=tuple(sorted(tools)),
            maker_note=bool(tags.get(0x927C)),
            thumbnail=bool(small.get(0x0202)),
            stated_size=None if stated[0] is None or stated[1] is None else (int(stated[0]), int(stated[1])),
            changed=_time_of(_text(tags.get(0x0132)), _text(tags.get(0x9010)), ""),
            make_model=make_model,
            serial=_text(tags.get(0xA431)) or told.serial,
        ),
    )
    return _Facts(
        photo=photo,
        focal_mm=focal_mm if focal_mm and focal_mm > 0 else None,
        focal_px=focal_px,
        focal_sd=focal_sd,
        dewarp=dewarp,
        dewarped=told.dewarped,
        synthetic="synthetic" in words.lower() or "合成" in words,
        notes=notes,
        seen=seen,
    )


def _thumbnail(block: bytes, directory: Mapping[int, Any]) -> NDArray[np.uint8] | None:
    """The EXIF thumbnail's brightness (rows, cols); None where there is none of up to 200 kB and 1 Mpx that can be read."""
    start, length = number_of(directory.get(0x0201)), number_of(directory.get(0x0202))
    if start is None or length is None or not (0 < length <= 200_000 and start >= 0):
        return None
    block = block.removeprefix(b"Exif\0\0")
    try:
        with Image.open(io.BytesIO(block[int(start) : int(start + length)]), formats=("JPEG",)) as image:
            if image.width * image.height > 1_000_000:
                return None
            return np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError, ValueError, TypeError, SyntaxError, KeyError, Image.DecompressionBombError):
        return None  # the finding about thumbnails says that there was none to compare


def _walk_jpeg(data: bytes, name: str) -> tuple[tuple[int, int], tuple[str, ...], str]:
    """(width, height), the segments before the picture, and the digest of the quantisation tables, of a whole JPEG.

    Its marker segments must lead to an end mark (ITU-T T.81, annex B).

    Raises:
        FormatError: not a JPEG, or it ends before its end mark.
    """
    if data[:3] != b"\xff\xd8\xff":
        raise FormatError("drone.not_a_jpeg", path=name)
    at, size = 2, None
    markers: list[str] = []
    tables = hashlib.sha256()
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
        if marker == 0xDB:
            tables.update(data[at + 4 : at + 2 + length])
        if len(markers) < 100:
            markers.append(f"APP{marker - 0xE0}" if 0xE0 <= marker <= 0xEF else _MARKERS.get(marker, f"{marker:02X}"))
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
    first_scan = markers.index("DA") if "DA" in markers else len(markers)
    return size, tuple(markers[:first_scan]), tables.hexdigest()[:16]


def _text(value: Any) -> str:
    """EXIF text: up to the first NUL; UTF-8 that was read as Latin-1 is put right."""
    if isinstance(value, bytes):
        value = value.removeprefix(b"ASCII\0\0\0").removeprefix(b"UNICODE\0").decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    with contextlib.suppress(UnicodeError):
        value = value.encode("latin-1").decode("utf-8")
    return value.split("\0")[0].strip()


def _taken(tags: Mapping[int, Any]) -> datetime | None:
    text = _text(tags.get(0x9003)) or _text(tags.get(0x0132))
    return _time_of(text, _text(tags.get(0x9011)), _text(tags.get(0x9291)))


def _time_of(text: str, zone: str, fraction: str) -> datetime | None:
    """The time of EXIF texts `YYYY:MM:DD HH:MM:SS`, offset `+08:00` and digits after the second; None where it is none."""
    try:
        taken = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    if re.fullmatch(r"\d{1,9}", fraction):
        taken += timedelta(microseconds=int(float(f"0.{fraction}") * 1e6))
    offset = re.fullmatch(r"([+-])(\d\d):(\d\d)", zone)
    if offset:
        shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        if shift < timedelta(hours=24):
            taken = taken.replace(tzinfo=timezone(-shift if offset[1] == "-" else shift))
    return taken


def _gps_time(gps: Mapping[int, Any]) -> datetime | None:
    """UTC of the EXIF tags GPSDateStamp and GPSTimeStamp; None where they are none."""
    try:
        day = datetime.strptime(_text(gps.get(29))[:10].replace("-", ":"), "%Y:%m:%d").replace(tzinfo=UTC)
        hour, minute, second = (number_of(part) for part in gps[7])
    except (ValueError, TypeError, KeyError):
        return None
    if hour is None or minute is None or second is None or not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 61):
        return None
    return day + timedelta(hours=hour, minutes=minute, seconds=second)


def _degrees(value: Any, reference: Any, negative: str) -> float | None:
    try:
        d, m, s = (number_of(part) for part in value)
    except (TypeError, ValueError):
        return None
    if d is None or m is None or s is None:
        return None
    angle = d + m / 60 + s / 3600
    return -angle if _text(reference).upper() == negative else angle


def _is_place(lon: float | None, lat: float | None) -> bool:
    """True for a place on Earth within UTM's latitudes that is not 0, 0, which receivers write without a fix."""
    return lon is not None and lat is not None and -80 <= lat <= 84 and -180 <= lon <= 180 and not lat == lon == 0


def _position(
    gps: Mapping[int, Any], told: Telemetry, config: MetadataConfig
) -> tuple[Triple | None, HeightKind, Triple, Triple | None, frozenset[str]]:
    """(lon, lat, height) or None, its height kind and sd; the EXIF position where that is another; notes for `Flight.gaps`.

    DJI writes latitude and longitude with more digits into XMP than into EXIF; the finer is taken. The height is the RTK receiver's
    where there is one. Else it is "unknown": Exif 2.x calls tag 5 = 0 sea level, Exif 3.0 the ellipsoid, and makers differ.
    """
    notes: set[str] = set()
    lat, lon = _degrees(gps.get(2), gps.get(1), "S"), _degrees(gps.get(4), gps.get(3), "W")
    exif = (lon, lat) if lon is not None and lat is not None and _is_place(lon, lat) else None
    place = told.place if told.place is not None and _is_place(*told.place) else exif
    if exif is None and place is not None:
        notes.add("xmp")
    if _text(gps.get(9)).upper() == "V" or told.void:  # the receiver itself says that this is no measurement
        place = None
        notes = {"void"}

    height = number_of(gps.get(6))
    reference = gps.get(5)
    code = reference[0] if isinstance(reference, bytes) and reference else reference if isinstance(reference, int) else 0
    if height is not None and code in (1, 3):
        height = -height
    exif_position = None if exif is None else (*exif, height or 0.0)
    kind: HeightKind = "orthometric" if code in (2, 3) and height else "unknown"
    if told.height is not None and (told.from_rtk or not height):
        height, kind = told.height, "unknown"
    sd = config.gps_sd
    if told.rtk is None and (error := number_of(gps.get(31))) is not None and 0 < error < 1000:
        sd = (error, error, max(sd[2], 2 * error))  # GPSHPositioningError (Exif 2.31) is horizontal only
    stated = told.sd if told.sd is not None and all(0 < s < 1 for s in told.sd) else None
    if told.rtk == "fixed" and stated is not None:
        e, n, u = (math.hypot(s, floor) for s, floor in zip(stated, config.rtk_floor, strict=True))
        sd, kind = (e, n, u), "ellipsoidal"
    elif told.rtk is None and stated is not None:  # the accuracy that makers other than DJI state
        e, n, u = (math.hypot(s, floor) for s, floor in zip(stated, config.rtk_floor, strict=True))
        sd = (e, n, u)
    if place is None or height is None:
        return None, "unknown", sd, exif_position, frozenset(notes)
    return (*place, height), kind, sd, exif_position if place != exif else None, frozenset(notes)


def _dewarp_of(told: Telemetry, width: int, height: int) -> tuple[float, ...] | None:
    """The maker's calibration with its principal point from the outer corner of the first pixel; None where it cannot be of this photo."""
    if told.dewarp is None:
        return None
    fx, fy, cx, cy, *rest = told.dewarp
    fits = all(0.3 < f / max(width, height) < 10 for f in (fx, fy)) and abs(cx) < 0.1 * width and abs(cy) < 0.1 * height
    return (fx, fy, width / 2 + cx, height / 2 + cy, *rest) if fits else None


def _focal(
    tags: Mapping[int, Any],
    told: Telemetry,
    dewarp: tuple[float, ...] | None,
    model: str,
    focal_mm: float | None,
    longest: int,
) -> tuple[float | None, float | None]:
    """Focal length in px and its relative sd, from the best of: this camera's calibration, the lens as designed, sensor width, 35 mm
    equivalent.

    0.5 %: temperature and focus against the calibration. 1 %: from lens to lens. 3 %: nominal sensor width and focal length. 7 %: the
    equivalent is a rounded integer and makers take either the width or the diagonal of 24 mm x 36 mm (CIPA DC-008) for it.
    """
    if dewarp is not None:
        return (dewarp[0] + dewarp[1]) / 2, 0.005
    if told.focal_px is not None and 0.3 < told.focal_px / longest < 10:
        return told.focal_px, 0.01
    if focal_mm and focal_mm > 0 and model in _SENSOR_WIDTH_MM:
        return focal_mm / _SENSOR_WIDTH_MM[model] * longest, 0.03
    equivalent = number_of(tags.get(0xA405))
    if equivalent and 8 <= equivalent <= 500:
        return equivalent / 36 * longest, 0.07
    return None, None
