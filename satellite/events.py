"""From break maps to dated polygons with interval, area and error, and their files.

Pixels belong together when they touch (also at corners) and their evidence intervals lie within `link_days` of each
other. An event is a plain fact about reflectance: where, between which two clear views, how large, from which index
values to which, and how sure that is. `describe_event` is the one way from a group of pixels to an event, whoever found
them. It says nothing about cause.
"""

from __future__ import annotations

import math
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.features import shapes
from rasterio.windows import Window
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from shapely.geometry import mapping, shape

from geoevidence.crs import transform_geometry
from geoevidence.errors import ConfigError
from geoevidence.raster import Grid
from geoevidence.types import Quantity
from satellite.analogue import checked_interval, departure_of
from satellite.area import AreaConfig, changed_shares
from satellite.attribute import AttributeConfig, attribute_change
from satellite.confidence import EventEvidence, event_confidence
from satellite.indices import available_indices, index_values
from satellite.medians import median_first, median_last, plain_median
from satellite.types import NODATE, BlindPeriod, BreakMap, ChangeEvent, Cube, IndexChange, Observed, Pace

WGS84 = CRS.from_epsg(4326)
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventConfig:
    """How pixels become events.

    min_pixels: smallest event, pixels; smaller groups are counted as a gap, not dropped silently.
    link_days: neighbouring pixels whose intervals are at most this far apart change together, d.
    interval_share: share of the clear pixels of the event that must be old on `last_clear_before`, and new on
        `first_clear_after` (1); below 1 so that single misdated pixels do not stretch the interval.
    seen_share: share of the event's pixels that must be clear on such a date (1).
    registration_pixels: standard deviation of the position between scenes that is assumed where it was not measured, px
        (Sentinel-2: about 0.3 px multi-temporal).
    boundary_pixels: where pixels can only be counted whole: half-width within which the detected edge may lie inside or
        outside the true one, px (a mixed pixel counts from a tenth to a third of its area on).
    check_days: so far around the interval of the pixels the dates are checked against unchanged ground, d (`checked_interval`).
    check_usual: quantile of the distances of old dates that a date of the old state may have (1).
    check_clear: times that distance from which on a date shows a new state (1). check_part: part of the distance of the new
        state that it must also have (1). All four: tuning seeds of `bench/satellite_confidence.py`.
    blind_days: a time without a clear view of the polygon is listed from this length on, d (the plum rains: about 60).
    area: how the shares of edge pixels are found, see `AreaConfig`. attribute: how classes are named, see `AttributeConfig`.
    """

    min_pixels: int = 10
    link_days: int = 45
    interval_share: float = 0.9
    seen_share: float = 0.5
    registration_pixels: float = 0.3
    boundary_pixels: float = 0.4
    check_days: int = 120
    check_usual: float = 0.95
    check_clear: float = 2.0
    check_part: float = 0.3
    blind_days: int = 60
    area: AreaConfig = field(default_factory=AreaConfig)
    attribute: AttributeConfig = field(default_factory=AttributeConfig)

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "min_pixels": (1, 1e6),
            "link_days": (0, 3650),
            "interval_share": (0.5, 1),
            "seen_share": (0.01, 1),
            "registration_pixels": (0, 10),
            "boundary_pixels": (0, 10),
            "check_days": (0, 3650),
            "check_usual": (0.5, 1),
            "check_clear": (1, 100),
            "check_part": (0, 1),
            "blind_days": (1, 3650),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)


def day_of(number: int) -> date:
    """The date of a day count since 1970-01-01."""
    return date.fromordinal(int(number) + _EPOCH)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelGroup:
    """Pixels that change together: rows, cols (n,) int, layer (n,) int index of the break; sorted by row, col."""

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    layers: NDArray[np.intp]


