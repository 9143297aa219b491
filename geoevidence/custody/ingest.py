"""From a card or a folder to items: what is found, what is refused and why, what is new.

Every file is read once, digested, copied into the store and read back (`store.py`), a few at a time. Names that
would be another file, or none, on some computer are refused by name; links and devices are not read. A file that
cannot be read is named and the rest goes on; a store that cannot write stops everything and records nothing.
"""

from __future__ import annotations

import os
import stat
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from geoevidence.custody.store import ObjectStore, StoredFile, shown
from geoevidence.errors import CustodyError, InputError
from geoevidence.trust.archive import fold, sort_key
from geoevidence.types import EvidenceItem, Message, Progress

WORKERS = 3
"""Files under way at the same time: while one waits for the disk, two digest; the results do not depend on it."""
_MAX_NAME_BYTES = 200
_MAX_PATH_BYTES = 600
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))}
_FORBIDDEN = set('<>:"|?*\\')


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file to take. path: where it is; source: what was scanned; name: relative POSIX path in NFC; size: bytes."""

    path: Path
    source: Path
    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a source holds. files: in the order of names; skipped: printable name -> why it is not taken."""

    files: tuple[SourceFile, ...]
    skipped: Mapping[str, Message]


def scan_source(source: Path) -> Scan:
    """The files of a folder (all levels) or a single file, and what is refused.

    Raises: InputError when the source is not a folder or file, or is a link.
    """
    try:
        mode = os.lstat(source).st_mode
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError("custody.source_unreadable", path=shown(str(source)), reason=reason) from error
    skipped: dict[str, Message] = {}
    if stat.S_ISREG(mode):
        found = [(source.name, source)]
    elif stat.S_ISDIR(mode):
        found = []
        _walk(source, "", found, skipped)
    else:
        raise InputError("custody.not_a_file", path=shown(str(source)))

    files: list[SourceFile] = []
    for raw_name, path in sorted(found):
        name = unicodedata.normalize("NFC", raw_name)
        problem = name_problem(name)
        if problem is not None:
            skipped[shown(raw_name)] = Message(id=problem)
            continue
        try:
            size = path.lstat().st_size
        except OSError as error:  # the card was pulled out
            skipped[shown(raw_name)] = _unreadable(error)
        else:
            files.append(SourceFile(path=path, source=source, name=name, size=size))
    return Scan(files=_without_collisions(files, skipped), skipped=dict(sorted(skipped.items())))


def _walk(folder: Path, prefix: str, found: list[tuple[str, Path]], skipped: dict[str, Message]) -> None:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        skipped[shown(prefix or ".")] = _unreadable(error)
        return
    for entry in listed:
        name = f"{prefix}{entry.name}"
        try:
            is_link, is_folder, is_file = (
                entry.is_symlink(),
                entry.is_dir(follow_symlinks=False),
                entry.is_file(follow_symlinks=False),
            )
        except OSError as error:
            skipped[shown(name)] = _unreadable(error)
            continue
        if is_link:
            skipped[shown(name)] = Message(id="custody.skip_link")
        elif is_folder and len(os.fsencode(name)) > _MAX_PATH_BYTES:
            skipped[shown(name)] = Message(id="custody.skip_long")  # nothing below could be taken
        elif is_folder:
            _walk(Path(entry.path), f"{name}/", found, skipped)
        elif is_file:
            found.append((name, Path(entry.path)))
        else:
            skipped[shown(name)] = Message(id="custody.skip_special")


def _unreadable(error: OSError) -> Message:
    return Message(id="custody.skip_unreadable", values={"reason": error.strerror or "-"})


def name_problem(name: str) -> str | None:
    """Message id of why a relative path cannot be kept as it is on every computer, or None."""
    if len(name.encode("utf-8", "surrogatepass")) > _MAX_PATH_BYTES:
        return "custody.skip_long"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "custody.skip_dots"
        if any(0xD800 <= ord(c) < 0xE000 for c in part):
            return "custody.skip_encoding"
        # Cc: control; Cf: direction and other invisible marks that make a name look like another
        if any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in part):
            return "custody.skip_invisible"
        if any(c in _FORBIDDEN for c in part) or part.endswith((" ", ".")):
            return "custody.skip_windows"
        if part.split(".")[0].rstrip().casefold() in _RESERVED:
            return "custody.skip_reserved"
        if len(part.encode("utf-8")) > _MAX_NAME_BYTES:
            return "custody.skip_long"
    return None


