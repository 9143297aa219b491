"""The flight as the photos' positions tell it: the order flown, strips, what each photo shows of level ground, and how they overlap.

In: a `Flight`. Out: `Strip`, footprints (shapely polygons in the flight's CRS) and overlaps with their standard uncertainty.
Ground is taken as level, at the height of take-off or where the caller says: overlap over a hill is smaller than what stands here.
Nothing looks into the pictures and nothing is judged here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Proj
from shapely import MultiPoint, Polygon, union_all

from drone.camera import rays
from drone.georeference import attitude_rotation, positions_of
from drone.types import Camera, Flight, Photo
from geoevidence.crs import transformer

Array = NDArray[np.float64]

_TURN_DEG = 35.0
_BREAK_STEPS = 4.0
"""A step of more than so many times the usual one begins another strip."""
_STANDING = 0.25
"""A step of less than this share of the usual one has no direction."""
_STEEPEST = math.cos(math.radians(75))
"""Rays nearer to the horizon than 15 degrees are shortened to it: they reach ground that no photo measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Photos of one camera flown one after the other in one direction. number: from 1. heading: grid azimuth of the flight, degrees, None
    for one photo."""

    number: int
    camera: str
    photos: tuple[str, ...]
    heading: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Share (1) of what one photo shows that another (along) or the next strip (across) shows too, and its standard uncertainty."""

    kind: Literal["along", "across"]
    first: str
    second: str
    strip: int
    other_strip: int
    value: float
    sd: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where the photos of a flight were and what they show.

    order: photo names as flown; ordered_by: what tells the order. places: name -> (E, N, U) m. heights: name -> m above level ground.
    footprints: name -> polygon in the flight's CRS. cameras: name -> id. nadir: photos without an attitude, taken as looking down.
    """

    order: tuple[str, ...]
    ordered_by: Literal["gnss_time", "camera_time", "name"]
    places: Mapping[str, Array]
    heights: Mapping[str, float]
    footprints: Mapping[str, Polygon]
    cameras: Mapping[str, str]
    strips: tuple[Strip, ...]
    nadir: tuple[str, ...]


def moment(photo: Photo) -> datetime | None:
    """Time of exposure: by GNSS, else of the camera's clock (as UTC where that names no zone); None without either."""
    if photo.exposed is not None:
        return photo.exposed
    if photo.taken is None:
        return None
    return photo.taken.astimezone(UTC) if photo.taken.tzinfo else photo.taken.replace(tzinfo=UTC)


def order_flown(photos: Sequence[Photo]) -> tuple[list[Photo], Literal["gnss_time", "camera_time", "name"]]:
    """The photos in the order flown, and what tells it: GNSS time if all have it, else the camera's clock, else the file names."""
    if all(photo.exposed is not None for photo in photos):
        return sorted(photos, key=lambda p: (p.exposed or datetime.min.replace(tzinfo=UTC), p.name)), "gnss_time"
    if all(photo.taken is not None for photo in photos) and len({p.taken.tzinfo is None for p in photos if p.taken}) == 1:
        return sorted(photos, key=lambda p: (p.taken or datetime.min, p.name)), "camera_time"
    return sorted(photos, key=lambda p: p.name), "name"


def lay_out(flight: Flight, *, height: float | None = None) -> Layout:
    """The layout of a flight. height: m above ground of photos that do not say theirs above take-off; without it they have no footprint."""
    photos, ordered_by = order_flown(flight.photos)
    places = positions_of(flight)
    strips = strips_of(flight)
    heading = {name: strip.heading for strip in strips for name in strip.photos}
    heights: dict[str, float] = {}
    footprints: dict[str, Polygon] = {}
    nadir = []
    for photo in photos:
        above = photo.relative_altitude if photo.relative_altitude is not None and photo.relative_altitude > 1 else height
        camera = flight.cameras[photo.camera_id]
        if photo.name not in places or photo.position is None or above is None or camera.focal_prior is None:
            continue
        turn = convergence(flight.crs, photo.position[0], photo.position[1])
        attitude = photo.attitude
        if attitude is None:
            nadir.append(photo.name)
            course = heading.get(photo.name)
            yaw = photo.flight_attitude[0] if photo.flight_attitude is not None else (course or 0.0) + turn
            attitude = (yaw, -90.0, 0.0)
        shape = footprint(camera, (attitude[0] - turn, attitude[1], attitude[2]), places[photo.name][:2], above)
        if shape is not None:
            heights[photo.name], footprints[photo.name] = above, shape
    return Layout(
        order=tuple(photo.name for photo in photos),
        ordered_by=ordered_by,
        places=places,
        heights=heights,
        footprints=footprints,
        cameras={photo.name: photo.camera_id for photo in photos},
        strips=strips,
        nadir=tuple(nadir),
    )


