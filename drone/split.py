"""Large flights: overlapping parts, each reconstructed by itself, joined, and merged into one survey. Memory is that of a part.

The parts (`drone.parts`) run in this process, in processes of this machine, or on a Dask cluster that is there already, which must see the
same folders; they are joined (`drone.whole`, `drone.joining`), make the products of their ground, and these are merged window by window
(`drone.merging`). The same bytes come out whatever does the work, and in whatever order. What is finished is kept: a survey that was killed
loses at most the parts under way. Dask appears here and nowhere else in this package.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drone import ortho, surface
from drone.appearance import Appearance, appearance_of
from drone.cloud import write_copc_of_parts
from drone.findings import height_note, note_gsd, period_of
from drone.geoid import Undulation, block_above_geoid, cloud_above_geoid, read_undulation
from drone.joining import Join, Seam, Territory
from drone.measured import read_shapes
from drone.merging import HeightSeam, Lattice, Merged, PartProducts, level_parts, merge, overview, read_array, uncertainty_bands
from drone.mesh import write_mesh
from drone.metadata import look_through
from drone.ortho import Orthomosaic
from drone.parts import Job, Part, PartTask, SplitConfig, make_part, place_part, plan_parts
from drone.products import ResultFolder, accuracy_record, digest_of, shaded_relief, write_picture, write_rasters
from drone.quality import write_quality
from drone.resume import StageStore, code_digest
from drone.shapes import Asked
from drone.surveyed import surveyed_now
from drone.types import DenseCloud, Reconstruction, SurfaceModel, parameters_of
from drone.whole import PartsJoined, camera_id, join_parts
from drone.workflow import (
    UNFINISHED,
    SurveyConfig,
    beside,
    failures_told,
    move_in,
    open_out,
    survey,
    survey_result,
    without_threads,
)
from geoevidence.cluster import local_workers, workers_at
from geoevidence.crs import parse_crs
from geoevidence.errors import GeoEvidenceError, InputError
from geoevidence.raster import Raster
from geoevidence.types import Message, ProcessResult, Progress, decimal_text, no_progress

_POINTS_PER_GB = 3_000_000
"""Points of the cloud that are put in order at once: at 150 bytes each, half of the memory of a part."""
_SAMPLE = 5_000_000
_WIDE = 40_000_000
"""Cells of the surface from which on pictures, mesh and quality report are made of a coarser one."""


def survey_split(
    photos: Path,
    *,
    out: Path,
    gcp: Path | None = None,
    checks: Path | None = None,
    polygons: Path | None = None,
    crs: str | None = None,
    geoid: Path | None = None,
    config: SurveyConfig = SurveyConfig(),
    split: SplitConfig = SplitConfig(),
    dask: str | None = None,
    work: Path | None = None,
    progress: Progress = no_progress,
) -> ProcessResult:
    """`survey` of a flight of any size, part by part: the same files, with a section `seams` in `accuracy.json`.

    A flight that fits in one part is surveyed as a whole, and the result is that of `survey`.

    Args:
        split: how many photos make a part, or what memory a part may take. dask: address of a scheduler that is there
            already (`tcp://host:8786`), whose workers see the photos and `out` (or `work`) under the same paths and run
            this very code; None: this process, or `split.workers` processes of this machine.
        The others are those of `survey`.

    Raises:
        As `survey`. InputError: photos without positions in a flight that does not fit in one part; a cluster that cannot be reached, runs other
        code, or does not see the folder. ConfigError: parts too small.
    """
    with failures_told(out):
        return _survey(
            Path(photos), Path(out), gcp=gcp, checks=checks, polygons=polygons, crs=crs, geoid=geoid, config=config, split=split,
            dask=dask, work=work, progress=progress,
        )  # fmt: skip


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
    split: SplitConfig,
    dask: str | None,
    work: Path | None,
    progress: Progress,
) -> ProcessResult:
    open_out(out)
    asked = read_shapes(polygons)
    wanted = None if crs is None else parse_crs(crs)
    gcp, checks = gcp or beside(photos, "gcp_list.txt"), checks or beside(photos, "check_list.txt")
    progress("drone.stage_read", 0.0)
    flight, looks = look_through(photos, appearance_of, gcp=gcp, checks=checks, crs=wanted, config=config.metadata)
    parts = plan_parts(flight, split)
    if len(parts) == 1:
        return survey(
            photos,
            out=out,
            gcp=gcp,
            checks=checks,
            polygons=polygons,
            crs=crs,
            geoid=geoid,
            config=config,
            work=work,
            progress=progress,
        )
    parameters = {
        "config": without_threads(parameters_of(config)),
        "split": {name: value for name, value in parameters_of(split).items() if name != "workers"},
        "gcp": digest_of(gcp),
        "checks": digest_of(checks),
        "polygons": digest_of(polygons),
    }
    parameters |= {name: value for name, value in (("crs", crs), ("geoid", digest_of(geoid))) if value is not None}
    request = {"parameters": parameters, "photos": [[p.name, p.sha256] for p in flight.photos], "code": code_digest()}
    folder = (work or out / UNFINISHED).absolute()
    stages = StageStore(folder, request, shared={"flight": flight, "crs": flight.crs}, kinds=(Join, PartsJoined, Seam))
    job = Job(folder=folder, request=request, flight=flight, parts=parts, config=config, split=split)
    with Crew(job, address=dask) as crew:
        crew.run("place", [(part.number, ()) for part in parts], progress, "drone.stage_parts_placed")
        joined = stages.once("joined", lambda: join_parts(job, progress))
        gsd = joined.block.accuracy.gsd
        lattice = Lattice.of(surface.cell_of(config.surface, gsd), ortho.cell_of(config.ortho, gsd))
        centres = np.array([joined.block.poses[name].C for name in sorted(joined.block.poses)])
        tasks = [
            (number, (PartTask(correction=correction, lattice=lattice, centres=centres, owner=joined.owner),))
            for number, correction in sorted(joined.join.corrections.items())
            if (joined.owner == number).any()
        ]
        crew.run("make", tasks, progress, "drone.stage_parts_made")
    made = [job.products_of(number) for number, _ in tasks]
    progress("drone.stage_write", 0.0)
    products, merged = folder / "products", folder / "merged"
    for each in (products, merged):
        if each.exists():
            shutil.rmtree(each)
        each.mkdir()
    result = _written(
        products, merged, job, joined, made, lattice, Territory(centres, joined.owner), looks, geoid, asked, parameters, progress
    )
    move_in(products, out, [product.path for product in result.products])
    for done in {folder, out / UNFINISHED}:
        shutil.rmtree(done)
    progress("drone.stage_write", 1.0)
    return result


def _written(
    folder: Path,
    scratch: Path,
    job: Job,
    joined: PartsJoined,
    made: Sequence[PartProducts],
    lattice: Lattice,
    territory: Territory,
    looks: Mapping[str, Appearance],
    geoid: Path | None,
    asked: Sequence[Asked],
    parameters: Mapping[str, Any],
    progress: Progress,
) -> ProcessResult:
    """All files of the survey and its findings."""
    block, config, flight = joined.block, job.config, joined.block.flight
    above: Undulation | None = None
    if geoid is not None:
        above = read_undulation(geoid, _bounds(made, lattice), flight.crs)
        block = block_above_geoid(block, above)
    homes = {part.number: job.home(part.number) for part in made}
    merged = merge(
        scratch,
        made,
        homes,
        lattice=lattice,
        territory=territory,
        names=sorted(block.poses),
        crs=flight.crs,
        noise=joined.join.seam_sd[1],
        feather=job.split.feather * lattice.metres,
        picture_feather=config.ortho.feather * lattice.picture_metres,
        geoid=above,
    )
    when = period_of(flight)
    model, terrain, mosaic = _models(merged, made, block, joined)
    site = surveyed_now(block, model, when)
    work = ResultFolder(folder, synthetic=flight.synthetic)
    bands: dict[str, Raster] = {each.kind: uncertainty_bands(scratch, each) for each in (model, terrain) if each is not None}
    write_rasters(work, site.surface, mosaic, terrain, merged.water, bands)
    progress("drone.stage_write", 0.3)
    path = work.path("cloud.copc.laz", "cloud", "application/vnd.laszip+copc")
    most = round(_POINTS_PER_GB * job.split.memory_gb)
    clouds = [partial(_cloud_of, part, homes[part.number], above) for part in made]
    write_copc_of_parts(path, clouds, flight.crs, synthetic=flight.synthetic, most=most)
    cloud = _told_of(made, homes)
    progress("drone.stage_write", 0.5)
    coarse, picture = _coarse(model, _WIDE), _coarse_picture(mosaic, _WIDE)
    write_mesh(work, block, coarse, picture, config=config.mesh)
    record = accuracy_record(block, mosaic, cloud, above)
    work.write_json("accuracy.json", "accuracy", {**record, "seams": seams_record(joined, merged, job.parts)})
    progress("drone.stage_write", 0.7)
    write_picture(work, "preview-orthomosaic.png", picture.raster, "drone.title_orthomosaic", when, note_gsd(block.accuracy), ())
    write_picture(work, "preview-dsm.png", shaded_relief(coarse.raster), "drone.title_dsm", when, height_note(model), ())
    gaps = [
        Message(id="drone.gap_split", values={"parts": len(job.parts), "photos": max(len(part.photos) for part in job.parts)}),
        *_merge_gaps(merged, made),
    ]
    progress("drone.stage_quality", 0.0)
    write_quality(work, block, coarse, picture, cloud, looks, gaps, job.flight)
    progress("drone.stage_quality", 1.0)
    return survey_result(work, site, block, model, mosaic, above, asked, gaps, parameters, job.config)


def _bounds(made: Sequence[PartProducts], lattice: Lattice) -> tuple[float, float, float, float]:
    m = lattice.metres
    west, east = min(p.col for p in made) * m, max(p.col + p.cols for p in made) * m
    south, north = -max(p.row + p.rows for p in made) * m, -min(p.row for p in made) * m
    return west, south, east, north


def _models(
    merged: Merged, made: Sequence[PartProducts], block: Reconstruction, joined: PartsJoined
) -> tuple[SurfaceModel, SurfaceModel | None, Orthomosaic]:
    """Surface, bare ground and picture of the whole, mapped from disk."""
    ranges = [part.correlation_m for part in made if part.correlation_m is not None]
    common: dict[str, Any] = {
        "height_kind": block.flight.height_kind,
        "density": None,
        "correlation_m": float(np.median(ranges)) if ranges else None,
        "error_field": joined.join.field,
    }
    model = SurfaceModel(raster=merged.dsm, kind="dsm", standard_uncertainty=merged.dsm_sd, **common)
    terrain = None
    if merged.dtm is not None:
        terrain = SurfaceModel(raster=merged.dtm, kind="dtm", standard_uncertainty=merged.dtm_sd, **common)
    factors = level_parts(made)
    names = tuple(sorted(block.poses))
    by_number = {part.number: part for part in made}
    gains: dict[str, tuple[float, float, float]] = {}
    fall_off: dict[str, tuple[float, float, float]] = {}
    contrast: dict[str, float] = {}
    for name, number in zip(names, joined.owner.tolist(), strict=True):
        part = by_number[number]
        red, green, blue = (round(float(g * f), 4) for g, f in zip(part.gains[name], factors[number], strict=True))
        gains[name] = (red, green, blue)
        contrast[name] = part.contrast[name]
    for part in made:
        fall_off |= {camera_id(key, part.number): curve for key, curve in part.fall_off.items()}
    used = {photo.camera_id for photo in block.flight.photos if photo.name in block.poses}
    return (
        model,
        terrain,
        Orthomosaic(
            raster=merged.picture,
            sources=merged.sources,
            photos=names,
            gains=gains,
            fall_off={key: curve for key, curve in sorted(fall_off.items()) if key in used},
            contrast=contrast,
        ),
    )


def _cloud_of(part: PartProducts, home: Path, above: Undulation | None) -> DenseCloud:
    """The dense points of a part's territory."""
    points, colours, views, sd = (
        read_array(home, name, part.files[name]) for name in ("points", "colours", "views", "height_sd")
    )
    cloud = DenseCloud(points=points, colours=colours, views=views, height_sd=sd)
    return cloud if above is None else cloud_above_geoid(cloud, above)


