"""Least squares over poses, cameras, points and a common GPS offset, with the covariance of the result.

`adjust` finds the least weighted cost from a good start; `reduced` gives the normal equations with the points
eliminated, from which covariances follow. Observations are pixels with a Huber weight; priors are GPS positions,
control points and camera parameters. Which camera parameters are free is a matrix, so that some can be tied or held.
Arrays only, one thread, no I/O. Source: Triggs et al. (2000), doi 10.1007/3-540-44480-7_21, sections 4, 6 and 9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drone.camera import project_camera_points

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Unknowns and observations.

    R: (P, 3, 3) world-to-camera; C: (P, 3) m, when the middle row is read; params: (K, 9) as `drone.camera`, then the read-out time, s.
    velocity: (P, 3) m/s, held; slip: (P, 3) m, by which a photo's motion during the read-out differs from that. X: (N, 3) m, tie points, then control points.
    offset: (3,) m, GPS minus truth. photo, camera, point: (M,) indices; pixel, pixel_sd: (M, 2) px.
    phase: (M,) when the row of the pixel is read, in read-out times from the middle row (-1/2 first row, 1/2 last row).
    share: (M,) what part of an independent observation each one counts for. group: (M,) of observations with one noise.
    """

    R: Array
    C: Array
    params: Array
    velocity: Array
    slip: Array
    X: Array
    offset: Array
    photo: Ints
    camera: Ints
    point: Ints
    pixel: Array
    pixel_sd: Array
    phase: Array
    share: Array
    group: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Priors:
    """What is known beforehand, with one sigma each.

    gps, gps_sd: (P, 3) m, NaN where none; offset_sd: (3,) m. control, control_sd: (G, 3) m, the last G rows of X.
    down: (P, 3) stated viewing directions, NaN where none; down_sd: (P,) rad per component.
    slip_sd: (P,) m, about zero; slips are unknowns where the read-out time is free.
    params, params_sd: (K, 9). free: (9, F), from free camera parameters to all: a zero row holds a parameter.
    """

    gps: Array
    gps_sd: Array
    offset_sd: Array
    control: Array
    control_sd: Array
    down: Array
    down_sd: Array
    slip_sd: Array
    params: Array
    params_sd: Array
    free: Array

    @property
    def pose(self) -> int:
        """Unknowns of a photo: rotation and centre, and the slip where the read-out time is free."""
        return 9 if self.free[8].any() else 6


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """Normal equations S x = -s after elimination of the points.

    Unknowns: free parameters of each camera, then (rotation, centre, slip if free) of each photo, then the GPS offset.
    """

    S: Array
    s: Array
    parts: Any
    inverse: Array
    h: Array


def local_points(block: Block) -> Array:
    """(M, 3) observed points in camera axes, m."""
    return np.asarray(np.einsum("mij,mj->mi", block.R[block.photo], block.X[block.point] - row_centres(block)))


def row_centres(block: Block) -> Array:
    """(M, 3) where the camera is while the row of each observation is read, m."""
    motion = block.params[block.camera, 8, None] * block.velocity[block.photo] + block.slip[block.photo]
    return np.asarray(block.C[block.photo] + block.phase[:, None] * motion)


def residuals(block: Block) -> Array:
    """Projected minus observed pixels (M, 2)."""
    return project_camera_points(block.params[block.camera, :8], local_points(block)) - block.pixel


def _prior_residuals(block: Block, priors: Priors) -> tuple[Array, Array, Array, Array, Array]:
    """Of positions (P, 3), viewing directions (P, 2), control points (G, 3), cameras (K, 9) and slips (P, 3), in sigmas."""
    gps = np.nan_to_num((block.C + block.offset - priors.gps) / priors.gps_sd)
    control = (block.X[len(block.X) - len(priors.control) :] - priors.control) / priors.control_sd
    down = np.nan_to_num((block.R[:, 2, :2] - priors.down[:, :2]) / priors.down_sd[:, None])
    return gps, down, control, (block.params - priors.params) / priors.params_sd, block.slip / priors.slip_sd[:, None]


