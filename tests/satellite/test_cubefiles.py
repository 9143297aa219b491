"""NetCDF and Zarr cubes: packing is kept, times and chunks, damage in one chunk, and stores that are refused."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from pyproj import CRS
from rasterio.windows import Window

from geoevidence.errors import ConfigError, CrsError, FormatError
from satellite.cube import read_block
from satellite.scenes import read_scenes
from satellite.types import Observed

TIMES, ROWS, COLS = 6, 20, 24
WKT = CRS.from_epsg(32650).to_wkt()


def stored_numbers() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(100, 4000, (TIMES, ROWS, COLS)).astype(np.int16)


def netcdf(path: Path, *, chunks: tuple[int, int, int] = (6, 10, 12), days: tuple[int, ...] = (0, 5, 10, 15, 20, 25)) -> Path:
    """A packed cube as climate tools write it."""
    red = stored_numbers()
    red[2, 3, 4] = -32768
    dims = ("time", "y", "x")
    dataset = xr.Dataset(
        {"red": (dims, red), "SCL": (dims, np.full(red.shape, 4, np.uint8))},
        coords={
            "time": np.datetime64("2021-01-01", "ns") + np.array(days) * np.timedelta64(1, "D"),
            "y": 3299995.0 - 10 * np.arange(ROWS),
            "x": 500005.0 + 10 * np.arange(COLS),
        },
    )
    dataset["red"].attrs.update(scale_factor=0.0002, add_offset=-0.05, _FillValue=np.int16(-32768))
    dataset["spatial_ref"] = xr.DataArray(np.int32(0), attrs={"crs_wkt": WKT})
    encoding = {"red": {"chunksizes": chunks, "zlib": True}, "SCL": {"chunksizes": chunks, "zlib": True}}
    dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    return path


def test_packed_numbers_stay_as_stored(tmp_path: Path) -> None:
    stack = read_scenes(netcdf(tmp_path / "cube.nc"))
    assert (stack.layout, stack.storage.dtype, stack.storage.scale) == ("netcdf", "int16", 0.0002)
    cube = read_block(stack, threads=2)
    expected = stored_numbers()
    # -0.05 is 250 steps of the scale: the shift is exact.
    assert cube.offset == 0 and cube.observed[2, 3, 4] == Observed.NOT_OBSERVED
    clear = cube.observed == Observed.CLEAR
    assert clear.sum() == expected.size - 1
    assert np.array_equal(cube.stored[:, 0][clear], (expected - 250)[clear])
    part = read_block(stack, Window(5, 7, 3, 2))
    assert np.array_equal(part.stored, cube.stored[:, :, 7:9, 5:8])


def test_unsorted_and_repeated_dates(tmp_path: Path) -> None:
    stack = read_scenes(netcdf(tmp_path / "cube.nc", days=(20, 0, 10, 10, 5, 20)))
    assert [scene.index for scene in stack.usable] == [1, 4, 2, 3, 0, 5]
    cube = read_block(stack)
    expected = stored_numbers()
    assert cube.days.tolist() == [18628, 18633, 18638, 18648]
    assert np.array_equal(cube.stored[0, 0], expected[1] - 250) and np.array_equal(cube.stored[3, 0], expected[0] - 250)
    # The first of a day is taken where it is clear, else the next.
    assert cube.stored[2, 0, 3, 4] == expected[3, 3, 4] - 250 and cube.stored[2, 0, 0, 0] == expected[2, 0, 0] - 250


def test_a_damaged_chunk_fails_alone(tmp_path: Path) -> None:
    path = netcdf(tmp_path / "cube.nc", chunks=(2, 10, 12))
    with h5py.File(path) as file:
        info = file["red"].id.get_chunk_info_by_coord((2, 10, 12))
    raw = bytearray(path.read_bytes())
    raw[info.byte_offset : info.byte_offset + 16] = b"\xff" * 16
    path.write_bytes(bytes(raw))
    cube = read_block(read_scenes(path))
    expected = np.zeros((TIMES, ROWS, COLS), bool)
    expected[2:4, 10:, 12:] = True
    assert np.array_equal(cube.observed == Observed.FAILED_READ, expected)
    assert cube.failed_assets == {("cube.nc#2", "red"), ("cube.nc#3", "red")}


def test_times_that_mean_nothing(tmp_path: Path) -> None:
    path = netcdf(tmp_path / "cube.nc")
    with h5py.File(path, "r+") as file:
        del file["time"].attrs["units"]
    with pytest.raises(FormatError) as caught:
        read_scenes(path)
    assert caught.value.message_id == "satellite.cube_no_time"


def write_zarr(folder: Path, *, chunks: tuple[int, int, int] = (3, 10, 12), crs: bool = True, **attrs: Any) -> Path:
    """A Zarr 2 store by hand, as the specification of format 2 says; chunks in zlib."""

    def array(name: str, data: np.ndarray, sizes: tuple[int, ...], dims: list[str], **more: Any) -> None:
        place = folder / name
        place.mkdir(parents=True)
        described = {
            "zarr_format": 2,
            "shape": list(data.shape),
            "chunks": list(sizes),
            "dtype": data.dtype.str,
            "compressor": {"id": "zlib", "level": 1},
            "fill_value": more.pop("fill", None),
            "order": "C",
            "filters": None,
        }
        (place / ".zarray").write_text(json.dumps(described))
        (place / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": dims, **more}))
        counts = [-(-length // size) for length, size in zip(data.shape, sizes, strict=True)]
        for index in np.ndindex(*counts):
            part = np.zeros(sizes, data.dtype)
            inside = tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, sizes, strict=True))
            piece = data[inside]
            part[tuple(slice(0, n) for n in piece.shape)] = piece
            (place / ".".join(map(str, index))).write_bytes(zlib.compress(part.tobytes()))

    folder.mkdir()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text("{}")
    cube = ["time", "y", "x"]
    array("red", stored_numbers(), chunks, cube, fill=-1, **attrs)
    array("quality", np.full((TIMES, ROWS, COLS), 4, np.uint8), chunks, cube)
    days = np.array([0, 5, 10, 15, 20, 25], np.int64)
    array("time", days, (6,), ["time"], units="days since 2021-01-01", calendar="proleptic_gregorian")
    array("y", 3299995.0 - 10 * np.arange(ROWS), (ROWS,), ["y"])
    array("x", 500005.0 + 10 * np.arange(COLS), (COLS,), ["x"])
    if crs:
        place = folder / "spatial_ref"
        place.mkdir()
        described = {
            "zarr_format": 2,
            "shape": [],
            "chunks": [],
            "dtype": "<i4",
            "compressor": None,
            "fill_value": 0,
            "order": "C",
        }
        (place / ".zarray").write_text(json.dumps({**described, "filters": None}))
        (place / ".zattrs").write_text(json.dumps({"crs_wkt": WKT}))
    return folder


def write_zarr_3(folder: Path, stored: dict[str, Any], values: np.ndarray | None = None) -> Path:
    """A Zarr 3 store by the library, named as xarray names things; `stored`: how the array of values is laid out."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    cube = ("time", "y", "x")
    packing = {"scale_factor": 0.0002, "add_offset": -0.05} if values is None else {}
    values = stored_numbers() if values is None else values
    attributes = {**packing, **stored.get("attributes", {})}
    group.create_array("red", data=values, dimension_names=cube, **{**stored, "attributes": attributes})
    group.create_array("quality", data=np.full((TIMES, ROWS, COLS), 4, np.uint8), dimension_names=cube, chunks=(3, 10, 12))
    days = np.array([0, 5, 10, 15, 20, 25], np.int64)
    units = {"units": "days since 2021-01-01", "calendar": "proleptic_gregorian"}
    group.create_array("time", data=days, dimension_names=("time",), attributes=units)
    group.create_array("y", data=3299995.0 - 10 * np.arange(ROWS), dimension_names=("y",))
    group.create_array("x", data=500005.0 + 10 * np.arange(COLS), dimension_names=("x",))
    group.create_array("spatial_ref", data=np.array([0]), attributes={"crs_wkt": WKT})
    return folder


