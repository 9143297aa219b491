"""Bags on their way to a folder or an archive: contents, tag files, and a place that has no name until all is well.

Packages, redacted copies and supplements are written the same way: `Content` is a file with its digests known
beforehand; `tag_files` makes what BagIt asks for; `new_bag` writes files in the order of the package to a hidden
place beside the target, lets the caller verify it there, and gives it its name last. What fails leaves nothing.
Long documents lie in unnamed files on the target's disk, so memory does not grow with them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from geoevidence.custody.files import storage_error, sync_folder
from geoevidence.errors import DigestMismatchError, PackageError
from geoevidence.package.html_verifier import build_html
from geoevidence.trust.archive import Entry, end_records, sort_key
from geoevidence.trust.bundle import build_pyz
from geoevidence.trust.digests import BLOCK, FileDigests, digest_bytes, new_sm3
from geoevidence.trust.manifest import BAGIT, MANIFESTS, PAYLOAD_MANIFESTS, TAG_MANIFESTS, manifest_line

_IN_MEMORY = 16 << 20
"""Bytes of documents up to which they stay in memory."""


class Content(Protocol):
    """Bytes of one file of a bag. digests: of exactly the bytes that `blocks` gives, each time it is asked."""

    @property
    def digests(self) -> FileDigests: ...

    def blocks(self) -> Iterator[bytes]: ...


class Spool:
    """Where long documents lie until they are written: in memory while short, else in one unnamed file on the disk of `folder`.

    Close it when they are written.
    """

    def __init__(self, folder: Path) -> None:
        # has no name on the disk: it is gone with the process, whatever happens
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._end = 0

    def document(self, parts: Iterable[bytes]) -> SpooledDocument:
        """The document of these parts. While they are made, documents made before may be read, and no other be begun."""
        sha256, sm3, start = hashlib.sha256(), new_sm3(), self._end
        for part in parts:
            self._file.seek(self._end)
            self._file.write(part)
            self._end += len(part)
            sha256.update(part)
            sm3.update(part)
        return SpooledDocument(self, start, FileDigests(sha256.hexdigest(), sm3.hexdigest(), self._end - start))

    def read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class SpooledDocument:
    """A long file made here."""

    spool: Spool
    start: int
    digests: FileDigests

    def blocks(self) -> Iterator[bytes]:
        end = self.start + self.digests.size
        for at in range(self.start, end, BLOCK):
            yield self.spool.read(at, min(BLOCK, end - at))


class ShortDocument:
    """A file made here whose bytes are at hand."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._digests = digest_bytes(data)

    @property
    def digests(self) -> FileDigests:
        return self._digests

    def blocks(self) -> Iterator[bytes]:
        yield self.data


@dataclass(frozen=True, slots=True)
class Copy:
    """A file copied from elsewhere and compared with its SHA-256 on the way. where: its name in a message."""

    digests: FileDigests
    opener: Callable[[], BinaryIO]
    where: str

    def blocks(self) -> Iterator[bytes]:
        """Raises DigestMismatchError at the end when the bytes are not those expected."""
        digest, size = hashlib.sha256(), 0
        with self.opener() as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                size += len(block)
                yield block
        if (digest.hexdigest(), size) != (self.digests.sha256, self.digests.size):
            raise DigestMismatchError("custody.object_changed", path=self.where, expected=self.digests.sha256)


def payload_manifests(payload: Mapping[str, FileDigests], *, spool: Spool) -> dict[str, Content]:
    """The two manifests of the files under data/, given in the order of the package."""
    found: dict[str, Content] = {}
    for name, of in zip(PAYLOAD_MANIFESTS, ("sha256", "sm3"), strict=True):
        lines = (manifest_line(path, getattr(digests, of)) for path, digests in payload.items())
        found[name] = spool.document(lines)
    return found


def tag_files(
    payload: Mapping[str, FileDigests],
    *,
    bag_info: Callable[[int, int], bytes],
    verify_text: bytes,
    items: Content | None,
    spool: Spool,
    version: int = 2,
) -> tuple[dict[str, Content], dict[str, tuple[str, str]]]:
    """Every tag file of a bag, and (SHA-256, SM3) of its four manifests.

    Args:
        payload: files under data/, in the order of the package.
        bag_info: makes bag-info.txt of the bytes and the number of those files.
        verify_text: VERIFY.txt. items: items.json, or None in a supplement.
        spool: where long documents are kept meanwhile.
        version: of the package; version 1 has no verify.html.
    """
    tags: dict[str, Content] = {
        "bagit.txt": ShortDocument(BAGIT),
        "bag-info.txt": ShortDocument(bag_info(sum(each.size for each in payload.values()), len(payload))),
        "VERIFY.txt": ShortDocument(verify_text),
        "verify.pyz": ShortDocument(build_pyz()),
        **payload_manifests(payload, spool=spool),
    }
    if version > 1:
        tags["verify.html"] = ShortDocument(build_html())
    if items is not None:
        tags["items.json"] = items
    names = sorted(tags, key=sort_key)
    for name, of in zip(TAG_MANIFESTS, ("sha256", "sm3"), strict=True):
        tags[name] = ShortDocument(b"".join(manifest_line(each, getattr(tags[each].digests, of)) for each in names))
    return tags, {name: (tags[name].digests.sha256, tags[name].digests.sm3) for name in MANIFESTS}