def _cost(block: Block, priors: Priors, huber: float) -> float:
    local = local_points(block)
    if not (local[:, 2] > 0).all():
        return math.inf
    r = np.linalg.norm((project_camera_points(block.params[block.camera, :8], local) - block.pixel) / block.pixel_sd, axis=1)
    robust = (block.share * np.where(r <= huber, r * r, 2 * huber * r - huber * huber)).sum()
    gps, down, control, camera, slip = _prior_residuals(block, priors)
    held = ~priors.free.any(axis=1)
    camera[:, held] = 0
    known = (gps**2).sum() + (down**2).sum() + (control**2).sum() + (camera**2).sum()
    if priors.pose == 9:
        known += (slip**2).sum()
    cost = float(robust + known + ((block.offset / priors.offset_sd) ** 2).sum())
    return cost if math.isfinite(cost) else math.inf


def _cross(v: Array) -> Array:
    """(N, 3, 3) matrices of the cross product with v (N, 3)."""
    zero = np.zeros(len(v))
    return np.stack([zero, -v[:, 2], v[:, 1], v[:, 2], zero, -v[:, 0], -v[:, 1], v[:, 0], zero], axis=1).reshape(-1, 3, 3)


@njit(cache=True)
def linearised(R, C, params, velocity, slip, X, photo, camera, point, pixel, pixel_sd, phase, share, free, pose, huber):  # type: ignore[no-untyped-def]
    """Weighted residuals (M, 2), their derivatives by (free camera parameters, rotation, centre, and slip if pose is 9)
    (M, 2, F + pose) and by the point (M, 2, 3). The model is that of `drone.camera`, from where the camera is while the row of the pixel
    is read; a turn w of the camera is R <- exp(w) R.
    """
    count, width = len(photo), free.shape[1]
    residual = np.empty((count, 2))
    left = np.empty((count, 2, width + pose))
    right = np.empty((count, 2, 3))
    d_params = np.zeros((2, 9))
    d_local = np.empty((2, 3))
    for o in range(count):
        r = R[photo[o]]
        fx, fy, cx, cy, k1, k2, p1, p2, readout = params[camera[o]]
        d = X[point[o]] - C[photo[o]] - phase[o] * (readout * velocity[photo[o]] + slip[photo[o]])
        lx = r[0, 0] * d[0] + r[0, 1] * d[1] + r[0, 2] * d[2]
        ly = r[1, 0] * d[0] + r[1, 1] * d[1] + r[1, 2] * d[2]
        lz = r[2, 0] * d[0] + r[2, 1] * d[1] + r[2, 2] * d[2]
        x, y = lx / lz, ly / lz
        r2 = x * x + y * y
        radial, slope = 1 + r2 * (k1 + k2 * r2), k1 + 2 * k2 * r2
        u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
        residual[o, 0] = (fx * u + cx - pixel[o, 0]) / pixel_sd[o, 0]
        residual[o, 1] = (fy * v + cy - pixel[o, 1]) / pixel_sd[o, 1]
        length = math.sqrt(residual[o, 0] ** 2 + residual[o, 1] ** 2)
        root = math.sqrt(share[o] if length <= huber else share[o] * huber / length)
        d_params[0, 0], d_params[1, 1] = u, v
        d_params[0, 2], d_params[1, 3] = 1.0, 1.0
        d_params[0, 4], d_params[1, 4] = fx * x * r2, fy * y * r2
        d_params[0, 5], d_params[1, 5] = fx * x * r2 * r2, fy * y * r2 * r2
        d_params[0, 6], d_params[1, 6] = fx * 2 * x * y, fy * (r2 + 2 * y * y)
        d_params[0, 7], d_params[1, 7] = fx * (r2 + 2 * x * x), fy * 2 * x * y
        ux = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
        uy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
        vy = radial + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y
        d_local[0, 0], d_local[0, 1], d_local[0, 2] = fx * ux / lz, fx * uy / lz, -fx * (ux * x + uy * y) / lz
        d_local[1, 0], d_local[1, 1], d_local[1, 2] = fy * uy / lz, fy * vy / lz, -fy * (uy * x + vy * y) / lz
        for e in range(2):
            weight = root / pixel_sd[o, e]
            residual[o, e] *= root
            a, b, c3 = d_local[e, 0], d_local[e, 1], d_local[e, 2]
            d_params[e, 8] = 0.0
            for k in range(3):
                d_params[e, 8] -= phase[o] * velocity[photo[o], k] * (a * r[0, k] + b * r[1, k] + c3 * r[2, k])
            for c in range(width):
                total = 0.0
                for k in range(9):
                    total += d_params[e, k] * free[k, c]
                left[o, e, c] = total * weight
            left[o, e, width] = (c3 * ly - b * lz) * weight
            left[o, e, width + 1] = (a * lz - c3 * lx) * weight
            left[o, e, width + 2] = (b * lx - a * ly) * weight
            for k in range(3):
                right[o, e, k] = (a * r[0, k] + b * r[1, k] + c3 * r[2, k]) * weight
                left[o, e, width + 3 + k] = -right[o, e, k]
                if pose == 9:
                    left[o, e, width + 6 + k] = -phase[o] * right[o, e, k]
    return residual, left, right


