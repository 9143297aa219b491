"""Flat ground with one crown that has no heights, photographed from six places: what the orthomosaic makes of a thing that leans.

Ground and crown are noise painted on two planes; photos are made by intersecting each pixel's ray with them, without any renderer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from drone.types import AccuracyReport, Camera, Flight, Photo, Pose, Reconstruction, SurfaceModel
from geoevidence.crs import parse_crs
from geoevidence.raster import Grid, Raster

EAST, NORTH, GROUND, HEIGHT, FLIGHT = 500000.0, 3300000.0, 20.0, 14.0, 40.0
CROWN = 3.0
"""Radius of the crown's disc, m; it stands HEIGHT over the ground, its middle at EAST, NORTH."""
EMPTY = 1.6
"""Radius of the patch without heights, m: around it the ground was measured from photos in which the crown leans elsewhere."""
CELL, GSD, SIDE = 0.2, 0.08, 28.0
PLACES = ((-4.0, 1.0), (4.5, -1.0), (8.0, 8.0), (-8.0, -8.5), (9.0, -6.0), (-9.0, 7.0))
_CAMERA = Camera(
    id="flat",
    model="OPENCV",
    params=(500.0, 500.0, 300.0, 225.0, 0, 0, 0, 0),
    size=(600, 450),
    make_model="flat",
    focal_prior=None,
)


def _noise(seed: int, side: int = 1200) -> NDArray[np.float64]:
    made = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 1.5, mode="wrap")
    return made / made.std()


def seen_from(place: tuple[float, float]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Picture (450, 600, 3) from a place beside the crown (m), and which of its pixels show the crown."""
    col, row = np.meshgrid(np.arange(600) + 0.5, np.arange(450) + 0.5)
    right, down = (col - 300) / 500, (row - 225) / 500
    on_crown = np.hypot(place[0] + right * (FLIGHT - HEIGHT), place[1] - down * (FLIGHT - HEIGHT)) <= CROWN

    def painted(seed: int, depth: float) -> NDArray[np.float64]:
        x, y = place[0] + right * depth, place[1] - down * depth
        return ndimage.map_coordinates(_noise(seed), [(y + 40) / 0.07, (x + 40) / 0.07], order=1, mode="grid-wrap")

    ground, crown = painted(1, FLIGHT), painted(2, FLIGHT - HEIGHT)
    grey = np.where(on_crown, 70 + 22 * crown, 150 + 10 * ground)
    colour = np.stack([np.where(on_crown, 0.5 * grey, grey), grey, np.where(on_crown, 0.4 * grey, 0.95 * grey)], axis=2)
    return np.clip(np.rint(colour), 0, 255).astype(np.uint8), on_crown


def crown_block(folder: Path) -> tuple[Reconstruction, SurfaceModel]:
    """The photos, written into the folder, as a block with true poses, and the surface with a hole under the crown."""
    import cv2

    photos, poses = [], {}
    for number, place in enumerate(PLACES):
        name = f"crown_{number}.jpg"
        cv2.imwrite(str(folder / name), seen_from(place)[0][:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 97])
        poses[name] = Pose(R=np.diag([1.0, -1.0, -1.0]), C=np.array([EAST + place[0], NORTH + place[1], GROUND + FLIGHT]))
        photos.append(
            Photo(
                name=name,
                path=folder / name,
                sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                size=_CAMERA.size,
                taken=None,
                position=None,
                height_kind="ellipsoidal",
                position_sd=(1.0, 1.0, 1.0),
                attitude=None,
                relative_altitude=None,
                camera_id=_CAMERA.id,
            )
        )
    crs = parse_crs("EPSG:4547")
    block = Reconstruction(
        flight=Flight(
            photos=tuple(photos),
            cameras={_CAMERA.id: _CAMERA},
            ground_points=(),
            crs=crs,
            height_kind="ellipsoidal",
            synthetic=True,
        ),
        poses=poses,
        cameras={_CAMERA.id: _CAMERA},
        points=np.zeros((0, 3)),
        track_offsets=np.zeros(1, np.int64),
        track_photos=np.zeros(0, np.int32),
        track_pixels=np.zeros((0, 2), np.float32),
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
    count = round(SIDE / CELL)
    grid = Grid(shape=(count, count), transform=Affine(CELL, 0, EAST - SIDE / 2, 0, -CELL, NORTH + SIDE / 2), crs=crs)
    rows, cols = np.mgrid[:count, :count]
    away = np.hypot((cols + 0.5) * CELL - SIDE / 2, (rows + 0.5) * CELL - SIDE / 2)
    heights = np.where(away > EMPTY, GROUND, np.nan).astype(np.float32)[None]
    return block, SurfaceModel(
        raster=Raster(data=heights, grid=grid, nodata=float("nan")),
        kind="dsm",
        height_kind="ellipsoidal",
        standard_uncertainty=None,
        density=None,
    )
