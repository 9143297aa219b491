"""A second renderer of drone flights with known truth: the judge of the photogrammetry, made apart from `drone.synthetic`.

In: an `IndependentConfig`. Out: JPEGs with EXIF and XMP, control and check point lists, polygons of pit and stockpile in a
folder, and a `Truth` that answers for any place: height of the top surface, colour seen from straight above, water, photos
that see it. The same configuration gives the same photos, whatever the number of threads.

The ground is a height grid met by sphere tracing with its own Lipschitz bound; houses and cars are exact convex solids with
vertical walls, bushes are ellipsoids; texture is spectral noise. The scene is metric: grid coordinates come from it by the
scale and convergence of the map projection. Camera: Brown distortion with k1-k3, p1, p2, vignetting, exposure and colour
steps, noise; optionally a rolling shutter. Water mirrors the sky by waves that differ in every photo.
It reconstructs nothing and knows no module of `drone` but the types. Seeds below 100 are for choosing settings, from 101 on for testing.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from pyproj import CRS, Proj, Transformer
from scipy.ndimage import gaussian_filter, map_coordinates

VERSION = 1
"""Raised with every change of what the same configuration gives."""

EAST0, NORTH0, HEIGHT0 = 437_250.0, 3_291_400.0, 31.0
STEP = 0.05
"""Spacing of the height grid, m."""
HALF_X, HALF_Y = 108.0, 86.0
TARGET = 0.35
"""Half side of a painted target, m."""
BARE, GRASS, TRACK, HEAP, CUT = range(5)
SOLID, BUSH, WATER = 5, 6, 7
"""What a ray met, beside the covers of the ground above."""

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndependentConfig:
    """One flight over one place.

    seed: of place and flight. epoch: 0, or 1 for the same place with a changed stockpile, flown again.
    size: (width, height) px. gsd: at the yard, m. lines, per_line: strips and photos of a strip. forward, side: overlap (1).
    focal_share: true focal length over the width. gps: "gps" (1.5 m per axis, 3 m up) or "rtk" (0.02, 0.03 m).
    water: a pond. readout_s: of the rolling shutter, 0 = global. speed: m/s over ground.
    control, checks: painted targets. survey_sd: (plan per axis, height) m. mark_sd: px.
    """

    seed: int
    epoch: int = 0
    size: tuple[int, int] = (1200, 900)
    gsd: float = 0.05
    lines: int = 5
    per_line: int = 6
    forward: float = 0.80
    side: float = 0.70
    focal_share: float = 0.80
    gps: Literal["gps", "rtk"] = "gps"
    water: bool = False
    readout_s: float = 0.0
    speed: float = 6.0
    control: int = 6
    checks: int = 8
    survey_sd: tuple[float, float] = (0.008, 0.012)
    mark_sd: float = 0.2
    quality: int = 92

    @classmethod
    def small(cls, seed: int, **changes: Any) -> IndependentConfig:
        """Twelve photos of 600 x 450 with a GSD of 10 cm: the same place in half a minute."""
        values: dict[str, Any] = {"size": (600, 450), "gsd": 0.10, "lines": 3, "per_line": 4} | changes
        return cls(seed=seed, **values)

    @property
    def focal(self) -> float:
        return self.focal_share * self.size[0]

    @property
    def label(self) -> str:
        """Name of the flight, unique to its settings."""
        digest = hashlib.sha256(json.dumps([VERSION, asdict(self)], sort_keys=True).encode()).hexdigest()[:8]
        return f"ind{self.seed}_{self.lines * self.per_line}x{self.size[0]}_{self.gps}_{digest}"


class Solid(NamedTuple):
    """Convex body: points p with planes[:, :3] @ p <= planes[:, 3]. circle: (x, y, radius) around it; colour linear."""

    planes: F64
    circle: tuple[float, float, float]
    top: float
    colour: tuple[float, float, float]
    ribs: float
    turn: float


class Place(NamedTuple):
    """What rays meet, in local metres (x east of true north's frame, y north, z ellipsoidal height)."""

    heights: F32
    cover: NDArray[np.uint8]
    steepest: float
    highest: float
    planes: F64
    plane_count: NDArray[np.int64]
    solid: F64  # x, y, radius, top, r, g, b, ribs, cos, sin
    bushes: F64  # x, y, z, rx, ry, rz
    targets: F64  # x, y, z
    fine: F32
    finer: F32
    broad: F32
    sun: F64
    level: float


# ------------------------------------------------------------------------------------------------------------ the place


def _spectral(rng: np.random.Generator, side: int, slope: float) -> F32:
    """Periodic noise (side, side), unit variance, whose amplitude falls with frequency to the power of `slope`."""
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    f[0, 0] = np.inf
    field = np.fft.irfft2(spectrum * f**-slope, s=(side, side))
    return np.asarray(field / field.std(), np.float32)


def _inside_distance(x: F64, y: F64, corners: F64) -> F64:
    """Distance to the outline of a polygon, positive inside, negative outside, m."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge = b - a
        share = np.clip(((x - a[0]) * edge[0] + (y - a[1]) * edge[1]) / (edge @ edge), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - a[0] - share * edge[0], y - a[1] - share * edge[1]))
        if a[1] != b[1]:
            crosses = ((a[1] > y) != (b[1] > y)) & (x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0])
            inside ^= crosses
    return np.where(inside, nearest, -nearest)


def _house(x: float, y: float, length: float, width: float, turn: float, base: float, wall: float, rise: float) -> F64:
    """Planes of a house: four walls, and one flat roof (rise 0) or two slopes whose ridge runs along it."""
    c, s = math.cos(turn), math.sin(turn)
    along, across = np.array([c, s, 0.0]), np.array([-s, c, 0.0])
    middle = np.array([x, y, 0.0])
    planes = []
    for axis, half in ((along, length / 2), (across, width / 2)):
        for sign in (1.0, -1.0):
            planes.append([*(sign * axis), sign * float(axis @ middle) + half])
    if rise == 0:
        planes.append([0.0, 0.0, 1.0, base + wall])
    else:
        pitch = rise / (width / 2)
        for sign in (1.0, -1.0):
            normal = sign * pitch * across + np.array([0, 0, 1.0])
            planes.append([*normal, float(normal @ middle) + base + wall + rise])
    planes.append([0.0, 0.0, -1.0, -(base - 3.0)])
    return np.array(planes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A place and what is true of it. Polygons are closed rings of local (x, y), a little outside of pit and stockpile."""

    place: Place
    pit_volume: float
    pile_volume: float
    pit_ring: F64
    pile_ring: F64
    control: tuple[tuple[str, float, float, float], ...]
    checks: tuple[tuple[str, float, float, float], ...]


def build_scene(config: IndependentConfig) -> Scene:
    """Relief, yard with pit and stockpile, houses, cars, bushes, targets of a seed; some seconds."""
    rng = np.random.default_rng([7001, config.seed])
    fine, finer, broad = _spectral(rng, 2048, 1.0), _spectral(rng, 1024, 0.8), _spectral(rng, 1024, 1.3)
    cols, rows = round(2 * HALF_X / STEP) + 1, round(2 * HALF_Y / STEP) + 1
    x = (-HALF_X + STEP * np.arange(cols))[None, :]
    y = (-HALF_Y + STEP * np.arange(rows))[:, None]
    relief = np.zeros((rows, cols))
    for _ in range(7):
        wave, angle = rng.uniform(38, 130), rng.uniform(0, np.pi)
        k = 2 * np.pi / wave
        relief += (
            rng.uniform(0.3, 1.0) * wave / 70 * np.sin(k * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 2 * np.pi))
        )
    tilt = rng.normal(0, 0.008, 2)
    yard_plane = tilt[0] * x + tilt[1] * y
    # A levelled yard; the land around rises and falls from it.
    out = (np.abs(x / 40) ** 4 + np.abs(y / 31) ** 4) ** 0.25
    w = np.clip((out - 0.86) / 0.5, 0, 1)
    w = w * w * (3 - 2 * w)
    ground = yard_plane * (1 - w) + (relief + yard_plane) * w
    track = np.abs(y - 0.25 * x - 14 * np.sin(x / 60) + 26) < 2.4
    bumps = 1.3 * gaussian_filter(_sampled(fine, x, y, 0.06), 1.2)
    cover = np.where((out + 0.03 * _sampled(broad, x, y, 0.05)) < 1.0, BARE, GRASS).astype(np.uint8)
    cover[track & (cover == GRASS)] = TRACK
    ground = ground + np.where(cover == GRASS, 0.022, np.where(cover == TRACK, 0.002, 0.007)) * bumps

    angles = np.sort(np.arange(9) / 9 * 2 * np.pi + rng.uniform(-0.22, 0.22, 9))
    centre = np.array([-15.0, 5.0]) + rng.uniform(-1.5, 1.5, 2)
    corners = centre + (rng.uniform(0.85, 1.1, 9) * [[11.5], [8.5]] * [np.cos(angles), np.sin(angles)]).T
    d = _inside_distance(*np.broadcast_arrays(x, y), corners)
    slope = math.tan(math.radians(38))
    depth = np.clip(d * slope, 0, 1.8) + np.clip((d - 1.8 / slope - 1.3) * slope, 0, 1.9)
    depth *= 1 + 0.05 * np.clip(d, 0, 1) * np.clip(_sampled(broad, x, y, 0.11), -2.5, 2.5)
    cover[d > 0] = CUT

    piles = np.random.default_rng([7002, config.seed])
    heaps = [(16 + piles.uniform(-5, 5), -4 + piles.uniform(-6, 6), piles.uniform(2.2, 4.2)) for _ in range(5)]
    if config.epoch == 1:
        heaps = [*heaps[2:], (17.0 + piles.uniform(-3, 3), 2.0 + piles.uniform(-3, 3), piles.uniform(2.6, 3.6))]
    repose = math.tan(math.radians(35))
    heap = np.zeros((rows, cols))
    for hx, hy, top in heaps:
        heap = np.maximum(heap, top - repose * (np.sqrt((x - hx) ** 2 + (y - hy) ** 2 + 0.16) - 0.4))
    heap += 0.05 * np.clip(heap / 0.4, 0, 1) * _sampled(broad, x, y, 0.06)
    heap = np.maximum(heap, 0)
    cover[heap > 0] = HEAP
    ground = ground - depth + heap
    level = -1e3
    if config.water:
        level = -6.0
        basin = np.clip(1.1 - np.hypot((x + 54) / 27, (y - 43) / 19), 0, 0.6) / 0.6
        basin = basin * basin * (3 - 2 * basin)
        ground = np.maximum(ground, level + 0.6) * (1 - basin) + (level - 1.8) * basin
    ground += HEIGHT0
    level += HEIGHT0
    heights = np.ascontiguousarray(ground, np.float32)

    def height_at(px: float, py: float) -> float:
        return float(_bilinear(heights, (px + HALF_X) / STEP, (py + HALF_Y) / STEP))

    solids = []
    roofs = [(0.42, 0.13, 0.09), (0.16, 0.21, 0.30), (0.33, 0.32, 0.30), (0.25, 0.10, 0.07), (0.38, 0.37, 0.35)]
    spots = [(47, 17), (46, -5), (-46, -14), (6, 30), (26, -31)]
    for number, (hx, hy) in enumerate(spots):
        hx, hy = hx + rng.uniform(-1.5, 1.5), hy + rng.uniform(-1.5, 1.5)
        length, width, turn = rng.uniform(7, 13), rng.uniform(5, 7.5), rng.uniform(0, np.pi)
        wall, rise = rng.uniform(2.6, 6.0), 0.0 if number in (2, 4) else rng.uniform(1.2, 2.2)
        base = height_at(hx, hy)
        solids.append(
            Solid(
                planes=_house(hx, hy, length, width, turn, base, wall, rise),
                circle=(hx, hy, 0.5 * math.hypot(length, width)),
                top=base + wall + rise,
                colour=roofs[number],
                ribs=0.0 if rise == 0 else rng.uniform(0.28, 0.4),
                turn=turn,
            )
        )
    for cx, cy in ((-4.0, -18.0), (2.5, -17.0), (24.0, 12.0), (-24.0, -9.0)):
        turn, base = rng.uniform(0, np.pi), height_at(cx, cy)
        paint = np.clip(rng.uniform(0.05, 0.5) + rng.normal(0, 0.05, 3), 0.02, 0.6)
        for length, top, shift in ((4.4, 0.85, 0.0), (2.3, 1.45, -0.3)):
            mx, my = cx + shift * math.cos(turn), cy + shift * math.sin(turn)
            solids.append(
                Solid(
                    planes=_house(mx, my, length, 1.75, turn, base, top, 0.0),
                    circle=(mx, my, 0.5 * math.hypot(length, 1.75)),
                    top=base + top,
                    colour=tuple(float(v) for v in paint),  # type: ignore[arg-type]
                    ribs=0.0,
                    turn=turn,
                )
            )
    bushes = []
    while len(bushes) < 14:
        bx, by, r = rng.uniform(-62, 62), rng.uniform(-46, 46), rng.uniform(0.7, 2.2)
        if abs(bx) < 41 and abs(by) < 32:
            continue
        bz = height_at(bx, by)
        if bz > level + 0.2:
            bushes.append((bx, by, bz + 0.3 * r, r, r * rng.uniform(0.8, 1.2), r * rng.uniform(0.8, 1.3)))

    def near_solid(px: float, py: float, gap: float) -> bool:
        close = any(math.hypot(px - s.circle[0], py - s.circle[1]) < s.circle[2] + 0.3 * (s.top - HEIGHT0) + gap for s in solids)
        return close or any(math.hypot(px - b[0], py - b[1]) < b[3] + 3 for b in bushes)

    # Targets lie on open, nearly level ground, in a loose net; control at the rim and in the middle.
    net = [
        (-38, 24), (37, 28), (38, -24), (-37, -28), (1, -9), (1, 21),
        (-25, -19), (21, 18), (12, -25), (-30, 12), (30, -9), (-12, 24), (-8, -24), (5, 6),
    ]  # fmt: skip
    surveyed: list[tuple[str, float, float, float]] = []
    for number, (tx, ty) in enumerate(net[: config.control] + net[6 : 6 + config.checks]):
        name = f"P{number + 1:02d}" if number < config.control else f"Q{number + 1 - config.control:02d}"
        for attempt in range(400):
            px, py = np.array([tx, ty]) + rng.uniform(-1, 1, 2) * (0.5 + 0.02 * attempt)
            i, j = round((py + HALF_Y) / STEP), round((px + HALF_X) / STEP)
            window = (slice(i - 14, i + 15), slice(j - 14, j + 15))
            plain = (
                float(np.ptp(heights[window])) < 0.35 and (cover[window] <= TRACK).all() and heights[window].min() > level + 0.3
            )
            if plain and not near_solid(px, py, 1.0):
                break
        else:
            raise ValueError(f"no open ground for target {name}")
        surveyed.append((name, float(px), float(py), height_at(px, py)))

    gradient = max(float(np.abs(np.diff(heights, axis=k)).max()) / STEP for k in (0, 1))
    most = max(len(s.planes) for s in solids)
    planes = np.zeros((len(solids), most, 4))
    for i, s in enumerate(solids):
        planes[i, : len(s.planes)] = s.planes
    azimuth, elevation = math.radians(rng.uniform(120, 230) + 9 * config.epoch), math.radians(rng.uniform(46, 60))
    place = Place(
        heights=heights,
        cover=cover,
        steepest=gradient * math.sqrt(2),
        highest=float(heights.max()),
        planes=planes,
        plane_count=np.array([len(s.planes) for s in solids]),
        solid=np.array([[*s.circle, s.top, *s.colour, s.ribs, math.cos(s.turn), math.sin(s.turn)] for s in solids]),
        bushes=np.array(bushes),
        targets=np.array([t[1:] for t in surveyed]),
        fine=fine,
        finer=finer,
        broad=broad,
        sun=np.array([math.sin(azimuth) * math.cos(elevation), math.cos(azimuth) * math.cos(elevation), math.sin(elevation)]),
        level=level,
    )
    area = STEP * STEP
    return Scene(
        place=place,
        pit_volume=float(depth.sum()) * area,
        pile_volume=float(heap.sum()) * area,
        pit_ring=_widened(corners, 0.8),
        pile_ring=_widened(_hull(np.array([(hx + top / repose * math.cos(a), hy + top / repose * math.sin(a))
                                           for hx, hy, top in heaps for a in np.linspace(0, 2 * np.pi, 60)])), 1.0),
        control=tuple(surveyed[: config.control]),
        checks=tuple(surveyed[config.control :]),
    )  # fmt: skip


