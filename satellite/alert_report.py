"""Alerts as polygons with their days, and which of them move under another model.

In: the states of the tiles of one area. Out: an `AlertReport`, its GeoJSON, and `AlertMoves` between two sets of states. Pixels
that touch and left their season at about the same time are one alert, across tiles too; what is in none is counted. It changes no
state and names no cause.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from geoevidence.errors import GridMismatchError
from geoevidence.raster import Grid
from geoevidence.types import Quantity
from satellite import alert_kernels as kernels
from satellite.alerts import AlertConfig, AlertState, TileState, replay
from satellite.events import PixelGroup, day_of, ground_area, moved, outline
from satellite.types import BreakMap, Cube


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Pixels that left their season together.

    id: from the pixel that was known first; it stays while that pixel belongs to the alert. state: CONFIRMED where at least
    `min_pixels` pixels are: these alone are outlined; else PROVISIONAL, of all pixels that belong together; or WITHDRAWN.
    polygon: GeoJSON geometry in the grid's CRS, along pixel edges. pixels: (row, col) on the area's grid, sorted.
    confirmed_pixels: how many of them are confirmed.
    last_clear_old, first_anomaly: interval in which nine tenths of the pixels left: nine tenths were still old on the former or
    later, and nine tenths showed the new state on the latter or before; dates of real looks of single pixels.
    provisional_day, confirmed_day, withdrawn_day: when it became known: the day of the pixel that completed `min_pixels` (of a
    withdrawn one: of the last pixel). None: not so far.
    magnitude: median change of `magnitude_of`. score: median evidence. area: outlined, on the ellipsoid, m2.
    """

    id: str
    state: AlertState
    polygon: Mapping[str, Any]
    pixels: tuple[tuple[int, int], ...]
    confirmed_pixels: int
    last_clear_old: date
    first_anomaly: date
    provisional_day: date
    confirmed_day: date | None
    withdrawn_day: date | None
    magnitude: float
    magnitude_of: str
    score: float
    area: Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertReport:
    """alerts: in order of (state, first anomaly, place). scattered: alerted pixels that are in no alert, by state.
    pixels: all pixels by state. newest: newest day taken, of the tile that is furthest behind."""

    alerts: tuple[Alert, ...]
    scattered: Mapping[AlertState, int]
    pixels: Mapping[AlertState, int]
    newest: date
    crs: CRS
    synthetic: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pixels:
    """Alerted pixels of an area, sorted by (row, col); days since 1970-01-01."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    state: NDArray[np.uint8]
    first: NDArray[np.int64]
    old: NDArray[np.int64]
    provisional: NDArray[np.int64]
    confirmed: NDArray[np.int64]
    withdrawn: NDArray[np.int64]
    magnitude: NDArray[np.float64]
    score: NDArray[np.float64]


_ALERTED = (AlertState.PROVISIONAL, AlertState.CONFIRMED, AlertState.WITHDRAWN)


def _pixels_of(states: Sequence[TileState]) -> _Pixels:
    columns: dict[str, list[NDArray[Any]]] = {each.name: [] for each in fields(_Pixels)}
    days = {
        "first": kernels.FIRST,
        "old": kernels.LAST_OLD,
        "provisional": kernels.PROVISIONAL_DAY,
        "confirmed": kernels.CONFIRMED_DAY,
        "withdrawn": kernels.WITHDRAWN_DAY,
    }
    for tile in states:
        at = np.nonzero(np.isin(tile.state, [int(each) for each in _ALERTED]))
        columns["rows"].append(at[0] + tile.corner[0])
        columns["cols"].append(at[1] + tile.corner[1])
        columns["state"].append(tile.state[at])
        columns["magnitude"].append(tile.size[..., 0][at].astype(np.float64))
        columns["score"].append(tile.size[..., 1][at].astype(np.float64))
        for name, index in days.items():
            columns[name].append(tile.days_of(index)[at].astype(np.int64))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((joined["cols"], joined["rows"]))
    return _Pixels(**{name: values[order] for name, values in joined.items()})


def _require_one_area(states: Sequence[TileState]) -> None:
    if not states:
        raise ValueError("no tile")
    first = states[0]
    for each in states[1:]:
        if not each.whole.matches(first.whole) or each.bands != first.bands or each.config != first.config:
            raise GridMismatchError("satellite.alert_tiles_differ", one=str(first.corner), other=str(each.corner))


def _groups(pixels: _Pixels, cols: int, link_days: int) -> list[NDArray[np.intp]]:
    """Positions of pixels that belong together: neighbours (eight), both open or both withdrawn, intervals near each other."""
    key = pixels.rows * (cols + 2) + pixels.cols + 1
    open_ = pixels.state != AlertState.WITHDRAWN
    pairs = []
    for step in (1, cols + 1, cols + 2, cols + 3):
        found = np.minimum(np.searchsorted(key, key + step), len(key) - 1)
        one = np.flatnonzero(key[found] == key + step)
        two = found[one]
        apart = np.maximum(pixels.old[one], pixels.old[two]) - np.minimum(pixels.first[one], pixels.first[two])
        linked = (open_[one] == open_[two]) & (apart <= link_days)
        pairs.append(np.stack([one[linked], two[linked]]))
    edges = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(len(key), len(key)))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def alerts_of(states: TileState | Sequence[TileState]) -> AlertReport:
    """The alerts of a tile, or of the tiles of one area as if it were one tile.

    Raises:
        GridMismatchError: the tiles are not of one area, one configuration and the same bands.
    """
    tiles = (states,) if isinstance(states, TileState) else tuple(states)
    _require_one_area(tiles)
    whole, config = tiles[0].whole, tiles[0].config
    counts: Counter[int] = Counter()
    for tile in tiles:
        counts.update(dict(enumerate(np.bincount(tile.state.ravel(), minlength=len(AlertState)).tolist())))
    pixels = _pixels_of(tiles)
    alerts, scattered = [], Counter({each: 0 for each in _ALERTED})
    for members in _groups(pixels, whole.shape[1], config.link_days) if len(pixels.rows) else []:
        used = _outlined_members(pixels.state[members], config.min_pixels)
        scattered.update(AlertState(int(value)) for value in pixels.state[members[~used]])
        if used.any():
            alerts.append(_alert(pixels, members[used], whole, tiles[0]))
    alerts.sort(key=lambda each: (-int(each.state == AlertState.CONFIRMED), int(each.state), each.first_anomaly, each.pixels[0]))
    return AlertReport(
        alerts=tuple(alerts),
        scattered=dict(scattered),
        pixels={each: counts[int(each)] for each in AlertState},
        newest=day_of(min(tile.newest for tile in tiles)),
        crs=whole.crs,
        synthetic=any(tile.synthetic for tile in tiles),
    )


def _outlined_members(states: NDArray[np.uint8], least: int) -> NDArray[np.bool_]:
    """Which pixels of a group are in its alert: the confirmed where these are enough, else all, else none."""
    confirmed = states == AlertState.CONFIRMED
    if confirmed.sum() >= least:
        return confirmed
    return np.full(len(states), len(states) >= least)


def _alert(pixels: _Pixels, members: NDArray[np.intp], whole: Grid, tile: TileState) -> Alert:
    rows, cols = pixels.rows[members], pixels.cols[members]
    least = tile.config.min_pixels
    confirmed = pixels.state[members] == AlertState.CONFIRMED
    gone = bool((pixels.state[members] == AlertState.WITHDRAWN).all())
    sure = int(confirmed.sum()) >= least
    state = AlertState.WITHDRAWN if gone else AlertState.CONFIRMED if sure else AlertState.PROVISIONAL
    known = pixels.provisional[members]
    first = int(np.lexsort((cols, rows, known))[0])
    group = PixelGroup(rows=rows.astype(np.intp), cols=cols.astype(np.intp), layers=np.zeros(len(rows), np.intp))
    polygon = outline(group, whole)
    old = int(np.quantile(pixels.old[members], 0.1, method="lower"))
    new = int(np.quantile(pixels.first[members], 0.9, method="higher"))
    seen = np.isfinite(pixels.magnitude[members])
    return Alert(
        id=f"A{day_of(known[first]):%Y%m%d}-{rows[first]}-{cols[first]}",
        state=state,
        polygon=polygon,
        pixels=tuple(zip(rows.tolist(), cols.tolist(), strict=True)),
        confirmed_pixels=int(confirmed.sum()),
        last_clear_old=day_of(min(old, new)),
        first_anomaly=day_of(new),
        provisional_day=day_of(np.sort(known)[least - 1]),
        confirmed_day=day_of(np.sort(pixels.confirmed[members][confirmed])[least - 1]) if sure else None,
        withdrawn_day=day_of(pixels.withdrawn[members].max()) if gone else None,
        magnitude=float(np.median(pixels.magnitude[members][seen])) if seen.any() else math.nan,
        magnitude_of=tile.magnitude_of,
        score=float(np.median(pixels.score[members])),
        area=_outlined(polygon, rows, cols, whole),
    )


def _outlined(polygon: Mapping[str, Any], rows: NDArray[np.int64], cols: NDArray[np.int64], whole: Grid) -> Quantity:
    """Area of the outline; its edge may lie anywhere within half a pixel, as a whole, and each mixed pixel anywhere inside."""
    area = ground_area(polygon, whole.crs)
    cell = area / len(rows)
    inside = set(zip(rows.tolist(), cols.tolist(), strict=True))
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    edge = sum(any((row + a, col + b) not in inside for a, b in steps) for row, col in inside)
    return Quantity(
        value=area,
        unit="m2",
        standard_uncertainty=cell * math.hypot(math.sqrt(edge / 12), 0.5 * edge / math.sqrt(3)),
        propagation="satellite.alert_area_propagation",
    )


def alert_properties(alert: Alert, *, synthetic: bool) -> dict[str, Any]:
    """The facts of an alert as plain values in a fixed order; None where there is no such day."""

    def day(value: date | None) -> str | None:
        return None if value is None else value.isoformat()

    return {
        "alert": alert.id,
        "state": alert.state.name.lower(),
        "last_clear_old": day(alert.last_clear_old),
        "first_anomaly": day(alert.first_anomaly),
        "provisional_day": day(alert.provisional_day),
        "confirmed_day": day(alert.confirmed_day),
        "withdrawn_day": day(alert.withdrawn_day),
        "pixels": len(alert.pixels),
        "confirmed_pixels": alert.confirmed_pixels,
        "outlined_m2": round(alert.area.value, 2),
        "outlined_standard_uncertainty_m2": round(alert.area.standard_uncertainty or 0.0, 2),
        "magnitude": None if math.isnan(alert.magnitude) else round(alert.magnitude, 4),
        "magnitude_of": alert.magnitude_of,
        "score": round(alert.score, 2),
        "synthetic": synthetic,
    }


def alerts_geojson(report: AlertReport) -> dict[str, Any]:
    """FeatureCollection in EPSG:4326 (RFC 7946), one feature an alert."""
    wgs84 = CRS.from_epsg(4326)
    features = [
        {
            "type": "Feature",
            "id": alert.id,
            "properties": alert_properties(alert, synthetic=report.synthetic),
            "geometry": moved(alert.polygon, report.crs, wgs84, digits=8),
        }
        for alert in report.alerts
    ]
    return {"type": "FeatureCollection", "features": features}


# Another model --------------------------------------------------------------------------------------------------------

MoveKind = Literal["kept", "moved", "appeared", "vanished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMove:
    """What became of one alert under another model.

    kind: kept (same pixels, state and days), moved (the same place, but something differs), appeared, vanished.
    old, new: the alerts, None where there is none. overlap: common pixels over all pixels of both (1).
    days: new minus old first anomaly, d. confirmed_days: new minus old day of confirmation, d, None where one has none.
    """

    kind: MoveKind
    old: Alert | None
    new: Alert | None
    overlap: float
    days: int | None
    confirmed_days: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMoves:
    """Every alert of both, once, and pixels by (old, new) state. model_versions, scores: old and new; `score` to confirm."""

    moves: tuple[AlertMove, ...]
    pixels: Mapping[tuple[AlertState, AlertState], int]
    model_versions: tuple[str, str]
    scores: tuple[float, float]
    crs: CRS
    synthetic: bool
    not_replayed: tuple[str, ...] = field(default=())
    """Scenes that the old state had taken and that are not there any more, or are other bytes now."""

    @property
    def counts(self) -> dict[str, int]:
        """Alerts by kind."""
        found = Counter(move.kind for move in self.moves)
        return {kind: found[kind] for kind in ("kept", "moved", "appeared", "vanished")}  # type: ignore[index]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: counts, one row an alert, pixels by old and new state."""
        return {
            "counts": self.counts,
            "model_versions": list(self.model_versions),
            "confirm_scores": [round(value, 3) for value in self.scores],
            "not_replayed": list(self.not_replayed),
            "alerts": [_move_row(move, self.synthetic) for move in self.moves],
            "pixels": [
                {"old": old.name.lower(), "new": new.name.lower(), "pixels": count}
                for (old, new), count in sorted(self.pixels.items())
            ],
        }

    def geojson(self) -> dict[str, Any]:
        """FeatureCollection in EPSG:4326: each alert where it is now, or where it was."""
        wgs84 = CRS.from_epsg(4326)
        features = []
        for move in self.moves:
            here = move.new or move.old
            assert here is not None
            geometry = moved(here.polygon, self.crs, wgs84, digits=8)
            properties = _move_row(move, self.synthetic)
            features.append({"type": "Feature", "id": here.id, "properties": properties, "geometry": geometry})
        return {"type": "FeatureCollection", "features": features}


