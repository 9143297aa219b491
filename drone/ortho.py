"""Orthomosaic: for each cell of the ground the photo that sees it best, drawn through the surface model.

A photo may show a cell only if nothing of the surface stands between them, and if it shows there what most photos show (not a
car that passed, not a roof edge that the surface model lacks). Each photo keeps the middle of the ground that it looks down on
most steeply; the seam to its neighbour is then led where both show the same: things that stand, and things whose height is not
known, are taken whole from one of them. Differences of exposure are levelled by one gain per photo and colour, one contrast per photo
and one fall-off towards the corners per camera, solved jointly over all overlaps; nothing else changes a colour. Where the
surface model is empty the picture is drawn on ground interpolated from around: `support` says so for every cell, and heights
are never written back.
Sources: Soille 2006, doi:10.1109/TPAMI.2006.99 (seams by flooding from markers); Brown and Lowe 2007,
doi:10.1007/s11263-006-0002-3 (gains from overlaps).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from drone.camera import opencv_params, rays
from drone.dense import in_threads, read_photo
from drone.types import Camera, Photo, Reconstruction, SurfaceModel
from geoevidence.errors import ConfigError, CoverageError, FormatError
from geoevidence.raster import Grid, Raster
from geoevidence.types import Progress, no_progress

NOT_DRAWN, MEASURED, INTERPOLATED = 0, 1, 2
"""Values of `Orthomosaic.support`; INTERPOLATED: on ground continued from around, or a speckle that no photo surely shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrthoConfig:
    """Settings of `build_orthomosaic`.

    cell: side of a cell (m), 0 = the GSD rounded up to a whole millimetre.
    reach: how far from measured heights the picture is continued on interpolated ground (m); 0 = not at all.
    whole_up_to: patches without heights up to this size are taken from a single photo if one shows them whole (m2).
    seam_band: how far from the line of equal view a seam may be led (m); wide: better places, more oblique views.
    crown_band: the same on patches without heights and around them (m): as wide as the crowns that a seam should go around.
    lean: how far things without heights may lean over measured ground (m): 0.4 of their height at the edge of a usual photo.
    feather: width of the blend along a seam (cells); wide blends double edges that do not meet.
    occlusion_tolerance: something must stand this far above the line of sight to hide a cell (m).
    border: photo pixels this near to the edge of a photo are not used (share of the width).
    gain_pull, colour_pull: weight that holds each photo's brightness and colour as they are, against 1 of an overlap (1);
        small: seamless but drifting.
    contrast_pull: the same for the contrast of each photo (1).
    fall_off_pull: the same for the fall-off of brightness towards the corners of a camera (1).
    max_gain: largest brightness correction (factor).
    max_contrast: largest departure of a contrast from 1 (1).
    threads: workers (count), 0 = one a processor, at most 8; does not change the result.
    """

    cell: float = 0.0
    reach: float = 15.0
    whole_up_to: float = 400.0
    seam_band: float = 3.0
    crown_band: float = 8.0
    lean: float = 6.0
    feather: float = 6.0
    occlusion_tolerance: float = 0.15
    border: float = 0.01
    gain_pull: float = 0.3
    colour_pull: float = 1.5
    contrast_pull: float = 0.3
    fall_off_pull: float = 1.0
    max_gain: float = 2.0
    max_contrast: float = 0.25
    threads: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "cell": (0, 100),
            "reach": (0, 1000),
            "whole_up_to": (0, 1e6),
            "seam_band": (0, 100),
            "crown_band": (0, 100),
            "lean": (0, 100),
            "feather": (0, 200),
            "occlusion_tolerance": (0, 10),
            "border": (0, 0.3),
            "gain_pull": (0.01, 100),
            "colour_pull": (0.01, 100),
            "contrast_pull": (0.01, 100),
            "fall_off_pull": (0.01, 100),
            "max_gain": (1, 10),
            "max_contrast": (0, 0.9),
            "threads": (0, 1024),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"ortho.{name}", found=str(getattr(self, name)), low=low, high=high
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Orthomosaic:
    """raster: uint8 (4, y, x) red, green, blue, alpha (0 = no photo shows the place).

    sources: uint16 (2, y, x) on the same grid: 1 + position of the photo in `photos` (0 = none); support (see above).
    photos: names in order of position. gains: per photo the factor on (red, green, blue).
    fall_off: per camera (a, b, c): brightness is multiplied by exp(a q + b q^2 + c q^3), q the squared distance from the middle of
        the picture over that of its corner.
    contrast: per photo the exponent c of 128 (v / 128)^c, taken of every value v before gain and fall-off; 1 for a photo not named.
    """

    raster: Raster
    sources: Raster
    photos: tuple[str, ...]
    gains: Mapping[str, tuple[float, float, float]]
    fall_off: Mapping[str, tuple[float, float, float]]
    contrast: Mapping[str, float] = field(default_factory=dict)


def build_orthomosaic(
    reconstruction: Reconstruction,
    surface: SurfaceModel,
    *,
    config: OrthoConfig = OrthoConfig(),
    progress: Progress = no_progress,
) -> Orthomosaic:
    """Orthomosaic on the surface's extent, in its CRS.

    Raises:
        CoverageError: no photo shows the surface.
        FormatError: a photo cannot be read.
    """
    names = tuple(sorted(reconstruction.poses))
    lines = _lines_of_sight(reconstruction, names, config.border)
    coarse = surface.raster.grid
    height = surface.raster.data[0].astype(np.float64)
    known = np.isfinite(height)
    datum = float(np.median(height[known]))
    ground = (fill_ground(height, coarse.resolution[0]) - datum).astype(np.float32)
    drawable = ndimage.distance_transform_edt(~known) * coarse.resolution[0] <= config.reach if config.reach > 0 else known
    scene = _Scene(ground, coarse.transform.c, coarse.transform.f, coarse.resolution[0], datum)
    looks = _visibility(reconstruction, names, lines, scene, drawable, config)
    if not any(look.bits.any() for look in looks):
        raise CoverageError("drone.ortho_empty")
    progress("drone.stage_ortho", 0.1)
    with tempfile.TemporaryDirectory(prefix="geoevidence-ortho-") as scratch:
        views = _views(reconstruction, names, lines, looks, scene, Path(scratch), config)
        progress("drone.stage_ortho", 0.2)
        exposure = _exposure(reconstruction, names, lines, looks, views, scene, config)
        _level_views(lines, looks, views, scene, exposure, config)
        labels, fit = _nearest_views(lines, looks, views, scene, known, config)
        loose = _loose(known, drawable, scene.cell, config)
        looks = _forgiven(looks, fit, loose & ~known, scene.cell, config)
        kept = _keep_whole(labels, lines, looks, scene, known, drawable, config)
        progress("drone.stage_ortho", 0.3)
        labels = _lead_seams(looks, labels, kept, views, scene, known, loose, config)
        known = known & ~_covered(labels, looks, views, known, loose, scene.cell, config)
    speckles = _speckles(labels, drawable, scene.cell)
    if config.reach > 0 and speckles.any():
        # drawn by the photo beside them, and marked: not proved to be seen
        nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        labels = np.where(speckles, labels[tuple(nearest)], labels)
        known = known & ~speckles
    progress("drone.stage_ortho", 0.4)
    return _draw(reconstruction, names, lines, labels, scene, known, coarse, exposure, config, progress)


_SPECKLE = 0.2
"""m2: smaller patches that every photo seems to miss are noise of the surface model, not something hidden."""


def _speckles(labels: NDArray[np.uint16], drawable: NDArray[np.bool_], cell: float) -> NDArray[np.bool_]:
    """Small patches of drawable ground without a photo."""
    patches, count = ndimage.label(drawable & (labels == 0))
    sizes = np.bincount(patches.ravel(), minlength=count + 1) * cell**2
    sizes[0] = np.inf
    return np.asarray((sizes <= _SPECKLE)[patches])


