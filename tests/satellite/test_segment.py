"""Breaks against simulated truth; what must not matter does not; what is not seen is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from geoevidence.errors import ConfigError, CoverageError, HistoryTooShortError
from geoevidence.raster import Grid
from satellite.segment import BreakConfig, detect_block, detect_breaks, join_rows, keep_supported
from satellite.synthetic import SimulatedCube, SimulationConfig, simulate
from satellite.types import NODATE, BreakMap, Cube, Observed, Status

from .conftest import plain_cube

ARRAYS = ("break_date", "last_clear_before", "first_clear_after", "magnitude", "score", "observations", "status")


def same(one: BreakMap, other: BreakMap) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name in ("magnitude", "score")) for name in ARRAYS
    )


def hits(breaks: BreakMap, day: int, within: int) -> np.ndarray:
    """(y, x) bool: a break within so many days of `day`."""
    found = breaks.break_date != NODATE
    return (found & (np.abs(breaks.break_date.astype(np.int64) - day) <= within)).any(axis=0)


def cube_of(site: SimulatedCube) -> Cube:
    observed = np.where(site.clear.values, np.uint8(Observed.CLEAR), np.uint8(Observed.CLOUD))
    observed[site.quality.values == 0] = Observed.NOT_OBSERVED
    days = site.observed["time"].values.astype("datetime64[D]").astype(np.int32)
    bands = tuple(site.observed["band"].values.tolist())
    return Cube(stored=site.reflectance.values, observed=observed, days=days, bands=bands, grid=site.grid)


@pytest.fixture(scope="module")
def shifted() -> tuple[xr.DataArray, BreakMap]:
    cube = plain_cube(pixels=300, seed=1, shift=0.06)
    return cube, detect_breaks(cube)


def test_shift_is_found_dated_and_signed(shifted: tuple[xr.DataArray, BreakMap]) -> None:
    cube, breaks = shifted
    first = int(cube["time"].values[0].astype("datetime64[D]").astype(int))
    day = first + 904  # day 900 is between the dates 896 and 904
    # A date is missing with probability 0.4: five in a row, 40 days, in about one of a hundred pixels.
    assert hits(breaks, day, 40).mean() >= 0.98
    one = (breaks.break_date[0] != NODATE) & (breaks.status == Status.CHANGE)
    inside = (breaks.last_clear_before[0] < day) & (day <= breaks.first_clear_after[0])
    # Noise makes single dates look like the other state: the interval then misses by a date or two in a few percent.
    assert inside[one].mean() >= 0.93
    # Dates are 8 days apart and 60 % are clear: intervals of 8 to 40 days; a narrower median would be invented.
    assert 8 <= np.median((breaks.first_clear_after - breaks.last_clear_before)[0][one]) <= 24
    # NDVI of the noise-free curve falls from (nir, red) to (nir - 0.06, red + 0.06).
    t = np.arange(0, 365)
    cosine = np.cos(2 * np.pi * (t - 200) / 365.2425)
    nir, red = 0.30 + 0.10 * cosine, 0.07 - 0.03 * cosine
    expected = np.mean((nir - red - 0.12) / (nir + red) - (nir - red) / (nir + red))
    assert breaks.magnitude_of == "NDVI"
    # The mean over the dates seen is not the mean over the year: within 15 %.
    assert np.median(breaks.magnitude[0][one]) == pytest.approx(expected, rel=0.15)


def test_stable_pixels_stay_quiet() -> None:
    """False breaks of plain stable pixels: the accepted rate 0.003 a year bounds 2000 pixels x 4.1 years at 25 expected."""
    breaks = detect_breaks(plain_cube(pixels=2000, seed=2))
    false = int((breaks.break_date != NODATE).sum())
    # Poisson with mean 25 is below 41 with probability 0.999; the model is exactly true here, so far fewer are expected.
    assert false <= 40
    assert (breaks.status == Status.NO_CHANGE).mean() > 0.99


def test_score_grows_with_the_shift() -> None:
    medians = []
    for shift in (0.03, 0.06, 0.12):
        breaks = detect_breaks(plain_cube(pixels=60, seed=3, shift=shift), BreakConfig(false_alarm_rate=0.03, min_shift=0.0))
        medians.append(float(np.nanmedian(breaks.score[0])))
    assert medians[0] < medians[1] < medians[2]
    # The reference scatter does not depend on the shift: doubling one doubles the other, within the phase allowance.
    assert 1.5 < medians[2] / medians[1] < 2.5


def test_threads_order_of_time_and_bands_do_not_matter(shifted: tuple[xr.DataArray, BreakMap]) -> None:
    cube, breaks = shifted
    wide = xr.concat([cube.isel(x=slice(k, k + 100)) for k in (0, 100, 200)], dim="y")
    reference = detect_breaks(wide, threads=1)
    assert same(reference, detect_breaks(wide, threads=4))
    rng = np.random.default_rng(4)
    shuffled = wide.isel(time=rng.permutation(wide.sizes["time"]), band=[2, 0, 3, 1])
    assert same(reference, detect_breaks(shuffled))
    assert same(breaks, detect_breaks(cube.transpose("y", "x", "time", "band")))


def test_blocks_join_to_the_whole(site: SimulatedCube) -> None:
    cube, config = cube_of(site), BreakConfig()
    whole = keep_supported(detect_block(cube, config), config)

    def rows(a: int, b: int) -> Cube:
        transform = site.grid.transform @ type(site.grid.transform).translation(0, a)
        grid = Grid(shape=(b - a, 40), transform=transform, crs=site.grid.crs)
        return replace(cube, stored=cube.stored[:, :, a:b], observed=cube.observed[:, a:b], grid=grid)

    parts = [detect_block(rows(a, b), config) for a, b in ((0, 7), (7, 23), (23, 40))]
    assert same(whole, keep_supported(join_rows(parts, site.grid), config))
    assert same(whole, detect_breaks(cube, config))


def test_values_of_unclear_observations_are_never_used(site: SimulatedCube) -> None:
    cube = cube_of(site)
    values = np.where((cube.observed == Observed.CLEAR)[:, None], cube.values, np.float32(7.0))
    assert same(detect_breaks(cube), detect_breaks(replace(cube, stored=values)))


def test_unseen_pixels_have_their_reason(site: SimulatedCube) -> None:
    cube = cube_of(site)
    observed = cube.observed.copy()
    observed[:, 0, 0] = Observed.CLOUD
    observed[:, 0, 1] = Observed.NOT_OBSERVED
    observed[:, 0, 2] = Observed.FAILED_READ
    observed[3:, 0, 3] = Observed.NOT_OBSERVED
    observed[:20, 0, 4] = Observed.FAILED_READ
    observed[20:, 0, 4] = Observed.CLOUD
    observed[30:, 0, 4] = Observed.CLEAR
    observed[34:, 0, 4] = Observed.NOT_OBSERVED
    breaks = detect_breaks(replace(cube, observed=observed))
    expected = [Status.CLOUD, Status.NOT_OBSERVED, Status.FAILED_READ, Status.TOO_FEW]
    assert breaks.status[0, :4].tolist() == [int(status) for status in expected]
    assert breaks.status[0, 4] not in (Status.NO_CHANGE, Status.CHANGE)
    assert (breaks.break_date[:, 0, :5] == NODATE).all()


def test_two_years_are_needed() -> None:
    with pytest.raises(HistoryTooShortError) as caught:
        detect_breaks(plain_cube(pixels=2, seed=5, days=700))
    assert caught.value.message_id == "satellite.history_too_short" and caught.value.values["needed"] == 730


def test_nothing_clear_is_an_error_not_a_map() -> None:
    cube = plain_cube(pixels=2, seed=6)
    with pytest.raises(CoverageError) as caught:
        detect_breaks(cube * np.nan)
    assert caught.value.message_id == "satellite.nothing_clear"


def test_two_dates_of_one_day_are_refused() -> None:
    cube = plain_cube(pixels=2, seed=7)
    with pytest.raises(ValueError, match="unique"):
        detect_breaks(xr.concat([cube, cube.isel(time=[3])], dim="time"))


@pytest.mark.parametrize("field, value", [("false_alarm_rate", 0.5), ("min_segment", 0), ("water_index", 3.0)])
def test_settings_out_of_range(field: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        BreakConfig(**{field: value})
    assert caught.value.values["name"] == field


def test_smaller_rate_asks_for_a_larger_score() -> None:
    scores = [BreakConfig(false_alarm_rate=rate).min_score for rate in (0.03, 0.01, 0.003, 0.001, 0.0001)]
    assert scores == sorted(scores) and len(set(scores)) == 5


def test_floods_are_water_level_and_a_lasting_pit_is_not() -> None:
    """A flat that drowns 60 days every summer, at another height each year, and a field that becomes a pond."""
    rng = np.random.default_rng(8)
    t = np.arange(0, 1800, 8)
    land, water = np.array([0.10, 0.12, 0.14, 0.25, 0.28, 0.22]), np.array([0.07, 0.08, 0.06, 0.03, 0.012, 0.01])
    values = np.repeat(land[None, :, None], len(t), axis=0) * np.ones((1, 1, 40))
    for pixel in range(20):
        for year in range(5):
            start, length = 365 * year + 170 + rng.integers(0, 30), rng.integers(0, 90)
            values[(t >= start) & (t < start + length), :, pixel] = water[None]
    values[t >= 1000, :, 20:] = water[None, :, None]
    values = values * rng.normal(1, 0.03, values.shape)
    time = np.datetime64("2019-01-01", "ns") + t.astype("timedelta64[D]")
    bands = ["blue", "green", "red", "nir", "swir1", "swir2"]
    cube = xr.DataArray(values[:, :, None], dims=("time", "band", "y", "x"), coords={"time": time, "band": bands})
    status = detect_breaks(cube).status[0]
    assert (status[:20] == Status.NO_CHANGE).all()
    assert (status[20:] == Status.CHANGE).all()


@pytest.mark.slow
def test_accuracy_on_a_simulated_site() -> None:
    """F1, false alarms and date error on seeds that no setting was chosen on, between bounds on both sides."""
    positives = true = wrong = stable = false = 0
    errors: list[float] = []
    covered: list[bool] = []
    for seed in (7001, 7002):
        site = simulate(SimulationConfig(random_changes=50), seed=seed)
        breaks = detect_breaks(site.reflectance)
        found = breaks.break_date != NODATE
        truth = site.break_date.astype("datetime64[D]").astype(np.int64)
        apart = np.where(found, np.abs(breaks.break_date - truth[None]), 10**6)
        best = apart.argmin(axis=0)
        hit = np.take_along_axis(apart, best[None], axis=0)[0] <= 90
        abrupt = (site.fraction >= 0.5) & (site.kind != 4)
        years = (breaks.last_day - breaks.first_day) / 365.25
        positives += int(abrupt.sum())
        true += int((hit & abrupt).sum())
        wrong += int((found.any(axis=0) & site.stable).sum() + (found.any(axis=0) & ~hit & abrupt).sum())
        stable += float(site.stable.sum()) * years
        false += int(found[:, site.stable].sum())
        errors += np.take_along_axis(apart, best[None], axis=0)[0][hit & abrupt].tolist()
        before = np.take_along_axis(breaks.last_clear_before, best[None], axis=0)[0]
        after = np.take_along_axis(breaks.first_clear_after, best[None], axis=0)[0]
        covered += ((before < truth) & (truth <= after))[hit & abrupt].tolist()
    f1 = 2 * true / (positives + true + wrong)
    assert positives > 150
    assert f1 >= 0.95
    assert false / stable <= 0.003
    # Dates are at best 10 days apart, so a median error below 2 days would be luck; 7 is asked for, one scene more allowed.
    assert 2 <= np.median(errors) <= 10
    # Scenes with unmasked haze sometimes pass for the other state; more than 5 % would make the interval a claim too far.
    assert np.mean(covered) >= 0.95


@pytest.mark.slow
def test_single_index_cube_works(site: SimulatedCube) -> None:
    values = site.reflectance
    nir, red = values.sel(band="nir", drop=True), values.sel(band="red", drop=True)
    cube = ((nir - red) / (nir + red)).expand_dims(band=["NDVI"], axis=1)
    breaks = detect_breaks(cube)
    changed = site.fraction >= 0.99
    assert breaks.magnitude_of == "NDVI"
    assert (breaks.status[site.stable] == Status.CHANGE).mean() < 0.02
    assert hits(breaks, int(site.break_date[changed][0].astype(int)), 90)[changed].mean() > 0.5


@pytest.mark.parametrize("kind", ["zero", "constant", "digital numbers", "cauchy", "mostly missing", "explosion"])
@pytest.mark.parametrize("bands", [1, 6, 10])
def test_strange_values_give_ordered_finite_results(kind: str, bands: int) -> None:
    rng = np.random.default_rng(len(kind) + bands)
    values = rng.normal(0.3, 0.02, (90, bands, 3, 17))
    if kind == "zero":
        values[:] = 0.0
    elif kind == "constant":
        values[:] = 0.25
    elif kind == "digital numbers":
        values *= 1e5
    elif kind == "cauchy":
        values = rng.standard_cauchy(values.shape)
    elif kind == "mostly missing":
        values[np.repeat(rng.random((90, 1, 3, 17)) < 0.75, bands, axis=1)] = np.nan
    else:
        values[45:] *= -1e6
    names = ["blue", "green", "red", "nir", "swir1", "swir2", "a", "b", "c", "d"][:bands]
    time = np.datetime64("2018-01-01", "ns") + np.arange(90) * np.timedelta64(20, "D")
    cube = xr.DataArray(values.astype(np.float32), dims=("time", "band", "y", "x"), coords={"time": time, "band": names})
    breaks = detect_breaks(cube)
    found = breaks.break_date != NODATE
    assert (breaks.last_clear_before[found] <= breaks.break_date[found]).all()
    assert (breaks.break_date[found] <= breaks.first_clear_after[found]).all()
    assert np.isfinite(breaks.score[found]).all() and np.isfinite(breaks.magnitude[found]).all()
    if kind in ("zero", "constant"):
        assert not found.any()
