"""The pictures and numbers that show one event: chips before and after, its series as a table and as a plot.

In: a `ChangeEvent` and the observations around it. Out: files in a folder, and the `Product` of each. Both chips have one
stretch and one grid. What is not clear is never drawn as ground: cloud, not observed, failed read and outside have colours
of their own, named below the picture, and words of their own in the table. The same event gives the same bytes.
Nothing is measured here but the curve of the plot.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoevidence.figures import Legend, map_picture, series_plot, shared_limits, stretch
from geoevidence.messages import render
from geoevidence.types import Lang, Message, Product
from satellite.events import EventConfig, EventSeries, crop, day_of, event_series, event_window_of
from satellite.harmonics import design_matrix, fit_series
from satellite.indices import band_roles
from satellite.types import ChangeEvent, Cube, Observed, Pace

_YEAR = 365.2425
_SEASON_DAYS = 45
"""Chips further apart in the year say that the season alone makes a difference."""
GAMMA = 0.7
"""Exponent of the pictures: forest is dark beside sand."""
STATE_COLOURS: dict[Observed, tuple[int, int, int]] = {
    Observed.CLOUD: (222, 222, 222),
    Observed.NOT_OBSERVED: (140, 140, 140),
    Observed.FAILED_READ: (200, 0, 200),
    Observed.OUTSIDE: (40, 40, 40),
}
"""How pixels without a clear value are drawn, in pictures of any event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceStyle:
    """How evidence is written. lang: of the words in pictures. sensor: shown beside the date, "" = none. synthetic: marked as
    demonstration data."""

    lang: Lang = "zh"
    sensor: str = ""
    synthetic: bool = False


def write_event_evidence(
    out: Path, event: ChangeEvent, cube: Cube, *, corner: tuple[int, int] = (0, 0), shape: tuple[int, int], style: EvidenceStyle,
    blind_days: int | None = None,
) -> tuple[Product, ...]:  # fmt: skip
    """Write `<id>-chip_before.png`, `-chip_after.png`, `-series.csv` and, where there is an index, `-series_plot.png` into `out`.

    Args:
        out: an existing folder. event: from `describe_event`.
        cube: covers the event's window; corner: (row, col) of its upper left pixel on the map, whose size is `shape`.
        blind_days: what `EventConfig.blind_days` was, for the legend; None = its default.

    Returns:
        The products in that order, paths relative to `out`.

    Raises:
        ValueError: the cube does not cover the window.
        ConfigError: the fonts of set-up are missing.
    """
    window = event_window_of(event, shape)
    cube = crop(cube, window, corner)
    rows = np.array([row for row, _ in event.pixels]) - int(window.row_off)
    cols = np.array([col for _, col in event.pixels]) - int(window.col_off)
    series = event_series(cube, rows, cols)
    products = [*_chips(out, event, cube, rows, cols, style), _table(out, event, series)]
    if series.indices:
        products.append(_plot(out, event, series, style, blind_days or EventConfig().blind_days))
    return tuple(products)


def _product(event: ChangeEvent, kind: str, suffix: str, media_type: str) -> Product:
    title = Message(id=f"satellite.title_{kind}", values={"finding": event.id})
    return Product(path=f"{event.id}-{kind}{suffix}", kind=kind, media_type=media_type, title=title)


# Chips ----------------------------------------------------------------------------------------------------------------


def picture_bands(bands: tuple[str, ...]) -> tuple[list[int], str]:
    """Positions of the three bands of a picture (or of one), and the message id that names the colours."""
    roles = band_roles(bands)
    for names, text in ((("red", "green", "blue"), "satellite.true_colour"), (("nir", "red", "green"), "satellite.false_colour")):
        if all(name in roles for name in names):
            return [roles[name] for name in names], text
    return [0], "satellite.grey"


def painted(image: NDArray[np.uint8], observed: NDArray[np.uint8], lang: Lang) -> tuple[NDArray[np.uint8], Legend]:
    """A picture (y, x, 4) whose pixels that are not CLEAR have the colour of their state, and the legend of those present."""
    result = image.copy()
    legend = []
    for code, colour in STATE_COLOURS.items():
        where = observed == code
        if where.any():
            result[where] = (*colour, 255)
            legend.append((colour, render(f"satellite.state_{code.name.lower()}", {}, lang)))
    return result, legend


def dated(day: date, sensor: str) -> str:
    """The date as pictures show it, with the sensor where one is named."""
    return f"{day.isoformat()}  {sensor}" if sensor and sensor != "synthetic" else day.isoformat()


def _chips(
    out: Path, event: ChangeEvent, cube: Cube, rows: NDArray[np.intp], cols: NDArray[np.intp], style: EvidenceStyle
) -> list[Product]:
    before = chip_day(cube, rows, cols, last=event.last_clear_before)
    after = chip_day(cube, rows, cols, first=event.first_clear_after)
    bands, colours = picture_bands(cube.bands)
    pictures = [cube.image(index)[bands] for index in (before, after)]
    limits = shared_limits(np.concatenate(pictures, axis=2))
    note = render("satellite.picture_note", {"colours": render(colours, {}, style.lang)}, style.lang)
    days_of_year = [int(cube.days[index]) % _YEAR for index in (before, after)]
    apart = abs(days_of_year[0] - days_of_year[1])
    if min(apart, _YEAR - apart) > _SEASON_DAYS:
        note += "\n" + render("satellite.picture_seasons", {}, style.lang)
    products = []
    for kind, index, picture in (("chip_before", before, pictures[0]), ("chip_after", after, pictures[1])):
        product = _product(event, kind, ".png", "image/png")
        image, legend = painted(stretch(picture, limits, gamma=GAMMA)[0], cube.observed[index], style.lang)
        map_picture(
            out / product.path,
            image,
            cube.grid,
            title=render(f"satellite.picture_{kind}", {"finding": event.id}, style.lang),
            date_text=dated(day_of(int(cube.days[index])), style.sensor),
            outlines=[event.polygon],
            note=note,
            legend=legend,
            synthetic=style.synthetic,
            lang=style.lang,
        )
        products.append(product)
    return products


