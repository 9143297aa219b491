"""How errors of heights and places become errors of figures: sums over correlated cells, over an error field, along edges.

Arrays in, arrays out; `drone.measure`, `drone.compare` and `drone.challenge` put the parts together. A figure is a linear
function of heights, f = sum c_i z_i, so that one rule serves all: var f = c' S c. Nothing is measured or decided here.
Sources: JCGM 100:2008 (GUM) 5.1-5.2; Rolstad et al. 2009, doi:10.3189/002214309789470950 (sums over correlated cells).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import fft, ndimage

from drone.types import ErrorField
from geoevidence.errors import CoverageError
from geoevidence.raster import Grid

Array = NDArray[np.float64]
Kernel = Literal["gaussian", "matern", "exponential"]
"""Correlation by distance over range, t: exp(-t^2), (1 + sqrt(3) t) exp(-sqrt(3) t), exp(-t): from smooth to broken."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patch:
    """The cells that a polygon touches, with a margin around. All (rows, cols); x, y in m from `middle`, NaN = nothing known.

    share: part of the cell inside the polygon (1). rim: length of the outer ring inside the cell (m).
    """

    x: Array
    y: Array
    z: Array
    sd: Array | None
    share: Array
    rim: Array
    cell_area: float
    middle: tuple[float, float]

    @property
    def cell(self) -> float:
        """Side of a square cell of the same area, m."""
        return math.sqrt(self.cell_area)


def cut_patch(grid: Grid, heights: NDArray[Any], sd: NDArray[Any] | None, polygon: shapely.Polygon) -> Patch:
    """The patch of `polygon` (in the grid's CRS) from heights and their sd (rows, cols); cells off the grid are NaN.

    Raises:
        CoverageError: more cells than any survey has.
    """
    t, cell = grid.transform, grid.resolution[0]
    xmin, ymin, xmax, ymax = polygon.bounds
    left, right = math.floor((xmin - t.c) / t.a) - 3, math.ceil((xmax - t.c) / t.a) + 3
    top, bottom = math.floor((ymax - t.f) / t.e) - 3, math.ceil((ymin - t.f) / t.e) + 3
    rows, cols = bottom - top, right - left
    if rows * cols > 200_000_000:
        raise CoverageError("drone.polygon_too_large", rows=rows, cols=cols)

    def window(values: NDArray[Any]) -> Array:
        out = np.full((rows, cols), np.nan)
        r0, r1, c0, c1 = max(top, 0), min(bottom, values.shape[0]), max(left, 0), min(right, values.shape[1])
        if r1 > r0 and c1 > c0:
            out[r0 - top : r1 - top, c0 - left : c1 - left] = values[r0:r1, c0:c1]
        return out

    east, north = t.c + (left + np.arange(cols) + 0.5) * t.a, t.f + (top + np.arange(rows) + 0.5) * t.e
    x, y = np.meshgrid(east, north)
    share = np.zeros((rows, cols))
    half_x, half_y = abs(t.a) / 2, abs(t.e) / 2
    shapely.prepare(polygon)
    share[shapely.contains_xy(polygon, x, y)] = 1.0
    # Cells that the boundary may cross get the exact part.
    mask = np.zeros((rows, cols), bool)
    for ring in rings(polygon):
        closed = np.vstack([ring, ring[:1]])
        for p, q in itertools.pairwise(closed):
            n = max(2, int(np.ceil(np.hypot(*(q - p)) / (0.5 * cell))) + 1)
            s = np.linspace(0, 1, n)[:, None]
            spots = p + s * (q - p)
            mask[((spots[:, 1] - t.f) / t.e - top).astype(int), ((spots[:, 0] - t.c) / t.a - left).astype(int)] = True
    mask = ndimage.binary_dilation(mask, structure=np.ones((3, 3)))
    boxes = shapely.box(x[mask] - half_x, y[mask] - half_y, x[mask] + half_x, y[mask] + half_y)
    share[mask] = shapely.area(shapely.intersection(boxes, polygon)) / grid.cell_area
    rim = np.zeros((rows, cols))
    rim[mask] = shapely.length(shapely.intersection(boxes, polygon.exterior))
    middle = (float(east.mean()), float(north.mean()))
    return Patch(
        x=x - middle[0],
        y=y - middle[1],
        z=window(heights),
        sd=None if sd is None else window(sd),
        share=share,
        rim=rim,
        cell_area=grid.cell_area,
        middle=middle,
    )


