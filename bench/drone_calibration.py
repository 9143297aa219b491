"""Do the stated 95 % intervals of volumes hold the truth in 95 % of cases? Rendered flights, the whole pipeline, many volumes each.

    python bench/drone_calibration.py --out RESULTS.jsonl [--seeds 1000-1023] [--threads 1]
    python bench/drone_calibration.py --out RESULTS.jsonl --report

Each flight is a place of its own: relief, texture and trees by its seed; heaps and pits of random shape on ground as it lies, so
that the plane of their rim is not exact; photos at random height, noise, exposure and tilt; three to eight control points, or an
RTK receiver alone. Its volumes are those of the bodies against the former ground (base `rim`, polygons drawn with error around
them) and of clear ground above level planes given in the world (drawn with the same error). The truth is that of the rendered
height field, inside the polygon that was meant.
Errors of volumes of one flight are not independent: the interval of the coverage comes from drawing whole flights (Field and
Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x). One line a flight is added to RESULTS as it is done; a flight that is there
is not flown again. Seeds below 1000 are for choosing settings, those from 1000 on for reporting.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from drone.measure import grid_scale, measure_volume  # noqa: E402
from drone.synthetic import FlightConfig, FlightTruth, Site, SiteConfig, build_site, render_flight  # noqa: E402
from drone.types import Reconstruction, SurfaceModel  # noqa: E402
from geoevidence.crs import parse_crs  # noqa: E402

Array = NDArray[np.float64]
REPORTED = range(1000, 1040)
_FIRM = (0, 1, 4)  # sand, grass, field: kinds of ground in `drone.synthetic` on which a body may lie
_DRAWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A body on the ground. outline: (n, 2) E, N; volume: m3 of the grid, positive for a heap, negative for a pit."""

    outline: Array
    volume: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """One volume of a flight with its truth, m3. base, height: as `measure_volume` takes them."""

    name: str
    polygon: shapely.Polygon
    base: str
    height: float | None
    volume: float


def make_site(seed: int, bodies: int) -> tuple[Site, Site, list[Placed]]:
    """(the place with its bodies, without them, the bodies)."""
    rng = np.random.default_rng([seed, 11])
    bare = build_site(
        SiteConfig(seed=200_000 + seed, detail=0.1, pit_depth=0.0, pile_height=0.0, height=float(rng.uniform(5, 60)))
    )
    d = bare.config.detail
    rows, cols = bare.heights.shape
    x = bare.corner[0] + np.arange(cols) * d
    y = bare.corner[1] + np.arange(rows) * d
    X, Y = np.meshgrid(x, y)
    firm = np.isin(bare.kind, (*_FIRM, 9, 10)) & ~bare.water
    heights = bare.heights.astype(np.float64)
    taken: list[tuple[float, float, float]] = [(t[2], t[3], 1.2) for t in bare.targets]
    placed = []
    for _ in range(4000):
        if len(placed) == bodies:
            break
        radius = float(rng.uniform(2.5, 6.5))
        cx, cy = float(rng.uniform(-30, 34)), float(rng.uniform(-30, 30))
        reach = 1.4 * radius + 1.5
        if any(math.hypot(cx - a, cy - b) < reach + r for a, b, r in taken):
            continue
        near = np.hypot(X - cx, Y - cy) < reach
        if not firm[near].all() or np.ptp(heights[near]) > 0.35 * reach:
            continue
        phase = rng.uniform(0, 2 * np.pi, 3)
        size = rng.uniform(0.03, 0.12, 3)
        angle = np.arctan2(Y - cy, X - cx)
        edge = radius * (1 + sum(s * np.cos((k + 2) * angle + p) for k, (s, p) in enumerate(zip(size, phase, strict=True))))
        inside = np.clip(1 - np.hypot(X - cx, Y - cy) / edge, 0, None) * radius
        slope = math.tan(math.radians(float(rng.uniform(25, 36))))
        top = float(rng.uniform(0.35, 0.9)) * radius * slope
        shape = np.minimum(inside * slope, top)
        lumps = 1 + 0.06 * np.sin(X * rng.uniform(1, 3) + phase[0]) * np.sin(Y * rng.uniform(1, 3) + phase[1])
        sign = 1.0 if rng.random() < 0.6 else -1.0
        change = sign * shape * np.where(inside > 0.5, lumps, 1.0)
        heights = heights + change
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = radius * (1 + sum(s * np.cos((k + 2) * turn + p) for k, (s, p) in enumerate(zip(size, phase, strict=True))))
        east, north = bare.config.origin
        outline = np.column_stack([east + cx + ring * np.cos(turn), north + cy + ring * np.sin(turn)])
        placed.append(Placed(outline=outline, volume=float(change.sum()) * d * d))
        taken.append((cx, cy, reach))
    return replace(bare, heights=heights.astype(np.float32)), bare, placed


