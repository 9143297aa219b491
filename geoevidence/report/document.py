"""What a report says, apart from how it looks: a case becomes sections of texts, tables and figures.

Input: a case of the custody part (results, findings, items, log). Output: a `Document` of plain values, the same
for the same case. Nothing is measured here and no legal conclusion is drawn: every sentence is a fact of the case
with its error and limits, or a fixed text of the catalogue. A finding without a method, without limits, or with a
number that says nothing of its error stops the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geoevidence.errors import PackageError
from geoevidence.messages import render
from geoevidence.types import EvidenceItem, Finding, Lang, Product, Quantity

if TYPE_CHECKING:
    from geoevidence.custody import Case, StoredResult

CERTIFICATE = "surveying_certificate"
"""Field of the case sheet with the number of the surveying certificate; without it the report is auxiliary."""

UNDERTAKING = "undertaking"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph. style: body, lead (the sentence that counts), note (small), list (one point), code (a command), time (when)."""

    text: str
    style: Literal["body", "lead", "note", "list", "code"] = "body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Labels with their values; an empty value is shown as not filled in."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """widths: share of each column. mono: columns of digests and codes. small: annex print."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    widths: tuple[float, ...]
    mono: tuple[int, ...] = ()
    small: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture of the case: the file of its item, what it shows, and the item's id and digest."""

    path: Path
    media_type: str
    caption: str
    item: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One picture, or a pair side by side."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureLines:
    """Roles that sign by hand, with the name from the case sheet or an empty text."""

    roles: tuple[tuple[str, str], ...]


