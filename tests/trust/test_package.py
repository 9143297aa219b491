"""A sealed package verifies; whatever is done to its files is found, and the file is named."""

from __future__ import annotations

import os
import re
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoevidence.trust import InputError, VerificationError, VerificationReport, checks, verify_package
from geoevidence.trust.archive import Entry, archive_bytes, end_records, sort_key
from geoevidence.trust.container import Defect, open_container
from geoevidence.trust.verdict import PACKAGE_CHECKS, RULES
from tests.trust.builder import Log, package_files, sample_log, write_folder, write_zip

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats" / "verify.md"


def names(report: VerificationReport, path: str) -> bool:
    """True where a failed check is about that file (or a line of it)."""
    return any(check.subject == path or check.subject.startswith((f"{path}:", f"{path} ")) for check in report.failures)


def test_folder_and_zip_pass_every_check_that_can_be_made(folder: Path, archive: Path) -> None:
    for path in (folder, archive):
        report = verify_package(path)
        assert report.failures == () and report.exit_code == 0 and report.verified
        assert list(report.verdicts.values()) == ["passed", "not_checked", "not_checked", "passed", "not_checked"]
        open_checks = {check.name for check in report.checks if check.status == "not_checked"}
        assert open_checks == {"code", "trusted_keys", "claimed_past", "attested", "rollback", "recompute", "recompute_trusted"}
        assert [name for name in RULES if any(check.name == name for check in report.checks)] == list(PACKAGE_CHECKS)
        assert report.require() is report
        assert report.facts["files"] == 28 and report.facts["leaves"] == 5 and report.facts["demonstration"] is True


