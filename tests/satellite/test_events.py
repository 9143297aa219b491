"""Polygons: which pixels belong together, the interval, the area against geodesy, the files."""

from __future__ import annotations

import sqlite3
import warnings
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
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
    Registration,
    blind_periods,
    crop,
    describe_event,
    event_area,
    event_interval,
    event_series,
    event_window,
    events_geojson,
    ground_area,
    group_mask,
    group_pixels,
    moved,
    outline,
    pixel_agreement,
    write_geopackage,
)
from satellite.types import NODATE, BreakMap, ChangeEvent, Cover, Cube, Observed, Pace, Status
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
        area, shares = event_area(group, polygon, breaks, cube, (0, 0), NOTHING, config, interval=(DAY - 5, DAY + 5))
        assert area.propagation == "satellite.area_propagation_counted"
        assert area.value == ground_area(polygon, GK)
        cell = area.value / len(group.rows)
        expected = cell * np.sqrt(edge / 12 + (edge * 0.4) ** 2 / 3 + edge * 0.3**2)
        assert area.standard_uncertainty == pytest.approx(expected, rel=1e-9)
        assert sum(part**2 for part in shares.values()) == pytest.approx(area.standard_uncertainty**2, rel=1e-9)
        assert shares["registration"] == pytest.approx(cell * 0.3 * np.sqrt(edge), rel=1e-9) and shares["classification"] == 0
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


def two_band_cube(cloudy: slice = slice(40, 60)) -> Cube:
    """Red and near infrared every ten days: green until DAY, bare from then on; all cloud in one part."""
    days = np.arange(18000, 19500, 10, dtype=np.int32)
    values = np.full((len(days), 2, 30, 30), 0.1, np.float32)
    values[:, 1] = np.where(days < DAY, 0.5, 0.15)[:, None, None]
    observed = np.zeros((len(days), 30, 30), np.uint8)
    observed[cloudy] = Observed.CLOUD
    return Cube(stored=values, observed=observed, days=days, bands=("red", "nir"), grid=GRID)


@pytest.fixture
def event() -> ChangeEvent:
    breaks = break_map([(np.s_[3:8, 4:10], DAY)], half=10)
    (group,), _ = group_pixels(breaks, EventConfig())
    return describe_event("S-001", group, breaks, two_band_cube(), EventConfig(), taken=NOTHING)


def test_event_states_plain_facts(event: ChangeEvent) -> None:
    assert event.last_clear_before == date(2021, 6, 12) and event.first_clear_after == date(2021, 7, 2)
    (change,) = event.indices
    assert change.name == "NDVI"
    assert change.before.value == pytest.approx(0.4 / 0.6, abs=1e-6) and change.after.value == pytest.approx(
        0.05 / 0.25, abs=1e-6
    )
    assert change.before.standard_uncertainty == pytest.approx(0, abs=1e-9)
    assert event.longest_gap_days == 210
    (blind,) = event.blind
    assert (blind.days, blind.cloud, blind.not_observed, blind.failed_read, blind.in_interval) == (210, 20, 0, 0, False)
    assert event.pace is Pace.ABRUPT and event.spread_days == 0
    assert (event.agreement, event.direction_agreement) == (1.0, 1.0)
    assert event.outlined == pytest.approx(3000, rel=1e-3)
    assert event.registration_dates == 0 and event.registration_pixels == 0.3
    # NDVI 0.67 is beyond the limit of vegetation; two bands cannot say what is bare.
    assert event.before.cover is Cover.VEGETATION and event.after.cover is Cover.UNKNOWN
    assert event.after.reason == "satellite.cover_missing_bands" and event.before.water_share is None
    # Dates 18000, 18010 ... up to 18790 without the 20 cloudy ones: 80 - 20; from 18810 on: 69.
    assert (event.clear_before, event.clear_after) == (60, 69)


