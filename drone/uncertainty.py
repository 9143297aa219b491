"""What an adjusted block may still be wrong by: covariance of its unknowns, and of the ground that they give.

`block_covariance` takes what the adjustment ended with; `error_field` carries its result to the ground, on a coarse grid;
`shared_effect` and `common_effect` say how many observations count as one, from the residuals themselves. Arrays only,
no I/O, the same digits whatever the number of threads: no LAPACK, no BLAS. The noise of single points is in none of this.
Sources: Triggs et al. (2000), doi 10.1007/3-540-44480-7_21, section 8; White (1980), doi 10.2307/1912934 (the sandwich
covariance); Kish (1965), Survey Sampling (the design effect); Harbrecht et al. (2012), doi 10.1016/j.apnum.2011.10.001.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from drone.adjustment import Block, Priors, Reduced, covariance_of, linearised, reduced, residuals
from drone.camera import in_reach, project_camera_points
from drone.types import ErrorField

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
_EDGE_PX = 5.0  # a tie point near the edge of a picture may project a little beyond it


@dataclass(frozen=True, slots=True, eq=False)
class BlockCovariance:
    """normal: the equations at the end; matrix: (n, n) covariance of their unknowns; free, pose: see `Priors`."""

    normal: Reduced
    matrix: Array
    free: Array
    pose: int


@njit(cache=True)
def _scores(start, order, cols, left, right, inverse, spread, control_sd, meat):  # type: ignore[no-untyped-def]
    """Adds to meat (n, n) the covariance of the reduced gradient: `spread` (M,) is the variance of each weighted residual,
    that of control points 1. The last rows of inverse are control points.
    """
    width, points, controls = cols.shape[1], len(inverse), len(control_sd)
    slot = np.full(len(meat), -1)
    used = np.empty(len(meat), np.int64)
    for i in range(points):
        count = 0
        for k in range(start[i], start[i + 1]):
            for c in range(width):
                column = cols[order[k], c]
                if slot[column] < 0:
                    slot[column] = count
                    used[count] = column
                    count += 1
        G = np.zeros((3, count))
        for k in range(start[i], start[i + 1]):
            o = order[k]
            for c in range(width):
                at = slot[cols[o, c]]
                for a in range(3):
                    G[a, at] += right[o, 0, a] * left[o, 0, c] + right[o, 1, a] * left[o, 1, c]
        F = np.zeros((3, count))
        for a in range(3):
            for b in range(3):
                for c in range(count):
                    F[a, c] += inverse[i, a, b] * G[b, c]
        local = np.zeros((count, count))
        row = np.empty(count)
        for k in range(start[i], start[i + 1]):
            o = order[k]
            for e in range(2):
                for c in range(count):
                    row[c] = -(right[o, e, 0] * F[0, c] + right[o, e, 1] * F[1, c] + right[o, e, 2] * F[2, c])
                for c in range(width):
                    row[slot[cols[o, c]]] += left[o, e, c]
                for c in range(count):
                    for d in range(c + 1):
                        local[c, d] += spread[o] * row[c] * row[d]
        if i >= points - controls:
            for a in range(3):
                for c in range(count):
                    for d in range(c + 1):
                        local[c, d] += F[a, c] * F[a, d] / control_sd[i - points + controls, a] ** 2
        for c in range(count):
            for d in range(c + 1):
                meat[used[c], used[d]] += local[c, d]
                if c != d:
                    meat[used[d], used[c]] += local[c, d]
            slot[used[c]] = -1


@njit(cache=True)
def product(a, b):  # type: ignore[no-untyped-def]
    """a (n, m) @ b (m, k), in an order of its own."""
    out = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            if a[i, j] != 0:
                for k in range(b.shape[1]):
                    out[i, k] += a[i, j] * b[j, k]
    return out


def block_covariance(
    block: Block, priors: Priors, *, huber: float, effect: Array | float = 1.0, focal_sd: float | None = None, held: bool = False
) -> BlockCovariance:
    """Covariance of camera parameters, poses and offset.

    Each observation has the variance `pixel_sd`^2 times `effect` (M,), whatever weight it was given in the adjustment, so
    that neither shared weights nor a wish for robustness make the result look better or worse than it is.
    focal_sd: relative sd of the focal length of which the photos' own estimate is not believed: it takes part with that sd
    (a considered parameter), and the photos take nothing off it. Applies where it is the larger one, and
    always where the focal length was `held`.
    """
    normal = reduced(block, priors, huber=huber)
    start, order, cols, left, right = normal.parts
    none = np.zeros(0, np.int64)
    bare = Block(
        R=block.R, C=block.C, params=block.params, velocity=block.velocity, slip=block.slip, X=np.zeros((0, 3)), offset=block.offset, photo=none,
        camera=none, point=none, pixel=np.zeros((0, 2)), pixel_sd=np.zeros((0, 2)), phase=np.zeros(0), share=np.zeros(0),
        group=none,
    )  # fmt: skip
    no_points = Priors(
        gps=priors.gps, gps_sd=priors.gps_sd, offset_sd=priors.offset_sd, control=np.zeros((0, 3)), control_sd=np.zeros((0, 3)),
        down=priors.down, down_sd=priors.down_sd, slip_sd=priors.slip_sd, params=priors.params, params_sd=priors.params_sd, free=priors.free,
    )  # fmt: skip
    meat = reduced(bare, no_points, huber=huber).S
    _scores(start, order, cols, left, right, normal.inverse, block.share * effect, priors.control_sd, meat)
    cameras, width = len(block.params), priors.free.shape[1]

    def sandwich(rows: Ints) -> tuple[Array, Array]:
        inverse = covariance_of(normal.S[np.ix_(rows, rows)])
        return inverse, product(product(inverse, meat[np.ix_(rows, rows)]), inverse)

    matrix = sandwich(np.arange(len(normal.s)))[1]
    focal = np.arange(cameras) * width
    formal = math.sqrt(float(matrix[focal, focal].max())) / float(block.params[:, 0].min())
    if focal_sd is not None and (held or focal_sd > formal):
        rest = np.setdiff1d(np.arange(len(normal.s)), focal)
        inverse, of_rest = sandwich(rest)
        follow = -product(inverse, normal.S[np.ix_(rest, focal)])
        variance = (block.params[:, 0] * focal_sd) ** 2
        matrix = np.zeros_like(normal.S)
        matrix[np.ix_(rest, rest)] = of_rest + product(follow * variance, np.ascontiguousarray(follow.T))
        matrix[np.ix_(rest, focal)] = follow * variance
        matrix[np.ix_(focal, rest)] = (follow * variance).T
        matrix[focal, focal] = variance
    return BlockCovariance(normal=normal, matrix=matrix, free=priors.free, pose=priors.pose)


def _clipped(block: Block, tie: NDArray[np.bool_], huber: float) -> Array:
    """(m, 2) residuals of tie points in sigmas, none longer than Huber's bound."""
    r = residuals(block)[tie] / block.pixel_sd[tie]
    return np.asarray(r * np.minimum(1.0, huber / np.maximum(np.linalg.norm(r, axis=1), 1e-12))[:, None])


