"""The object store: every file once, under its SHA-256, read-only.

A file is read once, giving SHA-256 and SM3 while it is copied; the copy is synced, read back and
compared before it gets its name `objects/<2 hex>/<sha256>`. Nothing in the store is ever changed or
replaced. Sources are regular files only: no link is followed, no device is read, and a file that
changes while it is read is refused. Bad sources raise InputError, a bad disk CustodyError.
Works in blocks; memory does not grow with files. Safe for several threads and processes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from geoevidence.custody.files import storage_error, sync_folder
from geoevidence.errors import DigestMismatchError, InputError
from geoevidence.trust.digests import BLOCK, FileDigests, new_sm3

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HEAD = 1 << 16
"""Bytes of each file that are kept at hand to tell its type."""
_BINARY = getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# without it, opening a named pipe would wait for a writer
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that is in the store.

    sha256, sm3: lower-case hex; size: bytes.
    head: the first `HEAD` bytes at most.
    """

    sha256: str
    sm3: str
    size: int
    head: bytes


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
            fd = os.open(path, os.O_RDONLY | _NOFOLLOW | _BINARY)
        except FileNotFoundError as error:
            raise DigestMismatchError("custody.object_missing", path=path, expected=sha256) from error
        except OSError as error:
            raise storage_error(error, path) from error
        try:
            yield fd
        except OSError as error:
            raise storage_error(error, path) from error
        finally:
            os.close(fd)

    def digest_source(self, source: Path, *, on_block: Callable[[int], None] | None = None) -> FileDigests:
        """Both digests of a file outside, without storing it. Raises InputError."""
        with _open_source(source) as fd:
            sha256, sm3, size = hashlib.sha256(), new_sm3(), 0
            for block in _blocks(fd, source):
                sha256.update(block)
                sm3.update(block)
                size += len(block)
                if on_block is not None:
                    on_block(len(block))
        return FileDigests(sha256.hexdigest(), sm3.hexdigest(), size)

    def add_file(self, source: Path, *, on_block: Callable[[int], None] | None = None) -> StoredFile:
        """Copy a file into the store.

        Args:
            source: a regular file.
            on_block: called with the number of bytes read, block by block.

        Raises: InputError for the source, CustodyError for the store.
        """
        with _open_source(source) as fd:
            return self._add(_blocks(fd, source), on_block)

    def add_bytes(self, data: bytes) -> StoredFile:
        """Put bytes into the store. Raises CustodyError."""
        return self._add(iter((data,) if data else ()), None)

    def _add(self, blocks: Iterator[bytes], on_block: Callable[[int], None] | None) -> StoredFile:
        part = self._scratch / f"{secrets.token_hex(8)}.part"
        with self.working():
            try:
                try:
                    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
                except OSError as error:
                    raise storage_error(error, part) from error
                try:
                    stored = self._fill(fd, part, blocks, on_block)
                finally:
                    os.close(fd)
                self._name(part, stored)
            finally:
                if os.name == "nt" and part.exists():
                    part.chmod(0o600)  # Windows removes no read-only file
                part.unlink(missing_ok=True)
        return stored

    def _fill(self, fd: int, part: Path, blocks: Iterator[bytes], on_block: Callable[[int], None] | None) -> StoredFile:
        sha256, sm3, size, head = hashlib.sha256(), new_sm3(), 0, b""
        # SM3 is the slowest step by far (about four times SHA-256): it runs beside reading, SHA-256 and writing
        with ThreadPoolExecutor(1) as beside:
            pending: Future[None] | None = None
            for block in blocks:
                if pending is not None:
                    pending.result()
                pending = beside.submit(sm3.update, block)
                sha256.update(block)
                if len(head) < HEAD:
                    head += block[: HEAD - len(head)]
                size += len(block)
                try:
                    _write(fd, block)
                except OSError as error:
                    raise storage_error(error, part) from error
                if on_block is not None:
                    on_block(len(block))
            if pending is not None:
                pending.result()
        try:
            os.fsync(fd)
            os.lseek(fd, 0, os.SEEK_SET)
            found = _sha256(fd)
            os.chmod(part, 0o444)
        except OSError as error:
            raise storage_error(error, part) from error
        if found != sha256.hexdigest():
            raise DigestMismatchError("custody.copy_differs", path=part, expected=sha256.hexdigest())
        return StoredFile(sha256=sha256.hexdigest(), sm3=sm3.hexdigest(), size=size, head=head)

    def _name(self, part: Path, stored: StoredFile) -> None:
        target = self.path_of(stored.sha256)
        if target.exists():
            self.check(stored.sha256)
            return
        try:
            if not target.parent.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                self._remember(self._folder)
            os.replace(part, target)
        except PermissionError as error:
            # Windows refuses to replace a read-only file: another thread has just stored the same bytes
            if not target.exists():
                raise storage_error(error, target) from error
            self.check(stored.sha256)
        except OSError as error:
            raise storage_error(error, target) from error
        self._remember(target.parent)

    def _remember(self, folder: Path) -> None:
        with self._guard:
            self._unsynced.add(folder)

    def flush(self) -> None:
        """Make the names of all objects stored so far durable. Raises CustodyError."""
        with self._guard:
            folders, self._unsynced = sorted(self._unsynced), set()
        for folder in folders:
            try:
                sync_folder(folder)
            except OSError as error:
                raise storage_error(error, folder) from error

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keeps other processes from sweeping the scratch folder meanwhile."""
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._scratch / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise storage_error(error, self._scratch) from error
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    def sweep(self) -> int:
        """Remove what a killed process left unfinished, unless some process is at work; the number of entries removed.

        On Windows a file that is in use cannot be removed, so nothing is taken from a live process there either.
        """
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._scratch / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise storage_error(error, self._scratch) from error
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return 0
            removed = 0
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


@contextmanager
def _open_source(source: Path) -> Iterator[int]:
    """A regular file, open for reading. Raises InputError."""
    try:
        # tested first: opening a device may already act on it
        if not stat.S_ISREG(os.lstat(source).st_mode):
            raise InputError("custody.not_a_file", path=shown(str(source)))
        fd = os.open(source, os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _BINARY)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError("custody.not_a_file", path=shown(str(source)))
        yield fd
    finally:
        os.close(fd)


def _unreadable(source: Path, error: Exception) -> InputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InputError("custody.source_unreadable", path=shown(str(source)), reason=reason)


def _blocks(fd: int, source: Path) -> Iterator[bytes]:
    """The file from its start to its end; raises InputError where it cannot be read or changes meanwhile."""
    before, size = os.fstat(fd), 0
    while True:
        try:
            block = os.read(fd, BLOCK)
            after = os.fstat(fd)
        except OSError as error:
            raise _unreadable(source, error) from error
        size += len(block)
        ended = not block
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or (size != before.st_size and ended):
            raise InputError("custody.source_changed", path=shown(str(source)))
        if ended:
            return
        yield block


def _read(fd: int, limit: int) -> bytes:
    data = b""
    while len(data) < limit and (block := os.read(fd, limit - len(data))):
        data += block
    return data


def _write(fd: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]


def _sha256(fd: int) -> str:
    digest = hashlib.sha256()
    while block := os.read(fd, BLOCK):
        digest.update(block)
    return digest.hexdigest()


def shown(name: str) -> str:
    """A name from outside, made safe to print: control and direction characters and stray bytes become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in name)
