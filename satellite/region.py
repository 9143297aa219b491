"""A region, tile by tile, from scenes to a ranked queue of events: restartable, incremental, the same bytes in any order.

In: a `ScanRequest` and an output folder. Out: the files of docs/formats/scan.md. Each tile is one fused task (`fused.py`) done
by a crew (`scan.py`); this process alone writes, each file whole or not at all, and keeps a result as long as the
digest of all it depends on stays the same. Killed at any moment, the next run goes on; nothing is done twice or lost.
A tile that cannot be done is listed as failed and never passes for unchanged.
"""

from __future__ import annotations

import calendar
import hashlib
import os
import re
import shutil
import tempfile
import tomllib
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

import numpy as np
import rasterio
from numpy.typing import NDArray

from geoevidence.errors import ConfigError, CoverageError, FormatError, InputError
from geoevidence.raster import Grid
from geoevidence.trust import canonical
from geoevidence.types import Message, Progress, decimal_text, no_progress
from satellite.events import Registration
from satellite.fused import (
    EventTask,
    Job,
    Keys,
    TileResult,
    code_digest,
    event_from,
    event_task,
    merged_event,
    scene_text,
    window_of,
)
from satellite.overlay import Datum, Layer, Region, division_codes, read_layer, read_region
from satellite.publish import ScanResult, publish
from satellite.queue import QueueConfig, write_atomically
from satellite.scan import Crew, Failure, worker_count
from satellite.scenes import read_scenes
from satellite.segment import require_history
from satellite.sparse import SUPPORT_REACH, Box, Nodes, grouped, joined, nodes_from, pack, unpack
from satellite.stack import Stack, tiles
from satellite.strips import strip_bytes
from satellite.types import ChangeEvent, Status
from satellite.workflow import MonitorConfig, _from_table, _parameters, _registration, _shifts, _stated


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """How a region is scanned. In TOML: the keys of `MonitorConfig`, a table `queue`, and a table `scan` with the rest.

    monitor: how scenes are read, changes found, events made. queue: how events are ranked.
    tile: side of a tile, pixels; a multiple of the blocks of the files, so that no block is decoded twice (512: COG default).
    event_pixels: events whose window holds more pixels are described in parts, tile by tile; bounds memory.
    """

    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    tile: int = 512
    event_pixels: int = 400_000

    def __post_init__(self) -> None:
        for name, low, high in (("tile", 1, 8192), ("event_pixels", 1, 10**8)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)

    def replace(self, *, tile: int | None = None, **monitor: Any) -> ScanConfig:
        """A copy with the side of a tile and fields of `MonitorConfig` changed; None leaves a field as it is."""
        changes = {name: value for name, value in monitor.items() if value is not None}
        return replace(self, tile=self.tile if tile is None else tile, monitor=self.monitor.replace(**changes))

    @classmethod
    def read(cls, path: Path) -> ScanConfig:
        """The configuration in a TOML file. Raises ConfigError."""
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError("satellite.bad_stack_file", path=Path(path).name, reason=str(error)) from error
        own = raw.pop("scan", {})
        known = {"tile", "event_pixels"}
        if not isinstance(own, dict) or set(own) - known:
            found = ", ".join(sorted(set(own) - known)) if isinstance(own, dict) else "scan"
            raise ConfigError("satellite.unknown_setting", name=found, known=", ".join(sorted(known)))
        for name, value in own.items():
            if type(value) is not int:
                raise ConfigError("satellite.setting_type", name=name, found=type(value).__name__)
        queue = raw.pop("queue", {})
        if not isinstance(queue, dict):
            raise ConfigError("satellite.setting_type", name="queue", found=type(queue).__name__)
        return cls(monitor=_from_table(MonitorConfig, raw), queue=_from_table(QueueConfig, queue), **own)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """What is asked of a scan.

    region: polygons to scan, or None for all of the scenes. scenes: folder or catalogue (docs/formats/scenes.md).
    until: month `YYYY-MM`; scenes after it are left aside. "" = all. datum: "gcj02" where region, masks, divisions and land
    are in GCJ-02. masks: layers of places not to report. reviews: status file of decisions, or None.
    divisions, division_field: polygons with GB/T 2260 codes. land, land_field: polygons with classes to learn precision by.
    capacity: how many events people can look at; None = no limit. evidence: for so many of the first events pictures and series
    are written. rasters: also write maps of status and date.
    """

    scenes: Path
    region: Path | None = None
    until: str = ""
    datum: Datum = "declared"
    masks: tuple[Path, ...] = ()
    reviews: Path | None = None
    divisions: Path | None = None
    division_field: str = "code"
    land: Path | None = None
    land_field: str = "class"
    capacity: int | None = None
    evidence: int = 0
    rasters: bool = False

    def __post_init__(self) -> None:
        if self.datum not in get_args(Datum):
            raise ConfigError("satellite.unknown_setting", name=f"datum = {self.datum}", known=", ".join(get_args(Datum)))
        for name in ("capacity", "evidence"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=0, high="-")


