"""Compiled loops of break detection: one pixel's series in, its breaks out. Called by `segment` only.

All kernels are in this one file because numba's disk cache notices a change of the file of a function, not of a
function it calls elsewhere. Sums may be reordered by the compiler (`_MATH`), always in the same way on one machine:
the same numbers in give the same numbers out, in any thread and tile.
Symbols as in docs/methods/satellite.md: e whitened observations (B, n), X design (8, n), beta (8, B); observations run
along the last axis, so that sums over time use the processor's vector units.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from satellite.types import Observed, Pace, Status

P = 8
"""Parameters of a segment: level, three harmonics, slope."""
MAX_BREAKS = 6
_MATH = {"contract", "reassoc"}
_YEAR = 365.2425
_OMEGA = 2.0 * np.pi / _YEAR
_CLEAR, _CLOUD, _FAILED = int(Observed.CLEAR), int(Observed.CLOUD), int(Observed.FAILED_READ)
_OUTSIDE = int(Observed.OUTSIDE)
_NO_CHANGE, _CHANGE, _TOO_FEW = int(Status.NO_CHANGE), int(Status.CHANGE), int(Status.TOO_FEW)
_S_CLOUD, _S_NOT_OBSERVED, _S_FAILED = int(Status.CLOUD), int(Status.NOT_OBSERVED), int(Status.FAILED_READ)
_S_OUTSIDE = int(Status.OUTSIDE)
_ABRUPT, _GRADUAL = int(Pace.ABRUPT), int(Pace.GRADUAL)
_F = np.float32


class Rule(NamedTuple):
    """`segment.BreakConfig` as numbers; band positions are -1 where the cube has no such band.

    water_b: -2 where the cube is NDVI alone, -3 where it is a water index alone.
    """

    min_observations: int
    min_span_days: float
    min_segment: int
    reference_days: float
    spike: float
    noise_floor: float
    min_gain: float
    min_score: float
    min_means: float
    weak_share: float
    dates_weight: float
    min_shift: float
    block_days: float
    min_blocks: int
    fresh_days: float
    fresh_blocks: int
    fresh_factor: float
    margin: float
    scatter: float
    reach: float
    lone_reach: float
    model_doubt: float
    phase_sd_days: float
    amplitude_sd: float
    level_sd: float
    allowance: float
    gradual_gain: float
    decisive: float
    fit: float
    water_index: float
    water_margin: float
    water_run_days: float
    water_factor: float
    flood_returns: int
    season_days: float
    season_share: float
    season_views: int
    late: float
    water_a: int
    water_b: int
    index_a: int
    index_b: int


@njit(nogil=True, cache=True, error_model="numpy")
def _kth(a, k):
    """k-th smallest of a (float32, none negative) without a branch that depends on the values.

    Such numbers are ordered as their bits are: from the highest down each bit is set if at most k values lie below.
    """
    bits = a.view(np.int32)
    found = np.zeros(1, np.int32)
    for shift in range(30, -1, -1):
        trial = np.int32(found[0] | (1 << shift))
        below = np.int32(0)
        for i in range(bits.shape[0]):
            below += np.int32(bits[i] < trial)
        if below <= k:
            found[0] = trial
    return found.view(np.float32)[0]


@njit(nogil=True, cache=True, error_model="numpy")
def _seasons(span, season_days):
    """Tables by whole days apart (2, span + 1): within 35 days of the year; within `season_days` of it."""
    table = np.empty((2, span + 1), np.bool_)
    for days in range(span + 1):
        apart = days % _YEAR
        apart = min(apart, _YEAR - apart)
        table[0, days] = apart <= 35.0
        table[1, days] = apart <= season_days
    return table


# Linear algebra of a segment ------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def dot(a, b):
    """Sum of products of two series; contiguous, so that it runs in the processor's vector units."""
    s = _F(0)
    for i in range(a.shape[0]):
        s += a[i] * b[i]
    return s


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _total(a):
    s = _F(0)
    for i in range(a.shape[0]):
        s += a[i]
    return s


@njit(nogil=True, cache=True, error_model="numpy")
def normal_matrix(X, low, high, ridge, M):
    """M = X X' + diag(ridge) over observations low..high-1, lower triangle (8, 8)."""
    for k in range(P):
        for j in range(k + 1):
            M[k, j] = dot(X[k, low:high], X[j, low:high])
        M[k, k] += ridge[k]


@njit(nogil=True, cache=True, error_model="numpy")
def factor(M, size, L):
    """Lower Cholesky factor of the leading (size, size) of M, with reciprocals on the diagonal."""
    for i in range(size):
        for j in range(i):
            s = M[i, j]
            for k in range(j):
                s -= L[i, k] * L[j, k]
            L[i, j] = s * L[j, j]
        s = M[i, i]
        for k in range(i):
            s -= L[i, k] * L[i, k]
        L[i, i] = 1.0 / np.sqrt(max(s, 1e-12))


@njit(nogil=True, cache=True, error_model="numpy")
def products(X, e, low, high, b):
    """b = X e' over observations low..high-1, (8, B)."""
    for k in range(P):
        for c in range(e.shape[0]):
            b[k, c] = dot(X[k, low:high], e[c, low:high])


@njit(nogil=True, cache=True, error_model="numpy")
def solve(L, bands, b):
    """b = (L L')^-1 b in place; L as `factor` leaves it."""
    for i in range(P):
        for k in range(i):
            for c in range(bands):
                b[i, c] -= L[i, k] * b[k, c]
        for c in range(bands):
            b[i, c] *= L[i, i]
    for i in range(P - 1, -1, -1):
        for k in range(i + 1, P):
            for c in range(bands):
                b[i, c] -= L[k, i] * b[k, c]
        for c in range(bands):
            b[i, c] *= L[i, i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _subtract(r, e, x0, x1, x2, x3, x4, x5, x6, x7, w0, w1, w2, w3, w4, w5, w6, w7):
    for i in range(r.shape[0]):
        said = w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]
        said += w4 * x4[i] + w5 * x5[i] + w6 * x6[i] + w7 * x7[i]
        r[i] = e[i] - said


@njit(nogil=True, cache=True, error_model="numpy")
def residuals(X, e, low, high, beta, r):
    """r = e - beta' X over observations low..high-1."""
    x0, x1, x2, x3 = X[0, low:high], X[1, low:high], X[2, low:high], X[3, low:high]
    x4, x5, x6, x7 = X[4, low:high], X[5, low:high], X[6, low:high], X[7, low:high]
    for c in range(e.shape[0]):
        w0, w1, w2, w3 = _F(beta[0, c]), _F(beta[1, c]), _F(beta[2, c]), _F(beta[3, c])
        w4, w5, w6, w7 = _F(beta[4, c]), _F(beta[5, c]), _F(beta[6, c]), _F(beta[7, c])
        _subtract(r[c, low:high], e[c, low:high], x0, x1, x2, x3, x4, x5, x6, x7, w0, w1, w2, w3, w4, w5, w6, w7)


@njit(nogil=True, cache=True, error_model="numpy")
def _model(X, e, low, high, ridge, M, L, beta):
    normal_matrix(X, low, high, ridge, M)
    factor(M, P, L)
    products(X, e, low, high, beta)
    solve(L, e.shape[0], beta)


# Before the search ----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _wetness(y, n, rule, wet):
    """(M)NDWI of the observations, in wet; of a cube of NDVI alone -2 NDVI, which is above 0 over clear water. Returns how many are water."""
    if rule.water_b >= 0:
        a, b = y[rule.water_a], y[rule.water_b]
        for i in range(n):
            total = a[i] + b[i]
            wet[i] = (a[i] - b[i]) / total if total != 0 else _F(0)
    else:
        factor = _F(-2) if rule.water_b == -2 else _F(1)
        for i in range(n):
            wet[i] = factor * y[0, i]
    water = 0
    for i in range(n):
        water += wet[i] > rule.water_index
    return water


