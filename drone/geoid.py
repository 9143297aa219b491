"""Height of the geoid over the ellipsoid from a grid file, so that ellipsoidal heights become heights above sea level.

In: a geoid model as GeoTIFF or GTX (NOAA VDatum), longitudes and latitudes in degrees, values in metres; the place of a block.
Out: an `Undulation` of the block. Which vertical datum that gives (1985 national height datum, EGM2008 ...) is that of the
model: it is named by its file and digest, and nothing else is assumed. No network; errors of the model are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from drone.products import digest_of
from drone.types import DenseCloud, GroundPoint, Pose, Reconstruction, SurfaceModel
from geoevidence.crs import transformer
from geoevidence.errors import CoverageError, CrsError, FormatError, InputError
from geoevidence.raster import Raster, open_strict

_NODES = 17
_LARGEST = 150.0
"""m: no geoid lies farther from a global ellipsoid (EGM2008: -107 to 86 m)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Undulation:
    """Height of the geoid over the ellipsoid around a block: ellipsoidal height = orthometric height + undulation.

    file: name of the model's file; digest: `sha256:<hex>`. middle: m at the middle of the block, to the millimetre.
    east, north: (n,) m of the nodes; values: (n, n) m, rows northwards.
    """

    file: str
    digest: str
    middle: float
    east: NDArray[np.float64]
    north: NDArray[np.float64]
    values: NDArray[np.float64]

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """m at places (E, N): bilinear between nodes, that of the nearest edge outside."""
        from scipy.interpolate import RegularGridInterpolator

        between = RegularGridInterpolator((self.north, self.east), self.values)
        places = np.stack([np.clip(y, self.north[0], self.north[-1]), np.clip(x, self.east[0], self.east[-1])], axis=-1)
        return np.asarray(between(places), np.float64)


def read_undulation(path: Path, bounds: tuple[float, float, float, float], crs: CRS) -> Undulation:
    """The undulation over bounds (xmin, ymin, xmax, ymax) of a projected CRS.

    Raises:
        FormatError: no grid of one band, or values that no geoid has. CrsError: a grid that is not in degrees.
        CoverageError: the grid does not cover the place.
    """
    import rasterio
    from rasterio.errors import RasterioError

    path = Path(path)
    east, north = np.linspace(bounds[0], bounds[2], _NODES), np.linspace(bounds[1], bounds[3], _NODES)
    grid_x, grid_y = np.meshgrid(east, north)
    geographic = crs.geodetic_crs
    assert geographic is not None
    lon, lat = transformer(crs, geographic).transform(grid_x.ravel(), grid_y.ravel())
    try:
        dataset = rasterio.open(path, driver="GTX", sharing=False) if path.suffix.lower() == ".gtx" else open_strict(path)
        with dataset:
            if dataset.count < 1 or dataset.transform.b or dataset.transform.d:
                raise FormatError("drone.not_one_band", path=path.name, bands=dataset.count)
            if dataset.crs is not None and dataset.crs.is_projected:
                raise CrsError("drone.geoid_not_geographic", path=path.name)
            values = _sample(dataset, np.asarray(lon), np.asarray(lat), path.name)
    except RasterioError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error
    values = values.reshape(_NODES, _NODES)
    if not np.all(np.abs(values) <= _LARGEST):
        raise FormatError("drone.geoid_values", path=path.name, found=f"{float(np.abs(values).max()):.6g}")
    middle = round(float(values[_NODES // 2, _NODES // 2]), 3)
    return Undulation(file=path.name, digest=digest_of(path) or "", middle=middle, east=east, north=north, values=values)


def _sample(dataset, lon: NDArray[np.float64], lat: NDArray[np.float64], name: str) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    """Bilinear values at places; the grid's values stand at the middle of its cells. Longitudes may count from 0 or from -180."""
    from rasterio.windows import Window

    t = dataset.transform
    turns = np.round((t.c + t.a * dataset.width / 2 - lon) / 360)
    col, row = (lon + 360 * turns - t.c) / t.a - 0.5, (lat - t.f) / t.e - 0.5
    inside = (col >= 0) & (row >= 0) & (col <= dataset.width - 1) & (row <= dataset.height - 1)
    if not inside.all():
        raise CoverageError("drone.geoid_elsewhere", path=name, lon=f"{lon.mean():.4f}", lat=f"{lat.mean():.4f}")
    x0, y0 = int(col.min()), int(row.min())
    width, height = min(int(col.max()) + 2, dataset.width) - x0, min(int(row.max()) + 2, dataset.height) - y0
    part = dataset.read(1, window=Window(x0, y0, width, height), masked=True)  # type: ignore[call-arg]
    if np.ma.count_masked(part) or not np.isfinite(part.data).all():
        raise CoverageError("drone.geoid_elsewhere", path=name, lon=f"{lon.mean():.4f}", lat=f"{lat.mean():.4f}")
    grid = np.asarray(part.data, np.float64)
    i, j = np.minimum((row - y0).astype(int), max(height - 2, 0)), np.minimum((col - x0).astype(int), max(width - 2, 0))
    s, u = row - y0 - i, col - x0 - j
    i1, j1 = np.minimum(i + 1, height - 1), np.minimum(j + 1, width - 1)
    upper, lower = grid[i, j] * (1 - u) + grid[i, j1] * u, grid[i1, j] * (1 - u) + grid[i1, j1] * u
    return np.asarray(upper * (1 - s) + lower * s)


def block_above_geoid(block: Reconstruction, geoid: Undulation) -> Reconstruction:
    """The block moved down by the undulation at its middle, so that photos and heights stay one frame.

    The rest of the undulation (centimetres over a block of some hundred metres) is taken from surfaces and points only.

    Raises:
        InputError: its heights are not ellipsoidal.
    """
    if block.flight.height_kind != "ellipsoidal":
        raise InputError("drone.geoid_needs_ellipsoidal", found=block.flight.height_kind)
    down = np.array([0.0, 0.0, geoid.middle])

    def moved(point: GroundPoint) -> GroundPoint:
        x, y, z = point.position
        return replace(point, position=(x, y, z - geoid.middle))

    return replace(
        block,
        flight=replace(block.flight, ground_points=tuple(map(moved, block.flight.ground_points)), height_kind="orthometric"),
        poses=MappingProxyType({name: Pose(R=pose.R, C=pose.C - down) for name, pose in block.poses.items()}),
        points=block.points - down,
    )


def surface_above_geoid(surface: SurfaceModel, geoid: Undulation) -> SurfaceModel:
    """The surface with heights above the geoid, cell by cell."""
    grid = surface.raster.grid
    rows, cols = grid.shape
    x = np.asarray(grid.transform.c + (np.arange(cols) + 0.5) * grid.transform.a, np.float64)
    data = np.empty((1, rows, cols), np.float32)
    for row in range(rows):
        y = np.full(cols, grid.transform.f + (row + 0.5) * grid.transform.e)
        data[0, row] = surface.raster.data[0, row] - geoid.at(x, y)
    raster = Raster(data=data, grid=grid, nodata=surface.raster.nodata, unit=surface.raster.unit)
    return replace(surface, raster=raster, height_kind="orthometric")


def cloud_above_geoid(cloud: DenseCloud, geoid: Undulation) -> DenseCloud:
    """The cloud with heights above the geoid, point by point."""
    points = cloud.points.copy()
    points[:, 2] -= geoid.at(points[:, 0], points[:, 1])
    return replace(cloud, points=points)
