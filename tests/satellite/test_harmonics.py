"""The seasonal fit, plain and compiled, the gain of a jump and the noise scale, against independent solutions."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import lstsq
from scipy.optimize import least_squares

from satellite import kernels
from satellite.harmonics import PARAMETERS, YEAR, design_matrix, fit_series
from satellite.segment import BreakConfig, _rule

TRUE = np.array([0.4, 0.15, -0.08, 0.03, 0.02, -0.01, 0.015, 0.01])


def series(n: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    days = np.sort(rng.choice(np.arange(18000, 19600), n, replace=False))
    values = design_matrix(days, centre=float(days.mean())) @ TRUE + rng.normal(0, noise, n)
    return days, values


def test_design_is_periodic_and_centred() -> None:
    days = np.array([18000.0, 18000.0 + YEAR])
    rows = design_matrix(days, centre=18000.0)
    assert rows.shape == (2, PARAMETERS)
    # Rounding of cos(2 pi k t / YEAR) at t near 18000: about 3 x 310 rad x 2^-52.
    assert rows[0, :7] == pytest.approx(rows[1, :7], abs=1e-11)
    assert rows[:, 7] == pytest.approx([0.0, 1.0], abs=1e-12)


def test_fit_returns_the_truth_without_noise() -> None:
    days, values = series(80, 0.0, 1)
    # The ridge pulls by about its share, 1e-9, times the coefficients.
    assert fit_series(days, values, ridge=1e-9) == pytest.approx(TRUE, abs=1e-7)


def test_fit_agrees_with_scipy() -> None:
    days, values = series(120, 0.02, 2)
    X = design_matrix(days, centre=float(days.mean()))
    scale = 1.4826 * np.median(np.abs(values - X @ fit_series(days, values, ridge=0.0, passes=60)))
    reference = least_squares(
        lambda b: (X @ b - values) / (1.345 * scale), TRUE, loss="huber", xtol=1e-14, ftol=1e-14, gtol=1e-14
    )
    # Both minimise the same convex function at the same scale; 60 reweightings leave a relative step below 1e-6.
    assert fit_series(days, values, ridge=0.0, passes=60) == pytest.approx(reference.x, abs=1e-5)


def test_noise_comes_back_as_the_covariance_says() -> None:
    """Standardised errors of 200 fits have unit variance: neither smaller nor larger."""
    rng = np.random.default_rng(3)
    days = np.sort(rng.choice(np.arange(18000, 19600), 100, replace=False))
    X = design_matrix(days, centre=float(days.mean()))
    sd = np.sqrt(np.diag(np.linalg.inv(X.T @ X))) * 0.02
    errors = [(fit_series(days, X @ TRUE + rng.normal(0, 0.02, 100), ridge=0.0) - TRUE) / sd for _ in range(200)]
    variance = float(np.mean(np.square(errors)))
    # 1600 values with some correlation: sd of the mean square about 0.05; Huber at 1.345 costs 5 % of efficiency.
    assert 0.85 < variance < 1.25


def test_clouds_do_not_move_the_fit() -> None:
    days, values = series(120, 0.01, 4)
    spoilt = values.copy()
    spoilt[::11] += 0.4
    plain = design_matrix(days, centre=float(days.mean()))
    error = np.abs(plain @ (fit_series(days, spoilt) - TRUE)).max()
    ordinary = np.abs(plain @ (np.linalg.lstsq(plain, spoilt, rcond=None)[0] - TRUE)).max()
    assert error < 0.02 < ordinary


# Kernel part --------------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden" / "harmonics"
UNIT = 2.0**-24
"""Rounding of one float32 operation: a sum of n products is off by at most n UNIT times the sum of their absolute values."""
PRIOR = np.array([1 / 15**2, 1 / 8**2, 1 / 8**2, *[1 / 4**2] * 4, 1.0])


def golden_series() -> tuple[np.ndarray, np.ndarray]:
    """Days (n,) and values (2, n)."""
    table = np.loadtxt(GOLDEN / "series.csv", delimiter=",", skiprows=1)
    return table[:, 0].astype(np.int64), table[:, 1:].T


def golden_coefficients(fit: str) -> np.ndarray:
    """(8, 2) by statsmodels."""
    with (GOLDEN / "coefficients.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["fit"] == fit]
    return np.array([[float(value) for value in list(row.values())[2:]] for row in rows]).T


def compiled(X: np.ndarray, e: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """beta (8, B) and residuals (B, n) of the kernel; X (8, n) and e (B, n) are rounded to float32."""
    X, e = np.ascontiguousarray(X, np.float32), np.ascontiguousarray(e, np.float32)
    beta, r = np.zeros((kernels.P, len(e))), np.zeros_like(e)
    kernels._model(X, e, low, high, PRIOR, np.zeros((kernels.P, kernels.P)), np.zeros((kernels.P, kernels.P)), beta)
    kernels.residuals(X, e, low, high, beta, r)
    return beta, r


def rounding(X: np.ndarray, e: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far float32 sums (and float32 input) may move the ridge fit and its residuals, to first order, times two.

    M d(beta) = d(X e') - d(M) beta; both sums err by at most (n + 2) UNIT of their absolute terms.
    """
    n = X.shape[1]
    inverse = np.abs(np.linalg.inv(X @ X.T + np.diag(PRIOR)))
    sums = np.abs(X) @ np.abs(e.T) + np.abs(X) @ np.abs(X.T) @ np.abs(beta)
    moved = 2 * (n + 2) * UNIT * inverse @ sums
    return moved, np.abs(X.T) @ moved + 12 * UNIT * (np.abs(e.T) + np.abs(X.T) @ np.abs(beta))


