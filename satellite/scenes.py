"""From files to scenes: what each file is, when it was taken, and whether it can be used.

Three layouts: a folder with one multi-band GeoTIFF a date (described by `stack.toml`), a NetCDF cube, and an
eo-learn patch folder with one index. Byte-level description: docs/formats/scenes.md.
A file that cannot be used is a scene with a status and a reason, never a silent gap. No pixel is judged here.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from affine import Affine
from pyproj import CRS

from geoevidence.crs import parse_crs, transformer
from geoevidence.errors import ConfigError, CoverageError, CrsError, FormatError
from geoevidence.raster import Grid, grid_of, open_strict
from geoevidence.types import Message
from satellite.types import Scene

STACK_FILE = "stack.toml"
CLEAR_SCL = (4, 5, 6, 7)
"""Sentinel-2 scene classes taken as clear: vegetation, bare, water, unclassified (ESA, Level-2A product specification).
Water stays, because a river bank must be seen in every state; 7 stays, because it is 'not cloud' by the processor."""

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_TIFF = (".tif", ".tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """How the numbers in the files are meant.

    sensor: name shown to people. bands: names in file order (by description where the file has them).
    scale, offset: physical = stored * scale + offset; scale None = not stated. nodata: stored value of absence, or None.
    quality: name of the quality band, "" = there is none. clear: its values that count as clear.
    date_pattern: regular expression with groups year, month, day over the file name, "" = first date found in it.
    synthetic: demonstration data.
    """

    sensor: str = ""
    bands: tuple[str, ...] = ()
    scale: float | None = None
    offset: float = 0.0
    nodata: float | None = None
    quality: str = ""
    clear: tuple[int, ...] = CLEAR_SCL
    date_pattern: str = ""
    synthetic: bool = False


_SPEC_TYPES: Mapping[str, tuple[type, ...]] = {
    "sensor": (str,),
    "bands": (list,),
    "scale": (int, float),
    "offset": (int, float),
    "nodata": (int, float),
    "quality": (str,),
    "clear": (list,),
    "date_pattern": (str,),
    "synthetic": (bool,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Scenes of one source on one grid, in order of (date, name).

    layout: how the files are read. spec: what the numbers mean, scale stated. grid: of all usable scenes.
    scenes: all files that look like scenes, usable or not. files: every file read, name -> sha256.
    """

    layout: Literal["geotiff", "netcdf", "eopatch"]
    spec: StackSpec
    grid: Grid
    scenes: tuple[Scene, ...]
    files: Mapping[str, str]

    @property
    def usable(self) -> tuple[Scene, ...]:
        """Scenes that can be read, in order of (date, name)."""
        return tuple(scene for scene in self.scenes if scene.status == "read")

    @property
    def days(self) -> tuple[date, ...]:
        """Dates of the usable scenes, each once, in order."""
        return tuple(sorted({scene.acquired for scene in self.usable if scene.acquired is not None}))


def file_sha256(path: Path) -> str:
    """Lower-case hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_spec(path: Path) -> StackSpec:
    """The spec in a `stack.toml`. Raises ConfigError on an unknown key or a wrong type, FormatError on bad TOML."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError("satellite.bad_stack_file", path=path.name, reason=str(error)) from error
    for key, value in raw.items():
        if key not in _SPEC_TYPES:
            raise ConfigError("satellite.unknown_stack_key", key=key, path=path.name, known=", ".join(sorted(_SPEC_TYPES)))
        if not isinstance(value, _SPEC_TYPES[key]) or (isinstance(value, bool) and bool not in _SPEC_TYPES[key]):
            raise ConfigError("satellite.stack_key_type", key=key, path=path.name, found=type(value).__name__)
    if "bands" in raw and not (raw["bands"] and all(isinstance(name, str) for name in raw["bands"])):
        raise ConfigError("satellite.stack_key_type", key="bands", path=path.name, found=repr(raw["bands"]))
    if "clear" in raw and not all(isinstance(v, int) and not isinstance(v, bool) for v in raw["clear"]):
        raise ConfigError("satellite.stack_key_type", key="clear", path=path.name, found=repr(raw["clear"]))
    for key in ("bands", "clear"):
        if key in raw:
            raw[key] = tuple(raw[key])
    for key in ("scale", "offset", "nodata"):
        if key in raw:
            raw[key] = float(raw[key])
    return StackSpec(**raw)