def bilinear(grid: Grid, values: NDArray[Any], places: Array) -> Array:
    """(n,) values (rows, cols) between the centres of four cells at places (n, 2) E, N; NaN where one of them is NaN or off the grid."""
    t = grid.transform
    rows, cols = grid.shape
    if rows < 2 or cols < 2:
        return np.full(len(places), np.nan)
    col, row = (places[:, 0] - t.c) / t.a - 0.5, (places[:, 1] - t.f) / t.e - 0.5
    c0, r0 = np.floor(col).astype(np.int64), np.floor(row).astype(np.int64)
    # a place on the centre line of the last cells lies between them and the ones before
    c0, r0 = np.where(col == cols - 1, cols - 2, c0), np.where(row == rows - 1, rows - 2, r0)
    off = (c0 < 0) | (r0 < 0) | (c0 > cols - 2) | (r0 > rows - 2)
    c0, r0 = np.clip(c0, 0, cols - 2), np.clip(r0, 0, rows - 2)
    s, u = col - c0, row - r0
    found = np.zeros(len(places))
    for i, part_y in ((0, 1 - u), (1, u)):
        for j, part_x in ((0, 1 - s), (1, s)):
            part = part_y * part_x
            # a neighbour without weight need not be known
            found += np.where(part > 0, values[r0 + i, c0 + j], 0.0) * part
    found[off] = np.nan
    return found


def slopes(grid: Grid, values: NDArray[Any], places: Array) -> Array:
    """(n, 2) slope east and north (1) at places (n, 2), over four cells; 0 where it is not known."""
    found = np.zeros((len(places), 2))
    for axis in range(2):
        step = np.zeros(2)
        step[axis] = 2 * grid.resolution[axis]
        ahead, back = (bilinear(grid, values, places + sign * step) for sign in (1, -1))
        found[:, axis] = np.nan_to_num((ahead - back) / (2 * step[axis]), nan=0.0)
    return found


def rings(polygon: shapely.Polygon) -> list[Array]:
    """Vertices of each ring, (n, 2), without the repeated last one."""
    return [np.asarray(ring.coords)[:-1, :2] for ring in (polygon.exterior, *polygon.interiors)]


def correlation(t: Array, kernel: Kernel) -> Array:
    """Correlation at distances t, in ranges."""
    if kernel == "gaussian":
        return np.asarray(np.exp(-(t**2)))
    if kernel == "matern":
        return np.asarray((1 + math.sqrt(3) * t) * np.exp(-math.sqrt(3) * t))
    return np.asarray(np.exp(-t))


