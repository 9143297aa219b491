"""A second simulator of satellite series with known truth: the judge of the detector, made apart from `satellite.synthetic`.

In: kind of tile ("land" or "water"), seed, shape. Out: a cube (time, band, y, x) of reflectance, NaN = not clear, and the
truth of every pixel. 322 dates 2018-2023, about 170 clear a pixel, six bands. Same seed, same bytes.

A pixel is a mixture of a few surfaces whose shares change with season, year, field and lake level; neighbours are mixed by
a point spread that wanders a little from date to date. Over it lie gain and haze of a scene, noise correlated in time, noise
of a pixel, and cloud and shadow that nobody masked. It will not read files and knows no detector.

Seeds below 100 are for choosing settings, seeds from 101 on for testing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

NODATE = -2147483648
BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
FIRST_DAY = int(np.datetime64("2018-01-01").astype("datetime64[D]").astype(np.int64))
LAST_DAY = int(np.datetime64("2023-12-31").astype("datetime64[D]").astype(np.int64))
YEARS = tuple(range(2018, 2024))
SHARES = (0.05, 0.10, 0.15, 0.25, 0.50, 0.75, 1.00)
"""Shares of a pixel that single changed pixels have; patches have any share on their rim."""

F32 = NDArray[np.float32]

# Reflectance of surfaces in the six bands, rounded from what is published: vegetation, soils, roofs in Kokaly et al. 2017
# (USGS Spectral Library 7, doi:10.3133/ds1035) and Meerdink et al. 2019 (ECOSTRESS, doi:10.1016/j.rse.2019.05.015);
# turbid and algal lakes in Ruddick et al. 2006 (doi:10.4319/lo.2006.51.2.1167) and Hu 2009 (doi:10.1016/j.rse.2009.05.012).
SURFACES: dict[str, tuple[float, ...]] = {
    "broadleaf": (0.024, 0.050, 0.028, 0.370, 0.185, 0.080),
    "needleleaf": (0.020, 0.036, 0.025, 0.240, 0.115, 0.055),
    "litter": (0.046, 0.066, 0.086, 0.185, 0.220, 0.150),
    "crop": (0.030, 0.068, 0.038, 0.430, 0.190, 0.085),
    "rapeseed": (0.045, 0.130, 0.110, 0.390, 0.200, 0.110),
    "stubble": (0.072, 0.100, 0.130, 0.225, 0.300, 0.225),
    "soil": (0.080, 0.112, 0.150, 0.220, 0.300, 0.265),
    "wet_soil": (0.055, 0.075, 0.098, 0.140, 0.170, 0.135),
    "paddy": (0.062, 0.082, 0.080, 0.085, 0.055, 0.035),
    "water": (0.045, 0.060, 0.042, 0.020, 0.009, 0.006),
    "turbid": (0.075, 0.112, 0.120, 0.070, 0.018, 0.012),
    "algae": (0.042, 0.085, 0.048, 0.165, 0.055, 0.028),
    "mud": (0.075, 0.096, 0.112, 0.125, 0.105, 0.075),
    "sand": (0.150, 0.190, 0.220, 0.270, 0.330, 0.300),
    "sedge": (0.035, 0.070, 0.052, 0.300, 0.190, 0.100),
    "concrete": (0.125, 0.150, 0.168, 0.205, 0.230, 0.215),
    "asphalt": (0.085, 0.095, 0.102, 0.120, 0.135, 0.125),
    "roof": (0.200, 0.235, 0.260, 0.310, 0.330, 0.300),
    "film": (0.230, 0.260, 0.270, 0.330, 0.260, 0.200),
    "panel": (0.060, 0.064, 0.068, 0.090, 0.110, 0.095),
    "cloud": (0.480, 0.460, 0.460, 0.500, 0.380, 0.300),
}
HAZE = (0.0130, 0.0095, 0.0070, 0.0035, 0.0012, 0.0006)
"""Additive haze of one unit by band: Rayleigh-like fall with wavelength."""


class Cover(IntEnum):
    """What a pixel is before any change."""

    EVERGREEN = 0
    DECIDUOUS = 1
    SINGLE_CROP = 2
    DOUBLE_CROP = 3
    WATER = 4
    FLAT = 5
    BANK = 6
    BARE = 7
    BUILT = 8


class Kind(IntEnum):
    """How a pixel changed."""

    STABLE = 0
    ABRUPT = 1
    GRADUAL = 2
    REGROWTH = 3
    """Abrupt, and the old cover comes back over years."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What happened to every pixel; arrays (y, x), dates int32 days since 1970-01-01.

    break_date: (2, y, x), in order of time, NODATE = none; of a gradual change the middle. start, end: of the first change;
    equal when abrupt. kind: `Kind`. cover: `Cover` before. target: name of the surface state after, "" = stable.
    share: of the pixel that changed, 0-1. duration: years from start to end. contrast: root mean square difference of
    reflectance over bands and clear dates after the change that it makes, without noise. near_end: the date is less than a
    year after the first or half a year before the last day. patch: number of the patch, 0 = a single or stable pixel.
    """

    break_date: NDArray[np.int32]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    kind: NDArray[np.uint8]
    cover: NDArray[np.uint8]
    target: NDArray[np.str_]
    share: F32
    duration: F32
    contrast: F32
    near_end: NDArray[np.bool_]
    patch: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class _Weather:
    """What all pixels of a tile share: days (t,), season shifts by year (d), vigour by year (1), lake level (t,), moisture (t,)."""

    days: NDArray[np.int64]
    shift: NDArray[np.float64]
    vigour: NDArray[np.float64]
    level: NDArray[np.float64]
    moisture: NDArray[np.float64]
    turbidity: NDArray[np.float64]
    bloom: NDArray[np.float64]


Draw = np.random.Generator
Weights = dict[str, F32]


def independent_tile(
    kind: Literal["land", "water"], seed: int, shape: tuple[int, int] = (100, 100)
) -> tuple[xr.DataArray, Truth]:
    """A simulated cube and its truth.

    Returns:
        float32 array (time, band, y, x) of reflectance, NaN where not clear, coordinates time, band, y, x (m); and `Truth`.
    """
    if kind not in ("land", "water"):
        raise ValueError(f"kind is land or water, not {kind!r}")
    if seed < 0 or min(shape) < 16:
        raise ValueError("a seed of at least 0 and a shape of at least 16 x 16 are needed")
    rng = np.random.default_rng([seed, {"land": 1, "water": 2}[kind]])
    days = _dates(rng)
    weather = _make_weather(days, rng)
    clear = _clear(days, shape, rng)
    cover, field, height = _lay_out(kind, shape, rng)

    pure = np.empty((days.size, *shape, len(BANDS)), np.float32)
    for each in Cover:
        chosen = cover == each
        if chosen.any():
            pure[:, chosen] = _signal(_STATES[each], weather, field[chosen], height[chosen], rng)
    surface = _mix_neighbours(pure, rng)
    del pure
    truth = _change(surface, cover, height, weather, clear, rng)
    reflectance = _observe(surface, weather, clear, rng)

    cube = np.full(reflectance.shape, np.nan, np.float32)
    np.copyto(cube, np.round(reflectance, 4), where=clear[..., None])
    coordinates = {
        "time": days.astype("datetime64[D]").astype("datetime64[ns]"),
        "band": list(BANDS),
        "y": 3_300_000.0 - 10.0 * (np.arange(shape[0]) + 0.5),
        "x": 600_000.0 + 10.0 * (np.arange(shape[1]) + 0.5),
    }
    array = np.ascontiguousarray(cube.transpose(0, 3, 1, 2))
    return xr.DataArray(array, dims=("time", "band", "y", "x"), coords=coordinates, name="reflectance"), truth


def ndvi(cube: xr.DataArray) -> xr.DataArray:
    """(time, 1, y, x) float32 normalised difference vegetation index of a cube with red and nir bands."""
    red, nir = cube.sel(band="red").values, cube.sel(band="nir").values
    with np.errstate(divide="ignore", invalid="ignore"):
        index = np.clip((nir - red) / (nir + red), -1, 1)[:, None].astype(np.float32)
    return xr.DataArray(index, dims=cube.dims, coords={**{k: cube[k] for k in ("time", "y", "x")}, "band": ["ndvi"]}, name="ndvi")


# ------------------------------------------------------------------------------------------------ time and weather


def _dates(rng: Draw) -> NDArray[np.int64]:
    """322 of the five-day overpasses of six years, fewer in the months of rain."""
    grid = np.arange(FIRST_DAY + int(rng.integers(0, 5)), LAST_DAY + 1, 5)
    rain = 0.5 + 0.5 * np.cos(2 * np.pi * (_day_of_year(grid) - 165) / 365.25)
    lost = rng.choice(grid.size, grid.size - 322, replace=False, p=(0.5 + rain) / (0.5 + rain).sum())
    return np.delete(grid, lost)


def _day_of_year(days: NDArray[np.int64]) -> NDArray[np.int64]:
    dates = days.astype("datetime64[D]")
    return (dates - dates.astype("datetime64[Y]")).astype(np.int64) + 1


def _red_noise(days: NDArray[np.int64], memory: float, rng: Draw, columns: int = 1) -> F32:
    """(t, columns) unit noise whose correlation falls to 1/e in `memory` days."""
    white = rng.standard_normal((days.size, columns), dtype=np.float32)
    kept = np.exp(-np.diff(days) / memory)
    for t in range(1, days.size):
        white[t] = kept[t - 1] * white[t - 1] + np.sqrt(1 - kept[t - 1] ** 2) * white[t]
    return white


def _make_weather(days: NDArray[np.int64], rng: Draw) -> _Weather:
    years = len(YEARS)
    daily = np.arange(FIRST_DAY, LAST_DAY + 1)
    strength = np.clip(rng.normal(1.0, 0.18, years), 0.6, 1.4)
    dry = rng.random(years) < 0.25
    if not dry.any() and rng.random() < 0.7:
        dry[rng.integers(years)] = True
    strength[dry] = rng.uniform(0.15, 0.45, int(dry.sum()))
    level = np.zeros(daily.size)
    for k, year in enumerate(YEARS):
        middle = _new_year(year) + rng.normal(200, 14)
        half = rng.uniform(55, 95)
        level += strength[k] * _bump(daily, middle - half, 14, middle + half, 16)
    level += 0.06 * _red_noise(daily, 12, rng)[:, 0]
    bloom = np.zeros(days.size)
    for year in YEARS:
        for _ in range(rng.poisson(1.5)):
            start = _new_year(year) + rng.uniform(150, 290)
            bloom += rng.uniform(0.1, 0.6) * _bump(days, start, 5, start + rng.uniform(12, 55), 5)
    season = np.cos(2 * np.pi * (_day_of_year(days) - 190) / 365.25)
    return _Weather(
        days,
        rng.normal(0, 6, years),
        np.clip(rng.normal(1, 0.05, years), 0.8, 1.2),
        level[days - FIRST_DAY],
        np.clip(0.45 + 0.12 * season + 0.22 * _red_noise(days, 9, rng)[:, 0], 0, 1),
        np.clip(0.5 + 0.15 * season + 0.2 * _red_noise(days, 35, rng)[:, 0], 0, 1),
        np.clip(bloom, 0, 0.8),
    )


def _new_year(year: int) -> int:
    return int(np.datetime64(f"{year}-01-01").astype("datetime64[D]").astype(np.int64))


def _bump(days: NDArray[np.int64], rise: object, rise_days: object, fall: object, fall_days: object) -> NDArray[np.float64]:
    """Logistic rise and fall (Beck et al. 2006, doi:10.1016/j.rse.2005.10.021), one column for each given date."""
    rise, rise_days, fall, fall_days = (np.asarray(value, np.float64) for value in (rise, rise_days, fall, fall_days))
    t = days[:, None] if rise.ndim else days
    up = np.clip((rise - t) / (rise_days / 4), -30, 30)
    down = np.clip((t - fall) / (fall_days / 4), -30, 30)
    return 1 / (1 + np.exp(up)) / (1 + np.exp(down))


# ------------------------------------------------------------------------------------------------ what the surfaces do


class _Fields:
    """Draws one number a field, or a field and year, and spreads it over the pixels of the field."""

    def __init__(self, field: NDArray[np.int64], rng: Draw) -> None:
        self.rng = rng
        _, self.index = np.unique(field, return_inverse=True)
        self.count = int(self.index.max()) + 1
        self.pixels = field.size

    def normal(self, mean: float, sd: float, own: float = 0.0) -> NDArray[np.float64]:
        """(pixel,), with `own` the deviation of pixels from their field."""
        value = self.rng.normal(mean, sd, self.count)[self.index]
        return value + self.rng.normal(0, own, self.pixels) if own else value

    def yearly(self, mean: float, sd: float) -> NDArray[np.float64]:
        """(year, pixel)"""
        return self.rng.normal(mean, sd, (len(YEARS) + 1, self.count))[:, self.index]

    def happens(self, rate: float) -> NDArray[np.bool_]:
        """(year, pixel)"""
        return (self.rng.random((len(YEARS) + 1, self.count)) < rate)[:, self.index]


def _seasons(
    weather: _Weather,
    rise: NDArray[np.float64],
    fall: NDArray[np.float64],
    height: NDArray[np.float64],
    rise_days: float,
    fall_days: float,
) -> F32:
    """(t, pixel) sum of one bump a year; rise, fall: days of the year (year, pixel), which may lie outside 1-365."""
    total = np.zeros((weather.days.size, rise.shape[1]), np.float32)
    for k in range(len(YEARS) + 1):
        start = _new_year(YEARS[0] + k)
        near = (weather.days > start + rise[k].min() - 120) & (weather.days < start + fall[k].max() + 120)
        if near.any():
            bump = _bump(weather.days[near], start + rise[k], rise_days, start + fall[k], fall_days)
            total[near] += (height[k] * bump).astype(np.float32)
    return total


def _shift(weather: _Weather) -> NDArray[np.float64]:
    return np.append(weather.shift, 0.0)[:, None]


def _vigour(weather: _Weather) -> NDArray[np.float64]:
    return np.append(weather.vigour, 1.0)[:, None]


def _ground(weather: _Weather, cover: F32, dry: str = "soil", own: F32 | None = None) -> Weights:
    """The uncovered rest, dry or wet."""
    wet = np.clip(weather.moisture[:, None] + (0 if own is None else own), 0, 1).astype(np.float32)
    rest = 1 - cover
    return {dry: rest * (1 - wet), "wet_soil": rest * wet}


def _evergreen(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    mid = _seasons(weather, fields.yearly(80, 5) + _shift(weather), fields.yearly(310, 6), fields.yearly(1, 0.04), 50, 60)
    density = fields.normal(0.88, 0.05, 0.03)
    leaves = np.clip((density * (0.80 + 0.20 * mid) * np.interp(weather.days, *_by_year(weather))[:, None]), 0, 1).astype(
        np.float32
    )
    needle = np.clip(fields.normal(0.5, 0.2, 0.05), 0, 1).astype(np.float32)
    return {"broadleaf": leaves * (1 - needle), "needleleaf": leaves * needle, "litter": 1 - leaves}


def _by_year(weather: _Weather) -> tuple[list[float], NDArray[np.float64]]:
    """Middle days of the years and the vigour there, to draw a smooth curve."""
    return [_new_year(year) + 200.0 for year in YEARS], 1 + 0.5 * (weather.vigour - 1)


def _deciduous(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    leaves = _seasons(
        weather,
        fields.normal(88, 5, 2) + fields.yearly(0, 3) + _shift(weather),
        fields.normal(312, 6, 2) + fields.yearly(0, 4),
        fields.yearly(1, 0.03) * _vigour(weather),
        35,
        40,
    )
    winter = np.clip(fields.normal(0.18, 0.08, 0.03), 0.02, 0.5).astype(np.float32)
    leaves = np.clip(winter + (0.93 - winter) * leaves, 0, 1)
    return {"broadleaf": leaves, "litter": 1 - leaves}


def _single_crop(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    fallow = fields.happens(0.05)
    sown = fields.normal(150, 12, 1.5) + fields.yearly(0, 6) + _shift(weather)
    reaped = np.maximum(sown + 85, fields.normal(272, 10, 1.5) + fields.yearly(0, 6))
    peak = np.clip(fields.normal(0.88, 0.05, 0.03) * fields.yearly(1, 0.08) * _vigour(weather), 0.3, 1)
    peak = np.where(fallow, np.clip(fields.yearly(0.35, 0.1), 0.1, 0.6), peak)
    green = np.clip(_seasons(weather, sown, reaped, peak, 45, 18), 0, 1)
    weeds = _seasons(weather, fields.yearly(55, 8), sown - 20, np.clip(fields.yearly(0.22, 0.1), 0, 0.5), 40, 14)
    weeds = np.clip(weeds, 0, 1 - green)
    stubble = np.clip(_seasons(weather, reaped, reaped + 110, fields.yearly(0.7, 0.1), 10, 60), 0, 1) * (1 - green - weeds)
    ground = _ground(weather, green + weeds + stubble)
    return {"crop": green, "sedge": weeds, "stubble": stubble, **ground}


def _double_crop(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    no_winter, no_summer, wheat = fields.happens(0.07), fields.happens(0.03), fields.happens(0.3)
    rice = fields.normal(0, 1)[None] > -0.6  # the same summer crop every year
    shift = _shift(weather)
    winter_rise = fields.normal(42, 7, 1.5) + fields.yearly(0, 6) + shift
    winter_fall = fields.normal(142, 5, 1) + fields.yearly(0, 5) + shift
    winter_peak = np.clip(fields.normal(0.82, 0.06, 0.03) * fields.yearly(1, 0.10), 0.2, 1)
    winter_peak = np.where(no_winter, np.clip(fields.yearly(0.25, 0.08), 0.05, 0.5), winter_peak)
    summer_rise = np.maximum(winter_fall + 22, fields.normal(186, 6, 1) + fields.yearly(0, 5) + shift)
    summer_fall = np.maximum(summer_rise + 65, fields.normal(278, 7, 1) + fields.yearly(0, 6))
    summer_peak = np.clip(fields.normal(0.90, 0.04, 0.03) * fields.yearly(1, 0.07) * _vigour(weather), 0.3, 1)
    summer_peak = np.where(no_summer, np.clip(fields.yearly(0.3, 0.1), 0.05, 0.6), summer_peak)
    winter = np.clip(_seasons(weather, winter_rise, winter_fall, winter_peak, 55, 16), 0, 1)
    summer = np.clip(_seasons(weather, summer_rise, summer_fall, summer_peak, 36, 16), 0, 1)
    bloom_at = np.minimum(winter_fall - 38, winter_rise + 58)
    yellow = np.clip(_seasons(weather, bloom_at - 11, bloom_at + 11, np.where(wheat | no_winter, 0.0, 0.85), 8, 8), 0, 1)
    green = np.clip(winter + summer, 0, 1)
    wet = _seasons(weather, summer_rise - 26, summer_rise + 35, np.where(rice & ~no_summer, 0.85, 0.0), 8, 25)
    paddy = np.clip(wet, 0, 1) * (1 - green)
    stubble = np.clip(_seasons(weather, summer_fall, summer_fall + 45, fields.yearly(0.7, 0.1), 8, 25), 0, 1) * (
        1 - green - paddy
    )
    ground = _ground(weather, green + paddy + stubble)
    return {"crop": green * (1 - yellow), "rapeseed": green * yellow, "paddy": paddy, "stubble": stubble, **ground}


def _water(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    turbid = np.clip(weather.turbidity[:, None] + fields.normal(0, 0.15, 0.04), 0, 1).astype(np.float32)
    algae = np.clip(weather.bloom[:, None] * np.clip(fields.normal(0.6, 0.3, 0.05), 0, 1.2), 0, 0.8).astype(np.float32)
    return {"algae": algae, "turbid": (1 - algae) * turbid, "water": (1 - algae) * (1 - turbid)}


def _flooded(weather: _Weather, height: F32) -> F32:
    """(t, pixel) share under water."""
    return (1 / (1 + np.exp(-np.clip((weather.level[:, None] - height) / 0.035, -30, 30)))).astype(np.float32)


def _flat(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    wet = _flooded(weather, height)
    shallow = np.clip(1 - (weather.level[:, None] - height) / 0.35, 0, 1).astype(np.float32)
    # sedge grows for weeks once the ground is dry and is drowned within days (Carex flats: Tan et al. 2016)
    grown = np.empty_like(wet)
    grown[0] = 1 - wet[0]
    for t in range(1, wet.shape[0]):
        memory = np.where(1 - wet[t] > grown[t - 1], 28.0, 5.0)
        grown[t] = grown[t - 1] + (1 - np.exp(-(weather.days[t] - weather.days[t - 1]) / memory)) * (1 - wet[t] - grown[t - 1])
    spring = _seasons(weather, fields.yearly(52, 7) + _shift(weather), fields.yearly(170, 12), fields.yearly(0.5, 0.06), 35, 50)
    autumn = _seasons(weather, fields.yearly(282, 8), fields.yearly(345, 9), fields.yearly(0.38, 0.07), 25, 30)
    lush = np.clip(fields.normal(0.85, 0.12, 0.04), 0.2, 1.1) * (0.32 + spring + autumn)
    sedge = (1 - wet) * grown * np.clip(lush, 0, 1).astype(np.float32)
    bare = 1 - wet - sedge
    turbid = np.clip(weather.turbidity[:, None] + 0.2 * shallow + fields.normal(0, 0.1), 0, 1).astype(np.float32)
    muddy = 0.25 * wet * shallow
    return {"turbid": (wet - muddy) * turbid, "water": (wet - muddy) * (1 - turbid), "mud": bare + muddy, "sedge": sedge}


def _bank(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    wet = _flooded(weather, height)
    sandy = np.clip(fields.normal(0.6, 0.2, 0.08), 0, 1).astype(np.float32)
    grass = _seasons(weather, fields.yearly(75, 6), fields.yearly(300, 10), np.clip(fields.yearly(0.25, 0.06), 0, 0.6), 50, 60)
    grass = np.clip(grass, 0, 1) * (1 - wet)
    dry = 1 - wet - grass
    damp = np.clip(weather.moisture, 0, 1)[:, None].astype(np.float32) * 0.5
    return {"turbid": wet, "sedge": grass, "sand": dry * sandy * (1 - damp), "mud": dry * (1 - sandy * (1 - damp))}


def _bare(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    grass = _seasons(weather, fields.yearly(85, 8), fields.yearly(295, 10), np.clip(fields.yearly(0.10, 0.03), 0, 0.3), 60, 60)
    grass = np.clip(grass, 0, 1)
    return {"sedge": grass, **_ground(weather, grass, own=fields.normal(0, 0.08, 0.03).astype(np.float32))}


def _built(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    roof = np.clip(fields.normal(0.25, 0.15, 0.1), 0, 0.8).astype(np.float32)
    tree = np.clip(fields.normal(0.15, 0.06, 0.05), 0, 0.4).astype(np.float32)
    leaf = _seasons(weather, fields.yearly(88, 4), fields.yearly(312, 5), fields.yearly(1, 0.03), 40, 45)
    green = np.clip(tree * (0.4 + 0.6 * leaf), 0, 1)
    ones = np.ones_like(green)
    rest = 1 - green - roof * (1 - tree)
    return {"broadleaf": green, "roof": ones * roof * (1 - tree), "concrete": rest * 0.6, "asphalt": rest * 0.4}


def _plain(name: str, spread: float = 0.04) -> State:
    """A surface that does nothing but get wet."""

    def state(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
        bright = np.clip(fields.normal(1, spread, spread / 2), 0.7, 1.3).astype(np.float32)
        damp = 1 - 0.08 * weather.moisture[:, None].astype(np.float32)
        return {name: damp * bright}

    return state


def _works(weather: _Weather, fields: _Fields, height: F32, rng: Draw) -> Weights:
    """A building site: bare ground, the finished part growing slowly."""
    done = np.clip(fields.normal(0.2, 0.1, 0.05), 0, 0.5).astype(np.float32)
    return {
        "concrete": done * np.ones((weather.days.size, 1), np.float32),
        **_ground(weather, done * np.ones((weather.days.size, 1), np.float32)),
    }


State = Callable[[_Weather, _Fields, F32, Draw], Weights]

_STATES: dict[object, State] = {
    Cover.EVERGREEN: _evergreen,
    Cover.DECIDUOUS: _deciduous,
    Cover.SINGLE_CROP: _single_crop,
    Cover.DOUBLE_CROP: _double_crop,
    Cover.WATER: _water,
    Cover.FLAT: _flat,
    Cover.BANK: _bank,
    Cover.BARE: _bare,
    Cover.BUILT: _built,
    "forest": _deciduous,
    "plantation": _evergreen,
    "crop": _double_crop,
    "cleared": _bare,
    "works": _works,
    "built": _built,
    "pond": _water,
    "sand": _plain("sand", 0.06),
    "film": _plain("film", 0.05),
    "panels": _plain("panel", 0.05),
}

ABRUPT_TO: dict[Cover, tuple[str, ...]] = {
    Cover.EVERGREEN: ("cleared", "works", "pond", "panels"),
    Cover.DECIDUOUS: ("cleared", "works", "panels"),
    Cover.SINGLE_CROP: ("works", "built", "pond", "film", "panels"),
    Cover.DOUBLE_CROP: ("works", "built", "pond", "film", "panels"),
    Cover.WATER: ("sand", "works", "panels", "crop"),
    Cover.FLAT: ("sand", "pond", "built", "works"),
    Cover.BANK: ("pond", "built", "crop"),
    Cover.BARE: ("pond", "film", "crop"),
    Cover.BUILT: ("pond", "forest"),
}
GRADUAL_TO: dict[Cover, tuple[str, ...]] = {
    Cover.EVERGREEN: ("cleared",),
    Cover.DECIDUOUS: ("cleared",),
    Cover.SINGLE_CROP: ("plantation", "built"),
    Cover.DOUBLE_CROP: ("forest", "built"),
    Cover.WATER: ("crop", "sand"),
    Cover.FLAT: ("sand", "forest"),
    Cover.BANK: ("pond", "forest"),
    Cover.BARE: ("forest", "built"),
    Cover.BUILT: ("forest",),
}
REGROWS = (Cover.EVERGREEN, Cover.DECIDUOUS)


def _signal(state: State, weather: _Weather, field: NDArray[np.int64], height: F32, rng: Draw) -> F32:
    """(t, pixel, band) reflectance of pixels that are whole."""
    total = np.zeros((weather.days.size, field.size, len(BANDS)), np.float32)
    for name, weight in state(weather, _Fields(field, rng), height, rng).items():
        for band, reflectance in enumerate(SURFACES[name]):
            total[:, :, band] += weight * np.float32(reflectance)
    return total


# ------------------------------------------------------------------------------------------------ where things are


def _smooth(shape: tuple[int, int], length: float, rng: Draw) -> NDArray[np.float64]:
    """Unit noise, smooth over `length` pixels."""
    field = gaussian_filter(rng.standard_normal(shape), length, mode="reflect")
    return (field - field.mean()) / field.std()


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.empty(values.size)
    order[np.argsort(values, axis=None, kind="stable")] = (np.arange(values.size) + 0.5) / values.size
    return order.reshape(values.shape)


def _lay_out(kind: str, shape: tuple[int, int], rng: Draw) -> tuple[NDArray[np.uint8], NDArray[np.int64], F32]:
    """Cover, number of the field, and height above the lowest lake level of every pixel."""
    rows, cols = np.indices(shape)
    count = max(8, rows.size // 55)
    centres = rng.random((count, 2)) * shape
    apart = (rows[..., None] - centres[:, 0]) ** 2 + (cols[..., None] - centres[:, 1]) ** 2
    field = apart.argmin(axis=-1)
    land = (Cover.EVERGREEN, Cover.DECIDUOUS, Cover.SINGLE_CROP, Cover.DOUBLE_CROP, Cover.WATER, Cover.BARE, Cover.BUILT)
    odds = {"land": (0.19, 0.17, 0.19, 0.25, 0.05, 0.06, 0.09), "water": (0.05, 0.17, 0.18, 0.42, 0.04, 0.06, 0.08)}[kind]
    cover = rng.choice(np.array(land, np.uint8), count, p=odds)[field]
    height = np.full(shape, 9.0, np.float32)
    if kind == "water":
        rank = _ranks(_smooth(shape, max(4.0, min(shape) / 12), rng) + 0.08 * rng.standard_normal(shape))
        cover[rank < 0.30] = Cover.WATER
        flat = (rank >= 0.30) & (rank < 0.68)
        cover[flat] = Cover.FLAT
        height[flat] = (0.12 + 0.70 * (rank[flat] - 0.30) / 0.38).astype(np.float32)
        bank = (rank >= 0.68) & (rank < 0.77)
        cover[bank] = Cover.BANK
        height[bank] = (0.95 + 0.5 * (rank[bank] - 0.68) / 0.09).astype(np.float32)
    return cover.astype(np.uint8), field, height


def _mix_neighbours(pure: F32, rng: Draw) -> F32:
    """Point spread of a pixel over its four neighbours, displaced a little on every date (misregistration)."""
    padded = np.pad(pure, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    moved = np.clip(rng.normal(0, 0.10, (pure.shape[0], 2)), -0.3, 0.3)
    side = 0.06
    weights = {
        (0, -1): side + np.clip(-moved[:, 1], 0, None),
        (0, 1): side + np.clip(moved[:, 1], 0, None),
        (-1, 0): side + np.clip(-moved[:, 0], 0, None),
        (1, 0): side + np.clip(moved[:, 0], 0, None),
    }
    mixed = pure * (1 - np.sum(list(weights.values()), axis=0)).astype(np.float32)[:, None, None, None]
    rows, cols = pure.shape[1:3]
    for (down, right), weight in weights.items():
        window = padded[:, 1 + down : 1 + down + rows, 1 + right : 1 + right + cols]
        mixed += window * weight.astype(np.float32)[:, None, None, None]
    return mixed


# ------------------------------------------------------------------------------------------------ changes


@dataclass(slots=True)
class _Plan:
    """One change, of the pixels (n,) with the given shares."""

    pixels: NDArray[np.int64]
    share: F32
    kind: Kind
    target: str
    day: int
    duration: float
    patch: int
    second: tuple[str, int] | None


def _draw_day(rng: Draw) -> int:
    """Mostly at least a year after the begin and half a year before the end; one in twelve nearer to these."""
    first, last = FIRST_DAY + 365, LAST_DAY - 182
    if rng.random() < 1 / 12:
        return int(rng.integers(FIRST_DAY + 200, first)) if rng.random() < 0.5 else int(rng.integers(last, LAST_DAY - 75))
    return int(rng.integers(first, last))


def _plan(pixels: NDArray[np.int64], share: F32, cover: Cover, patch: int, rng: Draw) -> _Plan:
    kinds = (Kind.ABRUPT, Kind.GRADUAL, Kind.REGROWTH)
    kind = rng.choice(kinds, p=(0.60, 0.22, 0.18) if cover in REGROWS else (0.80, 0.20, 0.0))
    day, second, duration = _draw_day(rng), None, 0.0
    if kind == Kind.GRADUAL:
        duration = float(rng.uniform(0.5, 4.0))
        half = int(duration * 365.25 / 2)
        early, late = FIRST_DAY + 240 + half, LAST_DAY - 120 - half
        day = int(rng.integers(early, late)) if late > early else (early + late) // 2
        target = str(rng.choice(GRADUAL_TO[cover]))
    elif kind == Kind.REGROWTH:
        duration, target = float(rng.uniform(0.8, 4.0)), "cleared"
    else:
        target = str(rng.choice(ABRUPT_TO[cover]))
        if target in ("cleared", "works") and rng.random() < 0.25 and LAST_DAY - 182 - day > 450:
            second = (str(rng.choice(("built", "panels", "pond"))), int(rng.integers(day + 440, LAST_DAY - 182)))
    return _Plan(pixels, share, Kind(kind), target, day, duration, patch, second)


def _plans(cover: NDArray[np.uint8], rng: Draw) -> list[_Plan]:
    """Patches first (about a seventh of the tile), then single pixels (about a ninth)."""
    shape = cover.shape
    rows, cols = np.indices(shape)
    taken = np.zeros(shape, bool)
    plans: list[_Plan] = []
    while taken.mean() < 0.14:
        row, col = rng.integers(shape[0]), rng.integers(shape[1])
        # a logarithmic spread of sizes: many small, few large
        radius = float(np.exp(rng.uniform(np.log(1.2), np.log(5.5))))
        squeeze, turn = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
        along = (rows - row) * np.sin(turn) + (cols - col) * np.cos(turn)
        across = (rows - row) * np.cos(turn) - (cols - col) * np.sin(turn)
        angle = np.arctan2(across, along)
        ragged = 1 + 0.15 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.12 * np.sin(3 * angle + rng.uniform(0, 6))
        inside = radius * ragged - np.hypot(along, across / squeeze)
        share = np.clip(inside + 0.5, 0, 1)
        if rng.random() < 0.25:  # loose: part of every pixel stays as it was
            share *= rng.uniform(0.3, 0.9)
        whole = (share >= 0.05) & (cover == cover[row, col]) & ~taken
        if not whole.any():
            continue
        pixels = np.flatnonzero(whole)
        taken |= whole
        plans.append(_plan(pixels, share.ravel()[pixels].astype(np.float32), Cover(int(cover[row, col])), len(plans) + 1, rng))
    free = rng.permutation(np.flatnonzero(~taken))
    for pixel in free[: int(0.11 * cover.size)]:
        share = np.array([rng.choice(SHARES)], np.float32)
        plans.append(_plan(np.array([pixel]), share, Cover(int(cover.ravel()[pixel])), 0, rng))
    return plans


def _course(days: NDArray[np.int64], plan: _Plan) -> F32:
    """(t,) how much of the change is there, 0-1."""
    if plan.kind == Kind.GRADUAL:
        half = plan.duration * 365.25 / 2
        return np.clip((days - (plan.day - half)) / (2 * half), 0, 1).astype(np.float32)
    there = (days >= plan.day).astype(np.float32)
    if plan.kind == Kind.REGROWTH:  # half of the cover is back after half the duration, the rest ever slower
        there *= np.exp(-np.log(2) * np.clip(days - plan.day, 0, None) / (plan.duration * 365.25 / 2)).astype(np.float32)
    return there


def _change(surface: F32, cover: NDArray[np.uint8], height: F32, weather: _Weather, clear: NDArray[np.bool_], rng: Draw) -> Truth:
    """Writes the changes into `surface` (t, y, x, band) and says what was written."""
    shape = cover.shape
    size = cover.size
    flat = surface.reshape(surface.shape[0], size, len(BANDS))
    break_date = np.full((2, size), NODATE, np.int32)
    start, end = np.full(size, NODATE, np.int32), np.full(size, NODATE, np.int32)
    kind, target = np.zeros(size, np.uint8), np.full(size, "", "<U12")
    share, duration, contrast = (np.zeros(size, np.float32) for _ in range(3))
    near_end, patch = np.zeros(size, bool), np.zeros(size, np.int32)
    plans = _plans(cover, rng)

    # one call a state: the pixels of a plan are one field
    steps = [(plan, plan.target, _course(weather.days, plan)) for plan in plans]
    steps += [(p, p.second[0], (weather.days >= p.second[1]).astype(np.float32)) for p in plans if p.second]
    made: dict[int, F32] = {}
    for name in sorted({step[1] for step in steps}):
        chosen = [k for k, step in enumerate(steps) if step[1] == name]
        sizes = [steps[k][0].pixels.size for k in chosen]
        field = np.repeat(np.arange(len(chosen)), sizes)
        low = np.zeros(field.size, np.float32)
        signal = _signal(_STATES[name], weather, field, low, rng)
        for k, part in zip(chosen, np.split(np.arange(field.size), np.cumsum(sizes)[:-1]), strict=True):
            made[k] = signal[:, part]
    for k, (plan, name, course) in enumerate(steps):
        at = plan.pixels
        before = flat[:, at]
        if name == plan.target and k < len(plans):
            difference = (made[k] - before) * (course[:, None] * plan.share)[..., None]
            flat[:, at] = before + difference
            felt = (course > 0)[:, None] & clear.reshape(-1, size)[:, at]
            total = (difference.astype(np.float64) ** 2).mean(axis=2)
            contrast[at] = np.sqrt((total * felt).sum(axis=0) / np.maximum(felt.sum(axis=0), 1))
            half = round(plan.duration * 365.25 / 2) if plan.kind == Kind.GRADUAL else 0
            break_date[0, at], start[at], end[at] = plan.day, plan.day - half, plan.day + half
            kind[at], target[at], share[at], patch[at] = plan.kind, name, plan.share, plan.patch
            duration[at] = plan.duration if plan.kind != Kind.ABRUPT else 0
            near_end[at] = plan.day < FIRST_DAY + 365 or plan.day > LAST_DAY - 182
        else:  # the share that had become the first target becomes the second
            flat[:, at] = before + (made[k] - made[_index(steps, plan)]) * (course[:, None] * plan.share)[..., None]
            assert plan.second is not None
            break_date[1, at] = plan.second[1]
    return Truth(
        break_date=break_date.reshape(2, *shape),
        start=start.reshape(shape),
        end=end.reshape(shape),
        kind=kind.reshape(shape),
        cover=cover,
        target=target.reshape(shape),
        share=share.reshape(shape),
        duration=duration.reshape(shape),
        contrast=contrast.reshape(shape),
        near_end=near_end.reshape(shape),
        patch=patch.reshape(shape),
    )


def _index(steps: list[tuple[_Plan, str, F32]], plan: _Plan) -> int:
    return next(k for k, step in enumerate(steps) if step[0] is plan)


# ------------------------------------------------------------------------------------------------ what the sensor sees


def _clear(days: NDArray[np.int64], shape: tuple[int, int], rng: Draw) -> NDArray[np.bool_]:
    """(t, y, x): clear by the mask; on average 170 of 322 dates, whole scenes or fields of cloud lost."""
    rain = 0.5 + 0.5 * np.cos(2 * np.pi * (_day_of_year(days) - 165) / 365.25)
    covered = rng.beta(0.55, 0.62 - 0.10 * rain)  # mostly all or nothing
    # the mean is set by shifting all covers alike, so that a pixel keeps about 170 dates
    target = 1 - 170 / days.size
    power = 1.0
    for _ in range(40):
        power *= np.log(target) / np.log((covered**power).mean()) if (covered**power).mean() > 0 else 1.0
        power = float(np.clip(power, 0.2, 5.0))
    clear = np.empty((days.size, *shape), bool)
    for t, cover in enumerate(covered**power):
        clear[t] = _ranks(_smooth(shape, min(shape) / 6, rng) + 0.15 * rng.standard_normal(shape)) > cover
    return clear


def _observe(surface: F32, weather: _Weather, clear: NDArray[np.bool_], rng: Draw) -> F32:
    """Reflectance as delivered: sun and view, haze, noise, unmasked cloud and shadow."""
    times, rows, cols, bands = surface.shape
    days, shape = weather.days, (rows, cols)
    # the sun stands lower in winter: what is left after correction (Roy et al. 2016, doi:10.1016/j.rse.2016.01.023)
    sun = 1 + 0.03 * np.cos(2 * np.pi * (_day_of_year(days) - 172) / 365.25)
    gain = sun[:, None] * (1 + rng.normal(0, 0.012, (times, 1)) + rng.normal(0, 0.005, (times, bands)))
    haze = np.outer(rng.exponential(0.28, times), HAZE)
    seen = surface * gain.astype(np.float32)[:, None, None] + haze.astype(np.float32)[:, None, None]
    # slow noise of a pixel (moisture, aerosol, view), common to its bands, and slow noise of neighbourhoods
    own = _red_noise(days, 25, rng, rows * cols).reshape(times, rows, cols)
    seen *= np.expand_dims(1 + 0.012 * own, -1)
    slow = _red_noise(days, 40, rng, 9)
    for k in range(9):
        seen *= (1 + 0.006 * slow[:, k, None, None] * _smooth(shape, min(shape) / 8, rng).astype(np.float32))[..., None]
    colour = _red_noise(days, 25, rng, rows * cols).reshape(times, rows, cols)
    seen[..., 3:] *= np.expand_dims(1 + 0.008 * colour, -1)
    for band in range(bands):
        white = rng.standard_normal((times, rows, cols), dtype=np.float32)
        seen[..., band] += white * (0.0018 + 0.022 * seen[..., band])
    _spoil(seen, clear, rng)
    return np.clip(seen, 0.0001, 1.2)


def _spoil(seen: F32, clear: NDArray[np.bool_], rng: Draw) -> None:
    """Thin cloud and shadow on 1 to 3 % of the observations that the mask calls clear, in blots."""
    rate = rng.uniform(0.01, 0.03)
    shape = clear.shape[1:]
    # a blot needs a scene with some cloud nearby; scenes that are wholly clear have fewer
    partly = 1 - clear.reshape(clear.shape[0], -1).mean(axis=1)
    odds = np.where((partly > 0.02) & (partly < 0.98), 1.0, 0.25)
    odds *= rate / ((odds * (1 - partly)).sum() / (1 - partly).sum())
    cloud = np.array(SURFACES["cloud"], np.float32)
    for t in range(clear.shape[0]):
        share = float(np.clip(odds[t] * rng.exponential(1.0), 0, 0.5))
        rank = _ranks(_smooth(shape, 4.0, rng) + 0.2 * rng.standard_normal(shape))
        thin, dark = rank > 1 - share * 0.65, rank < share * 0.35
        opacity = (rng.uniform(0.06, 0.5) * (0.6 + 0.4 * rng.random(shape)))[thin, None].astype(np.float32)
        seen[t][thin] = seen[t][thin] * (1 - opacity) + cloud * opacity
        dim = rng.uniform(0.45, 0.85) + 0.05 * rng.standard_normal(shape)
        seen[t][dark] *= dim[dark, None].astype(np.float32)
