"""Archives: zip, tar and gzip by their own headers, nothing unpacked to disk.

Every name, type and size in an archive is checked against every other record of it: what two unpackers could read
differently is refused. Contents are looked at in memory within the budget of `look.Budget`.
Sources: PKWARE APPNOTE 6.3.10 (zip), POSIX.1-2017 pax (tar), RFC 1952 (gzip).
"""

from __future__ import annotations

import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes

from geoevidence.custody.ingest import name_problem
from geoevidence.custody.inspection.look import (
    MAX_MEMBER,
    MAX_NESTING,
    MAX_RATIO,
    Look,
    OutOfBudgetError,
    RejectedError,
    Source,
    inflate,
)
from geoevidence.custody.store import shown
from geoevidence.trust.archive import CENTRAL, END, END64, LOCAL, LOCATOR64, fold

MAX_ENTRIES = 100_000
_32, _16 = 0xFFFFFFFF, 0xFFFF
_SMALL = 1 << 16
_MAX_FLAGS = 50
_OF_THE_WHOLE = ("custody.inspect.archive_nested", "custody.inspect.archive_bomb", "custody.inspect.member")
_OVERLONG = (b"\xc0\xae", b"\xe0\x80\xae", b"\xf0\x80\x80\xae", b"\xc0\xaf", b"\xe0\x80\xaf")
ARCHIVES = frozenset({"application/zip", "application/gzip", "application/x-tar"})
CLOSED_ARCHIVES = frozenset(
    {"application/x-7z-compressed", "application/vnd.rar", "application/x-xz", "application/x-bzip2", "application/zstd"}
)
Examine = Callable[[Look], None]
"""Looks at one file; handed in, so that this module need not know the other readers."""


def check_name(raw: bytes, text: str) -> str:
    """The name of an entry without its closing slash. Raises RejectedError where it would lead elsewhere on any system."""
    name = text[:-1] if text.endswith("/") else text
    problem = name_problem(unicodedata.normalize("NFC", name))
    if problem is None:
        for part in raw.split(b"/"):
            plain = part
            for spelling in _OVERLONG:
                plain = plain.replace(spelling, b".")
            # a part of dots alone in some spelling; in a longer part those bytes may be Chinese in GBK
            if plain.strip(b".") == b"":
                problem = "custody.skip_dots"
            escaped = unquote_to_bytes(part)
            if escaped != part and (escaped.strip(b".") == b"" or any(c in b"/\\\x00" for c in escaped)):
                problem = "custody.skip_dots"
    if problem is not None and not (raw.endswith(b"/") and problem == "custody.skip_dots" and _is_plain(raw)):
        raise RejectedError("custody.inspect.archive_name", name=shown(name)[:200])
    return name


def _is_plain(raw: bytes) -> bool:
    """A folder's name such as `a/b/`: its last part is empty and that is all."""
    parts = raw[:-1].split(b"/")
    return all(part.strip(b".") for part in parts) and b"%" not in raw and not any(each in raw for each in _OVERLONG)


class Names:
    """The names of an archive; the second of two that would be one file or a file and a folder is refused."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, name: str, *, is_folder: bool) -> None:
        folded = fold(name)
        parts = folded.split("/")
        above = {"/".join(parts[:n]) for n in range(1, len(parts))}
        if folded in self._files or above & self._files or (not is_folder and folded in self._folders):
            raise RejectedError("custody.inspect.archive_twice", name=shown(name)[:200])
        self._folders |= above
        (self._folders if is_folder else self._files).add(folded)


def check_ratio(unpacked: int, packed: int) -> None:
    if unpacked > MAX_RATIO * max(packed, _SMALL):
        raise RejectedError("custody.inspect.archive_bomb", unpacked=unpacked, packed=packed)


def read_closed(look: Look) -> None:
    """An archive of a kind that is not opened here."""
    look.tell("custody.inspect.archive_unknown", kind=look.kind)


# ---------------------------------------------------------------- zip


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One entry as both of its headers state it. data: offset of its bytes; end: offset after them and their descriptor."""

    name: str
    is_folder: bool
    method: int
    encrypted: bool
    packed: int
    size: int
    crc: int
    start: int
    data: int
    end: int