def _sums(key: Ints, r: Array) -> tuple[Array, Array]:
    """Per key: the squared length of the sum of r (m, 2), and the sum of squared lengths."""
    total = sum(np.bincount(key, r[:, axis]) ** 2 for axis in range(2))
    return np.asarray(total, float), np.asarray(np.bincount(key, (r * r).sum(axis=1)), float)


def cells_of(block: Block, tie: NDArray[np.bool_], sizes: Array, count: int) -> Ints:
    """(m,) cell of each tie-point observation: square cells, `count` along the longer side of a photo. sizes: (K, 2) px, per camera."""
    side = sizes.max(axis=1)[block.camera[tie]] / count
    at = np.clip((block.pixel[tie] / side[:, None]).astype(np.int64), 0, count - 1)
    return np.asarray(at[:, 1] * count + at[:, 0])


def shared_effect(block: Block, ties: int, sizes: Array, *, huber: float, count: int = 12) -> Array:
    """(M,) how many tie-point observations carry what one independent one would, at least 1, from the residuals themselves.

    Errors of neighbours are alike where one thing moves them: a shadow that wanders, a crown in the wind. Their
    correlation within the cells of a photo gives n of a cell the effect 1 + (n - 1) correlation.
    """
    tie = block.point < ties
    result = np.ones(len(block.point))
    r = _clipped(block, tie, huber)
    key = block.photo[tie] * count * count + cells_of(block, tie, sizes, count)
    together, apart = _sums(key, r)
    number = np.bincount(key)
    pairs = float(((number - 1) * apart)[number > 1].sum())
    correlation = float(np.clip((together - apart).sum() / pairs, 0.0, 1.0)) if pairs > 0 else 0.0
    result[tie] = 1 + (number[key] - 1) * correlation
    return result


