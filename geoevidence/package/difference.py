"""What differs between two packages: statement, keys, files, log, findings, redactions, and the verdicts of both.

Both are verified by the kernel first; a broken one is compared all the same, and its verdicts say so. Files are
compared by what `items.json` states of them, line by line, so memory grows with the differences, not with the packages.
The time stamps and cosignatures in `seal/` are evidence about a package, not its content, and are not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from geoevidence.errors import PackageError
from geoevidence.package.opened import OpenPackage, open_package
from geoevidence.trust.archive import sort_key
from geoevidence.trust.canonical import loads_canonical
from geoevidence.trust.checks import verify_package
from geoevidence.trust.digests import digest_bytes
from geoevidence.trust.manifest import (
    CHANGED_BY_REDACTION,
    FINDINGS,
    KEYS,
    LEAVES,
    REDACTION,
    ItemLine,
    parse_keys,
    parse_redaction,
)
from geoevidence.trust.merkle import leaf_hash
from geoevidence.trust.notes import LogCheckpoint
from geoevidence.trust.signatures import parse_envelope
from geoevidence.trust.verdict import BROKEN
from geoevidence.types import Progress, no_progress

_NUMBER = ("value", "unit", "standard_uncertainty", "coverage_factor")
"""What is printed of a quantity: value ± coverage factor times standard uncertainty."""
Relation = Literal["same", "a_is_prefix", "b_is_prefix", "fork", "unrelated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two packages.

    kind: package or redacted. statement_sha256, redaction_sha256: hex, of the files in seal/; None where there is none.
    verdicts, exit_code: by the kernel. reason: of a redaction, or None.
    """

    path: str
    kind: str
    statement_sha256: str
    redaction_sha256: str | None
    verdicts: Mapping[str, str]
    exit_code: int
    files_withheld: int
    leaves_withheld: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file that is not the same in both. change: added (only in B), removed (only in A), changed.

    item: item id or None; a, b: {"sha256", "sm3", "size"} or None.
    """

    path: str
    item: str | None
    change: Literal["added", "removed", "changed"]
    a: Mapping[str, Any] | None
    b: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRelation:
    """How the two logs stand to each other, their `packaged` events included.

    relation: same; a_is_prefix (B goes on where A ends); b_is_prefix; fork (same log, two histories); unrelated (other logs).
    common: number of leaves that both begin with. a_size, b_size: leaves.
    """

    relation: Relation
    common: int
    a_size: int
    b_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingChange:
    """A finding that is not the same in both. a, b: its quantity as decimals in text (`_NUMBER`); None where
    it is missing, or states no number. words: something else of it differs, its number does not.
    """

    finding: str
    result_a: str | None
    result_b: str | None
    change: Literal["added", "removed", "number", "words"]
    a: Mapping[str, Any] | None
    b: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageDifference:
    """The whole comparison.

    statement: field -> (of A, of B), of those that differ.
    keys_a, keys_b: key ids that only one of them has.
    items: files of the log that differ; documents: the other files under data/ that do.
    """

    a: Side
    b: Side
    statement: Mapping[str, tuple[Any, Any]]
    keys_a: tuple[str, ...]
    keys_b: tuple[str, ...]
    items: tuple[FileChange, ...]
    documents: tuple[FileChange, ...]
    log: LogRelation
    findings: tuple[FindingChange, ...]

    @property
    def same(self) -> bool:
        """The same content, and both whole: one may be a folder and the other an archive."""
        sealed = [(side.kind, side.statement_sha256, side.redaction_sha256) for side in (self.a, self.b)]
        whole = all(side.verdicts["intact"] == "passed" and side.exit_code != BROKEN for side in (self.a, self.b))
        return (
            whole
            and sealed[0] == sealed[1]
            and not (self.keys_a or self.keys_b or self.items or self.documents)
            and self.log.relation == "same"
        )

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {"schema": "geoevidence.package_difference.v1", "same": self.same, **asdict(self)}


def compare_packages(a: Path, b: Path, *, progress: Progress = no_progress) -> PackageDifference:
    """What differs between two packages or redacted copies, folders or archives.

    Raises: InputError when there is no package at `a` or `b`; PackageError for a supplement; FormatError when a package
        is so broken that its statement or lists cannot be read.
    """
    with open_package(Path(a)) as first, open_package(Path(b)) as second:
        sides = []
        for path, package in ((a, first), (b, second)):
            if package.kind == "supplement":
                raise PackageError("package.is_supplement", path=path)
            sides.append(_side(Path(path), package, progress))
        changes = tuple(_present(change, first, second) for change in _file_changes(first.items(), second.items()))
        keys = [{each.key.key_id for each in parse_keys(package.read(KEYS))} for package in (first, second)]
        return PackageDifference(
            a=sides[0],
            b=sides[1],
            statement=_statement_changes(first, second),
            keys_a=tuple(sorted(keys[0] - keys[1])),
            keys_b=tuple(sorted(keys[1] - keys[0])),
            items=tuple(change for change in changes if change.item is not None),
            documents=tuple(change for change in changes if change.item is None),
            log=_log_relation(first, second),
            findings=tuple(_finding_changes(_findings(first), _findings(second))),
        )


def _side(path: Path, package: OpenPackage, progress: Progress) -> Side:
    progress("package.stage.verify", 0.0)
    report = verify_package(path, progress=lambda _, fraction: progress("package.stage.verify", fraction))
    redaction, redaction_sha256 = None, None
    if package.kind == "redacted":
        signed = package.read(REDACTION)
        redaction = parse_redaction(parse_envelope(signed, where=REDACTION).payload)
        redaction_sha256 = digest_bytes(signed).sha256
    return Side(
        path=str(path),
        kind=package.kind,
        statement_sha256=package.statement_digests.sha256,
        redaction_sha256=redaction_sha256,
        verdicts=dict(report.verdicts),
        exit_code=report.exit_code,
        files_withheld=0 if redaction is None else redaction.files_withheld,
        leaves_withheld=0 if redaction is None else redaction.leaves_withheld,
        reason=None if redaction is None else redaction.reason,
    )


def _statement_changes(first: OpenPackage, second: OpenPackage) -> dict[str, tuple[Any, Any]]:
    names = ("predicate_type", "case", "workspace", "items", "package_root", "checkpoint_before", "software", "time_claimed")
    one, two = first.statement(), second.statement()
    changes = {name: (getattr(one, name), getattr(two, name)) for name in (*names, "demonstration")}
    signers = [[each.keyid for each in package.envelope.signatures] for package in (first, second)]
    changes["signers"] = (signers[0], signers[1])
    return {name: pair for name, pair in changes.items() if pair[0] != pair[1]}


def _file_changes(a: Iterable[ItemLine], b: Iterable[ItemLine]) -> Iterator[FileChange]:
    """Both lists are in the order of the package: one walk through both. Lines of withheld files have no path."""
    ours = (line for line in a if line.path is not None)
    theirs = (line for line in b if line.path is not None)
    one, two = next(ours, None), next(theirs, None)
    while one is not None or two is not None:
        left = None if one is None or one.path is None else sort_key(one.path)
        right = None if two is None or two.path is None else sort_key(two.path)
        if one is not None and (right is None or (left is not None and left < right)):
            yield _change("removed", one, None)
            one = next(ours, None)
        elif two is not None and (left is None or (right is not None and right < left)):
            yield _change("added", None, two)
            two = next(theirs, None)
        else:
            if one is not None and two is not None and _digests(one) != _digests(two):
                yield _change("changed", one, two)
            one, two = next(ours, None), next(theirs, None)


def _present(change: FileChange, first: OpenPackage, second: OpenPackage) -> FileChange:
    """A document that a redacted copy holds in another form has no line in `items.json`, but is there: it differs."""
    if change.path not in CHANGED_BY_REDACTION or not (change.path in first.paths and change.path in second.paths):
        return change
    a, b = (digest_bytes(package.read_long(change.path)) for package in (first, second))
    return replace(change, change="changed", a=a._asdict(), b=b._asdict())


def _change(change: Literal["added", "removed", "changed"], one: ItemLine | None, two: ItemLine | None) -> FileChange:
    shown = one or two
    assert shown is not None and shown.path is not None
    return FileChange(path=shown.path, item=shown.item, change=change, a=_digests(one), b=_digests(two))


def _digests(line: ItemLine | None) -> dict[str, Any] | None:
    return None if line is None else {"sha256": line.sha256, "sm3": line.sm3, "size": line.size}


def _hashes(package: OpenPackage) -> Iterator[bytes]:
    """Leaf hashes of the log, the `packaged` event last."""
    yield from (hash_of_leaf for hash_of_leaf, _ in package.leaves())
    yield leaf_hash(package.proof().extra or b"")


def _log_relation(first: OpenPackage, second: OpenPackage) -> LogRelation:
    sizes, common, apart = [0, 0], 0, False
    for pair in zip_longest(_hashes(first), _hashes(second)):
        sizes = [size + (each is not None) for size, each in zip(sizes, pair, strict=True)]
        apart = apart or (None not in pair and pair[0] != pair[1])
        common += 0 if apart or None in pair else 1
    origins = {LogCheckpoint.from_text(package.statement().checkpoint_before, where=LEAVES).origin for package in (first, second)}
    relation: Relation
    if len(origins) > 1:
        relation = "unrelated"
    elif apart:
        relation = "fork"
    else:
        relation = "same" if sizes[0] == sizes[1] else "a_is_prefix" if sizes[0] < sizes[1] else "b_is_prefix"
    return LogRelation(relation=relation, common=common, a_size=sizes[0], b_size=sizes[1])


def _findings(package: OpenPackage) -> list[tuple[str, Mapping[str, Any]]]:
    """(item id of the result, finding) of every finding, in log order. Raises FormatError."""
    raw = loads_canonical(package.read_long(FINDINGS), where=FINDINGS)
    return [(str(result["result"]), finding) for result in raw["results"] for finding in result["findings"]]


def _finding_changes(a: list[tuple[str, Mapping[str, Any]]], b: list[tuple[str, Mapping[str, Any]]]) -> Iterator[FindingChange]:
    """Findings of the same result are one; those of results that only one package has are paired by id, in log order."""
    both = {result for result, _ in a} & {result for result, _ in b}

    def keyed(rows: list[tuple[str, Mapping[str, Any]]]) -> dict[tuple[str, str, int], tuple[str, Mapping[str, Any]]]:
        seen: Counter[tuple[str, str]] = Counter()
        found = {}
        for result, finding in rows:
            key = (result if result in both else "", str(finding["id"]))
            found[(*key, seen[key])] = (result, finding)
            seen[key] += 1
        return found

    ours, theirs = keyed(a), keyed(b)
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        one, two = ours.get(key), theirs.get(key)
        left, right = (None if each is None else each[1].get("quantity") for each in (one, two))
        change: Literal["added", "removed", "number", "words"]
        if one is None or two is None:
            change = "added" if one is None else "removed"
        elif _number(left) != _number(right):
            change = "number"
        elif one[1] != two[1]:
            change = "words"
        else:
            continue
        yield FindingChange(
            finding=key[1],
            result_a=None if one is None else one[0],
            result_b=None if two is None else two[0],
            change=change,
            a=_number(left),
            b=_number(right),
        )


def _number(quantity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if quantity is None else {name: quantity[name] for name in _NUMBER}
