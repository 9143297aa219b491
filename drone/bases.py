"""The surface below a heap or above a pit from which a volume is counted, and how it hangs on the heights that were measured.

In: a `Patch` of cells, the polygon, which base is wanted. Out: its level in each cell with the derivatives by the cells' heights,
and for bases that stand in for ground that nobody measured, how far that ground may lie off them, judged from the rim.
Robust where a bush stands on the line; refused where less than half of the rim has heights. No figure is stated here.
Source: Patterson and Thompson 1971, doi:10.1093/biomet/58.3.545 (restricted likelihood of a spatial model with a trend).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.spatial import Delaunay, QhullError

from drone.propagation import Kernel, Patch, correlation, spread_of
from geoevidence.errors import CoverageError

Array = NDArray[np.float64]
Base = Literal["rim", "lowest", "triangulated", "horizontal", "plane"]
Plane = tuple[float, float, float, float, float]
"""E, N, height (m), slope east, slope north (1)."""
_KERNELS: tuple[Kernel, ...] = ("gaussian", "matern", "exponential")
_SIZES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0])
"""Standard deviations of the former ground that are weighed, in robust sd of the rim: evenly, the prior of Gelman 2006."""
_RIM_CELLS = 60
"""Cells of the rim from which the former ground is judged; its plane uses all."""
_CORNERS = 400
"""Cells of the rim between which triangles are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """A base surface below (or above) a body: `level` (rows, cols) m, and how it hangs on the cells.

    slope: (east, north) of its main plane (1). pull: derivatives of its level, None for a base that stands in the world.
    """

    level: Array
    slope: tuple[float, float]
    pull: Pull | None = None

    def pulled(self, weight: Array) -> Array:
        """d (sum of weight * level) / d heights of the cells, (rows, cols)."""
        return np.zeros_like(weight) if self.pull is None else self.pull.back(weight)


class Pull(Protocol):
    """level_i = sum_j w_ij z_j over the cells of the rim, kept as its transpose."""

    def back(self, weight: Array) -> Array: ...


class PlanePull:
    """Plane a + b x + c y whose three numbers hang on the rim cells by `solver` (3, n)."""

    def __init__(self, patch: Patch, on_rim: NDArray[np.bool_], solver: Array) -> None:
        self.patch, self.on_rim, self.solver = patch, on_rim, solver

    def back(self, weight: Array) -> Array:
        moments = np.array([weight.sum(), np.sum(weight * self.patch.x), np.sum(weight * self.patch.y)])
        out = np.zeros_like(weight)
        out[self.on_rim] = moments @ self.solver
        return out


class PointPull:
    """Level plane through a mean of cells: `share` (rows, cols), adding up to 1."""

    def __init__(self, share: Array) -> None:
        self.share = share

    def back(self, weight: Array) -> Array:
        return np.asarray(weight.sum() * self.share)


class TrianglePull:
    """Heights between corners of triangles: cell `inner[i]` is the mean of cells `corners[i]` by `parts[i]` (barycentric)."""

    def __init__(self, inner: NDArray[np.int64], corners: NDArray[np.int64], parts: Array) -> None:
        self.inner, self.corners, self.parts = inner, corners, parts

    def back(self, weight: Array) -> Array:
        w = weight.ravel()[self.inner]
        out = np.bincount(self.corners.ravel(), weights=(w[:, None] * self.parts).ravel(), minlength=weight.size)
        return np.asarray(out, np.float64).reshape(weight.shape)


