"""The command line: languages, exit codes, one message for a problem, and each thread from end to end on data with truth."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pypdf
import pytest
from shapely.geometry import Point, shape

from geoevidence.crs import parse_crs, transform_geometry
from geoevidence.types import Finding


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """Run `geoevidence WORDS` in a process of its own, with keys of its own; gives the finished process."""
    home = tmp_path_factory.mktemp("home")

    def call(*words: object, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {**os.environ, "GEOEVIDENCE_KEYS": str(home / "keys"), "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", **environment}
        command = [sys.executable, "-m", "app.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=settings, cwd=home, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture
def workspace(run, tmp_path):
    run("init", tmp_path / "w")
    run("case", "new", "测试-1", "-w", tmp_path / "w")
    return tmp_path / "w"


def test_the_language_follows_option_variable_and_locale(run):
    assert "新建工作区" in run("init", "--help", "--lang", "zh").stdout
    assert "新建工作区" in run("init", "--help", GEOEVIDENCE_LANG="zh").stdout
    assert "新建工作区" in run("init", "--help", LC_ALL="zh_CN.UTF-8").stdout
    assert "workspace" in run("init", "--help").stdout
    assert "zh" in run("init", "--lang", "fr", code=64).stderr


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("verify",), 64, "package"),
        (("no-such-command",), 64, "no-such-command"),
        (("case", "list", "-w", "nowhere"), 1, "nowhere"),
        (("drone", "survey", "photos"), 64, "--case"),
        (("satellite", "monitor", "nowhere", "--out", "x"), 1, "nowhere"),
        (("verify", "nowhere"), 64, "nowhere"),
        (("inspect", "nowhere"), 1, "nowhere"),
    ],
)
def test_a_problem_is_one_message_and_an_exit_code(run, words, code, text):
    done = run(*words, code=code)
    assert text in done.stderr + done.stdout


def test_a_case_is_filled_in_from_a_file_and_shown(run, workspace, tmp_path):
    (tmp_path / "fields.toml").write_text('cause = "采砂"\noperators = "甲、乙"\n', encoding="utf-8")
    run("case", "set", tmp_path / "fields.toml", "-c", "测试-1", "-w", workspace)
    record = json.loads(run("case", "show", "-c", "测试-1", "-w", workspace, "--json").stdout)
    assert record["fields"] == {"case_number": "测试-1", "cause": "采砂", "operators": "甲、乙"}
    shown = run("case", "show", "-c", "测试-1", "-w", workspace, "--lang", "zh").stdout
    assert "采砂" in shown and "未填写" in shown
    (tmp_path / "fields.toml").write_text('couse = "x"\n', encoding="utf-8")
    assert "couse" in run("case", "set", tmp_path / "fields.toml", "-c", "测试-1", "-w", workspace, code=64).stderr
    events = [json.loads(line) for line in run("case", "log", "-c", "测试-1", "-w", workspace, "--json").stdout.splitlines()]
    assert [event["type"] for event in events] == ["commissioned", "corrected"]


def test_a_card_enters_once_and_is_sealed_and_verified(run, workspace, tmp_path, sample_data):
    card = tmp_path / "card"
    card.mkdir()
    for name in ("SYN_0001.JPG", "SYN_0002.JPG"):
        shutil.copy(sample_data / "flight" / name, card)
    first = json.loads(run("ingest", card, "-c", "测试-1", "-w", workspace, "--json").stdout)
    assert len(first["items"]) == 2 and Path(first["receipt_html"]).is_file()
    second = json.loads(run("ingest", card, "-c", "测试-1", "-w", workspace, "--json").stdout)
    assert second["items"] == [] and len(second["already_present"]) == 2 and second["short_code"] == first["short_code"]
    for out in ("package", "package.zip"):
        run("package", "seal", "-c", "测试-1", "-w", workspace, "--out", tmp_path / out)
        verified = json.loads(run("verify", tmp_path / out, "--json").stdout)
        assert verified["verdicts"] == {
            "intact": "passed",
            "signed": "not_checked",
            "time": "not_checked",
            "continuous": "passed",
            "recomputes": "not_checked",
        }
    run("package", "seal", "-c", "测试-1", "-w", workspace, "--out", tmp_path / "package", code=1)
    victim = next((tmp_path / "package" / "data" / "originals").rglob("SYN_0002.JPG"))
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    broken = run("verify", tmp_path / "package", code=1)
    assert "SYN_0002.JPG" in broken.stdout and "SYN_0001.JPG" not in broken.stdout


def test_nothing_stays_of_a_run_that_finds_nothing_to_read(run, workspace, tmp_path):
    (tmp_path / "empty").mkdir()
    run("ingest", tmp_path / "empty", "-c", "测试-1", "-w", workspace, code=1)
    run("satellite", "monitor", tmp_path / "empty", "--out", tmp_path / "out", code=1)
    run("drone", "survey", tmp_path / "empty", "--out", tmp_path / "out2", code=1)
    assert "--event" in run("satellite", "monitor", "-c", "测试-1", "-w", workspace, code=1).stderr
    events = run("case", "log", "-c", "测试-1", "-w", workspace, "--json").stdout.splitlines()
    assert len(events) == 1


@pytest.fixture(scope="module")
def demonstration(run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The demonstration, run once from the command line."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    return json.loads(run("demo", "--out", out, "--lang", "zh", "--json").stdout)


def _findings(package: str) -> list[Finding]:
    raw = json.loads((Path(package) / "data" / "findings.json").read_text("utf-8"))
    return [Finding.from_dict(finding) for result in raw["results"] for finding in result["findings"]]


@pytest.mark.slow
def test_the_demonstration_finds_the_true_changes(demonstration, sample_data):
    """Every true change is found once, its date lies in the interval, its area in three standard uncertainties; nothing else is found."""
    truth = json.loads((sample_data / "truth" / "changes.geojson").read_text("utf-8"))["features"]
    found = [f for f in _findings(demonstration["packages"][0]["package"]) if f.id.startswith("S-")]
    assert len(found) == len(truth) and all(f.synthetic for f in found)
    for change in truth:
        centre: Point = shape(change["geometry"]).centroid
        hits = [
            f for f in found if shape(transform_geometry(f.geometry, parse_crs(f.crs), parse_crs("EPSG:4326"))).contains(centre)
        ]
        assert len(hits) == 1, change["properties"]
        (hit,) = hits
        start, end = hit.period
        assert start <= date.fromisoformat(change["properties"]["date"]) <= end
        area = change["properties"]["area_m2"]
        assert abs(hit.quantity.value - area) <= 3 * hit.quantity.standard_uncertainty
        # 0.07 of the outermost pixels, a third to a half of them all (docs/methods/satellite_area.md); far less or more would be wrong
        assert 0.01 * area < hit.quantity.standard_uncertainty < 0.04 * area


@pytest.mark.slow
def test_the_demonstration_measures_the_true_volumes(demonstration, sample_data):
    truth = json.loads((sample_data / "truth" / "flight.json").read_text("utf-8"))
    volumes = {
        f.message.values["name"]: f
        for f in _findings(demonstration["packages"][0]["package"])
        if f.message.id == "drone.finding_volume"
    }
    assert set(volumes) == {"pit", "pile"}
    for name, finding in volumes.items():
        figure = finding.message.values["cut" if name == "pit" else "fill"]
        assert abs(figure.value - truth[name]["volume_m3"]) <= 3 * figure.standard_uncertainty
        assert 0.001 < figure.standard_uncertainty / truth[name]["volume_m3"] < 0.1


@pytest.mark.slow
def test_the_demonstration_ends_in_reports_and_whole_packages(demonstration, run):
    for made in demonstration["packages"]:
        run("verify", made["package"])
        pages = pypdf.PdfReader(made["report"]).pages
        text = "".join(page.extract_text() for page in pages)
        assert made["number"] in text and "未填写" in text
        if made["number"] == "演示-001":
            assert all("演示数据（合成）" in page.extract_text() for page in pages)


@pytest.mark.slow
@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_any_changed_file_of_a_demonstration_package_is_named(demonstration, tmp_path, flip):
    """First, middle or last bit of every file, one file at a time, by the package's own verifier."""
    from geoevidence.trust import verify_package

    package = tmp_path / "package"
    shutil.copytree(demonstration["packages"][0]["package"], package)
    files = sorted(path for path in package.rglob("*") if path.is_file())
    # one per kind of file and folder: the rest are the same code on other bytes
    chosen = {(path.parent, path.suffix): path for path in files}.values()
    for path in chosen:
        content = path.read_bytes()
        position = min(int(len(content) * flip), len(content) - 1)
        path.chmod(0o644)
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        report = verify_package(package)
        assert report.exit_code == 1, path
        assert any(path.name in str(check.subject) for check in report.failures), path
        path.write_bytes(content)
    assert verify_package(package).exit_code == 0


@pytest.mark.slow
def test_real_sentinel_2_scenes_of_four_bands(run, shared, tmp_path):
    cube = shared / "data" / "satellite" / "s2_nrt_romania" / "sentinel2_cube_subset_romania_10m.nc"
    refused = run("satellite", "monitor", cube, "--out", tmp_path / "no", code=64)
    assert "--scale" in refused.stderr
    result = json.loads(run("satellite", "monitor", cube, "--scale", "0.0001", "--out", tmp_path / "out", "--json").stdout)
    assert not result["in_custody"] and not result["synthetic"]
    assert result["findings"] and all(f["quantity"]["standard_uncertainty"] for f in result["findings"] if f["quantity"])
    for finding in result["findings"]:
        assert finding["period"][0] <= finding["period"][1] and finding["limitations"]


@pytest.mark.slow
def test_a_real_series_of_one_index(run, shared, tmp_path):
    patch = shared / "data" / "satellite" / "s2_eopatch_slovenia" / "TestEOPatch"
    result = json.loads(run("satellite", "monitor", patch, "--out", tmp_path / "out", "--json").stdout)
    assert (tmp_path / "out" / "status.tif").is_file() and result["findings"]
