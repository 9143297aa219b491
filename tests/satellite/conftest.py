"""Simulated sites shared by the tests of the detector. Seeds here differ from those the settings were chosen on."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from satellite.synthetic import Change, SimulatedCube, SimulationConfig, simulate, write_stack

SMALL = SimulationConfig(shape=(40, 40), start=date(2021, 1, 3), end=date(2024, 6, 30), origin=(240560.0, 3361800.0))
X, Y = SMALL.origin
FELLING = Change(
    name="felling",
    kind="sand_mining",
    polygon=((X + 102, Y - 98), (X + 202, Y - 98), (X + 202, Y - 178), (X + 102, Y - 178)),
    day=date(2023, 5, 20),
)


@pytest.fixture(scope="session")
def site() -> SimulatedCube:
    """40 x 40 pixels, 3.5 years, one square of 100 m x 80 m that turns to sand on 2023-05-20."""
    return simulate(replace(SMALL, changes=(FELLING,)), seed=4001)


@pytest.fixture(scope="session")
def stack_folder(site: SimulatedCube, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as a provider would deliver it: GeoTIFFs and stack.toml. Read-only by agreement: copy before changing."""
    folder = tmp_path_factory.mktemp("stack")
    write_stack(folder, site)
    return folder


def plain_cube(
    *,
    pixels: int,
    seed: int,
    shift: float = 0.0,
    day: int = 900,
    days: int = 1500,
    step: int = 8,
    noise: float = 0.012,
    keep: float = 0.6,
) -> xr.DataArray:
    """Pixels (1, n) with a plain yearly curve, white noise and gaps; all bands fall or rise by `shift` from `day` on.

    Four bands; independent of `satellite.synthetic`: the curve is a cosine, so the seasonal model is exactly true.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(0, days, step)
    bands = {"blue": (0.05, 0.01), "green": (0.08, 0.02), "red": (0.07, -0.03), "nir": (0.30, 0.10)}
    level = np.array([value[0] for value in bands.values()])
    swing = np.array([value[1] for value in bands.values()])
    curve = level + swing * np.cos(2 * np.pi * (t[:, None] - 200) / 365.2425)
    values = curve[:, :, None] + rng.normal(0, noise, (len(t), len(bands), pixels))
    values[t >= day] += shift * np.array([0.3, 0.5, 1.0, -1.0])[None, :, None]
    gone = rng.random((len(t), pixels)) > keep
    values = np.where(gone[:, None], np.nan, values).astype(np.float32)
    time = np.datetime64("2019-01-01", "ns") + t.astype("timedelta64[D]")
    return xr.DataArray(values[:, :, None], dims=("time", "band", "y", "x"), coords={"time": time, "band": list(bands)})


def four_squares(config: SimulationConfig) -> tuple[Change, ...]:
    """Four squares of 93 m x 87 m of forest that become sand, two months apart, off the pixels' edges."""
    x, y = config.origin
    return tuple(
        Change(
            name=f"c{k}",
            kind="sand_mining",
            polygon=((x + a, y - b), (x + a + 93, y - b), (x + a + 93, y - b - 87), (x + a, y - b - 87)),
            day=date(2023, 3 + 2 * k, 11),
        )
        for k, (a, b) in enumerate(((613, 207), (811, 209), (617, 411), (803, 607)))
    )
