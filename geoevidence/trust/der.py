"""DER: the one encoding of ASN.1 values (ITU-T X.690), read strictly, and written.

`read` walks the whole tree before anything is believed: definite lengths in their shortest
form, tags below 31, canonical BOOLEAN, INTEGER, BIT STRING, NULL and OBJECT IDENTIFIER,
sorted SET OF, bounded size and depth. Values under context tags are checked when they are
taken, as only the structure says what they are. Knows no structure itself. Raises
FormatError and nothing else. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Optional

from geoevidence.trust.errors import FormatError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
UTF8_STRING, UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x0C, 0x17, 0x18, 0x30, 0x31
MAX_BYTES = 1 << 18
"""Longest encoding read."""
MAX_DEPTH = 32
"""Deepest nesting read."""
_ENUMERATED = 0x0A
_CONSTRUCTED = 0x20
_MAX_OID = 64
# X.680 section 8: strings with a character set, and how Python names it
CHARACTERS = {
    UTF8_STRING: "utf-8",
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # TeletexString: as everybody reads it
    0x16: "ascii",  # IA5String
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


@dataclass(frozen=True)
class Element:
    """One encoded value.

    tag: identifier octet.
    content: contents octets.
    encoded: all octets, header included.
    offset: where it starts in what was given to `read`.
    where: name of the document, for messages.
    """

    tag: int
    content: bytes
    encoded: bytes
    offset: int
    where: str

    def bad_value(self) -> FormatError:
        """The error that says that this value is not in its one canonical encoding."""
        return FormatError("trust.der_value", where=self.where, offset=self.offset, tag=f"0x{self.tag:02x}")

    def children(self) -> list[Element]:
        """The values inside a constructed value. Raises FormatError."""
        return _split(self.content, self.offset + len(self.encoded) - len(self.content), self.where)

    def inner(self, tag: int) -> Element:
        """The one value that the contents of an OCTET STRING are the encoding of, checked as by `read`. Raises FormatError."""
        start = self.offset + len(self.encoded) - len(self.content)
        return read(self.content, where=self.where, tag=tag, offset=start)

    def integer(self) -> int:
        """Value of an INTEGER in its shortest form (X.690 section 8.3). Raises FormatError."""
        # the first nine bits are neither all zero nor all one
        if not self.content or (
            len(self.content) > 1 and self.content[0] in (0, 255) and not (self.content[0] ^ self.content[1]) >> 7
        ):
            raise self.bad_value()
        return int.from_bytes(self.content, "big", signed=True)

    def boolean(self) -> bool:
        """Value of a BOOLEAN, 0 or 255 (X.690 section 11.1). Raises FormatError."""
        if self.content not in (b"\x00", b"\xff"):
            raise self.bad_value()
        return self.content == b"\xff"

    def bits(self) -> tuple[bytes, int]:
        """Octets of a BIT STRING and the number of unused bits, which are zero (X.690 section 11.2.1). Raises FormatError."""
        unused = self.content[0] if self.content else 8
        if unused > 7 or (unused and (len(self.content) == 1 or self.content[-1] & ((1 << unused) - 1))):
            raise self.bad_value()
        return self.content[1:], unused

    def whole_bits(self) -> bytes:
        """Octets of a BIT STRING that has no unused bits. Raises FormatError."""
        data, unused = self.bits()
        if unused:
            raise self.bad_value()
        return data

    def oid(self) -> str:
        """Dotted text of an OBJECT IDENTIFIER (X.690 section 8.19). Raises FormatError."""
        if not 0 < len(self.content) <= _MAX_OID or self.content[-1] & 0x80:
            raise self.bad_value()
        arcs, value = [], 0
        for octet in self.content:
            if value == 0 and octet == 0x80:
                raise self.bad_value()
            value = value << 7 | octet & 0x7F
            if not octet & 0x80:
                arcs.append(value)
                value = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))

    def text(self) -> str:
        """Characters of a string. Raises FormatError, also for a type that is no string."""
        try:
            return self.content.decode(CHARACTERS[self.tag])
        except (KeyError, UnicodeDecodeError) as error:
            raise self.bad_value() from error

    def time(self, *, fractions: bool = False) -> str:
        """`YYYY-MM-DDThh:mm:ssZ` of a UTCTime or GeneralizedTime in UTC with seconds (RFC 5280 section 4.1.2.5).

        Years 50 to 99 of a UTCTime are of the last century.

        Args:
            fractions: a GeneralizedTime may have a fraction without trailing zeros (RFC 3161 section 2.4.2); it is cut off.

        Raises: FormatError.
        """
        digits = self.content[:-1].decode("latin-1")
        if self.tag == UTC_TIME and len(digits) == 12:
            digits = ("19" if digits >= "5" else "20") + digits
        elif fractions and self.tag == GENERALIZED_TIME and len(digits) > 14:
            digits, point, fraction = digits[:14], digits[14], digits[15:]
            if point != "." or not _is_number(fraction) or fraction.endswith("0"):
                raise self.bad_value()
        elif self.tag != GENERALIZED_TIME:
            raise self.bad_value()
        if self.content[-1:] != b"Z" or len(digits) != 14 or not _is_number(digits):
            raise self.bad_value()
        parts = [int(digits[:4])] + [int(digits[start : start + 2]) for start in range(4, 14, 2)]
        try:
            return datetime(*parts).isoformat() + "Z"  # type: ignore[arg-type]
        except ValueError as error:
            raise self.bad_value() from error


class Fields:
    """The values inside a constructed value, taken from first to last.

    Args:
        element: the value.
        tag: identifier octet that it must have.

    Raises: FormatError.
    """

    def __init__(self, element: Element, tag: int = SEQUENCE) -> None:
        if element.tag != tag:
            raise _unexpected(element.where, element.offset, f"0x{tag:02x}", f"0x{element.tag:02x}")
        self._parent = element
        self._left = element.children()[::-1]

    def take(self, *tags: int) -> Element:
        """The next value, which has one of the tags (any, where none is named). Raises FormatError."""
        if not self._left or (tags and self._left[-1].tag not in tags):
            raise self._wrong(" ".join(f"0x{tag:02x}" for tag in tags) or "*")
        return self._left.pop()

    def optional(self, *tags: int) -> Optional[Element]:
        """The next value where it has one of the tags, else None."""
        return self._left.pop() if self._left and self._left[-1].tag in tags else None

    def rest(self) -> list[Element]:
        """All values that are left."""
        left, self._left = self._left[::-1], []
        return left

    def end(self) -> None:
        """Raises FormatError where a value is left."""
        if self._left:
            raise self._wrong("-")

    def _wrong(self, expected: str) -> FormatError:
        parent = self._parent
        if self._left:
            return _unexpected(parent.where, self._left[-1].offset, expected, f"0x{self._left[-1].tag:02x}")
        return _unexpected(parent.where, parent.offset + len(parent.encoded), expected, "-")


def _unexpected(where: str, offset: int, expected: str, found: str) -> FormatError:
    return FormatError("trust.der_structure", where=where, offset=offset, expected=expected, found=found)


def read(data: bytes, *, where: str, tag: Optional[int] = None, offset: int = 0) -> Element:
    """The one value that `data` is the encoding of, with its whole tree checked.

    Args:
        data: at most `MAX_BYTES`.
        where: name of the document, for messages.
        tag: identifier octet that it must have.
        offset: where `data` starts in the document, for messages.

    Raises: FormatError.
    """
    if len(data) > MAX_BYTES:
        raise FormatError("trust.der_size", where=where, found=len(data), limit=MAX_BYTES)
    found = _split(data, offset, where)
    if len(found) != 1:
        raise FormatError("trust.der_one", where=where, found=len(found))
    if tag is not None and found[0].tag != tag:
        raise _unexpected(where, offset, f"0x{tag:02x}", f"0x{found[0].tag:02x}")
    pending = [(found[0], 1)]
    while pending:
        element, depth = pending.pop()
        if not element.tag & _CONSTRUCTED:
            _check_primitive(element)
            continue
        if depth == MAX_DEPTH:
            raise FormatError("trust.der_depth", where=where, limit=MAX_DEPTH)
        # X.690 section 10.2: strings are never cut into pieces
        if element.tag < 0x40 and element.tag not in (SEQUENCE, SET):
            raise element.bad_value()
        children = element.children()
        if element.tag == SET:
            require_sorted(element, children)
        pending += [(child, depth + 1) for child in children]
    return found[0]


def require_sorted(element: Element, children: list[Element]) -> None:
    """Raises FormatError unless the members of a SET OF are in the order of their encodings (X.690 section 11.6).

    No encoding is the beginning of another, so bytes compare as the padded ones of the standard do.
    """
    encodings = [child.encoded for child in children]
    if encodings != sorted(encodings):
        raise FormatError("trust.der_order", where=element.where, offset=element.offset)


def _check_primitive(element: Element) -> None:
    if element.tag == BOOLEAN:
        element.boolean()
    elif element.tag in (INTEGER, _ENUMERATED):
        element.integer()
    elif element.tag == BIT_STRING:
        element.bits()
    elif element.tag == OID:
        element.oid()
    elif (element.tag == NULL and element.content) or element.tag in (0, SEQUENCE & 0x1F, SET & 0x1F):
        raise element.bad_value()


def _split(data: bytes, offset: int, where: str) -> list[Element]:
    """The values that follow one another in `data`, which starts at `offset` of the document."""
    elements, at = [], 0
    while at < len(data):
        start = at
        tag, length, at = data[at], data[at + 1] if at + 1 < len(data) else 0x80, at + 2
        if length > 0x80:
            octets = data[at : at + length - 0x80]
            at += length - 0x80
            length = int.from_bytes(octets[:5], "big")
            # shortest form: no long form below 128, no leading zero; five octets are more than any limit here
            short = length < 0x80 or octets[0] == 0 or len(octets) > 4
        else:
            short = length == 0x80
        if short or tag & 0x1F == 0x1F or at + length > len(data):
            raise FormatError("trust.der_length", where=where, offset=offset + start)
        elements.append(Element(tag, data[at : at + length], data[start : at + length], offset + start, where))
        at += length
    return elements


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def encode(tag: int, *parts: bytes) -> bytes:
    """A value of that identifier octet with the parts as its contents."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def encode_integer(value: int) -> bytes:
    """An INTEGER in its shortest form."""
    return encode(INTEGER, value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "big", signed=True))


def encode_oid(text: str) -> bytes:
    """An OBJECT IDENTIFIER of its dotted text."""
    first, second, *others = (int(arc) for arc in text.split("."))
    content = bytearray()
    for arc in (40 * first + second, *others):
        octets = [arc & 0x7F]
        while arc > 0x7F:
            arc >>= 7
            octets.append(arc & 0x7F | 0x80)
        content += bytes(reversed(octets))
    return encode(OID, bytes(content))


def encode_set_of(members: Iterable[bytes]) -> bytes:
    """A SET OF with its members sorted (X.690 section 11.6)."""
    return encode(SET, *sorted(members))
