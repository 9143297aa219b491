"""`satellite assess`: from a map to a sample, a form and an assessment, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.commands.assess import assess_app
from geoevidence.errors import ConfigError, FormatError
from tests.satellite.small_map import write_scenes, write_small_map


def assess(*words: object) -> str:
    """What the command prints; an error of ours comes out as it is."""
    done = CliRunner().invoke(assess_app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_from_a_map_to_an_assessment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result, scenes = write_small_map(tmp_path / "result"), write_scenes(tmp_path / "scenes")
    words = ("sample", result, "--out", "sample", "--seed", 3, "-n", 30, "--min-points", 8)
    record = json.loads(assess(*words, "--json"))
    assert record["points"] == 30 and sum(stratum["points"] for stratum in record["strata"]) == 30
    before = (tmp_path / "sample/sample.json").read_bytes()
    assert "30" in assess(*words) and (tmp_path / "sample/sample.json").read_bytes() == before
    assess("form", "sample", "--scenes", scenes, "--out", "form.html", "--sheets", "sheets", "--reveal")
    assert (tmp_path / "form.html").stat().st_size > 20_000
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 5

    sample = json.loads(before)
    rows = [(p["id"], "yes" if p["stratum"].startswith("change") else "no") for p in sample["points"]]
    (tmp_path / "a.csv").write_text("point,change\n" + "".join(f"{i},{c}\n" for i, c in rows), encoding="utf-8")
    other = [(rows[0][0], "no" if rows[0][1] == "yes" else "yes"), *rows[1:]]
    (tmp_path / "b.csv").write_text("point,change\n" + "".join(f"{i},{c}\n" for i, c in other), encoding="utf-8")
    assess("form", "sample", "--scenes", scenes, "--out", "s.html", "--differing", "a.csv", "--differing", "b.csv")
    assert rows[0][0] in (tmp_path / "s.html").read_text() and rows[1][0] not in (tmp_path / "s.html").read_text()
    found = json.loads(assess("estimate", "sample", "-r", "a.csv", "-r", "b.csv", "--out", "out", "--json"))
    assert found["agreement"]["agreed"] == 29 and found == json.loads((tmp_path / "out/assessment.json").read_text())
    assert "F1" in assess("estimate", "sample", "-r", "a.csv", "--out", "out")


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "result", "--out", "x", "--seed", 1, "-n", 10, "--target-se", 0.1),
        ("form", "sample", "--scenes", "scenes"),
        ("form", "sample", "--scenes", "scenes", "--out", "x", "--reveal"),
        ("sample", "result", "--out", "x", "--seed", -1),
        ("sample", "result", "--out", "x", "--seed", 1, "--allocation", "best"),
    ],
)
def test_settings_that_contradict(words: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        assess(*words)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        assess("sample", tmp_path / "nowhere", "--out", tmp_path / "x", "--seed", 1)
    with pytest.raises(FormatError):
        assess("estimate", tmp_path, "-r", tmp_path / "a.csv", "--out", tmp_path / "x")


def test_it_hangs_under_satellite() -> None:
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "GEOEVIDENCE_LANG": "zh", "PYTHONUTF8": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "app.cli", "satellite", "assess", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, cwd=root, check=False)
    assert done.returncode == 0 and "精度评价" in done.stdout and "estimate" in done.stdout