def _hull(points: F64) -> F64:
    from scipy.spatial import ConvexHull

    return np.asarray(points[ConvexHull(points).vertices])


def _widened(corners: F64, by: float) -> F64:
    """Closed ring `by` m outside of the polygon."""
    from shapely.geometry import Polygon

    return np.array(Polygon(corners).buffer(by, quad_segs=4).exterior.coords)


def _sampled(tile: F32, x: F64, y: F64, cell: float) -> F64:
    """Periodic tile at positions of a grid, bilinear."""
    rows, cols = np.broadcast_arrays(y / cell, x / cell)
    return np.asarray(map_coordinates(tile, [rows, cols], order=1, mode="grid-wrap"), np.float64)


# ------------------------------------------------------------------------------------------------------------ kernels


@njit(cache=True, nogil=True, fastmath=True)
def _bilinear(grid, col, row):  # type: ignore[no-untyped-def]
    rows, cols = grid.shape
    col, row = min(max(col, 0.0), cols - 1.001), min(max(row, 0.0), rows - 1.001)
    j, i = int(col), int(row)
    u, v = col - j, row - i
    return (grid[i, j] * (1 - u) + grid[i, j + 1] * u) * (1 - v) + (grid[i + 1, j] * (1 - u) + grid[i + 1, j + 1] * u) * v


