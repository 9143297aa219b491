"""Ours and the detectors that pip can install, on two simulators' test seeds, in one run: accuracy, speed, memory.

    python bench/satellite_peers.py [--seeds 101 102 103] [--pixels N] [--peers ours COLD ...] [--quick] [--tune]

Every detector runs in a process of its own, one after the other: a detector that dies or is not installed is a line in the
table, never silence. Dates are judged by `bench/scoring.py`. `--tune` tries each peer's settings on the tuning seeds 1-3
instead and prints the best; the winners stand in `bench/satellite_adapters.py`. It will not write anything.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.satellite_adapters import DETECTORS, Bands, Block, Detector, Found
from bench.satellite_independent import BANDS, FIRST_DAY, LAST_DAY, Cover, Kind, Truth, independent_tile
from bench.scoring import SHARE_BINS, Reference, Score, score

NODATE = -2147483648
KINDS = ("land", "water")
TUNING_SEEDS = (1, 2, 3)
TEST_SEEDS = (101, 102, 103)
SIMULATORS = ("independent", "satellite.synthetic")


# ------------------------------------------------------------------------------------------------ tiles and their truth


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """path: of the reflectance (time, band, y, x) float32 as .npy. days: (time,) int64. truth: of every pixel."""

    path: Path
    days: NDArray[np.int64]
    truth: Reference


def reference_of_independent(truth: Truth) -> Reference:
    """Truth of the second simulator."""
    stable = truth.kind == Kind.STABLE
    return Reference(
        breaks=truth.break_date,
        abrupt=(truth.kind == Kind.ABRUPT) | (truth.kind == Kind.REGROWTH),
        gradual=truth.kind == Kind.GRADUAL,
        stable=stable,
        share=truth.share,
        seasonal_flat=stable & (truth.cover == Cover.FLAT),
        double_crop=stable & (truth.cover == Cover.DOUBLE_CROP),
        start=truth.start,
        end=truth.end,
        years=(LAST_DAY - FIRST_DAY + 1) / 365.25,
    )


def reference_of_own(site: Any) -> Reference:
    """Truth of a `satellite.synthetic.SimulatedCube`. Pixels with a gradual change are gradual whatever else happens there."""
    from satellite.synthetic import CLASSES

    days = site.observed["time"].values.astype("datetime64[D]").astype(np.int64)
    true = site.breaks
    dated = true.day != NODATE
    slow = (dated & (true.duration > 0)).any(axis=0)
    changed = dated.any(axis=0)
    first = np.where(dated & (true.duration > 0), true.day, np.iinfo(np.int32).max).min(axis=0)
    last = np.where(dated & (true.duration > 0), true.day.astype(np.int64) + true.duration, NODATE).max(axis=0)
    return Reference(
        breaks=true.day,
        abrupt=changed & ~slow,
        gradual=slow,
        stable=site.stable & ~changed,
        share=true.fraction.max(axis=0),
        seasonal_flat=site.stable & site.flats,
        double_crop=site.stable & (site.land == CLASSES.index("double_crop")),
        start=np.where(slow, first, NODATE).astype(np.int32),
        end=np.where(slow, last, NODATE).astype(np.int32),
        years=float(days[-1] - days[0] + 1) / 365.25,
    )


def make_tile(simulator: str, kind: Any, seed: int, shape: tuple[int, int], folder: Path) -> Tile:
    """Simulates a tile and keeps its cube on disk."""
    if simulator == "independent":
        cube, truth = independent_tile(kind, seed, shape)
        reference = reference_of_independent(truth)
    else:
        from satellite.synthetic import benchmark_config, simulate

        site = simulate(benchmark_config(kind, shape=shape), seed=seed)
        cube, reference = site.reflectance.sel(band=list(BANDS)), reference_of_own(site)
    path = folder / f"{simulator}_{kind}_{seed}.npy"
    np.save(path, np.ascontiguousarray(cube.values, np.float32))
    return Tile(path, cube.time.values.astype("datetime64[D]").astype(np.int64), reference)


def draw_pixels(tile: Tile, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Positions in the flattened tile, the same for every detector that gets as many; whole hundreds or all."""
    size = tile.truth.stable.size
    if count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng([seed, 77]).permutation(size)[:count])


def load_block(path: Path, days: NDArray[np.int64], bands: Bands, at: NDArray[np.int64] | None) -> Block:
    """Pixels of a tile, as they lie (at = None) or the chosen ones in a row."""
    values = np.load(path)
    if at is not None:
        values = values.reshape(*values.shape[:2], 1, -1)[:, :, :, at]
    return as_block(values, days, bands)