Block = Text | Rows | Table | Figures | SignatureLines


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """level: 1 or 2. new_page: starts on a page of its own."""

    title: str
    blocks: tuple[Block, ...]
    level: int = 1
    new_page: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report.

    mark: text on every page (demonstration data), or "".
    moment: claimed time of the last event, which stands for the time of the report.
    footer: case number and root of the log.
    """

    lang: Lang
    title: str
    subtitle: str
    mark: str
    moment: datetime
    footer: str
    sections: tuple[Section, ...]
    numbers: tuple[Quantity, ...] = field(default=())


def build_document(case: Case, *, lang: Lang = "zh") -> Document:
    """The report of a case as it stands now.

    Raises:
        PackageError: there is nothing to report, or a finding lacks a method, an error or limits.
    """
    return _Builder(case, lang).document()


class _Builder:
    """One pass over a case; holds the language and the numbering."""

    def __init__(self, case: Case, lang: Lang) -> None:
        self.case, self.lang = case, lang
        self.sheet: Mapping[str, str] = case.sheet
        self.events = tuple(case.events())
        self.items = tuple(case.items())
        self.results = tuple(case.results())
        self.findings = tuple(case.findings())
        self.checkpoint = case.log_checkpoint()
        self.synthetic = (
            case.demonstration or any(f.synthetic for _, f in self.findings) or any(r.result.synthetic for r in self.results)
        )

    def t(self, message_id: str, **values: Any) -> str:
        return render(f"report.{message_id}", values, self.lang)

    def _moment(self, moment: datetime) -> str:
        """Beijing time for readers of Chinese (one zone since 1949, no summer time since 1991), UTC otherwise."""
        if self.lang == "zh":
            return moment.astimezone(timezone(timedelta(hours=8))).strftime("%Y-%m-%d %H:%M:%S")
        return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")

    def document(self) -> Document:
        if not self.findings:
            raise PackageError("report.no_findings", case=self.case.number)
        for _, finding in self.findings:
            _check(finding)
        auxiliary = not self.sheet.get(CERTIFICATE)
        sections = (
            self._summary(auxiliary),
            self._commission(),
            Section(title=self.t("findings.title"), blocks=(Text(text=self.t("findings.reading"), style="note"),), new_page=True),
            *(self._finding(number, stored, finding) for number, (stored, finding) in enumerate(self.findings, start=1)),
            *self._process(),
            self._gaps(),
            self._custody(),
            self._before(),
            self._verification(),
            self._signatures(),
            self._digests(),
        )
        return Document(
            lang=self.lang,
            title=self.t("title"),
            subtitle=self.t("subtitle.auxiliary") if auxiliary else self.t("subtitle.surveying"),
            mark=render("core.synthetic", {}, self.lang) if self.synthetic else "",
            moment=self.events[-1].time_claimed,
            footer=self.t(
                "footer", number=self.case.number, root=self.checkpoint.root.hex()[:16], size=self.checkpoint.tree_size
            ),
            sections=sections,
            numbers=tuple(finding.quantity for _, finding in self.findings if finding.quantity is not None),
        )

    # ------------------------------------------------------------ what was asked, what was found

    def _summary(self, auxiliary: bool) -> Section:
        rows = tuple(
            (str(number), finding.message.render(self.lang), self._when_short(finding), self._size(finding))
            for number, (_, finding) in enumerate(self.findings, start=1)
        )
        blocks: list[Block] = [
            Rows(
                rows=(
                    (self.t("front.number"), self.case.number),
                    (self.t("front.id"), self.case.id),
                    (self.t("front.moment"), self._moment(self.events[-1].time_claimed)),
                    (
                        self.t("front.log"),
                        self.t("front.log_value", size=self.checkpoint.tree_size, root=self.checkpoint.root.hex()),
                    ),
                )
            ),
            Text(text=self.t("summary.lead", count=len(rows)), style="lead"),
            Table(
                header=(self.t("summary.number"), self.t("summary.what"), self.t("summary.when"), self.t("summary.size")),
                rows=rows,
                widths=(0.7, 6.0, 1.9, 2.0),
            ),
            Text(text=self.t("summary.error"), style="note"),
            Text(text=self.t("summary.not_legal"), style="note"),
        ]
        if self.synthetic:
            blocks.append(Text(text=self.t("summary.synthetic"), style="lead"))
        if auxiliary:
            blocks.append(Text(text=self.t("summary.auxiliary"), style="note"))
        return Section(title=self.t("summary.title"), blocks=tuple(blocks))

    def _commission(self) -> Section:
        from geoevidence.custody import CASE_FIELDS
        from geoevidence.package import QUESTIONS

        # what concerns the time before recording has a section of its own
        names = [name for name in CASE_FIELDS if name not in QUESTIONS.values()]
        rows = tuple((render(f"case.field.{name}", {}, self.lang), self.sheet.get(name, "")) for name in names)
        empty = sum(1 for _, value in rows if not value)
        return Section(
            title=self.t("commission.title"),
            blocks=(Rows(rows=rows), Text(text=self.t("commission.empty", count=empty, total=len(rows)), style="note")),
            new_page=True,
        )

    def _finding(self, number: int, stored: StoredResult, finding: Finding) -> Section:
        products = {product.path: product for product in stored.result.products}
        own = [products[path] for path in finding.products if path in products and _is_own(path, finding)]
        blocks: list[Block] = [Text(text=finding.message.render(self.lang), style="lead")]
        blocks += [Text(text=fact.render(self.lang), style="list") for fact in finding.facts]
        rows = [
            (self.t("finding.when"), self._when(stored, finding)),
            (self.t("finding.size"), self._size(finding)),
            *([(self.t("finding.error_how"), render(finding.quantity.propagation, {}, self.lang))] if finding.quantity else []),
            *self._where(finding),
            (self.t("finding.method"), finding.method.render(self.lang)),
            (
                self.t("finding.run"),
                self.t("finding.run_value", process=self._process_name(stored), event=stored.event.event_id, id=finding.id),
            ),
            (self.t("finding.sources"), self._sources(finding)),
        ]
        blocks.append(Rows(rows=tuple(rows)))
        blocks.append(Text(text=self.t("finding.limits"), style="body"))
        blocks += [Text(text=limit.render(self.lang), style="list") for limit in finding.limitations]
        before, after = self._pick(own, "chip_before"), self._pick(own, "chip_after")
        if before and after:
            blocks.append(Figures(figures=(self._figure(stored, before[0]), self._figure(stored, after[0]))))
        for kind in ("preview", "series_plot"):
            blocks += [Figures(figures=(self._figure(stored, product),)) for product in self._pick(own, kind)]
        if not any(isinstance(block, Figures) for block in blocks):
            blocks.append(Text(text=self.t("finding.no_picture"), style="note"))
        mark = self.t("finding.mark", mark=render("core.synthetic", {}, self.lang)) if finding.synthetic else ""
        return Section(title=self.t("finding.title", number=number, mark=mark), blocks=tuple(blocks), level=2)

    def _when(self, stored: StoredResult, finding: Finding) -> str:
        if finding.period is None:
            return self.t("finding.no_period")
        start, end = (day.isoformat() for day in finding.period)
        if start == end:
            return self.t("finding.one_day", day=start)
        kind = "interval" if stored.result.process.startswith("satellite.") else "span"
        return self.t(f"finding.{kind}", start=start, end=end)

    def _when_short(self, finding: Finding) -> str:
        if finding.period is None:
            return self.t("finding.no_period")
        start, end = (day.isoformat() for day in finding.period)
        return start if start == end else self.t("summary.between", start=start, end=end)

    def _size(self, finding: Finding) -> str:
        return self.t("finding.no_quantity") if finding.quantity is None else finding.quantity.format(self.lang)

    def _where(self, finding: Finding) -> list[tuple[str, str]]:
        if finding.geometry is None or finding.crs is None:
            return [(self.t("finding.where"), self.t("finding.no_where"))]
        from shapely.geometry import shape

        from geoevidence import crs as reference

        source = reference.parse_crs(finding.crs)
        geographic = reference.transform_geometry(finding.geometry, source, reference.parse_crs("EPSG:4490"))
        point = shape(geographic).representative_point()
        target = reference.report_crs(point.x, point.y)
        projected = shape(reference.transform_geometry(finding.geometry, source, target))
        inside = projected.representative_point()
        west, south, east, north = projected.bounds
        china = target.name.startswith("CGCS2000")
        label = reference.crs_label(target)
        return [
            (self.t("finding.where"), self.t("finding.point", lon=_degrees(point.x, "EW"), lat=_degrees(point.y, "NS"))),
            (self.t("finding.grid"), self.t("finding.grid_value", north=f"{inside.y:.2f}", east=f"{inside.x:.2f}", crs=label)),
            (
                self.t("finding.extent"),
                self.t(
                    "finding.extent_value", north=f"{north:.2f}", south=f"{south:.2f}", west=f"{west:.2f}", east=f"{east:.2f}"
                ),
            ),
            (
                self.t("finding.datum"),
                self.t("finding.datum_cgcs" if china else "finding.datum_utm", crs=reference.crs_label(source)),
            ),
        ]

    def _sources(self, finding: Finding) -> str:
        wanted = set(finding.sources)
        known = [item.id for item in self.items if item.role == "original" and f"sha256:{item.sha256}" in wanted]
        known = known or [item.id for item in self.items if f"sha256:{item.sha256}" in wanted]
        if not known:
            return self.t("finding.no_sources")
        shown = ", ".join(known[:6])
        return self.t("finding.sources_value", count=len(finding.sources), items=shown if len(known) <= 6 else f"{shown} …")

    # ------------------------------------------------------------ pictures

    def _pick(self, products: list[Product], kind: str) -> list[Product]:
        return [product for product in products if product.kind == kind and product.media_type in ("image/png", "image/jpeg")]

    def _figure(self, stored: StoredResult, product: Product) -> Figure:
        item: EvidenceItem = stored.files[product.path]
        return Figure(
            path=self.case.path_of(item),
            media_type=product.media_type,
            caption=product.title.render(self.lang),
            item=item.id,
            sha256=item.sha256,
        )

    # ------------------------------------------------------------ how it was found, what is missing

    def _process_name(self, stored: StoredResult) -> str:
        name = self.t(f"process.{stored.result.process}")
        return stored.result.process if name.startswith("report.") else name  # a process without a name of its own

    def _process(self) -> list[Section]:
        sections = [
            Section(title=self.t("process.title"), blocks=(Text(text=self.t("process.reading"), style="note"),), new_page=True)
        ]
        for stored in self.results:
            process = stored.event.process
            if process is None:
                raise PackageError("report.no_process", event=stored.event.event_id)
            rows = [
                (self.t("process.event"), f"{stored.event.event_id}  {self._moment(stored.event.time_claimed)}"),
                (self.t("process.tool"), f"{process.tool} {process.version}"),
                (self.t("process.code"), process.code_digest or self.t("process.not_recorded")),
                (self.t("process.environment"), process.environment_digest or self.t("process.not_recorded")),
                (self.t("process.seed"), self.t("process.no_seed") if stored.result.seed is None else str(stored.result.seed)),
                (self.t("process.inputs"), self.t("process.files", count=len(stored.event.inputs))),
                (self.t("process.outputs"), self.t("process.files", count=len(stored.event.outputs))),
            ]
            used = {path for finding in stored.result.findings for path in finding.products if _is_own(path, finding)}
            previews = [p for p in stored.result.products if p.kind == "preview" and p.path not in used]
            parameters = tuple(_flat(stored.result.parameters))
            blocks: list[Block] = [Rows(rows=tuple(rows))]
            blocks += [Figures(figures=(self._figure(stored, product),)) for product in self._pick(previews, "preview")]
            if parameters:
                blocks.append(Text(text=self.t("process.parameters"), style="body"))
                header = (self.t("process.parameter"), self.t("process.value"))
                blocks.append(Table(header=header, rows=parameters, widths=(1.0, 1.0), mono=(0, 1), small=True))
            sections.append(Section(title=self._process_name(stored), blocks=tuple(blocks), level=2))
        return sections

    def _gaps(self) -> Section:
        lines = [gap.render(self.lang) for stored in self.results for gap in stored.result.gaps]
        blocks: list[Block] = [Text(text=self.t("gaps.reading"), style="note")]
        blocks += [Text(text=line, style="list") for line in lines]
        if not lines:
            blocks.append(Text(text=self.t("gaps.none")))
        return Section(title=self.t("gaps.title"), blocks=tuple(blocks))

    # ------------------------------------------------------------ custody and how to check

    def _custody(self) -> Section:
        from geoevidence.custody import log_testimonies, stated_interval

        testimonies = log_testimonies(self.events, self.case.read_object)
        rows = tuple(
            (
                str(index),
                self._moment(event.time_claimed),
                self._interval(*stated_interval(event, testimonies)),
                render(f"custody.event.{event.type}", {}, self.lang),
                f"{event.actor_id or self.t('custody.withheld')} / {event.role}",
                str(len(event.inputs)),
                str(len(event.outputs)),
                event.event_id,
            )
            for index, event in enumerate(self.events)
        )
        names = ("index", "time", "attested", "type", "actor", "inputs", "outputs", "event")
        blocks: list[Block] = [
            Text(text=self.t("custody.reading"), style="note"),
            Table(
                header=tuple(self.t(f"custody.{name}") for name in names),
                rows=rows,
                widths=(0.5, 2.0, 2.2, 1.8, 1.9, 0.7, 0.7, 2.1),
                mono=(7,),
                small=True,
            ),
            Text(text=self.t("custody.evidence" if testimonies else "custody.no_evidence"), style="note"),
        ]
        if testimonies:
            blocks.append(
                Table(
                    header=tuple(self.t(f"custody.{name}") for name in ("index", "by", "who", "covers", "attested")),
                    rows=tuple(
                        (
                            str(each.index),
                            self.t(f"custody.by_{each.kind}"),
                            each.who,
                            self.t("custody.covered", last=each.covers - 1),
                            self._interval(each.earliest, each.latest),
                        )
                        for each in testimonies
                    ),
                    widths=(0.5, 1.4, 4.4, 1.8, 2.6),
                    small=True,
                )
            )
        return Section(title=self.t("custody.title"), blocks=tuple(blocks), new_page=True)

    def _interval(self, after: datetime | None, before: datetime | None) -> str:
        """The attested interval, or that nobody attests it."""
        lines = [self.t("custody.after", time=self._moment(after))] if after is not None else []
        lines += [self.t("custody.before", time=self._moment(before))] if before is not None else []
        return "\n".join(lines) or self.t("custody.unattested")

    def _before(self) -> Section:
        """The same facts as `data/before-recording.json` of the package."""
        from geoevidence.package import QUESTIONS, before_recording

        known = before_recording(self.sheet, self.events, self.items)
        labels = {question: render(f"case.field.{name}", {}, self.lang) for question, name in QUESTIONS.items()}
        answers = tuple((labels[question], text or "") for question, text in known.answers.items())
        blocks: list[Block] = [Text(text=self.t("before.reading"), style="note"), Rows(rows=answers)]
        rows = []
        for each in known.recordings:
            offset = self.t("before.offset_unknown") if each.clock_offset_ms is None else f"{each.clock_offset_ms} ms"
            acquired = self.t("before.no_time")
            if each.acquired_first is not None and each.acquired_last is not None:
                origins = ", ".join(self.t(f"before.origin.{origin}") for origin in each.acquired_from)
                first, last = self._moment(each.acquired_first), self._moment(each.acquired_last)
                acquired = self.t("before.from", first=first, last=last, origins=origins)
            rows.append(
                (
                    each.event,
                    render(f"custody.event.{each.type}", {}, self.lang),
                    self._moment(each.time_claimed),
                    f"{render(f'custody.clock.{each.clock_source}', {}, self.lang)}\n{offset}",
                    each.source or "-",
                    str(each.files),
                    acquired,
                )
            )
        blocks.append(Text(text=self.t("before.files" if rows else "before.none"), style="body"))
        if rows:
            names = ("event", "kind", "when", "clock", "carrier", "count", "acquired")
            header = tuple(self.t(f"before.{name}") for name in names)
            widths = (1.9, 1.0, 1.9, 1.6, 1.6, 0.8, 2.6)
            blocks.append(Table(header=header, rows=tuple(rows), widths=widths, mono=(0,), small=True))
        return Section(title=self.t("before.title"), blocks=tuple(blocks), level=2)

    def _verification(self) -> Section:
        rows = (
            (self.t("verify.origin"), self.checkpoint.origin),
            (self.t("verify.size"), str(self.checkpoint.tree_size)),
            (self.t("verify.root"), self.checkpoint.root.hex()),
        )
        blocks: list[Block] = [Rows(rows=rows), Text(text=self.t("verify.reading"))]
        for number in range(1, 5):
            blocks.append(Text(text=self.t(f"verify.step{number}"), style="list"))
            blocks.append(Text(text=self.t(f"verify.command{number}"), style="code"))
        blocks += [
            Text(text=self.t(f"verify.{name}"), style="note")
            for name in ("verdicts", "digest_is_not_truth", "key", "not_in_list")
        ]
        return Section(title=self.t("verify.title"), blocks=tuple(blocks))

    def _signatures(self) -> Section:
        names = ("investigators", "operators", "witness", "holder", "examiner", "reviewer", "prosecutor")
        return Section(
            title=self.t("sign.title"),
            new_page=True,
            blocks=(
                Text(text=self.t("sign.reading"), style="note"),
                SignatureLines(
                    roles=tuple((render(f"case.field.{name}", {}, self.lang), self.sheet.get(name, "")) for name in names)
                ),
                Rows(
                    rows=tuple(
                        (render(f"case.field.{name}", {}, self.lang), self.sheet.get(name, ""))
                        for name in ("refusal_reason", UNDERTAKING)
                    )
                ),
            ),
        )

    def _digests(self) -> Section:
        rows = tuple(
            (f"{item.id}\n{item.size:,}", f"{item.path}\nSHA-256  {item.sha256}\nSM3      {item.sm3}") for item in self.items
        )
        header = (self.t("digests.item"), self.t("digests.digests"))
        reading = Text(text=self.t("digests.reading", count=len(rows)), style="note")
        table = Table(header=header, rows=rows, widths=(1.0, 4.6), mono=(0, 1), small=True)
        return Section(title=self.t("digests.title"), blocks=(reading, table), new_page=True)


def _check(finding: Finding) -> None:
    """Raises PackageError unless the finding has a method, limits, and an error of its number or the reason why there is none."""
    if not finding.method.id:
        raise PackageError("report.no_method", finding=finding.id)
    if not finding.limitations:
        raise PackageError("report.no_limits", finding=finding.id)
    if finding.quantity is not None and not finding.quantity.propagation:
        raise PackageError("report.no_error", finding=finding.id)


def _is_own(path: str, finding: Finding) -> bool:
    """A product of this finding alone: its file name starts with the finding's id (docs/formats/result.md)."""
    return path.rpartition("/")[2].startswith(f"{finding.id}-")


def _degrees(value: float, letters: str) -> str:
    """Six decimals of a degree (about 0.1 m) with the letter of the hemisphere."""
    return f"{abs(value):.6f}°{letters[0] if value >= 0 else letters[1]}"


def _flat(parameters: Any, name: str = "") -> list[tuple[str, str]]:
    """(dotted name, JSON text) of every parameter, sorted by name."""
    if isinstance(parameters, Mapping):
        return [row for key in sorted(parameters) for row in _flat(parameters[key], f"{name}.{key}" if name else str(key))]
    text = parameters if isinstance(parameters, str) else json.dumps(parameters, ensure_ascii=False)
    return [(name, text)]