def test_numbers_are_those_of_the_document() -> None:
    """docs/formats/verify.md and the docstring of `checks` list the checks by number and name."""
    table = re.findall(r"^\| (\d\.\d+) \| `(\w+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert table == [(rule.number, name) for name, rule in RULES.items()]
    assert re.findall(r"(\d\.\d+) (\w+)", (checks.__doc__ or "").partition("The order")[0]) == [
        (rule.number, name) for name, rule in RULES.items()
    ]


# ---- every byte ----------------------------------------------------------------------------


def spans(files: dict[str, bytes], top: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, file) of each part of the archive: local header with data, then central headers, then the end."""
    offset, entries = 0, []
    for path in sorted(files, key=sort_key):
        entry = Entry(f"{top}/{path}", len(files[path]), zlib.crc32(files[path]), offset)
        entries.append((path, entry))
        yield offset, entry.end, path
        offset = entry.end
    for path, entry in entries:
        size = len(entry.central_header())
        yield offset, offset + size, path
        offset += size
    yield offset, offset + len(end_records(1, 0, 0)), ""


def flip_every(archive: Path, files: dict[str, bytes], places: Iterator[int]) -> int:
    """Flip a byte at each place; assert that the archive breaks and names the file. Gives the number of flips."""
    original = archive.read_bytes()
    parts = list(spans(files, archive.stem))
    assert parts[-1][1] == len(original)
    count = 0
    with open(archive, "r+b", buffering=0) as stream:
        for place in places:
            stream.seek(place)
            stream.write(bytes([original[place] ^ (1 << place % 8)]))
            report = verify_package(archive)
            path = next(path for start, end, path in parts if start <= place < end)
            assert report.exit_code == 1, (place, path)
            assert names(report, path or archive.name) or names(report, archive.name), (place, path, report.failures)
            # a damaged list of files makes the archive unreadable as a whole; where it can be read, the file is named
            if report.facts["files"] and path:
                assert names(report, path) or not names(report, archive.name), (place, path, report.failures)
            stream.seek(place)
            stream.write(original[place : place + 1])
            count += 1
    assert archive.read_bytes() == original
    return count


def test_flipped_bytes_of_the_archive(archive: Path, files: dict[str, bytes]) -> None:
    size = archive.stat().st_size
    # a stride coprime to the sizes of headers and lines, so that all kinds of fields are met
    assert flip_every(archive, files, iter(range(0, size, 211))) > 100


def test_every_byte_of_one_file_and_its_headers_and_of_the_end(archive: Path, files: dict[str, bytes]) -> None:
    parts = [(start, end) for start, end, path in spans(files, archive.stem) if path == "VERIFY.txt" or not path]
    assert flip_every(archive, files, (place for start, end in parts for place in range(start, end))) > 150


@pytest.mark.slow
def test_every_byte_of_an_archive(tmp_path: Path) -> None:
    log = Log()
    log.append("copied", {"originals/{e}/a.jpg": b"\xff\xd8\xff"})
    files = package_files(log, changes={"verify.pyz": b"PK"})
    archive = write_zip(files, tmp_path / "P.zip")
    places: list[int] = []
    for start, end, path in spans(files, "P"):
        # all of every header and of small files; of a large document, which is one text, every fifth byte
        large = len(files.get(path, b"")) > 800
        places += range(start, min(start + 120, end)) if large else range(start, end)
        places += range(start + 120, end, 5) if large else ()
    assert flip_every(archive, files, iter(places)) == len(places) > archive.stat().st_size / 3


def test_flipped_bytes_of_each_file_of_the_folder(files: dict[str, bytes], folder: Path) -> None:
    for path, data in files.items():
        for place in range(0, len(data), max(1, len(data) // 4)):
            (folder / path).write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
            report = verify_package(folder)
            assert report.exit_code == 1 and names(report, path), (path, place)
        (folder / path).write_bytes(data)
    assert verify_package(folder).verified


def test_one_changed_original_blames_that_file_alone(files: dict[str, bytes], folder: Path) -> None:
    path = next(path for path in files if path.endswith("照片 1.JPG"))
    (folder / path).write_bytes(files[path][:-1] + b"!")
    report = verify_package(folder)
    assert {check.subject for check in report.failures} == {path}
    assert {check.number for check in report.failures} == {"1.7"}
    assert {(check.expected or "")[:6] for check in report.failures} == {
        "sha256",
        "sm3:" + (report.failures[-1].expected or "")[4:6],
    }
    assert path in report.render("zh") and "失败" in report.render("zh") and path in report.render("en")
    with pytest.raises(VerificationError, match="照片"):
        report.require()


# ---- files removed, cut, added, renamed, swapped --------------------------------------------


def test_each_file_removed_emptied_or_longer(files: dict[str, bytes], folder: Path) -> None:
    for path, data in files.items():
        (folder / path).unlink()
        report = verify_package(folder)
        assert report.exit_code == 1 and names(report, path), path
        for other in (data + b"\n", data[:-1], b""):
            if other != data:
                (folder / path).write_bytes(other)
                report = verify_package(folder)
                assert report.exit_code == 1 and names(report, path), (path, len(other))
        (folder / path).write_bytes(data)
    assert verify_package(folder).verified


@pytest.mark.parametrize(
    "path",
    [
        "fetch.txt",
        "manifest-md5.txt",
        "README",
        "Thumbs.db",
        "seal/extra.tsr",
        "data/extra",
        "data/log/extra",
        "data/originals/x.jpg",
        "data/originals/E-bd8a63bd-2/DCIM/new.JPG",
        "data/report/.hidden",
        "data/originals/a\\b",
        "data/originals/cafe\u0301.jpg",
        "data/originals/E-bd8a63bd-2/dcim/照片 1.jpg",
    ],
)
def test_added_files(path: str, files: dict[str, bytes], tmp_path: Path) -> None:
    more = {**files, path: b"x"}
    for where in (write_folder(more, tmp_path / "P"), write_zip(more, tmp_path / "P.zip")):
        report = verify_package(where)
        assert report.exit_code == 1 and names(report, path)


def test_each_file_renamed(files: dict[str, bytes], folder: Path) -> None:
    for path in files:
        renamed = f"{path}~"
        (folder / path).rename(folder / renamed)
        report = verify_package(folder)
        assert report.exit_code == 1 and names(report, path) and names(report, renamed), path
        (folder / renamed).rename(folder / path)


def test_files_swapped(files: dict[str, bytes], folder: Path) -> None:
    paths = list(files)
    for one, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        (folder / one).write_bytes(files[other])
        (folder / other).write_bytes(files[one])
        report = verify_package(folder)
        assert report.exit_code == 1 and names(report, one) and names(report, other), (one, other)
        (folder / one).write_bytes(files[one])
        (folder / other).write_bytes(files[other])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="special files absent: this system makes no named pipes")
def test_links_special_files_and_empty_folders(files: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    path = next(path for path in files if path.endswith("照片 1.JPG"))
    (tmp_path / "elsewhere").write_bytes(files[path])
    (folder / path).unlink()
    (folder / path).symlink_to(tmp_path / "elsewhere")
    (folder / "data" / "originals" / "linked").symlink_to(folder / "data" / "records", target_is_directory=True)
    (folder / "data" / "empty").mkdir()
    os.mkfifo(folder / "data" / "pipe")
    report = verify_package(folder)
    for subject in (path, "data/originals/linked", "data/empty", "data/pipe"):
        assert names(report, subject), subject
    assert report.exit_code == 1


def test_a_file_that_cannot_be_read_is_named(files: dict[str, bytes], folder: Path) -> None:
    path = "data/ro-crate-metadata.json"
    (folder / path).chmod(0)
    if os.access(folder / path, os.R_OK):
        pytest.skip("unreadable files absent: this user may read every file")
    assert names(verify_package(folder), path)


def test_names_that_are_no_unicode_are_found(folder: Path) -> None:
    try:
        (folder / "data" / os.fsdecode(b"bad\xff")).write_bytes(b"")
    except OSError:
        pytest.skip("invalid names absent: this file system refuses them")
    report = verify_package(folder)
    assert report.exit_code == 1 and any("bad" in check.subject for check in report.failures)
    report.render("zh").encode("utf-8")


# ---- archives ------------------------------------------------------------------------------


def rezip(
    files: dict[str, bytes], path: Path, change: Callable[[zipfile.ZipInfo], None] = lambda info: None, **options: int
) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name in sorted(files, key=sort_key):
            info = zipfile.ZipInfo(f"P/{name}")
            change(info)
            archive.writestr(info, files[name])
    return path


def test_packed_again_by_another_program(files: dict[str, bytes], tmp_path: Path) -> None:
    path = rezip(files, tmp_path / "P.zip")
    report = verify_package(path)
    assert report.exit_code == 1 and report.verdicts["intact"] == "failed"
    # the content itself is untouched, and the report says so
    assert {check.number for check in report.failures} == {"1.1"} and report.verdicts["continuous"] == "passed"


def test_compressed_archive_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    def deflate(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    assert verify_package(rezip(files, tmp_path / "P.zip", deflate)).exit_code == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"x" + data,
        lambda data: data + b"x",
        lambda data: data[:-1],
        lambda data: data[:5000],
        lambda data: b"",
        lambda data: b"PK",
        lambda data: data[:-22] + data[-22:].replace(b"\0\0\0\0", b"\0\xff\0\xff", 1),
        lambda data: data[:-2] + b"\x05\0hello",
        lambda data: data * 2,
    ],
)
def test_damaged_archives(damage: Callable[[bytes], bytes], archive: Path) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    report = verify_package(archive)
    assert report.exit_code == 1 and names(report, archive.name)


def test_entries_out_of_order_twice_outside_or_overlapping(files: dict[str, bytes], tmp_path: Path) -> None:
    def pack(entries: list[tuple[str, bytes]], *, overlap: bool = False) -> Path:
        parts, headers, offset = [], [], 0
        for name, data in entries:
            entry = Entry(name, len(data), zlib.crc32(data), 0 if overlap else offset)
            headers.append(entry.central_header())
            if not overlap or not parts:
                parts += [entry.local_header(), data]
            offset = sum(map(len, parts))
        directory = b"".join(headers)
        path = tmp_path / "Q.zip"
        path.write_bytes(b"".join(parts) + directory + end_records(len(entries), offset, len(directory)))
        return path

    ordered = [(f"Q/{name}", files[name]) for name in sorted(files, key=sort_key)]
    assert verify_package(pack(ordered)).verified
    swapped = [*ordered[1:2], *ordered[:1], *ordered[2:]]
    assert names(verify_package(pack(swapped)), ordered[0][0][2:])
    assert names(verify_package(pack([ordered[0], *ordered])), ordered[0][0][2:])
    assert names(verify_package(pack([*ordered, ("../evil", b"x")])), "../evil")
    assert names(verify_package(pack([*ordered, ("/etc/evil", b"x")])), "/etc/evil")
    assert verify_package(pack(ordered, overlap=True)).exit_code == 1


def test_top_folder_is_a_label(files: dict[str, bytes], tmp_path: Path) -> None:
    path = write_zip(files, tmp_path / "P.zip")
    assert verify_package(path.rename(tmp_path / "other name.zip")).verified


@pytest.mark.parametrize("count", [0, 1, 3, 0xFFFF])
def test_archives_are_read_by_others(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive_bytes((f"P/{n:05d}", b"") for n in range(count)))
    with zipfile.ZipFile(path) as other:
        assert len(other.infolist()) == count and other.testzip() is None
    with open_container(path) as ours:
        defects: list[Defect] = []
        assert len(list(ours.files(defects.append))) == count and defects == []


def test_zip64_headers_are_read_by_others(tmp_path: Path) -> None:
    # a sparse file stands for the data: 4 GiB + 1 that take no room
    size = 2**32 + 1
    big, small = Entry("P/big", size, 0, 0), None
    path = tmp_path / "a.zip"
    with open(path, "wb") as stream:
        stream.write(big.local_header())
        stream.seek(big.end)
        small = Entry("P/small", 2, zlib.crc32(b"hi"), big.end)
        stream.write(small.local_header() + b"hi")
        directory = big.central_header() + small.central_header()
        stream.write(directory + end_records(2, small.end, len(directory)))
    with zipfile.ZipFile(path) as other:
        assert other.getinfo("P/big").file_size == size and other.getinfo("P/small").header_offset == big.end
        assert other.read("P/small") == b"hi"
    with open_container(path) as ours:
        defects: list[Defect] = []
        assert list(ours.files(defects.append)) == [("big", size), ("small", 2)] and defects == []
        with ours.open("small") as stream:
            assert stream.read() == b"hi"


# ---- what never happens ----------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="special files absent: this system makes no named pipes")
def test_nothing_there_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        verify_package(tmp_path / "nothing")
    with pytest.raises(InputError):
        verify_package("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError):
        verify_package(tmp_path / "pipe")


def test_a_folder_that_is_no_package_fails(tmp_path: Path) -> None:
    (tmp_path / "P").mkdir()
    report = verify_package(tmp_path / "P")
    assert report.exit_code == 1 and names(report, "bagit.txt") and names(report, "seal/statement.dsse")
    assert set(report.verdicts.values()) <= {"failed", "not_checked"}
    report.render("zh")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_archives_never_raise(data: st.DataObject, files: dict[str, bytes], archive: Path) -> None:
    original = archive_bytes((f"P-1/{name}", content) for name, content in files.items())
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(changed) - 1) | st.integers(len(changed) - 2600, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    archive.write_bytes(changed)
    report = verify_package(archive)
    report.render("zh"), report.to_dict()
    assert (report.exit_code == 0) == (bytes(changed) == original)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_documents_never_raise(data: st.DataObject, files: dict[str, bytes], folder: Path) -> None:
    path = data.draw(st.sampled_from([path for path in files if not path.startswith("data/originals")]))
    content = bytearray(files[path])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 30))] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b"[]", b"{}", b"null", b"0", b"\n"])
        )
    (folder / path).write_bytes(content)
    report = verify_package(folder)
    report.render("zh"), report.to_dict()
    assert (report.exit_code == 0) == (bytes(content) == files[path])
    assert report.exit_code == 0 or names(report, path)
    (folder / path).write_bytes(files[path])


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    log = Log()
    log.append("copied", {"originals/{e}/big.bin": bytes(48 << 20)})
    path = write_zip(package_files(log, changes={"verify.pyz": b"PK"}), tmp_path / "P.zip")
    del log
    tracemalloc.start()
    report = verify_package(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.verified and report.facts["bytes"] > 48 << 20
    assert peak < 6 << 20


def test_verifying_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    verify_package(folder)
    assert {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} == before


def test_progress_ends_at_one(folder: Path) -> None:
    seen: list[tuple[str, float]] = []
    verify_package(folder, progress=lambda stage, fraction: seen.append((stage, fraction)))
    assert seen[-1] == ("trust.progress.files", 1.0)
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)


def test_same_package_from_shuffled_files(files: dict[str, bytes]) -> None:
    pairs = list(files.items())
    assert archive_bytes(pairs) == archive_bytes(reversed(pairs))


def test_many_files(tmp_path: Path) -> None:
    folder = write_folder(package_files(sample_log(many=300), changes={"verify.pyz": b"PK"}), tmp_path / "P")
    assert verify_package(folder).verified
