"""A free model and what is known about the ground -> an adjusted block in the flight's CRS.

`georeference` places the model by control points or by GPS (similarity, outliers set aside), then runs one least-squares
adjustment of poses, camera, tie points, control points and a common GPS offset, and propagates its covariance to
the ground. Check points never enter the adjustment. Positions that do not fit the photos are refused: the
block then has `accuracy.control == "none"`, an arbitrary frame, and infinite uncertainties.
The adjustment works in metres on the ground: the grid's scale (0.9996 to 1.0004) is taken out of eastings and northings
before and put back behind it, so that neither heights nor the focal length have to take it up.
No I/O. Sources: Triggs et al. (2000), Bundle adjustment - a modern synthesis, doi 10.1007/3-540-44480-7_21;
Umeyama (1991), doi 10.1109/34.88573.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from drone.adjustment import (
    Block,
    Priors,
    adjust,
    covariance_of,
    local_points,
    point_sensitivity,
    reduced,
    residuals,
    row_centres,
    solved,
)
from drone.camera import PARAMETERS, opencv_params, project_camera_points, rays, triangulate
from drone.types import AccuracyReport, Camera, ErrorField, Flight, GroundPoint, PointResidual, Pose, Reconstruction
from drone.uncertainty import block_covariance, common_effect, error_field, shared_effect
from geoevidence.crs import transformer
from geoevidence.types import Message, Progress, no_progress

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
_ROUNDS_AT_MOST = 6
_STRAIGHT, _WAIT = 0.7, 1.5
"""Cosine between ways from photo to photo that belong to one strip; how many times as long as the other a way may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustConfig:
    """The adjustment.

    principal_point_sd: of the image's longer side (1): prior on the principal point about the image centre.
    distortion_sd: prior sd of k1, k2 and of p1, p2 about zero; loose, they only keep weak blocks from running away.
    focal_sd: relative prior sd of the focal length where the camera states none.
    free: what is estimated of the camera besides the focal length, which is one for both axes.
    convergence_deg: below this spread of viewing directions (root mean square about their mean) the photos' own focal
        length is believed only if it agrees with what the camera states; otherwise that is held.
    focal_agreement: they agree within this many sd of their difference.
    tilt_sd_deg: sd of the mean viewing direction that the photos' attitudes state, degrees; it matters to single strips only.
    huber: residuals beyond this many sigmas count linearly (Huber 1964: 1.345 loses 5 % on normal errors).
    max_residual_px: tie-point observations farther off are dropped; so are those beyond outlier_sd of their sd.
    motion_chi2: a tie point whose observations fit a point that moves steadily over the ground better by more than this is one
        that moves (shadows, crowns, vehicles) and is dropped; 13.8 has one still point in a thousand.
    motion_px: so far at least it must have moved between its first photo and its last, px.
    held_out: one in so many tie points takes no part in the adjustment and tests it; 0 for none.
    shutter_sd: a rolling shutter is allowed for where its read-out time is this many times its sd, and
    shutter_px: moves pixels at the upper and lower edge by as much.
    readout_sd: s, prior sd of the read-out time about zero; sensors of drones take 10 to 60 ms.
    slip_sd: prior sd of a photo's own motion during the read-out, part of the flight's (1): gusts, and times that are not exact.
    readout: s, a usual read-out time, for the first guess of slips; the one found takes its place.
    interval: s between photos that carry no times; it only scales the read-out time.
    min_angle_deg: tie points whose rays all meet at less are dropped; their depth is not known.
    mark_sd_px: how well a ground point is marked in a photo, px, one sigma per axis.
    independent: observations of a photo that count as independent at the most; where there are more, they share this weight, for errors
        of lens and shutter are common to them. Too many bend a block (doming) against what else is known. What neighbours in a
        photo have in common is found from the residuals (`drone.uncertainty.shared_effect`) and weighed by itself.
    barometer_sd: m, first guess of the scatter of heights that follow the barometer, as most makers' do; found anew in rounds.
    gps_offset_floor: (E, N, U) m: sd of the offset that all positions of a flight share, at the least.
    gps_misfit: positions fit while the root mean square misfit is below this many of their sd, and below
    gps_misfit_share: this part of the spread of the cameras. free_bend: part of the spread by which a free model may be bent, added to
        gps_misfit in quadrature. After the adjustment, positions that scatter by more than gps_misfit of their sd are said to.
    least_down: upward part of the mean viewing direction beyond which a fit is upside down (1).
    gps_inliers: at least this part of the positions must fit.
    iterations: Levenberg-Marquardt steps a round. rounds: adjust, then drop outliers and weigh anew.
    tolerance: chi-square of the last step of poses and cameras; 0.01 moves none by more than 0.1 of its sd.
    seed: of the sampling in the robust fit.
    """

    principal_point_sd: float = 0.01
    distortion_sd: tuple[float, float] = (0.3, 0.01)
    focal_sd: float = 0.15
    free: tuple[str, ...] = ("cx", "cy", "k1", "k2", "p1", "p2")
    convergence_deg: float = 10.0
    focal_agreement: float = 2.0
    tilt_sd_deg: float = 3.0
    huber: float = 1.345
    max_residual_px: float = 4.0
    outlier_sd: float = 6.0
    motion_chi2: float = 13.8
    motion_px: float = 1.0
    held_out: int = 20
    shutter_sd: float = 4.0
    shutter_px: float = 0.2
    readout_sd: float = 0.05
    slip_sd: float = 0.1
    readout: float = 0.03
    interval: float = 2.0
    min_angle_deg: float = 1.5
    mark_sd_px: float = 0.5
    independent: int = 100
    barometer_sd: float = 0.1
    gps_offset_floor: tuple[float, float, float] = (0.02, 0.02, 0.03)
    gps_misfit: float = 3.0
    gps_misfit_share: float = 0.2
    free_bend: float = 0.03
    least_down: float = 0.3
    gps_inliers: float = 0.6
    iterations: int = 60
    rounds: int = 2
    tolerance: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FreeModel:
    """A reconstruction in its own frame and scale.

    names: registered photos, sorted. R: (P, 3, 3) world-to-camera. C: (P, 3). cameras: camera id -> estimated Camera.
    points: (N, 3). obs_photo, obs_point: (M,) indices; obs_pixel: (M, 2) col, row. obs_matched: (M,) whether the pixel is matched anew,
    see `drone.tiepoints`, or None where none is.
    """

    names: tuple[str, ...]
    R: Array
    C: Array
    cameras: Mapping[str, Camera]
    points: Array
    obs_photo: Ints
    obs_point: Ints
    obs_pixel: Array
    obs_matched: NDArray[np.bool_] | None = None


def positions_of(flight: Flight) -> dict[str, Array]:
    """Photo name -> (E, N, U) m of its claimed position, in the flight's CRS."""
    convert = transformer(CRS.from_epsg(4326), flight.crs)
    result = {}
    for photo in flight.photos:
        if photo.position is not None:
            lon, lat, height = photo.position
            e, n = convert.transform(lon, lat)
            if math.isfinite(e) and math.isfinite(n):
                result[photo.name] = np.array([e, n, height])
    return result


