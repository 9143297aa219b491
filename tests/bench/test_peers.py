"""The comparison's own machinery: which pixels, which truth, what happens to a detector that fails or is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench import satellite_peers as peers
from bench.satellite_adapters import DETECTORS, NODATE, Block, Detector, _once, _positive, _prepare_regular, _stack
from bench.satellite_independent import BANDS, Kind, independent_tile
from bench.scoring import score


@pytest.fixture(scope="module")
def tile(tmp_path_factory: pytest.TempPathFactory) -> peers.Tile:
    return peers.make_tile("independent", "water", 3, (20, 30), tmp_path_factory.mktemp("tile"))


def detector(**changes: Any) -> Detector:
    return replace(next(each for each in DETECTORS if each.name == "ours"), **changes)


def test_drawn_pixels_are_the_same_pixels_of_cube_and_truth(tile: peers.Tile) -> None:
    at = peers.draw_pixels(tile, 100)
    assert at.size == 100 and (np.diff(at) > 0).all() and (at == peers.draw_pixels(tile, 100)).all()
    assert peers.draw_pixels(tile, 10**6).size == 600
    block = peers.load_block(tile.path, tile.days, "six", at)
    whole = peers.load_block(tile.path, tile.days, "six", None)
    row, col = divmod(int(at[7]), 30)
    assert block.values.shape == (322, 6, 1, 100)
    np.testing.assert_array_equal(block.values[:, :, 0, 7], whole.values[:, :, row, col])
    part = peers.part_of(tile.truth, at)
    assert part.breaks.shape == (2, 1, 100) and part.share[0, 7] == tile.truth.share[row, col]
    assert part.stable[0, 7] == tile.truth.stable[row, col] and part.years == tile.truth.years


def test_true_dates_given_back_are_a_perfect_score(tile: peers.Tile) -> None:
    truth = tile.truth
    result = score(np.where(truth.abrupt, truth.breaks, NODATE).astype(np.int32), truth, smallest_share=0)
    assert result.f1 == 1.0 and result.false_rate == 0.0 and result.median_error == 0.0
    assert result.gradual > 0 and result.flats > 0


def test_truth_of_both_simulators_is_told_apart() -> None:
    from satellite.synthetic import benchmark_config, simulate

    _, truth = independent_tile("land", 3, (24, 24))
    reference = peers.reference_of_independent(truth)
    assert (reference.abrupt | reference.gradual | reference.stable).all()
    assert (reference.abrupt == np.isin(truth.kind, (Kind.ABRUPT, Kind.REGROWTH))).all()
    site = simulate(benchmark_config("land", shape=(32, 32)), seed=3)
    own = peers.reference_of_own(site)
    assert (own.abrupt.astype(int) + own.gradual + own.stable <= 1).all()
    assert ((own.breaks != NODATE).any(axis=0) == (own.abrupt | own.gradual)).all()
    assert (own.start[own.gradual] < own.end[own.gradual]).all() and 5.9 < own.years < 6.1


def test_index_and_scale() -> None:
    values = np.full((2, 6, 1, 1), 0.1, np.float32)
    values[0, BANDS.index("nir")] = 0.3
    values[1] = np.nan
    block = peers.as_block(values, np.array([17600, 17605]), "ndvi")
    assert block.values[0, 0, 0, 0] == pytest.approx(0.5) and np.isnan(block.values[1]).all() and block.bands == "ndvi"
    # CCDC programs take 0 and less for missing: an index of -1 to 1 must stay inside 0 to 10000
    assert _positive(np.array([-1, 0, 1], np.float32), "ndvi").tolist() == [0, 5000, 10000]
    assert _positive(np.array([0.25], np.float32), "six").tolist() == [2500]


def test_regular_series_are_means_of_their_interval() -> None:
    days = np.datetime64("2018-01-01").astype(int) + np.array([0, 5, 20, 40])
    values = np.array([0.2, 0.4, np.nan, 0.6], np.float32).reshape(4, 1, 1, 1)
    binned, middle = _prepare_regular(Block(values, days, ("ndvi",)))
    np.testing.assert_allclose(binned[:, 0, 0], [0.3, np.nan, 0.6], rtol=1e-6)
    assert middle.size == 3 and abs(int(middle[1] - middle[0]) - 16) <= 1


def test_dates_are_stacked_and_near_ones_merged() -> None:
    found = _stack([[5, 9], [], [7]], (1, 3))
    assert found.dates.tolist() == [[[5, NODATE, 7]], [[9, NODATE, NODATE]]]
    merged = _once(np.array([[100, 300], [130, NODATE], [400, NODATE]], np.int32))
    assert sorted(merged[:, 0].tolist()) == [NODATE, 100, 400] and sorted(merged[:, 1].tolist()) == [NODATE, NODATE, 300]


def _dies(*_: object) -> None:
    raise RuntimeError("no such luck")


def test_a_failing_detector_is_reported(tile: peers.Tile, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers._alone(_dies) == "failed: RuntimeError: no such luck"
    wrong = peers.judge(detector(), "six", [{"no_such_setting": 1}], [tile], None)
    assert isinstance(wrong, str) and wrong.startswith("failed: ")


def test_an_absent_detector_is_reported(tile: peers.Tile, capsys: pytest.CaptureFixture[str]) -> None:
    absent = detector(name="absent", package="no-such-package", module="no_such_package")
    assert absent.version() == ""
    peers.report_accuracy([absent], "six", "independent", [tile], None)
    peers.report_speed([absent], [tile], None, 1)
    printed = capsys.readouterr().out
    assert printed.count("| absent |") == 3 and printed.count("not installed") == 3


def test_variants_and_choices() -> None:
    for each in DETECTORS:
        for bands, defaults in each.settings.items():
            listed = peers.variants(each, bands)
            assert listed[0][1] == defaults
            for chosen in peers.combinations(each, bands):
                assert set(defaults) <= set(chosen)
            for key in each.tuned.get(bands, {}):
                assert each.tuned[bands][key] in each.choices[key]  # type: ignore[index]


@pytest.mark.slow
def test_ours_runs_in_a_process_of_its_own(tile: peers.Tile) -> None:
    scores = peers.judge(detector(), "six", [{}], [tile], None)
    assert not isinstance(scores, str), scores
    assert scores[0].stable_pixels == int(tile.truth.stable.sum()) and scores[0].hits > 0
    measured = peers._alone(peers._measure, "ours", "ndvi", {}, ([tile.path], tile.days, 200), 1, 1)
    assert measured["rate"] > 0 and measured["memory"] >= 0 and measured["pixels"] == 200
