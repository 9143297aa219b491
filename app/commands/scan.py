"""Commands for whole regions: `satellite scan`, and `satellite review` for what people decided about its events.

In: words of the command line. Out: a few lines or JSON on stdout, progress with the time left on stderr. Exit code 1 when a
tile failed, though everything else is there. The clock is asked here, for the time of a decision and the time left. No science.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import EXIT_DATA, Json, LangOption, emit, rendered, show_progress, text_of
from app.commands.engines import satellite_app
from geoevidence.types import Progress, utc_text

_SAID_EVERY_S = 30.0
"""Without a terminal a line of progress is printed this often, seconds."""


@contextmanager
def _progress_with_time() -> Iterator[Progress]:
    """A bar on a terminal; otherwise a line now and then with the share done and the time left."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with show_progress() as progress:
            yield progress
        return
    # The first share of a stage is the start: what an earlier run did must not pass for speed.
    begun: dict[str, tuple[float, float]] = {}
    said = [0.0]

    def tell(stage: str, fraction: float) -> None:
        now = time.monotonic()
        first = stage not in begun
        start, share = begun.setdefault(stage, (now, fraction))
        if not first and now - said[0] < _SAID_EVERY_S:
            return
        said[0] = now
        line = f"  {text_of(stage)} {100 * fraction:.0f} %"
        if fraction > share and now > start:
            minutes = (1 - fraction) * (now - start) / (fraction - share) / 60
            line += " " + text_of("cli.scan.left", hours=int(minutes // 60), minutes=int(minutes % 60) + 1)
        console.print(line, highlight=False, markup=False)

    yield tell


@satellite_app.command("scan", help=text_of("cli.satellite.scan.help"))
def satellite_scan(
    scenes: Annotated[Path, typer.Option("--scenes", help=text_of("cli.scan.scenes"))],
    out: Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.scan.out"))],
    region: Annotated[Path | None, typer.Option("--region", help=text_of("cli.scan.region"))] = None,
    until: Annotated[str, typer.Option("--until", help=text_of("cli.scan.until"), show_default=False)] = "",
    mask: Annotated[list[Path] | None, typer.Option("--mask", help=text_of("cli.scan.mask"))] = None,
    status: Annotated[Path | None, typer.Option("--status", help=text_of("cli.scan.status"))] = None,
    capacity: Annotated[int | None, typer.Option("--capacity", help=text_of("cli.scan.capacity"))] = None,
    divisions: Annotated[Path | None, typer.Option("--divisions", help=text_of("cli.scan.divisions"))] = None,
    division_field: Annotated[str, typer.Option("--division-field", help=text_of("cli.scan.division_field"))] = "code",
    land: Annotated[Path | None, typer.Option("--land", help=text_of("cli.scan.land"))] = None,
    land_field: Annotated[str, typer.Option("--land-field", help=text_of("cli.scan.land_field"))] = "class",
    datum: Annotated[str, typer.Option("--datum", help=text_of("cli.scan.datum"))] = "declared",
    evidence: Annotated[int, typer.Option("--evidence", help=text_of("cli.scan.evidence"))] = 0,
    rasters: Annotated[bool, typer.Option("--rasters", help=text_of("cli.scan.rasters"))] = False,
    dask: Annotated[str, typer.Option("--dask", help=text_of("cli.scan.dask"), show_default=False)] = "",
    workers: Annotated[int | None, typer.Option("--workers", help=text_of("cli.scan.workers"))] = None,
    tile: Annotated[int | None, typer.Option("--tile", help=text_of("cli.scan.tile"))] = None,
    scale: Annotated[float | None, typer.Option("--scale", help=text_of("cli.satellite.scale"))] = None,
    bands: Annotated[str | None, typer.Option("--bands", help=text_of("cli.satellite.bands"))] = None,
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", help=text_of("cli.satellite.min_pixels"))] = None,
    config: Annotated[Path | None, typer.Option("--config", help=text_of("cli.option.config"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import ScanConfig, ScanRequest, scan_region

    settings = ScanConfig.read(config) if config else ScanConfig()
    changes: dict[str, Any] = {"scale": scale, "bands": tuple(bands.split(",")) if bands else None, "min_pixels": min_pixels}
    settings = settings.replace(tile=tile, **changes)
    request = ScanRequest(
        scenes=scenes,
        region=region,
        until=until,
        datum=datum,
        masks=tuple(mask or ()),
        reviews=status,
        divisions=divisions,
        division_field=division_field,
        land=land,
        land_field=land_field,
        capacity=capacity,
        evidence=evidence,
        rasters=rasters,
    )
    with _progress_with_time() as progress:
        result = scan_region(request, out=out, config=settings, workers=workers, cluster=dask, progress=progress)
    record = result.record
    since, events, tiles = record["since"], record["events"], record["tiles"]
    lines = [
        text_of("cli.scan.tiles", done=tiles["done"], total=tiles["total"], computed=result.computed, reused=result.reused),
        text_of("cli.scan.events", open=events["pending"] + events["reopened"], **events),
    ]
    if since["last_run_until"] is not None:
        counts = {name: len(since[name]) for name in ("new", "changed", "gone")}
        lines.append(text_of("cli.scan.since", until=since["last_run_until"], unchanged=since["unchanged"], **counts))
    lines += [f"{text_of('cli.gap')}: {rendered(gap)}" for gap in result.gaps]
    lines += [text_of("cli.scan.failed", where=where, reason=rendered(reason)) for where, reason in result.failed]
    lines.append(text_of("cli.result_not_in_custody", where=str(out)))
    did = {"computed": result.computed, "reused": result.reused, "damaged": list(result.damaged), "where": str(out)}
    emit(as_json, {**record, "did": did}, lines)
    if result.failed:
        typer.echo(text_of("cli.scan.not_complete", count=len(result.failed)), err=True)
        raise typer.Exit(EXIT_DATA)


@satellite_app.command("review", help=text_of("cli.satellite.review.help"))
def satellite_review(
    status: Annotated[Path, typer.Argument(help=text_of("cli.review.status"))],
    event: Annotated[str, typer.Argument(help=text_of("cli.review.event"))],
    decision: Annotated[str, typer.Argument(help=text_of("cli.review.decision"))],
    by: Annotated[str, typer.Option("--by", help=text_of("cli.review.by"))],
    note: Annotated[str, typer.Option("--note", help=text_of("cli.review.note"), show_default=False)] = "",
    scan: Annotated[Path | None, typer.Option("--scan", help=text_of("cli.review.scan"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from satellite import append_review, review_of

    queue = (scan or status.parent) / "queue.json"
    now = utc_text(datetime.now(UTC))
    append_review(status, review_of(queue, event, decision=decision, by=by, time=now, note=note))
    done = {"event": event, "decision": decision, "by": by, "time": now, "status": str(status)}
    emit(as_json, done, [text_of("cli.review.done", **done)])
