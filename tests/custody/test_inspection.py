"""The first look at files: whole ones pass, cut or padded ones do not, hostile ones cost nothing."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.custody import InspectionResult, inspect_path
from geoevidence.messages import render


def jpeg(*, width: int = 40, height: int = 30, mpf: bool = False) -> bytes:
    """The structure of a JPEG with a restart marker and a stuffed byte in its scan; the picture itself is noise."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"noise\xff\x00more\xff\xd0after\xff\xffnoise"[:-7] + b"end"
    app2 = b"\xff\xe2\x00\x06MPF\x00" if mpf else b""
    return b"\xff\xd8\xff\xe0\x00\x04JF" + app2 + frame + b"\xff\xff" + scan + b"\xff\xd9"


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
    (found,) = inspect_path(path)
    assert found.path == path
    for lang in ("zh", "en"):
        assert found.reason.render(lang) != found.reason.id and "{" not in found.reason.render(lang)
    return found


@pytest.mark.parametrize(
    ("data", "verdict", "reason"),
    [
        (jpeg(), "accept", "sound"),
        (jpeg(mpf=True) + b"second picture", "accept", "sound"),
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
        (tiff(loop=True), "reject", "bad_structure"),
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
    photos = sorted((shared / "data/drone/brighton_beach/images").glob("*.JPG"))
    assert len(photos) == 18
    for path in photos:
        (found,) = inspect_path(path)
        assert found.verdict == "accept", render(found.reason.id, found.reason.values, "en")
        assert found.details["media_type"] == "image/jpeg" and int(found.details["width"]) > 1000
