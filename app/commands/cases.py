"""Commands for cases and what goes into them: `init`, `ingest`, `inspect`, `case ...`.

They make a workspace and its cases, copy cards and folders into custody, look at files from outside, show what a case holds
and hand a field device's case over to the server. What was copied is never changed here, and no pixel is interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import (
    DEFAULT_WORKSPACE,
    CaseOption,
    Json,
    LangOption,
    Workspace,
    emit,
    finding_lines,
    group,
    open_case,
    rendered,
    show_progress,
    text_of,
)
from geoevidence.types import utc_text

case_app = group("cli.case.help")


def init(
    folder: Annotated[Path, typer.Argument(help=text_of("cli.init.folder"))] = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import create_workspace

    workspace = create_workspace(folder)
    emit(
        as_json,
        {"workspace": str(workspace.path), "id": workspace.id},
        [text_of("cli.init.done", path=workspace.path, id=workspace.id)],
    )


def ingest(
    source: Annotated[Path, typer.Argument(help=text_of("cli.ingest.source"))],
    case: CaseOption,
    label: Annotated[str, typer.Option("--label", help=text_of("cli.ingest.label"))] = "",
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    with show_progress() as progress:
        done = open_case(workspace, case).ingest(source, label=label, progress=progress)
    record = {
        "event_id": None if done.event is None else done.event.event_id,
        "items": [
            {"id": item.id, "path": item.path, "sha256": item.sha256, "sm3": item.sm3, "size": item.size} for item in done.items
        ],
        "already_present": [str(path) for path in done.already_present],
        "skipped": {name: rendered(reason) for name, reason in done.skipped.items()},
        "inspected": _inspected(done.inspected),
        "receipt_json": None if done.receipt_json is None else str(done.receipt_json),
        "receipt_html": None if done.receipt_html is None else str(done.receipt_html),
        "short_code": done.short_code,
        "manifest_sha256": done.manifest_sha256,
    }
    lines = [text_of("cli.ingest.done", new=len(done.items), old=len(done.already_present))]
    lines += [f"{text_of('cli.gap')}: {name}: {rendered(reason)}" for name, reason in done.skipped.items()]
    lines += [text_of("cli.ingest.inspected", name=name, text=rendered(found.reason)) for name, found in done.inspected.items()]
    if done.receipt_html is not None:
        lines.append(text_of("cli.ingest.receipt", code=done.short_code, path=done.receipt_html))
    emit(as_json, record, lines)


def _inspected(found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the structure of new files shows, by name, for machines."""
    return {
        name: {"verdict": each.verdict, "reason": each.reason.id.removeprefix("custody.inspect."), "text": rendered(each.reason)}
        for name, each in found.items()
    }


def inspect(
    paths: Annotated[list[Path], typer.Argument(help=text_of("cli.inspect.paths"))], lang: LangOption = "", as_json: Json = False
) -> None:
    from geoevidence.custody import inspect_path

    worst = 0
    for path in paths:
        for found in inspect_path(path):
            text = rendered(found.reason)
            flags = [{"reason": flag.id, "text": rendered(flag), "values": dict(flag.values)} for flag in found.flags]
            record = {
                "path": str(found.path).encode("utf-8", "backslashreplace").decode(),
                "verdict": found.verdict,
                "reason": found.reason.id,
                "text": text,
                "values": dict(found.reason.values),
                "flags": flags,
                "details": dict(found.details),
            }
            lines = [f"{text_of('cli.inspect.' + found.verdict)}  {record['path']}  {text}"]
            lines += [f"    {flag['text']}" for flag in flags if flag["reason"] != found.reason.id]
            emit(as_json, record, lines)
            worst = max(worst, 1 if found.verdict == "reject" else 0)
    raise typer.Exit(worst)


