"""On paper: hours, memory and files of a region scan on a cluster, from rates that `bench/satellite_scan.py` measured.

    python bench/satellite_scan_cost.py --tile-rate 15400 --edges 0.3 [--hash 1.6 --disk 4.0 --nodes 16 --cores 32 --memory 256]

Per pixel and core t = (1 + edges) / tile_rate: a tile from files to events, and what describing events across tiles adds, as shares
of processor time. The cluster does cores / t, unless its disks give less: scenes are read twice (digests; tiles), scratch of the
edges is written and read once. Digests are computed before the tiles. Memory of a worker is `tile_bytes`. Cores of the cluster are
taken to be as fast as the one that was measured, and to stay so when all of a node are busy. Nothing is measured here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

REGIONS = {"Hubei": 1.9e9, "11 provinces": 2.05e10}
"""Pixels of 10 m."""


@dataclass(frozen=True)
class Cost:
    """What a scan takes: hours of digests, hours of tiles and events, each the longer of computing and disk; files in TB."""

    digests_h: float
    computing_h: float
    reading_h: float
    scenes_tb: float
    scratch_tb: float
    results_gb: float

    @property
    def hours(self) -> float:
        return self.digests_h + max(self.computing_h, self.reading_h)


def cost(
    pixels: float,
    *,
    tile_rate: float,
    edges: float,
    hash_rate: float,
    cores: int,
    disk: float,
    bytes_px: float,
    scratch_px: float,
    kept_px: float,
) -> Cost:
    """The cost of a region. tile_rate: px/s and core. edges: share added by events across tiles. hash_rate: bytes/s of the machine that lists
    the scenes. disk: bytes/s of all disks together. bytes_px, scratch_px, kept_px: of the scenes, the scratch and the results."""
    return Cost(
        digests_h=pixels * bytes_px / min(disk, hash_rate) / 3600,
        computing_h=pixels / tile_rate * (1 + edges) / cores / 3600,
        reading_h=pixels * (bytes_px + 2 * scratch_px) / disk / 3600,
        scenes_tb=pixels * bytes_px / 1e12,
        scratch_tb=pixels * scratch_px / 1e12,
        results_gb=pixels * kept_px / 1e9,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tile-rate", type=float, required=True, help="a tile from files to events, px/s and core")
    parser.add_argument("--edges", type=float, required=True, help="share of that time that events across tiles add")
    parser.add_argument(
        "--hash", type=float, default=1.6, help="GB/s of SHA-256 on the node that lists the scenes, all its threads"
    )
    parser.add_argument("--bytes", type=float, default=2770.0, help="bytes of scenes a pixel")
    parser.add_argument("--scratch", type=float, default=1500.0, help="bytes of scratch a pixel")
    parser.add_argument("--kept", type=float, default=3.5, help="bytes of results a pixel")
    parser.add_argument("--disk", type=float, default=4.0, help="GB/s of all disks together")
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--cores", type=int, default=32, help="of a node")
    parser.add_argument("--memory", type=float, default=256.0, help="GB of a node")
    parser.add_argument("--dates", type=int, default=322)
    parser.add_argument("--bands", type=int, default=6)
    parser.add_argument("--tile", type=int, default=512)
    o = parser.parse_args()
    worker = (o.tile**2 * o.dates * (2 * o.bands + 1) * (1 + 64 / o.tile)) / 1e9 + 0.8
    workers = o.nodes * min(o.cores, int(0.85 * o.memory / worker))
    print(f"a worker takes {worker:.2f} GB: {workers} workers on {o.nodes} nodes of {o.cores} cores and {o.memory:g} GB")
    for name, pixels in REGIONS.items():
        found = cost(
            pixels,
            tile_rate=o.tile_rate,
            edges=o.edges,
            hash_rate=o.hash * 1e9,
            cores=workers,
            disk=o.disk * 1e9,
            bytes_px=o.bytes,
            scratch_px=o.scratch,
            kept_px=o.kept,
        )
        print(
            f"{name}: {pixels:.3g} px, {pixels / o.tile**2:.0f} tiles, {found.scenes_tb:.1f} TB of scenes; digests {found.digests_h:.1f} h, "
            f"then computing {found.computing_h:.2f} h, reading {found.reading_h:.1f} h: {found.hours:.1f} h; scratch "
            f"{found.scratch_tb:.1f} TB, results {found.results_gb:.0f} GB"
        )


if __name__ == "__main__":
    main()