def rim_cells(patch: Patch, polygon: shapely.Polygon, count: int) -> NDArray[np.int64]:
    """Flat indices of at most `count` known rim cells, evenly spread along the outer ring, in its order.

    Raises:
        CoverageError: less than half of the ring has heights.
    """
    known = (patch.rim > 0) & np.isfinite(patch.z)
    covered = float(patch.rim[known].sum() / patch.rim.sum())
    if covered < 0.5 or np.count_nonzero(known) < 4:
        raise CoverageError("drone.rim_uncovered", covered=f"{100 * covered:.0f}")
    cells = np.flatnonzero(known)
    spots = shapely.points(patch.x.ravel()[cells] + patch.middle[0], patch.y.ravel()[cells] + patch.middle[1])
    place = shapely.line_locate_point(shapely.LineString(polygon.exterior.coords), spots)
    cells = cells[np.lexsort((cells, place))]
    if len(cells) <= count:
        return cells
    return cells[np.unique(np.linspace(0, len(cells) - 1, count).round().astype(np.int64))]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerGround:
    """How ground that nobody measured departs from the plane of its rim: (kernel, correlation length m, variance m2), summed.

    The ground's height about a plane is taken as a stationary field. How smooth it is, its size and its length are not known: all
    are weighted over a grid by the restricted likelihood of the rim (Patterson and Thompson 1971), from which the plane's freedom,
    the cells' own noise and what differs from one rim cell to the next are taken out.
    """

    parts: tuple[tuple[Kernel, float, float], ...]

    @classmethod
    def of_rim(
        cls, patch: Patch, cells: NDArray[np.int64], residual: Array, noise_sd: Array | None, noise_range: float
    ) -> FormerGround:
        """cells: flat indices (n,) in the order of the rim; residual: (n,) m about the plane; noise_sd: (n,) m or None; noise_range: m."""
        x, y = patch.x.ravel()[cells], patch.y.ravel()[cells]
        spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual)))) or float(np.std(residual))
        if spread <= 1e-6:
            return cls(parts=())
        r = np.clip(residual, -4 * spread, 4 * spread)  # a bush on the line is no property of the ground
        d = np.hypot(np.subtract.outer(x, x), np.subtract.outer(y, y))
        trend = np.column_stack([np.ones(len(x)), x, y])
        sd = np.zeros(len(x)) if noise_sd is None else noise_sd
        # Second differences see roughness between neighbours and no slow form; of independent values they have six variances.
        rough = 1.4826 * float(np.median(np.abs(2 * r - np.roll(r, 1) - np.roll(r, -1)))) / math.sqrt(6)
        noise = np.outer(sd, sd) * np.exp(-((d / max(noise_range, 1e-9)) ** 2)) + (rough**2 + 1e-6 * spread**2) * np.eye(len(x))
        wide = float(d.max())
        lengths = np.geomspace(max(1.5 * patch.cell, wide / 16), wide, 5)
        sizes = spread * _SIZES
        found: list[tuple[Kernel, float, Array]] = [
            (
                kernel,
                float(length),
                np.array([_restricted_likelihood(noise + size**2 * correlation(d / length, kernel), trend, r) for size in sizes]),
            )
            for kernel in _KERNELS
            for length in lengths
        ]
        best = max((float(each.max()) for _, _, each in found), default=-math.inf)
        if not math.isfinite(best):
            return cls(parts=(("gaussian", wide / 4, spread**2),))
        weights = [np.where(np.isfinite(each), np.exp(np.minimum(each - best, 0.0)), 0.0) for _, _, each in found]
        total = float(sum(w.sum() for w in weights))
        parts = [(k, length, float(w @ sizes**2) / total) for (k, length, _), w in zip(found, weights, strict=True)]
        least = 1e-4 * max(v for _, _, v in parts)
        return cls(parts=tuple(part for part in parts if part[2] > least))

    def spread(self, c: Array, cell: float) -> float:
        """Standard deviation of sum c_i g_i, c (rows, cols) on cells of side `cell` (m)."""
        return math.sqrt(sum(v * spread_of(c, length / cell, kernel=kernel) ** 2 for kernel, length, v in self.parts))


def _restricted_likelihood(covariance: Array, trend: Array, r: Array) -> float:
    """Log restricted likelihood up to a constant; -inf where the covariance is not positive definite."""
    try:
        factor = cho_factor(covariance, lower=True)
        both = cho_solve(factor, np.column_stack([trend, r]))
        inner = trend.T @ both[:, :3]
        small = cho_factor(inner, lower=True)
        beta = cho_solve(small, trend.T @ both[:, 3])
    except LinAlgError:
        return -math.inf
    rest = float(r @ (both[:, 3] - both[:, :3] @ beta))
    return -float(np.log(np.diag(factor[0])).sum() + np.log(np.diag(small[0])).sum() + 0.5 * rest)


def base_of_volume(
    patch: Patch,
    polygon: shapely.Polygon,
    base: Base,
    *,
    given: Plane | None,
    lowest_share: float,
    noise: Array | None,
    noise_range: float,
) -> tuple[Ground, FormerGround | None]:
    """The base and, where it stands in for ground that nobody measured, how far that may lie off it.

    given: the plane of "horizontal" and "plane". lowest_share: part of the rim that is averaged for "lowest". noise: (rows, cols)
    m, sd of the cells, or None where no errors are wanted; noise_range: m, how far it is alike.

    Raises:
        CoverageError: less than half of the rim has heights.
    """
    if given is not None:
        east, north, height, slope_east, slope_north = given
        dx, dy = patch.x + (patch.middle[0] - east), patch.y + (patch.middle[1] - north)
        return Ground(level=height + slope_east * dx + slope_north * dy, slope=(slope_east, slope_north)), None
    if base == "lowest":
        share = _lowest_place(patch, polygon, lowest_share)
        level = float(np.sum(share[share > 0] * patch.z[share > 0]))
        return Ground(level=np.full(patch.z.shape, level), slope=(0.0, 0.0), pull=PointPull(share)), None
    plane, solver, on_rim = _rim_plane(patch)
    level = plane[0] + plane[1] * patch.x + plane[2] * patch.y
    slope = (float(plane[1]), float(plane[2]))
    former = None
    if noise is not None:
        cells = rim_cells(patch, polygon, _RIM_CELLS)
        former = FormerGround.of_rim(patch, cells, (patch.z - level).ravel()[cells], noise.ravel()[cells], noise_range)
    if base == "triangulated":
        return _triangles(patch, polygon, slope), former
    return Ground(level=level, slope=slope, pull=PlanePull(patch, on_rim, solver)), former


