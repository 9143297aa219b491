"""From scenes to blocks: windowed reads onto one grid, with what each scene says about each pixel.

Scenes of one day are one observation: at each pixel the first in name order that is clear there is taken. A part of a
file whose bytes cannot be decoded is FAILED_READ in exactly the file's own blocks that fail, which is neither cloud nor
missing coverage; the scene and band are named. Values stay as stored wherever they can (`Storage`); masks go by table.
Dates are read by several threads at once; threads and windows change nothing in the result.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoevidence.errors import CoverageError, FormatError
from geoevidence.raster import Grid
from satellite.assets import holds_blocks, open_quiet
from satellite.cubefiles import SERIES, LayerFiles
from satellite.resample import NEVER, Plan, merge_scene, plan, raise_state, settle_codes, settle_real, settle_whole
from satellite.stack import Stack, StackSpec, Storage
from satellite.types import Asset, Cube, Observed, Scene

_EPOCH = date(1970, 1, 1).toordinal()
_FAILED, _ABSENT = np.uint8(Observed.FAILED_READ), np.uint8(Observed.NOT_OBSERVED)
_MAX_OPEN = 400
"""Files kept open by one reader: systems allow 1024 a process by default, and others need some."""


def row_blocks(stack: Stack, *, block_bytes: int) -> Iterator[Window]:
    """Windows of whole rows, top to bottom, whose values fit in `block_bytes` (one row at least)."""
    rows, cols = stack.grid.shape
    row_bytes = np.dtype(stack.storage.dtype).itemsize * cols * len(stack.days) * len(stack.spec.bands)
    step = max(1, min(rows, block_bytes // row_bytes))
    for row in range(0, rows, step):
        yield Window(0, row, cols, min(step, rows - row))  # type: ignore[call-arg]


def window_grid(grid: Grid, window: Window) -> Grid:
    """The part of a grid that a window covers."""
    return Grid(
        shape=(int(window.height), int(window.width)),
        transform=grid.transform @ Affine.translation(window.col_off, window.row_off),
        crs=grid.crs,
    )


def read_block(stack: Stack, window: Window | None = None, *, threads: int = 1) -> Cube:
    """Observations of all usable scenes in a window (None: the whole grid), one time a day.

    Who reads many windows keeps a `StackReader`, which leaves files open between them.

    Returns:
        Cube in the order of `stack.spec.bands`, values as `stack.storage` says; 0 where not CLEAR. Scenes and assets that
        cannot be read here are named in `failed` and `failed_assets`.

    Raises:
        CoverageError: the window is empty or not inside the grid.
    """
    with StackReader(stack, threads=threads) as reader:
        return reader.read(window)


class StackReader:
    """Reads windows of one stack and keeps its files open. For one caller at a time; its threads are its own."""

    def __init__(self, stack: Stack, *, threads: int = 1, keep_blocks: bool = False) -> None:
        """keep_blocks: also keep files open that hold a block of all their bands in memory."""
        self._stack, self._threads, self._keep_blocks = stack, max(1, threads), keep_blocks
        codes = {asset.nodata for scene in stack.usable for asset in scene.assets if asset.role == "quality"}
        self._codes = {nodata: code_table(stack.spec, nodata) for nodata in codes}
        self._open: dict[Path, tuple[rasterio.io.DatasetReader, threading.Lock]] = {}
        self._lock = threading.Lock()
        self._layers = LayerFiles()
        self._scratch = threading.local()
        self._days = [(day, tuple(scenes)) for day, scenes in groupby(stack.usable, key=lambda scene: scene.acquired)]
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        if self._pool is not None:
            self._pool.shutdown()
        for dataset, _ in self._open.values():
            dataset.close()
        self._open.clear()
        self._layers.close()

    def read(self, window: Window | None = None) -> Cube:
        """As `read_block`."""
        stack, storage = self._stack, self._stack.storage
        place = _checked(stack.grid, window)
        shape = place[2:]
        stored = np.zeros((len(self._days), len(stack.spec.bands), *shape), storage.dtype)
        observed = np.full((len(self._days), *shape), _ABSENT)
        if stack.layout in SERIES:
            failed = self._read_series(place, stored, observed)
        else:
            plans = _Plans(stack.grid, place)
            found = self._map(lambda i: self._read_day(self._days[i][1], plans, stored[i], observed[i]), range(len(self._days)))
            failed = set().union(*found)
        # The corner from the whole grid: a Window of numpy integers would do the same.
        grid = window_grid(stack.grid, Window(place[1], place[0], place[3], place[2]))  # type: ignore[call-arg]
        return Cube(
            stored=stored,
            observed=observed,
            days=np.array([day.toordinal() - _EPOCH for day, _ in self._days], np.int32),  # type: ignore[union-attr]
            bands=stack.spec.bands,
            grid=grid,
            scale=storage.scale,
            offset=storage.offset,
            failed=frozenset(name for name, _ in failed),
            failed_assets=frozenset(failed),
        )

    def _map(self, work: Any, items: Sequence[int] | range) -> list[Any]:
        return list(self._pool.map(work, items)) if self._pool is not None else [work(item) for item in items]

    # Scenes of files of bands

    def _read_day(
        self, scenes: tuple[Scene, ...], plans: _Plans, values: NDArray[Any], state: NDArray[np.uint8]
    ) -> set[tuple[str, str]]:
        failed = self._read_scene(scenes[0], plans, values, state)
        for scene in scenes[1:]:
            more, other = np.zeros_like(values), np.full_like(state, _ABSENT)
            failed |= self._read_scene(scene, plans, more, other)
            merge_scene(values, state, more, other)
        return failed

    def _read_scene(self, scene: Scene, plans: _Plans, values: NDArray[Any], state: NDArray[np.uint8]) -> set[tuple[str, str]]:
        """Fill `values` (band, y, x) and `state` (y, x) of a window; what failed, as (scene, band)."""
        failed: set[tuple[str, str]] = set()
        state[:] = 0
        bands = iter(range(len(values)))
        where = {id(asset): next(bands) for asset in scene.assets if asset.role == "value"}
        for (path, _, method), group in _grouped(scene.assets):
            first = group[0]
            assert first.grid is not None and path is not None
            part = plans.of(first.grid, method)
            if part.height == 0:
                state[:] = np.maximum(state, _ABSENT)
                continue
            raw, lost, absent = self._read_part(path, [asset.position for asset in group], part, first.dtype)
            failed.update((scene.name, asset.band) for asset, gone in zip(group, lost, strict=True) if gone is not None)
            for index, asset in enumerate(group):
                band = where.get(id(asset))
                target = None if band is None else values[band]
                self._settle(asset, raw[index], lost[index], absent, part, target, state)
        return failed

    def _settle(
        self,
        asset: Asset,
        raw: NDArray[Any],
        lost: NDArray[np.bool_] | None,
        absent: NDArray[np.bool_] | None,
        part: Plan,
        target: NDArray[Any] | None,
        state: NDArray[np.uint8],
    ) -> None:
        """One asset's numbers into `target` and `state` of the window."""
        rows, cols = part.at
        whole = part.method == "none" and raw.shape == state.shape
        copied = part.method == "none"
        own = state if whole else np.zeros(raw.shape, np.uint8)
        values = target if whole or target is None else np.empty(raw.shape, target.dtype)
        judge(asset, raw, values, own, self._stack.storage, self._codes)
        if absent is not None:
            own[absent] = np.maximum(own[absent], _ABSENT)
        if lost is not None:
            own[lost] = _FAILED
        if whole:
            return
        if copied:
            inside = (slice(rows, rows + part.height), slice(cols, cols + part.width))
            outside = np.ones(state.shape, bool)
            outside[inside] = False
            state[outside] = np.maximum(state[outside], _ABSENT)
            raise_state(state[inside], own)
            if target is not None:
                target[inside] = values
            return
        found = np.empty(state.shape, np.uint8)
        codes = values if values is not None else own
        part.apply(codes, own, target if target is not None else np.empty(state.shape, own.dtype), found)
        raise_state(state, found)

    def _read_part(
        self, path: Path, positions: list[int], part: Plan, dtype: str
    ) -> tuple[NDArray[Any], list[NDArray[np.bool_] | None], NDArray[np.bool_] | None]:
        """Stored numbers (n, y, x) of a part, per band where it could not be read (None = everywhere read), and absence by
        the file's own mask."""
        shape = (len(positions), part.height, part.width)
        window = Window(part.col, part.row, part.width, part.height)  # type: ignore[call-arg]
        raw = self._buffer(shape, np.dtype(dtype))
        lost: list[NDArray[np.bool_] | None] = [None] * len(positions)
        absent = None
        try:
            with self._dataset(path) as dataset:
                try:
                    dataset.read(positions, window=window, out=raw)
                    flags = dataset.mask_flag_enums[positions[0] - 1]
                    if MaskFlags.per_dataset in flags:
                        absent = dataset.read_masks(positions[0], window=window) == 0
                except (RasterioError, ValueError, IndexError):
                    lost = [_by_blocks(dataset, position, window, raw[i]) for i, position in enumerate(positions)]
        except (FormatError, RasterioError):  # gone or changed since it was listed
            raw[:] = 0
            lost = [np.ones(shape[1:], bool)] * len(positions)
        return raw, lost, absent

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Memory of this thread that is used again; what it held is overwritten."""
        kept = getattr(self._scratch, "kept", None)
        if kept is None:
            kept = self._scratch.kept = {}
        if dtype not in kept or kept[dtype].size < np.prod(shape):
            kept[dtype] = np.empty(int(np.prod(shape)), dtype)
        return kept[dtype][: int(np.prod(shape))].reshape(shape)

    @contextmanager
    def _dataset(self, path: Path) -> Iterator[rasterio.io.DatasetReader]:
        """The file, for this thread alone. Files with all bands in each block are not kept open: each holds a block."""
        with self._lock:
            entry = self._open.get(path)
        if entry is None:
            dataset = open_quiet(path)
            with self._lock:
                if path in self._open or len(self._open) >= _MAX_OPEN or self._holds(dataset):
                    entry = None
                else:
                    entry = self._open[path] = (dataset, threading.Lock())
            if entry is None:
                with dataset:
                    yield dataset
                return
        with entry[1]:
            yield entry[0]

    def _holds(self, dataset: rasterio.io.DatasetReader) -> bool:
        return holds_blocks(dataset) and not self._keep_blocks

    # Cubes: all dates of a layer in one file

    def _read_series(
        self, place: tuple[int, int, int, int], stored: NDArray[Any], observed: NDArray[np.uint8]
    ) -> set[tuple[str, str]]:
        scenes = self._stack.usable
        single = len(scenes) == len(self._days)
        values = stored if single else np.zeros((len(scenes), *stored.shape[1:]), stored.dtype)
        states = np.zeros((len(scenes), *observed.shape[1:]), np.uint8)
        failed: set[tuple[str, str]] = set()
        band = 0
        for index, asset in enumerate(scenes[0].assets):
            layer = [scene.assets[index] for scene in scenes]
            raw, lost = self._layers.read(layer, place)
            failed.update((scenes[i].name, asset.band) for i in np.flatnonzero(lost.any(axis=(1, 2))))
            position = band if asset.role == "value" else None
            band += position is not None

            def settle(i: int, layer: list[Asset] = layer, raw: Any = raw, position: int | None = position) -> None:
                target = None if position is None else values[i, position]
                judge(layer[i], raw[i], target, states[i], self._stack.storage, self._codes)

            self._map(settle, range(len(scenes)))
            states[lost] = _FAILED
        start = 0
        for i, (_, same_day) in enumerate(self._days):
            observed[i] = states[start]
            if not single:
                stored[i] = values[start]
            for j in range(start + 1, start + len(same_day)):
                merge_scene(stored[i], observed[i], values[j], states[j])
            start += len(same_day)
        return failed


class _Plans:
    """Plans of one window, made once for each kind of cells."""

    def __init__(self, grid: Grid, place: tuple[int, int, int, int]) -> None:
        self._grid, self._place = grid, place
        self._known: dict[tuple[int, str], Plan] = {}
        self._lock = threading.Lock()

    def of(self, source: Grid, method: str) -> Plan:
        key = (id(source), method)
        with self._lock:
            if key not in self._known:
                self._known[key] = plan(self._grid, self._place, source, method)  # type: ignore[arg-type]
            return self._known[key]


def _checked(grid: Grid, window: Window | None) -> tuple[int, int, int, int]:
    """(row, col, height, width) of a window inside the grid."""
    rows, cols = grid.shape
    if window is None:
        return 0, 0, rows, cols
    row, col, height, width = (int(value) for value in (window.row_off, window.col_off, window.height, window.width))
    if height < 1 or width < 1:
        raise CoverageError("satellite.empty_window")
    if row < 0 or col < 0 or row + height > rows or col + width > cols:
        raise CoverageError("satellite.window_outside", row=row, col=col, height=height, width=width, rows=rows, cols=cols)
    return row, col, height, width


def _grouped(assets: Sequence[Asset]) -> list[tuple[tuple[Path | None, int, str], list[Asset]]]:
    """Assets of one file and one way onto the grid are read at once."""
    groups: dict[tuple[Path | None, int, str], list[Asset]] = {}
    for asset in assets:
        groups.setdefault((asset.path, id(asset.grid), asset.resampling), []).append(asset)
    return list(groups.items())


def _by_blocks(dataset: rasterio.io.DatasetReader, position: int, window: Window, out: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Read one band block by block of the file; where it failed (y, x), or None where nothing did."""
    height, width = dataset.block_shapes[position - 1]
    top, left = int(window.row_off), int(window.col_off)
    bottom, right = top + out.shape[0], left + out.shape[1]
    lost = np.zeros(out.shape, bool)
    for row in range(top - top % height, bottom, height):
        for col in range(left - left % width, right, width):
            r0, r1, c0, c1 = max(row, top), min(row + height, bottom), max(col, left), min(col + width, right)
            inside = (slice(r0 - top, r1 - top), slice(c0 - left, c1 - left))
            try:
                out[inside] = dataset.read(position, window=Window(c0, r0, c1 - c0, r1 - r0))  # type: ignore[call-arg]
            except (RasterioError, ValueError, IndexError):
                out[inside] = 0
                lost[inside] = True
    return lost if lost.any() else None


