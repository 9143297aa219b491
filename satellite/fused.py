"""The work of one tile of a region scan, from files to small results, fused so that no cube leaves the process that read it.

In: a `Job` (scenes, settings, region) and a tile. Out: the file of the tile (changed pixels, status, counts), and records of
the events that lie in it; later, events of windows that cross tiles. Each result has a key: the digest of everything it
depends on, so that a result can be recognised, kept, or made again, wherever and whenever it was computed.
A read that fails on bytes whose digest still holds is a fact and stays; on bytes that changed or went away the tile fails.
Knows no cluster, no output folder and no clock.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import date
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numba
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray

from geoevidence.errors import FormatError
from geoevidence.raster import Grid
from geoevidence.trust import canonical
from geoevidence.types import decimal_text
from satellite.cube import StackReader, window_grid
from satellite.events import EventConfig, PixelGroup, Registration, crop, describe_event, event_window
from satellite.overlay import Region, pixels_inside
from satellite.segment import BreakConfig, detect_block, join_rows, keep_supported
from satellite.sparse import SUPPORT_REACH, Box, Nodes, dense, grouped, no_nodes, nodes_of, pack, settled
from satellite.stack import Stack, cell_offset, file_sha256
from satellite.strips import Strips
from satellite.types import BreakMap, ChangeEvent, Cube, Observed, Scene, Status

FORMAT = "geoevidence.scan-tile.v1"
_OPEN_READERS = 2
_BLOCK_CACHE = 64_000_000
"""Memory for decoded blocks of files, bytes: tiles are made of whole blocks, which are not asked for twice."""
STRIP_ROWS = 64
"""Rows that are detected at once: the detector's own copy of a cube is as high as that."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What all tasks of a scan share: scenes, rules, the region (None: the whole grid), how well scenes lie on each other."""

    stack: Stack
    breaks: BreakConfig
    events: EventConfig
    region: Region | None
    registration: Registration | None
    """As measured between the scenes; None = assumed."""
    parameters: Mapping[str, Any]
    """Of `breaks`, `events` and the stack's spec, as I-JSON."""
    strips: Path | None = None
    """Folder where tiles leave what they saw along their edges (`strips.py`), for machines that see it; None: there is none."""


@cache
def code_digest(module: str = "fused") -> str:
    """SHA-256 over the code and libraries that make the results of a tile, hex: a module and all that it imports of its package."""
    versions = f"numpy {np.__version__} numba {numba.__version__} gdal {rasterio.__gdal_version__}"
    digest = hashlib.sha256(f"{FORMAT} {versions}\n".encode())
    sources: dict[str, bytes] = {}
    wanted = {module}
    while wanted:
        name = wanted.pop()
        sources[name] = (Path(__file__).parent / f"{name}.py").read_bytes()
        found = re.findall(rb"^\s*(?:from|import) satellite\.(\w+)", sources[name], re.M)
        wanted |= {each.decode() for each in found} - set(sources)
    for name, source in sorted(sources.items()):
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