def read_zip(look: Look, examine: Examine) -> None:
    """Every record of a zip against every other; contents inflated within the budget."""
    entries = _entries(look)
    look.details["entries"] = len(entries)
    unpacked = sum(entry.size for entry in entries)
    look.details["unpacked_bytes"] = unpacked
    check_ratio(unpacked, look.size)
    if any(entry.encrypted for entry in entries):
        look.tell("custody.inspect.archive_locked")
    closed = sorted({entry.method for entry in entries if entry.method not in (0, 8) and not entry.encrypted})
    if closed:
        look.tell("custody.inspect.archive_unknown", kind=f"zip method {closed[0]}")
    if any(entry.name.count("/") == 2 and entry.name.endswith("/seal/statement.dsse") for entry in entries):
        # the verifier digests every file of a package, and what is in it stays evidence whatever it holds
        look.details["document"] = "package"
        return
    files = [entry for entry in entries if not entry.is_folder and not entry.encrypted and entry.method in (0, 8)]
    for entry in files:
        _contents(look, entry, examine)
    names = {entry.name for entry in entries}
    if any(PurePosixPath(name).name == "data.pkl" for name in names):
        raise RejectedError("custody.inspect.pickle", name=shown(next(n for n in names if n.endswith("data.pkl")))[:200])
    if any(name.endswith("vbaProject.bin") for name in names):
        look.tell("custody.inspect.active_content", kind="VBA")


def _end_record(look: Look) -> tuple[int, int, int, int, int]:
    """(entries, offset of the directory, its size, where it must end, end of the archive)."""
    length = min(look.size, END.size + _16)
    base = look.size - length
    tail = look.source.read(base, length)
    found = [base + each.start() for each in re.finditer(rb"PK\x05\x06", tail) if each.start() + END.size <= length]
    if not found:
        raise RejectedError("custody.inspect.bad_archive", reason="end of central directory")
    at = found[-1] - base
    record = END.unpack_from(tail, at)
    # one in the data of a stored archive is no end of this one; one behind the entries is a second end
    if any(place >= record[6] for place in found[:-1]):
        raise RejectedError("custody.inspect.two_readings", what="zip end record")
    _, disk, first_disk, here, count, size, offset, comment = record
    if disk or first_disk or here != count:
        raise RejectedError("custody.inspect.bad_archive", reason="several disks")
    end = base + at + END.size + comment
    if end > look.size:
        raise RejectedError("custody.inspect.cut_short", offset=look.size)
    directory_end = base + at
    locator_at = directory_end - LOCATOR64.size
    if locator_at >= 0 and look.source.read(locator_at, 4) == b"PK\x06\x07":
        _, _, at64, disks = LOCATOR64.unpack(look.source.read(locator_at, LOCATOR64.size))
        record64 = END64.unpack(look.source.read(at64, END64.size))
        _, length, _, _, d1, d2, here64, count64, size64, offset64 = record64
        if record64[0] != 0x06064B50 or at64 + 12 + length != locator_at or disks > 1 or d1 or d2 or here64 != count64:
            raise RejectedError("custody.inspect.bad_archive", reason="zip64")
        for short, full, top in ((count, count64, _16), (size, size64, _32), (offset, offset64, _32)):
            if short not in (full, top):
                raise RejectedError("custody.inspect.two_readings", what="zip64 end record")
        count, size, offset, directory_end = count64, size64, offset64, at64
    elif count == _16 or size == _32 or offset == _32:
        raise RejectedError("custody.inspect.bad_archive", reason="zip64")
    return count, offset, size, directory_end, end


def _entries(look: Look) -> list[ZipEntry]:
    count, offset, size, directory_end, end = _end_record(look)
    if count > MAX_ENTRIES:
        raise RejectedError("custody.inspect.archive_entries", count=count, limit=MAX_ENTRIES)
    if offset + size != directory_end:
        # an unpacker that trusts the offset and one that counts back from the end see two directories
        raise RejectedError("custody.inspect.two_readings", what="zip directory offset")
    if end < look.size:
        look.details["appended_bytes"] = look.size - end
        look.tell("custody.inspect.appended", count=look.size - end, offset=end)
    entries: list[ZipEntry] = []
    names, at = Names(), offset
    while at < directory_end:
        if len(entries) > MAX_ENTRIES:
            raise RejectedError("custody.inspect.archive_entries", count=len(entries), limit=MAX_ENTRIES)
        entry, at = _entry(look, at, offset)
        names.add(entry.name, is_folder=entry.is_folder)
        entries.append(entry)
    if at != directory_end or len(entries) != count:
        raise RejectedError("custody.inspect.two_readings", what="zip entry count")
    position = 0
    hidden = 0
    for entry in sorted(entries, key=lambda each: each.start):
        if entry.start < position:
            raise RejectedError("custody.inspect.archive_overlap", name=shown(entry.name)[:200])
        hidden += _hidden(look, position, entry.start)
        position = entry.end
    hidden += _hidden(look, position, offset)
    if hidden:
        look.tell("custody.inspect.archive_hidden", count=hidden)
    return entries


