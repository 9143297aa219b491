"""Which events people look at first, and what their decisions teach: identity, reviews, precision, rank, summary.

In: events of a scan, those of earlier scans, a status file of decisions, shares of mask and division layers. Out: the same
name for the same event in every run, what is new, changed or gone, a ranked queue, a summary by division and month.
The status file is closed: an unknown column or decision is an error. No clock is asked: times come from the caller.
Nothing is hidden: masked and decided events are listed apart and counted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from geoevidence.errors import ConfigError, FormatError, InputError
from geoevidence.trust import canonical
from satellite.types import ChangeEvent

Decision = Literal["accepted", "rejected"]
Novelty = Literal["new", "changed", "known"]
State = Literal["pending", "reopened", "accepted", "rejected", "masked"]
_EPOCH = date(1970, 1, 1).toordinal()
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """How events are recognised and ranked.

    same_share: share of the pixels of the smaller of two events that they have in common when they are one (1); above a
        quarter, so that an event that doubled on both sides is still itself.
    reopened_growth: factor of area from which a decided event is shown again.
    mask_share: share of an event's pixels inside a mask from which it is not reported (1).
    fresh_days: events proved within so many days before the last scene come first, d (monthly scans with a margin).
    prior_weight: how many decisions it takes until a stratum weighs as much as the detector's own confidence.
    size_limits: areas that part the size classes, m2 (10 m pixels: 25, 100 and 500 of them).
    area_unit: area whose doubling counts as one step of importance, m2 (the smallest event at 10 m).
    """

    same_share: float = 0.3
    reopened_growth: float = 1.5
    mask_share: float = 0.5
    fresh_days: int = 45
    prior_weight: float = 8.0
    size_limits: tuple[float, ...] = (2500.0, 10_000.0, 50_000.0)
    area_unit: float = 1000.0

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "same_share": (0.01, 1),
            "reopened_growth": (1, 1000),
            "mask_share": (0.001, 1),
            "fresh_days": (0, 3650),
            "prior_weight": (0.1, 1e6),
            "area_unit": (1, 1e9),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)
        if list(self.size_limits) != sorted(set(self.size_limits)) or any(limit <= 0 for limit in self.size_limits):
            raise ConfigError("satellite.setting_out_of_range", name="size_limits", value=self.size_limits, low=0, high="-")

    def size_class(self, area: float) -> str:
        """Text such as `2500-10000` of the size class of an area in m2."""
        edges = ["0", *(f"{limit:g}" for limit in self.size_limits)]
        position = sum(area >= limit for limit in self.size_limits)
        return f"{edges[position]}-{edges[position + 1]}" if position + 1 < len(edges) else f"{edges[position]}+"


# Identity -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """An event as a scan last saw it.

    rows, cols: (n,) int32 pixels, sorted. last_clear_before, first_clear_after: days since 1970-01-01. area: m2.
    current: found in the newest scan; else gone, or not looked at again.
    """

    id: str
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    last_clear_before: int
    first_clear_after: int
    area: float
    current: bool


def known_from(event: ChangeEvent) -> Known:
    """What is remembered of an event."""
    pixels = np.array(event.pixels, np.int32).reshape(-1, 2)
    return Known(
        id=event.id,
        rows=pixels[:, 0].copy(),
        cols=pixels[:, 1].copy(),
        last_clear_before=event.last_clear_before.toordinal() - _EPOCH,
        first_clear_after=event.first_clear_after.toordinal() - _EPOCH,
        area=round(event.area.value, 2),
        current=True,
    )


def recognise(found: Sequence[Known], known: Sequence[Known], config: QueueConfig, *, link_days: int) -> dict[int, int]:
    """Position in `found` -> position in `known` of the same event: by place and interval, one to one, largest overlap first."""
    if not found or not known:
        return {}
    width = 1 + max(int(event.cols.max(initial=0)) for event in (*found, *known))
    new_place, new_owner = _places(found, width)
    old_place, old_owner = _places(known, width)
    order = np.argsort(old_place, kind="stable")
    old_place, old_owner = old_place[order], old_owner[order]
    low, high = np.searchsorted(old_place, new_place, "left"), np.searchsorted(old_place, new_place, "right")
    count = high - low
    one = np.repeat(new_owner, count)
    start = np.repeat(low - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
    two = old_owner[start + np.arange(len(start))]
    pairs, overlap = np.unique(np.stack([one, two], axis=1), axis=0, return_counts=True)
    candidates = []
    for (a, b), shared in zip(pairs.tolist(), overlap.tolist(), strict=True):
        new, old = found[a], known[b]
        apart = max(new.last_clear_before, old.last_clear_before) - min(new.first_clear_after, old.first_clear_after)
        if apart <= link_days and shared >= config.same_share * min(len(new.rows), len(old.rows)):
            candidates.append((-shared, max(apart, 0), old.id, a, b))
    same: dict[int, int] = {}
    taken: set[int] = set()
    for _, _, _, a, b in sorted(candidates):
        if a not in same and b not in taken:
            same[a] = b
            taken.add(b)
    return same


def _places(events: Sequence[Known], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    place = np.concatenate([event.rows.astype(np.int64) * width + event.cols for event in events])
    owner = np.repeat(np.arange(len(events)), [len(event.rows) for event in events])
    return place, owner


def new_identity(event: ChangeEvent, position: tuple[float, float], crs: str, taken: set[str]) -> str:
    """A name for an event that was never seen: estimated date, and a digest of its place and interval."""
    place = f"{crs} {position[0]:.3f} {position[1]:.3f} {event.last_clear_before} {event.first_clear_after} {len(event.pixels)}"
    digest = hashlib.sha256(place.encode()).hexdigest().upper()
    return next(name for length in range(8, 65) if (name := f"S-{event.break_date:%Y%m%d}-{digest[:length]}") not in taken)


# Reviews --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One decision of one person about one event, with what is needed to know the event again and to learn from it.

    lon, lat: a point inside, WGS 84 degrees. area: m2. confidence: of the detector (1). kind: from>to. The rest is text.
    """

    event: str
    decision: Decision
    by: str
    time: str
    note: str
    lon: float
    lat: float
    last_clear_before: date
    first_clear_after: date
    area: float
    confidence: float
    kind: str
    land: str
    size: str
    division: str


