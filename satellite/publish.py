"""What a region scan leaves for people: events under lasting names, the queue, masked events, summary, maps, the record.

In: what a run found (`region.py`), the layers and decisions that the user brought, what earlier runs remembered. Out: the files
of docs/formats/scan.md, each whole or not at all, the same bytes for the same input; `run.json` is the last. No clock is asked.
Nothing is dropped silently: masked, decided, gone and not scanned are lists of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from geoevidence.crs import report_crs, transformer
from geoevidence.errors import FormatError
from geoevidence.raster import Grid
from geoevidence.types import Message, Progress
from satellite.cube import read_block
from satellite.events import WGS84, events_geojson, write_geopackage
from satellite.evidence import EvidenceStyle, write_event_evidence
from satellite.fused import code_digest, window_of
from satellite.overlay import Overlay, main_label
from satellite.queue import (
    QUEUE_COLUMNS,
    SUMMARY_COLUMNS,
    Entry,
    Facets,
    Known,
    Novelty,
    Precision,
    Review,
    csv_text,
    decided,
    kind_of,
    known_from,
    learn_precision,
    new_identity,
    queue_record,
    rank_entries,
    read_reviews,
    recognise,
    summarise,
    write_atomically,
)
from satellite.sparse import Nodes, no_nodes, pack, unpack
from satellite.types import NODATE, ChangeEvent, Observed, Status
from satellite.workflow import _parameters

if TYPE_CHECKING:
    from satellite.region import Layers, Scanned, ScanRequest, Tile

PROCESS = "satellite.scan"
_CGCS2000 = CRS.from_epsg(4490)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanResult:
    """What a scan did.

    record: the content of `run.json`. computed, reused: tiles. damaged: names of tile files that were not whole and were made
    again. failed: tiles that could not be done, with the reason; empty when all went well. gaps: what people must know.
    """

    record: Mapping[str, Any]
    computed: int
    reused: int
    damaged: tuple[str, ...]
    failed: tuple[tuple[str, Message], ...]
    gaps: tuple[Message, ...]


def publish(found: Scanned, request: ScanRequest, layers: Layers, progress: Progress) -> ScanResult:
    """Write everything that a run leaves for people; what it did. Raises FormatError where reviews or history are damaged."""
    return _Publisher(found, request, layers, progress).run()


class _Publisher:
    """Writes the files of one run."""

    def __init__(self, found: Scanned, request: ScanRequest, layers: Layers, progress: Progress) -> None:
        self._found, self._request, self._layers, self._progress = found, request, layers, progress
        self._out, self._config, self._stack = found.out, found.config, found.job.stack
        self._grid: Grid = self._stack.grid
        self._link_days = self._config.monitor.events.link_days

    def run(self) -> ScanResult:
        self._progress("satellite.stage_queue", 0.97)
        reviews = () if self._request.reviews is None else read_reviews(self._request.reviews)
        precision = learn_precision(reviews, self._config.queue)
        events, since, history = self._named()
        entries = self._entries(events, since, reviews, precision)
        # What is remembered is written first: a run killed from here on finds its own memory and replaces it.
        _write(self._out / "history" / f"{history.number:05d}.scan", history.to_bytes())
        self._maps(entries)
        self._queue(entries, precision)
        summary = summarise(entries)
        self._text("summary_by_division.csv", csv_text(SUMMARY_COLUMNS, summary))
        self._json("summary_by_division.json", {"schema": "geoevidence.summary.v1", "rows": summary})
        self._scenes()
        gaps = self._evidence([entry for entry in entries if entry.rank is not None][: self._request.evidence])
        if self._request.rasters:
            self._rasters()
        record = self._record(entries, since)
        self._json("run.json", record)
        self._progress("satellite.stage_done", 1.0)
        found = self._found
        return ScanResult(
            record=record,
            computed=found.computed,
            reused=len(found.heads) - found.computed,
            damaged=found.damaged,
            failed=tuple(found.failed.items()),
            gaps=(*self._gaps(entries, record, since), *gaps),
        )

    def _maps(self, entries: Sequence[Entry]) -> None:
        crs, synthetic = self._grid.crs, self._stack.spec.synthetic
        masked = {entry.event.id: entry.masks for entry in entries if entry.state == "masked"}
        events = sorted((entry.event for entry in entries), key=lambda event: event.id)
        shown = [event for event in events if event.id not in masked]
        self._json("events.geojson", events_geojson(shown, crs, synthetic=synthetic))
        apart = events_geojson([event for event in events if event.id in masked], crs, synthetic=synthetic)
        for feature in apart["features"]:
            feature["properties"]["masks"] = {name: round(share, 4) for name, share in sorted(masked[feature["id"]].items())}
        self._json("masked.geojson", apart)
        rows, cols = self._grid.shape
        in_china = "CGCS2000" in report_crs(*self._lon_lat(*(self._grid.transform @ (cols / 2, rows / 2)))).name
        # Degrees, not a zone: a region may lie in several zones of the projection.
        layers = {"cgcs2000": _CGCS2000, "wgs84": WGS84} if in_china else {"wgs84": WGS84}
        scratch = self._out / ".part-events.gpkg"
        try:
            write_geopackage(scratch, shown, crs, layers=layers, synthetic=synthetic)
            os.replace(scratch, self._out / "events.gpkg")
        finally:
            scratch.unlink(missing_ok=True)

    def _queue(self, entries: Sequence[Entry], precision: Mapping[tuple[str, ...], Precision]) -> None:
        capacity = self._request.capacity
        records = [queue_record(entry, capacity) for entry in entries]
        chances = [entry.chance for entry in entries if entry.rank is not None]
        learnt = [
            {
                "stratum": list(p.stratum), "accepted": p.accepted, "rejected": p.rejected,
                "mean": round(p.mean, 4), "low": round(p.low, 4), "high": round(p.high, 4),
            }
            for _, p in sorted(precision.items(), key=lambda item: (len(item[0]), item[0]))
        ]  # fmt: skip
        record = {
            "schema": "geoevidence.queue.v1",
            "until": self._stack.days[-1].isoformat(),
            "capacity": capacity,
            "open": len(chances),
            "expected_true": round(sum(chances), 2),
            "expected_true_in_capacity": round(sum(chances[:capacity]), 2),
            "precision": learnt,
            "events": records,
        }
        self._json("queue.json", record)
        self._text("queue.csv", csv_text(QUEUE_COLUMNS, records))

    def _lon_lat(self, x: float, y: float) -> tuple[float, float]:
        lon, lat = transformer(self._grid.crs, WGS84).transform(x, y)
        return float(lon), float(lat)

    def _text(self, name: str, text: str) -> None:
        write_atomically(self._out / name, text.encode("utf-8"))

    def _json(self, name: str, record: Mapping[str, Any]) -> None:
        self._text(name, json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1, allow_nan=False) + "\n")

    def _named(self) -> tuple[list[ChangeEvent], _Since, _History]:
        """Events under the names that earlier runs gave them, what has changed since the last, and what is to be remembered."""
        events, key = self._found.events, self._run_key()
        past = _read_history(self._out / "history")
        number = 1 + max(past, default=0)
        if past and past[number - 1].key == key:  # the same run once more: it replaces itself
            number -= 1
        earlier = past.get(number - 1)
        known = earlier.events if earlier is not None and earlier.grid == self._grid_key() else ()
        found = [known_from(event) for event in events]
        same = recognise(found, known, self._config.queue, link_days=self._link_days)
        taken = {event.id for event in known}
        named: list[ChangeEvent] = []
        for position, event in enumerate(events):
            if position in same:
                identity = known[same[position]].id
            else:
                first = self._grid.transform @ (event.pixels[0][1] + 0.5, event.pixels[0][0] + 0.5)
                identity = new_identity(event, first, self._grid.crs.to_wkt(), taken)
                taken.add(identity)
            named.append(replace(event, id=identity))
        now = [known_from(event) for event in named]
        since = _Since(until=None if earlier is None else earlier.until)
        for position, seen in enumerate(now):
            old = known[same[position]] if position in same else None
            if old is None or not old.current:
                since.new.append(seen.id)
            else:
                (since.changed if _differs(seen, old) else since.same).append(seen.id)
        kept = set(same.values())
        scanned = [tile for tile in self._found.done if f"events/{tile.name}" not in self._found.failed]
        lost = []
        for position, old in enumerate(known):
            if position in kept:
                continue
            if old.current and not _looked_at(old, scanned):
                since.not_scanned.append(old.id)
                lost.append(old)  # what was not looked at is as it was
                continue
            if old.current:
                since.gone.append(old.id)
            lost.append(replace(old, current=False))
        events_ = tuple(sorted((*now, *lost), key=lambda event: event.id))
        history = _History(number=number, key=key, grid=self._grid_key(), until=self._stack.days[-1].isoformat(), events=events_)
        return named, since, history

    def _grid_key(self) -> str:
        grid = self._grid
        return " ".join([*(str(n) for n in grid.shape), *(float(v).hex() for v in grid.transform[:6]), grid.crs.to_wkt()])

    def _run_key(self) -> str:
        """Digest of what makes the events: the keys of all tiles."""
        keys = "\n".join(f"{tile.name} {self._found.keys.tile(tile.box)}" for tile in self._found.tiles)
        return hashlib.sha256(keys.encode()).hexdigest()

    def _entries(
        self,
        events: Sequence[ChangeEvent],
        since: _Since,
        reviews: Sequence[Review],
        precision: Mapping[tuple[str, ...], Precision],
    ) -> tuple[Entry, ...]:
        config, layers = self._config.queue, self._layers
        divisions = None if layers.divisions is None else Overlay(layers.divisions, self._grid)
        land = None if layers.land is None else Overlay(layers.land, self._grid)
        masks = {layer.name: Overlay(layer, self._grid) for layer in layers.masks}
        novelty: dict[str, Novelty] = {**dict.fromkeys(since.new, "new"), **dict.fromkeys(since.changed, "changed")}
        entries = []
        for event in events:
            pixels = np.array(event.pixels)
            rows, cols = pixels[:, 0], pixels[:, 1]
            shares = divisions.shares(rows, cols) if divisions else {}
            hidden = {name: sum(overlay.shares(rows, cols).values()) for name, overlay in masks.items()}
            hidden = {name: share for name, share in hidden.items() if share}
            facets = Facets(
                kind=kind_of(event),
                land=main_label(land.shares(rows, cols)) if land else "",
                size=config.size_class(event.area.value),
                division=main_label(shares),
            )
            inside = shapely.geometry.shape(event.polygon).representative_point()
            entry = Entry(
                event=event,
                facets=facets,
                divisions=shares,
                masks=hidden,
                novelty=novelty.get(event.id, "known"),
                state="masked" if max(hidden.values(), default=0.0) >= config.mask_share else "pending",
                position=self._lon_lat(inside.x, inside.y),
            )
            entries.append(entry)
        entries = self._decided(entries, reviews)
        return rank_entries(entries, precision, self._stack.days[-1], config)

    def _decided(self, entries: list[Entry], reviews: Sequence[Review]) -> list[Entry]:
        """Entries with the last decision about each: by name, or by place and interval where the name is of another folder."""
        last = {review.event: review for review in reviews}
        names = {entry.event.id for entry in entries}
        strangers = sorted((review for name, review in last.items() if name not in names), key=lambda r: (r.time, r.event))
        tree = shapely.STRtree([shapely.Point(review.lon, review.lat) for review in strangers])
        result = []
        for entry in entries:
            if entry.state == "masked":
                result.append(entry)
                continue
            review = last.get(entry.event.id)
            if review is None and strangers:
                review = self._by_place(entry, strangers, tree)
            result.append(decided(entry, review, self._config.queue, link_days=self._link_days))
        return result

    def _by_place(self, entry: Entry, strangers: Sequence[Review], tree: Any) -> Review | None:
        event = entry.event
        polygon = shapely.transform(
            shapely.geometry.shape(event.polygon),
            lambda xy: np.stack(transformer(self._grid.crs, WGS84).transform(xy[:, 0], xy[:, 1]), axis=1),
        )
        for index in sorted(tree.query(polygon, predicate="intersects").tolist(), reverse=True):
            review = strangers[index]
            start = max(event.last_clear_before, review.last_clear_before)
            if (start - min(event.first_clear_after, review.first_clear_after)).days <= self._link_days:
                return review
        return None

    def _scenes(self) -> None:
        stack = self._stack
        failed = self._failed_reads()
        scenes = [
            {
                "name": scene.name,
                "sha256": scene.sha256,
                "acquired": None if scene.acquired is None else scene.acquired.isoformat(),
                "sensor": scene.sensor,
                "baseline": scene.baseline,
                "status": scene.status,
                "reason": None if scene.reason is None else scene.reason.to_dict(),
                "tiles_failed_read": failed.get(scene.name, 0),
                "assets": [
                    {
                        "band": asset.band,
                        "href": asset.href,
                        "sha256": asset.sha256,
                        "status": asset.status,
                        "offset": repr(asset.offset),
                    }
                    for asset in scene.assets
                ],
            }
            for scene in stack.scenes
        ]
        self._json("scenes.json", {"schema": "geoevidence.scan-scenes.v1", "layout": stack.layout, "scenes": scenes})

    def _evidence(self, entries: Sequence[Entry]) -> list[Message]:
        """Pictures and series of the first events; those of events that are not among them any more are removed."""
        folder = self._out / "evidence"
        if folder.is_dir() or entries:
            shutil.rmtree(folder, ignore_errors=True)
        gaps: list[Message] = []
        if not entries:
            return gaps
        folder.mkdir()
        stack, shape = self._stack, self._grid.shape
        style = EvidenceStyle(lang=self._config.monitor.lang, sensor=stack.spec.sensor, synthetic=stack.spec.synthetic)
        for entry in entries:
            group = _nodes_at(entry.event)
            box = window_of(group, shape)
            if box.rows * box.cols > self._config.event_pixels:
                gaps.append(Message(id="satellite.scan_no_picture", values={"event": entry.event.id}))
                continue
            cube = read_block(stack, box.window)
            corner = (box.row, box.col)
            blind_days = self._config.monitor.events.blind_days
            write_event_evidence(folder, entry.event, cube, corner=corner, shape=shape, style=style, blind_days=blind_days)
        return gaps

    def _statuses(self) -> dict[Status, int]:
        """Pixels by status over the region, after the support rule."""
        totals = dict.fromkeys(Status, 0)
        for tile in self._found.done:
            status = self._found.status(tile)
            for code, count in enumerate(np.bincount(status.ravel(), minlength=len(Status)).tolist()):
                totals[Status(code)] += count
        return totals

    def _rasters(self) -> None:
        codes = ", ".join(f"{status.value}={status.name.lower()}" for status in Status)
        self._mosaic("status.tif", np.uint8, None, self._found.status, MEANING=codes)

        def strongest(tile: Tile) -> NDArray[np.int32]:
            kept = self._found.settled[tile.name]
            order = np.lexsort((kept.layers, kept.values["score"]))  # the strongest is written last
            found = np.full((tile.box.rows, tile.box.cols), NODATE, np.int32)
            found[kept.rows[order] - tile.box.row, kept.cols[order] - tile.box.col] = kept.values["break_date"][order]
            return found

        self._mosaic("break_date.tif", np.int32, NODATE, strongest, MEANING="days since 1970-01-01, strongest change")

    def _mosaic(self, name: str, dtype: Any, nodata: int | None, part: Callable[[Tile], NDArray[Any]], **tags: str) -> None:
        """A COG of the whole grid, written tile by tile: memory holds one tile. Tiles not scanned are OUTSIDE or without date."""
        rows, cols = self._grid.shape
        profile = {
            "driver": "GTiff", "count": 1, "height": rows, "width": cols, "dtype": dtype, "nodata": nodata, "tiled": True,
            "crs": rasterio.crs.CRS.from_wkt(self._grid.crs.to_wkt()), "transform": self._grid.transform, "compress": "DEFLATE",
            "blockxsize": 512, "blockysize": 512, "BIGTIFF": "IF_SAFER",
        }  # fmt: skip
        if self._stack.spec.synthetic:
            tags["GEOEVIDENCE_SYNTHETIC"] = "yes"
        whole, cog = self._out / ".part-mosaic.tif", self._out / ".part-cog.tif"
        try:
            with rasterio.open(whole, "w", **profile) as target:
                target.update_tags(**dict(sorted(tags.items())))
                for tile in self._found.done:
                    target.write(part(tile), 1, window=tile.box.window)
            with rasterio.open(whole, driver="GTiff") as source:
                rasterio.shutil.copy(
                    source, cog, driver="COG", compress="DEFLATE", predictor="2", blocksize="512",
                    overview_resampling="nearest", num_threads="1", BIGTIFF="IF_SAFER",
                )  # fmt: skip
            os.replace(cog, self._out / name)
        finally:
            whole.unlink(missing_ok=True)
            cog.unlink(missing_ok=True)

    def _record(self, entries: Sequence[Entry], since: _Since) -> dict[str, Any]:
        stack, request, found, region = self._stack, self._request, self._found, self._layers.region
        pixels, lies = self._statuses(), found.job.registration
        observed = sum((np.array(head["observed"]) for head in found.heads.values()), np.zeros(len(Observed), np.int64))
        asked = sum(count for status, count in pixels.items() if status != Status.OUTSIDE)
        enough = pixels[Status.NO_CHANGE] + pixels[Status.CHANGE]
        states: dict[str, int] = dict.fromkeys(("pending", "reopened", "accepted", "rejected", "masked"), 0)
        for entry in entries:
            states[entry.state] += 1
        return {
            "schema": "geoevidence.scan.v1",
            "process": PROCESS,
            "in_custody": False,
            "synthetic": stack.spec.synthetic,
            "parameters": {
                "monitor": self._config.monitor.to_parameters(),
                "queue": _parameters(self._config.queue),
                "tile": self._config.tile,
                "event_pixels": self._config.event_pixels,
                "until": request.until,
                "datum": request.datum,
                "capacity": request.capacity,
            },
            "stack": {**_parameters(stack.spec), "layout": stack.layout},
            "code": code_digest(),
            "first_day": stack.days[0].isoformat(),
            "last_day": stack.days[-1].isoformat(),
            "scenes": {"usable": len(stack.usable), "left_out": len(stack.scenes) - len(stack.usable)},
            "region": None if region is None else {"sha256": region.sha256, "covered": round(region.covered, 6)},
            "layers": self._layers.records(),
            "registration": None if lies is None else {"sd_pixels": round(lies.sd_pixels, 4), "dates": lies.dates},
            "tiles": {"total": len(found.tiles), "done": len(found.heads)},
            "failed": [{"where": name, "reason": reason.to_dict()} for name, reason in found.failed.items()],
            "pixels": {status.name.lower(): count for status, count in pixels.items()},
            "undecided_share": round(1 - enough / asked, 6) if asked else 1.0,
            "observed": {code.name.lower(): int(observed[code]) for code in Observed if code != Observed.OUTSIDE},
            "failed_reads": [{"scene": name, "tiles": count} for name, count in self._failed_reads().items()],
            "events": {**states, "small_pixels": found.left_over},
            "since": since.to_dict(),
        }

    def _failed_reads(self) -> dict[str, int]:
        """Scene -> number of tiles in which a part of it cannot be read."""
        counts: dict[str, int] = {}
        for head in self._found.heads.values():
            for name in head["failed"]:
                counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def _gaps(self, entries: Sequence[Entry], record: Mapping[str, Any], since: _Since) -> list[Message]:
        """What people must know about what is missing or doubtful."""
        gaps = [scene.reason for scene in self._stack.scenes if scene.reason is not None]
        for step in self._stack.steps:
            there = sum(step.between(entry.event.last_clear_before, entry.event.first_clear_after) for entry in entries)
            values: dict[str, Any] = {**step.told(), "events": there, "total": len(entries)}
            gaps.append(Message(id="satellite.scan_gap_level_step", values=values))
        for name, count in self._failed_reads().items():
            gaps.append(Message(id="satellite.scan_failed_reads", values={"scene": name, "tiles": count}))
        pixels = record["pixels"]
        asked = sum(count for status, count in pixels.items() if status != "outside")
        if not asked:
            gaps.append(Message(id="satellite.scan_gap_no_pixels"))
        elif record["undecided_share"] >= 0.0005:
            causes = {name: f"{100 * pixels[name] / asked:.1f}" for name in ("cloud", "too_few", "not_observed", "failed_read")}
            share = f"{100 * record['undecided_share']:.1f}"
            gaps.append(Message(id="satellite.scan_gap_undecided", values={"share": share, **causes}))
        region = self._layers.region
        if region is not None and region.covered < 0.9999:
            gaps.append(Message(id="satellite.scan_gap_region", values={"share": f"{100 * region.covered:.1f}"}))
        if self._found.left_over:
            least = self._config.monitor.events.min_pixels
            gaps.append(Message(id="satellite.gap_small", values={"pixels": self._found.left_over, "min_pixels": least}))
        if record["events"]["masked"]:
            gaps.append(Message(id="satellite.scan_gap_masked", values={"count": record["events"]["masked"]}))
        if since.not_scanned:
            gaps.append(Message(id="satellite.scan_gap_not_scanned", values={"count": len(since.not_scanned)}))
        gaps += [Message(id="satellite.scan_file_redone", values={"path": name}) for name in self._found.damaged]
        return gaps


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


def _looked_at(old: Known, scanned: Sequence[Tile]) -> bool:
    """Whether all pixels of an event lie in tiles that have a result."""
    seen = np.zeros(len(old.rows), bool)
    ends = (int(old.rows.min()), int(old.rows.max()), int(old.cols.min()), int(old.cols.max()))
    for tile in scanned:
        box = tile.box
        if box.row <= ends[1] and box.row + box.rows > ends[0] and box.col <= ends[3] and box.col + box.cols > ends[2]:
            seen |= box.holds(old.rows, old.cols)
    return bool(seen.all())


def _nodes_at(event: ChangeEvent) -> Nodes:
    pixels = np.array(event.pixels, np.int32).reshape(-1, 2)
    return Nodes(pixels[:, 0], pixels[:, 1], np.zeros(len(pixels), np.uint8), no_nodes().values)


# What earlier runs found ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Since:
    """What differs from the last run, whose scenes went until a day: names of events."""

    until: str | None
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    not_scanned: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        lists = {name: sorted(getattr(self, name)) for name in ("new", "changed", "gone", "not_scanned")}
        return {"last_run_until": self.until, "unchanged": len(self.same), **lists}


def _differs(one: Known, other: Known) -> bool:
    facts = ("last_clear_before", "first_clear_after", "area")
    if any(getattr(one, name) != getattr(other, name) for name in facts):
        return True
    return not (np.array_equal(one.rows, other.rows) and np.array_equal(one.cols, other.cols))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _History:
    """The events known after a run. key: of the run; grid: whose rows and cols they have."""

    number: int
    key: str
    grid: str
    until: str
    events: tuple[Known, ...]

    def to_bytes(self) -> bytes:
        head = {
            "format": "geoevidence.scan-history.v1",
            "key": self.key,
            "grid": self.grid,
            "until": self.until,
            "ids": [event.id for event in self.events],
        }
        events = self.events
        arrays: dict[str, NDArray[Any]] = {
            "count": np.array([len(event.rows) for event in events], np.int32),
            "before": np.array([event.last_clear_before for event in events], np.int32),
            "after": np.array([event.first_clear_after for event in events], np.int32),
            "area": np.array([event.area for event in events], np.float64),
            "current": np.array([event.current for event in events], np.uint8),
            "row": np.concatenate([np.empty(0, np.int32), *(event.rows for event in events)]),
            "col": np.concatenate([np.empty(0, np.int32), *(event.cols for event in events)]),
        }
        return pack(head, arrays)


def _read_history(folder: Path) -> dict[int, _History]:
    """The last two runs by number; names of events hang on them, so a damaged one is refused rather than forgotten."""
    if not folder.is_dir():
        return {}
    numbers = sorted(int(path.stem) for path in folder.glob("[0-9]*.scan") if path.stem.isdigit())
    found = {}
    for number in numbers[-2:]:
        where = f"history/{number:05d}.scan"
        head, arrays = unpack((folder / f"{number:05d}.scan").read_bytes(), where=where)
        try:
            ends = np.concatenate([[0], np.cumsum(arrays["count"])])
            events = tuple(
                Known(
                    id=identity,
                    rows=arrays["row"][ends[k] : ends[k + 1]],
                    cols=arrays["col"][ends[k] : ends[k + 1]],
                    last_clear_before=int(arrays["before"][k]),
                    first_clear_after=int(arrays["after"][k]),
                    area=float(arrays["area"][k]),
                    current=bool(arrays["current"][k]),
                )
                for k, identity in enumerate(head["ids"])
            )
            found[number] = _History(number=number, key=head["key"], grid=head["grid"], until=head["until"], events=events)
        except (KeyError, IndexError, TypeError) as error:
            raise FormatError("satellite.scan_file_damaged", path=where, reason=type(error).__name__) from error
    return found