def test_an_event_does_not_depend_on_how_much_the_cube_covers() -> None:
    breaks = break_map([(np.s_[3:8, 4:10], DAY)], half=10)
    large = replace(GRID, shape=(90, 90))

    def wide(layer: np.ndarray, fill: object) -> np.ndarray:
        result = np.full((*layer.shape[:-2], 90, 90), fill, layer.dtype)
        result[..., 40:70, 30:60] = layer
        return result

    fills = {"break_date": NODATE, "last_clear_before": NODATE, "first_clear_after": NODATE, "magnitude": np.nan, "score": np.nan}
    fills |= {"pace": 0, "observations": 80, "status": Status.NO_CHANGE}
    wider = replace(breaks, grid=large, **{name: wide(getattr(breaks, name), fill) for name, fill in fills.items()})
    (group,), _ = group_pixels(wider, EventConfig())
    part = two_band_cube()
    values = np.tile(part.stored[:, :, :1, :1], (1, 1, 90, 90))
    values += np.random.default_rng(3).normal(0, 0.01, values.shape).astype(np.float32)
    observed = np.tile(part.observed[:, :1, :1], (1, 90, 90))
    whole = Cube(stored=values, observed=observed, days=part.days, bands=part.bands, grid=large)
    taken = np.zeros((90, 90), bool)
    window = event_window(group, (90, 90))
    corner = (int(window.row_off), int(window.col_off))
    assert corner != (0, 0) and window.height == 48
    cut = crop(whole, window)
    assert cut.grid.transform @ (0, 0) == large.transform @ (corner[1], corner[0])
    config = EventConfig()
    one = describe_event("S-001", group, wider, whole, config, taken=taken)
    assert one == describe_event("S-001", group, wider, cut, config, taken=taken, corner=corner)
    with pytest.raises(ValueError, match="does not cover"):
        describe_event("S-001", group, wider, cut, config, taken=taken)


def test_measured_registration_takes_the_place_of_the_assumed_one() -> None:
    breaks = break_map([(np.s_[3:8, 4:10], DAY)], half=10)
    (group,), _ = group_pixels(breaks, EventConfig())
    parts = []
    for registration in (None, Registration(sd_pixels=0.6, dates=40)):
        found = describe_event("S-001", group, breaks, two_band_cube(), EventConfig(), taken=NOTHING, registration=registration)
        parts.append(found.area_parts["registration"])
    assert parts[1] == pytest.approx(2 * parts[0], rel=1e-9)
    assert (found.registration_pixels, found.registration_dates) == (0.6, 40)


def test_pixels_that_do_not_agree_are_counted_and_widen_the_error() -> None:
    breaks = break_map([(np.s_[3:13, 4:14], DAY)], half=10)
    before, after = breaks.last_clear_before.copy(), breaks.first_clear_after.copy()
    before[0, 6:8, 6:8], after[0, 6:8, 6:8] = DAY + 30, DAY + 40  # four interior pixels later
    breaks = replace(breaks, last_clear_before=before, first_clear_after=after)
    (group,), _ = group_pixels(breaks, EventConfig())
    cube = two_band_cube()
    values = cube.stored.copy()
    values[cube.days >= DAY, 1, 10, 10] = 0.9  # one went the other way
    cube = replace(cube, stored=values)
    overlaps, along = pixel_agreement(group, breaks, cube, (0, 0), (DAY - 10, DAY + 10))
    assert (~overlaps).sum() == 4 and (~along).sum() == 1
    found = describe_event("S-001", group, breaks, cube, EventConfig(), taken=NOTHING)
    assert (found.agreement, found.direction_agreement) == (0.96, 0.99)
    # Five interior pixels belong to the event or do not: a rectangular distribution of that width.
    assert found.area_parts["classification"] == pytest.approx(found.outlined / 100 * 5 / np.sqrt(12), rel=1e-9)


def test_blind_periods_tell_cloud_from_missing_coverage_and_failed_reads() -> None:
    (group,), _ = group_pixels(break_map([(np.s_[3:8, 4:10], DAY)]), EventConfig())
    cube = two_band_cube(slice(0, 0))
    observed = cube.observed.copy()
    observed[50:53], observed[53:55], observed[55:59] = Observed.CLOUD, Observed.NOT_OBSERVED, Observed.FAILED_READ
    observed[70, 3:8, 4:7] = Observed.CLOUD  # half of the pixels: still a clear view
    observed[100:107, :, :] = Observed.OUTSIDE
    series = event_series(replace(cube, observed=observed), group.rows, group.cols)
    assert series.state[70] == Observed.CLEAR and series.state[51] == Observed.CLOUD
    assert series.counts[70].tolist() == [15, 15, 0, 0, 0] and series.counts[56].tolist() == [0, 0, 0, 30, 0]
    first, second = blind_periods(series, 18000, 19490, (18500, 18700), 60)
    assert (first.cloud, first.not_observed, first.failed_read, first.days, first.in_interval) == (3, 2, 4, 100, True)
    assert (second.not_observed, second.in_interval) == (7, False)
    assert blind_periods(series, 18000, 19490, (18500, 18700), 100) == ()
    # The ends of the series count: the first scene came late.
    assert blind_periods(series, 17900, 19490, (18500, 18700), 90)[0].start == date(2019, 1, 4)


