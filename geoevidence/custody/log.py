"""The custody log of one case: signed events, appended and never changed.

`CaseLog.writing` is the one way in. It opens a transaction of the `LogStore` (which the catalogue implements
and the application injects), compares the log with every checkpoint known outside it, lets the caller append
events, signs one checkpoint over all of them and commits leaf, read models and checkpoint together. After that the
checkpoint is copied out: to the workspace and to the signer's memory. If the process dies in between, the
next opening copies it. A log behind a known checkpoint, or different from it, is never appended to.
Byte formats: docs/formats/event.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from geoevidence.custody.files import storage_error, write_durably
from geoevidence.custody.signers import Signer
from geoevidence.custody.store import StoredFile
from geoevidence.errors import CustodyError, FormatError, GeoEvidenceError, LogInconsistentError, VerificationError
from geoevidence.trust.digests import commitment, open_commitment
from geoevidence.trust.events import PAYLOAD_TYPE, SCHEMA, TYPES, ItemRecord, event_bytes, parse_leaf
from geoevidence.trust.merkle import leaf_hash, tree_root
from geoevidence.trust.notes import LogCheckpoint, NoteSignature, SignedNote, note_key_hash, note_key_name, parse_checkpoint
from geoevidence.trust.signatures import Envelope, EnvelopeSignature, PublicKey, pae
from geoevidence.types import Actor, EvidenceItem, Message, Process, utc_text, utc_value

ItemFolder = Literal["originals", "derived", "records", "report", "seal"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Who acts, with which key, on which device, by which clock.

    software: name and version, such as geoevidence 0.1.0.
    now: the device's clock; aware times.
    clock_source: system, gnss, ntp or unknown.
    clock_offset_ms: measured offset of the clock, or None when it was not measured.
    random: gives that many random bytes.
    """

    actor: Actor
    signer: Signer
    device_serial: str
    software: str
    now: Callable[[], datetime]
    random: Callable[[int], bytes]
    clock_source: str = "system"
    clock_offset_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """A file as an event names it. item: item id; path: under the case; sha256, sm3: hex; size: bytes."""

    item: str
    path: str
    size: int
    sha256: str
    sm3: str

    def to_dict(self) -> dict[str, Any]:
        return {"item": self.item, "path": self.path, "size": self.size, "sha256": self.sha256, "sm3": self.sm3}

    @classmethod
    def of(cls, item: EvidenceItem) -> FileRef:
        return cls(item=item.id, path=item.path, size=item.size, sha256=item.sha256, sm3=item.sm3)

    @classmethod
    def of_record(cls, record: ItemRecord) -> FileRef:
        return cls(**record._asdict())


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A stored file that an event is to put into the case at `<folder>/<event id>/<name>`."""

    folder: ItemFolder
    name: str
    file: StoredFile


@dataclass(frozen=True, slots=True, kw_only=True)
class CustodyEvent:
    """One event as it stands in the log, with what its commitments hide.

    index: leaf index, from 0. leaf: the leaf's bytes. leaf_hash: hex.
    actor_id, device_serial, note: the disclosed text, or None where there is none here.
    time_claimed: by the device's clock; not a proof.
    anchor: (tree size, root hex) of the newest checkpoint its writer knew, or None.
    disclosures: field -> {salt, value}.
    The other fields are those of docs/formats/event.md.
    """

    index: int
    leaf: bytes = field(repr=False)
    leaf_hash: str
    event_id: str
    type: str
    case: str
    actor_id: str | None
    role: str
    auth_level: str
    key_id: str
    device_serial: str | None
    software: str
    time_claimed: datetime
    clock_source: str
    clock_offset_ms: int | None
    seq: int
    prev_event: str | None
    anchor: tuple[int, str] | None
    inputs: tuple[FileRef, ...]
    outputs: tuple[FileRef, ...]
    process: Process | None
    note: str | None
    disclosures: Mapping[str, Mapping[str, str]]


def read_event(index: int, leaf: bytes, disclosures: Mapping[str, Mapping[str, str]]) -> CustodyEvent:
    """The event of a leaf of our own log; signatures are not checked here (the verifier does).

    Raises: FormatError; VerificationError when a disclosure does not open its commitment.
    """
    parsed = parse_leaf(leaf)
    event, raw = parsed.event, parsed.event.raw
    opened = {
        name: open_commitment(event.commitments[name], each) for name, each in disclosures.items() if name in event.commitments
    }
    process = raw["process"]
    return CustodyEvent(
        index=index,
        leaf=leaf,
        leaf_hash=parsed.hash.hex(),
        event_id=event.event_id,
        type=event.type,
        case=event.case,
        actor_id=opened.get("actor.id"),
        role=event.role,
        auth_level=raw["actor"]["auth_level"],
        key_id=event.key_id,
        device_serial=opened.get("device.serial"),
        software=raw["device"]["software"],
        time_claimed=utc_value(event.time_claimed, "event"),
        clock_source=raw["clock"]["source"],
        clock_offset_ms=raw["clock"]["offset_ms"],
        seq=event.seq,
        prev_event=event.prev_event,
        anchor=None if event.anchor is None else (event.anchor[0], event.anchor[1].hex()),
        inputs=tuple(FileRef.of_record(record) for record in event.inputs),
        outputs=tuple(FileRef.of_record(record) for record in event.outputs),
        process=None
        if process is None
        else Process(
            **{**process, "code_digest": process["code_digest"] or "", "environment_digest": process["environment_digest"] or ""}
        ),
        note=opened.get("note"),
        disclosures={name: dict(each) for name, each in disclosures.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseKey:
    """A key that signs in a case: what a verifier needs to check its signatures."""

    public_key: PublicKey
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSummary:
    """A case in a list. opened: claimed time of its first event; events, items, findings: how many there are."""

    id: str
    number: str
    demonstration: bool
    opened: datetime
    sheet: Mapping[str, str]
    events: int
    items: int
    findings: int


class LogReader(Protocol):
    """One consistent view of the log store."""

    def cases(self) -> tuple[CaseSummary, ...]:
        """In order of number."""

    def leaves(self, case_id: str, start: int) -> tuple[bytes, ...]:
        """Leaves from index `start` on, in log order."""

    def disclosures(self, case_id: str) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
        """Event id -> field -> {salt, value}."""

    def checkpoint(self, case_id: str, at_least: int) -> bytes | None:
        """The signed checkpoint with the smallest tree size that is not below `at_least`, or None."""

    def newest_checkpoint(self, case_id: str) -> bytes | None:
        """The signed checkpoint with the largest tree size, or None."""

    def keys(self, case_id: str) -> tuple[CaseKey, ...]:
        """In order of key id."""

    def items(self, case_id: str) -> tuple[EvidenceItem, ...]:
        """In log order."""


class LogWriter(LogReader, Protocol):
    """A transaction: what it adds becomes visible and durable together, at its end, or not at all."""

    def append(self, event: CustodyEvent) -> None:
        """Store leaf and disclosures and bring the read models up to date."""

    def add_checkpoint(self, case_id: str, tree_size: int, checkpoint: bytes) -> None: ...

    def add_key(self, case_id: str, key: CaseKey) -> None: ...


class LogStore(Protocol):
    """Where leaves, checkpoints and read models live. One writer at a time; others wait."""

    def create(self, workspace_id: str) -> None:
        """Make an empty store for a workspace."""

    def check(self, workspace_id: str) -> None:
        """Raises CustodyError when the store is missing, of another version or of another workspace."""

    def reading(self) -> AbstractContextManager[LogReader]: ...

    def writing(self) -> AbstractContextManager[LogWriter]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """Whether the log is an extension of all that is known of it outside.

    rollback: passed, failed, or not_checked when this signer has never seen the log.
    message: the same in words.
    """

    rollback: Literal["passed", "failed", "not_checked"]
    message: Message


class CaseLog:
    """The log of one case.

    Args:
        origin: name of the log.
        case_id: the case.
        store: where it is kept.
        session: who writes.
        outside: file of the workspace that holds the newest checkpoint.
        before_append: called before anything is recorded (makes stored objects durable).
    """

    def __init__(
        self, origin: str, case_id: str, *, store: LogStore, session: Session, outside: Path, before_append: Callable[[], None]
    ) -> None:
        self.origin = origin
        self._case_id = case_id
        self._store = store
        self._session = session
        self._outside = outside
        self._before_append = before_append
        self._events: tuple[CustodyEvent, ...] = ()

    def events(self) -> tuple[CustodyEvent, ...]:
        """All events in log order. Raises LogInconsistentError when one cannot be read."""
        with self._store.reading() as reader:
            return self._read_events(reader)

    def _read_events(self, reader: LogReader) -> tuple[CustodyEvent, ...]:
        known = self._events
        new = reader.leaves(self._case_id, len(known))
        if new:
            disclosures = reader.disclosures(self._case_id)
            known += tuple(self._read_one(len(known) + n, leaf, disclosures) for n, leaf in enumerate(new))
            self._events = known
        return known

    def _read_one(self, index: int, leaf: bytes, disclosures: Mapping[str, Mapping[str, Mapping[str, str]]]) -> CustodyEvent:
        try:
            return read_event(index, leaf, disclosures.get(parse_leaf(leaf).event.event_id, {}))
        except (FormatError, VerificationError) as error:
            raise LogInconsistentError("custody.leaf_unreadable", index=index, reason=str(error)) from error

    def checkpoint(self) -> LogCheckpoint | None:
        """The newest checkpoint, or None for a log that is still empty."""
        raw = self.checkpoint_bytes()
        return None if raw is None else parse_checkpoint(raw)[0]

    def checkpoint_bytes(self, *, at_least: int | None = None) -> bytes | None:
        """The newest signed checkpoint, or the earliest that covers `at_least` leaves."""
        with self._store.reading() as reader:
            if at_least is None:
                return reader.newest_checkpoint(self._case_id)
            return reader.checkpoint(self._case_id, at_least)

    def keys(self) -> tuple[CaseKey, ...]:
        """Every key that signed an event or a checkpoint of this case, by key id."""
        with self._store.reading() as reader:
            return reader.keys(self._case_id)

    def items(self) -> tuple[EvidenceItem, ...]:
        """The items of the case, in log order."""
        with self._store.reading() as reader:
            return reader.items(self._case_id)

    def status(self) -> LogStatus:
        """Compares the log with the checkpoints outside it; never raises for a bad log."""
        try:
            # outside first: a writer may add to both meanwhile, and the log must not look shorter for it
            known = self._known_outside()
            with self._store.reading() as reader:
                self._compare(reader, [leaf_hash(leaf) for leaf in reader.leaves(self._case_id, 0)], known)
        except LogInconsistentError as error:
            return LogStatus(rollback="failed", message=Message(id=error.message_id, values=_texts(error)))
        except GeoEvidenceError as error:
            return LogStatus(rollback="failed", message=Message(id="custody.log_not_read", values={"reason": str(error)}))
        if any(place == _MEMORY for place, _ in known):
            return LogStatus(rollback="passed", message=Message(id="custody.rollback_passed"))
        return LogStatus(rollback="not_checked", message=Message(id="custody.rollback_not_checked"))

    def require_consistent(self) -> None:
        """Raises LogInconsistentError unless the log is an extension of every checkpoint known outside."""
        known = self._known_outside()
        with self._store.reading() as reader:
            self._compare(reader, [leaf_hash(leaf) for leaf in reader.leaves(self._case_id, 0)], known)

    @contextmanager
    def writing(self, *, expected_size: int | None = None) -> Iterator[Appender]:
        """A transaction on this log; leaving normally records, an exception records nothing.

        Args:
            expected_size: refuse when the log has meanwhile grown beyond this size.

        Raises: LogInconsistentError; CustodyError.
        """
        self._before_append()
        with self._store.writing() as writer:
            hashes = [leaf_hash(leaf) for leaf in writer.leaves(self._case_id, 0)]
            # inside the transaction nobody else can commit, so what is known outside is not ahead of an honest log
            self._compare(writer, hashes, self._known_outside())
            if expected_size is not None and len(hashes) != expected_size:
                raise CustodyError("custody.log_moved", expected=expected_size, found=len(hashes))
            appender = Appender(self, writer, hashes)
            yield appender
            if appender.new_events:
                # objects stored inside the transaction must be durable before the commit as well
                self._before_append()
                appender.sign_checkpoint()
        if appender.new_events:
            self.publish()

    def publish(self) -> None:
        """Copy the newest checkpoint to where it is kept outside the catalogue, unless a higher one is there.

        Raises: CustodyError when it cannot be written; the log itself is complete by then.
        """
        # the writer's lock keeps two processes from overwriting a higher checkpoint with a lower one
        with self._store.writing() as writer:
            newest = writer.newest_checkpoint(self._case_id)
            if newest is None:
                return
            size = parse_checkpoint(newest)[0].tree_size
            known = dict(self._known_outside())
            if self._behind(known.get(str(self._outside)), size):
                try:
                    write_durably(self._outside, newest)
                except OSError as error:
                    raise storage_error(error, self._outside) from error
            if self._behind(known.get(_MEMORY), size):
                self._session.signer.memory.keep(self.origin, newest)

    def heal(self) -> None:
        """After a crash: publish a checkpoint that was committed and not yet copied out. Leaves a bad log alone."""
        known = dict(self._known_outside_or_nothing())
        newest = self.checkpoint_bytes()
        if newest is None:
            return
        size = parse_checkpoint(newest)[0].tree_size
        # a signer who has never seen this log learns of it when it first appends, not by looking
        stale = self._behind(known.get(str(self._outside)), size) or (_MEMORY in known and self._behind(known[_MEMORY], size))
        if stale and self.status().rollback != "failed":
            self.publish()

    @staticmethod
    def _behind(known: bytes | None, size: int) -> bool:
        return known is None or parse_checkpoint(known)[0].tree_size < size

    def _known_outside_or_nothing(self) -> list[tuple[str, bytes]]:
        try:
            return self._known_outside()
        except CustodyError:
            return []

    def _known_outside(self) -> list[tuple[str, bytes]]:
        """(place, signed checkpoint) of each that is kept outside the catalogue, parsed once to be sure it can be."""
        found = []
        memory = self._session.signer.memory.known(self.origin)
        if memory is not None:
            found.append((_MEMORY, memory))
        try:
            found.append((str(self._outside), self._outside.read_bytes()))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CustodyError("custody.checkpoint_unreadable", path=self._outside, reason=error.strerror) from error
        for place, raw in found:
            try:
                parse_checkpoint(raw, where=place)
            except FormatError as error:
                raise LogInconsistentError("custody.checkpoint_unreadable", path=place, reason=str(error)) from error
        return found

    def _compare(self, reader: LogReader, hashes: Sequence[bytes], known: Sequence[tuple[str, bytes]]) -> None:
        keys = {note_key_name(key.public_key): key.public_key for key in reader.keys(self._case_id)}
        ours = self._session.signer.public_key
        keys.setdefault(note_key_name(ours), ours)
        inside = reader.newest_checkpoint(self._case_id)
        everything = [*known, *([] if inside is None else [(_CATALOGUE, inside)])]
        if hashes and inside is None:
            raise LogInconsistentError("custody.log_unsigned", size=len(hashes))
        for place, raw in everything:
            try:
                stated, note = parse_checkpoint(raw, where=place)
                name = note.signatures[0].name
                note.verify(ours if place == _MEMORY or name not in keys else keys[name])
            except (FormatError, VerificationError) as error:
                raise LogInconsistentError("custody.checkpoint_unreadable", path=place, reason=str(error)) from error
            if stated.origin != self.origin:
                raise LogInconsistentError("custody.checkpoint_other_log", path=place, expected=self.origin, found=stated.origin)
            if stated.tree_size > len(hashes):
                raise LogInconsistentError("custody.log_behind", place=place, known=stated.tree_size, found=len(hashes))
            if place == _CATALOGUE and stated.tree_size != len(hashes):
                raise LogInconsistentError("custody.log_unsigned", size=len(hashes))
            if tree_root(hashes[: stated.tree_size]) != stated.root:
                raise LogInconsistentError("custody.log_differs", place=place, size=stated.tree_size)


_MEMORY = "密钥文件夹 (key folder)"
_CATALOGUE = "目录数据库 (catalogue)"


def _texts(error: GeoEvidenceError) -> dict[str, Any]:
    return {name: value if isinstance(value, int) else str(value) for name, value in error.values.items()}


class Appender:
    """Appends events inside one transaction of `CaseLog.writing`."""

    def __init__(self, log: CaseLog, writer: LogWriter, hashes: list[bytes]) -> None:
        self._log = log
        self._session = log._session
        self._case_id = log._case_id
        self._writer = writer
        self._hashes = hashes
        self.events = log._read_events(writer)
        """All events of the log, those appended here included."""
        self._old = len(self.events)
        raw = writer.newest_checkpoint(self._case_id)
        self._anchor = None if raw is None else parse_checkpoint(raw)[0]

    @property
    def reader(self) -> LogReader:
        """The transaction's own view."""
        return self._writer

    @property
    def new_events(self) -> tuple[CustodyEvent, ...]:
        """What was appended here."""
        return self.events[self._old :]

    def next_event_id(self) -> str:
        """The id that the next event of this signer gets."""
        return f"E-{self._session.signer.public_key.chain}-{len(self._mine()) + 1}"

    def _mine(self) -> list[CustodyEvent]:
        key = self._session.signer.public_key
        for event in self.events:
            if event.key_id != key.key_id and event.key_id[:8] == key.chain:
                raise CustodyError("custody.key_chain_taken", chain=key.chain)
        return [event for event in self.events if event.key_id == key.key_id]

    def append(
        self,
        type: str,
        *,
        inputs: Sequence[FileRef] = (),
        outputs: Sequence[NewFile] = (),
        process: Process | None = None,
        note: str | None = None,
    ) -> CustodyEvent:
        """Sign an event and put it at the end of the log.

        Args:
            type: one of `geoevidence.trust.events.TYPES`.
            inputs: items of earlier events.
            outputs: files that become items, in this order.
            process: how the outputs were made, or None.
            note: free text; only its commitment goes into the event.
        """
        if type not in TYPES:
            raise ValueError(f"unknown type of event {type!r}")
        session, signer, key = self._session, self._session.signer, self._session.signer.public_key
        mine, event_id = self._mine(), self.next_event_id()
        disclosures: dict[str, dict[str, str]] = {}

        def committed(name: str, value: str) -> str:
            disclosures[name] = {"salt": session.random(32).hex(), "value": value}
            return commitment(value, disclosures[name]["salt"])

        refs = [
            FileRef(
                item=f"{event_id}-{n}",
                path=f"{new.folder}/{event_id}/{new.name}",
                size=new.file.size,
                sha256=new.file.sha256,
                sm3=new.file.sm3,
            )
            for n, new in enumerate(outputs, start=1)
        ]
        anchor = self._anchor
        payload = event_bytes(
            {
                "schema": SCHEMA,
                "event_id": event_id,
                "type": type,
                "case": self._case_id,
                "actor": {
                    "id": committed("actor.id", session.actor.id),
                    "role": session.actor.role,
                    "auth_level": session.actor.auth_level,
                    "key_id": key.key_id,
                },
                "device": {"serial": committed("device.serial", session.device_serial), "software": session.software},
                "time_claimed": utc_text(session.now()),
                "clock": {"source": session.clock_source, "offset_ms": session.clock_offset_ms},
                "seq": len(mine) + 1,
                "prev_event": f"sha256:{mine[-1].leaf_hash}" if mine else None,
                "anchor": None
                if anchor is None
                else {"tree_size": anchor.tree_size, "root": anchor.root.hex(), "attested_time": None},
                "inputs": [ref.to_dict() for ref in inputs],
                "outputs": [ref.to_dict() for ref in refs],
                "process": None if process is None else _process_dict(process),
                "note": None if note is None else committed("note", note),
            }
        )
        signature = EnvelopeSignature(key.key_id, signer.sign(pae(PAYLOAD_TYPE, payload)))
        leaf = Envelope(PAYLOAD_TYPE, payload, (signature,)).to_bytes()
        event = read_event(len(self._hashes), leaf, disclosures)
        if key.key_id not in {known.public_key.key_id for known in self._writer.keys(self._case_id)}:
            self._writer.add_key(self._case_id, CaseKey(public_key=key, label=signer.label))
        self._writer.append(event)
        self._hashes.append(leaf_hash(leaf))
        self.events += (event,)
        return event

    def sign_checkpoint(self) -> None:
        """Sign the head of the log as it now stands and store it."""
        signer = self._session.signer
        checkpoint = LogCheckpoint(self._log.origin, len(self._hashes), tree_root(self._hashes))
        text, name = checkpoint.to_text(), note_key_name(signer.public_key)
        signature = NoteSignature(name, note_key_hash(name, signer.public_key.raw), signer.sign(text.encode("utf-8")))
        self._writer.add_checkpoint(self._case_id, checkpoint.tree_size, SignedNote(text, (signature,)).to_bytes())


def _process_dict(process: Process) -> dict[str, Any]:
    return {
        "tool": process.tool,
        "version": process.version,
        "code_digest": process.code_digest or None,
        "environment_digest": process.environment_digest or None,
        "parameters": dict(process.parameters),
        "seed": process.seed,
    }