REVIEW_COLUMNS = tuple(f.name for f in fields(Review))
REVIEW_SCHEMA = "geoevidence.reviews.v1"


def _review_row(review: Review) -> dict[str, str]:
    def text(value: Any) -> str:
        return value.isoformat() if isinstance(value, date) else repr(value) if isinstance(value, float) else str(value)

    return {name: text(getattr(review, name)) for name in REVIEW_COLUMNS}


def _review_from(row: Mapping[str, Any], where: str, line: int) -> Review:
    unknown, missing = sorted(set(row) - set(REVIEW_COLUMNS)), sorted(set(REVIEW_COLUMNS) - set(row))
    if unknown or missing:
        raise FormatError("satellite.review_columns", path=where, line=line, unknown=unknown or "-", missing=missing or "-")
    values: dict[str, Any] = dict(row)
    try:
        if any(not isinstance(value, str) for value in values.values()):
            raise ValueError("text expected")
        for name in ("lon", "lat", "area", "confidence"):
            values[name] = float(values[name])
            if not math.isfinite(values[name]):
                raise ValueError(f"{name} {row[name]}")
        for name in ("last_clear_before", "first_clear_after"):
            values[name] = date.fromisoformat(values[name])
        if values["decision"] not in ("accepted", "rejected"):
            raise ValueError(f"decision {values['decision']!r}")
        if not values["event"] or not values["by"]:
            raise ValueError("event and by must not be empty")
        if not (abs(values["lon"]) <= 180 and abs(values["lat"]) <= 90 and 0 <= values["confidence"] <= 1):
            raise ValueError("lon, lat or confidence out of range")
    except ValueError as error:
        raise FormatError("satellite.review_row", path=where, line=line, reason=str(error)) from error
    return Review(**values)


