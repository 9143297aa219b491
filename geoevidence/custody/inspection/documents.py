"""Documents: JSON with GeoJSON, STAC and DSSE; the XML family; tables; signed notes, proofs and time stamps.

XML is searched for document types and entities before any parser sees it, and parsed by expat only where the budget
allows C code. Nothing that a document points to is opened: where it points is what is told.
Sources: RFC 8259 and 7493, STAC 1.0/1.1 item and collection, XML 1.0, OGC KML 2.3, SVG 2, RFC 4180, C2SP signed-note, RFC 3161.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote
from xml.parsers import expat

from geoevidence.custody.inspection.look import Look, RejectedError
from geoevidence.custody.store import shown
from geoevidence.errors import FormatError
from geoevidence.trust.canonical import base64_value, loads
from geoevidence.trust.errors import UnsupportedError
from geoevidence.trust.notes import parse_checkpoint, parse_note, parse_proof
from geoevidence.trust.timestamps import parse_time_stamp

MAX_TEXT = 32 << 20
"""Longest JSON or XML document that is parsed."""
_MAX_CHEAP = 8 << 20
"""The same in the caller's process."""
_MAX_OBJECTS = 200 << 20
_MAX_LISTED = 20
_MAX_XML_DEPTH = 256
_MAX_TAGS = 2_000_000
_NETWORK = re.compile(r"[a-z][a-z0-9+.-]{1,15}:", re.I)


# ---------------------------------------------------------------- where a reference leads


def where_to(href: str) -> str:
    """`inside`, `network`, `up` or `absolute`: where a reference of a document leads, in any spelling of it."""
    text = href.strip()
    for _ in range(3):
        text, before = unquote(text), text
        if text == before:
            break
    text = text.replace("\\", "/")
    if re.match(r"/vsi|file:", text, re.I) or re.match(r"[a-z]:", text, re.I) or "\x00" in text:
        return "absolute"
    if text.startswith("//") or _NETWORK.match(text):
        return "absolute" if text.startswith("//") and not href.startswith("//") else "network"
    if text.startswith("/"):
        return "absolute"
    depth = 0
    for part in text.split("#")[0].split("?")[0].split("/"):
        depth += -1 if part.rstrip(" .") == "" and part.startswith("..") else 0 if part in ("", ".") else 1
        if depth < 0:
            return "up"
    return "inside"


_FILE_KEY = re.compile(r"OVERVIEW_FILE|MASK_FILE|DEPENDENT_FILE|<SourceFilename|<OverviewFile", re.I)


def outside_raster(text: str) -> str | None:
    """The first file outside its folder that GDAL metadata (a sidecar's or a TIFF's own) name as part of a raster, or None."""
    for tag, after in itertools.pairwise(text.split(">")):
        target = after.split("<")[0]
        # GDAL writes `:::BASE:::` for the folder of the raster
        if _FILE_KEY.search(tag) and where_to(target.removeprefix(":::BASE:::")) != "inside":
            return target
    return None


class Links:
    """The references of one document, judged as they are met: only those that lead out are kept, a few of them."""

    def __init__(self) -> None:
        self._count = 0
        self._shown: list[str] = []

    def add(self, href: str, *, is_data: bool) -> None:
        """Judge a reference; is_data: a file that an engine would open. Raises RejectedError for traversal."""
        place = where_to(href)
        if place == "absolute" or (place == "up" and is_data):
            raise RejectedError("custody.inspect.traversal", target=shown(href)[:200])
        if place != "inside":
            self._count += 1
            if len(self._shown) < _MAX_LISTED and (text := shown(href[:300])) not in self._shown:
                self._shown.append(text)

    def tell(self, look: Look) -> None:
        if self._count:
            look.details["links"] = sorted(self._shown)
            look.tell("custody.inspect.links_outside", count=self._count, first=self._shown[0])


# ---------------------------------------------------------------- JSON


def _text_limit(look: Look) -> int:
    return MAX_TEXT if look.budget.allowed else _MAX_CHEAP


