"""Seals a case into a package that verifies without us (docs/formats/package.md).

All documents are made first, from the log; then the files are copied out of the store, in the order of the package,
each compared with its digest in the log while it is copied. The `packaged` event is signed but not yet recorded, the
seal made with it, and the whole verified by the kernel that a stranger runs: only what verifies is recorded in the log,
byte for byte as it was verified. Evidence by others (time stamps, witnesses) is asked for after that; what cannot be had
is said in the result. What fails before the recording leaves nothing; after it the package that was verified is kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from geoevidence import __version__
from geoevidence.custody import Case, CustodyEvent, Session
from geoevidence.custody.anchoring import Evidence, EvidenceSources, WitnessLabel, seal_evidence
from geoevidence.custody.files import write_durably
from geoevidence.custody.log import sign_envelope
from geoevidence.errors import GeoEvidenceError, PackageError
from geoevidence.package.bag import Content, Copy, NewBag, ShortDocument, Spool, new_bag, storing, tag_files
from geoevidence.package.before import before_recording
from geoevidence.package.crate import crate_parts
from geoevidence.package.draft import PackageDraft, draft
from geoevidence.package.instructions import verify_text
from geoevidence.package.record import PaperRecord
from geoevidence.trust.archive import sort_key
from geoevidence.trust.canonical import dumps
from geoevidence.trust.checks import verify_package
from geoevidence.trust.digests import FileDigests, short_code
from geoevidence.trust.events import parse_leaf
from geoevidence.trust.manifest import (
    BEFORE_RECORDING,
    CHECKPOINT,
    CLOSING,
    CRATE,
    DISCLOSURES,
    FINDINGS,
    KEYS,
    LEAVES,
    PROOF,
    RECOMPUTE,
    STATEMENT,
    STATEMENT_PAYLOAD_TYPE,
    Closing,
    ItemLine,
    NamedKey,
    RecomputeRecord,
    Statement,
    attestation_file,
    attestation_payload,
    item_leaf,
    item_line_bytes,
    keys_bytes,
    time_file,
    witness_file,
)
from geoevidence.trust.merkle import RootBuilder, inclusion_proof, leaf_hash, tree_root
from geoevidence.trust.notes import TlogProof, parse_checkpoint
from geoevidence.types import Message, Progress, no_progress, utc_text

SOFTWARE = f"geoevidence {__version__}"
PACKAGE_FINDINGS_SCHEMA = b"geoevidence.package-findings.v1"

Recompute = Callable[[PackageDraft, str], RecomputeRecord | None]
"""Runs the analyses of a draft again; given the hex root of the package tree that is about to be sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPackage:
    """A package that was sealed and verified.

    record: the printable page beside it. statement_sha256: hex, of `seal/statement.dsse`.
    package_root: hex, of the package tree. short_code: of the log's head after sealing, as the verifier prints it.
    items: files under data/. size: bytes of the folder's files or of the archive.
    event: the `packaged` event. recomputed: status of the record of recomputation in it, or None.
    time_stamps, witnesses: how many are in it. evidence_missing: (who was asked, why nothing of it is in the package).
    """

    path: Path
    record: Path
    statement_sha256: str
    package_root: str
    short_code: str
    items: int
    size: int
    event: CustodyEvent
    recomputed: str | None = None
    time_stamps: int = 0
    witnesses: int = 0
    evidence_missing: tuple[tuple[str, Message], ...] = ()


def seal_folder(
    case: Case,
    out: Path,
    *,
    evidence: EvidenceSources | None = None,
    recompute: Recompute | None = None,
    progress: Progress = no_progress,
) -> SealedPackage:
    """Seal a case into a new folder, and write its paper record to `<out>.record.html`.

    Args:
        evidence: who is asked for time stamps and cosignatures; failing to get them does not fail the sealing.
        recompute: runs the headline numbers again; a record of it goes into the package.

    Raises: PackageError when there is something at `out`, nothing to seal, a number that comes out different, or a
        result that does not verify; DigestMismatchError when a file of the store is not what the log says; CustodyError
        when the log moved meanwhile or nothing can be written. Nothing is recorded in the log then, but for one case: a
        name that was taken while evidence was asked for (`package.recorded_elsewhere` says where the package lies).
    """
    return _seal(case, Path(out), evidence, recompute, progress, archive=False)


def seal_zip(
    case: Case,
    out: Path,
    *,
    evidence: EvidenceSources | None = None,
    recompute: Recompute | None = None,
    progress: Progress = no_progress,
) -> SealedPackage:
    """Seal a case into a new zip archive. As `seal_folder`."""
    return _seal(case, Path(out), evidence, recompute, progress, archive=True)


