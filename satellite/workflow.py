"""From a folder of scenes to dated findings: the process `satellite.monitor`.

`monitor` works on plain files and leaves a result folder (docs/formats/result.md); `monitor_case` does the same inside
a case. Memory is bounded by `block_bytes`, not by the size of the area: the grid is worked off in blocks of rows, and
each event reads its own window again.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
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
from geoevidence.figures import map_picture, shared_limits, stretch
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
from satellite.attribute import cover_indices
from satellite.coregistration import RegistrationConfig, RegistrationShifts, RegistrationStatus, measure_stack
from satellite.cube import StackReader, row_blocks
from satellite.events import (
    WGS84,
    EventConfig,
    PixelGroup,
    Registration,
    describe_event,
    event_window,
    events_geojson,
    ground_area,
    group_mask,
    group_pixels,
    moved,
    write_geopackage,
)
from satellite.evidence import GAMMA, EvidenceStyle, dated, painted, picture_bands, write_event_evidence, write_whole
from satellite.indices import band_roles
from satellite.scenes import read_scenes, scenes_record
from satellite.segment import BreakConfig, detect_block, join_rows, keep_supported, require_history
from satellite.stack import LevelStep, Stack
from satellite.types import NODATE, BlindPeriod, BreakMap, ChangeEvent, Cover, Cube, Observed, Pace, Status, SurfaceState

PROCESS = "satellite.monitor"
_EPOCH = date(1970, 1, 1).toordinal()
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_STATUS_COLOURS: dict[Status, tuple[int, int, int]] = {
    Status.OUTSIDE: (40, 40, 40),
    Status.NO_CHANGE: (214, 232, 205),
    Status.CHANGE: (192, 0, 0),
    Status.TOO_FEW: (250, 222, 140),
    Status.CLOUD: (222, 222, 222),
    Status.NOT_OBSERVED: (140, 140, 140),
    Status.FAILED_READ: (200, 0, 200),
}
_LISTED_PERIODS = 6
"""So many cloud-blind periods of an event are named one by one; the rest is counted, and all are in the GeoPackage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """What is asked of `satellite.monitor`. An empty or None field takes what `stack.toml` or the files say.

    scale, offset: physical value = stored x scale + offset. bands: names to use, in file order. quality: name of the
    quality band. clear: its values that count as clear. resolution, resampling, regrid, keep_odd: see `StackSpec`; 0, "" and
    False leave them to it. min_pixels: smallest event, pixels (also in `events`).
    min_confidence: an event whose probability is below this is counted as a gap and not listed (1); 0 lists all.
    report_crs: EPSG code text of the findings' geometry, "" = chosen from the place. lang: of the words in pictures.
    block_bytes: memory for the values of one block, bytes. breaks, events, registration: see `BreakConfig`, `EventConfig`,
    `RegistrationConfig`.
    """

    scale: float | None = None
    offset: float | None = None
    bands: tuple[str, ...] = ()
    quality: str = ""
    clear: tuple[int, ...] = ()
    resolution: float = 0.0
    resampling: str = ""
    regrid: bool = False
    keep_odd: bool = False
    min_pixels: int = 10
    min_confidence: float = 0.1
    report_crs: str = ""
    lang: Lang = "zh"
    block_bytes: int = 400_000_000
    breaks: BreakConfig = field(default_factory=BreakConfig)
    events: EventConfig = field(default_factory=EventConfig)
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < 1e6:
            raise ConfigError("satellite.setting_out_of_range", name="scale", value=self.scale, low=0, high=1e6)
        if self.min_pixels < 1:
            raise ConfigError("satellite.setting_out_of_range", name="min_pixels", value=self.min_pixels, low=1, high="-")
        if not 0 <= self.min_confidence < 1:
            raise ConfigError("satellite.setting_out_of_range", name="min_confidence", value=self.min_confidence, low=0, high=1)
        if self.lang not in ("zh", "en"):
            raise ConfigError("satellite.unknown_setting", name=f"lang = {self.lang}", known="zh, en")
        object.__setattr__(self, "events", replace(self.events, min_pixels=self.min_pixels))

    def replace(self, **changes: Any) -> MonitorConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def read(cls, path: Path) -> MonitorConfig:
        """The configuration in a TOML file, with tables `breaks`, `events` and `registration`. Raises ConfigError."""
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
        if not isinstance(value, expected) or isinstance(value, bool) is not isinstance(old, bool):
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
    with StackReader(stack, threads=threads) as reader:
        seen = _scan(stack, reader, config, threads, progress)
        breaks = seen.breaks
        if not breaks.observations.any():
            raise CoverageError("satellite.nothing_clear", scenes=len(stack.days))
        target = parse_crs(config.report_crs) if config.report_crs else _report_crs_of(stack)
        shifts = _shifts(stack, config, threads)
        writer = _Writer(out, stack, config)
        writer.rasters(breaks)
        writer.scenes(seen, shifts)
        groups, left_over = group_pixels(breaks, config.events)
        doubtful: list[ChangeEvent] = []
        events: list[ChangeEvent] = []
        for event, cube, corner in _events(groups, breaks, reader, seen.whole, shifts, config):
            progress("satellite.stage_events", 0.6 + 0.35 * (len(events) + len(doubtful) + 1) / len(groups))
            if event.confidence < config.min_confidence:
                doubtful.append(event)
                continue
            events.append(replace(event, id=f"S-{len(events) + 1:03d}"))
            writer.event(events[-1], cube, corner)
        writer.vectors(events, target)
        writer.preview(events, seen.tally)
        writer.status_map(breaks)
    findings = [_event_finding(event, stack, config, target, writer.of_event(event.id)) for event in events]
    if not findings:
        findings = [_nothing_finding(stack, config, target, breaks)]
    result = ProcessResult(
        process=PROCESS,
        parameters={**config.to_parameters(), "stack": _parameters(stack.spec)},
        seed=None,
        products=tuple(sorted(writer.products, key=lambda product: product.path)),
        findings=tuple(findings),
        gaps=_gaps(stack, config, seen, shifts, left_over, doubtful),
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
    figures: dict[str, Quantity] = {}
    with StackReader(stack) as reader:
        for event, _, _ in _events(groups, breaks, reader, None, _shifts(stack, config, 1), config):
            if event.confidence >= config.min_confidence:
                figures[f"S-{len(figures) + 1:03d}"] = event.area
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
    # a pixel without a break has no pace; COGs of small whole numbers keep no nodata
    pace = read_raster(by_kind["pace"]).data
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
        pace=pace,
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
    names = ("scale", "offset", "bands", "quality", "clear", "resolution", "resampling", "regrid", "keep_odd")
    stated = {name: getattr(config, name) for name in names}
    # 0 is a scale to be refused and an offset that may be meant, but no resolution; False asks for nothing.
    return {
        name: value
        for name, value in stated.items()
        if value not in (None, (), "") and (name != "resolution" or value) and value is not False
    }


def _report_crs_of(stack: Stack) -> CRS:
    rows, cols = stack.grid.shape
    lon, lat = transformer(stack.grid.crs, WGS84).transform(*(stack.grid.transform @ (cols / 2, rows / 2)))
    return report_crs(lon, lat)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """The grid worked off once. breaks: of the whole grid. tally: (t, 5) pixels by day and `Observed`. failed, failed_assets:
    what could not be read. whole: the cube where it is one block."""

    breaks: BreakMap
    tally: NDArray[np.int64]
    failed: frozenset[str]
    failed_assets: frozenset[tuple[str, str]]
    whole: Cube | None


def _scan(stack: Stack, reader: StackReader, config: MonitorConfig, threads: int, progress: Progress) -> _Seen:
    tally = np.zeros((len(stack.days), len(Observed)), np.int64)
    failed: set[str] = set()
    failed_assets: set[tuple[str, str]] = set()
    parts = []
    windows = list(row_blocks(stack, block_bytes=config.block_bytes))
    cube = None
    for index, window in enumerate(windows):
        cube = reader.read(window)
        progress("satellite.stage_breaks", 0.05 + 0.5 * (index + 0.3) / len(windows))
        for code in Observed:
            tally[:, code] += (cube.observed == code).sum(axis=(1, 2))
        failed.update(cube.failed)
        failed_assets.update(cube.failed_assets)
        parts.append(detect_block(cube, config.breaks, threads=threads))
        progress("satellite.stage_breaks", 0.05 + 0.5 * (index + 1) / len(windows))
    return _Seen(
        breaks=keep_supported(join_rows(parts, stack.grid), config.breaks),
        tally=tally,
        failed=frozenset(failed),
        failed_assets=frozenset(failed_assets),
        whole=cube if len(windows) == 1 else None,
    )


_FAR_SHIFT = 0.5
"""A date that lies further from the others than this is named, px."""
_MEASURED_DATES = 10
"""With fewer dates whose position was measured the assumed error stands."""


def _shifts(stack: Stack, config: MonitorConfig, threads: int) -> RegistrationShifts | None:
    """Where each date lies, or None where the grid is too small to tell."""
    try:
        return measure_stack(stack, config.registration, threads=threads)
    except CoverageError:
        return None  # the error of every area then says that its registration is assumed


def _registration(shifts: RegistrationShifts | None) -> Registration | None:
    if shifts is None or shifts.dates < _MEASURED_DATES or not np.isfinite(shifts.sd_pixels):
        return None
    return Registration(sd_pixels=shifts.sd_pixels, dates=shifts.dates)


def _events(
    groups: Sequence[PixelGroup],
    breaks: BreakMap,
    reader: StackReader,
    whole: Cube | None,
    shifts: RegistrationShifts | None,
    config: MonitorConfig,
) -> Iterator[tuple[ChangeEvent, Cube, tuple[int, int]]]:
    """Each group as an event without a number, in order, with the cube it was described on and that cube's corner."""
    assert breaks.grid is not None
    taken, registration = group_mask(groups, breaks.grid), _registration(shifts)
    for group in groups:
        cube, corner = whole, (0, 0)
        if cube is None:
            window = event_window(group, breaks.grid.shape)
            cube, corner = reader.read(window), (int(window.row_off), int(window.col_off))
        yield (
            describe_event("", group, breaks, cube, config.events, taken=taken, corner=corner, registration=registration),
            cube,
            corner,
        )


# Products -------------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes the files of one result and remembers them as products."""

    def __init__(self, out: Path, stack: Stack, config: MonitorConfig) -> None:
        self._out, self._stack, self._config = out, stack, config
        self._lang: Lang = config.lang
        self._synthetic = stack.spec.synthetic
        self._style = EvidenceStyle(lang=config.lang, sensor=stack.spec.sensor, synthetic=stack.spec.synthetic)
        self.products: list[Product] = []

    def _add(self, name: str, kind: str, media_type: str, *, title_of: str = "") -> Path:
        title = Message(id=f"satellite.title_{title_of or kind}")
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
        paces = ", ".join(f"{pace.value}={pace.name.lower()}" for pace in Pace)
        write("pace", breaks.pace, [f"pace_{k + 1}" for k in range(depth)], None, "", MEANING=paces)
        codes = ", ".join(f"{status.value}={status.name.lower()}" for status in Status)
        write("status", breaks.status[None], ["status"], None, "", MEANING=codes)

    def scenes(self, seen: _Seen, shifts: RegistrationShifts | None) -> None:
        record = scenes_record(self._stack, seen.tally, seen.failed, seen.failed_assets)
        if shifts is not None:
            for day, shift, sd, status in zip(record["days"], shifts.shift, shifts.sd, shifts.status, strict=True):
                measured = status == RegistrationStatus.MEASURED
                day["registration"] = RegistrationStatus(int(status)).name.lower()
                day["shift_px"] = [f"{value:.3f}" for value in shift] if measured else None
                day["shift_sd_px"] = [f"{value:.3f}" for value in sd] if measured else None
        _write_json(self._add("scenes.json", "scenes", "application/json"), record)

    def vectors(self, events: Sequence[ChangeEvent], target: CRS) -> None:
        crs = self._stack.grid.crs
        name = "cgcs2000" if "CGCS2000" in target.name else "projected"
        path = self._add("events.gpkg", "events", "application/geopackage+sqlite3")
        write_geopackage(path, events, crs, layers={name: target, "wgs84": WGS84}, synthetic=self._synthetic)
        path = self._add("events.geojson", "events_geojson", "application/geo+json")
        _write_json(path, events_geojson(events, crs, synthetic=self._synthetic))

    def event(self, event: ChangeEvent, cube: Cube, corner: tuple[int, int]) -> None:
        """The chips of an event, its series and their picture."""
        self.products += write_event_evidence(
            self._out,
            event,
            cube,
            corner=corner,
            shape=self._stack.grid.shape,
            style=self._style,
            blind_days=self._config.events.blind_days,
        )

    def preview(self, events: Sequence[ChangeEvent], tally: NDArray[np.int64]) -> None:
        """The whole area on the clearest day of the last two years, with all outlines."""
        stack = self._stack
        days = stack.days
        recent = [i for i, day in enumerate(days) if (days[-1] - day).days <= 731]
        chosen = max(recent, key=lambda i: (int(tally[i, Observed.CLEAR]), i))
        one_day = replace(stack, scenes=tuple(scene for scene in stack.usable if scene.acquired == days[chosen]))
        reader = StackReader(one_day)
        step = max(1, -(-max(stack.grid.shape) // 1500))
        strips, states = [], []
        rows, cols = stack.grid.shape
        for row in range(0, rows, 512 * step):
            part = reader.read(Window(0, row, cols, min(512 * step, rows - row)))  # type: ignore[call-arg]
            strips.append(part.image(0)[:, ::step, ::step])
            states.append(part.observed[0, ::step, ::step])
        reader.close()
        bands, colours = picture_bands(stack.spec.bands)
        picture = np.concatenate(strips, axis=1)[bands]
        image, legend = painted(stretch(picture, shared_limits(picture), gamma=GAMMA)[0], np.concatenate(states), self._lang)
        grid = replace(
            stack.grid, shape=image.shape[:2], transform=stack.grid.transform @ type(stack.grid.transform).scale(step, step)
        )
        map_picture(
            self._add("preview.png", "preview", "image/png"),
            image,
            grid,
            title=render("satellite.picture_preview", {"count": len(events)}, self._lang),
            date_text=dated(days[chosen], self._style.sensor),
            outlines=[event.polygon for event in events],
            note=render("satellite.picture_preview_note", {"colours": render(colours, {}, self._lang)}, self._lang),
            legend=legend,
            synthetic=self._synthetic,
            lang=self._lang,
        )

    def status_map(self, breaks: BreakMap) -> None:
        """What can be said about each pixel, every state in a colour of its own."""
        stack = self._stack
        step = max(1, -(-max(stack.grid.shape) // 1500))
        status = breaks.status[::step, ::step]
        colours = np.array([_STATUS_COLOURS[code] for code in Status], np.uint8)
        names = [code for code in Status if (breaks.status == code).any()]
        map_picture(
            self._add("status_map.png", "preview", "image/png", title_of="status_map"),
            colours[status],
            replace(
                stack.grid, shape=status.shape, transform=stack.grid.transform @ type(stack.grid.transform).scale(step, step)
            ),
            title=render("satellite.picture_status", {}, self._lang),
            date_text=f"{stack.days[0].isoformat()} – {stack.days[-1].isoformat()}",
            legend=[(_STATUS_COLOURS[code], render(f"satellite.status_{code.name.lower()}", {}, self._lang)) for code in names],
            synthetic=self._synthetic,
            lang=self._lang,
        )


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
    write_whole(path, (text + "\n").encode("utf-8"))


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


def _event_finding(event: ChangeEvent, stack: Stack, config: MonitorConfig, target: CRS, products: tuple[str, ...]) -> Finding:
    gradual = event.pace is Pace.GRADUAL
    values = {
        "area": event.area,
        "start": event.last_clear_before,
        "end": event.first_clear_after,
        "pixels": len(event.pixels),
        "clear_before": event.clear_before,
        "clear_after": event.clear_after,
    }
    return Finding(
        id=event.id,
        message=Message(id="satellite.change_gradual" if gradual else "satellite.change", values=values),
        facts=_event_facts(event),
        quantity=event.area,
        geometry=moved(event.polygon, stack.grid.crs, target, digits=3),
        crs=f"EPSG:{target.to_epsg()}",
        period=(event.last_clear_before, event.first_clear_after),
        method=_method(config),
        sources=_sources(stack),
        limitations=(*_event_limits(event, stack, config), *_limits(stack, config, target)),
        products=products,
        synthetic=stack.spec.synthetic,
    )


def _listed(parts: Sequence[Message]) -> Message:
    """Several messages as one."""
    first, *rest = parts
    return first if not rest else Message(id="satellite.list", values={"first": first, "rest": _listed(rest)})


def _index_name(name: str) -> str | Message:
    known = {"NDVI_high", "NDVI_swing", "brightness"}
    return Message(id=f"satellite.name_{name.lower()}") if name in known else name


def _side_fact(side: str, state: SurfaceState) -> Message:
    """Why a side is called what it is called, with the index values that say so."""
    shown = [
        Message(id="satellite.index_value", values={"name": _index_name(n), "value": _short(q)}) for n, q in cover_indices(state)
    ]
    if state.water_share is not None:
        shown.append(Message(id="satellite.water_dates", values={"percent": round(100 * state.water_share)}))
    values: dict[str, Any] = {"dates": state.dates, "reason": Message(id=state.reason)}
    if not shown:
        return Message(id=f"satellite.side_{side}_bare", values=values)
    return Message(id=f"satellite.side_{side}", values={**values, "indices": _listed(shown)})


def _short(quantity: Quantity) -> str:
    """An index value with its expanded uncertainty, to two decimals."""
    if quantity.standard_uncertainty is None:
        return f"{quantity.value:.2f}"
    return f"{quantity.value:.2f} ± {quantity.coverage_factor * quantity.standard_uncertainty:.2f}"


def _event_facts(event: ChangeEvent) -> tuple[Message, ...]:
    covers = {
        side: Message(id=f"satellite.cover_name_{state.cover}")
        for side, state in (("before", event.before), ("after", event.after))
    }
    if event.before.cover is not event.after.cover:
        named = Message(id="satellite.from_to", values=covers)
    elif event.before.cover is Cover.UNKNOWN:
        named = Message(id="satellite.from_to_unknown")
    else:
        named = Message(id="satellite.from_to_same", values={"cover": covers["before"]})
    facts = [
        named,
        _side_fact("before", event.before),
        _side_fact("after", event.after),
    ]
    if event.indices:
        parts = [
            Message(id="satellite.index_step", values={"name": c.name, "before": _short(c.before), "after": _short(c.after)})
            for c in event.indices
        ]
        facts.append(Message(id="satellite.index_changes", values={"indices": _listed(parts)}))
    facts += [
        Message(
            id="satellite.confidence",
            values={"percent": round(100 * event.confidence), "basis": Message(id=event.confidence_basis)},
        ),
        Message(
            id="satellite.agreement",
            values={
                "agreement": round(100 * event.agreement),
                "direction": round(100 * event.direction_agreement),
                "spread": event.spread_days,
            },
        ),
    ]
    parts_of = {name: f"{value:.0f}" for name, value in event.area_parts.items()}
    measured = (
        Message(id="satellite.registration_measured", values={"dates": event.registration_dates})
        if event.registration_dates
        else Message(id="satellite.registration_assumed")
    )
    facts.append(
        Message(
            id="satellite.area_parts",
            values={
                **parts_of,
                "outlined": f"{event.outlined:.0f}",
                "pixels": f"{event.registration_pixels:.2f}",
                "how": measured,
            },
        )
    )
    return tuple(facts)


def _event_limits(event: ChangeEvent, stack: Stack, config: MonitorConfig) -> tuple[Message, ...]:
    if event.pace is Pace.GRADUAL:
        limits = [
            Message(id="satellite.limit_gradual", values={"start": event.last_clear_before, "end": event.first_clear_after})
        ]
    else:
        limits = [Message(id="satellite.limit_interval", values={"date": event.break_date})]
    limits += [
        Message(id="satellite.limit_level_step", values=step.told())
        for step in stack.steps
        if step.between(event.last_clear_before, event.first_clear_after)
    ]
    limits.append(Message(id="satellite.limit_gap", values={"days": event.longest_gap_days}))
    for inside in (True, False):
        periods = [period for period in event.blind if period.in_interval == inside]
        if periods:
            shown = [_period_message(period) for period in periods[:_LISTED_PERIODS]]
            if len(periods) > len(shown):
                shown.append(Message(id="satellite.more_periods", values={"count": len(periods) - len(shown)}))
            values = {"days": config.events.blind_days, "periods": _listed(shown)}
            limits.append(Message(id=f"satellite.limit_blind{'_interval' if inside else ''}", values=values))
    if event.water_level:
        shares = (event.before.water_share, event.after.water_share)
        if None in shares:
            limits.append(Message(id="satellite.limit_water_level"))
        else:
            percents = {side: round(100 * (share or 0.0)) for side, share in zip(("before", "after"), shares, strict=True)}
            limits.append(Message(id="satellite.limit_water_level_shares", values=percents))
    if event.area.propagation == "satellite.area_propagation_diffuse":
        limits.append(Message(id="satellite.limit_diffuse"))
    if not event.registration_dates:
        limits.append(Message(id="satellite.limit_registration"))
    return (*limits, Message(id="satellite.limit_cover"), Message(id="satellite.limit_confidence"))


def _period_message(period: BlindPeriod) -> Message:
    """A period without a clear view, and what the scenes within it show of the polygon instead."""
    counts = {"cloud": period.cloud, "not_observed": period.not_observed, "failed_read": period.failed_read}
    reasons = [Message(id=f"satellite.blind_{name}", values={"dates": n}) for name, n in counts.items() if n]
    why = _listed(reasons) if reasons else Message(id="satellite.blind_no_scene")
    return Message(
        id="satellite.blind_period", values={"start": period.start, "end": period.end, "days": period.days, "why": why}
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


def _step_gap(step: LevelStep, breaks: BreakMap) -> Message:
    """Says that the level of the scenes steps, and how many of the changed pixels are dated there."""
    first, last = ((day - date(1970, 1, 1)).days for day in step.span)
    dated = breaks.break_date != NODATE
    there = dated & (breaks.last_clear_before <= last) & (breaks.first_clear_after >= first)
    values = {**step.told(), "pixels": int(there.any(axis=0).sum()), "total": int(dated.any(axis=0).sum())}
    return Message(id="satellite.gap_level_step", values=values)


def _gaps(
    stack: Stack,
    config: MonitorConfig,
    seen: _Seen,
    shifts: RegistrationShifts | None,
    left_over: int,
    doubtful: Sequence[ChangeEvent],
) -> tuple[Message, ...]:
    breaks, tally = seen.breaks, seen.tally
    gaps = [scene.reason for scene in stack.scenes if scene.reason is not None]
    gaps += [_step_gap(step, breaks) for step in stack.steps]
    gaps += [Message(id="satellite.scene_failed_read", values={"scene": name}) for name in sorted(seen.failed)]
    counts = {status: int((breaks.status == status).sum()) for status in Status}
    if counts[Status.OUTSIDE]:
        gaps.append(Message(id="satellite.gap_outside", values={"count": counts[Status.OUTSIDE]}))
    undecided = {s: counts[s] for s in (Status.TOO_FEW, Status.CLOUD, Status.NOT_OBSERVED, Status.FAILED_READ)}
    if any(undecided.values()):
        values = {status.name.lower(): count for status, count in undecided.items()}
        gaps.append(Message(id="satellite.gap_undecided", values={"count": sum(undecided.values()), **values}))
    if left_over:
        gaps.append(Message(id="satellite.gap_small", values={"pixels": left_over, "min_pixels": config.min_pixels}))
    if doubtful:
        pixels = sum(len(event.pixels) for event in doubtful)
        percent = round(100 * config.min_confidence)
        gaps.append(Message(id="satellite.gap_doubtful", values={"count": len(doubtful), "pixels": pixels, "percent": percent}))
    if shifts is not None:
        far = len(shifts.shifted(_FAR_SHIFT))
        if far:
            shown: dict[str, Any] = {"days": far, "pixels": f"{_FAR_SHIFT:g}", "total": len(stack.days)}
            gaps.append(Message(id="satellite.gap_shifted", values=shown))
    merged = len(stack.usable) - len(stack.days)
    if merged:
        gaps.append(Message(id="satellite.gap_same_day", values={"scenes": merged}))
    blind = int((tally[:, Observed.CLEAR] == 0).sum())
    if blind:
        gaps.append(Message(id="satellite.gap_blind_days", values={"days": blind, "total": len(stack.days)}))
    return tuple(gaps)