class SceneIndex:
    """Which scenes of a stack can have a value in a window. A result there depends on these and no others."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        rows, cols = stack.grid.shape
        # A scene whose place on the grid is not known may be anywhere.
        places = [_place(stack.grid, scene) or (0, 0, rows, cols) for scene in stack.usable]
        self._first_row, self._first_col, self._rows, self._cols = np.array(places, np.int64).reshape(-1, 4).T
        self._stacks: dict[bytes, Stack] = {}

    def of(self, box: Box) -> Stack:
        """The stack with those scenes alone; the same object for the same scenes."""
        down = (self._first_row < box.row + box.rows) & (self._first_row + self._rows > box.row)
        near = down & (self._first_col < box.col + box.cols) & (self._first_col + self._cols > box.col)
        if near.all():
            return self._stack
        name = np.packbits(near).tobytes()
        if name not in self._stacks:
            scenes = tuple(scene for scene, here in zip(self._stack.usable, near.tolist(), strict=True) if here)
            self._stacks[name] = replace(self._stack, scenes=scenes)
        return self._stacks[name]


def _place(grid: Grid, scene: Scene) -> tuple[int, int, int, int] | None:
    """(first row, first col, rows, cols) of a scene on the grid, None where its cells are others."""
    offset = None if scene.grid is None else cell_offset(grid, scene.grid)
    return None if offset is None or scene.grid is None else (*offset, *scene.grid.shape)


class Keys:
    """Digests of what the results of a job depend on."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.scenes = SceneIndex(job.stack)
        grid = job.stack.grid
        place = {"shape": list(grid.shape), "transform": [float(v).hex() for v in grid.transform[:6]], "crs": grid.crs.to_wkt()}
        self._common = _digest({"code": code_digest(), "parameters": job.parameters, "grid": place})
        self._lists: dict[int, str] = {}  # by stack of `scenes`, which keeps them alive

    def tile(self, box: Box) -> str:
        """Key of the result of a tile."""
        return _digest({"what": "tile", **self._inputs(box)})

    def event(self, box: Box, group: Nodes, near: Nodes, taken: NDArray[np.bool_], magnitude_of: str) -> str:
        """Key of the description of an event in its window."""
        lies = self._job.registration
        own = {
            "what": "event",
            "group": group.digest(),
            "near": near.digest(),
            "taken": hashlib.sha256(np.packbits(taken).tobytes()).hexdigest(),
            "magnitude_of": magnitude_of,
            "registration": None if lies is None else [decimal_text(lies.sd_pixels), lies.dates],
        }
        return _digest({**own, **self._inputs(box)})

    def _inputs(self, box: Box) -> dict[str, Any]:
        window = [box.row, box.col, box.rows, box.cols]
        return {"common": self._common, "window": window, "region": self._region(box), "scenes": self._scene_list(box)}

    def _scene_list(self, box: Box) -> str:
        near = self.scenes.of(box)
        if id(near) not in self._lists:
            # Everything said about a scene counts: digest of its bytes, date, and how its numbers are meant.
            text = "\n".join(scene_text(scene) for scene in near.usable)
            self._lists[id(near)] = hashlib.sha256(text.encode()).hexdigest()
        return self._lists[id(near)]

    def _region(self, box: Box) -> str:
        region = self._job.region
        if region is None:
            return "all"
        part = region.of_box(self._job.stack.grid, box)
        return "none" if part is None else hashlib.sha256(shapely.to_wkb(shapely.normalize(part), byte_order=1)).hexdigest()


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical.dumps(record)).hexdigest()


def scene_text(scene: Scene) -> str:
    """What a scene is, without where its files lie on this machine."""
    own: list[Any] = [
        scene.name,
        scene.sha256,
        scene.acquired,
        scene.sensor,
        scene.index,
        scene.status,
        scene.tile,
        scene.baseline,
    ]
    for asset in scene.assets:
        own += [repr(getattr(asset, f.name)) for f in fields(asset) if f.name not in ("path", "grid", "reason")]
        own.append(None if asset.grid is None else (asset.grid.shape, tuple(asset.grid.transform)[:6], asset.grid.crs.to_wkt()))
    return repr(own)


# Tasks ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileResult:
    """What a tile gives. file: bytes of its file. records: key of an event -> its JSON, of those that lie well inside."""

    file: bytes
    records: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EventTask:
    """One event to describe. box: its window. group: its breaks. near: all breaks kept in the window. taken: (y, x) pixels of
    any event there. tiles: those that the window touches, where that is known."""

    key: str
    box: Box
    group: Nodes
    near: Nodes
    taken: NDArray[np.bool_]
    magnitude_of: str
    tiles: tuple[Box, ...] = ()


