"""Is this flight good enough? Said on the river bank, before the pair leaves: no reconstruction, no network, one look at each photo.

In: a folder of photos and, where there is one, the commissioned area. Out: `FlightCheck`: good, fly a strip again, or cannot tell, with every
reason, photo and figure behind it, and the indications of `drone.authenticity`; `drone.gate_files` writes
a record, a map and footprints of it.
Overlap and coverage are computed from positions, attitudes and the height above take-off, over level ground, and say so: a photo that
says nothing of these is not judged. Blurred photos are found by comparing with their neighbours (Crete et al. 2007, `drone.appearance`).
It names no cause and judges no legality; nothing is repaired, and no photo is changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio.features
import shapely
import shapely.geometry
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from shapely import Polygon

from drone.appearance import Appearance, appearance_of
from drone.authenticity import AuthenticityConfig, Indication, clock_offsets, examine, sessions
from drone.metadata import MetadataConfig, look_through
from drone.strips import Layout, Overlap, geographic, lay_out, moment, overlaps, views
from drone.types import Flight, Photo, parameters_of
from geoevidence.crs import parse_crs, transformer
from geoevidence.errors import ConfigError, CrsError, FormatError
from geoevidence.trust import canonical
from geoevidence.types import Message, Progress, Quantity, decimal_text, no_progress, utc_text

Verdict = Literal["good", "again", "cannot_tell"]
Severity = Literal["again", "notice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """What is good enough.

    min_along, min_across: share (1) of overlap under which a strip is to be flown again, if it lies under by more than its standard
        uncertainty. Three photos see every place from 2/3 along; 0.6 leaves two everywhere and three nearly so.
    good_along, good_across: under these it is said; what makers of survey software recommend for flat ground is 0.75 and 0.6.
    min_views: photos that must show a place; heights are kept where three agree (`DenseConfig`).
    min_coverage: share (1) of the area that at least `min_views` photos must show.
    max_height: m above take-off; true height of the airspace open to light drones (Interim Regulations on Unmanned Aircraft, 2024, 19).
    height_sd: m, one sigma of the height above ground: barometer and terrain.
    height_above_ground: m, of photos that do not say theirs; None: their overlap is not judged.
    blur_excess: by how much the blur may exceed that of the neighbours; 0.05 is motion over 2 to 3 px (brighton_beach: 18 photos differ by
        0.01; motion over 2, 3, 5 px adds 0.03, 0.07, 0.17). blur_sigmas: and by how many robust sd.
    soft: blur of all photos from which the whole flight is called soft; motion over 4 px.
    motion: px that the ground may move during an exposure, by speed and exposure time.
    bright, dark: share (1) of pixels without tone above which a photo is named; exposure_step: grey levels from its neighbours.
    textured: share (1) of squares with texture below which a photo is named (water, snow, fog).
    clock: s that the camera's clock may be off satellite time. pause_minutes: min without photos that part two flights.
    require_rtk: photos without an RTK fix count as not taken.
    metadata: how photos are read. authenticity: bounds of the indications.
    """

    min_along: float = 0.6
    min_across: float = 0.3
    good_along: float = 0.7
    good_across: float = 0.5
    min_views: int = 3
    min_coverage: float = 0.98
    max_height: float = 120.0
    height_sd: float = 3.0
    height_above_ground: float | None = None
    blur_excess: float = 0.05
    blur_sigmas: float = 5.0
    soft: float = 0.35
    motion: float = 1.5
    bright: float = 0.05
    dark: float = 0.25
    exposure_step: float = 45.0
    textured: float = 0.25
    clock: float = 2.0
    pause_minutes: float = 20.0
    require_rtk: bool = False
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    authenticity: AuthenticityConfig = field(default_factory=AuthenticityConfig)

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name in ("metadata", "authenticity", "require_rtk") or value is None:
                continue
            high = 1.0 if part.name in _SHARES else 10_000.0
            if not 0 < value <= high:
                raise ConfigError("drone.setting_out_of_range", setting=part.name, found=value, low=0, high=high)


_SHARES = {
    "min_along",
    "min_across",
    "good_along",
    "good_across",
    "min_coverage",
    "bright",
    "dark",
    "textured",
    "soft",
    "blur_excess",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing that was noticed. check: what was looked at. severity: fly again for it, or only know it. strip: number, or None."""

    check: str
    severity: Severity
    message: Message
    photos: tuple[str, ...] = ()
    strip: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "severity": self.severity,
            "message": self.message.to_dict(),
            "photos": list(self.photos),
            "strip": self.strip,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """area: m2 of the place (commissioned, or None: the outline of the positions). once, enough: share of it, in %, that one photo and
    `min_views` photos show. missing: parts of more than 1 % of the place, or 25 m2, that fewer show, in the flight's CRS."""

    commissioned: bool
    area: float
    once: Quantity
    enough: Quantity
    missing: tuple[Polygon, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlightCheck:
    """What the gate says. sentence: the plain one. layout: what it rests on. unusable: photo -> why it counts as not taken."""

    verdict: Verdict
    sentence: Message
    remarks: tuple[Remark, ...]
    flight: Flight
    layout: Layout
    overlaps: tuple[Overlap, ...]
    coverage: Coverage | None
    area: Polygon | None
    looks: Mapping[str, Appearance]
    unusable: Mapping[str, str]
    indications: tuple[Indication, ...]
    config: GateConfig

    def to_dict(self) -> dict[str, Any]:
        """JSON without floats (decimals are text), in a fixed order."""
        share = {"unit": "%", "coverage_factor": 2.0, "propagation": "drone.propagation_overlap"}
        strips = []
        for strip in self.layout.strips:
            entry: dict[str, Any] = {
                "number": strip.number,
                "first": strip.photos[0],
                "last": strip.photos[-1],
                "photos": len(strip.photos),
                "heading": None if strip.heading is None else decimal_text(round(strip.heading, 1)),
            }
            for kind in ("along", "across"):
                values = [o for o in self.overlaps if o.kind == kind and o.strip == strip.number]
                least = min(values, key=lambda o: (o.value, o.first), default=None)
                entry[f"least_{kind}"] = None if least is None else _percent(least.value, least.sd).to_dict()
                middle = float(np.median([o.value for o in values])) if values else None
                entry[f"median_{kind}"] = None if middle is None else decimal_text(round(100 * middle, 1))
            strips.append(entry)
        photos = []
        for photo in self.flight.photos:
            look = self.looks[photo.name]
            photos.append(
                {
                    "name": photo.name,
                    "sha256": photo.sha256,
                    "time": None if (when := moment(photo)) is None else utc_text(when),
                    "height_above_takeoff": None if photo.relative_altitude is None else decimal_text(photo.relative_altitude),
                    "rtk": photo.rtk,
                    "blur": None if look.blur is None else decimal_text(round(max(look.blur), 4)),
                    "textured": decimal_text(round(look.textured, 3)),
                    "bright": decimal_text(round(look.bright, 5)),
                    "dark": decimal_text(round(look.dark, 5)),
                    "brightness": decimal_text(look.median),
                    "unusable": self.unusable.get(photo.name),
                }
            )
        covered = self.coverage
        return {
            "schema": "geoevidence.drone.check/1",
            "verdict": self.verdict,
            "sentence": self.sentence.to_dict(),
            "remarks": [remark.to_dict() for remark in self.remarks],
            "strips": strips,
            "coverage": None
            if covered is None
            else {
                "commissioned": covered.commissioned,
                "area": decimal_text(round(covered.area, 1)),
                "once": covered.once.to_dict(),
                "enough": covered.enough.to_dict(),
                "views": self.config.min_views,
                "missing": [
                    [[[decimal_text(v) for v in point] for point in ring] for ring in geographic(self.flight.crs, part)]
                    for part in covered.missing
                ],
            },
            "photos": photos,
            "rejected": {name: said.to_dict() for name, said in sorted(self.flight.rejected.items())},
            "gaps": [gap.to_dict() for gap in self.flight.gaps],
            "indications": [indication.to_dict() for indication in self.indications],
            "order": self.layout.ordered_by,
            "crs": self.flight.crs.to_wkt() if self.layout.places else None,
            "synthetic": self.flight.synthetic,
            "parameters": parameters_of(replace(self.config, metadata=replace(self.config.metadata, threads=1))),
            "share": {**share, "coverage_factor": decimal_text(2.0)},
        }


def check_flight(
    folder: Path,
    *,
    area: Path | None = None,
    config: GateConfig = GateConfig(),
    progress: Progress = no_progress,
) -> FlightCheck:
    """Whether the photos in a folder are good enough to be worked with.

    Args:
        area: GeoJSON polygon of the place that was to be flown; without it coverage is that of the outline of the positions.

    Raises:
        InputError: no folder, or fewer than two usable photos. FormatError, CrsError: the area is not usable.
    """
    place = read_area(area) if area is not None else None
    progress("drone.stage_look", 0.0)
    flight, looks = look_through(
        folder,
        appearance_of,
        placeless=CRS.from_epsg(32631),  # never used: without places there is no footprint
        config=config.metadata,
        progress=lambda share: progress("drone.stage_look", share),
    )
    progress("drone.stage_check", 0.0)
    layout = lay_out(flight, height=config.height_above_ground)
    unusable, remarks = _pictures(flight, looks, config)
    if config.require_rtk:
        for photo in flight.photos:
            if photo.rtk != "fixed":
                unusable.setdefault(photo.name, "rtk")
    found = overlaps(flight, layout, height_sd=config.height_sd, without=unusable)
    remarks += _rejected(flight)
    remarks += _along(flight, layout, found, config)
    remarks += _across(layout, found, config)
    remarks += _gaps(flight, layout)
    remarks += _too_little(flight, layout, unusable, config)
    polygon = None if place is None or not layout.places else _projected(place, flight.crs)
    coverage = _coverage(flight, layout, polygon, unusable, config)
    remarks += _covered(flight, layout, coverage, config)
    remarks += _metadata(flight, layout, config)
    remarks += _motion(flight, layout, config)
    progress("drone.stage_check", 0.5)
    indications = examine(flight, looks, config=config.authenticity)
    remarks = sorted(remarks, key=lambda r: (r.severity != "again", _CHECKS.index(r.check), r.strip or 0, r.photos))
    verdict, sentence = _verdict(flight, layout, found, remarks, coverage)
    progress("drone.stage_check", 1.0)
    return FlightCheck(
        verdict=verdict,
        sentence=sentence,
        remarks=tuple(remarks),
        flight=flight,
        layout=layout,
        overlaps=found,
        coverage=coverage,
        area=polygon,
        looks=looks,
        unusable=dict(sorted(unusable.items())),
        indications=indications,
        config=config,
    )


_CHECKS = (
    "files", "positions", "blur", "exposure", "texture", "along", "across", "coverage", "sequence", "rtk", "clock", "height", "motion",
)  # fmt: skip


def _named(names: Collection[str], limit: int = 5) -> dict[str, Any]:
    listed = sorted(names)
    return {"count": len(listed), "photos": ", ".join(listed[:limit]) + (" ..." if len(listed) > limit else "")}


def _percent(value: float, sd: float) -> Quantity:
    return Quantity(
        value=round(100 * value, 2), unit="%", standard_uncertainty=round(100 * sd, 2), propagation="drone.propagation_overlap"
    )


def _remark(check: str, severity: Severity, photos: Collection[str], strip: int | None = None, /, **values: Any) -> Remark:
    case = values.pop("case", check)
    message = Message(id=f"drone.gate_{case}", values={**_named(photos), **values})
    return Remark(check=check, severity=severity, message=message, photos=tuple(sorted(photos)), strip=strip)


# --------------------------------------------------------------------------------------------------------------------
# Pictures


def _around(ordered: Sequence[str], values: Mapping[str, float], reach: int = 5) -> dict[str, float]:
    """The value of each photo less the median of up to `reach` photos before and behind it."""
    known = [name for name in ordered if name in values]
    result = {}
    for k, name in enumerate(known):
        near = [values[other] for other in known[max(k - reach, 0) : k] + known[k + 1 : k + 1 + reach]]
        result[name] = values[name] - float(np.median(near)) if near else 0.0
    return result


def _pictures(flight: Flight, looks: Mapping[str, Appearance], config: GateConfig) -> tuple[dict[str, str], list[Remark]]:
    """Photos that count as not taken, by reason, and what is to be said of the pictures."""
    unusable: dict[str, str] = {}
    remarks: list[Remark] = []
    flat = [p.name for p in flight.photos if looks[p.name].textured < config.textured]
    if flat:
        remarks.append(_remark("texture", "notice", flat))
    by_camera: dict[str, list[str]] = {}
    for photo in sorted(flight.photos, key=lambda p: (str(moment(p) or ""), p.name)):
        by_camera.setdefault(photo.camera_id, []).append(photo.name)
    blurred, stepped = [], []
    for _, names in sorted(by_camera.items()):
        values = {name: max(blur) for name in names if (blur := looks[name].blur) is not None}
        off = _around(names, values)
        spread = 1.4826 * float(np.median(np.abs(list(off.values())))) if off else 0.0
        blurred += [name for name, excess in off.items() if excess > max(config.blur_excess, config.blur_sigmas * spread)]
        if values and float(np.median(list(values.values()))) > config.soft:
            soft = f"{float(np.median(list(values.values()))):.2f}"
            remarks.append(_remark("blur", "again", names, case="soft", blur=soft))
        steps = _around(names, {name: looks[name].median for name in names})
        stepped += [name for name, step in steps.items() if abs(step) > config.exposure_step]
    if blurred:
        remarks.append(_remark("blur", "notice", blurred))
        unusable |= dict.fromkeys(blurred, "blur")
    bright = [p.name for p in flight.photos if looks[p.name].bright > config.bright]
    dark = [p.name for p in flight.photos if looks[p.name].dark > config.dark]
    for case, names in (("bright", bright), ("dark", dark), ("exposure_step", stepped)):
        if names:
            remarks.append(_remark("exposure", "notice", names, case=case))
    lost = [p.name for p in flight.photos if looks[p.name].bright > 0.5 or looks[p.name].dark > 0.6]
    unusable |= {name: "exposure" for name in lost if name not in unusable}
    return unusable, remarks


def _motion(flight: Flight, layout: Layout, config: GateConfig) -> list[Remark]:
    """Ground moving through the picture during the exposure: speed x time / GSD."""
    photos = {photo.name: photo for photo in flight.photos}
    moved: dict[str, float] = {}
    for strip in layout.strips:
        for a, b in pairwise(strip.photos):
            p, q = photos[a], photos[b]
            first, last = moment(p), moment(q)
            if p.exposure_s is None or a not in layout.heights or first is None or last is None or last <= first:
                continue
            focal = flight.cameras[p.camera_id].focal_prior
            if focal is None:
                continue
            seconds = (last - first).total_seconds()
            speed = float(np.hypot(*(layout.places[b] - layout.places[a])[:2])) / seconds
            if p.velocity is not None:
                speed = math.hypot(*p.velocity[:2])
            elif seconds < 2:  # whole seconds tell no speed
                continue
            moved[a] = speed * p.exposure_s * focal / layout.heights[a]
    over = [name for name, value in moved.items() if value > config.motion]
    return [_remark("motion", "notice", over, most=f"{max(moved[name] for name in over):.1f}")] if over else []


# --------------------------------------------------------------------------------------------------------------------
# Overlap, coverage, sequence


def _rejected(flight: Flight) -> list[Remark]:
    damaged = [
        name for name, said in flight.rejected.items() if said.id not in ("drone.duplicate_photo",) and not _is_other(name)
    ]
    return [_remark("files", "notice", damaged)] if damaged else []


def _is_other(name: str) -> bool:
    return Path(name).suffix.lower() not in (".jpg", ".jpeg", ".jpe")


def _along(flight: Flight, layout: Layout, found: Sequence[Overlap], config: GateConfig) -> list[Remark]:
    remarks = []
    for strip in layout.strips:
        values = [o for o in found if o.kind == "along" and o.strip == strip.number]
        if not values:
            continue
        low = [o for o in values if o.value + o.sd < config.min_along]
        least = min(values, key=lambda o: (o.value, o.first))
        shared = {"value": _percent(least.value, least.sd), "strip": strip.number, "first": least.first, "second": least.second}
        if low:
            names = {name for o in low for name in (o.first, o.second)}
            limit = f"{100 * config.min_along:.0f}"
            remarks.append(_remark("along", "again", names, strip.number, places=len(low), limit=limit, **shared))
        elif float(np.median([o.value for o in values])) < config.good_along:
            limit = f"{100 * config.good_along:.0f}"
            remarks.append(_remark("along", "notice", (), strip.number, case="along_low", limit=limit, **shared))
    return remarks


def _across(layout: Layout, found: Sequence[Overlap], config: GateConfig) -> list[Remark]:
    remarks = []
    pairs = sorted({(min(o.strip, o.other_strip), max(o.strip, o.other_strip)) for o in found if o.kind == "across"})
    for a, b in pairs:
        values = [o for o in found if o.kind == "across" and {o.strip, o.other_strip} == {a, b}]
        low = [o for o in values if o.value + o.sd < config.min_across]
        least = min(values, key=lambda o: (o.value, o.first))
        shared = {"value": _percent(least.value, least.sd), "strip": a, "other": b, "first": least.first}
        # One photo at the rim of a strip may lean; a strip too far off shows in several.
        if len(low) >= 2:
            names = {o.first for o in low}
            weaker = a if sum(o.strip == a for o in low) > sum(o.strip == b for o in low) else b
            limit = f"{100 * config.min_across:.0f}"
            remarks.append(_remark("across", "again", names, weaker, limit=limit, **shared))
        elif float(np.median([o.value for o in values])) < config.good_across:
            limit = f"{100 * config.good_across:.0f}"
            remarks.append(_remark("across", "notice", (), b, case="across_low", limit=limit, **shared))
    return remarks


def _gaps(flight: Flight, layout: Layout) -> list[Remark]:
    """Steps within a strip of more than 1.6 times the usual one of the flight."""
    remarks = []
    steps_of = {
        strip.number: np.hypot(*np.diff([layout.places[name][:2] for name in strip.photos], axis=0).T)
        for strip in layout.strips
        if len(strip.photos) > 1
    }
    usual = float(np.median(np.concatenate(list(steps_of.values())))) if steps_of else 0.0
    for strip in layout.strips:
        steps = steps_of.get(strip.number, np.zeros(0))
        for k in np.flatnonzero(steps > 1.6 * usual):
            a, b = strip.photos[k], strip.photos[k + 1]
            between = [name for name in flight.rejected if a < name < b]
            case = "gap_damaged" if between else "gap"
            remarks.append(
                _remark(
                    "sequence",
                    "notice",
                    (a, b),
                    strip.number,
                    case=case,
                    first=a,
                    second=b,
                    strip=strip.number,
                    step=f"{steps[k]:.0f}",
                    usual=f"{usual:.0f}",
                    between=", ".join(sorted(between)[:5]) or "-",
                )
            )
    return remarks


def _too_little(flight: Flight, layout: Layout, unusable: Collection[str], config: GateConfig) -> list[Remark]:
    """Photos from one place, or nowhere enough of them on one place: no heights come of either."""
    usable = [name for name in layout.order if name in layout.footprints and name not in unusable]
    if not usable:
        return []
    places = np.array([layout.places[name][:2] for name in usable])
    extent = float(np.hypot(*np.ptp(places, axis=0)))
    # Below a twentieth of the height the rays of all photos meet at less than 3 degrees.
    if extent < 0.05 * float(np.median([layout.heights[name] for name in usable])):
        return [_remark("along", "again", usable, case="no_base", extent=f"{extent:.1f}")]
    ground = shapely.union_all([layout.footprints[name] for name in usable])
    cell, bounds = _cell_and_bounds(ground, layout)
    count = views(layout, without=unusable, cell=cell, bounds=bounds)
    if (count >= config.min_views).sum() < 0.01 * (count > 0).sum():
        return [_remark("along", "again", usable, case="few_views", views=config.min_views)]
    return []


def read_area(path: Path) -> tuple[Polygon, CRS]:
    """The polygon of a GeoJSON file (several are joined) and its reference system: longitude and latitude, unless a member `crs` names one.

    Raises:
        FormatError: no JSON, no polygon, or one that crosses itself. CrsError: the reference system is not known.
    """
    try:
        document = canonical.loads(Path(path).read_bytes(), where=Path(path).name, allow_floats=True)
    except OSError as error:
        raise FormatError("core.cannot_read", path=Path(path).name, reason=error.strerror or str(error)) from error
    if not isinstance(document, Mapping):
        raise FormatError("drone.not_geojson", path=Path(path).name)
    parts: Any = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    shapes = []
    try:
        for part in parts or []:
            geometry: Any = part.get("geometry") if part.get("type") == "Feature" else part
            if geometry.get("type") in ("Polygon", "MultiPolygon"):
                shapes.append(shapely.geometry.shape(geometry))
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, shapely.errors.GEOSException) as error:
        raise FormatError("drone.not_geojson", path=Path(path).name) from error
    if not shapes:
        raise FormatError("drone.no_polygons", path=Path(path).name)
    joined = shapely.force_2d(shapely.union_all(shapes)) if all(s.is_valid for s in shapes) else None
    if joined is None or joined.is_empty or not np.isfinite(shapely.get_coordinates(joined)).all():
        raise FormatError("drone.bad_area", path=Path(path).name)
    named = document.get("crs")
    text = named.get("properties", {}).get("name", "") if isinstance(named, Mapping) else "EPSG:4326"
    return joined, parse_crs(str(text))


