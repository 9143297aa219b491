"""Sequential monitoring: delay, recall, false alarms, what is withdrawn, speed and size, on simulated tiles of test seeds.

    python bench/satellite_alerts.py [--tiles 4] [--size 64] [--start 2021-01-01] [--rates 0.0054 0.003 0.0021]

History up to `--start`, then date by date to the end of 2023. Two simulators, land and water tiles in turn. Positives: abrupt
changes after `--start` of pixels that did not change before, at least a year before the end; found: confirmed within a year.
Changes that bring or take water are counted apart: by rule they can be confirmed only after `water_run_days`. False: confirmed
stable pixels. `nrt` (https://github.com/ec-jrc/nrt, NDVI) runs in the same process where it can be imported.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from satellite_independent import BANDS
from satellite_peers import make_tile
from scoring import NODATE, Reference

from geoevidence.crs import parse_crs
from geoevidence.raster import Grid
from satellite import alert_kernels as kernels
from satellite.alerts import AlertConfig, AlertState, array_layout, start_monitoring, update
from satellite.types import Cube, Observed

SHARES = ((0.05, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.9), (0.9, 1.01))
FIRST_TEST_SEED = 101
Days = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a monitor said: days (y, x) of the first alert on or after the true change (confirmed or not) and of its confirmation,
    NODATE = never; confirmed: (y, x) at the end; began, withdrawn: (y, x) provisional alerts begun and withdrawn; judged: (y, x)."""

    provisional: Days
    confirmed_day: Days
    confirmed: NDArray[np.bool_]
    began: Days
    withdrawn: Days
    judged: NDArray[np.bool_]


def cube_of(values: NDArray[np.float32], days: Days, bands: tuple[str, ...]) -> Cube:
    grid = Grid(shape=values.shape[2:], transform=Affine(10, 0, 500000, 0, -10, 3400000), crs=parse_crs("EPSG:32650"))
    clear = np.isfinite(values).all(axis=1)
    observed = np.where(clear, np.uint8(Observed.CLEAR), np.uint8(Observed.CLOUD))
    return Cube(stored=np.ascontiguousarray(values), observed=observed, days=days.astype(np.int32), bands=bands, grid=grid)


def ndvi_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
    red, nir = BANDS.index("red"), BANDS.index("nir")
    return ((values[:, nir] - values[:, red]) / (values[:, nir] + values[:, red]))[:, None].astype(np.float32)


def told_by_us(cube: Cube, config: AlertConfig, start: int, changes: Days) -> Told:
    past = cube.days < start
    history = Cube(
        stored=cube.stored[past], observed=cube.observed[past], days=cube.days[past], bands=cube.bands, grid=cube.grid
    )  # fmt: skip
    state = start_monitoring(history, config, threads=1)
    for index in np.flatnonzero(~past):
        state = update(state, cube.stored[index], cube.observed[index], int(cube.days[index]), threads=1)
    provisional, confirmed_day = np.full(state.shape, NODATE, np.int64), np.full(state.shape, NODATE, np.int64)
    began, withdrawn = np.zeros(state.shape, np.int64), np.zeros(state.shape, np.int64)
    for day, row, col, what, _, _ in state.journal.tolist():
        began[row, col] += what == AlertState.PROVISIONAL
        withdrawn[row, col] += what == AlertState.WITHDRAWN
        if day < changes[row, col]:
            continue
        for target, wanted in ((provisional, (2, 3)), (confirmed_day, (3,))):
            if what in wanted and target[row, col] == NODATE:
                target[row, col] = day
    confirmed, judged = state.state == AlertState.CONFIRMED, state.state != AlertState.NOT_MONITORED
    return Told(provisional, confirmed_day, confirmed, began, withdrawn, judged)


def nrt_monitor(name: str, module: str) -> Callable[[Cube, int, Days], Told] | None:
    """One of nrt's monitors with its own defaults on the one band of the cube, or None where nrt is not installed."""
    try:
        imported = __import__(f"nrt.monitor.{module}", fromlist=[name])
    except ImportError:
        return None
    import xarray as xr

    def run(cube: Cube, start: int, changes: Days) -> Told:
        times = cube.days.astype("datetime64[D]").astype("datetime64[ns]")
        array = xr.DataArray(cube.values[:, 0], dims=("time", "y", "x"), coords={"time": times})
        monitor = getattr(imported, name)(trend=False)
        monitor.fit(dataarray=array.isel(time=cube.days < start))
        for index in np.flatnonzero(cube.days >= start):
            when = datetime(1970, 1, 1) + timedelta(days=int(cube.days[index]))
            monitor.monitor(array=array.values[index], date=when)
        found = monitor.detection_date.astype(np.int64)
        dates = np.where(found == 0, NODATE, found)
        after = np.where(dates >= changes, dates, NODATE)
        none = np.zeros(dates.shape, np.int64)
        return Told(after, after, dates != NODATE, none, none, np.asarray(monitor.mask) != 0)

    return run


