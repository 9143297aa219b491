"""Wrong scales and offsets are found by comparing scenes; haze, snow, flood and season are not taken for them."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio

from satellite.cube import read_block
from satellite.scene_checks import compare_scenes, level_steps
from satellite.scenes import read_scenes, scenes_record
from satellite.stack import LevelStep
from satellite.types import NODATE, BreakMap, Status
from satellite.workflow import _step_gap
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


# ------------------------------------------------------------------------------------------------ steps of the level


def steps(values: np.ndarray) -> tuple[LevelStep, ...]:
    """Scenes 15 days apart from 2016-01-01 on."""
    return level_steps(values, date(2016, 1, 1).toordinal() + 15 * np.arange(len(values)))


@pytest.mark.parametrize("seed", range(6))
def test_no_step_among_usual_scenes(seed: int) -> None:
    assert steps(usual(seed)) == ()


@pytest.mark.parametrize("factor", [1.4, 0.6])
def test_a_step_of_all_bands_is_named_and_dated(factor: float) -> None:
    values = usual(3)
    values[36:] *= factor
    (step,) = steps(values)
    first = date(2016, 1, 1) + timedelta(days=15 * 36)
    # The places' scatter is known, the scenes' haze (0 to 0.03) moves the middle of a year, so the date may lie two scenes off.
    assert abs((step.after - first).days) <= 30 and step.before == step.after - timedelta(days=15)
    assert step.scenes == (24, 25)
    # Scenes are compared with the median of both states: half way, so the share of the usual level lies between those of the two states.
    low, high = sorted(((factor - 1), (factor - 1) / factor))
    assert all(low - 0.06 <= share <= high + 0.06 for share in step.share)
    assert all(np.sign(shift) == np.sign(factor - 1) for shift in step.shift)


def test_what_moves_some_bands_or_some_places_is_no_step() -> None:
    values = usual(4)
    values[36:, 3] *= 1.5  # the near infrared alone, as a meadow left to itself
    assert steps(values) == ()
    values = usual(4)
    values[36:, :, :120] *= 1.5  # a third of the places in all bands, as a large clearing
    assert steps(values) == ()
    values = usual(4)
    values[36:41] *= 1.5  # five scenes, as a winter with snow
    assert steps(values) == ()


def test_too_few_scenes_or_bands_name_no_step() -> None:
    values = usual(5)
    values[36:] *= 1.5
    assert steps(values[29:43]) == () and steps(values[:, :2]) == ()
    assert len(steps(values[20:52])) == 1


def test_a_step_is_in_the_record(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text('bands = ["a", "b", "c"]\nscale = 0.0001\n')
    rng = np.random.default_rng(7)
    for k in range(48):
        # Single scenes are up to 0.015 off; the step is half of an offset, which would be set aside.
        level = (3000 if k < 24 else 3500) + rng.integers(-150, 151)
        day = date(2022, 1, 1) + timedelta(days=15 * k)
        write_image(tmp_path / f"s_{day:%Y%m%d}.tif", np.full((3, 8, 8), level, np.int16), cell=10)
    stack = read_scenes(tmp_path)
    (step,) = scenes_record(stack, np.zeros((48, 5), np.int64), ())["level_steps"]
    first = date(2022, 1, 1) + timedelta(days=15 * 24)
    # The usual scene of a season is the middle of both states, which blurs the date by some scenes.
    assert abs((date.fromisoformat(step["after"]) - first).days) <= 60 and step["before"] < step["after"]
    assert list(step["shift"]) == list(step["share"]) == ["a", "b", "c"] and len(set(step["shift"].values())) == 1
    assert float(step["shift"]["a"]) == pytest.approx(0.05, abs=0.015) and float(step["size"]) >= 4


def test_the_result_says_how_many_changed_pixels_are_dated_at_a_step() -> None:
    step = LevelStep(
        before=date(1970, 4, 11),
        after=date(1970, 5, 1),
        scenes=(9, 9),
        shift=(0.02, 0.1, 0.03),
        share=(0.18, 0.402, 0.2),
        size=5.0,
    )
    # The step may lie 60 days off: from day 40 to day 180. Intervals (first row of pixels): ends a day before that, ends on its first day,
    # begins on its last, begins a day later, none.
    assert step.span == (date(1970, 2, 10), date(1970, 6, 30))
    low = np.array([[[20, 20, 180, 181, NODATE]]], np.int32)
    high = np.array([[[39, 40, 200, 200, NODATE]]], np.int32)
    middle = np.where(low == NODATE, NODATE, (low + high) // 2).astype(np.int32)
    nothing = np.full((1, 1, 5), np.nan, np.float32)
    breaks = BreakMap(
        grid=None,
        first_day=0,
        last_day=400,
        break_date=middle,
        last_clear_before=low,
        first_clear_after=high,
        magnitude=nothing,
        magnitude_of="NDVI",
        score=nothing,
        pace=np.zeros((1, 1, 5), np.uint8),
        observations=np.zeros((1, 5), np.int16),
        status=np.full((1, 5), np.uint8(Status.CHANGE)),
    )
    message = _step_gap(step, breaks)
    assert message.values == {
        "before": "1970-04-11", "after": "1970-05-01", "low": "+18", "high": "+40", "pixels": 2, "total": 4,
    }  # fmt: skip
    assert "+18" in message.render("zh") and "2 of 4" in message.render("en")
