"""The judge of drone products must return the errors that were put in, and the peers' similarity those it was made with."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from bench.drone_peers import similarity
from bench.drone_scoring import GROUND, ROOF, WATER, Reference, score_ortho, score_points, score_surface

GSD, CELL = 0.05, 0.125
SIDE = 40.0


def _height(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """A tilted plane, a house of 4 m, a cone of 2 m and radius 4 m, a pit likewise."""
    z = 20 + 0.02 * x + np.where((abs(x - 10) < 4) & (abs(y - 10) < 3), 4.0, 0.0)
    return z + np.clip(2 - np.hypot(x + 8, y) / 2, 0, None) - np.clip(2 - np.hypot(x - 8, y + 8) / 2, 0, None)


def _ring(x: float, y: float) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, 65)
    return np.column_stack([x + 4.6 * np.cos(angle), y + 4.6 * np.sin(angle)])


_NOISE = gaussian_filter(np.random.default_rng(5).standard_normal((2400, 2400)), 2.0, mode="wrap")
_NOISE = 128 + 40 * _NOISE / _NOISE.std()


def _reference() -> Reference:
    def surface(east: NDArray[np.float64], north: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        kind = np.full(np.shape(east), GROUND, np.uint8)
        kind[(abs(east - 10) < 4) & (abs(north - 10) < 3)] = ROOF
        kind[east < -15] = WATER
        return _height(east, north), kind

    def colours(east: NDArray[np.float64], north: NDArray[np.float64], cell: float) -> NDArray[np.uint8]:
        from scipy.ndimage import map_coordinates

        grey = map_coordinates(_NOISE, [(north + 30) / 0.025, (east + 30) / 0.025], order=1, mode="grid-wrap")
        return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)

    volume = np.pi * 4**2 * 2 / 3
    return Reference(
        gsd=GSD,
        surface=surface,
        views=lambda e, n, h: np.full(np.shape(e), 5, np.uint8),
        colours=colours,
        area=(-SIDE / 2, -SIDE / 2, SIDE / 2, SIDE / 2),
        points={"Q1": (1.0, 2.0, 3.0), "Q2": (4.0, 5.0, 6.0)},
        bodies={"pile": (_ring(-8, 0), volume, 1), "pit": (_ring(8, -8), volume, -1)},
    )


def _frame(cell: float) -> tuple[Affine, NDArray[np.float64], NDArray[np.float64]]:
    count = round(SIDE / cell)
    col, row = np.meshgrid(np.arange(count) + 0.5, np.arange(count) + 0.5)
    return Affine(cell, 0, -SIDE / 2, 0, -cell, SIDE / 2), -SIDE / 2 + col * cell, SIDE / 2 - row * cell


def test_noise_bias_and_holes_come_back_at_their_size() -> None:
    transform, east, north = _frame(CELL)
    rng = np.random.default_rng(3)
    heights = _height(east, north) + 0.4 * GSD + 0.5 * GSD * rng.standard_normal(east.shape)
    heights[(np.hypot(east - 1, north - 14) < 2)] = np.nan
    found = score_surface(heights, transform, _reference())
    # more than 50 000 cells: the standard error of a median or of a deviation is under 1 % of the noise
    assert found["bias"] == pytest.approx(0.4, abs=0.02)
    assert found["nmad"] == pytest.approx(0.5, abs=0.02)
    assert found["rmse"] == pytest.approx(np.hypot(0.4, 0.5), abs=0.02)
    assert found["flat_noise"] == pytest.approx(0.5, abs=0.02)
    land = east > -15
    assert found["complete"] == pytest.approx(1 - (np.hypot(east - 1, north - 14) < 2).sum() / land.sum(), abs=1e-3)
    assert found["water_filled"] == 1
    # noise of the mean over a ring's cells: 0.5 * 0.05 m / sqrt(4000) * 66 m2 = 0.03 m3 of 33.5; the cells' corners of the cone as much
    assert abs(found["volume_pile"]) < 0.006 and abs(found["volume_pit"]) < 0.006


def test_a_slow_tilt_is_trend_and_not_noise() -> None:
    transform, east, north = _frame(CELL)
    found = score_surface(_height(east, north) + 0.003 * north, transform, _reference())
    assert found["flat_noise"] < 0.12
    assert found["trend"] > 0.2


def test_gross_errors_are_counted_on_flat_ground_only() -> None:
    transform, east, north = _frame(CELL)
    heights = _height(east, north)
    heights[(abs(east - 10) < 4.1) & (abs(north - 10) < 3.1)] = 24.2  # an eave 10 cm too wide lies at an edge
    assert score_surface(heights, transform, _reference())["gross"] == 0
    heights[(abs(east + 2) < 1) & (abs(north + 14) < 1)] += 10 * GSD
    found = score_surface(heights, transform, _reference())
    assert 0.0015 < found["gross"] < 0.006  # 4 m2 of some 1000
    assert found["rmse"] > 0.4


def test_finer_cells_are_averaged_first() -> None:
    transform, east, north = _frame(CELL / 2)
    heights = _height(east, north) + GSD * np.random.default_rng(4).standard_normal(east.shape)
    found = score_surface(heights, transform, _reference())
    assert found["cell_gsd"] == pytest.approx(2.5)
    assert found["nmad"] == pytest.approx(0.5, abs=0.03)  # a mean of four


def test_displacement_comes_back() -> None:
    transform, east, north = _frame(GSD)
    reference = _reference()
    moved = reference.colours(east - 0.4 * GSD, north + 0.7 * GSD, GSD)  # things lie 0.4 cells east, 0.7 south of where they are
    found = score_ortho(moved, np.ones(east.shape, bool), transform, reference)
    # cubic interpolation is off by some hundredths of a cell between cells
    assert found["shift_e"] == pytest.approx(0.4, abs=0.03)
    assert found["shift_n"] == pytest.approx(-0.7, abs=0.03)
    assert found["rms"] == pytest.approx(np.hypot(0.4, 0.7), abs=0.03)
    assert found["matched"] > 0.98 and found["drawn"] == 1


def test_check_points_in_gsd() -> None:
    found = score_points({"Q1": (1.03, 2.04, 3.0), "Q2": (4.0, 5.0, 6.1), "unknown": (0.0, 0.0, 0.0)}, _reference())
    assert found["check_points"] == 2
    assert found["plan_rmse"] == pytest.approx(np.sqrt(0.05**2 / 2) / GSD)
    assert found["height_rmse"] == pytest.approx(np.sqrt(0.1**2 / 2) / GSD)


def test_similarity_of_noiseless_points_is_exact() -> None:
    rng = np.random.default_rng(8)
    source = rng.normal(size=(7, 3))
    turn = Rotation.from_rotvec([0.3, -1.1, 2.0]).as_matrix()
    scale, found, shift = similarity(source, 3.7 * source @ turn.T + np.array([5.0, -2.0, 1.0]))
    assert scale == pytest.approx(3.7)
    np.testing.assert_allclose(found, turn, atol=1e-12)
    np.testing.assert_allclose(shift, [5.0, -2.0, 1.0], atol=1e-12)
