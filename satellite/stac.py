"""STAC catalogues, collections, items and item collections on disk.

In: a JSON file (STAC 1.0 or 1.1) and what its links reach inside its folder. Out: a `Stack`, one scene an item. Nothing is
fetched: an address on the network, one that leaves the folder and one that leads to no file are statuses of the scene.
Bands are found by asset key, band name or common name; scale and offset are those of the item, or, for Sentinel-2 items
that state none, of the processing baseline. `file:checksum` is verified.
Sources: STAC specification 1.0.0 and 1.1.0; extensions eo, raster, file, projection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from geoevidence.errors import FormatError
from geoevidence.types import Message
from satellite.assets import AssetReader, local_file, set_aside, settled, shown_name
from satellite.cubefiles import wanted_bands
from satellite.products import CLOUD_BITS, FILL_BITS
from satellite.stack import ROLES, Stack, StackSpec, make_stack, spec_for
from satellite.strict import read_json
from satellite.types import Asset, Scene

_ENTRIES = ("catalog.json", "collection.json", "item.json")
_AUTO = "*"
_COMMON = {"nir": ("nir", "nir08"), "swir1": ("swir16",), "swir2": ("swir22",)}
"""Common names of the eo extension for our names, best first."""
_QUALITY_KEYS = ("scl", "qa_pixel")
_HASHES = {"1220": "sha256", "1620": "sha3_256", "d50110": "md5"}
"""Prefixes of multihashes (function code and length) that are verified."""
_MAX_FILES = 500_000


def is_stac(folder: Path, *, any_name: bool = True) -> Path | None:
    """The file in a folder to begin with: catalogue, collection or item by its usual name, or the only JSON that is STAC
    (`any_name`)."""
    for name in _ENTRIES:
        if (folder / name).is_file():
            return folder / name
    if not any_name:
        return None
    found = [path for path in sorted(folder.glob("*.json")) if not _MTL_NAME.search(path.name) and _looks_like_stac(path)]
    return found[0] if len(found) == 1 else None


_MTL_NAME = re.compile(r"_MTL\.json$")


def _looks_like_stac(path: Path) -> bool:
    try:
        value = read_json(path)
    except FormatError:
        return False
    if not isinstance(value, dict):
        return False
    features = value.get("features")
    return "stac_version" in value or (
        isinstance(features, list) and all(isinstance(f, dict) and "assets" in f for f in features)
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """value: the item as JSON, or None where its link leads nowhere. file: it was found in. name: of its scene."""

    value: Mapping[str, Any] | None
    file: Path
    name: str
    status: Any = "read"


def read_stac(path: Path, stated: Mapping[str, Any]) -> Stack:
    """The stack of all items that a STAC file reaches inside its folder. Raises as `read_scenes`."""
    root = path.parent
    reader = AssetReader(root)
    files: dict[str, str] = {}
    spec = spec_for(root, stated, StackSpec(bands=ROLES, quality=_AUTO), files)
    items = _named(list(_walk(path, reader)), root)
    spec = _with_quality(spec, items)
    scenes = [_scene(item, spec, reader) for item in items]
    if not scenes:
        raise FormatError("satellite.stac_no_items", path=path.name)
    return make_stack("stac", spec, scenes, {**files, **reader.files}, root.name)


def _walk(start: Path, reader: AssetReader) -> Iterator[_Item]:
    """Items in the order of their files' names."""
    queue, seen = [start], set()
    found: list[_Item] = []
    while queue:
        path = queue.pop()
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        if len(seen) > _MAX_FILES:
            raise FormatError("satellite.stac_too_many", path=start.name, limit=_MAX_FILES)
        try:
            reader.digest(path)
            value = read_json(path)
        except FormatError:
            if path == start:
                raise
            found.append(_Item(None, path, shown_name(reader.root, path), "damaged"))
            continue
        if not isinstance(value, dict):
            found.append(_Item(None, path, shown_name(reader.root, path), "damaged"))
            continue
        if value.get("type") == "FeatureCollection" and isinstance(value.get("features"), list):
            found += [_Item(item, path, "") for item in value["features"] if isinstance(item, dict)]
            continue
        if value.get("type") == "Feature":
            found.append(_Item(value, path, ""))
            continue
        if value.get("type") not in ("Catalog", "Collection"):
            if path == start:
                raise FormatError("satellite.not_stac", path=path.name)
            found.append(_Item(None, path, shown_name(reader.root, path), "damaged"))
            continue
        for link in value.get("links") or []:
            if not isinstance(link, dict) or link.get("rel") not in ("item", "child", "items"):
                continue
            href = str(link.get("href", ""))
            target, status = local_file(reader.root, path.parent, href)
            if target is None:
                found.append(_Item(None, path, href, status))
            else:
                queue.append(target)
    yield from sorted(found, key=lambda item: (str(item.file), item.name, str((item.value or {}).get("id", ""))))


