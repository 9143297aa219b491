"""From break maps to dated polygons with interval, area and error, and their files.

Pixels belong together when they touch (also at corners) and their evidence intervals lie within `link_days` of each
other. An event is a plain fact about reflectance: where, between which two clear views, how large, from which index
values to which. It says nothing about cause.
"""

from __future__ import annotations

import math
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.features import shapes
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from shapely.geometry import mapping, shape

from geoevidence.crs import transform_geometry
from geoevidence.raster import Grid
from geoevidence.types import Quantity
from satellite.area import AreaConfig, changed_shares
from satellite.indices import available_indices, index_values
from satellite.types import NODATE, BreakMap, ChangeEvent, Cube, IndexChange, Observed

WGS84 = CRS.from_epsg(4326)
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventConfig:
    """How pixels become events.

    min_pixels: smallest event, pixels; smaller groups are counted as a gap, not dropped silently.
    link_days: neighbouring pixels whose intervals are at most this far apart change together, d.
    interval_share: share of the clear pixels of the event that must be old on `last_clear_before`, and new on
        `first_clear_after` (1); below 1 so that single misdated pixels do not stretch the interval.
    seen_share: share of the event's pixels that must be clear on such a date (1).
    registration_pixels: standard deviation of the position between scenes, px (Sentinel-2: about 0.3 px multi-temporal).
    boundary_pixels: where pixels can only be counted whole: half-width within which the detected edge may lie inside or
        outside the true one, px (a mixed pixel counts from about a quarter of its area on).
    area: how the shares of edge pixels are found, see `AreaConfig`.
    """

    min_pixels: int = 10
    link_days: int = 45
    interval_share: float = 0.9
    seen_share: float = 0.5
    registration_pixels: float = 0.3
    boundary_pixels: float = 0.25
    area: AreaConfig = field(default_factory=AreaConfig)


def day_of(number: int) -> date:
    """The date of a day count since 1970-01-01."""
    return date.fromordinal(int(number) + _EPOCH)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelGroup:
    """Pixels that change together: rows, cols (n,) int, layer (n,) int index of the break; sorted by row, col."""

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    layers: NDArray[np.intp]


def group_pixels(breaks: BreakMap, config: EventConfig) -> tuple[tuple[PixelGroup, ...], int]:
    """Groups of at least `min_pixels`, in order of (first date, row, col), and how many changed pixels are in none."""
    layers, rows, cols = np.nonzero(breaks.break_date != NODATE)
    if not len(rows):
        return (), 0
    depth, height, width = breaks.break_date.shape
    node = np.full((depth, height, width), -1, np.int64)
    node[layers, rows, cols] = np.arange(len(rows))
    start, end = breaks.last_clear_before.astype(np.int64), breaks.first_clear_after.astype(np.int64)
    pairs: list[NDArray[np.int64]] = []
    for d_row, d_col in ((0, 1), (1, -1), (1, 0), (1, 1)):
        here = (slice(0, height - d_row), slice(max(0, -d_col), width - max(0, d_col)))
        there = (slice(d_row, height), slice(max(0, d_col), width - max(0, -d_col)))
        for a in range(depth):
            for b in range(depth):
                one, two = node[a][here], node[b][there]
                apart = np.maximum(start[a][here], start[b][there]) - np.minimum(end[a][here], end[b][there])
                linked = (one >= 0) & (two >= 0) & (apart <= config.link_days)
                pairs.append(np.stack([one[linked], two[linked]]))
    edges = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(len(rows), len(rows)))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    groups, left_over = [], 0
    for members in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        # A pixel with two breaks in one group counts once, with the stronger.
        strength = breaks.score[layers[members], rows[members], cols[members]]
        members = members[np.lexsort((-strength, cols[members], rows[members]))]
        position = rows[members] * width + cols[members]
        members = members[np.concatenate([[True], np.diff(position) > 0])]
        if len(members) < config.min_pixels:
            left_over += len(members)
            continue
        groups.append(PixelGroup(rows=rows[members], cols=cols[members], layers=layers[members]))
    groups.sort(key=lambda g: (int(_take(breaks.break_date, g).min()), int(g.rows[0]), int(g.cols[0])))
    return tuple(groups), left_over