def read_reviews(path: Path) -> tuple[Review, ...]:
    """The decisions of a status file (CSV, or JSON where the name ends so), in order. Raises FormatError."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError("satellite.layer_too_large", path=path.name, size=path.stat().st_size, limit=MAX_BYTES)
        data = path.read_bytes()
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error
    if path.suffix.lower() == ".json":
        record = canonical.loads(data, where=path.name)
        if not isinstance(record, dict) or set(record) != {"schema", "reviews"} or record["schema"] != REVIEW_SCHEMA:
            raise FormatError("satellite.review_row", path=path.name, line=1, reason=f"schema {REVIEW_SCHEMA}")
        rows = record["reviews"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FormatError("satellite.review_row", path=path.name, line=1, reason="reviews")
        return tuple(_review_from(row, path.name, number) for number, row in enumerate(rows, start=1))
    try:
        table = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header = next(table, [])
        if len(set(header)) != len(header) or set(header) != set(REVIEW_COLUMNS):
            unknown, missing = sorted(set(header) - set(REVIEW_COLUMNS)), sorted(set(REVIEW_COLUMNS) - set(header))
            raise FormatError("satellite.review_columns", path=path.name, line=1, unknown=unknown or "-", missing=missing or "-")
        reviews = []
        for row in table:
            if not row:
                continue
            if len(row) != len(header):
                raise FormatError(
                    "satellite.review_row", path=path.name, line=table.line_num, reason=f"{len(row)} / {len(header)}"
                )
            reviews.append(_review_from(dict(zip(header, row, strict=True)), path.name, table.line_num))
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError("satellite.review_row", path=path.name, line="-", reason=str(error)) from error
    return tuple(reviews)


def append_review(path: Path, review: Review) -> None:
    """Add one decision at the end of a status file, made where there is none. What stands there is read first and never changed.

    Raises: FormatError where the file is not a status file.
    """
    path = Path(path)
    earlier = read_reviews(path) if path.exists() else ()
    if path.suffix.lower() == ".json":
        record = {"schema": REVIEW_SCHEMA, "reviews": [_review_row(each) for each in (*earlier, review)]}
        write_atomically(path, (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode())
        return
    stream = io.StringIO(newline="")
    table = csv.writer(stream, lineterminator="\n")
    header = list(REVIEW_COLUMNS)
    data = b""
    if path.exists():
        data = path.read_bytes()
        header = next(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
        if data and not data.endswith(b"\n"):
            stream.write("\n")
    else:
        table.writerow(header)
    row = _review_row(review)
    table.writerow([row[name] for name in header])
    # The whole file is put in place anew: a crash leaves the old or the new one, never half a line.
    write_atomically(path, data + stream.getvalue().encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and lasting."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# Precision ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """What an event is learnt by. kind: from>to; land: class of a land layer or ""; size: class; division: code or ""."""

    kind: str
    land: str
    size: str
    division: str

    def strata(self) -> tuple[tuple[str, ...], ...]:
        """From all events to those most alike."""
        parts = (self.kind, self.land, self.size, self.division)
        return tuple(parts[:length] for length in range(len(parts) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Share of true events in a stratum: mean of a Beta posterior and its central 95 % interval (1).

    stratum: values of kind, land, size, division as far as it goes; () = all events. accepted, rejected: decisions in it.
    shift: what the decisions add to the log odds of the detector's confidence.
    """

    stratum: tuple[str, ...]
    accepted: int
    rejected: int
    mean: float
    low: float
    high: float
    shift: float


def _logit(p: float) -> float:
    p = min(max(p, 0.01), 0.99)
    return math.log(p / (1 - p))


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


def learn_precision(reviews: Iterable[Review], config: QueueConfig) -> dict[tuple[str, ...], Precision]:
    """Precision of every stratum with a decision; of several decisions about an event the last counts.

    The prior of a stratum is what its parent leads to expect of the events decided in it, worth `prior_weight` decisions:
    a Beta(w m, w (1 - m)) with m the mean of their confidence, shifted by the parent; with a accepted and r rejected the
    posterior is Beta(w m + a, w (1 - m) + r). Few decisions thus move a stratum little, and never without its parents.
    """
    final = {review.event: review for review in reviews}
    members: dict[tuple[str, ...], list[Review]] = {}
    for _, review in sorted(final.items()):
        facets = Facets(kind=review.kind, land=review.land, size=review.size, division=review.division)
        for stratum in facets.strata():
            members.setdefault(stratum, []).append(review)
    learnt: dict[tuple[str, ...], Precision] = {}
    for stratum in sorted(members, key=lambda s: (len(s), s)):
        inside = members[stratum]
        before = learnt[stratum[:-1]].shift if stratum else 0.0
        expected = float(np.mean([_share(_logit(review.confidence) + before) for review in inside]))
        accepted = sum(review.decision == "accepted" for review in inside)
        rejected = len(inside) - accepted
        a, b = config.prior_weight * expected + accepted, config.prior_weight * (1 - expected) + rejected
        mean = a / (a + b)
        learnt[stratum] = Precision(
            stratum=stratum,
            accepted=accepted,
            rejected=rejected,
            mean=mean,
            low=float(betaincinv(a, b, 0.025)),
            high=float(betaincinv(a, b, 0.975)),
            shift=before + _logit(mean) - _logit(expected),
        )
    return learnt