def similarity(source: Array, target: Array) -> tuple[float, Array, Array]:
    """(scale, R, t) with target ~ scale * R @ source + t, least squares over rows (N, 3). Umeyama (1991)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, d, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    spread = float((a * a).sum())
    scale = float(np.trace(np.diag(d) @ flip)) / spread if spread > 0 else 1.0
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


def _robust_similarity(
    source: Array, target: Array, sd: Array, seed: int
) -> tuple[tuple[float, Array, Array], NDArray[np.bool_]]:
    """Similarity by the least median of squares over sampled triples (Rousseeuw 1984), then least squares over inliers."""
    count = len(source)
    rng = np.random.default_rng(seed)
    best, best_score = similarity(source, target), math.inf
    for trial in range(300 if count > 3 else 1):
        pick = np.arange(count) if trial == 0 else rng.choice(count, 3, replace=False)
        candidate = similarity(source[pick], target[pick])
        score = float(np.median(_misfit(candidate, source, target, sd)))
        if candidate[0] > 0 and score < best_score:
            best, best_score = candidate, score
    inliers = np.ones(count, bool)
    for _ in range(10):
        misfit = _misfit(best, source, target, sd)
        # 3.4 medians of the length of a normal error in three axes are 5.2 sigmas. No position is put aside for
        # being off by less than its own stated sd.
        limit = max(math.sqrt(3.0), 3.4 * float(np.median(misfit)))
        chosen = misfit <= limit
        if chosen.sum() < 3 or (chosen == inliers).all():
            break
        inliers = chosen
        best = similarity(source[inliers], target[inliers])
    return best, inliers


def _misfit(fit: tuple[float, Array, Array], source: Array, target: Array, sd: Array) -> Array:
    scale, rotation, shift = fit
    return np.asarray(np.linalg.norm((scale * source @ rotation.T + shift - target) / sd, axis=1))


def _is_linear(points: Array) -> bool:
    """True when points lie so close to one line that the turn about it is not determined."""
    if len(points) < 3:
        return True
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(singular[1] < 0.05 * singular[0])


def attitude_rotation(attitude: tuple[float, float, float]) -> Array:
    """World (E, N, U) to camera rotation (3, 3) of gimbal (yaw, pitch, roll) in degrees.

    Yaw clockwise from north, pitch -90 looks down, roll about the viewing axis.
    """
    yaw, pitch, roll = np.radians(attitude)
    forward = np.array([math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = math.cos(roll), math.sin(roll)
    return np.stack([c * right + s * down, -s * right + c * down, forward])


def _angles_ok(block: Block, limit_deg: float) -> NDArray[np.bool_]:
    """Per point: two of its rays meet at no less than the limit. Compared with the first and the farthest ray."""
    direction = block.X[block.point] - block.C[block.photo]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    order = np.argsort(block.point, kind="stable")
    points = block.point[order]
    first = order[np.searchsorted(points, block.point)]
    cosine = np.einsum("mi,mi->m", direction, direction[first])
    least = np.ones(len(block.X))
    np.minimum.at(least, block.point, cosine)
    return np.asarray(least <= math.cos(math.radians(limit_deg)))


def _filtered(block: Block, ties: int, config: AdjustConfig) -> Block:
    """Without outlying observations and points seen less than twice or at too small an angle; ground points are kept."""
    distance = np.linalg.norm(residuals(block), axis=1)
    ahead = local_points(block)[:, 2] > 0
    ground = block.point >= ties
    limit = np.minimum(config.max_residual_px, config.outlier_sd * block.pixel_sd[:, 0])
    keep = ground | ((distance <= limit) & ahead)
    for _ in range(2):
        views = np.bincount(block.point[keep], minlength=len(block.X))
        keep &= ground | (views[block.point] >= 2)
        thin = replace(block, photo=block.photo[keep], point=block.point[keep])
        keep &= ground | _angles_ok(thin, config.min_angle_deg)[block.point]
    alive = np.bincount(block.point[keep], minlength=len(block.X)) > 0
    alive[ties:] = True
    index = np.cumsum(alive) - 1
    return replace(
        block,
        X=block.X[alive],
        photo=block.photo[keep],
        camera=block.camera[keep],
        point=index[block.point[keep]],
        pixel=block.pixel[keep],
        pixel_sd=block.pixel_sd[keep],
        phase=block.phase[keep],
        share=block.share[keep],
        group=block.group[keep],
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """What the steps share. names: photo -> index of its pose; ids: sorted camera ids; camera_of: (P,) index into ids;
    origin: (3,) m, subtracted from all positions so that float64 keeps micrometres; scale: (3,) metres of the grid per metre on the ground,
    1 upwards. gps, gps_sd: (P, 3) m on the ground, less the origin. sizes: (K, 2) px. times: (P,) s, or None where one is not known.
    rolling: whether photos are taken as read out row by row.
    """

    flight: Flight
    model: FreeModel
    names: Mapping[str, int]
    ids: tuple[str, ...]
    camera_of: Ints
    origin: Array
    scale: Array
    gps: Array
    gps_sd: Array
    sizes: Array
    times: Array | None
    config: AdjustConfig
    rolling: bool = False

    def local(self, positions: Array) -> Array:
        """Positions (N, 3) or (3,) of the grid in the frame of the adjustment."""
        return np.asarray((positions - self.origin) / self.scale)

    def grid(self, positions: Array) -> Array:
        """The inverse of `local`."""
        return np.asarray(positions * self.scale + self.origin)


def _triangulated(task: _Task, block: Block, point: GroundPoint) -> Array | None:
    """Position of a ground point from its observations in registered photos, least squares in pixels.

    None if it is seen less than twice or its rays are parallel.
    """
    seen = [(task.names[name], pixel) for name, pixel in point.observations.items() if name in task.names]
    if len(seen) < 2:
        return None
    photo = np.array([index for index, _ in seen])
    pixels = np.array([pixel for _, pixel in seen], float)
    cameras = task.camera_of[photo]
    params, rotation = block.params[cameras, :8], block.R[photo]
    motion = block.params[cameras, 8, None] * block.velocity[photo] + block.slip[photo]
    centres = block.C[photo] + _phase(task, cameras, pixels)[:, None] * motion
    directions = [
        r.T @ rays(_camera(task, p, c), pixel[None])[0] for r, p, c, pixel in zip(rotation, params, cameras, pixels, strict=True)
    ]
    try:
        position = triangulate(centres, np.stack(directions))
    except np.linalg.LinAlgError:
        return None

    def pixels_at(place: Array) -> Array:
        return project_camera_points(params, np.einsum("mij,mj->mi", rotation, place - centres))

    h = 1e-6 * float(np.linalg.norm(position - centres[0]))
    for _ in range(10):
        jacobian = np.stack(
            [(pixels_at(position + e) - pixels_at(position - e)).ravel() / (2 * h) for e in h * np.eye(3)], axis=1
        )
        step, *_ = np.linalg.lstsq(jacobian, (pixels - pixels_at(position)).ravel(), rcond=None)
        position = position + step
        if np.linalg.norm(step) < 1e-3 * h:
            break
    return np.asarray(position)


def _phase(task: _Task, camera: Ints, pixel: Array) -> Array:
    """(M,) when rows are read, see `Block.phase`."""
    return np.asarray(pixel[:, 1] / task.sizes[camera, 1] - 0.5)


def _camera(task: _Task, params: Array, index: int) -> Camera:
    """The adjusted camera `ids[index]`."""
    known = task.flight.cameras[task.ids[index]]
    return replace(known, model="OPENCV", params=tuple(float(value) for value in params))


@dataclass(frozen=True, slots=True)
class _Placement:
    """scale, rotation, shift onto the local frame; what it rests on; positions that fit; misfit of all fitting ones."""

    scale: float
    rotation: Array
    shift: Array
    control: Literal["gps", "ground_points", "none"]
    fitting: NDArray[np.bool_]
    gaps: tuple[Message, ...]


def _place(task: _Task, controls: list[tuple[GroundPoint, Array]]) -> _Placement:
    """Where the free model lies. `controls`: control points with their positions in the model's frame."""
    model, gps = task.model, task.gps
    has = np.isfinite(gps[:, 0])
    fitting, gaps = has.copy(), []
    by_gps = _place_by_gps(task) if has.sum() >= 2 else None
    if has.sum() >= 2 and by_gps is None:
        gaps.append(Message(id="drone.gps_does_not_fit", values={"photos": int(has.sum())}))
        fitting[:] = False
    if by_gps is not None:
        fitting[np.flatnonzero(has)] = by_gps[1]
        for index in np.flatnonzero(has & ~fitting):
            gaps.append(Message(id="drone.gps_outlier", values={"photo": model.names[index]}))
    positions = task.local(np.array([point.position for point, _ in controls]).reshape(-1, 3))
    if len(controls) >= 3 and not _is_linear(positions):
        fit = similarity(np.array([place for _, place in controls]), positions)
        return _Placement(*fit, "ground_points", fitting, tuple(gaps))
    if by_gps is not None:
        return _Placement(*by_gps[0], "ground_points" if len(controls) >= 3 else "gps", fitting, tuple(gaps))
    # Nothing fits: an arbitrary frame, level by the mean viewing direction, with the median depth as its unit.
    down = model.R[:, 2].mean(axis=0)
    down /= np.linalg.norm(down)
    side = np.linalg.svd(np.eye(3) - np.outer(down, down))[0][:, 0]
    rotation = np.stack([side, np.cross(-down, side), -down])
    depth = np.einsum("mi,mi->m", model.R[model.obs_photo, 2], model.points[model.obs_point] - model.C[model.obs_photo])
    scale = 1 / float(np.median(depth))
    return _Placement(scale, rotation, -scale * rotation @ model.C.mean(axis=0), "none", np.zeros(len(has), bool), tuple(gaps))


