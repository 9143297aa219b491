"""The simulator states a truth; these tests hold the pictures against it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoevidence.raster import read_raster
from satellite.synthetic import (
    BANDS,
    CLASSES,
    CLEAR,
    QUALITY,
    Change,
    SimulatedCube,
    SimulationConfig,
    scene_name,
    simulate,
    truth_geojson,
    write_stack,
)

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