def strips_of(flight: Flight) -> tuple[Strip, ...]:
    """The strips of a flight, in the order flown; they need positions only."""
    photos, _ = order_flown(flight.photos)
    places = positions_of(flight)
    # Cameras on one aircraft shoot at once: each has strips of its own.
    ids = list(dict.fromkeys(photo.camera_id for photo in photos))
    found = [
        part
        for key in ids
        for part in _strips([photo.name for photo in photos if photo.name in places and photo.camera_id == key], key, places)
    ]
    rank = {photo.name: k for k, photo in enumerate(photos)}
    found.sort(key=lambda strip: rank[strip.photos[0]])
    return tuple(replace(strip, number=k) for k, strip in enumerate(found, start=1))


def convergence(crs: CRS, lon: float, lat: float) -> float:
    """Meridian convergence: degrees to add to a grid azimuth for the true one."""
    return float(Proj(crs).get_factors(lon, lat).meridian_convergence)


def footprint(camera: Camera, attitude: tuple[float, float, float], place: Array, height: float) -> Polygon | None:
    """What a photo shows of level ground `height` m below it; None where its middle looks within 15 degrees of the horizon.

    attitude: (yaw from grid north, pitch, roll) degrees. place: (E, N) m. Rays within 15 degrees of the horizon are shortened to that.
    """
    width, rows = camera.size
    edge = [(0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1), (0, 0.5)]
    pixels = np.array([(x * width, y * rows) for x, y in edge], float)
    world = rays(camera, pixels) @ attitude_rotation(attitude)
    world /= np.linalg.norm(world, axis=1, keepdims=True)
    level = np.hypot(world[:, 0], world[:, 1])
    if attitude_rotation(attitude)[2, 2] > -_STEEPEST:
        return None
    reach = (
        np.where(world[:, 2] < -_STEEPEST, level / np.maximum(-world[:, 2], _STEEPEST), math.tan(math.acos(_STEEPEST))) * height
    )
    ground = place + world[:, :2] / np.maximum(level, 1e-12)[:, None] * reach[:, None]
    shape = MultiPoint(ground).convex_hull
    return shape if isinstance(shape, Polygon) and shape.area > 0 else None


