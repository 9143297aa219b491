"""From files to scenes: what each file is, when it was taken, and whether it can be used.

Seven kinds of sources: a folder of GeoTIFFs (described by `stack.toml`), a NetCDF or Zarr cube, an eo-learn patch, a STAC
catalogue on disk, folders of Sentinel-2 SAFE or Landsat Collection 2 products. Byte-level description:
docs/formats/scenes.md. A file that cannot be used is a scene with a status and a reason, never a silent gap; scenes whose
values depart from the others' like a wrong scale or offset are set aside by name. Nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoevidence.errors import ConfigError, CrsError, FormatError
from geoevidence.types import Message, decimal_text
from satellite.assets import AssetReader, settled
from satellite.cubefiles import read_eopatch, read_netcdf, read_zarr, wanted_bands
from satellite.products import is_landsat, is_safe, read_products
from satellite.scene_checks import checked_values
from satellite.stac import is_stac, read_stac
from satellite.stack import (
    STACK_FILE,
    Stack,
    StackSpec,
    date_in,
    file_sha256,
    make_stack,
    read_spec,
    region_window,
    set_aside,
    spec_for,
    tiles,
)
from satellite.types import Asset, Observed, Scene
from satellite.zarrstore import is_zarr

_TIFF = (".tif", ".tiff")
_CUBES = (".nc", ".nc4")

__all__ = [
    "STACK_FILE",
    "Stack",
    "StackSpec",
    "file_sha256",
    "read_scenes",
    "read_spec",
    "region_window",
    "scenes_record",
    "tiles",
]


def read_scenes(source: Path, options: Mapping[str, Any] | None = None) -> Stack:
    """The scenes of a folder or file.

    Args:
        source: folder of GeoTIFFs with `stack.toml`, eo-learn patch folder, NetCDF file, Zarr folder, a folder that holds
            one of these, STAC catalogue, collection, item or item collection (file or its folder), a `.SAFE` or Landsat
            product folder or a folder of such.
        options: fields of `StackSpec` that the user states; they win over `stack.toml` and over what products say.

    Raises:
        FormatError: nothing there that is known, or a damaged cube. ConfigError: the meaning of the numbers is not stated.
        CrsError: no reference system. CoverageError: no scene can be used.
    """
    return checked_values(_found(Path(source), dict(options or {})))


def _found(source: Path, stated: Mapping[str, Any]) -> Stack:
    if source.is_file():
        if source.suffix.lower() in _CUBES:
            return read_netcdf(source, stated)
        if source.suffix.lower() in (".json", ".geojson"):
            return read_stac(source, stated)
        raise FormatError("satellite.unknown_source", path=source.name)
    if not source.is_dir():
        raise FormatError("satellite.no_such_source", path=source.name)
    if (source / "timestamps.json").is_file() and (source / "bbox.geojson").is_file():
        return read_eopatch(source, stated)
    if is_zarr(source):
        return read_zarr(source, stated)
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    if is_safe(source) or is_landsat(source):
        return read_products(source, [source], stated)
    tiffs = [path for path in entries if path.is_file() and path.suffix.lower() in _TIFF]
    catalogue = is_stac(source, any_name=not (tiffs and (source / STACK_FILE).is_file()))
    if catalogue is not None:
        return read_stac(catalogue, stated)
    if tiffs:
        return _read_folder(source, tiffs, stated)
    products = [path for path in entries if path.is_dir() and (path.suffix == ".SAFE" or is_safe(path) or is_landsat(path))]
    if products:
        return read_products(source, products, stated)
    cubes = [path for path in entries if path.is_file() and path.suffix.lower() in _CUBES]
    stores = [path for path in entries if path.is_dir() and is_zarr(path)]
    if len(cubes) + len(stores) > 1:
        raise FormatError("satellite.many_cubes", path=source.name, count=len(cubes) + len(stores))
    if cubes:
        return read_netcdf(cubes[0], stated)
    if stores:
        return read_zarr(stores[0], stated)
    raise FormatError("satellite.empty_folder", path=source.name)


# Folder of GeoTIFFs ---------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, tiffs: list[Path], stated: Mapping[str, Any]) -> Stack:
    reader = AssetReader(folder)
    files: dict[str, str] = {}
    spec = spec_for(folder, stated, StackSpec(), files)
    if not spec.bands or spec.scale is None:
        raise ConfigError("satellite.no_stack_file", path=folder.name, example=_example(reader, tiffs))
    groups = _by_scene(tiffs, spec.band_pattern)
    reader.digest_all(path for path in tiffs if path.resolve().is_relative_to(folder.resolve()))
    synthetic = spec.synthetic
    scenes = []
    for name, paths in groups.items():
        scene, marked = _tiff_scene(name, paths, spec, reader)
        scenes.append(scene)
        synthetic = synthetic or marked
    return make_stack("geotiff", replace(spec, synthetic=synthetic), scenes, {**files, **reader.files}, folder.name)


def _by_scene(tiffs: list[Path], pattern: str) -> dict[str, dict[str, Path]]:
    """Scene name -> band -> file; without a pattern each file is a scene with all bands (key "")."""
    if not pattern:
        return {path.name: {"": path} for path in tiffs}
    try:
        compiled = re.compile(pattern)
        compiled.groupindex["band"]
    except (re.error, KeyError) as error:
        raise ConfigError("satellite.bad_band_pattern", pattern=pattern, reason=str(error)) from error
    groups: dict[str, dict[str, Path]] = {}
    for path in tiffs:
        found = compiled.search(path.name)
        if found is None or found["band"] is None:
            groups[path.name] = {"": path}
            continue
        start, end = found.span("band")
        groups.setdefault(path.name[:start] + "*" + path.name[end:], {})[found["band"]] = path
    return groups


def _tiff_scene(name: str, paths: Mapping[str, Path], spec: StackSpec, reader: AssetReader) -> tuple[Scene, bool]:
    """The scene of one file, or of one file a band; and whether it is marked as synthetic."""
    first = paths[min(paths)]
    scene = Scene(
        name=name,
        path=first,
        sha256="",
        acquired=date_in(name, spec.date_pattern),
        sensor=spec.sensor,
        status="read",
        values_from=STACK_FILE,
    )
    if not all(path.resolve().is_relative_to(reader.root.resolve()) for path in paths.values()):
        return set_aside(scene, "outside_folder", "satellite.scene_leaves_folder"), False
    scene = replace(scene, sha256=reader.digest(first))
    marked, assets = False, []
    for band, path in sorted(paths.items()):
        digest = reader.digest(path)
        try:
            seen = reader.look(path)
        except CrsError:
            return set_aside(scene, "other_grid", "satellite.scene_no_crs"), marked
        except FormatError:  # its own text may hold the full path, which must not reach a result
            return set_aside(scene, "damaged", "satellite.scene_damaged"), marked
        marked = marked or seen["tags"].get("GEOEVIDENCE_SYNTHETIC") == "yes"
        if scene.acquired is None:
            scene = replace(scene, acquired=date_in(str(seen["tags"].get("ACQUIRED", ""))))
        positions = {band: 1} if band else band_positions(seen, spec)
        for wanted in wanted_bands(spec):
            if wanted not in positions:
                continue
            value = wanted != spec.quality
            asset = Asset(
                band=wanted,
                role="value" if value else "quality",
                href=path.name,
                path=path,
                position=positions[wanted],
                sha256=digest,
                scale=(spec.scale or 1.0) if value else 1.0,
                offset=spec.offset if value else 0.0,
                nodata=spec.nodata,
                saturated=spec.saturated if value else None,
            )
            assets.append(reader.asset(asset, saturated=spec.saturated))
    return settled(replace(scene, assets=tuple(assets)), wanted_bands(spec)), marked


def band_positions(seen: Mapping[str, Any], spec: StackSpec) -> dict[str, int]:
    """Band name -> 1-based position: by description where every band has one, else in the order of the spec."""
    names = list(seen["descriptions"])
    if not all(names):
        names = wanted_bands(spec)[: seen["count"]]
    return {name: index for index, name in enumerate(names, start=1)}


def _example(reader: AssetReader, tiffs: list[Path]) -> str:
    """What a `stack.toml` could look like for the first readable file."""
    for path in tiffs:
        try:
            seen = reader.look(path)
        except (FormatError, CrsError):
            continue
        bands = ", ".join(f'"{name or f"band{i}"}"' for i, name in enumerate(seen["descriptions"], start=1))
        return f'sensor = "..."; bands = [{bands}]; scale = 0.0001; offset = 0.0; quality = "SCL"; clear = [4, 5, 6, 7]'
    return 'sensor = "..."; bands = ["red", "nir"]; scale = 0.0001; offset = 0.0; quality = "SCL"; clear = [4, 5, 6, 7]'


# The record -----------------------------------------------------------------------------------------------------------


def scenes_record(
    stack: Stack,
    tally: NDArray[np.int64],
    failed: Collection[str],
    failed_assets: Collection[tuple[str, str]] = (),
) -> dict[str, Any]:
    """What `scenes.json` says: every scene with its assets, and every day with what was seen. I-JSON without floats.

    Args:
        stack: as read. tally: (day, 5) pixels by day of `stack.days` and code of `Observed`.
        failed: union of `Cube.failed` over all blocks. failed_assets: union of `Cube.failed_assets`.

    Returns:
        Keys as in docs/formats/scenes.md: schema, layout, stack, storage, grid, files, scenes, level_steps, days. `status` of a scene or
        asset is `failed_read` where a part of a used one could not be decoded.
    """
    lost = set(failed_assets)
    return {
        "schema": "geoevidence.scenes.v1",
        "layout": stack.layout,
        "stack": {f.name: _plain(getattr(stack.spec, f.name)) for f in fields(stack.spec)},
        "storage": {
            "dtype": stack.storage.dtype,
            "scale": decimal_text(stack.storage.scale),
            "offset": decimal_text(stack.storage.offset),
        },
        "grid": {
            "rows": stack.grid.shape[0],
            "cols": stack.grid.shape[1],
            "transform": [decimal_text(float(value)) for value in tuple(stack.grid.transform)[:6]],
            "crs": stack.grid.crs.to_string(),
        },
        "files": dict(stack.files),
        "scenes": [_scene_record(scene, failed, lost) for scene in stack.scenes],
        "level_steps": [
            {
                "before": step.before.isoformat(),
                "after": step.after.isoformat(),
                "scenes": list(step.scenes),
                "shift": {band: f"{value:.4f}" for band, value in zip(stack.spec.bands, step.shift, strict=True)},
                "share": {band: f"{value:.3f}" for band, value in zip(stack.spec.bands, step.share, strict=True)},
                "size": f"{step.size:.2f}",
            }
            for step in stack.steps
        ],
        "days": [
            {"date": day.isoformat(), **{code.name.lower(): int(counts[code]) for code in Observed}}
            for day, counts in zip(stack.days, tally, strict=True)
        ],
    }


def _scene_record(scene: Scene, failed: Collection[str], lost: set[tuple[str, str]]) -> dict[str, Any]:
    return {
        "name": scene.name,
        "sha256": scene.sha256,
        "acquired": None if scene.acquired is None else scene.acquired.isoformat(),
        "sensor": scene.sensor,
        "status": "failed_read" if scene.name in failed else scene.status,
        "reason": _text(scene.reason),
        "tile": scene.tile,
        "processing_baseline": scene.baseline,
        "values_from": scene.values_from,
        "check": None if scene.check is None else dict(scene.check),
        "assets": [
            {
                "band": asset.band,
                "role": asset.role,
                "href": asset.href,
                "layer": asset.layer,
                "position": asset.position,
                "sha256": asset.sha256,
                "status": "failed_read" if (scene.name, asset.band) in lost else asset.status,
                "reason": _text(asset.reason),
                "scale": decimal_text(asset.scale),
                "offset": decimal_text(asset.offset),
                "nodata": _plain(asset.nodata),
                "saturated": _plain(asset.saturated),
                "cell": None if asset.grid is None else decimal_text(asset.grid.resolution[0]),
                "resampling": asset.resampling,
            }
            for asset in scene.assets
        ],
    }


def _text(message: Message | None) -> str | None:
    return None if message is None else message.render("en")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return decimal_text(value) if isinstance(value, float) else value
