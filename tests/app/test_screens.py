"""Each screen under AppTest, in both languages, on a real workspace."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from geoevidence.custody import Case, Workspace


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
