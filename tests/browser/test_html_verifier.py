"""verify.html in a browser, opened from a file: the same answers as verify.pyz, and what is seen and said."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geoevidence.package.html_verifier import build_html
from tests.package.html_core import by_the_kernel, summary, written
from tests.trust import tree
from tests.trust.tree import NOW, TREE, Case

pytestmark = pytest.mark.browser
DONE = "#json, #fault"
NOT_SEEN = {"container/link", "container/empty-folder"}
"""Cases of the tree with something that the button for folders does not show."""


class Page:
    """The page with what it asked for and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, *, script: str = "") -> None:
        self.page = browser.new_page(viewport={"width": 1100, "height": 900}, locale="zh-CN")
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        if script:
            self.page.add_init_script(script)
        self.page.goto(path.as_uri())
        self.page.click("#outside summary")

    def choose(self, name: str, path: str) -> None:
        self.page.set_input_files(f"#{name}-{'folder' if Path(path).is_dir() else 'zip'}", path)

    def start(self) -> dict[str, Any] | None:
        """The report of what was chosen, None where it could not be verified."""
        self.page.click("#start")
        self.page.wait_for_selector(DONE, state="attached")
        text = self.page.locator("#json")
        report: dict[str, Any] | None = json.loads(text.text_content()) if text.count() else None
        assert self.page.evaluate("window.geoevidenceReport") == report
        return report

    def verify(self, one: dict[str, Any]) -> dict[str, Any] | None:
        """As `start`, of a case on disk (`written`); what an earlier one left is taken away first."""
        for button in self.page.locator("#outside li button").all()[::-1]:
            button.click()
        self.choose("package", one["package"])
        self.page.set_input_files("#trust", [one["trust"]] if one["trust"] else [])
        self.page.set_input_files("#checkpoints", one["checkpoints"])
        self.page.fill("#code", one["code"] or "")
        for path in one["supplements"]:
            self.choose("supplement", path)
        for path in one["packages"]:
            self.choose("of", path)
        return self.start()

    def shot(self, name: str) -> None:
        folder = os.environ.get("GEOEVIDENCE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"verify-{name}.png"), full_page=True)


@pytest.fixture(scope="session")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verifier") / "verify.html"
    path.write_bytes(build_html())
    return path


@pytest.fixture
def page(browser: Any, verifier: Path) -> Iterator[Page]:
    opened = Page(browser, verifier)
    yield opened
    assert opened.problems == []
    # the page itself, and its worker made of its own text
    assert {url.partition(":")[0] for url in opened.requests} <= {"file", "blob"}
    assert [url for url in opened.requests if url.startswith("file:")] == [verifier.as_uri()]
    opened.page.close()


def plain(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    return written(Case(name, tree.base, **options), folder)


def named(name: str) -> Case:
    return next(case for case in TREE if case.name == name)


def test_agrees_with_the_other_verifier_on_the_whole_tree(page: Page, tmp_path: Path) -> None:
    found = []
    for number, case in enumerate(TREE):
        one = written(case, tmp_path / str(number))
        report, other = page.verify(one), by_the_kernel(one)
        assert report is not None, case.name
        mine, theirs = summary(report), summary(other)
        if case.name in NOT_SEEN:
            assert "html.limit.folder_chosen" in [limit["id"] for limit in report["limits"]], case.name
            continue
        if mine != theirs or set(mine["failed"]) != case.failed:
            found.append(f"{case.name}\n  verify.html {mine}\n  verify.pyz  {theirs}")
    assert not found, "\n".join(found)


def test_report_for_machines(page: Page, tmp_path: Path) -> None:
    report = page.verify(written(named("sound/everything-zip"), tmp_path / "1"))
    assert report is not None
    other = by_the_kernel(written(named("sound/everything-zip"), tmp_path / "2"))
    assert report.keys() == other.keys() | {"verifier"}
    assert report["schema"] == other["schema"] == "geoevidence.verification.v2"
    assert {key for check in report["checks"] for key in check} == {key for check in other["checks"] for key in check}
    assert [check["number"] for check in report["checks"]] == [check["number"] for check in other["checks"]]
    assert report["verifier"]["name"] == "verify.html" and len(report["verifier"]["program"]) == len("sha256:") + 64
    assert all(limit["text"] for limit in report["limits"])
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="保存 JSON").click()
    assert download.value.suggested_filename == "P.zip.verification.json"
    assert json.loads(Path(download.value.path()).read_text(encoding="utf-8")) == report


def test_what_a_reader_sees(page: Page, tmp_path: Path) -> None:
    page.verify(written(named("sound/everything-zip"), tmp_path / "1"))
    main = page.page.locator("main")
    assert page.page.locator("html").get_attribute("lang") == "zh-CN"
    assert "要求的结论全部通过" in page.page.locator("#overall").inner_text()
    assert page.page.locator("[data-verdict]").count() == 5
    assert page.page.locator("[data-status=passed]").count() == 5
    assert "某县检察院" in main.inner_text() and "2026-11-23T08:31:00Z – 2026-11-23T09:01:01Z" in main.inner_text()
    page.shot("sound-zh")
    page.page.get_by_role("button", name="English").click()
    assert page.page.locator("html").get_attribute("lang") == "en"
    assert "All required verdicts passed" in page.page.locator("#overall").inner_text()
    page.shot("sound-en")
    page.page.get_by_role("button", name="中文").click()
    one = written(named("log/order"), tmp_path / "2")
    report = page.verify(one)
    assert report is not None
    shown = page.page.locator("ul.checks.failed > li")
    assert shown.count() == sum(check["status"] == "failed" for check in report["checks"])
    assert "data/log/leaves.jsonl" in shown.first.inner_text()
    page.shot("broken-zh")
    page.page.set_viewport_size({"width": 380, "height": 800})
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.shot("broken-narrow")


def test_every_text_is_there(page: Page, tmp_path: Path) -> None:
    for lang in ("中文", "English"):
        page.page.get_by_role("button", name=lang).click()
        for number, name in enumerate(
            ("sound/everything-zip", "redacted/sound", "outside/fork", "with-supplement/sound", "device/root")
        ):
            page.verify(written(named(name), tmp_path / f"{lang} {number}"))
            text = page.page.locator("main").inner_text()
            assert "html." not in text.replace("verify.html", "") and "trust." not in text.replace("trust.json", ""), text
            assert "{" not in text


def test_prints_the_result_alone(page: Page, tmp_path: Path) -> None:
    page.verify(plain("sound", tmp_path / "1"))
    page.page.emulate_media(media="print")
    assert not page.page.locator("#start").is_visible() and not page.page.get_by_role("button", name="打印").is_visible()
    assert page.page.locator("#overall").is_visible() and page.page.locator("table.verdicts").is_visible()


def test_by_keyboard_and_with_names(page: Page, tmp_path: Path) -> None:
    page.choose("package", plain("sound", tmp_path / "1")["package"])
    focused = set()
    for _ in range(30):
        page.page.keyboard.press("Tab")
        focused.add(page.page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"选择文件夹", "选择 zip 文件", "start", "trust", "checkpoints", "code", "English"} <= focused
    page.page.locator("#start").focus()
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector(DONE, state="attached")
    assert page.page.evaluate("document.activeElement.id") == "result"
    for name in ("信任文件 trust.json", "包外保存的检查点（可多选）", "纸质记录上的短码"):
        assert page.page.get_by_label(name).count() == 1


def test_what_the_browser_does_not_show_is_said(page: Page, tmp_path: Path) -> None:
    one = plain("odd", tmp_path / "1")
    (Path(one["package"]) / "data/originals/none").mkdir()
    report, other = page.verify(one), by_the_kernel(one)
    assert report is not None
    assert other["exit_code"] == 1 and report["exit_code"] != 1
    limits = [limit["text"] for limit in report["limits"] if limit["id"] == "html.limit.folder_chosen"]
    assert limits and all(word in limits[0] for word in ("符号链接", "空文件夹", "verify.pyz"))
    assert limits[0] in page.page.locator("main").inner_text()


def test_links_never_pass_in_silence(page: Page, tmp_path: Path) -> None:
    one = plain("odd", tmp_path / "1")
    package = Path(one["package"])
    target = next((package / "data/originals").rglob("*.JPG"))
    kept = tmp_path / "elsewhere.JPG"
    target.rename(kept)
    target.symlink_to(kept)
    report, other = page.verify(one), by_the_kernel(one)
    assert report is not None and other["exit_code"] == 1
    # followed (the bytes are right) or passed over (the file is missing): either way it is said
    assert report["exit_code"] == 1 or "html.limit.folder_chosen" in [limit["id"] for limit in report["limits"]]


def test_a_folder_that_is_dragged_in(page: Page, tmp_path: Path) -> None:
    package = Path(plain("sound", tmp_path / "1")["package"])
    assert summary(drop(page, package))["failed"] == []
    (package / "data/originals/none").mkdir()
    report = drop(page, package)
    assert summary(report)["failed"] == ["container"]
    assert [check["subject"] for check in report["checks"] if check["status"] == "failed"] == ["data/originals/none"]
    assert "html.limit.folder_dropped" in [limit["id"] for limit in report["limits"]]


def drop(page: Page, path: Path) -> dict[str, Any]:
    """What a file manager does: real paths, through the browser's own protocol."""
    page.page.locator(".zone").first.scroll_into_view_if_needed()
    box = page.page.locator(".zone").first.bounding_box()
    session = page.page.context.new_cdp_session(page.page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 40, "y": box["y"] + 20, "data": data})
    # a package that is chosen takes the report of the one before away
    page.page.wait_for_selector(DONE, state="detached")
    page.page.wait_for_selector(f"#chosen:has-text('{path.name} (')")
    report = page.start()
    assert report is not None
    return report


