"""The form and the contact sheets: blind, offline, the same bytes, and pictures of the right pixels."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geoevidence.errors import ConfigError, GridMismatchError
from geoevidence.messages import texts
from geoevidence.raster import Raster, write_cog
from satellite.cube import read_block
from satellite.indices import band_roles
from satellite.response_form import FormConfig, contact_sheet, point_views, season_days, spread_days, write_form
from satellite.responses import Answer, Responses
from satellite.sampling import STRATA, Sample, SampleConfig, design_sample, stated_options
from satellite.scenes import read_scenes
from satellite.stack import Stack
from satellite.types import NODATE, Observed, Status

from .conftest import FELLING

FORM = Path(__file__).resolve().parents[2] / "satellite/form"
CONFIG = FormConfig(half_width=5, pictures=6)
BREAK = 19_497  # 2023-05-20, days since 1970-01-01


@pytest.fixture(scope="module")
def stack(stack_folder: Path) -> Stack:
    return read_scenes(stack_folder)


@pytest.fixture(scope="module")
def sample(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Of a map that holds the felled square of the site; pixels of its corner are undecided."""
    folder = tmp_path_factory.mktemp("map")
    rows, cols = stack.grid.shape
    status = np.full((rows, cols), Status.NO_CHANGE, np.uint8)
    left, top = (FELLING.polygon[0][0] - stack.grid.transform.c) / 10, (stack.grid.transform.f - FELLING.polygon[0][1]) / 10
    status[round(top) : round(top) + 8, round(left) : round(left) + 10] = Status.CHANGE
    status[:3, :3] = Status.CLOUD
    layers = [np.where(status == Status.CHANGE, BREAK + shift, NODATE).astype(np.int32) for shift in (0, -9, 9)]
    write_cog(folder / "status.tif", Raster(data=status[None], grid=stack.grid))
    write_cog(folder / "break_date.tif", Raster(data=np.stack(layers), grid=stack.grid, nodata=NODATE))
    return design_sample(folder, seed=77, config=SampleConfig(points=10, min_points=3, undecided_points=2))


@pytest.fixture(scope="module")
def form(sample: Sample, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("form") / "form.html"
    assert write_form(sample, stack, path, config=CONFIG) == 12
    return path


def data_of(path: Path) -> dict:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    assert found
    return json.loads(found.group(1))


def test_the_form_is_blind(form: Path, sample: Sample) -> None:
    """Neither stratum, claim nor any date of the map is in it, and the dates shown do not depend on the map."""
    html, data = form.read_text(encoding="utf-8"), data_of(form)
    for word in (*STRATA, "undecided", "break_date", "stratum", "claim", "inclusion"):
        assert word not in html, word
    for point, entry in zip(sample.points, data["points"], strict=True):
        assert entry.keys() == {"id", "place", "dates", "sprites", "series", "former"} and entry["id"] == point.id
    assert data["sample"] == sample.digest


def test_the_form_asks_no_network(form: Path) -> None:
    html = form.read_text(encoding="utf-8")
    assert "default-src 'none'" in html and "unsafe" not in html
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]*", "", html).replace("http://www.w3.org/2000/svg", "")
    assert "http" not in outside.replace("http-equiv", "") and "src=" not in outside.replace("-src", "")
    assert "</script" not in data_of(form)["points"][0]["place"]


def test_words_of_the_page() -> None:
    """Every text that the page asks for exists in both languages, and none is there for nothing."""
    source = "".join((FORM / name).read_text(encoding="utf-8") for name in ("form.html", "form.js"))
    named = set(re.findall(r'data-(?:text|title)="([a-z_]+)"', source)) | set(re.findall(r'text\("([a-z_]+)"', source))
    known = {name.removeprefix("satellite.form_") for name in texts("zh") if name.startswith("satellite.form_")}
    built = {name for name in known if name.startswith(("class_", "confidence_", "colours_"))} | {
        "yes",
        "no",
        "unsure",
        "kept",
        "not_kept",
    }
    refusals = {"nothing_differs"}
    assert {name for name in named if not name.endswith("_")} <= known
    assert known - refusals - built <= named, known - refusals - built - named


