"""Counting of hits and false alarms, by hand on a few pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.scoring import NODATE, Reference, Score, score, total

N = NODATE


def reference(breaks: list[list[int]], *, kinds: str, share: list[float] | None = None, flats: str = "") -> Reference:
    """One row of pixels; kinds: one letter a pixel, a abrupt, g gradual, s stable, - left out."""
    columns = np.array(breaks, np.int32).T[:, None, :]
    letters = np.array(list(kinds))[None]
    none = np.full(letters.shape, N, np.int32)
    first = columns[0]
    return Reference(
        breaks=columns,
        abrupt=letters == "a",
        gradual=letters == "g",
        stable=letters == "s",
        share=np.array([share or [1.0] * len(kinds)]),
        seasonal_flat=np.array([list(flats or "-" * len(kinds))]) == "f",
        double_crop=np.array([list(flats or "-" * len(kinds))]) == "d",
        start=np.where(letters == "g", first - 100, none),
        end=np.where(letters == "g", first + 100, none),
        years=6.0,
    )


def found(columns: list[list[int]]) -> np.ndarray:
    return np.array(columns, np.int32).T[:, None, :]


@pytest.mark.parametrize(("shift", "hit"), [(-31, 0), (-30, 1), (0, 1), (180, 1), (181, 0)])
def test_window(shift: int, hit: int) -> None:
    result = score(found([[1000 + shift]]), reference([[1000, N]], kinds="a"))
    assert (result.hits, result.missed, result.false_changed) == (hit, 1 - hit, 1 - hit)


def test_a_true_break_is_hit_once_and_by_the_nearest() -> None:
    result = score(found([[1010, 1100, N]]), reference([[1000, N]], kinds="a"))
    assert (result.hits, result.missed, result.false_changed) == (1, 0, 1)
    assert result.errors.tolist() == [10]
    assert result.precision == 0.5 and result.recall == 1.0 and result.f1 == pytest.approx(2 / 3)


def test_two_true_breaks_need_two_detections_in_any_order() -> None:
    truth = reference([[2000, 1000]], kinds="a")
    both = score(found([[2005, 999]]), truth)
    assert (both.hits, both.missed, both.false_changed) == (2, 0, 0)
    assert sorted(both.errors.tolist()) == [-1, 5]
    one = score(found([[1001, 1002]]), truth)
    assert (one.hits, one.missed, one.false_changed) == (1, 1, 1)


def test_stable_gradual_and_left_out_pixels() -> None:
    truth = reference([[N, N], [N, N], [1500, N], [N, N], [1500, N]], kinds="ssg-g", flats="fd---")
    result = score(found([[1000, 1200], [N, N], [1700, N], [900, N], [1000, N]]), truth)
    assert result.false_stable == 2 and result.stable_years == 12.0
    assert result.false_rate == pytest.approx(2 / 12)
    assert (result.flats_share, result.double_crop_share) == (1.0, 0.0)
    assert (result.hits, result.missed, result.false_changed) == (0, 0, 0)
    assert (result.gradual, result.gradual_as_abrupt, result.gradual_as_gradual) == (2, 1, 0)
    told = score(found([[N], [N], [1700], [N], [N]]), truth, is_gradual=found([[0], [0], [1], [0], [0]]))
    assert (told.gradual_as_abrupt, told.gradual_as_gradual) == (0, 1)


def test_small_shares_count_in_the_curve_alone() -> None:
    truth = reference([[1000, N], [1000, N], [1000, N]], kinds="aaa", share=[0.05, 0.15, 1.0])
    result = score(found([[1000, 2000], [N, N], [1000, N]]), truth)
    assert (result.hits, result.missed, result.false_changed) == (1, 1, 0)
    assert result.recall_by_share()[0] == 1.0 and result.recall_by_share()[2] == 0.0 and result.recall_by_share()[6] == 1.0
    everything = score(found([[1000, 2000], [N, N], [1000, N]]), truth, smallest_share=0.0)
    assert (everything.hits, everything.missed, everything.false_changed) == (2, 1, 1)


def test_counts_add_up_over_tiles() -> None:
    truth = reference([[1000, N], [N, N]], kinds="as", flats="-f")
    one, two = score(found([[1004], [N]]), truth), score(found([[N], [1000]]), truth)
    both = total([one, two])
    assert (both.hits, both.missed, both.false_stable, both.flats, both.flats_flagged) == (1, 1, 1, 2, 1)
    assert both.errors.tolist() == [4] and both.share_breaks.sum() == 2
    assert both.f1 == 0.5


def test_nothing_to_judge_is_not_a_number_and_wrong_input_is_refused() -> None:
    assert np.isnan(Score().f1) and np.isnan(Score().median_error) and np.isnan(Score().false_rate)
    truth = reference([[1000, N]], kinds="a")
    with pytest.raises(ValueError, match="int32"):
        score(np.zeros((1, 1, 1), np.int64), truth)
    with pytest.raises(ValueError, match="not two"):
        score(found([[N]]), replace(truth, stable=truth.abrupt))
