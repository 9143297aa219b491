"""Evidence of time over a log: who is asked, what came back, what is still owed, and the `anchored` event of it.

Time-stamp authorities stamp the bytes of a signed checkpoint, witnesses cosign it; what they gave is recorded in the
log itself (docs/formats/time.md). A case works without any of them: what nobody answered is written down before it is
asked, under `pending/` of the workspace, and worked off at the next run. Requests and answers also travel as files.
Nothing here decides whom a reader should trust.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from geoevidence.custody.asking import Transport, http_transport, require_url
from geoevidence.custody.files import storage_error, sync_folder, write_durably
from geoevidence.custody.timestamps import TimeStampClient, build_request, check_answer, parse_request
from geoevidence.custody.witness import WitnessClient, WitnessKey, build_witness_request, parse_witness_request, read_cosignature
from geoevidence.errors import AnswerError, ConfigError, CustodyError, FormatError
from geoevidence.trust.canonical import base64_text, base64_value, dumps, loads_canonical
from geoevidence.trust.errors import UnsupportedError
from geoevidence.trust.merkle import consistency_proof
from geoevidence.trust.notes import parse_checkpoint, parse_cosignature, parse_proof
from geoevidence.trust.signatures import PublicKey
from geoevidence.trust.timestamps import parse_time_stamp
from geoevidence.types import Message, require, utc_text, utc_value

if TYPE_CHECKING:
    from geoevidence.custody.case import Case
    from geoevidence.custody.log import CustodyEvent

SETTINGS = "time.toml"
"""File of a workspace that names the authorities and witnesses to ask."""
PENDING = "pending"
RENEW_AFTER = timedelta(days=365)
"""Evidence this old is renewed: algorithms and certificates age."""
MAX_FILES = 99
_SCHEMA = "geoevidence.pending.v1"
_FILE = "file"
_WITNESS = "witness"
"""First word of the label of a witness's key in the list of a case."""
_CHECKPOINT, _STAMP, _COSIGNATURE = "checkpoint.note", ".tsr", ".cosig"


# ---------------------------------------------------------------- who is asked


class TimeStampSource(Protocol):
    """Stamps bytes. name: how it is called in messages and in the list of what is owed."""

    @property
    def name(self) -> str: ...

    def stamp(self, message: bytes) -> bytes:
        """Bytes of a `.tsr` file, checked. Raises NoAnswerError, AnswerError."""


class WitnessSource(Protocol):
    """Cosigns checkpoints. name: as above; key: its key."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> WitnessKey: ...

    def cosign(self, checkpoint: bytes, proof: Callable[[int], tuple[bytes, ...]]) -> bytes:
        """Bytes of a `.cosig` file, checked. Raises NoAnswerError, AnswerError."""


class WitnessLabel(NamedTuple):
    """A witness's key with the words by which `keys.json` labels it."""

    public_key: PublicKey
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSources:
    """Whom to ask. stamps: time-stamp authorities; witnesses: of the log; none at all is allowed."""

    stamps: tuple[TimeStampSource, ...] = ()
    witnesses: tuple[WitnessSource, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stamps or self.witnesses)

    def labels(self) -> tuple[WitnessLabel, ...]:
        """The keys of the witnesses, which `keys.json` must hold before a package is sealed."""
        return tuple(WitnessLabel(each.key.key, f"{_WITNESS} {each.name}") for each in self.witnesses)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSettings:
    """Addresses to ask. time_stamps: authorities. witnesses: prefix of each, and its key or None."""

    time_stamps: tuple[str, ...] = ()
    witnesses: tuple[tuple[str, WitnessKey | None], ...] = ()


