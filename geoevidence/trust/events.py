"""Events and leaves of a log, read strictly (docs/formats/event.md).

A leaf is the RFC 8785 bytes of a DSSE envelope around the RFC 8785 bytes of one event. The
schema is closed: an unknown or missing field, another type or another spelling is refused.
Says nothing about neighbours in the log; `checks` does. Raises FormatError. Standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.trust.errors import FormatError
from geoevidence.trust.merkle import leaf_hash
from geoevidence.trust.policy import TIME
from geoevidence.trust.signatures import Envelope, parse_envelope

SCHEMA = "geoevidence.event.v1"
PAYLOAD_TYPE = "application/vnd.geoevidence.event.v1+json"
TYPES = (
    "capture_sealed", "received", "copied", "derived", "examined", "commissioned", "accepted", "refused", "found",
    "reviewed", "reported", "packaged", "exported", "viewed", "transferred", "corrected", "key_rotated", "anchored",
)  # fmt: skip
ITEM_FOLDERS = ("originals", "derived", "records", "report", "seal")
CASE = re.compile(r"C-[0-9a-f]{10}", re.ASCII)
WORKSPACE = re.compile(r"W-[0-9a-f]{10}", re.ASCII)
EVENT_ID = re.compile(r"E-([0-9a-f]{8})-([1-9][0-9]{0,14})", re.ASCII)
_ITEM_ID = re.compile(r"(E-[0-9a-f]{8}-[1-9][0-9]{0,14})-([1-9][0-9]{0,14})", re.ASCII)
_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FORBIDDEN = re.compile(r"[\\\x00-\x09\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_FIELDS = {
    "schema", "event_id", "type", "case", "actor", "device", "time_claimed", "clock", "seq", "prev_event", "anchor",
    "inputs", "outputs", "process", "note",
}  # fmt: skip
_PROCESS = {"tool", "version", "code_digest", "environment_digest", "parameters", "seed"}
_CLOCKS = ("system", "gnss", "ntp", "unknown")


class ItemRecord(NamedTuple):
    """One file at one event: item id, path in the case, size (bytes), digests (hex)."""

    item: str
    path: str
    size: int
    sha256: str
    sm3: str


@dataclass(frozen=True)
class Event:
    """One custody event.

    raw: the whole payload as read.
    role, key_id: of the actor.
    anchor: (tree size, root) of the checkpoint its writer knew, or None.
    """

    raw: dict[str, Any]
    event_id: str
    type: str
    case: str
    role: str
    key_id: str
    time_claimed: str
    seq: int
    prev_event: Optional[str]
    anchor: Optional[tuple[int, bytes]]
    inputs: tuple[ItemRecord, ...]
    outputs: tuple[ItemRecord, ...]

    @property
    def commitments(self) -> dict[str, str]:
        """Field name in a disclosure -> commitment, of those that are set."""
        fields = {
            "actor.id": self.raw["actor"]["id"],
            "device.serial": self.raw["device"]["serial"],
            "note": self.raw["note"],
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Leaf:
    """An event with its envelope. hash: leaf hash in the tree, 32 bytes."""

    envelope: Envelope
    event: Event
    hash: bytes


def parse_leaf(data: bytes, *, where: str = "leaf") -> Leaf:
    """The leaf of its bytes; the actor's key is among the signers. Raises FormatError."""
    envelope = parse_envelope(data, where=where)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise FormatError("trust.payload_type", where=where, expected=PAYLOAD_TYPE, found=envelope.payload_type[:80])
    event = parse_event(envelope.payload, where=where)
    if event.key_id not in [each.keyid for each in envelope.signatures]:
        raise FormatError("trust.event_signer", where=where, key_id=event.key_id)
    return Leaf(envelope, event, leaf_hash(data))


