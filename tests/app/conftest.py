from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from geoevidence.custody import Case, Workspace
from tests.app.sample import make_workspace


@pytest.fixture(scope="session")
def sample_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with one analysed case; tests that write use a case of their own in it."""
    folder = tmp_path_factory.mktemp("viewer")
    names = ("GEOEVIDENCE_KEYS", "GEOEVIDENCE_WORKSPACE")
    kept = {name: os.environ.get(name) for name in names}
    os.environ["GEOEVIDENCE_KEYS"] = str(folder / "keys")
    os.environ["GEOEVIDENCE_WORKSPACE"] = str(folder / "workspace")
    yield make_workspace(folder / "workspace")
    for name, value in kept.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def sample_case(sample_workspace: Workspace) -> Case:
    return sample_workspace.case("演示-001")


@pytest.fixture
def workspace_path(sample_workspace: Workspace) -> Path:
    return sample_workspace.path


@pytest.fixture(autouse=True)
def own_main() -> Iterator[None]:
    """A screen under test takes the place of the program's main module; processes that later tests start would run it."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
