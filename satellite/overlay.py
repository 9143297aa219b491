"""Polygons that the user brings: the region to scan, places not to report, divisions with codes.

In: GeoJSON (RFC 7946: WGS 84 longitude, latitude), GeoPackage, Shapefile. Out: polygons in the CRS of a grid, which pixels
they hold, and which label has most of some pixels. Nothing is repaired silently: an invalid polygon is refused with its
place. Data in GCJ-02 must be declared; they are converted by `gcj02_to_wgs84`, and the layer says so.
No layer is shipped, and no border is known here.
"""

from __future__ import annotations

import math
import sqlite3
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from geoevidence.crs import parse_crs, transform_geometry
from geoevidence.errors import CoverageError, CrsError, FormatError
from geoevidence.raster import Grid
from geoevidence.trust import canonical
from satellite.sparse import Box

Datum = Literal["declared", "gcj02"]
WGS84 = CRS.from_epsg(4326)
MAX_BYTES = 512 << 20
MAX_FEATURES = 200_000
GCJ02_SD = 0.6
"""Standard uncertainty in m, per axis, left by turning GCJ-02 back with the published formula: a bound of 1 m taken as uniform."""
_EDGE_DEGREES = 0.01
"""Edges are cut to this length before they are moved to another CRS: a straight line there is no straight line here."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """Polygons of one file in the CRS of a grid.

    name: of the file. polygons: valid, not empty. labels: text of the asked field of each, "" without a field.
    gcj02: converted from GCJ-02. sha256: of the file's bytes, hex.
    """

    name: str
    polygons: tuple[BaseGeometry, ...]
    labels: tuple[str, ...]
    gcj02: bool
    sha256: str


def read_layer(path: Path, *, crs: CRS, field: str = "", datum: Datum = "declared") -> Layer:
    """The polygons of a file, in `crs`.

    Args:
        path: `.geojson`/`.json`, `.gpkg` (its only feature table, or `FILE.gpkg:TABLE`) or `.shp` with `.prj` beside it.
        field: its text becomes the label of each polygon; "" = none.
        datum: "gcj02" = the coordinates are longitude and latitude in GCJ-02, whatever the file says.

    Raises:
        FormatError: not such a file, damaged, too large, a polygon that is not valid, no such field, or no polygon at all.
        CrsError: coordinates that are not in the CRS that the format or the file names, or none is named.
    """
    path, table = Path(path), ""
    if ".gpkg:" in path.name:
        name, _, table = path.name.rpartition(":")
        path = path.with_name(name)
    suffix = path.suffix.lower()
    readers = {".geojson": _geojson, ".json": _geojson, ".gpkg": _geopackage, ".shp": _shapefile}
    if suffix not in readers:
        raise FormatError("satellite.layer_unknown_format", path=path.name)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error
    if size > MAX_BYTES:
        raise FormatError("satellite.layer_too_large", path=path.name, size=size, limit=MAX_BYTES)
    shapes, source = readers[suffix](path, table, field)
    if len(shapes) > MAX_FEATURES:
        raise FormatError("satellite.layer_too_large", path=path.name, size=len(shapes), limit=MAX_FEATURES)
    if datum == "gcj02":
        source = WGS84
    polygons, labels = [], []
    for index, (polygon, label) in enumerate(shapes, start=1):
        if polygon is None or polygon.is_empty:
            continue
        if polygon.geom_type not in ("Polygon", "MultiPolygon"):
            raise FormatError("satellite.layer_not_polygon", path=path.name, number=index, found=polygon.geom_type)
        polygon = shapely.force_2d(polygon)
        if not np.isfinite(shapely.get_coordinates(polygon)).all():
            raise FormatError("satellite.layer_invalid", path=path.name, number=index, reason="NaN")
        if not polygon.is_valid:
            raise FormatError("satellite.layer_invalid", path=path.name, number=index, reason=shapely.is_valid_reason(polygon))
        polygons.append(_placed(polygon, source, crs, datum, path.name))
        labels.append(label)
    if not polygons:
        raise FormatError("satellite.layer_empty", path=path.name)
    return Layer(name=path.name, polygons=tuple(polygons), labels=tuple(labels), gcj02=datum == "gcj02", sha256=_sha256(path))


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _placed(polygon: BaseGeometry, source: CRS, target: CRS, datum: Datum, name: str) -> BaseGeometry:
    """A polygon in the target CRS."""
    if source.is_geographic:
        west, south, east, north = polygon.bounds
        if west < -180 or east > 180 or south < -90 or north > 90:
            raise CrsError("satellite.layer_not_degrees", path=name, x=f"{west:.6g}", y=f"{south:.6g}")
        polygon = shapely.segmentize(polygon, _EDGE_DEGREES)
        if datum == "gcj02":
            polygon = shapely.transform(polygon, gcj02_to_wgs84)
    if source.equals(target):
        return polygon
    moved = shapely.geometry.shape(transform_geometry(mapping(polygon), source, target))
    if not moved.is_valid or not np.isfinite(shapely.get_coordinates(moved)).all():
        raise CrsError("satellite.layer_cannot_move", path=name, source=source.name, target=target.name)
    return moved


_Shapes = list[tuple[BaseGeometry | None, str]]


def _geojson(path: Path, table: str, field: str) -> tuple[_Shapes, CRS]:
    record = canonical.loads(path.read_bytes(), where=path.name, allow_floats=True, max_bytes=MAX_BYTES)
    if not isinstance(record, dict):
        raise FormatError("satellite.layer_not_geojson", path=path.name)
    _refuse_other_crs(record, path.name)
    kind = record.get("type")
    if kind == "FeatureCollection":
        features = record.get("features")
    elif kind == "Feature":
        features = [record]
    else:
        features = [{"type": "Feature", "geometry": record, "properties": {}}]
    if not isinstance(features, list):
        raise FormatError("satellite.layer_not_geojson", path=path.name)
    shapes: _Shapes = []
    for index, feature in enumerate(features, start=1):
        if not isinstance(feature, dict):
            raise FormatError("satellite.layer_not_geojson", path=path.name)
        geometry, properties = feature.get("geometry"), feature.get("properties") or {}
        if not isinstance(properties, dict) or (field and field not in properties):
            raise FormatError("satellite.layer_no_field", path=path.name, field=field, number=index)
        label = _label(properties[field]) if field else ""
        if geometry is None:
            continue
        try:
            shapes.append((shapely.geometry.shape(geometry), label))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, shapely.errors.ShapelyError) as error:
            raise FormatError("satellite.layer_invalid", path=path.name, number=index, reason=str(error)) from error
    return shapes, WGS84


def _refuse_other_crs(record: Mapping[str, Any], name: str) -> None:
    """A `crs` member of the time before RFC 7946 is read only when it says what the format says anyway."""
    named = record.get("crs")
    if named is None:
        return
    properties = named.get("properties") if isinstance(named, dict) else None
    text = properties.get("name") if isinstance(properties, dict) else None
    if not isinstance(text, str) or text.lower().replace("::", ":") not in (
        "urn:ogc:def:crs:ogc:1.3:crs84",
        "urn:ogc:def:crs:epsg:4326",
        "epsg:4326",
        "wgs84",
    ):
        raise CrsError("satellite.layer_geojson_crs", path=name, found=str(text)[:80])


def _label(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _geopackage(path: Path, table: str, field: str) -> tuple[_Shapes, CRS]:
    """Read by SQLite alone, read-only: no driver of GDAL is asked to guess, no trigger or extension runs."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(uri, uri=True)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            tables = dict(
                connection.execute(
                    "SELECT g.table_name, g.column_name || char(10) || g.srs_id FROM gpkg_geometry_columns g "
                    "JOIN sqlite_master m ON m.name = g.table_name AND m.type = 'table' ORDER BY g.table_name"
                )
            )
            if table not in tables and (table or len(tables) != 1):
                raise FormatError("satellite.layer_which_table", path=path.name, known=", ".join(sorted(map(str, tables))) or "-")
            table = table or next(iter(tables))
            column, _, srs = str(tables[table]).rpartition("\n")
            columns = {str(row[1]) for row in connection.execute(f"PRAGMA table_info({_quoted(table)})")}
            if field and field not in columns:
                raise FormatError("satellite.layer_no_field", path=path.name, field=field, number="-")
            found = connection.execute(
                "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?",
                (int(srs),),
            ).fetchone()
            wanted = f"{_quoted(column)}, {_quoted(field)}" if field else f"{_quoted(column)}, NULL"
            rows = connection.execute(f"SELECT {wanted} FROM {_quoted(table)} LIMIT {MAX_FEATURES + 1}").fetchall()
        finally:
            connection.close()
    except (sqlite3.Error, ValueError) as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error
    if found is None or str(found[0]).upper() == "NONE":
        raise CrsError("satellite.layer_no_crs", path=path.name)
    crs = parse_crs(f"EPSG:{found[1]}") if str(found[0]).upper() == "EPSG" else parse_crs(str(found[2]))
    shapes: _Shapes = []
    for index, (blob, value) in enumerate(rows, start=1):
        if blob is None:
            continue
        try:
            # Header of a GeoPackage geometry (OGC 12-128r18, 2.1.3): magic, version, flags, srs, envelope of 0 to 8 numbers.
            magic, _, flags, _ = struct.unpack_from("<2sBBi", blob)
            if magic != b"GP" or (flags >> 1) & 7 > 4:
                raise ValueError("no GeoPackage geometry")
            start = 8 + 8 * (0, 4, 6, 6, 8)[(flags >> 1) & 7]
            shapes.append((shapely.from_wkb(blob[start:]), _label(value)))
        except (ValueError, TypeError, struct.error, shapely.errors.ShapelyError) as error:
            raise FormatError("satellite.layer_invalid", path=path.name, number=index, reason=str(error)) from error
    return shapes, crs


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _shapefile(path: Path, table: str, field: str) -> tuple[_Shapes, CRS]:
    import pyogrio

    with path.open("rb") as stream:
        if stream.read(4) != b"\0\0\x27\x0a":
            raise FormatError("core.cannot_read", path=path.name, reason="ESRI Shapefile: 9994")
    projection = next((p for p in (path.with_suffix(".prj"), path.with_suffix(".PRJ")) if p.is_file()), None)
    if projection is None:
        raise CrsError("satellite.layer_no_crs", path=path.name)
    crs = parse_crs(projection.read_text(encoding="utf-8", errors="replace"))
    try:
        known = list(pyogrio.read_info(path)["fields"])
        if field and field not in known:
            raise FormatError("satellite.layer_no_field", path=path.name, field=field, number="-")
        _, _, blobs, values = pyogrio.raw.read(path, columns=[field] if field else [], max_features=MAX_FEATURES + 1)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, RuntimeError, ValueError) as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error
    labels = [_label(value) for value in values[0]] if field else [""] * len(blobs)
    geometries = [None if blob is None else shapely.from_wkb(blob) for blob in blobs]
    return list(zip(geometries, labels, strict=True)), crs


