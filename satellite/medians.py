"""Medians over the last axis that leave NaN out: what numpy does for one array at a time, compiled for many short ones.

Pure functions of arrays. Agrees with `numpy.nanmedian`, and is NaN where there is no number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SHORT = 24
"""Up to so many values insertion is faster than numpy's sort."""


@njit(cache=True, nogil=True)
def _rows(values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    held = np.empty(values.shape[1], np.float64)
    for row in range(values.shape[0]):
        count = 0
        for column in range(values.shape[1]):
            value = values[row, column]
            if value != value:
                continue
            place = count
            if values.shape[1] <= _SHORT:
                while place > 0 and held[place - 1] > value:
                    held[place] = held[place - 1]
                    place -= 1
            held[place] = value
            count += 1
        if count == 0:
            out[row] = np.nan
            continue
        if values.shape[1] > _SHORT:
            held[:count].sort()
        out[row] = 0.5 * (held[(count - 1) // 2] + held[count // 2])


def median_last(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Median over the last axis; NaN where nothing is finite."""
    out = np.full(values.shape[:-1], np.nan)
    if values.size:
        flat = out.reshape(-1)
        _rows(np.ascontiguousarray(values, np.float64).reshape(len(flat), -1), flat)
        out = flat.reshape(out.shape)
    return out


def median_first(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Median over the first axis; NaN where nothing is finite."""
    return median_last(np.moveaxis(values, 0, -1))