def test_names_that_would_be_markup_or_turn_the_line(page: Page, tmp_path: Path) -> None:
    hostile = 'data/originals/E-bd8a63bd-2/<img src=x onerror="document.title=1">\u202egpj.exe'
    case = Case("hostile", tree.tampered(lambda files: files.update({hostile: b"x"})))
    report = page.verify(written(case, tmp_path / "1"))
    assert report is not None and report["exit_code"] == 1
    text = page.page.locator("ul.checks.failed").inner_text()
    assert "<img src=x" in text and "\\u{202e}gpj.exe" in text and "\u202e" not in page.page.content()
    assert page.page.locator("main img").count() == 0 and page.page.title() == "证据包核验"


def test_arguments_that_cannot_be_read(page: Page, tmp_path: Path) -> None:
    one = plain("sound", tmp_path / "1")
    for number, data in enumerate((b"{}", b"\xef\xbb\xbf{}", b'{"schema":1,"schema":1}')):
        trust = tmp_path / f"trust-{number}.json"
        trust.write_bytes(data)
        assert page.verify({**one, "trust": str(trust)}) is None
        assert trust.name in page.page.locator("#fault").inner_text()
    # a browser gives no file that was changed after it was chosen
    trust.write_bytes(b"[]")
    assert page.start() is None
    assert f"读不出 {trust.name}" in page.page.locator("#fault").inner_text()
    note = tmp_path / "note"
    note.write_bytes(b"no checkpoint")
    assert page.verify({**one, "checkpoints": [str(note)]}) is None
    assert page.verify({**one, "supplements": [one["package"]]}) is None
    assert "补充材料" in page.page.locator("#fault").inner_text()
    assert page.verify(one) is not None


