"""Commands of `satellite alerts`: learn an area's seasons, take new scenes one by one, show the alerts, compare two models.

They work on a folder of state files outside custody; what is to be evidence goes through `satellite monitor`. No science here.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import Json, LangOption, emit, group, show_progress, text_of, write_new
from geoevidence.errors import ConfigError

alerts_app = group("cli.alerts.help")

ScenesArgument = Annotated[Path, typer.Argument(help=text_of("cli.alerts.scenes"))]
StateFolder = Annotated[Path, typer.Option("--state", "-s", help=text_of("cli.alerts.state"))]
Until = Annotated[str | None, typer.Option("--until", help=text_of("cli.alerts.until"))]
Scale = Annotated[float | None, typer.Option("--scale", help=text_of("cli.satellite.scale"))]
Bands = Annotated[str | None, typer.Option("--bands", help=text_of("cli.satellite.bands"))]
ConfigFile = Annotated[Path | None, typer.Option("--config", help=text_of("cli.option.config"))]


def _date(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError("cli.alerts.bad_date", found=text) from error


def _stack(source: Path, scale: float | None, bands: str | None) -> Any:
    from satellite import read_scenes

    stated = {"scale": scale, "bands": tuple(bands.split(",")) if bands else None}
    return read_scenes(source, {name: value for name, value in stated.items() if value is not None})


@alerts_app.command("start", help=text_of("cli.alerts.start.help"))
def start(
    source: ScenesArgument,
    state: StateFolder,
    until: Until = None,
    scale: Scale = None,
    bands: Bands = None,
    tile: Annotated[int, typer.Option("--tile", help=text_of("cli.alerts.tile"))] = 512,
    config: ConfigFile = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import AlertConfig, read_alert_states, start_alerts

    settings = AlertConfig.read(config) if config else AlertConfig()
    with show_progress() as progress:
        run = start_alerts(_stack(source, scale, bands), state, settings, until=_date(until), tile=tile, progress=progress)
    pixels = sum(each.state.size for each in read_alert_states(state))
    monitored = sum(int((each.state != 0).sum()) for each in read_alert_states(state))
    record = {"where": str(state), "tiles": run.tiles, "pixels": pixels, "monitored": monitored}
    line = text_of("cli.alerts.started", tiles=run.tiles, pixels=pixels, monitored=monitored, where=state)
    emit(as_json, record, [line])


@alerts_app.command("update", help=text_of("cli.alerts.update.help"))
def update(
    source: ScenesArgument,
    state: StateFolder,
    until: Until = None,
    scale: Scale = None,
    bands: Bands = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import alerts_of, read_alert_states, update_alerts

    with show_progress() as progress:
        run = update_alerts(_stack(source, scale, bands), state, until=_date(until), progress=progress)
    days: dict[int, Counter[str]] = {}
    for _, taken in run.dates:
        days.setdefault(taken.day, Counter())[taken.outcome.value] += 1
    report = alerts_of(read_alert_states(state))
    counts = {each.name.lower(): count for each, count in report.pixels.items()}
    dates: list[dict[str, Any]] = [
        {"date": date.fromordinal(day + date(1970, 1, 1).toordinal()).isoformat(), "tiles": dict(sorted(found.items()))}
        for day, found in sorted(days.items())
    ]
    record = {
        "where": str(state),
        "tiles": run.tiles,
        "written": run.written,
        "dates": dates,
        "changed_scenes": list(run.changed),
        "pixels": counts,
        "newest": report.newest.isoformat(),
    }
    lines = [text_of("cli.alerts.updated", dates=len(dates), tiles=run.written, newest=report.newest)]
    for each in dates:
        said = ", ".join(f"{text_of(f'cli.alerts.outcome.{name}')} {count}" for name, count in each["tiles"].items())
        lines.append(f"  {each['date']}  {said}")
    lines += [text_of("cli.alerts.changed", scenes=", ".join(run.changed))] if run.changed else []
    emit(as_json, record, [*lines, _pixel_line(counts)])


def _pixel_line(counts: dict[str, int]) -> str:
    return text_of("cli.alerts.pixels", **counts)


@alerts_app.command("show", help=text_of("cli.alerts.show.help"))
def show(
    state: StateFolder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.alerts.out"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import alert_properties, alerts_geojson, alerts_of, read_alert_states

    report = alerts_of(read_alert_states(state))
    rows = [alert_properties(alert, synthetic=report.synthetic) for alert in report.alerts]
    counts = {each.name.lower(): count for each, count in report.pixels.items()}
    scattered = {each.name.lower(): count for each, count in report.scattered.items()}
    if out is not None:
        write_new(out, _json_bytes(alerts_geojson(report)))
    record = {"alerts": rows, "pixels": counts, "scattered": scattered, "newest": report.newest.isoformat()}
    mark = [f"【{text_of('core.synthetic')}】"] if report.synthetic else []
    lines = [*mark, text_of("cli.alerts.shown", alerts=len(rows), newest=report.newest)]
    for row in rows:
        values = {**row, "state": text_of(f"cli.alerts.state.{row['state']}"), "confirmed_day": row["confirmed_day"] or "-"}
        lines.append("  " + text_of("cli.alerts.row", **values))
    lines += [text_of("cli.alerts.scattered", **scattered), _pixel_line(counts)]
    lines += [text_of("cli.alerts.written", path=out)] if out is not None else []
    emit(as_json, record, lines)


@alerts_app.command("compare", help=text_of("cli.alerts.compare.help"))
def compare(
    source: ScenesArgument,
    state: StateFolder,
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.alerts.compare.out"))] = None,
    scale: Scale = None,
    bands: Bands = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import AlertConfig, compare_alert_models

    settings = AlertConfig.read(config) if config else None
    with show_progress() as progress:
        moves = compare_alert_models(_stack(source, scale, bands), state, settings, progress=progress)
    if out is not None:
        write_new(out, _json_bytes(moves.geojson()))
    record = moves.to_dict()
    lines = [text_of("cli.alerts.compared", old=moves.model_versions[0], new=moves.model_versions[1], **moves.counts)]
    for row in record["alerts"]:
        values = {name: "-" if value is None else value for name, value in row.items()}
        lines.append("  " + text_of("cli.alerts.move", **{**values, "kind": text_of(f"cli.alerts.kind.{row['kind']}")}))
    if moves.not_replayed:
        lines.append(text_of("cli.alerts.not_replayed", scenes=", ".join(moves.not_replayed)))
    lines += [text_of("cli.alerts.written", path=out)] if out is not None else []
    emit(as_json, record, lines)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode("utf-8")
