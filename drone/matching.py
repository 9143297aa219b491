"""Kernels of matching: how alike windows are, smoothing, peaks, and the comparison of depth maps.

Plain functions over arrays, compiled, without the interpreter lock; each pixel's result depends on no order. Grey values
are int16 in 1/8 grey level, -1 = no data. `drone.dense` says what they are for.
"""

from __future__ import annotations

import numba
import numpy as np

GREY_STEPS = 8
"""Grey levels are kept as integers of 1/8 level, so that window sums are exact and order cannot matter."""
_COST_STEPS = 64
_NO_COST = 96
"""Cost of a hypothesis that fewer than two neighbours can judge: worse than NCC 0, not forbidding."""


@numba.njit(nogil=True, cache=True)
def score_views(reference, stack, A, b, inverse, radius, out):  # type: ignore[no-untyped-def]
    """Mean NCC of the two best neighbours per pixel, float32 (rows, cols); -2 where fewer than two see the whole window.

    reference (rows, cols), stack (neighbours, rows, cols): int16 grey in 1/8 level, -1 = no data. Every pixel of a window
    is carried over with its own inverse depth. Sums are integers: exact, in any order.
    """
    rows, cols = reference.shape
    block = 48
    height = block + 2 * radius
    warped = np.empty((height, cols), np.int32)
    best = np.empty((2, block, cols), np.float32)
    sum_w, sum_ww, sum_rw = np.empty(cols, np.int32), np.empty(cols, np.int32), np.empty(cols, np.int32)
    sum_r, sum_rr, sum_bad = np.empty(cols, np.int32), np.empty(cols, np.int32), np.empty(cols, np.int32)
    # Noise of about one grey level keeps the NCC of empty windows near zero.
    floor = float(GREY_STEPS * GREY_STEPS)
    centre = 1020
    for top in range(0, rows, block):
        bottom = min(top + block, rows)
        first, last = max(0, top - radius), min(rows, bottom + radius)
        best[:] = -2.0
        for n in range(stack.shape[0]):
            source = stack[n]
            limit_x, limit_y = np.float32(source.shape[1] - 1), np.float32(source.shape[0] - 1)
            for y in range(first, last):
                v = np.float32(y + 0.5)
                ax, ay, az = A[n, 0, 1] * v + A[n, 0, 2], A[n, 1, 1] * v + A[n, 1, 2], A[n, 2, 1] * v + A[n, 2, 2]
                line = warped[y - first]
                for x in range(cols):
                    u = np.float32(x + 0.5)
                    w = inverse[y, x]
                    z = A[n, 2, 0] * u + az + w * b[n, 2]
                    value = np.int32(-1)
                    if z > np.float32(1e-6) and reference[y, x] >= 0:
                        px = (A[n, 0, 0] * u + ax + w * b[n, 0]) / z - np.float32(0.5)
                        py = (A[n, 1, 0] * u + ay + w * b[n, 1]) / z - np.float32(0.5)
                        if px >= 0 and py >= 0 and px < limit_x and py < limit_y:
                            i, j = np.int32(px), np.int32(py)
                            fx, fy = px - np.float32(i), py - np.float32(j)
                            g00, g01 = np.int32(source[j, i]), np.int32(source[j, i + 1])
                            g10, g11 = np.int32(source[j + 1, i]), np.int32(source[j + 1, i + 1])
                            if (g00 | g01 | g10 | g11) >= 0:
                                upper = np.float32(g00) + fx * np.float32(g01 - g00)
                                lower = np.float32(g10) + fx * np.float32(g11 - g10)
                                value = np.int32(upper + fy * (lower - upper) + np.float32(0.5))
                    line[x] = value
            sum_w[:], sum_ww[:], sum_rw[:], sum_r[:], sum_rr[:], sum_bad[:] = 0, 0, 0, 0, 0, 0
            lo, hi = first, first
            for y in range(top, bottom):
                while hi < min(rows, y + radius + 1):
                    for x in range(cols):
                        g = warped[hi - first, x]
                        bad = np.int32(g < 0)
                        g = (g - centre) * (1 - bad)
                        r = (np.int32(reference[hi, x]) - centre) * (1 - bad)
                        sum_w[x] += g
                        sum_ww[x] += g * g
                        sum_rw[x] += g * r
                        sum_r[x] += r
                        sum_rr[x] += r * r
                        sum_bad[x] += bad
                    hi += 1
                while lo < y - radius:
                    for x in range(cols):
                        g = warped[lo - first, x]
                        bad = np.int32(g < 0)
                        g = (g - centre) * (1 - bad)
                        r = (np.int32(reference[lo, x]) - centre) * (1 - bad)
                        sum_w[x] -= g
                        sum_ww[x] -= g * g
                        sum_rw[x] -= g * r
                        sum_r[x] -= r
                        sum_rr[x] -= r * r
                        sum_bad[x] -= bad
                    lo += 1
                sw, sww, srw, sr, srr, sbad = np.int32(0), np.int32(0), np.int32(0), np.int32(0), np.int32(0), np.int32(0)
                for x in range(min(radius, cols)):
                    sw += sum_w[x]
                    sww += sum_ww[x]
                    srw += sum_rw[x]
                    sr += sum_r[x]
                    srr += sum_rr[x]
                    sbad += sum_bad[x]
                left, right = 0, min(radius, cols)
                for x in range(cols):
                    if right < cols:
                        sw += sum_w[right]
                        sww += sum_ww[right]
                        srw += sum_rw[right]
                        sr += sum_r[right]
                        srr += sum_rr[right]
                        sbad += sum_bad[right]
                        right += 1
                    if x - left > radius:
                        sw -= sum_w[left]
                        sww -= sum_ww[left]
                        srw -= sum_rw[left]
                        sr -= sum_r[left]
                        srr -= sum_rr[left]
                        sbad -= sum_bad[left]
                        left += 1
                    if sbad == 0:
                        count = np.float64((hi - lo) * (right - left))
                        cov = count * srw - np.float64(sr) * sw
                        var_r = count * srr - np.float64(sr) * sr + floor * count * count
                        var_w = count * sww - np.float64(sw) * sw + floor * count * count
                        ncc = np.float32(cov / np.sqrt(var_r * var_w))
                        row = y - top
                        if ncc > best[0, row, x]:
                            best[1, row, x] = best[0, row, x]
                            best[0, row, x] = ncc
                        elif ncc > best[1, row, x]:
                            best[1, row, x] = ncc
        for y in range(top, bottom):
            for x in range(cols):
                p, q = best[0, y - top, x], best[1, y - top, x]
                out[y, x] = (p + q) * np.float32(0.5) if q > np.float32(-1.5) else np.float32(-2.0)


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


