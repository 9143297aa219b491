"""The numbered checks of a sealed package, and the five verdicts they lead to.

Each function below performs the checks of one group, in this order, and the code repeats
the numbers. A check that cannot be performed because an earlier one failed is `not_checked`
and says which one. Every failure names the file. Formats: docs/formats/.

1  intact: not one byte differs from what was sealed
   1.1  container   The folder holds plain files only; the archive is, byte for byte, the one
                    archive of its files.
   1.2  paths       No path is unsafe, not NFC, or equal to another after NFC and case folding.
   1.3  layout      The required files are there; outside data/'s item folders there is no other.
   1.4  seal        The files in seal/ parse in their one canonical encoding.
   1.5  manifests   The four manifests have the two digests that the signed statement states.
   1.6  listing     The manifests list the files that are there, no more and no fewer. Only manifests
                    that passed 1.5 are used, so a changed manifest never blames an innocent file.
   1.7  files       Each file has the SHA-256 and the SM3 that the manifests state.
   1.8  tags        bagit.txt and bag-info.txt are what the statement and the payload make them.
   1.9  tree        items.json describes the files, its leaves recompute, and its root is the stated one.
2  signed: by keys whose holders the reader trusts
   2.1  keys        keys.json is well formed; each id is that of its key.
   2.2  statement_signature     The statement's signatures are valid.
   2.3  checkpoint_signatures   Both checkpoints carry one valid signature.
   2.4  event_signatures        Every event's signatures are valid.
   2.5  trusted_keys            Each key is in the trust policy for what it signed. A key known from
                    the package alone is `not_checked`: who holds it is not proved.
3  time: by someone other than the maker
   3.1  claimed_order   Claimed times of a key never run backwards. Only noted: clocks are corrected.
   3.2  claimed_past    No claimed time lies after the verifier's clock. Only noted: either may be wrong.
   3.3  attested        A time-stamp token or witness; this version reads none.
4  continuous: one history without a gap, from the originals to this package
   4.1  events      Each leaf is a valid event of this case; none stands twice.
   4.2  log_root    The leaves recompute to the checkpoint before sealing, which the statement states.
   4.3  packaged    The `packaged` event names this statement and is the next leaf: it extends the log
                    to the checkpoint after.
   4.4  chains      The events of each key are numbered without a gap and name their predecessor.
   4.5  anchors     Each checkpoint an event refers to is one of this very log's history.
   4.6  inputs      Each input is an output of an earlier event with the same path and digests.
   4.7  items       The files of the item folders are the outputs of the log, with the same digests.
   4.8  disclosures Each disclosed text opens the commitment in its event.
   4.9  findings    data/findings.json repeats the findings of the log, all of them, in order.
   4.10 rollback    A checkpoint known from outside is on this history: not a fork, not ahead.
5  recomputes: someone ran the analysis again
   5.1  recompute   A signed record of a recomputation; this version reads none.

What this does not prove: that a picture shows the truth, who held a key, when anything happened,
file modes and dates (they are not evidence and not covered).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, Callable, Optional, Union

from geoevidence.trust import manifest
from geoevidence.trust.container import Container, open_container
from geoevidence.trust.digests import FileDigests, digest_bytes, digest_file, open_commitment, short_code
from geoevidence.trust.errors import FormatError, GeoEvidenceError, VerificationError
from geoevidence.trust.events import Event, ItemRecord, Leaf, parse_leaf
from geoevidence.trust.merkle import RootBuilder, tree_root, verify_inclusion
from geoevidence.trust.notes import LogCheckpoint, SignedNote, TlogProof, note_key_name, parse_checkpoint, parse_proof
from geoevidence.trust.policy import DEMONSTRATION, LOG_ROLE, PACKAGE_ROLE, TrustPolicy
from geoevidence.trust.signatures import Envelope, PublicKey, parse_envelope
from geoevidence.trust.verdict import (
    FAILED,
    NOT_CHECKED,
    PASSED,
    RULES,
    Check,
    Claim,
    Signer,
    VerificationReport,
)

Progress = Callable[[str, float], None]
"""Called with a message id of the stage and the fraction done, 0 to 1."""
_MAX_DOCUMENT = 1 << 30
_WITHHELD = re.compile(rb'\{"withheld":"([0-9a-f]{64})"\}')
_STATEMENT, _PROOF = "seal/statement.dsse", "seal/proof.tlog"
_READ = {*manifest.MANIFESTS, *manifest.SEAL_FILES, *manifest.PLAIN_FILES, "items.json", "bagit.txt", "bag-info.txt"}


def verify_package(
    path: Union[str, "os.PathLike[str]"],
    *,
    policy: Optional[TrustPolicy] = None,
    known_checkpoint: Optional[bytes] = None,
    now: Optional[datetime] = None,
    progress: Optional[Progress] = None,
) -> VerificationReport:
    """Check a package, a folder or a zip of it, against everything it states.

    Never raises on a bad package: the report holds every check. Reads each file once, in
    blocks; memory grows with the number of files, not with their size. Writes nothing.

    Args:
        path: the package.
        policy: trusted keys and required verdicts; None: `DEMONSTRATION`, which trusts no key.
        known_checkpoint: a checkpoint note of this log, kept outside the package.
        now: the verifier's clock, aware; None: claimed times are not compared with it.
        progress: called while files are read.

    Raises: InputError where there is no package at `path`; FormatError for a `known_checkpoint` that is none.
    """
    known = None if known_checkpoint is None else parse_checkpoint(known_checkpoint, where="known_checkpoint")
    if now is not None and now.tzinfo is None:
        raise ValueError("now must be an aware time")
    with open_container(path) as container:
        run = _Run(container, DEMONSTRATION if policy is None else policy, known, now, progress)
        return run.report()


class _Run:
    """One verification: what was read, and the checks so far."""

    def __init__(
        self,
        container: Container,
        policy: TrustPolicy,
        known: Optional[tuple[LogCheckpoint, SignedNote]],
        now: Optional[datetime],
        progress: Optional[Progress],
    ) -> None:
        self.container, self.policy, self.known, self.now, self.progress = container, policy, known, now, progress
        self.checks: list[Check] = []
        self.data: dict[str, bytes] = {}
        self.digests: dict[str, FileDigests] = {}
        self.blamed: set[str] = set()
        self.statement_envelope: Optional[Envelope] = None
        self.statement: Optional[manifest.Statement] = None
        self.proof: Optional[TlogProof] = None
        self.before: Optional[LogCheckpoint] = None
        self.after: Optional[LogCheckpoint] = None
        self.packaged: Optional[Leaf] = None
        self.keys: dict[str, PublicKey] = {}
        self.labels: dict[str, str] = {}
        self.uses: dict[str, list[tuple[str, str, int, str]]] = {}
        self.leaves: list[tuple[str, bytes, Optional[Leaf]]] = []
        self.history: list[tuple[str, bytes, Optional[Leaf]]] = []
        self.lines: dict[str, manifest.ItemLine] = {}
        self.withheld = 0
        self.roots: list[bytes] = []
        self.claims: list[Claim] = []
        self.stale = self.fork = False

    # ---- recording -------------------------------------------------------------------

    def fail(self, name: str, subject: str, detail: str, *, expected: Any = None, found: Any = None, **values: Any) -> None:
        self.checks.append(Check(name, subject, FAILED, _text(expected), _text(found), detail, values))
        if name in ("listing", "files"):
            self.blamed.add(subject)

    def fail_by(self, name: str, subject: str, error: GeoEvidenceError) -> None:
        values = dict(error.values)
        expected, found = values.get("expected"), values.get("found")
        self.checks.append(Check(name, subject, FAILED, _text(expected), _text(found), error.message_id, values))

    def skip(self, name: str, subject: str, detail: str, **values: Any) -> None:
        self.checks.append(Check(name, subject, NOT_CHECKED, None, None, detail, values))

    def skip_because(self, name: str, subject: str, cause: str) -> None:
        self.skip(name, subject, "trust.because", check=RULES[cause].number)

    def close(self, name: str, subject: str, count: Optional[int] = None) -> None:
        """`name` passed, unless it already failed or could not be done somewhere."""
        if not any(check.name == name for check in self.checks):
            found = None if count is None else str(count)
            self.checks.append(Check(name, subject, PASSED, None, found))

    def failed(self, *names: str) -> bool:
        return any(check.name in names and check.status == FAILED for check in self.checks)

    def passed(self, name: str) -> bool:
        return any(check.name == name and check.status == PASSED for check in self.checks)

    # ---- the run ---------------------------------------------------------------------

    def report(self) -> VerificationReport:
        if self.container.readable:
            self._read_files()
        self._check_container()
        if self.container.readable:
            self._read_documents()
            # signatures come before what they vouch for; the report sorts by number
            self._check_signatures()
            self._check_intact()
            self._check_time()
            self._check_continuous()
        for name in RULES:
            if not any(check.name == name for check in self.checks):
                if name in ("attested", "recompute"):
                    self.skip(name, self.container.label, f"trust.no_{name}")
                else:
                    self.skip_because(name, self.container.label, "container")
        order = {name: position for position, name in enumerate(RULES)}
        return VerificationReport(
            package=self.container.label,
            required=self.policy.required,
            builtin_policy=self.policy.builtin,
            checks=tuple(sorted(self.checks, key=lambda check: order[check.name])),
            facts=self._facts(),
            claims=tuple(self.claims),
            signers=tuple(self._signers()),
            stale=self.stale,
            fork=self.fork,
        )

    def _read_files(self) -> None:
        """Digest every file once; keep the bytes of the documents that were digested, not a second reading."""
        total, done = max(sum(self.container.sizes.values()), 1), 0

        def on_block(size: int) -> None:
            nonlocal done
            done += size
            if self.progress is not None:
                self.progress("trust.progress.files", min(done / total, 1.0))

        for path in self.container.sizes:
            try:
                with self.container.open(path) as stream:
                    if path in _READ:
                        data = stream.read(_MAX_DOCUMENT + 1)
                        if len(data) > _MAX_DOCUMENT:
                            raise OSError(0, f"> {_MAX_DOCUMENT} B")
                        self.data[path], self.digests[path] = data, digest_bytes(data)
                        on_block(len(data))
                    else:
                        self.digests[path] = digest_file(stream, on_block=on_block)
            except OSError as error:
                self.fail("container", path, "trust.unreadable", found=error.strerror or str(error))

    def _check_container(self) -> None:
        # 1.1
        for defect in self.container.defects:
            self.fail("container", defect.subject, defect.detail, expected=defect.expected, found=defect.found)
        self.close("container", self.container.label)
        if not self.container.readable:
            return
        # 1.2
        for defect in self.container.path_defects:
            self.fail("paths", defect.subject, defect.detail, found=defect.found, path=defect.subject)
        self.close("paths", self.container.label)
        # 1.3
        for path in manifest.REQUIRED_FILES:
            if path not in self.container.sizes:
                self.fail("layout", path, "trust.file_missing")
        for path in self.container.sizes:
            if path not in manifest.REQUIRED_FILES and not manifest.is_item_path(path):
                self.fail("layout", path, "trust.file_unexpected")
        self.close("layout", self.container.label, len(self.container.sizes))

    def _read_documents(self) -> None:
        # 1.4
        if _STATEMENT in self.data:
            try:
                envelope = parse_envelope(self.data[_STATEMENT], where=_STATEMENT)
                if envelope.payload_type != manifest.STATEMENT_PAYLOAD_TYPE:
                    expected = manifest.STATEMENT_PAYLOAD_TYPE
                    raise FormatError("trust.payload_type", where=_STATEMENT, expected=expected, found=envelope.payload_type[:80])
                self.statement_envelope = envelope
                self.statement = manifest.parse_statement(envelope.payload)
            except GeoEvidenceError as error:
                self.fail_by("seal", _STATEMENT, error)
        if _PROOF in self.data:
            try:
                self.proof = parse_proof(self.data[_PROOF], where=_PROOF)
                self.after, note = parse_checkpoint(self.proof.checkpoint, where=_PROOF)
                if len(note.signatures) != 1:
                    raise FormatError("trust.note_one_signature", where=_PROOF, found=len(note.signatures))
                if self.proof.extra is None:
                    raise FormatError("trust.proof_syntax", where=_PROOF)
                self.packaged = parse_leaf(self.proof.extra, where=_PROOF)
            except GeoEvidenceError as error:
                self.fail_by("seal", _PROOF, error)
        if not {_STATEMENT, _PROOF} <= self.data.keys():
            self.skip_because("seal", "seal/", "layout")
        self.close("seal", "seal/")
        self._read_leaves()

    def _read_leaves(self) -> None:
        # 4.1
        if manifest.LEAVES not in self.data:
            self.skip_because("events", manifest.LEAVES, "layout")
            return
        data = self.data[manifest.LEAVES]
        if data and not data.endswith(b"\n"):
            self.fail("events", manifest.LEAVES, "trust.text_end", where=manifest.LEAVES)
        seen: set[str] = set()
        for number, line in enumerate(_split(data), 1):
            subject = f"{manifest.LEAVES}:{number}"
            try:
                hash_of_leaf, leaf = _parse_line(line, subject)
                if leaf is not None and leaf.event.event_id in seen:
                    raise FormatError("trust.event_twice", where=subject, event_id=leaf.event.event_id)
            except GeoEvidenceError as error:
                self.fail_by("events", subject, error)
                continue
            if leaf is None:
                self.withheld += 1
            else:
                seen.add(leaf.event.event_id)
            self.leaves.append((subject, hash_of_leaf, leaf))
        self.history = self.leaves + ([(_PROOF, self.packaged.hash, self.packaged)] if self.packaged else [])
        for subject, _, leaf in self.history:
            if leaf is None:
                continue
            event = leaf.event
            if self.statement is not None and event.case != self.statement.case:
                self.fail("events", subject, "trust.event_case", expected=self.statement.case, found=event.case)
            self.claims.append(Claim(event.event_id, event.type, event.role, event.time_claimed))
        if self.statement is None:
            self.skip_because("events", _STATEMENT, "seal")
        self.close("events", manifest.LEAVES, len(self.leaves))

    # ---- 2 signed --------------------------------------------------------------------

    def _check_signatures(self) -> None:
        for trusted in self.policy.keys:
            self.keys[trusted.key.key_id] = trusted.key
        # 2.1
        if manifest.KEYS in self.data:
            try:
                for named in manifest.parse_keys(self.data[manifest.KEYS]):
                    self.keys[named.key.key_id] = named.key
                    self.labels[named.key.key_id] = named.label
            except GeoEvidenceError as error:
                self.fail_by("keys", manifest.KEYS, error)
        else:
            self.skip_because("keys", manifest.KEYS, "layout")
        self.close("keys", manifest.KEYS, len(self.labels))
        sealed = self.statement.time_claimed if self.statement else ""
        index = self.proof.index if self.proof else 0
        # 2.2
        if self.statement_envelope is None:
            self.skip_because("statement_signature", _STATEMENT, "seal")
        else:
            use = (PACKAGE_ROLE, sealed, index, _STATEMENT)
            self._check_envelope("statement_signature", _STATEMENT, self.statement_envelope, use)
        self.close("statement_signature", _STATEMENT)
        # 2.3
        if manifest.CHECKPOINT in self.data:
            self.before = self._check_note(manifest.CHECKPOINT, self.data[manifest.CHECKPOINT], sealed)
        else:
            self.skip_because("checkpoint_signatures", manifest.CHECKPOINT, "layout")
        if self.proof is not None and self.after is not None:
            self._check_note(_PROOF, self.proof.checkpoint, sealed)
        else:
            self.skip_because("checkpoint_signatures", _PROOF, "seal")
        self.close("checkpoint_signatures", manifest.CHECKPOINT)
        # 2.4
        if not self._has_log():
            self.skip_because("event_signatures", manifest.LEAVES, "events")
        for index, (subject, _, leaf) in enumerate(self.history):
            if leaf is not None:
                use = (leaf.event.role, leaf.event.time_claimed, index, subject)
                self._check_envelope("event_signatures", f"{subject} {leaf.event.event_id}", leaf.envelope, use)
        if self.withheld:
            self.skip("event_signatures", manifest.LEAVES, "trust.withheld_leaves", count=self.withheld)
        self.close("event_signatures", manifest.LEAVES, len(self.leaves))
        # 2.5
        self._check_trust()

    def _has_log(self) -> bool:
        return manifest.LEAVES in self.data

    def _check_envelope(self, name: str, subject: str, envelope: Envelope, use: tuple[str, str, int, str]) -> None:
        if self.failed("keys") and any(each.keyid not in self.keys for each in envelope.signatures):
            self.skip_because(name, subject, "keys")
            return
        try:
            envelope.verify(self.keys, where=subject)
        except GeoEvidenceError as error:
            self.fail_by(name, subject, error)
        for each in envelope.signatures:
            self.uses.setdefault(each.keyid, []).append(use)

    def _check_note(self, subject: str, data: bytes, sealed: str) -> Optional[LogCheckpoint]:
        """The checkpoint of a note with one valid signature; failures are recorded."""
        try:
            checkpoint, note = parse_checkpoint(data, where=subject)
            if len(note.signatures) != 1:
                raise FormatError("trust.note_one_signature", where=subject, found=len(note.signatures))
            name = note.signatures[0].name
            key = next((key for key in self.keys.values() if note_key_name(key) == name), None)
            if key is None and self.failed("keys"):
                self.skip_because("checkpoint_signatures", subject, "keys")
                return None
            if key is None:
                raise VerificationError("trust.key_unknown", where=subject, key_id=name)
            note.verify(key)
        except GeoEvidenceError as error:
            self.fail_by("checkpoint_signatures", subject, error)
            return None
        self.uses.setdefault(key.key_id, []).append((LOG_ROLE, sealed, checkpoint.tree_size - 1, subject))
        return checkpoint

    def _check_trust(self) -> None:
        for key_id, uses in sorted(self.uses.items()):
            trusted = self.policy.find(key_id)
            if trusted is None:
                detail = "trust.policy_none" if self.policy.builtin else "trust.policy_unknown"
                self.skip("trusted_keys", key_id, detail, label=self.labels.get(key_id, "-"))
                continue
            refusals: dict[str, str] = {}
            for role, moment, index, subject in uses:
                refusal = trusted.refusal(role, moment, index)
                if refusal:
                    refusals.setdefault(refusal, f"{subject} ({role}, {moment or '-'})")
            for refusal, first in sorted(refusals.items()):
                self.fail("trusted_keys", key_id, refusal, found=first, holder=trusted.holder)
            if not refusals:
                self.checks.append(Check("trusted_keys", key_id, PASSED, None, trusted.holder))
        if not self.uses:
            self.skip_because("trusted_keys", manifest.KEYS, "seal")

    def _signers(self) -> Iterator[Signer]:
        for key_id in sorted(self.uses):
            trusted = self.policy.find(key_id)
            yield Signer(key_id, self.labels.get(key_id, ""), trusted.holder if trusted else None)

    # ---- 1 intact --------------------------------------------------------------------

    def _check_intact(self) -> None:
        # 1.5
        good = self._check_manifests()
        # 1.6, 1.7
        self._check_files(good)
        # 1.8
        statement = self.statement if self.passed("statement_signature") else None
        payload = [self.digests[path].size for path in self.digests if path.startswith("data/")]
        if self.data.get("bagit.txt", manifest.BAGIT) != manifest.BAGIT:
            self.fail("tags", "bagit.txt", "trust.tag_content")
        if statement is None:
            self.skip_because("tags", "bag-info.txt", "statement_signature")
        elif "bag-info.txt" in self.data:
            expected = statement.bag_info(sum(payload), len(payload))
            found = self.data["bag-info.txt"]
            if found != expected:
                self.fail("tags", "bag-info.txt", "trust.tag_content", expected=_line(expected), found=_line(found))
        self.close("tags", "bag-info.txt")
        # 1.9
        self._check_tree(statement)

    def _check_manifests(self) -> dict[str, dict[str, str]]:
        """The manifests that can be used: those that the signed statement states."""
        good: dict[str, dict[str, str]] = {}
        stated = self.statement if self.passed("statement_signature") else None
        if stated is None:
            self.skip_because("manifests", _STATEMENT, "seal" if self.failed("seal") else "statement_signature")
        for name in manifest.MANIFESTS:
            if name not in self.digests:
                self.skip_because("manifests", name, "layout")
                continue
            found = self.digests[name]
            if stated is not None and stated.subjects[name] != (found.sha256, found.sm3):
                expected = " ".join(stated.subjects[name])
                self.fail("manifests", name, "trust.digest_wrong", expected=expected, found=f"{found.sha256} {found.sm3}")
                continue
            try:
                good[name] = manifest.parse_manifest(self.data[name], where=name)
            except GeoEvidenceError as error:
                self.fail_by("manifests", name, error)
        self.close("manifests", ", ".join(manifest.MANIFESTS), len(good))
        return good

    def _check_files(self, good: dict[str, dict[str, str]]) -> None:
        # 1.6
        payload = {path for path in self.container.sizes if path.startswith("data/")}
        tags = {path for path in manifest.TAG_FILES if path in self.container.sizes}
        reported: set[str] = set()
        for name, listed in good.items():
            present = payload if name in manifest.PAYLOAD_MANIFESTS else tags
            for path in sorted((listed.keys() - present) - reported):
                self.fail("listing", path, "trust.file_missing", expected=name)
            for path in sorted((present - listed.keys()) - reported):
                self.fail("listing", path, "trust.file_unlisted", expected=name)
            reported |= listed.keys() ^ present
        # 1.7
        for name in manifest.MANIFESTS:
            if name not in good:
                cause = "manifests" if name in self.digests else "layout"
                self.skip_because("listing", name, cause)
                self.skip_because("files", name, cause)
        self.close("listing", ", ".join(good), len(payload) + len(tags))
        for path, found in self.digests.items():
            for name, listed in good.items():
                value = found.sm3 if name.endswith("sm3.txt") else found.sha256
                if path in listed and listed[path] != value:
                    algorithm = "sm3" if name.endswith("sm3.txt") else "sha256"
                    expected, got = f"{algorithm}:{listed[path]}", f"{algorithm}:{value}"
                    self.fail("files", path, "trust.digest_wrong", expected=expected, found=got)
        self.close("files", "data/", len(self.digests))

    def _check_tree(self, statement: Optional[manifest.Statement]) -> None:
        # 1.9
        if "items.json" not in self.data:
            self.skip_because("tree", "items.json", "layout")
            return
        if "items.json" in self.blamed:
            self.skip_because("tree", "items.json", "files")
            return
        try:
            lines = manifest.parse_items(self.data["items.json"])
        except GeoEvidenceError as error:
            self.fail_by("tree", "items.json", error)
            return
        self.lines = {line.path: line for line in lines if line.path is not None}
        payload = {path for path in self.digests if path.startswith("data/")}
        for path in sorted((payload ^ self.lines.keys()) - self.blamed):
            self.fail("tree", path, "trust.tree_files")
        for path, line in self.lines.items():
            assert line.size is not None and line.sha256 and line.sm3 and line.salt
            if path in payload and path not in self.blamed:
                stated = FileDigests(line.sha256, line.sm3, line.size)
                if stated != self.digests[path]:
                    self.fail("tree", path, "trust.tree_line", expected=_files(stated), found=_files(self.digests[path]))
            if manifest.item_leaf(path, line.size, line.sha256, line.sm3, line.salt) != line.leaf:
                self.fail("tree", "items.json", "trust.tree_leaf", found=path)
        withheld = len(lines) - len(self.lines)
        if withheld:
            self.skip("tree", "items.json", "trust.withheld_files", count=withheld)
        if statement is None:
            self.skip_because("tree", "items.json", "statement_signature")
        else:
            root = tree_root(bytes.fromhex(line.leaf) for line in lines).hex()
            if (root, len(lines)) != (statement.package_root, statement.items):
                expected, found = f"{statement.package_root} ({statement.items})", f"{root} ({len(lines)})"
                self.fail("tree", "items.json", "trust.tree_root", expected=expected, found=found)
        self.close("tree", "items.json", len(lines))

    # ---- 3 time ----------------------------------------------------------------------

    def _check_time(self) -> None:
        # 3.1
        latest: dict[str, Event] = {}
        for _, _, leaf in self.history:
            if leaf is None:
                continue
            event, previous = leaf.event, latest.get(leaf.event.key_id)
            if previous is not None and event.time_claimed < previous.time_claimed:
                values = {"earlier": previous.event_id, "earlier_time": previous.time_claimed, "time": event.time_claimed}
                self.skip("claimed_order", event.event_id, "trust.time_backwards", **values)
            latest[event.key_id] = event
        self.close("claimed_order", manifest.LEAVES, len(self.claims))
        # 3.2
        if self.now is None:
            self.skip("claimed_past", manifest.LEAVES, "trust.no_clock")
        else:
            now = self.now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            for claim in self.claims:
                if claim.time_claimed > now:
                    self.skip("claimed_past", claim.event_id, "trust.time_future", time=claim.time_claimed, now=now)
            self.close("claimed_past", manifest.LEAVES, len(self.claims))
        # 3.3
        self.skip("attested", self.container.label, "trust.no_attested")

    # ---- 4 continuous ----------------------------------------------------------------

    def _check_continuous(self) -> None:
        # 4.1 is performed where the leaves are read: signatures need them
        if not self._has_log():
            for name in ("log_root", "packaged", "chains", "anchors", "inputs", "items", "disclosures", "findings", "rollback"):
                self.skip_because(name, manifest.LEAVES, "layout")
            return
        builder = RootBuilder()
        self.roots = [builder.root()]
        for _, hash_of_leaf, _ in self.leaves:
            builder.append(hash_of_leaf)
            self.roots.append(builder.root())
        self._check_log_root()
        self._check_packaged()
        self._check_chains()
        self._check_items()
        self._check_disclosures()
        self._check_findings()
        self._check_rollback()

    def _check_log_root(self) -> None:
        # 4.2
        if self.before is None:
            self.skip_because("log_root", manifest.CHECKPOINT, "checkpoint_signatures")
            return
        if self.failed("events"):
            self.skip_because("log_root", manifest.LEAVES, "events")
            return
        found = (len(self.leaves), self.roots[-1].hex())
        expected = (self.before.tree_size, self.before.root.hex())
        if found != expected:
            subject = manifest.LEAVES
            self.fail(
                "log_root", subject, "trust.log_root", expected=f"{expected[1]} ({expected[0]})", found=f"{found[1]} ({found[0]})"
            )
        if self.statement is None or not self.passed("statement_signature"):
            self.skip_because("log_root", _STATEMENT, "statement_signature")
        else:
            origin = f"geoevidence/{self.statement.workspace}/{self.statement.case}"
            if self.before.origin != origin:
                self.fail("log_root", manifest.CHECKPOINT, "trust.log_origin", expected=origin, found=self.before.origin)
            if self.statement.checkpoint_before != self.before.to_text():
                self.fail("log_root", manifest.CHECKPOINT, "trust.log_statement")
        self.close("log_root", manifest.LEAVES, len(self.leaves))

    def _check_packaged(self) -> None:
        # 4.3
        leaf, proof, after, before = self.packaged, self.proof, self.after, self.before
        if leaf is None or proof is None or after is None:
            self.skip_because("packaged", _PROOF, "seal")
            return
        event = leaf.event
        sealed = self.digests.get(_STATEMENT)
        if (
            event.type != "packaged"
            or len(event.outputs) != 1
            or event.outputs[0].path != f"seal/{event.event_id}/statement.dsse"
        ):
            self.fail("packaged", _PROOF, "trust.packaged_event", found=event.type)
        elif sealed is not None and FileDigests(event.outputs[0].sha256, event.outputs[0].sm3, event.outputs[0].size) != sealed:
            output = event.outputs[0]
            expected = _files(FileDigests(output.sha256, output.sm3, output.size))
            # either may have been replaced by a valid one of another package: nothing here can tell which
            for subject in (_STATEMENT, _PROOF):
                self.fail("packaged", subject, "trust.packaged_statement", expected=expected, found=_files(sealed))
        if any(leaf is not None and leaf.event.event_id == event.event_id for _, _, leaf in self.leaves):
            self.fail("packaged", _PROOF, "trust.event_twice", where=manifest.LEAVES, event_id=event.event_id)
        try:
            verify_inclusion(leaf.hash, proof.index, after.tree_size, proof.hashes, after.root)
        except GeoEvidenceError as error:
            self.fail_by("packaged", _PROOF, error)
        if before is None or not self.passed("log_root"):
            self.skip_because("packaged", manifest.LEAVES, "checkpoint_signatures" if before is None else "log_root")
        else:
            size = before.tree_size
            if (after.origin, after.tree_size, proof.index) != (before.origin, size + 1, size):
                expected, found = f"{before.origin} {size + 1} {size}", f"{after.origin} {after.tree_size} {proof.index}"
                self.fail("packaged", _PROOF, "trust.packaged_place", expected=expected, found=found)
            root = tree_root([*(each for _, each, _ in self.leaves), leaf.hash])
            if root != after.root:
                self.fail("packaged", _PROOF, "trust.log_root", expected=after.root.hex(), found=root.hex())
            if event.anchor != ((size, before.root) if size else None):
                self.fail("packaged", _PROOF, "trust.packaged_anchor")
        self.close("packaged", _PROOF)

    def _check_chains(self) -> None:
        if self.failed("events"):
            self.skip_because("chains", manifest.LEAVES, "events")
            self.skip_because("anchors", manifest.LEAVES, "events")
            return
        place = {hash_of_leaf: (index, leaf) for index, (_, hash_of_leaf, leaf) in enumerate(self.leaves)}
        for index, (subject, _, leaf) in enumerate(self.history):
            if leaf is None:
                continue
            event = leaf.event
            where = f"{subject} {event.event_id}"
            # 4.4
            if event.prev_event is not None:  # null in the first alone, and 4.1 finds a second first: same event id
                at, previous = place.get(bytes.fromhex(event.prev_event[7:]), (index, None))
                if at >= index:
                    self.fail("chains", where, "trust.chain_gap", found=event.prev_event)
                elif previous is not None and (previous.event.key_id, previous.event.seq) != (event.key_id, event.seq - 1):
                    expected = f"E-{event.key_id[:8]}-{event.seq - 1}"
                    self.fail("chains", where, "trust.chain_gap", expected=expected, found=previous.event.event_id)
            # 4.5
            if event.anchor is not None:
                size, root = event.anchor
                if size > index or size >= len(self.roots) or self.roots[size] != root:
                    self.fail("anchors", where, "trust.anchor_wrong", found=f"{root.hex()} ({size})")
        for name in ("chains", "anchors"):
            if self.withheld:
                self.skip(name, manifest.LEAVES, "trust.withheld_leaves", count=self.withheld)
            self.close(name, manifest.LEAVES, len(self.leaves))

    def _check_items(self) -> None:
        if self.failed("events"):
            self.skip_because("inputs", manifest.LEAVES, "events")
            self.skip_because("items", manifest.LEAVES, "events")
            return
        # 4.6
        known: dict[str, ItemRecord] = {}
        paths: dict[str, ItemRecord] = {}
        for subject, _, leaf in self.history:
            if leaf is None:
                continue
            where = f"{subject} {leaf.event.event_id}"
            for item in leaf.event.inputs:
                source = known.get(item.item)
                if source != item and not (source is None and self.withheld):
                    self.fail("inputs", where, "trust.input_unknown", expected=_item(source), found=_item(item))
            for item in leaf.event.outputs:
                known[item.item] = item
                if item.path in paths:
                    self.fail("items", f"data/{item.path}", "trust.item_twice", found=f"{paths[item.path].item}, {item.item}")
                paths[item.path] = item
        # 4.7
        lines = self.lines
        for path, item in paths.items():
            if path.startswith("seal/"):
                continue
            file = f"data/{path}"
            found = self.digests.get(file)
            if found is None:
                self.fail("items", file, "trust.file_missing", expected=item.item)
            elif found != FileDigests(item.sha256, item.sm3, item.size) and file not in self.blamed:
                stated = FileDigests(item.sha256, item.sm3, item.size)
                self.fail("items", file, "trust.item_digest", expected=_files(stated), found=_files(found))
            elif file in lines and lines[file].item != item.item:
                self.fail("items", file, "trust.item_line", expected=item.item, found=lines[file].item)
        for file in self.container.sizes:
            if manifest.is_item_path(file) and file[5:] not in paths:
                self.fail("items", file, "trust.item_unknown")
            elif not manifest.is_item_path(file) and file in lines and lines[file].item is not None:
                self.fail("items", file, "trust.item_line", expected=None, found=lines[file].item)
        for name, count in (("inputs", len(known)), ("items", len(paths))):
            if self.withheld:
                self.skip(name, manifest.LEAVES, "trust.withheld_leaves", count=self.withheld)
            elif name == "items" and not lines:
                self.skip_because(name, "items.json", "tree")
            self.close(name, manifest.LEAVES, count)

    def _check_disclosures(self) -> None:
        # 4.8
        if manifest.DISCLOSURES not in self.data:
            self.skip_because("disclosures", manifest.DISCLOSURES, "layout")
            return
        events = {leaf.event.event_id: (index, leaf.event) for index, (_, _, leaf) in enumerate(self.history) if leaf}
        opened, last = 0, -1
        try:
            disclosed = manifest.parse_disclosures(self.data[manifest.DISCLOSURES])
        except GeoEvidenceError as error:
            self.fail_by("disclosures", manifest.DISCLOSURES, error)
            return
        for number, (event_id, fields) in enumerate(disclosed, 1):
            subject = f"{manifest.DISCLOSURES}:{number} {event_id}"
            index, event = events.get(event_id, (-1, None))
            if event is None or index <= last:
                self.fail("disclosures", subject, "trust.disclosure_event" if event is None else "trust.disclosure_order")
                continue
            last = index
            for name, disclosure in fields.items():
                try:
                    if name not in event.commitments:
                        raise FormatError("trust.disclosure_field", where=subject, field=name)
                    open_commitment(event.commitments[name], disclosure)
                    opened += 1
                except GeoEvidenceError as error:
                    self.fail_by("disclosures", subject, error)
        self.close("disclosures", manifest.DISCLOSURES, opened)

    def _check_findings(self) -> None:
        # 4.9
        if manifest.FINDINGS not in self.data or manifest.FINDINGS in self.blamed:
            self.skip_because("findings", manifest.FINDINGS, "files" if manifest.FINDINGS in self.data else "layout")
            return
        if self.failed("events") or self.withheld:
            self.skip_because("findings", manifest.FINDINGS, "events")
            return
        stated = []
        for _, _, leaf in self.leaves:
            for item in leaf.event.outputs if leaf and leaf.event.type == "found" else ():
                if item.path == f"records/{item.item.rpartition('-')[0]}/findings.json":
                    data = self._read_again(f"data/{item.path}", item)
                    if data is None:
                        self.skip_because("findings", f"data/{item.path}", "items")
                        return
                    stated.append(data)
        # each findings.json is RFC 8785 already, so the whole can be put together from their bytes
        expected = b'{"results":[' + b",".join(stated) + b'],"schema":"geoevidence.package-findings.v1"}'
        if self.data[manifest.FINDINGS] != expected:
            self.fail("findings", manifest.FINDINGS, "trust.findings_differ")
        self.close("findings", manifest.FINDINGS, len(stated))

    def _read_again(self, path: str, item: ItemRecord) -> Optional[bytes]:
        """The bytes of a small file, where they still have the digest of the log."""
        if path not in self.digests or self.digests[path].sha256 != item.sha256 or item.size > _MAX_DOCUMENT:
            return None
        try:
            with self.container.open(path) as stream:
                data = stream.read(item.size)
        except OSError:
            return None
        return data if digest_bytes(data).sha256 == item.sha256 else None

    def _check_rollback(self) -> None:
        # 4.10
        if self.known is None:
            self.skip("rollback", self.container.label, "trust.no_checkpoint")
            return
        checkpoint, note = self.known
        key = next((key for key in self.keys.values() if any(note_key_name(key) == each.name for each in note.signatures)), None)
        if key is not None:
            try:
                note.verify(key)
            except GeoEvidenceError as error:
                self.fail_by("rollback", "--checkpoint", error)
                return
        if self.after is None or not self.passed("packaged") or not self.passed("checkpoint_signatures"):
            self.skip_because("rollback", "--checkpoint", "packaged")
            return
        roots = [*self.roots, self.after.root]
        shown = f"{checkpoint.root.hex()} ({checkpoint.tree_size})"
        if checkpoint.origin != self.after.origin:
            self.fail("rollback", "--checkpoint", "trust.log_origin", expected=checkpoint.origin, found=self.after.origin)
        elif checkpoint.tree_size >= len(roots):
            self.stale = True
            self.skip("rollback", "--checkpoint", "trust.stale", known=checkpoint.tree_size, here=self.after.tree_size)
        elif roots[checkpoint.tree_size] != checkpoint.root:
            self.fork = True
            self.fail("rollback", "--checkpoint", "trust.fork", expected=shown, found=roots[checkpoint.tree_size].hex())
        self.close("rollback", "--checkpoint")

    # ---- facts -----------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"files": len(self.digests), "bytes": sum(each.size for each in self.digests.values())}
        if self.statement is not None:
            for name in ("case", "workspace", "software", "time_claimed", "demonstration"):
                facts[name] = getattr(self.statement, name)
        if self._has_log():
            facts["leaves"], facts["withheld"] = len(self.leaves), self.withheld
        if self.after is not None:
            facts["tree_size"], facts["root"] = self.after.tree_size, self.after.root.hex()
            facts["short_code"] = short_code(self.after.root)
        return facts


def _text(value: Any) -> Optional[str]:
    return None if value is None else str(value)


def _line(data: bytes) -> str:
    return data[:400].decode("utf-8", "replace").replace("\n", " | ")


def _files(digests: FileDigests) -> str:
    return f"sha256:{digests.sha256} sm3:{digests.sm3} {digests.size} B"


def _item(item: Optional[ItemRecord]) -> Optional[str]:
    return None if item is None else f"{item.item} {item.path} sha256:{item.sha256} sm3:{item.sm3} {item.size} B"


def _split(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def _parse_line(line: bytes, where: str) -> tuple[bytes, Optional[Leaf]]:
    """Leaf hash and leaf of a line of leaves.jsonl; no leaf where it is withheld. Raises FormatError."""
    if line.startswith(b'{"withheld"'):
        withheld = _WITHHELD.fullmatch(line)
        if withheld is None:
            raise FormatError("trust.leaf_withheld", where=where)
        return bytes.fromhex(withheld.group(1).decode("ascii")), None
    leaf = parse_leaf(line, where=where)
    return leaf.hash, leaf
