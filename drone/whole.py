"""The parts of a large flight as one block: corrected poses, cameras of every part, accuracy of the whole, what seams say.

In: the adjusted parts that stand in their stores. Out: `PartsJoined`. The block has each photo once, as the part whose cell it lies in has it, and a
sample of the tie points. A part that could not be reconstructed, or has no scale, is left out with each of its photos named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from drone.georeference import positions_of
from drone.joining import Join, PartGround, Seam, Territory, corrected_block, field_sd, join, rms, scale_sd, shift_of
from drone.parts import Job
from drone.types import AccuracyReport, Camera, ErrorField, Flight, PointResidual, Pose, Reconstruction
from geoevidence.errors import ReconstructionError
from geoevidence.types import Message, Progress, no_progress

Array = NDArray[np.float64]
_TIES_PER_PHOTO = 300
"""Observations of tie points that the whole block keeps per photo: enough for its residuals, few enough for memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartsJoined:
    """What joining the parts gives. block: the whole, with a sample of its tie points. owner: part of each of its photos, in the order of
    sorted(block.poses). unplaced: parts without a scale of their own."""

    join: Join
    block: Reconstruction
    owner: NDArray[np.int64]
    unplaced: tuple[int, ...]


def join_parts(job: Job, progress: Progress = no_progress) -> PartsJoined:
    """The parts that stand in their stores as one block.

    Raises:
        ReconstructionError: no part could be reconstructed, or none has a scale.
    """
    progress("drone.stage_join", 0.0)
    shown = {name: 0 for name in (photo.name for photo in job.flight.photos)}
    for part in job.parts:
        for name in part.photos:
            shown[name] += 1
    shared = {name for name, count in shown.items() if count > 1}
    grounds, failed, unplaced = [], {}, []
    for part in job.parts:
        block = job.block_of(part.number)
        if isinstance(block, Message):
            failed[part.number] = block
        elif block.error_field is None:
            unplaced.append(part.number)
        else:
            grounds.append(ground_of(part.number, block, shared))
    if not grounds:
        if unplaced:
            raise ReconstructionError("drone.no_scale", photos=len(job.flight.photos))
        first = failed[min(failed)]
        raise ReconstructionError("drone.split_no_part", parts=len(job.parts), reason=first.render("en"))
    usable = [ground.number for ground in grounds]
    home: dict[str, int] = {}
    for number in usable:
        for name in job.placed_of(number).poses:
            # its own part where that has it, else the first that does
            if name in job.parts[number].core or name not in home:
                home[name] = number
    names = sorted(home)
    centres = np.zeros((len(names), 3))
    for number in usable:
        poses = job.placed_of(number).poses
        for index, name in enumerate(names):
            if home[name] == number:
                centres[index] = poses[name].C
    owner = np.array([home[name] for name in names], np.int64)
    control = [point for point in job.flight.ground_points if point.role == "control"]
    used = any(not ground.offset_sd.any() for ground in grounds) and len(control) > 0
    control_sd = np.sqrt((np.array([point.sd for point in control]) ** 2).mean(axis=0) / len(control)) if used else np.zeros(3)
    found = join(grounds, territory=Territory(centres, owner), control_sd=control_sd, config=job.split.join)
    return _whole(job, found, home, owner, failed, tuple(unplaced), progress)


def ground_of(number: int, block: Reconstruction, shared: set[str]) -> PartGround:
    """What joining needs of a part. shared: photos that other parts have too."""
    assert block.error_field is not None
    names = tuple(sorted(block.poses))
    both = np.array([name in shared for name in names])
    owner = np.repeat(np.arange(len(block.points)), np.diff(block.track_offsets))
    keep = both[block.track_photos]
    counts = np.bincount(owner[keep], minlength=len(block.points))
    tied = counts >= 2
    keep &= tied[owner]
    photos = {photo.name: photo for photo in block.flight.photos}
    offset = np.zeros(3)
    if block.accuracy.control == "gps":
        stated = np.array([photos[name].position_sd for name in names if photos[name].position is not None])
        floor = block.parameters["adjust"]["gps_offset_floor"]
        offset = np.maximum(np.sqrt((stated**2).mean(axis=0)), [float(value) for value in floor])
        # a focal length that is off lifts the ground under positions that are held, and the parts have one camera
        above = np.median([pose.C[2] for pose in block.poses.values()]) - np.median(block.points[:, 2])
        offset[2] = math.hypot(offset[2], block.accuracy.focal_sd * float(above))
    return PartGround(
        number=number,
        names=names,
        points=block.points[tied],
        offsets=np.concatenate([[0], np.cumsum(counts[tied])]).astype(np.int64),
        photos=block.track_photos[keep].astype(np.int64),
        pixels=block.track_pixels[keep].astype(np.float64),
        field=block.error_field,
        gsd=block.accuracy.gsd,
        footprint=block.accuracy.gsd * min(min(photos[name].size) for name in names),
        offset_sd=offset,
    )