def test_a_zarr_cube_is_the_same_cube(tmp_path: Path) -> None:
    stack = read_scenes(write_zarr(tmp_path / "cube.zarr", scale_factor=0.0002, add_offset=-0.05))
    assert (stack.layout, stack.storage.dtype, len(stack.days)) == ("zarr", "int16", 6)
    assert stack.grid.matches(read_scenes(netcdf(tmp_path / "cube.nc")).grid)
    cube = read_block(stack)
    assert np.array_equal(cube.stored[:, 0], stored_numbers() - 250) and (cube.observed == Observed.CLEAR).all()
    assert cube.days.tolist() == [18628, 18633, 18638, 18643, 18648, 18653]
    part = read_block(stack, Window(8, 6, 9, 7))
    assert np.array_equal(part.stored, cube.stored[:, :, 6:13, 8:17])
    # Every file of the store is in the record.
    names = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "cube.zarr").rglob("*") if path.is_file()}
    assert set(stack.files) == names
    assert read_scenes(tmp_path / "cube.zarr", {"scale": 2.0}).storage.scale == 0.0004


def test_a_zarr_chunk_that_is_damaged_or_absent(tmp_path: Path) -> None:
    folder = write_zarr(tmp_path / "cube.zarr", scale_factor=0.0002)
    (folder / "red" / "1.0.1").write_bytes(b"not zlib")
    (folder / "red" / "0.1.0").unlink()
    cube = read_block(read_scenes(folder))
    failed = np.zeros((TIMES, ROWS, COLS), bool)
    failed[3:, :10, 12:] = True
    assert np.array_equal(cube.observed == Observed.FAILED_READ, failed)
    # The format says that a chunk that is not there holds the fill value, which is absence here.
    assert (cube.observed[:3, 10:, :12] == Observed.NOT_OBSERVED).all()


