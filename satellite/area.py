"""How much of each pixel changed, and so the area of an event.

Counting whole pixels overstates: a mixed pixel at the edge is found from a small changed share on. Here the interior
counts whole, and every pixel along the edge, inside and just outside, by the share that its values moved from its own
old state towards the interior's new one. What unchanged ground nearby did in the meantime is taken off first.
Linear mixing: Adams et al. 1986, doi:10.1029/JB091iB08p08098. Equations and calibration: docs/methods/satellite_area.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial import cKDTree

from satellite.medians import median_first, median_last, median_of, median_of_parts
from satellite.types import Cube

_YEAR = 365.2425
_BOX = np.ones((3, 3), bool)
_TRIED = 80
"""About so many unchanged pixels tell the error of a share."""
_LOOKS = 20
"""About so many dates tell whether two pixels look alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaConfig:
    """How shares of pixels are found.

    ring_pixels: how far outside the polygon parts of the change are looked for, px: always beside it, and on from there
        beside pixels that changed by more than `growing_share`.
    growing_share: share above which a pixel outside is followed further (1).
    before_days, after_days: time on either side of the interval that is compared, d.
    season_days: an old date stands for a new one when their days of the year are at most this far apart, d.
    reach_pixels: unchanged pixels up to this far from a pixel tell what the weather and the season did there, px.
    similar: so many of them, those whose old state is most like the pixel's own.
    interior: so many interior pixels nearest to a pixel make the new state it is compared with.
    texture: relative standard deviation of the brightness of the new state from pixel to pixel (1); not used for one index.
    correlated_pixels: pixels along the edge that err together (1).
    mixing_error: standard deviation of the departure from linear mixing, as a multiple of f (1 - f), common to all pixels (1).
    index_mixing_error: the same where the cube holds one index, which does not mix linearly (1).
    largest_share_error: standard deviation of a share beyond which the pixel says nothing (1).
    unlike_ground: standard deviation of the share that ground of another kind beside the event, blur and shifted scenes add, common
        to all outermost pixels of the event (1; wide simulation, docs/methods/satellite_area.md).
    few_interior: relative standard uncertainty where fewer than `interior` interior pixels show the new state: of these some are
        mixed themselves, which makes areas large rather than small (1; wide simulation).
    unseen_interior: relative standard uncertainty where no interior pixel shows the new state unmixed (1).
    """

    ring_pixels: int = 3
    growing_share: float = 0.5
    before_days: int = 731
    after_days: int = 366
    season_days: int = 20
    reach_pixels: int = 9
    similar: int = 12
    interior: int = 9
    texture: float = 0.15
    correlated_pixels: float = 6.0
    mixing_error: float = 0.03
    index_mixing_error: float = 0.6
    largest_share_error: float = 0.35
    unlike_ground: float = 0.07
    few_interior: float = 0.12
    unseen_interior: float = 0.15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shares:
    """Sum over pixels of the changed share (pixels), its standard uncertainty, the dates compared, whether an interior was seen."""

    total: float
    standard_uncertainty: float
    dates: int
    interior: bool


