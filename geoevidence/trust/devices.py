"""The log of a field device that was taken into a package (check 4.11; docs/formats/event.md, `received` by sync).

Its signatures, root, numbering and anchors are checked as they were made, and the originals received
must be outputs of it. What is found waits until the digests of the device's documents are known to
be those of the package's log: a file that was changed since is the fault of 1.7. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

from geoevidence.trust import manifest
from geoevidence.trust.bag import Bag
from geoevidence.trust.digests import DigestingLines
from geoevidence.trust.errors import FormatError, GeoEvidenceError
from geoevidence.trust.events import Event, ItemRecord, Leaf
from geoevidence.trust.history import PACKAGE_LOG, Hasher, History, visible_leaves
from geoevidence.trust.holders import Holders, Use
from geoevidence.trust.notes import LogCheckpoint, parse_checkpoint
from geoevidence.trust.policy import LOG_ROLE, TrustPolicy
from geoevidence.trust.verdict import Ledger

DOCUMENTS = ("device-leaves.jsonl", "device-disclosures.jsonl", "device-checkpoint", "device-keys.json")
"""First outputs of the event, in this order."""
_ORIGIN = re.compile(r"geoevidence/(W-[0-9a-f]{10})/(C-[0-9a-f]{10})", re.ASCII)
_PARAMETERS = {"origin": str, "tree_size": int, "root": str, "workspace": str, "files": int}
_NAME = "device_logs"
_NAMES = {name: _NAME for name in PACKAGE_LOG if name != "claimed_order"}


class DeviceLog:
    """One log that was taken in. leaf: index of the event that took it in. uses: of keys in it, as of that index."""

    def __init__(self, leaf: int, where: str, event: Event, bag: Bag, policy: TrustPolicy) -> None:
        self.leaf, self.where, self.event, self._bag = leaf, where, event, bag
        self.holders = Holders(policy)
        self.uses: list[Use] = []
        self.origin = ""
        self._history: Optional[History] = None
        self._ledger = Ledger()
        self._documents: dict[str, ItemRecord] = {}
        try:
            self._check()
        except GeoEvidenceError as error:
            self._ledger.fail_by(_NAME, where, error)

    def settle(self, ledger: Ledger, redacted: bool) -> None:
        """Hand over what was found, unless a document is not the one that the package's log states."""
        for item in self._documents.values():
            path = f"data/{item.path}"
            found = self._bag.digests.get(path)
            if found is None and redacted:
                # withheld with its event's other files: counted by 4.15
                return
            if found is None or found.sha256 != item.sha256:
                ledger.skip_because(_NAME, path, "items")
                # who signed on the device is then not known either
                ledger.skip_because("trusted_keys", path, _NAME)
                return
        for check in self._ledger.sorted():
            ledger.add(check)

    def check_extends(self, earlier: DeviceLog) -> None:
        """A log that was taken in before must be the beginning of this one, of the same device."""
        if earlier.origin != self.origin or self._history is None or earlier._history is None:
            return
        size = earlier._history.size
        if self._history.root(size) != earlier._history.root(size):
            self._ledger.fail(_NAME, self.where, "trust.device_history", expected=earlier.where)

    def _check(self) -> None:
        event = self.event
        folder = f"records/{event.event_id}/"
        outputs = event.outputs
        if [each.path for each in outputs[:4]] != [folder + name for name in DOCUMENTS]:
            raise FormatError("trust.device_event", where=self.where)
        self._documents = dict(zip(DOCUMENTS, outputs))
        self._bag.watched.update(f"data/{each.path}" for each in outputs[:4])
        received = self._received(outputs[4:])
        parameters = event.raw["process"]["parameters"]
        kinds = {name: type(value) for name, value in parameters.items()}
        if kinds != _PARAMETERS or parameters["files"] != len(received):
            raise FormatError("trust.device_event", where=self.where)
        self._read_keys()
        checkpoint = self._read_checkpoint()
        stated = (parameters["origin"], parameters["tree_size"], parameters["root"])
        if checkpoint is not None and stated != (checkpoint.origin, checkpoint.tree_size, checkpoint.root.hex()):
            raise FormatError("trust.device_checkpoint", where=self.where)
        origin = _ORIGIN.fullmatch(parameters["origin"])
        if origin is None or origin.group(1) != parameters["workspace"]:
            raise FormatError("trust.device_event", where=self.where)
        self.origin = origin.group()
        self._read_log(checkpoint, origin.group(2), received)

    def _received(self, items: tuple[ItemRecord, ...]) -> dict[str, ItemRecord]:
        """Path on the device -> item here."""
        folder = f"originals/{self.event.event_id}/"
        for each in items:
            if not each.path.startswith(folder):
                raise FormatError("trust.device_event", where=self.where)
        return {f"originals/{each.path[len(folder) :]}": each for each in items}

    def _path(self, name: str) -> str:
        return f"data/{self._documents[name].path}"

    def _read_keys(self) -> None:
        path = self._path("device-keys.json")
        data = self._bag.read(path, _NAME)
        if data is None:
            return
        for problem in self.holders.add(manifest.parse_keys(data, where=path), where=path):
            self._ledger.fail_by(_NAME, path, problem)

    def _read_checkpoint(self) -> Optional[LogCheckpoint]:
        path = self._path("device-checkpoint")
        data = self._bag.read(path, _NAME)
        if data is None:
            return None
        checkpoint, note = parse_checkpoint(data, where=path)
        if len(note.signatures) != 1:
            raise FormatError("trust.note_one_signature", where=path, found=len(note.signatures))
        key = self.holders.by_note_name(note.signatures[0].name)
        if key is None:
            raise FormatError("trust.key_unknown", where=path, key_id=note.signatures[0].name)
        note.verify(key)
        # who says that the log ends there is asked by 2.7 as well: without that anybody could cut it
        self.uses.append(Use(key.key_id, LOG_ROLE, self.event.time_claimed, self.leaf, f"{self.where} {path}"))
        return checkpoint

    def _read_log(self, checkpoint: Optional[LogCheckpoint], case: str, received: dict[str, ItemRecord]) -> None:
        path = self._path("device-leaves.jsonl")
        history = History(path, ledger=self._ledger, holders=self.holders, hasher=Hasher(), names=_NAMES, case=case)
        waiting = dict(received)

        def visit(_: int, __: str, leaf: Leaf) -> None:
            for item in leaf.event.outputs:
                here = waiting.get(item.path)
                if here is not None and (here.size, here.sha256, here.sm3) == (item.size, item.sha256, item.sm3):
                    del waiting[item.path]

        with self._bag.lines(path, longest=manifest.MAX_LEAF) as lines:
            if lines is None:
                return
            history.read(lines, visit)
        self._history = history
        bad = history.bad_inputs()
        if bad:
            history.name_inputs(bad, lambda: self._again(path))
        if history.withheld:
            self._ledger.fail(_NAME, path, "trust.device_withheld", found=history.withheld)
        root = history.root(history.size)
        if checkpoint is not None and not history.broken and (history.size, root) != (checkpoint.tree_size, checkpoint.root):
            expected = f"{checkpoint.root.hex()} ({checkpoint.tree_size})"
            found = f"{'' if root is None else root.hex()} ({history.size})"
            self._ledger.fail(_NAME, path, "trust.log_root", expected=expected, found=found)
        for name, item in waiting.items():
            self._ledger.fail(_NAME, f"data/{item.path}", "trust.device_file", expected=name)
        disclosures = self._path("device-disclosures.jsonl")
        with self._bag.lines(disclosures, longest=manifest.MAX_LINE) as lines:
            if lines is not None:
                history.check_disclosures(lines, disclosures)
        self.uses += [use._replace(leaf=self.leaf, subject=f"{self.where} {use.subject}") for use in history.uses]

    def _again(self, path: str) -> Iterator[tuple[int, str, Leaf]]:
        with self._bag.container.open(path) as stream:
            lines = DigestingLines(stream, where=path, longest=manifest.MAX_LEAF, sm3=False)
            yield from visible_leaves(lines, path)