def test_a_missing_zarr_chunk_that_the_format_does_not_define_was_not_read(tmp_path: Path) -> None:
    folder = write_zarr(tmp_path / "cube.zarr", scale_factor=0.0002)
    described = json.loads((folder / "red" / ".zarray").read_text())
    (folder / "red" / ".zarray").write_text(json.dumps({**described, "fill_value": None}))
    (folder / "red" / "0.1.0").unlink()
    cube = read_block(read_scenes(folder))
    failed = np.zeros((TIMES, ROWS, COLS), bool)
    failed[:3, 10:, :12] = True
    assert np.array_equal(cube.observed == Observed.FAILED_READ, failed)


SHARDED = {"chunks": (1, 10, 12), "shards": (3, 20, 24)}


@pytest.mark.parametrize(
    "stored",
    [
        {"chunks": (3, 10, 12)},
        {"chunks": (3, 10, 12), "compressors": zarr.codecs.BloscCodec(cname="lz4")},
        {"chunks": (6, 20, 24), "compressors": zarr.codecs.GzipCodec()},
        SHARDED,
    ],
    ids=["zstd", "blosc", "gzip", "shards"],
)
def test_zarr_3_as_the_library_writes_it(tmp_path: Path, stored: dict[str, Any]) -> None:
    folder = write_zarr_3(tmp_path / "three.zarr", stored)
    stack = read_scenes(folder)
    assert (stack.layout, stack.storage.dtype, len(stack.days)) == ("zarr", "int16", 6)
    cube = read_block(stack)
    assert np.array_equal(cube.stored[:, 0], stored_numbers() - 250) and (cube.observed == Observed.CLEAR).all()
    part = read_block(stack, Window(8, 6, 9, 7))
    assert np.array_equal(part.stored, cube.stored[:, :, 6:13, 8:17])
    assert f"{folder.name}/zarr.json" in stack.files