# Queue ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event of the newest scan as it stands in the queue.

    divisions: code -> share of its pixels. land: class or "". masks: name of the mask layer -> share of its pixels.
    novelty: against the last scan. state: pending, decided, masked. chance: that it is true, after what was learnt (1).
    precision: of the narrowest stratum with decisions, or None. fresh: proved shortly before the last scene.
    priority: chance times importance. rank: 1 = look first; None where nothing is to be looked at.
    """

    event: ChangeEvent
    facets: Facets
    divisions: Mapping[str, float]
    masks: Mapping[str, float]
    novelty: Novelty
    state: State = "pending"
    review: Review | None = None
    chance: float = 0.0
    precision: Precision | None = None
    fresh: bool = False
    priority: float = 0.0
    rank: int | None = None
    position: tuple[float, float] = field(default=(0.0, 0.0))
    """A point inside, WGS 84 longitude and latitude, degrees."""


def kind_of(event: ChangeEvent) -> str:
    """From what to what, such as `vegetation>bare`."""
    return f"{event.before.cover.value}>{event.after.cover.value}"


def decided(entry: Entry, review: Review | None, config: QueueConfig, *, link_days: int) -> Entry:
    """The entry with what a person said; a decided event that grew or went on is open again."""
    if review is None:
        return entry
    grown = entry.event.area.value > config.reopened_growth * review.area
    later = (entry.event.first_clear_after - review.first_clear_after).days > link_days
    return replace(entry, state="reopened" if grown or later else review.decision, review=review)


def rank_entries(
    entries: Sequence[Entry], precision: Mapping[tuple[str, ...], Precision], last_day: date, config: QueueConfig
) -> tuple[Entry, ...]:
    """Entries in order of work: what is open first, fresh before old, then by priority; the rest by id."""
    weighed = []
    for entry in entries:
        strata = [precision[s] for s in entry.facets.strata() if s in precision]
        best = strata[-1] if strata else None
        chance = _share(_logit(entry.event.confidence) + (best.shift if best else 0.0))
        importance = math.log2(1 + max(entry.event.area.value, 0.0) / config.area_unit)
        fresh = (last_day - entry.event.first_clear_after).days <= config.fresh_days
        weighed.append(replace(entry, chance=chance, precision=best, fresh=fresh, priority=chance * importance))
    # A tie is broken by the id: order must not depend on the machine's last digit.
    weighed.sort(key=lambda e: (not _open(e), not e.fresh, -round(e.priority, 9), e.event.id))
    return tuple(replace(entry, rank=number if _open(entry) else None) for number, entry in enumerate(weighed, start=1))


def _open(entry: Entry) -> bool:
    return entry.state in ("pending", "reopened")


QUEUE_COLUMNS = (
    "rank", "event", "in_capacity", "state", "novelty", "fresh", "priority", "chance", "confidence", "precision", "precision_low",
    "precision_high", "decisions", "kind", "land", "size", "division", "area_m2", "area_standard_uncertainty_m2",
    "last_clear_before", "first_clear_after", "break_date", "lon", "lat", "mask", "reviewed_by", "reviewed_at", "note",
)  # fmt: skip


def queue_record(entry: Entry, capacity: int | None) -> dict[str, Any]:
    """The line of the queue of one event, plain values."""
    event, learnt, review = entry.event, entry.precision, entry.review

    def rounded(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "rank": entry.rank,
        "event": event.id,
        "in_capacity": entry.rank is not None and (capacity is None or entry.rank <= capacity),
        "state": entry.state,
        "novelty": entry.novelty,
        "fresh": entry.fresh,
        "priority": round(entry.priority, 4),
        "chance": round(entry.chance, 4),
        "confidence": round(event.confidence, 4),
        "precision": rounded(learnt.mean if learnt else None, 4),
        "precision_low": rounded(learnt.low if learnt else None, 4),
        "precision_high": rounded(learnt.high if learnt else None, 4),
        "decisions": learnt.accepted + learnt.rejected if learnt else 0,
        "kind": entry.facets.kind,
        "land": entry.facets.land,
        "size": entry.facets.size,
        "division": entry.facets.division,
        "area_m2": round(event.area.value, 2),
        "area_standard_uncertainty_m2": rounded(event.area.standard_uncertainty, 2),
        "last_clear_before": event.last_clear_before.isoformat(),
        "first_clear_after": event.first_clear_after.isoformat(),
        "break_date": event.break_date.isoformat(),
        "lon": round(entry.position[0], 6),
        "lat": round(entry.position[1], 6),
        "mask": " ".join(f"{name}:{share:.2f}" for name, share in sorted(entry.masks.items())),
        "reviewed_by": review.by if review else "",
        "reviewed_at": review.time if review else "",
        "note": review.note if review else "",
    }


def csv_text(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """A CSV table (UTF-8, LF) of plain values; None is empty, truth is yes or no."""
    stream = io.StringIO(newline="")
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(columns)
    for record in records:
        shown = [record[name] for name in columns]
        table.writerow(["" if v is None else ("yes" if v else "no") if isinstance(v, bool) else v for v in shown])
    return stream.getvalue()


SUMMARY_COLUMNS = (
    "division", "month", "events", "area_m2", "area_standard_uncertainty_m2", "expected_true", "pending", "accepted", "rejected",
    "new", "masked",
)  # fmt: skip
NO_DIVISION = "none"


def summarise(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Events by division and month of the first clear view that proves them.

    An event counts in the division that has most of its pixels; its area is shared out by pixels, with errors taken as
    independent between events. Masked events are counted apart and add nothing else; rejected ones add no area.
    """
    cells: dict[tuple[str, str], dict[str, float]] = {}

    def cell(division: str, month: str) -> dict[str, float]:
        return cells.setdefault((division, month), dict.fromkeys(SUMMARY_COLUMNS[2:], 0.0))

    for entry in sorted(entries, key=lambda e: e.event.id):
        month = f"{entry.event.first_clear_after:%Y-%m}"
        row = cell(entry.facets.division or NO_DIVISION, month)
        if entry.state == "masked":
            row["masked"] += 1
            continue
        row["events"] += 1
        row["pending"] += _open(entry)
        row["accepted"] += entry.state == "accepted"
        row["rejected"] += entry.state == "rejected"
        row["new"] += entry.novelty == "new"
        if entry.state == "rejected":
            continue
        row["expected_true"] += 1.0 if entry.state == "accepted" else entry.chance
        shares = dict(entry.divisions)
        rest = 1 - sum(shares.values())
        if rest > 1e-9:
            shares[NO_DIVISION] = rest
        for division, share in sorted(shares.items()):
            part = cell(division, month)
            part["area_m2"] += share * entry.event.area.value
            part["area_standard_uncertainty_m2"] += (share * (entry.event.area.standard_uncertainty or 0.0)) ** 2
    records: list[dict[str, Any]] = []
    for (division, month), row in sorted(cells.items()):
        record: dict[str, Any] = {"division": division, "month": month}
        for name, value in row.items():
            if name == "area_standard_uncertainty_m2":
                value = math.sqrt(value)
            record[name] = round(value, 2) if name.startswith("area") or name == "expected_true" else int(value)
        records.append(record)
    return records


