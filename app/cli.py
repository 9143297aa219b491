"""The command `geoevidence`: parse, call one public function, print.

Results go to stdout (`--json` for machines), progress and warnings to stderr. A problem is one clear message with
what to do, never a traceback. Exit codes: 0 done, 1 a problem with the data (or a broken package), 2 incomplete or
unknown trust, 3 stale, 4 fork of the log, 64 wrong usage, 70 a fault of the program itself.
Heavy packages load inside the commands that need them; `ingest`, `inspect`, `package` and `verify` need none.
"""

from __future__ import annotations

import json
import locale
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from geoevidence import __version__
from geoevidence.errors import ConfigError, GeoEvidenceError, InputError
from geoevidence.messages import LANGUAGES, render
from geoevidence.types import Finding, Lang, Message, ProcessResult, Progress, utc_text

EXIT_DATA, EXIT_USAGE, EXIT_FAULT = 1, 64, 70


def _language(argv: list[str]) -> str:
    """`--lang` wherever it stands, else GEOEVIDENCE_LANG, else the locale; English when none says Chinese."""
    for index, word in enumerate(argv):
        if word.startswith("--lang="):
            return word.partition("=")[2]
        if word == "--lang" and index + 1 < len(argv):
            return argv[index + 1]
    if os.environ.get("GEOEVIDENCE_LANG"):
        return os.environ["GEOEVIDENCE_LANG"]
    named = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or locale.getlocale()[0] or ""
    return "zh" if named.lower().startswith(("zh", "chinese")) else "en"


_lang = _language(sys.argv[1:])
_HELP_LANG: Lang = "zh" if _lang == "zh" else "en"


def _t(message_id: str, **values: Any) -> str:
    return render(message_id, values, _HELP_LANG)


def _group(message_id: str) -> typer.Typer:
    return typer.Typer(help=_t(message_id), no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


app = _group("cli.help")
case_app, drone_app, satellite_app, package_app = (
    _group(f"cli.{name}.help") for name in ("case", "drone", "satellite", "package")
)
app.add_typer(case_app, name="case")
app.add_typer(drone_app, name="drone")
app.add_typer(satellite_app, name="satellite")
app.add_typer(package_app, name="package")

Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="GEOEVIDENCE_WORKSPACE", help=_t("cli.option.workspace"), show_default=True)
]
LangOption = Annotated[str, typer.Option("--lang", help=_t("cli.option.lang"), show_default=False)]
Json = Annotated[bool, typer.Option("--json", help=_t("cli.option.json"))]
CaseOption = Annotated[str, typer.Option("--case", "-c", help=_t("cli.option.case"))]
OptionalCase = Annotated[str | None, typer.Option("--case", "-c", help=_t("cli.option.case_custody"))]
OutFolder = Annotated[Path | None, typer.Option("--out", "-o", help=_t("cli.option.out"))]
EventOption = Annotated[str | None, typer.Option("--event", help=_t("cli.option.event"))]
_WORKSPACE = Path("workspace")


# ---------------------------------------------------------------- printing


def _say(text: str) -> None:
    typer.echo(text)


def _emit(as_json: bool, record: Mapping[str, Any], lines: list[str]) -> None:
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, sort_keys=True))
    else:
        for line in lines:
            typer.echo(line)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; otherwise each stage is named once, on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        seen: list[str] = []

        def name_stage(stage: str, fraction: float) -> None:
            if not seen or seen[-1] != stage:
                seen.append(stage)
                console.print(f"  {render(stage, {}, _HELP_LANG)} ...", highlight=False, markup=False)

        yield name_stage
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task("", total=1.0)

        def show(stage: str, fraction: float) -> None:
            bars.update(task, description=render(stage, {}, _HELP_LANG), completed=min(max(fraction, 0.0), 1.0))

        yield show


