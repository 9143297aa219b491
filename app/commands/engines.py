"""Commands that run an engine: `drone ...` on photographs, `satellite ...` on scenes.

With `--case` the inputs are originals in custody and the result is recorded as a custody event; with `--out` the same
functions run on any folder, and the result says that it is outside custody. Never both. No science here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import (
    DEFAULT_WORKSPACE,
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
from geoevidence.errors import ConfigError, InputError
from geoevidence.types import ProcessResult, Progress

drone_app, satellite_app = group("cli.drone.help"), group("cli.satellite.help")

OptionalCase = Annotated[str | None, typer.Option("--case", "-c", help=text_of("cli.option.case_custody"))]
OutFolder = Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.option.out"))]
EventOption = Annotated[str | None, typer.Option("--event", help=text_of("cli.option.event"))]


def emit_result(
    as_json: bool, result: ProcessResult, where: str, *, in_custody: bool, extra: Mapping[str, Any] | None = None
) -> None:
    record = {**(extra or {}), **result.to_dict(), "in_custody": in_custody, "where": where}
    gaps = [f"{text_of('cli.gap')}: {rendered(gap)}" for gap in result.gaps]
    place = text_of("cli.result_in_custody" if in_custody else "cli.result_not_in_custody", where=where)
    emit(as_json, record, [*finding_lines(result.findings), *gaps, place])


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


def one_target(case: str | None, out: Path | None) -> None:
    if (case is None) == (out is None):
        raise ConfigError("cli.case_or_out")


def ingest_one(opened: Any, path: Path, progress: Progress) -> Any:
    """The item of one file, ingested first when it is new."""
    done = opened.ingest(path, progress=progress)
    found = (*done.items, *done.already_present)
    if len(found) != 1:
        raise InputError("cli.not_one_file", path=path)
    return found[0]


@drone_app.command("survey", help=text_of("cli.drone.survey.help"))
def drone_survey(
    photos: Annotated[Path | None, typer.Argument(help=text_of("cli.drone.photos"))] = None,
    case: OptionalCase = None,
    out: OutFolder = None,
    event: EventOption = None,
    gcp: Annotated[Path | None, typer.Option("--gcp", help=text_of("cli.drone.gcp"))] = None,
    checks: Annotated[Path | None, typer.Option("--checks", help=text_of("cli.drone.checks"))] = None,
    polygons: Annotated[Path | None, typer.Option("--polygons", help=text_of("cli.drone.polygons"))] = None,
    fast: Annotated[bool, typer.Option("--fast", help=text_of("cli.drone.fast"))] = False,
    crs: Annotated[str | None, typer.Option("--crs", help=text_of("cli.drone.crs"))] = None,
    geoid: Annotated[Path | None, typer.Option("--geoid", help=text_of("cli.drone.geoid"))] = None,
    config: Annotated[Path | None, typer.Option("--config", help=text_of("cli.option.config"))] = None,
    split: Annotated[bool, typer.Option("--split", help=text_of("cli.drone.split"))] = False,
    part_photos: Annotated[int | None, typer.Option("--part-photos", help=text_of("cli.drone.part_photos"))] = None,
    memory_gb: Annotated[float | None, typer.Option("--memory-gb", help=text_of("cli.drone.memory_gb"))] = None,
    workers: Annotated[int | None, typer.Option("--workers", help=text_of("cli.drone.workers"))] = None,
    dask: Annotated[str | None, typer.Option("--dask", help=text_of("cli.drone.dask"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from drone import SplitConfig, SurveyConfig, survey, survey_case, survey_split

    one_target(case, out)
    settings = SurveyConfig.read(config) if config else SurveyConfig()
    settings = settings.fast() if fast else settings
    asked: dict[str, Any] = {
        name: value
        for name, value in (("photos_per_part", part_photos), ("memory_gb", memory_gb), ("workers", workers))
        if value is not None
    }
    parts = SplitConfig(**asked) if split or asked or dask is not None else None
    extra = {
        name: path
        for name, path in (("gcp", gcp), ("checks", checks), ("polygons", polygons), ("geoid", geoid))
        if path is not None
    }
    with show_progress() as progress:
        if out is not None:
            if photos is None:
                raise InputError("cli.photos_missing")
            if parts is None:
                result = survey(photos, out=out, crs=crs, config=settings, progress=progress, **extra)
            else:
                result = survey_split(
                    photos, out=out, crs=crs, config=settings, split=parts, dask=dask, progress=progress, **extra
                )
            where = str(out)
        else:
            opened = open_case(workspace, case or "")
            inputs = _case_inputs(opened, photos, event, progress)
            attached = {name: ingest_one(opened, path, progress) for name, path in extra.items()}
            stored = survey_case(opened, inputs, crs=crs, config=settings, split=parts, dask=dask, progress=progress, **attached)
            result, where = stored.result, stored.event.event_id
    emit_result(as_json, result, where, in_custody=out is None)


@drone_app.command("measure", help=text_of("cli.drone.measure.help"))
def drone_measure(
    polygon: Annotated[Path, typer.Option("--polygon", help=text_of("cli.drone.polygon"))],
    survey_folder: Annotated[Path | None, typer.Option("--survey", help=text_of("cli.drone.survey_folder"))] = None,
    dsm: Annotated[Path | None, typer.Option("--dsm", help=text_of("cli.drone.dsm"))] = None,
    uncertainty: Annotated[Path | None, typer.Option("--uncertainty", help=text_of("cli.drone.uncertainty"))] = None,
    correlation: Annotated[float | None, typer.Option("--correlation", help=text_of("cli.drone.correlation"))] = None,
    base: Annotated[str, typer.Option("--base", help=text_of("cli.drone.base"))] = "rim",
    previous: Annotated[Path | None, typer.Option("--previous", help=text_of("cli.drone.previous"))] = None,
    boundary_sd: Annotated[float | None, typer.Option("--boundary-sd", help=text_of("cli.drone.boundary_sd"))] = None,
    case: OptionalCase = None,
    event: EventOption = None,
    out: OutFolder = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from drone import measure_case, measure_polygons, measured_record

    if case is not None:
        with show_progress() as progress:
            opened = open_case(workspace, case)
            surveys = [s for s in opened.results() if s.result.process == "drone.survey" and event in (None, s.event.event_id)]
            if len(surveys) != 1:
                raise InputError("cli.which_event", known=", ".join(s.event.event_id for s in surveys) or "-")
            stored = measure_case(opened, surveys[0], polygon=ingest_one(opened, polygon, progress), base=base, progress=progress)
        emit_result(as_json, stored.result, stored.event.event_id, in_custody=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        with show_progress() as progress:
            result = measure_polygons(
                survey_folder,
                dsm=dsm,
                uncertainty=uncertainty,
                correlation_m=correlation,
                out=folder,
                polygon=polygon,
                base=base,
                previous=previous,
                boundary_sd=boundary_sd,
                progress=progress,
            )
        measured = measured_record(result, folder)
    emit_result(as_json, result, str(out) if out else "-", in_custody=False, extra=measured)


@satellite_app.command("monitor", help=text_of("cli.satellite.monitor.help"))
def satellite_monitor(
    source: Annotated[Path | None, typer.Argument(help=text_of("cli.satellite.source"))] = None,
    case: OptionalCase = None,
    out: OutFolder = None,
    event: EventOption = None,
    scale: Annotated[float | None, typer.Option("--scale", help=text_of("cli.satellite.scale"))] = None,
    bands: Annotated[str | None, typer.Option("--bands", help=text_of("cli.satellite.bands"))] = None,
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", help=text_of("cli.satellite.min_pixels"))] = None,
    config: Annotated[Path | None, typer.Option("--config", help=text_of("cli.option.config"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import MonitorConfig, monitor, monitor_case

    one_target(case, out)
    settings = MonitorConfig.read(config) if config else MonitorConfig()
    changes = {"scale": scale, "bands": tuple(bands.split(",")) if bands else None, "min_pixels": min_pixels}
    settings = settings.replace(**{name: value for name, value in changes.items() if value is not None})
    with show_progress() as progress:
        if out is not None:
            if source is None:
                raise InputError("cli.scenes_missing")
            result, where = monitor(source, out=out, config=settings, progress=progress), str(out)
        else:
            opened = open_case(workspace, case or "")
            stored = monitor_case(opened, _case_inputs(opened, source, event, progress), config=settings, progress=progress)
            result, where = stored.result, stored.event.event_id
    emit_result(as_json, result, where, in_custody=out is None)
