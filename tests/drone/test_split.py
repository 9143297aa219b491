"""A flight in parts: which photos go together, the same bytes whatever does the work, and nothing done twice after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drone.dense import DenseConfig
from drone.parts import SplitConfig, part_bytes, photos_within, plan_parts
from drone.products import read_accuracy, read_surface
from drone.sfm import SfmConfig
from drone.split import survey_split
from drone.surveyed import read_surveyed
from drone.types import Flight
from drone.workflow import SurveyConfig, run_again
from geoevidence.errors import ConfigError, InputError
from geoevidence.types import config_from_parameters
from tests.drone import paper_flight as paper
from tests.drone.simulated_block import simulate


def grid_flight(strips: int, per_strip: int, seed: int = 0) -> Flight:
    return simulate(seed, strips=strips, per_strip=per_strip, points=10).flight


@settings(max_examples=12, deadline=None)
@given(st.integers(3, 8), st.integers(4, 12), st.integers(30, 60), st.integers(0, 99))
def test_parts_cover_a_flight_and_overlap(strips: int, per_strip: int, most: int, seed: int) -> None:
    flight = grid_flight(strips, per_strip, seed)
    names = [photo.name for photo in flight.photos]
    parts = plan_parts(flight, SplitConfig(photos_per_part=most))
    assert sorted(name for part in parts for name in part.core) == sorted(names)
    assert all(set(part.core) <= set(part.photos) and len(part.photos) <= most for part in parts)
    # cells of nearly as many photos each
    assert max(len(part.core) for part in parts) - min(len(part.core) for part in parts) <= 1 + len(parts) // 2
    # every part shares photos with the rest, and all hang together
    linked, waiting = {0}, [0]
    while waiting:
        one = parts[waiting.pop()]
        for other in parts:
            if other.number not in linked and len(set(one.photos) & set(other.photos)) >= 4:
                linked.add(other.number)
                waiting.append(other.number)
    assert len(linked) == len(parts)
    # the order in which photos come changes nothing
    shuffled = replace(flight, photos=tuple(np.random.default_rng(seed).permutation(np.array(flight.photos, object))))
    assert plan_parts(shuffled, SplitConfig(photos_per_part=most)) == parts


def test_what_cannot_be_divided_is_refused() -> None:
    flight = grid_flight(4, 8)
    assert len(plan_parts(flight, SplitConfig(photos_per_part=32))) == 1
    with pytest.raises(ConfigError) as small:
        plan_parts(flight, SplitConfig(photos_per_part=8, overlap=10))
    assert small.value.message_id == "drone.split_part_too_small"
    lost = replace(flight, photos=(replace(flight.photos[0], position=None), *flight.photos[1:]))
    assert len(plan_parts(lost, SplitConfig(photos_per_part=32))) == 1
    with pytest.raises(InputError) as nowhere:
        plan_parts(lost, SplitConfig(photos_per_part=20))
    assert nowhere.value.message_id == "drone.split_no_positions" and nowhere.value.values["first"] == "P000.JPG"


@given(st.floats(2, 64), st.floats(1, 50))
def test_a_part_takes_no_more_than_the_setting(memory: float, megapixels: float) -> None:
    try:
        count = photos_within(memory, megapixels)
    except ConfigError:
        assert part_bytes(8, megapixels) > memory * 1e9
        return
    assert part_bytes(count, megapixels) <= memory * 1e9 < part_bytes(count + 1, megapixels)


def test_the_model_is_not_below_what_was_measured() -> None:
    """Peaks of docs/methods/drone_split.md, GB: 9 photos of 9 MP, 40 of 12 MP."""
    assert part_bytes(9, 9.0) >= 1.84e9 and part_bytes(40, 12.0) >= 3.27e9
    assert photos_within(SplitConfig().memory_gb, 12.0) >= 25


@pytest.mark.parametrize(
    ("name", "value"), [("photos_per_part", 5), ("memory_gb", 0.1), ("overlap", 0), ("feather", -1.0), ("workers", 0)]
)
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigError):
        SplitConfig(**{name: value})  # type: ignore[arg-type]


CONFIG = SurveyConfig(sfm=SfmConfig(features=1500, threads=1), dense=DenseConfig(profile="fast", downscale=1, threads=1))
SPLIT = SplitConfig(photos_per_part=9, overlap=1)


class _Killed(BaseException):
    """Stands for the end of the process."""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_survey_in_parts_whoever_does_it(tmp_path: Path) -> None:
    """Twelve photos of level ground in two parts: once by a cluster in a go; once here, killed in the products of the second part and
    then finished. The same files, and nothing done twice."""
    from distributed import Client, LocalCluster

    flight = paper.write(tmp_path / "flight", paper.plan(2, 6))
    out = tmp_path / "one"
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster, Client(cluster):
        result = survey_split(flight, out=out, config=CONFIG, split=SPLIT, dask=cluster.scheduler_address)
    assert {"dsm.tif", "dtm.tif", "dsm_uncertainty.tif", "orthomosaic.tif", "sources.tif", "cloud.copc.laz", "quality.pdf"} <= {
        path.name for path in out.iterdir()
    }
    assert not (out / ".unfinished").exists()

    seen: list[str] = []

    def killed(stage: str, fraction: float) -> None:
        if fraction == 1.0:
            seen.append(stage)
        if seen.count("drone.stage_undistort") == 2:
            raise _Killed

    again = tmp_path / "two"
    with pytest.raises(_Killed):
        survey_split(flight, out=again, config=CONFIG, split=SPLIT, progress=killed)
    assert seen.count("drone.stage_adjust") == 2 and seen.count("drone.stage_ortho") == 1
    kept = sorted(path.relative_to(again / ".unfinished").as_posix() for path in (again / ".unfinished").rglob("*.stage"))
    assert kept == ["joined.stage", "part-0000/block.stage", "part-0000/products.stage", "part-0001/block.stage"]
    seen.clear()
    survey_split(flight, out=again, config=CONFIG, split=SPLIT, progress=lambda stage, fraction: seen.append(stage))
    assert not {"drone.stage_features", "drone.stage_adjust", "drone.stage_join"} & set(seen)
    assert seen.count("drone.stage_undistort") == 8  # one for each photo of the part that was under way
    assert contents(out) == contents(again)

    # what it says
    record = json.loads((out / "accuracy.json").read_bytes())
    seams = record["seams"]
    assert [part["core"] for part in seams["parts"]] == [6, 6] and all(part["placed"] for part in seams["parts"])
    pair = seams["pairs"][0]
    assert pair["parts"] == [1, 2] and pair["photos"] == 4 and pair["points"] > 50
    assert float(pair["after"][0]) < 0.3 * paper.GSD and float(pair["heights"]["apart"]) < 0.05
    report = read_accuracy(out / "accuracy.json")
    assert report.control == "gps" and report.gsd == pytest.approx(paper.GSD, rel=0.02)
    surface = read_surface(out / "dsm.tif", out / "dsm_uncertainty.tif")
    z = surface.raster.data[0]
    assert np.isfinite(z).mean() > 0.6
    # level ground stays level across the seam: 24 m at the camera's foot, as the flight is told
    flat = z[np.isfinite(z)]
    assert 1.4826 * np.median(np.abs(flat - np.median(flat))) < paper.GSD
    assert abs(np.median(flat) - 24.0) < 4 * report.position_sd[2]
    table = {photo.camera.id for photo in read_surveyed(out).table}
    assert len(table) == 2
    assert result.parameters["split"]["photos_per_part"] == 9 and "workers" not in result.parameters["split"]
    assert config_from_parameters(SplitConfig, result.parameters["split"]) == SPLIT
    with pytest.raises(InputError) as refused:  # done again in parts: as far as the folder, which is not empty
        run_again(result, inputs=flight, out=out)
    assert refused.value.message_id == "drone.out_not_empty"
    assert any(gap.id == "drone.gap_split" for gap in result.gaps)
    for gap in result.gaps:
        for lang in ("zh", "en"):
            assert "{" not in gap.render(lang)  # type: ignore[arg-type]


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = paper.write(tmp_path / "flight", paper.plan(2, 6))
    with pytest.raises(InputError) as lost:
        survey_split(folder, out=tmp_path / "out", config=CONFIG, split=SPLIT, dask="tcp://127.0.0.1:9")
    assert lost.value.message_id == "drone.split_no_cluster" and lost.value.values["address"] == "tcp://127.0.0.1:9"
