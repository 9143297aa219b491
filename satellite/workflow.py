"""From a folder of scenes to dated findings: the process `satellite.monitor`.

`monitor` works on plain files and leaves a result folder (docs/formats/result.md); `monitor_case` does the same inside
a case. Memory is bounded by `block_bytes`, not by the size of the area: the grid is worked off in blocks of rows, and
each event reads its own window again.
"""

from __future__ import annotations

import csv
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.windows import Window
from shapely.geometry import box, mapping

from geoevidence import comparison
from geoevidence.comparison import Tolerance
from geoevidence.crs import parse_crs, report_crs, transformer
from geoevidence.custody.case import Case, StoredResult
from geoevidence.errors import ConfigError, CoverageError
from geoevidence.figures import map_picture, series_plot, shared_limits, stretch
from geoevidence.messages import render
from geoevidence.raster import Raster, read_raster, write_cog
from geoevidence.types import (
    EvidenceItem,
    Finding,
    Lang,
    Message,
    ProcessResult,
    Product,
    Progress,
    Quantity,
    config_from_parameters,
    decimal_text,
    no_progress,
)
from satellite.cube import read_block, row_blocks, window_grid
from satellite.events import (
    WGS84,
    EventConfig,
    EventSeries,
    PixelGroup,
    day_of,
    event_area,
    event_series,
    events_geojson,
    ground_area,
    group_mask,
    group_pixels,
    make_event,
    moved,
    outline,
    write_geopackage,
)
from satellite.harmonics import design_matrix, fit_series
from satellite.indices import band_roles
from satellite.scenes import Stack, read_scenes
from satellite.segment import BreakConfig, detect_block, join_rows, keep_supported, require_history
from satellite.types import NODATE, BreakMap, ChangeEvent, Cube, Observed, Pace, Status

PROCESS = "satellite.monitor"
_EPOCH = date(1970, 1, 1).toordinal()
_GAMMA = 0.7
"""Exponent of the pictures: forest is dark beside sand."""
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """What is asked of `satellite.monitor`. An empty or None field takes what `stack.toml` or the files say.

    scale, offset: physical value = stored x scale + offset. bands: names to use, in file order. quality: name of the
    quality band. clear: its values that count as clear. min_pixels: smallest event, pixels (also in `events`).
    report_crs: EPSG code text of the findings' geometry, "" = chosen from the place. lang: of the words in pictures.
    block_bytes: memory for the values of one block, bytes. breaks, events: see `BreakConfig`, `EventConfig`.
    """

    scale: float | None = None
    offset: float | None = None
    bands: tuple[str, ...] = ()
    quality: str = ""
    clear: tuple[int, ...] = ()
    min_pixels: int = 10
    report_crs: str = ""
    lang: Lang = "zh"
    block_bytes: int = 400_000_000
    breaks: BreakConfig = field(default_factory=BreakConfig)
    events: EventConfig = field(default_factory=EventConfig)

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < 1e6:
            raise ConfigError("satellite.setting_out_of_range", name="scale", value=self.scale, low=0, high=1e6)
        if self.min_pixels < 1:
            raise ConfigError("satellite.setting_out_of_range", name="min_pixels", value=self.min_pixels, low=1, high="-")
        if self.lang not in ("zh", "en"):
            raise ConfigError("satellite.unknown_setting", name=f"lang = {self.lang}", known="zh, en")
        object.__setattr__(self, "events", replace(self.events, min_pixels=self.min_pixels))

    def replace(self, **changes: Any) -> MonitorConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def read(cls, path: Path) -> MonitorConfig:
        """The configuration in a TOML file, with tables `breaks` and `events`. Raises ConfigError."""
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError("satellite.bad_stack_file", path=Path(path).name, reason=str(error)) from error
        return _from_table(cls, raw)

    def to_parameters(self) -> dict[str, Any]:
        """All fields as I-JSON without floats, defaults included."""
        return _parameters(self)