@case_app.command("new", help=text_of("cli.case.new.help"))
def case_new(
    number: Annotated[str, typer.Argument(help=text_of("cli.case.number"))],
    fields: Annotated[Path | None, typer.Option("--fields", help=text_of("cli.case.fields"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import open_workspace
    from geoevidence.custody import read_case_toml

    values = read_case_toml(fields) if fields else {}
    made = open_workspace(workspace).new_case(number, fields=values)
    emit(as_json, {"case": made.id, "number": made.number}, [text_of("cli.case.new.done", number=made.number, id=made.id)])


@case_app.command("set", help=text_of("cli.case.set.help"))
def case_set(
    fields: Annotated[Path, typer.Argument(help=text_of("cli.case.fields"))],
    case: CaseOption,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.custody import read_case_toml

    opened = open_case(workspace, case)
    opened.set_sheet({**opened.sheet, **read_case_toml(fields)})
    emit(as_json, {"case": opened.id, "fields": dict(opened.sheet)}, [text_of("cli.case.set.done", n=len(opened.sheet))])


@case_app.command("template", help=text_of("cli.case.template.help"))
def case_template(lang: LangOption = "") -> None:
    from geoevidence.custody import case_template_text

    typer.echo(case_template_text(), nl=False)


@case_app.command("list", help=text_of("cli.case.list.help"))
def case_list(workspace: Workspace = DEFAULT_WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    from app.tools import open_workspace

    for found in open_workspace(workspace).cases():
        emit(as_json, {"case": found.id, "number": found.number}, [f"{found.id}  {found.number}"])


@case_app.command("show", help=text_of("cli.case.show.help"))
def case_show(case: CaseOption, workspace: Workspace = DEFAULT_WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    from geoevidence.custody import CASE_FIELDS

    opened = open_case(workspace, case)
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
    empty = text_of("cli.case.empty_field")
    lines = [f"{opened.id}  {opened.number}" + (f"  【{text_of('core.synthetic')}】" if opened.demonstration else "")]
    lines += [f"  {text_of('case.field.' + name)}: {opened.sheet.get(name) or empty}" for name in CASE_FIELDS]
    lines += [
        text_of("cli.case.counts", items=record["items"], events=record["events"], findings=len(findings)),
        *finding_lines(findings),
    ]
    emit(as_json, record, lines)


@case_app.command("items", help=text_of("cli.case.items.help"))
def case_items(case: CaseOption, workspace: Workspace = DEFAULT_WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    for item in open_case(workspace, case).items():
        record = {
            "id": item.id,
            "path": item.path,
            "role": item.role,
            "sha256": item.sha256,
            "sm3": item.sm3,
            "size": item.size,
            "media_type": item.media_type,
        }
        emit(as_json, record, [f"{item.id}  {item.size:>12,} B  sha256:{item.sha256[:16]}…  {item.path}"])


@case_app.command("log", help=text_of("cli.case.log.help"))
def case_log(case: CaseOption, workspace: Workspace = DEFAULT_WORKSPACE, lang: LangOption = "", as_json: Json = False) -> None:
    for event in open_case(workspace, case).events():
        record = {
            "index": event.index,
            "event_id": event.event_id,
            "type": event.type,
            "time_claimed": utc_text(event.time_claimed),
            "actor": event.actor_id or text_of("cli.case.withheld"),
            "leaf_hash": event.leaf_hash,
            "inputs": len(event.inputs),
            "outputs": len(event.outputs),
        }
        line = text_of("cli.case.log.line", **{**record, "type": text_of(f"custody.event.{event.type}")})
        emit(as_json, record, [line])


@case_app.command("export", help=text_of("cli.case.export.help"))
def case_export(
    case: Annotated[str, typer.Argument(help=text_of("cli.option.case"))],
    out: Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.option.out_file"))],
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    opened = open_case(workspace, case)
    with show_progress() as progress:
        made = opened.hand_over(out, progress=progress)
    record = {"path": str(made.path), "origin": made.origin, "tree_size": made.tree_size, "root": made.root, "files": made.files}
    emit(as_json, record, [text_of("cli.case.export.done", **{**record, "size": f"{made.size:,}"})])


@case_app.command("import", help=text_of("cli.case.import.help"))
def case_import(
    source: Annotated[Path, typer.Argument(help=text_of("cli.case.import.source"))],
    case: CaseOption,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    opened = open_case(workspace, case)
    with show_progress() as progress:
        taken = opened.absorb(source, progress=progress)
    record = {
        "events": [event.event_id for event in taken.events],
        "origin": taken.origin,
        "tree_size": taken.tree_size,
        "root": taken.root,
        "files": taken.files,
        "inspected": _inspected(taken.inspected),
        "keys": [{"key_id": each.key.key_id, "algorithm": each.key.algorithm, "label": each.label} for each in taken.keys],
    }
    lines = [
        text_of("cli.case.import.done" if taken.events else "cli.case.import.nothing", **{**record, "events": len(taken.events)})
    ]
    lines += [text_of("cli.case.import.key", **each) for each in record["keys"]]
    lines += [text_of("cli.ingest.inspected", name=path, text=rendered(found.reason)) for path, found in taken.inspected.items()]
    emit(as_json, record, lines)