def read_time_settings(path: Path) -> TimeSettings:
    """The settings in a `time.toml`: tables `[[time_stamp]]` with `url`, `[[witness]]` with `url` and `key`. None there: nobody.

    Raises: ConfigError.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return TimeSettings()
    except (OSError, ValueError) as error:
        raise ConfigError("custody.time_settings", path=path, reason=str(error)) from error
    allowed = {"time_stamp": {"url"}, "witness": {"url", "key"}}
    for name, tables in raw.items():
        if name not in allowed or not isinstance(tables, list):
            raise ConfigError("custody.time_settings", path=path, reason=name)
        for table in tables:
            if not isinstance(table, dict) or set(table) - allowed[name] or not all(isinstance(v, str) for v in table.values()):
                raise ConfigError("custody.time_settings", path=path, reason=name)
            require_url(table.get("url", ""))
    keys = [(each["url"], WitnessKey.parse(each["key"]) if "key" in each else None) for each in raw.get("witness", [])]
    return TimeSettings(time_stamps=tuple(each["url"] for each in raw.get("time_stamp", [])), witnesses=tuple(keys))


def sources_of(settings: TimeSettings, *, random: Callable[[int], bytes], transport: Transport | None = None) -> EvidenceSources:
    """Clients of everybody in the settings; a witness without a key there is asked for it now.

    Raises: ConfigError; NoAnswerError, AnswerError from such a witness.
    """
    transport = transport or http_transport()
    return EvidenceSources(
        stamps=tuple(TimeStampClient(url=url, random=random, transport=transport) for url in settings.time_stamps),
        witnesses=tuple(WitnessClient.over_http(url, key=key, transport=transport) for url, key in settings.witnesses),
    )


# ---------------------------------------------------------------- what came back


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was given over one message and one checkpoint.

    stamps: bytes of `.tsr` files; cosignatures: of `.cosig` files; witnesses: keys of those who gave them, in that order.
    answered: names of who gave something. missing: (name, why) of who did not.
    """

    stamps: tuple[bytes, ...] = ()
    cosignatures: tuple[bytes, ...] = ()
    witnesses: tuple[WitnessLabel, ...] = ()
    answered: tuple[str, ...] = ()
    missing: tuple[tuple[str, CustodyError], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stamps or self.cosignatures)


def gather_evidence(sources: EvidenceSources, *, message: bytes, checkpoint: bytes, leaf_hashes: Sequence[bytes]) -> Evidence:
    """Ask everybody, one after the other; who does not answer is named in `missing` and stops nobody.

    Args:
        message: bytes to be time-stamped.
        checkpoint: signed checkpoint to be cosigned.
        leaf_hashes: of the tree that the checkpoint is the head of, 32 bytes each.
    """
    head = parse_checkpoint(checkpoint)[0]

    def proof(old_size: int) -> tuple[bytes, ...]:
        return consistency_proof(leaf_hashes[: head.tree_size], old_size) if old_size else ()

    stamps: list[bytes] = []
    cosignatures: list[bytes] = []
    witnesses: list[WitnessLabel] = []
    answered: list[str] = []
    missing: list[tuple[str, CustodyError]] = []
    for source in sources.stamps[:MAX_FILES]:
        try:
            stamps.append(source.stamp(message))
            answered.append(source.name)
        except CustodyError as error:
            missing.append((source.name, error))
    for witness, label in zip(sources.witnesses[:MAX_FILES], sources.labels(), strict=False):
        try:
            cosignatures.append(witness.cosign(checkpoint, proof))
            witnesses.append(label)
            answered.append(witness.name)
        except CustodyError as error:
            missing.append((witness.name, error))
    return Evidence(
        stamps=tuple(stamps),
        cosignatures=tuple(cosignatures),
        witnesses=tuple(witnesses),
        answered=tuple(answered),
        missing=tuple(missing),
    )


def seal_evidence(sources: EvidenceSources, proof: bytes, *, leaf_hashes: Sequence[bytes]) -> Evidence:
    """Evidence for a package: time stamps over the bytes of `seal/proof.tlog`, cosignatures of the checkpoint in it.

    Args:
        proof: bytes of `seal/proof.tlog`.
        leaf_hashes: of all leaves up to the `packaged` event, that one included.
    """
    return gather_evidence(sources, message=proof, checkpoint=parse_proof(proof).checkpoint, leaf_hashes=leaf_hashes)


# ---------------------------------------------------------------- what the log holds


