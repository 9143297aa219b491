"""The surface model: against the true surface, and cell by cell on made-up points."""

from __future__ import annotations

import numpy as np
import pytest

from drone.surface import SurfaceConfig, build_surface
from drone.types import DenseCloud
from geoevidence.errors import CoverageError
from tests.drone import sample_block as sample


def _cloud(points: np.ndarray, sd: float = 0.01) -> DenseCloud:
    count = len(points)
    return DenseCloud(
        points=np.asarray(points, float),
        colours=np.zeros((count, 3), np.uint8),
        views=np.full(count, 3, np.uint8),
        height_sd=np.full(count, sd, np.float32),
    )


def _field(spacing: float, size: float = 10.0) -> np.ndarray:
    """Points of a level field around the middle of the block, heights 30 m."""
    middle = sample.block(9).points[:, :2].mean(axis=0)
    x, y = np.meshgrid(np.arange(-size / 2, size / 2, spacing), np.arange(-size / 2, size / 2, spacing))
    return np.column_stack([x.ravel() + middle[0], y.ravel() + middle[1], np.full(x.size, 30.0)])


def _build(points: np.ndarray, **settings: float):  # type: ignore[no-untyped-def]
    return build_surface(_cloud(points), sample.block(9), config=SurfaceConfig(**settings))


def test_a_plane_comes_back_exactly() -> None:
    points = _field(0.04)
    middle = points[:, :2].mean(axis=0)
    points[:, 2] = 30 + 0.3 * (points[:, 0] - middle[0]) - 0.2 * (points[:, 1] - middle[1])
    surface = _build(points, cell=0.2)
    z = surface.raster.data[0]
    rows, cols = np.nonzero(np.isfinite(z))
    x, y = surface.raster.grid.transform @ (cols + 0.5, rows + 0.5)
    inner = (np.abs(x - middle[0]) < 4.5) & (np.abs(y - middle[1]) < 4.5)
    expected = 30 + 0.3 * (x - middle[0]) - 0.2 * (y - middle[1])
    # Five points a cell and side: their weighted middle is off the cell's by less than half a spacing, 0.02 m, times the slope.
    assert np.max(np.abs(z[rows, cols] - expected)[inner]) < 0.02 * 0.5


def test_every_cell_has_the_weighted_mean_of_its_own_points() -> None:
    """Against sums over all points at once, on so many cells that many points lie on the border of two in single precision."""
    rng = np.random.default_rng(3)
    middle, cell = sample.block(9).points[:, :2].mean(axis=0), 0.01
    points = np.column_stack([rng.uniform(-10, 10, 600_000), rng.uniform(-1, 1, 600_000), rng.uniform(30, 30.02, 600_000)])
    points[:, :2] += middle
    surface = _build(points, cell=cell, min_patch=0.0, min_layer=0.0, fill_area=0.0)
    shape = surface.raster.grid.shape
    col, row = (np.asarray(part) for part in ~surface.raster.grid.transform @ (points[:, 0], points[:, 1]))
    total, weight = np.zeros(shape), np.zeros(shape)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            r, c = np.floor(row).astype(int) + down, np.floor(col).astype(int) + right
            w = np.maximum(1 - np.abs(col - c - 0.5), 0) * np.maximum(1 - np.abs(row - r - 0.5), 0)
            w = np.where(w > 0, w + 1e-3, 0)
            ok = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
            np.add.at(weight, (r[ok], c[ok]), w[ok])
            np.add.at(total, (r[ok], c[ok]), (w * points[:, 2])[ok])
    z = surface.raster.data[0]
    # Whether a point just reaches a cell is a matter of single precision; such points weigh a thousandth.
    sure = (weight > 0.01) | (weight == 0)
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(np.isfinite(z)[sure], (weight > 0)[sure])
    sure &= weight > 0
    assert np.abs(z - total / np.where(weight > 0, weight, 1))[sure].max() < 0.02 * 0.05


def test_the_upper_of_two_layers_stands_for_the_cell() -> None:
    ground = _field(0.05)
    roof = ground[np.hypot(*(ground[:, :2] - ground[:, :2].mean(axis=0)).T) < 2] + [0, 0, 3.0]
    surface = _build(np.vstack([ground, roof]), cell=0.1)
    z = surface.raster.data[0]
    rows, cols = np.nonzero(np.isfinite(z))
    x, y = surface.raster.grid.transform @ (cols + 0.5, rows + 0.5)
    middle = ground[:, :2].mean(axis=0)
    distance = np.hypot(x - middle[0], y - middle[1])
    np.testing.assert_allclose(z[rows, cols][distance < 1.8], 33.0, atol=1e-4)
    np.testing.assert_allclose(z[rows, cols][distance > 2.2], 30.0, atol=1e-4)


