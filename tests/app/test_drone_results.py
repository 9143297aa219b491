"""Results of `drone.survey`, `drone.measure` and `drone.compare` in a case: the case page opens, the report names them, comparisons run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app import figures
from app.cli import app
from app.engines import ENGINES
from drone import compare_case, measure_case
from drone.ortho import Orthomosaic
from drone.products import ResultFolder, accuracy_record, cut_out, write_picture, write_rasters
from drone.types import ErrorField, SurfaceModel
from geoevidence.custody import Case, StoredResult, Workspace
from geoevidence.errors import GeoEvidenceError
from geoevidence.messages import render
from geoevidence.raster import Grid, Raster
from geoevidence.types import EvidenceItem, Finding, Message, ProcessResult, no_progress
from tests.app.test_screens import all_text, run_screen
from tests.drone import sample_block as sample

RAISED = 1.0
"""Height (m) of what is heaped onto the second survey, on 400 cells."""


def _survey(case: Case, photos: tuple[EvidenceItem, ...], seed: int, raised: float) -> StoredResult:
    """The true surface with a centimetre of noise as a survey of the case."""
    heights = cut_out(sample.true_dsm(), sample.body("pile").bounds, 15.0)
    z = heights.data[0].astype(np.float32) + np.random.default_rng(seed).normal(0, 0.01, heights.grid.shape).astype(np.float32)
    rows, cols = z.shape
    z[5:25, 5:25] += raised
    surface = SurfaceModel(
        raster=Raster(data=z[None], grid=heights.grid, nodata=float("nan"), unit="m"),
        kind="dsm",
        height_kind="ellipsoidal",
        standard_uncertainty=Raster(data=np.full_like(z, 0.01)[None], grid=heights.grid, nodata=float("nan"), unit="m"),
        density=None,
        correlation_m=0.25,
        error_field=ErrorField(
            origin=heights.grid.bounds[:2], spacing=(10.0, 10.0), factor=np.full((1, 1, 1, 3), 0.02, np.float32)
        ),
    )
    colours = np.full((4, rows, cols), 160, np.uint8)
    colours[3] = 255
    colours[:3] += np.random.default_rng(1).integers(0, 40, (3, rows, cols)).astype(np.uint8)
    picture = Raster(data=colours, grid=Grid(shape=z.shape, transform=heights.grid.transform, crs=heights.grid.crs))
    block = sample.block(4)
    mosaic = Orthomosaic(
        raster=picture,
        sources=Raster(data=np.ones((2, rows, cols), np.uint16), grid=picture.grid),
        photos=tuple(sorted(block.poses)),
        gains={name: (1.0, 1.0, 1.0) for name in block.poses},
        fall_off={},
    )
    with case.derivation(process="drone.survey", inputs=photos, parameters={"seed": seed}, seed=seed) as run:
        work = ResultFolder(run.out, synthetic=True)
        write_rasters(work, surface, mosaic, replace(surface, kind="dtm"))
        work.write_json("accuracy.json", "accuracy", accuracy_record(block, mosaic))
        note = Message(id="drone.heights_ellipsoidal")
        write_picture(work, "preview-orthomosaic.png", picture, "drone.title_orthomosaic", None, note, ())
        finding = Finding(
            id="D-001",
            message=Message(id="drone.finding_accuracy_untested", values={"horizontal": "2 cm", "vertical": "2 cm"}),
            quantity=None,
            geometry=None,
            crs=None,
            period=None,
            method=Message(id="drone.method_survey"),
            sources=tuple(f"sha256:{item.sha256}" for item in photos),
            limitations=(Message(id="drone.limit_water"),),
            products=("accuracy.json",),
            synthetic=True,
        )
        run.commit(
            ProcessResult(
                process="drone.survey",
                parameters={"seed": seed},
                seed=seed,
                products=work.products(),
                findings=(finding,),
                gaps=(Message(id="drone.gap_no_check_points"),),
                synthetic=True,
            )
        )
    assert run.stored is not None
    return run.stored


@pytest.fixture(scope="module")
def drone_case(sample_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, dict[str, StoredResult]]:
    """A case with two surveys, what was measured on the first, and their comparison."""
    folder = tmp_path_factory.mktemp("drone_results")
    case = sample_workspace.new_case("航测-1", demonstration=True)
    photo, outlines = folder / "photo.txt", folder / "polygons.geojson"
    photo.write_bytes(b"stands for the photos")
    document = json.loads((sample.SAMPLES / "polygons.geojson").read_text("utf-8"))
    (pile,) = (each for each in document["features"] if each["properties"]["name"] == "pile")
    ring = pile["geometry"]["coordinates"][0]
    shapes = [("a place", {"type": "Point", "coordinates": ring[0]}), ("a line", {"type": "LineString", "coordinates": ring[:3]})]
    extra = [{"type": "Feature", "properties": {"name": name}, "geometry": geometry} for name, geometry in shapes]
    outlines.write_text(json.dumps({**document, "features": [pile, *extra]}))
    photos, drawn = case.ingest(photo).items, case.ingest(outlines).items[0]
    first, second = _survey(case, photos, 1, 0.0), _survey(case, photos, 2, RAISED)
    measured = measure_case(case, first, polygon=drawn)
    return case, {"first": first, "second": second, "measured": measured, "compared": compare_case(case, first, second)}


def test_the_comparison_in_custody_finds_what_was_heaped_up(drone_case: tuple[Case, dict[str, StoredResult]]) -> None:
    _, results = drone_case
    compared = results["compared"]
    (change,) = compared.result.findings[1:]
    expected = 400 * RAISED * sample.true_dsm().grid.cell_area
    assert abs(change.quantity.value - expected) < 3 * change.quantity.standard_uncertainty  # type: ignore[union-attr]
    used = {ref.item for ref in compared.event.inputs}
    assert {results[name].files["dsm.tif"].id for name in ("first", "second")} <= used


def test_a_recorded_comparison_runs_again(drone_case: tuple[Case, dict[str, StoredResult]], tmp_path: Path) -> None:
    case, results = drone_case
    stored = results["compared"]
    inputs, out = tmp_path / "inputs", tmp_path / "again"
    items = {item.id: item for item in case.items()}
    for item in (items[ref.item] for ref in stored.event.inputs):
        (inputs / item.path).parent.mkdir(parents=True, exist_ok=True)
        (inputs / item.path).write_bytes(case.path_of(item).read_bytes())
    again = ENGINES["drone.compare"].again(stored.result, inputs=inputs, out=out, progress=no_progress)
    assert {product.path for product in again.products} == {product.path for product in stored.result.products}
    for product in again.products:
        assert (out / product.path).read_bytes() == case.path_of(stored.files[product.path]).read_bytes(), product.path
    stated = {finding.id: finding.quantity for finding in stored.result.findings if finding.quantity is not None}
    assert ENGINES["drone.compare"].figures(stored.result, products=out, inputs=inputs) == stated and stated
    (next(inputs.rglob("dsm.tif"))).write_bytes(b"changed")
    with pytest.raises(GeoEvidenceError):
        ENGINES["drone.compare"].again(stored.result, inputs=inputs, out=tmp_path / "no", progress=no_progress)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_case_page_opens_with_every_kind_of_result(drone_case: tuple[Case, dict[str, StoredResult]], lang: str) -> None:
    case, _ = drone_case
    test = run_screen("case", case, lang)
    assert not test.exception and not test.error, [*test.exception, *test.error]
    box = test.selectbox(key=f"finding-{case.id}")
    assert len(box.options) == 8  # one of each survey, a place, a line, area and volume, comparison and its change
    options = [f"{stored.event.event_id}/{finding.id}" for stored, finding in case.findings()]
    for option in options if lang == "zh" else ():
        box.set_value(option).run()
        assert not test.exception and not test.error, (option, [*test.exception, *test.error])
        assert not [word for word in ("app.", "drone.", "report.") if word in all_text(test)], option


def test_rasters_of_every_result_lie_on_the_map(drone_case: tuple[Case, dict[str, StoredResult]]) -> None:
    case, results = drone_case
    layers = figures.raster_layers(case, results.values(), "zh")
    by_item = {
        item.id: product.kind
        for each in results.values()
        for product in each.result.products
        for item in [each.files[product.path]]
    }
    kinds = [by_item[layer["id"]] for layer in layers]
    assert set(kinds) == {"dtm", "dtm_uncertainty", "dsm", "dsm_uncertainty", "detection_level", "difference", "orthomosaic"}
    # what the two bands of an uncertainty raster are drawn from is the whole uncertainty
    stored = results["first"]
    source = figures._tile_source(case.path_of(stored.files["dsm_uncertainty.tif"]))
    assert source.stretch is not None and source.stretch[0] == pytest.approx(np.hypot(0.01, 0.02), rel=1e-3)


@pytest.mark.parametrize("process", sorted(ENGINES))
def test_every_process_that_runs_again_has_a_name_in_the_report(process: str) -> None:
    for lang in ("zh", "en"):
        assert render(f"report.process.{process}", {}, lang) != f"report.process.{process}"


def test_a_survey_that_the_case_does_not_have_is_said(
    drone_case: tuple[Case, dict[str, StoredResult]], workspace_path: Path
) -> None:
    case, results = drone_case
    words = [
        "drone",
        "compare",
        "E-none",
        results["second"].event.event_id,
        "--case",
        case.number,
        "--workspace",
        str(workspace_path),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0 and getattr(done.exception, "message_id", "") == "cli.no_such_survey"
