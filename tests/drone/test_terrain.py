"""Bare ground under made-up things on known ground."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray

from drone.terrain import TerrainConfig, build_terrain
from drone.types import SurfaceModel
from geoevidence.crs import parse_crs
from geoevidence.errors import ConfigError, CoverageError
from geoevidence.raster import Grid, Raster

CELL = 0.1


def _axes(size: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    side = np.arange(CELL / 2, size, CELL)
    x, y = np.meshgrid(side, side)
    return x, y


def _surface(z: NDArray[np.float64], sd: float = 0.02) -> SurfaceModel:
    grid = Grid(shape=z.shape, transform=Affine(CELL, 0, 500000, 0, -CELL, 4000000), crs=parse_crs("EPSG:32650"))

    def raster(values: NDArray[np.float64], unit: str) -> Raster:
        return Raster(
            data=np.where(np.isfinite(z), values, np.nan).astype(np.float32)[None], grid=grid, nodata=float("nan"), unit=unit
        )

    return SurfaceModel(
        raster=raster(z, "m"),
        kind="dsm",
        height_kind="ellipsoidal",
        standard_uncertainty=raster(np.full(z.shape, sd), "m"),
        density=raster(np.full(z.shape, 100.0), "m-2"),
        correlation_m=0.2,
    )


def _ground(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """A slope of 15 % with long waves: 0.1 m over 15 m."""
    return 20 + 0.15 * x + 0.1 * np.sin(2 * np.pi * y / 15)


def test_roofs_and_crowns_are_taken_off_and_heaps_and_holes_stay() -> None:
    x, y = _axes(50)
    ground = _ground(x, y)
    heap = np.maximum(0, 3.5 - 0.67 * np.hypot(x - 36, y - 36))
    hole = -np.minimum(3.0, np.maximum(0, (7 - np.hypot(x - 12, y - 36)) * 0.7))
    roof = (np.abs(x - 14) < 5) & (np.abs(y - 12) < 4)
    crown = np.sqrt(np.maximum(0, 4 - (x - 38) ** 2 - (y - 12) ** 2))
    z = ground + heap + hole + 4.0 * roof + np.where(crown > 0, crown + 1.0, 0)
    terrain = build_terrain(_surface(z))
    assert terrain.kind == "dtm" and terrain.correlation_m == 0.2
    found, sd, density = (part.data[0] for part in (terrain.raster, terrain.standard_uncertainty, terrain.density) if part)
    things = roof | (crown > 0)
    assert np.all(density[things] == 0)
    away = ~(roof | (crown > 0)) & (np.hypot(x - 14, y - 12) > 8) & (np.hypot(x - 38, y - 12) > 3.5)
    # Measured ground is untouched: float32 at 30 m.
    np.testing.assert_allclose(found[away], (ground + heap + hole)[away], atol=4e-6)
    assert np.all(density[away] > 0) and np.allclose(sd[away], 0.02)
    # Under the roof the waves bend by 0.1 (1 - cos(pi 8 / 15)) = 0.11 m at most over its 8 m; the slope is drawn exactly.
    assert np.max(np.abs(found - ground)[things]) < 0.12
    assert np.mean((np.abs(found - ground) <= 2 * sd)[things]) > 0.6
    assert sd[roof].max() > 0.02


def test_what_is_empty_stays_empty() -> None:
    x, y = _axes(20)
    z = _ground(x, y)
    lake = np.hypot(x - 10, y - 10) < 4
    z[lake] = np.nan
    terrain = build_terrain(_surface(z))
    np.testing.assert_array_equal(np.isnan(terrain.raster.data[0]), lake)
    assert terrain.density is not None and np.isnan(terrain.density.data[0][lake]).all()


def test_a_shift_of_all_heights_shifts_the_ground_and_nothing_else() -> None:
    x, y = _axes(20)
    z = _ground(x, y) + 3.0 * ((np.abs(x - 10) < 2) & (np.abs(y - 9) < 3))
    low, high = build_terrain(_surface(z)), build_terrain(_surface(z + 64))
    # A power of two: exact but for the last bits of float32 heights.
    np.testing.assert_allclose(high.raster.data[0] - 64, low.raster.data[0], atol=2e-5)


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(CoverageError):
        build_terrain(_surface(np.full((50, 50), np.nan)))
    with pytest.raises(ConfigError):
        TerrainConfig(step=0)
