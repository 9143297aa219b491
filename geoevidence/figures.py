"""Evidence pictures: a map of pixels with scale, north, corners and date; a plot of a time series.

Pixels are shown as they are (nearest neighbour when enlarged), on the grid they have: nothing is
warped. Missing pixels are grey and said to be missing. The bytes depend on the arguments, the
fonts of set-up and the locked matplotlib only: no time, no software tag, no user style.
Axes object interface only; pyplot and its global state are never touched.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray
from pyproj import CRS

from geoevidence.crs import crs_label, transformer
from geoevidence.errors import ConfigError
from geoevidence.messages import render
from geoevidence.raster import Grid
from geoevidence.types import Lang

Limits = tuple[tuple[float, float], ...]
"""(low, high) of each band: what becomes black and white."""
Legend = Sequence[tuple[tuple[int, int, int], str]]
"""Colours (red, green, blue; 0 to 255) with their meaning, in the order shown."""

DPI = 130
_FONTS = Path(__file__).parent / "fonts"
_WGS84 = CRS.from_epsg(4326)
_LOCK = threading.Lock()  # matplotlib's settings are one per process
_NO_DATA = "#b4b4b4"
_MARK = "#c00000"


@lru_cache(maxsize=4)
def _font(weight: int) -> FontProperties:
    path = _FONTS / f"NotoSansSC-{weight}.ttf"
    if not path.is_file():
        raise ConfigError("core.fonts_missing", path=path.name)
    return FontProperties(fname=str(path))


def _text_font(size: float, weight: int = 400) -> FontProperties:
    font = _font(weight).copy()
    font.set_size(size)
    return font


@contextmanager
def _plain_settings() -> Iterator[None]:
    """matplotlib as it ships, whatever style file the user has."""
    with _LOCK, mpl.rc_context():
        for name, value in mpl.rcParamsDefault.items():
            if not name.startswith("backend") and name != "interactive":
                mpl.rcParams[name] = value
        mpl.rcParams["timezone"] = "UTC"
        yield


def _save(figure: Figure, path: Path) -> None:
    """There whole or not at all."""
    FigureCanvasAgg(figure)
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(scratch, format="png", dpi=DPI, metadata={"Software": None})
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def shared_limits(bands: NDArray[Any], percentiles: tuple[float, float] = (0.5, 99.5)) -> Limits:
    """One (low, high) for all bands of (band, y, x), so that colours keep their hue; NaN is left out."""
    values = np.asarray(bands, np.float64)
    seen = values[np.isfinite(values)]
    low, high = (0.0, 1.0) if seen.size == 0 else np.percentile(seen, percentiles)
    return ((float(low), float(high if high > low else low + 1.0)),) * len(values)


def stretch(bands: NDArray[Any], limits: Limits | None = None, *, gamma: float = 1.0) -> tuple[NDArray[np.uint8], Limits]:
    """A picture of one or three bands, and the limits that made it.

    Pass the limits of the first picture to the second, so that before and after share one stretch.

    Args:
        bands: (1 or 3, y, x), NaN = missing.
        limits: (low, high) per band; None takes the 2nd and 98th percentile of each band.
        gamma: exponent between the limits; below 1 shows more in the dark.

    Returns:
        (y, x, 4) uint8 with alpha 0 where any band is missing; the limits used.
    """
    if bands.ndim != 3 or bands.shape[0] not in (1, 3):
        raise ValueError(f"a picture has one or three bands, not shape {bands.shape}")
    values = np.asarray(bands, np.float64)
    missing = ~np.isfinite(values).all(axis=0)
    if limits is None:
        limits = tuple(shared_limits(np.where(missing, np.nan, band)[None], (2, 98))[0] for band in values)
    if len(limits) != len(values):
        raise ValueError(f"{len(limits)} limits for {len(values)} bands")
    image = np.zeros((*values.shape[1:], 4), np.uint8)
    for index in range(3):
        low, high = limits[index % len(limits)]
        band = np.where(missing, low, values[index % len(values)])
        image[..., index] = np.rint(np.clip((band - low) / (high - low), 0, 1) ** gamma * 255)
    image[..., 3] = np.where(missing, 0, 255)
    return image, limits


def _metres_and_north(grid: Grid) -> tuple[float, tuple[float, float]]:
    """Ground metres per column at the centre, and the unit vector (column, row) of true north.

    Geodesic on the ellipsoid of the CRS; a CRS without one (a local grid) counts its own units and its y axis.
    """
    rows, cols = grid.shape
    centre = grid.transform @ (cols / 2, rows / 2)
    right = grid.transform @ (cols / 2 + 1, rows / 2)
    inverse = ~grid.transform
    geod = grid.crs.get_geod()
    if geod is None or grid.crs.geodetic_crs is None:
        unit = grid.crs.axis_info[0].unit_conversion_factor if grid.crs.axis_info else 1.0
        metres = math.hypot(right[0] - centre[0], right[1] - centre[1]) * (unit or 1.0)
        ahead = (centre[0], centre[1] + max(grid.resolution))
    else:
        to_degrees = transformer(grid.crs, grid.crs.geodetic_crs)
        lon, lat = to_degrees.transform(*centre)
        lon_right, lat_right = to_degrees.transform(*right)
        metres = geod.inv(lon, lat, lon_right, lat_right)[2]
        step = metres * max(rows, cols) / 111_000 / 4
        ahead = transformer(grid.crs.geodetic_crs, grid.crs).transform(lon, lat + (step if lat + step < 90 else -step))
        if lat + step >= 90:
            ahead = (2 * centre[0] - ahead[0], 2 * centre[1] - ahead[1])
    col, row = inverse @ ahead
    d_col, d_row = col - cols / 2, row - rows / 2
    length = math.hypot(d_col, d_row)
    return float(metres), (d_col / length, d_row / length)


def round_length(metres: float) -> float:
    """The largest of 1, 2, 5 x 10^n m that is not longer than `metres`."""
    power = 10.0 ** math.floor(math.log10(metres))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= metres * (1 + 1e-9))


def _corner_text(grid: Grid, col: int, row: int) -> str:
    x, y = grid.transform @ (col, row)
    if grid.crs.is_geographic:
        return f"{abs(y):.5f}°{'N' if y >= 0 else 'S'} {abs(x):.5f}°{'E' if x >= 0 else 'W'}"
    digits = 0 if min(grid.resolution) >= 1 else 2
    return f"E {x:.{digits}f}  N {y:.{digits}f}"


def _rings(geometry: Mapping[str, Any]) -> list[list[list[Sequence[float]]]]:
    """Polygons of a GeoJSON geometry, each a list of rings (a line is an open ring)."""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        return [polygon for part in geometry["geometries"] for polygon in _rings(part)]
    coordinates = geometry["coordinates"]
    if kind == "Polygon":
        return [coordinates]
    if kind == "MultiPolygon":
        return list(coordinates)
    if kind == "LineString":
        return [[coordinates]]
    if kind == "MultiLineString":
        return [[line] for line in coordinates]
    raise ValueError(f"cannot outline a {kind}")


def _draw_outline(axes: Axes, geometry: Mapping[str, Any], grid: Grid) -> None:
    inverse = ~grid.transform
    for polygon in _rings(geometry):
        vertices, codes = [], []
        for ring in polygon:
            points = [inverse @ (point[0], point[1]) for point in ring]
            vertices += points
            codes += [Outline.MOVETO] + [Outline.LINETO] * (len(points) - 1)
        for width, colour in ((3.0, "white"), (1.4, "#d40000")):
            axes.add_patch(PathPatch(Outline(vertices, codes), fill=False, edgecolor=colour, linewidth=width))


def _synthetic_mark(figure: Figure, lang: Lang) -> None:
    figure.text(
        0.985,
        0.985,
        render("core.synthetic", {}, lang),
        ha="right",
        va="top",
        color="white",
        fontproperties=_text_font(10, 700),
        bbox={"facecolor": _MARK, "edgecolor": "none", "pad": 3},
    )


def map_picture(
    path: Path,
    image: NDArray[np.uint8],
    grid: Grid,
    *,
    title: str,
    date_text: str,
    outlines: Sequence[Mapping[str, Any]] = (),
    note: str = "",
    legend: Legend = (),
    synthetic: bool = False,
    lang: Lang = "zh",
) -> None:
    """Write a PNG of an image with scale bar, true north, corner coordinates, CRS and date.

    Args:
        path: the PNG.
        image: (y, x, 3 or 4) uint8 on `grid`; alpha 0 = missing, shown grey and named so.
        grid: where the pixels lie; the image is not turned, the arrow shows true north.
        title: what it shows.
        date_text: when it was taken, as it shall be read.
        outlines: GeoJSON polygons or lines in `grid.crs`.
        note: a line below the picture; "\n" starts another.
        legend: colours of the image with their meaning, below the picture.
        synthetic: mark it as demonstration data.
        lang: of the words added here.

    Raises:
        ConfigError: the fonts of set-up are missing.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or image.shape[:2] != grid.shape:
        raise ValueError(f"image {image.dtype} {image.shape} does not fit grid {grid.shape}")
    _font(400), _font(700)
    rows, cols = grid.shape
    metres, north = _metres_and_north(grid)
    pixel_ratio = _pixel_ratio(grid)
    height_units = rows * pixel_ratio
    scale = 6.0 / max(cols, height_units)
    wide, high = max(cols * scale, 3.4), max(height_units * scale, 1.2)
    side = 0.12
    places, legend_lines = _legend_places([text for _, text in legend], wide)
    notes = note.split("\n") if note else []
    top, bottom = 0.78, 0.5 + 0.22 * len(notes) + 0.24 * legend_lines
    width, height = wide + 2 * side, high + top + bottom
    with _plain_settings():
        figure = Figure(figsize=(width, height), facecolor="white")
        axes = figure.add_axes((side / width, bottom / height, wide / width, high / height))
        axes.set_facecolor(_NO_DATA)
        shown_scale = DPI * scale
        axes.imshow(
            image,
            extent=(0, cols, rows, 0),
            interpolation="nearest" if shown_scale >= 1 else "antialiased",
            aspect=pixel_ratio,
        )
        axes.set_xlim(0, cols)
        axes.set_ylim(rows, 0)
        axes.set_xticks([])
        axes.set_yticks([])
        for geometry in outlines:
            _draw_outline(axes, geometry, grid)
        _scale_bar(axes, grid, metres)
        _north_arrow(axes, north, pixel_ratio, lang)
        halo = [patheffects.withStroke(linewidth=2.2, foreground="white")]
        axes.annotate(
            _corner_text(grid, 0, 0), (0, 1), (4, -4), "axes fraction", "offset points",
            ha="left", va="top", fontproperties=_text_font(7), path_effects=halo,
        )  # fmt: skip
        axes.annotate(
            _corner_text(grid, cols, rows), (1, 0), (-4, 4), "axes fraction", "offset points",
            ha="right", va="bottom", fontproperties=_text_font(7), path_effects=halo,
        )  # fmt: skip
        left = side / width
        figure.text(left, 1 - 0.13 / height, title, ha="left", va="top", fontproperties=_text_font(11, 700))
        figure.text(left, 1 - 0.45 / height, date_text, ha="left", va="top", fontproperties=_text_font(9.5))
        foot = [crs_label(grid.crs)]
        if image.shape[2] == 4 and bool((image[..., 3] == 0).any()):
            foot.append(render("core.figure_no_data", {}, lang))
        figure.text(left, (bottom - 0.1) / height, "  ·  ".join(foot), ha="left", va="top", fontproperties=_text_font(7.5))
        for line, text in enumerate(notes, start=1):
            figure.text(left, (bottom - 0.1 - 0.22 * line) / height, text, ha="left", va="top", fontproperties=_text_font(7.5))
        first = bottom - 0.34 - 0.22 * len(notes)
        for (colour, text), (start, line) in zip(legend, places, strict=True):
            middle = (first - 0.24 * line) / height
            swatch = Rectangle(
                ((side + start) / width, middle - 0.065 / height), 0.2 / width, 0.13 / height, transform=figure.transFigure,
                facecolor=tuple(part / 255 for part in colour), edgecolor="#444444", linewidth=0.6,
            )  # fmt: skip
            figure.add_artist(swatch)
            figure.text((side + start + 0.27) / width, middle, text, ha="left", va="center", fontproperties=_text_font(7.5))
        if synthetic:
            _synthetic_mark(figure, lang)
        _save(figure, path)


