"""Runs analyses again and says whether the numbers come out: identical, within tolerance, different, or not run and why.

`headline` measures again from the derived surfaces; `full` runs each process again from what it read. Files come from a
sealed package or from a case that is about to be sealed; what computes is handed in as a table of engines, since the core
knows none. What was recorded is never changed: everything happens on copies in a scratch folder. The result becomes a
signed record (docs/formats/package.md). Raises nothing for a result that differs: that is an answer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from geoevidence.custody import Case, FileRef, Session, laid_name
from geoevidence.custody.log import sign_envelope
from geoevidence.custody.provenance import code_digest, environment_digest, machine_text
from geoevidence.errors import DigestMismatchError, FormatError, GeoEvidenceError, PackageError, VerificationError
from geoevidence.package.draft import PackageDraft
from geoevidence.package.opened import open_package
from geoevidence.trust.canonical import loads_canonical
from geoevidence.trust.checks import verify_package
from geoevidence.trust.container import Container
from geoevidence.trust.digests import BLOCK
from geoevidence.trust.events import Event, parse_leaf
from geoevidence.trust.manifest import (
    RECOMPUTE_STATUSES,
    STATEMENT_PAYLOAD_TYPE,
    RecomputedFile,
    RecomputedQuantity,
    RecomputedResult,
    RecomputeRecord,
)
from geoevidence.types import Message, ProcessResult, Product, Progress, Quantity, decimal_text, no_progress, utc_text

Scope = Literal["headline", "full"]
Status = Literal["identical", "within_tolerance", "differs", "not_run"]
RESULT = ProcessResult.FILE
UNCERTAINTY_SHARE = 0.1
"""A number may differ by this share of its own standard uncertainty: far below what is claimed for it, far above rounding."""
RELATIVE_TOLERANCE = 1e-6
"""For a number without an uncertainty: what single precision keeps."""
_NO_NUMBERS = "package.recompute_no_numbers"
METRES_APART, DEGREES_APART = 1.0, 1e-5
"""How far the bounding box of a finding that was made again may lie apart."""


class Engine(Protocol):
    """What can run one process again."""

    def figures(self, former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
        """Headline numbers measured again from the products: finding id -> quantity."""

    def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
        """The process again, from its inputs, into `out`."""

    def compare(self, product: Product, stated: Path, found: Path) -> tuple[Status, str]:
        """How a product made again differs in value, once its bytes do: status, and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedEvent:
    """A `derived` event to run again. inputs, outputs: as in the log."""

    event_id: str
    inputs: tuple[FileRef, ...]
    outputs: tuple[FileRef, ...]

    @property
    def result(self) -> FileRef:
        """Its `result.json`. Raises FormatError when there is none."""
        path = f"derived/{self.event_id}/{RESULT}"
        found = next((ref for ref in self.outputs if ref.path == path), None)
        if found is None:
            raise FormatError("package.recompute_no_result", event=self.event_id)
        return found


Fetch = Callable[[FileRef, Path], None]
"""Puts the bytes of an item at a path; raises DigestMismatchError or OSError."""


def fetch_from_case(case: Case) -> Fetch:
    """Takes items from the store of a case."""
    items = {item.id: item for item in case.items()}

    def fetch(ref: FileRef, target: Path) -> None:
        place(case.path_of(items[ref.item]), target)

    return fetch


def fetch_from_container(container: Container) -> Fetch:
    """Takes items out of a package, folder or zip, and compares each with its digest in the log."""

    def fetch(ref: FileRef, target: Path) -> None:
        path, digest = f"data/{ref.path}", hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with container.open(path) as stream, target.open("xb") as copy:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    copy.write(block)
        except (OSError, KeyError) as error:
            raise PackageError("package.recompute_missing", path=path) from error
        if digest.hexdigest() != ref.sha256:
            raise DigestMismatchError("custody.object_changed", path=path, expected=ref.sha256)

    return fetch


