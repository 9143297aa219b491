"""From a folder of photos, or items of a case, to a folder of products and findings; and from a surface to measured figures.

`survey` and `measure` work on plain files; `survey_case` and `measure_case` run the same functions on items in custody.
Every stage is a function of another module: here they are called in order, their results written, and what they could not
do is named. Nothing here depends on the clock, the place of the files or the number of processors.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import tomllib
import zlib  # noqa: F401  (before pycolmap: see drone/__init__.py)
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import shapely.geometry
import shapely.ops
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from drone.dense import DenseConfig, densify
from drone.measure import MeasureConfig, measure_area, measure_covered, measure_volume, polygons_of, read_polygon
from drone.mesh import MeshConfig, write_mesh
from drone.metadata import MetadataConfig, read_flight
from drone.ortho import OrthoConfig, Orthomosaic, build_orthomosaic
from drone.sfm import SfmConfig, reconstruct
from drone.surface import SurfaceConfig, build_surface
from drone.types import (
    AccuracyReport,
    DenseCloud,
    Flight,
    Measurement,
    PointResidual,
    Reconstruction,
    SurfaceModel,
    parameters_of,
)
from geoevidence.crs import crs_label, transform_geometry
from geoevidence.errors import ConfigError, CoverageError, FormatError, InputError, ReconstructionError
from geoevidence.figures import map_picture
from geoevidence.raster import Grid, Raster, grid_of, open_strict, read_raster, write_cog
from geoevidence.trust import canonical
from geoevidence.types import (
    Finding,
    Message,
    ProcessResult,
    Product,
    Progress,
    Quantity,
    decimal_text,
    decimal_value,
    no_progress,
)

if TYPE_CHECKING:
    from geoevidence.custody.case import Case, StoredResult
    from geoevidence.types import EvidenceItem

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_ACCURACY_SCHEMA = "geoevidence.accuracy.v1"
_WGS84 = CRS.from_epsg(4326)
_PICTURE_SIDE = 1600
_CHIP_SIDE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyConfig:
    """Settings of a survey, by stage. threads: of every stage (count), 0 = all processors; does not change the result."""

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
    out = _empty(out)
    asked = _read_polygons(polygons)
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
    work = _Folder(out, synthetic=flight.synthetic)
    _write_rasters(work, surface, mosaic)
    progress("drone.stage_write", 0.4)
    _write_cloud(work, cloud, flight.crs)
    write_mesh(work.path("mesh.glb", "mesh", "model/gltf-binary"), surface, mosaic, config=config.mesh)
    work.write_json("accuracy.json", "accuracy", accuracy_record(block, mosaic, cloud))
    progress("drone.stage_write", 0.7)
    when = _period(flight)
    note = Message(id="drone.note_gsd", values={"gsd": _gsd(block.accuracy)})
    _picture(work, "preview-orthomosaic.png", mosaic.raster, "drone.title_orthomosaic", when, note, ())
    relief = shaded_relief(surface.raster)
    _picture(work, "preview-dsm.png", relief, "drone.title_dsm", when, _height_note(surface), ())
    findings, gaps = _survey_findings(block, surface, when)
    measured, more = _measured(
        work, surface, block.accuracy, asked, config.measure, mosaic.raster, when, len(findings) + 1, _sources(flight)
    )
    gaps += more
    result = ProcessResult(
        process="drone.survey",
        parameters={
            "config": _without_threads(parameters_of(config)),
            "gcp": _digest(gcp),
            "checks": _digest(checks),
            "polygons": _digest(polygons),
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
    out = _empty(out)
    asked = _read_polygons(polygon)
    _base_of(base)
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
        sources = tuple(sorted({_digest(by_kind[kind]) or "" for kind in ("dsm", "dsm_uncertainty", "accuracy")}))
        synthetic = former.synthetic
    else:
        assert dsm is not None
        surface = read_surface(dsm, None)
        sources = (_digest(dsm) or "",)
    work = _Folder(out, synthetic=synthetic)
    progress("drone.stage_measure", 0.0)
    shown = picture if picture is not None else shaded_relief(surface.raster)
    findings, gaps = _measured(work, surface, accuracy, asked, config, shown, when, 1, sources, base)
    if not findings:
        raise CoverageError("drone.nothing_measured", path=Path(polygon).name, reason=gaps[0].render("en") if gaps else "")
    result = ProcessResult(
        process="drone.measure",
        parameters={"config": parameters_of(config), "base": base, "polygon": _digest(polygon)},
        seed=None,
        products=work.products(),
        findings=tuple(findings),
        gaps=tuple(gaps),
        synthetic=synthetic,
    )
    result.write(out)
    progress("drone.stage_measure", 1.0)
    return result


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


# --- reading and writing products ---------------------------------------------------------------------------------------


class _Folder:
    """The folder of a result under way, and the list of what was written."""

    def __init__(self, folder: Path, *, synthetic: bool) -> None:
        self.folder, self.synthetic = folder, synthetic
        self._products: dict[str, Product] = {}

    def path(self, name: str, kind: str, media_type: str, title: Message | None = None) -> Path:
        shown = title or Message(id=f"drone.title_{kind}")
        self._products[name] = Product(path=name, kind=kind, media_type=media_type, title=shown)
        return self.folder / name

    def write_json(
        self, name: str, kind: str, value: Mapping[str, Any], media_type: str = "application/json", title: Message | None = None
    ) -> None:
        self.path(name, kind, media_type, title).write_bytes(canonical.dumps(value))

    def products(self) -> tuple[Product, ...]:
        return tuple(self._products[name] for name in sorted(self._products))


def _empty(out: Path) -> Path:
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise InputError("drone.out_not_empty", path=out.name)
    return out


def _digest(path: Path | None) -> str | None:
    from hashlib import file_digest

    if path is None:
        return None
    with Path(path).open("rb") as stream:
        return f"sha256:{file_digest(stream, 'sha256').hexdigest()}"


def _sources(flight: Flight) -> tuple[str, ...]:
    return tuple(sorted({f"sha256:{photo.sha256}" for photo in flight.photos}))


def _write_rasters(work: _Folder, surface: SurfaceModel, mosaic: Orthomosaic) -> None:
    from rasterio.enums import Resampling

    tags = {"HEIGHT_KIND": surface.height_kind, "SURFACE_KIND": surface.kind} | ({"SYNTHETIC": "YES"} if work.synthetic else {})
    write_cog(work.path("dsm.tif", "dsm", _COG), surface.raster, band_names=("height",), tags=tags, overviews=Resampling.average)
    assert surface.standard_uncertainty is not None
    write_cog(
        work.path("dsm_uncertainty.tif", "dsm_uncertainty", _COG),
        surface.standard_uncertainty,
        band_names=("standard_uncertainty",),
        tags=tags,
        overviews=Resampling.average,
    )
    mark = {"SYNTHETIC": "YES"} if work.synthetic else {}
    write_cog(
        work.path("orthomosaic.tif", "orthomosaic", _COG),
        mosaic.raster,
        band_names=("red", "green", "blue", "alpha"),
        tags=mark,
        overviews=Resampling.average,
    )
    write_cog(work.path("sources.tif", "sources", _COG), mosaic.sources, band_names=("photo", "height_support"), tags=mark)


def _write_cloud(work: _Folder, cloud: DenseCloud, crs: CRS) -> None:
    import laspy

    header = laspy.LasHeader(point_format=7, version="1.4")
    # A date and a random identifier would make the same cloud differ from day to day.
    header.creation_date = date(1970, 1, 1)
    header.generating_software = "geoevidence"
    header.system_identifier = "SYNTHETIC" if work.synthetic else ""
    header.offsets = np.floor(cloud.points.min(axis=0))
    header.scales = np.full(3, 0.001)
    header.add_crs(crs)
    header.add_extra_dim(laspy.ExtraBytesParams(name="height_sd", type=np.float32, description="m, random part"))
    las = laspy.LasData(header)
    las.x, las.y, las.z = cloud.points.T
    # LAS colours have 16 bits.
    las.red, las.green, las.blue = (cloud.colours.astype(np.uint16) * 257).T
    las.user_data = cloud.views
    las.height_sd = cloud.height_sd
    las.write(work.path("cloud.laz", "cloud", "application/vnd.laszip"), do_compress=True, laz_backend=laspy.LazBackend.Lazrs)


def accuracy_record(block: Reconstruction, mosaic: Orthomosaic | None = None, cloud: DenseCloud | None = None) -> dict[str, Any]:
    """The accuracy record: I-JSON without floats; also the table of photos that `sources` points into."""
    report = block.accuracy
    photos = {photo.name: photo for photo in block.flight.photos}

    def number(value: float | None) -> str | None:
        return None if value is None or not math.isfinite(value) else decimal_text(value)

    record: dict[str, Any] = {
        "schema": _ACCURACY_SCHEMA,
        "crs": crs_label(block.flight.crs),
        "height_kind": block.flight.height_kind,
        "control": report.control,
        "gsd": number(report.gsd),
        "reprojection_rmse": number(report.reprojection_rmse),
        "check_rmse_horizontal": number(report.check_rmse_horizontal),
        "check_rmse_vertical": number(report.check_rmse_vertical),
        "gps_rmse_horizontal": number(report.gps_rmse_horizontal),
        "gps_rmse_vertical": number(report.gps_rmse_vertical),
        "position_sd": [number(value) for value in report.position_sd],
        "scale_sd": number(report.scale_sd),
        "focal_sd": number(report.focal_sd),
        "ground_points": [
            {"name": p.name, "role": p.role, "residual": [number(v) for v in p.residual], "photos": p.photos}
            for p in report.ground_points
        ],
        "cameras": [
            {"id": key, "model": camera.model, "params": [decimal_text(v) for v in camera.params], "size": list(camera.size)}
            for key, camera in sorted(block.cameras.items())
        ],
        "photos": [
            {
                "value": value,
                "name": name,
                "sha256": photos[name].sha256,
                "camera": photos[name].camera_id,
                "centre": [decimal_text(float(v)) for v in block.poses[name].C],
                "rotation": [decimal_text(float(v)) for v in np.ravel(block.poses[name].R)],
                "gains": None if mosaic is None else [decimal_text(v) for v in mosaic.gains[name]],
            }
            for value, name in enumerate(sorted(block.poses), start=1)
        ],
        "unregistered": {name: reason.to_dict() for name, reason in sorted(block.unregistered.items())},
    }
    if cloud is not None:
        record["dense"] = {
            "points": len(cloud.points),
            "median_photos": int(np.median(cloud.views)),
            "median_height_sd": decimal_text(round(float(np.median(cloud.height_sd)), 6)),
        }
    return record


def read_accuracy(path: Path) -> AccuracyReport:
    """The accuracy report of such a record. Raises FormatError."""
    raw = canonical.loads_canonical(Path(path).read_bytes())
    if not isinstance(raw, dict) or raw.get("schema") != _ACCURACY_SCHEMA:
        raise FormatError(
            "core.unknown_schema", where=Path(path).name, found=str(raw.get("schema") if isinstance(raw, dict) else "")
        )

    def number(value: Any, missing: float | None) -> Any:
        return missing if value is None else decimal_value(value, Path(path).name)

    try:
        east, north, up = (number(value, math.inf) for value in raw["position_sd"])
        return AccuracyReport(
            reprojection_rmse=number(raw["reprojection_rmse"], math.nan),
            gsd=number(raw["gsd"], math.nan),
            ground_points=tuple(
                PointResidual(
                    name=p["name"], role=p["role"], residual=tuple(number(v, math.nan) for v in p["residual"]), photos=p["photos"]
                )
                for p in raw["ground_points"]
            ),
            check_rmse_horizontal=number(raw["check_rmse_horizontal"], None),
            check_rmse_vertical=number(raw["check_rmse_vertical"], None),
            gps_rmse_horizontal=number(raw["gps_rmse_horizontal"], None),
            gps_rmse_vertical=number(raw["gps_rmse_vertical"], None),
            control=raw["control"],
            position_sd=(east, north, up),
            scale_sd=number(raw["scale_sd"], math.inf),
            focal_sd=number(raw["focal_sd"], math.inf),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError("drone.bad_accuracy", path=Path(path).name, reason=str(error)) from error


def read_surface(dsm: Path, uncertainty: Path | None) -> SurfaceModel:
    """A surface model from GeoTIFF; NaN or the file's nodata value mark missing heights.

    Raises:
        FormatError: unreadable, or not one band. GridMismatchError: the uncertainty is on another grid.
        CrsError: no CRS.
    """
    from geoevidence.errors import GridMismatchError

    def one(path: Path) -> Raster:
        raster = read_raster(path)
        if raster.data.shape[0] != 1:
            raise FormatError("drone.not_one_band", path=Path(path).name, bands=raster.data.shape[0])
        data = np.where(raster.mask, np.nan, raster.data.astype(np.float32)).astype(np.float32)
        return Raster(data=data, grid=raster.grid, nodata=float("nan"), unit=raster.unit or "m")

    with open_strict(Path(dsm)) as dataset:
        grid_of(dataset, Path(dsm).name)
        kind = dataset.tags().get("HEIGHT_KIND", "unknown")
    heights = one(dsm)
    errors = None if uncertainty is None else one(uncertainty)
    if errors is not None and not errors.grid.matches(heights.grid):
        raise GridMismatchError("drone.grids_differ", first=Path(dsm).name, second=Path(uncertainty or "").name)
    return SurfaceModel(
        raster=heights,
        kind="dsm",
        height_kind=kind if kind in ("ellipsoidal", "orthometric", "relative") else "unknown",  # type: ignore[arg-type]
        standard_uncertainty=errors,
        density=None,
    )


# --- pictures -----------------------------------------------------------------------------------------------------------


def shaded_relief(raster: Raster) -> Raster:
    """Heights as a picture, uint8 (4, y, x): colour by height (2nd to 98th percentile), light from the north-west, alpha 0 = unknown."""
    z = raster.data[0].astype(np.float64)
    known = np.isfinite(z)
    cell = raster.grid.resolution[0]
    gy, gx = np.gradient(z, cell)
    # Cells at a rim take the slope of their neighbour on the known side, or none.
    gx, gy = np.nan_to_num(gx), np.nan_to_num(gy)
    light = (1 + 0.7 * (gx + gy) / math.sqrt(2) * -1) / np.sqrt(1 + gx**2 + gy**2)
    low, high = np.percentile(z[known], [2, 98]) if known.any() else (0.0, 1.0)
    share = np.clip((np.where(known, z, low) - low) / max(high - low, 1e-6), 0, 1)
    stops = np.array([[58, 82, 139], [52, 152, 139], [122, 190, 96], [232, 205, 110], [190, 110, 70], [245, 240, 235]], float)
    position = share * (len(stops) - 1)
    index = np.minimum(position.astype(int), len(stops) - 2)
    part = (position - index)[..., None]
    colour = stops[index] * (1 - part) + stops[index + 1] * part
    shaded = np.clip(colour * np.clip(0.35 + 0.65 * light, 0, 1.25)[..., None], 0, 255).astype(np.uint8)
    data = np.concatenate([np.moveaxis(shaded, -1, 0), np.where(known, 255, 0).astype(np.uint8)[None]])
    return Raster(data=data, grid=raster.grid)


def _reduced(picture: Raster, longest: int) -> tuple[NDArray[np.uint8], Grid]:
    """The picture as (y, x, 4), at most `longest` px on a side, averaged over whole blocks of opaque pixels."""
    data = picture.data
    factor = max(1, math.ceil(max(data.shape[1:]) / longest))
    rows, cols = max(1, data.shape[1] // factor), max(1, data.shape[2] // factor)
    cut = data[:, : rows * factor, : cols * factor].reshape(4, rows, factor, cols, factor)
    alpha = (cut[3] > 0).astype(np.float32)
    weight = alpha.sum(axis=(1, 3))
    out = np.zeros((rows, cols, 4), np.uint8)
    for band in range(3):
        total = (cut[band] * alpha).sum(axis=(1, 3))
        out[..., band] = np.rint(total / np.maximum(weight, 1))
    out[..., 3] = np.where(weight * 2 >= factor * factor, 255, 0)
    out[out[..., 3] == 0] = 0
    t = picture.grid.transform
    return out, Grid(shape=(rows, cols), transform=t @ Affine.scale(factor), crs=picture.grid.crs)


def _cut(picture: Raster, bounds: tuple[float, float, float, float], margin: float) -> Raster:
    """The part of a picture around bounds (xmin, ymin, xmax, ymax), widened by `margin` (m), within the picture."""
    t = picture.grid.transform
    left, top = ~t @ (bounds[0] - margin, bounds[3] + margin)
    right, bottom = ~t @ (bounds[2] + margin, bounds[1] - margin)
    rows, cols = picture.grid.shape
    x0, x1 = sorted((min(max(int(left), 0), cols - 1), min(max(math.ceil(right), 1), cols)))
    y0, y1 = sorted((min(max(int(top), 0), rows - 1), min(max(math.ceil(bottom), 1), rows)))
    part = picture.data[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return Raster(data=part, grid=Grid(shape=part.shape[1:], transform=t @ Affine.translation(x0, y0), crs=picture.grid.crs))


def _picture(
    work: _Folder,
    name: str,
    picture: Raster,
    title: str,
    when: tuple[date, date] | None,
    note: Message,
    outlines: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any] | None = None,
    longest: int = _PICTURE_SIDE,
) -> None:
    image, grid = _reduced(picture, longest)
    told = Message(id=title, values=dict(values or {}))
    path = work.path(name, "preview", "image/png", told)
    map_picture(
        path,
        image,
        grid,
        title=told.render("zh"),
        date_text=_when_text(when),
        outlines=outlines,
        note=note.render("zh"),
        synthetic=work.synthetic,
    )


def _when_text(when: tuple[date, date] | None) -> str:
    if when is None:
        return Message(id="drone.date_unknown").render("zh")
    first, last = when
    if first == last:
        return Message(id="drone.date_claimed", values={"day": first}).render("zh")
    return Message(id="drone.dates_claimed", values={"first": first, "last": last}).render("zh")


# --- findings -----------------------------------------------------------------------------------------------------------


def _period(flight: Flight) -> tuple[date, date] | None:
    """First and last day that the cameras claim (in UTC where they know their zone), or None."""
    days = sorted((p.taken.astimezone(UTC) if p.taken.tzinfo else p.taken).date() for p in flight.photos if p.taken is not None)
    return (days[0], days[-1]) if days else None


def _gsd(report: AccuracyReport) -> Quantity:
    # a wrong focal length moves the flying height with it: the size of a pixel on the ground stays
    sd = 100 * report.gsd * report.scale_sd
    return Quantity(value=100 * report.gsd, unit="cm", standard_uncertainty=sd, propagation="drone.propagation_gsd")


def _height_note(surface: SurfaceModel) -> Message:
    return Message(id=f"drone.heights_{surface.height_kind}")


def _crs_text(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def _footprint(surface: SurfaceModel) -> dict[str, Any]:
    """Outline of the cells with heights, to about half a metre, as a GeoJSON MultiPolygon."""
    from rasterio.features import shapes

    known = np.isfinite(surface.raster.data[0])
    grid = surface.raster.grid
    factor = max(1, round(0.5 / grid.resolution[0]))
    rows, cols = (-(-side // factor) for side in known.shape)
    padded = np.zeros((rows * factor, cols * factor), bool)
    padded[: known.shape[0], : known.shape[1]] = known
    coarse = padded.reshape(rows, factor, cols, factor).mean(axis=(1, 3)) >= 0.5
    if not coarse.any():
        coarse = padded.reshape(rows, factor, cols, factor).any(axis=(1, 3))
    parts = [
        shapely.geometry.shape(part)
        for part, _ in shapes(coarse.astype(np.uint8), mask=coarse, transform=grid.transform @ Affine.scale(factor))
    ]
    simple = shapely.set_precision(shapely.simplify(shapely.union_all(parts), 0.5), 0.01)
    polygons = [p for p in getattr(simple, "geoms", [simple]) if p.area >= 1.0] or [simple]
    rings = [
        [[list(point) for point in ring.coords] for ring in (p.exterior, *p.interiors)]
        for p in sorted(polygons, key=lambda p: p.bounds)
    ]
    return {"type": "MultiPolygon", "coordinates": rings}


def _common_limits(report: AccuracyReport, crs: CRS, height_kind: str, when: tuple[date, date] | None) -> list[Message]:
    limits = [Message(id=f"drone.limit_heights_{height_kind}"), Message(id="drone.limit_auxiliary_survey")]
    if report.control == "gps":
        limits.insert(0, Message(id="drone.limit_gps_only"))
    if "2000" in crs.name and report.control == "gps":
        limits.append(Message(id="drone.limit_wgs84_as_cgcs2000"))
    if when is not None:
        limits.append(Message(id="drone.limit_time_claimed"))
    return limits


def _survey_findings(
    block: Reconstruction, surface: SurfaceModel, when: tuple[date, date] | None
) -> tuple[list[Finding], list[Message]]:
    flight, report = block.flight, block.accuracy
    common = tuple(_common_limits(report, flight.crs, surface.height_kind, when))
    sources = _sources(flight)
    footprint, crs = _footprint(surface), _crs_text(flight.crs)
    products = (
        "cloud.laz",
        "dsm.tif",
        "dsm_uncertainty.tif",
        "mesh.glb",
        "orthomosaic.tif",
        "preview-dsm.png",
        "preview-orthomosaic.png",
        "sources.tif",
    )
    method = Message(id="drone.method_survey")
    covered = measure_covered(surface, report)
    common_fields: dict[str, Any] = {"period": when, "sources": sources, "synthetic": flight.synthetic, "method": method}
    findings = [
        Finding(
            id="D-001",
            message=Message(
                id="drone.finding_survey",
                values={
                    "photos": len(flight.photos),
                    "used": len(block.poses),
                    "gsd": _gsd(report),
                    "crs": crs_label(flight.crs),
                },
            ),
            quantity=_gsd(report),
            geometry=footprint,
            crs=crs,
            limitations=(Message(id="drone.limit_water"), Message(id="drone.limit_vegetation"), *common),
            products=products,
            **common_fields,
        ),
        Finding(id="D-002", limitations=common, products=("accuracy.json",), **_accuracy_statement(report), **common_fields),
        Finding(
            id="D-003",
            message=Message(id="drone.finding_covered", values={"area": covered.quantity}),
            quantity=covered.quantity,
            geometry=footprint,
            crs=crs,
            limitations=(*covered.limitations, Message(id="drone.limit_water"), *common),
            products=("dsm.tif",),
            **common_fields,
        ),
    ]
    gaps = [
        Message(id="drone.gap_rejected", values={"photo": name, "reason": reason})
        for name, reason in sorted(flight.rejected.items())
    ]
    gaps += [
        Message(id="drone.gap_unregistered", values={"photo": name, "reason": reason})
        for name, reason in sorted(block.unregistered.items())
    ]
    gaps += [*flight.gaps, *block.gaps]
    if report.check_rmse_horizontal is None:
        gaps.append(Message(id="drone.gap_no_check_points"))
    return findings, gaps


def _accuracy_statement(report: AccuracyReport) -> dict[str, Any]:
    """message and quantity of the finding on accuracy: tested by check points, or said not to be."""
    checks = sum(1 for point in report.ground_points if point.role == "check")
    if report.check_rmse_horizontal is None or report.check_rmse_vertical is None or checks == 0:
        east, north, up = report.position_sd

        # an sd is itself an error, and one flight does not tell its own
        stated = {"horizontal": f"{math.hypot(east, north):.2g} m", "vertical": f"{up:.2g} m"}
        return {"message": Message(id="drone.finding_accuracy_untested", values=stated), "quantity": None}

    def rmse(value: float) -> Quantity:
        # An RMSE of n independent normal residuals has a relative sd of 1 / sqrt(2 n).
        return Quantity(
            value=value, unit="m", standard_uncertainty=value / math.sqrt(2 * checks), propagation="drone.propagation_rmse"
        )

    horizontal, vertical = rmse(report.check_rmse_horizontal), rmse(report.check_rmse_vertical)
    values = {"points": checks, "horizontal": horizontal, "vertical": vertical}
    return {"message": Message(id="drone.finding_accuracy_checked", values=values), "quantity": vertical}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A polygon to measure. name: as its file calls it; drawn: on the pictures of this survey."""

    name: str
    geometry: Mapping[str, Any]
    crs: CRS
    drawn: bool