def test_the_same_form_again(form: Path, sample: Sample, stack: Stack, tmp_path: Path) -> None:
    write_form(sample, stack, tmp_path / "again.html", config=CONFIG)
    assert (tmp_path / "again.html").read_bytes() == form.read_bytes()


def test_pictures_show_the_pixel_in_the_middle(sample: Sample, stack: Stack, form: Path) -> None:
    """Order of brightness of the middle over the dates is that of the scenes; outside the grid is grey."""
    entries = {entry["id"]: entry for entry in data_of(form)["points"]}
    size = 2 * CONFIG.half_width + 1
    for point, view in point_views(sample, stack, sample.points[:4], CONFIG):
        entry = entries[point.id]
        assert [day.isoformat() for day in view.dates] == entry["dates"] and len(view.dates) <= CONFIG.pictures
        assert list(view.dates) == sorted(set(view.dates))
        sheet = Image.open(io.BytesIO(base64.b64decode(entry["sprites"]["true"].partition(",")[2])))
        assert sheet.size == (size * len(view.dates), size)
        shown = np.array([sheet.getpixel((n * size + CONFIG.half_width,) + (CONFIG.half_width,)) for n in range(len(view.dates))])
        days = [(day - date(1970, 1, 1)).days for day in view.dates]
        cube = read_block(stack)
        positions = np.searchsorted(cube.days, days)
        red = cube.at(np.array([point.row]), np.array([point.col]))[positions, band_roles(cube.bands)["red"], 0]
        assert (cube.observed[positions, point.row, point.col] == Observed.CLEAR).all()
        order = np.argsort(red)
        assert (np.diff(shown[order, 0].astype(int)) >= 0).all()
    edge = min(sample.points, key=lambda p: min(p.row, p.col))
    ((_, view),) = point_views(sample, stack, [edge], FormConfig(half_width=20))
    alpha = next(iter(view.composites.values()))[..., 3]
    assert (alpha[:, : 20 - edge.row] == 0).all() and (alpha[:, :, : 20 - edge.col] == 0).all() and alpha[:, 20, 20].all()


def test_a_part_of_the_grid_finds_its_pixels(sample: Sample, stack: Stack, tmp_path: Path) -> None:
    """A map of a window of the scenes: the same pictures as from the whole; a shift of half a cell is refused."""
    grid = stack.grid
    part = Raster(
        data=np.full((1, 10, 12), Status.NO_CHANGE, np.uint8),
        grid=type(grid)(shape=(10, 12), transform=grid.transform @ type(grid.transform).translation(5, 8), crs=grid.crs),
    )
    write_cog(tmp_path / "status.tif", part)
    layers = np.full((3, 10, 12), NODATE, np.int32)
    write_cog(tmp_path / "break_date.tif", Raster(data=layers, grid=part.grid, nodata=NODATE))
    drawn = design_sample(tmp_path, seed=1, config=SampleConfig(points=5, min_points=5))
    point = drawn.points[0]
    there = type(point)(id=point.id, row=point.row + 8, col=point.col + 5, stratum=point.stratum, breaks=())
    ((_, one),), ((_, other),) = point_views(drawn, stack, [point], CONFIG), point_views(sample, stack, [there], CONFIG)
    assert one.dates == other.dates and all((one.composites[k] == other.composites[k]).all() for k in one.composites)
    moved = type(grid)(shape=(10, 12), transform=part.grid.transform @ type(grid.transform).translation(0.5, 0), crs=grid.crs)
    write_cog(tmp_path / "status.tif", Raster(data=part.data, grid=moved))
    write_cog(tmp_path / "break_date.tif", Raster(data=layers, grid=moved, nodata=NODATE))
    with pytest.raises(GridMismatchError):
        write_form(design_sample(tmp_path, seed=1, config=SampleConfig(points=5, min_points=5)), stack, tmp_path / "x.html")


def test_points_read_together_or_alone_look_the_same(sample: Sample, stack: Stack) -> None:
    together = {point.id: view for point, view in point_views(sample, stack, sample.points[:3], CONFIG)}
    alone = {point.id: view for point, view in point_views(sample, stack, sample.points[:3], replace(CONFIG, block_values=1))}
    assert together.keys() == alone.keys() == {point.id for point in sample.points[:3]}
    for name, view in together.items():
        assert view.dates == alone[name].dates and view.series == alone[name].series
        assert all((view.composites[kind] == alone[name].composites[kind]).all() for kind in view.composites)


