"""A region scan end to end, from tiled GeoTIFFs to events, against the detector alone on the same pixels in memory.

    python bench/satellite_scan.py [--side 1024] [--workers 2] [--index] [--folder DIR] [--codec DEFLATE]

Scenes: `satellite.synthetic`, 322 dates 2018-2023, six bands (or one index) and a quality band, 128 x 128 pixels repeated with
flips and independent noise of 2 units of the last place, so that compression finds no repeats; blocks of 512 and overviews as
a COG has them. The scan runs in a process of its own, so that its memory is its own; each stage is told in seconds on the clock
and in processor time of all processes, since other programs move the former. The folder of scenes is kept when `--folder` is
given, and used again when it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
from rasterio.enums import Resampling

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from satellite.fused import Bench, Job
from satellite.region import ScanConfig, ScanRequest, scan_region
from satellite.scenes import read_scenes
from satellite.segment import detect_block
from satellite.sparse import Box
from satellite.stack import Stack
from satellite.synthetic import BANDS, benchmark_config, scene_name, simulate

SMALL = 128
SEED = 905


def write_scenes(folder: Path, side: int, *, index: bool, codec: str) -> None:
    """The scenes as one file a date with internal blocks of 512 x 512."""
    folder.mkdir(parents=True, exist_ok=True)
    site = simulate(benchmark_config("land", shape=(SMALL, SMALL), change_share=0.02), seed=SEED)
    rng = np.random.default_rng(SEED)
    times = -(-side // SMALL)
    flips = rng.integers(0, 4, (times, times))
    names = ("NDVI",) if index else BANDS
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": len(names) + 1, "dtype": "int16", "nodata": -9999, "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": codec, "predictor": 2, "crs": "EPSG:32650", "interleave": "band",
        "transform": site.grid.transform,
    }  # fmt: skip
    for number, day in enumerate(site.dates):
        values = site.observed.values[number].astype(np.float64)
        if index:
            nir, red = values[BANDS.index("nir")], values[BANDS.index("red")]
            values = ((nir - red) / (nir + red))[None]
        stored = np.where(np.isnan(values), -9999, np.rint(values * 1e4)).astype(np.int16)
        layers = np.concatenate([stored, site.quality.values[number].astype(np.int16)[None]])
        parts = [[layers[:, :: 1 - 2 * (f & 1), :: 1 - (f & 2)] for f in row] for row in flips]
        whole = np.concatenate([np.concatenate(row, axis=2) for row in parts], axis=1)[:, :side, :side].copy()
        noise = rng.integers(-2, 3, whole[:-1].shape, np.int16)
        whole[:-1] += np.where(whole[:-1] == -9999, np.int16(0), noise)
        with rasterio.open(folder / scene_name(day), "w", **profile) as target:
            target.write(whole)
            target.descriptions = (*names, "quality")
            target.update_tags(GEOEVIDENCE_SYNTHETIC="yes", ACQUIRED=day.isoformat())
        add_overviews(folder / scene_name(day), side)
    bands = ", ".join(f'"{name}"' for name in names)
    text = f'sensor = "synthetic"\nbands = [{bands}]\nscale = 0.0001\noffset = 0.0\nnodata = -9999\nquality = "quality"\n'
    (folder / "stack.toml").write_text(text + "clear = [4, 5, 6]\nsynthetic = true\n", encoding="utf-8")


def add_overviews(path: Path, side: int) -> None:
    """Reduced copies down to one block of 512, as the COG driver makes them."""
    factors = [2**n for n in range(1, 12) if side / 2 ** (n - 1) > 512]
    if factors:
        with rasterio.open(path, "r+") as target:
            target.build_overviews(factors, Resampling.nearest)


def job_of(stack: Stack, config: ScanConfig) -> Job:
    monitor = config.monitor
    return Job(stack=stack, breaks=monitor.breaks, events=monitor.events, region=None, registration=None, parameters={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--codec", default="DEFLATE", choices=["DEFLATE", "ZSTD", "LZW"])
    parser.add_argument("--scan", type=Path, help="only scan into this folder and tell it as JSON")
    options = parser.parse_args()
    if options.scan is not None:
        print(json.dumps(scanned(options.folder, options.scan, options.workers)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "scenes"
        if not (folder / "stack.toml").is_file():
            write_scenes(folder, options.side, index=options.index, codec=options.codec)
        measure(folder, Path(scratch), options.workers)


def used() -> float:
    """Processor time of this process and all it started, s."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        alive += times.user + times.system
    return time.process_time() + ended.ru_utime + ended.ru_stime + alive