def read_json(look: Look) -> None:
    """Strict JSON (I-JSON with decimals); then what kind of document it is."""
    limit = _text_limit(look)
    if look.size > limit:
        look.tell("custody.inspect.too_large", size=look.size, limit=limit)
        return
    data = look.source.read(0, look.size)
    # what the parsed values would take in CPython: 72 bytes a container, 60 a text, 32 a number
    weight = 72 * (data.count(b"{") + data.count(b"[")) + 30 * data.count(b'"') + 32 * data.count(b",")
    if weight > _MAX_OBJECTS:
        look.tell("custody.inspect.too_large", size=look.size, limit=limit)
        return
    try:
        value = loads(data, where="JSON", allow_floats=True)
    except FormatError as error:
        raise RejectedError("custody.inspect.bad_json", reason=error.render("en")) from error
    if not isinstance(value, dict):
        return
    if {"payload", "payloadType", "signatures"} <= value.keys():
        _dsse(look, value)
    elif "stac_version" in value:
        look.details["document"] = "STAC"
        links = Links()
        for href, is_asset in _stac_links(value):
            links.add(href, is_data=is_asset)
        links.tell(look)


def read_json_lines(look: Look) -> None:
    """One strict JSON document a line; empty lines are passed over."""
    limit = _text_limit(look)
    if look.size > limit:
        look.tell("custody.inspect.too_large", size=look.size, limit=limit)
        return
    for number, line in enumerate(look.source.read(0, look.size).split(b"\n"), 1):
        try:
            if line.strip(b"\r \t\x1e"):  # RFC 8142 begins each text with a record separator
                loads(line.lstrip(b"\x1e"), where=f"JSON, line {number}", allow_floats=True)
        except FormatError as error:
            raise RejectedError("custody.inspect.bad_json", reason=error.render("en")) from error


def _dsse(look: Look, value: Mapping[str, Any]) -> None:
    """A DSSE envelope (secure-systems-lab/dsse v1): canonical base64, at least one signature, a payload type."""
    look.details["document"] = "DSSE"
    signatures = value["signatures"]
    try:
        base64_value(value["payload"], where="payload")
        if not isinstance(value["payloadType"], str) or not isinstance(signatures, list) or not signatures:
            raise FormatError("trust.base64", where="signatures")
        for each in signatures:
            base64_value(each.get("sig") if isinstance(each, dict) else None, where="sig")
    except FormatError as error:
        raise RejectedError("custody.inspect.bad_signed", reason=error.render("en")) from error


def _stac_links(value: Any) -> Iterator[tuple[str, bool]]:
    """Every `href` with whether it stands in `assets`; those of links that only name relatives may lead up."""
    pending: list[tuple[Any, bool]] = [(value, False)]
    while pending:
        part, is_asset = pending.pop()
        if isinstance(part, dict):
            href = part.get("href")
            if isinstance(href, str):
                yield href, is_asset
            for name, inner in part.items():
                if isinstance(inner, (dict, list)):
                    pending.append((inner, is_asset or name in ("assets", "item_assets")))
        else:
            pending += [(inner, is_asset) for inner in part if isinstance(inner, (dict, list))]


# ---------------------------------------------------------------- XML

_DOCTYPE = re.compile(r"<!DOCTYPE\s+([^\s\[>]+)\s*(?:(?:PUBLIC|SYSTEM)\b[^\[>]*)?(\[)?", re.I)
_DECLARED = re.compile(r"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']", re.I)
_ENCODINGS = {"utf-8", "us-ascii", "ascii", "utf-16", "utf-16le", "utf-16be", "iso-8859-1", "latin-1", "gbk", "gb2312", "gb18030"}
_GDAL_ROOTS = {"vrtdataset", "ogrvrtdatasource", "gdal_wms", "gdal_wmts", "wms_capabilities", "capabilities", "gdalalg"}
_FILE_TAGS = {"sourcefilename", "srcdatasource", "overviewfile", "serverurl", "getcapabilitiesurl", "sourcedataset", "sourceband"}
_LINK_TAGS = {"href", "networklink", "url"}