@njit(cache=True, nogil=True, fastmath=True)
def _wrapped(tile, x, y):  # type: ignore[no-untyped-def]
    """Periodic tile at (x, y) in cells; its side is a power of two."""
    mask = tile.shape[0] - 1
    fx, fy = math.floor(x), math.floor(y)
    u, v = x - fx, y - fy
    j, i = int(fx) & mask, int(fy) & mask
    j2, i2 = (j + 1) & mask, (i + 1) & mask
    return (tile[i, j] * (1 - u) + tile[i, j2] * u) * (1 - v) + (tile[i2, j] * (1 - u) + tile[i2, j2] * u) * v


@njit(cache=True, nogil=True, fastmath=True)
def _solids_hit(place, ox, oy, oz, dx, dy, dz, limit):  # type: ignore[no-untyped-def]
    """Nearest solid or bush in front of `limit`: (t, what, number, normal); what = -1 for none."""
    best, what, number = limit, -1, 0
    nx, ny, nz = 0.0, 0.0, 1.0
    flat = dx * dx + dy * dy
    for k in range(len(place.solid)):
        cx, cy, radius = place.solid[k, 0] - ox, place.solid[k, 1] - oy, place.solid[k, 2]
        t = (cx * dx + cy * dy) / flat if flat > 1e-12 else 0.0
        if (cx - t * dx) ** 2 + (cy - t * dy) ** 2 > radius * radius:
            continue
        enter, leave, side = -1e30, 1e30, -1
        for p in range(place.plane_count[k]):
            a, b, c, d = place.planes[k, p]
            speed = a * dx + b * dy + c * dz
            gap = d - (a * ox + b * oy + c * oz)
            if abs(speed) < 1e-12:
                if gap < 0:
                    enter = 1e30
                continue
            t = gap / speed
            if speed < 0:
                if t > enter:
                    enter, side = t, p
            elif t < leave:
                leave = t
        if 1e-6 < enter < leave and enter < best:
            a, b, c = place.planes[k, side, 0], place.planes[k, side, 1], place.planes[k, side, 2]
            n = math.sqrt(a * a + b * b + c * c)
            best, what, number, nx, ny, nz = enter, SOLID, k, a / n, b / n, c / n
    for k in range(len(place.bushes)):
        rx, ry, rz = place.bushes[k, 3], place.bushes[k, 4], place.bushes[k, 5]
        ax, ay, az = (ox - place.bushes[k, 0]) / rx, (oy - place.bushes[k, 1]) / ry, (oz - place.bushes[k, 2]) / rz
        bx, by, bz = dx / rx, dy / ry, dz / rz
        a, b, c = bx * bx + by * by + bz * bz, ax * bx + ay * by + az * bz, ax * ax + ay * ay + az * az - 1
        disc = b * b - a * c
        if disc <= 0:
            continue
        t = (-b - math.sqrt(disc)) / a
        if 1e-6 < t < best:
            gx, gy, gz = (ax + t * bx) / rx, (ay + t * by) / ry, (az + t * bz) / rz
            n = math.sqrt(gx * gx + gy * gy + gz * gz)
            best, what, number, nx, ny, nz = t, BUSH, k, gx / n, gy / n, gz / n
    return best, what, number, nx, ny, nz


