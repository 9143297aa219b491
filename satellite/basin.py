"""A wide simulation of the Yangtze basin: what lies where, how it looks on each day, what changes, what a scene shows of it.

In: a `BasinConfig`, a shape and a seed, through `satellite.synthetic`. Out: the observed scenes and the truth of every pixel.

The land is drawn four times finer than a pixel and made of units: a parcel, a stand, a reach of water, a strip of a flat at
one height. A unit's surface is a mixture of spectra by day, drawn anew for each parcel and year; flats follow a daily water
level and grow green by the days since they fell dry. A pixel is the sum of its units by area. A change puts another unit
into a share of the pixels, at once, slowly, or for a while. A scene adds view and sun, haze, cloud, shadow, a shift and noise.
Spectra are rounded typical values. Nothing here detects anything, and nothing here knows how changes are detected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal, get_args

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter
from scipy.ndimage import shift as shift_array
from scipy.signal import lfilter
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from scipy.special import expit, ndtr

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
CLASSES = (
    "water", "flat", "bank", "levee", "single_crop", "double_crop", "forest", "urban", "road",
    "lake", "pond", "reed", "evergreen", "bamboo", "crayfish", "orchard", "greenhouse",
)  # fmt: skip
"""Land classes. `water` is a river; `forest` sheds its leaves; `crayfish` is a rice field under water from autumn to spring."""
Kind = Literal[
    "sand_mining", "clear_cut", "construction", "gradual", "flooded_pit",
    "burn", "road", "pond", "filling", "solar", "greenhouse", "planting", "demolition",
    "scour", "dredging", "silting", "reed_cleared", "levee", "overgrown", "abandoned",
]  # fmt: skip
KINDS: tuple[str, ...] = ("none", *get_args(Kind))
QUALITY = {
    "nodata": 0, "shadow": 3, "vegetation": 4, "bare": 5, "water": 6, "cloud_medium": 8, "cloud_high": 9, "cirrus": 10, "snow": 11,
}  # fmt: skip
"""Codes of the quality band: those of the Sentinel-2 scene classification that are used here."""
CLEAR = (4, 5, 6)
FINE = 4
"""Sub-cells per pixel side."""

SPECTRA: Mapping[str, tuple[float, ...]] = {
    "water": (0.075, 0.090, 0.080, 0.035, 0.012, 0.008),
    "mud": (0.090, 0.115, 0.130, 0.165, 0.190, 0.150),
    "sand": (0.150, 0.195, 0.240, 0.300, 0.370, 0.330),
    "soil": (0.085, 0.110, 0.140, 0.205, 0.270, 0.215),
    "litter": (0.045, 0.060, 0.065, 0.165, 0.170, 0.105),
    "crop": (0.030, 0.065, 0.035, 0.420, 0.205, 0.095),
    "grass": (0.040, 0.080, 0.060, 0.330, 0.225, 0.130),
    "trees": (0.022, 0.045, 0.026, 0.345, 0.155, 0.070),
    "roof": (0.130, 0.145, 0.160, 0.205, 0.235, 0.220),
    "asphalt": (0.095, 0.105, 0.115, 0.145, 0.175, 0.165),
    "concrete": (0.205, 0.225, 0.245, 0.285, 0.320, 0.300),
    "clear_water": (0.055, 0.064, 0.044, 0.018, 0.008, 0.006),
    "silt_water": (0.105, 0.140, 0.145, 0.100, 0.026, 0.018),
    "bloom": (0.040, 0.085, 0.045, 0.270, 0.070, 0.035),
    "flower": (0.050, 0.130, 0.125, 0.430, 0.215, 0.105),
    "straw": (0.070, 0.100, 0.130, 0.260, 0.280, 0.190),
    "dry_mud": (0.110, 0.140, 0.165, 0.215, 0.260, 0.215),
    "reed": (0.035, 0.070, 0.050, 0.360, 0.200, 0.105),
    "sedge": (0.040, 0.085, 0.055, 0.380, 0.205, 0.100),
    "pine": (0.020, 0.038, 0.024, 0.285, 0.125, 0.055),
    "film": (0.200, 0.230, 0.250, 0.360, 0.340, 0.260),
    "panel": (0.070, 0.072, 0.078, 0.115, 0.140, 0.125),
    "char": (0.045, 0.050, 0.058, 0.090, 0.130, 0.125),
    "snow": (0.850, 0.860, 0.850, 0.800, 0.120, 0.090),
}
"""Surface reflectance by band (1): rounded typical values, not a library."""

_PLANTS = ("crop", "flower", "straw", "grass", "trees", "pine", "reed", "sedge", "bloom")
_WATERS = ("clear_water", "silt_water")
_LOOKS = (*CLASSES, "bare", "sand", "concrete", "asphalt", "panel", "char", "scrub", "lotus", "mud")
"""What a unit can look like: the land classes, and states that only a change brings."""
_WET = ("flat", "reed", "bank", "mud")
"""Looks that the water level reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One true change of the land.

    name: unique in the simulation. kind: what happens. polygon: exterior ring, (x, y) in the CRS, m.
    day: first day of the new state (first day of a gradual one). fraction: share of each cell inside that changes (1).
    duration_days: length of a gradual change, 0 = abrupt. regrowth_years: e-folding time of vegetation coming back, 0 = none.
    """

    name: str
    kind: Kind
    polygon: tuple[tuple[float, float], ...]
    day: date
    fraction: float = 1.0
    duration_days: int = 0
    regrowth_years: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS[1:]:
            raise ValueError(f"unknown kind {self.kind}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction {self.fraction} is not in (0, 1]")
        if len(self.polygon) < 3:
            raise ValueError("a polygon has at least three corners")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasinConfig:
    """What a tile of the basin is like. Defaults: judgement, chosen to be at least as hard as what is known of the region.

    kind: "land" (hills, fields, ponds, towns, a small river) or "water" (river, lake, flats, banks, fields behind a dike).
    dates: number of acquisitions, spread over the period. pattern: "mixed" = two orbits of five days each, a part of the
    second not delivered; "single" = one orbit, a part not delivered; "regular" = even steps; "by_seed" = one of these.
    clear_share: wanted mean share of dates that the quality band calls clear (1); reached to a few hundredths.
    change_share: wanted share of pixels that change (1). single_share: share of changes that touch one pixel only (1).
    smallest: smallest share of a pixel that a change takes (1). full_share: share of the patches that change wholly (1).
    gradual_share: share of changes that go slowly, 0.5 to 4 years (1). regrowth_share: share of fellings, fires and cleared
    reeds that grow back (1). twice_share: share of abrupt changes that are followed by another one of the same pixels (1).
    interannual: factor on all differences between years, of parcels and of the whole basin (1).
    droughts: (year, strength 0-1); wet_years: (year, metres added to the summer level). 2020 and 2022 are those of record.
    registration_sd: shift of a scene in x and in y, px. sensor_sd: constant relative difference of a band between two
    sensors (1). orbit_sd: the same between two orbits (1). thin_cloud: probability that a clear scene has a veil of thin
    cloud that the quality band does not know. small_cloud: expected number of unknown small clouds a scene and 100 x 100 px.
    boats: expected number of boats a scene and pixel of open water. commission: probability that a scene calls bright ground cloud, and dark water shadow. snow_days: mean number of days
    with snow a winter. baseline_step: reflectance added from 2022-01-25 on, as by an offset that was not removed (1).
    """

    kind: Literal["land", "water"]
    dates: int = 322
    pattern: Literal["mixed", "single", "regular", "by_seed"] = "by_seed"
    clear_share: float = 0.53
    change_share: float = 0.10
    single_share: float = 0.55
    smallest: float = 0.05
    full_share: float = 0.5
    gradual_share: float = 0.22
    regrowth_share: float = 0.45
    twice_share: float = 0.12
    interannual: float = 1.0
    droughts: tuple[tuple[int, float], ...] = ((2019, 0.4), (2022, 1.0))
    wet_years: tuple[tuple[int, float], ...] = ((2020, 3.0),)
    registration_sd: float = 0.08
    sensor_sd: float = 0.006
    orbit_sd: float = 0.012
    thin_cloud: float = 0.06
    small_cloud: float = 0.25
    boats: float = 4e-4
    commission: float = 0.06
    snow_days: float = 4.0
    baseline_step: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("land", "water"):
            raise ValueError(f"unknown kind of tile {self.kind}")
        if self.pattern not in ("mixed", "single", "regular", "by_seed"):
            raise ValueError(f"unknown pattern of dates {self.pattern}")
        if self.dates < 2:
            raise ValueError("at least two dates")
        for name in (
            "clear_share", "change_share", "single_share", "smallest", "full_share", "gradual_share", "regrowth_share",
            "twice_share", "thin_cloud", "commission",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is not in [0, 1]")
        for name in ("interannual", "registration_sd", "sensor_sd", "orbit_sd", "small_cloud", "boats", "snow_days"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is negative")
        if not self.clear_share > 0 or not self.smallest > 0:
            raise ValueError("clear_share and smallest are above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensing:
    """Errors of the scenes that every simulation has; the fields of `SimulationConfig` of the same names."""

    undetected: float
    pixel_noise: float
    scene_noise: float
    haze_sd: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BasinScenes:
    """What `simulate_basin` makes. Axes as in `SimulatedCube`; weights: (change, y, x) share of the pixel that changes.

    contrast: (change, y, x) float32, mean over the year after the change of the root mean square (bands) of what it alone
    does to the reflectance: how visible it is; NaN where no date follows. flooded: (y, x) float32, share of the dates on which water covers at least
    half of the pixel. unusual: (y, x) bool, a field with a fallow season or another crop in at least one year.
    """

    days: tuple[date, ...]
    observed: NDArray[np.float32]
    quality: NDArray[np.uint8]
    clouded: NDArray[np.bool_]
    land: NDArray[np.uint8]
    purity: NDArray[np.float32]
    flooded: NDArray[np.float32]
    unusual: NDArray[np.bool_]
    changes: tuple[Change, ...]
    weights: NDArray[np.float32]
    contrast: NDArray[np.float32]


# ----------------------------------------------------------------------------------------------------------------- weather


def _day_number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


@dataclass(frozen=True, slots=True, eq=False)
class _Weather:
    """What the whole tile shares. Daily arrays start at `first` (days since 1970).

    days: (T,) acquisitions. level: water level, m. wetness, drought, snow: 0-1. years: all that matter.
    phase, height: per group of plants and year, d and factor.
    """

    days: NDArray[np.int64]
    first: int
    level: NDArray[np.float64]
    wetness: NDArray[np.float64]
    drought: NDArray[np.float64]
    snow: NDArray[np.float64]
    years: range
    phase: Mapping[str, Mapping[int, float]]
    height: Mapping[str, Mapping[int, float]]
    interannual: float

    def on_days(self, daily: NDArray[np.float64]) -> NDArray[np.float64]:
        return daily[self.days - self.first]

    def since(self, year: int) -> NDArray[np.float64]:
        """(T,) days since 31 December of the year before."""
        return (self.days - _day_number(date(year, 1, 1)) + 1).astype(np.float64)


_GROUPS = {"winter": (6.0, 0.06), "summer": (5.0, 0.05), "trees": (4.0, 0.02), "grass": (7.0, 0.08)}
"""Common spread of the years: shift (d) and relative height."""
_LEVEL = (8.6, 9.3, 11.2, 13.2, 15.2, 16.8, 18.2, 17.2, 16.0, 14.0, 11.6, 9.4)
"""Monthly mean water level, m: the shape of Poyang Lake at Xingzi (low 8-9 m in winter, 18 m in July), rounded."""
_LOWEST = 6.6
"""Water level, m, at the worst of a drought of strength 1."""


def _red_noise(n: int, tau: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n,) first-order autoregressive series, sd 1, e-folding time tau steps."""
    keep = np.exp(-1 / tau)
    steps = rng.standard_normal(n) * np.sqrt(1 - keep * keep)
    series, _ = lfilter([1.0], [1.0, -keep], steps, zi=np.array([keep * rng.standard_normal()]))
    return np.asarray(series, np.float64)


