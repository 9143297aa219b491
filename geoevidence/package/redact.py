"""Redacted copies: a sealed package without some files, log entries or names; the rest is still proved to belong to it.

Needs no workspace. Items are chosen by id or pattern; whatever in the copy would still name them (findings, reports,
results, attestations) is found and must be withheld too, or be accepted by name. The sealed package is verified first,
the copy before it gets its name. Formats and counts: docs/formats/package.md, "Redacted copy".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from geoevidence.custody import Case, CustodyEvent, Session
from geoevidence.custody.keys import KEY_CHANGE
from geoevidence.custody.log import sign_envelope
from geoevidence.errors import PackageError
from geoevidence.package.bag import Content, NewBag, ShortDocument, Spool, new_bag, storing, tag_files
from geoevidence.package.crate import redacted_crate
from geoevidence.package.instructions import redacted_text
from geoevidence.package.mentions import Needles
from geoevidence.package.opened import OpenPackage, open_package
from geoevidence.package.seal import SOFTWARE
from geoevidence.trust.archive import sort_key
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.trust.checks import verify_package
from geoevidence.trust.digests import FileDigests
from geoevidence.trust.events import Leaf, parse_leaf
from geoevidence.trust.manifest import (
    BEFORE_RECORDING,
    CHANGED_BY_REDACTION,
    CRATE,
    DISCLOSURES,
    FINDINGS,
    KEYS,
    LEAVES,
    REDACTION,
    STATEMENT_PAYLOAD_TYPE,
    ItemLine,
    NamedKey,
    Redaction,
    Statement,
    attestation_file,
    item_line_bytes,
    keys_bytes,
    parse_disclosure_line,
    parse_keys,
)
from geoevidence.types import ProcessResult, Progress, no_progress, utc_text

FIELDS = ("actor.id", "device.serial", "note")
"""Fields of an event that are commitments and can be withheld."""
_BLOCK, _OVERLAP = 64 << 20, 1 << 20
_UNREADABLE = (".pdf", ".zip", ".gz", ".7z", ".docx", ".xlsx", ".kmz")
_UNREADABLE_STARTS = (b"%PDF-", b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\xd0\xcf\x11\xe0")
"""The same by their first bytes, whatever they are called: PDF, zip (office documents too), gzip, 7z, rar, old office documents."""
_NAMED = ("data/originals/", "data/derived/")
"""Where files have names of their own; those of records and reports are fixed."""
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A file of the copy that speaks of something withheld. item: its id, or None; what: the first thing it names."""

    path: str
    item: str | None
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactedCopy:
    """A redacted copy that was signed and verified.

    files_withheld, leaves_withheld, disclosures_withheld: as in its `seal/redaction.dsse`.
    withheld: item ids, also of those that were added because they mention others.
    mentions: files that still name something withheld; only where that was accepted.
    not_searched: files that cannot be searched for mentions (PDF, archives), and words that are too short to be.
    made_from: files of the copy that were computed from withheld ones, and may show what was to be left out.
    event: the `exported` event, or None where no case was given. size: bytes.
    """

    path: Path
    package_root: str
    files_withheld: int
    leaves_withheld: int
    disclosures_withheld: int
    withheld: tuple[str, ...]
    mentions: tuple[Mention, ...]
    not_searched: tuple[str, ...]
    made_from: tuple[str, ...]
    event: CustodyEvent | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionRequest:
    """What is to be left out.

    withhold: item ids, or patterns (`*`, `?`, `[...]`) of ids or paths. fields: of `FIELDS`, in every event.
    keep_log: events stay although they name withheld items, whose names and digests then remain visible.
    withhold_mentions: items that name a withheld item are withheld too. allow_mentions: they may stay as they are.
    reason: why; stands in the copy.
    """

    withhold: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    keep_log: bool = False
    withhold_mentions: bool = False
    allow_mentions: bool = False
    reason: str

    def __post_init__(self) -> None:
        for name in self.fields:
            if name not in FIELDS:
                raise PackageError("package.redact_unknown_field", field=name, known=", ".join(FIELDS))
        if not self.reason.strip():
            raise PackageError("package.redact_no_reason")
        if not self.withhold and not self.fields:
            raise PackageError("package.redact_nothing")