def _finding_lines(findings: tuple[Finding, ...]) -> list[str]:
    """Each finding with its limits; limits that all share stand once, at the end."""
    limits = [[limit.render(_HELP_LANG) for limit in finding.limitations] for finding in findings]
    shared = [text for text in limits[0] if all(text in each for each in limits)] if len(findings) > 1 else []
    lines = []
    for finding, own in zip(findings, limits, strict=True):
        mark = f"【{_t('core.synthetic')}】" if finding.synthetic else ""
        lines.append(f"{finding.id} {mark}{finding.message.render(_HELP_LANG)}")
        lines += [f"    {fact.render(_HELP_LANG)}" for fact in finding.facts]
        lines += [f"    {_t('cli.limit')}: {text}" for text in own if text not in shared]
    return lines + [f"{_t('cli.limit_shared')}: {text}" for text in shared]


def _emit_result(as_json: bool, result: ProcessResult, where: str, *, in_custody: bool) -> None:
    record = {**result.to_dict(), "in_custody": in_custody, "where": where}
    gaps = [f"{_t('cli.gap')}: {gap.render(_HELP_LANG)}" for gap in result.gaps]
    place = _t("cli.result_in_custody" if in_custody else "cli.result_not_in_custody", where=where)
    _emit(as_json, record, [*_finding_lines(result.findings), *gaps, place])


def _open_case(workspace: Path, case: str) -> Any:
    from app.tools import open_workspace

    return open_workspace(workspace).case(case)


# ---------------------------------------------------------------- commands


@app.command(help=_t("cli.init.help"))
def init(
    folder: Annotated[Path, typer.Argument(help=_t("cli.init.folder"))] = _WORKSPACE, lang: LangOption = "", as_json: Json = False
) -> None:
    from app.tools import create_workspace

    workspace = create_workspace(folder)
    _emit(
        as_json,
        {"workspace": str(workspace.path), "id": workspace.id},
        [_t("cli.init.done", path=workspace.path, id=workspace.id)],
    )


