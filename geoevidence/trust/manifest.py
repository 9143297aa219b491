"""The documents of a package: what each must look like, byte for byte (docs/formats/package.md).

Readers accept one encoding only and raise FormatError that names the file; the writers here
make that encoding, for the sealer. Opens no file. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from geoevidence.trust.archive import sort_key
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.trust.errors import FormatError
from geoevidence.trust.events import CASE, WORKSPACE
from geoevidence.trust.merkle import leaf_hash
from geoevidence.trust.notes import note_key_name
from geoevidence.trust.policy import TIME, parse_key
from geoevidence.trust.signatures import PublicKey

BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
PAYLOAD_MANIFESTS = ("manifest-sha256.txt", "manifest-sm3.txt")
TAG_MANIFESTS = ("tagmanifest-sha256.txt", "tagmanifest-sm3.txt")
MANIFESTS = PAYLOAD_MANIFESTS + TAG_MANIFESTS
TAG_FILES = ("bag-info.txt", "bagit.txt", "items.json", *PAYLOAD_MANIFESTS, "VERIFY.txt", "verify.pyz")
"""Files that the tag manifests list, before sorting."""
SEAL_FILES = ("seal/proof.tlog", "seal/statement.dsse")
LEAVES, DISCLOSURES = "data/log/leaves.jsonl", "data/log/disclosures.jsonl"
CHECKPOINT, KEYS, FINDINGS = "data/log/checkpoint", "data/log/keys.json", "data/findings.json"
CRATE = "data/ro-crate-metadata.json"
PLAIN_FILES = (LEAVES, DISCLOSURES, CHECKPOINT, KEYS, FINDINGS, CRATE)
"""Files under data/ that are no items of the log."""
ITEM_FOLDERS = ("data/originals/", "data/derived/", "data/records/", "data/report/")
REQUIRED_FILES = (*TAG_FILES, *TAG_MANIFESTS, *SEAL_FILES, *PLAIN_FILES)
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "geoevidence.package.v1"
STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LINE = re.compile(r"([0-9a-f]{64})  (data/.+|[^/]+)", re.ASCII | re.DOTALL)
_PERCENT = {"%0D": "\r", "%0A": "\n", "%25": "%"}
_SOFTWARE = re.compile(r"geoevidence [0-9A-Za-z.+\-]{1,40}", re.ASCII)


def manifest_bytes(digests: Mapping[str, str]) -> bytes:
    """A BagIt manifest of {path: hex}, sorted, with CR, LF and % of a path percent-encoded."""
    lines = []
    for path in sorted(digests, key=sort_key):
        encoded = path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        lines.append(f"{digests[path]}  {encoded}\n")
    return "".join(lines).encode("utf-8")


def parse_manifest(data: bytes, *, where: str) -> dict[str, str]:
    """{path: hex} of such a manifest. Raises FormatError."""
    digests: dict[str, str] = {}
    for number, line in enumerate(_lines(data, where), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise FormatError("trust.manifest_line", where=where, line=number)
        path = re.sub("%0D|%0A|%25", lambda each: _PERCENT[each.group()], match.group(2))
        if path in digests:
            raise FormatError("trust.manifest_line", where=where, line=number)
        digests[path] = match.group(1)
    if manifest_bytes(digests) != data:
        raise FormatError("trust.manifest_order", where=where)
    return digests


def _lines(data: bytes, where: str) -> list[str]:
    """Lines that each end with LF. Raises FormatError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("trust.text_utf8", where=where, offset=error.start) from error
    if not text:
        return []
    if not text.endswith("\n"):
        raise FormatError("trust.text_end", where=where)
    return text[:-1].split("\n")


class ItemLine(NamedTuple):
    """One file under data/ in the package tree.

    leaf: leaf hash, hex. item: item id, or None for a file that is no item. The other fields
    are None for a withheld file.
    """

    leaf: str
    item: Optional[str] = None
    path: Optional[str] = None
    salt: Optional[str] = None
    sha256: Optional[str] = None
    size: Optional[int] = None
    sm3: Optional[str] = None