# What a number says ---------------------------------------------------------------------------------------------------


def code_table(spec: StackSpec, nodata: float | None) -> NDArray[np.uint8]:
    """(65536,) `Observed` code of each quality code: by `cloud_bits` and `fill_bits`, or by `clear`. The file's nodata is
    not observed, and so is 0 of classes, unless they are clear."""
    codes = np.arange(65536)
    if spec.cloud_bits:
        table = np.full(65536, np.uint8(Observed.CLEAR))
        table[(codes & sum(1 << bit for bit in spec.cloud_bits)) != 0] = Observed.CLOUD
        table[(codes & sum(1 << bit for bit in spec.fill_bits)) != 0] = Observed.NOT_OBSERVED
        return table
    table = np.full(65536, np.uint8(Observed.CLOUD))
    table[0] = Observed.NOT_OBSERVED
    if _code(nodata) != NEVER:
        table[_code(nodata) & 0xFFFF] = Observed.NOT_OBSERVED
    table[np.array(spec.clear, np.int64) & 0xFFFF] = Observed.CLEAR
    return table


def judge(
    asset: Asset,
    raw: NDArray[Any],
    values: NDArray[Any] | None,
    state: NDArray[np.uint8],
    storage: Storage,
    tables: Mapping[float | None, NDArray[np.uint8]],
) -> None:
    """Stored numbers (y, x) of one asset into `values` (as `storage` says) and `state`, which only rises."""
    if asset.role == "value":
        assert values is not None
        if storage.dtype == "int16":
            shift = round((asset.offset - storage.offset) / storage.scale)
            settle_whole(raw, values, state, shift, _code(asset.nodata), _code(asset.saturated))
        else:
            settle_real(raw, values, state, asset.scale, asset.offset, _real(asset.nodata), _real(asset.saturated))
        return
    if asset.role == "saturation":
        raise_state(state, np.where((raw.astype(np.int64) & asset.bits) != 0, np.uint8(Observed.CLOUD), np.uint8(0)))
    elif asset.role == "presence":
        raise_state(state, np.where(raw == 0, _ABSENT, np.uint8(0)))
    elif raw.dtype.kind in "iub" and raw.dtype.itemsize <= 2:
        settle_codes(raw.view(np.uint8) if raw.dtype == bool else raw, tables[asset.nodata], state)
    else:
        # NaN is absence; what is not a whole number of 16 bits is no code that anyone calls clear.
        known = np.isfinite(raw)
        number = np.where(known, raw, 0).astype(np.float64)
        usable = (number >= -32768) & (number <= 65535) & (number == np.floor(number))
        codes = np.where(usable, number, 0).astype(np.int64) & 0xFFFF
        found = np.where(usable, tables[asset.nodata][codes], np.uint8(Observed.CLOUD))
        raise_state(state, np.where(known, found, _ABSENT).astype(np.uint8))


def _code(value: float | None) -> int:
    """A stored whole number, or one that no file holds."""
    return NEVER if value is None or not np.isfinite(value) or value != int(value) else int(value)


def _real(value: float | None) -> float:
    return float("nan") if value is None else float(value)
