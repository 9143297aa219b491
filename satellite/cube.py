"""From scenes to blocks: windowed reads onto one grid, with what each scene says about each pixel.

Scenes of one day are one observation: at each pixel the first in name order that is clear there is taken. A scene whose
bytes cannot be read in a window is FAILED_READ there, which is neither cloud nor missing coverage. Nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoevidence.errors import FormatError
from geoevidence.raster import Grid, open_strict
from satellite.scenes import Stack, StackSpec, band_positions, load_npy, open_cube, wanted_bands
from satellite.types import Cube, Observed, Scene

_EPOCH = np.datetime64("1970-01-01", "D")


def row_blocks(stack: Stack, *, block_bytes: int) -> Iterator[Window]:
    """Windows of whole rows, top to bottom, whose float32 values fit in `block_bytes` (one row at least)."""
    rows, cols = stack.grid.shape
    row_bytes = 4 * cols * len(stack.days) * len(stack.spec.bands)
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


def read_block(stack: Stack, window: Window | None = None) -> Cube:
    """Observations of all usable scenes in a window (None: the whole grid), one time a day.

    Returns:
        Cube in the order of `stack.spec.bands`, physical values (stored x scale + offset). Scenes that cannot be read
        here are named in `failed`.
    """
    if window is None:
        window = Window(0, 0, stack.grid.shape[1], stack.grid.shape[0])  # type: ignore[call-arg]
    grid = window_grid(stack.grid, window)
    days = stack.days
    values = np.full((len(days), len(stack.spec.bands), *grid.shape), np.nan, np.float32)
    observed = np.full((len(days), *grid.shape), np.uint8(Observed.NOT_OBSERVED))
    failed: set[str] = set()
    by_day = groupby(stack.usable, key=lambda scene: scene.acquired)
    with _Reader(stack) as reader:
        for position, (_, scenes) in enumerate(by_day):
            for scene in scenes:
                try:
                    stored, quality, absent = reader.read(scene, window)
                except FormatError:
                    failed.add(scene.name)
                    unseen = observed[position] == Observed.NOT_OBSERVED
                    observed[position][unseen] = Observed.FAILED_READ
                    continue
                scaled, state = _interpret(stored, quality, absent, stack.spec)
                # What is known better wins: clear, then cloud, then failed read, then not observed.
                better = _rank(state) < _rank(observed[position])
                observed[position][better] = state[better]
                take = better & (state == Observed.CLEAR)
                values[position][:, take] = scaled[:, take]
    return Cube(
        stored=values,
        observed=observed,
        days=np.array([int((np.datetime64(day, "D") - _EPOCH).astype(int)) for day in days], np.int32),
        bands=stack.spec.bands,
        grid=grid,
        failed=frozenset(failed),
    )


_RANKS = np.array([0, 1, 3, 2], np.uint8)  # by Observed: clear, cloud, not observed, failed read


def _rank(state: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return _RANKS[state]


def _interpret(
    stored: NDArray[np.floating], quality: NDArray[np.floating] | None, absent: NDArray[np.bool_], spec: StackSpec
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Physical values (band, y, x) and `Observed` (y, x) of one scene."""
    absent = absent | ~np.isfinite(stored).all(axis=0)
    if spec.nodata is not None:
        absent |= (stored == spec.nodata).any(axis=0)
    state = np.full(stored.shape[1:], np.uint8(Observed.CLEAR))
    if quality is not None:
        state[~np.isin(quality, spec.clear)] = Observed.CLOUD
        if 0 not in spec.clear:
            absent |= quality == 0
        absent |= ~np.isfinite(quality)
    state[absent] = Observed.NOT_OBSERVED
    scale = 1.0 if spec.scale is None else spec.scale
    return (stored * scale + spec.offset).astype(np.float32), state


class _Reader:
    """Reads one scene in a window; keeps a file of many dates open."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._dataset: xr.Dataset | None = None

    def __enter__(self) -> _Reader:
        if self._stack.layout == "netcdf":
            self._dataset = open_cube(self._stack.usable[0].path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._dataset is not None:
            self._dataset.close()

    def read(self, scene: Scene, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.bool_]]:
        """Stored values (band, y, x), quality (y, x) or None, and absence by the file's own nodata. Raises FormatError."""
        names = wanted_bands(self._stack.spec)
        rows = slice(int(window.row_off), int(window.row_off + window.height))
        cols = slice(int(window.col_off), int(window.col_off + window.width))
        absent = np.zeros((int(window.height), int(window.width)), bool)
        if self._stack.layout == "geotiff":
            layers, absent = _read_tiff(scene, self._stack.spec, window)
        elif self._stack.layout == "eopatch":
            folder = scene.path.parent
            layers = np.stack([load_npy(folder / f"{name}.npy")[scene.index, rows, cols, 0] for name in names]).astype(np.float64)
            if (folder / "IS_DATA.npy").is_file():
                absent = ~load_npy(folder / "IS_DATA.npy")[scene.index, rows, cols, 0].astype(bool)
        else:
            assert self._dataset is not None
            try:
                part = self._dataset.isel(time=scene.index, y=rows, x=cols)
                layers = np.stack([part[name].values for name in names]).astype(np.float64)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise FormatError("core.cannot_read", path=scene.name, reason=str(error)) from error
        bands = len(self._stack.spec.bands)
        return layers[:bands], layers[bands] if len(layers) > bands else None, absent


def _read_tiff(scene: Scene, spec: StackSpec, window: Window) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    with open_strict(scene.path) as dataset:
        positions = band_positions(dataset, spec)
        try:
            layers = dataset.read([positions[name] for name in wanted_bands(spec)], window=window)
        except (RasterioError, ValueError, KeyError) as error:
            raise FormatError("core.cannot_read", path=scene.name, reason=str(error)) from error
        nodata = dataset.nodata
    absent = np.zeros(layers.shape[1:], bool)
    if nodata is not None and np.isfinite(nodata):
        absent = (layers[: len(spec.bands)] == nodata).any(axis=0)
    return layers.astype(np.float64), absent