def item_leaf(path: str, size: int, sha256: str, sm3: str, salt: str) -> str:
    """Hex leaf hash of a file in the package tree: SHA-256(0x00 || salt || RFC 8785 of the rest)."""
    return leaf_hash(bytes.fromhex(salt) + dumps({"path": path, "sha256": sha256, "size": size, "sm3": sm3})).hex()


def items_bytes(lines: Iterable[ItemLine]) -> bytes:
    """`items.json` of lines in package order."""
    parts = [dumps({"leaf": each.leaf} if each.path is None else each._asdict()) for each in lines]
    return b"[\n" + b",\n".join(parts) + b"\n]\n"


def parse_items(data: bytes, *, where: str = "items.json") -> list[ItemLine]:
    """The lines of `items.json`; leaves are not recomputed here. Raises FormatError."""
    if not data.startswith(b"[\n") or not data.endswith(b"\n]\n") or len(data) < 7:
        raise FormatError("trust.items_frame", where=where)
    lines, previous = [], None
    for number, raw in enumerate(data[2:-3].split(b",\n"), 1):
        here = f"{where}:{number + 1}"
        value = loads_canonical(raw, where=here)
        names = {"leaf"} if isinstance(value, dict) and set(value) == {"leaf"} else set(ItemLine._fields)
        if not isinstance(value, dict) or set(value) != names:
            raise FormatError("trust.items_line", where=here)
        line = ItemLine(**value)
        hexes = [line.leaf] if len(names) == 1 else [line.leaf, line.salt, line.sha256, line.sm3]
        if not all(isinstance(each, str) and _HEX64.fullmatch(each) for each in hexes):
            raise FormatError("trust.items_line", where=here)
        if line.path is not None or len(names) > 1:
            if not isinstance(line.path, str) or type(line.size) is not int or line.size < 0:
                raise FormatError("trust.items_line", where=here)
            if line.item is not None and not isinstance(line.item, str):
                raise FormatError("trust.items_line", where=here)
            if previous is not None and sort_key(previous) >= sort_key(line.path):
                raise FormatError("trust.items_order", where=here)
            previous = line.path
        lines.append(line)
    return lines


