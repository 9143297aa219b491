"""The one door to a workspace and its cases.

A workspace is a folder: `workspace.json`, `objects/` (the store), the catalogue, `checkpoints/`, `receipts/` and
`tmp/`. A case is its log; everything else about it is read from the log and the store. Files come in by `ingest`,
results by `derivation`, reports by `attach_report`. What fails records nothing; what is recorded stays.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from geoevidence import __version__
from geoevidence.custody.anchoring import WitnessLabel
from geoevidence.custody.files import storage_error, write_durably
from geoevidence.custody.ingest import manifest_files, name_problem, nothing_taken, scan_source, take_files
from geoevidence.custody.inspection import InspectionResult, inspect_source_file, inspect_stored_file
from geoevidence.custody.keys import KEY_CHANGE, EndedKey, revocation, rotation
from geoevidence.custody.log import (
    Appender,
    CaseKey,
    CaseLog,
    CaseSummary,
    CustodyEvent,
    FileRef,
    LogStatus,
    LogStore,
    NewFile,
    Session,
)
from geoevidence.custody.provenance import describe_process
from geoevidence.custody.receipt import Receipt, manifest_sha256, receipt_of, write_receipt
from geoevidence.custody.scrub import ScrubReport, scrub_store
from geoevidence.custody.sheet import CaseSheet, checked_fields, read_sheet
from geoevidence.custody.signers import Signer
from geoevidence.custody.store import ObjectStore, StoredFile, shown
from geoevidence.custody.sync import Handover, SyncResult, absorb, write_handover
from geoevidence.errors import CustodyError, DigestMismatchError, FormatError, InputError, LogInconsistentError
from geoevidence.trust.archive import fold, sort_key
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.trust.manifest import KeyChange
from geoevidence.trust.notes import LogCheckpoint, parse_checkpoint
from geoevidence.types import (
    EvidenceItem,
    Finding,
    Lang,
    Message,
    Process,
    ProcessResult,
    Progress,
    Role,
    no_progress,
    require,
)

WORKSPACE_SCHEMA = "geoevidence.workspace.v1"
FINDINGS_SCHEMA = "geoevidence.findings.v1"
RESULT = "result.json"
_MARKER = "workspace.json"
_FOLDERS = ("objects", "tmp", "checkpoints", "receipts")
_INGEST_TOOLS = {"copied": "custody.ingest", "received": "custody.upload"}


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """What an ingest did.

    event: the event, or None when everything was there already.
    items: new items, in order of path.
    already_present: items of earlier events whose file was found again.
    skipped: printable name -> why the file was not taken.
    inspected: name -> what its structure shows, of the new files that are not simply accepted: all of them are in custody.
    receipt_json, receipt_html, short_code, manifest_sha256: of this event, or of the newest event that holds files found
        again; None where files of several events were found again.
    """

    event: CustodyEvent | None
    items: tuple[EvidenceItem, ...]
    already_present: tuple[EvidenceItem, ...]
    skipped: Mapping[str, Message]
    inspected: Mapping[str, InspectionResult]
    receipt_json: Path | None
    receipt_html: Path | None
    short_code: str | None
    manifest_sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A result in custody. event: the `derived` event; files: path in the result's folder -> item."""

    event: CustodyEvent
    result: ProcessResult
    files: Mapping[str, EvidenceItem]


