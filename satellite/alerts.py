"""Sequential monitoring: one tile's state takes one new date at a time and says which pixels left their season.

In: a history (`Cube`) from which each pixel learns its season, its noise and how much its seasons differ; then dates.
Out: a new `TileState` a date, with alerts per pixel (none, provisional, confirmed, withdrawn) and their days; a replay under another
model. Only looks that were not part of an alert teach the model. It reads no files (`alert_store`), draws no polygons
(`alert_report`), names no cause, and calls no pixel unchanged that was not seen. Equations: docs/methods/satellite_alerts.md.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from enum import IntEnum, StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geoevidence.errors import ConfigError, FormatError, GridMismatchError, HistoryTooShortError
from geoevidence.raster import Grid
from geoevidence.types import config_from_parameters, decimal_text
from satellite import alert_kernels as kernels
from satellite.harmonics import YEAR, design_matrix
from satellite.indices import band_roles
from satellite.types import NODATE, BreakMap, Cube, Observed

MODEL_VERSION = "1"
"""Changes whenever the same scenes could give other alerts."""

# Score above which a stable pixel of the simulated sites is confirmed this often a year (docs/methods/satellite_alerts.md).
_RATES = (0.0115, 0.0054, 0.003, 0.0021, 0.0017)
_SCORES = (6.0, 7.0, 8.0, 9.0, 10.0)
# Of a cube of one band, where floods, blooms and clouds cannot be told from the land.
_ONE_BAND_RATES = (0.0117, 0.0064, 0.0017)
_ONE_BAND_SCORES = (8.0, 9.0, 11.0)
_MAX_DAYS = 32_000


class AlertState(IntEnum):
    """What monitoring says about one pixel."""

    NOT_MONITORED = kernels.LEARNING
    """The stable history is too short to know the season: nothing is said."""
    NONE = kernels.QUIET
    """Monitored, no alert so far."""
    PROVISIONAL = kernels.PROVISIONAL
    """The last looks depart together; more are needed."""
    CONFIRMED = kernels.CONFIRMED
    """Enough looks over enough days agree. The pixel is not monitored any further until it is started again."""
    WITHDRAWN = kernels.WITHDRAWN
    """There was a provisional alert and later looks fit the old state again. Monitored further."""


class Outcome(StrEnum):
    """What became of one date in one tile."""

    TAKEN = "taken"
    LATE = "late"
    """Taken, though older than the newest date: put in its place among the looks that are still held."""
    TOO_LATE = "too_late"
    """Not taken: of the history, or older than the newest date by more than `late_days`."""
    DUPLICATE = "duplicate"
    """Not taken: known already."""
    CLOUD = "cloud"
    """Nothing clear, cloud the main reason."""
    NOT_OBSERVED = "not_observed"
    """Nothing clear, missing coverage the main reason."""
    FAILED_READ = "failed_read"
    """Nothing clear, bytes that cannot be read the main reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertConfig:
    """How a pixel is monitored. Defaults were chosen on simulated sites (docs/methods/satellite_alerts.md).

    false_alarm_rate: confirmed false alerts per stable pixel and year that are accepted, 0.0017 to 0.0115; smaller is later.
    provisional_score, withdraw_score: evidence at which an alert becomes provisional, and below which it is withdrawn (standard
    normal deviates).
    provisional_looks, confirm_looks: looks nearer to the new state than to the old one that each needs. confirm_days: days that
    these must span. support_share: share of the looks since the first that must be such ones (1).
    window_looks: looks held back before they may teach the model, also the longest run that is tested; more finds smaller
    changes and needs memory.
    min_observations, min_history_days: clear looks and days of stable history below which a pixel is not monitored; 0.8 of
    `min_history_days` between the first and the last look are enough.
    noise_floor: smallest noise assumed, in units of the cube. block_days: length of the means from which the differences between
    seasons are learnt, d. season_days: time over which one season's departure lasts, d (correlation time).
    phase_sd_days, amplitude_sd: ordinary shift (d) and relative height (1) of a season, standard deviations. level_sd: ordinary
    departure in noise units (1). prior_looks: number of blocks that these count for against what the history shows.
    look_limit: departure in noise units beyond which one look counts no more; smaller resists unmasked cloud and is later.
    memory_looks: weight of the past in the model, as a number of looks; fewer follow trends faster. season_gap_days: a look further in the year from all
    looks of the history is not judged, d.
    late_days: a date older than the newest by more than this is not taken, d.
    water_index: (M)NDWI above which a look counts as water. water_margin: below it by this much it counts as partly flooded.
    water_watch_days: a water spell on land (or the reverse) up to this long, or up to 1.25 times the longest of the history and
    30 d, is not looked at; then it may be provisional, d. water_run_days: only a longer one can be confirmed, d.
    water_year_days: where such spells were in the history, or the look is a mixture, only one longer than this: it missed a
    whole year, d.
    water_share: where water has been, ordinary departure of the share of water in the pixel, standard deviation (1).
    min_pixels: smallest polygon, pixels; smaller groups are counted. link_days: neighbours whose intervals are at most this far
    apart belong together, d.
    """

    false_alarm_rate: float = 0.003
    provisional_score: float = 6.0
    withdraw_score: float = 4.5
    provisional_looks: int = 2
    confirm_looks: int = 4
    confirm_days: int = 20
    support_share: float = 0.7
    window_looks: int = 20
    min_observations: int = 18
    min_history_days: int = 730
    noise_floor: float = 0.002
    block_days: float = 20.0
    season_days: float = 45.0
    phase_sd_days: float = 8.0
    amplitude_sd: float = 0.08
    level_sd: float = 0.3
    prior_looks: float = 10.0
    look_limit: float = 6.0
    memory_looks: int = 60
    season_gap_days: float = 25.0
    late_days: int = 60
    water_index: float = 0.0
    water_margin: float = 0.2
    water_watch_days: int = 90
    water_run_days: int = 250
    water_year_days: int = 400
    water_share: float = 0.25
    min_pixels: int = 10
    link_days: int = 45

    def __post_init__(self) -> None:
        ranges = {
            "false_alarm_rate": (_RATES[-1], _RATES[0]),
            "provisional_score": (0, 100),
            "withdraw_score": (-10, 100),
            "provisional_looks": (1, 64),
            "confirm_looks": (1, 64),
            "confirm_days": (0, 3650),
            "support_share": (0, 1),
            "window_looks": (4, 64),
            "min_observations": (10, 10_000),
            "min_history_days": (365, 36_500),
            "noise_floor": (1e-9, 1e6),
            "block_days": (1, 365),
            "season_days": (1, 3650),
            "phase_sd_days": (0, 60),
            "amplitude_sd": (0, 1),
            "level_sd": (0.01, 100),
            "prior_looks": (0.1, 1e6),
            "look_limit": (1, 1e6),
            "memory_looks": (20, 32_000),
            "season_gap_days": (6, 365),
            "late_days": (0, 3650),
            "water_index": (-1, 1),
            "water_margin": (0, 1),
            "water_watch_days": (0, 3650),
            "water_run_days": (0, 3650),
            "water_year_days": (0, 3650),
            "water_share": (0, 1),
            "min_pixels": (1, 1_000_000),
            "link_days": (0, 3650),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)
        if self.confirm_looks > self.window_looks or self.provisional_looks > self.confirm_looks:
            raise ConfigError(
                "satellite.alert_looks",
                provisional=self.provisional_looks,
                confirm=self.confirm_looks,
                window=self.window_looks,
            )

    def confirm_score(self, bands: int) -> float:
        """The evidence that `false_alarm_rate` asks for in a cube of so many bands (interpolated in the logarithm of the rate)."""
        rates, scores = (_ONE_BAND_RATES, _ONE_BAND_SCORES) if bands == 1 else (_RATES, _SCORES)
        return float(np.interp(np.log(self.false_alarm_rate), np.log(rates[::-1]), scores[::-1]))

    @classmethod
    def read(cls, path: Path) -> AlertConfig:
        """The configuration in a TOML file. Raises ConfigError on unknown names and wrong types."""
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError("satellite.bad_stack_file", path=Path(path).name, reason=str(error)) from error
        known = {each.name: each.type for each in fields(cls)}
        for name, value in raw.items():
            if name not in known:
                raise ConfigError("satellite.unknown_setting", name=name, known=", ".join(sorted(known)))
            allowed = (int,) if known[name] == "int" else (int, float)
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ConfigError("satellite.setting_type", name=name, found=type(value).__name__)
            raw[name] = int(value) if known[name] == "int" else float(value)
        return cls(**raw)

    def to_parameters(self) -> dict[str, Any]:
        """All fields as I-JSON without floats."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: decimal_text(value) if isinstance(value, float) else value for name, value in values.items()}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> AlertConfig:
        """The configuration that `to_parameters` wrote; every field must be there. Raises FormatError."""
        missing = sorted({each.name for each in fields(cls)} - set(parameters))
        if missing:
            raise FormatError("core.bad_parameter", where="config", reason=", ".join(missing))
        try:
            return config_from_parameters(cls, parameters, where="config")
        except ConfigError as error:
            raise FormatError("core.bad_parameter", where="config", reason=str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneName:
    """A scene as recorded. name: as `Scene.name`. sha256: lower-case hex. day: of acquisition, days since 1970-01-01."""

    name: str
    sha256: str
    day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenDate:
    """What became of one date. counts: pixels of the tile by `Observed` code. failed: scenes that could not be read here."""

    day: int
    outcome: Outcome
    scenes: tuple[SceneName, ...]
    failed: tuple[str, ...]
    counts: tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileState:
    """All that is known of a tile; arrays are read-only, an update makes a new one.

    config, model_version: under which it was made. whole: grid of the area; corner: (row, col) of the tile's upper left pixel on
    it; shape: (rows, cols) of the tile. bands: names in order. synthetic: demonstration data.
    first_day, last_day: of the history, days since 1970-01-01; `first_day` is day 0 of the int16 days below.
    history: its scenes. with_breaks: the history began after the last break of each pixel.
    newest: newest day taken. number: how many updates were made. dates: what became of each.
    model: (y, x, B*B + 7*B + B) float32: T, beta, v. window: (y, x, W, 1 + B) int16: day and residual (noise_floor / 8) of the
    looks held back. record: (y, x, 16) int16 (see docs/formats/alerts.md). season: (y, x) uint32, parts of the year with history.
    size: (y, x, 2) float32, magnitude and score of the alert. seen: (y, x, 5) uint16 dates by `Observed` code since the start.
    journal: (n, 6) int32: day known, row, col (of the tile), new `AlertState`, first anomaly, last clear old day; in order.
    """

    config: AlertConfig
    model_version: str
    whole: Grid
    corner: tuple[int, int]
    shape: tuple[int, int]
    bands: tuple[str, ...]
    synthetic: bool
    first_day: int
    last_day: int
    history: tuple[SceneName, ...]
    with_breaks: bool
    newest: int
    number: int
    dates: tuple[TakenDate, ...]
    model: NDArray[np.float32]
    window: NDArray[np.int16]
    record: NDArray[np.int16]
    season: NDArray[np.uint32]
    size: NDArray[np.float32]
    seen: NDArray[np.uint16]
    journal: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name, (kind, shape) in array_layout(self.shape, len(self.bands), self.config.window_looks, len(self.journal)).items():
            array = getattr(self, name)
            if array.dtype != kind or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {kind} {shape}")
            array.flags.writeable = False

    @property
    def state(self) -> NDArray[np.uint8]:
        """(y, x) `AlertState`."""
        return self.record[..., kernels.STATE].astype(np.uint8)

    @property
    def magnitude_of(self) -> str:
        """What the magnitude is a change of."""
        return _magnitude_of(self.bands)

    def days_of(self, field_index: int) -> NDArray[np.int32]:
        """(y, x) days since 1970-01-01 of a day of the record, NODATE where there is none."""
        raw = self.record[..., field_index].astype(np.int32)
        return np.where(raw == kernels.NO_DAY, np.int32(NODATE), raw + np.int32(self.first_day))

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of the arrays a pixel, journal left out."""
        layout = array_layout((1, 1), len(self.bands), self.config.window_looks, 0)
        return sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in layout.values())


