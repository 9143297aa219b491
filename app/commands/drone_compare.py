"""Commands `drone compare` (two dates of one place) and `drone challenge` (somebody else's figure beside ours).

`compare` works on surveys of a case, or on folders outside custody; what it leaves names its inputs by digest. `challenge` leaves
nothing. No science here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import DEFAULT_WORKSPACE, LANG, Json, LangOption, Workspace, emit, open_case, show_progress, text_of
from app.commands.drone_check import drone_app
from app.commands.engines import OptionalCase, OutFolder, emit_result, ingest_one, one_target
from geoevidence.errors import ConfigError, InputError


@drone_app.command("compare", help=text_of("cli.drone.compare.help"))
def drone_compare(
    before: Annotated[str, typer.Argument(help=text_of("cli.drone.before"))],
    after: Annotated[str, typer.Argument(help=text_of("cli.drone.after"))],
    case: OptionalCase = None,
    out: OutFolder = None,
    polygon: Annotated[Path | None, typer.Option("--polygon", help=text_of("cli.drone.compare_polygon"))] = None,
    boundary_sd: Annotated[float | None, typer.Option("--boundary-sd", help=text_of("cli.drone.boundary_sd"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from drone import compare_case, compare_surveys

    one_target(case, out)
    with show_progress() as progress:
        if out is not None:
            result = compare_surveys(
                Path(before), Path(after), out=out, polygon=polygon, boundary_sd=boundary_sd, progress=progress
            )
            where = str(out)
        else:
            opened = open_case(workspace, case or "")
            surveys = {each.event.event_id: each for each in opened.results() if each.result.process == "drone.survey"}
            for event in (before, after):
                if event not in surveys:
                    raise InputError("cli.no_such_survey", event=event, known=", ".join(surveys) or "-")
            drawn = None if polygon is None else ingest_one(opened, polygon, progress)
            stored = compare_case(
                opened, surveys[before], surveys[after], polygon=drawn, boundary_sd=boundary_sd, progress=progress
            )
            result, where = stored.result, stored.event.event_id
    emit_result(as_json, result, where, in_custody=out is None)


@drone_app.command("challenge", help=text_of("cli.drone.challenge.help"))
def drone_challenge(
    survey_folder: Annotated[Path, typer.Option("--survey", help=text_of("cli.drone.challenge_survey"))],
    polygon: Annotated[Path | None, typer.Option("--polygon", help=text_of("cli.drone.challenge_polygon"))] = None,
    base: Annotated[str, typer.Option("--base", help=text_of("cli.drone.base"))] = "rim",
    claim: Annotated[Path | None, typer.Option("--claim", help=text_of("cli.drone.claim"))] = None,
    claim_value: Annotated[float | None, typer.Option("--claim-value", help=text_of("cli.drone.claim_value"))] = None,
    claim_kind: Annotated[str | None, typer.Option("--claim-kind", help=text_of("cli.drone.claim_kind"))] = None,
    claim_sd: Annotated[float | None, typer.Option("--claim-sd", help=text_of("cli.drone.claim_sd"))] = None,
    claim_polygon: Annotated[Path | None, typer.Option("--claim-polygon", help=text_of("cli.drone.claim_polygon"))] = None,
    claim_base: Annotated[str | None, typer.Option("--claim-base", help=text_of("cli.drone.claim_base"))] = None,
    claim_survey: Annotated[Path | None, typer.Option("--claim-survey", help=text_of("cli.drone.claim_survey"))] = None,
    claim_crs: Annotated[str | None, typer.Option("--claim-crs", help=text_of("cli.drone.claim_crs"))] = None,
    claim_area_on: Annotated[str | None, typer.Option("--claim-area-on", help=text_of("cli.drone.claim_area_on"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from drone import challenge_files, claim_of, read_claim

    options: dict[str, Any] = {
        "value": claim_value,
        "kind": claim_kind,
        "standard_uncertainty": claim_sd,
        "polygon": None if claim_polygon is None else str(claim_polygon.absolute()),
        "base": claim_base,
        "survey": None if claim_survey is None else str(claim_survey.absolute()),
        "read_as": claim_crs,
        "area_on": claim_area_on,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if (claim is None) == (not given) or (claim is None and not {"value", "kind"} <= set(given)):
        raise ConfigError("cli.drone.claim_or_options")
    stated = read_claim(claim) if claim is not None else claim_of(given, where="--claim-…", folder=Path())
    found = challenge_files(survey_folder, stated, polygon=polygon, base=base)
    emit(as_json, found.to_dict(), found.lines(LANG))
