"""Sentinel-2 Level-2A products in SAFE format, and Landsat Collection 2 Level-2 products, as folders.

In: product folders as ESA and USGS deliver them, unpacked. Out: a `Stack`. Scale and offset are taken band by band from
the product's own metadata (Sentinel-2: BOA_QUANTIFICATION_VALUE, BOA_ADD_OFFSET from processing baseline 04.00 on;
Landsat: the Level-2 groups, since the Level-1 groups repeat the same names). Checksums of the manifest are verified.
Sources: ESA, Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD); USGS, Landsat 8-9 and 4-7 Collection 2
Level-2 Science Product Guides (LSDS-1619, LSDS-1618).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from geoevidence.errors import FormatError
from geoevidence.types import Message
from satellite.assets import AssetReader, local_file, set_aside, settled
from satellite.cubefiles import wanted_bands
from satellite.stack import ROLES, Stack, StackSpec, date_in, make_stack, spec_for
from satellite.strict import read_bytes, read_json, read_xml
from satellite.types import Asset, Scene

_SAFE_FILE, _LEVEL_1_FILE = "MTD_MSIL2A.xml", "MTD_MSIL1C.xml"
_MTL = re.compile(r"(?P<product>L[A-Z]\d\d_.+)_MTL\.(?P<kind>json|txt|xml)$")
CLOUD_BITS, FILL_BITS = (1, 2, 3, 4, 5), (0,)
"""QA_PIXEL: dilated cloud, cirrus (Landsat 8-9), cloud, cloud shadow, snow; and fill (LSDS-1619 table 6-3)."""
_DROPPED = 9
"""QA_RADSAT of Landsat 4-7: dropped pixel."""

SENTINEL_2 = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "swir1": "B11",
    "swir2": "B12",
}
"""Common name -> band of the Multispectral Instrument."""
_BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Order of band_id in the metadata."""
LANDSAT_OLI = {"coastal": 1, "blue": 2, "green": 3, "red": 4, "nir": 5, "swir1": 6, "swir2": 7}
LANDSAT_TM = {"blue": 1, "green": 2, "red": 3, "nir": 4, "swir1": 5, "swir2": 7}
"""Common name -> number of the band, of Landsat 8-9 and of Landsat 4-7."""


def is_safe(folder: Path) -> bool:
    """Whether a folder is a Sentinel-2 product (of any level)."""
    return (folder / _SAFE_FILE).is_file() or (folder / _LEVEL_1_FILE).is_file()


def is_landsat(folder: Path) -> bool:
    """Whether a folder holds Landsat Collection 2 metadata."""
    return any(_MTL.match(path.name) for path in folder.iterdir() if path.is_file())


def read_products(root: Path, folders: Sequence[Path], stated: Mapping[str, Any]) -> Stack:
    """The stack of product folders in `root` (or `root` itself). Raises as `read_scenes`."""
    reader = AssetReader(root)
    safes = [folder for folder in folders if folder.suffix == ".SAFE" or is_safe(folder)]
    if safes and len(safes) < len(folders):
        raise FormatError("satellite.mixed_products", path=root.name)
    files: dict[str, str] = {}
    if safes:
        spec = spec_for(root, stated, StackSpec(sensor="Sentinel-2", bands=ROLES, quality="SCL"), files)
        scenes = [_safe_scene(folder, spec, reader) for folder in safes]
        return make_stack("safe", spec, scenes, {**files, **reader.files}, root.name)
    default = StackSpec(sensor="Landsat", bands=ROLES, quality="QA_PIXEL", cloud_bits=CLOUD_BITS, fill_bits=FILL_BITS)
    spec = spec_for(root, stated, default, files)
    scenes = [_landsat_scene(path, spec, reader) for folder in folders for path in _mtl_files(folder)]
    return make_stack("landsat", spec, scenes, {**files, **reader.files}, root.name)


def _empty(name: str, folder: Path, sensor: str) -> Scene:
    return Scene(name=name, path=folder, sha256="", acquired=date_in(name), sensor=sensor, status="read")


def _as_message(error: FormatError) -> Message:
    return Message(id=error.message_id, values={name: str(value) for name, value in error.values.items()})


def _found_asset(asset: Asset, reader: AssetReader, base: Path, href: str, spec: StackSpec, **more: Any) -> Asset:
    path, status = local_file(base, base, href)
    # The record shows the place inside the source.
    shown = href if base == reader.root else f"{base.name}/{href}"
    return reader.asset(replace(asset, href=shown, path=path, status=status), saturated=spec.saturated, **more)


