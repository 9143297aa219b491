"""Bare ground from a surface model: DSM in, DTM out, on the same cells.

Things that stand on the ground (crowns, roofs, cars) are found with the progressive morphological filter of Zhang et al.
2003 (doi:10.1109/TGRS.2003.810682) on coarse cells; the ground beneath them is drawn straight between the ground around.
Drawn cells are marked: their density is 0, and their standard uncertainty says how far ground of this survey departs from a
straight line over such a gap. Where the DSM is empty the DTM is empty: ground under water or outside is never invented.

It will not tell low growth from ground (grass, reed), nor a heap from a hill: banks and stockpiles flatter than
`slope` stay. A building on the rim of the survey, or wider than `widest`, may stay too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator

from drone.types import SurfaceModel
from geoevidence.errors import ConfigError, CoverageError
from geoevidence.raster import Raster


@dataclass(frozen=True, slots=True, kw_only=True)
class TerrainConfig:
    """Settings of `build_terrain`.

    filter_cell: side of the coarse cells on which things are found (m); a multiple of the surface's cell at least as long.
    widest: things up to this width are taken off (m); larger takes off larger roofs, and bites into steep crests.
    widening: the window grows by this much each time (m).
    slope: steepest slope that counts as ground (1); 0.75 keeps heaps of loose material (35 to 37 degrees).
    step: height of a thing above the ground that is taken off in any case (m).
    margin: cells this near to a thing are not ground either, since windows smear its edge (m).
    gap: ground is drawn up to this far from measured ground (m); beyond it stays empty.
    """

    filter_cell: float = 0.3
    widest: float = 20.0
    widening: float = 1.2
    slope: float = 0.75
    step: float = 0.35
    margin: float = 0.3
    gap: float = 12.0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "filter_cell": (0.01, 100),
            "widest": (0.1, 1000),
            "widening": (0.1, 100),
            "slope": (0, 10),
            "step": (0.01, 100),
            "margin": (0, 100),
            "gap": (0, 1000),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"terrain.{name}", found=str(getattr(self, name)), low=low, high=high
                )


def build_terrain(surface: SurfaceModel, *, config: TerrainConfig = TerrainConfig()) -> SurfaceModel:
    """DTM (m), standard uncertainty (m) and density (points/m2; 0 = ground drawn between measured ground), float32, NaN = nothing known.

    A cell of the DSM that is ground keeps its height and its uncertainty.

    Raises:
        CoverageError: no ground is left.
    """
    z = surface.raster.data[0].astype(np.float64)
    cell = surface.raster.grid.resolution[0]
    ground = np.isfinite(z) & ~_things(z, cell, config)
    if not ground.any():
        raise CoverageError("drone.no_ground")
    away, nearest = ndimage.distance_transform_edt(~ground, return_indices=True)
    wanted = np.isfinite(z) & ~ground & (away * cell <= config.gap)
    height = np.where(ground, z, np.nan)
    height[wanted] = _between(height, ground, wanted)
    drawn = wanted & np.isfinite(height)
    errors = surface.standard_uncertainty
    deviation = None
    if errors is not None:
        own = errors.data[0].astype(np.float64)
        sd = np.where(ground, own, np.nan)
        rim = own[tuple(nearest)]
        sd[drawn] = np.hypot(rim, _departure(z, ground, away * cell, cell))[drawn]
        deviation = replace(errors, data=sd.astype(np.float32)[None])
    if surface.density is not None:
        density = surface.density.data[0].copy()
    else:
        density = np.where(ground, np.float32(np.nan), np.float32(0))
    density[drawn] = 0
    density[~(ground | drawn)] = np.nan
    grid = surface.raster.grid
    return SurfaceModel(
        raster=Raster(data=height.astype(np.float32)[None], grid=grid, nodata=float("nan"), unit="m"),
        kind="dtm",
        height_kind=surface.height_kind,
        standard_uncertainty=deviation,
        density=Raster(data=density[None], grid=grid, nodata=float("nan"), unit="m-2"),
        correlation_m=surface.correlation_m,
        error_field=surface.error_field,
    )


def _things(z: NDArray[np.float64], cell: float, config: TerrainConfig) -> NDArray[np.bool_]:
    """(rows, cols) True where the surface is of something that stands on the ground, or too near to it."""
    factor = max(1, round(config.filter_cell / cell))
    rows, cols = z.shape
    padded = np.pad(z, ((0, -rows % factor), (0, -cols % factor)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor).transpose(0, 2, 1, 3)
    values = blocks.reshape(blocks.shape[0], blocks.shape[1], factor * factor)
    # The lower part of a coarse cell, but not its lowest cell, which may be a mismatch.
    filled = np.where(np.isfinite(values), values, np.inf)
    filled.sort(axis=2)
    count = np.isfinite(values).sum(axis=2)
    coarse = np.take_along_axis(filled, np.maximum(count // 4, 0)[..., None], axis=2)[..., 0]
    size = factor * cell
    known = count > 0
    current = np.where(known, coarse, np.inf)
    thing = np.zeros(current.shape, np.bool_)
    window, previous = 3, 1
    while True:
        # An opening: what is unknown neither lowers nor raises anything.
        eroded = ndimage.minimum_filter(current, window, mode="nearest")
        opened = ndimage.maximum_filter(np.where(np.isfinite(eroded), eroded, -np.inf), window, mode="nearest")
        opened = np.where(known & np.isfinite(opened), np.minimum(opened, current), current)
        # A cone of the steepest slope loses half the growth of the window times its slope.
        allowed = config.slope * (window - previous) * size / 2 + config.step
        thing |= np.where(known, current, 0.0) - np.where(known, opened, 0.0) > allowed
        current = opened
        if window * size >= config.widest:
            break
        previous = window
        window += max(2, 2 * round(config.widening / size / 2))
    ground = known & ~thing
    if not ground.any():
        return np.isfinite(z)
    # Height of the ground around, then cell by cell: what rises above it by more than a step is not ground.
    around = ndimage.distance_transform_edt(~ground, return_distances=False, return_indices=True)
    level = coarse[tuple(around)]
    fine_level = np.kron(level, np.ones((factor, factor)))[:rows, :cols]
    fine_thing = np.kron(thing, np.ones((factor, factor), np.bool_))[:rows, :cols]
    high = np.nan_to_num(z - fine_level, nan=0.0) > config.step + config.slope * size
    marked = (fine_thing & (np.nan_to_num(z - fine_level, nan=0.0) > config.step / 2)) | high
    return np.asarray(ndimage.distance_transform_edt(~marked) * cell <= config.margin) if marked.any() else marked


def _between(height: NDArray[np.float64], ground: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Heights of the wanted cells on the triangulation (Delaunay) of the measured cells around them; NaN outside its hull."""
    if not wanted.any():
        return np.empty(0)
    ring = ground & ndimage.binary_dilation(wanted, structure=np.ones((3, 3)), iterations=2)
    rows, cols = np.nonzero(ring)
    spots = np.column_stack([rows, cols]).astype(np.float64)
    # Three points off one line are the least that carries a plane.
    if len(spots) < 3 or np.linalg.matrix_rank(spots - spots[0]) < 2:
        return np.full(int(wanted.sum()), np.nan)
    surface = LinearNDInterpolator(spots, height[ring])
    return np.asarray(surface(np.argwhere(wanted).astype(np.float64)))


def _departure(z: NDArray[np.float64], ground: NDArray[np.bool_], away: NDArray[np.float64], cell: float) -> NDArray[np.float64]:
    """How far ground departs from the straight line between two places `away` m on either side: its root mean square over the
    measured ground of this very survey, at doubling distances, linear in between (m)."""
    distances, sizes = [0.0], [0.0]
    lag = 1
    known = np.where(ground, z, np.nan)
    while lag * 2 < min(z.shape):
        parts = (
            known[lag:-lag] - (known[: -2 * lag] + known[2 * lag :]) / 2,
            known[:, lag:-lag] - (known[:, : -2 * lag] + known[:, 2 * lag :]) / 2,
        )
        off = np.concatenate([part[np.isfinite(part)] for part in parts])
        if len(off) < 100:
            break
        distances.append(lag * cell)
        sizes.append(max(sizes[-1], float(np.sqrt(np.mean(off**2)))))
        lag *= 2
    if len(distances) == 1:
        # Nothing to learn from: as steep as loose material can lie.
        return np.asarray(away * 0.75)
    # Beyond the longest distance seen it grows on in proportion.
    last, top = distances[-1], sizes[-1]
    return np.where(away <= last, np.interp(away, distances, sizes), top * away / last)
