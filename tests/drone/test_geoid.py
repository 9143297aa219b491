"""Heights above a geoid model: read from both formats, taken off cell by cell, refused where the model does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from drone.geoid import block_above_geoid, cloud_above_geoid, read_undulation, surface_above_geoid
from drone.types import DenseCloud, SurfaceModel
from geoevidence.crs import parse_crs, transformer
from geoevidence.errors import CoverageError, CrsError, FormatError, InputError
from geoevidence.raster import Grid, Raster
from tests.drone import sample_block as sample

CRS = parse_crs("EPSG:4547")
WEST, NORTH = 527_000.0, 3_360_000.0
BOUNDS = (WEST, NORTH - 400, WEST + 600, NORTH)


def _undulation(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """A plane, so that bilinear reading is exact."""
    return -15.0 + 0.8 * (lon - 114.3) - 0.5 * (lat - 30.3)


def _grid(path: Path, *, turn: float = 0.0, driver: str = "GTiff", crs: str | None = "EPSG:4326", west: float = 113.0) -> Path:
    step, size = 0.05, (60, 60)
    lon = west + np.arange(size[1]) * step
    lat = 32.0 - np.arange(size[0]) * step
    values = _undulation(*np.meshgrid(lon, lat)).astype(np.float32)
    profile = {"driver": driver, "count": 1, "height": size[0], "width": size[1], "dtype": "float32"}
    transform = Affine(step, 0, west + turn - step / 2, 0, -step, 32.0 + step / 2)
    with rasterio.open(path, "w", **profile, transform=transform, crs=crs) as target:
        target.write(values, 1)
    return path


@pytest.mark.parametrize(("name", "turn"), [("geoid.tif", 0.0), ("geoid.tif", -360.0), ("geoid.gtx", 0.0)])
def test_the_undulation_is_that_of_the_grid(tmp_path: Path, name: str, turn: float) -> None:
    driver = "GTX" if name.endswith("gtx") else "GTiff"
    found = read_undulation(_grid(tmp_path / name, turn=turn, driver=driver), BOUNDS, CRS)
    x, y = np.array([WEST + 1, WEST + 300, WEST + 599]), np.array([NORTH - 399, NORTH - 200, NORTH - 1])
    lon, lat = transformer(CRS, parse_crs("EPSG:4490")).transform(x, y)
    # float32 of 15 m: 1e-6; the map projection bends by less than that over 600 m
    np.testing.assert_allclose(found.at(x, y), _undulation(np.array(lon), np.array(lat)), atol=5e-6)
    assert found.digest.startswith("sha256:") and found.middle == round(found.middle, 3)


def test_heights_of_surface_cloud_and_block_move_together(tmp_path: Path) -> None:
    geoid = read_undulation(_grid(tmp_path / "geoid.tif"), BOUNDS, CRS)
    z = np.full((1, 40, 60), 30.0, np.float32)
    z[0, 3, 4] = np.nan
    grid = Grid(shape=(40, 60), transform=Affine(10, 0, WEST, 0, -10, NORTH), crs=CRS)
    raster = Raster(data=z, grid=grid, nodata=float("nan"), unit="m")
    surface = SurfaceModel(raster=raster, kind="dsm", height_kind="ellipsoidal", standard_uncertainty=None, density=None)
    lowered = surface_above_geoid(surface, geoid)
    assert lowered.height_kind == "orthometric" and np.isnan(lowered.raster.data[0, 3, 4])
    points = np.array([[WEST + 5.0, NORTH - 5.0, 30.0], [WEST + 595.0, NORTH - 395.0, 30.0]])
    cloud = DenseCloud(
        points=points, colours=np.zeros((2, 3), np.uint8), views=np.ones(2, np.uint8), height_sd=np.ones(2, np.float32)
    )
    moved = cloud_above_geoid(cloud, geoid).points[:, 2]
    np.testing.assert_allclose(moved, [lowered.raster.data[0, 0, 0], lowered.raster.data[0, 39, 59]], atol=4e-6)
    assert 44 < moved[0] < 46
    block = sample.block(4)
    down = block_above_geoid(block, geoid)
    name = sorted(block.poses)[0]
    np.testing.assert_allclose(block.poses[name].C[2] - down.poses[name].C[2], geoid.middle)
    np.testing.assert_allclose(block.points[:, 2] - down.points[:, 2], geoid.middle)
    with pytest.raises(InputError) as caught:
        block_above_geoid(down, geoid)
    assert caught.value.message_id == "drone.geoid_needs_ellipsoidal"


def test_a_grid_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CoverageError):
        read_undulation(_grid(tmp_path / "a.tif", west=100.0), BOUNDS, CRS)
    with pytest.raises(CrsError):
        read_undulation(_grid(tmp_path / "b.tif", crs="EPSG:4547"), BOUNDS, CRS)
    (tmp_path / "c.gtx").write_bytes(b"no grid")
    with pytest.raises(FormatError):
        read_undulation(tmp_path / "c.gtx", BOUNDS, CRS)
    with rasterio.open(_grid(tmp_path / "d.tif"), "r+") as target:
        target.write(np.full((60, 60), 900, np.float32), 1)
    with pytest.raises(FormatError) as caught:
        read_undulation(tmp_path / "d.tif", BOUNDS, CRS)
    assert caught.value.message_id == "drone.geoid_values"
