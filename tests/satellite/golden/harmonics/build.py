"""Writes series.csv and coefficients.csv anew; see README.md. Knows nothing of the project's code."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import statsmodels.api as sm

FOLDER = Path(__file__).parent
RIDGE = [1 / 15**2, 1 / 8**2, 1 / 8**2, 1 / 4**2, 1 / 4**2, 1 / 4**2, 1 / 4**2, 1.0]


def main() -> None:
    rng = np.random.default_rng(20240501)
    days = np.sort(rng.choice(np.arange(17533, 19723), 150, replace=False))
    # The middle of the period, as the detector centres its slope.
    t = days.astype(float)
    columns = [np.ones_like(t)]
    for k in (1, 2, 3):
        columns += [np.cos(2 * np.pi * k * t / 365.2425), np.sin(2 * np.pi * k * t / 365.2425)]
    columns.append((t - 18628.0) / 365.2425)
    X = np.stack(columns, axis=1)
    true = rng.normal(0, [[20.0], [10.0], [10.0], [3.0], [3.0], [1.0], [1.0], [0.5]], (8, 2))
    values = X @ true + rng.normal(0, 1, (150, 2))
    values[rng.choice(150, 9, replace=False)] += 12.0
    values = np.round(values, 3)

    rows = []
    for band in range(2):
        y = values[:, band]
        prior = np.diag(np.sqrt(RIDGE))
        fits = {
            "ordinary": sm.OLS(y, X).fit().params,
            "ridge": sm.OLS(np.concatenate([y, np.zeros(8)]), np.concatenate([X, prior])).fit().params,
            "huber": sm.RLM(y, X, M=sm.robust.norms.HuberT(t=1.345)).fit(maxiter=500, tol=1e-13, conv="coefs").params,
        }
        rows += [[name, band, *(repr(float(value)) for value in fit)] for name, fit in fits.items()]
    with (FOLDER / "series.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["day", "band0", "band1"])
        writer.writerows([int(day), *pair.tolist()] for day, pair in zip(days, values, strict=True))
    with (FOLDER / "coefficients.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["fit", "band", "level", "cos1", "sin1", "cos2", "sin2", "cos3", "sin3", "slope"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
