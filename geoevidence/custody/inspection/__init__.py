"""The door for what comes from outside: accept, flag or reject, and why. Nothing is stored, unpacked, followed or fetched.

Duty: one result for every file, whatever it holds; never an exception for content, never a wait without end.
`inspect_path` takes each file apart in a process of its own that can do nothing but read it (`child.py`);
`inspect_source_file` reads structure alone in the caller's process, cheap enough for every file of a card.
`reject` is a file that is not what it says, is cut short, or would act or lead elsewhere; `flag` one that can be used but
holds something a person should look at; `accept` means only that no such defect was found. Verdicts do not depend on what
else is installed: no picture library takes part (docs/formats/inspection.md).
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from geoevidence.custody.ingest import name_problem
from geoevidence.custody.inspection import child
from geoevidence.custody.inspection.child import MEMORY, SECONDS
from geoevidence.custody.inspection.documents import outside_raster
from geoevidence.custody.inspection.look import MAX_PIXELS, Detail, Source
from geoevidence.custody.inspection.readers import judge
from geoevidence.custody.store import shown
from geoevidence.messages import texts
from geoevidence.trust.archive import fold
from geoevidence.types import Message

Verdict = Literal["accept", "flag", "reject"]
_SCRIPT = Path(child.__file__)
_MAX_ANSWER = 1 << 20
_MAX_SIDECAR = 1 << 20
_MAX_DEPTH = 64
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SHAPE_PARTS = (".shp", ".shx", ".dbf")

__all__ = ["MAX_PIXELS", "InspectionResult", "Verdict", "inspect_path", "inspect_source_file", "inspect_stored_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionResult:
    """What was found about one file (or one package folder).

    reason: the rejection, or the first flag, or what acceptance means here; its id is stable.
    flags: everything that a person should see, in the order in which it was found.
    details: name -> number, text or list of texts.
    """

    path: Path
    verdict: Verdict
    reason: Message
    flags: tuple[Message, ...] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)


def inspect_path(path: Path) -> Iterator[InspectionResult]:
    """One result for a file; for a folder one for every file in it, in the order of paths. Never raises for content.

    A folder that is a package is one result: it is verified as a whole.
    """
    pending: list[tuple[Path, str | None, int]] = [(Path(path), None, 0)]
    while pending:
        here, other, depth = pending.pop()
        try:
            mode = os.lstat(here).st_mode
        except (OSError, ValueError) as error:
            yield _reject(here, "custody.inspect.unreadable", reason=_why(error))
            continue
        if depth and (problem := name_problem(unicodedata.normalize("NFC", here.name))) is not None:
            yield _reject(here, "custody.inspect.bad_name", name=shown(here.name)[:200], problem=problem.rpartition(".")[2])
        elif other is not None:
            yield _reject(here, "custody.inspect.name_twice", name=shown(here.name)[:200], other=shown(other)[:200])
        elif stat.S_ISREG(mode):
            yield _inspect_file(here, deep=True)
        elif stat.S_ISDIR(mode):
            if (here / "bagit.txt").is_file() and (here / "seal").is_dir():
                yield _inspect_package(here)
                continue
            try:
                names = sorted(os.listdir(here))
            except OSError as error:
                yield _reject(here, "custody.inspect.unreadable", reason=_why(error))
                continue
            if depth >= _MAX_DEPTH:
                yield _reject(here, "custody.inspect.too_deep", limit=_MAX_DEPTH)
                continue
            first: dict[str, str] = {}
            for name in names:
                first.setdefault(fold(name), name)
            children = [(here / name, None if first[fold(name)] == name else first[fold(name)], depth + 1) for name in names]
            pending += reversed(children)
        elif stat.S_ISLNK(mode):
            yield _reject(here, "custody.inspect.link")
        else:
            yield _reject(here, "custody.inspect.special")


def inspect_source_file(path: Path) -> InspectionResult:
    """The result for one regular file by structure alone: nothing inflated, no XML parsed, no process started.

    Reads in blocks; takes milliseconds for a photo. What only the child process can see is `not_checked` in the details.
    Never raises for content.
    """
    return _inspect_file(Path(path), deep=False)


def inspect_stored_file(path: Path, name: str) -> InspectionResult:
    """As `inspect_source_file`, for a file of the store: `name` is what it was called where it came from."""
    try:
        with open(path, "rb") as stream:
            return _here(Path(name), stream, os.fstat(stream.fileno()).st_size)
    except OSError as error:
        return _reject(Path(name), "custody.inspect.unreadable", reason=_why(error))


def _reject(path: Path, message_id: str, **values: str | int) -> InspectionResult:
    return InspectionResult(path=path, verdict="reject", reason=Message(id=message_id, values=values))


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _inspect_package(path: Path) -> InspectionResult:
    from geoevidence.trust.checks import verify_package

    report = verify_package(path)
    failed = [check for check in report.checks if check.status == "failed"]
    details: dict[str, Detail] = {"kind": "package", "failed_checks": len(failed)}
    if failed:
        reason = Message(id="custody.inspect.package_broken", values={"count": len(failed), "first": failed[0].name})
        return InspectionResult(path=path, verdict="reject", reason=reason, details=details)
    return InspectionResult(path=path, verdict="accept", reason=Message(id="custody.inspect.package_whole"), details=details)


def _inspect_file(path: Path, *, deep: bool) -> InspectionResult:
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        return _reject(path, "custody.inspect.unreadable", reason=_why(error))
    try:
        with os.fdopen(descriptor, "rb") as stream:
            return _inspect_stream(path, stream, deep=deep)
    except OSError as error:
        return _reject(path, "custody.inspect.unreadable", reason=_why(error))


def _inspect_stream(path: Path, stream: IO[bytes], *, deep: bool) -> InspectionResult:
    """The result for an open file; a file that is no longer what it was at first is refused. Raises OSError."""
    before = os.fstat(stream.fileno())
    if not stat.S_ISREG(before.st_mode):
        return _reject(path, "custody.inspect.special")
    found = _in_child(path, stream) if deep else _here(path, stream, before.st_size)
    after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return InspectionResult(path=path, verdict="reject", reason=Message(id="custody.inspect.changed"), details=found.details)
    if found.verdict == "reject":
        return found
    if deep and found.details.get("document") == "package":
        whole = _inspect_package(path)
        details = {**found.details, **whole.details}
        return InspectionResult(path=path, verdict=whole.verdict, reason=whole.reason, flags=found.flags, details=details)
    return _with_neighbours(found)


def _here(path: Path, stream: IO[bytes], size: int) -> InspectionResult:
    verdict, reason, flags, details = judge(Source(stream, size), path.name, deep=False)
    return _result(path, verdict, reason, flags, details)


def _result(path: Path, verdict: str, reason: Message, flags: list[Message], details: dict[str, Detail]) -> InspectionResult:
    stated: Verdict = "accept" if verdict == "accept" else "flag" if verdict == "flag" else "reject"
    return InspectionResult(path=path, verdict=stated, reason=reason, flags=tuple(flags), details=details)


# ---------------------------------------------------------------- the confined process


def _in_child(path: Path, stream: IO[bytes], *, script: Path = _SCRIPT, seconds: int = SECONDS) -> InspectionResult:
    """The answer of a process that holds the open file and nothing else; its death or silence is a rejection."""
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(script), json.dumps(path.name)]
    # an interpreter on Windows does not start without SYSTEMROOT; nothing else of the environment is handed on
    environment = {name: value for name, value in os.environ.items() if name.upper() == "SYSTEMROOT"}
    with subprocess.Popen(
        command, stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, close_fds=True
    ) as process:
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(seconds, stop)
        clock.start()
        raw = b""
        try:
            raw = process.stdout.read(_MAX_ANSWER + 1) if process.stdout is not None else b""
            if len(raw) > _MAX_ANSWER:
                process.kill()
            code = process.wait()
        finally:
            clock.cancel()
    if late.is_set() or code == -24:  # SIGXCPU
        return _reject(path, "custody.inspect.limit_time", seconds=seconds)
    try:
        if code == 0 and len(raw) <= _MAX_ANSWER:
            return _answer(path, json.loads(raw))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass  # a reader that was taken over may write anything: nonsense is as good as death
    return _reject(path, "custody.inspect.reader_died", code=code, memory=MEMORY)


def _answer(path: Path, answer: Any) -> InspectionResult:
    """The result that a child wrote. Raises what Python raises for one that is none."""
    flags = [_message(each) for each in answer["flags"]]
    details: dict[str, Detail] = {}
    for name, value in answer["details"].items():
        listed = value if isinstance(value, list) else [value]
        if any(isinstance(each, bool) or not isinstance(each, (str, int)) for each in listed):
            raise TypeError(name)
        details[name] = [str(each) for each in value] if isinstance(value, list) else value
    return _result(path, answer["verdict"], _message(answer["reason"]), flags, details)


def _message(pair: list[Any]) -> Message:
    message_id, values = pair
    if not message_id.startswith("custody.inspect.") or message_id not in texts("en"):
        raise ValueError(message_id)
    return Message(id=message_id, values=values)


# ---------------------------------------------------------------- files that belong to a file


def _with_neighbours(found: InspectionResult) -> InspectionResult:
    """The result with what lies beside the file: a raster's sidecars, which engines open unasked, and a shapefile's parts."""
    path, flags = found.path, list(found.flags)
    suffix = path.suffix.lower()
    if found.details.get("media_type") in ("image/tiff", "image/jp2", "image/jpeg", "image/png"):
        names = [path.name + end for end in (".ovr", ".msk", ".aux.xml", ".vrt")] + [path.stem + ".aux", path.stem + ".rrd"]
        beside = [path.with_name(name) for name in names if os.path.lexists(path.with_name(name))]
        for sidecar in beside:
            problem = _sidecar_problem(sidecar)
            if problem is not None:
                reason = Message(id=problem, values={"name": shown(sidecar.name)[:200]})
                return InspectionResult(path=path, verdict="reject", reason=reason, flags=found.flags, details=found.details)
        if beside:
            details = {**found.details, "sidecars": [shown(sidecar.name) for sidecar in beside]}
            found = InspectionResult(path=path, verdict=found.verdict, reason=found.reason, flags=found.flags, details=details)
    elif suffix in _SHAPE_PARTS and not re.search(r"[\x00]", path.name):
        missing = [part for part in _SHAPE_PARTS if not _has_part(path, part)]
        if missing:
            flags.append(Message(id="custody.inspect.parts_missing", values={"parts": ", ".join(missing)}))
    if len(flags) == len(found.flags):
        return found
    return InspectionResult(path=path, verdict="flag", reason=flags[0], flags=tuple(flags), details=found.details)


def _has_part(path: Path, part: str) -> bool:
    return any(path.with_suffix(each).is_file() for each in (part, part.upper()))


def _sidecar_problem(sidecar: Path) -> str | None:
    """Why a raster with this sidecar must not be opened: it is a link, a recipe in disguise, or leads out of its folder."""
    try:
        descriptor = os.open(sidecar, _FLAGS)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return "custody.inspect.sidecar_link"
            data = stream.read(_MAX_SIDECAR)
    except OSError:
        return "custody.inspect.sidecar_link"
    name = sidecar.name.lower()
    if name.endswith((".ovr", ".msk")) and data[:4] not in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "custody.inspect.sidecar_disguised"
    text = data.replace(b"\x00", b"").decode("utf-8", "replace")
    if re.search(r"<!(ENTITY|DOCTYPE)|<(VRTDataset|OGRVRT|GDAL_WM)", text, re.I):
        return "custody.inspect.sidecar_disguised"
    if name.endswith(".aux.xml") and outside_raster(text) is not None:
        return "custody.inspect.sidecar_outside"
    return None
