"""From a folder of photos, or items of a case, to a folder of products and findings; and from a surface to measured figures.

`survey` and `measure_polygons` work on plain files; `survey_case` and `measure_case` run the same functions on items in custody.
Every stage is a function of another module: here they are called in order, their results written, and what they could not
do is named. Nothing here depends on the clock, the place of the files or the number of processors.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from drone.appearance import Appearance, appearance_of
from drone.cloud import write_copc
from drone.compare import CompareConfig
from drone.comparing import compare_surveys
from drone.dense import DenseConfig, densify
from drone.findings import accuracy_quantity, gsd_of, height_note, note_gsd, period_of, survey_findings, water_gaps
from drone.geoid import Undulation, block_above_geoid, cloud_above_geoid, read_undulation, surface_above_geoid
from drone.measure import MeasureConfig, base_of, measure_covered
from drone.measured import measured_findings, read_shapes
from drone.mesh import MeshConfig, write_mesh
from drone.metadata import MetadataConfig, look_through
from drone.ortho import OrthoConfig, Orthomosaic, build_orthomosaic
from drone.parts import SplitConfig
from drone.products import (
    ResultFolder,
    accuracy_record,
    digest_of,
    empty_folder,
    shaded_relief,
    write_picture,
    write_rasters,
)
from drone.quality import write_quality
from drone.resume import StageStore, code_digest
from drone.sfm import SfmConfig, reconstruct
from drone.shapes import Asked
from drone.surface import SurfaceConfig, build_surface
from drone.surveyed import Surveyed, read_bare_surface, read_surveyed, surveyed_now, surveyed_of
from drone.terrain import TerrainConfig, build_terrain
from drone.types import DenseCloud, Reconstruction, SurfaceModel, parameters_of
from drone.water import Water, WaterBody, WaterConfig, find_water, mask_water
from geoevidence import comparison
from geoevidence.comparison import Tolerance
from geoevidence.crs import parse_crs
from geoevidence.errors import AnalysisError, ConfigError, CoverageError, InputError, ReconstructionError
from geoevidence.types import (
    Message,
    ProcessResult,
    Product,
    Progress,
    Quantity,
    config_from_parameters,
    decimal_text,
    decimal_value,
    no_progress,
)

if TYPE_CHECKING:
    from geoevidence.custody.case import Case, StoredResult
    from geoevidence.types import EvidenceItem


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyConfig:
    """Settings of a survey, by stage."""

    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    sfm: SfmConfig = field(default_factory=SfmConfig)
    dense: DenseConfig = field(default_factory=DenseConfig)
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)
    water: WaterConfig = field(default_factory=WaterConfig)
    terrain: TerrainConfig = field(default_factory=TerrainConfig)
    ortho: OrthoConfig = field(default_factory=OrthoConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)

    def fast(self) -> SurveyConfig:
        """The same settings with the profile for the river bank: coarser matching, a third of the time, larger errors (stated)."""
        return replace(self, dense=replace(self.dense, profile="fast"))

    @classmethod
    def read(cls, path: Path) -> SurveyConfig:
        """The settings of a TOML file: a table per stage; what is not named keeps its default.

        Raises:
            ConfigError: not TOML, an unknown key, a wrong type or a value out of range.
        """
        try:
            raw = tomllib.loads(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError("drone.bad_config", path=Path(path).name, reason=str(error)) from error
        return _configured(cls(), raw, "")


def _configured(config: Any, raw: Mapping[str, Any], where: str) -> Any:
    known = {part.name: getattr(config, part.name) for part in fields(config)}
    changes = {}
    for name, value in raw.items():
        label = f"{where}{name}"
        if name not in known:
            raise ConfigError("drone.unknown_setting", setting=label)
        old = known[name]
        if is_dataclass(old):
            if not isinstance(value, dict):
                raise ConfigError("drone.setting_type", setting=label, expected="table", found=type(value).__name__)
            changes[name] = _configured(old, value, f"{label}.")
        elif isinstance(old, tuple):
            if not isinstance(value, list) or len(value) != len(old):
                raise ConfigError("drone.setting_type", setting=label, expected=f"list of {len(old)}", found=type(value).__name__)
            changes[name] = tuple(type(part)(each) for part, each in zip(old, value, strict=True))
        elif isinstance(old, float) and type(value) is int:
            changes[name] = float(value)
        elif type(value) is not type(old):
            raise ConfigError("drone.setting_type", setting=label, expected=type(old).__name__, found=type(value).__name__)
        else:
            changes[name] = value
    return replace(config, **changes)


def without_threads(parameters: Any) -> Any:
    """Parameters without the number of threads: it changes no byte, so it is no part of what was done."""
    if isinstance(parameters, dict):
        return {name: without_threads(value) for name, value in parameters.items() if name != "threads"}
    return parameters


def survey(
    photos: Path,
    *,
    out: Path,
    gcp: Path | None = None,
    checks: Path | None = None,
    polygons: Path | None = None,
    crs: str | None = None,
    geoid: Path | None = None,
    config: SurveyConfig = SurveyConfig(),
    work: Path | None = None,
    progress: Progress = no_progress,
) -> ProcessResult:
    """Reconstruct a flight and write its products, findings and `result.json` into `out` (docs/formats/result.md).

    Finished stages are kept until the whole is done: a survey that was killed, or ran out of memory or room, goes on from there when
    it is called again with the same photos, files and settings, and gives the same bytes.

    Args:
        photos: folder of photos. out: new or empty folder, or that of a survey which was not finished.
        gcp, checks: control points, and check points that stay out of the adjustment (`read_flight`); where none is named,
            `gcp_list.txt` and `check_list.txt` beside the photos.
        polygons: GeoJSON of places to measure; with the property `drawn_on_survey` true where its lines were drawn on the
            pictures of this very survey, so that its position in the world does not matter.
        crs: projected reference system of the result (EPSG code or WKT); by default see `read_flight`.
        geoid: grid of a geoid model (GeoTIFF, GTX): ellipsoidal heights become heights above it.
        work: where finished stages are kept; by default a folder in `out` that is gone when the survey is done.

    Raises:
        InputError, ReconstructionError, CoverageError, ConfigError, CrsError: see the stages. AnalysisError: not enough memory.
    """
    with failures_told(out):
        return _survey(
            Path(photos), Path(out), gcp=gcp, checks=checks, polygons=polygons, crs=crs, geoid=geoid, config=config, work=work,
            progress=progress,
        )  # fmt: skip


@contextmanager
def failures_told(out: Path) -> Iterator[None]:
    """What the machine refuses becomes an error of ours. Raises AnalysisError for memory, InputError for storage."""
    import cv2

    try:
        yield
    except MemoryError as error:
        raise AnalysisError("drone.out_of_memory") from error
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise AnalysisError("drone.out_of_memory") from error
        raise
    except OSError as error:
        name = Path(str(error.filename or out)).name
        raise InputError("drone.storage_failed", path=name, reason=error.strerror or str(error)) from error


def _survey(
    photos: Path,
    out: Path,
    *,
    gcp: Path | None,
    checks: Path | None,
    polygons: Path | None,
    crs: str | None,
    geoid: Path | None,
    config: SurveyConfig,
    work: Path | None,
    progress: Progress,
) -> ProcessResult:
    open_out(out)
    asked = read_shapes(polygons)
    wanted = None if crs is None else parse_crs(crs)
    gcp, checks = gcp or beside(photos, "gcp_list.txt"), checks or beside(photos, "check_list.txt")
    progress("drone.stage_read", 0.0)
    flight, looks = look_through(photos, appearance_of, gcp=gcp, checks=checks, crs=wanted, config=config.metadata)
    parameters = {
        "config": without_threads(parameters_of(config)),
        "gcp": digest_of(gcp),
        "checks": digest_of(checks),
        "polygons": digest_of(polygons),
    }
    # named only where asked for: older records have no such parameters
    parameters |= {name: value for name, value in (("crs", crs), ("geoid", digest_of(geoid))) if value is not None}
    request = {"parameters": parameters, "photos": [[p.name, p.sha256] for p in flight.photos], "code": code_digest()}
    folder = work or out / UNFINISHED
    stages = StageStore(folder, request, shared={"flight": flight, "crs": flight.crs}, kinds=(Orthomosaic, Water, WaterBody))

    def placed() -> Reconstruction:
        with tempfile.TemporaryDirectory(prefix="geoevidence-sfm-") as scratch:
            return reconstruct(flight, config=config.sfm, workdir=Path(scratch), progress=progress)

    block = stages.once("block", placed)
    if block.accuracy.control == "none":
        raise ReconstructionError("drone.no_scale", photos=len(flight.photos))
    cloud = stages.once("cloud", lambda: densify(block, config=config.dense, progress=progress))
    progress("drone.stage_surface", 0.0)
    surface = stages.once("surface", lambda: build_surface(cloud, block, config=config.surface))
    progress("drone.stage_surface", 1.0)
    progress("drone.stage_water", 0.0)
    water = stages.once("water", lambda: find_water(block, surface, config=config.water))
    surface = mask_water(surface, water)
    progress("drone.stage_water", 1.0)
    mosaic = stages.once("mosaic", lambda: build_orthomosaic(block, surface, config=config.ortho, progress=progress))
    terrain, gaps = None, water_gaps(water)
    try:
        terrain = build_terrain(surface, config=config.terrain)
    except CoverageError as error:
        reason = Message(id=error.message_id, values={name: str(value) for name, value in error.values.items()})
        gaps.append(Message(id="drone.gap_no_terrain", values={"reason": reason}))
    above = None
    if geoid is not None:
        above = read_undulation(geoid, surface.raster.grid.bounds, flight.crs)
        block, surface, cloud = (
            block_above_geoid(block, above),
            surface_above_geoid(surface, above),
            cloud_above_geoid(cloud, above),
        )
        terrain = None if terrain is None else surface_above_geoid(terrain, above)
    progress("drone.stage_write", 0.0)
    made = folder / "products"
    if made.exists():
        shutil.rmtree(made)
    made.mkdir()
    result = _write_survey(
        made, block, cloud, surface, terrain, water, mosaic, looks, above, asked, gaps, parameters, config, progress
    )
    move_in(made, out, [product.path for product in result.products])
    for done in {folder, out / UNFINISHED}:
        shutil.rmtree(done)
    progress("drone.stage_write", 1.0)
    return result


def _write_survey(
    folder: Path,
    block: Reconstruction,
    cloud: DenseCloud,
    surface: SurfaceModel,
    terrain: SurfaceModel | None,
    water: Water,
    mosaic: Orthomosaic,
    looks: Mapping[str, Appearance],
    above: Undulation | None,
    asked: Sequence[Asked],
    gaps: Sequence[Message],
    parameters: Mapping[str, Any],
    config: SurveyConfig,
    progress: Progress,
) -> ProcessResult:
    """All files of a survey and its findings."""
    flight = block.flight
    when = period_of(flight)
    site = surveyed_now(block, surface, when)
    work = ResultFolder(folder, synthetic=flight.synthetic)
    write_rasters(work, site.surface, mosaic, terrain, water.reasons)
    progress("drone.stage_write", 0.3)
    write_copc(work.path("cloud.copc.laz", "cloud", "application/vnd.laszip+copc"), cloud, flight.crs, synthetic=flight.synthetic)
    progress("drone.stage_write", 0.5)
    write_mesh(work, block, surface, mosaic, config=config.mesh)
    work.write_json("accuracy.json", "accuracy", accuracy_record(block, mosaic, cloud, above))
    progress("drone.stage_write", 0.7)
    note = note_gsd(block.accuracy)
    write_picture(work, "preview-orthomosaic.png", mosaic.raster, "drone.title_orthomosaic", when, note, ())
    relief = shaded_relief(surface.raster)
    write_picture(work, "preview-dsm.png", relief, "drone.title_dsm", when, height_note(surface), ())
    progress("drone.stage_quality", 0.0)
    write_quality(work, block, surface, mosaic, cloud, looks, gaps)
    progress("drone.stage_quality", 1.0)
    return survey_result(work, site, block, surface, mosaic, above, asked, gaps, parameters, config)


def survey_result(
    work: ResultFolder,
    site: Surveyed,
    block: Reconstruction,
    surface: SurfaceModel,
    mosaic: Orthomosaic,
    above: Undulation | None,
    asked: Sequence[Asked],
    gaps: Sequence[Message],
    parameters: Mapping[str, Any],
    config: SurveyConfig,
) -> ProcessResult:
    """Findings of a survey whose files are written, places asked for measured on it, and `result.json` in its folder."""
    findings, told = survey_findings(block, surface, site.when, above)
    measured, more = measured_findings(
        work,
        site,
        asked,
        config=config.measure,
        picture=mosaic.raster,
        first=len(findings) + 1,
        sources=mosaic.sources,
    )
    every = [*gaps, *told, *more]
    return work.finish("drone.survey", parameters=parameters, findings=findings + measured, gaps=every, seed=config.sfm.seed)


UNFINISHED = ".unfinished"
"""Folder in the folder of a result that holds the finished stages of a survey under way."""
_MOVED = "moved.json"


def open_out(out: Path) -> None:
    """Raises InputError unless the folder of the result can be written to and holds nothing but an unfinished survey."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        there = {path.relative_to(out).as_posix() for path in out.rglob("*") if UNFINISHED not in path.relative_to(out).parts}
        moved = out / UNFINISHED / _MOVED
        ours = set(json.loads(moved.read_bytes())) if moved.is_file() else set()
    except OSError as error:
        raise InputError("drone.out_unwritable", path=out.name, reason=error.strerror or str(error)) from error
    except ValueError:
        ours = set()
    ours |= {parent.as_posix() for name in ours for parent in PurePosixPath(name).parents}
    if there - ours:
        raise InputError("drone.out_not_empty", path=out.name)


