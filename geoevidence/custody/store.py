"""The object store: every file once, under its SHA-256, read-only.

A file is read once, giving SHA-256 and SM3 while it is copied; the copy is synced, read back from the disk and
compared before it gets its name `objects/<2 hex>/<sha256>`. Nothing in the store is ever changed or replaced.
Sources are regular files only: no link is followed, no device is read, and a file that changes while it is read
is refused. Bad sources raise InputError, a bad disk CustodyError.
Works in blocks; memory does not grow with files. Safe for several threads and processes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from geoevidence.custody.files import storage_error, sweep_parts, sync_folder
from geoevidence.errors import DigestMismatchError, InputError
from geoevidence.trust.digests import BLOCK, FileDigests, new_sm3

try:
    import fcntl
except ImportError:  # pragma: no cover (Windows has no such module)
    fcntl = None  # type: ignore[assignment]

HEAD = 1 << 16
"""Bytes of each file that are kept at hand to tell its type."""
SEGMENT = 8 * BLOCK
"""Bytes of a copy that are synced and read back at a time, while SM3 of what came before is still under way."""
_AHEAD = 8
"""Blocks by which SM3 may lie behind; with one more for reading back, what a file under way needs in memory."""
_BINARY = getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# without it, opening a named pipe would wait for a writer
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_FINE, _COARSE = 20_000_000, 2_100_000_000
"""Nanoseconds after which a second write surely shows in a file's times: Linux counts them in ticks of up to 10 ms,
FAT in 2 s (Microsoft FAT32 File System Specification, 2000, page 22)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that is in the store.

    sha256, sm3: lower-case hex; size: bytes.
    """

    sha256: str
    sm3: str
    size: int


class ObjectStore:
    """Objects under `folder`; unfinished files under `scratch`, on the same disk.

    `write` returns once an object is durable under its name, apart from the folder entry:
    call `flush` before recording anything that rests on it.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch
        self._unsynced: set[Path] = set()
        self._guard = threading.Lock()
        self._spare: deque[memoryview] = deque()
        """Blocks to read into, kept from file to file while at work."""
        self._lock: int | None = None
        self._at_work = 0

    @property
    def folder(self) -> Path:
        """Where the objects are."""
        return self._folder

    def path_of(self, sha256: str) -> Path:
        """Where the object of this digest is, or would be."""
        return self._folder / sha256[:2] / sha256

    def head(self, sha256: str) -> bytes:
        """The first `HEAD` bytes of an object. Raises DigestMismatchError when it is missing."""
        with self._open_object(sha256) as fd:
            return _read(fd, HEAD)

    def read_bytes(self, sha256: str) -> bytes:
        """A whole (small) object, checked. Raises DigestMismatchError."""
        with self._open_object(sha256) as fd, os.fdopen(os.dup(fd), "rb") as stream:
            data = stream.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DigestMismatchError("custody.object_changed", path=self.path_of(sha256), expected=sha256)
        return data

    def check(self, sha256: str) -> None:
        """Read an object again and compare. Raises DigestMismatchError when it is missing or has changed."""
        with self._open_object(sha256) as fd:
            found = _sha256(fd)
        if found != sha256:
            raise DigestMismatchError("custody.object_changed", path=self.path_of(sha256), expected=sha256)

    @contextmanager
    def _open_object(self, sha256: str) -> Iterator[int]:
        path = self.path_of(sha256)
        try:
            # a pipe in its place would wait for a writer
            fd = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _BINARY)
        except FileNotFoundError as error:
            raise DigestMismatchError("custody.object_missing", path=path, expected=sha256) from error
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link
                raise DigestMismatchError("custody.object_changed", path=path, expected=sha256) from error
            raise storage_error(error, path) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DigestMismatchError("custody.object_changed", path=path, expected=sha256)
            yield fd
        except OSError as error:
            raise storage_error(error, path) from error
        finally:
            os.close(fd)

    def digest_source(
        self, source: Path, *, under: Path | None = None, on_block: Callable[[int], None] | None = None
    ) -> FileDigests:
        """Both digests of a file outside, without storing it. Arguments and errors as of `add_file`."""
        with _open_source(source, under) as opened:
            return self._read_through(opened, None, on_block)

    def digest_object(self, path: Path, *, on_block: Callable[[int], None] | None = None) -> FileDigests:
        """Both digests of a file in the store's folder, from the disk rather than the cache where the system allows.

        Raises: InputError when it is not a regular file there or cannot be read.
        """
        folder = self._folder.resolve()
        with _open_source(folder / path.relative_to(self._folder), folder) as opened:
            opened.forget_cached()
            return self._read_through(opened, None, on_block)

    def add_file(self, source: Path, *, under: Path | None = None, on_block: Callable[[int], None] | None = None) -> StoredFile:
        """Copy a file into the store.

        Args:
            source: a regular file.
            under: a folder above it, below which no link is followed, not even one that takes a folder's place meanwhile.
            on_block: called with the number of bytes read, block by block.

        Raises: InputError for the source, CustodyError for the store.
        """
        with _open_source(source, under) as opened:
            return self._add(opened, on_block)

    def add_bytes(self, data: bytes) -> StoredFile:
        """Put bytes into the store. Raises CustodyError."""
        return self._add(io.BytesIO(data), None)

    def add_blocks(self, blocks: Iterator[bytes]) -> StoredFile:
        """Put the bytes that follow one another into the store. Raises CustodyError, and what the iterator raises."""
        return self._add(_Blocks(blocks), None)

    def _add(self, source: _Readable, on_block: Callable[[int], None] | None) -> StoredFile:
        part = self._scratch / f"{secrets.token_hex(8)}.part"
        with self.working():
            try:
                with _Copy(part) as copy:
                    read = self._read_through(source, copy, on_block)
                    copy.finish(read.sha256)
                stored = StoredFile(sha256=read.sha256, sm3=read.sm3, size=read.size)
                self._name(part, stored)
            finally:
                if os.name == "nt" and part.exists():  # pragma: no cover (Windows removes no read-only file)
                    part.chmod(0o600)
                part.unlink(missing_ok=True)
        return stored

    def _read_through(self, source: _Readable, copy: _Copy | None, on_block: Callable[[int], None] | None) -> FileDigests:
        """Read to the end, once: digest and, where there is a copy to make, write."""
        with ThreadPoolExecutor(1) as beside:
            digests = _Digests(beside, self._spare)
            while True:
                block = digests.take_block()
                used = source.readinto(block) or 0
                if used and copy is not None:
                    copy.write(block[:used])
                digests.update(block, used)
                if not used:
                    return digests.result()
                if on_block is not None:
                    on_block(used)

    def _name(self, part: Path, stored: StoredFile) -> None:
        target = self.path_of(stored.sha256)
        # before looking: another process may have made name and folder, and not have synced them yet
        self._remember(target.parent, self._folder)
        if target.exists():
            self.check(stored.sha256)
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)
        except PermissionError as error:
            # Windows refuses to replace a read-only file: another thread has just stored the same bytes
            if not target.exists():
                raise storage_error(error, target) from error
            self.check(stored.sha256)
        except OSError as error:
            raise storage_error(error, target) from error

    def _remember(self, *folders: Path) -> None:
        with self._guard:
            self._unsynced.update(folders)

    def flush(self) -> None:
        """Make the names of all objects stored so far durable. Raises CustodyError."""
        with self._guard:
            folders = sorted(self._unsynced)
        for folder in folders:
            try:
                sync_folder(folder)
            except OSError as error:
                raise storage_error(error, folder) from error
            with self._guard:
                self._unsynced.discard(folder)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keeps other processes from sweeping the scratch folder meanwhile."""
        with self._guard:
            if self._lock is None:
                self._lock = self._open_lock(shared=True)
            self._at_work += 1
        try:
            yield
        finally:
            with self._guard:
                self._at_work -= 1
                if not self._at_work and self._lock is not None:
                    os.close(self._lock)
                    self._lock = None
                    self._spare.clear()

    def _open_lock(self, *, shared: bool) -> int:
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._scratch / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
            if shared and fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_SH)
            return fd
        except OSError as error:
            raise storage_error(error, self._scratch) from error

    def sweep(self, *others: Path) -> int:
        """Remove what a killed process left unfinished, unless some process is at work; the number of entries removed.

        On Windows a file that is in use cannot be removed, so nothing is taken from a live process there either.

        Args:
            others: folders beside the scratch folder where files are written durably by those at work.
        """
        fd = self._open_lock(shared=False)
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return 0
            removed = sum(sweep_parts(folder) for folder in others)
            for entry in sorted(self._scratch.iterdir()):
                if entry.name == ".lock":
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
                removed += 1
            return removed
        except OSError as error:
            raise storage_error(error, self._scratch) from error
        finally:
            os.close(fd)


class _Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the start of `buffer`; how much of it, 0 at the end."""


