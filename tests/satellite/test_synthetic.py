"""The simulator states a truth; these tests hold the pictures against it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rasterio

from geoevidence.raster import read_raster
from satellite.basin import _moved
from satellite.synthetic import (
    BANDS,
    CLASSES,
    CLEAR,
    KINDS,
    QUALITY,
    TEST_SEEDS,
    TUNING_SEEDS,
    BasinConfig,
    Change,
    SimulatedCube,
    SimulationConfig,
    benchmark_config,
    scene_name,
    simulate,
    truth_geojson,
    write_stack,
)
from satellite.types import NODATE, Observed

BASE = SimulationConfig()
X, Y = BASE.origin
SQUARE = ((X + 752.0, Y - 92.0), (X + 838.0, Y - 92.0), (X + 838.0, Y - 178.0), (X + 752.0, Y - 178.0))
FELLING = Change(name="felling", kind="clear_cut", polygon=SQUARE, day=date(2023, 6, 1))


@pytest.fixture(scope="module")
def cube() -> SimulatedCube:
    return simulate(replace(BASE, changes=(FELLING,)), seed=3)


def ndvi(cube: SimulatedCube) -> np.ndarray:
    values = cube.reflectance.values
    red, nir = values[:, BANDS.index("red")], values[:, BANDS.index("nir")]
    return (nir - red) / (nir + red)


def test_shapes_and_axes(cube: SimulatedCube) -> None:
    assert cube.observed.dims == ("time", "band", "y", "x")
    assert cube.observed.shape[1:] == (6, 96, 96) and cube.observed.dtype == np.float32
    assert tuple(cube.observed["band"].values) == BANDS
    assert np.all(np.diff(cube.observed["y"].values) == -10) and np.all(np.diff(cube.observed["x"].values) == 10)
    assert list(cube.dates) == sorted(set(cube.dates))
    assert 60 <= len(cube.dates) <= 100


def test_same_seed_same_values_other_seed_others() -> None:
    small = SimulationConfig(shape=(16, 16), end=date(2021, 6, 30), random_changes=2)
    first, again = simulate(small, seed=3), simulate(small, seed=3)
    assert np.array_equal(again.observed.values, first.observed.values, equal_nan=True)
    assert np.array_equal(again.quality.values, first.quality.values)
    assert again.changes == first.changes
    assert not np.array_equal(simulate(small, seed=3).observed.values[0], simulate(small, seed=4).observed.values[0])


def test_reflectance_is_missing_exactly_where_quality_is_not_clear(cube: SimulatedCube) -> None:
    clear = np.isin(cube.quality.values, CLEAR)
    missing = np.isnan(cube.reflectance.values)
    for band in range(len(BANDS)):
        assert np.array_equal(missing[:, band], ~clear)
    assert np.array_equal(np.isnan(cube.observed.values[:, 0]), cube.quality.values == QUALITY["nodata"])


def test_truth_covers_the_polygon_and_nothing_else(cube: SimulatedCube) -> None:
    # The square lies on 8.6 x 8.6 pixels, its edges within pixels: area = sum of the fractions, to the 1/64 drawing.
    assert cube.fraction.sum() * 100 == pytest.approx(86.0 * 86.0, rel=0.03)
    assert np.array_equal(cube.stable, cube.fraction == 0)
    assert np.array_equal(np.isnat(cube.break_date), cube.stable)
    assert set(cube.break_date[~cube.stable].tolist()) == {date(2023, 6, 1)}
    assert np.all(cube.land[~cube.stable] == CLASSES.index("forest"))


def test_the_change_shows_from_its_day_on(cube: SimulatedCube) -> None:
    full = cube.fraction == 1
    seen = cube.clear.values[:, full].any(axis=1)
    days = np.array(cube.dates)[seen]
    series = np.nanmedian(ndvi(cube)[seen][:, full], axis=1)
    before, after = series[days < FELLING.day], series[days >= FELLING.day]
    # Trees are never below 0.6, felled ground never above 0.45, whatever season and haze.
    assert before.min() > 0.6
    assert after.max() < 0.45


def test_pixel_noise_is_what_is_stated() -> None:
    # With scene, haze and season errors off, two neighbours in forest differ by pixel noise and by the texture of the
    # land, which is constant in time. So the scatter in time of their difference is sqrt(2) times the noise.
    quiet = replace(BASE, scene_noise=0.0, haze_sd=0.0, overcast=0.0, partial=0.0, start=date(2023, 7, 1))
    cube = simulate(quiet, seed=5)
    red = cube.reflectance.values[cube.clear.values.all(axis=(1, 2))][:, BANDS.index("red")]
    core = (cube.land == CLASSES.index("forest")) & (np.arange(96)[None, :] > 70) & (np.arange(96)[:, None] < 20)
    rows, cols = np.nonzero(core[:, :-1] & core[:, 1:])
    step = red[:, rows, cols] - red[:, rows, cols + 1]
    expected = BASE.pixel_noise * (np.nanmedian(red[:, rows, cols], axis=1) + 0.025)
    measured = np.nanstd(step - np.nanmean(step, axis=0), axis=1) / np.sqrt(2)
    # About 400 pairs a date and 50 dates: the ratio is known to 1 %; texture times season adds up to 20 %.
    assert 0.97 < np.nanmedian(measured / expected) < 1.25


def test_index_noise_is_about_two_hundredths(cube: SimulatedCube) -> None:
    days = np.array(cube.dates, dtype="datetime64[D]").astype(int)
    forest = (cube.land == CLASSES.index("forest")) & cube.stable
    steps = np.diff(ndvi(cube)[:, forest], axis=0)[np.diff(days) == 10]
    noise = 1.4826 * np.nanmedian(np.abs(steps)) / np.sqrt(2)
    assert 0.01 < noise < 0.03


@pytest.mark.slow
def test_cloud_gaps_are_like_those_of_the_lower_yangtze() -> None:
    config = SimulationConfig(shape=(24, 24), revisit_days=5, max_cloud=1.0, end=date(2025, 5, 30))
    cube = simulate(config, seed=11)
    assert len(cube.dates) == 322
    # 50 % clear with a binomial-like scatter of sqrt(322 * 0.5 * 0.5) = 9, wider because skies last over the scene.
    assert 140 < float(cube.clear.sum("time").mean()) < 200
    missed = cube.cloud_truth & np.isin(cube.quality.values, CLEAR)
    share = missed.sum() / cube.cloud_truth.sum()
    assert 0.001 < share < 0.1


def test_floods_drown_the_flats_in_summer_only(cube: SimulatedCube) -> None:
    values = cube.reflectance.values
    wet = (values[:, BANDS.index("green")] - values[:, BANDS.index("swir1")]) > 0
    flats = cube.land == CLASSES.index("flat")
    months = np.array([day.month for day in cube.dates])
    seen = cube.clear.values[:, flats]
    drowned = np.array([wet[i, flats][seen[i]].mean() if seen[i].any() else np.nan for i in range(len(months))])
    assert np.nanmedian(drowned[(months == 7) | (months == 8)]) > 0.4
    assert np.nanmedian(drowned[(months == 1) | (months == 12)]) < 0.15


@pytest.mark.slow
def test_scattered_changes_stay_apart_and_on_their_land() -> None:
    cube = simulate(replace(BASE, random_changes=15, end=date(2023, 1, 30)), seed=2)
    assert len(cube.changes) == 15
    assert {change.name for change in cube.changes} == {f"R{i:03d}" for i in range(1, 16)}
    assert all(0.15 <= change.fraction <= 1 for change in cube.changes)
    middle = cube.config.start + (cube.config.end - cube.config.start) / 2
    assert all(middle <= change.day <= cube.config.end for change in cube.changes)
    assert cube.fraction.max() <= 1
    assert not cube.stable.all() and cube.stable.mean() > 0.8


def test_regrowth_comes_back() -> None:
    other = tuple((x - 90.0, y + 20.0) for x, y in SQUARE)
    grown = replace(FELLING, name="regrown", day=date(2022, 3, 1), regrowth_years=0.5)
    bare = replace(FELLING, day=date(2022, 3, 2), polygon=other)
    cube = simulate(replace(BASE, start=date(2023, 6, 1), end=date(2023, 9, 30), changes=(grown, bare)), seed=3)
    summer = np.nanmedian(ndvi(cube), axis=0)
    full = cube.fraction == 1
    assert np.median(summer[full & (cube.break_date == np.datetime64(grown.day))]) > 0.5
    assert np.median(summer[full & (cube.break_date == np.datetime64(bare.day))]) < 0.3


def test_stack_reads_back(cube: SimulatedCube, tmp_path: Path) -> None:
    few = simulate(replace(BASE, end=date(2021, 4, 30)), seed=3)
    paths = write_stack(tmp_path / "a", few)
    write_stack(tmp_path / "b", few)
    assert [path.name for path in paths] == [scene_name(day) for day in few.dates]
    for index, path in enumerate(paths):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        raster = read_raster(path)
        assert raster.grid.matches(few.grid) and raster.data.dtype == np.int16
        expected = few.observed.values[index]
        missing = np.isnan(expected)
        assert np.array_equal(raster.data[:6] == -9999, missing)
        # Half a step of the int16 scale, and float32 rounding.
        assert np.abs(raster.data[:6][~missing] * 1e-4 - np.clip(expected[~missing], -0.2, 2)).max() <= 0.5e-4 + 1e-7
        assert np.array_equal(raster.data[6], few.quality.values[index])
        with rasterio.open(path) as dataset:
            assert dataset.tags()["GEOEVIDENCE_SYNTHETIC"] == "yes"
            assert dataset.descriptions == (*BANDS, "quality")


def test_truth_as_geojson(cube: SimulatedCube) -> None:
    (feature,) = truth_geojson(cube)["features"]
    assert feature["properties"]["area_m2"] == 86.0 * 86.0
    assert feature["properties"]["date"] == "2023-06-01"
    ring = feature["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert all(114 < lon < 115 and 30 < lat < 31 for lon, lat in ring)
    # RFC 7946: the exterior ring runs counterclockwise.
    assert sum((b[0] - a[0]) * (b[1] + a[1]) for a, b in pairwise(ring)) < 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("shape", (4, 96)), ("revisit_days", 0), ("end", date(2020, 1, 1)), ("overcast", 1.5), ("undetected", -0.1)],
)
def test_senseless_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        SimulationConfig(**{field: value})


def test_senseless_changes_are_refused() -> None:
    for wrong in ({"kind": "theft"}, {"fraction": 0.0}, {"fraction": 1.2}, {"polygon": SQUARE[:2]}):
        with pytest.raises(ValueError, match=r".+"):
            replace(FELLING, **wrong)


def test_nothing_passes_a_cloud_limit_of_zero_under_overcast() -> None:
    with pytest.raises(ValueError, match="max_cloud"):
        simulate(SimulationConfig(shape=(16, 16), overcast=1.0, max_cloud=0.0, end=date(2021, 2, 1)), seed=1)


# The wide simulation. Tuning seeds only: the others are kept for figures that are reported.

SMALL = (48, 48)
QUIET = {"pixel_noise": 0.0, "scene_noise": 0.0, "haze_sd": 0.0, "undetected": 0.0}
STILL = {"registration_sd": 0.0, "thin_cloud": 0.0, "small_cloud": 0.0, "commission": 0.0, "snow_days": 0.0, "boats": 0.0}


@pytest.fixture(scope="module", params=["land", "water"])
def tile(request: pytest.FixtureRequest) -> SimulatedCube:
    return simulate(benchmark_config(request.param, shape=SMALL), seed=1)


@pytest.fixture(scope="module", params=["land", "water"])
def pair(request: pytest.FixtureRequest) -> tuple[SimulatedCube, SimulatedCube]:
    """The same tile, without the errors of the scenes, with changes and without."""
    config = benchmark_config(request.param, shape=SMALL, change_share=0.2, twice_share=0.4, regrowth_share=0.7, **QUIET, **STILL)
    assert config.basin is not None
    return simulate(config, seed=2), simulate(replace(config, basin=replace(config.basin, change_share=0.0)), seed=2)


def days_of(cube: SimulatedCube) -> np.ndarray:
    return np.array(cube.dates, "datetime64[D]").astype(int)


def test_seeds_to_tune_on_and_to_report_on_are_apart() -> None:
    assert not set(TUNING_SEEDS) & set(TEST_SEEDS)
    assert min(TEST_SEEDS) == 101 and max(TUNING_SEEDS) == 99


def test_a_tile_has_the_dates_of_the_benchmark(tile: SimulatedCube) -> None:
    assert len(tile.dates) == 322 and list(tile.dates) == sorted(set(tile.dates))
    assert tile.dates[0] >= date(2018, 1, 1) and tile.dates[-1] <= date(2023, 12, 31)
    # Skies last for some days and cover the tile as a whole: about 200 independent ones, so the mean of 170 has sd 7 to 8.
    assert 145 < tile.clear.values.sum(axis=0).mean() < 195


@pytest.mark.parametrize("pattern", ["mixed", "single", "regular"])
def test_patterns_of_dates(pattern: str) -> None:
    config = benchmark_config("land", shape=(8, 8), pattern=pattern, change_share=0.0)
    steps = np.diff(days_of(simulate(config, seed=4)))
    assert len(steps) == 321
    if pattern == "regular":
        assert set(steps.tolist()) <= {6, 7}
    elif pattern == "single":
        assert set((steps % 5).tolist()) == {0}
    else:
        assert {2, 3} <= set(steps.tolist()) and steps.max() > 7


@pytest.mark.parametrize("kind", ["land", "water"])
def test_a_tile_is_the_same_again_and_another_with_another_seed(kind: Literal["land", "water"]) -> None:
    config = benchmark_config(kind, shape=(12, 20))
    first, again, other = (simulate(config, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(again.observed.values, first.observed.values, equal_nan=True)
    assert np.array_equal(again.quality.values, first.quality.values)
    assert again.changes == first.changes
    assert not np.array_equal(other.observed.values, first.observed.values, equal_nan=True)


def test_an_index_has_the_gaps_of_the_bands(tile: SimulatedCube) -> None:
    bands = tile.reflectance.values
    for name, (a, b) in {"NDVI": ("nir", "red"), "MNDWI": ("green", "swir1")}.items():
        index = tile.index(name)
        assert index.dims == ("time", "band", "y", "x") and index.dtype == np.float32 and list(index["band"].values) == [name]
        assert np.array_equal(np.isnan(index.values[:, 0]), np.isnan(bands[:, 0]))
        above, below = (np.maximum(bands[:, BANDS.index(band)].astype(np.float64), 1e-4) for band in (a, b))
        # float32 rounding of a number up to 1
        assert np.nanmax(np.abs(index.values[:, 0] - (above - below) / (above + below))) < 1e-6


def test_int16_says_the_same(tile: SimulatedCube) -> None:
    stored = tile.as_int16()
    assert stored.stored.dtype == np.int16 and stored.bands == BANDS and stored.grid.matches(tile.grid)
    assert np.array_equal(stored.days, days_of(tile))
    assert np.array_equal(stored.observed == Observed.CLEAR, tile.clear.values)
    assert np.array_equal(stored.observed == Observed.NOT_OBSERVED, np.isnan(tile.observed.values[:, 0]))
    off = np.abs(stored.values - np.clip(tile.reflectance.values, -0.2, 2.0))
    assert np.array_equal(np.isnan(off), np.isnan(tile.reflectance.values))
    assert np.nanmax(off) <= 0.5e-4 + 1e-7  # half a step, and float32 rounding


def test_breaks_of_a_pixel_are_complete_and_in_order(pair: tuple[SimulatedCube, SimulatedCube]) -> None:
    cube = pair[0]
    breaks = cube.breaks
    some = breaks.day != NODATE
    for array, nothing in ((breaks.kind, 0), (breaks.fraction, 0), (breaks.change, -1)):
        assert np.array_equal(array != nothing, some)
    assert np.all(breaks.day[1:][some[1:]] >= breaks.day[:-1][some[1:]]) and not np.any(some[1:] & ~some[:-1])
    assert np.array_equal(~some[0], cube.stable) and some[1].any()
    first = np.where(some[0], breaks.day[0].astype("datetime64[D]"), np.datetime64("NaT"))
    assert np.array_equal(first, cube.break_date, equal_nan=True)
    assert np.array_equal(breaks.kind[0], cube.kind)
    assert np.array_equal(breaks.fraction.max(axis=0), cube.fraction)
    for k, row, col in np.argwhere(some)[::7]:
        change = cube.changes[breaks.change[k, row, col]]
        assert KINDS[breaks.kind[k, row, col]] == change.kind
        assert breaks.day[k, row, col] == (change.day - date(1970, 1, 1)).days
        assert breaks.duration[k, row, col] == change.duration_days
        assert breaks.regrowth[k, row, col] == np.float32(change.regrowth_years)
        assert 0 < breaks.fraction[k, row, col] <= np.float32(change.fraction)


def test_only_the_pixels_of_the_truth_differ_and_only_from_its_day_on(pair: tuple[SimulatedCube, SimulatedCube]) -> None:
    changed, without = pair
    assert without.changes == () and without.stable.all()
    off = np.abs(changed.observed.values - without.observed.values).max(axis=1)
    seen = (~np.isnan(off)) & ~changed.cloud_truth
    off = np.where(seen, off, 0)
    assert off[:, changed.stable].max() == 0
    days, first = days_of(changed), np.where(changed.stable, 10**6, changed.breaks.day[0])
    assert off[days[:, None, None] < first[None]].max() == 0
    # What changes wholly and for good is another surface: by 0.02 in the worst band on most of the dates of the next year.
    breaks = changed.breaks
    whole = (breaks.fraction[0] > 0.9) & (breaks.duration[0] == 0) & (breaks.regrowth[0] == 0)
    year = (days[:, None] >= first[whole][None]) & (days[:, None] < first[whole][None] + 365) & seen[:, whole]
    shares = [np.mean(off[:, whole][year[:, n], n] > 0.02) for n in range(int(whole.sum())) if year[:, n].sum() > 10]
    assert np.median(shares) > 0.8


def test_contrast_is_what_the_change_does(pair: tuple[SimulatedCube, SimulatedCube]) -> None:
    changed, without = pair
    alone = (changed.breaks.day[1:] == NODATE).all(axis=0) & (changed.breaks.day[0] != NODATE)
    step = np.sqrt(((changed.observed.values - without.observed.values) ** 2).mean(axis=1))
    days, breaks = days_of(changed), changed.breaks
    seen = ~changed.cloud_truth & ~np.isnan(step)
    ratios = []
    for row, col in np.argwhere(alone & (breaks.contrast[0] > 0.01)):
        after = days - breaks.day[0, row, col] - breaks.duration[0, row, col]
        use = seen[:, row, col] & (after >= 0) & (after < 365)
        if use.sum() > 20:
            ratios.append(step[use, row, col].mean() / breaks.contrast[0, row, col])
    # Clear dates are a sample of all dates; sensors differ by half a percent.
    assert len(ratios) > 20 and np.median(ratios) == pytest.approx(1, abs=0.1)


def test_gradual_changes_grow_and_regrowth_fades(pair: tuple[SimulatedCube, SimulatedCube]) -> None:
    changed, without = pair
    step = np.sqrt(((changed.observed.values - without.observed.values) ** 2).mean(axis=1))
    days, breaks = days_of(changed), changed.breaks
    seen = ~changed.cloud_truth & ~np.isnan(step)
    alone = (breaks.day[1:] == NODATE).all(axis=0)
    grows = []
    for row, col in np.argwhere(alone & (breaks.duration[0] > 300) & (breaks.fraction[0] > 0.2)):
        age = (days - breaks.day[0, row, col]) / breaks.duration[0, row, col]
        use = seen[:, row, col]
        early, late = step[use & (age > 0) & (age < 0.3), row, col], step[use & (age > 0.7) & (age < 1.2), row, col]
        if len(early) > 3 and len(late) > 3:
            grows.append(early.mean() < late.mean())
    assert len(grows) > 10 and np.mean(grows) > 0.9


def test_regrowth_in_a_tile_fades_at_its_rate() -> None:
    config = benchmark_config("land", shape=(24, 24), change_share=0.0, **QUIET, **STILL)
    without = simulate(config, seed=4)
    row, col = np.argwhere((without.land == CLASSES.index("evergreen")) & (without.purity == 1))[0]
    x, y = config.origin[0] + 10.0 * float(col), config.origin[1] - 10.0 * float(row)
    square = ((x, y), (x + 10, y), (x + 10, y - 10), (x, y - 10))
    felled = Change(name="felled", kind="clear_cut", polygon=square, day=date(2019, 3, 1), regrowth_years=0.8)
    changed = simulate(replace(config, changes=(felled,)), seed=4)
    assert changed.fraction[row, col] == 1 and changed.stable.sum() == 24 * 24 - 1
    off = np.abs(changed.observed.values - without.observed.values)[:, BANDS.index("swir1"), row, col]
    age = (days_of(changed) - (felled.day - date(1970, 1, 1)).days) / 365.25
    seen = ~changed.cloud_truth[:, row, col] & ~np.isnan(off)
    assert off[seen & (age < 0)].max() == 0
    # What is new fades by exp(-age / 0.8), and it looks ever more like woods itself: no slower than that, and never back.
    early, late = off[seen & (age >= 0) & (age < 0.4)].mean(), off[seen & (age > 2.4)].mean()
    assert early > 0.05
    assert late < early * np.exp(-2.0 / 0.8)


def test_changes_are_of_all_sizes_paces_and_dates() -> None:
    tiles = [simulate(benchmark_config(kind, shape=(72, 72), dates=8, change_share=0.3), seed=9) for kind in ("land", "water")]
    abrupt = np.concatenate([c.breaks.fraction[(c.breaks.duration == 0) & (c.breaks.kind > 0)] for c in tiles])
    assert np.all(np.histogram(abrupt, [0.05, 0.15, 0.3, 0.5, 0.7, 0.9, 1.01])[0] > 30)
    changes = [change for cube in tiles for change in cube.changes]
    assert {change.kind for change in changes} == set(KINDS[1:])
    assert all(180 <= change.duration_days <= 1460 for change in changes if change.duration_days)
    assert 0.1 < np.mean([change.duration_days > 0 for change in changes]) < 0.35
    assert {change.day.year for change in changes if not change.duration_days} == {2018, 2019, 2020, 2021, 2022, 2023}
    back = [change.regrowth_years for change in changes if change.regrowth_years]
    assert back and 0.25 <= min(back) < 1 and 1 < max(back) <= 4
    for cube in tiles:
        assert 0.25 < 1 - cube.stable.mean() < 0.35
        assert np.all(cube.beside <= cube.stable)
        edges = np.argwhere(cube.beside)[::50]
        assert all(not cube.stable[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].all() for r, c in edges)


def test_stable_flats_drown_differently_each_year() -> None:
    cube = simulate(benchmark_config("water", shape=SMALL, change_share=0.0), seed=3)
    assert cube.flats.mean() > 0.3
    days, wet = days_of(cube), cube.index("MNDWI").values[:, 0] > 0
    seen, years = cube.clear.values, np.array([day.year for day in cube.dates])
    flats = cube.flats & (cube.flooded > 0.2) & (cube.flooded < 0.7)
    share = np.array([(wet & seen)[years == y][:, flats].sum(0) / seen[years == y][:, flats].sum(0) for y in range(2018, 2024)])
    # Within one flat the wettest of six years is far from the driest; some flats stay dry for a year.
    assert np.median(share.max(axis=0) - share.min(axis=0)) > 0.25
    assert (share.min(axis=0) < 0.05).any()
    # The truth of the water is what the pictures show, but for mixed pixels, haze and the dates that clouds choose.
    shown = (wet & seen)[:, flats].sum(0) / seen[:, flats].sum(0)
    assert np.median(np.abs(shown - cube.flooded[flats])) < 0.1
    assert len(days) == 322


def test_double_crops_differ_by_year_and_parcel_and_sometimes_fail() -> None:
    cube = simulate(benchmark_config("land", shape=SMALL, change_share=0.0, clear_share=0.85, **QUIET, **STILL), seed=5)
    fields = (cube.land == CLASSES.index("double_crop")) & (cube.purity > 0.9)
    ndvi_ = cube.index("NDVI").values[:, 0][:, fields]
    doy = np.array([day.timetuple().tm_yday for day in cube.dates])
    years = np.array([day.year for day in cube.dates])
    spring, summer = (doy > 85) & (doy < 130), (doy > 185) & (doy < 285)
    peak = np.array([[np.nanmax(ndvi_[season & (years == y)], axis=0) for y in range(2018, 2024)] for season in (spring, summer)])
    # Two green seasons in a usual year, and in some years of some fields one of them missing.
    assert np.median(peak[0]) > 0.55 and np.median(peak[1]) > 0.6
    failed = (peak < 0.5).mean()
    assert 0.01 < failed < 0.35
    assert cube.unusual[fields].mean() > 0.3
    assert not cube.unusual[cube.land == CLASSES.index("evergreen")].any()
    # Heights of a usual season scatter by more than the noise of an index and less than the season itself.
    usual = np.where(peak > 0.5, peak, np.nan)
    assert 0.02 < np.nanmedian(np.nanstd(usual, axis=1)) < 0.15


def test_noise_of_the_index_in_the_wide_simulation() -> None:
    cube = simulate(benchmark_config("land", shape=SMALL, change_share=0.0), seed=6)
    woods = np.isin(cube.land, [CLASSES.index(name) for name in ("forest", "evergreen", "bamboo")]) & (cube.purity > 0.9)
    series, days = cube.index("NDVI").values[:, 0][:, woods], days_of(cube)
    steps = []
    for column in series.T:
        there = ~np.isnan(column)
        steps.append(np.diff(column[there])[np.diff(days[there]) <= 7])
    noise = 1.4826 * np.median(np.abs(np.concatenate(steps))) / np.sqrt(2)
    assert 0.012 < noise < 0.028


def test_a_part_of_the_cloud_is_called_clear(tile: SimulatedCube) -> None:
    clear = tile.clear.values
    assert 0.005 < (tile.cloud_truth & clear).sum() / clear.sum() < 0.08
    assert (tile.quality.values == QUALITY["snow"]).any()


def test_a_step_of_the_baseline_is_a_step_of_that_size() -> None:
    config = benchmark_config("land", shape=(16, 16), change_share=0.0, **QUIET, **STILL)
    assert config.basin is not None
    stepped = simulate(replace(config, basin=replace(config.basin, baseline_step=0.1)), seed=2)
    plain = simulate(config, seed=2)
    free = ~plain.cloud_truth & ~np.isnan(plain.observed.values[:, 0])
    off = (stepped.observed.values - plain.observed.values).transpose(0, 2, 3, 1)
    late = np.array([day >= date(2022, 1, 25) for day in plain.dates])
    # Thin shadow and thin cloud that do not count as cloud weaken the step by at most 15 and 8 percent; rounding is float32's.
    assert off[late][free[late]].min() > 0.1 * (1 - 0.58 * 0.25) * 0.92 - 1e-6 and off[late][free[late]].max() < 0.1 + 1e-6
    assert np.abs(off[~late][free[~late]]).max() == 0


def test_a_shifted_scene_is_read_between_pixels() -> None:
    rows, cols = np.indices((9, 11), dtype=np.float32)
    ramp = np.stack([2 * rows + 5 * cols, rows - cols])
    moved = _moved(ramp, 0.3, -0.2)
    # Linear interpolation is exact on a plane, edges (which repeat) left out.
    assert np.allclose(moved[0, 1:-1, 1:-1], (ramp + 2 * 0.3 - 5 * 0.2)[0, 1:-1, 1:-1], atol=1e-5)
    assert np.allclose(moved[1, 1:-1, 1:-1], (ramp + 0.3 + 0.2)[1, 1:-1, 1:-1], atol=1e-5)
    assert np.array_equal(_moved(ramp, 0.0, 0.0), ramp)


def test_given_changes_come_into_a_tile_too() -> None:
    config = benchmark_config("land", shape=SMALL, dates=40, change_share=0.0)
    x, y = config.origin
    square = ((x + 100, y - 100), (x + 150, y - 100), (x + 150, y - 150), (x + 100, y - 150))
    pit = Change(name="pit", kind="flooded_pit", polygon=square, day=date(2020, 5, 1), fraction=0.6)
    cube = simulate(replace(config, changes=(pit,)), seed=3)
    expected = np.zeros(SMALL, np.float32)
    expected[10:15, 10:15] = 0.6
    assert np.allclose(cube.fraction, expected, atol=1e-6)
    assert cube.changes == (pit,)


def test_a_tile_is_made_quickly() -> None:
    begun = time.process_time()
    cube = simulate(benchmark_config("water"), seed=8)
    assert cube.observed.shape == (322, 6, 96, 96)
    assert time.process_time() - begun < 60


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "sea"), ("pattern", "daily"), ("dates", 1), ("clear_share", 0.0), ("change_share", 1.5), ("small_cloud", -1.0)],
)
def test_senseless_tiles_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        BasinConfig(**{"kind": "land", field: value})


def test_unknown_and_impossible_settings_of_a_tile_are_refused() -> None:
    with pytest.raises(TypeError):
        benchmark_config("land", cloudiness=0.5)
    with pytest.raises(ValueError, match="do not fit"):
        simulate(benchmark_config("land", shape=(8, 8), end=date(2018, 3, 1)), seed=1)
