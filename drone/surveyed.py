"""A survey read back from its folder, or a surface model that comes alone: what measuring, comparing and challenging start from.

In: the folder that `survey` left, or a GeoTIFF. Out: a `Surveyed`: surface with errors, error field of the block, accuracy, photo
table, pictures, period, digests of what was read. What is missing is missing in the result; nothing is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from drone.errorfield import read_error_field
from drone.products import common_height_error, digest_of, read_accuracy, read_surface, source_digests
from drone.sight import TablePhoto, read_photo_table
from drone.types import AccuracyReport, Reconstruction, SurfaceModel
from geoevidence.errors import FormatError, InputError
from geoevidence.raster import Raster, open_strict, read_raster
from geoevidence.types import ProcessResult


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surveyed:
    """surface: heights, errors, error field. accuracy: of the block, None for a surface alone. table: photos, empty without.

    picture, sources: path of the orthomosaic and of its photo numbers, or None. when: first and last day claimed, or None.
    digests: `sha256:<hex>` of each file that was read, sorted. name: of the folder or file.
    """

    name: str
    surface: SurfaceModel
    accuracy: AccuracyReport | None
    table: tuple[TablePhoto, ...]
    picture: Path | None
    sources: Path | None
    when: tuple[date, date] | None
    synthetic: bool
    digests: tuple[str, ...]

    def read_picture(self) -> Raster | None:
        return None if self.picture is None else read_raster(self.picture)

    def read_sources(self) -> Raster | None:
        return None if self.sources is None else read_raster(self.sources, bands=[1])


def surveyed_now(block: Reconstruction, surface: SurfaceModel, when: tuple[date, date] | None) -> Surveyed:
    """A survey under way, before its files are read back; its digests are those of the photos."""
    photos = {photo.name: photo for photo in block.flight.photos}
    table = tuple(
        TablePhoto(
            value=value,
            name=name,
            sha256=photos[name].sha256,
            camera=block.cameras[photos[name].camera_id],
            pose=block.poses[name],
        )
        for value, name in enumerate(sorted(block.poses), start=1)
    )
    return Surveyed(
        name="",
        surface=replace(surface, error_field=surface.error_field or block.error_field, stretch_sd=block.accuracy.focal_sd),
        accuracy=block.accuracy,
        table=table,
        picture=None,
        sources=None,
        when=when,
        synthetic=block.flight.synthetic,
        digests=source_digests(block.flight),
    )


def read_surveyed(path: Path) -> Surveyed:
    """The survey of a folder, or the surface model of a file.

    Raises:
        FormatError: no survey's folder, a file of it is missing or damaged. CrsError, GridMismatchError: see `read_surface`.
    """
    path = Path(path)
    if path.is_dir():
        return surveyed_of(ProcessResult.read(path), path)
    if not path.exists():
        raise InputError("drone.no_such_surface", path=path.name)
    return read_bare_surface(path)


def surveyed_of(former: ProcessResult, folder: Path) -> Surveyed:
    """The survey whose result is `former`, its products in `folder`. Raises as `read_surveyed`."""
    by_kind = {product.kind: folder / product.path for product in former.products}
    for kind in ("dsm", "dsm_uncertainty", "accuracy", "orthomosaic"):
        if kind not in by_kind:
            raise FormatError("drone.survey_incomplete", path=folder.name, kind=kind)
    surface = _with_tags(read_surface(by_kind["dsm"], by_kind["dsm_uncertainty"]), by_kind["dsm_uncertainty"])
    read = ["dsm", "dsm_uncertainty", "accuracy"]
    if "error_field" in by_kind:
        surface = replace(surface, error_field=read_error_field(by_kind["error_field"]))
        read.append("error_field")
    return Surveyed(
        name=folder.name,
        surface=surface,
        accuracy=read_accuracy(by_kind["accuracy"]),
        table=read_photo_table(by_kind["accuracy"]),
        picture=by_kind["orthomosaic"],
        sources=by_kind.get("sources"),
        when=next((finding.period for finding in former.findings if finding.period), None),
        synthetic=former.synthetic,
        digests=tuple(sorted({digest_of(by_kind[kind]) or "" for kind in read})),
    )


def read_bare_surface(dsm: Path, *, uncertainty: Path | None = None, correlation_m: float | None = None) -> Surveyed:
    """A surface model alone. uncertainty: raster of standard uncertainties on the same grid, or None.

    That of a survey (two bands) brings the noise of its cells, and the errors of the block as one height common to all of it.

    correlation_m: the distance over which these errors are alike (m), or None where nobody knows; the file's tag CORRELATION_M counts.

    Raises:
        FormatError, CrsError, GridMismatchError: see `read_surface`.
    """
    surface = read_surface(dsm, uncertainty)
    if uncertainty is not None:
        surface = replace(_with_tags(surface, uncertainty), error_field=common_height_error(uncertainty))
    if correlation_m is not None:
        surface = replace(surface, correlation_m=correlation_m)
    digests = {digest_of(dsm) or ""} | ({digest_of(uncertainty) or ""} if uncertainty is not None else set())
    return Surveyed(
        name=Path(dsm).name,
        surface=surface,
        accuracy=None,
        table=(),
        picture=None,
        sources=None,
        when=None,
        synthetic=False,
        digests=tuple(sorted(digests)),
    )


def _with_tags(surface: SurfaceModel, uncertainty: Path) -> SurfaceModel:
    """The surface with what the tags of its uncertainty raster state: range of the noise, stretch of heights. Raises FormatError."""
    with open_strict(Path(uncertainty)) as dataset:
        tags = dataset.tags()
    name = Path(uncertainty).name
    correlation, stretch = tags.get("CORRELATION_M"), tags.get("STRETCH_SD")
    return replace(
        surface,
        correlation_m=None if correlation is None else _stated(correlation, 1e4, "drone.bad_correlation", name),
        stretch_sd=None if stretch is None else _stated(stretch, 1.0, "drone.bad_stretch", name),
    )


def _stated(text: str, below: float, message_id: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < below:
        raise FormatError(message_id, path=name, found=str(text))
    return value
