"""Names that last, decisions that are respected, precision that is learnt as far as the decisions go."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoevidence.errors import ConfigError, FormatError, InputError
from geoevidence.types import Quantity
from satellite.queue import (
    QUEUE_COLUMNS,
    REVIEW_COLUMNS,
    Decision,
    Entry,
    Facets,
    Known,
    QueueConfig,
    Review,
    append_review,
    csv_text,
    decided,
    learn_precision,
    queue_record,
    rank_entries,
    read_reviews,
    recognise,
    review_of,
    summarise,
)
from satellite.types import ChangeEvent, Cover, Pace, SurfaceState

CONFIG = QueueConfig()
STATE = SurfaceState(cover=Cover.UNKNOWN, margin=0.0, reason="-", dates=0, water_share=None, indices={})


def event_of(name: str = "S-1", **changes: Any) -> ChangeEvent:
    values: dict[str, Any] = {
        "id": name, "polygon": {}, "pixels": ((0, 0),), "last_clear_before": date(2024, 1, 1), "first_clear_after": date(2024, 2, 1),
        "break_date": date(2024, 1, 15), "pace": Pace.ABRUPT, "spread_days": 0, "outlined": 1.0, "area_parts": {},
        "area": Quantity(value=3000.0, unit="m2", standard_uncertainty=100.0), "registration_pixels": 0.3, "registration_dates": 0,
        "magnitude": 0.1, "magnitude_of": "NDVI", "score": 9.0, "confidence": 0.8, "confidence_basis": "-", "agreement": 1.0,
        "direction_agreement": 1.0, "clear_before": 9, "clear_after": 9, "longest_gap_days": 30, "blind": (), "indices": (),
        "before": STATE, "after": STATE, "water_level": False,
    }  # fmt: skip
    known = {name for name in ChangeEvent.__dataclass_fields__}
    values |= {name: None for name in known - set(values)}
    return ChangeEvent(**{**values, **changes})


def area(value: float) -> Quantity:
    return Quantity(value=value, unit="m2", standard_uncertainty=value / 30)


def entry_of(name: str = "S-1", *, kind: str = "vegetation>bare", division: str = "420111", **changes: Any) -> Entry:
    facets = Facets(kind=kind, land="", size=CONFIG.size_class(3000.0), division=division)
    return Entry(
        event=event_of(name, **changes), facets=facets, divisions={division: 1.0} if division else {}, masks={}, novelty="known"
    )


def review(name: str, decision: Decision, *, kind: str = "vegetation>bare", **changes: Any) -> Review:
    values: dict[str, Any] = {
        "event": name, "decision": decision, "by": "李", "time": "2024-03-01T08:00:00Z", "note": "", "lon": 114.3, "lat": 30.3,
        "last_clear_before": date(2024, 1, 1), "first_clear_after": date(2024, 2, 1), "area": 3000.0, "confidence": 0.8,
        "kind": kind, "land": "", "size": CONFIG.size_class(3000.0), "division": "420111",
    }  # fmt: skip
    return Review(**{**values, **changes})


# Identity -------------------------------------------------------------------------------------------------------------


def known(name: str, row: int, col: int, size: int, *, start: int = 19_000, end: int = 19_030) -> Known:
    rows, cols = np.mgrid[row : row + size, col : col + size]
    flat = rows.ravel().astype(np.int32), cols.ravel().astype(np.int32)
    return Known(id=name, rows=flat[0], cols=flat[1], last_clear_before=start, first_clear_after=end, area=1.0, current=True)


def test_events_are_known_by_place_and_interval() -> None:
    old = [known("A", 0, 0, 4), known("B", 0, 10, 4), known("C", 20, 20, 4)]
    grown, other_time, elsewhere = known("-", 0, 0, 8), known("-", 0, 10, 4, start=19_400, end=19_420), known("-", 40, 0, 4)
    assert recognise([grown, other_time, elsewhere], old, CONFIG, link_days=45) == {0: 0}
    touching = known("-", 3, 3, 4)  # one pixel of sixteen in common
    assert recognise([touching], old, CONFIG, link_days=45) == {}
    assert recognise([], old, CONFIG, link_days=45) == {} and recognise([grown], [], CONFIG, link_days=45) == {}


def test_one_name_goes_to_one_event_that_with_most_of_it() -> None:
    """An event that fell in two: the larger part keeps the name; one that two merged into takes the larger's."""
    old = [known("A", 0, 0, 10)]
    small, large = known("-", 0, 0, 4), known("-", 4, 4, 6)
    assert recognise([small, large], old, CONFIG, link_days=45) == {1: 0}
    two = [known("A", 0, 0, 4), known("B", 4, 4, 6)]
    assert recognise([known("-", 0, 0, 10)], two, CONFIG, link_days=45) == {0: 1}