class Workspace:
    """A folder of cases. Make one with `create`, come back with `open`."""

    def __init__(self, path: Path, workspace_id: str, *, session: Session, log_store: LogStore) -> None:
        self.path = path
        self.id = workspace_id
        self._session = session
        self._log_store = log_store
        self._objects = ObjectStore(path / "objects", path / "tmp")
        self._logs: dict[str, CaseLog] = {}

    @classmethod
    def create(cls, path: Path, *, session: Session, log_store: LogStore) -> Workspace:
        """A new workspace in a folder that does not exist or is empty.

        Raises: CustodyError when something is there already, or nothing can be written.
        """
        path = Path(path).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise CustodyError("custody.workspace_not_empty", path=path)
        except OSError as error:
            raise storage_error(error, path) from error
        workspace_id = f"W-{session.random(5).hex()}"
        try:
            for name in _FOLDERS:
                (path / name).mkdir()
            log_store.create(workspace_id)
            # last: a folder without it is not a workspace
            write_durably(path / _MARKER, dumps({"schema": WORKSPACE_SCHEMA, "id": workspace_id}))
        except (OSError, CustodyError) as error:
            # the folder was empty: leave it so, or a second try would be refused
            for entry in path.iterdir():
                shutil.rmtree(entry) if entry.name in _FOLDERS else entry.unlink()
            raise storage_error(error, path) if isinstance(error, OSError) else error from error
        return cls(path, workspace_id, session=session, log_store=log_store)

    @classmethod
    def open(cls, path: Path, *, session: Session, log_store: LogStore) -> Workspace:
        """The workspace in a folder; removes what a killed process left unfinished.

        Raises: CustodyError when the folder is no workspace or its catalogue is another's.
        """
        path = Path(path).absolute()
        marker = path / _MARKER
        try:
            raw = loads_canonical(marker.read_bytes(), where=str(marker))
        except OSError as error:
            raise CustodyError("custody.not_a_workspace", path=path) from error
        if require(raw, "schema", str, _MARKER) != WORKSPACE_SCHEMA:
            raise FormatError("core.unknown_schema", where=marker, found=raw["schema"])
        workspace = cls(path, require(raw, "id", str, _MARKER), session=session, log_store=log_store)
        log_store.check(workspace.id)
        workspace._objects.sweep(path / "checkpoints", path / "receipts")
        return workspace

    @property
    def session(self) -> Session:
        """Who acts here, with which key."""
        return self._session

    def cases(self) -> tuple[CaseSummary, ...]:
        """All cases, in order of number."""
        with self._log_store.reading() as reader:
            return reader.cases()

    def case(self, id_or_number: str) -> Case:
        """The case of that id or case number. Raises CustodyError when there is none."""
        return self._open_case(self._summary(id_or_number))

    def _summary(self, id_or_number: str) -> CaseSummary:
        cases = self.cases()
        for summary in cases:
            if id_or_number in (summary.id, summary.number):
                return summary
        raise CustodyError("custody.no_such_case", found=id_or_number, known=", ".join(c.number for c in cases) or "-")

    def scrub(self, *, case: str | None = None, progress: Progress = no_progress) -> ScrubReport:
        """Read the store again and compare it with the logs; changes nothing.

        Args:
            case: id or number, to read the objects of one case only; then no extra files are looked for.

        Raises: CustodyError when there is no such case.
        """
        summaries = self.cases() if case is None else (self._summary(case),)
        logs = [(summary, self._log(summary.id)) for summary in summaries]
        return scrub_store(self._objects, logs, whole=case is None, progress=progress)

    def _open_case(self, summary: CaseSummary) -> Case:
        log = self._log(summary.id)
        opened = None
        # a damaged log or store can be looked at: `log_status` and `scrub` say what is wrong
        with suppress(LogInconsistentError, DigestMismatchError):
            opened = log.opened_as()
        if opened not in (None, (summary.number, summary.demonstration)):
            raise LogInconsistentError("custody.views_differ", case=summary.id)
        case = Case(self, summary, log, objects=self._objects, session=self._session)
        # a case can be looked at even where nothing can be written; whatever appends to it will say so
        with suppress(CustodyError), self._objects.working():
            log.heal()
            case._write_missing_receipts()
        return case

    def _log(self, case_id: str) -> CaseLog:
        # kept, so that the events of a case are read once
        if case_id not in self._logs:
            self._logs[case_id] = CaseLog(
                f"geoevidence/{self.id}/{case_id}",
                case_id,
                store=self._log_store,
                session=self._session,
                outside=self.path / "checkpoints" / f"{case_id}.note",
                before_append=self._objects.flush,
                read_object=self._objects.read_bytes,
            )
        return self._logs[case_id]

    def new_case(self, number: str, *, fields: Mapping[str, str] | None = None, demonstration: bool = False) -> Case:
        """Open a case.

        Args:
            number: case number; no other case of this workspace has it.
            fields: of the case sheet.
            demonstration: its data are synthetic, and every page of it says so.

        Raises: ConfigError for a bad field; CustodyError when the number is taken.
        """
        checked = checked_fields(number, fields or {})
        case_id = f"C-{self._session.random(5).hex()}"
        sheet = CaseSheet(case=case_id, workspace=self.id, fields=checked, demonstration=demonstration)
        with self._objects.working():
            stored = self._objects.add_bytes(sheet.to_bytes())
            with self._log(case_id).writing() as appender:
                for known in appender.reader.cases():
                    if known.number == sheet.number:
                        raise CustodyError("custody.number_taken", number=sheet.number, case=known.id)
                    if known.id == case_id:
                        raise CustodyError("custody.id_taken", case=case_id)
                appender.append("commissioned", outputs=[NewFile(folder="records", name="case.json", file=stored)])
        return self.case(case_id)


