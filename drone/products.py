"""The files of a survey: rasters, cloud, accuracy record, pictures, and reading them back.

A `ResultFolder` remembers what was written for `ProcessResult.products`. Same content, same bytes: no dates, no random
identifiers. Numbers in JSON are decimal texts (docs/formats/result.md). Nothing is computed here that is not drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from drone.ortho import Orthomosaic
from drone.types import AccuracyReport, DenseCloud, Flight, PointResidual, Reconstruction, SurfaceModel
from geoevidence.crs import crs_label
from geoevidence.errors import FormatError, InputError
from geoevidence.figures import map_picture
from geoevidence.raster import Grid, Raster, grid_of, open_strict, read_raster, write_cog
from geoevidence.trust import canonical
from geoevidence.types import Message, Product, decimal_text, decimal_value

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_ACCURACY_SCHEMA = "geoevidence.accuracy.v1"
_PICTURE_SIDE = 1600


class ResultFolder:
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


def empty_folder(out: Path) -> Path:
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise InputError("drone.out_not_empty", path=out.name)
    return out


def digest_of(path: Path | None) -> str | None:
    from hashlib import file_digest

    if path is None:
        return None
    with Path(path).open("rb") as stream:
        return f"sha256:{file_digest(stream, 'sha256').hexdigest()}"


def source_digests(flight: Flight) -> tuple[str, ...]:
    return tuple(sorted({f"sha256:{photo.sha256}" for photo in flight.photos}))


def write_rasters(work: ResultFolder, surface: SurfaceModel, mosaic: Orthomosaic) -> None:
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


def write_cloud(work: ResultFolder, cloud: DenseCloud, crs: CRS) -> None:
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


def cut_out(picture: Raster, bounds: tuple[float, float, float, float], margin: float) -> Raster:
    """The part of a picture around bounds (xmin, ymin, xmax, ymax), widened by `margin` (m), within the picture."""
    t = picture.grid.transform
    left, top = ~t @ (bounds[0] - margin, bounds[3] + margin)
    right, bottom = ~t @ (bounds[2] + margin, bounds[1] - margin)
    rows, cols = picture.grid.shape
    x0, x1 = sorted((min(max(int(left), 0), cols - 1), min(max(math.ceil(right), 1), cols)))
    y0, y1 = sorted((min(max(int(top), 0), rows - 1), min(max(math.ceil(bottom), 1), rows)))
    part = picture.data[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return Raster(data=part, grid=Grid(shape=part.shape[1:], transform=t @ Affine.translation(x0, y0), crs=picture.grid.crs))


def write_picture(
    work: ResultFolder,
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