def _whole(
    job: Job,
    found: Join,
    home: Mapping[str, int],
    owner: NDArray[np.int64],
    failed: Mapping[int, Message],
    unplaced: tuple[int, ...],
    progress: Progress,
) -> PartsJoined:
    """The block of all parts: corrected poses, each photo as its own part has it, cameras of every part, a sample of tie points."""
    names = sorted(home)
    index = {name: k for k, name in enumerate(names)}
    poses: dict[str, Pose] = {}
    cameras: dict[str, Camera] = {}
    points: list[Array] = []
    counts, photos, pixels = [], [], []
    reports: dict[int, AccuracyReport] = {}
    residuals: dict[str, tuple[int, PointResidual]] = {}
    centres: dict[int, dict[str, Array]] = {}
    weights: dict[int, int] = {}
    reasons: dict[str, Message] = {}
    gaps: list[Message] = []
    outliers: set[str] = set()
    camera_of = {photo.name: photo.camera_id for photo in job.flight.photos}
    for done, number in enumerate(sorted(found.corrections)):
        stored = job.placed_of(number)
        block = corrected_block(stored, found.corrections[number])
        reports[number], weights[number] = block.accuracy, len(block.track_photos)
        centres[number] = {name: pose.C for name, pose in block.poses.items()}
        mine = sorted(name for name in block.poses if home[name] == number)
        for name in mine:
            poses[name] = block.poses[name]
        outliers |= {str(gap.values["photo"]) for gap in block.gaps if gap.id == "drone.gps_outlier"} & set(mine)
        for key in sorted({camera_of[name] for name in mine}):
            cameras[camera_id(key, number)] = replace(block.cameras[key], id=camera_id(key, number))
        for name, reason in block.unregistered.items():
            if name not in home and (name in job.parts[number].core or name not in reasons):
                reasons[name] = reason
        gaps += [Message(id="drone.gap_of_part", values={"part": number + 1, "reason": gap}) for gap in block.gaps]
        moved = _moved_residuals(job.flight, block, found.corrections[number])
        for point in moved:
            # the part that shows it best tells where it lies
            best = residuals.get(point.name)
            if best is None or point.photos > best[1].photos:
                residuals[point.name] = (number, point)
        kept = _sampled(block, mine, _TIES_PER_PHOTO)
        points.append(block.points[kept.points])
        counts.append(kept.counts)
        local = sorted(block.poses)
        photos.append(np.array([index[local[k]] for k in kept.photos], np.int32))
        pixels.append(kept.pixels)
        progress("drone.stage_join", (done + 1) / len(found.corrections))
    for number, reason in failed.items():
        for name in job.parts[number].core:
            if name not in home:
                reasons.setdefault(
                    name, Message(id="drone.left_out_part", values={"photo": name, "part": number + 1, "reason": reason})
                )
    for number in unplaced:
        for name in job.parts[number].core:
            if name not in home:
                reasons.setdefault(name, Message(id="drone.left_out_no_scale", values={"photo": name, "part": number + 1}))
    # what was left out keeps the camera as the photos state it
    cameras |= {key: job.flight.cameras[key] for name, key in camera_of.items() if name not in home}
    joined = replace(found, seams=tuple(_with_centres(seam, centres) for seam in found.seams))
    gaps += _seam_gaps(job, joined, reports)
    flight = replace(
        job.flight,
        cameras={
            **job.flight.cameras,
            **cameras,
        },
        photos=tuple(
            replace(photo, camera_id=camera_id(photo.camera_id, home[photo.name])) if photo.name in home else photo
            for photo in job.flight.photos
        ),
    )
    block = Reconstruction(
        flight=flight,
        poses={name: poses[name] for name in names},
        cameras=dict(sorted(cameras.items())),
        points=np.concatenate(points),
        track_offsets=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64),
        track_photos=np.concatenate(photos),
        track_pixels=np.concatenate(pixels),
        unregistered=dict(sorted(reasons.items())),
        accuracy=_accuracy(job, joined, reports, weights, [residuals[name][1] for name in sorted(residuals)], poses, outliers),
        gaps=tuple(gaps),
        error_field=joined.field,
    )
    return PartsJoined(join=joined, block=block, owner=owner, unplaced=unplaced)


