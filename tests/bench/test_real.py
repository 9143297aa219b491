"""Counting on real sets: intervals, the join of answers with places and dates, and who wrote what into the counts."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from bench import satellite_real as real
from bench.satellite_adapters import NODATE, Block


def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal() - real.ORDINAL


def _site(ndvi: np.ndarray, days: np.ndarray) -> real.Site:
    block = Block(ndvi[:, None].astype(np.float32), days.astype(np.int64), ("NDVI",))
    return real.Site(
        name="made", block=block, ndvi=ndvi.astype(np.float32), second=None, picture=(0,), limits=((0.0, 1.0),), sample=(5, 3)
    )


def test_wilson_is_the_published_interval() -> None:
    # (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96, worked by hand for 5 of 10: 0.5 -+ 0.26337.
    low, high = real.wilson(5, 10)
    assert (low, high) == pytest.approx((0.23663, 0.76337), abs=1e-4)
    assert real.wilson(10, 10)[1] == pytest.approx(1.0)
    assert real.wilson(0, 0) == (0.0, 1.0)


def test_an_answer_belongs_to_its_place_and_date() -> None:
    counts = [{"set": "a", "item": "1", "row": "3", "col": "4", "date": "2019-05-01", "answer": "change", "note": ""}]
    assert real.answer_of(counts, "a", 3, 4, _day("2019-05-20")) == "change"
    assert real.answer_of(counts, "a", 3, 4, _day("2019-07-20")) == ""
    assert real.answer_of(counts, "a", 3, 4, NODATE) == ""
    assert real.answer_of(counts, "b", 3, 4, _day("2019-05-01")) == ""


def test_the_counts_hold_only_answers_to_distinct_places() -> None:
    counts = real._read_counts()
    assert len(counts) > 300
    assert {row["answer"] for row in counts} <= set(real.ANSWERS.values())
    assert len({(row["set"], row["row"], row["col"], row["date"]) for row in counts}) == len(counts)


def test_detectors_agree_only_where_their_dates_are_near() -> None:
    first = np.array([[[100, 100, NODATE]], [[500, NODATE, NODATE]]], np.int32)
    second = np.array([[[540, 161, 100]]], np.int32)
    assert real.agreement(first, second).tolist() == [[True, False, False]]


def test_a_sample_names_every_detector_that_drew_the_place() -> None:
    days = np.arange(17000, 18500, 10)
    site = _site(np.full((days.size, 2, 2), 0.8), days)
    same = np.full((1, 2, 2), NODATE, np.int32)
    same[0, 1, 0] = 17500
    items = real.draw_items(site, {"ours": same, "COLD": same + np.int32(0)})
    assert [(item.row, item.col, item.day, item.detectors) for item in items] == [(1, 0, 17500, ("ours", "COLD"))]
    assert {(item.row, item.col) for item in real.draw_unflagged(site, same, 9)} == {(0, 0), (0, 1), (1, 1)}


def test_forest_that_fell_and_its_neighbours_are_not_undisturbed() -> None:
    days = np.array([_day(f"{year}-{month:02d}-15") for year in range(2015, 2020) for month in (6, 7, 8)])
    ndvi = np.full((days.size, 7, 7), 0.85)
    ndvi[days > _day("2018-01-01"), 1, 1] = 0.4
    # one year is brighter everywhere: nobody's disturbance
    ndvi[(days > _day("2016-01-01")) & (days < _day("2017-01-01"))] *= 0.7
    good = real.undisturbed(_site(ndvi, days), np.full((7, 7), 90.0))
    assert not good[:3, :3].any() and good[3:, 3:].all()
    assert not real.undisturbed(_site(ndvi, days), np.full((7, 7), 10.0)).any()


def test_a_chip_before_shows_no_date_after_the_change() -> None:
    days = np.arange(_day("2015-06-01"), _day("2020-12-01"), 12)
    site = _site(np.full((days.size, 3, 3), 0.8), days)
    when = _day("2018-03-01")
    before, after, later = (int(days[k]) for k in real._chip_dates(site, real.Item(row=1, col=1, day=when, detectors=())))
    assert before < when < after < later
    assert abs(before - _day("2017-07-20")) <= 12 and abs(after - _day("2018-07-20")) <= 12
