"""Files that hold all dates of a layer: NetCDF and Zarr cubes, eo-learn patches.

In: a file or folder. Out: a `Stack` whose scenes are the dates, and windows of stored numbers of many dates at once, with
what could not be decoded told apart chunk by chunk. Numbers stay as stored (their packing becomes scale and offset).
Pickles are never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.errors import RasterioError

from geoevidence.crs import parse_crs, transformer
from geoevidence.errors import ConfigError, CrsError, FormatError
from geoevidence.raster import Grid
from satellite.stack import Stack, StackSpec, file_sha256, make_stack, spec_for
from satellite.strict import read_json
from satellite.types import Asset, Scene
from satellite.zarrstore import ZarrArray, read_arrays

SERIES = frozenset({"netcdf", "zarr", "eopatch"})
"""Layouts whose files hold many dates."""
_QUALITY_NAMES = ("scl", "quality")
_LONGEST_AXIS = 10_000_000
"""Most places along an axis: 100 000 km of 10 m, or 27 000 years of days."""
Place = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One variable (time, y, x) as stored."""

    name: str
    dtype: str
    scale: float
    offset: float
    nodata: float | None


def wanted_bands(spec: StackSpec) -> list[str]:
    """Names of the bands and, last, of the quality band where there is one."""
    return [*spec.bands, *([spec.quality] if spec.quality else [])]


# NetCDF ---------------------------------------------------------------------------------------------------------------


def open_cube(path: Path) -> xr.Dataset:
    """The NetCDF dataset, lazily, times decoded, values as stored. Raises FormatError."""
    try:
        return xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False)
    except Exception as error:  # h5netcdf and xarray raise many kinds on damaged bytes
        raise FormatError("core.cannot_read", path=path.name, reason=str(error) or type(error).__name__) from error


def read_netcdf(path: Path, stated: Mapping[str, Any]) -> Stack:
    """The stack of a NetCDF cube. Raises as `read_scenes`."""
    sha256 = file_sha256(path)
    files = {path.name: sha256}
    spec = spec_for(path.parent, stated, StackSpec(), files)
    with open_cube(path) as dataset:
        layers = {
            str(name): _layer(str(name), str(array.dtype), array.attrs)
            for name, array in dataset.data_vars.items()
            if array.dims == ("time", "y", "x")
        }
        spec = _spec_of(path.name, spec, layers)
        grid, times = _grid_of(dataset, path.name), _times(dataset, path.name)
        synthetic = spec.synthetic or str(dataset.attrs.get("GEOEVIDENCE_SYNTHETIC", "")) == "yes"
    if spec.scale is None:
        seen = _samples(path, [layers[name] for name in spec.bands], len(times), grid.shape)
        spec = replace(spec, scale=_unit_scale(path.name, seen))
    spec = replace(spec, synthetic=synthetic)
    scenes = _dated_scenes(path, sha256, times, grid, spec, layers)
    return make_stack("netcdf", spec, scenes, files, path.name)


def _layer(name: str, dtype: str, attrs: Mapping[str, Any]) -> _Layer:
    def number(key: str) -> float | None:
        value = attrs.get(key)
        return None if value is None or isinstance(value, str) else float(np.asarray(value).ravel()[0])

    nodata = number("_FillValue")
    nodata = number("missing_value") if nodata is None else nodata
    scale, offset = number("scale_factor"), number("add_offset")
    return _Layer(
        name=name,
        dtype=dtype,
        scale=1.0 if scale is None else scale,
        offset=0.0 if offset is None else offset,
        nodata=None if nodata is None or np.isnan(nodata) else nodata,
    )


def _spec_of(name: str, spec: StackSpec, layers: Mapping[str, _Layer]) -> StackSpec:
    """The spec with bands and quality named. Raises FormatError where a wanted layer is not there."""
    if not layers:
        raise FormatError("satellite.no_layers", path=name)
    quality = spec.quality or next((layer for layer in layers if layer.lower() in _QUALITY_NAMES), "")
    bands = spec.bands or tuple(layer for layer in layers if layer != quality)
    missing = [layer for layer in (*bands, *([quality] if quality else [])) if layer not in layers]
    if missing:
        raise FormatError("satellite.cube_missing_band", path=name, bands=", ".join(missing), known=", ".join(layers))
    return replace(spec, bands=bands, quality=quality)