@dataclass(frozen=True)
class Statement:
    """What the sealer signed.

    subjects: manifest name -> (sha256, sm3), hex.
    items: lines of items.json.
    package_root: hex. checkpoint_before: text of the note.
    """

    subjects: Mapping[str, tuple[str, str]]
    case: str
    workspace: str
    items: int
    package_root: str
    checkpoint_before: str
    software: str
    time_claimed: str
    demonstration: bool

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes: the payload of `seal/statement.dsse`."""
        subject = [{"name": name, "digest": dict(zip(("sha256", "sm3"), self.subjects[name]))} for name in sorted(self.subjects)]
        predicate = {
            "case": self.case,
            "workspace": self.workspace,
            "items": self.items,
            "package_root": self.package_root,
            "checkpoint_before": self.checkpoint_before,
            "required_digests": ["sha256", "sm3"],
            "software": self.software,
            "time_claimed": self.time_claimed,
            "demonstration": self.demonstration,
        }
        return dumps({"_type": STATEMENT_TYPE, "subject": subject, "predicateType": PREDICATE_TYPE, "predicate": predicate})

    @property
    def bag_info_head(self) -> str:
        """The lines of bag-info.txt before Payload-Oxum."""
        return f"Bag-Software-Agent: {self.software}\nBagging-Date: {self.time_claimed[:10]}\nExternal-Identifier: {self.case}\n"

    def bag_info(self, payload_bytes: int, payload_files: int) -> bytes:
        """`bag-info.txt` of the package."""
        return f"{self.bag_info_head}Payload-Oxum: {payload_bytes}.{payload_files}\n".encode()


def parse_statement(payload: bytes, *, where: str = "seal/statement.dsse") -> Statement:
    """The statement of its RFC 8785 bytes. Raises FormatError."""
    value = loads_canonical(payload, where=where)

    def need(holds: object, field: str) -> None:
        if not holds:
            raise FormatError("trust.statement_field", where=where, field=field)

    need(isinstance(value, dict) and set(value) == {"_type", "subject", "predicateType", "predicate"}, "statement")
    need(value["_type"] == STATEMENT_TYPE and value["predicateType"] == PREDICATE_TYPE, "_type")
    need(isinstance(value["subject"], list), "subject")
    subjects: dict[str, tuple[str, str]] = {}
    for each in value["subject"]:
        need(isinstance(each, dict) and set(each) == {"name", "digest"} and isinstance(each["digest"], dict), "subject")
        need(isinstance(each["name"], str) and set(each["digest"]) == {"sha256", "sm3"}, "subject")
        pair = (each["digest"]["sha256"], each["digest"]["sm3"])
        need(all(isinstance(digest, str) and _HEX64.fullmatch(digest) for digest in pair), "subject")
        subjects[each["name"]] = pair
    need([each["name"] for each in value["subject"]] == sorted(MANIFESTS), "subject")
    raw = value["predicate"]
    names = {
        "case", "workspace", "items", "package_root", "checkpoint_before", "required_digests", "software",
        "time_claimed", "demonstration",
    }  # fmt: skip
    need(isinstance(raw, dict) and set(raw) == names, "predicate")
    need(raw["required_digests"] == ["sha256", "sm3"], "required_digests")
    need(type(raw["items"]) is int and raw["items"] >= 0, "items")
    need(isinstance(raw["demonstration"], bool), "demonstration")
    patterns = {"case": CASE, "workspace": WORKSPACE, "package_root": _HEX64, "software": _SOFTWARE, "time_claimed": TIME}
    for name, pattern in patterns.items():
        need(isinstance(raw[name], str) and pattern.fullmatch(raw[name]), name)
    need(isinstance(raw["checkpoint_before"], str), "checkpoint_before")
    del raw["required_digests"]
    return Statement(subjects=subjects, **raw)


@dataclass(frozen=True)
class NamedKey:
    """A key of `data/log/keys.json` with the label its holder gave it: a claim, not a proof."""

    key: PublicKey
    label: str


def parse_keys(data: bytes, *, where: str = KEYS) -> tuple[NamedKey, ...]:
    """The keys, sorted by id, each id and name those of the key, no chain twice. Raises FormatError."""
    value = loads_canonical(data, where=where)
    if not isinstance(value, list) or not value:
        raise FormatError("trust.keys_fields", where=where)
    keys = []
    for raw in value:
        fields = {"algorithm", "key_id", "label", "name", "public_key"}
        if not isinstance(raw, dict) or set(raw) != fields or not isinstance(raw["label"], str):
            raise FormatError("trust.keys_fields", where=where)
        key = parse_key(raw["algorithm"], raw["public_key"], raw["key_id"], where=where)
        if raw["name"] != note_key_name(key):
            raise FormatError("trust.keys_fields", where=where)
        keys.append(NamedKey(key, raw["label"]))
    ids = [each.key.key_id for each in keys]
    if ids != sorted(set(ids)) or len({each.key.chain for each in keys}) != len(keys):
        raise FormatError("trust.keys_fields", where=where)
    return tuple(keys)


def parse_disclosures(data: bytes, *, where: str = DISCLOSURES) -> list[tuple[str, dict[str, Any]]]:
    """(event id, {field: {salt, value}}) a line; commitments are opened by the caller. Raises FormatError."""
    result = []
    for number, line in enumerate(_lines(data, where), 1):
        value = loads_canonical(line.encode("utf-8"), where=f"{where}:{number}")
        if not isinstance(value, dict) or set(value) != {"disclosures", "event"} or not isinstance(value["event"], str):
            raise FormatError("trust.disclosure_fields", where=f"{where}:{number}")
        if not isinstance(value["disclosures"], dict) or not value["disclosures"]:
            raise FormatError("trust.disclosure_fields", where=f"{where}:{number}")
        result.append((value["event"], value["disclosures"]))
    if len({event for event, _ in result}) != len(result):
        raise FormatError("trust.disclosure_fields", where=where)
    return result


def is_item_path(path: str) -> bool:
    """True for a path in the package under one of the item folders."""
    return path.startswith(ITEM_FOLDERS)