def group_pixels(breaks: BreakMap, config: EventConfig) -> tuple[tuple[PixelGroup, ...], int]:
    """Groups of at least `min_pixels`, in order of (first date, row, col), and how many changed pixels are in none."""
    layers, rows, cols = np.nonzero(breaks.break_date != NODATE)
    if not len(rows):
        return (), 0
    depth, height, width = breaks.break_date.shape
    node = np.full((depth, height, width), -1, np.int64)
    node[layers, rows, cols] = np.arange(len(rows))
    start, end = breaks.last_clear_before.astype(np.int64), breaks.first_clear_after.astype(np.int64)
    pairs: list[NDArray[np.int64]] = []
    for d_row, d_col in ((0, 1), (1, -1), (1, 0), (1, 1)):
        here = (slice(0, height - d_row), slice(max(0, -d_col), width - max(0, d_col)))
        there = (slice(d_row, height), slice(max(0, d_col), width - max(0, -d_col)))
        for a in range(depth):
            for b in range(depth):
                one, two = node[a][here], node[b][there]
                apart = np.maximum(start[a][here], start[b][there]) - np.minimum(end[a][here], end[b][there])
                linked = (one >= 0) & (two >= 0) & (apart <= config.link_days)
                pairs.append(np.stack([one[linked], two[linked]]))
    edges = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(len(rows), len(rows)))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    groups, left_over = [], 0
    for members in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        # A pixel with two breaks in one group counts once, with the stronger.
        strength = breaks.score[layers[members], rows[members], cols[members]]
        members = members[np.lexsort((-strength, cols[members], rows[members]))]
        position = rows[members] * width + cols[members]
        members = members[np.concatenate([[True], np.diff(position) > 0])]
        if len(members) < config.min_pixels:
            left_over += len(members)
            continue
        groups.append(PixelGroup(rows=rows[members], cols=cols[members], layers=layers[members]))
    groups.sort(key=lambda g: (int(_take(breaks.break_date, g).min()), int(g.rows[0]), int(g.cols[0])))
    return tuple(groups), left_over


def group_mask(groups: Sequence[PixelGroup], grid: Grid) -> NDArray[np.bool_]:
    """(y, x) the pixels of any group."""
    mask = np.zeros(grid.shape, bool)
    for group in groups:
        mask[group.rows, group.cols] = True
    return mask


def _take(layer: NDArray[Any], group: PixelGroup) -> NDArray[Any]:
    return layer[group.layers, group.rows, group.cols]


def outline(group: PixelGroup, grid: Grid) -> dict[str, Any]:
    """GeoJSON polygon along the pixel edges, in the grid's CRS."""
    row, col = int(group.rows.min()), int(group.cols.min())
    mask = np.zeros((int(group.rows.max()) - row + 1, int(group.cols.max()) - col + 1), np.uint8)
    mask[group.rows - row, group.cols - col] = 1
    transform = grid.transform @ type(grid.transform).translation(col, row)
    parts = [shape(geometry) for geometry, _ in shapes(mask, mask=mask.astype(bool), connectivity=4, transform=transform)]
    merged = shapely.normalize(shapely.unary_union(parts))
    return _plain(mapping(shapely.orient_polygons(merged)))


