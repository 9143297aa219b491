"""The response form in a browser, opened from a file: an interpreter answers, switches language, saves, and goes on later."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from satellite import SampleConfig, design_sample, estimate_accuracy, read_responses, read_scenes, write_form
from tests.satellite.small_map import write_scenes, write_small_map

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("form")
    sample = design_sample(write_small_map(folder / "map"), seed=9, config=SampleConfig(points=12, min_points=3))
    write_form(sample, read_scenes(write_scenes(folder / "scenes")), folder / "form.html")
    return folder / "form.html", sample


class Form:
    """The page, what it asked for and what went wrong in it."""

    def __init__(self, context: Any, path: Path) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.goto(path.as_uri())

    def saved(self, button: str, path: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.click(button)
        target = path / download.value.suggested_filename
        download.value.save_as(target)
        return target

    def shot(self, name: str) -> None:
        folder = os.environ.get("GEOEVIDENCE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"form-{name}.png"), full_page=True)


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    made = browser.new_context(viewport={"width": 1400, "height": 1000}, locale="zh-CN", accept_downloads=True)
    yield made
    made.close()


def test_answers_reach_the_estimate(context: Any, drawn: tuple[Path, Any], tmp_path: Path) -> None:
    path, sample = drawn
    form = Form(context, path)
    page = form.page
    assert page.title() == "变化判读表" and page.locator("#points button").count() == 12
    page.click("#save")
    assert "姓名" in page.text_content("#say"), "a file without a name cannot be told from another's"
    page.fill("#name", "李 四")
    changed = {point.id: bool(point.breaks) for point in sample.points}
    for number, point in enumerate(sample.points):
        assert point.id in page.text_content("#point")
        page.click(f'#change button[data-value="{"yes" if changed[point.id] else "no"}"]')
        if changed[point.id]:
            dates = page.locator("#strip button span").all_text_contents()
            assert dates == sorted(dates) and dates[0] == "2022-01-15"
            for day, button in (("2022-04-15", "last_before"), ("2022-05-15", "first_after")):
                page.click(f'#strip button:has-text("{day}")')
                page.click(f'[data-use="{button}"]')
            page.select_option("#from_class", "vegetation")
            page.select_option("#to_class", "bare")
        if number == 0:
            page.click('#confidence button[data-value="medium"]')
            page.fill("#note", '第一点, "清楚"')
            form.shot("zh")
        page.click("#next-below")
    assert "12 / 12" in page.text_content("#progress")
    found = read_responses(form.saved("#save", tmp_path), sample)
    table = read_responses(form.saved("#save-csv", tmp_path), sample)
    assert found.interpreter == "李 四" and found.answers == table.answers
    first = found.answers["P-001"]
    assert (first.confidence, first.note) == ("medium", '第一点, "清楚"')
    assessment = estimate_accuracy(sample, [found])
    assert assessment.f1 is not None and assessment.f1.quantity.value == 1.0 and assessment.undated == 0
    # The break lies at the end of the interval that was clicked: no date error.
    assert assessment.lag_median == 0.0
    assert assessment.transitions[0].from_class == "vegetation" and assessment.transitions[0].to_class == "bare"
    assert form.problems == [] and {url.partition(":")[0] for url in form.requests} <= {"file", "data", "blob"}
    assert [url for url in form.requests if url.startswith("file:")] == [path.as_uri()]


def test_going_on_later_and_in_english(context: Any, browser: Any, drawn: tuple[Path, Any], tmp_path: Path) -> None:
    path, sample = drawn
    form = Form(context, path)
    page = form.page
    page.fill("#name", "Li")
    page.keyboard.press("Tab")
    page.locator("#point").click()
    page.keyboard.press("3")
    page.keyboard.press("PageDown")
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    page.click("#switch")
    assert page.title() == "Change interpretation form" and "2 of 12" in page.text_content("#progress")
    form.shot("en")
    page.fill("#last_before", "2022-06-01")
    page.fill("#first_after", "2022-03-01")
    page.locator("#point").click()
    assert page.is_visible("#dates-wrong"), "dates the wrong way round are told at once"
    file = form.saved("#save", tmp_path)
    found = read_responses(file, sample)
    assert {i: (a.change, a.dated) for i, a in found.answers.items()} == {"P-001": ("unsure", None), "P-002": ("yes", None)}
    # The browser hands what a page kept to another process, which on a busy machine may be later than a reload at once.
    deadline = time.monotonic() + 15
    while True:
        page.reload()
        if page.input_value("#name") or time.monotonic() > deadline:
            break
        page.wait_for_timeout(250)
    assert page.input_value("#name") == "Li" and page.locator("#points .done, #points .part").count() == 2
    fresh = browser.new_context(locale="zh-CN")
    other = Form(fresh, path)
    assert other.page.locator("#points .done, #points .part").count() == 0
    other.page.set_input_files("#load", str(file))
    other.page.wait_for_selector("#points .part")
    assert "2" in other.page.text_content("#say") and other.page.input_value("#name") == "Li"
    (tmp_path / "wrong.json").write_text('{"schema": "x"}', encoding="utf-8")
    other.page.set_input_files("#load", str(tmp_path / "wrong.json"))
    other.page.wait_for_selector('#say:has-text("不是")')
    assert form.problems == other.problems == []
    fresh.close()