def group_mask(groups: Sequence[PixelGroup], grid: Grid) -> NDArray[np.bool_]:
    """(y, x) the pixels of any group."""
    mask = np.zeros(grid.shape, bool)
    for group in groups:
        mask[group.rows, group.cols] = True
    return mask


def _take(layer: NDArray[Any], group: PixelGroup) -> NDArray[Any]:
    return layer[group.layers, group.rows, group.cols]


def outline(group: PixelGroup, grid: Grid) -> dict[str, Any]:
    """GeoJSON polygon along the pixel edges, in the grid's CRS."""
    row, col = int(group.rows.min()), int(group.cols.min())
    mask = np.zeros((int(group.rows.max()) - row + 1, int(group.cols.max()) - col + 1), np.uint8)
    mask[group.rows - row, group.cols - col] = 1
    transform = grid.transform @ type(grid.transform).translation(col, row)
    parts = [shape(geometry) for geometry, _ in shapes(mask, mask=mask.astype(bool), connectivity=4, transform=transform)]
    merged = shapely.normalize(shapely.unary_union(parts))
    return _plain(mapping(shapely.orient_polygons(merged)))


def _plain(value: Any) -> Any:
    """GeoJSON with lists and floats only."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, (float, np.floating)) else value


def ground_area(geometry: Mapping[str, Any], crs: CRS) -> float:
    """Area on the ellipsoid of the CRS, m2: what the projection stretches is taken back.

    Edges are cut into pieces of at most a twentieth of the extent first, since grid lines are not geodesics.
    Source: Karney 2013, doi:10.1007/s00190-012-0578-z (through PROJ).
    """
    polygon = shape(geometry)
    west, south, east, north = polygon.bounds
    dense = mapping(shapely.segmentize(polygon, max(east - west, north - south) / 20))
    geographic = crs.geodetic_crs
    geod = crs.get_geod()
    if geographic is None or geod is None:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        return float(polygon.area * unit * unit)
    area, _ = geod.geometry_area_perimeter(shape(transform_geometry(dense, crs, geographic)))
    return abs(float(area))


def event_area(
    group: PixelGroup,
    polygon: Mapping[str, Any],
    breaks: BreakMap,
    grid: Grid,
    cube: Cube,
    corner: tuple[int, int],
    taken: NDArray[np.bool_],
    config: EventConfig,
) -> Quantity:
    """Area that changed, on the ellipsoid, with its standard uncertainty, m2.

    a sum(f) with the cell area a and the changed share f of each pixel (`changed_shares`); registration between the
    scenes adds a r sqrt(e / n), e = edge pixels, n = dates compared, r = registration_pixels. It differs from the area
    inside `polygon`, whose edge follows whole pixels. Where shares cannot be found that area is stated, with the parts
    mixed pixels a sqrt(e / 12), displacement of the whole edge a e b / sqrt(3) (b = boundary_pixels) and registration
    a r sqrt(e); also where the shares would move the area by more than all edge pixels (b = 1 then). `corner`: (row, col)
    of the upper left pixel of `cube` on `grid`; `taken`: (y, x) of `grid`, pixels of any event.
    """
    area = ground_area(polygon, grid.crs)
    cell = area / len(group.rows)
    edge = _edge_pixels(group)
    row, col = corner
    rows, cols = cube.grid.shape
    inside = np.zeros((rows, cols), bool)
    inside[group.rows - row, group.cols - col] = True
    other = taken[row : row + rows, col : col + cols] & ~inside
    before, after, _ = event_interval(group, breaks, cube, corner, config)
    earlier = group.layers > 0
    since = None
    if earlier.mean() > 1 - config.interval_share:
        ended = breaks.first_clear_after[group.layers[earlier] - 1, group.rows[earlier], group.cols[earlier]]
        since = int(np.quantile(ended, config.interval_share, method="lower"))
    shares = changed_shares(cube, inside, other, before=before, after=after, since=since, config=config.area)
    # Shares that move the area by more than the whole edge tell of ground around that changed alike: no edge can be drawn there.
    diffuse = shares is not None and abs(shares.total - len(group.rows)) > edge
    if shares is None or diffuse:
        shift = 1.0 if diffuse else config.boundary_pixels
        parts = (math.sqrt(edge / 12), edge * shift / math.sqrt(3), math.sqrt(edge) * config.registration_pixels)
        return Quantity(
            value=area,
            unit="m2",
            standard_uncertainty=cell * math.hypot(*parts),
            propagation="satellite.area_propagation_diffuse" if diffuse else "satellite.area_propagation_counted",
        )
    registered = config.registration_pixels * math.sqrt(edge / shares.dates)
    return Quantity(
        value=cell * shares.total,
        unit="m2",
        standard_uncertainty=cell * math.hypot(shares.standard_uncertainty, registered),
        propagation="satellite.area_propagation",
    )


def _edge_pixels(group: PixelGroup) -> int:
    """Pixels of the group with at least one of four neighbours outside it."""
    inside = set(zip(group.rows.tolist(), group.cols.tolist(), strict=True))
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    return sum(any((row + a, col + b) not in inside for a, b in steps) for row, col in inside)


def event_interval(
    group: PixelGroup, breaks: BreakMap, cube: Cube, corner: tuple[int, int], config: EventConfig
) -> tuple[int, int, int]:
    """(last clear before, first clear after, estimated date) of a group, days.

    The last date on which at least `seen_share` of the pixels are clear and `interval_share` of these are still old (by
    their own last clear observation of the old state), and the first date after it on which as many are clear and as
    many of these are new. Pixels under cloud on such a date are not spoken of. Without such dates: those that hold for
    `interval_share` of all pixels by their own intervals.
    """
    share = 1 - config.interval_share
    last, first = _take(breaks.last_clear_before, group), _take(breaks.first_clear_after, group)
    clear = cube.observed[:, group.rows - corner[0], group.cols - corner[1]] == Observed.CLEAR
    count = np.maximum(clear.sum(axis=1), 1)
    seen = clear.mean(axis=1) >= config.seen_share
    days = cube.days.astype(np.int64)
    old = seen & ((clear & (last[None] >= days[:, None])).sum(axis=1) >= config.interval_share * count)
    new = seen & ((clear & (first[None] <= days[:, None])).sum(axis=1) >= config.interval_share * count)
    before = int(days[old].max()) if old.any() else int(np.quantile(last, share, method="lower"))
    new &= days > before
    after = int(days[new].min()) if new.any() else int(np.quantile(first, 1 - share, method="higher"))
    middle = int(np.quantile(_take(breaks.break_date, group), 0.5, method="lower"))
    return before, max(after, before), min(max(middle, before), max(after, before))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EventSeries:
    """An event's pixels over time.

    days: (t,) int32. clear: (t,) share of the pixels that are clear. indices: name -> (t,) median over the clear pixels,
    NaN without any. state: (t,) uint8 `Observed` of the best-known pixel.
    """

    days: NDArray[np.int32]
    clear: NDArray[np.float64]
    state: NDArray[np.uint8]
    indices: Mapping[str, NDArray[np.float64]]


def event_series(cube: Cube, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> EventSeries:
    """Medians over the pixels (rows, cols) of a cube that covers them."""
    values = cube.at(rows, cols).astype(np.float64)
    observed = cube.observed[:, rows, cols]
    clear = observed == Observed.CLEAR
    with np.errstate(all="ignore"):
        indices = {}
        for name in available_indices(cube.bands):
            per_pixel = index_values(name, values, cube.bands, axis=1)
            indices[name] = np.array(
                [
                    np.median(v[c & np.isfinite(v)]) if (c & np.isfinite(v)).any() else np.nan
                    for v, c in zip(per_pixel, clear, strict=True)
                ]
            )
    return EventSeries(days=cube.days, clear=clear.mean(axis=1), state=observed.min(axis=1), indices=indices)


def _median_quantity(values: NDArray[np.float64]) -> Quantity:
    """Median with standard error 1.2533 x 1.4826 x MAD / sqrt(n) (normal theory); unknown below three values."""
    middle = float(np.median(values))
    error = None
    if len(values) >= 3:
        error = float(1.2533 * 1.4826 * np.median(np.abs(values - middle)) / math.sqrt(len(values)))
    return Quantity(value=middle, unit="1", standard_uncertainty=error, propagation="satellite.median_propagation")


def index_changes(series: EventSeries, before: int, after: int) -> tuple[IndexChange, ...]:
    """Medians of each index over the clear dates of the year before and of the year after the interval.

    Only dates of the same seasons are compared: of each side, those within 20 days (in the year) of a date of the other;
    all of them where that leaves fewer than three.
    """
    changes = []
    for name, values in series.indices.items():
        seen = np.isfinite(values) & (series.clear >= 0.5)
        first = seen & (series.days <= before) & (series.days > before - 366)
        second = seen & (series.days >= after) & (series.days < after + 366)
        if not first.any() or not second.any():
            continue
        day = np.mod(series.days, 365.2425)
        apart = np.abs(day[first][:, None] - day[second][None, :])
        near = np.minimum(apart, 365.2425 - apart) <= 20
        old, new = values[first], values[second]
        if near.any(axis=1).sum() >= 3 and near.any(axis=0).sum() >= 3:
            old, new = old[near.any(axis=1)], new[near.any(axis=0)]
        changes.append(IndexChange(name=name, before=_median_quantity(old), after=_median_quantity(new)))
    return tuple(changes)


def make_event(
    identity: str,
    group: PixelGroup,
    breaks: BreakMap,
    grid: Grid,
    cube: Cube,
    corner: tuple[int, int],
    taken: NDArray[np.bool_],
    series: EventSeries,
    config: EventConfig,
) -> ChangeEvent:
    """The event of a group.

    `grid` is the whole map's, `cube` covers the group and its surroundings from `corner` (row, col) on, `taken` marks
    the pixels of all groups on `grid`, `series` is that of the group's pixels.
    """
    before, after, middle = event_interval(group, breaks, cube, corner, config)
    polygon = outline(group, grid)
    seen = series.days[series.clear >= 0.5]
    gaps = np.diff(np.concatenate([[breaks.first_day], seen, [breaks.last_day]])) if len(seen) else np.array([0])
    return ChangeEvent(
        id=identity,
        polygon=polygon,
        pixels=tuple(zip(group.rows.tolist(), group.cols.tolist(), strict=True)),
        last_clear_before=day_of(before),
        first_clear_after=day_of(after),
        break_date=day_of(middle),
        area=event_area(group, polygon, breaks, grid, cube, corner, taken, config),
        magnitude=float(np.median(_take(breaks.magnitude, group))),
        magnitude_of=breaks.magnitude_of,
        score=float(np.median(_take(breaks.score, group))),
        clear_before=int((seen <= before).sum()),
        clear_after=int((seen >= after).sum()),
        longest_gap_days=int(gaps.max()),
        indices=index_changes(series, before, after),
    )


# Files ----------------------------------------------------------------------------------------------------------------

_FIELDS = (
    ("finding", "TEXT"),
    ("last_clear_before", "DATE"),
    ("first_clear_after", "DATE"),
    ("break_date", "DATE"),
    ("area_m2", "REAL"),
    ("area_standard_uncertainty_m2", "REAL"),
    ("magnitude", "REAL"),
    ("magnitude_of", "TEXT"),
    ("score", "REAL"),
    ("pixels", "INTEGER"),
    ("clear_before", "INTEGER"),
    ("clear_after", "INTEGER"),
    ("longest_gap_days", "INTEGER"),
    ("synthetic", "BOOLEAN"),
)


def _properties(event: ChangeEvent, synthetic: bool) -> dict[str, Any]:
    return {
        "finding": event.id,
        "last_clear_before": event.last_clear_before.isoformat(),
        "first_clear_after": event.first_clear_after.isoformat(),
        "break_date": event.break_date.isoformat(),
        "area_m2": round(event.area.value, 2),
        "area_standard_uncertainty_m2": round(event.area.standard_uncertainty or 0.0, 2),
        "magnitude": round(event.magnitude, 4),
        "magnitude_of": event.magnitude_of,
        "score": round(event.score, 2),
        "pixels": len(event.pixels),
        "clear_before": event.clear_before,
        "clear_after": event.clear_after,
        "longest_gap_days": event.longest_gap_days,
        "synthetic": synthetic,
    }


def moved(geometry: Mapping[str, Any], source: CRS, target: CRS, *, digits: int) -> dict[str, Any]:
    """A polygon in another CRS, coordinates rounded to `digits` decimals, rings as RFC 7946 wants them."""
    polygon = shape(_rounded(transform_geometry(geometry, source, target), digits))
    return _plain(mapping(shapely.orient_polygons(polygon)))


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part, digits) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part, digits) for part in value]
    return round(float(value), digits) if isinstance(value, (int, float)) else value


def events_geojson(events: Sequence[ChangeEvent], crs: CRS, *, synthetic: bool) -> dict[str, Any]:
    """FeatureCollection in EPSG:4326 (RFC 7946)."""
    features = [
        {
            "type": "Feature",
            "id": event.id,
            "properties": _properties(event, synthetic),
            "geometry": moved(event.polygon, crs, WGS84, digits=8),
        }
        for event in events
    ]
    return {"type": "FeatureCollection", "features": features}


def write_geopackage(path: Path, events: Sequence[ChangeEvent], crs: CRS, *, layers: Mapping[str, CRS], synthetic: bool) -> None:
    """Events as GeoPackage 1.3, one feature table a layer; the same events give the same bytes on one SQLite version.

    `layers` maps the table name to its CRS. Times in the file are the fixed 1970-01-01: evidence times are in the rows.
    Source: OGC 12-128r18.
    """
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("PRAGMA application_id = 0x47504B47")
        connection.execute("PRAGMA user_version = 10300")
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("BEGIN")
        for statement in _GPKG_TABLES.split(";\n"):
            connection.execute(statement)
        connection.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", _gpkg_systems(layers.values()))
        for name, target in layers.items():
            _gpkg_layer(connection, name, events, crs, target, synthetic)
        connection.execute("COMMIT")
    finally:
        connection.close()


_GPKG_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
  CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL,
  srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
  CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name),
  CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
  CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id))
"""


