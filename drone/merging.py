"""Surfaces and pictures of parts -> those of the whole flight, window by window on one lattice of cells.

In: files of each part, which part a place belongs to. Out: arrays on disk, mapped, so that memory does not grow with the flight.
A cell has the height of the part whose camera is nearest among those that have one; near a border, where parts agree within their
errors, the height passes over from one to the other; where they do not, nothing is mixed. Where the part that a place belongs to
found water, there is no height. Nothing is resampled: all parts share their cells.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from drone.errorfield import height_sd
from drone.geoid import Undulation
from drone.joining import Territory
from drone.ortho import Orthomosaic
from drone.types import SurfaceModel
from drone.water import Water
from geoevidence.errors import ConfigError, FormatError
from geoevidence.raster import Grid, Raster
from geoevidence.types import Message

Array = NDArray[np.float64]
_UNIT = 1e-4
"""m: cells are whole multiples of it, so that lattices of cells meet exactly."""
_TILE = 768
_STEP = 8
"""Distances to cameras are found at nodes this many cells apart and taken linear in between."""
_MOST_CELLS = 400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Cells of surface and picture, common to all parts: corners at whole multiples of the cell from (0, 0) of the CRS.

    cell, picture_cell: sides in 0.1 mm. period: surface cells after which corners of both meet.
    """

    cell: int
    picture_cell: int

    @classmethod
    def of(cls, cell: float, picture_cell: float) -> Lattice:
        """Raises ConfigError where cells of surface and picture do not meet within a kilometre of cells."""
        lattice = cls(cell=round(cell / _UNIT), picture_cell=round(picture_cell / _UNIT))
        if min(lattice.cell, lattice.picture_cell) < 1 or lattice.period > 2000:
            raise ConfigError("drone.split_cells", surface=f"{cell:g}", picture=f"{picture_cell:g}")
        return lattice

    @property
    def period(self) -> int:
        return math.lcm(self.cell, self.picture_cell) // self.cell

    @property
    def metres(self) -> float:
        return self.cell * _UNIT

    @property
    def picture_metres(self) -> float:
        return self.picture_cell * _UNIT

    def picture_cells(self, cells: int) -> int:
        """Cells of the picture that so many cells of the surface are long, whole for multiples of the period."""
        return cells * self.cell // self.picture_cell

    def placed(self, raster: Raster) -> tuple[int, int]:
        """(row, col) on the lattice of the first cell of a raster of surface cells; rows count southwards from 0."""
        t = raster.grid.transform
        return round(-t.f / self.metres), round(t.c / self.metres)

    def padded(self, raster: Raster, fill: float) -> Raster:
        """The raster grown to whole periods on each side."""
        row, col = self.placed(raster)
        top, left = row % self.period, col % self.period
        rows, cols = raster.grid.shape
        below, beyond = -(top + rows) % self.period, -(left + cols) % self.period
        data = np.pad(raster.data, ((0, 0), (top, below), (left, beyond)), constant_values=fill)
        return Raster(
            data=data,
            grid=self.grid(row - top, col - left, data.shape[1:], raster.grid.crs),
            nodata=raster.nodata,
            unit=raster.unit,
        )

    def grid(self, row: int, col: int, shape: tuple[int, ...], crs: CRS) -> Grid:
        m = self.metres
        corner = Affine(m, 0, col * self.cell * _UNIT, 0, -m, -row * self.cell * _UNIT)
        return Grid(shape=(shape[0], shape[1]), transform=corner, crs=crs)

    def picture_grid(self, row: int, col: int, shape: tuple[int, ...], crs: CRS) -> Grid:
        """row, col: of the surface, multiples of the period."""
        m = self.picture_metres
        corner = Affine(m, 0, col * self.cell * _UNIT, 0, -m, -row * self.cell * _UNIT)
        return Grid(shape=(shape[0], shape[1]), transform=corner, crs=crs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartProducts:
    """What a part made; its arrays are in files beside it.

    row, col, rows, cols: its place on the lattice, in cells of the surface. photos: names, in the order of its `sources`. files: name ->
    SHA-256. points: of the dense cloud in its territory; median_views, median_sd (m): of them. terrain: whether bare ground was found. gaps: what it
    could not do.
    """

    number: int
    row: int
    col: int
    rows: int
    cols: int
    photos: tuple[str, ...]
    gains: Mapping[str, tuple[float, float, float]]
    fall_off: Mapping[str, tuple[float, float, float]]
    contrast: Mapping[str, float]
    points: int
    median_views: float
    median_sd: float
    correlation_m: float | None
    terrain: bool
    files: Mapping[str, str]
    gaps: tuple[Message, ...]


def save_array(folder: Path, name: str, array: NDArray[Any]) -> str:
    """Writes `name`.npy whole or not at all; its SHA-256, hex."""
    path = folder / f"{name}.npy"
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    with part.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    os.replace(part, path)
    return digest


def read_array(folder: Path, name: str, digest: str) -> NDArray[Any]:
    """The array of such a file, mapped. Raises FormatError when it is not the one that was written."""
    path = folder / f"{name}.npy"
    try:
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise FormatError("drone.part_damaged", path=path.name)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FormatError("drone.part_damaged", path=path.name) from error


def save_rasters(
    folder: Path, lattice: Lattice, surface: SurfaceModel, terrain: SurfaceModel | None, water: Water, mosaic: Orthomosaic
) -> tuple[tuple[int, int, int, int], dict[str, str]]:
    """(row, col, rows, cols) on the lattice, and file -> digest. surface is on whole periods, and the mosaic begins at its corner."""
    assert surface.standard_uncertainty is not None
    rows, cols = surface.raster.grid.shape
    wide, high = lattice.picture_cells(cols), lattice.picture_cells(rows)

    def fitted(data: NDArray[Any]) -> NDArray[Any]:
        # the last row or column can be lost to rounding
        cut = data[:, :high, :wide]
        return np.pad(cut, ((0, 0), (0, high - cut.shape[1]), (0, wide - cut.shape[2])))

    files = {
        "dsm": save_array(folder, "dsm", surface.raster.data[0]),
        "dsm_sd": save_array(folder, "dsm_sd", surface.standard_uncertainty.data[0]),
        "water": save_array(folder, "water", water.reasons.data[0]),
        "picture": save_array(folder, "picture", fitted(mosaic.raster.data)),
        "sources": save_array(folder, "sources", fitted(mosaic.sources.data)),
    }
    if terrain is not None:
        assert terrain.standard_uncertainty is not None
        files["dtm"] = save_array(folder, "dtm", terrain.raster.data[0])
        files["dtm_sd"] = save_array(folder, "dtm_sd", terrain.standard_uncertainty.data[0])
    return (*lattice.placed(surface.raster), rows, cols), files


@dataclass(frozen=True, slots=True, kw_only=True)
class HeightSeam:
    """Heights of two parts where one passes over into the other: cells that both have; median of first minus second, and normalised
    median absolute deviation from it, m; apart: share of the cells whose difference is beyond their errors (1)."""

    first: int
    second: int
    cells: int
    median: float
    nmad: float
    apart: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Merged:
    """Rasters of the whole, mapped from disk: heights and their noise (m), reasons of water, picture and sources (see `Orthomosaic`).
    water_area: m2 on the grid."""

    dsm: Raster
    dsm_sd: Raster
    dtm: Raster | None
    dtm_sd: Raster | None
    water: Raster
    picture: Raster
    sources: Raster
    seams: tuple[HeightSeam, ...]
    water_area: float


@dataclass(frozen=True, slots=True)
class _Layer:
    """Arrays of one part, and where it lies."""

    part: PartProducts
    arrays: Mapping[str, NDArray[Any]]

    def window(self, name: str, lattice: Lattice, row: int, col: int, side: int, fill: float) -> NDArray[Any]:
        """The array over a square of `side` surface cells from (row, col), filled where the part has none."""
        array = self.arrays[name]
        is_picture = array.ndim == 3
        top, left, rows, cols, size = row - self.part.row, col - self.part.col, self.part.rows, self.part.cols, side
        if is_picture:
            top, left, rows, cols, size = (lattice.picture_cells(v) for v in (top, left, rows, cols, side))
        out = np.full((*array.shape[:-2], size, size), fill, array.dtype)
        a, b, c, d = max(top, 0), min(top + size, rows), max(left, 0), min(left + size, cols)
        if a < b and c < d:
            out[..., a - top : b - top, c - left : d - left] = array[..., a:b, c:d]
        return out

    def meets(self, row: int, col: int, side: int) -> bool:
        part = self.part
        return part.row < row + side and row < part.row + part.rows and part.col < col + side and col < part.col + part.cols


def level_parts(parts: Sequence[PartProducts]) -> dict[int, NDArray[np.float64]]:
    """Factor (3,) per part and colour that makes the gains of shared photos alike; each part's brightness is held loosely."""
    from drone.adjustment import solved

    index = {part.number: i for i, part in enumerate(parts)}
    factors = np.zeros((len(parts), 3))
    for band in range(3):
        normal, right = np.diag(np.full(len(parts), 1e-3)), np.zeros(len(parts))
        for i, a in enumerate(parts):
            for b in parts[i + 1 :]:
                shared = sorted(set(a.gains) & set(b.gains))
                if not shared:
                    continue
                # the median: a photo half of which lies outside a part has another gain there
                apart = float(np.median([math.log(b.gains[name][band] / a.gains[name][band]) for name in shared]))
                j = index[b.number]
                normal[i, i] += 1
                normal[j, j] += 1
                normal[i, j] -= 1
                normal[j, i] -= 1
                right[i] += apart
                right[j] -= apart
        factors[:, band] = solved(normal, right[:, None])[:, 0]
    return {part.number: np.round(np.exp(factors[index[part.number]]), 4) for part in parts}


def merge(
    folder: Path,
    parts: Sequence[PartProducts],
    homes: Mapping[int, Path],
    *,
    lattice: Lattice,
    territory: Territory,
    names: Sequence[str],
    crs: CRS,
    noise: float,
    feather: float,
    picture_feather: float,
    geoid: Undulation | None,
) -> Merged:
    """The whole, into files of `folder`.

    homes: part number -> folder of its files. names: all photos in the order of the whole's `sources`. noise: m by which heights of parts may
    differ beyond their own errors. feather, picture_feather: m over which one part passes over into the other. geoid: heights become
    heights above it.

    Raises:
        FormatError: a file of a part is damaged. ConfigError: more cells than can be written.
    """
    layers = [
        _Layer(part, {name: read_array(homes[part.number], name, part.files[name]) for name in part.files}) for part in parts
    ]
    top, left = min(p.row for p in parts), min(p.col for p in parts)
    rows, cols = max(p.row + p.rows for p in parts) - top, max(p.col + p.cols for p in parts) - left
    if rows * cols > 16 * _MOST_CELLS:
        raise ConfigError("drone.split_too_large", rows=rows, cols=cols)
    high, wide = lattice.picture_cells(rows), lattice.picture_cells(cols)
    has_terrain = any(part.terrain for part in parts)

    def opened(name: str, shape: tuple[int, ...], kind: Any, fill: float) -> NDArray[Any]:
        array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
        if fill != 0:
            for line in range(0, shape[-2], 1024):
                array[..., line : line + 1024, :] = fill
        return array

    heights = ("dsm", "dsm_sd", "dtm", "dtm_sd") if has_terrain else ("dsm", "dsm_sd")
    out = {name: opened(name, (1, rows, cols), np.float32, math.nan) for name in heights}
    out["water"] = opened("water", (1, rows, cols), np.uint8, 0)
    out["picture"] = opened("picture", (4, high, wide), np.uint8, 0)
    out["sources"] = opened("sources", (2, high, wide), np.uint16, 0)
    factors = level_parts(parts)
    numbers = {name: value for value, name in enumerate(names, start=1)}
    tables = {part.number: np.array([0, *(numbers[name] for name in part.photos)], np.uint16) for part in parts}
    apart: dict[tuple[int, int], list[tuple[NDArray[np.float32], int]]] = {}
    side = lattice.period * max(1, min(_TILE, rows, cols) // lattice.period)
    wet = 0
    for row, col in _tiles(top, left, rows, cols, side):
        here = [layer for layer in layers if layer.meets(row, col, side)]
        if not here:
            continue
        distance = _Distances(here, territory, lattice, row, col, side)
        made = _merged_heights(here, distance, lattice, row, col, side, noise, feather, apart)
        a, b = row - top, col - left
        for name in sorted(made):
            values = made[name]
            target = out[name][0, a : a + side, b : b + side]
            target[...] = values[: target.shape[0], : target.shape[1]]
        wet += int(np.count_nonzero(made["water"]))
        pictures = _merged_picture(here, distance, lattice, row, col, side, picture_feather, factors, tables)
        a, b = lattice.picture_cells(a), lattice.picture_cells(b)
        for name, drawn in zip(("picture", "sources"), pictures, strict=True):
            whole: NDArray[Any] = np.asarray(drawn)
            target = out[name][:, a : a + whole.shape[1], b : b + whole.shape[2]]
            target[...] = whole[:, : target.shape[1], : target.shape[2]]
    grid = lattice.grid(top, left, (rows, cols), crs)
    if geoid is not None:
        _lower([out[name] for name in ("dsm", "dtm") if name in out], grid, geoid)
    # parts were padded to whole periods: what none of them covers is cut off again
    box = _known(out["dsm"][0], out["picture"][3], lattice)
    nan = math.nan
    rasters = {name: _cut(Raster(data=out[name], grid=grid, nodata=nan, unit="m"), box, lattice.metres) for name in heights}
    picture_grid = lattice.picture_grid(top, left, (high, wide), crs)
    return Merged(
        dsm=rasters["dsm"],
        dsm_sd=rasters["dsm_sd"],
        dtm=rasters.get("dtm"),
        dtm_sd=rasters.get("dtm_sd"),
        water=_cut(Raster(data=out["water"], grid=grid, nodata=None, unit="1"), box, lattice.metres),
        picture=_cut(Raster(data=out["picture"], grid=picture_grid), box, lattice.picture_metres),
        sources=_cut(Raster(data=out["sources"], grid=picture_grid, nodata=0), box, lattice.picture_metres),
        seams=tuple(_height_seam(pair, apart[pair]) for pair in sorted(apart)),
        water_area=wet * lattice.metres**2,
    )


def _known(heights: NDArray[Any], alpha: NDArray[Any], lattice: Lattice) -> tuple[float, float, float, float]:
    """(top, bottom, left, right) m from the corner of what has a height or is drawn; the whole where nothing is."""
    edges = []
    for array, size, known in ((heights, lattice.metres, np.isfinite), (alpha, lattice.picture_metres, np.asarray)):
        across, down = np.zeros(array.shape[1], bool), np.zeros(array.shape[0], bool)
        for line in range(0, array.shape[0], 1024):
            there = known(array[line : line + 1024]).astype(bool)
            across |= there.any(axis=0)
            down[line : line + 1024] = there.any(axis=1)
        if down.any():
            rows, cols = np.flatnonzero(down), np.flatnonzero(across)
            edges.append([rows[0] * size, (rows[-1] + 1) * size, cols[0] * size, (cols[-1] + 1) * size])
    if not edges:
        return 0.0, heights.shape[0] * lattice.metres, 0.0, heights.shape[1] * lattice.metres
    low, high = np.min(edges, axis=0), np.max(edges, axis=0)
    return float(low[0]), float(high[1]), float(low[2]), float(high[3])


def _cut(raster: Raster, box: tuple[float, float, float, float], size: float) -> Raster:
    """The cells of a raster that a box from its corner touches."""
    # a thousandth of a cell is rounding
    top, left = math.floor(box[0] / size + 1e-3), math.floor(box[2] / size + 1e-3)
    bottom, right = math.ceil(box[1] / size - 1e-3), math.ceil(box[3] / size - 1e-3)
    data = raster.data[:, top:bottom, left:right]
    shift = raster.grid.transform @ Affine.translation(left, top)
    return Raster(
        data=data, grid=Grid(shape=data.shape[1:], transform=shift, crs=raster.grid.crs), nodata=raster.nodata, unit=raster.unit
    )


def _tiles(top: int, left: int, rows: int, cols: int, side: int) -> Iterator[tuple[int, int]]:
    for row in range(top, top + rows, side):
        for col in range(left, left + cols, side):
            yield row, col


class _Distances:
    """Distance from the cells of a square to the nearest camera of each part, m; linear between nodes."""

    def __init__(self, layers: Sequence[_Layer], territory: Territory, lattice: Lattice, row: int, col: int, side: int) -> None:
        self._nodes = max(1, -(-side // _STEP))
        along = np.linspace(0, side, self._nodes + 1)
        x, y = (col + along) * lattice.metres, -(row + along) * lattice.metres
        places = np.stack([part.ravel() for part in np.meshgrid(x, y)], axis=1)
        shape = (self._nodes + 1, self._nodes + 1)
        self._at = [territory.distance(places, layer.part.number).reshape(shape) for layer in layers]

    def cells(self, count: int) -> NDArray[np.float32]:
        """(parts, count, count) at the middles of so many cells along the square."""
        place = (np.arange(count) + 0.5) * (self._nodes / count)
        first = np.minimum(place.astype(np.int64), self._nodes - 1)
        share = place - first
        result = np.empty((len(self._at), count, count), np.float32)
        for k, nodes in enumerate(self._at):
            lines = nodes[first] * (1 - share)[:, None] + nodes[first + 1] * share[:, None]
            result[k] = lines[:, first] * (1 - share) + lines[:, first + 1] * share
        return result


def _merged_heights(
    layers: Sequence[_Layer],
    distance: _Distances,
    lattice: Lattice,
    row: int,
    col: int,
    side: int,
    noise: float,
    feather: float,
    apart: dict[tuple[int, int], list[tuple[NDArray[np.float32], int]]],
) -> dict[str, NDArray[Any]]:
    """Heights, their errors and water of a square; differences between parts go to `apart`."""
    d = distance.cells(side)
    nearest = np.argmin(d, axis=0)
    reasons = np.stack([layer.window("water", lattice, row, col, side, 0) for layer in layers])
    water = np.take_along_axis(reasons, nearest[None], axis=0)[0]
    made: dict[str, NDArray[Any]] = {"water": water}
    for name in ("dsm", "dtm"):
        having = [k for k, layer in enumerate(layers) if name in layer.arrays]
        if not having:
            continue
        z = np.stack([layers[k].window(name, lattice, row, col, side, math.nan) for k in having])
        sd = np.stack([layers[k].window(f"{name}_sd", lattice, row, col, side, math.nan) for k in having])
        there = np.isfinite(z)
        away = np.where(there, d[having], np.float32(np.inf))
        owner = np.argmin(away, axis=0)[None]
        own_z, own_sd = np.take_along_axis(z, owner, axis=0)[0], np.take_along_axis(sd, owner, axis=0)[0]
        least = np.take_along_axis(away, owner, axis=0)[0]
        total, weights, spread = (np.zeros(own_z.shape) for _ in range(3))
        with np.errstate(invalid="ignore"):
            for k in range(len(having)):
                alike = np.abs(z[k] - own_z) <= 3 * np.sqrt(sd[k] ** 2 + own_sd**2 + 2 * noise**2)
                w = np.where(there[k] & alike, np.clip(1 - (away[k] - least) / max(feather, 1e-9), 0, 1), 0.0)
                total += w * np.where(there[k], z[k] - own_z, 0)
                spread += w * np.where(there[k], sd[k], 0)
                weights += w
        known = there.any(axis=0) & (water == 0)
        safe = np.where(weights > 0, weights, 1)
        made[name] = np.where(known, own_z + total / safe, np.nan).astype(np.float32)
        # the same photos near the border gave both: errors that go together
        made[f"{name}_sd"] = np.where(known, spread / safe, np.nan).astype(np.float32)
        if name == "dsm":
            for i in range(len(having)):
                for j in range(i + 1, len(having)):
                    both = (
                        there[i] & there[j] & (np.abs(d[having[i]] - d[having[j]]) <= feather) & (d[having[i]] <= least + feather)
                    )
                    if both.any():
                        off = (z[i] - z[j])[both]
                        beyond = np.abs(off) > 3 * np.sqrt(sd[i][both] ** 2 + sd[j][both] ** 2 + 2 * noise**2)
                        key = (layers[having[i]].part.number, layers[having[j]].part.number)
                        apart.setdefault(key, []).append((off.astype(np.float32), int(beyond.sum())))
    return made


def _height_seam(pair: tuple[int, int], found: Sequence[tuple[NDArray[np.float32], int]]) -> HeightSeam:
    off = np.concatenate([each[0] for each in found]).astype(np.float64)
    middle = float(np.median(off))
    return HeightSeam(
        first=pair[0],
        second=pair[1],
        cells=len(off),
        median=middle,
        nmad=1.4826 * float(np.median(np.abs(off - middle))),
        apart=sum(each[1] for each in found) / len(off),
    )


def _merged_picture(
    layers: Sequence[_Layer],
    distance: _Distances,
    lattice: Lattice,
    row: int,
    col: int,
    side: int,
    feather: float,
    factors: Mapping[int, NDArray[np.float64]],
    tables: Mapping[int, NDArray[np.uint16]],
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Picture (4, n, n) and sources (2, n, n) of a square."""
    size = lattice.picture_cells(side)
    d = distance.cells(size) if len(layers) > 1 else np.zeros((1, size, size), np.float32)
    sources = np.zeros((2, size, size), np.uint16)
    least = np.full((size, size), np.inf, np.float32)
    drawn = []
    for k, layer in enumerate(layers):
        picture = layer.window("picture", lattice, row, col, side, 0)
        mine = picture[3] > 0
        drawn.append((picture, mine))
        numbers = layer.window("sources", lattice, row, col, side, 0)
        better = mine & (d[k] < least)
        least[better] = d[k][better]
        sources[0][better] = tables[layer.part.number][numbers[0][better]]
        sources[1][better] = numbers[1][better]
    total, weights = np.zeros((3, size, size), np.float32), np.zeros((size, size), np.float32)
    with np.errstate(invalid="ignore"):
        for k, (picture, mine) in enumerate(drawn):
            w = np.where(mine, np.clip(1 - (d[k] - least) / max(feather, 1e-9), 0, 1), 0).astype(np.float32)
            weights += w
            gain = factors[layers[k].part.number].astype(np.float32)
            for band in range(3):
                total[band] += w * picture[band] * gain[band]
    filled = weights > 0
    result = np.zeros((4, size, size), np.uint8)
    for band in range(3):
        result[band] = np.where(filled, np.rint(np.clip(total[band] / np.where(filled, weights, 1), 0, 255)), 0)
    result[3] = np.where(filled, 255, 0)
    return result, sources


def _lower(arrays: Sequence[NDArray[Any]], grid: Grid, geoid: Undulation) -> None:
    """Heights above the geoid, in place, row by row."""
    t = grid.transform
    x = np.asarray(t.c + (np.arange(grid.shape[1]) + 0.5) * t.a, np.float64)
    for line in range(grid.shape[0]):
        down = geoid.at(x, np.full(len(x), t.f + (line + 0.5) * t.e))
        for array in arrays:
            array[0, line] = array[0, line] - down


def overview(raster: Raster, factor: int) -> Raster:
    """The raster with cells `factor` times as long: means of heights that are there; of pictures and numbers every so-manieth cell."""
    bands, rows, cols = raster.data.shape
    high, wide = -(-rows // factor), -(-cols // factor)
    out = np.empty((bands, high, wide), raster.data.dtype)
    for row in range(high):
        lines = raster.data[:, row * factor : (row + 1) * factor]
        if raster.data.dtype.kind == "f":
            padded = np.pad(lines, ((0, 0), (0, factor - lines.shape[1]), (0, wide * factor - cols)), constant_values=np.nan)
            squares = padded.reshape(bands, factor, wide, factor).astype(np.float64)
            there = np.isfinite(squares)
            count = there.sum(axis=(1, 3))
            mean = np.where(there, squares, 0).sum(axis=(1, 3)) / np.maximum(count, 1)
            out[:, row] = np.where(count > 0, mean, np.nan)
        else:
            middle = min(factor // 2, lines.shape[1] - 1)
            at = np.minimum(np.arange(wide) * factor + factor // 2, cols - 1)
            out[:, row] = lines[:, middle][:, at]
    t = raster.grid.transform
    grid = Grid(shape=(high, wide), transform=t @ Affine.scale(factor), crs=raster.grid.crs)
    return Raster(data=out, grid=grid, nodata=raster.nodata, unit=raster.unit)


def uncertainty_bands(folder: Path, surface: SurfaceModel) -> Raster:
    """Standard uncertainty of each height with all that is known of it, and its noise alone: two bands, mapped from disk."""
    noise, field = surface.standard_uncertainty, surface.error_field
    assert noise is not None and field is not None
    rows, cols = noise.grid.shape
    out = np.lib.format.open_memmap(folder / f"{surface.kind}_bands.npy", mode="w+", dtype=np.float32, shape=(2, rows, cols))
    for row in range(0, rows, 512):
        lines = noise.data[0, row : row + 512]
        grid = Grid(shape=lines.shape, transform=noise.grid.transform @ Affine.translation(0, row), crs=noise.grid.crs)
        out[0, row : row + 512] = np.hypot(lines, height_sd(field, grid))
        out[1, row : row + 512] = lines
    return Raster(data=out, grid=noise.grid, nodata=noise.nodata, unit=noise.unit)
