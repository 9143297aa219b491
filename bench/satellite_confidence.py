"""How sure an event is, what it was and became, and whether its interval and area hold: measured on simulated tiles.

    python bench/satellite_confidence.py [--tiles 10] [--size 72] [--fit]

Tiles of `satellite.synthetic` (`benchmark_config`, land and water in turn) are searched at the loosest accepted rate, so that
false events exist, and groups of `SMALLEST` pixels on become events. An event is true when at least half of its pixels truly
changed, and a true change of them lies within its interval, `EARLY` days before and `LATE` after it (a gradual one: overlaps).
`--fit` fits the logistic function of `satellite.confidence` on tuning seeds (no feature may lower it but `gradual`) and prints
the numbers that stand there. Always printed, on test seeds that nothing was chosen on: the reliability table, for all events
and for those that `satellite.monitor` lists by default, the classes against the truth, the intervals and the areas.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from satellite.basin import CLASSES
from satellite.confidence import COEFFICIENTS, FEATURES, RANGE, EventEvidence, event_confidence, features
from satellite.events import EventConfig, PixelGroup, describe_event, group_mask, group_pixels
from satellite.segment import BreakConfig, detect_breaks
from satellite.synthetic import TEST_SEEDS, TUNING_SEEDS, SimulatedCube, benchmark_config, simulate
from satellite.types import ChangeEvent, Cover, Cube, Pace

SMALLEST = 3
LISTED = 10
EARLY, LATE = 30, 180
LOOSE, DEFAULT = 0.02, 0.003
PENALTY = 0.02
"""Ridge on the slopes: keeps them sane where the tuning events do not decide."""
_EPOCH = np.datetime64("1970-01-01", "D")

BEFORE = {
    "water": "water", "lake": "water", "pond": "water", "crayfish": "flooded", "flat": "flooded", "reed": "flooded",
    "bank": "flooded", "levee": "vegetation", "single_crop": "vegetation", "double_crop": "vegetation",
    "forest": "vegetation", "evergreen": "vegetation", "bamboo": "vegetation", "orchard": "vegetation",
    "urban": "built", "road": "built", "greenhouse": "other",
}  # fmt: skip
AFTER = {
    "sand_mining": "bare", "clear_cut": "bare or green", "construction": "bare or built", "gradual": "vegetation", "flooded_pit": "water",
    "burn": "burnt or green", "road": "bare or built", "pond": "water", "filling": "bare", "solar": "built", "greenhouse": "other",
    "planting": "vegetation", "demolition": "bare or green", "scour": "water", "dredging": "water", "silting": "flooded",
    "reed_cleared": "flooded", "levee": "bare or green", "overgrown": "water", "abandoned": "vegetation",
}  # fmt: skip
"""What is there in truth. `flooded`: under water in a part of the year; `other`: no class of ours (film)."""
RIGHT = {
    "water": {"water", "turbid"}, "vegetation": {"vegetation"}, "bare": {"bare"}, "built": {"built"},
    "bare or built": {"bare", "built"}, "bare or green": {"bare", "vegetation"},
    "burnt or green": {"vegetation"}, "flooded": {"water", "turbid", "vegetation", "bare"}, "other": set(),
}  # fmt: skip
"""What may be said of it; UNKNOWN is never wrong. Of flooded ground any side of it may be what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One event and the truth: is it true, the classes, the day, the area (m2); None where there is none."""

    event: ChangeEvent
    evidence: EventEvidence
    true: bool
    before: str | None
    after: str | None
    day: int | None
    abrupt: bool
    area: float | None


def _truth(site: SimulatedCube, group: PixelGroup, event: ChangeEvent) -> tuple[bool, int | None]:
    """Whether the event is true, and the true change that most of its pixels share."""
    start = np.datetime64(event.last_clear_before, "D") - _EPOCH
    end = np.datetime64(event.first_clear_after, "D") - _EPOCH
    low, high = int(start.astype(int)) - LATE, int(end.astype(int)) + EARLY
    day = site.breaks.day[:, group.rows, group.cols].astype(np.int64)
    last = day + site.breaks.duration[:, group.rows, group.cols]
    meant = (site.breaks.change[:, group.rows, group.cols] >= 0) & (last >= low) & (day <= high)
    true = bool(meant.any(axis=0).mean() >= 0.5)
    which = Counter(site.breaks.change[:, group.rows, group.cols][meant].tolist()).most_common(1)
    return true, (which[0][0] if which else None)


def cases_of(site: SimulatedCube, cube: Cube, rate: float) -> list[Case]:
    breaks = detect_breaks(cube, BreakConfig(false_alarm_rate=rate))
    config = EventConfig(min_pixels=SMALLEST)
    groups, _ = group_pixels(breaks, config)
    taken = group_mask(groups, cube.grid)
    cases = []
    for number, group in enumerate(groups):
        event = describe_event(f"{number}", group, breaks, cube, config, taken=taken)
        true, index = _truth(site, group, event)
        before = after = day = area = None
        abrupt = False
        if true and index is not None:
            change = site.changes[index]
            mine = (site.breaks.change == index).any(axis=0)
            inside = mine[group.rows, group.cols].mean()
            cover = np.where(site.breaks.change == index, site.breaks.fraction, 0).max(axis=0)
            abrupt = change.duration_days == 0
            day = int((np.datetime64(change.day, "D") - _EPOCH).astype(int))
            whole = change.fraction > 0.95 and inside > 0.8
            # where the pixels change once more the two looks are mixed
            again = (site.breaks.change >= 0).sum(axis=0)[group.rows, group.cols].max() > 1
            if whole and not again:
                land = Counter(site.land[group.rows, group.cols].tolist()).most_common(1)[0][0]
                before = BEFORE[CLASSES[land]]
                after = AFTER[change.kind] if abrupt and change.regrowth_years == 0 else None
            if whole and abrupt and len(group.rows) >= LISTED:
                area = float(cover.sum()) * event.outlined / len(group.rows)
        evidence = EventEvidence(
            bands=len(cube.bands),
            score=event.score,
            contrast=event.contrast,
            pixels=len(group.rows),
            agreement=event.agreement,
            direction_agreement=event.direction_agreement,
            clear_before=event.clear_before,
            clear_after=event.clear_after,
            gradual=event.pace is Pace.GRADUAL,
        )
        cases.append(
            Case(event=event, evidence=evidence, true=true, before=before, after=after, day=day, abrupt=abrupt, area=area)
        )
    return cases


def index_cube(site: SimulatedCube, name: str) -> Cube:
    whole = site.as_int16()
    values = site.index(name).values
    return Cube(
        stored=np.nan_to_num(values).astype(np.float32), observed=whole.observed, days=whole.days, bands=(name,), grid=whole.grid
    )


def make_sites(seeds: Sequence[int], size: int) -> list[SimulatedCube]:
    """Land and water tiles in turn; larger patches than by default, so that there are events, and a fifth of single pixels."""
    kinds: tuple[Literal["land", "water"], ...] = ("water", "land")
    return [
        simulate(benchmark_config(kinds[seed % 2], shape=(size, size), single_share=0.2, change_share=0.08), seed=seed)
        for seed in seeds
    ]


def gather(sites: Sequence[SimulatedCube], rate: float, *, index: bool) -> list[Case]:
    cubes = (index_cube(site, "NDVI") if index else site.as_int16() for site in sites)
    return [case for site, cube in zip(sites, cubes, strict=True) for case in cases_of(site, cube, rate)]


def fit(cases: Sequence[Case]) -> NDArray[np.float64]:
    """Coefficients of `FEATURES` with the largest penalised likelihood; evidence may not lower the odds."""
    x = np.stack([features(case.evidence) for case in cases])
    y = np.array([case.true for case in cases], float)

    def loss(b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = x @ b
        value = np.logaddexp(0, odds).sum() - y @ odds + PENALTY * len(y) / 2 * (b[1:] @ b[1:]) / 10
        slope = x.T @ (1 / (1 + np.exp(-odds)) - y)
        slope[1:] += PENALTY * len(y) / 10 * b[1:]
        return float(value), slope

    bounds = [(None, None), *((0.0, None) for _ in FEATURES[1:-1]), (None, 0.0)]
    found = minimize(loss, np.zeros(len(FEATURES)), jac=True, bounds=bounds, method="L-BFGS-B")
    return np.round(found.x, 2)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion. Wilson 1927, doi:10.1080/01621459.1927.10502953."""
    z, p = 1.96, hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))