def camera_id(key: str, number: int) -> str:
    """A camera in a part: each part has found its own calibration of it."""
    return f"{key} ({number + 1})"


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Rows of points; observations per point; photo (index) and pixel of each."""

    points: NDArray[np.int64]
    counts: NDArray[np.int64]
    photos: NDArray[np.int64]
    pixels: NDArray[np.float32]


def _sampled(block: Reconstruction, mine: Sequence[str], each: int) -> _Sample:
    """Tie points seen in two photos of `mine` or more, evenly over the list, with their observations there."""
    local = sorted(block.poses)
    own = np.isin(np.array(local), np.array(mine))
    owner = np.repeat(np.arange(len(block.points)), np.diff(block.track_offsets))
    here = own[block.track_photos]
    counts = np.bincount(owner[here], minlength=len(block.points))
    good = np.flatnonzero(counts >= 2)
    step = max(1, int(counts[good].sum()) // max(each * len(mine), 1))
    chosen = np.zeros(len(block.points), bool)
    chosen[good[::step]] = True
    rows = here & chosen[owner]
    return _Sample(np.flatnonzero(chosen), counts[chosen], block.track_photos[rows].astype(np.int64), block.track_pixels[rows])


def _moved_residuals(flight: Flight, block: Reconstruction, correction: ErrorField) -> list[PointResidual]:
    surveyed = {point.name: np.array(point.position) for point in flight.ground_points}
    moved = []
    for point in block.accuracy.ground_points:
        place = surveyed[point.name] + point.residual
        e, n, u = (float(v) for v in np.asarray(point.residual) - shift_of(correction, place[None])[0])
        moved.append(replace(point, residual=(e, n, u)))
    return moved


def _with_centres(seam: Seam, centres: Mapping[int, Mapping[str, Array]]) -> Seam:
    one, other = centres[seam.first], centres[seam.second]
    return replace(
        seam, centres=rms(np.array([one[name] - other[name] for name in sorted(set(one) & set(other))]).reshape(-1, 3))
    )


def _seam_gaps(job: Job, joined: Join, reports: Mapping[int, AccuracyReport]) -> list[Message]:
    """What joining could not do, and seams that differ by more than the parts' errors let expect."""
    gaps = []
    if len(job.parts) > 1:
        gaps += [Message(id="drone.part_alone", values={"part": number + 1}) for number in joined.alone]
    if joined.misfit > job.split.join.misfit**2:
        gaps.append(Message(id="drone.seams_misfit", values={"factor": f"{math.sqrt(joined.misfit):.1f}"}))
    if any(report.control == "ground_points" for report in reports.values()):
        bare = [str(number + 1) for number, report in sorted(reports.items()) if report.control != "ground_points"]
        if bare:
            gaps.append(Message(id="drone.parts_without_control", values={"parts": ", ".join(bare)}))
    return gaps


def _accuracy(
    job: Job,
    joined: Join,
    reports: Mapping[int, AccuracyReport],
    weights: Mapping[int, int],
    ground: Sequence[PointResidual],
    poses: Mapping[str, Pose],
    outliers: set[str],
) -> AccuracyReport:
    """Accuracy of the whole, as `georeference` states it of a block. outliers: photos whose positions their parts did not use."""
    check = np.array([point.residual for point in ground if point.role == "check"]).reshape(-1, 3)
    placed = positions_of(job.flight)
    apart = np.array([poses[name].C - placed[name] for name in sorted(poses) if name in placed and name not in outliers]).reshape(
        -1, 3
    )
    horizontal, vertical = rms(check)
    flat, up = rms(apart)
    sd = field_sd(joined.field)
    if len(check) >= 3:
        sd = np.maximum(sd, np.sqrt((check**2).mean(axis=0)))

    def mean(values: Mapping[int, tuple[float | None, int]]) -> float | None:
        known = [(value, weight) for value, weight in values.values() if value is not None and weight > 0]
        return math.sqrt(sum(w * v * v for v, w in known) / sum(w for _, w in known)) if known else None

    held = {number: (report.held_out_rmse, report.held_out_observations or 0) for number, report in reports.items()}
    reprojection = mean({number: (report.reprojection_rmse, weights[number]) for number, report in reports.items()})
    shutters = [report.rolling_shutter for report in reports.values() if report.rolling_shutter is not None]
    total = sum(weights.values())
    lengths = [(r.reprojection_mean, weights[n]) for n, r in reports.items() if r.reprojection_mean is not None]
    return AccuracyReport(
        reprojection_rmse=reprojection if reprojection is not None else math.nan,
        reprojection_mean=sum(v * w for v, w in lengths) / total if lengths and total else None,
        held_out_rmse=mean(held),
        held_out_observations=sum(count for _, count in held.values()),
        gsd=float(np.median([report.gsd for report in reports.values()])),
        ground_points=tuple(ground),
        check_rmse_horizontal=horizontal if len(check) else None,
        check_rmse_vertical=vertical if len(check) else None,
        gps_rmse_horizontal=flat if len(apart) else None,
        gps_rmse_vertical=up if len(apart) else None,
        control="ground_points" if any(report.control == "ground_points" for report in reports.values()) else "gps",
        position_sd=(float(sd[0]), float(sd[1]), float(sd[2])),
        scale_sd=scale_sd(joined.field),
        focal_sd=max(report.focal_sd for report in reports.values()),
        rolling_shutter=max(shutters) if shutters else None,
    )
