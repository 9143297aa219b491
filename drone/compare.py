"""Two dates of one place: co-registered on ground that did not change, differenced, with the error of every change.

In: two surfaces of one CRS, with or without stated errors. Out: a `Change`: heights of after minus before on the grid of before,
its noise, the registration, and volumes of change inside polygons. The registration is five numbers (shift east, north, up, tilt
east, north), each a linear function of the differences on stable ground; so a volume after registration is again one, and
errors that both polygon and stable ground share cancel by themselves. Ground is stable where it is found to be, by and by;
where too little is, the comparison is refused. Volumes are sums over all cells: leaving out cells below the level of detection
would bias them. No cause of a change is named.
Sources: Nuth and Kaab 2011, doi:10.5194/tc-5-271-2011 (shift from slope and aspect); Lane et al. 2003, doi:10.1002/esp.483 and
Wheaton et al. 2010, doi:10.1002/esp.1886 (level of detection); James et al. 2017, doi:10.1002/esp.4125 (precision of photogrammetric
surfaces); Anderson 2019, doi:10.1002/esp.4551 (error of sums of change, thresholds bias them); Rolstad et al. 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
import shapely.geometry
from numpy.typing import NDArray
from scipy import ndimage

from drone.measure import (
    ErrorModel,
    MeasureConfig,
    check_covered,
    grid_scale,
    ground_height,
    hole_doubt,
    norm_of,
    part_of,
    scale_doubt,
    stated_figure,
)
from drone.propagation import Patch, bilinear, cut_patch, edge_gradients, field_sum, sign_doubt, slopes, spread_of
from drone.types import AccuracyReport, ErrorField, Measurement, SurfaceModel
from geoevidence.errors import ConfigError, CoverageError, CrsError
from geoevidence.raster import Grid
from geoevidence.types import Message

Array = NDArray[np.float64]
_PARAMETERS = 5
KINDS = ("volume_gain", "volume_loss", "volume_net")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison.

    stable_factor: a place counts as changed when the mean difference around it is off by this many robust sd (1).
    stable_window_m: over which that mean is taken (m).
    stable_least: least share of the common ground that must be stable (1); below it the comparison is refused.
    slope_limit: ground steeper than this takes no part in the registration (1 = 45 degrees): edges are not alike in two surveys.
    shift_prior_sd: how far the two surveys may lie apart beforehand (m, per axis), where their own errors do not say; flat ground
        cannot tell, and then this stays.
    tilt_prior_sd: likewise of the tilt (1).
    most_cells: cells that take part in the registration, at most; more only cost time.
    detection_factor: level of detection in standard uncertainties (1); 1.96 for 95 %.
    least_patch_m2: smallest connected area above the level of detection that is listed as a change (m2).
    block_m: side of the blocks over whose means slow errors are judged from stable ground (m).
    """

    stable_factor: float = 3.0
    stable_window_m: float = 2.0
    stable_least: float = 0.2
    slope_limit: float = 1.0
    shift_prior_sd: float = 1.0
    tilt_prior_sd: float = 0.005
    most_cells: int = 40_000
    detection_factor: float = 1.96
    least_patch_m2: float = 1.0
    block_m: float = 8.0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "stable_factor": (1, 20),
            "stable_window_m": (0.01, 1000),
            "stable_least": (0.01, 1),
            "slope_limit": (0.05, 10),
            "shift_prior_sd": (1e-6, 1000),
            "tilt_prior_sd": (1e-9, 1),
            "most_cells": (100, 1_000_000),
            "detection_factor": (0.5, 10),
            "least_patch_m2": (0, 1e6),
            "block_m": (0.1, 1000),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"compare.{name}", found=str(getattr(self, name)), low=low, high=high
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Registration:
    """How the second surface lay against the first, from stable ground.

    shift: (E, N, U) m, second minus first at `centre`; tilt: (east, north) growth of U (1). sd: (5,) of these, from noise and from what
    the adjustments may have left. centre: (E, N). places: (n, 2) stable cells that were used; gain: (5, n) d parameters / d height
    difference of each; slope: (n, 2) of the ground there; noise: (n,) m. stable_share: of the common cells (1).
    scatter: robust sd of single stable cells after registration (m). slow_sd, slow_range: m, what stays alike over long ways.
    """

    shift: tuple[float, float, float]
    tilt: tuple[float, float]
    sd: tuple[float, ...]
    centre: tuple[float, float]
    places: Array
    gain: Array
    slope: Array
    noise: Array
    stable_share: float
    scatter: float
    slow_sd: float
    slow_range: float

    def lift(self, x: Array, y: Array) -> Array:
        """How much the second surface lay too high at places, m."""
        return np.asarray(self.shift[2] + self.tilt[0] * (x - self.centre[0]) + self.tilt[1] * (y - self.centre[1]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """Two registered surfaces. difference: (rows, cols) m, after minus before, NaN = not known in both; noise: (rows, cols) m of it.

    grid: of both; slope: (2, rows, cols) of before, east and north (1); noise_range: m over which the noise is alike. stable: (rows, cols) cells taken as unchanged.
    empirical: the noise is that of stable ground, since a surface came without stated errors.
    """

    before: SurfaceModel
    after: SurfaceModel
    grid: Grid
    difference: Array
    noise: NDArray[np.float32]
    noise_range: float
    slope: NDArray[np.float32]
    stable: NDArray[np.bool_]
    registration: Registration
    empirical: bool
    limits: tuple[Message, ...]


def register(
    before: SurfaceModel,
    after: SurfaceModel,
    *,
    accuracy: tuple[AccuracyReport | None, AccuracyReport | None] = (None, None),
    changed: Sequence[shapely.Polygon] = (),
    config: CompareConfig = CompareConfig(),
    measure: MeasureConfig = MeasureConfig(),
) -> Change:
    """The difference of two surfaces after registration on stable ground.

    changed: polygons (in the surfaces' CRS) that are known to have changed: no stable ground there.

    Raises:
        CrsError: different reference systems, or not projected in metres.
        CoverageError: no common ground, or too little of it is stable.
    """
    grid = before.raster.grid
    if not grid.crs.equals(after.raster.grid.crs, ignore_axis_order=True):
        raise CrsError("drone.crs_differ", first=grid.crs.name, second=after.raster.grid.crs.name)
    if not grid.crs.is_projected or grid.crs.axis_info[0].unit_conversion_factor != 1:
        raise CrsError("drone.crs_not_metric", found=grid.crs.name)
    grid, heights = _common(before, after)
    models = [ErrorModel.of(each, acc, measure) for each, acc in zip((before, after), accuracy, strict=True)]
    ranges = [m.noise_range for m in models if m is not None and not math.isnan(m.noise_range)]
    cell = grid.resolution[0]
    stated_range = max(ranges) if ranges else math.nan
    stride = max(1, math.ceil((6 * cell if math.isnan(stated_range) else 1.5 * stated_range) / cell))
    stride = max(stride, math.ceil(math.sqrt(np.count_nonzero(np.isfinite(heights)) / config.most_cells)))
    rows, cols = np.meshgrid(
        np.arange(stride // 2, grid.shape[0], stride), np.arange(stride // 2, grid.shape[1], stride), indexing="ij"
    )
    x, y = _centres(grid, rows, cols)
    places = np.column_stack([x.ravel(), y.ravel()])
    free = np.ones(x.shape, bool)
    for polygon in changed:
        shapely.prepare(polygon)
        free &= ~shapely.contains_xy(polygon, x, y)
    prior = _prior(models, accuracy, places, config)
    shift, tilt = np.zeros(3), np.zeros(2)
    base = heights[rows, cols].ravel()
    ground = slopes(grid, heights, places)
    centre = (float(x.mean()), float(y.mean()))
    flat = np.hypot(*ground.T) <= config.slope_limit
    stable = free & flat.reshape(x.shape) & np.isfinite(base).reshape(x.shape)
    window = max(1, round(config.stable_window_m / (cell * stride)))
    solution: tuple[Array, Array, NDArray[np.int64]] | None = None
    first = True
    for _ in range(12):
        other = bilinear(after.raster.grid, after.raster.data[0], places + shift[:2])
        lift = shift[2] + tilt[0] * (places[:, 0] - centre[0]) + tilt[1] * (places[:, 1] - centre[1])
        residual = other - lift - base
        if first:  # a first level, so that a height offset alone does not look like change
            if not np.isfinite(residual[stable.ravel()]).any():
                raise CoverageError("drone.no_common_ground")
            shift[2] += float(np.nanmedian(residual[stable.ravel()]))
            first = False
            continue
        usable = stable.ravel() & np.isfinite(residual)
        common = free.ravel() & np.isfinite(residual)
        enough, all_cells = int(np.count_nonzero(usable)), int(np.count_nonzero(common))
        if enough < max(30, config.stable_least * all_cells):
            share = enough / max(all_cells, 1)
            raise CoverageError("drone.no_stable_ground", share=f"{100 * share:.0f}", least=f"{100 * config.stable_least:.0f}")
        index = np.flatnonzero(usable)
        design = _design(ground[index], places[index], centre)
        gain = _robust_gain(design, residual[index], prior, np.concatenate([shift, tilt]))
        total = np.concatenate([shift, tilt])
        # the residual is of the registered surface; the prior holds the whole of the parameters
        new = total + gain[0]
        solution = (gain[1], residual[index], index)
        moved = float(np.abs(new - total)[:3].max())
        shift, tilt = new[:3], new[3:]
        kept = _stable_places(
            residual.reshape(x.shape) - (_design(ground, places, centre) @ gain[0]).reshape(x.shape), free, window, config
        )
        kept &= flat.reshape(x.shape)
        same = bool(np.array_equal(kept, stable))
        stable = kept
        if moved < 1e-4 and same:
            break
    assert solution is not None
    return _finished(
        before, after, grid, heights, models, stated_range, shift, tilt, centre, solution, ground, places, stable, free, stride,
        prior, config,
    )  # fmt: skip


def _common(before: SurfaceModel, after: SurfaceModel) -> tuple[Grid, Array]:
    """The part of before's grid that after covers, and its heights."""
    grid, other = before.raster.grid, after.raster.grid
    west, south, east, north = (
        max(grid.bounds[0], other.bounds[0]), max(grid.bounds[1], other.bounds[1]),
        min(grid.bounds[2], other.bounds[2]), min(grid.bounds[3], other.bounds[3]),
    )  # fmt: skip
    t = grid.transform
    c0, c1 = math.floor((west - t.c) / t.a + 1e-6), math.ceil((east - t.c) / t.a - 1e-6)
    r0, r1 = math.floor((north - t.f) / t.e + 1e-6), math.ceil((south - t.f) / t.e - 1e-6)
    c0, r0, c1, r1 = max(c0, 0), max(r0, 0), min(c1, grid.shape[1]), min(r1, grid.shape[0])
    if c1 - c0 < 4 or r1 - r0 < 4:
        raise CoverageError("drone.no_common_ground")
    part = before.raster.data[0][r0:r1, c0:c1].astype(np.float64)
    return Grid(shape=part.shape, transform=t @ type(t).translation(c0, r0), crs=grid.crs), part


def _centres(grid: Grid, rows: NDArray[Any], cols: NDArray[Any]) -> tuple[Array, Array]:
    t = grid.transform
    return t.c + (cols + 0.5) * t.a, t.f + (rows + 0.5) * t.e


def _design(slope: Array, places: Array, centre: tuple[float, float]) -> Array:
    """(n, 5): d (after - before) / d (shift east, north, up, tilt east, north). A surface moved east shows what lay west of it."""
    return np.column_stack([-slope, np.ones(len(places)), places[:, 0] - centre[0], places[:, 1] - centre[1]])


def _prior(
    models: list[ErrorModel | None],
    accuracy: tuple[AccuracyReport | None, AccuracyReport | None],
    places: Array,
    config: CompareConfig,
) -> Array:
    """(5,) sd of the parameters beforehand: what the surveys state of themselves, or the settings; heights are left free."""
    middle = places.mean(axis=0)
    shift = []
    for model, report in zip(models, accuracy, strict=True):
        stated = model is not None and (report is not None or model.surface.error_field is not None)
        shift.append(model.place_sd(*middle)[:2] if stated and model is not None else (config.shift_prior_sd,) * 2)
    east, north = (max(math.hypot(*(each[axis] for each in shift)), 1e-6) for axis in range(2))
    return np.array([east, north, 1e4, config.tilt_prior_sd, config.tilt_prior_sd])


def _robust_gain(design: Array, residual: Array, prior: Array, known: Array) -> tuple[Array, Array]:
    """Step of the parameters (5,) and their gain (5, n), by Tukey's weights; `known`: where they stand, which the prior pulls to 0."""
    step = np.zeros(_PARAMETERS)
    gain = np.zeros((_PARAMETERS, len(residual)))
    for _ in range(10):
        rest = residual - design @ step
        spread = max(1.4826 * float(np.median(np.abs(rest - np.median(rest)))), 1e-6)
        weight = np.clip(1 - (rest / (4.685 * spread)) ** 2, 0, None) ** 2
        normal = (design * weight[:, None]).T @ design / spread**2 + np.diag(1 / prior**2)
        scale = 1 / np.sqrt(np.diag(normal))
        inverse = scale[:, None] * np.linalg.inv(normal * scale[:, None] * scale) * scale
        gain = inverse @ (design * weight[:, None]).T / spread**2
        new = gain @ residual - inverse @ (known / prior**2)
        done = float(np.abs(new - step)[:3].max()) < 1e-6
        step = new
        if done:
            break
    return step, gain


def _stable_places(residual: Array, free: NDArray[np.bool_], window: int, config: CompareConfig) -> NDArray[np.bool_]:
    """Where the mean difference around a place is within `stable_factor` robust sd of none, and its own is no outlier."""
    known = np.isfinite(residual) & free
    size = 2 * window + 1
    weight = ndimage.uniform_filter(known.astype(np.float64), size, mode="constant")
    mean = ndimage.uniform_filter(np.where(known, residual, 0.0), size, mode="constant") / np.maximum(weight, 1e-9)
    single = 1.4826 * float(np.median(np.abs(residual[known] - np.median(residual[known])))) if known.any() else 0.0
    smooth = 1.4826 * float(np.median(np.abs(mean[known]))) if known.any() else 0.0
    off = known & (np.abs(mean) > config.stable_factor * max(smooth, 1e-6))
    off |= known & (np.abs(residual) > 2 * config.stable_factor * max(single, 1e-6))
    # single places beyond the level are chance; changes hold together
    off = ndimage.binary_dilation(ndimage.binary_opening(off, structure=np.ones((2, 2))), iterations=1)
    return known & ~off


def _finished(
    before: SurfaceModel,
    after: SurfaceModel,
    grid: Grid,
    heights: Array,
    models: list[ErrorModel | None],
    stated_range: float,
    shift: Array,
    tilt: Array,
    centre: tuple[float, float],
    solution: tuple[Array, Array, NDArray[np.int64]],
    ground: Array,
    places: Array,
    stable: NDArray[np.bool_],
    free: NDArray[np.bool_],
    stride: int,
    prior: Array,
    config: CompareConfig,
) -> Change:
    """The difference on all cells, its noise, and the registration with its errors."""
    gain, _, index = solution
    cell = grid.resolution[0]
    difference = np.full(grid.shape, np.nan)
    noise = np.full(grid.shape, np.nan, np.float32)
    slope = np.zeros((2, *grid.shape), np.float32)
    empirical = any(model is None for model in models)
    for start in range(0, grid.shape[0], 256):
        rows, cols = np.meshgrid(np.arange(start, min(start + 256, grid.shape[0])), np.arange(grid.shape[1]), indexing="ij")
        x, y = _centres(grid, rows, cols)
        spots = np.column_stack([x.ravel(), y.ravel()])
        there = spots + shift[:2]
        lift = shift[2] + tilt[0] * (spots[:, 0] - centre[0]) + tilt[1] * (spots[:, 1] - centre[1])
        band = slice(start, start + len(rows))
        difference[band] = (bilinear(after.raster.grid, after.raster.data[0], there) - lift).reshape(rows.shape) - heights[band]
        if not empirical:
            assert models[0] is not None and models[1] is not None
            assert before.standard_uncertainty is not None and after.standard_uncertainty is not None
            one = models[0].noise_of(bilinear(before.raster.grid, before.standard_uncertainty.data[0], spots))
            two = models[1].noise_of(bilinear(after.raster.grid, after.standard_uncertainty.data[0], there))
            noise[band] = np.hypot(one, two).reshape(rows.shape)
    known = np.isfinite(difference)
    for axis, step in ((0, 1), (1, 0)):
        slope[axis] = np.nan_to_num(np.gradient(heights, cell, axis=step), nan=0.0) * (1 if axis == 0 else -1)
    calm = _calm_cells(grid, stable, stride) & known
    scatter = 1.4826 * float(np.median(np.abs(difference[calm] - np.median(difference[calm]))))
    noise_range = stated_range
    if empirical or math.isnan(noise_range):
        noise_range = _alike_over(np.where(calm, difference, np.nan), cell)
    if empirical:
        noise[known] = scatter
    slow_sd, slow_range = _slow_part(np.where(calm, difference, np.nan), noise, noise_range, cell, config)
    used_noise = bilinear_noise(grid, noise, places[index])
    registration = Registration(
        shift=(float(shift[0]), float(shift[1]), float(shift[2])),
        tilt=(float(tilt[0]), float(tilt[1])),
        sd=(),
        centre=centre,
        places=places[index],
        gain=gain,
        slope=ground[index],
        noise=used_noise,
        stable_share=float(np.mean(stable.ravel()[_both_known(grid, difference, places) & free.ravel()])),
        scatter=scatter,
        slow_sd=slow_sd,
        slow_range=slow_range,
    )
    limits = [Message(id="drone.limit_registration_stable")]
    if empirical:
        limits.append(Message(id="drone.limit_error_from_stable_ground"))
    if before.height_kind != after.height_kind:
        limits.append(Message(id="drone.limit_height_kinds_differ"))
    change = Change(
        before=before,
        after=after,
        grid=grid,
        difference=difference,
        noise=noise,
        noise_range=noise_range,
        slope=slope,
        stable=calm,
        registration=registration,
        empirical=empirical,
        limits=tuple(limits),
    )
    return replace(change, registration=replace(registration, sd=_registration_sd(change, prior)))


def _both_known(grid: Grid, difference: Array, places: Array) -> NDArray[np.bool_]:
    return np.isfinite(_at(grid, difference, places))


def _at(grid: Grid, values: NDArray[Any], places: Array) -> Array:
    t = grid.transform
    col, row = np.floor((places[:, 0] - t.c) / t.a).astype(np.int64), np.floor((places[:, 1] - t.f) / t.e).astype(np.int64)
    return np.asarray(values[np.clip(row, 0, grid.shape[0] - 1), np.clip(col, 0, grid.shape[1] - 1)])


def bilinear_noise(grid: Grid, noise: NDArray[Any], places: Array) -> Array:
    """(n,) m: noise of the cells at places, their median where it is not known."""
    found = _at(grid, noise, places)
    usual = float(np.nanmedian(noise)) if np.isfinite(noise).any() else 0.0
    return np.where(np.isfinite(found), found, usual)


def _calm_cells(grid: Grid, stable: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """(rows, cols): each cell as the thinned place in whose block it lies."""
    rows, cols = (np.minimum(np.arange(n) // stride, m - 1) for n, m in zip(grid.shape, stable.shape, strict=True))
    return np.asarray(stable[np.ix_(rows, cols)])


def _alike_over(residual: Array, cell: float) -> float:
    """Distance (m) at which the autocorrelation of stable residuals falls to 1/e, at least one cell; along rows and columns."""
    level = np.nanmedian(residual)
    spread = 1.4826 * float(np.nanmedian(np.abs(residual - level)))
    r = np.clip(residual - level, -4 * spread, 4 * spread)
    total = float(np.nanmean(r**2))
    previous = 1.0
    if not total > 0:
        return cell
    for lag in range(1, min(200, min(r.shape) - 1)):
        pairs = np.concatenate([(r[:, lag:] * r[:, :-lag]).ravel(), (r[lag:] * r[:-lag]).ravel()])
        found = float(np.nanmean(pairs)) / total if np.isfinite(pairs).any() else 0.0
        if found < math.exp(-1):
            part = (previous - math.exp(-1)) / max(previous - found, 1e-9)
            return max(lag - 1 + part, 1.0) * cell
        previous = found
    return 200 * cell


def _slow_part(
    residual: Array, noise: NDArray[Any], noise_range: float, cell: float, config: CompareConfig
) -> tuple[float, float]:
    """(sd, range) m of what stays alike over long ways on stable ground: variance of block means less what their noise explains."""
    side = max(2, round(config.block_m / cell))
    rows, cols = residual.shape[0] // side, residual.shape[1] // side
    if rows * cols < 9:
        return 0.0, config.block_m
    cut = residual[: rows * side, : cols * side].reshape(rows, side, cols, side).transpose(0, 2, 1, 3).reshape(rows * cols, -1)
    full = np.isfinite(cut).mean(axis=1) > 0.5
    if np.count_nonzero(full) < 9:
        return 0.0, config.block_m
    means = np.nanmean(cut[full], axis=1)
    usual = float(np.nanmedian(noise[np.isfinite(residual)]))
    expected = (spread_of(np.ones((side, side)), max(noise_range / cell, 0.1)) / side**2 * usual) ** 2
    spread = 1.4826 * float(np.median(np.abs(means - np.median(means))))
    return math.sqrt(max(spread**2 - expected, 0.0)), config.block_m


def _fields(change: Change) -> list[tuple[float, ErrorField]] | None:
    """(sign, field) of both surveys, or None where one brings none: then slow errors are those seen on stable ground."""
    first, second = change.before.error_field, change.after.error_field
    return None if first is None or second is None else [(-1.0, first), (1.0, second)]


def _registration_sd(change: Change, prior: Array) -> tuple[float, ...]:
    result = []
    for k in range(_PARAMETERS):
        parts = _registration_parts(change, np.eye(_PARAMETERS)[k])
        # never less known than without a look at the ground
        result.append(min(math.sqrt(sum(v**2 for v in parts.values())), float(prior[k])))
    return tuple(result)


def _registration_parts(change: Change, moments: Array) -> dict[str, float]:
    """Contributions to sum moments_k parameter_k: noise of the stable cells, and what the adjustments left there."""
    reg = change.registration
    c = moments @ reg.gain
    parts = {"registration": norm_of(c * reg.noise)}
    fields = _fields(change)
    x, y = reg.places.T
    if fields is None:
        parts["block"] = _slow_sum(reg, x, y, c)
    else:
        modes = [sign * field_sum(f, x, y, (-reg.slope[:, 0] * c, -reg.slope[:, 1] * c, c)) for sign, f in fields]
        parts["block"] = norm_of(np.concatenate(modes))
    return parts


def _slow_sum(reg: Registration, x: Array, y: Array, c: Array) -> float:
    """Standard deviation of sum c_i e_i for slow errors alike within blocks of `slow_range`."""
    column = np.floor((x - x.min()) / reg.slow_range).astype(np.int64)
    row = np.floor((y - y.min()) / reg.slow_range).astype(np.int64)
    sums = np.asarray(np.bincount(row * (int(column.max()) + 1) + column, weights=c), np.float64)
    return reg.slow_sd * norm_of(sums)


def measure_change(
    change: Change,
    polygon: shapely.Polygon,
    *,
    vertex_sd: float = 0.0,
    config: MeasureConfig = MeasureConfig(),
) -> tuple[Measurement, Measurement, Measurement]:
    """Volume gained, lost, and net = gained - lost inside a polygon between the two surfaces; m3.

    polygon: in the surfaces' CRS, where it lies on `before`. vertex_sd: standard uncertainty of each vertex, m per axis.

    Raises:
        CoverageError: more than `uncovered_limit` of the polygon is not known in both.
    """
    grid = change.grid
    scale = grid_scale(grid.crs, polygon.centroid.x, polygon.centroid.y, ground_height(change.before, change.before.height_kind))
    patch = cut_patch(grid, change.difference, change.noise, polygon)
    known = np.isfinite(patch.z)
    uncovered = check_covered(patch, known, config)
    moved = np.where(known, np.where(known, patch.z, 0.0), 0.0)
    inside = np.where(known, patch.share, 0.0) * patch.cell_area / scale**2
    assert patch.sd is not None
    noise = np.where(known, np.nan_to_num(patch.sd, nan=0.0), 0.0)
    slope = [np.nan_to_num(cut_patch(grid, part, None, polygon).z, nan=0.0) for part in change.slope]
    limits = [*change.limits]
    if uncovered > 0:
        limits.append(Message(id="drone.limit_uncovered", values={"share": f"{100 * uncovered:.1f}"}))
    results = []
    for kind in KINDS:
        sign = part_of({"volume_gain": "volume_fill", "volume_loss": "volume_cut"}.get(kind, kind), moved)
        weight = inside * sign
        value = float(np.sum(weight * moved))
        parts = _change_parts(change, patch, weight, noise, slope)
        edge = sum(float(np.sum(g**2)) for g in edge_gradients(patch, moved * sign, polygon))
        parts["boundary"] = math.sqrt(edge) * vertex_sd / scale**2
        if uncovered > 0:
            parts["holes"] = hole_doubt(patch, known, moved * sign, scale)
        if kind != "volume_net":
            parts["sign"] = sign_doubt(noise, inside, moved)
        parts["grid_scale"] = 2 * scale_doubt(change.before) * abs(value)
        results.append(
            stated_figure(
                kind,
                value,
                "m3",
                parts,
                propagation="drone.propagation_change",
                shape=polygon,
                crs=grid.crs,
                limits=limits,
                base="previous",
                uncovered=uncovered,
            )
        )
    gain, loss, net = results
    return gain, loss, net


def _change_parts(change: Change, patch: Patch, weight: Array, noise: Array, slope: list[Array]) -> dict[str, float]:
    """Contributions to sum weight_i (after - before)_i inside a patch, less what the registration takes off each cell."""
    reg = change.registration
    used = weight != 0
    x, y, w = patch.x[used] + patch.middle[0], patch.y[used] + patch.middle[1], weight[used]
    inner = np.column_stack([slope[0][used], slope[1][used]])
    moments = _design(inner, np.column_stack([x, y]), reg.centre).T @ w
    c = -(moments @ reg.gain)
    parts = {
        "noise": spread_of(weight * noise, max(change.noise_range / patch.cell, 1e-3)),
        "registration": norm_of(c * reg.noise),
    }
    fields = _fields(change)
    rx, ry = reg.places.T
    if fields is None:
        everywhere_x, everywhere_y = np.concatenate([x, rx]), np.concatenate([y, ry])
        parts["block"] = _slow_sum(reg, everywhere_x, everywhere_y, np.concatenate([w, c]))
        return parts
    modes = []
    for sign, field in fields:
        own = field_sum(field, x, y, (-inner[:, 0] * w, -inner[:, 1] * w, w))
        there = field_sum(field, rx, ry, (-reg.slope[:, 0] * c, -reg.slope[:, 1] * c, c))
        modes.append(sign * (own + there))
    parts["block"] = norm_of(np.concatenate(modes))
    return parts


def level_of_detection(change: Change, config: CompareConfig = CompareConfig()) -> Array:
    """(rows, cols) m: least height difference of a single cell that stands out from its errors, NaN where nothing is known.

    Noise of the cell, the registration and slow errors (from the fields of both surveys on a coarse net, else as seen on stable
    ground) in quadrature, times `detection_factor` (Lane et al. 2003).
    """
    grid, reg = change.grid, change.registration
    step = max(1, round(min(grid.shape) / 24))
    rows, cols = np.meshgrid(np.arange(0, grid.shape[0], step), np.arange(0, grid.shape[1], step), indexing="ij")
    x, y = _centres(grid, rows, cols)
    spots = np.column_stack([x.ravel(), y.ravel()])
    local = _design(np.zeros((len(spots), 2)), spots, reg.centre)
    variance = np.sum(((local @ reg.gain) * reg.noise) ** 2, axis=1)
    fields = _fields(change)
    if fields is None:
        variance += reg.slow_sd**2
    else:
        rx, ry = reg.places.T
        for _, field in fields:
            sensed = np.stack([field_sum(field, rx, ry, (-reg.slope[:, 0] * g, -reg.slope[:, 1] * g, g)) for g in reg.gain])
            variance += np.sum((field.at(spots)[:, 2] - local @ sensed) ** 2, axis=1)
    coarse = variance.reshape(rows.shape)
    r, c = np.meshgrid(np.arange(grid.shape[0]) / step, np.arange(grid.shape[1]) / step, indexing="ij")
    slow = ndimage.map_coordinates(coarse, [r, c], order=1, mode="nearest")
    lod = config.detection_factor * np.sqrt(change.noise**2 + slow)
    return np.where(np.isfinite(change.difference), lod, np.nan)


def changed_regions(change: Change, lod: Array, config: CompareConfig = CompareConfig()) -> list[shapely.Polygon]:
    """Connected areas, largest first, whose mean over a window stands out from its own errors; widened by two cells.

    Noise of a mean falls with the number of independent cells, slow errors do not. The level allows for how many windows are looked at
    (Bonferroni): where nothing changed, one comparison in twenty lists anything. lod: of `level_of_detection`.
    """
    from rasterio.features import shapes
    from scipy.stats import norm

    cell = change.grid.resolution[0]
    known = np.isfinite(change.difference)
    size = max(3, 2 * round(1.5 * change.noise_range / cell) + 1)
    weight = ndimage.uniform_filter(known.astype(np.float64), size, mode="constant")
    mean = ndimage.uniform_filter(np.where(known, change.difference, 0.0), size, mode="constant") / np.maximum(weight, 1e-9)
    share = spread_of(np.ones((size, size)), max(change.noise_range / cell, 1e-3)) / size**2
    noise = np.where(known, change.noise, 0.0)
    slow = np.maximum((np.nan_to_num(lod) / config.detection_factor) ** 2 - noise**2, 0.0)
    # One window in twenty stands out by chance: here the chance is one in twenty for any window of the whole area.
    windows = max(np.count_nonzero(known) / size**2, 1.0)
    factor = max(float(norm.isf(0.025 / windows)), config.detection_factor)
    level = np.sqrt((share * noise) ** 2 + slow)
    found = known & (np.abs(mean) > factor * level) & (np.abs(change.difference) > 0.5 * factor * level)
    found = ndimage.binary_opening(found, structure=np.ones((3, 3)))
    regions = []
    for sign in (1, -1):
        part = found & (np.sign(mean) == sign)
        labels, count = ndimage.label(part, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1) * cell**2
        keep = (sizes >= config.least_patch_m2) & (np.arange(count + 1) > 0)
        grown = ndimage.binary_dilation(keep[labels], iterations=2)
        for geometry, _ in shapes(grown.astype(np.uint8), mask=grown, transform=change.grid.transform):
            polygon = shapely.geometry.shape(geometry)
            regions.append(shapely.Polygon(polygon.exterior))
    return sorted(regions, key=lambda p: (-p.area, p.bounds))
