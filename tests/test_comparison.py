"""Two files of one process: same within tolerance, or different, and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from pyproj import CRS

from geoevidence.comparison import Tolerance, compare_product, compare_values
from geoevidence.raster import Grid, Raster, write_cog
from geoevidence.types import Message, Product

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def product(media_type: str, kind: str = "dsm") -> Product:
    return Product(path="x", kind=kind, media_type=media_type, title=Message(id="core.synthetic"))


def heights(path: Path, change: dict[tuple[int, int], float], *, cell: float = 1.0) -> Path:
    data = np.arange(10_000, dtype=np.float32).reshape(1, 100, 100) / 100
    for (row, col), value in change.items():
        data[0, row, col] = value
    grid = Grid(shape=(100, 100), transform=Affine(cell, 0, 500_000, 0, -cell, 3_000_000), crs=CRS.from_epsg(4547))
    write_cog(path, Raster(data=data, grid=grid, nodata=float("nan"), unit="m"))
    return path


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({}, "within_tolerance", "0 of 10000"),
        ({(3, 4): 3.04 + 0.009}, "within_tolerance", "0 of 10000"),
        ({(3, 4): 99.0}, "within_tolerance", "1 of 10000"),
        ({(3, n): 99.0 for n in range(11)}, "differs", "11 of 10000"),
        ({(3, n): float("nan") for n in range(11)}, "differs", "11 of 10000"),
    ],
)
def test_rasters(tmp_path: Path, change: dict[tuple[int, int], float], status: str, words: str) -> None:
    stated, found = heights(tmp_path / "a.tif", {}), heights(tmp_path / "b.tif", change)
    tolerance = {"dsm": Tolerance(value=0.01, share=0.001)}
    likeness = compare_product(product(TIFF), stated, found, tolerances=tolerance)
    assert likeness is not None and likeness[0] == status and words in likeness[1]
    # without a tolerance of its own a raster is compared exactly
    exact = compare_product(product(TIFF, "status"), stated, found, tolerances=tolerance)
    assert exact is not None and exact[0] == ("differs" if change else "within_tolerance")


def test_rasters_on_other_grids_or_damaged_differ(tmp_path: Path) -> None:
    stated, other = heights(tmp_path / "a.tif", {}), heights(tmp_path / "b.tif", {}, cell=2.0)
    (tmp_path / "c.tif").write_bytes(b"II*\0")
    for found in (other, tmp_path / "c.tif", tmp_path / "absent.tif"):
        likeness = compare_product(product(TIFF), stated, found, tolerances={})
        assert likeness is not None and likeness[0] == "differs"


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"a": "1.00009", "b": [1, "x", None]}, "within_tolerance"),
        ({"a": "1.0002", "b": [1, "x", None]}, "differs"),
        ({"a": "1.0", "b": [1, "y", None]}, "differs"),
        ({"a": "1.0", "b": [1, "x"]}, "differs"),
        ({"a": "1.0"}, "differs"),
        ({"a": True, "b": [1, "x", None]}, "differs"),
        ({"a": "1.0", "b": [1.00001, "x", None]}, "within_tolerance"),
        ({"a": "1.0", "b": [0, "x", None]}, "differs"),
    ],
)
def test_numbers_in_json(tmp_path: Path, found: dict[str, object], status: str) -> None:
    (tmp_path / "a").write_text(json.dumps({"a": "1.0", "b": [1, "x", None]}))
    (tmp_path / "b").write_text(json.dumps(found))
    likeness = compare_product(product("application/json"), tmp_path / "a", tmp_path / "b", tolerances={})
    assert likeness is not None and likeness[0] == status


def test_csv_and_unknown_and_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("date,v\n2020-01-01,0.5\n")
    (tmp_path / "b").write_text("date,v\n2020-01-01,0.50001\n")
    assert compare_product(product("text/csv"), tmp_path / "a", tmp_path / "b", tolerances={}) == (
        "within_tolerance",
        "largest relative difference 2e-05",
    )
    assert compare_product(product("application/json"), tmp_path / "a", tmp_path / "b", tolerances={})[0] == "differs"  # type: ignore[index]
    assert compare_product(product("model/gltf-binary"), tmp_path / "a", tmp_path / "b", tolerances={}) is None
    assert compare_values([1e308], [-1e308])[0] == "differs"


def test_pictures(tmp_path: Path) -> None:
    grey = np.full((100, 100), 100, np.uint8)
    for name, cells, level in (("a", 0, 0), ("b", 100, 255), ("c", 101, 255), ("d", 10_000, 116)):
        picture = grey.copy()
        picture.flat[:cells] = level
        Image.fromarray(picture).save(tmp_path / name, format="PNG")
    Image.fromarray(grey[:50]).save(tmp_path / "e", format="PNG")
    found = {
        name: compare_product(product("image/png"), tmp_path / "a", tmp_path / name, tolerances={})[0]  # type: ignore[index]
        for name in "bcde"
    }
    assert found == {"b": "within_tolerance", "c": "differs", "d": "within_tolerance", "e": "differs"}


@pytest.mark.parametrize(
    ("stated", "found", "status"),
    [
        # 1e-4 of a longitude or a northing would be hundreds of metres
        ([114.28092209, 30.3595685], [114.28092215, 30.3595685], "within_tolerance"),
        ([114.28092209, 30.3595685], [114.2810, 30.3595685], "differs"),
        (["527006.933", "3360006.999"], ["527006.936", "3360006.999"], "within_tolerance"),
        (["527006.933", "3360006.999"], ["527006.933", "3360008.0"], "differs"),
    ],
)
def test_a_place_may_move_by_a_centimetre_only(stated: list[object], found: list[object], status: str) -> None:
    for name in ("coordinates", "polygon"):
        sides = [{"features": [{"geometry": {name: [each, [each]]}}]} for each in (stated, found)]
        assert compare_values(*sides)[0] == status
