"""The files of a survey: rasters, cloud, accuracy record, pictures, and reading them back.

A `ResultFolder` remembers what was written for `ProcessResult.products`. Same content, same bytes: no dates, no random
identifiers. Numbers in JSON are decimal texts (docs/formats/result.md). Nothing is computed here that is not drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from drone.errorfield import height_sd, write_error_field
from drone.ortho import Orthomosaic
from drone.types import AccuracyReport, DenseCloud, ErrorField, Flight, PointResidual, Reconstruction, SurfaceModel
from geoevidence.crs import crs_label
from geoevidence.errors import FormatError, GridMismatchError, InputError
from geoevidence.figures import map_picture
from geoevidence.raster import Grid, Raster, grid_of, open_strict, read_raster, write_cog
from geoevidence.trust import canonical
from geoevidence.types import Finding, Message, ProcessResult, Product, decimal_text, decimal_value

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_ACCURACY_SCHEMA = "geoevidence.accuracy.v1"
_PICTURE_SIDE = 1600


class GeoidUsed(Protocol):
    """What the accuracy record says of the geoid model that heights were brought to (`drone.geoid.Undulation`)."""

    @property
    def file(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def middle(self) -> float: ...
    @property
    def values(self) -> NDArray[np.float64]: ...


class ResultFolder:
    """The folder of a result under way, and the list of what was written."""

    def __init__(self, folder: Path, *, synthetic: bool) -> None:
        self.folder, self.synthetic = folder, synthetic
        self._products: dict[str, Product] = {}

    def path(self, name: str, kind: str, media_type: str, title: Message | None = None) -> Path:
        shown = title or Message(id=f"drone.title_{kind}")
        self._products[name] = Product(path=name, kind=kind, media_type=media_type, title=shown)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(
        self, name: str, kind: str, value: Mapping[str, Any], media_type: str = "application/json", title: Message | None = None
    ) -> None:
        self.path(name, kind, media_type, title).write_bytes(canonical.dumps(value))

    def products(self) -> tuple[Product, ...]:
        return tuple(self._products[name] for name in sorted(self._products))

    def finish(
        self,
        process: str,
        *,
        parameters: Mapping[str, Any],
        findings: Sequence[Finding],
        gaps: Sequence[Message],
        seed: int | None = None,
    ) -> ProcessResult:
        """The result of what was written here, and its `result.json`."""
        result = ProcessResult(
            process=process,
            parameters=parameters,
            seed=seed,
            products=self.products(),
            findings=tuple(findings),
            gaps=tuple(gaps),
            synthetic=self.synthetic,
        )
        result.write(self.folder)
        return result


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


def write_rasters(
    work: ResultFolder,
    surface: SurfaceModel,
    mosaic: Orthomosaic,
    terrain: SurfaceModel | None = None,
    water: Raster | None = None,
    bands: Mapping[str, Raster] | None = None,
) -> None:
    """bands: kind of surface -> whole uncertainty and noise as one raster, where they are not to be made in memory."""
    from rasterio.enums import Resampling

    ready = bands or {}
    tags = {"HEIGHT_KIND": surface.height_kind, "SURFACE_KIND": surface.kind} | ({"SYNTHETIC": "YES"} if work.synthetic else {})
    write_cog(work.path("dsm.tif", "dsm", _COG), surface.raster, band_names=("height",), tags=tags, overviews=Resampling.average)
    _write_uncertainty(work.path("dsm_uncertainty.tif", "dsm_uncertainty", _COG), surface, tags, ready.get("dsm"))
    if terrain is not None:
        marks = tags | {"SURFACE_KIND": terrain.kind}
        write_cog(
            work.path("dtm.tif", "dtm", _COG), terrain.raster, band_names=("height",), tags=marks, overviews=Resampling.average
        )
        # what the adjustment may have left is the same for both surfaces, whichever of them names it
        whole = replace(terrain, error_field=terrain.error_field or surface.error_field, stretch_sd=surface.stretch_sd)
        _write_uncertainty(work.path("dtm_uncertainty.tif", "dtm_uncertainty", _COG), whole, marks, ready.get("dtm"))
    if surface.error_field is not None:
        write_error_field(work.path("error_field.npz", "error_field", "application/octet-stream"), surface.error_field)
    mark = {"SYNTHETIC": "YES"} if work.synthetic else {}
    if water is not None:
        write_cog(work.path("water.tif", "water", _COG), water, band_names=("reasons",), tags=mark)
    write_cog(
        work.path("orthomosaic.tif", "orthomosaic", _COG),
        mosaic.raster,
        band_names=("red", "green", "blue", "alpha"),
        tags=mark,
        overviews=Resampling.average,
    )
    write_cog(work.path("sources.tif", "sources", _COG), mosaic.sources, band_names=("photo", "height_support"), tags=mark)


_TOTAL, _NOISE = "standard_uncertainty", "matching_noise"
_UNCERTAINTY_BANDS = {
    _TOTAL: "standard uncertainty (k=1, m) of the height of a cell: matching noise, and what the adjustment may have left in the "
    "block (its position, tilt, scale and bending); error_field.npz holds how the latter goes together from cell to cell",
    _NOISE: "standard uncertainty (k=1, m) against the block: matching noise alone, alike over CORRELATION_M where stated",
}
"""What the bands of an uncertainty raster are, as its file says."""


def total_sd(surface: SurfaceModel) -> Raster | None:
    """Standard uncertainty of each height, m: matching noise and error field together; None unless the surface has both."""
    noise = surface.standard_uncertainty
    if noise is None or surface.error_field is None:
        return None
    return replace(noise, data=np.hypot(noise.data[0], height_sd(surface.error_field, noise.grid))[None].astype(np.float32))


def _write_uncertainty(path: Path, surface: SurfaceModel, tags: Mapping[str, str], ready: Raster | None = None) -> None:
    """Band 1 the whole, band 2 the noise; the noise alone, under its own name, where nobody knows the rest."""
    from rasterio.enums import Resampling

    noise, total = surface.standard_uncertainty, total_sd(surface) if ready is None else None
    assert noise is not None
    raster = ready or (noise if total is None else replace(noise, data=np.concatenate([total.data, noise.data])))
    names = (_NOISE,) if raster is noise else (_TOTAL, _NOISE)
    told = {f"BAND_{number}": _UNCERTAINTY_BANDS[name] for number, name in enumerate(names, start=1)}
    if surface.correlation_m is not None:
        told["CORRELATION_M"] = decimal_text(surface.correlation_m)
    if surface.stretch_sd is not None and 0 < surface.stretch_sd < 1:
        told["STRETCH_SD"] = decimal_text(surface.stretch_sd)
    write_cog(path, raster, band_names=names, tags={**tags, **told}, overviews=Resampling.average)


def accuracy_record(
    block: Reconstruction, mosaic: Orthomosaic | None = None, cloud: DenseCloud | None = None, geoid: GeoidUsed | None = None
) -> dict[str, Any]:
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
        "reprojection_mean": number(report.reprojection_mean),
        "held_out_rmse": number(report.held_out_rmse),
        "held_out_observations": report.held_out_observations,
        "rolling_shutter": None if report.rolling_shutter is None else [number(value) for value in report.rolling_shutter],
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
                "contrast": None if mosaic is None else decimal_text(mosaic.contrast.get(name, 1.0)),
            }
            for value, name in enumerate(sorted(block.poses), start=1)
        ],
        "unregistered": {name: reason.to_dict() for name, reason in sorted(block.unregistered.items())},
    }
    if mosaic is not None:
        record["fall_off"] = {name: [decimal_text(v) for v in curve] for name, curve in sorted(mosaic.fall_off.items())}
    if geoid is not None:
        record["geoid"] = {
            "file": geoid.file,
            "digest": geoid.digest,
            "undulation": decimal_text(geoid.middle),
            "least": decimal_text(round(float(geoid.values.min()), 4)),
            "most": decimal_text(round(float(geoid.values.max()), 4)),
        }
    if cloud is not None:
        record["dense"] = {
            "points": len(cloud.points),
            "median_photos": int(np.median(cloud.views)),
            "median_height_sd": decimal_text(round(float(np.median(cloud.height_sd)), 6)),
        }
    return record


_LATER_FIELDS = ("reprojection_mean", "held_out_rmse", "held_out_observations", "rolling_shutter")
"""Fields that records of version 1 have only since they were added to it."""


def read_accuracy(path: Path) -> AccuracyReport:
    """The accuracy report of such a record; what an older one does not hold is named in `not_recorded`. Raises FormatError."""
    raw = canonical.loads_canonical(Path(path).read_bytes())
    if not isinstance(raw, dict) or raw.get("schema") != _ACCURACY_SCHEMA:
        raise FormatError(
            "core.unknown_schema", where=Path(path).name, found=str(raw.get("schema") if isinstance(raw, dict) else "")
        )

    def number(value: Any, missing: float | None) -> Any:
        return missing if value is None else decimal_value(value, Path(path).name)

    def count(value: Any) -> int | None:
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"held_out_observations {value!r}")
        return value

    try:
        east, north, up = (number(value, math.inf) for value in raw["position_sd"])
        shutter = raw.get("rolling_shutter")
        motion = None if shutter is None else tuple(number(value, math.nan) for value in shutter)
        if motion is not None and len(motion) != 2:
            raise ValueError(f"rolling_shutter {shutter!r}")
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
            reprojection_mean=number(raw.get("reprojection_mean"), None),
            held_out_rmse=number(raw.get("held_out_rmse"), None),
            held_out_observations=count(raw.get("held_out_observations")),
            rolling_shutter=motion,
            not_recorded=tuple(name for name in _LATER_FIELDS if name not in raw),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError("drone.bad_accuracy", path=Path(path).name, reason=str(error)) from error


def read_surface(dsm: Path, uncertainty: Path | None) -> SurfaceModel:
    """A surface model from GeoTIFF; NaN or the file's nodata value mark missing heights.

    uncertainty: one band of standard uncertainties, all of them taken as noise of the cells; or the two bands of a survey's own
    file, of which the second is the noise (`common_height_error` has the rest).

    Raises:
        FormatError: unreadable, other bands. GridMismatchError: the uncertainty is on another grid. CrsError: no CRS.
    """
    heights, _ = _bands(dsm)
    with open_strict(Path(dsm)) as dataset:
        kind = dataset.tags().get("HEIGHT_KIND", "unknown")
    if heights.data.shape[0] != 1:
        raise FormatError("drone.not_one_band", path=Path(dsm).name, bands=heights.data.shape[0])
    noise = None
    if uncertainty is not None:
        errors, names = _bands(uncertainty)
        if not errors.grid.matches(heights.grid):
            raise GridMismatchError("drone.grids_differ", first=Path(dsm).name, second=Path(uncertainty).name)
        if errors.data.shape[0] > 1 and names != (_TOTAL, _NOISE):
            raise FormatError("drone.uncertainty_bands", path=Path(uncertainty).name, bands=errors.data.shape[0])
        noise = replace(errors, data=errors.data[-1:])
    return SurfaceModel(
        raster=heights,
        kind="dsm",
        height_kind=kind if kind in ("ellipsoidal", "orthometric", "relative") else "unknown",
        standard_uncertainty=noise,
        density=None,
    )


def _bands(path: Path) -> tuple[Raster, tuple[str | None, ...]]:
    """All bands float32, NaN = missing, and their names."""
    raster = read_raster(path)
    with open_strict(Path(path)) as dataset:
        grid_of(dataset, Path(path).name)
        names = tuple(dataset.descriptions)
    data = np.where(raster.mask, np.nan, raster.data.astype(np.float32)).astype(np.float32)
    return Raster(data=data, grid=raster.grid, nodata=float("nan"), unit=raster.unit or "m"), names


_NODES = 40
"""Squares on the longer side of a grid: an adjustment's errors change over the distance between photos and more."""