def _jacobians(block: Block, free: Array, pose: int, huber: float) -> Any:
    return linearised(
        block.R,
        block.C,
        block.params,
        block.velocity,
        block.slip,
        block.X,
        block.photo,
        block.camera,
        block.point,
        block.pixel,
        block.pixel_sd,
        block.phase,
        block.share,
        free,
        pose,
        huber,
    )


@njit(cache=True)
def _eliminate(start, order, cols, left, right, residual, V, h, S, s, damping):  # type: ignore[no-untyped-def]
    """Adds the observations to S (n, n), s (n,) and eliminates the points; V (N, 3, 3) and h (N, 3) come with the priors of
    the points and leave as V^-1 (damped) and the gradient. Returns the diagonal of the camera part before elimination.
    """
    width = cols.shape[1]
    diagonal = np.zeros(len(s))
    longest = 0
    for i in range(len(V)):
        longest = max(longest, start[i + 1] - start[i])
    W = np.zeros((longest, width, 3))
    Y = np.zeros((longest, width, 3))
    half = np.zeros_like(S)
    for i in range(len(V)):
        first, last = start[i], start[i + 1]
        for k in range(first, last):
            o = order[k]
            for a in range(3):
                for e in range(2):
                    h[i, a] += right[o, e, a] * residual[o, e]
                    for b in range(3):
                        V[i, a, b] += right[o, e, a] * right[o, e, b]
        for a in range(3):
            V[i, a, a] += damping * V[i, a, a] + 1e-12
        inverse = np.linalg.inv(V[i])
        for a in range(3):
            for b in range(3):
                V[i, a, b] = inverse[a, b]
        for k in range(first, last):
            o = order[k]
            for c in range(width):
                for a in range(3):
                    W[k - first, c, a] = left[o, 0, c] * right[o, 0, a] + left[o, 1, c] * right[o, 1, a]
                for a in range(3):
                    Y[k - first, c, a] = (
                        W[k - first, c, 0] * V[i, 0, a] + W[k - first, c, 1] * V[i, 1, a] + W[k - first, c, 2] * V[i, 2, a]
                    )
                s[cols[o, c]] += left[o, 0, c] * residual[o, 0] + left[o, 1, c] * residual[o, 1]
                for a in range(3):
                    s[cols[o, c]] -= Y[k - first, c, a] * h[i, a]
                diagonal[cols[o, c]] += left[o, 0, c] ** 2 + left[o, 1, c] ** 2
                for d in range(width):
                    S[cols[o, c], cols[o, d]] += left[o, 0, c] * left[o, 0, d] + left[o, 1, c] * left[o, 1, d]
        # Blocks (k, m) and (m, k) are each other's transposes.
        for k in range(last - first):
            for m in range(k + 1):
                into = S if k == m else half
                for c in range(width):
                    at = cols[order[first + k], c]
                    y0, y1, y2 = Y[k, c, 0], Y[k, c, 1], Y[k, c, 2]
                    for d in range(width):
                        into[at, cols[order[first + m], d]] -= y0 * W[m, d, 0] + y1 * W[m, d, 1] + y2 * W[m, d, 2]
    for c in range(len(s)):
        for d in range(len(s)):
            S[c, d] += half[c, d] + half[d, c]
    return diagonal


@njit(cache=True)
def _back(start, order, cols, left, right, inverse, h, step):  # type: ignore[no-untyped-def]
    """Steps of the points (N, 3) that belong to `step` of the other unknowns."""
    result = np.zeros_like(h)
    for i in range(len(h)):
        v = h[i].copy()
        for k in range(start[i], start[i + 1]):
            o = order[k]
            for e in range(2):
                along = 0.0
                for c in range(cols.shape[1]):
                    along += left[o, e, c] * step[cols[o, c]]
                for a in range(3):
                    v[a] += right[o, e, a] * along
        for a in range(3):
            result[i, a] = -(inverse[i, a, 0] * v[0] + inverse[i, a, 1] * v[1] + inverse[i, a, 2] * v[2])
    return result


