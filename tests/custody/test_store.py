"""The object store: what is stored is what was read, and nothing half-done stays."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.custody import files as files_module
from geoevidence.custody import store as store_module
from geoevidence.custody.files import storage_error, sync_folder, write_durably
from geoevidence.custody.store import HEAD, SEGMENT, ObjectStore, shown
from geoevidence.errors import CustodyError, DigestMismatchError, InputError
from geoevidence.trust.digests import BLOCK, digest_bytes

_posix = pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of a file's last change that nobody can set")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    (tmp_path / "objects").mkdir()
    return ObjectStore(tmp_path / "objects", tmp_path / "tmp")


def objects(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "objects").rglob("*") if path.is_file())


def unfinished(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "tmp").iterdir() if path.name != ".lock")


@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=3000), copies=st.integers(0, 2))
def test_what_is_stored_is_what_was_read(tmp_path_factory: pytest.TempPathFactory, data: bytes, copies: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = ObjectStore(folder / "objects", folder / "tmp")
    source = folder / "source"
    data = data * (1 + copies * 400)
    source.write_bytes(data)
    stored = store.add_file(source)
    assert (stored.sha256, stored.sm3, stored.size) == digest_bytes(data)
    assert store.head(stored.sha256) == data[:HEAD]
    assert store.read_bytes(stored.sha256) == data
    assert store.digest_source(source) == digest_bytes(data)
    assert store.add_bytes(data) == stored
    assert objects(folder) == [stored.sha256] and unfinished(folder) == []
    assert store.path_of(stored.sha256) == folder / "objects" / stored.sha256[:2] / stored.sha256
    assert store.path_of(stored.sha256).stat().st_mode & 0o777 == 0o444


def test_a_large_file_in_blocks(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(1000) * 5000
    assert len(data) > 4 * BLOCK
    (tmp_path / "large").write_bytes(data)
    seen: list[int] = []
    stored = store.add_file(tmp_path / "large", on_block=seen.append)
    assert (stored.sha256, stored.sm3, stored.size) == digest_bytes(data)
    assert sum(seen) == len(data) and len(seen) == -(-len(data) // BLOCK)


@pytest.mark.parametrize(
    "size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 3 * BLOCK + 7]
)
def test_sizes_about_those_of_blocks_and_segments(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = (os.urandom(BLOCK // 3) * (size // (BLOCK // 3) + 1))[:size]
    (tmp_path / "source").write_bytes(data)
    stored = store.add_file(tmp_path / "source", under=tmp_path)
    assert (stored.sha256, stored.sm3, stored.size) == digest_bytes(data) == store.digest_source(tmp_path / "source")
    assert store.read_bytes(stored.sha256) == data and unfinished(tmp_path) == []
    assert store.digest_object(store.path_of(stored.sha256)) == digest_bytes(data)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody else write to the file")
@pytest.mark.parametrize("size", [100, 3 * BLOCK, 3 * SEGMENT])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_a_disk_that_gives_back_other_bytes_is_noticed(store: ObjectStore, tmp_path: Path, size: int, damage: str) -> None:
    (tmp_path / "source").write_bytes(bytes(size))
    seen = 0

    def on_block(length: int) -> None:
        nonlocal seen
        seen += length
        if seen == size:  # all is written, not all is read back
            (part,) = (tmp_path / "tmp").glob("*.part")
            with part.open("r+b") as stream:
                stream.seek(size - 50)
                stream.truncate() if damage == "cut" else stream.write(b"?" if damage == "flip" else b"\0" * 51)

    with pytest.raises(DigestMismatchError) as raised:
        store.add_file(tmp_path / "source", on_block=on_block)
    assert raised.value.message_id == "custody.copy_differs"
    assert objects(tmp_path) == [] and unfinished(tmp_path) == []


def test_many_threads_store_the_same_bytes(store: ObjectStore, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: store.add_bytes(b"same" * 50_000 + bytes([n % 2])), range(32)))
    assert len({each.sha256 for each in results}) == 2 and len(objects(tmp_path)) == 2 and unfinished(tmp_path) == []
    store.flush()


def test_a_damaged_object_is_noticed_and_never_replaced(store: ObjectStore) -> None:
    stored = store.add_bytes(b"evidence")
    path = store.path_of(stored.sha256)
    path.chmod(0o644)
    path.write_bytes(b"evidencE")
    for attempt in (
        lambda: store.check(stored.sha256),
        lambda: store.add_bytes(b"evidence"),
        lambda: store.read_bytes(stored.sha256),
    ):
        with pytest.raises(DigestMismatchError) as raised:
            attempt()
        assert raised.value.message_id == "custody.object_changed"
    assert path.read_bytes() == b"evidencE"
    path.unlink()
    with pytest.raises(DigestMismatchError) as raised:
        store.check(stored.sha256)
    assert raised.value.message_id == "custody.object_missing"


@pytest.mark.skipif(os.name == "nt", reason="no links, pipes or devices of this kind on Windows")
def test_links_pipes_devices_and_folders_are_not_read(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "link", tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        for read in (store.add_file, store.digest_source):
            with pytest.raises(InputError) as raised:
                read(source)
            assert raised.value.message_id == "custody.not_a_file"
    with pytest.raises(InputError):
        store.add_file(tmp_path / "nothing here")
    with pytest.raises(InputError):
        store.add_file(Path("nul\x00byte"))
    assert objects(tmp_path) == []


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite", pytest.param("restore", marks=_posix)])
def test_a_file_that_changes_while_it_is_read_is_refused(store: ObjectStore, tmp_path: Path, change: str) -> None:
    source = tmp_path / "growing"
    source.write_bytes(b"a" * (3 * BLOCK))
    touched = []

    def on_block(size: int) -> None:
        if not touched:
            touched.append(size)
            if change == "grow":
                with source.open("ab") as stream:
                    stream.write(b"b")
            elif change == "shrink":
                os.truncate(source, BLOCK + 1)
            else:
                # "restore": whoever changes a file can set its time back, but not the time of that act
                status = source.stat()
                with source.open("r+b") as stream:
                    stream.write(b"c")
                os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + (change == "rewrite")))

    for read in (store.add_file, store.digest_source):
        touched.clear()
        with pytest.raises(InputError) as raised:
            read(source, on_block=on_block)
        assert raised.value.message_id == "custody.source_changed"
    assert objects(tmp_path) == [] and unfinished(tmp_path) == []


@pytest.mark.parametrize("whole_seconds", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_file_written_a_moment_ago_is_waited_for(store: ObjectStore, tmp_path: Path, whole_seconds: bool) -> None:
    """A second write in the same tick of the file system's clock would not show in its times: that tick passes first."""
    source = tmp_path / "fresh"
    source.write_bytes(b"x")
    now = time.time_ns()
    # as FAT has them, two seconds a tick; the next second, since the last change of all has its time too
    stamp = now // 10**9 * 10**9 + 10**9 if whole_seconds else now
    os.utime(source, ns=(stamp, stamp))
    store.digest_source(source)
    assert time.time_ns() - stamp >= (2_100_000_000 if whole_seconds else 20_000_000)


