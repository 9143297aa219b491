"""Grids and rasters as values, and deterministic Cloud Optimized GeoTIFF.

A `Grid` is shape + transform + CRS, never three loose arguments. Reading is strict: only
the drivers named here, never VRT or a network source disguised as .tif. Writing is atomic
and gives the same bytes for the same raster and tags. No resampling happens here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from geoevidence.errors import CrsError, FormatError, GridMismatchError

DRIVERS = ("GTiff", "COG", "JP2OpenJPEG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where the cells of a raster lie.

    shape: (rows, cols).
    transform: pixel corner (col, row) -> world (x, y).
    crs: pyproj CRS.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: CRS

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise ValueError(f"a grid has at least one row and one column, not {self.shape}")

    @property
    def resolution(self) -> tuple[float, float]:
        """Cell size (x, y) in units of the CRS, both positive."""
        t = self.transform
        return float(np.hypot(t.a, t.d)), float(np.hypot(t.b, t.e))

    @property
    def cell_area(self) -> float:
        """Area of a cell in square units of the CRS."""
        return abs(self.transform.determinant)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in the CRS."""
        rows, cols = self.shape
        corners = [self.transform @ corner for corner in ((0, 0), (cols, 0), (0, rows), (cols, rows))]
        xs, ys = [c[0] for c in corners], [c[1] for c in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def matches(self, other: Grid) -> bool:
        """The same cells: shape and CRS equal, corners within a thousandth of a cell."""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        step = min(self.resolution) * 1e-3
        return bool(np.all(np.abs(np.subtract(self.bounds, other.bounds)) <= step))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raster:
    """data: (band, y, x), read-only; grid; nodata: value that marks absence or None; unit: UCUM or ''."""

    data: NDArray[Any]
    grid: Grid
    nodata: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or self.data.shape[1:] != self.grid.shape:
            raise ValueError(f"data {self.data.shape} does not fit grid {self.grid.shape} as (band, y, x)")
        view = self.data.view()
        view.flags.writeable = False
        object.__setattr__(self, "data", view)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True = missing, shape (band, y, x)."""
        if self.nodata is None:
            return np.zeros(self.data.shape, bool)
        if np.isnan(self.nodata):
            return np.asarray(np.isnan(self.data))
        return np.asarray(self.data == self.nodata)


def _driver_of(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "GTiff"
    if head[4:8] == b"jP  " or head[:4] == b"\xff\x4f\xff\x51":
        return "JP2OpenJPEG"
    raise FormatError("core.not_a_raster", path=path.name)


def open_strict(path: Path) -> rasterio.io.DatasetReader:
    """The dataset, opened with the driver that its first bytes name (GeoTIFF or JPEG 2000) and no other.

    Raises:
        FormatError: not such a file, or damaged.
    """
    driver = _driver_of(Path(path))
    try:
        return rasterio.open(path, driver=driver, sharing=False)
    except RasterioError as error:
        raise FormatError("core.cannot_read", path=Path(path).name, reason=str(error)) from error


def grid_of(dataset: rasterio.io.DatasetReader, name: str) -> Grid:
    """The grid of an open dataset. Raises CrsError when it has none."""
    if dataset.crs is None:
        raise CrsError("core.no_crs", path=name)
    return Grid(shape=(dataset.height, dataset.width), transform=dataset.transform, crs=CRS.from_wkt(dataset.crs.to_wkt()))


def read_raster(path: Path, *, bands: Sequence[int] | None = None, window: Window | None = None) -> Raster:
    """Bands (1-based; all by default) of a GeoTIFF or JPEG 2000, whole or in a window.

    Raises:
        FormatError: the file is not such a raster or is damaged (also in the middle).
        CrsError: it has no CRS.
    """
    path = Path(path)
    with open_strict(path) as dataset:
        grid = grid_of(dataset, path.name)
        try:
            data = dataset.read(list(bands) if bands else None, window=window)
            units = dataset.units[0] if dataset.units and dataset.units[0] else ""
            nodata = dataset.nodata
        except (RasterioError, ValueError, IndexError) as error:
            raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error
    if window is not None:
        transform = rasterio.windows.transform(window, grid.transform)
        grid = Grid(shape=(data.shape[1], data.shape[2]), transform=transform, crs=grid.crs)
    return Raster(data=data, grid=grid, nodata=nodata, unit=units)


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterDifference:
    """How two rasters of one grid differ. cells: of all bands. other_mask: cells missing in one alone. over: cells, present in
    both, that differ by more than the tolerance; largest: largest difference of cells present in both."""

    cells: int
    other_mask: int
    over: int
    largest: float


def raster_difference(one: Path, other: Path, *, tolerance: float) -> RasterDifference:
    """Compare two rasters cell by cell, in their unit, block of rows by block of rows.

    Raises:
        GridMismatchError: other shape, place, CRS, number of bands or type. FormatError: not such a raster, or damaged.
    """
    one, other = Path(one), Path(other)
    with open_strict(one) as a, open_strict(other) as b:
        same = grid_of(a, one.name).matches(grid_of(b, other.name)) and (a.count, a.dtypes) == (b.count, b.dtypes)
        bands, (rows, cols) = list(range(1, a.count + 1)), a.shape
    if not same:
        raise GridMismatchError("core.grids_differ", one=one.name, other=other.name)
    other_mask = over = 0
    largest = 0.0
    for row in range(0, rows, 512):
        window = Window(0, row, cols, min(512, rows - row))
        left, right = (read_raster(path, bands=bands, window=window) for path in (one, other))
        other_mask += int((left.mask != right.mask).sum())
        both = ~left.mask & ~right.mask
        apart = np.abs(left.data[both].astype(np.float64) - right.data[both].astype(np.float64))
        over += int((apart > tolerance).sum())
        largest = max(largest, float(apart.max(initial=0.0)))
    return RasterDifference(cells=len(bands) * rows * cols, other_mask=other_mask, over=over, largest=largest)


_STRIP = 1024
"""Rows that are handed over at once: a raster that is mapped from disk is never in memory as a whole."""


def write_cog(
    path: Path,
    raster: Raster,
    *,
    band_names: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    overviews: Resampling = Resampling.nearest,
    in_memory: int = 256_000_000,
) -> None:
    """Write a Cloud Optimized GeoTIFF (DEFLATE, 512 x 512 blocks), atomically.

    Same raster, names and tags give the same bytes. `tags` must not hold times.
    `overviews` is how the smaller copies are made; the full resolution is never resampled. A raster of more than `in_memory` bytes is
    put together in a file beside `path`, to the same bytes.
    """
    path = Path(path)
    count, rows, cols = raster.data.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": count,
        "height": rows,
        "width": cols,
        "dtype": raster.data.dtype,
        "crs": rasterio.crs.CRS.from_wkt(raster.grid.crs.to_wkt()),
        "transform": raster.grid.transform,
        "nodata": raster.nodata,
    }
    predictor = 3 if raster.data.dtype.kind == "f" else 2 if raster.data.dtype.itemsize <= 4 else 1
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".tif")
    os.close(handle)

    def written(target: Any) -> None:
        for row in range(0, rows, _STRIP):
            lines = raster.data[:, row : row + _STRIP]
            target.write(lines, window=Window(0, row, cols, lines.shape[1]))
        for index, name in enumerate(band_names, start=1):
            target.set_band_description(index, name)
        if raster.unit:
            target.units = [raster.unit] * count
        if tags:
            target.update_tags(**dict(sorted(tags.items())))

    def copied(source: Any) -> None:
        rasterio.shutil.copy(
            source,
            temporary,
            driver="COG",
            compress="DEFLATE",
            predictor=str(predictor),
            blocksize="512",
            overview_resampling=overviews.name,
            num_threads="1",
        )

    try:
        if raster.data.nbytes <= in_memory:
            with MemoryFile() as memory:
                with memory.open(**profile) as target:
                    written(target)
                with memory.open() as source:
                    copied(source)
        else:
            with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as scratch:
                plain = Path(scratch) / "plain.tif"
                with rasterio.open(plain, "w", **profile, bigtiff="IF_SAFER") as target:
                    written(target)
                with rasterio.open(plain) as source:
                    copied(source)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
