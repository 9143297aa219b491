"""`data/ro-crate-metadata.json`: what the files of a package are, for software that reads RO-Crate 1.1.

The crate describes; what can be checked stands in the log and the manifests. Names of people are not repeated here.
Source: RO-Crate Metadata Specification 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any
from urllib.parse import quote

from geoevidence.messages import render
from geoevidence.package.draft import PackageDraft
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.types import require

_TERMS = "#terms"
_ACTIONS = {"copied": "custody.event.copied", "received": "custody.event.received", "derived": "custody.event.derived"}


def crate_parts(draft: PackageDraft, other_files: Mapping[str, tuple[str, int]], *, day: str, software: str) -> Iterator[bytes]:
    """The metadata file of a package, entity by entity.

    Args:
        draft: what is packaged.
        other_files: path under data/ -> (media type, bytes) of files that are no items.
        day: date of sealing, YYYY-MM-DD.
        software: name and version of the sealer.
    """
    item_ids = {item.id: _id(item.path) for item in draft.items}
    files = [(_id(item.path), item.media_type, item.size, item.id) for item in draft.items]
    files += [(_id(path), kind, size, "") for path, (kind, size) in other_files.items()]
    files.sort()
    actions = []
    for event in draft.events:
        if event.type in _ACTIONS:
            action: dict[str, Any] = {
                "@id": f"#{event.event_id}",
                "@type": "CreateAction",
                "name": render(_ACTIONS[event.type], {}, "zh"),
                "endTime": event.time_claimed.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "result": [{"@id": item_ids[ref.item]} for ref in event.outputs],
                "instrument": {"@id": "#software"},
            }
            if event.inputs:
                action["object"] = [{"@id": item_ids[ref.item]} for ref in event.inputs if ref.item in item_ids]
            if event.process is not None:
                action["description"] = f"{event.process.tool} {event.process.version}"
            actions.append(action)
    name, version = software.split(" ", 1)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{draft.number} ({draft.case})",
        "description": render("package.crate.demonstration" if draft.demonstration else "package.crate.description", {}, "zh"),
        "datePublished": day,
        "identifier": draft.case,
        "license": {"@id": _TERMS},
        "hasPart": [{"@id": identifier} for identifier, _, _, _ in files],
        "mentions": [{"@id": action["@id"]} for action in actions],
    }
    descriptor = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    terms = {
        "@id": _TERMS,
        "@type": "CreativeWork",
        "name": render("package.crate.terms_name", {}, "zh"),
        "description": render("package.crate.terms", {}, "zh"),
    }
    program = {"@id": "#software", "@type": "SoftwareApplication", "name": name, "softwareVersion": version}
    yield b'{"@context":' + dumps("https://w3id.org/ro/crate/1.1/context") + b',"@graph":[' + dumps(descriptor)
    yield b"," + dumps(root)
    for each in files:
        yield b"," + dumps(_file(*each))
    for entity in (*actions, program, terms):
        yield b"," + dumps(entity)
    yield b"]}"


def redacted_crate(raw: bytes, *, missing: Set[str], events: Set[str], sizes: Mapping[str, int]) -> bytes:
    """The metadata file of a redacted copy: what is not there any more is not described any more.

    Args:
        raw: of the sealed package. missing: paths under data/ of files that are left out.
        events: ids of withheld events. sizes: path under data/ -> bytes, of files that are written anew.

    Returns `raw` where it lists nothing. Raises FormatError when an entity of it has no id.
    """
    crate = loads_canonical(raw, where="ro-crate-metadata.json")
    if not isinstance(crate, dict) or "@graph" not in crate:
        return raw
    gone = {_id(path) for path in missing}
    new_sizes = {_id(path): str(size) for path, size in sizes.items()}
    graph = []
    for entity in require(crate, "@graph", list, "ro-crate-metadata.json"):
        name = require(entity, "@id", str, "ro-crate-metadata.json")
        if name in gone or name.removeprefix("#") in events:
            continue
        for field in ("hasPart", "mentions", "object", "result"):
            if field in entity:
                entity[field] = [each for each in entity[field] if each["@id"] not in gone]
        if "mentions" in entity:
            entity["mentions"] = [each for each in entity["mentions"] if each["@id"].removeprefix("#") not in events]
        if name in new_sizes:
            entity["contentSize"] = new_sizes[name]
        graph.append(entity)
    return dumps({**crate, "@graph": graph})


def _id(path: str) -> str:
    # RO-Crate 1.1, section "Encoding file paths": a URI reference relative to the crate
    return quote(path, safe="/")


def _file(identifier: str, kind: str, size: int, item: str) -> dict[str, Any]:
    # contentSize is a text in RO-Crate 1.1
    entity: dict[str, Any] = {"@id": identifier, "@type": "File", "contentSize": str(size), "encodingFormat": kind}
    if item:
        entity["identifier"] = item
    return entity