def _unit_scale(name: str, seen: NDArray[np.float64]) -> float:
    """1 where values can be reflectances or indices. Raises ConfigError where they cannot."""
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    if low < -1.0 or high > 2.0:
        raise ConfigError("satellite.scale_not_stated", path=name, low=f"{low:g}", high=f"{high:g}")
    return 1.0


def _samples(path: Path, layers: Sequence[_Layer], times: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Finite physical values of the layers on up to five dates. Raises FormatError where nothing can be read."""
    steps = np.unique(np.linspace(0, times - 1, 5).astype(int))
    found, readable = [], False
    with LayerFiles() as reader:
        for layer in layers:
            assets = [
                Asset(band=layer.name, href="", path=path, layer=layer.name, position=int(t) + 1, dtype=layer.dtype)
                for t in steps
            ]
            raw, lost = reader.read(assets, (0, 0, *shape))
            readable = readable or not lost.all()
            found.append(_physical(raw[~lost], layer))
    if not readable:
        raise FormatError("core.cannot_read", path=path.name, reason=", ".join(layer.name for layer in layers))
    return np.concatenate(found)


def _physical(raw: NDArray[Any], layer: _Layer) -> NDArray[np.float64]:
    values = np.asarray(raw[raw != layer.nodata] if layer.nodata is not None else raw, np.float64)
    return values[np.isfinite(values)] * layer.scale + layer.offset


def _times(dataset: xr.Dataset, name: str) -> NDArray[np.datetime64]:
    if "time" not in dataset.variables or dataset["time"].dtype.kind != "M":
        raise FormatError("satellite.cube_no_time", path=name)
    times = dataset["time"].values.astype("datetime64[D]")
    if np.isnat(times).any():
        raise FormatError("satellite.cube_no_time", path=name)
    return times


def _dated_scenes(
    path: Path, sha256: str, times: NDArray[np.datetime64], grid: Grid, spec: StackSpec, layers: Mapping[str, _Layer]
) -> list[Scene]:
    factor = 1.0 if spec.scale is None else spec.scale
    scenes = []
    for index, day in enumerate(times):
        assets = []
        for name in wanted_bands(spec):
            layer, value = layers[name], name != spec.quality
            assets.append(
                Asset(
                    band=name,
                    role="value" if value else "quality",
                    href=path.name,
                    path=path,
                    layer=name,
                    position=index + 1,
                    sha256=sha256,
                    grid=grid,
                    dtype=layer.dtype,
                    scale=layer.scale * factor if value else 1.0,
                    offset=layer.offset * factor + spec.offset if value else 0.0,
                    nodata=layer.nodata if spec.nodata is None or not value else spec.nodata,
                    saturated=spec.saturated if value else None,
                )
            )
        scenes.append(
            Scene(
                name=f"{path.name}#{index}",
                path=path,
                sha256=sha256,
                acquired=day.item(),
                sensor=spec.sensor,
                status="read",
                index=index,
                grid=grid,
                assets=tuple(assets),
                values_from=path.name,
            )
        )
    return scenes


def _grid_of(dataset: xr.Dataset, name: str) -> Grid:
    reference = next(
        (dataset.variables[key].attrs for key in ("spatial_ref", "crs", "transverse_mercator") if key in dataset.variables), None
    )
    wkt = (reference or {}).get("crs_wkt") or (reference or {}).get("spatial_ref")
    if not wkt:
        raise CrsError("core.no_crs", path=name)
    if any(axis not in dataset.variables for axis in ("x", "y")):
        raise FormatError("satellite.no_layers", path=name)
    x, y = (np.asarray(dataset[axis].values, np.float64) for axis in ("x", "y"))
    if len(x) < 2 or len(y) < 2:
        raise FormatError("satellite.cube_too_small", path=name)
    steps = np.diff(x), np.diff(y)
    for step in steps:
        if not np.ptp(step) <= 1e-3 * abs(step).max():
            raise FormatError("satellite.cube_uneven", path=name)
    dx, dy = float(np.mean(steps[0])), float(np.mean(steps[1]))
    transform = Affine(dx, 0, float(x[0]) - dx / 2, 0, dy, float(y[0]) - dy / 2)
    return Grid(shape=(len(y), len(x)), transform=transform, crs=_crs_of(str(wkt), (float(x[0]), float(y[0]))))


def _crs_of(wkt: str, near: tuple[float, float]) -> CRS:
    """The CRS of a WKT text, as its EPSG entry where one is named that puts the point `near` at the same place.

    WKT of version 1 loses the order of axes, so that pyproj does not recognise entries of northing-first systems.
    """
    crs = parse_crs(wkt)
    code = crs.to_epsg(min_confidence=20)
    if code is None or crs.geodetic_crs is None:
        return crs
    entry = CRS.from_epsg(code)
    if entry.geodetic_crs is None:
        return crs
    here = transformer(crs, crs.geodetic_crs).transform(*near)
    there = transformer(entry, entry.geodetic_crs).transform(*near)
    # 1e-9 degrees is 0.1 mm.
    return entry if np.allclose(here, there, rtol=0, atol=1e-9) else crs


# Zarr -----------------------------------------------------------------------------------------------------------------


def read_zarr(folder: Path, stated: Mapping[str, Any]) -> Stack:
    """The stack of a Zarr cube: arrays with the dimensions (time, y, x), as xarray writes them. Raises as `read_scenes`."""
    files = _tree_digests(folder)
    spec = spec_for(folder.parent, stated, StackSpec(), files)
    layers: dict[str, _Layer] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    coordinates: dict[str, Any] = {}
    for name, array in read_arrays(folder).items():
        if array.dims == ("time", "y", "x"):
            layers[name] = _layer(name, array.dtype, array.attributes)
            shapes[name] = array.shape
        elif name in ("time", "x", "y") and array.dims == (name,):
            if array.shape[0] > _LONGEST_AXIS:
                raise FormatError("core.cannot_read", path=f"{folder.name}/{name}", reason=str(array.shape))
            coordinates[name] = (name, array.read(slice(None)), array.attributes)
        elif name in ("spatial_ref", "crs", "transverse_mercator"):
            coordinates[name] = ((), np.int32(0), array.attributes)
    try:
        dataset = xr.decode_cf(xr.Dataset(coords=coordinates), mask_and_scale=False)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FormatError("core.cannot_read", path=folder.name, reason=str(error)) from error
    spec = _spec_of(folder.name, spec, layers)
    grid, times = _grid_of(dataset, folder.name), _times(dataset, folder.name)
    for name in wanted_bands(spec):
        if shapes[name] != (len(times), *grid.shape):
            raise FormatError("satellite.patch_shapes", path=folder.name, shapes=f"{name} {shapes[name]}", dates=len(times))
    if spec.scale is None:
        seen = _samples(folder, [layers[name] for name in spec.bands], len(times), grid.shape)
        spec = replace(spec, scale=_unit_scale(folder.name, seen))
    digest = next((files[key] for key in (f"{folder.name}/zarr.json", f"{folder.name}/.zgroup") if key in files), "")
    return make_stack("zarr", spec, _dated_scenes(folder, digest, times, grid, spec, layers), files, folder.name)


def _tree_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a store by its path; links that leave the store are refused."""
    root = folder.resolve()
    digests = {}
    for path in sorted(folder.rglob("*")):
        if not path.resolve().is_relative_to(root):
            raise FormatError("satellite.leaves_folder", path=f"{folder.name}/{path.relative_to(folder).as_posix()}")
        if path.is_file():
            digests[f"{folder.name}/{path.relative_to(folder).as_posix()}"] = file_sha256(path)
    return digests


# eo-learn patch -------------------------------------------------------------------------------------------------------


def load_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped; pickles are never loaded. Raises FormatError."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error


def read_eopatch(folder: Path, stated: Mapping[str, Any]) -> Stack:
    """One index layer (default NDVI.npy) with CLM.npy (1 = cloud) and IS_DATA.npy, as eo-learn 1.x writes them."""
    files: dict[str, str] = {}
    spec = spec_for(folder, stated, StackSpec(bands=("NDVI",), scale=1.0, quality="CLM", clear=(0,)), files)
    needed = ["timestamps.json", "bbox.geojson", *(f"{name}.npy" for name in wanted_bands(spec))]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise FormatError("satellite.patch_missing_file", path=folder.name, files=", ".join(missing))
    optional = ["IS_DATA.npy"] if (folder / "IS_DATA.npy").is_file() else []
    files.update({name: file_sha256(folder / name) for name in (*needed, *optional)})
    stamps = read_json(folder / "timestamps.json")
    try:
        days = [datetime.fromisoformat(stamp).replace(tzinfo=UTC).date() for stamp in stamps]
    except (TypeError, ValueError) as error:
        raise FormatError("core.cannot_read", path="timestamps.json", reason=str(error)) from error
    arrays = {name: load_npy(folder / f"{name}.npy") for name in (*wanted_bands(spec), *(["IS_DATA"] if optional else []))}
    shapes = {name: array.shape for name, array in arrays.items()}
    first = shapes[spec.bands[0]]
    if len(first) != 4 or any(shape[:3] != first[:3] for shape in shapes.values()) or first[0] != len(days) or first[3] != 1:
        raise FormatError("satellite.patch_shapes", path=folder.name, shapes=str(shapes), dates=len(days))
    grid = _patch_grid(read_json(folder / "bbox.geojson"), first[1:3], folder.name)
    factor = 1.0 if spec.scale is None else spec.scale
    scenes = []
    for index, day in enumerate(days):
        assets = []
        for name, array in arrays.items():
            role = "presence" if name == "IS_DATA" else "quality" if name == spec.quality else "value"
            assets.append(
                Asset(
                    band=name,
                    role=role,  # type: ignore[arg-type]
                    href=f"{name}.npy",
                    path=folder / f"{name}.npy",
                    layer=name,
                    position=index + 1,
                    sha256=files[f"{name}.npy"],
                    grid=grid,
                    dtype=str(array.dtype),
                    scale=factor if role == "value" else 1.0,
                    offset=spec.offset if role == "value" else 0.0,
                    nodata=spec.nodata if role == "value" else None,
                    saturated=spec.saturated if role == "value" else None,
                )
            )
        band_file = f"{spec.bands[0]}.npy"
        scenes.append(
            Scene(
                name=f"{band_file}#{index}",
                path=folder / band_file,
                sha256=files[band_file],
                acquired=day,
                sensor=spec.sensor,
                status="read",
                index=index,
                grid=grid,
                assets=tuple(assets),
            )
        )
    return make_stack("eopatch", spec, scenes, files, folder.name)


def _patch_grid(box: Any, shape: tuple[int, int], name: str) -> Grid:
    try:
        crs = parse_crs(str(box["crs"]["properties"]["name"]))
        corners = np.asarray(box["coordinates"][0], np.float64)[:, :2]
        (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError("core.cannot_read", path=f"{name}/bbox.geojson", reason=str(error)) from error
    rows, cols = shape
    if not (np.isfinite(corners).all() and east > west and north > south and rows and cols):
        raise FormatError("core.cannot_read", path=f"{name}/bbox.geojson", reason="bbox")
    return Grid(
        shape=(int(rows), int(cols)),
        transform=Affine((east - west) / cols, 0, west, 0, -(north - south) / rows, north),
        crs=crs,
    )


# Windows of many dates ------------------------------------------------------------------------------------------------


class LayerFiles:
    """Open cubes. Reads one layer of many dates in a window, chunk by chunk where a chunk cannot be decoded."""

    def __init__(self) -> None:
        self._netcdf: dict[Path, xr.Dataset] = {}
        self._zarr: dict[Path, dict[str, ZarrArray]] = {}

    def __enter__(self) -> LayerFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for dataset in self._netcdf.values():
            dataset.close()
        self._netcdf.clear()
        self._zarr.clear()

    def read(self, assets: Sequence[Asset], place: Place) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Stored numbers (n, y, x) of one layer on the dates of `assets`, in a window (row, col, height, width) of the
        file, and where they could not be read."""
        path = assets[0].path
        assert path is not None
        if path.suffix == ".npy":
            rows, cols = slice(place[0], place[0] + place[2]), slice(place[1], place[1] + place[3])
            raw = np.asarray(load_npy(path)[[asset.position - 1 for asset in assets], rows, cols, 0])
            return raw, np.zeros(raw.shape, bool)
        return self._read_zarr(assets, place) if path.is_dir() else self._read_netcdf(assets, place)

    def _read_netcdf(self, assets: Sequence[Asset], place: Place) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        path = assets[0].path
        assert path is not None
        if path not in self._netcdf:
            self._netcdf[path] = open_cube(path)
        variable = self._netcdf[path].variables[assets[0].layer]
        times = np.array([asset.position - 1 for asset in assets])

        def load(part: slice, rows: slice, cols: slice) -> NDArray[Any]:
            wanted = times[part]
            steps: Any = slice(int(wanted[0]), int(wanted[-1]) + 1) if (np.diff(wanted) == 1).all() else wanted
            return np.asarray(variable[steps, rows, cols].values)

        chunks = variable.encoding.get("chunksizes") or variable.encoding.get("preferred_chunks") or ()
        sizes = tuple(int(size) for size in (chunks.values() if isinstance(chunks, dict) else chunks)) or (1, place[2], place[3])
        return _load_parts(load, len(times), place, sizes, assets[0].dtype)

    def _read_zarr(self, assets: Sequence[Asset], place: Place) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        path = assets[0].path
        assert path is not None
        if path not in self._zarr:
            self._zarr[path] = read_arrays(path)
        array = self._zarr[path][assets[0].layer]
        positions = np.array([asset.position - 1 for asset in assets], np.int64)
        depth, height, width = array.chunks
        raw = np.zeros((len(positions), *place[2:]), assets[0].dtype)
        lost = np.zeros(raw.shape, bool)
        for rows, cols in _blocks(place, height, width):
            inside = (slice(rows.start - place[0], rows.stop - place[0]), slice(cols.start - place[1], cols.stop - place[1]))
            for chunk in np.unique(positions // depth):
                dates = np.flatnonzero(positions // depth == chunk)
                try:
                    raw[dates, *inside] = array.read(positions[dates], rows, cols)
                except FormatError:
                    lost[dates, *inside] = True
        return raw, lost


def _blocks(place: Place, height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a window along the edges of chunks of height x width."""
    row, col, rows, cols = place
    for top in range(row - row % height, row + rows, height):
        for left in range(col - col % width, col + cols, width):
            yield (
                slice(max(top, row), min(top + height, row + rows)),
                slice(max(left, col), min(left + width, col + cols)),
            )


def _load_parts(
    load: Callable[[slice, slice, slice], NDArray[Any]], count: int, place: Place, chunk: tuple[int, ...], dtype: str
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A window of `count` dates at once; where that fails, chunk by chunk, and what fails alone is lost."""
    row, col, height, width = place
    lost = np.zeros((count, height, width), bool)
    try:
        return load(slice(0, count), slice(row, row + height), slice(col, col + width)), lost
    except (OSError, ValueError, KeyError, RuntimeError, IndexError, RasterioError):
        pass  # told below, part by part
    raw = np.zeros((count, height, width), dtype)
    step = chunk[0] if count > chunk[0] else 1
    for start in range(0, count, step):
        times = slice(start, min(start + step, count))
        for rows, cols in _blocks(place, chunk[1], chunk[2]):
            inside = (times, slice(rows.start - row, rows.stop - row), slice(cols.start - col, cols.stop - col))
            try:
                raw[inside] = load(times, rows, cols)
            except (OSError, ValueError, KeyError, RuntimeError, IndexError, RasterioError):
                lost[inside] = True
    return raw, lost