class Sink(Protocol):
    """Where a bag is written. Files come in the order of the package."""

    def add(self, path: str, content: Content) -> None: ...

    def back_to(self, path: str) -> None:
        """Take back every file from `path` on, in the order of the package, that was added."""

    def finish(self) -> int:
        """Make it durable as it is; bytes written. More may be taken back and added afterwards."""


class _FolderSink:
    def __init__(self, folder: Path, _: str) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        folder.mkdir()

    def add(self, path: str, content: Content) -> None:
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as stream:
            # listed before it is whole: `back_to` takes back also a file that could not be written to its end
            self._sizes[path] = content.digests.size
            for block in content.blocks():
                stream.write(block)

    def back_to(self, path: str) -> None:
        for name in [each for each in self._sizes if sort_key(each) >= sort_key(path)]:
            (self._folder / name).unlink()
            del self._sizes[name]

    def finish(self) -> int:
        # one call for all files: syncing them one by one costs milliseconds a file
        if hasattr(os, "sync"):
            os.sync()
        return sum(self._sizes.values())


class _ZipSink:
    """Streams stored entries; a header is written again once the CRC of its file is known."""

    def __init__(self, file: Path, top: str) -> None:
        self._file = file
        self._top = top
        self._entries: list[Entry] = []
        file.open("xb").close()

    @property
    def _offset(self) -> int:
        return self._entries[-1].end if self._entries else 0

    def add(self, path: str, content: Content) -> None:
        entry = Entry(f"{self._top}/{path}", content.digests.size, 0, self._offset)
        with open(self._file, "r+b") as stream:
            stream.seek(entry.offset)
            stream.write(entry.local_header())
            crc = 0
            for block in content.blocks():
                stream.write(block)
                crc = zlib.crc32(block, crc)
            entry = replace(entry, crc=crc)
            stream.seek(entry.offset)
            stream.write(entry.local_header())
        self._entries.append(entry)

    def back_to(self, path: str) -> None:
        while self._entries and sort_key(self._entries[-1].name) >= sort_key(f"{self._top}/{path}"):
            self._entries.pop()

    def finish(self) -> int:
        directory = b"".join(entry.central_header() for entry in self._entries)
        with open(self._file, "r+b") as stream:
            stream.seek(self._offset)
            stream.write(directory)
            stream.write(end_records(len(self._entries), self._offset, len(directory)))
            size = stream.tell()
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
        return size


class NewBag:
    """A bag at its hidden place. part: where it is meanwhile; spool: for its documents; size: bytes, once finished."""

    def __init__(self, out: Path, part: Path, sink: Sink, spool: Spool) -> None:
        self.out, self.part, self.spool = out, part, spool
        self._sink = sink
        self.size = 0
        self.kept = False

    def keep(self) -> None:
        """From now on the hidden place is left as it is when the bag cannot get its name."""
        self.kept = True

    def add(self, contents: Mapping[str, Content], *, done: Callable[[int], None] | None = None) -> None:
        """Write files in the order of the package, all of them after those already there.

        done: called with the size of each file that was written.
        Raises: CustodyError when they cannot be written; DigestMismatchError for a source that changed.
        """
        for path in sorted(contents, key=sort_key):
            with storing(self.out):
                self._sink.add(path, contents[path])
            if done is not None:
                done(contents[path].digests.size)

    def back_to(self, path: str) -> None:
        """Take back every file from `path` on."""
        with storing(self.out):
            self._sink.back_to(path)

    def finish(self) -> None:
        """What was added so far is a whole bag, to be verified at `part`."""
        with storing(self.out):
            self.size = self._sink.finish()

    def publish(self) -> None:
        """Give it its name. Raises PackageError when something has that name meanwhile."""
        with storing(self.out):
            # neither renames over a package that someone else has made meanwhile
            if os.path.lexists(self.out):
                if self.kept:
                    raise PackageError("package.recorded_elsewhere", path=self.out, part=self.part)
                raise PackageError("package.target_exists", path=self.out)
            os.rename(self.part, self.out)
            sync_folder(self.out.parent)


@contextmanager
def new_bag(out: Path, *, archive: bool) -> Iterator[NewBag]:
    """A new bag that will be at `out`, a folder or a zip archive; removed on leaving unless it was published or is kept.

    Raises: PackageError when something is there; CustodyError when nothing can be written.
    """
    out = out.absolute()
    if os.path.lexists(out):
        raise PackageError("package.target_exists", path=out)
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    spool = Spool(out.parent)
    bag = None
    try:
        with storing(out):
            sink: Sink = _ZipSink(part, out.stem) if archive else _FolderSink(part, out.name)
        bag = NewBag(out, part, sink, spool)
        yield bag
    finally:
        spool.close()
        if bag is None or not bag.kept:
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


@contextmanager
def storing(out: Path) -> Iterator[None]:
    """What the disk under `out` refuses becomes a CustodyError."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, out) from error
