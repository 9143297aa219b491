"""What the screens share: the workspace, the language, the chosen case, and texts that cannot act as markup."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import streamlit as st

from geoevidence.errors import GeoEvidenceError
from geoevidence.messages import render
from geoevidence.types import EvidenceItem, Lang

if TYPE_CHECKING:
    from geoevidence.custody import Case, StoredResult, Workspace
    from geoevidence.types import Finding

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@])")
BEIJING = timezone(timedelta(hours=8))


def workspace_path() -> Path:
    """The folder that `geoevidence serve` was given."""
    return Path(os.environ.get("GEOEVIDENCE_WORKSPACE", "workspace"))


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(path: str) -> Workspace:
    from app.tools import open_workspace

    return open_workspace(Path(path))


def workspace() -> Workspace:
    """The workspace, opened once for all sessions. Raises CustodyError when there is none."""
    return _opened(str(workspace_path()))


def lang() -> Lang:
    """Language of this session; Chinese unless the reader switched."""
    return "en" if st.session_state.get("lang") == "en" else "zh"


def t(message_id: str, **values: Any) -> str:
    """The text `app.<message_id>` in the language of the session."""
    return render(f"app.{message_id}", values, lang())


def plain(text: str) -> str:
    """`text` for a Markdown place, with everything escaped: a name in a case can never become a link or a picture."""
    return _MARKUP.sub(r"\\\1", text).replace("\n", "  \n")


def moment(value: datetime) -> str:
    """A time to the second: Beijing time in Chinese, UTC in English."""
    return value.astimezone(BEIJING if lang() == "zh" else UTC).strftime("%Y-%m-%d %H:%M:%S")


def file_address(case: Case, item: EvidenceItem) -> str:
    """Address of the bytes of an item on this server."""
    return f"/files/{quote(case.id)}/{quote(item.id)}"


def chosen_case() -> Case | None:
    """The case of the address or of this session; None when none was chosen or it is gone."""
    wanted = st.query_params.get("case") or st.session_state.get("case")
    if not wanted:
        return None
    st.session_state["case"] = wanted
    try:
        return workspace().case(wanted)
    except GeoEvidenceError:
        st.session_state.pop("case", None)
        raise


@contextmanager
def shown_errors() -> Iterator[None]:
    """Problems that a user can understand are shown in place, in the reader's language."""
    try:
        yield
    except GeoEvidenceError as error:
        st.error(plain(error.render(lang())))


def screen(show: Callable[[], None]) -> Callable[[], None]:
    """`show` as a page: with its errors shown."""

    def run() -> None:
        with shown_errors():
            show()

    run.__name__ = show.__module__.rpartition(".")[2]
    return run


@st.cache_resource(max_entries=16, show_spinner=False)
def _stated(case_id: str, root: bytes, _case: Case) -> tuple[tuple[StoredResult, ...], tuple[tuple[StoredResult, Finding], ...]]:
    return _case.results(), _case.findings()


def results(case: Case) -> tuple[StoredResult, ...]:
    """Results of a case, read once for each state of its log."""
    return _stated(case.id, case.log_checkpoint().root, case)[0]


def findings(case: Case) -> tuple[tuple[StoredResult, Finding], ...]:
    """Findings of a case, read once for each state of its log."""
    return _stated(case.id, case.log_checkpoint().root, case)[1]


def synthetic_banner(case: Case) -> bool:
    """The red banner on every screen of demonstration data; returns whether it is shown."""
    synthetic = case.demonstration or any(finding.synthetic for _, finding in findings(case))
    if synthetic:
        text = f"{render('core.synthetic', {}, lang())}　{t('banner.synthetic')}"
        st.html(
            f'<div class="geo-banner" style="background:#b42318;color:#fff;padding:8px 14px;border-radius:4px;font-weight:700">{text}</div>'
        )
    return synthetic
