"""Sentinel-2 SAFE and Landsat products: offsets, resolutions, bits, and products that are not whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoevidence.errors import CoverageError, FormatError
from satellite.cube import read_block
from satellite.products import read_mtl
from satellite.scenes import read_scenes
from satellite.types import Observed
from tests.satellite.scene_fixtures import ROLES, plain, write_image, write_landsat, write_safe


def on_10_m(role: str) -> np.ndarray:
    """What a fixture holds on its 10 m grid of 60 x 60 cells: bands of 20 m are repeated."""
    if role in ("swir1", "swir2"):
        return plain(role, (30, 30)).repeat(2, 0).repeat(2, 1)
    return plain(role, (60, 60))


def test_offsets_before_and_after_baseline_4_give_the_same_reflectance(tmp_path: Path) -> None:
    write_safe(tmp_path, "20211201", baseline="03.01", offset=0, offsets_listed=False)
    write_safe(tmp_path, "20220201", baseline="04.00", offset=-1000)
    stack = read_scenes(tmp_path)
    assert (stack.layout, stack.grid.shape, stack.storage.dtype) == ("safe", (60, 60), "int16")
    old, new = stack.usable
    assert [scene.baseline for scene in (old, new)] == ["03.01", "04.00"] and new.tile == "50RKU"
    assert {asset.offset for asset in old.assets} == {0.0}
    assert {asset.offset for asset in new.assets if asset.role == "value"} == {-0.1}
    cube = read_block(stack)
    truth = np.stack([on_10_m(role) for role in ROLES])
    # The files hold reflectance in steps of 1e-4, which these grounds are: nothing may be lost.
    assert np.array_equal(cube.stored[0], np.rint(truth * 1e4)) and np.array_equal(cube.stored[1], cube.stored[0])
    assert (cube.observed == Observed.CLEAR).all() and cube.scale == 1e-4 and cube.offset == 0


def test_each_band_has_its_own_offset(tmp_path: Path) -> None:
    product = write_safe(tmp_path, "20220201", checksums=False)
    path = product / "MTD_MSIL2A.xml"
    path.write_text(path.read_text().replace('band_id="3">-1000', 'band_id="3">-900'))
    assets = {asset.band: asset for asset in read_scenes(tmp_path).usable[0].assets}
    assert assets["red"].offset == pytest.approx(-0.09) and assets["nir"].offset == pytest.approx(-0.1)


def test_resampling_is_recorded_and_can_be_chosen(tmp_path: Path) -> None:
    write_safe(tmp_path, "20220201")
    plain_stack = read_scenes(tmp_path)
    methods = {asset.band: asset.resampling for asset in plain_stack.usable[0].assets}
    assert methods == {"blue": "none", "green": "none", "red": "none", "nir": "none"} | dict.fromkeys(
        ("swir1", "swir2", "SCL"), "nearest"
    )
    coarse = read_scenes(tmp_path, {"resolution": 20.0})
    assets = {asset.band: asset for asset in coarse.usable[0].assets}
    # The product's own 20 m copies are used; band 8 has none and is averaged.
    assert assets["red"].href.endswith("B04_20m.jp2") and assets["red"].resampling == "none"
    assert assets["nir"].href.endswith("B08_10m.jp2") and assets["nir"].resampling == "average"
    assert coarse.grid.shape == (30, 30) and coarse.storage.dtype == "float32"
    nir = read_block(coarse).values[0, 3]
    truth = plain("nir", (60, 60)).reshape(30, 2, 30, 2).mean(axis=(1, 3))
    # float32 of values below 0.4: half a unit in the last place is 1.5e-8, with the sum of four.
    assert np.abs(nir - truth).max() < 1e-7
    smooth = read_scenes(tmp_path, {"resampling": "bilinear"})
    assert {asset.resampling for asset in smooth.usable[0].assets if asset.band == "swir1"} == {"bilinear"}


def test_nodata_saturation_and_classes(tmp_path: Path) -> None:
    product = write_safe(tmp_path, "20220201", checksums=False)
    red = next(product.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2"))
    stored = np.full((60, 60), 1500, np.uint16)
    stored[0, 0], stored[0, 1], stored[0, 2], stored[0, 3] = 0, 65535, 950, 40000
    write_image(red, stored, cell=10, driver="JP2OpenJPEG")
    cube = read_block(read_scenes(tmp_path))
    assert cube.observed[0, 0, :5].tolist() == [
        Observed.NOT_OBSERVED,
        Observed.CLOUD,
        Observed.CLEAR,
        Observed.CLOUD,
        Observed.CLEAR,
    ]
    # A little below zero is kept: water and shadow have it; too bright for int16 counts as saturated.
    assert cube.values[0, 2, 0, 2] == pytest.approx(-0.005, abs=1e-8)
    assert (cube.stored[0, 2, 0, [0, 1, 3]] == 0).all()


def test_products_that_are_not_whole_are_named(tmp_path: Path) -> None:
    write_safe(tmp_path, "20220101")
    write_safe(tmp_path, "20220111", level="Level-1C")
    write_safe(tmp_path, "20220121", omit=("B04",))
    write_safe(tmp_path, "20220131", offsets_listed=False)
    (tmp_path / "S2A_MSIL2A_20220205T025541_N0400_R032_T50RKU_20220205T063000.SAFE").mkdir()
    changed = write_safe(tmp_path, "20220210")
    image = next(changed.glob("GRANULE/*/IMG_DATA/R10m/*_B02_10m.jp2"))
    write_image(image, np.full((60, 60), 1234, np.uint16), cell=10, driver="JP2OpenJPEG")
    linked = write_safe(tmp_path.parent / f"{tmp_path.name}-away", "20220301")
    (tmp_path / linked.name).symlink_to(linked, target_is_directory=True)
    entities = write_safe(tmp_path, "20220220")
    path = entities / "MTD_MSIL2A.xml"
    path.write_text(path.read_text().replace("?>", '?><!DOCTYPE x [<!ENTITY a "b">]>', 1))
    stack = read_scenes(tmp_path)
    status = {scene.name[11:19]: scene.status for scene in stack.scenes}
    assert status == {
        "20220101": "read",
        "20220111": "other_level",
        "20220121": "missing_file",
        "20220131": "damaged",
        "20220205": "damaged",
        "20220210": "damaged",
        "20220220": "damaged",
        "20220301": "outside_folder",
    }
    assets = {asset.band: asset.status for scene in stack.scenes if "20220121T" in scene.name for asset in scene.assets}
    assert assets["red"] == "missing" and assets["blue"] == "read"
    for scene in stack.scenes:
        if scene.status != "read":
            assert scene.reason is not None and scene.name in scene.reason.render("zh")
            assert str(tmp_path) not in scene.reason.render("en")


def test_truncated_jpeg_2000_is_a_failed_read(tmp_path: Path) -> None:
    """Codestream cut in the middle: what is lost is failed, or the file is damaged; it is never plain ground."""
    write_safe(tmp_path, "20220101", size=600)
    victim = write_safe(tmp_path, "20220111", size=600, checksums=False)
    image = next(victim.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2"))
    raw = image.read_bytes()
    image.write_bytes(raw[: len(raw) // 2])
    stack = read_scenes(tmp_path)
    scene = next(scene for scene in stack.scenes if "20220111" in scene.name)
    assert scene.status == "read"
    cube = read_block(stack)
    assert (cube.observed[1] == Observed.FAILED_READ).any() and (cube.observed[0] == Observed.CLEAR).all()
    assert cube.failed_assets == {(scene.name, "red")}


def test_two_tiles_of_one_day_lie_on_one_grid(tmp_path: Path) -> None:
    """Tiles of the same zone overlap and share their cells: one grid over both, no resampling."""
    write_safe(tmp_path, "20220101", tile="50RKU")
    write_safe(tmp_path, "20220101", tile="50RLU", corner=(500000.0 + 400, 3300000.0), scl=6)
    write_safe(tmp_path, "20220111", tile="50RLU", corner=(500000.0 + 400, 3300000.0))
    stack = read_scenes(tmp_path)
    assert stack.grid.shape == (60, 100) and len(stack.days) == 2 and len(stack.usable) == 3
    cube = read_block(stack)
    assert (cube.observed[0] == Observed.CLEAR).all()
    assert np.array_equal(cube.stored[0, 0, :, :60], np.rint(plain("blue", (60, 60)) * 1e4))
    assert np.array_equal(cube.stored[0, 0, :, 60:], np.rint(plain("blue", (60, 60)) * 1e4)[:, 20:])
    assert (cube.observed[1, :, :40] == Observed.NOT_OBSERVED).all() and (cube.observed[1, :, 40:] == Observed.CLEAR).all()


def test_a_tile_far_away_is_left_out(tmp_path: Path) -> None:
    write_safe(tmp_path, "20220101")
    write_safe(tmp_path, "20220111")
    write_safe(tmp_path, "20220121", tile="50RQU", corner=(800000.0, 3300000.0))
    stack = read_scenes(tmp_path)
    assert stack.grid.shape == (60, 60)
    assert {scene.name[11:19]: scene.status for scene in stack.scenes}["20220121"] == "other_grid"


@pytest.mark.parametrize("kind", ["json", "txt", "xml"])
def test_landsat_uses_the_level_2_factors(tmp_path: Path, kind: str) -> None:
    write_landsat(tmp_path, "20211201", kind=kind)
    stack = read_scenes(tmp_path)
    scene = stack.usable[0]
    assert (scene.sensor, scene.tile, scene.baseline) == ("Landsat 8", "123039", "LPGS_15.3.1c")
    assert {(asset.scale, asset.offset) for asset in scene.assets if asset.role == "value"} == {(2.75e-05, -0.2)}
    # All 65536 stored numbers fit in int16 after one shift: nothing is rounded.
    assert stack.storage.dtype == "int16" and stack.storage.offset == pytest.approx(-0.2 + 32768 * 2.75e-5)
    values = read_block(stack).values[0]
    # Half a step of the file, and float32 of numbers below 1.
    assert np.abs(values - np.stack([plain(role, (20, 20)) for role in ROLES])).max() <= 0.5 * 2.75e-5 + 1.2e-7


def test_landsat_bits(tmp_path: Path) -> None:
    write_landsat(tmp_path, "20211201")
    write_landsat(tmp_path, "20211202", qa=21824 | 1 << 4)
    write_landsat(tmp_path, "20211203", qa=1)
    write_landsat(tmp_path, "20211204", radsat=1 << 4)  # band 5, wanted
    write_landsat(tmp_path, "20211205", radsat=1 << 8)  # band 9, not wanted
    write_landsat(tmp_path, "20211206", spacecraft="LANDSAT_7", radsat=1 << 5)  # band 6 (thermal), not wanted
    write_landsat(tmp_path, "20211207", spacecraft="LANDSAT_7", radsat=1 << 9)  # dropped pixel
    write_landsat(tmp_path, "20211208", level="L1TP")
    stack = read_scenes(tmp_path)
    assert [scene.status for scene in stack.scenes] == ["read"] * 7 + ["other_level"]
    found = read_block(stack).observed[:, 3, 3].tolist()
    cloud, clear = Observed.CLOUD, Observed.CLEAR
    assert found == [clear, cloud, Observed.NOT_OBSERVED, cloud, clear, clear, cloud]


def test_bad_metadata_of_landsat(tmp_path: Path) -> None:
    path = tmp_path / "LC08_L2SP_123039_20211201_20230101_02_T1_MTL.txt"
    for text in ("GROUP = A\n a = 1\n a = 2\nEND_GROUP = A\nEND", "GROUP = A\nEND_GROUP = B\n", "GROUP = A\n", "what\n"):
        path.write_text(text)
        with pytest.raises(FormatError):
            read_mtl(path)
    with pytest.raises(CoverageError) as caught:
        read_scenes(tmp_path)
    assert caught.value.message_id == "satellite.no_usable_scene"


def test_two_kinds_of_products_are_not_mixed(tmp_path: Path) -> None:
    write_safe(tmp_path, "20220101")
    write_landsat(tmp_path, "20211201")
    with pytest.raises(FormatError) as caught:
        read_scenes(tmp_path)
    assert caught.value.message_id == "satellite.mixed_products"


def test_one_product_alone(tmp_path: Path) -> None:
    product = write_landsat(tmp_path, "20211201")
    assert len(read_scenes(product).usable) == 1
    assert len(read_scenes(write_safe(tmp_path / "s", "20220101")).usable) == 1