def reliability(title: str, cases: Sequence[Case]) -> None:
    stated = np.array([event_confidence(case.evidence)[0] for case in cases])
    true = np.array([case.true for case in cases], bool)
    if not len(stated):
        print(f"{title}: no events")
        return
    print(f"{title}: {len(stated)} events, {true.sum()} true, Brier score {np.mean((stated - true) ** 2):.3f}")
    print("| stated | events | mean stated | true | 95 % interval |\n|---|---|---|---|---|")
    edges = np.array([0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0])
    for low, high in pairwise(edges):
        part = (stated >= low) & ((stated < high) | (high == 1.0))
        if part.any():
            a, b = wilson(int(true[part].sum()), int(part.sum()))
            print(
                f"| {low:.2f}-{high:.2f} | {part.sum()} | {stated[part].mean():.2f} | {true[part].mean():.2f} | {a:.2f}-{b:.2f} |"
            )


def classes(cases: Sequence[Case]) -> None:
    covers = [cover.value for cover in Cover]
    for side in ("before", "after"):
        pairs = [(getattr(c, side), getattr(c.event, side).cover.value) for c in cases if c.true and getattr(c, side) is not None]
        table = Counter(pairs)
        print(f"\n{side} (rows: truth)\n| | " + " | ".join(covers) + " | wrong |\n" + "|---" * (len(covers) + 2) + "|")
        for row in sorted({truth for truth, _ in pairs}):
            counts = [table[row, cover] for cover in covers]
            wrong = sum(n for cover, n in zip(covers, counts, strict=True) if cover != "unknown" and cover not in RIGHT[row])
            print(f"| {row} | " + " | ".join(map(str, counts)) + f" | {wrong} |")
        named = [(t, c) for t, c in pairs if c != "unknown"]
        if named:
            right = sum(c in RIGHT[t] for t, c in named)
            print(f"named {len(named)} of {len(pairs)}, of these right {right / len(named):.3f}")


