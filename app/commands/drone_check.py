"""The command `drone check`: whether a flight is good enough, said in the field.

In: a folder of photos, perhaps the area that was to be flown. Out: the sentence with its reasons, or JSON, on stdout; with `--out` a record,
a map and footprints. Exit code 0 good, 1 fly again, 2 cannot tell. No science here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands import EXIT_DATA, LANG, Json, LangOption, emit, rendered, show_progress, text_of
from app.commands.engines import drone_app

_EXIT = {"good": 0, "again": EXIT_DATA, "cannot_tell": 2}


@drone_app.command("check", help=text_of("cli.drone.check.help"))
def drone_check(
    flight: Annotated[Path, typer.Argument(help=text_of("cli.drone.flight"))],
    area: Annotated[Path | None, typer.Option("--area", help=text_of("cli.drone.area"))] = None,
    height: Annotated[float | None, typer.Option("--height", help=text_of("cli.drone.height"))] = None,
    rtk: Annotated[bool, typer.Option("--rtk", help=text_of("cli.drone.rtk"))] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.option.out"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from drone import GateConfig, check_flight, summary_lines, write_check

    with show_progress() as progress:
        check = check_flight(flight, area=area, config=GateConfig(height_above_ground=height, require_rtk=rtk), progress=progress)
        names = write_check(check, out, lang=LANG) if out is not None else ()
    lines = summary_lines(check, rendered)
    if out is not None:
        lines.append(text_of("cli.drone.written", where=str(out), names=", ".join(names)))
    emit(as_json, check.to_dict(), lines)
    raise typer.Exit(_EXIT[check.verdict])
