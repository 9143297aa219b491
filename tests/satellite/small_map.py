"""A change map and its scenes, small enough to make in a moment: bare ground in one corner from the fifth of ten dates on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from geoevidence.raster import Grid, Raster, write_cog
from satellite.types import NODATE, Pace, Status

CHANGED = (slice(4, 20), slice(6, 22))
"""Rows and columns of the ground that changed."""
DAYS = tuple(f"2022{month:02d}15" for month in range(1, 11))
BREAK = 19_127  # 2022-05-15, days since 1970-01-01


def small_grid(rows: int = 40, cols: int = 40) -> Grid:
    return Grid(shape=(rows, cols), transform=Affine(10, 0, 400_000, 0, -10, 3_300_000), crs=CRS.from_epsg(32650))


def write_map(folder: Path, status: NDArray[np.uint8], *, day: int = BREAK, pace: Pace = Pace.ABRUPT) -> Path:
    """A result folder without a record: changed pixels broke at `day`, with an interval of 20 days."""
    folder.mkdir()
    grid = small_grid(*status.shape)
    layers = [np.where(status == Status.CHANGE, day + shift, NODATE).astype(np.int32) for shift in (0, -10, 10)]
    write_cog(folder / "status.tif", Raster(data=status[None], grid=grid))
    write_cog(folder / "break_date.tif", Raster(data=np.stack(layers), grid=grid, nodata=NODATE))
    paces = np.where(status == Status.CHANGE, np.uint8(pace), np.uint8(Pace.NONE))
    write_cog(folder / "pace.tif", Raster(data=paces[None].astype(np.uint8), grid=grid))
    return folder


def write_small_map(folder: Path) -> Path:
    """The map that calls the changed ground changed, and all the rest unchanged."""
    status = np.full((40, 40), Status.NO_CHANGE, np.uint8)
    status[CHANGED] = Status.CHANGE
    return write_map(folder, status)


def write_scenes(folder: Path) -> Path:
    """Ten GeoTIFFs and stack.toml: blue, green, red, nir; a cloud (SCL 9) over the lower half of the third date."""
    folder.mkdir()
    rng = np.random.default_rng(31)
    for number, day in enumerate(DAYS):
        plants, bare = (600, 900, 700, 3000), (1200, 1500, 1900, 2300)
        layers = np.stack([rng.normal(level, 40, (40, 40)) for level in plants])
        if number >= 4:
            layers[(slice(None), *CHANGED)] = np.stack([rng.normal(level, 40, (16, 16)) for level in bare])
        quality = np.full((1, 40, 40), 4.0)
        if number == 2:
            quality[:, 20:] = 9
        data = np.concatenate([layers, quality]).round().astype(np.int16)
        names = ("blue", "green", "red", "nir", "SCL")
        write_cog(folder / f"scene_{day}.tif", Raster(data=data, grid=small_grid()), band_names=names)
    (folder / "stack.toml").write_text(
        'sensor = "test"\nbands = ["blue", "green", "red", "nir"]\nscale = 0.0001\nquality = "SCL"\nclear = [4]\n',
        encoding="utf-8",
    )
    return folder
