"""Tie points measured anew: what features located to a third of a pixel, least-squares matching locates to a tenth.

In: a free model and the photos. Out: the same model with better pixels and, for each observation, whether it was matched.
Each point takes a window of one photo as its reference, flat in the plane of the ground; every other photo of the track is
shifted against it until grey values agree up to gain and offset. The reference keeps a place of its own, so the
point is what the window shows. Photos are read one at a time, twice. The same digits whatever the number of threads.
No point is added, and none is judged here. Sources: Foerstner (1982), A feature based correspondence algorithm, ISPRS Com. III;
Gruen (1985), Adaptive least squares correlation, S. Afr. J. of Photogrammetry 14(3); Keys (1981), doi 10.1109/TASSP.1981.1163711.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image

from drone.camera import opencv_params, project_camera_points
from drone.georeference import FreeModel
from drone.types import Flight, Photo
from geoevidence.errors import FormatError

Array = NDArray[np.float64]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TieConfig:
    """Least-squares matching of tie points; measured on the flights of docs/methods/drone-reconstruction.md.

    radius: half side of the window, px; smaller finds less texture, larger smooths over edges of objects.
    reach_px: a match farther from where the feature was is not that feature.
    least_likeness: correlation of the window with its reference (1) below which a match is not believed.
    least_contrast: standard deviation of grey values in the reference, of 255; noise alone has 1 to 3.
    iterations: Gauss-Newton steps; five to seven are the rule.
    """

    radius: int = 7
    reach_px: float = 6.0
    least_likeness: float = 0.7
    least_contrast: float = 2.0
    iterations: int = 15


@njit(cache=True, nogil=True)
def _sample(image, x, y, out):  # type: ignore[no-untyped-def]
    """out (3,): value and derivatives by x and y at array coordinates, cubic convolution (Keys 1981, a = -1/2)."""
    ix, iy = math.floor(x), math.floor(y)
    f, g = x - ix, y - iy
    wx = (((-0.5 * f + 1) * f - 0.5) * f, (1.5 * f - 2.5) * f * f + 1, ((-1.5 * f + 2) * f + 0.5) * f, (0.5 * f - 0.5) * f * f)
    wy = (((-0.5 * g + 1) * g - 0.5) * g, (1.5 * g - 2.5) * g * g + 1, ((-1.5 * g + 2) * g + 0.5) * g, (0.5 * g - 0.5) * g * g)
    dx = ((-1.5 * f + 2) * f - 0.5, (4.5 * f - 5) * f, (-4.5 * f + 4) * f + 0.5, (1.5 * f - 1) * f)
    dy = ((-1.5 * g + 2) * g - 0.5, (4.5 * g - 5) * g, (-4.5 * g + 4) * g + 0.5, (1.5 * g - 1) * g)
    value, along, down = 0.0, 0.0, 0.0
    for k in range(4):
        line, slope = 0.0, 0.0
        for m in range(4):
            grey = float(image[iy - 1 + k, ix - 1 + m])
            line += grey * wx[m]
            slope += grey * dx[m]
        value += wy[k] * line
        along += wy[k] * slope
        down += dy[k] * line
    out[0], out[1], out[2] = value, along, down


@njit(cache=True, nogil=True)
def _aligned(windows, of, warps, bows, start, image, radius, reach, likeness, contrast, iterations, pixel, good):  # type: ignore[no-untyped-def]
    """pixel (n, 2) and good (n,): where windows[of[i]] is found in the image, begun at start[i].

    A place a of the window lies at W a / (1 + h a) from it: W warps[i] (2, 2), h bows[i] (2,), 1 / px.
    """
    side = 2 * radius + 1
    count = side * side
    height, width = image.shape
    out = np.empty(3)
    grey, gx, gy = np.empty(count), np.empty(count), np.empty(count)
    for n in range(len(of)):
        good[n] = False
        window, A, h = windows[of[n]], warps[n], bows[n]
        mean, power = 0.0, 0.0
        for i in range(count):
            mean += window[i]
        mean /= count
        for i in range(count):
            power += (window[i] - mean) ** 2
        if not power > count * contrast * contrast:
            continue
        wide = radius * (abs(A[0, 0]) + abs(A[0, 1])) + 2.5
        high = radius * (abs(A[1, 0]) + abs(A[1, 1])) + 2.5
        col, row = start[n, 0], start[n, 1]
        for _ in range(iterations):
            if not (col - wide > 0 and row - high > 0 and col + wide < width and row + high < height):
                break
            k, mg, mx, my = 0, 0.0, 0.0, 0.0
            for b in range(-radius, radius + 1):
                for a in range(-radius, radius + 1):
                    s = 1 / (1 + h[0] * a + h[1] * b)
                    _sample(image, col + s * (A[0, 0] * a + A[0, 1] * b) - 0.5, row + s * (A[1, 0] * a + A[1, 1] * b) - 0.5, out)
                    grey[k], gx[k], gy[k] = out[0], out[1], out[2]
                    mg += out[0]
                    mx += out[1]
                    my += out[2]
                    k += 1
            mg, mx, my = mg / count, mx / count, my / count
            own, common, px, py = 0.0, 0.0, 0.0, 0.0
            for i in range(count):
                v, w = grey[i] - mg, window[i] - mean
                own += v * v
                common += v * w
                px += (gx[i] - mx) * w
                py += (gy[i] - my) * w
            if not own > 1e-9:
                break
            gain = common / power
            a11, a12, a22, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(count):
                w = window[i] - mean
                # Gain and offset are eliminated: gradients less their mean and less what is like the window.
                u, v = gx[i] - mx - px / power * w, gy[i] - my - py / power * w
                e = gain * w - (grey[i] - mg)
                a11 += u * u
                a12 += u * v
                a22 += v * v
                b1 += u * e
                b2 += v * e
            det = a11 * a22 - a12 * a12
            # An edge fixes one direction only.
            if not det > 0.01 * (a11 + a22) ** 2:
                break
            dc, dr = (a22 * b1 - a12 * b2) / det, (a11 * b2 - a12 * b1) / det
            length = math.sqrt(dc * dc + dr * dr)
            if length > 1.5:
                dc, dr = dc * 1.5 / length, dr * 1.5 / length
            col += dc
            row += dr
            if (col - start[n, 0]) ** 2 + (row - start[n, 1]) ** 2 > reach * reach:
                break
            if length < 0.01:
                good[n] = common > likeness * math.sqrt(own * power)
                break
        pixel[n, 0], pixel[n, 1] = col, row


def _grey(photo: Photo) -> NDArray[np.uint8]:
    """(height, width) luma of a photo. Raises FormatError."""
    try:
        with Image.open(photo.path) as image:
            image.draft("L", image.size)
            return np.asarray(image.convert("L"))
    except (OSError, ValueError) as error:
        raise FormatError("drone.unreadable_photo", path=photo.name) from error


def _each(work: Callable[[int], None], count: int, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))


def ground_normal(model: FreeModel) -> Array:
    """(3,) normal of the plane that the points lie about; the mean viewing direction where they lie about none."""
    centred = model.points - np.median(model.points, axis=0)
    reach = np.linalg.norm(centred, axis=1)
    near = centred[reach <= np.quantile(reach, 0.9)]
    # In an order of its own: the last digits of LAPACK and BLAS would depend on threads.
    moments = np.einsum("ni,nj->ij", near, near) / len(near)
    values, vectors = np.linalg.eigh(moments)
    view = model.R[:, 2].mean(axis=0)
    view /= np.linalg.norm(view)
    normal = vectors[:, 0]
    flat = values[0] < 0.1 * values[1] and abs(float(normal @ view)) > 0.5
    return np.asarray(normal if flat else view)


def _plane_derivatives(model: FreeModel, params: Array, camera_of: NDArray[np.int64]) -> tuple[Array, Array]:
    """(M, 2, 2) pixels, and (M, 2) part by which the depth grows, per unit of length along two axes of the ground at each observed point."""
    normal = ground_normal(model)
    first = np.eye(3)[int(np.argmin(np.abs(normal)))]
    first = first - normal * float(first @ normal)
    first /= np.linalg.norm(first)
    axes = np.stack([first, np.cross(normal, first)])
    photo = model.obs_photo
    rotation, own = model.R[photo], params[camera_of[photo]]
    local = np.einsum("mij,mj->mi", rotation, model.points[model.obs_point] - model.C[photo])
    step = 1e-4 * local[:, 2:3]
    columns, growth = [], []
    for axis in axes:
        along = step * np.einsum("mij,j->mi", rotation, axis)
        columns.append((project_camera_points(own, local + along) - project_camera_points(own, local - along)) / (2 * step))
        growth.append(rotation[:, 2] @ axis / local[:, 2])
    return np.stack(columns, axis=2), np.stack(growth, axis=1)


def refine_ties(
    model: FreeModel,
    flight: Flight,
    *,
    config: TieConfig = TieConfig(),
    threads: int = 1,
    progress: Callable[[float], None] = lambda fraction: None,
) -> FreeModel:
    """The model with matched pixels; `obs_matched` says which they are.

    An observation that could not be matched keeps its feature's place, if its track's other observations do so too; where they were
    matched it is dropped, as it would show another place than they. Points then seen once only are dropped as well.

    Raises:
        FormatError: a photo that cannot be read.
    """
    photos = {photo.name: photo for photo in flight.photos}
    ids = sorted(model.cameras)
    params = np.array([opencv_params(model.cameras[key]) for key in ids])
    camera_of = np.array([ids.index(photos[name].camera_id) for name in model.names], np.int64)
    sizes = np.array([photos[name].size for name in model.names], float)
    owner, photo, pixel = model.obs_point, model.obs_photo, model.obs_pixel
    plane, growth = _plane_derivatives(model, params, camera_of)
    # The reference of a track is its observation nearest to the middle of a photo, where scale and slant are least.
    eccentric = (((pixel / sizes[photo]) - 0.5) ** 2).sum(axis=1)
    order = np.lexsort((photo, eccentric, owner))
    reference = order[np.searchsorted(owner[order], np.arange(len(model.points)))]
    side = 2 * config.radius + 1
    windows = np.zeros((len(model.points), side * side), np.uint8)
    # Whole pixels: the reference is not interpolated.
    place = np.floor(pixel[reference])
    inside = ((place >= config.radius) & (place + config.radius < sizes[photo[reference]])).all(axis=1)
    done = [0]

    def ahead() -> None:
        done[0] += 1
        progress(min(done[0] / (2 * len(model.names)), 1.0))

    def cut(index: int) -> None:
        mine = np.flatnonzero(inside & (photo[reference] == index))
        if len(mine):
            picture = np.lib.stride_tricks.sliding_window_view(_grey(photos[model.names[index]]), (side, side))
            col, row = (place[mine] - config.radius).astype(np.int64).T
            windows[mine] = picture[row, col].reshape(len(mine), -1)
        ahead()

    _each(cut, len(model.names), threads)
    is_reference = np.zeros(len(pixel), bool)
    is_reference[reference] = True
    moved = np.where(is_reference[:, None], np.floor(pixel) + 0.5, pixel)
    matched = np.zeros(len(pixel), bool)
    base = reference[owner]
    determinant = plane[:, 0, 0] * plane[:, 1, 1] - plane[:, 0, 1] * plane[:, 1, 0]
    # A plane seen edge-on has no window; its points keep their features.
    inside &= np.abs(determinant[reference]) > 1e-9 * (plane[reference] ** 2).sum(axis=(1, 2))
    swapped = np.stack([plane[:, 1, 1], -plane[:, 0, 1], -plane[:, 1, 0], plane[:, 0, 0]], axis=1).reshape(-1, 2, 2)
    inverse = swapped / np.where(determinant == 0, 1.0, determinant)[:, None, None]
    warps = np.einsum("mij,mjk->mik", plane, inverse[base])
    # Seen obliquely, the window's middle is not the mean of its edges: 20 degrees and 500 px move a match by 0.01 px, alike in all photos.
    bows = np.einsum("mk,mkj->mj", growth - growth[base], inverse[base])
    bows *= np.minimum(1.0, 0.5 / config.radius / np.maximum(np.abs(bows).sum(axis=1), 1e-12))[:, None]
    start = pixel + np.einsum("mij,mj->mi", warps, (moved - pixel)[base])

    def match(index: int) -> None:
        mine = np.flatnonzero((photo == index) & ~is_reference & inside[owner])
        if len(mine):
            found, good = np.zeros((len(mine), 2)), np.zeros(len(mine), bool)
            _aligned(
                windows, owner[mine], np.ascontiguousarray(warps[mine]), bows[mine], start[mine], _grey(photos[model.names[index]]),
                config.radius, config.reach_px, config.least_likeness, config.least_contrast, config.iterations, found, good,
            )  # fmt: skip
            moved[mine[good]] = found[good]
            matched[mine[good]] = True
        ahead()

    _each(match, len(model.names), threads)
    any_match = np.bincount(owner[matched], minlength=len(model.points)) > 0
    matched |= is_reference & any_match[owner]
    keep = matched | ~any_match[owner]
    pixels = np.where(matched[:, None], moved, pixel)
    views = np.bincount(owner[keep], minlength=len(model.points))
    keep &= views[owner] >= 2
    alive = np.bincount(owner[keep], minlength=len(model.points)) > 0
    row_of = np.cumsum(alive) - 1
    return replace(
        model,
        points=model.points[alive],
        obs_photo=photo[keep],
        obs_point=row_of[owner[keep]],
        obs_pixel=pixels[keep],
        obs_matched=matched[keep],
    )
