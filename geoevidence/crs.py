"""Coordinate reference systems: which one a report uses, and how far conversions can be trusted.

CGCS2000 (EPSG:4490) with Gauss-Krueger 3-degree zones by central meridian (EPSG:4534-4554)
is the default inside its area of use, UTM on WGS 84 elsewhere. `always_xy` everywhere.
EPSG:4326 -> 4490 is a zero ("ballpark") transformation in PROJ: both are treated as equal
with the metre-level uncertainty `CGCS2000_WGS84_SD`, which callers must state.
No file is read and no network is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from geoevidence.errors import CrsError

CGCS2000_WGS84_SD = 0.5
"""Standard uncertainty in m, per horizontal axis, of taking WGS 84 (epoch of today) for CGCS2000 (epoch 2000.0):
plate motion of 3-4 cm a year over about 25 years, as a half-width-1 m bound (EPSG dataset, CRS 4490 remarks)."""

_GK_WEST, _GK_EAST, _SOUTH, _NORTH = 73.5, 136.5, 16.7, 53.56


def parse_crs(text: str) -> CRS:
    """CRS of an EPSG code text or WKT2. Raises CrsError."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise CrsError("core.unknown_crs", found=text) from error


def report_crs(lon: float, lat: float) -> CRS:
    """Projected CRS for a place (degrees): CGCS2000 Gauss-Krueger 3-degree by central meridian, or UTM.

    The choice follows a bounding box of the area of use of EPSG:4534-4554 on land (73.5-136.5 E,
    16.7-53.56 N), not a border; callers who know better name their CRS.
    Raises: CrsError where lon or lat are out of range.
    """
    if not (-180 <= lon <= 180 and -80 <= lat <= 84):
        raise CrsError("core.position_out_of_range", lon=lon, lat=lat)
    if _GK_WEST <= lon <= _GK_EAST and _SOUTH <= lat <= _NORTH:
        meridian = min(max(round(lon / 3) * 3, 75), 135)
        return CRS.from_epsg(4534 + (meridian - 75) // 3)
    zone = min(int((lon + 180) // 6) + 1, 60)
    return CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(CRS.from_user_input(source), CRS.from_user_input(target), always_xy=True)


def transformer(source: CRS, target: CRS) -> Transformer:
    """Transformer (x, y) -> (x, y), longitude before latitude."""
    return _transformer(source.to_wkt(), target.to_wkt())


def transform_geometry(geometry: Mapping[str, Any], source: CRS, target: CRS) -> dict[str, Any]:
    """GeoJSON geometry moved from `source` to `target`, position by position. Raises CrsError."""
    convert = transformer(source, target)

    def move(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], (int, float)):
            x, y = convert.transform(value[0], value[1], errcheck=True)
            return [x, y, *value[2:]]
        return [move(part) for part in value]

    result = dict(geometry)
    try:
        if "coordinates" in result:
            result["coordinates"] = move(result["coordinates"])
        if "geometries" in result:
            result["geometries"] = [transform_geometry(part, source, target) for part in result["geometries"]]
    except ProjError as error:
        raise CrsError("core.cannot_transform", source=source.name, target=target.name, reason=str(error)) from error
    return result


def crs_label(crs: CRS) -> str:
    """Short name with its code, such as `CGCS2000 / 3-degree Gauss-Kruger CM 114E (EPSG:4547)`."""
    code = crs.to_epsg()
    return f"{crs.name} (EPSG:{code})" if code else crs.name
