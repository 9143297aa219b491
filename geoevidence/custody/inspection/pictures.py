"""Pictures: JPEG, PNG, TIFF (GeoTIFF, BigTIFF) and GIF by structure; dimensions bounded before anything is inflated.

No picture is shown or decoded: a JPEG's entropy-coded data are passed over, PNG and DEFLATE strips of TIFF are
inflated and their length compared with what the header promises. Sources: ITU-T T.81, CIPA DC-007 (multi-picture),
PNG third edition, TIFF 6.0, GIF89a.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence

from geoevidence.custody.inspection.claims import check_xmp, compare_claims, read_xmp
from geoevidence.custody.inspection.documents import outside_raster
from geoevidence.custody.inspection.look import Look, OutOfBudgetError, RejectedError, Source, bounded, inflate
from geoevidence.custody.store import shown

_BOMB = 256 << 20
_BOMB_RATIO = 1024
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.S)
_MAX_SEGMENTS = 100_000
_MAX_CHUNKS = 300_000
_MAX_BLOCKS = 500_000
_MAX_METADATA = 16 << 20
_MAX_TEXT = 8 << 20
_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
_SCRIPT = re.compile(rb"<script\b|<\?php|javascript:", re.I)


# ---------------------------------------------------------------- JPEG


def read_jpeg(look: Look) -> None:
    """Segments to the end of the first picture (ITU-T T.81 annex B); what stands after it is looked at, not decoded."""
    source = look.source
    at, in_scan, scans, segments = 2, False, 0, 0
    frame: tuple[int, int] | None = None
    exif = xmp = mpf = None
    mpf_at = 0
    while True:
        marker, at = _next_marker(source, at, in_scan)
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        if marker == 0xD9:
            break
        if marker in (0x01, *range(0xD0, 0xD8)):
            continue
        length = int.from_bytes(source.read(at, 2), "big")
        if length < 2:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        body = source.read(at + 2, length - 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None:
                raise RejectedError("custody.inspect.two_readings", what="JPEG SOF")
            frame = _frame(body, at)
            bounded(frame[1], frame[0])
        elif marker == 0xDC:
            # T.81 B.2.5: the number of lines stated a second time, after the data
            raise RejectedError("custody.inspect.two_readings", what="JPEG DNL")
        elif marker == 0xD8:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        elif marker == 0xE1 and body.startswith(b"Exif\x00\x00") and exif is None:
            exif = body[6:]
        elif marker == 0xE1 and body.startswith(_XMP) and xmp is None:
            xmp = body[len(_XMP) :]
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xmp/extension/\x00"):
            check_xmp(body)
        elif marker == 0xE2 and body.startswith(b"MPF\x00"):
            mpf, mpf_at = body[4:], at + 6
        elif marker == 0xFE and _SCRIPT.search(body):
            look.tell("custody.inspect.active_content", kind="JPEG comment")
        in_scan = marker == 0xDA
        scans += in_scan
        at += length
    if frame is None or not scans:
        raise RejectedError("custody.inspect.no_picture")
    height, width = frame
    look.details.update(width=width, height=height)
    look.decoded("not_checked")
    _check_bomb(look, width * height, look.size)
    end = _multi_picture_end(source, mpf, mpf_at, at) if mpf is not None else at
    if not source.is_blank(end, look.size, b"\x00\xff"):
        look.details["appended_bytes"] = look.size - end
        look.tell("custody.inspect.appended", count=look.size - end, offset=end)
    compare_claims(look, exif=exif, xmp=xmp, size=(width, height))


def _next_marker(source: Source, at: int, in_scan: bool) -> tuple[int, int]:
    """The next marker from `at` and the offset after it; entropy-coded data are passed over inside a scan."""
    if in_scan:
        # a marker may be preceded by fill bytes (0xFF): the last of them is its own
        found = source.search(_MARKER, at, longest=2)
        if found is None:
            raise RejectedError("custody.inspect.cut_short", offset=source.size)
        return found[1][-1], found[0] + len(found[1])
    if source.read(at, 1) != b"\xff":
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    while True:
        at += 1
        byte = source.read(at, 1)[0]
        if byte == 0:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        if byte != 0xFF:
            return byte, at + 1


def _frame(body: bytes, at: int) -> tuple[int, int]:
    """(height, width) of a frame header whose components can be (T.81 table B.2)."""
    if len(body) < 6 or (body[0] not in (8, 12, 16) and not 2 <= body[0] <= 16):
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    height, width, components = struct.unpack_from(">HHB", body, 1)
    if not 1 <= components <= 4 or len(body) != 6 + 3 * components:
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    factors = [(body[7 + 3 * n] >> 4, body[7 + 3 * n] & 15) for n in range(components)]
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in factors):
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    if components > 1 and sum(h * v for h, v in factors) > 10:
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    return height, width


def _check_bomb(look: Look, unpacked: int, packed: int) -> None:
    if unpacked > _BOMB and unpacked > _BOMB_RATIO * packed:
        raise RejectedError("custody.inspect.pixel_bomb", unpacked=unpacked, packed=packed)


def _multi_picture_end(source: Source, block: bytes, base: int, end: int) -> int:
    """Where the pictures end that a multi-picture index announces (CIPA DC-007, section 5.2.3); `end` where it makes no sense."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(block[:4])
    try:
        if order is None:
            return end
        start = struct.unpack_from(order + "I", block, 4)[0]
        count = struct.unpack_from(order + "H", block, start)[0]
        for n in range(min(count, 16)):
            tag, _, length, offset = struct.unpack_from(order + "HHII", block, start + 2 + 12 * n)
            if tag != 0xB002:
                continue
            pictures = [struct.unpack_from(order + "III", block, offset + 16 * k) for k in range(min(length // 16, 64))]
            for _, size, place in sorted(pictures, key=lambda each: each[2]):
                at = base + place
                # each picture begins where the last one ended, filling bytes apart
                if place and at + size <= source.size and at >= end and source.upto(at, 3) == b"\xff\xd8\xff":
                    if not source.is_blank(end, at, b"\x00\xff"):
                        return end
                    end = at + size
    except struct.error:
        return end
    return end


# ---------------------------------------------------------------- PNG

_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_png(look: Look) -> None:
    """Chunks with their CRCs to IEND (PNG third edition, section 5); text and pixels inflated within the budget."""
    source = look.source
    at, expected, previous, chunks = 8, -1, b"", 0
    places: list[tuple[int, int]] = []
    exif = xmp = None
    while True:
        length, kind = struct.unpack(">I4s", source.read(at, 8))
        begin, end = at + 8, at + 8 + length
        chunks += 1
        if chunks > _MAX_CHUNKS:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        if end + 4 > look.size:
            raise RejectedError("custody.inspect.cut_short", offset=look.size)
        crc = zlib.crc32(kind)
        for block in source.blocks(begin, end):
            crc = zlib.crc32(block, crc)
        if int.from_bytes(source.read(end, 4), "big") != crc:
            raise RejectedError("custody.inspect.checksum", offset=end)
        if (expected < 0) != (kind == b"IHDR") or (kind == b"IHDR" and length != 13):
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        if kind == b"IHDR":
            expected = _png_header(look, source.read(begin, 13), at)
        elif kind == b"IDAT":
            if places and previous != b"IDAT":
                raise RejectedError("custody.inspect.bad_structure", offset=at)
            places.append((begin, end))
        elif kind == b"eXIf":
            exif = source.read(begin, min(length, _MAX_METADATA))
        elif kind in (b"zTXt", b"iCCP", b"iTXt", b"tEXt"):
            text = _png_text(look, kind, source.read(begin, min(length, _MAX_METADATA)))
            if kind == b"iTXt" and text.startswith(b"XML:com.adobe.xmp\x00"):
                xmp = text.split(b"\x00", 5)[-1]
        at, previous = end + 4, kind
        if kind == b"IEND":
            break
    if not places:
        raise RejectedError("custody.inspect.no_picture")
    if at < look.size:
        look.details["appended_bytes"] = look.size - at
        look.tell("custody.inspect.appended", count=look.size - at, offset=at)
    _png_pixels(look, places, expected)
    width, height = look.details["width"], look.details["height"]
    compare_claims(look, exif=exif, xmp=xmp, size=(int(str(width)), int(str(height))))


def _png_header(look: Look, body: bytes, at: int) -> int:
    """Bytes that the picture's data inflate to: a filter byte and the pixels of each row."""
    width, height, depth, colour, method, filtering, interlace = struct.unpack(">IIBBBBB", body)
    look.details.update(width=width, height=height)
    bounded(width, height)
    if depth not in _PNG_DEPTHS.get(colour, ()) or method or filtering or interlace > 1:
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    bits = depth * _PNG_CHANNELS[colour]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    total = 0
    for x, y, dx, dy in passes:
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    _check_bomb(look, total, look.size)
    return total


def _png_text(look: Look, kind: bytes, body: bytes) -> bytes:
    """The chunk with its text inflated, where it is compressed and the budget allows."""
    keyword, _, rest = body.partition(b"\x00")
    if kind in (b"zTXt", b"iCCP"):
        if rest[:1] != b"\x00":
            raise RejectedError("custody.inspect.bad_structure", offset=0)
        packed, head = rest[1:], keyword + b"\x00"
    elif kind == b"iTXt" and rest[:1] == b"\x01":
        language, _, after = rest[2:].partition(b"\x00")
        translated, _, packed = after.partition(b"\x00")
        head = keyword + b"\x00\x01\x00" + language + b"\x00" + translated + b"\x00"
    else:
        if _SCRIPT.search(body):
            look.tell("custody.inspect.active_content", kind="PNG text")
        return body
    if not look.budget.allowed:
        look.decoded("not_checked")
        return head
    try:
        return head + b"".join(inflate(iter((packed,)), look.budget, bits=15, limit=_MAX_TEXT))
    except OutOfBudgetError:
        look.decoded("in_part")
        return head


def _png_pixels(look: Look, places: Sequence[tuple[int, int]], expected: int) -> None:
    if not look.budget.allowed:
        look.decoded("not_checked")
        return
    blocks = (block for begin, end in places for block in look.source.blocks(begin, end))
    try:
        total = sum(len(block) for block in inflate(blocks, look.budget, bits=15, limit=expected))
    except OutOfBudgetError:
        look.decoded("in_part")
        return
    if total != expected:
        raise RejectedError("custody.inspect.undecodable", reason=f"{total} < {expected}")
    look.decoded("all")


# ---------------------------------------------------------------- TIFF

_MAX_TIFF_VALUES = 2_000_000
_MAX_DIRECTORIES = _MAX_TAGS = 4096
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_NUMBERS = (256, 257, 258, 259, 273, 277, 278, 279, 284, 322, 323, 324, 325, 330)
_DEFLATE = (8, 32946)


class _Tiff:
    """Directories of a TIFF or BigTIFF."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._values_left = _MAX_TIFF_VALUES
        head = source.upto(0, 16)
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = struct.unpack_from(self.order + "H", head, 2)[0] == 43
        self.number = "Q" if self.big else "I"
        self.entry = struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))
        if len(head) < (16 if self.big else 8) or (self.big and struct.unpack_from(self.order + "HH", head, 4) != (8, 0)):
            raise RejectedError("custody.inspect.cut_short", offset=source.size)
        self.first: int = struct.unpack_from(self.order + self.number, head, 8 if self.big else 4)[0]

    def directory(self, at: int) -> tuple[dict[int, tuple[int, int, bytes]], int]:
        """(tag -> type, count, value field; offset of the next directory). Every value lies inside the file."""
        counting = struct.Struct(self.order + ("Q" if self.big else "H"))
        count = counting.unpack(self.source.read(at, counting.size))[0]
        if count == 0 or count > _MAX_TAGS:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        raw = self.source.read(at + counting.size, count * self.entry.size)
        after = at + counting.size + len(raw)
        following = struct.unpack(self.order + self.number, self.source.read(after, 8 if self.big else 4))[0]
        tags: dict[int, tuple[int, int, bytes]] = {}
        for tag, kind, values, inline in self.entry.iter_unpack(raw):
            if tag in tags:
                raise RejectedError("custody.inspect.two_readings", what=f"TIFF tag {tag}")
            length = _TIFF_SIZES.get(kind, 0) * values
            if length > len(inline) and self.place(inline) + length > self.source.size:
                raise RejectedError("custody.inspect.cut_short", offset=self.source.size)
            tags[tag] = (kind, values, inline)
        return tags, following

    def place(self, inline: bytes) -> int:
        return int(struct.unpack(self.order + self.number, inline)[0])

    def bytes_of(self, field: tuple[int, int, bytes]) -> bytes:
        kind, count, inline = field
        length = _TIFF_SIZES.get(kind, 0) * count
        return inline[:length] if length <= len(inline) else self.source.read(self.place(inline), length)

    def numbers(self, field: tuple[int, int, bytes], at: int) -> tuple[int, ...]:
        kind, count, _ = field
        self._values_left -= count
        if kind not in _TIFF_CODES or count < 1 or self._values_left < 0:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        return struct.unpack(f"{self.order}{count}{_TIFF_CODES[kind]}", self.bytes_of(field))


def read_tiff(look: Look) -> None:
    """Directories without loops, dimensions, and strips and tiles that are as many as announced and lie inside the file."""
    tiff = _Tiff(look.source)
    pending, seen, pictures = [tiff.first], set[int](), 0
    exif = xmp = None
    while pending:
        at = pending.pop()
        if at == 0:
            continue
        if at in seen or len(seen) > _MAX_DIRECTORIES:
            raise RejectedError("custody.inspect.loop", offset=at)
        seen.add(at)
        tags, following = tiff.directory(at)
        pending.append(following)
        values = {tag: tiff.numbers(tags[tag], at) for tag in _NUMBERS if tag in tags}
        pending += values.get(330, ())
        pictures += 1
        if 256 not in values or 257 not in values:
            raise RejectedError("custody.inspect.bad_structure", offset=at)
        if "width" not in look.details:  # of the first picture
            look.details.update(width=values[256][0], height=values[257][0])
        bounded(values[256][0], values[257][0])
        _tiff_data(look, values, at)
        if 700 in tags and tags[700][1] <= _MAX_METADATA:
            xmp = tiff.bytes_of(tags[700])
        if 42112 in tags and tags[42112][1] <= _MAX_METADATA:
            text = tiff.bytes_of(tags[42112])
            check_xmp(text)
            if (target := outside_raster(text.decode("utf-8", "replace"))) is not None:
                raise RejectedError("custody.inspect.traversal", target=shown(target)[:200])
        exif = exif if exif is not None else _tiff_exif(look, tags, tiff, at)
    if not pictures:
        raise RejectedError("custody.inspect.no_picture")
    look.details["directories"] = len(seen)
    if xmp is not None:
        check_xmp(xmp)
        read_xmp(xmp)


def _tiff_exif(look: Look, tags: dict[int, tuple[int, int, bytes]], tiff: _Tiff, at: int) -> bool | None:
    """Follow the EXIF and GPS directories of a picture: they are inside the file and lead nowhere else."""
    pointers = [tiff.numbers(tags[tag], at)[:1] for tag in (34665, 34853) if tag in tags]
    if not pointers:
        return None
    for (place,) in pointers:
        inner, _ = tiff.directory(place)
        if 40965 in inner:
            tiff.directory(tiff.numbers(inner[40965], place)[0])
    return True


def _tiff_data(look: Look, values: dict[int, tuple[int, ...]], at: int) -> None:
    width, height = values[256][0], values[257][0]
    samples = values.get(277, (1,))[0]
    planar = values.get(284, (1,))[0]
    bits = values.get(258, (1,))
    if not 1 <= samples <= 65535 or planar not in (1, 2) or max(bits, default=1) > 128:
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    is_tiled = 324 in values
    offsets, lengths = (values.get(324, ()), values.get(325, ())) if is_tiled else (values.get(273, ()), values.get(279, ()))
    tall, wide = values.get(323 if is_tiled else 278, (height,))[0], values.get(322, (width,))[0] if is_tiled else width
    if tall < 1 or wide < 1 or (is_tiled and (322 not in values or 323 not in values)):
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    if is_tiled:
        bounded(wide, tall)
    rows, columns = -(-height // tall), -(-width // wide)
    expected = rows * columns * (samples if planar == 2 else 1)
    if not offsets and not lengths:
        raise RejectedError("custody.inspect.no_picture")
    if len(offsets) != expected or len(lengths) != expected:
        raise RejectedError("custody.inspect.bad_structure", offset=at)
    for start, length in zip(offsets, lengths, strict=True):
        if start + length > look.size:
            raise RejectedError("custody.inspect.cut_short", offset=look.size)
    if sum(lengths) > look.size:
        raise RejectedError("custody.inspect.data_overlap", offset=at)
    if values.get(259, (1,))[0] not in _DEFLATE:
        look.decoded("all" if values.get(259, (1,))[0] == 1 else "not_checked")
        return
    if not look.budget.allowed:
        look.decoded("not_checked")
        return
    pixel = sum(bits) if len(bits) == samples else bits[0] * samples
    row_bytes = -(-wide * (pixel if planar == 1 else max(bits)) // 8)
    try:
        for index, (start, length) in enumerate(zip(offsets, lengths, strict=True)):
            if length == 0:  # a sparse file: no data are no pixels
                continue
            strip = index % rows
            lines = tall if is_tiled else min(tall, height - strip * tall)
            blocks = inflate(look.source.blocks(start, start + length), look.budget, bits=15, limit=row_bytes * lines)
            total = sum(len(block) for block in blocks)
            if total != row_bytes * lines:
                raise RejectedError("custody.inspect.undecodable", reason=f"{total} < {row_bytes * lines}")
    except OutOfBudgetError:
        look.decoded("in_part")
        return
    look.decoded("all")


# ---------------------------------------------------------------- GIF


def read_gif(look: Look) -> None:
    """Blocks to the trailer (GIF89a). A screen size that begins a comment of a script language is no accident."""
    source = look.source
    head = source.read(0, 13)
    width, height, flags = struct.unpack_from("<HHB", head, 6)
    look.details.update(width=width, height=height)
    bounded(width, height)
    if head[6:8] in (b"/*", b"//", b"=1", b"='", b'="', b"=/"):
        raise RejectedError("custody.inspect.polyglot", kinds="GIF, JavaScript")
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    pictures = blocks = 0
    while True:
        kind = source.read(at, 1)
        at += 1
        if kind == b"\x3b":
            break
        if kind == b"\x2c":
            left, top, wide, tall, packed = struct.unpack("<HHHHB", source.read(at, 9))
            bounded(max(left + wide, 1), max(top + tall, 1))
            at += 10 + (3 << ((packed & 7) + 1) if packed & 0x80 else 0)
            pictures += 1
        elif kind == b"\x21":
            at += 1
        else:
            raise RejectedError("custody.inspect.bad_structure", offset=at - 1)
        while length := source.read(at, 1)[0]:
            at, blocks = at + 1 + length, blocks + 1
            if blocks > _MAX_BLOCKS:
                raise RejectedError("custody.inspect.bad_structure", offset=at)
        at, blocks = at + 1, blocks + 1
    if not pictures:
        raise RejectedError("custody.inspect.no_picture")
    look.decoded("not_checked")
    if at < look.size:
        look.details["appended_bytes"] = look.size - at
        look.tell("custody.inspect.appended", count=look.size - at, offset=at)
