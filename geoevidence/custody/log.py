"""The custody log of one case: signed events, appended and never changed.

`CaseLog.writing` is the one way in. It opens a transaction of the `LogStore` (which the catalogue implements
and the application injects), compares the log with every checkpoint known outside it, lets the caller append
events, signs one checkpoint over all of them and commits leaf, read models and checkpoint together. After that the
checkpoint is copied out: to the workspace and to the signer's memory. If the process dies in between, the
next opening copies it. A log behind a known checkpoint, or different from it, is never appended to.
Byte formats: docs/formats/event.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from geoevidence.custody.anchoring import newest_attested_time
from geoevidence.custody.files import write_durably
from geoevidence.custody.keys import EndedKey, ended_keys, require_not_ended
from geoevidence.custody.media import describe_outputs
from geoevidence.custody.sheet import read_sheet
from geoevidence.custody.signers import CheckpointMemory, NoteSigner, Signer
from geoevidence.custody.store import ObjectStore, StoredFile
from geoevidence.errors import (
    CustodyError,
    DigestMismatchError,
    FormatError,
    GeoEvidenceError,
    LogInconsistentError,
    VerificationError,
)
from geoevidence.trust.certificates import parse_certificate
from geoevidence.trust.digests import commitment, open_commitment
from geoevidence.trust.events import PAYLOAD_TYPE, SCHEMA, TYPES, ItemRecord, event_bytes, parse_leaf
from geoevidence.trust.merkle import RootBuilder, leaf_hash, tree_root
from geoevidence.trust.notes import LogCheckpoint, NoteSignature, SignedNote, note_key_hash, note_key_name, parse_checkpoint
from geoevidence.trust.signatures import Envelope, EnvelopeSignature, PublicKey, pae
from geoevidence.types import Actor, EvidenceItem, Message, Process, utc_text, utc_value

ItemFolder = Literal["originals", "derived", "records", "report", "seal"]
MAX_OUTPUTS = 50_000
"""Most outputs of one event, so that a log can be read leaf by leaf (docs/formats/package.md)."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Who acts, with which keys, on which device, by which clock.

    signer: the actor's key. cosigners: further keys that sign every event and statement beside it.
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
    cosigners: tuple[Signer, ...] = ()

    def __post_init__(self) -> None:
        if len({each.public_key for each in self.signers}) != len(self.signers):
            raise ValueError("a key signs once")

    @property
    def signers(self) -> tuple[Signer, ...]:
        """Signer and cosigners."""
        return (self.signer, *self.cosigners)

    @property
    def keys(self) -> tuple[CaseKey, ...]:
        """Every key that signs in this session, the one for checkpoints included, by key id."""
        keys = {each.public_key.key_id: CaseKey.of(each) for each in (self.signer.note_signer, *self.signers)}
        return tuple(keys[key_id] for key_id in sorted(keys))


def sign_envelope(session: Session, payload_type: str, payload: bytes) -> Envelope:
    """The envelope of a payload with the signatures of all signers of a session, sorted by key id.

    Raises: CustodyError when a signer's certificate is not in its term by the session's clock.
    """
    message = pae(payload_type, payload)
    for signer in session.signers:
        _require_in_term(signer, session)
    signatures = [EnvelopeSignature(each.public_key.key_id, each.sign(message)) for each in session.signers]
    return Envelope(payload_type, payload, tuple(sorted(signatures, key=lambda each: each.keyid)))


