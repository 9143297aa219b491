"""Blocks: the same bytes whatever windows and threads; failed parts where they are; cells of other sizes and places."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.windows import Window

from geoevidence.errors import ConfigError, CoverageError
from geoevidence.raster import Grid
from satellite.cube import StackReader, code_table, read_block
from satellite.resample import plan
from satellite.scenes import read_scenes, region_window, scenes_record, tiles
from satellite.stack import StackSpec
from satellite.types import Cube, Observed
from tests.satellite.scene_fixtures import CORNER, write_image

SPEC = 'bands = ["red", "nir"]\nscale = 0.0001\nquality = "SCL"\nclear = [4, 5, 6, 7]\n'


def scene(seed: int, shape: tuple[int, int] = (200, 200)) -> np.ndarray:
    """(red, nir, SCL) as int16, compressible but not constant."""
    rng = np.random.default_rng(seed)
    data = rng.integers(200, 3000, (3, *shape)).astype(np.int16)
    data[2] = rng.choice([4, 4, 4, 9, 0], shape)
    return data


def write_folder(folder: Path, count: int = 4, *, shape: tuple[int, int] = (200, 200), text: str = SPEC, block: int = 64) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "stack.toml").write_text(text)
    for index in range(count):
        options = {"tiled": True, "blockxsize": block, "blockysize": block, "compress": "DEFLATE"}
        write_image(folder / f"s_202001{index + 1:02d}.tif", scene(index, shape), cell=10, nodata=-9999, **options)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "stack")


def test_threads_windows_and_readers_change_nothing(folder: Path) -> None:
    stack = read_scenes(folder)
    whole = read_block(stack)
    assert whole.stored.dtype == np.int16
    again = read_block(pickle.loads(pickle.dumps(stack)), threads=3)
    assert whole.stored.tobytes() == again.stored.tobytes() and whole.observed.tobytes() == again.observed.tobytes()
    rows, cols = stack.grid.shape
    seen = np.zeros((rows, cols), int)
    with StackReader(stack, threads=2) as reader:
        for window in tiles(stack, 64):
            part = reader.read(window)
            r, c, h, w = window.row_off, window.col_off, window.height, window.width
            seen[r : r + h, c : c + w] += 1
            assert np.array_equal(part.stored, whole.stored[:, :, r : r + h, c : c + w])
            assert np.array_equal(part.observed, whole.observed[:, r : r + h, c : c + w])
    assert (seen == 1).all()
    codes = scene(1)[2]
    expected = np.select([codes == 4, codes == 0], [Observed.CLEAR, Observed.NOT_OBSERVED], Observed.CLOUD)
    assert np.array_equal(whole.observed[1], expected)
    assert np.array_equal(whole.stored[1], scene(1)[:2])


def test_windows_of_one_pixel_and_of_none(folder: Path) -> None:
    stack = read_scenes(folder)
    cube = read_block(stack, Window(199, 7, 1, 1))
    assert cube.stored.shape == (4, 2, 1, 1) and cube.stored[2, 1, 0, 0] == scene(2)[1, 7, 199]
    for window, message in (
        (Window(0, 0, 0, 5), "satellite.empty_window"),
        (Window(0, 0, 5, 0), "satellite.empty_window"),
        (Window(196, 0, 5, 5), "satellite.window_outside"),
        (Window(-1, 0, 5, 5), "satellite.window_outside"),
    ):
        with pytest.raises(CoverageError) as caught:
            read_block(stack, window)
        assert caught.value.message_id == message and caught.value.render("zh")


def test_a_truncated_file_fails_in_the_blocks_that_are_gone(folder: Path) -> None:
    path = folder / "s_20200102.tif"
    size = path.stat().st_size
    with rasterio.open(path) as dataset:
        blocks = [window for _, window in dataset.block_windows(1)]
        whole = dataset.read()
    with path.open("r+b") as stream:
        stream.truncate(size * 2 // 3)
    # Which blocks a reader of the file alone can still decode.
    readable = np.zeros(whole.shape[1:], bool)
    with rasterio.open(path) as dataset:
        for window in blocks:
            r, c = slice(*window.toranges()[0]), slice(*window.toranges()[1])
            try:
                dataset.read(window=window)
            except rasterio.errors.RasterioError:
                continue
            readable[r, c] = True
    assert 0 < readable.sum() < readable.size
    stack = read_scenes(folder)
    cube = read_block(stack)
    failed = cube.observed[1] == Observed.FAILED_READ
    assert np.array_equal(failed, ~readable)
    assert np.array_equal(cube.stored[1][:, readable & (cube.observed[1] == 0)], whole[:2][:, readable & (cube.observed[1] == 0)])
    assert cube.failed == {path.name} and cube.failed_assets == {(path.name, b) for b in ("red", "nir", "SCL")}
    # In a window that is whole nothing failed; in one that is gone all did, however it is asked for.
    row, col = np.argwhere(readable)[0]
    assert not read_block(stack, Window(col, row, 5, 5)).failed
    row, col = np.argwhere(~readable)[0]
    assert (read_block(stack, Window(col, row, 1, 1)).observed[1] == Observed.FAILED_READ).all()
    record = scenes_record(stack, np.zeros((4, 5), np.int64), cube.failed, cube.failed_assets)
    assert [s["status"] for s in record["scenes"]] == ["read", "failed_read", "read", "read"]
    assert {a["status"] for a in record["scenes"][1]["assets"]} == {"failed_read"}
    assert record["scenes"][1]["assets"][0]["sha256"] == stack.files[path.name]


def test_a_file_that_vanishes_is_a_failed_read(folder: Path) -> None:
    stack = read_scenes(folder)
    (folder / "s_20200103.tif").unlink()
    cube = read_block(stack)
    assert (cube.observed[2] == Observed.FAILED_READ).all() and cube.failed == {"s_20200103.tif"}


def test_one_file_a_band(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text(SPEC + "band_pattern = '_(?P<band>red|nir|SCL)[.]tif$'\n")
    for index in range(3):
        for band, data in zip(("red", "nir", "SCL"), scene(index), strict=True):
            write_image(tmp_path / f"x_202001{index + 1:02d}_{band}.tif", data, cell=10, compress="DEFLATE")
    (tmp_path / "x_20200103_nir.tif").unlink()
    broken = tmp_path / "x_20200102_red.tif"
    with rasterio.open(broken) as dataset:
        rows = dataset.block_shapes[0][0]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    stack = read_scenes(tmp_path)
    assert [(s.name, s.status) for s in stack.scenes] == [
        ("x_20200101_*.tif", "read"),
        ("x_20200102_*.tif", "read"),
        ("x_20200103_*.tif", "missing_band"),
    ]
    cube = read_block(stack)
    assert np.array_equal(cube.stored[0], scene(0)[:2])
    assert cube.failed_assets == {("x_20200102_*.tif", "red")}
    failed = (cube.observed[1] == Observed.FAILED_READ).all(axis=1)
    assert 0 < failed.sum() < 200 and failed[-1] and failed.sum() % rows == 200 % rows


def test_other_extents_of_the_same_cells_are_no_other_grid(folder: Path) -> None:
    write_image(folder / "s_20200201.tif", scene(9, (60, 40)), cell=10, corner=(CORNER[0] + 1800, CORNER[1] - 100))
    stack = read_scenes(folder)
    assert stack.grid.shape == (200, 220) and len(stack.usable) == 5
    cube = read_block(stack)
    inside = (slice(10, 70), slice(180, 220))
    assert np.array_equal(cube.stored[4][:, *inside], scene(9, (60, 40))[:2])
    assert (cube.observed[4] == Observed.NOT_OBSERVED).sum() == 200 * 220 - 60 * 40 + (scene(9, (60, 40))[2] == 0).sum()
    # Edges of tiles stay on the blocks of most files.
    assert {w.col_off for w in tiles(stack, 64)} == {0, 64, 128, 192}
    write_image(folder / "s_20200202.tif", scene(9, (200, 10)), cell=10, corner=(CORNER[0] - 100, CORNER[1]))
    shifted = read_scenes(folder)
    assert shifted.grid.shape == (200, 230) and {w.col_off for w in tiles(shifted, 64)} == {0, 10, 74, 138, 202}


def test_unsigned_and_mixed_types(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text('bands = ["red"]\nscale = 0.0001\noffset = -0.1\n')
    data = np.array([[0, 1, 1000, 65535, 33768, 33767]], np.uint16)
    write_image(tmp_path / "a_20200101.tif", data, cell=10, nodata=0)
    stack = read_scenes(tmp_path)
    cube = read_block(stack)
    assert stack.storage.dtype == "int16" and cube.offset == 0
    clear, cloud = Observed.CLEAR, Observed.CLOUD
    assert cube.observed[0, 0].tolist() == [Observed.NOT_OBSERVED, clear, clear, cloud, cloud, clear]
    assert cube.stored[0, 0, 0].tolist() == [0, -999, 0, 0, 0, 32767]
    write_image(tmp_path / "b_20200102.tif", data.astype(np.float32), cell=10, nodata=0)
    mixed = read_block(read_scenes(tmp_path))
    assert mixed.stored.dtype == np.float32 and (mixed.scale, mixed.offset) == (1.0, 0.0)
    assert mixed.values[0, 0, 0, 1] == pytest.approx(-0.0999) and mixed.values[1, 0, 0, 3] == pytest.approx(6.4535)
    stated = read_block(read_scenes(tmp_path, {"saturated": 1000.0}))
    assert stated.observed[:, 0, 2].tolist() == [cloud, cloud]


def test_quality_codes() -> None:
    classes = code_table(StackSpec(), None)
    assert [classes[code] for code in (0, 3, 4, 6, 9)] == [2, 1, 0, 0, 1]
    assert code_table(StackSpec(clear=(0,)), 0.0)[0] == Observed.CLEAR
    assert code_table(StackSpec(), -9999.0)[-9999 & 0xFFFF] == Observed.NOT_OBSERVED
    bits = code_table(StackSpec(cloud_bits=(1, 3), fill_bits=(0,)), None)
    assert [bits[code] for code in (0, 2, 8, 4, 1, 3)] == [0, 1, 1, 0, 2, 2]


def test_another_grid_is_used_when_asked(tmp_path: Path) -> None:
    """A plane of reflectance comes through a warp as it is; the other zone's scene is left out unless asked for."""

    def field(grid_x: np.ndarray, grid_y: np.ndarray) -> np.ndarray:
        return 0.1 + (grid_x - CORNER[0]) * 1e-5 + (CORNER[1] - grid_y) * 2e-5

    (tmp_path / "stack.toml").write_text('bands = ["red"]\nscale = 1.0\nquality = "q"\nclear = [1]\n')
    x, y = np.meshgrid(CORNER[0] + 5 + 10 * np.arange(80), CORNER[1] - 5 - 10 * np.arange(60))
    for index in range(3):
        data = np.stack([field(x, y), np.ones_like(x)]).astype(np.float32)
        write_image(tmp_path / f"a_2020010{index + 1}.tif", data, cell=10)
    to_51, to_50 = (Transformer.from_crs(a, b, always_xy=True) for a, b in ((32650, 32651), (32651, 32650)))
    east, north = to_51.transform(*CORNER)
    x51, y51 = np.meshgrid(east - 595 + 10 * np.arange(300), north + 605 - 10 * np.arange(300))
    u, v = to_50.transform(x51, y51)
    data = np.stack([field(np.array(u), np.array(v)), np.ones_like(x51)]).astype(np.float32)
    data[1, :100] = 0
    write_image(tmp_path / "b_20200110.tif", data, cell=10, corner=(east - 600, north + 610), epsg=32651)
    plain_stack = read_scenes(tmp_path)
    assert [scene.status for scene in plain_stack.scenes] == ["read"] * 3 + ["other_grid"]
    stack = read_scenes(tmp_path, {"regrid": True})
    assert [asset.resampling for asset in stack.usable[3].assets] == ["bilinear", "nearest"]
    cube = read_block(stack)
    clear = cube.observed[3] == Observed.CLEAR
    assert 0.3 < clear.mean() < 1
    # The two zones differ by far less than a cell of curvature; float32 of 1e-5 a metre leaves about 1e-6.
    assert np.abs(cube.stored[3, 0] - field(x, y))[clear].max() < 5e-6
    parts = [read_block(stack, Window(c, r, 16, 15)) for r in range(0, 60, 15) for c in range(0, 80, 16)]
    for index, part in enumerate(parts):
        r, c = 15 * (index // 5), 16 * (index % 5)
        assert part.stored.tobytes() == np.ascontiguousarray(cube.stored[:, :, r : r + 15, c : c + 16]).tobytes()
    nearest = read_scenes(tmp_path, {"regrid": True, "resampling": "nearest"})
    off = np.abs(read_block(nearest).stored[3, 0] - field(x, y))[clear].max()
    # Half a cell both ways at most: 5 m x (1e-5 + 2e-5), and it is not interpolated.
    assert 5e-5 < off < 1.6e-4
    with pytest.raises(ConfigError):
        read_scenes(tmp_path, {"regrid": True, "resampling": "average"})


def test_average_weighs_by_area_and_needs_all_cells() -> None:
    grid = Grid(shape=(2, 2), transform=Affine(15, 0, 0, 0, -15, 30), crs=CRS.from_epsg(32650))
    source = Grid(shape=(3, 3), transform=Affine(10, 0, 0, 0, -10, 30), crs=CRS.from_epsg(32650))
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    state = np.zeros((3, 3), np.uint8)
    state[2, 2] = Observed.FAILED_READ
    out, found = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8)
    plan(grid, (0, 0, 2, 2), source, "average").apply(values, state, out, found)
    weights = np.array([[1.0, 0.5]])
    expected = (weights.T * weights * values[:2, :2]).sum() / 2.25
    assert out[0, 0] == pytest.approx(expected) and found.tolist() == [[0, 0], [0, Observed.FAILED_READ]]
    assert out[1, 1] == 0