class Bench:
    """Where one process does the tasks of one job; keeps files open from one tile to the next."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.keys = Keys(job)
        self._local = threading.local()
        self._digests: dict[Path, bool] = {}

    def close(self) -> None:
        """Close the files of this thread."""
        for reader in getattr(self._local, "readers", {}).values():
            reader.close()
        self._local.readers = OrderedDict()

    def _reader(self, stack: Stack) -> StackReader:
        if not hasattr(self._local, "readers"):
            self._local.readers = OrderedDict()
        readers: OrderedDict[int, StackReader] = self._local.readers  # by stack of the index, which keeps them alive
        if id(stack) not in readers:
            while len(readers) >= _OPEN_READERS:
                readers.popitem(last=False)[1].close()
            readers[id(stack)] = StackReader(stack)
        readers.move_to_end(id(stack))
        return readers[id(stack)]

    def inside(self, box: Box) -> NDArray[np.bool_]:
        """(rows, cols) which pixels of a window are asked for."""
        if self.job.region is None:
            return np.ones((box.rows, box.cols), bool)
        return pixels_inside(self.job.region.polygon, self.job.stack.grid, box)

    def read(self, box: Box) -> Cube:
        """The observations of a window, OUTSIDE where the region does not reach. Raises FormatError where files changed."""
        stack = self.keys.scenes.of(box)
        with rasterio.Env(GDAL_CACHEMAX=_BLOCK_CACHE):
            cube = self._reader(stack).read(box.window)
        if cube.failed:
            self._still_the_same(stack, cube.failed)
        outside = ~self.inside(box)
        if outside.any():
            cube.observed[:, outside] = Observed.OUTSIDE
        return cube

    def _still_the_same(self, stack: Stack, failed: frozenset[str]) -> None:
        """A failed read is believed only of the bytes that were listed: a lost disk must not look like damaged scenes."""
        for scene in stack.usable:
            if scene.name not in failed:
                continue
            listed = {asset.path: asset.sha256 for asset in scene.assets if asset.path is not None and asset.sha256}
            listed = listed or {scene.path: scene.sha256}
            for path, digest in sorted(listed.items()):
                if path not in self._digests:
                    try:  # of a folder of chunks only that it is there can be told
                        self._digests[path] = path.is_dir() or file_sha256(path) == digest
                    except OSError:
                        self._digests[path] = False
                if not self._digests[path]:
                    del self._digests[path]
                    raise FormatError("satellite.scan_scene_changed", scene=scene.name)

    def scan_tile(self, box: Box) -> TileResult:
        """Read, mask, detect; describe the events that lie well inside."""
        head: dict[str, Any] = {"format": FORMAT, "key": self.keys.tile(box), "box": [box.row, box.col, box.rows, box.cols]}
        stack = self.keys.scenes.of(box)
        inside = self.inside(box)
        if not inside.any() or not stack.usable:
            status = np.where(inside, np.uint8(Status.NOT_OBSERVED), np.uint8(Status.OUTSIDE)).astype(np.uint8)
            head |= {"pixels": int(inside.sum()), "days": 0, "observed": [0] * len(Observed), "failed": [], "magnitude_of": ""}
            arrays: dict[str, NDArray[Any]] = {
                "status": status,
                "observations": np.zeros(inside.shape, np.int16),
                **no_nodes().arrays(),
            }
            return TileResult(file=pack(head, arrays), records={})
        cube = self.read(box)
        raw = self._detect(cube)
        status = np.where(inside, raw.status, np.uint8(Status.OUTSIDE)).astype(np.uint8)
        nodes = nodes_of(raw, box)
        counts = [int(np.count_nonzero(cube.observed == code)) for code in Observed]
        counts[Observed.OUTSIDE] = 0
        head |= {
            "pixels": int(inside.sum()),
            "days": len(cube.days),
            "observed": counts,
            "failed": sorted(cube.failed),
            "magnitude_of": raw.magnitude_of,
        }
        file = pack(head, {"status": status, "observations": raw.observations, **nodes.arrays()})
        records, crossing = self._inner_events(cube, box, nodes, raw.magnitude_of)
        if self.job.strips is not None:
            # A full disk costs time, not results: what is missing there is read from the files again.
            with suppress(OSError):
                Strips(self.job.strips, self.job.stack.grid.shape).keep(box, cube, crossing)
        return TileResult(file=file, records=records)

    def _detect(self, cube: Cube) -> BreakMap:
        """Weak and strong breaks of a tile, a few rows at a time."""
        rows, cols = cube.grid.shape
        bands = tuple(sorted(cube.bands))
        order = [cube.bands.index(band) for band in bands]
        parts = []
        for row in range(0, rows, STRIP_ROWS):
            part = crop(cube, Box(row, 0, min(STRIP_ROWS, rows - row), cols).window)
            # In the order of bands that the detector wants, so that it makes no further copy.
            stored: Any = np.ascontiguousarray(part.stored[:, order])
            part = replace(part, stored=stored, observed=np.ascontiguousarray(part.observed), bands=bands)
            parts.append(detect_block(part, self.job.breaks, threads=1))
        return join_rows(parts, cube.grid)

    def settle(self, box: Box, nodes: Nodes, around: Sequence[Nodes]) -> Nodes:
        """The breaks of a tile that stay when its neighbours are known."""
        return settled(nodes, around, box, lambda breaks: keep_supported(breaks, self.job.breaks))

    def _inner_events(self, cube: Cube, box: Box, nodes: Nodes, magnitude_of: str) -> tuple[dict[str, bytes], list[Box]]:
        """Records of events whose window lies in the tile, and the windows of others. Whether they are those of the whole map,
        their keys decide later."""
        kept = self.settle(box, nodes, [])
        config = self.job.events
        groups = [
            group
            for group in grouped([(box.row + box.rows, kept)], link_days=config.link_days)
            if len(group) >= config.min_pixels
        ]
        shape = self.job.stack.grid.shape
        sure = box.grown(-SUPPORT_REACH - 1)
        records, crossing = {}, []
        for group in groups:
            window = window_of(group, shape)
            if not window.within(box) or not sure.holds(group.rows, group.cols).all():
                crossing.append(window)
                continue
            task = event_task(self.keys, window, group, kept, groups, magnitude_of)
            records[task.key] = event_json(self._describe(task, self._part(cube, box, window)))
        return records, crossing

    def _part(self, cube: Cube, box: Box, window: Box) -> Cube:
        """The window's part of the cube of a tile: what reading the window would give."""
        rows, cols = window.row - box.row, window.col - box.col
        area = (..., slice(rows, rows + window.rows), slice(cols, cols + window.cols))
        epoch = date(1970, 1, 1).toordinal()
        days = [day.toordinal() - epoch for day in self.keys.scenes.of(window).days]
        seen = np.isin(cube.days, days)
        stored, observed = cube.stored[area], cube.observed[area]
        if not seen.all():
            stored, observed = stored[seen], observed[seen]
        grid = window_grid(self.job.stack.grid, window.window)
        return replace(cube, stored=stored, observed=observed, days=cube.days[seen], grid=grid)

    def describe(self, tasks: Sequence[EventTask]) -> dict[str, bytes]:
        """Records of events: from what tiles kept of their edges; what is missing is read together where it lies together."""
        records = {}
        unfinished: list[tuple[Box, EventTask, Cube | None]] = []
        for task in tasks:
            known, missing = self._known(task)
            if known is not None and missing is None:
                records[task.key] = event_json(self._describe(task, known))
            else:
                unfinished.append((missing or task.box, task, known))
        for block, members in _blocks(unfinished):
            cube = self.read(block)
            for box, task, known in members:
                part = self._part(cube, block, box)
                whole = part if known is None else _completed(known, task.box, part, box)
                records[task.key] = event_json(self._describe(task, whole))
        return records

    def _known(self, task: EventTask) -> tuple[Cube | None, Box | None]:
        """What tiles kept of a window, None where they kept nothing, and the box that must be read to complete it."""
        strips = None if self.job.strips is None else Strips(self.job.strips, self.job.stack.grid.shape)
        if strips is None or not strips.known(task.tiles):
            return None, None
        window, stack = task.box, self.keys.scenes.of(task.box)
        epoch = date(1970, 1, 1).toordinal()
        days = np.array([day.toordinal() - epoch for day in stack.days], np.int32)
        shape, bands, storage = (window.rows, window.cols), stack.spec.bands, stack.storage
        stored = np.zeros((len(days), len(bands), *shape), storage.dtype)
        observed = np.full((len(days), *shape), np.uint8(Observed.NOT_OBSERVED))
        inside = self.inside(window)
        missing = ~strips.fill(window, task.tiles, days, stored, observed) & inside
        observed[:, ~inside] = Observed.OUTSIDE
        box = None
        if missing.any():
            rows, cols = np.flatnonzero(missing.any(axis=1)), np.flatnonzero(missing.any(axis=0))
            row, col = int(rows[0]), int(cols[0])
            box = Box(window.row + row, window.col + col, int(rows[-1]) - row + 1, int(cols[-1]) - col + 1)
        grid = window_grid(stack.grid, window.window)
        cube = Cube(
            stored=stored, observed=observed, days=days, bands=bands, grid=grid, scale=storage.scale, offset=storage.offset
        )
        return cube, box

    def _describe(self, task: EventTask, cube: Cube) -> ChangeEvent:
        box = task.box
        breaks = dense(
            task.near,
            box,
            cube.grid,
            first_day=int(cube.days[0]),
            last_day=int(cube.days[-1]),
            magnitude_of=task.magnitude_of,
            observations=(cube.observed == Observed.CLEAR).sum(axis=0).astype(np.int16),
        )
        rows, cols = (task.group.rows - box.row).astype(np.intp), (task.group.cols - box.col).astype(np.intp)
        group = PixelGroup(rows=rows, cols=cols, layers=task.group.layers.astype(np.intp))
        registration = self.job.registration
        return describe_event("-", group, breaks, cube, self.job.events, taken=task.taken, registration=registration)