def _told_of(made: Sequence[PartProducts], homes: Mapping[int, Path]) -> DenseCloud:
    """What reports tell of the cloud: how many points there are, and how good a sample of them is. It has no positions."""
    count = sum(part.points for part in made)
    step = max(1, count // _SAMPLE)

    def of(name: str) -> Any:
        return np.concatenate([read_array(homes[part.number], name, part.files[name])[::step] for part in made])

    ranges = [part.correlation_m for part in made if part.correlation_m is not None]
    return DenseCloud(
        points=np.broadcast_to(np.zeros(3), (count, 3)),
        colours=np.broadcast_to(np.zeros(3, np.uint8), (count, 3)),
        views=of("views"),
        height_sd=of("height_sd"),
        correlation_m=float(np.median(ranges)) if ranges else None,
    )


def _coarse(model: SurfaceModel, most: int) -> SurfaceModel:
    """The surface with at most so many cells, in the mean of those that have heights."""
    raster, sd = model.raster, model.standard_uncertainty
    factor = math.ceil(math.sqrt(raster.data[0].size / most))
    if factor <= 1 or sd is None:
        return model
    return replace(model, raster=overview(raster, factor), standard_uncertainty=overview(sd, factor))


def _coarse_picture(mosaic: Orthomosaic, most: int) -> Orthomosaic:
    factor = math.ceil(math.sqrt(mosaic.raster.data[0].size / (4 * most)))
    if factor <= 1:
        return mosaic
    return replace(mosaic, raster=overview(mosaic.raster, factor), sources=overview(mosaic.sources, factor))


def seams_record(joined: PartsJoined, merged: Merged, parts: Sequence[Part]) -> dict[str, Any]:
    """The section `seams` of the accuracy record (docs/methods/drone_split.md); I-JSON without floats."""
    gsd = joined.block.accuracy.gsd

    def metres(values: Sequence[float]) -> list[str]:
        return [decimal_text(round(value, 5)) for value in values]

    def in_gsd(values: Sequence[float]) -> list[str]:
        return [decimal_text(round(value / gsd, 3)) for value in values]

    heights = {(seam.first, seam.second): seam for seam in merged.seams}
    return {
        "parts": [
            {
                "part": part.number + 1,
                "photos": len(part.photos),
                "core": len(part.core),
                "placed": part.number in joined.join.corrections,
            }
            for part in parts
        ],
        "misfit": decimal_text(round(joined.join.misfit, 4)),
        "seam_sd": metres(joined.join.seam_sd),
        "pairs": [
            {
                "parts": [seam.first + 1, seam.second + 1],
                "photos": seam.photos,
                "points": seam.points,
                "before": metres(seam.before),
                "after": metres(seam.after),
                "after_gsd": in_gsd(seam.after),
                "largest": metres(seam.largest),
                "largest_gsd": in_gsd(seam.largest),
                "centres": metres(seam.centres),
                "heights": _height_record(heights.get((seam.first, seam.second))),
            }
            for seam in joined.join.seams
        ],
    }


def _height_record(seam: HeightSeam | None) -> dict[str, Any] | None:
    if seam is None:
        return None
    return {
        "cells": seam.cells,
        "median": decimal_text(round(seam.median, 5)),
        "nmad": decimal_text(round(seam.nmad, 5)),
        "apart": decimal_text(round(seam.apart, 5)),
    }


def _merge_gaps(merged: Merged, made: Sequence[PartProducts]) -> list[Message]:
    gaps = [
        Message(id="drone.gap_of_part", values={"part": part.number + 1, "reason": gap}) for part in made for gap in part.gaps
    ]
    area = merged.water_area
    if area > 0:
        gaps.append(Message(id="drone.gap_water_parts", values={"area": f"{area:.2g}" if area < 10 else f"{area:.0f}"}))
    for seam in merged.seams:
        if seam.apart > _MUCH_APART:
            values = {"first": seam.first + 1, "second": seam.second + 1, "share": f"{100 * seam.apart:.0f} %"}
            gaps.append(Message(id="drone.seam_heights", values=values))
    return gaps


_MUCH_APART = 0.05
"""Share of the cells along a seam that may differ beyond three standard deviations before it is said; edges of things make some."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A task's error, so that it comes back whole from another process."""

    kind: str
    message_id: str
    values: Mapping[str, Any]


def _attempt(work: str, job: Job, number: int, args: tuple[Any, ...]) -> _Failure | None:
    tasks: Mapping[str, Callable[..., None]] = {"place": place_part, "make": make_part}
    try:
        tasks[work](job, number, *args)
    except GeoEvidenceError as error:
        return _Failure(type(error).__name__, error.message_id, {name: str(value) for name, value in error.values.items()})
    except MemoryError:
        return _Failure("AnalysisError", "drone.out_of_memory", {})
    except OSError as error:
        name = Path(str(error.filename or job.folder)).name
        return _Failure("InputError", "drone.storage_failed", {"path": name, "reason": error.strerror or str(error)})
    return None


def _raise(failure: _Failure) -> None:
    from geoevidence import errors

    raise getattr(errors, failure.kind)(failure.message_id, **failure.values)


def _sees(folder: str, key: str) -> bool:
    """On a worker: whether it sees the folder of finished work."""
    try:
        return (Path(folder) / "key").read_text("ascii") == key
    except OSError:
        return False


class Crew:
    """Does tasks on parts: in this process, in processes of this machine, or on a cluster."""

    def __init__(self, job: Job, *, address: str | None) -> None:
        self._job, self._address = job, address
        self._client: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        with ExitStack() as stack:
            if not self._address:
                client = stack.enter_context(local_workers(self._job.split.workers, lives=0))
            else:
                try:
                    client = stack.enter_context(workers_at(self._address))
                except (OSError, ValueError, TimeoutError) as error:
                    raise InputError("drone.split_no_cluster", address=self._address, reason=str(error)) from error
                digests = set(client.run(code_digest).values())
                if digests != {code_digest()}:
                    raise InputError("drone.split_other_code", address=self._address)
                folder = str(self._job.folder.absolute())
                key = (self._job.folder / "key").read_text("ascii")
                if not all(client.run(_sees, folder, key).values()):
                    raise InputError("drone.split_other_folder", address=self._address, path=self._job.folder.name)
            self._client = client
            self._stack.enter_context(stack.pop_all())

    def run(self, work: str, tasks: Sequence[tuple[int, tuple[Any, ...]]], progress: Progress, stage: str) -> None:
        """Does a task of every part named; raises the first error there is, once no other part is under way."""
        if not tasks:
            return
        progress(stage, 0.0)
        if self._client is None and not self._address and (self._job.split.workers == 1 or len(tasks) == 1):
            for done, (number, args) in enumerate(tasks):
                failure = _attempt(work, self._job, number, (*args, progress))
                if failure is not None:
                    _raise(failure)
                progress(stage, (done + 1) / len(tasks))
            return
        if self._client is None:
            self._start()
        for done, failure in enumerate(self._handed_out(work, tasks)):
            if failure is not None:
                _raise(failure)
            progress(stage, (done + 1) / len(tasks))

    def _handed_out(self, work: str, tasks: Sequence[tuple[int, tuple[Any, ...]]]) -> Iterator[_Failure | None]:
        from distributed import KilledWorker, as_completed

        left = iter(tasks)
        done = as_completed()
        numbers: dict[str, int] = {}

        def hand_out() -> None:
            for number, args in left:
                future = self._client.submit(_attempt, work, self._job, number, args, pure=False)
                numbers[future.key] = number
                done.add(future)
                return

        for _ in range(max(1, sum(self._client.nthreads().values()))):
            hand_out()
        for future in done:
            number = numbers.pop(future.key)
            if future.status == "finished":
                hand_out()
                yield future.result()
            elif future.status == "error" and isinstance(future.exception(), KilledWorker):
                yield _Failure("AnalysisError", "drone.part_worker_died", {"part": number + 1})
            elif future.status == "error":
                raise future.exception()
            else:
                yield _Failure("InputError", "drone.split_cluster_lost", {"part": number + 1})
