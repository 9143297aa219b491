"""From the stored numbers of one asset to values and states on a window of the stack's grid.

`settle_*` turn stored numbers into cube values and `Observed` codes, cell by cell; `Plan` says which cells of an asset a
window needs and how they become cells of the grid (copied, nearest, bilinear, average by area). Every cell of the result
depends on its own place alone, so that windows and threads change nothing. A result is CLEAR only where all cells that
it is made of are; else it has the worst of their states. Rounding: none. No file is read here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoevidence.crs import transformer
from geoevidence.raster import Grid
from satellite.stack import cell_offset, same_crs
from satellite.types import Observed, Resample

_CLOUD, _ABSENT = int(Observed.CLOUD), int(Observed.NOT_OBSERVED)
NEVER = -(2**31)
"""A stored value that no file holds: there is no such code."""


@njit(nogil=True, cache=True)
def settle_whole(raw, out, state, shift, nodata, saturated):  # type: ignore[no-untyped-def]
    """Whole numbers (y, x) of at most 16 bits -> int16 `out` = stored + shift; `state` rises to NOT_OBSERVED (nodata) or
    CLOUD (saturated, or too bright for int16)."""
    rows, cols = raw.shape
    shift, nodata, saturated = np.int32(shift), np.int32(nodata), np.int32(saturated)
    top, bottom = np.int32(32767), np.int32(-32768)
    # Without branches and in 32 bits the compiler does many cells at once.
    for r in range(rows):
        for c in range(cols):
            stored = np.int32(raw[r, c])
            value = np.int32(stored + shift)
            hot = (stored == saturated) | (value > top) | (value < bottom)
            found = np.uint8(_ABSENT) if stored == nodata else np.uint8(hot)
            out[r, c] = np.int16(0) if found != 0 else np.int16(value)
            state[r, c] = found if found > state[r, c] else state[r, c]


@njit(nogil=True, cache=True)
def settle_real(raw, out, state, scale, offset, nodata, saturated):  # type: ignore[no-untyped-def]
    """Numbers (y, x) -> float32 `out` = stored * scale + offset; not finite counts as nodata. NaN codes: there is none."""
    rows, cols = raw.shape
    for r in range(rows):
        for c in range(cols):
            stored = np.float64(raw[r, c])
            found = 0
            if not np.isfinite(stored) or stored == nodata:
                found = _ABSENT
            elif stored == saturated:
                found = _CLOUD
            if found:
                out[r, c] = 0
                state[r, c] = max(state[r, c], found)
            else:
                out[r, c] = np.float32(stored * scale + offset)


@njit(nogil=True, cache=True)
def settle_codes(raw, table, state):  # type: ignore[no-untyped-def]
    """Quality codes (y, x) of at most 16 bits -> `state` rises to what `table` (65536,) says of each code."""
    rows, cols = raw.shape
    for r in range(rows):
        for c in range(cols):
            found = table[np.int64(raw[r, c]) & 0xFFFF]
            if found > state[r, c]:
                state[r, c] = found


@njit(nogil=True, cache=True)
def raise_state(state, other):  # type: ignore[no-untyped-def]
    """`state` (y, x) rises to `other`."""
    rows, cols = state.shape
    for r in range(rows):
        for c in range(cols):
            if other[r, c] > state[r, c]:
                state[r, c] = other[r, c]


@njit(nogil=True, cache=True)
def merge_scene(values, state, more, other):  # type: ignore[no-untyped-def]
    """One more scene of a day (band, y, x) where it knows better: clear, then cloud, failed read, not observed."""
    bands, rows, cols = values.shape
    rank = np.array([0, 1, 3, 2, 4], np.uint8)
    for r in range(rows):
        for c in range(cols):
            if rank[other[r, c]] < rank[state[r, c]]:
                state[r, c] = other[r, c]
                for b in range(bands):
                    values[b, r, c] = more[b, r, c]


@njit(nogil=True, cache=True)
def _nearest(values, state, i0, j0, rows, cols, y, x, out, found):  # type: ignore[no-untyped-def]
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            i, j = int(np.floor(y[r, c])), int(np.floor(x[r, c]))
            if 0 <= i < rows and 0 <= j < cols:
                out[r, c] = values[i - i0, j - j0]
                found[r, c] = state[i - i0, j - j0]
            else:
                out[r, c] = 0
                found[r, c] = _ABSENT


@njit(nogil=True, cache=True)
def _bilinear(values, state, i0, j0, rows, cols, y, x, out, found):  # type: ignore[no-untyped-def]
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = 0
            if not (0 <= y[r, c] <= rows and 0 <= x[r, c] <= cols):
                found[r, c] = _ABSENT
                continue
            v, h = y[r, c] - 0.5, x[r, c] - 0.5
            i, j = int(np.floor(v)), int(np.floor(h))
            down, right = v - i, h - j
            total, worst = 0.0, 0
            for di in range(2):
                for dj in range(2):
                    weight = (down if di else 1 - down) * (right if dj else 1 - right)
                    if weight > 1e-9:
                        a, b = min(max(i + di, 0), rows - 1) - i0, min(max(j + dj, 0), cols - 1) - j0
                        total += weight * values[a, b]
                        worst = max(worst, state[a, b])
            found[r, c] = worst
            if worst == 0:
                out[r, c] = total


@njit(nogil=True, cache=True)
def _average(values, state, i0, j0, rows, cols, y, x, out, found):  # type: ignore[no-untyped-def]
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            total, weights, worst = 0.0, 0.0, 0
            out[r, c] = 0
            top, bottom, left, right = y[r], y[r + 1], x[c], x[c + 1]
            if top < 0 or left < 0 or bottom > rows or right > cols:
                found[r, c] = _ABSENT
                continue
            for i in range(int(np.floor(top)), int(np.ceil(bottom))):
                high = min(bottom, i + 1.0) - max(top, float(i))
                for j in range(int(np.floor(left)), int(np.ceil(right))):
                    weight = high * (min(right, j + 1.0) - max(left, float(j)))
                    total += weight * values[i - i0, j - j0]
                    weights += weight
                    worst = max(worst, state[i - i0, j - j0])
            found[r, c] = worst
            if worst == 0:
                out[r, c] = total / weights


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a window needs of an asset.

    row, col, height, width: cells of the asset to read (height 0 = none). method: how they are used. shape: of the asset.
    at: (row, col) in the window where copied cells go.
    y, x: where the window's cells lie in cells of the asset: (y, x) centres; for `average` the (y + 1,) and (x + 1,) edges.
    """

    row: int
    col: int
    height: int
    width: int
    method: Resample
    shape: tuple[int, int] = (0, 0)
    at: tuple[int, int] = (0, 0)
    y: NDArray[np.float64] | None = None
    x: NDArray[np.float64] | None = None

    def apply(
        self, values: NDArray[np.generic], state: NDArray[np.uint8], out: NDArray[np.generic], found: NDArray[np.uint8]
    ) -> None:
        """Fill `out` and `found` (the window) from settled values and states of the part that was read."""
        kernel = {"average": _average, "bilinear": _bilinear, "nearest": _nearest}[self.method]
        kernel(values, state, self.row, self.col, *self.shape, self.y, self.x, out, found)