def chip_day(
    cube: Cube, rows: NDArray[np.intp], cols: NDArray[np.intp], *, last: date | None = None, first: date | None = None
) -> int:
    """Position of the date nearest to the end of the interval on which the event and most of its surroundings are clear."""
    clear = cube.observed == Observed.CLEAR
    inside, around = clear[:, rows, cols].mean(axis=1), clear.mean(axis=(1, 2))
    days = cube.days.astype(np.int64)
    edge = (last or first or date.min).toordinal() - date(1970, 1, 1).toordinal()
    allowed = days <= edge if last is not None else days >= edge
    near = allowed & (np.abs(days - edge) <= 400)
    for need_inside, need_around in ((0.95, 0.9), (0.9, 0.6), (0.5, 0.0)):
        good = np.flatnonzero(near & (inside >= need_inside) & (around >= need_around))
        if len(good):
            return int(good[np.argmin(np.abs(days[good] - edge))])
    good = np.flatnonzero(allowed)
    return int(good[np.argmax(inside[good])])


# Series ---------------------------------------------------------------------------------------------------------------


def _table(out: Path, event: ChangeEvent, series: EventSeries) -> Product:
    """The series as CSV: date, part (before, between, after), state, pixels by state, medians of the indices."""
    product = _product(event, "series", ".csv", "text/csv")
    start, end = event.last_clear_before, event.first_clear_after
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["date", "part", "state", *(f"pixels_{code.name.lower()}" for code in Observed), *series.indices])
    for index, number in enumerate(series.days):
        day = day_of(int(number))
        part = "before" if day <= start else "after" if day >= end else "between"
        values = [v[index] for v in series.indices.values()]
        shown = ["" if np.isnan(v) else f"{v:.4f}" for v in values]
        state = Observed(int(series.state[index])).name.lower()
        table.writerow([day.isoformat(), part, state, *series.counts[index].tolist(), *shown])
    write_whole(out / product.path, stream.getvalue().encode("utf-8"))
    return product


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _plot(out: Path, event: ChangeEvent, series: EventSeries, style: EvidenceStyle, blind_days: int) -> Product:
    days = [day_of(int(day)) for day in series.days]
    main = event.magnitude_of if event.magnitude_of in series.indices else next(iter(series.indices))
    names = [main, *(name for name in series.indices if name != main)][:2]
    clear = (series.state == Observed.CLEAR).tolist()
    unseen = {}
    for code in STATE_COLOURS:
        dates = [day for day, state in zip(days, series.state, strict=True) if state == code]
        if dates:
            unseen[render(f"satellite.state_{code.name.lower()}", {}, style.lang)] = dates
    period: dict[str, Any] = {"start": event.last_clear_before, "end": event.first_clear_after}
    gradual = event.pace is Pace.GRADUAL
    product = _product(event, "series_plot", ".png", "image/png")
    series_plot(
        out / product.path,
        series={name: (days, series.indices[name].tolist(), clear) for name in names},
        model=fitted(series, main, event),
        interval=(event.last_clear_before, event.first_clear_after),
        interval_label=render("satellite.picture_gradual", period, style.lang) if gradual else "",
        break_date=None if gradual else event.break_date,
        blind=[(period.start, period.end) for period in event.blind],
        blind_label=render("satellite.picture_blind", {"days": blind_days}, style.lang),
        unseen=unseen,
        y_label=" / ".join(names),
        title=render("satellite.picture_series", {"finding": event.id}, style.lang),
        synthetic=style.synthetic,
        lang=style.lang,
    )
    return product


def fitted(series: EventSeries, name: str, event: ChangeEvent) -> tuple[Sequence[date], Sequence[float]] | None:
    """The seasonal model of the index before and after the interval, in steps of five days; NaN between; None without dates."""
    values, days = series.indices[name], series.days
    good = np.isfinite(values) & (series.state == Observed.CLEAR)
    epoch = date(1970, 1, 1).toordinal()
    start, end = event.last_clear_before.toordinal() - epoch, event.first_clear_after.toordinal() - epoch
    shown_days: list[date] = []
    shown: list[float] = []
    for side in (days <= start, days >= end):
        use = good & side
        if use.sum() < 4:
            continue
        beta = fit_series(days[use], values[use])
        steps = np.arange(int(days[use][0]), int(days[use][-1]) + 1, 5)
        curve = design_matrix(steps, centre=float(np.mean(days[use]))) @ beta
        # A season without dates leaves the harmonics free: the curve is not drawn far beyond what was seen.
        low, high = float(values[use].min()), float(values[use].max())
        margin = 0.25 * (high - low)
        shown_days += [day_of(int(step)) for step in steps] + [day_of(int(steps[-1]) + 1)]
        shown += [float(v) if low - margin <= v <= high + margin else float("nan") for v in curve] + [float("nan")]
    return (shown_days, shown) if shown else None
