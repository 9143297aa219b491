"""Projection of points into photos and back, for the camera models this package uses.

Model: COLMAP's OPENCV, params (fx, fy, cx, cy, k1, k2, p1, p2) in px and normalised units (Brown 1971);
SIMPLE_RADIAL and RADIAL are read as special cases of it. Pixel (0, 0) is the outer corner of the first
pixel. Pure functions over arrays, no I/O.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drone.types import Camera, Pose

Array = NDArray[np.float64]

PARAMETERS = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")
_UNDISTORT_STEPS = 20


def opencv_params(camera: Camera) -> Array:
    """(fx, fy, cx, cy, k1, k2, p1, p2) of a camera, float64 (8,).

    Raises:
        ValueError: a model other than SIMPLE_RADIAL, RADIAL, OPENCV.
    """
    p = camera.params
    if camera.model == "OPENCV":
        return np.array(p, float)
    if camera.model == "SIMPLE_RADIAL":
        f, cx, cy, k1 = p
        return np.array([f, f, cx, cy, k1, 0.0, 0.0, 0.0])
    if camera.model == "RADIAL":
        f, cx, cy, k1, k2 = p
        return np.array([f, f, cx, cy, k1, k2, 0.0, 0.0])
    raise ValueError(f"camera model {camera.model} is not supported")


def project_camera_points(params: Array, points: Array) -> Array:
    """Pixels (N, 2) of points (N, 3) in camera axes; `params` is (8,) or (N, 8). Depth must not be zero."""
    fx, fy, cx, cy, k1, k2, p1, p2 = np.moveaxis(params, -1, 0)
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    r2 = x * x + y * y
    radial = r2 * (k1 + k2 * r2)
    u = x + x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y + y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return np.stack([fx * u + cx, fy * v + cy], axis=1)


def in_reach(params: Array, points: Array) -> NDArray[np.bool_]:
    """(N,) whether points (N, 3) in camera axes lie before the camera and where its distortion is one-to-one; `params` is (8,) or (N, 8).

    Farther out the polynomials fold back, and what lies far beside a photo would project into it. The bound is the first radius at which
    r (1 + k1 r^2 + k2 r^4) stops growing.
    """
    k1, k2 = params[..., 4], params[..., 5]
    depth = points[:, 2]
    ahead = depth > 0
    s = (points[:, 0] ** 2 + points[:, 1] ** 2) / np.where(ahead, depth, 1.0) ** 2
    # 1 + 3 k1 s + 5 k2 s^2 is positive from 0 to s: at its ends, and at its lowest place where that lies between.
    grows = 1 + s * (3 * k1 + 5 * k2 * s) > 0
    lowest = np.where(k2 > 0, -0.3 * k1 / np.where(k2 > 0, k2, 1.0), -1.0)
    grows &= ~((lowest > 0) & (lowest < s)) | (1 + 1.5 * k1 * lowest > 0)
    return np.asarray(ahead & grows)


def project(camera: Camera, pose: Pose, points: Array) -> Array:
    """Pixels (N, 2) as (col, row) of world points (N, 3); NaN for points behind the camera or beyond the reach of its distortion."""
    local = (np.asarray(points, float) - pose.C) @ pose.R.T
    params = opencv_params(camera)
    ahead = in_reach(params, local)
    pixels = np.full((len(local), 2), np.nan)
    pixels[ahead] = project_camera_points(params, local[ahead])
    return pixels


def rays(camera: Camera, pixels: Array) -> Array:
    """Directions (N, 3) in camera axes, third component 1, of pixels (N, 2): the inverse of the projection.

    Distortion is inverted by Newton steps, to float64 rounding for lenses whose distortion is one-to-one.
    """
    params = opencv_params(camera)
    fx, fy, cx, cy, k1, k2, p1, p2 = params
    target = (np.asarray(pixels, float) - [cx, cy]) / [fx, fy]
    x, y = target[:, 0].copy(), target[:, 1].copy()
    for _ in range(_UNDISTORT_STEPS):
        r2 = x * x + y * y
        radial, slope = 1 + r2 * (k1 + k2 * r2), k1 + 2 * k2 * r2
        du = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) - target[:, 0]
        dv = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) - target[:, 1]
        a = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
        b = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
        d = radial + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y
        det = a * d - b * b
        step_x, step_y = (d * du - b * dv) / det, (a * dv - b * du) / det
        x -= step_x
        y -= step_y
        if max(np.abs(step_x).max(initial=0), np.abs(step_y).max(initial=0)) < 1e-15:
            break
    return np.stack([x, y, np.ones_like(x)], axis=1)


def triangulate(centres: Array, directions: Array) -> Array:
    """Point (3,) nearest in the least-squares sense to lines through centres (N, 3) along directions (N, 3), world axes.

    Raises:
        numpy.linalg.LinAlgError: the lines are parallel.
    """
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    across = np.eye(3) - unit[:, :, None] * unit[:, None, :]
    return np.asarray(np.linalg.solve(across.sum(axis=0), np.einsum("nij,nj->i", across, centres)))
