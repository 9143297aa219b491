"""Surface model of a dense cloud: heights, their standard uncertainty and the point density on one grid.

A cell holds the height of the uppermost surface that its points show; it is empty (NaN) where no photos agree. Only
pinholes that are wholly surrounded are interpolated, with an uncertainty that says so; lakes, rims and shadows stay empty.
Cells are aligned to multiples of the cell size, so that two surveys with one cell size share their cells.
The uncertainty is that of the height relative to the block; the block's own position and scale are in `AccuracyReport`.
No height is classified here: trees, cars and roofs are part of a DSM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from drone.types import DenseCloud, Reconstruction, SurfaceModel
from geoevidence.errors import ConfigError, CoverageError
from geoevidence.raster import Grid, Raster


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceConfig:
    """Settings of `build_surface`.

    cell: side of a cell (m), 0 = `cell_gsd` times the GSD, rounded up to a whole centimetre (below 1 cm: millimetre).
    cell_gsd: side of a cell in GSD (1); finer cells than the matching window add size, not detail.
    reach: a cell uses points up to this distance in cells (1).
    upper_share: the uppermost layer of points stands for a cell if it holds this share of their weight (1).
    layer_gap: points of a cell are two layers when they are this far apart (cells).
    min_patch: smaller islands of cells are dropped as chance matches (m2).
    min_layer: so are smaller pieces that stand out from all around by more than `layer_gap` (m2).
    noise_share: standard deviation of a cell's height over that of its points (1); below 1 since their errors are not wholly alike;
        measured on synthetic flights (docs/methods/drone-surfaces.md).
    scatter_share: part of the scatter of a cell's points that counts as its error (1); likewise.
    fill_area: surrounded holes up to this size are interpolated (m2); 0 = none.
    """

    cell: float = 0.0
    cell_gsd: float = 2.5
    reach: float = 1.0
    upper_share: float = 0.3
    layer_gap: float = 3.0
    min_patch: float = 0.5
    min_layer: float = 0.05
    noise_share: float = 0.7
    scatter_share: float = 0.6
    fill_area: float = 0.05

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "cell": (0, 100),
            "cell_gsd": (1, 50),
            "reach": (0.5, 3),
            "upper_share": (0, 1),
            "layer_gap": (0.5, 100),
            "min_patch": (0, 1e4),
            "min_layer": (0, 1e4),
            "noise_share": (0.1, 10),
            "scatter_share": (0, 10),
            "fill_area": (0, 100),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"surface.{name}", found=str(getattr(self, name)), low=low, high=high
                )


def build_surface(cloud: DenseCloud, reconstruction: Reconstruction, *, config: SurfaceConfig = SurfaceConfig()) -> SurfaceModel:
    """DSM (m), standard uncertainty (m) and density (points/m2), float32, NaN = nothing known; rows run north to south.

    The standard uncertainty of a cell combines the random error of its points (taken as fully correlated inside a cell,
    since they share matching windows), the scatter of their heights, and in filled cells the spread around the hole. What the
    adjustment may have left in the block is in `error_field`; both together are the uncertainty of a height.

    Raises:
        CoverageError: no cell is covered.
    """
    cell = cell_of(config, reconstruction.accuracy.gsd)
    points = cloud.points
    low, high = np.quantile(reconstruction.points[:, :2], [0.001, 0.999], axis=0)
    rim = 0.5 * (high - low)
    inside = np.all((points[:, :2] >= low - rim) & (points[:, :2] <= high + rim), axis=1)
    if not inside.any():
        raise CoverageError("drone.surface_empty")
    sd = cloud.height_sd
    if not inside.all():
        points, sd = points[inside], sd[inside]
    west, north = np.floor(points[:, 0].min() / cell) * cell, np.ceil(points[:, 1].max() / cell) * cell
    cols = int(np.ceil((points[:, 0].max() - west) / cell)) + 1
    rows = int(np.ceil((north - points[:, 1].min()) / cell)) + 1
    if rows * cols > 400_000_000:
        raise CoverageError("drone.surface_too_large", rows=rows, cols=cols)
    # In single precision before cells are told, so that the kernel tells the same ones.
    col = ((points[:, 0] - west) / cell).astype(np.float32)
    row = ((north - points[:, 1]) / cell).astype(np.float32)
    order = np.lexsort((points[:, 2], row.astype(np.int32) * np.int32(cols) + col.astype(np.int32)))
    # Heights relative to their median: float32 then resolves better than a micrometre.
    datum = float(np.median(points[:, 2]))
    height, deviation, count = _grid(
        col[order], row[order], (points[:, 2] - datum).astype(np.float32)[order], sd[order],
        rows, cols, config.reach, config.upper_share, config.layer_gap * cell, config.noise_share, config.scatter_share,
    )  # fmt: skip
    pieces = _pieces(height, np.float32(config.layer_gap * cell))
    height[np.bincount(pieces.ravel(), minlength=height.size)[pieces] < config.min_layer / cell**2] = np.nan
    labels, _ = ndimage.label(np.isfinite(height), structure=np.ones((3, 3)))
    height[np.bincount(labels.ravel())[labels] < config.min_patch / cell**2] = np.nan
    if not np.isfinite(height).any():
        raise CoverageError("drone.surface_empty")
    deviation[np.isnan(height)] = np.nan
    _fill(height, deviation, int(config.fill_area / cell**2))
    grid = Grid(shape=(rows, cols), transform=Affine(cell, 0, west, 0, -cell, north), crs=reconstruction.flight.crs)
    density = np.where(np.isfinite(height), count / cell**2, np.nan).astype(np.float32)
    return SurfaceModel(
        raster=Raster(
            data=(height.astype(np.float64) + datum).astype(np.float32)[None], grid=grid, nodata=float("nan"), unit="m"
        ),
        kind="dsm",
        height_kind=reconstruction.flight.height_kind,
        standard_uncertainty=Raster(data=deviation[None], grid=grid, nodata=float("nan"), unit="m"),
        density=Raster(data=density[None], grid=grid, nodata=float("nan"), unit="m-2"),
        correlation_m=None if cloud.correlation_m is None else max(cloud.correlation_m, cell),
        error_field=reconstruction.error_field,
    )


def cell_of(config: SurfaceConfig, gsd: float) -> float:
    """Side of a cell (m) of a surface from photos of that ground sample distance (m)."""
    return config.cell or _round_up(config.cell_gsd * gsd)


def _round_up(size: float) -> float:
    step = 0.01 if size >= 0.01 else 0.001
    return round(float(np.ceil(size / step - 1e-9)) * step, 3)


@numba.njit(nogil=True, cache=True)
def _grid(col, row, height, sd, rows, cols, reach, upper_share, gap, noise_share, scatter_share):  # type: ignore[no-untyped-def]
    """Height, standard deviation and point count of each cell. Points are sorted by cell row, cell column, height."""
    out = np.full((rows, cols), np.nan, np.float32)
    deviation = np.full((rows, cols), np.nan, np.float32)
    count = np.zeros((rows, cols), np.float32)
    first = np.zeros(rows * cols + 1, np.int64)
    for i in range(len(col)):
        first[np.int64(row[i]) * cols + np.int64(col[i]) + 1] += 1
    for k in range(rows * cols):
        first[k + 1] += first[k]
    ring = int(np.ceil(reach - 0.5))
    capacity = 4096
    z, s, w = np.empty(capacity, np.float64), np.empty(capacity, np.float64), np.empty(capacity, np.float64)
    for y in range(rows):
        for x in range(cols):
            n = 0
            count[y, x] = first[y * cols + x + 1] - first[y * cols + x]
            for yy in range(max(0, y - ring), min(rows, y + ring + 1)):
                for xx in range(max(0, x - ring), min(cols, x + ring + 1)):
                    for i in range(first[yy * cols + xx], first[yy * cols + xx + 1]):
                        weight = (1 - abs(col[i] - (x + 0.5)) / reach) * (1 - abs(row[i] - (y + 0.5)) / reach)
                        if abs(col[i] - (x + 0.5)) < reach and abs(row[i] - (y + 0.5)) < reach and n < capacity:
                            z[n], s[n], w[n] = height[i], sd[i], weight + 1e-3
                            n += 1
            if n == 0:
                continue
            order = np.argsort(-z[:n], kind="mergesort")
            total = 0.0
            for i in range(n):
                total += w[i]
            start, held, lowest = 0, 0.0, z[order[0]]
            stop = n
            for i in range(n):
                if lowest - z[order[i]] > gap:
                    if held >= upper_share * total:
                        stop = i
                        break
                    start, held = i, 0.0
                held += w[order[i]]
                lowest = z[order[i]]
            mean, weight_sum, variance = 0.0, 0.0, 0.0
            for i in range(start, stop):
                k = order[i]
                mean += w[k] * z[k]
                weight_sum += w[k]
                variance += w[k] * s[k] * s[k]
            mean /= weight_sum
            variance /= weight_sum
            scatter = 0.0
            for i in range(start, stop):
                k = order[i]
                scatter += w[k] * (z[k] - mean) ** 2
            out[y, x] = mean
            deviation[y, x] = np.sqrt(noise_share**2 * variance + scatter_share**2 * scatter / weight_sum)
    return out, deviation, count


@numba.njit(nogil=True, cache=True)
def _pieces(height, step):  # type: ignore[no-untyped-def]
    """Number of the piece of each cell, int64: neighbours (by side) belong together when their heights differ by at most `step`."""
    rows, cols = height.shape
    parent = np.arange(rows * cols)
    for y in range(rows):
        for x in range(cols):
            for k in range(2):
                yy, xx = (y, x - 1) if k == 0 else (y - 1, x)
                if yy < 0 or xx < 0 or not abs(height[y, x] - height[yy, xx]) <= step:
                    continue
                a, b = y * cols + x, yy * cols + xx
                while parent[a] != a:
                    parent[a] = parent[parent[a]]
                    a = parent[a]
                while parent[b] != b:
                    parent[b] = parent[parent[b]]
                    b = parent[b]
                parent[max(a, b)] = min(a, b)
    for i in range(rows * cols):
        a = i
        while parent[a] != a:
            a = parent[a]
        parent[i] = a
    return parent.reshape(rows, cols)


def _fill(height: NDArray[np.float32], deviation: NDArray[np.float32], cells: int) -> None:
    """Interpolates, in place, holes of at most `cells` cells that do not touch the rim of the grid.

    Inverse-distance mean of the cells around the hole; its variance is theirs plus their spread.
    """
    if cells < 1:
        return
    labels, holes = ndimage.label(np.isnan(height))
    sizes = np.bincount(labels.ravel(), minlength=holes + 1)
    open_ = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    wanted = sizes <= cells
    wanted[0] = False
    wanted[open_] = False
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or not wanted[index]:
            continue
        around = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
        part, hole = height[around], labels[around] == index
        ring = ndimage.binary_dilation(hole, structure=np.ones((3, 3))) & np.isfinite(part)
        spots, values = np.argwhere(ring), part[ring].astype(np.float64)
        errors = deviation[around][ring].astype(np.float64)
        for spot in np.argwhere(hole):
            weight = 1 / np.sum((spots - spot) ** 2, axis=1)
            weight /= weight.sum()
            part[tuple(spot)] = np.sum(weight * values)
            deviation[around][tuple(spot)] = np.sqrt(np.sum(weight * errors**2) + np.var(values))