@njit(nogil=True, cache=True, error_model="numpy")
def _season_missed(wet, t, n, state, rule):
    """A pixel that stays water to the end through seasons in which it was land in the years before: no flood of any other year.

    Returns (first observation of the run, first that was land in this season before, days between the first and the last of
    these, their number); the number is 0 where there is nothing of the kind. A single date of land does not end the run. Needs no
    model of the season, so that floods of any length and height can be compared. Not turned round: a flood that stays away is drought.
    """
    margin = 0.5 * rule.water_margin
    for i in range(n):
        state[i] = 2 if wet[i] > rule.water_index else 1 if wet[i] > rule.water_index - margin else 0
    start = n
    for i in range(n - 1, -1, -1):
        if state[i] == 0 and not (0 < i < n - 1 and state[i - 1] == 2 and state[i + 1] == 2):
            break
        start = i
    first, last, count = -1, -1, 0
    for i in range(start if start > 0 else n, n):
        if state[i] != 2:
            continue
        years, share = 0, 0.0
        j = start - 1
        middle = t[i] - _YEAR
        while j >= 0 and middle >= t[0] - rule.season_days:
            # The dates of this season, one year further back each time.
            total, seen = 0.0, 0
            while j >= 0 and t[j] > middle + rule.season_days:
                j -= 1
            while j >= 0 and t[j] >= middle - rule.season_days:
                total += 1.0 - 0.5 * state[j]
                seen += 1
                j -= 1
            if seen > 0:
                years += 1
                share += total / seen
            middle -= _YEAR
        if years >= 2 and share >= rule.season_share * years:
            if first < 0:
                first = i
            last = i
            count += 1
    if count < rule.season_views or t[last] - t[first] < 10.0 * rule.min_score:
        return 0, 0, 0.0, 0
    return start, first, t[last] - t[first], count


@njit(nogil=True, cache=True, error_model="numpy")
def _season_change(y, t, n, start, first, bands, season, rule, sum_new, sum_old):
    """(change of the index, size) of the dates from `first` on against the same season of the years before `start`."""
    change, square, count = 0.0, 0.0, 0
    for i in range(first, n):
        seen = 0
        for c in range(bands):
            sum_old[c] = 0.0
            sum_new[c] = y[c, i]
        for j in range(start):
            if season[1, np.int64(t[i] - t[j])]:
                seen += 1
                for c in range(bands):
                    sum_old[c] += y[c, j]
        if seen == 0:
            continue
        for c in range(bands):
            sum_old[c] /= seen
            square += (sum_new[c] - sum_old[c]) ** 2
        count += 1
        if rule.index_a >= 0:
            a, b = sum_new[rule.index_a] + sum_new[rule.index_b], sum_old[rule.index_a] + sum_old[rule.index_b]
            if a != 0.0 and b != 0.0:
                change += (sum_new[rule.index_a] - sum_new[rule.index_b]) / a - (
                    sum_old[rule.index_a] - sum_old[rule.index_b]
                ) / b
        else:
            change += sum_new[0] - sum_old[0]
    return change / max(count, 1), np.sqrt(square / (max(count, 1) * bands))


@njit(nogil=True, cache=True, error_model="numpy")
def _keep_one_medium(wet, t, n, keep, state, spell, rule):
    """Leave out spells of water on land (or of land on water): water level, not a change. Returns how many are kept.

    A spell between two others of the usual state counts as water level up to `water_run_days`, twice that where the pixel
    has at least two such spells (a seasonal flat). One at the begin or the end is left out only where there are others,
    and when it is not much longer than these.
    """
    water = 0
    for i in range(n):
        state[i] = 0
        spell[i] = 0
        if wet[i] > rule.water_index:
            state[i] = 2
            water += 1
        elif wet[i] > rule.water_index - rule.water_margin:
            state[i] = 1
    if water == 0:
        for i in range(n):
            keep[i] = i
        return n
    on_water = 4 * water > 3 * n
    if on_water:
        # Land that was flooded for good, long ago: dry in more than one year, then never again.
        dry, spells, last_dry = 0, 0, 0
        for i in range(n):
            if state[i] == 0:
                dry += 1
                spells += dry == 1 or t[i] - t[last_dry] > 150.0
                last_dry = i
        if dry >= rule.min_observations and spells >= 2 and t[n - 1] - t[last_dry] > 2.0 * rule.water_run_days:
            on_water = False
    if on_water:
        for i in range(n):
            state[i] = 2 - state[i]
    # A spell is a run of dates away from the usual state or partly so, with at least one that is wholly away; one date of
    # the usual state does not end it. Closed ones get 1, open ones 2, for now.
    closed, longest = 0, _F(0)
    i = 0
    while i < n:
        j, last, true = i, i - 1, 0
        while j < n:
            if state[j] > 0:
                last = j
                true += state[j] == 2
            elif last < i or j - last > 1:
                break
            j += 1
        if true > 0:
            if i > 0 and last < n - 1:
                length = t[last + 1] - t[i - 1]
                spell[i : last + 1] = 1
                if length <= 2.0 * rule.water_run_days:
                    closed += 1
                    longest = max(longest, length)
            else:
                spell[i : last + 1] = 2
        i = max(last, i) + 1
    limit = 2.0 * rule.water_run_days if closed >= 2 else rule.water_run_days
    open_limit = max(rule.water_run_days, 1.2 * longest) if closed > 0 else 0.0
    kept, short = 0, 0
    i = 0
    while i < n:
        kind, j = spell[i], i
        while j < n and spell[j] == kind:
            j += 1
        out = False
        if kind == 1:
            out = t[min(j, n - 1)] - t[max(i - 1, 0)] <= limit
        elif kind == 2:
            out = t[j - 1] - t[i] <= open_limit
            if not out and i > 0 and closed > 0:
                # A flood that never ends: its first part looks like any other.
                for k in range(i, j):
                    if t[k] - t[i] < 0.6 * longest:
                        spell[k] = 3
        short += out
        for k in range(i, j if out else i):
            # 3: left out.
            spell[k] = 3
        i = j
    for i in range(n):
        if not (spell[i] == 3 or (short > 0 and state[i] == 1 and spell[i] == 0)):
            keep[kept] = i
            kept += 1
    return kept


@njit(nogil=True, cache=True, error_model="numpy")
def _floods_left_out(wet, t, n, keep, kept, rule, flood):
    """First days of the floods among the dates that `_keep_one_medium` left out, in flood; returns how many."""
    count, q, last = 0, 0, -np.inf
    for i in range(n):
        while q < kept and keep[q] < i:
            q += 1
        if (q == kept or keep[q] != i) and wet[i] > rule.water_index:
            if t[i] - last > 150.0:
                flood[count] = t[i]
                count += 1
            last = t[i]
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _local_scale(y, t, n, d, u, v, scale, sd, inverse, floor):
    """Short-term noise of every band: spread of what a line between the two neighbouring dates leaves unexplained.

    d (B, n) keeps the departures; u, v, scale (n) are scratch; inverse = 1 / sd.
    """
    for i in range(1, n - 1):
        a, b = t[i] - t[i - 1], t[i + 1] - t[i]
        u[i] = b / (a + b)
        v[i] = _F(1) - u[i]
        scale[i] = _F(1) / np.sqrt(_F(1) + u[i] * u[i] + v[i] * v[i])
    for c in range(d.shape[0]):
        _departures(d[c, :n], y[c, :n], u, v, scale)
        sd[c] = _robust_scale(d[c, 1 : n - 1], floor)
        inverse[c] = _F(1.0 / sd[c])


@njit(nogil=True, cache=True, error_model="numpy")
def _apart(y, i, j, k, bands, inverse):
    """Squared distances of i from j and from k and their product of differences, in noise units, a band."""
    near, far, both = _F(0), _F(0), _F(0)
    for c in range(bands):
        a, b = (y[c, i] - y[c, j]) * inverse[c], (y[c, i] - y[c, k]) * inverse[c]
        near += a * a
        far += b * b
        both += a * b
    return near, far, both


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _add_squared_steps(total, y, inverse):
    """total[i] += squared step from i - 1 to i, in noise units."""
    for i in range(1, y.shape[0]):
        a = (y[i] - y[i - 1]) * inverse
        total[i] += a * a


