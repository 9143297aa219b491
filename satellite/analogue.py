"""How an event departed from unchanged ground that was like it before: what season, weather and water level do cancels.

In: the observations around an event and the ends of its interval. Out: the `Departure` (difference from its analogue by
date), the contrast of the change against the scatter of months, and the interval told by the dates at which the event
departed. The analogue is made of the pixels nearby whose old series lies nearest to the event's; it knows no classes.
Comparison with unaffected sites alike before: Stewart-Oaten et al. 1986, doi:10.2307/1939815 (before-after-control-impact).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt

from satellite.medians import median_last
from satellite.types import Cube

_BOX = np.ones((3, 3), bool)
_BLOCK_DAYS = 30
"""Means of so many days count as one look: errors of one month go together."""
_APART = 2
"""Pixels this near to any event are not taken for unchanged ground."""
_NEAR = 700
"""So many pixels of unchanged ground nearest to the event are looked at: about 13 pixels around a small one."""
_ALIKE = 24
"""So many of these make the analogue."""
_FLOOR = 0.03
"""Smallest scatter of single dates of a band, as a share of the change of the strongest band (1)."""
_OLD_DATES = 6
"""Fewer old dates tell no scatter."""
_YEARS = 3 * 365
"""Time on either side that is compared, d."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Departure:
    """Event minus analogue.

    days: (t,) int64 clear dates of the old state, of the interval and of the new state. difference: (t, band), reflectance or
    index. before, after: the interval that was given. middles: (2, band) medians of the months of the old and the new
    state. scale: (band,) robust standard deviation of the months about them. contrast: root mean square over bands of the
    change in these standard deviations (1).
    """

    days: NDArray[np.int64]
    difference: NDArray[np.float64]
    before: int
    after: int
    middles: NDArray[np.float64]
    scale: NDArray[np.float64]
    contrast: float


def departure_of(
    cube: Cube,
    inside: NDArray[np.bool_],
    other: NDArray[np.bool_],
    *,
    before: int,
    after: int,
    since: int | None,
    until: int | None,
) -> Departure | None:
    """The departure of an event.

    Args:
        cube: covers the event and its surroundings. inside: (y, x) the event. other: (y, x) pixels of other events.
        before, after: last day of the old and first of the new state; since, until: their outer ends, None = open.

    Returns:
        None where there is too little unchanged ground, or fewer than two months on a side.
    """
    rows, cols = np.nonzero(~binary_dilation(inside | other, _BOX, iterations=_APART))
    nearest = np.argsort(distance_transform_edt(~inside)[rows, cols], kind="stable")[:_NEAR]
    rows, cols = rows[nearest], cols[nearest]
    days = cube.days.astype(np.int64)
    start = before - _YEARS if since is None else max(since, before - _YEARS)
    end = after + _YEARS if until is None else min(until, after + _YEARS)
    own_rows, own_cols = np.nonzero(inside)
    clear = cube.clear_at(own_rows, own_cols).mean(axis=1) >= 0.5
    dates = np.flatnonzero(clear & (days >= start) & (days <= end))
    old = days[dates] <= before
    if len(rows) < _ALIKE or old.sum() < 2:
        return None
    event = median_last(cube.at(own_rows, own_cols, dates))
    apart = ((cube.at(rows, cols, dates[old]) - event[old, :, None]) ** 2).sum(axis=1)
    seen = np.isfinite(apart)
    unlike = np.where(seen, apart, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    unlike[seen.sum(axis=0) < 0.5 * old.sum()] = np.inf
    alike = np.argsort(unlike, kind="stable")[:_ALIKE]
    if not np.isfinite(unlike[alike]).all():
        return None
    difference = event - median_last(cube.at(rows[alike], cols[alike], dates))
    known = np.isfinite(difference).all(axis=1)
    difference, shown = difference[known], days[dates][known]
    sides = [_monthly(difference[side], shown[side]) for side in (shown <= before, shown >= after)]
    if min(len(side) for side in sides) < 2:
        return None
    middles = np.stack([np.median(side, axis=0) for side in sides])
    spread = np.concatenate([np.abs(side - middle) for side, middle in zip(sides, middles, strict=True)])
    change = middles[1] - middles[0]
    # a tenth of the change of the strongest band: a band that happens to be quiet must not decide alone
    scale = np.maximum(np.maximum(1.4826 * np.median(spread, axis=0), 0.1 * np.abs(change).max()), 1e-6)
    contrast = float(np.sqrt(np.mean((change / scale) ** 2)))
    return Departure(
        days=shown, difference=difference, before=before, after=after, middles=middles, scale=scale, contrast=contrast
    )


def _monthly(values: NDArray[np.float64], days: NDArray[np.int64]) -> NDArray[np.float64]:
    """(block, band) means over blocks of `_BLOCK_DAYS`."""
    blocks = days // _BLOCK_DAYS
    return np.array([values[blocks == block].mean(axis=0) for block in np.unique(blocks)]).reshape(-1, values.shape[1])


def distance_from_old(departure: Departure, until: int) -> NDArray[np.float64]:
    """(t,) distance of each date from the old state, root mean square over bands, in robust standard deviations of old dates.

    Any direction counts: ground is often bare for weeks before it becomes what it stays. until: last day of the dates that
    tell the scatter.
    """
    old = departure.difference[departure.days <= until]
    middle = np.median(old, axis=0)
    # a band that happens to be quiet must not decide alone
    floor = _FLOOR * np.abs(departure.middles[1] - departure.middles[0]).max()
    spread = np.maximum(1.4826 * np.median(np.abs(old - middle), axis=0), max(floor, 1e-6))
    distances: NDArray[np.float64] = np.sqrt(np.mean(((departure.difference - middle) / spread) ** 2, axis=1))
    return distances


def checked_interval(
    departure: Departure, *, margin_days: int, usual: float, clear: float, part: float
) -> tuple[int, int] | None:
    """The interval by the dates on which the event had not and had departed from its analogue.

    A date is old when its distance from the old state is at most the `usual` quantile of old dates, and new when it is at least
    `clear` times that and `part` of the median distance of the new state (a hazy date is not new). Of all cuts between two dates from `margin_days` before to as many after the given interval the one
    with the fewest new dates before and old dates after it is taken, the latest of equals; the interval runs from the last
    old date before it to the first new one after it. Dates that are neither widen it.

    Returns:
        None where the old dates are too few, the new state as a whole does not lie `clear` times beyond the old, or one side
        has no such date: the interval then stays as it was given.
    """
    days = departure.days
    quiet = departure.before - margin_days
    if (days <= quiet).sum() < _OLD_DATES:
        return None
    distance = distance_from_old(departure, quiet)
    limit = float(np.quantile(distance[days <= quiet], usual))
    far = float(np.median(distance[days >= departure.after]))
    if far < clear * limit:
        return None
    near = np.flatnonzero((days >= quiet) & (days <= departure.after + margin_days))
    old, new = distance[near] <= limit, distance[near] >= max(clear * limit, part * far)
    wrong = np.concatenate([[0], np.cumsum(new)]) + np.concatenate([np.cumsum(old[::-1])[::-1], [0]])
    cut = len(near) - int(np.argmin(wrong[::-1]))
    first, last = np.flatnonzero(old[:cut]), np.flatnonzero(new[cut:])
    if not len(first) or not len(last):
        return None
    return int(days[near[first[-1]]]), int(days[near[cut + last[0]]])