def window_of(group: Nodes, shape: tuple[int, int]) -> Box:
    """The window in which an event is described, on a grid of that shape."""
    ends = np.array([group.rows.min(), group.rows.max()]), np.array([group.cols.min(), group.cols.max()])
    window = event_window(PixelGroup(rows=ends[0], cols=ends[1], layers=np.zeros(2, np.intp)), shape)
    return Box(int(window.row_off), int(window.col_off), int(window.height), int(window.width))


def event_task(
    keys: Keys,
    box: Box,
    group: Nodes,
    kept: Nodes,
    groups: Sequence[Nodes],
    magnitude_of: str,
    tiles: tuple[Box, ...] = (),
) -> EventTask:
    """The task of describing a group, given all breaks and all groups that reach into its window."""
    near = kept.take(box.holds(kept.rows, kept.cols))
    taken = np.zeros((box.rows, box.cols), bool)
    for other in groups:
        here = box.holds(other.rows, other.cols)
        taken[other.rows[here] - box.row, other.cols[here] - box.col] = True
    key = keys.event(box, group, near, taken, magnitude_of)
    return EventTask(key=key, box=box, group=group, near=near, taken=taken, magnitude_of=magnitude_of, tiles=tiles)


def _completed(known: Cube, window: Box, part: Cube, box: Box) -> Cube:
    """What is known of a window, with the part of it in `box` as it was read."""
    rows, cols = slice(box.row - window.row, box.row - window.row + box.rows), box.col - window.col
    here = rows, slice(cols, cols + box.cols)
    seen = np.isin(known.days, part.days)
    known.stored[(..., *here)][seen] = part.stored
    known.observed[(..., *here)][seen] = part.observed
    # On the other days no scene touches the box.
    known.observed[(..., *here)][~seen] = Observed.NOT_OBSERVED
    return known


