"""One asset of a scene: where it lies, whether it may be read, and what its file says of itself.

In: a folder that is trusted to hold the source, and names written in it by others. Out: an `Asset` with its cells, type
and digest, or with a status and a reason. No name leads out of the folder, none leads to the network, and no other file
beside an asset is looked at. No pixel is read here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import rasterio
from rasterio.enums import Interleaving

from geoevidence.errors import CrsError, FormatError
from geoevidence.raster import open_strict
from geoevidence.types import Message
from satellite.stack import GridPool, file_sha256, set_aside
from satellite.types import Asset, AssetStatus, Scene, SceneStatus

_QUIET = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
"""Nothing beside a file is read with it: side files carry no digest, and folders of thousands are slow to list."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|/vsi|\\\\|//")
_LARGEST = {"uint16": 65535.0}
"""Types whose largest value no surface reaches: a saturated or overflowed cell."""


def open_quiet(path: Path) -> rasterio.io.DatasetReader:
    """`open_strict` without looking at any file beside it. Raises FormatError."""
    with rasterio.Env(**_QUIET):
        return open_strict(path)


def holds_blocks(dataset: rasterio.io.DatasetReader) -> bool:
    """Whether an open file keeps a block of all its bands in memory."""
    return bool(dataset.count > 1 and dataset.interleaving == Interleaving.pixel)


def local_file(root: Path, base: Path, href: str) -> tuple[Path | None, AssetStatus]:
    """The file that `href`, written in a file in `base`, means inside `root`: (path, "read"), or (None, why not)."""
    text = href.strip()
    if text.lower().startswith("file://"):
        text = unquote(text[7:])
    elif _SCHEME.match(text):
        return None, "network"
    else:
        text = unquote(text)
    if not text or "\0" in text:
        return None, "missing"
    try:
        path = (base / text).resolve()
        if not path.is_relative_to(root.resolve()):
            return None, "outside_folder"
        return (path, "read") if path.is_file() else (None, "missing")
    except (OSError, ValueError, RuntimeError):
        return None, "missing"


def shown_name(root: Path, path: Path) -> str:
    """The path of a file inside the source, as records show it."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return path.resolve().relative_to(root.resolve()).as_posix()


class AssetReader:
    """Looks at files of one source: each is hashed and opened once, equal grids become one object."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, str] = {}
        self.pool = GridPool()
        self._seen: dict[Path, dict[str, Any]] = {}

    def digest_all(self, paths: Iterable[Path]) -> None:
        """Note the SHA-256 of many files, several at a time; of those that cannot be read nothing is noted."""
        wanted = {shown_name(self.root, path): path for path in paths}

        def found(path: Path) -> str | None:
            try:
                return file_sha256(path)
            except OSError:
                return None  # `digest` meets the same error where the file is used

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for name, digest in zip(wanted, pool.map(found, wanted.values()), strict=True):
                if digest is not None:
                    self.files[name] = digest

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, noted in `files`."""
        name = shown_name(self.root, path)
        if name not in self.files:
            self.files[name] = file_sha256(path)
        return self.files[name]

    def look(self, path: Path) -> dict[str, Any]:
        """What a raster file says of itself. Raises FormatError, CrsError."""
        if path not in self._seen:
            with open_quiet(path) as dataset:
                if dataset.crs is None:
                    raise CrsError("core.no_crs", path=path.name)
                self._seen[path] = {
                    "grid": self.pool.grid((dataset.height, dataset.width), dataset.transform, dataset.crs.to_wkt()),
                    "dtypes": dataset.dtypes,
                    "nodata": dataset.nodatavals,
                    "descriptions": dataset.descriptions,
                    "tags": dataset.tags(),
                    "count": dataset.count,
                }
        return self._seen[path]

    def asset(self, asset: Asset, *, saturated: float | None = None, checksum: tuple[str, str] | None = None) -> Asset:
        """The asset with digest, grid, type and nodata of its file, or with the status that its file deserves.

        Args:
            asset: with `path` (or a status). saturated: stated by the user. checksum: (algorithm, hex) stated by the product.
        """
        path = asset.path
        if path is None or asset.status != "read":
            return asset
        try:
            asset = replace(asset, sha256=self.digest(path))
        except OSError:
            return replace(asset, status="missing", reason=Message(id="satellite.asset_missing", values=_shown(asset)))
        if checksum is not None and not _same_digest(path, *checksum):
            return replace(asset, status="damaged", reason=Message(id="satellite.asset_checksum", values=_shown(asset)))
        try:
            seen = self.look(path)
        except CrsError:
            return replace(asset, status="damaged", reason=Message(id="satellite.asset_no_crs", values=_shown(asset)))
        except FormatError:  # its own text may hold the full path, which must not reach a result
            return replace(asset, status="damaged", reason=Message(id="satellite.asset_damaged", values=_shown(asset)))
        if not 1 <= asset.position <= seen["count"]:
            return replace(asset, status="missing_band", reason=Message(id="satellite.asset_no_band", values=_shown(asset)))
        dtype, nodata = seen["dtypes"][asset.position - 1], seen["nodata"][asset.position - 1]
        if asset.nodata is not None:
            nodata = asset.nodata
        if saturated is None and asset.role == "value" and asset.saturated is None and _LARGEST.get(dtype) != nodata:
            saturated = _LARGEST.get(dtype)
        return replace(
            asset,
            grid=seen["grid"],
            dtype=dtype,
            nodata=None if nodata is None or np.isnan(nodata) else float(nodata),
            saturated=asset.saturated if saturated is None else saturated,
        )


def _shown(asset: Asset) -> dict[str, Any]:
    return {"band": asset.band, "href": asset.href}


def _same_digest(path: Path, algorithm: str, expected: str) -> bool:
    digest = hashlib.new(algorithm)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == expected.lower()


_OF_SCENE: dict[AssetStatus, SceneStatus] = {
    "network": "network",
    "outside_folder": "outside_folder",
    "missing": "missing_file",
    "damaged": "damaged",
    "missing_band": "missing_band",
}


def settled(scene: Scene, wanted: Sequence[str]) -> Scene:
    """The scene with the status that its assets deserve: all `wanted` bands must be there and readable.

    The grid is that of its finest wanted band of values.
    """
    if scene.status != "read":
        return scene
    for status, of_scene in _OF_SCENE.items():
        bad = [asset for asset in scene.assets if asset.status == status]
        if bad:
            reasons = [asset.reason or Message(id=f"satellite.asset_{status}", values=_shown(asset)) for asset in bad]
            return set_aside(scene, of_scene, "satellite.scene_asset", asset=reasons[0], count=len(bad))
    missing = [name for name in wanted if name not in {asset.band for asset in scene.assets}]
    if missing:
        return set_aside(scene, "missing_band", "satellite.scene_missing_band", bands=", ".join(missing))
    if scene.acquired is None:
        return set_aside(scene, "no_date", "satellite.scene_no_date")
    grids = [asset.grid for asset in scene.assets if asset.role == "value" and asset.grid is not None]
    finest = min(grids, key=lambda grid: grid.cell_area)
    order = {name: index for index, name in enumerate(wanted)}
    assets = sorted(scene.assets, key=lambda asset: (order.get(asset.band, len(order)), asset.band))
    return replace(scene, grid=finest, assets=tuple(assets))
