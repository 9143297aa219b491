"""What is known of the time before recording: unanswered questions stay open, times come from the files."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from geoevidence.custody import CASE_FIELDS
from geoevidence.package import QUESTIONS, before_recording
from tests.custody.workspaces import CARD, Place


def test_every_question_is_a_field_of_the_sheet() -> None:
    assert set(QUESTIONS.values()) <= set(CASE_FIELDS)
    assert list(QUESTIONS) == ["source", "generation", "storage", "third_party_witness", "corroboration"]


def test_times_are_those_of_the_originals_of_each_event(tmp_path: Path) -> None:
    place = Place(tmp_path)
    case = place.workspace.new_case("1", fields={"before_storage": "存于SD卡"})
    case.ingest(place.card(CARD), label="SD-1")
    case.ingest(place.card({"b.txt": b"b"}, name="second"), kind="received")
    first, last = datetime(2026, 5, 1, 4, tzinfo=UTC), datetime(2026, 5, 1, 5, tzinfo=UTC)
    times = [(first, "exif"), (last, "stac"), (None, None), (None, None)]
    items = [replace(item, acquired=t, acquired_from=f) for item, (t, f) in zip(case.items(role="original"), times, strict=True)]
    known = before_recording(case.sheet, case.events(), [*items, *case.items(role="record")])
    assert known.answers == {
        "source": None, "generation": None, "storage": "存于SD卡", "third_party_witness": None, "corroboration": None,
    }  # fmt: skip
    assert [(each.type, each.source, each.files) for each in known.recordings] == [
        ("copied", "SD-1", 3),
        ("received", "second", 1),
    ]
    assert (known.recordings[0].acquired_first, known.recordings[0].acquired_last) == (first, last)
    assert known.recordings[0].acquired_from == ("exif", "stac") and known.recordings[1].acquired_first is None
    assert b'"acquired_first":"2026-05-01T04:00:00Z"' in known.to_bytes()