def month_end(text: str) -> date:
    """The last day of a month `YYYY-MM`. Raises ConfigError."""
    found = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", text)
    if not found or not int(found[1]):
        raise ConfigError("satellite.scan_bad_month", found=text)
    year, month = int(found[1]), int(found[2])
    return date(year, month, calendar.monthrange(year, month)[1])


def scan_region(
    request: ScanRequest,
    *,
    out: Path,
    config: ScanConfig | None = None,
    workers: int | None = None,
    cluster: str = "",
    progress: Progress = no_progress,
) -> ScanResult:
    """Scan a region and leave the files of docs/formats/scan.md in `out`, where an earlier scan may lie.

    Args:
        out: made if missing. What earlier runs left is used where its inputs are still the same.
        workers: processes on this machine, one thread each; 1 = no further process. None = as many as processors and memory allow.
        cluster: address of an existing Dask cluster, such as tcp://host:8786; "" = this machine.
        progress: told the stage and the fraction done.

    Returns:
        What was done. Failed tiles do not raise: they are listed, and everything else is there.

    Raises:
        InputError, ConfigError: see `read_scenes`, `read_layer`. CoverageError: the region lies outside the data.
        HistoryTooShortError. OSError: the folder cannot be written; what stands there is whole, and the next run goes on.
    """
    config = config or ScanConfig()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with _only_one(out), rasterio.Env(GDAL_CACHEMAX=_BLOCK_CACHE):
        progress("satellite.stage_scenes", 0.0)
        stack = read_scenes(request.scenes, _stated(config.monitor))
        if request.until:
            end = month_end(request.until)
            scenes = tuple(scene for scene in stack.scenes if scene.acquired is None or scene.acquired <= end)
            stack = replace(stack, scenes=scenes)
            if not stack.usable:
                raise CoverageError("satellite.scan_nothing_until", until=request.until)
        require_history(np.array([day.toordinal() for day in stack.days], np.int32), config.monitor.breaks)
        layers = Layers.read(request, stack.grid)
        strips = _strips_folder(out, stack, config.tile)
        job = Job(
            stack=stack,
            breaks=config.monitor.breaks,
            events=config.monitor.events,
            region=layers.region,
            registration=_registered(out, stack, config.monitor),
            parameters={
                "breaks": _parameters(config.monitor.breaks),
                "events": _parameters(config.monitor.events),
                "stack": _parameters(stack.spec),
            },
            strips=strips,
        )
        count = worker_count(workers, stack, config.tile) if not cluster else 0
        try:
            with Crew(job, workers=count, address=cluster) as crew:
                scan = _Scan(out, config, job, crew, progress)
                scan.run()
        finally:
            shutil.rmtree(out / _STRIPS, ignore_errors=True)
        return publish(scan.found(), request, layers, progress)


_BLOCK_CACHE = 256_000_000
"""Memory for decoded blocks of files, bytes, instead of a twentieth of the machine's."""
_STRIPS, _STRIPS_SHARE = ".strips", 0.25
"""Folder of what tiles keep of their edges, and the share of the free disk that it may take."""


def _strips_folder(out: Path, stack: Stack, size: int) -> Path | None:
    """A new folder for `strips.py`, without what a killed run left; None where the strips of all tiles would not fit.

    Its name is that of this run alone: a machine of a cluster that does not see it must not find another in its place.
    """
    folder = (out / _STRIPS).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    pixel = len(stack.days) * (len(stack.spec.bands) * np.dtype(stack.storage.dtype).itemsize + 1)
    boxes = (Box(int(w.row_off), int(w.col_off), int(w.height), int(w.width)) for w in tiles(stack, size))
    if sum(strip_bytes(box, stack.grid.shape, pixel) for box in boxes) > _STRIPS_SHARE * shutil.disk_usage(out).free:
        return None
    folder.mkdir()
    return Path(tempfile.mkdtemp(dir=folder))


