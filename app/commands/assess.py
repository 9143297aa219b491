"""Commands of `satellite assess`: draw a sample of a change map, make the form to look at it, estimate from the answers.

They work on folders and files outside custody; the sample names the map by digest. No science here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands import LANG, Json, LangOption, emit, group, show_progress, text_of
from geoevidence.errors import ConfigError

assess_app = group("cli.assess.help")

SampleArgument = Annotated[Path, typer.Argument(help=text_of("cli.assess.sample_file"))]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.assess.out"))]


@assess_app.command("sample", help=text_of("cli.assess.sample.help"))
def sample(
    result: Annotated[Path, typer.Argument(help=text_of("cli.assess.result"))],
    out: OutFolder,
    seed: Annotated[int, typer.Option("--seed", help=text_of("cli.assess.seed"))],
    points: Annotated[int | None, typer.Option("--points", "-n", help=text_of("cli.assess.points"))] = None,
    target_se: Annotated[float | None, typer.Option("--target-se", help=text_of("cli.assess.target_se"))] = None,
    allocation: Annotated[str | None, typer.Option("--allocation", help=text_of("cli.assess.allocation"))] = None,
    min_points: Annotated[int | None, typer.Option("--min-points", help=text_of("cli.assess.min_points"))] = None,
    undecided_points: Annotated[
        int | None, typer.Option("--undecided-points", help=text_of("cli.assess.undecided_points"))
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help=text_of("cli.option.config"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import SampleConfig, design_sample

    if points is not None and target_se is not None:
        raise ConfigError("cli.assess.points_or_target")
    asked = {
        "points": points,
        "target_se": target_se,
        "allocation": allocation,
        "min_points": min_points,
        "undecided_points": undecided_points,
    }
    settings = SampleConfig.read(config) if config else SampleConfig()
    settings = settings.replace(**{name: value for name, value in asked.items() if value is not None})
    drawn = design_sample(result, seed=seed, config=settings)
    drawn.write(out)
    record = {"where": str(out), "digest": drawn.digest, "points": len(drawn.points), "strata": drawn.strata_record()}
    place = text_of("cli.assess.sampled", points=len(drawn.points), where=out)
    emit(as_json, record, [*drawn.lines(LANG), place, text_of("cli.assess.blind")])


@assess_app.command("form", help=text_of("cli.assess.form.help"))
def form(
    sample_file: SampleArgument,
    scenes: Annotated[Path, typer.Option("--scenes", help=text_of("cli.assess.scenes"))],
    out: Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.assess.form_out"))] = None,
    sheets: Annotated[Path | None, typer.Option("--sheets", help=text_of("cli.assess.sheets"))] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help=text_of("cli.assess.reveal"))] = False,
    differing: Annotated[list[Path] | None, typer.Option("--differing", help=text_of("cli.assess.differing"))] = None,
    pictures: Annotated[int | None, typer.Option("--pictures", help=text_of("cli.assess.pictures"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import FormConfig, contact_sheet, read_responses, read_sample, read_scenes, stated_options, write_form

    if out is None and sheets is None:
        raise ConfigError("cli.assess.form_or_sheets")
    if reveal and sheets is None:
        raise ConfigError("cli.assess.reveal_sheets")
    drawn = read_sample(sample_file)
    answers = [read_responses(path, drawn) for path in differing or ()]
    if len(answers) == 1:
        raise ConfigError("cli.assess.differing_two")
    stack = read_scenes(scenes, stated_options(drawn))
    settings = FormConfig() if pictures is None else FormConfig(pictures=pictures)
    lines, written = [], []
    with show_progress() as progress:
        if out is not None:
            count = write_form(drawn, stack, out, config=settings, differing=answers, lang=LANG, progress=progress)
            lines.append(text_of("cli.assess.form_written", path=out, points=count))
            written.append(str(out))
        if sheets is not None:
            pages = contact_sheet(drawn, stack, sheets, reveal=reveal, config=settings, lang=LANG, progress=progress)
            lines.append(text_of("cli.assess.sheets_written", path=sheets, pages=len(pages)))
            written += [str(page) for page in pages]
    emit(as_json, {"written": written, "sample": drawn.digest}, lines)


@assess_app.command("estimate", help=text_of("cli.assess.estimate.help"))
def estimate(
    sample_file: SampleArgument,
    responses: Annotated[list[Path], typer.Option("--responses", "-r", help=text_of("cli.assess.responses"))],
    out: OutFolder,
    settled: Annotated[Path | None, typer.Option("--settled", help=text_of("cli.assess.settled"))] = None,
    listed_only: Annotated[bool, typer.Option("--listed-only", help=text_of("cli.assess.listed_only"))] = False,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import AssessmentConfig, estimate_accuracy, read_responses, read_sample

    drawn = read_sample(sample_file)
    answers = [read_responses(path, drawn) for path in responses]
    assessment = estimate_accuracy(
        drawn,
        answers,
        adjudicated=None if settled is None else read_responses(settled, drawn),
        config=AssessmentConfig(listed_only=listed_only),
    )
    assessment.write(out)
    emit(as_json, assessment.to_dict(), [*assessment.lines(LANG), text_of("cli.assess.estimated", where=out)])