def array_layout(shape: tuple[int, int], bands: int, window: int, journal: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (little-endian dtype, shape) of the arrays of a state, in the order of its file."""
    return {
        "model": ("<f4", (*shape, bands * bands + kernels.Q * bands + bands)),
        "window": ("<i2", (*shape, window, 1 + bands)),
        "record": ("<i2", (*shape, kernels.RECORD)),
        "season": ("<u4", shape),
        "size": ("<f4", (*shape, 2)),
        "seen": ("<u2", (*shape, len(Observed))),
        "journal": ("<i4", (journal, 6)),
    }


def _magnitude_of(bands: tuple[str, ...]) -> str:
    roles = band_roles(bands)
    return "NDVI" if "nir" in roles and "red" in roles else bands[0]


def _settings(config: AlertConfig, bands: tuple[str, ...]) -> kernels.Settings:
    roles = band_roles(bands)
    green, wet = roles.get("green", -1), roles.get("swir1", roles.get("nir", -1))
    has_water, has_ndvi = green >= 0 and wet >= 0, "nir" in roles and "red" in roles
    return kernels.Settings(
        min_observations=config.min_observations,
        min_span_days=0.8 * config.min_history_days,
        noise_floor=config.noise_floor,
        quantum=config.noise_floor / 8,
        block_days=config.block_days,
        season_days=config.season_days,
        phase_sd_days=config.phase_sd_days,
        amplitude_sd=config.amplitude_sd,
        level_sd=config.level_sd,
        anomaly_looks=config.prior_looks,
        cap=config.look_limit,
        low=config.provisional_score,
        high=config.confirm_score(len(bands)),
        back=config.withdraw_score,
        provisional_looks=config.provisional_looks,
        confirm_looks=config.confirm_looks,
        confirm_days=float(config.confirm_days),
        support_share=config.support_share,
        memory_looks=float(config.memory_looks),
        season_gap_days=config.season_gap_days,
        water_index=config.water_index,
        water_margin=config.water_margin,
        water_run_days=float(config.water_run_days),
        water_year_days=float(config.water_year_days),
        water_watch_days=float(config.water_watch_days),
        water_share=config.water_share,
        water_a=green if has_water else -1,
        water_b=wet if has_water else -1,
        index_a=roles["nir"] if has_ndvi else -1,
        index_b=roles["red"] if has_ndvi else -1,
    )


@lru_cache(maxsize=4)
def _tables(first_day: int, days: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Level and harmonics of each day from `first_day` on (days, 7), and their change a day."""
    X = design_matrix(np.arange(first_day, first_day + days), centre=0.0)[:, : kernels.Q]
    slopes = np.zeros_like(X)
    for k in range(1, (kernels.Q + 1) // 2):
        rate = 2 * np.pi * k / YEAR
        slopes[:, 2 * k - 1], slopes[:, 2 * k] = -rate * X[:, 2 * k], rate * X[:, 2 * k - 1]
    tables = np.ascontiguousarray(X, np.float32), np.ascontiguousarray(slopes, np.float32)
    for table in tables:
        table.flags.writeable = False
    return tables


def _tables_to(first_day: int, day: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`_tables` that hold `day` and a whole year at least, in steps so that few are made."""
    return _tables(first_day, 512 * (max(day - first_day, 400) // 512 + 1))


def _in_rows(rows: int, threads: int, work: Any) -> None:
    """Call work(first, last) on strips of rows, at most `threads` at once."""
    step = max(1, -(-rows // (4 * max(1, threads))))
    strips = [(start, min(start + step, rows)) for start in range(0, rows, step)]
    if threads <= 1:
        for strip in strips:
            work(*strip)
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for _ in pool.map(lambda strip: work(*strip), strips):
            pass


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """The array in one layout, so that one compiled kernel serves all; a copy only where it is not so already."""
    return np.require(array, requirements=["C", "W"])


def start_monitoring(
    cube: Cube,
    config: AlertConfig,
    *,
    breaks: BreakMap | None = None,
    scenes: Sequence[SceneName] = (),
    whole: Grid | None = None,
    corner: tuple[int, int] = (0, 0),
    synthetic: bool = False,
    threads: int = 2,
) -> TileState:
    """A state that has learnt every pixel's season from a history and holds no alert.

    Args:
        cube: the history. breaks: of the same pixels; each pixel learns from the first clear look after its last break on. None:
            from all looks.
        scenes: what the cube was read from. whole, corner: the area's grid and where the tile lies on it; None: the tile alone.

    Raises:
        HistoryTooShortError: the history is shorter than 0.8 `min_history_days`.
        ValueError: `breaks` has another shape.
    """
    rows, cols = cube.grid.shape
    first_day, last_day = int(cube.days[0]), int(cube.days[-1])
    if last_day - first_day < 0.8 * config.min_history_days:
        raise HistoryTooShortError(
            "satellite.history_too_short", days=last_day - first_day, needed=config.min_history_days, scenes=len(cube.days)
        )
    since = np.zeros((rows, cols), np.int64)
    if breaks is not None:
        if breaks.break_date.shape[1:] != (rows, cols):
            raise ValueError(f"breaks {breaks.break_date.shape} do not fit the cube {(rows, cols)}")
        last = breaks.first_clear_after.max(axis=0).astype(np.int64)
        since = np.where(last == NODATE, 0, last - first_day)
    settings = _settings(config, cube.bands)
    table, slopes = _tables_to(first_day, last_day)
    layout = array_layout((rows, cols), len(cube.bands), config.window_looks, 0)
    arrays: dict[str, Any] = {name: np.zeros(shape, kind) for name, (kind, shape) in layout.items()}
    record = arrays["record"]
    empty = (kernels.FIRST, kernels.LAST_OLD, kernels.PROVISIONAL_DAY, kernels.CONFIRMED_DAY, kernels.WITHDRAWN_DAY)
    record[..., [*empty, kernels.TAKEN_DAY, kernels.SPELL, kernels.SPELL_OLD]] = kernels.NO_DAY
    arrays["size"][...] = np.nan
    days = (cube.days - first_day).astype(np.int64)
    scale, offset, stored, observed = float(cube.scale), float(cube.offset), _writable(cube.stored), _writable(cube.observed)

    def learn(start: int, stop: int) -> None:
        kernels.learn_rows(
            stored, scale, offset, observed, days, since, table, slopes, settings, start, stop,
            arrays["model"], record, arrays["season"],
        )  # fmt: skip

    _in_rows(rows, threads, learn)
    return TileState(
        config=config,
        model_version=MODEL_VERSION,
        whole=whole or cube.grid,
        corner=corner,
        shape=(rows, cols),
        bands=cube.bands,
        synthetic=synthetic,
        first_day=first_day,
        last_day=last_day,
        history=tuple(sorted(scenes, key=_scene_order)),
        with_breaks=breaks is not None,
        newest=last_day,
        number=0,
        dates=(),
        **arrays,
    )


def _scene_order(scene: SceneName) -> tuple[int, str, str]:
    return scene.day, scene.name, scene.sha256


def is_known(state: TileState, scene: SceneName) -> bool:
    """Whether a scene was part of the history or was taken before: the same name or the same bytes, of the same day."""
    return any(
        known.day == scene.day and (known.name == scene.name or known.sha256 == scene.sha256)
        for known in (*state.history, *(each for taken in state.dates for each in taken.scenes))
    )


def update(
    state: TileState,
    values: NDArray[Any],
    observed: NDArray[np.uint8],
    day: int,
    *,
    scenes: Sequence[SceneName] = (),
    scale: float = 1.0,
    offset: float = 0.0,
    failed: Sequence[str] = (),
    threads: int = 2,
) -> TileState:
    """The state after one more date, one pass over the tile. The old state stays as it was.

    Each pixel takes at most one look a day. A date that is not taken (`Outcome`) changes nothing but the list of dates. A late
    date is put in its place among the looks held back; it can start an alert, which then carries the newest day as the day
    on which it was known.

    Args:
        values: (band, y, x) int16 or float32 as stored, physical = stored * scale + offset, in the order of `state.bands`.
        observed: (y, x) `Observed` codes. day: days since 1970-01-01. scenes: what was read; without them a day that was taken
            before is a duplicate. failed: names of those that could not be read here. threads: the result does not depend on it.

    Raises:
        ValueError: shapes or types do not fit the state.
    """
    bands = len(state.bands)
    if values.shape != (bands, *state.shape) or observed.shape != state.shape or observed.dtype != np.uint8:
        raise ValueError(f"values {values.shape} and observed {observed.shape} {observed.dtype} do not fit {bands} {state.shape}")
    if values.dtype not in (np.int16, np.float32):
        raise ValueError(f"values are int16 or float32, not {values.dtype}")
    if observed.size and int(observed.max()) >= len(Observed):
        raise ValueError(f"observed holds the code {int(observed.max())}, which there is not")
    if any(scene.day != day for scene in scenes):
        raise ValueError("the scenes are of another day")
    if day - state.first_day > _MAX_DAYS:
        raise ValueError(f"a state holds {_MAX_DAYS} days from its first one")
    counts = np.bincount(observed.ravel(), minlength=len(Observed))
    fresh = [scene for scene in scenes if not is_known(state, scene)]
    known = not fresh if scenes else any(taken.day == day and taken.outcome in _COUNTED for taken in state.dates)
    if day <= state.last_day or state.newest - day > state.config.late_days:
        outcome = Outcome.TOO_LATE
    elif known:
        outcome = Outcome.DUPLICATE
    elif counts[Observed.CLEAR] == 0:
        reasons = {
            Outcome.CLOUD: Observed.CLOUD,
            Outcome.FAILED_READ: Observed.FAILED_READ,
            Outcome.NOT_OBSERVED: Observed.NOT_OBSERVED,
        }
        outcome = max(reasons, key=lambda each: counts[reasons[each]])
    else:
        outcome = Outcome.LATE if day < state.newest else Outcome.TAKEN
    taken = TakenDate(
        day=day,
        outcome=outcome,
        scenes=tuple(sorted(scenes, key=_scene_order)),
        failed=tuple(sorted(failed)),
        counts=tuple(int(n) for n in counts),  # type: ignore[arg-type]
    )
    after = replace(state, number=state.number + 1, dates=(*state.dates, taken))
    if outcome not in _COUNTED:
        return after
    seen = state.seen + (observed[..., None] == np.arange(len(Observed), dtype=np.uint8)) * (state.seen < 65_535)
    after = replace(after, newest=max(state.newest, day), seen=seen.astype(np.uint16))
    return _looked(after, values, observed, day, scale, offset, threads) if counts[Observed.CLEAR] else after


_COUNTED = frozenset(Outcome) - {Outcome.TOO_LATE, Outcome.DUPLICATE}


def _looked(
    state: TileState, values: NDArray[Any], observed: NDArray[np.uint8], day: int, scale: float, offset: float, threads: int
) -> TileState:
    settings = _settings(state.config, state.bands)
    table, slopes = _tables_to(state.first_day, state.newest)
    decay = np.exp(-np.arange(1024) / state.config.season_days).astype(np.float32)
    model, window, record, size = state.model.copy(), state.window.copy(), state.record.copy(), state.size.copy()
    changed = np.full(state.shape, np.uint8(255))
    values, observed = _writable(values), _writable(observed)

    def look(start: int, stop: int) -> None:
        kernels.look_rows(
            values, float(scale), float(offset), observed, day - state.first_day, state.newest - state.first_day, table, slopes,
            decay, settings, start, stop, model, window, record, state.season, size, changed,
        )  # fmt: skip

    _in_rows(state.shape[0], threads, look)
    rows, cols = np.nonzero(changed != 255)
    entries = np.empty((len(rows), 6), np.int32)
    entries[:, 0], entries[:, 1], entries[:, 2], entries[:, 3] = state.newest, rows, cols, changed[rows, cols]
    for column, index in ((4, kernels.FIRST), (5, kernels.LAST_OLD)):
        entries[:, column] = record[rows, cols, index].astype(np.int32) + state.first_day
    journal = np.concatenate([state.journal, entries])
    return replace(state, model=model, window=window, record=record, size=size, journal=journal)


# Another model and the grid -------------------------------------------------------------------------------------------


def replay(state: TileState, cube: Cube, config: AlertConfig, *, breaks: BreakMap | None = None, threads: int = 2) -> TileState:
    """What the present model with `config` makes of the dates that a state has taken, in the order it took them.

    Args:
        cube: history and monitored dates on the tile's grid. Dates of the state that it does not hold are left out.
        breaks: of the history alone.

    Raises:
        GridMismatchError: the cube is not of this tile. HistoryTooShortError.
    """
    if cube.grid.shape != state.shape or cube.bands != state.bands:
        raise GridMismatchError("satellite.alert_tiles_differ", one=str(state.shape), other=str(cube.grid.shape))
    past = cube.days <= state.last_day
    history = replace(cube, stored=cube.stored[past], observed=cube.observed[past], days=cube.days[past])
    again = start_monitoring(
        history, config, breaks=breaks, scenes=state.history, whole=state.whole, corner=state.corner,
        synthetic=state.synthetic, threads=threads,
    )  # fmt: skip
    position = {int(day): index for index, day in enumerate(cube.days)}
    for taken in state.dates:
        if taken.outcome not in _COUNTED or taken.day not in position or any(each.day == taken.day for each in again.dates):
            continue
        index = position[taken.day]
        again = update(
            again, cube.stored[index], cube.observed[index], taken.day, scenes=taken.scenes, scale=cube.scale,
            offset=cube.offset, failed=taken.failed, threads=threads,
        )  # fmt: skip
    return again


def tile_grid(state: TileState) -> Grid:
    """The tile's own grid."""
    row, col = state.corner
    return Grid(shape=state.shape, transform=state.whole.transform @ Affine.translation(col, row), crs=state.whole.crs)