def _registered(out: Path, stack: Stack, config: MonitorConfig) -> Registration | None:
    """How well the scenes lie on each other, measured once for each list of scenes and kept in `registration.json`."""
    scenes = "\n".join(scene_text(scene) for scene in stack.usable)
    asked = f"{code_digest('coregistration')}\n{_parameters(config.registration)}\n{_parameters(stack.spec)}\n{scenes}"
    key = hashlib.sha256(asked.encode()).hexdigest()
    path = out / "registration.json"
    try:
        record = canonical.loads(path.read_bytes(), where=path.name)
        if record["key"] == key:
            found = None if record["sd_pixels"] is None else float(record["sd_pixels"])
            return None if found is None else Registration(sd_pixels=found, dates=int(record["dates"]))
    except (FileNotFoundError, FormatError, KeyError, TypeError, ValueError):
        pass  # not there, not whole, or of other scenes: measured now
    lies = _registration(_shifts(stack, config, 1))
    record = {
        "key": key,
        "sd_pixels": None if lies is None else decimal_text(lies.sd_pixels),
        "dates": 0 if lies is None else lies.dates,
    }
    write_atomically(path, canonical.dumps(record) + b"\n")
    return lies


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """One scan at a time works on a folder; a killed one does not block the next."""
    try:
        import fcntl
    except ImportError:  # a system without such locks: two scans at once are the user's care
        yield
        return
    handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("satellite.scan_busy", path=out.name) from error
        yield
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layers:
    """The polygons of a request on the grid."""

    region: Region | None
    masks: tuple[Layer, ...]
    divisions: Layer | None
    land: Layer | None

    @classmethod
    def read(cls, request: ScanRequest, grid: Grid) -> Layers:
        crs, datum = grid.crs, request.datum
        divisions = land = None
        if request.divisions is not None:
            divisions = read_layer(request.divisions, crs=crs, field=request.division_field, datum=datum)
            division_codes(divisions)
        if request.land is not None:
            land = read_layer(request.land, crs=crs, field=request.land_field, datum=datum)
        names = [Path(path).name for path in request.masks]
        if len(set(names)) != len(names):
            raise ConfigError("satellite.layer_twice", path=next(name for name in names if names.count(name) > 1))
        return cls(
            region=None if request.region is None else read_region(request.region, grid, datum=datum),
            masks=tuple(read_layer(path, crs=crs, datum=datum) for path in request.masks),
            divisions=divisions,
            land=land,
        )

    def records(self) -> list[dict[str, Any]]:
        """What was brought, for the record of the run."""
        named = [("mask", layer) for layer in self.masks]
        named += [(role, layer) for role, layer in (("divisions", self.divisions), ("land", self.land)) if layer is not None]
        return [{"role": role, "name": layer.name, "sha256": layer.sha256, "gcj02": layer.gcj02} for role, layer in named]


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A tile: its place in the raster of tiles and on the grid."""

    row: int
    col: int
    box: Box

    @property
    def name(self) -> str:
        return f"r{self.row:05d}/c{self.col:05d}"


def _tiles_of_region(job: Job, size: int) -> list[Tile]:
    windows = [Box(int(w.row_off), int(w.col_off), int(w.height), int(w.width)) for w in tiles(job.stack, size)]
    rows = {row: number for number, row in enumerate(sorted({box.row for box in windows}))}
    cols = {col: number for number, col in enumerate(sorted({box.col for box in windows}))}
    found = [Tile(rows[box.row], cols[box.col], box) for box in windows]
    region = job.region
    return [tile for tile in found if region is None or region.of_box(job.stack.grid, tile.box) is not None]


class Neighbours:
    """Which tiles a window touches."""

    def __init__(self, all_: Sequence[Tile]) -> None:
        self._at = {(tile.row, tile.col): tile for tile in all_}
        self._rows = sorted({(tile.box.row, tile.row) for tile in all_})
        self._cols = sorted({(tile.box.col, tile.col) for tile in all_})

    def of(self, box: Box) -> list[Tile]:
        """Those tiles, in order."""
        spans = []
        for edges, start, length in ((self._rows, box.row, box.rows), (self._cols, box.col, box.cols)):
            first = max(bisect_right(edges, start, key=lambda edge: edge[0]) - 1, 0)
            last = bisect_left(edges, start + length, key=lambda edge: edge[0])
            spans.append([number for _, number in edges[first:last]])
        return [self._at[row, col] for row in spans[0] for col in spans[1] if (row, col) in self._at]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scanned:
    """What a run found, before anything is made of it.

    tiles: of the region. heads: of the files of the tiles that are done. settled: their breaks. status: gives (y, x) `Status`
    of a tile that is done. events: not named yet. left_over: changed pixels in groups too small for an event.
    computed: tiles done in this run. damaged: names of files made again. failed: what could not be done, with the reason.
    """

    out: Path
    config: ScanConfig
    job: Job
    keys: Keys
    tiles: tuple[Tile, ...]
    heads: Mapping[str, Mapping[str, Any]]
    settled: Mapping[str, Nodes]
    status: Callable[[Tile], NDArray[np.uint8]]
    events: tuple[ChangeEvent, ...]
    left_over: int
    computed: int
    damaged: tuple[str, ...]
    failed: Mapping[str, Message]

    @property
    def done(self) -> tuple[Tile, ...]:
        """Tiles with a result."""
        return tuple(tile for tile in self.tiles if tile.name in self.heads)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A group of breaks over all tiles, with the tasks that describe it (several for one that is too large for one window)."""

    group: Nodes
    tasks: tuple[EventTask, ...]


