"""The first look at files: whole ones pass, cut or padded ones do not, hostile ones cost nothing."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.custody import InspectionResult, inspect_path, inspection
from geoevidence.custody.inspection import inspect_source_file
from geoevidence.messages import render


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