def _legend_places(texts: Sequence[str], wide: float) -> tuple[list[tuple[float, int]], int]:
    """(inches from the left, line) of each entry, and how many lines there are; a full-width sign counts as two."""
    places: list[tuple[float, int]] = []
    start, line = 0.0, 0
    for text in texts:
        length = 0.47 + 0.058 * sum(2 if ord(sign) > 0x2E80 else 1 for sign in text)
        if start and start + length > wide:
            start, line = 0.0, line + 1
        places.append((start, line))
        start += length
    return places, line + 1 if texts else 0


def _pixel_ratio(grid: Grid) -> float:
    """Height of a pixel over its width on the ground (geographic grids are not square)."""
    x, y = grid.resolution
    if not grid.crs.is_geographic:
        return y / x
    row = grid.transform @ (grid.shape[1] / 2, grid.shape[0] / 2)
    return y / (x * max(math.cos(math.radians(row[1])), 1e-3))


def _scale_bar(axes: Axes, grid: Grid, metres: float) -> None:
    cols = grid.shape[1]
    length = round_length(metres * cols * 0.3)
    span = length / metres / cols
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m" if length >= 1 else f"{length * 100:g} cm"
    axes.add_patch(Rectangle((0.02, 0.02), span + 0.03, 0.075, transform=axes.transAxes, facecolor="white", alpha=0.85, zorder=5))
    for index, colour in enumerate(("black", "white")):
        axes.add_patch(
            Rectangle(
                (0.035 + span / 2 * index, 0.03),
                span / 2,
                0.015,
                transform=axes.transAxes,
                facecolor=colour,
                edgecolor="black",
                linewidth=0.8,
                zorder=6,
            )
        )
    axes.text(
        0.035 + span / 2, 0.05, text, transform=axes.transAxes, ha="center", va="bottom",
        fontproperties=_text_font(8), zorder=6,
    )  # fmt: skip


