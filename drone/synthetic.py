"""A small simulated drone flight with exact truth: the demonstration photos and the test bench of the reconstruction.

In: a `SiteConfig` (the ground) and a `FlightConfig` (camera, flight plan, errors) with a seed. Out: JPEGs with EXIF and
XMP as a drone writes them, ground control and check points, and a `FlightTruth`.

The site is a river bank of the Yangtze kind on a height field: water, sand, an excavated pit and a stockpile on a plane,
a levee with a road between kerbs, huts, trees, a field. Photos are ray-cast from that height field through a camera
with lens distortion (COLMAP's OPENCV model), 2 x 2 samples a pixel, with sun, cast shadows, a river that looks different
from every place, vignetting, exposure steps and noise. The sun stands where it stood at the stated time and place.

Conventions are those of `drone.types`. Site coordinates are (x east, y north) in m from the centre of the site.
Everything made here is marked as demonstration data (synthetic).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine
from numba import njit
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import IFDRational
from scipy.ndimage import gaussian_filter, maximum_filter

from drone.types import Camera, GroundPoint, Pose
from geoevidence.crs import parse_crs, transformer
from geoevidence.raster import Grid, Raster

MARK = "演示数据（合成） demonstration data (synthetic)"
_SENSOR_WIDTH_MM = 13.2
_RIVER_NORMAL = (0.8, 0.6)
_ROAD = 72.0
"""Distance of the road's axis from the mean waterline, m."""
ROAD_WIDTH = 6.0
"""Between the inner edges of the kerbs, m."""
_KERB = 0.18
_TARGET = 0.6
"""Side of a painted target, m."""

