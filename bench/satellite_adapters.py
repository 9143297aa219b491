"""Change detectors, ours and those that pip can install, behind one call: pixels in, dates out.

In: reflectance or one index (time, band, y, x), NaN = not clear. Out: int32 days (k, y, x), `NODATE` where none, and, where a
detector tells them, which breaks are gradual. `prepare` brings the pixels into the form a detector asks for and is not timed;
`run` is. Every detector has its published default settings and, where these were not made for dates so dense, settings
chosen from `choices` on tuning seeds. It will not score and will not hide a detector that is not installed: it raises.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

NODATE = -2147483648
ORDINAL = 719163
"""`datetime.date(1970, 1, 1).toordinal()`: what a day 0 is in the proleptic calendar that CCDC programs use."""
SCALE = 10000

Bands = Literal["six", "ndvi"]
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """values: (time, band, y, x) float32, NaN = not clear. days: (time,) int64 since 1970-01-01. names: of the bands."""

    values: NDArray[np.float32]
    days: NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def bands(self) -> Bands:
        return "six" if len(self.names) == 6 else "ndvi"

    def array(self) -> xr.DataArray:
        """As xarray."""
        rows, cols = self.values.shape[2:]
        coords = {
            "time": self.days.astype("datetime64[D]").astype("datetime64[ns]"),
            "band": list(self.names),
            "y": -10.0 * np.arange(rows),
            "x": 10.0 * np.arange(cols),
        }
        return xr.DataArray(self.values, dims=("time", "band", "y", "x"), coords=coords)

    def pixels(self) -> NDArray[np.float32]:
        """(pixel, time, band)"""
        return np.ascontiguousarray(self.values.reshape(*self.values.shape[:2], -1).transpose(2, 0, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """dates: (k, y, x) int32, NODATE = none. gradual: (k, y, x) bool, or None when the detector makes no difference."""

    dates: NDArray[np.int32]
    gradual: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detector:
    """One detector.

    package: as pip knows it, module: to import. settings: by bands, its published defaults. choices: by setting, what was tried
    on tuning seeds; tuned: by bands, what was best there. whole_tiles: uses neighbours, so gets tiles and not drawn pixels.
    pixels, speed_pixels: drawn from each tile for accuracy, and in all for speed; few where it is slow. threaded: has an
    option for more than one thread.
    """

    name: str
    package: str
    module: str
    prepare: Callable[[Block], Any]
    run: Callable[[Any, Settings, int], Found]
    settings: Mapping[Bands, Settings]
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    tuned: Mapping[Bands, Settings] = field(default_factory=dict)
    whole_tiles: bool = False
    pixels: int = 2000
    speed_pixels: int = 2000
    threaded: bool = False

    def version(self) -> str:
        """Installed version, "" = not installed or not importable."""
        try:
            importlib.import_module(self.module)
            return importlib.metadata.version(self.package)
        except ImportError:  # PackageNotFoundError is one
            return ""


def _stack(rows: list[list[int]], shape: tuple[int, int]) -> Found:
    """Dates of pixels in row order."""
    depth = max(1, max(map(len, rows), default=1))
    dates = np.full((depth, len(rows)), NODATE, np.int32)
    for k, row in enumerate(rows):
        dates[: len(row), k] = row
    return Found(dates.reshape(depth, *shape))


# ------------------------------------------------------------------------------------------------ ours


def _prepare_ours(block: Block) -> Any:
    from rasterio.transform import Affine

    from geoevidence.crs import parse_crs
    from geoevidence.raster import Grid
    from satellite.types import Cube, Observed

    clear: NDArray[np.bool_] = np.asarray(np.isfinite(block.values).all(axis=1))
    stored = np.where(clear[:, None], np.rint(np.nan_to_num(block.values) * SCALE), 0).astype(np.int16)
    grid = Grid(shape=clear.shape[1:], transform=Affine(10.0, 0, 600000.0, 0, -10.0, 3300000.0), crs=parse_crs("EPSG:32650"))
    return Cube(
        stored=np.ascontiguousarray(stored),
        observed=np.where(clear, Observed.CLEAR, Observed.CLOUD).astype(np.uint8),
        days=block.days.astype(np.int32),
        bands=block.names,
        grid=grid,
        scale=1 / SCALE,
    )


def _run_ours(cube: Any, settings: Settings, threads: int) -> Found:
    from satellite import BreakConfig, detect_breaks
    from satellite.types import Pace

    breaks = detect_breaks(cube, BreakConfig(**settings), threads=threads)
    return Found(breaks.break_date, breaks.pace == Pace.GRADUAL)


# ------------------------------------------------------------------------------------------------ pyxccd: COLD, S-CCD


def _positive(values: NDArray[np.float32], bands: Bands) -> NDArray[np.float32]:
    """On the scale of CCDC programs, 0 to 10000: they take what is not positive for missing, so an index is shifted."""
    return values * np.float32(SCALE) if bands == "six" else (values + np.float32(1)) * np.float32(SCALE / 2)


def _prepare_pyxccd(block: Block) -> Any:
    """One pair (ordinal dates, scaled integers (date, band)) a pixel, clear dates only."""
    series = []
    for pixel in block.pixels():
        clear = np.isfinite(pixel).all(axis=1)
        values = np.rint(np.maximum(_positive(pixel[clear], block.bands), 1)).astype(np.int64)
        series.append((block.days[clear] + ORDINAL, np.ascontiguousarray(values.T)))
    return series, block.values.shape[2:]


def _ccdc_breaks(records: Any) -> list[int]:
    """Confirmed breaks of change records (pyxccd gives an empty array without fields where there is none)."""
    if records.dtype.names is None:
        return []
    sure = records["t_break"] > 0
    if "change_prob" in records.dtype.names:
        sure &= records["change_prob"] == 100
    return sorted(int(day) - ORDINAL for day in records["t_break"][sure])


def _run_cold(prepared: Any, settings: Settings, threads: int) -> Found:
    from pyxccd import cold_detect, cold_detect_flex

    series, shape = prepared
    rows = []
    for dates, bands in series:
        clear = np.zeros(dates.size, np.int64)
        if len(bands) == 6:
            records = cold_detect(dates, *bands, clear, clear, **settings)
        else:
            records = cold_detect_flex(
                dates, np.ascontiguousarray(bands.T), clear, tmask_b1_index=1, tmask_b2_index=1, **settings
            )
        rows.append(_ccdc_breaks(records))
    return _stack(rows, shape)


def _run_sccd(prepared: Any, settings: Settings, threads: int) -> Found:
    from pyxccd import sccd_detect, sccd_detect_flex

    series, shape = prepared
    rows = []
    for dates, bands in series:
        clear = np.zeros(dates.size, np.int64)
        if len(bands) == 6:
            result = sccd_detect(dates, *bands, clear, **settings)
        else:
            result = sccd_detect_flex(dates, np.ascontiguousarray(bands.T), clear, tmask_b1_index=1, tmask_b2_index=1, **settings)
        rows.append(_ccdc_breaks(np.asarray(result.rec_cg)))
    return _stack(rows, shape)


# ------------------------------------------------------------------------------------------------ zeit-cdts


def _prepare_zeit(block: Block) -> xr.DataArray:
    return block.array().copy(data=_positive(block.values, block.bands))


def _zeit_one_band(cube: xr.DataArray) -> dict[str, Any]:
    return {} if cube.sizes["band"] > 1 else {"detection_bands": [0], "tmask_bands": [0, 0]}


def _days_of(times: Any) -> NDArray[np.int32]:
    days = times.astype("datetime64[D]")
    return np.where(np.isnat(days), NODATE, days.astype(np.int64)).astype(np.int32)


def _run_zeit_sccd(cube: xr.DataArray, settings: Settings, threads: int) -> Found:
    import zeit

    return Found(_days_of(zeit.sccd(cube, n_jobs=threads, **_zeit_one_band(cube), **settings).t_break.values))


def _run_zeit_ccdc(cube: xr.DataArray, settings: Settings, threads: int) -> Found:
    import zeit

    return Found(_days_of(zeit.ccdc(cube, n_jobs=threads, **_zeit_one_band(cube), **settings).t_break.values))


def _prepare_regular(block: Block) -> Any:
    """Means of 16 days on a regular axis of 23 a year, which BFAST asks for, and the middle day of each."""
    start = int(np.datetime64("2018-01-01").astype("datetime64[D]").astype(np.int64))
    step = 365.25 / 23
    where = ((block.days - start) / step).astype(int)
    total = int(where.max()) + 1
    binned = np.full((total, *block.values.shape[2:]), np.nan, np.float32)
    for k in range(total):
        chosen = block.values[where == k, 0]
        seen = np.isfinite(chosen)
        if seen.any():
            np.divide(np.where(seen, chosen, 0).sum(axis=0), seen.sum(axis=0), out=binned[k], where=seen.any(axis=0))
    return binned, (start + step * (np.arange(total) + 0.5)).astype(np.int64)


def _at(index: Any, middle: NDArray[np.int64]) -> NDArray[np.int32]:
    """Days of positions on the regular axis, NaN = none."""
    none = np.isnan(index)
    place = np.clip(np.nan_to_num(index, nan=0).astype(int), 0, middle.size - 1)
    return np.where(none, NODATE, middle[place]).astype(np.int32)


def _run_bfast_monitor(prepared: Any, settings: Settings, threads: int) -> Found:
    import zeit

    values, middle = prepared
    result = zeit.bfast_monitor(_regular(values), start_time=2018.0, frequency=23, n_jobs=threads, **settings)
    dates = _at(result.breakpoint_idx.values, middle)
    return Found(np.where(result.has_break.values > 0, dates, NODATE).astype(np.int32)[None])


def _run_bfast_lite(prepared: Any, settings: Settings, threads: int) -> Found:
    import zeit

    values, middle = prepared
    result = zeit.bfast_lite(_regular(values), start_time=2018.0, frequency=23, max_breaks=5, n_jobs=threads, **settings)
    # the index is that of the last value before the break
    return Found(np.stack([_at(result[f"breakpoint_idx_{k}"].values + 1, middle) for k in range(1, 6)]))


def _run_bfast(prepared: Any, settings: Settings, threads: int) -> Found:
    import zeit

    values, middle = prepared
    result = zeit.bfast(_regular(values), start_time=2018.0, frequency=23, n_jobs=threads, **settings)
    names = [f"{part}_breakpoint_idx_{k}" for part in ("trend", "season") for k in range(1, 6)]
    return Found(_once(np.stack([_at(result[name].values + 1, middle) for name in names if name in result])))


def _regular(values: NDArray[np.float32]) -> xr.DataArray:
    return xr.DataArray(
        values, dims=("time", "y", "x"), coords={"y": np.arange(values.shape[1]), "x": np.arange(values.shape[2])}
    )


def _once(dates: NDArray[np.int32], within: int = 60) -> NDArray[np.int32]:
    """Trend and season of one change are often dated some days apart: of breaks that near, the first stays."""
    late = np.iinfo(np.int32).max
    ordered = np.sort(np.where(dates == NODATE, late, dates), axis=0).astype(np.int64)
    last = np.full(ordered.shape[1:], -(10**9), np.int64)
    for k in range(len(ordered)):
        repeated = ordered[k] - last < within
        last = np.where(repeated | (ordered[k] == late), last, ordered[k])
        ordered[k][repeated] = late
    return np.where(ordered == late, NODATE, ordered).astype(np.int32)


# ------------------------------------------------------------------------------------------------ nrt


def _prepare_nrt(block: Block) -> xr.DataArray:
    return block.array().isel(band=0, drop=True)


def _nrt(module: str, name: str) -> Callable[[Any, Settings, int], Found]:
    """Fit on the history, then one call a date, as its documentation shows; it reports one break a pixel at most."""

    def run(cube: xr.DataArray, settings: Settings, threads: int) -> Found:
        monitor_class = getattr(importlib.import_module(module), name)
        chosen = dict(settings)
        since = np.datetime64("2018-01-01") + np.timedelta64(round(365.25 * chosen.pop("history_years")), "D")
        fit = {key: chosen.pop(key) for key in ("method", "alpha", "screen_outliers") if key in chosen}
        monitor = monitor_class(**chosen)
        history = cube.sel(time=cube.time < since)
        monitor.fit(dataarray=history, **fit)
        later = cube.sel(time=cube.time >= since)
        for scene, time in zip(later.values, later.time.values.astype("datetime64[D]").astype(np.int64), strict=True):
            monitor.monitor(array=scene, date=datetime(1970, 1, 1) + timedelta(days=int(time)))
        dates = monitor.detection_date
        return Found(np.where(dates == 0, NODATE, dates.astype(np.int64)).astype(np.int32)[None])

    return run


# ------------------------------------------------------------------------------------------------ ruptures


def _prepare_ruptures(block: Block) -> Any:
    return block.pixels(), block.days, block.values.shape[2:]


def _run_ruptures(prepared: Any, settings: Settings, threads: int) -> Found:
    """Kernel change points (Arlot, Celisse and Harchaoui 2019, JMLR 20:162) of the residuals of one harmonic fit."""
    import ruptures

    pixels, days, shape = prepared
    order = settings["harmonic_order"]
    angle = 2 * np.pi * days / 365.2425
    waves = [wave(k * angle) for k in range(1, order + 1) for wave in (np.cos, np.sin)]
    design = np.stack([np.ones(days.size), *waves], axis=1)
    rows = []
    for pixel in pixels:
        clear = np.isfinite(pixel).all(axis=1)
        x, y = design[clear], pixel[clear].astype(np.float64)
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        centre = np.median(residual, axis=0)
        spread = 1.4826 * np.median(np.abs(residual - centre), axis=0)
        signal = (residual - centre) / np.maximum(spread, 1e-6)
        params = {"gamma": settings["gamma"] / signal.shape[1]} if settings["kernel"] == "rbf" and settings["gamma"] else {}
        search = ruptures.KernelCPD(kernel=settings["kernel"], min_size=settings["min_size"], params=params)
        found = search.fit(signal).predict(pen=settings["pen"])
        seen = days[clear]
        rows.append([int(seen[k]) for k in found[:-1]])
    return _stack(rows, shape)


# ------------------------------------------------------------------------------------------------ Rbeast


def _prepare_rbeast(block: Block) -> Any:
    series = block.values[:, 0].reshape(block.values.shape[0], -1).astype(np.float64)
    return np.ascontiguousarray(series), block.days, block.values.shape[2:]


def _run_rbeast(prepared: Any, settings: Settings, threads: int) -> Found:
    """BEAST (Zhao et al. 2019, doi:10.1016/j.rse.2019.04.034): change points whose probability exceeds a limit."""
    import Rbeast

    series, days, shape = prepared
    start = int(np.datetime64("2018-01-01").astype("datetime64[D]").astype(np.int64))
    metadata = Rbeast.args(
        isRegularOrdered=False,
        whichDimIsTime=1,
        time=2018 + (days - start) / 365.25,
        startTime=2018.0,
        deltaTime=settings["delta_days"] / 365.25,
        period=1.0,
        missingValue=float("nan"),
        maxMissingRate=0.9,
        season="harmonic",
        hasOutlier=settings["outliers"],
    )
    prior = Rbeast.args(trendMaxOrder=settings["trend_order"], seasonMaxKnotNum=settings["season_breaks"])
    quiet = Rbeast.args(
        printProgressBar=False, printOptions=False, quiet=True, numThreadsPerCPU=1, numParThreads=threads, dumpInputData=False
    )
    result = Rbeast.beast123(series, metadata, prior, Rbeast.args(seed=1), quiet)
    parts = []
    for part in (result.trend, result.season) if settings["season_breaks"] else (result.trend,):
        when, sure = (np.asarray(value, np.float64).reshape(-1, series.shape[1]) for value in (part.cp, part.cpPr))
        with np.errstate(invalid="ignore"):
            taken = np.isfinite(when) & (sure > settings["probability"])
        day = np.where(taken, start + (np.nan_to_num(when) - 2018) * 365.25, NODATE)
        parts.append(day.astype(np.int32))
    return Found(_once(np.concatenate(parts)).reshape(-1, *shape))


# ------------------------------------------------------------------------------------------------ all of them

_CCDC_CHOICES: dict[str, tuple[Any, ...]] = {"p_cg": (0.99, 0.999, 0.9999, 0.99999), "conse": (6, 8)}
_MOSUM: dict[str, Any] = {
    "history_years": 2,
    "trend": False,
    "harmonic_order": 2,
    "sensitivity": 0.05,
    "h": 0.25,
    "method": "ROC",
    "alpha": 0.05,
}
# ruptures has no default penalty: these were the best on tuning seeds
_KERNEL: dict[str, Any] = {"harmonic_order": 3, "kernel": "rbf", "gamma": None, "min_size": 8, "pen": 8.0}

DETECTORS: tuple[Detector, ...] = (
    Detector(
        name="ours",
        package="geoevidence",
        module="satellite",
        prepare=_prepare_ours,
        run=_run_ours,
        settings={"six": {}, "ndvi": {}},
        whole_tiles=True,
        speed_pixels=20000,
        threaded=True,
    ),
    Detector(
        name="COLD",
        package="pyxccd",
        module="pyxccd",
        prepare=_prepare_pyxccd,
        run=_run_cold,
        settings={"six": {"p_cg": 0.99, "conse": 6, "lam": 20}, "ndvi": {"p_cg": 0.99, "conse": 6, "lam": 20}},
        choices={"p_cg": (0.99, 0.999, 0.9999, 0.99999), "conse": (6, 8, 11)},
        tuned={"six": {"p_cg": 0.99999, "conse": 11}, "ndvi": {"p_cg": 0.99999, "conse": 11}},
        speed_pixels=1000,
    ),
    Detector(
        name="S-CCD (pyxccd)",
        package="pyxccd",
        module="pyxccd",
        prepare=_prepare_pyxccd,
        run=_run_sccd,
        settings={"six": {"p_cg": 0.99, "conse": 6, "lam": 20}, "ndvi": {"p_cg": 0.99, "conse": 6, "lam": 20}},
        choices=_CCDC_CHOICES,
        tuned={"six": {"p_cg": 0.99999, "conse": 8}, "ndvi": {"p_cg": 0.99999, "conse": 6}},
        speed_pixels=1000,
    ),
    Detector(
        name="S-CCD (zeit)",
        package="zeit-cdts",
        module="zeit",
        prepare=_prepare_zeit,
        run=_run_zeit_sccd,
        settings={"six": {"prob_threshold": 0.99, "conse": 6}, "ndvi": {"prob_threshold": 0.99, "conse": 6}},
        choices={"prob_threshold": (0.99, 0.999, 0.9999, 0.99999), "conse": (6, 10, 14, 20)},
        tuned={"six": {"conse": 20}, "ndvi": {"conse": 20}},
        speed_pixels=10000,
        threaded=True,
    ),
    Detector(
        name="CCDC (zeit)",
        package="zeit-cdts",
        module="zeit",
        prepare=_prepare_zeit,
        run=_run_zeit_ccdc,
        settings={
            "six": {"chi2_prob_threshold": 0.99, "conseq_anom": 6},
            "ndvi": {"chi2_prob_threshold": 0.99, "conseq_anom": 6},
        },
        choices={"chi2_prob_threshold": (0.99, 0.999, 0.9999, 0.99999), "conseq_anom": (6, 10, 14, 20)},
        tuned={
            "six": {"chi2_prob_threshold": 0.99999, "conseq_anom": 20},
            "ndvi": {"chi2_prob_threshold": 0.99, "conseq_anom": 20},
        },
        speed_pixels=5000,
        threaded=True,
    ),
    Detector(
        name="kernel change point",
        package="ruptures",
        module="ruptures",
        prepare=_prepare_ruptures,
        run=_run_ruptures,
        settings={"six": _KERNEL, "ndvi": {**_KERNEL, "pen": 12.0}},
        choices={"pen": (3.0, 5.0, 8.0, 12.0), "min_size": (8, 15), "harmonic_order": (2, 3)},
        pixels=1000,
        speed_pixels=500,
    ),
    Detector(
        name="BEAST",
        package="Rbeast",
        module="Rbeast",
        prepare=_prepare_rbeast,
        run=_run_rbeast,
        settings={"ndvi": {"delta_days": 10.0, "probability": 0.5, "trend_order": 1, "season_breaks": 5, "outliers": False}},
        choices={"probability": (0.5, 0.9, 0.99), "trend_order": (0, 1), "season_breaks": (0, 5), "outliers": (False, True)},
        tuned={"ndvi": {"probability": 0.99}},
        pixels=250,
        speed_pixels=60,
    ),
    Detector(
        name="BFAST monitor (zeit)",
        package="zeit-cdts",
        module="zeit",
        prepare=_prepare_regular,
        run=_run_bfast_monitor,
        settings={"ndvi": {"monitor_start": 2020.0, "order": 3, "h": 0.25, "alpha": 0.05}},
        choices={"monitor_start": (2019.0, 2020.0), "order": (1, 2, 3), "h": (0.25, 1.0), "alpha": (0.05, 0.01, 0.001)},
        tuned={"ndvi": {"order": 2, "alpha": 0.001}},
        speed_pixels=20000,
        threaded=True,
    ),
    Detector(
        name="BFAST lite (zeit)",
        package="zeit-cdts",
        module="zeit",
        prepare=_prepare_regular,
        run=_run_bfast_lite,
        settings={"ndvi": {"order": 3, "h": 0.15}},
        choices={"order": (1, 2, 3), "h": (0.15, 0.25)},
        tuned={"ndvi": {"h": 0.25}},
        pixels=1000,
        speed_pixels=1000,
        threaded=True,
    ),
    Detector(
        name="BFAST (zeit)",
        package="zeit-cdts",
        module="zeit",
        prepare=_prepare_regular,
        run=_run_bfast,
        settings={"ndvi": {"order": 3, "h": 0.15, "level": 0.05}},
        choices={"h": (0.15, 0.25), "level": (0.05, 0.001)},
        tuned={"ndvi": {"h": 0.25}},
        pixels=500,
        speed_pixels=500,
        threaded=True,
    ),
    Detector(
        name="MoSum (nrt)",
        package="nrt",
        module="nrt.monitor.mosum",
        prepare=_prepare_nrt,
        run=_nrt("nrt.monitor.mosum", "MoSum"),
        settings={"ndvi": _MOSUM},
        choices={
            "history_years": (1, 2),
            "harmonic_order": (2, 3),
            "sensitivity": (0.05, 0.001),
            "h": (0.25, 0.5),
            "method": ("ROC", "OLS"),
        },
        tuned={"ndvi": {"sensitivity": 0.001, "h": 0.5, "method": "OLS"}},
        speed_pixels=10000,
    ),
    Detector(
        name="CuSum (nrt)",
        package="nrt",
        module="nrt.monitor.cusum",
        prepare=_prepare_nrt,
        run=_nrt("nrt.monitor.cusum", "CuSum"),
        settings={"ndvi": {k: v for k, v in _MOSUM.items() if k != "h"}},
        choices={"history_years": (1, 2), "harmonic_order": (2, 3), "sensitivity": (0.05, 0.001), "method": ("ROC", "OLS")},
        tuned={"ndvi": {"sensitivity": 0.001, "method": "OLS"}},
        speed_pixels=10000,
    ),
    Detector(
        name="EWMA (nrt)",
        package="nrt",
        module="nrt.monitor.ewma",
        prepare=_prepare_nrt,
        run=_nrt("nrt.monitor.ewma", "EWMA"),
        settings={"ndvi": {"history_years": 2, "trend": False, "harmonic_order": 2, "sensitivity": 2, "lambda_": 0.3}},
        choices={"history_years": (1, 2), "harmonic_order": (2, 3), "sensitivity": (2, 5, 12, 20), "lambda_": (0.3, 0.1)},
        tuned={"ndvi": {"sensitivity": 12}},
        speed_pixels=10000,
    ),
    Detector(
        name="IQR (nrt)",
        package="nrt",
        module="nrt.monitor.iqr",
        prepare=_prepare_nrt,
        run=_nrt("nrt.monitor.iqr", "IQR"),
        settings={"ndvi": {"history_years": 2, "trend": False, "harmonic_order": 3, "sensitivity": 1.5, "boundary": 3}},
        choices={"history_years": (1, 2), "harmonic_order": (2, 3), "sensitivity": (1.5, 3, 5), "boundary": (3, 6, 10)},
        tuned={"ndvi": {"harmonic_order": 2, "sensitivity": 5}},
        speed_pixels=10000,
    ),
    Detector(
        name="CCDC (nrt)",
        package="nrt",
        module="nrt.monitor.ccdc",
        prepare=_prepare_nrt,
        run=_nrt("nrt.monitor.ccdc", "CCDC"),
        settings={
            "ndvi": {
                "history_years": 2,
                "trend": True,
                "harmonic_order": 2,
                "sensitivity": 3,
                "boundary": 3,
                "method": "CCDC-stable",
                "screen_outliers": None,
            }
        },
        choices={"history_years": (1, 2), "sensitivity": (3, 5), "boundary": (3, 6, 10), "method": ("CCDC-stable", "OLS")},
        tuned={"ndvi": {"sensitivity": 5, "method": "OLS"}},
        speed_pixels=10000,
    ),
)
