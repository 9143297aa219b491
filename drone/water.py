"""Water in a survey: photos + adjusted block + DSM in, a mask with the reasons out, and a DSM that holds no height in it.

Matching leaves water empty, since it looks different from every place and at every moment; but so are crowns and shadows. An
empty place is called water only when three things come together: at least three photos show it and do not agree
about it; the ground around it comes down to one level and nowhere lies below it; and its look is that of water: smooth against
the ground of this flight, or darker, or brighter in one photo than in another (glitter, sky). Heights inside it that
lie below its level (a bed seen through the surface, which refraction lifts) or that are islands of doubtful heights are taken out.

What it does not do: no height is given to water; still, clear or overgrown water that photos agree on is not found; wet
ground, snow and a shadow that fulfil all three conditions are called water too; nor is water called so where fewer photos look: an empty
place is no evidence there (`open_rim` says that it may go on). The reasons say which evidence there was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from drone.camera import project
from drone.dense import in_threads, read_photo
from drone.types import Reconstruction, SurfaceModel
from geoevidence.errors import ConfigError
from geoevidence.raster import Raster

DISAGREE, LEVEL, SMOOTH, CHANGING, DARK = 1, 2, 4, 8, 16
"""Reasons, as bits: photos do not agree; shore at one level; poor in texture; brightness changes between photos; darker than land."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterConfig:
    """Settings of `find_water`.

    cell: side of the cells on which water is sought (m), 0 = ten GSD.
    min_views: photos that must show a place (count).
    min_area: smaller waters are not named (m2).
    level_spread: the shore counts as level when the lower half of the heights around lies within this (m).
    plain_factor: places of more texture than this times the land's median are no water in any case (1): crowns, rubble.
    smooth_share: poor in texture: less than this share of the land's median (1).
    changing_factor: changing: brightness differs between photos by more than this times the land's median (1).
    dark_share: dark: below this share of the land's median brightness (1).
    threads: workers (count), 0 = one a processor; does not change the result.
    """

    cell: float = 0.0
    min_views: int = 3
    min_area: float = 15.0
    level_spread: float = 0.5
    plain_factor: float = 1.5
    smooth_share: float = 0.5
    changing_factor: float = 2.0
    dark_share: float = 0.6
    threads: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "cell": (0, 100),
            "min_views": (2, 12),
            "min_area": (0, 1e6),
            "level_spread": (0.01, 10),
            "plain_factor": (0.1, 10),
            "smooth_share": (0, 1),
            "changing_factor": (1, 100),
            "dark_share": (0, 1),
            "threads": (0, 1024),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"water.{name}", found=str(getattr(self, name)), low=low, high=high
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WaterBody:
    """One water. level: height of its shore (m), spread: how far the shore departs from it (m, quartile range); area: m2 on the grid.

    reasons: bits (`DISAGREE` ...). open_rim: m of its outline (sides of cells) behind which too few photos look to tell: there the water
    may go on, and nothing is said.
    """

    level: float
    spread: float
    area: float
    reasons: int
    open_rim: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Water:
    """reasons: on the cells of the DSM, one band uint8: 0 = no water found, otherwise the reasons as bits. bodies: largest first."""

    reasons: Raster
    bodies: tuple[WaterBody, ...]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(rows, cols) True = water."""
        return np.asarray(self.reasons.data[0] > 0)


def find_water(reconstruction: Reconstruction, surface: SurfaceModel, *, config: WaterConfig = WaterConfig()) -> Water:
    """The waters of a survey, on the cells of its DSM; empty when none fulfils the conditions of the module.

    Raises:
        FormatError: a photo cannot be read.
    """
    grid = surface.raster.grid
    cell = grid.resolution[0]
    factor = max(1, round((config.cell or 10 * reconstruction.accuracy.gsd) / cell))
    height, share = _coarse(surface.raster.data[0], factor)
    size = factor * cell
    empty = share < 0.25
    looks = _look(reconstruction, surface, height, factor, config)
    land = (share > 0.9) & (looks.views >= config.min_views)
    # Crowns are the other things that photos do not agree on; they are far from plain.
    plain = ndimage.median_filter(looks.texture, 3) < config.plain_factor * (np.median(looks.texture[land]) if land.any() else 0)
    candidate = ndimage.binary_opening(empty & plain & (looks.views >= config.min_views), structure=np.ones((3, 3)))
    result = np.zeros(height.shape, np.uint8)
    not_judged = np.pad(empty & (looks.views < config.min_views), 1, constant_values=True)
    bodies = []
    if land.any():
        typical = [float(np.median(part[land])) for part in (looks.texture, looks.change, looks.brightness)]
        labels, _ = ndimage.label(candidate)
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            if box is None:
                continue
            around = tuple(slice(max(0, part.start - 3), part.stop + 3) for part in box)
            inside = labels[around] == number
            if np.count_nonzero(inside) * size**2 < config.min_area:
                continue
            shore = ndimage.binary_dilation(inside, iterations=3) & np.isfinite(height[around]) & (share[around] > 0.5)
            heights = height[around][shore]
            if len(heights) < 8:
                continue
            low = heights[heights <= np.median(heights)]
            level = float(np.median(low))
            spread = float(np.quantile(low, 0.9) - np.quantile(low, 0.1))
            values = [float(np.median(part[around][inside])) for part in (looks.texture, looks.change, looks.brightness)]
            reasons = DISAGREE | (LEVEL if spread <= config.level_spread else 0)
            reasons |= SMOOTH if values[0] < config.smooth_share * typical[0] else 0
            reasons |= CHANGING if values[1] > config.changing_factor * typical[1] else 0
            reasons |= DARK if values[2] < config.dark_share * typical[2] else 0
            if reasons & LEVEL and reasons & (SMOOTH | CHANGING | DARK):
                result[around][inside] = reasons
                bodies.append(
                    WaterBody(
                        level=level,
                        spread=spread,
                        area=float(np.count_nonzero(inside) * size**2),
                        reasons=reasons,
                        open_rim=_sides(np.argwhere(labels == number), not_judged) * size,
                    )
                )
    fine = _fine(result, surface, bodies, factor)
    return Water(
        reasons=Raster(data=fine[None], grid=grid, nodata=None, unit="1"),
        bodies=tuple(sorted(bodies, key=lambda body: (-body.area, body.level))),
    )


def _sides(cells: NDArray[np.int64], padded: NDArray[np.bool_]) -> int:
    """Sides of cells (n, 2: row, column) behind which the mask, padded by one cell all around, is set."""
    around = ((0, 1), (2, 1), (1, 0), (1, 2))
    return int(sum(np.count_nonzero(padded[cells[:, 0] + down, cells[:, 1] + across]) for down, across in around))


def mask_water(surface: SurfaceModel, water: Water) -> SurfaceModel:
    """The surface without what it says inside the waters: NaN in heights, standard uncertainty and density."""

    def masked(raster: Raster | None) -> Raster | None:
        return None if raster is None else replace(raster, data=np.where(water.mask, np.float32(np.nan), raster.data[0])[None])

    heights = masked(surface.raster)
    assert heights is not None
    return replace(
        surface, raster=heights, standard_uncertainty=masked(surface.standard_uncertainty), density=masked(surface.density)
    )


def _coarse(z: NDArray[np.float32], factor: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median height of each coarse cell (NaN = none), and the share of its cells that have one."""
    rows, cols = z.shape
    padded = np.pad(z, ((0, -rows % factor), (0, -cols % factor)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor).transpose(0, 2, 1, 3)
    values = blocks.reshape(blocks.shape[0], blocks.shape[1], factor * factor)
    known = np.isfinite(values)
    count = known.sum(axis=2)
    ordered = np.sort(np.where(known, values, np.inf), axis=2)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[..., None] // 2, axis=2)[..., 0].astype(np.float64)
    return np.where(count > 0, middle, np.nan), count / factor**2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Looks:
    """How coarse cells look, all (rows, cols): photos that show them; median over photos of the grey level's spread inside a cell
    and of its mean (grey levels); spread of the mean between photos (share of it)."""

    views: NDArray[np.int64]
    texture: NDArray[np.float64]
    change: NDArray[np.float64]
    brightness: NDArray[np.float64]


def _look(
    reconstruction: Reconstruction, surface: SurfaceModel, height: NDArray[np.float64], factor: int, config: WaterConfig
) -> _Looks:
    import cv2

    known = np.isfinite(height)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    level = height[tuple(nearest)]
    rows, cols = np.mgrid[0 : height.shape[0], 0 : height.shape[1]]
    x, y = surface.raster.grid.transform @ ((cols.ravel() + 0.5) * factor, (rows.ravel() + 0.5) * factor)
    places = np.column_stack([x, y, level.ravel()])
    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    side = factor * surface.raster.grid.resolution[0]

    def sample(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        photo, pose = photos[name], reconstruction.poses[name]
        camera = reconstruction.cameras[photo.camera_id]
        # The picture at about half the working size of matching, where compression noise is gone and waves still are.
        grey = cv2.cvtColor(read_photo(photo), cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (photo.size[0] // 4, photo.size[1] // 4), interpolation=cv2.INTER_AREA).astype(np.float32)
        distance = float(np.median(pose.C[2] - places[:, 2]))
        window = max(3, round(side / (4 * distance / reconstruction.cameras[photo.camera_id].params[0])) | 1)
        mean = cv2.blur(grey, (window, window))
        spread = np.sqrt(np.maximum(cv2.blur(grey * grey, (window, window)) - mean * mean, 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            pixel = project(camera, pose, places)
        inside = np.all((pixel >= 8) & (pixel <= np.array(photo.size) - 8), axis=1)
        col, row = (np.clip(np.nan_to_num(pixel[:, k]) / 4, 0, grey.shape[1 - k] - 1).astype(np.int64) for k in (0, 1))
        nothing = np.float32(np.nan)
        return np.where(inside, mean[row, col], nothing), np.where(inside, spread[row, col], nothing)

    seen = in_threads(sample, sorted(reconstruction.poses), config.threads)
    means, spreads = np.stack([s[0] for s in seen]), np.stack([s[1] for s in seen])
    # Exposure of a photo against the others, over all that it shows.
    middle = _median(means)
    gains = np.array([np.nanmedian(mean / middle) if np.isfinite(mean).any() else 1.0 for mean in means], np.float32)
    means = (means / np.where(gains > 0, gains, np.float32(1))[:, None]).astype(np.float32)
    middle = _median(means)
    change = 1.4826 * _median(np.abs(means - middle)) / np.maximum(middle, np.float32(1))
    shape = height.shape
    return _Looks(
        views=np.isfinite(means).sum(axis=0).reshape(shape),
        texture=np.nan_to_num(_median((spreads / np.maximum(means, np.float32(1))).astype(np.float32)))
        .reshape(shape)
        .astype(np.float64),
        change=np.nan_to_num(change).reshape(shape).astype(np.float64),
        brightness=np.nan_to_num(middle).reshape(shape).astype(np.float64),
    )


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median over the first axis without NaN; NaN where there is nothing else."""
    count = np.isfinite(values).sum(axis=0)
    ordered = np.sort(values, axis=0)  # NaN last
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    high = np.take_along_axis(ordered, np.maximum(count, 1)[None] // 2, axis=0)[0]
    return np.where(count > 0, np.where(count % 2 == 1, low, (low + high) / 2), np.float32(np.nan)).astype(np.float32)


def _fine(result: NDArray[np.uint8], surface: SurfaceModel, bodies: list[WaterBody], factor: int) -> NDArray[np.uint8]:
    """The coarse result on the surface's cells: empty cells of a water, and heights inside it that cannot be ground."""
    z = surface.raster.data[0]
    rows, cols = z.shape
    spread = ndimage.grey_dilation(result, size=(3, 3))
    fine = np.kron(spread, np.ones((factor, factor), np.uint8))[:rows, :cols]
    core = np.kron(result, np.ones((factor, factor), np.uint8))[:rows, :cols]
    known = np.isfinite(z)
    water = np.where(~known, fine, 0).astype(np.uint8)
    if not bodies:
        return water
    # Heights in the middle of water are kept only if they are part of the land outside, or stand clearly above the level.
    labels, count = ndimage.label(known)
    touching = np.zeros(count + 1, np.bool_)
    touching[np.unique(labels[known & (fine == 0)])] = True
    island = known & ~touching[labels]
    level = min(body.level for body in bodies)
    doubtful = known & (core > 0) & (z < level - 0.1)
    lost = (island & (z < max(body.level for body in bodies) + 0.15)) | doubtful
    return np.where(lost, np.maximum(water, fine), water).astype(np.uint8)