def test_a_clock_that_is_wrong_by_decades_holds_nothing_up(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "late").write_bytes(b"x")
    os.utime(tmp_path / "late", ns=(10**9, 2**61))
    before = time.monotonic()
    store.digest_source(tmp_path / "late")
    assert time.monotonic() - before < 2


def test_names_that_cannot_be_made_durable_are_not_forgotten(store: ObjectStore, tmp_path: Path) -> None:
    path = store.path_of(store.add_bytes(b"x").sha256)
    path.parent.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(CustodyError):
            store.flush()
    (tmp_path / "away").rename(path.parent)
    store.flush()


def test_an_object_of_another_process_is_made_durable_too(tmp_path: Path) -> None:
    """Who finds an object there may record it before whoever stored it has synced its name."""
    first, second = (ObjectStore(tmp_path / "objects", tmp_path / "tmp") for _ in range(2))
    stored = first.add_bytes(b"x")
    second.add_bytes(b"x")
    shutil.rmtree(tmp_path / "objects" / stored.sha256[:2])
    with pytest.raises(CustodyError):  # it does look at the folder
        second.flush()


_FULL = """
import resource, sys
from pathlib import Path
from geoevidence.custody.store import ObjectStore
from geoevidence.errors import CustodyError
folder = Path(sys.argv[1])
store = ObjectStore(folder / "objects", folder / "tmp")
small = store.add_bytes(b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.add_bytes(b"x" * 300_000)
except CustodyError as error:
    print(error.message_id)
store.check(small.sha256)
"""