def redact_package(
    package: Path,
    out: Path,
    request: RedactionRequest,
    *,
    session: Session,
    case: Case | None = None,
    archive: bool = False,
    progress: Progress = no_progress,
) -> RedactedCopy:
    """Make a redacted copy of a sealed package.

    Args:
        package: folder or zip, of version 1 or 2; it is only read.
        out: where the copy goes, a folder or (`archive`) a zip.
        request: what is left out, and why.
        session: who signs the redaction.
        case: whose log gets the `exported` event, or None.

    Raises: PackageError for a package that does not verify or is not a sealed one, a pattern that matches nothing,
        mentions that were not accepted, a case that is another, or a copy that does not verify; CustodyError.
    """
    progress("package.stage.verify", 0.0)
    report = verify_package(package, progress=lambda _, fraction: progress("package.stage.verify", fraction))
    with open_package(Path(package)) as opened, new_bag(Path(out), archive=archive) as bag:
        if opened.kind != "package":
            raise PackageError("package.redact_not_sealed", path=package, kind=opened.kind)
        if not report.verified:
            first = next((check for check in report.checks if check.status != "passed"), None)
            shown = "-" if first is None else f"{first.number} {first.subject}"
            raise PackageError("package.redact_broken", path=package, check=shown)
        statement = opened.statement()
        if case is not None and (case.id, case.workspace_id) != (statement.case, statement.workspace):
            raise PackageError("package.redact_other_case", case=case.id, found=statement.case)
        progress("package.stage.search", 0.0)
        plan = _Plan(opened, request)
        with storing(bag.out):
            copy = _Copy(opened, statement, plan, request, session, bag.spool)
        if copy.mentions and not request.allow_mentions:
            shown = "; ".join(f"{each.item or '-'} {each.path} ({each.what})" for each in copy.mentions[:_SHOWN])
            raise PackageError("package.redact_mentions", count=len(copy.mentions), files=shown)
        progress("package.stage.copy", 0.0)
        bag.add(copy.contents)
        bag.finish()
        _require_verified(bag, progress)
        made_from = plan.made_from()
        event = None if case is None else case.record_export(copy.signed)
        bag.publish()
    return RedactedCopy(
        path=bag.out,
        package_root=statement.package_root,
        files_withheld=copy.redaction.files_withheld,
        leaves_withheld=copy.redaction.leaves_withheld,
        disclosures_withheld=copy.redaction.disclosures_withheld,
        withheld=tuple(sorted(plan.items, key=lambda item: sort_key(plan.items[item]))),
        mentions=copy.mentions,
        not_searched=(*plan.not_searched, *plan.things.too_short, *plan.words.too_short),
        made_from=made_from,
        event=event,
        size=bag.size,
    )