def _plain(value: Any) -> Any:
    """GeoJSON with lists and floats only."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, (float, np.floating)) else value


def ground_area(geometry: Mapping[str, Any], crs: CRS) -> float:
    """Area on the ellipsoid of the CRS, m2: what the projection stretches is taken back.

    Edges are cut into pieces of at most a twentieth of the extent first, since grid lines are not geodesics.
    Source: Karney 2013, doi:10.1007/s00190-012-0578-z (through PROJ).
    """
    polygon = shape(geometry)
    west, south, east, north = polygon.bounds
    dense = mapping(shapely.segmentize(polygon, max(east - west, north - south) / 20))
    geographic = crs.geodetic_crs
    geod = crs.get_geod()
    if geographic is None or geod is None:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        return float(polygon.area * unit * unit)
    area, _ = geod.geometry_area_perimeter(shape(transform_geometry(dense, crs, geographic)))
    return abs(float(area))


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """How well the scenes lie on each other.

    sd_pixels: standard deviation of the position of one scene, px. dates: number of dates it was measured on, 0 = assumed.
    """

    sd_pixels: float
    dates: int = 0


def event_area(
    group: PixelGroup,
    polygon: Mapping[str, Any],
    breaks: BreakMap,
    cube: Cube,
    corner: tuple[int, int],
    taken: NDArray[np.bool_],
    config: EventConfig,
    *,
    interval: tuple[int, int],
    registration: Registration | None = None,
    doubtful: NDArray[np.bool_] | None = None,
    outlined: float | None = None,
) -> tuple[Quantity, dict[str, float]]:
    """Area that changed, on the ellipsoid, m2, with its standard uncertainty and the parts that it is made of.

    a sum(f) with the cell area a and the changed share f of each pixel (`changed_shares`): its error is `edge`. The position of
    the scenes adds a r sqrt(e / n), e = edge pixels, n = dates compared: `registration`. Interior pixels that do not agree with
    the event may belong to it or not: a d / sqrt(12), d = their number: `classification`. It differs from the area inside
    `polygon`, whose edge follows whole pixels. Where shares cannot be found that area is stated, with mixed pixels a sqrt(e / 12)
    and displacement of the whole edge a e b / sqrt(3) (b = boundary_pixels) as `edge` and a r sqrt(e) as `registration`; also
    where the shares would move the area by more than all edge pixels (b = 1 then).

    Args:
        corner: (row, col) of the upper left pixel of `cube` on the map. taken: (y, x) of the map, pixels of any event.
        interval: last day of the old and first of the new state. registration: None = `registration_pixels` is assumed.
        doubtful: (pixel,) those of the group that do not agree. outlined: area inside `polygon`, m2, where it is known already.
    """
    area = ground_area(polygon, cube.grid.crs) if outlined is None else outlined
    cell = area / len(group.rows)
    r = config.registration_pixels if registration is None else registration.sd_pixels
    on_edge = _on_edge(group)
    edge = int(on_edge.sum())
    row, col = corner
    rows, cols = cube.grid.shape
    inside = np.zeros((rows, cols), bool)
    inside[group.rows - row, group.cols - col] = True
    other = taken[row : row + rows, col : col + cols] & ~inside
    before, after = interval
    since, _ = _other_changes(group, breaks, config)
    shares = changed_shares(cube, inside, other, before=before, after=after, since=since, config=config.area)
    unsure = 0.0 if doubtful is None else float((doubtful & ~on_edge).sum()) / math.sqrt(12)
    # Shares that move the area by more than the whole edge tell of ground around that changed alike: no edge can be drawn there.
    diffuse = shares is not None and abs(shares.total - len(group.rows)) > edge
    if shares is None or diffuse:
        value = area
        shift = 1.0 if diffuse else config.boundary_pixels
        parts = {"edge": math.hypot(math.sqrt(edge / 12), edge * shift / math.sqrt(3)), "registration": math.sqrt(edge) * r}
        propagation = "satellite.area_propagation_diffuse" if diffuse else "satellite.area_propagation_counted"
    else:
        value = cell * shares.total
        parts = {"edge": shares.standard_uncertainty, "registration": r * math.sqrt(edge / shares.dates)}
        propagation = "satellite.area_propagation"
    parts = {name: cell * part for name, part in {**parts, "classification": unsure}.items()}
    total = math.hypot(*parts.values())
    return Quantity(value=value, unit="m2", standard_uncertainty=total, propagation=propagation), parts


def _other_changes(group: PixelGroup, breaks: BreakMap, config: EventConfig) -> tuple[int | None, int | None]:
    """First day of the old and last day of the new state, where most pixels changed once more before or after; else None."""
    share = config.interval_share
    since = until = None
    earlier = group.layers > 0
    if earlier.mean() > 1 - share:
        ended = breaks.first_clear_after[group.layers[earlier] - 1, group.rows[earlier], group.cols[earlier]]
        since = int(np.quantile(ended, share, method="lower"))
    depth = len(breaks.break_date)
    following = np.minimum(group.layers + 1, depth - 1)
    later = (group.layers + 1 < depth) & (breaks.break_date[following, group.rows, group.cols] != NODATE)
    if later.mean() > 1 - share:
        begun = breaks.last_clear_before[following[later], group.rows[later], group.cols[later]]
        until = int(np.quantile(begun, 1 - share, method="higher"))
    return since, until


def _on_edge(group: PixelGroup) -> NDArray[np.bool_]:
    """(pixel,) whether at least one of the four neighbours is outside the group."""
    inside = set(zip(group.rows.tolist(), group.cols.tolist(), strict=True))
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    return np.array([any((row + a, col + b) not in inside for a, b in steps) for row, col in sorted(inside)])


def event_interval(
    group: PixelGroup, breaks: BreakMap, cube: Cube, corner: tuple[int, int], config: EventConfig
) -> tuple[int, int, int]:
    """(last clear before, first clear after, estimated date) of a group, days.

    The last date on which at least `seen_share` of the pixels are clear and `interval_share` of these are still old (by
    their own last clear observation of the old state), and the first date after it on which as many are clear and as
    many of these are new. Pixels under cloud on such a date are not spoken of. Without such dates: those that hold for
    `interval_share` of all pixels by their own intervals.
    """
    share = 1 - config.interval_share
    last, first = _take(breaks.last_clear_before, group), _take(breaks.first_clear_after, group)
    clear = cube.clear_at(group.rows - corner[0], group.cols - corner[1])
    count = np.maximum(clear.sum(axis=1), 1)
    seen = clear.mean(axis=1) >= config.seen_share
    days = cube.days.astype(np.int64)
    old = seen & ((clear & (last[None] >= days[:, None])).sum(axis=1) >= config.interval_share * count)
    new = seen & ((clear & (first[None] <= days[:, None])).sum(axis=1) >= config.interval_share * count)
    before = int(days[old].max()) if old.any() else int(np.quantile(last, share, method="lower"))
    new &= days > before
    after = int(days[new].min()) if new.any() else int(np.quantile(first, 1 - share, method="higher"))
    middle = int(np.quantile(_take(breaks.break_date, group), 0.5, method="lower"))
    return before, max(after, before), min(max(middle, before), max(after, before))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EventSeries:
    """An event's pixels over time.

    days: (t,) int32. clear: (t,) share of the pixels that are clear. counts: (t, 5) pixels by `Observed`. indices: name -> (t,)
    median over the clear pixels, NaN without any. state: (t,) uint8 `Observed`: CLEAR where half of the pixels or more are,
    else what most of the others are.
    """

    days: NDArray[np.int32]
    clear: NDArray[np.float64]
    counts: NDArray[np.int64]
    state: NDArray[np.uint8]
    indices: Mapping[str, NDArray[np.float64]]


def event_series(cube: Cube, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> EventSeries:
    """Medians over the pixels (rows, cols) of a cube that covers them."""
    values = cube.at(rows, cols).astype(np.float64)
    observed = cube.observed[:, rows, cols]
    clear = observed == Observed.CLEAR
    indices = {}
    for name in available_indices(cube.bands):
        indices[name] = median_last(index_values(name, values, cube.bands, axis=1))
    counts = np.stack([(observed == code).sum(axis=1) for code in Observed], axis=1)
    share = clear.mean(axis=1)
    state = np.where(share >= 0.5, np.uint8(Observed.CLEAR), 1 + counts[:, 1:].argmax(axis=1)).astype(np.uint8)
    return EventSeries(days=cube.days, clear=share, counts=counts, state=state, indices=indices)


def _median_quantity(values: NDArray[np.float64]) -> Quantity:
    """Median with standard error 1.2533 x 1.4826 x MAD / sqrt(n) (normal theory); unknown below three values."""
    value = plain_median(values)
    error = None
    if len(values) >= 3:
        error = float(1.2533 * 1.4826 * plain_median(np.abs(values - value)) / math.sqrt(len(values)))
    return Quantity(value=value, unit="1", standard_uncertainty=error, propagation="satellite.median_propagation")


def index_changes(series: EventSeries, before: int, after: int) -> tuple[IndexChange, ...]:
    """Medians of each index over the clear dates of the year before and of the year after the interval.

    Only dates of the same seasons are compared: of each side, those within 20 days (in the year) of a date of the other;
    all of them where that leaves fewer than three.
    """
    changes = []
    for name, values in series.indices.items():
        seen = np.isfinite(values) & (series.clear >= 0.5)
        first = seen & (series.days <= before) & (series.days > before - 366)
        second = seen & (series.days >= after) & (series.days < after + 366)
        if not first.any() or not second.any():
            continue
        kept, matched = _same_seasons(series.days[first].astype(np.int64), series.days[second].astype(np.int64))
        old, new = values[first][kept], values[second][matched]
        changes.append(IndexChange(name=name, before=_median_quantity(old), after=_median_quantity(new)))
    return tuple(changes)


def blind_periods(
    series: EventSeries, first_day: int, last_day: int, interval: tuple[int, int], least: int
) -> tuple[BlindPeriod, ...]:
    """Times of more than `least` days without a date on which half of the pixels are clear, in order of time."""
    seen = series.days[series.state == Observed.CLEAR].astype(np.int64)
    ends = np.unique(np.concatenate([[first_day], seen, [last_day]]))
    periods = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if end - start <= least:
            continue
        between = series.state[(series.days > start) & (series.days < end)]
        periods.append(
            BlindPeriod(
                start=day_of(start),
                end=day_of(end),
                cloud=int((between == Observed.CLOUD).sum()),
                not_observed=int(((between == Observed.NOT_OBSERVED) | (between == Observed.OUTSIDE)).sum()),
                failed_read=int((between == Observed.FAILED_READ).sum()),
                in_interval=start <= interval[1] and end >= interval[0],
            )
        )
    return tuple(periods)


def pixel_agreement(
    group: PixelGroup, breaks: BreakMap, cube: Cube, corner: tuple[int, int], interval: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(pixel,) whose own interval overlaps the event's; whose reflectance moved the way that of the event did.

    The way is the difference, over all bands, of the pixel's medians of the year after and of the year before on dates of the
    same seasons; it agrees where its projection on the median of all pixels is positive.
    """
    last, first = _take(breaks.last_clear_before, group), _take(breaks.first_clear_after, group)
    overlaps = (last <= interval[1]) & (first >= interval[0])
    values = cube.at(group.rows - corner[0], group.cols - corner[1]).astype(np.float64)
    days = cube.days.astype(np.int64)
    old = np.flatnonzero((days <= interval[0]) & (days > interval[0] - 366))
    new = np.flatnonzero((days >= interval[1]) & (days < interval[1] + 366))
    first_kept, second_kept = _same_seasons(days[old], days[new])
    moved_by = median_first(values[new[second_kept]]) - median_first(values[old[first_kept]])
    known = np.isfinite(moved_by).all(axis=0)
    if not known.any():
        return overlaps, np.ones(len(group.rows), bool)
    common = np.median(moved_by[:, known], axis=1)
    along: NDArray[np.bool_] = np.nan_to_num(common @ moved_by, nan=1.0) > 0
    return overlaps, along


