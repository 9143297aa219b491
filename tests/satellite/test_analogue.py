"""Departure from ground that was alike: what happens to all of it cancels, what happens to the event alone stays."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine

from geoevidence.crs import parse_crs
from geoevidence.raster import Grid
from satellite.analogue import checked_interval, departure_of
from satellite.types import Cube, Observed

SIZE = 40
GRID = Grid(shape=(SIZE, SIZE), transform=Affine(10, 0, 500_000, 0, -10, 3_300_000), crs=parse_crs("EPSG:32650"))
DAYS = np.arange(0, 1800, 10, dtype=np.int32)
BREAK = 1003
NOISE = 0.01
INSIDE = np.zeros((SIZE, SIZE), bool)
INSIDE[16:22, 8:14] = True
NONE = np.zeros((SIZE, SIZE), bool)


def cube_of(event: np.ndarray, *, everywhere: np.ndarray | None = None, seed: int = 1) -> Cube:
    """Two bands: a season, larger in the left half; plus `event` (time,) inside and `everywhere` (time,) on all ground."""
    rng = np.random.default_rng(seed)
    season = np.cos(2 * np.pi * DAYS / 365.2425)
    height = np.where(np.arange(SIZE) < SIZE // 2, 0.08, 0.04)
    values = 0.2 + season[:, None, None, None] * height + rng.normal(0, NOISE, (len(DAYS), 2, SIZE, SIZE))
    if everywhere is not None:
        values += everywhere[:, None, None, None]
    values[:, 0] += event[:, None, None] * INSIDE
    observed = np.where(rng.random((len(DAYS), SIZE, SIZE)) < 0.2, np.uint8(Observed.CLOUD), np.uint8(Observed.CLEAR))
    return Cube(stored=values.astype(np.float32), observed=observed, days=DAYS, bands=("red", "nir"), grid=GRID)


def departed(cube: Cube, before: int = 1000, after: int = 1010, inside: np.ndarray = INSIDE):
    return departure_of(cube, inside, NONE, before=before, after=after, since=None, until=None)


def step(day: int, size: float) -> np.ndarray:
    return np.where(day <= DAYS, size, 0.0)


def test_what_happened_to_all_ground_is_no_contrast() -> None:
    own = departed(cube_of(step(BREAK, 0.05)))
    common = departed(cube_of(step(BREAK, 0.0), everywhere=step(BREAK, 0.05)))
    assert own is not None and common is not None
    assert own.contrast > 5
    assert common.contrast < 1.5
    assert own.middles[1] - own.middles[0] == pytest.approx([0.05, 0.0], abs=0.004)


def test_contrast_does_not_depend_on_the_unit() -> None:
    cube = cube_of(step(BREAK, 0.05))
    scaled = Cube(stored=cube.stored * 3, observed=cube.observed, days=DAYS, bands=cube.bands, grid=GRID)
    one, other = departed(cube), departed(scaled)
    assert one is not None and other is not None and one.contrast == pytest.approx(other.contrast, rel=1e-4)


def test_too_little_ground_or_too_few_months_say_nothing() -> None:
    cube = cube_of(step(BREAK, 0.05))
    full = np.ones((SIZE, SIZE), bool)
    full[0, :5] = False
    assert departed(cube, inside=full) is None
    assert departed(cube, before=1000, after=1790) is None
    assert departed(cube, before=5, after=1010) is None


def told(departure: object) -> bool:
    """Whether the interval is the two views around BREAK; one date in twenty that is old looks too odd to be called so."""
    found = checked_interval(departure, margin_days=120, usual=0.95, clear=2.0, part=0.3)  # type: ignore[arg-type]
    return found is not None and found[0] in (990, 1000) and found[1] == 1010


def test_the_interval_is_told_by_the_dates_that_departed() -> None:
    # The pixels' own interval was 900 to 1100; the change shows between 1000 and 1010.
    departure = departed(cube_of(step(BREAK, 0.05)), before=900, after=1100)
    assert departure is not None and told(departure)
    # and where they said 1050 to 1060, the old end comes back to the last view before the change
    late = departed(cube_of(step(BREAK, 0.05)), before=1050, after=1060)
    assert late is not None and told(late)


def test_a_first_phase_in_another_direction_counts_as_departed() -> None:
    # Darker for seven weeks, then brighter for good: the first darker view is the first new one.
    phases = np.where((DAYS >= BREAK) & (DAYS < BREAK + 50), -0.05, step(BREAK + 50, 0.06))
    departure = departed(cube_of(phases), before=1050, after=1060)
    assert departure is not None and told(departure)


def test_a_change_that_does_not_stand_out_leaves_the_interval_alone() -> None:
    departure = departed(cube_of(step(BREAK, 0.0)), before=900, after=1100)
    assert departure is not None
    assert checked_interval(departure, margin_days=120, usual=0.95, clear=2.0, part=0.3) is None
    early = departed(cube_of(step(43, 0.05)), before=100, after=110)
    assert early is not None
    assert checked_interval(early, margin_days=90, usual=0.95, clear=2.0, part=0.3) is None


def test_odd_single_dates_move_neither_end_far() -> None:
    rng = np.random.default_rng(7)
    spoilt = step(BREAK, 0.05)
    chosen = rng.choice(np.flatnonzero(np.abs(DAYS - BREAK) > 40), 12, replace=False)
    spoilt[chosen] += rng.choice([-0.06, 0.06], 12)
    departure = departed(cube_of(spoilt), before=940, after=1080)
    assert departure is not None
    found = checked_interval(departure, margin_days=120, usual=0.95, clear=2.0, part=0.3)
    assert found is not None and found[0] < BREAK <= found[1]
    assert found[1] - found[0] <= 60