def _draw_weather(config: BasinConfig, days: NDArray[np.int64], rng: np.random.Generator) -> _Weather:
    start, end = (date(1970, 1, 1) + timedelta(days=int(d)) for d in (days[0], days[-1]))
    first, last = int(days[0]) - 420, int(days[-1]) + 30
    years = range(start.year - 2, end.year + 2)
    daily = np.arange(first, last + 1)
    drought, level, ebb = (np.zeros(len(daily)) for _ in range(3))
    months = np.array([-15.5, *(15.2 + 30.44 * np.arange(12)), 380.5])
    means = np.array([_LEVEL[-1], *_LEVEL, _LEVEL[0]])
    snow = np.zeros(len(daily))
    k = config.interannual
    phase: dict[str, dict[int, float]] = {name: {} for name in _GROUPS}
    height: dict[str, dict[int, float]] = {name: {} for name in _GROUPS}
    stated_droughts, stated_wet = dict(config.droughts), dict(config.wet_years)
    for year in years:
        t = (daily - _day_number(date(year, 1, 1)) + 1).astype(np.float64)
        inside = (t >= 1) & (daily < _day_number(date(year + 1, 1, 1)))
        dry = stated_droughts.get(year, 0.35 * rng.beta(1, 3)) * k
        drought += dry * _bump(t, 205, 320, 12.0)
        # Low water starts in late summer and lasts until the next spring.
        ebb += dry * _bump(t, 218, 425, 14.0)
        for name, (shift_sd, height_sd) in _GROUPS.items():
            phase[name][year] = float(rng.normal(0, shift_sd)) * k
            height[name][year] = float(np.clip(1 + rng.normal(0, height_sd) * k, 0.6, 1.3))
        # A year's flood has its own date, height and length; now and then it hardly comes, or does not want to go.
        wet = rng.normal(0, 1.1) + stated_wet.get(year, 0.0)
        odd = rng.uniform()
        if year not in stated_droughts and year not in stated_wet:
            wet += -3.5 if odd < 0.12 else 1.6 if odd > 0.88 else 0.0
        moved, longer = rng.normal(0, 12) * k, np.exp(rng.normal(0, 0.22) * k)
        middle = 200.0
        curve = np.interp(np.clip((t - middle - moved) / longer + middle, -15, 380), months, means)
        curve += k * wet * np.exp(-0.5 * ((t - 215 - moved) / 55) ** 2)
        curve += k * rng.normal(0, 0.8) * np.exp(-0.5 * ((t - rng.uniform(80, 130)) / 18) ** 2)
        curve += k * max(rng.normal(0, 1.3), 0) * np.exp(-0.5 * ((t - rng.uniform(265, 300)) / 16) ** 2)
        level[inside] = curve[inside]
        for _ in range(int(rng.poisson(config.snow_days / 3.5))):
            begin, length = rng.uniform(-25, 50), rng.exponential(3.5)
            snow = np.maximum(snow, np.where((t >= begin) & (t < begin + length), rng.uniform(0.3, 0.95), 0.0))
    # The years do not join by themselves: a fortnight's mean does it; then the droughts, and weather on top.
    level = gaussian_filter(level, 7, mode="nearest")
    level = _LOWEST + (level - _LOWEST) * (1 - np.clip(ebb, 0, 1))
    level += 0.55 * _red_noise(len(daily), 12, rng) * min(k, 1.5)
    wetness = np.clip(0.35 + 0.35 * _red_noise(len(daily), 4, rng) - 0.3 * drought, 0, 1)
    return _Weather(days, first, level, wetness, np.clip(drought, 0, 1), snow, years, phase, height, k)