def _date_in(name: str, pattern: str) -> date | None:
    if pattern:
        try:
            found = re.search(pattern, name)
        except re.error as error:
            raise ConfigError("satellite.bad_date_pattern", pattern=pattern, reason=str(error)) from error
        groups = found.groupdict() if found else {}
        parts = [groups.get(part) for part in ("year", "month", "day")]
    else:
        found = _DATE.search(name)
        parts = list(found.groups()) if found else [None] * 3
    try:
        return date(*(int(part) for part in parts)) if all(parts) else None  # type: ignore[arg-type]
    except ValueError:
        return None


def read_scenes(source: Path, options: Mapping[str, Any] | None = None) -> Stack:
    """The scenes of a folder or a NetCDF file.

    Args:
        source: folder of GeoTIFFs with `stack.toml`, eo-learn patch folder, NetCDF file, or a folder that holds one.
        options: fields of `StackSpec` that the user states; they win over `stack.toml`.

    Raises:
        FormatError: nothing there that is known, or a damaged cube. ConfigError: the meaning of the numbers is not stated.
        CrsError: no reference system. CoverageError: no scene can be used.
    """
    source = Path(source)
    stated = dict(options or {})
    if source.is_file():
        if source.suffix.lower() not in (".nc", ".nc4"):
            raise FormatError("satellite.unknown_source", path=source.name)
        return _read_netcdf(source, stated)
    if not source.is_dir():
        raise FormatError("satellite.no_such_source", path=source.name)
    names = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    tiffs = [path for path in names if path.suffix.lower() in _TIFF]
    cubes = [path for path in names if path.suffix.lower() in (".nc", ".nc4")]
    if (source / "timestamps.json").is_file() and (source / "bbox.geojson").is_file():
        return _read_eopatch(source, stated)
    if tiffs:
        return _read_folder(source, tiffs, stated)
    if len(cubes) == 1:
        return _read_netcdf(cubes[0], stated)
    if cubes:
        raise FormatError("satellite.many_cubes", path=source.name, count=len(cubes))
    raise FormatError("satellite.empty_folder", path=source.name)


# Folder of GeoTIFFs ---------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, tiffs: list[Path], stated: Mapping[str, Any]) -> Stack:
    spec_path = folder / STACK_FILE
    files = {path.name: file_sha256(path) for path in tiffs}
    spec = StackSpec()
    if spec_path.is_file():
        spec = read_spec(spec_path)
        files[spec_path.name] = file_sha256(spec_path)
    spec = replace(spec, **stated)
    if not spec.bands or spec.scale is None:
        raise ConfigError("satellite.no_stack_file", path=folder.name, example=_example(tiffs))
    found: list[tuple[Path, date | None, Grid | None, Message | None, str, bool]] = []
    for path in tiffs:
        acquired = _date_in(path.name, spec.date_pattern)
        try:
            with open_strict(path) as dataset:
                grid = grid_of(dataset, path.name)
                tags = dataset.tags()
                if acquired is None:
                    acquired = _date_in(str(tags.get("ACQUIRED", "")), "")
                synthetic = tags.get("GEOEVIDENCE_SYNTHETIC") == "yes"
                missing = [name for name in wanted_bands(spec) if name not in band_positions(dataset, spec)]
        except CrsError:
            found.append(
                (path, acquired, None, Message(id="satellite.scene_no_crs", values={"scene": path.name}), "other_grid", False)
            )
            continue
        except FormatError:  # its own text may hold the full path, which must not reach a result
            found.append(
                (path, acquired, None, Message(id="satellite.scene_damaged", values={"scene": path.name}), "damaged", False)
            )
            continue
        if acquired is None:
            reason, status = Message(id="satellite.scene_no_date", values={"scene": path.name}), "no_date"
        elif missing:
            reason = Message(id="satellite.scene_missing_band", values={"scene": path.name, "bands": ", ".join(missing)})
            status = "missing_band"
        else:
            reason, status = None, "read"
        found.append((path, acquired, grid, reason, status, synthetic))
    grid = _common_grid([entry[2] for entry in found if entry[4] == "read"], folder.name, found)
    scenes = []
    for path, acquired, own, reason, status, _ in found:
        if status == "read" and own is not None and not grid.matches(own):
            reason, status = Message(id="satellite.scene_other_grid", values={"scene": path.name}), "other_grid"
        scenes.append(
            Scene(
                name=path.name,
                path=path,
                sha256=files[path.name],
                acquired=acquired,
                sensor=spec.sensor,
                status=status,  # type: ignore[arg-type]
                reason=reason,
            )
        )
    synthetic = spec.synthetic or any(entry[5] for entry in found)
    return _stack("geotiff", replace(spec, synthetic=synthetic), grid, scenes, files)


