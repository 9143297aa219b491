"""Monitoring states on disk: one file a tile in a closed format, and the runs that start, update and compare a folder of them.

In: a stack of scenes and a folder. Out: tile files, replaced whole or not at all. A run that is killed leaves every tile
either as it was or updated; the next one goes on. Bytes: docs/formats/alerts.md. Nothing here decides about a pixel.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.windows import Window

from geoevidence.crs import parse_crs
from geoevidence.errors import ConfigError, CoverageError, FormatError, GridMismatchError, HistoryTooShortError, InputError
from geoevidence.raster import Grid
from geoevidence.trust import canonical
from geoevidence.types import Progress, decimal_text, decimal_value, no_progress, require
from satellite import alert_kernels as kernels
from satellite.alert_report import AlertMoves, compare_alerts
from satellite.alerts import (
    MODEL_VERSION,
    AlertConfig,
    Outcome,
    SceneName,
    TakenDate,
    TileState,
    array_layout,
    replay,
    start_monitoring,
    update,
)
from satellite.cube import read_block
from satellite.segment import BreakConfig, detect_breaks
from satellite.stack import Stack
from satellite.types import BreakMap, Cube, Observed

SCHEMA = "geoevidence/alert-state/1"
SUFFIX = ".alerts"
_MAGIC = b"GEOEVIDENCE ALERTS 1\n"
_MAX_HEADER = 64 * 1024 * 1024
_MAX_SIDE = 1 << 20
_EPOCH = date(1970, 1, 1).toordinal()
_KEYS = {
    "schema", "model", "config", "grid", "corner", "shape", "bands", "synthetic", "first_day", "last_day", "history", "with_breaks",
    "newest", "number", "dates", "journal",
}  # fmt: skip


# Bytes ----------------------------------------------------------------------------------------------------------------


def state_bytes(state: TileState) -> bytes:
    """The file of a state: magic, length of the header, header (RFC 8785), arrays, SHA-256 of all before it."""
    header = canonical.dumps(_header(state))
    layout = array_layout(state.shape, len(state.bands), state.config.window_looks, len(state.journal))
    parts = [_MAGIC, len(header).to_bytes(8, "little"), header]
    parts += [np.ascontiguousarray(getattr(state, name), kind).tobytes() for name, (kind, _) in layout.items()]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def _header(state: TileState) -> dict[str, Any]:
    def scene(each: SceneName) -> dict[str, Any]:
        return {"name": each.name, "sha256": each.sha256, "day": each.day}

    transform = state.whole.transform
    return {
        "schema": SCHEMA,
        "model": state.model_version,
        "config": state.config.to_parameters(),
        "grid": {
            "shape": list(state.whole.shape),
            "transform": [decimal_text(value) for value in tuple(transform)[:6]],
            "crs": state.whole.crs.to_wkt(),
        },
        "corner": list(state.corner),
        "shape": list(state.shape),
        "bands": list(state.bands),
        "synthetic": state.synthetic,
        "first_day": state.first_day,
        "last_day": state.last_day,
        "history": [scene(each) for each in state.history],
        "with_breaks": state.with_breaks,
        "newest": state.newest,
        "number": state.number,
        "dates": [
            {
                "day": taken.day,
                "outcome": taken.outcome.value,
                "scenes": [scene(each) for each in taken.scenes],
                "failed": list(taken.failed),
                "counts": list(taken.counts),
            }
            for taken in state.dates
        ],
        "journal": len(state.journal),
    }


def parse_state(data: bytes, *, name: str) -> TileState:
    """The state in the bytes of a file; every byte is accounted for. Raises FormatError."""

    def broken(reason: str) -> FormatError:
        return FormatError("satellite.alert_file", path=name, reason=reason)

    if not data.startswith(_MAGIC):
        raise broken("magic")
    start = len(_MAGIC) + 8
    if len(data) < start + 32 or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise broken("SHA-256")
    length = int.from_bytes(data[len(_MAGIC) : start], "little")
    if length > min(_MAX_HEADER, len(data) - start - 32):
        raise broken("header")
    head = canonical.loads_canonical(data[start : start + length], where=name, max_bytes=_MAX_HEADER)
    if not isinstance(head, dict) or set(head) != _KEYS or head["schema"] != SCHEMA:
        raise broken("schema")
    try:
        values = _plain_fields(head, name)
        layout = array_layout(values["shape"], len(values["bands"]), values["config"].window_looks, _count(head, "journal", name))
        expected = sum(np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64)) for kind, shape in layout.values())
        if len(data) != start + length + expected + 32:
            raise broken("size")
        position = start + length
        for field, (kind, shape) in layout.items():
            size = int(np.prod(shape, dtype=np.int64))
            values[field] = np.frombuffer(data, kind, size, position).reshape(shape).astype(np.dtype(kind).newbyteorder("="))
            position += size * np.dtype(kind).itemsize
        state = TileState(**values)
    except ValueError as error:
        raise broken(str(error)) from error
    _check_arrays(state, broken)
    return state


def _count(table: Mapping[str, Any], key: str, where: str, low: int = 0, high: int = canonical.MAX_INTEGER) -> int:
    value = require(table, key, int, where)
    if isinstance(value, bool) or not low <= value <= high:
        raise FormatError("satellite.alert_file", path=where, reason=f"{key}: {value}")
    return int(value)


def _pair(table: Mapping[str, Any], key: str, where: str, low: int) -> tuple[int, int]:
    values = require(table, key, list, where)
    if len(values) != 2 or any(type(value) is not int or not low <= value <= _MAX_SIDE for value in values):
        raise FormatError("satellite.alert_file", path=where, reason=f"{key}: {values}"[:200])
    return values[0], values[1]


def _scene(raw: Any, where: str) -> SceneName:
    if not isinstance(raw, dict) or set(raw) != {"name", "sha256", "day"}:
        raise FormatError("satellite.alert_file", path=where, reason="scene")
    name, sha256 = require(raw, "name", str, where), require(raw, "sha256", str, where)
    return SceneName(name=name, sha256=sha256, day=_count(raw, "day", where, -(10**6), 10**6))


def _taken(raw: Any, where: str) -> TakenDate:
    if not isinstance(raw, dict) or set(raw) != {"day", "outcome", "scenes", "failed", "counts"}:
        raise FormatError("satellite.alert_file", path=where, reason="date")
    counts = require(raw, "counts", list, where)
    failed = require(raw, "failed", list, where)
    if raw["outcome"] not in set(Outcome) or len(counts) != len(Observed) or not all(type(n) is int and n >= 0 for n in counts):
        raise FormatError("satellite.alert_file", path=where, reason="date")
    if not all(isinstance(each, str) for each in failed):
        raise FormatError("satellite.alert_file", path=where, reason="failed")
    return TakenDate(
        day=_count(raw, "day", where, -(10**6), 10**6),
        outcome=Outcome(raw["outcome"]),
        scenes=tuple(_scene(each, where) for each in require(raw, "scenes", list, where)),
        failed=tuple(failed),
        counts=tuple(counts),
    )


def _plain_fields(head: Mapping[str, Any], name: str) -> dict[str, Any]:
    grid = require(head, "grid", dict, name)
    bands = require(head, "bands", list, name)
    if set(grid) != {"shape", "transform", "crs"} or not 1 <= len(bands) <= 64 or not all(isinstance(b, str) for b in bands):
        raise FormatError("satellite.alert_file", path=name, reason="grid, bands")
    numbers = [decimal_value(text, name) for text in require(grid, "transform", list, name)]
    if len(numbers) != 6:
        raise FormatError("satellite.alert_file", path=name, reason="transform")
    whole = Grid(shape=_pair(grid, "shape", name, 1), transform=Affine(*numbers), crs=parse_crs(require(grid, "crs", str, name)))
    corner, shape = _pair(head, "corner", name, 0), _pair(head, "shape", name, 1)
    if corner[0] + shape[0] > whole.shape[0] or corner[1] + shape[1] > whole.shape[1]:
        raise FormatError("satellite.alert_file", path=name, reason="corner, shape")
    day = {key: _count(head, key, name, -(10**6), 10**6) for key in ("first_day", "last_day", "newest")}
    return {
        "config": AlertConfig.from_parameters(require(head, "config", dict, name)),
        "model_version": require(head, "model", str, name),
        "whole": whole,
        "corner": corner,
        "shape": shape,
        "bands": tuple(bands),
        "synthetic": require(head, "synthetic", bool, name),
        **day,
        "history": tuple(_scene(each, name) for each in require(head, "history", list, name)),
        "with_breaks": require(head, "with_breaks", bool, name),
        "number": _count(head, "number", name),
        "dates": tuple(_taken(each, name) for each in require(head, "dates", list, name)),
    }


def _check_arrays(state: TileState, broken: Any) -> None:
    """Values that the kernels index with lie in their ranges, whatever wrote the file."""
    span = state.newest - state.first_day
    held = state.record[..., kernels.HELD]
    days = state.window[..., 0]
    order = np.arange(state.config.window_looks) < held[..., None]
    if not (state.record[..., kernels.STATE] >= 0).all() or not (state.record[..., kernels.STATE] <= kernels.WITHDRAWN).all():
        raise broken("state")
    if (held < 0).any() or (held > state.config.window_looks).any() or not state.first_day <= state.last_day <= state.newest:
        raise broken("record")
    if ((days < 0) & order).any() or ((days > span) & order).any() or (order[..., 1:] & (np.diff(days, axis=-1) <= 0)).any():
        raise broken("window")


def write_state(path: Path, state: TileState) -> str:
    """Put the state at `path` whole or not at all; returns the SHA-256 of the file. Raises OSError."""
    data = state_bytes(state)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if os.name != "nt":
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the new name too
        finally:
            os.close(folder)
    return hashlib.sha256(data).hexdigest()


def read_state(path: Path) -> TileState:
    """The state in a tile file. Raises FormatError when it cannot be read or any byte of it is not as the format says."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error
    return parse_state(data, name=path.name)


