"""Judges the products of a drone flight against known truth, the same way for every program.

In: a `Reference` (what is true at any place) and a product: estimated ground points, a surface model, an orthomosaic. Out:
plain numbers in units of the GSD where the goals are. A surface is judged on cells of about 2.5 GSD: finer ones are averaged
first, so that no program wins by smoothing and none loses by fine cells. It reads no files and knows no program.

Away from steep edges: at least six GSD from where the true surface rises by more than 55 degrees, and from bushes. Flat ground:
also not on a house and sloping less than 15 degrees within five cells. Smooth trend: mean error of flat ground under a Gaussian of 40 GSD.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
EDGE_GSD, TREND_GSD, CELL_GSD = 6.0, 40.0, 2.5
GROUND, ROOF, VEGETATION, WATER = range(4)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What is true of a flight.

    gsd: m. surface: (E, N) -> height of the top surface (m) and what it is (`GROUND`, `ROOF`, `VEGETATION`, `WATER`).
    views: (E, N, height) -> number of photos that see the place. colours: (E, N, cell m) -> (..., 3) uint8 as seen from above.
    area: (west, south, east, north) that holds all that three photos see. points: name of a check point -> true (E, N, U) m.
    bodies: name -> (closed ring (n, 2) E, N; volume m3, positive; -1 for a pit, 1 for a heap).
    """

    gsd: float
    surface: Callable[[F64, F64], tuple[F64, NDArray[np.uint8]]]
    views: Callable[[F64, F64, F64], NDArray[np.uint8]]
    colours: Callable[[F64, F64, float], NDArray[np.uint8]]
    area: tuple[float, float, float, float]
    points: Mapping[str, tuple[float, float, float]]
    bodies: Mapping[str, tuple[F64, float, int]]


def reference_of_independent(truth: Any) -> Reference:
    """Truth of `bench.drone_independent`."""
    from bench.drone_independent import BUSH, SOLID
    from bench.drone_independent import WATER as FLOODED

    def surface(east: F64, north: F64) -> tuple[F64, NDArray[np.uint8]]:
        height, what = truth.surface(east, north)
        kind = np.full(what.shape, GROUND, np.uint8)
        kind[what == SOLID], kind[what == BUSH], kind[what == FLOODED] = ROOF, VEGETATION, WATER
        return height, kind

    centres = truth.frame.to_map(np.array([shot.C[:2] for shot in truth.shots]))
    config = truth.config
    reach = 0.5 * config.gsd * np.array(config.size) * 1.25
    return Reference(
        gsd=config.gsd,
        surface=surface,
        views=truth.views,
        colours=truth.colours,
        area=(*(centres.min(axis=0) - reach), *(centres.max(axis=0) + reach)),
        points={p.name: p.true for p in truth.points if p.role == "check"},
        bodies={"pit": (truth.ring("pit"), truth.volume("pit"), -1), "pile": (truth.ring("pile"), truth.volume("pile"), 1)},
    )


