"""Ours and the photogrammetry that pip can install, on the same photos in one run: accuracy, processor time, memory.

    python bench/drone_peers.py --work FOLDER [--part sfm dense ortho] [--flights independent own real] [--seeds 101 102 103]
        [--small] [--peers-python PYTHON] [--again] [--only NAME ...]

Flights: `bench/drone_independent.py` (seeds 101-103 are reported, 1-2 for choosing settings; with GNSS and six control points,
one with RTK and no control, one with water and a rolling shutter), the project's own renderer, the real flight brighton_beach.
Programs: ours with its defaults and its fast profile; pycolmap's defaults and a similarity through control points; OpenCV's
SGBM on pairs; pyOrthomosaic; orthority. The last two live in an environment of their own (`--peers-python`). Every step is a
process of its own that leaves its figures in FOLDER; one that dies or is not installed is a line of the table, never silence.
Rendered flights are kept in FOLDER and used again; figures are computed again with `--again`, or when not there.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PARTS = ("sfm", "dense", "ortho")
TEST_SEEDS = (101, 102, 103)
OWN_SEED = 20241020


# ------------------------------------------------------------------------------------------------------------- flights


@dataclass(frozen=True, slots=True, kw_only=True)
class Flown:
    """A flight on disk. label: of its folder in the work folder. photos, gcp, checks: what programs get. kind: where truth is from.

    threads: processor threads that programs may use.
    """

    label: str
    title: str
    kind: str
    folder: Path
    photos: Path
    gcp: Path | None
    checks: Path | None
    settings: Mapping[str, Any]
    threads: int

    def truth(self) -> Any:
        """`bench.drone_scoring.Reference`, or None for a real flight."""
        from bench import drone_scoring

        if self.kind == "independent":
            from bench.drone_independent import IndependentConfig, truth_of

            values = {name: tuple(v) if isinstance(v, list) else v for name, v in self.settings.items()}
            return drone_scoring.reference_of_independent(truth_of(IndependentConfig(**values)))
        if self.kind == "own":
            return drone_scoring.reference_of_own(pickle.loads((self.folder / "truth.pickle").read_bytes()))
        return None

    def to_json(self) -> str:
        def plain(value: Any) -> Any:
            return str(value) if isinstance(value, Path) else value

        return json.dumps({name: plain(getattr(self, name)) for name in self.__slots__})

    @classmethod
    def from_json(cls, text: str) -> Flown:
        values = json.loads(text)
        for name in ("folder", "photos", "gcp", "checks"):
            values[name] = None if values[name] is None else Path(values[name])
        return cls(**values)


def independent_flight(
    work: Path, config: Any, title: str, *, control: bool, threads: int, pictures: Path | None = None
) -> Flown:
    """Renders a flight of the second renderer unless it is there."""
    from dataclasses import asdict

    from bench.drone_independent import write_flight

    folder = work / config.label
    write_flight(folder, config, threads=threads, pictures=pictures)
    return Flown(
        label=config.label,
        title=title,
        kind="independent",
        folder=folder,
        photos=folder / "photos",
        gcp=folder / "gcp_list.txt" if control else None,
        checks=folder / "check_list.txt",
        settings=asdict(config),
        threads=threads,
    )


def own_flight(work: Path, *, small: bool, threads: int) -> Flown:
    """Renders the demonstration flight of the project's own renderer unless it is there."""
    from drone.synthetic import FlightConfig, SiteConfig, build_site, render_flight

    label = f"own_{'small' if small else 'full'}"
    folder = work / label
    if not (folder / "truth.pickle").is_file():
        plan = {"image_size": (600, 450), "focal": 492.5, "gsd": 0.10, "principal_offset": (2.1, -1.5)} if small else {}
        site = build_site(SiteConfig(detail=0.1 if small else 0.05))
        truth = render_flight(folder / "photos", config=FlightConfig(**plan), site=site, seed=1, threads=threads)  # type: ignore[arg-type]
        for name in ("gcp_list.txt", "check_list.txt"):
            os.replace(folder / "photos" / name, folder / name)
        part = folder / "truth.part"
        part.write_bytes(pickle.dumps(truth))
        os.replace(part, folder / "truth.pickle")
    return Flown(
        label=label,
        title="own renderer, GNSS, 6 GCPs",
        kind="own",
        folder=folder,
        photos=folder / "photos",
        gcp=folder / "gcp_list.txt",
        checks=folder / "check_list.txt",
        settings={},
        threads=threads,
    )


def real_flight(work: Path, *, threads: int) -> Flown:
    photos = Path(os.environ.get("GEOEVIDENCE_SHARED") or ROOT.parent / "shared") / "data" / "drone" / "brighton_beach" / "images"
    if not photos.is_dir():
        raise SystemExit(f"real flight absent: no {photos.parent.name} under the shared data; set GEOEVIDENCE_SHARED")
    return Flown(
        label="brighton",
        title="brighton_beach, 18 photos of 9 MP",
        kind="real",
        folder=work / "brighton",
        photos=photos,
        gcp=None,
        checks=None,
        settings={},
        threads=threads,
    )


