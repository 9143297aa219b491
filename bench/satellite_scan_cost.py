"""On paper: hours, memory and files of a region scan on a cluster, from rates that `bench/satellite_scan.py` measured.

    python bench/satellite_scan_cost.py --detect 38000 --read 90000 --describe 0.05 --disk 2.0 [--nodes 16 --cores 32 --memory 128]

Per pixel and core, with rates in px/s: t = (1/detect + 1/read) (1 + describe). The cluster does cores / t, unless its disks give
less: (disk bytes/s) / (bytes a pixel). Reading counts twice where scenes are listed and hashed for the first time. Memory of a
worker is `tile_bytes`. Nothing is measured here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

REGIONS = {"Hubei": 1.9e9, "11 provinces": 2.05e10}
"""Pixels of 10 m."""


@dataclass(frozen=True)
class Cost:
    """What a scan takes: hours computing and hours reading (the longer one counts), files in TB, results in GB."""

    compute_h: float
    disk_h: float
    input_tb: float
    results_gb: float

    @property
    def hours(self) -> float:
        return max(self.compute_h, self.disk_h)


def cost(
    pixels: float, *, detect: float, read: float, describe: float, cores: int, disk: float, bytes_px: float, kept_px: float
) -> Cost:
    """The cost of a region. detect, read: px/s and core. describe: share added by events. disk: bytes/s of all disks together.
    bytes_px: of the scenes; kept_px: of the results."""
    core_s = pixels * (1 / detect + 1 / read) * (1 + describe)
    return Cost(
        compute_h=core_s / cores / 3600,
        disk_h=pixels * bytes_px / disk / 3600,
        input_tb=pixels * bytes_px / 1e12,
        results_gb=pixels * kept_px / 1e9,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detect", type=float, required=True, help="detector, px/s and core")
    parser.add_argument("--read", type=float, required=True, help="reading and masking, px/s and core")
    parser.add_argument("--describe", type=float, default=0.05, help="share of time that events add")
    parser.add_argument("--bytes", type=float, default=3300.0, help="bytes of scenes a pixel")
    parser.add_argument("--kept", type=float, default=1.5, help="bytes of results a pixel")
    parser.add_argument("--disk", type=float, default=2.0, help="GB/s of all disks together")
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--cores", type=int, default=32, help="of a node")
    parser.add_argument("--memory", type=float, default=128.0, help="GB of a node")
    parser.add_argument("--dates", type=int, default=322)
    parser.add_argument("--bands", type=int, default=6)
    parser.add_argument("--tile", type=int, default=512)
    o = parser.parse_args()
    worker = 2 * o.tile**2 * o.dates * (2 * o.bands + 1) / 1e9 + 0.4
    workers = o.nodes * min(o.cores, int(0.85 * o.memory / worker))
    print(f"a worker takes {worker:.2f} GB: {workers} workers on {o.nodes} nodes of {o.cores} cores and {o.memory:g} GB")
    for name, pixels in REGIONS.items():
        found = cost(
            pixels,
            detect=o.detect,
            read=o.read,
            describe=o.describe,
            cores=workers,
            disk=o.disk * 1e9,
            bytes_px=o.bytes,
            kept_px=o.kept,
        )
        print(
            f"{name}: {pixels:.3g} px, {pixels / o.tile**2:.0f} tiles; computing {found.compute_h:.2f} h, reading "
            f"{found.input_tb:.1f} TB {found.disk_h:.2f} h: {found.hours:.2f} h; once more {found.disk_h:.2f} h to list and hash "
            f"scenes that are new; results {found.results_gb:.0f} GB"
        )


if __name__ == "__main__":
    main()
