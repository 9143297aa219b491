"""One log, read leaf by leaf: that it is one history without a gap (checks 2.4, 3.1, 4.1, 4.4 to 4.6).

The log of a package and the logs of field devices inside it are read by the same code. What must
be remembered of a log with a million items is kept as 64-bit hashes under a key of this run: two
things that differ agree in one of them by chance alone, and nobody can have prepared for the key.
When hashes disagree, `name_inputs` and the caller read the log again to name what is wrong.
Reports to a `Ledger`; opens no file. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Callable, NamedTuple, Optional

from geoevidence.trust.digests import FileDigests, open_commitment
from geoevidence.trust.errors import FormatError, GeoEvidenceError
from geoevidence.trust.events import Event, ItemRecord, Leaf, parse_leaf
from geoevidence.trust.holders import Holders, Use
from geoevidence.trust.manifest import parse_disclosure_line
from geoevidence.trust.merkle import RootBuilder
from geoevidence.trust.signatures import Envelope
from geoevidence.trust.verdict import Ledger

MOST_OUTPUTS = 50_000
"""Most outputs of one event in a package of version 2."""
MOST_UNREAD = 1000
"""Most leaves that cannot be read before the rest is left: to refuse one costs as much as to read an honest one of a thousand bytes."""
_SEALED = {"packaged": "statement.dsse", "exported": "redaction.dsse"}
"""Type of event -> name of its one output in the folder `seal`, which is not a file under data/."""
_WITHHELD = re.compile(rb'\{"withheld":"([0-9a-f]{64})"\}')
PACKAGE_LOG = {
    name: name for name in ("events", "event_signatures", "claimed_order", "chains", "anchors", "inputs", "items", "disclosures")
}
"""Names of the checks where the log is that of a package."""


class Hasher:
    """64-bit hashes of texts under a key of this run."""

    def __init__(self) -> None:
        self._key = os.urandom(16)

    def of(self, *parts: object) -> int:
        text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=self._key).digest(), "big")

    def file(self, path: str, digests: FileDigests) -> int:
        """Of a file of a package and its bytes."""
        return self.of(path, *digests)


class HashSet:
    """Many 64-bit hashes, 8 bytes each; asked only after the last was added."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted = True

    def add(self, value: int) -> None:
        self._hashes.append(value)
        self._sorted = False

    def __contains__(self, value: int) -> bool:
        if not self._sorted:
            self._hashes = array("Q", sorted(self._hashes))
            self._sorted = True
        place = bisect_left(self._hashes, value)
        return place < len(self._hashes) and self._hashes[place] == value

    def __len__(self) -> int:
        return len(self._hashes)


class Entry(NamedTuple):
    """What is remembered of a visible event. leaf: index. subject: line of the file. anchored: tree size of its anchor, 0 without."""

    leaf: int
    subject: str
    event_id: str
    type: str
    role: str
    key_id: str
    time_claimed: str
    anchored: int
    attested_time: Optional[str]


def parse_line(line: bytes, where: str) -> tuple[bytes, Optional[Leaf]]:
    """Leaf hash and leaf of a line of leaves.jsonl; no leaf where it is withheld. Raises FormatError."""
    if line.startswith(b'{"withheld"'):
        withheld = _WITHHELD.fullmatch(line)
        if withheld is None:
            raise FormatError("trust.leaf_withheld", where=where)
        return bytes.fromhex(withheld.group(1).decode("ascii")), None
    leaf = parse_leaf(line, where=where)
    return leaf.hash, leaf


def visible_leaves(lines: Iterable[bytes], where: str) -> Iterator[tuple[int, str, Leaf]]:
    """(index, line of the file, leaf) of the events that can be read, for a second reading; what cannot is passed over."""
    try:
        for index, line in enumerate(lines):
            subject = f"{where}:{index + 1}"
            try:
                leaf = parse_line(line, subject)[1]
            except GeoEvidenceError:
                continue
            if leaf is not None:
                yield index, subject, leaf
    except (GeoEvidenceError, OSError):
        return