def record_path(out: Path) -> Path:
    """Where the paper record of a package at `out` is written."""
    return out.with_name(f"{out.name}.record.html")


def _seal(
    case: Case,
    out: Path,
    evidence: EvidenceSources | None,
    recompute: Recompute | None,
    progress: Progress,
    *,
    archive: bool,
) -> SealedPackage:
    out = out.absolute()
    paper = record_path(out)
    if os.path.lexists(paper):
        raise PackageError("package.target_exists", path=paper)
    with new_bag(out, archive=archive) as bag:
        progress("package.stage.prepare", 0.0)
        with storing(out):
            plan = _Plan(draft(case), case, bag.spool, witnesses=() if evidence is None else evidence.labels())
        recomputed = _recompute(plan, case.session, recompute)
        event, after = case.rehearse_sealing(plan.sealed_statement, expected_size=len(plan.draft.events))
        seal = _Seal(plan, case.session, event, after, recomputed)
        _write(bag, plan, seal.bare, progress)
        _require_verified(bag, progress)
        record = PaperRecord.of_seal(
            plan.draft, plan.statement, seal.proof, statement_bytes=plan.sealed_statement, size=plan.size
        )
        with storing(paper):
            write_durably(paper, record.to_html().encode("utf-8"), replace=False)
        try:
            # from here on the package is whole, and exactly this one is recorded
            case.record_sealing(plan.sealed_statement, event, expected_size=len(plan.draft.events))
        except BaseException:
            paper.unlink(missing_ok=True)
            raise
        # the log names this package now: whatever happens to the evidence of others, it must not be lost
        bag.keep()
        try:
            gained, missing = (Evidence(), ()) if not evidence else _gain(bag, plan, seal, evidence, progress)
        except BaseException:
            _back_to_bare(bag, plan, seal)
            bag.publish()
            raise
        bag.publish()
    return SealedPackage(
        path=out,
        record=paper,
        statement_sha256=hashlib.sha256(plan.sealed_statement).hexdigest(),
        package_root=plan.statement.package_root,
        short_code=short_code(parse_checkpoint(after)[0].root),
        items=plan.statement.items,
        size=bag.size,
        event=event,
        recomputed=None if recomputed is None else recomputed.status,
        time_stamps=len(gained.stamps),
        witnesses=len(gained.cosignatures),
        evidence_missing=missing,
    )


def _recompute(plan: _Plan, session: Session, recompute: Recompute | None) -> RecomputeRecord | None:
    """The record of running the numbers again. Raises PackageError when one comes out different."""
    record = None if recompute is None else recompute(plan.draft, plan.statement.package_root)
    for result in () if record is None else record.results:
        for row in result.quantities:
            if row.status == "differs":
                raise PackageError(
                    "package.recompute_differs",
                    finding=row.finding,
                    event=result.event,
                    stated=row.stated,
                    found=row.found or "-",
                    unit=row.unit,
                )
    return record


def _write(bag: NewBag, plan: _Plan, seal: Mapping[str, Content], progress: Progress) -> None:
    """All files, in the order of the package."""
    total = sum(content.digests.size for content in plan.contents.values()) or 1
    done = 0

    def written(size: int) -> None:
        nonlocal done
        done += size
        progress("package.stage.copy", min(done / total, 1.0))

    bag.add({**plan.contents, **seal}, done=written)
    bag.finish()


def _require_verified(bag: NewBag, progress: Progress) -> None:
    """Raises PackageError unless the kernel verifies what was written."""
    progress("package.stage.verify", 0.0)
    report = verify_package(bag.part, progress=lambda _, fraction: progress("package.stage.verify", fraction))
    if not report.verified:
        first = next((check for check in report.checks if check.status != "passed"), None)
        raise PackageError("package.not_verified", check="-" if first is None else f"{first.number} {first.subject}")


def _gain(
    bag: NewBag, plan: _Plan, seal: _Seal, sources: EvidenceSources, progress: Progress
) -> tuple[Evidence, tuple[tuple[str, Message], ...]]:
    """What others say of the seal, put into the package, and why what is missing is; what does not verify stays out."""
    progress("package.stage.evidence", 0.0)
    gained = seal_evidence(sources, seal.proof, leaf_hashes=seal.hashes)
    missing = tuple((name, error_message(error)) for name, error in gained.missing)
    if not gained:
        return gained, missing
    try:
        _write_from_seal(bag, plan, seal.with_evidence(gained))
        _require_verified(bag, progress)
    except GeoEvidenceError as error:
        # does not verify, or the disk is full: the package that was verified before is written again, without the evidence
        _back_to_bare(bag, plan, seal)
        check = error.values.get("check")
        refused = Message(id="package.evidence_refused", values={"reason": str(check)}) if check else error_message(error)
        return Evidence(), (*missing, *((name, refused) for name in gained.answered))
    return gained, missing


