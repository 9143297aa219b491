"""The viewer in a real browser: map, pictures, uploads that break, both languages, and no request to another host."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from geoevidence.custody import Workspace
from tests.browser.conftest import Watched

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def open_case(watched: Watched, case_id: str, page: str = "case") -> Any:
    watched.page.goto(f"{watched.address}/{page}?case={case_id}")
    return watched.page


def choose_english(page: Any) -> None:
    page.get_by_role("radio", name="English").click()


def settled(page: Any) -> None:
    """Wait until Streamlit has run the script to its end."""
    page.wait_for_timeout(300)
    page.wait_for_function("() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'")


def test_case_from_the_list_to_a_finding_on_the_map(watched: Watched, viewer_workspace: Workspace) -> None:
    case = viewer_workspace.case("演示-001")
    page = watched.page
    page.goto(watched.address)
    page.get_by_text("演示-001").wait_for()
    watched.shot("cases-zh")
    page.locator(".stButton button", has_text="打开").first.click()
    page.locator(".geo-map[data-state=idle]").wait_for()
    page.get_by_text("3600 ± 60 m² (k=2)").wait_for()
    assert page.get_by_text("演示数据（合成）").first.is_visible()
    page.get_by_role("img", name=re.compile("S-001 的时间序列")).or_(page.get_by_text("S-001 的时间序列")).first.wait_for()
    settled(page)
    watched.shot("case-zh")
    # a click on the polygon itself, below the pin that stands inside it
    pin = page.locator(".geo-map-pin", has_text=re.compile("^2$")).bounding_box()
    page.mouse.click(pin["x"] + pin["width"] / 2, pin["y"] + pin["height"] + 8)
    page.get_by_text("1600 ± 40 m² (k=2)").wait_for()
    page.get_by_text("S-002 的时间序列").first.wait_for()
    assert page.locator(".geo-map").get_attribute("data-selected").endswith("/S-002")
    assert page.locator(".geo-map").get_attribute("data-error") is None
    settled(page)
    watched.shot("case-zh-selected")
    # the wipe shows both pictures of this finding
    sources = page.locator(".geo-compare-stage img").evaluate_all(
        "nodes => nodes.map(n => [n.getAttribute('src'), n.naturalWidth])"
    )
    assert len(sources) == 2
    assert all(width > 0 for _, width in sources)
    assert {source.rpartition("/")[2] for source, _ in sources} == {
        item.id for item in case.items() if item.path.endswith(("S-002-chip_before.png", "S-002-chip_after.png"))
    }
    assert watched.foreign == []
    assert watched.problems == []


def test_every_screen_in_both_languages_without_a_foreign_request(watched: Watched, viewer_workspace: Workspace) -> None:
    case = viewer_workspace.case("演示-001")
    page = watched.page
    titles = {"": ("案件列表", "Cases"), "upload": ("上传材料", "Upload"), "packages": ("核验证据包", "Verify packages")}
    for name, words in titles.items():
        open_case(watched, case.id, name)
        page.get_by_role("heading", name=words[0]).wait_for()
        settled(page)
        watched.shot(f"{name or 'cases'}-zh")
        choose_english(page)
        page.get_by_role("heading", name=words[1]).wait_for()
        settled(page)
        watched.shot(f"{name or 'cases'}-en")
    open_case(watched, case.id)
    page.locator(".geo-map[data-state=idle]").wait_for()
    choose_english(page)
    page.get_by_text("What it cannot prove").wait_for()
    settled(page)
    watched.shot("case-en")
    for tab in ("Case sheet", "Custody", "Files", "Report and package"):
        page.get_by_role("tab", name=tab).click()
        settled(page)
        watched.shot(f"case-en-{tab.split()[0].lower()}")
    assert watched.foreign == []
    assert watched.problems == []


def test_a_broken_upload_goes_on_and_becomes_evidence(watched: Watched, viewer_workspace: Workspace, tmp_path: Path) -> None:
    case = viewer_workspace.new_case("上传-浏览器", fields={})
    content = hashlib.shake_256(b"upload").digest(6_000_000)
    file = tmp_path / "DJI_0042.JPG"
    file.write_bytes(content)
    page = watched.page
    offsets: list[int] = []
    page.on(
        "request", lambda request: offsets.append(int(request.headers["upload-offset"])) if request.method == "PATCH" else None
    )
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")

    def throttle(bytes_per_second: int) -> None:
        conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second}
        network.send("Network.emulateNetworkConditions", conditions)

    open_case(watched, case.id, "upload")
    page.locator(".geo-upload input[type=file]").wait_for(state="attached")
    settled(page)
    throttle(1_000_000)
    page.locator(".geo-upload input[type=file]").set_input_files(file)
    progress = page.locator(".geo-upload-row progress")
    progress.wait_for()
    while progress.evaluate("node => node.value") < 0.3:
        page.wait_for_timeout(50)
    watched.shot("upload-zh-running")
    page.reload()  # the page is gone in the middle of the file
    page.locator(".geo-upload input[type=file]").wait_for(state="attached")
    settled(page)
    page.locator(".geo-upload input[type=file]").set_input_files(file)
    while len(offsets) < 2:
        page.wait_for_timeout(50)
    assert 0 < offsets[1] < len(content)
    # and once more by hand
    while page.locator(".geo-upload-row progress").evaluate("node => node.value") < 0.7:
        page.wait_for_timeout(50)
    page.locator(".geo-upload-button", has_text="暂停").click()
    page.locator(".geo-upload-row[data-state=paused]").wait_for()
    throttle(-1)
    page.locator(".geo-upload-button", has_text="继续").click()
    page.get_by_text("接收回执").first.wait_for()
    settled(page)
    watched.shot("upload-zh-receipt")
    assert len(offsets) == 3
    assert offsets[1] < offsets[2] < len(content)
    received = viewer_workspace.case(case.id)
    assert [item.sha256 for item in received.items(role="original")] == [hashlib.sha256(content).hexdigest()]
    assert received.events()[-1].type == "received"
    code = page.locator("h4 code").inner_text()
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", code)
    assert watched.foreign == []