def _blocks(
    tasks: Sequence[tuple[Box, EventTask, Cube | None]],
) -> list[tuple[Box, list[tuple[Box, EventTask, Cube | None]]]]:
    """Boxes joined while the joint one is at most one and a half times as large as a tile-sized block or they themselves are."""
    blocks: list[tuple[Box, list[tuple[Box, EventTask, Cube | None]]]] = []
    for entry in sorted(tasks, key=lambda entry: (entry[0], entry[1].key)):
        box = entry[0]
        for position, (block, members) in enumerate(blocks):
            row, col = min(block.row, box.row), min(block.col, box.col)
            rows = max(block.row + block.rows, box.row + box.rows) - row
            cols = max(block.col + block.cols, box.col + box.cols) - col
            if rows * cols <= max(600 * 600, 1.5 * block.rows * block.cols):
                blocks[position] = (Box(row, col, rows, cols), [*members, entry])
                break
        else:
            blocks.append((box, [entry]))
    return blocks


def merged_event(parts: Sequence[tuple[int, ChangeEvent]], group: Nodes, interval_share: float) -> ChangeEvent:
    """One event from the descriptions of its parts (pixels, event), for those too large to be looked at in one window.

    Interval: the last day that is still old, and the first that is new, for the parts that make up `interval_share` of the
    pixels. Area: the sum, errors added up as if fully dependent. Indices and confidence: means over pixels, errors likewise.
    Counts of clear dates: the least. What has no mean (cover, blind periods) is that of the largest part.
    """
    order = sorted(range(len(parts)), key=lambda k: (-parts[k][0], parts[k][1].last_clear_before, k))
    main = parts[order[0]][1]
    weight = np.array([count for count, _ in parts], np.float64)
    weight /= weight.sum()
    events = [event for _, event in parts]

    def quantile(days: list[date], share: float) -> date:
        ranked = sorted(zip(days, weight.tolist(), strict=True))
        total = np.cumsum([w for _, w in ranked])
        return ranked[min(int(np.searchsorted(total, share - 1e-12)), len(ranked) - 1)][0]

    def mean(values: list[float]) -> float:
        return float(np.dot(weight, values))

    before = quantile([e.last_clear_before for e in events], 1 - interval_share)
    after = max(before, quantile([e.first_clear_after for e in events], interval_share))
    middle = min(max(quantile([e.break_date for e in events], 0.5), before), after)
    names = sorted(set.intersection(*({c.name for c in e.indices} for e in events)))
    indices = []
    for name in names:
        own = [next(c for c in e.indices if c.name == name) for e in events]
        sides = {}
        for side in ("before", "after"):
            quantities = [getattr(c, side) for c in own]
            errors = [q.standard_uncertainty for q in quantities]
            error = None if None in errors else mean(errors)
            sides[side] = replace(quantities[0], value=mean([q.value for q in quantities]), standard_uncertainty=error)
        indices.append(replace(own[0], **sides))
    uncertainties = [e.area.standard_uncertainty or 0.0 for e in events]
    return replace(
        main,
        polygon=_plain_geometry(shapely.union_all([shapely.geometry.shape(e.polygon) for e in events])),
        last_clear_before=before,
        first_clear_after=after,
        break_date=middle,
        area=replace(
            main.area,
            value=sum(e.area.value for e in events),
            standard_uncertainty=sum(uncertainties),
            propagation="satellite.area_propagation_parts",
        ),
        outlined=sum(e.outlined for e in events),
        area_parts={name: sum(e.area_parts[name] for e in events) for name in main.area_parts},
        magnitude=float(np.median(group.values["magnitude"])),
        score=float(np.median(group.values["score"])),
        confidence=mean([e.confidence for e in events]),
        agreement=mean([e.agreement for e in events]),
        direction_agreement=mean([e.direction_agreement for e in events]),
        clear_before=min(e.clear_before for e in events),
        clear_after=min(e.clear_after for e in events),
        longest_gap_days=max(e.longest_gap_days for e in events),
        indices=tuple(indices),
        water_level=any(e.water_level for e in events),
    )