def test_a_gradual_event_says_so() -> None:
    breaks = break_map([(np.s_[3:8, 4:10], DAY)], half=100)
    pace = np.where(breaks.pace > 0, np.uint8(Pace.GRADUAL), np.uint8(0))
    breaks = replace(breaks, pace=pace)
    (group,), _ = group_pixels(breaks, EventConfig())
    found = describe_event("S-001", group, breaks, two_band_cube(), EventConfig(), taken=NOTHING)
    assert found.pace is Pace.GRADUAL and (found.first_clear_after - found.last_clear_before).days == 200


@pytest.mark.parametrize("seed", range(16))
def test_any_group_on_any_ground_becomes_an_event(seed: int) -> None:
    """Noise, all states, one band or six, one pixel or the whole map, two breaks: values stay in their ranges, nothing warns."""
    rng = np.random.default_rng(9000 + seed)
    rows, cols, times = (int(n) for n in rng.integers((1, 1, 3), (40, 40, 60)))
    bands = ("NDVI",) if seed % 4 == 0 else ("blue", "green", "red", "nir", "swir1", "swir2")[: int(rng.choice([2, 4, 6]))]
    grid = replace(GRID, shape=(rows, cols))
    days = np.sort(rng.choice(1500, times, replace=False)).astype(np.int32)
    seen = [0.6, 0.2, 0.1, 0.05, 0.05] if seed % 3 else [0.02, 0.5, 0.2, 0.2, 0.08]
    cube = Cube(
        stored=rng.normal(0.2, 0.1, (times, len(bands), rows, cols)).astype(np.float32),
        observed=rng.choice(5, (times, rows, cols), p=seen).astype(np.uint8),
        days=days,
        bands=bands,
        grid=grid,
    )
    first = np.where(rng.random((rows, cols)) < 0.5, rng.integers(days[0], days[-1], (rows, cols)), NODATE)
    second = np.where((first != NODATE) & (rng.random((rows, cols)) < 0.5), first + 100, NODATE)
    date_of = np.stack([first, second]).astype(np.int32)
    found = date_of != NODATE
    breaks = BreakMap(
        grid=grid,
        first_day=int(days[0]),
        last_day=int(days[-1]),
        break_date=date_of,
        last_clear_before=np.where(found, date_of - rng.integers(0, 60), NODATE).astype(np.int32),
        first_clear_after=np.where(found, date_of + rng.integers(0, 60), NODATE).astype(np.int32),
        magnitude=np.where(found, np.float32(0.3), np.float32(np.nan)),
        magnitude_of=bands[0],
        score=np.where(found, np.float32(9), np.float32(np.nan)),
        pace=np.where(found, rng.integers(1, 3, found.shape), 0).astype(np.uint8),
        observations=(cube.observed == 0).sum(axis=0).astype(np.int16),
        status=np.where(found[0], np.uint8(Status.CHANGE), np.uint8(Status.NO_CHANGE)),
    )
    config = EventConfig(min_pixels=1, link_days=int(rng.choice([0, 45, 2000])))
    groups, left_over = group_pixels(breaks, config)
    assert left_over == 0
    taken = group_mask(groups, grid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for group in groups[:10]:
            made = describe_event("S-001", group, breaks, cube, config, taken=taken)
            assert made.last_clear_before <= made.break_date <= made.first_clear_after
            assert made.area.value > 0 and made.area.standard_uncertainty is not None
            assert made.area.standard_uncertainty == pytest.approx(np.sqrt(sum(v**2 for v in made.area_parts.values())))
            assert 0 < made.confidence < 1 and 0 <= made.agreement <= 1 and made.contrast >= 0
            assert all(a.end <= b.start for a, b in pairwise(made.blind))


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