def as_block(values: NDArray[np.float32], days: NDArray[np.int64], bands: Bands) -> Block:
    if bands == "six":
        return Block(np.ascontiguousarray(values), days, BANDS)
    red, nir = values[:, BANDS.index("red")], values[:, BANDS.index("nir")]
    with np.errstate(divide="ignore", invalid="ignore"):
        index = np.clip((nir - red) / (nir + red), -1, 1)
    return Block(np.ascontiguousarray(index[:, None], np.float32), days, ("ndvi",))


def part_of(truth: Reference, at: NDArray[np.int64] | None) -> Reference:
    """The truth of chosen pixels, in a row."""
    if at is None:
        return truth
    chosen = {}
    for name in ("breaks", "abrupt", "gradual", "stable", "share", "seasonal_flat", "double_crop", "start", "end"):
        values = getattr(truth, name)
        chosen[name] = values.reshape(*values.shape[:-2], 1, -1)[..., at]
    return Reference(**chosen, years=truth.years)


# ------------------------------------------------------------------------------------------------ in a process of its own


def _detector(name: str) -> Detector:
    return next(each for each in DETECTORS if each.name == name)


def _detect_all(
    name: str, bands: Bands, settings: Sequence[Mapping[str, Any]], jobs: Sequence[tuple[Any, ...]]
) -> list[list[Found]]:
    """Dates of every tile (inner) under all settings (outer)."""
    detector = _detector(name)
    found: list[list[Found]] = [[] for _ in settings]
    for path, days, at in jobs:
        prepared = detector.prepare(load_block(path, days, bands, at))
        for k, chosen in enumerate(settings):
            found[k].append(detector.run(prepared, chosen, 1))
    return found