def _place_by_gps(task: _Task) -> tuple[tuple[float, Array, Array], NDArray[np.bool_]] | None:
    """Similarity onto the positions and which of them fit, or None when they do not fit the photos."""
    model, config = task.model, task.config
    has = np.flatnonzero(np.isfinite(task.gps[:, 0]))
    source, target, sd = model.C[has], task.gps[has], task.gps_sd[has]
    photos = {photo.name: photo for photo in task.flight.photos}
    if _is_linear(target) or _is_linear(source):
        # On one line the turn about it is open: a point ahead of each camera, along its stated attitude, closes it.
        attitudes = [photos[model.names[i]].attitude for i in has]
        if any(attitude is None for attitude in attitudes):
            return None
        base, reach = np.linalg.norm(np.ptp(source, axis=0)), np.linalg.norm(np.ptp(target, axis=0))
        if not base > 0 or not reach > 0:
            return None
        ahead = np.stack([attitude_rotation(a)[2] for a in attitudes if a is not None])
        fit = similarity(
            np.concatenate([source, source + base * model.R[has, 2]]), np.concatenate([target, target + reach * ahead])
        )
        inliers = np.ones(len(has), bool)
        # The added points fix the turn only; scale and place are those of the centres.
        a, b = source - source.mean(axis=0), target - target.mean(axis=0)
        scale = float(np.linalg.norm(b) / np.linalg.norm(a))
        fit = (scale, fit[1], target.mean(axis=0) - scale * fit[1] @ source.mean(axis=0))
    else:
        fit, inliers = _robust_similarity(source, target, sd, config.seed)
    scale, rotation, shift = fit
    # Cameras in one plane fit mirrored positions as well, upside down.
    if float((model.R[:, 2] @ rotation.T).mean(axis=0)[2]) > config.least_down:
        return None
    misfit = (scale * source @ rotation.T + shift - target)[inliers]
    rms = math.sqrt(float((misfit**2).sum(axis=1).mean()))
    spread = math.sqrt(float(((target[inliers] - target[inliers].mean(axis=0)) ** 2).sum(axis=1).mean()))
    # The free model is bent by what the camera is not yet known to: an RTK receiver's centimetres cannot be asked of it.
    limit = math.hypot(config.gps_misfit * math.sqrt(float((sd[inliers] ** 2).sum(axis=1).mean())), config.free_bend * spread)
    if scale <= 0 or inliers.mean() < config.gps_inliers or rms > limit or rms > config.gps_misfit_share * spread:
        return None
    return fit, inliers


def georeference(
    model: FreeModel,
    flight: Flight,
    *,
    config: AdjustConfig = AdjustConfig(),
    unregistered: Mapping[str, Message] | None = None,
    progress: Progress = no_progress,
) -> Reconstruction:
    """The block in the flight's CRS, adjusted, with its accuracy.

    Control points seen in two registered photos or more are observations of the adjustment, weighted by their sd;
    GPS positions are too, less a common offset. `accuracy.position_sd` is the propagated sd of tie points, with the sd of
    the common offset; `scale_sd` that of horizontal lengths across the block.
    """
    task = _task(model, flight, config)
    model, held_out = _split(model, config)
    task = replace(task, model=model)
    start = Block(
        R=model.R,
        C=model.C,
        params=np.array([[*opencv_params(model.cameras[key]), 0.0] for key in task.ids]),
        velocity=np.zeros_like(model.C),
        slip=np.zeros_like(model.C),
        X=model.points,
        offset=np.zeros(3),
        photo=model.obs_photo,
        camera=task.camera_of[model.obs_photo],
        point=model.obs_point,
        pixel=model.obs_pixel,
        pixel_sd=np.ones((len(model.obs_photo), 2)),
        phase=_phase(task, task.camera_of[model.obs_photo], model.obs_pixel),
        share=np.ones(len(model.obs_photo)),
        group=np.zeros(len(model.obs_photo), np.int64) if model.obs_matched is None else model.obs_matched.astype(np.int64),
    )
    gaps: list[Message] = []
    controls: list[tuple[GroundPoint, Array]] = []
    for point in flight.ground_points:
        place = _triangulated(task, start, point)
        if place is None:
            gaps.append(Message(id="drone.point_seen_once", values={"name": point.name}))
        elif point.role == "control":
            controls.append((point, place))
    placement = _place(task, controls)
    if placement.control == "none":
        controls = []
    progress("drone.stage_adjust", 0.0)
    block, priors, moved = _adjusted(task, *_started(task, start, placement, controls, held=False), len(controls))
    if placement.control != "none" and _may_roll(task, block, priors):
        # From the start again: what the shutter bent has had positions weighed down and good matches dropped.
        progress("drone.stage_adjust", 0.3)
        rolling = replace(task, rolling=True)
        found = _adjusted(rolling, *_started(rolling, start, placement, controls, held=False), len(controls))
        if _rolls(rolling, found[0], found[1], 1.0):
            task, (block, priors, moved) = rolling, found
    considered, message = _considered_focal(task, block, priors)
    held = message is not None
    if message is not None:
        progress("drone.stage_adjust", 0.6)
        gaps.append(message)
        block, priors, moved = _adjusted(task, *_started(task, start, placement, controls, held=True), len(controls))
    if placement.control != "none":
        gaps += _scatter(task, priors)
    # A few in a thousand fail the test by chance.
    if moved > 0.01 * len(model.points):
        gaps.append(Message(id="drone.points_moved", values={"points": moved, "all": len(model.points)}))
    progress("drone.stage_adjust", 1.0)
    return _reported(
        task, block, priors, placement, held, considered, controls, tuple(gaps) + placement.gaps, unregistered or {}, held_out
    )


