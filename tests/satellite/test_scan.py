"""A region tile by tile: what the whole map says, in any order, by any number of workers, killed or not, month by month."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import CRS
from shapely.geometry import mapping, shape

from geoevidence.crs import transform_geometry
from geoevidence.errors import ConfigError, CoverageError, FormatError, HistoryTooShortError, InputError
from geoevidence.raster import read_raster
from satellite import region as region_module
from satellite.cube import read_block
from satellite.fused import Bench, Job, event_from, event_json
from satellite.overlay import pixels_inside, read_region
from satellite.queue import append_review, read_reviews, review_of
from satellite.region import ScanConfig, ScanRequest, month_end, scan_region
from satellite.scan import Crew, Failure, tile_bytes, worker_count
from satellite.scenes import read_scenes
from satellite.segment import detect_block, keep_supported
from satellite.sparse import Box, nodes_from, nodes_of, unpack
from satellite.stack import LevelStep, Stack, tiles
from satellite.strips import Strips
from satellite.types import Cube, Observed, Status
from satellite.workflow import MonitorConfig, monitor

from .conftest import FELLING, SMALL
from .deadly_region import DeadlyRegion

CONFIG = ScanConfig(tile=16)
"""40 x 40 pixels in nine tiles, some 8 pixels wide; the event of the site lies on an inner corner of four of them."""
WGS84 = CRS.from_epsg(4326)


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder but the lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def request_of(folder: Path, **more: Any) -> ScanRequest:
    return ScanRequest(scenes=folder, rasters=True, evidence=1, **more)


@pytest.fixture(scope="module")
def scenes_folder(stack_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of conftest.py in files with blocks of the tiles' size, as a scan wants them. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("blocks")
    for path in sorted(stack_folder.iterdir()):
        if path.suffix != ".tif":
            shutil.copy(path, folder)
            continue
        with rasterio.open(path) as source:
            profile, data, names, tags = source.profile, source.read(), source.descriptions, source.tags()
        profile.update(driver="GTiff", tiled=True, blockxsize=16, blockysize=16)
        with rasterio.open(folder / path.name, "w", **profile) as target:
            target.write(data)
            target.descriptions = names
            target.update_tags(**tags)
    return folder


@pytest.fixture(scope="module")
def stack(scenes_folder: Path) -> Stack:
    return read_scenes(scenes_folder)


@pytest.fixture(scope="module")
def job(stack: Stack) -> Job:
    config = MonitorConfig()
    return Job(stack=stack, breaks=config.breaks, events=config.events, region=None, registration=None, parameters={})


@pytest.fixture(scope="module")
def done(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted scan by one process. Read-only by agreement."""
    out = tmp_path_factory.mktemp("scan") / "out"
    result = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert not result.failed and (result.computed, result.reused) == (9, 0)
    return out


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def written(path: Path, polygon: shapely.Geometry, source: CRS, **properties: Any) -> Path:
    """A polygon given in `source` as GeoJSON."""
    geometry = transform_geometry(mapping(polygon), source, WGS84)
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
    return path


def site_box(left: float, top: float, right: float, bottom: float) -> shapely.Geometry:
    """A box on the site by distances from its upper left corner, m."""
    x, y = SMALL.origin
    return shapely.box(x + left, y - bottom, x + right, y - top)


