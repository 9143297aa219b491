"""Currency types of the satellite engine. No I/O here.

Dates inside arrays are int32 days since 1970-01-01 (UTC); `NODATE` marks that there is none.
Axis order of cubes is (time, band, y, x), y from north to south as the grid says.
What was not seen is never a number: every observation has an `Observed` code and every pixel a `Status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoevidence.raster import Grid
from geoevidence.types import Message, Quantity

NODATE = -2147483648
"""int32 value of a date raster where there is no date."""


class Observed(IntEnum):
    """What one scene says about one pixel."""

    CLEAR = 0
    CLOUD = 1
    """Seen, but not usable: the quality band does not call it clear (cloud, shadow, snow ...), or a band is saturated."""
    NOT_OBSERVED = 2
    """The scene holds no value here (edge of the swath, nodata)."""
    FAILED_READ = 3
    """The scene should hold a value here, but its bytes cannot be read."""
    OUTSIDE = 4
    """Not part of the area asked for."""


class Status(IntEnum):
    """What can be said about one pixel over the whole period."""

    OUTSIDE = 0
    """Not part of the area asked for."""
    NO_CHANGE = 1
    """Observed often enough; no change found."""
    CHANGE = 2
    """Observed often enough; at least one change found."""
    TOO_FEW = 3
    """Seen clear, but not often or not long enough to decide."""
    CLOUD = 4
    """Not decided, and cloud is the main reason."""
    NOT_OBSERVED = 5
    """Not decided, and missing coverage is the main reason."""
    FAILED_READ = 6
    """Not decided, and scenes that cannot be read are the main reason."""


SceneStatus = Literal[
    "read",
    "damaged",
    "missing_file",
    "network",
    "outside_folder",
    "missing_band",
    "no_date",
    "no_scale",
    "other_level",
    "other_grid",
    "odd_values",
]
AssetStatus = Literal["read", "damaged", "missing", "network", "outside_folder", "missing_band"]
Resample = Literal["none", "nearest", "bilinear", "average"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One band of one scene as delivered.

    band: its name in the stack. role: what it says: values, quality codes, bits of saturated bands, or where there are values.
    href: where it lies, as the record shows it (relative to the source). path: the file, None where there is none to read.
    layer: variable in a file of many, else "". position: 1-based band of the file, or date of the variable.
    sha256: lower-case hex of the file, "" where it was not read. grid: its own cells, None where unknown.
    scale, offset: physical = stored * scale + offset, as declared. nodata, saturated: stored values, None = none.
    bits: of a saturation asset: those of the wanted bands. resampling: how its cells become those of the stack. status, reason: whether its file can be read.
    """

    band: str
    role: Literal["value", "quality", "saturation", "presence"] = "value"
    href: str
    path: Path | None
    layer: str = ""
    position: int = 1
    sha256: str = ""
    grid: Grid | None = None
    dtype: str = ""
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    saturated: float | None = None
    bits: int = 0
    resampling: Resample = "none"
    status: AssetStatus = "read"
    reason: Message | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One acquisition as delivered.

    name: file, product or item name, with `#index` where one file holds many dates. path: the file or folder.
    sha256: lower-case hex of the file, or of the metadata file of a product of many files.
    acquired: date in UTC, or None when neither name nor tag says. sensor: as declared.
    status: whether it can be used; `reason` says why not. index: position in a file of many dates, else 0.
    grid: cells of its finest wanted band, None where unknown. assets: what is read of it, in the order of the stack's bands.
    tile: of the product's tiling, "" = none. baseline: processing baseline or software version, "" = not stated.
    values_from: what says scale and offset. check: what comparing it with the other scenes gave, decimals as text.
    """

    name: str
    path: Path
    sha256: str
    acquired: date | None
    sensor: str
    status: SceneStatus
    reason: Message | None = None
    index: int = 0
    grid: Grid | None = None
    assets: tuple[Asset, ...] = ()
    tile: str = ""
    baseline: str = ""
    values_from: str = ""
    check: Mapping[str, str] | None = None


class Pace(IntEnum):
    """How a change went."""

    NONE = 0
    """No change."""
    ABRUPT = 1
    """Between two clear views, as far as these can tell."""
    GRADUAL = 2
    """Over months or years: the dates are those of its middle."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cube:
    """Observations of one block on one grid, as stored: physical value = stored * scale + offset.

    stored: (time, band, y, x) int16 or float32; means something only where `observed` is CLEAR (there all bands are finite).
    observed: (time, y, x) uint8 `Observed`. days: (time,) int32, strictly increasing. bands: names in order.
    grid: of the block. scale, offset: the same for all bands and dates. failed: names of the scenes whose bytes could not
    be read here. failed_assets: (scene name, band) of what could not be read here.
    """

    stored: NDArray[np.int16] | NDArray[np.float32]
    observed: NDArray[np.uint8]
    days: NDArray[np.int32]
    bands: tuple[str, ...]
    grid: Grid
    scale: float = 1.0
    offset: float = 0.0
    failed: frozenset[str] = frozenset()
    failed_assets: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        times, bands, rows, cols = self.stored.shape
        if self.stored.dtype not in (np.int16, np.float32):
            raise ValueError(f"a cube is int16 or float32, not {self.stored.dtype}")
        if self.observed.shape != (times, rows, cols) or self.days.shape != (times,) or len(self.bands) != bands:
            raise ValueError(f"stored {self.stored.shape}, observed {self.observed.shape} and bands {self.bands} do not fit")
        if (rows, cols) != self.grid.shape:
            raise ValueError(f"stored {(rows, cols)} does not fit the grid {self.grid.shape}")
        if times > 1 and not bool((np.diff(self.days) > 0).all()):
            raise ValueError("the days of a cube increase strictly")

    @property
    def values(self) -> NDArray[np.float32]:
        """(time, band, y, x) physical values, NaN wherever `observed` is not CLEAR: a copy, for small blocks."""
        return self._physical(self.stored, self.observed[:, None] == Observed.CLEAR)

    def at(self, rows: NDArray[np.intp], cols: NDArray[np.intp], dates: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """(time, band, n) physical values of the pixels (rows, cols), NaN wherever they are not CLEAR; of the `dates` at these
        positions alone where they are given."""
        clear = _gathered(self.observed, rows, cols, dates) == Observed.CLEAR
        return self._physical(_gathered(self.stored, rows, cols, dates), clear[:, None])

    def clear_at(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(time, n) which of the pixels (rows, cols) are CLEAR."""
        clear: NDArray[np.bool_] = _gathered(self.observed, rows, cols) == Observed.CLEAR
        return clear

    def image(self, index: int) -> NDArray[np.float32]:
        """(band, y, x) physical values of one date, NaN wherever it is not CLEAR."""
        return self._physical(self.stored[index], self.observed[index] == Observed.CLEAR)

    def _physical(self, stored: NDArray[np.int16] | NDArray[np.float32], clear: NDArray[np.bool_]) -> NDArray[np.float32]:
        values = stored.astype(np.float32)
        values *= np.float32(self.scale)
        values += np.float32(self.offset)
        np.copyto(values, np.float32(np.nan), where=~clear)
        return values


def _gathered(
    array: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp], dates: NDArray[np.intp] | None = None
) -> NDArray[Any]:
    """`array[..., rows, cols]` of some dates: many times faster where the pixels lie near each other, since their surroundings
    are copied in one piece before single cells are picked."""
    if not len(rows):
        return array[..., rows, cols] if dates is None else array[dates][..., rows, cols]
    top, left, width = int(rows.min()), int(cols.min()), int(cols.max()) - int(cols.min()) + 1
    part = array[..., top : int(rows.max()) + 1, left : left + width]
    part = np.ascontiguousarray(part if dates is None else part[dates])
    return part.reshape(*part.shape[:-2], part.shape[-2] * width).take((rows - top) * width + (cols - left), axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BreakMap:
    """Dated structural changes per pixel; k counts breaks of a pixel in order of time.

    grid: or None when the input array named none. first_day, last_day: of the observations.
    break_date: (k, y, x) int32 days, middle of the interval, NODATE = no break.
    last_clear_before: (k, y, x) int32 days, last clear observation that still fits the old state.
    first_clear_after: (k, y, x) int32 days, first clear observation that fits the new one.
    magnitude: (k, y, x) float32, signed change of `magnitude_of` (an index or a band), NaN = no break.
    score: (k, y, x) float32, standardised size of the change over all bands (1), NaN = no break.
    pace: (k, y, x) uint8 `Pace`, NONE = no break.
    observations: (y, x) int16 clear observations. status: (y, x) uint8 `Status`.
    """

    grid: Grid | None
    first_day: int
    last_day: int
    break_date: NDArray[np.int32]
    last_clear_before: NDArray[np.int32]
    first_clear_after: NDArray[np.int32]
    magnitude: NDArray[np.float32]
    magnitude_of: str
    score: NDArray[np.float32]
    pace: NDArray[np.uint8]
    observations: NDArray[np.int16]
    status: NDArray[np.uint8]

    def strongest(self) -> NDArray[np.int32]:
        """(y, x) int32: date of the break with the largest score, NODATE = no break."""
        best = np.argmax(np.where(np.isnan(self.score), -1.0, self.score), axis=0)
        return np.take_along_axis(self.break_date, best[None], axis=0)[0]


class Cover(StrEnum):
    """What a surface is, as far as its reflectance says. `attribute.py` has the rules."""

    UNKNOWN = "unknown"
    """No rule holds with its margin, or bands or dates are missing."""
    WATER = "water"
    TURBID = "turbid"
    """Water that is turbid or carries algae or floating plants."""
    VEGETATION = "vegetation"
    BARE = "bare"
    """Bare soil or sand."""
    BUILT = "built"
    """Sealed or built over: concrete, asphalt, light roofs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceState:
    """What the polygon was on one side of the change.

    cover: the class, or UNKNOWN. margin: how far the value that came nearest to its limit lies from it, in margins
    (1 and more: clear of all limits; below 1 the cover is UNKNOWN). reason: message id of the rule, or of why it is unknown.
    dates: clear dates used. water_share: share of them on which the polygon was water (1), None without the bands.
    indices: name -> median (1) over the dates with its standard error; `NDVI_high` is the 80 % quantile over the dates and
    `NDVI_swing` the difference of the 90 and 10 % quantiles.
    """

    cover: Cover
    margin: float
    reason: str
    dates: int
    water_share: float | None
    indices: Mapping[str, Quantity]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindPeriod:
    """A time without a clear view of the polygon.

    start, end: the clear views (or the ends of the series) on either side. cloud, not_observed, failed_read: scenes between
    them by what they say about the polygon; where all are 0 there was no scene. in_interval: lies at or in the evidence interval.
    """

    start: date
    end: date
    cloud: int
    not_observed: int
    failed_read: int
    in_interval: bool

    @property
    def days(self) -> int:
        return (self.end - self.start).days


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChange:
    """Median of an index inside a polygon before and after (1), with standard errors, dates of the same seasons compared."""

    name: str
    before: Quantity
    after: Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEvent:
    """Pixels that changed together.

    polygon: GeoJSON geometry in the grid's CRS, along pixel edges. pixels: (row, col) of its pixels, sorted.
    last_clear_before, first_clear_after: evidence interval (see `events.event_interval`); of a gradual event the period of the
    change. break_date: estimate in it, for orientation. pace: how most of the pixels changed. spread_days: between the 10 and
    90 % quantiles of the pixels' own dates.
    area: that changed, on the ellipsoid, m2; edge pixels count by their changed share, so it differs from `outlined`, the area
    inside the polygon, m2. area_parts: standard uncertainties that make up that of the area, m2: `edge`, `registration`,
    `classification`. registration_pixels: standard deviation of the position of one scene, px; registration_dates: number of
    dates it was measured on, 0 = assumed.
    magnitude: median over pixels of the change of `magnitude_of`. score: median over pixels. contrast: how far the event parted
    from unchanged ground that was like it before, in standard deviations of monthly means (0 = cannot be said).
    confidence: probability that a lasting change of the land lies here (1), and confidence_basis: message id of what it was
    measured on. agreement: share of the pixels whose own interval overlaps the event's; direction_agreement: whose reflectance
    moved the same way (1).
    clear_before, clear_after: number of dates with clear pixels of the polygon before and after the interval.
    longest_gap_days: longest time without a clear view of the polygon; blind: all such periods longer than
    `EventConfig.blind_days`, in order of time. indices: from -> to, plain facts. before, after: what the surface was and became.
    water_level: the water level may be all that changed, or decides what is seen.
    """

    id: str
    polygon: Mapping[str, Any]
    pixels: tuple[tuple[int, int], ...]
    last_clear_before: date
    first_clear_after: date
    break_date: date
    pace: Pace
    spread_days: int
    area: Quantity
    outlined: float
    area_parts: Mapping[str, float]
    registration_pixels: float
    registration_dates: int
    magnitude: float
    magnitude_of: str
    score: float
    contrast: float
    confidence: float
    confidence_basis: str
    agreement: float
    direction_agreement: float
    clear_before: int
    clear_after: int
    longest_gap_days: int
    blind: tuple[BlindPeriod, ...]
    indices: tuple[IndexChange, ...]
    before: SurfaceState
    after: SurfaceState
    water_level: bool