def _rim_plane(patch: Patch) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Plane (3,): height at the patch's middle, slope in x, in y; its solver (3, n) on the n rim cells (rows, cols)."""
    on_rim = (patch.rim > 0) & np.isfinite(patch.z)
    covered = float(patch.rim[on_rim].sum() / patch.rim.sum())
    if covered < 0.5:
        raise CoverageError("drone.rim_uncovered", covered=f"{100 * covered:.0f}")
    design = np.column_stack([np.ones(int(on_rim.sum())), patch.x[on_rim], patch.y[on_rim]])
    height, length = patch.z[on_rim], patch.rim[on_rim]
    weight = length.copy()
    for _ in range(20):  # Huber weights: a bush or a boulder on the line must not lift the base.
        solver = np.linalg.pinv(design * np.sqrt(weight)[:, None]) * np.sqrt(weight)
        residual = height - design @ (solver @ height)
        spread = max(1.4826 * float(np.median(np.abs(residual))), 1e-6)
        weight = length * np.minimum(1.0, 1.345 * spread / np.maximum(np.abs(residual), 1e-12))
    return solver @ height, solver, on_rim


def _rim_means(patch: Patch, polygon: shapely.Polygon, lowest_share: float) -> tuple[NDArray[np.int64], int, Array]:
    """Known rim cells in the order of the ring (n,), how many are averaged, and the running means of their heights (n,)."""
    cells = rim_cells(patch, polygon, 1_000_000)
    wide = min(max(round(lowest_share * len(cells)), 3), len(cells))
    heights = patch.z.ravel()[cells]
    return cells, wide, ndimage.uniform_filter1d(heights, wide, mode="wrap")


def _lowest_place(patch: Patch, polygon: shapely.Polygon, lowest_share: float) -> Array:
    """(rows, cols) weights, adding up to 1, of the rim cells whose mean is the lowest along the ring."""
    cells, wide, means = _rim_means(patch, polygon, lowest_share)
    chosen = np.arange(wide) - wide // 2 + int(np.argmin(means))
    share = np.zeros(patch.z.size)
    np.add.at(share, cells[chosen % len(cells)], 1 / wide)
    return share.reshape(patch.z.shape)


def lowest_doubt(patch: Patch, polygon: shapely.Polygon, lowest_share: float, noise: Array, noise_range: float) -> float:
    """By how much (m) the lowest of many noisy heights lies too low: mean of the least of independent normal values."""
    from scipy.stats import norm

    cells, wide, means = _rim_means(patch, polygon, lowest_share)
    sd = float(np.median(noise.ravel()[cells]))
    step = float(patch.rim.sum()) / len(cells)
    sd *= math.sqrt(min(1.0, max(noise_range / (wide * step), 1 / wide)))
    if sd <= 0:
        return 0.0
    each = means[:: max(wide, 1)]
    t = np.linspace(float(each.min()) - 6 * sd, float(each.min()) + 6 * sd, 400)
    above = np.exp(np.sum(norm.logsf(t[:, None], loc=each[None], scale=sd), axis=1))
    expected = t[0] + float(np.trapezoid(above, t))
    return abs(float(each.min()) - expected)


def _triangles(patch: Patch, polygon: shapely.Polygon, slope: tuple[float, float]) -> Ground:
    """Delaunay triangles between rim cells; a cell beyond them takes the height of the nearest rim cell."""
    cells = rim_cells(patch, polygon, _CORNERS)
    spots = np.column_stack([patch.x.ravel()[cells], patch.y.ravel()[cells]])
    # one cell more than the polygon touches: its boundary is sampled there
    inner = np.flatnonzero(ndimage.binary_dilation(patch.share > 0, structure=np.ones((3, 3))).ravel())
    places = np.column_stack([patch.x.ravel()[inner], patch.y.ravel()[inner]])
    try:
        mesh = Delaunay(spots)
    except QhullError as error:
        raise CoverageError("drone.rim_uncovered", covered="0") from error
    simplex = mesh.find_simplex(places)
    found = simplex >= 0
    corners = np.zeros((len(inner), 3), np.int64)
    parts = np.zeros((len(inner), 3))
    affine = mesh.transform[simplex[found]]
    two = np.einsum("nij,nj->ni", affine[:, :2], places[found] - affine[:, 2])
    parts[found] = np.column_stack([two, 1 - two.sum(axis=1)])
    corners[found] = cells[mesh.simplices[simplex[found]]]
    for i in np.flatnonzero(~found):
        corners[i] = cells[int(np.argmin(np.sum((spots - places[i]) ** 2, axis=1)))]
        parts[i] = (1.0, 0.0, 0.0)
    bad = ~np.isfinite(parts).all(axis=1)  # slivers
    parts[bad] = (1.0, 0.0, 0.0)
    level = np.zeros(patch.z.size)
    level[inner] = np.sum(parts * patch.z.ravel()[corners], axis=1)
    return Ground(level=level.reshape(patch.z.shape), slope=slope, pull=TrianglePull(inner, corners, parts))