class _Scan:
    """One run, stage by stage."""

    def __init__(self, out: Path, config: ScanConfig, job: Job, crew: Crew, progress: Progress) -> None:
        self._out, self._config, self._job, self._crew, self._progress = out, config, job, crew, progress
        self._grid = job.stack.grid
        self._keys = Keys(job)
        self._tiles = _tiles_of_region(job, config.tile)
        self._near = Neighbours(self._tiles)
        self._heads: dict[str, dict[str, Any]] = {}
        self._settled: dict[str, Nodes] = {}
        self._computed = 0
        self._damaged: set[str] = set()
        self._failed: dict[str, Message] = {}
        self._read = OrderedDict[str, tuple[Nodes, NDArray[np.uint8]]]()
        self._events: list[ChangeEvent] = []
        self._left_over = 0

    def run(self) -> None:
        """All that needs a crew."""
        self._sweep()
        self._scan_tiles()
        self._settle_tiles()
        found, self._left_over = self._group()
        self._events = self._describe(found)

    def found(self) -> Scanned:
        """What came out."""
        return Scanned(
            out=self._out,
            config=self._config,
            job=self._job,
            keys=self._keys,
            tiles=tuple(self._tiles),
            heads=self._heads,
            settled=self._settled,
            status=self._final_status,
            events=tuple(self._events),
            left_over=self._left_over,
            computed=self._computed,
            damaged=tuple(sorted(self._damaged)),
            failed=dict(sorted(self._failed.items())),
        )

    def _sweep(self) -> None:
        """Remove what a killed run left half written."""
        for pattern in (".part-*", "tiles/*/.part-*", "events/*/.part-*", "history/.part-*", "evidence/.*"):
            for path in self._out.glob(pattern):
                path.unlink()

    def _path(self, kind: str, tile: Tile) -> Path:
        return self._out / kind / f"{tile.name}.scan"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)

    def _stage(self, stage: str, start: float, stop: float, done: int, total: int) -> None:
        self._progress(stage, start + (stop - start) * done / max(total, 1))

    # Tiles

    def _scan_tiles(self) -> None:
        todo: list[Tile] = []
        for number, tile in enumerate(self._tiles):
            self._stage("satellite.stage_verify", 0.0, 0.02, number, len(self._tiles))
            head = self._kept(tile)
            if head is None:
                todo.append(tile)
            else:
                self._heads[tile.name] = head
        items = ((tile, (tile.box,)) for tile in todo)
        for number, (tile, result) in enumerate(self._crew.run("scan_tile", items), start=1):
            if isinstance(result, Failure):
                self._failed[tile.name] = result.reason
            else:
                self._keep(tile, result)
            self._stage("satellite.stage_tiles", 0.02, 0.85, number, len(todo))

    def _kept(self, tile: Tile) -> dict[str, Any] | None:
        """Head of the file of a tile when it is whole and still what would come out; else None."""
        path = self._path("tiles", tile)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            head, _ = unpack(data, where=f"tiles/{tile.name}.scan")
        except FormatError:
            self._damaged.add(f"tiles/{tile.name}.scan")
            return None
        return head if head.get("key") == self._keys.tile(tile.box) else None

    def _keep(self, tile: Tile, result: TileResult) -> None:
        # Events first: were the tile there without them, they would be described a second time.
        self._write_records(tile, {**self._records(tile), **result.records})
        self._write(self._path("tiles", tile), result.file)
        self._heads[tile.name] = unpack(result.file, where=tile.name)[0]
        self._computed += 1

    def _records(self, tile: Tile) -> dict[str, bytes]:
        """Key -> record of the events described for a tile; none where the file is missing or damaged."""
        path = self._path("events", tile)
        try:
            head, arrays = unpack(path.read_bytes(), where=f"events/{tile.name}.scan")
            lines = arrays["records"].tobytes().split(b"\n")
            return dict(zip(head["keys"], lines, strict=True)) if head["keys"] else {}
        except FileNotFoundError:
            return {}
        except (FormatError, KeyError, ValueError):
            self._damaged.add(f"events/{tile.name}.scan")
            return {}

    def _write_records(self, tile: Tile, records: Mapping[str, bytes]) -> None:
        path = self._path("events", tile)
        if not records:
            path.unlink(missing_ok=True)
            return
        keys = sorted(records)
        text = np.frombuffer(b"\n".join(records[key] for key in keys), np.uint8)
        data = pack({"format": "geoevidence.scan-events.v1", "keys": keys}, {"records": text})
        if not path.is_file() or path.read_bytes() != data:
            self._write(path, data)

    def _load(self, tile: Tile) -> tuple[Nodes, NDArray[np.uint8]]:
        """Breaks before the support rule, and status, of a tile; the last few rows of tiles stay in memory."""
        if tile.name not in self._read:
            where = f"tiles/{tile.name}.scan"
            _, arrays = unpack(self._path("tiles", tile).read_bytes(), where=where)
            self._read[tile.name] = nodes_from(arrays, where=where), arrays["status"]
            width = 1 + max(other.col for other in self._tiles)
            while len(self._read) > 3 * width + 3:
                self._read.popitem(last=False)
        return self._read[tile.name]

    def _done(self) -> list[Tile]:
        return [tile for tile in self._tiles if tile.name in self._heads]

    # Breaks over tile edges

    def _settle_tiles(self) -> None:
        done = self._done()

        def items() -> Iterator[tuple[Tile, tuple[Any, ...]]]:
            for tile in done:
                nodes, _ = self._load(tile)
                if len(nodes):
                    yield tile, (tile.box, nodes, self._around(tile))
                else:
                    self._settled[tile.name] = nodes

        for number, (tile, result) in enumerate(self._crew.run("settle", items()), start=1):
            if isinstance(result, Failure):
                self._failed[tile.name] = result.reason
                del self._heads[tile.name]
            else:
                self._settled[tile.name] = result
            self._stage("satellite.stage_settle", 0.85, 0.88, number, len(done))

    def _around(self, tile: Tile) -> list[Nodes]:
        """The breaks of other tiles that the support rule can reach. Tiles may be narrower than its reach."""
        wide = tile.box.grown(SUPPORT_REACH)
        found = []
        for other in self._near.of(wide):
            if other is not tile and other.name in self._heads:
                nodes, _ = self._load(other)
                nodes = nodes.take(wide.holds(nodes.rows, nodes.cols))
                if len(nodes):
                    found.append(nodes)
        return found

    def _group(self) -> tuple[list[_Found], int]:
        """Groups of the whole region that are large enough, and how many changed pixels are in none."""
        events = self._config.monitor.events
        by_row: dict[int, list[Tile]] = {}
        for tile in self._done():
            by_row.setdefault(tile.row, []).append(tile)

        def bands() -> Iterator[tuple[int, Nodes]]:
            for _, members in sorted(by_row.items()):
                last_row = max(tile.box.row + tile.box.rows for tile in members) - 1
                yield last_row, joined([self._settled[tile.name] for tile in members])

        groups, left_over = [], 0
        for group in grouped(bands(), link_days=events.link_days):
            if len(group) >= events.min_pixels:
                groups.append(group)
            else:
                left_over += len(group)
        groups.sort(key=lambda g: (int(g.values["break_date"].min()), int(g.rows[0]), int(g.cols[0])))
        return self._with_tasks(groups), left_over

    def _with_tasks(self, groups: Sequence[Nodes]) -> list[_Found]:
        in_tile: dict[str, list[Nodes]] = {}
        for group in groups:
            for tile in self._tiles_of(group):
                in_tile.setdefault(tile.name, []).append(group)
        names = {head["magnitude_of"] for head in self._heads.values() if head["magnitude_of"]}
        magnitude_of = min(names, default="")
        found = []
        for group in groups:
            parts = [group]
            window = window_of(group, self._grid.shape)
            if window.rows * window.cols > self._config.event_pixels:
                parts = [group.take(tile.box.holds(group.rows, group.cols)) for tile in self._tiles_of(group)]
            tasks = []
            for part in parts:
                box = window_of(part, self._grid.shape)
                near = [tile for tile in self._near.of(box) if tile.name in self._settled]
                inside = [self._settled[tile.name] for tile in near]
                kept = joined([nodes.take(box.holds(nodes.rows, nodes.cols)) for nodes in inside])
                others = {id(other): other for tile in near for other in in_tile.get(tile.name, [])}
                touched = tuple(tile.box for tile in near)
                tasks.append(event_task(self._keys, box, part, kept, list(others.values()), magnitude_of, touched))
            found.append(_Found(group, tuple(tasks)))
        return found

    def _tiles_of(self, group: Nodes) -> list[Tile]:
        row, col = int(group.rows.min()), int(group.cols.min())
        box = Box(row, col, int(group.rows.max()) - row + 1, int(group.cols.max()) - col + 1)
        return [tile for tile in self._near.of(box) if tile.box.holds(group.rows, group.cols).any()]

    # Events

    def _home(self, task: EventTask) -> Tile:
        """The tile whose file holds the record: that of the first pixel."""
        first = Box(int(task.group.rows[0]), int(task.group.cols[0]), 1, 1)
        return self._near.of(first)[0]

    def _describe(self, found: Sequence[_Found]) -> list[ChangeEvent]:
        """The events, described where no record of earlier work holds them; those that cannot be described are failed."""
        wanted: dict[str, list[EventTask]] = {}
        for each in found:
            for task in each.tasks:
                wanted.setdefault(self._home(task).name, []).append(task)
        homes = {tile.name: tile for tile in self._tiles}
        records: dict[str, bytes] = {}
        todo: dict[str, list[EventTask]] = {}
        for name, tasks in sorted(wanted.items()):
            kept = self._records(homes[name])
            records |= {task.key: kept[task.key] for task in tasks if task.key in kept}
            if missing := [task for task in tasks if task.key not in kept]:
                todo[name] = missing
        items = ((name, (tasks,)) for name, tasks in todo.items())
        for number, (name, result) in enumerate(self._crew.run("describe", items), start=1):
            if isinstance(result, Failure):
                self._failed[f"events/{name}"] = result.reason
            else:
                records |= result
                # Kept at once: a run that is killed now need not read this window again.
                self._write_records(homes[name], {**self._records(homes[name]), **result})
            self._stage("satellite.stage_describe", 0.88, 0.97, number, len(todo))
        for name, tile in homes.items():
            mine = {task.key: records[task.key] for task in wanted.get(name, []) if task.key in records}
            if mine or self._path("events", tile).exists():
                self._write_records(tile, mine)
        events = []
        for each in found:
            if all(task.key in records for task in each.tasks):
                parts = [(len(task.group), event_from(records[task.key], "-", task.group)) for task in each.tasks]
                event = (
                    parts[0][1]
                    if len(parts) == 1
                    else merged_event(parts, each.group, self._config.monitor.events.interval_share)
                )
                pixels = tuple(zip(each.group.rows.tolist(), each.group.cols.tolist(), strict=True))
                events.append(replace(event, pixels=pixels))
        return events

    def _final_status(self, tile: Tile) -> NDArray[np.uint8]:
        """(y, x) `Status` of a tile after the support rule."""
        _, status = self._load(tile)
        kept = self._settled[tile.name]
        status = np.where(status == Status.CHANGE, np.uint8(Status.NO_CHANGE), status).astype(np.uint8)
        status[kept.rows - tile.box.row, kept.cols - tile.box.col] = Status.CHANGE
        return status