def _write_from_seal(bag: NewBag, plan: _Plan, seal: Mapping[str, Content]) -> None:
    """The files of seal/, and those that come after them, written anew."""
    first = min(seal, key=sort_key)
    tail = {path: content for path, content in plan.contents.items() if sort_key(path) > sort_key(first)}
    bag.back_to(first)
    bag.add({**tail, **seal})
    bag.finish()


def _back_to_bare(bag: NewBag, plan: _Plan, seal: _Seal) -> None:
    """The package as it was verified and recorded, without evidence by others."""
    _write_from_seal(bag, plan, seal.bare)


def error_message(error: GeoEvidenceError) -> Message:
    """An error as something to be shown later."""
    values = {name: value if isinstance(value, int) else str(value) for name, value in error.values.items()}
    return Message(id=error.message_id, values=values)


@dataclass(frozen=True, slots=True)
class _Seal:
    """The files of seal/.

    hashes: leaf hashes of the log, the `packaged` event last; proof: bytes of seal/proof.tlog;
    bare: all files, without evidence by others.
    """

    plan: _Plan
    session: Session
    event: CustodyEvent
    after: bytes
    recomputed: RecomputeRecord | None
    hashes: tuple[bytes, ...] = field(init=False)
    proof: bytes = field(init=False)
    bare: Mapping[str, Content] = field(init=False)

    def __post_init__(self) -> None:
        hashes = (*(leaf_hash(each.leaf) for each in self.plan.draft.events), leaf_hash(self.event.leaf))
        checkpoint = parse_checkpoint(self.after)[0]
        if (checkpoint.tree_size, checkpoint.root) != (len(hashes), tree_root(hashes)):
            raise PackageError("package.log_moved", case=self.plan.draft.number)
        proof = TlogProof(self.event.index, inclusion_proof(hashes, self.event.index), self.after, self.event.leaf)
        object.__setattr__(self, "hashes", hashes)
        object.__setattr__(self, "proof", proof.to_bytes())
        files = {STATEMENT: ShortDocument(self.plan.sealed_statement), PROOF: ShortDocument(self.proof)}
        if self.recomputed is not None:
            signed = sign_envelope(self.session, STATEMENT_PAYLOAD_TYPE, self.recomputed.to_bytes())
            files[RECOMPUTE] = ShortDocument(signed.to_bytes())
        # signed once: not every algorithm gives the same signature twice
        object.__setattr__(self, "bare", self._closed(files))

    def with_evidence(self, gained: Evidence) -> Mapping[str, Content]:
        """All files, with the evidence of others and a closing over it."""
        files = {path: content for path, content in self.bare.items() if path != CLOSING}
        files |= {time_file(number): ShortDocument(each) for number, each in enumerate(gained.stamps, 1)}
        files |= {witness_file(number): ShortDocument(each) for number, each in enumerate(gained.cosignatures, 1)}
        return self._closed(files)

    def _closed(self, files: Mapping[str, Content]) -> dict[str, Content]:
        digests = {path: content.digests for path, content in files.items()}
        return {**files, CLOSING: ShortDocument(closing_bytes(self.session, digests, self.plan.statement))}


class _Sealed(Protocol):
    """What a closing says again of the statement."""

    @property
    def case(self) -> str: ...
    @property
    def workspace(self) -> str: ...
    @property
    def package_root(self) -> str: ...


def closing_bytes(session: Session, files: Mapping[str, FileDigests], statement: _Sealed) -> bytes:
    """`seal/closing.dsse` over the other files of seal/."""
    subjects = {path: (found.sha256, found.sm3) for path, found in files.items()}
    closing = Closing(subjects, case=statement.case, workspace=statement.workspace, package_root=statement.package_root)
    return sign_envelope(session, STATEMENT_PAYLOAD_TYPE, closing.to_bytes()).to_bytes()


