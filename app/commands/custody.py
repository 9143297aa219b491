"""Commands that keep custody checkable: `custody ...`, `tsa ...`, `witness ...`.

They read the store again and compare it with the log, fetch evidence of time over the network or by files carried by hand,
and run this machine as a local time-stamp authority (for demonstrations) or as a witness of the logs of others.
A scrub repairs nothing; evidence that could not be had is named and stays owed.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.commands import (
    DEFAULT_WORKSPACE,
    EXIT_DATA,
    CaseOption,
    Json,
    LangOption,
    Workspace,
    emit,
    group,
    rendered,
    show_progress,
    text_of,
    write_new,
)
from geoevidence.errors import ConfigError

custody_app = group("cli.custody.help")
tsa_app, witness_app = group("cli.tsa.help"), group("cli.witness.help")

TsaFolder = Annotated[Path, typer.Option("--folder", "-f", help=text_of("cli.tsa.folder"))]
WitnessFolder = Annotated[Path, typer.Option("--folder", "-f", help=text_of("cli.witness.folder"))]
OutFile = Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.option.out_file"))]


@custody_app.command("scrub", help=text_of("cli.custody.scrub.help"))
def custody_scrub(
    case: Annotated[str | None, typer.Option("--case", "-c", help=text_of("cli.custody.scrub.case"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import open_workspace

    with show_progress() as progress:
        found = open_workspace(workspace).scrub(case=case, progress=progress)
    record = found.to_dict()
    lines = []
    for defect, row in zip(found.defects, record["defects"], strict=True):
        row["text"] = rendered(defect.message)
        lines.append(f"{text_of('cli.custody.scrub.kind.' + defect.kind)}  {defect.path}  {row['text']}")
        lines += [text_of("cli.custody.scrub.item", **item.to_dict()) for item in defect.items]
    outcome = "clean_case" if found.status == "clean" and not found.whole else found.status
    values = {"objects": found.objects, "intact": found.intact, "size": f"{found.size:,}", "defects": len(found.defects)}
    emit(as_json, record, [*lines, text_of(f"cli.custody.scrub.{outcome}", **values)])
    raise typer.Exit({"clean": 0, "damaged": 1, "incomplete": 2}[found.status])


@custody_app.command("anchor", help=text_of("cli.custody.anchor.help"))
def custody_anchor(
    case: Annotated[str | None, typer.Option("--case", "-c", help=text_of("cli.custody.anchor.case"))] = None,
    tsa: Annotated[list[str] | None, typer.Option("--tsa", help=text_of("cli.custody.anchor.tsa"))] = None,
    witness: Annotated[list[str] | None, typer.Option("--witness", help=text_of("cli.custody.anchor.witness"))] = None,
    renew: Annotated[bool, typer.Option("--renew", help=text_of("cli.custody.anchor.renew"))] = False,
    answer: Annotated[Path | None, typer.Option("--answer", help=text_of("cli.custody.anchor.answer"))] = None,
    witness_key: Annotated[
        list[str] | None, typer.Option("--witness-key", help=text_of("cli.custody.anchor.witness_key"))
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import open_workspace, pending_evidence, time_sources
    from geoevidence.custody import anchor_case, known_witness_keys, read_log_keys, take_answer

    opened = open_workspace(workspace)
    pending = pending_evidence(opened)
    waiting = [each.id for each in opened.cases() if any(not owed.by_file for owed in pending.entries(each.id))]
    cases = [opened.case(name) for name in ([case] if case else waiting)]
    if answer is not None:
        if case is None:
            raise ConfigError("cli.custody.anchor.which_case")
        keys = [key for words in witness_key or () for key in read_log_keys(words)]
        keys += known_witness_keys(cases[0])
        results = [take_answer(cases[0], pending, answer.read_bytes(), where=str(answer), keys=keys)]
    else:
        sources = time_sources(opened, time_stamps=tsa or (), witnesses=witness or ())
        results = [anchor_case(each, sources, pending, renew=renew) for each in cases]
    for found, result in zip(cases, results, strict=True):
        missing = [{"source": name, "text": rendered(reason)} for name, reason in result.missing]
        record = {
            "case": found.id,
            "event_id": None if result.event is None else result.event.event_id,
            "times": list(result.times),
            "missing": missing,
        }
        emit(as_json, record, [rendered(result.message), *(f"{text_of('cli.gap')}: {each['text']}" for each in missing)])
    if not results:
        emit(as_json, {}, [text_of("cli.custody.anchor.nothing")])
    raise typer.Exit(0 if all(result.complete for result in results) else 2)


@tsa_app.command("init", help=text_of("cli.tsa.init.help"))
def tsa_init(
    folder: Annotated[Path, typer.Argument(help=text_of("cli.tsa.folder"))],
    label: Annotated[str, typer.Option("--label", help=text_of("cli.tsa.init.label"))] = "demonstration",
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from datetime import UTC, datetime

    from geoevidence.custody import LocalTsa

    LocalTsa.create(folder, label=label, now=lambda: datetime.now(UTC))
    root = folder / "root.pem"
    emit(as_json, {"folder": str(folder), "root": str(root)}, [text_of("cli.tsa.init.done", folder=folder, root=root)])


@tsa_app.command("request", help=text_of("cli.tsa.request.help"))
def tsa_request(
    case: CaseOption, out: OutFile, workspace: Workspace = DEFAULT_WORKSPACE, lang: LangOption = "", as_json: Json = False
) -> None:
    from app.tools import open_workspace, pending_evidence
    from geoevidence.custody import time_stamp_request

    opened = open_workspace(workspace)
    write_new(out, time_stamp_request(opened.case(case), pending_evidence(opened)))
    emit(as_json, {"path": str(out)}, [text_of("cli.tsa.request.done", path=out, case=case)])


@tsa_app.command("reply", help=text_of("cli.tsa.reply.help"))
def tsa_reply(
    request: Annotated[Path, typer.Argument(help=text_of("cli.tsa.reply.request"))],
    out: OutFile,
    folder: TsaFolder = Path("tsa"),
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from datetime import UTC, datetime

    from geoevidence.custody import LocalTsa

    write_new(out, LocalTsa(folder, now=lambda: datetime.now(UTC)).reply(request.read_bytes()))
    emit(as_json, {"path": str(out)}, [text_of("cli.tsa.reply.done", path=out)])


@witness_app.command("init", help=text_of("cli.witness.init.help"))
def witness_init(
    folder: Annotated[Path, typer.Argument(help=text_of("cli.witness.folder"))] = Path("witness"),
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import make_witness

    made = make_witness(folder)
    record = {"folder": str(folder), "verifier_key": made.key.text}
    emit(as_json, record, [text_of("cli.witness.init.done", folder=folder, key=made.key.text)])


@witness_app.command("allow", help=text_of("cli.witness.allow.help"))
def witness_allow(
    origin: Annotated[str, typer.Argument(help=text_of("cli.witness.allow.origin"))],
    key: Annotated[str, typer.Argument(help=text_of("cli.witness.allow.key"))],
    folder: WitnessFolder = Path("witness"),
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import open_witness
    from geoevidence.custody import read_log_keys

    opened = open_witness(folder)
    for each in read_log_keys(key):
        opened.allow(origin, each)
    allowed = [{"origin": name, "key": text} for name, text in opened.allowed()]
    emit(as_json, {"allowed": allowed}, [text_of("cli.witness.allow.done", count=len(allowed))])


@witness_app.command("key", help=text_of("cli.witness.key.help"))
def witness_key(folder: WitnessFolder = Path("witness"), lang: LangOption = "", as_json: Json = False) -> None:
    from app.tools import open_witness

    found = open_witness(folder).key
    record = {
        "algorithm": found.key.algorithm,
        "key_id": found.key.key_id,
        "public_key": base64.b64encode(found.key.raw).decode("ascii"),
        "verifier_key": found.text,
    }
    emit(as_json, record, [found.text, text_of("cli.witness.key.id", key_id=found.key.key_id, public_key=record["public_key"])])


@witness_app.command("request", help=text_of("cli.witness.request.help"))
def witness_request(
    case: CaseOption,
    out: OutFile,
    witness_size: Annotated[int, typer.Option("--witness-size", min=0, help=text_of("cli.witness.request.size"))] = 0,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import open_workspace, pending_evidence
    from geoevidence.custody import WitnessKey
    from geoevidence.custody import witness_request as build

    opened = open_workspace(workspace)
    found = opened.case(case)
    write_new(out, build(found, pending_evidence(opened), witness_size=witness_size))
    key = WitnessKey.of_log(found.session.signer.note_signer.public_key).text
    record = {"path": str(out), "origin": found.origin, "verifier_key": key}
    emit(as_json, record, [text_of("cli.witness.request.done", path=out, case=case, origin=found.origin, key=key)])


@witness_app.command("sign", help=text_of("cli.witness.sign.help"))
def witness_sign(
    request: Annotated[Path, typer.Argument(help=text_of("cli.witness.sign.request"))],
    out: OutFile,
    folder: WitnessFolder = Path("witness"),
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import open_witness

    answer = open_witness(folder).add_checkpoint(request.read_bytes())
    text = answer.body.decode("utf-8").strip()
    record = {"status": answer.status, "text": text}
    if answer.status == 200:
        write_new(out, answer.body)
        emit(as_json, {**record, "path": str(out)}, [text_of("cli.witness.sign.done", path=out)])
        return
    told = "cli.witness.sign.size" if answer.status == 409 else "cli.witness.sign.refused"
    emit(as_json, record, [text_of(told, status=answer.status, text=text)])
    raise typer.Exit(EXIT_DATA)


@witness_app.command("serve", help=text_of("cli.witness.serve.help"))
def witness_serve(
    folder: WitnessFolder = Path("witness"),
    host: Annotated[str, typer.Option("--host", help=text_of("cli.serve.host"))] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help=text_of("cli.serve.port"))] = 8901,
    lang: LangOption = "",
) -> None:
    from app.tools import open_witness
    from app.witness_server import WitnessServer

    opened = open_witness(folder)
    with WitnessServer(opened, (host, port)) as server:
        typer.echo(text_of("cli.witness.serve.ready", host=host, port=server.server_address[1], key=opened.key.text))
        sys.stdout.flush()
        server.serve_forever()