def test_regions(folder: Path) -> None:
    stack = read_scenes(folder)
    x, y = CORNER
    square = {"type": "Polygon", "coordinates": [[(x + 101, y - 51), (x + 139, y - 51), (x + 139, y - 99), (x + 101, y - 99)]]}
    assert region_window(stack, square, stack.grid.crs) == Window(10, 5, 4, 5)
    to_degrees = Transformer.from_crs(32650, 4326, always_xy=True)
    ring = [to_degrees.transform(*corner) for corner in square["coordinates"][0]]
    degrees = {"type": "Polygon", "coordinates": [ring]}
    assert region_window(stack, degrees, CRS.from_epsg(4326)) == Window(10, 5, 4, 5)
    beyond = {"type": "Polygon", "coordinates": [[(x - 50, y + 50), (x + 15, y + 50), (x + 15, y - 15), (x - 50, y - 15)]]}
    assert region_window(stack, beyond, stack.grid.crs) == Window(0, 0, 2, 2)
    far = {"type": "Polygon", "coordinates": [[(0, 0), (1, 0), (1, 1)]]}
    for area, crs in (
        (far, stack.grid.crs),
        (far, CRS.from_epsg(4326)),
        ({"type": "Polygon", "coordinates": []}, stack.grid.crs),
    ):
        with pytest.raises(CoverageError) as caught:
            region_window(stack, area, crs)
        assert caught.value.message_id == "satellite.region_outside"


