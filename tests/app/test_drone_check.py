"""`drone check` as a field pair types it: the sentence, the exit code, the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.commands.drone_check import drone_app
from geoevidence.errors import InputError
from tests.drone.paper_flight import changed, plan, write


def check(*words: object) -> Result:
    return CliRunner().invoke(drone_app, ["check", *(str(word) for word in words)], catch_exceptions=False)


def test_good_again_and_cannot_tell(tmp_path: Path) -> None:
    good = check(write(tmp_path / "good", plan(2, 4)), "--out", tmp_path / "out")
    assert good.exit_code == 0, good.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["check.json", "footprints.geojson", "map.png"]
    assert "check.json" in good.stdout

    hole = [shot for k, shot in enumerate(plan(2, 5)) if k not in (1, 2, 3)]
    again = check(write(tmp_path / "again", hole), "--json")
    record = json.loads(again.stdout)
    assert (again.exit_code, record["verdict"]) == (1, "again")
    assert record["remarks"][0]["strip"] == 1

    silent = write(tmp_path / "silent", changed(plan(2, 4), tuple(range(8)), relative=False))
    assert check(silent).exit_code == 2
    assert check(silent, "--height", 60).exit_code == 0


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        check(tmp_path)