def _gpkg_systems(systems: Any) -> list[tuple[Any, ...]]:
    rows: dict[int, tuple[Any, ...]] = {
        -1: ("Undefined Cartesian SRS", -1, "NONE", -1, "undefined", "undefined Cartesian coordinate reference system"),
        0: ("Undefined geographic SRS", 0, "NONE", 0, "undefined", "undefined geographic coordinate reference system"),
    }
    for system in (WGS84, *systems):
        code = _code(system)
        rows[code] = (system.name, code, "EPSG", code, system.to_wkt("WKT1_GDAL"), None)
    return [rows[key] for key in sorted(rows)]


def _code(system: CRS) -> int:
    code = system.to_epsg()
    if code is None:
        raise ValueError(f"{system.name} has no EPSG code")
    return int(code)


def _gpkg_layer(
    connection: sqlite3.Connection, name: str, events: Sequence[ChangeEvent], source: CRS, target: CRS, synthetic: bool
) -> None:
    code = _code(target)
    digits = 8 if target.is_geographic else 3
    polygons = [shape(moved(event.polygon, source, target, digits=digits)) for event in events]
    bounds = shapely.total_bounds(np.array(polygons, object)).tolist() if polygons else [None] * 4
    columns = ", ".join(f'"{field}" {kind}' for field, kind in _FIELDS)
    connection.execute(f'CREATE TABLE "{name}" (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom MULTIPOLYGON, {columns})')
    connection.execute(
        "INSERT INTO gpkg_contents VALUES (?, 'features', ?, '', '1970-01-01T00:00:00.000Z', ?, ?, ?, ?, ?)",
        (name, name, *bounds, code),
    )
    connection.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'MULTIPOLYGON', ?, 0, 0)", (name, code))
    marks = ", ".join("?" * (len(_FIELDS) + 1))
    fields = ", ".join(f'"{field}"' for field, _ in _FIELDS)
    for event, polygon in zip(events, polygons, strict=True):
        row = _properties(event, synthetic)
        many = polygon if polygon.geom_type == "MultiPolygon" else shapely.MultiPolygon([polygon])
        # Header of a GeoPackage geometry: magic, version 0, flags (little endian, envelope xy), srs, envelope.
        west, south, east, north = many.bounds
        header = b"GP" + bytes((0, 0b00000011)) + struct.pack("<i4d", code, west, east, south, north)
        blob = header + shapely.to_wkb(many, byte_order=1)
        connection.execute(
            f'INSERT INTO "{name}" (geom, {fields}) VALUES ({marks})', (blob, *(row[field] for field, _ in _FIELDS))
        )