def common_effect(
    block: Block, ties: int, sizes: Array, weight: Array, *, huber: float, counts: tuple[int, ...] = (3, 4, 6)
) -> float:
    """By how much what photos, or the same parts of all photos, have in common widens the variance, at least 1.

    Weighted residuals are summed over coarse cells of each photo, and over the same cells of all photos together (what the
    lens leaves); of independent errors the square of a sum is as large as the sum of the squares. weight: (M,) variance
    of each in sigmas, so that sqrt(weight) residual is independent of its neighbours.
    """
    tie = block.point < ties
    r = _clipped(block, tie, huber) / np.sqrt(weight[tie])[:, None]
    worst = 1.0
    for count in counts:
        cell = cells_of(block, tie, sizes, count)
        for key in (block.photo[tie] * count * count + cell, block.camera[tie] * count * count + cell):
            together, apart = _sums(key, r)
            worst = max(worst, float(together.sum() / max(apart.sum(), 1e-300)))
    return worst


@njit(cache=True)
def pivoted_factor(matrix, tolerance):  # type: ignore[no-untyped-def]
    """F (n, k) with F F' = matrix to within `tolerance` on each diagonal element: Cholesky with the largest pivot first."""
    n = len(matrix)
    left = np.diag(matrix).copy()
    factor = np.zeros((n, n))
    for k in range(n):
        pivot = np.argmax(left)
        if left[pivot] <= tolerance:
            return factor[:, :k].copy()
        root = math.sqrt(left[pivot])
        for i in range(n):
            total = matrix[i, pivot]
            for j in range(k):
                total -= factor[i, j] * factor[pivot, j]
            factor[i, k] = total / root
        for i in range(n):
            left[i] = max(left[i] - factor[i, k] ** 2, 0.0)
        left[pivot] = 0.0
    return factor


def _pixel_derivatives(
    block: Block, photo: Ints, camera: Ints, place: Array, phase: Array, covariance: BlockCovariance
) -> tuple[Array, Array]:
    """Derivatives of the pixels (m, 2) of one place (3,) in photos (m,), by the free camera parameters and the pose
    (m, 2, F + pose) and by the place (m, 2, 3), in px.
    """
    count = len(photo)
    _, left, right = linearised(
        block.R, block.C, block.params, block.velocity, block.slip, place[None], photo, camera, np.zeros(count, np.int64), np.zeros((count, 2)),
        np.ones((count, 2)), phase, np.ones(count), covariance.free, covariance.pose, 1e18,
    )  # fmt: skip
    return left, right


