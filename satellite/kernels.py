"""Compiled loops of break detection: one pixel's series in, its breaks out. Called by `segment` only.

All kernels are in this one file because numba's disk cache notices a change of the file of a function, not of a
function it calls elsewhere. No fast-math: the same numbers in give the same numbers out, in any thread.
Symbols as in docs/methods/satellite.md: e whitened observations (n, B), X design (n, 8), L lower triangle packed by rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from satellite.types import Observed, Status

P = 8
"""Parameters of a segment: level, three harmonics, slope."""
PACKED = P * (P + 1) // 2
MAX_BREAKS = 6
_OMEGA = 2.0 * np.pi / 365.2425
_CLEAR, _CLOUD, _FAILED = int(Observed.CLEAR), int(Observed.CLOUD), int(Observed.FAILED_READ)
_NO_CHANGE, _CHANGE, _TOO_FEW = int(Status.NO_CHANGE), int(Status.CHANGE), int(Status.TOO_FEW)
_S_CLOUD, _S_NOT_OBSERVED, _S_FAILED = int(Status.CLOUD), int(Status.NOT_OBSERVED), int(Status.FAILED_READ)


class Rule(NamedTuple):
    """`segment.BreakConfig` as numbers; band positions are -1 where the cube has no such band."""

    min_observations: int
    min_span_days: float
    min_segment: int
    reference_days: float
    spike: float
    noise_floor: float
    min_gain: float
    min_score: float
    min_shift: float
    block_days: float
    min_blocks: int
    fresh_days: float
    phase_sd_days: float
    amplitude_sd: float
    level_sd: float
    allowance: float
    fresh_blocks: int
    decisive: float
    fit: float
    water_index: float
    water_margin: float
    water_run_days: float
    water_a: int
    water_b: int
    index_a: int
    index_b: int


@njit(nogil=True, cache=True)
def _middle(a, b, c):
    return max(min(a, b), min(max(a, b), c))


@njit(nogil=True, cache=True)
def _select(a, n, k):
    """k-th smallest of a[:n] (Hoare 1961); reorders a."""
    low, high = 0, n - 1
    while low < high:
        pivot = a[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while a[i] < pivot:
                i += 1
            while a[j] > pivot:
                j -= 1
            if i <= j:
                a[i], a[j] = a[j], a[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return a[k]


@njit(nogil=True, cache=True)
def median(a, n):
    """Median of a[:n]; reorders a; 0 of nothing."""
    if n == 0:
        return 0.0
    k = n // 2
    upper = _select(a, n, k)
    if n % 2 == 1:
        return upper
    lower = a[0]
    for i in range(1, k):
        lower = max(lower, a[i])
    return 0.5 * (lower + upper)


@njit(nogil=True, cache=True)
def factor(A, ridge, L):
    """Cholesky factor of A + diag(ridge), packed; returns log det."""
    log_det = 0.0
    for i in range(P):
        ri = i * (i + 1) // 2
        for j in range(i + 1):
            rj = j * (j + 1) // 2
            s = A[ri + j]
            if i == j:
                s += ridge[i]
            for k in range(j):
                s -= L[ri + k] * L[rj + k]
            if i == j:
                L[ri + i] = np.sqrt(s)
                log_det += np.log(s)
            else:
                L[ri + j] = s / L[rj + j]
    return log_det


@njit(nogil=True, cache=True)
def forward(L, b, bands, z):
    """z = L^-1 b; returns the sum of squares of z."""
    total = 0.0
    for i in range(P):
        ri = i * (i + 1) // 2
        for c in range(bands):
            z[i, c] = b[i, c]
        for k in range(i):
            for c in range(bands):
                z[i, c] -= L[ri + k] * z[k, c]
        d = 1.0 / L[ri + i]
        for c in range(bands):
            z[i, c] *= d
            total += z[i, c] * z[i, c]
    return total


@njit(nogil=True, cache=True)
def backward(L, bands, z):
    """z = L^-T z, in place."""
    for i in range(P - 1, -1, -1):
        for k in range(i + 1, P):
            l_ki = L[k * (k + 1) // 2 + i]
            for c in range(bands):
                z[i, c] -= l_ki * z[k, c]
        d = 1.0 / L[i * (i + 1) // 2 + i]
        for c in range(bands):
            z[i, c] *= d


@njit(nogil=True, cache=True)
def robust_fit(y, X, n, bands, ridge, passes, beta, r, w, sd, A, b, L, tmp):
    """Huber-weighted ridge fit with one weight a date for all bands; leaves beta (P, B), residuals r, scales sd.

    Weight: 1 while the root mean square of r/sd over the bands is below 1.5, then 1.5 over it (Huber 1964).
    """
    for i in range(n):
        w[i] = 1.0
    for step in range(passes):
        A[:] = 0.0
        b[:] = 0.0
        for i in range(n):
            position = 0
            for k in range(P):
                x = w[i] * X[i, k]
                for j in range(k + 1):
                    A[position] += x * X[i, j]
                    position += 1
                for c in range(bands):
                    b[k, c] += x * y[i, c]
        factor(A, ridge, L)
        forward(L, b, bands, beta)
        backward(L, bands, beta)
        for i in range(n):
            for c in range(bands):
                r[i, c] = y[i, c]
            for k in range(P):
                x = X[i, k]
                for c in range(bands):
                    r[i, c] -= x * beta[k, c]
        if step < passes - 1:
            for c in range(bands):
                for i in range(n):
                    tmp[i] = abs(r[i, c])
                sd[c] = max(1.4826 * median(tmp, n), 1e-9)
            for i in range(n):
                d = 0.0
                for c in range(bands):
                    d += (r[i, c] / sd[c]) ** 2
                d = np.sqrt(d / bands)
                w[i] = 1.0 if d < 1.5 else 1.5 / d


@njit(nogil=True, cache=True)
def _keep_one_medium(y, t, n, keep, rule):
    """Leave out short spells of water on land (or of land on water): water level, not a change. Returns how many are kept."""
    state = np.zeros(n, np.int8)
    water = 0
    for i in range(n):
        a, b = y[i, rule.water_a], y[i, rule.water_b]
        q = (a - b) / (a + b) if a + b != 0 else 0.0
        if q > rule.water_index:
            state[i] = 2
            water += 1
        elif q > rule.water_index - rule.water_margin:
            state[i] = 1
    on_water = 2 * water > n
    spell = np.zeros(n, np.int8)
    short = 0
    i = 0
    while i < n:
        # A spell on land is a run of wet or partly wet dates with water in it; one dry date does not end it. On water: reversed.
        j, last, true = i, i - 1, 0
        while j < n:
            away = state[j] < 2 if on_water else state[j] > 0
            if away:
                last = j
                true += state[j] == 0 if on_water else state[j] == 2
            elif last < i or j - last > 1:
                break
            j += 1
        if true > 0:
            if i > 0 and last < n - 1:
                if t[last + 1] - t[i - 1] <= rule.water_run_days:
                    short += 1
                    spell[i : last + 1] = 1
                else:
                    spell[i : last + 1] = 3
            else:
                spell[i : last + 1] = 2 if t[last] - t[i] <= rule.water_run_days else 3
        i = max(last, i) + 1
    kept = 0
    for i in range(n):
        mixed = short > 0 and not on_water and state[i] == 1 and spell[i] == 0
        if not (spell[i] == 1 or (spell[i] == 2 and short > 0) or mixed):
            keep[kept] = i
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _drop_spikes(r, n, bands, sd, limit, keep):
    """Positions that agree with the three dates before or the three after (median per band); returns how many."""
    kept = 0
    for i in range(n):
        before, after = 0.0, 0.0
        for c in range(bands):
            if i >= 3:
                m = _middle(r[i - 1, c], r[i - 2, c], r[i - 3, c])
            elif i == 2:
                m = 0.5 * (r[0, c] + r[1, c])
            else:
                m = 0.0
            before += ((r[i, c] - m) / sd[c]) ** 2
            if i <= n - 4:
                m = _middle(r[i + 1, c], r[i + 2, c], r[i + 3, c])
            elif i == n - 3:
                m = 0.5 * (r[n - 1, c] + r[n - 2, c])
            else:
                m = 0.0
            after += ((r[i, c] - m) / sd[c]) ** 2
        if i < 2:
            before = after
        if i > n - 3:
            after = before
        if min(before, after) <= limit * limit * bands:
            keep[kept] = i
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _noise_factor(r, t, n, keep, bands, sd, floor, S, tmp):
    """Cholesky factor of the covariance of short-term noise, from differences of neighbouring dates, into S (B, B)."""
    for a in range(bands):
        for b in range(a + 1):
            S[a, b] = 0.0
    count = 0.0
    for q in range(1, n):
        i, j = keep[q], keep[q - 1]
        if t[i] - t[j] > 60:
            continue
        d = 0.0
        for c in range(bands):
            tmp[c] = r[i, c] - r[j, c]
            d += (tmp[c] / sd[c]) ** 2
        d = np.sqrt(d / bands / 2)
        weight = 1.0 if d < 1.5 else (1.5 / d) ** 2
        for a in range(bands):
            for b in range(a + 1):
                S[a, b] += weight * tmp[a] * tmp[b]
        count += 1.0
    # 0.8: what the weights leave of the variance of a normal difference; 1.1: shrinkage towards the diagonal.
    scale = 1.0 / (2.0 * max(count, 1.0) * 0.8)
    for a in range(bands):
        for b in range(a + 1):
            S[a, b] *= scale
        S[a, a] = 1.1 * S[a, a] + floor * floor
    for a in range(bands):
        for b in range(a + 1):
            s = S[a, b]
            for q in range(b):
                s -= S[a, q] * S[b, q]
            if a == b:
                S[a, a] = np.sqrt(max(s, 1e-12))
            else:
                S[a, b] = s / S[b, b]


@njit(nogil=True, cache=True)
def _segment_cost(CA, Cb, Cy, i, j, bands, ridge, log_ridge, A, b, L, z):
    """-2 log evidence of observations i..j-1 as one harmonic segment with unit noise (constants left out)."""
    for k in range(PACKED):
        A[k] = CA[j, k] - CA[i, k]
    for k in range(P):
        for c in range(bands):
            b[k, c] = Cb[j, k, c] - Cb[i, k, c]
    log_det = factor(A, ridge, L)
    explained = forward(L, b, bands, z)
    return Cy[j] - Cy[i] - explained + bands * (log_det - log_ridge)


@njit(nogil=True, cache=True)
def _score(e, X, t, low, cut, high, bands, reference_first, beta, rule, horizon, mu, mean_x, tmp):
    """Separation of the two sides of a cut in units of the reference side's own scatter of block means.

    Of the other side only the `horizon` days next to the cut are looked at. mu: their mean residual against the reference
    model; the residuals of both sides are projected on it and averaged in blocks of `block_days`, so that neighbouring
    dates count once. The scatter is the 80 % quantile of absolute deviations, so that a fifth of the blocks may be spoilt.
    Returns (score, blocks of the other side).
    """
    first, last = (cut, high) if reference_first else (low, cut)
    if reference_first:
        while t[last - 1] - t[cut] > horizon:
            last -= 1
    else:
        while t[cut - 1] - t[first] > horizon:
            first += 1
    for c in range(bands):
        mu[c] = 0.0
    for i in range(first, last):
        for c in range(bands):
            mu[c] += e[i, c]
        for k in range(P):
            for c in range(bands):
                mu[c] -= X[i, k] * beta[k, c]
    size = 0.0
    for c in range(bands):
        mu[c] /= last - first
        size += mu[c] * mu[c]
    size = np.sqrt(size)
    if size <= 0.0:
        return 0.0, 0
    for k in range(P):
        mean_x[k] = 0.0
        for c in range(bands):
            mean_x[k] += beta[k, c] * mu[c]
    other_sum, other_blocks, ref_sum, ref_blocks = 0.0, 0, 0.0, 0
    slope, swing = 0.0, 0.0
    for side in range(2):
        is_reference = side == 0
        if is_reference:
            i, end = (low, cut) if reference_first else (cut, high)
        else:
            i, end = first, last
        while i < end:
            block = int((t[i] - t[low]) // rule.block_days)
            s, count = 0.0, 0
            d, f = 0.0, 0.0
            while i < end and int((t[i] - t[low]) // rule.block_days) == block:
                for c in range(bands):
                    s += e[i, c] * mu[c]
                for k in range(P):
                    s -= X[i, k] * mean_x[k]
                for k in range(1, (P - 2) // 2 + 1):
                    a, b = mean_x[2 * k - 1], mean_x[2 * k]
                    f += a * X[i, 2 * k - 1] + b * X[i, 2 * k]
                    d += k * _OMEGA * (b * X[i, 2 * k - 1] - a * X[i, 2 * k])
                count += 1
                i += 1
            s /= count * size
            if is_reference:
                tmp[ref_blocks] = s
                ref_sum += s
                ref_blocks += 1
            else:
                other_sum += s
                other_blocks += 1
                slope += d / (count * size)
                swing += f / (count * size)
    ref_mean = ref_sum / ref_blocks
    for q in range(ref_blocks):
        tmp[q] = abs(tmp[q] - ref_mean)
    # 1.2816: 80 % quantile of |N(0, 1)|. The harmonic fit has used up about half of its freedom along one direction.
    spread = _select(tmp, ref_blocks, int(0.8 * (ref_blocks - 1) + 0.5)) / 1.2816
    variance = spread * spread * ref_blocks / max(ref_blocks - 4.0, 1.0)
    variance = max(variance, 0.3) * (1.0 / other_blocks + 1.0 / ref_blocks)
    # A season that comes early or late, high or low shifts all its dates alike: it averages out over years, not over dates.
    years = max(1.0, (t[last - 1] - t[first]) / 365.2425)
    slope *= rule.phase_sd_days / other_blocks
    swing *= rule.amplitude_sd / other_blocks
    level = 0.0
    for k in range(1, P - 1):
        level += 0.5 * (mean_x[k] / size) ** 2
    forgiven = rule.allowance * np.sqrt((slope * slope + swing * swing + level * rule.level_sd**2) / years)
    return (other_sum / other_blocks - ref_mean - forgiven) / np.sqrt(variance), other_blocks


@njit(nogil=True, cache=True)
def _season_score(e, X, t, low, cut, high, bands, reference_first, beta, rule, mean_e, mean_f, tmp):
    """How far the other side's season differs in height from the reference model's, in units of its uncertainty.

    The coefficient a of the residuals on the model's own seasonal curve f (all bands at once, block means): -1 is a season
    that is gone. Its variance: the reference side's scatter along f; `allowance` times `amplitude_sd` a year is forgiven.
    """
    first, last = (cut, high) if reference_first else (low, cut)
    if t[last - 1] - t[first] < 0.7 * 365.2425:
        return -1.0
    product, square, ref_blocks = 0.0, 0.0, 0
    for side in range(2):
        is_reference = side == 0
        i, end = (low, cut) if is_reference == reference_first else (cut, high)
        while i < end:
            block = int((t[i] - t[low]) // rule.block_days)
            for c in range(bands):
                mean_e[c] = 0.0
                mean_f[c] = 0.0
            count = 0
            while i < end and int((t[i] - t[low]) // rule.block_days) == block:
                for c in range(bands):
                    f = 0.0
                    for k in range(1, P - 1):
                        f += X[i, k] * beta[k, c]
                    mean_f[c] += f
                    mean_e[c] += e[i, c] - f - beta[0, c] - X[i, P - 1] * beta[P - 1, c]
                count += 1
                i += 1
            ef, ff = 0.0, 0.0
            for c in range(bands):
                ef += mean_e[c] * mean_f[c] / (count * count)
                ff += mean_f[c] * mean_f[c] / (count * count)
            if is_reference:
                tmp[ref_blocks] = abs(ef) / np.sqrt(max(ff, 1e-12))
                ref_blocks += 1
            else:
                product += ef
                square += ff
    if square <= 0.0 or ref_blocks < 5:
        return -1.0
    spread = _select(tmp, ref_blocks, int(0.8 * (ref_blocks - 1) + 0.5)) / 1.2816
    variance = max(spread * spread * ref_blocks / max(ref_blocks - 4.0, 1.0), 0.3) / square
    years = max(1.0, (t[last - 1] - t[first]) / 365.2425)
    return (abs(product / square) - rule.allowance * rule.amplitude_sd / np.sqrt(years)) / np.sqrt(variance)


@njit(nogil=True, cache=True)
def _judge(e, X, t, CA, Cb, Cy, low, cut, high, bands, ridge, log_ridge, rule, A, b, L, beta, mu, mean_x, mean_f, tmp):
    """Score of a cut, or -1 where a rule of duration or number is not met. Leaves the reference model in beta."""
    before, after = t[cut - 1] - t[low], t[high - 1] - t[cut]
    reference_first = cut - low >= high - cut
    if max(before, after) < rule.reference_days:
        return -1.0, reference_first
    if (before if reference_first else after) < rule.reference_days:
        reference_first = not reference_first
    i, j = (low, cut) if reference_first else (cut, high)
    _segment_cost(CA, Cb, Cy, i, j, bands, ridge, log_ridge, A, b, L, beta)
    backward(L, bands, beta)
    lasting, blocks = _score(e, X, t, low, cut, high, bands, reference_first, beta, rule, np.inf, mu, mean_x, tmp)
    if blocks < rule.min_blocks:
        return -1.0, reference_first
    # A state that fades (regrowth) is judged by its first months as well.
    fresh, blocks = _score(e, X, t, low, cut, high, bands, reference_first, beta, rule, rule.fresh_days, mu, mean_x, tmp)
    season = _season_score(e, X, t, low, cut, high, bands, reference_first, beta, rule, mu, mean_f, tmp)
    return max(lasting, fresh if blocks >= rule.fresh_blocks else -1.0, season), reference_first


@njit(nogil=True, cache=True)
def change_gain(CA, Cb, cut, high, bands, L, z, u, G, h):
    """Gain in -2 log evidence when level and yearly wave may change at `cut`; the rest stays as the whole segment has it.

    L, z: factor of the whole segment and L^-1 b. The three extra columns of a band are the first three of X from the cut
    on, with prior sd 6, 4, 4 in units of the noise; G is their matrix after the other parameters are integrated out.
    """
    for q in range(3):
        for i in range(P):
            ri = i * (i + 1) // 2
            k = q * (q + 1) // 2 + i if i <= q else ri + q
            s = CA[high, k] - CA[cut, k]
            for j in range(i):
                s -= L[ri + j] * u[q, j]
            u[q, i] = s / L[ri + i]
    penalty = 0.0
    for q in range(3):
        for r in range(q + 1):
            k = q * (q + 1) // 2 + r
            s = CA[high, k] - CA[cut, k]
            for i in range(P):
                s -= u[q, i] * u[r, i]
            if q == r:
                inverse = 1 / 6.0**2 if q == 0 else 1 / 4.0**2
                s += inverse
                penalty -= np.log(inverse)
            for j in range(r):
                s -= G[q, j] * G[r, j]
            if q == r:
                penalty += np.log(s)
                G[q, q] = np.sqrt(s)
            else:
                G[q, r] = s / G[r, r]
    gain = -bands * penalty
    for c in range(bands):
        for q in range(3):
            s = Cb[high, q, c] - Cb[cut, q, c]
            for i in range(P):
                s -= u[q, i] * z[i, c]
            for j in range(q):
                s -= G[q, j] * h[j]
            h[q] = s / G[q, q]
            gain += h[q] * h[q]
    return gain


@njit(nogil=True, cache=True)
def _search(CA, Cb, Cy, low, high, bands, ridge, log_ridge, rule, A, b, L, z, u, G, h):
    """Best cut of low..high-1, or -1 where none gains `min_gain`."""
    _segment_cost(CA, Cb, Cy, low, high, bands, ridge, log_ridge, A, b, L, z)
    first, last = low + rule.min_segment, high - rule.min_segment
    step = max(1, (last - first) // 24)
    best, position = -np.inf, -1
    cut = first
    while cut <= last:
        gain = change_gain(CA, Cb, cut, high, bands, L, z, u, G, h)
        if gain > best:
            best, position = gain, cut
        cut += step
    centre = position
    for cut in range(max(first, centre - step + 1), min(last, centre + step - 1) + 1):
        gain = change_gain(CA, Cb, cut, high, bands, L, z, u, G, h)
        if gain > best:
            best, position = gain, cut
    if best < rule.min_gain:
        return -1
    # Around it, two full models: they date a change of the whole seasonal shape better.
    centre, best = position, np.inf
    for cut in range(max(first, centre - 3), min(last, centre + 3) + 1):
        cost = _segment_cost(CA, Cb, Cy, low, cut, bands, ridge, log_ridge, A, b, L, z)
        cost += _segment_cost(CA, Cb, Cy, cut, high, bands, ridge, log_ridge, A, b, L, z)
        if cost < best:
            best, position = cost, cut
    return position


@njit(nogil=True, cache=True)
def _distance(e, X, i, bands, beta):
    d = 0.0
    for c in range(bands):
        v = e[i, c]
        for k in range(P):
            v -= X[i, k] * beta[k, c]
        d += v * v
    return d


@njit(nogil=True, cache=True)
def _size(e, X, low, cut, high, t, bands, reference_first, beta, S, centre, rule, seen, said):
    """(change of the index, size): what the other side shows against what the reference model says, in units of the cube.

    Change: mean over the dates within a year of the cut, signed as after minus before. Size: root mean square over these
    dates and all bands, with the mean square of the reference side taken off, so that a new season counts as a new level.
    """
    total, count, square, ref_square, ref_count = 0.0, 0, 0.0, 0.0, 0
    edge = t[cut] if reference_first else t[cut - 1]
    for i in range(low, high):
        is_reference = (i < cut) == reference_first
        if not is_reference and abs(t[i] - edge) > 366.0:
            continue
        for c in range(bands):
            p = 0.0
            for k in range(P):
                p += X[i, k] * beta[k, c]
            said[c] = p
        # Back from whitened to the cube's units: y = S e + centre, from the last row so that nothing is overwritten early.
        away = 0.0
        for a in range(bands - 1, -1, -1):
            ys, yp = centre[a], centre[a]
            for c in range(a + 1):
                ys += S[a, c] * e[i, c]
                yp += S[a, c] * said[c]
            seen[a], said[a] = ys, yp
            away += (ys - yp) ** 2
        if is_reference:
            ref_square += away
            ref_count += 1
            continue
        square += away
        count += 1
        if rule.index_a >= 0:
            ps, pp = seen[rule.index_a] + seen[rule.index_b], said[rule.index_a] + said[rule.index_b]
            if ps != 0.0 and pp != 0.0:
                total += (seen[rule.index_a] - seen[rule.index_b]) / ps - (said[rule.index_a] - said[rule.index_b]) / pp
        else:
            total += seen[0] - said[0]
    size = np.sqrt(max(square / max(count, 1) - ref_square / max(ref_count, 1), 0.0) / bands)
    return (total if reference_first else -total) / max(count, 1), size


@njit(nogil=True, cache=True)
def _pixel(y, t, X, n, bands, rule, work, out_days, out_values):
    """Breaks of one series y (n, B) at days t; returns how many.

    out_days: (k, 3) break date, last clear before, first clear after. out_values: (k, 2) signed change, score.
    """
    r, w, sd, A, b, L, z, beta, tmp, keep, S, e, Xs, ts, CA, Cb, Cy, mu, mean_x, mean_f, ridge, centre, u, G, h = work
    for c in range(bands):
        for i in range(n):
            tmp[i] = y[i, c]
        centre[c] = median(tmp, n)
        for i in range(n):
            y[i, c] -= centre[c]
    for k in range(P):
        ridge[k] = 1e-2
    ridge[P - 1] = 1.0
    robust_fit(y, X, n, bands, ridge, 3, beta, r, w, sd, A, b, L, tmp)
    for c in range(bands):
        count = 0
        for i in range(1, n):
            if t[i] - t[i - 1] <= 60:
                tmp[count] = abs(r[i, c] - r[i - 1, c])
                count += 1
        sd[c] = max(1.4826 * median(tmp, count) / np.sqrt(2.0), rule.noise_floor)
    m = _drop_spikes(r, n, bands, sd, rule.spike, keep)
    _noise_factor(r, t, m, keep, bands, sd, rule.noise_floor, S, tmp)

    Cy[0] = 0.0
    for k in range(PACKED):
        CA[0, k] = 0.0
    for k in range(P):
        for c in range(bands):
            Cb[0, k, c] = 0.0
    for q in range(m):
        i = keep[q]
        ts[q] = t[i]
        square = 0.0
        for a in range(bands):
            s = y[i, a]
            for c in range(a):
                s -= S[a, c] * e[q, c]
            e[q, a] = s / S[a, a]
            square += e[q, a] * e[q, a]
        Cy[q + 1] = Cy[q] + square
        position = 0
        for k in range(P):
            x = X[i, k]
            Xs[q, k] = x
            for j in range(k + 1):
                CA[q + 1, position] = CA[q, position] + x * X[i, j]
                position += 1
            for c in range(bands):
                Cb[q + 1, k, c] = Cb[q, k, c] + x * e[q, c]
    # Prior of a segment in units of the noise: level 15, yearly 8, faster harmonics 4, slope 1 a year.
    ridge[0] = 1 / 15.0**2
    ridge[1] = ridge[2] = 1 / 8.0**2
    ridge[3] = ridge[4] = ridge[5] = ridge[6] = 1 / 4.0**2
    ridge[7] = 1 / 1.0**2
    log_ridge = 0.0
    for k in range(P):
        log_ridge += np.log(ridge[k])

    # Binary segmentation, then each cut is judged again between its final neighbours.
    cuts = np.empty(MAX_BREAKS + 2, np.int64)
    stack = np.empty((2 * MAX_BREAKS + 4, 2), np.int64)
    stack[0, 0], stack[0, 1] = 0, m
    waiting, found = 1, 0
    while waiting > 0 and found < MAX_BREAKS:
        waiting -= 1
        low, high = stack[waiting, 0], stack[waiting, 1]
        if high - low < 3 * rule.min_segment or ts[high - 1] - ts[low] < rule.reference_days:
            continue
        cut = _search(CA, Cb, Cy, low, high, bands, ridge, log_ridge, rule, A, b, L, z, u, G, h)
        if cut < 0:
            continue
        score, _ = _judge(
            e, Xs, ts, CA, Cb, Cy, low, cut, high, bands, ridge, log_ridge, rule, A, b, L, beta, mu, mean_x, mean_f, tmp
        )
        if score < rule.min_score:
            continue
        cuts[found] = cut
        found += 1
        stack[waiting, 0], stack[waiting, 1] = low, cut
        stack[waiting + 1, 0], stack[waiting + 1, 1] = cut, high
        waiting += 2
    if found == 0:
        return 0
    ordered = np.sort(cuts[:found])
    written = 0
    low = 0
    for q in range(found):
        cut = ordered[q]
        high = ordered[q + 1] if q + 1 < found else m
        score, first = _judge(
            e, Xs, ts, CA, Cb, Cy, low, cut, high, bands, ridge, log_ridge, rule, A, b, L, beta, mu, mean_x, mean_f, tmp
        )
        if score < rule.min_score:
            continue
        change, size = _size(e, Xs, low, cut, high, ts, bands, first, beta, S, centre, rule, mu, mean_f)
        if size < rule.min_shift:
            continue
        i, j = (cut, high) if first else (low, cut)
        _segment_cost(CA, Cb, Cy, i, j, bands, ridge, log_ridge, A, b, L, z)
        backward(L, bands, z)
        # Decisive: nearer to one model by `decisive`, and within the noise of it (`fit` root mean square over the bands).
        near = rule.fit * rule.fit * bands
        last_old, first_new = low, high - 1
        for i in range(cut - 1, low - 1, -1):
            d_ref, d_other = _distance(e, Xs, i, bands, beta), _distance(e, Xs, i, bands, z)
            old, new = (d_ref, d_other) if first else (d_other, d_ref)
            if old + rule.decisive < new and old <= near:
                last_old = i
                break
        for i in range(cut, high):
            d_ref, d_other = _distance(e, Xs, i, bands, beta), _distance(e, Xs, i, bands, z)
            old, new = (d_ref, d_other) if first else (d_other, d_ref)
            if new + rule.decisive < old and new <= near:
                first_new = i
                break
        out_days[written, 0] = np.floor(0.5 * (ts[cut - 1] + ts[cut]) + 0.5)
        out_days[written, 1] = ts[last_old]
        out_days[written, 2] = ts[first_new]
        out_values[written, 0] = change
        out_values[written, 1] = score
        written += 1
        low = cut
    return written


@njit(nogil=True, cache=True)
def _undecided(observed, times, row, col, clear):
    """Status of a pixel that was not seen often enough: the main reason."""
    cloud, failed = 0, 0
    for i in range(times):
        cloud += observed[i, row, col] == _CLOUD
        failed += observed[i, row, col] == _FAILED
    missing = times - clear - cloud - failed
    if failed > 0 and failed >= cloud and failed >= missing:
        return _S_FAILED
    if cloud > 0 and cloud >= missing:
        return _S_CLOUD
    if missing > 0 and clear == 0:
        return _S_NOT_OBSERVED
    return _TOO_FEW


@njit(nogil=True, cache=True)
def detect_rows(values, scale, offset, observed, days, X, rule, row_first, row_last, out_days, out_values, counts, status):
    """Breaks of the pixels of rows row_first..row_last-1.

    values: (time, band, y, x) int16 or float32, value = stored * scale + offset, used where `observed` (time, y, x) is CLEAR and every band is finite.
    out_days: (k, 3, y, x) int32; out_values: (k, 2, y, x) float32; counts (y, x) int16; status (y, x) uint8: written.
    """
    times, bands, _, cols = values.shape
    tile = 16
    block = np.empty((tile, times, bands), np.float32)
    y, t, Xs = np.empty((times, bands)), np.empty(times), np.empty((times, P))
    wide = max(times, bands)
    work = (
        np.empty((times, bands)),
        np.empty(times),
        np.empty(bands),
        np.empty(PACKED),
        np.empty((P, bands)),
        np.empty(PACKED),
        np.empty((P, bands)),
        np.empty((P, bands)),
        np.empty(wide),
        np.empty(times, np.int64),
        np.empty((bands, bands)),
        np.empty((times, bands)),
        np.empty((times, P)),
        np.empty(times),
        np.empty((times + 1, PACKED)),
        np.empty((times + 1, P, bands)),
        np.empty(times + 1),
        np.empty(bands),
        np.empty(P),
        np.empty(bands),
        np.empty(P),
        np.empty(bands),
        np.empty((3, P)),
        np.empty((3, 3)),
        np.empty(3),
    )
    keep = np.empty(times, np.int64)
    pixel_days, pixel_values = np.empty((MAX_BREAKS, 3)), np.empty((MAX_BREAKS, 2))
    for row in range(row_first, row_last):
        for start in range(0, cols, tile):
            width = min(tile, cols - start)
            for i in range(times):
                for c in range(bands):
                    for k in range(width):
                        block[k, i, c] = values[i, c, row, start + k] * scale + offset
            for k in range(width):
                col = start + k
                n = 0
                for i in range(times):
                    good = observed[i, row, col] == _CLEAR
                    for c in range(bands):
                        good = good and np.isfinite(block[k, i, c])
                    if good:
                        for c in range(bands):
                            y[n, c] = block[k, i, c]
                        t[n] = days[i]
                        for q in range(P):
                            Xs[n, q] = X[i, q]
                        n += 1
                counts[row, col] = n
                if n < rule.min_observations or t[n - 1] - t[0] < rule.min_span_days:
                    status[row, col] = _undecided(observed, times, row, col, n)
                    continue
                if rule.water_a >= 0:
                    m = _keep_one_medium(y, t, n, keep, rule)
                    if m < rule.min_observations or t[keep[m - 1]] - t[keep[0]] < rule.min_span_days:
                        status[row, col] = _TOO_FEW
                        continue
                    for q in range(m):
                        i = keep[q]
                        t[q] = t[i]
                        for c in range(bands):
                            y[q, c] = y[i, c]
                        for c in range(P):
                            Xs[q, c] = Xs[i, c]
                    n = m
                found = _pixel(y, t, Xs, n, bands, rule, work, pixel_days, pixel_values)
                status[row, col] = _CHANGE if found > 0 else _NO_CHANGE
                for q in range(found):
                    for c in range(3):
                        out_days[q, c, row, col] = np.int32(pixel_days[q, c])
                    for c in range(2):
                        out_values[q, c, row, col] = pixel_values[q, c]
