"""Polygons of users: read strictly, placed rightly, never repaired silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Geod

from geoevidence.errors import CoverageError, CrsError, FormatError, InputError
from geoevidence.raster import Grid
from satellite.overlay import (
    GCJ02_SD,
    Overlay,
    box_polygon,
    division_codes,
    gcj02_to_wgs84,
    main_label,
    pixel_centres,
    pixels_inside,
    read_layer,
    read_region,
    wgs84_to_gcj02,
)
from satellite.sparse import Box

UTM = CRS.from_epsg(32650)
GRID = Grid(shape=(60, 50), transform=Affine(10, 0, 500_000, 0, -10, 3_300_000), crs=UTM)
SQUARE = shapely.box(500_100, 3_299_700, 500_300, 3_299_900)


def frame(polygons: list[shapely.Geometry], **columns: Any) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(columns, geometry=polygons, crs="EPSG:32650")


def geojson(path: Path, geometry: Any, *, crs: Any = None, **properties: Any) -> Path:
    record: dict[str, Any] = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": geometry, "properties": properties}],
    }
    if crs is not None:
        record["crs"] = crs
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def lonlat(polygon: shapely.Geometry) -> dict[str, Any]:
    return json.loads(geopandas.GeoSeries([polygon], crs="EPSG:32650").to_crs(4326).to_json())["features"][0]["geometry"]


@pytest.mark.parametrize("kind", ["geojson", "gpkg", "shp"])
def test_three_formats_say_the_same(tmp_path: Path, kind: str) -> None:
    """Written by GDAL; the GeoPackage is read without it."""
    path = tmp_path / f"layer.{kind}"
    data = frame([SQUARE, shapely.box(500_350, 3_299_700, 500_400, 3_299_800)], code=["420111", "420112"])
    (data.to_crs(4326) if kind == "geojson" else data).to_file(path)
    layer = read_layer(path, crs=UTM, field="code")
    assert layer.labels == ("420111", "420112") and not layer.gcj02 and len(layer.sha256) == 64
    # GeoJSON holds seven decimals of a degree: a centimetre.
    assert shapely.hausdorff_distance(layer.polygons[0], SQUARE) < (0.02 if kind == "geojson" else 1e-6)
    division_codes(layer)


def test_a_geopackage_of_several_layers_wants_a_name(tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    for name in ("a", "b"):
        frame([SQUARE], code=[name]).to_file(path, layer=name)
    with pytest.raises(FormatError) as caught:
        read_layer(path, crs=UTM)
    assert caught.value.values["known"] == "a, b"
    assert read_layer(tmp_path / "two.gpkg:b", crs=UTM, field="code").labels == ("b",)
    with pytest.raises(FormatError):
        read_layer(tmp_path / "two.gpkg:c", crs=UTM)
    with pytest.raises(FormatError):
        read_layer(tmp_path / "two.gpkg:b", crs=UTM, field='code" FROM a --')


def test_long_edges_follow_the_ground(tmp_path: Path) -> None:
    """An edge along a parallel of latitude is no straight line on the grid: its middle must not be 70 m off."""
    path = geojson(
        tmp_path / "p.geojson", {"type": "Polygon", "coordinates": [[[114, 30], [116, 30], [116, 31], [114, 31], [114, 30]]]}
    )
    (polygon,) = read_layer(path, crs=UTM).polygons
    forward = geopandas.GeoSeries([shapely.Point(115, 30), shapely.Point(115, 31)], crs=4326).to_crs(32650)
    assert all(polygon.exterior.distance(point) < 0.5 for point in forward)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Polygon", "coordinates": [[[114, 30], [114.1, 30.1], [114.1, 30], [114, 30.1], [114, 30]]]}, "layer_invalid"),
        ({"type": "Polygon", "coordinates": [[[114, 30], [114.1, 30.1]]]}, "layer_invalid"),
        ({"type": "Polygon", "coordinates": "x"}, "layer_invalid"),
        ({"type": "Hexagon", "coordinates": []}, "layer_invalid"),
        ({"type": "Point", "coordinates": [114, 30]}, "layer_not_polygon"),
        ({"type": "Polygon", "coordinates": []}, "layer_empty"),
        (None, "layer_empty"),
        (5, "layer_invalid"),
    ],
)
def test_bad_geometry_is_refused_with_its_place(tmp_path: Path, geometry: Any, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_layer(geojson(tmp_path / "bad.geojson", geometry), crs=UTM)
    assert caught.value.message_id == f"satellite.{message}" and "bad.geojson" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"type": "FeatureCollection"}', '{"type":"Feature","geometry":NaN}', '{"a":1,"a":2}']
)
def test_what_is_no_geojson_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.geojson"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        read_layer(path, crs=UTM)


def test_geojson_is_degrees_of_wgs84_and_nothing_else(tmp_path: Path) -> None:
    projected = geojson(tmp_path / "p.geojson", shapely.geometry.mapping(SQUARE))
    with pytest.raises(CrsError) as caught:
        read_layer(projected, crs=UTM)
    assert caught.value.message_id == "satellite.layer_not_degrees"
    for name, fine in (("urn:ogc:def:crs:OGC:1.3:CRS84", True), ("EPSG:4326", True), ("EPSG:4490", False), ("EPSG:32650", False)):
        path = geojson(tmp_path / "c.geojson", lonlat(SQUARE), crs={"type": "name", "properties": {"name": name}})
        if fine:
            read_layer(path, crs=UTM)
        else:
            with pytest.raises(CrsError):
                read_layer(path, crs=UTM)
    with pytest.raises(CrsError):
        read_layer(geojson(tmp_path / "c.geojson", lonlat(SQUARE), crs="GCJ-02"), crs=UTM)


def test_files_without_a_reference_system_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    frame([SQUARE]).to_file(tmp_path / "s.shp")
    (tmp_path / "s.prj").unlink()
    with pytest.raises(CrsError):
        read_layer(tmp_path / "s.shp", crs=UTM)
    for name, data in (("x.shp", b"<OGRVRTDataSource/>"), ("x.gpkg", b"SQLite format 3\0"), ("x.gpkg", b"hello"), ("x.kml", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FormatError):
            read_layer(tmp_path / name, crs=UTM)
    with pytest.raises(FormatError):
        read_layer(tmp_path / "none.geojson", crs=UTM)


@pytest.mark.parametrize("code", ["42011", "4201110", "42011a", "", "４２０１１１"])
def test_division_codes_have_six_digits(tmp_path: Path, code: str) -> None:
    layer = read_layer(geojson(tmp_path / "d.geojson", lonlat(SQUARE), code=code), crs=UTM, field="code")
    with pytest.raises(FormatError):
        division_codes(layer)
    with pytest.raises(FormatError):
        read_layer(geojson(tmp_path / "d.geojson", lonlat(SQUARE), code=code), crs=UTM, field="dm")


def test_numbers_are_codes_too(tmp_path: Path) -> None:
    layer = read_layer(geojson(tmp_path / "d.geojson", lonlat(SQUARE), code=420111.0), crs=UTM, field="code")
    division_codes(layer)


# GCJ-02 ---------------------------------------------------------------------------------------------------------------


def test_gcj02_turns_back() -> None:
    rng = np.random.default_rng(8)
    positions = np.stack([rng.uniform(75, 134, 500), rng.uniform(4, 53, 500)], axis=1)
    back = gcj02_to_wgs84(wgs84_to_gcj02(positions))
    assert np.abs(back - positions).max() < 1e-9


def test_gcj02_shifts_by_hundreds_of_metres_in_china_and_not_elsewhere() -> None:
    """Known of the formula: about 300 to 700 m; a published pair for Beijing to 1e-5 degrees."""
    beijing = np.array([[116.404, 39.915]])
    moved = wgs84_to_gcj02(beijing)
    assert np.abs(moved - [[116.41024449916938, 39.91640428150164]]).max() < 1e-5
    _, _, metres = Geod(ellps="WGS84").inv(*beijing[0], *moved[0])
    assert 300 < metres < 800 and metres > GCJ02_SD
    for place in ([[2.35, 48.85]], [[139.7, 35.7]]):
        assert np.array_equal(wgs84_to_gcj02(np.array(place)), np.array(place))


def test_declared_gcj02_is_converted_and_marked(tmp_path: Path) -> None:
    true = lonlat(SQUARE)
    moved = {"type": "Polygon", "coordinates": [wgs84_to_gcj02(np.array(true["coordinates"][0])).tolist()]}
    path = geojson(tmp_path / "g.geojson", moved)
    layer = read_layer(path, crs=UTM, datum="gcj02")
    assert layer.gcj02 and shapely.hausdorff_distance(layer.polygons[0], SQUARE) < 0.05
    assert shapely.hausdorff_distance(read_layer(path, crs=UTM).polygons[0], SQUARE) > 200  # not declared: not converted


# On a grid ------------------------------------------------------------------------------------------------------------


def test_pixels_are_told_by_their_centres_in_any_window(tmp_path: Path) -> None:
    polygon = shapely.Polygon([(500_043, 3_299_987), (500_391, 3_299_811), (500_222, 3_299_477)])
    whole = pixels_inside(polygon, GRID, Box(0, 0, 60, 50))
    x, y = pixel_centres(GRID, *np.mgrid[0:60, 0:50])
    assert np.array_equal(whole, shapely.contains_xy(polygon, x, y)) and 300 < whole.sum() < 800
    for box in (Box(3, 7, 20, 21), Box(20, 20, 1, 1), Box(59, 49, 1, 1)):
        assert np.array_equal(pixels_inside(polygon, GRID, box), whole[box.slices])
    assert pixels_inside(box_polygon(GRID, Box(0, 0, 60, 50)).buffer(5), GRID, Box(0, 0, 60, 50)).all()


def test_a_region_knows_its_tiles(tmp_path: Path) -> None:
    region = read_region(geojson(tmp_path / "r.geojson", lonlat(SQUARE)), GRID)
    assert region.covered == pytest.approx(1.0)
    assert region.of_box(GRID, Box(0, 0, 5, 50)) is None
    assert region.of_box(GRID, Box(15, 15, 2, 2)).area == pytest.approx(400)
    with pytest.raises(CoverageError):
        read_region(geojson(tmp_path / "r.geojson", lonlat(shapely.box(400_000, 3_200_000, 400_100, 3_200_100))), GRID)


def test_shares_of_labels(tmp_path: Path) -> None:
    """Left and right half, overlapping in the middle: there the first label has the pixel, whatever the order in the file."""
    halves = [shapely.box(500_200, 3_299_400, 500_500, 3_300_000), shapely.box(500_000, 3_299_400, 500_300, 3_300_000)]
    rows, cols = (a.ravel() for a in np.mgrid[0:10, 0:50])
    for labels, order in ((["b", "a"], 1), (["b", "a"], -1)):
        path = tmp_path / f"h{order}.gpkg"
        frame(halves[::order], code=labels[::order]).to_file(path)
        overlay = Overlay(read_layer(path, crs=UTM, field="code"), GRID)
        assert overlay.shares(rows, cols) == {"a": pytest.approx(0.6), "b": pytest.approx(0.4)}
        assert overlay.shares(np.array([2]), np.array([25])) == {"a": 1.0}
    away = Overlay(read_layer(geojson(tmp_path / "s.geojson", lonlat(SQUARE)), crs=UTM), GRID)
    assert away.shares(np.array([0]), np.array([0])) == {}
    assert main_label({"b": 0.4, "a": 0.4}) == "a" and main_label({}) == "" and main_label({"a": 0.1, "z": 0.9}) == "z"