def review_of(queue: Path, event: str, *, decision: str, by: str, time: str, note: str = "") -> Review:
    """The review of an event that stands in a `queue.json`.

    Raises: FormatError where it cannot be read; InputError for an unknown event; ConfigError for a decision or name that is none.
    """
    queue = Path(queue)
    if decision not in ("accepted", "rejected"):
        raise ConfigError("satellite.review_decision", found=decision)
    if not by.strip():
        raise ConfigError("satellite.review_by")
    try:
        record = canonical.loads(queue.read_bytes(), where=queue.name, allow_floats=True)
    except OSError as error:
        raise FormatError("core.cannot_read", path=queue.name, reason=error.strerror or str(error)) from error
    try:
        lines = {line["event"]: line for line in record["events"]}
        line = lines.get(event)
        if line is None:
            raise InputError("satellite.review_no_event", event=event, path=queue.name, known=", ".join(sorted(lines)[:5]) or "-")
        return Review(
            event=event,
            decision=decision,  # type: ignore[arg-type]
            by=by.strip(),
            time=time,
            note=note,
            lon=float(line["lon"]),
            lat=float(line["lat"]),
            last_clear_before=date.fromisoformat(line["last_clear_before"]),
            first_clear_after=date.fromisoformat(line["first_clear_after"]),
            area=float(line["area_m2"]),
            confidence=float(line["confidence"]),
            kind=line["kind"],
            land=line["land"],
            size=line["size"],
            division=line["division"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError("core.cannot_read", path=queue.name, reason=f"{type(error).__name__}: {error}") from error
