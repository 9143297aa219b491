"""Each screen under AppTest, in both languages, on a real workspace."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from geoevidence.custody import Case, Workspace
from geoevidence.messages import render
from tests.app.sample import analyse


def run_screen(name: str, case: Case | None, lang: str) -> AppTest:
    def page(name: str, case_id: str | None, lang: str) -> None:
        import importlib

        import streamlit as st

        from app import state

        st.session_state["lang"] = lang
        if case_id:
            st.session_state["case"] = case_id
        state.screen(importlib.import_module(f"app.screens.{name}").show)()

    test = AppTest.from_function(page, args=(name, case.id if case else None, lang), default_timeout=30)
    return test.run()


def all_text(test: AppTest) -> str:
    parts = [*test.markdown, *test.caption, *test.title, *test.subheader, *test.info, *test.error, *test.success]
    return "\n".join(str(part.value) for part in parts)


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("name", ["cases", "case", "upload", "packages"])
def test_screen_runs_and_no_text_is_missing(name: str, lang: str, sample_case: Case) -> None:
    test = run_screen(name, sample_case, lang)
    assert not test.exception, test.exception
    assert not test.error, [error.value for error in test.error]
    # an id without a text is shown as the id itself
    for prefix in ("app.", "case.field.", "custody.event.", "report.", "trust."):
        assert prefix not in all_text(test)
        assert not [box.label for box in test.text_input if box.label.startswith(prefix)]


def test_case_screen_states_size_error_time_and_limits(sample_case: Case) -> None:
    text = all_text(run_screen("case", sample_case, "zh")).replace("\\", "")
    assert "3600 ± 60 m² (k=2)" in text
    assert "可能发生在 2025-08-14 至 2025-09-03 之间" in text
    assert "不能证明何人所为。" in text


def test_choosing_a_finding_shows_its_own_number(sample_case: Case) -> None:
    test = run_screen("case", sample_case, "zh")
    box = test.selectbox(key=f"finding-{sample_case.id}")
    box.set_value(next(option for option in (f"{stored.event.event_id}/S-002" for stored in sample_case.results()))).run()
    assert "1600 ± 40 m² (k=2)" in all_text(test).replace("\\", "")


@pytest.mark.parametrize("name", ["case", "upload"])
def test_demonstration_is_marked(name: str, sample_case: Case) -> None:
    test = run_screen(name, sample_case, "zh")
    assert any("演示数据（合成）" in str(part.proto) for part in test.get("html"))


def test_saving_the_sheet_records_a_correction_and_keeps_markup_plain(sample_workspace: Workspace) -> None:
    case = sample_workspace.new_case("表单-1", fields={})
    test = run_screen("case", case, "zh")
    test.text_input(key=f"field-{case.id}-question").input("![x](http://example.org/x.png)")
    next(button for button in test.button if button.label == "保存").click().run()
    assert case.sheet["question"] == "![x](http://example.org/x.png)"
    assert case.events()[-1].type == "corrected"


def test_new_case_needs_a_number(sample_workspace: Workspace) -> None:
    before = len(sample_workspace.cases())
    test = run_screen("cases", None, "zh")
    next(button for button in test.button if button.label == "建立").click().run()
    assert [error.value for error in test.error] == ["请填写案号。"]
    assert len(sample_workspace.cases()) == before


def test_a_number_that_is_taken_is_said_in_words(sample_workspace: Workspace) -> None:
    test = run_screen("cases", None, "zh")
    test.text_input[0].input("演示-001")
    next(button for button in test.button if button.label == "建立").click().run()
    assert len(test.error) == 1
    assert "custody." not in test.error[0].value


@pytest.mark.slow
def test_report_and_package_are_made_and_the_five_verdicts_shown(sample_workspace: Workspace, tmp_path: Path) -> None:
    case = sample_workspace.new_case("封存-1", fields={"commissioner": "某县人民检察院"}, demonstration=True)
    (tmp_path / "a.txt").write_bytes(b"a")
    analyse(case, case.ingest(tmp_path / "a.txt").items)
    test = run_screen("case", case, "zh")
    test.button(key=f"report-zh-{case.id}").click().run()
    assert not test.error, [error.value for error in test.error]
    report = next(item for item in case.items() if item.path.endswith("report-zh.pdf"))
    assert case.path_of(report).read_bytes().startswith(b"%PDF")
    assert [event.type for event in case.events()][-1] == "reported"
    test.button(key=f"seal-{case.id}").click().run()
    assert not test.error, [error.value for error in test.error]
    assert any(part.value.startswith("#### 短码") for part in test.markdown)

    packages = run_screen("packages", None, "zh")
    next(button for button in packages.button if button.label == "核验").click().run()
    assert [error.value.partition("　")[0] for error in packages.error] == ["演示数据（合成）"]
    said = all_text(packages)
    for verdict, status in {"intact": "passed", "signed": "not_checked", "time": "not_checked", "continuous": "passed"}.items():
        name, word = render(f"trust.verdict.{verdict}", {}, "zh"), render(f"trust.status.{status}", {}, "zh")
        following = said.partition(f"**{name}**\n")[2].splitlines()[0]
        assert word in following, (verdict, following)
    assert "trust." not in said
    packages.text_input[0].input(str(tmp_path / "nothing")).run()
    next(button for button in packages.button if button.label == "核验").click().run()
    assert not packages.exception