# What a tile says ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 39])
def test_tiles_are_the_whole_map_bit_for_bit(job: Job, size: int) -> None:
    """Also where the last tile is one pixel wide."""
    from satellite.sparse import joined

    bench = Bench(job)
    config = job.breaks
    whole = keep_supported(detect_block(read_block(job.stack), config, threads=1), config)
    boxes = [Box(int(w.row_off), int(w.col_off), int(w.height), int(w.width)) for w in tiles(job.stack, size)]
    assert min(box.rows for box in boxes) == (8 if size == 16 else 1)
    raw, status = {}, np.zeros(job.stack.grid.shape, np.uint8)
    for box in boxes:
        head, arrays = unpack(bench.scan_tile(box).file, where="t")
        assert head["pixels"] == box.rows * box.cols and sum(head["observed"]) == box.rows * box.cols * len(job.stack.days)
        raw[box] = nodes_from(arrays, where="t")
        status[box.slices] = arrays["status"]
        assert np.array_equal(arrays["observations"], whole.observations[box.slices])
    kept = joined([bench.settle(box, raw[box], [raw[other] for other in boxes if other != box]) for box in boxes])
    assert kept.digest() == nodes_of(whole, Box(0, 0, *job.stack.grid.shape)).digest() and len(kept) > 50
    status[(status == Status.CHANGE)] = Status.NO_CHANGE
    status[kept.rows, kept.cols] = Status.CHANGE
    assert np.array_equal(status, whole.status)
    bench.close()