def xml_text(data: bytes) -> str | None:
    """The text of an XML document in an encoding that is read here, or None for another."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[:4] == b"<\x00?\x00":
        encoding = "utf-16-le"
    elif data[:4] == b"\x00<\x00?":
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
        head = data[:400].decode("latin-1")
        declared = _DECLARED.match(head.removeprefix("\xef\xbb\xbf"))
        name = declared[1].lower() if declared else "utf-8"
        if name not in _ENCODINGS or name.startswith("utf-16"):
            return None
        if name not in ("utf-8", "ascii", "us-ascii"):
            encoding = "gb18030" if name.startswith("gb") else "latin-1"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def read_xml(look: Look) -> None:
    """An XML document without entities; where it points, and whether it acts."""
    limit = _text_limit(look)
    if look.size > limit:
        head = look.source.upto(0, 1 << 16)
        if b"<!ENTITY" in head.replace(b"\x00", b""):
            raise RejectedError("custody.inspect.xml_entities")
        look.tell("custody.inspect.too_large", size=look.size, limit=limit)
        return
    data = look.source.read(0, look.size)
    if data.count(b"<") > _MAX_TAGS:
        look.tell("custody.inspect.too_large", size=look.size, limit=limit)
        return
    text = xml_text(data)
    if text is None:
        raise RejectedError("custody.inspect.xml_encoding")
    if re.search(r"<!ENTITY", text, re.I):
        raise RejectedError("custody.inspect.xml_entities")
    doctype = _DOCTYPE.search(text)
    if doctype is not None:
        if doctype[2]:
            raise RejectedError("custody.inspect.xml_entities")
        look.tell("custody.inspect.xml_doctype", name=shown(doctype[1])[:80])
    if re.search(r"http://www\.w3\.org/(2001|2003)/XInclude|<\s*xi:include", text):
        raise RejectedError("custody.inspect.xml_include")
    if not look.budget.allowed:
        look.decoded("not_checked")
        return
    document = _Document()
    document.parse(text, has_doctype=doctype is not None)
    look.decoded("all")
    root = document.root.lower()
    look.details["document"] = shown(document.root)[:80]
    if document.actions:
        look.tell("custody.inspect.active_content", kind=sorted(document.actions)[0])
    if root in _GDAL_ROOTS:
        look.tell("custody.inspect.raster_recipe", root=shown(document.root)[:80])
    document.links.tell(look)


class _Document:
    """What is looked for while expat reads: root, references, scripts. Entities and depth are refused."""

    def __init__(self) -> None:
        self.root = ""
        self.links = Links()
        self.actions: set[str] = set()
        self.cells = 0
        self.formulas = 0
        self._depth = 0
        self._tag = ""
        self._text: list[str] = []

    def parse(self, text: str, *, has_doctype: bool) -> None:
        """Raises RejectedError."""
        parser = expat.ParserCreate("utf-8")
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.ProcessingInstructionHandler = self._instruction
        parser.EntityDeclHandler = _refuse
        parser.ExternalEntityRefHandler = _refuse
        if has_doctype:
            parser.SkippedEntityHandler = _refuse
        try:
            # the text is decoded already; what the declaration says of bytes no longer holds
            parser.Parse(
                re.sub(r"^\s*<\?xml\s[^>]*\?>", "", text.removeprefix("\ufeff"), count=1).encode("utf-8", "replace"), True
            )
        except expat.ExpatError as error:
            raise RejectedError(
                "custody.inspect.bad_xml", line=error.lineno, reason=expat.ErrorString(error.code) or "-"
            ) from error

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_XML_DEPTH:
            raise RejectedError("custody.inspect.xml_depth", limit=_MAX_XML_DEPTH)
        tag = name.rpartition(":")[2].lower()
        self.root = self.root or name.rpartition(":")[2]
        self._tag, self._text = tag, []
        if tag in ("script", "foreignobject", "pixelfunctioncode", "pixelfunctionlanguage", "handler"):
            self.actions.add(f"<{shown(name)[:40]}>")
        for key, value in attributes.items():
            short = key.rpartition(":")[2].lower()
            if short.startswith("on") and len(short) > 4 and self.root.lower() in ("svg", "html"):
                self.actions.add(f"{shown(key)[:40]}=")
            if short == "href" or (short == "src" and self.root.lower() in ("svg", "html")):
                if value.strip().lower().startswith("javascript:"):
                    self.actions.add("javascript:")
                elif not value.startswith(("#", "data:")):
                    self.links.add(value, is_data=tag in ("image", "feimage", "use", "icon"))

    def _end(self, name: str) -> None:
        self._depth -= 1
        tag = name.rpartition(":")[2].lower()
        text = "".join(self._text).strip()
        if tag == self._tag and text:
            if tag in _FILE_TAGS:
                self.links.add(text, is_data=True)
            elif tag in _LINK_TAGS:
                self.links.add(text, is_data=False)
            elif tag == "mdi" and re.search(r"\.\.[/\\]|/vsi|://", text):
                self.links.add(text, is_data=True)
            elif tag == "t" and text[0] in "=+-@\t\r" and not _NUMBER.fullmatch(text):
                self.cells += 1
        self.formulas += tag == "f"
        self._tag = ""

    def _characters(self, data: str) -> None:
        if self._tag and len(self._text) < 64:
            self._text.append(data)

    def _instruction(self, target: str, data: str) -> None:
        found = re.search(r"href\s*=\s*[\"']([^\"']*)", data)
        if found:
            self.links.add(found[1], is_data=False)


def _refuse(*_: object) -> int:
    raise RejectedError("custody.inspect.xml_entities")


def read_sheet(look: Look) -> None:
    """A part of an Excel workbook (ECMA-376): formulas, and texts that a program might take for one."""
    text = xml_text(look.source.read(0, look.size)) if look.size <= MAX_TEXT else None
    if text is None or re.search(r"<!(DOCTYPE|ENTITY)", text, re.I):
        raise RejectedError("custody.inspect.xml_entities" if text else "custody.inspect.xml_encoding")
    if not look.budget.allowed:
        look.decoded("not_checked")
        return
    document = _Document()
    document.parse(text, has_doctype=False)
    if document.formulas or document.cells:
        look.tell("custody.inspect.formula", count=document.formulas + document.cells, first=PurePosixPath(look.name).name)


# ---------------------------------------------------------------- tables

_NUMBER = re.compile(r"[+-]?(\d{1,30}([.,]\d{0,30})*|[.,]\d{1,30})([eE][+-]?\d{1,4})?\s*[%°]?|[-–—]+|[+-]?(nan|inf)", re.I)


def read_table(look: Look) -> None:
    """Cells that a spreadsheet would run: they begin with = + - @, a tab or a return, and are no number."""
    limit = _text_limit(look)
    if look.size > limit:
        look.tell("custody.inspect.too_large", size=look.size, limit=limit)
        return
    encoding = text_encoding(look.source.upto(0, 1 << 16))
    if encoding is None:
        raise RejectedError("custody.inspect.text_encoding")
    head = look.source.upto(0, 1 << 14).decode(encoding, "replace")
    delimiter = max(",\t;", key=head.count)
    raw = io.BytesIO(look.source.read(0, look.size))
    lines = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")
    count, first = 0, ""
    try:
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter), 1):
            for column, cell in enumerate(row):
                if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell and not _NUMBER.fullmatch(cell.strip()):
                    count += 1
                    first = first or f"R{number}C{column + 1}"
    except csv.Error as error:
        raise RejectedError("custody.inspect.bad_table", reason=str(error)) from error
    if count:
        look.tell("custody.inspect.formula", count=count, first=first)


def text_encoding(head: bytes) -> str | None:
    """`utf-8-sig`, `utf-16` or `gb18030` where the bytes are text in it, else None; GB 18030 is what Excel writes in China."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        candidates = ["utf-16"]
    elif b"\x00" in head:
        return None
    else:
        candidates = ["utf-8-sig", "gb18030"]
    for encoding in candidates:
        for cut in range(4):  # the head may end inside a character
            try:
                text = head[: len(head) - cut].decode(encoding)
            except UnicodeDecodeError:
                continue
            if not any(ord(c) < 32 and c not in "\t\r\n\f\x1a" for c in text):
                return encoding
            break
    return None


