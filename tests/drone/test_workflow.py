"""The whole way: photos -> folder of products and findings; measuring on it; refusing what cannot be used."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely.geometry

from drone.dense import DenseConfig
from drone.ortho import OrthoConfig
from drone.products import ResultFolder, accuracy_record, read_accuracy, read_surface, shaded_relief, write_rasters
from drone.sfm import SfmConfig
from drone.workflow import (
    UNFINISHED,
    SurveyConfig,
    figures_again,
    measure_polygons,
    open_out,
    survey,
)
from geoevidence.errors import ConfigError, CoverageError, FormatError, GeoEvidenceError, InputError
from geoevidence.raster import open_strict, read_raster
from geoevidence.trust import canonical
from geoevidence.types import Message, ProcessResult
from tests.drone import sample_block as sample
from tests.drone.conftest import REAL, Once


@pytest.mark.slow
def test_the_result_lists_every_file_and_reads_back(surveyed: tuple[Path, ProcessResult]) -> None:
    out, result = surveyed
    assert ProcessResult.read(out) == result
    kinds = {product.kind for product in result.products}
    assert kinds == {
        *("accuracy", "cloud", "dsm", "dsm_uncertainty", "dtm", "dtm_uncertainty", "error_field", "measurement"),
        *("measurement_geojson", "mesh", "mesh_material", "mesh_texture", "orthomosaic", "preview", "quality", "quality_record"),
        *("sources", "water"),
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
    water, heights = (read_raster(out / name).data[0] for name in ("water.tif", "dsm.tif"))
    assert "drone.gap_water" in {gap.id for gap in result.gaps} and (water > 0).any()
    assert np.isnan(heights[water > 0]).all()


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


def test_the_folder_of_a_result_must_be_writable_and_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError) as caught:
        survey(sample.SAMPLES / "flight", out=tmp_path / "file" / "out")
    assert caught.value.message_id == "drone.out_unwritable"
    # what an unfinished survey has moved in is its own; anything else is not touched
    out = tmp_path / "out"
    (out / UNFINISHED).mkdir(parents=True)
    (out / "mesh").mkdir()
    (out / "mesh" / "surface.obj").write_text("x")
    (out / UNFINISHED / "moved.json").write_text('["mesh/surface.obj"]')
    open_out(out)
    (out / "notes.txt").write_text("x")
    with pytest.raises(InputError) as caught:
        open_out(out)
    assert caught.value.message_id == "drone.out_not_empty"
    assert (out / "notes.txt").read_text() == "x"


def test_running_out_of_room_or_memory_is_said(tmp_path: Path) -> None:
    def full(stage: str, share: float) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    def memory(stage: str, share: float) -> None:
        raise MemoryError

    for progress, expected in ((full, "drone.storage_failed"), (memory, "drone.out_of_memory")):
        with pytest.raises(GeoEvidenceError) as caught:
            survey(sample.SAMPLES / "flight", out=tmp_path / "out", progress=progress)
        assert caught.value.message_id == expected


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
        names |= set(
            re.findall(r'"(drone\.(?!survey\b|measure\b|compare\b)[a-z0-9_]+)"', (folder / f"{module}.py").read_text("utf-8"))
        )
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
def test_a_real_flight(real_photos: Path, reconstruct_once: Once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three strips, 18 photos, over a park on a lake shore: every photo used, ground covered, the lake left empty."""
    monkeypatch.setattr("drone.workflow.reconstruct", reconstruct_once)
    config = replace(REAL, dense=DenseConfig(downscale=6), ortho=OrthoConfig(cell=0.05))
    result = survey(real_photos, out=tmp_path / "out", config=config)
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


_QUICK = """
[sfm]
image_size = 600
features = 2000
[dense]
profile = "fast"
downscale = 4
[ortho]
cell = 0.1
[mesh]
vertices = 20000
texture = 512
"""
"""Settings of a small survey, as a file, since another process reads them too."""


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "quick.toml"
    path.write_text(_QUICK)
    return path


@pytest.fixture(scope="session")
def in_custody(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any, Any]:
    """A case with five photos, one of them damaged, and a quick survey of it: case, photos, outlines, survey."""
    from drone.workflow import survey_case
    from tests.custody.workspaces import Place

    folder = tmp_path_factory.mktemp("custody")
    paths = [photo.path for photo in sample.block(4).flight.photos]
    card = {f"DCIM/{path.name}": path.read_bytes() for path in paths}
    card["DCIM/damaged.JPG"] = paths[0].read_bytes()[:60_000]
    place = Place(folder)
    case = place.workspace.new_case("检例测试1号", demonstration=True)
    done = case.ingest(place.card(card))
    outlines = folder / "polygons.geojson"
    outlines.write_bytes((sample.SAMPLES / "polygons.geojson").read_bytes())
    polygon = case.ingest(outlines).items[0]
    return case, done.items, polygon, survey_case(case, done.items, config=SurveyConfig.read(quick))


@pytest.mark.slow
def test_survey_and_measurement_enter_custody(in_custody: tuple[Any, Any, Any, Any]) -> None:
    from drone.workflow import measure_case

    case, photos, polygon, stored = in_custody
    assert stored.result.process == "drone.survey"
    assert {"dsm.tif", "mesh/surface.glb", "quality.pdf"} <= set(stored.files)
    used = next(finding for finding in stored.result.findings if finding.message.id == "drone.finding_survey")
    assert used.message.values["photos"] == 4
    good = {f"sha256:{item.sha256}" for item in photos if not item.path.endswith("damaged.JPG")}
    assert good == set(used.sources)
    # one damaged photo among good ones costs nothing but itself, and is named
    assert any(gap.id == "drone.gap_rejected" and gap.values["photo"] == "damaged.JPG" for gap in stored.result.gaps)
    measured = measure_case(case, stored, polygon=polygon)
    assert measured.result.process == "drone.measure"
    # GPS alone may be off by metres; the figures are there or the gap says why not.
    assert measured.result.findings or measured.result.gaps


_KILLED = """
import os, signal, sys
from pathlib import Path
from drone import SurveyConfig, survey
def progress(stage, share):
    if stage == "drone.stage_ortho":
        os.kill(os.getpid(), signal.SIGKILL)
survey(Path(sys.argv[1]), out=Path(sys.argv[2]), config=SurveyConfig.read(Path(sys.argv[3])), progress=progress)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_survey_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, quick: Path, in_custody: tuple[Any, Any, Any, Any]
) -> None:
    case, items, _, stored = in_custody
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for item in items:
        shutil.copy(case.path_of(item), photos / Path(item.path).name)
    run = subprocess.run([sys.executable, "-c", _KILLED, photos, out, quick], cwd=Path(__file__).parents[2], check=False)
    assert run.returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == [UNFINISHED]
    stages: list[str] = []
    config = SurveyConfig.read(quick)
    result = survey(photos, out=out, config=config, progress=lambda stage, share: stages.append(stage))
    assert "drone.stage_features" not in stages and "drone.stage_match" not in stages and "drone.stage_ortho" in stages
    assert ProcessResult.read(out) == result and not (out / UNFINISHED).exists()
    # as the same survey in custody, which was not interrupted
    assert {product.path for product in result.products} | {ProcessResult.FILE} == set(stored.files)
    for name, item in stored.files.items():
        assert (out / name).read_bytes() == case.path_of(item).read_bytes(), name