# Folders --------------------------------------------------------------------------------------------------------------


def state_files(folder: Path) -> tuple[Path, ...]:
    """The tile files of a folder, sorted by name. Raises InputError when there is none."""
    found = tuple(sorted(path for path in Path(folder).glob(f"*{SUFFIX}") if path.is_file() and not path.name.startswith(".")))
    if not found:
        raise InputError("satellite.alert_no_state", path=Path(folder).name)
    return found


def read_alert_states(folder: Path) -> tuple[TileState, ...]:
    """The states of all tiles of a folder, by corner. Raises InputError, FormatError."""
    return tuple(sorted((read_state(path) for path in state_files(folder)), key=lambda state: state.corner))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one run at a time works on a folder; the lock goes with the process. Raises InputError."""
    if os.name == "nt":
        yield
        return
    import fcntl

    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError("satellite.alert_busy", path=folder.name) from error
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderRun:
    """What a run did. tiles: in the folder; written: of them. dates: (corner of the tile, what became of a date), in the order of
    tiles and days. changed: scenes whose bytes are others now than those taken; they were not taken again."""

    tiles: int
    written: int
    dates: tuple[tuple[tuple[int, int], TakenDate], ...]
    changed: tuple[str, ...]


def _windows(grid: Grid, tile: int) -> list[tuple[int, int, int, int]]:
    rows, cols = grid.shape
    return [(r, c, min(tile, rows - r), min(tile, cols - c)) for r in range(0, rows, tile) for c in range(0, cols, tile)]


def _window(row: int, col: int, rows: int, cols: int) -> Window:
    return Window(col, row, cols, rows)  # type: ignore[call-arg]


def _day(value: date | None) -> int:
    assert value is not None, "a usable scene has a date"
    return value.toordinal() - _EPOCH


def _names(stack: Stack) -> tuple[SceneName, ...]:
    return tuple(SceneName(name=scene.name, sha256=scene.sha256, day=_day(scene.acquired)) for scene in stack.usable)


def _part(stack: Stack, keep: Sequence[SceneName]) -> Stack:
    """The stack of some of its scenes."""
    wanted = {(each.name, each.day) for each in keep}
    return replace(stack, scenes=tuple(scene for scene in stack.usable if (scene.name, _day(scene.acquired)) in wanted))


def _breaks_of(cube: Cube, config: BreakConfig, threads: int) -> BreakMap | None:
    """The breaks of a history; None where not one look of it is clear."""
    try:
        return detect_breaks(cube, config, threads=threads)
    except CoverageError:
        return None


def start_alerts(
    stack: Stack,
    folder: Path,
    config: AlertConfig,
    *,
    until: date | None = None,
    breaks: BreakConfig | None = None,
    tile: int = 512,
    threads: int = 2,
    progress: Progress = no_progress,
) -> FolderRun:
    """Start monitoring an area: one state file a tile of `tile` x `tile` pixels in a new or empty folder.

    Args:
        until: last day of the history, None: all. breaks: how the last break of each pixel of the history is found.

    Raises:
        InputError: the folder holds states already. HistoryTooShortError, CoverageError.
    """
    if tile < 1:
        raise ConfigError("satellite.setting_out_of_range", name="tile", value=tile, low=1, high=_MAX_SIDE)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [each for each in _names(stack) if until is None or each.day <= _day(until)]
    if not names:
        raise HistoryTooShortError("satellite.history_too_short", days=0, needed=config.min_history_days, scenes=0)
    history = _part(stack, names)
    with _alone(folder):
        if any(folder.glob(f"*{SUFFIX}")):
            raise InputError("satellite.alert_state_there", path=folder.name)
        windows = _windows(stack.grid, tile)
        for done, (row, col, rows, cols) in enumerate(windows):
            progress("satellite.stage_alerts_start", done / len(windows))
            cube = read_block(history, _window(row, col, rows, cols), threads=threads)
            state = start_monitoring(
                cube,
                config,
                breaks=_breaks_of(cube, breaks or BreakConfig(), threads),
                scenes=names,
                whole=stack.grid,
                corner=(row, col),
                synthetic=stack.spec.synthetic,
                threads=threads,
            )
            write_state(folder / f"tile_{row:06d}_{col:06d}{SUFFIX}", state)
    progress("satellite.stage_alerts_start", 1.0)
    return FolderRun(tiles=len(windows), written=len(windows), dates=(), changed=())


def update_alerts(
    stack: Stack, folder: Path, *, until: date | None = None, batch: int = 8, threads: int = 2, progress: Progress = no_progress
) -> FolderRun:
    """Take what is new in a stack, date by date in order of time, into every tile; scenes that are known are not read.

    Args:
        until: last day taken, None: all. batch: dates read at once; the result does not depend on it.

    Raises:
        InputError: no state here, or another run works on it. FormatError: a tile file is damaged.
        GridMismatchError: the stack has another grid or other bands. ConfigError: made by another model version.
    """
    folder = Path(folder)
    names = [each for each in _names(stack) if until is None or each.day <= _day(until)]
    dates: list[tuple[tuple[int, int], TakenDate]] = []
    changed: set[str] = set()
    written = 0
    with _alone(folder):
        paths = state_files(folder)
        for done, path in enumerate(paths):
            progress("satellite.stage_alerts_update", done / len(paths))
            state = read_state(path)
            _require_fit(state, stack, path.name)
            changed |= _changed(state, names, stack)
            known = {(each.name, each.day) for each in _recorded(state)} | {(each.sha256, each.day) for each in _recorded(state)}
            new = [each for each in names if (each.name, each.day) not in known and (each.sha256, each.day) not in known]
            before = len(state.dates)
            days = sorted({each.day for each in new})
            for first in range(0, len(days), batch):
                some = set(days[first : first + batch])
                state = _take(state, stack, [each for each in new if each.day in some], threads)
            if len(state.dates) > before:
                write_state(path, state)
                written += 1
                dates += [(state.corner, taken) for taken in state.dates[before:]]
    progress("satellite.stage_alerts_update", 1.0)
    return FolderRun(tiles=len(paths), written=written, dates=tuple(dates), changed=tuple(sorted(changed)))


def _take(state: TileState, stack: Stack, new: Sequence[SceneName], threads: int) -> TileState:
    part = _part(stack, new)
    cube = read_block(part, _window(*state.corner, *state.shape), threads=threads)
    for index, day in enumerate(cube.days.tolist()):
        scenes = [each for each in new if each.day == day]
        state = update(
            state,
            cube.stored[index],
            cube.observed[index],
            day,
            scenes=scenes,
            scale=cube.scale,
            offset=cube.offset,
            failed=[each.name for each in scenes if each.name in cube.failed],
            threads=threads,
        )
    return state


def _recorded(state: TileState) -> Iterator[SceneName]:
    yield from state.history
    for taken in state.dates:
        yield from taken.scenes


def _changed(state: TileState, names: Sequence[SceneName], stack: Stack) -> set[str]:
    """Scenes that were taken as other bytes. A file of many dates grows, so that its bytes say nothing about one date."""
    if any("#" in scene.name for scene in stack.usable):
        return set()
    taken = {(each.name, each.day): each.sha256 for each in _recorded(state)}
    return {each.name for each in names if taken.get((each.name, each.day), each.sha256) != each.sha256}


def _require_fit(state: TileState, stack: Stack, name: str) -> None:
    if not state.whole.matches(stack.grid) or state.bands != stack.spec.bands:
        raise GridMismatchError(
            "satellite.alert_other_stack",
            path=name,
            state=f"{state.whole.shape} {', '.join(state.bands)}",
            stack=f"{stack.grid.shape} {', '.join(stack.spec.bands)}",
        )
    if state.model_version != MODEL_VERSION:
        raise ConfigError("satellite.alert_other_model", path=name, found=state.model_version, present=MODEL_VERSION)


def compare_alert_models(
    stack: Stack,
    folder: Path,
    config: AlertConfig | None = None,
    *,
    breaks: BreakConfig | None = None,
    threads: int = 2,
    progress: Progress = no_progress,
) -> AlertMoves:
    """What the present model makes of all dates that the states of a folder have taken, against what they say.

    Nothing is written. Scenes that are gone or are other bytes now are named in `not_replayed`; the latter are still used.

    Args:
        config: None = that of the states. breaks: as `start_alerts`.

    Raises:
        InputError, FormatError, GridMismatchError, HistoryTooShortError.
    """
    olds, news, lost = read_alert_states(folder), [], set()
    names = _names(stack)
    here = {(each.name, each.day) for each in names}
    for done, old in enumerate(olds):
        progress("satellite.stage_alerts_compare", done / len(olds))
        if not old.whole.matches(stack.grid) or old.bands != stack.spec.bands:
            _require_fit(old, stack, Path(folder).name)
        wanted = [each for each in _recorded(old) if (each.name, each.day) in here]
        lost |= {each.name for each in _recorded(old) if (each.name, each.day) not in here} | _changed(old, names, stack)
        cube = read_block(_part(stack, wanted), _window(*old.corner, *old.shape), threads=threads)
        past = cube.days <= old.last_day
        if not past.any():
            raise HistoryTooShortError("satellite.history_too_short", days=0, needed=old.config.min_history_days, scenes=0)
        history = replace(cube, stored=cube.stored[past], observed=cube.observed[past], days=cube.days[past])
        found = _breaks_of(history, breaks or BreakConfig(), threads) if old.with_breaks else None
        news.append(replay(old, cube, config or old.config, breaks=found, threads=threads))
    progress("satellite.stage_alerts_compare", 1.0)
    return compare_alerts(olds, news, not_replayed=sorted(lost))