def _projected(place: tuple[Any, CRS], crs: CRS) -> Any:
    shape, source = place
    moved = shapely.transform(shape, lambda points: np.column_stack(transformer(source, crs).transform(*points.T)))
    if not np.isfinite(shapely.get_coordinates(moved)).all() or not moved.area > 0:
        raise CrsError("drone.area_elsewhere", crs=crs.name)
    return moved


def _cell_and_bounds(place: Any, layout: Layout) -> tuple[float, tuple[float, float, float, float]]:
    """Cell in m: a fiftieth of a footprint, but no more than 4 million cells; bounds of the place in whole cells."""
    west, south, east, north = place.bounds
    side = math.sqrt(float(np.median([shape.area for shape in layout.footprints.values()])))
    cell = max(side / 50, math.sqrt(max((east - west) * (north - south), 1e-6) / 4e6), 0.05)
    cell = float(f"{cell:.2g}")
    bounds = (
        math.floor(west / cell) * cell,
        math.floor(south / cell) * cell,
        math.ceil(east / cell) * cell,
        math.ceil(north / cell) * cell,
    )
    return cell, bounds


def _inside(place: Any, cell: float, bounds: tuple[float, float, float, float], shape: tuple[int, int]) -> NDArray[np.bool_]:
    transform = Affine(cell, 0, bounds[0], 0, -cell, bounds[3])
    return np.asarray(rasterio.features.rasterize([place], out_shape=shape, transform=transform, dtype=np.uint8), bool)