def _high_water() -> int:
    """Largest resident memory of this process since it was last reset, bytes (Linux)."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1])


def _measure(
    name: str, bands: Bands, settings: Mapping[str, Any], block_of: tuple[Any, ...], threads: int, repeats: int
) -> dict[str, float]:
    """Pixels a second and a processor second, best of `repeats`, and bytes a pixel beyond the prepared input.

    Processor seconds of all threads together do not suffer from what else the machine does, so ratios are made of them.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    detector = _detector(name)
    paths, days, count = block_of
    parts = [np.load(path) for path in paths]
    values = np.concatenate([part.reshape(*part.shape[:2], 1, -1) for part in parts], axis=3)
    del parts
    order = np.random.default_rng(5).permutation(values.shape[3])
    count = min(count, values.shape[3])
    rows = max(1, count // 100)
    count = rows * (count // rows)
    values = np.ascontiguousarray(values[:, :, 0, order[:count]]).reshape(*values.shape[:2], rows, -1)
    prepared = detector.prepare(as_block(values, days, bands))
    warm = detector.prepare(as_block(np.ascontiguousarray(values[:, :, :1, :40]), days, bands))
    del values
    detector.run(warm, settings, threads)
    best = busy = float("inf")
    memory = 0
    for _ in range(repeats):
        Path("/proc/self/clear_refs").write_text("5")  # the high water mark starts anew
        before = _high_water()
        start, cpu = time.perf_counter(), time.process_time()
        detector.run(prepared, settings, threads)
        best, busy = min(best, time.perf_counter() - start), min(busy, time.process_time() - cpu)
        memory = max(memory, _high_water() - before)
    return {"rate": count / best, "cpu_rate": count / busy, "memory": memory / count, "pixels": count}


def _alone(task: Any, *arguments: Any, threads: int = 1) -> Any:
    """Runs a task in a new process whose libraries start `threads` threads; its failure is returned as text."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(task, *arguments).result()
    except BrokenProcessPool:
        return "failed: the process died"
    except Exception as error:  # a peer may raise anything; the table says what
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ------------------------------------------------------------------------------------------------ what is measured


def judge(
    detector: Detector, bands: Bands, settings: Sequence[Mapping[str, Any]], tiles: Sequence[Tile], pixels: int | None
) -> list[Score] | str:
    """Scores under all settings over all tiles, or why there is none."""
    count = detector.pixels if pixels is None else min(pixels, detector.pixels)
    chosen = [None if detector.whole_tiles else draw_pixels(tile, count) for tile in tiles]
    jobs = [(tile.path, tile.days, at) for tile, at in zip(tiles, chosen, strict=True)]
    found = _alone(_detect_all, detector.name, bands, settings, jobs)
    if isinstance(found, str):
        return found
    scores = []
    for each in found:
        total = Score()
        for tile, at, dates in zip(tiles, chosen, each, strict=True):
            total += score(dates.dates, part_of(tile.truth, at), is_gradual=dates.gradual)
        scores.append(total)
    return scores


def combinations(detector: Detector, bands: Bands) -> list[dict[str, Any]]:
    """All settings that `--tune` tries."""
    names = list(detector.choices)
    return [
        {**detector.settings[bands], **dict(zip(names, values, strict=True))}
        for values in itertools.product(*(detector.choices[name] for name in names))
    ]


def variants(detector: Detector, bands: Bands) -> list[tuple[str, Mapping[str, Any]]]:
    """Published defaults, and what was best on tuning seeds where that differs."""
    listed: list[tuple[str, Mapping[str, Any]]] = [("", detector.settings[bands])]
    if bands in detector.tuned:
        listed = [("defaults", detector.settings[bands]), ("tuned", {**detector.settings[bands], **detector.tuned[bands]})]
    return listed


ACCURACY = ("F1", "precision", "recall", "false /px-year", "date error median (p90), d", "flats flagged", "double crops flagged")


def accuracy_cells(result: Score) -> list[str]:
    return [
        f"{result.f1:.3f}",
        f"{result.precision:.3f}",
        f"{result.recall:.3f}",
        f"{result.false_rate:.4f}",
        f"{result.median_error:.0f} ({result.p90_error:.0f})",
        f"{100 * result.flats_share:.1f} %",
        f"{100 * result.double_crop_share:.1f} %",
    ]


def curve_cells(result: Score) -> list[str]:
    rates = [f"{value:.2f}" for value in result.recall_by_share()]
    slow = result.gradual or 1
    told, other = result.gradual_as_gradual / slow, result.gradual_as_abrupt / slow
    return [*rates, f"{told:.2f} / {other:.2f} / {1 - told - other:.2f}"]


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def label(detector: Detector, variant: str) -> str:
    return f"{detector.name}{', ' + variant if variant else ''}"


def report_accuracy(
    detectors: Sequence[Detector], bands: Bands, simulator: str, tiles: Sequence[Tile], pixels: int | None
) -> None:
    rows, curves = [], []
    for detector in detectors:
        if bands not in detector.settings:
            continue
        if not detector.version():
            rows.append([detector.name, "not installed", *[""] * (len(ACCURACY))])
            continue
        listed = variants(detector, bands)
        scores = judge(detector, bands, [settings for _, settings in listed], tiles, pixels)
        if isinstance(scores, str):
            rows.append([detector.name, scores, *[""] * (len(ACCURACY))])
            continue
        for (variant, _), result in zip(listed, scores, strict=True):
            judged = result.stable_pixels + int(result.share_breaks.sum()) + result.gradual
            rows.append([label(detector, variant), *accuracy_cells(result), f"{judged}"])
            curves.append([label(detector, variant), *curve_cells(result)])
    what = "6 bands" if bands == "six" else "NDVI"
    print_table(f"Accuracy, {what}, {simulator}", ("detector", *ACCURACY, "pixels"), rows)
    head = ("detector", *(f"{100 * share:g} %" for share in SHARE_BINS), "gradual: told / as abrupt / not found")
    print_table(f"Recall by share of the pixel, {what}, {simulator}", head, curves)


def report_speed(detectors: Sequence[Detector], tiles: Sequence[Tile], pixels: int | None, repeats: int) -> None:
    rates: dict[tuple[str, Bands], float] = {}
    rows = []
    both: tuple[Bands, ...] = ("six", "ndvi")
    for bands in both:
        for detector in detectors:
            if bands not in detector.settings:
                continue
            what = "6" if bands == "six" else "1"
            if not detector.version():
                rows.append([detector.name, what, "not installed", "", "", "", "", ""])
                continue
            settings = variants(detector, bands)[-1][1]
            count = detector.speed_pixels if pixels is None else min(pixels, detector.speed_pixels)
            block = ([tile.path for tile in tiles], tiles[0].days, count)
            call = (_measure, detector.name, bands, settings, block)
            one: Any = _alone(*call, 1, repeats, threads=1)
            two: Any = _alone(*call, 2, repeats, threads=2) if detector.threaded else None
            if isinstance(one, str):
                rows.append([detector.name, what, one, "", "", "", "", ""])
                continue
            rates[detector.name, bands] = one["cpu_rate"]
            row = [detector.name, what, f"{one['cpu_rate']:,.0f}", f"{one['rate']:,.0f}"]
            if two is None or isinstance(two, str):
                row += [two or "", ""]
            else:
                row += [f"{two['rate']:,.0f}", f"{two['rate'] / one['rate']:.2f}"]
            rows.append([*row, f"{one['memory'] / 1024:.1f}", f"{one['pixels']:,.0f}"])
    head = (
        "detector",
        "bands",
        "px/processor s",
        "px/s, 1 thread",
        "px/s, 2 threads",
        "ratio",
        "KB a pixel beyond input",
        "pixels",
    )
    print_table("Speed and memory, 322 dates", head, rows)
    against = [
        ["6 bands" if bands == "six" else "NDVI", name, f"{rates['ours', bands] / rate:.1f}"]
        for (name, bands), rate in rates.items()
        if name != "ours" and ("ours", bands) in rates
    ]
    if against:
        print_table("How many times as fast we are, one thread, by processor seconds", ("bands", "than", "ratio"), against)


def tune(detectors: Sequence[Detector], tiles: Mapping[str, Sequence[Tile]], pixels: int | None) -> None:
    """Prints the settings with the best mean F1 over both simulators."""
    rows = []
    for detector in detectors:
        for bands in detector.settings:
            if not detector.version() or not detector.choices:
                continue
            tried = combinations(detector, bands)
            results = {name: judge(detector, bands, tried, list(each), pixels) for name, each in tiles.items()}
            bad = [result for result in results.values() if isinstance(result, str)]
            if bad:
                rows.append([detector.name, bands, bad[0], ""])
                continue
            means = [
                float(np.mean([scores[k].f1 for scores in results.values() if not isinstance(scores, str)]))
                for k in range(len(tried))
            ]
            # NaN: no break anywhere
            best = int(np.nanargmax(means))
            chosen = {key: tried[best][key] for key in detector.choices}
            each = ", ".join(f"{scores[best].f1:.3f}" for scores in results.values() if not isinstance(scores, str))
            rows.append(
                [detector.name, bands, json.dumps(chosen), f"{means[best]:.3f} ({each}), worst tried {np.nanmin(means):.3f}"]
            )
            print("\t".join(rows[-1]), flush=True)
    print_table("Best on tuning seeds", ("detector", "bands", "settings", "F1"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="+", help=f"of test tiles, at least 101 (default {TEST_SEEDS}); with --tune below 100"
    )
    parser.add_argument("--pixels", type=int, help="at most so many a tile for peers, and in all for speed")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these: " + ", ".join(each.name for each in DETECTORS))
    parser.add_argument("--simulators", nargs="+", choices=SIMULATORS, default=list(SIMULATORS))
    parser.add_argument("--size", type=int, default=100, help="rows and columns of a tile")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, tiles of 40 x 40, at most 200 pixels: shows that all runs"
    )
    parser.add_argument("--tune", action="store_true", help="choose peers' settings on the tuning seeds")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-accuracy", action="store_true")
    options = parser.parse_args()
    seeds = options.seeds or (TUNING_SEEDS if options.tune else TEST_SEEDS)
    if any((seed >= 100) == options.tune for seed in seeds):
        parser.error("settings are chosen on seeds below 100 and measured on seeds from 101")
    size, pixels = options.size, options.pixels
    if options.quick:
        seeds, size, pixels = seeds[:1], 40, min(pixels or 200, 200)
    unknown = set(options.peers or ()) - {each.name for each in DETECTORS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    detectors = [each for each in DETECTORS if not options.peers or each.name in options.peers]

    print(f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    print(", ".join(f"{each.name}: {each.package} {each.version() or 'not installed'}" for each in detectors))
    with tempfile.TemporaryDirectory() as folder:
        tiles = {
            simulator: [make_tile(simulator, kind, seed, (size, size), Path(folder)) for seed in seeds for kind in KINDS]
            for simulator in options.simulators
        }
        if options.tune:
            tune([each for each in detectors if each.name != "ours"], tiles, pixels)
            return
        if not options.no_accuracy:
            print(f"\nSeeds {', '.join(map(str, seeds))}, tiles of {size} x {size}, land and water")
            for bands in ("six", "ndvi"):
                for simulator, each in tiles.items():
                    report_accuracy(detectors, bands, simulator, each, pixels)
        if not options.no_speed:
            report_speed(detectors, next(iter(tiles.values()))[:2], pixels, 1 if options.quick else 3)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