@dataclass
class Sums:
    """Counts over tiles."""

    false: int = 0
    stable: int = 0
    years: float = 0.0
    flats: int = 0
    flats_false: int = 0
    crops: int = 0
    crops_false: int = 0
    began: int = 0
    withdrawn: int = 0
    judged: int = 0
    pixels: int = 0

    def __post_init__(self) -> None:
        self.found = np.zeros(len(SHARES), int)
        self.there = np.zeros(len(SHARES), int)
        self.delay: list[float] = []
        self.first: list[float] = []
        self.wet_found = self.wet_there = 0
        self.wet_delay: list[float] = []

    def add(self, told: Told, truth: Reference, start: int, end: int, wet: NDArray[np.bool_]) -> None:
        stable = truth.stable & told.judged
        years = (end - start) / 365.2425
        self.pixels += stable.size
        self.judged += int(told.judged.sum())
        self.stable += int(stable.sum())
        self.years += float(stable.sum() * years)
        self.false += int((told.confirmed & stable).sum())
        self.flats += int((truth.seasonal_flat & told.judged).sum())
        self.flats_false += int((truth.seasonal_flat & told.confirmed).sum())
        self.crops += int((truth.double_crop & told.judged).sum())
        self.crops_false += int((truth.double_crop & told.confirmed).sum())
        self.began += int(told.began[stable].sum())
        self.withdrawn += int(told.withdrawn[stable].sum())
        first = first_change(truth)
        positive = truth.abrupt & told.judged & (first >= start) & (first <= end - 365)
        delay = np.where(told.confirmed_day == NODATE, np.inf, told.confirmed_day - first)
        early = np.where(told.provisional == NODATE, np.inf, told.provisional - first)
        hit = delay <= 365
        self.wet_there += int((positive & wet & (truth.share >= 0.6)).sum())
        self.wet_found += int((positive & wet & hit & (truth.share >= 0.6)).sum())
        self.wet_delay += delay[positive & wet & hit & (truth.share >= 0.6)].tolist()
        for k, (low, high) in enumerate(SHARES):
            chosen = positive & ~wet & (truth.share >= low) & (truth.share < high)
            self.there[k] += int(chosen.sum())
            self.found[k] += int((chosen & hit).sum())
            if low >= 0.6:
                self.delay += delay[chosen].tolist()
                self.first += early[chosen].tolist()

    def line(self) -> str:
        def spread(values: list[float]) -> str:
            if not values:
                return "-"
            return "/".join("never" if np.isinf(q) else f"{q:.0f}" for q in np.quantile(values, [0.5, 0.9], method="lower"))

        recall = " ".join(f"{f / max(n, 1):.2f}" for f, n in zip(self.found, self.there, strict=True))
        flats, crops = self.flats_false / max(self.flats, 1), self.crops_false / max(self.crops, 1)
        per_year, share = self.began / max(self.years, 1), self.withdrawn / max(self.began, 1)
        return (
            f"false {self.false / max(self.years, 1):.4f} | flats {flats:.3f} crops {crops:.3f} | recall {recall} | "
            f"first alert {spread(self.first)} d, confirmed {spread(self.delay)} d | water {self.wet_found}/{self.wet_there} "
            f"{spread(self.wet_delay)} d | provisional {per_year:.4f}, {share:.2f} withdrawn | judged {self.judged / self.pixels:.3f}"
        )


def first_change(truth: Reference) -> Days:
    return np.where(truth.breaks == NODATE, np.iinfo(np.int64).max, truth.breaks.astype(np.int64)).min(axis=0)


def turns_wet_or_dry(values: NDArray[np.float32], days: Days, truth: Reference) -> NDArray[np.bool_]:
    """Whether the median MNDWI of the year before and of the year after the change lie on two sides of 0."""
    green, swir = values[:, BANDS.index("green")], values[:, BANDS.index("swir1")]
    first = first_change(truth)
    before = (days[:, None, None] < first) & (days[:, None, None] > first - 365)
    after = (days[:, None, None] >= first) & (days[:, None, None] < first + 365)
    with np.errstate(divide="ignore", invalid="ignore"):
        index = (green - swir) / (green + swir)
    seen = np.isfinite(index)
    wet = [((index > 0) & seen & when).sum(axis=0) > 0.5 * (seen & when).sum(axis=0) for when in (before, after)]
    return wet[0] != wet[1]