def _same_seasons(old: NDArray[np.int64], new: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which dates of either side have one of the other within 20 days of the year; all where that leaves fewer than three."""
    apart = np.abs(np.mod(old, 365.2425)[:, None] - np.mod(new, 365.2425)[None, :])
    near = np.minimum(apart, 365.2425 - apart) <= 20
    first, second = near.any(axis=1), near.any(axis=0)
    if first.sum() < 3 or second.sum() < 3:
        return np.ones(len(old), bool), np.ones(len(new), bool)
    return first, second


def event_window(group: PixelGroup, shape: tuple[int, int]) -> Window:
    """What an event is described and shown in: the group with as much again around it.

    16 pixels on each side and 48 in all at least, where the map of (rows, cols) `shape` has them.
    """
    rows, cols = (int(group.rows.min()), int(group.rows.max())), (int(group.cols.min()), int(group.cols.max()))
    return _window(rows, cols, shape)


def event_window_of(event: ChangeEvent, shape: tuple[int, int]) -> Window:
    """`event_window` of the group that an event was made of."""
    rows, cols = [row for row, _ in event.pixels], [col for _, col in event.pixels]
    return _window((min(rows), max(rows)), (min(cols), max(cols)), shape)


def _window(rows: tuple[int, int], cols: tuple[int, int], shape: tuple[int, int]) -> Window:
    def span(low: int, high: int, size: int) -> tuple[int, int]:
        extent = high - low + 1
        length = min(size, max(48, 2 * extent, extent + 32))
        start = min(max(0, (low + high + 1 - length) // 2), size - length)
        return start, length

    (row, height), (col, width) = span(*rows, shape[0]), span(*cols, shape[1])
    return Window(col, row, width, height)  # type: ignore[call-arg]


def crop(cube: Cube, window: Window, corner: tuple[int, int] = (0, 0)) -> Cube:
    """The part of a cube, whose upper left pixel is `corner` (row, col) of the map, that a window of the map covers."""
    top, left = int(window.row_off) - corner[0], int(window.col_off) - corner[1]
    rows, cols = slice(top, top + int(window.height)), slice(left, left + int(window.width))
    if top < 0 or left < 0 or rows.stop > cube.grid.shape[0] or cols.stop > cube.grid.shape[1]:
        raise ValueError(f"a cube of {cube.grid.shape} at {corner} does not cover {window}")
    transform = cube.grid.transform @ type(cube.grid.transform).translation(left, top)
    return replace(
        cube,
        stored=cube.stored[:, :, rows, cols],
        observed=cube.observed[:, rows, cols],
        grid=replace(cube.grid, shape=(int(window.height), int(window.width)), transform=transform),
    )


def describe_event(
    identity: str,
    group: PixelGroup,
    breaks: BreakMap,
    cube: Cube,
    config: EventConfig,
    *,
    taken: NDArray[np.bool_],
    corner: tuple[int, int] = (0, 0),
    registration: Registration | None = None,
) -> ChangeEvent:
    """All that is known of a group of pixels, the same whatever part of the map the cube covers beyond the event's window.

    Args:
        identity: such as S-001. group: from `group_pixels` on `breaks`.
        cube: covers `event_window(group, shape of the map)`; corner: (row, col) of its upper left pixel on the map.
        taken: (y, x) of the map, the pixels of all groups (`group_mask`).
        registration: as measured between the scenes; None = `EventConfig.registration_pixels` is assumed.

    Raises:
        ValueError: the cube does not cover the window, or `breaks` names no grid.
    """
    if breaks.grid is None:
        raise ValueError("a map of breaks without a grid has no places")
    window = event_window(group, breaks.status.shape)
    cube, corner = crop(cube, window, corner), (int(window.row_off), int(window.col_off))
    rows, cols = group.rows - corner[0], group.cols - corner[1]
    inside = np.zeros(cube.grid.shape, bool)
    inside[rows, cols] = True
    series = event_series(cube, rows, cols)
    before, after, middle = event_interval(group, breaks, cube, corner, config)
    since, until = _other_changes(group, breaks, config)
    gradual = bool((_take(breaks.pace, group) == Pace.GRADUAL).mean() > 0.5)
    top, left = corner
    other = taken[top : top + cube.grid.shape[0], left : left + cube.grid.shape[1]] & ~inside
    departure = departure_of(cube, inside, other, before=before, after=after, since=since, until=until)
    if departure is not None and not gradual:
        checked = checked_interval(
            departure, margin_days=config.check_days, usual=config.check_usual, clear=config.check_clear, part=config.check_part
        )
        if checked is not None:
            before, after = checked
            middle = (before + after) // 2
    overlaps, along = pixel_agreement(group, breaks, cube, corner, (before, after))
    polygon = outline(group, breaks.grid)
    outlined = ground_area(polygon, cube.grid.crs)
    area, parts = event_area(
        group,
        polygon,
        breaks,
        cube,
        corner,
        taken,
        config,
        interval=(before, after),
        registration=registration,
        doubtful=~(overlaps & along),
        outlined=outlined,
    )
    sides = attribute_change(cube, inside, before=before, after=after, since=since, until=until, config=config.attribute)
    seen = series.days[series.state == Observed.CLEAR].astype(np.int64)
    dates = _take(breaks.break_date, group).astype(np.int64)
    low, high = np.quantile(dates, (0.1, 0.9), method="nearest")
    evidence = EventEvidence(
        bands=len(cube.bands),
        score=float(np.median(_take(breaks.score, group))),
        contrast=0.0 if departure is None else departure.contrast,
        pixels=len(group.rows),
        agreement=float(overlaps.mean()),
        direction_agreement=float(along.mean()),
        clear_before=int((seen <= before).sum()),
        clear_after=int((seen >= after).sum()),
        gradual=gradual,
    )
    confidence, basis = event_confidence(evidence)
    gaps = np.diff(np.unique(np.concatenate([[breaks.first_day], seen, [breaks.last_day]])))
    return ChangeEvent(
        id=identity,
        polygon=polygon,
        pixels=tuple(zip(group.rows.tolist(), group.cols.tolist(), strict=True)),
        last_clear_before=day_of(before),
        first_clear_after=day_of(after),
        break_date=day_of(middle),
        pace=Pace.GRADUAL if gradual else Pace.ABRUPT,
        spread_days=int(high - low),
        area=area,
        outlined=outlined,
        area_parts=parts,
        registration_pixels=config.registration_pixels if registration is None else registration.sd_pixels,
        registration_dates=0 if registration is None else registration.dates,
        magnitude=float(np.median(_take(breaks.magnitude, group))),
        magnitude_of=breaks.magnitude_of,
        score=evidence.score,
        contrast=evidence.contrast,
        confidence=confidence,
        confidence_basis=basis,
        agreement=evidence.agreement,
        direction_agreement=evidence.direction_agreement,
        clear_before=evidence.clear_before,
        clear_after=evidence.clear_after,
        longest_gap_days=int(gaps.max(initial=0)),
        blind=blind_periods(series, breaks.first_day, breaks.last_day, (before, after), config.blind_days),
        indices=index_changes(series, before, after),
        before=sides.before,
        after=sides.after,
        water_level=sides.water_level,
    )


# Files ----------------------------------------------------------------------------------------------------------------

_FIELDS = (
    ("finding", "TEXT"),
    ("last_clear_before", "DATE"),
    ("first_clear_after", "DATE"),
    ("break_date", "DATE"),
    ("pace", "TEXT"),
    ("spread_days", "INTEGER"),
    ("area_m2", "REAL"),
    ("area_standard_uncertainty_m2", "REAL"),
    ("area_sd_edge_m2", "REAL"),
    ("area_sd_registration_m2", "REAL"),
    ("area_sd_classification_m2", "REAL"),
    ("outlined_m2", "REAL"),
    ("registration_px", "REAL"),
    ("registration_dates", "INTEGER"),
    ("cover_before", "TEXT"),
    ("cover_after", "TEXT"),
    ("water_share_before", "REAL"),
    ("water_share_after", "REAL"),
    ("water_level", "BOOLEAN"),
    ("confidence", "REAL"),
    ("agreement", "REAL"),
    ("direction_agreement", "REAL"),
    ("magnitude", "REAL"),
    ("magnitude_of", "TEXT"),
    ("score", "REAL"),
    ("contrast", "REAL"),
    ("pixels", "INTEGER"),
    ("clear_before", "INTEGER"),
    ("clear_after", "INTEGER"),
    ("longest_gap_days", "INTEGER"),
    ("blind_periods", "TEXT"),
    ("synthetic", "BOOLEAN"),
)


def event_properties(event: ChangeEvent, *, synthetic: bool) -> dict[str, Any]:
    """The facts of an event as plain values in a fixed order: those of the GeoPackage and of GeoJSON.

    `blind_periods` is the list of `start/end` dates, separated by spaces; a registration measured on 0 dates is assumed.
    """
    parts = event.area_parts

    def share(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    values: dict[str, Any] = {
        "finding": event.id,
        "last_clear_before": event.last_clear_before.isoformat(),
        "first_clear_after": event.first_clear_after.isoformat(),
        "break_date": event.break_date.isoformat(),
        "pace": event.pace.name.lower(),
        "spread_days": event.spread_days,
        "area_m2": round(event.area.value, 2),
        "area_standard_uncertainty_m2": round(event.area.standard_uncertainty or 0.0, 2),
        "area_sd_edge_m2": round(parts["edge"], 2),
        "area_sd_registration_m2": round(parts["registration"], 2),
        "area_sd_classification_m2": round(parts["classification"], 2),
        "outlined_m2": round(event.outlined, 2),
        "registration_px": round(event.registration_pixels, 3),
        "registration_dates": event.registration_dates,
        "cover_before": event.before.cover.value,
        "cover_after": event.after.cover.value,
        "water_share_before": share(event.before.water_share),
        "water_share_after": share(event.after.water_share),
        "water_level": event.water_level,
        "confidence": share(event.confidence),
        "agreement": share(event.agreement),
        "direction_agreement": share(event.direction_agreement),
        "magnitude": round(event.magnitude, 4),
        "magnitude_of": event.magnitude_of,
        "score": round(event.score, 2),
        "contrast": round(event.contrast, 2),
        "pixels": len(event.pixels),
        "clear_before": event.clear_before,
        "clear_after": event.clear_after,
        "longest_gap_days": event.longest_gap_days,
        "blind_periods": " ".join(f"{period.start.isoformat()}/{period.end.isoformat()}" for period in event.blind),
        "synthetic": synthetic,
    }
    return values


def moved(geometry: Mapping[str, Any], source: CRS, target: CRS, *, digits: int) -> dict[str, Any]:
    """A polygon in another CRS, coordinates rounded to `digits` decimals, rings as RFC 7946 wants them."""
    polygon = shape(_rounded(transform_geometry(geometry, source, target), digits))
    return _plain(mapping(shapely.orient_polygons(polygon)))


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part, digits) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part, digits) for part in value]
    return round(float(value), digits) if isinstance(value, (int, float)) else value


def events_geojson(events: Sequence[ChangeEvent], crs: CRS, *, synthetic: bool) -> dict[str, Any]:
    """FeatureCollection in EPSG:4326 (RFC 7946)."""
    features = [
        {
            "type": "Feature",
            "id": event.id,
            "properties": event_properties(event, synthetic=synthetic),
            "geometry": moved(event.polygon, crs, WGS84, digits=8),
        }
        for event in events
    ]
    return {"type": "FeatureCollection", "features": features}


def write_geopackage(path: Path, events: Sequence[ChangeEvent], crs: CRS, *, layers: Mapping[str, CRS], synthetic: bool) -> None:
    """Events as GeoPackage 1.3, one feature table a layer; the same events give the same bytes on one SQLite version.

    `layers` maps the table name to its CRS. Times in the file are the fixed 1970-01-01: evidence times are in the rows.
    Source: OGC 12-128r18.
    """
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("PRAGMA application_id = 0x47504B47")
        connection.execute("PRAGMA user_version = 10300")
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("BEGIN")
        for statement in _GPKG_TABLES.split(";\n"):
            connection.execute(statement)
        connection.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", _gpkg_systems(layers.values()))
        for name, target in layers.items():
            _gpkg_layer(connection, name, events, crs, target, synthetic)
        connection.execute("COMMIT")
    finally:
        connection.close()


_GPKG_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
  CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL,
  srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
  CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name),
  CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
  CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id))
"""


def _gpkg_systems(systems: Any) -> list[tuple[Any, ...]]:
    rows: dict[int, tuple[Any, ...]] = {
        -1: ("Undefined Cartesian SRS", -1, "NONE", -1, "undefined", "undefined Cartesian coordinate reference system"),
        0: ("Undefined geographic SRS", 0, "NONE", 0, "undefined", "undefined geographic coordinate reference system"),
    }
    for system in (WGS84, *systems):
        code = _code(system)
        rows[code] = (system.name, code, "EPSG", code, system.to_wkt("WKT1_GDAL"), None)
    return [rows[key] for key in sorted(rows)]


def _code(system: CRS) -> int:
    code = system.to_epsg()
    if code is None:
        raise ValueError(f"{system.name} has no EPSG code")
    return int(code)


def _gpkg_layer(
    connection: sqlite3.Connection, name: str, events: Sequence[ChangeEvent], source: CRS, target: CRS, synthetic: bool
) -> None:
    code = _code(target)
    digits = 8 if target.is_geographic else 3
    polygons = [shape(moved(event.polygon, source, target, digits=digits)) for event in events]
    bounds = shapely.total_bounds(np.array(polygons, object)).tolist() if polygons else [None] * 4
    columns = ", ".join(f'"{field}" {kind}' for field, kind in _FIELDS)
    connection.execute(f'CREATE TABLE "{name}" (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom MULTIPOLYGON, {columns})')
    connection.execute(
        "INSERT INTO gpkg_contents VALUES (?, 'features', ?, '', '1970-01-01T00:00:00.000Z', ?, ?, ?, ?, ?)",
        (name, name, *bounds, code),
    )
    connection.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'MULTIPOLYGON', ?, 0, 0)", (name, code))
    marks = ", ".join("?" * (len(_FIELDS) + 1))
    fields = ", ".join(f'"{field}"' for field, _ in _FIELDS)
    for event, polygon in zip(events, polygons, strict=True):
        row = event_properties(event, synthetic=synthetic)
        many = polygon if polygon.geom_type == "MultiPolygon" else shapely.MultiPolygon([polygon])
        # Header of a GeoPackage geometry: magic, version 0, flags (little endian, envelope xy), srs, envelope.
        west, south, east, north = many.bounds
        header = b"GP" + bytes((0, 0b00000011)) + struct.pack("<i4d", code, west, east, south, north)
        blob = header + shapely.to_wkb(many, byte_order=1)
        connection.execute(
            f'INSERT INTO "{name}" (geom, {fields}) VALUES ({marks})', (blob, *(row[field] for field, _ in _FIELDS))
        )
