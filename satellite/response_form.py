"""What interpreters look at: the response form, one offline page, and contact sheets for a quick look by eye.

In: a `Sample`, the scenes it was mapped from, of an adjudication also the answers so far. Out: an HTML file that needs no
network and no server (its sources lie in `form/`), or PNG pages. Pictures of a point share one stretch; their dates follow
from what is clear there and nothing else, and neither the map's answer nor the stratum is in the form: it is blind.
It reads no answers (`responses`) and estimates nothing (`accuracy`).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.windows import Window

from geoevidence.crs import transformer
from geoevidence.errors import ConfigError, GridMismatchError
from geoevidence.figures import shared_limits, stretch
from geoevidence.messages import LANGUAGES, render, texts
from geoevidence.types import Lang, Progress, no_progress
from satellite.cube import read_block, window_grid
from satellite.events import WGS84, day_of
from satellite.indices import available_indices, band_roles, index_values
from satellite.responses import CLASSES, CONFIDENCES, Responses
from satellite.sampling import STRATA, MapBreak, Sample, SamplePoint, write_file
from satellite.stack import Stack
from satellite.types import Cube, Observed

_COMPOSITES: Mapping[str, tuple[str, str, str]] = {"true": ("red", "green", "blue"), "false": ("nir", "red", "green")}
_GAMMA = 0.7
"""Exponent of the pictures: forest is dark beside sand."""
_GREY = (180, 180, 180)
_SPRITE_COLUMNS = 8
_POLICY = "default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormConfig:
    """What the pictures show.

    half_width: of each picture, px around the point's pixel; 16 shows 330 m at 10 m, enough to know a field or a bank by.
    pictures: most dates of a point; more make the file larger (about 3 kB each and composite).
    clear_share: of a picture that must be clear (1); where no date has so much, any date on which the pixel itself is clear.
    block_values: most values read at once (200 MB as int16); more only where one point alone needs more.
    """

    half_width: int = 16
    pictures: int = 24
    clear_share: float = 0.7
    block_values: int = 100_000_000

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "half_width": (4, 64),
            "pictures": (2, 200),
            "clear_share": (0, 1),
            "block_values": (1, 10**10),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointView:
    """What the scenes show around one point.

    dates: of the pictures, in order of time. composites: name -> (n, s, s, 4) uint8, alpha 0 = cloud, no data or outside.
    series: index -> ((date, value) of every clear observation of the pixel).
    """

    dates: tuple[date, ...]
    composites: Mapping[str, NDArray[np.uint8]]
    series: Mapping[str, tuple[tuple[date, float], ...]]


def _window_of(shape: tuple[int, int], row: int, col: int, half: int) -> tuple[Window, tuple[int, int]]:
    """The part of a grid around a pixel, and where its corner lies in a square of 2 half + 1."""
    top, left = max(0, row - half), max(0, col - half)
    bottom, right = min(shape[0], row + half + 1), min(shape[1], col + half + 1)
    window = Window(left, top, right - left, bottom - top)  # type: ignore[call-arg]
    return window, (top - row + half, left - col + half)


_Choice = Callable[[NDArray[np.integer[Any]], NDArray[np.float64]], list[int]]
"""Positions of the dates to show, from all days and how much of the picture is clear on each (0 = not to be used)."""
_VEILED_DAYS = 200.0
"""A picture all under cloud counts as so many days farther away than a clear one: a little cloud is taken for a good date."""


def spread_days(days: NDArray[np.integer[Any]], clear: NDArray[np.float64], count: int) -> list[int]:
    """Positions of at most `count` usable days, spread evenly over the time from the first to the last of all days.

    clear: (t,) share of the picture that is clear (1), 0 = not usable.
    """
    usable = [int(i) for i in np.flatnonzero(clear > 0)]
    if len(usable) <= count:
        return usable
    chosen: list[int] = []
    for target in np.linspace(float(days[0]), float(days[-1]), count):
        free = [i for i in usable if i not in chosen]
        chosen.append(min(free, key=lambda i: (abs(float(days[i]) - target) + _VEILED_DAYS * (1 - clear[i]), i)))
    return sorted(chosen)


def season_days(days: NDArray[np.integer[Any]], clear: NDArray[np.float64]) -> list[int]:
    """Positions of one usable day a year, all of the season in which most years have one (within 30 days)."""
    usable = [int(i) for i in np.flatnonzero(clear > 0)]
    if not usable:
        return []
    dates = {i: day_of(int(days[i])) for i in usable}
    years = sorted({d.year for d in dates.values()})

    def near(season: int) -> list[int]:
        found = set()
        for year in years:
            apart = {i: abs((d - date(year, 1, 1)).days - season) for i, d in dates.items()}
            close = [i for i in usable if apart[i] <= 30]
            if close:
                found.add(min(close, key=lambda i: (apart[i] + _VEILED_DAYS * (1 - clear[i]), i)))
        return sorted(found)

    # Mid-summer is preferred where years tie: leaves are out, no snow.
    return max((near(season) for season in range(15, 366, 10)), key=lambda found: (len(found), -_from_summer(days, found)))


def _from_summer(days: NDArray[np.integer[Any]], found: Sequence[int]) -> float:
    apart = [abs(day_of(int(days[i])).timetuple().tm_yday - 200) for i in found]
    return sum(apart) / len(apart) if apart else 366.0


def _views(
    sample: Sample, stack: Stack, points: Sequence[SamplePoint], config: FormConfig, choose: Callable[[SamplePoint], _Choice]
) -> Iterator[tuple[SamplePoint, PointView]]:
    """What the scenes show around each point, in any order. Points that lie together are read together: opening every scene for
    every point is what takes the time."""
    first = _offset(sample, stack)
    places = [(point.row + first[0], point.col + first[1]) for point in points]
    half, shape = config.half_width, stack.grid.shape
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    top, left = (int(v) for v in np.maximum(0, low - half))
    bottom, right = (int(v) for v in np.minimum(shape, high + half + 1))
    cells = (bottom - top) * (right - left)
    if len(points) > 1 and cells * len(stack.days) * (len(stack.spec.bands) + 1) > config.block_values:
        axis = int(np.argmax(high - low))
        order = sorted(range(len(points)), key=lambda i: (places[i][axis], points[i].id))
        for part in (order[: len(order) // 2], order[len(order) // 2 :]):
            yield from _views(sample, stack, [points[i] for i in part], config, choose)
        return
    block = read_block(stack, Window(left, top, right - left, bottom - top))  # type: ignore[call-arg]
    for point, (row, col) in zip(points, places, strict=True):
        window, corner = _window_of(shape, row, col, half)
        rows = slice(int(window.row_off) - top, int(window.row_off + window.height) - top)
        cols = slice(int(window.col_off) - left, int(window.col_off + window.width) - left)
        cube = replace(
            block,
            stored=block.stored[:, :, rows, cols],
            observed=block.observed[:, rows, cols],
            grid=window_grid(stack.grid, window),
        )
        yield point, _view(cube, row - int(window.row_off), col - int(window.col_off), corner, config, choose(point))


def _view(cube: Cube, row: int, col: int, corner: tuple[int, int], config: FormConfig, choose: _Choice) -> PointView:
    half, (top, left) = config.half_width, corner
    clear = cube.observed == Observed.CLEAR
    pixel = clear[:, row, col]
    share = clear.mean(axis=(1, 2)) * pixel
    good = share >= config.clear_share
    chosen = choose(cube.days, share * good if good.any() else share)
    size, roles = 2 * half + 1, band_roles(cube.bands)
    kinds = {kind: [roles[r] for r in names] for kind, names in _COMPOSITES.items() if all(r in roles for r in names)}
    composites: dict[str, NDArray[np.uint8]] = {}
    pictures = [cube.image(index) for index in chosen]
    for kind, bands in (kinds or {"grey": [0]}).items() if pictures else ():
        limits = shared_limits(np.concatenate([picture[bands] for picture in pictures], axis=2))
        tiles = np.zeros((len(chosen), size, size, 4), np.uint8)
        for n, picture in enumerate(pictures):
            image, _ = stretch(picture[bands], limits, gamma=_GAMMA)
            tiles[n, top : top + image.shape[0], left : left + image.shape[1]] = image
        composites[kind] = tiles
    values = cube.at(np.array([row]), np.array([col]))[:, :, 0]
    series = {}
    with np.errstate(all="ignore"):
        for name in available_indices(cube.bands):
            line = index_values(name, values, cube.bands, axis=1)
            seen = np.flatnonzero(pixel & np.isfinite(line))
            series[name] = tuple((day_of(int(cube.days[i])), float(line[i])) for i in seen)
    return PointView(dates=tuple(day_of(int(cube.days[i])) for i in chosen), composites=composites, series=series)


def point_views(
    sample: Sample, stack: Stack, points: Sequence[SamplePoint], config: FormConfig
) -> Iterator[tuple[SamplePoint, PointView]]:
    """Pictures spread evenly over the whole period, and the series of the pixel, of each point, in any order.

    Raises GridMismatchError: the scenes lie on another grid than the sample.
    """
    return _views(sample, stack, points, config, lambda _: lambda days, clear: spread_days(days, clear, config.pictures))


def _offset(sample: Sample, stack: Stack) -> tuple[int, int]:
    """(row, col) on the grid of the scenes of the map's first cell. Raises GridMismatchError where the cells are not the same.

    A GeoTIFF may write a reference system with other words than it was given, so systems are compared by where they put the
    corners of the map: within a hundredth of a cell.
    """
    one, other = sample.grid, stack.grid
    (rows, cols), step = one.shape, min(one.resolution)
    col, row = ~other.transform @ (one.transform @ (0, 0))
    end_col, end_row = ~other.transform @ (one.transform @ (cols, rows))
    place = np.array([row, col, end_row - rows, end_col - cols])
    first = np.rint(place[:2]).astype(int)
    same = bool(np.abs(place - np.tile(first, 2)).max() <= 0.01) and first.min() >= 0
    same = same and first[0] + rows <= other.shape[0] and first[1] + cols <= other.shape[1]
    if same and one.crs != other.crs:
        limit = 0.01 * step / (1.0 if one.crs.is_geographic else 111_320.0)
        corners = [one.transform @ corner for corner in ((0, 0), (cols, 0), (0, rows), (cols, rows))]
        here, there = (np.array([transformer(crs, WGS84).transform(*c) for c in corners]) for crs in (one.crs, other.crs))
        same = bool(np.abs(here - there).max() <= limit)
    if not same:
        raise GridMismatchError("satellite.sample_other_grid")
    return int(first[0]), int(first[1])


# The page ------------------------------------------------------------------------------------------------------------


def write_form(
    sample: Sample,
    stack: Stack,
    path: Path,
    *,
    config: FormConfig | None = None,
    differing: Sequence[Responses] = (),
    lang: Lang = "zh",
    progress: Progress = no_progress,
) -> int:
    """Write the response form of a sample as one HTML file; gives the number of points in it.

    Same sample, scenes and settings give the same bytes.

    Args:
        stack: the scenes of the map. differing: answers of two or more interpreters; then the form holds only the points on which they
            differ, with what each said, for a common decision. lang: shown first; the page can switch.

    Raises:
        GridMismatchError: the scenes lie on another grid than the sample. ConfigError: nothing to decide.
    """
    config = config or FormConfig()
    _offset(sample, stack)
    points = [point for point in sample.points if not differing or _differ(point.id, differing)]
    if not points:
        raise ConfigError("satellite.form_nothing_differs")
    entries = []
    for number, (point, view) in enumerate(point_views(sample, stack, points, config), start=1):
        entries.append(_entry(sample, point, view, differing))
        progress("satellite.stage_chips", number / len(points))
    entries.sort(key=lambda entry: str(entry["id"]))
    pixel = sample.cell_area_m2**0.5
    prefix = "satellite.form_"
    data = {
        "adjudication": bool(differing),
        "classes": list(CLASSES),
        "confidences": [value for value in CONFIDENCES if value],
        "file": "settled" if differing else "answers",
        "first": stack.days[0].isoformat(),
        "lang": lang,
        "last": stack.days[-1].isoformat(),
        "pixel_m": f"{pixel:.3g}",
        "points": entries,
        "kinds": [*_COMPOSITES, "grey"],
        "sample": sample.digest,
        "size": 2 * config.half_width + 1,
        "synthetic": sample.synthetic,
        "texts": {
            each: {name.removeprefix(prefix): text for name, text in texts(each).items() if name.startswith(prefix)}
            for each in LANGUAGES
        },
        "width_m": f"{pixel * (2 * config.half_width + 1):.0f}",
    }
    write_file(Path(path), page_bytes(data))
    return len(points)


def _differ(point: str, responses: Sequence[Responses]) -> bool:
    return len({each.answers[point].change for each in responses if point in each.answers}) > 1


def _entry(sample: Sample, point: SamplePoint, view: PointView, differing: Sequence[Responses]) -> dict[str, Any]:
    lon, lat = sample.place(point)
    former = [(each.interpreter, each.answers[point.id]) for each in differing if point.id in each.answers]
    return {
        "id": point.id,
        "place": f"{abs(lat):.6f}°{'N' if lat >= 0 else 'S'} {abs(lon):.6f}°{'E' if lon >= 0 else 'W'}",
        "dates": [day.isoformat() for day in view.dates],
        "sprites": {kind: _sprite(tiles) for kind, tiles in view.composites.items()},
        "series": {name: [[day.isoformat(), f"{value:.3f}"] for day, value in line] for name, line in view.series.items()},
        "former": [
            {
                "interpreter": name,
                "change": said.change,
                "last_before": "" if said.last_before is None else said.last_before.isoformat(),
                "first_after": "" if said.first_after is None else said.first_after.isoformat(),
                "note": said.note,
            }
            for name, said in former
        ],
    }


def _sprite(tiles: NDArray[np.uint8]) -> str:
    """All pictures of one kind in one PNG, row by row, as a data address; what is missing is grey."""
    count, size = tiles.shape[:2]
    columns = min(count, _SPRITE_COLUMNS)
    lines = -(-count // columns)
    sheet = np.full((lines * size, columns * size, 3), _GREY[0], np.uint8)
    for n, tile in enumerate(tiles):
        row, col = divmod(n, columns)
        sheet[row * size : (row + 1) * size, col * size : (col + 1) * size] = _on_grey(tile)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _on_grey(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(tile[..., 3:] > 0, tile[..., :3], np.array(_GREY, np.uint8))


def page_bytes(data: Mapping[str, Any]) -> bytes:
    """The page with its data; a policy (CSP) lets this script and this style run, and nothing else."""
    script, style = _source("form.js"), _source("form.css")
    policy = _POLICY.format(script=_digest(script), style=_digest(style))
    # Inside a script element "<" could end it: JSON knows another way to write it.
    stored = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
    html = _source("form.html")
    for place, text in {"__POLICY__": policy, "__STYLE__": style, "__SCRIPT__": script, "__DATA__": stored}.items():
        html = html.replace(place, text)
    return (html + "\n").encode("utf-8")


def _source(name: str) -> str:
    data = pkgutil.get_data("satellite", f"form/{name}")
    if data is None:
        raise FileNotFoundError(name)
    return data.decode("utf-8").strip("\n")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


# Contact sheets ------------------------------------------------------------------------------------------------------

_ZOOM, _GAP, _LEFT, _PLOT = 3, 4, 132, 460
_WARN, _MARK, _INK, _PALE, _BREAK, _BAND = (
    (192, 0, 0),
    (0, 229, 255),
    (29, 39, 51),
    (201, 210, 220),
    (242, 183, 5),
    (253, 238, 184),
)


def contact_sheet(
    sample: Sample,
    stack: Stack,
    out: Path,
    *,
    per_page: int = 6,
    pictures: int = 8,
    reveal: bool = False,
    config: FormConfig | None = None,
    lang: Lang = "zh",
    progress: Progress = no_progress,
) -> tuple[Path, ...]:
    """PNG pages `sheet-01.png` ... with a row a point: pictures of one season year by year, and the series of the pixel.

    Args:
        out: folder, made if missing. per_page: points of a page. pictures: most pictures of a row.
        reveal: also show what the map says: its claim, the interval of each break in the series, and the last picture before and
            the first after the first break, framed. Not for interpreters of an assessment.

    Raises:
        GridMismatchError: the scenes lie on another grid. ConfigError: the fonts of set-up are missing.
    """
    config = config or FormConfig()
    for name, value, low, high in (("per_page", per_page, 1, 50), ("pictures", pictures, 2, 20)):
        if not low <= value <= high:
            raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)
    _offset(sample, stack)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    views: dict[str, PointView] = {}
    for point, view in _views(sample, stack, sample.points, config, lambda p: _sheet_choice(p if reveal else None, pictures)):
        views[point.id] = view
        progress("satellite.stage_chips", len(views) / len(sample.points))
    pages = [sample.points[start : start + per_page] for start in range(0, len(sample.points), per_page)]
    written = []
    for number, points in enumerate(pages, start=1):
        rows = [(point, views[point.id]) for point in points]
        path = out / f"sheet-{number:02d}.png"
        title = render("satellite.sheet_title", {"page": number, "pages": len(pages)}, lang)
        write_file(path, _page(sample, stack, rows, title, pictures, reveal, config, lang))
        written.append(path)
    return tuple(written)


def interval_of(found: MapBreak) -> tuple[int, int]:
    """The interval of a break, days; its date alone where the map holds no more."""
    known = (found.last_clear_before, found.first_clear_after)
    return tuple(found.break_date if day is None else day for day in known)  # type: ignore[return-value]


def _sheet_choice(revealed: SamplePoint | None, pictures: int) -> _Choice:
    def choose(days: NDArray[np.integer[Any]], clear: NDArray[np.float64]) -> list[int]:
        around: set[int] = set()
        if revealed is not None and revealed.breaks:
            first, last = interval_of(revealed.breaks[0])
            before, after = (np.flatnonzero((clear > 0) & side) for side in (days <= first, days >= last))
            around = {int(i) for i in (*before[-1:], *after[:1])}
        yearly = [i for i in season_days(days, clear) if i not in around]
        room = pictures - len(around)
        spread = [int(i) for i in np.unique(np.linspace(0, len(yearly) - 1, min(room, len(yearly))).round().astype(int))]
        return sorted({*around, *(yearly[i] for i in spread)})

    return choose


def _fonts(size: int) -> ImageFont.FreeTypeFont:
    path = resources.files("geoevidence") / "fonts" / "NotoSansSC-400.ttf"
    if not path.is_file():
        raise ConfigError("core.fonts_missing", path=path.name)
    return ImageFont.truetype(io.BytesIO(path.read_bytes()), size)


def _page(
    sample: Sample,
    stack: Stack,
    rows: Sequence[tuple[SamplePoint, PointView]],
    title: str,
    pictures: int,
    reveal: bool,
    config: FormConfig,
    lang: Lang,
) -> bytes:
    side = (2 * config.half_width + 1) * _ZOOM
    kinds = max((len(view.composites) for _, view in rows), default=1) or 1
    height = kinds * (side + _GAP) + 26
    width = _LEFT + pictures * (side + _GAP) + _PLOT
    sheet = Image.new("RGB", (width, 62 + len(rows) * height), "white")
    pen, small, large = ImageDraw.Draw(sheet), _fonts(13), _fonts(18)
    pen.text((8, 6), title, _INK, large)
    colours = " / ".join(render(f"satellite.form_colours_{kind}", {}, lang) for kind in (rows[0][1].composites if rows else ()))
    pixel = sample.cell_area_m2**0.5
    size = f"{pixel * (2 * config.half_width + 1):.0f}"
    pen.text((8, 34), render("satellite.sheet_note", {"colours": colours, "size": size}, lang), _INK, small)
    if sample.synthetic:
        pen.text((width - 140, 8), render("core.synthetic", {}, lang), _WARN, large)
    for n, (point, view) in enumerate(rows):
        top = 62 + n * height
        pen.line((0, top - 3, width, top - 3), _PALE)
        lon, lat = sample.place(point)
        words = [point.id, f"{lat:.5f}", f"{lon:.5f}", *(_claim(point, lang) if reveal else ())]
        for line, word in enumerate(words):
            pen.text((8, top + 2 + 18 * line), word, _INK, large if line == 0 else small)
        framed = _beside(view.dates, point) if reveal else ()
        for index, day in enumerate(view.dates):
            left = _LEFT + index * (side + _GAP)
            for level, tiles in enumerate(view.composites.values()):
                _tile(sheet, pen, tiles[index], (left, top + 20 + level * (side + _GAP)), side, config.half_width)
            pen.text((left + 10, top), day.isoformat(), _INK, small)
            if index in framed:
                pen.rectangle(
                    (left - 2, top + 18, left + side + 1, top + 20 + kinds * (side + _GAP) - 3), outline=_BREAK, width=2
                )
        if not view.dates:
            pen.text((_LEFT, top + 40), render("satellite.sheet_no_dates", {}, lang), _WARN, large)
        _small_plot(pen, small, point, view, stack, (width - _PLOT + 10, top, width - 12, top + height - 8), reveal)
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _beside(dates: Sequence[date], point: SamplePoint) -> tuple[int, ...]:
    """Positions of the last picture before the first break of the map, and of the first after it."""
    if not point.breaks:
        return ()
    before, after = (day_of(day) for day in interval_of(point.breaks[0]))
    return tuple(
        [i for i, day in enumerate(dates) if day <= before][-1:] + [i for i, day in enumerate(dates) if day >= after][:1]
    )


def _claim(point: SamplePoint, lang: Lang) -> list[str]:
    claim = STRATA[point.stratum]
    if claim == "change":
        said = render("satellite.sheet_change", {}, lang)
        return [
            render("satellite.sheet_map", {"claim": said}, lang),
            *(day_of(b.break_date).isoformat() for b in point.breaks[:6]),
        ]
    said = render("satellite.sheet_no_change" if claim == "no_change" else "satellite.sheet_undecided", {}, lang)
    return [render("satellite.sheet_map", {"claim": said}, lang)]


def _tile(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: NDArray[np.uint8], place: tuple[int, int], side: int, half: int
) -> None:
    left, top = place
    sheet.paste(Image.fromarray(_on_grey(tile)).resize((side, side), Image.Resampling.NEAREST), place)
    low, high = half * _ZOOM - 1, (half + 1) * _ZOOM
    pen.rectangle((left + low, top + low, left + high, top + high), outline=_MARK)
    centre = half * _ZOOM + _ZOOM // 2
    for step in (-1, 1):
        near, far = centre + step * 8, centre + step * 14
        pen.line((left + near, top + centre, left + far, top + centre), _MARK)
        pen.line((left + centre, top + near, left + centre, top + far), _MARK)


def _small_plot(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    point: SamplePoint,
    view: PointView,
    stack: Stack,
    box: tuple[int, int, int, int],
    reveal: bool,
) -> None:
    """The first two indices of the pixel over time; with `reveal` the interval of each break."""
    left, top, right, bottom = box[0] + 30, box[1] + 18, box[2], box[3] - 16
    colours = ((27, 108, 168), (193, 102, 11))
    shown = [(name, line) for name, line in view.series.items() if line][:2]
    values = [value for _, line in shown for _, value in line]
    if not values:
        return
    low, high = min(values) - 0.03, max(values) + 0.03
    start, end = stack.days[0].toordinal(), max(stack.days[-1].toordinal(), stack.days[0].toordinal() + 1)

    def x(day: int) -> float:
        return left + (day - start) / (end - start) * (right - left)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (bottom - top)

    if reveal:
        for each in point.breaks:
            days = [day_of(number).toordinal() for number in interval_of(each)]
            pen.rectangle((x(days[0]), top, max(x(days[1]), x(days[0]) + 2), bottom), fill=_BAND)
    for year in range(stack.days[0].year, stack.days[-1].year + 1):
        at = x(date(year, 1, 1).toordinal())
        if left <= at <= right:
            pen.line((at, top, at, bottom), _PALE)
            if at + 30 <= right:
                pen.text((at + 2, bottom + 1), str(year), _INK, font)
    pen.rectangle((left, top, right, bottom), outline=_PALE)
    for value in (low + 0.03, high - 0.03):
        pen.text((box[0] - 8, y(value) - 8), f"{value:.2f}", _INK, font)
    for n, (name, line) in enumerate(shown):
        pen.text((left + 80 * n, box[1] - 1), name, colours[n], font)
        for day, value in line:
            across, down = x(day.toordinal()), y(value)
            pen.ellipse((across - 2, down - 2, across + 2, down + 2), fill=colours[n])