def _north_arrow(axes: Axes, north: tuple[float, float], pixel_ratio: float, lang: Lang) -> None:
    """The arrow in points, so that a picture of any shape shows it undistorted."""
    d_col, d_row = north[0], north[1] * pixel_ratio
    length = math.hypot(d_col, d_row)
    right, up = d_col / length, -d_row / length
    tail, head = (-11 * right, -11 * up), (11 * right, 11 * up)
    anchor = (0.94, 0.87)
    common: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(
        "",
        xy=anchor,
        xytext=anchor,
        xycoords=_offset(axes, anchor, head),
        textcoords=_offset(axes, anchor, tail),
        arrowprops={
            "arrowstyle": "-|>",
            "color": "black",
            "linewidth": 1.8,
            "shrinkA": 0,
            "shrinkB": 0,
            "path_effects": [patheffects.withStroke(linewidth=4.5, foreground="white")],
        },
        zorder=6,
    )
    axes.annotate(
        render("core.figure_north", {}, lang), anchor, (19 * right, 19 * up), ha="center", va="center",
        fontproperties=_text_font(9, 700), path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
        zorder=6, **common,
    )  # fmt: skip


def _offset(axes: Axes, anchor: tuple[float, float], points: tuple[float, float]) -> Any:
    return axes.transAxes + ScaledTranslation(points[0] / 72, points[1] / 72, axes.figure.dpi_scale_trans)