# Sentinel-2 -----------------------------------------------------------------------------------------------------------


def _safe_scene(folder: Path, spec: StackSpec, reader: AssetReader) -> Scene:
    scene = _empty(folder.name, folder, spec.sensor)
    if not folder.resolve().is_relative_to(reader.root.resolve()):
        return set_aside(scene, "outside_folder", "satellite.scene_leaves_folder")
    path = folder / _SAFE_FILE
    if not path.is_file():
        level_1 = (folder / _LEVEL_1_FILE).is_file()
        status, message = ("other_level", "scene_other_level") if level_1 else ("damaged", "scene_metadata")
        return set_aside(scene, status, f"satellite.{message}")  # type: ignore[arg-type]
    try:
        scene = replace(scene, sha256=reader.digest(path))
        root, checksums = read_xml(path), _manifest(folder, reader)
        return settled(_with_safe(scene, folder, root, checksums, spec, reader), wanted_bands(spec))
    except FormatError as error:
        return set_aside(scene, "damaged", "satellite.scene_metadata_bad", problem=_as_message(error))


def _with_safe(
    scene: Scene, folder: Path, root: Element, checksums: Mapping[str, tuple[str, str]], spec: StackSpec, reader: AssetReader
) -> Scene:
    baseline = _text_of(root, "PROCESSING_BASELINE")
    uri = root.findtext(".//PRODUCT_URI") or folder.name
    tile = re.search(r"_T(\d\d[A-Z]{3})(_|\.|$)", uri)
    scene = replace(
        scene,
        acquired=date_in(_text_of(root, "PRODUCT_START_TIME")[:10]),
        sensor=root.findtext(".//SPACECRAFT_NAME") or scene.sensor,
        tile=tile[1] if tile else "",
        baseline=baseline,
        values_from=_SAFE_FILE,
    )
    if "2A" not in _text_of(root, "PROCESSING_LEVEL"):
        return set_aside(scene, "other_level", "satellite.scene_other_level")
    images = [element.text.strip() for element in root.iter("IMAGE_FILE") if element.text]
    scale, offsets = _radiometry(root, baseline, spec)
    special = {
        (element.findtext("SPECIAL_VALUE_TEXT") or "").strip(): _number(element.findtext("SPECIAL_VALUE_INDEX") or "")
        for element in root.iter("Special_Values")
    }
    assets = []
    for name in wanted_bands(spec):
        own = _sentinel_band(name)
        image = _image(images, own, spec.resolution)
        if image is None:
            continue
        value = name != spec.quality
        asset = Asset(
            band=name,
            role="value" if value else "quality",
            href=image,
            path=None,
            scale=scale if value else 1.0,
            offset=offsets.get(own, 0.0) if value else 0.0,
            nodata=(special.get("NODATA", 0.0) if spec.nodata is None else spec.nodata) if value else 0.0,
            saturated=special.get("SATURATED") if value else None,
        )
        assets.append(_found_asset(asset, reader, folder, image, spec, checksum=checksums.get(image)))
    return replace(scene, assets=tuple(assets), values_from="stack.toml" if spec.scale is not None else _SAFE_FILE)


def _text_of(root: Element, name: str) -> str:
    text = (root.findtext(f".//{name}") or "").strip()
    if not text:
        raise FormatError("satellite.metadata_without", name=name)
    return text


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise FormatError("satellite.metadata_number", text=text) from error
    if not abs(value) < 1e12:
        raise FormatError("satellite.metadata_number", text=text)
    return value


