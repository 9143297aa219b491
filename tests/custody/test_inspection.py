"""The first look at files: whole ones pass, cut or padded ones do not, hostile ones cost nothing."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.custody import InspectionResult, inspect_path, inspection
from geoevidence.custody.inspection import (
    archives,
    claims,
    documents,
    inspect_source_file,
    inspect_stored_file,
    pictures,
    readers,
)
from geoevidence.custody.inspection.look import Budget, Look, RejectedError, Source
from geoevidence.messages import render
from tests.trust import tree
from tests.trust.builder import write_folder, write_zip


def jpeg(*, width: int = 40, height: int = 30, mpf: bool = False) -> bytes:
    """The structure of a JPEG with a restart marker and a stuffed byte in its scan; the picture itself is noise."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"noise\xff\x00more\xff\xd0after\xff\xffnoise"[:-7] + b"end"
    # an index without pictures
    index = b"MPF\x00II*\x00\x08\x00\x00\x00" + struct.pack("<HI", 0, 0)
    app2 = b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index if mpf else b""
    return b"\xff\xd8\xff\xe0\x00\x04JF" + app2 + frame + b"\xff\xff" + scan + b"\xff\xd9"


def two_pictures(*, gap: bytes = b"", size: int = 0) -> bytes:
    """A multi-picture JPEG (CIPA DC-007): its index announces a second picture after the first."""
    entries_at, second = 8 + 2 + 12 + 4, jpeg()

    def index(place: int) -> bytes:
        head = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHIII", 1, 0xB002, 7, 32, entries_at, 0)
        entries = struct.pack("<IIIHH", 0x030000, 0, 0, 0, 0) + struct.pack("<IIIHH", 0, size or len(second), place, 0, 0)
        body = b"MPF\x00" + head + entries
        return b"\xff\xd8\xff\xe2" + struct.pack(">H", len(body) + 2) + body + jpeg()[2:]

    # offsets count from the byte order mark of the index: after SOI, marker, length and name
    return index(len(index(0)) + len(gap) - 10) + gap + second


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*, width: int = 4, height: int = 3) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(5 * 3))) + chunk(b"IEND", b"")


def tiff(*, width: int = 4, height: int = 3, order: str = "<", big: bool = False, loop: bool = False) -> bytes:
    """One directory, one strip of width x height bytes."""
    mark = b"II" if order == "<" else b"MM"
    tags = [(256, width), (257, height), (273, 0), (279, min(width * height, 1000))]
    if big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, 16)
        size = 8 + 20 * len(tags) + 8
        data_at = 16 + size
        entries = b"".join(struct.pack(order + "HHQQ", tag, 16, 1, data_at if tag == 273 else value) for tag, value in tags)
        body = struct.pack(order + "Q", len(tags)) + entries + struct.pack(order + "Q", 16 if loop else 0)
    else:
        head = mark + struct.pack(order + "HI", 42, 8)
        size = 2 + 12 * len(tags) + 4
        data_at = 8 + size
        entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, data_at if tag == 273 else value) for tag, value in tags)
        body = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 8 if loop else 0)
    return head + body + bytes(min(width * height, 1000))


