"""Somebody else's figure: each choice is swapped alone, the numbers add up, and what is left is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import shapely.geometry

from drone.challenge import challenge_files, claim_of, read_claim
from drone.measure import grid_scale
from geoevidence.errors import FormatError, GeoEvidenceError, InputError
from geoevidence.raster import write_cog
from tests.drone import test_measure as sample

NAMED = {"type": "name", "properties": {"name": "EPSG:4547"}}


def _polygon(path: Path, shape: shapely.Polygon) -> Path:
    geometry = json.loads(json.dumps(shapely.geometry.mapping(shape)))
    feature = {"type": "Feature", "properties": {"name": path.stem, "drawn_on_survey": True}, "geometry": geometry}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": NAMED, "features": [feature]}))
    return path


@pytest.fixture
def places(tmp_path: Path) -> Path:
    x, y = sample._places()
    for name, height in (("ours.tif", 2.0), ("later.tif", 1.5)):
        write_cog(tmp_path / name, sample._surface(30 + sample._cone(x, y, height)).raster, tags={"HEIGHT_KIND": "unknown"})
    _polygon(tmp_path / "mine.geojson", sample.RING)
    _polygon(tmp_path / "theirs.geojson", shapely.box(sample.WEST + 13, sample.NORTH - 22, sample.WEST + 20, sample.NORTH - 8))
    return tmp_path


def _found(places: Path, raw: dict[str, Any], base: str = "rim") -> dict[str, Any]:
    (places / "claim.json").write_text(json.dumps(raw))
    found = challenge_files(places / "ours.tif", read_claim(places / "claim.json"), polygon=places / "mine.geojson", base=base)
    for lang in ("zh", "en"):
        assert all(found.lines(lang))  # type: ignore[arg-type]
    return found.to_dict()


def test_boundary_base_and_date_are_swapped_one_at_a_time(places: Path) -> None:
    claim = {"kind": "volume_net", "value": 60.0, "polygon": "theirs.geojson", "base": "horizontal:29.9", "survey": "later.tif"}
    found = _found(places, claim)
    effects = {each["choice"]: each for each in found["effects"] if each["stated"]}
    ours = found["ours"]["value"]
    assert ours == pytest.approx(sample.CONE, rel=1e-3)
    # half of the cone; its rim then crosses the cone, which lifts the plane
    assert effects["boundary"]["change"] < -0.5 * ours
    assert effects["base"]["change"] == pytest.approx(0.1 * sample.RING.area, rel=1e-3)
    assert effects["date"]["change"] == pytest.approx(-0.25 * ours, rel=1e-3)
    # all three: half of the later cone, and a tenth of a metre below their polygon
    together = 0.5 * 0.75 * sample.CONE + 0.1 * 7 * 14
    assert found["together"]["value"] == pytest.approx(together, rel=2e-3)
    assert found["remainder"] == pytest.approx(60.0 - found["together"]["value"])
    total = ours + sum(e["change"] for e in effects.values()) + found["joint"]
    assert total == pytest.approx(found["together"]["value"])
    # a bare surface has no error, so nothing is called within or beyond
    assert found["ours"]["standard_uncertainty"] == "not_available"
    assert any("not known" in text for text in found["text"]["en"])


def test_an_area_of_web_maps_is_explained_by_its_plane(places: Path) -> None:
    """At 30.4 degrees of latitude areas of web maps are 1 / cos^2 = 1.344 times those on the ground."""
    area = sample.RING.area / grid_scale(sample.CRS, sample.WEST, sample.NORTH, 0) ** 2
    found = _found(places, {"kind": "area", "value": 1.3435 * area})
    if_mercator = next(e for e in found["effects"] if e["told"]["id"] == "drone.choice_area_web_mercator")
    assert not if_mercator["stated"]
    assert abs(if_mercator["left"]) < 0.005 * area
    assert found["remainder"] == pytest.approx(0.3435 * area)
    told = _found(places, {"kind": "area", "value": 1.3435 * area, "area_on": "web_mercator"})
    assert abs(told["remainder"]) < 0.005 * area and told["effects"][0]["stated"]


def test_choices_that_cannot_be_tried_are_named(places: Path) -> None:
    found = _found(places, {"kind": "volume_net", "value": 60.0, "polygon": "theirs.geojson", "read_as": "EPSG:4549"})
    assert [each["choice"] for each in found["effects"] if each["stated"]] == ["boundary"]
    assert any(each["id"] == "drone.challenge_not_tried" for each in found["messages"])


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": "weight", "value": 1},
        {"kind": "area"},
        {"kind": "area", "value": "3"},
        {"kind": "area", "value": True},
        {"kind": "area", "value": 1, "unit": "mu"},
        {"kind": "area", "value": 1, "standard_uncertainty": -1},
        {"kind": "area", "value": 1, "base": "floor"},
        {"kind": "area", "value": 1, "read_as": "EPSG:99999999"},
        {"kind": "area", "value": 1, "polygon": {"type": "Point", "coordinates": [1, 2]}},
        {"kind": "area", "value": 1, "area_on": "moon"},
        {"kind": "area", "value": 1, "survey": "../nowhere"},
        {"kind": "area", "value": 1, "colour": "red"},
        [],
        float("nan"),
    ],
)
def test_bad_claims_are_our_errors(tmp_path: Path, raw: Any) -> None:
    (tmp_path / "claim.json").write_text(json.dumps(raw))
    with pytest.raises(GeoEvidenceError):
        read_claim(tmp_path / "claim.json")


def test_a_claim_needs_a_polygon_somewhere(places: Path) -> None:
    claim = claim_of({"kind": "area", "value": 5.0}, where="test", folder=places)
    with pytest.raises(InputError):
        challenge_files(places / "ours.tif", claim, polygon=None)
    with pytest.raises(FormatError):
        read_claim(places / "nothing.json")
    assert np.isfinite(claim.value)