def _without_collisions(files: Sequence[SourceFile], skipped: dict[str, Message]) -> tuple[SourceFile, ...]:
    """Files in order of names; of names that fold to one, or to another's folder, the first stays."""
    kept: list[SourceFile] = []
    names: dict[str, str] = {}
    folders: dict[str, str] = {}
    for file in sorted(files, key=lambda each: sort_key(each.name)):
        parts = fold(file.name).split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        other = names.get(fold(file.name)) or folders.get(fold(file.name))
        other = other or next((names[folder] for folder in above if folder in names), None)
        if other is not None:
            skipped[file.name] = Message(id="custody.skip_collision", values={"other": other})
            continue
        names[fold(file.name)] = file.name
        for folder in above:
            folders.setdefault(folder, file.name)
        kept.append(file)
    return tuple(kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was read. new: (name, stored file) in order; present: items that were there before; skipped: name -> why."""

    new: tuple[tuple[str, StoredFile], ...]
    present: tuple[EvidenceItem, ...]
    skipped: Mapping[str, Message]


def take_files(scan: Scan, store: ObjectStore, *, known: Mapping[str, Sequence[EvidenceItem]], progress: Progress) -> Taken:
    """Read every file of a scan into the store, apart from those that are in the case already.

    Args:
        scan: from `scan_source`.
        store: where new objects go.
        known: items of the case by their name relative to their source.
        progress: told the fraction of bytes read.

    Raises: CustodyError when the store cannot keep a file; nothing is recorded then.
    """
    total = sum(file.size for file in scan.files) or 1
    done = 0
    guard = threading.Lock()

    def on_block(size: int) -> None:
        nonlocal done
        with guard:
            done += size
            progress("custody.stage.copy", min(1.0, done / total))

    stop = threading.Event()

    def take(file: SourceFile) -> StoredFile | EvidenceItem | Message | None:
        if stop.is_set():
            return None
        try:
            return _take_one(file, store, known.get(file.name, ()), on_block)
        except InputError as error:
            values = {name: str(value) for name, value in error.values.items()}
            return Message(id=error.message_id, values=values)
        except BaseException:
            stop.set()
            raise

    progress("custody.stage.copy", 0.0)
    with ThreadPoolExecutor(WORKERS) as pool:
        taken = list(pool.map(take, scan.files))
    progress("custody.stage.copy", 1.0)

    new: list[tuple[str, StoredFile]] = []
    present: list[EvidenceItem] = []
    skipped = dict(scan.skipped)
    for file, result in zip(scan.files, taken, strict=True):
        if isinstance(result, StoredFile):
            new.append((file.name, result))
        elif isinstance(result, EvidenceItem):
            present.append(result)
    skipped.update((file.name, result) for file, result in zip(scan.files, taken, strict=True) if isinstance(result, Message))
    return Taken(new=tuple(new), present=tuple(present), skipped=dict(sorted(skipped.items())))


def _take_one(
    file: SourceFile, store: ObjectStore, candidates: Sequence[EvidenceItem], on_block: Callable[[int], None]
) -> StoredFile | EvidenceItem:
    likely = [item for item in candidates if item.size == file.size]
    if likely:
        # a card that is read again: compare first, so that nothing is written twice
        digests = store.digest_source(file.path, under=file.source, on_block=on_block)
        for item in likely:
            if (item.sha256, item.sm3) == (digests.sha256, digests.sm3):
                store.check(item.sha256)
                return item
        return store.add_file(file.path, under=file.source)
    return store.add_file(file.path, under=file.source, on_block=on_block)


def manifest_files(files: Sequence[tuple[str, StoredFile]]) -> list[dict[str, str | int]]:
    """The list whose RFC 8785 bytes are digested as a receipt's manifest: path, size and digests, sorted by path."""
    rows: list[dict[str, str | int]] = [
        {"path": name, "size": stored.size, "sha256": stored.sha256, "sm3": stored.sm3} for name, stored in files
    ]
    return sorted(rows, key=lambda row: str(row["path"]))


def nothing_taken(source: Path, skipped: Mapping[str, Message]) -> CustodyError:
    """The refusal of a source without a single file that can be taken."""
    first = next(iter(skipped), "-")
    return CustodyError("custody.nothing_to_ingest", path=shown(str(source)), skipped=len(skipped), first=first)