def test_robust_fit_is_that_of_statsmodels() -> None:
    days, values = golden_series()
    expected = golden_coefficients("huber")
    # The golden slope is centred on day 18628, ours on the mean day.
    expected[0] += expected[7] * (days.mean() - 18628) / YEAR
    found = np.stack([fit_series(days, y, ridge=0.0, passes=200) for y in values], axis=1)
    # Scales 1.4826 and 1 / 0.6745 x median differ by 2e-6; the fit moves by that times what the spoilt dates pull, below 1 unit.
    assert found == pytest.approx(expected, abs=1e-5)


def test_compiled_fit_is_that_of_statsmodels() -> None:
    days, e = golden_series()
    X = design_matrix(days, centre=18628.0).T
    beta, r = compiled(X, e, 0, len(days))
    expected = golden_coefficients("ridge")
    moved, moved_r = rounding(X, e, expected)
    assert moved.max() < 0.01  # noise units: the bound says something
    assert (np.abs(beta - expected) <= moved).all()
    assert (np.abs(r.T - (e.T - X.T @ expected)) <= moved_r).all()
    # The prior is seen: the ordinary fit lies outside.
    assert (np.abs(beta - golden_coefficients("ordinary")) > moved).any()


@pytest.mark.parametrize("low, high", [(0, 150), (31, 149), (60, 75), (7, 12)])
def test_compiled_fit_of_a_stretch_is_two_other_solutions(low: int, high: int) -> None:
    """numpy on the normal equations and scipy on the rows with the prior added; also fewer dates than parameters."""
    days, e = golden_series()
    X = design_matrix(days, centre=18628.0).T
    beta, r = compiled(X, e, low, high)
    part, seen = X[:, low:high], e[:, low:high]
    normal = np.linalg.solve(part @ part.T + np.diag(PRIOR), part @ seen.T)
    rows = lstsq(np.concatenate([part.T, np.diag(np.sqrt(PRIOR))]), np.concatenate([seen.T, np.zeros((8, 2))]))[0]
    # Condition of the normal matrix below 1e6.
    assert normal == pytest.approx(rows, abs=1e-8)
    moved, moved_r = rounding(part, seen, normal)
    assert (np.abs(beta - normal) <= moved).all()
    assert (np.abs(r[:, low:high].T - (seen.T - part.T @ normal)) <= moved_r).all()
    # Other observations are neither read nor written.
    assert not r[:, :low].any() and not r[:, high:].any()