def _coverage(flight: Flight, layout: Layout, area: Any, unusable: Collection[str], config: GateConfig) -> Coverage | None:
    """How much of the place the photos show. Its error: the footprints shrunk and grown by what positions and heights leave open."""
    if not layout.footprints:
        return None
    place = area
    if place is None:
        place = shapely.MultiPoint([layout.places[name][:2] for name in sorted(layout.footprints)]).convex_hull
        if not place.area > 0:
            return None
    cell, bounds = _cell_and_bounds(place, layout)
    photos = {photo.name: photo for photo in flight.photos}
    shares = []
    missing: list[Polygon] = []
    for sign in (0.0, -1.0, 1.0):
        grown = {}
        for name, shape in layout.footprints.items():
            position = math.hypot(*photos[name].position_sd[:2]) / math.sqrt(2)
            doubt = math.hypot(position, config.height_sd / layout.heights[name] * math.sqrt(shape.area) / 2)
            moved = shape.buffer(sign * doubt, join_style="mitre") if sign else shape
            if isinstance(moved, Polygon) and not moved.is_empty:
                grown[name] = moved
        count = views(replace(layout, footprints=grown), without=unusable, cell=cell, bounds=bounds)
        inside = _inside(place, cell, bounds, count.shape)
        total = max(int(inside.sum()), 1)
        shares.append((int((inside & (count >= 1)).sum()) / total, int((inside & (count >= config.min_views)).sum()) / total))
        if sign == 0:
            transform = Affine(cell, 0, bounds[0], 0, -cell, bounds[3])
            thin = (inside & (count < config.min_views)).astype(np.uint8)
            least = max(0.01 * place.area, 25.0)
            parts = [shapely.geometry.shape(s) for s, value in rasterio.features.shapes(thin, transform=transform) if value]
            missing = sorted((p for p in parts if p.area >= least), key=lambda p: (-p.area, p.bounds))
    once, enough = ((shares[0][k], (shares[2][k] - shares[1][k]) / 2) for k in (0, 1))
    return Coverage(
        commissioned=area is not None,
        area=float(place.area),
        once=_percent(*once),
        enough=_percent(*enough),
        missing=tuple(missing[:50]),
    )