@njit(cache=True)
def _factor(matrix):  # type: ignore[no-untyped-def]
    """Lower Cholesky factor; False where the matrix is not positive definite.

    Our own, as LAPACK's last digits depend on how many threads it takes.
    """
    L = matrix.copy()
    n = len(L)
    filled = np.empty(n, np.int64)
    for k in range(n):
        if not L[k, k] > 0:
            return L, False
        root = math.sqrt(L[k, k])
        L[k, k] = root
        count = 0
        for i in range(k + 1, n):
            # Photos that share no point, directly or by others, leave zeros, which are passed over.
            if L[i, k] != 0:
                L[i, k] /= root
                filled[count] = i
                count += 1
        for a in range(count):
            i = filled[a]
            value = L[i, k]
            for b in range(a + 1):
                j = filled[b]
                L[i, j] -= value * L[j, k]
    return L, True


@njit(cache=True)
def _substituted(L, right):  # type: ignore[no-untyped-def]
    """x (n, m) of L L' x = right."""
    x = right.copy()
    n, m = x.shape
    for i in range(n):
        for j in range(i):
            if L[i, j] != 0:
                for k in range(m):
                    x[i, k] -= L[i, j] * x[j, k]
        for k in range(m):
            x[i, k] /= L[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(m):
            x[i, k] /= L[i, i]
        for j in range(i):
            if L[i, j] != 0:
                for k in range(m):
                    x[j, k] -= L[i, j] * x[i, k]
    return x


def solved(matrix: Array, right: Array) -> Array:
    """x (n, m) of matrix x = right (n, m), matrix (n, n) symmetric positive definite; NaN where it is not."""
    # Scaled to a unit diagonal: angles and metres differ by orders of magnitude. Unknowns that touch many others come
    # last (stable): camera and datum, which touch all, would otherwise fill the whole factor.
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    order = np.argsort(np.count_nonzero(matrix, axis=1) > 0.9 * len(matrix), kind="stable")
    scale = scale[order]
    L, good = _factor(matrix[np.ix_(order, order)] * scale[:, None] * scale)
    if not good:
        return np.full(right.shape, np.nan)
    result = np.empty(right.shape)
    result[order] = scale[:, None] * _substituted(L, right[order] * scale[:, None])
    return result


def covariance_of(matrix: Array) -> Array:
    """Inverse of a normal matrix (n, n)."""
    return solved(matrix, np.eye(len(matrix)))


def reduced(block: Block, priors: Priors, *, huber: float, damping: float = 0.0, jacobians: Any = None) -> Reduced:
    """The reduced normal equations at `block`; `damping` multiplies the diagonal (Marquardt)."""
    photos, cameras, points = len(block.C), len(block.params), len(block.X)
    free, pose = priors.free.shape[1], priors.pose
    size = cameras * free + photos * pose + 3
    residual, left, right = _jacobians(block, priors.free, pose, huber) if jacobians is None else jacobians
    cols = np.concatenate(
        [block.camera[:, None] * free + np.arange(free), cameras * free + block.photo[:, None] * pose + np.arange(pose)], axis=1
    )
    order = np.argsort(block.point, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(block.point, minlength=points))])
    S, s, V, h = np.zeros((size, size)), np.zeros(size), np.zeros((points, 3, 3)), np.zeros((points, 3))

    gps, down, control, camera, slip = _prior_residuals(block, priors)
    base, offset = cameras * free, size - 3
    has = np.flatnonzero(np.isfinite(priors.gps[:, 0]))
    for axis in range(3):
        at, last = base + has * pose + 3 + axis, offset + axis
        weight = 1 / priors.gps_sd[has, axis] ** 2
        scaled = gps[has, axis] / priors.gps_sd[has, axis]
        S[at, at] += weight
        S[at, last] += weight
        S[last, at] += weight
        S[last, last] += weight.sum() + 1 / priors.offset_sd[axis] ** 2
        s[at] += scaled
        s[last] += scaled.sum() + block.offset[axis] / priors.offset_sd[axis] ** 2
    for i in np.flatnonzero(np.isfinite(priors.down[:, 0])):
        # A turn w moves the viewing direction, the third row of R, by -w_y R[0] + w_x R[1].
        turn = np.stack([block.R[i, 1, :2], -block.R[i, 0, :2]], axis=1) / priors.down_sd[i]
        at = slice(base + pose * i, base + pose * i + 2)
        S[at, at] += turn.T @ turn
        s[at] += turn.T @ down[i]
    for k in range(cameras):
        at = slice(k * free, (k + 1) * free)
        S[at, at] += priors.free.T @ (priors.free / priors.params_sd[k][:, None] ** 2)
        s[at] += priors.free.T @ (camera[k] / priors.params_sd[k])
    if pose == 9:
        for axis in range(3):
            own = base + np.arange(photos) * pose + 6 + axis
            S[own, own] += 1 / priors.slip_sd**2
            s[own] += slip[:, axis] / priors.slip_sd
    first = points - len(priors.control)
    for axis in range(3):
        V[first:, axis, axis] += 1 / priors.control_sd[:, axis] ** 2
        h[first:, axis] += control[:, axis] / priors.control_sd[:, axis]
    diagonal = np.diag(S).copy()
    diagonal += _eliminate(start, order, cols, left, right, residual, V, h, S, s, damping)
    S[np.arange(size), np.arange(size)] += damping * diagonal
    return Reduced(S=S, s=s, parts=(start, order, cols, left, right), inverse=V, h=h)


