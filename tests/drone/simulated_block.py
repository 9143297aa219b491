"""A simulated flight as a free model: true poses, points and pixels, with noise of known size. No pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from drone.adjustment import rotations
from drone.camera import project_camera_points
from drone.georeference import FreeModel, attitude_rotation
from drone.types import Camera, Flight, GroundPoint, Photo
from geoevidence.crs import transformer

GRID = CRS.from_epsg(4547)
ORIGIN = np.array([527000.0, 3360000.0, 25.0])
TRUE_PARAMS = np.array([1000.0, 1000.0, 604.0, 447.0, -0.03, 0.01, 3e-4, -2e-4])
SIZE = (1200, 900)
HEIGHT = 50.0
GSD = HEIGHT / TRUE_PARAMS[0]


@dataclass(frozen=True, slots=True)
class Simulated:
    """flight and model are what the engine sees; C (P, 3), R (P, 3, 3) and X (N, 3) the truth, in the order of names and points."""

    flight: Flight
    model: FreeModel
    C: NDArray[np.float64]
    R: NDArray[np.float64]
    X: NDArray[np.float64]


def simulate(
    seed: int = 0,
    *,
    strips: int = 4,
    per_strip: int = 6,
    points: int = 700,
    noise_px: float = 0.3,
    gps_noise: tuple[float, float, float] = (0.4, 0.4, 0.6),
    gps_offset: tuple[float, float, float] = (0.8, -0.6, 1.5),
    gps_sd: tuple[float, float, float] = (1.5, 1.5, 3.0),
    tilt_deg: float = 0.0,
    sway_deg: float = 0.7,
    focal_prior: float | None = 1000.0,
    focal_prior_sd: float = 0.03,
    control: int = 0,
    checks: int = 0,
    readout_m: float = 0.0,
) -> Simulated:
    """A nadir block of parallel strips, 80 % forward and 60 % side overlap, over ground with 6 m of relief.

    tilt_deg: photos look that far ahead, so that strips to and fro look different ways. sway_deg: scatter of the attitudes. readout_m: how far the camera flies while a photo is
    read out line by line (rolling shutter), m.
    """
    rng = np.random.default_rng(seed)
    step, gap = 0.2 * SIZE[1] * GSD, 0.4 * SIZE[0] * GSD
    centres, turns, names, ways = [], [], [], []
    for strip in range(strips):
        for index in range(per_strip):
            way = 1 if strip % 2 == 0 else -1
            along = (index - (per_strip - 1) / 2) * step * way
            centres.append([(strip - (strips - 1) / 2) * gap, along, HEIGHT])
            yaw = 0.0 if way > 0 else 180.0
            turns.append((yaw + rng.normal(0, 1), -90 + tilt_deg + rng.normal(0, sway_deg), rng.normal(0, sway_deg)))
            ways.append(way)
            names.append(f"P{len(names):03d}.JPG")
    C = np.array(centres) + rng.normal(0, 0.4, (len(centres), 3)) + ORIGIN
    R = np.stack([attitude_rotation(turn) for turn in turns])
    half = np.array([strips * gap, per_strip * step]) / 2 + 8

    def ground(count: int) -> NDArray[np.float64]:
        place = rng.uniform(-half, half, (count, 2))
        relief = 3 * np.sin(place[:, 0] / 9) * np.cos(place[:, 1] / 7)
        return np.column_stack([place, relief]) + ORIGIN

    X, marked = ground(points), ground(control + checks)
    photo, point, pixel = [], [], []
    everything = np.concatenate([X, marked])
    for i in range(len(C)):
        centre = np.repeat(C[i : i + 1], len(everything), axis=0)
        at = np.zeros((len(everything), 2))
        for _ in range(4 if readout_m else 1):
            at = project_camera_points(TRUE_PARAMS, (everything - centre) @ R[i].T)
            centre[:, 1] = C[i, 1] + readout_m * ways[i] * (at[:, 1] / SIZE[1] - 0.5)
        noisy = at + rng.normal(0, noise_px, at.shape)
        seen = np.flatnonzero(((noisy >= 0) & (noisy <= SIZE)).all(axis=1))
        photo.append(np.full(len(seen), i))
        point.append(seen)
        pixel.append(noisy[seen])
    photo_of, point_of, pixels = np.concatenate(photo), np.concatenate(point), np.concatenate(pixel)
    tie = point_of < points
    enough = np.bincount(point_of[tie], minlength=points) >= 2
    row = np.cumsum(enough) - 1
    tie &= np.concatenate([enough, np.zeros(len(marked), bool)])[point_of]

    # The free model: turned, shrunk, moved, and a little off, as a mapper leaves it.
    turn = rotations(np.array([[0.7, -0.4, 1.1]]))[0]

    def away(places: NDArray[np.float64]) -> NDArray[np.float64]:
        return 0.031 * (places - ORIGIN) @ turn.T + [3.0, -2.0, 5.0]

    nudge = rotations(rng.normal(0, 2e-4, (len(C), 3)))
    focal = focal_prior or 1080.0
    camera = Camera(
        id="cam",
        model="SIMPLE_RADIAL",
        params=(focal, SIZE[0] / 2, SIZE[1] / 2, -0.02),
        size=SIZE,
        make_model="simulated",
        focal_prior=focal_prior,
        focal_prior_sd=focal_prior_sd if focal_prior else None,
    )
    model = FreeModel(
        names=tuple(names),
        R=nudge @ R @ turn.T,
        C=away(C + rng.normal(0, 0.02, C.shape)),
        cameras={"cam": camera},
        points=away(X[enough] + rng.normal(0, 0.03, (int(enough.sum()), 3))),
        obs_photo=photo_of[tie],
        obs_point=row[point_of[tie]],
        obs_pixel=pixels[tie],
    )
    gps = C + gps_offset + rng.normal(0, 1, C.shape) * gps_noise
    lon, lat = transformer(GRID, CRS.from_epsg(4326)).transform(gps[:, 0], gps[:, 1])
    photos = tuple(
        Photo(
            name=name,
            path=Path(name),
            sha256="",
            size=SIZE,
            taken=None,
            position=(float(lon[i]), float(lat[i]), float(gps[i, 2])),
            height_kind="ellipsoidal",
            position_sd=gps_sd,
            attitude=turns[i],
            relative_altitude=None,
            camera_id="cam",
        )
        for i, name in enumerate(names)
    )
    roles: list[Literal["control", "check"]] = ["control"] * control + ["check"] * checks
    ground_points = tuple(
        GroundPoint(
            name=f"{role}{k}",
            position=tuple(float(v) for v in marked[k] + rng.normal(0, 0.01, 3)),
            sd=(0.01, 0.01, 0.01),
            role=role,
            observations={names[photo_of[m]]: tuple(float(v) for v in pixels[m]) for m in np.flatnonzero(point_of == points + k)},
        )
        for k, role in enumerate(roles)
    )
    flight = Flight(photos=photos, cameras={"cam": camera}, ground_points=ground_points, crs=GRID, height_kind="ellipsoidal")
    return Simulated(flight=flight, model=model, C=C, R=R, X=X[enough])
