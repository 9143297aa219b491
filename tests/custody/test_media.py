"""What a file is by its first bytes, and the one time in a photo that can be read as UTC."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.custody.media import UNKNOWN, exif_time, jpeg_segments, media_type

LOCAL = b"2026:05:04 15:30:00\x00"


def photo(main: dict[int, bytes], gps: dict[int, bytes], *, order: str = "<") -> bytes:
    """A JPEG head with an EXIF block. main, gps: tag -> text (ASCII), or three rationals (24 bytes) for the GPS time."""

    def directory(fields: dict[int, bytes], offset: int) -> bytes:
        body, data = b"", b""
        heap = offset + 2 + 12 * len(fields) + 4
        for tag, value in sorted(fields.items()):
            rational, pointer = tag == 0x0007, tag in (0x8769, 0x8825)
            kind, count = (5, 3) if rational else (4, 1) if pointer else (2, len(value))
            if len(value) <= 4:
                body += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\x00")
            else:
                body += struct.pack(order + "HHII", tag, kind, count, heap + len(data))
                data += value
        return struct.pack(order + "H", len(fields)) + body + struct.pack(order + "I", 0) + data

    first = {0x8769: b"\x00" * 4, 0x8825: b"\x00" * 4}
    exif_at = 8 + len(directory(first, 8))
    exif = directory(main, exif_at)
    gps_at = exif_at + len(exif)
    first = {0x8769: struct.pack(order + "I", exif_at), 0x8825: struct.pack(order + "I", gps_at)}
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    tiff = mark + struct.pack(order + "I", 8) + directory(first, 8) + exif + directory(gps, gps_at)
    block = b"Exif\x00\x00" + tiff
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(block) + 2) + block + b"\xff\xda\x00\x02data\xff\xd9"


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_time_with_its_offset_is_a_time_in_utc(order: str) -> None:
    assert exif_time(photo({0x9003: LOCAL, 0x9011: b"+08:00\x00"}, {}, order=order)) == datetime(2026, 5, 4, 7, 30, tzinfo=UTC)
    assert exif_time(photo({0x9003: LOCAL, 0x9011: b"-03:30\x00"}, {}, order=order)) == datetime(2026, 5, 4, 19, 0, tzinfo=UTC)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_time_of_gps_is_utc(order: str) -> None:
    clock = struct.pack(order + "6I", 7, 1, 30, 1, 125, 10)
    assert exif_time(photo({0x9003: LOCAL}, {0x0007: clock, 0x001D: b"2026:05:04\x00"}, order=order)) == datetime(
        2026, 5, 4, 7, 30, 12, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("main", "gps"),
    [
        ({0x9003: LOCAL}, {}),
        ({0x9011: b"+08:00\x00"}, {}),
        ({0x9003: b"0000:00:00 00:00:00\x00", 0x9011: b"+08:00\x00"}, {}),
        ({0x9003: LOCAL, 0x9011: b"+99:99\x00"}, {}),
        ({0x9003: b"yesterday\x00", 0x9011: b"+08:00\x00"}, {}),
        ({}, {0x0007: struct.pack("<6I", 7, 0, 30, 1, 12, 1), 0x001D: b"2026:05:04\x00"}),
        ({}, {0x0007: struct.pack("<6I", 77, 1, 30, 1, 12, 1), 0x001D: b"2026:05:04\x00"}),
        ({}, {0x001D: b"2026:05:04\x00"}),
    ],
)
def test_what_is_not_a_time_in_utc_is_none(main: dict[int, bytes], gps: dict[int, bytes]) -> None:
    assert exif_time(photo(main, gps)) is None


@given(st.binary(max_size=400), st.integers(0, 300), st.integers(0, 255))
def test_damaged_photos_never_raise(data: bytes, at: int, value: int) -> None:
    whole = bytearray(photo({0x9003: LOCAL, 0x9011: b"+08:00\x00"}, {0x001D: b"2026:05:04\x00"}))
    whole[at % len(whole)] = value
    for sample in (
        bytes(whole),
        bytes(whole[:at]),
        data,
        b"\xff\xd8" + data,
        b"\xff\xd8\xff\xe1\x01\x00Exif\x00\x00II*\x00" + data,
    ):
        exif_time(sample)
        list(jpeg_segments(sample))
        assert media_type("x", sample)


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.jpg", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("a.jpg", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("a", b"II+\x00", "image/tiff"),
        ("a", b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image/jp2"),
        ("a", b"PK\x03\x04", "application/zip"),
        ("a.las", b"LASF", "application/vnd.las"),
        ("a.gpkg", b"SQLite format 3\x00" + bytes(52) + b"GPKG", "application/geopackage+sqlite3"),
        ("a.db", b"SQLite format 3\x00" + bytes(60), "application/vnd.sqlite3"),
        ("a.mp4", b"\x00\x00\x00\x18ftypisom", "video/mp4"),
        ("a.heic", b"\x00\x00\x00\x18ftypheic", "image/heic"),
        ("a.gif", b"GIF89a", "image/gif"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
        ("a.rar", b"Rar!\x1a\x07\x01\x00", "application/vnd.rar"),
        ("a.xz", b"\xfd7zXZ\x00", "application/x-xz"),
        ("a.bz2", b"BZh91AY", "application/x-bzip2"),
        ("a.zst", b"\x28\xb5\x2f\xfd", "application/zstd"),
        ("a.npy", b"\x93NUMPY\x01\x00", "application/x-npy"),
        ("a.tar", b"a.txt".ljust(257, b"\x00") + b"ustar\x0000", "application/x-tar"),
        ("a.toml", b"[case]\nnumber = 1\n", "text/plain"),
        ("a.json", b'[["a"]]', "application/json"),
        ("a.mov", b"\x00\x00\x00\x14ftypqt  ", "video/quicktime"),
        ("a.webp", b"RIFF1234WEBP", "image/webp"),
        ("a.json", b' {"a": 1}', "application/json"),
        ("a.geojson", b"{}", "application/geo+json"),
        ("a.xml", b"<?xml version='1.0'?>", "application/xml"),
        ("a.csv", b"a,b\n", "text/csv"),
        ("a.SRT", "时间\n".encode(), "text/plain"),
        ("a.txt", b"\x00\x01", UNKNOWN),
        ("a.txt", b"", UNKNOWN),
        ("a.txt", b"\xff\xfe", UNKNOWN),
        ("long.txt", ("照" * 40 + "\n").encode() * 600, "text/plain"),
    ],
)
def test_types_by_content(name: str, head: bytes, expected: str) -> None:
    assert media_type(name, head[: 1 << 16]) == expected


@pytest.mark.parametrize(
    ("head", "segments"),
    [
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9\x00\x00", [(0xE0, 6, 8)]),
        (b"\xff\xd8\xff\xff\xff\xe0\x00\x04ab\xff\xda\x00\x08", [(0xE0, 8, 10)]),  # fill bytes (T.81, B.1.1.2)
        (b"\xff\xd8\xff\xe0\x00\x01ab\xff\xe1\x00\x04cd", []),  # a length that does not count itself
        (b"\xff\xd8\x00\xe0\x00\x04ab", []),
        (b"GIF89a\xff\xe0", []),
    ],
)
def test_segments_of_a_jpeg(head: bytes, segments: list[tuple[int, int, int]]) -> None:
    assert list(jpeg_segments(head)) == segments


def test_a_gps_time_of_another_type_is_no_time() -> None:
    """Three rationals are asked; numbers of another type or count are not read as if they were some."""
    gps = {0x0007: struct.pack("<6I", 7, 1, 30, 1, 0, 1), 0x001D: b"2026:05:04\x00"}
    whole = photo({0x9003: LOCAL}, gps)
    assert exif_time(whole) == datetime(2026, 5, 4, 7, 30, tzinfo=UTC)
    field = struct.pack("<HHI", 0x0007, 5, 3)
    assert whole.count(field) == 1
    for kind, count in ((3, 3), (5, 2)):
        assert exif_time(whole.replace(field, struct.pack("<HHI", 0x0007, kind, count))) is None


def test_a_photo_without_exif_or_without_its_directories_states_no_time() -> None:
    whole = photo({0x9003: LOCAL, 0x9011: b"+08:00\x00"}, {})
    assert exif_time(whole) == datetime(2026, 5, 4, 7, 30, tzinfo=UTC)
    assert exif_time(b"\xff\xd8\xff\xda\x00\x02") is None
    # the tags that lead to the EXIF and to the GPS directory, made others
    assert exif_time(whole.replace(b"\x69\x87", b"\x00\x87").replace(b"\x25\x88", b"\x00\x88")) is None
    assert exif_time(whole.replace(b"\x69\x87", b"\x00\x87")) is None