def archive(entries: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED, mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = mode << 16
            target.writestr(info, data)
    return buffer.getvalue()


def look(folder: Path, data: bytes, name: str = "file") -> InspectionResult:
    path = folder / name
    path.write_bytes(data)
    found = inspect_source_file(path)
    assert found.path == path
    for lang in ("zh", "en"):
        assert found.reason.render(lang) != found.reason.id and "{" not in found.reason.render(lang)
    return found


@pytest.mark.parametrize(
    ("data", "verdict", "reason"),
    [
        (jpeg(), "accept", "sound"),
        (two_pictures(), "accept", "sound"),
        (two_pictures(gap=bytes(50)), "accept", "sound"),
        (two_pictures() + b"hidden", "flag", "appended"),
        (two_pictures(gap=b"hidden"), "flag", "appended"),
        (two_pictures(size=1 << 30), "flag", "appended"),
        (jpeg(mpf=True) + b"second picture", "flag", "appended"),
        (jpeg() + bytes(100), "accept", "sound"),
        (jpeg() + b"hidden", "flag", "appended"),
        (jpeg()[:-2], "reject", "cut_short"),
        (jpeg()[:30], "reject", "cut_short"),
        (jpeg(width=0), "reject", "dimensions"),
        (jpeg(width=65535, height=65535), "reject", "dimensions"),
        (b"\xff\xd8\xff\xe0\x00\x04JF\xff\xd9", "reject", "no_picture"),
        (b"\xff\xd8\xff\xe0\x00\x04JFgarbage", "reject", "bad_structure"),
        (png(), "accept", "sound"),
        (png() + b"hidden", "flag", "appended"),
        (png()[:-3], "reject", "cut_short"),
        (png()[:40], "reject", "cut_short"),
        (png().replace(b"IDAT", b"IDAX"), "reject", "checksum"),
        (png(width=0), "reject", "dimensions"),
        (png(width=1 << 30, height=1 << 30), "reject", "dimensions"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "reject", "bad_structure"),
        (tiff(), "accept", "sound"),
        (tiff(order=">"), "accept", "sound"),
        (tiff(big=True), "accept", "sound"),
        (tiff(order=">", big=True), "accept", "sound"),
        (tiff()[:-1], "reject", "cut_short"),
        (tiff()[:20], "reject", "cut_short"),
        (tiff(big=True)[:-1], "reject", "cut_short"),
        (tiff(loop=True), "reject", "loop"),
        (tiff(width=1 << 20, height=1 << 20), "reject", "dimensions"),
        (b"II*\x00\x00\x00\x00\x00", "reject", "no_picture"),
        (b"II*\x00", "reject", "cut_short"),
        (archive({"a.txt": b"a", "b/c.txt": b"c"}), "accept", "sound"),
        (archive({"a.txt": b"a"})[:-5], "reject", "bad_archive"),
        (archive({"../../etc/passwd": b"a"}), "reject", "archive_name"),
        (archive({"/abs": b"a"}), "reject", "archive_name"),
        (archive({"A.txt": b"a", "a.TXT": b"b"}), "reject", "archive_twice"),
        (archive({"link": b"/etc"}, mode=stat.S_IFLNK | 0o777), "reject", "archive_link"),
        (archive({"bomb": bytes(30 << 20)}), "reject", "archive_bomb"),
        (b'{"a": [1, 2.5, null]}', "accept", "sound"),
        (b'{"a": 1, "a": 2}', "reject", "bad_json"),
        (b'{"a": NaN}', "reject", "bad_json"),
        (b"[" * 5000, "reject", "bad_json"),
        (b"", "flag", "empty"),
        (b"plain text", "accept", "not_known"),
    ],
)
def test_verdicts(tmp_path: Path, data: bytes, verdict: str, reason: str) -> None:
    found = look(tmp_path, data)
    assert (found.verdict, found.reason.id) == (verdict, f"custody.inspect.{reason}")


def test_dimensions_are_told(tmp_path: Path) -> None:
    for data, size in ((jpeg(), (40, 30)), (png(), (4, 3)), (tiff(big=True), (4, 3))):
        details = look(tmp_path, data).details
        assert (details["width"], details["height"]) == size and details["size"] == len(data)
    assert look(tmp_path, jpeg() + b"hidden").details["appended_bytes"] == 6


def test_every_cut_of_a_picture_is_noticed(tmp_path: Path) -> None:
    for data in (jpeg(), png(), tiff(), tiff(big=True)):
        for length in range(12, len(data)):
            assert look(tmp_path, data[:length]).verdict == "reject", length


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=120), start=st.sampled_from([jpeg(), png(), tiff(), tiff(big=True), archive({"a": b"b"}), b"{"]))
def test_hostile_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    for sample in (start[:8] + data, start[: len(data)] + data, start + data):
        assert look(folder, sample).verdict in ("accept", "flag", "reject")


def test_a_folder_is_looked_at_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "good.jpg").write_bytes(jpeg())
    (tmp_path / "a.jpg").write_bytes(jpeg()[:20])
    names = [(found.path.name, found.verdict) for found in inspect_path(tmp_path)]
    assert names == [("a.jpg", "reject"), ("good.jpg", "accept")]
    assert [found.verdict for found in inspect_path(tmp_path / "nothing")] == ["reject"]
    if os.name != "nt":
        (tmp_path / "link").symlink_to("a.jpg")
        os.mkfifo(tmp_path / "pipe")
        reasons = {found.path.name: found.reason.id for found in inspect_path(tmp_path)}
        assert reasons["link"] == "custody.inspect.link" and reasons["pipe"] == "custody.inspect.special"