# ---------------------------------------------------------------- signed texts, time stamps


def read_text(look: Look) -> None:
    """Plain text; a signed note, a checkpoint or a log proof is parsed as such."""
    head = look.source.upto(0, 1 << 14)
    is_note = re.search(rb"\n\n\xe2\x80\x94 [^\n ]+ [A-Za-z0-9+/=]+\n", look.source.upto(max(look.size - (1 << 14), 0), 1 << 14))
    if head.startswith(b"c2sp.org/tlog-proof@"):
        kind, parse = "tlog-proof", parse_proof
    elif is_note is not None:
        lines = head.split(b"\n\n")[0].split(b"\n")
        is_checkpoint = len(lines) == 3 and lines[1].isdigit()
        kind, parse = ("checkpoint", parse_checkpoint) if is_checkpoint else ("signed note", parse_note)  # type: ignore[assignment]
    else:
        look.details["structure"] = "not_known"
        return
    look.details["document"] = kind
    if look.size > 1 << 21:
        look.tell("custody.inspect.too_large", size=look.size, limit=1 << 21)
        return
    try:
        parse(look.source.read(0, look.size), where=kind)
    except FormatError as error:
        raise RejectedError("custody.inspect.bad_signed", reason=error.render("en")) from error


def read_time_stamp(look: Look) -> None:
    """The structure of an RFC 3161 time stamp, by the kernel's parser."""
    look.details["document"] = "RFC 3161"
    if look.size > 1 << 20:
        raise RejectedError("custody.inspect.bad_signed", reason=f"{look.size} > {1 << 20}")
    try:
        parse_time_stamp(look.source.read(0, look.size), where="RFC 3161")
    except UnsupportedError as error:
        look.tell("custody.inspect.not_supported", reason=error.render("en"))
    except FormatError as error:
        raise RejectedError("custody.inspect.bad_signed", reason=error.render("en")) from error
