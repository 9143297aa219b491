"""What may lie in the repository: nothing of one machine, no addresses in locks, nothing large, nothing that set-up makes."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-bare.lock", "requirements-run.lock", "requirements-uv.lock")
LARGEST = 2_000_000  # bytes of one file outside sample_data
MACHINE_PATH = re.compile(r"(?<![\w.$~/-])/(?:root|home/\w+|work|Users/\w+)/|[A-Z]:\\+Users\\+\w+")
# Written apart so that this file does not hold what it looks for.
REGISTRIES = re.compile("|".join(a + re.escape(".") + b for a, b in (
    ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("npmmirror", "com"), ("yarnpkg", "com"),
    ("anaconda", "org"), ("tuna.tsinghua", "edu"), ("mirrors.aliyun", "com"), ("deb.debian", "org"),
)))  # fmt: skip


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


FORBIDDEN_IN_TEXT = {"a path of one machine": MACHINE_PATH, "the host of a package registry": REGISTRIES}


def _text(path: Path) -> str | None:
    data = path.read_bytes()
    try:
        return None if b"\0" in data else data.decode("utf-8")
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("what", sorted(FORBIDDEN_IN_TEXT))
def test_no_tracked_text_holds(what: str) -> None:
    pattern = FORBIDDEN_IN_TEXT[what]
    found = []
    for path in tracked():
        for number, line in enumerate((_text(path) or "").splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ('open("' + "/home" + '/li/a.tif")', True),
        ("C:\\Users" + "\\li\\a.tif", True),
        ("see " + "/root" + "/x", True),
        ("docs/work/plan.md and ~/.config/work/x", False),
        ("https://example.org" + "/home" + "/li/x", False),
    ],
)
def test_the_path_pattern_catches(line: str, caught: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) is caught


def test_nothing_large_and_nothing_made_is_tracked() -> None:
    large = [
        f"{p.relative_to(ROOT)}: {p.stat().st_size} bytes"
        for p in tracked()
        if p.stat().st_size > LARGEST and "sample_data" not in p.parts
    ]
    made = [
        p.relative_to(ROOT).as_posix()
        for p in tracked()
        if p.suffix in {".ttf", ".pyc", ".pyz", ".whl"} or {"node_modules", "dist"} & set(p.parts)
    ]
    assert not large + made


def test_sample_data_stay_small() -> None:
    total = sum(path.stat().st_size for path in tracked() if "sample_data" in path.parts)
    assert total < 30_000_000, f"sample_data holds {total} bytes: every clone pays for them"


def test_text_files_end_lines_like_git_expects() -> None:
    odd = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.suffix in {".py", ".md", ".json", ".toml", ".yml", ".js", ".mjs", ".lock", ".in"}
        and not {"vectors", "golden", "sample_data"} & set(path.parts)
        and (text := path.read_bytes())
        and (b"\r\n" in text or not text.endswith(b"\n"))
    ]
    assert not odd


@pytest.mark.parametrize("name", LOCKS)
def test_each_locked_package_has_digests_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text and "--index" not in text and "file:" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    bad = [entry.split("\n")[0] for entry in entries if not re.match(r"[\w.-]+==\S+", entry) or "--hash=sha256:" not in entry]
    assert not bad


def test_npm_lock_has_digests_for_every_platform_and_no_address() -> None:
    text = (ROOT / "app/web/package-lock.json").read_text(encoding="utf-8")
    assert "://" not in text
    lock = json.loads(text)
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in packages.values())
    for system in ("linux-x64", "linux-arm64", "win32-x64", "darwin-arm64", "linux-loong64"):
        assert f"node_modules/@esbuild/{system}" in packages
    declared = json.loads((ROOT / "app/web/package.json").read_text(encoding="utf-8"))
    for name, version in {**declared["dependencies"], **declared["devDependencies"]}.items():
        assert packages[f"node_modules/{name}"]["version"] == version, "package.json names exact versions, those of the lock"


def test_ci_runs_the_command_the_readme_names() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert script.startswith("#!/usr/bin/env bash\n") and script.rstrip().endswith("make test")
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_every_data_file_of_the_packages_goes_into_a_wheel() -> None:
    """Texts, templates and tables that modules read are named under package-data; else an installed copy lacks them."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    for package in ("geoevidence", "drone", "satellite", "app"):
        covered = {path for pattern in data.get(package, []) for path in (ROOT / package).glob(pattern)}
        left_out = [
            path.relative_to(ROOT).as_posix()
            for path in tracked()
            if path.relative_to(ROOT).parts[0] == package
            and path.suffix != ".py"
            and path not in covered
            and "web" not in path.parts
        ]
        assert not left_out