def common_height_error(uncertainty: Path) -> ErrorField | None:
    """What band 1 of a survey's uncertainty raster has beyond its band 2, as an error that moves all heights up or down as one.

    For a surface that comes without `error_field.npz`, which knows how these errors go together; plan is left without error. The
    root of the mean variance over squares of the grid. None: one band, or no cell that tells it. Raises FormatError, CrsError.
    """
    errors, _ = _bands(uncertainty)
    if errors.data.shape[0] != 2:
        return None
    rows, cols = errors.grid.shape
    step = max(1, math.ceil(max(rows, cols) / _NODES))
    beyond = errors.data[0].astype(np.float64) ** 2 - errors.data[1].astype(np.float64) ** 2
    padded = np.pad(beyond, ((0, -rows % step), (0, -cols % step)), constant_values=np.nan)
    squares = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    known = np.isfinite(squares)
    count = known.sum(axis=(1, 3))
    if not count.any():
        return None
    mean = np.where(known, squares, 0.0).sum(axis=(1, 3)) / np.maximum(count, 1)
    # where no cell has a height, as the nearest square
    nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    up = np.sqrt(np.maximum(mean[tuple(nearest)], 0.0))[::-1]
    t = errors.grid.transform
    factor = np.zeros((1, *up.shape, 3), np.float32)
    factor[0, ..., 2] = up
    return ErrorField(
        origin=(t.c + step * t.a / 2, t.f + (up.shape[0] - 0.5) * step * t.e),
        spacing=(step * t.a, -step * t.e),
        factor=factor,
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


def reduced(picture: Raster, longest: int) -> tuple[NDArray[np.uint8], Grid]:
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
    image, grid = reduced(picture, longest)
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
