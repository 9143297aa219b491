"""The second simulator keeps what it promises: dates, noise, truth, repeatability."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from bench.satellite_independent import BANDS, FIRST_DAY, LAST_DAY, NODATE, Cover, Kind, Truth, independent_tile, ndvi

Tile = tuple[xr.DataArray, Truth]


@pytest.fixture(scope="module", params=["land", "water"])
def tile(request: pytest.FixtureRequest) -> Tile:
    return independent_tile(request.param, 7, (60, 60))


def test_same_seed_same_bytes_and_seeds_and_kinds_differ() -> None:
    first, truth = independent_tile("land", 5, (20, 24))
    again, same = independent_tile("land", 5, (20, 24))
    assert first.values.tobytes() == again.values.tobytes()
    assert truth.break_date.tobytes() == same.break_date.tobytes() and (truth.target == same.target).all()
    assert independent_tile("land", 6, (20, 24))[0].values.tobytes() != first.values.tobytes()
    assert independent_tile("water", 5, (20, 24))[0].values.tobytes() != first.values.tobytes()
    with pytest.raises(ValueError, match="land or water"):
        independent_tile("sea", 5)  # type: ignore[arg-type]


def test_dates_and_clear_views(tile: Tile) -> None:
    cube, _ = tile
    days = cube.time.values.astype("datetime64[D]").astype(np.int64)
    assert cube.shape[:2] == (322, 6) and tuple(cube.band.values) == BANDS and cube.dtype == np.float32
    assert (np.diff(days) > 0).all() and days[0] >= FIRST_DAY and days[-1] <= LAST_DAY
    clear = np.isfinite(cube.values)
    assert (clear.all(axis=1) == clear.any(axis=1)).all()  # all bands or none
    views = clear[:, 0].sum(axis=0)
    assert 165 <= views.mean() <= 175 and views.min() >= 130
    present = cube.values[clear]
    assert present.min() > 0 and present.max() <= 1.2


def test_noise_of_the_index_is_about_two_hundredths() -> None:
    """Deviation of a date from the line through its neighbours has 1.5 times the variance of one date."""
    cube, truth = independent_tile("land", 7, (60, 60))
    forest = (truth.kind == Kind.STABLE) & (truth.cover == Cover.EVERGREEN)
    series = ndvi(cube).values[:, 0, forest]
    days = cube.time.values.astype("datetime64[D]").astype(np.int64)
    left: list[np.ndarray] = []
    for column in series.T[::5]:
        seen = np.isfinite(column)
        t, y = days[seen], column[seen]
        between = y[:-2] + (y[2:] - y[:-2]) * (t[1:-1] - t[:-2]) / (t[2:] - t[:-2])
        left.append((y[1:-1] - between)[t[2:] - t[:-2] <= 20])
    spread = 1.4826 * np.median(np.abs(np.concatenate(left))) / np.sqrt(1.5)
    assert 0.015 < spread < 0.027


def test_truth_is_whole(tile: Tile) -> None:
    _, truth = tile
    stable = truth.kind == Kind.STABLE
    assert 0.65 < stable.mean() < 0.85
    first, second = truth.break_date
    assert (first[stable] == NODATE).all() and (truth.share[stable] == 0).all() and (truth.target[stable] == "").all()
    assert (first[~stable] != NODATE).all() and (truth.share[~stable] >= 0.0499).all() and (truth.share <= 1).all()
    assert (truth.contrast[~stable] > 0).all()
    twice = second != NODATE
    assert (second[twice] - first[twice] >= 440).all()
    abrupt = (truth.kind == Kind.ABRUPT) | (truth.kind == Kind.REGROWTH)
    assert (truth.start[abrupt] == truth.end[abrupt]).all()
    gradual = truth.kind == Kind.GRADUAL
    assert (truth.duration[gradual] >= 0.5).all() and (truth.duration[gradual] <= 4).all()
    assert ((truth.end - truth.start)[gradual] > 180).all()
    middle = ~truth.near_end & abrupt
    assert (first[middle] >= FIRST_DAY + 365).all() and (first[middle] <= LAST_DAY - 182).all()


def test_a_whole_change_shows_on_its_day_and_not_before() -> None:
    """Patches of forest that became ponds: the near infrared falls at once, by far more than the noise."""
    seen = 0
    for seed in (7, 8, 9):
        cube, truth = independent_tile("land", seed, (60, 60))
        days = cube.time.values.astype("datetime64[D]").astype(np.int64)
        chosen = np.isin(truth.cover, (Cover.EVERGREEN, Cover.DECIDUOUS)) & (truth.target == "pond") & (truth.share > 0.99)
        chosen &= (truth.kind == Kind.ABRUPT) & ~truth.near_end
        for row, col in np.argwhere(chosen):
            nir = cube.values[:, 3, row, col]
            when = truth.break_date[0, row, col]
            before = np.nanmedian(nir[(days < when) & (days > when - 365)])
            after = np.nanmedian(nir[(days >= when) & (days < when + 365)])
            assert before > 0.13 and after < 0.09
            seen += 1
    assert seen > 5


def test_flats_are_flooded_for_months_and_not_alike() -> None:
    cube, truth = independent_tile("water", 7, (60, 60))
    flats = (truth.kind == Kind.STABLE) & (truth.cover == Cover.FLAT)
    green, swir = cube.sel(band="green").values[:, flats], cube.sel(band="swir1").values[:, flats]
    with np.errstate(invalid="ignore"):
        wet = np.where(np.isfinite(green), (green - swir) / (green + swir) > 0.2, np.nan)
    years = cube.time.dt.year.values
    flooded = np.array([np.nanmean(wet[years == year], axis=0).mean() for year in range(2018, 2024)])
    assert 0.05 < flooded.mean() < 0.8
    assert flooded.max() > flooded.min() + 0.1