# Classes of the ground, in the order in which they are painted.
_SAND, _GRASS, _ASPHALT, _KERBSTONE, _FIELD, _ROOF_RED, _ROOF_BLUE, _ROOF_FLAT, _TREE, _FRESH, _GRAVEL, _WALL = range(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    """The ground.

    size: (east, north) extent, m. detail: spacing of the height field, m; the texture is twice as fine.
    crs: projected CRS. origin: (E, N) of the centre, m. height: ellipsoidal height of the sand at the pit, m.
    pit_centre, pit_radius, pit_depth: excavation, site coordinates and m; its sides slope at `slope_deg`.
    pile_centre, pile_radius, pile_height: stockpile, likewise.
    seed: of relief, texture, trees; the same seed is the same place, so two dates differ only in what is changed here.
    """

    size: tuple[float, float] = (130.0, 106.0)
    detail: float = 0.05
    crs: str = "EPSG:4547"
    origin: tuple[float, float] = (527000.0, 3360000.0)
    height: float = 25.0
    pit_centre: tuple[float, float] = (-6.0, 7.0)
    pit_radius: float = 10.5
    pit_depth: float = 3.6
    pile_centre: tuple[float, float] = (15.0, -15.0)
    pile_radius: float = 7.0
    pile_height: float = 3.8
    slope_deg: float = 34.0
    seed: int = 20241020

    def __post_init__(self) -> None:
        if not (self.detail > 0 and min(self.size) >= 100):
            raise ValueError("detail must be positive and the site at least 100 m on each side")
        if self.pit_depth < 0 or self.pile_height < 0 or min(self.pit_radius, self.pile_radius) <= 0:
            raise ValueError("depth and height must not be negative, radii must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightConfig:
    """Camera, plan and errors.

    image_size: (width, height) px. focal: px. principal_offset: (col, row) from the image centre, px.
    distortion: (k1, k2, p1, p2). gsd: on the sand, m; sets the flying height.
    strips, photos_per_strip; forward_overlap, side_overlap: shares of the footprint (1).
    pitch_deg: of the gimbal, -90 = nadir. attitude_sd_deg, position_sd: how far photos are off the plan (1 sigma).
    gps: "gps" (errors of `gps_sd`) or "rtk" (`rtk_sd`); sd as (horizontal, vertical) m, horizontal per axis;
    four fifths of the variance is common to the flight for "gps", none for "rtk".
    start: first exposure, aware. interval_s: between exposures.
    exposure_sd: relative, per photo. noise: of a pixel at middle grey, grey levels. quality: of the JPEG.
    control_points, check_points: painted targets of each role, at most 6 and 6. target_sd: (horizontal, vertical) m error of the
    survey. mark_sd: error of a marked pixel, px.
    """

    image_size: tuple[int, int] = (1200, 900)
    focal: float = 985.0
    principal_offset: tuple[float, float] = (4.2, -3.1)
    distortion: tuple[float, float, float, float] = (-0.032, 0.011, 0.0003, -0.0002)
    gsd: float = 0.05
    strips: int = 4
    photos_per_strip: int = 6
    forward_overlap: float = 0.80
    side_overlap: float = 0.70
    pitch_deg: float = -90.0
    attitude_sd_deg: float = 1.2
    position_sd: float = 0.35
    gps: Literal["gps", "rtk"] = "gps"
    gps_sd: tuple[float, float] = (1.5, 3.0)
    rtk_sd: tuple[float, float] = (0.02, 0.03)
    start: datetime = datetime(2024, 10, 20, 11, 30, 0, tzinfo=timezone(timedelta(hours=8)))
    interval_s: float = 3.0
    exposure_sd: float = 0.04
    noise: float = 1.3
    quality: int = 90
    control_points: int = 6
    check_points: int = 5
    target_sd: tuple[float, float] = (0.01, 0.015)
    mark_sd: float = 0.15

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ValueError("the start must be aware")
        if self.gps not in ("gps", "rtk"):
            raise ValueError(f"gps is {self.gps}")
        if not (0 <= self.control_points <= 6 and 0 <= self.check_points <= 6):
            raise ValueError("there are at most six control and six check points")
        if not (0 < self.forward_overlap < 1 and 0 < self.side_overlap < 1 and self.gsd > 0):
            raise ValueError("overlaps lie in (0, 1) and the gsd is positive")

    @property
    def params(self) -> tuple[float, ...]:
        """fx, fy, cx, cy, k1, k2, p1, p2 of COLMAP's OPENCV model."""
        width, height = self.image_size
        cx, cy = width / 2 + self.principal_offset[0], height / 2 + self.principal_offset[1]
        return (self.focal, self.focal, cx, cy, *self.distortion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Excavation or stockpile.

    outline: (E, N) m, closed. area: of the outline, m2. volume: between the surface and the plane of the rim, m3.
    """

    outline: tuple[tuple[float, float], ...]
    area: float
    volume: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """The ground in detail. Rows run north (row 0 is the south edge); node (row, col) lies at corner + (col, row) * detail.

    heights: (rows, cols) float32 ellipsoidal height, m; the water surface over water.
    texture: (2 rows, 2 cols, 3) uint8, square root of the linear reflectance.
    water: (rows, cols) bool. kind: (rows, cols) uint8. corner: (x, y) of node (0, 0), site coordinates.
    """

    config: SiteConfig
    heights: NDArray[np.float32]
    texture: NDArray[np.uint8]
    water: NDArray[np.bool_]
    kind: NDArray[np.uint8]
    corner: tuple[float, float]
    targets: tuple[tuple[str, str, float, float, float], ...]
    """(name, role, x, y, height) of each painted target."""
    pit: Body
    pile: Body
    water_level: float
    buildings: tuple[tuple[float, float, float, float, float, float], ...]
    """(x, y, length, width, turn rad, height m above ground) of each hut."""

    @property
    def dsm(self) -> Raster:
        """The true surface, one band float32 m, north up; cells are centred on the nodes."""
        d = self.config.detail
        rows, cols = self.heights.shape
        west = self.config.origin[0] + self.corner[0] - d / 2
        north = self.config.origin[1] + self.corner[1] + (rows - 0.5) * d
        grid = Grid(shape=(rows, cols), transform=Affine(d, 0, west, 0, -d, north), crs=parse_crs(self.config.crs))
        return Raster(data=np.ascontiguousarray(self.heights[::-1])[None], grid=grid, nodata=None, unit="m")

    @property
    def water_mask(self) -> NDArray[np.bool_]:
        """(rows, cols) on the grid of `dsm`, True over the river."""
        return np.ascontiguousarray(self.water[::-1])

    def heights_at(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ellipsoidal heights (n,) at world positions (n, 2) (E, N), bilinear."""
        local = np.asarray(xy, np.float64) - np.array(self.config.origin)
        return _heights_along(self.heights, self.corner[0], self.corner[1], self.config.detail, local)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlightTruth:
    """What is true about a rendered flight.

    poses: photo name -> Pose. camera: OPENCV model. ground_points: surveyed positions (with survey error), noisy marks.
    targets: name -> true position (E, N, U) m. marks: name -> photo -> exact (col, row).
    sun: (azimuth, elevation) degrees in the middle of the flight.
    """

    config: FlightConfig
    site: Site
    seed: int
    poses: Mapping[str, Pose]
    camera: Camera
    ground_points: tuple[GroundPoint, ...]
    targets: Mapping[str, tuple[float, float, float]]
    marks: Mapping[str, Mapping[str, tuple[float, float]]]
    sun: tuple[float, float]
    times: Mapping[str, datetime] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready truth; numbers rounded to 1e-6 m, 1e-4 px."""
        site = self.site
        east, north = site.config.origin
        return {
            "synthetic": MARK,
            "crs": site.config.crs,
            "height_kind": "ellipsoidal",
            "seed": self.seed,
            "camera": {"model": "OPENCV", "params": list(self.camera.params), "size": list(self.camera.size)},
            "sun": {"azimuth_deg": round(self.sun[0], 3), "elevation_deg": round(self.sun[1], 3)},
            "photos": {
                name: {
                    "R": [[round(float(v), 12) for v in row] for row in pose.R],
                    "C": [round(float(v), 6) for v in pose.C],
                    "time": self.times[name].isoformat(),
                }
                for name, pose in sorted(self.poses.items())
            },
            "targets": {
                name: {
                    "position": [round(v, 6) for v in position],
                    "pixels": {photo: [round(v, 4) for v in mark] for photo, mark in sorted(self.marks[name].items())},
                }
                for name, position in sorted(self.targets.items())
            },
            "pit": _body_dict(site.pit),
            "pile": _body_dict(site.pile),
            "water": {"level": round(site.water_level, 6), "area_m2": round(float(site.water.sum()) * site.config.detail**2, 3)},
            "road_width_m": ROAD_WIDTH,
            "buildings": [
                {
                    "centre": [round(east + x, 6), round(north + y, 6)],
                    "length_m": length,
                    "width_m": width,
                    "turn_deg": round(float(np.degrees(turn)), 6),
                    "height_m": height,
                }
                for x, y, length, width, turn, height in site.buildings
            ],
        }


def _body_dict(body: Body) -> dict[str, Any]:
    return {
        "area_m2": round(body.area, 4),
        "volume_m3": round(body.volume, 4),
        "outline": [[round(x, 4), round(y, 4)] for x, y in body.outline],
    }


# --------------------------------------------------------------------------------------------------------------------
# Procedural noise


@njit(cache=True)
def _hash(ix: int, iy: int, seed: int) -> float:
    """Uniform number in [0, 1) of a lattice point: integer finaliser after Steele et al. 2014 (SplitMix64)."""
    h = (
        np.uint64(ix) * np.uint64(0x9E3779B97F4A7C15)
        ^ np.uint64(iy) * np.uint64(0xC2B2AE3D27D4EB4F)
        ^ np.uint64(seed) * np.uint64(0x165667B19E3779F9)
    )
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h = h ^ (h >> np.uint64(31))
    return float(h >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def _value_noise(x: float, y: float, seed: int) -> float:
    """Smooth noise in [-1, 1] with lattice spacing 1."""
    fx, fy = np.floor(x), np.floor(y)
    ix, iy = int(fx), int(fy)
    u, v = x - fx, y - fy
    u = u * u * u * (u * (u * 6 - 15) + 10)
    v = v * v * v * (v * (v * 6 - 15) + 10)
    a, b = _hash(ix, iy, seed), _hash(ix + 1, iy, seed)
    c, d = _hash(ix, iy + 1, seed), _hash(ix + 1, iy + 1, seed)
    return 2 * (a + (b - a) * u + (c - a) * v + (a - b - c + d) * u * v) - 1


@njit(cache=True)
def _fractal(x: float, y: float, longest: float, octaves: int, gain: float, seed: int) -> float:
    """Sum of octaves from wavelength `longest` down, each turned by 37 degrees so that no lattice shows; sd about 0.4."""
    total, amplitude, norm = 0.0, 1.0, 0.0
    x, y = x / longest, y / longest
    for k in range(octaves):
        total += amplitude * _value_noise(x, y, seed + 31 * k)
        norm += amplitude * amplitude
        amplitude *= gain
        x, y = 2.03 * (0.7986 * x - 0.6018 * y) + 17.3, 2.03 * (0.6018 * x + 0.7986 * y) - 5.1
    return total / np.sqrt(norm)


@njit(cache=True)
def _spots(x: float, y: float, spacing: float, share: float, seed: int) -> float:
    """Random round spots (stones, tufts): 0 outside, up to 1 inside; one candidate a cell, `share` of the cells hold one."""
    x, y = x / spacing, y / spacing
    ix, iy = int(np.floor(x)), int(np.floor(y))
    best = 0.0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            cx, cy = ix + dx, iy + dy
            if _hash(cx, cy, seed) < share:
                px = cx + 0.5 + 0.7 * (_hash(cx, cy, seed + 1) - 0.5)
                py = cy + 0.5 + 0.7 * (_hash(cx, cy, seed + 2) - 0.5)
                radius = 0.15 + 0.35 * _hash(cx, cy, seed + 3)
                reach = np.sqrt((x - px) ** 2 + (y - py) ** 2) / radius
                if reach < 1:
                    best = max(best, (1 - reach * reach) * (0.4 + 0.6 * _hash(cx, cy, seed + 4)))
    return best


@njit(cache=True)
def _fractal_grid(
    rows: int, cols: int, x0: float, y0: float, step: float, longest: float, octaves: int, gain: float, seed: int
) -> NDArray[Any]:
    out = np.empty((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            out[r, c] = _fractal(x0 + c * step, y0 + r * step, longest, octaves, gain, seed)
    return out


# --------------------------------------------------------------------------------------------------------------------
# The site


_BUILDINGS = (  # x, y, length, width, turn (deg), height, class
    (42.0, 34.0, 11.0, 7.0, 37.0, 4.2, _ROOF_RED),
    (56.5, 17.5, 9.0, 6.5, 37.0, 3.6, _ROOF_FLAT),
    (56.0, 33.5, 8.0, 6.0, 127.0, 5.4, _ROOF_RED),
    (2.5, 24.0, 6.1, 2.44, 20.0, 2.6, _ROOF_BLUE),
)
_TARGETS = (  # name, role, x, y
    ("G1", "control", -27.0, 26.0),
    ("G2", "control", 39.5, 7.9),
    ("G3", "control", -9.5, -24.0),
    ("G4", "control", 26.5, 25.4),
    ("G5", "control", 31.0, -27.5),
    ("G6", "control", 3.0, -5.5),
    ("C1", "check", -25.5, 9.0),
    ("C2", "check", 13.0, 14.5),
    ("C3", "check", 31.0, -10.5),
    ("C4", "check", 3.0, 31.5),
    ("C5", "check", 8.0, -28.0),
    ("C6", "check", -14.0, 32.0),
)


def _radial(x: NDArray[Any], y: NDArray[Any], centre: tuple[float, float], radius: float, seed: float) -> NDArray[Any]:
    """Distance from the centre as a share of the outline's radius in that direction (1 on the outline)."""
    dx, dy = x - centre[0], y - centre[1]
    angle = np.arctan2(dy, dx)
    outline = radius * (
        1 + 0.16 * np.cos(2 * angle - 0.7 - seed) + 0.06 * np.cos(3 * angle + 1.1 + seed) + 0.025 * np.cos(5 * angle + 2 * seed)
    )
    return np.hypot(dx, dy) / outline


def _outline(config: SiteConfig, centre: tuple[float, float], radius: float, seed: float) -> tuple[tuple[float, float], ...]:
    angle = np.linspace(0, 2 * np.pi, 181)
    unit = 1.0 / _radial(centre[0] + np.cos(angle), centre[1] + np.sin(angle), centre, radius, seed)
    x = config.origin[0] + centre[0] + unit * np.cos(angle)
    y = config.origin[1] + centre[1] + unit * np.sin(angle)
    return tuple((float(a), float(b)) for a, b in zip(x, y, strict=True))


def _ring_area(ring: tuple[tuple[float, float], ...]) -> float:
    x, y = np.array(ring).T
    x, y = x - x[0], y - y[0]
    return float(0.5 * abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])))