def test_events_are_those_of_monitor(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    """Interval, area, error, confidence, classes and outline, though four tiles share the event."""
    monitor(scenes_folder, out=tmp_path / "m")
    (expected,) = json.loads((tmp_path / "m/events.geojson").read_text(encoding="utf-8"))["features"]
    (found,) = json.loads((done / "events.geojson").read_text(encoding="utf-8"))["features"]
    for feature in (expected, found):
        del feature["properties"]["finding"], feature["id"]
    assert found == expected
    assert read_raster(done / "status.tif").data.tolist() == read_raster(tmp_path / "m/status.tif").data.tolist()


def test_the_event_is_where_and_when_the_truth_is(done: Path) -> None:
    (feature,) = json.loads((done / "events.geojson").read_text(encoding="utf-8"))["features"]
    facts = feature["properties"]
    assert facts["last_clear_before"] < FELLING.day.isoformat() <= facts["first_clear_after"]
    assert abs(facts["area_m2"] - 8000) <= 2 * facts["area_standard_uncertainty_m2"] < 2000
    record = json.loads((done / "run.json").read_text(encoding="utf-8"))
    assert record["in_custody"] is False and record["tiles"] == {"done": 9, "total": 9} and record["synthetic"] is True
    assert sum(record["pixels"].values()) == 1600 and record["since"]["new"] == [feature["id"]]
    assert sum(record["observed"].values()) == 1600 * len(read_scenes_days(done))
    dates = read_raster(done / "break_date.tif").data[0]
    assert int((dates > 0).sum()) == record["pixels"]["change"]


def read_scenes_days(out: Path) -> set[str]:
    scenes = json.loads((out / "scenes.json").read_text(encoding="utf-8"))["scenes"]
    return {scene["acquired"] for scene in scenes if scene["status"] == "read"}


def test_no_path_of_this_machine_in_the_results(done: Path, scenes_folder: Path) -> None:
    places = (str(scenes_folder).encode(), str(done).encode())
    for path in done.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(place in data for place in places), path


def test_an_event_survives_its_record(done: Path) -> None:
    for path in sorted((done / "events").rglob("*.scan")):
        head, arrays = unpack(path.read_bytes(), where="t")
        for line in arrays["records"].tobytes().split(b"\n"):
            event = event_from(line, "-", nodes_from(arrays_of_no_pixels(), where="t"))
            assert event_json(event) == line
            with pytest.raises(FormatError):
                event_from(line.replace(b'"pace"', b'"pase"'), "-", nodes_from(arrays_of_no_pixels(), where="t"))
        assert len(head["keys"]) == 1


def arrays_of_no_pixels() -> dict[str, Any]:
    from satellite.sparse import no_nodes

    return no_nodes().arrays()


def test_an_event_too_large_for_one_window_is_the_sum_of_its_parts(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    config = ScanConfig(tile=16, event_pixels=1000)
    scan_region(ScanRequest(scenes=scenes_folder), out=tmp_path / "out", config=config, workers=1)
    (whole,) = json.loads((done / "events.geojson").read_text(encoding="utf-8"))["features"]
    (parts,) = json.loads((tmp_path / "out/events.geojson").read_text(encoding="utf-8"))["features"]
    assert shape(parts["geometry"]).equals(shape(whole["geometry"]))
    one, two = whole["properties"], parts["properties"]
    assert two["pixels"] == one["pixels"] and two["score"] == one["score"]
    assert abs(two["area_m2"] - one["area_m2"]) <= 2 * two["area_standard_uncertainty_m2"]
    assert two["area_standard_uncertainty_m2"] >= one["area_standard_uncertainty_m2"]  # added up as if fully dependent
    assert two["last_clear_before"] < FELLING.day.isoformat() <= two["first_clear_after"]


# The same bytes --------------------------------------------------------------------------------------------------------------


class _Shuffled(Crew):
    """Does the tasks in random order."""

    def run(self, work: str, items: Iterable[tuple[Any, tuple[Any, ...]]]) -> Iterator[tuple[Any, Any]]:
        some = list(items)
        random.Random(len(some)).shuffle(some)
        yield from super().run(work, some)


def test_the_order_of_tiles_changes_nothing(
    done: Path, scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_module, "Crew", _Shuffled)
    scan_region(request_of(scenes_folder), out=tmp_path / "out", config=CONFIG, workers=1)
    assert digests(tmp_path / "out") == digests(done)


def test_what_scratch_does_not_hold_is_read_again(
    done: Path, scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event lies on tiles that keep their edges and on others whose disk is full."""
    keep, looked = Strips.keep, []

    def full(self: Strips, box: Box, cube: Cube, windows: Iterable[Box]) -> None:
        looked.append(box)
        if box.col == 16:
            raise OSError(28, "no space")
        keep(self, box, cube, windows)

    monkeypatch.setattr(Strips, "keep", full)
    scan_region(request_of(scenes_folder), out=tmp_path / "out", config=CONFIG, workers=1)
    assert len(looked) == 9 and digests(tmp_path / "out") == digests(done)


def test_a_second_run_computes_nothing_and_leaves_the_same_bytes(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    out = copied(done, tmp_path / "out")
    result = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert (result.computed, result.reused, result.damaged) == (0, 9, ())
    assert digests(out) == digests(done)


@pytest.mark.slow
def test_workers_change_nothing_even_when_one_dies(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    """Three processes on this machine, one of which is killed on the way. Nothing listens but on 127.0.0.1."""
    import psutil

    killed: list[int] = []
    listening: set[str] = set()

    def watch(stage: str, fraction: float) -> None:
        if stage != "satellite.stage_tiles" or killed:
            return
        me = psutil.Process()
        family = [me, *me.children(recursive=True)]
        for process in family:
            listening.update(c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)
        spawned = [p for p in family[1:] if "spawn_main" in " ".join(p.cmdline())]
        killed.append(spawned[0].pid)
        os.kill(spawned[0].pid, signal.SIGKILL)

    result = scan_region(request_of(scenes_folder), out=tmp_path / "out", config=CONFIG, workers=3, progress=watch)
    assert not result.failed and result.computed == 9 and listening == {"127.0.0.1"} and killed
    assert digests(tmp_path / "out") == digests(done)


@pytest.mark.slow
def test_a_task_that_kills_its_workers_fails_alone(job: Job) -> None:
    deadly = replace(job, region=DeadlyRegion(polygon=site_box(0, 0, 400, 400), covered=1.0, spared=os.getpid()))
    boxes = {f"t{n}": Box(0, 8 * n, 8, 8) for n in range(4)}
    with Crew(deadly, workers=2) as crew:
        results = dict(crew.run("scan_tile", [(name, (box,)) for name, box in boxes.items()]))
    assert isinstance(results["t0"], Failure) and results["t0"].reason.id == "satellite.scan_worker_died"
    alone = Bench(deadly)
    for name in ("t1", "t2", "t3"):
        assert results[name].file == alone.scan_tile(boxes[name]).file
    alone.close()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said(job: Job) -> None:
    items = [("a", (Box(0, 0, 8, 8),)), ("b", (Box(0, 8, 8, 8),))]
    with pytest.raises(InputError) as caught, Crew(job, workers=0, address="tcp://127.0.0.1:9") as crew:
        list(crew.run("scan_tile", items))
    assert caught.value.message_id == "satellite.scan_no_cluster"


# Killed, damaged, full -------------------------------------------------------------------------------------------------------

_RUN = """
import sys, time
from pathlib import Path
from satellite.region import ScanConfig, ScanRequest, scan_region
source, out, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def slow(stage, fraction):
    if pause and fraction > 0.1:
        time.sleep(pause)
scan_region(ScanRequest(scenes=source, rasters=True, evidence=1), out=out, config=ScanConfig(tile=16), workers=1, progress=slow)
"""


@pytest.mark.slow
def test_killed_and_started_again_is_as_if_never_killed(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", _RUN, str(scenes_folder), str(out), "0.5"]
    process = subprocess.Popen(words, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)
    limit = time.monotonic() + 120
    while len(list(out.glob("tiles/*/c*.scan"))) < 3:
        assert process.poll() is None and time.monotonic() < limit, process.stderr and process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # What a kill in the middle of writing leaves behind.
    (out / "tiles/r00000/.part-half").write_bytes(b"GEOSCAN1 half a tile")
    before = len(list(out.glob("tiles/*/c*.scan")))
    assert 3 <= before < 9
    result = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert (result.computed, result.reused) == (9 - before, before)
    assert digests(out) == digests(done)


def test_damaged_results_are_made_again_and_said(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    out = copied(done, tmp_path / "out")
    tile, events = out / "tiles/r00001/c00001.scan", next(iter(sorted((out / "events").rglob("*.scan"))))
    tile.write_bytes(tile.read_bytes()[:-40])
    broken = bytearray(events.read_bytes())
    broken[len(broken) // 2] ^= 1
    events.write_bytes(bytes(broken))
    result = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    names = {path.relative_to(out).as_posix() for path in (tile, events)}
    assert set(result.damaged) == names and result.computed == 1
    assert {gap.values["path"] for gap in result.gaps if gap.id == "satellite.scan_file_redone"} == names
    assert digests(out) == digests(done)


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_the_next_run_goes_on(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    """The limit on the size of a file fails a write half-way, as a full disk does."""
    out = tmp_path / "out"
    largest = max(path.stat().st_size for path in (done / "tiles").rglob("*.scan"))
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest - 1}, {largest - 1}))\n" + _RUN
    words = [sys.executable, "-c", code, str(scenes_folder), str(out), "0"]
    process = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert process.returncode != 0 and "OSError: [Errno 27]" in process.stderr
    assert not list(out.rglob(".part-*")) and not (out / "run.json").exists()
    kept = len(list(out.glob("tiles/*/c*.scan")))
    assert kept < 9
    result = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert result.reused == kept and not result.damaged
    assert digests(out) == digests(done)


def test_two_scans_do_not_work_in_one_folder(done: Path, scenes_folder: Path) -> None:
    with region_module._only_one(done), pytest.raises(InputError) as caught:
        scan_region(request_of(scenes_folder), out=done, config=CONFIG, workers=1)
    assert caught.value.message_id == "satellite.scan_busy"


# Reading ---------------------------------------------------------------------------------------------------------------------


def test_a_scene_that_cannot_be_read_is_a_failed_read(scenes_folder: Path, tmp_path: Path) -> None:
    """Bytes that were damaged before the scan: counted, named, neither cloud nor nodata."""
    source = copied(scenes_folder, tmp_path / "s")
    victim = sorted(source.glob("*.tif"))[20]
    with rasterio.open(victim) as dataset:
        offset = int(dataset.tags(1, ns="TIFF").get("BLOCK_OFFSET_0_0") or dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", 1))
    data = bytearray(victim.read_bytes())
    data[offset : offset + 200] = b"\xff" * 200
    victim.write_bytes(bytes(data))
    result = scan_region(ScanRequest(scenes=source), out=tmp_path / "out", config=CONFIG, workers=1)
    assert not result.failed
    reads = {entry["scene"]: entry["tiles"] for entry in result.record["failed_reads"]}
    assert list(reads) == [victim.name] and reads[victim.name] > 0
    assert result.record["observed"]["failed_read"] > 0
    assert any(gap.id == "satellite.scan_failed_reads" for gap in result.gaps)


def test_a_scene_that_went_away_fails_its_tile(scenes_folder: Path, tmp_path: Path) -> None:
    """A lost disk must not look like damaged scenes, nor its tile be kept."""
    source = copied(scenes_folder, tmp_path / "s")
    config = MonitorConfig()
    lost = Job(
        stack=read_scenes(source), breaks=config.breaks, events=config.events, region=None, registration=None, parameters={}
    )
    sorted(source.glob("*.tif"))[20].unlink()
    with Crew(lost, workers=1) as crew:
        ((name, result),) = crew.run("scan_tile", [("t", (Box(0, 0, 16, 16),))])
    assert name == "t" and isinstance(result, Failure) and result.reason.id == "satellite.scan_scene_changed"


def test_failed_tiles_are_listed_and_the_rest_is_there(
    done: Path, scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(region_module, "Crew", _Unlucky)
        result = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert [where for where, _ in result.failed] == ["r00002/c00002"] and result.computed == 8
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["tiles"] == {"done": 8, "total": 9} and record["failed"][0]["where"] == "r00002/c00002"
    assert len(json.loads((out / "events.geojson").read_text(encoding="utf-8"))["features"]) == 1
    again = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert (again.computed, again.reused, again.failed) == (1, 8, ())
    assert digests(out) == digests(done)


class _Unlucky(Crew):
    """Cannot do the last tile."""

    def run(self, work: str, items: Iterable[tuple[Any, tuple[Any, ...]]]) -> Iterator[tuple[Any, Any]]:
        for name, args in items:
            if work == "scan_tile" and args[0].row == args[0].col == 32:
                args = ("no box",)
            yield from super().run(work, [(name, args)])


def test_a_tile_of_clouds_is_undecided(stack: Stack, job: Job) -> None:
    clouded = replace(job, stack=replace(stack, spec=replace(stack.spec, clear=(11,))))
    bench = Bench(clouded)
    head, arrays = unpack(bench.scan_tile(Box(0, 0, 8, 8)).file, where="t")
    assert (arrays["status"] == Status.CLOUD).all() and len(nodes_from(arrays, where="t")) == 0
    assert head["observed"][Observed.CLEAR] == 0 and head["observed"][Observed.CLOUD] > 0
    bench.close()


# Region ----------------------------------------------------------------------------------------------------------------------


def test_only_the_region_is_scanned(done: Path, scenes_folder: Path, stack: Stack, tmp_path: Path) -> None:
    """Half a tile row of it; the event is cut by its edge, and pixels outside are OUTSIDE."""
    area = written(tmp_path / "r.geojson", site_box(0, 0, 150, 400), stack.grid.crs)
    result = scan_region(
        ScanRequest(scenes=scenes_folder, region=area, rasters=True), out=tmp_path / "out", config=CONFIG, workers=1
    )
    inside = pixels_inside(read_region(area, stack.grid).polygon, stack.grid, Box(0, 0, 40, 40))
    status = read_raster(tmp_path / "out/status.tif").data[0]
    assert np.array_equal(status != Status.OUTSIDE, inside) and inside.sum() == 15 * 40
    assert result.record["tiles"]["total"] == 3 and result.record["region"]["covered"] == 1.0
    whole = read_raster(done / "status.tif").data[0]
    assert (status[inside] == whole[inside]).mean() > 0.99
    (feature,) = json.loads((tmp_path / "out/events.geojson").read_text(encoding="utf-8"))["features"]
    assert abs(feature["properties"]["outlined_m2"] - 5 * 8 * 100) <= 1500  # 50 m x 80 m of it lie inside


def test_a_region_beyond_the_scenes_is_scanned_as_far_as_they_go(scenes_folder: Path, stack: Stack, tmp_path: Path) -> None:
    area = written(tmp_path / "r.geojson", site_box(320, 320, 480, 480), stack.grid.crs)
    result = scan_region(ScanRequest(scenes=scenes_folder, region=area), out=tmp_path / "out", config=CONFIG, workers=1)
    assert abs(result.record["region"]["covered"] - 0.25) < 0.001 and result.record["tiles"]["total"] <= 2
    assert any(gap.id == "satellite.scan_gap_region" for gap in result.gaps)
    away = written(tmp_path / "a.geojson", site_box(900, 0, 1000, 50), stack.grid.crs)
    with pytest.raises(CoverageError):
        scan_region(ScanRequest(scenes=scenes_folder, region=away), out=tmp_path / "o2", config=CONFIG, workers=1)


def test_a_step_of_the_level_is_told_with_the_events_dated_there(
    scenes_folder: Path, stack: Stack, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = stack.days[0], stack.days[-1]
    steps = tuple(
        LevelStep(before=before, after=after, scenes=(20, 20), shift=(0.02,), share=(0.25,), size=5.0)
        for before, after in ((first, first + timedelta(5)), (first, last))
    )
    monkeypatch.setattr(region_module, "read_scenes", lambda *_: replace(stack, steps=steps))
    result = scan_region(request_of(scenes_folder), out=copied(done, tmp_path / "out"), config=CONFIG, workers=1)
    told = [gap.values for gap in result.gaps if gap.id == "satellite.scan_gap_level_step"]
    assert [(values["events"], values["total"], values["low"]) for values in told] == [(0, 1, "+25"), (1, 1, "+25")]


def test_a_region_between_pixel_centres_has_no_pixels(scenes_folder: Path, stack: Stack, tmp_path: Path) -> None:
    area = written(tmp_path / "r.geojson", site_box(41, 41, 44, 44), stack.grid.crs)
    result = scan_region(ScanRequest(scenes=scenes_folder, region=area), out=tmp_path / "out", config=CONFIG, workers=1)
    assert result.record["pixels"]["outside"] == 256 and result.record["undecided_share"] == 1.0
    assert [gap.id for gap in result.gaps] == ["satellite.scan_gap_no_pixels"]
    assert result.record["events"]["pending"] == 0


# Month by month --------------------------------------------------------------------------------------------------------------


def test_months_follow_each_other(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    """The event appears in the month that proves it, keeps its name, and what differs from the month before is told."""
    out = tmp_path / "out"
    first = scan_region(ScanRequest(scenes=scenes_folder, until="2023-04"), out=out, config=CONFIG, workers=1)
    assert first.record["events"]["pending"] == 0 and first.record["last_day"] <= "2023-04-30"
    assert first.record["since"]["last_run_until"] is None
    second = scan_region(ScanRequest(scenes=scenes_folder, until="2023-12"), out=out, config=CONFIG, workers=1)
    (name,) = second.record["since"]["new"]
    assert second.record["since"]["last_run_until"] == first.record["last_day"] and second.computed == 9
    third = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert third.record["since"]["new"] == [] and third.record["since"]["changed"] == [name]
    queue = json.loads((out / "queue.json").read_text(encoding="utf-8"))["events"]
    assert [(line["event"], line["novelty"]) for line in queue] == [(name, "changed")]
    # Apart from names and novelty all is as in a scan that never saw the months before.
    for file in (
        "status.tif",
        "break_date.tif",
        "scenes.json",
        *(f"tiles/{p.parent.name}/{p.name}" for p in done.glob("tiles/*/*")),
    ):
        assert (out / file).read_bytes() == (done / file).read_bytes(), file
    # Back to the month before: the event is the one that was known, and the later fact is gone with its scenes.
    back = scan_region(ScanRequest(scenes=scenes_folder, until="2023-04"), out=out, config=CONFIG, workers=1)
    assert back.record["since"]["gone"] == [name]
    once_more = scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert once_more.record["since"]["new"] == [name]


def test_a_new_scene_elsewhere_leaves_a_tile_alone(scenes_folder: Path, tmp_path: Path) -> None:
    """A scene that covers the left part alone: tiles on the right are used again."""
    source = copied(scenes_folder, tmp_path / "s")
    out = tmp_path / "out"
    assert scan_region(ScanRequest(scenes=source), out=out, config=CONFIG, workers=1).computed == 9
    last = sorted(source.glob("*.tif"))[-1]
    day = read_scenes(source).days[-1]
    later = date.fromordinal(day.toordinal() + 5)
    with rasterio.open(last) as dataset:
        profile, window = dataset.profile, rasterio.windows.Window(0, 0, 16, 40)
        data, names, tags = dataset.read(window=window), dataset.descriptions, dataset.tags()
    profile.update(width=16, height=40, driver="GTiff")
    tags.pop("ACQUIRED", None)
    with rasterio.open(source / last.name.replace(f"{day:%Y%m%d}", f"{later:%Y%m%d}"), "w", **profile) as target:
        target.write(data)
        target.descriptions = names
        target.update_tags(**tags)
    stack = read_scenes(source)
    assert stack.days[-1] == later and stack.grid.shape == (40, 40)
    result = scan_region(ScanRequest(scenes=source), out=out, config=CONFIG, workers=1)
    assert (result.computed, result.reused) == (3, 6)
    fresh = scan_region(ScanRequest(scenes=source), out=tmp_path / "fresh", config=CONFIG, workers=1)
    assert fresh.computed == 9
    assert {k: v for k, v in digests(tmp_path / "fresh").items() if k.startswith(("tiles", "events/"))} == {
        k: v for k, v in digests(out).items() if k.startswith(("tiles", "events/"))
    }


@pytest.mark.parametrize("text", ["2023", "2023-13", "2023-00", "23-01", "2023-1", "2023-01-01", "0000-01", ""])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        month_end(text)


def test_months_end_when_they_do() -> None:
    assert [month_end(t).day for t in ("2023-02", "2024-02", "2023-12", "2023-04")] == [28, 29, 31, 30]


def test_too_little_history_and_no_scene_at_all_are_said(scenes_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HistoryTooShortError):
        scan_region(ScanRequest(scenes=scenes_folder, until="2021-06"), out=tmp_path / "a", config=CONFIG, workers=1)
    with pytest.raises(CoverageError):
        scan_region(ScanRequest(scenes=scenes_folder, until="2019-06"), out=tmp_path / "b", config=CONFIG, workers=1)


# What people get -------------------------------------------------------------------------------------------------------------


def test_masks_divisions_and_decisions(done: Path, scenes_folder: Path, stack: Stack, tmp_path: Path) -> None:
    out, crs = copied(done, tmp_path / "out"), stack.grid.crs
    divisions = written(tmp_path / "d.geojson", site_box(-50, -50, 150, 450), crs, code="420111")
    mask = written(tmp_path / "quarry.geojson", site_box(90, 90, 210, 190), crs)
    aside = written(tmp_path / "aside.geojson", site_box(90, 90, 120, 190), crs)

    def scan(**more: Any) -> dict[str, Any]:
        result = scan_region(ScanRequest(scenes=scenes_folder, divisions=divisions, **more), out=out, config=CONFIG, workers=1)
        assert result.computed == 0
        return dict(result.record)

    assert scan(masks=(aside,), capacity=1)["events"]["pending"] == 1  # a third of it is not enough to hide it
    (line,) = json.loads((out / "queue.json").read_text(encoding="utf-8"))["events"]
    assert (
        line["rank"] == 1 and line["in_capacity"] and line["division"] == "420111" and line["mask"].startswith("aside.geojson:0.")
    )
    rows = json.loads((out / "summary_by_division.json").read_text(encoding="utf-8"))["rows"]
    assert {row["division"] for row in rows} == {"420111", "none"}
    assert abs(sum(row["area_m2"] for row in rows) - line["area_m2"]) < 0.05 and sum(row["events"] for row in rows) == 1

    record = scan(masks=(mask,))
    assert record["events"]["masked"] == 1 and record["events"]["pending"] == 0
    (hidden,) = json.loads((out / "masked.geojson").read_text(encoding="utf-8"))["features"]
    assert hidden["id"] == line["event"] and hidden["properties"]["masks"]["quarry.geojson"] > 0.9
    assert json.loads((out / "events.geojson").read_text(encoding="utf-8"))["features"] == []
    assert sum(row["masked"] for row in json.loads((out / "summary_by_division.json").read_text())["rows"]) == 1

    status = tmp_path / "status.csv"
    scan()
    append_review(
        status,
        review_of(out / "queue.json", line["event"], decision="rejected", by="王", time="2024-07-01T00:00:00Z", note="云影"),
    )
    record = scan(reviews=status)
    assert record["events"]["rejected"] == 1 and record["events"]["pending"] == 0
    queue = json.loads((out / "queue.json").read_text(encoding="utf-8"))
    assert queue["events"][0]["reviewed_by"] == "王" and queue["events"][0]["rank"] is None and queue["open"] == 0
    assert queue["precision"][0]["rejected"] == 1 and queue["precision"][0]["mean"] < line["confidence"]
    # The same decision in a scan of another folder, whose names may differ: by place and interval.
    moved = tmp_path / "moved.csv"
    append_review(moved, replace(read_reviews(status)[0], event="S-19990101-OTHER"))
    assert scan(reviews=moved)["events"]["rejected"] == 1
    far = tmp_path / "far.csv"
    append_review(far, replace(read_reviews(status)[0], event="S-19990101-OTHER", lon=10.0))
    assert scan(reviews=far)["events"]["pending"] == 1
    with pytest.raises(FormatError):
        scan(reviews=tmp_path / "missing.csv")


def test_a_damaged_memory_is_refused(done: Path, scenes_folder: Path, tmp_path: Path) -> None:
    """Names hang on it: better to stop than to call known events new."""
    out = copied(done, tmp_path / "out")
    path = out / "history/00001.scan"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError) as caught:
        scan_region(request_of(scenes_folder), out=out, config=CONFIG, workers=1)
    assert "history/00001.scan" in str(caught.value)


# Settings --------------------------------------------------------------------------------------------------------------------


def test_settings_are_read_and_misspelt_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("min_pixels = 4\n[breaks]\nlink_days = 30\n[queue]\nfresh_days = 60\n[scan]\ntile = 256\n", encoding="utf-8")
    config = ScanConfig.read(path)
    assert (config.tile, config.queue.fresh_days, config.monitor.min_pixels, config.monitor.breaks.link_days) == (256, 60, 4, 30)
    for text in ("tyle = 1", "[scan]\ntyle = 1", "[scan]\ntile = 1.5", "[queue]\nfresh = 1", "[scan]\ntile = 0", "scan = 3"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError):
            ScanConfig.read(path)
    with pytest.raises(ConfigError):
        ScanRequest(scenes=tmp_path, capacity=-1)
    with pytest.raises(ConfigError):
        ScanRequest(scenes=tmp_path, datum="bd09")  # type: ignore[arg-type]


def test_more_workers_than_memory_holds_are_refused(stack: Stack) -> None:
    assert tile_bytes(stack, 16) < tile_bytes(stack, 40) == tile_bytes(stack, 4096)
    assert worker_count(1, stack, 512) == 1 and worker_count(None, stack, 512) >= 1
    with pytest.raises(ConfigError):
        worker_count(100_000, stack, 512)
    with pytest.raises(ConfigError):
        worker_count(0, stack, 512)
