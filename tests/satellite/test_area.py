"""Areas against exact truth: the sum of changed shares, its stated error, and what is said where shares cannot be found.

The cubes are mixed by hand, independent of `satellite.synthetic`: each pixel is (1 - f) old + f new with known f.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine

from geoevidence.crs import parse_crs
from geoevidence.raster import Grid
from satellite.area import AreaConfig, changed_shares
from satellite.events import EventConfig, PixelGroup, event_area, ground_area, outline
from satellite.types import NODATE, BreakMap, Cube, Observed

SIZE = 36
BREAK = 800
GRID = Grid(shape=(SIZE, SIZE), transform=Affine(10, 0, 500_000, 0, -10, 3_300_000), crs=parse_crs("EPSG:32650"))
PLAIN = AreaConfig(unlike_ground=0.0)
"""The ground here is of one kind and the scenes lie on each other: that part of the error would hide the others."""
OLD = np.array([0.05, 0.08, 0.06, 0.32])
SWING = np.array([0.01, 0.02, -0.03, 0.12])
NEW = np.array([0.14, 0.19, 0.24, 0.29])
TEXTURE = 0.07
PER_SHARE = TEXTURE * float(NEW @ (NEW - OLD)) / float((NEW - OLD) @ (NEW - OLD))
"""Standard deviation of a pixel's share in units of the share: its own new state is 7 % brighter or darker than the interior's it is
measured by. Noise (0.005 a view, twenty views) adds a hundredth of that."""


def disc(radius: float, centre: tuple[float, float]) -> np.ndarray:
    """Share of each pixel inside a circle, (y, x), to 1/100; radius and centre in pixels."""
    fine = (np.arange(SIZE * 10) + 0.5) / 10
    inside = (fine[:, None] - centre[0]) ** 2 + (fine[None, :] - centre[1]) ** 2 < radius**2
    return inside.reshape(SIZE, 10, SIZE, 10).mean(axis=(1, 3))


def mixed_cube(share: np.ndarray, *, seed: int, index: bool = False) -> Cube:
    """Three and a half years, every 12 days, a third of the views gone; each year has its own level, each pixel its own."""
    rng = np.random.default_rng(seed)
    days = np.arange(0, 1280, 12, dtype=np.int32)
    texture = 1 + TEXTURE * rng.standard_normal((SIZE, SIZE))
    season = np.cos(2 * np.pi * (days - 200) / 365.2425)
    level = 1 + 0.05 * rng.standard_normal(4)[days // 366]
    old = (OLD + SWING * season[:, None]) * level[:, None]
    values = old[:, :, None, None] * texture
    fresh = np.broadcast_to(NEW[:, None, None] * (1 + TEXTURE * rng.standard_normal((SIZE, SIZE))), values.shape[1:])
    if index:
        # One index that mixes linearly.
        values, fresh = (values[:, 3:] - values[:, 2:3]) * 2, np.full((1, SIZE, SIZE), 0.05)
    later = (days >= BREAK)[:, None, None, None]
    values = np.where(later, values * (1 - share) + fresh * share, values)
    values = values + rng.normal(0, 0.005, values.shape)
    observed = np.where(rng.random((len(days), SIZE, SIZE)) < 0.33, np.uint8(Observed.CLOUD), np.uint8(Observed.CLEAR))
    values = np.where((observed == Observed.CLEAR)[:, None], values, np.nan).astype(np.float32)
    bands = ("NDVI",) if index else ("blue", "green", "red", "nir")
    return Cube(stored=values, observed=observed, days=days, bands=bands, grid=GRID)


def scatter(share: np.ndarray) -> float:
    """Standard deviation of the sum of shares that the texture of the edge makes, pixels."""
    edge = share[(share > 0) & (share < 1)]
    return PER_SHARE * math.sqrt(float((edge**2).sum()))


def shares_of(share: np.ndarray, *, seed: int, found: float = 0.3, index: bool = False):
    cube = mixed_cube(share, seed=seed, index=index)
    none = np.zeros((SIZE, SIZE), bool)
    return changed_shares(cube, share > found, none, before=BREAK - 8, after=BREAK + 4, config=PLAIN)


@pytest.mark.parametrize("found", [0.05, 0.3, 0.6])
def test_the_sum_of_shares_does_not_depend_on_where_the_outline_runs(found: float) -> None:
    share = disc(5.3, (17.2, 18.6))
    result = shares_of(share, seed=5100, found=found)
    assert result is not None and result.interior
    # Whole pixels would give from -5 % to +20 % here; five standard deviations of the texture are 1.9 %.
    assert abs(result.total - share.sum()) < 5 * scatter(share)
    # What is stated takes twice the texture that is here, and 6 pixels that err together: at most 2 sqrt(6), rounded up, and no less than half.
    assert 0.5 * scatter(share) < result.standard_uncertainty < 5 * scatter(share)


def test_shares_are_unbiased_and_the_error_is_neither_too_small_nor_too_large() -> None:
    off, scaled, alone = [], [], []
    for seed in range(5200, 5216):
        rng = np.random.default_rng(seed)
        share = disc(rng.uniform(3.5, 7.0), tuple(rng.uniform(16, 20, 2)))
        result = shares_of(share, seed=seed)
        assert result is not None
        off.append(result.total / share.sum() - 1)
        alone.append(scatter(share) / share.sum())
        scaled.append((result.total - share.sum()) / result.standard_uncertainty)
    # Five standard deviations of the mean of 16 sums.
    assert abs(np.mean(off)) < 5 * math.sqrt(np.mean(np.square(alone)) / len(off))
    # Mean square of 16 standardised errors: 99.9 % limits of chi-squared / 16 are 0.2 and 2.5; half of it is allowance.
    assert 0.05 < np.mean(np.square(scaled)) < 2.5


def test_unlike_ground_widens_the_error_with_the_length_of_the_edge() -> None:
    share = disc(5.3, (17.2, 18.6))
    cube, none = mixed_cube(share, seed=5250), np.zeros((SIZE, SIZE), bool)
    period = {"before": BREAK - 8, "after": BREAK + 4}
    plain = changed_shares(cube, share > 0.3, none, **period, config=PLAIN)
    wide = changed_shares(cube, share > 0.3, none, **period, config=AreaConfig())
    assert plain is not None and wide is not None and wide.total == plain.total
    added = math.sqrt(wide.standard_uncertainty**2 - plain.standard_uncertainty**2)
    # the outermost ring of a disc of 5.3 px radius, corners included, has about 4/pi of the 2 pi 4.8 pixels of a thin line
    assert 0.07 * 30 < added < 0.07 * 45


def test_one_index_works_and_says_that_it_is_less_sure() -> None:
    share = disc(5.3, (17.2, 18.6))
    bands, index = shares_of(share, seed=5300), shares_of(share, seed=5300, index=True)
    assert bands is not None and index is not None
    # The mixing error is common to all pixels: its multiple of the sum of f (1 - f), of which noise blurs each by less than a tenth.
    mixed = float((share * (1 - share)).sum())
    assert index.standard_uncertainty >= 0.9 * PLAIN.index_mixing_error * mixed
    assert bands.standard_uncertainty < PLAIN.mixing_error * mixed + 5 * scatter(share)
    # This index mixes linearly and its new state has no texture: it does no worse than bands.
    assert abs(index.total - share.sum()) < 5 * scatter(share)


def test_without_an_interior_the_error_is_large() -> None:
    share = np.zeros((SIZE, SIZE))
    share[15:17, 10:20] = 0.9
    result = shares_of(share, seed=5400)
    assert result is not None and not result.interior
    # The standard uncertainty is that of no interior seen, with the small rest of the edge: 20 pixels of f (1 - f) = 0.09.
    assert PLAIN.unseen_interior <= result.standard_uncertainty / result.total < 1.1 * PLAIN.unseen_interior
    # Pixels of 0.9 are taken for whole ones: 18 are given as 20, less than one standard uncertainty, 2.7 to 3.0, away.
    assert abs(result.total - share.sum()) < result.standard_uncertainty


def test_a_part_that_the_outline_missed_is_followed_but_other_changes_are_left_out() -> None:
    share = np.zeros((SIZE, SIZE))
    share[12:22, 12:22] = 1.0
    cube = mixed_cube(share, seed=5500)
    inside, other = share > 0.5, np.zeros((SIZE, SIZE), bool)
    inside[:, 20:] = False
    period = {"before": BREAK - 8, "after": BREAK + 4, "config": PLAIN}
    grown = changed_shares(cube, inside, other, **period)
    other[:, 20:] = share[:, 20:] > 0.5
    apart = changed_shares(cube, inside, other, **period)
    # Texture of the 36 pixels around a square of ten, four standard deviations.
    off = 4 * PER_SHARE * math.sqrt(36)
    assert grown is not None and abs(grown.total - 100) < off
    assert apart is not None and abs(apart.total - 80) < off


def _breaks(share: np.ndarray) -> tuple[BreakMap, PixelGroup]:
    hit = share > 0.3
    shape = (1, SIZE, SIZE)

    def dates(day: int) -> np.ndarray:
        return np.where(hit, day, NODATE).astype(np.int32).reshape(shape)

    rows, cols = np.nonzero(hit)
    return (
        BreakMap(
            grid=GRID,
            first_day=0,
            last_day=1272,
            break_date=dates(BREAK),
            last_clear_before=dates(BREAK - 8),
            first_clear_after=dates(BREAK + 4),
            magnitude=np.where(hit, -0.5, np.nan).astype(np.float32).reshape(shape),
            magnitude_of="NDVI",
            score=np.where(hit, 20.0, np.nan).astype(np.float32).reshape(shape),
            pace=hit.astype(np.uint8).reshape(shape),
            observations=np.full((SIZE, SIZE), 70, np.int16),
            status=np.where(hit, 2, 1).astype(np.uint8),
        ),
        PixelGroup(rows=rows, cols=cols, layers=np.zeros(len(rows), np.intp)),
    )


def test_area_is_on_the_ellipsoid_and_counts_pixels_where_shares_cannot_be_found() -> None:
    share = disc(5.3, (17.2, 18.6))
    breaks, group = _breaks(share)
    cube = mixed_cube(share, seed=5600)
    polygon = outline(group, GRID)
    config = EventConfig()
    area, parts = event_area(group, polygon, breaks, cube, (0, 0), share > 0.3, config, interval=(BREAK - 8, BREAK + 4))
    # UTM shrinks lengths by 0.9996 on its central meridian.
    true = share.sum() * 100 / 0.9996**2
    assert abs(area.value / true - 1) < 5 * scatter(share) / share.sum()
    # With the ground beside it unlike: 0.07 times 30 to 45 pixels of the edge (see above), and what is stated without it.
    low, high = 0.07 * 30 / share.sum(), math.hypot(0.07 * 45, 5 * scatter(share)) / share.sum()
    assert area.standard_uncertainty is not None and low < area.standard_uncertainty / true < high
    assert area.propagation == "satellite.area_propagation"
    assert area.standard_uncertainty == pytest.approx(math.hypot(*parts.values()), rel=1e-12)

    early = Cube(stored=cube.values[:60], observed=cube.observed[:60], days=cube.days[:60], bands=cube.bands, grid=GRID)
    counted, _ = event_area(group, polygon, breaks, early, (0, 0), share > 0.3, config, interval=(BREAK - 8, BREAK + 4))
    assert math.isclose(counted.value, ground_area(polygon, GRID.crs))
    assert counted.propagation == "satellite.area_propagation_counted"
    # The whole edge displaced, even over boundary_pixels: a disc of 4.8 px has at least 4 sqrt(2) 4.8 = 27 pixels with a neighbour outside.
    assert counted.standard_uncertainty is not None
    assert counted.standard_uncertainty > 100 * 27 * config.boundary_pixels / math.sqrt(3) > area.standard_uncertainty


def test_an_earlier_change_of_the_same_pixels_is_not_taken_for_the_old_state() -> None:
    share = disc(5.3, (17.2, 18.6))
    cube = mixed_cube(share, seed=5700)
    values = cube.values.copy()
    # Until day 380 the wider surroundings of the event looked otherwise, differently from pixel to pixel.
    first = np.random.default_rng(5701).uniform(0.05, 0.4, (SIZE, SIZE)).astype(np.float32)
    values[cube.days < 380] = np.where(np.isfinite(values[cube.days < 380]), first, np.nan)
    twice = Cube(stored=values, observed=cube.observed, days=cube.days, bands=cube.bands, grid=GRID)
    none = np.zeros((SIZE, SIZE), bool)
    result = changed_shares(twice, share > 0.3, none, before=BREAK - 8, after=BREAK + 4, since=380, config=AreaConfig())
    assert result is not None and abs(result.total - share.sum()) < 5 * scatter(share)