def derived_events(leaves: Iterable[Event]) -> tuple[DerivedEvent, ...]:
    """The `derived` events among the events of a log, in its order."""
    return tuple(
        DerivedEvent(
            event_id=event.event_id,
            inputs=tuple(FileRef.of_record(record) for record in event.inputs),
            outputs=tuple(FileRef.of_record(record) for record in event.outputs),
        )
        for event in leaves
        if event.type == "derived"
    )


def recompute_package(
    package: Path, *, engines: Mapping[str, Engine], scope: Scope, session: Session, progress: Progress = no_progress
) -> RecomputeRecord:
    """Every analysis of a sealed package run again; the record is not signed yet.

    Raises: InputError where there is no package; VerificationError where it is not whole: a changed package has no numbers to check.
    """
    report = verify_package(package, progress=progress)
    broken = next((check for check in report.failures), None)
    if broken is not None:
        raise VerificationError("package.recompute_broken", package=report.package, check=broken.number, subject=broken.subject)
    with open_package(package) as opened:
        statement = opened.statement()
        events = derived_events(parse_leaf(leaf).event for _, leaf in opened.leaves() if leaf is not None)
        fetch = fetch_from_container(opened.container)
        results = recompute_events(events, fetch=fetch, engines=engines, scope=scope, progress=progress)
    events, results = _with_numbers(events, results, scope)
    return record_of(
        events,
        results,
        case=statement.case,
        workspace=statement.workspace,
        package_root=statement.package_root,
        scope=scope,
        session=session,
    )


def recomputing(
    case: Case, *, engines: Mapping[str, Engine], scope: Scope = "headline", progress: Progress = no_progress
) -> Callable[[PackageDraft, str], RecomputeRecord | None]:
    """What sealing calls to run the numbers of a draft again; no record where nothing was derived."""

    def recompute(draft: PackageDraft, package_root: str) -> RecomputeRecord | None:
        events = derived_events(parse_leaf(event.leaf).event for event in draft.events)
        if not events:
            return None
        results = recompute_events(events, fetch=fetch_from_case(case), engines=engines, scope=scope, progress=progress)
        events, results = _with_numbers(events, results, scope)
        if not events:
            return None
        return record_of(
            events,
            results,
            case=draft.case,
            workspace=draft.workspace,
            package_root=package_root,
            scope=scope,
            session=case.session,
        )

    return recompute


def _with_numbers(
    events: Sequence[DerivedEvent], results: Sequence[RecomputedResult], scope: Scope
) -> tuple[tuple[DerivedEvent, ...], tuple[RecomputedResult, ...]]:
    """A record of scope `headline` is about numbers: results that state none, such as blurred pictures, stay out of it."""
    kept = [
        (event, result)
        for event, result in zip(events, results, strict=True)
        if scope != "headline" or result.reason is None or result.reason[0] != _NO_NUMBERS
    ]
    return tuple(event for event, _ in kept), tuple(result for _, result in kept)


def sign_record(record: RecomputeRecord, session: Session) -> bytes:
    """The record as signed bytes: `recompute.dsse`."""
    return sign_envelope(session, STATEMENT_PAYLOAD_TYPE, record.to_bytes()).to_bytes()


