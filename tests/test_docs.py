"""The README's commands run, its tables name what there is, and links between documents lead somewhere."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bootstrap

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sample_data/**/*.md"), *ROOT.glob("tests/**/*.md")]
)


def geoevidence(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does: a process of its own, in English."""
    env = {**os.environ, "GEOEVIDENCE_LANG": "en", "COLUMNS": "200", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**env, "PYTHONPATH": str(ROOT)},
    )


@functools.cache
def help_texts(lang: str) -> dict[tuple[str, ...], str]:
    """Full help of every command by its words, read off the command tree in one process of that language."""
    code = """
import json, click, typer
from app.cli import app
found = {}
def walk(command, words):
    context = click.Context(command, info_name=" ".join(("geoevidence", *words)))
    subcommands = getattr(command, "commands", {})
    if not subcommands:
        found[" ".join(words)] = command.get_help(context)
    for name, inner in subcommands.items():
        walk(inner, (*words, name))
walk(typer.main.get_command(app), ())
print(json.dumps(found))
"""
    env = {**os.environ, "GEOEVIDENCE_LANG": lang, "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=ROOT, env=env, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return {tuple(words.split()): text for words, text in json.loads(done.stdout).items()}


def readme_commands() -> set[tuple[str, ...]]:
    """Every command of the README's table; `case new`, `set` stands for two."""
    found: set[tuple[str, ...]] = set()
    for cell in re.findall(r"^\| (`geoevidence [^|]*) \|", README, re.M):
        first, *others = re.findall(r"`([^`]+)`", cell)
        words = tuple(first.split()[1:])
        found.add(words)
        found |= {(*words[:-1], other) for other in others}
    return found


def test_the_readme_lists_every_command_and_no_other() -> None:
    assert readme_commands() == set(help_texts("en"))


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_command_and_option_explains_itself(lang: str) -> None:
    """Help is a text in that language, not a bare message id, and every command has one."""
    for words, text in help_texts(lang).items():
        assert not re.search(r"\b(cli|app)\.[a-z_]+(\.[a-z_]+)?\b", text), (words, text)
        summary = text.splitlines()[2]
        assert summary.startswith("  ") and bool(re.search(r"[\u4e00-\u9fff]", summary)) is (lang == "zh"), (words, summary)


def test_the_tasks_are_those_of_bootstrap_and_make() -> None:
    named = set(re.findall(r"^\| `make (\w+)` \|", README, re.M))
    makefile = re.search(r"^TASKS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert makefile
    assert named == set(bootstrap.TASKS) == set(makefile.group(1).split())


def test_make_runs_bootstrap() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make absent: the Makefile was not tried")
    # `make test` runs this test: what it hands to a make below it (level, flags) must not change what is printed
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    done = subprocess.run([make, "-n", "quick", "ARGS=-x"], cwd=ROOT, capture_output=True, text=True, env=outside)
    assert done.stdout.strip() == "python3 bootstrap.py quick -x"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target and not target.startswith("#")]
    missing = [target for target in targets if not (path.parent / target.partition("#")[0]).exists()]
    assert not missing


def five_minutes() -> list[list[str]]:
    block = re.search(r"<!-- tested: five minutes -->\n```sh\n(.*?)```", README, re.S)
    assert block, "the README has no tested block"
    return [shlex.split(line) for line in block.group(1).splitlines() if line.strip()]


def test_the_five_minutes_end_in_a_verdict() -> None:
    lines = five_minutes()
    assert lines[0][:2] == ["geoevidence", "init"]
    assert lines[-2][:2] == ["geoevidence", "verify"] and lines[-1][:2] == ["python3", "package/verify.pyz"]


@pytest.mark.slow
def test_the_five_minutes_run(tmp_path: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of the README's run does what it says, in a folder that holds nothing but the sample data."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))
    shutil.copytree(sample_data, tmp_path / "sample_data")
    for words in five_minutes():
        if words[0] == "geoevidence":
            done = geoevidence(*words[1:], cwd=tmp_path)
        else:
            assert words[0] == "python3"
            done = subprocess.run(
                [sys.executable, "-I", *words[1:]], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path
            )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"

    # What the paragraph below the block promises: one changed byte, the file named, exit code 1.
    victim = sorted(path for path in (tmp_path / "package/data/originals").rglob("*") if path.is_file())[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-I", "package/verify.pyz", "package"], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path
    )
    assert done.returncode == 1 and victim.name in done.stdout


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_decision_has_its_four_parts() -> None:
    pages = sorted((ROOT / "docs/adr").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]} ")
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.M) == ["Context", "Options", "Choice", "Consequence"], page.name