def _read_polygons(path: Path | None) -> list[_Asked]:
    if path is None:
        return []
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError("drone.not_geojson", path=Path(path).name) from error
    found = polygons_of(document, where=Path(path).name)
    return [_Asked(name=name, geometry=geometry, crs=crs, drawn=drawn) for name, geometry, crs, drawn in found]


def _base_of(base: str) -> dict[str, Any]:
    """Arguments `base` and `base_height` of `measure_volume` for the text of a command."""
    if base in ("rim", "lowest"):
        return {"base": base}
    kind, _, height = base.partition(":")
    if kind == "horizontal":
        try:
            value = float(height)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return {"base": "horizontal", "base_height": value}
    raise ConfigError("drone.bad_base", found=base)


def _measured(
    work: _Folder,
    surface: SurfaceModel,
    accuracy: AccuracyReport | None,
    asked: Sequence[_Asked],
    config: MeasureConfig,
    picture: Raster,
    when: tuple[date, date] | None,
    first: int,
    sources: tuple[str, ...],
    base: str = "rim",
) -> tuple[list[Finding], list[Message]]:
    """Two findings a polygon, area and volume; polygons that cannot be measured are named gaps."""
    findings: list[Finding] = []
    gaps: list[Message] = []
    features: list[dict[str, Any]] = []
    crs = surface.raster.grid.crs
    for each in asked:
        polygon = read_polygon(each.geometry, each.crs, crs)
        shift = 0.0 if each.drawn or accuracy is None else math.hypot(*accuracy.position_sd[:2]) / math.sqrt(2)
        try:
            area = measure_area(polygon, crs=crs, accuracy=accuracy, surface=surface, config=config)
            volumes = measure_volume(surface, polygon, accuracy=accuracy, shift_sd=shift, config=config, **_base_of(base))
        except CoverageError as error:
            reason = Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()})
            gaps.append(Message(id="drone.gap_not_measured", values={"name": each.name, "reason": reason}))
            continue
        common = (
            tuple(_common_limits(accuracy, crs, surface.height_kind, when))
            if accuracy is not None
            else (Message(id="drone.limit_auxiliary_survey"),)
        )
        geometry = json.loads(json.dumps(shapely.geometry.mapping(polygon)))
        fill, cut, net = volumes
        stated = [
            (
                area.quantity,
                Message(id="drone.finding_area", values={"name": each.name, "area": area.quantity}),
                (area,),
                Message(id="drone.method_area"),
            ),
            (
                net.quantity,
                Message(
                    id="drone.finding_volume",
                    values={
                        "name": each.name,
                        "fill": fill.quantity,
                        "cut": cut.quantity,
                        "net": net.quantity,
                        "base": Message(id=f"drone.base_{volumes[0].base}", values={"height": base.partition(":")[2]}),
                    },
                ),
                volumes,
                Message(id="drone.method_volume"),
            ),
        ]
        notes = (
            Message(id="drone.note_area", values={"area": area.quantity}),
            Message(id="drone.note_volume", values={"fill": fill.quantity, "cut": cut.quantity}),
        )
        for (quantity, message, parts, method), note in zip(stated, notes, strict=True):
            number = f"D-{first + len(findings):03d}"
            limits = tuple(_unique([m for part in parts for m in part.limitations] + list(common)))
            name = f"{number}-measurement.json"
            work.write_json(
                name,
                "measurement",
                _measurement_record(number, each.name, parts, surface),
                title=Message(id="drone.title_measurement", values={"name": each.name}),
            )
            chip = f"{number}-picture.png"
            margin = 0.25 * max(polygon.bounds[2] - polygon.bounds[0], polygon.bounds[3] - polygon.bounds[1])
            shown = _cut(
                picture if len(parts) == 1 else _relief_around(surface.raster, polygon.bounds, margin), polygon.bounds, margin
            )
            _picture(work, chip, shown, "drone.title_measured", when, note, (geometry,), {"name": each.name}, _CHIP_SIDE)
            findings.append(
                Finding(
                    id=number,
                    message=message,
                    quantity=quantity,
                    geometry=geometry,
                    crs=_crs_text(crs),
                    period=when,
                    method=method,
                    sources=sources,
                    limitations=limits,
                    products=(name, chip),
                    synthetic=work.synthetic,
                )
            )
            features.append(
                {
                    "type": "Feature",
                    "properties": {"finding": number, "name": each.name},
                    "geometry": _rounded(transform_geometry(geometry, crs, _WGS84)),
                }
            )
    if features:
        path = work.path("measurements.geojson", "measurement_geojson", "application/geo+json")
        path.write_text(
            json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, sort_keys=True, indent=1) + "\n",
            "utf-8",
        )
    return findings, gaps