def make_flight(folder: Path, seed: int, site: Site, threads: int) -> tuple[FlightTruth, FlightConfig]:
    """The photos and point lists of a flight over a site."""
    rng = np.random.default_rng([seed, 12])
    rtk = bool(rng.random() < 0.25)
    config = FlightConfig(
        image_size=(600, 450),
        focal=float(rng.uniform(440, 560)),
        principal_offset=(float(rng.normal(0, 3)), float(rng.normal(0, 3))),
        distortion=(float(rng.uniform(-0.05, 0.02)), float(rng.uniform(-0.01, 0.015)), float(rng.normal(0, 2e-4)), 2e-4),
        gsd=float(rng.uniform(0.085, 0.11)),
        strips=4,
        photos_per_strip=6,
        pitch_deg=float(rng.choice([-90.0, -80.0, -70.0])),
        gps="rtk" if rtk else "gps",
        noise=float(rng.uniform(0.8, 3.0)),
        exposure_sd=float(rng.uniform(0.01, 0.08)),
        control_points=6,
        check_points=6,
        mark_sd=float(rng.uniform(0.1, 0.3)),
    )
    truth = render_flight(folder, config=config, site=site, seed=seed, threads=threads)
    chosen = rng.permutation(12)[: int(rng.integers(4, 9))] if not rtk else np.zeros(0, int)
    _rewrite_points(folder, site, truth, {int(k) for k in chosen})
    return truth, config


def _rewrite_points(folder: Path, site: Site, truth: FlightTruth, control: set[int]) -> None:
    """The point lists with other roles: the renderer's first six are always control, here any of the twelve."""
    from drone.synthetic import _point_list

    points = sorted((p for p in truth.ground_points if p.observations), key=lambda p: p.name)
    for role, file in (("control", "gcp_list.txt"), ("check", "check_list.txt")):
        mine = [p for k, p in enumerate(points) if (k in control) == (role == "control")]
        (folder / file).unlink(missing_ok=True)
        if mine:
            (folder / file).write_text(_point_list(site.config.crs, mine), encoding="utf-8")


def asked_of(seed: int, site: Site, placed: Sequence[Placed], gsd: float, level: int) -> list[Truth]:
    """The volumes to measure: each body, and `level` places of clear ground above a level plane."""
    rng = np.random.default_rng([seed, 13])
    found = []
    for number, body in enumerate(placed, start=1):
        wide = shapely.Polygon(body.outline).buffer(float(rng.uniform(0.4, 1.0)), quad_segs=2)
        ring = np.asarray(wide.simplify(0.1).exterior.coords)[:-1]
        # drawn by hand: each vertex off by the sd that is stated for it (`MeasureConfig.vertex_gsd`)
        drawn = shapely.Polygon(ring + rng.normal(0, 2.0 * gsd, ring.shape))
        if drawn.is_valid and drawn.contains(shapely.Polygon(body.outline).buffer(-0.05)):
            found.append(Truth(name=f"body{number}", polygon=drawn, base="rim", height=None, volume=body.volume))
    dsm = site.dsm
    firm = np.isin(site.kind, (*_FIRM, 9, 10))[::-1] & ~site.water_mask
    east, north = site.config.origin
    t = dsm.grid.transform
    rows, cols = dsm.grid.shape
    X, Y = np.meshgrid(t.c + (np.arange(cols) + 0.5) * t.a, t.f + (np.arange(rows) + 0.5) * t.e)
    for _ in range(2000):
        if level <= 0:
            break
        cx, cy, radius = east + rng.uniform(-26, 30), north + rng.uniform(-26, 26), float(rng.uniform(3, 9))
        polygon = shapely.Point(cx, cy).buffer(radius, quad_segs=3)
        inside = np.hypot(X - cx, Y - cy) < radius + 1
        if not firm[inside].all():
            continue
        share = _shares(polygon, X, Y, dsm.grid.resolution[0])
        z = dsm.data[0].astype(np.float64)
        height = round(float(np.median(z[inside])) - 1.0, 2)
        volume = float(np.sum(share * (z - height))) * dsm.grid.cell_area
        ring = np.asarray(polygon.exterior.coords)[:-1]
        drawn = shapely.Polygon(ring + rng.normal(0, 2.0 * gsd, ring.shape))
        if not drawn.is_valid:
            continue
        found.append(Truth(name=f"level{level}", polygon=drawn, base="horizontal", height=height, volume=volume))
        level -= 1
    return found


