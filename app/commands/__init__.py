"""What the commands share: the language of the run, the options that several take, how results and progress are printed.

In: the words of the command line (for `--lang`), GEOEVIDENCE_LANG, the locale. Out: texts in LANG, lines or JSON on stdout,
progress on stderr. Each module beside this one holds the commands of a few groups: parse, call one public function, print.
They raise the errors of geoevidence.errors; only `app.cli` turns an error into a message and an exit code. What a command
alone needs (engines, report, screens) loads inside that command, so that the others start fast and run on a bare install.
"""

from __future__ import annotations

import json
import locale
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from geoevidence.errors import GeoEvidenceError, InputError
from geoevidence.messages import render
from geoevidence.types import Finding, Lang, Message, Progress

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


ASKED_LANG = _language(sys.argv[1:])
LANG: Lang = "zh" if ASKED_LANG == "zh" else "en"


def text_of(message_id: str, **values: Any) -> str:
    """The text of that id in the language of the run."""
    return render(message_id, values, LANG)


def rendered(message: Message | GeoEvidenceError) -> str:
    """A message, or what an error says, in the language of the run."""
    return message.render(LANG)


def group(message_id: str) -> typer.Typer:
    """A command that only holds commands; alone it prints its help, which begins with the text of that id."""
    return typer.Typer(help=text_of(message_id), no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


Workspace = Annotated[
    Path,
    typer.Option("--workspace", "-w", envvar="GEOEVIDENCE_WORKSPACE", help=text_of("cli.option.workspace"), show_default=True),
]
LangOption = Annotated[str, typer.Option("--lang", help=text_of("cli.option.lang"), show_default=False)]
Json = Annotated[bool, typer.Option("--json", help=text_of("cli.option.json"))]
CaseOption = Annotated[str, typer.Option("--case", "-c", help=text_of("cli.option.case"))]
DEFAULT_WORKSPACE = Path("workspace")


def emit(as_json: bool, record: Mapping[str, Any], lines: list[str]) -> None:
    """Print one result on stdout: the record as one line of JSON, or the lines for people."""
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, sort_keys=True))
    else:
        for line in lines:
            typer.echo(line)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar on a terminal; otherwise each stage is named once, on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        seen: list[str] = []

        def name_stage(stage: str, fraction: float) -> None:
            if not seen or seen[-1] != stage:
                seen.append(stage)
                console.print(f"  {text_of(stage)} ...", highlight=False, markup=False)

        yield name_stage
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task("", total=1.0)

        def show(stage: str, fraction: float) -> None:
            bars.update(task, description=text_of(stage), completed=min(max(fraction, 0.0), 1.0))

        yield show


def finding_lines(findings: tuple[Finding, ...]) -> list[str]:
    """Each finding with its limits; limits that all share stand once, at the end."""
    limits = [[rendered(limit) for limit in finding.limitations] for finding in findings]
    shared = [text for text in limits[0] if all(text in each for each in limits)] if len(findings) > 1 else []
    lines = []
    for finding, own in zip(findings, limits, strict=True):
        mark = f"【{text_of('core.synthetic')}】" if finding.synthetic else ""
        lines.append(f"{finding.id} {mark}{rendered(finding.message)}")
        lines += [f"    {rendered(fact)}" for fact in finding.facts]
        lines += [f"    {text_of('cli.limit')}: {text}" for text in own if text not in shared]
    return lines + [f"{text_of('cli.limit_shared')}: {text}" for text in shared]


def open_case(workspace: Path, case: str) -> Any:
    """The case of that id or number in the workspace at that path. Raises CustodyError when there is none."""
    from app.tools import open_workspace

    return open_workspace(workspace).case(case)


def write_new(target: Path, data: bytes) -> None:
    """Write `data` as a new file, with its folders. Raises InputError when there is such a file already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as stream:
            stream.write(data)
    except FileExistsError as error:
        raise InputError("cli.target_exists", path=target) from error