def _draw_days(
    config: BasinConfig, start: date, end: date, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(T,) acquisition days since 1970, and (T,) orbit 0 or 1."""
    first, last = _day_number(start), _day_number(end)
    pattern = str(rng.choice(["mixed", "single", "regular"])) if config.pattern == "by_seed" else config.pattern
    offset = int(rng.integers(0, 5))
    single = np.arange(first + offset, last + 1, 5)
    if pattern == "mixed":
        other = np.arange(first + (offset + int(rng.integers(2, 4))) % 5, last + 1, 5)
        pool = np.union1d(single, other)
    else:
        pool = single
    if pattern == "regular" or len(pool) < config.dates:
        days = np.unique(np.rint(np.linspace(first, last, config.dates)).astype(np.int64))
        if len(days) < config.dates:
            raise ValueError(f"{config.dates} dates do not fit into the period")
        return days, np.arange(len(days)) % 2
    # One orbit is delivered first, what is missing is drawn from all the rest.
    chance = np.where(np.isin(pool, single), 1.0, 0.45)
    days = np.sort(rng.choice(pool, config.dates, replace=False, p=chance / chance.sum()))
    return days, (~np.isin(days, single)).astype(np.int64)


# -------------------------------------------------------------------------------------------------------------------- land


class _Fields:
    """Smooth random fields (mean 0, sd 1) as windows, turned at random, of one large periodic field a scale: cheap."""

    def __init__(self, shape: tuple[int, int], rng: np.random.Generator, *, spare: float = 3.0) -> None:
        self.shape, self.rng = shape, rng
        self.side = max(256, int(spare * max(shape)))
        self.made: dict[int, NDArray[np.float32]] = {}

    def draw(self, scale: float) -> NDArray[np.float32]:
        """(y, x) field correlated over about `scale` pixels."""
        key = max(1, round(scale))
        if key not in self.made:
            white = self.rng.standard_normal((self.side, self.side))
            smooth = gaussian_filter(white, key / 2.5, mode="wrap")
            self.made[key] = ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)
        whole = self.made[key]
        rows = (self.rng.integers(0, self.side) + np.arange(self.shape[0])) % self.side
        cols = (self.rng.integers(0, self.side) + np.arange(self.shape[1])) % self.side
        turned = whole.T if self.rng.uniform() < 0.5 else whole
        sign = np.float32(1 if self.rng.uniform() < 0.5 else -1)
        return sign * turned[np.ix_(rows[:: self.rng.choice([-1, 1])], cols)]


def _bump(t: NDArray[np.float64], rise: Any, fall: Any, width: float) -> NDArray[np.float64]:
    """Season between two days: double logistic (Beck et al. 2006, Remote Sens. Environ. 100, eq. 3), 0 to 1."""
    return expit((t - rise) / width) - expit((t - fall) / width)


@dataclass(slots=True, eq=False)
class _Land:
    """Fine drawing: look (index into _LOOKS), parcel (number), height (m), each (fine rows, fine cols)."""

    look: NDArray[np.uint8]
    parcel: NDArray[np.int64]
    height: NDArray[np.float64]


def _cells(
    u: NDArray[np.float64], v: NDArray[np.float64], size: tuple[float, float], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Irregular cells of about size (m along u, m along v): number of the cell, and distance (m) to the nearest boundary."""
    us, vs = u / size[0], v / size[1]
    grid = np.meshgrid(np.arange(np.floor(us.min()) - 1, us.max() + 2), np.arange(np.floor(vs.min()) - 1, vs.max() + 2))
    centres = np.stack([g.ravel() for g in grid], axis=1)
    centres += rng.uniform(-0.36, 0.36, centres.shape)
    distance, nearest = cKDTree(centres).query(np.stack([us.ravel(), vs.ravel()], axis=1), k=2)
    edge = (distance[:, 1] - distance[:, 0]) / 2 * min(size)
    return nearest[:, 0].reshape(u.shape).astype(np.int64), edge.reshape(u.shape)


def _draw_land(config: BasinConfig, shape: tuple[int, int], resolution: float, rng: np.random.Generator) -> _Land:
    rows, cols = (n * FINE for n in shape)
    cell = resolution / FINE
    fields = _Fields((rows, cols), rng, spare=1.5)
    east, north = np.meshgrid((np.arange(cols) + 0.5) * cell, (rows - np.arange(rows) - 0.5) * cell)
    turn = rng.uniform(0, np.pi)
    u, v = east * np.cos(turn) + north * np.sin(turn), north * np.cos(turn) - east * np.sin(turn)

    def noise(metres: float) -> NDArray[np.float64]:
        return fields.draw(metres / cell).astype(np.float64)

    def line(width: float, bend: float) -> NDArray[np.float64]:
        """Distance (m) from the edge of a bent band through the tile, negative inside."""
        angle, through = rng.uniform(0, np.pi), rng.uniform(0.2, 0.8, 2)
        across = (east - through[0] * cols * cell) * np.cos(angle) + (north - through[1] * rows * cell) * np.sin(angle)
        return np.abs(across + bend * noise(350)) - width / 2

    size = (rng.uniform(35, 90), rng.uniform(22, 50))
    parcel, edge = _cells(u + 6 * noise(200), v + 6 * noise(200), size, rng)
    draw = rng.uniform(size=(int(parcel.max()) + 1, 2))
    stand, _ = _cells(east, north, (110.0, 90.0), rng)
    stand_draw = rng.uniform(size=int(stand.max()) + 1)
    fields_of = ["double_crop", "single_crop", "crayfish", "orchard", "greenhouse", "pond"]
    shares = np.cumsum([0.44, 0.28, 0.11, 0.06, 0.03, 0.08])
    names = np.array([_LOOKS.index(name) for name in fields_of], np.uint8)
    look = names[np.minimum(np.searchsorted(shares, draw[parcel, 0]), len(names) - 1)]
    look[edge < rng.uniform(0.8, 2.2)] = _LOOKS.index("levee")
    number = parcel.copy()
    height = np.full((rows, cols), 24.0)

    if config.kind == "land":
        hills = noise(rng.uniform(260, 420)) + 0.14 * noise(45) + 0.08 * noise(14)
        wood = hills > np.quantile(hills, rng.uniform(0.60, 0.78))
        trees = np.array([_LOOKS.index(name) for name in ("evergreen", "forest", "bamboo")], np.uint8)
        look[wood] = trees[np.searchsorted([0.4, 0.8], stand_draw[stand])][wood]
        number[wood] = 100_000 + stand[wood]
        town = (noise(150) > 1.25) & ~wood
        blocks = (np.mod(u, 23) < 16) & (np.mod(v, 18) < 12)
        look[town] = _LOOKS.index("levee")
        look[town & blocks] = _LOOKS.index("urban")
        for _ in range(2):
            look[(line(rng.uniform(6, 13), 25) < 0) & ~wood] = _LOOKS.index("road")
        river = line(rng.uniform(25, 80), 60)
        height = np.where(river < 45, 13.5 + 0.1 * np.clip(river, 0, 45) + 0.3 * noise(20), height)
        look[river < 36] = _LOOKS.index("levee")
        look[river < 26] = _LOOKS.index("bank")
        look[river < 0] = _LOOKS.index("water")
    else:
        base = noise(380) + 0.45 * noise(140) + 0.16 * noise(40)
        rank = np.argsort(np.argsort(base.ravel(), kind="stable"), kind="stable") / base.size
        height = np.interp(rank, [0, 0.10, 0.20, 0.70, 0.82, 1], [4.5, 8.0, 9.3, 16.6, 18.5, 21.5]).reshape(rows, cols)
        river = line(rng.uniform(90, 220), 80)
        beside = np.clip(river / 55, 0, 1)
        height = np.where(river < 55, (5 + 12 * np.clip(river / 40, 0, 1)) * (1 - beside**4) + height * beside**4, height)
        height += 0.12 * noise(12)
        patch, _ = _cells(east, north, (150.0, 130.0), rng)
        grown = 0.9 * noise(120) + 0.3 * noise(30)
        wet = height < 17.6
        look[wet] = _LOOKS.index("flat")
        look[wet & (height > 13.6) & (grown > 0.35)] = _LOOKS.index("reed")
        number[wet] = 200_000 + patch[wet]
        dike = (height >= 17.6) & (height < 19.4)
        look[dike] = _LOOKS.index("bank")
        number[dike] = 200_000 + patch[dike]
        look[(height >= 19.2) & (height < 19.6)] = _LOOKS.index("levee")
        look[(height >= 17.6) & (river < 70)] = _LOOKS.index("bank")
        look[(river >= 0) & (river < 45) & (grown < 0.6)] = _LOOKS.index("bank")
        look[(height < 9.2) & (river >= 0)] = _LOOKS.index("lake")
        look[river < 0] = _LOOKS.index("water")
        if rng.uniform() < 0.6:
            look[(line(9, 20) < 0) & (height > 19.6)] = _LOOKS.index("road")
    tied = look == _LOOKS.index("levee")
    number[tied] = 300_000 + stand[tied]
    return _Land(look, number, height)


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """look: (U,) index into _LOOKS. height: (U,) m. share: sparse (pixels, U), area of the pixel in each unit."""

    look: NDArray[np.int64]
    height: NDArray[np.float64]
    share: csr_matrix


def _draw_units(land: _Land, shape: tuple[int, int]) -> _Units:
    wet = np.isin(land.look, [_LOOKS.index(name) for name in _WET])
    step = np.where(wet, np.rint(land.height * 4).astype(np.int64), 0)
    step = np.where(land.look == _LOOKS.index("lake"), np.rint(land.height * 2).astype(np.int64), step)
    river = land.look == _LOOKS.index("water")
    key = (land.look.astype(np.int64) * 1_000_000 + np.where(river, 0, land.parcel)) * 256 + step
    keys, unit = np.unique(key.ravel(), return_inverse=True)
    heights = np.bincount(unit, land.height.ravel()) / np.bincount(unit)
    rows, cols = np.indices(land.look.shape)
    pixel = (rows // FINE) * shape[1] + cols // FINE
    share = csr_matrix(
        (np.full(unit.size, 1 / FINE**2, np.float32), (pixel.ravel(), unit.ravel())), shape=(shape[0] * shape[1], len(keys))
    )
    return _Units(keys // 256 // 1_000_000, heights, share)


# ------------------------------------------------------------------------------------------------------------------- looks


class _Mix(dict[str, NDArray[np.float64]]):
    """Spectrum name -> (n, T) share of the surface; what is left to one is `rest`."""

    def __init__(self, n: int, weather: _Weather, rest: str) -> None:
        super().__init__()
        self.shape = (n, len(weather.days))
        self.rest = rest
        self.unusual = np.zeros(n, bool)

    def put(self, name: str, share: NDArray[np.float64]) -> None:
        self[name] = self.get(name, np.zeros(self.shape)) + share

    def closed(self) -> dict[str, NDArray[np.float64]]:
        total = sum(self.values(), np.zeros(self.shape))
        scale = np.where(total > 0.98, 0.98 / np.maximum(total, 1e-9), 1.0)
        shares = {name: share * scale for name, share in self.items()}
        shares[self.rest] = shares.get(self.rest, np.zeros(self.shape)) + 1 - sum(shares.values(), np.zeros(self.shape))
        return shares


def _column(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[:, None]


def _crops(name: str, n: int, weather: _Weather, rng: np.random.Generator) -> _Mix:
    """Fields: a winter and a summer season a year, each with its crop, dates and height by parcel and year."""
    mix, k = _Mix(n, weather, "soil"), weather.interannual
    habit = rng.uniform(size=n)  # what the parcel mostly grows
    shift, vigour = rng.normal(0, 6, n), np.clip(rng.normal(1, 0.08, n), 0.75, 1.2)
    thirst, weedy = rng.uniform(0.1, 1.0, n), rng.uniform(0.03, 0.30, n)
    green, flower, straw, flood = (np.zeros(mix.shape) for _ in range(4))
    stubble = np.zeros(mix.shape)

    def season(rise: Any, fall: Any, tall: Any, width: float, t: NDArray[np.float64]) -> None:
        nonlocal green, straw, stubble
        cover = _column(tall) * _bump(t, _column(rise), _column(fall), width)
        ripe = expit((t - _column(fall) + 13) / 3.5)
        green, straw = green + cover * (1 - ripe), straw + cover * ripe
        after = t - _column(fall)
        stubble = np.maximum(stubble, np.where(after > -10, 0.45 * np.exp(-np.clip(after, 0, None) / 18) * _column(tall), 0))

    for year in weather.years:
        t = weather.since(year)[None]
        own = rng.normal(0, 6, (3, n)) * k
        tall = vigour[None] * np.clip(rng.normal(1, 0.09, (3, n)) ** k, 0.5, 1.3)
        odd = rng.uniform(size=(2, n))
        late = _day_number(date(year, 8, 20)) - weather.first
        dry = 1 - 0.30 * thirst * (weather.drought[late] if 0 <= late < len(weather.drought) else 0.0)
        winter_day = shift + weather.phase["winter"][year] + own[0]
        summer_day = shift + weather.phase["summer"][year] + own[1]
        w_tall, s_tall = tall[0] * weather.height["winter"][year], tall[1] * weather.height["summer"][year] * dry
        chance = 0.11 * min(k, 1.5)
        sown = np.full(n, name == "double_crop")
        other_winter, other_summer = odd[0] < chance, odd[1] < chance
        mix.unusual |= (other_winter & (name == "double_crop")) | other_summer
        fallow = ~sown | (other_winter & (odd[0] < 0.65 * chance))
        wheat = sown & ~fallow & ((habit > 0.62) ^ other_winter)
        rape = sown & ~fallow & ~wheat
        # Winter: rape flowers in late March; wheat is lower and later; fallow fields grow weeds, some years many.
        early = 0.3 * w_tall * (rape | wheat)
        green = green + _column(early) * _bump(t, _column(-42 + winter_day), _column(52 + winter_day), 10.0)
        season(52 + winter_day, 136 + winter_day + 9 * wheat, 0.88 * w_tall * rape + 0.80 * w_tall * wheat, 8.5, t)
        bloom = _column(0.6 * rape * w_tall) * np.exp(-0.5 * ((t - 83 - _column(winter_day)) / 9) ** 2)
        flower = np.maximum(flower, bloom)
        weeds = np.where(fallow, weedy * rng.uniform(0.4, 2.0, n) ** k, 0.02)
        green = green + _column(weeds) * _bump(t, _column(25 + winter_day), _column(142 + summer_day), 14.0)
        # Summer: middle rice; early and late rice; dry crops; fallow. Rice is set into flooded ground.
        two = ~other_summer & (habit < 0.16) & (name != "crayfish")
        dryland = (~other_summer & (habit > 0.85) & (name != "crayfish")) | (other_summer & (odd[1] > 0.45 * chance))
        none = other_summer & ~dryland
        rice = ~two & ~dryland & ~none
        season(174 + summer_day, 264 + summer_day, 0.90 * s_tall * rice, 8.0, t)
        season(126 + summer_day, 194 + summer_day, 0.82 * s_tall * two, 6.0, t)
        season(214 + own[2] + shift, 302 + own[2] + shift, 0.84 * s_tall * two, 7.0, t)
        season(158 + 1.5 * summer_day, 258 + 1.5 * own[2] + shift, 0.74 * s_tall * dryland, 12.0, t)
        season(135 + summer_day, 295 + own[2], (0.25 + 0.35 * tall[2]) * none, 18.0, t)
        for planted, who in ((156, rice), (110, two), (200, two)):
            wet = _bump(t, _column(planted - 4 + summer_day), _column(planted + 32 + summer_day), 3.0)
            flood = np.maximum(flood, 0.85 * _column(who.astype(float)) * wet)
        if name == "crayfish":
            under = _bump(t, _column(290 + own[2] + shift), _column(520 + own[2] + shift), 6.0)
            flood = np.maximum(flood, 0.9 * under * _column(np.where(odd[0] < 0.05 * k, 0.15, 1.0)))
        # In a year of high water some low fields drown for weeks, and what grew there is lost.
        inside = slice(
            max(_day_number(date(year, 6, 1)) - weather.first, 0), max(_day_number(date(year, 9, 1)) - weather.first, 0)
        )
        high = weather.level[inside]
        if len(high) and high.max() > 19.3:
            drowned = rng.uniform(size=n) < 0.12
            begin = _day_number(date(year, 6, 1)) + int(high.argmax()) - _day_number(date(year, 1, 1)) + rng.uniform(-5, 8, n)
            finish = begin + rng.uniform(8, 50, n)
            flood = np.maximum(flood, _column(drowned.astype(float)) * _bump(t, _column(begin), _column(finish), 1.0))
            lost = 1 - 0.9 * _column(drowned.astype(float)) * ((t > _column(begin)) & (t < 312))
            green, straw = green * lost, straw * lost
            mix.unusual |= drowned
    plants = np.clip(green, 0, 0.96)
    flower = np.minimum(flower, 0.65) * plants
    open_ = 1 - np.clip(plants + straw, 0, 0.97)
    mix.put("crop", plants - flower)
    mix.put("flower", flower)
    mix.put("straw", straw + stubble * open_ * (1 - flood))
    mix.put("clear_water", 0.45 * flood * open_)
    mix.put("silt_water", 0.55 * flood * open_)
    return mix


def _seasonal(
    n: int, weather: _Weather, rng: np.random.Generator, *, group: str, base: float, rise: float, fall: float, width: float,
    gain: float, own_shift: float, own_height: float, thirst: float,
) -> NDArray[np.float64]:  # fmt: skip
    """(n, T) green cover: base all year, `gain` from spring to autumn, by unit and year, browned by drought."""
    k = weather.interannual
    shift, vigour = rng.normal(0, own_shift, n), np.clip(rng.normal(1, 0.07, n), 0.7, 1.3)
    trend = rng.normal(0, 0.004, n)
    sensitive = rng.uniform(0.2, 1.0, n)
    out = np.full((n, len(weather.days)), base)
    for year in weather.years:
        t = weather.since(year)[None]
        moved = _column(shift + rng.normal(0, own_shift, n) * k + weather.phase[group][year])
        tall = np.clip(weather.height[group][year] + rng.normal(0, own_height, n) * k, 0.4, 1.5)
        out = out + gain * _column(tall) * _bump(t, rise + moved, fall + moved, width)
    middle = weather.days.mean()
    out = out * _column(vigour) * (1 + _column(trend) * (weather.days[None] - middle) / 365.25)
    return np.clip(out * (1 - thirst * _column(sensitive) * weather.on_days(weather.drought)[None]), 0, 0.96)


def _dips(
    n: int, weather: _Weather, rng: np.random.Generator, *, chance: float, window: tuple[float, float], depth: float, back: float
) -> NDArray[np.float64]:
    """(n, T) factor: now and then a unit is cut (mown, drained) on a day of the window and comes back within `back` days."""
    out = np.ones((n, len(weather.days)))
    for year in weather.years:
        t = weather.since(year)[None]
        hit = rng.uniform(size=n) < chance
        day = _column(rng.uniform(*window, n))
        out *= 1 - depth * _column(hit.astype(float)) * np.where(t >= day, np.exp(-np.clip(t - day, 0, None) / back), 0)
    return out


def _turbidity(
    n: int, weather: _Weather, rng: np.random.Generator, *, mean: float, summer: float, spread: float
) -> NDArray[np.float64]:
    """(n, T) share of silty water, by body of water: season, level, wind of days, weeks and years."""
    days = len(weather.level)
    out = np.empty((n, len(weather.days)))
    doy = np.mod(weather.days, 365.25)
    for index in range(n):
        slow, fast = _red_noise(days, 60, rng), _red_noise(days, 3, rng)
        out[index] = weather.on_days(0.7 * slow + 0.7 * fast) * spread
    level = (weather.on_days(weather.level) - 13) / 5
    out += mean + summer * np.exp(-0.5 * ((doy - 205) / 50) ** 2)[None] - 0.10 * level[None] * rng.uniform(0, 1, (n, 1))
    return np.clip(out, 0.02, 1.0)


def _put_water(mix: _Mix, share: NDArray[np.float64], turbid: NDArray[np.float64]) -> None:
    """Lay `share` of water, `turbid` of it silty, over everything so far."""
    for other in mix:
        mix[other] = mix[other] * (1 - share)
    mix.put("silt_water", share * turbid)
    mix.put("clear_water", share * (1 - turbid))


def _wetland(look: str, height: NDArray[np.float64], weather: _Weather, rng: np.random.Generator) -> _Mix:
    """Ground that the water level reaches: under water, then mud, then green by the days since it fell dry."""
    n, k = len(height), weather.interannual
    mix = _Mix(n, weather, "mud")
    doy = np.mod(np.arange(len(weather.level)) + weather.first, 365.25)
    sedge = (look == "flat") & (height > 11.2 + rng.normal(0, 0.5, n))
    tall = 2.2 if look == "reed" else 0.5
    spring, autumn = _bump(doy, 45, 152, 10.0), _bump(doy, 262, 342, 10.0)
    summer = _bump(doy, 80, 305, 14.0)
    room = {"sedge": 0.12 + 0.78 * (spring + 0.85 * autumn) + 0.25 * _bump(doy, 150, 265, 10.0), "reed": 0.06 + 0.88 * summer,
            "pioneer": 0.02 + 0.50 * _bump(doy, 70, 325, 14.0), "bank": 0.20 + 0.58 * summer, "mud": 0.02 + 0.12 * summer}  # fmt: skip
    capacity = np.empty((n, len(doy)))
    for index in range(n):
        capacity[index] = room["sedge" if sedge[index] else "pioneer"] if look == "flat" else room[look]
    vigour = np.clip(rng.normal(1, 0.10, n), 0.6, 1.2)
    years = (np.arange(len(doy)) + weather.first) // 365.25
    for year in np.unique(years):  # better and worse years of each strip
        capacity[:, years == year] *= _column(np.clip(rng.normal(1, 0.08, n) ** k, 0.5, 1.3) * vigour)
    capacity = np.minimum(capacity * (1 - 0.2 * weather.drought[None] * (look in ("bank", "reed"))), 0.95)
    rate = 0.10 * (0.25 + 0.75 * _bump(doy, 60, 330, 15.0))
    green = np.empty((n, len(doy)))
    dry = np.empty((n, len(doy)))
    state, exposed = capacity[:, 0] * 0.5, np.full(n, 30.0)
    for index in range(len(doy)):
        depth = weather.level[index] - height
        open_ = depth < 0.6 * tall
        room_ = np.maximum(capacity[:, index], 0.03)
        grow = rate[index] * state * (1 - state / room_)
        state = np.where(open_, np.where(state > room_, state - (state - room_) / 22, state + grow), state * np.exp(-1 / 14))
        state = np.clip(state, 0.02, 0.95)
        exposed = np.where(depth < 0, exposed + 1, 0.0)
        green[:, index], dry[:, index] = state, exposed
    at = weather.days - weather.first
    green, dry = green[:, at], 1 - np.exp(-dry[:, at] / 20)
    if look == "reed":
        # Dead stalks stand until they are cut, in those winters in which somebody cuts them.
        cut = 1 - _dips(n, weather, rng, chance=0.45, window=(-30.0, 40.0), depth=0.95, back=60.0)
        stalks = 0.55 * np.clip(1 - green / 0.6, 0, 1) * (1 - cut)
        mix.put("straw", stalks)
        mix.put("reed", green)
    else:
        if look == "bank":
            green = green * _dips(n, weather, rng, chance=0.15 * k, window=(140.0, 280.0), depth=0.4, back=30.0)
        mix.put("sedge" if look == "flat" else "grass", green)
        mix.put("straw", 0.25 * np.clip(0.5 - green, 0, 1) * _column((sedge | (look == "bank")).astype(float)))
    if look == "bank":
        mix.put("sand", (1 - sum(mix.values())) * _column(rng.uniform(0.2, 0.9, n)))
    left = np.clip(1 - sum(mix.values(), np.zeros(mix.shape)), 0, 1)
    mix.put("dry_mud", left * dry * 0.8)
    depth = weather.on_days(weather.level)[None] - _column(height)
    under = expit(depth / _column(rng.uniform(0.08, 0.28, n)))
    emerges = green * np.clip(1 - depth / tall, 0, 1) * (tall > 1)
    turbid = _turbidity(1, weather, rng, mean=0.42, summer=0.15, spread=0.16)
    # Shallow water carries what the wind stirs up.
    _put_water(mix, under * (1 - 0.85 * emerges), np.clip(turbid + 0.35 * np.exp(-np.clip(depth, 0, None) / 0.5), 0, 1))
    return mix


def _look(look: str, height: NDArray[np.float64], weather: _Weather, rng: np.random.Generator) -> _Mix:
    """The surface of n units of one look on all days."""
    n = len(height)

    def seasonal(**settings: Any) -> NDArray[np.float64]:
        return _seasonal(n, weather, rng, **settings)

    grass = {"group": "grass", "rise": 75.0, "fall": 308.0, "width": 16.0, "own_shift": 5.0, "own_height": 0.06, "thirst": 0.22}
    if look in ("single_crop", "double_crop", "crayfish"):
        return _crops(look, n, weather, rng)
    if look in _WET:
        return _wetland(look, height, weather, rng)
    if look in ("water", "lake", "pond", "lotus"):
        mix = _Mix(n, weather, "mud")
        settings = {
            "water": (0.55, 0.22, 0.14),
            "lake": (0.38, 0.05, 0.26),
            "pond": (0.25, 0.05, 0.10),
            "lotus": (0.2, 0.0, 0.08),
        }
        mean, summer, spread = settings[look]
        # One lake is one water, a little clearer here than there; ponds know nothing of each other.
        bodies = 1 if look == "lake" else n
        turbid = _turbidity(bodies, weather, rng, mean=mean, summer=summer, spread=spread)
        turbid = np.clip(turbid + rng.normal(0, 0.05, (n, 1)), 0, 1)
        full = np.ones(mix.shape)
        if look == "pond":  # some winters a pond is drained for weeks
            full = _dips(n, weather, rng, chance=0.25, window=(-20.0, 50.0), depth=0.9, back=15.0)
            full = full * (1 - 0.4 * _column(rng.beta(1, 3, n)) * weather.on_days(weather.drought)[None])
        if look == "lake":  # its bed lies below the lowest flats, and the driest autumns reach it
            depth = weather.on_days(weather.level)[None] - _column(height - 1.3)
            full = expit(depth / 0.25)
            turbid = np.clip(turbid + 0.3 * np.exp(-np.clip(depth, 0, None) / 0.5), 0, 1)
            mix.put("sedge", 0.45 * _bump(np.mod(weather.days, 365.25), 70, 330, 14.0)[None] * expit(-(depth + 0.5) / 0.2))
        _put_water(mix, full, turbid)
        cover = np.zeros(mix.shape)
        doy = np.mod(weather.days, 365.25)[None]
        if look == "lotus":
            cover = 0.85 * _bump(doy, 128, 290, 10.0) * _column(rng.uniform(0.8, 1.0, n))
        elif look == "lake":  # water plants in some bays, in most years
            rich = np.where(rng.uniform(size=n) < 0.35, rng.uniform(0.1, 0.6, n), 0.0)
            for year in weather.years:
                grown = rich * np.where(rng.uniform(size=n) < 0.2, 0.1, np.clip(rng.normal(1, 0.25, n), 0.2, 1.6))
                begin, end = 112 + rng.normal(0, 12, n), 292 + rng.normal(0, 12, n)
                cover = np.maximum(cover, _column(grown) * _bump(weather.since(year)[None], _column(begin), _column(end), 13.0))
            cover = np.clip(cover, 0, 0.8) * full
        elif look == "pond":
            cover = 0.5 * _bump(doy, 135, 300, 12.0) * _column(rng.beta(0.6, 3, n))
        for other in mix:
            mix[other] = mix[other] * (1 - cover)
        mix.put("crop" if look == "lotus" else "bloom", cover)
        return mix
    rest = {"forest": "litter", "evergreen": "litter", "bamboo": "litter", "urban": "roof", "road": "asphalt", "asphalt": "asphalt",
            "concrete": "concrete", "panel": "panel", "char": "char", "sand": "sand", "greenhouse": "film"}.get(look, "soil")  # fmt: skip
    mix = _Mix(n, weather, rest)
    tree = {"group": "trees", "own_shift": 3.0, "own_height": 0.03}
    if look == "forest":
        mix.put("trees", seasonal(**tree, base=0.46, gain=0.47, rise=92.0, fall=312.0, width=13.0, thirst=0.16))
    elif look == "evergreen":
        mix.put("pine", seasonal(**tree, base=0.78, gain=0.14, rise=95.0, fall=315.0, width=20.0, thirst=0.10))
    elif look == "bamboo":
        green = seasonal(**tree, base=0.70, gain=0.20, rise=125.0, fall=330.0, width=18.0, thirst=0.14)
        # Moso bamboo changes its leaves every second spring.
        parity = rng.integers(0, 2, n)
        for year in weather.years:
            t = weather.since(year)[None]
            turn = _column(((year + parity) % 2).astype(float)) * np.exp(
                -0.5 * ((t - 112 - _column(rng.normal(0, 6, n))) / 18) ** 2
            )
            green = green * (1 - 0.24 * turn)
        mix.put("trees", 0.5 * green)
        mix.put("grass", 0.5 * green)
    elif look == "orchard":
        mix.put("trees", seasonal(**tree, base=0.42, gain=0.25, rise=88.0, fall=318.0, width=16.0, thirst=0.12))
        mix.put("grass", 0.6 * seasonal(**grass, base=0.10, gain=0.28))
    elif look == "scrub":
        mix.put("grass", seasonal(**grass, base=0.34, gain=0.42))
        mix.put("trees", 0.15 * seasonal(**tree, base=0.46, gain=0.47, rise=92.0, fall=312.0, width=13.0, thirst=0.16))
    elif look == "levee":
        mown = _dips(n, weather, rng, chance=0.3 * weather.interannual, window=(130.0, 285.0), depth=0.45, back=28.0)
        mix.put("grass", mown * seasonal(**grass, base=0.32, gain=0.45))
    elif look == "bare":
        mix.put("grass", seasonal(**grass, base=0.02, gain=0.10))
    elif look in ("urban", "panel", "char"):
        mix.put("grass", seasonal(**grass, base=0.07, gain=0.07))
    elif look == "greenhouse":
        film = _bump(np.mod(weather.days + 150, 365.25), 60, 300, 6.0)[None] * _column(rng.uniform(0.5, 0.9, n))
        mix.put("crop", (1 - film) * 0.7 * seasonal(**grass, base=0.15, gain=0.6))
        mix.put("soil", (1 - film) * 0.4)
    elif look == "road":
        mix.put("grass", np.full(mix.shape, 0.05))
    return mix


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """Per unit and day: soil, plants, water (U, T, 6) parts of the reflectance; open_, lake (U, T) shares of water."""

    soil: NDArray[np.float32]
    plants: NDArray[np.float32]
    water: NDArray[np.float32]
    open_: NDArray[np.float32]
    lake: NDArray[np.float32]
    unusual: NDArray[np.bool_]


def _draw_tables(looks: NDArray[np.int64], heights: NDArray[np.float64], weather: _Weather, rng: np.random.Generator) -> _Tables:
    units, times = len(looks), len(weather.days)
    soil, plants, water = (np.zeros((units, times, len(BANDS)), np.float32) for _ in range(3))
    open_, lake = (np.zeros((units, times), np.float32) for _ in range(2))
    unusual = np.zeros(units, bool)
    wetness = weather.on_days(weather.wetness)
    # Wet soil is darker, most in the short-wave infrared; hard surfaces hardly are.
    darker = np.array([0.22, 0.24, 0.26, 0.27, 0.34, 0.38])
    knots = np.arange(weather.days[0] - 50, weather.days[-1] + 100, 45)
    for look in np.unique(looks):
        name, who = _LOOKS[look], np.flatnonzero(looks == look)
        n = len(who)
        mix = _look(name, heights[who], weather, rng)
        unusual[who] = mix.unusual
        slow = np.stack([np.interp(weather.days, knots, row) for row in rng.normal(0, 0.02, (n, len(knots)))])
        bright_soil, bright_plants = (
            np.exp(rng.normal(0, 0.08, (n, 1, 1)) + rng.normal(0, 0.02, (n, 1, len(BANDS)))) for _ in range(2)
        )
        parts = [np.zeros((n, times, len(BANDS))) for _ in range(3)]
        for spectrum, share in mix.closed().items():
            values = share[:, :, None] * np.array(SPECTRA[spectrum])
            if spectrum in _PLANTS:
                parts[1] += values * (1 + slow[:, :, None])
            elif spectrum in _WATERS:
                parts[2] += values
                open_[who] += share.astype(np.float32)
            else:
                hard = spectrum in ("roof", "asphalt", "concrete", "film", "panel")
                parts[0] += values * (1 - (0.15 if hard else 1.0) * darker * wetness[None, :, None])
        soil[who], plants[who], water[who] = parts[0] * bright_soil, parts[1] * bright_plants, parts[2]
        if name in ("lake", "pond"):
            lake[who] = open_[who]
    return _Tables(soil, plants, water, open_, lake, unusual)


# ----------------------------------------------------------------------------------------------------------------- changes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Where a kind happens, what comes first and what stays, and whether it may go slowly or grow back."""

    tile: tuple[str, ...]
    where: tuple[str, ...]
    first: str
    then: str
    strip: bool = False
    gradual: Literal["never", "may", "always"] = "never"
    regrows: bool = False
    likely: float = 1.0
    followed_by: tuple[str, ...] = ()


_BOTH = ("land", "water")
_FIELDS = ("single_crop", "double_crop", "crayfish")
_WOODS = ("forest", "evergreen", "bamboo")
_RULES: Mapping[str, _Rule] = {
    "sand_mining": _Rule(
        tile=_BOTH, where=("bank", "flat", "reed"), first="sand", then="sand", gradual="may", followed_by=("pond",)
    ),
    "clear_cut": _Rule(
        tile=("land",),
        where=(*_WOODS, "orchard"),
        first="bare",
        then="scrub",
        regrows=True,
        likely=3,
        followed_by=("construction",),
    ),
    "construction": _Rule(
        tile=_BOTH,
        where=(*_FIELDS, "orchard", "levee", "greenhouse"),
        first="bare",
        then="concrete",
        likely=3,
        followed_by=("demolition",),
    ),
    "gradual": _Rule(tile=("land",), where=_WOODS, first="scrub", then="scrub", gradual="always", likely=3),
    "flooded_pit": _Rule(tile=_BOTH, where=(*_FIELDS, "bank", "levee"), first="pond", then="pond", followed_by=("filling",)),
    "burn": _Rule(tile=("land",), where=_WOODS, first="char", then="scrub", regrows=True, followed_by=("construction",)),
    "road": _Rule(tile=_BOTH, where=(*_FIELDS, *_WOODS, "levee", "orchard"), first="bare", then="asphalt", strip=True),
    "pond": _Rule(
        tile=_BOTH, where=(*_FIELDS, "flat", "reed", "bank"), first="pond", then="pond", followed_by=("filling", "solar")
    ),
    "filling": _Rule(
        tile=_BOTH,
        where=("pond", "lake", "water", "crayfish"),
        first="bare",
        then="bare",
        gradual="may",
        likely=2,
        followed_by=("construction",),
    ),
    "solar": _Rule(tile=_BOTH, where=("pond", "lake", "bank", *_FIELDS), first="panel", then="panel"),
    "greenhouse": _Rule(tile=("land",), where=_FIELDS, first="greenhouse", then="greenhouse", followed_by=("construction",)),
    "planting": _Rule(
        tile=_BOTH, where=("single_crop", "double_crop", "levee", "bank"), first="orchard", then="orchard", gradual="always"
    ),
    "demolition": _Rule(tile=("land",), where=("urban",), first="bare", then="scrub", followed_by=("construction",)),
    "scour": _Rule(tile=_BOTH, where=("bank", "flat", "levee"), first="water", then="water", gradual="may", likely=2),
    "dredging": _Rule(tile=("water",), where=("flat",), first="water", then="water"),
    "silting": _Rule(tile=("water",), where=("lake", "water"), first="flat", then="flat", gradual="always", likely=2),
    "reed_cleared": _Rule(
        tile=("water",), where=("reed",), first="mud", then="mud", regrows=True, likely=3, followed_by=("pond", "levee")
    ),
    "levee": _Rule(tile=("water",), where=("flat", "reed", "lake", "bank"), first="bare", then="levee", strip=True),
    "overgrown": _Rule(tile=_BOTH, where=("lake", "pond"), first="lotus", then="lotus", gradual="always"),
    "abandoned": _Rule(tile=_BOTH, where=_FIELDS, first="scrub", then="scrub", gradual="may"),
}


def cover_share(
    polygon: Sequence[tuple[float, float]], shape: tuple[int, int], transform: Affine
) -> tuple[slice, slice, NDArray[np.float64]]:
    """Share of each pixel inside the polygon, to 1/64, within the window (rows, cols) that it touches."""
    fine = 8
    corners = [~transform @ corner for corner in polygon]
    cols, rows = zip(*corners, strict=True)
    r0, c0 = max(int(np.floor(min(rows))), 0), max(int(np.floor(min(cols))), 0)
    r1, c1 = min(int(np.ceil(max(rows))), shape[0]), min(int(np.ceil(max(cols))), shape[1])
    if r1 <= r0 or c1 <= c0:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0))
    drawn = rasterize(
        [({"type": "Polygon", "coordinates": [[*polygon, polygon[0]]]}, 1)],
        out_shape=((r1 - r0) * fine, (c1 - c0) * fine),
        transform=transform @ Affine.translation(c0, r0) @ Affine.scale(1 / fine),
        fill=0,
        dtype="uint8",
    )
    return slice(r0, r1), slice(c0, c1), drawn.reshape(r1 - r0, fine, c1 - c0, fine).mean(axis=(1, 3), dtype=np.float64)


def _draw_changes(
    config: BasinConfig,
    given: Sequence[Change],
    main: NDArray[np.uint8],
    transform: Affine,
    period: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[list[Change], dict[str, str]]:
    """The given changes and scattered ones, apart from each other, until `change_share` of the pixels is taken; in order of time.

    Also: name of a change -> name of the earlier one whose place it takes.
    """
    shape = main.shape
    rules = {name: rule for name, rule in _RULES.items() if config.kind in rule.tile}
    taken = np.zeros(shape, bool)
    made = list(given)
    for change in given:
        rows, cols, share = cover_share(change.polygon, shape, transform)
        taken[rows, cols] |= share > 0
    start, end = period
    wanted = config.change_share * main.size
    possible = {name: np.isin(main, [CLASSES.index(c) for c in rule.where]) for name, rule in rules.items()}
    names = sorted(name for name in rules if possible[name].any())
    follows: dict[str, str] = {}
    if not names:
        return sorted(made, key=lambda change: (change.day, change.name)), follows
    gradual = np.array([{"never": 0.0, "may": 0.5, "always": 1.0}[rules[name].gradual] for name in names])
    likely = np.array([rules[name].likely for name in names])
    number = 0
    for _ in range(60 * max(int(wanted), 1)):
        if taken.sum() >= wanted:
            break
        slow = bool(rng.uniform() < config.gradual_share)
        chance = likely * (gradual if slow else 1 - gradual)
        if not chance.any():
            continue
        name = str(rng.choice(names, p=chance / chance.sum()))
        rule = rules[name]
        free = np.argwhere(possible[name] & ~taken)
        if not len(free):
            continue
        row, col = (int(n) for n in free[int(rng.integers(len(free)))])
        single = bool(rng.uniform() < config.single_share)
        if single:
            corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)]
        elif rule.strip:
            angle, half, wide = rng.uniform(0, np.pi), rng.uniform(3, 14), rng.uniform(0.4, 1.3)
            a, b = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
            middle = np.array([col + 0.5, row + 0.5])
            corners = [tuple(middle + i * half * a + j * wide * b) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        else:
            reach = rng.uniform(0.9, 3.6)
            angles = np.sort(rng.uniform(0, 2 * np.pi, 8))
            corners = [
                (col + 0.5 + r * np.cos(a), row + 0.5 + r * np.sin(a))
                for r, a in zip(reach * rng.uniform(0.6, 1.2, 8), angles, strict=True)
            ]
        polygon = tuple((float(x), float(y)) for x, y in (transform @ corner for corner in corners))
        window = cover_share(polygon, shape, transform)
        inside = window[2] > 0
        here = possible[name][window[:2]]
        if not inside.any() or (taken[window[:2]] & inside).any() or here[inside].mean() < 0.6:
            continue
        fraction = 1.0 if not single and rng.uniform() < config.full_share else float(rng.uniform(config.smallest, 1.0))
        days = int(rng.uniform(180, 1460)) if slow else 0
        day = int(rng.integers(start + 30, max(end - 20, start + 31)))
        if slow:
            day = int(rng.integers(start - 90, max(end - days // 2, start - 89)))
        regrows = rule.regrows and rng.uniform() < config.regrowth_share
        number += 1
        change = Change(
            name=f"B{number:04d}",
            kind=name,  # type: ignore[arg-type]
            polygon=polygon,
            day=date(1970, 1, 1) + timedelta(days=day),
            fraction=fraction,
            duration_days=days,
            regrowth_years=float(np.exp(rng.uniform(np.log(0.25), np.log(4.0)))) if regrows else 0.0,
        )
        made.append(change)
        taken[window[:2]] |= inside
        if not slow and rule.followed_by and rng.uniform() < config.twice_share / max(1 - config.gradual_share, 0.1) * 1.6:
            later = day + int(rng.integers(200, 1300))
            if later < end - 20:
                number += 1
                made.append(
                    Change(
                        name=f"B{number:04d}",
                        kind=str(rng.choice(rule.followed_by)),  # type: ignore[arg-type]
                        polygon=polygon,
                        day=date(1970, 1, 1) + timedelta(days=later),
                        fraction=fraction,
                    )
                )
                follows[made[-1].name] = change.name
    return sorted(made, key=lambda change: (change.day, change.name)), follows


def _progress(change: Change, days: NDArray[np.int64], settle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(T,) share of the new state, and (T,) how far its first look has given way to the one that stays."""
    age = days - float(_day_number(change.day))
    if change.duration_days:
        share = np.clip((age + 1) / change.duration_days, 0, 1)
        return share * share * (3 - 2 * share), np.ones(len(days))
    share = (age >= 0).astype(np.float64)
    if change.regrowth_years:
        years = np.clip(age, 0, None) / 365.25
        share = share * np.exp(-years / change.regrowth_years)
        return share, 1 - np.exp(-years / (0.5 * change.regrowth_years))
    return share, np.clip((age - settle) / 25, 0, 1)


# --------------------------------------------------------------------------------------------------------------------- sky


@dataclass(frozen=True, slots=True, eq=False)
class _Sky:
    """cover: (y, x) opacity of cloud; known: of it, what the quality band can know; shade: depth of shadow; seen: bool."""

    cover: NDArray[np.float32]
    known: NDArray[np.bool_]
    shade: NDArray[np.float32]
    seen: NDArray[np.bool_]


def _wet_season(day: float) -> float:
    """Factor on overcast skies: plum rains (10 June - 15 July), the grey end of winter, the clear autumn."""
    return float(
        0.9
        + 0.55 * np.exp(-0.5 * ((day - 178) / 22) ** 2)
        + 0.30 * np.exp(-0.5 * ((day - 45) / 35) ** 2)
        - 0.25 * np.exp(-0.5 * ((day - 295) / 40) ** 2)
    )


def _draw_sky(config: BasinConfig, overcast: float, draw: float, doy: float, resolution: float, fields: _Fields) -> _Sky:
    rng, shape = fields.rng, fields.shape
    over = min(overcast * _wet_season(doy), 0.95)
    share = rng.uniform(0.82, 1.08) if draw < over else rng.beta(1.1, 1.9) if draw < over + 0.24 else 0.0
    cover = np.zeros(shape, np.float32)
    if share >= 0.995:
        cover[:] = 1
    elif share > 0:
        waves = 0.8 * fields.draw(450 / resolution) + 0.35 * fields.draw(120 / resolution)
        threshold = np.quantile(waves, 1 - share)
        cover = np.where(waves < threshold, 0, np.clip((waves - threshold) / 0.35 + 0.15, 0, 1)).astype(np.float32)
    known = np.ones(shape, bool)
    if share < 0.995 and rng.uniform() < config.thin_cloud:
        veil = np.clip(0.05 + 0.04 * fields.draw(500 / resolution), 0, 0.2).astype(np.float32)
        known &= cover > 0
        cover = np.maximum(cover, veil)
    if share < 0.7:
        for _ in range(int(rng.poisson(config.small_cloud * shape[0] * shape[1] / 1e4))):
            rows, cols = np.indices(shape)
            r, c, reach = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(1.5, 6)
            puff = rng.uniform(0.3, 1.0) * np.exp(-0.5 * (((rows - r) ** 2 + (cols - c) ** 2) / reach**2) ** 2)
            puff = np.where(puff > 0.04, puff, 0).astype(np.float32)
            known &= ~((puff > cover) & (cover < 0.15))
            cover = np.maximum(cover, puff)
    # Sun from the south east: shadows fall to the north west, further in winter (latitude 30).
    elevation = np.radians(57 - 21 * np.cos(2 * np.pi * (doy - 172) / 365.25 + np.pi))
    reach = min(rng.uniform(700, 1800) / np.tan(elevation), 1200) / resolution
    shade = np.zeros(shape, np.float32)
    if 0 < share < 0.995 or not known.all():
        shade = shift_array(cover, (-reach * 0.77, -reach * 0.64), order=1, mode="reflect")
        shade = gaussian_filter(np.where(shade > 0.2, shade, 0.3 * shade), 1.0)
    seen = np.ones(shape, bool)
    if rng.uniform() < 0.03:
        rows, cols = np.indices(shape)
        seen = cols * np.cos(0.2) - rows * np.sin(0.2) < rng.uniform(0.2, 0.9) * shape[1]
    return _Sky(cover, known, shade, seen)


class _Alterations:
    """The changes as they come over the scenes of one tile."""

    def __init__(
        self,
        made: Sequence[Change],
        follows: Mapping[str, str],
        height: NDArray[np.float64],
        transform: Affine,
        weather: _Weather,
        rng: np.random.Generator,
    ) -> None:
        """height: (y, x) m."""
        shape = height.shape
        self.made, self.days = made, weather.days
        self.windows = [cover_share(change.polygon, (shape[0], shape[1]), transform) for change in made]
        # Every change brings two units of its own: what comes first and what stays.
        looks, heights = [], []
        for change, (rows, cols, share) in zip(made, self.windows, strict=True):
            rule = _RULES[change.kind]
            tall = float(np.average(height[rows, cols], weights=share)) if share.sum() > 0 else 12.0
            raised = float(rng.uniform(10.5, 14.5))
            looks += [_LOOKS.index(rule.first), _LOOKS.index(rule.then)]
            heights += [raised if change.kind == "silting" else tall] * 2
        self.tables = _draw_tables(np.array(looks, np.int64), np.array(heights, np.float64), weather, rng)
        settle = rng.uniform(10, 70, len(made))
        self.progress = [_progress(change, weather.days, settle[index]) for index, change in enumerate(made)]
        self.weights = np.zeros((len(made), *shape), np.float32)
        for index, (rows, cols, share) in enumerate(self.windows):
            self.weights[index, rows, cols] = share * made[index].fraction
        place = {change.name: index for index, change in enumerate(made)}
        self.earlier = [place[follows[change.name]] if change.name in follows else -1 for change in made]
        self.seen = np.zeros((len(made), *shape), np.float32)
        self.counted = np.zeros(len(made), np.float32)

    @property
    def contrast(self) -> NDArray[np.float32]:
        counted = self.counted[:, None, None]
        return np.where(counted > 0, self.seen / np.maximum(counted, 1), np.nan).astype(np.float32)

    def lay(self, t: int, scene: NDArray[np.float32], wet: NDArray[np.float32], texture: Sequence[NDArray[np.float32]]) -> None:
        """Put what has changed by date t into the scene (band, y, x) and its share of water (y, x), in place.

        texture: (y, x) factors of soil, plants and water.
        """
        parts = (self.tables.soil, self.tables.plants, self.tables.water)
        bare: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for index, change in enumerate(self.made):
            begun, gone = self.progress[index][0][t], np.float32(self.progress[index][1][t])
            if begun <= 0:
                continue
            rows, cols, _ = self.windows[index]
            new = np.zeros(scene[:, rows, cols].shape, np.float32)
            for table, factor in zip(parts, texture, strict=True):
                look = (1 - gone) * table[2 * index, t] + gone * table[2 * index + 1, t]
                new += look[:, None, None] * factor[rows, cols]
            opened = (1 - gone) * self.tables.open_[2 * index, t] + gone * self.tables.open_[2 * index + 1, t]
            before = scene[:, rows, cols].copy()
            # What follows another change of the same place replaces it, not a share of all that is there.
            ground = bare.get(self.earlier[index], (before, wet[rows, cols].copy()))
            bare[index] = ground
            w = self.weights[index, rows, cols] * np.float32(begun)
            scene[:, rows, cols] = ground[0] * (1 - w) + new * w
            wet[rows, cols] = ground[1] * (1 - w) + opened * w
            if 0 <= self.days[t] - _day_number(change.day) - change.duration_days < 365:
                self.counted[index] += 1
                self.seen[index, rows, cols] += np.sqrt(((scene[:, rows, cols] - before) ** 2).mean(axis=0))


# ------------------------------------------------------------------------------------------------------------------- scenes

_GREENER = np.array([1.2, 1.1, 1.2, 0.9, 1.0, 1.1], np.float32)
_HAZE = np.array([1.0, 0.75, 0.55, 0.25, 0.08, 0.05], np.float32)
_WHITE = np.array([0.62, 0.60, 0.59, 0.62, 0.46, 0.34], np.float32)
_BLOOM, _SNOW = (np.array(SPECTRA[name], np.float32)[:, None, None] for name in ("bloom", "snow"))
_TILE_NUMBER = {"land": 20260, "water": 20262}
"""Keeps the random numbers of the two kinds of tiles apart: the same seed is not the same sky."""
_OTHER_LOSS = 0.138
"""Mean share of dates lost to partly covered skies and their shadows, edges of the swath, snow and wrong codes: measured."""


def simulate_basin(
    config: BasinConfig,
    sensing: Sensing,
    *,
    shape: tuple[int, int],
    transform: Affine,
    period: tuple[date, date],
    changes: Sequence[Change],
    seed: int,
) -> BasinScenes:
    """Scenes of one tile and all that is true about them; same arguments, same arrays on one machine.

    Land, weather, sky and changes have their own random numbers: the same seed without changes is the same land under the same
    sky. Raises: ValueError when the dates do not fit into the period.
    """
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([seed, _TILE_NUMBER[config.kind]]).spawn(9)]
    resolution = float(transform.a)
    days, orbits = _draw_days(config, *period, streams[0])
    weather = _draw_weather(config, days, streams[1])
    land = _draw_land(config, shape, resolution, streams[2])
    units = _draw_units(land, shape)
    pixels, times, bands = shape[0] * shape[1], len(days), len(BANDS)

    classes = np.stack([np.asarray(units.share @ (units.look == k).astype(np.float32)) for k in range(len(CLASSES))])
    main = classes.argmax(axis=0).astype(np.uint8).reshape(shape)
    made, follows = _draw_changes(config, changes, main, transform, (int(days[0]), int(days[-1])), streams[3])
    height = land.height.reshape(shape[0], FINE, shape[1], FINE).mean(axis=(1, 3))
    alterations = _Alterations(made, follows, height, transform, weather, streams[7])
    tables = _draw_tables(units.look, units.height, weather, streams[4])

    fields = _Fields(shape, streams[5])
    soil_texture, plant_texture = (np.float32(1) + 0.035 * fields.draw(5) + 0.025 * fields.draw(2) for _ in range(2))
    wooded = classes[[CLASSES.index(name) for name in _WOODS]].sum(axis=0).reshape(shape) > 0.3
    slope = np.float32(0.09) * fields.draw(16) * wooded
    knots = np.arange(days[0] - 60, days[-1] + 120, 60)
    drift = np.stack([0.012 * fields.draw(3) for _ in knots]).astype(np.float32)
    bays = {year: 0.75 * fields.draw(20) for year in weather.years}
    bloom = {year: float(streams[6].beta(1.0, 1.6)) for year in weather.years}
    sensors = streams[6].integers(0, 2, times)
    sensor_gain = streams[6].normal(0, config.sensor_sd, (2, bands))
    orbit_gain = streams[6].normal(0, config.orbit_sd, (2, bands)).astype(np.float32)
    cloudy = ndtr(_memory(days, 3.0, streams[6]))
    overcast = float(np.clip((1 - config.clear_share - _OTHER_LOSS) / 0.93, 0, 1))

    observed = np.empty((times, bands, *shape), np.float32)
    quality = np.empty((times, *shape), np.uint8)
    clouded = np.empty((times, *shape), bool)
    flooded = np.zeros(shape, np.float32)

    def spread(table: NDArray[np.float32], part: slice) -> NDArray[np.float32]:
        """(t, band, y, x) or (t, y, x) values of the pixels from those of the units."""
        flat = units.share @ np.ascontiguousarray(table[:, part]).reshape(len(table), -1)
        if table.ndim == 2:
            return flat.T.reshape(-1, *shape)
        return np.moveaxis(flat.reshape(*shape, -1, bands), (2, 3), (0, 1))

    at_once = max(1, int(6e6 // (pixels * bands)))
    for begin in range(0, times, at_once):
        part = slice(begin, min(begin + at_once, times))
        soil, plants, water = (spread(table, part) for table in (tables.soil, tables.plants, tables.water))
        open_, lake = spread(tables.open_, part), spread(tables.lake, part)
        for t in range(part.start, part.stop):
            local, doy = t - begin, float(np.mod(days[t], 365.25))
            year = int(np.datetime64(int(days[t]), "D").astype("datetime64[Y]").astype(int)) + 1970
            sky = _draw_sky(config, overcast, cloudy[t], doy, resolution, fields)
            k = int(np.searchsorted(knots, days[t])) - 1
            late = np.float32((days[t] - knots[k]) / 60)
            living = plant_texture * (1 + drift[k] * (1 - late) + drift[k + 1] * late)
            stirred = np.float32(1) + np.float32(0.10) * fields.draw(25)
            side = np.float32(0.018 if orbits[t] else -0.018)
            scene = (
                soil[local] * soil_texture * (1 + orbit_gain[orbits[t]])[:, None, None]
                + plants[local] * living * (1 + side * _GREENER)[:, None, None]
                + water[local] * stirred
            )
            scene *= 1 + slope * np.float32(np.cos(2 * np.pi * (doy - 172) / 365.25))
            wet = open_[local].copy()
            flooded += wet >= 0.5
            strength = bloom[year] * float(_bump(np.array(doy), 125, 310, 14.0))
            scum = np.clip(0.55 * (bays[year] + 0.65 * fields.draw(20) - 1.6 + 1.9 * strength), 0, 0.8) * lake[local]
            if strength > 0.02:
                scene = scene * (1 - scum) + _BLOOM * scum
            alterations.lay(t, scene, wet, (soil_texture, living, stirred))
            towards_sun = bool(orbits[t]) and 110 < doy < 240
            _glitter(scene, wet, towards_sun, config.boats, np.random.default_rng([seed, _TILE_NUMBER[config.kind] + 1, t]))
            white = float(weather.on_days(weather.snow)[t])
            lying = np.zeros(shape, np.float32)
            if white > 0:
                lying = np.clip(np.float32(white) + 0.25 * fields.draw(12), 0, 0.95).astype(np.float32) * (1 - wet)
                scene = scene * (1 - lying) + _SNOW * lying
            step = config.baseline_step if days[t] >= _day_number(date(2022, 1, 25)) else 0.0
            gain = 1 + sensor_gain[sensors[t]]
            observed[t], quality[t] = _observe(config, sensing, scene, wet, lying, sky, gain, step, fields)
            clouded[t] = (sky.cover > 0.08) | ((sky.shade > 0.25) & (sky.cover < 0.3))

    strange = np.asarray(units.share @ tables.unusual.astype(np.float32)).reshape(shape)
    return BasinScenes(
        days=tuple(date(1970, 1, 1) + timedelta(days=int(day)) for day in days),
        observed=observed,
        quality=quality,
        clouded=clouded,
        land=main,
        purity=classes.max(axis=0).astype(np.float32).reshape(shape),
        flooded=flooded / np.float32(times),
        unusual=strange > 0.25,
        changes=tuple(made),
        weights=alterations.weights,
        contrast=alterations.contrast,
    )


def _glitter(
    scene: NDArray[np.float32], wet: NDArray[np.float32], towards_sun: bool, boats: float, rng: np.random.Generator
) -> None:
    """Boats, and now and then the sun mirrored by waves, on the water of a scene, in place."""
    if towards_sun and rng.uniform() < 0.15:
        scene += np.float32(rng.uniform(0.01, 0.05)) * wet
    open_ = np.flatnonzero(wet > 0.9)
    if len(open_):
        where = rng.choice(open_, min(int(rng.poisson(boats * len(open_))), len(open_)), replace=False)
        rows, cols = np.unravel_index(where, wet.shape)
        scene[:, rows, cols] += np.float32(0.06)


def _memory(days: NDArray[np.int64], tau: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(T,) normal series whose memory fades with the days between: skies last."""
    out = np.empty(len(days))
    state, last = rng.standard_normal(), int(days[0])
    for index, day in enumerate(days):
        keep = np.exp(-(int(day) - last) / tau)
        state = keep * state + np.sqrt(1 - keep * keep) * rng.standard_normal() if index else state
        out[index], last = state, int(day)
    return out


def _observe(
    config: BasinConfig,
    sensing: Sensing,
    truth: NDArray[np.float32],
    wet: NDArray[np.float32],
    lying: NDArray[np.float32],
    sky: _Sky,
    sensor: NDArray[np.float64],
    step: float,
    fields: _Fields,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One delivered scene (band, y, x) and its quality codes (y, x). wet, lying: share of water and of snow."""
    rng, shape = fields.rng, fields.shape
    if config.registration_sd:
        truth = _moved(truth, *rng.normal(0, config.registration_sd, 2))
    noise = sensing.scene_noise * 0.7
    gain = ((1 + rng.normal(0, noise) + rng.normal(0, noise, len(BANDS))) * sensor).astype(np.float32)
    # The atmospheric correction mostly leaves little, and now and then much.
    haze = max(rng.normal(0, sensing.haze_sd), -1.2 * sensing.haze_sd) + (
        rng.exponential(2.5 * sensing.haze_sd) if rng.uniform() < 0.08 else 0
    )
    veil = 1 + 0.4 * fields.draw(40)
    scene = truth * gain[:, None, None] + np.float32(haze) * _HAZE[:, None, None] * veil + np.float32(step)
    scene *= 1 - np.float32(0.58) * np.clip(sky.shade, 0, 1)
    scene = scene * (1 - sky.cover) + _WHITE[:, None, None] * (1 + 0.08 * veil) * sky.cover
    scene += (
        rng.standard_normal(scene.shape, dtype=np.float32) * np.float32(sensing.pixel_noise) * (np.abs(scene) + np.float32(0.025))
    )

    with np.errstate(divide="ignore", invalid="ignore"):
        ndvi = (truth[3] - truth[2]) / (truth[3] + truth[2])
    codes = np.where(wet > 0.5, QUALITY["water"], np.where(ndvi > 0.35, QUALITY["vegetation"], QUALITY["bare"])).astype(np.uint8)
    patchy = fields.draw(4)
    missed = patchy > np.quantile(patchy, 1 - sensing.undetected) if sensing.undetected else np.zeros(shape, bool)
    missed = missed | ~sky.known
    if rng.uniform() < config.commission:
        codes[(truth[:3].mean(axis=0) > 0.17) & (patchy > -0.3)] = QUALITY["cloud_medium"]
    if rng.uniform() < config.commission:
        codes[(wet > 0.5) & (truth[1] < 0.08) & (patchy > 0)] = QUALITY["shadow"]
    codes[(lying > 0.3) | ((lying > 0.1) & (patchy > 0))] = QUALITY["snow"]
    codes[(sky.shade > 0.25) & (sky.cover < 0.3) & ~missed] = QUALITY["shadow"]
    codes[(sky.cover > 0.02) & (sky.cover <= 0.35) & ~missed] = QUALITY["cirrus"]
    codes[(sky.cover > 0.35) & sky.known] = QUALITY["cloud_medium"]
    codes[(sky.cover > 0.7) & sky.known] = QUALITY["cloud_high"]
    codes[~sky.seen] = QUALITY["nodata"]
    scene[:, ~sky.seen] = np.nan
    return scene.astype(np.float32, copy=False), codes


def _moved(scene: NDArray[np.float32], down: float, right: float) -> NDArray[np.float32]:
    """The scene resampled (bilinear) at pixels that lie `down` and `right` off, px below one; edges repeat."""
    for axis, off in ((1, float(np.clip(down, -0.99, 0.99))), (2, float(np.clip(right, -0.99, 0.99)))):
        step = 1 if off > 0 else -1
        other = np.roll(scene, -step, axis=axis)
        edge = [slice(None)] * 3
        edge[axis] = slice(-1, None) if step > 0 else slice(0, 1)
        other[tuple(edge)] = scene[tuple(edge)]
        scene = scene * np.float32(1 - abs(off)) + other * np.float32(abs(off))
    return scene