def _covered(flight: Flight, layout: Layout, coverage: Coverage | None, config: GateConfig) -> list[Remark]:
    if coverage is None:
        return []
    share, sd = coverage.enough.value / 100, (coverage.enough.standard_uncertainty or 0.0) / 100
    if share >= config.min_coverage:
        return []
    again = share + sd < config.min_coverage
    near: list[int] = []
    for part in coverage.missing[:5]:
        reach = [
            (min(part.distance(shapely.Point(layout.places[name][:2])) for name in strip.photos), strip.number)
            for strip in layout.strips
        ]
        near += [number for _, number in sorted(reach)[:1] if number not in near]
    strips = ", ".join(str(number) for number in sorted(near)) or "-"
    largest = "-"
    if coverage.missing:
        lon, lat = geographic(flight.crs, coverage.missing[0].representative_point().buffer(0.01))[0][0]
        largest = f"{lon:.6f}, {lat:.6f}"
    case = "coverage" if coverage.commissioned else "coverage_own"
    values = {
        "value": coverage.enough,
        "limit": f"{100 * config.min_coverage:.0f}",
        "views": config.min_views,
        "strips": strips,
        "place": largest,
    }
    # Nobody asked for the outline of the positions: its rim is always seen by fewer photos.
    severity: Severity = "again" if again and coverage.commissioned else "notice"
    return [_remark("coverage", severity, (), min(near, default=None), case=case, **values)]