def _hidden(look: Look, begin: int, end: int) -> int:
    """Bytes between two entries. Raises RejectedError where a program that reads from the start would see another archive."""
    if end > begin and (begin == 0 or look.source.search(re.compile(rb"PK[\x03\x05][\x04\x06]"), begin, longest=4, end=end)):
        raise RejectedError("custody.inspect.two_readings", what="zip bytes between entries")
    return end - begin


def _entry(look: Look, at: int, directory: int) -> tuple[ZipEntry, int]:
    head = CENTRAL.unpack(look.source.read(at, CENTRAL.size))
    (
        mark,
        _made,
        _version,
        flags,
        method,
        _t,
        _d,
        crc,
        packed,
        size,
        name_length,
        extra_length,
        comment,
        disk,
        _i,
        attr,
        start,
    ) = head
    if mark != 0x02014B50:
        raise RejectedError("custody.inspect.bad_archive", reason="central directory")
    raw = look.source.read(at + CENTRAL.size, name_length)
    extra = look.source.read(at + CENTRAL.size + name_length, extra_length)
    after = at + CENTRAL.size + name_length + extra_length + comment
    if after > look.size or disk:
        raise RejectedError("custody.inspect.bad_archive", reason="central directory")
    name = _zip_name(raw, flags)
    size, packed, start = _zip64(extra, (size, packed, start))
    _other_name(extra, raw)
    mode = stat.S_IFMT(attr >> 16)
    if mode == stat.S_IFLNK:
        raise RejectedError("custody.inspect.archive_link", name=shown(name)[:200])
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise RejectedError("custody.inspect.archive_special", name=shown(name)[:200])
    clean = check_name(raw, name)
    is_folder = raw.endswith(b"/")

    local = LOCAL.unpack(look.source.peek(start, LOCAL.size))
    (mark, _v, local_flags, local_method, _t, _d, local_crc, local_packed, local_size, local_name, local_extra) = local
    if mark != 0x04034B50:
        raise RejectedError("custody.inspect.bad_archive", reason="local header")
    own_raw = look.source.peek(start + LOCAL.size, local_name)
    own_extra = look.source.peek(start + LOCAL.size + local_name, local_extra)
    if own_raw != raw or (local_flags ^ flags) & 0x0809 or local_method != method:
        raise RejectedError("custody.inspect.two_readings", what="zip entry header")
    _other_name(own_extra, raw)
    data = start + LOCAL.size + local_name + local_extra
    end = data + packed
    if end > directory:
        raise RejectedError("custody.inspect.archive_overlap", name=shown(name)[:200])
    if flags & 8:
        end = _descriptor(look, end, (crc, packed, size), directory)
        if (local_crc, local_packed, local_size) not in ((0, 0, 0), (0, _32, _32), (crc, packed, size)):
            raise RejectedError("custody.inspect.two_readings", what="zip entry size")
    else:
        own_size, own_packed, _ = _zip64(own_extra, (local_size, local_packed, 0))
        if (local_crc, own_packed, own_size) != (crc, packed, size):
            raise RejectedError("custody.inspect.two_readings", what="zip entry size")
    if method == 0 and not flags & 1 and packed != size:
        raise RejectedError("custody.inspect.two_readings", what="zip entry size")
    if is_folder and size:
        raise RejectedError("custody.inspect.two_readings", what="zip folder with content")
    return ZipEntry(clean, is_folder, method, bool(flags & 0x2041), packed, size, crc, start, data, end), after


