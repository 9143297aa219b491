"""Sums over correlated cells, over an error field, over former ground; the field on disk; the photos that saw a place."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drone.bases import FormerGround, rim_cells
from drone.errorfield import read_error_field, write_error_field
from drone.measure import measure_area, measure_height, measure_length, measure_point, measure_profile, measure_volume
from drone.propagation import Kernel, bilinear, correlation, cut_patch, field_sum, spread_of
from drone.sight import TablePhoto, photos_of_place, photos_of_shape
from drone.types import Camera, ErrorField, Pose
from geoevidence.errors import CoverageError, FormatError
from tests.drone import test_measure as sample

Array = NDArray[np.float64]


def _field(seed: int, modes: int = 4) -> ErrorField:
    factor = 0.05 * np.random.default_rng(seed).standard_normal((modes, 5, 6, 3))
    return ErrorField(origin=(sample.WEST - 5, sample.NORTH - 35), spacing=(10.0, 9.0), factor=factor.astype(np.float32))


@pytest.mark.parametrize("kernel", ["gaussian", "matern", "exponential"])
@pytest.mark.parametrize("reach", [0.7, 3.0, 17.0])
def test_spread_is_the_double_sum(kernel: Kernel, reach: float) -> None:
    c = np.random.default_rng(1).normal(0.3, 1, (23, 31))
    y, x = (part.ravel() for part in np.mgrid[:23, :31])
    d = np.hypot(np.subtract.outer(x, x), np.subtract.outer(y, y))
    exact = math.sqrt(c.ravel() @ correlation(d / reach, kernel) @ c.ravel())
    # blocks of a fifth of the range stand for their cells: 2 % of the standard deviation
    assert spread_of(c, reach, kernel=kernel) == pytest.approx(exact, rel=0.02 if reach > 5 else 1e-3)


def test_sums_over_a_field_are_those_of_its_places() -> None:
    field, rng = _field(2), np.random.default_rng(3)
    x, y = sample.WEST + rng.uniform(-20, 70, 50), sample.NORTH + rng.uniform(-60, 20, 50)
    along = tuple(rng.normal(0, 1, 50) for _ in range(3))
    exact = sum(np.einsum("n,nk->k", w, field.at(np.column_stack([x, y]))[:, axis]) for axis, w in enumerate(along))
    np.testing.assert_allclose(field_sum(field, x, y, along), exact, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize(("axis", "form"), [(0, 2), (1, 3), (2, 4)])
def test_figures_follow_the_field_as_they_do_when_it_is_applied(axis: int, form: int) -> None:
    """A stretch, a twist and a bend, applied to ground and polygon alike, move area and volume by what the propagation says."""
    x, y = sample._places()
    # on fine nodes, as between nodes a field is linear and its growth of area jumps
    row, column = np.mgrid[:41, :51] / 10.0
    forms = (np.ones(row.shape), row - 2, column - 2, (row - 2) * (column - 2), (column - 2) ** 2)
    factor = np.zeros((1, 41, 51, 3), np.float32)
    factor[0, ..., axis] = 0.02 * forms[form]
    field = ErrorField(origin=(sample.WEST - 5, sample.NORTH - 35), spacing=(1.0, 0.9), factor=factor)

    def ground(u: Array, v: Array) -> Array:
        return np.asarray(30 + 0.05 * (u - sample.WEST) + sample._cone(u, v))

    still = replace(sample._surface(ground(x, y), 0.0), correlation_m=0.5, error_field=field)
    # the surface after the mode: place p shows what lay at q with q + e(q) = p
    p = np.column_stack([x.ravel(), y.ravel()])
    q = p.copy()
    for _ in range(6):
        q = p - field.at(q)[:, :2, 0]
    z = (ground(q[:, 0], q[:, 1]) + field.at(q)[:, 2, 0]).reshape(x.shape)
    ring = shapely.segmentize(sample.RING, 0.3)
    outline = np.asarray(ring.exterior.coords)
    there = shapely.Polygon(outline + field.at(outline)[:, :2, 0])
    for height in (None, 29.0):
        common: dict[str, Any] = {"accuracy": sample._accuracy(), "vertex_sd": 0.0, "base_height": height}
        common["base"] = "rim" if height is None else "horizontal"
        before = measure_volume(still, ring, **common)[2]
        after = measure_volume(sample._surface(z, 0.0), there, **common)[2]
        block = next(part.standard_uncertainty for part in before.contributions if part.kind == "block")
        # second order in the field: (0.02 m / 8 m) of 75 to 300 m3 times itself, 2e-3; heights as float32: 5e-4
        assert abs(after.quantity.value - before.quantity.value) == pytest.approx(block, abs=2.5e-3)
        assert block > 0.03
    area = measure_area(ring, crs=sample.CRS, surface=still, accuracy=sample._accuracy(), vertex_sd=0.0)
    block = next(part.standard_uncertainty for part in area.contributions if part.kind == "block")
    assert abs(there.area - ring.area) == pytest.approx(block, abs=1e-3)


def test_places_heights_and_lengths() -> None:
    x, _ = sample._places()
    surface = replace(sample._surface(30 + 0.2 * (x - sample.WEST), 0.03), correlation_m=0.5, error_field=_field(5))
    line = shapely.LineString([(sample.WEST + 5, sample.NORTH - 10), (sample.WEST + 15, sample.NORTH - 10)])
    accuracy = sample._accuracy()
    east, north, height = measure_point(surface, shapely.Point(line.coords[0]), accuracy=accuracy, vertex_sd=0.1)
    assert height.quantity.value == pytest.approx(31.0, abs=1e-4) and east.quantity.value == sample.WEST + 5
    parts = {p.kind: p.standard_uncertainty for p in height.contributions}
    spot = surface.error_field.at(np.array([line.coords[0]]))[0]  # type: ignore[union-attr]
    assert parts["block"] == pytest.approx(float(np.linalg.norm(spot[2])), rel=1e-6)
    assert parts["boundary"] == pytest.approx(0.02, rel=1e-3) and parts["noise"] == pytest.approx(0.03, rel=1e-3)
    assert north.quantity.standard_uncertainty == pytest.approx(math.hypot(0.1, float(np.linalg.norm(spot[1]))), rel=1e-6)
    rise = measure_height(surface, line, accuracy=accuracy, vertex_sd=0.0)
    assert rise.quantity.value == pytest.approx(2.0, abs=1e-4)
    noise = next(p.standard_uncertainty for p in rise.contributions if p.kind == "noise")
    assert noise == pytest.approx(0.03 * math.sqrt(2), rel=1e-3)
    flat, sloped = measure_length(surface, line, accuracy=accuracy, vertex_sd=0.1)
    assert flat.quantity.value == pytest.approx(10, rel=2e-5) and sloped.quantity.value == pytest.approx(
        math.hypot(10, 2), rel=2e-5
    )
    assert next(p.standard_uncertainty for p in flat.contributions if p.kind == "boundary") == pytest.approx(
        0.1 * math.sqrt(2), rel=1e-6
    )
    profile = measure_profile(surface, line, accuracy=accuracy)
    assert profile.distance[-1] == pytest.approx(10, rel=2e-5) and profile.height[0] == pytest.approx(31, abs=1e-4)
    assert profile.standard_uncertainty is not None and np.isfinite(profile.standard_uncertainty).all()
    with pytest.raises(CoverageError):
        measure_point(surface, shapely.Point(sample.WEST - 50, sample.NORTH), accuracy=accuracy)
    bare = measure_length(sample._surface(np.full(x.shape, 3.0), None), line, accuracy=None)[0]
    assert bare.quantity.standard_uncertainty is None and bare.contributions == ()


def test_contributions_add_up_to_the_error() -> None:
    x, y = sample._places()
    surface = replace(sample._surface(30 + sample._cone(x, y), 0.02), correlation_m=0.5, error_field=_field(6))
    for base in ("rim", "lowest", "triangulated"):
        for part in measure_volume(surface, sample.RING, accuracy=sample._accuracy(focal_sd=0.002), base=base, shift_sd=0.05):  # type: ignore[arg-type]
            total = math.sqrt(sum(each.standard_uncertainty**2 for each in part.contributions))
            assert part.quantity.standard_uncertainty == pytest.approx(total, rel=1e-12)
    net = measure_volume(surface, sample.RING, accuracy=sample._accuracy(focal_sd=0.002), base="triangulated")[2]
    assert net.quantity.value == pytest.approx(sample.CONE, rel=1e-3)
    plane = (sample.WEST + 20, sample.NORTH - 15, 29.5, 0.0, 0.0)
    given = measure_volume(surface, sample.RING, accuracy=sample._accuracy(), base="plane", base_plane=plane)[2]
    assert given.quantity.value == pytest.approx(sample.CONE + 0.5 * sample.RING.area, rel=1e-3)


def test_former_ground_that_nobody_measured_is_judged_from_its_rim() -> None:
    """Smooth relief goes on below a body: its departure from the plane of the rim is as large as is stated."""
    normed = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        relief = 0.08 * sample._noise(rng, (300, 400), 5.0) + 0.01 * sample._noise(rng, (300, 400), 0.4)
        surface = sample._surface(30 + relief, None)
        patch = cut_patch(surface.raster.grid, surface.raster.data[0], None, sample.RING)
        on = patch.rim > 0
        design = np.column_stack([np.ones(on.sum()), patch.x[on], patch.y[on]])
        solver = np.linalg.pinv(design)
        plane = solver @ patch.z[on]
        level = plane[0] + plane[1] * patch.x + plane[2] * patch.y
        cells = rim_cells(patch, sample.RING, 60)
        former = FormerGround.of_rim(patch, cells, (patch.z - level).ravel()[cells], None, 0.1)
        weight = patch.share * patch.cell_area
        c = weight.copy()
        c[on] -= np.array([weight.sum(), (weight * patch.x).sum(), (weight * patch.y).sum()]) @ solver
        off = float(np.sum(weight * (patch.z - level)))
        normed.append(off / former.spread(c, patch.cell))
    # root mean square of 24: 1 within 43 % (three sd); the rim is only a ring, so size and length are known to a third
    assert 0.45 < math.sqrt(float(np.mean(np.square(normed)))) < 1.6


def test_a_field_on_disk_is_the_same_field(tmp_path: Path) -> None:
    field = _field(7)
    for name in ("a.npz", "b.npz"):
        write_error_field(tmp_path / name, field)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = read_error_field(tmp_path / "a.npz")
    assert read.origin == field.origin and read.spacing == field.spacing
    np.testing.assert_array_equal(read.factor, field.factor)
    np.savez(tmp_path / "c.npz", origin=np.zeros(2), spacing=np.array([1.0, -1.0]), factor=field.factor)
    np.savez(tmp_path / "d.npz", origin=np.array([{}, {}], object), spacing=np.ones(2), factor=field.factor)
    for bad in ("c.npz", "d.npz", "missing.npz"):
        with pytest.raises(FormatError):
            read_error_field(tmp_path / bad)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=6))
def test_damaged_fields_raise_our_errors_only(tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "field.npz"
    write_error_field(path, _field(8, modes=1))
    raw = bytearray(path.read_bytes())
    at = min(at, len(raw) - 1)
    raw[at : at + len(junk)] = junk
    path.write_bytes(bytes(raw))
    with contextlib.suppress(FormatError):
        read_error_field(path)


def test_photos_that_saw_a_place() -> None:
    """Three photos above: one sees it, one looks elsewhere, one stands behind a wall."""
    x, _ = sample._places()
    z = np.where(np.abs(x - sample.WEST - 25) < 0.5, 45.0, 30.0)
    surface = sample._surface(z)
    camera = Camera(
        id="c", model="SIMPLE_RADIAL", params=(500.0, 300.0, 200.0, 0.0), size=(600, 400), make_model="", focal_prior=None
    )
    down = np.diag([1.0, -1.0, -1.0])
    table = tuple(
        TablePhoto(value=k, name=f"P{k}", sha256="0" * 64, camera=camera, pose=Pose(R=down, C=np.array(c)))
        for k, c in enumerate(
            [
                (sample.WEST + 20, sample.NORTH - 15, 60.0),
                (sample.WEST + 200, sample.NORTH - 15, 60.0),
                (sample.WEST + 30, sample.NORTH - 15, 50.0),
            ],
            start=1,
        )
    )
    place = (sample.WEST + 22.0, sample.NORTH - 14.0)
    seen = photos_of_place(table, surface, place)
    assert [each.name for each in seen] == ["P1"]
    # 2 m east and 1 m north of the camera, 30 m below it, 500 px
    assert seen[0].pixel == pytest.approx((300 + 2 / 30 * 500, 200 - 1 / 30 * 500), abs=1e-6)
    shares = {
        photo.name: share for photo, share in photos_of_shape(table, surface, shapely.box(*place, place[0] + 1, place[1] + 1))
    }
    assert shares == {"P1": 1.0}
    assert photos_of_place(table, surface, (sample.WEST - 100, sample.NORTH)) == ()


def test_bilinear_is_exact_on_planes_and_empty_beside_holes() -> None:
    x, y = sample._places(20, 30)
    z = 3 + 0.5 * (x - sample.WEST) - 0.25 * (y - sample.NORTH)
    z[10, 10] = np.nan
    grid = sample._surface(z).raster.grid
    spots = np.array(
        [[sample.WEST + 0.43, sample.NORTH - 0.77], [sample.WEST + 1.02, sample.NORTH - 1.02], [sample.WEST, sample.NORTH]]
    )
    found = bilinear(grid, z, spots)
    assert found[0] == pytest.approx(3 + 0.215 + 0.1925) and np.isnan(found[1:]).all()
