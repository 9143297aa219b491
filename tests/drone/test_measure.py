"""Areas and volumes: exact on exact surfaces, and stated errors that cover the truth as often as they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Geod

from drone.measure import MeasureConfig, grid_scale, measure_area, measure_covered, measure_volume
from drone.shapes import read_polygon, read_shape, shapes_of
from drone.types import AccuracyReport, SurfaceModel
from geoevidence.crs import parse_crs, transform_geometry
from geoevidence.errors import CoverageError, CrsError, FormatError, GeoEvidenceError
from geoevidence.raster import Grid, Raster
from tests.drone import sample_block as sample

CRS = parse_crs("EPSG:4547")
WGS84 = parse_crs("EPSG:4326")
CELL = 0.1
WEST, NORTH = 527000.0, 3360000.0


def _accuracy(**changes: Any) -> AccuracyReport:
    values: dict[str, Any] = {
        "reprojection_rmse": 0.5,
        "gsd": 0.04,
        "ground_points": (),
        "check_rmse_horizontal": None,
        "check_rmse_vertical": None,
        "gps_rmse_horizontal": None,
        "gps_rmse_vertical": None,
        "control": "ground_points",
        "position_sd": (0.02, 0.02, 0.03),
        "scale_sd": 0.0,
        "focal_sd": 0.0,
    }
    return AccuracyReport(**(values | changes))


def _surface(z: NDArray[np.float64], sd: float | NDArray[np.float64] | None = 0.02, kind: str = "unknown") -> SurfaceModel:
    grid = Grid(shape=z.shape, transform=Affine(CELL, 0, WEST, 0, -CELL, NORTH), crs=CRS)

    def raster(values: NDArray[np.float64]) -> Raster:
        return Raster(data=values[None].astype(np.float32), grid=grid, nodata=float("nan"), unit="m")

    errors = None if sd is None else raster(np.where(np.isfinite(z), np.broadcast_to(sd, z.shape), np.nan))
    return SurfaceModel(raster=raster(z), kind="dsm", height_kind=kind, standard_uncertainty=errors, density=None)  # type: ignore[arg-type]


def _places(rows: int = 300, cols: int = 400) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.meshgrid(WEST + (np.arange(cols) + 0.5) * CELL, NORTH - (np.arange(rows) + 0.5) * CELL)


def _cone(x: NDArray[np.float64], y: NDArray[np.float64], height: float = 2.0, radius: float = 6.0) -> NDArray[np.float64]:
    return np.maximum(0, height * (1 - np.hypot(x - WEST - 20, y - NORTH + 15) / radius))


RING = shapely.Point(WEST + 20, NORTH - 15).buffer(8.0, quad_segs=16)
CONE = math.pi * 36 * 2.0 / 3


def test_a_cone_on_a_slope_has_its_volume() -> None:
    x, y = _places()
    slope = 30 + 0.05 * (x - WEST) - 0.03 * (y - NORTH)
    scale = grid_scale(CRS, WEST + 20, NORTH - 15, 0.0)
    fill, cut, net = measure_volume(_surface(slope + _cone(x, y)), RING, accuracy=_accuracy())
    # float32 heights near 30 m carry 2e-6 m; the tip of the cone lies in one cell: 0.01 m2 x 0.03 m.
    assert fill.quantity.value == pytest.approx(CONE / scale**2, abs=2e-3)
    assert abs(cut.quantity.value) < 1e-3
    assert net.quantity.value == pytest.approx(fill.quantity.value - cut.quantity.value, abs=1e-9)
    assert (fill.kind, cut.kind, net.kind) == ("volume_fill", "volume_cut", "volume_net")
    assert fill.base == "rim" and fill.uncovered_fraction == 0


def test_a_pit_is_cut_not_fill() -> None:
    x, y = _places()
    fill, cut, net = measure_volume(_surface(30 - _cone(x, y)), RING, accuracy=_accuracy())
    assert cut.quantity.value == pytest.approx(CONE, rel=1e-4) and fill.quantity.value < 1e-3
    assert net.quantity.value == pytest.approx(-CONE, rel=1e-4)


def test_cells_on_the_boundary_count_by_their_part() -> None:
    x, _ = _places()
    polygon = shapely.Polygon([(WEST + 3.033, NORTH - 3.017), (WEST + 9.71, NORTH - 4.4), (WEST + 7.23, NORTH - 11.09)])
    scale = grid_scale(CRS, WEST + 6, NORTH - 6, 0.0)
    fill, _, _ = measure_volume(
        _surface(np.full(x.shape, 12.0)), polygon, accuracy=_accuracy(), base="horizontal", base_height=11.0
    )
    assert fill.quantity.value == pytest.approx(polygon.area / scale**2, rel=1e-6)


def test_bases_are_as_named() -> None:
    x, y = _places()
    surface = _surface(30 + _cone(x, y))
    fill, _, _ = measure_volume(surface, RING, accuracy=_accuracy(), base="lowest")
    assert fill.quantity.value == pytest.approx(CONE, rel=1e-4)
    _, cut, _ = measure_volume(surface, RING, accuracy=_accuracy(), base="horizontal", base_height=33.0)
    assert cut.quantity.value == pytest.approx(3 * RING.area - CONE, rel=1e-3)
    # The base stands in the world: the height of the whole block (0.03 m) counts on all of the area.
    assert cut.quantity.standard_uncertainty > 0.03 * RING.area * 0.99
    with pytest.raises(ValueError):
        measure_volume(surface, RING, accuracy=_accuracy(), base="horizontal")
    with pytest.raises(ValueError):
        measure_volume(surface, RING, accuracy=_accuracy(), base="rim", base_height=1.0)


@pytest.mark.parametrize(("code", "height"), [("EPSG:4547", 0.0), ("EPSG:32650", 0.0), ("EPSG:32650", 3000.0)])
def test_areas_are_those_on_the_ground(code: str, height: float) -> None:
    """Against the geodesic area on the ellipsoid (Karney), enlarged to the height of the ground."""
    crs = parse_crs(code)
    corners = [[115.40, 30.30], [115.401, 30.30], [115.4012, 30.3011], [115.4, 30.3009], [115.40, 30.30]]
    expected = abs(Geod(ellps="GRS80").polygon_area_perimeter(*np.array(corners).T)[0]) * (1 + height / 6_371_000) ** 2
    polygon = read_polygon({"type": "Polygon", "coordinates": [corners]}, WGS84, crs)
    kind = "ellipsoidal" if height else "unknown"
    area = measure_area(polygon, crs=crs, accuracy=_accuracy(), surface=_surface(np.full((10, 10), height), kind=kind))
    # The scale of the middle for all of 0.1 km: relative 1e-6; WGS 84 against GRS 80: 1e-9.
    assert area.quantity.value == pytest.approx(expected, rel=3e-6)
    # The grid alone would be off by more, unless it is at its central meridian.
    if code == "EPSG:32650":
        assert abs(polygon.area / expected - 1) > 1e-5


def test_degrees_and_feet_are_refused() -> None:
    for code in ("EPSG:4326", "EPSG:2263"):
        with pytest.raises(CrsError):
            grid_scale(parse_crs(code), 0, 0, 0)


def test_area_error_is_that_of_moved_vertices() -> None:
    polygon = shapely.Polygon(
        [(WEST, NORTH), (WEST + 20, NORTH), (WEST + 25, NORTH - 8), (WEST + 11, NORTH - 15), (WEST - 2, NORTH - 9)]
    )
    stated = measure_area(polygon, crs=CRS, accuracy=_accuracy(), vertex_sd=0.1).quantity.standard_uncertainty
    rng = np.random.default_rng(3)
    corners = np.array(polygon.exterior.coords)[:-1]
    areas = [shapely.Polygon(corners + rng.normal(0, 0.1, corners.shape)).area for _ in range(2000)]
    # The sd of 2000 draws is known to 1.6 %; three of these.
    assert np.std(areas) == pytest.approx(stated, rel=0.05)
    wide = measure_area(polygon, crs=CRS, accuracy=_accuracy(scale_sd=0.01), vertex_sd=0.0).quantity
    # and the height that the grid's scale does not know: land lies between 0 and 5000 m
    assert wide.standard_uncertainty == pytest.approx(
        math.hypot(0.02, 2 * 5000 / math.sqrt(12) / 6_371_000) * wide.value, rel=1e-4
    )


def _noise(rng: np.random.Generator, shape: tuple[int, int], range_m: float) -> NDArray[np.float64]:
    """Normal noise of sd 1 with correlation exp(-(d / range)^2)."""
    size = (shape[0] * 2, shape[1] * 2)
    # A Gaussian kernel of sd s gives the correlation exp(-d^2 / 4 s^2).
    s = range_m / CELL / 2
    f = np.add.outer(np.fft.fftfreq(size[0]) ** 2, np.fft.rfftfreq(size[1]) ** 2)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(size)) * np.exp(-2 * (math.pi * s) ** 2 * f), size)
    return (field / field.std())[: shape[0], : shape[1]]


@pytest.mark.parametrize("shape", [pytest.param("cone", marks=pytest.mark.slow), "flat"])
def test_stated_intervals_cover_the_true_volume(shape: str) -> None:
    """Surfaces with noise of both ranges: 95 % intervals must cover the truth in 95 % of the draws, not in 85."""
    x, y = _places(240, 290)  # a metre beyond the ring
    truth = _cone(x, y) if shape == "cone" else np.zeros_like(x)
    config = MeasureConfig(vertex_gsd=0.0)
    accuracy = _accuracy()
    rng = np.random.default_rng(11)
    exact = CONE if shape == "cone" else 0.0
    hits, normed = 0, []
    draws = 100 if shape == "cone" else 40
    for _ in range(draws):
        sd = 0.03
        slow = config.slow_sd_gsd * accuracy.gsd
        z = 30 + truth + sd * _noise(rng, x.shape, 14 * accuracy.gsd)
        z += slow * _noise(rng, x.shape, config.slow_range_gsd * accuracy.gsd)
        stated = _surface(z, math.hypot(sd, slow))
        net = measure_volume(stated, RING, accuracy=accuracy, config=config)[2].quantity
        assert net.standard_uncertainty is not None
        hits += abs(net.value - exact) <= 2 * net.standard_uncertainty
        normed.append((net.value - exact) / net.standard_uncertainty)
    # Binomial, p = 0.954, three sd: 6.3 of 100, 4 of 40. The sd of the normed errors is known to 7 and 11 %.
    assert hits >= 0.954 * draws - 3 * math.sqrt(draws * 0.954 * 0.046)
    assert 0.6 < np.std(normed) < 1.3


def test_cut_and_fill_of_flat_ground_are_within_their_errors() -> None:
    """Noise alone makes fill and cut; the stated error must say that they may be nothing."""
    x, _ = _places()
    rng = np.random.default_rng(5)
    for _ in range(8):
        z = 30 + 0.03 * _noise(rng, x.shape, 14 * 0.04)
        stated = math.hypot(0.03, MeasureConfig().slow_sd_gsd * 0.04)
        for part in measure_volume(_surface(z, stated), RING, accuracy=_accuracy())[:2]:
            assert part.quantity.value <= 2.2 * part.quantity.standard_uncertainty


def test_holes_are_counted_bounded_and_refused() -> None:
    x, y = _places()
    z = 30 + _cone(x, y)
    z[np.hypot(x - WEST - 22, y - NORTH + 15) < 1.0] = np.nan
    surface = _surface(z)
    fill, _, _ = measure_volume(surface, RING, accuracy=_accuracy())
    share = math.pi / RING.area
    assert fill.uncovered_fraction == pytest.approx(share, rel=0.02)
    missing = CONE - fill.quantity.value
    assert 0 < missing < 3 * fill.quantity.standard_uncertainty
    assert any(limit.id == "drone.limit_uncovered" for limit in fill.limitations)
    with pytest.raises(CoverageError) as caught:
        measure_volume(surface, RING, accuracy=_accuracy(), config=MeasureConfig(uncovered_limit=0.01))
    assert caught.value.message_id == "drone.polygon_uncovered"
    with pytest.raises(CoverageError):
        measure_volume(surface, shapely.affinity.translate(RING, 1000, 0), accuracy=_accuracy())


def test_without_errors_none_is_stated() -> None:
    x, y = _places()
    bare = _surface(30 + _cone(x, y), sd=None)
    for part in measure_volume(bare, RING, accuracy=None):
        assert part.quantity.standard_uncertainty is None
        assert any(limit.id == "drone.limit_no_accuracy" for limit in part.limitations)
    assert measure_area(RING, crs=CRS, accuracy=None).quantity.standard_uncertainty is None


def test_covered_area_counts_cells() -> None:
    z = np.full((200, 200), np.nan)
    z[50:150, 40:160] = 5.0
    quantity = measure_covered(_surface(z), _accuracy()).quantity
    assert quantity.value == pytest.approx(100 * 120 * CELL**2, rel=1e-4)
    assert 0.05 < quantity.standard_uncertainty < 2.0


def test_position_matters_for_a_polygon_from_elsewhere() -> None:
    """On a slope with a level base, a shift of the polygon changes the volume by area x slope x shift."""
    x, _ = _places()
    surface = _surface(30 + 0.2 * (x - WEST))
    args = {"accuracy": _accuracy(position_sd=(0.0, 0.0, 0.0)), "base": "horizontal", "base_height": 20.0}
    near = measure_volume(surface, RING, **args)[2].quantity.standard_uncertainty
    far = measure_volume(surface, RING, shift_sd=0.5, **args)[2].quantity.standard_uncertainty
    assert math.sqrt(far**2 - near**2) == pytest.approx(RING.area * 0.2 * 0.5, rel=0.02)


@pytest.mark.parametrize("name", ["pit", "pile"])
def test_volumes_of_the_demonstration_flight(name: str) -> None:
    """From the photos (true poses): the stated 95 % interval holds the truth and is not wider than 4 % of it."""
    polygon = sample.body(name).buffer(0.6)
    fill, cut, _ = measure_volume(sample.surface(9), polygon, accuracy=sample.block(9).accuracy)
    figure = (cut if name == "pit" else fill).quantity
    truth = sample.truth()[name]["volume_m3"]
    assert abs(figure.value - truth) <= 2 * figure.standard_uncertainty
    assert 0.001 * truth < 2 * figure.standard_uncertainty < 0.04 * truth


def test_geojson_is_read_with_its_names_and_reference_systems() -> None:
    ring = [[0, 0], [1, 0], [1, 1], [0, 0]]
    feature = {
        "type": "Feature",
        "properties": {"name": "pit", "drawn_on_survey": True},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    many = {"type": "Feature", "properties": None, "geometry": {"type": "MultiPolygon", "coordinates": [[ring], [ring]]}}
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::4547"}}
    found = shapes_of({"type": "FeatureCollection", "features": [feature, many], "crs": named}, where="f")
    assert [(each.name, each.drawn) for each in found] == [("pit", True), ("2-1", False), ("2-2", False)]
    assert {each.crs.to_epsg() for each in found} == {4547}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "coordinates", "features", "geometry", "properties", "crs", "name", "boundary_sd"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
KINDS = st.sampled_from(["Polygon", "MultiPolygon", "Feature", "FeatureCollection", "Point", "LineString"])


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {"type": KINDS}, optional={"coordinates": JSON, "features": JSON, "geometry": JSON, "properties": JSON, "crs": JSON}
    )
)
def test_hostile_geojson_raises_our_errors_only(document: dict[str, Any]) -> None:
    try:
        for each in shapes_of(document, where="f"):
            read_shape(each.geometry, each.crs, CRS)
    except GeoEvidenceError:
        pass


def test_crossing_and_open_rings_are_refused() -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    for bad in (bow, {"type": "Polygon", "coordinates": []}, {"type": "Point", "coordinates": [0, 0]}):
        with pytest.raises(FormatError):
            read_polygon(transform_geometry(bad, CRS, CRS) if bad is bow else bad, CRS, CRS)