def _shares(polygon: shapely.Polygon, X: Array, Y: Array, cell: float) -> Array:
    """Part of each cell inside the polygon, by 4 x 4 samples."""
    share = np.zeros(X.shape)
    near = shapely.contains_xy(polygon.buffer(2 * cell), X, Y)
    shapely.prepare(polygon)
    for i in range(4):
        for j in range(4):
            share[near] += (
                shapely.contains_xy(polygon, X[near] + ((i + 0.5) / 4 - 0.5) * cell, Y[near] + ((j + 0.5) / 4 - 0.5) * cell) / 16
            )
    return share


def reconstruct_flight(folder: Path, threads: int) -> tuple[Reconstruction, SurfaceModel]:
    """The adjusted block and its surface, as `drone.survey` makes them."""
    from drone.dense import DenseConfig, densify
    from drone.metadata import read_flight
    from drone.sfm import SfmConfig, reconstruct
    from drone.surface import build_surface

    gcp, checks = folder / "gcp_list.txt", folder / "check_list.txt"
    flight = read_flight(folder, gcp=gcp if gcp.exists() else None, checks=checks if checks.exists() else None)
    with tempfile.TemporaryDirectory() as scratch:
        block = reconstruct(flight, config=SfmConfig(threads=threads), workdir=Path(scratch))
    surface = build_surface(densify(block, config=DenseConfig(threads=threads)), block)
    if surface.error_field is None:
        surface = replace(surface, error_field=block.error_field)
    return block, surface


def fly(seed: int, *, bodies: int, level: int, threads: int, keep: Path | None) -> dict[str, Any]:
    """One flight: what was stated and what is true for each of its volumes."""
    started = time.process_time()
    site, _, placed = make_site(seed, bodies)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _, config = make_flight(folder, seed, site, threads)
        block, surface = reconstruct_flight(folder, threads)
    if keep is not None:
        import pickle

        keep.mkdir(parents=True, exist_ok=True)
        with (keep / f"{seed}.pkl").open("wb") as stream:
            pickle.dump((block, surface, [(b.outline, b.volume) for b in placed], config), stream)
    return assess(seed, site, placed, block, surface, config) | {"processor_s": round(time.process_time() - started, 1)}