class _Plan:
    """What is left out of one package: items first, then the events that name them, then what mentions either.

    items: item id -> path in the package. events: ids of withheld events. mentions: files that stay and name what goes.
    """

    def __init__(self, opened: OpenPackage, request: RedactionRequest) -> None:
        self._opened, self._request = opened, request
        self._order = {leaf.event.event_id: index for index, leaf in enumerate(self.leaves())}
        self.items: dict[str, str] = {}
        self._digests: list[str] = []
        self.mentions: tuple[Mention, ...] = ()
        self.not_searched: list[str] = []
        self._choose()
        self.words = Needles((), (), self._withheld_words())
        while True:
            self.things = self._needles()
            self.events = set() if request.keep_log else {leaf.event.event_id for leaf in self.leaves() if self._names(leaf)}
            ended = next(
                (leaf.event for leaf in self.leaves() if leaf.event.type == "key_rotated" and leaf.event.event_id in self.events),
                None,
            )
            if ended is not None:
                raise PackageError("package.redact_key_change", path=ended.event_id)
            self.mentions = tuple(self._mentioning())
            if not (self.mentions and request.withhold_mentions):
                return
            more = {each.item for each in self.mentions}
            for line in opened.items():
                if line.item in more:
                    self._withhold(line)

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf of the sealed package."""
        for number, (_, raw) in enumerate(self._opened.leaves(), 1):
            if raw is not None:
                yield parse_leaf(raw, where=f"{LEAVES}:{number}")

    def made_from(self) -> tuple[str, ...]:
        """Paths of items that stay although they were computed from withheld ones, in the order of the package."""
        tainted = set(self.items)
        for leaf in self.leaves():
            if leaf.event.type == "derived" and any(ref.item in tainted for ref in leaf.event.inputs):
                tainted |= {ref.item for ref in leaf.event.outputs}
        tainted -= set(self.items)
        return tuple(str(line.path) for line in self._opened.items() if line.item in tainted)

    def _choose(self) -> None:
        matched = dict.fromkeys(self._request.withhold, False)
        for line in self._opened.items():
            if line.item is None or line.path is None:
                continue
            for pattern in matched:
                names = (line.item, line.path, line.path.removeprefix("data/"))
                if any(name == pattern or fnmatchcase(name, pattern) for name in names):
                    matched[pattern] = True
                    self._withhold(line)
        for pattern, found in matched.items():
            if not found:
                raise PackageError("package.redact_no_match", pattern=pattern)

    def _withhold(self, line: ItemLine) -> None:
        if str(line.path).startswith("data/records/") and str(line.path).endswith(f"/{KEY_CHANGE}"):
            # a reader must be able to see that a key had ended
            raise PackageError("package.redact_key_change", path=line.path)
        if line.item is not None and line.item not in self.items:
            self.items[line.item] = str(line.path)
            self._digests += [str(line.sha256), str(line.sm3)]

    def _withheld_words(self) -> set[str]:
        """Texts of withheld fields that no field which stays discloses."""
        gone: set[str] = set()
        stays: set[str] = set()
        for _, disclosed in _disclosures(self._opened):
            for name, each in disclosed.items():
                (gone if name in self._request.fields else stays).add(str(each["value"]))
        return gone - stays

    def _needles(self) -> Needles:
        kept: set[str] = set()
        for line in self._opened.items():
            if line.item is not None and line.path is not None and line.item not in self.items:
                kept |= _names_of(line.path)
        names: set[str] = set()
        for path in self.items.values():
            # the path from its event on: originals/E-.../x is found as E-.../x as well
            names.add(path.split("/", 2)[2])
            if path.startswith(_NAMED) and not path.endswith(f"/{ProcessResult.FILE}"):
                # a name that a file has which stays says nothing of the other
                names |= _names_of(path) - kept
        return Needles([*self.items, *self._digests], names)

    def _names(self, leaf: Leaf) -> bool:
        """The event names a withheld item, or says a withheld word."""
        return self.things.found_in(leaf.envelope.payload) is not None or self.said(leaf) is not None

    def said(self, leaf: Leaf) -> str | None:
        """A withheld word among the parameters of an event or in the paths of its files, not in the names of its fields."""
        process = leaf.event.raw["process"]
        paths = [ref.path for ref in (*leaf.event.inputs, *leaf.event.outputs)]
        return self.words.found_in(dumps([paths, process and process["parameters"]]))

    def _mentioning(self) -> Iterator[Mention]:
        """Items that stay and name what goes."""
        self.not_searched = []
        first = min((self._order[_event_of(item)] for item in self.items), default=None)
        for line in self._opened.items():
            if line.item is None or line.path is None or line.item in self.items or not (self.things or self.words):
                continue
            if line.path.startswith("data/report/") and first is not None and self._order[_event_of(line.item)] > first:
                # a report lists the digests of all items before it, in a form that cannot be searched
                yield Mention(path=line.path, item=line.item, what="*")
            elif line.path.lower().endswith(_UNREADABLE) or self._starts(line.path).startswith(_UNREADABLE_STARTS):
                self.not_searched.append(line.path)
            elif (what := self._search(line.path)) is not None:
                yield Mention(path=line.path, item=line.item, what=what)

    def _starts(self, path: str) -> bytes:
        with self._opened.container.open(path) as stream:
            return stream.read(8)

    def _search(self, path: str) -> str | None:
        with self._opened.container.open(path) as stream:
            tail = b""
            while block := stream.read(_BLOCK):
                if (what := self.found_in(tail + block)) is not None:
                    return what
                tail = block[-_OVERLAP:]
        return None

    def found_in(self, data: bytes) -> str | None:
        """The first withheld thing or word in the bytes, or None."""
        return self.things.found_in(data) or self.words.found_in(data)


def _event_of(item: str) -> str:
    return item.rpartition("-")[0]


def _names_of(path: str) -> set[str]:
    """The file name, and the path below `data/<folder>/<event>/`."""
    return {path.rpartition("/")[2], path.split("/", 3)[3]}


def _disclosures(opened: OpenPackage) -> Iterator[tuple[str, dict[str, Any]]]:
    """(event id, {field: {salt, value}}) of each line of the disclosures."""
    for number, line in enumerate(opened.lines(DISCLOSURES), 1):
        yield parse_disclosure_line(line, where=f"{DISCLOSURES}:{number}")


class _Counts:
    """How much is left out."""

    def __init__(self) -> None:
        self.files = self.leaves = self.disclosures = 0


class _Copy:
    """Every file of the copy. contents: path -> content; mentions: of files that are written anew, or stay in seal/."""

    def __init__(
        self, opened: OpenPackage, statement: Statement, plan: _Plan, request: RedactionRequest, session: Session, spool: Spool
    ) -> None:
        self._opened, self._plan, self._request = opened, plan, request
        counts = _Counts()
        gone = {*plan.items.values(), *(attestation_file(event) for event in plan.events)}
        payload = {path: content for path, content in self._kept(gone)}
        payload |= self._rewritten(gone, session, spool, counts)
        items = spool.document(self._item_lines(payload, counts))
        seal: dict[str, Content] = {path: ShortDocument(opened.read(path)) for path in opened.paths if path.startswith("seal/")}
        self.mentions = (*plan.mentions, *self._mentioning(payload, seal))
        moment = utc_text(session.now())
        redaction = Redaction(
            subjects={},
            case=statement.case,
            workspace=statement.workspace,
            package_root=statement.package_root,
            files_withheld=counts.files,
            leaves_withheld=counts.leaves,
            disclosures_withheld=counts.disclosures,
            reason=request.reason.strip(),
            software=SOFTWARE,
            time_claimed=moment,
            demonstration=statement.demonstration,
        )
        ordered = {path: payload[path].digests for path in sorted(payload, key=sort_key)}
        text = redacted_text(case=statement.case, software=SOFTWARE, demonstration=statement.demonstration)
        tags, subjects = tag_files(
            ordered, bag_info=redaction.bag_info, verify_text=text, items=items, spool=spool, version=statement.version
        )
        subjects |= {path: (content.digests.sha256, content.digests.sm3) for path, content in seal.items()}
        self.redaction = replace(redaction, subjects=subjects)
        self.signed = sign_envelope(session, STATEMENT_PAYLOAD_TYPE, self.redaction.to_bytes()).to_bytes()
        self.contents: Mapping[str, Content] = {**payload, **tags, **seal, REDACTION: ShortDocument(self.signed)}

    def _kept(self, gone: set[str]) -> Iterator[tuple[str, Content]]:
        for line in self._opened.items():
            if line.path is not None and line.path not in gone and line.path not in CHANGED_BY_REDACTION:
                yield line.path, self._opened.copy_of(line.path, _digests(line))

    def _rewritten(self, gone: set[str], session: Session, spool: Spool, counts: _Counts) -> dict[str, Content]:
        opened = self._opened
        known = {row.key.key_id: row for row in parse_keys(opened.read(KEYS))}
        for each in session.signers:
            known.setdefault(each.public_key.key_id, NamedKey(each.public_key, each.label, each.certificates))
        made: dict[str, Content] = {
            LEAVES: spool.document(self._leaf_lines(counts)),
            DISCLOSURES: spool.document(self._disclosure_lines(counts)),
            KEYS: ShortDocument(keys_bytes(known.values(), version=opened.statement().version)),
            FINDINGS: ShortDocument(self._findings()),
        }
        if BEFORE_RECORDING in opened.paths:
            before = loads_canonical(opened.read(BEFORE_RECORDING), where=BEFORE_RECORDING)
            before["recordings"] = [each for each in before["recordings"] if each["event"] not in self._plan.events]
            made[BEFORE_RECORDING] = ShortDocument(dumps(before))
        sizes = {path.removeprefix("data/"): content.digests.size for path, content in made.items()}
        missing = {path.removeprefix("data/") for path in gone}
        crate = redacted_crate(opened.read_long(CRATE), missing=missing, events=self._plan.events, sizes=sizes)
        made[CRATE] = ShortDocument(crate)
        return made

    def _leaf_lines(self, counts: _Counts) -> Iterator[bytes]:
        for number, (hash_of_leaf, raw) in enumerate(self._opened.leaves(), 1):
            if raw is None or parse_leaf(raw, where=f"{LEAVES}:{number}").event.event_id in self._plan.events:
                counts.leaves += 1
                yield dumps({"withheld": hash_of_leaf.hex()}) + b"\n"
            else:
                yield raw + b"\n"

    def _disclosure_lines(self, counts: _Counts) -> Iterator[bytes]:
        for event, disclosed in _disclosures(self._opened):
            withheld = event in self._plan.events
            kept = {name: each for name, each in disclosed.items() if not withheld and name not in self._request.fields}
            counts.disclosures += len(disclosed) - len(kept)
            if kept:
                yield dumps({"disclosures": kept, "event": event}) + b"\n"

    def _findings(self) -> bytes:
        """The results whose `found` event and findings file stay; they stand in the order of those events."""
        raw = loads_canonical(self._opened.read_long(FINDINGS), where=FINDINGS)
        stated = [leaf.event for leaf in self._plan.leaves() if leaf.event.type == "found"]
        gone = self._plan.items
        raw["results"] = [
            result
            for event, result in zip(stated, raw["results"], strict=True)
            if event.event_id not in self._plan.events and not any(output.item in gone for output in event.outputs)
        ]
        return dumps(raw)

    def _item_lines(self, payload: Mapping[str, Content], counts: _Counts) -> Iterator[bytes]:
        yield b"[\n"
        for number, line in enumerate(self._opened.items()):
            here = payload.get(line.path or "")
            counts.files += here is None
            same = here is not None and here.digests == _digests(line)
            yield (b",\n" if number else b"") + item_line_bytes(line if same else ItemLine(line.leaf))
        yield b"\n]\n"

    def _mentioning(self, payload: Mapping[str, Content], seal: Mapping[str, Content]) -> Iterator[Mention]:
        for path in (BEFORE_RECORDING, CRATE, FINDINGS, KEYS):
            if path in payload and (what := self._plan.found_in(b"".join(payload[path].blocks()))) is not None:
                yield Mention(path=path, item=None, what=what)
        for leaf in self._plan.leaves():
            # with `keep_log` entries may name withheld items, as was asked for, but not say withheld words
            if leaf.event.event_id not in self._plan.events and (what := self._plan.said(leaf)) is not None:
                yield Mention(path=LEAVES, item=None, what=what)
        for path, content in seal.items():
            if (what := self._plan.things.found_in(b"".join(content.blocks()))) is not None:
                yield Mention(path=path, item=None, what=what)


def _digests(line: ItemLine) -> FileDigests:
    return FileDigests(str(line.sha256), str(line.sm3), line.size or 0)


def _require_verified(bag: NewBag, progress: Progress) -> None:
    """Raises PackageError unless the kernel finds nothing wrong with the copy."""
    progress("package.stage.verify", 0.0)
    report = verify_package(bag.part, progress=lambda _, fraction: progress("package.stage.verify", fraction))
    if report.failures or report.verdicts["intact"] != "passed":
        first = next(iter(report.failures), None)
        raise PackageError("package.copy_not_verified", check="-" if first is None else f"{first.number} {first.subject}")
