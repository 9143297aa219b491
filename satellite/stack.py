"""Scenes of one source on one grid: what the numbers mean, which cells are used, which scenes fit them.

In: scenes as the readers of the formats found them, with the cells of each asset. Out: a `Stack`: one grid, one way of
storing values, each scene used or left out with a status and a reason, each asset with the method that brings it onto
the grid. No pixel is read here.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from affine import Affine
from pyproj import CRS
from rasterio.windows import Window

from geoevidence.crs import transformer
from geoevidence.errors import ConfigError, CoverageError, FormatError
from geoevidence.raster import Grid
from geoevidence.types import Message
from satellite.types import Asset, Resample, Scene, SceneStatus

STACK_FILE = "stack.toml"
CLEAR_SCL = (4, 5, 6, 7)
"""Sentinel-2 scene classes taken as clear: vegetation, bare, water, unclassified (ESA, Level-2A product specification).
Water stays, because a river bank must be seen in every state; 7 stays, because it is 'not cloud' by the processor."""

Layout = Literal["geotiff", "netcdf", "zarr", "eopatch", "stac", "safe", "landsat"]
ROLES = ("blue", "green", "red", "nir", "swir1", "swir2")
"""Common names of the six bands that products with named bands are read for unless others are asked for."""
_TOLERANCE = 1e-3
"""Cells that lie apart by less than this share of a cell are the same cells (as in `Grid.matches`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """How the numbers in the files are meant, and what is made of them.

    sensor: name shown to people. bands: names in file order (by description where the file has them).
    scale, offset: physical = stored * scale + offset; scale None = not stated here (products state it band by band).
    nodata: stored value of absence, or None. saturated: stored value of a saturated band; None = what the product says,
    and the largest value of unsigned 16-bit files.
    quality: name of the quality band, "" = there is none. clear: its values that count as clear.
    cloud_bits, fill_bits: for a quality band of bits: bits that mean not usable, and no value; used instead of `clear`
    when `cloud_bits` is not empty.
    date_pattern: regular expression with groups year, month, day over the file name, "" = first date found in it.
    band_pattern: of a folder with one file a band: regular expression with the group band over the file name; files whose
    names are the same but for it are one scene. "" = each file holds all bands.
    resolution: cell size asked for, units of the CRS; 0 = the finest wanted band's.
    resampling: method for cells of another size or place; "" = nearest for coarser cells of the same grid (they are
    repeated), average for finer ones, bilinear for another grid. Quality is always taken from the nearest cell.
    regrid: also use scenes on another grid of the same place, warped. keep_odd: also use scenes whose values depart from
    the others' like a wrong scale or offset. synthetic: demonstration data.
    """

    sensor: str = ""
    bands: tuple[str, ...] = ()
    scale: float | None = None
    offset: float = 0.0
    nodata: float | None = None
    saturated: float | None = None
    quality: str = ""
    clear: tuple[int, ...] = CLEAR_SCL
    cloud_bits: tuple[int, ...] = ()
    fill_bits: tuple[int, ...] = ()
    date_pattern: str = ""
    band_pattern: str = ""
    resolution: float = 0.0
    resampling: str = ""
    regrid: bool = False
    keep_odd: bool = False
    synthetic: bool = False

    def __post_init__(self) -> None:
        if self.resampling not in ("", *(method for method in get_args(Resample) if method != "none")):
            raise ConfigError(
                "satellite.unknown_setting", name=f"resampling = {self.resampling}", known="nearest, bilinear, average"
            )
        if not 0 <= self.resolution < 1e6:
            raise ConfigError("satellite.setting_out_of_range", name="resolution", value=self.resolution, low=0, high=1e6)
        for name in ("cloud_bits", "fill_bits"):
            if any(not 0 <= bit <= 15 for bit in getattr(self, name)):
                raise ConfigError("satellite.setting_out_of_range", name=name, value=str(getattr(self, name)), low=0, high=15)


_SPEC_TYPES: Mapping[str, tuple[type, ...]] = {
    "sensor": (str,),
    "bands": (list,),
    "scale": (int, float),
    "offset": (int, float),
    "nodata": (int, float),
    "saturated": (int, float),
    "quality": (str,),
    "clear": (list,),
    "cloud_bits": (list,),
    "fill_bits": (list,),
    "date_pattern": (str,),
    "band_pattern": (str,),
    "resolution": (int, float),
    "resampling": (str,),
    "regrid": (bool,),
    "keep_odd": (bool,),
    "synthetic": (bool,),
}


def read_spec(path: Path) -> StackSpec:
    """The spec in a `stack.toml`. Raises ConfigError on an unknown key or a wrong type, FormatError on bad TOML."""
    return StackSpec(**_written(path))


def _written(path: Path) -> dict[str, Any]:
    """The checked keys and values of a `stack.toml`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError("satellite.bad_stack_file", path=path.name, reason=str(error)) from error
    for key, value in raw.items():
        if key not in _SPEC_TYPES:
            raise ConfigError("satellite.unknown_stack_key", key=key, path=path.name, known=", ".join(sorted(_SPEC_TYPES)))
        if not isinstance(value, _SPEC_TYPES[key]) or (isinstance(value, bool) and bool not in _SPEC_TYPES[key]):
            raise ConfigError("satellite.stack_key_type", key=key, path=path.name, found=type(value).__name__)
    if "bands" in raw and not (raw["bands"] and all(isinstance(name, str) for name in raw["bands"])):
        raise ConfigError("satellite.stack_key_type", key="bands", path=path.name, found=repr(raw["bands"]))
    for key in ("clear", "cloud_bits", "fill_bits"):
        if key in raw and not all(isinstance(v, int) and not isinstance(v, bool) for v in raw[key]):
            raise ConfigError("satellite.stack_key_type", key=key, path=path.name, found=repr(raw[key]))
    for key, value in raw.items():
        if isinstance(value, list):
            raw[key] = tuple(value)
        elif isinstance(value, int) and float in _SPEC_TYPES[key]:
            raw[key] = float(value)
    return raw


def spec_for(folder: Path, stated: Mapping[str, Any], default: StackSpec, files: dict[str, str]) -> StackSpec:
    """The spec of a folder: `stated` wins over its `stack.toml`, which wins over `default`; the file is added to `files`."""
    path = folder / STACK_FILE
    known = {name: getattr(default, name) for name in _SPEC_TYPES}
    if path.is_file():
        known.update(_written(path))
        files[path.name] = file_sha256(path)
    unknown = sorted(set(stated) - set(_SPEC_TYPES))
    if unknown:
        raise ConfigError("satellite.unknown_setting", name=", ".join(unknown), known=", ".join(sorted(_SPEC_TYPES)))
    return StackSpec(**{**known, **stated})


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How a cube keeps values: physical = stored * scale + offset.

    int16 where every band of every scene is whole numbers of one scale that fit after one shift a scene (nothing is
    rounded); else float32 of physical values (scale 1, offset 0).
    """

    dtype: Literal["int16", "float32"]
    scale: float
    offset: float


STEP_BLUR_DAYS = 60
"""So far, d, the date of a step may lie off: what the tests of `scene_checks.level_steps` allow for a usual step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelStep:
    """From one date on the scenes are brighter, or darker, than those of the year before, in all bands.

    before, after: the last scene before and the first one after. scenes: compared on either side. shift: by band of the stack,
    reflectance. share: the same of the usual level of the band (1). size: in standard errors, root mean square over bands.
    """

    before: date
    after: date
    scenes: tuple[int, int]
    shift: tuple[float, ...]
    share: tuple[float, ...]
    size: float

    @property
    def span(self) -> tuple[date, date]:
        """First and last day on which the step may lie: the season that scenes are compared with blurs its date by `STEP_BLUR_DAYS`."""
        return self.before - timedelta(STEP_BLUR_DAYS), self.after + timedelta(STEP_BLUR_DAYS)

    def between(self, last_clear_before: date, first_clear_after: date) -> bool:
        """Whether the step may lie in an interval of change."""
        first, last = self.span
        return last_clear_before <= last and first_clear_after >= first

    def told(self) -> dict[str, str]:
        """Values of a message: both dates, and the least and largest share of a band, %."""
        shares = {"low": f"{100 * min(self.share):+.0f}", "high": f"{100 * max(self.share):+.0f}"}
        return {"before": self.before.isoformat(), "after": self.after.isoformat(), **shares}


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Scenes of one source on one grid, in order of (date, name).

    layout: how the files are read. spec: what the numbers mean. grid: of all blocks. scenes: all files that look like
    scenes, usable or not. files: every file read, name -> sha256. storage: how cubes keep values. steps: in order of time.
    """

    layout: Layout
    spec: StackSpec
    grid: Grid
    scenes: tuple[Scene, ...]
    files: Mapping[str, str]
    storage: Storage
    steps: tuple[LevelStep, ...] = ()

    @cached_property
    def usable(self) -> tuple[Scene, ...]:
        """Scenes that can be read, in order of (date, name)."""
        return tuple(scene for scene in self.scenes if scene.status == "read")

    @cached_property
    def days(self) -> tuple[date, ...]:
        """Dates of the usable scenes, each once, in order."""
        return tuple(sorted({scene.acquired for scene in self.usable if scene.acquired is not None}))


# Files and names ------------------------------------------------------------------------------------------------------

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")


def file_sha256(path: Path) -> str:
    """Lower-case hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def date_in(name: str, pattern: str = "") -> date | None:
    """The date in a name by a pattern with groups year, month, day; without one the first YYYYMMDD. Raises ConfigError."""
    if pattern:
        try:
            found = re.search(pattern, name)
        except re.error as error:
            raise ConfigError("satellite.bad_date_pattern", pattern=pattern, reason=str(error)) from error
        groups = found.groupdict() if found else {}
        parts = [groups.get(part) for part in ("year", "month", "day")]
    else:
        found = _DATE.search(name)
        parts = list(found.groups()) if found else [None] * 3
    try:
        return date(*(int(part) for part in parts)) if all(parts) else None  # type: ignore[arg-type]
    except ValueError:
        return None


class GridPool:
    """Grids of many files with one CRS object for each reference system, so that equal grids are cheap to tell."""

    def __init__(self) -> None:
        self._systems: dict[str, CRS] = {}
        self._grids: dict[tuple[Any, ...], Grid] = {}

    def grid(self, shape: tuple[int, int], transform: Affine, wkt: str) -> Grid:
        """The grid of a file, the same object for the same cells."""
        key = (shape, tuple(transform)[:6], wkt)
        if key not in self._grids:
            if wkt not in self._systems:
                crs = CRS.from_wkt(wkt)
                self._systems[wkt] = next((known for known in self._systems.values() if known == crs), crs)
            self._grids[key] = Grid(shape=shape, transform=transform, crs=self._systems[wkt])
        return self._grids[key]


# Cells ----------------------------------------------------------------------------------------------------------------


def same_crs(one: CRS, other: CRS) -> bool:
    """Whether two systems are the same; objects of one `GridPool` are compared by identity first."""
    return one is other or bool(one == other)


def cell_offset(grid: Grid, other: Grid) -> tuple[int, int] | None:
    """(row, col) in `grid` of the first cell of `other`, where both have the same cells; else None."""
    if grid is other:
        return 0, 0
    if not same_crs(grid.crs, other.crs):
        return None
    rows, cols = other.shape
    inverse = ~grid.transform
    corners = [inverse @ (other.transform @ corner) for corner in ((0, 0), (cols, 0), (0, rows), (cols, rows))]
    col, row = round(corners[0][0]), round(corners[0][1])
    expected = ((col, row), (col + cols, row), (col, row + rows), (col + cols, row + rows))
    if not np.allclose(corners, expected, rtol=0, atol=_TOLERANCE):
        return None
    return row, col


def _common_grid(scenes: Sequence[Scene], spec: StackSpec) -> Grid:
    """The cells that most scenes share (the first in order wins a tie), over the extents that hang together."""
    lattices: list[tuple[Grid, dict[tuple[int, int, int, int], int]]] = []
    for scene in scenes:
        assert scene.grid is not None
        for first, extents in lattices:
            offset = cell_offset(first, scene.grid)
            if offset is not None:
                box = (*offset, offset[0] + scene.grid.shape[0], offset[1] + scene.grid.shape[1])
                extents[box] = extents.get(box, 0) + 1
                break
        else:
            lattices.append((scene.grid, {(0, 0, *scene.grid.shape): 1}))
    first, extents = max(lattices, key=lambda lattice: sum(lattice[1].values()))
    main = max(extents, key=lambda box: extents[box])
    joined, left = {main}, set(extents) - {main}
    while near := {box for box in left if any(_touch(box, other) for other in joined)}:
        joined |= near
        left -= near
    top, west = min(box[0] for box in joined), min(box[1] for box in joined)
    bottom, east = max(box[2] for box in joined), max(box[3] for box in joined)
    shape = (bottom - top, east - west)
    if (top, west) == (0, 0) and shape == first.shape:
        grid = first
    else:
        grid = Grid(shape=shape, transform=first.transform @ Affine.translation(west, top), crs=first.crs)
    return _resized(grid, spec.resolution) if spec.resolution else grid


def _touch(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _resized(grid: Grid, size: float) -> Grid:
    """Cells of `size` over the same place, their edges at multiples of it."""
    xmin, ymin, xmax, ymax = grid.bounds
    # A millionth of a cell is rounding, not another cell.
    west, south = (np.floor(value / size + 1e-6) * size for value in (xmin, ymin))
    east, north = (np.ceil(value / size - 1e-6) * size for value in (xmax, ymax))
    shape = (max(1, round((north - south) / size)), max(1, round((east - west) / size)))
    return Grid(shape=shape, transform=Affine(size, 0, float(west), 0, -size, float(north)), crs=grid.crs)


def _method(asset: Asset, grid: Grid, spec: StackSpec) -> Resample:
    """How the cells of an asset become those of the grid."""
    if asset.grid is None or cell_offset(grid, asset.grid) is not None:
        return "none"
    if asset.role != "value":
        return "nearest"
    if spec.resampling:
        return spec.resampling  # type: ignore[return-value]
    if not same_crs(asset.grid.crs, grid.crs):
        return "bilinear"
    size, wanted = asset.grid.resolution[0], grid.resolution[0]
    ratio = size / wanted
    if ratio < 1 - _TOLERANCE:
        return "average"
    whole = abs(ratio - round(ratio)) < _TOLERANCE and _nested(asset.grid, grid)
    return "nearest" if whole else "bilinear"


def _nested(coarse: Grid, fine: Grid) -> bool:
    """Whether the corner of the fine grid lies on an edge of its own cells seen from the coarse grid's corner."""
    col, row = ~fine.transform @ (coarse.transform @ (0, 0))
    return abs(col - round(col)) < _TOLERANCE and abs(row - round(row)) < _TOLERANCE


def _apart(grid: Grid, other: Grid) -> bool:
    """Whether two grids share no place, by their outlines in the system of the first (with points along the edges)."""
    box = other.bounds
    if not same_crs(grid.crs, other.crs):
        box = transformer(other.crs, grid.crs).transform_bounds(*box, densify_pts=21)
        if not np.isfinite(box).all():
            return True
    mine = grid.bounds
    return bool(box[0] >= mine[2] or box[2] <= mine[0] or box[1] >= mine[3] or box[3] <= mine[1])


# Stacks ---------------------------------------------------------------------------------------------------------------


def make_stack(layout: Layout, spec: StackSpec, scenes: Sequence[Scene], files: Mapping[str, str], place: str) -> Stack:
    """One stack of the scenes that were found: grid and storage chosen, scenes that do not fit set aside.

    Args:
        scenes: in name order, status as the files say; those that are `read` have a date, a grid and all wanted assets.
        place: name of the source, for messages.

    Raises:
        CoverageError: no scene can be used. ConfigError: a resampling that cannot be done.
    """
    fitting = [scene for scene in scenes if scene.status == "read"]
    if not fitting:
        reasons = sorted({scene.reason.render("en") for scene in scenes if scene.reason is not None})
        raise CoverageError("satellite.no_usable_scene", path=place, count=len(scenes), reason="; ".join(reasons[:3]) or "-")
    grid = _common_grid(fitting, spec)
    placed = [_placed(scene, grid, spec) if scene.status == "read" else scene for scene in scenes]
    far = date(9999, 1, 1)
    ordered = tuple(sorted(placed, key=lambda scene: (scene.acquired or far, scene.name)))
    storage = storage_for([scene for scene in ordered if scene.status == "read"])
    return Stack(layout=layout, spec=spec, grid=grid, scenes=ordered, files=dict(sorted(files.items())), storage=storage)


def _placed(scene: Scene, grid: Grid, spec: StackSpec) -> Scene:
    assert scene.grid is not None
    lattice = _resized(scene.grid, spec.resolution) if spec.resolution else scene.grid
    fits = cell_offset(grid, lattice) is not None
    if fits and _apart(grid, scene.grid):
        return set_aside(scene, "other_grid", "satellite.scene_elsewhere")
    if not fits and (not spec.regrid or _apart(grid, scene.grid)):
        return set_aside(scene, "other_grid", "satellite.scene_other_grid")
    assets = tuple(replace(asset, resampling=_method(asset, grid, spec)) for asset in scene.assets)
    for asset in assets:
        if asset.resampling == "average" and asset.grid is not None and not same_crs(asset.grid.crs, grid.crs):
            raise ConfigError("satellite.no_average_warp", scene=scene.name, band=asset.band)
    return replace(scene, assets=assets)


def set_aside(scene: Scene, status: SceneStatus, message: str, **values: Any) -> Scene:
    """The scene with a status other than read, and why."""
    return replace(scene, status=status, reason=Message(id=message, values={"scene": scene.name, **values}))


_LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}