class Case:
    """One case: its items, events, results and findings, and the ways to add to them."""

    def __init__(
        self, workspace: Workspace, summary: CaseSummary, log: CaseLog, *, objects: ObjectStore, session: Session
    ) -> None:
        self._workspace = workspace
        self._log = log
        self._objects = objects
        self._session = session
        self.id = summary.id
        self.number = summary.number
        self.demonstration = summary.demonstration

    @property
    def workspace_id(self) -> str:
        return self._workspace.id

    @property
    def origin(self) -> str:
        """Name of the case's log."""
        return self._log.origin

    @property
    def session(self) -> Session:
        return self._session

    # ---------------------------------------------------------------- reading

    def events(self) -> tuple[CustodyEvent, ...]:
        """All custody events, in log order. Raises LogInconsistentError."""
        return self._log.events()

    def items(self, *, role: Role | None = None) -> tuple[EvidenceItem, ...]:
        """The items of the case (of one role), in log order."""
        return tuple(item for item in self._log.items() if role is None or item.role == role)

    def path_of(self, item: EvidenceItem) -> Path:
        """The read-only file of an item, in the store. Raises DigestMismatchError when it is missing."""
        path = self._objects.path_of(item.sha256)
        if not path.is_file():
            raise DigestMismatchError("custody.object_missing", path=path, expected=item.sha256)
        return path

    def read_object(self, sha256: str) -> bytes:
        """A small stored file whole, compared with its digest. Raises DigestMismatchError."""
        return self._objects.read_bytes(sha256)

    def check_item(self, item: EvidenceItem) -> None:
        """Read an item again and compare. Raises DigestMismatchError."""
        self._objects.check(item.sha256)

    def log_checkpoint(self) -> LogCheckpoint:
        """The newest checkpoint of the case's log."""
        checkpoint = self._log.checkpoint()
        if checkpoint is None:
            raise CustodyError("custody.log_empty", case=self.id)
        return checkpoint

    def checkpoint_bytes(self, *, at_least: int | None = None) -> bytes:
        """The newest signed checkpoint, or the earliest that covers `at_least` leaves."""
        raw = self._log.checkpoint_bytes(at_least=at_least)
        if raw is None:
            raise CustodyError("custody.log_empty", case=self.id)
        return raw

    def public_keys(self) -> tuple[CaseKey, ...]:
        """Every key that signed in this case."""
        return self._log.keys()

    def log_status(self) -> LogStatus:
        """Whether the log still extends everything known of it outside."""
        return self._log.status()

    def require_consistent_log(self) -> None:
        """Raises LogInconsistentError unless the log extends everything known of it outside, and the catalogue shows what is in it."""
        self._log.require_consistent()
        self._log.require_described(self._objects)

    def ended_keys(self) -> Mapping[str, EndedKey]:
        """Key id -> how it ended, of the keys that were rotated or revoked in this case."""
        return self._log.ended_keys()

    def _sheet(self) -> tuple[FileRef, CaseSheet]:
        newest = [event for event in self.events() if event.type in ("commissioned", "corrected")][-1].outputs[0]
        return newest, read_sheet(self._objects.read_bytes(newest.sha256))

    @property
    def sheet(self) -> Mapping[str, str]:
        """The filled-in fields of the case sheet."""
        return self._sheet()[1].fields

    def results(self) -> tuple[StoredResult, ...]:
        """Every result in custody, in log order."""
        items = {item.id: item for item in self.items()}
        found = []
        for event in self.events():
            if event.type == "derived":
                prefix = f"derived/{event.event_id}/"
                files = {ref.path.removeprefix(prefix): items[ref.item] for ref in event.outputs}
                raw = loads_canonical(self._objects.read_bytes(files[RESULT].sha256), where=RESULT)
                found.append(StoredResult(event=event, result=ProcessResult.from_dict(raw), files=files))
        return tuple(found)

    def findings(self) -> tuple[tuple[StoredResult, Finding], ...]:
        """Every finding that was stated, with its result, in log order."""
        stated = {event.inputs[0].item.rpartition("-")[0] for event in self.events() if event.type == "found"}
        return tuple(
            (stored, finding)
            for stored in self.results()
            if stored.event.event_id in stated
            for finding in stored.result.findings
        )

    # ---------------------------------------------------------------- adding

    def set_sheet(self, fields: Mapping[str, str]) -> CustodyEvent | None:
        """Replace the case sheet; None when nothing changes. The case number stays.

        Raises: ConfigError for a bad field.
        """
        checked = checked_fields(self.number, fields)
        sheet = CaseSheet(case=self.id, workspace=self.workspace_id, fields=checked, demonstration=self.demonstration)
        with self._objects.working():
            stored = self._objects.add_bytes(sheet.to_bytes())
            with self._log.writing() as appender:
                old = [event for event in appender.events if event.type in ("commissioned", "corrected")][-1].outputs[0]
                if old.sha256 == stored.sha256:
                    return None
                return appender.append(
                    "corrected", inputs=[old], outputs=[NewFile(folder="records", name="case.json", file=stored)]
                )

    def ingest(
        self,
        source: Path,
        *,
        label: str = "",
        progress: Progress = no_progress,
        kind: Literal["copied", "received"] = "copied",
    ) -> IngestResult:
        """Take the files of a card or folder (or one file) into custody. The source is never changed.

        What is in the case already, under the same name and with the same digests, is not taken again.

        Args:
            source: folder or file.
            label: what people call the source, such as the number of the card; its name when empty.
            kind: copied from a carrier at this device, or received through the upload page.

        Raises: InputError when the source cannot be used; CustodyError when nothing can be stored or recorded.
        """
        if kind not in _INGEST_TOOLS:
            raise ValueError(f"kind is one of {sorted(_INGEST_TOOLS)}, not {kind!r}")
        source = Path(source).absolute()
        inside, place = self._workspace.path.resolve(), source.resolve()
        # `uploads/` is where the upload page puts what has arrived and is not yet in custody
        own = inside in place.parents and inside / "uploads" not in place.parents
        if place == inside or place in inside.parents or own:
            raise InputError("custody.source_is_workspace", path=source)
        progress("custody.stage.scan", 0.0)
        scan = scan_source(source)
        with self._objects.working():
            taken = take_files(scan, self._objects, known=self._originals_by_name(self.items(role="original")), progress=progress)
            progress("custody.stage.record", 0.0)
            with self._log.writing() as appender:
                # another process may have recorded the same card meanwhile: look again, now that nobody else can
                known = self._originals_by_name(appender.items())
                present, new = list(taken.present), []
                for name, stored in taken.new:
                    same = [i for i in known.get(name, ()) if (i.sha256, i.sm3) == (stored.sha256, stored.sm3)]
                    if same:
                        present.append(same[0])
                    else:
                        new.append((name, stored))
                if not new and not present:
                    raise nothing_taken(source, taken.skipped)
                if new:
                    self._record_ingest(appender, new, shown(label or source.name or str(source)), kind)
        event = appender.new_events[-1] if new else None
        # after the recording: what a file looks like never decides whether it is kept
        sources = {file.name: file.path for file in scan.files}
        looked = {name: inspect_source_file(sources[name]) for name, _ in new}
        items = self.items(role="original")
        receipt = self._receipt(event, present)
        progress("custody.stage.record", 1.0)
        return IngestResult(
            event=event,
            items=tuple(i for i in items if event is not None and i.id.rpartition("-")[0] == event.event_id),
            already_present=tuple(sorted(present, key=lambda item: sort_key(item.path))),
            skipped=taken.skipped,
            inspected={name: found for name, found in sorted(looked.items()) if found.verdict != "accept"},
            receipt_json=None if receipt is None else receipt.json_path,
            receipt_html=None if receipt is None else receipt.html_path,
            short_code=None if receipt is None else receipt.short_code,
            manifest_sha256=None if receipt is None else receipt.manifest_sha256,
        )

    @staticmethod
    def _originals_by_name(items: Sequence[EvidenceItem]) -> dict[str, list[EvidenceItem]]:
        found: dict[str, list[EvidenceItem]] = {}
        for item in items:
            if item.role == "original":
                found.setdefault(item.path.split("/", 2)[2], []).append(item)
        return found

    @staticmethod
    def _record_ingest(appender: Appender, new: Sequence[tuple[str, StoredFile]], label: str, kind: str) -> None:
        files = manifest_files(new)
        process = Process(
            tool=_INGEST_TOOLS[kind],
            version=__version__,
            code_digest="",
            environment_digest="",
            parameters={"source": label, "manifest_sha256": manifest_sha256(files), "files": len(files)},
            seed=None,
        )
        outputs = [NewFile(folder="originals", name=name, file=stored) for name, stored in new]
        appender.append(kind, outputs=outputs, process=process)

    def _receipts(self) -> Path:
        # one folder a case: event ids count from 1 in each case
        return self._workspace.path / "receipts" / self.id

    def _receipt(self, event: CustodyEvent | None, present: Sequence[EvidenceItem]) -> Receipt | None:
        if event is None:
            ids = {item.id.rpartition("-")[0] for item in present}
            event = next((each for each in self.events() if ids == {each.event_id}), None)
        if event is None:
            return None
        receipt = receipt_of(self._receipts(), event)
        return receipt if receipt.json_path.exists() and receipt.html_path.exists() else self._write_receipt(event)

    def _write_receipt(self, event: CustodyEvent) -> Receipt:
        # a process that opens the workspace sweeps this folder too, unless it sees that somebody is at work
        with self._objects.working():
            return write_receipt(
                self._receipts(),
                event,
                checkpoint=self.checkpoint_bytes(at_least=event.index + 1),
                number=self.number,
                sheet=self.sheet,
                demonstration=self.demonstration,
            )

    def _write_missing_receipts(self) -> None:
        for event in self.events():
            # what came by sync has its receipts on the device
            if event.process is not None and event.process.tool == _INGEST_TOOLS.get(event.type):
                receipt = receipt_of(self._receipts(), event)
                if not (receipt.json_path.exists() and receipt.html_path.exists()):
                    self._write_receipt(event)

    @contextmanager
    def derivation(
        self, *, process: str, inputs: Sequence[EvidenceItem], parameters: Mapping[str, Any], seed: int | None = None
    ) -> Iterator[Derivation]:
        """Run a process on items of this case and keep what it made.

        The inputs are read again and compared first. Inside the block, read from `folder`, write to `out`, and end
        with `commit(result)`. An exception, or leaving without `commit`, records nothing and removes the files.

        Args:
            process: name of the process, such as drone.survey.
            inputs: items of this case.
            parameters: what the process was asked; all of it stands again in the result's parameters.
            seed: of every random choice, or None.

        Raises: DigestMismatchError when an input is not what was recorded; CustodyError.
        """
        known = {item.id: item for item in self.items()}
        if not inputs:
            raise CustodyError("custody.no_inputs", process=process)
        for item in inputs:
            if known.get(item.id) != item:
                raise CustodyError("custody.foreign_item", item=item.id, case=self.id)
        # the order of inputs is no part of the request
        ordered = [known[item_id] for item_id in known if item_id in {item.id for item in inputs}]
        scratch = self._workspace.path / "tmp" / f"derivation-{secrets.token_hex(8)}"
        with self._objects.working():
            try:
                for item in ordered:
                    self._objects.check(item.sha256)
                derivation = Derivation(self, process, ordered, dict(parameters), seed, scratch)
                yield derivation
                if derivation.stored is None:
                    raise CustodyError("custody.nothing_committed", process=process)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def attach_report(self, pdf: Path, *, lang: Lang, inputs: Sequence[EvidenceItem]) -> EvidenceItem:
        """Take a finished report into custody.

        Args:
            pdf: the file.
            inputs: the items that the report rests on.

        Raises: InputError for the file; CustodyError.
        """
        if lang not in ("zh", "en"):
            raise ValueError(f"lang is zh or en, not {lang!r}")
        known = {item.id: item for item in self.items()}
        for item in inputs:
            if known.get(item.id) != item:
                raise CustodyError("custody.foreign_item", item=item.id, case=self.id)
        with self._objects.working():
            stored = self._objects.add_file(Path(pdf))
            with self._log.writing() as appender:
                event = appender.append(
                    "reported",
                    inputs=[FileRef.of(item) for item in inputs],
                    outputs=[NewFile(folder="report", name=f"report-{lang}.pdf", file=stored)],
                    process=describe_process("report.render", {"lang": lang}, None),
                )
        return next(item for item in self.items() if item.id == event.outputs[0].item)

    def hand_over(self, target: Path, *, progress: Progress = no_progress) -> Handover:
        """Write the log and the originals of this case, on a field device, into an archive for the case that absorbs them.

        Raises: CustodyError; LogInconsistentError when the log is not what is known of it.
        """
        self.require_consistent_log()
        checkpoint = self.checkpoint_bytes()
        return write_handover(
            Path(target).absolute(),
            events=self.events()[: parse_checkpoint(checkpoint)[0].tree_size],
            checkpoint=checkpoint,
            keys=self.public_keys(),
            objects=self._objects,
            progress=progress,
        )

    def absorb(self, source: Path, *, progress: Progress = no_progress) -> SyncResult:
        """Take in what a field device handed over, as `received` events; what is here already is not taken again.

        Raises: InputError, FormatError, VerificationError when the archive does not hold; LogInconsistentError when the
            device's log is behind what was absorbed before, or not an extension of it; CustodyError.
        """
        taken = absorb(
            self._log,
            self._objects,
            Path(source).absolute(),
            origin=self.origin,
            demonstration=self.demonstration,
            progress=progress,
        )
        originals = [ref for event in taken.events for ref in event.outputs if ref.path.startswith("originals/")]
        looked = {ref.path: inspect_stored_file(self._objects.path_of(ref.sha256), ref.path) for ref in originals}
        return replace(taken, inspected={path: found for path, found in looked.items() if found.verdict != "accept"})

    def rotate_key(self, new: Signer, *, old: Signer | None = None, reason: str = "superseded") -> CustodyEvent:
        """Record that a key hands over to another one; both sign. Nothing by the old key is taken after it.

        Args:
            new: the signer of the key that follows; it signs the checkpoint.
            old: the signer of the key that ends; that of the session where it is None.
            reason: superseded, compromised, lost or ended.

        Raises: CustodyError. To go on, open the workspace with a session of the new signer.
        """
        old = old or self._session.signer
        if old.public_key == new.public_key:
            raise CustodyError("custody.key_known", key_id=new.public_key.key_id)
        # a cosigner whose key ends, or takes over, signs in its other part already
        others = tuple(each for each in self._session.cosigners if each.public_key not in (old.public_key, new.public_key))
        session = replace(self._session, signer=old, cosigners=(new, *others))
        with self._objects.working(), self._log.writing(session=session, successor=new) as appender:
            change = rotation(old, new, index=appender.next_index, ended=appender.ended_keys, reason=reason)
            return self._append_key_change(appender, change)

    def revoke_key(self, key_id: str, reason: str, effective: int | None = None) -> CustodyEvent:
        """Record that a key of this case ends, by whoever's session this is.

        Args:
            key_id: id of the key, 64 hex digits.
            reason: superseded, compromised, lost or ended.
            effective: tree size from which on nothing by it counts, such as the last size before it was stolen; that
                after this event where it is None. A key of this session cannot end earlier.

        Raises: CustodyError.
        """
        with self._objects.working(), self._log.writing() as appender:
            change = revocation(
                key_id,
                reason=reason,
                effective=effective,
                index=appender.next_index,
                ended=appender.ended_keys,
                known=[each.public_key.key_id for each in appender.reader.keys(self.id)],
                own=[each.public_key.key_id for each in self._session.keys],
            )
            return self._append_key_change(appender, change)

    def _append_key_change(self, appender: Appender, change: KeyChange) -> CustodyEvent:
        stored = self._objects.add_bytes(change.to_bytes())
        return appender.append("key_rotated", outputs=[NewFile(folder="records", name=KEY_CHANGE, file=stored)])

    def rehearse_sealing(self, statement: bytes, *, expected_size: int) -> tuple[CustodyEvent, bytes]:
        """The `packaged` event of a sealed statement, and the signed checkpoint after it; neither is recorded.

        For `geoevidence.package`, which verifies the package with them first. Raises CustodyError when the log has
        grown beyond `expected_size` since the statement was made.
        """
        with self._objects.working():
            stored = self._objects.add_bytes(statement)
            with self._log.rehearsing(expected_size=expected_size) as appender:
                event = appender.append("packaged", outputs=[NewFile(folder="seal", name="statement.dsse", file=stored)])
                after = appender.signed_checkpoint()
        return event, after

    def record_sealing(self, statement: bytes, event: CustodyEvent, *, expected_size: int) -> None:
        """Record the `packaged` event that `rehearse_sealing` gave for this statement.

        Raises: CustodyError when the log has grown beyond `expected_size` since then.
        """
        with self._objects.working():
            self._objects.add_bytes(statement)
            with self._log.writing(expected_size=expected_size) as appender:
                appender.append_signed(event)

    def record_export(self, redaction: bytes) -> CustodyEvent:
        """The `exported` event of a redacted copy; for `geoevidence.package` only. redaction: bytes of its redaction.dsse."""
        with self._objects.working():
            stored = self._objects.add_bytes(redaction)
            with self._log.writing() as appender:
                return appender.append("exported", outputs=[NewFile(folder="seal", name="redaction.dsse", file=stored)])

    def record_anchor(
        self, checkpoint: bytes, stamps: Sequence[bytes], cosignatures: Sequence[bytes], *, witnesses: Sequence[WitnessLabel]
    ) -> CustodyEvent:
        """The `anchored` event of evidence over a checkpoint of this log; for `geoevidence.custody.anchoring` only."""
        files = [("checkpoint.note", checkpoint)]
        files += [(f"time-{n}.tsr", data) for n, data in enumerate(stamps, start=1)]
        files += [(f"witness-{n}.cosig", data) for n, data in enumerate(cosignatures, start=1)]
        with self._objects.working():
            outputs = [NewFile(folder="records", name=name, file=self._objects.add_bytes(data)) for name, data in files]
            with self._log.writing() as appender:
                event = appender.append("anchored", outputs=outputs)
                appender.register_keys(CaseKey(public_key=each.public_key, label=each.label) for each in witnesses)
                return event


