"""The process from a folder to a result: what it leaves, the same bytes, what it says when it finds nothing."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import Polygon, shape

import satellite
from geoevidence.errors import ConfigError, CoverageError, HistoryTooShortError
from geoevidence.messages import texts
from geoevidence.raster import read_raster
from geoevidence.types import Message, ProcessResult, config_from_parameters
from satellite.scenes import read_scenes
from satellite.stack import LevelStep, Stack
from satellite.synthetic import SimulatedCube, SimulationConfig, simulate, write_stack
from satellite.types import NODATE, Pace, Status
from satellite.workflow import MonitorConfig, monitor

from .conftest import FELLING, SMALL, four_squares


@pytest.fixture(scope="module")
def run(stack_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProcessResult]:
    out = tmp_path_factory.mktemp("out") / "result"
    return out, monitor(stack_folder, out=out)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def messages_of(result: ProcessResult) -> list[Message]:
    found = [*result.gaps, *(product.title for product in result.products)]
    for finding in result.findings:
        found += [finding.message, finding.method, *finding.limitations, *finding.facts]
    return found


def test_the_event_is_found_where_and_when_it_is(run: tuple[Path, ProcessResult], site: SimulatedCube) -> None:
    _, result = run
    (finding,) = result.findings
    assert finding.id == "S-001" and finding.period is not None and finding.quantity is not None
    assert finding.period[0] < FELLING.day <= finding.period[1]
    assert (finding.period[1] - finding.period[0]).days < 120
    # 100 m x 80 m; the stated error must hold it at k = 2, and must not be empty talk.
    assert abs(finding.quantity.value - 8000) <= 2 * finding.quantity.standard_uncertainty
    assert finding.quantity.standard_uncertainty < 0.12 * 8000
    assert finding.crs == "EPSG:4547"  # 114 E: the site lies at 114.3 E
    assert finding.synthetic and result.synthetic


def test_the_areas_come_out_again_from_the_break_map(run: tuple[Path, ProcessResult], stack_folder: Path) -> None:
    out, result = run
    again = satellite.figures_again(result, products=out, inputs=stack_folder)
    assert again == {finding.id: finding.quantity for finding in result.findings}


def test_the_process_runs_again_from_its_recorded_parameters(
    run: tuple[Path, ProcessResult], stack_folder: Path, tmp_path: Path
) -> None:
    out, result = run
    assert satellite.run_again(result, inputs=stack_folder, out=tmp_path / "out") == result
    assert digests(tmp_path / "out") == digests(out)


def test_the_polygon_lies_on_the_truth(run: tuple[Path, ProcessResult], site: SimulatedCube) -> None:
    out, _ = run
    from geoevidence.crs import parse_crs, transform_geometry

    (feature,) = json.loads((out / "events.geojson").read_text(encoding="utf-8"))["features"]
    back = shape(transform_geometry(feature["geometry"], parse_crs("EPSG:4326"), site.grid.crs))
    truth = Polygon(FELLING.polygon)
    assert back.intersection(truth).area / back.union(truth).area > 0.7


def test_products_are_complete_and_agree(run: tuple[Path, ProcessResult], site: SimulatedCube) -> None:
    out, result = run
    assert ProcessResult.read(out) == ProcessResult.from_dict(result.to_dict())
    kinds = {product.kind for product in result.products}
    assert kinds == {
        "break_date", "magnitude", "pace", "observations", "status", "scenes", "events", "events_geojson",
        "chip_before", "chip_after", "series_plot", "series", "preview",
    }  # fmt: skip
    assert set(result.findings[0].products) >= {"S-001-chip_before.png", "S-001-chip_after.png", "S-001-series.csv"}
    dates = read_raster(out / "break_date.tif")
    status = read_raster(out / "status.tif").data[0]
    assert dates.grid.matches(site.grid) and dates.data.shape[0] % 3 == 0
    depth = dates.data.shape[0] // 3
    assert np.array_equal((dates.data[:depth] != NODATE).any(axis=0), status == Status.CHANGE)
    found = dates.data[0] != NODATE
    assert (dates.data[depth][found] <= dates.data[0][found]).all() and (
        dates.data[0][found] <= dates.data[2 * depth][found]
    ).all()
    scenes = json.loads((out / "scenes.json").read_text(encoding="utf-8"))
    assert len(scenes["scenes"]) == len(site.dates)
    assert all(sum(day[k] for k in ("clear", "cloud", "not_observed", "failed_read")) == 1600 for day in scenes["days"])
    rows = (out / "S-001-series.csv").read_text(encoding="utf-8").splitlines()
    states = "pixels_clear,pixels_cloud,pixels_not_observed,pixels_failed_read,pixels_outside"
    assert rows[0].startswith(f"date,part,state,{states},NDVI,MNDWI") and len(rows) == len(site.dates) + 1
    pace = read_raster(out / "pace.tif").data
    assert np.array_equal(pace != Pace.NONE, dates.data[:depth] != NODATE)


def test_every_text_exists_in_both_languages(run: tuple[Path, ProcessResult]) -> None:
    _, result = run
    for message in messages_of(result):
        for lang in ("zh", "en"):
            text = message.render(lang)
            assert message.id in texts(lang), message.id
            assert "{" not in text, text


def test_no_path_of_this_machine_in_the_result(run: tuple[Path, ProcessResult], stack_folder: Path) -> None:
    out, _ = run
    for name in ("result.json", "scenes.json", "events.geojson", "events.gpkg"):
        assert str(stack_folder.parent).encode() not in (out / name).read_bytes()


def test_same_bytes_whatever_the_threads(run: tuple[Path, ProcessResult], stack_folder: Path, tmp_path: Path) -> None:
    monitor(stack_folder, out=tmp_path / "again", threads=1)
    assert digests(tmp_path / "again") == digests(run[0])


@pytest.mark.slow
def test_same_products_whatever_the_blocks(run: tuple[Path, ProcessResult], stack_folder: Path, tmp_path: Path) -> None:
    monitor(stack_folder, out=tmp_path / "blocks", config=MonitorConfig(block_bytes=1_000_000), threads=3)
    # result.json names block_bytes among its parameters.
    products = [
        {name: value for name, value in digests(out).items() if name != "result.json"} for out in (run[0], tmp_path / "blocks")
    ]
    assert products[0] == products[1]


def test_nothing_found_is_said_with_what_was_seen(tmp_path: Path) -> None:
    quiet = simulate(replace(SMALL, shape=(16, 16), origin=(SMALL.origin[0] + 300, SMALL.origin[1])), seed=4002)
    write_stack(tmp_path / "stack", quiet)
    result = monitor(tmp_path / "stack", out=tmp_path / "out")
    (finding,) = result.findings
    assert finding.message.id == "satellite.no_change" and finding.quantity is None and finding.geometry is None
    assert finding.message.values["enough"] + finding.message.values["few"] == 256
    assert finding.message.values["enough"] > 200
    assert any(limit.id == "satellite.limit_no_change" for limit in finding.limitations)


def test_bad_scenes_are_gaps(stack_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(stack_folder, tmp_path / "stack")
    scenes = sorted((tmp_path / "stack").glob("*.tif"))
    scenes[4].write_bytes(b"II*\0" + bytes(300))
    shutil.copyfile(scenes[5], tmp_path / "stack" / "undated.tif")  # its tag says the day
    result = monitor(tmp_path / "stack", out=tmp_path / "out")
    said = " ".join(gap.render("zh") for gap in result.gaps)
    assert scenes[4].name in said
    assert [gap.values["scenes"] for gap in result.gaps if gap.id == "satellite.gap_same_day"] == [1]
    record = json.loads((tmp_path / "out" / "scenes.json").read_text(encoding="utf-8"))
    status = {scene["name"]: scene["status"] for scene in record["scenes"]}
    assert status[scenes[4].name] == "damaged" and status["undated.tif"] == "read"


def test_refusals(stack_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(ConfigError) as caught:
        monitor(stack_folder, out=tmp_path / "full")
    assert caught.value.message_id == "satellite.out_not_empty"
    shutil.copytree(stack_folder, tmp_path / "short")
    for path in sorted((tmp_path / "short").glob("*.tif"))[25:]:
        path.unlink()
    with pytest.raises(HistoryTooShortError):
        monitor(tmp_path / "short", out=tmp_path / "a")
    with pytest.raises(CoverageError) as nothing:
        monitor(stack_folder, out=tmp_path / "b", config=MonitorConfig(clear=(99,)))
    assert nothing.value.message_id == "satellite.nothing_clear"


def test_config_file(tmp_path: Path) -> None:
    path = tmp_path / "monitor.toml"
    path.write_text("scale = 0.0001\nmin_pixels = 5\n[breaks]\nfalse_alarm_rate = 0.01\n", encoding="utf-8")
    config = MonitorConfig.read(path)
    assert (config.scale, config.min_pixels, config.events.min_pixels, config.breaks.false_alarm_rate) == (1e-4, 5, 5, 0.01)
    assert config.replace(min_pixels=7).events.min_pixels == 7
    parameters = config.to_parameters()
    assert parameters["scale"] == "0.0001" and parameters["breaks"]["false_alarm_rate"] == "0.01"
    json.dumps(parameters)
    for text, message in (
        ("minpixels = 5", "satellite.unknown_setting"),
        ("[breaks]\nx = 1", "satellite.unknown_setting"),
        ('min_pixels = "5"', "satellite.setting_type"),
        ("min_pixels = 0", "satellite.setting_out_of_range"),
        ("breaks = 3", "satellite.setting_type"),
        ("scale =", "satellite.bad_stack_file"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            MonitorConfig.read(path)
        assert caught.value.message_id == message, text


def test_config_survives_its_record(tmp_path: Path) -> None:
    path = tmp_path / "monitor.toml"
    path.write_text(
        "regrid = true\nmin_confidence = 0.5\nclear = [4, 5]\n[events]\nblind_days = 40\n[events.attribute]\ngreen = 0.5\n"
        "[events.area]\ntexture = 0.2\n[registration]\nwindow = 128\n",
        encoding="utf-8",
    )
    config = MonitorConfig.read(path)
    assert (config.regrid, config.min_confidence, config.events.blind_days) == (True, 0.5, 40)
    assert (config.events.attribute.green, config.events.area.texture, config.registration.window) == (0.5, 0.2, 128)
    recorded = json.loads(json.dumps(config.to_parameters()))
    assert config_from_parameters(MonitorConfig, recorded) == config
    for text in ("regrid = 1", "min_pixels = true", "[events]\nblind_days = 0", "min_confidence = 1.0"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError):
            MonitorConfig.read(path)


def test_doubtful_events_are_counted_not_listed(run: tuple[Path, ProcessResult], stack_folder: Path, tmp_path: Path) -> None:
    config = MonitorConfig(min_confidence=0.99)  # above the highest that is ever stated
    result = monitor(stack_folder, out=tmp_path / "out", config=config)
    (finding,) = result.findings
    assert finding.message.id == "satellite.no_change"
    (gap,) = (gap for gap in result.gaps if gap.id == "satellite.gap_doubtful")
    listed = run[1].findings[0].message.values["pixels"]
    assert gap.values["percent"] == 99 and gap.values["pixels"] >= listed and gap.values["count"] >= 1
    assert satellite.figures_again(result, products=tmp_path / "out", inputs=stack_folder) == {}
    # the raster of dates holds them all the same
    assert (tmp_path / "out" / "break_date.tif").read_bytes() == (run[0] / "break_date.tif").read_bytes()


def test_facts_say_what_it_was_how_sure_and_what_the_error_is_made_of(run: tuple[Path, ProcessResult]) -> None:
    (finding,) = run[1].findings
    facts = {fact.id: fact.values for fact in finding.facts}
    assert facts["satellite.from_to"]["after"].id == "satellite.cover_name_bare"  # it turned to sand
    assert 50 <= facts["satellite.confidence"]["percent"] <= 98
    assert facts["satellite.agreement"]["direction"] == 100
    parts = facts["satellite.area_parts"]
    # 40 x 40 pixels are too few to measure how the scenes lie on each other: assumed, and said in the limits as well
    assert parts["how"].id == "satellite.registration_assumed" and parts["pixels"] == "0.30"
    assert "satellite.limit_registration" in {limit.id for limit in finding.limitations}
    total = sum(float(parts[name]) ** 2 for name in ("edge", "registration", "classification")) ** 0.5
    assert finding.quantity is not None and total == pytest.approx(finding.quantity.standard_uncertainty, abs=1.5)


def test_an_event_at_a_step_of_the_level_says_so(stack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped(source: Path, stated: Mapping[str, Any]) -> Stack:
        stack = read_scenes(source, stated)
        days = stack.days
        after = next(k for k, day in enumerate(days) if day >= FELLING.day)
        bands = len(stack.spec.bands)
        sides = ((days[0], days[1]), (days[after - 1], days[after]))
        steps = [
            LevelStep(before=before, after=after, scenes=(20, 20), shift=(0.02,) * bands, share=(0.25,) * bands, size=5.0)
            for before, after in sides
        ]
        return replace(stack, steps=tuple(steps))

    monkeypatch.setattr("satellite.workflow.read_scenes", stepped)
    result = monitor(stack_folder, out=tmp_path / "out")
    (finding,) = result.findings
    (limit,) = [limit for limit in finding.limitations if limit.id == "satellite.limit_level_step"]
    gaps = [gap for gap in result.gaps if gap.id == "satellite.gap_level_step"]
    assert limit.values["after"] == gaps[1].values["after"] and limit.values["low"] == "+25"
    assert gaps[0].values["pixels"] == 0 and gaps[1].values["pixels"] > 50
    for message in (limit, *gaps):
        for language in ("zh", "en"):
            assert "+25" in message.render(language)


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, satellite; print([m for m in ('numba', 'numpy', 'rasterio', 'xarray') if m in sys.modules])"
    root = Path(satellite.__file__).parents[1]
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60, check=True)
    assert shown.stdout.strip() == "[]"
    assert set(satellite.__all__) >= {"monitor", "monitor_case", "MonitorConfig", "detect_breaks"}


@pytest.mark.slow
def test_romanian_forest(shared: Path, tmp_path: Path) -> None:
    """A real stand that was felled in patches from 2016 on: events are losses, mostly in the forest, with tight files."""
    source = shared / "data" / "satellite" / "s2_nrt_romania" / "sentinel2_cube_subset_romania_10m.nc"
    with pytest.raises(ConfigError) as caught:
        monitor(source, out=tmp_path / "no_scale")
    assert caught.value.message_id == "satellite.scale_not_stated"
    result = monitor(source, out=tmp_path / "out", config=MonitorConfig(scale=1e-4))
    assert 8 <= len(result.findings) <= 40
    assert not result.synthetic
    assert all(date(2015, 8, 1) <= f.period[0] < f.period[1] <= date(2021, 1, 1) for f in result.findings if f.period)
    change = read_raster(tmp_path / "out" / "status.tif").data[0] == Status.CHANGE
    # A thirtieth to a sixth of the square kilometre, as the pictures of 2015 and 2020 show; not most of it, not none.
    assert 0.03 < change.mean() < 0.17
    magnitude = read_raster(tmp_path / "out" / "magnitude.tif").data[0]
    forest = change[30:]
    assert np.nanmedian(magnitude[30:][forest]) < -0.05


@pytest.mark.slow
def test_slovenian_fields(shared: Path, tmp_path: Path) -> None:
    """One index, two and a half years, 40 % cloud: ordinary farmland must not fill with events."""
    source = shared / "data" / "satellite" / "s2_eopatch_slovenia" / "TestEOPatch"
    result = monitor(source, out=tmp_path / "out")
    status = read_raster(tmp_path / "out" / "status.tif").data[0]
    assert (status == Status.CHANGE).mean() < 0.01
    assert (status == Status.NO_CHANGE).mean() > 0.95
    assert any(gap.id == "satellite.gap_same_day" for gap in result.gaps)


@pytest.mark.slow
def test_areas_and_intervals_hold_the_truth(tmp_path: Path) -> None:
    """Twenty known squares: the interval holds the day, the stated area error holds the area, at about their rates."""
    base = SimulationConfig()
    changes = four_squares(base)
    held_days, held_areas, ratios, found = 0, 0, [], 0
    for seed in range(8101, 8106):
        site = simulate(replace(base, changes=changes), seed=seed)
        write_stack(tmp_path / str(seed), site)
        result = monitor(tmp_path / str(seed), out=tmp_path / f"out{seed}")
        for change in changes:
            centre = Polygon(change.polygon).centroid
            for finding in result.findings:
                from geoevidence.crs import parse_crs, transform_geometry

                if finding.geometry is None or finding.quantity is None or finding.period is None:
                    continue
                there = shape(transform_geometry(finding.geometry, parse_crs(finding.crs or ""), site.grid.crs))
                if there.contains(centre):
                    found += 1
                    held_days += finding.period[0] < change.day <= finding.period[1]
                    error = (finding.quantity.value - 93 * 87) / finding.quantity.standard_uncertainty
                    ratios.append(error)
                    held_areas += abs(error) <= 2
    assert found >= 19
    assert held_days >= found - 1
    # k = 2 covers 95 %: of 20, fewer than 16 happens with probability below 0.003 if the stated error is right.
    assert held_areas >= 0.8 * found
    # Errors far below what is stated are as suspect as errors above.
    assert 0.2 < np.sqrt(np.mean(np.square(ratios))) < 1.6


def test_in_a_case_the_result_is_recorded(run: tuple[Path, ProcessResult], stack_folder: Path, tmp_path: Path) -> None:
    from geoevidence.catalogue import open_log_store
    from geoevidence.custody import KeyFolder, Session, Workspace
    from geoevidence.types import Actor
    from satellite.workflow import monitor_case

    rng = random.Random(5)
    session = Session(
        actor=Actor(id="tester", role="operator", auth_level="local"),
        signer=KeyFolder(tmp_path / "keys", random=rng.randbytes).signer(),
        device_serial="test",
        software="test",
        now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
        random=rng.randbytes,
    )
    case = Workspace.create(tmp_path / "workspace", session=session, log_store=open_log_store(tmp_path / "workspace")).new_case(
        "2026-1"
    )
    items = case.ingest(stack_folder).items
    stored = monitor_case(case, items)
    out, plain = run
    assert stored.result.to_dict()["findings"] == plain.to_dict()["findings"]
    assert stored.event.type == "derived" and len(stored.event.inputs) == len(items)
    kept = {Path(item.path).name: item.sha256 for item in case.items(role="derived")}
    assert {name: kept[name] for name in digests(out)} == digests(out)
    assert [finding.id for _, finding in case.findings()] == ["S-001"]
