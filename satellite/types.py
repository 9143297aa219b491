"""Currency types of the satellite engine. No I/O here.

Dates inside arrays are int32 days since 1970-01-01 (UTC); `NODATE` marks that there is none.
Axis order of cubes is (time, band, y, x), y from north to south as the grid says.
What was not seen is never a number: every observation has an `Observed` code and every pixel a `Status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
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


SceneStatus = Literal["read", "damaged", "other_grid", "missing_band", "no_date"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One acquisition as delivered.

    name: file name, with `#index` where one file holds many dates. path: the file. sha256: lower-case hex of the file.
    acquired: date in UTC, or None when neither name nor tag says. sensor: as declared.
    status: whether it can be used; `reason` says why not. index: position in a file of many dates, else 0.
    """

    name: str
    path: Path
    sha256: str
    acquired: date | None
    sensor: str
    status: SceneStatus
    reason: Message | None = None
    index: int = 0


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
    be read here.
    """

    stored: NDArray[np.int16] | NDArray[np.float32]
    observed: NDArray[np.uint8]
    days: NDArray[np.int32]
    bands: tuple[str, ...]
    grid: Grid
    scale: float = 1.0
    offset: float = 0.0
    failed: frozenset[str] = frozenset()

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

    def at(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[np.float32]:
        """(time, band, n) physical values of the pixels (rows, cols), NaN wherever they are not CLEAR."""
        return self._physical(self.stored[:, :, rows, cols], self.observed[:, None, rows, cols] == Observed.CLEAR)

    def image(self, index: int) -> NDArray[np.float32]:
        """(band, y, x) physical values of one date, NaN wherever it is not CLEAR."""
        return self._physical(self.stored[index], self.observed[index] == Observed.CLEAR)

    def _physical(self, stored: NDArray[np.int16] | NDArray[np.float32], clear: NDArray[np.bool_]) -> NDArray[np.float32]:
        values = stored.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)
        return np.where(clear, values, np.float32(np.nan))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChange:
    """Median of an index inside a polygon before and after (1), with standard errors."""

    name: str
    before: Quantity
    after: Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEvent:
    """Pixels that changed together.

    polygon: GeoJSON geometry in the grid's CRS, along pixel edges. pixels: (row, col) of its pixels, sorted.
    last_clear_before, first_clear_after: evidence interval (see `events.map_events`). break_date: estimate in it.
    area: that changed, on the ellipsoid, m2; edge pixels count by their changed share, so it differs from the polygon's own.
    magnitude: median over pixels. score: median over pixels.
    clear_before, clear_after: number of dates with clear pixels of the polygon before and after the interval.
    longest_gap_days: longest time without a clear view of the polygon. indices: from -> to, plain facts.
    """

    id: str
    polygon: Mapping[str, Any]
    pixels: tuple[tuple[int, int], ...]
    last_clear_before: date
    first_clear_after: date
    break_date: date
    area: Quantity
    magnitude: float
    magnitude_of: str
    score: float
    clear_before: int
    clear_after: int
    longest_gap_days: int
    indices: tuple[IndexChange, ...]
