"""Whether a package is one history without a gap (checks 4.2 to 4.15; the log alone is read by `history`).

What the log says is held against checkpoints, the files of the package, and what was kept outside.
`checks` reads the documents and calls these in their order. Reports to a `Ledger`. Standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from geoevidence.trust import manifest
from geoevidence.trust.bag import PACKAGE, REDACTED, files_text
from geoevidence.trust.canonical import loads
from geoevidence.trust.container import Container
from geoevidence.trust.devices import DeviceLog
from geoevidence.trust.digests import DigestingLines, FileDigests
from geoevidence.trust.errors import GeoEvidenceError
from geoevidence.trust.events import ItemRecord, Leaf
from geoevidence.trust.history import HashSet, History, visible_leaves
from geoevidence.trust.merkle import verify_inclusion
from geoevidence.trust.notes import LogCheckpoint, SignedNote, TlogProof
from geoevidence.trust.recomputed import StatedNumber, stated_numbers
from geoevidence.trust.sealed import Sealed, Settings

SOURCE = "--checkpoint"
"""Name of what was kept outside, in a report."""


class Output(NamedTuple):
    """An item that a later check needs. leaf: index of its event."""

    leaf: int
    item: ItemRecord


class Continuity(Sealed):
    """A package or a redacted copy, as far as its log is concerned.

    results: item id -> `result.json` of the log. findings: the findings files. rested_on: item ids that findings rest on.
        stated: by such an id, the numbers of its findings.
    key_events: `key_rotated` events. devices: logs that were taken in. attested_events: ids of `derived` events.
    """

    def __init__(self, container: Container, settings: Settings) -> None:
        super().__init__(container, settings, PACKAGE)
        self.version = 2
        self.statement: Optional[manifest.Statement] = None
        self.redaction: Optional[manifest.Redaction] = None
        self.proof: Optional[TlogProof] = None
        self.before: Optional[LogCheckpoint] = None
        self.after: Optional[LogCheckpoint] = None
        self.packaged: Optional[Leaf] = None
        self.history: Optional[History] = None
        self.known: Sequence[tuple[LogCheckpoint, SignedNote]] = ()
        self.results: dict[str, ItemRecord] = {}
        self.findings: list[Output] = []
        self.rested_on: list[str] = []
        self.stated: dict[str, set[StatedNumber]] = {}
        self.findings_lacking = False
        self.key_events: list[tuple[int, str, Leaf]] = []
        self.devices: list[DeviceLog] = []
        self.attested_events: set[str] = set()

    def _leaves(self) -> Iterator[tuple[int, str, Leaf]]:
        with self.container.open(manifest.LEAVES) as stream:
            lines = DigestingLines(stream, where=manifest.LEAVES, longest=manifest.MAX_LEAF, sm3=False)
            yield from visible_leaves(lines, manifest.LEAVES)

    def _leaves_with_packaged(self) -> Iterator[tuple[int, str, Leaf]]:
        yield from self._leaves()
        if self.packaged is not None and self.history is not None:
            yield self.history.size, manifest.PROOF, self.packaged

    # ---- 4 continuous ----------------------------------------------------------------------------------------

    def check_continuous(self) -> None:
        if self.history is None:
            for name in ("log_root", "packaged", "items", "disclosures", "findings", "device_logs", "key_changes", "withheld"):
                self.ledger.skip_because(name, manifest.LEAVES, "layout")
            self._check_attestations()
            self._check_rollback()
            return
        self._check_log_root(self.history)
        self._check_packaged(self.history)
        self._check_items(self.history)
        self._check_disclosures(self.history)
        self._check_findings()
        self._check_attestations()
        self._check_devices()
        self._check_key_changes(self.history)
        self._check_rollback()
        self._check_withheld(self.history)

    def _check_log_root(self, history: History) -> None:
        # 4.2
        ledger = self.ledger
        if self.before is None:
            ledger.skip_because("log_root", manifest.CHECKPOINT, "checkpoint_signatures")
            return
        if ledger.failed("events"):
            ledger.skip_because("log_root", manifest.LEAVES, "events")
            return
        root = history.root(history.size)
        assert root is not None
        if (history.size, root) != (self.before.tree_size, self.before.root):
            expected, found = f"{self.before.root.hex()} ({self.before.tree_size})", f"{root.hex()} ({history.size})"
            ledger.fail("log_root", manifest.LEAVES, "trust.log_root", expected=expected, found=found)
        if self.statement is None or not ledger.passed("statement_signature"):
            ledger.skip_because("log_root", manifest.STATEMENT, "statement_signature")
        else:
            origin = f"geoevidence/{self.statement.workspace}/{self.statement.case}"
            if self.before.origin != origin:
                ledger.fail("log_root", manifest.CHECKPOINT, "trust.log_origin", expected=origin, found=self.before.origin)
            if self.statement.checkpoint_before != self.before.to_text():
                ledger.fail("log_root", manifest.CHECKPOINT, "trust.log_statement")
        ledger.close("log_root", manifest.LEAVES, history.size)

    def _check_packaged(self, history: History) -> None:
        # 4.3
        ledger, leaf, proof, after, before = self.ledger, self.packaged, self.proof, self.after, self.before
        if leaf is None or proof is None or after is None:
            ledger.skip_because("packaged", manifest.PROOF, "seal")
            return
        event = leaf.event
        sealed = self.bag.digests.get(manifest.STATEMENT)
        paths = [each.path for each in event.outputs]
        if event.type != "packaged" or paths != [f"seal/{event.event_id}/statement.dsse"]:
            ledger.fail("packaged", manifest.PROOF, "trust.packaged_event", found=event.type)
        elif sealed is not None and _digests_of(event.outputs[0]) != sealed:
            expected = files_text(_digests_of(event.outputs[0]))
            # either may have been replaced by a valid one of another package: nothing here can tell which
            for subject in (manifest.STATEMENT, manifest.PROOF):
                ledger.fail("packaged", subject, "trust.packaged_statement", expected=expected, found=files_text(sealed))
        try:
            verify_inclusion(leaf.hash, proof.index, after.tree_size, proof.hashes, after.root)
        except GeoEvidenceError as error:
            ledger.fail_by("packaged", manifest.PROOF, error)
        if before is None or not ledger.passed("log_root"):
            ledger.skip_because("packaged", manifest.LEAVES, "checkpoint_signatures" if before is None else "log_root")
        else:
            size = before.tree_size
            if (after.origin, after.tree_size, proof.index) != (before.origin, size + 1, size):
                expected, found = f"{before.origin} {size + 1} {size}", f"{after.origin} {after.tree_size} {proof.index}"
                ledger.fail("packaged", manifest.PROOF, "trust.packaged_place", expected=expected, found=found)
            root = history.root_with(leaf.hash)
            if root != after.root:
                ledger.fail("packaged", manifest.PROOF, "trust.log_root", expected=after.root.hex(), found=root.hex())
            if event.anchor != ((size, before.root) if size else None):
                ledger.fail("packaged", manifest.PROOF, "trust.packaged_anchor")
        ledger.close("packaged", manifest.PROOF)

    def _check_items(self, history: History) -> None:
        # 4.7
        ledger, contents = self.ledger, self.bag.contents
        if ledger.failed("events"):
            ledger.skip_because("items", manifest.LEAVES, "events")
            return
        if sum(contents.item_hashes) != history.file_sum or self.kind == REDACTED:
            self._name_files(history)
        if not self.bag.items_usable:
            ledger.skip_because("items", "items.json", "tree")
        elif contents.item_sum != history.item_sum or self.kind == REDACTED:
            self._name_item_lines(history)
        ledger.close("items", manifest.LEAVES, len(contents.item_hashes))

    def _name_files(self, history: History) -> None:
        """Read the log and the list of files again, and say which outputs and files do not fit."""
        ledger, contents = self.ledger, self.bag.contents
        there = HashSet()
        for value in contents.item_hashes:
            there.add(value)
        named: set[str] = set()
        for _, _, leaf in self._leaves():
            for item in leaf.event.outputs:
                if item.path.startswith("seal/") or history.hash_of_output(item) in there:
                    continue
                path = f"data/{item.path}"
                named.add(path)
                if path in contents.unreadable:
                    continue
                if not self._exists(path):
                    if self.kind != REDACTED:
                        ledger.fail("items", path, "trust.file_missing", expected=item.item)
                elif path not in contents.blamed:
                    found = self.bag.found_at(path)
                    ledger.fail(
                        "items", path, "trust.item_digest",
                        expected=files_text(_digests_of(item)), found=None if found is None else files_text(found),
                    )  # fmt: skip
        position = 0
        for path, _ in self.container.files():
            if not manifest.is_item_path(path) or path in contents.unreadable:
                continue
            known = contents.item_hashes[position] in history.files
            position += 1
            event = path.split("/")[2]
            if not known and path not in named and (self.kind != REDACTED or history.index_of(event) is not None):
                ledger.fail("items", path, "trust.item_unknown")

    def _exists(self, path: str) -> bool:
        try:
            with self.container.open(path):
                return True
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _name_item_lines(self, history: History) -> None:
        """Read items.json and the log again, and say which lines carry another item id than the log gives."""
        stated = HashSet()
        for _, _, leaf in self._leaves():
            for item in leaf.event.outputs:
                stated.add(self.hasher.of(f"data/{item.path}", item.item))
        with self.bag.lines("items.json", longest=manifest.MAX_LINE, sm3=self.bag.sm3) as lines:
            for line in () if lines is None else manifest.parse_item_lines(lines):
                path = line.path
                if path is None or not (line.item is not None or manifest.is_item_path(path)):
                    continue
                if self.hasher.of(path, line.item) in stated or path in self.bag.contents.blamed:
                    continue
                event = path.split("/")[2] if manifest.is_item_path(path) and path.count("/") > 1 else ""
                # an item of no event at all is named with its file, an item of a withheld event cannot be compared
                if not manifest.is_item_path(path) or history.index_of(event) is not None:
                    self.ledger.fail("items", path, "trust.item_line", found=line.item)

    def _check_disclosures(self, history: History) -> None:
        # 4.8
        opened = 0
        with self.bag.lines(manifest.DISCLOSURES, longest=manifest.MAX_LINE) as lines:
            if lines is None:
                self.ledger.skip_because("disclosures", manifest.DISCLOSURES, "layout")
            elif self.ledger.failed("events"):
                self.ledger.skip_because("disclosures", manifest.DISCLOSURES, "events")
            else:
                opened = history.check_disclosures(lines, manifest.DISCLOSURES)
        self.ledger.close("disclosures", manifest.DISCLOSURES, opened)

    def _check_findings(self) -> None:
        # 4.9
        ledger, path = self.ledger, manifest.FINDINGS
        if path in self.bag.contents.blamed:
            ledger.skip_because("findings", path, "files")
            return
        if path not in self.bag.digests:
            ledger.skip_because("findings", path, "layout")
            return
        if ledger.failed("events"):
            ledger.skip_because("findings", path, "events")
            return
        count, head, tail = 0, b'{"results":[', b'],"schema":"geoevidence.package-findings.v1"}'
        sha256 = hashlib.sha256(head)
        try:
            with self.container.open(path) as stream:
                same = stream.read(len(head)) == head
                for output in self.findings:
                    data = self._item(output.item)
                    if data is None and self.kind == REDACTED and not self._exists(f"data/{output.item.path}"):
                        self.findings_lacking = True
                        continue
                    if data is None:
                        ledger.skip_because("findings", f"data/{output.item.path}", "items")
                        return
                    self._note_result(data, output)
                    expected = b"," + data if count else data
                    same = same and stream.read(len(expected)) == expected
                    sha256.update(expected)
                    count += 1
                same = same and stream.read(len(tail) + 1) == tail
        except OSError as error:
            ledger.fail("container", path, "trust.unreadable", found=error.strerror)
            return
        sha256.update(tail)
        # and it is the file whose digest was compared
        if not same or sha256.hexdigest() != self.bag.digests[path].sha256:
            ledger.fail("findings", path, "trust.findings_differ")
        ledger.close("findings", path, count)

    def _note_result(self, data: bytes, output: Output) -> None:
        """Which result a finding rests on: an item id."""
        try:
            value = loads(data, where=output.item.path, allow_floats=True)
            result = value["result"] if isinstance(value, dict) else None
        except (GeoEvidenceError, KeyError):
            value = result = None
        result = result if isinstance(result, str) else f"{output.item.item} ?"
        self.rested_on.append(result)
        self.stated.setdefault(result, set()).update(stated_numbers(value))

    def _item(self, item: ItemRecord) -> Optional[bytes]:
        return self.bag.item(f"data/{item.path}", item.sha256)

    def _check_devices(self) -> None:
        # 4.11
        latest: dict[str, DeviceLog] = {}
        for device in self.devices:
            if device.origin in latest:
                device.check_extends(latest[device.origin])
            latest[device.origin] = device
        for device in self.devices:
            device.settle(self.ledger, self.kind == REDACTED)
        if self.ledger.failed("events"):
            self.ledger.skip_because("device_logs", manifest.LEAVES, "events")
        self.ledger.close("device_logs", manifest.LEAVES, len(self.devices))

    def _check_key_changes(self, history: History) -> None:
        # 4.12
        ledger = self.ledger
        revocations: dict[str, int] = {}
        for leaf, where, parsed in self.key_events:
            event = parsed.event
            paths = [each.path for each in event.outputs]
            if paths != [f"records/{event.event_id}/key-change.json"]:
                ledger.fail("key_changes", where, "trust.key_change_event")
                continue
            data = self._item(event.outputs[0])
            if data is None:
                there = self.kind != REDACTED or self._exists(f"data/{paths[0]}")
                # which key ended is then not known: nothing may look more trusted for being left out
                for name in ("key_changes", "trusted_keys"):
                    ledger.skip_because(name, f"data/{paths[0]}", "items" if there else "withheld")
                continue
            try:
                change = manifest.parse_key_change(data, where=f"data/{paths[0]}")
            except GeoEvidenceError as error:
                ledger.fail_by("key_changes", f"data/{paths[0]}", error)
                continue
            problem = _key_change_problem(change, leaf, parsed)
            if problem:
                ledger.fail("key_changes", where, problem, found=change.effective)
                continue
            self.ended[change.key_id] = min(change.effective, self.ended.get(change.key_id, change.effective))
            if change.new_key is None:
                revocations[change.key_id] = min(leaf, revocations.get(change.key_id, leaf))
        for entry in history.entries:
            ended = self.ended.get(entry.key_id)
            if ended is None or entry.leaf < ended:
                continue
            # what a stolen key signed until that was noticed is not trusted (2.7); what comes later cannot be
            if entry.leaf > revocations.get(entry.key_id, -1):
                ledger.fail("key_changes", f"{entry.subject} {entry.event_id}", "trust.key_after_end", size=ended)
        if ledger.failed("events"):
            ledger.skip_because("key_changes", manifest.LEAVES, "events")
        ledger.close("key_changes", manifest.LEAVES, len(self.key_events))

    def _check_rollback(self) -> None:
        # 4.13
        ledger = self.ledger
        if not self.known:
            ledger.skip("rollback", self.container.label, "trust.no_checkpoint")
            return
        for number, (checkpoint, note) in enumerate(self.known, 1):
            self._check_known(checkpoint, note, f"{SOURCE} {number}" if len(self.known) > 1 else SOURCE)
        ledger.close("rollback", SOURCE, len(self.known))

    def _check_known(self, checkpoint: LogCheckpoint, note: SignedNote, subject: str) -> None:
        ledger, history = self.ledger, self.history
        keys = (self.holders.by_note_name(each.name) for each in note.signatures)
        key = next((key for key in keys if key is not None), None)
        try:
            if key is not None:
                note.verify(key)
        except GeoEvidenceError as error:
            ledger.fail_by("rollback", subject, error)
            return
        if self.after is None or history is None or not ledger.passed("packaged") or not ledger.passed("checkpoint_signatures"):
            ledger.skip_because("rollback", subject, "packaged")
            return
        shown = f"{checkpoint.root.hex()} ({checkpoint.tree_size})"
        if checkpoint.origin != self.after.origin:
            ledger.fail("rollback", subject, "trust.log_origin", expected=checkpoint.origin, found=self.after.origin)
            return
        if checkpoint.tree_size > self.after.tree_size:
            self.stale = True
            ledger.skip("rollback", subject, "trust.stale", known=checkpoint.tree_size, here=self.after.tree_size)
            return
        root = self.after.root if checkpoint.tree_size == self.after.tree_size else history.root(checkpoint.tree_size)
        assert root is not None and self.proof is not None
        if root != checkpoint.root and key is None:
            # no key that is known here signed it: no proof of anything
            ledger.fail("rollback", subject, "trust.fork_unsigned", expected=shown, found=root.hex())
        elif root != checkpoint.root:
            self.fork = True
            if self.fork_proof is None:
                self.fork_proof = (note.to_bytes().decode("utf-8"), self.proof.checkpoint.decode("utf-8"))
            ledger.fail("rollback", subject, "trust.fork", expected=shown, found=root.hex())

    def _check_withheld(self, history: History) -> None:
        # 4.15
        ledger, contents, name = self.ledger, self.bag.contents, "withheld"
        if self.redaction is not None:
            sealed = self.statement.items if self.statement is not None else 0
            # what may differ here has no line either, but it is not missing
            changed = sum(1 for path in manifest.CHANGED_BY_REDACTION if path in contents.present and path not in self._lined)
            files = contents.withheld - changed
            if files != self.redaction.files_withheld and self.bag.items_usable and sealed:
                ledger.fail(name, manifest.REDACTION, "trust.withheld_count", expected=self.redaction.files_withheld, found=files)
            if history.withheld != self.redaction.leaves_withheld and not ledger.failed("events"):
                expected, found = self.redaction.leaves_withheld, history.withheld
                ledger.fail(name, manifest.REDACTION, "trust.withheld_count", expected=expected, found=found)
            ledger.skip(
                name, manifest.REDACTION, "trust.withheld_redacted", files=self.redaction.files_withheld,
                leaves=self.redaction.leaves_withheld, disclosures=self.redaction.disclosures_withheld, reason=self.redaction.reason,
            )  # fmt: skip
            return
        if self.kind == REDACTED:
            ledger.skip_because(name, manifest.REDACTION, "seal")
        if history.withheld:
            ledger.skip(name, manifest.LEAVES, "trust.withheld_leaves", count=history.withheld)
        if contents.withheld:
            ledger.skip(name, "items.json", "trust.withheld_files", count=contents.withheld)
        ledger.close(name, manifest.LEAVES)

    @property
    def _lined(self) -> set[str]:
        """Plain files that items.json has a line for."""
        return self.bag.contents.lined

    def _check_attestations(self) -> None:
        # 4.10
        ledger, found = self.ledger, self.bag.contents.attestations
        if ledger.failed("events") or self.history is None:
            # then nobody knows which events there are
            ledger.skip_because("attestations", manifest.LEAVES, "layout" if self.history is None else "events")
            return
        for event_id in sorted(self.attested_events - found.keys()):
            path = manifest.attestation_file(event_id)
            if path not in self.bag.contents.unreadable:
                ledger.fail("attestations", path, "trust.file_missing")
        for event_id in sorted(found.keys() - self.attested_events):
            ledger.fail("attestations", manifest.attestation_file(event_id), "trust.attestation_unknown")
        ledger.close("attestations", manifest.ATTESTATIONS, len(found))


def _digests_of(item: ItemRecord) -> FileDigests:
    return FileDigests(item.sha256, item.sm3, item.size)


def _key_change_problem(change: manifest.KeyChange, leaf: int, parsed: Leaf) -> str:
    """Message id of what is wrong with a key change at an index of the log, or "" (docs/formats/trust.md)."""
    if change.new_key is None:
        return "" if change.effective <= leaf + 1 else "trust.key_change_effective"
    if change.effective != leaf + 1:
        return "trust.key_change_effective"
    signers = {each.keyid for each in parsed.envelope.signatures}
    new = change.new_key.key.key_id
    if parsed.event.key_id != change.key_id or new == change.key_id or not {change.key_id, new} <= signers:
        return "trust.key_change_signers"
    return ""
