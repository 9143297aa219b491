"""Which reader looks at which file: by content first, by name where content is text; a file in disguise is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from geoevidence.custody.inspection import archives, datasets, documents, pictures
from geoevidence.custody.inspection.look import Budget, Detail, Look, RejectedError, Source
from geoevidence.custody.media import UNKNOWN, media_type
from geoevidence.custody.store import HEAD
from geoevidence.errors import GeoEvidenceError
from geoevidence.trust.archive import END
from geoevidence.types import Message

Reader = Callable[[Look], None]
Finding = tuple[str, Message, list[Message], dict[str, Detail]]
"""verdict, its reason, every flag, details."""

_TEXT = frozenset({"text/plain", "text/csv", "application/json", "application/geo+json", "application/xml"})
_PICTURES = frozenset(
    {"image/jpeg", "image/png", "image/tiff", "image/gif", "image/webp", "image/jp2", "image/heic", "image/bmp"}
)
_ZIPPED = frozenset({"application/zip"})
_HDF = frozenset({"application/x-hdf5", "application/x-netcdf"})
_BY_SUFFIX: dict[str, frozenset[str]] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), frozenset({"image/jpeg"})),
    **dict.fromkeys((".tif", ".tiff", ".gtif", ".ovr", ".msk"), frozenset({"image/tiff"})),
    **dict.fromkeys((".heic", ".heif"), frozenset({"image/heic"})),
    **dict.fromkeys((".zip", ".kmz", ".npz", ".xlsx", ".xlsm", ".docx"), _ZIPPED),
    **dict.fromkeys((".gz", ".tgz"), frozenset({"application/gzip"})),
    **dict.fromkeys((".mp4", ".mov"), frozenset({"video/mp4", "video/quicktime"})),
    **dict.fromkeys((".las", ".laz"), frozenset({"application/vnd.las"})),
    **dict.fromkeys((".h5", ".hdf5", ".nc"), _HDF),
    **dict.fromkeys((".json", ".geojson", ".csv", ".tsv", ".xml", ".kml", ".gpx", ".svg", ".vrt", ".txt", ".md", ".srt"), _TEXT),
    ".png": frozenset({"image/png"}),
    ".gif": frozenset({"image/gif"}),
    ".webp": frozenset({"image/webp"}),
    ".jp2": frozenset({"image/jp2"}),
    ".tar": frozenset({"application/x-tar"}),
    ".pdf": frozenset({"application/pdf"}),
    ".npy": frozenset({"application/x-npy"}),
    ".gpkg": frozenset({"application/geopackage+sqlite3", "application/vnd.sqlite3"}),
    ".7z": frozenset({"application/x-7z-compressed"}),
    ".rar": frozenset({"application/vnd.rar"}),
}
_XML_SUFFIXES = frozenset({".xml", ".kml", ".gpx", ".svg", ".vrt", ".xmp", ".gml", ".wms", ".qgs", ".rels"})
_XML_HEAD = re.compile(
    r"\ufeff?\s*<(\?xml|!DOCTYPE|!ENTITY|kml\b|gpx\b|svg\b|VRTDataset|OGRVRT|GDAL_WM|x:xmpmeta|rdf:RDF|gml:)", re.I
)
_PLAIN_SUFFIXES = frozenset({".toml", ".ini", ".cfg", ".txt", ".md", ".log", ".srt", ".py"})
_SHEET = re.compile(r"(.*/)?xl/(sharedStrings|worksheets/[^/]+)\.xml")
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\x28\x7d\x5d\x63\x58\x8c\x4b\x4e\x29\x8a\x71\x43\x42]", re.S)
_MAY_HIDE_ZIP = _PICTURES | _TEXT | {"application/pdf", "application/x-npy", "video/mp4", UNKNOWN}
_CHEAP_BUDGET = 16 << 20


def examine(look: Look) -> None:
    """Look at one file, whatever it is. Raises RejectedError."""
    head = look.source.upto(0, HEAD)
    look.kind = media_type(PurePosixPath(look.name).name, head)
    look.details.update(media_type=look.kind, size=look.size)
    if look.size == 0:
        look.tell("custody.inspect.empty")
        return
    suffix = PurePosixPath(look.name).suffix.lower()
    reader = _reader(look, suffix, head)
    if reader is not datasets.read_pickle:
        _check_disguise(look, suffix, head)
    if reader is None:
        look.details["structure"] = "not_known"
    else:
        reader(look)
    if look.kind in _MAY_HIDE_ZIP:
        _check_hidden_zip(look)
    if look.kind in _PICTURES and head.find(b"%PDF-", 1, 1024) > 0:
        raise RejectedError("custody.inspect.polyglot", kinds=f"{look.kind}, application/pdf")


def _reader(look: Look, suffix: str, head: bytes) -> Reader | None:
    if suffix in datasets.PICKLE_SUFFIXES or (look.kind == UNKNOWN and _PICKLE.match(head)):
        return datasets.read_pickle
    if look.kind in archives.ARCHIVES:
        archives.check_nesting(look)
        opener = {"application/zip": archives.read_zip, "application/x-tar": archives.read_tar}.get(look.kind, archives.read_gzip)
        return lambda each: opener(each, examine)
    if look.kind in _BY_KIND:
        return _BY_KIND[look.kind]
    if suffix in (".shp", ".shx"):
        return datasets.read_shapefile
    if suffix == ".dbf":
        return datasets.read_dbf
    if suffix in (".tsr", ".tst"):
        return documents.read_time_stamp
    if look.depth and _SHEET.fullmatch(look.name):
        return documents.read_sheet
    if suffix in (".json", ".geojson"):
        return documents.read_json
    if suffix in (".jsonl", ".ndjson", ".geojsonl", ".geojsonseq"):
        return documents.read_json_lines
    if suffix in _XML_SUFFIXES or look.kind == "application/xml":
        return documents.read_xml
    if suffix in (".csv", ".tsv") or look.kind == "text/csv":
        return documents.read_table
    return _reader_of_text(look, suffix, head)


def _reader_of_text(look: Look, suffix: str, head: bytes) -> Reader | None:
    text = documents.xml_text(head[:1024]) or head[:1024].decode("latin-1")
    if _XML_HEAD.match(text):
        return documents.read_xml
    if suffix in _PLAIN_SUFFIXES:
        return documents.read_text
    if look.kind in ("application/json", "application/geo+json") or text.lstrip("\ufeff\xef\xbb\xbf \t\r\n")[:1] == "{":
        return documents.read_json if look.kind in _TEXT else None
    return documents.read_text if look.kind in _TEXT else None


def _check_disguise(look: Look, suffix: str, head: bytes) -> None:
    """Programs that go by content open a `.tif` of XML as a list of other files to fetch; that is refused by name."""
    expected = _BY_SUFFIX.get(suffix)
    if expected is None or look.kind in expected:
        return
    if expected is _TEXT and look.kind == UNKNOWN and documents.text_encoding(head) is not None:
        return
    if expected & _PICTURES and look.kind in _PICTURES:
        look.tell("custody.inspect.other_kind", named=suffix, found=look.kind)
        return
    raise RejectedError("custody.inspect.disguised", named=suffix, found=look.kind)


def _check_hidden_zip(look: Look) -> None:
    """Raises RejectedError where a zip, which is read from its end, ends where this file ends."""
    length = min(look.size, END.size + (1 << 16))
    tail = look.source.upto(look.size - length, length)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        return
    size = END.unpack_from(tail, at)[5]
    start = look.size - length + at - size
    if start >= 0 and (size == 0 or look.source.upto(start, 4) == b"PK\x01\x02"):
        raise RejectedError("custody.inspect.polyglot", kinds=f"{look.kind}, application/zip")


_BY_KIND: dict[str, Reader] = {
    "image/jpeg": pictures.read_jpeg,
    "image/png": pictures.read_png,
    "image/tiff": pictures.read_tiff,
    "image/gif": pictures.read_gif,
    "image/webp": datasets.read_riff,
    "image/jp2": datasets.read_boxes,
    "image/heic": datasets.read_boxes,
    "video/mp4": datasets.read_boxes,
    "video/quicktime": datasets.read_boxes,
    "application/pdf": datasets.read_pdf,
    "application/x-npy": datasets.read_npy,
    "application/vnd.sqlite3": datasets.read_sqlite,
    "application/geopackage+sqlite3": datasets.read_sqlite,
    **dict.fromkeys(archives.CLOSED_ARCHIVES, archives.read_closed),
}


def judge(source: Source, name: str, *, deep: bool) -> Finding:
    """Verdict on one file. deep: inflate and parse with C code, for a confined process. Raises nothing for content."""
    budget = Budget() if deep else Budget(left=_CHEAP_BUDGET, allowed=False)
    look = Look(name=name, source=source, kind="", budget=budget)
    try:
        examine(look)
    except RejectedError as rejected:
        return "reject", rejected.reason, look.flags, look.details
    except MemoryError:
        return "reject", Message(id="custody.inspect.limit_memory"), look.flags, look.details
    except (GeoEvidenceError, ArithmeticError, LookupError, ValueError, TypeError, RuntimeError, EOFError) as error:
        # a fault of a reader on bytes that nobody foresaw: the file is not let through
        reason = Message(id="custody.inspect.reader_failed", values={"reason": type(error).__name__})
        return "reject", reason, look.flags, look.details
    if look.flags:
        return "flag", look.flags[0], look.flags, look.details
    known = look.details.get("structure") != "not_known"
    return "accept", Message(id="custody.inspect.sound" if known else "custody.inspect.not_known"), [], look.details