class History:
    """A log while it is read.

    where: its file. names: check of `PACKAGE_LOG` -> the name under which it is reported.
    case: every event must be of it; None: not known. most_outputs: of one event, None for any number.
    size: leaves so far. withheld: how many of them. broken: leaves could not be read, so that later ones say nothing.
    entries: the visible events. uses: of keys that signed them.
    files: hashes of the outputs as files of a package; file_sum, item_sum: sums of the hashes of those that lie under
        data/, and of their paths with item ids. A sum of keyed hashes tells one multiset from another but by chance.
    """

    def __init__(
        self,
        where: str,
        *,
        ledger: Ledger,
        holders: Holders,
        hasher: Hasher,
        names: Mapping[str, str] = PACKAGE_LOG,
        case: Optional[str] = None,
        most_outputs: Optional[int] = MOST_OUTPUTS,
        with_sm3: bool = True,
    ) -> None:
        self.where, self.names, self.case = where, names, case
        self._ledger, self._holders, self._hasher = ledger, holders, hasher
        self._most_outputs, self._with_sm3 = most_outputs, with_sm3
        self.size, self.withheld, self.broken = 0, 0, False
        self.entries: list[Entry] = []
        self.uses: list[Use] = []
        self.files = HashSet()
        self.file_sum = self.item_sum = 0
        self.input_count = 0
        self._builder = RootBuilder()
        self._roots = bytearray(self._builder.root())
        self._places: dict[bytes, tuple[int, str]] = {}
        self._chain_keys: dict[str, str] = {}
        self._events: dict[str, int] = {}
        self._latest: dict[str, Entry] = {}
        self._outputs = HashSet()
        self._inputs: list[tuple[int, str, array[int]]] = []
        self._withheld_sources: dict[str, tuple[int, str]] = {}
        self._commitments: dict[int, dict[str, str]] = {}

    # ---- reading ----

    def read(self, lines: Iterable[bytes], visit: Optional[Callable[[int, str, Leaf], None]] = None) -> None:
        """All lines of the log; `visit` is called with index, line and leaf of each event that is whole."""
        unread = 0
        try:
            for line in lines:
                subject = f"{self.where}:{self.size + 1}"
                try:
                    hash_of_leaf, leaf = parse_line(line, subject)
                    if leaf is not None and leaf.event.event_id in self._events:
                        raise FormatError("trust.event_twice", where=subject, event_id=leaf.event.event_id)
                except GeoEvidenceError as error:
                    self._fail_by("events", subject, error)
                    self.broken = True
                    self.size += 1
                    unread += 1
                    if unread == MOST_UNREAD:
                        raise FormatError("trust.leaves_unread", where=subject, limit=MOST_UNREAD) from error
                    continue
                if leaf is not None and visit is not None:
                    visit(self.size, subject, leaf)
                self._take(hash_of_leaf, leaf, subject)
        except GeoEvidenceError as error:
            self._fail_by("events", self.where, error)
            self.broken = True

    def _take(self, hash_of_leaf: bytes, leaf: Optional[Leaf], subject: str) -> None:
        index = self.size
        if leaf is None:
            self.withheld += 1
        else:
            self.examine(leaf, index, subject)
            self._check_folders(leaf.event)
        self._places[hash_of_leaf] = (index, "" if leaf is None else leaf.event.event_id)
        self._builder.append(hash_of_leaf)
        self._roots += self._builder.root()
        self.size += 1

    def root(self, size: int) -> Optional[bytes]:
        """Root of the first `size` leaves; None where there are not so many."""
        return bytes(self._roots[32 * size : 32 * size + 32]) if 0 <= size <= self._builder.size else None

    def index_of(self, event_id: str) -> Optional[int]:
        """Index of a visible event."""
        return self._events.get(event_id)

    def root_with(self, hash_of_leaf: bytes) -> bytes:
        """Root after one more leaf."""
        builder = self._builder.copy()
        builder.append(hash_of_leaf)
        return builder.root()

    def examine(self, leaf: Leaf, index: int, subject: str) -> None:
        """One event against the leaves before it; also for an event that is not in the file, as its next."""
        event = leaf.event
        if self.case is not None and event.case != self.case:
            self._fail("events", subject, "trust.event_case", expected=self.case, found=event.case)
        if self._most_outputs is not None and len(event.outputs) > self._most_outputs:
            self._fail("events", subject, "trust.event_outputs", found=len(event.outputs), limit=self._most_outputs)
        size, root = event.anchor or (0, b"")
        attested = event.raw["anchor"]["attested_time"] if event.anchor else None
        entry = Entry(index, subject, event.event_id, event.type, event.role, event.key_id, event.time_claimed, size, attested)
        where = f"{subject} {event.event_id}"
        # 2.4
        self._check_signatures(leaf.envelope, entry, where)
        # 3.1
        previous = self._latest.get(event.key_id)
        if previous is not None and event.time_claimed < previous.time_claimed and "claimed_order" in self.names:
            values = {"earlier": previous.event_id, "earlier_time": previous.time_claimed, "time": event.time_claimed}
            self._ledger.skip(self.names["claimed_order"], event.event_id, "trust.time_backwards", **values)
        self._latest[event.key_id] = entry
        # after a leaf that cannot be read nothing before is known for sure
        if not self.broken:
            self._check_chain(event, where)
            # 4.5
            if event.anchor is not None and (size > index or self.root(size) != root):
                self._fail("anchors", where, "trust.anchor_wrong", found=f"{root.hex()} ({size})")
            self._note_items(event, index, where)
        self._events[event.event_id] = index
        self._commitments[index] = event.commitments
        self.entries.append(entry)

    def _check_signatures(self, envelope: Envelope, entry: Entry, where: str) -> None:
        name = self.names["event_signatures"]
        if self._ledger.spoilt("keys") and any(each.keyid not in self._holders.keys for each in envelope.signatures):
            self._ledger.skip_because(name, where, "keys")
            return
        try:
            envelope.verify(self._holders.keys, where=where)
        except GeoEvidenceError as error:
            self._fail_by("event_signatures", where, error)
        self.uses += [Use(each.keyid, entry.role, entry.time_claimed, entry.leaf, entry.subject) for each in envelope.signatures]

    def _check_folders(self, event: Event) -> None:
        # 4.7: what stands under seal/ is not looked for under data/, so nothing else may hide there
        sealed = f"seal/{event.event_id}/{_SEALED.get(event.type, '')}"
        for item in event.outputs:
            if item.path.startswith("seal/") and item.path != sealed:
                self._fail("items", f"data/{item.path}", "trust.item_folder", found=event.type)

    def _check_chain(self, event: Event, where: str) -> None:
        # 4.4: an id that begins alike would let one key take up the numbers of another
        first = self._chain_keys.setdefault(event.key_id[:8], event.key_id)
        if first != event.key_id:
            self._fail("chains", where, "trust.chain_shared", expected=first, found=event.key_id)
        # null in the first alone, and 4.1 finds a second first: same event id
        if event.prev_event is None:
            return
        found = self._places.get(bytes.fromhex(event.prev_event[7:]))
        expected = f"E-{event.key_id[:8]}-{event.seq - 1}"
        if found is None:
            self._fail("chains", where, "trust.chain_gap", found=event.prev_event)
        # a withheld leaf has no name here: its hash alone must be the stated one
        elif found[1] not in ("", expected):
            self._fail("chains", where, "trust.chain_gap", expected=expected, found=found[1])

    def _note_items(self, event: Event, index: int, where: str) -> None:
        hashes = array("Q")
        for item in event.inputs:
            source = self._events.get(item.item.rpartition("-")[0])
            if source is None and self.withheld:
                self._withheld_sources.setdefault(item.item.rpartition("-")[0], (index, where))
                continue
            hashes.append(self._hasher.of(*item) if source is not None else 0)
        if hashes:
            self._inputs.append((index, where, hashes))
            self.input_count += len(hashes)
        paths: set[str] = set()
        for item in event.outputs:
            if item.path in paths:
                self._fail("items", f"data/{item.path}", "trust.item_twice", found=item.item)
            paths.add(item.path)
            self._outputs.add(self._hasher.of(*item))
            value = self.hash_of_output(item)
            self.files.add(value)
            if not item.path.startswith("seal/"):
                self.file_sum += value
                self.item_sum += self._hasher.of(f"data/{item.path}", item.item)

    def hash_of_output(self, item: ItemRecord) -> int:
        """Hash of the file that an output must be."""
        return self._hasher.file(f"data/{item.path}", FileDigests(item.sha256, item.sm3 if self._with_sm3 else "", item.size))

    # ---- afterwards ----

    def bad_inputs(self) -> dict[int, str]:
        """4.6: index -> subject of the events with an input that is no output of an earlier event."""
        # a source that was taken for withheld, and then came later
        bad = {index: where for event_id, (index, where) in self._withheld_sources.items() if event_id in self._events}
        for index, where, hashes in self._inputs:
            if not all(value in self._outputs for value in hashes):
                bad[index] = where
        return bad

    def name_inputs(self, bad: Mapping[int, str], leaves: Callable[[], Iterable[tuple[int, str, Leaf]]]) -> None:
        """Report the inputs of `bad_inputs`; `leaves` reads the log once more."""
        wrong: list[tuple[str, ItemRecord, int]] = []
        for index, _, leaf in leaves():
            if index in bad:
                for item in leaf.event.inputs:
                    source = self._events.get(item.item.rpartition("-")[0])
                    if (source is None and not self.withheld) or (
                        source is not None and (source >= index or self._hasher.of(*item) not in self._outputs)
                    ):
                        wrong.append((bad[index], item, index))
        wanted = {item.item for _, item, _ in wrong}
        known = {item.item: item for _, _, leaf in leaves() for item in leaf.event.outputs if item.item in wanted}
        for where, item, _ in wrong:
            self._fail("inputs", where, "trust.input_unknown", expected=item_text(known.get(item.item)), found=item_text(item))

    def check_disclosures(self, lines: Iterable[bytes], where: str) -> int:
        """4.8: every line opens commitments of an event; the number of fields opened."""
        opened, last, seen = 0, -1, set()
        try:
            for number, line in enumerate(lines, 1):
                event_id, fields = parse_disclosure_line(line, where=f"{where}:{number}")
                subject = f"{where}:{number} {event_id}"
                if event_id in seen:
                    raise FormatError("trust.disclosure_fields", where=subject)
                seen.add(event_id)
                index = self._events.get(event_id)
                if index is None or index <= last:
                    detail = "trust.disclosure_event" if index is None else "trust.disclosure_order"
                    self._fail("disclosures", subject, detail)
                    continue
                last = index
                opened += self._open(fields, self._commitments[index], subject)
        except GeoEvidenceError as error:
            self._fail_by("disclosures", where, error)
        return opened

    def _open(self, fields: Mapping[str, object], commitments: Mapping[str, str], subject: str) -> int:
        opened = 0
        for name, disclosure in fields.items():
            try:
                if name not in commitments:
                    raise FormatError("trust.disclosure_field", where=subject, field=name)
                open_commitment(commitments[name], disclosure)
                opened += 1
            except GeoEvidenceError as error:
                self._fail_by("disclosures", subject, error)
        return opened

    def _fail(self, name: str, subject: str, detail: str, **values: object) -> None:
        self._ledger.fail(self.names[name], subject, detail, **values)

    def _fail_by(self, name: str, subject: str, error: GeoEvidenceError) -> None:
        self._ledger.fail_by(self.names[name], subject, error)


def item_text(item: Optional[ItemRecord]) -> Optional[str]:
    """An item in words, for a report."""
    return None if item is None else f"{item.item} {item.path} sha256:{item.sha256} sm3:{item.sm3} {item.size} B"