def _radiometry(root: Element, baseline: str, spec: StackSpec) -> tuple[float, dict[str, float]]:
    """Scale, and offset of each band, in reflectance."""
    if spec.scale is not None:
        return spec.scale, dict.fromkeys(_BAND_IDS, spec.offset)
    text = root.findtext(".//BOA_QUANTIFICATION_VALUE") or root.findtext(".//L2A_BOA_QUANTIFICATION_VALUE")
    quantification = _number(text or "")
    if quantification <= 0:
        raise FormatError("satellite.metadata_number", text=text or "-")
    names = {
        element.get("bandId"): _sentinel_band(element.get("physicalBand") or "") for element in root.iter("Spectral_Information")
    }
    known = {str(index): name for index, name in enumerate(_BAND_IDS)} | {key: name for key, name in names.items() if key}
    offsets = {
        known.get(element.get("band_id") or "", ""): _number(element.text or "") for element in root.iter("BOA_ADD_OFFSET")
    }
    # From baseline 04.00 on every product states the offset; one that does not cannot be interpreted.
    if not offsets and _number(baseline) >= 4.0:
        raise FormatError("satellite.metadata_without", name="BOA_ADD_OFFSET")
    if offsets:
        wanted = [_sentinel_band(name) for name in spec.bands]
        missing = [name for name in wanted if name in _BAND_IDS and name not in offsets]
        if missing:
            raise FormatError("satellite.metadata_without", name=f"BOA_ADD_OFFSET {missing[0]}")
    return 1.0 / quantification, {name: value / quantification for name, value in offsets.items()}


def _sentinel_band(name: str) -> str:
    """B02 for blue, B2, b02 and B02; other names in capitals."""
    own = SENTINEL_2.get(name.lower(), name.upper())
    return f"B0{own[1]}" if re.fullmatch(r"B\d", own) else own


def _image(images: Sequence[str], band: str, resolution: float) -> str | None:
    """The image of a band, as a path in the product: at the resolution asked for where there is one, else the finest."""
    sizes = {}
    for image in images:
        found = re.fullmatch(r".*_([A-Z0-9]+)_(\d+)m", image.rpartition("/")[2])
        if found and found[1] == band:
            sizes[int(found[2])] = image + ".jp2"
    if not sizes:
        return None
    return sizes.get(round(resolution), sizes[min(sizes)])


def _manifest(folder: Path, reader: AssetReader) -> dict[str, tuple[str, str]]:
    """Path in the product -> (algorithm, hex digest), from manifest.safe where there is one."""
    path = folder / "manifest.safe"
    if not path.is_file():
        return {}
    reader.digest(path)
    found = {}
    for stream in read_xml(path).iter("byteStream"):
        place, checksum = stream.find("fileLocation"), stream.find("checksum")
        if place is None or checksum is None or not checksum.text:
            continue
        algorithm = {"MD5": "md5", "SHA3-256": "sha3_256", "SHA-256": "sha256"}.get((checksum.get("checksumName") or "").upper())
        if algorithm:
            found[(place.get("href") or "").removeprefix("./")] = (algorithm, checksum.text.strip())
    return found


# Landsat --------------------------------------------------------------------------------------------------------------