def _named(items: list[_Item], root: Path) -> list[_Item]:
    """Items with the name of their scene: the id, with the file where two have the same."""
    ids = [str(item.value.get("id", "")) if item.value is not None else "" for item in items]
    named, used = [], set()
    for item, own in zip(items, ids, strict=True):
        name = item.name or own or shown_name(root, item.file)
        if own and ids.count(own) > 1:
            name = f"{shown_name(root, item.file)}#{own}"
        while name in used:
            name += "'"
        used.add(name)
        named.append(replace(item, name=name))
    return named


def _with_quality(spec: StackSpec, items: list[_Item]) -> StackSpec:
    """The spec with the quality asset that most items have, where none is stated."""
    if spec.quality != _AUTO:
        return spec
    counts = dict.fromkeys(_QUALITY_KEYS, 0)
    for item in items:
        keys = {str(key).lower() for key in _assets(item.value)}
        for key in _QUALITY_KEYS:
            counts[key] += key in keys
    best = max(_QUALITY_KEYS, key=lambda key: counts[key])
    if not counts[best]:
        return replace(spec, quality="")
    if best == "scl":
        return replace(spec, quality="SCL")
    if spec.cloud_bits:
        return replace(spec, quality="QA_PIXEL")
    return replace(spec, quality="QA_PIXEL", cloud_bits=CLOUD_BITS, fill_bits=FILL_BITS)