def move_in(made: Path, out: Path, names: Sequence[str]) -> None:
    """Moves finished files to their place, `result.json` last; the list of them comes first, so that a new start knows its own."""
    every = [*names, ProcessResult.FILE]
    folder = out / UNFINISHED
    folder.mkdir(exist_ok=True)
    part = folder / f".{_MOVED}.part"
    part.write_bytes(json.dumps(every).encode())
    os.replace(part, folder / _MOVED)
    for name in every:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made / name, out / name)


def measure_polygons(
    survey_folder: Path | None,
    *,
    out: Path,
    polygon: Path,
    dsm: Path | None = None,
    uncertainty: Path | None = None,
    correlation_m: float | None = None,
    base: str = "rim",
    boundary_sd: float | None = None,
    previous: Path | None = None,
    config: MeasureConfig = MeasureConfig(),
    compare: CompareConfig = CompareConfig(),
    progress: Progress = no_progress,
) -> ProcessResult:
    """Places, lines, areas and volumes of the shapes of a file, on a survey's surface or on a surface model alone.

    Args:
        survey_folder: what `survey` left; brings heights, their errors and covariances, the picture, the photos. Or None with
        dsm: a surface model (GeoTIFF, one band, metres, projected CRS) without errors: figures then carry none, unless
        uncertainty: a raster of its standard uncertainties comes with it, and correlation_m: how far these are alike, if known.
        base: "rim", "lowest", "triangulated", "horizontal:<height in m>", "plane:<E>,<N>,<H>,<slope east>,<slope north>", or
            "previous" with previous: the folder of an earlier survey, or a surface model.
        boundary_sd: standard uncertainty of each vertex (m, per axis) of shapes that do not state it.

    Raises:
        InputError: neither or both of survey_folder and dsm; a file of shapes that is none; CoverageError: none could be measured.
        ConfigError: a base that is none, "previous" without an earlier survey or the other way round.
    """
    if (survey_folder is None) == (dsm is None):
        raise InputError("drone.survey_or_dsm")
    if uncertainty is not None and dsm is None:
        raise InputError("drone.uncertainty_without_dsm")
    if (base == "previous") != (previous is not None):
        raise ConfigError("drone.previous_and_base")
    if boundary_sd is not None and not 0 <= boundary_sd <= 1000:
        raise ConfigError("drone.setting_out_of_range", setting="boundary_sd", found=str(boundary_sd), low=0, high=1000)
    if correlation_m is not None and not 0 < correlation_m <= 10_000:
        raise ConfigError("drone.setting_out_of_range", setting="correlation", found=str(correlation_m), low=0, high=10_000)
    out = empty_folder(out)
    asked = read_shapes(polygon)
    if base != "previous":
        base_of(base)
    if survey_folder is not None:
        site = read_surveyed(survey_folder)
    else:
        assert dsm is not None
        site = read_bare_surface(dsm, uncertainty=uncertainty, correlation_m=correlation_m)
    former = None if previous is None else read_surveyed(previous)
    work = ResultFolder(out, synthetic=site.synthetic or (former is not None and former.synthetic))
    progress("drone.stage_measure", 0.0)
    picture = site.read_picture()
    findings, gaps = measured_findings(
        work,
        site,
        asked,
        config=config,
        picture=picture if picture is not None else shaded_relief(site.surface.raster),
        first=1,
        base=base,
        boundary_sd=boundary_sd,
        former=former,
        compare=compare,
        sources=site.read_sources(),
    )
    if not findings:
        raise CoverageError("drone.nothing_measured", path=Path(polygon).name, reason=gaps[0].render("en") if gaps else "")
    parameters: dict[str, Any] = {"config": parameters_of(config), "base": base, "polygon": digest_of(polygon)}
    if boundary_sd is not None:
        parameters["boundary_sd"] = decimal_text(boundary_sd)
    if former is not None:
        parameters |= {"compare": parameters_of(compare), "previous": list(former.digests)}
    if uncertainty is not None:
        parameters["uncertainty"] = digest_of(uncertainty)
    if correlation_m is not None:
        parameters["correlation_m"] = decimal_text(correlation_m)
    result = work.finish("drone.measure", parameters=parameters, findings=findings, gaps=gaps)
    progress("drone.stage_measure", 1.0)
    return result


