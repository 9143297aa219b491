"""Items made fit for release: what is blurred cannot be told, what is rounded is, and nothing else travels along."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.engines import ENGINES
from geoevidence.custody import Case, StoredResult
from geoevidence.errors import ConfigError, FormatError
from geoevidence.package import draft, recompute_events, recomputing
from geoevidence.package.recompute import derived_events, fetch_from_case
from geoevidence.redaction import CELLS, blur_item, round_item
from geoevidence.trust.events import parse_leaf
from geoevidence.types import EvidenceItem
from tests.custody.workspaces import Place


def picture(size: tuple[int, int] = (200, 120), *, kind: str = "JPEG", orientation: int = 1) -> bytes:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x010F] = "DJI-SECRET"
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format=kind, exif=exif, quality=95)
    return buffer.getvalue()


def one(tmp_path: Path, name: str, data: bytes) -> tuple[Case, EvidenceItem]:
    place = Place(tmp_path)
    case = place.workspace.new_case("1", demonstration=True)
    case.ingest(place.card({name: data}))
    return case, case.items(role="original")[0]


def made(case: Case, stored: StoredResult, name: str) -> bytes:
    return case.path_of(stored.files[name]).read_bytes()


def test_boxes_become_a_few_cells_and_the_rest_stays(tmp_path: Path) -> None:
    case, item = one(tmp_path, "face.JPG", picture())
    stored = blur_item(case, item, [(20, 10, 90, 60)])
    assert stored.event.type == "derived" and stored.event.inputs[0].item == item.id
    assert stored.result.parameters == {"boxes": [[20, 10, 90, 60]], "cells": CELLS, "cell_pixels": 8} and stored.result.synthetic
    data = made(case, stored, "redacted.png")
    after = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    before = np.asarray(Image.open(case.path_of(item)).convert("RGB")).astype(int)
    outside = np.ones(before.shape[:2], bool)
    outside[10:70, 20:110] = False
    assert (before[outside] == after[outside]).all()
    inside = after[10:70, 20:110].reshape(-1, 3)
    # 6 cells across, 4 down, each of one colour, and the colour is the mean of its cell
    assert len(np.unique(inside, axis=0)) <= CELLS * 4
    cell = before[10:25, 20:35].reshape(-1, 3).mean(0)
    assert np.abs(after[12, 22] - cell).max() <= 1
    # nothing of the original travels along: no EXIF, no name, no digest
    assert b"SECRET" not in data and "face" not in stored.files["redacted.png"].path
    record = made(case, stored, "result.json")
    assert item.sha256.encode() not in record and b"face" not in record
    assert blur_item(case, item, [(20, 10, 90, 60)]).files["redacted.png"].sha256 == stored.files["redacted.png"].sha256


def test_a_redaction_is_made_again_and_states_no_number(tmp_path: Path) -> None:
    case, item = one(tmp_path, "face.JPG", picture())
    blur_item(case, item, [(20, 10, 90, 60)])
    events = derived_events(parse_leaf(event.leaf).event for event in case.events())
    (full,) = recompute_events(events, fetch=fetch_from_case(case), engines=ENGINES, scope="full")
    assert full.status == "identical" and {row.path.rpartition("/")[2] for row in full.files} == {"redacted.png", "result.json"}
    # a package of nothing but redactions has no record of its numbers, rather than one that says "not run"
    assert recomputing(case, engines=ENGINES)(draft(case), "0" * 64) is None
    assert recomputing(case, engines={})(draft(case), "0" * 64) is None


def test_without_a_box_the_whole_picture_is_blurred(tmp_path: Path) -> None:
    case, item = one(tmp_path, "face.JPG", picture())
    data = made(case, blur_item(case, item), "redacted.png")
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(data))).reshape(-1, 3), axis=0)) <= CELLS * CELLS


@pytest.mark.parametrize(("width", "height", "colours"), [(5, 3, 1), (12, 7, 1), (17, 17, 4), (24, 8, 3), (60, 6, 6)])
def test_a_small_box_does_not_stay_as_it_is(tmp_path: Path, width: int, height: int, colours: int) -> None:
    case, item = one(tmp_path, "face.JPG", picture())
    stored = blur_item(case, item, [(20, 10, width, height)])
    after = np.asarray(Image.open(io.BytesIO(made(case, stored, "redacted.png"))))
    assert len(np.unique(after[10 : 10 + height, 20 : 20 + width].reshape(-1, 3), axis=0)) <= colours


def test_boxes_are_those_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    case, item = one(tmp_path, "face.JPG", picture((200, 120), orientation=6))
    stored = blur_item(case, item, [(0, 0, 120, 200)])
    assert Image.open(io.BytesIO(made(case, stored, "redacted.png"))).size == (120, 200)
    with pytest.raises(ConfigError):
        blur_item(case, item, [(0, 0, 200, 120)])


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (196, 0, 5, 5), (0, 116, 5, 5)])
def test_a_box_outside_is_refused_and_records_nothing(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    case, item = one(tmp_path, "face.JPG", picture())
    with pytest.raises(ConfigError) as raised:
        blur_item(case, item, [box])
    assert raised.value.message_id == "redaction.box" and case.events()[-1].type == "copied"


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0JFIF", picture()[:300], b"<svg/>"])
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    case, item = one(tmp_path, "face.JPG", data)
    with pytest.raises(FormatError):
        blur_item(case, item)
    assert case.events()[-1].type == "copied"


def test_sixteen_bits_are_not_turned_into_eight(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(buffer, format="TIFF")
    case, item = one(tmp_path, "dsm.tif", buffer.getvalue())
    with pytest.raises(FormatError) as raised:
        blur_item(case, item)
    assert raised.value.message_id == "redaction.image_mode"


NEST = {
    "type": "FeatureCollection",
    "bbox": [104.061234567, 30.661234567, 104.07, 30.67],
    "features": [
        {
            "type": "Feature",
            "properties": {"name": "巢", "lon": 104.061234567},
            "geometry": {
                "type": "GeometryCollection",
                "geometries": [{"type": "Point", "coordinates": [104.061234567, 30.6605, 512.25]}],
            },
        }
    ],
}


def test_every_coordinate_is_rounded_and_properties_are_said_to_stay(tmp_path: Path) -> None:
    case, item = one(tmp_path, "nest.geojson", json.dumps(NEST, ensure_ascii=False).encode())
    stored = round_item(case, item, 3)
    assert [gap.id for gap in stored.result.gaps] == ["redaction.properties_stay"]
    raw = json.loads(made(case, stored, "redacted.geojson"))
    assert raw["bbox"] == [104.061, 30.661, 104.07, 30.67]
    feature = raw["features"][0]
    # half to even, by the decimal digits that stand in the file
    assert feature["geometry"]["geometries"][0]["coordinates"] == [104.061, 30.66, 512.25]
    assert feature["properties"] == NEST["features"][0]["properties"]  # type: ignore[index]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"a":1}',
        b'{"type":"Point","coordinates":["x"]}',
        b'{"type":"Point","type":"Point"}',
        b'{"type":NaN}',
        b"{" * 9999,
    ],
)
def test_what_is_no_geojson_is_refused(tmp_path: Path, data: bytes) -> None:
    case, item = one(tmp_path, "nest.geojson", data)
    with pytest.raises(FormatError):
        round_item(case, item, 3)
    assert case.events()[-1].type == "copied"


def test_decimals_have_bounds(tmp_path: Path) -> None:
    case, item = one(tmp_path, "nest.geojson", json.dumps(NEST).encode())
    for decimals in (-1, 8):
        with pytest.raises(ConfigError):
            round_item(case, item, decimals)


@given(st.lists(st.floats(-180, 180), min_size=2, max_size=3), st.integers(0, 7))
def test_rounding_is_close_and_stays(tmp_path_factory: pytest.TempPathFactory, point: list[float], decimals: int) -> None:
    from geoevidence.redaction import _round

    folder = tmp_path_factory.mktemp("round")
    (folder / "in").write_text(json.dumps({"type": "Point", "coordinates": point}))
    _round(folder / "in", folder / "out", decimals)
    _round(folder / "out", folder / "again", decimals)
    found = json.loads((folder / "out").read_text())["coordinates"]
    # half a step, and the error of writing a decimal as float64 (below 1e-13 for numbers up to 180)
    assert all(abs(a - b) <= 0.5 * 10**-decimals + 1e-13 for a, b in zip(point, found, strict=True))
    assert (folder / "out").read_bytes() == (folder / "again").read_bytes()