def _require_in_term(signer: Signer, session: Session) -> None:
    if signer.certificates:
        own, now = parse_certificate(signer.certificates[0]), utc_text(session.now())
        if not own.not_before <= now <= own.not_after:
            raise CustodyError(
                "custody.certificate_term", subject=own.subject_text, since=own.not_before, until=own.not_after, now=now
            )


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
    """A key that signs in a case: what a verifier needs to check its signatures.

    certificates: DER, its own first, then the issuers; often none.
    """

    public_key: PublicKey
    label: str
    certificates: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, signer: NoteSigner) -> CaseKey:
        return cls(public_key=signer.public_key, label=signer.label, certificates=signer.certificates)


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

    def disclosures(self, case_id: str, start: int = 0) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
        """Event id -> field -> {salt, value}, of the events from index `start` on."""

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
        read_object: the stored bytes of a SHA-256.
    """

    def __init__(
        self,
        origin: str,
        case_id: str,
        *,
        store: LogStore,
        session: Session,
        outside: Path,
        before_append: Callable[[], None],
        read_object: Callable[[str], bytes],
    ) -> None:
        self.origin = origin
        self._case_id = case_id
        self._store = store
        self._session = session
        self._outside = outside
        self._before_append = before_append
        self._read_object = read_object
        self._events: tuple[CustodyEvent, ...] = ()
        self._tree = _Tree()
        """Used inside a writing transaction only, of which there is one at a time."""

    def events(self) -> tuple[CustodyEvent, ...]:
        """All events in log order. Raises LogInconsistentError when one cannot be read."""
        with self._store.reading() as reader:
            return self._read_events(reader)

    def _read_events(self, reader: LogReader, leaves: Sequence[bytes] | None = None) -> tuple[CustodyEvent, ...]:
        known = self._events
        new = reader.leaves(self._case_id, len(known)) if leaves is None else leaves[len(known) :]
        if new:
            disclosures = reader.disclosures(self._case_id, len(known))
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
        """The newest signed checkpoint, or the earliest that covers `at_least` leaves.

        Raises: LogInconsistentError when an earlier one is not one of this log as it stands.
        """
        with self._store.reading() as reader:
            if at_least is None:
                return reader.newest_checkpoint(self._case_id)
            found = reader.checkpoint(self._case_id, at_least)
            if found is not None:
                # the newest is compared at every opening, the earlier ones only here
                self._compare(reader, _Tree(reader.leaves(self._case_id, 0)), [(f"{_CATALOGUE}, {at_least}", found)])
            return found

    def keys(self) -> tuple[CaseKey, ...]:
        """Every key that signed an event or a checkpoint of this case, by key id."""
        with self._store.reading() as reader:
            return reader.keys(self._case_id)

    def items(self) -> tuple[EvidenceItem, ...]:
        """The items of the case, in log order. Raises LogInconsistentError when they are not those of the events."""
        with self._store.reading() as reader:
            return self._read_items(reader, self._read_events(reader))

    def _read_items(self, reader: LogReader, events: Sequence[CustodyEvent]) -> tuple[EvidenceItem, ...]:
        """The items that the store lists, each as an event names it: what is shown and worked on is what was signed."""
        items = reader.items(self._case_id)
        if [FileRef.of(item) for item in items] != [ref for event in events for ref in event.outputs]:
            raise LogInconsistentError("custody.views_differ", case=self._case_id)
        return items

    def require_described(self, objects: ObjectStore) -> None:
        """Reads the beginning of every object. Raises LogInconsistentError when media type or claimed time of an item in the
        catalogue is not what its object says; an object that is missing or damaged is passed over, as others tell that."""
        # both of one moment: another process may append meanwhile
        with self._store.reading() as reader:
            events = self._read_events(reader)
            items = self._read_items(reader, events)
        start = 0
        for event in events:
            stated = items[start : start + len(event.outputs)]
            start += len(event.outputs)
            try:
                if describe_outputs(event, objects) == stated:
                    continue
                for ref in event.outputs:
                    objects.check(ref.sha256)
            except (CustodyError, FormatError):
                continue
            raise LogInconsistentError("custody.views_differ", case=self._case_id)

    def opened_as(self) -> tuple[str, bool]:
        """Number of the case and whether it is a demonstration, as the sheet says that it was opened with.

        Raises: LogInconsistentError for a log that cannot be read; DigestMismatchError when the sheet is not in the store.
        """
        events = self.events()
        if not events or events[0].type != "commissioned":
            raise LogInconsistentError("custody.leaf_missing", case=self._case_id)
        sheet = read_sheet(self._read_object(events[0].outputs[0].sha256))
        return sheet.number, sheet.demonstration

    def status(self) -> LogStatus:
        """Compares the log with the checkpoints outside it; never raises for a bad log."""
        try:
            # outside first: a writer may add to both meanwhile, and the log must not look shorter for it
            known = self._known_outside()
            with self._store.reading() as reader:
                self._compare(reader, _Tree(reader.leaves(self._case_id, 0)), known)
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
            self._compare(reader, _Tree(reader.leaves(self._case_id, 0)), known)

    def ended_keys(self) -> dict[str, EndedKey]:
        """Key id -> how it ended, of the keys that were rotated or revoked in this case. Raises CustodyError."""
        return ended_keys(self.events(), self._read_object)

    @contextmanager
    def writing(
        self, *, expected_size: int | None = None, session: Session | None = None, successor: Signer | None = None
    ) -> Iterator[Appender]:
        """A transaction on this log; leaving normally records, an exception records nothing.

        Args:
            expected_size: refuse when the log has meanwhile grown beyond this size.
            session: who writes, where it is not the session of this log.
            successor: whose key takes over with this transaction, and signs its checkpoint.

        Raises: LogInconsistentError; CustodyError.
        """
        self._before_append()
        with self._store.writing() as writer:
            # every leaf is read again, and those that have not changed since the last time are not digested again
            tree = self._tree
            tree.read(writer.leaves(self._case_id, 0))
            # inside the transaction nobody else can commit, so what is known outside is not ahead of an honest log
            self._compare(writer, tree, self._known_outside())
            if expected_size is not None and tree.size != expected_size:
                raise CustodyError("custody.log_moved", expected=expected_size, found=tree.size)
            appender = Appender(self, writer, tree, session or self._session, successor)
            yield appender
            if appender.new_events:
                # objects stored inside the transaction must be durable before the commit as well
                self._before_append()
                appender.sign_checkpoint()
        if appender.new_events:
            self.publish(() if successor is None else (successor.memory,))

    @contextmanager
    def rehearsing(self, *, expected_size: int) -> Iterator[Appender]:
        """As `writing`, but nothing is recorded: what is appended here can be checked first, and then be recorded
        as it is with `Appender.append_signed`.

        Raises: LogInconsistentError; CustodyError when the log has another size.
        """
        with suppress(_Rehearsed), self._store.writing() as writer:
            tree = _Tree(writer.leaves(self._case_id, 0))
            self._compare(writer, tree, self._known_outside())
            if tree.size != expected_size:
                raise CustodyError("custody.log_moved", expected=expected_size, found=tree.size)
            yield Appender(self, writer, tree, self._session, None)
            raise _Rehearsed

    def publish(self, memories: Sequence[CheckpointMemory] = ()) -> None:
        """Copy the newest checkpoint to where it is kept outside the catalogue, unless a higher one is there.

        Args:
            memories: further ones that are to know it.

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
                    # not `storage_error`: the event is in the log, and whoever did it again would record it twice
                    reason = error.strerror or str(error)
                    raise CustodyError("custody.checkpoint_not_kept", path=self._outside, reason=reason) from error
            if self._behind(known.get(_MEMORY), size):
                self._session.signer.memory.keep(self.origin, newest)
            for memory in memories:
                if self._behind(memory.known(self.origin), size):
                    memory.keep(self.origin, newest)

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

    def _compare(self, reader: LogReader, tree: _Tree, known: Sequence[tuple[str, bytes]]) -> None:
        keys = {note_key_name(key.public_key): key.public_key for key in reader.keys(self._case_id)}
        ours = self._session.signer.note_signer.public_key
        # whatever the catalogue says of a key by our name
        keys[note_key_name(ours)] = ours
        inside = reader.newest_checkpoint(self._case_id)
        everything = [*known, *([] if inside is None else [(_CATALOGUE, inside)])]
        if tree.size and inside is None:
            raise LogInconsistentError("custody.log_unsigned", size=tree.size)
        verified: set[tuple[bytes, PublicKey]] = set()
        for place, raw in everything:
            try:
                stated, note = parse_checkpoint(raw, where=place)
                name = note.signatures[0].name
                key = keys.get(name, ours)
                if (raw, key) not in verified:  # as a rule the same note stands in all three places
                    note.verify(key)
                    verified.add((raw, key))
            except (FormatError, VerificationError) as error:
                raise LogInconsistentError("custody.checkpoint_unreadable", path=place, reason=str(error)) from error
            if stated.origin != self.origin:
                raise LogInconsistentError("custody.checkpoint_other_log", path=place, expected=self.origin, found=stated.origin)
            if stated.tree_size > tree.size:
                raise LogInconsistentError("custody.log_behind", place=place, known=stated.tree_size, found=tree.size)
            if place == _CATALOGUE and stated.tree_size != tree.size:
                raise LogInconsistentError("custody.log_unsigned", size=tree.size)
            if tree.root(stated.tree_size) != stated.root:
                raise LogInconsistentError("custody.log_differs", place=place, size=stated.tree_size)


