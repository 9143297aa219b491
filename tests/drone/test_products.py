"""The files of a survey: what the accuracy record holds, and what the bands of an uncertainty raster mean."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine

from drone.errorfield import height_sd
from drone.measure import ErrorModel, MeasureConfig, measure_point
from drone.ortho import Orthomosaic
from drone.products import ResultFolder, accuracy_record, read_accuracy, read_surface, write_rasters
from drone.surveyed import read_bare_surface
from drone.types import AccuracyReport, ErrorField, PointResidual, SurfaceModel
from geoevidence.errors import FormatError
from geoevidence.raster import Grid, Raster, open_strict, read_raster, write_cog
from geoevidence.trust import canonical
from tests.drone import sample_block as sample

_GRID = Grid(shape=(60, 80), transform=Affine(0.5, 0, 403500, 0, -0.5, 3320500), crs=sample.parse_crs("EPSG:4547"))


def _field(rows: int = 5, columns: int = 4, modes: int = 7) -> ErrorField:
    rng = np.random.default_rng(3)
    # a part of the grid lies outside its nodes on either side
    return ErrorField(
        origin=(403505.0, 3320474.0),
        spacing=(8.0, 5.0),
        factor=rng.normal(0, 0.03, (modes, rows, columns, 3)).astype(np.float32),
    )


def _raster(values: np.ndarray, unit: str = "m") -> Raster:
    return Raster(data=np.asarray(values, np.float32).reshape(-1, *_GRID.shape), grid=_GRID, nodata=float("nan"), unit=unit)


def _surface(field: ErrorField | None) -> SurfaceModel:
    rng = np.random.default_rng(4)
    noise = rng.uniform(0.005, 0.03, _GRID.shape)
    noise[:10, :15] = np.nan
    heights = np.where(np.isnan(noise), np.nan, 20.0)
    return SurfaceModel(
        raster=_raster(heights),
        kind="dsm",
        height_kind="ellipsoidal",
        standard_uncertainty=_raster(noise),
        density=None,
        correlation_m=0.7,
        error_field=field,
        stretch_sd=0.016,
    )


def _written(folder: Path, surface: SurfaceModel) -> None:
    colours = Raster(data=np.full((4, *_GRID.shape), 255, np.uint8), grid=_GRID)
    sources = Raster(data=np.ones((2, *_GRID.shape), np.uint16), grid=_GRID)
    mosaic = Orthomosaic(raster=colours, sources=sources, photos=("a",), gains={"a": (1.0, 1.0, 1.0)}, fall_off={})
    terrain = replace(surface, kind="dtm", standard_uncertainty=_raster(2 * surface.standard_uncertainty.data))  # type: ignore[union-attr]
    write_rasters(ResultFolder(folder, synthetic=False), surface, mosaic, terrain)


def _record(tmp_path: Path, report: AccuracyReport) -> tuple[Path, dict]:
    record = accuracy_record(replace(sample.block(4), accuracy=report))
    path = tmp_path / "accuracy.json"
    path.write_bytes(canonical.dumps(record))
    return path, record


_REPORT = AccuracyReport(
    reprojection_rmse=0.41,
    gsd=0.05,
    ground_points=(PointResidual(name="C1", role="check", residual=(0.01, -0.02, 0.03), photos=5),),
    check_rmse_horizontal=0.022,
    check_rmse_vertical=0.03,
    gps_rmse_horizontal=1.2,
    gps_rmse_vertical=2.3,
    control="ground_points",
    position_sd=(0.01, 0.012, 0.02),
    scale_sd=1e-4,
    focal_sd=2e-4,
    reprojection_mean=0.33,
    held_out_rmse=0.52,
    held_out_observations=1234,
    rolling_shutter=(0.31, 0.04),
)


def test_every_field_of_the_accuracy_enters_the_record_and_comes_back(tmp_path: Path) -> None:
    path, record = _record(tmp_path, _REPORT)
    assert {part.name for part in fields(AccuracyReport)} - {"not_recorded"} <= set(record)
    assert read_accuracy(path) == _REPORT
    # none of them is left at its default above, so that a field that is forgotten shows
    assert all(getattr(_REPORT, part.name) != part.default for part in fields(AccuracyReport) if part.name != "not_recorded")


def test_an_older_record_says_what_it_does_not_hold(tmp_path: Path) -> None:
    path, record = _record(tmp_path, _REPORT)
    later = ("reprojection_mean", "held_out_rmse", "held_out_observations", "rolling_shutter")
    path.write_bytes(canonical.dumps({name: value for name, value in record.items() if name not in later}))
    found = read_accuracy(path)
    assert set(found.not_recorded) == set(later)
    assert all(getattr(found, name) is None for name in later)
    assert replace(found, not_recorded=(), **{name: getattr(_REPORT, name) for name in later}) == _REPORT
    # recorded, and there were none
    path, _ = _record(tmp_path, replace(_REPORT, held_out_rmse=None, held_out_observations=0, rolling_shutter=None))
    found = read_accuracy(path)
    assert found.not_recorded == () and found.held_out_observations == 0 and found.rolling_shutter is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("held_out_observations", "12"), ("held_out_observations", -1), ("rolling_shutter", ["0.3"]), ("control", None)],
)
def test_a_damaged_record_is_refused(tmp_path: Path, name: str, value: object) -> None:
    path, record = _record(tmp_path, _REPORT)
    if name == "control":
        del record["control"]
    else:
        record[name] = value
    path.write_bytes(canonical.dumps(record))
    with pytest.raises(FormatError):
        read_accuracy(path)


@pytest.mark.parametrize("shape", [(5, 4), (1, 4), (5, 1), (1, 1)])
def test_height_error_of_cells_is_that_of_the_field(shape: tuple[int, int]) -> None:
    field = _field(*shape)
    rows, cols = np.mgrid[: _GRID.shape[0], : _GRID.shape[1]]
    places = np.column_stack(_GRID.transform @ (cols.ravel() + 0.5, rows.ravel() + 0.5))
    expected = np.sqrt((field.at(places)[:, 2] ** 2).sum(axis=1)).reshape(_GRID.shape)
    np.testing.assert_allclose(height_sd(field, _GRID), expected, rtol=1e-5)


def test_band_1_is_the_whole_error_and_band_2_the_noise(tmp_path: Path) -> None:
    surface = _surface(_field())
    _written(tmp_path, surface)
    for name, factor in (("dsm", 1.0), ("dtm", 2.0)):
        written = read_raster(tmp_path / f"{name}_uncertainty.tif")
        noise = factor * surface.standard_uncertainty.data[0]  # type: ignore[union-attr]
        np.testing.assert_array_equal(written.data[1], noise)
        np.testing.assert_allclose(written.data[0], np.hypot(noise, height_sd(_field(), _GRID)), rtol=1e-6)
        with open_strict(tmp_path / f"{name}_uncertainty.tif") as dataset:
            assert dataset.descriptions == ("standard_uncertainty", "matching_noise") and set(dataset.units) == {"m"}
            tags = dataset.tags()
            assert "block" in tags["BAND_1"] and "noise alone" in tags["BAND_2"] and float(tags["CORRELATION_M"]) == 0.7
            assert float(tags["STRETCH_SD"]) == 0.016
    back = read_surface(tmp_path / "dsm.tif", tmp_path / "dsm_uncertainty.tif")
    np.testing.assert_array_equal(back.standard_uncertainty.data, surface.standard_uncertainty.data)  # type: ignore[union-attr]
    assert back.error_field is None


def test_where_the_rest_is_not_known_the_raster_says_that_it_is_noise(tmp_path: Path) -> None:
    surface = _surface(None)
    _written(tmp_path, surface)
    with open_strict(tmp_path / "dsm_uncertainty.tif") as dataset:
        assert dataset.descriptions == ("matching_noise",)
    site = read_bare_surface(tmp_path / "dsm.tif", uncertainty=tmp_path / "dsm_uncertainty.tif")
    assert site.surface.error_field is None and site.surface.correlation_m == 0.7
    model = ErrorModel.of(site.surface, None, MeasureConfig())
    assert model is not None and [limit.id for limit in model.limits] == ["drone.limit_no_block_errors"]


def test_a_bare_surface_with_the_raster_of_a_survey_states_the_whole_error_of_a_height(tmp_path: Path) -> None:
    surface = _surface(_field())
    _written(tmp_path, surface)
    site = read_bare_surface(tmp_path / "dsm.tif", uncertainty=tmp_path / "dsm_uncertainty.tif")
    np.testing.assert_array_equal(site.surface.standard_uncertainty.data, surface.standard_uncertainty.data)  # type: ignore[union-attr]
    row, col = 30, 40
    place = shapely.Point(*(_GRID.transform @ (col + 0.5, row + 0.5)))
    total = float(read_raster(tmp_path / "dsm_uncertainty.tif").data[0, row, col])
    heights = [m for m in measure_point(site.surface, place, accuracy=None, vertex_sd=0.0) if m.kind == "height"]
    assert heights[0].quantity.standard_uncertainty == pytest.approx(total, rel=0.02)
    assert "drone.limit_block_as_one" in {limit.id for limit in heights[0].limitations}
    # what a wrong focal length does to heights above the ground around them comes with the file too
    model = ErrorModel.of(site.surface, None, MeasureConfig())
    assert model is not None and model.focal_sd == 0.016
    # one band from elsewhere is noise of the cells
    write_cog(tmp_path / "one.tif", _raster(np.full(_GRID.shape, 0.05)))
    other = read_bare_surface(tmp_path / "dsm.tif", uncertainty=tmp_path / "one.tif").surface
    assert (
        other.error_field is None
        and other.stretch_sd is None
        and float(other.standard_uncertainty.data.max()) == np.float32(0.05)
    )  # type: ignore[union-attr]
    for tag, message in (("CORRELATION_M", "drone.bad_correlation"), ("STRETCH_SD", "drone.bad_stretch")):
        write_cog(tmp_path / "tagged.tif", _raster(np.full(_GRID.shape, 0.05)), tags={tag: "-1"})
        with pytest.raises(FormatError) as caught:
            read_bare_surface(tmp_path / "dsm.tif", uncertainty=tmp_path / "tagged.tif")
        assert caught.value.message_id == message
    write_cog(tmp_path / "three.tif", _raster(np.zeros((3, *_GRID.shape))))
    with pytest.raises(FormatError) as caught:
        read_bare_surface(tmp_path / "dsm.tif", uncertainty=tmp_path / "three.tif")
    assert caught.value.message_id == "drone.uncertainty_bands"