@njit(nogil=True, cache=True, error_model="numpy")
def _drop_spikes(y, n, bands, inverse, limit, step, keep):
    """Positions that do not stand out to one side against the dates before and after; returns how many.

    One or two dates beside each other that differ from both neighbours in the same direction, by more than `limit` noise
    units, are a cloud or shadow that the quality band missed. A lasting step agrees with what follows.
    """
    kept = 0
    bound = limit * limit * bands
    step[:n] = _F(0)
    for c in range(bands):
        _add_squared_steps(step[:n], y[c, :n], inverse[c])
    for i in range(n):
        out = False
        if 0 < i < n - 1 and (step[i] > bound or step[i + 1] > bound):
            near, far, both = _apart(y, i, i - 1, i + 1, bands, inverse)
            out = near > bound and far > bound and both > 0.5 * np.sqrt(near * far)
            if not out and near > bound and i < n - 2:
                near, far, both = _apart(y, i, i - 1, i + 2, bands, inverse)
                out = far > 2.25 * bound and near > 2.25 * bound and both > 0.7 * np.sqrt(near * far)
            elif not out and i > 1 and far > bound:
                near, far, both = _apart(y, i, i - 2, i + 1, bands, inverse)
                out = far > 2.25 * bound and near > 2.25 * bound and both > 0.7 * np.sqrt(near * far)
        if not out:
            keep[kept] = i
            kept += 1
    return kept


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _weighted(w, a, b):
    s = _F(0)
    for i in range(w.shape[0]):
        s += w[i] * a[i] * b[i]
    return s


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _add_scaled_squares(total, a, factor):
    for i in range(total.shape[0]):
        x = a[i] * factor
        total[i] += x * x


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _weights_of_squares(w, limit):
    """Weights from squared lengths, in place: 1 up to the limit, falling with the square beyond; returns their sum."""
    total = _F(0)
    for i in range(w.shape[0]):
        w[i] = _F(1) if w[i] < limit else limit / w[i]
        total += w[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _departures(out, y, u, v, scale):
    """What a line between the two neighbours leaves of each observation, in units of one observation's noise."""
    for i in range(1, y.shape[0] - 1):
        out[i] = (y[i] - u[i] * y[i - 1] - v[i] * y[i + 1]) * scale[i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _robust_scale(d, floor):
    n = d.shape[0]
    s = _F(0)
    for i in range(n):
        s += np.sqrt(abs(d[i]))
    # 0.82218: mean of sqrt|N(0, 1)|; outliers hardly move it.
    first = max((s / max(n, 1) / 0.82218) ** 2, floor)
    limit = _F(2.5 * first)
    total, count = _F(0), _F(0)
    for i in range(n):
        inside = _F(1) if abs(d[i]) < limit else _F(0)
        total += inside * abs(d[i])
        count += inside
    # 0.7724: mean of |N(0, 1)| where it is below 2.5.
    return max(total / count / 0.7724, floor) if count > 8 else first


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _noise_factor(d, n, bands, inverse, sd, floor, w, S, L):
    """Factors of the covariance of short-term noise from the departures d: S lower (B, B), L with reciprocal diagonal.

    Departures beyond 2 noise units (root mean square over the bands) are weighted down. Shrunk towards the diagonal.
    """
    w[1 : n - 1] = _F(0)
    for c in range(bands):
        _add_scaled_squares(w[1 : n - 1], d[c, 1 : n - 1], inverse[c])
    total = _weights_of_squares(w[1 : n - 1], _F(4 * bands))
    for a in range(bands):
        for b in range(a + 1):
            S[a, b] = _weighted(w[1 : n - 1], d[a, 1 : n - 1], d[b, 1 : n - 1]) / max(total, _F(1))
    # The diagonal is the robust scale: the product sums hold what the weights left of the outliers.
    for a in range(bands):
        own = max(S[a, a], 1e-12)
        shrink = min(1.0, sd[a] * sd[a] / own)
        for b in range(bands):
            if b < a:
                S[a, b] *= np.sqrt(shrink)
            elif b > a:
                S[b, a] *= np.sqrt(shrink)
        S[a, a] = 1.1 * own * shrink + floor * floor
    factor(S, bands, L)
    for a in range(bands):
        for b in range(a):
            S[a, b] = L[a, b]
        S[a, a] = 1.0 / L[a, a]


# The search -----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _less(s, a, b, m):
    for k in range(P):
        s -= a[k, m] * b[k, m]
    return s


@njit(nogil=True, cache=True, error_model="numpy")
def _gains(sums, G0, count, bands, G, gains):
    """Gains in -2 log evidence of cuts when level and yearly wave of every band may jump, prior sd 6, 4, 4 in units of the noise.

    sums (3, 8 + B, cut): of the three columns with the orthonormal design and with the residuals; G0 (6, cut): of their products,
    lower triangle row by row. G (6, cut): scratch. Cuts lie along the last axis, so that many are done at once.
    """
    # 1/36 for the level, 1/16 for the wave.
    s0, s1, s2 = sums[0], sums[1], sums[2]
    for m in range(count):
        a = max(_less(G0[0, m], s0, s0, m) + 1 / 36.0, 1e-9)
        g00 = 1.0 / np.sqrt(a)
        g10 = _less(G0[1, m], s1, s0, m) * g00
        b = max(_less(G0[2, m], s1, s1, m) + 1 / 16.0 - g10 * g10, 1e-9)
        g11 = 1.0 / np.sqrt(b)
        g20 = _less(G0[3, m], s2, s0, m) * g00
        g21 = (_less(G0[4, m], s2, s1, m) - g20 * g10) * g11
        d = max(_less(G0[5, m], s2, s2, m) + 1 / 16.0 - g20 * g20 - g21 * g21, 1e-9)
        G[0, m], G[1, m], G[2, m], G[3, m], G[4, m], G[5, m] = g00, g10, g11, g20, g21, 1.0 / np.sqrt(d)
        gains[m] = 36.0 * 16.0 * 16.0 * a * b * d
    for m in range(count):
        gains[m] = -bands * np.log(gains[m])
    for c in range(P, P + bands):
        for m in range(count):
            a = s0[c, m] * G[0, m]
            b = (s1[c, m] - G[1, m] * a) * G[2, m]
            d = (s2[c, m] - G[3, m] * a - G[4, m] * b) * G[5, m]
            gains[m] += a * a + b * b + d * d


@njit(nogil=True, cache=True, error_model="numpy")
def _scaled(out, x, a):
    for i in range(out.shape[0]):
        out[i] = a * x[i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _added(out, x, a):
    for i in range(out.shape[0]):
        out[i] += a * x[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _orthonormal(X, e, low, high, ridge, M, L, W, Q, z, r):
    """Q = L^-1 X and what the whole segment's model leaves of e."""
    normal_matrix(X, low, high, ridge, M)
    factor(M, P, L)
    # W = L^-1 (lower triangle).
    for j in range(P):
        W[j, j] = L[j, j]
        for i in range(j + 1, P):
            s = 0.0
            for k in range(j, i):
                s -= L[i, k] * W[k, j]
            W[i, j] = s * L[i, i]
    for k in range(P):
        own = Q[k, low:high]
        _scaled(own, X[0, low:high], _F(W[k, 0]))
        for j in range(1, k + 1):
            _added(own, X[j, low:high], _F(W[k, j]))
    products(Q, e, low, high, z)
    residuals(Q, e, low, high, z, r)


@njit(nogil=True, cache=True, error_model="numpy")
def _turned(Q, r, low, high, V):
    """V (n, 8 + B and more) = the columns of Q and r, an observation a row: what `_take_in` adds lies side by side."""
    for i in range(low, high):
        for k in range(P):
            V[i, k] = Q[k, i]
        for c in range(r.shape[0]):
            V[i, P + c] = r[c, i]


@njit(nogil=True, cache=True, error_model="numpy")
def _sums(X, V, high, cut, bottom, step, s0, s1, s2, G0, sums_at, G0_at):
    """Sums of `_gains` for the cuts cut, cut - step, ... down to bottom, in sums_at and G0_at; returns how many cuts.

    s0, s1, s2 (as wide as V), G0 (6,): the sums from observation high on, carried on. In one function, since views of arrays are
    dear to hand over for every observation.
    """
    g0, g1, g2, g3, g4, g5 = G0
    count = 0
    while cut >= bottom:
        for i in range(high - 1, cut - 1, -1):
            a, b, v = X[1, i], X[2, i], V[i]
            for k in range(v.shape[0]):
                s0[k] += v[k]
            for k in range(v.shape[0]):
                s1[k] += a * v[k]
            for k in range(v.shape[0]):
                s2[k] += b * v[k]
            g0 += 1.0
            g1 += a
            g2 += a * a
            g3 += b
            g4 += a * b
            g5 += b * b
        for k in range(sums_at.shape[1]):
            sums_at[0, k, count], sums_at[1, k, count], sums_at[2, k, count] = s0[k], s1[k], s2[k]
        G0_at[0, count], G0_at[1, count], G0_at[2, count] = g0, g1, g2
        G0_at[3, count], G0_at[4, count], G0_at[5, count] = g3, g4, g5
        high = cut
        cut -= step
        count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _candidates(X, e, low, high, ridge, rule, work, cuts, gains):
    """Up to three cuts of low..high-1 with the largest gains of at least `min_gain`, best first; returns how many.

    Every few observations first, then every one around the peaks: a single observation of the new state among the old ones
    would spoil the model that the cut is judged by.
    """
    M, L, W, Q, z, r, V, sums, G, coarse, fine, sums_at, G0_at, sums_near, G0_near = work
    bands, n = e.shape[0], high - low
    _orthonormal(X, e, low, high, ridge, M, L, W, Q, z, r)
    _turned(Q, r, low, high, V)
    step = 6 if n >= 100 else 4 if n >= 50 else 2
    s0, s1, s2, bottom = sums[0], sums[1], sums[2], low + rule.min_segment
    sums[:] = _F(0)
    place = high - rule.min_segment
    count = _sums(X, V, high, place, bottom, step, s0, s1, s2, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0), sums_at, G0_at)
    _gains(sums_at, G0_at, count, bands, G, coarse)
    found = 0
    for _ in range(3):
        best, where = rule.min_gain, -1
        for k in range(count):
            peak = (k == 0 or coarse[k] >= coarse[k - 1]) and (k == count - 1 or coarse[k] >= coarse[k + 1])
            if not peak or coarse[k] <= best:
                continue
            taken = False
            for f in range(found):
                taken = taken or abs(place - step * k - cuts[f]) <= 2 * step
            if not taken:
                best, where = coarse[k], k
        if where < 0:
            break
        start = max(where - 1, 0)
        for k in range(P + bands):
            s0[k], s1[k], s2[k] = sums_at[0, k, start], sums_at[1, k, start], sums_at[2, k, start]
        at = G0_at[:, start]
        G0 = (at[0], at[1], at[2], at[3], at[4], at[5])
        position = place - step * where
        after = place - step * start
        bottom_near = max(place - step * (where + 1) + 1, bottom)
        near = _sums(X, V, after, after - 1, bottom_near, 1, s0, s1, s2, G0, sums_near, G0_near)
        _gains(sums_near, G0_near, near, bands, G, fine)
        for k in range(near):
            if fine[k] > best:
                best, position = fine[k], after - 1 - k
        cuts[found], gains[found] = position, best
        found += 1
    return found


# The decision ---------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _add_squares(total, q):
    for i in range(q.shape[0]):
        total[i] += q[i] * q[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _blocks(q, t, away, low, high, origin, reach, rule, mean, size, when, start, first, cut_short):
    """Means (block, B) of the residuals q over blocks of `block_days`; when: first day of each, size: observations.

    away: squared lengths of q. A residual longer than `reach` counts with that length only, so that a flood or a bloom of some weeks does not outweigh years;
    cut_short: whether a block has such. Blocks are written from index `start` on; first: first observation of each.
    Returns the index after the last.
    """
    bands = q.shape[0]
    far = _F(reach * reach)
    nb = start - 1
    until = np.float64(origin)
    for i in range(low, high):
        if t[i] >= until:
            while t[i] >= until:
                until += rule.block_days
            nb += 1
            cut_short[nb] = False
            when[nb] = np.int64(t[i])
            first[nb] = i
            for c in range(bands):
                mean[nb, c] = 0.0
        if away[i] <= far:
            for c in range(bands):
                mean[nb, c] += q[c, i]
        else:
            cut_short[nb] = True
            f = _F(reach) / np.sqrt(away[i])
            for c in range(bands):
                mean[nb, c] += f * q[c, i]
    first[nb + 1] = high
    for j in range(start, nb + 1):
        size[j] = first[j + 1] - first[j]
        part = 1.0 / size[j]
        for c in range(bands):
            mean[j, c] *= part
    return nb + 1


@njit(nogil=True, cache=True, error_model="numpy")
def _back(q, first, last, begin, cut_short, lone, on_land, season, when, whole, mean):
    """Let the same season of the side's other years say how far the mean of a block counts.

    The mean of the residuals q without a bound (whole: scratch, block by B) counts up to its projection onto the most alike block of
    first..last-1 within 35 days of the year and in another year. What no such year shows counts up to `lone`; what lies beyond the
    bound of `_blocks` and comes again counts in full, except where water comes and goes (not `on_land`). A season seen once stays as it is.
    """
    bands = q.shape[0]
    for j in range(first, last):
        if not cut_short[j]:
            for c in range(bands):
                whole[j, c] = mean[j, c]
            continue
        part = 1.0 / (begin[j + 1] - begin[j])
        for c in range(bands):
            s = 0.0
            for i in range(begin[j], begin[j + 1]):
                s += q[c, i]
            whole[j, c] = s * part
    for j in range(first, last):
        square, bounded = 0.0, 0.0
        for c in range(bands):
            square += whole[j, c] * whole[j, c]
            bounded += whole[j, c] * mean[j, c]
        if square <= lone * lone:
            continue
        length = np.sqrt(square)
        bounded /= length
        backed = -np.inf
        for k in range(first, last):
            apart = abs(when[j] - when[k])
            if apart < 0.5 * _YEAR or not season[0, apart]:
                continue
            s = 0.0
            for c in range(bands):
                s += whole[j, c] * whole[k, c]
            backed = max(backed, s / length)
        if backed == -np.inf:
            continue
        counts = min(max(backed, min(bounded, lone)), length)
        if counts < bounded or on_land:
            for c in range(bands):
                mean[j, c] = whole[j, c] * counts / length


@njit(nogil=True, cache=True, error_model="numpy")
def _beyond(first, last, ref_blocks, mean, when, bands, season, direction, along):
    """How far the other side's blocks lie beyond what the reference side showed in the same season of any year.

    Mean over the blocks first..last-1 of the excess over the range of the reference blocks within 35 days of the year,
    along `direction`, as a multiple of the mean width of that range. along (block): scratch.
    """
    for k in range(ref_blocks):
        s = 0.0
        for c in range(bands):
            s += mean[k, c] * direction[c]
        along[k] = s
    total, width, count = 0.0, 0.0, 0
    for j in range(first, last):
        low, high, seen = np.inf, -np.inf, 0
        for k in range(ref_blocks):
            if season[0, abs(when[j] - when[k])]:
                low, high = min(low, along[k]), max(high, along[k])
                seen += 1
        if seen < 2:
            continue
        s = 0.0
        for c in range(bands):
            s += mean[j, c] * direction[c]
        total += max(s - high, 0.0) - max(low - s, 0.0)
        width += high - low
        count += 1
    return total / max(width, 1e-9) if count > 0 else -1.0


@njit(nogil=True, cache=True, error_model="numpy")
def _separation(
    X, share, first, last, ref_blocks, per_block, mean, size, begin, A, L, beta, years, doubt, rule, D, V, F, direction
):
    """Normal score of the mean D of the other side's blocks first..last-1 against what nature does there.

    Covariance: scatter of the reference side's blocks; how well its model is known where the other side lies, up to `doubt`;
    and years that are early or late, strong or weak, wet or dry, which shift all their dates alike.
    Score: sqrt(2 D' V^-1 D) - sqrt(2 B - 1) (Fisher's approximation of chi-square).
    """
    bands = mean.shape[1]
    m = last - first
    for c in range(bands):
        D[c] = 0.0
    for j in range(first, last):
        for c in range(bands):
            D[c] += mean[j, c]
        for i in range(begin[j], begin[j + 1]):
            share[i] = _F(1.0 / (m * size[j]))
    a, b = begin[first], begin[last]
    for k in range(P):
        F[3, k] = dot(X[k, a:b], share[a:b])
    for c in range(bands):
        D[c] /= m
        F[0, c] = 0.0
        F[1, c] = 0.0
    for k in range(1, (P - 2) // 2 + 1):
        x, y, w = F[3, 2 * k - 1], F[3, 2 * k], k * _OMEGA
        for c in range(bands):
            a, b = beta[2 * k - 1, c], beta[2 * k, c]
            F[0, c] += rule.phase_sd_days * w * (b * x - a * y)
            F[1, c] += rule.amplitude_sd * (a * x + b * y)
    spread = 0.0
    for k in range(P):
        s = F[3, k]
        for i in range(k):
            s -= L[k, i] * F[3, i]
        F[3, k] = s * L[k, k]
        spread += F[3, k] * F[3, k]
    forgiven = rule.allowance * rule.allowance / max(1.0, years)
    wide = rule.scatter * ((1.0 + 9.0 / (m * m)) / m + 1.0 / ref_blocks + min(spread, doubt) * per_block)
    for a in range(bands):
        for b in range(a + 1):
            level = 0.0
            for k in range(1, P - 1):
                level += beta[k, a] * beta[k, b]
            s = F[0, a] * F[0, b] + F[1, a] * F[1, b] + 0.5 * rule.level_sd * rule.level_sd * level
            V[a, b] = wide * A[a, b] + forgiven * s
    factor(V, bands, V)
    total = 0.0
    for a in range(bands):
        s = D[a]
        for b in range(a):
            s -= V[a, b] * direction[b]
        direction[a] = s * V[a, a]
        total += direction[a] * direction[a]
    # direction = V^-1 D.
    for a in range(bands - 1, -1, -1):
        for b in range(a + 1, bands):
            direction[a] -= V[b, a] * direction[b]
        direction[a] *= V[a, a]
    return np.sqrt(2.0 * total) - np.sqrt(2.0 * bands - 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _judge(X, e, t, low, cut, high, ridge, doubt, rule, work, old, new, shift, direction):
    """(score, reference side is first); -1 where a rule of duration or number is not met.

    Leaves the reference side's model in old (or new, where it is the later side), the residuals against it in work's q, the
    mean difference in shift (after minus before) and V^-1 shift in direction.
    """
    M, L, q, mean, size, when, rms, begin, A, V, F, away, share, whole, cut_short, turned, season = work
    bands = e.shape[0]
    before, after = t[cut - 1] - t[low], t[high - 1] - t[cut]
    reference_first = cut - low >= high - cut
    if max(before, after) < rule.reference_days:
        return -1.0, reference_first
    if (before if reference_first else after) < rule.reference_days:
        reference_first = not reference_first
    beta = old if reference_first else new
    a, b = (low, cut) if reference_first else (cut, high)
    c, d = (cut, high) if reference_first else (low, cut)
    _model(X, e, a, b, ridge, M, L, beta)
    residuals(X, e, low, high, beta, q)
    away[low:high] = _F(0)
    for k in range(bands):
        _add_squares(away[low:high], q[k, low:high])
    # Noise here from the median of chi-square (Wilson and Hilferty 1931): B (1 - 2 / 9 B)^3.
    usual = bands * (1.0 - 2.0 / (9.0 * bands)) ** 3
    reach = rule.reach * np.sqrt(np.float64(_kth(away[a:b], (b - a) // 2)) / usual)
    nr = _blocks(q, t, away, a, b, t[low], reach, rule, mean, size, when, 0, begin, cut_short)
    if nr < 4:
        return -1.0, reference_first
    # Scatter of the reference blocks; a block far out (three times the usual) counts less.
    for j in range(nr):
        s = 0.0
        for k in range(bands):
            s += mean[j, k] * mean[j, k]
        size[j] = np.sqrt(s)
        share[j] = _F(size[j])
    usual = 3.0 * np.float64(_kth(share[:nr], nr // 2))
    total = 0.0
    for j in range(nr):
        w = 1.0 if size[j] <= usual else usual / size[j]
        total += w * w
        for k in range(bands):
            turned[k, j] = w * mean[j, k]
    for i in range(bands):
        for k in range(i + 1):
            A[i, k] = dot(turned[i, :nr], turned[k, :nr])
    # The harmonic fit has used up about half of its freedom along one direction. Shrunk towards half a noise unit squared.
    free = max(total - 4.0, 0.3 * total)
    for i in range(bands):
        for k in range(i + 1):
            A[i, k] = A[i, k] * total / free
            A[i, k] = (A[i, k] + (4.0 if i == k else 0.0)) / (total + 8.0)
    end = _blocks(q, t, away, c, d, t[low], reach, rule, mean, size, when, nr, begin, cut_short)
    if end - nr < rule.min_blocks:
        return -1.0, reference_first
    _back(q, nr, end, begin, cut_short, rule.lone_reach * reach / rule.reach, doubt < np.inf, season, when, whole, mean)
    years = (t[d - 1] - t[c]) / _YEAR
    per_block = (b - a) / nr
    best = _separation(
        X, share, nr, end, nr, per_block, mean, size, begin, A, L, beta, years, doubt, rule, shift, V, F, direction
    )
    if best >= rule.min_means and _beyond(nr, end, nr, mean, when, bands, season, direction, rms) < rule.margin:
        best = -1.0
    # A state that fades (regrowth) is judged by its first months as well.
    if reference_first:
        first, last = nr, nr
        while last < end and when[last] - t[c] <= rule.fresh_days:
            last += 1
    else:
        first, last = end, end
        while first > nr and t[d - 1] - when[first - 1] <= rule.fresh_days + rule.block_days:
            first -= 1
    if last - first >= rule.fresh_blocks and last - first < end - nr:
        D, W = F[2], F[4]
        fresh = _separation(X, share, first, last, nr, per_block, mean, size, begin, A, L, beta, 1.0, doubt, rule, D, V, F, W)
        fresh /= rule.fresh_factor
        if (
            fresh > best
            and fresh >= rule.min_means
            and _beyond(first, last, nr, mean, when, bands, season, W, rms) >= rule.margin
        ):
            best = fresh
            for k in range(bands):
                shift[k] = D[k]
                direction[k] = W[k]
    if not reference_first:
        for k in range(bands):
            shift[k] = -shift[k]
            direction[k] = -direction[k]
    return best, reference_first


@njit(nogil=True, cache=True, error_model="numpy")
def _all_dates(series, design, days, place, n, ridge, M, L, beta, y, X, t, z, scratch, floor):
    """What one season without slope leaves of the medians of three dates each, in units of its spread: z (B, n // 3), days t.

    series (B, n): all clear dates, floods and spikes as well; place: which of `days` and of the design they are. No slope, because a
    slope over all years takes up most of a step. Returns 1 / (4 x the median squared distance of two of them).
    """
    bands, m = series.shape[0], n // 3
    for k in range(m):
        j = place[3 * k + 1]
        t[k] = days[j] - days[0]
        for q in range(P):
            X[q, k] = design[q, j]
        for c in range(bands):
            u, v, w = series[c, 3 * k], series[c, 3 * k + 1], series[c, 3 * k + 2]
            y[c, k] = max(min(u, v), min(max(u, v), w))
    ridge[:] = 1e-3
    ridge[P - 1] = 1e9
    _model(X, y, 0, m, ridge, M, L, beta)
    residuals(X, y, 0, m, beta, z)
    for c in range(bands):
        _scaled(z[c, :m], z[c, :m], _F(1.0 / _robust_scale(z[c, :m], floor)))
    pairs = 0
    for part in range(1, 8):
        apart = part * m // 8
        for i in range(m - apart):
            s = _F(0)
            for c in range(bands):
                s += (z[c, i] - z[c, i + apart]) ** 2
            scratch[pairs] = s
            pairs += 1
    return 0.25 / max(np.float64(_kth(scratch[:pairs], pairs // 2)), 1e-6)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _added_square(total, x, a):
    for i in range(total.shape[0]):
        total[i] += (x[i] - a) ** 2


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _three_squares(total, x, y, z, a, b, c):
    """The same for three bands in one pass: these series are short."""
    for i in range(total.shape[0]):
        total[i] += (x[i] - a) ** 2 + (y[i] - b) ** 2 + (z[i] - c) ** 2


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _alike(apart, inverse, right):
    """Sum of the kernel (1 + apart / 4 median)^-4 of squared distances; each is added to `right` as well."""
    total = _F(0)
    for i in range(apart.shape[0]):
        u = _F(1) + apart[i] * inverse
        u *= u
        k = _F(1) / (u * u)
        total += k
        right[i] += k
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _parted(z, t, n, begin, day, end, inverse, apart, left, right):
    """How many medians more are told apart by a cut near `day` than by none, in the stretch of days begin..end (see `_all_dates`).

    Largest gain over cuts within 90 days, at least two medians from either end, of the cost n - sum of kernels / n (kernel change
    points: Harchaoui and Cappe 2007, doi:10.1109/SSP.2007.4301363). A median counts for one at most, however far it lies.
    """
    bands = z.shape[0]
    low, high = 0, n
    while low < n and t[low] < begin:
        low += 1
    while high > low and t[high - 1] > end:
        high -= 1
    if high - low < 4:
        return 0.0
    right[low:high] = _F(0)
    for i in range(low, high):
        apart[low:i] = _F(0)
        c = 0
        while c + 3 <= bands:
            _three_squares(apart[low:i], z[c, low:i], z[c + 1, low:i], z[c + 2, low:i], z[c, i], z[c + 1, i], z[c + 2, i])
            c += 3
        while c < bands:
            _added_square(apart[low:i], z[c, low:i], z[c, i])
            c += 1
        left[i] = _alike(apart[low:i], inverse, right[low:i])
    after = float(high - low)
    for i in range(low, high):
        after += 2.0 * right[i]
    whole = after / (high - low)
    before, best = 0.0, 0.0
    for i in range(low, high - 2):
        # The cut between i and i + 1.
        before += 1.0 + 2.0 * left[i]
        after -= 1.0 + 2.0 * right[i]
        if i + 1 - low >= 2 and abs(0.5 * (t[i] + t[i + 1]) - day) <= 90.0:
            best = max(best, before / (i + 1 - low) + after / (high - i - 1) - whole)
    return best


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)
def _misfit(p, t, start, width):
    """Least squares misfit of p by a level that rises from 0 to a free height between start and start + width."""
    hh, ph, pp = _F(0), _F(0), _F(0)
    inverse = _F(1.0 / max(width, 1e-3))
    begin = _F(start)
    for i in range(p.shape[0]):
        h = min(max((t[i] - begin) * inverse, _F(0)), _F(1))
        hh += h * h
        ph += p[i] * h
        pp += p[i] * p[i]
    return pp - ph * ph / max(hh, _F(1e-6))


@njit(nogil=True, cache=True, error_model="numpy")
def _pace(q, t, low, cut, high, bands, reference_first, direction, rule, p):
    """Whether the change went in one step or slowly: which of both fits the series along its own direction."""
    height, count = 0.0, 0
    first, last = low, high
    while t[cut] - t[first] > 900.0:
        first += 1
    while t[last - 1] - t[cut] > 900.0:
        last -= 1
    for i in range(first, last):
        s = 0.0
        for c in range(bands):
            s += q[c, i] * direction[c]
        p[i] = s
        if (i >= cut) == reference_first:
            height += s
            count += 1
    height /= max(count, 1)
    if not reference_first:
        # The reference is the new state: turn the series so that it rises.
        for i in range(first, last):
            p[i] -= _F(height)
    step = np.inf
    for k in range(max(first + 1, cut - 3), min(last - 1, cut + 4)):
        step = min(step, _misfit(p[first:last], t[first:last], t[k] - 1.0, 0.0))
    slow = np.inf
    for width in (120.0, 240.0, 480.0, 960.0):
        for centre in (-0.3, 0.0, 0.3):
            slow = min(slow, _misfit(p[first:last], t[first:last], t[cut] + centre * width - 0.5 * width, width))
    free = max(last - first - 4, 1)
    return _GRADUAL if step - slow > rule.gradual_gain * slow / free else _ABRUPT


@njit(nogil=True, cache=True, error_model="numpy")
def _distance(e, X, i, bands, beta):
    d = 0.0
    for c in range(bands):
        v = e[c, i]
        for k in range(P):
            v -= X[k, i] * beta[k, c]
        d += v * v
    return d


@njit(nogil=True, cache=True, error_model="numpy")
def _nearest_years(e, t, low, cut, high, first, last, season, reach, to_old, to_new):
    """Half the squared distance of observations first..last-1 from the most alike of either side in the same season of another year.

    The sides are low..cut-1 (to_old) and cut..high-1 (to_new). Half, because both carry noise; half a unit a band is added since
    the most alike of several is alike by chance. reach: days around the same day of the year that are looked through.
    """
    bands = e.shape[0]
    to_old[first:last] = np.inf
    to_new[first:last] = np.inf
    years = np.int64((t[high - 1] - t[low]) / _YEAR) + 1
    for year in range(-years, years + 1):
        if year == 0:
            continue
        start = low
        for i in range(first, last):
            middle = t[i] + year * _YEAR
            while start < high and t[start] < middle - reach:
                start += 1
            j = start
            while j < high and t[j] <= middle + reach:
                if season[1, np.int64(abs(t[i] - t[j]))]:
                    d = 0.0
                    for c in range(bands):
                        d += (e[c, i] - e[c, j]) ** 2
                    d = 0.5 * (d + bands)
                    if j < cut:
                        to_old[i] = min(to_old[i], _F(d))
                    else:
                        to_new[i] = min(to_new[i], _F(d))
                j += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _redate_alike(e, X, t, low, cut, high, bands, old, new, season, rule, to_old, to_new):
    """The cut near `cut` that parts best what is like the old state from what is like the new one; the later of equals.

    Like a state is what is near its model or near one of its observations in the same season of another year: a field that is
    bare after every harvest is not new when it is bare, and a flat under its yearly flood is not yet a lake.
    to_old, to_new (n): squared distances, written for the dates around the cut.
    """
    first, last = max(low + 3, cut - 20), min(high - 3, cut + 20)
    total, best, position = 0.0, -np.inf, cut
    _nearest_years(e, t, low, cut, high, first, last, season, rule.season_days + 1.0, to_old, to_new)
    for i in range(first, last):
        to_old[i] = min(_F(_distance(e, X, i, bands, old)), to_old[i])
        to_new[i] = min(_F(_distance(e, X, i, bands, new)), to_new[i])
    for i in range(first, last):
        total += max(min(to_new[i] - to_old[i] + rule.late, 30.0), -30.0)
        if total >= best:
            best, position = total, i + 1
    return position


@njit(nogil=True, cache=True, error_model="numpy")
def _redate(e, X, low, cut, high, bands, old, new, rule):
    """The cut near `cut` at which the two models part the observations best; single ones weigh at most 30 noise units squared."""
    first, last = max(low + 3, cut - 12), min(high - 3, cut + 12)
    total, best, position = 0.0, 0.0, first
    for i in range(first, last):
        d = _distance(e, X, i, bands, new) - _distance(e, X, i, bands, old)
        total += max(min(d, 30.0), -30.0)
        if total > best:
            best, position = total, i + 1
    return position


@njit(nogil=True, cache=True, error_model="numpy")
def _redate_short(q, low, cut, high, bands, reference_first, away):
    """The cut from which on (or up to which) observations are away from the reference side's model, whatever they are like.

    For a side too short for a season of its own: the cut that parts the squared distances from the model best.
    """
    cap = 25.0 * bands
    first, last = max(low + 3, cut - 20), min(high - 3, cut + 20)
    for i in range(low, high):
        s = 0.0
        for c in range(bands):
            s += q[c, i] * q[c, i]
        away[i] = min(s, cap)
    for _ in range(4):
        before, after = 0.0, 0.0
        for i in range(low, cut):
            before += away[i]
        for i in range(cut, high):
            after += away[i]
        middle = 0.5 * (before / (cut - low) + after / (high - cut))
        total, best, position = 0.0, -np.inf, cut
        for i in range(last - 1, first - 1, -1):
            total += away[i] - middle if reference_first else middle - away[i]
            if total > best:
                best, position = total, i
        if position == cut:
            break
        cut = position
    return cut


@njit(nogil=True, cache=True, error_model="numpy")
def _size(e, X, t, low, cut, high, bands, reference_first, beta, S, centre, rule, seen, said):
    """(change of the index, size, wet shares before and after): what the other side shows against what the model says.

    In units of the cube. Change: mean over the dates within a year of the cut, signed as after minus before. Size: root mean
    square over these dates and all bands, with the mean square of the reference side taken off, so that a new season counts as
    a new level.
    """
    total, count, square, ref_square, ref_count = 0.0, 0, 0.0, 0.0, 0
    wet, ref_wet = 0, 0
    limit = rule.water_index - 0.5 * rule.water_margin
    edge = t[cut] if reference_first else t[cut - 1]
    for i in range(low, high):
        is_reference = (i < cut) == reference_first
        if abs(t[i] - edge) > (_YEAR * 2 if is_reference else 366.0):
            continue
        for c in range(bands):
            p = 0.0
            for k in range(P):
                p += X[k, i] * beta[k, c]
            said[c] = p
        # Back from whitened to the cube's units: y = S e + centre, from the last row so that nothing is overwritten early.
        away = 0.0
        for a in range(bands - 1, -1, -1):
            ys, yp = centre[a], centre[a]
            for c in range(a + 1):
                ys += S[a, c] * e[c, i]
                yp += S[a, c] * said[c]
            seen[a], said[a] = ys, yp
            away += (ys - yp) ** 2
        water = False
        if rule.water_b >= 0:
            p, ys = seen[rule.water_a], seen[rule.water_b]
            water = p + ys > 0.0 and p - ys > limit * (p + ys)
        elif rule.water_b < -1:
            # A cube of one index, as in `_wetness`.
            water = (-2.0 * seen[0] if rule.water_b == -2 else seen[0]) > limit
        if is_reference:
            ref_square += away
            ref_count += 1
            ref_wet += water
            continue
        square += away
        count += 1
        wet += water
        if rule.index_a >= 0:
            ps, pp = seen[rule.index_a] + seen[rule.index_b], said[rule.index_a] + said[rule.index_b]
            if ps != 0.0 and pp != 0.0:
                total += (seen[rule.index_a] - seen[rule.index_b]) / ps - (said[rule.index_a] - said[rule.index_b]) / pp
        else:
            total += seen[0] - said[0]
    size = np.sqrt(max(square / max(count, 1) - ref_square / max(ref_count, 1), 0.0) / bands)
    own, ref = wet / max(count, 1), ref_wet / max(ref_count, 1)
    if reference_first:
        return total / max(count, 1), size, ref, own
    return -total / max(count, 1), size, own, ref


# One pixel ------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _pixel(y, t, design, place, X, n, bands, doubt, flood, floods, series, whole, rule, memory, out_days, out_values):
    """Breaks of one series y (B, n) at days t; returns how many. flood[:floods]: days of floods that were left out.

    design (8, time): of all dates; place: which of them the observations are. X (8, n): scratch for the design of this series.
    series: all clear dates as (values (B, time), all days, their places, their number); whole: work space for them.
    out_days: (k, 3) break date, last clear before, first clear after. out_values: (k, 3) signed change, score, pace.
    """
    e, d, keep, w, sd, inverse, S, SL, centre, ridge, search, judging, old, new, shift, direction, cuts, gains, p, near = memory
    for c in range(bands):
        centre[c] = _total(y[c, :n]) / n
        for i in range(n):
            y[c, i] -= _F(centre[c])
    _local_scale(y, t, n, d, w, p, near, sd, inverse, rule.noise_floor)
    m = _drop_spikes(y, n, bands, inverse, rule.spike, w, keep)
    if m < n:
        for q in range(m):
            i = keep[q]
            t[q] = t[i]
            place[q] = place[i]
            for c in range(bands):
                y[c, q] = y[c, i]
        n = m
        if n < 3 * rule.min_segment:
            return 0
        _local_scale(y, t, n, d, w, p, near, sd, inverse, rule.noise_floor)
    for k in range(P):
        own, of = X[k], design[k]
        for i in range(n):
            own[i] = of[place[i]]
    _noise_factor(d, n, bands, inverse, sd, rule.noise_floor, w, S, SL)
    for a in range(bands):
        own = e[a, :n]
        _scaled(own, y[a, :n], _F(1))
        for c in range(a):
            _added(own, e[c, :n], _F(-S[a, c]))
        _scaled(own, own, _F(SL[a, a]))
    # Prior of a segment in units of the noise: level 15, yearly 8, faster harmonics 4, slope 1/4 a year:
    # a free slope would explain a change away, and its own uncertainty would hide one where dates are few.
    ridge[0] = 1 / 15.0**2
    ridge[1] = ridge[2] = 1 / 8.0**2
    ridge[3] = ridge[4] = ridge[5] = ridge[6] = 1 / 4.0**2
    ridge[7] = 1 / 0.25**2

    # Binary segmentation, then each cut is judged again between its final neighbours.
    marks = np.empty(MAX_BREAKS + 2, np.int64)
    stack = np.empty((2 * MAX_BREAKS + 4, 2), np.int64)
    stack[0, 0], stack[0, 1] = 0, n
    waiting, found = 1, 0
    every, days, all_places, all_dates = series
    all_y, all_t, thinned, z, left, right, apart, flat = whole
    inverse_width = -1.0
    sure = rule.min_score / rule.weak_share
    while waiting > 0 and found < MAX_BREAKS:
        waiting -= 1
        low, high = stack[waiting, 0], stack[waiting, 1]
        if high - low < 3 * rule.min_segment or t[high - 1] - t[low] < rule.reference_days:
            continue
        count = _candidates(X, e, low, high, ridge, rule, search, cuts, gains)
        for k in range(count):
            cut = cuts[k]
            score, first = _judge(X, e, t, low, cut, high, ridge, doubt, rule, judging, old, new, shift, direction)
            if score < rule.min_means:
                continue
            if inverse_width < 0.0:
                beta = new if first else old
                inverse_width = _all_dates(
                    every,
                    design,
                    days,
                    all_places,
                    all_dates,
                    flat,
                    judging[0],
                    judging[1],
                    beta,
                    all_y,
                    thinned,
                    all_t,
                    z,
                    apart,
                    rule.noise_floor,
                )
            if score < sure:
                day = 0.5 * (t[cut - 1] + t[cut])
                parted = _parted(z, all_t, all_dates // 3, t[low], day, t[high - 1], inverse_width, apart, left, right)
                if score * rule.dates_weight * parted < rule.min_score * rule.min_score:
                    continue
            other_days = t[high - 1] - t[cut] if first else t[cut - 1] - t[low]
            if other_days < 1.1 * _YEAR:
                cut = _redate_short(judging[2], low, cut, high, bands, first, p)
            # The models of the two sides and the cut between them, until they agree.
            for _ in range(4 if other_days >= 1.1 * _YEAR else 0):
                _model(X, e, low, cut, ridge, judging[0], judging[1], old)
                _model(X, e, cut, high, ridge, judging[0], judging[1], new)
                moved = _redate(e, X, low, cut, high, bands, old, new, rule)
                if moved == cut:
                    break
                cut = moved
            marks[found] = cut
            stack[waiting, 0], stack[waiting, 1] = low, marks[found]
            stack[waiting + 1, 0], stack[waiting + 1, 1] = marks[found], high
            waiting += 2
            found += 1
            break
    if found == 0:
        return 0
    ordered = np.sort(marks[:found])
    q_all = judging[2]
    written = 0
    low = 0
    last_shift = np.zeros(bands)
    last_pace = 0
    for q in range(found):
        cut = ordered[q]
        high = ordered[q + 1] if q + 1 < found else n
        score, first = _judge(X, e, t, low, cut, high, ridge, doubt, rule, judging, old, new, shift, direction)
        if score < rule.min_means:
            continue
        beta = old if first else new
        change, size, wet_before, wet_after = _size(e, X, t, low, cut, high, bands, first, beta, S, centre, rule, sd, gains)
        day = 0.5 * (t[cut - 1] + t[cut])
        parted = _parted(z, all_t, all_dates // 3, t[low], day, t[high - 1], inverse_width, apart, left, right)
        score = np.sqrt(score * rule.dates_weight * parted)
        if rule.water_b >= 0 and min(wet_before, wet_after) > 0.75:
            score /= rule.water_factor
        elif wet_before - wet_after > 0.5:
            # Water gives way to land that floods come back to: years of high water.
            returns = 0
            for k in range(floods):
                returns += flood[k] > t[cut]
            if returns >= rule.flood_returns:
                score /= rule.water_factor
        if size < rule.min_shift or score < rule.min_score:
            continue
        pace = _pace(q_all, t, low, cut, high, bands, first, direction, rule, p)
        if pace == _GRADUAL and last_pace == _ABRUPT:
            # What follows a step slowly (regrowth, filling up) is part of that change.
            continue
        if pace == _GRADUAL and last_pace == _GRADUAL:
            same_way = 0.0
            for c in range(bands):
                same_way += shift[c] * last_shift[c]
            if same_way > 0:
                continue
        if first:
            _model(X, e, cut, high, ridge, judging[0], judging[1], new)
        else:
            _model(X, e, low, cut, ridge, judging[0], judging[1], old)
        cut = max(cut, _redate_alike(e, X, t, low, cut, high, bands, old, new, judging[-1], rule, p, near))
        # Decisive: nearer to one model by `decisive`, and within the noise of it (`fit` root mean square over the bands).
        close = rule.fit * rule.fit * bands
        last_old, first_new = low, high - 1
        for i in range(cut - 1, low - 1, -1):
            to_old, to_new = _distance(e, X, i, bands, old), _distance(e, X, i, bands, new)
            if to_old + rule.decisive < to_new and to_old <= close:
                last_old = i
                break
        for i in range(cut, high):
            to_old, to_new = _distance(e, X, i, bands, old), _distance(e, X, i, bands, new)
            if to_new + rule.decisive < to_old and to_new <= close:
                first_new = i
                break
        # The middle of the gap; of a long one nearer to the first view of the new state, which is what an alert can know.
        out_days[written, 0] = np.floor(max(0.5 * (t[cut - 1] + t[cut]), t[cut] - 25.0) + 0.5)
        out_days[written, 1] = t[last_old]
        out_days[written, 2] = t[first_new]
        out_values[written, 0] = change
        out_values[written, 1] = score
        out_values[written, 2] = pace
        written += 1
        low = cut
        last_pace = pace
        for c in range(bands):
            last_shift[c] = shift[c]
    return written


@njit(nogil=True, cache=True, error_model="numpy")
def _undecided(observed, times, row, col, clear):
    """Status of a pixel that was not seen often enough: the main reason."""
    cloud, failed, outside = 0, 0, 0
    for i in range(times):
        cloud += observed[i, row, col] == _CLOUD
        failed += observed[i, row, col] == _FAILED
        outside += observed[i, row, col] == _OUTSIDE
    missing = times - clear - cloud - failed - outside
    if outside == times:
        return _S_OUTSIDE
    if failed > 0 and failed >= cloud and failed >= missing:
        return _S_FAILED
    if cloud > 0 and cloud >= missing:
        return _S_CLOUD
    if missing > 0 and clear == 0:
        return _S_NOT_OBSERVED
    return _TOO_FEW


@njit(nogil=True, cache=True, error_model="numpy")
def _workspace(times, bands, season):
    blocks = times + 2
    # Whole vector registers.
    wide = (P + bands + 15) // 16 * 16
    search = (
        np.empty((P, P)),
        np.empty((P, P)),
        np.empty((P, P)),
        np.empty((P, times), np.float32),
        np.empty((P, bands)),
        np.empty((bands, times), np.float32),
        np.zeros((times, wide), np.float32),
        np.empty((3, wide), np.float32),
        np.empty((6, times // 2 + 2)),
        np.empty(times // 2 + 2),
        np.empty(12),
        np.empty((3, P + bands, times // 2 + 2), np.float32),
        np.empty((6, times // 2 + 2)),
        np.empty((3, P + bands, 12), np.float32),
        np.empty((6, 12)),
    )
    judging = (
        np.empty((P, P)),
        np.empty((P, P)),
        np.empty((bands, times), np.float32),
        np.empty((blocks, bands)),
        np.empty(blocks),
        np.empty(blocks, np.int64),
        np.empty(blocks),
        np.empty(blocks, np.int64),
        np.empty((bands, bands)),
        np.empty((bands, bands)),
        np.empty((5, max(bands, P))),
        np.empty(times, np.float32),
        np.empty(times, np.float32),
        np.empty((blocks, bands)),
        np.empty(blocks, np.bool_),
        np.empty((bands, blocks)),
        season,
    )
    return (
        np.empty((bands, times), np.float32),
        np.empty((bands, times), np.float32),
        np.empty(times, np.int64),
        np.empty(times, np.float32),
        np.empty(bands),
        np.empty(bands, np.float32),
        np.empty((bands, bands)),
        np.empty((bands, bands)),
        np.empty(bands),
        np.empty(P),
        search,
        judging,
        np.empty((P, bands)),
        np.empty((P, bands)),
        np.empty(bands),
        np.empty(bands),
        np.empty(3, np.int64),
        np.empty(max(bands, 3)),
        np.empty(times, np.float32),
        np.empty(times, np.float32),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def detect_rows(values, scale, offset, observed, days, X, rule, row_first, row_last, out_days, out_values, counts, status):
    """Breaks of the pixels of rows row_first..row_last-1.

    values: (time, band, y, x) int16 or float32, value = stored * scale + offset, used where `observed` (time, y, x) is CLEAR
    and every band is finite. X: (8, time) float32.
    out_days: (k, 3, y, x) int32; out_values: (k, 3, y, x) float32; counts (y, x) int16; status (y, x) uint8: written.
    """
    times, bands, _, cols = values.shape
    tile = 32
    block, when = np.empty((tile, bands, times), np.float32), np.empty((tile, times), np.int64)
    seen, line, good = np.empty(tile, np.int64), np.empty(tile, np.float32), np.empty(tile, np.bool_)
    t, Xs, wet = np.empty(times, np.float32), np.empty((P, times), np.float32), np.empty(times, np.float32)
    season = _seasons(days[-1] - days[0], rule.season_days)
    memory = _workspace(times, bands, season)
    keep, state, spell = np.empty(times, np.int64), np.empty(times, np.int8), np.empty(times, np.int8)
    flood = np.empty(times, np.float32)
    all_y, all_places, thirds = np.empty((bands, times), np.float32), np.empty(times, np.int64), times // 3 + 1
    whole = (
        np.empty((bands, thirds), np.float32),
        np.empty(thirds, np.float32),
        np.empty((P, thirds), np.float32),
        np.empty((bands, thirds), np.float32),
        np.empty(thirds, np.float32),
        np.empty(thirds, np.float32),
        np.empty(7 * thirds, np.float32),
        np.empty(P),
    )
    pixel_days, pixel_values = np.empty((MAX_BREAKS, 3)), np.empty((MAX_BREAKS, 3))
    origin = days[0]
    for row in range(row_first, row_last):
        for start in range(0, cols, tile):
            width = min(tile, cols - start)
            # Turned round, and closed up over the dates that are not clear: each value goes where the next clear one of its pixel
            # belongs, and that place is left only when all bands are there.
            seen[:] = 0
            for i in range(times):
                clear = 0
                for k in range(width):
                    good[k] = observed[i, row, start + k] == _CLEAR
                    clear += good[k]
                if clear == 0:
                    continue
                for c in range(bands):
                    for k in range(width):
                        line[k] = _F(values[i, c, row, start + k] * scale + offset)
                        good[k] &= np.isfinite(line[k])
                    for k in range(width):
                        block[k, c, seen[k]] = line[k]
                for k in range(width):
                    when[k, seen[k]] = i
                    seen[k] += good[k]
            for k in range(width):
                col, y, place, n = start + k, block[k], when[k], seen[k]
                counts[row, col] = n
                if n < rule.min_observations or days[place[n - 1]] - days[place[0]] < rule.min_span_days:
                    status[row, col] = _undecided(observed, times, row, col, n)
                    continue
                for i in range(n):
                    t[i] = days[place[i]] - origin
                    all_places[i] = place[i]
                for c in range(bands):
                    all_y[c, :n] = y[c, :n]
                all_dates = n
                # Where water comes and goes, what is left of the year is no firm ground for a model: its doubt counts in full.
                doubt, floods = rule.model_doubt, 0
                missed, run, enough = 0, n, True
                first, middle, before, after, change, span = 0, 0.0, _F(0), _F(0), 0.0, 0.0
                # Without a date of water there is nothing to leave out.
                if rule.water_a >= 0 and _wetness(y, n, rule, wet) > 0:
                    # NDVI alone does not tell a lasting flood from soil that stays bare.
                    if rule.water_b != -2:
                        run, first, span, missed = _season_missed(wet, t, n, state, rule)
                    if missed > 0:
                        change, size = _season_change(y, t, n, run, first, bands, season, rule, memory[4], memory[8])
                        # It came with a flood or in it: nearer to the first view that no flood explains, a flood season at most.
                        middle = max(0.5 * (t[run - 1] + t[run]), min(t[first] - 25.0, t[run] + 120.0))
                        before, after = t[run - 1], t[first]
                        if size < rule.min_shift:
                            missed = 0
                        else:
                            n = run
                            all_dates = run
                    m = _keep_one_medium(wet, t, n, keep, state, spell, rule)
                    enough = m >= rule.min_observations and t[keep[m - 1]] - t[keep[0]] >= rule.min_span_days
                    if not enough and missed == 0:
                        status[row, col] = _TOO_FEW
                        continue
                    if m < n:
                        doubt = np.inf
                        floods = _floods_left_out(wet, t, n, keep, m, rule, flood)
                        for i in range(m):
                            place[i] = place[keep[i]]
                            t[i] = t[keep[i]]
                            for c in range(bands):
                                y[c, i] = y[c, keep[i]]
                        n = m
                found = 0
                if enough:
                    series = (all_y, days, all_places, all_dates)
                    found = _pixel(
                        y, t, X, place, Xs, n, bands, doubt, flood, floods, series, whole, rule, memory, pixel_days, pixel_values
                    )
                if missed > 0 and found < MAX_BREAKS:
                    pixel_days[found, 0], pixel_days[found, 1], pixel_days[found, 2] = np.floor(middle + 0.5), before, after
                    pixel_values[found, 0], pixel_values[found, 1], pixel_values[found, 2] = (
                        change,
                        min(0.1 * span, 20.0),
                        _ABRUPT,
                    )
                    found += 1
                status[row, col] = _CHANGE if found > 0 else _NO_CHANGE
                for q in range(found):
                    for c in range(3):
                        out_days[q, c, row, col] = np.int32(pixel_days[q, c]) + origin
                        out_values[q, c, row, col] = pixel_values[q, c]