def _from_table(kind: type, table: Mapping[str, Any]) -> Any:
    """A config of `kind` from a TOML table: unknown keys and wrong types are errors."""
    default = kind()
    known = {f.name: getattr(default, f.name) for f in fields(kind)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise ConfigError("satellite.unknown_setting", name=name, known=", ".join(sorted(known)))
        old = known[name]
        if is_dataclass(old):
            if not isinstance(value, dict):
                raise ConfigError("satellite.setting_type", name=name, found=type(value).__name__)
            values[name] = _from_table(type(old), value)
            continue
        expected = (list,) if isinstance(old, tuple) else (int, float) if old is None or isinstance(old, float) else (type(old),)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ConfigError("satellite.setting_type", name=name, found=type(value).__name__)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _parameters(config: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return _parameters(value)
        if isinstance(value, tuple):
            return [plain(part) for part in value]
        return decimal_text(value) if isinstance(value, float) else value

    return {f.name: plain(getattr(config, f.name)) for f in fields(config)}


def monitor(
    source: Path,
    *,
    out: Path,
    config: MonitorConfig | None = None,
    progress: Progress = no_progress,
    threads: int | None = None,
) -> ProcessResult:
    """Find dated, lasting changes in a stack of scenes and write the result folder.

    Args:
        source: folder of scenes or NetCDF cube (docs/formats/scenes.md). out: folder for the products; made if missing,
            must be empty. config: None = defaults. threads: at most so many; results do not depend on it.

    Returns:
        The result that was written: one finding an event, or one that says that none was found among how many pixels.

    Raises:
        InputError, ConfigError: see `read_scenes`. HistoryTooShortError: less than `min_history_days`.
        CoverageError: no scene, or not one clear pixel.
    """
    config = config or MonitorConfig()
    threads = threads or min(os.cpu_count() or 1, 8)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ConfigError("satellite.out_not_empty", path=out.name)
    progress("satellite.stage_scenes", 0.0)
    stack = read_scenes(source, _stated(config))
    require_history(np.array([day.toordinal() for day in stack.days], np.int32), config.breaks)
    breaks, tally, failed, whole = _scan(stack, config, threads, progress)
    if not breaks.observations.any():
        raise CoverageError("satellite.nothing_clear", scenes=len(stack.days))
    target = parse_crs(config.report_crs) if config.report_crs else _report_crs_of(stack)
    groups, left_over = group_pixels(breaks, config.events)
    writer = _Writer(out, stack, config)
    writer.rasters(breaks)
    writer.scenes(tally, failed)
    taken = group_mask(groups, stack.grid)
    events: list[ChangeEvent] = []
    for index, group in enumerate(groups, start=1):
        progress("satellite.stage_events", 0.6 + 0.35 * index / len(groups))
        events.append(writer.event(f"S-{index:03d}", group, breaks, whole, taken))
    writer.vectors(events, target)
    writer.preview(events, tally)
    findings = [_event_finding(event, stack, config, target, writer.of_event(event.id), breaks) for event in events]
    if not findings:
        findings = [_nothing_finding(stack, config, target, breaks)]
    result = ProcessResult(
        process=PROCESS,
        parameters={**config.to_parameters(), "stack": _parameters(stack.spec)},
        seed=None,
        products=tuple(sorted(writer.products, key=lambda product: product.path)),
        findings=tuple(findings),
        gaps=_gaps(stack, config, breaks, tally, failed, left_over),
        synthetic=stack.spec.synthetic,
    )
    result.write(out)
    progress("satellite.stage_done", 1.0)
    return result


def monitor_case(
    case: Case, items: Sequence[EvidenceItem], *, config: MonitorConfig | None = None, progress: Progress = no_progress
) -> StoredResult:
    """`monitor` on items of a case; the result is recorded in its log. Raises as `monitor`, and CustodyError."""
    config = config or MonitorConfig()
    with case.derivation(process=PROCESS, inputs=items, parameters=config.to_parameters()) as derivation:
        result = monitor(source_in(derivation.folder), out=derivation.out, config=config, progress=progress)
        return derivation.commit(result)


def figures_again(former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
    """The areas of a result's events, measured again from its break map and the scenes: finding id -> quantity.

    The break map is read from the derived rasters; which pixels belong together, their interval and their changed area
    are found again, not read. Empty where no event was found.

    Args:
        former: the result as recorded. products: folder with its products. inputs: folder with the scenes.
    """
    config = _recorded_config(former)
    stack = read_scenes(source_in(inputs), _stated(config))
    by_kind = {product.kind: products / product.path for product in former.products}
    breaks = _read_breaks(by_kind, stack)
    groups, _ = group_pixels(breaks, config.events)
    taken = group_mask(groups, stack.grid)
    figures = {}
    for index, group in enumerate(groups, start=1):
        window = _chip_window(group, stack.grid.shape)
        corner = (int(window.row_off), int(window.col_off))
        cube = read_block(stack, window)
        area = event_area(group, outline(group, stack.grid), breaks, stack.grid, cube, corner, taken, config.events)
        figures[f"S-{index:03d}"] = area
    return figures


def run_again(former: ProcessResult, *, inputs: Path, out: Path, progress: Progress = no_progress) -> ProcessResult:
    """`monitor` again on the scenes in `inputs`, with the recorded parameters. Raises as `monitor`."""
    return monitor(source_in(inputs), out=out, config=_recorded_config(former), progress=progress)


TOLERANCES = {"magnitude": Tolerance(value=1e-4, share=0.0)}
"""Dates, counts and states are whole numbers and must be the same; magnitudes may move in their last digits."""


def compare_product(product: Product, stated: Path, found: Path) -> tuple[str, str]:
    """How a product made again differs from the recorded one, whose bytes differ: status, and where."""
    likeness = comparison.compare_product(product, stated, found, tolerances=TOLERANCES)
    if likeness is not None:
        return likeness
    if product.kind == "events":
        return comparison.compare_values(_layers(stated), _layers(found))
    return "not_run", "other bytes; not compared by value"


def _layers(path: Path) -> dict[str, Any]:
    """The layers of a GeoPackage as GeoJSON values."""
    import geopandas

    names = sorted(geopandas.list_layers(path)["name"])
    layers = {name: geopandas.read_file(path, layer=name) for name in names}
    # dates are no JSON values; the CRS stands beside the features, not in them
    return {name: {"crs": str(layer.crs), **json.loads(layer.to_json(default=str))} for name, layer in layers.items()}


def _recorded_config(former: ProcessResult) -> MonitorConfig:
    parameters = {name: value for name, value in former.parameters.items() if name != "stack"}
    return config_from_parameters(MonitorConfig, parameters)


def _read_breaks(by_kind: Mapping[str, Path], stack: Stack) -> BreakMap:
    """The break map of the derived rasters, as `_Writer.rasters` wrote them."""
    dates, sizes = read_raster(by_kind["break_date"]).data, read_raster(by_kind["magnitude"])
    break_date, last_clear_before, first_clear_after = np.split(dates, 3)
    magnitude, score = np.split(sizes.data, 2)
    return BreakMap(
        grid=sizes.grid,
        first_day=stack.days[0].toordinal() - _EPOCH,
        last_day=stack.days[-1].toordinal() - _EPOCH,
        break_date=break_date,
        last_clear_before=last_clear_before,
        first_clear_after=first_clear_after,
        magnitude=magnitude,
        magnitude_of="",
        score=score,
        pace=np.where(break_date != NODATE, np.uint8(Pace.ABRUPT), np.uint8(Pace.NONE)),
        observations=read_raster(by_kind["observations"]).data[0],
        status=read_raster(by_kind["status"]).data[0],
    )


def source_in(folder: Path) -> Path:
    """The folder that holds the scenes: `folder`, or the only folder inside a folder without files, and so on."""
    entries = sorted(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        return source_in(entries[0])
    return folder


def _stated(config: MonitorConfig) -> dict[str, Any]:
    stated = {name: getattr(config, name) for name in ("scale", "offset", "bands", "quality", "clear")}
    return {name: value for name, value in stated.items() if value not in (None, (), "")}


def _report_crs_of(stack: Stack) -> CRS:
    rows, cols = stack.grid.shape
    lon, lat = transformer(stack.grid.crs, WGS84).transform(*(stack.grid.transform @ (cols / 2, rows / 2)))
    return report_crs(lon, lat)


def _scan(
    stack: Stack, config: MonitorConfig, threads: int, progress: Progress
) -> tuple[BreakMap, NDArray[np.int64], frozenset[str], Cube | None]:
    """Breaks of the whole grid; pixels by day and `Observed` (t, 4); failed reads; the cube where it is one block."""
    tally = np.zeros((len(stack.days), len(Observed)), np.int64)
    failed: set[str] = set()
    parts = []
    windows = list(row_blocks(stack, block_bytes=config.block_bytes))
    cube = None
    for index, window in enumerate(windows):
        cube = read_block(stack, window)
        progress("satellite.stage_breaks", 0.05 + 0.5 * (index + 0.3) / len(windows))
        for code in Observed:
            tally[:, code] += (cube.observed == code).sum(axis=(1, 2))
        failed.update(cube.failed)
        parts.append(detect_block(cube, config.breaks, threads=threads))
        progress("satellite.stage_breaks", 0.05 + 0.5 * (index + 1) / len(windows))
    return (
        keep_supported(join_rows(parts, stack.grid), config.breaks),
        tally,
        frozenset(failed),
        cube if len(windows) == 1 else None,
    )


# Products -------------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes the files of one result and remembers them as products."""

    def __init__(self, out: Path, stack: Stack, config: MonitorConfig) -> None:
        self._out, self._stack, self._config = out, stack, config
        self._lang: Lang = config.lang
        self._synthetic = stack.spec.synthetic
        self.products: list[Product] = []

    def _add(self, name: str, kind: str, media_type: str, **values: Any) -> Path:
        title = Message(id=f"satellite.title_{kind}", values=values)
        self.products.append(Product(path=name, kind=kind, media_type=media_type, title=title))
        return self._out / name

    def of_event(self, identity: str) -> tuple[str, ...]:
        """Paths of the products of one finding, and of those that show all."""
        return tuple(
            sorted(p.path for p in self.products if p.path.startswith(f"{identity}-") or p.kind in ("events", "preview"))
        )

    def rasters(self, breaks: BreakMap) -> None:
        tags = {"GEOEVIDENCE_SYNTHETIC": "yes"} if self._synthetic else {}
        depth = len(breaks.break_date)

        def write(kind: str, data: NDArray[Any], names: list[str], nodata: float | None, unit: str, **more: str) -> None:
            raster = Raster(data=data, grid=self._stack.grid, nodata=nodata, unit=unit)
            write_cog(self._add(f"{kind}.tif", kind, _COG), raster, band_names=names, tags={**tags, **more})

        dates = ("break_date", "last_clear_before", "first_clear_after")
        write(
            "break_date",
            np.concatenate([getattr(breaks, name) for name in dates]),
            [f"{name}_{k + 1}" for name in dates for k in range(depth)],
            NODATE,
            "d",
            MEANING="days since 1970-01-01",
        )
        write(
            "magnitude",
            np.concatenate([breaks.magnitude, breaks.score]),
            [f"{name}_{k + 1}" for name in ("magnitude", "score") for k in range(depth)],
            float("nan"),
            "1",
            MEANING=f"change of {breaks.magnitude_of}",
        )
        write("observations", breaks.observations[None], ["clear_observations"], None, "1")
        codes = ", ".join(f"{status.value}={status.name.lower()}" for status in Status)
        write("status", breaks.status[None], ["status"], None, "", MEANING=codes)

    def scenes(self, tally: NDArray[np.int64], failed: frozenset[str]) -> None:
        stack = self._stack
        record = {
            "schema": "geoevidence.scenes.v1",
            "layout": stack.layout,
            "stack": _parameters(stack.spec),
            "files": dict(stack.files),
            "scenes": [
                {
                    "name": scene.name,
                    "sha256": scene.sha256,
                    "acquired": None if scene.acquired is None else scene.acquired.isoformat(),
                    "sensor": scene.sensor,
                    "status": "failed_read" if scene.name in failed else scene.status,
                    "reason": None if scene.reason is None else scene.reason.render("en"),
                }
                for scene in stack.scenes
            ],
            "days": [
                {"date": day.isoformat(), **{code.name.lower(): int(counts[code]) for code in Observed}}
                for day, counts in zip(stack.days, tally, strict=True)
            ],
        }
        _write_json(self._add("scenes.json", "scenes", "application/json"), record)

    def vectors(self, events: Sequence[ChangeEvent], target: CRS) -> None:
        crs = self._stack.grid.crs
        name = "cgcs2000" if "CGCS2000" in target.name else "projected"
        path = self._add("events.gpkg", "events", "application/geopackage+sqlite3")
        write_geopackage(path, events, crs, layers={name: target, "wgs84": WGS84}, synthetic=self._synthetic)
        path = self._add("events.geojson", "events_geojson", "application/geo+json")
        _write_json(path, events_geojson(events, crs, synthetic=self._synthetic))

    def event(
        self, identity: str, group: PixelGroup, breaks: BreakMap, whole: Cube | None, taken: NDArray[np.bool_]
    ) -> ChangeEvent:
        """One event with its chips, its series and their picture."""
        window = _chip_window(group, self._stack.grid.shape)
        cube = _part(whole, window) if whole is not None else read_block(self._stack, window)
        corner = (int(window.row_off), int(window.col_off))
        rows, cols = group.rows - corner[0], group.cols - corner[1]
        series = event_series(cube, rows, cols)
        event = make_event(identity, group, breaks, self._stack.grid, cube, corner, taken, series, self._config.events)
        self._chips(event, cube, rows, cols)
        self._series(event, series)
        return event

    def _chips(self, event: ChangeEvent, cube: Cube, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> None:
        before = _chip_day(cube, rows, cols, last=event.last_clear_before)
        after = _chip_day(cube, rows, cols, first=event.first_clear_after)
        bands, colours = _picture_bands(cube.bands)
        pictures = [cube.image(index)[bands] for index in (before, after)]
        limits = shared_limits(np.concatenate(pictures, axis=2))
        for kind, index, picture in (("chip_before", before, pictures[0]), ("chip_after", after, pictures[1])):
            path = self._add(f"{event.id}-{kind}.png", kind, "image/png", finding=event.id)
            image, _ = stretch(picture, limits, gamma=_GAMMA)
            map_picture(
                path,
                image,
                cube.grid,
                title=render(f"satellite.picture_{kind}", {"finding": event.id}, self._lang),
                date_text=self._dated(day_of(int(cube.days[index]))),
                outlines=[event.polygon],
                note=render("satellite.picture_note", {"colours": render(colours, {}, self._lang)}, self._lang),
                synthetic=self._synthetic,
                lang=self._lang,
            )

    def _dated(self, day: date) -> str:
        sensor = self._stack.spec.sensor
        return f"{day.isoformat()}  {sensor}" if sensor and sensor != "synthetic" else day.isoformat()

    def _series(self, event: ChangeEvent, series: EventSeries) -> None:
        path = self._add(f"{event.id}-series.csv", "series", "text/csv", finding=event.id)
        with path.open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["date", "state", "clear_share", *series.indices])
            for index, day in enumerate(series.days):
                values = [v[index] for v in series.indices.values()]
                shown = ["" if np.isnan(v) else f"{v:.4f}" for v in values]
                state = Observed(int(series.state[index])).name.lower()
                table.writerow([day_of(int(day)).isoformat(), state, f"{series.clear[index]:.3f}", *shown])
        if not series.indices:
            return
        days = [day_of(int(day)) for day in series.days]
        main = event.magnitude_of if event.magnitude_of in series.indices else next(iter(series.indices))
        names = [main, *(name for name in series.indices if name != main)][:2]
        clear = (series.clear >= 0.5).tolist()
        path = self._add(f"{event.id}-series_plot.png", "series_plot", "image/png", finding=event.id)
        series_plot(
            path,
            series={name: (days, series.indices[name].tolist(), clear) for name in names},
            model=_fitted(series, main, event),
            interval=(event.last_clear_before, event.first_clear_after),
            break_date=event.break_date,
            y_label=" / ".join(names),
            title=render("satellite.picture_series", {"finding": event.id}, self._lang),
            synthetic=self._synthetic,
            lang=self._lang,
        )

    def preview(self, events: Sequence[ChangeEvent], tally: NDArray[np.int64]) -> None:
        """The whole area on the clearest day of the last two years, with all outlines."""
        stack = self._stack
        days = stack.days
        recent = [i for i, day in enumerate(days) if (days[-1] - day).days <= 731]
        chosen = max(recent, key=lambda i: (int(tally[i, Observed.CLEAR]), i))
        one_day = replace(stack, scenes=tuple(scene for scene in stack.usable if scene.acquired == days[chosen]))
        step = max(1, -(-max(stack.grid.shape) // 1500))
        strips = []
        rows, cols = stack.grid.shape
        for row in range(0, rows, 512 * step):
            part = read_block(one_day, Window(0, row, cols, min(512 * step, rows - row)))  # type: ignore[call-arg]
            strips.append(part.image(0)[:, ::step, ::step])
        bands, colours = _picture_bands(stack.spec.bands)
        picture = np.concatenate(strips, axis=1)[bands]
        image, _ = stretch(picture, shared_limits(picture), gamma=_GAMMA)
        grid = replace(
            stack.grid, shape=image.shape[:2], transform=stack.grid.transform @ type(stack.grid.transform).scale(step, step)
        )
        map_picture(
            self._add("preview.png", "preview", "image/png"),
            image,
            grid,
            title=render("satellite.picture_preview", {"count": len(events)}, self._lang),
            date_text=self._dated(days[chosen]),
            outlines=[event.polygon for event in events],
            note=render("satellite.picture_preview_note", {"colours": render(colours, {}, self._lang)}, self._lang),
            synthetic=self._synthetic,
            lang=self._lang,
        )


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _chip_window(group: PixelGroup, shape: tuple[int, int]) -> Window:
    """The group with as much again around it, at least 48 pixels where the grid has them."""

    def span(low: int, high: int, size: int) -> tuple[int, int]:
        length = min(size, max(48, 2 * (high - low + 1)))
        start = min(max(0, (low + high + 1 - length) // 2), size - length)
        return start, length

    row, height = span(int(group.rows.min()), int(group.rows.max()), shape[0])
    col, width = span(int(group.cols.min()), int(group.cols.max()), shape[1])
    return Window(col, row, width, height)  # type: ignore[call-arg]


def _part(cube: Cube, window: Window) -> Cube:
    rows = slice(int(window.row_off), int(window.row_off + window.height))
    cols = slice(int(window.col_off), int(window.col_off + window.width))
    return Cube(
        stored=cube.stored[:, :, rows, cols],
        observed=cube.observed[:, rows, cols],
        days=cube.days,
        bands=cube.bands,
        grid=window_grid(cube.grid, window),
        scale=cube.scale,
        offset=cube.offset,
        failed=cube.failed,
    )


def _chip_day(
    cube: Cube, rows: NDArray[np.intp], cols: NDArray[np.intp], *, last: date | None = None, first: date | None = None
) -> int:
    """The date nearest to the end of the interval on which the event and most of its surroundings are clear."""
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


def _picture_bands(bands: tuple[str, ...]) -> tuple[list[int], str]:
    """Positions of the three bands of a picture (or of one), and the message id that names the colours."""
    roles = band_roles(bands)
    for names, text in ((("red", "green", "blue"), "satellite.true_colour"), (("nir", "red", "green"), "satellite.false_colour")):
        if all(name in roles for name in names):
            return [roles[name] for name in names], text
    return [0], "satellite.grey"


def _fitted(series: EventSeries, name: str, event: ChangeEvent) -> tuple[list[date], list[float]] | None:
    """The seasonal model of the index before and after the interval, daily in steps of five days; NaN between."""
    values, days = series.indices[name], series.days
    good = np.isfinite(values) & (series.clear >= 0.5)
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


# Findings -------------------------------------------------------------------------------------------------------------


def _sources(stack: Stack) -> tuple[str, ...]:
    return tuple(sorted({f"sha256:{digest}" for digest in stack.files.values()}))


def _method(config: MonitorConfig) -> Message:
    return Message(id="satellite.method", values={"rate": f"{config.breaks.false_alarm_rate:g}"})


def _limits(stack: Stack, config: MonitorConfig, target: CRS) -> list[Message]:
    roles = band_roles(stack.spec.bands)
    size = _pixel_size(stack)
    limits = [
        Message(id="satellite.limit_cause"),
        Message(id="satellite.limit_pixel", values={"size": size, "count": config.min_pixels}),
        Message(id="satellite.limit_position"),
    ]
    if "green" in roles and ("swir1" in roles or "nir" in roles):
        limits.append(Message(id="satellite.limit_water", values={"days": config.breaks.water_run_days}))
    if not stack.spec.quality:
        limits.append(Message(id="satellite.limit_no_quality"))
    if "CGCS2000" in target.name and "CGCS2000" not in stack.grid.crs.name:
        limits.append(Message(id="satellite.limit_cgcs2000"))
    return limits


def _pixel_size(stack: Stack) -> str:
    """Side of a cell on the ground, m, as text."""
    rows, cols = stack.grid.shape
    west, north = stack.grid.transform @ (cols // 2, rows // 2)
    east, south = stack.grid.transform @ (cols // 2 + 1, rows // 2 + 1)
    area = ground_area(mapping(box(min(west, east), min(north, south), max(west, east), max(north, south))), stack.grid.crs)
    return f"{area**0.5:.3g}"


def _event_finding(
    event: ChangeEvent, stack: Stack, config: MonitorConfig, target: CRS, products: tuple[str, ...], breaks: BreakMap
) -> Finding:
    values = {
        "area": event.area,
        "start": event.last_clear_before,
        "end": event.first_clear_after,
        "pixels": len(event.pixels),
        "clear_before": event.clear_before,
        "clear_after": event.clear_after,
    }
    compared = [
        Message(id="satellite.index_change", values={"name": change.name, "before": change.before, "after": change.after})
        for change in event.indices
    ]
    limits = [
        Message(id="satellite.limit_interval", values={"date": event.break_date}),
        Message(id="satellite.limit_gap", values={"days": event.longest_gap_days}),
        *([Message(id="satellite.limit_diffuse")] if event.area.propagation == "satellite.area_propagation_diffuse" else []),
        *_limits(stack, config, target),
    ]
    return Finding(
        id=event.id,
        message=Message(id="satellite.change", values=values),
        facts=tuple(compared),
        quantity=event.area,
        geometry=moved(event.polygon, stack.grid.crs, target, digits=3),
        crs=f"EPSG:{target.to_epsg()}",
        period=(event.last_clear_before, event.first_clear_after),
        method=_method(config),
        sources=_sources(stack),
        limitations=tuple(limits),
        products=products,
        synthetic=stack.spec.synthetic,
    )


def _nothing_finding(stack: Stack, config: MonitorConfig, target: CRS, breaks: BreakMap) -> Finding:
    """What can be said when no event was found: among how many pixels, and how many were not seen well enough."""
    enough = int(((breaks.status == Status.NO_CHANGE) | (breaks.status == Status.CHANGE)).sum())
    values = {"enough": enough, "few": breaks.status.size - enough, "start": stack.days[0], "end": stack.days[-1]}
    return Finding(
        id="S-001",
        message=Message(id="satellite.no_change", values=values),
        period=(stack.days[0], stack.days[-1]),
        method=_method(config),
        sources=_sources(stack),
        limitations=(Message(id="satellite.limit_no_change"), *_limits(stack, config, target)),
        synthetic=stack.spec.synthetic,
    )


def _gaps(
    stack: Stack,
    config: MonitorConfig,
    breaks: BreakMap,
    tally: NDArray[np.int64],
    failed: frozenset[str],
    left_over: int,
) -> tuple[Message, ...]:
    gaps = [scene.reason for scene in stack.scenes if scene.reason is not None]
    gaps += [Message(id="satellite.scene_failed_read", values={"scene": name}) for name in sorted(failed)]
    counts = {status: int((breaks.status == status).sum()) for status in Status}
    undecided = {s: counts[s] for s in (Status.TOO_FEW, Status.CLOUD, Status.NOT_OBSERVED, Status.FAILED_READ)}
    if any(undecided.values()):
        values = {status.name.lower(): count for status, count in undecided.items()}
        gaps.append(Message(id="satellite.gap_undecided", values={"count": sum(undecided.values()), **values}))
    if left_over:
        gaps.append(Message(id="satellite.gap_small", values={"pixels": left_over, "min_pixels": config.min_pixels}))
    merged = len(stack.usable) - len(stack.days)
    if merged:
        gaps.append(Message(id="satellite.gap_same_day", values={"scenes": merged}))
    blind = int((tally[:, Observed.CLEAR] == 0).sum())
    if blind:
        gaps.append(Message(id="satellite.gap_blind_days", values={"days": blind, "total": len(stack.days)}))
    return tuple(gaps)
