"""A region scan end to end, from tiled GeoTIFFs to events, against the detector alone on the same pixels in memory.

    python bench/satellite_scan.py [--side 1024] [--workers 2] [--index] [--folder DIR] [--codec DEFLATE]

Scenes: `satellite.synthetic`, 322 dates 2018-2023, six bands (or one index) and a quality band, 128 x 128 pixels repeated with
flips and independent noise of 2 units of the last place, so that compression finds no repeats; blocks of 512. Also read the rate
of reading alone, the share of each stage of a tile, and the same tiles done by threads of one process. It prints what it
measured and on what; the folder of scenes is kept when `--folder` is given, and used again when it is there.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from satellite.fused import Bench, Job
from satellite.region import ScanConfig, ScanRequest, scan_region
from satellite.scan import Crew
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
    bands = ", ".join(f'"{name}"' for name in names)
    text = f'sensor = "synthetic"\nbands = [{bands}]\nscale = 0.0001\noffset = 0.0\nnodata = -9999\nquality = "quality"\n'
    (folder / "stack.toml").write_text(text + "clear = [4, 5, 6]\nsynthetic = true\n", encoding="utf-8")


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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "scenes"
        if not (folder / "stack.toml").is_file():
            write_scenes(folder, options.side, index=options.index, codec=options.codec)
        measure(folder, Path(scratch), options.workers)


def measure(folder: Path, scratch: Path, workers: int) -> None:
    size = sum(path.stat().st_size for path in folder.glob("*.tif"))
    start = time.perf_counter()
    stack = read_scenes(folder)
    listed = time.perf_counter() - start
    rows, cols = stack.grid.shape
    print(f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    print(f"{rows} x {cols} px, {len(stack.days)} dates, {len(stack.spec.bands)} bands, {size / 1e9:.2f} GB of files")
    print(f"listing, digests and checks of the scenes: {listed:.1f} s ({size / 1e6 / listed:.0f} MB/s)")
    config = ScanConfig()
    bench = Bench(job_of(stack, config))
    tile = Box(0, 0, min(512, rows), min(512, cols))
    pixels = tile.rows * tile.cols
    detect_block(bench.read(Box(0, 0, 8, 8)), config.monitor.breaks, threads=1)  # compiles

    def used() -> float:
        """Processor time of this process and of its workers that have ended, s."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime

    def timed(work):  # type: ignore[no-untyped-def]
        start, cpu = time.perf_counter(), used()
        result = work()
        return result, time.perf_counter() - start, used() - cpu

    cube, read_s, read_cpu = timed(lambda: bench.read(tile))
    _, alone_s, alone_cpu = timed(lambda: detect_block(cube, config.monitor.breaks, threads=1))
    _, kernel_s, _ = timed(lambda: detect_block(cube, config.monitor.breaks, threads=workers))
    result, tile_s, tile_cpu = timed(lambda: bench.scan_tile(tile))
    kernel_rate = pixels / kernel_s
    print(f"detector in memory: 1 thread {pixels / alone_s:.0f} px/s (cpu {pixels / alone_cpu:.0f});", end=" ")
    print(f"{workers} threads {kernel_rate:.0f} px/s")
    print(f"reading a tile, 1 thread: {pixels / read_s:.0f} px/s (cpu {pixels / read_cpu:.0f})")
    rest = tile_cpu - read_cpu - alone_cpu
    print(
        f"one tile, one process, cpu: read {100 * read_cpu / tile_cpu:.0f} %, detect {100 * alone_cpu / tile_cpu:.0f} %, events and "
        f"files {100 * rest / tile_cpu:.0f} %; {len(result.records)} events described; {pixels / tile_s:.0f} px/s; file "
        f"{len(result.file) / pixels:.2f} bytes a pixel"
    )
    boxes = [Box(r, c, min(512, rows - r), min(512, cols - c)) for r in range(0, rows, 512) for c in range(0, cols, 512)]
    with ThreadPoolExecutor(workers) as pool:
        _, threads_s, _ = timed(lambda: list(pool.map(bench.scan_tile, boxes)))
    print(f"tiles by {workers} threads of one process: {rows * cols / threads_s:.0f} px/s")
    bench.close()

    def crew_of(wanted: list[Box]) -> None:
        with Crew(job_of(stack, config), workers=workers) as crew:
            list(crew.run("scan_tile", [(box, (box,)) for box in wanted]))

    _, ready_s, ready_cpu = timed(lambda: crew_of([Box(0, 8 * n, 8, 8) for n in range(2 * workers)]))
    _, processes_s, _ = timed(lambda: crew_of(boxes))
    print(
        f"tiles by {workers} processes: {rows * cols / (processes_s - ready_s):.0f} px/s; starting and ending them {ready_s:.1f} s"
    )
    stages: dict[str, float] = {}

    def note(stage: str, fraction: float) -> None:
        stages[stage] = time.perf_counter()

    out = scratch / "out"
    scan, scan_s, scan_cpu = timed(
        lambda: scan_region(ScanRequest(scenes=folder), out=out, config=config, workers=workers, progress=note)
    )
    rate = rows * cols / scan_s
    net = rows * cols / (scan_s - ready_s - listed)
    print(f"files to events, {workers} processes: {rate:.0f} px/s in {scan_s:.1f} s, {scan.record['events']}")
    print(f"  without listing the scenes and starting workers (once a scan, whatever its size): {net:.0f} px/s")
    print(
        f"  share of the detector's own rate with {workers} threads: {rate / kernel_rate:.2f} all in all, {net / kernel_rate:.2f} net"
    )
    own, whole = alone_cpu / pixels, (scan_cpu - ready_cpu - listed) / (rows * cols)
    print(f"  by processor time, which other programs on the machine do not touch: {1 / whole:.0f} px/s and processor", end=" ")
    print(f"against {1 / own:.0f} of the detector: {own / whole:.2f}")
    order = sorted(stages.items(), key=lambda item: item[1])
    for (_, before), (name, after) in pairwise(order):
        print(f"    {name.removeprefix('satellite.stage_')}: {after - before:.1f} s")
    _, again_s, _ = timed(lambda: scan_region(ScanRequest(scenes=folder), out=out, config=config, workers=workers))
    print(f"second run, nothing new: {again_s:.1f} s")
    kept = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"output {kept / (rows * cols):.2f} bytes a pixel; peak memory of this process and its largest worker", end=" ")
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"{peaks[0]:.0f} and {peaks[1]:.0f} MB")


if __name__ == "__main__":
    main()
