"""What a changed surface was and what it became, by plain rules on index values.

In: the observations of an event's pixels and the two ends of its interval. Out: a `SurfaceState` for either side with the
index values that say so, and whether the water level is involved. A class is named only where every value lies beyond its
limit by the stated margin, with enough dates in enough of the year; otherwise the cover is UNKNOWN and the reason is
given. Limits, sources and the confusion on simulated sites: docs/methods/satellite_events.md.
It does not say what the surface is used for, who changed it or why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion

from geoevidence.errors import ConfigError
from geoevidence.types import Quantity
from satellite.indices import index_values, surface_indices
from satellite.medians import median_last, plain_median
from satellite.types import Cover, Cube, SurfaceState

_YEAR = 365.2425
_BOX = np.ones((3, 3), bool)
WET: frozenset[Cover] = frozenset({Cover.WATER, Cover.TURBID})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeConfig:
    """Limits of the classes: a value counts only where it lies beyond a limit by the margin (docs/methods/satellite_events.md).

    before_days, after_days: time on either side of the interval that is looked at, d (season twice before, once after: what
        it became, not what became of that).
    min_dates: clear dates a side must have. seen_share: share of the pixels that must be clear on such a date (1).
    min_months: calendar months that a side without green must have been seen in, unless the other side was green in the same
        ones: bare ground in winter alone may be a field.
    water_index: MNDWI (NDWI without short-wave infrared) above which a date shows water (1; Xu 2006: 0).
    water_share, water_margin: share of the dates with water from which on it is water, and margin; land is 1 - the same (1).
    green, green_margin: the 80 % quantile of NDVI over the dates, from which on it is vegetation (1).
    turbid, turbid_margin: median NDTI of the dates with water (1). algae, algae_margin: their median NDVI (1).
    bare, bare_margin: BSI of ground without vegetation (1).
    grey, grey_margin: NDRB above which such ground is soil or sand, below which it is built (1).
    dark, dark_margin: mean reflectance below which ground is not judged (burnt, in shadow; 1).
    touch_share: share of the pixels of the event and the two around it that must be under water at times to say that it
        touches water (1). touch_frequency: share of the dates that is meant by at times (1).
    level_difference: difference of the share of water dates before and after that is named (1).
    """

    before_days: int = 731
    after_days: int = 366
    min_dates: int = 4
    seen_share: float = 0.5
    min_months: int = 6
    water_index: float = 0.0
    water_share: float = 0.75
    water_margin: float = 0.1
    green: float = 0.4
    green_margin: float = 0.05
    turbid: float = 0.0
    turbid_margin: float = 0.02
    algae: float = 0.1
    algae_margin: float = 0.05
    bare: float = 0.0
    bare_margin: float = 0.03
    grey: float = 0.15
    grey_margin: float = 0.02
    dark: float = 0.08
    dark_margin: float = 0.01
    touch_share: float = 0.05
    touch_frequency: float = 0.1
    level_difference: float = 0.15

    def __post_init__(self) -> None:
        whole = {"before_days": (30, 3650), "after_days": (30, 3650), "min_dates": (2, 1000), "min_months": (1, 12)}
        for each in fields(self):
            low, high = whole.get(each.name, (0.001, 1.0) if each.name.endswith("margin") else (-1.0, 1.0))
            value = getattr(self, each.name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=each.name, value=value, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attribution:
    """The two sides of an event, and whether the water level is involved."""

    before: SurfaceState
    after: SurfaceState
    water_level: bool


def attribute_change(
    cube: Cube,
    inside: NDArray[np.bool_],
    *,
    before: int,
    after: int,
    since: int | None,
    until: int | None,
    config: AttributeConfig,
) -> Attribution:
    """What the pixels were and became.

    Args:
        cube: covers the event and some of its surroundings. inside: (y, x) its pixels.
        before, after: last day of the old and first of the new state, days since 1970-01-01.
        since, until: first day of the old and last of the new state, where another change limits them.
    """
    core = binary_erosion(inside, _BOX)
    rows, cols = np.nonzero(core if core.sum() >= 5 else inside)
    values = cube.at(rows, cols).astype(np.float64)
    clear = cube.clear_at(rows, cols).mean(axis=1) >= config.seen_share
    days = cube.days.astype(np.int64)
    start = before - config.before_days if since is None else max(since, before - config.before_days)
    end = after + config.after_days if until is None else min(until, after + config.after_days)
    old = np.flatnonzero(clear & (days >= start) & (days <= before))
    new = np.flatnonzero(clear & (days >= after) & (days <= end))
    spectrum = median_last(values)
    series = {name: index_values(name, spectrum, cube.bands, axis=1) for name in surface_indices(cube.bands)}
    water = _water_index(cube.bands)
    sides = []
    for own, other in ((old, new), (new, old)):
        sides.append(_state(series, days, own, other, water, config))
    first, second = sides
    shares = (first.water_share, second.water_share)
    differs = shares[0] is not None and shares[1] is not None and abs(shares[0] - shares[1]) >= config.level_difference
    wet = bool({first.cover, second.cover} & WET)
    level = wet or differs or (water is not None and _touches_water(cube, inside, water, config))
    return Attribution(before=first, after=second, water_level=level)


def _water_index(bands: tuple[str, ...]) -> str | None:
    known = surface_indices(bands)
    # A cube of one index carries the name that its maker gave it.
    by_name = {name.upper(): name for name in known}
    return by_name.get("MNDWI") or by_name.get("NDWI")


def _touches_water(cube: Cube, inside: NDArray[np.bool_], water: str, config: AttributeConfig) -> bool:
    rows, cols = np.nonzero(binary_dilation(inside, _BOX, iterations=2))
    values = index_values(water, cube.at(rows, cols), cube.bands, axis=1)
    seen = np.isfinite(values).sum(axis=0)
    wet = (np.nan_to_num(values, nan=-1.0) > config.water_index).sum(axis=0)
    return bool((wet > config.touch_frequency * np.maximum(seen, 1)).mean() >= config.touch_share)


def _quantity(values: NDArray[np.float64]) -> Quantity:
    """Median with standard error 1.2533 x 1.4826 x MAD / sqrt(n); unknown below three values."""
    value = plain_median(values)
    error = None
    if len(values) >= 3:
        error = float(1.2533 * 1.4826 * plain_median(np.abs(values - value)) / math.sqrt(len(values)))
    return Quantity(value=value, unit="1", standard_uncertainty=error, propagation="satellite.median_propagation")


def _state(
    series: Mapping[str, NDArray[np.float64]],
    days: NDArray[np.int64],
    own: NDArray[np.intp],
    other: NDArray[np.intp],
    water: str | None,
    config: AttributeConfig,
) -> SurfaceState:
    """The state on the dates `own`; `other` are those of the other side."""
    measured = {}
    for name, values in series.items():
        good = values[own][np.isfinite(values[own])]
        if len(good):
            measured[name] = _quantity(good)
    greenness = next((values for name, values in series.items() if name.upper() == "NDVI"), None)
    if greenness is not None and len(own) >= config.min_dates:
        low, high, top = np.nanquantile(greenness[own], (0.1, 0.8, 0.9))
        for name, value in (("NDVI_high", high), ("NDVI_swing", top - low)):
            measured[name] = Quantity(value=float(value), unit="1", standard_uncertainty=None, propagation="")
    wet_dates: NDArray[np.bool_] | None = None
    share = None
    if water is not None and len(own):
        wet_dates = series[water][own] > config.water_index
        share = float(np.mean(wet_dates))

    def state(cover: Cover, margin: float, reason: str) -> SurfaceState:
        return SurfaceState(cover=cover, margin=margin, reason=reason, dates=len(own), water_share=share, indices=measured)

    if len(own) < config.min_dates:
        return state(Cover.UNKNOWN, 0.0, "satellite.cover_few_dates")
    dry = math.inf
    if share is not None and wet_dates is not None:
        water_room = (share - config.water_share) / config.water_margin
        dry = (1 - config.water_share - share) / config.water_margin
        if water_room >= 1:
            return state(*_kind_of_water(series, own[wet_dates], water_room, config))
        if water_room > -1 or dry < 1:
            near = water_room > -1 or dry > -1
            return state(Cover.UNKNOWN, max(0.0, water_room, dry), f"satellite.cover_{'near_limit' if near else 'flooded'}")
    if "NDVI_high" not in measured:
        return state(Cover.UNKNOWN, 0.0, "satellite.cover_missing_bands")
    green = (measured["NDVI_high"].value - config.green) / config.green_margin
    if green >= 1:
        return state(Cover.VEGETATION, min(green, dry), "satellite.cover_vegetation")
    if green > -1:
        return state(Cover.UNKNOWN, abs(green), "satellite.cover_near_limit")
    return state(*_kind_of_ground(series, measured, days, own, other, greenness, (-green, dry), config))


def _kind_of_water(
    series: Mapping[str, NDArray[np.float64]], wet: NDArray[np.intp], room: float, config: AttributeConfig
) -> tuple[Cover, float, str]:
    """Turbid or with algae where that is beyond its limit; else water, which says nothing of its colour."""
    for name, limit, margin in (("NDTI", config.turbid, config.turbid_margin), ("NDVI", config.algae, config.algae_margin)):
        if name in series:
            beyond = (float(np.nanmedian(series[name][wet])) - limit) / margin
            if beyond >= 1:
                return Cover.TURBID, min(room, beyond), "satellite.cover_turbid"
    return Cover.WATER, room, "satellite.cover_water"


def _kind_of_ground(
    series: Mapping[str, NDArray[np.float64]],
    measured: Mapping[str, Quantity],
    days: NDArray[np.int64],
    own: NDArray[np.intp],
    other: NDArray[np.intp],
    greenness: NDArray[np.float64] | None,
    room: tuple[float, float],
    config: AttributeConfig,
) -> tuple[Cover, float, str]:
    """Bare or built, of ground that is neither water nor green on its dates."""
    if not all(name in measured for name in ("BSI", "NDRB", "brightness")):
        return Cover.UNKNOWN, 0.0, "satellite.cover_missing_bands"
    months = set((np.mod(days[own], _YEAR) / _YEAR * 12).astype(int).tolist())
    if len(months) < config.min_months and not _was_green_then(greenness, days, own, other, config):
        return Cover.UNKNOWN, 0.0, "satellite.cover_part_of_year"
    bright = (measured["brightness"].value - config.dark) / config.dark_margin
    bare = (measured["BSI"].value - config.bare) / config.bare_margin
    soil = (measured["NDRB"].value - config.grey) / config.grey_margin
    nearest = min(*room, bright, bare, abs(soil))
    if nearest >= 1:
        return (Cover.BARE, nearest, "satellite.cover_bare") if soil > 0 else (Cover.BUILT, nearest, "satellite.cover_built")
    if min(bright, bare) <= -1:
        return Cover.UNKNOWN, 0.0, "satellite.cover_no_rule"
    return Cover.UNKNOWN, max(0.0, nearest), "satellite.cover_near_limit"


def _was_green_then(
    greenness: NDArray[np.float64] | None,
    days: NDArray[np.int64],
    own: NDArray[np.intp],
    other: NDArray[np.intp],
    config: AttributeConfig,
) -> bool:
    """Whether the other side was green on most of its dates in the part of the year that this side was seen in."""
    if greenness is None or not len(other):
        return False
    apart = np.abs(np.mod(days[other], _YEAR)[:, None] - np.mod(days[own], _YEAR)[None, :])
    then = greenness[other[(np.minimum(apart, _YEAR - apart) <= 20).any(axis=1)]]
    return len(then) >= 3 and float(np.nanmedian(then)) >= config.green + config.green_margin


def cover_indices(state: SurfaceState) -> tuple[tuple[str, Quantity], ...]:
    """The index values that carry a state's class, in a fixed order: at most four."""
    by_rule = {
        Cover.WATER: ("MNDWI", "NDWI", "NDTI", "NDVI"),
        Cover.TURBID: ("MNDWI", "NDWI", "NDTI", "NDVI"),
        Cover.VEGETATION: ("NDVI_high", "NDVI_swing", "MNDWI", "NDWI"),
        Cover.BARE: ("NDVI_high", "BSI", "NDRB", "brightness"),
        Cover.BUILT: ("NDVI_high", "BSI", "NDRB", "NDBI"),
        Cover.UNKNOWN: ("NDVI_high", "MNDWI", "NDWI", "BSI", "NDRB"),
    }
    named = [(name, state.indices[name]) for name in by_rule[state.cover] if name in state.indices]
    if not named:
        named = sorted(state.indices.items())
    # Without short-wave infrared NDWI stands for MNDWI; both say the same.
    return tuple(pair for pair in named if pair[0] != "NDWI" or "MNDWI" not in state.indices)[:4]