def _zip_name(raw: bytes, flags: int) -> str:
    if not flags & 0x0800:
        return raw.decode("cp437")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedError("custody.inspect.archive_name", name=shown(raw.decode("latin-1"))[:200]) from error


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if at + 4 + length > len(extra):
            raise RejectedError("custody.inspect.bad_archive", reason="extra field")
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length


def _zip64(extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """(size, packed, offset) with those that did not fit taken from the extra field (APPNOTE 4.5.3)."""
    fields = [data for kind, data in _extra_fields(extra) if kind == 1]
    missing = sum(number == _32 for number in numbers)
    if len(fields) > 1:
        raise RejectedError("custody.inspect.two_readings", what="zip64 extra field")
    if not missing:
        return numbers
    if not fields or len(fields[0]) < 8 * missing:
        raise RejectedError("custody.inspect.bad_archive", reason="zip64")
    full = iter(struct.unpack_from(f"<{missing}Q", fields[0]))
    size, packed, offset = (next(full) if number == _32 else number for number in numbers)
    return size, packed, offset


def _other_name(extra: bytes, raw: bytes) -> None:
    """Raises RejectedError where an Info-ZIP Unicode Path field (0x7075) names another file than the header."""
    for kind, data in _extra_fields(extra):
        if kind == 0x7075 and (len(data) < 5 or (data[5:] != raw and zlib.crc32(raw) == int.from_bytes(data[1:5], "little"))):
            legacy = data[5:]
            try:
                same = legacy.decode("utf-8") in (raw.decode("cp437"), raw.decode("gb18030", "replace"))
            except UnicodeDecodeError:
                same = False
            if not same:
                raise RejectedError("custody.inspect.two_readings", what="zip Unicode path")


def _descriptor(look: Look, at: int, numbers: tuple[int, int, int], directory: int) -> int:
    """Offset after the data descriptor (APPNOTE 4.3.9): with or without its mark, in 32 or 64 bits."""
    data = look.source.upto(at, min(24, directory - at))
    for mark in (b"PK\x07\x08", b""):
        for layout in ("<IQQ", "<III"):
            length = len(mark) + struct.calcsize(layout)
            if data.startswith(mark) and len(data) >= length:
                crc, packed, size = struct.unpack_from(layout, data, len(mark))
                if (crc, packed, size) == numbers:
                    return at + length
    raise RejectedError("custody.inspect.two_readings", what="zip data descriptor")


def _contents(look: Look, entry: ZipEntry, examine: Examine) -> None:
    raw = look.source.blocks(entry.data, entry.data + entry.packed)
    if entry.method == 8 and not look.budget.allowed:
        look.decoded("not_checked")
        return
    keep = entry.size <= MAX_MEMBER
    parts: list[bytes] = []
    crc = total = 0
    try:
        if entry.method == 0:
            if not look.budget.allowed and not keep:
                return
            blocks = _counted(look, raw)
        else:
            blocks = inflate(raw, look.budget, bits=-15, limit=entry.size)
        for block in blocks:
            crc, total = zlib.crc32(block, crc), total + len(block)
            if keep:
                parts.append(block)
    except OutOfBudgetError:
        look.decoded("in_part")
        return
    if total != entry.size or crc != entry.crc:
        raise RejectedError("custody.inspect.archive_content", name=shown(entry.name)[:200])
    if keep:
        examine_member(look, entry.name, b"".join(parts), examine)


def _counted(look: Look, blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        look.budget.take(len(block))
        yield block


def examine_member(look: Look, name: str, data: bytes, examine: Examine) -> None:
    """Look at a file of an archive like at one of its own; its flags become flags of the archive."""
    inner = Look(name=name, source=Source.of_bytes(data), kind="", budget=look.budget, depth=look.depth + 1)
    try:
        examine(inner)
    except RejectedError as error:
        if error.reason.id in _OF_THE_WHOLE:
            raise
        found = error.reason.id.rpartition(".")[2]
        raise RejectedError("custody.inspect.member", name=shown(name)[:200], found=found) from error
    for flag in inner.flags:
        if flag.id == "custody.inspect.empty" or len(look.flags) >= _MAX_FLAGS:
            continue
        if flag.id == "custody.inspect.member_flag":
            look.flags.append(flag)
        else:
            look.tell("custody.inspect.member_flag", name=shown(name)[:200], found=flag.id.rpartition(".")[2])
    if "decoded" in inner.details:
        look.decoded(str(inner.details["decoded"]))


def check_nesting(look: Look) -> None:
    if look.depth >= MAX_NESTING:
        raise RejectedError("custody.inspect.archive_nested", limit=MAX_NESTING)


# ---------------------------------------------------------------- tar


_PAX_LINE = re.compile(rb"([0-9]{1,6}) ([^=]+)=", re.S)


def read_tar(look: Look, examine: Examine) -> None:
    """Every header of a tar to its end (two blocks of zeros)."""
    names, at, count, unpacked = Names(), 0, 0, 0
    overrides: dict[str, bytes] = {}
    long_name: bytes | None = None
    while True:
        if at + 512 > look.size:
            raise RejectedError("custody.inspect.cut_short", offset=look.size)
        block = look.source.read(at, 512)
        if not block.strip(b"\x00"):
            break
        if count > MAX_ENTRIES:
            raise RejectedError("custody.inspect.archive_entries", count=count, limit=MAX_ENTRIES)
        # POSIX ustar: the sum of the header's bytes, its own field counted as spaces
        if _octal(block[148:156]) != sum(block[:148]) + 256 + sum(block[156:]):
            raise RejectedError("custody.inspect.checksum", offset=at + 148)
        size = _octal(block[124:136])
        kind = block[156:157]
        at += 512
        data_end = at + size
        if kind in (b"x", b"g", b"L"):
            if size > 1 << 20:
                raise RejectedError("custody.inspect.bad_archive", reason="tar header")
            body = look.source.read(at, size)
            if kind == b"L":
                long_name = body.rstrip(b"\x00")
            else:
                records = _pax(body)
                if kind == b"g" and records.keys() & {"path", "linkpath", "size"}:
                    raise RejectedError("custody.inspect.two_readings", what="tar global header")
                overrides = records if kind == b"x" else overrides
            at += -(-size // 512) * 512
            count += 1
            continue
        raw, is_folder = _tar_name(block, overrides, long_name), kind == b"5"
        if "size" in overrides:
            stated = overrides["size"]
            if not re.fullmatch(rb"[0-9]{1,18}", stated):
                raise RejectedError("custody.inspect.bad_archive", reason="tar size")
            if size not in (0, int(stated)):
                raise RejectedError("custody.inspect.two_readings", what="tar size")
            size = int(stated)
            data_end = at + size
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = raw.decode("latin-1")
        if kind in (b"1", b"2", b"K"):
            raise RejectedError("custody.inspect.archive_link", name=shown(name)[:200])
        if kind in (b"3", b"4", b"6"):
            raise RejectedError("custody.inspect.archive_special", name=shown(name)[:200])
        if kind not in (b"0", b"\x00", b"5", b"7"):
            raise RejectedError("custody.inspect.bad_archive", reason=f"tar entry type {shown(kind.decode('latin-1'))}")
        if is_folder and size:
            raise RejectedError("custody.inspect.two_readings", what="tar folder with content")
        if not is_folder and raw.endswith(b"/"):
            raise RejectedError("custody.inspect.two_readings", what="tar file named like a folder")
        trimmed = raw.removeprefix(b"./") if raw not in (b".", b"./") else b""
        if trimmed:
            names.add(check_name(trimmed, name.removeprefix("./")), is_folder=is_folder)
        elif not is_folder:
            raise RejectedError("custody.inspect.archive_name", name=shown(name)[:200])
        if data_end > look.size:
            raise RejectedError("custody.inspect.cut_short", offset=look.size)
        count, unpacked = count + 1, unpacked + size
        if not is_folder:
            _tar_member(look, name, at, size, examine)
        at += -(-size // 512) * 512
        overrides, long_name = {}, None
    look.details.update(entries=count, unpacked_bytes=unpacked)
    if not look.source.is_blank(min(at, look.size), look.size):
        look.tell("custody.inspect.appended", count=look.size - at, offset=at)


def _tar_member(look: Look, name: str, at: int, size: int, examine: Examine) -> None:
    try:
        look.budget.take(size)
    except OutOfBudgetError:
        look.decoded("in_part")
        return
    if size <= MAX_MEMBER:
        examine_member(look, name, look.source.read(at, size), examine)
    else:
        look.decoded("in_part")


def _octal(field: bytes) -> int:
    if field[:1] == b"\x80":  # GNU: a number in base 256
        number = int.from_bytes(field[1:], "big")
        if number >= 1 << 62:
            raise RejectedError("custody.inspect.bad_archive", reason="tar size")
        return number
    text = field.strip(b" \x00")
    if text and not re.fullmatch(rb"[0-7]+", text):
        raise RejectedError("custody.inspect.bad_archive", reason="tar number")
    return int(text or b"0", 8)


def _tar_name(block: bytes, overrides: dict[str, bytes], long_name: bytes | None) -> bytes:
    if "path" in overrides:
        return overrides["path"]
    if long_name is not None:
        return long_name
    name = block[:100].split(b"\x00")[0]
    prefix = block[345:500].split(b"\x00")[0] if block[257:263] == b"ustar\x00" else b""
    return prefix + b"/" + name if prefix else name


def _pax(body: bytes) -> dict[str, bytes]:
    """Records `<length> <keyword>=<value>\\n`, lengths in bytes with themselves."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(body):
        found = _PAX_LINE.match(body, at)
        length = int(found[1]) if found else 0
        if found is None or at + length > len(body) or at + length <= found.end() or body[at + length - 1 : at + length] != b"\n":
            raise RejectedError("custody.inspect.bad_archive", reason="pax record")
        keyword = found[2].decode("utf-8", "replace")
        if keyword in records or keyword.startswith("GNU.sparse"):
            raise RejectedError("custody.inspect.two_readings", what="pax record")
        records[keyword] = body[found.end() : at + length - 1]
        at += length
    return records


# ---------------------------------------------------------------- gzip


def read_gzip(look: Look, examine: Examine) -> None:
    """One gzip member (RFC 1952); a tar inside is read as one, anything else as a file of its own."""
    head = look.source.read(0, min(look.size, 10))
    if len(head) < 10 or head[2] != 8 or head[3] & 0xE0:
        raise RejectedError("custody.inspect.bad_structure", offset=0)
    at, name = 10, PurePosixPath(look.name).stem
    if head[3] & 4:
        at += 2 + int.from_bytes(look.source.read(at, 2), "little")
    for bit in (8, 16):
        if head[3] & bit:
            text = look.source.upto(at, 1 << 16)
            stop = text.find(b"\x00")
            if stop < 0:
                raise RejectedError("custody.inspect.bad_structure", offset=at)
            if bit == 8:
                name = check_name(text[:stop], text[:stop].decode("latin-1"))
            at += stop + 1
    if head[3] & 2:
        at += 2
    if not look.budget.allowed:
        look.decoded("not_checked")
        return
    machine, crc, total, kept = zlib.decompressobj(-15), 0, 0, bytearray()
    is_kept = True
    rest_at = look.size
    try:
        for block in look.source.blocks(at, look.size):
            pending = block
            while pending and not machine.eof:
                try:
                    out = machine.decompress(pending, 1 << 18)
                except zlib.error as error:
                    raise RejectedError("custody.inspect.undecodable", reason=str(error)) from error
                pending = machine.unconsumed_tail
                crc, total = zlib.crc32(out, crc), total + len(out)
                check_ratio(total, look.size)
                look.budget.take(len(out))
                is_kept = is_kept and len(kept) + len(out) <= 2 * MAX_MEMBER
                if is_kept:
                    kept += out
            at += len(block)
            if machine.eof:
                rest_at = at - len(machine.unused_data)
                break
    except OutOfBudgetError:
        look.decoded("in_part")
        look.tell("custody.inspect.in_part", limit=total)
        return
    if not machine.eof:
        raise RejectedError("custody.inspect.cut_short", offset=look.size)
    if struct.unpack("<II", look.source.read(rest_at, 8)) != (crc, total & _32):
        raise RejectedError("custody.inspect.checksum", offset=rest_at)
    look.details.update(unpacked_bytes=total)
    rest_at += 8
    if rest_at < look.size and not look.source.is_blank(rest_at, look.size):
        look.details["appended_bytes"] = look.size - rest_at
        look.tell("custody.inspect.appended", count=look.size - rest_at, offset=rest_at)
    if is_kept:
        look.decoded("all")
        examine_member(look, name, bytes(kept), examine)
    else:
        look.decoded("in_part")
        look.tell("custody.inspect.in_part", limit=2 * MAX_MEMBER)