def point_steps(normal: Reduced, step: Array) -> Array:
    """(N, 3) steps of the points that go with `step` of the other unknowns, m."""
    start, order, cols, left, right = normal.parts
    return np.asarray(_back(start, order, cols, left, right, normal.inverse, normal.h, step))


def point_sensitivity(normal: Reduced, rows: Ints) -> Array:
    """d X / d unknowns (len(rows), 3, n): how points follow poses, cameras and datum."""
    start, order, cols, left, right = normal.parts
    result = np.zeros((len(rows), 3, len(normal.s)))
    for index, row in enumerate(rows):
        for o in order[start[row] : start[row + 1]]:
            np.add.at(result[index].T, cols[o], -(left[o].T @ right[o]) @ normal.inverse[row])
    return result


def rotations(vectors: Array) -> Array:
    """Rotation matrices (N, 3, 3) of rotation vectors (N, 3) (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    k = _cross(vectors)
    safe = np.where(angle > 1e-8, angle, 1.0)
    first = np.where(angle > 1e-8, np.sin(safe) / safe, 1.0)
    second = np.where(angle > 1e-8, (1 - np.cos(safe)) / safe**2, 0.5)
    return np.asarray(np.eye(3) + first * k + second * (k @ k))


def adjust(block: Block, priors: Priors, *, huber: float, iterations: int, tolerance: float) -> Block:
    """The block at the least cost (Levenberg-Marquardt).

    Ends when a step of poses, cameras and datum is worth less than `tolerance`, as a chi-square: 0.01 moves none
    of them by more than a tenth of its sd. Single points may still creep along their rays; they carry no weight.
    """
    cameras, free, width = len(block.params), priors.free.shape[1], priors.pose
    camera_of = np.zeros(len(block.C), np.int64)
    camera_of[block.photo] = block.camera
    damping, cost = 1e-6, _cost(block, priors, huber)
    for _ in range(iterations):
        jacobians = _jacobians(block, priors.free, width, huber)
        while True:
            normal = reduced(block, priors, huber=huber, damping=damping, jacobians=jacobians)
            step = -solved(normal.S, normal.s[:, None])[:, 0]
            new, trial = math.inf, block
            if np.isfinite(step).all():
                pose = step[cameras * free : -3].reshape(-1, width)
                change = step[: cameras * free].reshape(cameras, free) @ priors.free.T
                # Turns and distortion act on pixels times the focal length; where that changes as well, they change by as much
                # less. Along the valley in which focal length and depth trade, full steps are then good ones.
                less = block.params[:, 0] / np.maximum(block.params[:, 0] + change[:, 0], 1e-3 * block.params[:, 0])
                change[:, 4:8] *= less[:, None]
                turn = pose[:, :3] * less[camera_of][:, None]
                trial = replace(
                    block,
                    params=block.params + change,
                    R=rotations(turn) @ block.R,
                    C=block.C + pose[:, 3:6],
                    slip=block.slip + pose[:, 6:] if width == 9 else block.slip,
                    offset=block.offset + step[-3:],
                    X=block.X + point_steps(normal, step),
                )
                new = _cost(trial, priors, huber)
            if new <= cost or damping > 1e8:
                break
            damping *= 8
        if not new <= cost:
            break
        block, cost = trial, new
        damping = max(damping / 10, 1e-12)
        if float(np.einsum("i,ij,j", step, normal.S, step)) <= tolerance:
            break
    # Rounding lets R drift from a rotation by about 1e-16 a step.
    u, _, vt = np.linalg.svd(block.R)
    return replace(block, R=u @ vt)
