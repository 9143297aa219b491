"""The package commands as a user runs them: exit codes, languages, what is printed, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from geoevidence.trust import verify_package
from tests.test_redaction import picture

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """`geoevidence WORDS` in a process of its own, in a folder and with keys of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.photo = ""

    def __call__(self, *words: object, code: int = 0, lang: str = "en", keys: str = "keys") -> str:
        environment = {**os.environ, "GEOEVIDENCE_KEYS": str(self.home / keys), "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "app.cli", *map(str, words), "--lang", lang]
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", env=environment, cwd=self.home, timeout=120
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + (done.stderr if code else "")

    def json(self, *words: object, code: int = 0, keys: str = "keys") -> Any:
        return json.loads(self(*words, "--json", code=code, keys=keys).splitlines()[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A workspace with a case of one photo, blurred, and sealed as package.zip and then as second/."""
    run = Run(tmp_path_factory.mktemp("home"))
    (run.home / "card").mkdir()
    (run.home / "card/secret.JPG").write_bytes(picture())
    run("init", "workspace")
    run("case", "new", "演示-1")
    run("ingest", "card", "--case", "演示-1")
    rows = [json.loads(line) for line in run("case", "items", "--case", "演示-1", "--json").splitlines()]
    run.photo = str(next(row["id"] for row in rows if row["role"] == "original"))
    run("package", "redact-item", "--case", "演示-1", run.photo, "--blur", "20,10,90,60")
    run("package", "seal", "--case", "演示-1", "--out", "package.zip")
    run("package", "seal", "--case", "演示-1", "--out", "second")
    return run


def test_sealing_says_where_the_paper_record_is(run: Run) -> None:
    text = run("package", "seal", "--case", "演示-1", "--out", "third", lang="zh")
    assert "third.record.html" in text and "纸质封存记录" in text
    record = run.json("package", "seal", "--case", "演示-1", "--out", "fourth.zip")
    assert Path(record["record"]).is_file() and record["evidence_missing"] == [] and record["recomputed"] in (None, "not_run")
    assert record["short_code"] in Path(record["record"]).read_text(encoding="utf-8")
    assert "fourth.zip" in run("package", "seal", "--case", "演示-1", "--out", "fourth.zip", code=1)


def test_an_authority_that_does_not_answer_is_printed(run: Run) -> None:
    words = ("package", "seal", "--case", "演示-1", "--out", "unstamped", "--tsa", "http://127.0.0.1:9/")
    record = run.json(*words)
    assert record["time_stamps"] == 0 and record["evidence_missing"][0]["source"] == "http://127.0.0.1:9/"
    assert verify_package(run.home / "unstamped").exit_code == 0


def test_supplements_need_a_key_and_no_workspace(run: Run) -> None:
    (run.home / "annex.txt").write_text("附件")
    words = [
        "package",
        "supplement",
        "package.zip",
        "annex.txt",
        "--kind",
        "disagreement",
        "--author",
        "王五",
        "--text",
        "不同意",
    ]
    made = run.json(*words, "--out", "note.zip", keys="other keys")
    assert made["kind"] == "disagreement" and made["files"] == 1 and made["package_exit_code"] == 0
    said = run(*words, "--out", "next", "--previous", "note.zip", keys="other keys", lang="zh")
    assert "异议" in said and "完整" in said
    assert "package.zip" in run(*words, "--out", "bad", "--previous", "package.zip", code=1)
    assert "opinion" in run(
        "package", "supplement", "package.zip", "--kind", "opinion", "--author", "x", "--text", "y", "--out", "bad", code=64
    )
    assert not (run.home / "bad").exists()


def test_a_copy_holds_the_blurred_picture_and_not_the_original(run: Run) -> None:
    words = ["package", "redact", "package.zip", "--withhold", "*/secret.JPG", "--reason", "保护个人信息"]
    made = run.json(*words, "--out", "public", "--case", "演示-1")
    assert made["files_withheld"] == 2 and made["event_id"] is not None and made["mentions"] == []
    names = [path.name for path in (run.home / "public/data").rglob("*")]
    assert "redacted.png" in names and "secret.JPG" not in names
    assert all(b"secret.JPG" not in path.read_bytes() for path in (run.home / "public").rglob("*") if path.is_file())
    assert verify_package(run.home / "public").failures == ()
    assert "删减副本" in run(*words, "--out", "public.zip", lang="zh", keys="other keys")
    assert "--reason" in run("package", "redact", "package.zip", "--withhold", "*", "--out", "x", code=64)


@pytest.mark.parametrize(("more", "code"), [((), 64), (("--blur", "1,2,3"), 64), (("--round", "3"), 1)])
def test_an_item_is_blurred_or_rounded(run: Run, more: tuple[str, ...], code: int) -> None:
    run("package", "redact-item", "--case", "演示-1", run.photo, *more, code=code)


def test_comparing_ends_in_an_exit_code(run: Run) -> None:
    assert run.json("package", "diff", "package.zip", "package.zip")["same"] is True
    found = run.json("package", "diff", "package.zip", "second", code=1)
    assert found["log"]["relation"] == "a_is_prefix" and found["items"] == []
    text = run("package", "diff", "package.zip", "second", code=1, lang="zh")
    assert "内容不同" in text and "接续" in text
    assert "absent" in run("package", "diff", "package.zip", "absent", code=1)
