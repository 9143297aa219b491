"""One case: findings on the map with pictures, series and limits; its sheet; its custody; its files; report and package."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app import figures, state
from app.components import case_map, compare
from app.state import plain, t
from geoevidence.messages import render

if TYPE_CHECKING:
    from geoevidence.custody import Case, StoredResult
    from geoevidence.types import Finding, Lang, Role

TABS = ("findings", "sheet", "custody", "items", "issue")


def show() -> None:
    case = state.chosen_case()
    if case is None:
        st.info(t("case.choose"))
        return
    synthetic = state.synthetic_banner(case)
    st.title(plain(case.number), anchor=False)
    st.caption(case.id)
    drawn: tuple[Callable[[Case], None], ...] = (partial(_findings, synthetic=synthetic), _sheet, _custody, _items, _issue)
    for draw, tab in zip(drawn, st.tabs([t(f"case.tab.{name}") for name in TABS]), strict=True):
        with tab, state.shown_errors():
            draw(case)


# ---------------------------------------------------------------- findings


def _findings(case: Case, *, synthetic: bool) -> None:
    shown = figures.shown_findings(state.findings(case), state.lang())
    if not shown:
        st.info(t("case.no_findings"))
        return
    by_key = {entry.key: entry for entry in shown}
    if st.session_state.get(f"finding-{case.id}") not in by_key:
        st.session_state[f"finding-{case.id}"] = shown[0].key
    left, right = st.columns([3, 2], gap="medium")
    with left:
        layers = figures.raster_layers(case, state.results(case), state.lang())
        clicked = case_map(
            f"map-{case.id}",
            findings=figures.feature_collection(shown),
            labels=figures.labels(shown),
            rasters=layers,
            bounds=figures.bounds(shown, layers),
            selected=st.session_state[f"finding-{case.id}"],
            banner=render("core.synthetic", {}, state.lang()) if synthetic else "",
        )
        st.caption(t("case.map_note"))
    if clicked in by_key:
        st.session_state[f"finding-{case.id}"] = clicked
    with right:
        key = st.selectbox(
            t("case.finding"),
            list(by_key),
            key=f"finding-{case.id}",
            format_func=lambda name: f"{by_key[name].number} · {by_key[name].title}",
        )
        if clicked in by_key and clicked != key:
            key = clicked
        _facts(by_key[key].stored, by_key[key].finding)
    _pictures(case, by_key[key])
    previews = figures.previews(by_key[key].stored, state.lang())
    if previews:
        with st.expander(t("case.previews")):
            for picture in previews:
                st.image(str(case.path_of(picture.item)), caption=plain(picture.title))
    gaps = [gap for stored in state.results(case) for gap in stored.result.gaps]
    if gaps:
        with st.expander(t("case.gaps", count=len(gaps))):
            st.caption(t("case.gaps_note"))
            for gap in gaps:
                st.markdown(f"- {plain(gap.render(state.lang()))}")


def _facts(stored: StoredResult, finding: Finding) -> None:
    """What is stated, when, how large, how; and what it cannot prove."""
    lang = state.lang()
    st.markdown(f"**{plain(finding.message.render(lang))}**")
    if finding.facts:
        st.markdown("\n".join(f"- {plain(fact.render(lang))}" for fact in finding.facts))
    quantity = t("finding.no_quantity") if finding.quantity is None else finding.quantity.format(lang)
    st.markdown(f"#### {plain(quantity)}")
    if finding.quantity is not None:
        st.caption(t("finding.error_note") + plain(render(finding.quantity.propagation, {}, lang)))
    st.markdown(f"**{t('finding.when')}**  \n{plain(figures.when(stored, finding, lang))}")
    st.markdown(f"**{t('finding.proves')}**  \n{plain(finding.method.render(lang))}")
    limits = "\n".join(f"- {plain(limit.render(lang))}" for limit in finding.limitations)
    st.markdown(f"**{t('finding.cannot')}**\n{limits}")


def _pictures(case: Case, entry: figures.ShownFinding) -> None:
    before, after = entry.picture("chip_before"), entry.picture("chip_after")
    if before and after:
        st.subheader(t("finding.compare"), anchor=False)
        compare(
            f"compare-{entry.key}",
            before={"source": state.file_address(case, before.item), "title": before.title},
            after={"source": state.file_address(case, after.item), "title": after.title},
            texts={"hint": t("finding.wipe_hint"), "side_by_side": t("finding.side_by_side"), "wipe": t("finding.wipe")},
        )
    series = entry.picture("series_plot")
    if series:
        st.subheader(t("finding.series"), anchor=False)
        st.image(str(case.path_of(series.item)), caption=plain(series.title), width="stretch")
    for picture in entry.pictures("preview"):
        st.image(str(case.path_of(picture.item)), caption=plain(picture.title), width="stretch")
    files = [file for file in entry.files if file.kind in ("series", "measurement", "measurement_geojson")]
    for column, file in zip(st.columns(max(3, len(files))), files, strict=False):
        column.link_button(f"{t('finding.download')} {plain(file.title)}", state.file_address(case, file.item))


# ---------------------------------------------------------------- sheet


def _sheet(case: Case) -> None:
    from geoevidence.custody import CASE_FIELDS

    sheet = case.sheet
    st.caption(t("sheet.note"))
    with st.form(f"sheet-{case.id}"):
        values: dict[str, str] = {}
        columns = st.columns(2)
        for index, name in enumerate(CASE_FIELDS):
            values[name] = columns[index % 2].text_input(
                render(f"case.field.{name}", {}, state.lang()),
                sheet.get(name, ""),
                key=f"field-{case.id}-{name}",
                placeholder=t("sheet.empty"),
                disabled=name == "case_number",
                max_chars=20_000,
            )
        if st.form_submit_button(t("sheet.save"), type="primary"):
            filled = {name: value.strip() for name, value in values.items() if value.strip()}
            if filled == dict(sheet):
                st.info(t("sheet.same"))
            else:
                case.set_sheet(filled)
                st.success(t("sheet.saved"))


# ---------------------------------------------------------------- custody and files


def _custody(case: Case) -> None:
    st.caption(t("custody.note"))
    checkpoint = case.log_checkpoint()
    rows = [
        {
            t("custody.index"): event.index,
            t("custody.time"): state.moment(event.time_claimed),
            t("custody.type"): render(f"custody.event.{event.type}", {}, state.lang()),
            t("custody.actor"): f"{event.actor_id or '-'} ({event.auth_level})",
            t("custody.inputs"): len(event.inputs),
            t("custody.outputs"): len(event.outputs),
            t("custody.tool"): f"{event.process.tool} {event.process.version}" if event.process else "",
            t("custody.event"): event.event_id,
            t("custody.leaf"): event.leaf_hash,
        }
        for event in case.events()
    ]
    st.dataframe(rows, hide_index=True, height="content")
    if checkpoint is not None:
        st.code(f"{checkpoint.origin}\n{checkpoint.tree_size}\n{checkpoint.root.hex()}", language=None)


def _items(case: Case) -> None:
    roles: tuple[Role, ...] = ("original", "derived", "record")
    role = st.segmented_control(
        t("items.role"),
        roles,
        default="original",
        required=True,
        key=f"role-{case.id}",
        format_func=lambda name: t(f"items.{name}"),
    )
    rows = [
        {
            t("items.open"): state.file_address(case, item),
            t("items.id"): item.id,
            t("items.path"): item.path,
            t("items.size"): item.size,
            "SHA-256": item.sha256,
            "SM3": item.sm3,
        }
        for item in case.items(role=role)
    ]
    st.caption(t("items.note", count=len(rows)))
    if rows:
        st.dataframe(
            rows, hide_index=True, column_config={t("items.open"): st.column_config.LinkColumn(display_text=t("items.open"))}
        )


# ---------------------------------------------------------------- report and package


def _issue(case: Case) -> None:
    st.subheader(t("issue.report"), anchor=False)
    st.caption(t("issue.report_note"))
    languages: tuple[Lang, ...] = ("zh", "en")
    for column, language in zip(st.columns(4), languages, strict=False):
        if column.button(t(f"issue.make_{language}"), key=f"report-{language}-{case.id}"):
            from geoevidence.report import report_case

            with st.spinner(t("issue.working")):
                item = report_case(case, lang=language)
            st.success(t("issue.report_done", item=item.id))
    for item in (item for item in case.items() if item.media_type == "application/pdf" and item.path.startswith("report/")):
        st.link_button(
            plain(f"{item.id}  {item.path.rpartition('/')[2]}"), state.file_address(case, item), icon=":material/picture_as_pdf:"
        )
    st.subheader(t("issue.package"), anchor=False)
    st.caption(t("issue.package_note"))
    if st.button(t("issue.seal"), key=f"seal-{case.id}"):
        from app.engines import ENGINES
        from app.tools import time_sources
        from geoevidence.package import recomputing, seal_zip

        folder = state.workspace_path() / "packages"
        folder.mkdir(exist_ok=True)
        with st.spinner(t("issue.working")):
            place = folder / f"package-{case.id}-{len(case.events())}.zip"
            evidence = time_sources(state.workspace())
            sealed = seal_zip(case, place, evidence=evidence, recompute=recomputing(case, engines=ENGINES))
        st.success(t("issue.sealed", name=sealed.path.name, items=sealed.items))
        st.markdown(f"#### {t('issue.short_code')}  `{sealed.short_code}`")
        for name, why in sealed.evidence_missing:
            st.warning(t("issue.evidence_missing", source=plain(name), reason=plain(why.render(state.lang()))))
        label = t("packages.record")
        st.download_button(
            label, sealed.record.read_bytes(), file_name=sealed.record.name, mime="text/html", icon=":material/print:"
        )