def _river_distance(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    along = -_RIVER_NORMAL[1] * x + _RIVER_NORMAL[0] * y
    bend = 2.2 * np.sin(along / 14.0 + 0.5) + 0.9 * np.sin(along / 5.1) + 1.2 * np.sin(along / 31.0 + 2)
    straight = _RIVER_NORMAL[0] * x + _RIVER_NORMAL[1] * y + 34.0
    # The levee is built straight; the water's edge bends.
    return straight + bend * np.clip(1 - straight / 40.0, 0, 1)


def build_site(config: SiteConfig) -> Site:
    """Relief, texture and bodies of known volume; takes about ten seconds at the default detail."""
    d = config.detail
    cols, rows = (round(s / d) + 1 for s in config.size)
    corner = (-0.5 * (cols - 1) * d, -0.5 * (rows - 1) * d)
    x = (corner[0] + np.arange(cols) * d)[None, :]
    y = (corner[1] + np.arange(rows) * d)[:, None]
    distance = _river_distance(x, y)
    rng = np.random.default_rng(config.seed)
    seed = int(rng.integers(1 << 30))

    # Profile across the bank relative to the plane at the pit: bed, beach, sand plane, levee, field.
    stations = [-60, -8, 0, 6, 13, 58, 66, 68, 76, 78, 87, 130]
    levels = [-8.5, -5.6, -4.3, -2.3, -0.62, 0.10, 3.3, 3.45, 3.45, 3.3, 1.2, 1.5]
    plane = -0.62 + (0.72 / 45.0) * (_RIVER_NORMAL[0] * x + _RIVER_NORMAL[1] * y + 34.0 - 13.0)
    base = np.interp(distance, stations, levels)
    base = gaussian_filter(base, 0.35 / d, mode="nearest")
    on_plane = np.clip((distance - 12) / 3, 0, 1) * np.clip((57 - distance) / 1.5, 0, 1)
    base = plane * on_plane + base * (1 - on_plane)

    pit_s = _radial(x, y, config.pit_centre, config.pit_radius, 0.0)
    pile_s = _radial(x, y, config.pile_centre, config.pile_radius, 2.1)
    # Relief of the sand fades out around the bodies, so that the plane of their rim is exact.
    away = np.clip(
        (np.minimum(pit_s * config.pit_radius - config.pit_radius, pile_s * config.pile_radius - config.pile_radius) - 1.2) / 3.0,
        0,
        1,
    )
    dunes = 0.22 * _fractal_grid(rows, cols, corner[0], corner[1], d, 9.0, 4, 0.45, seed)
    rough = 0.012 * _fractal_grid(rows, cols, corner[0], corner[1], d, 0.7, 4, 0.7, seed + 500)
    axis = _RIVER_NORMAL[0] * x + _RIVER_NORMAL[1] * y + 34.0 - _ROAD
    half = ROAD_WIDTH / 2
    road = np.abs(axis) <= half
    kerb = (np.abs(axis) > half) & (np.abs(axis) <= half + _KERB)
    kind = np.full((rows, cols), _SAND, np.uint8)
    grass_edge = 57.5 + 1.8 * _fractal_grid(rows, cols, corner[0], corner[1], d, 4.0, 3, 0.6, seed + 900)
    kind[distance > grass_edge] = _GRASS
    kind[distance > 89.5] = _FIELD
    heights = base + (dunes * np.interp(distance, [54, 64], [1.0, 0.25]) + rough) * away
    tufts = np.where((kind == _GRASS) | (kind == _FIELD), 1.0, 0.0)
    heights = heights + 0.045 * tufts * _fractal_grid(rows, cols, corner[0], corner[1], d, 0.5, 4, 0.8, seed + 1300)
    # Ridges of the field run along the levee.
    heights = heights + np.where(kind == _FIELD, 0.06 * np.cos(2 * np.pi * axis / 0.9), 0)
    heights[road] = 3.47 - 0.02 * np.abs(axis[road]) / half
    heights[kerb] = 3.60
    kind[road], kind[kerb] = _ASPHALT, _KERBSTONE

    slope = np.tan(np.radians(config.slope_deg))
    coarse = _fractal_grid(rows, cols, corner[0], corner[1], d, 1.8, 5, 0.6, seed + 1700)
    inside = np.clip((1 - pit_s) * config.pit_radius, 0, None)
    dig = np.minimum(inside * slope, config.pit_depth) * (1 + 0.05 * np.clip(inside / 2, 0, 1) * coarse)
    inside = np.clip((1 - pile_s) * config.pile_radius, 0, None)
    heap = np.minimum(inside * slope, config.pile_height) * (1 + 0.06 * np.clip(inside / 2, 0, 1) * coarse)
    heights = heights - dig + heap
    kind[pit_s < 1.0], kind[pile_s < 1.0] = _FRESH, _GRAVEL
    cell = d * d
    pit = Body(
        outline=(ring := _outline(config, config.pit_centre, config.pit_radius, 0.0)),
        area=_ring_area(ring),
        volume=float(dig.sum()) * cell,
    )
    pile = Body(
        outline=(ring := _outline(config, config.pile_centre, config.pile_radius, 2.1)),
        area=_ring_area(ring),
        volume=float(heap.sum()) * cell,
    )

    heights = _plant(config, heights, kind, distance, x, y, rng, seed)
    buildings = []
    for bx, by, length, width, turn_deg, height, roof in _BUILDINGS:
        turn = np.radians(turn_deg)
        u = (x - bx) * np.cos(turn) + (y - by) * np.sin(turn)
        v = -(x - bx) * np.sin(turn) + (y - by) * np.cos(turn)
        foot = (np.abs(u) <= length / 2) & (np.abs(v) <= width / 2)
        if not foot.any():
            continue
        ground = float(np.interp(_river_distance(np.array(bx), np.array(by)), stations, levels))
        heights[foot] = ground + height
        kind[foot] = roof
        buildings.append((bx, by, length, width, float(turn), height))

    water_level = -4.3
    water = (heights < water_level) & (distance < 10)
    heights[water] = water_level
    targets = []
    for name, role, tx, ty in _TARGETS:
        near = np.hypot(x - tx, y - ty)
        r, c = round((ty - corner[1]) / d), round((tx - corner[0]) / d)
        flat = float(heights[r - 4 : r + 5, c - 4 : c + 5].mean())
        blend = np.clip((near - 0.55) / 0.25, 0, 1)
        heights = np.where(near < 0.8, flat * (1 - blend) + heights * blend, heights)
        targets.append((name, role, tx, ty, flat + config.height))
    heights = heights.astype(np.float32)
    texture = _paint(
        heights, kind, water, corner, d, seed, np.array([[t[2], t[3]] for t in targets]), distance.astype(np.float32), _TARGET
    )
    return Site(
        config=config,
        heights=(heights + np.float32(config.height)),
        texture=texture,
        water=water,
        kind=kind,
        corner=corner,
        targets=tuple(targets),
        pit=pit,
        pile=pile,
        water_level=water_level + config.height,
        buildings=tuple(buildings),
    )


def _plant(
    config: SiteConfig,
    heights: NDArray[Any],
    kind: NDArray[np.uint8],
    distance: NDArray[Any],
    x: NDArray[Any],
    y: NDArray[Any],
    rng: np.random.Generator,
    seed: int,
) -> NDArray[Any]:
    """Trees and shrubs as lumpy crowns on the height field; keeps clear of road, bodies, targets and huts."""
    d = config.detail
    crowns: list[tuple[float, float, float]] = []
    half_x, half_y = config.size[0] / 2 - 4, config.size[1] / 2 - 4
    for _ in range(4000):
        px, py, pick = rng.uniform(-half_x, half_x), rng.uniform(-half_y, half_y), rng.uniform()
        radius = rng.uniform(1.3, 2.9)
        at = float(_river_distance(np.array(px), np.array(py)))
        if at > 92 and pick < 0.35:
            pass
        elif 82 < at < 91 and pick < 0.5:
            radius *= 0.7
        elif 52 < at < 61 and pick < 0.22:
            radius *= 0.42
        else:
            continue
        if any(np.hypot(px - a, py - b) < 0.85 * (radius + r) for a, b, r in crowns):
            continue
        if any(np.hypot(px - b[0], py - b[1]) < radius + 0.62 * b[2] + 0.3 for b in _BUILDINGS):
            continue
        if any(np.hypot(px - t[2], py - t[3]) < radius + 2.8 for t in _TARGETS):
            continue
        if abs(_RIVER_NORMAL[0] * px + _RIVER_NORMAL[1] * py + 34.0 - _ROAD) < ROAD_WIDTH / 2 + radius + 0.5:
            continue
        crowns.append((px, py, radius))
    corner = (float(x[0, 0]), float(y[0, 0]))
    for px, py, radius in crowns:
        reach = 1.25 * radius
        c0, c1 = (int(np.clip((px + s * reach - corner[0]) / d, 0, heights.shape[1])) for s in (-1, 1))
        r0, r1 = (int(np.clip((py + s * reach - corner[1]) / d, 0, heights.shape[0])) for s in (-1, 1))
        if r1 - r0 < 3 or c1 - c0 < 3:
            continue
        window = (slice(r0, r1), slice(c0, c1))
        lumps = _fractal_grid(r1 - r0, c1 - c0, corner[0] + c0 * d, corner[1] + r0 * d, d, 0.9, 4, 0.65, seed + 2100)
        s = np.hypot(x[:, c0:c1] - px, y[r0:r1] - py) / (radius * (1 + 0.16 * lumps))
        crown = np.sqrt(np.clip(1 - s * s, 0, None)) * radius * 1.15 + 0.35 * radius
        top = heights[window] + crown * (1 + 0.10 * lumps)
        heights[window] = np.where(s < 1, top, heights[window])
        kind[window] = np.where(s < 1, _TREE, kind[window])
    return heights


@njit(cache=True)
def _mix(rgb: NDArray[Any], r: float, g: float, b: float, share: float) -> None:
    rgb[0] += (r - rgb[0]) * share
    rgb[1] += (g - rgb[1]) * share
    rgb[2] += (b - rgb[2]) * share


@njit(cache=True)
def _colour(rgb: NDArray[Any], k: int, x: float, y: float, z: float, axis: float, dist: float, seed: int) -> None:
    """Linear reflectance of the ground at one place into rgb."""
    large = _fractal(x, y, 14.0, 4, 0.6, seed + 3)
    mid = _fractal(x, y, 1.6, 4, 0.7, seed + 5)
    fine = _fractal(x, y, 0.32, 3, 0.8, seed + 7)
    if k == 0 or k == 9 or k == 10:
        # Sand; fresher and layered in the pit, greyer and stony in the pile.
        rgb[0], rgb[1], rgb[2] = 0.44, 0.36, 0.25
        light = 1 + 0.17 * large + 0.17 * mid + 0.27 * fine
        if k == 9:
            rgb[0], rgb[1], rgb[2] = 0.47, 0.37, 0.24
            light += 0.16 * np.sin(z * 9.0 + 2.5 * mid) * 0.6 + 0.05 * _value_noise(z * 14.0, 0.3 * x, seed + 11)
        if k == 10:
            rgb[0], rgb[1], rgb[2] = 0.41, 0.37, 0.30
            light += 0.10 * fine
        rgb *= max(light, 0.25)
        ripple = _value_noise(x * 1.3 + 3.0 * y + 1.2 * mid, 0.35 * x - 0.2 * y, seed + 13)
        if k == 0:
            rgb *= 1 + 0.07 * ripple
        stone = _spots(x, y, 0.42, 0.30 if k == 10 else 0.16, seed + 17)
        _mix(rgb, 0.22, 0.20, 0.18, 0.65 * stone)
        pebble = _spots(x, y, 0.17, 0.35 if k == 10 else 0.20, seed + 19)
        _mix(rgb, 0.62, 0.58, 0.50, 0.55 * pebble)
        if k == 0:
            # Wet near the water, dry and weedy towards the levee.
            wet = 1 / (1 + np.exp((z + 3.7 + 0.10 * mid) / 0.10))
            rgb *= 1 - 0.45 * wet
            share = min(max((dist - 12.0) / 75.0 + 0.25 * large, 0.0), 0.6)
            weed = _spots(x + 0.22 * mid + 0.07 * fine, y - 0.22 * mid + 0.09 * fine, 1.3, share, seed + 23)
            weed = max(weed, 0.9 * _spots(x + 0.08 * fine, y + 0.08 * mid, 0.55, 0.6 * share, seed + 25))
            _mix(rgb, 0.12, 0.17, 0.05, min(max(weed * (1.6 + 1.5 * fine) - 0.15, 0.0), 1.0))
            # Drift wood and reed left by the last flood, in a line along the bank.
            line = abs(dist - 9.5 - 1.3 * mid - 2.0 * large)
            if line < 0.7 and fine + 0.5 * mid > 0.1:
                _mix(rgb, 0.10, 0.075, 0.05, 0.75 * (1 - line / 0.7))
            # Wheel tracks that lead from the pit and past the pile along the bank.
            for lane in range(2):
                u, v = 0.8 * y - 0.6 * x, 0.8 * x + 0.6 * y
                path = v - (10.5 if lane == 0 else 13.5) - 3.2 * np.sin(u / 13.0 + 1.1 * lane) - 0.05 * u
                off = min(abs(path - 0.95), abs(path + 0.95))
                if off < 0.34:
                    tread = 0.5 + 0.5 * np.sin(u * 24.0 + 3.0 * path)
                    _mix(
                        rgb,
                        0.24,
                        0.185,
                        0.12,
                        min(max((0.42 + 0.25 * tread + 0.35 * fine + 0.3 * mid) * (1 - off / 0.34) * 1.5, 0.0), 0.85),
                    )
    elif k == 1:
        rgb[0], rgb[1], rgb[2] = 0.115, 0.165, 0.050
        dry = min(max(0.45 + 0.5 * large + 0.35 * mid, 0.0), 1.0)
        _mix(rgb, 0.27, 0.24, 0.11, 0.75 * dry)
        rgb *= max(1 + 0.32 * mid + 0.38 * fine, 0.2)
        _mix(rgb, 0.33, 0.27, 0.18, 0.8 * max(0.0, mid * 1.6 - 0.55))
        _mix(rgb, 0.05, 0.10, 0.03, 0.7 * _spots(x, y, 0.6, 0.25, seed + 29))
        _mix(rgb, 0.55, 0.50, 0.20, 0.7 * _spots(x, y, 0.35, 0.05, seed + 31))
    elif k == 2:
        rgb[0], rgb[1], rgb[2] = 0.135, 0.135, 0.138
        rgb *= max(1 + 0.14 * large + 0.10 * mid + 0.18 * fine, 0.3)
        rgb *= 1 + 0.20 * _fractal(x, y, 0.09, 1, 1.0, seed + 37)
        patch = _value_noise(x / 3.3 + 0.2 * y, y / 2.1, seed + 41)
        if patch > 0.55:
            rgb *= 0.72
        crack = abs(_fractal(x, y, 2.4, 4, 0.55, seed + 43))
        if crack < 0.018:
            rgb *= 0.45
        along = -0.6 * x + 0.8 * y
        if abs(axis) < 0.075 and along % 6.0 < 3.0:
            _mix(rgb, 0.72, 0.70, 0.62, 0.85 + 0.15 * fine)
        _mix(rgb, 0.40, 0.34, 0.25, 0.6 * max(0.0, (abs(axis) - 2.2) / 0.8) * max(0.0, 0.4 + mid))
    elif k == 3:
        rgb[0], rgb[1], rgb[2] = 0.52, 0.51, 0.47
        rgb *= max(1 + 0.15 * mid + 0.15 * fine, 0.3)
        if (-0.6 * x + 0.8 * y) % 1.0 < 0.03:
            rgb *= 0.5
    elif k == 4:
        row = 0.5 + 0.5 * np.cos(2 * np.pi * axis / 0.9)
        rgb[0], rgb[1], rgb[2] = 0.20, 0.15, 0.095
        rgb *= max(1 + 0.25 * mid + 0.30 * fine, 0.3)
        leaf = row * (0.55 + 0.7 * mid + 0.6 * fine + 0.5 * large)
        _mix(rgb, 0.09, 0.20, 0.045, min(max(1.5 * leaf - 0.3, 0.0), 0.95))
        _mix(rgb, 0.20, 0.34, 0.09, 0.6 * row * _spots(x, y, 0.45, 0.5, seed + 47))
    elif k == 5 or k == 6:
        turn = 0.6435 if k == 5 else 0.349
        u = x * np.cos(turn) + y * np.sin(turn)
        if k == 5:
            rgb[0], rgb[1], rgb[2] = 0.33, 0.115, 0.075
            rgb *= 1 + 0.28 * np.sin(2 * np.pi * u / 0.33)
        else:
            rgb[0], rgb[1], rgb[2] = 0.07, 0.16, 0.33
            rgb *= 1 + 0.18 * np.sin(2 * np.pi * u / 0.30)
        rgb *= max(1 + 0.20 * large + 0.22 * mid + 0.20 * fine, 0.2)
        _mix(rgb, 0.30, 0.24, 0.18, 0.5 * max(0.0, mid * 1.5 - 0.3))
    elif k == 7:
        rgb[0], rgb[1], rgb[2] = 0.36, 0.35, 0.33
        rgb *= max(1 + 0.15 * large + 0.2 * mid + 0.16 * fine, 0.2)
        _mix(rgb, 0.12, 0.12, 0.12, 0.7 * max(0.0, mid * 1.8 - 0.6))
        _mix(rgb, 0.55, 0.56, 0.58, _spots(x, y, 1.7, 0.25, seed + 53))
    elif k == 8:
        rgb[0], rgb[1], rgb[2] = 0.060, 0.125, 0.035
        rgb *= max(1 + 0.30 * large + 0.40 * mid + 0.50 * fine, 0.15)
        _mix(rgb, 0.19, 0.26, 0.06, 0.7 * _spots(x, y, 0.30, 0.45, seed + 59))
        _mix(rgb, 0.02, 0.04, 0.015, 0.8 * _spots(x, y, 0.38, 0.25, seed + 61))
        _mix(rgb, 0.26, 0.20, 0.05, 0.5 * max(0.0, large))


@njit(cache=True)
def _paint(
    heights: NDArray[Any],
    kind: NDArray[Any],
    water: NDArray[Any],
    corner: tuple[float, float],
    d: float,
    seed: int,
    targets: NDArray[Any],
    distance: NDArray[Any],
    side: float,
) -> NDArray[Any]:
    rows, cols = heights.shape
    out = np.zeros((2 * rows, 2 * cols, 3), np.uint8)
    rgb = np.zeros(3)
    for r in range(2 * rows):
        hr = r // 2
        y = corner[1] + (r - 0.5) * d / 2
        for c in range(2 * cols):
            hc = c // 2
            if water[hr, hc]:
                continue
            x = corner[0] + (c - 0.5) * d / 2
            axis = 0.8 * x + 0.6 * y + 34.0 - 72.0
            _colour(rgb, kind[hr, hc], x, y, heights[hr, hc], axis, distance[hr, hc], seed)
            for b in range(3):
                out[r, c, b] = int(min(max(np.sqrt(max(rgb[b], 0.0)) * 255 + 0.5, 0.0), 255.0))
    # Targets: four quadrants black and white on a grey border, 16 samples a texel.
    for t in range(targets.shape[0]):
        tx, ty = targets[t, 0], targets[t, 1]
        c_mid, r_mid = int((tx - corner[0]) / d * 2), int((ty - corner[1]) / d * 2)
        reach = int(side / d * 2)
        for r in range(max(r_mid - reach, 0), min(r_mid + reach, 2 * rows)):
            for c in range(max(c_mid - reach, 0), min(c_mid + reach, 2 * cols)):
                cover, white = 0.0, 0.0
                for sy in range(4):
                    for sx in range(4):
                        px = corner[0] + (c - 1 + (sx + 0.5) / 4) * d / 2 - tx
                        py = corner[1] + (r - 1 + (sy + 0.5) / 4) * d / 2 - ty
                        if abs(px) <= side / 2 and abs(py) <= side / 2:
                            cover += 1 / 16
                            if (px >= 0) == (py >= 0):
                                white += 1 / 16
                if cover > 0:
                    for b in range(3):
                        was = (out[r, c, b] / 255.0) ** 2
                        now = was * (1 - cover) + 0.75 * white + 0.03 * (cover - white)
                        out[r, c, b] = int(np.sqrt(now) * 255 + 0.5)
    return out


# --------------------------------------------------------------------------------------------------------------------
# Light


def sun_position(moment: datetime, lon: float, lat: float) -> tuple[float, float]:
    """(azimuth clockwise from north, elevation) of the sun in degrees, without refraction, to about 0.02 degrees.

    Source: The Astronomical Almanac, low-precision formulas for the sun.
    """
    n = (moment.astimezone(UTC) - datetime(2000, 1, 1, 12, tzinfo=UTC)).total_seconds() / 86400.0
    mean, anomaly = np.radians(280.460 + 0.9856474 * n), np.radians(357.528 + 0.9856003 * n)
    ecliptic = mean + np.radians(1.915) * np.sin(anomaly) + np.radians(0.020) * np.sin(2 * anomaly)
    tilt = np.radians(23.439 - 0.0000004 * n)
    ascension = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(tilt) * np.sin(ecliptic))
    sidereal = np.radians((280.46061837 + 360.98564736629 * n + lon) % 360)
    hour, phi = sidereal - ascension, np.radians(lat)
    elevation = np.arcsin(np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour))
    azimuth = np.arctan2(-np.sin(hour), np.tan(declination) * np.cos(phi) - np.sin(phi) * np.cos(hour))
    return float(np.degrees(azimuth) % 360), float(np.degrees(elevation))