def test_side_files_are_not_read(folder: Path) -> None:
    """A file beside a scene that nobody recorded must not change what it says."""
    before = read_block(read_scenes(folder))
    name = folder / "s_20200101.tif.aux.xml"
    name.write_text('<PAMDataset><PAMRasterBand band="1"><NoDataValue>500</NoDataValue></PAMRasterBand></PAMDataset>')
    stack = read_scenes(folder)
    assert np.array_equal(read_block(stack).observed, before.observed) and stack.usable[0].assets[0].nodata == -9999


def test_the_record_names_everything(folder: Path) -> None:
    stack = read_scenes(folder, {"sensor": "S"})
    record = scenes_record(stack, np.arange(20).reshape(4, 5), frozenset())
    assert record["storage"] == {"dtype": "int16", "scale": "0.0001", "offset": "0.0"}
    first = record["scenes"][0]
    assert first["assets"][0]["scale"] == "0.0001" and first["acquired"] == "2020-01-01" and first["values_from"] == "stack.toml"
    assert record["days"][1] == {
        "date": "2020-01-02",
        "clear": 5,
        "cloud": 6,
        "not_observed": 7,
        "failed_read": 8,
        "outside": 9,
    }
    one_day = replace(stack, scenes=tuple(s for s in stack.usable if s.acquired == date(2020, 1, 3)))
    assert read_block(one_day).days.tolist() == [18264]


