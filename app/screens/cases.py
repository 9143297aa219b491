"""All cases of the workspace, and a form that opens a new one."""

from __future__ import annotations

import streamlit as st

from app import state
from app.state import plain, t
from geoevidence.messages import render


def show() -> None:
    st.title(t("cases.title"))
    cases = state.workspace().cases()
    if not cases:
        st.info(t("cases.none"))
    for summary in cases:
        case = state.workspace().case(summary.id)
        findings = state.findings(case)
        synthetic = case.demonstration or any(finding.synthetic for _, finding in findings)
        with st.container(border=True):
            left, right = st.columns([5, 1], vertical_alignment="center")
            mark = f" :red-background[{render('core.synthetic', {}, state.lang())}]" if synthetic else ""
            left.markdown(f"**{plain(case.number)}**{mark}")
            counts = t("cases.counts", items=len(case.items()), events=len(case.events()), findings=len(findings))
            left.caption(f"{case.id} · {counts}")
            if right.button(t("cases.open"), key=f"open-{case.id}", width="stretch", type="primary"):
                _open(case.id)
    with st.expander(t("cases.new")), st.form("new-case", border=False):
        number = st.text_input(t("cases.number"), max_chars=200)
        if st.form_submit_button(t("cases.create")):
            if number.strip():
                _open(state.workspace().new_case(number.strip(), fields={}).id)
            else:
                st.error(t("cases.number_missing"))


def _open(case_id: str) -> None:
    st.session_state["case"] = case_id
    st.switch_page(st.session_state["pages"]["case"], query_params={"case": case_id})