@njit(cache=True)
def _cast_shadow(heights: NDArray[Any], d: float, east: float, north: float, rise: float, top: float) -> NDArray[Any]:
    """1 where the sun reaches a node, 0 in shadow. (east, north): unit vector towards the sun; rise: tan(elevation)."""
    rows, cols = heights.shape
    lit = np.ones((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            z = float(heights[r, c])
            steps = int((top - z) / (rise * d)) + 1
            for s in range(1, steps):
                rr, cc = int(r + north * s + 0.5), int(c + east * s + 0.5)
                if rr < 0 or cc < 0 or rr >= rows or cc >= cols:
                    break
                if heights[rr, cc] > z + s * d * rise + 0.03:
                    lit[r, c] = 0.0
                    break
    return lit


def _light(site: Site, sun: tuple[float, float]) -> NDArray[np.float32]:
    """Direct sun (cosine times shadow) and share of open sky of each node, (rows, cols, 2)."""
    d = site.config.detail
    h = site.heights
    azimuth, elevation = np.radians(sun)
    east, north, up = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)
    lit = _cast_shadow(h, d, float(np.sin(azimuth)), float(np.cos(azimuth)), float(np.tan(elevation)), float(h.max()))
    lit = gaussian_filter(lit, 0.03 / d)
    gy, gx = np.gradient(h, d)
    gx, gy = np.clip(gx, -2.5, 2.5), np.clip(gy, -2.5, 2.5)
    facing = np.clip((up - east * gx - north * gy) / np.sqrt(1 + gx * gx + gy * gy), 0, None)
    # Hollows see less sky: height against its surroundings at two scales.
    hollow = sum(np.clip((gaussian_filter(h, s / d, truncate=2.5) - h) / s, 0, 1.2) for s in (0.25, 1.2))
    return np.stack([facing * lit, np.clip(1 - 0.42 * hollow, 0.25, 1)], axis=-1).astype(np.float32)


# --------------------------------------------------------------------------------------------------------------------
# Camera


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> NDArray[np.float64]:
    """World-to-camera rotation (3, 3) of a gimbal: yaw clockwise from north, pitch -90 = nadir, roll about the view axis."""
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    ahead = np.array([np.sin(yaw), np.cos(yaw), 0.0])
    right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    forward = np.cos(pitch) * ahead + np.sin(pitch) * up
    down = -np.cos(pitch) * up + np.sin(pitch) * ahead
    return np.stack([np.cos(roll) * right + np.sin(roll) * down, -np.sin(roll) * right + np.cos(roll) * down, forward])


def project(params: tuple[float, ...], pose: Pose, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(col, row) px, shape (n, 2), of world points (n, 3); NaN behind the camera and where the distortion folds. COLMAP's OPENCV model."""
    fx, fy, cx, cy, k1, k2, p1, p2 = params
    local = (np.asarray(points, np.float64) - pose.C) @ pose.R.T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
    r2 = u * u + v * v
    radial = 1 + k1 * r2 + k2 * r2 * r2
    du = u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
    dv = v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
    pixels = np.stack([fx * du + cx, fy * dv + cy], axis=1)
    # Beyond the radius at which the distortion stops growing, what lies beside the picture would fold back into it.
    ends = np.roots([5 * k2, 3 * k1, 1.0])
    ends = ends.real[(abs(ends.imag) < 1e-12) & (ends.real > 0)]
    folded = r2 >= (ends.min() if len(ends) else np.inf)
    pixels[(local[:, 2] <= 0) | folded] = np.nan
    return pixels


def _rays(params: tuple[float, ...], size: tuple[int, int], samples: int) -> NDArray[np.float32]:
    """Undistorted (u, v) of each sub-sample, (height * samples, width * samples, 2), by fixed-point iteration to 1e-7."""
    fx, fy, cx, cy, k1, k2, p1, p2 = params
    col = (np.arange(size[0] * samples) + 0.5) / samples
    row = (np.arange(size[1] * samples) + 0.5) / samples
    du, dv = np.meshgrid((col - cx) / fx, (row - cy) / fy)
    u, v = du.copy(), dv.copy()
    for _ in range(12):
        r2 = u * u + v * v
        radial = 1 + k1 * r2 + k2 * r2 * r2
        u, v = (du - 2 * p1 * u * v - p2 * (r2 + 2 * u * u)) / radial, (dv - 2 * p2 * u * v - p1 * (r2 + 2 * v * v)) / radial
    return np.stack([u, v], axis=-1).astype(np.float32)


# --------------------------------------------------------------------------------------------------------------------
# Ray casting


@njit(cache=True)
def _height(heights: NDArray[Any], x0: float, y0: float, d: float, x: float, y: float) -> float:
    """Bilinear height; beyond the edge that of the edge."""
    rows, cols = heights.shape
    fx = min(max((x - x0) / d, 0.0), cols - 1.001)
    fy = min(max((y - y0) / d, 0.0), rows - 1.001)
    c, r = int(fx), int(fy)
    u, v = fx - c, fy - r
    return (heights[r, c] * (1 - u) + heights[r, c + 1] * u) * (1 - v) + (
        heights[r + 1, c] * (1 - u) + heights[r + 1, c + 1] * u
    ) * v


@njit(cache=True)
def _heights_along(heights: NDArray[Any], x0: float, y0: float, d: float, local: NDArray[Any]) -> NDArray[Any]:
    out = np.empty(local.shape[0])
    for i in range(local.shape[0]):
        out[i] = _height(heights, x0, y0, d, local[i, 0], local[i, 1])
    return out


@njit(cache=True)
def _hit(
    heights: NDArray[Any],
    tops: NDArray[Any],
    block: int,
    x0: float,
    y0: float,
    d: float,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
    top: float,
) -> float:
    """Ray parameter where a descending ray (dz < 0) meets the surface."""
    t = (top - oz) / dz
    side = block * d
    flat = np.sqrt(dx * dx + dy * dy)
    if flat < 1e-6:
        return (_height(heights, x0, y0, d, ox + t * dx, oy + t * dy) - oz) / dz
    fine = min(0.5 * d / flat, 0.5)
    limit = t + 400.0
    above = t
    while t < limit:
        x, y = ox + t * dx, oy + t * dy
        bx = int(np.floor((x - x0) / side))
        by = int(np.floor((y - y0) / side))
        # Ray parameter at which this block is left.
        leave = 1e30
        if dx > 1e-12:
            leave = (x0 + (bx + 1) * side - ox) / dx
        elif dx < -1e-12:
            leave = (x0 + bx * side - ox) / dx
        if dy > 1e-12:
            leave = min(leave, (y0 + (by + 1) * side - oy) / dy)
        elif dy < -1e-12:
            leave = min(leave, (y0 + by * side - oy) / dy)
        leave = max(leave, t) + 1e-7
        cap = tops[min(max(by, 0), tops.shape[0] - 1), min(max(bx, 0), tops.shape[1] - 1)]
        if oz + leave * dz > cap:
            t = above = leave
            continue
        t = max(t, (cap - oz) / dz)
        while True:
            if oz + t * dz <= _height(heights, x0, y0, d, ox + t * dx, oy + t * dy):
                high = t
                # Halving finds the cell, a secant the place in it (the surface is nearly straight over 1/32 of a step).
                over = oz + above * dz - _height(heights, x0, y0, d, ox + above * dx, oy + above * dy)
                under = oz + high * dz - _height(heights, x0, y0, d, ox + high * dx, oy + high * dy)
                for _ in range(5):
                    mid = 0.5 * (above + high)
                    gap = oz + mid * dz - _height(heights, x0, y0, d, ox + mid * dx, oy + mid * dy)
                    if gap <= 0:
                        high, under = mid, gap
                    else:
                        above, over = mid, gap
                return above + (high - above) * over / max(over - under, 1e-12) if over > 0 else above
            above = t
            if t >= leave:
                break
            t = min(t + fine, leave)
    return limit


@njit(cache=True, nogil=True)
def _render(
    heights: NDArray[Any],
    tops: NDArray[Any],
    block: int,
    texture: NDArray[Any],
    light: NDArray[Any],
    water: NDArray[Any],
    kind: NDArray[Any],
    corner: tuple[float, float],
    d: float,
    rays: NDArray[Any],
    samples: int,
    rot: NDArray[Any],
    centre: NDArray[Any],
    sun: NDArray[Any],
    wave_seed: int,
    seed: int,
) -> NDArray[Any]:
    """Linear radiance (height, width, 3) float32; sun-lit white is about 1."""
    rows, cols = rays.shape[0] // samples, rays.shape[1] // samples
    out = np.zeros((rows, cols, 3), np.float32)
    hr, hc = heights.shape
    top = float(tops.max()) + 0.01
    x0, y0 = corner
    sun_rgb = (1.00, 0.95, 0.86)
    sky_rgb = (0.20, 0.24, 0.31)
    rgb = np.zeros(3)
    weight = 1.0 / (samples * samples)
    for row in range(rows):
        for col in range(cols):
            for s in range(samples * samples):
                u = float(rays[row * samples + s // samples, col * samples + s % samples, 0])
                v = float(rays[row * samples + s // samples, col * samples + s % samples, 1])
                dx = rot[0, 0] * u + rot[1, 0] * v + rot[2, 0]
                dy = rot[0, 1] * u + rot[1, 1] * v + rot[2, 1]
                dz = rot[0, 2] * u + rot[1, 2] * v + rot[2, 2]
                t = _hit(heights, tops, block, x0, y0, d, centre[0], centre[1], centre[2], dx, dy, dz, top)
                x, y, z = centre[0] + t * dx, centre[1] + t * dy, centre[2] + t * dz
                fx = min(max((x - x0) / d, 0.0), hc - 1.001)
                fy = min(max((y - y0) / d, 0.0), hr - 1.001)
                c, r = int(fx), int(fy)
                if water[int(fy + 0.5), int(fx + 0.5)]:
                    # Turbid water: its own colour and the sky's reflection on ripples that move from photo to photo.
                    sx = 0.055 * _fractal(x, y, 1.4, 4, 0.6, wave_seed)
                    sy = 0.055 * _fractal(x, y, 1.4, 4, 0.6, wave_seed + 77)
                    norm = np.sqrt(dx * dx + dy * dy + dz * dz)
                    ex, ey, ez = dx / norm, dy / norm, dz / norm
                    dot = ex * sx + ey * sy + ez
                    mx, my, mz = ex - 2 * dot * sx, ey - 2 * dot * sy, ez - 2 * dot
                    cosine = min(max(-dot, 0.0), 1.0)
                    fresnel = 0.02 + 0.98 * (1 - cosine) ** 5
                    glint = max(mx * sun[0] + my * sun[1] + mz * sun[2], 0.0) ** 60
                    cloud = 0.5 + 0.25 * _value_noise(mx * 3.0, my * 3.0, seed + 91)
                    tint = 1 + 0.06 * _value_noise(x / 9.0, y / 9.0, wave_seed + 5)
                    rgb[0] = 0.100 * tint + fresnel * 0.9 * cloud + 0.5 * glint + 0.05 * sx
                    rgb[1] = 0.112 * tint + fresnel * 1.0 * cloud + 0.5 * glint + 0.05 * sx
                    rgb[2] = 0.082 * tint + fresnel * 1.2 * cloud + 0.5 * glint + 0.05 * sx
                else:
                    a, b = fx - c, fy - r
                    h00, h01, h10, h11 = heights[r, c], heights[r, c + 1], heights[r + 1, c], heights[r + 1, c + 1]
                    gx = ((h01 - h00) * (1 - b) + (h11 - h10) * b) / d
                    gy = ((h10 - h00) * (1 - a) + (h11 - h01) * a) / d
                    roof = 5 <= min(kind[r, c], kind[r, c + 1], kind[r + 1, c], kind[r + 1, c + 1]) <= 7
                    roof = roof or 5 <= max(kind[r, c], kind[r, c + 1], kind[r + 1, c], kind[r + 1, c + 1]) <= 7
                    if roof and gx * gx + gy * gy > 400.0:
                        # A wall: plaster. Its direction is taken over half a metre, since the height field has steps.
                        w = 5 * d
                        gx = (_height(heights, x0, y0, d, x + w, y) - _height(heights, x0, y0, d, x - w, y)) / d
                        gy = (_height(heights, x0, y0, d, x, y + w) - _height(heights, x0, y0, d, x, y - w)) / d
                        norm = np.sqrt(gx * gx + gy * gy + 1)
                        facing = max((-gx * sun[0] - gy * sun[1] + sun[2]) / norm, 0.0)
                        along = (-gy * x + gx * y) / np.sqrt(gx * gx + gy * gy + 1e-9)
                        shade = 0.42 * (1 + 0.25 * _fractal(along, z, 0.8, 3, 0.7, seed + 97))
                        for k in range(3):
                            rgb[k] = shade * (sun_rgb[k] * facing + 0.7 * sky_rgb[k])
                    else:
                        direct = (light[r, c, 0] * (1 - a) + light[r, c + 1, 0] * a) * (1 - b) + (
                            light[r + 1, c, 0] * (1 - a) + light[r + 1, c + 1, 0] * a
                        ) * b
                        sky = (light[r, c, 1] * (1 - a) + light[r, c + 1, 1] * a) * (1 - b) + (
                            light[r + 1, c, 1] * (1 - a) + light[r + 1, c + 1, 1] * a
                        ) * b
                        # Texel (i, j) is centred on (j - 0.5) * d / 2 from the corner.
                        tx = min(max(2 * (x - x0) / d + 0.5, 0.0), 2 * hc - 1.001)
                        ty = min(max(2 * (y - y0) / d + 0.5, 0.0), 2 * hr - 1.001)
                        c2, r2 = int(tx), int(ty)
                        a, b = tx - c2, ty - r2
                        for k in range(3):
                            e00, e01 = float(texture[r2, c2, k]), float(texture[r2, c2 + 1, k])
                            e10, e11 = float(texture[r2 + 1, c2, k]), float(texture[r2 + 1, c2 + 1, k])
                            value = ((e00 * (1 - a) + e01 * a) * (1 - b) + (e10 * (1 - a) + e11 * a) * b) / 255.0
                            rgb[k] = value * value * (sun_rgb[k] * direct + sky_rgb[k] * sky)
                out[row, col, 0] += rgb[0] * weight
                out[row, col, 1] += rgb[1] * weight
                out[row, col, 2] += rgb[2] * weight
    return out


# --------------------------------------------------------------------------------------------------------------------
# The flight


def plan_flight(config: FlightConfig, site: Site, *, seed: int) -> dict[str, tuple[Pose, tuple[float, float, float], datetime]]:
    """Photo name -> (pose in the world, (yaw, pitch, roll) degrees, time), strips flown north and south in turn."""
    rng = np.random.default_rng([seed, 1])
    width, height = config.image_size
    step = config.gsd * height * (1 - config.forward_overlap)
    across = config.gsd * width * (1 - config.side_overlap)
    ground = site.config.height
    plan = {}
    number = 0
    for strip in range(config.strips):
        for shot in range(config.photos_per_strip):
            number += 1
            north = strip % 2 == 0
            y = (shot - (config.photos_per_strip - 1) / 2) * step * (1 if north else -1)
            x = (strip - (config.strips - 1) / 2) * across
            off = rng.normal(0, config.position_sd, 3)
            turn = rng.normal(0, config.attitude_sd_deg, 3)
            # A gimbal does not look behind its nadir.
            attitude = ((0.0 if north else 180.0) + turn[0], max(config.pitch_deg, -90.0) + abs(turn[1]), turn[2])
            centre = np.array(
                [
                    site.config.origin[0] + x + off[0],
                    site.config.origin[1] + y + off[1],
                    ground + config.gsd * config.focal + off[2],
                ]
            )
            pose = Pose(R=rotation(*attitude), C=centre)
            time = config.start + timedelta(seconds=round(config.interval_s * (number - 1) + 4.0 * strip, 3))
            plan[f"SYN_{number:04d}.JPG"] = (pose, attitude, time)
    return plan


def render_flight(folder: Path, *, config: FlightConfig, site: Site, seed: int, threads: int = 1) -> FlightTruth:
    """Write the photos, `gcp_list.txt` and `check_list.txt` into `folder`; returns what is true about them.

    Same config, site, seed and libjpeg give the same bytes, whatever the number of threads. Point lists are in OpenDroneMap's layout; their pixels follow
    the convention of `drone.types`: (0, 0) is the outer corner of the first pixel.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    crs = parse_crs(site.config.crs)
    to_degrees = transformer(crs, parse_crs("EPSG:4490"))
    lon, lat = to_degrees.transform(*site.config.origin)
    plan = plan_flight(config, site, seed=seed)
    times = {name: entry[2] for name, entry in plan.items()}
    middle = min(times.values()) + (max(times.values()) - min(times.values())) / 2
    sun = sun_position(middle, lon, lat)
    caster = _Caster(site, sun)
    rays = _rays(config.params, config.image_size, 2)

    camera = Camera(
        id="synthetic",
        model="OPENCV",
        params=config.params,
        size=config.image_size,
        make_model="geoevidence SyntheticCam",
        focal_prior=None,
    )
    errors = np.random.default_rng([seed, 2])
    horizontal, vertical = config.gps_sd if config.gps == "gps" else config.rtk_sd
    common = 0.8 if config.gps == "gps" else 0.0
    axes = np.array([horizontal, horizontal, vertical])
    bias = errors.normal(0, 1, 3) * axes * np.sqrt(common)
    records = []
    for name, (pose, attitude, time) in plan.items():
        noisy = pose.C + bias + errors.normal(0, 1, 3) * axes * np.sqrt(1 - common)
        told = np.array(attitude) + errors.normal(0, 0.4, 3)
        lon, lat = to_degrees.transform(noisy[0], noisy[1])
        records.append((name, pose, *_metadata(config, (lon, lat, float(noisy[2])), site.config.height, told, time)))

    def shoot(index: int) -> None:
        name, pose, exif, xmp = records[index]
        image = caster.photo(config, pose, rays, wave_seed=1000 + 97 * index, rng=np.random.default_rng([seed, 3, index]))
        _write_jpeg(folder / name, image, config.quality, exif, xmp)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(shoot, range(len(records))))

    targets = {
        name: (site.config.origin[0] + x, site.config.origin[1] + y, float(z)) for name, role, x, y, z in _chosen(config, site)
    }
    marks = {
        name: {photo: mark for photo, (pose, _, _) in plan.items() if (mark := caster.mark(config, pose, position)) is not None}
        for name, position in targets.items()
    }
    survey = np.random.default_rng([seed, 4])
    points = []
    for name, role, *_ in _chosen(config, site):
        sd = (config.target_sd[0], config.target_sd[0], config.target_sd[1])
        position = tuple(float(round(v + e, 4)) for v, e in zip(targets[name], survey.normal(0, 1, 3) * sd, strict=True))
        seen = {
            photo: tuple(float(round(v + e, 2)) for v, e in zip(mark, survey.normal(0, config.mark_sd, 2), strict=True))
            for photo, mark in sorted(marks[name].items())
        }
        points.append(GroundPoint(name=name, position=position, sd=sd, role=role, observations=seen))  # type: ignore[arg-type]
    for role, file in (("control", "gcp_list.txt"), ("check", "check_list.txt")):
        chosen = [p for p in points if p.role == role and p.observations]
        if chosen:
            (folder / file).write_text(_point_list(site.config.crs, chosen), encoding="utf-8")
    return FlightTruth(
        config=config,
        site=site,
        seed=seed,
        poses={name: entry[0] for name, entry in plan.items()},
        camera=camera,
        ground_points=tuple(points),
        targets=targets,
        marks=marks,
        sun=sun,
        times=times,
    )


def _chosen(config: FlightConfig, site: Site) -> list[tuple[str, str, float, float, float]]:
    control = [t for t in site.targets if t[1] == "control"][: config.control_points]
    return control + [t for t in site.targets if t[1] == "check"][: config.check_points]


class _Caster:
    """The site prepared for ray casting under one sun."""

    def __init__(self, site: Site, sun: tuple[float, float]) -> None:
        self.site = site
        self.light = _light(site, sun)
        azimuth, elevation = np.radians(sun)
        self.sun = np.array([np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
        self.block = 16
        rows, cols = site.heights.shape
        down, right = -rows % self.block, -cols % self.block
        spread = np.pad(maximum_filter(site.heights, 3), ((0, down), (0, right)), mode="edge")
        self.tops = spread.reshape(-1, self.block, spread.shape[1] // self.block, self.block).max(axis=(1, 3)).astype(np.float64)

    def _local(self, position: Any) -> NDArray[np.float64]:
        return np.asarray(position, np.float64) - np.array([*self.site.config.origin, 0.0])

    def mark(self, config: FlightConfig, pose: Pose, position: tuple[float, float, float]) -> tuple[float, float] | None:
        """Exact (col, row) of a target, or None where it is out of the picture, near its edge or hidden."""
        col, row = project(config.params, pose, np.array([position]))[0]
        width, height = config.image_size
        margin = 0.5 * _TARGET / config.gsd + 4
        if not (margin <= col <= width - margin and margin <= row <= height - margin):
            return None
        eye = self._local(pose.C)
        ray = self._local(position) - eye
        site = self.site
        top = float(self.tops.max()) + 0.01
        t = _hit(site.heights, self.tops, self.block, *site.corner, site.config.detail, *eye, *ray, top)  # type: ignore[call-arg]
        # Within 10 cm of the target along the ray: a grazing lump of soil does not hide it.
        return (float(col), float(row)) if (1 - t) * float(np.linalg.norm(ray)) < 0.10 else None

    def photo(
        self, config: FlightConfig, pose: Pose, rays: NDArray[np.float32], *, wave_seed: int, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 sRGB."""
        site = self.site
        linear = _render(
            site.heights,
            self.tops,
            self.block,
            site.texture,
            self.light,
            site.water,
            site.kind,
            site.corner,
            site.config.detail,
            rays,
            2,
            pose.R,
            self._local(pose.C),
            self.sun,
            wave_seed,
            site.config.seed % 100003,
        )
        _, _, cx, cy, *_ = config.params
        row, col = np.mgrid[0.5 : linear.shape[0], 0.5 : linear.shape[1]]
        r2 = ((col - cx) ** 2 + (row - cy) ** 2) / config.focal**2
        exposure = 1.75 * (1 + rng.normal(0, config.exposure_sd))
        linear = linear * (exposure / (1 + r2) ** 1.2)[..., None]
        curve = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
        # A soft shoulder keeps bright sand and roofs from clipping.
        curve = np.where(curve > 0.8, 0.8 + 0.2 * np.tanh((curve - 0.8) / 0.2), curve) * 255
        # Cameras sharpen; a symmetric mask moves no edge.
        curve = np.clip(curve + 0.6 * (curve - gaussian_filter(curve, (0.9, 0.9, 0))), 0, 255)
        noisy = curve + rng.standard_normal(curve.shape) * config.noise * np.sqrt(0.3 + 0.7 * curve / 128)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _point_list(crs: str, points: list[GroundPoint]) -> str:
    lines = [crs]
    for point in points:
        e, n, u = point.position
        lines += [
            f"{e:.4f} {n:.4f} {u:.4f} {c:.2f} {r:.2f} {photo} {point.name}"
            for photo, (c, r) in sorted(point.observations.items())
        ]
    return "\n".join(lines) + "\n"


def _dms(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    total = round(abs(degrees) * 3600 * 1_000_000)
    whole, rest = divmod(total, 3600 * 1_000_000)
    minutes, micro = divmod(rest, 60 * 1_000_000)
    return IFDRational(whole, 1), IFDRational(minutes, 1), IFDRational(micro, 1_000_000)


def _metadata(
    config: FlightConfig, position: tuple[float, float, float], takeoff: float, attitude: NDArray[np.float64], time: datetime
) -> tuple[bytes, bytes]:
    """(EXIF, XMP) bytes. attitude: (yaw, pitch, roll) as the gimbal tells it; position: (lon, lat, ellipsoidal height)."""
    lon, lat, height = position
    utc = time.astimezone(UTC)
    focal_mm = config.focal * _SENSOR_WIDTH_MM / config.image_size[0]
    offset = time.strftime("%z")
    offset = f"{offset[:3]}:{offset[3:]}"
    exif = Image.Exif()
    exif[Base.ImageDescription] = MARK.encode("utf-8")
    exif[Base.Make] = "geoevidence"
    exif[Base.Model] = "SyntheticCam"
    exif[Base.Orientation] = 1
    exif[Base.Software] = "geoevidence synthetic"
    exif[Base.DateTime] = time.strftime("%Y:%m:%d %H:%M:%S")
    exif[Base.XPComment] = (MARK + "\0").encode("utf-16-le")
    details = exif.get_ifd(IFD.Exif)
    details[Base.ExposureTime] = IFDRational(1, 800)
    details[Base.FNumber] = IFDRational(40, 10)
    details[Base.ISOSpeedRatings] = 100
    details[Base.ExifVersion] = b"0232"
    details[Base.DateTimeOriginal] = time.strftime("%Y:%m:%d %H:%M:%S")
    details[Base.DateTimeDigitized] = time.strftime("%Y:%m:%d %H:%M:%S")
    details[Base.OffsetTimeOriginal] = offset
    details[Base.SubsecTimeOriginal] = f"{time.microsecond // 1000:03d}"
    details[Base.FocalLength] = IFDRational(round(focal_mm * 10), 10)
    details[Base.FocalLengthIn35mmFilm] = round(focal_mm * 36 / _SENSOR_WIDTH_MM)
    details[Base.ExifImageWidth], details[Base.ExifImageHeight] = config.image_size
    details[Base.BodySerialNumber] = "SYNTHETIC-0001"
    gps = exif.get_ifd(IFD.GPSInfo)
    gps[0] = b"\x02\x03\x00\x00"
    gps[1], gps[2] = ("N" if lat >= 0 else "S"), _dms(lat)
    gps[3], gps[4] = ("E" if lon >= 0 else "W"), _dms(lon)
    gps[5], gps[6] = (b"\x00" if height >= 0 else b"\x01"), IFDRational(round(abs(height) * 1000), 1000)
    gps[7] = (
        IFDRational(utc.hour, 1),
        IFDRational(utc.minute, 1),
        IFDRational(utc.second * 1000 + utc.microsecond // 1000, 1000),
    )
    gps[18] = "WGS-84"
    gps[29] = utc.strftime("%Y:%m:%d")

    yaw = (attitude[0] + 180) % 360 - 180
    fields = {
        "AbsoluteAltitude": f"{height:+.3f}",
        "RelativeAltitude": f"{height - takeoff:+.3f}",
        "AltitudeType": "RtkAlt" if config.gps == "rtk" else "GpsFusionAlt",
        "GpsStatus": "RTK" if config.gps == "rtk" else "GPS",
        "GpsLatitude": f"{lat:+.9f}",
        "GpsLongitude": f"{lon:+.9f}",
        "GimbalYawDegree": f"{yaw:+.1f}",
        "GimbalPitchDegree": f"{max(attitude[1], -90.0):+.1f}",
        "GimbalRollDegree": f"{attitude[2]:+.1f}",
        "FlightYawDegree": f"{yaw:+.1f}",
        "FlightPitchDegree": "+0.0",
        "FlightRollDegree": "+0.0",
    }
    if config.gps == "rtk":
        fields |= {
            "RtkFlag": "50",
            "RtkStdLon": f"{config.rtk_sd[0]:.5f}",
            "RtkStdLat": f"{config.rtk_sd[0]:.5f}",
            "RtkStdHgt": f"{config.rtk_sd[1]:.5f}",
        }
    attributes = "\n".join(f'   drone-dji:{key}="{value}"' for key, value in fields.items())
    xmp = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about=""\n'
        '   xmlns:dc="http://purl.org/dc/elements/1.1/"\n'
        '   xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/"\n'
        f"{attributes}>\n"
        f'   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{MARK}</rdf:li></rdf:Alt></dc:description>\n'
        "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="w"?>'
    )
    return exif.tobytes(), xmp.encode("utf-8")


def _write_jpeg(path: Path, image: NDArray[np.uint8], quality: int, exif: bytes, xmp: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2, optimize=True, exif=exif, xmp=xmp)
    path.write_bytes(buffer.getvalue())


def write_truth(path: Path, truth: FlightTruth) -> None:
    """Write `FlightTruth.to_dict` as JSON text."""
    Path(path).write_text(json.dumps(truth.to_dict(), ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
