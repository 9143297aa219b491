"""Depth edges: which of the two layers that meet at an edge a pixel belongs to.

Windows that lie across an edge match by its contrast, and the upper layer spreads over the ground beside it by half a window of the
coarsest level, more than a finer level's search range can take back. Here the two layers around each such pixel are continued to
it as planes and compete: likeness in a small window whose pixels count by how alike they are to its middle (Yoon and Kweon
2006, doi:10.1109/TPAMI.2006.70), so that the other side of the edge hardly counts; then the neighbours that look alike are heard.
In: pictures and the map of one photo. Out: the map, and the pixels at which neither layer looks alike enough to be believed.
It invents no third layer: walls keep what they had or are doubted. Plain arrays; each pixel's result depends on no order.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from drone.matching import GREY_STEPS, mean_of_best

_CONTRAST = 12.0 * GREY_STEPS
"""Grey difference at which a pixel's weight falls to 1/e: twelve levels, several times the noise, less than most edges of things."""
_MIN_LAYER = 4
"""A layer needs this many pixels (every second one counted) near a place: fewer are chance matches."""
_HEARD = 5
"""Half side of the window in which neighbours are heard, px."""


def settle_edges(
    reference: NDArray[np.int16],
    stack: NDArray[np.int16],
    A: NDArray[np.float32],
    b: NDArray[np.float32],
    inverse: NDArray[np.float32],
    step: float,
    *,
    reach: int,
    jump: float,
    radius: int,
    places: int,
    min_likeness: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The map (1/m, as given) with pixels near its edges moved to the layer they resemble, and a mask of those to be doubted.

    reference, stack, A, b: as for `matching.score_views`. step: 1/m of one px of disparity. reach: pixels this near an edge are
    examined (px), jump: what counts as one (px of disparity), radius: of the small window (px), places: each layer is tried
    up to so many px of disparity off its plane. A pixel is doubted when the
    likeness of its layer in the second best neighbour is below `min_likeness`.
    """
    import cv2

    disparity = inverse / np.float32(step)
    square = np.ones((3, 3), np.uint8)
    edge = (cv2.dilate(disparity, square) - cv2.erode(disparity, square) > np.float32(jump)).astype(np.uint8)
    near = cv2.dilate(edge, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    rows, cols = np.nonzero(near)
    planes = np.empty((len(rows), 2, 3))
    around = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    middle = 0.5 * (cv2.erode(disparity, around) + cv2.dilate(disparity, around))
    _two_layers(disparity, middle, stack.shape[1:], A, b, step, rows, cols, reach, planes)
    own = disparity[rows, cols].astype(np.float64)
    # The pixel's own value stands for the layer it is nearer to; only the other one is continued.
    values = planes[:, :, 0].copy()
    upper = np.abs(own - values[:, 1]) < np.abs(own - values[:, 0])
    values[np.arange(len(own)), upper.astype(np.int64)] = own
    with np.errstate(invalid="ignore"):
        two = values[:, 1] - values[:, 0] >= jump
    rows, cols, upper, values, planes = rows[two], cols[two], upper[two], values[two], planes[two]
    found, likeness, second = (np.empty((len(rows), 2)) for _ in range(3))
    _contest(reference, stack, A, b, rows, cols, values, planes, step, radius, places, found, likeness, second)
    lead = np.full(disparity.shape, np.nan)
    judged = likeness.max(axis=1, initial=-2.0) > -1.5
    lead[rows[judged], cols[judged]] = (np.maximum(likeness[:, 1], -1) - np.maximum(likeness[:, 0], -1))[judged]
    heard = np.empty(len(rows))
    _hear(lead, reference, rows, cols, heard)
    layer = np.where(np.isnan(heard), upper, heard > 0)
    chosen = np.arange(len(rows)), layer.astype(np.int64)
    moved = layer != upper
    disparity[rows[moved], cols[moved]] = found[chosen][moved]
    doubted = np.zeros(disparity.shape, np.bool_)
    doubted[rows, cols] = ~np.isnan(heard) & (second[chosen] < min_likeness)
    return disparity * np.float32(step), doubted


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _two_layers(disparity, half_way, size, A, b, step, rows, cols, reach, planes):  # type: ignore[no-untyped-def]
    """planes (n, lower and upper, value and slopes along col and row): the values around are parted half way between the
    lowest and the highest, each part gives a plane by least squares, near ones counting most; NaN where a part is too
    small or fewer than two neighbours show the pixel."""
    height, width = disparity.shape
    for n in range(len(rows)):
        y, x = rows[n], cols[n]
        u, v, w, seen = x + 0.5, y + 0.5, disparity[y, x] * step, 0
        for k in range(len(A)):
            z = A[k, 2, 0] * u + A[k, 2, 1] * v + A[k, 2, 2] + w * b[k, 2]
            px = A[k, 0, 0] * u + A[k, 0, 1] * v + A[k, 0, 2] + w * b[k, 0]
            py = A[k, 1, 0] * u + A[k, 1, 1] * v + A[k, 1, 2] + w * b[k, 1]
            seen += z > 0 and 0 < px < size[1] * z and 0 < py < size[0] * z
        if seen < 2:
            planes[n] = np.nan
            continue
        top, left = max(y - reach, (y - reach) % 2), max(x - reach, (x - reach) % 2)
        bottom, right = min(height, y + reach + 1), min(width, x + reach + 1)
        middle = np.float64(half_way[y, x])
        sums, count = np.zeros((2, 9)), np.zeros(2, np.int64)
        for j in range(top, bottom, 2):
            for i in range(left, right, 2):
                value, dx, dy = disparity[j, i] - middle, np.float64(i - x), np.float64(j - y)
                k = 1 if value > 0 else 0
                w = 1.0 / (2.0 + dx * dx + dy * dy)
                count[k] += 1
                s = sums[k]
                s[0] += w
                s[1] += w * dx
                s[2] += w * dy
                s[3] += w * dx * dx
                s[4] += w * dx * dy
                s[5] += w * dy * dy
                s[6] += w * value
                s[7] += w * dx * value
                s[8] += w * dy * value
        if min(count[0], count[1]) < _MIN_LAYER:
            planes[n] = np.nan
            continue
        for k in range(2):
            s = sums[k] / sums[k, 0]
            # Half a square pixel of spread is added: a layer that is a mere line has no slope across it.
            xx, xy, yy = s[3] - s[1] * s[1] + 0.5, s[4] - s[1] * s[2], s[5] - s[2] * s[2] + 0.5
            xv, yv = s[7] - s[1] * s[6], s[8] - s[2] * s[6]
            scale = xx * yy - xy * xy
            a, c = (yy * xv - xy * yv) / scale, (xx * yv - xy * xv) / scale
            planes[n, k, 0] = middle + s[6] - a * s[1] - c * s[2]
            planes[n, k, 1], planes[n, k, 2] = a, c


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _contest(reference, stack, A, b, rows, cols, values, planes, step, radius, places, found, likeness, second):  # type: ignore[no-untyped-def]
    """Likeness of both layers at each pixel, at the best of its places, one px of disparity apart: found (px), likeness as
    `score_views` defines it but with weights, second: that of the second best neighbour; -2 where it cannot be told."""
    height, width = reference.shape
    side = 2 * radius + 1
    weight, mine, scores = np.empty(side * side), np.empty(side * side), np.empty(stack.shape[0])
    for n in range(len(rows)):
        y, x = rows[n], cols[n]
        likeness[n], second[n], found[n] = -2.0, -2.0, values[n]
        if y < radius or x < radius or y >= height - radius or x >= width - radius:
            continue
        middle, whole, k = reference[y, x], True, 0
        total, mean, square = 0.0, 0.0, 0.0
        for j in range(-radius, radius + 1):
            for i in range(-radius, radius + 1):
                grey = np.float64(reference[y + j, x + i]) - middle
                whole &= reference[y + j, x + i] >= 0
                w = np.exp(-abs(grey) / _CONTRAST - np.sqrt(np.float64(i * i + j * j)) / (1.5 * radius))
                weight[k], mine[k] = w, grey
                total, mean, square = total + w, mean + w * grey, square + w * grey * grey
                k += 1
        if not whole:
            continue
        mean /= total
        variance = square / total - mean * mean + GREY_STEPS * GREY_STEPS
        for layer in range(2):
            for place in range(-places, places + 1):
                for v in range(stack.shape[0]):
                    scores[v] = _weighted(
                        stack[v], A[v], b[v], x, y, values[n, layer] + place, planes[n, layer], step, radius, np.float64(middle),
                        weight, mine, total, mean, variance,
                    )  # fmt: skip
                first, next_, third = -2.0, -2.0, -2.0
                for v in range(stack.shape[0]):
                    s = scores[v]
                    if s > first:
                        first, next_, third = s, first, next_
                    elif s > next_:
                        next_, third = s, next_
                    elif s > third:
                        third = s
                score = mean_of_best(np.float32(first), np.float32(next_), np.float32(third))
                if score > likeness[n, layer]:
                    likeness[n, layer], second[n, layer], found[n, layer] = score, next_, values[n, layer] + place


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _weighted(source, A, b, x, y, value, plane, step, radius, middle, weight, mine, total, mean, variance):  # type: ignore[no-untyped-def]
    """Weighted NCC of one window with one neighbour, each pixel carried over with the plane's inverse depth; -2 = not seen whole."""
    # Inverse depth is linear over the window, so that the homogeneous place is too; a convex window is inside when its corners are.
    u, v = x + 0.5, y + 0.5
    w, wx, wy = value * step, plane[1] * step, plane[2] * step
    x0, xx, xy = A[0, 0] * u + A[0, 1] * v + A[0, 2] + w * b[0], A[0, 0] + wx * b[0], A[0, 1] + wy * b[0]
    y0, yx, yy = A[1, 0] * u + A[1, 1] * v + A[1, 2] + w * b[1], A[1, 0] + wx * b[1], A[1, 1] + wy * b[1]
    z0, zx, zy = A[2, 0] * u + A[2, 1] * v + A[2, 2] + w * b[2], A[2, 0] + wx * b[2], A[2, 1] + wy * b[2]
    right, bottom = source.shape[1] - 0.5, source.shape[0] - 0.5
    for j in (-radius, radius):
        for i in (-radius, radius):
            z = z0 + zx * i + zy * j
            if z <= 1e-6:
                return -2.0
            px, py = x0 + xx * i + xy * j, y0 + yx * i + yy * j
            # A hundredth of a pixel to spare: rounding must not lead a sample out of the picture.
            if not (px > 0.51 * z and py > 0.51 * z and px < (right - 0.01) * z and py < (bottom - 0.01) * z):
                return -2.0
    theirs, square, mixed, k, known = 0.0, 0.0, 0.0, 0, np.int32(0)
    for j in range(-radius, radius + 1):
        for i in range(-radius, radius + 1):
            r = 1.0 / (z0 + zx * i + zy * j)
            px, py = (x0 + xx * i + xy * j) * r - 0.5, (y0 + yx * i + yy * j) * r - 0.5
            left, top = np.int32(px), np.int32(py)
            fx, fy = px - np.float64(left), py - np.float64(top)
            col, row = np.uint64(left), np.uint64(top)
            g00, g01 = np.int32(source[row, col]), np.int32(source[row, col + np.uint64(1)])
            g10, g11 = np.int32(source[row + np.uint64(1), col]), np.int32(source[row + np.uint64(1), col + np.uint64(1)])
            known |= g00 | g01 | g10 | g11
            upper, lower = g00 + fx * (g01 - g00), g10 + fx * (g11 - g10)
            grey = upper + fy * (lower - upper) - middle
            part = weight[k] * grey
            theirs += part
            square += part * grey
            mixed += part * mine[k]
            k += 1
    if known < 0:
        return -2.0
    theirs /= total
    spread = square / total - theirs * theirs + GREY_STEPS * GREY_STEPS
    return (mixed / total - mean * theirs) / np.sqrt(variance * spread)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _hear(lead, reference, rows, cols, heard):  # type: ignore[no-untyped-def]
    """Mean of the upper layer's lead over the pixels around that look alike; NaN where nothing is known."""
    height, width = lead.shape
    for n in range(len(rows)):
        y, x = rows[n], cols[n]
        total, share = 0.0, 0.0
        for j in range(max(0, y - _HEARD), min(height, y + _HEARD + 1)):
            for i in range(max(0, x - _HEARD), min(width, x + _HEARD + 1)):
                if not np.isnan(lead[j, i]):
                    apart = np.float64((i - x) * (i - x) + (j - y) * (j - y))
                    contrast = abs(np.float64(reference[j, i]) - np.float64(reference[y, x]))
                    w = np.exp(-contrast / _CONTRAST - 2.0 * apart / (_HEARD * _HEARD))
                    total += w * lead[j, i]
                    share += w
        heard[n] = total / share if share > 0 else np.nan
