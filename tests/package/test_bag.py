"""Bags on their way: documents that do not fit in memory, sinks that take back, and a place without a name until the end."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from geoevidence.errors import CustodyError, DigestMismatchError, PackageError
from geoevidence.package.bag import Copy, ShortDocument, Spool, new_bag
from geoevidence.trust.digests import digest_bytes


def test_long_documents_lie_on_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    block = bytes(range(256)) * 4096
    tracemalloc.start()
    document = spool.document(block for _ in range(64))
    sizes = [len(each) for each in document.blocks()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 64 MiB pass through; 16 MiB are kept in memory before the disk is used
    assert sum(sizes) == document.digests.size == 64 << 20 and peak < 40 << 20
    assert document.digests == digest_bytes(block * 64)
    spool.close()


def test_documents_of_one_spool_do_not_mix(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.document((b"a", b"b"))
    second = spool.document(part for each in (b"c", b"d") for part in (each, *first.blocks()))
    empty = spool.document(())
    assert [b"".join(each.blocks()) for each in (first, second, empty, first)] == [b"ab", b"cabdab", b"", b"ab"]
    spool.close()


@pytest.mark.parametrize("archive", [False, True])
def test_files_are_taken_back_and_written_again(tmp_path: Path, archive: bool) -> None:
    out = tmp_path / "bag"
    with new_bag(out, archive=archive) as bag:
        bag.add({name: ShortDocument(name.encode() * 1000) for name in ("a", "b/c", "b/d", "e")})
        bag.finish()
        assert not out.exists() and bag.part.exists()
        bag.back_to("b/d")
        bag.add({"b/d": ShortDocument(b"short"), "b/x": ShortDocument(b""), "e": ShortDocument(b"e")})
        bag.finish()
        bag.publish()
    expected = {"a": b"a" * 1000, "b/c": b"b/c" * 1000, "b/d": b"short", "b/x": b"", "e": b"e"}
    if archive:
        with zipfile.ZipFile(out) as found:
            assert {name.removeprefix("bag/"): found.read(name) for name in found.namelist()} == expected
            assert found.testzip() is None
        assert bag.size == out.stat().st_size
    else:
        assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == expected
        assert bag.size == sum(map(len, expected.values()))
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


@pytest.mark.parametrize("archive", [False, True])
def test_what_fails_leaves_nothing(tmp_path: Path, archive: bool) -> None:
    bad = Copy(digest_bytes(b"expected"), lambda: io.BytesIO(b"other"), "source")
    with pytest.raises(DigestMismatchError), new_bag(tmp_path / "bag", archive=archive) as bag:
        bag.add({"a": ShortDocument(b"a"), "b": bad})
    with pytest.raises(CustodyError), new_bag(tmp_path / "bag", archive=archive) as bag:
        bag.add({"a": Copy(digest_bytes(b""), lambda: (tmp_path / "absent").open("rb"), "absent")})
    with new_bag(tmp_path / "bag", archive=archive) as bag:
        bag.add({"a": ShortDocument(b"a")})
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(PackageError) as raised, new_bag(tmp_path / "bag", archive=False) as bag:
        bag.add({"a": ShortDocument(b"a")})
        bag.finish()
        (tmp_path / "bag").write_bytes(b"mine")
        bag.publish()
    assert raised.value.message_id == "package.target_exists" and (tmp_path / "bag").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