@pytest.mark.skipif(os.name == "nt", reason="file size limits are POSIX")
def test_a_disk_that_takes_no_more_leaves_nothing_behind(tmp_path: Path) -> None:
    # a limit on the size of files makes write() fail as a full disk does, with an error of its own (EFBIG)
    done = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "custody.disk_full\n", done.stderr
    assert len(objects(tmp_path)) == 1 and unfinished(tmp_path) == []


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"not a folder")
    store = ObjectStore(tmp_path / "objects", tmp_path / "tmp")
    with pytest.raises(CustodyError) as raised:
        store.add_bytes(b"x")
    assert raised.value.message_id.startswith("custody.disk_") and unfinished(tmp_path) == []
    blocked = ObjectStore(tmp_path / "fine", tmp_path / "objects" / "tmp")
    with pytest.raises(CustodyError):
        blocked.add_bytes(b"x")
    with pytest.raises(CustodyError):
        blocked.sweep()


@pytest.mark.skipif(os.name == "nt", reason="advisory locks are POSIX")
def test_sweeping_spares_a_process_at_work(store: ObjectStore, tmp_path: Path) -> None:
    with store.working():
        (tmp_path / "tmp" / "dead.part").write_bytes(b"half")
        (tmp_path / "tmp" / "derivation-1" / "out").mkdir(parents=True)
        assert ObjectStore(tmp_path / "objects", tmp_path / "tmp").sweep() == 0
        assert unfinished(tmp_path) == ["dead.part", "derivation-1"]
    assert store.sweep() == 2
    assert unfinished(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="advisory locks are POSIX")
def test_sweeping_takes_the_halves_of_durable_writes(store: ObjectStore, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    write_durably(notes / "case" / "a.note", b"whole")
    half = notes / "case" / ".a.note.0123abcd.part"
    other = notes / "case" / "mine.part"
    half.write_bytes(b"ha")
    other.write_bytes(b"not ours")
    with store.working(), store.working():  # as often as one likes
        assert ObjectStore(tmp_path / "objects", tmp_path / "tmp").sweep(notes) == 0
    assert half.exists() and store.sweep(notes, tmp_path / "nothing") == 1
    assert sorted(path.name for path in (notes / "case").iterdir()) == ["a.note", "mine.part"]


def test_names_from_outside_are_made_printable() -> None:
    assert shown("a\x1b[31m\u202eb\udc80\n照片") == "a\\x1b[31m\\u202eb\\udc80\\n照片"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_stands_in_the_place_of_an_object_is_neither_waited_for_nor_followed(
    store: ObjectStore, tmp_path: Path, kind: str
) -> None:
    stored = store.add_bytes(b"photo")
    path = store.path_of(stored.sha256)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "same").write_bytes(b"photo")
        path.symlink_to(tmp_path / "same")
    else:
        path.mkdir()
    for read in (store.head, store.check, store.read_bytes):
        with pytest.raises(DigestMismatchError) as caught:
            read(stored.sha256)
        assert caught.value.message_id == "custody.object_changed"


# ---------------------------------------------------------------- what a system may refuse


def refusal(number: int) -> Callable[..., Any]:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_refusals_of_the_disk_are_told_apart(tmp_path: Path) -> None:
    found = {
        number: storage_error(OSError(number, os.strerror(number)), tmp_path) for number in (errno.ENOSPC, errno.EROFS, errno.EIO)
    }
    assert [each.message_id for each in found.values()] == ["custody.disk_full", "custody.disk_refuses", "custody.disk_failed"]
    assert str(storage_error(OSError("odd"), tmp_path)).count("odd") == 1


