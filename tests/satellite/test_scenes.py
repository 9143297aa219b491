"""Readers: what is wrong with a source is said, per scene or for all; no bad scene becomes silent absence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from pyproj import CRS
from rasterio.windows import Window

from geoevidence.errors import ConfigError, CoverageError, CrsError, FormatError
from geoevidence.raster import Grid, Raster, write_cog
from satellite.cube import read_block, row_blocks, window_grid
from satellite.scenes import STACK_FILE, read_scenes, read_spec
from satellite.synthetic import SimulatedCube
from satellite.types import Observed

SPEC = """
sensor = "test"
bands = ["red", "nir"]
scale = 0.0001
quality = "SCL"
clear = [4, 5, 6, 7]
"""
GRID = Grid(shape=(6, 5), transform=Affine(10, 0, 500000, 0, -10, 3300000), crs=CRS.from_epsg(32650))


def write_scene(
    folder: Path, name: str, *, value: int = 1000, scl: int = 4, grid: Grid = GRID, names: tuple[str, ...] = ("red", "nir", "SCL")
) -> Path:
    data = np.full((len(names), *grid.shape), value, np.int16)
    data[-1] = scl
    write_cog(folder / name, Raster(data=data, grid=grid, nodata=-9999), band_names=names)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / STACK_FILE).write_text(SPEC, encoding="utf-8")
    for day in ("20200101", "20200111", "20200121"):
        write_scene(tmp_path, f"T50_{day}_L2A.tif")
    return tmp_path


def test_plain_folder(folder: Path) -> None:
    stack = read_scenes(folder)
    assert stack.days == (date(2020, 1, 1), date(2020, 1, 11), date(2020, 1, 21))
    assert stack.grid.matches(GRID) and set(stack.files) == {STACK_FILE, *(s.name for s in stack.scenes)}
    cube = read_block(stack)
    assert cube.bands == ("red", "nir")
    # 1000 x 0.0001 in float32: the factor and the product are rounded, 2^-24 each.
    assert cube.values == pytest.approx(np.full_like(cube.values, 0.1), rel=1.2e-7)
    assert (cube.observed == Observed.CLEAR).all()


def test_quality_nodata_and_water(folder: Path) -> None:
    for day, scl in (("20200201", 9), ("20200202", 6), ("20200203", 0)):
        write_scene(folder, f"T50_{day}_L2A.tif", scl=scl)
    path = folder / "T50_20200204_L2A.tif"
    data = np.full((3, *GRID.shape), 1000, np.int16)
    data[2] = 4
    data[1, 2, 3] = -9999
    write_cog(path, Raster(data=data, grid=GRID, nodata=-9999), band_names=("red", "nir", "SCL"))
    cube = read_block(read_scenes(folder))
    cloud, water, empty, hole = cube.observed[3], cube.observed[4], cube.observed[5], cube.observed[6]
    assert (cloud == Observed.CLOUD).all() and np.isnan(cube.values[3]).all()
    assert (water == Observed.CLEAR).all(), "water is a state to be seen, not a cloud"
    assert (empty == Observed.NOT_OBSERVED).all()
    assert hole[2, 3] == Observed.NOT_OBSERVED and (hole == Observed.CLEAR).sum() == 29


def test_order_of_names_is_not_order_of_time(tmp_path: Path) -> None:
    (tmp_path / STACK_FILE).write_text(SPEC, encoding="utf-8")
    for name in ("a_20210301.tif", "b_20200101.tif", "c_2020-06-01.tif"):
        write_scene(tmp_path, name)
    assert [scene.name[0] for scene in read_scenes(tmp_path).usable] == ["b", "c", "a"]


def test_same_day_takes_the_first_clear(folder: Path) -> None:
    write_scene(folder, "A_20200101.tif", value=2000, scl=9)
    write_scene(folder, "Z_20200101.tif", value=3000, scl=4)
    stack = read_scenes(folder)
    assert len(stack.usable) == 5 and len(stack.days) == 3
    values = read_block(stack).values[0, 0]
    assert values == pytest.approx(np.full_like(values, 0.1), rel=1.2e-7), "A is cloudy, T50 is clear and comes before Z"


def test_bad_scenes_are_named(folder: Path) -> None:
    other = replace(GRID, transform=GRID.transform @ Affine.translation(0.5, 0))
    write_scene(folder, "T50_20200201_L2A.tif", grid=other)
    write_scene(folder, "T50_20200202_L2A.tif", grid=replace(GRID, crs=CRS.from_epsg(32651)))
    write_scene(folder, "T50_20200203_L2A.tif", names=("red", "green", "SCL"))
    write_scene(folder, "undated.tif")
    (folder / "T50_20200204_L2A.tif").write_bytes(b"II*\0 not a tiff at all")
    (folder / "T50_20200205_L2A.tif").write_bytes(b"<VRTDataset/>")
    stack = read_scenes(folder)
    status = {scene.name[4:12]: scene.status for scene in stack.scenes}
    assert len(stack.usable) == 3
    assert status["20200201"] == status["20200202"] == "other_grid"
    assert status["20200203"] == "missing_band"
    assert status["20200204"] == status["20200205"] == "damaged"
    assert status["ted.tif"] == "no_date"
    for scene in stack.scenes:
        assert (scene.reason is None) == (scene.status == "read")
        if scene.reason is not None:
            assert scene.name in scene.reason.render("zh") and str(folder) not in scene.reason.render("en")


def test_a_link_that_leaves_the_folder_is_not_read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "T50_20200209_L2A.tif").symlink_to(write_scene(elsewhere, "T50_20200209_L2A.tif"))
    stack = read_scenes(folder)
    scene = next(scene for scene in stack.scenes if "20200209" in scene.name)
    assert scene.status == "outside_folder" and scene.name not in stack.files and not scene.sha256


def test_truncated_scene_is_a_failed_read_not_a_cloud(site: SimulatedCube, stack_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(stack_folder, tmp_path / "stack")
    victim = sorted((tmp_path / "stack").glob("*.tif"))[5]
    raw = victim.read_bytes()
    victim.write_bytes(raw[: len(raw) * 2 // 3])
    stack = read_scenes(tmp_path / "stack")
    cube = read_block(stack)
    scene = next(scene for scene in stack.scenes if scene.name == victim.name)
    if scene.status == "read":
        assert cube.failed == {victim.name}
        assert (cube.observed[5] == Observed.FAILED_READ).any()
        assert not (cube.observed[5] == Observed.CLOUD).all()
    else:
        assert scene.status == "damaged" and len(stack.days) == len(site.dates) - 1


def test_failed_read_in_the_middle(folder: Path) -> None:
    """Start of the pixel bytes overwritten, header intact: the scene opens and its block does not decode."""
    rng = np.random.default_rng(1)
    grid = replace(GRID, shape=(200, 200))
    for path in folder.glob("*.tif"):
        path.unlink()
    for day in ("20200101", "20200111"):
        data = rng.integers(0, 5000, (3, 200, 200)).astype(np.int16)
        data[2] = 4
        write_cog(folder / f"T50_{day}_L2A.tif", Raster(data=data, grid=grid, nodata=-9999), band_names=("red", "nir", "SCL"))
    path = folder / "T50_20200111_L2A.tif"
    raw = bytearray(path.read_bytes())
    start = raw.index(b"\x78\x9c")  # the zlib header of the only tile
    raw[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(raw))
    cube = read_block(read_scenes(folder))
    assert cube.failed == {"T50_20200111_L2A.tif"}
    assert (cube.observed[1] == Observed.FAILED_READ).all() and (cube.observed[0] == Observed.CLEAR).all()
    assert np.isnan(cube.values[1]).all()


def test_all_scenes_bad(tmp_path: Path) -> None:
    (tmp_path / STACK_FILE).write_text(SPEC, encoding="utf-8")
    (tmp_path / "x_20200101.tif").write_bytes(b"nothing")
    with pytest.raises(CoverageError) as caught:
        read_scenes(tmp_path)
    assert caught.value.message_id == "satellite.no_usable_scene"


def test_blocks_read_what_the_whole_reads(stack_folder: Path) -> None:
    stack = read_scenes(stack_folder)
    whole = read_block(stack)
    windows = list(row_blocks(stack, block_bytes=2 * 40 * len(stack.days) * 6 * 27))
    assert [int(w.height) for w in windows] == [27, 13]
    parts = [read_block(stack, window) for window in windows]
    assert np.array_equal(np.concatenate([p.values for p in parts], axis=2), whole.values, equal_nan=True)
    assert np.array_equal(np.concatenate([p.observed for p in parts], axis=1), whole.observed)
    assert parts[1].grid == window_grid(stack.grid, windows[1])


def test_written_stack_comes_back(site: SimulatedCube, stack_folder: Path) -> None:
    stack = read_scenes(stack_folder)
    assert stack.spec.synthetic and stack.days == site.dates
    cube = read_block(stack)
    assert np.array_equal(cube.observed == Observed.CLEAR, site.clear.values)
    # Stored as integers of 1e-4: half a step.
    assert np.nanmax(np.abs(cube.values - site.reflectance.values)) <= 0.5e-4 + 1e-7


def test_synthetic_tag_alone_is_enough(stack_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(stack_folder, tmp_path / "stack")
    text = (tmp_path / "stack" / STACK_FILE).read_text(encoding="utf-8").replace("synthetic = true", "")
    (tmp_path / "stack" / STACK_FILE).write_text(text, encoding="utf-8")
    assert read_scenes(tmp_path / "stack").spec.synthetic


@pytest.mark.parametrize(
    "text, message",
    [
        ("bands = [", "satellite.bad_stack_file"),
        ('bands = ["a"]\nscale = 1.0\nscael = 2', "satellite.unknown_stack_key"),
        ('bands = "a"\nscale = 1.0', "satellite.stack_key_type"),
        ('bands = ["a"]\nscale = true', "satellite.stack_key_type"),
        ("bands = []\nscale = 1.0", "satellite.stack_key_type"),
        ('bands = ["a"]\nclear = ["x"]', "satellite.stack_key_type"),
    ],
)
def test_bad_stack_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / STACK_FILE).write_text(text, encoding="utf-8")
    with pytest.raises((ConfigError, FormatError)) as caught:
        read_spec(tmp_path / STACK_FILE)
    assert caught.value.message_id == message


def test_missing_stack_file_says_how_to_write_one(tmp_path: Path) -> None:
    write_scene(tmp_path, "x_20200101.tif")
    with pytest.raises(ConfigError) as caught:
        read_scenes(tmp_path)
    assert caught.value.message_id == "satellite.no_stack_file"
    assert '"red", "nir", "SCL"' in caught.value.render("zh") and "scale" in caught.value.render("en")
    assert len(read_scenes(tmp_path, {"bands": ("red", "nir"), "scale": 1e-4}).usable) == 1


def test_empty_and_unknown_sources(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "satellite.empty_folder"),
        (tmp_path / "absent", "satellite.no_such_source"),
        (tmp_path / "x.zip", "satellite.unknown_source"),
    ):
        if path.suffix:
            path.write_bytes(b"PK")
        with pytest.raises(FormatError) as caught:
            read_scenes(path)
        assert caught.value.message_id == message


def test_scene_without_crs(folder: Path) -> None:
    import rasterio

    with rasterio.open(folder / "T50_20200109_L2A.tif", "w", driver="GTiff", width=5, height=6, count=3, dtype="int16") as target:
        target.write(np.ones((3, 6, 5), np.int16))
    scene = next(s for s in read_scenes(folder).scenes if "20200109" in s.name)
    assert scene.status == "other_grid" and scene.reason is not None and scene.reason.id == "satellite.scene_no_crs"


def netcdf(path: Path, *, factor: float = 1.0, crs: bool = True) -> Path:
    time = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(10, "D")
    x, y = 500005.0 + 10 * np.arange(5), 3299995.0 - 10 * np.arange(6)
    dims = ("time", "y", "x")
    layers = {name: (dims, np.full((4, 6, 5), 0.2 * factor, np.float32)) for name in ("B4", "B8")}
    layers["SCL"] = (dims, np.full((4, 6, 5), 4, np.float32))
    dataset = xr.Dataset(layers, coords={"time": time, "y": y, "x": x})
    if crs:
        dataset["spatial_ref"] = xr.DataArray(np.int32(0), attrs={"spatial_ref": CRS.from_epsg(32650).to_wkt("WKT1_GDAL")})
    dataset.to_netcdf(path, engine="h5netcdf")
    return path


def test_netcdf_needs_its_scale(tmp_path: Path) -> None:
    path = netcdf(tmp_path / "cube.nc", factor=1e4)
    with pytest.raises(ConfigError) as caught:
        read_scenes(path)
    assert caught.value.message_id == "satellite.scale_not_stated" and "2000" in caught.value.render("zh")
    stack = read_scenes(path, {"scale": 1e-4})
    assert stack.grid.matches(GRID) and stack.spec.bands == ("B4", "B8") and stack.spec.quality == "SCL"
    assert read_block(stack, Window(1, 2, 3, 2)).values == pytest.approx(np.full((4, 2, 2, 3), 0.2, np.float32), rel=1e-6)


def test_netcdf_without_crs_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(CrsError):
        read_scenes(netcdf(tmp_path / "a.nc", crs=False))
    path = netcdf(tmp_path / "b.nc")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(FormatError):
        read_scenes(path)


def patch_folder(folder: Path) -> Path:
    folder.mkdir()
    np.save(folder / "NDVI.npy", np.full((3, 4, 5, 1), 0.4, np.float32))
    clm = np.zeros((3, 4, 5, 1), np.uint8)
    clm[1] = 1
    np.save(folder / "CLM.npy", clm)
    data = np.ones((3, 4, 5, 1), bool)
    data[2, 0, 0] = False
    np.save(folder / "IS_DATA.npy", data)
    (folder / "timestamps.json").write_text(json.dumps(["2015-07-11T10:00:08", "2015-07-31T10:00:09", "2015-08-20T10:07:28"]))
    corners = [[0, 0], [0, 40], [50, 40], [50, 0], [0, 0]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (folder / "bbox.geojson").write_text(json.dumps({"crs": crs, "type": "Polygon", "coordinates": [corners]}))
    return folder


def test_index_patch(tmp_path: Path) -> None:
    folder = patch_folder(tmp_path / "patch")
    stack = read_scenes(folder)
    assert stack.grid.resolution == pytest.approx((10, 10)) and stack.grid.crs.to_epsg() == 32633
    cube = read_block(stack)
    assert (cube.observed[1] == Observed.CLOUD).all() and cube.observed[2, 0, 0] == Observed.NOT_OBSERVED
    assert (cube.observed == Observed.CLEAR).sum() == 39


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    folder = patch_folder(tmp_path / "patch")
    np.save(folder / "NDVI.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(FormatError):
        read_scenes(folder)