_MEMORY = "密钥文件夹 (key folder)"
_CATALOGUE = "目录数据库 (catalogue)"


def _texts(error: GeoEvidenceError) -> dict[str, Any]:
    return {name: value if isinstance(value, int) else str(value) for name, value in error.values.items()}


class _Rehearsed(Exception):
    """Takes a transaction back whose events were only wanted to be seen."""


class _Tree:
    """The leaves of a log as they were read last, their hashes, and the roots of its beginnings."""

    def __init__(self, leaves: Sequence[bytes] = ()) -> None:
        self._clear()
        self.read(leaves)

    def _clear(self) -> None:
        self.leaves: list[bytes] = []
        self._hashes: list[bytes] = []
        self._builder = RootBuilder()
        self._roots: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        return len(self._hashes)

    def read(self, leaves: Sequence[bytes]) -> None:
        """Make this the tree of `leaves`. One that does not begin with the leaves known here is digested anew."""
        if list(leaves[: self.size]) != self.leaves:
            self._clear()
        for leaf in leaves[self.size :]:
            self.append(leaf)

    def append(self, leaf: bytes) -> None:
        self.leaves.append(leaf)
        self._hashes.append(leaf_hash(leaf))
        self._builder.append(self._hashes[-1])

    def root(self, size: int) -> bytes:
        """Root of the first `size` leaves."""
        if size == self.size:
            return self._builder.root()
        if size not in self._roots:
            self._roots[size] = tree_root(self._hashes[:size])
        return self._roots[size]