class _Blocks:
    """Bytes that follow one another, to be read as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        used = min(len(buffer), len(self._left))
        buffer[:used] = self._left[:used]
        self._left = self._left[used:]
        return used


class _Digests:
    """SHA-256 and SM3 of the blocks of one file, in order.

    SM3 is the slowest step by far, about four times SHA-256: it runs beside reading, SHA-256 and writing.
    """

    def __init__(self, beside: ThreadPoolExecutor, spare: deque[memoryview]) -> None:
        self._beside = beside
        self._spare = spare
        self._pending: deque[tuple[Future[None], memoryview]] = deque()
        self._sha256, self._sm3, self._size = hashlib.sha256(), new_sm3(), 0

    def take_block(self) -> memoryview:
        """Memory for the next block, to be given back to `update`."""
        if len(self._pending) == _AHEAD:
            return self._oldest()
        try:
            return self._spare.pop()
        except IndexError:
            return memoryview(bytearray(BLOCK))

    def _oldest(self) -> memoryview:
        done, block = self._pending.popleft()
        done.result()
        return block

    def update(self, block: memoryview, used: int) -> None:
        view = block[:used]
        self._sha256.update(view)
        self._size += used
        if self._pending or used == len(block):
            self._pending.append((self._beside.submit(self._sm3.update, view), block))
        else:
            # a small file, or the end: not worth a thread
            self._sm3.update(view)
            self._spare.append(block)

    def result(self) -> FileDigests:
        while self._pending:
            self._spare.append(self._oldest())
        return FileDigests(self._sha256.hexdigest(), self._sm3.hexdigest(), self._size)


class _Copy:
    """An object that has no name yet: written, and read back segment by segment once the disk has it."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self._written = self._compared = 0
        self._sha256 = hashlib.sha256()
        self._block = memoryview(bytearray(0))
        try:
            self._fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
            try:
                self._back = io.FileIO(part)
            except OSError:
                os.close(self._fd)
                raise
        except OSError as error:
            raise storage_error(error, part) from error

    def __enter__(self) -> _Copy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._back.close()
        os.close(self._fd)

    def write(self, data: memoryview) -> None:
        try:
            if self._written - self._compared >= SEGMENT:
                _sync_data(self._fd)
                self._read_back()
            self._written += len(data)
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise storage_error(error, self._part) from error

    def finish(self, sha256: str) -> None:
        """Make the copy durable and read-only. Raises DigestMismatchError unless what the disk gives back has this digest."""
        try:
            os.chmod(self._part, 0o444)
            os.fsync(self._fd)
            self._read_back()
            size = os.fstat(self._fd).st_size
        except OSError as error:
            raise storage_error(error, self._part) from error
        if (self._sha256.hexdigest(), size) != (sha256, self._written):
            raise DigestMismatchError("custody.copy_differs", path=self._part, expected=sha256)

    def _read_back(self) -> None:
        length = self._written - self._compared
        _forget_cached(self._fd, self._compared, length)
        if len(self._block) < min(length, BLOCK):
            self._block = memoryview(bytearray(min(length, BLOCK)))
        while self._compared < self._written:
            used = self._back.readinto(self._block[: self._written - self._compared])
            if not used:
                return  # shorter than written: the digest tells
            self._sha256.update(self._block[:used])
            self._compared += used


