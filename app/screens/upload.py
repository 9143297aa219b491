"""Upload of field material: resumable transfer, then registration in the case with digests and a receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components import upload_form
from app.state import plain, t
from app.uploads import UploadArea

if TYPE_CHECKING:
    from geoevidence.custody import Case

TEXTS = ("choose", "hint", "waiting", "sending", "done", "pause", "paused", "resume", "failed", "no_connection")


def show() -> None:
    case = state.chosen_case()
    st.title(t("upload.title"))
    if case is None:
        st.info(t("case.choose"))
        return
    state.synthetic_banner(case)
    st.markdown(t("upload.into", number=plain(case.number)))
    label = st.text_input(t("upload.label"), key=f"label-{case.id}", placeholder=t("upload.label_hint"), max_chars=200)
    texts = {name: t(f"upload.{name}") for name in TEXTS} | {"lang": state.lang()}
    upload_form(f"upload-{case.id}", case=case.id, texts=texts, on_finished=_ask_to_register)
    area = UploadArea(state.workspace_path())
    if st.session_state.pop("register", False):
        _register(case, area, label)
    _waiting(case, area, label)
    _receipt(case)


def _ask_to_register() -> None:
    st.session_state["register"] = True


def _register(case: Case, area: UploadArea, label: str) -> None:
    """Bring what is complete on the server into the case: digests, copy, event, receipt."""
    skipped: set[str] = set()
    with state.shown_errors(), st.spinner(t("upload.registering")), area.staged(case.id, kept=skipped) as folder:
        done = case.ingest(folder, label=label.strip() or t("upload.default_label"), kind="received")
        skipped.update(done.skipped)
        st.session_state[f"receipt-{case.id}"] = done


def _waiting(case: Case, area: UploadArea, label: str) -> None:
    waiting = area.list(case.id)
    if not waiting:
        return
    st.subheader(t("upload.waiting_title"), anchor=False)
    for upload in waiting:
        kind = "complete" if upload.is_finished else "partial"
        st.markdown(f"- {plain(upload.name)}: {t(f'upload.{kind}', received=f'{upload.received:,}', size=f'{upload.size:,}')}")
    if any(upload.is_finished for upload in waiting) and st.button(t("upload.register"), type="primary"):
        _register(case, area, label)
        st.rerun()


def _receipt(case: Case) -> None:
    done = st.session_state.get(f"receipt-{case.id}")
    if done is None:
        return
    st.subheader(t("upload.receipt"), anchor=False)
    if done.short_code:
        st.markdown(f"#### {t('upload.short_code')}  `{done.short_code}`")
        st.caption(t("upload.short_code_note"))
    st.markdown(t("upload.registered", new=len(done.items), old=len(done.already_present)))
    rows = [
        {t("items.path"): item.path, t("items.size"): item.size, "SHA-256": item.sha256, "SM3": item.sm3} for item in done.items
    ]
    if rows:
        st.dataframe(rows, hide_index=True)
    for name, reason in done.skipped.items():
        st.warning(plain(f"{name}: {reason.render(state.lang())}"))
    if done.receipt_html is not None:
        st.download_button(
            t("upload.receipt_file"), done.receipt_html.read_bytes(), file_name=done.receipt_html.name, mime="text/html"
        )
