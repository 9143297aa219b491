"""From a folder of photos, or items of a case, to a folder of products and findings; and from a surface to measured figures.

`survey` and `measure_polygons` work on plain files; `survey_case` and `measure_case` run the same functions on items in custody.
Every stage is a function of another module: here they are called in order, their results written, and what they could not
do is named. Nothing here depends on the clock, the place of the files or the number of processors.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drone.dense import DenseConfig, densify
from drone.findings import (
    accuracy_quantity,
    base_of,
    gsd_of,
    height_note,
    measured_findings,
    note_gsd,
    period_of,
    read_polygons,
    survey_findings,
)
from drone.measure import MeasureConfig, measure_covered
from drone.mesh import MeshConfig, write_mesh
from drone.metadata import MetadataConfig, read_flight
from drone.ortho import OrthoConfig, build_orthomosaic
from drone.products import (
    ResultFolder,
    accuracy_record,
    digest_of,
    empty_folder,
    read_accuracy,
    read_surface,
    shaded_relief,
    source_digests,
    write_cloud,
    write_picture,
    write_rasters,
)
from drone.sfm import SfmConfig, reconstruct
from drone.surface import SurfaceConfig, build_surface
from drone.types import parameters_of
from geoevidence import comparison
from geoevidence.comparison import Tolerance
from geoevidence.errors import ConfigError, CoverageError, FormatError, InputError, ReconstructionError
from geoevidence.raster import read_raster
from geoevidence.types import ProcessResult, Product, Progress, Quantity, config_from_parameters, no_progress

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
    ortho: OrthoConfig = field(default_factory=OrthoConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)

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


def _without_threads(parameters: Any) -> Any:
    """Parameters without the number of threads: it changes no byte, so it is no part of what was done."""
    if isinstance(parameters, dict):
        return {name: _without_threads(value) for name, value in parameters.items() if name != "threads"}
    return parameters


def survey(
    photos: Path,
    *,
    out: Path,
    gcp: Path | None = None,
    checks: Path | None = None,
    polygons: Path | None = None,
    config: SurveyConfig = SurveyConfig(),
    progress: Progress = no_progress,
) -> ProcessResult:
    """Reconstruct a flight and write its products, findings and `result.json` into `out` (docs/formats/result.md).

    Args:
        photos: folder of photos. out: new or empty folder.
        gcp, checks: control points, and check points that stay out of the adjustment (`read_flight`); where none is named,
            `gcp_list.txt` and `check_list.txt` beside the photos.
        polygons: GeoJSON of places to measure; with the property `drawn_on_survey` true where its lines were drawn on the
            pictures of this very survey, so that its position in the world does not matter.

    Raises:
        InputError, ReconstructionError, CoverageError, ConfigError: see the stages; nothing is left but the files so far.
    """
    out = empty_folder(out)
    asked = read_polygons(polygons)
    gcp, checks = gcp or _beside(photos, "gcp_list.txt"), checks or _beside(photos, "check_list.txt")
    progress("drone.stage_read", 0.0)
    flight = read_flight(photos, gcp=gcp, checks=checks, config=config.metadata)
    with tempfile.TemporaryDirectory(prefix="geoevidence-sfm-") as scratch:
        block = reconstruct(flight, config=config.sfm, workdir=Path(scratch), progress=progress)
    if block.accuracy.control == "none":
        raise ReconstructionError("drone.no_scale", photos=len(flight.photos))
    cloud = densify(block, config=config.dense, progress=progress)
    progress("drone.stage_surface", 0.0)
    surface = build_surface(cloud, block, config=config.surface)
    progress("drone.stage_surface", 1.0)
    mosaic = build_orthomosaic(block, surface, config=config.ortho, progress=progress)
    progress("drone.stage_write", 0.0)
    work = ResultFolder(out, synthetic=flight.synthetic)
    write_rasters(work, surface, mosaic)
    progress("drone.stage_write", 0.4)
    write_cloud(work, cloud, flight.crs)
    write_mesh(work.path("mesh.glb", "mesh", "model/gltf-binary"), surface, mosaic, config=config.mesh)
    work.write_json("accuracy.json", "accuracy", accuracy_record(block, mosaic, cloud))
    progress("drone.stage_write", 0.7)
    when = period_of(flight)
    note = note_gsd(block.accuracy)
    write_picture(work, "preview-orthomosaic.png", mosaic.raster, "drone.title_orthomosaic", when, note, ())
    relief = shaded_relief(surface.raster)
    write_picture(work, "preview-dsm.png", relief, "drone.title_dsm", when, height_note(surface), ())
    findings, gaps = survey_findings(block, surface, when)
    measured, more = measured_findings(
        work, surface, block.accuracy, asked, config.measure, mosaic.raster, when, len(findings) + 1, source_digests(flight)
    )
    gaps += more
    result = ProcessResult(
        process="drone.survey",
        parameters={
            "config": _without_threads(parameters_of(config)),
            "gcp": digest_of(gcp),
            "checks": digest_of(checks),
            "polygons": digest_of(polygons),
        },
        seed=config.sfm.seed,
        products=work.products(),
        findings=tuple(findings + measured),
        gaps=tuple(gaps),
        synthetic=flight.synthetic,
    )
    result.write(out)
    progress("drone.stage_write", 1.0)
    return result


def measure_polygons(
    survey_folder: Path | None,
    *,
    out: Path,
    polygon: Path,
    dsm: Path | None = None,
    base: str = "rim",
    config: MeasureConfig = MeasureConfig(),
    progress: Progress = no_progress,
) -> ProcessResult:
    """Areas and volumes inside the polygons of a file, on the surface of a survey's folder or on a surface model alone.

    Args:
        survey_folder: what `survey` left; brings heights, their errors, the picture, the accuracy. Or None with
        dsm: a surface model (GeoTIFF, one band, metres, projected CRS) without errors: figures then carry none.
        base: "rim", "lowest", or "horizontal:<height in m>".

    Raises:
        InputError: neither or both of survey_folder and dsm; a polygon file that is none; CoverageError: no polygon could be measured.
    """
    if (survey_folder is None) == (dsm is None):
        raise InputError("drone.survey_or_dsm")
    out = empty_folder(out)
    asked = read_polygons(polygon)
    base_of(base)
    accuracy, picture, when, synthetic = None, None, None, False
    sources: tuple[str, ...] = ()
    if survey_folder is not None:
        former = ProcessResult.read(Path(survey_folder))
        by_kind = {product.kind: Path(survey_folder) / product.path for product in former.products}
        for kind in ("dsm", "dsm_uncertainty", "accuracy", "orthomosaic"):
            if kind not in by_kind:
                raise FormatError("drone.survey_incomplete", path=Path(survey_folder).name, kind=kind)
        surface = read_surface(by_kind["dsm"], by_kind["dsm_uncertainty"])
        accuracy = read_accuracy(by_kind["accuracy"])
        picture = read_raster(by_kind["orthomosaic"])
        when = next((finding.period for finding in former.findings if finding.period), None)
        sources = tuple(sorted({digest_of(by_kind[kind]) or "" for kind in ("dsm", "dsm_uncertainty", "accuracy")}))
        synthetic = former.synthetic
    else:
        assert dsm is not None
        surface = read_surface(dsm, None)
        sources = (digest_of(dsm) or "",)
    work = ResultFolder(out, synthetic=synthetic)
    progress("drone.stage_measure", 0.0)
    shown = picture if picture is not None else shaded_relief(surface.raster)
    findings, gaps = measured_findings(work, surface, accuracy, asked, config, shown, when, 1, sources, base)
    if not findings:
        raise CoverageError("drone.nothing_measured", path=Path(polygon).name, reason=gaps[0].render("en") if gaps else "")
    result = ProcessResult(
        process="drone.measure",
        parameters={"config": parameters_of(config), "base": base, "polygon": digest_of(polygon)},
        seed=None,
        products=work.products(),
        findings=tuple(findings),
        gaps=tuple(gaps),
        synthetic=synthetic,
    )
    result.write(out)
    progress("drone.stage_measure", 1.0)
    return result


def figures_again(former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
    """The headline numbers of a survey or measurement, computed again from its derived surface: finding id -> quantity.

    Args:
        former: the result as recorded. products: folder with its products. inputs: folder with what it read.

    Raises:
        FormatError, InputError: a product or the polygon file is missing or is not the recorded one.
    """
    parameters = former.parameters
    if former.process == "drone.measure":
        with tempfile.TemporaryDirectory(prefix="geoevidence-measure-") as scratch:
            again = run_again(former, inputs=inputs, out=Path(scratch) / "out")
        return {finding.id: finding.quantity for finding in again.findings if finding.quantity is not None}
    by_kind = {product.kind: products / product.path for product in former.products}
    surface, accuracy = read_surface(by_kind["dsm"], by_kind["dsm_uncertainty"]), read_accuracy(by_kind["accuracy"])
    # in the order of the findings of a survey: pixel on the ground, check points, covered ground, then the polygons
    figures = {"D-001": gsd_of(accuracy), "D-003": measure_covered(surface, accuracy).quantity}
    checked = accuracy_quantity(accuracy)
    if checked is not None:
        figures["D-002"] = checked
    asked = read_polygons(_input_of(inputs, parameters["polygons"]))
    config = config_from_parameters(SurveyConfig, parameters["config"]).measure
    with tempfile.TemporaryDirectory(prefix="geoevidence-measure-") as scratch:
        work = ResultFolder(Path(scratch), synthetic=former.synthetic)
        measured, _ = measured_findings(
            work, surface, accuracy, asked, config, shaded_relief(surface.raster), None, 4, former.findings[0].sources
        )
    figures.update({finding.id: finding.quantity for finding in measured if finding.quantity is not None})
    return figures


def run_again(former: ProcessResult, *, inputs: Path, out: Path, progress: Progress = no_progress) -> ProcessResult:
    """The whole process again, with the recorded parameters, from the files in `inputs` as they lay when it ran.

    Raises:
        InputError: a file that the parameters name is not among the inputs; else as `survey` and `measure_polygons`.
    """
    parameters = former.parameters
    if former.process == "drone.measure":
        config = config_from_parameters(MeasureConfig, parameters["config"])
        polygon = _input_of(inputs, parameters["polygon"])
        surveys = [path.parent for path in sorted(inputs.rglob(ProcessResult.FILE))]
        if polygon is None or len(surveys) != 1:
            raise InputError("drone.inputs_incomplete", process=former.process)
        return measure_polygons(surveys[0], out=out, polygon=polygon, base=parameters["base"], config=config, progress=progress)
    extra = {name: _input_of(inputs, parameters[name]) for name in ("gcp", "checks", "polygons")}
    photos = [path for path in sorted(inputs.rglob("*")) if path.is_file() and path not in extra.values()]
    if not photos:
        raise InputError("drone.inputs_incomplete", process=former.process)
    return survey(
        Path(os.path.commonpath([path.parent for path in photos])),
        out=out,
        config=config_from_parameters(SurveyConfig, parameters["config"]),
        progress=progress,
        **extra,
    )


TOLERANCES = {
    "dsm": Tolerance(value=0.01, share=0.001),
    "dsm_uncertainty": Tolerance(value=0.01, share=0.001),
    "orthomosaic": Tolerance(value=4, share=0.005),
    "sources": Tolerance(value=0, share=0.005),
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


def _beside(photos: Path, name: str) -> Path | None:
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
    config: SurveyConfig = SurveyConfig(),
    progress: Progress = no_progress,
) -> StoredResult:
    """`survey` on items of a case; its products, findings and how it was run enter the custody log together."""
    extra = {"gcp": gcp, "checks": checks, "polygons": polygons}
    inputs = list({item.id: item for item in (*items, *(each for each in extra.values() if each is not None))}.values())
    with case.derivation(
        process="drone.survey",
        inputs=inputs,
        parameters={"config": _without_threads(parameters_of(config))},
        seed=config.sfm.seed,
    ) as run:
        paths = {name: None if item is None else run.path_of(item) for name, item in extra.items()}
        # names of photos are those on the card, whatever else the case holds
        photos = Path(os.path.commonpath([run.path_of(item).parent for item in items]))
        run.commit(survey(photos, out=run.out, config=config, progress=progress, **paths))
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