def _scatter(task: _Task, priors: Priors) -> list[Message]:
    """A message where positions scatter by far more than they state; they were weighed as they scatter."""
    has = np.isfinite(priors.gps[:, 0])
    if has.sum() < 6:
        return []
    found, stated = (np.sqrt((sd[has] ** 2).mean(axis=0)) for sd in (priors.gps_sd, task.gps_sd))
    flat, up = math.hypot(*found[:2]), float(found[2])
    if flat <= task.config.gps_misfit * math.hypot(*stated[:2]) and up <= task.config.gps_misfit * stated[2]:
        return []
    values = {
        "flat": f"{flat:.2f} m",
        "up": f"{up:.2f} m",
        "stated": f"{math.hypot(*stated[:2]):.2f} m",
        "stated_up": f"{stated[2]:.2f} m",
    }
    return [Message(id="drone.gps_scatter", values=values)]


def _split(model: FreeModel, config: AdjustConfig) -> tuple[FreeModel, FreeModel]:
    """The model less one in `held_out` of its tie points, and those: points seen three times or more, spread evenly over the list."""
    views = np.bincount(model.obs_point, minlength=len(model.points))
    candidates = np.flatnonzero(views >= 3)
    away = np.zeros(len(model.points), bool)
    if config.held_out:
        away[candidates[:: config.held_out]] = True

    def part(points: NDArray[np.bool_]) -> FreeModel:
        rows, row_of = points[model.obs_point], np.cumsum(points) - 1
        return replace(
            model,
            points=model.points[points],
            obs_photo=model.obs_photo[rows],
            obs_point=row_of[model.obs_point[rows]],
            obs_pixel=model.obs_pixel[rows],
            obs_matched=None if model.obs_matched is None else model.obs_matched[rows],
        )

    return part(~away), part(away)


def _held_out_residuals(task: _Task, block: Block, model: FreeModel, placed: Array) -> Array:
    """(M,) px: observations of held-out points against what the other observations of their tracks give.

    Each point is fitted to all of its observations, and each observation then taken out of that fit by its leverage (Cook and
    Weisberg 1982, Residuals and Influence in Regression, section 2.2). Wrong matches and points that move are left out as
    they are among the points that took part.
    """
    free = Block(
        R=block.R,
        C=block.C,
        params=block.params,
        velocity=block.velocity,
        slip=block.slip,
        X=placed,
        offset=block.offset,
        photo=model.obs_photo,
        camera=task.camera_of[model.obs_photo],
        point=model.obs_point,
        pixel=model.obs_pixel,
        pixel_sd=_sd_of_groups(block, model),
        phase=_phase(task, task.camera_of[model.obs_photo], model.obs_pixel),
        share=np.ones(len(model.obs_photo)),
        group=np.zeros(len(model.obs_photo), np.int64),
    )
    X, count = placed.copy(), len(placed)
    params, rotation, centre = block.params[free.camera, :8], block.R[model.obs_photo], row_centres(free)
    keep = ~_moving(task, free, 0)[model.obs_point]
    limit = np.minimum(task.config.max_residual_px, task.config.outlier_sd * free.pixel_sd[:, 0])
    loo = np.zeros((0, 2))
    for _ in range(8):
        owner = model.obs_point[keep]
        local = np.einsum("mij,mj->mi", rotation[keep], X[owner] - centre[keep])
        step = 1e-4 * np.abs(local[:, 2:3])
        B = np.stack(
            [
                (
                    project_camera_points(params[keep], local + step * rotation[keep][:, :, k])
                    - project_camera_points(params[keep], local - step * rotation[keep][:, :, k])
                )
                / (2 * step)
                for k in range(3)
            ],
            axis=2,
        )
        off = model.obs_pixel[keep] - project_camera_points(params[keep], local)
        normal, right = np.zeros((count, 3, 3)), np.zeros((count, 3))
        np.add.at(normal, owner, np.einsum("mea,meb->mab", B, B))
        np.add.at(right, owner, np.einsum("mea,me->ma", B, off))
        normal += (1e-9 * np.einsum("nii->n", normal) + 1e-12)[:, None, None] * np.eye(3)
        inverse = np.linalg.inv(normal)
        X = X + np.einsum("nij,nj->ni", inverse, right)
        leverage = np.einsum("mea,mab,mfb->mef", B, inverse[owner], B)
        off = off - np.einsum("mea,ma->me", B, np.einsum("nij,nj->ni", inverse, right)[owner])
        loo = np.linalg.solve(np.eye(2) - leverage + 1e-9 * np.eye(2), off[:, :, None])[:, :, 0]
        wrong = (np.linalg.norm(loo, axis=1) > limit[keep]) | (local[:, 2] <= 0)
        # The worst one of each track goes first: it spoils the others'.
        worst = np.zeros(count)
        np.maximum.at(worst, owner, np.linalg.norm(loo, axis=1))
        out = wrong & (np.linalg.norm(loo, axis=1) >= worst[owner])
        rows = np.flatnonzero(keep)
        keep[rows[out]] = False
        views = np.bincount(model.obs_point[keep], minlength=count)
        keep &= views[model.obs_point] >= 3
        loo = loo[keep[rows]]
    return np.asarray(np.linalg.norm(loo, axis=1))


def _sd_of_groups(block: Block, model: FreeModel) -> Array:
    """(M, 2) px: the sd that observations of `model` would have in `block`."""
    group = np.zeros(len(model.obs_photo), np.int64) if model.obs_matched is None else model.obs_matched.astype(np.int64)
    sd = np.full(2, float(np.median(block.pixel_sd)))
    for key in np.unique(block.group[block.group >= 0]):
        sd[key] = block.pixel_sd[block.group == key][0, 0]
    return np.asarray(np.repeat(sd[group][:, None], 2, axis=1))


def _may_roll(task: _Task, block: Block, priors: Priors) -> bool:
    """True where one step of the adjustment with the read-out time freed finds a hint of a rolling shutter.

    A hint only: what the shutter has bent, and good matches dropped for it, make it too small.
    """
    block, priors = _paced(task, block, replace(priors, free=_free_parameters(False, True, task.config)))
    return _rolls(task, block, priors, 0.5)