def scanned(folder: Path, out: Path, workers: int) -> dict[str, Any]:
    """One scan: seconds and processor time of each stage, events, largest memory of this process and of a worker, MB."""
    first: dict[str, tuple[float, float]] = {}
    last: dict[str, tuple[float, float]] = {}

    def note(stage: str, fraction: float) -> None:
        last[stage] = (time.perf_counter(), used())
        first.setdefault(stage, last[stage])

    note("start", 0.0)
    scan = scan_region(ScanRequest(scenes=folder), out=out, config=ScanConfig(), workers=workers, progress=note)
    note("end", 1.0)
    # Stages of tiles and events tell when one of them is done; the others when they begin.
    listed, tiled = first["satellite.stage_verify"], last.get("satellite.stage_tiles", first["satellite.stage_verify"])
    ends = {"scenes": listed, "tiles": tiled, "events over edges": first["satellite.stage_queue"], "files": last["end"]}
    stages, before = [], first["start"]
    for name, after in ends.items():
        stages.append((name, after[0] - before[0], after[1] - before[1]))
        before = after
    # A process that was started by another counts the largest memory of that one as its own: the system's own mark does not.
    own = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()) if Path("/proc/self/status").is_file() else None
    workers_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    peaks = [float("nan") if own is None else int(own[1]) / 1024, workers_peak]
    return {"stages": stages, "events": scan.record["events"], "failed": len(scan.failed), "peaks": peaks}


def measure(folder: Path, scratch: Path, workers: int) -> None:
    size = sum(path.stat().st_size for path in folder.glob("*.tif"))
    stack = read_scenes(folder)
    rows, cols = stack.grid.shape
    print(f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    print(f"{rows} x {cols} px, {len(stack.days)} dates, {len(stack.spec.bands)} bands, {size / 1e9:.2f} GB of files")
    config = ScanConfig()
    bench = Bench(job_of(stack, config))
    tile = Box(0, 0, min(512, rows), min(512, cols))
    pixels = tile.rows * tile.cols
    bench.scan_tile(Box(0, 0, 16, 16))  # compiles

    def timed(work):  # type: ignore[no-untyped-def]
        start, cpu = time.perf_counter(), time.process_time()
        result = work()
        return result, time.perf_counter() - start, time.process_time() - cpu

    cube, _, read_cpu = timed(lambda: bench.read(tile))
    _, alone_s, alone_cpu = timed(partial(detect_block, cube, config.monitor.breaks, threads=1))
    _, kernel_s, kernel_cpu = timed(partial(detect_block, cube, config.monitor.breaks, threads=workers))
    del cube
    result, _, tile_cpu = timed(lambda: bench.scan_tile(tile))
    bench.close()
    kernel_rate = pixels / kernel_s
    print(f"detector in memory: 1 thread {pixels / alone_s:.0f} px/s (cpu {pixels / alone_cpu:.0f});", end=" ")
    print(f"{workers} threads {kernel_rate:.0f} px/s (cpu {pixels / kernel_cpu:.0f})")
    print(f"reading a tile, 1 thread: cpu {pixels / read_cpu:.0f} px/s")
    rest = tile_cpu - read_cpu - alone_cpu
    print(
        f"one tile, one process, cpu {pixels / tile_cpu:.0f} px/s: read {100 * read_cpu / tile_cpu:.0f} %, detect "
        f"{100 * alone_cpu / tile_cpu:.0f} %, events and files {100 * rest / tile_cpu:.0f} %; {len(result.records)} events described; "
        f"file {len(result.file) / pixels:.2f} bytes a pixel"
    )
    out = scratch / "out"
    words = [sys.executable, __file__, "--folder", str(folder), "--scan", str(out), "--workers", str(workers)]
    first, again = (json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout) for _ in range(2))
    total = [sum(stage[k] for stage in first["stages"]) for k in (1, 2)]
    print(
        f"files to events, {workers} processes: {total[0]:.1f} s, cpu {total[1]:.1f} s, {first['events']}, failed {first['failed']}"
    )
    for name, seconds, cpu in first["stages"]:
        print(f"    {name}: {seconds:.1f} s, cpu {cpu:.1f} s")
    once = [sum(stage[k] for stage in first["stages"] if stage[0] == "scenes") for k in (1, 2)]
    whole = rows * cols
    print("share of the detector's own rate:")
    print(f"  on the clock, against {workers} threads: {whole / total[0] / kernel_rate:.2f};", end=" ")
    print(f"without listing the scenes (once a scan, whatever its size) {whole / (total[0] - once[0]) / kernel_rate:.2f}")
    own = alone_cpu / pixels
    print(f"  by processor time, against 1 thread: {own * whole / total[1]:.2f};", end=" ")
    print(f"without listing {own * whole / (total[1] - once[1]):.2f}")
    print(f"second run, nothing new: {sum(stage[1] for stage in again['stages']):.1f} s, cpu", end=" ")
    print(f"{sum(stage[2] for stage in again['stages']):.1f} s")
    kept = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"output {kept / whole:.2f} bytes a pixel; peak memory {first['peaks'][0]:.0f} MB, of a worker {first['peaks'][1]:.0f} MB"
    )


if __name__ == "__main__":
    main()
