"""How well the scenes of a stack lie on each other, measured date by date against the stack itself.

In: a cube (or a stack, of which a few windows are read). Out: `RegistrationShifts`: the sub-pixel shift of every date with
its standard error and a status, and the standard deviation of the position of one scene. Method: least-squares matching
(Lucas and Kanade 1981; Gruen 1985) of each date with a robust reference of its season, all chosen bands together, on
clear pixels, with Tukey weights; errors by a jackknife over blocks (Kuensch 1989), since residuals hang together in space.
Nothing is moved. What cannot be measured (too little clear, no texture) has a status, never a zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage

from geoevidence.errors import ConfigError, CoverageError
from satellite.cube import StackReader
from satellite.indices import band_roles
from satellite.stack import Stack
from satellite.types import Cube, Observed, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationConfig:
    """How shifts are measured. Defaults were set on simulated fields (docs/methods/registration.md).

    bands: at most so many are used, those of `nir, swir1, red` that are there first; more cost time and gain little.
    search: largest shift looked for, whole pixels. season_days: dates within so many days of the year make the reference
    of a date, d. min_dates: of such a reference; with fewer, all dates make it. block: side of a jackknife block, px.
    min_blocks: blocks with enough clear pixels that a date must have. max_sd: standard error beyond which a shift counts as
    not measured, px. windows, window: how many windows of which side, px, are read of a stack.
    """

    bands: int = 3
    search: int = 3
    season_days: int = 60
    min_dates: int = 12
    block: int = 32
    min_blocks: int = 9
    max_sd: float = 0.15
    windows: int = 2
    window: int = 192

    def __post_init__(self) -> None:
        ranges = {
            "bands": (1, 20),
            "search": (0, 10),
            "season_days": (10, 366),
            "min_dates": (4, 1000),
            "block": (8, 1000),
            "min_blocks": (4, 1000),
            "max_sd": (0.001, 10),
            "windows": (1, 100),
            "window": (64, 4096),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=getattr(self, name), low=low, high=high)


class RegistrationStatus(IntEnum):
    """What can be said about the position of one date."""

    MEASURED = 0
    TOO_FEW = 1
    """Too little is clear, or there are too few dates to compare with."""
    NO_TEXTURE = 2
    """Measured with an error beyond `max_sd`: the ground has too little structure, or looks too different."""
    BEYOND = 3
    """The best match lies at the edge of the search."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegistrationShifts:
    """Where each date lies, against the reference of the whole stack.

    days: (t,) int32. shift: (t, 2) float64 px, (down, right) that the content of the date is displaced; NaN where not
    measured. sd: (t, 2) its standard errors, px. status: (t,) uint8 `RegistrationStatus`.
    sd_pixels: standard deviation of the position of one scene along one axis, px, measurement error taken out; NaN where
    fewer than three dates were measured. dates: number of dates measured. sd_observed: the same, measurement error left in.
    """

    days: NDArray[np.int32]
    shift: NDArray[np.float64]
    sd: NDArray[np.float64]
    status: NDArray[np.uint8]
    sd_pixels: float
    sd_observed: float
    dates: int

    def shifted(self, limit: float = 0.5) -> tuple[int, ...]:
        """Days whose measured shift is longer than `limit`, px."""
        length = np.hypot(self.shift[:, 0], self.shift[:, 1])
        return tuple(int(day) for day, far in zip(self.days, np.nan_to_num(length) > limit, strict=True) if far)


def measure_registration(cube: Cube, config: RegistrationConfig | None = None) -> RegistrationShifts:
    """Shifts of the dates of one cube against each other.

    Args:
        cube: at least 64 pixels wide and high for a useful result; its own values are not changed.

    Returns:
        See `RegistrationShifts`; dates that cannot be measured have a status.
    """
    config = config or RegistrationConfig()
    shift, sd, status = _measure(cube, config)
    return _summary(cube.days, shift, sd, status)