# --------------------------------------------------------------------------------------------------------------------
# What the metadata say


def _metadata(flight: Flight, layout: Layout, config: GateConfig) -> list[Remark]:
    remarks = []
    without = [p.name for p in flight.photos if p.name not in layout.places]
    if without:
        remarks.append(_remark("positions", "notice", without))
    unplaced = [p.name for p in flight.photos if p.name in layout.places and p.name not in layout.footprints]
    if unplaced:
        remarks.append(_remark("positions", "notice", unplaced, case="no_footprint"))
    if layout.nadir:
        remarks.append(_remark("positions", "notice", layout.nadir, case="nadir_assumed"))
    if len(sessions(flight.photos, config.pause_minutes)) > 1:
        parts = sessions(flight.photos, config.pause_minutes)
        first = [part[0].name for part in parts]
        remarks.append(_remark("sequence", "notice", first, case="two_flights", parts=len(parts)))
    states = {p.name: p.rtk for p in flight.photos if p.rtk is not None}
    loose = [name for name, state in states.items() if state != "fixed"]
    if loose:
        fixed = len(states) - len(loose)
        severity: Severity = "again" if config.require_rtk else "notice"
        remarks.append(_remark("rtk", severity, loose, fixed=fixed, of=len(states)))
    elif not states and config.require_rtk:
        remarks.append(_remark("rtk", "again", [p.name for p in flight.photos], case="no_rtk"))
    remarks += _clock(flight.photos, config)
    high = {p.name: p.relative_altitude for p in flight.photos if (p.relative_altitude or 0) > config.max_height}
    if high:
        most = max(value for value in high.values() if value is not None)
        remarks.append(_remark("height", "notice", high, most=f"{most:.0f}", limit=f"{config.max_height:.0f}"))
    barometric = _barometric(flight.photos)
    if barometric is not None:
        remarks.append(_remark("height", "notice", (), case="barometric", offset=f"{barometric:.2f}"))
    return remarks