def test_two_events_of_one_place_are_told_by_their_time() -> None:
    old = [known("A", 0, 0, 4, start=18_000, end=18_020), known("B", 0, 0, 4)]
    new = [known("-", 0, 0, 4, start=19_005, end=19_030), known("-", 0, 0, 4, start=18_001, end=18_015)]
    assert recognise(new, old, CONFIG, link_days=45) == {0: 1, 1: 0}


# Reviews --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_decisions_come_back_and_earlier_ones_stay(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"status.{suffix}"
    first = review("S-1", "rejected", note='云影，"薄云"\n两行, =1+1')
    append_review(path, first)
    before = path.read_bytes()
    append_review(path, review("S-2", "accepted", confidence=0.1 + 0.2))
    assert read_reviews(path) == (first, review("S-2", "accepted", confidence=0.1 + 0.2))
    if suffix == "csv":
        assert path.read_bytes().startswith(before)


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With a byte order mark, CRLF and columns in another order."""
    path = tmp_path / "status.csv"
    append_review(path, review("S-1", "accepted"))
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    order = list(reversed(REVIEW_COLUMNS))
    lines = [",".join(order), *(",".join(row[name] for name in order) for row in rows)]
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert read_reviews(path) == (review("S-1", "accepted"),)
    append_review(path, review("S-2", "rejected"))
    assert [each.event for each in read_reviews(path)] == ["S-1", "S-2"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("decision", "maybe"), ("event", ""), ("by", ""), ("lon", "east"), ("lat", "91"), ("area", "nan"), ("confidence", "1.1"),
     ("first_clear_after", "2024-02-30")],
)  # fmt: skip
def test_a_row_that_says_nothing_clear_is_refused(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "status.csv"
    append_review(path, review("S-1", "accepted"))
    with path.open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    path.write_text(csv_text(REVIEW_COLUMNS, [{**row, name: value}]), encoding="utf-8")
    with pytest.raises(FormatError) as caught:
        read_reviews(path)
    assert "status.csv" in str(caught.value)
    with pytest.raises(FormatError):
        append_review(path, review("S-2", "accepted"))


@pytest.mark.parametrize("text", ["", "event,decision\n", "\x00", '"', "{}"])
def test_what_is_no_status_file_is_refused_and_not_touched(tmp_path: Path, text: str) -> None:
    for suffix in ("csv", "json"):
        path = tmp_path / f"status.{suffix}"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(FormatError):
            append_review(path, review("S-2", "accepted"))
        assert path.read_text(encoding="utf-8") == text


def test_columns_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "status.csv"
    append_review(path, review("S-1", "accepted"))
    header, row = path.read_text(encoding="utf-8").splitlines()
    path.write_text(f"{header},colour\n{row},red\n", encoding="utf-8")
    with pytest.raises(FormatError) as caught:
        read_reviews(path)
    assert caught.value.values["unknown"] == ["colour"]


def test_a_review_is_made_from_the_queue(tmp_path: Path) -> None:
    queue = tmp_path / "queue.json"
    (entry,) = rank_entries([replace(entry_of("S-1"), position=(114.25, 30.5))], {}, date(2024, 3, 1), CONFIG)
    queue.write_text(json.dumps({"events": [queue_record(entry, None)]}), encoding="utf-8")
    made = review_of(queue, "S-1", decision="accepted", by=" 李 ", time="2024-03-01T08:00:00Z", note="")
    assert made == review("S-1", "accepted", lon=114.25, lat=30.5)
    with pytest.raises(InputError):
        review_of(queue, "S-2", decision="accepted", by="李", time="t")
    for decision, by in (("yes", "李"), ("accepted", " ")):
        with pytest.raises(ConfigError):
            review_of(queue, "S-1", decision=decision, by=by, time="t")
    queue.write_text("[]", encoding="utf-8")
    with pytest.raises(FormatError):
        review_of(queue, "S-1", decision="accepted", by="李", time="t")


def test_a_decision_holds_until_the_event_becomes_another() -> None:
    said = review("S-1", "rejected")
    assert decided(entry_of(), said, CONFIG, link_days=45).state == "rejected"
    assert decided(entry_of(area=area(4400.0)), said, CONFIG, link_days=45).state == "rejected"
    assert decided(entry_of(area=area(4600.0)), said, CONFIG, link_days=45).state == "reopened"
    assert decided(entry_of(first_clear_after=date(2024, 4, 1)), said, CONFIG, link_days=45).state == "reopened"
    assert decided(entry_of(), None, CONFIG, link_days=45).state == "pending"


# Precision ------------------------------------------------------------------------------------------------------------


def test_the_posterior_is_that_of_beta() -> None:
    """One stratum, confidence 0.8, weight 8: Beta(6.4 + a, 1.6 + r); interval by the quantiles of another implementation."""
    from scipy.stats import beta

    reviews = [review(f"S-{n}", "rejected" if n < 6 else "accepted") for n in range(10)]
    learnt = learn_precision(reviews, CONFIG)[()]
    expected = beta(6.4 + 4, 1.6 + 6)
    assert learnt.mean == pytest.approx(expected.mean())
    assert (learnt.low, learnt.high) == pytest.approx(expected.interval(0.95))
    assert (learnt.accepted, learnt.rejected) == (4, 6)


def test_the_last_decision_about_an_event_counts() -> None:
    learnt = learn_precision([review("S-1", "rejected"), review("S-1", "accepted", time="2024-03-02T08:00:00Z")], CONFIG)[()]
    assert (learnt.accepted, learnt.rejected) == (1, 0)


def test_decisions_move_their_kind_most_and_others_little() -> None:
    bad = [review(f"W-{n}", "rejected", kind="water>bare") for n in range(20)]
    good = [review(f"V-{n}", "accepted") for n in range(20)]
    precision = learn_precision([*bad, *good], CONFIG)
    entries = [entry_of("S-1"), entry_of("S-2", kind="water>bare"), entry_of("S-3", kind="bare>built")]
    chance = {e.event.id: e.chance for e in rank_entries(entries, precision, date(2024, 3, 1), CONFIG)}
    assert chance["S-2"] < 0.35 < chance["S-3"] < 0.8 < chance["S-1"]
    assert [e.event.id for e in rank_entries(entries, precision, date(2024, 3, 1), CONFIG)] == ["S-1", "S-3", "S-2"]


def test_learnt_precision_is_calibrated_on_simulated_reviewers() -> None:
    """True precision of two kinds 0.3 and 0.9, the detector says 0.7 of both; 200 decisions each, 60 times over.

    120 intervals of 95 %: the count that holds the truth has a standard deviation of 2 %; the prior (weight 8, 0.4 off) moves
    the middle by up to half a standard error, which costs 3 %.
    """
    held, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        reviews = []
        for kind, truth in (("a>b", 0.3), ("c>d", 0.9)):
            for n in range(200):
                said: Decision = "accepted" if rng.random() < truth else "rejected"
                reviews.append(review(f"{kind}{n}", said, kind=kind, confidence=0.7))
        precision = learn_precision(reviews, CONFIG)
        for kind, truth in (("a>b", 0.3), ("c>d", 0.9)):
            held.append(precision[(kind,)].low < truth < precision[(kind,)].high)
            (entry,) = rank_entries([entry_of(kind=kind, confidence=0.7)], precision, date(2024, 3, 1), CONFIG)
            errors.append(entry.chance - truth)
    assert 0.86 <= np.mean(held) <= 0.995
    # sqrt(p (1 - p) / 200) is 0.032 and 0.021.
    assert 0.02 < np.std(errors) < 0.05 and abs(np.mean(errors)) < 0.03


def test_without_decisions_the_detector_is_believed() -> None:
    (entry,) = rank_entries([entry_of(confidence=0.63)], {}, date(2024, 3, 1), CONFIG)
    assert entry.chance == pytest.approx(0.63) and entry.precision is None


# Queue ----------------------------------------------------------------------------------------------------------------


def test_fresh_comes_first_then_chance_and_size() -> None:
    entries = [
        entry_of("old-large", area=area(90_000.0)),
        entry_of("fresh-small", first_clear_after=date(2024, 6, 1), area=area(1000.0)),
        entry_of("fresh-large", first_clear_after=date(2024, 6, 1), area=area(9000.0)),
        entry_of("fresh-doubtful", first_clear_after=date(2024, 6, 1), area=area(9000.0), confidence=0.1),
        replace(entry_of("done"), state="accepted"),
        replace(entry_of("hidden"), state="masked"),
    ]
    ranked = rank_entries(entries, {}, date(2024, 6, 20), CONFIG)
    assert [e.event.id for e in ranked] == ["fresh-large", "fresh-small", "fresh-doubtful", "old-large", "done", "hidden"]
    assert [e.rank for e in ranked] == [1, 2, 3, 4, None, None]
    assert rank_entries(list(reversed(entries)), {}, date(2024, 6, 20), CONFIG) == ranked
    assert [queue_record(e, 2)["in_capacity"] for e in ranked] == [True, True, False, False, False, False]
    assert set(queue_record(ranked[0], 2)) == set(QUEUE_COLUMNS)


def test_size_classes() -> None:
    assert [CONFIG.size_class(v) for v in (0.0, 2499.9, 2500.0, 10_000.0, 50_000.0, 1e9)] == [
        "0-2500", "0-2500", "2500-10000", "10000-50000", "50000+", "50000+",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes", [{"same_share": 0}, {"mask_share": 1.5}, {"prior_weight": 0}, {"size_limits": (5.0, 1.0)}, {"fresh_days": -1}]
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        QueueConfig(**changes)


def test_the_summary_shares_areas_and_counts_each_event_once() -> None:
    split = replace(entry_of("S-1"), divisions={"420111": 0.75, "420112": 0.25}, novelty="new", chance=0.5)
    lone = replace(entry_of("S-2", division=""), state="accepted")
    rejected = replace(entry_of("S-3"), state="rejected")
    masked = replace(entry_of("S-4"), state="masked")
    later = entry_of("S-5", first_clear_after=date(2024, 3, 1))
    rows = {(r["division"], r["month"]): r for r in summarise([split, lone, rejected, masked, later])}
    main = rows["420111", "2024-02"]
    assert (main["events"], main["pending"], main["rejected"], main["new"], main["masked"]) == (2, 1, 1, 1, 1)
    assert main["area_m2"] == 2250.0 and main["area_standard_uncertainty_m2"] == 75.0 and main["expected_true"] == 0.5
    assert rows["420112", "2024-02"]["area_m2"] == 750.0 and rows["420112", "2024-02"]["events"] == 0
    assert rows["none", "2024-02"]["accepted"] == 1 and rows["none", "2024-02"]["expected_true"] == 1.0
    assert rows["420111", "2024-03"]["events"] == 1
    assert sum(r["events"] for r in rows.values()) == 4
