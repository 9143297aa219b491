"""Flights reconstructed once a session, and a simulated block whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from drone.metadata import read_flight
from drone.sfm import reconstruct
from drone.types import Reconstruction


@pytest.fixture(scope="session")
def sample_reconstruction(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    """The demonstration flight with its control points; about a minute of one core."""
    folder = sample_data / "flight"
    flight = read_flight(folder, gcp=folder / "gcp_list.txt", checks=folder / "check_list.txt")
    return reconstruct(flight, workdir=tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def real_reconstruction(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    """18 photos of a real flight without control points; about a minute of one core."""
    flight = read_flight(shared / "data" / "drone" / "brighton_beach" / "images")
    return reconstruct(flight, workdir=tmp_path_factory.mktemp("real"))