Series = tuple[Sequence[date], Sequence[float], Sequence[bool]]
"""Dates, values, and which observations are clear."""


def _axis_day(day: date) -> float:
    """A date as the number that matplotlib puts on its axis."""
    return float(date2num(day))  # type: ignore[no-untyped-call]


def series_plot(
    path: Path,
    *,
    series: Mapping[str, Series],
    model: tuple[Sequence[date], Sequence[float]] | None = None,
    interval: tuple[date, date] | None = None,
    interval_label: str = "",
    break_date: date | None = None,
    blind: Sequence[tuple[date, date]] = (),
    blind_label: str = "",
    unseen: Mapping[str, Sequence[date]] | None = None,
    y_label: str,
    title: str,
    synthetic: bool = False,
    lang: Lang = "zh",
) -> None:
    """Write a PNG of observations over time with the evidence interval.

    Args:
        path: the PNG.
        series: name -> (dates, values, clear); what is not clear is drawn faint as not used; NaN is not drawn.
        model: (dates, values) of the fitted curve; NaN breaks the line.
        interval: last clear observation of the old state, first of the new: a shaded band; interval_label: its name in the
            legend where it is not the evidence interval.
        break_date: the date the model estimates, drawn dotted.
        blind: periods without a clear view, hatched; blind_label: their name in the legend.
        unseen: reason -> dates without a value for that reason, as ticks along the lower edge.
        y_label, title: words of the caller.
        synthetic: mark it as demonstration data.
        lang: of the words added here.

    Raises:
        ConfigError: the fonts of set-up are missing.
    """
    small = _text_font(8)
    _font(700)
    colours = ("#1b6ca8", "#c1660b", "#2b8a3e", "#7b3fa0", "#555555", "#b5179e")
    with _plain_settings():
        figure = Figure(figsize=(8.4, 4.3), facecolor="white")
        axes = figure.add_axes((0.085, 0.115, 0.895, 0.63))
        for number, (start, end) in enumerate(blind):
            axes.axvspan(
                _axis_day(start), _axis_day(end), facecolor="#ececec", edgecolor="#b9b9b9", hatch="////", linewidth=0,
                label=blind_label if number == 0 else None, zorder=0,
            )  # fmt: skip
        if interval is not None:
            label = interval_label or render(
                "core.figure_interval", {"start": interval[0].isoformat(), "end": interval[1].isoformat()}, lang
            )
            axes.axvspan(_axis_day(interval[0]), _axis_day(interval[1]), color="#f2b705", alpha=0.35, linewidth=0, label=label)
            for day in interval:
                axes.axvline(_axis_day(day), color="#b98900", linewidth=0.9)
        if break_date is not None:
            label = render("core.figure_break_date", {"date": break_date.isoformat()}, lang)
            axes.axvline(_axis_day(break_date), color=_MARK, linewidth=1.1, linestyle=":", label=label)
        seen: list[float] = []
        unclear_named = False
        mark: str | None
        for index, (name, (dates, values, clear)) in enumerate(series.items()):
            days = np.asarray(dates, "datetime64[D]")
            numbers = np.asarray(values, np.float64)
            good = np.asarray(clear, bool) & np.isfinite(numbers)
            poor = ~np.asarray(clear, bool) & np.isfinite(numbers)
            colour = colours[index % len(colours)]
            if poor.any():
                mark = None if unclear_named else render("core.figure_not_clear", {}, lang)
                unclear_named = True
                axes.plot(days[poor], numbers[poor], "x", color="#9a9a9a", markersize=3.2, alpha=0.7, label=mark)
            axes.plot(days[good], numbers[good], "o", color=colour, markersize=3.4, label=name)
            seen += numbers[good].tolist()
        if model is not None:
            label = render("core.figure_model", {}, lang)
            axes.plot(
                np.asarray(model[0], "datetime64[D]"),
                np.asarray(model[1], np.float64),
                color="#222222",
                linewidth=1.1,
                label=label,
            )
            seen += [value for value in map(float, model[1]) if math.isfinite(value)]
        if seen:
            low, high = min(seen), max(seen)
            margin = 0.08 * (high - low) or 0.1
            axes.set_ylim(low - (2 if unseen else 1) * margin, high + margin)
        ticks = (("|", "#7a7a7a"), ("|", "#111111"), ("x", "#c000c0"), (".", "#000000"))
        for (sign, colour), (reason, dates) in zip(ticks, (unseen or {}).items(), strict=False):
            axes.plot(
                np.asarray(dates, "datetime64[D]"), np.full(len(dates), 0.025), sign, color=colour, markersize=5,
                transform=axes.get_xaxis_transform(), label=reason, clip_on=False,
            )  # fmt: skip
        locator = AutoDateLocator(minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(DateFormatter("%Y-%m"))  # type: ignore[no-untyped-call]
        axes.grid(True, color="#e3e3e3", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_ylabel(y_label, fontproperties=_text_font(9))
        for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
            tick.set_fontproperties(small)
        figure.text(0.012, 0.985, title, ha="left", va="top", fontproperties=_text_font(11, 700))
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.005), ncols=3, frameon=False, prop=small,
            borderaxespad=0.1, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
        if synthetic:
            _synthetic_mark(figure, lang)
        _save(figure, path)