def test_points_on_which_two_differ(sample: Sample, stack: Stack, tmp_path: Path) -> None:
    ids = [point.id for point in sample.points]
    one = Responses(interpreter="甲", sample="", answers={i: Answer(point=i, change="no") for i in ids})
    two = Responses(interpreter="乙", sample="", answers={i: Answer(point=i, change="yes" if i == ids[2] else "no") for i in ids})
    assert write_form(sample, stack, tmp_path / "settle.html", config=CONFIG, differing=(one, two)) == 1
    data = data_of(tmp_path / "settle.html")
    assert data["adjudication"] and [entry["id"] for entry in data["points"]] == [ids[2]]
    assert [(said["interpreter"], said["change"]) for said in data["points"][0]["former"]] == [("甲", "no"), ("乙", "yes")]
    with pytest.raises(ConfigError):
        write_form(sample, stack, tmp_path / "none.html", config=CONFIG, differing=(one, one))


def test_words_of_people_cannot_become_code(sample: Sample, stack: Stack, tmp_path: Path) -> None:
    first = sample.points[0].id
    note = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
    pair = [
        Responses(interpreter=note, sample="", answers={first: Answer(point=first, change=change, note=note)})  # type: ignore[arg-type]
        for change in ("yes", "no")
    ]
    write_form(sample, stack, tmp_path / "x.html", config=CONFIG, differing=pair)
    html = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == 2 and "<img" not in html
    assert data_of(tmp_path / "x.html")["points"][0]["former"][0]["note"] == note


def test_contact_sheets(sample: Sample, stack: Stack, tmp_path: Path) -> None:
    plain = contact_sheet(sample, stack, tmp_path / "a", per_page=5, pictures=4, config=CONFIG)
    again = contact_sheet(sample, stack, tmp_path / "b", per_page=5, pictures=4, config=CONFIG)
    shown = contact_sheet(sample, stack, tmp_path / "c", per_page=5, pictures=4, config=CONFIG, reveal=True, lang="en")
    assert [path.name for path in plain] == ["sheet-01.png", "sheet-02.png", "sheet-03.png"]
    assert [p.read_bytes() for p in plain] == [p.read_bytes() for p in again]
    assert plain[0].read_bytes() != shown[0].read_bytes()
    with Image.open(plain[0]) as picture:
        assert picture.width > 700 and picture.height > 300
    with pytest.raises(ConfigError):
        contact_sheet(sample, stack, tmp_path / "d", pictures=1)


def test_dates_are_spread_and_clear() -> None:
    days = np.arange(0, 2000, 10)
    clear = np.where(np.arange(200) % 2 == 0, 1.0, 0.0)
    chosen = spread_days(days, clear, 5)
    assert len(chosen) == 5 and all(clear[i] > 0 for i in chosen)
    assert np.abs(days[chosen] - np.linspace(0, 1990, 5)).max() <= 10
    assert spread_days(days, np.zeros(200), 5) == []
    veiled = clear.copy()
    veiled[chosen[2]] = 0.5  # half under cloud: a clear one 20 days away is taken
    assert chosen[2] not in spread_days(days, veiled, 5)


def test_one_date_a_year_of_one_season() -> None:
    days = np.arange(17_000, 19_000, 9)
    found = season_days(days, np.ones(len(days)))
    dates = [date(1970, 1, 1).toordinal() + int(days[i]) for i in found]
    in_year = [date.fromordinal(d).timetuple().tm_yday for d in dates]
    assert len(found) == len({date.fromordinal(d).year for d in dates}) >= 5
    assert max(in_year) - min(in_year) <= 20
    assert season_days(days, np.zeros(len(days))) == []


def test_the_recorded_meaning_of_the_numbers_is_used(sample: Sample) -> None:
    recorded = replace(sample, source={"scale": "0.0001", "bands": ["red", "nir"], "quality": "", "offset": None})
    assert stated_options(recorded) == {"scale": 0.0001, "bands": ("red", "nir")}
