"""Kernels of matching: how alike windows are, smoothing, peaks, and the comparison of depth maps.

Plain functions over arrays, compiled, without the interpreter lock; each pixel's result depends on no order. Grey values
are int16 in 1/8 grey level, -1 = no data. `drone.dense` says what they are for.
"""

from __future__ import annotations

import numba
import numpy as np

GREY_STEPS = 8
"""Grey levels are kept as integers of 1/8 level, so that window sums are exact and order cannot matter."""
MIDDLE_GREY = 1020
"""Middle grey in those steps: sums of differences from it are small."""
_COST_STEPS = 64
_BIG = 8000
"""Above every sum of path costs."""
_NO_COST = 96
"""Cost of a hypothesis that fewer than two neighbours can judge: worse than NCC 0, not forbidding."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _places(A, b, row, first, inverse, columns, rows, place, fx, fy):  # type: ignore[no-untyped-def]
    """Where a row of pixels, from column `first` on, lies in a neighbour: index of the upper left of four pixels (-1 = outside), and the fractions."""
    half = np.float32(0.5)
    v = np.float32(row) + half
    a0, a1, a2 = A[0, 0], A[1, 0], A[2, 0]
    c0, c1, c2 = A[0, 1] * v + A[0, 2], A[1, 1] * v + A[1, 2], A[2, 1] * v + A[2, 2]
    b0, b1, b2 = b[0], b[1], b[2]
    right, bottom, width = np.float32(columns - 1), np.float32(rows - 1), np.int32(columns)
    for x in range(inverse.shape[0]):
        u, w = np.float32(x + first) + half, inverse[x]
        z = a2 * u + c2 + w * b2
        r = np.float32(1) / z
        px, py = (a0 * u + c0 + w * b0) * r - half, (a1 * u + c1 + w * b1) * r - half
        inside = (z > np.float32(1e-6)) & (px >= np.float32(0)) & (py >= np.float32(0)) & (px < right) & (py < bottom)
        px = px if inside else np.float32(0)
        py = py if inside else np.float32(0)
        i, j = np.int32(px), np.int32(py)
        fx[x], fy[x] = px - np.float32(i), py - np.float32(j)
        place[x] = j * width + i if inside else np.int32(-1)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fetch(source, columns, place, fx, fy, reference, grey, bad):  # type: ignore[no-untyped-def]
    """Grey values at those places, minus the middle grey; bad = 1 and grey = 0 where either picture has no data."""
    for x in range(place.shape[0]):
        g, missing = np.int32(0), np.int32(1)
        if place[x] >= 0 and reference[x] >= 0:
            upper, lower = np.uint64(place[x]), np.uint64(place[x] + columns)
            g00, g01 = np.int32(source[upper]), np.int32(source[upper + np.uint64(1)])
            g10, g11 = np.int32(source[lower]), np.int32(source[lower + np.uint64(1)])
            if (g00 | g01 | g10 | g11) >= 0:
                top = np.float32(g00) + fx[x] * np.float32(g01 - g00)
                base = np.float32(g10) + fx[x] * np.float32(g11 - g10)
                g, missing = np.int32(top + fy[x] * (base - top) + np.float32(0.5)) - np.int32(MIDDLE_GREY), np.int32(0)
        grey[x], bad[x] = g, missing


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _products(grey, reference, square, mixed):  # type: ignore[no-untyped-def]
    for x in range(grey.shape[0]):
        g = grey[x]
        square[x] = g * g
        mixed[x] = g * (np.int32(reference[x]) - np.int32(MIDDLE_GREY))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _slide(column, oldest, newest):  # type: ignore[no-untyped-def]
    for x in range(newest.shape[0]):
        column[x] += newest[x] - oldest[x]
        oldest[x] = newest[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _along(column, radius, out):  # type: ignore[no-untyped-def]
    """out[x] = sum of column[x : x + 2 radius + 1]; written out for the usual radius, which lets it be vectorised."""
    n = out.shape[0]
    if radius == 3:
        c0, c1, c2, c3 = column[0:n], column[1 : n + 1], column[2 : n + 2], column[3 : n + 3]
        c4, c5, c6 = column[4 : n + 4], column[5 : n + 5], column[6 : n + 6]
        for x in range(n):
            out[x] = c0[x] + c1[x] + c2[x] + c3[x] + c4[x] + c5[x] + c6[x]
    else:
        out[:] = 0
        for k in range(2 * radius + 1):
            part = column[k : k + n]
            for x in range(n):
                out[x] += part[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _likeness(sums, reference_sum, reference_scale, count, best):  # type: ignore[no-untyped-def]
    """NCC of one row of windows, sorted into the three best so far."""
    w, ww, rw, bad = sums[0], sums[1], sums[2], sums[3]
    first, second, third = best[0], best[1], best[2]
    # Noise of about one grey level keeps the NCC of empty windows near zero.
    floor = np.float64(GREY_STEPS * GREY_STEPS) * count * count
    for x in range(w.shape[0]):
        mean = np.float64(w[x])
        covariance = count * np.float64(rw[x]) - np.float64(reference_sum[x]) * mean
        variance = count * np.float64(ww[x]) - mean * mean + floor
        ncc = np.float32(covariance) * reference_scale[x] / np.sqrt(np.float32(variance))
        ncc = ncc if (bad[x] == 0) & (reference_scale[x] > np.float32(0)) else np.float32(-2)
        p, q, r = first[x], second[x], third[x]
        low = p if p < ncc else ncc
        first[x] = p if p > ncc else ncc
        lower = q if q < low else low
        second[x] = q if q > low else low
        third[x] = r if r > lower else lower


@numba.njit(nogil=True, cache=True, error_model="numpy")
def score_views(reference, reference_sum, reference_scale, stack, A, b, boxes, inverse, radius, best, out):  # type: ignore[no-untyped-def]
    """Mean NCC of the two best neighbours per pixel (of three where a third is nearly as good), float32 (rows, cols);
    -2 where fewer than two see the whole window.

    reference (rows, cols), stack (neighbours, rows, cols): int16 grey in 1/8 level, -1 = no data. reference_sum, reference_scale:
    of `window_statistics`. boxes: (neighbours, 4) int32, first and end row, first and end column of what a neighbour may see.
    best: (3, rows, cols) float32, room to work in. Every pixel of a window is carried over with
    its own inverse depth. Sums are integers: exact, in any order.
    """
    cols = reference.shape[1]
    side = 2 * radius + 1
    count = np.float64(side * side)
    place, fx, fy = np.empty(cols, np.int32), np.empty(cols, np.float32), np.empty(cols, np.float32)
    values, sums = np.empty((4, cols), np.int32), np.empty((4, cols), np.int32)
    ring, column = np.zeros((side, 4, cols), np.int32), np.zeros((4, cols), np.int32)
    best[:] = np.float32(-2)
    for n in range(stack.shape[0]):
        top, bottom, left, right = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        width = right - left
        room = width - side + 1
        if room < 1:
            continue
        first, end = left + radius, left + radius + room
        ring[:], column[:] = 0, 0
        source = stack[n].reshape(-1)
        for y in range(top, bottom):
            _places(A[n], b[n], y, left, inverse[y, left:right], stack.shape[2], stack.shape[1], place, fx, fy)
            _fetch(source, stack.shape[2], place[:width], fx, fy, reference[y, left:right], values[0], values[3])
            _products(values[0, :width], reference[y, left:right], values[1], values[2])
            for k in range(4):
                _slide(column[k], ring[y % side, k], values[k, :width])
            if y - top >= side - 1:
                for k in range(4):
                    _along(column[k], radius, sums[k, :room])
                at = y - radius
                _likeness(
                    sums[:, :room],
                    reference_sum[at, first:end],
                    reference_scale[at, first:end],
                    count,
                    best[:, at, first:end],
                )
    _means_of_best(best, out)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def mean_of_best(first, second, third):  # type: ignore[no-untyped-def]
    """One likeness of the three best neighbours', float32; -2 where there is no second."""
    two = (first + second) * np.float32(0.5)
    # A third that is nearly as good lessens the noise; a hidden one is left out, gradually so that peaks have no steps.
    share = min(max((third - (two - np.float32(0.3))) * np.float32(5.0), np.float32(0.0)), np.float32(1.0))
    best_ones = (np.float32(2.0) * two + share * third) / (np.float32(2.0) + share)
    return best_ones if second > np.float32(-1.5) else np.float32(-2.0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _means_of_best(best, out):  # type: ignore[no-untyped-def]
    rows, cols = out.shape
    for y in range(rows):
        for x in range(cols):
            out[y, x] = mean_of_best(best[0, y, x], best[1, y, x], best[2, y, x])


@numba.njit(nogil=True, cache=True)
def add_costs(score, volume, k):  # type: ignore[no-untyped-def]
    rows, cols = score.shape
    for y in range(rows):
        for x in range(cols):
            s = score[y, x]
            if s < np.float32(-1.5):
                volume[y, x, k] = _NO_COST
            else:
                volume[y, x, k] = np.uint8(
                    min(
                        max((np.float32(1.0) - s) * np.float32(_COST_STEPS) + np.float32(0.5), np.float32(0.0)), np.float32(127.0)
                    )
                )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _step(paths, source, target, volume, beyond, total, at, lowest, small, far):  # type: ignore[no-untyped-def]
    """One pixel of one path; paths[source + d] is the neighbour's cost of this pixel's hypothesis d. Gives the lowest cost.

    Whole vectors of hypotheses, unsigned places in flat arrays: a compiler makes a few instructions of it.
    """
    low, one = np.int16(_BIG), np.uint64(1)
    for k in range(len(beyond)):
        d = np.uint64(k)
        before, after = paths[source + d - one], paths[source + d + one]
        side = np.int16((before if before < after else after) + small)
        best = paths[source + d]
        best = best if best < side else side
        best = best if best < far else far
        path = np.int16(np.int16(volume[at + d]) + np.int16(beyond[d] + np.int16(best - lowest)))
        paths[target + d] = path
        total[at + d] = np.int16(total[at + d] + path)
        low = path if path < low else low
    return low


@numba.njit(nogil=True, cache=True, error_model="numpy")
def smooth_costs(volume, grey, base, small, large):  # type: ignore[no-untyped-def]
    """Sum over eight paths of the semi-global costs, int16 (rows, cols, hypotheses).

    base: hypothesis number of index 0 per pixel, so that neighbouring pixels are compared at the same disparity although
    their search ranges differ. The large penalty shrinks where the grey value jumps (Hirschmueller 2008, eq. 13).
    """
    rows, cols, count = volume.shape
    # Hypotheses up to whole vectors; the added ones cost more than any path of a real one.
    lanes = -(-count // 16) * 16
    beyond = np.zeros(lanes, np.int16)
    beyond[count:] = _BIG // 2
    costs = np.zeros((rows, cols, lanes), np.uint8)
    for y in range(rows):
        for x in range(cols):
            for d in range(count):
                costs[y, x, d] = volume[y, x, d]
    costs = costs.reshape(-1)
    total = np.zeros(rows * cols * lanes, np.int16)
    pad = 16
    step = np.int16(small)
    penalty = np.empty(256 * GREY_STEPS, np.int16)
    for k in range(len(penalty)):
        penalty[k] = np.int16(max(small + 2, large / (1.0 + k / (8.0 * GREY_STEPS))))
    # Slots of path costs: per column the three paths that come from the row before, for this row and for the last; two that take
    # turns along the row; one without a neighbour, where every hypothesis costs the same.
    along, nothing, wide = 6 * cols, 6 * cols + 2, lanes + 2 * pad
    paths = np.full((nothing + 1) * wide, np.int16(_BIG), np.int16)
    paths[nothing * wide :] = 0
    lows = np.zeros(nothing + 1, np.int16)
    for backward in range(2):
        sign = 1 if backward == 0 else -1
        current, previous = 0, 3 * cols
        for step_y in range(rows):
            y = step_y if backward == 0 else rows - 1 - step_y
            for step_x in range(cols):
                x = step_x if backward == 0 else cols - 1 - step_x
                at = np.uint64((y * cols + x) * lanes)
                for direction in range(4):
                    if direction == 3:
                        qx, qy = x - sign, y
                        slot, other = along + (step_x & 1), along + 1 - (step_x & 1)
                    else:
                        qx, qy = x + (direction - 1), y - sign
                        slot, other = current + direction * cols + x, previous + direction * cols + qx
                    source = nothing * wide + pad
                    lowest, far = np.int16(0), np.int16(0)
                    if 0 <= qx < cols and 0 <= qy < rows:
                        shift = np.int64(base[y, x]) - np.int64(base[qy, qx])
                        jump = penalty[np.uint64(abs(np.int32(grey[y, x]) - np.int32(grey[qy, qx])))]
                        # Out of each other's reach every hypothesis costs the same too.
                        if -pad < shift < pad:
                            source = other * wide + pad + shift
                            lowest = lows[other]
                            far = np.int16(lowest + jump)
                        else:
                            lowest = np.int16(-jump)
                    lows[slot] = _step(
                        paths, np.uint64(source), np.uint64(slot * wide + pad), costs, beyond, total, at, lowest, step, far
                    )
            current, previous = previous, current
    return total.reshape(rows, cols, lanes)[:, :, :count]


@numba.njit(nogil=True, cache=True)
def best_hypothesis(total):  # type: ignore[no-untyped-def]
    """Index of the lowest cost per pixel with a parabola through its neighbours, float32."""
    rows, cols, count = total.shape
    out = np.empty((rows, cols), np.float32)
    for y in range(rows):
        for x in range(cols):
            k = 0
            for d in range(1, count):
                if total[y, x, d] < total[y, x, k]:
                    k = d
            value = np.float32(k)
            if 0 < k < count - 1:
                left, middle, right = np.float32(total[y, x, k - 1]), np.float32(total[y, x, k]), np.float32(total[y, x, k + 1])
                bend = left - 2 * middle + right
                if bend > 0:
                    value += np.float32(0.5) * (left - right) / bend
            out[y, x] = value
    return out


@numba.njit(nogil=True, cache=True)
def peak_of(score):  # type: ignore[no-untyped-def]
    """Where a parabola through three scores (-1, 0, +1) has its top, within [-1, 1]; 0 where they are not defined."""
    _, rows, cols = score.shape
    out = np.zeros((rows, cols), np.float32)
    for y in range(rows):
        for x in range(cols):
            left, middle, right = score[0, y, x], score[1, y, x], score[2, y, x]
            if left > np.float32(-1.5) and middle > np.float32(-1.5) and right > np.float32(-1.5):
                bend = left - 2 * middle + right
                if bend < np.float32(-1e-6):
                    out[y, x] = min(max(np.float32(0.5) * (left - right) / bend, np.float32(-1.0)), np.float32(1.0))
                else:
                    out[y, x] = np.float32(-1.0) if left > right else np.float32(1.0) if right > left else np.float32(0.0)
    return out


@numba.njit(nogil=True, cache=True)
def compare_maps(  # type: ignore[no-untyped-def]
    inverse, sd, peer, peer_sd, M, t, limit, share, bit, weight, total, square, agree, against, judged, bits
):
    """Adds what one other map says. M p / w + t is the pixel p at inverse depth w in the other camera (homogeneous).

    The maps agree within `limit` (1/m), or three standard deviations where that is more, but never beyond `share` of the depth.
    """
    rows, cols = inverse.shape
    for y in range(rows):
        for x in range(cols):
            w = np.float64(inverse[y, x])
            if w <= 0:
                continue
            d = 1.0 / w
            u, v = x + 0.5, y + 0.5
            z = (M[2, 0] * u + M[2, 1] * v + M[2, 2]) * d + t[2]
            if z <= 0:
                continue
            px = ((M[0, 0] * u + M[0, 1] * v + M[0, 2]) * d + t[0]) / z
            py = ((M[1, 0] * u + M[1, 1] * v + M[1, 2]) * d + t[1]) / z
            i, j = int(np.floor(px)), int(np.floor(py))
            if i < 0 or j < 0 or i >= peer.shape[1] or j >= peer.shape[0]:
                continue
            judged[y, x] += 1
            found = np.float64(peer[j, i])
            if found <= 0:
                continue
            expected = 1.0 / z
            own, other = np.float64(sd[y, x]), np.float64(peer_sd[j, i])
            near = min(max(limit, 3.0 * np.sqrt(own * own + other * other)), share * expected)
            # Between the four nearest pixels where they are one surface, so that slopes do not look like disagreement.
            i0, j0 = int(np.floor(px - 0.5)), int(np.floor(py - 0.5))
            if i0 >= 0 and j0 >= 0 and i0 + 1 < peer.shape[1] and j0 + 1 < peer.shape[0]:
                a, b, c, e = peer[j0, i0], peer[j0, i0 + 1], peer[j0 + 1, i0], peer[j0 + 1, i0 + 1]
                if min(min(a, b), min(c, e)) > 0 and max(max(a, b), max(c, e)) - min(min(a, b), min(c, e)) < 2 * near:
                    fx, fy = px - 0.5 - i0, py - 0.5 - j0
                    found = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + e * fx) * fy
            if abs(found - expected) <= near:
                difference = 1.0 / found - z
                trust = 1.0 / (other * z * z) ** 2
                weight[y, x] += trust
                total[y, x] += trust * difference
                square[y, x] += trust * difference * difference
                agree[y, x] += 1
                bits[y, x] |= np.uint16(1 << bit)
            elif found < expected - 2 * near:
                against[y, x] += 1


@numba.njit(nogil=True, cache=True)
def claim_pixels(keep, bits, bit, inverse, M, t, used):  # type: ignore[no-untyped-def]
    """Marks the pixels of the other map that show a spot already given."""
    rows, cols = inverse.shape
    for y in range(rows):
        for x in range(cols):
            if keep[y, x] and (bits[y, x] >> np.uint16(bit)) & np.uint16(1):
                d = 1.0 / np.float64(inverse[y, x])
                u, v = x + 0.5, y + 0.5
                z = (M[2, 0] * u + M[2, 1] * v + M[2, 2]) * d + t[2]
                i = int(np.floor(((M[0, 0] * u + M[0, 1] * v + M[0, 2]) * d + t[0]) / z))
                j = int(np.floor(((M[1, 0] * u + M[1, 1] * v + M[1, 2]) * d + t[1]) / z))
                used[j, i] = True
