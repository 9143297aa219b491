"""Make the sample data again from fixed seeds: `python sample_data/build.py [--check]`.

Writes flight/ (photos and survey points), scenes/ (GeoTIFF stack), polygons.geojson (what to measure), truth/ (what is true),
and SHA256SUMS over all of them. `--check` makes everything in a scratch folder and compares digests; it exits with 1 and names
each file that differs. On another machine JPEGs may differ by the version of libjpeg, and other files in the last digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from drone.synthetic import FlightConfig, Site, SiteConfig, build_site, render_flight, write_truth
from geoevidence.crs import parse_crs, transform_geometry
from geoevidence.raster import Grid, Raster, write_cog
from satellite.synthetic import Change, SimulationConfig, simulate, truth_geojson, write_stack

HERE = Path(__file__).resolve().parent
FLIGHT_SEED, SCENES_SEED = 1, 7
PARTS = ("flight", "scenes", "truth", "polygons.geojson")
MARGIN = 0.6
"""Distance in m at which the polygons to measure are drawn outside the rim of the pit and the foot of the pile."""


def ring(
    centre: tuple[float, float], along: tuple[float, float], corners: list[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """World corners of a shape given as (along, across) m from its centre; `along` is a unit vector."""
    (x, y), (ux, uy) = centre, along
    return tuple((round(x + a * ux - b * uy, 2), round(y + a * uy + b * ux, 2)) for a, b in corners)


def scenes_config() -> SimulationConfig:
    """Four years, three changes of known place and date; the mined part of the bank is where the drone flies."""
    config = SimulationConfig()
    x, y = config.origin
    mining = [(-88, -14), (-70, -36), (-40, -30), (-18, -44), (22, -38), (36, -24), (70, -28), (92, -6), (78, 18), (54, 16)]
    mining += [(40, 36), (6, 40), (-12, 24), (-44, 34), (-60, 18), (-84, 10)]
    cut = [(-72, -20), (-44, -22), (-30, -50), (38, -46), (62, -14), (40, 4), (52, 40), (2, 46), (-22, 28), (-66, 30)]
    site = [(-55, -40), (55, -40), (55, 28), (18, 28), (18, 44), (-55, 44)]
    return SimulationConfig(
        changes=(
            Change(
                name="mining", kind="sand_mining", polygon=ring((x + 286, y - 502), (0.57, -0.82), mining), day=date(2023, 5, 6)
            ),
            Change(
                name="felling",
                kind="clear_cut",
                polygon=ring((x + 770, y - 140), (1.0, 0.0), cut),
                day=date(2023, 11, 9),
                regrowth_years=3.0,
            ),
            Change(
                name="building_site",
                kind="construction",
                polygon=ring((x + 690, y - 520), (0.80, -0.60), site),
                day=date(2024, 3, 14),
            ),
        )
    )


def measured_polygons(site: Site) -> dict[str, Any]:
    """Polygons around pit and pile as an operator draws them on level ground, GeoJSON in EPSG:4326 (RFC 7946)."""
    source, target = parse_crs(site.config.crs), parse_crs("EPSG:4326")
    features = []
    for name, body in (("pit", site.pit), ("pile", site.pile)):
        corners = np.array(body.outline[:-1][::6])
        centre = corners.mean(axis=0)
        away = corners - centre
        corners = corners + MARGIN * away / np.hypot(*away.T)[:, None]
        shape = {"type": "Polygon", "coordinates": [[*corners.tolist(), corners[0].tolist()]]}
        moved = transform_geometry(shape, source, target)
        moved["coordinates"] = [[[round(lon, 8), round(lat, 8)] for lon, lat in moved["coordinates"][0]]]
        features.append({"type": "Feature", "properties": {"name": name, "synthetic": True}, "geometry": moved})
    return {"type": "FeatureCollection", "features": features}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def coarse_dsm(site: Site, step: int) -> Raster:
    """Every `step`-th node of the true surface: no height is averaged."""
    full = site.dsm
    data = full.data[:, ::step, ::step]
    t = full.grid.transform
    # The kept node stays in the middle of its cell.
    shift = (1 - step) / 2 * t.a
    transform = type(t)(t.a * step, 0, t.c + shift, 0, t.e * step, t.f - shift)
    return Raster(
        data=np.ascontiguousarray(data), grid=Grid(shape=data.shape[1:], transform=transform, crs=full.grid.crs), unit="m"
    )


def build(folder: Path, *, threads: int) -> None:
    """Everything but SHA256SUMS, into `folder`."""
    truth = folder / "truth"
    truth.mkdir(parents=True)
    site = build_site(SiteConfig())
    flight = render_flight(folder / "flight", config=FlightConfig(), site=site, seed=FLIGHT_SEED, threads=threads)
    write_truth(truth / "flight.json", flight)
    tags = {"GEOEVIDENCE_SYNTHETIC": "yes"}
    write_cog(truth / "dsm.tif", coarse_dsm(site, 5), band_names=("dsm",), tags=tags)
    write_json(folder / "polygons.geojson", measured_polygons(site))
    cube = simulate(scenes_config(), seed=SCENES_SEED)
    write_stack(folder / "scenes", cube)
    write_json(truth / "changes.geojson", truth_geojson(cube))


def sums(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every sample file, sorted."""
    files = [path for part in PARTS for path in ((folder / part).rglob("*") if (folder / part).is_dir() else [folder / part])]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.is_file()
    }


def read_sums(path: Path) -> dict[str, str]:
    return {name: digest for digest, name in (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with SHA256SUMS instead of writing")
    parser.add_argument("--threads", type=int, default=1, help="photos rendered at a time; does not change a byte")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch), threads=options.threads)
        made = sums(Path(scratch))
        if options.check:
            stated = read_sums(HERE / "SHA256SUMS")
            differing = sorted(name for name in made.keys() | stated.keys() if made.get(name) != stated.get(name))
            sys.stderr.writelines(f"differs: {name}\n" for name in differing)
            return 1 if differing else 0
        for part in PARTS:
            target = HERE / part
            if target.is_dir():
                shutil.rmtree(target)
            elif target.exists():
                target.unlink()
            shutil.move(str(Path(scratch) / part), target)
        (HERE / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in made.items()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
