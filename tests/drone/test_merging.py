"""Surfaces and pictures of two made-up parts on one lattice: who owns a cell, what is mixed, what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS

from drone.geoid import Undulation
from drone.joining import Territory
from drone.merging import (
    Lattice,
    Merged,
    PartProducts,
    level_parts,
    merge,
    overview,
    read_array,
    save_array,
    uncertainty_bands,
)
from drone.types import ErrorField, SurfaceModel
from geoevidence.errors import ConfigError, FormatError
from geoevidence.raster import Grid, Raster

GRID = CRS.from_epsg(4547)
LATTICE = Lattice.of(0.5, 0.25)
ROWS, COLS, OVERLAP = 60, 100, 40
"""Cells of each of two parts, side by side, that overlap by 40 columns (20 m); cameras stand in the middle of each."""


def part(
    folder: Path,
    number: int,
    height: NDArray[np.float32],
    *,
    water: NDArray[np.uint8] | None = None,
    gain: float = 1.0,
    grey: int = 100,
) -> PartProducts:
    home = folder / str(number)
    home.mkdir()
    picture = np.zeros((4, 2 * ROWS, 2 * COLS), np.uint8)
    picture[:3], picture[3] = grey, 255
    sources = np.ones((2, 2 * ROWS, 2 * COLS), np.uint16)
    arrays = {
        "dsm": height,
        "dsm_sd": np.where(np.isfinite(height), np.float32(0.01), np.float32(np.nan)),
        "water": np.zeros((ROWS, COLS), np.uint8) if water is None else water,
        "picture": picture,
        "sources": sources,
    }
    files = {name: save_array(home, name, array) for name, array in arrays.items()}
    name = f"P{number}.JPG"
    return PartProducts(
        number=number,
        row=-200,
        col=1000 + number * (COLS - OVERLAP),
        rows=ROWS,
        cols=COLS,
        photos=(name,),
        gains={name: (gain,) * 3, "shared.JPG": (gain,) * 3},  # type: ignore[dict-item]
        fall_off={"cam": (0.0, 0.0, 0.0)},
        contrast={},
        points=1,
        median_views=3.0,
        median_sd=0.01,
        correlation_m=1.0,
        terrain=False,
        files=files,
        gaps=(),
    )


def merged(folder: Path, parts: list[PartProducts], feather: float = 4.0, geoid: Undulation | None = None) -> Merged:
    out = folder / "merged"
    out.mkdir()
    middles = np.array([[(p.col + COLS / 2) * 0.5, -(p.row + ROWS / 2) * 0.5] for p in parts])
    return merge(
        out,
        parts,
        {p.number: folder / str(p.number) for p in parts},
        lattice=LATTICE,
        territory=Territory(middles, np.array([p.number for p in parts])),
        names=["P0.JPG", "P1.JPG"],
        crs=GRID,
        noise=0.005,
        feather=feather,
        picture_feather=0.0,
        geoid=geoid,
    )


def level(value: float) -> NDArray[np.float32]:
    return np.full((ROWS, COLS), value, np.float32)


MIDDLE = COLS - OVERLAP // 2
"""Column of the whole at which both cameras are as far."""


def test_heights_pass_over_where_parts_agree(tmp_path: Path) -> None:
    found = merged(tmp_path, [part(tmp_path, 0, level(10.0)), part(tmp_path, 1, level(10.02))])
    z = found.dsm.data[0]
    assert z.shape == (ROWS, 2 * COLS - OVERLAP) and np.isfinite(z).all()
    assert found.dsm.grid.transform == Affine(0.5, 0, 500.0, 0, -0.5, 100.0)
    row = z[ROWS // 2]
    assert (row[: MIDDLE - 10] == np.float32(10.0)).all() and (row[MIDDLE + 10 :] == np.float32(10.02)).all()
    # no step: the 2 cm are spread over the cells on both sides of the line
    assert (np.diff(row.astype(float)) > -1e-6).all() and np.diff(row.astype(float)).max() < 0.008
    seam = found.seams[0]
    assert (seam.first, seam.second, seam.apart) == (0, 1, 0.0) and seam.median == pytest.approx(-0.02, abs=1e-6)
    assert seam.cells > 100 and seam.nmad < 1e-6


def test_heights_are_brought_above_the_geoid(tmp_path: Path) -> None:
    """An undulation of 12.5 m at the western edge that grows by 1 mm a metre."""
    east, north = np.array([400.0, 700.0]), np.array([0.0, 200.0])
    geoid = Undulation(
        file="g.tif", digest="", middle=12.5, east=east, north=north, values=np.array([[12.4, 12.7], [12.4, 12.7]])
    )
    found = merged(tmp_path, [part(tmp_path, 0, level(10.0)), part(tmp_path, 1, level(10.0))], geoid=geoid)
    x = 500.0 + (np.arange(found.dsm.grid.shape[1]) + 0.5) * 0.5
    assert np.allclose(found.dsm.data[0], 10.0 - 12.4 - 0.001 * (x - 400.0), atol=1e-5)
    assert np.allclose(found.dsm_sd.data[0], 0.01)


def test_what_differs_beyond_its_error_is_not_mixed(tmp_path: Path) -> None:
    found = merged(tmp_path, [part(tmp_path, 0, level(10.0)), part(tmp_path, 1, level(12.0))])
    assert set(np.unique(found.dsm.data[0]).tolist()) == {10.0, 12.0}
    assert found.seams[0].apart == 1.0


def test_the_other_part_fills_in_but_not_where_the_owner_sees_water(tmp_path: Path) -> None:
    left, water = level(10.0), np.zeros((ROWS, COLS), np.uint8)
    left[:20, 65:70] = np.nan  # no match there
    left[40:, 65:70] = np.nan
    water[40:, 65:70] = 7
    found = merged(tmp_path, [part(tmp_path, 0, left, water=water), part(tmp_path, 1, level(10.0))])
    assert (found.dsm.data[0][:20, 65:70] == 10.0).all()
    assert np.isnan(found.dsm.data[0][40:, 65:70]).all() and np.isnan(found.dsm_sd.data[0][40:, 65:70]).all()
    assert (found.water.data[0][40:, 65:70] == 7).all() and not found.water.data[0][:40].any()
    assert found.water_area == 20 * 5 * 0.25


def test_pictures_are_levelled_and_name_their_photo(tmp_path: Path) -> None:
    """Shared photos were brightened by 1.0 and 1.21: the parts meet in between."""
    parts = [part(tmp_path, 0, level(10.0), gain=1.0, grey=100), part(tmp_path, 1, level(10.0), gain=1.21, grey=121)]
    factors = level_parts(parts)
    assert factors[0][0] == pytest.approx(1.1, abs=0.001) and factors[1][0] == pytest.approx(1 / 1.1, abs=0.001)
    found = merged(tmp_path, parts)
    assert (found.picture.data[:3] == 110).all() and (found.picture.data[3] == 255).all()
    assert found.picture.grid.shape == (2 * ROWS, 2 * (2 * COLS - OVERLAP))
    numbers = found.sources.data[0]
    assert (numbers[:, : 2 * MIDDLE - 2] == 1).all() and (numbers[:, 2 * MIDDLE + 2 :] == 2).all()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    made = part(tmp_path, 0, level(10.0))
    path = tmp_path / "0" / "dsm.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError):
        read_array(tmp_path / "0", "dsm", made.files["dsm"])
    with pytest.raises(FormatError):
        read_array(tmp_path / "0", "nowhere", made.files["dsm"])


@given(st.integers(1, 400), st.integers(1, 400), st.integers(-5000, 5000), st.integers(-5000, 5000), st.integers(1, 40))
def test_lattices_meet(cell: int, picture: int, row: int, col: int, side: int) -> None:
    """Padded rasters begin where a cell of the picture begins, whatever the sizes (mm)."""
    try:
        lattice = Lattice.of(cell / 1000, picture / 1000)
    except ConfigError:
        return
    data = np.zeros((1, side, side), np.float32)
    raster = Raster(data=data, grid=lattice.grid(row, col, (side, side), GRID))
    assert lattice.placed(raster) == (row, col)
    padded = lattice.padded(raster, np.nan)
    top, left = lattice.placed(padded)
    assert top % lattice.period == left % lattice.period == 0 and top <= row and left <= col
    assert (top * lattice.cell) % lattice.picture_cell == 0
    assert np.isfinite(padded.data).sum() == side * side
    assert lattice.picture_cells(padded.grid.shape[0]) * lattice.picture_cell == padded.grid.shape[0] * lattice.cell


def test_an_overview_keeps_what_is_known() -> None:
    data = np.full((1, 5, 7), np.nan, np.float32)
    data[0, :2, :2] = [[1, 2], [3, np.nan]]
    data[0, 4, 6] = 9
    grid = Grid(shape=(5, 7), transform=Affine(0.5, 0, 0, 0, -0.5, 0), crs=GRID)
    small = overview(Raster(data=data, grid=grid, nodata=float("nan")), 2)
    assert small.data.shape == (1, 3, 4) and small.data[0, 0, 0] == 2.0 and small.data[0, 2, 3] == 9
    assert np.isnan(small.data[0, 1]).all() and small.grid.resolution == (1.0, 1.0)


def test_uncertainty_holds_noise_and_block(tmp_path: Path) -> None:
    grid = Grid(shape=(600, 3), transform=Affine(0.5, 0, 0, 0, -0.5, 300), crs=GRID)
    noise = Raster(data=np.full((1, 600, 3), 0.03, np.float32), grid=grid, nodata=float("nan"), unit="m")
    factor = np.zeros((1, 2, 2, 3), np.float32)
    factor[0, :, :, 2] = 0.04
    field = ErrorField(origin=(0.0, 0.0), spacing=(10.0, 300.0), factor=factor)
    surface = SurfaceModel(
        raster=noise, kind="dsm", height_kind="ellipsoidal", standard_uncertainty=noise, density=None, error_field=field
    )
    bands = uncertainty_bands(tmp_path, surface).data
    assert np.allclose(bands[0], 0.05, atol=1e-6) and np.allclose(bands[1], 0.03)