def test_real_photos_are_whole(shared: Path) -> None:
    """All are whole; six were opened and saved in a picture viewer, which their EXIF and XMP name."""
    photos = sorted((shared / "data/drone/brighton_beach/images").glob("*.JPG"))
    assert len(photos) == 18
    edited = {f"DJI_00{number}.JPG" for number in range(24, 30)}
    for path in photos:
        (found,) = inspect_path(path)
        expected = ("flag", ["custody.inspect.edited"]) if path.name in edited else ("accept", [])
        said = render(found.reason.id, found.reason.values, "en")
        assert (found.verdict, [flag.id for flag in found.flags]) == expected, said
        assert found.details["media_type"] == "image/jpeg" and int(str(found.details["width"])) > 1000
        cheap = inspect_source_file(path)
        assert (cheap.verdict, cheap.reason) == (found.verdict, found.reason)


def test_the_sample_data_are_accepted(sample_data: Path) -> None:
    """Our own data hold nothing to flag; one file of each kind through the confined process, the rest by structure."""
    files = sorted(path for path in sample_data.rglob("*") if path.is_file())
    assert {inspect_source_file(path).verdict for path in files} == {"accept"}
    for path in {each.suffix: each for each in files}.values():
        assert [found.verdict for found in inspect_path(path)] == ["accept"], path


# ---------------------------------------------------------------- the confined process


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 500_000,
        b'{"flags": 5}',
        b'{"verdict": "accept"}',
        b'{"verdict":"accept","reason":["core.synthetic",{}],"flags":[],"details":{}}',
        b'{"verdict":"accept","reason":["custody.inspect.none_such",{}],"flags":[],"details":{}}',
        b'{"verdict":"accept","reason":["custody.inspect.sound",7],"flags":[],"details":{}}',
        b'{"verdict":"accept","reason":["custody.inspect.sound",{}],"flags":[],"details":{"a":{"b":1}}}',
        b'{"verdict":"accept","reason":["custody.inspect.sound",{}],"flags":[],"details":7}',
    ],
)
def test_nonsense_of_the_child_is_a_rejection(tmp_path: Path, answer: bytes) -> None:
    """A reader that was taken over may write anything."""
    (tmp_path / "answer").write_bytes(answer)
    script = tmp_path / "child.py"
    script.write_text(f"import sys\nsys.stdout.buffer.write(open({str(tmp_path / 'answer')!r}, 'rb').read())\n")
    with (tmp_path / "answer").open("rb") as stream:
        found = inspection._in_child(tmp_path / "a.jpg", stream, script=script)
    assert (found.verdict, found.reason.id) == ("reject", "custody.inspect.reader_died")


