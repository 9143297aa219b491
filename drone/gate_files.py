"""The flight check as files and lines: a record, footprints, a map, and what is said to people.

In: a `FlightCheck`. Out: `check.json`, `footprints.geojson`, `map.png`; lines of text. Nothing is computed that the check does not hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
import shapely.geometry
from affine import Affine
from numpy.typing import NDArray

from drone.gate import FlightCheck
from drone.strips import geographic, views
from geoevidence.errors import InputError
from geoevidence.figures import map_picture
from geoevidence.messages import render
from geoevidence.raster import Grid
from geoevidence.trust import canonical
from geoevidence.types import Lang, Message


def write_check(check: FlightCheck, out: Path, *, lang: Lang = "zh") -> tuple[str, ...]:
    """Write `check.json`, `footprints.geojson` (longitude, latitude) and, where there are footprints, `map.png`; the names written.

    Each file is there whole or not at all. The bytes depend on the check and the language only.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "check.json", canonical.dumps(check.to_dict()))
    _write(out / "footprints.geojson", json.dumps(_features(check), ensure_ascii=False, indent=1).encode() + b"\n")
    names = ["check.json", "footprints.geojson"]
    if check.layout.footprints:
        _draw(check, out / "map.png", lang)
        names.append("map.png")
    return tuple(names)


def _write(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with scratch.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise InputError("drone.cannot_write", path=path.name, reason=error.strerror or str(error)) from error


def _features(check: FlightCheck) -> dict[str, Any]:
    strip_of = {name: strip.number for strip in check.layout.strips for name in strip.photos}
    photos = {photo.name: photo for photo in check.flight.photos}
    features = []
    for name in check.layout.order:
        if name not in check.layout.footprints:
            continue
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "kind": "footprint",
                    "photo": name,
                    "sha256": photos[name].sha256,
                    "strip": strip_of.get(name),
                    "usable": name not in check.unusable,
                    "from": "position, attitude and height above take-off; level ground",
                },
                "geometry": {"type": "Polygon", "coordinates": geographic(check.flight.crs, check.layout.footprints[name])},
            }
        )
    for part in check.coverage.missing if check.coverage is not None else ():
        features.append(
            {
                "type": "Feature",
                "properties": {"kind": "missing", "views_below": check.config.min_views},
                "geometry": {"type": "Polygon", "coordinates": geographic(check.flight.crs, part)},
            }
        )
    return {"type": "FeatureCollection", "features": features}


_COLOURS = ((214, 96, 77), (244, 190, 110), (166, 206, 120), (70, 140, 80))
"""Of cells that 1 to views-1, views, views+1 to 2 views, and more photos show."""
_STRIP, _BAD = (20, 40, 90), (190, 0, 150)


def _draw(check: FlightCheck, path: Path, lang: Lang) -> None:
    layout, least = check.layout, check.config.min_views
    shapes = [*layout.footprints.values(), *([check.area] if check.area is not None else [])]
    whole = shapely.union_all(shapes)
    west, south, east, north = whole.bounds
    cell = max((east - west) / 1100, (north - south) / 1100, 1e-3)
    bounds = (west - 8 * cell, south - 8 * cell, east + 8 * cell, north + 8 * cell)
    count = views(layout, without=check.unusable, cell=cell, bounds=bounds)
    rows, cols = count.shape
    image = np.zeros((rows, cols, 4), np.uint8)
    for low, high, colour in (
        (1, least - 1, _COLOURS[0]),
        (least, least, _COLOURS[1]),
        (least + 1, 2 * least, _COLOURS[2]),
        (2 * least + 1, 65535, _COLOURS[3]),
    ):
        image[(count >= low) & (count <= high)] = (*colour, 255)

    def pixel(place: NDArray[np.float64]) -> tuple[int, int]:
        return round((place[0] - bounds[0]) / cell), round((bounds[3] - place[1]) / cell)

    for strip in layout.strips:
        points = [pixel(layout.places[name]) for name in strip.photos]
        for a, b in pairwise(points):
            cv2.line(image, a, b, (*_STRIP, 255), 2, cv2.LINE_AA)
        for name, point in zip(strip.photos, points, strict=True):
            bad = name in check.unusable
            cv2.circle(image, point, 9 if bad else 5, (*(_BAD if bad else _STRIP), 255), -1, cv2.LINE_AA)
        if strip.heading is not None:
            x, y = points[0]
            at = (min(max(x + 10, 2), cols - 60), min(max(y - 10, 34), rows - 4))
            for ink, thick in (((255, 255, 255, 255), 7), ((*_STRIP, 255), 3)):
                cv2.putText(image, str(strip.number), at, cv2.FONT_HERSHEY_SIMPLEX, 1.1, ink, thick, cv2.LINE_AA)
    days = sorted(
        {when.date().isoformat() for photo in check.flight.photos if (when := photo.taken or photo.exposed) is not None}
    )
    legend = [
        (_COLOURS[0], render("drone.gate_legend_few", {"views": least - 1}, lang)),
        (_COLOURS[1], render("drone.gate_legend_views", {"views": str(least)}, lang)),
        (_COLOURS[2], render("drone.gate_legend_views", {"views": f"{least + 1}-{2 * least}"}, lang)),
        (_COLOURS[3], render("drone.gate_legend_views", {"views": f"> {2 * least}"}, lang)),
        (_STRIP, render("drone.gate_legend_strip", {}, lang)),
        (_BAD, render("drone.gate_legend_bad", {}, lang)),
    ]
    outlines = [] if check.area is None else [shapely.geometry.mapping(part) for part in shapely.get_parts(check.area)]
    map_picture(
        path,
        image,
        Grid(shape=(rows, cols), transform=Affine(cell, 0, bounds[0], 0, -cell, bounds[3]), crs=check.flight.crs),
        title=render(f"drone.gate_title_{check.verdict}", {}, lang),
        date_text=render("drone.gate_map_date", {"days": ", ".join(days[:3]) or "-", "photos": len(check.flight.photos)}, lang),
        outlines=outlines,
        note=render("drone.gate_map_note", {}, lang),
        legend=legend,
        synthetic=check.flight.synthetic,
        lang=lang,
    )


def summary_lines(check: FlightCheck, render_message: Callable[[Message], str]) -> list[str]:
    """The check for people: the sentence, what leads to it, what else to know, and the indications found."""
    lines = [render_message(check.sentence)]
    said = check.sentence.values.get("reason")  # the sentence has given it
    lines += [f"  {render_message(remark.message)}" for remark in check.remarks if remark.message != said]
    lines += [f"  {render_message(gap)}" for gap in check.flight.gaps]
    found = [indication for indication in check.indications if indication.outcome == "found"]
    if found:
        lines.append(render_message(Message(id="drone.gate_indications", values={"count": len(found)})))
    for indication in found:
        reason = "" if indication.reason is None else " " + render_message(indication.reason)
        lines.append(f"  {render_message(indication.statement)}{reason}")
    return lines