def _strips(names: Sequence[str], camera: str, places: Mapping[str, Array]) -> tuple[Strip, ...]:
    """Strips: a new one begins where the course turns by more than 35 degrees or a step is four times the usual one."""
    if not names:
        return ()
    points = np.array([places[name][:2] for name in names])
    steps = np.diff(points, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    usual = float(np.median(lengths)) if len(lengths) else 0.0
    groups: list[list[int]] = [[0]]
    for k, length in enumerate(lengths):
        current = groups[-1]
        along = points[current[-1]] - points[current[0]]
        moved = math.hypot(*along)
        breaks = length > _BREAK_STEPS * usual
        if not breaks and length > _STANDING * usual and moved > _STANDING * usual:
            cosine = float(steps[k] @ along) / (length * moved)
            breaks = cosine < math.cos(math.radians(_TURN_DEG))
        if breaks:
            # The step across to the next strip belongs to neither: a "strip" of the last photo and the next one is undone.
            if len(current) == 2 and len(groups) > 1:
                groups[-1] = [current[0]]
                groups.append([current[1]])
                current = groups[-1]
                along = points[k + 1] - points[current[-1]]
                groups[-1].append(k + 1)
                continue
            groups.append([k + 1])
        else:
            current.append(k + 1)
    result: list[Strip] = []
    for group in groups:
        along = points[group[-1]] - points[group[0]]
        moved = math.hypot(*along)
        heading = math.degrees(math.atan2(along[0], along[1])) % 360 if len(group) > 1 and moved > _STANDING * usual else None
        result.append(Strip(number=len(result) + 1, camera=camera, photos=tuple(names[i] for i in group), heading=heading))
    return tuple(result)


def overlaps(flight: Flight, layout: Layout, *, height_sd: float, without: Collection[str] = ()) -> tuple[Overlap, ...]:
    """Overlap of each photo with the next of its strip, and with the strip beside it, sorted by strip and order flown.

    without: photos that count as not taken. height_sd: m, of the height above ground. The uncertainty is that of two positions, taken
    as independent, and of the height; terrain is not in it.
    """
    photos = {photo.name: photo for photo in flight.photos}
    usable = [name for name in layout.order if name in layout.footprints and name not in without]
    found = []

    def sd_of(names: Sequence[str], value: float, other: Polygon) -> float:
        position = math.sqrt(sum(photos[name].position_sd[k] ** 2 for name in names for k in (0, 1)) / 2)
        length = math.sqrt(other.area)
        return math.hypot(position / length, (1 - value) * height_sd / layout.heights[names[0]])

    shapes = layout.footprints
    for strip in layout.strips:
        inside = [name for name in strip.photos if name in usable]
        for a, b in pairwise(inside):
            value = shapes[a].intersection(shapes[b]).area / min(shapes[a].area, shapes[b].area)
            sd = sd_of((a, b), value, shapes[a])
            found.append(
                Overlap(kind="along", first=a, second=b, strip=strip.number, other_strip=strip.number, value=value, sd=sd)
            )
    for one, other in _neighbours(layout, usable):
        names = [name for name in other.photos if name in usable]
        ground = union_all([shapes[name] for name in names])
        u = _direction(other, layout)
        reach = [float(layout.places[name][:2] @ u) for name in names]
        slack = (max(reach) - min(reach)) / max(len(reach) - 1, 1)
        for name in (n for n in one.photos if n in usable):
            # A photo ahead of or behind the other strip has no neighbour there.
            if not min(reach) - slack / 2 <= float(layout.places[name][:2] @ u) <= max(reach) + slack / 2:
                continue
            value = shapes[name].intersection(ground).area / shapes[name].area
            nearest = min(names, key=lambda n: float(np.hypot(*(layout.places[n] - layout.places[name])[:2])))
            sd = sd_of((name, nearest), value, shapes[name])
            found.append(
                Overlap(
                    kind="across",
                    first=name,
                    second=nearest,
                    strip=one.number,
                    other_strip=other.number,
                    value=value,
                    sd=sd,
                )
            )
    return tuple(found)


def _direction(strip: Strip, layout: Layout) -> Array:
    along = layout.places[strip.photos[-1]][:2] - layout.places[strip.photos[0]][:2]
    return np.asarray(along / np.hypot(*along))


def _neighbours(layout: Layout, usable: Collection[str]) -> list[tuple[Strip, Strip]]:
    """Pairs of strips side by side, each with the nearest on either hand: of nearly the same or the opposite course, and alongside.

    Strips on one line (flown on after a change of battery, or again) are no neighbours of each other.
    """
    long = [s for s in layout.strips if s.heading is not None and sum(name in usable for name in s.photos) >= 2]
    pairs = []
    for one in long:
        u = _direction(one, layout)
        right = np.array([u[1], -u[0]])
        names = [name for name in one.photos if name in usable]
        middle = np.mean([layout.places[name][:2] for name in names], axis=0)
        reach = [float((layout.places[name][:2] - middle) @ u) for name in names]
        width = math.sqrt(float(np.median([layout.footprints[name].area for name in names])))
        beside = []
        for other in long:
            if (
                other is one
                or other.camera != one.camera
                or abs(float(_direction(other, layout) @ u)) < math.cos(math.radians(20))
            ):
                continue
            local = np.array([layout.places[name][:2] for name in other.photos if name in usable]) - middle
            across = float(np.median(local @ right))
            alongside = (local @ u).max() > min(reach) and (local @ u).min() < max(reach)
            if abs(across) > 0.1 * width and alongside:
                beside.append((across, other))
        for side in (-1, 1):
            there = [(side * across, other) for across, other in beside if side * across > 0]
            nearest = min((across for across, _ in there), default=0.0)
            # All that lie as far off as the nearest one does: a strip may have been flown in pieces.
            pairs += [(one, other) for across, other in there if across < nearest + 0.1 * width]
    return pairs


def views(
    layout: Layout, *, without: Collection[str] = (), cell: float, bounds: tuple[float, float, float, float]
) -> NDArray[np.uint16]:
    """How many photos of one camera show each cell of a raster, the camera that shows it most, (rows, cols), row 0 in the north; bounds: (west, south, east, north) m."""
    west, south, east, north = bounds
    rows, cols = max(math.ceil((north - south) / cell), 1), max(math.ceil((east - west) / cell), 1)
    x = west + (np.arange(cols) + 0.5) * cell
    y = north - (np.arange(rows) + 0.5) * cell
    counts = {key: np.zeros((rows, cols), np.uint16) for key in sorted(set(layout.cameras.values()))}
    for name in sorted(layout.footprints):
        if name in without:
            continue
        corners = np.asarray(layout.footprints[name].exterior.coords)[:-1]
        # A convex polygon is where all its edges have the cell on the same side.
        r0, r1 = np.searchsorted(-y, (-corners[:, 1].max(), -corners[:, 1].min()))
        c0, c1 = np.searchsorted(x, (corners[:, 0].min(), corners[:, 0].max()))
        if r0 >= r1 or c0 >= c1:
            continue
        inside = np.ones((r1 - r0, c1 - c0), bool)
        following = np.roll(corners, -1, axis=0)
        sign = 1.0 if layout.footprints[name].exterior.is_ccw else -1.0
        for (ax, ay), (bx, by) in zip(corners, following, strict=True):
            inside &= sign * ((bx - ax) * (y[r0:r1, None] - ay) - (by - ay) * (x[None, c0:c1] - ax)) >= 0
        counts[layout.cameras[name]][r0:r1, c0:c1] += inside
    return np.maximum.reduce(list(counts.values()))


def geographic(crs: CRS, shape: Polygon) -> list[list[list[float]]]:
    """Coordinates of a GeoJSON polygon (longitude, latitude; 1e-8 degrees) of a polygon in `crs`."""
    to = transformer(crs, CRS.from_epsg(4326))
    rings = []
    for ring in (shape.exterior, *shape.interiors):
        lon, lat = to.transform(*np.asarray(ring.coords)[:, :2].T)
        rings.append([[round(float(a), 8), round(float(b), 8)] for a, b in zip(lon, lat, strict=True)])
    return rings