ESCAPES = """
import os, runpy, socket, sys
child = runpy.run_path(sys.argv[1])
if sys.argv[2] == "limits":
    # the limits alone, as code below Python would meet them
    sys.addaudithook = lambda hook: None
child["confine"]()
for fd in (0, 2):
    os.close(fd)
done = []
for name, act in {
    "open": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "socket": lambda: socket.socket(),
    "dup": lambda: os.dup(1),
    "pipe": lambda: os.pipe(),
    "kill": lambda: sys.argv[2] == "limits" or os.kill(os.getppid(), 0),
    "chmod": lambda: sys.argv[2] == "limits" or os.chmod(sys.argv[3], 0o600),
    "link": lambda: sys.argv[2] == "limits" or os.link(sys.argv[3], sys.argv[3] + "2"),
    "truncate": lambda: sys.argv[2] == "limits" or os.truncate(sys.argv[3], 0),
}.items():
    try:
        if act() is not True:
            done.append(name)
    except (OSError, RuntimeError):
        pass
os.write(1, ",".join(done).encode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such limits here")
@pytest.mark.parametrize("what", ["limits", "hook"])
def test_the_child_opens_nothing_though_it_gives_up_what_it_holds(tmp_path: Path, what: str) -> None:
    target = tmp_path / "evidence"
    target.write_bytes(b"x")
    command = [sys.executable, "-I", "-c", ESCAPES, inspection.child.__file__, what, str(target)]
    run = subprocess.run(command, capture_output=True, timeout=60)
    # `os.dup` and `os.pipe` raise no audit event: the limit alone stops them
    assert run.stdout == b"", run
    assert target.read_bytes() == b"x"


# ---------------------------------------------------------------- limits and budgets


def examined(name: str, data: bytes, *, left: int = 1 << 28, allowed: bool = True) -> Look:
    """What one file gives within a budget."""
    one = Look(name=name, source=Source.of_bytes(data), kind="", budget=Budget(left=left, allowed=allowed))
    readers.examine(one)
    return one


def refused(name: str, data: bytes, **options: int) -> str:
    with pytest.raises(RejectedError) as caught:
        examined(name, data, **options)
    return caught.value.reason.id.removeprefix("custody.inspect.")


def deflated_tiff() -> bytes:
    packed = zlib.compress(bytes(12))
    tags = [(256, 4, 4), (257, 4, 3), (258, 3, 8), (259, 3, 8), (273, 4, 8 + 2 + 12 * 6 + 4), (279, 4, len(packed))]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(tags)) + body + bytes(4) + packed


def text_png() -> bytes:
    whole = png()
    return whole[:33] + chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b"text" * 9)) + whole[33:]


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as target:
        for name in ("a.txt", "b.txt", "c.txt"):
            info = tarfile.TarInfo(name)
            info.size = 4
            target.addfile(info, io.BytesIO(b"text"))
    return buffer.getvalue()


SHEET = b"<sst><si><t>a</t></si></sst>"
COMPRESSED = {
    "a.png": png(),
    "text.png": text_png(),
    "a.tif": deflated_tiff(),
    "a.zip": archive({"a.txt": b"text"}),
    "a.gz": gzip.compress(b"text"),
    "a.xlsx": archive({"xl/sharedStrings.xml": SHEET}, method=zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_what_is_not_inflated_is_said(name: str) -> None:
    """`all` with room enough, `in_part` without, `not_checked` where no C code may run."""
    data = COMPRESSED[name]
    assert examined(name, data).details.get("decoded", "all") == "all"
    assert examined(name, data, left=1).details["decoded"] == "in_part"
    assert examined(name, data, allowed=False).details["decoded"] == "not_checked"


def test_files_of_an_archive_that_are_too_large_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in them is not known, and that is said; their sums are compared all the same."""
    hostile, tarred = b'{"a":1,"a":2}', tar()
    assert refused("a.zip", archive({"x.json": hostile})) == "member"
    assert examined("a.tar", tarred, left=1).details["decoded"] == "in_part"
    monkeypatch.setattr(archives, "MAX_MEMBER", 1)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = archive({"x.json": hostile}, method=method)
        assert examined("a.zip", data).flags == []
    spoilt = archive({"x.json": hostile}, method=zipfile.ZIP_STORED).replace(b'{"a":1', b'{"a":9')
    assert refused("a.zip", spoilt) == "archive_content"
    # in the caller's process a large stored file is not even read
    assert examined("a.zip", spoilt, allowed=False).flags == []
    assert examined("a.tar", tarred).details["decoded"] == "in_part"
    found = examined("a.gz", gzip.compress(hostile))
    assert found.details["decoded"] == "in_part" and [each.id for each in found.flags] == ["custody.inspect.in_part"]


