"""`drone measure`, `drone compare`, `drone challenge` as a user runs them: one JSON, one clear message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from geoevidence.errors import ConfigError, GeoEvidenceError

SAMPLES = Path(__file__).parents[2] / "sample_data"
DSM = SAMPLES / "truth" / "dsm.tif"


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """The pile's polygon alone."""
    document = json.loads((SAMPLES / "polygons.geojson").read_text("utf-8"))
    document["features"] = [f for f in document["features"] if f["properties"]["name"] == "pile"]
    path = tmp_path / "pile.geojson"
    path.write_text(json.dumps(document))
    return path


def _json(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["drone", *words, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


def test_one_document_with_value_and_error(pile: Path) -> None:
    found = _json("measure", "--dsm", str(DSM), "--polygon", str(pile), "--base", "rim")
    truth = json.loads((SAMPLES / "truth" / "flight.json").read_text("utf-8"))["pile"]["volume_m3"]
    assert found["value"] == pytest.approx(truth, rel=0.01) and found["unit"] == "m3" and found["kind"] == "volume_net"
    assert found["standard_uncertainty"] == "not_available" and found["coverage_factor"] == 2.0
    kinds = {figure["kind"] for figure in found["shapes"][0]["figures"]}
    assert kinds == {"area", "volume_fill", "volume_cut", "volume_net"}
    assert not found["in_custody"]


def test_a_claim_is_put_beside_our_figure(pile: Path) -> None:
    words = ("challenge", "--survey", str(DSM), "--polygon", str(pile))
    found = _json(*words, "--claim-value", "280", "--claim-kind", "volume_net", "--claim-base", "lowest")
    base = next(each for each in found["effects"] if each["choice"] == "base")
    assert base["stated"] and base["change"] > 0
    assert found["remainder"] == pytest.approx(280 - found["together"]["value"])
    with pytest.raises(ConfigError):
        _json(*words)


def test_the_same_surface_twice_has_not_changed(pile: Path, tmp_path: Path) -> None:
    found = _json("compare", str(DSM), str(DSM), "--out", str(tmp_path / "out"), "--polygon", str(pile))
    assert float(found["findings"][1]["quantity"]["value"]) == pytest.approx(0, abs=1e-3)
    assert (tmp_path / "out" / "preview-difference.png").stat().st_size > 10_000
    with pytest.raises(GeoEvidenceError):
        _json("compare", str(DSM), str(tmp_path / "nothing"), "--out", str(tmp_path / "other"))
