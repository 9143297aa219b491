"""JSON as fixed bytes: RFC 8785 writing, and a reader that takes nothing else for granted.

Signed documents hold strings, integers, booleans, null, arrays and objects (I-JSON,
RFC 7493, without floats: a decimal is a string). The reader refuses what two parsers could
read differently: repeated names, NaN, lone surrogates, a byte order mark, integers that a
float64 cannot hold, deep nesting. Raises FormatError and nothing else. Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from json.encoder import encode_basestring
from typing import Any

from geoevidence.trust.errors import FormatError

MAX_INTEGER = 2**53 - 1
"""Largest integer of I-JSON (RFC 7493 section 2.2)."""
MAX_DEPTH = 64
"""Deepest nesting of arrays and objects."""
MAX_VALUES = 4_000_000
"""Most commas and opening brackets of a document of 64 MB, and of a longer one in proportion: in memory an empty list takes twenty times its three bytes."""
MAX_BYTES = 256 * 1024 * 1024
"""Largest document read at once, in bytes."""


def dumps(value: Any) -> bytes:
    """RFC 8785 bytes of `value`: dict, list, tuple, str, int, bool or None, nested.

    Raises: FormatError for a float, an integer beyond 2^53 - 1, a lone surrogate, a name
    that is not a string, another type, or nesting beyond `MAX_DEPTH`.
    """
    parts: list[str] = []
    _write(value, parts, 0)
    try:
        return "".join(parts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("trust.json_surrogate", where="JSON") from error


def _write(value: Any, parts: list[str], depth: int) -> None:
    if isinstance(value, str):
        parts.append(encode_basestring(value))
    elif value is None or value is True or value is False:
        parts.append("null" if value is None else "true" if value else "false")
    elif type(value) is int:
        if abs(value) > MAX_INTEGER:
            raise FormatError("trust.json_integer", where="JSON", found=_short(value))
        parts.append(str(value))
    elif isinstance(value, (dict, list, tuple)):
        if depth >= MAX_DEPTH:
            raise FormatError("trust.json_depth", where="JSON", limit=MAX_DEPTH)
        _write_members(value, parts, depth + 1)
    elif isinstance(value, float):
        raise FormatError("trust.json_float", where="JSON", found=repr(value))
    else:
        raise FormatError("trust.json_type", where="JSON", found=type(value).__name__)


def _write_members(value: Any, parts: list[str], depth: int) -> None:
    if not isinstance(value, dict):
        parts.append("[")
        for index, member in enumerate(value):
            if index:
                parts.append(",")
            _write(member, parts, depth)
        parts.append("]")
        return
    if not all(isinstance(name, str) for name in value):
        raise FormatError("trust.json_type", where="JSON", found="name")
    parts.append("{")
    # for ASCII the two orders are one, and nearly all names are ASCII
    names = sorted(value) if all(map(str.isascii, value)) else sorted(value, key=_utf16)
    for index, name in enumerate(names):
        parts.append("," if index else "")
        parts.append(encode_basestring(name))
        parts.append(":")
        _write(value[name], parts, depth)
    parts.append("}")


def _utf16(name: str) -> bytes:
    # RFC 8785 section 3.2.3: names are sorted by UTF-16 code units, not by code points.
    return name.encode("utf-16-be", "surrogatepass")


def _short(value: Any) -> str:
    if isinstance(value, int):
        return f"{value.bit_length()} bit"
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def loads(data: bytes, *, where: str = "JSON", allow_floats: bool = False, max_bytes: int = MAX_BYTES) -> Any:
    """The value of a JSON document, read strictly.

    Args:
        data: UTF-8 bytes.
        where: name of the file or field, for the message.
        allow_floats: for documents of others (GeoJSON, RO-Crate); ours hold none.
        max_bytes: longest document accepted.

    Raises: FormatError.
    """
    if len(data) > max_bytes:
        raise FormatError("trust.json_size", where=where, limit=max_bytes, found=len(data))
    most = max(MAX_VALUES, len(data) // 16)
    # most documents are too short to hold so many
    if len(data) > most and sum(map(data.count, (b",", b"[", b"{"))) > most:
        raise FormatError("trust.json_values", where=where, limit=most)
    if data[:3] == b"\xef\xbb\xbf":
        raise FormatError("trust.json_bom", where=where)
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("trust.json_utf8", where=where, offset=error.start) from error

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise FormatError("trust.json_duplicate", where=where, name=_short(name))
        return result

    def integer(digits: str) -> int:
        # the length is tested first: reading a million digits costs minutes
        if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
            raise FormatError("trust.json_integer", where=where, found=_short(digits))
        return int(digits)

    def decimal(digits: str) -> float:
        if not allow_floats:
            raise FormatError("trust.json_float", where=where, found=_short(digits))
        value = float(digits)
        if value - value != 0:
            raise FormatError("trust.json_constant", where=where, found=_short(digits))
        return value

    def constant(name: str) -> Any:
        raise FormatError("trust.json_constant", where=where, found=name)

    try:
        value = json.loads(text, object_pairs_hook=members, parse_int=integer, parse_float=decimal, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise FormatError("trust.json_syntax", where=where, offset=error.pos, reason=error.msg) from error
    except RecursionError as error:
        raise FormatError("trust.json_depth", where=where, limit=MAX_DEPTH) from error
    _check_nesting(value, where, "\\u" in text)
    return value


def _check_nesting(value: Any, where: str, escapes: bool) -> None:
    """Level by level, so that hostile nesting costs no recursion. Lone surrogates come in by escapes only."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        containers = False
        for part in level:
            if isinstance(part, dict):
                containers = True
                below.extend(part.values())
                if escapes:
                    below.extend(part)
            elif isinstance(part, list):
                containers = True
                below.extend(part)
            elif escapes and isinstance(part, str) and _has_surrogate(part):
                raise FormatError("trust.json_surrogate", where=where)
        depth += containers
        if depth > MAX_DEPTH:
            raise FormatError("trust.json_depth", where=where, limit=MAX_DEPTH)
        level = below


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def loads_canonical(data: bytes, *, where: str = "JSON", max_bytes: int = MAX_BYTES) -> Any:
    """As `loads`, and the bytes are the RFC 8785 bytes of the value: one value, one encoding. Raises FormatError."""
    value = loads(data, where=where, max_bytes=max_bytes)
    if dumps(value) != data:
        raise FormatError("trust.json_not_canonical", where=where)
    return value


def base64_value(text: Any, *, where: str) -> bytes:
    """Bytes of standard base64 with padding, in its one canonical spelling (RFC 4648 sections 3.3 and 3.5).

    Raises: FormatError, also for stray characters and for padding bits that are not zero.
    """
    if isinstance(text, str):
        try:
            value = base64.b64decode(text.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            pass
        else:
            if base64.b64encode(value).decode("ascii") == text:
                return value
    raise FormatError("trust.base64", where=where)


def base64_text(value: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(value).decode("ascii")