# GCJ-02 ---------------------------------------------------------------------------------------------------------------


def gcj02_to_wgs84(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) longitude, latitude in WGS 84 of positions in GCJ-02, degrees.

    The published forward formula is turned round by fixed-point iteration to 1e-9 degrees. Its authors are unknown and
    it is no official document: what it leaves is stated as `GCJ02_SD`. Outside China the two are the same.
    """
    positions = np.asarray(positions, np.float64)
    found = positions.copy()
    for _ in range(12):
        found = positions - _gcj02_offset(found)
    return found


def wgs84_to_gcj02(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) longitude, latitude in GCJ-02 of positions in WGS 84, degrees."""
    positions = np.asarray(positions, np.float64)
    return positions + _gcj02_offset(positions)


def _gcj02_offset(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift of GCJ-02 against WGS 84, degrees; on the ellipsoid of Krassowsky 1940 (a = 6378245 m)."""
    a, e2 = 6378245.0, 0.00669342162296594323
    lon, lat = positions[:, 0], positions[:, 1]
    x, y = lon - 105.0, lat - 35.0
    common = (20 * np.sin(6 * math.pi * x) + 20 * np.sin(2 * math.pi * x)) * 2 / 3
    north = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * np.sqrt(np.abs(x)) + common
    north += (20 * np.sin(math.pi * y) + 40 * np.sin(math.pi * y / 3)) * 2 / 3
    north += (160 * np.sin(math.pi * y / 12) + 320 * np.sin(math.pi * y / 30)) * 2 / 3
    east = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * np.sqrt(np.abs(x)) + common
    east += (20 * np.sin(math.pi * x) + 40 * np.sin(math.pi * x / 3)) * 2 / 3
    east += (150 * np.sin(math.pi * x / 12) + 300 * np.sin(math.pi * x / 30)) * 2 / 3
    phi = np.radians(lat)
    w2 = 1 - e2 * np.sin(phi) ** 2
    d_lat = np.degrees(north * w2 * np.sqrt(w2) / (a * (1 - e2)))
    d_lon = np.degrees(east * np.sqrt(w2) / (a * np.cos(phi)))
    shifted = (lon >= 72.004) & (lon <= 137.8347) & (lat >= 0.8293) & (lat <= 55.8271)
    return np.where(shifted[:, None], np.stack([d_lon, d_lat], axis=1), 0.0)


# On a grid ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """What to scan: a polygon in the grid's CRS, the share of its area that the grid covers (1), digest of its file."""

    polygon: BaseGeometry
    covered: float
    sha256: str = ""

    def of_box(self, grid: Grid, box: Box) -> BaseGeometry | None:
        """The part in a window; None where nothing of it lies there."""
        window = box_polygon(grid, box)
        if not shapely.intersects(self.polygon, window):
            return None
        if shapely.contains_properly(self.polygon, window):
            return window
        part = shapely.intersection(self.polygon, window)
        return None if part.is_empty or part.area == 0 else part


def read_region(path: Path, grid: Grid, *, datum: Datum = "declared") -> Region:
    """The union of the polygons of a file, to be scanned on a grid.

    Raises: as `read_layer`; CoverageError where nothing of it lies on the grid.
    """
    layer = read_layer(path, crs=grid.crs, datum=datum)
    polygon = shapely.normalize(shapely.union_all(list(layer.polygons)))
    whole = box_polygon(grid, Box(0, 0, *grid.shape))
    covered = shapely.intersection(polygon, whole).area / polygon.area if polygon.area else 0.0
    if covered == 0:
        region, data = (", ".join(f"{value:.6g}" for value in bounds) for bounds in (polygon.bounds, whole.bounds))
        raise CoverageError("satellite.scan_region_outside", path=path.name, region=region, data=data, crs=grid.crs.name)
    shapely.prepare(polygon)
    return Region(polygon=polygon, covered=min(1.0, covered), sha256=layer.sha256)


def box_polygon(grid: Grid, box: Box) -> BaseGeometry:
    """The outline of a window in the grid's CRS."""
    corners = [(box.col, box.row), (box.col + box.cols, box.row)]
    corners += [(box.col + box.cols, box.row + box.rows), (box.col, box.row + box.rows)]
    return shapely.Polygon([grid.transform @ corner for corner in corners])


def pixel_centres(grid: Grid, rows: NDArray[Any], cols: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x, y of pixel centres; a pixel has the same centre in whatever window it is looked at."""
    a, b, c, d, e, f = grid.transform[:6]
    col, row = np.asarray(cols, np.float64) + 0.5, np.asarray(rows, np.float64) + 0.5
    return a * col + b * row + c, d * col + e * row + f


def pixels_inside(polygon: BaseGeometry, grid: Grid, box: Box) -> NDArray[np.bool_]:
    """(rows, cols) of a window: whether the centre of the pixel lies in the polygon."""
    rows, cols = np.mgrid[box.row : box.row + box.rows, box.col : box.col + box.cols]
    if shapely.contains_properly(polygon, box_polygon(grid, box)):
        return np.ones(rows.shape, bool)
    x, y = pixel_centres(grid, rows, cols)
    shapely.prepare(polygon)
    return np.asarray(shapely.contains_xy(polygon, x, y))


class Overlay:
    """Which polygon of a layer holds which pixels of events."""

    def __init__(self, layer: Layer, grid: Grid) -> None:
        # In order of label: where polygons overlap, the first label has the pixel, whatever the order in the file.
        order = sorted(range(len(layer.polygons)), key=lambda k: (layer.labels[k], shapely.to_wkb(layer.polygons[k])))
        self._labels = [layer.labels[k] for k in order]
        self._polygons = np.array([layer.polygons[k] for k in order], object)
        shapely.prepare(self._polygons)
        self._tree = shapely.STRtree(self._polygons)
        self._grid = grid

    def shares(self, rows: NDArray[Any], cols: NDArray[Any]) -> dict[str, float]:
        """Label -> share (1) of the pixels whose centre lies in a polygon of that label; nothing for the rest."""
        x, y = pixel_centres(self._grid, rows, cols)
        left = np.ones(len(x), bool)
        around = shapely.box(float(x.min()), float(y.min()), float(x.max()), float(y.max()))
        found: dict[str, float] = {}
        for index in sorted(self._tree.query(around).tolist()):
            inside = left & shapely.contains_xy(self._polygons[index], x, y)
            if inside.any():
                label = self._labels[index]
                found[label] = found.get(label, 0.0) + float(inside.mean())
                left &= ~inside
        return dict(sorted(found.items()))


def division_codes(layer: Layer) -> None:
    """Raises FormatError unless every label is a six-digit division code (GB/T 2260)."""
    for index, label in enumerate(layer.labels, start=1):
        if not (len(label) == 6 and label.isascii() and label.isdigit()):
            raise FormatError("satellite.layer_no_code", path=layer.name, number=index, found=label[:40] or "-")


def main_label(shares: Mapping[str, float]) -> str:
    """The label with the largest share, the first in order of text among equals; "" without any."""
    return min(shares, key=lambda label: (-shares[label], label), default="")