def _move_row(move: AlertMove, synthetic: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kind": move.kind,
        "overlap": round(move.overlap, 3),
        "days": move.days,
        "confirmed_days": move.confirmed_days,
    }
    for side, alert in (("old", move.old), ("new", move.new)):
        facts = alert_properties(alert, synthetic=synthetic) if alert else {}
        for name in ("alert", "state", "first_anomaly", "confirmed_day", "pixels"):
            row[f"{side}_{name}"] = facts.get(name)
    row["synthetic"] = synthetic
    return row


def compare_models(
    old: TileState, cube: Cube, config: AlertConfig | None = None, *, breaks: BreakMap | None = None, threads: int = 2
) -> AlertMoves:
    """Which alerts of a state stay, move, appear or vanish when the same dates are taken by the present model.

    Args: as `replay`; config None = that of the old state.
    """
    new = replay(old, cube, config or old.config, breaks=breaks, threads=threads)
    return compare_alerts((old,), (new,))


def compare_alerts(old: Sequence[TileState], new: Sequence[TileState], *, not_replayed: Sequence[str] = ()) -> AlertMoves:
    """The moves between two sets of states of the same tiles.

    Alerts are matched one to one by common pixels, the largest overlap first; an alert that fell apart is moved once, and
    its other parts appear.

    Raises:
        GridMismatchError: not the same tiles.
    """
    by_corner = {tile.corner: tile for tile in new}
    if len(by_corner) != len(old) or any(by_corner.get(t.corner) is None or by_corner[t.corner].shape != t.shape for t in old):
        raise GridMismatchError("satellite.alert_tiles_differ", one=str(len(old)), other=str(len(new)))
    pixels: Counter[tuple[AlertState, AlertState]] = Counter()
    for tile in old:
        both = tile.state.astype(np.int64) * len(AlertState) + by_corner[tile.corner].state
        for code, count in enumerate(np.bincount(both.ravel(), minlength=len(AlertState) ** 2).tolist()):
            if count:
                pixels[AlertState(code // len(AlertState)), AlertState(code % len(AlertState))] += count
    before, after = alerts_of(old), alerts_of(new)
    return AlertMoves(
        moves=_matched(before.alerts, after.alerts),
        pixels=dict(pixels),
        model_versions=(old[0].model_version, new[0].model_version),
        scores=(old[0].config.confirm_score(len(old[0].bands)), new[0].config.confirm_score(len(new[0].bands))),
        crs=before.crs,
        synthetic=before.synthetic,
        not_replayed=tuple(sorted(not_replayed)),
    )


def _matched(old: Sequence[Alert], new: Sequence[Alert]) -> tuple[AlertMove, ...]:
    at: dict[tuple[int, int], list[int]] = {}
    for index, alert in enumerate(new):
        for pixel in alert.pixels:
            at.setdefault(pixel, []).append(index)
    shared: Counter[tuple[int, int]] = Counter()
    for index, alert in enumerate(old):
        for pixel in alert.pixels:
            shared.update((index, other) for other in at.get(pixel, ()))
    overlap = {(i, j): n / (len(old[i].pixels) + len(new[j].pixels) - n) for (i, j), n in shared.items()}
    partner: dict[int, int] = {}
    for i, j in sorted(overlap, key=lambda pair: (-overlap[pair], pair)):
        if i not in partner and j not in partner.values():
            partner[i] = j
    moves = []
    for i, alert in enumerate(old):
        if i not in partner:
            moves.append(AlertMove(kind="vanished", old=alert, new=None, overlap=0.0, days=None, confirmed_days=None))
            continue
        other = new[partner[i]]
        same = (alert.state, alert.pixels, alert.last_clear_old, alert.first_anomaly, alert.confirmed_day, alert.withdrawn_day)
        kept = same == (
            other.state, other.pixels, other.last_clear_old, other.first_anomaly, other.confirmed_day, other.withdrawn_day
        )  # fmt: skip
        both = alert.confirmed_day is not None and other.confirmed_day is not None
        moves.append(
            AlertMove(
                kind="kept" if kept else "moved",
                old=alert,
                new=other,
                overlap=overlap[i, partner[i]],
                days=(other.first_anomaly - alert.first_anomaly).days,
                confirmed_days=(other.confirmed_day - alert.confirmed_day).days if both else None,  # type: ignore[operator]
            )
        )
    taken = set(partner.values())
    for j, alert in enumerate(new):
        if j not in taken:
            moves.append(AlertMove(kind="appeared", old=None, new=alert, overlap=0.0, days=None, confirmed_days=None))
    return tuple(moves)