@numba.njit(nogil=True, cache=True)
def smooth_costs(volume, grey, base, small, large):  # type: ignore[no-untyped-def]
    """Sum over eight paths of the semi-global costs, int16 (rows, cols, hypotheses).

    base: hypothesis number of index 0 per pixel, so that neighbouring pixels are compared at the same disparity although
    their search ranges differ. The large penalty shrinks where the grey value jumps (Hirschmueller 2008, eq. 13).
    """
    rows, cols, count = volume.shape
    total = np.zeros((rows, cols, count), np.int16)
    pad = 2
    big = np.int16(8000)
    for backward in range(2):
        sign = 1 if backward == 0 else -1
        # Per column: the three paths that come from the row before; index 3: the one along the row.
        previous = np.full((3, cols, count + 2 * pad), big, np.int16)
        current = np.full((3, cols, count + 2 * pad), big, np.int16)
        previous_min = np.zeros((3, cols), np.int16)
        current_min = np.zeros((3, cols), np.int16)
        along = np.full((2, count + 2 * pad), big, np.int16)
        along_min = np.zeros(2, np.int16)
        path = np.empty(count, np.int16)
        for step_y in range(rows):
            y = step_y if backward == 0 else rows - 1 - step_y
            for step_x in range(cols):
                x = step_x if backward == 0 else cols - 1 - step_x
                for direction in range(4):
                    if direction == 3:
                        qx, qy = x - sign, y
                    else:
                        qx, qy = x + (direction - 1), y - sign
                    slot = step_x & 1
                    inside = 0 <= qx < cols and 0 <= qy < rows
                    if inside:
                        if direction == 3:
                            source = along[1 - slot]
                            lowest = along_min[1 - slot]
                        else:
                            source = previous[direction, qx]
                            lowest = previous_min[direction, qx]
                        jump = abs(np.int32(grey[y, x]) - np.int32(grey[qy, qx])) / (8.0 * GREY_STEPS)
                        p2 = np.int16(max(small + 2, large / (1.0 + jump)))
                        p1 = np.int16(small)
                        shift = base[y, x] - base[qy, qx]
                        far = np.int16(lowest + p2)
                        start, stop = max(0, -1 - shift), min(count, count + 1 - shift)
                        for d in range(0, min(max(start, 0), count)):
                            path[d] = np.int16(volume[y, x, d]) + far - lowest
                        for d in range(start, stop):
                            j = d + shift + pad
                            m = min(source[j], np.int16(min(source[j - 1], source[j + 1]) + p1))
                            m = min(m, far)
                            path[d] = np.int16(volume[y, x, d]) + m - lowest
                        for d in range(max(stop, 0), count):
                            path[d] = np.int16(volume[y, x, d]) + far - lowest
                    else:
                        for d in range(count):
                            path[d] = np.int16(volume[y, x, d])
                    low = big
                    target = along[slot] if direction == 3 else current[direction, x]
                    for d in range(count):
                        target[d + pad] = path[d]
                        low = min(low, path[d])
                        total[y, x, d] += path[d]
                    if direction == 3:
                        along_min[slot] = low
                    else:
                        current_min[direction, x] = low
            previous, current = current, previous
            previous_min, current_min = current_min, previous_min
    return total


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
def compare_maps(inverse, peer, M, t, limit, share, bit, total, square, agree, against, judged, bits):  # type: ignore[no-untyped-def]
    """Adds what one other map says. M p / w + t is the pixel p at inverse depth w in the other camera (homogeneous)."""
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
            # Between the four nearest pixels where they are one surface, so that slopes do not look like disagreement.
            i0, j0 = int(np.floor(px - 0.5)), int(np.floor(py - 0.5))
            if i0 >= 0 and j0 >= 0 and i0 + 1 < peer.shape[1] and j0 + 1 < peer.shape[0]:
                a, b, c, e = peer[j0, i0], peer[j0, i0 + 1], peer[j0 + 1, i0], peer[j0 + 1, i0 + 1]
                if min(min(a, b), min(c, e)) > 0 and max(max(a, b), max(c, e)) - min(min(a, b), min(c, e)) < 2 * limit:
                    fx, fy = px - 0.5 - i0, py - 0.5 - j0
                    found = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + e * fx) * fy
            if abs(found - expected) <= min(limit, share * expected):
                difference = 1.0 / found - z
                total[y, x] += difference
                square[y, x] += difference * difference
                agree[y, x] += 1
                bits[y, x] |= np.uint16(1 << bit)
            elif found < expected - 2 * min(limit, share * expected):
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