def parse_event(payload: bytes, *, where: str = "event") -> Event:
    """The event of its RFC 8785 bytes. Raises FormatError that names the field."""
    raw = loads_canonical(payload, where=where)

    def need(holds: object, field: str) -> None:
        if not holds:
            raise FormatError("trust.event_field", where=where, field=field)

    def closed(value: Any, names: set[str], field: str) -> None:
        need(isinstance(value, dict) and set(value) == names, field)

    def text(value: Any, field: str) -> None:
        need(isinstance(value, str) and value, field)

    def digest(value: Any, field: str) -> None:
        need(isinstance(value, str) and value.startswith("sha256:") and _HEX64.fullmatch(value[7:]), field)

    def whole(value: Any, least: int, field: str) -> None:
        need(type(value) is int and value >= least, field)

    closed(raw, _FIELDS, "event")
    need(raw["schema"] == SCHEMA, "schema")
    need(isinstance(raw["event_id"], str) and EVENT_ID.fullmatch(raw["event_id"]), "event_id")
    need(raw["type"] in TYPES, "type")
    need(isinstance(raw["case"], str) and CASE.fullmatch(raw["case"]), "case")
    closed(raw["actor"], {"id", "role", "auth_level", "key_id"}, "actor")
    digest(raw["actor"]["id"], "actor.id")
    text(raw["actor"]["role"], "actor.role")
    text(raw["actor"]["auth_level"], "actor.auth_level")
    key_id = raw["actor"]["key_id"]
    need(isinstance(key_id, str) and _HEX64.fullmatch(key_id), "actor.key_id")
    closed(raw["device"], {"serial", "software"}, "device")
    if raw["device"]["serial"] is not None:
        digest(raw["device"]["serial"], "device.serial")
    text(raw["device"]["software"], "device.software")
    need(isinstance(raw["time_claimed"], str) and TIME.fullmatch(raw["time_claimed"]), "time_claimed")
    closed(raw["clock"], {"source", "offset_ms"}, "clock")
    need(raw["clock"]["source"] in _CLOCKS, "clock.source")
    need(raw["clock"]["offset_ms"] is None or type(raw["clock"]["offset_ms"]) is int, "clock.offset_ms")
    whole(raw["seq"], 1, "seq")
    need(raw["event_id"] == f"E-{key_id[:8]}-{raw['seq']}", "event_id")
    if raw["prev_event"] is not None:
        digest(raw["prev_event"], "prev_event")
    need((raw["prev_event"] is None) == (raw["seq"] == 1), "prev_event")
    anchor = None
    if raw["anchor"] is not None:
        closed(raw["anchor"], {"tree_size", "root", "attested_time"}, "anchor")
        whole(raw["anchor"]["tree_size"], 1, "anchor.tree_size")
        root, attested = raw["anchor"]["root"], raw["anchor"]["attested_time"]
        need(isinstance(root, str) and _HEX64.fullmatch(root), "anchor.root")
        need(attested is None or (isinstance(attested, str) and TIME.fullmatch(attested)), "anchor.attested_time")
        anchor = (raw["anchor"]["tree_size"], bytes.fromhex(root))
    need(isinstance(raw["inputs"], list) and isinstance(raw["outputs"], list), "inputs")
    inputs = tuple(_item(each, where, "inputs") for each in raw["inputs"])
    outputs = tuple(_item(each, where, "outputs") for each in raw["outputs"])
    need(len({each.item for each in inputs}) == len(inputs), "inputs")
    for number, each in enumerate(outputs, 1):
        need(each.item == f"{raw['event_id']}-{number}", "outputs.item")
        need(each.path.split("/")[1] == raw["event_id"], "outputs.path")
    if raw["process"] is not None:
        process = raw["process"]
        closed(process, _PROCESS, "process")
        text(process["tool"], "process.tool")
        text(process["version"], "process.version")
        for name in ("code_digest", "environment_digest"):
            if process[name] is not None:
                digest(process[name], f"process.{name}")
        need(isinstance(process["parameters"], dict), "process.parameters")
        need(process["seed"] is None or type(process["seed"]) is int, "process.seed")
    if raw["note"] is not None:
        digest(raw["note"], "note")
    return Event(
        raw=raw,
        event_id=raw["event_id"],
        type=raw["type"],
        case=raw["case"],
        role=raw["actor"]["role"],
        key_id=key_id,
        time_claimed=raw["time_claimed"],
        seq=raw["seq"],
        prev_event=raw["prev_event"],
        anchor=anchor,
        inputs=inputs,
        outputs=outputs,
    )


def event_bytes(raw: dict[str, Any]) -> bytes:
    """RFC 8785 bytes of an event, read back strictly first: what is signed can be verified. Raises FormatError."""
    payload = dumps(raw)
    parse_event(payload)
    return payload


def _item(value: Any, where: str, field: str) -> ItemRecord:
    names = {"item", "path", "size", "sha256", "sm3"}
    if not isinstance(value, dict) or set(value) != names:
        raise FormatError("trust.event_field", where=where, field=field)
    match = _ITEM_ID.fullmatch(value["item"]) if isinstance(value["item"], str) else None
    path = value["path"]
    if match is None or not isinstance(path, str) or path_defect(path):
        raise FormatError("trust.event_field", where=where, field=f"{field}.path" if match else f"{field}.item")
    parts = path.split("/")
    if len(parts) < 3 or parts[0] not in ITEM_FOLDERS or parts[1] != match.group(1):
        raise FormatError("trust.event_field", where=where, field=f"{field}.path")
    if type(value["size"]) is not int or value["size"] < 0:
        raise FormatError("trust.event_field", where=where, field=f"{field}.size")
    for name in ("sha256", "sm3"):
        if not isinstance(value[name], str) or not _HEX64.fullmatch(value[name]):
            raise FormatError("trust.event_field", where=where, field=f"{field}.{name}")
    return ItemRecord(value["item"], path, value["size"], value["sha256"], value["sm3"])


def path_defect(path: str) -> Optional[str]:
    """Message id of what is wrong with a POSIX path of a package or case, or None.

    Asked: relative, NFC, valid UTF-8, no empty, `.` or `..` part, no backslash, no control
    character but CR and LF, which manifests can write.
    """
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "trust.path_parts"
    if _FORBIDDEN.search(path):
        return "trust.path_characters"
    if not unicodedata.is_normalized("NFC", path):
        return "trust.path_nfc"
    return None
