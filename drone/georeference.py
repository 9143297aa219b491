"""A free model and what is known about the ground -> an adjusted block in the flight's CRS.

`georeference` places the model by control points or by GPS (similarity, outliers set aside), then runs one least-squares
adjustment of poses, camera, tie points, control points and a common GPS offset, and propagates its covariance to
the ground. Check points never enter the adjustment. Positions that do not fit the photos are refused: the
block then has `accuracy.control == "none"`, an arbitrary frame, and infinite uncertainties.
The grid's scale (0.9996 to 1.0004) is taken up by the similarity, so heights are stretched by it too: 4e-4 at most.
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
from scipy import sparse

from drone.camera import opencv_params, project_camera_points, rays, triangulate
from drone.types import AccuracyReport, Camera, Flight, GroundPoint, PointResidual, Pose, Reconstruction
from geoevidence.crs import transformer
from geoevidence.types import Message, Progress, no_progress

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustConfig:
    """The adjustment.

    principal_point_sd: of the image's longer side (1): prior on the principal point about the image centre.
    distortion_sd: prior sd of k1, k2 and of p1, p2 about zero; loose, they only keep weak blocks from running away.
    focal_sd: relative prior sd of the focal length where the camera states none.
    tie_focal: one focal length for both axes; a rolling shutter otherwise bends their ratio.
    huber: residuals beyond this many sigmas count linearly (Huber 1964: 1.345 loses 5 % on normal errors).
    max_residual_px: tie-point observations farther off are dropped.
    min_angle_deg: tie points whose rays all meet at less are dropped; their depth is not known.
    mark_sd_px: how well a ground point is marked in a photo, px, one sigma per axis.
    gps_offset_floor: (E, N, U) m: sd of the offset that all positions of a flight share, at the least.
    gps_misfit: positions fit while the root mean square misfit is below this many of their sd, and below
    gps_misfit_share: this part of the spread of the cameras.
    gps_inliers: at least this part of the positions must fit.
    iterations: Levenberg-Marquardt steps a round. rounds: adjust, then drop outliers and weigh anew.
    tolerance: relative fall of the cost at which a round ends.
    seed: of the sampling in the robust fit.
    """

    principal_point_sd: float = 0.01
    distortion_sd: tuple[float, float] = (0.3, 0.01)
    focal_sd: float = 0.15
    tie_focal: bool = True
    huber: float = 1.345
    max_residual_px: float = 4.0
    min_angle_deg: float = 1.5
    mark_sd_px: float = 0.5
    gps_offset_floor: tuple[float, float, float] = (0.02, 0.02, 0.03)
    gps_misfit: float = 3.0
    gps_misfit_share: float = 0.2
    gps_inliers: float = 0.6
    iterations: int = 60
    rounds: int = 3
    tolerance: float = 1e-9
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FreeModel:
    """A reconstruction in its own frame and scale.

    names: registered photos, sorted. R: (P, 3, 3) world-to-camera. C: (P, 3). cameras: camera id -> estimated Camera.
    points: (N, 3). obs_photo, obs_point: (M,) indices; obs_pixel: (M, 2) col, row.
    """

    names: tuple[str, ...]
    R: Array
    C: Array
    cameras: Mapping[str, Camera]
    points: Array
    obs_photo: Ints
    obs_point: Ints
    obs_pixel: Array


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
        # 1.73: the median of a normalised error of three axes is sqrt(2.37) = 1.54 sigmas; three sigmas a axis beyond.
        limit = max(3.0 * math.sqrt(3.0) * 0.1, 3.4 * float(np.median(misfit)))
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


@dataclass(slots=True)
class _Block:
    """The unknowns of the adjustment and its observations; arrays as in `FreeModel`, cameras as (K, 8)."""

    R: Array
    C: Array
    params: Array
    X: Array
    offset: Array
    photo: Ints
    camera: Ints
    point: Ints
    pixel: Array
    pixel_sd: Array


@dataclass(frozen=True, slots=True)
class _Knowns:
    """Priors. gps: (P, 3) NaN where none, gps_sd (P, 3), offset_sd (3,); control: rows of X, positions, sd;
    params, params_sd: (K, 8); tie: (8, F) from free camera parameters to all; points: number of tie points.
    """

    gps: Array
    gps_sd: Array
    offset_sd: Array
    control_rows: Ints
    control: Array
    control_sd: Array
    params: Array
    params_sd: Array
    tie: Array


def _local(block: _Block) -> Array:
    return np.asarray(np.einsum("mij,mj->mi", block.R[block.photo], block.X[block.point] - block.C[block.photo]))


def _residuals(block: _Block) -> Array:
    """Projected minus observed pixels (M, 2)."""
    return project_camera_points(block.params[block.camera], _local(block)) - block.pixel


def _prior_residuals(block: _Block, knowns: _Knowns) -> tuple[Array, Array, Array]:
    gps = np.nan_to_num((block.C + block.offset - knowns.gps) / knowns.gps_sd)
    control = (block.X[knowns.control_rows] - knowns.control) / knowns.control_sd
    return gps, control, (block.params - knowns.params) / knowns.params_sd


def _cost(block: _Block, knowns: _Knowns, huber: float) -> float:
    r = np.linalg.norm(_residuals(block) / block.pixel_sd, axis=1)
    if not np.isfinite(r).all():
        return math.inf
    robust = np.where(r <= huber, r * r, 2 * huber * r - huber * huber).sum()
    gps, control, camera = _prior_residuals(block, knowns)
    free = np.abs(knowns.tie).sum(axis=1) > 0
    offset = block.offset / knowns.offset_sd
    return float(robust + (gps**2).sum() + (control**2).sum() + (camera[:, free] ** 2).sum() + (offset**2).sum())


@dataclass(frozen=True, slots=True)
class _Normal:
    """Normal equations: B (n, n), E sparse (n, 3N), V (N, 3, 3), gradients g (n,), h (N, 3)."""

    B: Array
    E: sparse.csr_array
    V: Array
    g: Array
    h: Array


def _cross(v: Array) -> Array:
    zero = np.zeros(len(v))
    return np.stack([zero, -v[:, 2], v[:, 1], v[:, 2], zero, -v[:, 0], -v[:, 1], v[:, 0], zero], axis=1).reshape(-1, 3, 3)


def _normal(block: _Block, knowns: _Knowns, huber: float) -> _Normal:
    """Columns: free parameters of each camera, then (rotation, centre) of each photo, then the GPS offset."""
    photos, cameras, points = len(block.C), len(block.params), len(block.X)
    free = knowns.tie.shape[1]
    size = cameras * free + photos * 6 + 3
    local = _local(block)
    p = block.params[block.camera]
    base = project_camera_points(p, local)
    residual = (base - block.pixel) / block.pixel_sd

    d_local = np.empty((len(local), 2, 3))
    for axis in range(3):
        # Central differences: the truncation error is about 1e-10 relative, beyond what a Gauss-Newton step needs.
        step = 1e-5 * local[:, 2]
        moved = local.copy()
        moved[:, axis] += step
        up = project_camera_points(p, moved)
        moved[:, axis] -= 2 * step
        d_local[:, :, axis] = (up - project_camera_points(p, moved)) / (2 * step[:, None])
    d_params = np.empty((len(local), 2, 8))
    for index in range(8):
        # The model is linear in each parameter, so any step gives the exact derivative.
        moved = p.copy()
        moved[:, index] += 1.0
        d_params[:, :, index] = project_camera_points(moved, local) - base
    rotation = block.R[block.photo]
    to_point = d_local @ rotation
    j_camera = d_params @ knowns.tie / block.pixel_sd[:, :, None]
    j_pose = np.concatenate([-d_local @ _cross(local), -to_point], axis=2) / block.pixel_sd[:, :, None]
    j_point = to_point / block.pixel_sd[:, :, None]

    length = np.linalg.norm(residual, axis=1)
    root = np.sqrt(np.minimum(1.0, huber / np.maximum(length, 1e-12)))
    residual, j_camera, j_pose, j_point = (
        residual * root[:, None],
        j_camera * root[:, None, None],
        j_pose * root[:, None, None],
        j_point * root[:, None, None],
    )

    rows = np.arange(2 * len(local)).reshape(-1, 2, 1)
    left = np.concatenate([j_camera, j_pose], axis=2)
    cols = np.concatenate(
        [block.camera[:, None] * free + np.arange(free), cameras * free + block.photo[:, None] * 6 + np.arange(6)], axis=1
    )[:, None, :]
    A = sparse.csr_array(
        (left.ravel(), (np.broadcast_to(rows, left.shape).ravel(), np.broadcast_to(cols, left.shape).ravel())),
        shape=(2 * len(local), size),
    )
    cols3 = (block.point[:, None] * 3 + np.arange(3))[:, None, :]
    D = sparse.csr_array(
        (j_point.ravel(), (np.broadcast_to(rows, j_point.shape).ravel(), np.broadcast_to(cols3, j_point.shape).ravel())),
        shape=(2 * len(local), 3 * points),
    )
    B = (A.T @ A).toarray()
    E = (A.T @ D).tocsr()
    g = A.T @ residual.ravel()
    h = (D.T @ residual.ravel()).reshape(-1, 3)
    outer = np.einsum("mki,mkj->mij", j_point, j_point).reshape(-1, 9)
    V = np.stack([np.bincount(block.point, outer[:, k], points) for k in range(9)], axis=1).reshape(-1, 3, 3)

    gps, control, camera = _prior_residuals(block, knowns)
    base_pose, base_offset = cameras * free, size - 3
    has = np.flatnonzero(np.isfinite(knowns.gps[:, 0]))
    for axis in range(3):
        at = base_pose + has * 6 + 3 + axis
        weight = 1 / knowns.gps_sd[has, axis] ** 2
        B[at, at] += weight
        B[at, base_offset + axis] += weight
        B[base_offset + axis, at] += weight
        B[base_offset + axis, base_offset + axis] += weight.sum() + 1 / knowns.offset_sd[axis] ** 2
        scaled = gps[has, axis] / knowns.gps_sd[has, axis]
        g[at] += scaled
        g[base_offset + axis] += scaled.sum() + block.offset[axis] / knowns.offset_sd[axis] ** 2
    for k in range(cameras):
        at = slice(k * free, (k + 1) * free)
        weights = 1 / knowns.params_sd[k] ** 2
        B[at, at] += knowns.tie.T @ (weights[:, None] * knowns.tie)
        g[at] += knowns.tie.T @ (camera[k] / knowns.params_sd[k])
    for index, row in enumerate(knowns.control_rows):
        V[row] += np.diag(1 / knowns.control_sd[index] ** 2)
        h[row] += control[index] / knowns.control_sd[index]
    return _Normal(B=B, E=E, V=V, g=g, h=h)


def _eliminated(normal: _Normal, damping: float) -> tuple[Array, Array, sparse.csr_array, Array]:
    """Reduced matrix S and gradient s after elimination of the points; E V^-1 and V^-1."""
    V = normal.V + damping * normal.V * np.eye(3) + 1e-12 * np.eye(3)
    inverse = np.linalg.inv(V)
    count = len(V)
    blocks = sparse.bsr_array((inverse, np.arange(count), np.arange(count + 1)), shape=(3 * count, 3 * count)).tocsr()
    EV = (normal.E @ blocks).tocsr()
    S = normal.B + damping * np.diag(np.diag(normal.B)) - (EV @ normal.E.T).toarray()
    s = normal.g - EV @ normal.h.ravel()
    return S, s, EV, inverse


def _rotations(vectors: Array) -> Array:
    """Rotation matrices (N, 3, 3) of rotation vectors (N, 3) (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    k = _cross(vectors)
    safe = np.where(angle > 1e-8, angle, 1.0)
    first = np.where(angle > 1e-8, np.sin(safe) / safe, 1.0)
    second = np.where(angle > 1e-8, (1 - np.cos(safe)) / safe**2, 0.5)
    return np.asarray(np.eye(3) + first * k + second * (k @ k))


def _adjust(block: _Block, knowns: _Knowns, config: AdjustConfig) -> _Block:
    """The block at the least cost (Levenberg-Marquardt)."""
    cameras, free = len(block.params), knowns.tie.shape[1]
    damping, cost = 1e-4, _cost(block, knowns, config.huber)
    for _ in range(config.iterations):
        normal = _normal(block, knowns, config.huber)
        while True:
            S, s, EV, inverse = _eliminated(normal, damping)
            try:
                step = -np.linalg.solve(S, s)
            except np.linalg.LinAlgError:
                step = np.full(len(s), np.nan)
            move = -np.einsum("nij,nj->ni", inverse, normal.h) - (EV.T @ step).reshape(-1, 3)
            pose = step[cameras * free : -3].reshape(-1, 6)
            trial = replace(
                block,
                params=block.params + step[: cameras * free].reshape(cameras, free) @ knowns.tie.T,
                R=_rotations(pose[:, :3]) @ block.R,
                C=block.C + pose[:, 3:],
                offset=block.offset + step[-3:],
                X=block.X + move,
            )
            new = _cost(trial, knowns, config.huber) if np.isfinite(step).all() else math.inf
            if new <= cost or damping > 1e8:
                break
            damping *= 8
        if not new <= cost:
            break
        fall, block, cost = cost - new, trial, new
        damping = max(damping / 8, 1e-10)
        if fall <= config.tolerance * cost:
            break
    # Rounding lets R drift from a rotation by about 1e-16 a step.
    u, _, vt = np.linalg.svd(block.R)
    return replace(block, R=u @ vt)


def _angles_ok(block: _Block, limit_deg: float) -> NDArray[np.bool_]:
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


def _filtered(block: _Block, ties: int, config: AdjustConfig) -> _Block:
    """Without outlying observations and points seen less than twice or at too small an angle; ground points are kept."""
    distance = np.linalg.norm(_residuals(block), axis=1)
    ahead = _local(block)[:, 2] > 0
    ground = block.point >= ties
    keep = ground | ((distance <= config.max_residual_px) & ahead)
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
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """What the steps share. names: photo -> index of its pose; ids: sorted camera ids; camera_of: (P,) index into ids;
    origin: (3,) m, subtracted from all positions so that float64 keeps micrometres; gps, gps_sd: (P, 3) m, less the origin.
    """

    flight: Flight
    model: FreeModel
    names: Mapping[str, int]
    ids: tuple[str, ...]
    camera_of: Ints
    origin: Array
    gps: Array
    gps_sd: Array
    config: AdjustConfig


def _triangulated(task: _Task, block: _Block, point: GroundPoint) -> Array | None:
    """Position of a ground point from its observations in registered photos, least squares in pixels.

    None if it is seen less than twice or its rays are parallel.
    """
    seen = [(task.names[name], pixel) for name, pixel in point.observations.items() if name in task.names]
    if len(seen) < 2:
        return None
    photo = np.array([index for index, _ in seen])
    pixels = np.array([pixel for _, pixel in seen], float)
    params, rotation, centres = block.params[task.camera_of[photo]], block.R[photo], block.C[photo]
    directions = [
        r.T @ rays(_camera(task, p, c), pixel[None])[0]
        for r, p, c, pixel in zip(rotation, params, task.camera_of[photo], pixels, strict=True)
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
    positions = np.array([point.position for point, _ in controls]).reshape(-1, 3) - task.origin
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
    misfit = (scale * source @ rotation.T + shift - target)[inliers]
    rms = math.sqrt(float((misfit**2).sum(axis=1).mean()))
    limit = config.gps_misfit * math.sqrt(float((sd[inliers] ** 2).sum(axis=1).mean()))
    spread = math.sqrt(float(((target[inliers] - target[inliers].mean(axis=0)) ** 2).sum(axis=1).mean()))
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
    start = _Block(
        R=model.R,
        C=model.C,
        params=np.array([opencv_params(model.cameras[key]) for key in task.ids]),
        X=model.points,
        offset=np.zeros(3),
        photo=model.obs_photo,
        camera=task.camera_of[model.obs_photo],
        point=model.obs_point,
        pixel=model.obs_pixel,
        pixel_sd=np.ones((len(model.obs_photo), 2)),
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
    block, knowns = _started(task, start, placement, controls)
    for turn in range(config.rounds):
        progress("drone.stage_adjust", turn / config.rounds)
        block = _adjust(block, knowns, config)
        block = _filtered(block, len(block.X) - len(controls), config)
        knowns = replace(knowns, control_rows=np.arange(len(block.X) - len(controls), len(block.X)))
        block, knowns = _weighed(block, knowns, len(controls))
    block = _adjust(block, knowns, config)
    progress("drone.stage_adjust", 1.0)
    return _reported(task, block, knowns, placement.control, controls, tuple(gaps) + placement.gaps, unregistered or {})


def _task(model: FreeModel, flight: Flight, config: AdjustConfig) -> _Task:
    photos = {photo.name: photo for photo in flight.photos}
    ids = tuple(sorted({photos[name].camera_id for name in model.names}))
    placed = positions_of(flight)
    anchors = [placed[name] for name in model.names if name in placed] or [np.array(p.position) for p in flight.ground_points]
    origin = np.round(np.median(np.array(anchors), axis=0)) if anchors else np.zeros(3)
    return _Task(
        flight=flight,
        model=model,
        names={name: index for index, name in enumerate(model.names)},
        ids=ids,
        camera_of=np.array([ids.index(photos[name].camera_id) for name in model.names], np.int64),
        origin=origin,
        gps=np.array([placed[name] - origin if name in placed else np.full(3, np.nan) for name in model.names]),
        gps_sd=np.array([photos[name].position_sd for name in model.names]),
        config=config,
    )


def _started(
    task: _Task, free: _Block, placement: _Placement, controls: list[tuple[GroundPoint, Array]]
) -> tuple[_Block, _Knowns]:
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
    block = replace(
        free,
        R=free.R @ rotation.T,
        C=moved(free.C),
        X=moved(np.concatenate([free.X, np.array([place for _, place in controls]).reshape(-1, 3)])),
        photo=np.concatenate([free.photo, photo]),
        camera=np.concatenate([free.camera, task.camera_of[photo]]),
        point=np.concatenate([free.point, np.array([mark[1] for mark in marks], np.int64)]),
        pixel=np.concatenate([free.pixel, np.array([mark[2] for mark in marks], float).reshape(-1, 2)]),
        pixel_sd=np.concatenate([free.pixel_sd, np.full((len(marks), 2), config.mark_sd_px)]),
    )
    prior, prior_sd = [], []
    for key, estimate in zip(task.ids, free.params, strict=True):
        camera = task.flight.cameras[key]
        width, height = camera.size
        focal = camera.focal_prior or float(estimate[0])
        focal_sd = focal * (camera.focal_prior_sd or config.focal_sd)
        centre_sd = config.principal_point_sd * max(width, height)
        radial, tangential = config.distortion_sd
        prior.append([focal, focal, width / 2, height / 2, 0, 0, 0, 0])
        prior_sd.append([focal_sd * math.sqrt(2)] * 2 + [centre_sd] * 2 + [radial] * 2 + [tangential] * 2)
    tie = np.eye(8)
    if config.tie_focal:
        tie = np.concatenate([tie[:, :1] + tie[:, 1:2], tie[:, 2:]], axis=1)
        mean = block.params[:, :2].mean(axis=1)
        block = replace(block, params=np.column_stack([mean, mean, block.params[:, 2:]]))
    gps = np.where(placement.fitting[:, None], task.gps, np.nan)
    gps_sd = task.gps_sd
    if placement.control == "none":
        # Holds the arbitrary frame: the centres where they are, to one median depth.
        gps, gps_sd = block.C, np.ones_like(block.C)
    positions = np.array([point.position for point, _ in controls]).reshape(-1, 3) - task.origin
    return block, _Knowns(
        gps=gps,
        gps_sd=gps_sd,
        offset_sd=np.maximum(np.sqrt((gps_sd**2).mean(axis=0)), config.gps_offset_floor),
        control_rows=np.arange(count, count + len(controls)),
        control=positions,
        control_sd=np.array([point.sd for point, _ in controls]).reshape(-1, 3),
        params=np.array(prior),
        params_sd=np.array(prior_sd),
        tie=tie,
    )


def _weighed(block: _Block, knowns: _Knowns, controls: int) -> tuple[_Block, _Knowns]:
    """Tie points and positions weighed by how well they turned out to fit.

    Tie points: the median absolute residual (1.4826 of it is the sd of normal errors), freed from the bias of
    fitting. Positions: only their scatter about the common offset; that offset keeps its own, stated sd.
    """
    ties = block.point < len(block.X) - controls
    residual = _residuals(block)[ties]
    freedom = 1 - (3 * (len(block.X) - controls) + 6 * len(block.C)) / max(residual.size, 1)
    sd = 1.4826 * float(np.median(np.abs(residual))) / math.sqrt(max(freedom, 0.1))
    pixel_sd = block.pixel_sd.copy()
    pixel_sd[ties] = max(sd, 0.02)
    has = np.isfinite(knowns.gps[:, 0])
    count = int(has.sum())
    if count < 6:
        return replace(block, pixel_sd=pixel_sd), knowns
    misfit = ((block.C + block.offset - knowns.gps) / knowns.gps_sd)[has]
    # A similarity takes two shifts, turn and scale from the horizontal, one shift and two tilts from the vertical.
    flat = math.sqrt(float((misfit[:, :2] ** 2).sum()) / (2 * count - 4))
    up = math.sqrt(float((misfit[:, 2] ** 2).sum()) / (count - 3))
    gps_sd = np.maximum(knowns.gps_sd * [flat, flat, up], 0.005)
    return replace(block, pixel_sd=pixel_sd), replace(knowns, gps_sd=gps_sd)


def _uncertainty(task: _Task, block: _Block, knowns: _Knowns, controls: int) -> tuple[tuple[float, float, float], float, float]:
    """Propagated sd: (E, N, U) m of ground points, of horizontal lengths (1), of the focal length (1).

    The sd of ground points is that from poses, camera and datum, root mean square over tie points spread
    over the block; the noise of single tie points is not in it.
    """
    normal = _normal(block, knowns, task.config.huber)
    S, _, EV, _ = _eliminated(normal, 0.0)
    covariance = np.linalg.inv(S)
    ties = len(block.X) - controls
    sample = np.arange(0, ties, max(1, ties // 400))
    # Row 3 i + axis of J: how the point follows the block, dX = -V^-1 E' dtheta.
    rows = (sample[:, None] * 3 + np.arange(3)).ravel()
    J = -EV.T.tocsr()[rows].toarray()
    variance = np.einsum("ij,jk,ik->i", J, covariance, J).reshape(-1, 3)
    sd = np.sqrt(variance.mean(axis=0))
    arm = block.X[sample] - block.X[sample].mean(axis=0)
    weight = np.where([True, True, False], arm, 0.0).ravel()
    along = weight @ J / float((weight**2).sum())
    scale_sd = math.sqrt(float(along @ covariance @ along))
    focal_sd = math.sqrt(float(covariance[0, 0])) / float(block.params[0, 0])
    return (float(sd[0]), float(sd[1]), float(sd[2])), scale_sd, focal_sd


def _rms(values: Array) -> float:
    return math.sqrt(float((values**2).sum(axis=-1).mean()))


def _reported(
    task: _Task,
    block: _Block,
    knowns: _Knowns,
    control: Literal["gps", "ground_points", "none"],
    controls: list[tuple[GroundPoint, Array]],
    gaps: tuple[Message, ...],
    unregistered: Mapping[str, Message],
) -> Reconstruction:
    """The result in the flight's CRS."""
    ties = len(block.X) - len(controls)
    is_tie = block.point < ties
    metric = control != "none"
    ground = []
    for point in task.flight.ground_points if metric else ():
        place = _triangulated(task, block, point)
        if place is not None:
            residual = place + task.origin - point.position
            seen = sum(name in task.names for name in point.observations)
            ground.append(
                PointResidual(name=point.name, role=point.role, residual=tuple(float(r) for r in residual), photos=seen)
            )
    check = np.array([point.residual for point in ground if point.role == "check"]).reshape(-1, 3)
    misfit = (block.C - task.gps)[np.isfinite(knowns.gps[:, 0])] if metric else np.zeros((0, 3))
    position_sd, scale_sd, focal_sd = (math.inf,) * 3, math.inf, math.inf
    if metric:
        position_sd, scale_sd, focal_sd = _uncertainty(task, block, knowns, len(controls))
    if len(check) >= 3:
        # What was measured counts more than what was propagated, where it is worse.
        seen_sd = np.sqrt((check**2).mean(axis=0))
        position_sd = tuple(float(max(a, b)) for a, b in zip(position_sd, seen_sd, strict=True))
    depth = _local(block)[is_tie, 2]
    order = np.argsort(block.point[is_tie], kind="stable")
    counts = np.bincount(block.point[is_tie], minlength=ties)
    accuracy = AccuracyReport(
        reprojection_rmse=_rms(_residuals(block)[is_tie]),
        gsd=float(np.median(depth / block.params[block.camera[is_tie], 0])) if metric else math.nan,
        ground_points=tuple(ground),
        check_rmse_horizontal=_rms(check[:, :2]) if len(check) else None,
        check_rmse_vertical=_rms(check[:, 2:]) if len(check) else None,
        gps_rmse_horizontal=_rms(misfit[:, :2]) if len(misfit) else None,
        gps_rmse_vertical=_rms(misfit[:, 2:]) if len(misfit) else None,
        control=control,
        position_sd=position_sd,
        scale_sd=scale_sd,
        focal_sd=focal_sd,
    )
    shift = task.origin if metric else np.zeros(3)
    return Reconstruction(
        flight=task.flight,
        poses={name: Pose(R=block.R[i], C=block.C[i] + shift) for i, name in enumerate(task.model.names)},
        cameras={key: _camera(task, block.params[k], k) for k, key in enumerate(task.ids)},
        points=block.X[:ties] + shift,
        track_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        track_photos=block.photo[is_tie][order].astype(np.int32),
        track_pixels=block.pixel[is_tie][order].astype(np.float32),
        unregistered=dict(sorted(unregistered.items())),
        accuracy=accuracy,
        gaps=gaps,
    )
