"""Judges dated changes against known truth, the same way for every detector.

In: detected dates (k, y, x) and the truth of every pixel. Out: counts that add up over tiles, and rates made of them.
A detection hits a true break when it lies from `EARLY` days before to `LATE` days after it; each true break is hit once, by
the nearest such detection. What is left over is a false alarm, in stable and in changed pixels alike. Pixels of gradual
change, and those of which less than `smallest_share` changed, count neither way; they have counts of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

NODATE = -2147483648
EARLY, LATE = 30, 180
"""Days before and after a true break within which a detection is a hit."""
SHARE_BINS = (0.05, 0.10, 0.15, 0.25, 0.50, 0.75, 1.00)
_EDGES = np.array([0.0, 0.075, 0.125, 0.20, 0.375, 0.625, 0.875, 1.01])

Dates = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """The truth of a tile, whatever simulator or map it comes from.

    breaks: (n, y, x) int32 days, NODATE = none. abrupt, gradual, stable: (y, x), no two at once; a pixel that is none of
    them is left out. share: (y, x) of the pixel that changed. seasonal_flat, double_crop: (y, x) stable pixels of the two
    kinds that detectors confuse. start, end: (y, x) of gradual changes. years: of the period.
    """

    breaks: Dates
    abrupt: Mask
    gradual: Mask
    stable: Mask
    share: NDArray[np.floating]
    seasonal_flat: Mask
    double_crop: Mask
    start: Dates
    end: Dates
    years: float


@dataclass(slots=True, kw_only=True, eq=False)
class Score:
    """Counts of one or more tiles; `+` adds them."""

    hits: int = 0
    missed: int = 0
    false_stable: int = 0
    """Breaks of stable pixels."""
    false_changed: int = 0
    """Breaks of abruptly changed pixels beyond the one hit per true break."""
    stable_pixels: int = 0
    stable_years: float = 0.0
    stable_flagged: int = 0
    flats: int = 0
    flats_flagged: int = 0
    double_crops: int = 0
    double_crops_flagged: int = 0
    gradual: int = 0
    gradual_as_gradual: int = 0
    gradual_as_abrupt: int = 0
    abrupt_as_gradual: int = 0
    share_hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SHARE_BINS), np.int64))
    share_breaks: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SHARE_BINS), np.int64))
    errors: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Detected minus true date of every hit, days."""

    def __add__(self, other: Score) -> Score:
        total = Score()
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            setattr(total, each.name, np.concatenate([mine, theirs]) if each.name == "errors" else mine + theirs)
        return total

    @property
    def precision(self) -> float:
        """Of all breaks reported in abrupt and stable pixels."""
        return _ratio(self.hits, self.hits + self.false_stable + self.false_changed)

    @property
    def recall(self) -> float:
        """Of the true abrupt breaks."""
        return _ratio(self.hits, self.hits + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return _ratio(2 * self.hits, 2 * self.hits + self.missed + self.false_stable + self.false_changed)

    @property
    def false_rate(self) -> float:
        """False breaks a stable pixel and year."""
        return _ratio(self.false_stable, self.stable_years)

    @property
    def median_error(self) -> float:
        """Median absolute date error of the hits, days."""
        return float(np.median(np.abs(self.errors))) if self.errors.size else float("nan")

    @property
    def p90_error(self) -> float:
        """90 % quantile of the absolute date error of the hits, days."""
        return float(np.quantile(np.abs(self.errors), 0.9)) if self.errors.size else float("nan")

    @property
    def flats_share(self) -> float:
        """Share of stable seasonal flats with any break."""
        return _ratio(self.flats_flagged, self.flats)

    @property
    def double_crop_share(self) -> float:
        """Share of stable double crops with any break."""
        return _ratio(self.double_crops_flagged, self.double_crops)

    def recall_by_share(self) -> list[float]:
        """Recall for changes of about `SHARE_BINS` of a pixel."""
        return [_ratio(hit, total) for hit, total in zip(self.share_hits, self.share_breaks, strict=True)]


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def score(break_date: ArrayLike, truth: Reference, *, is_gradual: ArrayLike | None = None, smallest_share: float = 0.15) -> Score:
    """Counts of one tile.

    Args:
        break_date: (k, y, x) int32 days since 1970-01-01, NODATE where none; any order.
        is_gradual: (k, y, x), which breaks the detector calls gradual; None = it makes no difference.
        smallest_share: abrupt changes of a smaller share of the pixel count only in `recall_by_share`.
    """
    found = np.asarray(break_date)
    if found.ndim != 3 or found.dtype != np.int32 or found.shape[1:] != truth.stable.shape:
        raise ValueError(f"dates must be int32 (k, {truth.stable.shape}), not {found.dtype} {found.shape}")
    overlap = truth.abrupt.astype(int) + truth.gradual + truth.stable
    if int(overlap.max(initial=0)) > 1:
        raise ValueError("a pixel is abrupt, gradual or stable, not two of them")
    slow = np.zeros(found.shape, bool) if is_gradual is None else np.asarray(is_gradual, bool)
    dated = found != NODATE
    days = found.astype(np.int64)
    flagged = dated.any(axis=0)
    big = truth.abrupt & (truth.share >= smallest_share - 1e-6)

    result = Score()
    used = np.zeros(found.shape, bool)
    errors = []
    for true in np.sort(np.where(truth.breaks == NODATE, np.iinfo(np.int32).max, truth.breaks), axis=0):
        real = (true != np.iinfo(np.int32).max) & truth.abrupt
        apart = days - true.astype(np.int64)
        fits = dated & ~used & (apart >= -EARLY) & (apart <= LATE) & real
        nearest = np.where(fits, np.abs(apart), 10**6).argmin(axis=0)[None]
        hit = np.take_along_axis(fits, nearest, axis=0)[0]
        np.put_along_axis(used, nearest, np.take_along_axis(used, nearest, axis=0) | hit, axis=0)
        counted = hit & big
        result.hits += int(counted.sum())
        result.missed += int((real & big & ~hit).sum())
        errors.append(np.take_along_axis(apart, nearest, axis=0)[0][counted])
        result.abrupt_as_gradual += int((np.take_along_axis(slow, nearest, axis=0)[0] & counted).sum())
        bins = np.digitize(truth.share, _EDGES) - 1
        for k in range(len(SHARE_BINS)):
            result.share_breaks[k] += int((real & (bins == k)).sum())
            result.share_hits[k] += int((hit & (bins == k)).sum())
    result.errors = np.concatenate(errors) if errors else result.errors
    result.false_changed = int((dated & ~used & big).sum())
    result.false_stable = int((dated & truth.stable).sum())
    result.stable_pixels = int(truth.stable.sum())
    result.stable_years = result.stable_pixels * truth.years
    result.stable_flagged = int((flagged & truth.stable).sum())
    for name, where in (("flats", truth.seasonal_flat), ("double_crops", truth.double_crop)):
        setattr(result, name, int((where & truth.stable).sum()))
        setattr(result, f"{name}_flagged", int((where & truth.stable & flagged).sum()))
    within = dated & truth.gradual & (days >= truth.start.astype(np.int64) - EARLY) & (days <= truth.end.astype(np.int64) + LATE)
    result.gradual = int(truth.gradual.sum())
    result.gradual_as_gradual = int((within & slow).any(axis=0).sum())
    result.gradual_as_abrupt = int((within.any(axis=0) & ~(within & slow).any(axis=0)).sum())
    return result


def total(scores: Sequence[Score]) -> Score:
    """All tiles as one."""
    return sum(scores, Score())