def measure_stack(stack: Stack, config: RegistrationConfig | None = None, *, threads: int = 1) -> RegistrationShifts:
    """Shifts of the dates of a stack: from a few windows spread over the grid, combined by their errors.

    Raises:
        CoverageError: the grid is smaller than 64 x 64 cells.
    """
    config = config or RegistrationConfig()
    with StackReader(_of_chosen_bands(stack, config), threads=threads) as reader:
        found = [_measure(reader.read(window), config) for window in _windows(stack.grid.shape, config)]
    days = np.array([day.toordinal() - _EPOCH for day in stack.days], np.int32)
    shifts, sds = np.stack([part[0] for part in found]), np.stack([part[1] for part in found])
    states = np.stack([part[2] for part in found])
    shift, sd = _combined(shifts, sds)
    measured = np.isfinite(shift).all(axis=1)
    status = np.where(measured, np.uint8(RegistrationStatus.MEASURED), states.min(axis=0, where=states > 0, initial=255))
    return _summary(days, shift, sd, np.where(status == 255, np.uint8(RegistrationStatus.TOO_FEW), status).astype(np.uint8))


def _of_chosen_bands(stack: Stack, config: RegistrationConfig) -> Stack:
    """The stack with the bands alone that are compared: blocks of the others need not be decoded."""
    bands = tuple(stack.spec.bands[k] for k in sorted(_chosen_bands(stack.spec.bands, config.bands)))
    if len(bands) == len(stack.spec.bands):
        return stack

    def reduced(scene: Scene) -> Scene:
        return replace(scene, assets=tuple(a for a in scene.assets if a.role != "value" or a.band in bands))

    return replace(stack, spec=replace(stack.spec, bands=bands), scenes=tuple(reduced(scene) for scene in stack.usable))


_EPOCH = 719163  # 1970-01-01 as a proleptic ordinal


