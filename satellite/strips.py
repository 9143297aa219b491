"""What a tile saw along its edges, kept while a scan lasts, so that events across edges need no second look at the files.

In: the observations of a tile, and the windows of its events that reach over its edges. Out: what is known of any window from the
tiles around it, and where nothing is. A scratch folder of one run: nothing in it is a result, and what is missing is read from
the scenes again, to the same values. A compressed block is decoded whole or not at all: a small window on a corner of four
tiles costs four blocks a date and band.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from satellite.sparse import Box
from satellite.types import Cube, Observed

CELL = 32
"""Side of the squares that are kept, pixels, counted from the first pixel of the tile."""
REACH = 24
"""So far beyond a small event its window reaches, pixels (`events.event_window`): what neighbours may ask for."""
_MARGIN = 12
"""An event that goes on in the next tile has another window than the part of it that this tile sees, by about so many pixels."""


def cells_of(box: Box, shape: tuple[int, int], windows: Iterable[Box]) -> NDArray[np.int64]:
    """(n, 2) row and column, in cells, of the cells of a tile that are kept: along its edges that are no edge of the grid, and
    where the windows lie; in order."""
    chosen = np.zeros((-(-box.rows // CELL), -(-box.cols // CELL)), bool)
    first, last = slice(0, -(-REACH // CELL)), (max(0, box.rows - REACH) // CELL, max(0, box.cols - REACH) // CELL)
    chosen[first] |= box.row > 0
    chosen[:, first] |= box.col > 0
    chosen[last[0] :] |= box.row + box.rows < shape[0]
    chosen[:, last[1] :] |= box.col + box.cols < shape[1]
    for window in windows:
        wide = window.grown(_MARGIN)
        rows = slice(max(0, wide.row - box.row) // CELL, max(0, -(-(wide.row + wide.rows - box.row) // CELL)))
        cols = slice(max(0, wide.col - box.col) // CELL, max(0, -(-(wide.col + wide.cols - box.col) // CELL)))
        chosen[rows, cols] = True
    return np.argwhere(chosen).astype(np.int64)


def strip_bytes(box: Box, shape: tuple[int, int], pixel_bytes: int) -> int:
    """Bytes that a tile takes on disk, about: twice its edges, since events across them reach further in."""
    return 2 * len(cells_of(box, shape, ())) * CELL * CELL * pixel_bytes


class Strips:
    """What the tiles of one scan on a grid of that shape keep in a folder, written and read by all its processes."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        self._folder, self._shape = folder, shape

    def _path(self, box: Box, what: str) -> Path:
        return self._folder / f"{box.row}-{box.col}.{what}"

    def keep(self, box: Box, cube: Cube, windows: Iterable[Box]) -> None:
        """Keep the edges of a tile, and what it shows of the windows. Raises OSError."""
        cells = cells_of(box, self._shape, windows)
        for array, what in ((cube.stored, "stored.npy"), (cube.observed, "observed.npy")):
            # Written piece by piece, not mapped: on a full disk a mapped file would kill the process.
            with self._path(box, what).open("wb") as stream:
                _write_cells(stream, array, cells)
        np.save(self._path(box, "days.npy"), cube.days)
        # The list comes last: it says that the rest is whole.
        half = self._path(box, "half.npy")
        np.save(half, cells)
        half.rename(self._path(box, "cells.npy"))

    def known(self, tiles: Sequence[Box]) -> bool:
        """Whether any of the tiles kept something."""
        return any(self._path(tile, "cells.npy").is_file() for tile in tiles)

    def fill(
        self, window: Box, tiles: Sequence[Box], days: NDArray[np.int32], stored: NDArray[Any], observed: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Fill in what is known of a window; (y, x) where something is.

        Args:
            tiles: those that the window touches. days: of the scenes that can touch the window. stored, observed: (time, band, y, x)
                and (time, y, x) of the window, nothing observed; written.
        """
        known = np.zeros((window.rows, window.cols), bool)
        for tile in tiles:
            if not self._path(tile, "cells.npy").is_file():
                continue
            cells, own = np.load(self._path(tile, "cells.npy")), np.load(self._path(tile, "days.npy"))
            # A day on which no scene touches this tile shows nothing of it.
            mine, source = np.flatnonzero(np.isin(days, own)), np.flatnonzero(np.isin(own, days))
            kept = [(array, np.load(self._path(tile, what), mmap_mode="r")) for array, what in
                    ((stored, "stored.npy"), (observed, "observed.npy"))]  # fmt: skip
            for number, (i, j) in enumerate(cells.tolist()):
                row, col = tile.row + i * CELL, tile.col + j * CELL
                top, left = max(row, window.row), max(col, window.col)
                bottom = min(row + CELL, tile.row + tile.rows, window.row + window.rows)
                right = min(col + CELL, tile.col + tile.cols, window.col + window.cols)
                if bottom > top and right > left:
                    here = slice(top - window.row, bottom - window.row), slice(left - window.col, right - window.col)
                    there = slice(top - row, bottom - row), slice(left - col, right - col)
                    known[here] = True
                    for array, file in kept:
                        array[(..., *here)][mine] = file[number][(..., *there)][source]
        return known


def _write_cells(stream: BinaryIO, array: NDArray[Any], cells: NDArray[np.int64]) -> None:
    """One array (cell, ..., CELL, CELL) as an .npy file; where a cell reaches beyond the tile it is filled up."""
    shape = (len(cells), *array.shape[:-2], CELL, CELL)
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    piece = np.full(shape[1:], np.uint8(Observed.OUTSIDE) if array.dtype == np.uint8 else 0, array.dtype)
    for i, j in cells.tolist():
        part = array[..., i * CELL : (i + 1) * CELL, j * CELL : (j + 1) * CELL]
        piece[..., : part.shape[-2], : part.shape[-1]] = part
        stream.write(piece.data)
