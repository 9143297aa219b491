"""Reading the store again: every object against what the logs say of it, and everything that no log speaks of.

In: the object store and the logs of the cases. Out: a `ScrubReport` that names each file that is changed, missing,
extra, in the wrong place, writable or unreadable, with the items and cases it belongs to. Files are read from the
disk rather than from the cache where the system allows, two at a time. Writes, repairs and removes nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geoevidence.custody.log import CaseLog, CaseSummary, FileRef
from geoevidence.custody.store import ObjectStore, shown
from geoevidence.errors import DigestMismatchError, GeoEvidenceError, InputError, LogInconsistentError
from geoevidence.trust.events import parse_leaf
from geoevidence.types import Message, Progress, no_progress

DefectKind = Literal["log", "changed", "missing", "replaced", "record", "unreadable", "writable", "misplaced", "extra"]
Status = Literal["clean", "damaged", "incomplete"]
WORKERS = 2
"""Files read at the same time; the report does not depend on it."""
_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubItem:
    """An item that rests on an object. case: id of its case; number: the case number; item: item id; path: in the case."""

    case: str
    number: str
    item: str
    path: str

    def to_dict(self) -> dict[str, str]:
        return {"case": self.case, "number": self.number, "item": self.item, "path": self.path}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubDefect:
    """One thing that is not as it should be.

    kind: log (the log, or what the catalogue makes of it, is not what is known of it), changed, missing, replaced (by a link, folder or device), record (the
        log gives it another SM3 or size), unreadable, writable, misplaced, extra (no log speaks of it).
    damage: evidence or its record is not what it was; else the file is only out of order, or could not be looked at.
    path: under `objects/`, printable; of a log its name.
    sha256: the object it should be, or None; found: SHA-256 of what is there, or None when it was not read.
    message: the same in words. items: what rests on it, in the order of cases and of their logs.
    """

    kind: DefectKind
    damage: bool
    path: str
    sha256: str | None = None
    found: str | None = None
    message: Message
    items: tuple[ScrubItem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "damage": self.damage,
            "path": self.path,
            "sha256": self.sha256,
            "found": self.found,
            "message": self.message.to_dict(),
            "items": [item.to_dict() for item in self.items],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubReport:
    """What reading the store again found.

    cases: numbers of the cases whose logs were used; whole: files that no log speaks of were looked for too.
    objects: objects that the logs name; intact: those that are there with the recorded SHA-256, SM3 and size.
    size: bytes that were read. defects: in the order of their paths, those of logs first.
    """

    cases: tuple[str, ...]
    whole: bool
    objects: int
    intact: int
    size: int
    defects: tuple[ScrubDefect, ...]

    @property
    def status(self) -> Status:
        """clean; damaged: evidence is changed or missing; incomplete: only files out of order, or that could not be read."""
        if any(defect.damage for defect in self.defects):
            return "damaged"
        return "incomplete" if self.defects else "clean"

    def to_dict(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "cases": list(self.cases),
            "whole": self.whole,
            "objects": self.objects,
            "intact": self.intact,
            "size": self.size,
            "defects": [defect.to_dict() for defect in self.defects],
        }


def scrub_store(
    objects: ObjectStore, logs: Sequence[tuple[CaseSummary, CaseLog]], *, whole: bool, progress: Progress = no_progress
) -> ScrubReport:
    """Read every object that the logs name again, and compare SHA-256, SM3, size and mode.

    Args:
        objects: the store.
        logs: the cases to check and their logs.
        whole: these are all cases of the store, so that what they do not name is extra.
    """
    # listed before the logs are read: what is recorded meanwhile is not taken for an extra
    present, defects = _listing(objects.folder) if whole else ([], [])
    expected: dict[str, list[tuple[ScrubItem, FileRef]]] = {}
    for summary, log in logs:
        status = log.status()
        if status.rollback == "failed":
            defects.append(ScrubDefect(kind="log", damage=True, path=log.origin, message=status.message))
        try:
            events = log.events()
        except GeoEvidenceError as error:
            message = Message(id="custody.log_not_read", values={"reason": str(error)})
            if message != status.message:
                defects.append(ScrubDefect(kind="log", damage=True, path=log.origin, message=message))
            continue
        try:
            log.require_described(objects)
            if log.opened_as() != (summary.number, summary.demonstration):
                raise LogInconsistentError("custody.views_differ", case=summary.id)
        except DigestMismatchError:
            pass  # the sheet that cannot be read is an object, and is told below
        except LogInconsistentError as error:
            message = Message(id=error.message_id, values={name: str(value) for name, value in error.values.items()})
            defects.append(ScrubDefect(kind="log", damage=True, path=log.origin, message=message))
        for event in events:
            lost = sorted(set(parse_leaf(event.leaf).event.commitments) - set(event.disclosures))
            if lost:
                values = {"event": event.event_id, "fields": ", ".join(lost)}
                message = Message(id="custody.scrub.disclosures", values=values)
                defects.append(ScrubDefect(kind="log", damage=True, path=log.origin, message=message))
            for ref in event.outputs:
                item = ScrubItem(case=summary.id, number=summary.number, item=ref.item, path=ref.path)
                expected.setdefault(ref.sha256, []).append((item, ref))
    named = {objects.path_of(sha256) for sha256 in expected}
    others = [path for path in present if path not in named]
    check = _Check(objects, expected, sum(refs[0][1].size for refs in expected.values()), others, progress)
    with ThreadPoolExecutor(WORKERS) as pool:
        of_objects = list(pool.map(check.of_object, sorted(expected)))
        of_others = list(pool.map(check.of_other, others))
    for found in (*of_objects, *of_others):
        defects += found
    progress("custody.stage.scrub", 1.0)
    return ScrubReport(
        cases=tuple(summary.number for summary, _ in logs),
        whole=whole,
        objects=len(expected),
        intact=sum(not any(d.damage or d.kind == "unreadable" for d in found) for found in of_objects),
        size=check.read,
        defects=tuple(sorted(defects, key=lambda defect: (defect.kind != "log", defect.path, defect.kind))),
    )


def _listing(folder: Path) -> tuple[list[Path], list[ScrubDefect]]:
    """Everything under `folder` that is no folder of objects, and the folders that cannot be listed."""
    found: list[Path] = []
    defects: list[ScrubDefect] = []
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
            inner = [entry.is_dir(follow_symlinks=False) for entry in listed]
        except OSError as error:
            values = {"reason": error.strerror or str(error)}
            message = Message(id="custody.scrub.unreadable", values=values)
            path = _relative(folder, current)
            defects.append(ScrubDefect(kind="unreadable", damage=False, path=path, message=message))
            continue
        for entry, is_folder in zip(listed, inner, strict=True):
            if is_folder:
                waiting.append(Path(entry.path))
            else:
                found.append(Path(entry.path))
    return sorted(found), defects


def _relative(folder: Path, path: Path) -> str:
    return shown(path.relative_to(folder.parent).as_posix())


class _Check:
    """Compares one file after the other; several threads may call it. read: bytes read so far."""

    def __init__(
        self,
        objects: ObjectStore,
        expected: Mapping[str, Sequence[tuple[ScrubItem, FileRef]]],
        total: int,
        others: Sequence[Path],
        progress: Progress,
    ) -> None:
        self._objects = objects
        self._expected = expected
        self._progress = progress
        self._guard = threading.Lock()
        self._total = total + sum(_size(path) for path in others)
        self.read = 0
        progress("custody.stage.scrub", 0.0)

    def _on_block(self, size: int) -> None:
        with self._guard:
            self.read += size
            self._progress("custody.stage.scrub", min(1.0, self.read / (self._total or 1)))

    def of_object(self, sha256: str) -> list[ScrubDefect]:
        """What is wrong with an object that the logs name."""
        refs, path = self._expected[sha256], self._objects.path_of(sha256)
        name, items = _relative(self._objects.folder, path), tuple(item for item, _ in refs)

        def defect(kind: DefectKind, *, damage: bool, found: str | None = None, **values: str) -> ScrubDefect:
            message_id = "custody.scrub.swapped" if "other" in values else f"custody.scrub.{kind}"
            message = Message(id=message_id, values=values)
            return ScrubDefect(kind=kind, damage=damage, path=name, sha256=sha256, found=found, message=message, items=items)

        try:
            mode = os.lstat(path).st_mode
            digests = self._objects.digest_object(path, on_block=self._on_block)
        except (OSError, InputError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            number = cause.errno if isinstance(cause, OSError) else None
            if number == errno.ENOENT:
                return [defect("missing", damage=True)]
            if number in (None, errno.ELOOP, errno.ENOTDIR):
                return [defect("replaced", damage=True)]
            refused = number in (errno.EACCES, errno.EPERM)
            return [defect("unreadable", damage=not refused, reason=os.strerror(number))]
        wrong: list[ScrubDefect] = []
        if digests.sha256 != sha256:
            other = {"other": digests.sha256} if digests.sha256 in self._expected else {}
            wrong.append(defect("changed", damage=True, found=digests.sha256, **other))
        else:
            items = tuple(item for item, ref in refs if (ref.sm3, ref.size) != (digests.sm3, digests.size))
            if items:
                wrong.append(defect("record", damage=True, found=digests.sha256))
        if mode & 0o222:
            items = tuple(item for item, _ in refs)
            wrong.append(defect("writable", damage=False, found=digests.sha256))
        return wrong

    def of_other(self, path: Path) -> list[ScrubDefect]:
        """What a file is that stands where no log puts one."""
        name = _relative(self._objects.folder, path)
        in_order = bool(_NAME.fullmatch(path.name)) and path == self._objects.path_of(path.name)

        def defect(kind: DefectKind, message_id: str, **values: str) -> ScrubDefect:
            found = values.get("found")
            refs = self._expected.get(found or "", ()) if kind == "misplaced" else ()
            message = Message(id=message_id, values=values)
            items = tuple(item for item, _ in refs)
            return ScrubDefect(kind=kind, damage=False, path=name, found=found, message=message, items=items)

        try:
            found = self._objects.digest_object(path, on_block=self._on_block).sha256
        except InputError as error:
            if error.message_id == "custody.not_a_file":
                return [defect("extra", "custody.scrub.extra_special")]
            return [defect("unreadable", "custody.scrub.unreadable", reason=str(error.values.get("reason", "-")))]
        if found in self._expected:
            return [defect("misplaced", "custody.scrub.misplaced", found=found)]
        if in_order and found == path.name:
            return [defect("extra", "custody.scrub.extra", found=found)]
        return [defect("extra", "custody.scrub.extra_other", found=found)]


def _size(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:  # told where it is read
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