def _windows(shape: tuple[int, int], config: RegistrationConfig) -> list[Window]:
    rows, cols = shape
    if min(rows, cols) < 64:
        raise CoverageError("satellite.too_small_to_register", rows=rows, cols=cols)
    height, width = min(config.window, rows), min(config.window, cols)
    # As many as fit apart, spread evenly.
    across = max(1, min(round((config.windows * cols / rows) ** 0.5), cols // width))
    down = max(1, min(-(-config.windows // across), rows // height))
    places = [
        (round((i + 0.5) * rows / down - height / 2), round((j + 0.5) * cols / across - width / 2))
        for i in range(down)
        for j in range(across)
    ]
    return [
        Window(_in_block(left, width, cols), _in_block(top, height, rows), width, height)  # type: ignore[call-arg]
        for top, left in places
    ]


def _in_block(start: int, length: int, size: int) -> int:
    """The start nearest to a wanted one from which so many of `size` cells lie in one block of 512, the usual one of files,
    where they can: across an edge twice as much would be decoded."""
    start = min(max(start, 0), size - length)
    edge = -(-(start + 1) // _BLOCK) * _BLOCK
    if start + length <= edge or length > _BLOCK:
        return start
    before, after = edge - length, edge
    return before if start - before <= after - start or after + length > size else after


_BLOCK = 512


def _combined(shifts: NDArray[np.float64], sds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over windows (w, t, 2) by inverse variance; where windows disagree by more than their errors, the error grows."""
    weight = np.where(np.isfinite(shifts), 1.0 / sds**2, 0.0)
    total = weight.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(total > 0, np.nansum(np.where(weight > 0, shifts, 0) * weight, axis=0) / total, np.nan)
        sd = np.where(total > 0, total**-0.5, np.nan)
    count = (weight > 0).sum(axis=0)
    excess = (weight * np.where(weight > 0, shifts - mean, 0) ** 2).sum(axis=0) / np.maximum(count - 1, 1)
    return mean, np.where(count > 1, sd * np.sqrt(np.maximum(excess, 1.0)), sd)


def _summary(
    days: NDArray[np.int32], shift: NDArray[np.float64], sd: NDArray[np.float64], status: NDArray[np.uint8]
) -> RegistrationShifts:
    measured = status == RegistrationStatus.MEASURED
    observed = noise_free = float("nan")
    if measured.sum() >= 3:
        observed, noise_free = _spread(shift[measured], sd[measured])
        sd = np.sqrt(sd**2 + _FLOOR**2 + (_BLUR * noise_free) ** 2)
        observed, noise_free = _spread(shift[measured], sd[measured])
    return RegistrationShifts(
        days=days,
        shift=shift,
        sd=sd,
        status=status,
        sd_pixels=noise_free,
        sd_observed=observed,
        dates=int(measured.sum()),
    )


_FLOOR, _BLUR = 0.012, 0.03
"""What the jackknife does not see, px and share of the spread: cells are coarser than the ground, and the reference is a
little blurred by the shifts of its dates. Measured on simulated fields (docs/methods/registration.md)."""


def _spread(shift: NDArray[np.float64], sd: NDArray[np.float64]) -> tuple[float, float]:
    """Standard deviation along one axis, both axes together: observed, and with the measurement error taken out, px."""
    spreads = [_scatter(shift[:, axis], sd[:, axis]) for axis in range(2)]
    return float(np.sqrt(np.mean([one for one, _ in spreads]))), float(np.sqrt(np.mean([two for _, two in spreads])))


def _scatter(values: NDArray[np.float64], sd: NDArray[np.float64]) -> tuple[float, float]:
    """Variance of values, and of what they measure: between-group variance by moments (DerSimonian and Laird 1986)."""
    weight = 1.0 / sd**2
    mean = (weight * values).sum() / weight.sum()
    q = (weight * (values - mean) ** 2).sum()
    scale = weight.sum() - (weight**2).sum() / weight.sum()
    return float(values.var(ddof=1)), max(0.0, float((q - (len(values) - 1)) / scale))


# One window -----------------------------------------------------------------------------------------------------------

_SMOOTH, _WIDE, _MARGIN = 0.7, 21, 3
"""Gaussian that takes the noise of single pixels off (px), side of the mean that is taken off so that haze and slow changes
of brightness do not count (px), and pixels along the edge that are not used: a spline needs neighbours."""
_STEPS, _CLOSE = 12, 0.002


def _measure(cube: Cube, config: RegistrationConfig) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]:
    times = len(cube.days)
    shift, sd = np.full((times, 2), np.nan), np.full((times, 2), np.nan)
    status = np.full(times, np.uint8(RegistrationStatus.TOO_FEW))
    bands = _chosen_bands(cube.bands, config.bands)
    clear = cube.observed == Observed.CLEAR
    usable = np.flatnonzero(clear.mean(axis=(1, 2)) > 0.05)
    if len(usable) < 4 or min(cube.grid.shape) < 32:
        return shift, sd, status
    values = cube.stored[:, bands].astype(np.float32) * np.float32(cube.scale) + np.float32(cube.offset)
    blocks, count = _block_numbers(cube.grid.shape, config.block)
    references = _References(values, clear, cube.days, usable, config)
    for t in usable:
        image, weight = _prepared(values[t], clear[t])
        reference, known, members, own_shift = references.of(int(t))
        weight &= known
        if _full_blocks(weight, blocks, count, config.block) < config.min_blocks:
            continue
        start = _best_whole(image, weight, reference, config.search)
        if max(abs(start[0]), abs(start[1])) >= config.search > 0:
            status[t] = RegistrationStatus.BEYOND
            continue
        found = _refined(image, weight, reference, blocks, count, start)
        if found is None or not (found[1] <= config.max_sd).all():
            status[t] = RegistrationStatus.NO_TEXTURE
            continue
        # The date is one of the `members` of its reference, which follows it by that share.
        share = members / (members - 1.0)
        shift[t], sd[t] = found[0] * share + own_shift, found[1] * share
        status[t] = RegistrationStatus.MEASURED
    return shift, sd, status


def _chosen_bands(names: tuple[str, ...], limit: int) -> list[int]:
    roles = band_roles(names)
    first = [roles[role] for role in ("nir", "swir1", "red") if role in roles]
    return [*first, *(index for index in range(len(names)) if index not in first)][: max(1, limit)]


def _block_numbers(shape: tuple[int, int], side: int) -> tuple[NDArray[np.int64], int]:
    rows, cols = np.arange(shape[0]) // side, np.arange(shape[1]) // side
    return rows[:, None] * (cols[-1] + 1) + cols[None, :], int((rows[-1] + 1) * (cols[-1] + 1))


def _full_blocks(weight: NDArray[np.bool_], blocks: NDArray[np.int64], count: int, side: int) -> int:
    """Blocks of which a quarter is usable."""
    return int((np.bincount(blocks[weight], minlength=count) >= side * side / 4).sum())


def _prepared(values: NDArray[np.float32], clear: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(band, y, x) structure: smoothed, local mean taken off; and where it can be used (y, x)."""
    seen = clear.astype(np.float64)
    fine = ndimage.gaussian_filter(seen, _SMOOTH, mode="constant")
    wide = ndimage.uniform_filter(seen, _WIDE, mode="constant")
    out = np.empty(values.shape)
    for band, value in enumerate(values):
        filled = np.where(clear, value, 0.0).astype(np.float64)
        near = ndimage.gaussian_filter(filled, _SMOOTH, mode="constant") / np.maximum(fine, 1e-3)
        far = ndimage.uniform_filter(filled, _WIDE, mode="constant") / np.maximum(wide, 1e-3)
        out[band] = near - far
    usable = ndimage.binary_erosion(clear, np.ones((5, 5), bool)) & (wide > 0.3)
    usable[:_MARGIN] = usable[-_MARGIN:] = False
    usable[:, :_MARGIN] = usable[:, -_MARGIN:] = False
    return out, usable


class _References:
    """Spline coefficients of the median image of each season and of all dates, and how far the seasons lie from it."""

    def __init__(
        self,
        values: NDArray[np.float32],
        clear: NDArray[np.bool_],
        days: NDArray[np.int32],
        usable: NDArray[np.intp],
        config: RegistrationConfig,
    ) -> None:
        self._values, self._clear, self._usable, self._config = values, clear, usable, config
        self._season = (days % 365.2425).astype(np.float64)
        self._known: dict[int, tuple[NDArray[np.float64], NDArray[np.bool_], int, NDArray[np.float64]]] = {}
        everything = self._median(usable)
        self._all = (everything[1], everything[2], len(usable), np.zeros(2))

    def of(self, t: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], int, NDArray[np.float64]]:
        """Coefficients (band, y, x), where they are known (y, x), number of dates, shift against the whole, px."""
        part = int(self._season[t] // 30.5)
        if part not in self._known:
            apart = np.abs(self._season[self._usable] - (part + 0.5) * 30.5)
            members = self._usable[np.minimum(apart, 365.2425 - apart) <= self._config.season_days]
            self._known[part] = self._of_season(members)
        return self._known[part]

    def _of_season(self, members: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.bool_], int, NDArray[np.float64]]:
        if len(members) < self._config.min_dates or len(members) == len(self._usable):
            return self._all
        image, coefficients, known = self._median(members)
        blocks, count = _block_numbers(known.shape, self._config.block)
        both = known & self._all[1]
        found = _refined(image, both, self._all[0], blocks, count, (0, 0)) if both.sum() > 1000 else None
        if found is None or not (found[1] <= self._config.max_sd).all() or np.abs(found[0]).max() > 1:
            return self._all
        return coefficients, known, len(members), found[0]

    def _median(self, members: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Structure of the median of some dates, its spline coefficients, and where enough of them are clear."""
        enough = np.int64(min(5, len(members)))
        image, counts = _medians(self._values, self._clear, members.astype(np.int64))
        structure, usable = _prepared(image, counts >= enough)
        spread = ndimage.spline_filter1d(structure, 3, axis=1, mode="mirror")
        return structure, ndimage.spline_filter1d(spread, 3, axis=2, mode="mirror"), usable


@njit(nogil=True, cache=True)
def _medians(values, clear, members):  # type: ignore[no-untyped-def]
    """Median (band, y, x) of clear values of some dates, 0 where there are none, and their number (y, x)."""
    _, bands, rows, cols = values.shape
    out = np.zeros((bands, rows, cols), np.float32)
    counts = np.zeros((rows, cols), np.int64)
    held = np.empty(len(members), np.float32)
    for r in range(rows):
        for c in range(cols):
            for b in range(bands):
                n = 0
                for t in members:
                    if clear[t, r, c]:
                        held[n] = values[t, b, r, c]
                        n += 1
                counts[r, c] = n
                if n:
                    out[b, r, c] = np.median(held[:n])
    return out, counts


@njit(nogil=True, cache=True)
def _correlations(image, weight, reference, search):  # type: ignore[no-untyped-def]
    """Correlation of an image with the reference moved by whole pixels, (2 s + 1, 2 s + 1), mean over bands."""
    bands, rows, cols = image.shape
    side = 2 * search + 1
    out = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            for b in range(bands):
                n, sx, sy, sxx, syy, sxy = 0, 0.0, 0.0, 0.0, 0.0, 0.0
                # Every other pixel both ways is plenty for a whole-pixel answer.
                for r in range(search + 1, rows - search - 1, 2):
                    for c in range(search + 1, cols - search - 1, 2):
                        if weight[r, c]:
                            x, y = image[b, r, c], reference[b, r + i - search, c + j - search]
                            n += 1
                            sx += x
                            sy += y
                            sxx += x * x
                            syy += y * y
                            sxy += x * y
                if n > 1:
                    spread = (sxx - sx * sx / n) * (syy - sy * sy / n)
                    if spread > 0:
                        out[i, j] += (sxy - sx * sy / n) / np.sqrt(spread) / bands
    return out


def _best_whole(
    image: NDArray[np.float64], weight: NDArray[np.bool_], reference: NDArray[np.float64], search: int
) -> tuple[int, int]:
    """The whole shift (down, right) of the reference's place that fits best. Coefficients serve as a picture here."""
    if search == 0:
        return 0, 0
    table = _correlations(image, weight, reference, search)
    i, j = np.unravel_index(int(np.argmax(table)), table.shape)
    return int(i) - search, int(j) - search


@njit(nogil=True, cache=True)
def _spline(fraction):  # type: ignore[no-untyped-def]
    """Weights of the cubic B-spline and of its derivative for the four neighbours of a place."""
    f, g = fraction, 1.0 - fraction
    weights = np.array([g**3 / 6, 2 / 3 - f * f * (2 - f) / 2, 2 / 3 - g * g * (2 - g) / 2, f**3 / 6])
    slopes = np.array([-g * g / 2, f * (1.5 * f - 2), g * (2 - 1.5 * g), f * f / 2])
    return weights, slopes


@njit(nogil=True, cache=True)
def _moved(reference, down, right, out):  # type: ignore[no-untyped-def]
    """Reference at places moved by (down, right) and its slopes there: out (3, band, y, x) = value, d/dy, d/dx."""
    bands, rows, cols = reference.shape
    i0, j0 = int(np.floor(down)), int(np.floor(right))
    wy, dy = _spline(down - i0)
    wx, dx = _spline(right - j0)
    for b in range(bands):
        for r in range(rows):
            for c in range(cols):
                value, slope_y, slope_x = 0.0, 0.0, 0.0
                for i in range(4):
                    k = min(max(r + i0 - 1 + i, 0), rows - 1)
                    across, along = 0.0, 0.0
                    for j in range(4):
                        coefficient = reference[b, k, min(max(c + j0 - 1 + j, 0), cols - 1)]
                        across += wx[j] * coefficient
                        along += dx[j] * coefficient
                    value += wy[i] * across
                    slope_y += dy[i] * across
                    slope_x += wy[i] * along
                out[0, b, r, c], out[1, b, r, c], out[2, b, r, c] = value, slope_y, slope_x


@njit(nogil=True, cache=True)
def _residuals(image, weight, moved, gains, level, out):  # type: ignore[no-untyped-def]
    """Residuals of the usable pixels of each band: out (band, n) filled to the returned number."""
    bands, rows, cols = image.shape
    n = 0
    for r in range(rows):
        for c in range(cols):
            if weight[r, c]:
                for b in range(bands):
                    out[b, n] = image[b, r, c] - gains[b] * moved[0, b, r, c] - level[b]
                n += 1
    return n


@njit(nogil=True, cache=True)
def _equations(image, weight, moved, gains, level, scale, blocks, matrix, right):  # type: ignore[no-untyped-def]
    """Weighted normal equations of each block for (down, right, gain and level of each band)."""
    bands, rows, cols = image.shape
    row = np.zeros(2 + 2 * bands)
    for r in range(rows):
        for c in range(cols):
            if not weight[r, c]:
                continue
            k = blocks[r, c]
            for b in range(bands):
                residual = image[b, r, c] - gains[b] * moved[0, b, r, c] - level[b]
                u = residual / (4.685 * scale[b])
                if abs(u) >= 1.0:
                    continue
                w = (1.0 - u * u) ** 2 / (scale[b] * scale[b])
                columns = (0, 1, 2 + 2 * b, 3 + 2 * b)
                entries = (gains[b] * moved[1, b, r, c], gains[b] * moved[2, b, r, c], moved[0, b, r, c], 1.0)
                for i in range(4):
                    row[columns[i]] = entries[i]
                    right[k, columns[i]] += w * entries[i] * residual
                    for j in range(4):
                        matrix[k, columns[i], columns[j]] += w * entries[i] * entries[j]


def _refined(
    image: NDArray[np.float64],
    weight: NDArray[np.bool_],
    reference: NDArray[np.float64],
    blocks: NDArray[np.int64],
    count: int,
    start: tuple[int, int],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(displacement of the content (down, right), its standard errors), px; None where it cannot be found."""
    bands = len(image)
    place = np.array(start, np.float64)
    gains, level = np.ones(bands), np.zeros(bands)
    moved = np.empty((3, *image.shape))
    held = np.empty((bands, int(weight.sum())))
    size = 2 + 2 * bands
    for step in range(_STEPS):
        _moved(reference, place[0], place[1], moved)
        if step == 0:
            gains = _first_gains(image, weight, moved)
        _residuals(image, weight, moved, gains, level, held)
        scale = 1.4826 * np.median(np.abs(held), axis=1)
        if not (scale > 0).all():
            scale = np.maximum(scale, 1e-9)
        matrix, right = np.zeros((count, size, size)), np.zeros((count, size))
        _equations(image, weight, moved, gains, level, scale, blocks, matrix, right)
        change = _solved(matrix.sum(axis=0), right.sum(axis=0))
        if change is None:
            return None
        # A long step leaves the place where the slopes hold.
        place += np.clip(change[:2], -0.7, 0.7)
        gains, level = gains + change[2::2], level + change[3::2]
        if np.abs(place - start).max() > 1.5 or not (gains > 0).any():
            return None
        if np.abs(change[:2]).max() < _CLOSE:
            break
    else:
        return None
    return -place, _jackknife(matrix, right)


def _first_gains(image: NDArray[np.float64], weight: NDArray[np.bool_], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    mine, other = image[:, weight], moved[0][:, weight]
    return np.asarray((mine * other).sum(axis=1) / np.maximum((other * other).sum(axis=1), 1e-12))


def _solved(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Solution with the columns brought to one size first; None where it is not determined."""
    size = np.sqrt(np.diag(matrix))
    if not (size > 0).all():
        return None
    scaled = matrix / np.outer(size, size)
    if np.linalg.cond(scaled) > 1e10:
        return None
    return np.asarray(np.linalg.solve(scaled, right / size) / size)


def _jackknife(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard errors of the two shifts from leaving out one block after another."""
    used = np.flatnonzero(matrix[:, 0, 0] > 0)
    whole, side = matrix.sum(axis=0), right.sum(axis=0)
    without = [_solved(whole - matrix[k], side - right[k]) for k in used]
    if len(used) < 4 or any(part is None for part in without):
        return np.full(2, np.inf)
    parts: Sequence[Any] = without
    shifts = np.stack([part[:2] for part in parts])
    n = len(used)
    return np.asarray(np.sqrt((n - 1) / n * ((shifts - shifts.mean(axis=0)) ** 2).sum(axis=0)))