def changed_shares(
    cube: Cube,
    inside: NDArray[np.bool_],
    other: NDArray[np.bool_],
    *,
    before: int,
    after: int,
    config: AreaConfig,
    since: int | None = None,
) -> Shares | None:
    """Shares of an event's pixels and of those around it.

    Args:
        cube: covers the event and its surroundings. inside: (y, x) the event. other: (y, x) pixels with other changes, left out.
        before, after: last day of the old and first of the new state, days since 1970-01-01. since: first day of the old state.

    Returns:
        None where dates or unchanged surroundings are missing, so that pixels can only be counted.
    """
    core = binary_erosion(inside, _BOX, iterations=2)
    if core.sum() < config.interior:
        core = binary_erosion(inside, _BOX)
    near = binary_dilation(inside, _BOX, iterations=config.ring_pixels)
    ring = near & ~inside & ~other
    quiet = binary_dilation(inside, _BOX, iterations=config.ring_pixels + 1 + config.reach_pixels)
    quiet &= ~binary_dilation(inside | other, _BOX, iterations=config.ring_pixels + 1)
    border = binary_dilation(inside & ~core, _BOX, iterations=config.reach_pixels)
    used = (inside & border) | ring | quiet
    rows, cols = np.nonzero(used)
    place = np.column_stack([rows, cols])
    is_core, is_edge, is_ring, is_quiet = core[used], (inside & ~core)[used], ring[used], quiet[used]
    if is_quiet.sum() < 2 * config.similar:
        return None
    start = before - config.before_days if since is None else max(since, before - config.before_days)
    old, new = _states(cube, rows, cols, (start, before), after, config)
    if len(new) < 3:
        return None
    drift = new - old
    seen = bool(is_core.any())
    if not seen:
        # A new state whose interior is nowhere to be seen: the most changed pixels stand for it.
        moved = np.nan_to_num(median_first((drift**2).sum(axis=1)))
        order = np.flatnonzero(is_edge)[np.argsort(-moved[is_edge], kind="stable")]
        is_core = np.zeros(len(rows), bool)
        is_core[order[: max(3, len(order) // 4)]] = True
    quiet_places = np.flatnonzero(is_quiet)
    # Some of the unchanged pixels are enough to tell how they scatter.
    tried = np.zeros(len(rows), bool)
    tried[quiet_places[:: max(1, len(quiet_places) // _TRIED)]] = True
    targets = np.flatnonzero(is_edge | is_ring | tried | is_core)
    common = _common(old, drift, place, quiet_places, targets, config)
    fresh = _fresh(new, place, np.flatnonzero(is_core), targets, config, seen)
    y = drift.take(targets, axis=2) - common
    x = fresh - old.take(targets, axis=2) - common
    quiet_of = is_quiet[targets]
    if not np.isfinite(y[:, :, quiet_of]).any(axis=(0, 2)).all():
        return None
    weight = 1 / np.maximum(np.nanvar(y[:, :, quiet_of], axis=(0, 2)), 1e-12)
    share, size = _projected(x, y, fresh, weight, config.texture)
    # Unchanged pixels have the share 0 and interior ones 1: their scatter is the error of the method on this ground.
    none = share[quiet_of] * np.sqrt(size[quiet_of])
    if not np.isfinite(none).any():
        return None
    scatter = np.sqrt(np.nanmean(none**2))
    full = share[is_core[targets]] - 1
    spread = np.sqrt(np.nanmean(full**2)) if np.isfinite(full).sum() >= 3 else 0.1
    with np.errstate(divide="ignore", invalid="ignore"):
        blur = scatter / np.sqrt(size)
    is_ring = _reached(inside, ring, rows[targets], cols[targets], share, config)
    total, variance, mixed = float(core.sum()), 0.0, 0.0
    for chosen in (is_edge[targets], is_ring):
        part, error = share[chosen], blur[chosen]
        good = np.isfinite(part) & (error <= config.largest_share_error)
        middle = float(part[good].mean()) if good.any() else 0.5
        held = np.clip(part[good], 0, 1)
        total += float(part[good].sum()) + middle * int((~good).sum())
        mixed += float((held * (1 - held)).sum())
        variance += float(((held * spread) ** 2 + ((1 - held) * error[good]) ** 2).sum()) + 0.3**2 * int((~good).sum())
    bend = config.mixing_error if len(cube.bands) > 1 else config.index_mixing_error
    uncertainty = np.hypot(np.sqrt(config.correlated_pixels * variance), bend * mixed)
    uncertainty = np.hypot(uncertainty, config.unlike_ground * (inside & ~binary_erosion(inside, _BOX)).sum())
    if not seen:
        uncertainty = np.hypot(uncertainty, config.unseen_interior * total)
    elif core.sum() < config.interior:
        uncertainty = np.hypot(uncertainty, config.few_interior * total)
    return Shares(total=total, standard_uncertainty=float(uncertainty), dates=len(new), interior=seen)


def _reached(
    inside: NDArray[np.bool_],
    ring: NDArray[np.bool_],
    rows: NDArray[np.intp],
    cols: NDArray[np.intp],
    share: NDArray[np.float64],
    config: AreaConfig,
) -> NDArray[np.bool_]:
    """(target,) the pixels outside that count: beside the polygon, or beside one outside that changed for the most part."""
    found = np.zeros(inside.shape)
    found[rows, cols] = np.nan_to_num(share)
    reached = binary_dilation(inside, _BOX) & ring
    for _ in range(config.ring_pixels - 1):
        reached |= binary_dilation(reached & (found > config.growing_share), _BOX) & ring
    return reached[rows, cols]


def _states(
    cube: Cube, rows: NDArray[np.intp], cols: NDArray[np.intp], period: tuple[int, int], after: int, config: AreaConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(t, band, n) old state expected on each new date, from old dates of the same season, and the values of that date."""
    days = cube.days.astype(np.int64)
    enough = cube.clear_at(rows, cols).mean(axis=1) >= 0.5
    first = np.flatnonzero(enough & (days >= period[0]) & (days <= period[1]))
    second = np.flatnonzero(enough & (days >= after) & (days < after + config.after_days))
    apart = np.abs(np.mod(days[second], _YEAR)[:, None] - np.mod(days[first], _YEAR)[None, :])
    apart = np.minimum(apart, _YEAR - apart)
    for width in (config.season_days, 2 * config.season_days, 183):
        match = apart <= width
        if (match.any(axis=1)).sum() >= 3:
            break
    kept = match.any(axis=1)
    old = median_of_parts(cube.at(rows, cols, first).astype(np.float64), match[kept])
    return old, cube.at(rows, cols, second[kept]).astype(np.float64)


def _common(
    old: NDArray[np.float64],
    drift: NDArray[np.float64],
    place: NDArray[np.intp],
    quiet: NDArray[np.intp],
    targets: NDArray[np.intp],
    config: AreaConfig,
) -> NDArray[np.float64]:
    """(t, band, target) what unchanged pixels nearby and alike before did between the old and the new dates."""
    step = max(1, len(old) // _LOOKS)
    usual = median_last(old[::step].take(quiet, axis=2))
    look = np.nan_to_num(old[::step] - usual[:, :, None]).reshape(-1, old.shape[2])
    tree = cKDTree(place[quiet])
    wanted = min(len(quiet), (2 * config.reach_pixels + 1) ** 2 // 2)
    _, candidates = tree.query(place[targets], k=wanted)
    others = quiet[candidates.reshape(len(targets), -1)]
    unlike = _squared_distances(np.ascontiguousarray(look.T), others, targets)
    # a pixel does not stand for itself
    unlike[others == targets[:, None]] = np.inf
    chosen = np.argsort(unlike, axis=1, kind="stable")[:, : min(config.similar, wanted - 1)]
    return median_of(drift, np.take_along_axis(others, chosen, axis=1))


@njit(cache=True, nogil=True)
def _squared_distances(look, others, targets):  # type: ignore[no-untyped-def]
    """(target, n) squared distances of the rows `others` (target, n) of `look` from those of the targets."""
    out = np.empty(others.shape, np.float64)
    for i in range(others.shape[0]):
        own = look[targets[i]]
        for j in range(others.shape[1]):
            other = look[others[i, j]]
            total = 0.0
            for k in range(look.shape[1]):
                total += (other[k] - own[k]) ** 2
            out[i, j] = total
    return out


def _fresh(
    new: NDArray[np.float64],
    place: NDArray[np.intp],
    core: NDArray[np.intp],
    targets: NDArray[np.intp],
    config: AreaConfig,
    seen: bool,
) -> NDArray[np.float64]:
    """(t, band, target) the new state of the interior near each target, on each date."""
    tree = cKDTree(place[core])
    # An interior pixel is not compared with itself or its neighbours, which err with it.
    _, candidates = tree.query(place[targets], k=min(len(core), config.interior + 9))
    candidates = candidates.reshape(len(targets), -1)
    chosen = core[candidates]
    allowed = np.ones(chosen.shape, bool)
    if seen:
        far = np.abs(place[chosen] - place[targets][:, None]).max(axis=2) > 1
        far = np.where(far.any(axis=1, keepdims=True), far, chosen != targets[:, None])
        allowed = far | ~np.isin(targets, core)[:, None]
    order = np.argsort(~allowed, axis=1, kind="stable")[:, : config.interior]
    chosen, allowed = np.take_along_axis(chosen, order, axis=1), np.take_along_axis(allowed, order, axis=1)
    return median_of(new, chosen, allowed)


def _projected(
    x: NDArray[np.float64], y: NDArray[np.float64], m: NDArray[np.float64], weight: NDArray[np.float64], texture: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share f and weighted squared contrast of each pixel, by least squares over dates and bands of y = f x + u m.

    u lets the new state be brighter or darker here than in the interior, at the price of (u / texture)^2; dates that fit
    badly are left out, twice.
    """
    heavy = weight[None, :, None]
    kept: NDArray[np.bool_] = np.asarray(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1))
    x, y, m = (np.where(kept[:, None], v, 0.0) for v in (x, y, m))
    several = x.shape[1] > 1
    for _ in range(3):
        w = heavy * kept[:, None]

        def product(a: NDArray[np.float64], b: NDArray[np.float64], w: NDArray[np.float64] = w) -> NDArray[np.float64]:
            return (w * a * b).sum(axis=(0, 1))

        xx, xy = product(x, x), product(x, y)
        with np.errstate(divide="ignore", invalid="ignore"):
            if several:
                # Errors of one date are common to its bands, hence the date's weight in the price.
                mm = product(m, m) + x.shape[1] / texture**2
                xm, my = product(x, m), product(m, y)
                size = xx - xm * xm / mm
                share = (xy - xm * my / mm) / size
                other = (my - share * xm) / mm
            else:
                size, share, other = xx, xy / xx, np.zeros_like(xx)
        miss = np.sqrt((heavy * (y - np.nan_to_num(share) * x - np.nan_to_num(other) * m) ** 2).sum(axis=1))
        kept &= miss <= 3 * median_first(np.where(kept, miss, np.nan))
    return share, size