def evidence(X: np.ndarray, variances: np.ndarray, e: np.ndarray) -> float:
    """-2 log of the dense Gaussian evidence of all bands, covariance I + X V X', without the constant."""
    covariance = np.eye(len(X)) + X @ np.diag(variances) @ X.T
    return float(np.sum(e * np.linalg.solve(covariance, e.T).T) + len(e) * np.linalg.slogdet(covariance)[1])


def gain_of(X: np.ndarray, e: np.ndarray, cut: int) -> float:
    """What three columns that jump at `cut` gain; prior variances 36 (level), 16, 16 (yearly wave)."""
    jump = X[:3].T * (np.arange(X.shape[1]) >= cut)[:, None]
    together = np.concatenate([X.T, jump], axis=1)
    return evidence(X.T, 1 / PRIOR, e) - evidence(together, np.concatenate([1 / PRIOR, [36.0, 16.0, 16.0]]), e)


def step_series(n: int, bands: int, cut: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    days = np.sort(rng.choice(np.arange(17533, 19723), n, replace=False))
    X = design_matrix(days, centre=18628.0).T.astype(np.float32).astype(np.float64)
    e = rng.normal(size=(bands, n)) + rng.normal(0, 3, (bands, 8)) @ X
    e[:, cut:] += rng.normal(0, 3, (bands, 1)) + rng.normal(0, 2, (bands, 1)) * X[1, cut:]
    return X, e.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("n, bands, cut", [(120, 6, 71), (120, 1, 71), (60, 3, 12), (40, 2, 33)])
def test_gain_of_a_jump_is_a_difference_of_evidences(n: int, bands: int, cut: int) -> None:
    """The closed form in double precision, with an orthonormal design made by numpy."""
    X, e = step_series(n, bands, cut, n + bands)
    lower = np.linalg.cholesky(X @ X.T + np.diag(PRIOR))
    Q = np.linalg.solve(lower, X)
    r = e - (e @ Q.T) @ Q
    for at in (cut - 3, cut, cut + 2):
        jump = X[:3] * (np.arange(n) >= at)
        sums = np.concatenate([jump @ Q.T, jump @ r.T], axis=1)
        found = call_gain(sums, jump @ jump.T, bands)
        # Both are differences of sums of some 1e4 in double precision, condition of the covariance below 1e6.
        assert found == pytest.approx(gain_of(X, e, at), abs=1e-6)


@pytest.mark.parametrize("n, bands, cut", [(160, 6, 90), (160, 1, 90), (64, 3, 20), (30, 2, 16)])
def test_candidates_are_the_best_cuts_with_their_gain(n: int, bands: int, cut: int) -> None:
    X, e = step_series(n, bands, cut, 7 * n + bands)
    rule = rule_of(bands)
    cuts, gains = np.zeros(8, np.int64), np.zeros(8)
    count = call_candidates(X, e, rule, cuts, gains)
    assert count >= 1 and list(gains[:count]) == sorted(gains[:count], reverse=True)
    step = 6 if n >= 100 else 4 if n >= 50 else 2
    places = np.arange(rule.min_segment, n - rule.min_segment + 1)
    exact = np.array([gain_of(X, e, int(at)) for at in places])
    for k in range(count):
        at = int(cuts[k])
        assert at in places
        # Rounding never all goes one way: a thousandth of the least gain that is judged (70) is asked for as well.
        assert abs(gains[k] - exact[places == at][0]) <= min(gain_rounding(X, e, at), 0.07)
        # Nothing within a step of it is better: it was refined. Where a better one lies at the end of that reach, it is a slope.
        near = np.abs(places - at) < step
        around = exact[near].max()
        slope = abs(int(places[near][exact[near].argmax()]) - at) == step - 1
        assert gains[k] >= around - gain_rounding(X, e, at) - 0.07 or slope
    slack = max(gain_rounding(X, e, int(cuts[0])), gain_rounding(X, e, int(places[exact.argmax()])))
    # A gain that is worth judging lies at the jump, to the observation, and is the best of all.
    if gains[0] >= BreakConfig().min_gain:
        assert gains[0] >= exact.max() - slack and abs(int(cuts[0]) - int(places[exact.argmax()])) <= 1


def call_gain(sums: np.ndarray, products: np.ndarray, bands: int) -> float:
    """One cut among others: what lies beside it must not matter."""
    count = 5
    others = np.random.default_rng(3).normal(size=(3, sums.shape[1], count))
    others[:, :, 2] = sums
    below = np.repeat(products[np.tril_indices(3)][:, None], count, axis=1)
    gains = np.zeros(count)
    kernels._gains(others, below, count, bands, np.zeros((6, count)), gains)
    return float(gains[2])


def rule_of(bands: int) -> kernels.Rule:
    """The default rule with every cut worth judging."""
    names = ("blue", "green", "red", "nir", "swir1", "swir2")[:bands] if bands > 1 else ("ndvi",)
    return _rule(BreakConfig(min_gain=0.0), names)[0]


def call_candidates(X: np.ndarray, e: np.ndarray, rule: kernels.Rule, cuts: np.ndarray, gains: np.ndarray) -> int:
    bands, n = e.shape
    # The workspace of the search, told from the others by being the first tuple in it.
    search = next(part for part in kernels._workspace(n, bands, np.zeros((2, 1), np.bool_)) if isinstance(part, tuple))
    X, e = np.ascontiguousarray(X, np.float32), np.ascontiguousarray(e, np.float32)
    return int(kernels._candidates(X, e, 0, n, PRIOR, rule, search, cuts, gains))


def gain_rounding(X: np.ndarray, e: np.ndarray, cut: int) -> float:
    """How far float32 sums may move a gain: |x|' d(h) of its quadratic form h' S^-1 h with x = S^-1 h, times two and more.

    h sums r, whose own error is that of the residuals; S errs like its sums; the log of its determinant hardly.
    """
    n = X.shape[1]
    M = X @ X.T + np.diag(PRIOR)
    Q = np.linalg.solve(np.linalg.cholesky(M), X)
    z = Q @ e.T
    r = e - z.T @ Q
    # Q = W X with float32 W: eleven roundings of its terms; W itself errs as the float32 sums in M make it.
    W = np.linalg.inv(np.linalg.cholesky(M))
    dM = (n + 2) * UNIT * np.abs(X) @ np.abs(X.T)
    dW = np.abs(W) @ dM @ np.abs(W.T) @ np.abs(W)
    dQ = 11 * UNIT * np.abs(W) @ np.abs(X) + dW @ np.abs(X)
    dz = (n + 2) * UNIT * np.abs(Q) @ np.abs(e.T) + dQ @ np.abs(e.T)
    dr = 12 * UNIT * (np.abs(e) + np.abs(z.T) @ np.abs(Q)) + dz.T @ np.abs(Q) + np.abs(z.T) @ dQ
    C = X[:3] * (np.arange(n) >= cut)
    T = C @ Q.T
    S = np.diag([1 / 36, 1 / 16, 1 / 16]) + C @ C.T - T @ T.T
    dT = (n + 2) * UNIT * np.abs(C) @ np.abs(Q.T) + np.abs(C) @ dQ.T
    dS = 2 * np.abs(T) @ dT.T + (n + 2) * UNIT * np.abs(C) @ np.abs(C.T)
    dh = np.abs(C) @ dr.T + (n + 2) * UNIT * np.abs(C) @ np.abs(r.T)
    x = np.abs(np.linalg.solve(S, C @ r.T))
    bound = 2 * np.sum(x * dh) + np.sum(x * (dS @ x)) + len(e) * np.sum(np.abs(np.linalg.inv(S)) * dS)
    return float(2 * bound)


def noise_covariance(values: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariance S S' and noise scale of the kernels from one series (B, n)."""
    bands, n = values.shape
    y, t = np.ascontiguousarray(values, np.float32), days.astype(np.float32)
    d, w, u, v = np.zeros_like(y), *np.zeros((3, n), np.float32)
    sd, inverse, S, L = np.zeros(bands), np.zeros(bands, np.float32), np.zeros((bands, bands)), np.zeros((bands, bands))
    kernels._local_scale(y, t, n, d, u, v, w, sd, inverse, 1e-3)
    kernels._noise_factor(d, n, bands, inverse, sd, 1e-3, w, S, L)
    lower = np.tril(S)
    assert np.diag(L) == pytest.approx(1 / np.diag(lower), rel=1e-12)
    return lower @ lower.T, sd


@pytest.mark.parametrize("spoilt", [0.0, 0.05])
def test_noise_comes_back_as_it_was_put_in(spoilt: float) -> None:
    """Known covariance over a season and irregular dates: neither smaller nor larger, with and without clouds left over."""
    rng = np.random.default_rng(8)
    sd = np.array([0.008, 0.010, 0.012, 0.030])
    correlation = np.array([[1, 0.8, 0.7, 0.2], [0.8, 1, 0.8, 0.3], [0.7, 0.8, 1, 0.1], [0.2, 0.3, 0.1, 1]])
    lower = np.linalg.cholesky(correlation * np.outer(sd, sd))
    covariances, scales = [], []
    for _ in range(80):
        days = np.sort(rng.choice(2000, 200, replace=False))
        season = np.array([0.01, 0.02, 0.03, 0.1])[:, None] * np.cos(2 * np.pi * days / YEAR)
        values = 0.2 + season + lower @ rng.normal(size=(4, 200))
        gone = rng.random(200) < spoilt
        values[:, gone] += 0.3
        found, scale = noise_covariance(values, days)
        covariances.append(found)
        scales.append(scale)
    mean = np.mean(covariances, axis=0)
    ratio = np.mean(scales, axis=0) / sd
    variance = np.diag(mean) / (1.1 * sd**2)
    # Neighbouring departures share dates (correlation about -2/3): one variance errs by sqrt(3.9 / 200), their mean over 80
    # by 1.6 %. Three of these, and the robust scale's bias: it cuts at 2.5 and is never taken larger than the weighted sum.
    if spoilt == 0:
        assert (ratio > 0.97).all() and (ratio < 1.05).all()
        assert (variance > 0.92).all() and (variance < 1.06).all()
    else:
        # A spoilt date spoils three departures; 14 % of them are far out and are cut or weighted down.
        assert (ratio > 0.97).all() and (ratio < 1.35).all()
        assert (variance > 0.92).all() and (variance < 1.8).all()
    inner = mean / np.sqrt(np.outer(np.diag(mean), np.diag(mean)))
    if spoilt == 0:
        # Shrunk towards the diagonal by 1.1; a correlation errs by less than sqrt(3.9 / 200 / 80) = 1.6 %.
        assert np.abs(inner - np.where(np.eye(4), 1, correlation / 1.1)).max() < 0.05


def test_selection_of_the_kernel() -> None:
    rng = np.random.default_rng(7)
    for n in range(1, 40):
        # Equal ones among them, and zero.
        a = np.square(np.round(rng.normal(size=n), 1)).astype(np.float32)
        for k in {0, n // 2, n - 1}:
            assert kernels._kth(a, k) == np.sort(a)[k]


def test_seasons_by_whole_days_apart() -> None:
    """The tables say what the angle on the circle of the year says; a day on the limit belongs to it."""
    apart = np.arange(4000)
    angle = np.abs(np.angle(np.exp(2j * np.pi * apart / YEAR))) * YEAR / (2 * np.pi)
    assert np.array_equal(kernels._seasons(3999, 24.0), [angle <= 35.0 + 1e-6, angle <= 24.0 + 1e-6])