def test_an_archive_of_more_entries_than_are_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its end counts fewer than its directory lists."""
    monkeypatch.setattr(archives, "MAX_ENTRIES", 1)
    data = bytearray(archive({"a": b"", "b": b"", "c": b""}))
    assert refused("a.zip", bytes(data)) == "archive_entries"
    struct.pack_into("<HH", data, data.index(b"PK\x05\x06") + 8, 1, 1)
    assert refused("a.zip", bytes(data)) == "archive_entries"
    assert refused("a.tar", tar()) == "archive_entries"


def test_a_sealed_package_in_a_zip_is_the_verifiers(tmp_path: Path) -> None:
    """Evidence in it may be anything: it is digested, and not judged."""
    found = examined("P.zip", archive({"P/seal/statement.dsse": b"x", "P/data/x.json": b"{"}))
    assert found.details["document"] == "package" and found.flags == []


def test_packages_are_verified_as_a_whole(tmp_path: Path) -> None:
    files = tree.base()
    folder, whole = write_folder(files, tmp_path / "P"), write_zip(files, tmp_path / "P.zip")
    path = tree.find(files, "照片")
    broken = write_folder({**files, path: b"other"}, tmp_path / "Q")
    for place, verdict, reason in (
        (folder, "accept", "package_whole"),
        (whole, "accept", "package_whole"),
        (broken, "reject", "package_broken"),
    ):
        (found,) = inspect_path(place)
        assert (found.verdict, found.reason.id) == (verdict, f"custody.inspect.{reason}")
        assert found.details["kind"] == "package" and (found.details["failed_checks"] == 0) == (verdict == "accept")


def test_files_of_the_store_are_looked_at_under_their_own_name(tmp_path: Path) -> None:
    (tmp_path / "0a1b").write_bytes(b'{"a":1,"a":2}')
    found = inspect_stored_file(tmp_path / "0a1b", "card/x.json")
    assert (found.path, found.reason.id) == (Path("card/x.json"), "custody.inspect.bad_json")
    assert inspect_stored_file(tmp_path / "absent", "x").reason.id == "custody.inspect.unreadable"


def test_folders_and_files_that_fail_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "a.jpg").write_bytes(jpeg())
    for target, name in ((os, "listdir"), (inspection, "_inspect_stream")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fail)
            (found,) = inspect_path(tmp_path)
        assert (found.verdict, found.reason.id) == ("reject", "custody.inspect.unreadable")
        assert found.reason.values["reason"] == "Input/output error"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_sidecar_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif.ovr")
    assert look(tmp_path, tiff(), "a.tif").reason.id == "custody.inspect.sidecar_link"


@pytest.mark.parametrize(("error", "reason"), [(MemoryError(), "limit_memory"), (KeyError("x"), "reader_failed")])
def test_a_fault_of_a_reader_lets_nothing_through(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(look: Look) -> None:
        raise error

    monkeypatch.setattr(readers, "examine", fail)
    verdict, found, flags, _ = readers.judge(Source.of_bytes(b"x"), "x", deep=True)
    assert (verdict, found.id, flags) == ("reject", f"custody.inspect.{reason}", [])


@pytest.mark.parametrize(
    ("module", "limit", "name", "data", "flag"),
    [
        (documents, "MAX_TEXT", "a.json", b'{"a":1,"a":2}', "too_large"),
        (documents, "_MAX_OBJECTS", "a.json", b'{"a":1,"a":2}', "too_large"),
        (documents, "MAX_TEXT", "a.jsonl", b'{"a":1,"a":2}', "too_large"),
        (documents, "MAX_TEXT", "a.xml", b"<a><b/></a>", "too_large"),
        (documents, "_MAX_TAGS", "a.xml", b"<a><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/></a>", "too_large"),
        (documents, "MAX_TEXT", "a.csv", b"a,=1+cmd\nb,c\n", "too_large"),
    ],
)
def test_documents_larger_than_what_is_parsed_are_flagged(
    module: ModuleType, limit: str, name: str, data: bytes, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 9)
    assert [each.id for each in examined(name, data).flags] == [f"custody.inspect.{flag}"]


TWO_DIRECTORIES = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HIHI", 0, 14, 0, 0)


@pytest.mark.parametrize(
    ("module", "limit", "name", "data", "reason"),
    [
        (documents, "MAX_TEXT", "a.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a/>', "xml_entities"),
        (pictures, "_MAX_SEGMENTS", "a.jpg", jpeg(), "bad_structure"),
        (pictures, "_MAX_CHUNKS", "a.png", png(), "bad_structure"),
        (claims, "_MAX_DIRECTORIES", "a.png", png()[:33] + chunk(b"eXIf", TWO_DIRECTORIES) + png()[33:], "bad_structure"),
    ],
)
def test_structures_larger_than_any_honest_one_are_refused(
    module: ModuleType, limit: str, name: str, data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 1)
    assert refused(name, data) == reason


def test_a_note_longer_than_any_is_flagged() -> None:
    note = b"origin\n1\n" + bytes(44) + b"\n" + b"x" * (1 << 21) + b"\n\n\xe2\x80\x94 name AAAA\n"
    note = note.replace(b"\x00", b"A")
    assert [each.id for each in examined("a.txt", note).flags] == ["custody.inspect.too_large"]


def test_parts_of_a_table_by_their_headers() -> None:
    head = struct.pack("<B3xIHH20x", 3, 2, 33, 1) + b"\r"
    for tail in (b"  ", b"  \x1a"):
        assert examined("a.dbf", head + tail).flags == []


def test_an_escape_in_an_escape_in_an_escape_leads_nowhere_good() -> None:
    """Three times undone, which is more than any reader does; what is left is a name like another."""
    assert documents.where_to("%25252e%25252e/x") == "up"
    assert documents.where_to("%2525252e%2525252e/x") == "inside"