def _example(tiffs: list[Path]) -> str:
    """What a `stack.toml` could look like for the first readable file."""
    for path in tiffs:
        try:
            with open_strict(path) as dataset:
                names = [d or f"band{i}" for i, d in enumerate(dataset.descriptions, start=1)]
        except FormatError:
            continue
        bands = ", ".join(f'"{name}"' for name in names)
        return f'sensor = "..."; bands = [{bands}]; scale = 0.0001; offset = 0.0; quality = "SCL"; clear = [4, 5, 6, 7]'
    return 'sensor = "..."; bands = ["red", "nir"]; scale = 0.0001; offset = 0.0; quality = "SCL"; clear = [4, 5, 6, 7]'


def wanted_bands(spec: StackSpec) -> list[str]:
    return [*spec.bands, *([spec.quality] if spec.quality else [])]


def band_positions(dataset: Any, spec: StackSpec) -> dict[str, int]:
    """Band name -> 1-based position: by description where every band has one, else in the order of the spec."""
    names = list(dataset.descriptions)
    if not all(names):
        names = wanted_bands(spec)[: dataset.count]
    return {name: index for index, name in enumerate(names, start=1)}


def _common_grid(grids: list[Grid | None], folder: str, found: list[Any]) -> Grid:
    """The grid that most scenes share; the first in name order wins a tie."""
    known = [grid for grid in grids if grid is not None]
    if not known:
        reasons = sorted({entry[3].render("en") for entry in found if entry[3] is not None})
        raise CoverageError("satellite.no_usable_scene", path=folder, count=len(found), reason="; ".join(reasons[:3]) or "-")
    groups: list[tuple[Grid, int]] = []
    for grid in known:
        for position, (first, count) in enumerate(groups):
            if first.matches(grid):
                groups[position] = (first, count + 1)
                break
        else:
            groups.append((grid, 1))
    return max(groups, key=lambda group: group[1])[0]


def _stack(layout: Any, spec: StackSpec, grid: Grid, scenes: list[Scene], files: Mapping[str, str]) -> Stack:
    far = date(9999, 1, 1)
    ordered = sorted(scenes, key=lambda scene: (scene.acquired or far, scene.name))
    stack = Stack(layout=layout, spec=spec, grid=grid, scenes=tuple(ordered), files=dict(sorted(files.items())))
    if not stack.usable:
        raise CoverageError("satellite.no_usable_scene", path="-", count=len(scenes), reason="-")
    return stack


# NetCDF cube ----------------------------------------------------------------------------------------------------------


def open_cube(path: Path) -> xr.Dataset:
    """The NetCDF dataset, lazily, times decoded. Raises FormatError."""
    try:
        return xr.open_dataset(path, engine="h5netcdf")
    except Exception as error:  # h5netcdf and xarray raise many kinds on damaged bytes
        raise FormatError("core.cannot_read", path=path.name, reason=str(error) or type(error).__name__) from error


def _read_netcdf(path: Path, stated: Mapping[str, Any]) -> Stack:
    sha256 = file_sha256(path)
    files = {path.name: sha256}
    spec = StackSpec()
    spec_path = path.parent / STACK_FILE
    if spec_path.is_file():
        spec = read_spec(spec_path)
        files[spec_path.name] = file_sha256(spec_path)
    spec = replace(spec, **stated)
    with open_cube(path) as dataset:
        layers = [str(name) for name, array in dataset.data_vars.items() if array.dims == ("time", "y", "x")]
        if not layers:
            raise FormatError("satellite.no_layers", path=path.name)
        quality = spec.quality or next((name for name in layers if name.lower() in ("scl", "quality")), "")
        bands = spec.bands or tuple(name for name in layers if name != quality)
        missing = [name for name in (*bands, *([quality] if quality else [])) if name not in layers]
        if missing:
            raise FormatError("satellite.cube_missing_band", path=path.name, bands=", ".join(missing), known=", ".join(layers))
        grid = _netcdf_grid(dataset, path.name)
        scale = spec.scale
        if scale is None:
            low, high = _seen_range(dataset, bands, path.name)
            if low < -1.0 or high > 2.0:
                raise ConfigError("satellite.scale_not_stated", path=path.name, low=f"{low:g}", high=f"{high:g}")
            scale = 1.0
        times = dataset["time"].values.astype("datetime64[D]")
        synthetic = spec.synthetic or str(dataset.attrs.get("GEOEVIDENCE_SYNTHETIC", "")) == "yes"
    spec = replace(spec, bands=bands, quality=quality, scale=scale, synthetic=synthetic)
    scenes = [
        Scene(
            name=f"{path.name}#{index}",
            path=path,
            sha256=sha256,
            acquired=day.item(),
            sensor=spec.sensor,
            status="read",
            index=index,
        )
        for index, day in enumerate(times)
    ]
    return _stack("netcdf", spec, grid, scenes, files)