class _Scene(NamedTuple):
    """The ground that is drawn: heights over `datum` (m), outer corner of its first cell (E, N), side of a cell (m)."""

    ground: NDArray[np.float32]
    west: float
    north: float
    cell: float
    datum: float


class _Look(NamedTuple):
    """What a photo sees: part of the ground (first row, last row + 1, first column, last column + 1), and bits (rows, columns / 8)."""

    top: int
    bottom: int
    left: int
    right: int
    bits: NDArray[np.uint8]

    @property
    def part(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def seen(self) -> NDArray[np.bool_]:
        return np.unpackbits(self.bits, axis=1, count=self.right - self.left).astype(bool)


class _Exposure(NamedTuple):
    """Log gain per photo and colour, (n, 3); fall-off per photo's camera, (n, 3); contrast per photo, (n,); centre and squared half
    diagonal, (n, 3) px."""

    gains: NDArray[np.float64]
    fall_off: NDArray[np.float64]
    contrast: NDArray[np.float64]
    frame: NDArray[np.float64]


def fill_ground(height: NDArray[np.float64], cell: float) -> NDArray[np.float64]:
    """Heights with every NaN replaced by ground continued from around; measured heights are kept.

    The lower quarter of the heights of each half-metre block is spread into empty blocks, coarse to fine.
    """
    factor = max(1, round(0.5 / cell))
    rows, cols = (-(-side // factor) for side in height.shape)
    padded = np.full((rows * factor, cols * factor), np.nan)
    padded[: height.shape[0], : height.shape[1]] = height
    blocks = padded.reshape(rows, factor, cols, factor).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    blocks = np.sort(blocks, axis=2)  # NaN last
    count = np.isfinite(blocks).sum(axis=2)
    low = np.take_along_axis(blocks, np.maximum((count - 1) // 4, 0)[:, :, None], axis=2)[:, :, 0]
    spread = _spread(low)
    row = np.clip((np.arange(height.shape[0]) + 0.5) / factor - 0.5, 0, rows - 1)
    col = np.clip((np.arange(height.shape[1]) + 0.5) / factor - 0.5, 0, cols - 1)
    fine = ndimage.map_coordinates(spread, np.stack(np.meshgrid(row, col, indexing="ij")), order=1, mode="nearest")
    return np.where(np.isfinite(height), height, fine)


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN replaced by a smooth continuation: means of ever coarser copies, then relaxed (Laplace) from coarse to fine."""
    known = np.isfinite(values)
    if known.all():
        return values
    if min(values.shape) <= 2:
        return np.where(known, values, np.nanmean(values))
    rows, cols = (-(-side // 2) for side in values.shape)
    total, weight = np.zeros((rows * 2, cols * 2)), np.zeros((rows * 2, cols * 2))
    total[: values.shape[0], : values.shape[1]] = np.where(known, values, 0)
    weight[: values.shape[0], : values.shape[1]] = known
    total = total.reshape(rows, 2, cols, 2).sum(axis=(1, 3))
    weight = weight.reshape(rows, 2, cols, 2).sum(axis=(1, 3))
    half = _spread(np.where(weight > 0, total / np.maximum(weight, 1), np.nan))
    filled = np.where(known, values, np.kron(half, np.ones((2, 2)))[: values.shape[0], : values.shape[1]])
    kernel = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
    for _ in range(12):
        filled = np.where(known, values, ndimage.convolve(filled, kernel, mode="nearest"))
    return filled


def _lines_of_sight(reconstruction: Reconstruction, names: tuple[str, ...], border: float) -> NDArray[np.float64]:
    """Per photo one row: R (9), C (3), OPENCV parameters (8), usable range left, top, right, bottom (px), (n, 24)."""
    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    rows = []
    for name in names:
        pose, camera = reconstruction.poses[name], reconstruction.cameras[photos[name].camera_id]
        rim = border * camera.size[0] + 2
        rows.append(
            np.concatenate(
                [pose.R.ravel(), pose.C, opencv_params(camera), [rim, rim, camera.size[0] - rim, camera.size[1] - rim]]
            )
        )
    return np.array(rows)


@numba.njit(nogil=True, cache=True)
def _pixel(line, x, y, z):  # type: ignore[no-untyped-def]
    """(col, row, inside) of a world point in the photo of a row of `_lines_of_sight`."""
    dx, dy, dz = x - line[9], y - line[10], z - line[11]
    cz = line[6] * dx + line[7] * dy + line[8] * dz
    if cz <= 0:
        return 0.0, 0.0, False
    u = (line[0] * dx + line[1] * dy + line[2] * dz) / cz
    v = (line[3] * dx + line[4] * dy + line[5] * dz) / cz
    r2 = u * u + v * v
    if r2 > 4.0:  # far outside any pinhole picture, where a distortion polynomial means nothing
        return 0.0, 0.0, False
    radial = 1 + r2 * (line[16] + line[17] * r2)
    du = u * radial + 2 * line[18] * u * v + line[19] * (r2 + 2 * u * u)
    dv = v * radial + 2 * line[19] * u * v + line[18] * (r2 + 2 * v * v)
    col, row = line[12] * du + line[14], line[13] * dv + line[15]
    return col, row, line[20] <= col <= line[22] and line[21] <= row <= line[23]


@numba.njit(nogil=True, cache=True)
def _visible(line, ground, west, north, cell, datum, highest, drawable, tolerance, top, bottom, left, right):  # type: ignore[no-untyped-def]
    """Which drawable cells of a part the photo sees: inside its picture, and nothing stands in the line of sight."""
    rows, cols = ground.shape
    seen = np.zeros((bottom - top, right - left), np.bool_)
    for r in range(top, bottom):
        y = north - (r + 0.5) * cell
        for c in range(left, right):
            if not drawable[r, c]:
                continue
            x = west + (c + 0.5) * cell
            h = ground[r, c]
            _, _, inside = _pixel(line, x, y, h + datum)
            rise = line[11] - datum - h
            if not inside or rise <= 0:
                continue
            dx, dy = (line[9] - x) / cell, -(line[10] - y) / cell
            far = np.sqrt(dx * dx + dy * dy)
            hidden = False
            if far > 0.5:
                step_x, step_y, step_h = dx / far, dy / far, rise / far
                reach = min(far, (highest - h) / step_h + 1)
                k = 1.5
                while k < reach:
                    rr, cc = int(r + 0.5 + k * step_y), int(c + 0.5 + k * step_x)
                    if rr < 0 or cc < 0 or rr >= rows or cc >= cols:
                        break
                    if ground[rr, cc] > h + k * step_h + tolerance:
                        hidden = True
                        break
                    k += 1.0
            seen[r - top, c - left] = not hidden
    return seen


def _footprint(line: NDArray[np.float64], camera: Camera, scene: _Scene) -> tuple[int, int, int, int] | None:
    """The part of the ground that a photo can show at any of its heights (rows, columns from, to), or None."""
    rows, cols = scene.ground.shape
    along = np.linspace(0, 1, 17)
    width, height = camera.size
    rim = np.concatenate(
        [
            np.column_stack([along * width, np.zeros(17)]),
            np.column_stack([along * width, np.full(17, float(height))]),
            np.column_stack([np.zeros(17), along * height]),
            np.column_stack([np.full(17, float(width)), along * height]),
        ]
    )
    towards = rays(camera, rim) @ line[:9].reshape(3, 3)
    whole = (0, rows, 0, cols)
    if not np.all(np.isfinite(towards)) or np.any(towards[:, 2] >= -1e-3 * np.linalg.norm(towards, axis=1)):
        return whole
    spots = []
    for level in (float(scene.ground.min()), float(scene.ground.max())):
        depth = (level + scene.datum - line[11]) / towards[:, 2]
        if np.any(depth <= 0):
            return whole
        spots.append(line[9:11] + towards[:, :2] * depth[:, None])
    places = np.concatenate(spots)
    low, high = places.min(axis=0), places.max(axis=0)
    left, right = int((low[0] - scene.west) / scene.cell) - 2, int((high[0] - scene.west) / scene.cell) + 3
    top, bottom = int((scene.north - high[1]) / scene.cell) - 2, int((scene.north - low[1]) / scene.cell) + 3
    top, bottom, left, right = max(top, 0), min(bottom, rows), max(left, 0), min(right, cols)
    return (top, bottom, left, right) if top < bottom and left < right else None


def _visibility(
    reconstruction: Reconstruction,
    names: tuple[str, ...],
    lines: NDArray[np.float64],
    scene: _Scene,
    drawable: NDArray[np.bool_],
    config: OrthoConfig,
) -> list[_Look]:
    """What each photo sees of the ground."""
    cameras = _cameras(reconstruction, names)
    highest = float(scene.ground.max())

    def look(index: int) -> _Look:
        box = _footprint(lines[index], cameras[index], scene) or (0, 1, 0, 1)
        seen = _visible(
            lines[index], scene.ground, scene.west, scene.north, scene.cell, scene.datum, highest, drawable,
            config.occlusion_tolerance, *box,
        )  # fmt: skip
        return _Look(*box, np.packbits(seen, axis=1))

    return in_threads(look, range(len(names)), config.threads)


def _views(
    reconstruction: Reconstruction,
    names: tuple[str, ...],
    lines: NDArray[np.float64],
    looks: Sequence[_Look],
    scene: _Scene,
    folder: Path,
    config: OrthoConfig,
) -> list[Path]:
    """Files with the colours, uint8 (rows, columns, 3), that each photo shows in its part of the ground; 0 where it sees nothing."""
    import cv2

    photos = {photo.name: photo for photo in reconstruction.flight.photos}

    def view(index: int) -> Path:
        look = looks[index]
        rows, cols = np.nonzero(look.seen())
        pixels = _pixels(lines[index], *_places(look, rows, cols, scene))
        small = _reduced_photo(photos[names[index]], 2)
        picture = np.zeros((look.bottom - look.top, look.right - look.left, 3), np.uint8)
        for start in range(0, len(rows), 32_000):  # cv2.remap takes no side longer than 32767
            at = (pixels[start : start + 32_000] / 2 - 0.5).astype(np.float32)
            picture[rows[start : start + 32_000], cols[start : start + 32_000]] = cv2.remap(
                small, at[:, None, 0], at[:, None, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )[:, 0]
        path = folder / f"{index}.npy"
        np.save(path, picture)
        return path

    return in_threads(view, range(len(names)), config.threads)


def _places(
    look: _Look, rows: NDArray[np.int64], cols: NDArray[np.int64], scene: _Scene
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """East, north, up (m) of cells of the part that a photo sees."""
    return (
        np.asarray(scene.west + (cols + look.left + 0.5) * scene.cell, np.float64),
        np.asarray(scene.north - (rows + look.top + 0.5) * scene.cell, np.float64),
        np.asarray(scene.ground[look.part][rows, cols] + scene.datum, np.float64),
    )


def _level_views(
    lines: NDArray[np.float64],
    looks: Sequence[_Look],
    views: Sequence[Path],
    scene: _Scene,
    exposure: _Exposure,
    config: OrthoConfig,
) -> None:
    """Applies gains and fall-off to the views, in their files."""

    def one(index: int) -> None:
        look = looks[index]
        rows, cols = np.nonzero(look.seen())
        pixels = _pixels(lines[index], *_places(look, rows, cols, scene))
        picture = np.load(views[index])
        values = _toned(exposure.contrast[index])[picture[rows, cols]] * _factors(exposure, index, pixels)
        picture[rows, cols] = np.rint(np.clip(values, 0, 255))
        np.save(views[index], picture)

    in_threads(one, range(len(looks)), config.threads)


_TILE = 512
"""Side of the parts in which photos are compared (cells): bounds the memory, changes no byte."""
_ODD_LEVELS = 24
"""A photo is at odds with the others where a colour is at least so far (of 255) from their median ..."""
_ODD_SPREAD = 5.0
"""... and so many times their median distance from it: grass and gravel differ everywhere, a passer-by in one photo only."""


def _nearest_views(
    lines: NDArray[np.float64],
    looks: Sequence[_Look],
    views: Sequence[Path],
    scene: _Scene,
    known: NDArray[np.bool_],
    config: OrthoConfig,
) -> tuple[NDArray[np.uint16], list[_Look]]:
    """Photo number + 1 per cell (0 = none), the one that looks down on it most steeply; and where each photo may be drawn.

    A photo at odds with most of at least three others may not, unless all are. Where heights are not known the same place is not
    the same thing, and every photo that sees it may be drawn.
    """
    rows, cols = scene.ground.shape
    labels = np.zeros((rows, cols), np.uint16)
    allowed = [look.seen() for look in looks]
    tiles = [(top, left) for top in range(0, rows, _TILE) for left in range(0, cols, _TILE)]

    def tile(corner: tuple[int, int]) -> tuple[NDArray[np.uint16], list[tuple[int, Any, NDArray[np.bool_]]]]:
        top, left = corner
        # with a rim, so that nothing depends on where tiles meet
        y0, y1, x0, x1 = max(0, top - 2), min(rows, top + _TILE + 2), max(0, left - 2), min(cols, left + _TILE + 2)
        members, stack, seen, wheres = [], [], [], []
        for index, look in enumerate(looks):
            a, b, c, d = max(y0, look.top), min(y1, look.bottom), max(x0, look.left), min(x1, look.right)
            if a >= b or c >= d or not allowed[index][a - look.top : b - look.top, c - look.left : d - look.left].any():
                continue
            colours, visible = np.zeros((y1 - y0, x1 - x0, 3), np.uint8), np.zeros((y1 - y0, x1 - x0), bool)
            own = (slice(a - look.top, b - look.top), slice(c - look.left, d - look.left))
            colours[a - y0 : b - y0, c - x0 : d - x0] = np.load(views[index], mmap_mode="r")[own]
            visible[a - y0 : b - y0, c - x0 : d - x0] = allowed[index][own]
            members.append(index)
            stack.append(colours)
            seen.append(visible)
            wheres.append(look)
        inner = (slice(top - y0, min(top + _TILE, rows) - y0), slice(left - x0, min(left + _TILE, cols) - x0))
        if not members:
            return np.zeros((inner[0].stop - inner[0].start, inner[1].stop - inner[1].start), np.uint16), []
        shown = np.stack(seen)
        # contiguous, as a part that spans the whole width is: one compiled form for both
        sure = np.ascontiguousarray(known[y0:y1, x0:x1])
        odd = _at_odds(np.stack(stack), shown, sure, _ODD_LEVELS, _ODD_SPREAD)
        # single cells are noise; what is left is widened by the cell that it shades into
        odd = ndimage.binary_dilation(ndimage.binary_opening(odd, structure=np.ones((1, 2, 2))), structure=np.ones((1, 3, 3)))
        odd &= known[y0:y1, x0:x1]
        odd &= (shown & ~odd).any(axis=0)
        centres = lines[members][:, 9:12] - [
            scene.west + (x0 + 0.5) * scene.cell,
            scene.north - (y0 + 0.5) * scene.cell,
            scene.datum,
        ]
        best = _steepest(centres, np.ascontiguousarray(scene.ground[y0:y1, x0:x1]), scene.cell, shown & ~odd)
        numbers = np.concatenate([[0], np.array(members) + 1]).astype(np.uint16)
        refused = []
        for index, look, each in zip(members, wheres, odd & shown, strict=True):
            a, b = max(top, look.top), min(top + _TILE, look.bottom)
            c, d = max(left, look.left), min(left + _TILE, look.right)
            if a < b and c < d and each[a - y0 : b - y0, c - x0 : d - x0].any():
                place = (slice(a - look.top, b - look.top), slice(c - look.left, d - look.left))
                refused.append((index, place, each[a - y0 : b - y0, c - x0 : d - x0]))
        return numbers[best[inner]], refused

    # the tiles read `allowed` with a rim: what they refuse is taken away after all are done
    found = in_threads(tile, tiles, config.threads)
    for (top, left), (best, refused) in zip(tiles, found, strict=True):
        labels[top : top + best.shape[0], left : left + best.shape[1]] = best
        for index, place, each in refused:
            allowed[index][place] &= ~each
    return labels, [look._replace(bits=np.packbits(seen, axis=1)) for look, seen in zip(looks, allowed, strict=True)]


@numba.njit(nogil=True, cache=True)
def _at_odds(stack, seen, known, levels, spread):  # type: ignore[no-untyped-def]
    """Where a photo is at odds with the median of all that see a cell, (photos, rows, columns); never with fewer than three."""
    photos, rows, cols, _ = stack.shape
    odd = np.zeros((photos, rows, cols), np.bool_)
    who, values, away = np.empty(photos, np.int64), np.empty(photos, np.int64), np.zeros(photos, np.int64)
    order = np.empty(photos, np.int64)
    for r in range(rows):
        for c in range(cols):
            n = 0
            for p in range(photos):
                if seen[p, r, c]:
                    who[n] = p
                    n += 1
            if n < 3 or not known[r, c]:
                continue
            for k in range(n):
                away[k] = 0
            for band in range(3):
                for k in range(n):
                    values[k] = np.int64(stack[who[k], r, c, band])
                    order[k] = values[k]
                order[:n].sort()
                middle = order[(n - 1) // 2] + order[n // 2]  # twice the median
                for k in range(n):
                    away[k] = max(away[k], abs(2 * values[k] - middle))
            for k in range(n):
                order[k] = away[k]
            order[:n].sort()
            limit = max(2.0 * levels, spread * order[(n - 1) // 2])
            for k in range(n):
                odd[who[k], r, c] = away[k] > limit
    return odd


@numba.njit(nogil=True, cache=True)
def _steepest(centres, ground, cell, allowed):  # type: ignore[no-untyped-def]
    """1 + number of the allowed photo whose line of sight is nearest to the vertical, 0 = none. centres: from the first cell, m."""
    photos, rows, cols = allowed.shape
    best = np.zeros((rows, cols), np.int64)
    for r in range(rows):
        for c in range(cols):
            least = np.inf
            for p in range(photos):
                if allowed[p, r, c]:
                    dx, dy = centres[p, 0] - c * cell, centres[p, 1] + r * cell
                    rise = centres[p, 2] - ground[r, c]
                    slope = (dx * dx + dy * dy) / (rise * rise)
                    if slope < least:
                        least = slope
                        best[r, c] = p + 1
    return best


def _cameras(reconstruction: Reconstruction, names: Sequence[str]) -> list[Camera]:
    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    return [reconstruction.cameras[photos[name].camera_id] for name in names]


_THICK = 0.3
"""m: patches without heights that hold a disc of this radius are things; thinner ones are what a wall hides."""


def _disc(radius: float, cell: float) -> NDArray[np.uint8]:
    import cv2

    side = 2 * max(1, round(radius / cell)) + 1
    return np.array(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _loose(known: NDArray[np.bool_], drawable: NDArray[np.bool_], cell: float, config: OrthoConfig) -> NDArray[np.bool_]:
    """Where the picture may show what the surface model does not hold: thick patches without heights, and ground that they lean over."""
    import cv2

    thick = cv2.morphologyEx((drawable & ~known).astype(np.uint8), cv2.MORPH_OPEN, _disc(_THICK, cell))
    if not thick.any():
        return np.zeros(known.shape, bool)
    distance = np.asarray(cv2.distanceTransform(1 - thick, cv2.DIST_L2, 3))
    return np.asarray((thick > 0) | (known & (distance * cell <= config.lean)))


def _forgiven(
    seen: Sequence[_Look], fit: Sequence[_Look], things: NDArray[np.bool_], cell: float, config: OrthoConfig
) -> list[_Look]:
    """Where each photo may be drawn, with what was refused for being at odds with the others given back where it hangs together with
    a thing without heights: it is a part of that thing, and without it the thing would be torn."""
    import cv2

    def one(index: int) -> _Look:
        look, part = seen[index], things[seen[index].part].astype(np.uint8)
        sees, fits = look.seen(), fit[index].seen()
        odd = (sees & ~fits).astype(np.uint8)
        if not odd.any() or not part.any():
            return fit[index]
        _, pieces = cv2.connectedComponents(
            cv2.morphologyEx(odd | part, cv2.MORPH_CLOSE, _disc(2 * _THICK, cell)), connectivity=4
        )
        held = np.zeros(int(pieces.max()) + 1, bool)
        held[np.unique(pieces[part > 0])] = True
        held[0] = False
        return look._replace(bits=np.packbits(fits | (sees & held[pieces]), axis=1))

    return in_threads(one, range(len(seen)), config.threads)


def _keep_whole(
    labels: NDArray[np.uint16],
    lines: NDArray[np.float64],
    looks: Sequence[_Look],
    scene: _Scene,
    known: NDArray[np.bool_],
    drawable: NDArray[np.bool_],
    config: OrthoConfig,
) -> NDArray[np.bool_]:
    """Gives patches without heights to one photo, in place, and says which cells: they lean differently in every photo, and a
    seam would tear them."""
    cell = scene.cell
    patches, _ = ndimage.label(ndimage.binary_closing(drawable & ~known, iterations=max(1, round(0.2 / cell))) & drawable)
    rim = max(1, round(0.5 / cell))
    kept = np.zeros(labels.shape, bool)
    for number, box in enumerate(ndimage.find_objects(patches), start=1):
        around = tuple(slice(max(0, part.start - rim), part.stop + rim) for part in box)
        patch = patches[around] == number
        if not 0.05 <= patch.sum() * cell**2 <= config.whole_up_to:
            continue
        patch = ndimage.binary_dilation(patch, iterations=rim) & drawable[around]
        shown, counts = np.unique(labels[around][patch], return_counts=True)
        if len(shown) < 2:
            continue
        spots = np.argwhere(patch) + (around[0].start, around[1].start)
        x, y = scene.west + (spots[:, 1] + 0.5) * cell, scene.north - (spots[:, 0] + 0.5) * cell
        whole: dict[int, NDArray[np.bool_]] = {}
        for index, look in enumerate(looks):
            inside = (
                (spots[:, 0] >= look.top) & (spots[:, 0] < look.bottom) & (spots[:, 1] >= look.left) & (spots[:, 1] < look.right)
            )
            if inside.mean() <= 0.98:
                continue
            inside[inside] = look.seen()[spots[inside, 0] - look.top, spots[inside, 1] - look.left]
            if inside.mean() > 0.98:
                whole[index] = inside
        if whole:
            # The photo that has most of it already, else the one that looks down most steeply.
            most = int(shown[np.argmax(counts)]) - 1
            distance = {index: float(np.hypot(x - lines[index][9], y - lines[index][10]).mean()) for index in whole}
            chosen = most if most in whole else min(whole, key=lambda index: (distance[index], index))
            mine = spots[whole[chosen]]
            labels[mine[:, 0], mine[:, 1]] = chosen + 1
            kept[mine[:, 0], mine[:, 1]] = True
    return kept


def _reduced_photo(photo: Photo, by: int) -> NDArray[np.uint8]:
    """The photo, RGB, reduced by 2, 4 or 8 as the JPEG decoder does it: each pixel is the mean of a square."""
    import cv2

    flags = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[by]
    picture = cv2.imdecode(np.fromfile(photo.path, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        raise FormatError("drone.unreadable_photo", path=photo.name)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def _exposure(
    reconstruction: Reconstruction,
    names: tuple[str, ...],
    lines: NDArray[np.float64],
    looks: Sequence[_Look],
    views: Sequence[Path],
    scene: _Scene,
    config: OrthoConfig,
) -> _Exposure:
    """Gains and fall-off that level the differences seen in all overlaps."""
    cameras = _cameras(reconstruction, names)
    frame = np.array([(c.size[0] / 2, c.size[1] / 2, (c.size[0] ** 2 + c.size[1] ** 2) / 4) for c in cameras])
    drawn = np.zeros(scene.ground.shape, bool)
    for look in looks:
        drawn[look.part] |= look.seen()
    step = max(1, round(np.sqrt(np.count_nonzero(drawn) / 20_000)))
    rows, cols = np.nonzero(drawn[step // 2 :: step, step // 2 :: step])
    rows, cols = rows * step + step // 2, cols * step + step // 2

    def sample(index: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Places that the photo shows, their log colours (k, 3), their squared distance from the middle of the picture (k,)."""
        look = looks[index]
        inside = (rows >= look.top) & (rows < look.bottom) & (cols >= look.left) & (cols < look.right)
        inside[inside] = look.seen()[rows[inside] - look.top, cols[inside] - look.left]
        spots = np.nonzero(inside)[0]
        row, col = rows[spots] - look.top, cols[spots] - look.left
        pixels = _pixels(lines[index], *_places(look, row, col, scene))
        values = np.load(views[index], mmap_mode="r")[row, col].astype(np.float64)
        # Black and burnt-out pixels say nothing about exposure.
        good = np.all((values >= 8) & (values <= 247), axis=1)
        radius = np.sum((pixels - frame[index, :2]) ** 2, axis=1) / frame[index, 2]
        return spots[good], np.log(values[good]), radius[good]

    samples = in_threads(sample, range(len(names)), config.threads)
    spots = np.concatenate([each[0] for each in samples])
    logs = np.concatenate([each[1] for each in samples])
    radius = np.concatenate([each[2] for each in samples])
    owner = np.repeat(np.arange(len(names)), [len(each[0]) for each in samples])
    ids = sorted({camera.id for camera in cameras})
    camera_of = np.array([ids.index(camera.id) for camera in cameras])
    order = np.lexsort((owner, spots))
    spots, owner, logs, radius = spots[order], owner[order], logs[order], radius[order]
    # Brightness follows the overlaps; colour is held, since small casts would add up over a chain of photos.
    light = logs.mean(axis=1)
    gain, fall_off, contrast = level(
        spots, owner, light, len(names), config.gain_pull, radius, camera_of[owner], len(ids), config.fall_off_pull,
        config.contrast_pull,
    )  # fmt: skip
    contrast = np.asarray(np.round(np.clip(contrast, 1 - config.max_contrast, 1 + config.max_contrast), 4), np.float64)
    logs = (logs - np.log(_MIDDLE)) * contrast[owner][:, None] + np.log(_MIDDLE)
    light = logs.mean(axis=1)
    colour = np.stack(
        [level(spots, owner, logs[:, band] - light, len(names), config.colour_pull)[0] for band in range(3)], axis=1
    )
    gains = gain[:, None] + colour
    # What was not burnt out in the photos shall not burn out here.
    if len(light):
        brightest = light + gains[owner].mean(axis=1) + _curve(fall_off[camera_of[owner]], radius)
        gains -= max(0.0, float(np.quantile(brightest, 0.99)) - np.log(230.0))
    limit = np.log(config.max_gain)
    gains = np.log(np.round(np.exp(np.clip(gains, -limit, limit)), 4))
    return _Exposure(gains, np.round(fall_off, 5)[camera_of], contrast, frame)


def level(
    places: NDArray[np.int64],
    photos: NDArray[np.int64],
    logs: NDArray[np.float64],
    count: int,
    pull: float,
    radius: NDArray[np.float64] | None = None,
    cameras: NDArray[np.int64] | None = None,
    kinds: int = 0,
    fall_off_pull: float = 1.0,
    contrast_pull: float = np.inf,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Log gain per photo (count,), fall-off per camera (kinds, 3) and contrast per photo (count,), that make the same place look the
    same in all photos.

    Args:
        places, photos, logs: of each sample its place, its photo and the log of its value; sorted by place.
        pull: weight of a gain of 0 against 1 of an overlap of a thousand places.
        radius, cameras: of each sample the squared distance from the middle of the picture (1 = corner) and its camera.
        contrast_pull: weight that holds contrasts at 1; infinite: all are 1. Their mean is 1 in any case: with less of it everything
            would differ less.

    Least squares over the deviations from the mean of each place, with Huber's weights (samples that differ for another reason
    than exposure, such as a passer-by or a leaning crown, count less). Brightness changes by gain + a q + b q^2 + c q^3
    + (contrast - 1) (log - log 128).
    """
    columns, shape, hold = [photos], [np.ones(len(logs))], [np.full(count, pull**2)]
    if radius is not None and cameras is not None:
        columns += [count + 3 * cameras + k for k in range(3)]
        shape += [radius, radius**2, radius**3]
    hold.append(np.full(3 * kinds, fall_off_pull**2))
    contrasted = np.isfinite(contrast_pull)
    if contrasted:
        columns.append(count + 3 * kinds + photos)
        shape.append(logs - np.log(_MIDDLE))
        hold.append(np.full(count, contrast_pull**2))
    held = np.diag(np.concatenate(hold))
    if contrasted:
        held[-count:, -count:] += _MEAN_HELD / count
    unknown = np.zeros(len(held))
    column, values = np.stack(columns, axis=1).astype(np.int64), np.stack(shape, axis=1)
    starts = np.concatenate([[0], np.nonzero(np.diff(places))[0] + 1, [len(places)]]).astype(np.int64)
    scale = 0.1
    for _ in range(6 if len(places) else 0):
        normal, right, residuals = _level_sums(starts, column, logs, values, unknown, scale)
        unknown = np.linalg.solve(normal / 1000 + held, right / 1000)
        spread = residuals[np.isfinite(residuals)]
        scale = max(1.345 * 1.4826 * float(np.median(np.abs(spread))), 1e-4) if len(spread) else scale
    return (
        unknown[:count],
        unknown[count : count + 3 * kinds].reshape(kinds, 3),
        1 + (unknown[-count:] if contrasted else np.zeros(count)),
    )


_MEAN_HELD = 1e6
"""Weight that holds the mean contrast: far above all else."""


@numba.njit(nogil=True, cache=True)
def _level_sums(starts, column, logs, values, unknown, scale):  # type: ignore[no-untyped-def]
    """Normal matrix and right side of `level` with the weights that the present unknowns give; deviations, NaN for single samples.

    column, values: of each sample the unknowns that move it, and by how much.
    """
    width, terms = len(unknown), column.shape[1]
    normal, right = np.zeros((width, width)), np.zeros(width)
    residuals = np.full(len(logs), np.nan)
    for s in range(len(starts) - 1):
        first, last = starts[s], starts[s + 1]
        if last - first < 2:
            continue
        level, weights = 0.0, 0.0
        value = np.empty(last - first)
        for i in range(first, last):
            value[i - first] = logs[i]
            for k in range(terms):
                value[i - first] += values[i, k] * unknown[column[i, k]]
        middle = np.median(value)
        weight = np.empty(last - first)
        for i in range(first, last):
            away = abs(value[i - first] - middle)
            weight[i - first] = 1.0 if away <= scale else scale / away
            weights += weight[i - first]
            level += weight[i - first] * logs[i]
        level /= weights
        for i in range(first, last):
            residuals[i] = value[i - first] - middle
            a = weight[i - first]
            for j in range(first, last):
                # derivative of a deviation: that of the sample less the weighted mean of those of its place
                both = a * ((1.0 if i == j else 0.0) - weight[j - first] / weights)
                for k in range(terms):
                    for m in range(terms):
                        normal[column[i, k], column[j, m]] += both * values[i, k] * values[j, m]
            for k in range(terms):
                right[column[i, k]] -= a * (logs[i] - level) * values[i, k]
    return normal, right, residuals


def _lead_seams(
    looks: Sequence[_Look],
    labels: NDArray[np.uint16],
    kept: NDArray[np.bool_],
    views: Sequence[Path],
    scene: _Scene,
    known: NDArray[np.bool_],
    loose: NDArray[np.bool_],
    config: OrthoConfig,
) -> NDArray[np.uint16]:
    """Labels whose borders were led, within the band around them, to where the two photos differ least.

    The wider band of loose places leaves each photo the inner half of what it has, so that none is flooded away whole; and it leaves
    measured ground that is shown as such, but for what a thing taken whole leans over.
    """
    import cv2

    reach = round(config.seam_band / scene.cell)
    if reach < 1:
        return labels
    far = max(reach, round(config.crown_band / scene.cell))

    def borders(labels: NDArray[np.uint16], reach: int) -> NDArray[np.bool_]:
        window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        least = cv2.erode(np.where(labels == 0, 65535, labels).astype(np.uint16), window)
        return np.asarray((labels > 0) & (cv2.dilate(labels, window) != least))

    contested = borders(labels, reach)
    if loose.any():
        inward = cv2.distanceTransform((~borders(labels, 1)).astype(np.uint8), cv2.DIST_L2, 3)
        inmost = np.asarray(ndimage.maximum(inward, labels, np.arange(len(looks) + 1)))
        wider = loose & (labels > 0) & (inward <= np.minimum(far, inmost / 2)[labels])
        plain = known & wider & ~contested
        if kept.any():
            plain &= cv2.distanceTransform((~kept).astype(np.uint8), cv2.DIST_L2, 3) * scene.cell > config.lean
        shown = _agreed(labels, looks, views, plain, scene.cell, config).astype(np.uint8)
        contested |= wider & (cv2.morphologyEx(shown, cv2.MORPH_OPEN, _disc(2 * _THICK, scene.cell)) == 0)
        # the rim of a wood stays with the photo that shows the ground beside it: in others its crowns may lean over that ground
        firm = cv2.morphologyEx(known.astype(np.uint8), cv2.MORPH_OPEN, _disc(2 * _THICK, scene.cell)) > 0
        rims = np.zeros(labels.shape, np.uint16)
        for index, look in enumerate(looks):
            mine = labels[look.part] == index + 1
            away = cv2.distanceTransform((~(mine & firm[look.part])).astype(np.uint8), cv2.DIST_L2, 3)
            rims[look.part][mine & ~known[look.part] & loose[look.part] & (away * scene.cell <= config.lean)] = index + 1
        contested &= (rims == 0) | borders(rims, reach)
    core = (labels > 0) & (~contested | kept)
    contested = (labels > 0) & ~core
    now = np.zeros((*labels.shape, 3), np.uint8)

    def colours(index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.uint8]]:
        part = looks[index].part
        mine = labels[part] == index + 1
        away = cv2.distanceTransform((~mine).astype(np.uint8), cv2.DIST_C, 3)
        near = (away <= reach) | (loose[part] & ~known[part] & (away <= far))
        whole = mine & kept[part]
        if whole.any():
            near |= cv2.distanceTransform((~whole).astype(np.uint8), cv2.DIST_L2, 3) * scene.cell <= config.lean
        return near & contested[part] & looks[index].seen(), mine, np.load(views[index])

    differs, bits = np.zeros(labels.shape, np.uint8), []
    for own in (True, False):  # first what each cell looks like now, then how far the others differ from that
        for first in range(0, len(looks), 8):
            batch = range(first, min(first + 8, len(looks)))
            for index, (wanted, mine, picture) in zip(batch, in_threads(colours, batch, config.threads), strict=True):
                part = looks[index].part
                if own:
                    bits.append(np.packbits(wanted, axis=1).ravel())
                    take = wanted & mine
                    now[part][take] = picture[take]
                else:
                    take = wanted & ~mine
                    apart = np.abs(picture.astype(np.int16) - now[part]).max(axis=2).astype(np.uint8)
                    differs[part][take] = np.maximum(differs[part][take], apart[take])
    # a seam beside an edge is as bad as one on it: photos never meet to the last pixel
    wide = np.array(cv2.dilate(differs, np.ones((3, 3), np.uint8)), np.uint8) // 2
    # things without heights first: a seam ends on measured ground where it can
    wide[~known] += 128
    sees = [(look.top, look.bottom, look.left, look.right) for look in looks]
    sizes = np.array([look.bits.size for look in looks], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    led = np.where(core, labels, 0).astype(np.uint16)
    _flood(led, labels, wide, np.array(sees, np.int64), offsets, np.concatenate(bits))
    return np.where(led > 0, led, labels)


_ALIKE_LEVELS = 8.0
"""Two photos that are about equally bright show the same thing where their difference varies by less than so many levels (of 255) ..."""
_ALIKE_PATTERN = 0.4
"""... or their brightness has a correlation of at least this."""


def _agreed(
    labels: NDArray[np.uint16],
    looks: Sequence[_Look],
    views: Sequence[Path],
    wanted: NDArray[np.bool_],
    cell: float,
    config: OrthoConfig,
) -> NDArray[np.bool_]:
    """Wanted cells at which another photo shows the same as the photo that they are drawn from, or none can be asked."""
    import cv2

    agreed, asked = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    if not wanted.any():
        return agreed
    shown = np.zeros((*labels.shape, 3), np.uint8)
    for index, look in enumerate(looks):
        mine = labels[look.part] == index + 1
        shown[look.part][mine] = np.load(views[index], mmap_mode="r")[mine]
    # fewer than 7 x 7 cells are alike by chance
    side = 2 * max(3, round(_THICK / cell)) + 1

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.blur(values, (side, side)), np.float32)

    def alike(index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        look = looks[index]
        here, other = shown[look.part], np.load(views[index])
        both = look.seen() & (labels[look.part] > 0)
        ask = wanted[look.part] & both & (labels[look.part] != index + 1)
        if not ask.any():
            return ask, ask
        weight = mean(both.astype(np.float32)) + np.float32(1e-6)
        a, b = (np.where(both, cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), 0).astype(np.float32) for each in (here, other))
        middle_a, middle_b = mean(a) / weight, mean(b) / weight
        spread_a, spread_b = mean(a * a) / weight - middle_a**2, mean(b * b) / weight - middle_b**2
        common = mean(a * b) / weight - middle_a * middle_b
        apart = spread_a + spread_b - 2 * common
        pattern = common >= _ALIKE_PATTERN * np.sqrt(np.maximum(spread_a * spread_b, 1))
        same = ask & (np.abs(middle_a - middle_b) <= _ODD_LEVELS) & ((apart <= _ALIKE_LEVELS**2) | pattern)
        return ask, np.asarray(same)

    for first in range(0, len(looks), 8):
        batch = range(first, min(first + 8, len(looks)))
        for index, (ask, same) in zip(batch, in_threads(alike, batch, config.threads), strict=True):
            asked[looks[index].part] |= ask
            agreed[looks[index].part] |= same
    return np.asarray(wanted & (agreed | ~asked))


def _covered(
    labels: NDArray[np.uint16],
    looks: Sequence[_Look],
    views: Sequence[Path],
    known: NDArray[np.bool_],
    loose: NDArray[np.bool_],
    cell: float,
    config: OrthoConfig,
) -> NDArray[np.bool_]:
    """Measured ground over which the picture shows a thing without heights: no other photo shows the same at that place, and it
    hangs together with such a thing."""
    import cv2

    wanted = known & loose & (labels > 0)
    agreed = _agreed(labels, looks, views, wanted, cell, config)
    things = (loose & ~known).astype(np.uint8)
    side = 2 * max(1, round(_THICK / cell)) + 1
    alone = (cv2.blur(((wanted & ~agreed) | (things > 0)).astype(np.float32), (side, side)) > 0.5).astype(np.uint8)
    # along a seam two photos are alike by half, since what is drawn there is half of the other
    joined = cv2.morphologyEx(alone | things, cv2.MORPH_CLOSE, _disc(_THICK, cell))
    _, pieces = cv2.connectedComponents(joined, connectivity=4)
    held = np.zeros(int(pieces.max()) + 1, bool)
    held[np.unique(pieces[things > 0])] = True
    held[0] = False
    return np.asarray(held[pieces] & wanted)


@numba.njit(nogil=True, cache=True)
def _flood(led, labels, differs, boxes, offsets, bits):  # type: ignore[no-untyped-def]
    """Grows the regions of `led`, in place, over labelled cells that their photos see; the most different cells first.

    Borders form where regions meet, and what is flooded last is where they differ least. First come, first served among equals.
    """
    rows, cols = led.shape
    size = rows * cols
    head, tail = np.full(256, -1, np.int64), np.full(256, -1, np.int64)
    # one entry a cell and side at most: four chains through one array
    following = np.full(size * 4, -1, np.int64)
    for y in range(rows):
        for x in range(cols):
            if led[y, x] == 0:
                continue
            for side in range(4):
                rr = y + (side == 0) - (side == 1)
                cc = x + (side == 2) - (side == 3)
                if rr < 0 or cc < 0 or rr >= rows or cc >= cols or led[rr, cc] != 0 or labels[rr, cc] == 0:
                    continue
                first, at = (y * cols + x) * 4 + side, np.int64(differs[rr, cc])
                if tail[at] < 0:
                    head[at] = first
                else:
                    following[tail[at]] = first
                tail[at] = first
    level = 255
    while level >= 0:
        if head[level] < 0:
            level -= 1
            continue
        entry = head[level]
        head[level] = following[entry]
        if head[level] < 0:
            tail[level] = -1
        cell, side = entry // 4, entry % 4
        r = cell // cols + (side == 0) - (side == 1)
        c = cell % cols + (side == 2) - (side == 3)
        photo = led[cell // cols, cell % cols] - 1
        if led[r, c] != 0:
            continue
        top, bottom, left, right = boxes[photo, 0], boxes[photo, 1], boxes[photo, 2], boxes[photo, 3]
        if r < top or r >= bottom or c < left or c >= right:
            continue
        stride = (right - left + 7) // 8
        if not (bits[offsets[photo] + (r - top) * stride + (c - left) // 8] >> (7 - (c - left) % 8)) & 1:
            continue
        led[r, c] = photo + 1
        for turn in range(4):
            rr = r + (turn == 0) - (turn == 1)
            cc = c + (turn == 2) - (turn == 3)
            if rr < 0 or cc < 0 or rr >= rows or cc >= cols or led[rr, cc] != 0 or labels[rr, cc] == 0:
                continue
            entry, at = (r * cols + c) * 4 + turn, np.int64(min(differs[rr, cc], level))
            following[entry] = -1
            if tail[at] < 0:
                head[at] = entry
            else:
                following[tail[at]] = entry
            tail[at] = entry


_MIDDLE = 128.0
"""Grey level that a contrast leaves as it is."""


def _toned(contrast: float) -> NDArray[np.float32]:
    """What a contrast makes of each of the values 0 to 255."""
    return np.asarray(_MIDDLE * (np.arange(256) / _MIDDLE) ** contrast, np.float32)


def _factors(exposure: _Exposure, index: int, pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Factor per colour, (..., 3), at pixels (..., 2) of a photo."""
    centre, corner = exposure.frame[index, :2], exposure.frame[index, 2]
    q = np.sum((pixels - centre) ** 2, axis=-1) / corner
    return np.asarray(np.exp(exposure.gains[index] + _curve(exposure.fall_off[index], q)[..., None]))


def _curve(fall_off: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log factor at squared distances q from the middle of the picture (1 = corner); fall_off (..., 3)."""
    return np.asarray(q * (fall_off[..., 0] + q * (fall_off[..., 1] + q * fall_off[..., 2])))


@numba.njit(nogil=True, cache=True)
def _pixels(line, x, y, z):  # type: ignore[no-untyped-def]
    out = np.empty((len(x), 2), np.float64)
    for i in range(len(x)):
        out[i, 0], out[i, 1], _ = _pixel(line, x[i], y[i], z[i])
    return out


@numba.njit(nogil=True, cache=True)
def _project_block(line, ground, west, north, coarse, datum, top, left, cell, frame, fall_off, map_x, map_y, light):  # type: ignore[no-untyped-def]
    """cv2.remap coordinates and fall-off factors of a block of the orthomosaic; heights bilinear between cells of the surface."""
    rows, cols = map_x.shape
    height, width = ground.shape
    for r in range(rows):
        y = north - (top + r + 0.5) * cell
        gy = min(max((north - y) / coarse - 0.5, 0.0), height - 1.001)
        j = int(gy)
        fy = gy - j
        for c in range(cols):
            x = west + (left + c + 0.5) * cell
            gx = min(max((x - west) / coarse - 0.5, 0.0), width - 1.001)
            i = int(gx)
            fx = gx - i
            a, b, d, e = ground[j, i], ground[j, i + 1], ground[j + 1, i], ground[j + 1, i + 1]
            z = (a * (1 - fx) + b * fx) * (1 - fy) + (d * (1 - fx) + e * fx) * fy
            col, row, _ = _pixel(line, x, y, z + datum)
            map_x[r, c] = col - 0.5
            map_y[r, c] = row - 0.5
            q = ((col - frame[0]) ** 2 + (row - frame[1]) ** 2) / frame[2]
            light[r, c] = np.exp(q * (fall_off[0] + q * (fall_off[1] + q * fall_off[2])))


_WINDOW = 4096
"""Side of the parts in which the picture is drawn (cells): bounds the memory, changes no byte."""


def cell_of(config: OrthoConfig, gsd: float) -> float:
    """Side of a cell (m) of an orthomosaic from photos of that ground sample distance (m)."""
    return config.cell or round(float(np.ceil(gsd * 1000 - 1e-6)) / 1000, 3)


def _draw(
    reconstruction: Reconstruction,
    names: tuple[str, ...],
    lines: NDArray[np.float64],
    labels: NDArray[np.uint16],
    scene: _Scene,
    known: NDArray[np.bool_],
    coarse: Grid,
    exposure: _Exposure,
    config: OrthoConfig,
    progress: Progress,
) -> Orthomosaic:
    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    cell = cell_of(config, reconstruction.accuracy.gsd)
    rows, cols = int(labels.shape[0] * scene.cell / cell), int(labels.shape[1] * scene.cell / cell)
    picture = np.zeros((4, rows, cols), np.uint8)
    sources = np.zeros((2, rows, cols), np.uint16)
    row_of = np.minimum(((np.arange(rows) + 0.5) * cell / scene.cell).astype(int), labels.shape[0] - 1)
    col_of = np.minimum(((np.arange(cols) + 0.5) * cell / scene.cell).astype(int), labels.shape[1] - 1)
    gains = np.exp(exposure.gains).astype(np.float32)
    tops, lefts = range(0, rows, _WINDOW), range(0, cols, _WINDOW)
    for done, (top, left) in enumerate([(top, left) for top in tops for left in lefts]):
        bottom, right = min(top + _WINDOW, rows), min(left + _WINDOW, cols)
        total = np.zeros((bottom - top, right - left, 3), np.float32)
        weights = np.zeros((bottom - top, right - left), np.float32)
        strongest = np.zeros((bottom - top, right - left), np.float32)
        part = _Part(top, bottom, left, right)
        here = labels[row_of[top] : row_of[bottom - 1] + 1, col_of[left] : col_of[right - 1] + 1]
        shown = [int(v) for v in np.unique(here) if v > 0]

        def render(v: int, part: _Part = part) -> list[tuple[int, int, NDArray[np.float32], NDArray[np.float32]]]:
            return _render(
                read_photo(photos[names[v - 1]]), v, part, labels, row_of, col_of, lines[v - 1], scene, cell,
                exposure.frame[v - 1], exposure.fall_off[v - 1], _toned(float(exposure.contrast[v - 1])), gains[v - 1], config.feather,
            )  # fmt: skip

        for first in range(0, len(shown), 8):
            batch = shown[first : first + 8]
            for v, blocks in zip(batch, in_threads(render, batch, config.threads), strict=True):
                for r, c, colour, weight in blocks:
                    into = (slice(r - top, r - top + weight.shape[0]), slice(c - left, c - left + weight.shape[1]))
                    total[into] += colour
                    weights[into] += weight
                    stronger = weight > strongest[into]
                    sources[0, r : r + weight.shape[0], c : c + weight.shape[1]][stronger] = v
                    strongest[into][stronger] = weight[stronger]
        filled = (weights > 0.05) & (labels[row_of[top:bottom]][:, col_of[left:right]] > 0)
        total /= np.maximum(weights, 1e-6)[:, :, None]
        picture_part = np.rint(np.clip(total, 0, 255)).astype(np.uint8)
        window = (slice(top, bottom), slice(left, right))
        for band in range(3):
            picture[band][window] = np.where(filled, picture_part[:, :, band], 0)
        picture[3][window] = np.where(filled, 255, 0)
        sources[0][window][~filled] = 0
        measured = known[row_of[top:bottom]][:, col_of[left:right]]
        sources[1][window] = np.where(filled, np.where(measured, MEASURED, INTERPOLATED), NOT_DRAWN)
        progress("drone.stage_ortho", 0.4 + 0.6 * (done + 1) / (len(tops) * len(lefts)))
    grid = Grid(shape=(rows, cols), transform=Affine(cell, 0, scene.west, 0, -cell, scene.north), crs=coarse.crs)
    cameras = _cameras(reconstruction, names)
    return Orthomosaic(
        raster=Raster(data=picture, grid=grid),
        sources=Raster(data=sources, grid=grid, nodata=0),
        photos=names,
        gains={name: _three(np.round(np.exp(g), 4)) for name, g in zip(names, exposure.gains, strict=True)},
        fall_off={camera.id: _three(curve) for camera, curve in zip(cameras, exposure.fall_off, strict=True)},
        contrast={name: float(contrast) for name, contrast in zip(names, exposure.contrast, strict=True)},
    )


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


class _Part(NamedTuple):
    """A window of the picture: rows from, to, columns from, to."""

    top: int
    bottom: int
    left: int
    right: int


_BLOCK = 1024


def _render(
    photo: NDArray[np.uint8],
    value: int,
    part: _Part,
    labels: NDArray[np.uint16],
    row_of: NDArray[np.int64],
    col_of: NDArray[np.int64],
    line: NDArray[np.float64],
    scene: _Scene,
    cell: float,
    frame: NDArray[np.float64],
    fall_off: NDArray[np.float64],
    tones: NDArray[np.float32],
    gain: NDArray[np.float32],
    feather: float,
) -> list[tuple[int, int, NDArray[np.float32], NDArray[np.float32]]]:
    """Where one photo is drawn in a window: blocks of (first row, first column, colours times weight, weight)."""
    import cv2

    rim = int(np.ceil(2 * feather)) + 2
    blocks = []
    for top in range(part.top, part.bottom, _BLOCK):
        for left in range(part.left, part.right, _BLOCK):
            bottom, right = min(top + _BLOCK, part.bottom), min(left + _BLOCK, part.right)
            # labels with a rim, so that blends do not depend on where blocks meet
            y0, y1, x0, x1 = max(0, top - rim), min(len(row_of), bottom + rim), max(0, left - rim), min(len(col_of), right + rim)
            near = labels[row_of[y0] : row_of[y1 - 1] + 1, col_of[x0] : col_of[x1 - 1] + 1] == value
            if not near.any():
                continue
            mask = near[row_of[y0:y1] - row_of[y0]][:, col_of[x0:x1] - col_of[x0]].astype(np.float32)
            if feather > 0:
                side = 2 * int(np.ceil(2 * feather)) + 1
                mask = cv2.GaussianBlur(mask, (side, side), feather / 2, borderType=cv2.BORDER_REPLICATE)
            weight = mask[top - y0 : bottom - y0, left - x0 : right - x0]
            used = weight > 0.004
            down, across = np.nonzero(used.any(axis=1))[0], np.nonzero(used.any(axis=0))[0]
            if len(down) == 0:
                continue
            r0, r1, c0, c1 = int(down[0]), int(down[-1]) + 1, int(across[0]), int(across[-1]) + 1
            weight = weight[r0:r1, c0:c1].copy()
            map_x, map_y, light = (np.empty(weight.shape, np.float32) for _ in range(3))
            _project_block(
                line, scene.ground, scene.west, scene.north, scene.cell, scene.datum, top + r0, left + c0, cell, frame, fall_off,
                map_x, map_y, light,
            )  # fmt: skip
            seen = cv2.remap(photo, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            colour = np.asarray(cv2.LUT(seen, tones), np.float32)
            inside = (map_x >= 0) & (map_y >= 0) & (map_x <= line[22] + line[20] - 1) & (map_y <= line[23] + line[21] - 1)
            weight[~inside] = 0
            colour *= (light * weight)[:, :, None] * gain
            blocks.append((top + r0, left + c0, colour, weight))
    return blocks


def levelled(mosaic: Orthomosaic, name: str, photo: Photo, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photo's picture, RGB (rows, cols, 3), with the gains, contrast and fall-off that the orthomosaic was drawn with."""
    tones = _toned(mosaic.contrast.get(name, 1.0))
    gain = np.array(mosaic.gains[name], np.float32)
    curve = np.array(mosaic.fall_off[photo.camera_id])
    width, height = photo.size
    out = np.empty_like(picture)
    x = np.arange(width) + 0.5 - width / 2
    for row in range(height):
        q = np.asarray((x**2 + (row + 0.5 - height / 2) ** 2) / ((width**2 + height**2) / 4), np.float64)
        factor = np.exp(_curve(curve, q)).astype(np.float32)[:, None] * gain
        out[row] = np.rint(np.clip(tones[picture[row]] * factor, 0, 255))
    return out


def photo_index(photos: tuple[str, ...], flight_photos: tuple[Photo, ...]) -> list[dict[str, str | int]]:
    """Table from the value in `sources` to the photo: value, name, SHA-256."""
    digests = {photo.name: photo.sha256 for photo in flight_photos}
    return [{"value": number, "photo": name, "sha256": digests[name]} for number, name in enumerate(photos, start=1)]
