"""STAC on disk: what links reach, what is refused, how bands and factors are found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoevidence.errors import CoverageError, FormatError
from satellite.cube import read_block
from satellite.scenes import read_scenes
from satellite.types import Observed
from tests.satellite.scene_fixtures import LEVEL, ROLES, write_catalogue, write_image, write_item

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
NAMES = {"blue": "blue", "green": "green", "red": "red", "nir": "nir", "swir1": "swir16", "swir2": "swir22"}


def sentinel_assets(folder: Path, *, offset: int = 0, states: bool = True) -> dict[str, dict[str, Any]]:
    """Assets of a Sentinel-2 item with COGs beside it; `offset` is added to what is stored."""
    assets: dict[str, dict[str, Any]] = {}
    for role, common in NAMES.items():
        cell = 20 if role.startswith("swir") else 10
        data = np.full((400 // cell, 400 // cell), round(LEVEL[role] * 10000) + offset, np.uint16)
        write_image(folder / f"{common}.tif", data, cell=cell, nodata=0)
        band: dict[str, Any] = {"nodata": 0, "data_type": "uint16"}
        if states:
            band |= {"scale": 0.0001, "offset": -offset / 10000}
        eo = [{"name": common, "common_name": common}]
        assets[common] = {"href": f"./{common}.tif", "type": TIFF, "roles": ["data"], "eo:bands": eo, "raster:bands": [band]}
        assets[f"{common}-jp2"] = {**assets[common], "href": "s3://bucket/x.jp2", "type": "image/jp2"}
    write_image(folder / "scl.tif", np.full((20, 20), 4, np.uint8), cell=20)
    assets["scl"] = {"href": "scl.tif", "type": TIFF}
    assets["thumbnail"] = {"href": "https://example.invalid/t.jpg", "type": "image/jpeg", "roles": ["thumbnail"]}
    return assets


def truth() -> np.ndarray:
    return np.array([round(LEVEL[role] * 10000) for role in ROLES])


def test_a_collection_of_items(tmp_path: Path) -> None:
    links = []
    for index, (day, offset) in enumerate((("2021-12-01", 0), ("2022-02-01", 1000))):
        folder = tmp_path / f"item{index}"
        path = write_item(tmp_path, f"item{index}", day, sentinel_assets(folder, offset=offset), platform="sentinel-2a")
        links.append(("item", f"./{path.relative_to(tmp_path).as_posix()}"))
    write_catalogue(tmp_path, links)
    stack = read_scenes(tmp_path)
    assert stack.layout == "stac" and [scene.name for scene in stack.usable] == ["item0", "item1"]
    assert stack.spec.quality == "SCL" and stack.grid.shape == (40, 40) and stack.storage.dtype == "int16"
    assert {asset.resampling for asset in stack.usable[0].assets if asset.band == "swir1"} == {"nearest"}
    cube = read_block(stack)
    assert (cube.stored == truth()[None, :, None, None]).all() and (cube.observed == Observed.CLEAR).all()
    # All ways to the same items are the same stack.
    write_catalogue(tmp_path, [("child", "collection.json"), ("child", "collection.json")], kind="Catalog", name="catalog.json")
    again = read_scenes(tmp_path / "catalog.json")
    assert [scene.name for scene in again.usable] == ["item0", "item1"]
    features = [json.loads((tmp_path / f"item{i}/item{i}.json").read_text()) for i in range(2)]
    for index, feature in enumerate(features):
        for asset in feature["assets"].values():
            if not asset["href"].startswith(("s3:", "https:")):
                asset["href"] = f"item{index}/{asset['href'].removeprefix('./')}"
    (tmp_path / "all.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert np.array_equal(read_block(read_scenes(tmp_path / "all.json")).stored, cube.stored)


def test_hrefs_to_nowhere_outside_and_the_network(tmp_path: Path) -> None:
    root = tmp_path / "catalogue"
    good = sentinel_assets(root / "good")
    write_image(tmp_path / "outside.tif", np.full((40, 40), 1, np.uint16), cell=10)
    (root / "link").mkdir(parents=True)
    (root / "link" / "red.tif").symlink_to(tmp_path / "outside.tif")
    hrefs = {
        "nowhere": "./gone.tif",
        "network": "https://example.invalid/red.tif",
        "bucket": "s3://bucket/red.tif",
        "virtual": "/vsicurl/https://example.invalid/red.tif",
        "outside": "../../outside.tif",
        "absolute": str(tmp_path / "outside.tif"),
        "link": "../link/red.tif",
    }
    links = [("item", write_item(root, "good", "2022-01-01", good).relative_to(root).as_posix())]
    for index, (name, href) in enumerate(hrefs.items()):
        assets = {key: {**asset, "href": f"../good/{asset['href']}"} for key, asset in good.items()}
        assets["red"] = {**good["red"], "href": href}
        path = write_item(root, f"item-{name}", f"2022-02-{index + 1:02d}", assets)
        links.append(("item", path.relative_to(root).as_posix()))
    links += [("item", "gone/gone.json"), ("item", "https://example.invalid/item.json"), ("child", "../above/catalog.json")]
    write_catalogue(root, links)
    (root / "broken.json").write_text("{")
    write_catalogue(root, [*links, ("item", "broken.json")])
    stack = read_scenes(root / "collection.json")
    status = {scene.name: scene.status for scene in stack.scenes}
    assert status == {
        "good": "read",
        "item-nowhere": "missing_file",
        "item-network": "network",
        "item-bucket": "network",
        "item-virtual": "network",
        "item-outside": "outside_folder",
        "item-absolute": "outside_folder",
        "item-link": "outside_folder",
        "gone/gone.json": "missing_file",
        "https://example.invalid/item.json": "network",
        "../above/catalog.json": "outside_folder",
        "broken.json": "damaged",
    }
    for scene in stack.scenes:
        assert (scene.reason is None) == (scene.status == "read")
        if scene.reason is not None:
            assert scene.name in scene.reason.render("zh")
    # Nothing that was refused was read.
    assert {name.partition("/")[0] for name in stack.files if name.endswith(".tif")} == {"good"}


def test_a_checksum_that_does_not_fit(tmp_path: Path) -> None:
    assets = sentinel_assets(tmp_path / "a")
    digest = hashlib.sha256((tmp_path / "a" / "red.tif").read_bytes()).hexdigest()
    assets["red"]["file:checksum"] = "1220" + digest
    write_item(tmp_path, "a", "2022-01-01", assets)
    assert read_scenes(tmp_path / "a" / "a.json").usable[0].name == "a"
    assets["red"]["file:checksum"] = "1220" + "0" * 64
    write_item(tmp_path, "a", "2022-01-01", assets)
    with pytest.raises(CoverageError) as caught:
        read_scenes(tmp_path / "a" / "a.json")
    assert "checksum" in caught.value.render("en")


@pytest.mark.parametrize(
    "properties, stored, said",
    [
        ({"platform": "sentinel-2b", "s2:processing_baseline": "05.09"}, 1000, "processing baseline"),
        ({"platform": "sentinel-2b", "s2:processing_baseline": "02.12"}, 0, "processing baseline"),
        (
            {"platform": "sentinel-2b", "s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True},
            0,
            "boa_offset_applied",
        ),
    ],
)
def test_items_that_state_no_scale(tmp_path: Path, properties: dict[str, Any], stored: int, said: str) -> None:
    write_item(tmp_path, "a", "2022-06-01", sentinel_assets(tmp_path / "a", offset=stored, states=False), **properties)
    stack = read_scenes(tmp_path / "a" / "a.json")
    assert stack.usable[0].values_from == said
    assert (read_block(stack).stored[0] == truth()[:, None, None]).all()


def test_an_offset_that_was_applied_is_not_applied_again(tmp_path: Path) -> None:
    assets = sentinel_assets(tmp_path / "a")
    for asset in assets.values():
        for band in asset.get("raster:bands", []):
            band["offset"] = -0.1
    properties = {"platform": "sentinel-2a", "earthsearch:boa_offset_applied": True}
    write_item(tmp_path, "a", "2022-06-01", assets, **properties)
    stack = read_scenes(tmp_path / "a" / "a.json")
    assert stack.usable[0].values_from == "boa_offset_applied"
    assert (read_block(stack).stored[0] == truth()[:, None, None]).all()


def test_an_unknown_scale_is_said(tmp_path: Path) -> None:
    write_item(tmp_path, "a", "2022-06-01", sentinel_assets(tmp_path / "a", states=False), platform="other")
    with pytest.raises(CoverageError) as caught:
        read_scenes(tmp_path / "a" / "a.json")
    assert "--scale" in caught.value.render("zh")
    assert read_scenes(tmp_path / "a", {"scale": 1e-4}).usable[0].values_from == "stack.toml"


def test_landsat_items_and_version_1_1(tmp_path: Path) -> None:
    """Bands by common name in `bands`, quality and saturation as bits."""
    numbers = {"blue": 2, "green": 3, "red": 4, "nir08": 5, "swir16": 6, "swir22": 7}
    assets: dict[str, dict[str, Any]] = {}
    for common, number in numbers.items():
        write_image(tmp_path / "a" / f"B{number}.tif", np.full((20, 20), 10000 + number, np.uint16), cell=30, nodata=0)
        band = {"name": f"SR_B{number}", "eo:common_name": common, "raster:scale": 2.75e-5, "raster:offset": -0.2}
        assets[f"asset{number}"] = {"href": f"B{number}.tif", "type": TIFF, "bands": [band]}
    radsat = np.zeros((20, 20), np.uint16)
    radsat[0, 0], radsat[0, 1] = 1 << 4, 1 << 0
    write_image(tmp_path / "a" / "radsat.tif", radsat, cell=30)
    quality = np.full((20, 20), 21824, np.uint16)
    quality[1, 1], quality[1, 2] = 21824 | 1 << 3, 1
    write_image(tmp_path / "a" / "qa.tif", quality, cell=30)
    assets |= {"qa_pixel": {"href": "qa.tif", "type": TIFF}, "qa_radsat": {"href": "radsat.tif", "type": TIFF}}
    write_item(tmp_path, "a", "2022-06-01", assets, platform="landsat-9")
    cube = read_block(read_scenes(tmp_path / "a" / "a.json"))
    assert cube.values[0, :, 5, 5] == pytest.approx([(10000 + n) * 2.75e-5 - 0.2 for n in numbers.values()], abs=1.2e-7)
    assert cube.observed[0, 0, :2].tolist() == [Observed.CLOUD, Observed.CLEAR]
    assert cube.observed[0, 1, :3].tolist() == [Observed.CLEAR, Observed.CLOUD, Observed.NOT_OBSERVED]


def test_not_stac(tmp_path: Path) -> None:
    for text in ('{"type": "Other"}', '{"a": 1, "a": 2}', "[1]", '{"type": "Catalog", "links": NaN}', '{"type": "Catalog"}'):
        (tmp_path / "catalog.json").write_text(text)
        with pytest.raises((FormatError, CoverageError)):
            read_scenes(tmp_path / "catalog.json")
