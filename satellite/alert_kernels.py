"""Compiled loops of sequential monitoring: a pixel's history in, its model out; one new look in, its evidence out.

Called by `alerts` only. All kernels stand in this one file because numba's disk cache notices a change of the file of a
function, not of a function it calls elsewhere. Pixels are independent; sums may be reordered by the compiler, always in
the same way on one machine. Symbols as in docs/methods/satellite_alerts.md: y values (B), x design (Q), beta (Q, B),
r = y - beta' x, T (B, B) with T S T' = 1 and T A T' = diag(v), z = T r, c2 = variance of a season's deviation in z.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from satellite.types import Observed

Q = 7
"""Parameters of a monitored season: level and three harmonics."""
_FIT = Q + 1
_MATH = {"contract", "reassoc"}
_F = np.float32
_CLEAR = int(Observed.CLEAR)
NO_DAY = -32768
"""int16 value of a day that there is none of."""

# State of a pixel; `alerts.AlertState` names them for people.
LEARNING, QUIET, PROVISIONAL, CONFIRMED, WITHDRAWN = 0, 1, 2, 3, 4
# Integer record of a pixel, (y, x, RECORD) int16.
STATE, FIRST, LAST_OLD, PROVISIONAL_DAY, CONFIRMED_DAY, WITHDRAWN_DAY = 0, 1, 2, 3, 4, 5
HELD, TAKEN_DAY, SPELL, SPELL_GAP, MEDIUM, LEARNT, WITHDRAWALS, SKIPPED = 6, 7, 8, 9, 10, 11, 12, 13
LONGEST, SPELL_OLD = 14, 15
RECORD = 16
LAND, WATER = 0, 1
SEASON_BINS = 32


class Settings(NamedTuple):
    """`alerts.AlertConfig` as numbers; band positions are -1 where there is no such band."""

    min_observations: int
    min_span_days: float
    noise_floor: float
    quantum: float
    block_days: float
    season_days: float
    phase_sd_days: float
    amplitude_sd: float
    level_sd: float
    anomaly_looks: float
    cap: float
    low: float
    high: float
    back: float
    provisional_looks: int
    confirm_looks: int
    confirm_days: float
    support_share: float
    memory_looks: float
    season_gap_days: float
    water_index: float
    water_margin: float
    water_run_days: float
    water_year_days: float
    water_watch_days: float
    water_share: float
    water_a: int
    water_b: int
    index_a: int
    index_b: int


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
def _cholesky(M, size):
    """Lower factor of the leading (size, size) of M, in place; what lies above the diagonal is left."""
    for i in range(size):
        for j in range(i):
            s = M[i, j]
            for k in range(j):
                s -= M[i, k] * M[j, k]
            M[i, j] = s / M[j, j]
        s = M[i, i]
        for k in range(i):
            s -= M[i, k] * M[i, k]
        M[i, i] = np.sqrt(max(s, 1e-18))


@njit(nogil=True, cache=True)
def _jacobi(A, V, size):
    """Eigenvalues on the diagonal of A, eigenvectors in the columns of V (cyclic Jacobi: Golub and Van Loan 2013, 8.5)."""
    for i in range(size):
        for j in range(size):
            V[i, j] = 1.0 if i == j else 0.0
    for _ in range(12):
        off = 0.0
        for i in range(size):
            for j in range(i):
                off += A[i, j] * A[i, j]
        if off < 1e-18:
            break
        for p in range(size - 1):
            for q in range(p + 1, size):
                if abs(A[p, q]) < 1e-30:
                    continue
                theta = (A[q, q] - A[p, p]) / (2.0 * A[p, q])
                t = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1.0))
                if theta < 0:
                    t = -t
                c = 1.0 / np.sqrt(t * t + 1.0)
                s = t * c
                for k in range(size):
                    a, b = A[k, p], A[k, q]
                    A[k, p], A[k, q] = c * a - s * b, s * a + c * b
                for k in range(size):
                    a, b = A[p, k], A[q, k]
                    A[p, k], A[q, k] = c * a - s * b, s * a + c * b
                for k in range(size):
                    a, b = V[k, p], V[k, q]
                    V[k, p], V[k, q] = c * a - s * b, s * a + c * b


@njit(nogil=True, cache=True)
def _wetness(y, settings):
    """(M)NDWI of one look."""
    a, b = y[settings.water_a], y[settings.water_b]
    return (a - b) / (a + b) if a + b != 0 else 0.0


@njit(nogil=True, cache=True)
def _away(y, said, medium, dry, settings):
    """How far a look shows the other medium, water on land or land on water: 0 not, 1 mixed with it, 2 all.

    said: what the season says of the look. dry: no wet look is near, so that a mixture on land must be clearly darker in the
    wet band. What is mixed with water is wetter and darker there (concrete is not darker), and the reverse.
    """
    q, b, usual = _wetness(y, settings), y[settings.water_b], said[settings.water_b]
    if medium == WATER:
        if q < settings.water_index:
            return 2
        return 1 if q < _wetness(said, settings) - settings.water_margin and b > 1.2 * usual else 0
    if q > settings.water_index:
        return 2
    return 1 if q > settings.water_index - settings.water_margin and b < (0.85 if dry else 1.0) * usual else 0


# History --------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _fit(y, t, X, n, bands, origin, w, M, beta, r):
    """Weighted ridge fit of level, harmonics and slope, beta (8, B); residuals r (n, B). Level and slope meet at `origin`."""
    total = 0.0
    M[:] = 0.0
    beta[:] = 0.0
    x = np.empty(_FIT)
    for i in range(n):
        for k in range(Q):
            x[k] = X[i, k]
        x[Q] = (t[i] - origin) / 365.2425
        total += w[i]
        for k in range(_FIT):
            for j in range(k + 1):
                M[k, j] += w[i] * x[k] * x[j]
            for c in range(bands):
                beta[k, c] += w[i] * x[k] * y[i, c]
    # Prior strength as a number of looks: harmonics and slope of short or gappy histories stay near zero.
    for k in range(1, _FIT):
        M[k, k] += 0.5 if k < 3 else 1.0 if k < Q else 0.02 * total + 1.0
    M[0, 0] += 1e-6 * total
    _cholesky(M, _FIT)
    for c in range(bands):
        for i in range(_FIT):
            s = beta[i, c]
            for k in range(i):
                s -= M[i, k] * beta[k, c]
            beta[i, c] = s / M[i, i]
        for i in range(_FIT - 1, -1, -1):
            s = beta[i, c]
            for k in range(i + 1, _FIT):
                s -= M[k, i] * beta[k, c]
            beta[i, c] = s / M[i, i]
    for i in range(n):
        slope = (t[i] - origin) / 365.2425
        for c in range(bands):
            s = y[i, c] - slope * beta[Q, c]
            for k in range(Q):
                s -= X[i, k] * beta[k, c]
            r[i, c] = s


@njit(nogil=True, cache=True)
def _learn(y, t, X, n, bands, other, share, settings, table, slopes, model):
    """Season, noise and season-to-season scatter of one series y (n, B); fills `model`. other, share: mean of the looks of the
    other medium, and how much of it is ordinary (0: there were none)."""
    w, r, M = np.ones(n), np.empty((n, bands)), np.empty((_FIT, _FIT))
    beta, sd, scratch = np.empty((_FIT, bands)), np.empty(bands), np.empty(n)
    mean = np.zeros(bands)
    for c in range(bands):
        for i in range(n):
            mean[c] += y[i, c]
        mean[c] /= n
        for i in range(n):
            y[i, c] -= mean[c]
    origin = t[n - 1]
    for turn in range(5):
        _fit(y, t, X, n, bands, origin, w, M, beta, r)
        if turn == 4:
            break
        for c in range(bands):
            for i in range(n):
                scratch[i] = abs(r[i, c])
            sd[c] = max(1.4826 * _select(scratch, n, n // 2), settings.noise_floor)
        # One weight a date: Huber 1964 at 1.5, beyond 4 nothing (a cloud that nobody masked).
        for i in range(n):
            s = 0.0
            for c in range(bands):
                s += (r[i, c] / sd[c]) ** 2
            s = np.sqrt(s / bands)
            w[i] = 1.0 if s <= 1.5 else 1.5 / s if s <= 4.0 else 0.01
    # S: short-term noise, from differences of residuals of looks at most 40 days apart.
    S = np.zeros((bands, bands))
    count = 0.0
    for i in range(1, n):
        if t[i] - t[i - 1] > 40.0:
            continue
        pair = w[i] * w[i - 1]
        count += pair
        for a in range(bands):
            da = r[i, a] - r[i - 1, a]
            for b in range(a + 1):
                S[a, b] += 0.5 * pair * da * (r[i, b] - r[i - 1, b])
    for a in range(bands):
        prior = sd[a] * sd[a]
        for b in range(a + 1):
            S[a, b] = S[a, b] / (count + 4.0)
        S[a, a] = 1.05 * (S[a, a] + 4.0 * prior / (count + 4.0)) + settings.noise_floor**2
        scratch[a] = S[a, a]
    _cholesky(S, bands)
    # e = L^-1 r, kept in r.
    for i in range(n):
        for a in range(bands):
            s = r[i, a]
            for k in range(a):
                s -= S[a, k] * r[i, k]
            r[i, a] = s / S[a, a]
    # A: scatter of the blocks' means in whitened units, with what noise alone leaves taken off.
    A, V = np.zeros((bands, bands)), np.empty((bands, bands))
    m = np.zeros(bands)
    blocks, noise = 0.0, 0.0
    # Without a water index floods stay in the history. What departs in a tenth of the looks and more is no stray cloud: it counts.
    strays = 0
    for i in range(n):
        strays += w[i] < 0.1
    if settings.water_a < 0 and strays >= 0.1 * n:
        w[:] = 1.0
    i = 0
    while i < n:
        weight, weight2 = 0.0, 0.0
        m[:] = 0.0
        j = i
        while j < n and t[j] - t[i] < settings.block_days:
            weight += w[j]
            weight2 += w[j] * w[j]
            for a in range(bands):
                m[a] += w[j] * r[j, a]
            j += 1
        if weight > 0.3:
            part = min(weight, 1.0)
            blocks += part
            noise += part * weight2 / (weight * weight)
            for a in range(bands):
                for b in range(a + 1):
                    A[a, b] += part * m[a] * m[b] / (weight * weight)
        i = j
    # The fit has taken its share of the scatter, and will miss by as much when it predicts; one season counts once.
    lost = min(0.6, _FIT / max(min(blocks, (t[n - 1] - t[0]) / settings.season_days), 1.0))
    factor = (1.0 + lost) / (1.0 - lost)
    # Prior: ordinary early, late, strong and weak seasons.
    steps = 24
    said, moved = np.empty(bands), np.empty(bands)
    prior = np.zeros((bands, bands))
    for g in range(steps):
        day = (g * table.shape[0]) // steps if table.shape[0] < 365 else g * 15
        for c in range(bands):
            p, q = 0.0, 0.0
            for k in range(1, Q):
                p += table[day, k] * beta[k, c]
                q += slopes[day, k] * beta[k, c]
            said[c], moved[c] = p, q
        for a in range(bands):
            p, q = said[a], moved[a]
            for k in range(a):
                p -= S[a, k] * said[k]
                q -= S[a, k] * moved[k]
            said[a], moved[a] = p / S[a, a], q / S[a, a]
        for a in range(bands):
            for b in range(a + 1):
                prior[a, b] += settings.phase_sd_days**2 * moved[a] * moved[b] / steps
                prior[a, b] += settings.amplitude_sd**2 * said[a] * said[b] / steps
    # Where water has been, more or less of it in a pixel is no news.
    for a in range(bands):
        p = other[a] - mean[a] - beta[0, a] if share > 0.0 else 0.0
        for k in range(a):
            p -= S[a, k] * said[k]
        said[a] = p / S[a, a]
    for a in range(bands):
        prior[a, a] += settings.level_sd**2
        for b in range(a + 1):
            s = factor * (A[a, b] - (noise if a == b else 0.0))
            A[a, b] = (s + settings.anomaly_looks * prior[a, b]) / (blocks + settings.anomaly_looks)
            A[a, b] += share * share * said[a] * said[b]
            A[b, a] = A[a, b]
    _jacobi(A, V, bands)
    # T = V' L^-1: rows of the inverse factor, turned.
    inverse = np.zeros((bands, bands))
    for j in range(bands):
        inverse[j, j] = 1.0 / S[j, j]
        for i in range(j + 1, bands):
            s = 0.0
            for k in range(j, i):
                s -= S[i, k] * inverse[k, j]
            inverse[i, j] = s / S[i, i]
    square = bands * bands
    for a in range(bands):
        for b in range(bands):
            s = 0.0
            for k in range(bands):
                s += V[k, a] * inverse[k, b]
            model[a * bands + b] = s
        model[square + Q * bands + a] = max(A[a, a], settings.level_sd**2)
    for k in range(Q):
        for c in range(bands):
            model[square + k * bands + c] = beta[k, c] + (mean[c] if k == 0 else 0.0)


@njit(nogil=True, cache=True)
def learn_rows(values, scale, offset, observed, days, since, table, slopes, settings, row_first, row_last, model, record, season):
    """Models of the pixels of rows row_first..row_last-1 from their looks on and after `since`.

    values: (time, band, y, x); observed: (time, y, x); days: (time,) int64 since the origin of the state; since: (y, x) int64.
    table, slopes: (day, Q) design and its derivative a day. model: (y, x, B*B + Q*B + B) float32, record: (y, x, RECORD) int16,
    season: (y, x) uint32: written.
    """
    times, bands, _, cols = values.shape
    y, t, X = np.empty((times, bands)), np.empty(times), np.empty((times, Q))
    wet, stay, other = np.empty(times, np.bool_), np.empty(times, np.bool_), np.empty(bands)
    for row in range(row_first, row_last):
        for col in range(cols):
            n, waters, wets = 0, 0, 0
            for i in range(times):
                if observed[i, row, col] != _CLEAR or days[i] < since[row, col]:
                    continue
                good = True
                for c in range(bands):
                    y[n, c] = values[i, c, row, col] * scale + offset
                    good = good and np.isfinite(y[n, c])
                if good:
                    t[n] = days[i]
                    if settings.water_a >= 0:
                        wet[n] = _wetness(y[n], settings) > settings.water_index
                        waters += wet[n]
                    n += 1
            medium = WATER if 2 * waters > n else LAND
            record[row, col, MEDIUM] = medium
            if settings.water_a >= 0 and n > 0:
                # Looks of the other medium leave, with the mixed ones beside them; their spells are remembered.
                kept, wets, longest = 0, 0, 0.0
                began = -1.0
                other[:] = 0.0
                for i in range(n):
                    turned = wet[i] != (medium == WATER)
                    if turned:
                        wets += 1
                        for c in range(bands):
                            other[c] += y[i, c]
                        began = t[i] if began < 0 else began
                        longest = max(longest, t[i] - began)
                    else:
                        began = -1.0
                    beside = (i > 0 and wet[i - 1] != (medium == WATER)) or (i + 1 < n and wet[i + 1] != (medium == WATER))
                    mixed = medium == LAND and beside and _wetness(y[i], settings) > settings.water_index - settings.water_margin
                    stay[i] = not (turned or mixed)
                for i in range(n):
                    if stay[i]:
                        t[kept] = t[i]
                        for c in range(bands):
                            y[kept, c] = y[i, c]
                        kept += 1
                n = kept
                record[row, col, LONGEST] = int(longest)
                if wets > 0:
                    for c in range(bands):
                        other[c] /= wets
            record[row, col, LEARNT] = min(n, 32767)
            if n < settings.min_observations or t[n - 1] - t[0] < settings.min_span_days:
                record[row, col, STATE] = LEARNING
                continue
            bits = np.uint32(0)
            for i in range(n):
                for k in range(Q):
                    X[i, k] = table[int(t[i]), k]
            for b in range(SEASON_BINS):
                middle_of_bin = (b + 0.5) * 365.2425 / SEASON_BINS
                for i in range(n):
                    apart = abs((t[i] % 365.2425) - middle_of_bin)
                    if min(apart, 365.2425 - apart) <= settings.season_gap_days:
                        bits |= np.uint32(1) << np.uint32(b)
                        break
            season[row, col] = bits
            record[row, col, STATE] = QUIET
            record[row, col, TAKEN_DAY] = np.int16(t[n - 1])
            _learn(y, t, X, n, bands, other, settings.water_share if wets > 0 else 0.0, settings, table, slopes, model[row, col])


# One look -------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, fastmath=_MATH)
def _to_noise_units(window, i, bands, m, x, slope, settings, z, c2):
    """z and c2 of look i of the window: residual in noise units, and the variance of ordinary seasons there."""
    square = bands * bands
    season, moved = np.empty(bands, np.float32), np.empty(bands, np.float32)
    for c in range(bands):
        p, q = _F(0), _F(0)
        for k in range(1, Q):
            b = m[square + k * bands + c]
            p += x[k] * b
            q += slope[k] * b
        season[c], moved[c] = p, q
    quantum = _F(settings.quantum)
    total = _F(0)
    for a in range(bands):
        s, p, q = _F(0), _F(0), _F(0)
        for b in range(bands):
            u = m[a * bands + b]
            s += u * window[i, 1 + b]
            p += u * season[b]
            q += u * moved[b]
        s *= quantum
        v = m[square + Q * bands + a]
        v += (_F(settings.phase_sd_days) * q) ** 2 + (_F(settings.amplitude_sd) * p) ** 2
        z[i, a] = s
        c2[i, a] = v
        total += s * s / (_F(1) + v)
    return total


@njit(nogil=True, cache=True, fastmath=_MATH)
def _scan(z, c2, gaps, n, bands, decay, least, a, b, best_a, best_b):
    """Largest evidence for one lasting shift over the last j looks, j >= least; returns (evidence, j).

    Runs from the newest look backwards: the deviation of seasons is a stationary process, the same in both directions.
    """
    mz, m1, P = np.zeros(bands, np.float32), np.zeros(bands, np.float32), np.ones(bands, np.float32)
    a[:] = 0.0
    b[:] = 0.0
    best, length = _F(-1), 0
    for back in range(n):
        i = n - 1 - back
        if back > 0:
            f = decay[min(gaps[i], decay.size - 1)]
            f2 = f * f
        else:
            f, f2 = _F(0), _F(0)
        total = _F(0)
        for k in range(bands):
            mz[k] *= f
            m1[k] *= f
            P[k] = f2 * P[k] + _F(1) - f2
            v = c2[i, k]
            c = np.sqrt(v)
            F = _F(1) / (v * P[k] + _F(1))
            ez, e1 = z[i, k] - c * mz[k], _F(1) - c * m1[k]
            a[k] += e1 * ez * F
            b[k] += e1 * e1 * F
            g = c * P[k] * F
            mz[k] += g * ez
            m1[k] += g * e1
            P[k] *= F
            total += a[k] * a[k] / (b[k] + _F(0.02))
        if back + 1 >= least and total > best:
            best, length = total, back + 1
            for k in range(bands):
                best_a[k], best_b[k] = a[k], b[k]
    return best, length


@njit(nogil=True, cache=True)
def _normal_score(evidence, bands):
    """Standard normal value of a chi-squared one with `bands` degrees of freedom (Wilson and Hilferty 1931)."""
    if evidence <= 0:
        return -10.0
    spread = 2.0 / (9.0 * bands)
    return ((evidence / bands) ** (1.0 / 3.0) - (1.0 - spread)) / np.sqrt(spread)


@njit(nogil=True, cache=True)
def _accept(window, bands, m, x, weight):
    """The oldest look of the window moves the model by its residual, slowly."""
    square = bands * bands
    for k in range(Q):
        gain = weight * x[k] * (_F(1) if k == 0 else _F(2))
        for c in range(bands):
            m[square + k * bands + c] += gain * window[0, 1 + c]


@njit(nogil=True, cache=True)
def _shift_of(m, bands, s):
    """T^-1 s: the shift in units of the cube, in place (Gaussian elimination with row exchange)."""
    M = np.empty((bands, bands))
    for a in range(bands):
        for b in range(bands):
            M[a, b] = m[a * bands + b]
    for p in range(bands):
        best = p
        for a in range(p + 1, bands):
            if abs(M[a, p]) > abs(M[best, p]):
                best = a
        for b in range(bands):
            M[p, b], M[best, b] = M[best, b], M[p, b]
        s[p], s[best] = s[best], s[p]
        for a in range(p + 1, bands):
            f = M[a, p] / M[p, p]
            for b in range(p, bands):
                M[a, b] -= f * M[p, b]
            s[a] -= f * s[p]
    for p in range(bands - 1, -1, -1):
        for b in range(p + 1, bands):
            s[p] -= M[p, b] * s[b]
        s[p] /= M[p, p]


@njit(nogil=True, cache=True)
def _magnitude(m, bands, x, s, settings):
    """Change of the index (or of the first band) that the shift s (units of the cube) makes at design x."""
    square = bands * bands
    if settings.index_a < 0:
        return s[0]
    u, v = 0.0, 0.0
    for k in range(Q):
        u += x[k] * m[square + k * bands + settings.index_a]
        v += x[k] * m[square + k * bands + settings.index_b]
    p, q = u + s[settings.index_a], v + s[settings.index_b]
    if u + v == 0 or p + q == 0:
        return np.nan
    return (p - q) / (p + q) - (u - v) / (u + v)


@njit(nogil=True, cache=True)
def look_rows(
    values,
    scale,
    offset,
    observed,
    day,
    newest,
    table,
    slopes,
    decay,
    settings,
    row_first,
    row_last,
    model,
    window,
    record,
    season,
    size,
    moved,
):
    """One date's looks of rows row_first..row_last-1 into models, windows and records.

    values: (band, y, x); observed: (y, x); day, newest: of the date and of the newest date, days since the origin.
    window: (y, x, W, 1 + B) int16, day and residual of the looks not yet in the model, in order of time. size: (y, x, 2)
    float32 magnitude and score of the alert. moved: (y, x) uint8, new state where it changed, else 255.
    """
    bands, _, cols = values.shape
    depth = window.shape[2]
    square = bands * bands
    y, said, past, seen = np.empty(bands), np.empty(bands), np.empty(bands), np.empty(bands)
    z, c2 = np.empty((depth, bands), np.float32), np.empty((depth, bands), np.float32)
    a, b = np.empty(bands, np.float32), np.empty(bands, np.float32)
    best_a, best_b, s = np.empty(bands, np.float32), np.empty(bands, np.float32), np.empty(bands)
    gaps, distance, middle = np.empty(depth, np.int64), np.empty(depth, np.float32), np.empty(depth)
    bin_of = min(int((day % 365.2425) * SEASON_BINS / 365.2425), SEASON_BINS - 1)
    x = table[day]
    for row in range(row_first, row_last):
        for col in range(cols):
            moved[row, col] = 255
            one = record[row, col]
            if observed[row, col] != _CLEAR or one[STATE] == LEARNING or one[STATE] == CONFIRMED:
                continue
            good = True
            for c in range(bands):
                y[c] = values[c, row, col] * scale + offset
                good = good and np.isfinite(y[c])
            if not good or day <= one[TAKEN_DAY]:
                continue
            m, look = model[row, col], window[row, col]
            held = int(one[HELD])
            place = held
            while place > 0 and look[place - 1, 0] > day:
                place -= 1
            if place > 0 and look[place - 1, 0] == day:
                continue
            for c in range(bands):
                said[c] = 0.0
            for k in range(Q):
                f = x[k]
                for c in range(bands):
                    said[c] += f * m[square + k * bands + c]
            away = 0
            if settings.water_a >= 0:
                spell = one[SPELL] != NO_DAY
                away = _away(y, said, one[MEDIUM], not spell, settings)
                if away == 1 and one[MEDIUM] == LAND and not spell and one[LONGEST] > 0:
                    away = 0  # where water has been, more or less of it is in the scatter that was learnt
            if away > 0:
                if one[SPELL] == NO_DAY or day < one[SPELL]:
                    one[SPELL] = day
                    one[SPELL_OLD] = look[place - 1, 0] if place > 0 else one[TAKEN_DAY]
                one[SPELL_GAP] = 0
                watched = max(settings.water_watch_days, 1.25 * one[LONGEST] + 30.0)
                if day - one[SPELL] <= min(watched, settings.water_run_days):
                    one[SKIPPED] = min(one[SKIPPED] + 1, 32767)
                    continue
            else:
                if one[SPELL] != NO_DAY:
                    one[SPELL_GAP] += 1
                    if one[SPELL_GAP] >= 2:
                        one[SPELL] = NO_DAY
                        one[SPELL_GAP] = 0
                if (season[row, col] >> np.uint32(bin_of)) & np.uint32(1) == 0:
                    one[SKIPPED] = min(one[SKIPPED] + 1, 32767)
                    continue
            if held == depth:
                if place == 0:
                    continue
                # The oldest look leaves; unless an alert is open or it shows the other medium it teaches the model.
                then = int(look[0, 0])
                for c in range(bands):
                    past[c] = 0.0
                    for k in range(Q):
                        past[c] += table[then, k] * m[square + k * bands + c]
                    seen[c] = past[c] + settings.quantum * look[0, 1 + c]
                other = settings.water_a >= 0 and _away(seen, past, one[MEDIUM], False, settings) > 0
                if one[STATE] != PROVISIONAL and not other:
                    total = _to_noise_units(look, 0, bands, m, table[then], slopes[then], settings, z, c2)
                    trust = min(1.0, np.sqrt(2.0 * bands / max(total, 1e-6)))
                    if total < 9.0 * bands:
                        looks = min(max(float(one[LEARNT]), 20.0), settings.memory_looks)
                        _accept(look, bands, m, table[then], _F(trust * settings.quantum / looks))
                        one[LEARNT] = min(one[LEARNT] + 1, 32767)
                one[TAKEN_DAY] = then
                for i in range(1, depth):
                    for c in range(bands + 1):
                        look[i - 1, c] = look[i, c]
                held -= 1
                place -= 1
            for i in range(held, place, -1):
                for c in range(bands + 1):
                    look[i, c] = look[i - 1, c]
            look[place, 0] = day
            for c in range(bands):
                step = np.floor((y[c] - said[c]) / settings.quantum + 0.5)
                look[place, 1 + c] = np.int16(min(max(step, -32767.0), 32767.0))
            held += 1
            one[HELD] = held
            if held < settings.provisional_looks:
                continue
            own = _to_noise_units(look, place, bands, m, x, slopes[day], settings, z, c2)
            if one[STATE] != PROVISIONAL and own < bands and away == 0:
                continue  # within ordinary noise: it can begin no alert
            for i in range(held):
                then = int(look[i, 0])
                total = own if i == place else _to_noise_units(look, i, bands, m, table[then], slopes[then], settings, z, c2)
                distance[i] = total
                if total > settings.cap * settings.cap:
                    f = _F(settings.cap) / np.sqrt(total)
                    for k in range(bands):
                        z[i, k] *= f
                gaps[i] = look[i + 1, 0] - then if i + 1 < held else 0
            evidence, length = _scan(z, c2, gaps, held, bands, decay, settings.provisional_looks, a, b, best_a, best_b)
            score = _normal_score(evidence, bands)
            # A spell is news only when it is longer than the rule; on a shore, or of a mixture, when it missed a whole year.
            # Then it is news whatever the scatter that was learnt there.
            shore = one[LONGEST] > 0 or away == 1
            passing = away > 0 and day - one[SPELL] <= (settings.water_year_days if shore else settings.water_run_days)
            stayed = away == 2 and not passing and place == held - 1
            if stayed:
                first = held - 1
                while first > 0 and look[first - 1, 0] >= one[SPELL]:
                    first -= 1
                stayed = held - first >= settings.confirm_looks
                if stayed:
                    score = max(score, settings.high)
            if score < settings.back:
                if one[STATE] == PROVISIONAL:
                    one[STATE] = WITHDRAWN
                    one[WITHDRAWN_DAY] = newest
                    one[WITHDRAWALS] = min(one[WITHDRAWALS] + 1, 32767)
                    moved[row, col] = WITHDRAWN
                continue
            if score < settings.low:
                continue
            if not stayed:
                # Looks that are nearer to the shifted state than to the old one: of the run, and without a break before it.
                for k in range(bands):
                    s[k] = best_a[k] / (best_b[k] + _F(0.02))
                supports, first, newest_supports, missed = 0, -1, False, False
                for i in range(held - 1, -1, -1):
                    along, norm = 0.0, 0.0
                    for k in range(bands):
                        along += s[k] * z[i, k] / (1.0 + c2[i, k])
                        norm += s[k] * s[k] / (1.0 + c2[i, k])
                    if along > 0.5 * norm:
                        supports += 1
                        first = i
                        newest_supports = newest_supports or i == held - 1
                        missed = False
                    elif i <= held - length:
                        # Inside the run that was reported one look may miss; two together end it.
                        if missed or one[STATE] != PROVISIONAL or look[i, 0] < one[FIRST]:
                            break
                        missed = True
                if supports < settings.provisional_looks or not newest_supports:
                    continue
            run = held - first
            # The shift again, without the limit of a look and as medians: clouds that nobody masked differ among themselves.
            for k in range(bands):
                for i in range(first, held):
                    f = 1.0 if distance[i] <= settings.cap * settings.cap else np.sqrt(distance[i]) / settings.cap
                    middle[i - first] = z[i, k] * f
                upper = _select(middle, run, run // 2)
                s[k] = upper if run % 2 == 1 else 0.5 * (upper + _select(middle, run, run // 2 - 1))
            supports = 0
            for i in range(first, held):
                f = 1.0 if distance[i] <= settings.cap * settings.cap else np.sqrt(distance[i]) / settings.cap
                old_square, new_square, norm = 0.0, 0.0, 0.0
                for k in range(bands):
                    v = 1.0 + c2[i, k]
                    old_square += (z[i, k] * f) ** 2 / v
                    new_square += (z[i, k] * f - s[k]) ** 2 / v
                    norm += s[k] * s[k] / v
                supports += new_square < old_square and new_square <= norm + 2.0 * bands
            sure = score >= settings.high and supports >= max(settings.confirm_looks, settings.support_share * run)
            sure = sure and look[held - 1, 0] - look[first, 0] >= settings.confirm_days
            sure = (sure and not passing) or stayed
            again = one[STATE] == PROVISIONAL and first > 0 and look[first, 0] > one[PROVISIONAL_DAY]
            if one[STATE] == PROVISIONAL and not sure and not again:
                size[row, col, 1] = score
                continue
            if again:  # the run that was reported has ended, and another one began
                one[WITHDRAWALS] = min(one[WITHDRAWALS] + 1, 32767)
            if one[STATE] != PROVISIONAL or again:
                one[PROVISIONAL_DAY] = newest
                one[CONFIRMED_DAY] = NO_DAY
                one[WITHDRAWN_DAY] = NO_DAY
            # A run that has outgrown the window keeps the days of its beginning.
            if one[STATE] != PROVISIONAL or again or first > 0:
                old = one[TAKEN_DAY] if first == 0 else look[first - 1, 0]
                began = look[first, 0]
                if away > 0 and began >= one[SPELL]:
                    began, old = one[SPELL], one[SPELL_OLD]  # the spell's own looks were passed over until now
                one[FIRST], one[LAST_OLD] = began, old
            _shift_of(m, bands, s)
            size[row, col, 0] = _magnitude(m, bands, table[int(look[first, 0])], s, settings)
            size[row, col, 1] = score
            one[STATE] = CONFIRMED if sure else PROVISIONAL
            if sure:
                one[CONFIRMED_DAY] = newest
            moved[row, col] = one[STATE]
