"""Sealed packages: the five separate verdicts of the verifier, each with its checks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.state import plain, t
from app.tools import trust_file_path
from geoevidence.errors import InputError
from geoevidence.messages import render

if TYPE_CHECKING:
    from geoevidence.trust import TrustPolicy, VerificationReport

_LOOK = {
    "passed": ("green", ":material/check_circle:"),
    "failed": ("red", ":material/cancel:"),
    "not_checked": ("orange", ":material/help:"),
}


def _found() -> list[Path]:
    folder = state.workspace_path() / "packages"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == ".zip" or (path / "bagit.txt").is_file())


def show() -> None:
    st.title(t("packages.title"))
    st.caption(t("packages.note"))
    found = _found()
    if not found:
        st.info(t("packages.none"))
    chosen = st.selectbox(t("packages.choose"), found, format_func=lambda path: path.name) if found else None
    typed = st.text_input(t("packages.other"), placeholder=t("packages.other_hint"))
    package = Path(typed.strip()) if typed.strip() else chosen
    left, right = st.columns(2)
    trust = left.text_input(t("packages.trust"), placeholder=str(trust_file_path()), help=t("packages.trust_note")).strip()
    code = right.text_input(t("packages.code"), placeholder="7K2M-9QXA-04ZT-PRW8", help=t("packages.code_note")).strip()
    if package is not None and st.button(t("packages.verify"), type="primary"):
        from geoevidence.trust import verify_package

        with state.shown_errors(), st.spinner(t("packages.working")):
            policy = _policy(Path(trust)) if trust else None
            report = verify_package(package, policy=policy, code=code or None, now=datetime.now(UTC))
            st.session_state["verified"] = (str(package), report)
    if package is not None:
        _paper_record(package)
    name, report = st.session_state.get("verified", ("", None))
    if report is not None:
        _report(name, report)


def _policy(path: Path) -> TrustPolicy:
    """The trust file that the reader names. Raises InputError, FormatError."""
    from geoevidence.trust import parse_policy

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("core.cannot_read", path=path, reason=error.strerror or str(error)) from error
    return parse_policy(data, where=path.name)


def _paper_record(package: Path) -> None:
    """The page that is printed and signed, where it lies beside the package."""
    record = package.with_name(f"{package.name}.record.html")
    if record.is_file():
        label, note = t("packages.record"), t("packages.record_note")
        st.download_button(
            label, record.read_bytes(), file_name=record.name, mime="text/html", help=note, icon=":material/print:"
        )


def _report(name: str, report: VerificationReport) -> None:
    lang = state.lang()
    st.subheader(plain(Path(name).name), anchor=False)
    if report.kind != "package":
        st.info(t(f"packages.kind_{report.kind}"))
    if "short_code" in report.facts:
        st.markdown(t("packages.facts", code=f"`{report.facts['short_code']}`"))
    if report.facts.get("attested_before"):
        st.markdown(
            t("packages.attested", after=report.facts.get("attested_after") or "-", before=report.facts["attested_before"])
        )
    if report.facts.get("demonstration"):
        st.error(f"{render('core.synthetic', {}, lang)}　{t('banner.synthetic')}")
    verdicts = report.verdicts
    for column, (verdict, status) in zip(st.columns(len(verdicts)), verdicts.items(), strict=True):
        colour, icon = _LOOK[status]
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{render(f'trust.verdict.{verdict}', {}, lang)}**")
            st.markdown(f":{colour}[{icon} **{render(f'trust.status.{status}', {}, lang)}**]")
            if verdict == "signed" and status == "not_checked" and report.builtin_policy:
                st.caption(render("trust.policy_none", {}, lang))
            if verdict in report.required:
                st.caption(t("packages.required"))
    st.markdown(f"**{render(f'trust.exit.{report.exit_code}', {}, lang)}**")
    for verdict, status in verdicts.items():
        rows = [_row(check.to_dict(lang)) for check in report.checks if check.verdict == verdict]
        with st.expander(f"{render(f'trust.verdict.{verdict}', {}, lang)} ({len(rows)})", expanded=status == "failed"):
            st.dataframe(rows, hide_index=True)
    st.markdown(f"**{t('packages.limits')}**\n" + "\n".join(f"- {plain(render(limit, {}, lang))}" for limit in report.limits))


def _row(check: dict[str, Any]) -> dict[str, str]:
    lang = state.lang()
    return {
        t("packages.check"): f"{check['number']} {render('trust.check.' + check['name'], {}, lang)}",
        t("packages.subject"): check["subject"],
        t("packages.status"): render(f"trust.status.{check['status']}", {}, lang),
        t("packages.expected"): check["expected"] or "",
        t("packages.found"): check["found"] or "",
        t("packages.detail"): check["text"],
    }
