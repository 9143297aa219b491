"""Break detection: speed, peak memory and accuracy on simulated sites of fixed seeds.

    python bench/breaks.py [--sites 4] [--threads 2] [--rates 0.01 0.003 0.001]

Truth: `satellite.synthetic` with 60 scattered changes a site, seeds 21 and on, which no setting was chosen on.
Positives: pixels of which at least half (or a fifth) changed abruptly; hit: a break within 90 days. Negatives: stable pixels.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from satellite.segment import BreakConfig, detect_breaks
from satellite.synthetic import SimulatedCube, SimulationConfig, simulate
from satellite.types import NODATE, BreakMap


def measure(site: SimulatedCube, breaks: BreakMap, smallest: float) -> dict[str, float]:
    """Counts of hits, misses and false breaks, date errors (d) and how many intervals hold the true day."""
    found = breaks.break_date != NODATE
    truth = site.break_date.astype("datetime64[D]").astype(np.int64)
    apart = np.where(found, np.abs(breaks.break_date.astype(np.int64) - truth[None]), 10**6)
    best = apart.argmin(axis=0)[None]
    error = np.take_along_axis(apart, best, axis=0)[0]
    positive = (site.fraction >= smallest) & (site.kind != 4)
    hit = (error <= 90) & positive
    before = np.take_along_axis(breaks.last_clear_before, best, axis=0)[0]
    after = np.take_along_axis(breaks.first_clear_after, best, axis=0)[0]
    years = (breaks.last_day - breaks.first_day) / 365.25
    return {
        "hits": float(hit.sum()),
        "missed": float((positive & ~hit).sum()),
        "wrong": float((found.any(axis=0) & (site.stable | (positive & ~hit))).sum()),
        "false": float(found[:, site.stable].sum()),
        "stable_years": float(site.stable.sum() * years),
        "error": float(np.median(error[hit])) if hit.any() else float("nan"),
        "held": float(((before < truth) & (truth <= after))[hit].sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003])
    options = parser.parse_args()
    sites = [simulate(SimulationConfig(random_changes=60), seed=21 + k) for k in range(options.sites)]
    detect_breaks(sites[0].reflectance.isel(x=slice(0, 2)))  # compiles
    pixels = sum(site.stable.size for site in sites)
    times, bands = sites[0].observed.shape[:2]
    for rate in options.rates:
        start, cpu = time.perf_counter(), time.process_time()
        maps = [detect_breaks(site.reflectance, BreakConfig(false_alarm_rate=rate), threads=options.threads) for site in sites]
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"rate {rate:g}: {pixels} px x ~{times} dates x {bands} bands, {pixels / wall:.0f} px/s wall,", end=" ")
        print(f"{pixels / cpu:.0f} px/s a processor, peak {peak:.0f} MB")
        for smallest in (0.5, 0.2):
            all_ = [measure(site, breaks, smallest) for site, breaks in zip(sites, maps, strict=True)]
            s = {key: sum(part[key] for part in all_) for key in all_[0]}
            f1 = 2 * s["hits"] / (2 * s["hits"] + s["missed"] + s["wrong"])
            print(
                f"  changed share >= {smallest}: F1 {f1:.3f}, found {s['hits'] / (s['hits'] + s['missed']):.3f} of "
                f"{s['hits'] + s['missed']:.0f}, false {s['false'] / s['stable_years']:.5f} a stable pixel-year, "
                f"median date error {np.median([p['error'] for p in all_]):.1f} d, interval holds the day {s['held'] / s['hits']:.3f}"
            )


if __name__ == "__main__":
    main()
