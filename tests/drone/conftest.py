"""Flights reconstructed and surveyed once a session, and a simulated block whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drone.metadata import read_flight
from drone.sfm import SfmConfig, reconstruct
from drone.types import Flight, Reconstruction
from drone.workflow import SurveyConfig, survey
from geoevidence.types import ProcessResult

Once = Callable[..., Reconstruction]

REAL = SurveyConfig(sfm=SfmConfig(image_size=2000, features=5000))
"""For the real flight: photos at half their size."""


@pytest.fixture(scope="session")
def reconstruct_once() -> Once:
    """`drone.sfm.reconstruct`, which is run once for the same photos, points and settings: it gives the same block (test_sfm)."""
    known: list[tuple[Flight, SfmConfig, Reconstruction]] = []

    def once(flight: Flight, *, config: SfmConfig = SfmConfig(), **rest: Any) -> Reconstruction:
        for earlier, settings, block in known:
            if (earlier, settings) == (flight, config):
                return block
        known.append((flight, config, reconstruct(flight, config=config, **rest)))
        return known[-1][2]

    return once


@pytest.fixture(scope="session")
def sample_reconstruction(sample_data: Path, reconstruct_once: Once, tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    """The demonstration flight with its control points; about a minute of one core."""
    folder = sample_data / "flight"
    flight = read_flight(folder, gcp=folder / "gcp_list.txt", checks=folder / "check_list.txt")
    return reconstruct_once(flight, workdir=tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def surveyed(sample_data: Path, reconstruct_once: Once, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProcessResult]:
    """The same with its check points and outlines, surveyed: the folder and the result."""
    out, flight = tmp_path_factory.mktemp("survey") / "out", sample_data / "flight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drone.workflow.reconstruct", reconstruct_once)
        result = survey(
            flight,
            out=out,
            gcp=flight / "gcp_list.txt",
            checks=flight / "check_list.txt",
            polygons=sample_data / "polygons.geojson",
        )
    return out, result


@pytest.fixture(scope="session")
def real_photos(shared: Path) -> Path:
    return shared / "data" / "drone" / "brighton_beach" / "images"


@pytest.fixture(scope="session")
def real_reconstruction(real_photos: Path, reconstruct_once: Once, tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    """18 photos of a real flight without control points, at half their size; half a minute of one core."""
    return reconstruct_once(read_flight(real_photos), config=REAL.sfm, workdir=tmp_path_factory.mktemp("real"))