def _unique(messages: Sequence[Message]) -> list[Message]:
    seen: dict[bytes, Message] = {}
    for message in messages:
        seen.setdefault(canonical.dumps(message.to_dict()), message)
    return list(seen.values())


def _relief_around(raster: Raster, bounds: tuple[float, float, float, float], margin: float) -> Raster:
    """Shaded relief of the part of the surface around bounds: its colours span the heights of that part."""
    return shaded_relief(_cut(raster, bounds, margin))


def _rounded(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Degrees to nine decimals: a tenth of a millimetre."""

    def round_all(value: Any) -> Any:
        return round(value, 9) if isinstance(value, float) else [round_all(part) for part in value]

    return {"type": geometry["type"], "coordinates": round_all(geometry["coordinates"])}


def _measurement_record(number: str, name: str, parts: Sequence[Measurement], surface: SurfaceModel) -> dict[str, Any]:
    return {
        "schema": "geoevidence.measurement.v1",
        "finding": number,
        "name": name,
        "crs": crs_label(surface.raster.grid.crs),
        "height_kind": surface.height_kind,
        "cell": decimal_text(surface.raster.grid.resolution[0]),
        "figures": [
            {
                "kind": part.kind,
                "quantity": part.quantity.to_dict(),
                "base": part.base,
                "uncovered_fraction": decimal_text(round(part.uncovered_fraction, 9)),
                "limitations": [limit.to_dict() for limit in part.limitations],
            }
            for part in parts
        ],
        "polygon": [[[decimal_text(float(v)) for v in point[:2]] for point in ring] for ring in parts[0].geometry["coordinates"]],
    }