def _clock(photos: Sequence[Photo], config: GateConfig) -> list[Remark]:
    offsets = np.array(list(clock_offsets(photos).values()))
    if not len(offsets):
        return []
    middle = float(np.median(offsets))
    # Whole seconds are cut, not rounded: half a second of it is no error of the clock, and the sd that of one second's width.
    spread = math.hypot(float(np.std(offsets)) / math.sqrt(len(offsets)), 1 / math.sqrt(12))
    if abs(middle) <= config.clock:
        return []
    value = Quantity(value=middle, unit="s", standard_uncertainty=spread, propagation="drone.propagation_clock")
    zoned = all(p.taken is None or p.taken.tzinfo is not None for p in photos)
    return [_remark("clock", "notice", (), case="clock" if zoned else "clock_no_zone", value=value)]


def _barometric(photos: Sequence[Photo]) -> float | None:
    """The constant difference in m of absolute and relative heights, where there is one: both are the barometer's."""
    apart = [
        p.position[2] - p.relative_altitude
        for p in photos
        if p.position is not None and p.relative_altitude is not None and p.height_kind == "unknown" and p.position[2] != 0
    ]
    if len(apart) < 5 or np.ptp(apart) > 0.06:  # both are rounded to 0.1 m or finer; receivers scatter by decimetres
        return None
    return float(np.median(apart))