def _assets(value: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    assets = (value or {}).get("assets")
    return {str(key): asset for key, asset in assets.items() if isinstance(asset, dict)} if isinstance(assets, dict) else {}


def _scene(item: _Item, spec: StackSpec, reader: AssetReader) -> Scene:
    scene = Scene(
        name=item.name,
        path=item.file,
        sha256=reader.digest(item.file),
        acquired=None,
        sensor=spec.sensor,
        status="read",
    )
    if item.value is None:
        status = {"missing": "missing_file"}.get(item.status, item.status)
        return replace(scene, status=status, reason=Message(id=f"satellite.link_{status}", values={"scene": item.name}))
    properties = item.value.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    sentinel = "sentinel-2" in f"{properties.get('constellation', '')} {properties.get('platform', '')}".lower()
    scene = replace(
        scene,
        acquired=_acquired(properties),
        sensor=spec.sensor or str(properties.get("platform") or properties.get("constellation") or ""),
        tile=_first_text(properties, "s2:mgrs_tile", "grid:code").removeprefix("MGRS-"),
        baseline=_first_text(properties, "s2:processing_baseline", "sentinel:processing_baseline", "processing:version"),
    )
    assets, unknown, stated_by = [], [], "stack.toml" if spec.scale is not None else "item"
    for name in wanted_bands(spec):
        value = name != spec.quality
        found = _find(_assets(item.value), name)
        if found is None:
            continue
        _, described, position = found
        band = _bands(described)[position - 1] if _bands(described) else {}
        scale, offset = spec.scale, spec.offset
        if value and scale is None:
            scale, offset, stated_by = _radiometry(described, band, properties, scene.baseline if sentinel else "")
            if scale is None:
                unknown.append(name)
        assets.append(
            _asset(name, "value" if value else "quality", described, position, scale, offset, value, item, spec, reader, band)
        )
    if spec.quality == "QA_PIXEL":
        assets += _saturation(item, spec, reader)
    scene = replace(scene, assets=tuple(assets), values_from=stated_by)
    if unknown:
        return set_aside(scene, "no_scale", "satellite.scene_no_scale", bands=", ".join(unknown))
    return settled(scene, wanted_bands(spec))


def _asset(
    name: str,
    role: Any,
    described: Mapping[str, Any],
    position: int,
    scale: float | None,
    offset: float,
    value: bool,
    item: _Item,
    spec: StackSpec,
    reader: AssetReader,
    band: Mapping[str, Any],
    bits: int = 0,
) -> Asset:
    href = str(described.get("href", ""))
    path, status = local_file(reader.root, item.file.parent, href)
    nodata = spec.nodata if spec.nodata is not None else _numeric(band.get("nodata", described.get("nodata")))
    asset = Asset(
        band=name,
        role=role,
        href=href,
        path=path,
        position=position,
        scale=1.0 if scale is None or not value else scale,
        offset=offset if value else 0.0,
        nodata=nodata if value else None,
        bits=bits,
        status=status,
    )
    return reader.asset(asset, saturated=spec.saturated if value else None, checksum=_checksum(described))


def _acquired(properties: Mapping[str, Any]) -> date | None:
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()


def _first_text(properties: Mapping[str, Any], *names: str) -> str:
    return next((str(properties[name]) for name in names if properties.get(name) not in (None, "")), "")


def _numeric(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _bands(described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an asset says of its bands: `bands` (1.1), or `eo:bands` and `raster:bands` together (1.0)."""
    if isinstance(described.get("bands"), list):
        return [band for band in described["bands"] if isinstance(band, dict)]
    lists = [described[key] for key in ("raster:bands", "eo:bands") if isinstance(described.get(key), list)]
    length = max((len(entries) for entries in lists), default=0)
    merged: list[dict[str, Any]] = [{} for _ in range(length)]
    for entries in lists:
        for index, entry in enumerate(entries):
            if isinstance(entry, dict):
                merged[index].update(entry)
    return merged


def _find(assets: Mapping[str, Mapping[str, Any]], name: str) -> tuple[str, Mapping[str, Any], int] | None:
    """(key, asset, 1-based band) that a name means: by key, by band name, by common name; GeoTIFF before JPEG 2000."""
    wanted = name.lower()
    common = _COMMON.get(wanted, (wanted,))
    found: list[tuple[tuple[int, int, str], tuple[str, Mapping[str, Any], int]]] = []
    for key, asset in assets.items():
        kind, roles = str(asset.get("type", "")).lower(), asset.get("roles") or []
        if kind.startswith(("image/png", "image/jpeg", "text/", "application/")) or "thumbnail" in roles or "overview" in roles:
            continue
        bands = _bands(asset) or [{}]
        for position, band in enumerate(bands, start=1):
            own = str(band.get("eo:common_name") or band.get("common_name") or "").lower()
            if len(bands) == 1 and key.lower() == wanted:
                rank = 0
            elif str(band.get("name", "")).lower() == wanted:
                rank = 1
            elif own in common:
                rank = 2 + common.index(own)
            else:
                continue
            found.append(((rank, int("jp2" in kind), key), (key, asset, position)))
    return min(found, key=lambda entry: entry[0])[1] if found else None


def _radiometry(
    described: Mapping[str, Any], band: Mapping[str, Any], properties: Mapping[str, Any], baseline: str
) -> tuple[float | None, float, str]:
    """Scale (None = not known), offset, and what says so. `baseline` is empty where the item is not Sentinel-2."""
    scale = offset = None
    for place in (band, described):
        for prefix in ("raster:", ""):
            scale = _numeric(place.get(f"{prefix}scale")) if scale is None else scale
            offset = _numeric(place.get(f"{prefix}offset")) if offset is None else offset
    flags = [properties.get(f"{prefix}:boa_offset_applied") for prefix in ("earthsearch", "sentinel")]
    if True in flags and (scale is not None or baseline):
        # The archive has subtracted it already and may still state it: twice would be wrong.
        return 1e-4 if scale is None else scale, 0.0, "boa_offset_applied"
    if scale is not None:
        return scale, offset or 0.0, "item"
    number = re.match(r"(?:N?0*)(\d+)[.](\d+)$", baseline)
    if number:
        return 1e-4, -0.1 if int(number[1]) >= 4 else 0.0, "processing baseline"
    return None, 0.0, "item"


def _checksum(described: Mapping[str, Any]) -> tuple[str, str] | None:
    text = str(described.get("file:checksum", "")).lower()
    for prefix, algorithm in _HASHES.items():
        if text.startswith(prefix):
            return algorithm, text[len(prefix) :]
    return None


def _saturation(item: _Item, spec: StackSpec, reader: AssetReader) -> list[Asset]:
    """QA_RADSAT of a Landsat item, with the bits of the wanted bands."""
    assets = _assets(item.value)
    found = _find(assets, "qa_radsat")
    if found is None:
        return []
    bits = 0
    for name in spec.bands:
        band = _find(assets, name)
        if band is None:
            continue
        entries = _bands(band[1])
        names = (str(entries[band[2] - 1].get("name", "")) if entries else "", band[0])
        number = next((int(match[1]) for text in names if (match := re.search(r"B(\d{1,2})$", text.upper()))), None)
        if number is not None:
            bits |= 1 << (number - 1)
    asset = _asset("QA_RADSAT", "saturation", found[1], found[2], None, 0.0, False, item, spec, reader, {}, bits)
    return [asset]