def ground_sensitivity(
    block: Block, covariance: BlockCovariance, camera_of: Ints, sizes: Array, places: Array, *, min_angle_deg: float
) -> tuple[Array, NDArray[np.bool_]]:
    """(N, 3, n) derivatives of intersected places (N, 3) by the unknowns, and whether a place can be intersected (N,).

    A place is intersected, by least squares of pixels, from all photos that have it in their picture. sizes: (K, 2) (width, height) px.
    """
    width, pose, cameras = covariance.free.shape[1], covariance.pose, len(block.params)
    result, usable = np.zeros((len(places), 3, len(covariance.matrix))), np.zeros(len(places), bool)
    for index, place in enumerate(places):
        local = np.einsum("pij,pj->pi", block.R, place - block.C)
        ahead = in_reach(block.params[camera_of, :8], local)
        pixels = np.full((len(local), 2), -_EDGE_PX - 1)
        pixels[ahead] = project_camera_points(block.params[camera_of[ahead], :8], local[ahead])
        seen = np.flatnonzero(((pixels >= -_EDGE_PX) & (pixels <= sizes[camera_of] + _EDGE_PX)).all(axis=1))
        if len(seen) < 2:
            continue
        ray = place - block.C[seen]
        ray /= np.linalg.norm(ray, axis=1)[:, None]
        if float(np.einsum("ik,jk->ij", ray, ray).min()) > math.cos(math.radians(min_angle_deg)):
            continue
        # In which row the place lies is known well enough from the middle of the exposure.
        phase = pixels[seen, 1] / sizes[camera_of[seen], 1] - 0.5
        left, right = _pixel_derivatives(block, seen, camera_of[seen], place, phase, covariance)
        inverse = covariance_of(np.einsum("mea,meb->ab", right, right))
        gain = -np.einsum("ab,meb,mec->mac", inverse, right, left)
        usable[index] = True
        for k, photo in enumerate(seen):
            first = camera_of[photo] * width
            result[index][:, first : first + width] += gain[k, :, :width]
            first = cameras * width + pose * photo
            result[index][:, first : first + pose] += gain[k, :, width:]
    return result, usable


def covariance_between(sensitivity: Array, covariance: BlockCovariance) -> Array:
    """(m, m) covariance of figures with derivatives `sensitivity` (m, n)."""
    return np.asarray(product(product(sensitivity, covariance.matrix), np.ascontiguousarray(sensitivity.T)))


def error_field(
    block: Block,
    covariance: BlockCovariance,
    camera_of: Ints,
    sizes: Array,
    *,
    ties: int,
    gsd: float,
    place: Callable[[Array], Array],
    min_angle_deg: float,
    nodes: tuple[int, int] = (8, 16),
) -> ErrorField:
    """The smooth error that the adjustment may have left in ground positions, on a grid over the tie points.

    Nodes are half a photo's shorter side apart, but at least nodes[0] and at most nodes[1] an axis. Each lies at the
    median height of the eight nearest tie points; where two photos do not see that, the nearest tie point stands for it.
    The factor leaves out less than (0.01 GSD)^2 of variance at any node. place: from the block's frame (3,) to the flight's CRS.
    """
    points = block.X[:ties]
    low, high = np.quantile(points[:, :2], 0.001, axis=0), np.quantile(points[:, :2], 0.999, axis=0)
    extent = np.maximum(high - low, gsd)
    footprint = gsd * float(sizes.min())
    columns, rows = (int(np.clip(math.ceil(2 * e / footprint) + 1, *nodes)) for e in extent)
    x, y = np.linspace(low[0], high[0], columns), np.linspace(low[1], high[1], rows)
    grid = np.stack([part.ravel() for part in np.meshgrid(x, y)], axis=1)
    _, near = cKDTree(points[:, :2]).query(grid, k=min(8, ties))
    near = np.asarray(near).reshape(len(grid), -1)
    places = np.column_stack([grid, np.median(points[near, 2], axis=1)])
    sensitivity, usable = ground_sensitivity(block, covariance, camera_of, sizes, places, min_angle_deg=min_angle_deg)
    lost = np.flatnonzero(~usable)
    sensitivity[lost], _ = ground_sensitivity(
        block, covariance, camera_of, sizes, points[near[lost, 0]], min_angle_deg=min_angle_deg
    )
    factor = pivoted_factor(covariance_between(sensitivity.reshape(3 * len(grid), -1), covariance), (0.01 * gsd) ** 2)
    full = factor.reshape(rows, columns, 3, -1)
    south_west, north_east = place(np.array([*low, 0.0])), place(np.array([*(low + extent), 0.0]))
    return ErrorField(
        origin=(float(south_west[0]), float(south_west[1])),
        spacing=(
            float((north_east[0] - south_west[0]) / max(columns - 1, 1)),
            float((north_east[1] - south_west[1]) / max(rows - 1, 1)),
        ),
        factor=np.ascontiguousarray(full.transpose(3, 0, 1, 2), np.float32),
    )
