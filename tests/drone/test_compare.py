"""Two dates: a known shift, tilt and change come back, with errors that cover them; nothing is found where nothing changed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from drone.compare import Change, changed_regions, level_of_detection, measure_change, register
from drone.comparing import compare_surveys
from drone.types import ErrorField, SurfaceModel
from geoevidence.crs import parse_crs
from geoevidence.errors import CoverageError, CrsError
from geoevidence.raster import Grid, Raster, write_cog
from tests.drone import test_measure as sample

SHIFT, TILT = (0.13, -0.08, 0.4), (0.001, -0.0005)
CENTRE = (sample.WEST + 30, sample.NORTH - 22)
Array = NDArray[np.float64]


def _relief(x: Array, y: Array) -> Array:
    return 30 + 1.2 * np.sin((x - sample.WEST) / 3.1) * np.cos((y - sample.NORTH) / 2.3) + 0.02 * (x - sample.WEST)


def _pit(x: Array, y: Array) -> Array:
    return np.minimum(0, -1.5 * (1 - (np.hypot(x - CENTRE[0], y - CENTRE[1]) / 5) ** 2))


def _pair(seed: int, *, sd: tuple[float, float] | None = (0.02, 0.03), change: bool = True) -> tuple[SurfaceModel, SurfaceModel]:
    rng = np.random.default_rng(seed)
    x, y = sample._places(440, 600)
    before = _relief(x, y) + 0.02 * sample._noise(rng, x.shape, 0.5)
    u, v = x - SHIFT[0], y - SHIFT[1]
    after = _relief(u, v) + SHIFT[2] + TILT[0] * (x - CENTRE[0]) + TILT[1] * (y - CENTRE[1])
    after += (_pit(u, v) if change else 0.0) + 0.03 * sample._noise(rng, x.shape, 0.6)
    made = [sample._surface(z, None if sd is None else sd[k]) for k, z in enumerate((before, after))]
    return replace(made[0], correlation_m=0.5), replace(made[1], correlation_m=0.6)


def _changed(seed: int, **changes: object) -> Change:
    return register(*_pair(seed, **changes))  # type: ignore[arg-type]


def test_shift_tilt_and_volume_come_back_within_their_errors() -> None:
    x, y = sample._places(440, 600)
    truth = float(_pit(x, y).sum()) * sample.CELL**2
    polygon = shapely.Point(*CENTRE).buffer(6)
    normed, off = [], []
    for seed in range(5):
        change = _changed(seed)
        reg = change.registration
        here = reg.shift[2] + reg.tilt[0] * (CENTRE[0] - reg.centre[0]) + reg.tilt[1] * (CENTRE[1] - reg.centre[1])
        off.append([(reg.shift[0] - SHIFT[0]) / reg.sd[0], (reg.shift[1] - SHIFT[1]) / reg.sd[1], (here - SHIFT[2]) / reg.sd[2]])
        net = measure_change(change, polygon)[2].quantity
        assert net.standard_uncertainty is not None
        normed.append((net.value - truth) / net.standard_uncertainty)
        assert 0.003 < net.standard_uncertainty / abs(truth) < 0.02
    # 5 and 15 normed errors: their root mean square is 1 within three times 1 / sqrt(2 n); slopes carry interpolation error as well
    assert 0.1 < math.sqrt(float(np.mean(np.square(normed)))) < 1.95
    assert 0.45 < math.sqrt(float(np.mean(np.square(off)))) < 1.9


def test_a_surface_without_errors_is_judged_from_stable_ground() -> None:
    stated, bare = _changed(3), _changed(3, sd=None)
    polygon = shapely.Point(*CENTRE).buffer(6)
    one, other = (measure_change(c, polygon)[2] for c in (stated, bare))
    assert bare.empirical and not stated.empirical
    assert other.quantity.standard_uncertainty == pytest.approx(one.quantity.standard_uncertainty, rel=0.3)
    assert any(limit.id == "drone.limit_error_from_stable_ground" for limit in other.limitations)


def test_only_what_changed_is_found() -> None:
    for change, expected in ((_changed(5), 1), (_changed(6, change=False), 0)):
        regions = changed_regions(change, level_of_detection(change))
        assert len(regions) == expected
        if expected:
            found = regions[0]
            true = shapely.Point(*CENTRE).buffer(5)
            assert found.intersection(true).area / found.union(true).area > 0.85


def test_errors_that_both_places_share_cancel() -> None:
    """A field that only lifts the whole block leaves no error in a volume of change; one that bends it does."""
    before, after = _pair(1)
    polygon = shapely.Point(*CENTRE).buffer(6)
    shape = (1, 4, 5, 3)
    lift, bend = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    lift[..., 2] = 0.5
    bend[0, 1:3, 1:4, 2] = 0.05
    sizes = []
    for factor in (lift, bend):
        field = ErrorField(origin=(sample.WEST, sample.NORTH - 44), spacing=(15.0, 15.0), factor=factor)
        zero = replace(field, factor=np.zeros(shape, np.float32))
        change = register(replace(before, error_field=zero), replace(after, error_field=field))
        parts = {p.kind: p.standard_uncertainty for p in measure_change(change, polygon)[2].contributions}
        sizes.append(parts["block"])
    assert sizes[0] < 1e-3 * 0.5 * polygon.area
    assert sizes[1] > 0.2 * 0.05 * polygon.area


def test_what_cannot_be_compared_is_refused() -> None:
    before, after = _pair(0)
    there = parse_crs("EPSG:32650")
    grid = replace(after.raster.grid, crs=there)
    with pytest.raises(CrsError):
        register(before, replace(after, raster=replace(after.raster, grid=grid)))
    t = after.raster.grid.transform
    away = Grid(shape=after.raster.grid.shape, transform=t.translation(1000, 0) @ t, crs=sample.CRS)
    with pytest.raises(CoverageError) as caught:
        register(before, replace(after, raster=replace(after.raster, grid=away), standard_uncertainty=None))
    assert caught.value.message_id == "drone.no_common_ground"
    x, y = sample._places(440, 600)
    with pytest.raises(CoverageError) as caught:
        register(before, after, changed=[shapely.box(x.min() - 1, y.min() - 1, x.max() + 1, y.max() + 1)])
    assert caught.value.message_id in ("drone.no_stable_ground", "drone.no_common_ground")


def test_a_comparison_is_a_result_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name, surface in zip(("before.tif", "after.tif"), _pair(2), strict=True):
        raster: Raster = surface.raster
        write_cog(tmp_path / name, raster, tags={"HEIGHT_KIND": "ellipsoidal"})
    results = [compare_surveys(tmp_path / "before.tif", tmp_path / "after.tif", out=tmp_path / out) for out in ("a", "b")]
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    record = json.loads((tmp_path / "a" / "comparison.json").read_text("utf-8"))
    assert float(record["registration"]["shift"][0]) == pytest.approx(SHIFT[0], abs=0.02)
    assert len(record["changes"]) == 1 and record["noise"]["from"] == "stable_ground"
    assert results[0].findings[1].quantity is not None and results[0].findings[1].quantity.standard_uncertainty is not None
    assert {gap.id for gap in results[0].gaps} == {"drone.gap_no_pictures"}