_NOTHING = Plan(0, 0, 0, 0, "none")


def plan(grid: Grid, window: tuple[int, int, int, int], source: Grid, method: Resample) -> Plan:
    """How cells of `source` fill a window (row, col, height, width) of `grid`."""
    row, col, height, width = window
    if method == "none":
        offset = cell_offset(grid, source)
        if offset is None:
            raise ValueError("cells that are not the same cannot be copied")
        top, left = max(offset[0], row), max(offset[1], col)
        bottom, right = min(offset[0] + source.shape[0], row + height), min(offset[1] + source.shape[1], col + width)
        if bottom <= top or right <= left:
            return _NOTHING
        return Plan(top - offset[0], left - offset[1], bottom - top, right - left, "none", source.shape, (top - row, left - col))
    if method == "average":
        back = ~source.transform @ grid.transform
        y, x = back.e * np.arange(row, row + height + 1) + back.f, back.a * np.arange(col, col + width + 1) + back.c
        # A billionth of a cell is rounding.
        y, x = np.round(y, 9), np.round(x, 9)
        inside_y, inside_x, margin = y, x, 0
    else:
        y, x = _places(grid, window, source)
        inside = (y >= 0) & (y <= source.shape[0]) & (x >= 0) & (x <= source.shape[1])
        inside_y, inside_x, margin = y[inside], x[inside], 1 if method == "bilinear" else 0
    if not inside_y.size:
        return _NOTHING
    top, bottom = _span(inside_y, margin, source.shape[0])
    left, right = _span(inside_x, margin, source.shape[1])
    if bottom <= top or right <= left:
        return _NOTHING
    return Plan(top, left, bottom - top, right - left, method, source.shape, y=y, x=x)


def _span(places: NDArray[np.float64], margin: int, size: int) -> tuple[int, int]:
    """First and one past the last of the cells of 0..size that `places` lie in, with `margin` more on both sides."""
    return max(0, int(np.floor(places.min())) - margin), min(size, int(np.floor(places.max())) + 1 + margin)


def _places(grid: Grid, window: tuple[int, int, int, int], source: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(y, x) of the cell centres of a window of `grid` in cells of `source`, each transformed by itself; -1 = nowhere."""
    row, col, height, width = window
    r, c = np.meshgrid(np.arange(row, row + height) + 0.5, np.arange(col, col + width) + 0.5, indexing="ij")
    t = grid.transform
    east, north = t.a * c + t.b * r + t.c, t.d * c + t.e * r + t.f
    if not same_crs(grid.crs, source.crs):
        east, north = transformer(grid.crs, source.crs).transform(east, north)
    back = ~source.transform
    # A billionth of a cell is rounding: a centre on an edge belongs to the cell below and right of it.
    y = np.round(back.d * east + back.e * north + back.f, 9)
    x = np.round(back.a * east + back.b * north + back.c, 9)
    return np.where(np.isfinite(y), y, -1.0), np.where(np.isfinite(x), x, -1.0)