def flights_of(arguments: argparse.Namespace) -> list[Flown]:
    from bench.drone_independent import IndependentConfig

    make = IndependentConfig.small if arguments.small else IndependentConfig
    work, threads = arguments.work, arguments.threads
    flights = []
    if "independent" in arguments.flights:
        for seed in arguments.seeds:
            flights.append(independent_flight(work, make(seed=seed), f"seed {seed}, GNSS, 6 GCPs", control=True, threads=threads))
        first = arguments.seeds[0]
        rtk = make(seed=first, gps="rtk")
        pictures = flights[0].folder
        flights.append(
            independent_flight(work, rtk, f"seed {first}, RTK, no GCPs", control=False, threads=threads, pictures=pictures)
        )
        wet = make(seed=first + 3, water=True, readout_s=0.03)
        flights.append(
            independent_flight(
                work, wet, f"seed {first + 3}, water, rolling shutter, GNSS, 6 GCPs", control=True, threads=threads
            )
        )
    if "own" in arguments.flights:
        flights.append(own_flight(work, small=arguments.small, threads=threads))
    if "real" in arguments.flights:
        flights.append(real_flight(work, threads=threads))
    return flights


# --------------------------------------------------------------------------------------------------------------- steps


class Clock:
    """Processor seconds of this process and its children, by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self._at = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        spent = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(u.ru_utime + u.ru_stime for u in spent), time.monotonic()

    def lap(self, stage: str) -> None:
        now = self._now()
        self.stages[stage] = self.stages.get(stage, 0.0) + now[0] - self._at[0]
        self.wall[stage] = self.wall.get(stage, 0.0) + now[1] - self._at[1]
        self._at = now

    def skip(self) -> None:
        self._at = self._now()


def peak_bytes() -> int:
    """Largest resident memory of this process so far, bytes (Linux). `ru_maxrss` would count what started it as well."""
    text = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1])


def megapixels(flown: Flown) -> float:
    from PIL import Image

    total = 0.0
    for path in sorted(flown.photos.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            with Image.open(path) as picture:
                total += picture.width * picture.height / 1e6
    return total


def _store(path: Path, value: Any) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(pickle.dumps(value, protocol=5))
    os.replace(part, path)


def _load(path: Path) -> Any:
    """What an earlier step of this bench left in its own work folder."""
    return pickle.loads(path.read_bytes())


def _warm(function: Callable[[], Any]) -> None:
    """Runs it once so that compiled kernels are there: their compilation belongs to an installation, not to a flight."""
    function()


def ours_sfm(flown: Flown) -> dict[str, Any]:
    """Reads and reconstructs; leaves the block for the other parts."""
    import tempfile

    from drone.metadata import read_flight
    from drone.sfm import SfmConfig, reconstruct

    clock = Clock()
    flight = read_flight(flown.photos, gcp=flown.gcp, checks=flown.checks)
    clock.lap("read")
    with tempfile.TemporaryDirectory() as scratch:
        block = reconstruct(flight, config=SfmConfig(threads=flown.threads), workdir=Path(scratch))
    clock.lap("sfm")
    memory = peak_bytes()
    _store(flown.folder / "ours.block.pickle", block)
    accuracy = block.accuracy
    result: dict[str, Any] = {
        "registered": len(block.poses),
        "photos": len(flight.photos),
        "tie_points": len(block.points),
        "observations": len(block.track_photos),
        "reprojection_px": accuracy.reprojection_rmse,
        "gsd": accuracy.gsd,
        "gps_horizontal_m": accuracy.gps_rmse_horizontal,
        "gps_vertical_m": accuracy.gps_rmse_vertical,
        "memory": memory,
        "stages": clock.stages,
        "wall": clock.wall,
    }
    reference = flown.truth()
    if reference is not None:
        from bench.drone_scoring import score_points

        stated = {point.name: point.position for point in flight.ground_points}
        estimated = {p.name: tuple(np.add(stated[p.name], p.residual)) for p in accuracy.ground_points if p.role == "check"}
        result["points"] = score_points(estimated, reference)  # type: ignore[arg-type]
    return result


def ours_dense(flown: Flown, profile: str) -> dict[str, Any]:
    """Dense cloud and surface of our block, in one of the two profiles."""
    from drone.dense import densify
    from drone.surface import build_surface

    block = _load(flown.folder / "ours.block.pickle")
    config = _profile(profile, flown.threads)
    _warm(lambda: _first_photos(block, config))
    clock = Clock()
    cloud = densify(block, config=config.dense)
    clock.lap("dense")
    surface = build_surface(cloud, block, config=config.surface)
    clock.lap("surface")
    memory = peak_bytes()
    _store(flown.folder / f"ours.{profile}.surface.pickle", surface)
    result: dict[str, Any] = {
        "points": len(cloud.points),
        "covered_m2": float(np.isfinite(surface.raster.data[0]).sum() * surface.raster.grid.resolution[0] ** 2),
        "memory": memory,
        "stages": clock.stages,
        "wall": clock.wall,
    }
    reference = flown.truth()
    if reference is not None:
        from bench.drone_scoring import score_surface

        result["surface"] = score_surface(surface.raster.data[0].astype(float), surface.raster.grid.transform, reference)
    return result


def _profile(profile: str, threads: int) -> Any:
    """A `SurveyConfig`: defaults, or the fast profile."""
    from drone.workflow import SurveyConfig

    config = SurveyConfig()
    if profile == "fast":
        config = config.fast()
    return replace(config, dense=replace(config.dense, threads=threads), ortho=replace(config.ortho, threads=threads))


def _first_photos(block: Any, config: Any) -> None:
    """The dense stage on the first four photos, and the orthomosaic on what it gives."""
    from drone.dense import densify
    from drone.ortho import build_orthomosaic
    from drone.surface import build_surface
    from drone.types import Reconstruction
    from geoevidence.errors import GeoEvidenceError

    names = sorted(block.poses)[:4]
    of_point = np.repeat(np.arange(len(block.points)), np.diff(block.track_offsets))
    keep = block.track_photos < len(names)
    values = {name: getattr(block, name) for name in Reconstruction.__slots__}
    values |= {
        "poses": {name: block.poses[name] for name in names},
        "track_photos": block.track_photos[keep],
        "track_pixels": block.track_pixels[keep],
        "track_offsets": np.searchsorted(of_point[keep], np.arange(len(block.points) + 1)),
    }
    part = Reconstruction(**values)
    try:
        surface = build_surface(densify(part, config=config.dense), part, config=config.surface)
        build_orthomosaic(part, surface, config=config.ortho)
    except GeoEvidenceError:
        # Four photos of a flight may see too little; what compiles did compile.
        return


def ours_ortho(flown: Flown, profile: str) -> dict[str, Any]:
    from drone.ortho import build_orthomosaic

    block, surface = _load(flown.folder / "ours.block.pickle"), _load(flown.folder / f"ours.{profile}.surface.pickle")
    config = _profile(profile, flown.threads)
    _warm(lambda: _first_photos(block, config))
    clock = Clock()
    mosaic = build_orthomosaic(block, surface, config=config.ortho)
    clock.lap("ortho")
    result: dict[str, Any] = {"memory": peak_bytes(), "stages": clock.stages, "wall": clock.wall}
    data = mosaic.raster.data
    _picture(flown.folder / f"ours.{profile}.ortho.png", data)
    reference = flown.truth()
    if reference is not None:
        from bench.drone_scoring import score_ortho

        colour = np.ascontiguousarray(data[:3].transpose(1, 2, 0))
        result["ortho"] = score_ortho(colour, data[3] > 0, mosaic.raster.grid.transform, reference)
    return result


def _picture(path: Path, data: NDArray[np.uint8]) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(data[:3].transpose(1, 2, 0))).save(path)


# ---------------------------------------------------------------------------------------------------------------- peers


def pycolmap_sfm(flown: Flown) -> dict[str, Any]:
    """pycolmap as its documentation runs it: SIFT, exhaustive matching, incremental mapping, all defaults but the threads."""
    import tempfile

    import pycolmap

    pycolmap.logging.minloglevel = 3
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "database.db"
        extraction, matching = pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions()
        mapping = pycolmap.IncrementalPipelineOptions()
        extraction.num_threads = matching.num_threads = mapping.num_threads = flown.threads
        pycolmap.extract_features(database, flown.photos, extraction_options=extraction, device=pycolmap.Device.cpu)
        clock.lap("features")
        pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
        clock.lap("matching")
        models = pycolmap.incremental_mapping(database, flown.photos, Path(scratch), mapping)
        clock.lap("mapping")
    memory = peak_bytes()
    model = max(models.values(), key=lambda each: each.num_reg_images())
    model.update_point_3d_errors()
    errors = []
    for point in model.points3D.values():
        for element in point.track.elements:
            image = model.images[element.image_id]
            projected = image.project_point(point.xyz)
            if projected is not None:
                errors.append(projected - image.points2D[element.point2D_idx].xy)
    result: dict[str, Any] = {
        "registered": model.num_reg_images(),
        "tie_points": model.num_points3D(),
        "observations": len(errors),
        "reprojection_px": float(np.sqrt(np.mean(np.sum(np.square(errors), axis=1)))),
        "memory": memory,
        "stages": clock.stages,
        "wall": clock.wall,
    }
    from drone.metadata import read_flight

    flight = read_flight(flown.photos, gcp=flown.gcp, checks=flown.checks)
    images = {image.name: image for image in model.images.values() if image.has_pose}
    located = _positions(flight)
    names = sorted(set(located) & set(images))
    if len(names) >= 3:
        centres = np.array([images[name].projection_center() for name in names])
        placed = np.array([located[name] for name in names])
        scale, turn, shift = similarity(centres, placed)
        off = scale * centres @ turn.T + shift - placed
        result["gps_horizontal_m"] = float(np.sqrt(np.mean(off[:, 0] ** 2 + off[:, 1] ** 2)))
        result["gps_vertical_m"] = float(np.sqrt(np.mean(off[:, 2] ** 2)))
    reference = flown.truth()
    if reference is not None:
        from bench.drone_scoring import score_points

        found = {point.name: place for point in flight.ground_points if (place := _triangulated(point, images)) is not None}
        control = [p for p in flight.ground_points if p.role == "control" and p.name in found]
        if len(control) >= 3:
            scale, turn, shift = similarity(np.array([found[p.name] for p in control]), np.array([p.position for p in control]))
        if len(control) >= 3 or len(names) >= 3:
            estimated = {p.name: tuple(scale * turn @ found[p.name] + shift) for p in flight.ground_points if p.name in found}
            result["points"] = score_points(estimated, reference)  # type: ignore[arg-type]
    return result


def _positions(flight: Any) -> dict[str, NDArray[np.float64]]:
    """Photo -> (E, N, height) of its metadata in the flight's CRS."""
    from pyproj import Transformer

    to_map = Transformer.from_crs(4326, flight.crs, always_xy=True)
    return {
        photo.name: np.array([*to_map.transform(photo.position[0], photo.position[1]), photo.position[2]])
        for photo in flight.photos
        if photo.position is not None
    }