def intervals_and_areas(cases: Iterable[Case]) -> None:
    held, wide, middle, ratios, off = [], [], [], [], []
    for case in cases:
        if not (case.true and case.abrupt and case.day is not None):
            continue
        start = int((np.datetime64(case.event.last_clear_before, "D") - _EPOCH).astype(int))
        end = int((np.datetime64(case.event.first_clear_after, "D") - _EPOCH).astype(int))
        held.append(start < case.day <= end)
        wide.append(end - start)
        middle.append(abs(int((np.datetime64(case.event.break_date, "D") - _EPOCH).astype(int)) - case.day))
        if case.area:
            off.append(case.event.area.value / case.area - 1)
            ratios.append((case.event.area.value - case.area) / (case.event.area.standard_uncertainty or 1))
    if held:
        print(
            f"\nabrupt true events: {len(held)}; the interval holds the day: {np.mean(held):.3f}; its width: median {np.median(wide):.0f} d,",
            end=" ",
        )
        print(
            f"p90 {np.quantile(wide, 0.9):.0f} d; error of the estimated date: median {np.median(middle):.0f} d, p90 {np.quantile(middle, 0.9):.0f} d"
        )
    if off:
        ratios_, off_ = np.array(ratios), np.array(off)
        print(
            f"areas of whole changes of {LISTED} pixels and more: {len(off)}; bias {off_.mean():+.3f} (median {np.median(off_):+.3f}), scatter {off_.std():.3f},",
            end=" ",
        )
        print(f"within k = 2: {np.mean(np.abs(ratios_) <= 2):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=10)
    parser.add_argument("--size", type=int, default=72)
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    tuning = make_sites([seed for seed in TUNING_SEEDS if seed >= 60][: options.tiles if options.fit else 0], options.size)
    test = make_sites([seed for seed in TEST_SEEDS if seed >= 401][: options.tiles], options.size)
    print(f"[simulated: {time.perf_counter() - start:.0f} s]")
    for kind, index in (("bands", False), ("index", True)):
        print(f"\n== {kind} ==")
        if options.fit:
            cases = gather(tuning, LOOSE, index=index)
            COEFFICIENTS[kind] = tuple(fit(cases).tolist())
            print(f"{len(cases)} tuning events, {sum(case.true for case in cases)} true")
            print(f'    "{kind}": {COEFFICIENTS[kind]},  # {", ".join(FEATURES)}; held to {RANGE}')
        loose = gather(test, LOOSE, index=index)
        reliability(f"rate {LOOSE}, {SMALLEST} pixels and more", loose)
        listed = [case for case in gather(test, DEFAULT, index=index) if len(case.event.pixels) >= LISTED]
        reliability(f"rate {DEFAULT}, {LISTED} pixels and more", listed)
        if not index:
            classes(loose)
        intervals_and_areas(listed)
        print(f"[{time.perf_counter() - start:.0f} s]")


if __name__ == "__main__":
    main()
