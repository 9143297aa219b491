"""One sealed package for all tests of the verifier, as files in memory, as a folder and as a zip."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust.builder import Log, package_files, sample_log, write_folder, write_zip


@pytest.fixture(scope="session")
def log() -> Log:
    """The sample log; not to be changed."""
    return sample_log()


@pytest.fixture(scope="session")
def files(log: Log) -> dict[str, bytes]:
    """Files of a valid package. A few bytes stand for verify.pyz: it is checked by its digests alone."""
    return package_files(log, changes={"verify.pyz": b"PK"})


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    return write_folder(files, tmp_path / "P-1")


@pytest.fixture
def archive(files: dict[str, bytes], tmp_path: Path) -> Path:
    return write_zip(files, tmp_path / "P-1.zip")
