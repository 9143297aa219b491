"""The draft of a package: one consistent view of a case, from which the report is written and the package is sealed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geoevidence.custody import Case, CaseKey, CustodyEvent, StoredResult
from geoevidence.errors import LogInconsistentError, PackageError
from geoevidence.trust.merkle import leaf_hash, tree_root
from geoevidence.trust.notes import LogCheckpoint, parse_checkpoint
from geoevidence.types import EvidenceItem, Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageDraft:
    """What a package of a case would hold.

    items: files of the package that are items of the log, in log order; statements of earlier packages are left out.
    results, findings: in log order.
    events: the whole log.
    checkpoint: head of the log over exactly these events; checkpoint_bytes: the same, signed.
    """

    case: str
    number: str
    workspace: str
    origin: str
    demonstration: bool
    sheet: Mapping[str, str]
    items: tuple[EvidenceItem, ...]
    results: tuple[StoredResult, ...]
    findings: tuple[tuple[StoredResult, Finding], ...]
    events: tuple[CustodyEvent, ...]
    keys: tuple[CaseKey, ...]
    checkpoint: LogCheckpoint
    checkpoint_bytes: bytes


def draft(case: Case) -> PackageDraft:
    """The draft of a case as it stands now.

    Raises: PackageError when no file was ever taken into the case; LogInconsistentError when the log does not extend
        what is known of it outside.
    """
    case.require_consistent_log()
    raw = case.checkpoint_bytes()
    checkpoint = parse_checkpoint(raw)[0]
    # the log may grow while it is read: the view is that of the checkpoint
    events = case.events()[: checkpoint.tree_size]
    if tree_root(leaf_hash(event.leaf) for event in events) != checkpoint.root:
        raise LogInconsistentError("custody.log_differs", place="目录数据库 (catalogue)", size=checkpoint.tree_size)
    known = {ref.item for event in events for ref in event.outputs}
    items = tuple(item for item in case.items() if item.id in known and not item.path.startswith("seal/"))
    if not any(item.role == "original" for item in items):
        raise PackageError("package.no_items", case=case.number)
    in_view = {event.event_id for event in events}
    return PackageDraft(
        case=case.id,
        number=case.number,
        workspace=case.workspace_id,
        origin=case.origin,
        demonstration=case.demonstration,
        sheet=case.sheet,
        items=items,
        results=tuple(stored for stored in case.results() if stored.event.event_id in in_view),
        findings=tuple(pair for pair in case.findings() if pair[0].event.event_id in in_view),
        events=events,
        keys=case.public_keys(),
        checkpoint=checkpoint,
        checkpoint_bytes=raw,
    )