def laid_name(path: str, *, one_event: bool) -> PurePosixPath:
    """Where a process finds an input: by its path in the case, or by its name at its source where all are of one event."""
    parts = PurePosixPath(path).parts
    return PurePosixPath(*(parts[2:] if one_event else parts))


class Derivation:
    """A process under way. folder: its inputs, read-only; out: where it writes; stored: the result, once committed."""

    def __init__(
        self,
        case: Case,
        process: str,
        inputs: Sequence[EvidenceItem],
        parameters: Mapping[str, Any],
        seed: int | None,
        scratch: Path,
    ) -> None:
        self._case = case
        self._process = process
        self._inputs = tuple(inputs)
        self._parameters = parameters
        self._seed = seed
        self.folder = scratch / "in"
        self.out = scratch / "out"
        self.stored: StoredResult | None = None
        try:
            self.folder.mkdir(parents=True)
            self.out.mkdir()
            self._laid = [(self._lay(item), item) for item in self._inputs]
        except OSError as error:
            raise storage_error(error, scratch) from error
        self._stamps = [_stamp(path) for path, _ in self._laid]

    @property
    def inputs(self) -> tuple[EvidenceItem, ...]:
        return self._inputs

    def path_of(self, item: EvidenceItem) -> Path:
        """Where an input lies under `folder`."""
        return self.folder / self._name(item)

    def _name(self, item: EvidenceItem) -> PurePosixPath:
        return laid_name(item.path, one_event=len({each.id.rpartition("-")[0] for each in self._inputs}) == 1)

    def _lay(self, item: EvidenceItem) -> Path:
        source, target = self._case.path_of(item), self.path_of(item)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # no hard links on this file system
            shutil.copyfile(source, target)
            target.chmod(0o444)
        return target

    def commit(self, result: ProcessResult) -> StoredResult:
        """Store every product and `result.json`, and record `derived` and, with findings, `found`, together.

        Raises: CustodyError when the folder and the result do not agree, or cannot be stored; DigestMismatchError
            when an input was changed meanwhile. Nothing is recorded then.
        """
        if self.stored is not None:
            raise CustodyError("custody.committed_twice", process=self._process)
        case, objects = self._case, self._case._objects
        self._require_same_request(result)
        if [_stamp(path) for path, _ in self._laid] != self._stamps:
            raise DigestMismatchError("custody.input_changed", process=self._process)
        raw_result = dumps(result.to_dict())
        names = self._product_names(result, raw_result)
        files = [NewFile(folder="derived", name=name, file=objects.add_file(self.out / name)) for name in names]
        files.append(NewFile(folder="derived", name=RESULT, file=objects.add_bytes(raw_result)))
        files.sort(key=lambda new: sort_key(new.name))
        process = describe_process(self._process, dict(result.parameters), result.seed)
        with case._log.writing() as appender:
            event = appender.append("derived", inputs=[FileRef.of(item) for item in self._inputs], outputs=files, process=process)
            if result.findings:
                made = next(ref for ref in event.outputs if ref.path == f"derived/{event.event_id}/{RESULT}")
                record = {
                    "schema": FINDINGS_SCHEMA,
                    "result": made.item,
                    "folder": f"derived/{event.event_id}/",
                    "findings": [finding.to_dict() for finding in result.findings],
                }
                findings = NewFile(folder="records", name="findings.json", file=objects.add_bytes(dumps(record)))
                appender.append("found", inputs=[made], outputs=[findings])
        self.stored = next(each for each in case.results() if each.event.event_id == event.event_id)
        return self.stored

    def _require_same_request(self, result: ProcessResult) -> None:
        if result.process != self._process:
            raise CustodyError("custody.other_process", expected=self._process, found=result.process)
        for name, value in self._parameters.items():
            # compared as recorded: a tuple and a list are the same array
            if name not in result.parameters or dumps(result.parameters[name]) != dumps(value):
                raise CustodyError("custody.other_parameters", process=self._process, parameter=name)
        if self._seed is not None and result.seed != self._seed:
            raise CustodyError("custody.other_parameters", process=self._process, parameter="seed")

    def _product_names(self, result: ProcessResult, raw_result: bytes) -> list[str]:
        """Names of the products, checked against the folder: nothing more, nothing less, plain files only."""
        listed = [product.path for product in result.products]
        if len({fold(name) for name in [*listed, RESULT]}) != len(listed) + 1:
            raise CustodyError("custody.product_twice", process=self._process)
        for name in listed:
            if name_problem(name) is not None:
                raise CustodyError("custody.product_name", name=shown(name))
        present = set()
        for path in sorted(self.out.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise CustodyError("custody.product_not_a_file", name=path.relative_to(self.out).as_posix())
            if path.is_file():
                present.add(path.relative_to(self.out).as_posix())
        if RESULT in present:
            if (self.out / RESULT).read_bytes() != raw_result:
                raise CustodyError("custody.result_differs", process=self._process)
            present.discard(RESULT)
        for name in sorted(set(listed) ^ present):
            raise CustodyError("custody.product_missing" if name in listed else "custody.product_unlisted", name=name)
        return sorted(listed, key=sort_key)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