class Appender:
    """Appends events inside one transaction of `CaseLog.writing`."""

    def __init__(self, log: CaseLog, writer: LogWriter, tree: _Tree, session: Session, successor: Signer | None) -> None:
        self._log = log
        self._session = session
        self._note_signer = (successor or session.signer).note_signer
        self._case_id = log._case_id
        self._writer = writer
        self._tree = tree
        self.events = log._read_events(writer, tree.leaves)
        """All events of the log, those appended here included."""
        self._old = len(self.events)
        raw = writer.newest_checkpoint(self._case_id)
        self._anchor = None if raw is None else parse_checkpoint(raw)[0]
        self._attested_time = self._known_time()
        self.ended_keys = ended_keys(self.events, log._read_object)
        """Key id -> how it ended."""

    def _known_time(self) -> str | None:
        try:
            return newest_attested_time(self.events, self._log._read_object)
        except DigestMismatchError:
            # a token that is damaged in the store is found by `scrub` and stops the sealing, not the recording
            return None

    @property
    def next_index(self) -> int:
        """Leaf index that the next event gets."""
        return self._tree.size

    @property
    def reader(self) -> LogReader:
        """The transaction's own view."""
        return self._writer

    @property
    def new_events(self) -> tuple[CustodyEvent, ...]:
        """What was appended here."""
        return self.events[self._old :]

    def items(self) -> tuple[EvidenceItem, ...]:
        """All items of the log, those added here included. Raises LogInconsistentError when they are not those of the events."""
        return self._log._read_items(self._writer, self.events)

    def next_event_id(self) -> str:
        """The id that the next event of this signer gets."""
        return f"E-{self._session.signer.public_key.chain}-{len(self._mine()) + 1}"

    def _mine(self) -> list[CustodyEvent]:
        key_id, chain = self._session.signer.public_key.key_id, self._session.signer.public_key.chain
        for event in self.events:
            if event.key_id != key_id and event.key_id[:8] == chain:
                raise CustodyError("custody.key_chain_taken", chain=chain)
        return [event for event in self.events if event.key_id == key_id]

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

        Raises: CustodyError when there are more than `MAX_OUTPUTS` outputs, or a key of this session has ended in this case.
        """
        if type not in TYPES:
            raise ValueError(f"unknown type of event {type!r}")
        if len(outputs) > MAX_OUTPUTS:
            raise CustodyError("custody.too_many_outputs", found=len(outputs), limit=MAX_OUTPUTS)
        session, key = self._session, self._session.signer.public_key
        for each in (*(signer.public_key for signer in session.signers), self._note_signer.public_key):
            require_not_ended(each.key_id, self.ended_keys, index=self._tree.size)
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
                else {"tree_size": anchor.tree_size, "root": anchor.root.hex(), "attested_time": self._attested_time},
                "inputs": [ref.to_dict() for ref in inputs],
                "outputs": [ref.to_dict() for ref in refs],
                "process": None if process is None else _process_dict(process),
                "note": None if note is None else committed("note", note),
            }
        )
        leaf = sign_envelope(session, PAYLOAD_TYPE, payload).to_bytes()
        return self._put(read_event(self._tree.size, leaf, disclosures))

    def append_signed(self, event: CustodyEvent) -> CustodyEvent:
        """Put an event that was signed while rehearsing at the end of the log, as it is."""
        if (event.index, event.event_id) != (self._tree.size, self.next_event_id()):
            raise CustodyError("custody.log_moved", expected=event.index, found=self._tree.size)
        return self._put(event)

    def _put(self, event: CustodyEvent) -> CustodyEvent:
        # read first: a record that cannot be understood must not be logged
        ended = self.ended_keys
        if event.type == "key_rotated":
            ended = ended_keys((*self.events, event), self._log._read_object)
        self._register_keys()
        self._writer.append(event)
        self._tree.append(event.leaf)
        self.events += (event,)
        self.ended_keys = ended
        return event

    def _register_keys(self) -> None:
        self.register_keys((*self._session.keys, CaseKey.of(self._note_signer)))

    def register_keys(self, keys: Iterable[CaseKey]) -> None:
        """Every key that signs here, or witnesses, stands in the case's list, with the certificates it first came with."""
        known = {each.public_key.key_id: each for each in self._writer.keys(self._case_id)}
        chains = {each.public_key.chain: key_id for key_id, each in known.items()}
        for key in keys:
            key_id, chain = key.public_key.key_id, key.public_key.chain
            if chains.setdefault(chain, key_id) != key_id:
                raise CustodyError("custody.key_chain_taken", chain=chain)
            if key_id not in known:
                self._writer.add_key(self._case_id, key)
                known[key_id] = key
            elif known[key_id].certificates != key.certificates:
                raise CustodyError("custody.key_other_certificates", key_id=key_id)

    def signed_checkpoint(self) -> bytes:
        """The head of the log as it now stands, signed; the same bytes each time (RFC 8032 signatures are determined)."""
        signer = self._note_signer
        text = LogCheckpoint(self._log.origin, self._tree.size, self._tree.root(self._tree.size)).to_text()
        name = note_key_name(signer.public_key)
        signature = NoteSignature(name, note_key_hash(name, signer.public_key.raw), signer.sign(text.encode("utf-8")))
        return SignedNote(text, (signature,)).to_bytes()

    def sign_checkpoint(self) -> None:
        """Sign the head of the log as it now stands and store it."""
        self._writer.add_checkpoint(self._case_id, self._tree.size, self.signed_checkpoint())


def _process_dict(process: Process) -> dict[str, Any]:
    return {
        "tool": process.tool,
        "version": process.version,
        "code_digest": process.code_digest or None,
        "environment_digest": process.environment_digest or None,
        "parameters": dict(process.parameters),
        "seed": process.seed,
    }
