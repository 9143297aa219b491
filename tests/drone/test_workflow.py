"""The whole way: photos -> folder of products and findings; measuring on it; refusing what cannot be used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely.geometry

from drone.dense import DenseConfig
from drone.products import ResultFolder, accuracy_record, read_accuracy, read_surface, shaded_relief, write_cloud, write_rasters
from drone.sfm import SfmConfig
from drone.workflow import (
    SurveyConfig,
    figures_again,
    measure_polygons,
    survey,
)
from geoevidence.errors import ConfigError, CoverageError, FormatError, InputError
from geoevidence.raster import open_strict, read_raster
from geoevidence.trust import canonical
from geoevidence.types import Message, ProcessResult
from tests.drone import sample_block as sample

SHARED = Path(os.environ.get("GEOEVIDENCE_SHARED", Path(__file__).parents[3] / "shared"))
BRIGHTON = SHARED / "data" / "drone" / "brighton_beach" / "images"


@pytest.fixture(scope="session")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProcessResult]:
    """The demonstration flight with its control and check points, surveyed once."""
    out = tmp_path_factory.mktemp("survey") / "out"
    flight = sample.SAMPLES / "flight"
    result = survey(
        flight,
        out=out,
        gcp=flight / "gcp_list.txt",
        checks=flight / "check_list.txt",
        polygons=sample.SAMPLES / "polygons.geojson",
    )
    return out, result


@pytest.mark.slow
def test_the_result_lists_every_file_and_reads_back(surveyed: tuple[Path, ProcessResult]) -> None:
    out, result = surveyed
    assert ProcessResult.read(out) == result
    kinds = {product.kind for product in result.products}
    assert kinds == {
        *("accuracy", "cloud", "dsm", "dsm_uncertainty", "measurement", "measurement_geojson", "mesh", "orthomosaic"),
        *("preview", "sources"),
    }
    assert result.synthetic and all(finding.synthetic for finding in result.findings)
    assert result.parameters["gcp"].startswith("sha256:")
    assert "threads" not in json.dumps(canonical.loads_canonical((out / "result.json").read_bytes())["parameters"])
    for finding in result.findings:
        for name in finding.products:
            assert (out / name).is_file()
        for lang in ("zh", "en"):
            assert finding.message.render(lang) and "{" not in finding.message.render(lang)
            assert all(limit.render(lang) for limit in finding.limitations)


@pytest.mark.slow
def test_the_figures_come_out_again_from_the_surface(surveyed: tuple[Path, ProcessResult], tmp_path: Path) -> None:
    out, result = surveyed
    stated = {finding.id: finding.quantity for finding in result.findings if finding.quantity is not None}
    assert figures_again(result, products=out, inputs=sample.SAMPLES) == stated and len(stated) == 7
    # and a measurement made on the survey, from its recorded parameters
    polygon = sample.SAMPLES / "polygons.geojson"
    measured = measure_polygons(out, out=tmp_path / "measured", polygon=polygon)
    inputs = tmp_path / "inputs"
    shutil.copytree(out, inputs / "derived")
    shutil.copy(polygon, inputs / "polygons.geojson")
    again = figures_again(measured, products=tmp_path / "measured", inputs=inputs)
    assert again == {finding.id: finding.quantity for finding in measured.findings}
    (inputs / "polygons.geojson").unlink()
    with pytest.raises(InputError):
        figures_again(measured, products=tmp_path / "measured", inputs=inputs)


@pytest.mark.slow
def test_stated_figures_hold_the_truth(surveyed: tuple[Path, ProcessResult]) -> None:
    """Areas and volumes of pit and pile from photos with errors in position, clock and lens."""
    _, result = surveyed
    truth = sample.truth()
    polygons = {
        f["properties"]["name"]: shapely.geometry.shape(f["geometry"])
        for f in json.loads((sample.SAMPLES / "polygons.geojson").read_text("utf-8"))["features"]
    }
    assert set(polygons) == {"pit", "pile"}
    for finding in result.findings:
        values = finding.message.values
        if finding.message.id == "drone.finding_volume":
            figure = values["cut"] if values["name"] == "pit" else values["fill"]
            expected = truth[values["name"]]["volume_m3"]
            assert abs(figure.value - expected) <= 2.5 * figure.standard_uncertainty
            assert 0.002 * expected < figure.standard_uncertainty < 0.05 * expected
        if finding.message.id == "drone.finding_area":
            # The polygon is drawn 0.6 m outside the body.
            expected = sample.body(values["name"]).buffer(0.6).area
            assert values["area"].value == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_heights_agree_with_the_truth_after_the_whole_way(surveyed: tuple[Path, ProcessResult]) -> None:
    out, _ = surveyed
    surface = read_surface(out / "dsm.tif", out / "dsm_uncertainty.tif")
    z = surface.raster.data[0]
    rows, cols = np.nonzero(np.isfinite(z))
    x, y = surface.raster.grid.transform @ (cols + 0.5, rows + 0.5)
    error = z[rows, cols] - sample.true_heights(x, y)
    land = np.isfinite(error) & (z[rows, cols] > sample.truth()["water"]["level"] + 0.3)
    report = read_accuracy(out / "accuracy.json")
    assert 0.05 * report.gsd < 1.4826 * np.median(np.abs(error[land] - np.median(error[land]))) < report.gsd
    # The block lies within its stated position error (three standard deviations) of the truth.
    assert abs(np.median(error[land])) < 3 * max(report.position_sd[2], 0.01)


@pytest.mark.slow
def test_measuring_on_a_survey_gives_the_same_figures(surveyed: tuple[Path, ProcessResult], tmp_path: Path) -> None:
    out, result = surveyed
    again = measure_polygons(out, out=tmp_path / "m", polygon=sample.SAMPLES / "polygons.geojson")
    wanted = {f.message.values["name"]: f for f in result.findings if f.message.id == "drone.finding_volume"}
    found = {f.message.values["name"]: f for f in again.findings if f.message.id == "drone.finding_volume"}
    for name, finding in found.items():
        # Heights pass through float32 files; the figures are the same.
        assert finding.quantity.value == pytest.approx(wanted[name].quantity.value, rel=1e-6)
        assert finding.quantity.standard_uncertainty == pytest.approx(wanted[name].quantity.standard_uncertainty, rel=1e-4)
    bare = measure_polygons(
        None, dsm=out / "dsm.tif", out=tmp_path / "bare", polygon=sample.SAMPLES / "polygons.geojson", base="lowest"
    )
    assert all(finding.quantity.standard_uncertainty is None for finding in bare.findings)


@pytest.mark.slow
def test_the_cloud_is_a_fixed_las_file(tmp_path: Path) -> None:
    import laspy

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_cloud(ResultFolder(tmp_path / name, synthetic=True), sample.cloud(9), sample.block(9).flight.crs)
    assert (tmp_path / "a" / "cloud.laz").read_bytes() == (tmp_path / "b" / "cloud.laz").read_bytes()
    las = laspy.read(tmp_path / "a" / "cloud.laz")
    assert las.header.parse_crs().to_epsg() == 4547
    # Stored to the millimetre.
    np.testing.assert_allclose(np.column_stack([las.x, las.y, las.z]), sample.cloud(9).points, atol=5.1e-4)
    np.testing.assert_array_equal(np.asarray(las.user_data), sample.cloud(9).views)


@pytest.mark.slow
def test_rasters_carry_grid_unit_and_mark(tmp_path: Path) -> None:
    write_rasters(ResultFolder(tmp_path, synthetic=True), sample.surface(9), sample.mosaic(9))
    dsm = read_raster(tmp_path / "dsm.tif")
    assert dsm.grid.matches(sample.surface(9).raster.grid) and dsm.unit == "m"
    np.testing.assert_array_equal(dsm.data, sample.surface(9).raster.data)
    with open_strict(tmp_path / "orthomosaic.tif") as dataset:
        assert dataset.count == 4 and dataset.tags()["SYNTHETIC"] == "YES" and dataset.descriptions[3] == "alpha"


def test_the_accuracy_record_reads_back(tmp_path: Path) -> None:
    block = sample.block(4)
    record = accuracy_record(block)
    (tmp_path / "accuracy.json").write_bytes(canonical.dumps(record))
    assert read_accuracy(tmp_path / "accuracy.json") == block.accuracy
    assert [entry["value"] for entry in record["photos"]] == [1, 2, 3, 4]
    (tmp_path / "accuracy.json").write_bytes(canonical.dumps({"schema": "geoevidence.accuracy.v1"}))
    with pytest.raises(FormatError):
        read_accuracy(tmp_path / "accuracy.json")


def test_relief_shows_unknown_as_empty() -> None:
    from affine import Affine

    from geoevidence.raster import Grid, Raster

    z = np.add.outer(np.arange(20.0), np.arange(30.0))
    z[5:8, 5:8] = np.nan
    grid = Grid(shape=z.shape, transform=Affine(1, 0, 0, 0, -1, 0), crs=sample.block(4).flight.crs)
    picture = shaded_relief(Raster(data=z[None].astype(np.float32), grid=grid, nodata=float("nan")))
    assert np.array_equal(picture.data[3] == 0, np.isnan(z))
    # Light comes from the north-west: ground that falls towards it is brighter than ground that falls away.
    falling = shaded_relief(Raster(data=-z[None].astype(np.float32), grid=grid, nodata=float("nan")))
    assert falling.data[:3, 10, 15].sum() != picture.data[:3, 10, 15].sum()


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    polygons = sample.SAMPLES / "polygons.geojson"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(InputError) as caught:
        survey(sample.SAMPLES / "flight", out=tmp_path / "full")
    assert caught.value.message_id == "drone.out_not_empty"
    with pytest.raises(InputError):
        measure_polygons(None, out=tmp_path / "a", polygon=polygons)
    with pytest.raises(ConfigError):
        measure_polygons(
            None, dsm=sample.SAMPLES / "truth" / "dsm.tif", out=tmp_path / "b", polygon=polygons, base="horizontal:high"
        )
    (tmp_path / "bad.geojson").write_text("{")
    with pytest.raises(FormatError):
        measure_polygons(None, dsm=sample.SAMPLES / "truth" / "dsm.tif", out=tmp_path / "c", polygon=tmp_path / "bad.geojson")
    far = {"type": "Polygon", "coordinates": [[[115, 31], [115.001, 31], [115.001, 31.001], [115, 31]]]}
    (tmp_path / "far.geojson").write_text(json.dumps(far))
    with pytest.raises(CoverageError):
        measure_polygons(None, dsm=sample.SAMPLES / "truth" / "dsm.tif", out=tmp_path / "d", polygon=tmp_path / "far.geojson")


def test_a_bare_surface_model_is_measured_without_errors(tmp_path: Path) -> None:
    """The true surface, 0.25 m posts: the volumes are the true ones to the size of its cells, and no error is claimed."""
    result = measure_polygons(
        None, dsm=sample.SAMPLES / "truth" / "dsm.tif", out=tmp_path / "m", polygon=sample.SAMPLES / "polygons.geojson"
    )
    for finding in result.findings:
        assert finding.quantity.standard_uncertainty is None
        assert any(limit.id == "drone.limit_no_accuracy" for limit in finding.limitations)
        if finding.message.id == "drone.finding_volume":
            name = finding.message.values["name"]
            figure = finding.message.values["cut" if name == "pit" else "fill"]
            assert figure.value == pytest.approx(sample.truth()[name]["volume_m3"], rel=0.01)
    features = json.loads((tmp_path / "m" / "measurements.geojson").read_text("utf-8"))["features"]
    assert [f["properties"]["finding"] for f in features] == [finding.id for finding in result.findings]


def test_settings_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "survey.toml"
    path.write_text("[dense]\nneighbours = 4\nmin_ncc = 1\n[sfm.adjust]\nrounds = 2\n")
    config = SurveyConfig.read(path)
    assert config.dense == DenseConfig(neighbours=4, min_ncc=1.0)
    assert config.sfm.adjust.rounds == 2 and config.sfm.features == SfmConfig().features
    for bad in ("[dense]\nneighbors = 4\n", "[dense]\nneighbours = '4'\n", "dense = 3\n", "[dense]\nneighbours = 99\n", "["):
        path.write_text(bad)
        with pytest.raises(ConfigError):
            SurveyConfig.read(path)


def test_all_messages_exist() -> None:
    """Every text that the modules of this half name is there in both languages."""
    import re

    folder = Path(__file__).parents[2] / "drone"
    names = set()
    for module in ("dense", "surface", "ortho", "mesh", "measure", "products", "findings", "workflow"):
        names |= set(re.findall(r'"(drone\.(?!survey\b|measure\b)[a-z0-9_]+)"', (folder / f"{module}.py").read_text("utf-8")))
    names = {name for name in names if not name.endswith("_")}
    for kind in ("dsm", "dsm_uncertainty", "orthomosaic", "sources", "cloud", "mesh", "accuracy", "measurement_geojson"):
        names.add(f"drone.title_{kind}")
    for kind in ("ellipsoidal", "orthometric", "relative", "unknown"):
        names |= {f"drone.heights_{kind}", f"drone.limit_heights_{kind}"}
    for base in ("rim", "lowest", "horizontal"):
        names |= {f"drone.base_{base}", f"drone.limit_base_{base}"}
    assert len(names) > 60
    for name in sorted(names):
        fields = set(re.findall(r"\{(\w+)\}", _text(name, "en")))
        assert fields == set(re.findall(r"\{(\w+)\}", _text(name, "zh"))), name


def _text(name: str, lang: str) -> str:
    texts = json.loads((Path(__file__).parents[2] / "geoevidence" / "messages" / lang / "drone.json").read_text("utf-8"))
    return texts[name]


@pytest.mark.slow
def test_a_real_flight(tmp_path: Path) -> None:
    """Two strips, 12 photos, over a park on a lake shore: every photo used, ground covered, the lake left empty."""
    if not BRIGHTON.is_dir():
        pytest.skip("the shared drone photos are not here (GEOEVIDENCE_SHARED)")
    (tmp_path / "photos").mkdir()
    for path in sorted(BRIGHTON.glob("*.JPG"))[:12]:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    result = survey(tmp_path / "photos", out=tmp_path / "out")
    assert not [gap for gap in result.gaps if gap.id == "drone.gap_unregistered"]
    covered = next(finding for finding in result.findings if finding.message.id == "drone.finding_covered").quantity
    # The park without its trees.
    assert 1000 < covered.value < 5000
    surface = read_surface(tmp_path / "out" / "dsm.tif", tmp_path / "out" / "dsm_uncertainty.tif")
    z = surface.raster.data[0]
    # A park within some metres of height: nothing flies, nothing sinks.
    low, high = np.nanquantile(z, [0.001, 0.999])
    assert high - low < 25
    assert any(isinstance(gap, Message) and gap.id == "drone.gap_no_check_points" for gap in result.gaps)


@pytest.mark.slow
def test_survey_and_measurement_enter_custody(tmp_path: Path) -> None:
    """A quick survey of six photos of a case, then a measurement on its stored products."""
    from drone.workflow import measure_case, survey_case
    from tests.custody.workspaces import Place

    photos = [photo.path for photo in sample.block(6).flight.photos]
    card = {f"DCIM/{path.name}": path.read_bytes() for path in photos}
    place = Place(tmp_path)
    case = place.workspace.new_case("检例测试1号", demonstration=True)
    done = case.ingest(place.card(card))
    outlines = tmp_path / "polygons.geojson"
    outlines.write_bytes((sample.SAMPLES / "polygons.geojson").read_bytes())
    polygon = case.ingest(outlines).items[0]
    stored = survey_case(case, done.items, config=SurveyConfig())
    assert stored.result.process == "drone.survey" and "dsm.tif" in stored.files
    used = next(finding for finding in stored.result.findings if finding.message.id == "drone.finding_survey")
    assert used.message.values["photos"] == 6
    assert {f"sha256:{item.sha256}" for item in done.items} == set(used.sources)
    measured = measure_case(case, stored, polygon=polygon)
    assert measured.result.process == "drone.measure"
    # GPS alone may be off by metres; the figures are there or the gap says why not.
    assert measured.result.findings or measured.result.gaps
