"""The viewer: page list, language switch and the line that says who is signed in (nobody yet: local)."""

from __future__ import annotations

import streamlit as st

from app import state
from app.screens import case, cases, packages, upload

st.set_page_config(page_title="geoevidence", layout="wide")
# The switch comes first, so that everything below is drawn in the language that was just chosen.
with st.sidebar:
    st.segmented_control(
        "中文 / English",
        ["zh", "en"],
        default="zh",
        required=True,
        key="lang",
        format_func=lambda name: {"zh": "中文", "en": "English"}[name],
        label_visibility="collapsed",
    )
# No page icons: Streamlit makes the browser fetch them from a foreign host for the tab.
PAGES = {
    "cases": st.Page(state.screen(cases.show), title=state.t("page.cases"), url_path="cases", default=True),
    "case": st.Page(state.screen(case.show), title=state.t("page.case"), url_path="case"),
    "upload": st.Page(state.screen(upload.show), title=state.t("page.upload"), url_path="upload"),
    "packages": st.Page(state.screen(packages.show), title=state.t("page.packages"), url_path="packages"),
}
st.session_state["pages"] = PAGES
page = st.navigation(list(PAGES.values()))
with st.sidebar:
    st.caption(state.t("identity"))
page.run()