# --------------------------------------------------------------------------------------------------------------------
# The sentence


def _verdict(
    flight: Flight, layout: Layout, found: Sequence[Overlap], remarks: Sequence[Remark], coverage: Coverage | None
) -> tuple[Verdict, Message]:
    again = [remark for remark in remarks if remark.severity == "again"]
    if again:
        strips = sorted({remark.strip for remark in again if remark.strip is not None})
        named = {strip.number: strip for strip in layout.strips}
        listed = "; ".join(f"{number} ({named[number].photos[0]} - {named[number].photos[-1]})" for number in strips[:6])
        if strips:
            return "again", Message(id="drone.gate_say_again", values={"strips": listed, "reason": again[0].message})
        return "again", Message(id="drone.gate_say_again_all", values={"reason": again[0].message})
    along = [o for o in found if o.kind == "along"]
    across = [o for o in found if o.kind == "across"]
    photos, strips_flown = len(flight.photos), sum(strip.heading is not None for strip in layout.strips)
    if not along:
        return "cannot_tell", Message(id="drone.gate_say_cannot_tell", values={"photos": photos})
    values: dict[str, Any] = {"photos": photos, "strips": strips_flown}
    for kind, overlaps_found in (("along", along), ("across", across)):
        if overlaps_found:
            least = min(overlaps_found, key=lambda o: (o.value, o.first))
            values[kind] = _percent(least.value, least.sd)
    if not across:
        return "good", Message(id="drone.gate_say_good_one_strip", values=values)
    if coverage is not None and coverage.commissioned:
        return "good", Message(id="drone.gate_say_good_area", values={**values, "coverage": coverage.enough})
    return "good", Message(id="drone.gate_say_good", values=values)
