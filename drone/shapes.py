"""What somebody asks to have measured: places, lines and polygons of a GeoJSON document, in the reference system of a surface.

In: a parsed document (RFC 7946, or with the older `crs` member) and a CRS. Out: named shapes (shapely) and how they were drawn.
The document is not trusted: every defect is one of our errors. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import shapely
import shapely.geometry
from pyproj import CRS

from geoevidence.crs import parse_crs, transform_geometry
from geoevidence.errors import FormatError

_WGS84 = CRS.from_epsg(4326)
_MOST_POINTS = 200_000
Shape: TypeAlias = shapely.Point | shapely.LineString | shapely.Polygon


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A shape to measure.

    name: as its file calls it. geometry: GeoJSON Point, LineString or Polygon in `crs`. drawn: on the pictures of this very survey.
    boundary_sd: stated standard uncertainty of each vertex, m per axis, or None.
    """

    name: str
    geometry: Mapping[str, Any]
    crs: CRS
    drawn: bool
    boundary_sd: float | None = None


def read_shape(geometry: Mapping[str, Any], crs: CRS, target: CRS) -> Shape:
    """A GeoJSON Point, LineString or Polygon as a valid shape in `target`.

    Raises:
        FormatError: another geometry, open or crossing rings, a line or polygon without extent.
        CrsError: cannot be transformed.
    """
    kind = geometry.get("type") if isinstance(geometry, Mapping) else None
    coordinates = geometry.get("coordinates") if isinstance(geometry, Mapping) else None
    if kind == "Polygon":
        return read_polygon(geometry, crs, target)
    if kind == "Point" and _is_position(coordinates):
        plain: Any = [float(v) for v in coordinates[:2]]  # type: ignore[index]
    elif kind == "LineString" and isinstance(coordinates, (list, tuple)) and 2 <= len(coordinates) <= _MOST_POINTS:
        if not all(_is_position(p) for p in coordinates):
            raise FormatError("drone.bad_polygon", reason="coordinates")
        plain = [[float(p[0]), float(p[1])] for p in coordinates]
    elif kind in ("Point", "LineString"):
        raise FormatError("drone.bad_polygon", reason="coordinates")
    else:
        raise FormatError("drone.not_a_shape", found=str(kind if isinstance(geometry, Mapping) else type(geometry).__name__))
    shape = _transformed({"type": kind, "coordinates": plain}, crs, target)
    if kind == "LineString" and shape.length <= 0:
        raise FormatError("drone.bad_polygon", reason="length 0")
    return shape


def read_polygon(geometry: Mapping[str, Any], crs: CRS, target: CRS) -> shapely.Polygon:
    """A GeoJSON Polygon as a valid polygon in `target`.

    Raises:
        FormatError: another geometry, open or crossing rings, or no area.
        CrsError: cannot be transformed.
    """
    if not isinstance(geometry, Mapping) or geometry.get("type") != "Polygon":
        raise FormatError(
            "drone.not_a_polygon", found=str(geometry.get("type") if isinstance(geometry, Mapping) else type(geometry).__name__)
        )
    rings = geometry.get("coordinates")
    if not isinstance(rings, (list, tuple)) or not rings or not all(_is_ring(ring) for ring in rings):
        raise FormatError("drone.bad_polygon", reason="coordinates")
    plain = {"type": "Polygon", "coordinates": [[[float(p[0]), float(p[1])] for p in ring] for ring in rings]}
    polygon = _transformed(plain, crs, target)
    if not polygon.is_valid or polygon.area <= 0:
        raise FormatError("drone.bad_polygon", reason=shapely.is_valid_reason(polygon))
    return polygon


def _transformed(plain: Mapping[str, Any], crs: CRS, target: CRS) -> Any:
    try:
        shape = shapely.geometry.shape(transform_geometry(plain, crs, target))
    except (ValueError, OverflowError, shapely.errors.ShapelyError) as error:
        raise FormatError("drone.bad_polygon", reason=str(error)) from error
    if not all(abs(v) < float("inf") for v in shape.bounds):
        raise FormatError("drone.bad_polygon", reason="coordinates")
    return shape


def _is_position(p: Any) -> bool:
    """At least two finite numbers below what any reference system has."""
    return (
        isinstance(p, (list, tuple))
        and len(p) >= 2
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in p[:2])
    )


def _is_ring(ring: Any) -> bool:
    return isinstance(ring, (list, tuple)) and 4 <= len(ring) <= _MOST_POINTS and all(_is_position(p) for p in ring)


def shapes_of(document: Mapping[str, Any], *, where: str) -> list[Asked]:
    """The shapes of a GeoJSON document, in its order; parts of a MultiPolygon are numbered.

    Properties that are read: `name`; `drawn_on_survey` (true: drawn on this survey's own pictures); `boundary_sd` (m, number).

    Raises:
        FormatError: not GeoJSON, without geometries, or a `boundary_sd` that is no length.
        CrsError: an unknown CRS.
    """
    if not isinstance(document, Mapping):
        raise FormatError("drone.not_geojson", path=where)
    crs = _WGS84
    named = document.get("crs")
    if named is not None:
        try:
            crs = parse_crs(str(named["properties"]["name"]))
        except (KeyError, TypeError) as error:
            raise FormatError("drone.not_geojson", path=where) from error
    if document.get("type") == "FeatureCollection" and isinstance(document.get("features"), list):
        features = document["features"]
    elif document.get("type") == "Feature":
        features = [document]
    else:
        features = [{"type": "Feature", "properties": {}, "geometry": document}]
    found: list[Asked] = []
    for number, feature in enumerate(features, start=1):
        geometry = feature.get("geometry") if isinstance(feature, Mapping) else None
        if not isinstance(geometry, Mapping):
            raise FormatError("drone.not_geojson", path=where)
        properties = feature.get("properties") or {}
        if not isinstance(properties, Mapping):
            raise FormatError("drone.not_geojson", path=where)
        sd = properties.get("boundary_sd")
        if sd is not None and not (isinstance(sd, (int, float)) and not isinstance(sd, bool) and 0 <= sd <= 1000):
            raise FormatError("drone.bad_boundary_sd", path=where, found=str(sd))
        name = str(properties.get("name") or feature.get("id") or number)
        parts: list[tuple[str, Mapping[str, Any]]] = [(name, geometry)]
        if geometry.get("type") == "MultiPolygon" and isinstance(geometry.get("coordinates"), list):
            parts = [
                (f"{name}-{i}", {"type": "Polygon", "coordinates": part})
                for i, part in enumerate(geometry["coordinates"], start=1)
            ]
        found += [
            Asked(
                name=label,
                geometry=part,
                crs=crs,
                drawn=properties.get("drawn_on_survey") is True,
                boundary_sd=None if sd is None else float(sd),
            )
            for label, part in parts
        ]
    if not found:
        raise FormatError("drone.no_polygons", path=where)
    return found