class _Plan:
    """Every byte of a package but the seal, made before anything is written.

    contents: path -> content, of every file but those in seal/. size: bytes under data/.
    """

    def __init__(self, of: PackageDraft, case: Case, spool: Spool, *, witnesses: tuple[WitnessLabel, ...]) -> None:
        self.draft = of
        session = case.session
        moment = utc_text(session.now())
        files: dict[str, Content] = {}
        for item in of.items:
            path = case.path_of(item)
            digests = FileDigests(item.sha256, item.sm3, item.size)
            files[f"data/{item.path}"] = Copy(digests, _opener(path), str(path))
        made = self._documents(case, spool, witnesses)
        kinds = {path: "application/json" if path.endswith(("json", ".dsse")) else "text/plain" for path in made}
        kinds[LEAVES] = kinds[DISCLOSURES] = "application/x-ndjson"
        others = {path.removeprefix("data/"): (kinds[path], content.digests.size) for path, content in made.items()}
        made[CRATE] = spool.document(crate_parts(of, others, day=moment[:10], software=SOFTWARE))
        files.update(made)

        payload = {path: files[path].digests for path in sorted(files, key=sort_key)}
        ids = {f"data/{item.path}": item.id for item in of.items}
        root = RootBuilder()
        items = spool.document(_item_lines(payload, ids, root, session.random))
        statement = Statement(
            subjects={},
            case=of.case,
            workspace=of.workspace,
            items=len(payload),
            package_root=root.root().hex(),
            checkpoint_before=of.checkpoint.to_text(),
            software=SOFTWARE,
            time_claimed=moment,
            demonstration=of.demonstration,
        )
        text = verify_text(case=of.case, software=SOFTWARE, demonstration=of.demonstration)
        tags, subjects = tag_files(payload, bag_info=statement.bag_info, verify_text=text, items=items, spool=spool)
        self.statement = replace(statement, subjects=subjects)
        self.size = sum(each.size for each in payload.values())
        self.contents: Mapping[str, Content] = {**files, **tags}
        self.sealed_statement = sign_envelope(session, STATEMENT_PAYLOAD_TYPE, self.statement.to_bytes()).to_bytes()

    def _documents(self, case: Case, spool: Spool, witnesses: tuple[WitnessLabel, ...]) -> dict[str, Content]:
        """The files under data/ that are no items, but the crate, which lists them."""
        of, session = self.draft, case.session
        keys = {each.public_key.key_id: NamedKey(each.public_key, each.label) for each in witnesses}
        for each in (*session.keys, *of.keys):
            keys[each.public_key.key_id] = NamedKey(each.public_key, each.label, each.certificates)
        made: dict[str, Content] = {
            LEAVES: spool.document(part for event in of.events for part in (event.leaf, b"\n")),
            DISCLOSURES: spool.document(_disclosure_lines(of.events)),
            CHECKPOINT: ShortDocument(of.checkpoint_bytes),
            KEYS: ShortDocument(keys_bytes(keys.values())),
            FINDINGS: spool.document(self._findings(case)),
            BEFORE_RECORDING: ShortDocument(before_recording(of.sheet, of.events, of.items).to_bytes()),
        }
        for event in of.events:
            if event.type == "derived":
                payload = attestation_payload(parse_leaf(event.leaf))
                signed = sign_envelope(session, STATEMENT_PAYLOAD_TYPE, payload).to_bytes()
                made[attestation_file(event.event_id)] = spool.document((signed,))
        return made

    def _findings(self, case: Case) -> Iterator[bytes]:
        # each findings.json is RFC 8785 already: putting the bytes together gives RFC 8785 bytes
        stated = [ref for event in self.draft.events if event.type == "found" for ref in event.outputs]
        yield b'{"results":['
        for number, ref in enumerate(stated):
            yield (b"," if number else b"") + case.read_object(ref.sha256)
        yield b'],"schema":"' + PACKAGE_FINDINGS_SCHEMA + b'"}'


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def _disclosure_lines(events: Iterable[CustodyEvent]) -> Iterator[bytes]:
    """`data/log/disclosures.jsonl`, line by line."""
    for event in events:
        if event.disclosures:
            disclosures = {name: dict(each) for name, each in event.disclosures.items()}
            yield dumps({"disclosures": disclosures, "event": event.event_id}) + b"\n"


def _item_lines(
    payload: Mapping[str, FileDigests], ids: Mapping[str, str], root: RootBuilder, random: Callable[[int], bytes]
) -> Iterator[bytes]:
    """`items.json`, line by line; `root` grows to the package root meanwhile."""
    yield b"[\n"
    for number, (path, (sha256, sm3, size)) in enumerate(payload.items()):
        salt = random(32).hex()
        line = ItemLine(item_leaf(path, size, sha256, sm3, salt), ids.get(path), path, salt, sha256, size, sm3)
        root.append(bytes.fromhex(line.leaf))
        yield (b",\n" if number else b"") + item_line_bytes(line)
    yield b"\n]\n"