def evidence_times(event: CustodyEvent, read_object: Callable[[str], bytes]) -> tuple[str, ...]:
    """Times that the outputs of an `anchored` event attest, UTC texts: genTime of tokens, seconds of cosignatures.

    Raises: FormatError, UnsupportedError, DigestMismatchError for an output that is not what was recorded.
    """
    times = []
    for output in event.outputs:
        if output.path.endswith(_STAMP):
            times.append(parse_time_stamp(read_object(output.sha256), where=output.path).gen_time)
        elif output.path.endswith(_COSIGNATURE):
            times.append(parse_cosignature(read_object(output.sha256), where=output.path)[1].time)
    return tuple(times)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTestimony:
    """One piece of time evidence in a log, by its own words: whether its maker is believed is for the reader's trust file.

    index: leaf of the `anchored` event that holds it. covers: leaves of the checkpoint it is over. kind: time (a time stamp)
    or witness. who: subject of the authority's certificate, or note name of the witness. earliest, latest: aware, UTC.
    """

    index: int
    covers: int
    kind: Literal["time", "witness"]
    who: str
    earliest: datetime
    latest: datetime


def log_testimonies(events: Iterable[CustodyEvent], read_object: Callable[[str], bytes]) -> tuple[LogTestimony, ...]:
    """All time evidence of a log, in its order; signatures and imprints are not checked here (the verifier does).

    Raises: FormatError, UnsupportedError, DigestMismatchError for an output that is not what was recorded.
    """
    found = []
    for event in events:
        if event.type != "anchored":
            continue
        note = next(output for output in event.outputs if output.path.endswith(_CHECKPOINT))
        covers = parse_checkpoint(read_object(note.sha256), where=note.path)[0].tree_size
        for output in event.outputs:
            if output.path.endswith(_STAMP):
                stamp = parse_time_stamp(read_object(output.sha256), where=output.path)
                who, bounds = stamp.tsa.subject_text, (stamp.earliest, stamp.latest)
            elif output.path.endswith(_COSIGNATURE):
                cosignature = parse_cosignature(read_object(output.sha256), where=output.path)[1]
                who, bounds = cosignature.name, (cosignature.time, cosignature.latest)
            else:
                continue
            earliest, latest = (utc_value(each, output.path) for each in bounds)
            kind: Literal["time", "witness"] = "time" if output.path.endswith(_STAMP) else "witness"
            found.append(LogTestimony(index=event.index, covers=covers, kind=kind, who=who, earliest=earliest, latest=latest))
    return tuple(found)


def stated_interval(event: CustodyEvent, testimonies: Sequence[LogTestimony]) -> tuple[datetime | None, datetime | None]:
    """(after, before) of an event by the evidence in its log (docs/formats/time.md), None where none speaks of it."""
    anchored = 0 if event.anchor is None else event.anchor[0]
    after = [each.earliest for each in testimonies if each.index < anchored]
    before = [each.latest for each in testimonies if each.covers > event.index]
    return max(after, default=None), min(before, default=None)


def newest_attested_time(events: Iterable[CustodyEvent], read_object: Callable[[str], bytes]) -> str | None:
    """The newest time that any `anchored` event among `events` attests, UTC text, or None. Raises as `evidence_times`."""
    found = [time for event in events if event.type == "anchored" for time in evidence_times(event, read_object)]
    return max(found, default=None)


# ---------------------------------------------------------------- what is owed


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """Evidence that was asked for and is not in the log.

    case: its id. tree_size: of the checkpoint. kind: of evidence. source: name of who was asked, or `file` for a request
    that travels as a file. request: its bytes, or None. since: when it was asked first.
    """

    case: str
    tree_size: int
    kind: Literal["time", "witness"]
    source: str
    request: bytes | None
    since: datetime

    @property
    def by_file(self) -> bool:
        """True for a request that travels as a file: only its answer can settle it."""
        return self.source == _FILE