def tiles(simulator: str, count: int, size: int) -> Iterator[tuple[NDArray[np.float32], Days, Reference]]:
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            tile = make_tile(simulator, ("land", "water")[index % 2], FIRST_TEST_SEED + index, (size, size), Path(folder))
            yield np.load(tile.path), tile.days, tile.truth
            tile.path.unlink()


def speed(values: NDArray[np.float32], days: Days, start: int) -> str:
    """Pixels a second on one thread, learning and one date, on a tile repeated to 256 x 256."""
    repeat = (1, 1, -(-256 // values.shape[2]), -(-256 // values.shape[3]))
    lines = []
    for name, part, bands in (("6 bands", values, BANDS), ("NDVI", ndvi_of(values), ("NDVI",))):
        cube = cube_of(np.tile(part, repeat)[:, :, :256, :256], days, bands)
        past = cube.days < start
        history = cube_of(cube.stored[past], days[past], bands)
        begun = time.perf_counter()
        state = start_monitoring(history, AlertConfig(), threads=1)
        learnt = time.perf_counter() - begun
        later = np.flatnonzero(~past)
        for index in later[:30]:  # the windows fill before it is timed
            state = update(state, cube.stored[index], cube.observed[index], int(cube.days[index]), threads=1)
        begun = time.perf_counter()
        for index in later[30:70]:
            state = update(state, cube.stored[index], cube.observed[index], int(cube.days[index]), threads=1)
        looked = (time.perf_counter() - begun) / 40
        lines.append(
            f"{name}: learning {65536 / learnt:,.0f} px/s ({past.sum()} dates), a date {65536 / looked:,.0f} px/s, "
            f"{state.bytes_per_pixel} bytes a pixel"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--start", default="2021-01-01")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0054, 0.003, 0.0021])
    parser.add_argument("--simulators", nargs="+", default=["independent", "own"])
    options = parser.parse_args()
    start = int(np.datetime64(options.start, "D").astype(np.int64))
    peers = {
        f"nrt {name}": nrt_monitor(name, module) for name, module in (("EWMA", "ewma"), ("MoSum", "mosum"), ("CuSum", "cusum"))
    }
    example: Any = None
    for simulator in options.simulators:
        sums: dict[str, Sums] = {}
        seconds: dict[str, float] = {}
        for values, days, truth in tiles(simulator, options.tiles, options.size):
            example = example or (values, days)
            end, wet, changes = int(days[-1]), turns_wet_or_dry(values, days, truth), first_change(truth)
            six, one = cube_of(values, days, BANDS), cube_of(ndvi_of(values), days, ("NDVI",))
            runs: dict[str, Callable[[], Told]] = {}
            for rate in options.rates:
                runs[f"6 bands, rate {rate:g}"] = partial(told_by_us, six, AlertConfig(false_alarm_rate=rate), start, changes)
            runs["NDVI, rate 0.003"] = partial(told_by_us, one, AlertConfig(noise_floor=0.01), start, changes)
            for name, monitor in peers.items():
                if monitor is not None:
                    runs[f"{name}, NDVI"] = partial(monitor, one, start, changes)
            for name, run in runs.items():
                begun = time.perf_counter()
                sums.setdefault(name, Sums()).add(run(), truth, start, end, wet)
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begun
        print(
            f"\n{simulator}: {options.tiles} tiles of {options.size} x {options.size}, seeds {FIRST_TEST_SEED} and on, from {options.start}"
        )
        print(f"recall by share of the pixel: {', '.join(f'{low:g}-{min(high, 1):g}' for low, high in SHARES)}")
        for name, each in sums.items():
            print(f"{name:22s} {each.line()} | {seconds[name]:.1f} s", flush=True)
    print(f"\n{speed(*example, start)}")
    layout = array_layout((1, 1), 6, AlertConfig().window_looks, 0)
    print(", ".join(f"{name} {np.dtype(kind).itemsize * int(np.prod(shape))}" for name, (kind, shape) in layout.items()), "bytes")
    print(f"record: {kernels.RECORD} int16 a pixel")


if __name__ == "__main__":
    main()