@njit(cache=True, nogil=True, fastmath=True)
def _meet(place, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Where a falling ray (dz < 0) meets the place: (t, what, number, normal); what is a cover, SOLID, BUSH or WATER."""
    across = math.sqrt(dx * dx + dy * dy)
    rate = 1.0 / (-dz + place.steepest * across)
    t = max((oz - place.highest) / -dz, 0.0)
    for _ in range(200):
        gap = oz + t * dz - _bilinear(place.heights, (ox + t * dx + HALF_X) / STEP, (oy + t * dy + HALF_Y) / STEP)
        if gap < 2e-4:
            break
        t += gap * rate
    nx, ny, nz = 0.0, 0.0, 1.0
    x, y = (ox + t * dx + HALF_X) / STEP, (oy + t * dy + HALF_Y) / STEP
    flood = (oz - place.level) / -dz
    if flood < t:
        t, what = flood, WATER
    else:
        gx = (_bilinear(place.heights, x + 1, y) - _bilinear(place.heights, x - 1, y)) / (2 * STEP)
        gy = (_bilinear(place.heights, x, y + 1) - _bilinear(place.heights, x, y - 1)) / (2 * STEP)
        n = math.sqrt(1 + gx * gx + gy * gy)
        nx, ny, nz = -gx / n, -gy / n, 1 / n
        rows, cols = place.cover.shape
        what = int(place.cover[min(max(int(y + 0.5), 0), rows - 1), min(max(int(x + 0.5), 0), cols - 1)])
    t2, solid, number, sx, sy, sz = _solids_hit(place, ox, oy, oz, dx, dy, dz, t)
    if solid >= 0:
        return t2, solid, number, sx, sy, sz
    return t, what, 0, nx, ny, nz


@njit(cache=True, nogil=True, fastmath=True)
def _colour(place, palette, ox, oy, oz, dx, dy, dz, waves, out):  # type: ignore[no-untyped-def]
    """Linear radiance (3,) of a ray into `out`."""
    t, what, number, nx, ny, nz = _meet(place, ox, oy, oz, dx, dy, dz)
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    sun = place.sun
    if what == WATER:
        n = math.sqrt(dx * dx + dy * dy + dz * dz)
        u, v = x / 0.045, y / 0.045
        wx = 0.09 * _wrapped(place.broad, u + waves[0], v + waves[1]) + 0.04 * _wrapped(place.fine, u + waves[2], v - waves[0])
        wy = 0.09 * _wrapped(place.broad, v - waves[1], u + waves[2]) + 0.04 * _wrapped(place.fine, v + waves[1], u + waves[3])
        m = math.sqrt(1 + wx * wx + wy * wy)
        ax, ay, az = -wx / m, -wy / m, 1 / m
        vx, vy, vz = dx / n, dy / n, dz / n
        c = -(vx * ax + vy * ay + vz * az)
        rx, ry, rz = vx + 2 * c * ax, vy + 2 * c * ay, vz + 2 * c * az
        fresnel = 0.02 + 0.98 * (1 - max(c, 0.0)) ** 5
        glint = max(rx * sun[0] + ry * sun[1] + rz * sun[2], 0.0) ** 350 * 14
        cloud = 1 + 0.35 * _wrapped(place.broad, 150 * rx, 150 * ry)
        for k in range(3):
            deep, sky = (0.020, 0.038, 0.036)[k], (0.9, 1.05, 1.3)[k]
            out[k] = deep + fresnel * (sky * max(cloud, 0.2) * (0.7 + 2.0 * (1 - max(rz, 0.0))) + glint)
        return
    lit = 1.0
    _, blocked, _, _, _, _ = _solids_hit(place, x + 2e-3 * nx, y + 2e-3 * ny, z + 2e-3 * nz, sun[0], sun[1], sun[2], 1e9)
    if blocked >= 0:
        lit = 0.0
    direct = max(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0) * lit
    # Three scales of noise, turned against each other; walls are textured along themselves.
    a, b = x, y
    if what == SOLID and abs(nz) < 0.3:
        a, b = x * place.solid[number, 8] + y * place.solid[number, 9] + 0.7 * (y - x), z
    f1 = _wrapped(place.fine, a / 0.0213, b / 0.0213)
    f2 = _wrapped(place.finer, (0.857 * a - 0.515 * b) / 0.0171, (0.515 * a + 0.857 * b) / 0.0171)
    f3 = _wrapped(place.broad, (0.4 * a + 0.917 * b) / 0.11, (-0.917 * a + 0.4 * b) / 0.11)
    p = palette[what]
    shade = 1 + p[3] * f1 + p[4] * f2 + p[5] * f3
    r, g, bl = p[0], p[1], p[2]
    if what == SOLID:
        if abs(nz) < 0.3:
            r, g, bl = 0.30, 0.27, 0.23
        else:
            r, g, bl = place.solid[number, 4], place.solid[number, 5], place.solid[number, 6]
            ribs = place.solid[number, 7]
            if ribs > 0:
                u = (x * place.solid[number, 8] + y * place.solid[number, 9]) / ribs
                shade *= 0.88 + 0.24 * abs(u - math.floor(u) - 0.5)
    elif what <= TRACK:
        for k in range(len(place.targets)):
            u, v = x - place.targets[k, 0], y - place.targets[k, 1]
            if abs(u) < TARGET and abs(v) < TARGET:
                dark = (u > 0) != (v > 0)
                r = g = bl = 0.03 if dark else 0.62
                shade = 1 + 0.04 * f2
                break
    shade = max(shade, 0.08)
    sky = 0.5 + 0.5 * nz
    out[0] = r * shade * (0.95 * direct + 0.26 * sky)
    out[1] = g * shade * (0.92 * direct + 0.29 * sky)
    out[2] = bl * shade * (0.86 * direct + 0.36 * sky)


@njit(cache=True, nogil=True, fastmath=True)
def _straight(lens, u, v):  # type: ignore[no-untyped-def]
    """Undistorted normalised coordinates of distorted ones: Newton's steps with a numerical Jacobian are not needed at
    these strengths; the fixed point converges to 1e-12 within 25 rounds."""
    x, y = u, v
    for _ in range(25):
        r2 = x * x + y * y
        radial = 1 + r2 * (lens[4] + r2 * (lens[5] + r2 * lens[6]))
        tx = 2 * lens[7] * x * y + lens[8] * (r2 + 2 * x * x)
        ty = lens[7] * (r2 + 2 * y * y) + 2 * lens[8] * x * y
        x2, y2 = (u - tx) / radial, (v - ty) / radial
        moved = abs(x2 - x) + abs(y2 - y)
        x, y = x2, y2
        if moved < 1e-12:
            break
    return x, y


@njit(cache=True, nogil=True, fastmath=True)
def _sample_rays(lens, width, height):  # type: ignore[no-untyped-def]
    """(height, width, 4, 2) normalised coordinates of a turned square of samples a pixel: four columns, four rows."""
    out = np.empty((height, width, 4, 2))
    for row in range(height):
        for col in range(width):
            for k in range(4):
                c = col + (0.125, 0.625, 0.375, 0.875)[k]
                r = row + (0.375, 0.125, 0.875, 0.625)[k]
                x, y = _straight(lens, (c - lens[2]) / lens[0], (r - lens[3]) / lens[1])
                out[row, col, k, 0], out[row, col, k, 1] = x, y
    return out


@njit(cache=True, nogil=True, fastmath=True)
def _expose(place, palette, lens, rays, R, C, V, readout, waves, image):  # type: ignore[no-untyped-def]
    """image (height, width, 3) float32 linear. Row r is exposed at readout (r / height - 1/2) s at velocity V."""
    height, width = image.shape[:2]
    rgb = np.empty(3)
    for row in range(height):
        for col in range(width):
            s0 = s1 = s2 = 0.0
            for k in range(4):
                x, y = rays[row, col, k, 0], rays[row, col, k, 1]
                when = readout * ((row + 0.5) / height - 0.5)
                dx = R[0, 0] * x + R[1, 0] * y + R[2, 0]
                dy = R[0, 1] * x + R[1, 1] * y + R[2, 1]
                dz = R[0, 2] * x + R[1, 2] * y + R[2, 2]
                _colour(place, palette, C[0] + when * V[0], C[1] + when * V[1], C[2] + when * V[2], dx, dy, dz, waves, rgb)
                s0 += rgb[0]
                s1 += rgb[1]
                s2 += rgb[2]
            fall = 1 / (1 + ((col + 0.5 - lens[2]) / lens[0]) ** 2 + ((row + 0.5 - lens[3]) / lens[1]) ** 2) ** 1.1
            image[row, col, 0] = 0.25 * s0 * fall
            image[row, col, 1] = 0.25 * s1 * fall
            image[row, col, 2] = 0.25 * s2 * fall


@njit(cache=True, nogil=True, fastmath=True)
def _from_above(place, palette, x, y, du, dv, waves, colour, height, what):  # type: ignore[no-untyped-def]
    """For positions x, y (n,): colour (n, 3) over a cell with half sides du (2,), dv (2,); height and what of its middle."""
    rgb = np.empty(3)
    for i in range(len(x)):
        t, kind, _, _, _, _ = _meet(place, x[i], y[i], 1000.0, 0.0, 0.0, -1.0)
        height[i], what[i] = 1000.0 - t, kind
        for k in range(3):
            colour[i, k] = 0.0
        if du[0] == 0.0:
            continue
        for a in (-0.5, 0.5):
            for b in (-0.5, 0.5):
                _colour(
                    place, palette, x[i] + a * du[0] + b * dv[0], y[i] + a * du[1] + b * dv[1], 1000.0, 0.0, 0.0, -1.0, waves, rgb
                )
                for k in range(3):
                    colour[i, k] += 0.25 * rgb[k]


@njit(cache=True, nogil=True, fastmath=True)
def _project(lens, R, C, V, readout, size, X):  # type: ignore[no-untyped-def]
    """(col, row, depth) of a point; a rolling shutter is met by iterating over the row."""
    col, row, depth = 0.0, 0.5 * size[1], 0.0
    for _ in range(6 if readout > 0 else 1):
        when = readout * (row / size[1] - 0.5)
        ax, ay, az = X[0] - C[0] - when * V[0], X[1] - C[1] - when * V[1], X[2] - C[2] - when * V[2]
        depth = R[2, 0] * ax + R[2, 1] * ay + R[2, 2] * az
        x = (R[0, 0] * ax + R[0, 1] * ay + R[0, 2] * az) / depth
        y = (R[1, 0] * ax + R[1, 1] * ay + R[1, 2] * az) / depth
        r2 = x * x + y * y
        if depth <= 0 or r2 > 4:
            return -1e9, -1e9, depth
        radial = 1 + r2 * (lens[4] + r2 * (lens[5] + r2 * lens[6]))
        col = lens[0] * (x * radial + 2 * lens[7] * x * y + lens[8] * (r2 + 2 * x * x)) + lens[2]
        row = lens[1] * (y * radial + lens[7] * (r2 + 2 * y * y) + 2 * lens[8] * x * y) + lens[3]
    return col, row, depth


@njit(cache=True, nogil=True, fastmath=True)
def _sees(place, C, X, tolerance):  # type: ignore[no-untyped-def]
    """True when nothing stands more than `tolerance` m before X on the line from C."""
    dx, dy, dz = X[0] - C[0], X[1] - C[1], X[2] - C[2]
    t, _, _, _, _, _ = _meet(place, C[0], C[1], C[2], dx, dy, dz)
    return (1 - t) * math.sqrt(dx * dx + dy * dy + dz * dz) < tolerance


@njit(cache=True, nogil=True, fastmath=True)
def _count_views(place, lens, R, C, V, readout, size, X, margin):  # type: ignore[no-untyped-def]
    out = np.zeros(len(X), np.uint8)
    for i in range(len(X)):
        for k in range(len(C)):
            col, row, _ = _project(lens, R[k], C[k], V[k], readout, size, X[i])
            if margin <= col <= size[0] - margin and margin <= row <= size[1] - margin and _sees(place, C[k], X[i], 0.1):
                out[i] += 1
    return out


# Linear reflectance (r, g, b) and the strength of three scales of texture, by cover.
PALETTE = np.array(
    [
        [0.300, 0.255, 0.195, 0.17, 0.12, 0.10],  # bare yard
        [0.090, 0.125, 0.050, 0.26, 0.18, 0.16],  # grass
        [0.120, 0.120, 0.125, 0.06, 0.08, 0.05],  # asphalt
        [0.210, 0.200, 0.185, 0.16, 0.20, 0.06],  # stockpile
        [0.260, 0.170, 0.110, 0.17, 0.13, 0.10],  # fresh cut
        [0.300, 0.290, 0.280, 0.04, 0.05, 0.03],  # walls and roofs; roofs have their own colour
        [0.045, 0.080, 0.028, 0.32, 0.30, 0.10],  # bushes
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


# ------------------------------------------------------------------------------------------------------------ the flight


class Exposure(NamedTuple):
    """One photo: pose in local metres (R local-to-camera), velocity, time, gain by colour, phase of the waves."""

    name: str
    R: F64
    C: F64
    V: F64
    time: datetime
    gain: F64
    waves: F64


def _turned(axis: int, angle: float) -> F64:
    c, s = math.cos(angle), math.sin(angle)
    a, b = ((1, 2), (2, 0), (0, 1))[axis]
    R = np.eye(3)
    R[a, a], R[a, b], R[b, a], R[b, b] = c, s, -s, c
    return R


def plan(config: IndependentConfig) -> list[Exposure]:
    """Exposures in order of time: lines flown to and fro along true north."""
    rng = np.random.default_rng([7003, config.seed, config.epoch])
    width, height = config.size
    step, across = config.gsd * height * (1 - config.forward), config.gsd * width * (1 - config.side)
    start = datetime(2025, 4, 11 + 30 * config.epoch % 20, 2, 10, tzinfo=UTC)
    shots = []
    clock = 0.0
    light = 1.0
    for line in range(config.lines):
        heading = 1 if line % 2 == 0 else -1
        for shot in range(config.per_line):
            x = (line - (config.lines - 1) / 2) * across + rng.normal(0, 0.4)
            y = heading * (shot - (config.per_line - 1) / 2) * step + rng.normal(0, 0.4)
            z = HEIGHT0 + config.gsd * config.focal + rng.normal(0, 0.35)
            # Looking straight down with the picture's upper edge towards the heading, then off by the gimbal's error.
            down = np.array([[heading, 0.0, 0.0], [0.0, -heading, 0.0], [0.0, 0.0, -1.0]])
            off = rng.normal(0, np.radians([0.9, 0.9, 1.4]))
            R = _turned(0, off[0]) @ _turned(1, off[1]) @ _turned(2, off[2]) @ down
            light = 1 + 0.8 * (light - 1) + rng.normal(0, 0.035)
            shots.append(
                Exposure(
                    name=f"IND_{len(shots) + 1:04d}.JPG",
                    R=R,
                    C=np.array([x, y, z]),
                    V=np.array([rng.normal(0, 0.2), heading * config.speed + rng.normal(0, 0.3), rng.normal(0, 0.15)]),
                    time=start + timedelta(seconds=round(clock, 3)),
                    gain=light * (1 + rng.normal(0, 0.012, 3)),
                    waves=rng.uniform(0, 1000, 4),
                )
            )
            clock += step / config.speed
        clock += 9.0
    return shots


def lens_of(config: IndependentConfig) -> F64:
    """fx, fy, cx, cy, k1, k2, k3, p1, p2 of the seed's camera."""
    rng = np.random.default_rng([7004, config.seed])
    width, height = config.size
    f = config.focal * (1 + rng.normal(0, 0.008))
    cx, cy = width / 2 + rng.normal(0, 0.003) * width, height / 2 + rng.normal(0, 0.003) * width
    return np.array(
        [f, f, cx, cy, rng.uniform(-0.06, 0.02), rng.uniform(-0.01, 0.03), rng.uniform(-0.008, 0.004), *rng.normal(0, 3e-4, 2)]
    )


@dataclass(frozen=True, slots=True, eq=False)
class GridFrame:
    """Local metres to the map: (E, N) = origin + scale * turn @ (x, y)."""

    crs: CRS
    scale: float
    turn: F64

    def to_map(self, xy: F64) -> F64:
        return np.asarray(np.array([EAST0, NORTH0]) + self.scale * xy @ self.turn.T)

    def to_local(self, en: F64) -> F64:
        return np.asarray((en - np.array([EAST0, NORTH0])) @ self.turn / self.scale)


def grid_frame() -> GridFrame:
    """UTM zone 50 north at the place: scale of the projection there (at its ellipsoidal height) and meridian convergence."""
    crs = CRS.from_epsg(32650)
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(EAST0, NORTH0)
    factors = Proj(crs).get_factors(lon, lat)
    angle = math.radians(factors.meridian_convergence)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return GridFrame(crs, factors.meridional_scale * (1 - HEIGHT0 / 6_371_000), turn)


@dataclass(frozen=True, slots=True, eq=False)
class Surveyed:
    """A painted target: where it is, where the survey says it is (E, N, U) m; exact marks, photo -> (col, row)."""

    name: str
    role: Literal["control", "check"]
    true: tuple[float, float, float]
    stated: tuple[float, float, float]
    marks: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is true about a flight; see the methods."""

    config: IndependentConfig
    scene: Scene
    frame: GridFrame
    shots: list[Exposure]
    lens: F64
    points: tuple[Surveyed, ...]

    def surface(self, east: F64, north: F64) -> tuple[F64, NDArray[np.uint8]]:
        """Height (m) of the top surface, and what is there (covers, SOLID, BUSH, WATER), at positions of any shape."""
        height, what, _ = self._above(east, north, 0.0)
        return height, what

    def colours(self, east: F64, north: F64, cell: float) -> NDArray[np.uint8]:
        """What an ideal orthomosaic shows in cells of that side, (..., 3) uint8, at unit exposure."""
        return _developed(self._above(east, north, cell)[2] * 1.0)

    def _above(self, east: F64, north: F64, cell: float) -> tuple[F64, NDArray[np.uint8], F32]:
        xy = self.frame.to_local(np.column_stack([np.ravel(east), np.ravel(north)]))
        count = len(xy)
        colour, height, what = np.empty((count, 3), np.float32), np.empty(count), np.empty(count, np.uint8)
        half = 0.5 * cell / self.frame.scale
        du, dv = half * self.frame.turn[0], half * self.frame.turn[1]
        _from_above(self.scene.place, PALETTE, xy[:, 0].copy(), xy[:, 1].copy(), du, dv, np.zeros(4), colour, height, what)
        shape = np.shape(east)
        return height.reshape(shape), what.reshape(shape), colour.reshape(*shape, 3)

    def views(self, east: F64, north: F64, height: F64, margin: float = 8.0) -> NDArray[np.uint8]:
        """Number of photos that see each place, `margin` px inside their edges and with nothing before it."""
        X = np.column_stack([self.frame.to_local(np.column_stack([np.ravel(east), np.ravel(north)])), np.ravel(height)])
        R, C, V = (np.array([getattr(s, part) for s in self.shots]) for part in "RCV")
        counted = _count_views(self.scene.place, self.lens, R, C, V, self.config.readout_s, self.config.size, X, margin)
        return np.asarray(counted.reshape(np.shape(east)))

    def ring(self, body: Literal["pit", "pile"]) -> F64:
        """Closed polygon around it, (E, N)."""
        return self.frame.to_map(self.scene.pit_ring if body == "pit" else self.scene.pile_ring)

    def volume(self, body: Literal["pit", "pile"]) -> float:
        """m3 as a map measures it: areas in the grid, heights as they are."""
        return (self.scene.pit_volume if body == "pit" else self.scene.pile_volume) * self.frame.scale**2


def truth_of(config: IndependentConfig) -> Truth:
    """The truth of a flight, without its photos."""
    scene, frame, shots, lens = build_scene(config), grid_frame(), plan(config), lens_of(config)
    rng = np.random.default_rng([7005, config.seed, config.epoch])
    points = []
    margin = 0.7 * TARGET / config.gsd * 2 + 4
    for role, chosen in (("control", scene.control), ("check", scene.checks)):
        for name, x, y, z in chosen:
            marks = {}
            for shot in shots:
                X = np.array([x, y, z])
                col, row, _ = _project(lens, shot.R, shot.C, shot.V, config.readout_s, config.size, X)
                inside = margin <= col <= config.size[0] - margin and margin <= row <= config.size[1] - margin
                if inside and _sees(scene.place, shot.C, X, 0.1):
                    marks[shot.name] = (float(col), float(row))
            e, n = frame.to_map(np.array([[x, y]]))[0]
            error = rng.normal(0, 1, 3) * np.array([config.survey_sd[0], config.survey_sd[0], config.survey_sd[1]])
            stated = (float(e + error[0]), float(n + error[1]), float(z + error[2]))
            points.append(Surveyed(name, role, (float(e), float(n), float(z)), stated, marks))  # type: ignore[arg-type]
    return Truth(config, scene, frame, shots, lens, tuple(points))


def _developed(linear: Any) -> NDArray[np.uint8]:
    """Linear radiance to 8-bit by a gamma of 2.2 with a soft shoulder."""
    curve = np.maximum(1.25 * np.asarray(linear, np.float64), 0) ** (1 / 2.2)
    return np.asarray(np.rint(255 * np.where(curve < 0.85, curve, 0.85 + 0.15 * np.tanh((curve - 0.85) / 0.15))), np.uint8)


def _photograph(truth: Truth, rays: F64, index: int) -> NDArray[np.uint8]:
    config, shot = truth.config, truth.shots[index]
    width, height = config.size
    linear = np.empty((height, width, 3), np.float32)
    _expose(truth.scene.place, PALETTE, truth.lens, rays, shot.R, shot.C, shot.V, config.readout_s, shot.waves, linear)
    linear = gaussian_filter(linear * shot.gain.astype(np.float32), (0.4, 0.4, 0))
    rng = np.random.default_rng([7006, config.seed, config.epoch, index])
    # Photon noise grows with the root of the light; 0.8 % at a reflectance of 0.2.
    linear = linear + rng.standard_normal(linear.shape) * np.sqrt(0.0008**2 + 1.2e-5 * np.maximum(linear, 0))
    picture = _developed(linear).astype(np.float32)
    picture += 0.35 * (picture - gaussian_filter(picture, (1.0, 1.0, 0)))
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)


def _sexagesimal(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    value = abs(value)
    d = int(value)
    m = int((value - d) * 60)
    return IFDRational(d, 1), IFDRational(m, 1), IFDRational(round((value - d - m / 60) * 3600 * 100_000), 100_000)


def _labels(config: IndependentConfig, shot: Exposure, lon: float, lat: float, height: float) -> tuple[bytes, bytes]:
    """EXIF and XMP of a photo. Like many makers' gimbals this one says -90 and 0 whatever it does."""
    exif = Image.Exif()
    exif[0x010E] = "synthetic (independent renderer)"
    exif[0x010F], exif[0x0110] = "Bench", "IND-1"
    exif[0x0112] = 1
    exif[0x0132] = shot.time.strftime("%Y:%m:%d %H:%M:%S")
    inner = exif.get_ifd(0x8769)
    inner[0x9003] = inner[0x9004] = shot.time.strftime("%Y:%m:%d %H:%M:%S")
    inner[0x9011] = "+00:00"
    inner[0x9291] = f"{shot.time.microsecond // 1000:03d}"
    inner[0x829A], inner[0x829D], inner[0x8827] = IFDRational(1, 1000), IFDRational(28, 10), 100
    inner[0x920A] = IFDRational(round(config.focal_share * 132), 10)
    inner[0xA405] = round(config.focal_share * 36)
    inner[0xA002], inner[0xA003] = config.size
    gps = exif.get_ifd(0x8825)
    gps[0] = b"\x02\x03\x00\x00"
    gps[1], gps[2], gps[3], gps[4] = "N", _sexagesimal(lat), "E", _sexagesimal(lon)
    gps[5], gps[6] = b"\x00", IFDRational(round(height * 1000), 1000)
    heading = 0.0 if shot.V[1] > 0 else 180.0
    said = {
        "AbsoluteAltitude": f"+{height:.2f}",
        "RelativeAltitude": f"+{height - HEIGHT0:.2f}",
        "GpsLatitude": f"{lat:.9f}",
        "GpsLongitude": f"{lon:.9f}",
        "GimbalYawDegree": f"{heading:+.2f}",
        "GimbalPitchDegree": "-90.00",
        "GimbalRollDegree": "+0.00",
        "FlightYawDegree": f"{heading:+.2f}",
    }
    if config.gps == "rtk":
        said |= {"RtkFlag": "50", "RtkStdLon": "0.01500", "RtkStdLat": "0.01500", "RtkStdHgt": "0.02500"}
    pairs = " ".join(f'drone-dji:{name}="{value}"' for name, value in said.items())
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="synthetic" xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" {pairs}/></rdf:RDF></x:xmpmeta>'
    )
    return exif.tobytes(), xmp.encode()


