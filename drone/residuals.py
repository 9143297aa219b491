"""What the adjustment left in the photos: residuals of the tie points, by photo and by place in the picture, and drawings of them.

In: an adjusted block. Out: numbers and charts (PNG, numbers only, so that they serve every language). Nothing is adjusted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from drone.camera import project
from drone.georeference import positions_of
from drone.types import Reconstruction

_CELLS = (16, 12)
_RINGS = 12
_DPI = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoResiduals:
    """One photo: its tie-point observations, the root mean square length of their residuals (px), and camera centre less claimed
    position (E, N, U) m, or None where it claims none."""

    name: str
    observations: int
    rmse: float
    gps: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraResiduals:
    """One camera: means over cells of the picture. mean: (12, 16, 2) px observed minus projected, NaN with fewer than 5; radius:
    (12,) px of rings; radial: (12,) px mean residual away from the principal point; spread: (12,) its standard uncertainty."""

    camera: str
    mean: NDArray[np.float64]
    radius: NDArray[np.float64]
    radial: NDArray[np.float64]
    spread: NDArray[np.float64]


def residuals_of(block: Reconstruction) -> NDArray[np.float64]:
    """Observed minus projected pixel of each tie-point observation, (M, 2), in the order of `track_pixels`."""
    names = sorted(block.poses)
    cameras = {photo.name: photo.camera_id for photo in block.flight.photos}
    point = np.repeat(np.arange(len(block.points)), np.diff(block.track_offsets))
    found = np.full((len(block.track_photos), 2), np.nan)
    for index, name in enumerate(names):
        mine = block.track_photos == index
        seen = project(block.cameras[cameras[name]], block.poses[name], block.points[point[mine]])
        found[mine] = block.track_pixels[mine] - seen
    return found


def by_photo(block: Reconstruction, residuals: NDArray[np.float64]) -> tuple[PhotoResiduals, ...]:
    """One entry a registered photo, sorted by name."""
    claimed = positions_of(block.flight)
    found = []
    for index, name in enumerate(sorted(block.poses)):
        mine = residuals[block.track_photos == index]
        squared = np.sum(mine[np.all(np.isfinite(mine), axis=1)] ** 2, axis=1)
        away = None if name not in claimed else block.poses[name].C - claimed[name]
        found.append(
            PhotoResiduals(
                name=name,
                observations=len(mine),
                rmse=float(np.sqrt(squared.mean())) if len(squared) else float("nan"),
                gps=None if away is None else (float(away[0]), float(away[1]), float(away[2])),
            )
        )
    return tuple(found)


def by_camera(block: Reconstruction, residuals: NDArray[np.float64]) -> tuple[CameraResiduals, ...]:
    """One entry a camera that has registered photos, sorted by its id."""
    names = sorted(block.poses)
    camera_of = {photo.name: photo.camera_id for photo in block.flight.photos}
    used = sorted({camera_of[name] for name in names})
    owner = np.array([used.index(camera_of[name]) for name in names])[block.track_photos]
    found = []
    for number, key in enumerate(used):
        camera = block.cameras[key]
        mine = (owner == number) & np.all(np.isfinite(residuals), axis=1)
        pixels, away = block.track_pixels[mine].astype(np.float64), residuals[mine]
        size = np.array(camera.size, float)
        cell = np.clip((pixels / size * _CELLS).astype(int), 0, np.array(_CELLS) - 1)
        flat = cell[:, 1] * _CELLS[0] + cell[:, 0]
        count = np.bincount(flat, minlength=_CELLS[0] * _CELLS[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.stack([np.bincount(flat, away[:, k], _CELLS[0] * _CELLS[1]) / count for k in (0, 1)], axis=1)
        mean[count < 5] = np.nan
        middle = size / 2
        arm = pixels - middle
        distance = np.linalg.norm(arm, axis=1)
        outward = np.sum(away * arm, axis=1) / np.maximum(distance, 1e-9)
        edge = float(np.linalg.norm(middle))
        ring = np.clip((distance / edge * _RINGS).astype(int), 0, _RINGS - 1)
        total = np.bincount(ring, minlength=_RINGS)
        with np.errstate(invalid="ignore", divide="ignore"):
            radial = np.bincount(ring, outward, _RINGS) / total
            spread = np.sqrt(np.maximum(np.bincount(ring, outward**2, _RINGS) / total - radial**2, 0) / total)
        radial[total < 5] = np.nan
        found.append(
            CameraResiduals(
                camera=key,
                mean=mean.reshape(_CELLS[1], _CELLS[0], 2),
                radius=(np.arange(_RINGS) + 0.5) / _RINGS * edge,
                radial=radial,
                spread=spread,
            )
        )
    return tuple(found)


def draw_camera(path: Path, block: Reconstruction, found: CameraResiduals) -> None:
    """Mean residuals over the picture (colour: length in px, arrows: direction) and their radial part over the radius (px)."""
    size = block.cameras[found.camera].size
    length = np.linalg.norm(found.mean, axis=2)
    with mpl.rc_context(mpl.rcParamsDefault):
        figure = Figure(figsize=(9.0, 3.4), facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        shown = left.imshow(length, extent=(0, size[0], size[1], 0), cmap="viridis", vmin=0, interpolation="nearest")
        figure.colorbar(shown, ax=left, shrink=0.85).set_label("px")
        x = (np.arange(_CELLS[0]) + 0.5) / _CELLS[0] * size[0]
        y = (np.arange(_CELLS[1]) + 0.5) / _CELLS[1] * size[1]
        left.quiver(
            *np.meshgrid(x, y), found.mean[..., 0], found.mean[..., 1], color="white", angles="xy", pivot="mid", width=0.004
        )
        left.set_xlabel("px")
        left.set_ylabel("px")
        right.axhline(0, color="#888888", linewidth=0.8)
        right.errorbar(found.radius, found.radial, yerr=found.spread, color="#0a3d7a", marker="o", markersize=3, linewidth=1.2)
        right.set_xlabel("px")
        right.set_ylabel("px")
        right.grid(color="#dddddd", linewidth=0.5)
        figure.tight_layout()
        _save(figure, path)


def draw_positions(path: Path, photos: tuple[PhotoResiduals, ...], block: Reconstruction) -> None:
    """Where the camera stood, with the horizontal difference to the claimed position as an arrow (m, drawn larger; see its key)."""
    told = [photo for photo in photos if photo.gps is not None]
    places = np.array([block.poses[photo.name].C for photo in told])
    away = np.array([photo.gps for photo in told if photo.gps is not None])
    middle = places[:, :2].mean(axis=0)
    with mpl.rc_context(mpl.rcParamsDefault):
        figure = Figure(figsize=(9.0, 3.3), facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        x, y = (places[:, :2] - middle).T
        # pointing from where the camera stood to where it said it was
        arrows = left.quiver(x, y, -away[:, 0], -away[:, 1], away[:, 2], cmap="coolwarm", angles="xy", width=0.005)
        left.plot(x, y, "k.", markersize=3)
        typical = float(np.median(np.hypot(away[:, 0], away[:, 1])))
        key = float(f"{max(typical, 1e-3):.1g}")
        left.quiverkey(arrows, 0.8, 1.05, key, f"{key:g} m", labelpos="E")
        left.set_aspect("equal", "datalim")
        left.set_xlabel("E, m")
        left.set_ylabel("N, m")
        figure.colorbar(arrows, ax=left, shrink=0.85).set_label("U, m")
        for column, (name, colour) in enumerate((("E", "#0a3d7a"), ("N", "#2e8b57"), ("U", "#b42318"))):
            right.plot(away[:, column], label=name, color=colour, marker=".", linewidth=1)
        right.axhline(0, color="#888888", linewidth=0.8)
        right.set_ylabel("m")
        right.legend(frameon=False, ncols=3, fontsize=8)
        right.grid(color="#dddddd", linewidth=0.5)
        figure.tight_layout(rect=(0, 0, 1, 0.95))
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})
