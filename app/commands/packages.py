"""Commands for what leaves the house: `report`, `package ...`, `verify`, `recompute`.

They take the report into custody, seal, supplement, redact and compare packages, and check or compute again what a package
states. A package is never changed: a supplement, a redacted copy and a record of recomputing are files of their own.
`verify` only calls the kernel's own command line, so that it and verify.pyz cannot say different things.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import (
    DEFAULT_WORKSPACE,
    EXIT_DATA,
    LANG,
    CaseOption,
    Json,
    LangOption,
    Workspace,
    emit,
    group,
    open_case,
    rendered,
    show_progress,
    text_of,
)
from geoevidence.errors import ConfigError, InputError, PackageError
from geoevidence.messages import LANGUAGES, render
from geoevidence.types import Message, ProcessResult

package_app = group("cli.package.help")


def report(
    case: CaseOption,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.report.out"))] = None,
    language: Annotated[str, typer.Option("--language", help=text_of("cli.report.language"))] = "zh",
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.report import report_case

    opened = open_case(workspace, case)
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
    emit(as_json, record, [text_of("cli.report.done", item=item.id, path=record["path"])])


def _copy_new(source: Path, target: Path) -> None:
    if target.exists():
        raise InputError("cli.target_exists", path=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(source.read_bytes())
    os.replace(part, target)


@package_app.command("seal", help=text_of("cli.package.seal.help"))
def package_seal(
    case: CaseOption,
    out: Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.package.out"))],
    tsa: Annotated[list[str] | None, typer.Option("--tsa", help=text_of("cli.package.tsa"))] = None,
    no_evidence: Annotated[bool, typer.Option("--no-evidence", help=text_of("cli.package.no_evidence"))] = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.engines import ENGINES
    from app.tools import open_workspace, time_sources
    from geoevidence.package import recomputing, seal_folder, seal_zip

    place = open_workspace(workspace)
    evidence = None if no_evidence else time_sources(place, time_stamps=tsa or ())
    seal, opened = seal_zip if _is_zip(out) else seal_folder, place.case(case)
    with show_progress() as progress:
        again = recomputing(opened, engines=ENGINES, progress=progress)
        sealed = seal(opened, out, evidence=evidence, recompute=again, progress=progress)
    record = {
        "path": str(sealed.path),
        "record": str(sealed.record),
        "package_root": sealed.package_root,
        "statement_sha256": sealed.statement_sha256,
        "short_code": sealed.short_code,
        "items": sealed.items,
        "size": sealed.size,
        "recomputed": sealed.recomputed,
        "time_stamps": sealed.time_stamps,
        "witnesses": sealed.witnesses,
        "evidence_missing": [{"source": name, "reason": rendered(why)} for name, why in sealed.evidence_missing],
    }
    lines = [text_of("cli.package.sealed", path=sealed.path, code=sealed.short_code, items=sealed.items)]
    lines += [text_of("cli.package.record", path=sealed.record)]
    lines += (
        [text_of("cli.package.recomputed", status=text_of("cli.recompute." + sealed.recomputed))] if sealed.recomputed else []
    )
    lines += [text_of("cli.package.evidence", stamps=sealed.time_stamps, witnesses=sealed.witnesses)] if evidence else []
    emit(as_json, record, [*lines, *_missing_lines(sealed.evidence_missing)])


def _is_zip(out: Path) -> bool:
    return out.suffix.lower() == ".zip"


def _missing_lines(missing: tuple[tuple[str, Message], ...]) -> list[str]:
    return [text_of("cli.package.evidence_missing", source=name, reason=rendered(why)) for name, why in missing]


@package_app.command("supplement", help=text_of("cli.package.supplement.help"))
def package_supplement(
    package: Annotated[Path, typer.Argument(help=text_of("cli.verify.package"))],
    text: Annotated[str, typer.Option("--text", help=text_of("cli.package.supplement.text"))],
    author: Annotated[str, typer.Option("--author", help=text_of("cli.package.supplement.author"))],
    out: Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.package.out"))],
    files: Annotated[list[Path] | None, typer.Argument(help=text_of("cli.package.supplement.files"))] = None,
    kind: Annotated[str, typer.Option("--kind", help=text_of("cli.package.supplement.kind"))] = "note",
    previous: Annotated[Path | None, typer.Option("--previous", help=text_of("cli.package.supplement.previous"))] = None,
    tsa: Annotated[list[str] | None, typer.Option("--tsa", help=text_of("cli.package.tsa"))] = None,
    broken_too: Annotated[bool, typer.Option("--broken-too", help=text_of("cli.package.supplement.broken_too"))] = False,
    archive: Annotated[bool, typer.Option("--zip", help=text_of("cli.package.supplement.zip"))] = False,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import local_session, stamp_sources
    from geoevidence.package import supplement_package

    with show_progress() as progress:
        made = supplement_package(
            package,
            out,
            session=local_session(),
            kind=kind,
            text=text,
            author=author,
            files=files or (),
            previous=previous,
            evidence=stamp_sources(tsa or ()),
            broken_too=broken_too,
            archive=archive or _is_zip(out),
            progress=progress,
        )
    record = {
        "path": str(made.path),
        "statement_sha256": made.statement_sha256,
        "kind": made.document.kind,
        "package_root": made.document.package_root,
        "package_verdicts": dict(made.package.verdicts),
        "package_exit_code": made.package.exit_code,
        "files": made.files,
        "size": made.size,
        "time_stamps": made.time_stamps,
        "evidence_missing": [{"source": name, "reason": rendered(why)} for name, why in made.evidence_missing],
    }
    lines = [_verdict_line(package, made.package.verdicts)]
    lines += [
        text_of(
            "cli.package.supplement.done", path=made.path, kind=text_of(f"cli.package.kind.{kind}"), sha256=made.statement_sha256
        )
    ]
    emit(as_json, record, [*lines, *_missing_lines(made.evidence_missing)])


def _verdict_line(package: Any, verdicts: Mapping[str, str]) -> str:
    shown = [f"{text_of('trust.verdict.' + name)} {text_of('trust.status.' + status)}" for name, status in verdicts.items()]
    return f"{package}: {'; '.join(shown)}"


@package_app.command("redact", help=text_of("cli.package.redact.help"))
def package_redact(
    package: Annotated[Path, typer.Argument(help=text_of("cli.verify.package"))],
    out: Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.package.out"))],
    reason: Annotated[str, typer.Option("--reason", help=text_of("cli.package.redact.reason"))],
    withhold: Annotated[list[str] | None, typer.Option("--withhold", help=text_of("cli.package.redact.withhold"))] = None,
    fields: Annotated[list[str] | None, typer.Option("--withhold-field", help=text_of("cli.package.redact.fields"))] = None,
    keep_log: Annotated[bool, typer.Option("--keep-log", help=text_of("cli.package.redact.keep_log"))] = False,
    withhold_mentions: Annotated[
        bool, typer.Option("--withhold-mentions", help=text_of("cli.package.redact.withhold_mentions"))
    ] = False,
    allow_mentions: Annotated[bool, typer.Option("--allow-mentions", help=text_of("cli.package.redact.allow_mentions"))] = False,
    case: Annotated[str | None, typer.Option("--case", "-c", help=text_of("cli.package.redact.case"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import local_session
    from geoevidence.package import RedactionRequest, redact_package

    request = RedactionRequest(
        withhold=tuple(withhold or ()),
        fields=tuple(fields or ()),
        keep_log=keep_log,
        withhold_mentions=withhold_mentions,
        allow_mentions=allow_mentions,
        reason=reason,
    )
    opened = None if case is None else open_case(workspace, case)
    session = local_session() if opened is None else opened.session
    with show_progress() as progress:
        made = redact_package(package, out, request, session=session, case=opened, archive=_is_zip(out), progress=progress)
    record = {
        "path": str(made.path),
        "package_root": made.package_root,
        "files_withheld": made.files_withheld,
        "leaves_withheld": made.leaves_withheld,
        "disclosures_withheld": made.disclosures_withheld,
        "withheld": list(made.withheld),
        "mentions": [{"path": each.path, "item": each.item, "what": each.what} for each in made.mentions],
        "not_searched": list(made.not_searched),
        "made_from": list(made.made_from),
        "event_id": None if made.event is None else made.event.event_id,
        "size": made.size,
    }
    counts = {name: record[name] for name in ("path", "files_withheld", "leaves_withheld", "disclosures_withheld")}
    lines = [text_of("cli.package.redact.done", **counts)]
    lines += [text_of("cli.package.redact.mention", path=each.path, what=each.what) for each in made.mentions]
    lines += [text_of("cli.package.redact.not_searched", name=name) for name in made.not_searched]
    if made.made_from:
        lines.append(text_of("cli.package.redact.made_from", count=len(made.made_from)))
        lines += [f"  {path}" for path in made.made_from]
    emit(as_json, record, lines)


@package_app.command("redact-item", help=text_of("cli.package.redact_item.help"))
def package_redact_item(
    item: Annotated[str, typer.Argument(help=text_of("cli.package.redact_item.item"))],
    case: CaseOption,
    blur: Annotated[list[str] | None, typer.Option("--blur", help=text_of("cli.package.redact_item.blur"))] = None,
    decimals: Annotated[int | None, typer.Option("--round", help=text_of("cli.package.redact_item.round"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.redaction import blur_item, round_item

    if (blur is None) == (decimals is None):
        raise ConfigError("cli.package.redact_item.one")
    opened = open_case(workspace, case)
    found = next((each for each in opened.items() if each.id == item), None)
    if found is None:
        raise InputError("cli.package.redact_item.unknown", item=item)
    if decimals is not None:
        stored = round_item(opened, found, decimals)
    else:
        stored = blur_item(opened, found, [_box(text) for text in blur or () if text != "whole"])
    made = next(each for name, each in stored.files.items() if name != ProcessResult.FILE)
    record = {"item": made.id, "path": made.path, "event_id": stored.event.event_id, "original": item}
    gaps = [f"{text_of('cli.gap')}: {rendered(gap)}" for gap in stored.result.gaps]
    emit(as_json, record, [text_of("cli.package.redact_item.done", item=made.id, path=made.path, original=item), *gaps])


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError("cli.package.redact_item.box", found=text) from error
    return x, y, width, height


@package_app.command("diff", help=text_of("cli.package.diff.help"))
def package_diff(
    a: Annotated[Path, typer.Argument(help=text_of("cli.package.diff.a"))],
    b: Annotated[Path, typer.Argument(help=text_of("cli.package.diff.b"))],
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.package import compare_packages

    with show_progress() as progress:
        found = compare_packages(a, b, progress=progress)
    lines = [text_of("cli.package.diff.same" if found.same else "cli.package.diff.differ")]
    for side in (found.a, found.b):
        lines.append(_verdict_line(side.path, side.verdicts))
        if side.kind == "redacted":
            shown = {"path": side.path, "files": side.files_withheld, "leaves": side.leaves_withheld, "reason": side.reason}
            lines.append(text_of("cli.package.diff.redacted", **shown))
    lines += [text_of("cli.package.diff.field", name=name, a=pair[0], b=pair[1]) for name, pair in found.statement.items()]
    lines += [text_of("cli.package.diff.key", side="A", key=key) for key in found.keys_a]
    lines += [text_of("cli.package.diff.key", side="B", key=key) for key in found.keys_b]
    log = {"common": found.log.common, "a": found.log.a_size, "b": found.log.b_size}
    lines.append(text_of(f"cli.package.diff.log.{found.log.relation}", **log))
    lines += [
        text_of(f"cli.package.diff.{each.change}", item=each.item or "-", path=each.path)
        for each in (*found.items, *found.documents)
    ]
    for change in found.findings:
        values = {"finding": change.finding, "a": _number_text(change.a), "b": _number_text(change.b)}
        lines.append(text_of(f"cli.package.diff.finding.{change.change}", **values))
    emit(as_json, found.to_dict(), lines)
    raise typer.Exit(0 if found.same else EXIT_DATA)


def _number_text(number: Mapping[str, Any] | None) -> str:
    if number is None:
        return "-"
    error = number["standard_uncertainty"]
    return f"{number['value']} {number['unit']} (u = {error or '-'}, k = {number['coverage_factor']})"


def verify(
    package: Annotated[Path, typer.Argument(help=text_of("cli.verify.package"))],
    trust: Annotated[Path | None, typer.Option("--trust", help=text_of("cli.verify.trust"))] = None,
    checkpoint: Annotated[list[Path] | None, typer.Option("--checkpoint", help=text_of("cli.verify.checkpoint"))] = None,
    code: Annotated[str, typer.Option("--code", help=text_of("cli.verify.code"))] = "",
    supplement: Annotated[list[Path] | None, typer.Option("--supplement", help=text_of("cli.verify.supplement"))] = None,
    of: Annotated[Path | None, typer.Option("--package", help=text_of("cli.verify.of"))] = None,
    slow: Annotated[bool, typer.Option("--slow", help=text_of("cli.verify.slow"))] = False,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.trust.__main__ import main as verify_main

    words = [str(package), "--lang", LANG]
    words += ["--trust", str(trust)] if trust else []
    words += [word for path in checkpoint or () for word in ("--checkpoint", str(path))]
    words += ["--code", code] if code else []
    words += [word for path in supplement or () for word in ("--supplement", str(path))]
    words += ["--package", str(of)] if of else []
    words += ["--slow"] if slow else []
    words += ["--json"] if as_json else []
    raise typer.Exit(verify_main(words))


def recompute(
    package: Annotated[Path, typer.Argument(help=text_of("cli.verify.package"))],
    full: Annotated[bool, typer.Option("--full", help=text_of("cli.recompute.full"))] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.recompute.out"))] = None,
    author: Annotated[str, typer.Option("--author", help=text_of("cli.package.supplement.author"))] = "",
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.engines import ENGINES
    from app.tools import local_session
    from geoevidence.package import recompute_package, sign_record, supplement_package

    session = local_session()
    target = out or package.with_name(f"{package.name}.recompute.zip")
    if os.path.lexists(target):  # said before the hours of work, not after
        raise PackageError("package.target_exists", path=target)
    with show_progress() as progress:
        record = recompute_package(
            package, engines=ENGINES, scope="full" if full else "headline", session=session, progress=progress
        )
        made = supplement_package(
            package,
            target,
            session=session,
            kind="recompute",
            text=text_of("cli.recompute.text"),
            author=author or session.actor.id,
            documents={"recompute.dsse": sign_record(record, session)},
            archive=_is_zip(target),
        )
    lines = []
    for result in record.results:
        reason = f"  {render(result.reason[0], dict(result.reason[1]), LANG)}" if result.reason else ""
        lines.append(f"{result.event}  {result.tool}  {text_of('cli.recompute.' + result.status)}{reason}")
        for row in result.quantities:
            values = {"stated": row.stated, "found": row.found or "-", "unit": row.unit, "tolerance": row.tolerance}
            lines.append(f"    {row.finding}  {text_of('cli.recompute.' + row.status)}  {text_of('cli.recompute.row', **values)}")
        lines += [
            f"    {row.path}  {text_of('cli.recompute.' + row.status)}  {row.detail}"
            for row in result.files
            if row.status != "identical"
        ]
    summary = {"status": record.status, "scope": record.scope, "path": str(made.path), "statement_sha256": made.statement_sha256}
    results = [result.to_dict() for result in record.results]
    emit(
        as_json,
        {**summary, "results": results},
        [*lines, text_of("cli.recompute.done", status=text_of("cli.recompute." + record.status), path=made.path)],
    )
    raise typer.Exit({"differs": 1, "not_run": 2}.get(record.status, 0))