class PendingEvidence:
    """What is owed to the cases of a workspace, one small file each: `<folder>/<case>/<tree size>/<kind>-<digest>.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def owe(self, owed: Owed) -> None:
        """Write it down, durably. Raises CustodyError."""
        record = {
            "schema": _SCHEMA,
            "case": owed.case,
            "tree_size": owed.tree_size,
            "kind": owed.kind,
            "source": owed.source,
            "request": None if owed.request is None else base64_text(owed.request),
            "since": utc_text(owed.since),
        }
        path = self._path(owed)
        try:
            write_durably(path, dumps(record))
        except OSError as error:
            raise storage_error(error, path) from error

    def settle(self, owed: Owed) -> None:
        """Strike it out; nothing happens where it is not there. Raises CustodyError."""
        path = self._path(owed)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
        except OSError as error:
            raise storage_error(error, path) from error

    def entries(self, case_id: str) -> tuple[Owed, ...]:
        """What is owed to a case, by tree size. Raises CustodyError, FormatError for a file that cannot be read."""
        found = []
        for path in sorted((self.folder / case_id).glob("*/*.json")):
            try:
                owed = _read_owed(path.read_bytes(), str(path))
            except OSError as error:
                raise storage_error(error, path) from error
            except FormatError as error:
                raise FormatError("custody.pending_unreadable", path=path, reason=error) from error
            if self._path(owed) != path:
                raise FormatError("custody.pending_unreadable", path=path, reason=f"{owed.case}, {owed.tree_size}")
            found.append(owed)
        return tuple(sorted(found, key=lambda each: (each.tree_size, each.kind, each.source)))

    def _path(self, owed: Owed) -> Path:
        digest = hashlib.sha256(owed.source.encode("utf-8") + b"\x00" + (owed.request or b"")).hexdigest()[:16]
        return self.folder / owed.case / str(owed.tree_size) / f"{owed.kind}-{digest}.json"


def _read_owed(data: bytes, where: str) -> Owed:
    raw: Any = loads_canonical(data, where=where)
    request = require(raw, "request", (str, type(None)), where)
    kind = require(raw, "kind", str, where)
    if require(raw, "schema", str, where) != _SCHEMA or kind not in ("time", "witness"):
        raise FormatError("core.unknown_schema", where=where, found=raw["schema"])
    return Owed(
        case=require(raw, "case", str, where),
        tree_size=require(raw, "tree_size", int, where),
        kind=kind,
        source=require(raw, "source", str, where),
        request=None if request is None else base64_value(request, where=where),
        since=utc_value(raw.get("since"), where),
    )


# ---------------------------------------------------------------- the event


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorResult:
    """What became of asking.

    event: the `anchored` event, or None where nothing came. times: what it attests. message: the same in words.
    missing: (name, why) of who did not answer; they are asked again at the next run.
    """

    event: CustodyEvent | None
    message: Message
    times: tuple[str, ...] = ()
    missing: tuple[tuple[str, CustodyError], ...] = field(default=())

    @property
    def complete(self) -> bool:
        """True where nobody is owed an answer."""
        return not self.missing


def anchor_case(case: Case, sources: EvidenceSources, pending: PendingEvidence, *, renew: bool = False) -> AnchorResult:
    """Ask for evidence over the newest checkpoint of a case and record it as an `anchored` event.

    Everybody is asked when something else than evidence was recorded since the last evidence. Otherwise only those are who
    still owe an answer or have not answered yet, and everybody where `renew` is given and the newest evidence is older
    than `RENEW_AFTER`.

    Raises: ConfigError when nobody is named, or a witness has a key that signs in the case; CustodyError when nothing can be recorded.
    """
    if not sources:
        raise ConfigError("custody.no_sources", settings=SETTINGS)
    _require_others(case, sources)
    now, checkpoint = case.session.now(), case.checkpoint_bytes()
    events = case.events()  # after the checkpoint: never fewer than it covers
    size = parse_checkpoint(checkpoint)[0].tree_size
    owed = [each for each in pending.entries(case.id) if not each.by_file]
    newest = newest_attested_time(events, case.read_object)
    asked = sources
    if newest is not None:
        due = _due(utc_value(newest, "attested"))
        if not (renew and now >= due):
            asked = _still_to_ask(sources, events, case.read_object, {each.source for each in owed})
        if not asked:
            values = {"number": case.number, "time": newest, "due": utc_text(due)}
            return AnchorResult(event=None, message=Message(id="custody.anchor_current", values=values))
    debts = _write_down(case, asked, pending, owed, size, now)
    evidence = gather_evidence(asked, message=checkpoint, checkpoint=checkpoint, leaf_hashes=_leaf_hashes(events))
    if not evidence:
        nobody = Message(id="custody.anchor_nobody", values={"number": case.number, "missing": len(evidence.missing)})
        return AnchorResult(event=None, message=nobody, missing=evidence.missing)
    event = case.record_anchor(checkpoint, evidence.stamps, evidence.cosignatures, witnesses=evidence.witnesses)
    for debt in debts:
        if debt.source in evidence.answered:
            pending.settle(debt)
    return _recorded(case, event, evidence.missing)


def _due(attested: datetime) -> datetime:
    """When evidence of that time is to be renewed. A clock that is set to the end of time has no year after it."""
    return attested + min(RENEW_AFTER, datetime.max.replace(tzinfo=UTC) - attested)


def _still_to_ask(
    sources: EvidenceSources, events: Sequence[CustodyEvent], read_object: Callable[[str], bytes], owing: set[str]
) -> EvidenceSources:
    """Who owes an answer, and who has given nothing over what is in the log besides evidence.

    Tokens do not say which address gave them: one by any authority stands for all that owe nothing.
    """
    last = max(event.index for event in events if event.type != "anchored")
    stamped, cosigned = False, set()
    for event in events[last + 1 :]:
        files = {PurePosixPath(each.path).name: each.sha256 for each in event.outputs}
        if parse_checkpoint(read_object(files[_CHECKPOINT]))[0].tree_size > last:
            stamped = stamped or any(name.endswith(_STAMP) for name in files)
            cosigned |= {
                parse_cosignature(read_object(digest))[1].name for name, digest in files.items() if name.endswith(_COSIGNATURE)
            }
    return EvidenceSources(
        stamps=tuple(each for each in sources.stamps if not stamped or each.name in owing),
        witnesses=tuple(each for each in sources.witnesses if each.key.name not in cosigned or each.name in owing),
    )


def _require_others(case: Case, sources: EvidenceSources) -> None:
    for witness in sources.witnesses:
        _require_stranger(case, witness.key.key, witness.name)


def _require_stranger(case: Case, key: PublicKey, where: str) -> None:
    """Nobody witnesses their own log."""
    own = {each.public_key.key_id for each in case.public_keys() if not _is_witness(each.label)}
    if key.key_id in own | {case.session.signer.note_signer.public_key.key_id}:
        raise ConfigError("custody.witness_is_signer", where=where, key_id=key.key_id)


def _is_witness(label: str) -> bool:
    return label.startswith(_WITNESS)


def _write_down(
    case: Case, asked: EvidenceSources, pending: PendingEvidence, owed: Sequence[Owed], size: int, now: datetime
) -> list[Owed]:
    """What is asked now, written down before; what the same source owed over a smaller checkpoint is struck out for it."""
    named: list[tuple[Literal["time", "witness"], str]] = [("time", each.name) for each in asked.stamps]
    named += [("witness", each.name) for each in asked.witnesses]
    debts = []
    for kind, name in named:
        older = [each for each in owed if (each.kind, each.source) == (kind, name)]
        since = min([each.since for each in older], default=now)
        debt = Owed(case=case.id, tree_size=size, kind=kind, source=name, request=None, since=since)
        pending.owe(debt)
        for each in older:
            if each.tree_size != size:
                pending.settle(each)
        debts.append(debt)
    return debts


def _leaf_hashes(events: Sequence[CustodyEvent]) -> list[bytes]:
    return [bytes.fromhex(event.leaf_hash) for event in events]


def _recorded(case: Case, event: CustodyEvent, missing: tuple[tuple[str, CustodyError], ...] = ()) -> AnchorResult:
    times = evidence_times(event, case.read_object)
    values = {"number": case.number, "event": event.event_id, "count": len(times), "time": max(times)}
    return AnchorResult(event=event, message=Message(id="custody.anchored", values=values), times=times, missing=missing)


# ---------------------------------------------------------------- requests and answers as files


def time_stamp_request(case: Case, pending: PendingEvidence) -> bytes:
    """A `.tsq` file over the newest checkpoint of a case, for any authority; its answer is awaited. Raises CustodyError."""
    checkpoint = case.checkpoint_bytes()
    request = build_request(checkpoint, case.session.random)
    return _await(case, pending, "time", checkpoint, request)


def witness_request(case: Case, pending: PendingEvidence, *, witness_size: int = 0) -> bytes:
    """A request to a witness over the newest checkpoint of a case; its answer is awaited.

    Args:
        witness_size: tree size that the witness signed last of this log, 0 for none.

    Raises: CustodyError when that is larger than the log.
    """
    checkpoint = case.checkpoint_bytes()
    size = parse_checkpoint(checkpoint)[0].tree_size
    if not 0 <= witness_size <= size:
        raise CustodyError("custody.witness_ahead", where="--witness-size", known=witness_size, found=size)
    hashes = _leaf_hashes(case.events())[:size]
    proof = consistency_proof(hashes, witness_size) if witness_size else ()
    return _await(case, pending, "witness", checkpoint, build_witness_request(checkpoint, witness_size, proof))


def _await(case: Case, pending: PendingEvidence, kind: Literal["time", "witness"], checkpoint: bytes, request: bytes) -> bytes:
    size, now = parse_checkpoint(checkpoint)[0].tree_size, case.session.now()
    pending.owe(Owed(case=case.id, tree_size=size, kind=kind, source=_FILE, request=request, since=now))
    return request


def take_answer(
    case: Case, pending: PendingEvidence, answer: bytes, *, where: str, keys: Sequence[WitnessKey] = ()
) -> AnchorResult:
    """Record what came back in a file: a `.tsr` of an authority, or the cosignature lines of a witness.

    Args:
        answer: the file.
        where: its name, for messages.
        keys: of the witnesses whose answer it may be.

    Raises: AnswerError when it answers no request that is awaited, or is not valid; CustodyError when nothing can be recorded.
    """
    awaited = [each for each in pending.entries(case.id) if each.by_file and each.request is not None]
    if answer[:1] == b"0":  # the tag of a DER SEQUENCE
        owed, label = _asked_for(awaited, answer, where), None
        checkpoint = _checkpoint_of(case, owed.tree_size, where)
        check_answer(owed.request or b"", answer, checkpoint, where=where)
        event = case.record_anchor(checkpoint, (answer,), (), witnesses=())
    else:
        owed, cosignature, label = _cosigned(awaited, answer, where, keys)
        checkpoint = _checkpoint_of(case, owed.tree_size, where)
        _require_stranger(case, label.public_key, where)
        event = case.record_anchor(checkpoint, (), (cosignature,), witnesses=(label,))
    pending.settle(owed)
    return _recorded(case, event)


def _asked_for(awaited: Sequence[Owed], answer: bytes, where: str) -> Owed:
    """The request that a token answers, by nonce and imprint."""
    try:
        stamp = parse_time_stamp(answer, where=where)
    except (FormatError, UnsupportedError):
        stamp = None
    mine = [each for each in awaited if each.kind == "time"]
    for each in mine:
        request = parse_request(each.request or b"", where=str(each.tree_size))
        # an answer that cannot be read is judged by `check_answer`, which says why
        if stamp is None or (request.nonce, request.digest) == (stamp.nonce, stamp.imprint):
            return each
    raise AnswerError("custody.answer_unasked", where=where, count=len(mine))


def _cosigned(awaited: Sequence[Owed], answer: bytes, where: str, keys: Sequence[WitnessKey]) -> tuple[Owed, bytes, WitnessLabel]:
    if not keys:
        raise AnswerError("custody.answer_no_witness", where=where)
    mine = [each for each in awaited if each.kind == "witness"]
    failure: AnswerError | None = None
    for each in mine:
        for key in keys:
            raw = parse_witness_request(each.request or b"", where=str(each.tree_size)).raw
            try:
                return each, read_cosignature(answer, raw, key, where=where), WitnessLabel(key.key, _WITNESS)
            except AnswerError as error:
                failure = error
    raise failure or AnswerError("custody.answer_unasked", where=where, count=len(mine))


def _checkpoint_of(case: Case, size: int, where: str) -> bytes:
    raw = case.checkpoint_bytes(at_least=size)
    if parse_checkpoint(raw)[0].tree_size != size:
        raise AnswerError("custody.answer_other_log", where=where, size=size)
    return raw


def known_witness_keys(case: Case) -> Iterator[WitnessKey]:
    """Keys of witnesses that stand among the keys of a case already."""
    for key in case.public_keys():
        if _is_witness(key.label) and key.public_key.algorithm == "ed25519":
            yield WitnessKey.of_witness(key.public_key)