def _plain_geometry(geometry: Any) -> dict[str, Any]:
    # Where parts met, points are left on straight edges.
    merged = shapely.orient_polygons(shapely.normalize(shapely.simplify(shapely.normalize(geometry), 0.0)))
    return json.loads(shapely.to_geojson(merged))


# Records --------------------------------------------------------------------------------------------------------------


def event_json(event: ChangeEvent) -> bytes:
    """The facts of an event as JSON, without its name and its pixels, which stand elsewhere."""
    return json.dumps(_plain(replace(event, id="-", pixels=())), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def event_from(data: bytes, identity: str, group: Nodes) -> ChangeEvent:
    """The event of a record and its pixels. Raises FormatError."""
    raw = canonical.loads(data, where="event", allow_floats=True)
    try:
        event = _typed(ChangeEvent, raw)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise FormatError("satellite.scan_file_damaged", path="event", reason=f"{type(error).__name__}: {error}") from error
    pixels = tuple(zip(group.rows.tolist(), group.cols.tolist(), strict=True))
    return replace(event, id=identity, pixels=pixels)


def _plain(value: Any) -> Any:
    kind = type(value)  # most values are of few kinds, and asking for these first is many times faster
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if kind is list or kind is tuple:
        return [_plain(part) for part in value]
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.generic) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(hint: Any, raw: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        hints = _hints(hint)  # type: ignore[arg-type]
        if set(raw) != set(hints):
            raise ValueError(f"fields of {hint}")
        return hint(**{name: _typed(each, raw[name]) for name, each in hints.items()})  # type: ignore[operator]
    if origin in (UnionType, Union):
        return None if raw is None else _typed(next(part for part in parts if part is not type(None)), raw)
    if origin is tuple:
        return tuple(_typed(parts[0], each) for each in raw)
    if origin is not None and issubclass(origin, Mapping):
        return {name: _typed(parts[1], each) for name, each in raw.items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(raw)
    if hint is date:
        return date.fromisoformat(raw)
    if hint is float:
        return float(raw)
    if hint in (int, str, bool):
        if type(raw) is not hint:
            raise ValueError(f"{raw!r} is no {hint.__name__}")
        return raw
    if hint is Any:
        return raw
    raise TypeError(str(hint))