def test_damage_in_a_zarr_3_store(tmp_path: Path) -> None:
    folder = write_zarr_3(tmp_path / "three.zarr", {"chunks": (3, 10, 12), "fill_value": -1, "attributes": {"_FillValue": -1}})
    (folder / "red" / "c" / "1" / "0" / "1").write_bytes(b"no zstd")
    (folder / "red" / "c" / "0" / "1" / "0").unlink()
    cube = read_block(read_scenes(folder))
    failed = np.zeros((TIMES, ROWS, COLS), bool)
    failed[3:, :10, 12:] = True
    assert np.array_equal(cube.observed == Observed.FAILED_READ, failed)
    assert (cube.observed[:3, 10:, :12] == Observed.NOT_OBSERVED).all()
    sharded = write_zarr_3(tmp_path / "shards.zarr", SHARDED)
    shard = sharded / "red" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-8])  # the index of a shard stands at its end
    cube = read_block(read_scenes(sharded))
    assert (cube.observed[:3, :20, :24] == Observed.FAILED_READ).all() and (cube.observed[3:] == Observed.CLEAR).all()


def test_fill_values_of_floats_in_zarr_3(tmp_path: Path) -> None:
    """xarray writes them as base64 of a double; this one is the -9999.0 of its own output."""
    values = np.full((TIMES, ROWS, COLS), 0.25, np.float32)
    values[2, 3, 4] = -9999.0
    stored = {"chunks": (6, 20, 24), "attributes": {"_FillValue": "AAAAAICHw8A="}}
    cube = read_block(read_scenes(write_zarr_3(tmp_path / "three.zarr", stored, values)))
    missing = np.zeros(values.shape, bool)
    missing[2, 3, 4] = True
    assert np.array_equal(cube.observed == Observed.NOT_OBSERVED, missing)


def test_codecs_that_could_run_code_are_not_let_in(tmp_path: Path) -> None:
    second = write_zarr(tmp_path / "two.zarr", scale_factor=0.0002)
    described = json.loads((second / "red" / ".zarray").read_text())
    (second / "red" / ".zarray").write_text(json.dumps({**described, "filters": [{"id": "pickle"}]}))
    third = write_zarr_3(tmp_path / "three.zarr", SHARDED)
    described = json.loads((third / "red" / "zarr.json").read_text())
    described["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    (third / "red" / "zarr.json").write_text(json.dumps(described))
    for folder, codec in ((second, "pickle"), (third, "numcodecs.pickle")):
        with pytest.raises(FormatError) as caught:
            read_scenes(folder)
        assert (caught.value.message_id, caught.value.values["codec"]) == ("satellite.zarr_codec", codec)


def test_zarr_stores_that_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "three.zarr"
    empty.mkdir()
    (empty / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(FormatError) as caught:
        read_scenes(empty)
    assert caught.value.message_id == "satellite.no_layers"
    linked = write_zarr(tmp_path / "linked.zarr")
    (tmp_path / "secret").write_bytes(b"x")
    (linked / "red" / "0.0.0").unlink()
    (linked / "red" / "0.0.0").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError) as caught:
        read_scenes(linked)
    assert caught.value.message_id == "satellite.leaves_folder"
    with pytest.raises(CrsError):
        read_scenes(write_zarr(tmp_path / "no_crs.zarr", crs=False))
    with pytest.raises(ConfigError) as stated:
        read_scenes(write_zarr(tmp_path / "numbers.zarr"))
    assert stated.value.message_id == "satellite.scale_not_stated"
    torn = write_zarr(tmp_path / "torn.zarr")
    (torn / "red" / ".zarray").write_text('{"shape": [1], "shape": [2]}')
    with pytest.raises(FormatError):
        read_scenes(torn)
