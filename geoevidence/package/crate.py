"""`data/ro-crate-metadata.json`: what the files of a package are, for software that reads RO-Crate 1.1.

The crate describes; what can be checked stands in the log and the manifests. Names of people are not repeated here.
Source: RO-Crate Metadata Specification 1.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from geoevidence.messages import render
from geoevidence.package.draft import PackageDraft
from geoevidence.trust.canonical import dumps

_TERMS = "#terms"
_ACTIONS = {"copied": "custody.event.copied", "received": "custody.event.received", "derived": "custody.event.derived"}


def crate_bytes(draft: PackageDraft, other_files: Mapping[str, tuple[str, int]], *, day: str, software: str) -> bytes:
    """The metadata file of a package.

    Args:
        draft: what is packaged.
        other_files: path under data/ -> (media type, bytes) of files that are no items.
        day: date of sealing, YYYY-MM-DD.
        software: name and version of the sealer.
    """
    item_ids = {item.id: _id(item.path) for item in draft.items}
    files: list[dict[str, Any]] = [_file(item.path, item.media_type, item.size, identifier=item.id) for item in draft.items]
    files += [_file(path, kind, size) for path, (kind, size) in other_files.items()]
    files.sort(key=lambda entity: str(entity["@id"]))
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
        "hasPart": [{"@id": entity["@id"]} for entity in files],
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
    graph = [descriptor, root, *files, *actions, program, terms]
    return dumps({"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph})


def _id(path: str) -> str:
    # RO-Crate 1.1, section "Encoding file paths": a URI reference relative to the crate
    return quote(path, safe="/")


def _file(path: str, kind: str, size: int, *, identifier: str | None = None) -> dict[str, Any]:
    # contentSize is a text in RO-Crate 1.1
    entity: dict[str, Any] = {"@id": _id(path), "@type": "File", "contentSize": str(size), "encodingFormat": kind}
    if identifier is not None:
        entity["identifier"] = identifier
    return entity