_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def _forget_cached(fd: int, start: int, length: int) -> None:
    """So that the next reading is of the disk. Without this call, or where it is not heeded, it may be of the cache."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # an advice
            os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)


class _Source:
    """A file from outside. `readinto` raises InputError where it cannot be read or has changed since it was opened."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self._stream = io.FileIO(fd, closefd=False)
        self._size = 0
        self._before = _settled(fd)

    def forget_cached(self) -> None:
        _forget_cached(self._fd, 0, 0)

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            used = self._stream.readinto(buffer) or 0
            after = os.fstat(self._fd)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self._size += used
        if _stamp(after) != _stamp(self._before) or (not used and self._size != after.st_size):
            raise InputError("custody.source_changed", path=shown(str(self._path)))
        return used


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    # the last moves with every change on POSIX and cannot be set back as the modification time can
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _settled(fd: int) -> os.stat_result:
    """The state of a file, given back once another write would show in its times."""
    status = os.fstat(fd)
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    left = changed + (_FINE if changed % 1_000_000_000 else _COARSE) - time.time_ns()
    if 0 < left <= 2 * _COARSE:  # a time further ahead is that of another clock
        time.sleep(left / 1e9)
    return status


@contextmanager
def _open_source(source: Path, under: Path | None) -> Iterator[_Source]:
    """A regular file, open for reading. Raises InputError."""
    try:
        below = () if under is None or os.open not in os.supports_dir_fd else source.relative_to(under).parts
        fd = _open_below(under, below, source) if under is not None and below else _open_regular(source, None, source)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error
    try:
        yield _Source(fd, source)
    finally:
        os.close(fd)


def _open_below(folder: Path, parts: tuple[str, ...], source: Path) -> int:
    at = os.open(folder, os.O_RDONLY | _DIRECTORY | _NOFOLLOW)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | _DIRECTORY | _NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        return _open_regular(Path(parts[-1]), at, source)
    finally:
        os.close(at)


def _open_regular(path: Path, folder: int | None, source: Path) -> int:
    # tested first: opening a device may already act on it
    if not stat.S_ISREG(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode):
        raise InputError("custody.not_a_file", path=shown(str(source)))
    fd = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _BINARY, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError("custody.not_a_file", path=shown(str(source)))
    return fd


def _unreadable(source: Path, error: Exception) -> InputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InputError("custody.source_unreadable", path=shown(str(source)), reason=reason)


def _read(fd: int, limit: int) -> bytes:
    data = b""
    while len(data) < limit and (block := os.read(fd, limit - len(data))):
        data += block
    return data


def _sha256(fd: int) -> str:
    digest = hashlib.sha256()
    while block := os.read(fd, BLOCK):
        digest.update(block)
    return digest.hexdigest()


def shown(name: str) -> str:
    """A name from outside, made safe to print: control and direction characters and stray bytes become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in name)
