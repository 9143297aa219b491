"""Field devices: a device's log and files handed over in one archive, checked wholly, and absorbed by a case.

`write_handover` makes the archive, `HandoverArchive` reads it strictly and checks it before anything is stored, and
`absorb` records it as `received` events (docs/formats/handover.md, event.md). The device's log is never merged: its
leaves, signatures and numbering stay as they are, and the case's log says which state of it was taken in. A device's
log that comes back shorter or different is refused. Says nothing about who holds the device's keys: verifying does.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geoevidence import __version__
from geoevidence.custody.files import storage_error
from geoevidence.custody.ingest import name_problem
from geoevidence.custody.inspection import InspectionResult
from geoevidence.custody.keys import KEY_CHANGE, EndedKey, note_end, require_not_ended
from geoevidence.custody.log import MAX_OUTPUTS, Appender, CaseKey, CaseLog, CustodyEvent, NewFile
from geoevidence.custody.sheet import read_sheet
from geoevidence.custody.store import ObjectStore, StoredFile, shown
from geoevidence.errors import (
    CustodyError,
    DigestMismatchError,
    FormatError,
    GeoEvidenceError,
    InputError,
    LogInconsistentError,
    VerificationError,
)
from geoevidence.trust.archive import Entry, end_records, fold, sort_key
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.trust.container import Container, Defect, open_container
from geoevidence.trust.digests import BLOCK, FileDigests, new_sm3, open_commitment
from geoevidence.trust.events import ItemRecord, Leaf, parse_leaf
from geoevidence.trust.manifest import (
    MAX_LEAF,
    NamedKey,
    keys_bytes,
    parse_disclosures,
    parse_key_change,
    parse_keys,
    split_lines,
)
from geoevidence.trust.merkle import RootBuilder
from geoevidence.trust.notes import LogCheckpoint, note_key_name, parse_checkpoint
from geoevidence.types import Process, Progress, require

SCHEMA = "geoevidence.handover.v1"
TOOL = "custody.sync"
"""Tool of the process of a `received` event that took in a device's log."""
RECORDS = ("device-leaves.jsonl", "device-disclosures.jsonl", "device-checkpoint", "device-keys.json")
"""First outputs of such an event, in this order."""
LIST = "handover.json"
_LOG = ("log/leaves.jsonl", "log/disclosures.jsonl", "log/checkpoint", "log/keys.json")
_OBJECTS = "objects/"
# files that are read whole: far above any honest one
_LIMITS = {LIST: 256 << 20, _LOG[0]: 256 << 20, _LOG[1]: 64 << 20, _LOG[2]: 1 << 16, _LOG[3]: 16 << 20}
_MAX_RECORD = 1 << 20
_ORIGIN = re.compile(r"geoevidence/(W-[0-9a-f]{10})/(C-[0-9a-f]{10})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """An archive that was written. tree_size: of the log in it; files: originals in it; size: bytes of the archive."""

    path: Path
    origin: str
    tree_size: int
    root: str
    files: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """What was taken in from a device.

    events: the `received` events, none where all of it was here before.
    origin, tree_size, root: of the device's log.
    files: originals that are new.
    keys: the device's keys, whose holders nobody has vouched for by this.
    inspected: path -> what the structure of a new original shows, of those that are not simply accepted; all are kept.
    """

    events: tuple[CustodyEvent, ...]
    origin: str
    tree_size: int
    root: str
    files: int
    keys: tuple[NamedKey, ...]
    inspected: Mapping[str, InspectionResult] = field(default_factory=dict)


# ---------------------------------------------------------------- writing


def write_handover(
    target: Path,
    *,
    events: Sequence[CustodyEvent],
    checkpoint: bytes,
    keys: Sequence[CaseKey],
    objects: ObjectStore,
    progress: Progress,
) -> Handover:
    """Write the archive of a log.

    Args:
        target: where, with nothing there yet.
        events: all events that the checkpoint covers.
        checkpoint: signed.
        keys: of the case.
        objects: where the files are; each is compared with its digest on the way.

    Raises: CustodyError when the case has itself absorbed a device, an object is missing or was changed, or nothing can be written.
    """
    if any(is_sync(event) for event in events):
        raise CustodyError("custody.handover_nested", case=events[0].case)
    stated = parse_checkpoint(checkpoint)[0]
    log = (
        b"".join(event.leaf + b"\n" for event in events),
        b"".join(
            dumps({"disclosures": event.disclosures, "event": event.event_id}) + b"\n" for event in events if event.disclosures
        ),
        checkpoint,
        keys_bytes(NamedKey(each.public_key, each.label, each.certificates) for each in keys),
    )
    small = dict(zip(_LOG, log, strict=True))
    stored: dict[str, FileDigests] = {}
    originals = 0
    for event in events:
        for ref in event.outputs:
            record = ItemRecord(ref.item, ref.path, ref.size, ref.sha256, ref.sm3)
            originals += record.path.startswith("originals/")
            if _travels(event.type, record):
                stored[f"{_OBJECTS}{ref.sha256}"] = FileDigests(ref.sha256, ref.sm3, ref.size)
    listed = {**{name: _digests(data) for name, data in small.items()}, **stored}
    small[LIST] = dumps(
        {
            "schema": SCHEMA,
            "origin": stated.origin,
            "tree_size": stated.tree_size,
            "root": stated.root.hex(),
            "software": f"geoevidence {__version__}",
            "files": [{"path": path, **listed[path]._asdict()} for path in sorted(listed, key=sort_key)],
        }
    )
    top = f"handover-{events[0].case}-{stated.tree_size}"
    total, done = sum(each.size for each in listed.values()) or 1, 0
    with _new_file(target) as (stream, publish):
        entries: list[Entry] = []
        offset = 0
        for path in sorted([*small, *stored], key=lambda name: sort_key(f"{top}/{name}")):
            size = len(small[path]) if path in small else stored[path].size
            entry = Entry(f"{top}/{path}", size, 0, offset)
            stream.write(entry.local_header())
            crc = 0
            for block in (small[path],) if path in small else _object_blocks(objects, stored[path]):
                crc = zlib.crc32(block, crc)
                stream.write(block)
                done += len(block)
                progress("custody.stage.handover", min(1.0, done / total))
            # the header has the same length whatever the checksum
            entry = Entry(entry.name, size, crc, offset)
            stream.seek(offset)
            stream.write(entry.local_header())
            stream.seek(entry.end)
            entries.append(entry)
            offset = entry.end
        directory = b"".join(entry.central_header() for entry in entries)
        stream.write(directory + end_records(len(entries), offset, len(directory)))
        publish()
    return Handover(
        path=target,
        origin=stated.origin,
        tree_size=stated.tree_size,
        root=stated.root.hex(),
        files=originals,
        size=target.stat().st_size,
    )


def _travels(kind: str, record: ItemRecord) -> bool:
    """Whether the bytes of an output go along: originals, and the records without which the log cannot be checked."""
    folder, _, name = record.path.split("/", 2)
    return folder == "originals" or kind == "commissioned" or (kind == "key_rotated" and name == KEY_CHANGE)


def is_sync(event: CustodyEvent) -> bool:
    """True for a `received` event that took in a device's log."""
    return event.type == "received" and event.process is not None and event.process.tool == TOOL


def _digests(data: bytes) -> FileDigests:
    sm3 = new_sm3()
    sm3.update(data)
    return FileDigests(hashlib.sha256(data).hexdigest(), sm3.hexdigest(), len(data))


def _object_blocks(objects: ObjectStore, wanted: FileDigests) -> Iterator[bytes]:
    path = objects.path_of(wanted.sha256)
    found, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                found.update(block)
                size += len(block)
                # a file that grew would overwrite what follows it in the archive
                if size > wanted.size:
                    break
                yield block
    except FileNotFoundError as error:
        raise DigestMismatchError("custody.object_missing", path=path, expected=wanted.sha256) from error
    if size != wanted.size or found.hexdigest() != wanted.sha256:
        raise DigestMismatchError("custody.object_changed", path=path, expected=wanted.sha256)


@contextmanager
def _new_file(target: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A file that gets its name when the second value is called, and leaves nothing behind where it is not. Raises CustodyError."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        if target.exists():
            raise CustodyError("custody.target_exists", path=target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            try:

                def publish() -> None:
                    stream.flush()
                    os.fsync(stream.fileno())
                    stream.close()
                    if target.exists():
                        raise CustodyError("custody.target_exists", path=target)
                    os.replace(part, target)

                yield stream, publish
            finally:
                stream.close()
                part.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, target) from error


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLog:
    """A device's log that was checked.

    records: the bytes of `RECORDS`, in that order.
    leaves: one each. originals: name in the case that absorbs it, `<event id on the device>/<name>` -> file.
    """

    checkpoint: LogCheckpoint
    workspace: str
    case: str
    demonstration: bool
    keys: tuple[NamedKey, ...]
    records: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    originals: Mapping[str, FileDigests]


class HandoverArchive:
    """An archive that came from a device, open for reading.

    Raises: InputError when it is no archive at all.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError("custody.not_a_file", path=shown(str(path)))
        self._path = path
        self._head: dict[str, Any] = {}
        self._container: Container = open_container(path)
        self._defects: list[Defect] = []
        self._sizes = dict(self._container.files(self._defects.append))

    def __enter__(self) -> HandoverArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def check(self, progress: Progress) -> DeviceLog:
        """Read every byte once and check the archive, its list of digests, and the log with all its signatures.

        Raises: FormatError for an archive or a document that is not as its format asks; DigestMismatchError for a file
            that is not what the list says; VerificationError for a log that does not hold. Nothing was stored then.
        """
        self._require_sound()
        whole: dict[str, bytes] = {}
        listed = self._list()
        total, done = sum(each.size for each in listed.values()) or 1, 0
        if set(self._sizes) != {LIST, *listed}:
            odd = sorted(set(self._sizes) ^ {LIST, *listed})[0]
            raise FormatError("custody.handover_files", where=self._label, path=shown(odd))
        for path, stated in listed.items():
            sha256, sm3, size, kept = hashlib.sha256(), new_sm3(), 0, bytearray()
            if path in _LIMITS and stated.size > _LIMITS[path]:
                raise FormatError("custody.handover_large", where=self._label, path=path, limit=_LIMITS[path])
            for block in self.blocks(path):
                sha256.update(block)
                sm3.update(block)
                size += len(block)
                kept += block if path in _LOG else b""
                done += len(block)
                progress("custody.stage.handover_check", min(1.0, done / total))
            if FileDigests(sha256.hexdigest(), sm3.hexdigest(), size) != stated:
                raise DigestMismatchError("custody.handover_digest", where=self._label, path=path, expected=stated.sha256)
            if path in _LOG:
                whole[path] = bytes(kept)
        device = check_log(*(whole[name] for name in _LOG), read=self._record)
        self._require_objects(device, listed)
        head = self._head
        stated_head = (head["origin"], head["tree_size"], head["root"])
        found = device.checkpoint
        if stated_head != (found.origin, found.tree_size, found.root.hex()):
            raise VerificationError("custody.handover_head", where=self._label)
        return device

    @property
    def _label(self) -> str:
        return shown(self._path.name)

    def _require_sound(self) -> None:
        """Raises FormatError where any byte of the archive is not as `geoevidence.trust.archive` writes it."""
        for first in self._defects:
            raise FormatError("custody.handover_archive", where=self._label, path=shown(first.subject), defect=first.detail)

    def _list(self) -> dict[str, FileDigests]:
        raw = loads_canonical(self._whole(LIST, _LIMITS[LIST]), where=LIST, max_bytes=_LIMITS[LIST])
        if not isinstance(raw, dict) or set(raw) != {"schema", "origin", "tree_size", "root", "software", "files"}:
            raise FormatError("custody.handover_list", where=LIST)
        if raw["schema"] != SCHEMA:
            raise FormatError("core.unknown_schema", where=LIST, found=shown(str(raw["schema"])[:80]))
        self._head = raw
        listed: dict[str, FileDigests] = {}
        for each in require(raw, "files", list, LIST):
            if not isinstance(each, dict) or set(each) != {"path", "size", "sha256", "sm3"}:
                raise FormatError("custody.handover_list", where=LIST)
            path = require(each, "path", str, LIST)
            values = (require(each, "sha256", str, LIST), require(each, "sm3", str, LIST), require(each, "size", int, LIST))
            listed[path] = FileDigests(*values)
        if [each["path"] for each in raw["files"]] != sorted(listed, key=sort_key) or not set(_LOG) <= set(listed):
            raise FormatError("custody.handover_list", where=LIST)
        return listed

    def _whole(self, path: str, limit: int) -> bytes:
        if path not in self._sizes:
            raise FormatError("custody.handover_files", where=self._label, path=path)
        if self._sizes[path] > limit:
            raise FormatError("custody.handover_large", where=self._label, path=path, limit=limit)
        return b"".join(self.blocks(path))

    def _record(self, sha256: str) -> bytes:
        """A small record by its digest, compared. Raises FormatError, DigestMismatchError."""
        data = self._whole(f"{_OBJECTS}{sha256}", _MAX_RECORD)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DigestMismatchError("custody.handover_digest", where=self._label, path=_OBJECTS + sha256, expected=sha256)
        return data

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of a file. Raises FormatError where it cannot be read."""
        try:
            with self._container.open(path) as stream:
                while block := stream.read(BLOCK):
                    yield block
                # the checksum of the archive is one of its bytes
                if getattr(stream, "defect", None) is not None:
                    raise FormatError("custody.handover_archive", where=self._label, path=shown(path), defect="trust.zip_crc")
        except OSError as error:
            raise FormatError("custody.handover_unreadable", where=self._label, path=path) from error

    def original(self, sha256: str) -> Iterator[bytes]:
        """The bytes of an original by its digest."""
        return self.blocks(f"{_OBJECTS}{sha256}")

    def _require_objects(self, device: DeviceLog, listed: Mapping[str, FileDigests]) -> None:
        """The files are those that the log asks for, none more, none less, each as its event says."""
        wanted: dict[str, FileDigests] = {}
        for raw in device.leaves:
            event = parse_leaf(raw).event
            for record in event.outputs:
                if _travels(event.type, record):
                    wanted[f"{_OBJECTS}{record.sha256}"] = FileDigests(record.sha256, record.sm3, record.size)
        found = {path: digests for path, digests in listed.items() if path not in _LOG}
        for path in sorted(set(wanted) | set(found)):
            if wanted.get(path) != found.get(path):
                raise VerificationError("custody.handover_object", where=self._label, path=shown(path))


def check_log(leaves: bytes, disclosures: bytes, checkpoint: bytes, keys: bytes, *, read: Callable[[str], bytes]) -> DeviceLog:
    """A device's log of its four documents, with every signature, chain, anchor, commitment and root checked.

    Args:
        read: the bytes of a record of the log by SHA-256.

    Raises: FormatError, VerificationError.
    """
    named = parse_keys(keys, where=RECORDS[3])
    lines = tuple(split_lines(leaves, where=RECORDS[0]))
    stated, note = parse_checkpoint(checkpoint, where=RECORDS[2])
    origin = _ORIGIN.fullmatch(stated.origin)
    if origin is None or len(note.signatures) != 1:
        raise FormatError("custody.handover_origin", found=shown(stated.origin[:80]))
    if not lines:
        raise VerificationError("custody.handover_empty", origin=stated.origin)
    checker = _LogChecker(origin[2], named, read)
    for index, line in enumerate(lines):
        try:
            checker.take(index, line)
        except GeoEvidenceError as error:
            raise VerificationError("custody.handover_leaf", index=index, reason=str(error)) from error
    try:
        _check_head(stated, note.signatures[0].name, checker, lambda key: note.verify(key.key))
        _check_disclosures(disclosures, checker.commitments)
    except GeoEvidenceError as error:
        raise VerificationError("custody.handover_log", reason=str(error)) from error
    return DeviceLog(
        checkpoint=stated,
        workspace=origin[1],
        case=origin[2],
        demonstration=checker.demonstration,
        keys=named,
        records=(leaves, disclosures, checkpoint, keys),
        leaves=lines,
        originals=checker.originals,
    )


def _check_head(stated: LogCheckpoint, name: str, checker: _LogChecker, verify: Callable[[NamedKey], None]) -> None:
    key = next((each for each in checker.named.values() if note_key_name(each.key) == name), None)
    if key is None:
        raise VerificationError("custody.handover_key", key_id=shown(name))
    verify(key)
    if stated.tree_size != checker.tree.size or stated.root != checker.tree.root():
        raise VerificationError("custody.handover_root", stated=stated.tree_size, found=checker.tree.size)
    require_not_ended(key.key.key_id, checker.ended, index=stated.tree_size - 1)


def _check_disclosures(raw: bytes, commitments: Mapping[str, Mapping[str, str]]) -> None:
    order = {event_id: n for n, event_id in enumerate(commitments)}
    previous = -1
    for event_id, fields in parse_disclosures(raw, where=RECORDS[1]):
        if order.get(event_id, -1) <= previous:
            raise FormatError("trust.disclosure_fields", where=RECORDS[1])
        previous = order[event_id]
        for name, disclosure in fields.items():
            if name not in commitments[event_id]:
                raise FormatError("trust.disclosure_fields", where=RECORDS[1])
            open_commitment(commitments[event_id][name], disclosure)


class _LogChecker:
    """Takes the leaves of a log one by one and refuses the first that does not fit those before."""

    def __init__(self, case: str, keys: Sequence[NamedKey], read: Callable[[str], bytes]) -> None:
        self.named = {each.key.key_id: each for each in keys}
        self.tree = RootBuilder()
        self.ended: dict[str, EndedKey] = {}
        self.commitments: dict[str, Mapping[str, str]] = {}
        self.originals: dict[str, FileDigests] = {}
        self.demonstration = False
        self._keys = {key_id: each.key for key_id, each in self.named.items()}
        self._case = case
        self._read = read
        self._roots: list[bytes] = [self.tree.root()]
        """Root of the tree of each size."""
        self._last: dict[str, tuple[int, str]] = {}
        """Key id -> (seq, leaf hash) of its newest event."""
        self._items: dict[str, ItemRecord] = {}
        self._paths: set[str] = set()

    def take(self, index: int, line: bytes) -> None:
        """Raises FormatError, VerificationError, CustodyError."""
        if len(line) > MAX_LEAF:
            raise FormatError("custody.handover_large", where=RECORDS[0], path=str(index), limit=MAX_LEAF)
        leaf = parse_leaf(line)
        event = leaf.event
        leaf.envelope.verify(self._keys, where=event.event_id)
        for each in leaf.envelope.signatures:
            require_not_ended(each.keyid, self.ended, index=index)
        seq, previous = self._last.get(event.key_id, (0, None))
        expected = None if previous is None else f"sha256:{previous}"
        if event.case != self._case or event.seq != seq + 1 or event.prev_event != expected:
            raise VerificationError("custody.handover_chain", event=event.event_id)
        if event.anchor is not None and (event.anchor[0] > index or self._roots[event.anchor[0]] != event.anchor[1]):
            raise VerificationError("custody.handover_anchor", event=event.event_id)
        if len(event.outputs) > MAX_OUTPUTS:
            raise CustodyError("custody.too_many_outputs", found=len(event.outputs), limit=MAX_OUTPUTS)
        if (event.type == "commissioned") != (index == 0):
            raise VerificationError("custody.handover_chain", event=event.event_id)
        self._take_items(leaf)
        if event.type == "commissioned":
            self._take_sheet(leaf)
        elif event.type == "key_rotated":
            self._take_key_change(index, leaf)
        process = event.raw["process"]
        if process is not None and process["tool"] == TOOL:
            raise CustodyError("custody.handover_nested", case=self._case)
        self._last[event.key_id] = (event.seq, leaf.hash.hex())
        self.commitments[event.event_id] = event.commitments
        self.tree.append(leaf.hash)
        self._roots.append(self.tree.root())

    def _take_items(self, leaf: Leaf) -> None:
        for record in leaf.event.inputs:
            if self._items.get(record.item) != record:
                raise VerificationError("custody.handover_input", event=leaf.event.event_id, item=record.item)
        for record in leaf.event.outputs:
            if fold(record.path) in self._paths:
                raise FormatError("custody.handover_path", path=shown(record.path))
            self._paths.add(fold(record.path))
            self._items[record.item] = record
            folder, _, name = record.path.partition("/")
            if folder == "originals":
                problem = name_problem(name)
                if problem is not None:
                    raise FormatError("custody.handover_path", path=shown(record.path))
                self.originals[name] = FileDigests(record.sha256, record.sm3, record.size)

    def _take_sheet(self, leaf: Leaf) -> None:
        if len(leaf.event.outputs) != 1:
            raise VerificationError("custody.handover_chain", event=leaf.event.event_id)
        sheet = read_sheet(self._read(leaf.event.outputs[0].sha256))
        if sheet.case != self._case:
            raise FormatError("custody.sheet_other_case", expected=self._case, found=sheet.case)
        self.demonstration = sheet.demonstration

    def _take_key_change(self, index: int, leaf: Leaf) -> None:
        event = leaf.event
        if len(event.outputs) != 1 or not event.outputs[0].path.endswith(f"/{KEY_CHANGE}"):
            raise VerificationError("custody.handover_key_change", event=event.event_id)
        change = parse_key_change(self._read(event.outputs[0].sha256), where=event.outputs[0].path)
        signers = {each.keyid for each in leaf.envelope.signatures}
        known = change.key_id in self.named and change.effective <= index + 1
        if change.new_key is not None:
            # by the old key, signed by both, from here on
            successor = change.new_key
            known = known and change.key_id == event.key_id and change.effective == index + 1
            known = known and successor.key.key_id in signers and self.named[successor.key.key_id] == successor
        else:
            known = known and (change.key_id not in signers or change.effective == index + 1)
        if not known:
            raise VerificationError("custody.handover_key_change", event=event.event_id)
        note_end(self.ended, change, event.event_id)


# ---------------------------------------------------------------- absorbing


def absorb(
    log: CaseLog, objects: ObjectStore, source: Path, *, origin: str, demonstration: bool, progress: Progress
) -> SyncResult:
    """Check an archive wholly, then take in what of it is new; the same archive again changes nothing.

    Args:
        log, objects: of the case that absorbs.
        source: the archive.
        origin: name of the case's own log.
        demonstration: of the case; a device's case must be of the same kind.

    Raises: InputError, FormatError, VerificationError for the archive; LogInconsistentError when the device's log is
        behind what was absorbed before, or not an extension of it; CustodyError when nothing can be stored.
    """
    with HandoverArchive(source) as archive, objects.working():
        device = archive.check(progress)
        stated = device.checkpoint
        if stated.origin == origin:
            raise CustodyError("custody.handover_same", origin=origin)
        if device.demonstration != demonstration:
            raise CustodyError("custody.handover_demonstration", path=shown(source.name))
        # asked before anything is stored, and again inside the transaction
        absorbed = _absorbed(log.events(), objects, device)
        new = [name for name in device.originals if name not in absorbed.names]
        total, done = sum(device.originals[name].size for name in new) or 1, 0
        for name in new:
            _store(archive, objects, device.originals[name])
            done += device.originals[name].size
            progress("custody.stage.copy", min(1.0, done / total))
        progress("custody.stage.record", 0.0)
        with log.writing() as appender:
            absorbed = _absorbed(appender.events, objects, device)
            new = [name for name in device.originals if name not in absorbed.names]
            if new or absorbed.size < stated.tree_size:
                _record(appender, objects, device, new)
        progress("custody.stage.record", 1.0)
    return SyncResult(
        events=appender.new_events,
        origin=stated.origin,
        tree_size=stated.tree_size,
        root=stated.root.hex(),
        files=len(new),
        keys=device.keys,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Absorbed:
    """What a case has of a device's log. size: tree size, 0 where nothing; names: of originals."""

    size: int
    names: frozenset[str]


def _absorbed(events: Sequence[CustodyEvent], objects: ObjectStore, device: DeviceLog) -> _Absorbed:
    """Raises LogInconsistentError unless the device's log extends what is here of it."""
    stated = device.checkpoint
    earlier = [
        event
        for event in events
        if is_sync(event) and event.process is not None and event.process.parameters["origin"] == stated.origin
    ]
    if not earlier:
        return _Absorbed(size=0, names=frozenset())
    newest = earlier[-1]
    known = split_lines(objects.read_bytes(newest.outputs[0].sha256), where=newest.outputs[0].path)
    values = {
        "origin": stated.origin,
        "event": newest.event_id,
        "known": len(known),
        "known_root": dict(newest.process.parameters)["root"] if newest.process is not None else "",
        "found": stated.tree_size,
        "found_root": stated.root.hex(),
    }
    common = min(len(known), len(device.leaves))
    for index in range(common):
        if known[index] != device.leaves[index]:
            raise LogInconsistentError("custody.device_forked", index=index, **values)
    if len(device.leaves) < len(known):
        raise LogInconsistentError("custody.device_behind", **values)
    names = {ref.path.split("/", 2)[2] for event in earlier for ref in event.outputs if ref.path.startswith("originals/")}
    return _Absorbed(size=len(known), names=frozenset(names))


def _store(archive: HandoverArchive, objects: ObjectStore, wanted: FileDigests) -> None:
    """Put an original into the store; one that an interrupted import has put there is read and compared instead."""
    if objects.path_of(wanted.sha256).is_file():
        objects.check(wanted.sha256)
        return
    stored = objects.add_blocks(archive.original(wanted.sha256))
    if FileDigests(stored.sha256, stored.sm3, stored.size) != wanted:
        raise DigestMismatchError("custody.handover_digest", where="-", path=_OBJECTS + wanted.sha256, expected=wanted.sha256)


def _record(appender: Appender, objects: ObjectStore, device: DeviceLog, new: Sequence[str]) -> None:
    records = [
        NewFile(folder="records", name=name, file=objects.add_bytes(data))
        for name, data in zip(RECORDS, device.records, strict=True)
    ]
    room = MAX_OUTPUTS - len(records)
    # a device with more originals than one event can hold: several, each with the whole log
    for start in range(0, max(len(new), 1), room):
        names = new[start : start + room]
        files = {name: device.originals[name] for name in names}
        outputs = [
            NewFile(folder="originals", name=name, file=StoredFile(sha256=file.sha256, sm3=file.sm3, size=file.size))
            for name, file in files.items()
        ]
        process = Process(
            tool=TOOL,
            version=__version__,
            code_digest="",
            environment_digest="",
            parameters={
                "origin": device.checkpoint.origin,
                "tree_size": device.checkpoint.tree_size,
                "root": device.checkpoint.root.hex(),
                "workspace": device.workspace,
                "files": len(names),
            },
            seed=None,
        )
        appender.append("received", outputs=[*records, *outputs], process=process)
