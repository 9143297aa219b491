"""The numbered checks of a sealed package, and the five verdicts they lead to (docs/formats/verify.md).

    1 intact      1.1 container  1.2 paths  1.3 layout  1.4 seal  1.5 manifests  1.6 listing  1.7 files
                  1.8 tags  1.9 tree  1.10 closing
    2 signed      2.1 keys  2.2 statement_signature  2.3 checkpoint_signatures  2.4 event_signatures
                  2.5 other_signatures  2.6 code  2.7 trusted_keys
    3 time        3.1 claimed_order  3.2 claimed_past  3.3 time_stamps  3.4 cosignatures
                  3.5 time_evidence  3.6 attested
    4 continuous  4.1 events  4.2 log_root  4.3 packaged  4.4 chains  4.5 anchors  4.6 inputs  4.7 items
                  4.8 disclosures  4.9 findings  4.10 attestations  4.11 device_logs  4.12 key_changes
                  4.13 rollback  4.14 witnesses  4.15 withheld  4.16 supplement_of
    5 recomputes  5.1 recompute  5.2 recompute_trusted

The order of work is that of what vouches for what: documents of seal/ and keys, then the log (its
leaves one by one), then all other files in one reading, then what the log says about files, then time,
then trust. A check that cannot be made because an earlier one failed is `not_checked` and says which
one. Every failure names the file. Memory grows with the number of leaves and, by 40 bytes, of files;
not with their size. `bag` has 1.1 to 1.9, `continuity` 4.2 to 4.15, `history` one log, `devices` those of devices,
`evidence` time stamps and witnesses, `holders` the policy, `sealed` what supplements have too.

What this does not prove: that a picture shows the truth, who held a key, when anything happened
that nobody attests, file modes and dates (they are not evidence and not covered).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Optional, Union

from geoevidence.trust import manifest
from geoevidence.trust.bag import PACKAGE, REDACTED, Layout, Progress
from geoevidence.trust.container import Container, open_container
from geoevidence.trust.continuity import SOURCE, Continuity, Output
from geoevidence.trust.devices import DeviceLog
from geoevidence.trust.digests import has_fast_sm3, short_code
from geoevidence.trust.errors import FormatError, GeoEvidenceError, InputError
from geoevidence.trust.events import Event, Leaf, parse_leaf
from geoevidence.trust.history import MOST_OUTPUTS, Entry, History
from geoevidence.trust.holders import Use
from geoevidence.trust.notes import LogCheckpoint, SignedNote, parse_checkpoint, parse_proof
from geoevidence.trust.policy import DEMONSTRATION, LOG_ROLE, PACKAGE_ROLE, RECOMPUTE_ROLE, REDACTION_ROLE, TrustPolicy
from geoevidence.trust.recomputed import covers
from geoevidence.trust.sealed import Record, Settings, utc_text
from geoevidence.trust.signatures import parse_envelope
from geoevidence.trust.supplement import PackageFacts, verify_supplement
from geoevidence.trust.verdict import PACKAGE_CHECKS, Claim, Ledger, VerificationReport

SM3_LIMIT = 50_000_000
"""Bytes that are worth two minutes of SM3 in pure Python; see docs/formats/verify.md."""
_CODE = re.compile(r"[0-9A-HJKMNP-TV-Z]{16}", re.ASCII)
_LOOKALIKES = str.maketrans("OIL", "011")


def verify_package(
    path: Union[str, "os.PathLike[str]"],
    *,
    policy: Optional[TrustPolicy] = None,
    known_checkpoints: Sequence[bytes] = (),
    code: Optional[str] = None,
    supplements: Sequence[Union[str, "os.PathLike[str]"]] = (),
    package: Union[str, "os.PathLike[str]", None] = None,
    now: Optional[datetime] = None,
    progress: Optional[Progress] = None,
    slow: bool = False,
    sm3_limit: Optional[int] = None,
) -> VerificationReport:
    """Check a package, a redacted copy or a supplement, a folder or a zip of it, against everything it states.

    Never raises on a bad package: the report holds every check. Reads each file once, in
    blocks, in two threads; the answer does not depend on them. Writes nothing.

    Args:
        path: the package.
        policy: trusted keys, authorities and required verdicts; None: `DEMONSTRATION`, which trusts nobody.
        known_checkpoints: checkpoint notes of this log, kept outside the package.
        code: short code of the checkpoint after sealing, from a paper record.
        supplements: paths of supplements to this package, verified with it.
        package: path of the package that a supplement at `path` speaks of.
        now: the verifier's clock, aware; None: claimed times are not compared with it.
        progress: called while files are read.
        slow: compare SM3 whatever it costs.
        sm3_limit: bytes; the payload of a larger package is compared by SHA-256 alone. None: no limit where the system's
            OpenSSL has SM3 or with `slow`, else `SM3_LIMIT`.

    Raises: InputError where there is no package at a path; FormatError for a checkpoint or code that is none.
    """
    known = [parse_checkpoint(each, where=f"{SOURCE} {n}") for n, each in enumerate(known_checkpoints, 1)]
    if now is not None and now.tzinfo is None:
        raise ValueError("now must be an aware time")
    if sm3_limit is None and not slow and not has_fast_sm3():
        sm3_limit = SM3_LIMIT
    settings = Settings(DEMONSTRATION if policy is None else policy, None if now is None else utc_text(now), progress, sm3_limit)
    paper = None if code is None else _paper_code(code)
    with open_container(path) as container:
        if _is_supplement(container):
            if package is None:
                return verify_supplement(container, settings, None).report
            with open_container(package) as other:
                if _is_supplement(other):
                    raise InputError("trust.not_a_package", path=str(package))
                of = _Package(other, settings._replace(progress=None), [], None).facts_for_supplements()
            return verify_supplement(container, settings, of).report
        if package is not None:
            raise InputError("trust.not_a_supplement", path=str(path))
        return _Package(container, settings, known, paper).report(supplements)


def _paper_code(code: str) -> str:
    """A short code as it is printed. Raises FormatError."""
    letters = re.sub(r"[\s-]", "", code).upper().translate(_LOOKALIKES)
    if not _CODE.fullmatch(letters):
        raise FormatError("trust.bad_code", found=code[:40])
    return "-".join(letters[start : start + 4] for start in range(0, 16, 4))


def _stated_kind(container: Container) -> Optional[str]:
    """What the statement says that this is, or None where there is none that can be read."""
    try:
        with container.open(manifest.STATEMENT) as stream:
            data = stream.read(manifest.MAX_DOCUMENT)
        return manifest.statement_kind(parse_envelope(data).payload)
    except (OSError, GeoEvidenceError):
        return None


def _is_supplement(container: Container) -> bool:
    """True where the statement says so, or there is none but a supplement.json."""
    kind = _stated_kind(container)
    if kind is not None:
        return kind == manifest.SUPPLEMENT_TYPE
    try:
        with container.open(manifest.SUPPLEMENT):
            return True
    except OSError:
        return False


class _Package(Continuity):
    """One verification of a package or a redacted copy."""

    def __init__(
        self,
        container: Container,
        settings: Settings,
        known: Sequence[tuple[LogCheckpoint, SignedNote]],
        paper: Optional[str],
    ) -> None:
        super().__init__(container, settings)
        self.known, self.paper = known, paper
        self.package_of: Optional[PackageFacts] = None
        self.anchors: list[tuple[int, str, Event]] = []
        self.deferred: list[tuple[str, Ledger]] = []
        self.evidence_lacking = False

    # ---- the order of work ---------------------------------------------------------------------------

    def report(self, supplements: Sequence[Union[str, "os.PathLike[str]"]]) -> VerificationReport:
        if not self.container.readable:
            # it lists no file; listing says why
            list(self.container.files(lambda d: self.ledger.fail("container", d.subject, d.detail, found=d.found)))
            return self.finish(PACKAGE_CHECKS, {"files": 0, "bytes": 0})
        self._read_documents()
        self._check_log()
        self.bag.merge(self.layout)
        self._check_bag()
        self._check_other_signatures()
        self.package_of = self._facts_for_supplements()
        for path in supplements:
            with open_container(path) as container:
                if _stated_kind(container) not in (manifest.SUPPLEMENT_TYPE, None):
                    raise InputError("trust.not_a_supplement", path=str(path))
                self._take_supplement(container)
        self.check_continuous()
        self._check_time()
        self._check_recompute()
        self._check_code()
        self._check_trusted()
        self.ledger.close("container", self.container.label)
        return self.finish(PACKAGE_CHECKS, self._facts())

    def facts_for_supplements(self) -> PackageFacts:
        """What a supplement must speak of, without verifying more than the signature of the statement."""
        if self.container.readable:
            self._read_documents()
        return self._facts_for_supplements()

    def _facts_for_supplements(self) -> PackageFacts:
        statement = self.statement if self.ledger.passed("statement_signature") else None
        proof = self.bag.data.get(manifest.PROOF) if self.proof is not None else None
        size = self.after.tree_size if self.after is not None else 0
        return PackageFacts(self.container.label, statement, self.bag.digests.get(manifest.STATEMENT), proof, size)

    def _take_supplement(self, container: Container) -> None:
        assert self.package_of is not None
        made = verify_supplement(container, self.settings._replace(progress=None), self.package_of, beside=True)
        self.supplements.append(made.report)
        # a supplement that is broken, or of another package, says nothing here
        if not made.report.failures and made.report.verdicts["continuous"] == "passed":
            self.evidence.all += made.testimonies
            self.records += made.records

    # ---- documents: 1.2, 1.3, 1.4, 2.1, 2.2, 2.3 ----------------------------------------------------------

    def _read_documents(self) -> None:
        bag, ledger = self.bag, self.ledger
        self.statement = self.open_document(manifest.STATEMENT, manifest.parse_statement)
        with_redaction = bag.read(manifest.REDACTION, "seal") is not None
        self.kind = REDACTED if with_redaction else PACKAGE
        # where the statement cannot be read, what is there says which version it is likely to be
        guess = 2 if bag.read(manifest.CLOSING, "seal") is not None else 1
        self.version = self.statement.version if self.statement is not None else guess
        self.layout = Layout(self.kind, self.version)
        bag.scan(self.layout)
        self.read_seal()
        # 1.4
        if self.kind == REDACTED:
            self.redaction = self.open_document(manifest.REDACTION, manifest.parse_redaction)
        self.closing = self.open_document(manifest.CLOSING, manifest.parse_closing) if self.version == 2 else None
        self._read_proof()
        for path in manifest.SEAL_FILES:
            if path not in bag.data:
                ledger.skip_because("seal", path, "layout")
        self.check_keys(manifest.KEYS)
        sealed = self.statement.time_claimed if self.statement else ""
        leaf = self.proof.index if self.proof else 0
        # 2.2
        if self.statement is None:
            ledger.skip_because("statement_signature", manifest.STATEMENT, "seal")
        self.check_envelope("statement_signature", manifest.STATEMENT, role=PACKAGE_ROLE, claimed=sealed, leaf=leaf)
        if self.kind == REDACTED and self.redaction is None:
            ledger.skip_because("statement_signature", manifest.REDACTION, "seal")
        if self.redaction is not None:
            redacted = self.redaction.time_claimed
            self.check_envelope("statement_signature", manifest.REDACTION, role=REDACTION_ROLE, claimed=redacted, leaf=leaf)
        ledger.close("statement_signature", manifest.STATEMENT)
        # 2.3
        data = bag.read(manifest.CHECKPOINT, "checkpoint_signatures")
        if data is None:
            ledger.skip_because("checkpoint_signatures", manifest.CHECKPOINT, "layout")
        else:
            self.before = self._check_note(manifest.CHECKPOINT, data, sealed)
        if self.proof is not None and self.after is not None:
            self._check_note(manifest.PROOF, self.proof.checkpoint, sealed)
        else:
            ledger.skip_because("checkpoint_signatures", manifest.PROOF, "seal")
        ledger.close("checkpoint_signatures", manifest.CHECKPOINT)

    def _read_proof(self) -> None:
        data = self.bag.read(manifest.PROOF, "seal")
        if data is None:
            return
        try:
            proof = parse_proof(data, where=manifest.PROOF)
            after, note = parse_checkpoint(proof.checkpoint, where=manifest.PROOF)
            if len(note.signatures) != 1:
                raise FormatError("trust.note_one_signature", where=manifest.PROOF, found=len(note.signatures))
            if proof.extra is None:
                raise FormatError("trust.proof_syntax", where=manifest.PROOF)
            packaged = parse_leaf(proof.extra, where=manifest.PROOF)
        except GeoEvidenceError as error:
            self.ledger.fail_by("seal", manifest.PROOF, error)
        else:
            self.proof, self.after, self.packaged = proof, after, packaged

    def _check_note(self, subject: str, data: bytes, sealed: str) -> Optional[LogCheckpoint]:
        """The checkpoint of a note with one valid signature; failures are recorded."""
        try:
            checkpoint, note = parse_checkpoint(data, where=subject)
            if len(note.signatures) != 1:
                raise FormatError("trust.note_one_signature", where=subject, found=len(note.signatures))
            key = self.holders.by_note_name(note.signatures[0].name)
            if key is None and self.ledger.spoilt("keys"):
                self.ledger.skip_because("checkpoint_signatures", subject, "keys")
                return None
            if key is None:
                raise FormatError("trust.key_unknown", where=subject, key_id=note.signatures[0].name)
            note.verify(key)
        except GeoEvidenceError as error:
            self.ledger.fail_by("checkpoint_signatures", subject, error)
            return None
        self.uses.append((self.holders, Use(key.key_id, LOG_ROLE, sealed, checkpoint.tree_size - 1, subject)))
        return checkpoint

    # ---- the log: 2.4, 3.1, 4.1, 4.4 to 4.6 ------------------------------------------------------------------

    def _check_log(self) -> None:
        ledger = self.ledger
        history = History(
            manifest.LEAVES,
            ledger=ledger,
            holders=self.holders,
            hasher=self.hasher,
            case=self.statement.case if self.statement else None,
            most_outputs=MOST_OUTPUTS if self.version == 2 else None,
            with_sm3=self.bag.sm3,
        )
        with self.bag.lines(manifest.LEAVES, longest=manifest.MAX_LEAF) as lines:
            if lines is None:
                for name in ("events", "event_signatures", "chains", "anchors", "inputs"):
                    ledger.skip_because(name, manifest.LEAVES, "layout")
                return
            history.read(lines, self._visit)
        self.history = history
        # 4.1
        if self.statement is None:
            ledger.skip_because("events", manifest.STATEMENT, "seal")
        if self.packaged is not None:
            event_id = self.packaged.event.event_id
            if history.index_of(event_id) is not None:
                ledger.fail("packaged", manifest.PROOF, "trust.event_twice", where=manifest.LEAVES, event_id=event_id)
            history.examine(self.packaged, history.size, manifest.PROOF)
        self.uses += [(self.holders, use) for use in history.uses]
        ledger.close("events", manifest.LEAVES, history.size)
        ledger.close("event_signatures", manifest.LEAVES, history.size - history.withheld)
        ledger.close("claimed_order", manifest.LEAVES, len(history.entries))
        if ledger.failed("events"):
            for name in ("chains", "anchors", "inputs"):
                ledger.skip_because(name, manifest.LEAVES, "events")
        else:
            # 4.6
            bad = history.bad_inputs()
            if bad:
                history.name_inputs(bad, self._leaves_with_packaged)
        ledger.close("chains", manifest.LEAVES, history.size)
        ledger.close("anchors", manifest.LEAVES, history.size)
        ledger.close("inputs", manifest.LEAVES, history.input_count)

    def _visit(self, leaf: int, subject: str, parsed: Leaf) -> None:
        """Note what later checks need of an event, while it is in memory."""
        event = parsed.event
        folder = f"records/{event.event_id}/"
        if event.type == "derived":
            self._check_attestation(parsed)
            result = next((each for each in event.outputs if each.path == f"derived/{event.event_id}/result.json"), None)
            if result is not None:
                self.results[result.item] = result
        elif event.type == "found":
            self.findings += [Output(leaf, each) for each in event.outputs if each.path == f"{folder}findings.json"]
        elif event.type == "anchored":
            self.anchors.append((leaf, f"{subject} {event.event_id}", event))
        elif event.type == "key_rotated":
            self.key_events.append((leaf, f"{subject} {event.event_id}", parsed))
        elif event.type == "received" and event.raw["process"] and event.raw["process"]["tool"] == "custody.sync":
            self.devices.append(DeviceLog(leaf, f"{subject} {event.event_id}", event, self.bag, self.policy))

    # ---- 4.10, and 2.5 of attestations -------------------------------------------------------------------

    def _check_attestation(self, leaf: Leaf) -> None:
        if self.version == 1:
            return
        path = manifest.attestation_file(leaf.event.event_id)
        self.attested_events.add(leaf.event.event_id)
        ledger = Ledger()
        data = self.bag.read(path, "attestations", limit=2 * manifest.MAX_LEAF)
        if data is None:
            return
        del self.bag.data[path]
        try:
            envelope = parse_envelope(data, where=path)
            if envelope.payload_type != manifest.STATEMENT_PAYLOAD_TYPE or envelope.payload != manifest.attestation_payload(leaf):
                raise FormatError("trust.attestation_differs", where=path)
        except GeoEvidenceError as error:
            ledger.fail_by("attestations", path, error)
            ledger.skip_because("other_signatures", path, "attestations")
        else:
            signers = self.envelopes.get(manifest.STATEMENT)
            self.check_signatures(
                ledger, "other_signatures", path, envelope, role=PACKAGE_ROLE,
                claimed=self.statement.time_claimed if self.statement else "", leaf=self.proof.index if self.proof else 0,
                only=None if signers is None else [each.keyid for each in signers.signatures],
            )  # fmt: skip
        if ledger.sorted():
            self.deferred.append((path, ledger))

    # ---- 1.5 to 1.10 ---------------------------------------------------------------------------------------

    def _check_bag(self) -> None:
        bag, ledger = self.bag, self.ledger
        signed = ledger.passed("statement_signature")
        cause = "seal" if self.statement is None else "statement_signature"
        if self.kind == REDACTED:
            stated = self.redaction.subjects if signed and self.redaction is not None else None
            bag.check_manifests(self.layout, stated, cause, manifest.REDACTION)
        else:
            stated = self.statement.subjects if signed and self.statement is not None else None
            bag.check_manifests(self.layout, stated, cause, manifest.STATEMENT)
        # 1.8
        speaker = self.redaction if self.kind == REDACTED else self.statement
        contents = bag.contents
        bag_info = None
        if speaker is not None and signed:
            bag_info = speaker.bag_info(contents.payload_size, contents.payload_files)
        bag.check_tags(bag_info, cause)
        # 1.9
        root = (self.statement.package_root, self.statement.items) if signed and self.statement is not None else None
        bag.check_tree(self.layout, root, manifest.STATEMENT)
        for path, deferred in self.deferred:
            if path in contents.blamed:
                for name in {check.name for check in deferred.sorted()}:
                    ledger.skip_because(name, path, "files")
            else:
                for check in deferred.sorted():
                    ledger.add(check)

    def _check_other_signatures(self) -> None:
        """2.5 of the closing and of seal/recompute.dsse; then 1.10, which rests on it, and 1.4 of the rest of seal/."""
        ledger, name = self.ledger, "other_signatures"
        sealed = self.statement.time_claimed if self.statement else ""
        leaf = self.proof.index if self.proof else 0
        statement = self.envelopes.get(manifest.STATEMENT)
        signers = None if statement is None else [each.keyid for each in statement.signatures]
        if self.version == 2:
            if self.closing is None:
                ledger.skip_because(name, manifest.CLOSING, "seal" if manifest.CLOSING in self.bag.data else "layout")
            valid = self.check_envelope(
                name, manifest.CLOSING, role=PACKAGE_ROLE, claimed=sealed, leaf=leaf, only=signers, all_of=True
            )
            ignored = [manifest.REDACTION]
            self.check_closing(self.closing, manifest.CLOSING, valid, name, self.statement, ignored=ignored)
        if self.kind == REDACTED:
            valid = ledger.passed("statement_signature")
            self.check_closing(self.redaction, manifest.REDACTION, valid, "statement_signature", self.statement)
        record = self.open_document(manifest.RECOMPUTE, manifest.parse_recompute)
        if record is not None:
            # who may say so is asked by 5.2, not by 2.7
            if self.check_envelope(name, manifest.RECOMPUTE, role="", claimed="", leaf=leaf):
                ids = tuple(each.keyid for each in self.envelopes[manifest.RECOMPUTE].signatures)
                self.records.append(Record(record, ids, self.holders, manifest.RECOMPUTE))
        elif manifest.RECOMPUTE in self.bag.data:
            ledger.skip_because(name, manifest.RECOMPUTE, "seal")
        ledger.close(name, manifest.CLOSING, None)
        ledger.close("closing", manifest.CLOSING, len(self.bag.contents.seal))
        self._read_seal_evidence()
        ledger.close("seal", "seal/", len(self.bag.contents.seal))

    def _read_seal_evidence(self) -> None:
        """3.3 and 3.4 of seal/, 1.4 where a file is no evidence at all."""
        devices = (use for device in self.devices for use in device.uses)
        signing = [*(use for _, use in self.uses), *devices]
        self.evidence.own = {use.key_id for use in signing if use.role != REDACTION_ROLE}
        for path in self.bag.contents.seal:
            kind = manifest.evidence_number(path[5:])
            data = self.bag.data.get(path)
            if kind is None or data is None:
                continue
            if self.proof is None or self.after is None:
                self.ledger.skip_because("time_stamps" if kind[0] == "time" else "cosignatures", path, "seal")
            elif kind[0] == "time":
                message = self.bag.data[manifest.PROOF]
                size = self.after.tree_size
                self.evidence.stamp(data, message, path, size=size, message_file=manifest.PROOF, strict="seal")
            else:
                self.evidence.cosignature(data, self.after.to_text(), path, size=self.after.tree_size, strict="seal")

    # ---- 3 time, 4.14 ----------------------------------------------------------------------------------------

    def _check_time(self) -> None:
        ledger, history, evidence = self.ledger, self.history, self.evidence
        for leaf, where, event in self.anchors:
            self._check_anchored(leaf, where, event)
        if not ledger.passed("packaged"):
            # a checkpoint that is not of this log attests nothing of it
            evidence.all = [each for each in evidence.all if each.leaf is not None]
        # 3.3, 3.4
        for name in ("time_stamps", "cosignatures"):
            ledger.close(name, manifest.PROOF, len(evidence.all))
        # 3.5
        entries: Iterable[Entry] = () if history is None else history.entries
        # what is withheld or lacking cannot be compared
        lacking = self.evidence_lacking or (history is not None and history.withheld > 0)
        lacking = lacking or ledger.failed("events")
        for entry in entries:
            if entry.attested_time is None or lacking:
                continue
            if entry.attested_time not in evidence.times_before(entry.anchored):
                where = f"{entry.subject} {entry.event_id}"
                ledger.fail("time_evidence", where, "trust.attested_time", found=entry.attested_time)
        if history is None or ledger.failed("events"):
            ledger.skip_because("time_evidence", manifest.LEAVES, "layout" if history is None else "events")
        ledger.close("time_evidence", manifest.LEAVES, len(self.anchors))
        # claims, with what is attested of each; then 3.6, 3.2
        for entry in entries:
            after, before = evidence.interval(entry.leaf, entry.anchored)
            self.claims.append(Claim(entry.event_id, entry.type, entry.role, entry.time_claimed, after, before))
            if _conflict(after, before):
                ledger.skip("attested", entry.event_id, "trust.attested_conflict", after=after, before=before)
        self._check_attested()
        self.check_past(((each.event_id, each.time_claimed) for each in self.claims), manifest.LEAVES)
        # 4.14
        witnesses = evidence.witnesses(self.after.tree_size) if self.after is not None else set()
        self.facts["witnesses"] = len(witnesses)
        if len(witnesses) < self.policy.witness_threshold:
            needed = self.policy.witness_threshold
            ledger.skip("witnesses", manifest.PROOF, "trust.witnesses_few", needed=needed, found=len(witnesses))
        ledger.close("witnesses", manifest.PROOF, len(witnesses))

    def _check_anchored(self, leaf: int, where: str, event: Event) -> None:
        """3.5: the checkpoint is one of this log; 3.3 and 3.4: the evidence is over it."""
        ledger, history = self.ledger, self.history
        folder = f"records/{event.event_id}/"
        names = [each.path[len(folder) :] for each in event.outputs if each.path.startswith(folder)]
        if len(names) != len(event.outputs) or not _anchored_names(names) or event.inputs or event.raw["process"] is not None:
            ledger.fail("time_evidence", where, "trust.anchored_event")
            return
        data = [self._item(each) for each in event.outputs]
        for each, content in zip(event.outputs, data):
            self.evidence_lacking |= content is None
            if content is None and not (self.kind == REDACTED and not self._exists(f"data/{each.path}")):
                ledger.skip_because("time_evidence", f"data/{each.path}", "items")
        note = data[0]
        if note is None or history is None:
            return
        subject = f"data/{event.outputs[0].path}"
        try:
            checkpoint, signed = parse_checkpoint(note, where=subject)
            if len(signed.signatures) != 1:
                raise FormatError("trust.note_one_signature", where=subject, found=len(signed.signatures))
            key = self.holders.by_note_name(signed.signatures[0].name)
            if key is None:
                raise FormatError("trust.key_unknown", where=subject, key_id=signed.signatures[0].name)
            signed.verify(key)
        except GeoEvidenceError as error:
            ledger.fail_by("time_evidence", subject, error)
            return
        size = checkpoint.tree_size
        origin = self.before.origin if self.before is not None else checkpoint.origin
        if size > leaf or history.root(size) != checkpoint.root or checkpoint.origin != origin:
            ledger.fail("time_evidence", subject, "trust.anchored_checkpoint", found=f"{checkpoint.origin} {size}")
            return
        for each, content in zip(event.outputs[1:], data[1:]):
            path = f"data/{each.path}"
            if content is None:
                continue
            if each.path.endswith(".tsr"):
                self.evidence.stamp(content, note, path, size=size, leaf=leaf, message_file=subject)
            else:
                self.evidence.cosignature(content, checkpoint.to_text(), path, size=size, leaf=leaf)

    def _check_attested(self) -> None:
        # 3.6
        ledger = self.ledger
        if self.proof is None or self.packaged is None or self.after is None:
            ledger.skip_because("attested", manifest.PROOF, "seal")
            return
        if not ledger.passed("packaged"):
            ledger.skip_because("attested", manifest.PROOF, "packaged")
            return
        anchor = self.packaged.event.anchor
        after, before = self.evidence.interval(self.proof.index, anchor[0] if anchor else 0)
        if before is not None:
            if not _conflict(after, before):
                self.facts["attested_after"], self.facts["attested_before"] = after, before
        elif self.evidence.all:
            for each in self.evidence.all:
                if not each.trusted:
                    ledger.skip("attested", each.subject, each.detail, **each.values)
        if before is None and not ledger.has("attested"):
            ledger.skip("attested", manifest.PROOF, "trust.no_attested")
        ledger.close("attested", manifest.PROOF)

    # ---- 5 recomputes -----------------------------------------------------------------------------------------

    def _check_recompute(self) -> None:
        # 5.1
        ledger = self.ledger
        covered: set[str] = set()
        trusted: set[str] = set()
        partly: set[str] = set()
        known = {f"{each.path}": each for each in self.results.values()}
        for record in self.records:
            document, subject = record.document, record.subject
            if self.statement is not None:
                for field in ("case", "workspace", "package_root"):
                    expected, found = getattr(self.statement, field), getattr(document, field)
                    if found != expected:
                        ledger.fail("recompute", subject, "trust.recompute_other", expected=f"{field} {expected}", found=found)
            believed = self._believes(record)
            for (path, sha256, sm3), result in zip(document.subjects, document.results):
                item = known.get(path)
                withheld = item is None and self.history is not None and self.history.withheld > 0
                if not withheld and (item is None or (item.sha256, item.sm3) != (sha256, sm3)):
                    ledger.fail("recompute", subject, "trust.recompute_result", found=path)
                elif result.status == "differs":
                    ledger.fail("recompute", subject, "trust.recompute_differs", found=path)
                elif item is not None and result.status != "not_run" and (result.quantities or result.files):
                    if not covers(result, self.stated.get(item.item, set())):
                        partly.add(item.item)
                        continue
                    covered.add(item.item)
                    trusted.update([item.item] if believed else [])
        if not self.records:
            for name in ("recompute", "recompute_trusted"):
                if name == "recompute" and manifest.RECOMPUTE in self.bag.data:
                    ledger.skip_because(name, manifest.RECOMPUTE, "seal" if ledger.failed("seal") else "other_signatures")
                else:
                    ledger.skip(name, self.container.label, "trust.no_recompute")
            return
        if self.history is None or ledger.failed("events"):
            ledger.skip_because("recompute", manifest.LEAVES, "events")
        elif not ledger.passed("findings"):
            ledger.skip_because("recompute", manifest.FINDINGS, "findings")
        elif self.findings_lacking or self.history.withheld:
            # a finding that is left out may rest on a result that no record covers
            ledger.skip_because("recompute", manifest.FINDINGS, "withheld")
        subject = ", ".join(record.subject for record in self.records)
        for result_id in sorted(set(self.rested_on) - covered):
            detail = "trust.recompute_numbers" if result_id in partly else "trust.recompute_uncovered"
            ledger.skip("recompute", subject, detail, item=result_id)
        if not covered:
            ledger.skip("recompute", subject, "trust.recompute_nothing")
        ledger.close("recompute", subject, len(covered))
        # 5.2
        if not ledger.passed("recompute"):
            ledger.skip_because("recompute_trusted", subject, "recompute")
        elif not trusted or not set(self.rested_on) <= trusted:
            detail = "trust.policy_none" if self.policy.builtin else "trust.recompute_untrusted"
            ledger.skip("recompute_trusted", subject, detail)
        ledger.close("recompute_trusted", subject, len(trusted))

    def _believes(self, record: Record) -> bool:
        leaf = self.proof.index if self.proof is not None else 0
        for key_id in record.signers:
            use = Use(key_id, RECOMPUTE_ROLE, record.document.time_claimed, leaf, record.subject)
            judged = record.holders.judge(use)
            if judged.holder is not None and not judged.refused:
                return True
        return False

    # ---- 2.6, 2.7, facts -----------------------------------------------------------------------------------------

    def _check_code(self) -> None:
        # 2.6
        ledger = self.ledger
        if self.paper is None:
            ledger.skip("code", manifest.PROOF, "trust.no_code")
        elif self.after is None:
            ledger.skip_because("code", manifest.PROOF, "seal")
        elif short_code(self.after.root) != self.paper:
            ledger.fail("code", manifest.PROOF, "trust.code_differs", expected=self.paper, found=short_code(self.after.root))
        ledger.close("code", manifest.PROOF)

    def _check_trusted(self) -> None:
        """2.7, each use with what is attested of its time."""
        anchored = {entry.leaf: entry.anchored for entry in self.history.entries} if self.history is not None else {}
        timed = []
        for holders, use in self.uses:
            after, before = self.evidence.interval(use.leaf, anchored.get(use.leaf, 0))
            if use.role == REDACTION_ROLE:
                after = before = None
            timed.append((holders, use._replace(after=after, before=before)))
        for device in self.devices:
            _, before = self.evidence.interval(device.leaf, 0)
            timed += [(device.holders, use._replace(before=before)) for use in device.uses]
        self.uses = timed
        self.check_trust(manifest.KEYS)

    def _facts(self) -> dict[str, object]:
        contents = self.bag.contents
        facts: dict[str, object] = {"files": contents.files, "bytes": contents.size, **self.facts}
        if self.statement is not None:
            for name in ("case", "workspace", "software", "time_claimed", "demonstration"):
                facts[name] = getattr(self.statement, name)
            facts["version"] = self.statement.version
        if self.history is not None:
            facts["leaves"], facts["withheld"] = self.history.size, self.history.withheld
        if self.redaction is not None:
            facts["files_withheld"], facts["reason"] = self.redaction.files_withheld, self.redaction.reason
        if self.after is not None:
            facts["tree_size"], facts["root"] = self.after.tree_size, self.after.root.hex()
            facts["short_code"] = short_code(self.after.root)
        return facts


def _conflict(after: Optional[str], before: Optional[str]) -> bool:
    """True where trusted evidence leaves no time for an event: one of the clocks is wrong."""
    return after is not None and before is not None and after > before


def _anchored_names(names: Sequence[str]) -> bool:
    """True for checkpoint.note, then time stamps, then cosignatures, each numbered from 1, at least one."""
    stamps = sum(1 for name in names if name.endswith(".tsr"))
    witnesses = len(names) - 1 - stamps
    expected = ["checkpoint.note"]
    expected += [manifest.time_file(n, folder="") for n in range(1, stamps + 1)]
    expected += [manifest.witness_file(n, folder="") for n in range(1, witnesses + 1)]
    return list(names) == expected and len(names) > 1 and max(stamps, witnesses) <= manifest.MOST_EVIDENCE
