"""What the map is given: outlines in degrees, small ones on top, one pin for findings on one outline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app import figures
from geoevidence.custody import Case


@pytest.fixture(scope="module")
def shown(sample_case: Case) -> tuple[figures.ShownFinding, ...]:
    return figures.shown_findings(sample_case.findings(), "zh")


def test_outlines_are_in_degrees_and_small_ones_are_drawn_last(shown: tuple[figures.ShownFinding, ...]) -> None:
    # the second finding is the smaller square of the sample
    for order in (shown, shown[::-1]):
        features = figures.feature_collection(order)["features"]
        assert [feature["properties"]["key"].rpartition("/")[2] for feature in features] == ["S-001", "S-002"]
    lon, lat = features[0]["geometry"]["coordinates"][0][0]
    assert 112.9 < lon < 113.1
    assert 29.9 < lat < 30.1


def test_findings_on_one_outline_share_a_pin(shown: tuple[figures.ShownFinding, ...]) -> None:
    assert [pin["label"] for pin in figures.labels(shown)] == ["1", "2"]
    twin = replace(shown[1], geometry=shown[0].geometry)
    (pin,) = figures.labels((shown[0], twin))
    assert pin["label"] == "1, 2"
    assert pin["keys"] == [shown[0].key, shown[1].key]


def test_the_view_holds_every_finding(shown: tuple[figures.ShownFinding, ...]) -> None:
    west, south, east, north = figures.bounds(shown, ())
    for feature in figures.feature_collection(shown)["features"]:
        for lon, lat in feature["geometry"]["coordinates"][0]:
            assert west < lon < east
            assert south < lat < north
    assert figures.bounds((), ()) is None


def test_a_picture_of_the_whole_result_is_of_no_finding(shown: tuple[figures.ShownFinding, ...]) -> None:
    assert {file.kind for file in shown[0].files} == {"chip_before", "chip_after", "series_plot", "series"}
    assert all(file.item.path.rpartition("/")[2].startswith("S-001-") for file in shown[0].files)
