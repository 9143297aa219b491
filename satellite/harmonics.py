"""The seasonal model: level, slope and three harmonics of the year, and a robust fit of one series.

The compiled detector (`kernels`) uses the same design matrix; this module is its plain counterpart for
plots and event series, in numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

YEAR = 365.2425
"""Days of the mean Gregorian year: the period of the first harmonic."""
HARMONICS = 3
PARAMETERS = 2 + 2 * HARMONICS


def design_matrix(days: NDArray[np.integer] | NDArray[np.floating], *, centre: float) -> NDArray[np.float64]:
    """Columns 1, cos, sin (1 to 3 cycles a year), and years since `centre`; shape (time, 8).

    Args:
        days: days since 1970-01-01. centre: day at which the slope column is zero.
    """
    t = np.asarray(days, np.float64)
    columns = [np.ones_like(t)]
    for k in range(1, HARMONICS + 1):
        angle = 2 * np.pi * k * t / YEAR
        columns += [np.cos(angle), np.sin(angle)]
    columns.append((t - centre) / YEAR)
    return np.stack(columns, axis=1)


def fit_series(
    days: NDArray[np.integer], values: NDArray[np.floating], *, ridge: float = 1e-2, passes: int = 5
) -> NDArray[np.float64]:
    """Coefficients (8,) of `design_matrix` centred on the mean day: Huber-weighted ridge least squares.

    Args:
        days: (n,). values: (n,) finite, n >= 1. ridge: of harmonics and slope relative to the sum of weights;
            keeps short series sane. passes: reweightings; scale is 1.4826 x the median absolute residual.

    Source: Huber 1964, doi:10.1214/aoms/1177703732; tuning constant 1.345.
    """
    X = design_matrix(days, centre=float(np.mean(days)))
    y = np.asarray(values, np.float64)
    weights = np.ones(len(y))
    penalty = np.diag([0.0] + [ridge] * (PARAMETERS - 1))
    beta = np.zeros(PARAMETERS)
    for _ in range(passes):
        weighted = X * weights[:, None]
        beta = np.linalg.solve(weighted.T @ X + penalty * weights.sum(), weighted.T @ y)
        residual = np.abs(y - X @ beta)
        scale = 1.4826 * np.median(residual)
        if scale <= 0:
            break
        weights = 1.345 / np.maximum(residual / scale, 1.345)
    return beta
