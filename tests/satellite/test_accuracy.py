"""Sampling and estimating: published examples, other computations, simulated populations with known truth, hostile files."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoevidence.errors import ConfigError, CoverageError, FormatError, GeoEvidenceError, GridMismatchError
from geoevidence.messages import texts
from geoevidence.raster import read_raster, write_cog
from satellite.accuracy import (
    Z95,
    AccuracyAssessment,
    AssessmentConfig,
    _Answers,
    class_estimates,
    estimate_accuracy,
    interval_ends,
    point_lag,
    stratified_ratio,
)
from satellite.events import day_of
from satellite.responses import Answer, Responses, agreement_of, read_responses, settle
from satellite.sampling import (
    STRATA,
    MapBreak,
    Sample,
    SampleConfig,
    SamplePoint,
    allocate,
    classify_strata,
    design_sample,
    draw_pixels,
    points_for_target,
    read_sample,
    stated_options,
)
from satellite.types import Pace, Status

from .small_map import BREAK, write_map


def labels(counts: NDArray[np.int64], classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Map and reference class of each point of an error matrix of counts (map, reference)."""
    pairs = [(m, r) for i, m in enumerate(classes) for j, r in enumerate(classes) for _ in range(int(counts[i, j]))]
    return [m for m, _ in pairs], [r for _, r in pairs]


# Published examples ---------------------------------------------------------------------------------------------------