def _triangulated(point: Any, images: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Place of a marked point in the model: nearest to all rays, then least squares of pixels."""
    from scipy.optimize import least_squares

    seen = [(images[name], np.array(mark)) for name, mark in sorted(point.observations.items()) if name in images]
    if len(seen) < 2:
        return None
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for image, mark in seen:
        ray = np.append(image.camera.cam_from_img(mark), 1.0)
        ray = image.cam_from_world().rotation.matrix().T @ (ray / np.linalg.norm(ray))
        across = np.eye(3) - np.outer(ray, ray)
        normal += across
        right += across @ image.projection_center()

    def off(place: NDArray[np.float64]) -> NDArray[np.float64]:
        shown = [image.project_point(place) for image, _ in seen]
        return np.concatenate([s - m if s is not None else np.full(2, 1e3) for s, (_, m) in zip(shown, seen, strict=True)])

    return np.asarray(least_squares(off, np.linalg.solve(normal, right), x_scale="jac").x)


def similarity(
    source: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Scale, rotation, shift that bring source nearest to target in least squares (Umeyama 1991, doi:10.1109/34.88573)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = u @ sign @ vt
    scale = float(np.sum(s * np.diag(sign)) / np.sum(a * a))
    return scale, turn, target.mean(axis=0) - scale * turn @ source.mean(axis=0)


def sgbm_dense(flown: Flown) -> dict[str, Any]:
    """OpenCV's semi-global matching on each photo and its next neighbour in flight, our poses; a cell is the median of its points."""
    import cv2
    from affine import Affine

    from drone.camera import opencv_params

    block = _load(flown.folder / "ours.block.pickle")
    photos = {photo.name: photo for photo in block.flight.photos}
    names = sorted(block.poses)
    centres = np.array([block.poses[name].C for name in names])
    cv2.setNumThreads(flown.threads)
    clock = Clock()
    gsd = block.accuracy.gsd
    low, high = np.quantile(block.points[:, 2], [0.001, 0.999])
    low, high = low - 2.0, high + 6.0
    clouds = []
    for i, name in enumerate(names):
        later = [j for j in range(i + 1, min(i + 2, len(names)))]
        for j in later:
            base = centres[j] - centres[i]
            height = centres[i][2] - 0.5 * (low + high)
            if np.linalg.norm(base[:2]) > 0.5 * height:
                continue  # the next photo is on another line
            x = base / np.linalg.norm(base)
            z = block.poses[name].R[2] + block.poses[names[j]].R[2]
            z = z - (z @ x) * x
            z /= np.linalg.norm(z)
            turn = np.stack([x, np.cross(z, x), z])
            pictures = []
            focal = opencv_params(block.cameras[photos[name].camera_id])[0]
            width, tall = block.cameras[photos[name].camera_id].size
            side = int(np.hypot(width, tall)) // 2 * 2
            K = np.array([[focal, 0, side / 2 - 0.5], [0, focal, side / 2 - 0.5], [0, 0, 1.0]])
            for k in (i, j):
                camera = block.cameras[photos[names[k]].camera_id]
                p = opencv_params(camera)
                lens = np.array([[p[0], 0, p[2] - 0.5], [0, p[1], p[3] - 0.5], [0, 0, 1.0]])
                spread = np.array([p[4], p[5], p[6], p[7], p[8] if len(p) > 8 else 0.0])
                maps = cv2.initUndistortRectifyMap(lens, spread, turn @ block.poses[names[k]].R.T, K, (side, side), cv2.CV_32FC1)
                grey = cv2.imread(str(photos[names[k]].path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
                pictures.append(cv2.remap(grey, *maps, cv2.INTER_LINEAR, borderValue=0))
            reach = float(np.linalg.norm(base))
            least = int(focal * reach / (centres[i][2] - low)) - 2
            count = (int(focal * reach / max(centres[i][2] - high, 1.0)) + 2 - least + 15) // 16 * 16
            matcher = cv2.StereoSGBM.create(
                minDisparity=least,
                numDisparities=count,
                blockSize=5,
                P1=8 * 25,
                P2=32 * 25,
                disp12MaxDiff=1,
                uniquenessRatio=10,
                speckleWindowSize=100,
                speckleRange=2,
                mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
            )
            # The first camera is the left one: x runs from it to the second.
            disparity = matcher.compute(pictures[0], pictures[1]).astype(np.float32) / 16
            good = (disparity > least) & (pictures[0] > 0)
            row, col = np.nonzero(good)
            depth = focal * reach / disparity[good]
            local = np.column_stack([(col - K[0, 2]) * depth / focal, (row - K[1, 2]) * depth / focal, depth])
            clouds.append((local @ turn + centres[i]).astype(np.float64))
    clock.lap("dense")
    points = np.concatenate(clouds)
    cell = np.ceil(250 * gsd) / 100
    west, north = points[:, 0].min() // cell * cell, -(-points[:, 1].max() // cell) * cell
    col, row = ((points[:, 0] - west) / cell).astype(np.int64), ((north - points[:, 1]) / cell).astype(np.int64)
    cols, rows = int(col.max()) + 1, int(row.max()) + 1
    index = row * cols + col
    order = np.lexsort((points[:, 2], index))
    index, z = index[order], points[order, 2]
    first = np.nonzero(np.diff(index, prepend=-1))[0]
    last = np.append(first[1:], len(index))
    heights = np.full(rows * cols, np.nan)
    heights[index[first]] = 0.5 * (z[(first + last - 1) // 2] + z[(first + last) // 2])
    heights[index[first[last - first < 2]]] = np.nan
    clock.lap("surface")
    result: dict[str, Any] = {"points": len(points), "memory": peak_bytes(), "stages": clock.stages, "wall": clock.wall}
    result["covered_m2"] = float(np.isfinite(heights).sum() * cell * cell)
    reference = flown.truth()
    if reference is not None:
        from bench.drone_scoring import score_surface

        transform = Affine(cell, 0, west, 0, -cell, north)
        result["surface"] = score_surface(heights.reshape(rows, cols), transform, reference)
    return result


def run_pyorthomosaic(flown: Flown) -> dict[str, Any]:
    """pyOrthomosaic's whole 3-D pipeline with its defaults and the same control points; runs in the peers' environment."""
    from importlib.metadata import version

    from orthomosaic import Options3D, build_3d  # type: ignore[import-not-found]

    out = flown.folder / "pyorthomosaic"
    rtk = flown.settings.get("gps") == "rtk"
    options: dict[str, Any] = {"backend": "cpu", "gps_sigma": 0.05 if rtk else 3.0}
    if flown.gcp is not None:
        options |= {"gcp": str(flown.folder / "pyorthomosaic_gcp.txt"), "gcp_sigma": 0.02}
    if flown.settings.get("readout_s"):
        options["rolling_shutter"] = True
    clock = Clock()
    report = build_3d(str(flown.photos), str(out), Options3D(**options))
    clock.lap("all")
    return {
        "version": version("pyOrthomosaic"),
        "report": json.loads(json.dumps(report, default=str)),
        "memory": peak_bytes(),
        "stages": clock.stages,
        "wall": clock.wall,
    }


def run_orthority(flown: Flown) -> dict[str, Any]:
    """Each photo orthorectified by orthority on our poses and surface; runs in the peers' environment."""
    from importlib.metadata import version

    from orthority import Ortho  # type: ignore[import-not-found]
    from orthority.camera import OpenCVCamera  # type: ignore[import-not-found]

    os.environ["PROJ_NETWORK"] = "OFF"  # its import switches the network on

    given = json.loads((flown.folder / "orthority.json").read_text("utf-8"))
    out = flown.folder / "orthority"
    out.mkdir(exist_ok=True)
    clock = Clock()
    for name, photo in sorted(given["photos"].items()):
        camera = OpenCVCamera(
            tuple(photo["size"]),
            tuple(photo["focal"]),
            tuple(photo["size"]),
            *photo["offset"],
            **photo["distortion"],
            xyz=tuple(photo["xyz"]),
            opk=tuple(photo["opk"]),
        )
        ortho = Ortho(photo["path"], flown.folder / "orthority_dem.tif", camera, crs=given["crs"])
        ortho.process(
            out / (Path(name).stem + ".tif"), resolution=(given["cell"], given["cell"]), overwrite=True, write_mask=False,
            compress="deflate", aligned_pixels=True,
        )  # fmt: skip
    clock.lap("ortho")
    return {"version": version("orthority"), "memory": peak_bytes(), "stages": clock.stages, "wall": clock.wall}


def prepare_pyorthomosaic(flown: Flown) -> dict[str, Any]:
    """The control points with heights above take-off, which it counts from where photos tell a relative altitude."""
    if flown.gcp is None:
        return {}
    shift = _above_takeoff(flown)
    lines = flown.gcp.read_text("utf-8").splitlines()
    moved = [lines[0]]
    for line in lines[1:]:
        east, north, height, rest = line.split(maxsplit=3)
        moved.append(f"{east} {north} {float(height) - shift:.4f} {rest}")
    (flown.folder / "pyorthomosaic_gcp.txt").write_text("\n".join(moved) + "\n", "utf-8")
    return {"takeoff_m": shift}


def _above_takeoff(flown: Flown) -> float:
    """Metres from heights above take-off to absolute ones, as the photos tell both; 0 where they tell one."""
    from drone.metadata import read_flight

    photos = read_flight(flown.photos).photos
    both = [p.position[2] - p.relative_altitude for p in photos if p.position is not None and p.relative_altitude is not None]
    return float(np.median(both)) if both else 0.0


def score_pyorthomosaic(flown: Flown) -> dict[str, Any]:
    """Scores of what `run_pyorthomosaic` left."""
    import rasterio

    from bench.drone_scoring import score_ortho, score_surface

    out = flown.folder / "pyorthomosaic"
    result: dict[str, Any] = {}
    reference = flown.truth()
    if reference is None:
        return result
    with rasterio.open(out / "dsm.tif", driver="GTiff") as file:
        heights, transform = file.read(1).astype(float), file.transform
        heights[heights == file.nodata] = np.nan
    with rasterio.open(out / "dsm_support.tif", driver="GTiff") as file:
        support = file.read(1)
    offset = _above_takeoff(flown)
    result["surface"] = score_surface(heights + offset, transform, reference)
    # Its own statement of what it measured; the rest it filled.
    result["surface_measured"] = score_surface(np.where(support == 1, heights, np.nan) + offset, transform, reference)
    with rasterio.open(out / "orthophoto.tif", driver="GTiff") as file:
        data, transform = file.read(), file.transform
    result["ortho"] = score_ortho(np.ascontiguousarray(data[:3].transpose(1, 2, 0)), data[3] > 0, transform, reference)
    _picture(flown.folder / "pyorthomosaic.ortho.png", data)
    return result


def prepare_orthority(flown: Flown) -> dict[str, Any]:
    """Surface as a GeoTIFF without holes, and the cameras in orthority's conventions."""
    import rasterio
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    from drone.camera import opencv_params

    block, surface = _load(flown.folder / "ours.block.pickle"), _load(flown.folder / "ours.default.surface.pickle")
    heights = surface.raster.data[0].astype(np.float32)
    nearest = ndimage.distance_transform_edt(~np.isfinite(heights), return_distances=False, return_indices=True)
    grid = surface.raster.grid
    profile = {"driver": "GTiff", "width": grid.shape[1], "height": grid.shape[0], "count": 1, "dtype": "float32"}
    with rasterio.open(
        flown.folder / "orthority_dem.tif", "w", **profile, crs=grid.crs.to_wkt(), transform=grid.transform
    ) as file:
        file.write(heights[tuple(nearest)], 1)
    photos = {photo.name: photo for photo in block.flight.photos}
    given: dict[str, Any] = {
        "crs": block.flight.crs.to_wkt(),
        "cell": float(np.ceil(block.accuracy.gsd * 1000) / 1000),
        "photos": {},
    }
    for name, pose in sorted(block.poses.items()):
        camera = block.cameras[photos[name].camera_id]
        p = opencv_params(camera)
        longest = max(camera.size)
        # Camera to world with y up and z backwards, as omega, phi, kappa are defined (Kraus 2007, s2.1.2).
        turn = block.poses[name].R.T @ np.diag([1.0, -1.0, -1.0])
        given["photos"][name] = {
            "path": str(photos[name].path),
            "size": list(camera.size),
            "focal": [float(p[0]), float(p[1])],
            "offset": [(float(p[2]) - camera.size[0] / 2) / longest, (float(p[3]) - camera.size[1] / 2) / longest],
            "distortion": {k: float(v) for k, v in zip(("k1", "k2", "p1", "p2", "k3"), p[4:], strict=False)},
            "xyz": [float(v) for v in pose.C],
            "opk": [float(v) for v in Rotation.from_matrix(turn).as_euler("XYZ")],
        }
    (flown.folder / "orthority.json").write_text(json.dumps(given), "utf-8")
    return {}


def score_orthority(flown: Flown) -> dict[str, Any]:
    """Its single orthophotos laid together: each cell from the photo whose centre is nearest (orthority makes no mosaic)."""
    import rasterio
    from affine import Affine

    from bench.drone_scoring import score_ortho

    reference = flown.truth()
    if reference is None:
        return {}
    block = _load(flown.folder / "ours.block.pickle")
    given = json.loads((flown.folder / "orthority.json").read_text("utf-8"))
    cell = given["cell"]
    west, south, east, north = reference.area
    west, north = np.floor(west / cell) * cell, np.ceil(north / cell) * cell
    rows, cols = int((north - south) / cell), int((east - west) / cell)
    colour, best = np.zeros((rows, cols, 3), np.uint8), np.full((rows, cols), np.inf, np.float32)
    x, y = west + (np.arange(cols) + 0.5) * cell, north - (np.arange(rows) + 0.5) * cell
    for name in sorted(given["photos"]):
        with rasterio.open(flown.folder / "orthority" / (Path(name).stem + ".tif"), driver="GTiff") as file:
            data, transform, nodata = file.read(), file.transform, file.nodata
        left, top = round((transform.c - west) / cell), round((north - transform.f) / cell)
        r0, c0 = max(0, -top), max(0, -left)
        r1, c1 = min(data.shape[1], rows - top), min(data.shape[2], cols - left)
        if r1 <= r0 or c1 <= c0:
            continue
        part = data[:, r0:r1, c0:c1]
        at = (slice(top + r0, top + r1), slice(left + c0, left + c1))
        centre = block.poses[name].C
        away = np.hypot(x[None, at[1]] - centre[0], y[at[0], None] - centre[1]).astype(np.float32)
        better = (away < best[at]) & (part != nodata).any(axis=0)
        colour[at][better] = part.transpose(1, 2, 0)[better]
        best[at][better] = away[better]
    result = score_ortho(colour, np.isfinite(best), Affine(cell, 0, west, 0, -cell, north), reference)
    _picture(flown.folder / "orthority.ortho.png", colour.transpose(2, 0, 1))
    return {"ortho": result}


# ------------------------------------------------------------------------------------------------- one step, one process


STEPS: dict[str, Callable[[Flown], dict[str, Any]]] = {
    "ours.sfm": ours_sfm,
    "ours.dense": lambda flown: ours_dense(flown, "default"),
    "ours.ortho": lambda flown: ours_ortho(flown, "default"),
    "fast.dense": lambda flown: ours_dense(flown, "fast"),
    "fast.ortho": lambda flown: ours_ortho(flown, "fast"),
    "pycolmap.sfm": pycolmap_sfm,
    "sgbm.dense": sgbm_dense,
    "pyorthomosaic.prepare": prepare_pyorthomosaic,
    "pyorthomosaic.run": run_pyorthomosaic,
    "pyorthomosaic.score": score_pyorthomosaic,
    "orthority.prepare": prepare_orthority,
    "orthority.run": run_orthority,
    "orthority.score": score_orthority,
}
BY_PART = {
    "sfm": ("ours.sfm", "pycolmap.sfm"),
    "dense": ("ours.dense", "fast.dense", "sgbm.dense", "pyorthomosaic.prepare", "pyorthomosaic.run", "pyorthomosaic.score"),
    "ortho": ("ours.ortho", "fast.ortho", "orthority.prepare", "orthority.run", "orthority.score"),
}
ELSEWHERE = ("pyorthomosaic.run", "orthority.run")
"""Steps of the peers' environment."""


def run_step(step: str, flown: Flown) -> None:
    """Runs a step in this process and leaves its figures; a failure is a figure too."""
    try:
        result = STEPS[step](flown)
    except Exception as error:  # a peer may fail in any way; the table says so and the run goes on
        traceback.print_exc()
        result = {"failed": f"{type(error).__name__}: {error}"}
    _write_figures(flown, step, result)


def _write_figures(flown: Flown, step: str, result: Mapping[str, Any]) -> None:
    path = flown.folder / "figures" / f"{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1), "utf-8")
    os.replace(part, path)


def figures(flown: Flown, step: str) -> dict[str, Any] | None:
    path = flown.folder / "figures" / f"{step}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def start(step: str, flown: Flown, arguments: argparse.Namespace) -> None:
    """A step in a process of its own."""
    python = sys.executable
    if step in ELSEWHERE:
        if arguments.peers_python is None:
            _write_figures(flown, step, {"failed": "not installed (--peers-python)"})
            return
        python = str(arguments.peers_python)
    environment = dict(os.environ, OMP_NUM_THREADS=str(flown.threads), PYTHONPATH=str(ROOT))
    print(f"  {step} ...", file=sys.stderr, flush=True)
    log = flown.folder / "figures" / f"{step}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        command = [python, str(Path(__file__).resolve()), "--step", step, "--flown", flown.to_json()]
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code != 0:
        _write_figures(flown, step, {"failed": f"process ended with {code}; see {log.name}"})


# --------------------------------------------------------------------------------------------------------------- tables


def _cell(value: Any, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def _per_megapixel(found: Mapping[str, Any], size: float) -> float | None:
    stages = found.get("stages")
    return None if not stages else sum(stages.values()) / size


def table(flights: Sequence[Flown], parts: Sequence[str]) -> str:
    """Markdown of all figures in the work folder."""
    lines: list[str] = []
    size = {flown.label: megapixels(flown) for flown in flights}
    if "sfm" in parts:
        lines += [
            "| flight | program | registered | reprojection px | tie points | plan RMSE GSD | height RMSE GSD | GPS fit m (plan/height) | CPU s | MB |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for flown in flights:
            for program, step in (("ours", "ours.sfm"), ("pycolmap defaults", "pycolmap.sfm")):
                found = figures(flown, step)
                if found is None:
                    continue
                if "failed" in found:
                    lines.append(f"| {flown.title} | {program} | {found['failed']} |" + " |" * 7)
                    continue
                points = found.get("points", {})
                seconds = sum(found["stages"].values())
                lines.append(
                    f"| {flown.title} | {program} | {found['registered']} | {found['reprojection_px']:.2f} | {found['tie_points']} "
                    f"| {_cell(points.get('plan_rmse'))} | {_cell(points.get('height_rmse'))} "
                    f"| {_cell(found.get('gps_horizontal_m'))}/{_cell(found.get('gps_vertical_m'))} "
                    f"| {seconds:.0f} | {found['memory'] / 1e6:.0f} |"
                )
        lines.append("")
    if "dense" in parts:
        lines += [
            "| flight | program | NMAD | RMSE | bias | flat noise | flat trend | gross % | complete % | water filled % | roof NMAD "
            "| pit % | pile % | CPU s/MP | MB | points M |",
            "|" + "---|" * 16,
        ]
        programs = (
            ("ours", "ours.dense", "surface"),
            ("ours --fast", "fast.dense", "surface"),
            ("OpenCV SGBM pairs", "sgbm.dense", "surface"),
            ("pyOrthomosaic", "pyorthomosaic.score", "surface"),
            ("pyOrthomosaic, measured cells", "pyorthomosaic.score", "surface_measured"),
        )
        for flown in flights:
            for program, step, key in programs:
                found = figures(flown, step)
                if found is None:
                    continue
                run = figures(flown, "pyorthomosaic.run") if step.startswith("pyorthomosaic") else found
                failed = (run or {}).get("failed") or found.get("failed")
                if failed:
                    lines.append(f"| {flown.title} | {program} | {failed} |" + " |" * 13)
                    continue
                s = found.get(key, {})

                def share(name: str, form: str = ".2f", s: Mapping[str, float] = s) -> str:
                    return _cell(None if s.get(name) is None else 100 * s[name], form)

                speed = _per_megapixel(run or {}, size[flown.label])
                whole = " (whole)" if step.startswith("pyorthomosaic") else ""
                count = found.get("points")
                lines.append(
                    f"| {flown.title} | {program} | {_cell(s.get('nmad'))} | {_cell(s.get('rmse'))} | {_cell(s.get('bias'))} "
                    f"| {_cell(s.get('flat_noise'))} | {_cell(s.get('trend'))} | {share('gross')} | {share('complete', '.1f')} "
                    f"| {share('water_filled', '.1f')} | {_cell(s.get('roof_nmad'))} | {share('volume_pit')} | {share('volume_pile')} "
                    f"| {_cell(speed)}{whole} | {(run or {}).get('memory', 0) / 1e6:.0f} | {_cell(None if count is None else count / 1e6, '.1f')} |"
                )
        lines.append("")
    if "ortho" in parts:
        lines += [
            "| flight | program | displacement RMS | median | 95 % | shift E | shift N | matched % | roofs RMS | drawn % | CPU s/MP | MB |",
            "|" + "---|" * 12,
        ]
        for flown in flights:
            for program, step, timed in (
                ("ours", "ours.ortho", "ours.ortho"),
                ("ours --fast", "fast.ortho", "fast.ortho"),
                ("pyOrthomosaic", "pyorthomosaic.score", "pyorthomosaic.run"),
                ("orthority on our poses and DSM", "orthority.score", "orthority.run"),
            ):
                found, run = figures(flown, step), figures(flown, timed)
                if found is None or run is None:
                    continue
                failed = run.get("failed") or found.get("failed")
                if failed:
                    lines.append(f"| {flown.title} | {program} | {failed} |" + " |" * 9)
                    continue
                s = found.get("ortho", {})
                speed = None if timed == "pyorthomosaic.run" else _per_megapixel(run, size[flown.label])
                lines.append(
                    f"| {flown.title} | {program} | {_cell(s.get('rms'))} | {_cell(s.get('median'))} | {_cell(s.get('p95'))} "
                    f"| {_cell(s.get('shift_e'))} | {_cell(s.get('shift_n'))} "
                    f"| {_cell(None if 'matched' not in s else 100 * s['matched'], '.1f')} | {_cell(s.get('roof_rms'))} "
                    f"| {_cell(None if 'drawn' not in s else 100 * s['drawn'], '.1f')} | {_cell(speed)} | {run['memory'] / 1e6:.0f} |"
                )
        lines.append("")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--flights", nargs="+", choices=("independent", "own", "real"), default=["independent", "own", "real"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEST_SEEDS))
    parser.add_argument("--small", action="store_true", help="600 x 450 photos: does everything run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers-python", type=Path, help="interpreter with pyOrthomosaic and orthority")
    parser.add_argument("--only", nargs="+", choices=sorted({step.split(".")[0] for step in STEPS}))
    parser.add_argument("--again", action="store_true", help="compute figures again that are there")
    parser.add_argument("--table", action="store_true", help="print what is there, compute nothing")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--flown", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.step:
        run_step(arguments.step, Flown.from_json(arguments.flown))
        return
    if arguments.work is None:
        parser.error("--work is needed")
    arguments.work = arguments.work.resolve()
    flights = flights_of(arguments)
    for flown in flights:
        flown.folder.mkdir(parents=True, exist_ok=True)
        print(flown.title, file=sys.stderr)
        for part in PARTS:
            for step in BY_PART[part] if part in arguments.part else ():
                chosen = arguments.only is None or step.split(".")[0] in arguments.only
                if chosen and not arguments.table and (arguments.again or figures(flown, step) is None):
                    start(step, flown, arguments)
    print(table(flights, arguments.part))


if __name__ == "__main__":
    main()
