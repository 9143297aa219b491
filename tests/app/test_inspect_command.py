"""`geoevidence inspect`: one JSON object a file, stable reasons, nothing written, an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def inspect(folder: Path, *words: str, lang: str = "en") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GEOEVIDENCE_LANG": lang, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "app.cli", "inspect", *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, cwd=folder, timeout=120)


def test_one_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("name,value\nx,=1+1\n", encoding="utf-8")
    (tmp_path / "in" / "b.json").write_text('{"a": 1, "a": 2}', encoding="utf-8")
    (tmp_path / "in" / "照片.txt").write_text("text", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    done = inspect(tmp_path, "in", "--json")
    assert done.returncode == 1 and done.stderr == ""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(Path(row["path"]).name, row["verdict"], row["reason"]) for row in rows] == [
        ("a.csv", "flag", "custody.inspect.formula"),
        ("b.json", "reject", "custody.inspect.bad_json"),
        ("照片.txt", "accept", "custody.inspect.not_known"),
    ]
    assert {tuple(sorted(row)) for row in rows} == {("details", "flags", "path", "reason", "text", "values", "verdict")}
    assert rows[0]["values"] == {"count": 1, "first": "R2C2"} and rows[0]["flags"][0]["reason"] == rows[0]["reason"]
    assert rows[2]["details"]["media_type"] == "text/plain" and rows[2]["flags"] == []
    assert sorted(tmp_path.rglob("*")) == before


def test_plain_words_in_both_languages(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,=1+1\n", encoding="utf-8")
    chinese, english = inspect(tmp_path, "a.csv", lang="zh"), inspect(tmp_path, "a.csv")
    assert chinese.returncode == english.returncode == 0
    assert "存疑" in chinese.stdout and "公式" in chinese.stdout
    assert "flag" in english.stdout and "spreadsheet" in english.stdout


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    done = inspect(tmp_path, "nothing", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["reason"] == "custody.inspect.unreadable"