def assess(
    seed: int,
    site: Site,
    placed: Sequence[Placed],
    block: Reconstruction,
    surface: SurfaceModel,
    config: FlightConfig,
    level: int = 3,
) -> dict[str, Any]:
    from geoevidence.errors import CoverageError

    volumes, refused = [], []
    crs = parse_crs(site.config.crs)
    for each in asked_of(seed, site, placed, config.gsd, level):
        scale = grid_scale(crs, each.polygon.centroid.x, each.polygon.centroid.y, site.config.height)
        try:
            net = measure_volume(
                surface,
                each.polygon,
                accuracy=block.accuracy,
                base=each.base,
                base_height=each.height,  # type: ignore[arg-type]
            )[2]
        except CoverageError as error:
            refused.append({"name": each.name, "reason": error.message_id})
            continue
        volumes.append(
            {
                "name": each.name,
                "truth": each.volume / scale**2,
                "value": net.quantity.value,
                "standard_uncertainty": net.quantity.standard_uncertainty,
                "coverage_factor": net.quantity.coverage_factor,
                "area": each.polygon.area,
                "parts": {part.kind: part.standard_uncertainty for part in net.contributions},
            }
        )
    report = block.accuracy
    focal = next(iter(block.cameras.values())).params[0]
    prior = next(iter(block.flight.cameras.values())).focal_prior
    return {
        "seed": seed,
        "photos": len(block.poses),
        "of": len(block.flight.photos),
        "gps": config.gps,
        "pitch": config.pitch_deg,
        "control": sum(1 for p in report.ground_points if p.role == "control"),
        "gsd": report.gsd,
        "focal_error": focal / config.focal - 1,
        "focal_prior_error": None if prior is None else prior / config.focal - 1,
        "focal_sd": report.focal_sd,
        "check_rmse": [report.check_rmse_horizontal, report.check_rmse_vertical],
        "position_sd": list(report.position_sd),
        "correlation_m": surface.correlation_m,
        "volumes": volumes,
        "refused": refused,
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    """The flights done so far, by seed; a line cut off by a kill is left out."""
    found = {}
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                flight = json.loads(line)
            except ValueError:
                continue
            found[flight["seed"]] = flight
    return [found[seed] for seed in sorted(found)]


def coverage(flights: Sequence[dict[str, Any]], *, draws: int = _DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """(coverage, low, high) of the intervals value +- k u, percent; low and high: 95 % interval from drawing whole flights."""
    hits = np.array([sum(_held(v) for v in f["volumes"]) for f in flights], float)
    counts = np.array([len(f["volumes"]) for f in flights], float)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(flights), (draws, len(flights)))
    shares = hits[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return 100 * float(hits.sum() / counts.sum()), 100 * float(low), 100 * float(high)


def _held(volume: dict[str, Any]) -> bool:
    return bool(abs(volume["value"] - volume["truth"]) <= volume["coverage_factor"] * volume["standard_uncertainty"])


def report(flights: Sequence[dict[str, Any]]) -> list[str]:
    """The table of a run."""
    lines = []
    groups: dict[str, list[dict[str, Any]]] = {"all": list(flights)}
    groups["with control"] = [f for f in flights if f["gps"] == "gps"]
    groups["RTK alone"] = [f for f in flights if f["gps"] == "rtk"]
    groups["nadir"] = [f for f in flights if f["pitch"] == -90]
    groups["tilted"] = [f for f in flights if f["pitch"] != -90]
    for kind in ("body", "level"):
        groups[kind] = [f | {"volumes": [v for v in f["volumes"] if v["name"].startswith(kind)]} for f in flights if f["volumes"]]
    lines.append(
        "| flights | n | volumes | coverage % | 95 % interval | rms of error / u | median u / V % | median error / V % |"
    )
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, group in groups.items():
        volumes = [v for f in group for v in f["volumes"]]
        if not volumes:
            continue
        share, low, high = coverage(group)
        z = np.array([(v["value"] - v["truth"]) / v["standard_uncertainty"] for v in volumes])
        relative = np.array([v["standard_uncertainty"] / abs(v["truth"]) for v in volumes])
        off = np.array([abs(v["value"] - v["truth"]) / abs(v["truth"]) for v in volumes])
        lines.append(
            f"| {name} | {len(group)} | {len(volumes)} | {share:.1f} | {low:.1f} - {high:.1f} | {math.sqrt(float((z**2).mean())):.2f} "
            f"| {100 * float(np.median(relative)):.2f} | {100 * float(np.median(off)):.2f} |"
        )
    refused = sum(len(f["refused"]) for f in flights)
    lines.append(f"refused: {refused}; processor seconds a flight: {np.median([f['processor_s'] for f in flights]):.0f}")
    share, low, high = coverage(flights)
    good = low <= 95 <= high and (high - low) / 2 <= 4
    lines.append(f"95 % inside the interval and half-width at most 4 points: {'yes' if good else 'NO'}")
    return lines


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, one line of JSON a flight")
    parser.add_argument("--seeds", default=f"{REPORTED.start}-{REPORTED.stop - 1}", help="first-last")
    parser.add_argument("--bodies", type=int, default=7)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for blocks and surfaces, to measure them again")
    parser.add_argument("--again", action="store_true", help="measure kept surfaces again instead of flying")
    parser.add_argument("--report", action="store_true", help="only print the table")
    parser.add_argument("--stop", type=Path, help="end before the next flight when this file exists")
    asked = parser.parse_args()
    if asked.again:
        _measure_again(asked)
    elif not asked.report:
        done = {f["seed"] for f in read_results(asked.out)}
        for seed in _seeds(asked.seeds):
            if seed in done or (asked.stop is not None and asked.stop.exists()):
                continue
            flight = fly(seed, bodies=asked.bodies, level=asked.level, threads=asked.threads, keep=asked.keep)
            _append(asked.out, flight)
            print(
                seed,
                f"{flight['processor_s']} s",
                f"{sum(_held(v) for v in flight['volumes'])}/{len(flight['volumes'])}",
                flush=True,
            )
    for line in report(read_results(asked.out)):
        print(line)


def _append(path: Path, flight: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(flight) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _measure_again(asked: argparse.Namespace) -> None:
    """Figures of kept surfaces by the code as it is now; --out is written anew."""
    import pickle

    lines = []
    for path in sorted(asked.keep.glob("*.pkl")):
        seed = int(path.stem)
        if seed not in _seeds(asked.seeds):
            continue
        with path.open("rb") as stream:
            block, surface, _, config = pickle.load(stream)
        site, _, placed = make_site(seed, asked.bodies)
        lines.append(json.dumps(assess(seed, site, placed, block, surface, config, asked.level) | {"processor_s": math.nan}))
    asked.out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
