"""Polygons: which pixels belong together, the interval, the area against geodesy, the files."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import geopandas
import numpy as np
import pytest
from affine import Affine
from pyproj import CRS, Geod
from shapely.affinity import translate
from shapely.geometry import mapping, shape

from geoevidence.raster import Grid
from geoevidence.types import Message, Product
from satellite.events import (
    EventConfig,
    event_area,
    event_interval,
    event_series,
    events_geojson,
    ground_area,
    group_pixels,
    make_event,
    moved,
    outline,
    write_geopackage,
)
from satellite.types import NODATE, BreakMap, ChangeEvent, Cube, Observed, Status
from satellite.workflow import compare_product

GK = CRS.from_epsg(4547)
GRID = Grid(shape=(30, 30), transform=Affine(10, 0, 500000, 0, -10, 3300000), crs=GK)
DAY = 18800
NOTHING = np.zeros((30, 30), bool)
"""No pixel belongs to another event."""


def break_map(dates: list[tuple[tuple[slice, slice], int]], *, half: int = 5, depth: int = 1) -> BreakMap:
    layer = np.full((depth, 30, 30), NODATE, np.int32)
    for part, day in dates:
        layer[0][part] = day
    found = layer != NODATE
    numbers = np.where(found, np.float32(20), np.float32(np.nan))
    return BreakMap(
        grid=GRID,
        first_day=18000,
        last_day=19500,
        break_date=layer,
        last_clear_before=np.where(found, layer - half, NODATE).astype(np.int32),
        first_clear_after=np.where(found, layer + half, NODATE).astype(np.int32),
        magnitude=-numbers / 40,
        magnitude_of="NDVI",
        score=numbers,
        pace=found.astype(np.uint8),
        observations=np.full((30, 30), 80, np.int16),
        status=np.where(found[0], np.uint8(Status.CHANGE), np.uint8(Status.NO_CHANGE)),
    )


def test_groups_split_by_space_and_time() -> None:
    breaks = break_map(
        [
            (np.s_[2:6, 2:6], DAY),
            (np.s_[6:9, 6:10], DAY + 20),  # touches the first at a corner, soon after
            (np.s_[2:6, 6:10], DAY + 300),  # touches both, much later
            (np.s_[20:23, 20:23], DAY),  # nine pixels
        ]
    )
    groups, left_over = group_pixels(breaks, EventConfig())
    assert sorted(len(group.rows) for group in groups) == [16, 28]
    assert left_over == 9
    smaller, none_left = group_pixels(breaks, EventConfig(min_pixels=9))
    assert len(smaller) == 3 and none_left == 0


def test_order_of_events_is_order_of_time() -> None:
    breaks = break_map([(np.s_[2:6, 2:6], DAY + 400), (np.s_[20:24, 20:24], DAY)])
    groups, _ = group_pixels(breaks, EventConfig())
    assert [int(group.rows[0]) for group in groups] == [20, 2]


def test_a_pixel_with_two_breaks_counts_once() -> None:
    breaks = break_map([(np.s_[2:6, 2:6], DAY)], depth=2)
    second = breaks.break_date.copy()
    second[1, 3, 3] = DAY + 30
    score = breaks.score.copy()
    score[1, 3, 3] = 50
    ends = {name: np.where(second == NODATE, NODATE, second + step).astype(np.int32) for name, step in
            (("last_clear_before", -5), ("first_clear_after", 5))}  # fmt: skip
    groups, _ = group_pixels(replace(breaks, break_date=second, score=score, **ends), EventConfig())
    assert len(groups) == 1 and len(groups[0].rows) == 16
    chosen = groups[0].layers[(groups[0].rows == 3) & (groups[0].cols == 3)]
    assert chosen.tolist() == [1]


def test_no_break_no_group() -> None:
    assert group_pixels(break_map([]), EventConfig()) == ((), 0)


def test_outline_follows_pixel_edges_with_holes() -> None:
    breaks = break_map([(np.s_[5:10, 5:11], DAY), (np.s_[7:8, 7:9], NODATE)])
    (group,), _ = group_pixels(breaks, EventConfig())
    polygon = shape(outline(group, GRID))
    assert polygon.bounds == (500050.0, 3299900.0, 500110.0, 3299950.0)
    assert polygon.area == 2800.0 and len(polygon.interiors) == 1


@pytest.mark.parametrize(
    "code, x, y, step, scale",
    [
        (4547, 600000.0, 3300000.0, 10.0, None),
        (32650, 300000.0, 3400000.0, 10.0, None),
        (3035, 5272000.0, 2532500.0, 10.0, 1.0),
        (3857, 12245143.0, 3503549.0, 10.0, None),
        (4326, 110.0, 30.0, 1e-4, None),
    ],
)
def test_area_is_that_on_the_ellipsoid(code: int, x: float, y: float, step: float, scale: float | None) -> None:
    crs = CRS.from_epsg(code)
    grid = Grid(shape=(30, 30), transform=Affine(step, 0, x, 0, -step, y), crs=crs)
    (group,), _ = group_pixels(break_map([(np.s_[0:20, 0:30], DAY)]), EventConfig())
    found = ground_area(outline(group, grid), crs)
    # Independent: sides measured as geodesics at the middle of the rectangle.
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    geod = Geod(ellps="WGS84" if code in (32650, 3857, 4326) else "GRS80")

    def length(a: tuple[float, float], b: tuple[float, float]) -> float:
        (lon1, lat1), (lon2, lat2) = to_degrees.transform(*a), to_degrees.transform(*b)
        return geod.inv(lon1, lat1, lon2, lat2)[2]

    width = length((x, y - 10 * step), (x + 30 * step, y - 10 * step))
    height = length((x + 15 * step, y), (x + 15 * step, y - 20 * step))
    # The LAEA is not conformal: product of sides misses the angle, a second-order term below 1e-4 at 8 degrees from its centre
    # is not guaranteed, so there the grid's own area (equal area by construction) is the reference.
    expected = 600 * step * step if scale == 1.0 else width * height
    assert found == pytest.approx(expected, rel=2e-6 if scale == 1.0 else 1e-5)


def test_counted_area_error_follows_the_edge() -> None:
    """Where there is no unchanged ground to compare with, whole pixels are counted."""
    config = EventConfig()
    relative = []
    for part, edge in ((np.s_[0:20, 0:20], 76), (np.s_[0:29, 0:2], 58)):
        breaks = break_map([(part, DAY)])
        (group,), _ = group_pixels(breaks, config)
        rows, cols = part[0].stop, part[1].stop
        days = np.arange(18000, 19500, 100, dtype=np.int32)
        values = np.full((len(days), 1, rows, cols), 0.3, np.float32)
        grid = replace(GRID, shape=(rows, cols))
        cube = Cube(stored=values, observed=np.zeros((len(days), rows, cols), np.uint8), days=days, bands=("red",), grid=grid)
        polygon = outline(group, GRID)
        area = event_area(group, polygon, breaks, GRID, cube, (0, 0), NOTHING, config)
        assert area.propagation == "satellite.area_propagation_counted"
        assert area.value == ground_area(polygon, GK)
        cell = area.value / len(group.rows)
        expected = cell * np.sqrt(edge / 12 + (edge * 0.25) ** 2 / 3 + edge * 0.3**2)
        assert area.standard_uncertainty == pytest.approx(expected, rel=1e-9)
        relative.append(area.standard_uncertainty / area.value)
    assert relative[1] > 3 * relative[0]


def seen_cube(days: list[int], clouds: dict[int, tuple[slice, slice]]) -> Cube:
    """All clear on the given days but for one part a day."""
    observed = np.zeros((len(days), 30, 30), np.uint8)
    for day, part in clouds.items():
        observed[days.index(day)][part] = Observed.CLOUD
    values = np.full((len(days), 1, 30, 30), 0.3, np.float32)
    return Cube(stored=values, observed=observed, days=np.array(days, np.int32), bands=("red",), grid=GRID)


def test_interval_is_what_the_clear_pixels_show() -> None:
    breaks = break_map([(np.s_[0:10, 0:10], DAY)], half=10)
    before, after = breaks.last_clear_before.copy(), breaks.first_clear_after.copy()
    before[0, 0, :4] = DAY - 400  # four misdated pixels of a hundred
    after[0, 1, :4] = DAY + 300
    before[0, 5:10, :10] = DAY - 30  # half was under cloud on the later date
    breaks = replace(breaks, last_clear_before=before, first_clear_after=after)
    (group,), _ = group_pixels(breaks, EventConfig())
    days = [DAY - 400, DAY - 30, DAY - 10, DAY + 10, DAY + 300]
    config = EventConfig(seen_share=0.4)
    cube = seen_cube(days, {DAY - 10: np.s_[5:10, 0:10]})
    # On DAY - 10 half is clear, of which 46 of 50 are old: 0.92.
    assert event_interval(group, breaks, cube, (0, 0), config) == (DAY - 10, DAY + 10, DAY)
    assert event_interval(group, breaks, cube, (0, 0), replace(config, seen_share=0.6))[0] == DAY - 30
    assert event_interval(group, breaks, cube, (0, 0), replace(config, interval_share=0.99)) == (DAY - 400, DAY + 300, DAY)


def test_interval_without_a_date_seen_by_most_falls_back_to_the_pixels() -> None:
    breaks = break_map([(np.s_[0:10, 0:10], DAY)], half=10)
    (group,), _ = group_pixels(breaks, EventConfig())
    cube = seen_cube([DAY - 10, DAY + 10], {DAY - 10: np.s_[0:9, 0:10], DAY + 10: np.s_[0:9, 0:10]})
    assert event_interval(group, breaks, cube, (0, 0), EventConfig()) == (DAY - 10, DAY + 10, DAY)


@pytest.fixture
def event() -> ChangeEvent:
    breaks = break_map([(np.s_[3:8, 4:10], DAY)], half=10)
    (group,), _ = group_pixels(breaks, EventConfig())
    days = np.arange(18000, 19500, 10, dtype=np.int32)
    values = np.full((len(days), 2, 30, 30), 0.1, np.float32)
    values[:, 1] = np.where(days < DAY, 0.5, 0.15)[:, None, None]
    observed = np.zeros((len(days), 30, 30), np.uint8)
    observed[40:60] = Observed.CLOUD
    values[40:60] = np.nan
    cube = Cube(stored=values, observed=observed, days=days, bands=("red", "nir"), grid=GRID)
    series = event_series(cube, group.rows, group.cols)
    return make_event("S-001", group, breaks, GRID, cube, (0, 0), NOTHING, series, EventConfig())


def test_event_states_plain_facts(event: ChangeEvent) -> None:
    assert event.last_clear_before == date(2021, 6, 12) and event.first_clear_after == date(2021, 7, 2)
    (change,) = event.indices
    assert change.name == "NDVI"
    assert change.before.value == pytest.approx(0.4 / 0.6, abs=1e-6) and change.after.value == pytest.approx(
        0.05 / 0.25, abs=1e-6
    )
    assert change.before.standard_uncertainty == pytest.approx(0, abs=1e-9)
    assert event.longest_gap_days == 210
    # Dates 18000, 18010 ... up to 18790 without the 20 cloudy ones: 80 - 20; from 18810 on: 69.
    assert (event.clear_before, event.clear_after) == (60, 69)


def test_geojson_is_rfc7946(event: ChangeEvent) -> None:
    (feature,) = events_geojson([event], GK, synthetic=True)["features"]
    polygon = shape(feature["geometry"])
    assert polygon.is_valid and polygon.exterior.is_ccw
    assert 113.99 < polygon.centroid.x < 114.01 and 29.8 < polygon.centroid.y < 29.9
    assert feature["properties"]["finding"] == "S-001" and feature["properties"]["synthetic"] is True


def test_geopackage_has_two_layers_and_the_same_bytes(event: ChangeEvent, tmp_path: Path) -> None:
    layers = {"cgcs2000": GK, "wgs84": CRS.from_epsg(4326)}
    for name in ("a.gpkg", "b.gpkg"):
        write_geopackage(tmp_path / name, [event], GK, layers=layers, synthetic=False)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    frame = geopandas.read_file(tmp_path / "a.gpkg", layer="cgcs2000")
    assert frame.crs.to_epsg() == 4547 and len(frame) == 1
    assert frame.geometry.area[0] == pytest.approx(3000.0, abs=1e-6)
    assert frame["finding"][0] == "S-001" and str(frame["last_clear_before"][0])[:10] == "2021-06-12"
    degrees = geopandas.read_file(tmp_path / "a.gpkg", layer="wgs84")
    assert degrees.crs.to_epsg() == 4326
    expected = shape(moved(event.polygon, GK, CRS.from_epsg(4326), digits=8))
    assert degrees.geometry[0].equals_exact(degrees.geometry[0], 0) and degrees.geometry[0].area == pytest.approx(expected.area)
    connection = sqlite3.connect(tmp_path / "a.gpkg")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT DISTINCT last_change FROM gpkg_contents").fetchall() == [("1970-01-01T00:00:00.000Z",)]
    connection.close()


def test_geopackages_of_other_bytes_are_compared_by_what_they_say(event: ChangeEvent, tmp_path: Path) -> None:
    """Made again on another machine: other bytes, perhaps the same events. Places may move by a centimetre, dates by nothing."""
    product = Product(
        path="events.gpkg", kind="events", media_type="application/geopackage+sqlite3", title=Message(id="core.synthetic")
    )

    def compared(other: ChangeEvent, crs: CRS = GK) -> str:
        for name, each, system in (("a.gpkg", event, GK), ("b.gpkg", other, crs)):
            (tmp_path / name).unlink(missing_ok=True)
            write_geopackage(tmp_path / name, [each], system, layers={"cgcs2000": system}, synthetic=False)
        return compare_product(product, tmp_path / "a.gpkg", tmp_path / "b.gpkg")[0]

    def moved_by(metres: float) -> ChangeEvent:
        return replace(event, polygon=mapping(translate(shape(event.polygon), xoff=metres)))

    assert compared(event) == "within_tolerance" and compared(moved_by(0.004)) == "within_tolerance"
    assert compared(moved_by(20.0)) == "differs"
    assert compared(replace(event, last_clear_before=event.last_clear_before - timedelta(days=1))) == "differs"
    assert compared(event, CRS.from_epsg(4548)) == "differs"


def test_geopackage_without_events(tmp_path: Path) -> None:
    write_geopackage(tmp_path / "none.gpkg", [], GK, layers={"wgs84": CRS.from_epsg(4326)}, synthetic=False)
    assert len(geopandas.read_file(tmp_path / "none.gpkg", layer="wgs84")) == 0