def _seen_range(dataset: xr.Dataset, bands: tuple[str, ...], name: str) -> tuple[float, float]:
    """Smallest and largest finite value of the bands on up to five dates."""
    steps = np.unique(np.linspace(0, dataset.sizes["time"] - 1, 5).astype(int))
    try:
        sample = np.stack([dataset[band].isel(time=steps).values for band in bands]).astype(np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise FormatError("core.cannot_read", path=name, reason=str(error)) from error
    seen = sample[np.isfinite(sample)]
    return (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)


def _netcdf_grid(dataset: xr.Dataset, name: str) -> Grid:
    reference = next(
        (dataset.variables[key].attrs for key in ("spatial_ref", "crs", "transverse_mercator") if key in dataset.variables), None
    )
    wkt = (reference or {}).get("crs_wkt") or (reference or {}).get("spatial_ref")
    if not wkt:
        raise CrsError("core.no_crs", path=name)
    x, y = (np.asarray(dataset[axis].values, np.float64) for axis in ("x", "y"))
    if len(x) < 2 or len(y) < 2:
        raise FormatError("satellite.cube_too_small", path=name)
    steps = np.diff(x), np.diff(y)
    for step in steps:
        if np.ptp(step) > 1e-3 * abs(step).max():
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


# eo-learn patch -------------------------------------------------------------------------------------------------------


def load_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped; pickles are never loaded. Raises FormatError."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error


def _read_eopatch(folder: Path, stated: Mapping[str, Any]) -> Stack:
    """One index layer (default NDVI.npy) with CLM.npy (1 = cloud) and IS_DATA.npy, as eo-learn 1.x writes them."""
    spec = replace(StackSpec(bands=("NDVI",), scale=1.0, quality="CLM", clear=(0,)), **stated)
    needed = ["timestamps.json", "bbox.geojson", *(f"{name}.npy" for name in wanted_bands(spec))]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise FormatError("satellite.patch_missing_file", path=folder.name, files=", ".join(missing))
    optional = ["IS_DATA.npy"] if (folder / "IS_DATA.npy").is_file() else []
    files = {name: file_sha256(folder / name) for name in (*needed, *optional)}
    stamps = _read_json(folder / "timestamps.json")
    try:
        days = [datetime.fromisoformat(stamp).replace(tzinfo=UTC).date() for stamp in stamps]
    except (TypeError, ValueError) as error:
        raise FormatError("core.cannot_read", path="timestamps.json", reason=str(error)) from error
    shapes = {name: load_npy(folder / f"{name}.npy").shape for name in wanted_bands(spec)}
    first = shapes[spec.bands[0]]
    if len(first) != 4 or any(shape[:3] != first[:3] for shape in shapes.values()) or first[0] != len(days) or first[3] != 1:
        raise FormatError("satellite.patch_shapes", path=folder.name, shapes=str(shapes), dates=len(days))
    grid = _patch_grid(_read_json(folder / "bbox.geojson"), first[1:3], folder.name)
    band_file = f"{spec.bands[0]}.npy"
    scenes = [
        Scene(
            name=f"{band_file}#{index}",
            path=folder / band_file,
            sha256=files[band_file],
            acquired=day,
            sensor=spec.sensor,
            status="read",
            index=index,
        )
        for index, day in enumerate(days)
    ]
    return _stack("eopatch", spec, grid, scenes, files)


def _patch_grid(box: Any, shape: tuple[int, int], name: str) -> Grid:
    try:
        crs = parse_crs(str(box["crs"]["properties"]["name"]))
        corners = np.asarray(box["coordinates"][0], np.float64)[:, :2]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError("core.cannot_read", path=f"{name}/bbox.geojson", reason=str(error)) from error
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    rows, cols = shape
    return Grid(
        shape=(int(rows), int(cols)),
        transform=Affine((east - west) / cols, 0, west, 0, -(north - south) / rows, north),
        crs=crs,
    )