def _relabelled(jpeg: bytes, exif: bytes, xmp: bytes) -> bytes:
    """The JPEG with these APP1 segments in place of its own (ITU-T T.81 B.1.1.4; XMP specification part 3, s1.1.3)."""
    at, rest = 2, b""
    while jpeg[at + 1] not in (0xDA, 0xD9):
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] != 0xE1:
            rest += jpeg[at:end]
        at = end
    bodies = (exif, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    labels = b"".join(b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body for body in bodies)
    return jpeg[:2] + labels + rest + jpeg[at:]


def write_flight(folder: Path, config: IndependentConfig, *, threads: int = 1, pictures: Path | None = None) -> Truth:
    """Photos, `gcp_list.txt`, `check_list.txt` and `polygons.geojson` in `folder`; nothing is done when they are there.

    Survey files stand beside the folder of photos (`folder/photos`). pictures: folder of the same flight with other GNSS, whose
    pictures are taken as they are.
    """
    truth = truth_of(config)
    folder = Path(folder)
    stamp = folder / "stamp.txt"
    if stamp.is_file() and stamp.read_text("utf-8") == config.label:
        return truth
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([7007, config.seed, config.epoch])
    geographic = Transformer.from_crs(truth.frame.crs, 4326, always_xy=True)
    axes = np.array([1.5, 1.5, 3.0] if config.gps == "gps" else [0.02, 0.02, 0.03])
    common, drift = rng.normal(0, 1, 3), np.zeros(3)
    labels = []
    for shot in truth.shots:
        # GNSS without corrections errs for the most part alike over the minutes of a flight.
        drift = 0.9 * drift + rng.normal(0, 0.436, 3)
        parts = (0.85, 0.4, 0.34) if config.gps == "gps" else (0.3, 0.4, 0.866)
        error = axes * (parts[0] * common + parts[1] * drift + parts[2] * rng.normal(0, 1, 3))
        e, n = truth.frame.to_map(shot.C[None, :2])[0]
        lon, lat = geographic.transform(e + error[0], n + error[1])
        labels.append(_labels(config, shot, lon, lat, shot.C[2] + error[2]))

    rays = _sample_rays(truth.lens, *config.size)

    def take(index: int) -> None:
        name = truth.shots[index].name
        if pictures is not None:
            jpeg = (Path(pictures) / "photos" / name).read_bytes()
        else:
            buffer = io.BytesIO()
            picture = Image.fromarray(_photograph(truth, rays, index))
            picture.save(buffer, "JPEG", quality=config.quality, subsampling=2)
            jpeg = buffer.getvalue()
        part = photos / (name + ".part")
        part.write_bytes(_relabelled(jpeg, *labels[index]))
        os.replace(part, photos / name)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(take, range(len(truth.shots))))
    marks = np.random.default_rng([7008, config.seed, config.epoch])
    for role, name in (("control", "gcp_list.txt"), ("check", "check_list.txt")):
        lines = ["EPSG:32650"]
        for point in truth.points:
            if point.role == role:
                e, n, u = point.stated
                for photo, (col, row) in sorted(point.marks.items()):
                    a, b = np.array([col, row]) + marks.normal(0, config.mark_sd, 2)
                    lines.append(f"{e:.4f} {n:.4f} {u:.4f} {a:.2f} {b:.2f} {photo} {point.name}")
        (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    features = [
        {
            "type": "Feature",
            "properties": {"name": body},
            "geometry": {"type": "Polygon", "coordinates": [truth.ring(body).round(4).tolist()]},  # type: ignore[arg-type]
        }
        for body in ("pit", "pile")
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32650"}}
    (folder / "polygons.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}), "utf-8")
    stamp.write_text(config.label, "utf-8")
    return truth
