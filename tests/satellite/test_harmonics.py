"""The seasonal fit against an independent least squares, and its robustness."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from satellite import kernels
from satellite.harmonics import PARAMETERS, YEAR, design_matrix, fit_series

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


def test_compiled_fit_is_weighted_least_squares() -> None:
    """The kernel's first pass against numpy's solution of the same normal equations."""
    days, values = series(90, 0.02, 5)
    X = design_matrix(days, centre=float(days.mean()))
    n, bands = 90, 2
    y = np.stack([values, 2 * values - 0.1], axis=1)
    ridge = np.full(kernels.P, 0.01)
    beta, r, w, sd = np.zeros((kernels.P, bands)), np.zeros((n, bands)), np.zeros(n), np.zeros(bands)
    scratch = np.zeros(kernels.PACKED), np.zeros((kernels.P, bands)), np.zeros(kernels.PACKED), np.zeros(n)
    kernels.robust_fit(y, X, n, bands, ridge, 1, beta, r, w, sd, *scratch)
    expected = np.linalg.solve(X.T @ X + np.diag(ridge), X.T @ y)
    # Condition number of the normal matrix is below 1e3: 1e3 x 2^-52 x 90.
    assert beta == pytest.approx(expected, abs=1e-10)
    assert r == pytest.approx(y - X @ expected, abs=1e-10)


def test_evidence_of_a_segment_is_that_of_a_gaussian() -> None:
    """-2 log evidence differences against the dense covariance I + X V X'."""
    rng = np.random.default_rng(6)
    days = np.sort(rng.choice(np.arange(18000, 19600), 30, replace=False))
    X = design_matrix(days, centre=float(days.mean()))
    e = rng.normal(size=(30, 2))
    ridge = np.linspace(0.05, 0.4, kernels.P)
    CA, Cb, Cy = np.zeros((31, kernels.PACKED)), np.zeros((31, kernels.P, 2)), np.zeros(31)
    for q in range(30):
        CA[q + 1] = CA[q] + [X[q, i] * X[q, j] for i in range(kernels.P) for j in range(i + 1)]
        Cb[q + 1] = Cb[q] + X[q][:, None] * e[q]
        Cy[q + 1] = Cy[q] + e[q] @ e[q]
    scratch = np.zeros(kernels.PACKED), np.zeros((kernels.P, 2)), np.zeros(kernels.PACKED), np.zeros((kernels.P, 2))
    for i, j in ((0, 30), (4, 19)):
        found = kernels._segment_cost(CA, Cb, Cy, i, j, 2, ridge, float(np.log(ridge).sum()), *scratch)
        covariance = np.eye(j - i) + X[i:j] @ np.diag(1 / ridge) @ X[i:j].T
        expected = (
            sum(e[i:j, c] @ np.linalg.solve(covariance, e[i:j, c]) for c in range(2)) + 2 * np.linalg.slogdet(covariance)[1]
        )
        assert found == pytest.approx(expected, rel=1e-9)


def test_median_of_the_kernel() -> None:
    rng = np.random.default_rng(7)
    for n in range(1, 40):
        a = np.round(rng.normal(size=n), 1)
        assert kernels.median(a.copy(), n) == np.median(a)