def place(source: Path, target: Path) -> None:
    """`source` at `target` too, linked where the file system can, else copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def recompute_events(
    events: Sequence[DerivedEvent],
    *,
    fetch: Fetch,
    engines: Mapping[str, Engine],
    scope: Scope,
    progress: Progress = no_progress,
) -> tuple[RecomputedResult, ...]:
    """Each event run again, in their order.

    Args:
        events: of one log. fetch: brings their files. engines: name of a process -> what runs it.
        scope: `headline` or `full`.
    """
    results = []
    for index, event in enumerate(events):
        progress("package.stage.recompute", index / len(events))
        with tempfile.TemporaryDirectory(prefix="geoevidence-recompute-") as scratch:
            results.append(_recompute(event, Path(scratch), fetch, engines, scope, progress))
    progress("package.stage.recompute", 1.0)
    return tuple(results)


def _recompute(
    event: DerivedEvent, scratch: Path, fetch: Fetch, engines: Mapping[str, Engine], scope: Scope, progress: Progress
) -> RecomputedResult:
    products, inputs = scratch / "products", scratch / "inputs"
    prefix = f"derived/{event.event_id}/"
    one_event = len({ref.item.rpartition("-")[0] for ref in event.inputs}) == 1
    process = "-"
    try:
        fetch(event.result, products / RESULT)
        former = ProcessResult.from_dict(loads_canonical((products / RESULT).read_bytes(), where=event.result.path))
        process = former.process
        engine = engines.get(process)
        if engine is None and scope == "headline" and all(each.quantity is None for each in former.findings):
            return _not_run(event, process, Message(id=_NO_NUMBERS), former)
        if engine is None:
            return _not_run(event, process, Message(id="package.recompute_no_engine", values={"process": process}), former)
        for ref in event.outputs:
            if ref.path != event.result.path:
                fetch(ref, products / ref.path.removeprefix(prefix))
        for ref in event.inputs:
            fetch(ref, inputs / laid_name(ref.path, one_event=one_event))
        if scope == "headline":
            return _compared(event, former, engine.figures(former, products=products, inputs=inputs), ())
        out = scratch / "out"
        again = engine.again(former, inputs=inputs, out=out, progress=progress)
        found = {finding.id: finding.quantity for finding in again.findings if finding.quantity is not None}
        return _compared(event, former, found, _compare_files(event, former, again, engine, products, out))
    except GeoEvidenceError as error:
        return _not_run(event, process, Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()}))
    except ImportError as error:
        return _not_run(event, process, Message(id="package.recompute_not_installed", values={"module": error.name or "-"}))


def _not_run(event: DerivedEvent, process: str, reason: Message, former: ProcessResult | None = None) -> RecomputedResult:
    stated = [each for each in former.findings if each.quantity is not None] if former else []
    return RecomputedResult(
        event=event.event_id,
        tool=process,
        status="not_run",
        reason=(reason.id, {name: str(value) for name, value in reason.values.items()}),
        quantities=tuple(_quantity(each.id, each.quantity, None) for each in stated if each.quantity is not None),
        files=(),
    )


def _compared(
    event: DerivedEvent, former: ProcessResult, found: Mapping[str, Quantity], files: Sequence[RecomputedFile]
) -> RecomputedResult:
    quantities = tuple(
        _quantity(each.id, each.quantity, found.get(each.id)) for each in former.findings if each.quantity is not None
    )
    unstated = sorted(found.keys() - {row.finding for row in quantities})
    if unstated:
        # a number that comes out again but stands nowhere: findings were dropped from the result
        row = RecomputedFile(path=event.result.path, status="differs", detail=f"not stated: {', '.join(unstated)}")
        files = [each for each in files if each.path != row.path] + [row]
    if not quantities and not files:
        return _not_run(event, former.process, Message(id=_NO_NUMBERS))
    statuses = [each.status for each in quantities] + [each.status for each in files]
    status = max(statuses, key=RECOMPUTE_STATUSES.index, default="identical")
    return RecomputedResult(
        event=event.event_id,
        tool=former.process,
        status=status,
        quantities=quantities,
        files=tuple(files),
    )


def _quantity(finding: str, stated: Quantity, found: Quantity | None) -> RecomputedQuantity:
    u = stated.standard_uncertainty
    tolerance = UNCERTAINTY_SHARE * u if u else RELATIVE_TOLERANCE * abs(stated.value)
    status: Status
    if found is None:
        status = "not_run"
    elif found == stated:
        status = "identical"
    else:
        close = found.unit == stated.unit and abs(found.value - stated.value) <= tolerance
        other = found.standard_uncertainty
        same_error = (u is None) == (other is None) and (u is None or other is None or abs(other - u) <= UNCERTAINTY_SHARE * u)
        status = "within_tolerance" if close and same_error else "differs"
    return RecomputedQuantity(
        finding=finding,
        unit=stated.unit,
        stated=decimal_text(stated.value),
        found=None if found is None else decimal_text(found.value),
        tolerance=decimal_text(tolerance),
        status=status,
    )


def _compare_files(
    event: DerivedEvent, former: ProcessResult, again: ProcessResult, engine: Engine, products: Path, out: Path
) -> tuple[RecomputedFile, ...]:
    """Every product that either result lists and `result.json`, in order of path in the case."""
    folder = f"derived/{event.event_id}/"
    stated, found = ({each.path: each for each in result.products} for result in (former, again))
    rows = []
    for path in sorted({*stated, *found}):
        if path not in stated or path not in found:
            rows.append(RecomputedFile(path=folder + path, status="differs", detail="missing" if path in stated else "new"))
        elif _sha256(products / path) == _sha256(out / path):
            rows.append(RecomputedFile(path=folder + path, status="identical", detail=""))
        else:
            status, detail = engine.compare(stated[path], products / path, out / path)
            rows.append(RecomputedFile(path=folder + path, status=status, detail=detail))
    if _sha256(products / RESULT) == _sha256(out / RESULT):
        rows.append(RecomputedFile(path=folder + RESULT, status="identical", detail=""))
    elif (otherwise := _said_otherwise(former, again)) is not None:
        rows.append(RecomputedFile(path=folder + RESULT, status="differs", detail=otherwise))
    else:
        # its numbers are compared one by one
        rows.append(RecomputedFile(path=folder + RESULT, status="within_tolerance", detail="bytes"))
    return tuple(sorted(rows, key=lambda row: row.path))


def _said_otherwise(former: ProcessResult, again: ProcessResult) -> str | None:
    """What two results say differently, numbers apart: which findings, of what, where, when, from what, with which limits."""
    one, other = [each.id for each in former.findings], [each.id for each in again.findings]
    if one != other:
        return f"findings {', '.join(one)} / {', '.join(other)}"
    if [each.id for each in former.gaps] != [each.id for each in again.gaps]:
        return "gaps"
    for stated, found in zip(former.findings, again.findings, strict=True):
        for name in ("crs", "period", "sources", "products", "synthetic"):
            if getattr(stated, name) != getattr(found, name):
                return f"{stated.id}.{name}"
        if (stated.message.id, stated.method.id) != (found.message.id, found.method.id):
            return f"{stated.id}.message"
        if [each.id for each in stated.limitations] != [each.id for each in found.limitations]:
            return f"{stated.id}.limitations"
        if not _same_place(stated.geometry, found.geometry):
            return f"{stated.id}.geometry"
    return None


def _same_place(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Two geometries with the same bounding box: of outlines that follow a surface a cell may fall to the other side."""
    if one is None or other is None:
        return one is other
    sides = [_bounds(each) for each in (one, other)]
    limit = DEGREES_APART if max(map(abs, [*sides[0], *sides[1]]), default=0.0) <= 360 else METRES_APART
    return len(sides[0]) == len(sides[1]) and all(abs(left - right) <= limit for left, right in zip(*sides, strict=True))