def _rolls(task: _Task, block: Block, priors: Priors, part: float) -> bool:
    """True where the read-out time, after one more step, is beyond `part` of the bounds of the configuration."""
    config = task.config
    effect = _effect(task, block, len(priors.control))
    covariance = block_covariance(block, priors, huber=config.huber, effect=effect)
    width = priors.free.shape[1]
    at = np.arange(len(block.params)) * width + width - 1
    step = -solved(covariance.normal.S, covariance.normal.s[:, None])[at, 0]
    readout, sd = np.abs(block.params[:, 8] + step), np.sqrt(np.diag(covariance.matrix)[at])
    pixel = float(np.median(local_points(block)[:, 2] / block.params[block.camera, 0]))
    edge = readout * _speed(block) / 2 / pixel
    return bool(((readout > part * config.shutter_sd * sd) & (edge > part * config.shutter_px)).any())


def _framed(task: _Task, block: Block) -> Block:
    """Cameras without a rolling shutter that see the ground as the photos do: one stretch along the columns and poses, fitted to the
    adjusted points, which stay.

    What uses the block afterwards knows cameras of that kind only. For level ground and a steady flight along the columns nothing is
    lost; else the residuals grow by what relief and gusts add to the motion.
    """
    free = _free_parameters(False, False, task.config)
    free = np.column_stack([free, [-0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]])
    sizes = block.params.copy()
    sizes[:, 8] = 0
    count = len(block.C)
    priors = Priors(
        gps=np.full((count, 3), np.nan),
        gps_sd=np.ones((count, 3)),
        offset_sd=np.ones(3),
        control=block.X,
        control_sd=np.full(block.X.shape, 1e-4),
        down=np.full((count, 3), np.nan),
        down_sd=np.ones(count),
        slip_sd=np.ones(count),
        params=sizes,
        # Loose: they only keep what no point determines where it is.
        params_sd=np.tile([*[0.1 * float(sizes[:, :2].max())] * 4, *[0.1] * 4, 1.0], (len(sizes), 1)),
        free=free,
    )
    start = replace(block, params=sizes, slip=np.zeros_like(block.slip), offset=np.zeros(3))
    found = adjust(start, priors, huber=task.config.huber, iterations=task.config.iterations, tolerance=task.config.tolerance)
    return replace(found, X=block.X)


def _speed(block: Block) -> float:
    """Median speed of the flight, m/s."""
    return float(np.median(np.linalg.norm(block.velocity, axis=1)))


def _paced(task: _Task, block: Block, priors: Priors) -> tuple[Block, Priors]:
    """With velocities from the adjusted centres and the times of photos, and slips in proportion to the motion.

    The sd of slips stays what it is while the read-out time is estimated: were it to grow with that, noise that slips can take up would
    be an argument for a longer read-out.
    """
    block = replace(block, velocity=_velocities(task, block.C))
    readout = float(np.abs(block.params[:, 8]).max()) or task.config.readout
    return block, replace(priors, slip_sd=np.full(len(block.C), max(task.config.slip_sd * readout * _speed(block), 1e-3)))


def _velocities(task: _Task, C: Array) -> Array:
    """(P, 3) m/s: of each photo, towards and from its neighbours in time of the same camera.

    A way that both its neighbours leave at an angle is a turn, one that takes much longer than the other way of its photo a wait; neither
    is asked. Photos without times count as taken in the order of their names at a steady pace. Times in whole seconds give
    the direction only, and the speed in the median.
    """
    result = np.zeros_like(C)
    times = np.arange(len(C)) * task.config.interval if task.times is None else task.times
    for camera in range(len(task.ids)):
        mine = np.flatnonzero(task.camera_of == camera)
        mine = mine[np.argsort(times[mine], kind="stable")]
        if len(mine) < 2:
            continue
        gap, way = np.diff(times[mine]), np.diff(C[mine], axis=0)
        unit = way / np.maximum(np.linalg.norm(way, axis=1), 1e-9)[:, None]
        beside = np.concatenate([[-1.0], (unit[:-1] * unit[1:]).sum(axis=1), [-1.0]])
        turn = (np.maximum(beside[:-1], beside[1:]) < _STRAIGHT) & (len(way) > 1)
        gap = np.where((gap > 0) & ~turn, gap, np.inf)
        before, after = np.append(np.inf, gap), np.append(gap, np.inf)
        nothing = np.zeros((1, 3))
        nearer = np.minimum(before, after)
        took, moved = np.zeros(len(mine)), np.zeros((len(mine), 3))
        for time, part in ((before, np.concatenate([nothing, way])), (after, np.concatenate([way, nothing]))):
            use = np.isfinite(time) & (time <= _WAIT * nearer)
            took[use] += time[use]
            moved[use] += part[use]
        result[mine] = moved / np.where(took > 0, took, np.inf)[:, None]
    if task.times is not None and (task.times == np.round(task.times)).all():
        speed = np.linalg.norm(result, axis=1)
        result *= (np.median(speed) / np.maximum(speed, 1e-9))[:, None]
    return result


def _effect(task: _Task, block: Block, controls: int) -> Array:
    """(M,) variance of each observation beyond its own noise, as the residuals show it: see `drone.uncertainty`."""
    ties = len(block.X) - controls
    shared = shared_effect(block, ties, task.sizes, huber=task.config.huber)
    common = common_effect(block, ties, task.sizes, shared, huber=task.config.huber)
    return np.where(block.point < ties, shared * common, 1.0)


def _adjusted(task: _Task, block: Block, priors: Priors, controls: int) -> tuple[Block, Priors, int]:
    """The adjusted block, its priors, and how many points were dropped as they move.

    Outliers dropped and weights found in rounds, as many more as it takes until no point moves; then the final adjustment.
    """
    config = task.config
    # Rays that hardly meet let a point run far away in the first steps; errors in pixels mean nothing yet.
    block = _filtered(block, len(block.X) - controls, replace(config, max_residual_px=math.inf, outlier_sd=math.inf))
    moved, done = 0, 0
    while done < _ROUNDS_AT_MOST:
        block = adjust(block, priors, huber=config.huber, iterations=config.iterations, tolerance=1.0)
        block = _filtered(block, len(block.X) - controls, config)
        block, priors = _weighed(task, block, priors, controls)
        if task.rolling:
            # The free model's centres are not those of the world; the adjusted ones are.
            block, priors = _paced(task, block, priors)
        done += 1
        moving = _moving(task, block, controls)
        # Few points that move among many bend nothing; while they are many, what is held to be still is not yet certain.
        if moving.any():
            moved += int(moving.sum())
            block = _without(block, moving)
            block, priors = _weighed(task, block, priors, controls)
        if done >= config.rounds and moving.sum() <= 0.005 * len(moving):
            break
    return adjust(block, priors, huber=config.huber, iterations=config.iterations, tolerance=config.tolerance), priors, moved


def _without(block: Block, points: NDArray[np.bool_]) -> Block:
    """The block less some points (N,)."""
    keep, row_of = ~points[block.point], np.cumsum(~points) - 1
    return replace(
        block,
        X=block.X[~points],
        photo=block.photo[keep],
        camera=block.camera[keep],
        point=row_of[block.point[keep]],
        pixel=block.pixel[keep],
        pixel_sd=block.pixel_sd[keep],
        phase=block.phase[keep],
        share=block.share[keep],
        group=block.group[keep],
    )


