"""Wrong scales and offsets are found by comparing scenes; haze, snow, flood and season are not taken for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from satellite.cube import read_block
from satellite.scene_checks import compare_scenes
from satellite.scenes import read_scenes, scenes_record
from tests.satellite.scene_fixtures import LEVEL, ROLES, write_image, write_safe

LEVELS = np.array([LEVEL[role] for role in ROLES])
N = 400


def usual(seed: int, scenes: int = 72) -> np.ndarray:
    """(scene, band, n): ground that differs from place to place, a season, noise and haze of each scene."""
    rng = np.random.default_rng(seed)
    ground = LEVELS[:, None] * np.exp(rng.normal(0, 0.4, N))
    season = np.array([-0.01, -0.01, -0.03, 0.10, -0.04, -0.03])
    phase = np.cos(2 * np.pi * 15 * np.arange(scenes) / 365.2425)
    haze = np.abs(rng.normal(0, 0.012, scenes))[:, None] * np.array([1.0, 0.8, 0.6, 0.3, 0.1, 0.05])
    values = ground + 0.5 * (phase[:, None] * season)[:, :, None] + haze[:, :, None]
    return values + rng.normal(0, 0.01, values.shape)


def compare(values: np.ndarray) -> list[tuple[dict[str, str] | None, str, str]]:
    """Scenes 15 days apart."""
    return compare_scenes(values, 15 * np.arange(len(values)))


def kinds(values: np.ndarray) -> list[str]:
    return [kind for _, kind, _ in compare(values)]


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_found_among_usual_scenes(seed: int) -> None:
    assert set(kinds(usual(seed))) == {""}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0.1, -0.1])
def test_an_offset_that_was_forgotten_or_applied_twice(seed: int, offset: float) -> None:
    values = usual(seed)
    values[5] += offset
    values[20] += offset
    found = compare(values)
    assert [i for i, (_, kind, _) in enumerate(found) if kind == "offset"] == [5, 20]
    # Haze and season shift single scenes by a few hundredths.
    assert float(found[5][2]) == pytest.approx(offset, abs=0.035)


@pytest.mark.parametrize("factor", [10_000.0, 10.0, 0.1, 1e-4])
def test_wrong_factors(factor: float) -> None:
    values = usual(1)
    values[3] *= factor
    found = compare(values)
    assert [i for i, (_, kind, _) in enumerate(found) if kind] == [3] and found[3][1] == "factor"


def test_real_changes_of_a_whole_scene_are_not_odd() -> None:
    values = usual(2)
    values[2] += np.array([0.12, 0.10, 0.08, 0.05, 0.02, 0.01])[:, None]  # haze all over
    values[4] = np.array([0.55, 0.55, 0.55, 0.50, 0.08, 0.06])[:, None]  # snow all over
    values[6] = np.array([0.05, 0.06, 0.04, 0.02, 0.01, 0.01])[:, None]  # flood all over
    values[8] *= 0.7  # wet and in shade
    values[10, :, :370] = np.nan  # little is clear
    values[10] += 0.1
    found = compare(values)
    assert {kind for _, kind, _ in found} == {""} and found[10][0] is None


def test_the_larger_group_is_kept() -> None:
    """The first 28 of 72 scenes: as if an archive had changed its way on one day."""
    values = usual(3)
    values[:28] += 0.1
    assert kinds(values) == ["offset"] * 28 + [""] * 44


def test_few_scenes_are_not_judged() -> None:
    assert kinds(usual(1, scenes=4) * np.array([1.0, 1, 1, 10])[:, None, None]) == [""] * 4


def test_odd_scenes_of_a_stack_are_named_and_left_out(tmp_path: Path) -> None:
    """A product whose metadata lost the offset of its baseline."""
    days = ("20220101", "20220111", "20220121", "20220131", "20220210", "20220220")
    for day in days:
        write_safe(tmp_path, day, checksums=False)
    victim = next(tmp_path.glob("*20220131T02*"))
    path = victim / "MTD_MSIL2A.xml"
    path.write_text(path.read_text().replace(">-1000<", ">0<"))
    stack = read_scenes(tmp_path)
    odd = [scene for scene in stack.scenes if scene.status == "odd_values"]
    assert [scene.path for scene in odd] == [victim] and len(stack.usable) == 5
    assert odd[0].reason is not None and "+0.10" in odd[0].reason.render("zh")
    assert odd[0].check is not None and float(odd[0].check["shift"]) == pytest.approx(0.1, abs=1e-3)
    assert all(scene.check is not None and scene.check["shift"] == "0.0000" for scene in stack.usable)
    record = scenes_record(stack, np.zeros((5, 5), np.int64), ())
    assert [scene["status"] for scene in record["scenes"]].count("odd_values") == 1
    kept = read_scenes(tmp_path, {"keep_odd": True})
    assert len(kept.usable) == 6
    cube = read_block(kept)
    assert (cube.stored[3] - cube.stored[2] == 1000).all()


def test_overviews_serve_where_there_are_some(tmp_path: Path) -> None:
    """Large files with overviews: the same answer from the reduced copies."""
    (tmp_path / "stack.toml").write_text('bands = ["a", "b", "c"]\nscale = 0.0001\n')
    for index in range(6):
        data = np.stack([np.full((600, 600), 500 * (band + 1), np.int16) for band in range(3)])
        data += np.random.default_rng(index).integers(-20, 20, data.shape).astype(np.int16)
        if index == 2:
            data += 1000
        path = tmp_path / f"s_202001{index + 1:02d}.tif"
        write_image(path, data, cell=10, tiled=True, blockxsize=256, blockysize=256)
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2, 4, 8])
    assert [scene.status for scene in read_scenes(tmp_path).scenes] == ["read", "read", "odd_values", "read", "read", "read"]