def storage_for(scenes: Sequence[Scene]) -> Storage:
    """int16 where nothing is lost by it, else float32 (see `Storage`)."""
    values = [asset for scene in scenes for asset in scene.assets if asset.role == "value"]
    kinds = {asset.dtype for asset in values}
    scales = {asset.scale for asset in values}
    whole = Storage(dtype="float32", scale=1.0, offset=0.0)
    if not kinds <= set(_LIMITS) or len(scales) != 1 or any(asset.resampling in ("bilinear", "average") for asset in values):
        return whole
    scale = scales.pop()
    offsets = sorted({asset.offset for asset in values})
    steps = [offset / scale for offset in offsets]
    if all(abs(step - round(step)) < 1e-6 for step in steps):
        # Values beyond int16 after the shift are far brighter than any surface; they count as saturated.
        return Storage(dtype="int16", scale=scale, offset=0.0)
    if len(offsets) == 1:
        shift = 32768 if "uint16" in kinds else 0
        low, high = (min(_LIMITS[kind][0] for kind in kinds), max(_LIMITS[kind][1] for kind in kinds))
        if low - shift >= -32768 and high - shift <= 32767:
            return Storage(dtype="int16", scale=scale, offset=offsets[0] + shift * scale)
    return whole


def tiles(stack: Stack, size: int = 512) -> Iterator[Window]:
    """Windows of at most `size` x `size` cells in row-major order that cover the grid once.

    Their edges lie on multiples of `size` cells from the first cell of the extent that most scenes share, which is where
    the blocks of tiled files begin, so that no block is decoded twice.
    """
    if size < 1:
        raise ConfigError("satellite.setting_out_of_range", name="size", value=size, low=1, high="-")
    counts: dict[tuple[int, int], int] = {}
    for scene in stack.usable:
        offset = None if scene.grid is None else cell_offset(stack.grid, scene.grid)
        if offset is not None:
            counts[offset] = counts.get(offset, 0) + 1
    corner = max(sorted(counts), key=lambda key: counts[key]) if counts else (0, 0)
    rows, cols = (_edges(length, start % size, size) for length, start in zip(stack.grid.shape, corner, strict=True))
    for top, bottom in rows:
        for left, right in cols:
            yield Window(left, top, right - left, bottom - top)  # type: ignore[call-arg]


