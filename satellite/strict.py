"""JSON and XML from outside, read without surprises: bounded, no repeated names, no NaN, no entities, no document types.

In: a path. Out: plain values, or a tree of elements. Raises FormatError and nothing else. No link is followed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from geoevidence.errors import FormatError

MAX_BYTES = 64 * 1024 * 1024
"""Largest metadata file that is read, bytes: tile metadata of Sentinel-2 have 1 MB, item collections some tens."""
_MAX_DEPTH = 100


def read_bytes(path: Path) -> bytes:
    """The bytes of a metadata file. Raises FormatError where it cannot be read or is too large."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FormatError("satellite.metadata_too_large", path=path.name, size=size, limit=MAX_BYTES)
        return path.read_bytes()
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error


def read_json(path: Path) -> Any:
    """The value of a JSON file (RFC 8259): a name twice, NaN, another encoding than UTF-8 are refused. Raises FormatError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("repeated name")
        return found

    def refused(text: str) -> float:
        raise ValueError(text)

    try:
        return json.loads(read_bytes(path).decode("utf-8"), object_pairs_hook=unique, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error


def read_xml(path: Path) -> Element:
    """The root element of an XML file; names of elements lose their namespaces. Raises FormatError."""
    raw = read_bytes(path)
    builder = TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        builder.start(name.rpartition("}")[2], {key.rpartition("}")[2]: value for key, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name.rpartition("}")[2])

    def forbidden(*_: Any) -> int:
        raise ValueError("document type or entity")

    parser = expat.ParserCreate(namespace_separator="}")
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    for name in ("StartDoctypeDeclHandler", "EntityDeclHandler", "UnparsedEntityDeclHandler", "ExternalEntityRefHandler"):
        setattr(parser, name, forbidden)
    try:
        parser.Parse(raw, True)
        return builder.close()
    except (expat.ExpatError, ValueError, ParseError, AssertionError) as error:
        raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error
