"""The demonstration flight as an adjusted block with its true poses, and what the engine makes of a part of it.

Each stage is computed once a test session. Matching is thereby tested apart from the adjustment.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from drone.dense import DenseConfig, densify
from drone.metadata import read_flight
from drone.ortho import Orthomosaic, build_orthomosaic
from drone.surface import build_surface
from drone.types import AccuracyReport, Camera, DenseCloud, Flight, Photo, Pose, Reconstruction, SurfaceModel
from geoevidence.crs import parse_crs
from geoevidence.raster import Raster, read_raster

SAMPLES = Path(__file__).parents[2] / "sample_data"
GSD = 0.05
"""Nominal, m."""
Chosen = int | tuple[str, ...] | None
"""Part of the flight: so many photos, those named, or all."""
RIVER = tuple(f"SYN_{number:04d}.JPG" for number in (1, 2, 3, 4, 5, 6, 10, 11, 12, 13))
"""The photos that decide where water is seen three times, in this block as in the whole."""


@cache
def truth() -> dict[str, Any]:
    return json.loads((SAMPLES / "truth" / "flight.json").read_text("utf-8"))


@cache
def true_dsm() -> Raster:
    return read_raster(SAMPLES / "truth" / "dsm.tif")


def true_heights(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """True surface at places, bilinear between its posts; NaN outside."""
    from scipy.ndimage import map_coordinates

    raster = true_dsm()
    col, row = ~raster.grid.transform @ (x, y)
    return map_coordinates(raster.data[0].astype(float), [row - 0.5, col - 0.5], order=1, cval=np.nan)


def body(name: str) -> shapely.Polygon:
    """True outline of the pit or the pile."""
    return shapely.Polygon(truth()[name]["outline"])


@cache
def block(photos: Chosen = None) -> Reconstruction:
    """The block of all photos, or of those named, or of as many that are nearest to the middle between pit and pile, with true poses.

    Tie points are places of the true surface projected into the photos.
    """
    known = truth()
    crs = parse_crs(known["crs"])
    camera = Camera(
        id="synthetic",
        model=known["camera"]["model"],
        params=tuple(known["camera"]["params"]),
        size=tuple(known["camera"]["size"]),
        make_model="synthetic",
        focal_prior=None,
    )
    middle = (np.array(body("pit").centroid.coords[0]) + body("pile").centroid.coords[0]) / 2
    by_distance = sorted(known["photos"], key=lambda name: float(np.hypot(*(np.array(known["photos"][name]["C"][:2]) - middle))))
    names = sorted(photos if isinstance(photos, tuple) else by_distance[:photos])
    poses = {name: Pose(R=np.array(known["photos"][name]["R"]), C=np.array(known["photos"][name]["C"])) for name in names}
    pictures = tuple(
        Photo(
            name=name,
            path=SAMPLES / "flight" / name,
            sha256=hashlib.sha256((SAMPLES / "flight" / name).read_bytes()).hexdigest(),
            size=camera.size,
            taken=None,
            position=None,
            height_kind="ellipsoidal",
            position_sd=(1.0, 1.0, 1.0),
            attitude=None,
            relative_altitude=None,
            camera_id=camera.id,
        )
        for name in names
    )
    points, offsets, seen_in, pixels = _ties(names, poses, camera)
    return Reconstruction(
        flight=Flight(
            photos=pictures, cameras={camera.id: camera}, ground_points=(), crs=crs, height_kind="ellipsoidal", synthetic=True
        ),
        poses=poses,
        cameras={camera.id: camera},
        points=points,
        track_offsets=offsets,
        track_photos=seen_in,
        track_pixels=pixels,
        unregistered={},
        accuracy=AccuracyReport(
            reprojection_rmse=0.3,
            gsd=GSD,
            ground_points=(),
            check_rmse_horizontal=None,
            check_rmse_vertical=None,
            gps_rmse_horizontal=None,
            gps_rmse_vertical=None,
            control="ground_points",
            position_sd=(0.01, 0.01, 0.02),
            scale_sd=1e-4,
            focal_sd=1e-4,
        ),
    )


def _ties(
    names: list[str], poses: dict[str, Pose], camera: Camera
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    from drone.camera import project

    west, south, east, north = true_dsm().grid.bounds
    rng = np.random.default_rng(0)
    x, y = rng.uniform(west + 1, east - 1, 3000), rng.uniform(south + 1, north - 1, 3000)
    places = np.column_stack([x, y, true_heights(x, y)])
    at = np.stack([project(camera, poses[name], places) for name in names])
    inside = (at[..., 0] > 5) & (at[..., 1] > 5) & (at[..., 0] < camera.size[0] - 5) & (at[..., 1] < camera.size[1] - 5)
    used = np.nonzero(inside.sum(axis=0) >= 3)[0]
    seen_in = [np.nonzero(inside[:, i])[0] for i in used]
    return (
        places[used],
        np.concatenate([[0], np.cumsum([len(s) for s in seen_in])]),
        np.concatenate(seen_in).astype(np.int32),
        np.concatenate([at[s, i] for s, i in zip(seen_in, used, strict=True)]).astype(np.float32),
    )


@cache
def cloud(photos: Chosen) -> DenseCloud:
    return densify(block(photos), config=DenseConfig(threads=2))


@cache
def surface(photos: Chosen) -> SurfaceModel:
    return build_surface(cloud(photos), block(photos))


@cache
def mosaic(photos: Chosen) -> Orthomosaic:
    return build_orthomosaic(block(photos), surface(photos))


def flight() -> Flight:
    return read_flight(SAMPLES / "flight")