def test_nothing_chosen(page: Page) -> None:
    page.page.click("#start")
    assert page.page.locator("#message").inner_text() == "请先选择证据包。"
    assert page.page.locator("#result").inner_text() == ""


def test_without_workers(browser: Any, verifier: Path, tmp_path: Path) -> None:
    one = plain("sound", tmp_path / "1")
    for script in ("delete window.Worker", "window.Worker = class { constructor() { setTimeout(() => this.onerror({}), 5); } }"):
        page = Page(browser, verifier, script=script)
        report = page.verify(one)
        assert report is not None and summary(report) == summary(by_the_kernel({**one, "now": NOW}))
        assert page.problems == []
        page.page.close()


def test_many_files_and_a_long_one(page: Page, tmp_path: Path) -> None:
    many = Case("many", lambda: tree.sealed(tree.sample_log(many=400)))
    assert summary(page.verify(written(many, tmp_path / "1")))["failed"] == []
    # longer than the slices in which files are read (4 MiB), with a last one that is no whole block
    log = tree.sample_log()
    log.append("copied", {"originals/{e}/long.bin": bytes(range(256)) * (36 << 10) + b"end"})
    for number, form in enumerate(("folder", "zip")):
        report = page.verify(written(Case("long", lambda: tree.sealed(log), form=form), tmp_path / f"long-{number}"))
        assert summary(report)["failed"] == []
        assert report["facts"]["bytes"] > 9 << 20