def _bounds(geometry: Mapping[str, Any]) -> list[float]:
    places = list(_positions(geometry.get("coordinates", geometry.get("geometries", ()))))
    return [pick(place[axis] for place in places) for axis in (0, 1) for pick in (min, max)] if places else []


def _positions(value: Any) -> Iterator[Sequence[float]]:
    if isinstance(value, Mapping):
        yield from _positions(value.get("coordinates", value.get("geometries", ())))
    elif value and isinstance(value[0], (int, float)):
        yield value
    else:
        for each in value:
            yield from _positions(each)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_of(
    events: Sequence[DerivedEvent],
    results: Sequence[RecomputedResult],
    *,
    case: str,
    workspace: str,
    package_root: str,
    scope: Scope,
    session: Session,
) -> RecomputeRecord:
    """The record that is signed: what was run again, on which package, with which program and machine."""
    refs = [event.result for event in events]
    return RecomputeRecord(
        subjects=tuple((ref.path, ref.sha256, ref.sm3) for ref in refs),
        case=case,
        workspace=workspace,
        package_root=package_root,
        scope=scope,
        results=tuple(results),
        software=session.software,
        code_digest=code_digest(),
        environment_digest=environment_digest(),
        machine=machine_text(),
        time_claimed=utc_text(session.now()),
    )