def figures_again(former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
    """The headline numbers of a survey, measurement or comparison, computed again from derived surfaces: finding id -> quantity.

    Args:
        former: the result as recorded. products: folder with its products. inputs: folder with what it read.

    Raises:
        FormatError, InputError: a product or the polygon file is missing or is not the recorded one.
    """
    parameters = former.parameters
    if former.process in ("drone.measure", "drone.compare"):
        with tempfile.TemporaryDirectory(prefix="geoevidence-measure-") as scratch:
            again = run_again(former, inputs=inputs, out=Path(scratch) / "out")
        return {finding.id: finding.quantity for finding in again.findings if finding.quantity is not None}
    site = surveyed_of(former, products)
    surface, accuracy = site.surface, site.accuracy
    assert accuracy is not None
    # in the order of the findings of a survey: pixel on the ground, check points, covered ground, then the polygons
    figures = {"D-001": gsd_of(accuracy), "D-003": measure_covered(surface, accuracy).quantity}
    checked = accuracy_quantity(accuracy)
    if checked is not None:
        figures["D-002"] = checked
    asked = read_shapes(_input_of(inputs, parameters["polygons"]))
    config = config_from_parameters(SurveyConfig, parameters["config"]).measure
    with tempfile.TemporaryDirectory(prefix="geoevidence-measure-") as scratch:
        work = ResultFolder(Path(scratch), synthetic=former.synthetic)
        measured, _ = measured_findings(work, site, asked, config=config, picture=shaded_relief(surface.raster), first=4)
    figures.update({finding.id: finding.quantity for finding in measured if finding.quantity is not None})
    return figures


def run_again(former: ProcessResult, *, inputs: Path, out: Path, progress: Progress = no_progress) -> ProcessResult:
    """The whole process again, with the recorded parameters, from the files in `inputs` as they lay when it ran.

    Raises:
        InputError: a file that the parameters name is not among the inputs; else as `survey`, `measure_polygons`, `compare_surveys`.
    """
    parameters = former.parameters
    if former.process == "drone.compare":
        sd = parameters["boundary_sd"]
        return compare_surveys(
            _survey_of(inputs, parameters["before"], former.process),
            _survey_of(inputs, parameters["after"], former.process),
            out=out,
            polygon=_input_of(inputs, parameters["polygon"]),
            boundary_sd=None if sd is None else decimal_value(sd, "boundary_sd"),
            config=config_from_parameters(CompareConfig, parameters["config"]),
            measure=config_from_parameters(MeasureConfig, parameters["measure"]),
            progress=progress,
        )
    if former.process == "drone.measure":
        config = config_from_parameters(MeasureConfig, parameters["config"])
        polygon = _input_of(inputs, parameters["polygon"])
        surveys = [path.parent for path in sorted(inputs.rglob(ProcessResult.FILE))]
        earlier = [path for path in surveys if list(read_surveyed(path).digests) == parameters.get("previous")]
        later = [path for path in surveys if path not in earlier[:1]]
        if polygon is None or len(later) != 1 or ("previous" in parameters) != bool(earlier):
            raise InputError("drone.inputs_incomplete", process=former.process)
        sd = parameters.get("boundary_sd")
        return measure_polygons(
            later[0],
            out=out,
            polygon=polygon,
            base=parameters["base"],
            boundary_sd=None if sd is None else decimal_value(sd, "boundary_sd"),
            previous=earlier[0] if earlier else None,
            config=config,
            compare=config_from_parameters(CompareConfig, parameters.get("compare", {})),
            progress=progress,
        )
    extra = {name: _input_of(inputs, parameters.get(name)) for name in ("gcp", "checks", "polygons", "geoid")}
    photos = [path for path in sorted(inputs.rglob("*")) if path.is_file() and path not in extra.values()]
    if not photos:
        raise InputError("drone.inputs_incomplete", process=former.process)
    make = survey
    if "split" in parameters:
        from drone.split import survey_split

        make = partial(survey_split, split=config_from_parameters(SplitConfig, parameters["split"]))
    return make(
        Path(os.path.commonpath([path.parent for path in photos])),
        out=out,
        crs=parameters.get("crs"),
        config=config_from_parameters(SurveyConfig, parameters["config"]),
        progress=progress,
        **extra,
    )


TOLERANCES = {
    "dsm": Tolerance(value=0.01, share=0.001),
    "dsm_uncertainty": Tolerance(value=0.01, share=0.001),
    "dtm": Tolerance(value=0.01, share=0.001),
    "orthomosaic": Tolerance(value=4, share=0.005),
    "sources": Tolerance(value=0, share=0.005),
    "water": Tolerance(value=0, share=0.005),
    "difference": Tolerance(value=0.01, share=0.001),
    "detection_level": Tolerance(value=0.01, share=0.001),
}
"""How far products made again on another machine may lie apart: m, levels of 255, index of the photo. On one machine they are the
same bytes; elsewhere the last digits of the adjustment move a few cells over the edge between two choices."""


def compare_product(product: Product, stated: Path, found: Path) -> tuple[str, str]:
    """How a product made again differs from the recorded one, whose bytes differ: status, and where."""
    likeness = comparison.compare_product(product, stated, found, tolerances=TOLERANCES)
    if likeness is not None:
        return likeness
    if product.kind == "cloud":
        return _compare_clouds(stated, found)
    return "not_run", "other bytes; not compared by value"


def _compare_clouds(stated: Path, found: Path) -> tuple[str, str]:
    """Two point clouds by number and extent: points have no names by which each could be found again."""
    import laspy

    one, other = laspy.read(stated).header, laspy.read(found).header
    counts = (int(one.point_count), int(other.point_count))
    apart = float(max(np.abs(one.mins - other.mins).max(), np.abs(one.maxs - other.maxs).max()))
    close = abs(counts[0] - counts[1]) <= 0.01 * counts[0] and apart <= 1.0
    return "within_tolerance" if close else "differs", f"{counts[0]} / {counts[1]} points, extent apart by {apart:.3f} m"


def _input_of(inputs: Path, digest: str | None) -> Path | None:
    """The file of that digest in a folder of inputs; None for None. Raises InputError when it is not there."""
    if digest is None:
        return None
    found = next((path for path in sorted(inputs.rglob("*")) if path.is_file() and digest_of(path) == digest), None)
    if found is None:
        raise InputError("drone.input_missing", digest=digest)
    return found


def _survey_of(inputs: Path, digests: Sequence[str], process: str) -> Path:
    """The folder of the survey whose files have those digests. Raises InputError when it is not among the inputs."""
    for path in sorted(inputs.rglob(ProcessResult.FILE)):
        if ProcessResult.read(path.parent).process == "drone.survey" and read_surveyed(path.parent).digests == tuple(digests):
            return path.parent
    raise InputError("drone.inputs_incomplete", process=process)


def beside(photos: Path, name: str) -> Path | None:
    """The one file of that name in the folder of photos, however deep, or None. Raises InputError when there are several."""
    found = sorted(path for path in Path(photos).rglob(name) if path.is_file())
    if len(found) > 1:
        raise InputError("drone.several_lists", name=name, found=", ".join(path.relative_to(photos).as_posix() for path in found))
    return found[0] if found else None


def survey_case(
    case: Case,
    items: Sequence[EvidenceItem],
    *,
    gcp: EvidenceItem | None = None,
    checks: EvidenceItem | None = None,
    polygons: EvidenceItem | None = None,
    crs: str | None = None,
    geoid: EvidenceItem | None = None,
    config: SurveyConfig = SurveyConfig(),
    split: SplitConfig | None = None,
    dask: str | None = None,
    work: Path | None = None,
    progress: Progress = no_progress,
) -> StoredResult:
    """`survey` on items of a case; its products, findings and how it was run enter the custody log together.

    split, dask: see `drone.split.survey_split`; None: `survey`. work: folder for finished stages, kept when the process is killed; None:
    nothing is kept.
    """
    make = survey
    if split is not None:
        from drone.split import survey_split

        make = partial(survey_split, split=split, dask=dask)
    extra = {"gcp": gcp, "checks": checks, "polygons": polygons, "geoid": geoid}
    inputs = list({item.id: item for item in (*items, *(each for each in extra.values() if each is not None))}.values())
    with case.derivation(
        process="drone.survey",
        inputs=inputs,
        parameters={"config": without_threads(parameters_of(config))},
        seed=config.sfm.seed,
    ) as run:
        paths = {name: None if item is None else run.path_of(item) for name, item in extra.items()}
        # names of photos are those on the card, whatever else the case holds
        photos = Path(os.path.commonpath([run.path_of(item).parent for item in items]))
        run.commit(make(photos, out=run.out, crs=crs, config=config, work=work, progress=progress, **paths))
    assert run.stored is not None
    return run.stored


def measure_case(
    case: Case,
    former: StoredResult,
    *,
    polygon: EvidenceItem,
    base: str = "rim",
    config: MeasureConfig = MeasureConfig(),
    progress: Progress = no_progress,
) -> StoredResult:
    """`measure` on the stored products of a survey in the same case."""
    inputs = [*former.files.values(), polygon]
    with case.derivation(
        process="drone.measure", inputs=inputs, parameters={"config": parameters_of(config), "base": base}
    ) as run:
        folder = run.path_of(former.files[ProcessResult.FILE]).parent
        run.commit(
            measure_polygons(folder, out=run.out, polygon=run.path_of(polygon), base=base, config=config, progress=progress)
        )
    assert run.stored is not None
    return run.stored


def compare_case(
    case: Case,
    before: StoredResult,
    after: StoredResult,
    *,
    polygon: EvidenceItem | None = None,
    boundary_sd: float | None = None,
    config: CompareConfig = CompareConfig(),
    measure: MeasureConfig = MeasureConfig(),
    progress: Progress = no_progress,
) -> StoredResult:
    """`compare_surveys` on the stored products of two surveys in the same case."""
    inputs = [*before.files.values(), *after.files.values(), *(() if polygon is None else (polygon,))]
    with case.derivation(
        process="drone.compare",
        inputs=list({item.id: item for item in inputs}.values()),
        parameters={"config": parameters_of(config), "measure": parameters_of(measure)},
    ) as run:
        first, second = (run.path_of(each.files[ProcessResult.FILE]).parent for each in (before, after))
        run.commit(
            compare_surveys(
                first,
                second,
                out=run.out,
                polygon=None if polygon is None else run.path_of(polygon),
                boundary_sd=boundary_sd,
                config=config,
                measure=measure,
                progress=progress,
            )
        )
    assert run.stored is not None
    return run.stored