def _moving(task: _Task, block: Block, controls: int) -> NDArray[np.bool_]:
    """(N,) tie points that move over the ground: a steady motion explains their residuals, significantly and by enough."""
    config, count = task.config, len(block.X)
    nothing = np.zeros(count, bool)
    if task.times is None or not np.ptp(task.times) > 0:
        return nothing
    local = local_points(block)
    params, rotation = block.params[block.camera, :8], block.R[block.photo]
    step = 1e-4 * local[:, 2:3]
    ground = np.stack(
        [
            (
                project_camera_points(params, local + step * rotation[:, :, k])
                - project_camera_points(params, local - step * rotation[:, :, k])
            )
            / (2 * step * block.pixel_sd)
            for k in range(3)
        ],
        axis=2,
    )
    time = task.times[block.photo]
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, block.point, time)
    np.maximum.at(last, block.point, time)
    time = time - first[block.point]
    design = np.concatenate([ground, ground[:, :, :2] * time[:, None, None]], axis=2)
    off = -residuals(block) / block.pixel_sd
    normal, right = np.zeros((count, 5, 5)), np.zeros((count, 5))
    np.add.at(normal, block.point, np.einsum("mea,meb->mab", design, design))
    np.add.at(right, block.point, np.einsum("mea,me->ma", design, off))
    place = normal[:, :3, :3] + 1e-9 * np.einsum("nii->n", normal[:, :3, :3])[:, None, None] * np.eye(3) + 1e-12 * np.eye(3)
    follow = np.linalg.solve(place, normal[:, :3, 3:])
    known = normal[:, 3:, 3:] - np.einsum("nai,naj->nij", normal[:, :3, 3:], follow)
    pull = right[:, 3:] - np.einsum("na,nai->ni", right[:, :3], follow)
    # The velocity of two-fold points is not determined; theirs is no test.
    span = np.where(np.isfinite(last - first), last - first, 0.0)
    trace, det = known[:, 0, 0] + known[:, 1, 1], known[:, 0, 0] * known[:, 1, 1] - known[:, 0, 1] ** 2
    usable = (det > 1e-6 * trace**2) & (span > 0) & (np.arange(count) < count - controls)
    safe = np.where(usable, det, 1.0)
    velocity = (
        np.stack(
            [
                known[:, 1, 1] * pull[:, 0] - known[:, 0, 1] * pull[:, 1],
                known[:, 0, 0] * pull[:, 1] - known[:, 0, 1] * pull[:, 0],
            ],
            axis=1,
        )
        / safe[:, None]
    )
    chi2 = (velocity * pull).sum(axis=1)
    # What a steady motion leaves unexplained counts against it: a single wrong match is no motion.
    still = np.bincount(block.point, (off**2).sum(axis=1), minlength=count)
    still -= np.einsum("na,na->n", right[:, :3], np.linalg.solve(place, right[:, :3, None])[:, :, 0])
    freedom = 2 * np.bincount(block.point, minlength=count) - 5
    usable &= freedom >= 3
    rest = np.maximum(still - chi2, 0.0) / np.maximum(freedom, 1)
    gsd = float(np.median(local[:, 2] / block.params[block.camera, 0]))
    far = np.linalg.norm(velocity, axis=1) * span > config.motion_px * gsd
    return np.asarray(usable & far & (chi2 > config.motion_chi2 * np.maximum(rest, 1.0)))


def _considered_focal(task: _Task, block: Block, priors: Priors) -> tuple[float | None, Message | None]:
    """(relative sd of the focal length beyond what the adjustment tells, message if it must be held), else (None, None).

    Photos looking the same way cannot tell the focal length from the flying height; small unmodelled errors,
    such as a rolling shutter, then move it by tens of per cent at no cost in pixels. There the estimate is
    believed only while it agrees with what the camera states, and then to no better than the two agree.
    """
    config = task.config
    if convergence_deg(task.model.R) >= config.convergence_deg:
        return None, None
    cameras = [task.flight.cameras[key] for key in task.ids]
    sd = max(camera.focal_prior_sd or config.focal_sd for camera in cameras)
    if any(camera.focal_prior is None for camera in cameras):
        return sd, Message(id="drone.focal_unknown", values={"sd": f"{100 * sd:.0f} %"})
    free = replace(priors, free=_free_parameters(False, task.rolling, config))
    formal = np.sqrt(np.diag(covariance_of(reduced(block, free, huber=config.huber).S)))
    off, agree = [], True
    for k, camera in enumerate(cameras):
        stated, stated_sd = camera.focal_prior or math.nan, camera.focal_prior_sd or config.focal_sd
        shift = float(block.params[k, 0]) / stated - 1
        # The adjustment weighed the stated value in; taken out again, this is what the photos alone say.
        share = min((float(formal[k * free.free.shape[1]]) / stated / stated_sd) ** 2, 0.999)
        alone, alone_sd = shift / (1 - share), stated_sd * math.sqrt(share / (1 - share))
        off.append(abs(alone))
        agree &= abs(alone) <= config.focal_agreement * math.hypot(stated_sd, alone_sd)
    if agree:
        return max(abs(float(p[0]) / (c.focal_prior or math.nan) - 1) for p, c in zip(block.params, cameras, strict=True)), None
    return sd, Message(id="drone.focal_held", values={"sd": f"{100 * sd:.0f} %", "off": f"{100 * max(off):.0f} %"})


def _task(model: FreeModel, flight: Flight, config: AdjustConfig) -> _Task:
    photos = {photo.name: photo for photo in flight.photos}
    ids = tuple(sorted({photos[name].camera_id for name in model.names}))
    placed = positions_of(flight)
    anchors = [placed[name] for name in model.names if name in placed] or [np.array(p.position) for p in flight.ground_points]
    origin = np.round(np.median(np.array(anchors), axis=0)) if anchors else np.zeros(3)
    factor = grid_scale(flight.crs, origin) if anchors else 1.0
    scale = np.array([factor, factor, 1.0])
    stamps = [photos[name].exposed for name in model.names]
    if any(stamp is None for stamp in stamps):
        stamps = [photos[name].taken for name in model.names]
    aware = {stamp.tzinfo is not None for stamp in stamps if stamp is not None}
    seconds = [(stamp - stamps[0]).total_seconds() for stamp in stamps if stamp and stamps[0] and len(aware) == 1]
    return _Task(
        flight=flight,
        model=model,
        names={name: index for index, name in enumerate(model.names)},
        ids=ids,
        camera_of=np.array([ids.index(photos[name].camera_id) for name in model.names], np.int64),
        origin=origin,
        scale=scale,
        gps=np.array([(placed[name] - origin) / scale if name in placed else np.full(3, np.nan) for name in model.names]),
        gps_sd=np.array([photos[name].position_sd for name in model.names]),
        sizes=np.array([flight.cameras[key].size for key in ids], float),
        times=np.array(seconds) if len(seconds) == len(stamps) else None,
        config=config,
    )


