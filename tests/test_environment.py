"""The locks, environment.yml, what is installed and what pyproject.toml asks for agree."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bootstrap

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> list[Requirement]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [Requirement(line.rstrip(" \\")) for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]


def version(pin: Requirement) -> str:
    return str(pin.specifier).removeprefix("==")


def here(name: str) -> dict[str, str]:
    """Locked name -> version for this interpreter and platform."""
    return {
        canonicalize_name(pin.name): version(pin)
        for pin in pins(name)
        if pin.marker is None or Marker(str(pin.marker)).evaluate()
    }


def requirements(extra: str | None) -> list[Requirement]:
    if extra is None:
        return [Requirement(text) for text in PROJECT["dependencies"]]
    found = []
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            found += [inner for name in sorted(requirement.extras) for inner in requirements(name)]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize(
    ("lock", "extra"),
    [
        ("requirements.lock", "test"),
        ("requirements.lock", None),
        ("requirements-bare.lock", None),
        ("requirements-run.lock", "app"),
    ],
)
def test_the_lock_holds_what_the_project_asks_for(lock: str, extra: str | None) -> None:
    locked = here(lock)
    wrong = [
        f"{requirement}: locked {locked.get(canonicalize_name(requirement.name))}"
        for requirement in requirements(extra)
        if canonicalize_name(requirement.name) not in locked
        or not requirement.specifier.contains(locked[canonicalize_name(requirement.name)], prereleases=True)
    ]
    assert not wrong, f"run `python bootstrap.py lock`: {wrong}"


@pytest.mark.parametrize("lock", ["requirements-bare.lock", "requirements-run.lock"])
def test_the_smaller_locks_are_part_of_the_whole(lock: str) -> None:
    whole = here("requirements.lock")
    assert {name: whole.get(name) for name in here(lock)} == here(lock)


def test_what_is_installed_is_what_is_locked() -> None:
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("these tests run outside .venv: what is installed was not compared with the lock")
    installed = {canonicalize_name(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}
    assert {name: installed.get(name) for name in here("requirements.lock")} == here("requirements.lock")
    extra = set(installed) - set(here("requirements.lock")) - {"geoevidence", "pip", "uv"}
    assert not extra, f"installed by hand, so results may rest on it: {sorted(extra)}"


def test_environment_yml_is_the_lock() -> None:
    written = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert written == bootstrap.environment_yml((ROOT / "requirements.lock").read_text(encoding="utf-8")), (
        "run `python bootstrap.py lock`"
    )


def test_environment_yml_pins_every_package() -> None:
    """Read by another way than it is written: every quoted line under pip is one pin of the lock, markers included."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert re.search(r"^name: geoevidence$", text, re.M) and re.search(r"^  - python=3\.11$", text, re.M)
    listed = re.findall(r'^      - "(.*)"$', text, re.M)
    assert listed.pop() == "-e ."
    key = lambda pin: (canonicalize_name(pin.name), version(pin), str(pin.marker or ""))  # noqa: E731
    assert [key(Requirement(line)) for line in listed] == [key(pin) for pin in pins("requirements.lock")]


def test_native_libraries_are_named_wherever_they_matter() -> None:
    guide = (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")
    for package in [*bootstrap.ENGINE_LIBRARIES.values(), *bootstrap.NODE_LIBRARIES.values(), "chromium"]:
        assert package in guide, f"docs/how-to/install.md does not name {package}"
