"""Medians that leave NaN out, over the last axis or over chosen parts of it: compiled for many short ones.

Pure functions of arrays. Agrees with `numpy.nanmedian`, and is NaN where there is no number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SHORT = 24
"""Up to so many values sorting by insertion is faster than partitioning."""


@njit(cache=True, nogil=True)
def _smallest(held: NDArray[np.float64], count: int, rank: int) -> float:
    """The number that `rank` of the first `count` are before in order; none after its place is smaller then (Hoare 1961)."""
    low, high = 0, count - 1
    while low < high:
        pivot = held[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while held[i] < pivot:
                i += 1
            while held[j] > pivot:
                j -= 1
            if i <= j:
                held[i], held[j] = held[j], held[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return held[rank]


@njit(cache=True, nogil=True)
def _middle(held: NDArray[np.float64], count: int) -> float:
    """Median of the first `count` numbers, whose order changes."""
    if count == 0:
        return np.nan
    half = (count - 1) // 2
    if count > _SHORT:
        lower = _smallest(held, count, half)
        upper = lower if count % 2 else held[half + 1 : count].min()
        return 0.5 * (lower + upper)
    for end in range(1, count):
        value, place = held[end], end
        while place > 0 and held[place - 1] > value:
            held[place] = held[place - 1]
            place -= 1
        held[place] = value
    return 0.5 * (held[half] + held[count // 2])


@njit(cache=True, nogil=True)
def _rows(values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    held = np.empty(values.shape[1], np.float64)
    for row in range(values.shape[0]):
        count = 0
        for column in range(values.shape[1]):
            value = values[row, column]
            if value == value:
                held[count] = value
                count += 1
        out[row] = _middle(held, count)


@njit(cache=True, nogil=True)
def _chosen(values: NDArray[np.float64], chosen: NDArray[np.int64], allowed: NDArray[np.bool_], out: NDArray[np.float64]) -> None:
    held = np.empty(chosen.shape[1], np.float64)
    for row in range(values.shape[0]):
        for target in range(chosen.shape[0]):
            count = 0
            for k in range(chosen.shape[1]):
                value = values[row, chosen[target, k]]
                if allowed[target, k] and value == value:
                    held[count] = value
                    count += 1
            out[row, target] = _middle(held, count)


@njit(cache=True, nogil=True)
def _parts(values: NDArray[np.float64], member: NDArray[np.bool_], out: NDArray[np.float64]) -> None:
    held = np.empty(values.shape[0], np.float64)
    place = np.empty(values.shape[0], np.int64)
    for part in range(member.shape[0]):
        members = 0
        for i in range(values.shape[0]):
            if member[part, i]:
                place[members] = i
                members += 1
        for column in range(values.shape[1]):
            count = 0
            for k in range(members):
                value = values[place[k], column]
                if value == value:
                    held[count] = value
                    count += 1
            out[part, column] = _middle(held, count)


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


def median_of(
    values: NDArray[np.float64], chosen: NDArray[np.intp], allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """(..., target) median of `values[..., chosen]` over the last axis of `chosen` (target, n), of those that are `allowed`."""
    out = np.empty((*values.shape[:-1], len(chosen)))
    allowed = np.ones(chosen.shape, bool) if allowed is None else allowed
    rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
    _chosen(rows, chosen.astype(np.int64), allowed, out.reshape(len(rows), len(chosen)))
    return out


def median_of_parts(values: NDArray[np.float64], member: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(part, ...) median over the first axis of `values` (n, ...) of the members (part, n) of each part."""
    out = np.empty((len(member), *values.shape[1:]))
    if out.size:
        _parts(np.ascontiguousarray(values).reshape(len(values), -1), member, out.reshape(len(member), -1))
    return out


def plain_median(values: NDArray[np.float64]) -> float:
    """Median of a few finite numbers, at least one."""
    ranked = np.sort(values)
    return float(0.5 * (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]))
