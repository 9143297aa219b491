"""What all tests share: where data lie, which browser there is, and a loud account of what was not run."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

# Another program's PROJ data would make rasterio fail; this must happen before anything imports it.
for _name in ("PROJ_DATA", "PROJ_LIB"):
    os.environ.pop(_name, None)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def sample_data(repository: Path) -> Path:
    """The sample data of the repository."""
    folder = repository / "sample_data"
    assert any(folder.iterdir()), f"{folder} comes with the repository and is empty"
    return folder


@pytest.fixture(scope="session")
def shared(repository: Path) -> Path:
    """The folder of real data sets that are too large for the repository; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("GEOEVIDENCE_SHARED") or repository.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"real data absent: no folder data in {folder.name!r}; set GEOEVIDENCE_SHARED to where it is")
    return folder


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A Chromium-family browser; `python bootstrap.py test` installs one where it may."""
    import bootstrap

    found = bootstrap.find_browser()
    if found is None:
        pytest.skip("browser absent: neither Chromium nor Chrome was found; `python bootstrap.py test` says how to get one")
    return found


SHARING = ("browser", "drone")
"""Folders whose files share what their session fixtures make: a reconstructed flight, a running server."""


@pytest.hookimpl(tryfirst=True)  # before the distributing plugin reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes run the tests, each file stays in one of them, and each of the `SHARING` folders as a whole."""
    for item in items:
        parts = item.path.relative_to(ROOT / "tests").parts
        item.add_marker(pytest.mark.xdist_group(parts[0] if parts[0] in SHARING else "/".join(parts)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    if not reasons:
        return
    terminalreporter.section("NOT RUN, so nothing is known about it", sep="!", yellow=True, bold=True)
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count} test{'s' if count > 1 else ''} not run: {reason}", yellow=True)