def test_chosen_pixels_and_dates_are_those_of_the_whole_cube() -> None:
    rng = np.random.default_rng(4)
    shape, grid = (5, 3, 9, 11), Grid(shape=(9, 11), transform=Affine(10, 0, 0, 0, -10, 0), crs=CRS.from_epsg(32650))
    for stored in (rng.integers(-99, 9999, shape, np.int16), rng.random(shape, np.float32)):
        observed = rng.integers(0, 3, (5, 9, 11)).astype(np.uint8)
        cube = Cube(
            stored=stored, observed=observed, days=np.arange(5, dtype=np.int32), bands=("a", "b", "c"), grid=grid, scale=1e-4
        )
        rows, cols, dates = rng.integers(2, 8, 20), rng.integers(3, 10, 20), np.array([1, 4])
        whole = cube.values[:, :, rows, cols]
        assert np.array_equal(cube.at(rows, cols), whole, equal_nan=True) and np.isnan(whole).any()
        assert np.array_equal(cube.at(rows, cols, dates), whole[dates], equal_nan=True)
        assert np.array_equal(cube.clear_at(rows, cols), observed[:, rows, cols] == Observed.CLEAR)
        assert cube.at(rows, cols, dates[:0]).shape == (0, 3, 20) and cube.at(rows[:0], cols[:0]).shape == (5, 3, 0)