def _mtl_files(folder: Path) -> list[Path]:
    """One metadata file a product, in name order: JSON before text before XML."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _MTL.match(path.name)
        if match and path.is_file():
            found.setdefault(match["product"], {})[match["kind"]] = path
    return [next(kinds[kind] for kind in ("json", "txt", "xml") if kind in kinds) for _, kinds in sorted(found.items())]


def _landsat_scene(path: Path, spec: StackSpec, reader: AssetReader) -> Scene:
    match = _MTL.match(path.name)
    assert match is not None
    scene = _empty(match["product"], path.parent, spec.sensor)
    if not path.resolve().is_relative_to(reader.root.resolve()):
        return set_aside(scene, "outside_folder", "satellite.scene_leaves_folder")
    try:
        scene = replace(scene, sha256=reader.digest(path))
        return settled(_with_landsat(scene, path, read_mtl(path), spec, reader), wanted_bands(spec))
    except FormatError as error:
        return set_aside(scene, "damaged", "satellite.scene_metadata_bad", problem=_as_message(error))


def _with_landsat(
    scene: Scene, path: Path, groups: Mapping[str, Mapping[str, str]], spec: StackSpec, reader: AssetReader
) -> Scene:
    contents, image = (_group(groups, name) for name in ("PRODUCT_CONTENTS", "IMAGE_ATTRIBUTES"))
    record = groups.get("LEVEL2_PROCESSING_RECORD", {})
    spacecraft = _entry(image, "SPACECRAFT_ID")
    scene = replace(
        scene,
        acquired=_iso_date(_entry(image, "DATE_ACQUIRED")),
        sensor=spacecraft.replace("_", " ").title(),
        tile=f"{image.get('WRS_PATH', '').zfill(3)}{image.get('WRS_ROW', '').zfill(3)}",
        baseline=record.get("PROCESSING_SOFTWARE_VERSION", ""),
        values_from=path.name if spec.scale is None else "stack.toml",
    )
    if not _entry(contents, "PROCESSING_LEVEL").startswith("L2"):
        return set_aside(scene, "other_level", "satellite.scene_other_level")
    numbers = LANDSAT_OLI if spacecraft in ("LANDSAT_8", "LANDSAT_9") else LANDSAT_TM
    parameters = groups.get("LEVEL2_SURFACE_REFLECTANCE_PARAMETERS", {})
    assets, bits = [], 0
    for name in spec.bands:
        number = numbers.get(name.lower()) or _band_number(name)
        href = contents.get(f"FILE_NAME_BAND_{number}")
        if number is None or href is None:
            continue
        bits |= 1 << (number - 1)
        asset = Asset(
            band=name,
            href=href,
            path=None,
            scale=_number(_entry(parameters, f"REFLECTANCE_MULT_BAND_{number}")) if spec.scale is None else spec.scale,
            offset=_number(_entry(parameters, f"REFLECTANCE_ADD_BAND_{number}")) if spec.scale is None else spec.offset,
            nodata=0.0 if spec.nodata is None else spec.nodata,
        )
        assets.append(_found_asset(asset, reader, path.parent, href, spec))
    if spec.quality:
        key = "FILE_NAME_QUALITY_L1_PIXEL" if spec.quality == "QA_PIXEL" else f"FILE_NAME_{spec.quality}"
        if key in contents:
            asset = Asset(band=spec.quality, role="quality", href=contents[key], path=None)
            assets.append(_found_asset(asset, reader, path.parent, contents[key], spec))
    saturation = contents.get("FILE_NAME_QUALITY_L1_RADIOMETRIC_SATURATION")
    if saturation is not None:
        bits |= 0 if numbers is LANDSAT_OLI else 1 << _DROPPED
        asset = Asset(band="QA_RADSAT", role="saturation", href=saturation, path=None, bits=bits)
        assets.append(_found_asset(asset, reader, path.parent, saturation, spec))
    return replace(scene, assets=tuple(assets))


def _band_number(name: str) -> int | None:
    found = re.fullmatch(r"(SR_)?B(\d{1,2})", name.upper())
    return int(found[2]) if found else None


def _iso_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise FormatError("satellite.metadata_number", text=text) from error


def _group(groups: Mapping[str, Mapping[str, str]], name: str) -> Mapping[str, str]:
    if name not in groups:
        raise FormatError("satellite.metadata_without", name=name)
    return groups[name]


def _entry(group: Mapping[str, str], name: str) -> str:
    if name not in group:
        raise FormatError("satellite.metadata_without", name=name)
    return group[name]


def read_mtl(path: Path) -> dict[str, dict[str, str]]:
    """Groups of a Landsat Collection 2 metadata file (JSON, ODL text or XML): group -> key -> text. Raises FormatError."""
    if path.suffix == ".txt":
        return _read_odl(path)
    if path.suffix == ".xml":
        root = read_xml(path)
        tree: Any = {group.tag: {entry.tag: (entry.text or "").strip() for entry in group} for group in root}
    else:
        tree = read_json(path)
        tree = tree.get("LANDSAT_METADATA_FILE") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or not all(isinstance(group, dict) for group in tree.values()):
        raise FormatError("core.cannot_read", path=path.name, reason="LANDSAT_METADATA_FILE")
    return {name: {key: str(value) for key, value in group.items()} for name, group in tree.items()}


def _read_odl(path: Path) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    inside: list[str] = []
    try:
        lines = read_bytes(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error
    for number, line in enumerate(lines, start=1):
        key, equals, value = (part.strip() for part in line.partition("="))
        if key == "GROUP":
            inside.append(value)
            groups.setdefault(value, {})
        elif key == "END_GROUP":
            if not inside or inside.pop() != value:
                raise FormatError("core.cannot_read", path=path.name, reason=f"END_GROUP, line {number}")
        elif equals and inside:
            if key in groups[inside[-1]]:
                raise FormatError("core.cannot_read", path=path.name, reason=f"{key} twice, line {number}")
            groups[inside[-1]][key] = value.strip('"')
        elif key not in ("END", ""):
            raise FormatError("core.cannot_read", path=path.name, reason=f"line {number}")
    if inside:
        raise FormatError("core.cannot_read", path=path.name, reason=f"GROUP {inside[-1]}")
    return groups