def _edges(length: int, start: int, size: int) -> list[tuple[int, int]]:
    cuts = [0, *(cut for cut in range(start, length, size) if cut > 0), length]
    return list(pairwise(cuts))


def region_window(stack: Stack, geometry: Mapping[str, Any], crs: CRS) -> Window:
    """The window of cells that a GeoJSON geometry (in `crs`) touches. Raises CoverageError where there are none."""
    import shapely

    area = shapely.geometry.shape(geometry)
    if not same_crs(crs, stack.grid.crs):
        # Long edges are curves in another system: points along them, at least one a cell of the shorter side of the area.
        step = max(max(area.bounds[2] - area.bounds[0], area.bounds[3] - area.bounds[1]) / 200, 1e-12)
        area = shapely.transform(area.segmentize(step), transformer(crs, stack.grid.crs).transform, interleaved=False)
    inverse = ~stack.grid.transform
    west, south, east, north = area.bounds if not area.is_empty else (np.nan,) * 4
    corners = np.array([inverse @ corner for corner in ((west, south), (west, north), (east, south), (east, north))])
    rows, cols = stack.grid.shape
    if np.isfinite(corners).all():
        left, top = np.floor(corners.min(axis=0) + _TOLERANCE)
        right, bottom = np.ceil(corners.max(axis=0) - _TOLERANCE)
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, cols), min(bottom, rows)
        if right > left and bottom > top:
            return Window(int(left), int(top), int(right - left), int(bottom - top))  # type: ignore[call-arg]
    raise CoverageError("satellite.region_outside")
