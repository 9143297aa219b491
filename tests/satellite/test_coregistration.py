"""Shifts that are known: scenes are cut from a finer ground at other places, so no interpolation makes the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from scipy import ndimage

from geoevidence.errors import ConfigError, CoverageError
from geoevidence.raster import Grid
from satellite.coregistration import (
    RegistrationConfig,
    RegistrationStatus,
    _windows,
    measure_registration,
    measure_stack,
)
from satellite.scenes import read_scenes
from satellite.types import Cube, Observed
from tests.satellite.scene_fixtures import CORNER, write_image

FINE, SIDE, EDGE = 5, 112, 6


def fields(
    seed: int, sd: float, *, dates: int = 40, cloud: float = 0.35, noise: float = 0.012
) -> tuple[Cube, NDArray[np.float64]]:
    """Fields with a season of their own, haze, clouds and noise; and the (down, right) shift of each date, px."""
    rng = np.random.default_rng(seed)
    length = (SIDE + 2 * EDGE) * FINE
    count = ((SIDE + 2 * EDGE) // 8) ** 2
    points = rng.random((count, 2)) * length
    marks = np.full((length, length), 0, np.int32)
    marks[points[:, 0].astype(int), points[:, 1].astype(int)] = np.arange(1, count + 1)
    place = ndimage.distance_transform_edt(marks == 0, return_distances=False, return_indices=True)
    field = np.maximum(marks[tuple(place)] - 1, 0)
    level = rng.choice([0.30, 0.03, 0.24, 0.20], count) + rng.normal(0, 0.02, count)
    swing, phase = rng.choice([0.12, 0.0, 0.02, 0.1], count), rng.normal(0, 0.5, count)
    texture = ndimage.gaussian_filter(rng.normal(size=(length, length)), 0.8 * FINE)
    texture *= 0.01 / texture.std()
    days = np.sort(rng.choice(np.arange(1500), dates, replace=False)).astype(np.int32)
    shifts = np.clip(np.rint(rng.normal(0, sd, (dates, 2)) * FINE), -EDGE * FINE, EDGE * FINE) / FINE
    stored = np.zeros((dates, 2, SIDE, SIDE), np.float32)
    observed = np.zeros((dates, SIDE, SIDE), np.uint8)
    for t in range(dates):
        top, left = (EDGE * FINE - np.rint(shifts[t] * FINE)).astype(int)
        cut = (slice(top, top + SIDE * FINE), slice(left, left + SIDE * FINE))
        nir = level + swing * np.cos(2 * np.pi * (days[t] - 200) / 365.2425 + phase)
        for band, values in enumerate((nir, 0.25 - 0.5 * nir + rng.normal(0, 0.005, count))):
            ground = values[field[cut]] + texture[cut]
            stored[t, band] = ground.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
        haze = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 20)
        stored[t] += 0.01 * haze / haze.std() + rng.normal(0, noise, (2, SIDE, SIDE))
        cover = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 8)
        observed[t][cover < np.quantile(cover, np.clip(rng.normal(cloud, 0.25), 0, 1))] = Observed.CLOUD
    stored[3, :, :, 40:44], observed[3, :, 40:44] = 0, Observed.FAILED_READ
    grid = Grid(shape=(SIDE, SIDE), transform=Affine(10, 0, CORNER[0], 0, -10, CORNER[1]), crs=CRS.from_epsg(32650))
    return Cube(stored=stored, observed=observed, days=days, bands=("nir", "red"), grid=grid), shifts


CONFIG = RegistrationConfig(block=16, min_blocks=9)


@pytest.mark.parametrize("seed, sd", [(101, 0.25), (102, 0.6)])
def test_known_shifts_come_back(seed: int, sd: float) -> None:
    cube, truth = fields(seed, sd)
    found = measure_registration(cube, CONFIG)
    measured = found.status == RegistrationStatus.MEASURED
    assert measured.sum() >= 20 and found.dates == measured.sum()
    # The shifts are against the stack's own centre: one common shift is nobody's error.
    error = found.shift[measured] - truth[measured]
    error -= np.median(error, axis=0)
    # Noise and cells coarser than the ground give 0.02 to 0.03; the reference is blurred by a share of the spread itself.
    assert np.sqrt((error**2).mean()) < 0.03 + 0.06 * sd and np.abs(error).max() < 0.1 + 0.2 * sd
    # Claimed errors are neither too small nor too large: over 2 x 20 or more values the root mean square of a standardised
    # error that is stated rightly lies within 0.78 to 1.22 (chi-square, 95 %); a factor of 1.7 is left for its own error.
    ratio = float(np.sqrt(((error / found.sd[measured]) ** 2).mean()))
    assert 0.78 / 1.7 < ratio < 1.22 * 1.7
    spread = float(np.sqrt(truth[measured].var(axis=0, ddof=1).mean()))
    assert found.sd_pixels == pytest.approx(spread, rel=0.1) and found.sd_pixels <= found.sd_observed
    far = {int(day) for day, shift in zip(cube.days[measured], truth[measured], strict=True) if np.hypot(*shift) > 0.6}
    near = {int(day) for day, shift in zip(cube.days[measured], truth[measured], strict=True) if np.hypot(*shift) < 0.4}
    assert far <= set(found.shifted()) and not near & set(found.shifted())


def test_scenes_that_lie_on_each_other_have_almost_no_spread() -> None:
    cube, truth = fields(103, 0.0)
    found = measure_registration(cube, CONFIG)
    assert not truth.any() and found.sd_pixels < 0.015 and not found.shifted()


def test_what_cannot_be_measured_has_a_status() -> None:
    cube, _ = fields(104, 0.1, dates=30)
    observed = cube.observed.copy()
    observed[2] = Observed.CLOUD
    stored = cube.stored.copy()
    stored[4] = np.float32(0.2) + np.random.default_rng(1).normal(0, 0.02, stored[4].shape).astype(np.float32)
    observed[4] = Observed.CLEAR
    stored[6] = np.roll(stored[6], 7, axis=1)
    observed[6] = Observed.CLEAR
    found = measure_registration(replace(cube, stored=stored, observed=observed), CONFIG)
    assert found.status[2] == RegistrationStatus.TOO_FEW and np.isnan(found.shift[2]).all()
    assert found.status[4] != RegistrationStatus.MEASURED and np.isnan(found.sd[4]).all()
    assert found.status[6] != RegistrationStatus.MEASURED


def test_a_stack_is_measured_in_a_few_windows(tmp_path: Path) -> None:
    cube, truth = fields(105, 0.3, dates=24, cloud=0.2)
    (tmp_path / "stack.toml").write_text('bands = ["nir", "red"]\nscale = 0.0001\nquality = "q"\nclear = [1]\n')
    start = np.datetime64("2020-01-01")
    for t, day in enumerate(cube.days):
        data = np.concatenate([np.rint(cube.stored[t] * 1e4), (cube.observed[t] == 0)[None]]).astype(np.int16)
        write_image(tmp_path / f"s_{str(start + int(day)).replace('-', '')}.tif", data, cell=10)
    stack = read_scenes(tmp_path)
    config = replace(CONFIG, windows=4, window=64, min_blocks=6, search=2)
    found = measure_stack(stack, config, threads=2)
    again = measure_stack(stack, config)
    assert np.array_equal(found.shift, again.shift, equal_nan=True)
    measured = found.status == RegistrationStatus.MEASURED
    assert measured.sum() >= 12
    error = found.shift[measured] - truth[measured]
    error -= np.median(error, axis=0)
    assert np.sqrt((error**2).mean()) < 0.12
    assert (np.isfinite(found.shift).all(axis=1) == measured).all()


def test_settings_and_sizes() -> None:
    with pytest.raises(ConfigError):
        RegistrationConfig(window=10)
    cube, _ = fields(106, 0.0, dates=5)
    small = Cube(
        stored=cube.stored[:, :, :20, :20],
        observed=cube.observed[:, :20, :20],
        days=cube.days,
        bands=cube.bands,
        grid=replace(cube.grid, shape=(20, 20)),
    )
    assert (measure_registration(small).status == RegistrationStatus.TOO_FEW).all()


def test_a_stack_that_is_too_small(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text('bands = ["red"]\nscale = 1.0\n')
    write_image(tmp_path / "a_20200101.tif", np.zeros((20, 20), np.int16), cell=10)
    with pytest.raises(CoverageError) as caught:
        measure_stack(read_scenes(tmp_path))
    assert caught.value.message_id == "satellite.too_small_to_register"


def test_windows_lie_in_one_block_of_the_files_where_they_can() -> None:
    """Across an edge of blocks twice as much would be decoded."""
    config = RegistrationConfig()
    for shape in ((1024, 1024), (10980, 10980), (700, 3000)):
        found = _windows(shape, config)
        assert len(found) >= config.windows
        for window in found:
            for start, length, size in ((window.row_off, window.height, shape[0]), (window.col_off, window.width, shape[1])):
                assert start >= 0 and start + length <= size and start // 512 == (start + length - 1) // 512