def reference_of_own(truth: Any) -> Reference:
    """Truth of a `drone.synthetic.FlightTruth`; a place counts as seen when it lies inside a photo (its heights hide little)."""
    from drone.synthetic import _ROOF_BLUE, _ROOF_FLAT, _ROOF_RED, _TREE, project

    site, config = truth.site, truth.config
    detail, (x0, y0), (e0, n0) = site.config.detail, site.corner, site.config.origin
    rows, cols = site.heights.shape

    def index(east: F64, north: F64, step: float, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        col = np.clip(np.rint((east - e0 - x0) / step), 0, shape[1] - 1).astype(np.int64)
        row = np.clip(np.rint((north - n0 - y0) / step), 0, shape[0] - 1).astype(np.int64)
        return row, col

    def surface(east: F64, north: F64) -> tuple[F64, NDArray[np.uint8]]:
        height = site.heights_at(np.column_stack([np.ravel(east), np.ravel(north)])).reshape(np.shape(east))
        at = index(east, north, detail, (rows, cols))
        kind = np.full(np.shape(east), GROUND, np.uint8)
        kind[np.isin(site.kind[at], (_ROOF_RED, _ROOF_BLUE, _ROOF_FLAT))] = ROOF
        kind[site.kind[at] == _TREE] = VEGETATION
        kind[site.water[at]] = WATER
        return height, kind

    def views(east: F64, north: F64, height: F64) -> NDArray[np.uint8]:
        places = np.column_stack([np.ravel(east), np.ravel(north), np.ravel(height)])
        seen = np.zeros(len(places), np.uint8)
        for pose in truth.poses.values():
            col, row = project(config.params, pose, places).T
            seen += (col >= 8) & (row >= 8) & (col <= config.image_size[0] - 8) & (row <= config.image_size[1] - 8)
        return seen.reshape(np.shape(east))

    def colours(east: F64, north: F64, cell: float) -> NDArray[np.uint8]:
        picture = ndimage.gaussian_filter(site.texture, (cell / detail * 0.6, cell / detail * 0.6, 0))
        return np.asarray(picture[index(east, north, detail / 2, picture.shape)])

    centres = np.array([pose.C[:2] for pose in truth.poses.values()])
    reach = 0.5 * config.gsd * max(config.image_size) * 1.25
    ring = {name: np.array(body.outline) for name, body in (("pit", site.pit), ("pile", site.pile))}
    return Reference(
        gsd=config.gsd,
        surface=surface,
        views=views,
        colours=colours,
        area=(
            *np.maximum(centres.min(axis=0) - reach, [e0 + x0, n0 + y0]),
            *np.minimum(centres.max(axis=0) + reach, [e0 - x0, n0 - y0]),
        ),
        points={p.name: truth.targets[p.name] for p in truth.ground_points if p.role == "check"},
        bodies={
            "pit": (_outwards(ring["pit"], 0.5), site.pit.volume, -1),
            "pile": (_outwards(ring["pile"], 0.5), site.pile.volume, 1),
        },
    )


def _outwards(ring: F64, by: float) -> F64:
    from shapely.geometry import Polygon

    return np.array(Polygon(ring).buffer(by, quad_segs=4).exterior.coords)


# -------------------------------------------------------------------------------------------------------- ground points


def score_points(estimated: Mapping[str, tuple[float, float, float]], reference: Reference) -> dict[str, float]:
    """RMSE of check points against their true positions, in GSD: plan (root of E^2 + N^2), height, largest of each; how many."""
    names = sorted(set(estimated) & set(reference.points))
    if not names:
        return {"check_points": 0}
    off = np.array([np.subtract(estimated[name], reference.points[name]) for name in names]) / reference.gsd
    plan = np.hypot(off[:, 0], off[:, 1])
    return {
        "check_points": len(names),
        "plan_rmse": float(np.sqrt(np.mean(plan**2))),
        "height_rmse": float(np.sqrt(np.mean(off[:, 2] ** 2))),
        "plan_max": float(plan.max()),
        "height_max": float(np.abs(off[:, 2]).max()),
    }


# -------------------------------------------------------------------------------------------------------------- surface


def coarsened(heights: F64, transform: Affine, cell: float) -> tuple[F64, Affine]:
    """Means of whole numbers of cells so that cells are about `cell` m; empty where more than half is."""
    factor = max(1, round(cell / transform.a))
    if factor == 1:
        return heights, transform
    rows, cols = (side // factor * factor for side in heights.shape)
    parts = heights[:rows, :cols].reshape(rows // factor, factor, cols // factor, factor)
    known = np.isfinite(parts)
    count = known.sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        mean = np.where(known, parts, 0).sum(axis=(1, 3)) / np.where(2 * count >= factor * factor, count, np.nan)
    return mean, transform @ Affine.scale(factor)


def _extended(heights: F64, transform: Affine, area: tuple[float, float, float, float]) -> tuple[F64, Affine]:
    """The raster on a frame that holds `area`, empty beyond what it covered."""
    cell = transform.a
    left, top = (max(0, int(np.ceil(v))) for v in ((transform.c - area[0]) / cell, (area[3] - transform.f) / cell))
    right = max(0, int(np.ceil((area[2] - transform.c) / cell)) - heights.shape[1])
    bottom = max(0, int(np.ceil((transform.f - area[1]) / cell)) - heights.shape[0])
    return np.pad(heights, ((top, bottom), (left, right)), constant_values=np.nan), transform @ Affine.translation(-left, -top)


def _centres(transform: Affine, shape: tuple[int, int]) -> tuple[F64, F64]:
    col, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    return transform.c + col * transform.a, transform.f + row * transform.e


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Truth on a grid. heights: means over cells. kind: of their middles. seen: by three photos. open: away from steep edges.
    flat: open, level ground."""

    heights: F64
    kind: NDArray[np.uint8]
    seen: Mask
    open: Mask
    flat: Mask


def ground_on(reference: Reference, transform: Affine, shape: tuple[int, int]) -> Ground:
    east, north = _centres(transform, shape)
    cell = transform.a
    middle, kind = reference.surface(east, north)
    heights = np.zeros(shape)
    for a in (-0.25, 0.25):
        for b in (-0.25, 0.25):
            heights += 0.25 * reference.surface(east + a * cell, north + b * cell)[0]
    step = max(1, round(4 * CELL_GSD * reference.gsd / cell / 2))
    coarse = reference.views(east[::step, ::step], north[::step, ::step], middle[::step, ::step])
    seen = np.repeat(np.repeat(coarse, step, axis=0), step, axis=1)[: shape[0], : shape[1]] >= 3
    rise = ndimage.maximum_filter(middle, 3) - ndimage.minimum_filter(middle, 3)
    sharp = (rise > 2 * cell * np.tan(np.radians(55))) | (kind == VEGETATION)
    # Roofs change kind where nothing need be steep for a cell (its eaves); edges of kinds count too.
    sharp |= ndimage.maximum_filter((kind == ROOF).astype(np.uint8), 3) != ndimage.minimum_filter(
        (kind == ROOF).astype(np.uint8), 3
    )
    away = ndimage.distance_transform_edt(~sharp) * cell if sharp.any() else np.full(shape, np.inf)
    open_ = (away >= EDGE_GSD * reference.gsd) & (kind != WATER) & seen
    broad = ndimage.uniform_filter(heights, 5)
    gy, gx = np.gradient(broad, cell)
    flat = open_ & (kind == GROUND) & (np.hypot(gx, gy) < np.tan(np.radians(15)))
    return Ground(heights, kind, seen, open_, flat)


def _nmad(values: F64) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def score_surface(heights: F64, transform: Affine, reference: Reference) -> dict[str, float]:
    """Numbers of a surface model: (rows, cols) m, NaN = empty, north up, square cells, heights as the truth's.

    In GSD: bias, nmad, rmse (away from steep edges), flat_noise (NMAD of flat ground about its smooth trend), flat_sd, trend (NMAD of
    that trend), flat_roof nmad of roofs. Shares: gross (flat ground beyond 3 GSD), complete (of what three photos see, no water),
    water_filled (of water, cells with heights). Relative errors: volume_pit, volume_pile; base is the plane through the rim of the ring.
    """
    gsd = reference.gsd
    heights, transform = coarsened(np.asarray(heights, np.float64), transform, CELL_GSD * gsd)
    heights, transform = _extended(heights, transform, reference.area)
    cell = transform.a
    ground = ground_on(reference, transform, heights.shape)
    known = np.isfinite(heights)
    error = np.where(known, heights - ground.heights, np.nan) / gsd
    result: dict[str, float] = {"cell_gsd": cell / gsd}
    land = ground.seen & (ground.kind != WATER)
    result["complete"] = float((known & land).sum() / land.sum())
    water = ground.seen & ndimage.binary_erosion(ground.kind == WATER, iterations=max(1, round(6 * gsd / cell)))
    if water.any():
        result["water_filled"] = float((known & water).sum() / water.sum())
    judged = error[ground.open & known]
    if len(judged) < 100:
        return result
    result |= {
        "bias": float(np.median(judged)),
        "nmad": _nmad(judged),
        "rmse": float(np.sqrt(np.mean(judged**2))),
        "beyond_3": float(np.mean(np.abs(judged) > 3)),
    }
    flat = ground.flat & known
    values = np.where(flat, np.clip(error - result["bias"], -3, 3), 0.0)
    sigma = TREND_GSD * gsd / cell
    weight = ndimage.gaussian_filter(flat.astype(np.float64), sigma)
    trend = ndimage.gaussian_filter(values, sigma) / np.maximum(weight, 1e-9)
    rest = (error - result["bias"] - trend)[flat & (weight > 0.05)]
    result |= {
        "flat_noise": _nmad(rest),
        "flat_sd": float(np.std(np.clip(rest, -3, 3))),
        "trend": _nmad(trend[flat]),
        "gross": float(np.mean(np.abs(error[flat]) > 3)),
    }
    roof = ground.open & known & (ground.kind == ROOF)
    if roof.sum() > 100:
        result["roof_nmad"] = _nmad(error[roof])
        result["roof_bias"] = float(np.median(error[roof]))
    for name, (ring, volume, sign) in reference.bodies.items():
        found = volume_over_rim(heights, transform, ring)
        if found is not None:
            result[f"volume_{name}"] = (sign * found[0] - volume) / volume
            result[f"volume_{name}_empty"] = found[1]
    return result


def volume_over_rim(heights: F64, transform: Affine, ring: F64) -> tuple[float, float] | None:
    """Net volume above the plane through the ring (m3), and the share of cells without heights, taken from around. None
    when a tenth of the cells or more are empty, or the ring is not covered. Plane: least squares over a ring of 0.4 m, thrice trimmed."""
    import cv2

    cell = transform.a
    local = np.column_stack([(ring[:, 0] - transform.c) / cell, (transform.f - ring[:, 1]) / cell])
    if (local < 2).any() or (local[:, 0] > heights.shape[1] - 2).any() or (local[:, 1] > heights.shape[0] - 2).any():
        return None
    # Sixteenths of a cell: the share of a cell inside the ring from a finer mask.
    fine = 4
    mask = np.zeros((heights.shape[0] * fine, heights.shape[1] * fine), np.uint8)
    cv2.fillPoly(mask, [np.rint(local * fine * 256 - 128).astype(np.int32)], 1, shift=8)
    share = mask.reshape(heights.shape[0], fine, heights.shape[1], fine).mean(axis=(1, 3))
    inside = share > 0
    empty = float(share[inside & ~np.isfinite(heights)].sum() / share.sum())
    if empty >= 0.1:
        return None
    line = np.zeros(heights.shape, np.uint8)
    cv2.polylines(line, [np.rint(local * 256 - 128).astype(np.int32)], True, 1, thickness=max(1, round(0.4 / cell)), shift=8)
    rim = (line > 0) & np.isfinite(heights)
    if rim.sum() < 0.7 * (line > 0).sum():
        return None
    row, col = np.nonzero(rim)
    z = heights[rim]
    A = np.column_stack([np.ones(len(z)), col, row])
    keep = np.ones(len(z), bool)
    for _ in range(4):
        plane = np.linalg.lstsq(A[keep], z[keep], rcond=None)[0]
        off = z - A @ plane
        keep = np.abs(off) < 3 * max(_nmad(off[keep]), 1e-3)
    nearest = ndimage.distance_transform_edt(~np.isfinite(heights), return_distances=False, return_indices=True)
    filled = heights[tuple(nearest)]
    rows, cols = np.nonzero(inside)
    above = filled[inside] - (plane[0] + plane[1] * cols + plane[2] * rows)
    return float((above * share[inside]).sum() * cell * cell), empty


# ---------------------------------------------------------------------------------------------------------- orthomosaic


def score_ortho(colour: NDArray[np.uint8], drawn: Mask, transform: Affine, reference: Reference) -> dict[str, float]:
    """Displacement of an orthomosaic (rows, cols, 3) against the true one, by correlation of windows of 33 cells, one every 2 m.

    In GSD: rms, median, p95 (length of the displacement; ground away from edges), shift_e, shift_n (medians), roof_rms.
    matched: share of windows whose best correlation within five cells reaches 0.5. drawn: share of what three photos see.
    """
    import cv2

    cell, gsd, half, search = transform.a, reference.gsd, 16, 5
    step = max(1, round(2.0 / cell))
    west, south, east, north = reference.area
    rim = half + search + 1
    rows = np.arange(rim, colour.shape[0] - rim, step)
    cols = np.arange(rim, colour.shape[1] - rim, step)
    e, n = transform.c + (cols + 0.5) * transform.a, transform.f + (rows + 0.5) * transform.e
    cols, rows = cols[(e > west) & (e < east)], rows[(n > south) & (n < north)]
    E, N = np.meshgrid(transform.c + (cols + 0.5) * transform.a, transform.f + (rows + 0.5) * transform.e)
    height, kind = reference.surface(E, N)
    seen = reference.views(E, N, height) >= 3
    land = seen & (kind != WATER)
    result: dict[str, float] = {"cell_gsd": cell / gsd}
    result["drawn"] = float(drawn[np.ix_(rows, cols)][land].mean()) if land.any() else 0.0
    offset = np.arange(-half - 3, half + 4)
    found: dict[str, list[tuple[float, float]]] = {"ground": [], "roof": []}
    tried = {"ground": 0, "roof": 0}
    # Both are softened alike: what a cell is too coarse to hold would draw matches towards whole cells.
    grey = _softened(colour)
    for i, j in zip(*np.nonzero(land), strict=True):
        r, c = int(rows[i]), int(cols[j])
        if not drawn[r - half - search : r + half + search + 1, c - half - search : c + half + search + 1].all():
            continue
        pe, pn = np.meshgrid(transform.c + (c + offset + 0.5) * cell, transform.f - (r + offset + 0.5) * cell)
        z, what = reference.surface(pe[::4, ::4], pn[::4, ::4])
        plane = float(np.ptp(z - np.median(z)))
        on_roof = bool((what == ROOF).all())
        if not on_roof and ((what != GROUND).any() or plane > 4 * half * cell * np.tan(np.radians(40))):
            continue
        window = "roof" if on_roof else "ground"
        tried[window] += 1
        true = np.ascontiguousarray(_softened(reference.colours(pe, pn, cell))[3:-3, 3:-3])
        if true.std() < 2:
            tried[window] -= 1
            continue
        around = grey[r - half - search : r + half + search + 1, c - half - search : c + half + search + 1]
        likeness = cv2.matchTemplate(around, true, cv2.TM_CCOEFF_NORMED)
        at = np.unravel_index(int(np.argmax(likeness)), likeness.shape)
        if likeness[at] < 0.5 or min(at) == 0 or max(at) == 2 * search:
            continue
        start = (float(at[1] - search), float(at[0] - search))
        moved = _matched(grey, true, c, r, start)
        if moved is not None:
            found[window].append(moved)
    if found["ground"]:
        shift = np.array(found["ground"]) * cell / gsd
        length = np.hypot(shift[:, 0], shift[:, 1])
        result |= {
            "rms": float(np.sqrt(np.mean(length**2))),
            "median": float(np.median(length)),
            "p95": float(np.quantile(length, 0.95)),
            "shift_e": float(np.median(shift[:, 0])),
            "shift_n": float(-np.median(shift[:, 1])),
            "matched": len(shift) / tried["ground"],
            "windows": len(shift),
        }
    if len(found["roof"]) >= 5:
        shift = np.array(found["roof"]) * cell / gsd
        result["roof_rms"] = float(np.sqrt(np.mean(shift[:, 0] ** 2 + shift[:, 1] ** 2)))
        result["roof_matched"] = len(shift) / tried["roof"]
    return result


def _softened(colour: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey (BT.601) under a Gaussian of 0.8 cells."""
    grey = colour.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(ndimage.gaussian_filter(grey, 0.8))


def _matched(
    picture: NDArray[np.float32], true: NDArray[np.float32], col: int, row: int, start: tuple[float, float]
) -> tuple[float, float] | None:
    """(columns, rows) by which the picture around (col, row) lies off `true`; None where it does not settle near the start.

    Least squares matching with gain and offset (Ackermann 1984, Photogrammetria 39); a parabola through correlations would lean
    towards whole cells by a fifth of the displacement.
    """
    import cv2

    half = true.shape[0] // 2
    offset = np.arange(-half, half + 1, dtype=np.float32)
    goal = true.astype(np.float64).ravel()
    dx, dy = start
    for _ in range(8):
        x, y = np.meshgrid(offset + np.float32(col + dx), offset + np.float32(row + dy))
        around = [
            cv2.remap(picture, x + np.float32(a), y + np.float32(b), cv2.INTER_CUBIC).astype(np.float64)
            for a, b in ((0, 0), (0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
        ]
        gx, gy = (around[1] - around[2]).ravel(), (around[3] - around[4]).ravel()
        here = around[0].ravel()
        step = np.linalg.lstsq(np.column_stack([gx, gy, here, np.ones(len(here))]), goal, rcond=None)[0]
        if step[2] <= 0.1:
            return None
        move = step[:2] / step[2]
        dx, dy = dx + float(np.clip(move[0], -0.7, 0.7)), dy + float(np.clip(move[1], -0.7, 0.7))
        if np.abs(move).max() < 0.005:
            break
    return (dx, dy) if max(abs(dx - start[0]), abs(dy - start[1])) < 1.5 else None