def grid_scale(crs: CRS, origin: Array) -> float:
    """Metres of the grid per metre on the ground at origin (E, N, ellipsoidal height): the scale of the projection, less what height adds.

    Mean of the scale eastwards and northwards, over 200 m, from geodesics on the ellipsoid of `crs`.
    """
    geod = crs.get_geod()
    if geod is None:
        return 1.0
    to_degrees = transformer(crs, CRS.from_epsg(4326))
    x = origin[0] + np.array([-100.0, 100.0, 0.0, 0.0])
    y = origin[1] + np.array([0.0, 0.0, -100.0, 100.0])
    lon, lat = to_degrees.transform(x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return 1.0
    _, _, distance = geod.inv(lon[0::2], lat[0::2], lon[1::2], lat[1::2])
    return float(200.0 / np.mean(distance) * geod.a / (geod.a + origin[2]))


def _free_parameters(held: bool, rolling: bool, config: AdjustConfig) -> Array:
    """(9, F) of `Priors.free`: one focal length for both axes, or none where it is held; the read-out time last where photos are read
    row by row.
    """
    names = [name for name in PARAMETERS[2:] if name in config.free]
    columns = [] if held else [np.array([1.0, 1.0, 0, 0, 0, 0, 0, 0, 0])]
    readout = [np.eye(9)[8]] if rolling else []
    return np.stack(columns + [np.eye(9)[PARAMETERS.index(name)] for name in names] + readout, axis=1)


def convergence_deg(rotations: Array) -> float:
    """Root mean square angle between the viewing directions and their mean, degrees."""
    axes = rotations[:, 2]
    mean = axes.mean(axis=0)
    cosine = np.clip(axes @ (mean / np.linalg.norm(mean)), -1, 1)
    return math.degrees(math.sqrt(float((np.arccos(cosine) ** 2).mean())))


def _is_barometric(task: _Task) -> bool:
    """True when the heights of the positions are a constant plus the height above take-off, to the last digits written.

    Their scatter is then that of a barometer, not of a satellite receiver.
    """
    photos = {photo.name: photo for photo in task.flight.photos}
    apart = [
        photo.position[2] - photo.relative_altitude
        for photo in (photos[name] for name in task.model.names)
        if photo.position is not None and photo.relative_altitude is not None
    ]
    return len(apart) >= 3 and max(apart) - min(apart) <= 0.11


def _started(
    task: _Task, free: Block, placement: _Placement, controls: list[tuple[GroundPoint, Array]], held: bool
) -> tuple[Block, Priors]:
    """The placed block with its control points behind the tie points, and the priors."""
    config, count = task.config, len(free.X)
    scale, rotation, shift = placement.scale, placement.rotation, placement.shift

    def moved(points: Array) -> Array:
        return scale * points @ rotation.T + shift

    marks = [
        (task.names[name], count + index, pixel)
        for index, (point, _) in enumerate(controls)
        for name, pixel in point.observations.items()
        if name in task.names
    ]
    photo = np.array([mark[0] for mark in marks], np.int64)
    mark_pixels = np.array([mark[2] for mark in marks], float).reshape(-1, 2)
    block = replace(
        free,
        R=free.R @ rotation.T,
        C=moved(free.C),
        X=moved(np.concatenate([free.X, np.array([place for _, place in controls]).reshape(-1, 3)])),
        photo=np.concatenate([free.photo, photo]),
        camera=np.concatenate([free.camera, task.camera_of[photo]]),
        point=np.concatenate([free.point, np.array([mark[1] for mark in marks], np.int64)]),
        pixel=np.concatenate([free.pixel, mark_pixels]),
        pixel_sd=np.concatenate([free.pixel_sd, np.full((len(marks), 2), config.mark_sd_px)]),
        phase=np.concatenate([free.phase, _phase(task, task.camera_of[photo], mark_pixels)]),
        share=np.concatenate([free.share, np.ones(len(marks))]),
        group=np.concatenate([free.group, np.full(len(marks), -1)]),
    )
    prior, prior_sd = [], []
    for key, estimate in zip(task.ids, free.params, strict=True):
        camera = task.flight.cameras[key]
        width, height = camera.size
        focal = camera.focal_prior or float(estimate[:2].mean())
        focal_sd = focal * (camera.focal_prior_sd or config.focal_sd)
        centre_sd = config.principal_point_sd * max(width, height)
        radial, tangential = config.distortion_sd
        prior.append([focal, focal, width / 2, height / 2, 0, 0, 0, 0, 0])
        prior_sd.append([focal_sd * math.sqrt(2)] * 2 + [centre_sd] * 2 + [radial] * 2 + [tangential] * 2 + [config.readout_sd])
    start = np.array(prior)[:, 0] if held else block.params[:, :2].mean(axis=1)
    block = replace(block, params=np.column_stack([start, start, block.params[:, 2:]]))
    gps = np.where(placement.fitting[:, None], task.gps, np.nan)
    gps_sd = task.gps_sd.copy()
    offset_sd = np.maximum(np.sqrt((gps_sd**2).mean(axis=0)), config.gps_offset_floor)
    if _is_barometric(task):
        gps_sd[:, 2] = np.minimum(gps_sd[:, 2], config.barometer_sd)
    if placement.control == "none":
        # Holds the arbitrary frame: the centres where they are, to one median depth.
        gps, gps_sd = block.C, np.ones_like(block.C)
    positions = task.local(np.array([point.position for point, _ in controls]).reshape(-1, 3))
    stated = {photo.name: photo.attitude for photo in task.flight.photos}
    down = np.full((len(block.C), 3), np.nan)
    for index, name in enumerate(task.model.names):
        attitude = stated[name]
        if attitude is not None and placement.control != "none":
            down[index] = attitude_rotation(attitude)[2]
    # Gimbals err together: all photos count as one statement.
    down_sd = np.full(len(down), math.radians(config.tilt_sd_deg) * math.sqrt(len(down)))
    priors = Priors(
        gps=gps,
        gps_sd=gps_sd,
        offset_sd=offset_sd,
        control=positions,
        control_sd=np.array([point.sd for point, _ in controls]).reshape(-1, 3),
        down=down,
        down_sd=down_sd,
        slip_sd=np.ones(len(block.C)),
        params=np.array(prior),
        params_sd=np.array(prior_sd),
        free=_free_parameters(held, task.rolling, config),
    )
    return _paced(task, block, priors) if task.rolling else (block, priors)


def _weighed(task: _Task, block: Block, priors: Priors, controls: int) -> tuple[Block, Priors]:
    """Tie points and positions weighed by how well they turned out to fit.

    Tie points: the median absolute residual (1.4826 of it is the sd of normal errors), freed from the bias of
    fitting. Positions: only their scatter about the common offset; that offset keeps its own, stated sd.
    """
    count = len(block.X) - controls
    ties = block.point < count
    residual = residuals(block)
    freedom = 1 - (3 * count + 6 * len(block.C)) / max(2 * int(ties.sum()), 1)
    pixel_sd = block.pixel_sd.copy()
    for group in np.unique(block.group[ties]):
        mine = ties & (block.group == group)
        sd = 1.4826 * float(np.median(np.abs(residual[mine]))) / math.sqrt(max(freedom, 0.1))
        pixel_sd[mine] = max(sd, 0.02)
    block = replace(block, pixel_sd=pixel_sd)
    share = np.where(ties, 1 / shared_effect(block, count, task.sizes, huber=task.config.huber), 1.0)
    seen = np.bincount(block.photo[ties], share[ties], minlength=len(block.C))
    share[ties] *= np.minimum(1.0, task.config.independent / np.maximum(seen, 1e-9))[block.photo[ties]]
    block = replace(block, share=share)
    has = np.isfinite(priors.gps[:, 0])
    count = int(has.sum())
    if count < 6:
        return block, priors
    misfit = ((block.C + block.offset - priors.gps) / priors.gps_sd)[has]
    # A similarity takes two shifts, turn and scale from the horizontal, one shift and two tilts from the vertical.
    flat = math.sqrt(float((misfit[:, :2] ** 2).sum()) / (2 * count - 4))
    up = math.sqrt(float((misfit[:, 2] ** 2).sum()) / (count - 3))
    gps_sd = np.maximum(priors.gps_sd * [flat, flat, up], 0.005)
    return block, replace(priors, gps_sd=gps_sd)


def _uncertainty(
    task: _Task, block: Block, priors: Priors, held: bool, considered: float | None, gsd: float
) -> tuple[tuple[float, float, float], float, float, ErrorField, tuple[float, float] | None]:
    """Propagated sd: (E, N, U) m of ground points, of horizontal lengths (1), of the focal length (1); the field of errors; the motion
    while a photo is read out (m, sd), where that is estimated.

    The sd of ground points is that from poses, camera and datum, root mean square over tie points spread
    over the block; the noise of single tie points is not in it. `considered` is the relative sd of a focal length
    of which the photos' own estimate is not believed.
    """
    cameras, ties = len(block.params), len(block.X) - len(priors.control)
    full = replace(priors, free=_free_parameters(False, task.rolling, task.config))
    effect = _effect(task, block, len(priors.control))
    covariance = block_covariance(block, full, huber=task.config.huber, effect=effect, focal_sd=considered, held=held)
    sample = np.arange(0, ties, max(1, ties // 400))
    J = point_sensitivity(covariance.normal, sample).reshape(3 * len(sample), -1)
    sd = np.sqrt(np.einsum("ij,jk,ik->i", J, covariance.matrix, J).reshape(-1, 3).mean(axis=0))
    arm = block.X[sample] - block.X[sample].mean(axis=0)
    weight = np.where([True, True, False], arm, 0.0).ravel()
    along = np.einsum("i,ij->j", weight, J) / float((weight**2).sum())
    scale_sd = math.sqrt(float(np.einsum("i,ij,j", along, covariance.matrix, along)))
    focal = np.arange(cameras) * full.free.shape[1]
    focal_sd = math.sqrt(float(covariance.matrix[focal, focal].max())) / float(block.params[:, 0].min())
    field = error_field(
        block,
        covariance,
        task.camera_of,
        task.sizes,
        ties=ties,
        gsd=gsd,
        place=task.grid,
        min_angle_deg=task.config.min_angle_deg,
    )
    shutter = None
    if task.rolling:
        worst = int(np.argmax(np.abs(block.params[:, 8])))
        at, speed = focal[worst] + full.free.shape[1] - 1, _speed(block)
        shutter = (float(abs(block.params[worst, 8])) * speed, math.sqrt(float(covariance.matrix[at, at])) * speed)
    return (float(sd[0]), float(sd[1]), float(sd[2])), scale_sd, focal_sd, field, shutter


def _rms(values: Array) -> float:
    return math.sqrt(float((values**2).sum(axis=-1).mean()))


def _reported(
    task: _Task,
    block: Block,
    priors: Priors,
    placement: _Placement,
    held: bool,
    considered: float | None,
    controls: list[tuple[GroundPoint, Array]],
    gaps: tuple[Message, ...],
    unregistered: Mapping[str, Message],
    held_out: FreeModel,
) -> Reconstruction:
    """The result in the flight's CRS."""
    ties = len(block.X) - len(controls)
    is_tie = block.point < ties
    metric = placement.control != "none"
    ground = []
    for point in task.flight.ground_points if metric else ():
        place = _triangulated(task, block, point)
        if place is not None:
            e, n, u = (float(r) for r in task.grid(place) - point.position)
            seen = sum(name in task.names for name in point.observations)
            ground.append(PointResidual(name=point.name, role=point.role, residual=(e, n, u), photos=seen))
    check = np.array([point.residual for point in ground if point.role == "check"]).reshape(-1, 3)
    misfit = (block.C - task.gps)[np.isfinite(priors.gps[:, 0])] if metric else np.zeros((0, 3))
    position_sd, scale_sd, focal_sd = (math.inf, math.inf, math.inf), math.inf, math.inf
    depth = local_points(block)[is_tie, 2]
    gsd, field, shutter = float(np.median(depth / block.params[block.camera[is_tie], 0])), None, None
    if metric:
        position_sd, scale_sd, focal_sd, field, shutter = _uncertainty(task, block, priors, held, considered, gsd)
    if shutter is not None:
        gaps += (Message(id="drone.rolling_shutter", values={"motion": f"{shutter[0]:.2f} m", "sd": f"{shutter[1]:.2f} m"}),)
    if len(check) >= 3:
        # What was measured counts more than what was propagated, where it is worse.
        e, n, u = (float(max(a, b)) for a, b in zip(position_sd, np.sqrt((check**2).mean(axis=0)), strict=True))
        position_sd = (e, n, u)
    start = placement.scale * held_out.points @ placement.rotation.T + placement.shift
    apart = _held_out_residuals(task, block, held_out, start) if len(held_out.points) else np.zeros(0)
    order = np.argsort(block.point[is_tie], kind="stable")
    counts = np.bincount(block.point[is_tie], minlength=ties)
    accuracy = AccuracyReport(
        reprojection_rmse=_rms(residuals(block)[is_tie]),
        reprojection_mean=float(np.linalg.norm(residuals(block)[is_tie], axis=1).mean()),
        held_out_rmse=_rms(apart[:, None]) if len(apart) else None,
        held_out_observations=len(apart),
        gsd=gsd if metric else math.nan,
        ground_points=tuple(ground),
        check_rmse_horizontal=_rms(check[:, :2]) if len(check) else None,
        check_rmse_vertical=_rms(check[:, 2:]) if len(check) else None,
        gps_rmse_horizontal=_rms(misfit[:, :2]) if len(misfit) else None,
        gps_rmse_vertical=_rms(misfit[:, 2:]) if len(misfit) else None,
        control=placement.control,
        position_sd=position_sd,
        scale_sd=scale_sd,
        focal_sd=focal_sd,
        rolling_shutter=shutter,
    )

    def placed(points: Array) -> Array:
        return task.grid(points) if metric else points

    frames = _framed(task, block) if task.rolling else block
    params = frames.params[:, :8].copy()
    if metric:
        # Seen in the grid, eastings and northings are longer by its scale and heights are not. For a photo that looks
        # down this is a longer flying height over the same ground, that is a shorter focal length.
        level = np.bincount(task.camera_of, frames.R[:, 2, 2] ** 2, minlength=len(params)) / np.bincount(
            task.camera_of, minlength=len(params)
        )
        params[:, :2] /= (1 + (task.scale[0] - 1) * level)[:, None]
    return Reconstruction(
        flight=task.flight,
        poses={name: Pose(R=frames.R[i], C=placed(frames.C[i])) for i, name in enumerate(task.model.names)},
        cameras={key: _camera(task, params[k], k) for k, key in enumerate(task.ids)},
        points=placed(block.X[:ties]),
        track_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        track_photos=block.photo[is_tie][order].astype(np.int32),
        track_pixels=block.pixel[is_tie][order].astype(np.float32),
        unregistered=dict(sorted(unregistered.items())),
        accuracy=accuracy,
        gaps=gaps,
        error_field=field,
    )
