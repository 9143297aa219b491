"""What tiles keep of their edges: any window that it covers is what reading it would give, else nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from geoevidence.raster import Grid
from satellite.sparse import Box
from satellite.strips import CELL, REACH, Strips, cells_of, strip_bytes
from satellite.types import Cube, Observed

SHAPE = (200, 260)
DAYS = np.array([100, 110, 120], np.int32)
TILES = [Box(row, col, min(100, SHAPE[0] - row), min(130, SHAPE[1] - col)) for row in (0, 100) for col in (0, 130)]


def whole() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    stored = rng.integers(0, 9000, (len(DAYS), 2, *SHAPE), np.int16)
    return stored, rng.integers(0, 3, (len(DAYS), *SHAPE)).astype(np.uint8)


def cube_of(box: Box, chosen: NDArray[np.intp]) -> Cube:
    stored, observed = whole()
    grid = Grid(shape=(box.rows, box.cols), transform=Affine(10, 0, 0, 0, -10, 0), crs=CRS.from_epsg(32650))
    return Cube(
        stored=stored[(chosen, slice(None), *box.slices)],
        observed=observed[(chosen, *box.slices)],
        days=DAYS[chosen],
        bands=("red", "nir"),
        grid=grid,
    )


def kept(folder: Path, absent: dict[Box, int] | None = None, windows: tuple[Box, ...] = ()) -> Strips:
    """What all tiles keep; of some a day is missing, on which no scene touches them."""
    strips = Strips(folder, SHAPE)
    for tile in TILES:
        chosen = np.array([k for k in range(len(DAYS)) if k != (absent or {}).get(tile)])
        strips.keep(tile, cube_of(tile, chosen), windows)
    return strips


def filled(strips: Strips, window: Box) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.bool_]]:
    stored = np.zeros((len(DAYS), 2, window.rows, window.cols), np.int16)
    observed = np.full((len(DAYS), window.rows, window.cols), np.uint8(Observed.NOT_OBSERVED))
    return stored, observed, strips.fill(window, TILES, DAYS, stored, observed)


def test_the_inner_edges_are_kept_as_deep_as_neighbours_ask() -> None:
    for tile in TILES:
        seen = np.zeros(SHAPE, bool)
        for i, j in cells_of(tile, SHAPE, ()).tolist():
            seen[tile.row + CELL * i : tile.row + CELL * (i + 1), tile.col + CELL * j : tile.col + CELL * (j + 1)] = True
        near = np.zeros(SHAPE, bool)
        near[100 - REACH : 100 + REACH] = True
        near[:, 130 - REACH : 130 + REACH] = True
        assert seen[tile.slices][near[tile.slices]].all()
        assert not seen[Box(0 if tile.row == 0 else 170, 0 if tile.col == 0 else 230, 30, 30).slices].any()
        assert strip_bytes(tile, SHAPE, 5) == 2 * 5 * CELL**2 * len(cells_of(tile, SHAPE, ()))


def test_a_lone_tile_keeps_nothing_and_a_small_one_all() -> None:
    assert len(cells_of(Box(0, 0, 512, 512), (512, 512), ())) == 0
    assert cells_of(Box(16, 0, 16, 50), (400, 50), ()).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("window", [Box(80, 110, 40, 40), Box(90, 0, 24, 50), Box(0, 125, 200, 20), Box(70, 140, 25, 30)])
def test_what_is_kept_is_what_was_seen(tmp_path: Path, window: Box) -> None:
    stored, observed = whole()
    found = filled(kept(tmp_path, windows=(Box(70, 140, 25, 30),)), window)
    assert found[2].all()
    assert (found[0] == stored[(..., *window.slices)]).all() and (found[1] == observed[(..., *window.slices)]).all()


def test_beyond_it_nothing_is_known(tmp_path: Path) -> None:
    """Until the window of an event is asked for."""
    window = Box(20, 80, 40, 60)
    found = filled(kept(tmp_path), window)
    assert not found[2].all() and (found[1][:, ~found[2]] == Observed.NOT_OBSERVED).all()
    assert (found[1][:, found[2]] == whole()[1][(..., *window.slices)][:, found[2]]).all()
    assert filled(kept(tmp_path, windows=(window,)), window)[2].all()


def test_a_day_without_a_scene_is_not_observed_there_alone(tmp_path: Path) -> None:
    found = filled(kept(tmp_path, {TILES[1]: 1}), Box(80, 110, 40, 40))
    expected = whole()[1][:, 80:120, 110:150].copy()
    expected[1, :20, 20:] = Observed.NOT_OBSERVED
    assert found[2].all() and (found[1] == expected).all()


def test_a_tile_half_written_is_not_there(tmp_path: Path) -> None:
    strips = kept(tmp_path)
    (tmp_path / "100-130.cells.npy").unlink()
    known = filled(strips, Box(80, 110, 40, 40))[2]
    assert not known[20:, 20:].any() and known[:20].all() and known[:, :20].all()
    assert strips.known(TILES) and not strips.known(TILES[3:])


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        kept(tmp_path / "elsewhere")
    assert not list(tmp_path.iterdir())