@app.command(help=_t("cli.demo.help"))
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help=_t("cli.demo.out"))] = Path("demo"),
    flight: Annotated[Path | None, typer.Option("--flight", help=_t("cli.demo.flight"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.demo import run_demo

    with _progress() as progress:
        summary = run_demo(out, flight=flight, progress=progress, say=lambda text: typer.echo(text, err=as_json), lang=_HELP_LANG)
    _emit(as_json, summary, [])


@app.command(help=_t("cli.ingest.help"))
def ingest(
    source: Annotated[Path, typer.Argument(help=_t("cli.ingest.source"))],
    case: CaseOption,
    label: Annotated[str, typer.Option("--label", help=_t("cli.ingest.label"))] = "",
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    with _progress() as progress:
        done = _open_case(workspace, case).ingest(source, label=label, progress=progress)
    record = {
        "event_id": None if done.event is None else done.event.event_id,
        "items": [
            {"id": item.id, "path": item.path, "sha256": item.sha256, "sm3": item.sm3, "size": item.size} for item in done.items
        ],
        "already_present": [str(path) for path in done.already_present],
        "skipped": {name: reason.render(_HELP_LANG) for name, reason in done.skipped.items()},
        "receipt_json": None if done.receipt_json is None else str(done.receipt_json),
        "receipt_html": None if done.receipt_html is None else str(done.receipt_html),
        "short_code": done.short_code,
        "manifest_sha256": done.manifest_sha256,
    }
    lines = [_t("cli.ingest.done", new=len(done.items), old=len(done.already_present))]
    lines += [f"{_t('cli.gap')}: {name}: {reason.render(_HELP_LANG)}" for name, reason in done.skipped.items()]
    if done.receipt_html is not None:
        lines.append(_t("cli.ingest.receipt", code=done.short_code, path=done.receipt_html))
    _emit(as_json, record, lines)


@app.command(help=_t("cli.inspect.help"))
def inspect(
    paths: Annotated[list[Path], typer.Argument(help=_t("cli.inspect.paths"))], lang: LangOption = "", as_json: Json = False
) -> None:
    from geoevidence.custody import inspect_path

    worst = 0
    for path in paths:
        for found in inspect_path(path):
            reason = found.reason.render(_HELP_LANG)
            record = {"path": str(found.path), "verdict": found.verdict, "reason": reason, "details": dict(found.details)}
            _emit(as_json, record, [f"{_t('cli.inspect.' + found.verdict)}  {found.path}  {reason}"])
            worst = max(worst, 1 if found.verdict == "reject" else 0)
    raise typer.Exit(worst)


@case_app.command("new", help=_t("cli.case.new.help"))
def case_new(
    number: Annotated[str, typer.Argument(help=_t("cli.case.number"))],
    fields: Annotated[Path | None, typer.Option("--fields", help=_t("cli.case.fields"))] = None,
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import open_workspace
    from geoevidence.custody import read_case_toml

    values = read_case_toml(fields) if fields else {}
    made = open_workspace(workspace).new_case(number, fields=values)
    _emit(as_json, {"case": made.id, "number": made.number}, [_t("cli.case.new.done", number=made.number, id=made.id)])


@case_app.command("set", help=_t("cli.case.set.help"))
def case_set(
    fields: Annotated[Path, typer.Argument(help=_t("cli.case.fields"))],
    case: CaseOption,
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.custody import read_case_toml

    opened = _open_case(workspace, case)
    opened.set_sheet({**opened.sheet, **read_case_toml(fields)})
    _emit(as_json, {"case": opened.id, "fields": dict(opened.sheet)}, [_t("cli.case.set.done", n=len(opened.sheet))])


@case_app.command("template", help=_t("cli.case.template.help"))
def case_template(lang: LangOption = "") -> None:
    from geoevidence.custody import case_template_text

    typer.echo(case_template_text(), nl=False)


@case_app.command("list", help=_t("cli.case.list.help"))
def case_list(workspace: Workspace = _WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    from app.tools import open_workspace

    for found in open_workspace(workspace).cases():
        _emit(as_json, {"case": found.id, "number": found.number}, [f"{found.id}  {found.number}"])


@case_app.command("show", help=_t("cli.case.show.help"))
def case_show(case: CaseOption, workspace: Workspace = _WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    from geoevidence.custody import CASE_FIELDS

    opened = _open_case(workspace, case)
    findings = tuple(finding for _, finding in opened.findings())
    record = {
        "case": opened.id,
        "number": opened.number,
        "demonstration": opened.demonstration,
        "fields": dict(opened.sheet),
        "findings": [finding.to_dict() for finding in findings],
        "items": len(opened.items()),
        "events": len(opened.events()),
    }
    empty = _t("cli.case.empty_field")
    lines = [f"{opened.id}  {opened.number}" + (f"  【{_t('core.synthetic')}】" if opened.demonstration else "")]
    lines += [f"  {_t('case.field.' + name)}: {opened.sheet.get(name) or empty}" for name in CASE_FIELDS]
    lines += [
        _t("cli.case.counts", items=record["items"], events=record["events"], findings=len(findings)),
        *_finding_lines(findings),
    ]
    _emit(as_json, record, lines)


@case_app.command("items", help=_t("cli.case.items.help"))
def case_items(case: CaseOption, workspace: Workspace = _WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    for item in _open_case(workspace, case).items():
        record = {
            "id": item.id,
            "path": item.path,
            "role": item.role,
            "sha256": item.sha256,
            "sm3": item.sm3,
            "size": item.size,
            "media_type": item.media_type,
        }
        _emit(as_json, record, [f"{item.id}  {item.size:>12,} B  sha256:{item.sha256[:16]}…  {item.path}"])


@case_app.command("log", help=_t("cli.case.log.help"))
def case_log(case: CaseOption, workspace: Workspace = _WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    for event in _open_case(workspace, case).events():
        record = {
            "index": event.index,
            "event_id": event.event_id,
            "type": event.type,
            "time_claimed": utc_text(event.time_claimed),
            "actor": event.actor_id or _t("cli.case.withheld"),
            "leaf_hash": event.leaf_hash,
            "inputs": len(event.inputs),
            "outputs": len(event.outputs),
        }
        line = _t("cli.case.log.line", **{**record, "type": render(f"custody.event.{event.type}", {}, _HELP_LANG)})
        _emit(as_json, record, [line])


def _case_inputs(opened: Any, source: Path | None, event: str | None, progress: Progress) -> tuple[Any, ...]:
    """The originals to work on: of the folder (ingested first when it is new), of the event, or of the case's only ingest."""
    ingests = [e for e in opened.events() if e.type in ("copied", "received")]
    if source is not None:
        done = opened.ingest(source, progress=progress)
        event_ids = {item.id.rpartition("-")[0] for item in (*done.items, *done.already_present)}
    elif event is not None:
        event_ids = {event}
        if event not in {e.event_id for e in ingests}:
            raise InputError("cli.no_such_event", event=event, known=", ".join(e.event_id for e in ingests) or "-")
    elif len(ingests) == 1:
        event_ids = {ingests[0].event_id}
    else:
        raise InputError("cli.which_event", known=", ".join(e.event_id for e in ingests) or "-")
    return tuple(item for item in opened.items(role="original") if item.id.rpartition("-")[0] in event_ids)


def _one_target(case: str | None, out: Path | None) -> None:
    if (case is None) == (out is None):
        raise ConfigError("cli.case_or_out")


@drone_app.command("survey", help=_t("cli.drone.survey.help"))
def drone_survey(
    photos: Annotated[Path | None, typer.Argument(help=_t("cli.drone.photos"))] = None,
    case: OptionalCase = None,
    out: OutFolder = None,
    event: EventOption = None,
    gcp: Annotated[Path | None, typer.Option("--gcp", help=_t("cli.drone.gcp"))] = None,
    checks: Annotated[Path | None, typer.Option("--checks", help=_t("cli.drone.checks"))] = None,
    polygons: Annotated[Path | None, typer.Option("--polygons", help=_t("cli.drone.polygons"))] = None,
    config: Annotated[Path | None, typer.Option("--config", help=_t("cli.option.config"))] = None,
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from drone import SurveyConfig, survey, survey_case

    _one_target(case, out)
    settings = SurveyConfig.read(config) if config else SurveyConfig()
    with _progress() as progress:
        if out is not None:
            if photos is None:
                raise InputError("cli.photos_missing")
            result = survey(photos, out=out, gcp=gcp, checks=checks, polygons=polygons, config=settings, progress=progress)
            where = str(out)
        else:
            opened = _open_case(workspace, case or "")
            inputs = _case_inputs(opened, photos, event, progress)
            extra = {name: path for name, path in (("gcp", gcp), ("checks", checks), ("polygons", polygons)) if path is not None}
            attached = {name: _ingest_one(opened, path, progress) for name, path in extra.items()}
            stored = survey_case(opened, inputs, config=settings, progress=progress, **attached)
            result, where = stored.result, stored.event.event_id
    _emit_result(as_json, result, where, in_custody=out is None)


def _ingest_one(opened: Any, path: Path, progress: Progress) -> Any:
    """The item of one file, ingested first when it is new."""
    done = opened.ingest(path, progress=progress)
    found = (*done.items, *done.already_present)
    if len(found) != 1:
        raise InputError("cli.not_one_file", path=path)
    return found[0]


@drone_app.command("measure", help=_t("cli.drone.measure.help"))
def drone_measure(
    polygon: Annotated[Path, typer.Option("--polygon", help=_t("cli.drone.polygon"))],
    survey_folder: Annotated[Path | None, typer.Option("--survey", help=_t("cli.drone.survey_folder"))] = None,
    dsm: Annotated[Path | None, typer.Option("--dsm", help=_t("cli.drone.dsm"))] = None,
    base: Annotated[str, typer.Option("--base", help=_t("cli.drone.base"))] = "rim",
    case: OptionalCase = None,
    event: EventOption = None,
    out: OutFolder = None,
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from drone import measure_case, measure_polygons

    with _progress() as progress:
        if case is not None:
            opened = _open_case(workspace, case)
            surveys = [s for s in opened.results() if s.result.process == "drone.survey" and event in (None, s.event.event_id)]
            if len(surveys) != 1:
                raise InputError("cli.which_event", known=", ".join(s.event.event_id for s in surveys) or "-")
            stored = measure_case(
                opened, surveys[0], polygon=_ingest_one(opened, polygon, progress), base=base, progress=progress
            )
            result, where = stored.result, stored.event.event_id
        else:
            with tempfile.TemporaryDirectory() as scratch:
                result = measure_polygons(survey_folder, dsm=dsm, out=out or Path(scratch), polygon=polygon, base=base)
            where = str(out) if out else "-"
    _emit_result(as_json, result, where, in_custody=case is not None)


@satellite_app.command("monitor", help=_t("cli.satellite.monitor.help"))
def satellite_monitor(
    source: Annotated[Path | None, typer.Argument(help=_t("cli.satellite.source"))] = None,
    case: OptionalCase = None,
    out: OutFolder = None,
    event: EventOption = None,
    scale: Annotated[float | None, typer.Option("--scale", help=_t("cli.satellite.scale"))] = None,
    bands: Annotated[str | None, typer.Option("--bands", help=_t("cli.satellite.bands"))] = None,
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", help=_t("cli.satellite.min_pixels"))] = None,
    config: Annotated[Path | None, typer.Option("--config", help=_t("cli.option.config"))] = None,
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import MonitorConfig, monitor, monitor_case

    _one_target(case, out)
    settings = MonitorConfig.read(config) if config else MonitorConfig()
    changes = {"scale": scale, "bands": tuple(bands.split(",")) if bands else None, "min_pixels": min_pixels}
    settings = settings.replace(**{name: value for name, value in changes.items() if value is not None})
    with _progress() as progress:
        if out is not None:
            if source is None:
                raise InputError("cli.scenes_missing")
            result, where = monitor(source, out=out, config=settings, progress=progress), str(out)
        else:
            opened = _open_case(workspace, case or "")
            stored = monitor_case(opened, _case_inputs(opened, source, event, progress), config=settings, progress=progress)
            result, where = stored.result, stored.event.event_id
    _emit_result(as_json, result, where, in_custody=out is None)


@app.command(help=_t("cli.report.help"))
def report(
    case: CaseOption,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=_t("cli.report.out"))] = None,
    language: Annotated[str, typer.Option("--language", help=_t("cli.report.language"))] = "zh",
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.report import report_case

    opened = _open_case(workspace, case)
    if language not in LANGUAGES:
        raise ConfigError("cli.unknown_language", found=language)
    item = report_case(opened, lang="zh" if language == "zh" else "en")
    if out is not None:
        _copy_new(opened.path_of(item), out)
    record = {
        "item": item.id,
        "sha256": item.sha256,
        "sm3": item.sm3,
        "size": item.size,
        "path": str(out or opened.path_of(item)),
    }
    _emit(as_json, record, [_t("cli.report.done", item=item.id, path=record["path"])])


def _copy_new(source: Path, target: Path) -> None:
    if target.exists():
        raise InputError("cli.target_exists", path=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(source.read_bytes())
    os.replace(part, target)


@package_app.command("seal", help=_t("cli.package.seal.help"))
def package_seal(
    case: CaseOption,
    out: Annotated[Path, typer.Option("--out", "-o", help=_t("cli.package.out"))],
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.package import seal_folder, seal_zip

    opened = _open_case(workspace, case)
    with _progress() as progress:
        sealed = (seal_zip if out.suffix.lower() == ".zip" else seal_folder)(opened, out, progress=progress)
    record = {
        "path": str(sealed.path),
        "package_root": sealed.package_root,
        "statement_sha256": sealed.statement_sha256,
        "short_code": sealed.short_code,
        "items": sealed.items,
        "size": sealed.size,
    }
    _emit(as_json, record, [_t("cli.package.sealed", path=sealed.path, code=sealed.short_code, items=sealed.items)])


@app.command(help=_t("cli.verify.help"))
def verify(
    package: Annotated[Path, typer.Argument(help=_t("cli.verify.package"))],
    trust: Annotated[Path | None, typer.Option("--trust", help=_t("cli.verify.trust"))] = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help=_t("cli.verify.checkpoint"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.trust.__main__ import main as verify_main

    words = [str(package), "--lang", _HELP_LANG]
    words += ["--trust", str(trust)] if trust else []
    words += ["--checkpoint", str(checkpoint)] if checkpoint else []
    words += ["--json"] if as_json else []
    raise typer.Exit(verify_main(words))


@app.command(help=_t("cli.serve.help"))
def serve(
    port: Annotated[int, typer.Option("--port", help=_t("cli.serve.port"))] = 8501,
    host: Annotated[str, typer.Option("--host", help=_t("cli.serve.host"))] = "127.0.0.1",
    workspace: Workspace = _WORKSPACE,
    lang: LangOption = "",
) -> None:
    from app.server import serve as run_server

    run_server(workspace, host=host, port=port)


@app.command(help=_t("cli.version.help"))
def version() -> None:
    _say(__version__)


# ---------------------------------------------------------------- entry


def _os_message(error: OSError) -> Message:
    import errno

    known = {
        errno.ENOSPC: "cli.disk_full",
        errno.EROFS: "cli.read_only",
        errno.EACCES: "cli.no_permission",
        errno.EPERM: "cli.no_permission",
    }
    values = {"path": str(error.filename or "-"), "reason": error.strerror or str(error)}
    return Message(id=known.get(error.errno or 0, "cli.os_error"), values=values)


def _missing_extra(error: ImportError) -> str:
    return _t("cli.missing_extra", module=error.name or str(error))


def main() -> None:
    """Entry point: runs the command and turns every problem into one message and an exit code."""
    for name in ("PROJ_DATA", "PROJ_LIB"):  # they break rasterio's own PROJ
        os.environ.pop(name, None)
    if _lang not in LANGUAGES:
        typer.echo(render("cli.unknown_language", {"found": _lang}, "en"), err=True)
        sys.exit(EXIT_USAGE)
    try:
        code = app(standalone_mode=False, prog_name="geoevidence")
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        typer.echo(_t("cli.interrupted"), err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        typer.echo(_t("cli.interrupted"), err=True)
        sys.exit(130)
    except GeoEvidenceError as error:
        typer.echo(error.render(_HELP_LANG), err=True)
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_DATA)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_DATA)
    except OSError as error:
        typer.echo(_os_message(error).render(_HELP_LANG), err=True)
        sys.exit(EXIT_DATA)
    except ImportError as error:
        typer.echo(_missing_extra(error), err=True)
        sys.exit(EXIT_FAULT)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(
            error, "format_message"
        ):  # click's usage errors, whichever click typer carries
            error.show()  # type: ignore[attr-defined]
            sys.exit(EXIT_USAGE)
        handle, path = tempfile.mkstemp(prefix="geoevidence-fault-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            traceback.print_exc(file=stream)
        typer.echo(_t("cli.fault", error=f"{type(error).__name__}: {error}", path=path), err=True)
        sys.exit(EXIT_FAULT)


if __name__ == "__main__":
    main()