def test_pinholes_are_filled_with_a_larger_error_and_ponds_stay_empty() -> None:
    points = _field(0.05)
    middle = points[:, :2].mean(axis=0)
    distance = np.hypot(*(points[:, :2] - middle - [2, 2]).T)
    pond = np.hypot(*(points[:, :2] - middle + [2, 2]).T)
    surface = _build(points[(distance > 0.15) & (pond > 1.0)], cell=0.05, fill_area=0.15)
    z, sd = surface.raster.data[0], surface.standard_uncertainty.data[0]
    at = ~surface.raster.grid.transform

    def cell(x: float, y: float) -> tuple[int, int]:
        col, row = at @ (middle[0] + x, middle[1] + y)
        return int(row), int(col)

    assert z[cell(2, 2)] == pytest.approx(30.0, abs=1e-4)
    assert sd[cell(2, 2)] >= 0.0069  # 0.7 of the points' own 0.01
    assert surface.density.data[0][cell(2, 2)] == 0
    assert np.isnan(z[cell(-2, -2)]) and np.isnan(sd[cell(-2, -2)])


def test_small_islands_are_dropped() -> None:
    points = _field(0.05)
    island = points[:16] + [8.0, 8.0, 0.0]
    surface = _build(np.vstack([points, island]), cell=0.05, min_patch=0.5)
    assert np.count_nonzero(np.isfinite(surface.raster.data[0])) == pytest.approx(10 * 10 / 0.05**2, rel=0.03)


def test_cells_lie_on_multiples_of_their_size() -> None:
    grid = _build(_field(0.05), cell=0.2).raster.grid
    for edge in (grid.transform.c, grid.transform.f):
        assert abs(edge / 0.2 - round(edge / 0.2)) < 1e-6


def test_no_points_is_an_error() -> None:
    with pytest.raises(CoverageError):
        _build(np.array([[0.0, 0.0, 0.0]]), cell=0.1)


def test_errors_and_coverage_of_the_demonstration_flight() -> None:
    surface = sample.surface(9)
    z, sd = surface.raster.data[0], surface.standard_uncertainty.data[0]
    rows, cols = np.nonzero(np.isfinite(z))
    x, y = surface.raster.grid.transform @ (cols + 0.5, rows + 0.5)
    error = z[rows, cols] - sample.true_heights(x, y)
    land = np.isfinite(error) & (z[rows, cols] > sample.truth()["water"]["level"] + 0.2)
    error, stated = error[land], sd[rows, cols][land]
    noise = 1.4826 * np.median(np.abs(error - np.median(error)))
    assert 0.05 * sample.GSD < noise < 0.5 * sample.GSD
    assert abs(np.median(error)) < 0.1 * sample.GSD
    # Normal errors would give 0.683 and 0.954; edges have longer tails. Poses are true here, so there is nothing else.
    assert 0.60 <= np.mean(np.abs(error) <= stated) <= 0.85
    assert 0.86 <= np.mean(np.abs(error) <= 2 * stated) <= 0.985
    # Nothing is certain: a cell's error is never below a fiftieth of a photo's pixel.
    assert stated.min() > 0.02 * sample.GSD
    assert surface.correlation_m is not None and surface.correlation_m >= surface.raster.grid.resolution[0]


def test_spikes_are_dropped_and_boulders_kept() -> None:
    points = _field(0.05)
    middle = points[:, :2].mean(axis=0)
    distance = np.hypot(*(points[:, :2] - middle - [2, 2]).T)
    boulder = np.hypot(*(points[:, :2] - middle + [2, 2]).T)
    points[distance < 0.08, 2] += 4.0
    points[boulder < 0.4, 2] += 0.8
    surface = _build(points, cell=0.05, min_layer=0.1, fill_area=0.0)
    z = surface.raster.data[0]
    assert np.nanmax(z) == pytest.approx(30.8, abs=1e-3)
    # The spike, with the ring that its points reach, is empty: nothing else is.
    inside = z[20:-20, 20:-20]
    assert 1 <= np.isnan(inside).sum() <= 50