@pytest.mark.parametrize("reason", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_is_written_once_where_there_are_no_hard_links(
    tmp_path: Path, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FAT stick: what is there already is not overwritten there either."""
    monkeypatch.setattr(os, "link", refusal(reason))
    assert write_durably(tmp_path / "a", b"first", replace=False)
    assert not write_durably(tmp_path / "a", b"second", replace=False)
    assert (tmp_path / "a").read_bytes() == b"first" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_where_folders_cannot_be_opened_their_names_are_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError):
        sync_folder(tmp_path / "absent")
    monkeypatch.setattr(files_module, "os", SimpleNamespace(name="nt"))
    sync_folder(tmp_path / "absent")


def test_an_object_that_cannot_be_opened_is_the_disks_fault(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store.add_bytes(b"photo")
    monkeypatch.setattr(os, "open", refusal(errno.EIO))
    with pytest.raises(CustodyError) as raised:
        store.check(stored.sha256)
    assert raised.value.message_id == "custody.disk_failed"


def test_a_name_that_appears_while_it_is_given_is_compared(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows: another thread has stored the same bytes, and a read-only file is not replaced."""
    target = store.path_of(digest_bytes(b"photo").sha256)
    content = [b"photo", b"other", None]

    def replace(part: Path, name: Path) -> None:
        assert name == target
        if (data := content.pop(0)) is not None:
            target.write_bytes(data)
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(os, "replace", replace)
    assert store.add_bytes(b"photo").sha256 == target.name
    target.unlink()
    with pytest.raises(DigestMismatchError):
        store.add_bytes(b"photo")
    target.unlink()
    with pytest.raises(CustodyError) as raised:
        store.add_bytes(b"photo")
    assert raised.value.message_id == "custody.disk_refuses" and unfinished(tmp_path) == []


@pytest.mark.parametrize("call", ["chmod", "fsync", "write"])
def test_a_copy_that_the_disk_does_not_take_is_given_up(
    store: ObjectStore, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, refusal(errno.EIO))
    with pytest.raises(CustodyError) as raised:
        store.add_bytes(b"photo")
    monkeypatch.undo()
    assert raised.value.message_id == "custody.disk_failed" and objects(tmp_path) == [] and unfinished(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "FileIO"])
def test_a_copy_that_cannot_be_begun_is_given_up(
    store: ObjectStore, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it can be written but not read back: that descriptor is closed again."""
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    with store.working():
        monkeypatch.setattr(*((os, "open") if call == "open" else (io, "FileIO")), refusal(errno.EIO))
        with pytest.raises(CustodyError) as raised:
            store.add_bytes(b"photo")
        monkeypatch.undo()
    assert raised.value.message_id == "custody.disk_failed" and objects(tmp_path) == [] and unfinished(tmp_path) == []
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_without_the_advice_to_forget_and_without_locks_it_stores_all_the_same(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    monkeypatch.setattr(store_module, "fcntl", None)
    stored = store.add_bytes(b"photo")
    assert store.read_bytes(stored.sha256) == b"photo"
    (tmp_path / "tmp" / "dead.part").write_bytes(b"half")
    assert store.sweep() == 1 and unfinished(tmp_path) == []


def test_a_scratch_folder_that_cannot_be_swept_says_so(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_bytes(b"photo")
    (tmp_path / "tmp" / "dead.part").write_bytes(b"half")
    monkeypatch.setattr(Path, "unlink", refusal(errno.EROFS))
    with pytest.raises(CustodyError) as raised:
        store.sweep()
    monkeypatch.undo()
    assert raised.value.message_id == "custody.disk_refuses" and unfinished(tmp_path) == ["dead.part"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_file_that_turns_into_a_pipe_between_look_and_open_is_not_read(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, look = tmp_path / "photo", os.stat
    source.write_bytes(b"photo")

    def then_swap(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        if Path(path).name == "photo" and stat.S_ISREG(found.st_mode):
            source.unlink()
            os.mkfifo(source)
        return found

    monkeypatch.setattr(os, "stat", then_swap)
    with pytest.raises(InputError) as raised:
        store.add_file(source)
    assert raised.value.message_id == "custody.not_a_file" and objects(tmp_path) == []