def test_the_example_of_olofsson_2014() -> None:
    """Tables 8 and 9 and section 5.2: 640 points, four classes, 10 million Landsat pixels of 0.09 ha."""
    classes = ("deforestation", "gain", "stable_forest", "stable_nonforest")
    counts = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    pixels = dict(zip(classes, (200_000, 150_000, 3_200_000, 6_450_000), strict=True))
    mapped, reference = labels(counts, classes)
    found = class_estimates(mapped, mapped, reference, pixels)
    assert found.classes == classes
    hectares = sum(pixels.values()) * 0.09
    # Areas as printed, to the hectare; half-widths within 1.5 ha: the paper has no finite population correction and z = 1.96.
    assert np.abs(found.area * hectares - [21_158, 11_686, 285_770, 581_386]).max() < 0.5
    assert np.abs(found.area_se * Z95 * hectares - [6_158, 3_756, 15_510, 16_282]).max() < 1.5
    assert np.round(found.users, 2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert np.round(found.users_se * Z95, 2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert np.round(found.producers, 2).tolist() == [0.75, 0.85, 0.93, 0.96]
    # Printed are 0.21, 0.23, 0.03, 0.01; the paper's own equation 7 gives 0.25 and 0.02 where it prints 0.23 and 0.01.
    assert np.round(found.producers_se * Z95, 2).tolist() == [0.21, 0.25, 0.03, 0.02]
    assert (round(found.overall, 2), round(found.overall_se * Z95, 2)) == (0.95, 0.02)


def test_the_first_example_of_olofsson_2013() -> None:
    """500 points, three classes, areas in ha; against that paper's equations for strata that are the map's classes, in fractions."""
    classes = ("change", "forest", "other")
    counts = np.array([[97, 0, 3], [3, 279, 18], [2, 1, 97]])
    area = dict(zip(classes, (22_353, 1_122_543, 610_228), strict=True))
    mapped, reference = labels(counts, classes)
    found = class_estimates(mapped, mapped, reference, area)
    total = sum(area.values())
    n = [int(v) for v in counts.sum(axis=1)]
    share = [[Fraction(area[c], total) * Fraction(int(counts[i, j]), n[i]) for j in range(3)] for i, c in enumerate(classes)]
    assert np.abs(found.matrix - np.array([[float(v) for v in row] for row in share])).max() < 1e-14
    for j in range(3):
        column = sum(row[j] for row in share)
        # its variance of a stratified share, times the finite population correction that this module adds
        variance = sum(
            Fraction(area[c], total) ** 2
            * Fraction(int(counts[i, j]), n[i])
            * (1 - Fraction(int(counts[i, j]), n[i]))
            / (n[i] - 1)
            * (1 - Fraction(n[i], area[c]))
            for i, c in enumerate(classes)
        )
        assert found.area[j] == pytest.approx(float(column), rel=1e-13)
        assert found.area_se[j] == pytest.approx(math.sqrt(variance), rel=1e-12)
        assert found.producers[j] == pytest.approx(float(share[j][j] / column), rel=1e-13)
    # Change: twice what the map says, though 97 of 100 mapped points are right.
    assert found.area[0] * total == pytest.approx(45_112.4, abs=0.1)
    assert found.users[0] == 0.97


STEHMAN = {
    "stratum": "A" * 10 + "B" * 10 + "C" * 10 + "D" * 10,
    "mapped": "A" * 7 + "B" * 3 + "A" + "B" * 11 + "C" * 6 + "BB" + "D" * 10,
    "reference": "AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB",
}


def test_the_example_of_stehman_2014() -> None:
    """40 points in four strata that are not the map's classes (pages 4932 to 4936)."""
    found = class_estimates(*(list(STEHMAN[name]) for name in STEHMAN), {"A": 40_000, "B": 30_000, "C": 20_000, "D": 10_000})
    assert found.area == pytest.approx([0.35, 0.34, 0.20, 0.11])
    assert np.round(found.area_se[[0, 2]], 3).tolist() == [0.082, 0.064]
    assert (round(found.overall, 2), round(found.overall_se, 3)) == (0.63, 0.085)
    assert (round(found.users[1], 3), round(found.users_se[1], 3)) == (0.574, 0.125)
    assert (round(found.producers[1], 3), round(found.producers_se[1], 3)) == (0.794, 0.117)
    assert found.matrix[1, 2] == pytest.approx(0.08)


def test_f1_against_another_implementation() -> None:
    """mapac (R, version 0.31) on the same 40 points: the same F1; its error leaves out that user's and producer's accuracy go together."""
    found = class_estimates(*(list(STEHMAN[name]) for name in STEHMAN), {"A": 40_000, "B": 30_000, "C": 20_000, "D": 10_000})
    assert found.f1 == pytest.approx([0.6969697, 0.6666667, 0.375, 0.6666667], abs=5e-8)
    assert np.round(found.users_se, 3).tolist() == [0.165, 0.125, 0.215, 0.153]
    u, p = found.users, found.producers
    apart = np.hypot(2 * p**2 / (u + p) ** 2 * found.users_se, 2 * u**2 / (u + p) ** 2 * found.producers_se)
    # 1e-3 relative: mapac has no finite population correction, here at most sqrt(1 - 10 / 10000)
    assert apart == pytest.approx([0.11034620, 0.09354009, 0.13219833, 0.11284328], rel=1e-3)
    assert (found.f1_se > apart).all()


# Against populations that are known -----------------------------------------------------------------------------------


def test_errors_are_those_of_repeated_sampling() -> None:
    """The standard errors of area, F1 and producer's accuracy against the spread of 2000 samples of one population."""
    rng = np.random.default_rng(71)
    pixels, rates, claim, points = [1500, 2500, 6000], [0.85, 0.25, 0.05], [True, False, False], [60, 70, 90]
    truth = [rng.permutation(np.arange(size) < round(size * rate)) for size, rate in zip(pixels, rates, strict=True)]
    where = np.repeat(np.arange(3), points)
    mapped = np.array(claim)[where].astype(float)
    size = np.array(pixels, float)
    found: dict[str, list[tuple[float, float]]] = {"area": [], "f1": [], "producers": []}
    for _ in range(2000):
        drawn = [rng.choice(values, count, replace=False) for values, count in zip(truth, points, strict=True)]
        really = np.concatenate(drawn).astype(float)
        found["area"].append(stratified_ratio(really, np.ones(len(really)), where, size))
        found["f1"].append(stratified_ratio(2 * mapped * really, mapped + really, where, size))
        found["producers"].append(stratified_ratio(mapped * really, really, where, size))
    total = sum(int(values.sum()) for values in truth)
    hit = int(truth[0].sum())
    true = {"area": total / 10_000, "f1": 2 * hit / (1500 + total), "producers": hit / total}
    for name, pairs in found.items():
        values, errors = np.array(pairs).T
        spread = values.std(ddof=1)
        # The spread of 2000 is known to 1/sqrt(4000) = 1.6 %: three of these, and 3 % for the nonlinearity of the ratios.
        assert errors.mean() == pytest.approx(spread, rel=0.08), name
        # Unbiased (ratios up to order 1/n): within four standard errors of the mean, and a tenth of the spread for the ratios.
        assert abs(values.mean() - true[name]) < 4 * spread / math.sqrt(2000) + (0.1 * spread if name != "area" else 0), name


POPULATIONS = {
    "rare change": ([120, 180, 500, 9200], [0.9, 0.7, 0.1, 0.002], [20, 20, 20, 60]),
    "no omission at all": ([120, 180, 500, 9200], [0.95, 0.9, 0.02, 0.0], [20, 20, 20, 60]),
    "common change": ([800, 1200, 1500, 6500], [0.9, 0.75, 0.2, 0.02], [30, 30, 40, 80]),
    "a region": ([20_000, 30_000, 150_000, 9_800_000], [0.9, 0.7, 0.05, 0.0005], [75, 75, 100, 300]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(POPULATIONS))
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    """95 % intervals of all measures on 400 samples: neither too few hold the truth nor, taken together, nearly all."""
    pixels, rates, points = (np.array(values) for values in POPULATIONS[name])
    rng = np.random.default_rng(sum(name.encode()))
    claim = np.array([True, True, False, False])
    really = np.rint(pixels * rates).astype(np.int64)
    mapped, total, hit = pixels[claim].sum(), pixels.sum(), really[claim].sum()
    missed = really.sum() - hit
    true = {
        "overall": (total - (mapped - hit) - missed) / total,
        "users_change": hit / mapped,
        "producers_change": hit / really.sum(),
        "f1": 2 * hit / (mapped + really.sum()),
        "area_change": float(really.sum()),
    }
    held = Counter[str]()
    runs, config = 400, AssessmentConfig(draws=500)
    for run in range(runs):
        changed = rng.hypergeometric(really, pixels - really, points)
        answers = _Answers(pixels=pixels, answered=points, changed=changed, found=changed * claim, claim=claim)
        ends = interval_ends(answers, 1.0, config, run, tuple(true))
        held.update(key for key, value in true.items() if ends[key][0] <= value <= ends[key][1])
    shares = {key: held[key] / runs for key in true}
    # 0.95 - 3 sqrt(0.95 x 0.05 / 400) = 0.917; nothing may be so wide that it never misses all five
    assert min(shares.values()) >= 0.915, shares
    assert np.mean(list(shares.values())) < 0.995, shares


def test_the_plain_interval_would_not_do() -> None:
    """Why intervals are not value +- 1.96 standard errors: where change is rare these hold the truth far too seldom."""
    pixels, rates, points = (np.array(values) for values in POPULATIONS["a region"])
    rng = np.random.default_rng(12)
    really = np.rint(pixels * rates).astype(np.int64)
    where = np.repeat(np.arange(4), points)
    held = 0
    for _ in range(300):
        changed = rng.hypergeometric(really, pixels - really, points)
        flags = np.concatenate([np.arange(n) < c for n, c in zip(points, changed, strict=True)]).astype(float)
        share, error = stratified_ratio(flags, np.ones(len(flags)), where, pixels.astype(float))
        held += abs(share - really.sum() / pixels.sum()) <= Z95 * error
    assert held / 300 < 0.85


# The design -----------------------------------------------------------------------------------------------------------


def test_the_sample_size_of_olofsson_2014() -> None:
    """Table 5 and eq. 13: 641 points for a standard error of 0.01 of the overall accuracy."""
    sizes = {"deforestation": 200_000, "gain": 150_000, "forest": 3_200_000, "other": 6_450_000}
    users = {"deforestation": 0.7, "gain": 0.6, "forest": 0.9, "other": 0.95}
    assert points_for_target(sizes, users, 0.01) == 641
    equal = allocate(sizes, users, 640, allocation="equal", min_points=2)
    assert set(equal.values()) == {160}
    proportional = allocate(sizes, users, 641, allocation="proportional", min_points=2)
    assert list(proportional.values()) == [13, 10, 205, 413]


def test_neyman_allocation_has_the_least_error() -> None:
    """No way to move points between two strata lowers the variance (Cochran 1977, section 5.5)."""
    sizes, expected = {"a": 4000, "b": 20_000, "c": 90_000}, {"a": 0.8, "b": 0.1, "c": 0.01}
    given_points = allocate(sizes, expected, 300, allocation="neyman", min_points=2)

    def variance(points: dict[str, int]) -> float:
        return sum(sizes[k] ** 2 * expected[k] * (1 - expected[k]) / points[k] for k in sizes)

    best = variance(given_points)
    for one, other in itertools.permutations(sizes, 2):
        moved = {**given_points, one: given_points[one] - 2, other: given_points[other] + 2}
        assert variance(moved) > best


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=7),
    points=st.integers(1, 4000),
    allocation=st.sampled_from(["neyman", "proportional", "equal"]),
    least=st.integers(2, 60),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_every_allocation_keeps_its_limits(
    sizes: list[int], points: int, allocation: str, least: int, data: st.DataObject
) -> None:
    names = [f"s{i}" for i in range(len(sizes))]
    expected = {name: data.draw(st.sampled_from([0.0, 0.01, 0.3, 0.9])) for name in names}
    size = dict(zip(names, sizes, strict=True))
    needed = sum(min(least, n) for n in sizes)
    if points < needed:
        with pytest.raises(ConfigError):
            allocate(size, expected, points, allocation=allocation, min_points=least)  # type: ignore[arg-type]
        return
    found = allocate(size, expected, points, allocation=allocation, min_points=least)  # type: ignore[arg-type]
    assert list(found) == names
    assert sum(found.values()) == min(points, sum(sizes))
    assert all(min(least, size[name]) <= found[name] <= size[name] for name in names)


def test_every_pixel_of_a_stratum_has_the_same_chance() -> None:
    strata = np.array([[0] * 9 + [1] * 3] * 4, np.uint8)
    times = np.zeros(strata.shape)
    for seed in range(3000):
        drawn = draw_pixels(strata, {0: 6, 1: 4}, seed)
        assert {k: len(v) for k, v in drawn.items()} == {0: 6, 1: 4}
        for code, places in drawn.items():
            for row, col in places:
                assert strata[row, col] == code
                times[row, col] += 1
    for code, chance in ((0, 6 / 36), (1, 4 / 12)):
        seen = times[strata == code]
        # sum of squares over the variance is about chi-square with n - 1 degrees of freedom: within 4 standard deviations
        statistic = float(((seen - 3000 * chance) ** 2).sum() / (3000 * chance * (1 - chance))) * (1 - 1 / len(seen))
        free = len(seen) - 1
        assert abs(statistic - free) < 4 * math.sqrt(2 * free), code


def test_a_draw_depends_on_place_and_seed_alone() -> None:
    rng = np.random.default_rng(3)
    strata = rng.integers(0, 3, (60, 40)).astype(np.uint8)
    small, large = (draw_pixels(strata, {0: n, 1: n, 2: n}, 99) for n in (10, 200))
    assert all(set(small[k]) < set(large[k]) for k in small), "a larger sample holds the smaller one"
    # The rest of the map may change: what is drawn in the upper half of a stratum is drawn by the same numbers.
    other = strata.copy()
    other[30:] = 2
    upper = {place for place in large[0] if place[0] < 30}
    assert upper <= set(draw_pixels(other, {0: 200}, 99)[0])
    assert draw_pixels(strata, {0: 10}, 98)[0] != small[0]


def test_strata_follow_the_map() -> None:
    status = np.full((30, 40), Status.NO_CHANGE, np.uint8)
    status[2:13, 2:13] = Status.CHANGE  # 121 pixels
    status[20:24, 20:24] = Status.CHANGE  # 16
    status[26:28, 2] = Status.CHANGE  # 2
    status[20, 35] = Status.CHANGE
    status[21, 36] = Status.CHANGE  # touches at a corner
    for row, code in enumerate((Status.TOO_FEW, Status.CLOUD, Status.NOT_OBSERVED, Status.FAILED_READ), start=10):
        status[row, 39] = code
    status[:, 0] = Status.OUTSIDE
    gradual = np.zeros(status.shape, bool)
    gradual[20:24, 20:22] = True
    found = classify_strata(status, gradual, SampleConfig(ring_pixels=2))
    names = list(STRATA)
    count = {name: int((found == i).sum()) for i, name in enumerate(names)}
    assert count["change_large"] == 121 and count["change_small"] == 8 and count["change_gradual"] == 8
    assert count["change_tiny"] == 4 and count["undecided"] == 4
    assert (found[:, 0] == 255).all() and int((found == 255).sum()) == 30
    # Ring by hand: no-change pixels with a changed one at most two away in row and column.
    changed = np.argwhere(status == Status.CHANGE)
    for row, col in np.argwhere(status == Status.NO_CHANGE):
        near = bool((np.abs(changed - (row, col)).max(axis=1) <= 2).any())
        assert names[found[row, col]] == ("near_change" if near else "stable")
    assert sum(count.values()) == 30 * 39


@pytest.fixture(scope="module")
def change_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    status = np.full((120, 150), Status.NO_CHANGE, np.uint8)
    status[10:30, 10:40] = Status.CHANGE
    status[60:66, 80:88] = Status.CHANGE
    status[100:102, 20:22] = Status.CHANGE
    status[:, 140:] = Status.CLOUD
    status[110:, 140:] = Status.FAILED_READ
    return write_map(tmp_path_factory.mktemp("map") / "result", status)


CONFIG = SampleConfig(points=120, min_points=15, undecided_points=10)


@pytest.fixture(scope="module")
def sample(change_map: Path) -> Sample:
    return design_sample(change_map, seed=5, config=CONFIG)


def test_a_sample_says_all_of_its_design(sample: Sample, change_map: Path, tmp_path: Path) -> None:
    assert [(s.name, s.pixels) for s in sample.strata if s.name.startswith("change")] == [
        ("change_large", 600), ("change_small", 48), ("change_tiny", 4),
    ]  # fmt: skip
    assert sum(s.pixels for s in sample.strata) == 120 * 150 == sum(sample.statuses.values())
    assert sum(s.points for s in sample.strata if s.claim != "undecided") == 120
    assert sample.cell_area_m2 == pytest.approx(100, rel=2e-3)  # the scale of UTM at its edge is within 0.1 %
    for point in sample.points:
        assert len(point.breaks) == (STRATA[point.stratum] == "change")
    assert {b.break_date for p in sample.points for b in p.breaks} == {BREAK}
    assert sample == design_sample(change_map, seed=5, config=CONFIG)
    other = design_sample(change_map, seed=6, config=CONFIG)
    assert {(p.row, p.col) for p in other.points} != {(p.row, p.col) for p in sample.points}
    sample.write(tmp_path)
    assert read_sample(tmp_path).to_bytes() == (tmp_path / "sample.json").read_bytes() == sample.to_bytes()
    rows = (tmp_path / "sample.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + len(sample.points)
    places = json.loads((tmp_path / "sample.geojson").read_text(encoding="utf-8"))["features"]
    assert [place["properties"]["point"] for place in places] == [point.id for point in sample.points]


def test_the_order_of_the_points_tells_nothing(sample: Sample) -> None:
    """Ranks of the changed points among all: their mean is within three standard deviations of the middle."""
    ranks = [i for i, point in enumerate(sample.points) if STRATA[point.stratum] == "change"]
    n, k = len(sample.points), len(ranks)
    spread = math.sqrt((n + 1) * (n - k) / (12 * k))
    assert abs(np.mean(ranks) - (n - 1) / 2) < 3 * spread


def test_gradual_change_is_a_stratum_where_the_pace_is_known(tmp_path: Path) -> None:
    status = np.full((40, 40), Status.NO_CHANGE, np.uint8)
    status[5:20, 5:20] = Status.CHANGE
    folder = write_map(tmp_path / "g", status, pace=Pace.GRADUAL)
    drawn = design_sample(folder, seed=1, config=SampleConfig(points=60, min_points=10))
    assert {s.name for s in drawn.strata} == {"change_gradual", "near_change", "stable"}


def test_maps_that_cannot_be_sampled(tmp_path: Path, change_map: Path) -> None:
    with pytest.raises(FormatError):
        design_sample(tmp_path / "nowhere", seed=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError):
        design_sample(tmp_path / "empty", seed=1)
    hidden = write_map(tmp_path / "hidden", np.full((20, 20), Status.CLOUD, np.uint8))
    with pytest.raises(CoverageError):
        design_sample(hidden, seed=1)
    wrong = write_map(tmp_path / "wrong", np.full((20, 20), 9, np.uint8))
    with pytest.raises(FormatError):
        design_sample(wrong, seed=1)
    other = write_map(tmp_path / "other", np.full((20, 20), Status.CHANGE, np.uint8))
    (other / "break_date.tif").write_bytes((change_map / "break_date.tif").read_bytes())
    with pytest.raises(GridMismatchError):
        design_sample(other, seed=1, config=SampleConfig(points=30))
    for points in (3, 10**7):
        with pytest.raises(ConfigError):
            design_sample(change_map, seed=1, config=CONFIG.replace(points=points))
    for seed in (-1, 2**53):
        with pytest.raises(ConfigError):
            design_sample(change_map, seed=seed)


def test_a_map_of_one_pixel(tmp_path: Path) -> None:
    folder = write_map(tmp_path / "one", np.full((1, 1), Status.CHANGE, np.uint8))
    drawn = design_sample(folder, seed=1)
    assert [(s.name, s.pixels, s.points) for s in drawn.strata] == [("change_tiny", 1, 1)]
    found = estimate_accuracy(drawn, [answers_to(drawn, lambda p: "yes")])
    assert found.users_change is not None and found.users_change.quantity.value == 1.0
    assert found.users_change.quantity.standard_uncertainty == 0.0, "all of it was seen"
    assert found.users_no_change is None


def test_a_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "sample.toml"
    path.write_text('points = 80\ntarget_se = 0.01\nallocation = "equal"\nexpect_stable = 0\n', encoding="utf-8")
    assert SampleConfig.read(path) == SampleConfig(points=80, target_se=0.01, allocation="equal", expect_stable=0.0)
    for text in ("pionts = 3", 'points = "3"', "points = -1", 'allocation = "best"', "points", "min_points = true"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError):
            SampleConfig.read(path)


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_hostile_samples_raise_our_errors_only(
    sample: Sample, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = json.loads(sample.to_bytes())
    path: list[object] = []
    node: object = raw
    while isinstance(node, (dict, list)) and node and (not path or data.draw(st.booleans())):
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        path.append(key)
        node = node[key]  # type: ignore[index, call-overload]
    parent = raw
    for key in path[:-1]:
        parent = parent[key]
    if data.draw(st.booleans()) and isinstance(parent, dict):
        del parent[path[-1]]
    else:
        junk = st.sampled_from([None, True, -1, 10**9, "", "x", "1e999", "nan", [], {}, [1], "EPSG:4326", 2**52])
        parent[path[-1]] = data.draw(junk)
    file = tmp_path_factory.mktemp("hostile") / "sample.json"
    file.write_text(json.dumps(raw), encoding="utf-8")
    with contextlib.suppress(GeoEvidenceError):
        read_sample(file)


# Answers --------------------------------------------------------------------------------------------------------------


def answers_to(sample: Sample, change: object, name: str = "a", **more: object) -> Responses:
    """Answers of one interpreter: `change(point)` gives yes, no, unsure or "" for none."""
    said = {p.id: change(p) for p in sample.points}  # type: ignore[operator]
    kept = {i: Answer(point=i, change=c, **more) for i, c in said.items() if c}  # type: ignore[arg-type]
    return Responses(interpreter=name, sample=sample.digest, answers=kept)


def test_answers_come_back_from_json_and_csv(sample: Sample, tmp_path: Path) -> None:
    first, second, third = (point.id for point in sample.points[:3])
    answers = {
        first: Answer(
            point=first, change="yes", last_before=date(2022, 5, 3), first_after=date(2022, 7, 9),
            from_class="water", to_class="bare", confidence="high", note='挖沙船, "见图"',
        ),
        second: Answer(point=second, change="no"),
        third: Answer(point=third, change="unsure", note="云"),
    }  # fmt: skip
    written = Responses(interpreter="张三", sample=sample.digest, answers=answers)
    (tmp_path / "a.json").write_bytes(written.to_bytes())
    assert read_responses(tmp_path / "a.json", sample) == written
    lines = [
        "point,change,last_before,first_after,from_class,to_class,confidence,note",
        f'{first},yes,2022/5/3,2022-07-09,water,bare,high,"挖沙船, ""见图"""',
        f"{second},no,,,,,,",
        ",,,,,,,",
        f"{third},unsure,,,,,,云",
    ]
    for encoding in ("utf-8", "utf-8-sig", "gb18030"):
        (tmp_path / "张三.csv").write_bytes("\r\n".join(lines).encode(encoding))
        found = read_responses(tmp_path / "张三.csv", sample)
        assert found.interpreter == "张三" and found.answers == answers, encoding
    (tmp_path / "b.csv").write_text(f"point,change\n{second},no\n", encoding="utf-8")
    assert read_responses(tmp_path / "b.csv", sample).answers == {second: answers[second]}


@pytest.mark.parametrize(
    "text",
    [
        "point,change\nP-999,yes\n",
        "point,change\nP-001,maybe\n",
        "point,change\nP-001,\n",
        "point,change\nP-001,yes\nP-001,no\n",
        "point,answer\nP-001,yes\n",
        "point,change,change\nP-001,yes,no\n",
        "point,change\nP-001,yes,3\n",
        "point,change,last_before\nP-001,yes,2022-02-30\n",
        "point,change,last_before,first_after\nP-001,yes,2022-03-01,2022-02-01\n",
        "point,change,from_class\nP-001,yes,illegal\n",
        'point,change\n"P-001,yes\n',
        "",
    ],
)
def test_answers_that_cannot_be_used(sample: Sample, tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError):
        read_responses(path, sample)


def test_answers_to_another_sample(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for change in ({"sample": "sha256:00"}, {"schema": "x"}, {"answers": {}}, {"answers": [3]}, {"interpreter": 3}):
        raw = {"schema": "geoevidence.responses.v1", "sample": sample.digest, "interpreter": "a", "answers": []} | change
        path.write_text(json.dumps(raw), encoding="utf-8")
        with pytest.raises(FormatError):
            read_responses(path, sample)


def test_kappa_of_a_table_done_by_hand() -> None:
    """Of 50: both yes 20, yes/no 5, no/yes 10, both no 15. p_o = 0.7, p_e = 0.5 x 0.6 + 0.5 x 0.4 = 0.5, kappa = 0.4."""
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    one, other = (
        Responses(
            interpreter=str(side), sample="", answers={f"P-{i:03d}": Answer(point=f"P-{i:03d}", change=p[side]) for i, p in enumerate(pairs)}  # type: ignore[arg-type]
        )
        for side in (0, 1)
    )  # fmt: skip
    found = agreement_of(one, other)
    assert (found.points, found.agreed, len(found.differing)) == (50, 35, 15)
    assert found.kappa is not None and found.kappa.value == pytest.approx(0.4)
    assert found.kappa.standard_uncertainty == pytest.approx(math.sqrt(0.7 * 0.3 / 50) / 0.5)
    same = Responses(interpreter="c", sample="", answers={"P-001": Answer(point="P-001", change="no")})
    assert agreement_of(same, same).kappa is None, "no chance-corrected figure where all say the same"


def test_differences_are_settled_or_stay_unsure() -> None:
    def said(name: str, **changes: Answer) -> Responses:
        return Responses(interpreter=name, sample="", answers={a.point: a for a in changes.values()})

    days = [date(2022, 1, d) for d in (1, 5, 9, 20)]
    one = said(
        "a",
        p=Answer(point="p", change="yes", last_before=days[0], first_after=days[2], from_class="crop", to_class="bare"),
        q=Answer(point="q", change="yes"),
        r=Answer(point="r", change="no"),
    )
    other = said(
        "b",
        p=Answer(point="p", change="yes", last_before=days[1], first_after=days[3], from_class="vegetation", to_class="bare"),
        q=Answer(point="q", change="no"),
        s=Answer(point="s", change="no"),
    )
    final = settle([one, other])
    assert final["p"].dated == (days[0], days[3]) and (final["p"].from_class, final["p"].to_class) == ("unknown", "bare")
    assert [final[k].change for k in "qrs"] == ["unsure", "no", "no"]
    third = said("both", q=Answer(point="q", change="yes", note="agreed"))
    assert settle([one, other], third)["q"].note == "agreed"
    found = agreement_of(one, other)
    assert found.differing == ("q",) and (found.dated, found.overlapping) == (1, 1)


# Estimates from answers -----------------------------------------------------------------------------------------------


def changed_where_mapped(point: SamplePoint) -> str:
    return "yes" if STRATA[point.stratum] == "change" else "no"


def test_a_perfect_map_is_not_called_perfect(sample: Sample) -> None:
    """No error was seen in the sample; the intervals say what that is worth."""
    found = estimate_accuracy(sample, [answers_to(sample, changed_where_mapped)])
    assert found.f1 is not None and found.area_change is not None and found.producers_change is not None
    assert found.f1.quantity.value == 1.0 and found.f1.high == 1.0 and found.f1.low < 0.97
    assert found.area_change.quantity.value == pytest.approx(652 * sample.cell_area_m2)
    assert found.area_change.low <= found.area_change.quantity.value < found.area_change.high
    stable = next(s for s in sample.strata if s.name == "stable")
    # What 95 % of samples would have shown an omission of: the rule 1 - 0.05^(1/n)
    assert (
        found.area_change.high > found.area_change.quantity.value + 0.5 * stable.pixels * (1 - 0.05 ** (1 / stable.points)) * 100
    )
    assert any(limit.id == "satellite.accuracy_limit_none_seen" for limit in found.limits)


def test_figures_are_those_of_the_general_estimator(sample: Sample) -> None:
    """One answer pattern, computed again by `class_estimates` from plain lists."""
    rng = np.random.default_rng(8)
    flip = {p.id: rng.random() < 0.15 for p in sample.points}
    said = answers_to(sample, lambda p: "yes" if (STRATA[p.stratum] == "change") != flip[p.id] else "no")
    found = estimate_accuracy(sample, [said])
    decided = [p for p in sample.points if STRATA[p.stratum] != "undecided"]
    words = {"yes": "change", "no": "no_change"}
    other = class_estimates(
        [p.stratum for p in decided],
        [STRATA[p.stratum] for p in decided],
        [words[said.answers[p.id].change] for p in decided],
        {s.name: s.pixels for s in sample.strata if s.claim != "undecided"},
    )
    for mine, theirs, error in (
        (found.overall, other.overall, other.overall_se),
        (found.users_change, other.users[0], other.users_se[0]),
        (found.producers_change, other.producers[0], other.producers_se[0]),
        (found.producers_no_change, other.producers[1], other.producers_se[1]),
        (found.f1, other.f1[0], other.f1_se[0]),
        (found.matrix["no_change", "change"], other.matrix[1, 0], other.matrix_se[1, 0]),
    ):
        assert mine is not None and mine.quantity.value == pytest.approx(theirs) and mine.low <= theirs <= mine.high
        assert mine.quantity.standard_uncertainty == pytest.approx(error)
    pixels = sum(s.pixels for s in sample.strata if s.claim != "undecided")
    assert found.area_change is not None
    assert found.area_change.quantity.value == pytest.approx(other.area[0] * pixels * sample.cell_area_m2)
    assert sum(cell.quantity.value for cell in found.matrix.values()) == pytest.approx(1)


def test_undecided_pixels_are_neither_change_nor_no_change(sample: Sample) -> None:
    quiet = estimate_accuracy(sample, [answers_to(sample, changed_where_mapped)])
    loud = estimate_accuracy(
        sample, [answers_to(sample, lambda p: "yes" if p.stratum == "undecided" else changed_where_mapped(p))]
    )
    for name in ("overall", "f1", "area_change", "producers_change"):
        assert getattr(quiet, name) == getattr(loud, name), name
    assert quiet.undecided.keys() == {"too_few", "cloud", "not_observed", "failed_read"}
    assert quiet.undecided["cloud"].value == pytest.approx(1100 * sample.cell_area_m2)
    assert quiet.undecided["failed_read"].value == pytest.approx(100 * sample.cell_area_m2)
    assert quiet.undecided_change is not None and loud.undecided_change is not None
    assert quiet.undecided_change.quantity.value == 0 and quiet.undecided_change.high > 0
    assert loud.undecided_change.quantity.value == pytest.approx(1200 * sample.cell_area_m2)
    unseen = estimate_accuracy(
        sample, [answers_to(sample, lambda p: "unsure" if p.stratum == "undecided" else changed_where_mapped(p))]
    )
    assert unseen.undecided_change is None


def test_open_points_widen_the_bounds_to_all_they_could_be(sample: Sample) -> None:
    """Every way to fill in four open points gives estimates inside the bounds; without open points bounds are the interval."""
    whole = answers_to(sample, changed_where_mapped)
    full = estimate_accuracy(sample, [whole], config=AssessmentConfig(draws=300))
    assert full.f1 is not None and (full.f1.bound_low, full.f1.bound_high) == (full.f1.low, full.f1.high)
    changed = [p.id for p in sample.points if STRATA[p.stratum] == "change"][:2]
    calm = [p.id for p in sample.points if p.stratum == "near_change"][:2]
    kept = {i: a for i, a in whole.answers.items() if i not in (changed[0], calm[0])}
    kept |= {i: Answer(point=i, change="unsure") for i in (changed[1], calm[1])}
    open_ = estimate_accuracy(sample, [replace(whole, answers=kept)], config=AssessmentConfig(draws=300))
    names = ("overall", "users_change", "producers_change", "f1", "area_change")
    assert sum(s.unsure for s in open_.strata) == 2 and sum(s.missing for s in open_.strata) == 2
    for choice in itertools.product(("yes", "no"), repeat=4):
        filled = dict(kept) | {i: Answer(point=i, change=c) for i, c in zip(changed + calm, choice, strict=True)}  # type: ignore[arg-type]
        one = estimate_accuracy(sample, [replace(whole, answers=filled)], config=AssessmentConfig(draws=300, lags=(0,)))
        for name in names:
            bounds, value = getattr(open_, name), getattr(one, name)
            # ends are quantiles of 300 random completions, so two runs agree to a few percent of the width
            slack = 0.1 * (bounds.bound_high - bounds.bound_low)
            assert bounds.bound_low <= value.quantity.value <= bounds.bound_high, name
            assert bounds.bound_low - slack <= value.low and value.high <= bounds.bound_high + slack, name
    for name in names:
        value = getattr(open_, name)
        assert value.bound_low <= value.low <= value.quantity.value <= value.high <= value.bound_high
    assert any(limit.id == "satellite.accuracy_limit_open" and limit.values["points"] == 4 for limit in open_.limits)


@pytest.mark.parametrize("name", ["change_large", "stable"])
def test_bounds_hold_when_half_of_a_stratum_is_open(sample: Sample, name: str) -> None:
    """Half the points of one stratum are open; each way to fill all of them lies inside the bounds and moves the value far."""
    settings_ = AssessmentConfig(draws=300, lags=(0,))
    # What was answered there is always the same, so that the open half can contradict it.
    whole = answers_to(sample, lambda p: "no" if p.stratum == name else changed_where_mapped(p))
    inside = [p.id for p in sample.points if p.stratum == name]
    kept = {i: a for i, a in whole.answers.items() if i not in inside[len(inside) // 2 :]}
    open_ = estimate_accuracy(sample, [replace(whole, answers=kept)], config=settings_)
    far = 0
    for choice in ("yes", "no"):
        filled = kept | {i: Answer(point=i, change=choice) for i in inside[len(inside) // 2 :]}  # type: ignore[arg-type]
        one = estimate_accuracy(sample, [replace(whole, answers=filled)], config=settings_)
        for measure in ("overall", "producers_change", "f1", "area_change"):
            bounds, value = getattr(open_, measure), getattr(one, measure)
            slack = 0.05 * (bounds.bound_high - bounds.bound_low)
            assert bounds.bound_low <= value.quantity.value <= bounds.bound_high, measure
            assert bounds.bound_low - slack <= value.low and value.high <= bounds.bound_high + slack, measure
            far += not bounds.low <= value.quantity.value <= bounds.high
    assert far, "the bounds say more than the interval"


def test_a_stratum_without_answers_is_an_error(sample: Sample) -> None:
    with pytest.raises(CoverageError, match="stable"):
        estimate_accuracy(sample, [answers_to(sample, lambda p: "unsure" if p.stratum == "stable" else "no")])
    with pytest.raises(ConfigError):
        estimate_accuracy(sample, [])


def test_the_lag_is_the_distance_to_the_interval() -> None:
    def lag(day: int, *more: int) -> int | None:
        breaks = tuple(MapBreak(break_date=d, last_clear_before=d - 9, first_clear_after=d + 9) for d in (day, *more))
        point = SamplePoint(id="P-001", row=0, col=0, stratum="change_small", breaks=breaks)
        return point_lag(point, Answer(point="P-001", change="yes", last_before=day_of(100), first_after=day_of(120)))

    assert [lag(day) for day in (90, 100, 110, 120, 125)] == [-10, 0, 0, 0, 5]
    assert lag(20, 400, 123) == 3, "the nearest break of the pixel counts"
    point = SamplePoint(id="P-001", row=0, col=0, stratum="change_small", breaks=())
    assert point_lag(point, Answer(point="P-001", change="yes", last_before=day_of(1), first_after=day_of(2))) is None


def test_f1_grows_with_the_allowed_date_error(sample: Sample) -> None:
    """Changes dated 0, 25 and 70 days off, by stratum; the curve is that of the weights of the strata."""
    shift = {"change_large": 0, "change_small": 25, "change_tiny": 70}
    answers = {}
    for point in sample.points:
        if point.stratum in shift:
            end = BREAK + shift[point.stratum] + 20
            start = end - 20 if shift[point.stratum] else BREAK - 5
            dates = {"last_before": day_of(start), "first_after": day_of(end)}
            answers[point.id] = Answer(point=point.id, change="yes", **dates)
        else:
            answers[point.id] = Answer(point=point.id, change="no")
    found = estimate_accuracy(
        sample, [Responses(interpreter="a", sample="", answers=answers)], config=AssessmentConfig(lags=(0, 24, 25, 69, 70, 365))
    )
    values = [lag.f1.quantity.value for lag in found.lags if lag.f1]
    assert values == pytest.approx([600 / 652, 600 / 652, 648 / 652, 648 / 652, 1, 1])
    assert [lag.precision.quantity.value for lag in found.lags if lag.precision] == pytest.approx(values)
    assert (
        found.lag_median == 0 and found.lag_p90 == 0 and found.lag_points == len([p for p in sample.points if p.stratum in shift])
    )
    undated = {i: replace(a, last_before=None) if a.change == "yes" else a for i, a in answers.items()}
    blind = estimate_accuracy(sample, [Responses(interpreter="a", sample="", answers=undated)])
    assert blind.f1 is not None and blind.f1.quantity.value == 1.0 and blind.lag_median is None
    first = blind.lags[0].f1
    assert first is not None and first.quantity.value == 0 and first.bound_high == pytest.approx(1, abs=0.02)
    assert blind.undated == found.lag_points


def test_listed_events_alone(sample: Sample) -> None:
    """Tiny patches count as not changed on the map: found changes become omissions."""
    said = [answers_to(sample, changed_where_mapped)]
    found = estimate_accuracy(sample, said, config=AssessmentConfig(listed_only=True))
    assert found.producers_change is not None and found.producers_change.quantity.value == pytest.approx(648 / 652)
    assert found.mapped_change.value == pytest.approx(648 * sample.cell_area_m2)


def test_what_it_was_and_became(sample: Sample) -> None:
    said = answers_to(sample, changed_where_mapped, from_class="water", to_class="bare")
    (move,) = estimate_accuracy(sample, [said]).transitions
    assert (move.from_class, move.to_class) == ("water", "bare")
    assert move.area.quantity.value == pytest.approx(652 * sample.cell_area_m2)


def test_an_assessment_is_written_and_read_and_said(sample: Sample, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    kinds = ["yes", "no", "unsure", ""]
    pair = [answers_to(sample, lambda p: kinds[rng.choice(4, p=[0.3, 0.55, 0.1, 0.05])], name) for name in ("甲", "乙")]
    found = estimate_accuracy(sample, pair, config=AssessmentConfig(draws=200))
    again = estimate_accuracy(sample, pair, config=AssessmentConfig(draws=200))
    found.write(tmp_path / "1")
    again.write(tmp_path / "2")
    for name in ("assessment.json", "assessment.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert AccuracyAssessment.read(tmp_path / "1") == found
    for lang in ("zh", "en"):
        lines = found.lines(lang)  # type: ignore[arg-type]
        assert len(lines) > 15 and not any("satellite." in line or "{" in line for line in lines)
    assert found.agreement is not None and found.agreement.interpreters == ("甲", "乙")
    raw = found.to_dict() | {"schema": "other"}
    with pytest.raises(FormatError):
        AccuracyAssessment.from_dict(raw)


def test_the_words_of_all_measures_exist() -> None:
    for lang in ("zh", "en"):
        known = texts(lang)
        assert all(f"satellite.stratum_{name}" in known for name in STRATA)


def test_a_scan_holds_dates_alone(tmp_path: Path) -> None:
    """One band of dates, and the meaning of the numbers in scan.json."""
    status = np.full((40, 40), Status.NO_CHANGE, np.uint8)
    status[5:20, 5:20] = Status.CHANGE
    folder = write_map(tmp_path / "scan", status)
    dates = read_raster(folder / "break_date.tif", bands=[1])
    write_cog(folder / "break_date.tif", dates)
    record = {"parameters": {"monitor": {"scale": "0.0001", "min_pixels": 10}, "tile": 512}, "synthetic": True, "share": 0.5}
    (folder / "scan.json").write_text(json.dumps(record), encoding="utf-8")
    drawn = design_sample(folder, seed=1, config=SampleConfig(points=60, min_points=10))
    breaks = {b for p in drawn.points for b in p.breaks}
    assert breaks == {MapBreak(break_date=BREAK, last_clear_before=None, first_clear_after=None)}
    assert drawn.synthetic and stated_options(drawn) == {"scale": 0.0001}
    drawn.write(tmp_path / "sample")
    assert read_sample(tmp_path / "sample") == drawn