def spread_of(c: Array, range_cells: float, *, kernel: Kernel = "gaussian") -> float:
    """sqrt(sum_ij c_i c_j rho(d_ij)): standard deviation of sum c_i e_i for unit errors with that correlation.

    c: (rows, cols), range in cells; rho: see `Kernel`.
    """
    # With cells far below the range, blocks of a fifth of it carry the same sum.
    factor = max(1, int(range_cells / 5))
    if factor > 1:
        rows, cols = (-(-side // factor) * factor for side in c.shape)
        padded = np.zeros((rows, cols))
        padded[: c.shape[0], : c.shape[1]] = c
        c = padded.reshape(rows // factor, factor, cols // factor, factor).sum(axis=(1, 3))
        range_cells /= factor
    # Beyond the reach rho is below 1e-5 (Gaussian) or 1e-3; never further than the patch is long.
    reach = min(math.ceil((3.5 if kernel == "gaussian" else 7.0) * range_cells), max(c.shape))
    shape = tuple(fft.next_fast_len(side + reach, real=True) for side in c.shape)
    rows, cols = (np.minimum(np.arange(side), side - np.arange(side)) for side in shape)
    away = np.sqrt(np.add.outer(rows.astype(float) ** 2, cols.astype(float) ** 2)) / range_cells
    rho = correlation(away, kernel)
    smooth = fft.irfft2(fft.rfft2(c, shape) * fft.rfft2(rho), shape)[: c.shape[0], : c.shape[1]]
    return math.sqrt(max(float(np.sum(c * smooth)), 0.0))


def field_sum(field: ErrorField, x: Array, y: Array, along: tuple[Array | float, Array | float, Array | float]) -> Array:
    """(K,): sum over places of `along` . error, for each mode of the field; the norm of it is the standard uncertainty.

    x, y: (n,) E and N, m. along: derivatives of the figure by (E, N, U) of each place, (n,) or one number.
    The transpose of `ErrorField.at`: weights are spread onto the nodes first, so that millions of cells cost no K copies.
    """
    rows, columns = field.factor.shape[1:3]
    u = np.clip((x - field.origin[0]) / field.spacing[0], 0, columns - 1)
    v = np.clip((y - field.origin[1]) / field.spacing[1], 0, rows - 1)
    column = np.minimum(u.astype(np.int64), max(columns - 2, 0))
    row = np.minimum(v.astype(np.int64), max(rows - 2, 0))
    right, up = np.minimum(column + 1, columns - 1), np.minimum(row + 1, rows - 1)
    s, t = u - column, v - row
    total = np.zeros(field.factor.shape[0])
    for axis, weight in enumerate(along):
        w = np.broadcast_to(np.asarray(weight, np.float64), x.shape)
        if not w.any():
            continue
        nodes = np.zeros(rows * columns)
        for at_row, at_column, part in (
            (row, column, (1 - s) * (1 - t)),
            (row, right, s * (1 - t)),
            (up, column, (1 - s) * t),
            (up, right, s * t),
        ):
            nodes += np.bincount(at_row * columns + at_column, weights=w * part, minlength=rows * columns)
        total += field.factor[..., axis].reshape(len(total), -1).astype(np.float64) @ nodes
    return total


def stretch_field(field: ErrorField) -> ErrorField:
    """A field whose U component is the relative growth of horizontal area (dE/dE + dN/dN, 1) that `field` brings; E, N are zero."""
    factor = field.factor.astype(np.float64)
    growth = np.zeros(factor.shape[:3])
    if factor.shape[2] > 1:
        growth += np.gradient(factor[..., 0], field.spacing[0], axis=2)
    if factor.shape[1] > 1:
        growth += np.gradient(factor[..., 1], field.spacing[1], axis=1)
    out = np.zeros_like(field.factor)
    out[..., 2] = growth
    return ErrorField(origin=field.origin, spacing=field.spacing, factor=out)


def edge_gradients(patch: Patch, above: Array, polygon: shapely.Polygon) -> list[Array]:
    """dV / d vertex of each ring, (n, 2) m2: moving an edge outward by s adds the height along it (Reynolds), integral above * s ds.

    above: (rows, cols) m, height over the base that counts.
    """
    step = patch.cell
    top_left = (patch.x[0, 0] + patch.middle[0], patch.y[0, 0] + patch.middle[1])
    cell_x, cell_y = patch.x[0, 1] - patch.x[0, 0], patch.y[1, 0] - patch.y[0, 0]
    found = []
    for ring in rings(shapely.geometry.polygon.orient(polygon)):
        gradient = np.zeros_like(ring)
        for i in range(len(ring)):
            p, q = ring[i], ring[(i + 1) % len(ring)]
            length = float(np.hypot(*(q - p)))
            if length == 0:
                continue
            n = max(4, math.ceil(length / step))
            s = (np.arange(n) + 0.5) / n
            spots = p + s[:, None] * (q - p)
            col = np.clip(np.rint((spots[:, 0] - top_left[0]) / cell_x).astype(int), 0, above.shape[1] - 1)
            row = np.clip(np.rint((spots[:, 1] - top_left[1]) / cell_y).astype(int), 0, above.shape[0] - 1)
            outward = np.array([q[1] - p[1], p[0] - q[0]]) / length
            gradient[i] += outward * np.sum(above[row, col] * (1 - s)) * length / n
            gradient[(i + 1) % len(ring)] += outward * np.sum(above[row, col] * s) * length / n
        found.append(gradient)
    return found


def sign_doubt(sd: Array, area: Array, above: Array) -> float:
    """Volume (m3) that noise alone adds to both cut and fill: mean of max(0, e) beyond the true height, per cell.

    The true height is known no better than sd, so that e has the sd of a difference of two such heights.
    """
    from scipy.stats import norm

    wide = math.sqrt(2) * sd
    t = np.abs(above) / np.maximum(wide, 1e-9)
    return float(np.sum(area * wide * (norm.pdf(t) - t * norm.cdf(-t))))
