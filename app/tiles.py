"""A raster as Web Mercator tiles (PNG): colours as they are, single bands through a colour ramp.

Reads strictly (`geoevidence.raster.open_strict`): only real image files, never a virtual or network source.
A tile is a view for people; nothing is measured from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.warp import transform_bounds
from rio_tiler.colormap import cmap
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.io import Reader

from geoevidence.errors import CrsError
from geoevidence.raster import open_strict

TILE = 256
_EARTH = 2 * np.pi * 6378137.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSource:
    """What is needed to draw tiles of one raster file.

    bounds: (west, south, east, north) in degrees, EPSG:4326.
    minzoom, maxzoom: zoom at which the whole raster fits in one tile; zoom at which a tile pixel is a raster pixel.
    stretch: (low, high) of a single band, its 2nd and 98th percentile; None for colour images.
    """

    path: Path
    bounds: tuple[float, float, float, float]
    minzoom: int
    maxzoom: int
    stretch: tuple[float, float] | None

    @classmethod
    def open(cls, path: Path) -> TileSource:
        """Raises FormatError for what is not a raster, CrsError for one without a place on Earth."""
        with open_strict(path) as dataset:
            if dataset.crs is None:
                raise CrsError("core.no_crs", path=str(path))
            west, south, east, north = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds, densify_pts=21)
            left, bottom, right, top = transform_bounds(dataset.crs, "EPSG:3857", *dataset.bounds, densify_pts=21)
            pixel = max((right - left) / dataset.width, (top - bottom) / dataset.height)
            maxzoom = int(np.clip(np.ceil(np.log2(_EARTH / TILE / pixel)), 0, 24))
            minzoom = int(np.clip(np.floor(np.log2(_EARTH / max(right - left, top - bottom))), 0, maxzoom))
            stretch = None
            if ColorInterp.red not in dataset.colorinterp and dataset.count < 3:
                step = max(1, int(np.ceil(max(dataset.shape) / 1024)))
                shape = (max(1, dataset.height // step), max(1, dataset.width // step))
                band = dataset.read(1, out_shape=shape, masked=True)
                values = band.compressed()
                values = values[np.isfinite(values)]
                low, high = np.percentile(values, (2, 98)) if values.size else (0.0, 1.0)
                stretch = (float(low), float(high) if high > low else float(low) + 1.0)
        return cls(path=path, bounds=(west, south, east, north), minzoom=minzoom, maxzoom=maxzoom, stretch=stretch)

    def tile(self, z: int, x: int, y: int) -> bytes | None:
        """PNG of one tile with transparency, or None outside the raster."""
        with open_strict(self.path) as dataset, Reader(input=str(self.path), dataset=dataset) as reader:
            try:
                indexes = (1,) if self.stretch is not None else (1, 2, 3)
                image = reader.tile(x, y, z, tilesize=TILE, indexes=indexes)
            except TileOutsideBounds:
                return None
            if not image.mask.any():
                return None
            if self.stretch is not None:
                # what is missing gets a number that fits a byte; the mask keeps it transparent
                image.array = np.ma.MaskedArray(
                    np.nan_to_num(image.array.data, nan=self.stretch[0]), image.array.mask, fill_value=0
                )
                image.rescale(in_range=(self.stretch,))
                return bytes(image.render(img_format="PNG", colormap=cmap.get("viridis")))
            return bytes(image.render(img_format="PNG"))
