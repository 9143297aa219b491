"""Retrospective detection of dated, lasting changes in every pixel of a cube, all bands together.

Per pixel: short water spells and single spikes are left out, the bands are whitened by their short-term noise, the
series is cut where two seasonal models explain it better than one (evidence with proper priors, binary segmentation),
and a cut counts only when the new state lies further from the old one's model than the old state's own scatter of
monthly means allows (`BreakConfig.false_alarm_rate`). Each break carries the last clear observation that decisively
fits the old state and the first that fits the new one. Pixels are independent: tiling and threads change nothing.
It does not name causes and never calls an unobserved pixel unchanged. Equations: docs/methods/satellite.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoevidence.errors import ConfigError, CoverageError, HistoryTooShortError
from geoevidence.raster import Grid
from geoevidence.types import Progress, no_progress
from satellite.harmonics import design_matrix
from satellite.indices import band_roles
from satellite.kernels import MAX_BREAKS, Rule, detect_rows
from satellite.types import NODATE, BreakMap, Cube, Observed, Pace, Status

# Score above which a stable pixel of simulated tiles shows a break this often a year (docs/methods/satellite.md). Below the last: not known.
_RATES = (0.02, 0.01, 0.005, 0.0015, 0.0005, 0.0002, 0.0001)
_SCORES = (2.5, 3.6, 4.5, 6.0, 8.0, 10.0, 12.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakConfig:
    """How breaks are found. Defaults were set on the tuning seeds of two simulators (docs/methods/satellite.md).

    false_alarm_rate: false breaks per stable pixel and year that are accepted, 0.0001 to 0.02; smaller misses more partial changes.
    min_observations: clear observations of a pixel below which nothing is decided.
    min_history_days: length of the whole period below which no seasonal model is made, d.
    min_segment: clear observations that a state must have to be looked for; more delays fresh changes.
    reference_days: shortest time, d, that the longer of the two states must have been seen.
    weak_share: a pixel is also taken at this share of the score when two neighbours changed with it (1 = never: pixels alone).
    means_share: share of the score that the means of the new state must reach alone; larger is quicker and misses faint changes (1).
    dates_weight: what one median of three dates, told apart by the cut, weighs in the score (1); smaller is stricter.
    index_dates_weight: the same for a cube of one index.
    link_days: intervals of neighbours at most this far apart belong to one change, d.
    min_gain: least gain in -2 log evidence (natural units) for a cut to be judged; larger is quicker and misses faint changes.
    min_shift: least change in the first year, root mean square over dates and bands, reflectance.
    min_index_shift: the same for a cube of one index.
    block_days: length of the means that count as one independent look, d; longer is stricter with slow anomalies.
    min_blocks: independent looks that the shorter state must have.
    fresh_days: a state that fades (regrowth) is also judged by this much of it next to the break, d; shorter sees briefer bare phases.
    fresh_blocks: independent looks that this part must have. fresh_factor: its score is divided by this (1).
    scatter: factor on the variance of the reference state's block means, for what lasts longer than a block (1); larger is stricter.
    index_scatter: the same for a cube of one index, where nothing but size tells a change from weather.
    reach: distance from the model, in the reference state's own noise, beyond which an observation counts no more (1), unless the same
        season of another year of its state lies as far.
    lone_reach: distance up to which the mean of a block counts when no other year of its state shows the like in that season (1);
        smaller is stricter with blooms and odd seasons.
    model_doubt: largest variance (noise units squared) that the uncertainty of the reference model adds, except where water comes
        and goes; smaller sees more where dates are few and seasons are missing.
    margin: mean excess beyond what the same season of other years showed, as a share of that range (1), below which a cut is refused.
    phase_sd_days: standard deviation of the season's yearly shift, d; larger forgives early and late seasons.
    amplitude_sd: standard deviation of the season's yearly relative height (1); larger forgives strong and weak seasons.
    level_sd: standard deviation of the yearly level, relative to the root mean square of the season (1); forgives wet and dry years.
    allowance: factor on these three (1).
    gradual_gain: how much better a slow rise must fit than a step, in units of the residual variance, to be called gradual (1).
    spike: distance in noise units, root mean square over bands, from both neighbours beyond which one date is left out.
    noise_floor: smallest noise assumed, in units of the cube.
    decisive: difference in squared distance (noise units) that makes one observation decide between old and new state.
    fit: distance from a state's model in noise units, root mean square over bands, within which one observation shows that state.
    water_index: (M)NDWI above which an observation counts as water. water_margin: below it by this much counts as partly flooded.
    water_run_days: a water spell on land (or the reverse) up to this long is water level, not a change, d; twice that where spells recur.
    water_factor: the score of a change between two states of water (a bloom, turbid years), or from water to land that is flooded again,
        is divided by this (1).
    flood_returns: floods after the change, left out as water level, from which on the land counts as flooded again; fewer is stricter.
    season_days: dates of other years within this many days of the same day of the year are of the same season, d.
    season_share: share of the earlier years' views in which a season must have been land to have been missed by a flood (1).
    season_views: views of missed seasons that a lasting flood must have.
    late: squared distance (noise units) by which a date must be nearer to the new state to count as new.
    """

    false_alarm_rate: float = 0.0015
    min_observations: int = 18
    min_history_days: int = 730
    min_segment: int = 4
    reference_days: int = 330
    weak_share: float = 0.6
    means_share: float = 0.4
    dates_weight: float = 2.0
    index_dates_weight: float = 1.5
    link_days: int = 45
    min_gain: float = 70.0
    min_shift: float = 0.006
    min_index_shift: float = 0.03
    block_days: int = 30
    min_blocks: int = 2
    fresh_days: int = 365
    fresh_blocks: int = 3
    fresh_factor: float = 1.5
    scatter: float = 1.5
    index_scatter: float = 3.0
    reach: float = 9.0
    lone_reach: float = 4.0
    model_doubt: float = 0.12
    margin: float = 0.3
    phase_sd_days: float = 10.0
    amplitude_sd: float = 0.1
    level_sd: float = 0.15
    allowance: float = 0.6
    gradual_gain: float = 20.0
    spike: float = 4.0
    noise_floor: float = 0.001
    decisive: float = 6.0
    fit: float = 3.0
    water_index: float = 0.0
    water_margin: float = 0.2
    water_run_days: int = 250
    season_days: int = 24
    season_share: float = 0.8
    season_views: int = 4
    water_factor: float = 2.0
    flood_returns: int = 2
    late: float = 1.0

    def __post_init__(self) -> None:
        ranges = {
            "false_alarm_rate": (_RATES[-1], _RATES[0]),
            "min_observations": (10, 10_000),
            "min_history_days": (365, 36_500),
            "min_segment": (2, 1000),
            "reference_days": (180, 36_500),
            "weak_share": (0.1, 1),
            "means_share": (0.05, 1),
            "dates_weight": (0.01, 100),
            "index_dates_weight": (0.01, 100),
            "min_gain": (0, 1e6),
            "min_shift": (0, 1e6),
            "min_index_shift": (0, 1e6),
            "block_days": (1, 365),
            "min_blocks": (1, 100),
            "fresh_days": (1, 3650),
            "phase_sd_days": (0, 60),
            "amplitude_sd": (0, 1),
            "level_sd": (0, 10),
            "allowance": (0, 100),
            "fresh_blocks": (1, 100),
            "fresh_factor": (1, 10),
            "scatter": (0.1, 100),
            "index_scatter": (0.1, 100),
            "reach": (1, 1e6),
            "lone_reach": (0, 1e6),
            "model_doubt": (0, 1e6),
            "margin": (0, 100),
            "gradual_gain": (0, 1e6),
            "spike": (1, 1e6),
            "noise_floor": (1e-9, 1e6),
            "link_days": (0, 3650),
            "decisive": (0, 1e6),
            "fit": (0.5, 1e6),
            "water_index": (-1, 1),
            "water_margin": (0, 1),
            "water_run_days": (0, 3650),
            "season_days": (1, 90),
            "season_share": (0.5, 1),
            "season_views": (1, 100),
            "water_factor": (1, 100),
            "flood_returns": (1, 1000),
            "late": (0, 30),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)

    @property
    def min_score(self) -> float:
        """The score that `false_alarm_rate` asks for (interpolated in the logarithm of the rate)."""
        return float(np.interp(np.log(self.false_alarm_rate), np.log(_RATES[::-1]), _SCORES[::-1]))


def _rule(config: BreakConfig, bands: tuple[str, ...]) -> tuple[Rule, str]:
    roles = band_roles(bands)
    green, wet = roles.get("green", -1), roles.get("swir1", roles.get("nir", -1))
    water = (green, wet) if green >= 0 and wet >= 0 else (-1, -1)
    if len(bands) == 1:
        # A cube of one index: NDVI is low over water, the water indices are high.
        name = bands[0].lower()
        water = (0, -2) if name == "ndvi" else (0, -3) if name in ("ndwi", "mndwi") else (-1, -1)
    has_ndvi = "nir" in roles and "red" in roles
    rule = Rule(
        min_observations=config.min_observations,
        min_span_days=0.8 * config.min_history_days,
        min_segment=config.min_segment,
        reference_days=float(config.reference_days),
        spike=config.spike,
        noise_floor=config.noise_floor,
        min_gain=config.min_gain,
        min_score=config.weak_share * config.min_score,
        min_means=config.means_share * config.min_score,
        weak_share=config.weak_share,
        dates_weight=config.index_dates_weight if len(bands) == 1 else config.dates_weight,
        min_shift=config.min_index_shift if len(bands) == 1 else config.min_shift,
        block_days=float(config.block_days),
        min_blocks=config.min_blocks,
        fresh_days=float(config.fresh_days),
        phase_sd_days=config.phase_sd_days,
        amplitude_sd=config.amplitude_sd,
        level_sd=config.level_sd,
        allowance=config.allowance,
        fresh_blocks=config.fresh_blocks,
        fresh_factor=config.fresh_factor,
        scatter=config.index_scatter if len(bands) == 1 else config.scatter,
        reach=config.reach,
        lone_reach=config.lone_reach,
        model_doubt=config.model_doubt,
        margin=config.margin,
        gradual_gain=config.gradual_gain,
        decisive=config.decisive,
        fit=config.fit,
        water_index=config.water_index,
        water_margin=config.water_margin,
        water_run_days=float(config.water_run_days),
        season_days=float(config.season_days),
        season_share=config.season_share,
        season_views=config.season_views,
        water_factor=config.water_factor,
        flood_returns=config.flood_returns,
        late=config.late,
        water_a=water[0],
        water_b=water[1],
        index_a=roles["nir"] if has_ndvi else -1,
        index_b=roles["red"] if has_ndvi else -1,
    )
    return rule, "NDVI" if has_ndvi else bands[0]


def _cube_of(array: xr.DataArray, status: Any, scale: float | None, offset: float | None, grid: Grid | None) -> _Input:
    if set(array.dims) != {"time", "band", "y", "x"}:
        raise ValueError(f"a cube has the dimensions time, band, y and x, not {array.dims}")
    array = array.transpose("time", "band", "y", "x")
    if "time" not in array.coords or "band" not in array.coords:
        raise ValueError("a cube names its times and bands")
    days = array["time"].values.astype("datetime64[D]").astype(np.int32)
    order = np.argsort(days, kind="stable")
    if (np.diff(days[order]) <= 0).any():
        raise ValueError("the dates of a cube are unique; merge scenes of one day first")
    whole = array.dtype.kind in "iu"
    if whole and (status is None or array.dtype != np.int16):
        raise ValueError("a cube of whole numbers is int16 and comes with a status array (time, y, x) of `Observed` codes")
    stored = array.values if whole else np.asarray(array.values, np.float32)
    if status is None:
        observed = np.where(np.isfinite(stored).all(axis=1), np.uint8(Observed.CLEAR), np.uint8(Observed.NOT_OBSERVED))
    else:
        if isinstance(status, xr.DataArray):
            status = status.transpose("time", "y", "x").values
        observed = np.asarray(status, np.uint8)
        if observed.shape != (stored.shape[0], *stored.shape[2:]):
            raise ValueError(f"status {observed.shape} does not fit the cube {stored.shape}")
    if (np.diff(days) < 0).any():
        stored, observed, days = stored[order], observed[order], days[order]
    return _Input(
        stored=np.ascontiguousarray(stored),
        observed=np.ascontiguousarray(observed),
        days=days,
        bands=tuple(str(name) for name in array["band"].values),
        grid=grid,
        scale=float(array.attrs.get("scale_factor", 1.0)) if scale is None else scale,
        offset=float(array.attrs.get("add_offset", 0.0)) if offset is None else offset,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Input:
    """A `Cube`, or what an array of the caller says, in order of time."""

    stored: NDArray[Any]
    observed: NDArray[np.uint8]
    days: NDArray[np.int32]
    bands: tuple[str, ...]
    grid: Grid | None
    scale: float
    offset: float


def _input_of(cube: Cube) -> _Input:
    return _Input(**{name: getattr(cube, name) for name in _Input.__dataclass_fields__})


def detect_breaks(
    cube: Cube | xr.DataArray,
    config: BreakConfig | None = None,
    *,
    status: xr.DataArray | NDArray[np.uint8] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    grid: Grid | None = None,
    threads: int = 2,
    progress: Progress = no_progress,
) -> BreakMap:
    """Dated changes of every pixel.

    Args:
        cube: a `Cube`; or an array (time, band, y, x) with coordinates time and band, in any order of time and bands:
            float in reflectance or index units, NaN = not observed, or int16 as stored, together with `status`.
        config: the decision rule; None = defaults.
        status: (time, y, x) `Observed` codes of an array, in its order of time; needed for int16, else NaN decides.
        scale, offset: of an array: physical = stored * scale + offset; None = its attributes `scale_factor` and
            `add_offset`, else 1 and 0.
        grid: of an array (a `Cube` has its own); kept in the result.
        threads: at most this many at once; the result does not depend on it.
        progress: told the fraction of rows done.

    Returns:
        BreakMap with as many break layers as the pixel with most breaks has, at least one.

    Raises:
        HistoryTooShortError: the period is shorter than `min_history_days`.
        CoverageError: no pixel has a single clear observation.
    """
    config = config or BreakConfig()
    given = _input_of(cube) if isinstance(cube, Cube) else _cube_of(cube, status, scale, offset, grid)
    require_history(given.days, config)
    if not (given.observed == Observed.CLEAR).any():
        raise CoverageError("satellite.nothing_clear", scenes=len(given.days))
    return keep_supported(_detect(given, config, threads, progress), config)


def detect_block(cube: Cube, config: BreakConfig, *, threads: int = 2) -> BreakMap:
    """Weak and strong breaks of a part of a larger area; join the parts and `keep_supported` afterwards.

    A part without one clear view is undecided, not refused.
    """
    require_history(cube.days, config)
    return _detect(_input_of(cube), config, threads, no_progress)


def keep_supported(breaks: BreakMap, config: BreakConfig) -> BreakMap:
    """Breaks with the full score, and weak ones (at least `weak_share` of it) beside at least two accepted neighbours.

    Neighbours are the eight around, with a break whose interval is at most `link_days` away; applied twice, so that an
    edge two pixels wide can be filled in. Works on whole maps only: blocks are joined first.
    """
    accepted = breaks.score >= config.min_score
    start, end = breaks.last_clear_before, breaks.first_clear_after
    depth, rows, cols = accepted.shape
    weak = np.nonzero(np.isfinite(breaks.score) & ~accepted)
    since, until = start[weak].astype(np.int64), end[weak].astype(np.int64)
    for _ in range(2):
        neighbours = np.zeros(len(since), np.int8)
        for d_row, d_col in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
            row, col = weak[1] + d_row, weak[2] + d_col
            inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
            row, col = np.clip(row, 0, rows - 1), np.clip(col, 0, cols - 1)
            linked = np.zeros(len(since), bool)
            for k in range(depth):
                apart = np.maximum(since, start[k, row, col]) - np.minimum(until, end[k, row, col])
                linked |= inside & accepted[k, row, col] & (apart <= config.link_days)
            neighbours += linked
        accepted[weak] |= neighbours >= 2
    # Layers stay in order of time: what is dropped leaves no hole before a later break.
    order = np.argsort(~accepted, axis=0, kind="stable")
    kept = np.take_along_axis(accepted, order, axis=0)
    depth = max(1, int(kept.any(axis=(1, 2)).sum()))

    def layers(values: NDArray[Any], fill: float) -> NDArray[Any]:
        return np.where(kept, np.take_along_axis(values, order, axis=0), np.asarray(fill, values.dtype))[:depth]

    status = np.where((breaks.status == Status.CHANGE) & ~kept[0], np.uint8(Status.NO_CHANGE), breaks.status)
    return replace(
        breaks,
        break_date=layers(breaks.break_date, NODATE),
        last_clear_before=layers(breaks.last_clear_before, NODATE),
        first_clear_after=layers(breaks.first_clear_after, NODATE),
        magnitude=layers(breaks.magnitude, np.nan),
        score=layers(breaks.score, np.nan),
        pace=layers(breaks.pace, Pace.NONE),
        status=status.astype(np.uint8),
    )


def require_history(days: NDArray[np.int32], config: BreakConfig) -> None:
    """Raises HistoryTooShortError when the period is shorter than `min_history_days`."""
    span = int(days[-1] - days[0]) if len(days) else 0
    if span < config.min_history_days:
        raise HistoryTooShortError("satellite.history_too_short", days=span, needed=config.min_history_days, scenes=len(days))


def join_rows(parts: Sequence[BreakMap], grid: Grid) -> BreakMap:
    """The map of a grid from the maps of its blocks of rows, top to bottom."""
    depth = max(len(part.break_date) for part in parts)

    def join(name: str, fill: float) -> NDArray[Any]:
        layers = [getattr(part, name) for part in parts]
        padded = [np.concatenate([a, np.full((depth - len(a), *a.shape[1:]), fill, a.dtype)]) for a in layers]
        return np.concatenate(padded, axis=1)

    return BreakMap(
        grid=grid,
        first_day=parts[0].first_day,
        last_day=parts[0].last_day,
        break_date=join("break_date", NODATE),
        last_clear_before=join("last_clear_before", NODATE),
        first_clear_after=join("first_clear_after", NODATE),
        magnitude=join("magnitude", np.nan),
        magnitude_of=parts[0].magnitude_of,
        score=join("score", np.nan),
        pace=join("pace", Pace.NONE),
        observations=np.concatenate([part.observations for part in parts]),
        status=np.concatenate([part.status for part in parts]),
    )


def _detect(given: _Input, config: BreakConfig, threads: int, progress: Progress) -> BreakMap:
    # Bands in the order of their names: rounding must not depend on the order they came in.
    stored, bands = given.stored, given.bands
    order = sorted(range(len(bands)), key=lambda k: bands[k])
    if order != list(range(len(bands))):
        stored, bands = np.ascontiguousarray(stored[:, order]), tuple(bands[k] for k in order)
    rule, magnitude_of = _rule(config, bands)
    days = given.days
    X = np.ascontiguousarray(design_matrix(days, centre=0.5 * (int(days[0]) + int(days[-1]))).T, np.float32)
    rows, cols = stored.shape[2:]
    out_days = np.full((MAX_BREAKS, 3, rows, cols), NODATE, np.int32)
    out_values = np.full((MAX_BREAKS, 3, rows, cols), np.nan, np.float32)
    counts = np.zeros((rows, cols), np.int16)
    status = np.full((rows, cols), np.uint8(Status.NOT_OBSERVED))
    # Small, so that no thread waits for the last one.
    chunk = max(1, min(64, 1024 // max(cols, 1)))
    starts = range(0, rows, chunk)

    def work(start: int) -> None:
        stop = min(start + chunk, rows)
        scale, offset = np.float64(given.scale), np.float64(given.offset)
        detect_rows(stored, scale, offset, given.observed, days, X, rule, start, stop, out_days, out_values, counts, status)

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for done, _ in enumerate(pool.map(work, starts), start=1):
            progress("satellite.stage_breaks", done / len(starts))
    used = max(1, int((out_days[:, 0] != NODATE).any(axis=(1, 2)).sum()))
    return BreakMap(
        grid=given.grid,
        first_day=int(days[0]),
        last_day=int(days[-1]),
        break_date=out_days[:used, 0].copy(),
        last_clear_before=out_days[:used, 1].copy(),
        first_clear_after=out_days[:used, 2].copy(),
        magnitude=out_values[:used, 0].copy(),
        magnitude_of=magnitude_of,
        score=out_values[:used, 1].copy(),
        pace=np.nan_to_num(out_values[:used, 2]).astype(np.uint8),
        observations=counts,
        status=status,
    )
