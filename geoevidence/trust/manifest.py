"""The documents of packages and supplements: what each must look like, byte for byte (docs/formats/package.md).

One frozen class for each signed document, with `to_bytes`, which makes the one encoding, and a
`parse_*`, which accepts no other; so a sealer and a verifier that use them agree on every byte.
Long lists (manifests, items.json) can be read line by line. Raises FormatError that names the
file. Opens no file, checks no signature. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, NamedTuple, Optional

from geoevidence.trust.archive import sort_key
from geoevidence.trust.canonical import MAX_INTEGER, base64_text, base64_value, dumps, loads_canonical
from geoevidence.trust.errors import FormatError
from geoevidence.trust.events import CASE, EVENT_ID, WORKSPACE, Leaf
from geoevidence.trust.merkle import leaf_hash
from geoevidence.trust.notes import note_key_name
from geoevidence.trust.policy import TIME, parse_key
from geoevidence.trust.signatures import PublicKey

BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
PAYLOAD_MANIFESTS = ("manifest-sha256.txt", "manifest-sm3.txt")
TAG_MANIFESTS = ("tagmanifest-sha256.txt", "tagmanifest-sm3.txt")
MANIFESTS = PAYLOAD_MANIFESTS + TAG_MANIFESTS
TAG_FILES = ("bag-info.txt", "bagit.txt", "items.json", *PAYLOAD_MANIFESTS, "VERIFY.txt", "verify.html", "verify.pyz")
"""Files that the tag manifests of a package of version 2 list, before sorting."""
TAG_FILES_V1 = tuple(name for name in TAG_FILES if name != "verify.html")
SUPPLEMENT_TAG_FILES = tuple(name for name in TAG_FILES if name != "items.json")
LEAVES, DISCLOSURES = "data/log/leaves.jsonl", "data/log/disclosures.jsonl"
CHECKPOINT, KEYS, FINDINGS = "data/log/checkpoint", "data/log/keys.json", "data/findings.json"
CRATE, BEFORE_RECORDING = "data/ro-crate-metadata.json", "data/before-recording.json"
PLAIN_FILES_V1 = (LEAVES, DISCLOSURES, CHECKPOINT, KEYS, FINDINGS, CRATE)
PLAIN_FILES = (*PLAIN_FILES_V1, BEFORE_RECORDING)
"""Files under data/ that are no items of the log; attestations besides."""
CHANGED_BY_REDACTION = (LEAVES, DISCLOSURES, KEYS, FINDINGS, CRATE, BEFORE_RECORDING)
"""Files whose bytes may differ in a redacted copy."""
ITEM_FOLDERS = ("data/originals/", "data/derived/", "data/records/", "data/report/")
ATTESTATIONS = "data/attestations/"
SUPPLEMENT, SUPPLEMENT_KEYS, SUPPLEMENT_FILES = "data/supplement.json", "data/keys.json", "data/files/"
PROOF, STATEMENT, CLOSING = "seal/proof.tlog", "seal/statement.dsse", "seal/closing.dsse"
RECOMPUTE, REDACTION = "seal/recompute.dsse", "seal/redaction.dsse"
SEAL_FILES = (PROOF, STATEMENT)
"""Files of seal/ that every package has; version 2 has `CLOSING` as well."""
MOST_EVIDENCE = 99
"""Highest number of a time stamp or cosignature of one seal."""

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"
PACKAGE_V1, PACKAGE_V2 = "geoevidence.package.v1", "geoevidence.package.v2"
SUPPLEMENT_TYPE, CLOSING_TYPE = "geoevidence.supplement.v1", "geoevidence.closing.v1"
REDACTION_TYPE, RECOMPUTE_TYPE = "geoevidence.redaction.v1", "geoevidence.recompute.v1"
DERIVATION_TYPE = "geoevidence.derivation.v1"
KEY_CHANGE_SCHEMA = "geoevidence.key_change.v1"
SUPPLEMENT_KINDS = ("note", "disagreement", "correction", "recompute", "time")
RECOMPUTE_SCOPES = ("headline", "full")
RECOMPUTE_STATUSES = ("identical", "within_tolerance", "not_run", "differs")
"""From best to worst."""

MAX_DOCUMENT = 16 << 20
"""Longest document read whole, in bytes: far above any honest one (a key takes 300 bytes, a row of a record
of recomputation 200), and small enough that reading a hostile one costs little."""
MAX_LINE = 1 << 20
"""Longest line of a manifest, of items.json or of the disclosures: a path of 65 535 bytes (the limit of zip), each escaped, fits."""
MAX_LEAF = 64 << 20
"""Longest leaf: 50 000 outputs of 400 bytes each in base64 need half of it."""

_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LINE = re.compile(r"([0-9a-f]{64})  (data/.+|[^/]+)", re.ASCII | re.DOTALL)
_ITEM_LINE = re.compile(
    rb'\{"item":(?:null|"([0-9A-Za-z-]*)"),"leaf":"([0-9a-f]{64})","path":"([^"\\\x00-\x1f]*)","salt":"([0-9a-f]{64})",'
    rb'"sha256":"([0-9a-f]{64})","size":(0|[1-9][0-9]{0,15}),"sm3":"([0-9a-f]{64})"\}'
)
_PERCENT = {"%0D": "\r", "%0A": "\n", "%25": "%"}
_SOFTWARE = re.compile(r"geoevidence [0-9A-Za-z.+\-]{1,40}", re.ASCII)
_EVIDENCE = re.compile(r"(time|witness)-([1-9][0-9]?)\.(tsr|cosig)", re.ASCII)
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,39})(\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?", re.ASCII)
_DIGESTS = ["sha256", "sm3"]


# ---- names ---------------------------------------------------------------------------------------


def time_file(number: int, *, folder: str = "seal/") -> str:
    """Name of a time stamp, `seal/time-<n>.tsr`."""
    return f"{folder}time-{number}.tsr"


def witness_file(number: int, *, folder: str = "seal/") -> str:
    """Name of a witness cosignature, `seal/witness-<n>.cosig`."""
    return f"{folder}witness-{number}.cosig"


def evidence_number(name: str) -> Optional[tuple[str, int]]:
    """("time", n) or ("witness", n) of a file name without its folder, or None where it is neither."""
    match = _EVIDENCE.fullmatch(name)
    if match is None or (match.group(1), match.group(3)) not in (("time", "tsr"), ("witness", "cosig")):
        return None
    return match.group(1), int(match.group(2))


def is_item_path(path: str) -> bool:
    """True for a path in the package under one of the item folders."""
    return path.startswith(ITEM_FOLDERS)


def attestation_file(event_id: str) -> str:
    """`data/attestations/<event id>.dsse`."""
    return f"{ATTESTATIONS}{event_id}.dsse"


def attested_event(path: str) -> Optional[str]:
    """Event id of an attestation's path, or None where the path is no such."""
    name = path[len(ATTESTATIONS) : -5]
    return name if path.startswith(ATTESTATIONS) and path.endswith(".dsse") and EVENT_ID.fullmatch(name) else None


# ---- manifests and items.json ------------------------------------------------------------------------


def manifest_line(path: str, digest: str) -> bytes:
    """One line of a BagIt manifest, CR, LF and % of the path percent-encoded (RFC 8493 section 2.1.3)."""
    encoded = path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"{digest}  {encoded}\n".encode()


def manifest_bytes(digests: Mapping[str, str]) -> bytes:
    """A BagIt manifest of {path: hex}, in the order of the package."""
    return b"".join(manifest_line(path, digests[path]) for path in sorted(digests, key=sort_key))


def parse_manifest_lines(lines: Iterable[bytes], *, where: str) -> Iterator[tuple[str, str]]:
    """(path, hex) of each line, given without its LF; order and spelling are checked. Raises FormatError."""
    previous = None
    for number, raw in enumerate(lines, 1):
        match = _LINE.fullmatch(_text(raw, where, number))
        if match is None:
            raise FormatError("trust.manifest_line", where=where, line=number)
        path = re.sub("%0D|%0A|%25", lambda each: _PERCENT[each.group()], match.group(2))
        key = sort_key(path)
        if (previous is not None and key <= previous) or manifest_line(path, match.group(1)) != raw + b"\n":
            raise FormatError("trust.manifest_order", where=where, line=number)
        previous = key
        yield path, match.group(1)


def parse_manifest(data: bytes, *, where: str) -> dict[str, str]:
    """{path: hex} of a manifest. Raises FormatError."""
    return dict(parse_manifest_lines(split_lines(data, where=where), where=where))


def split_lines(data: bytes, *, where: str) -> list[bytes]:
    """Lines that each end with LF, without it. Raises FormatError for a last line without."""
    if data and not data.endswith(b"\n"):
        raise FormatError("trust.text_end", where=where)
    return data.split(b"\n")[:-1]


def _text(line: bytes, where: str, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("trust.text_utf8", where=f"{where}:{number}", offset=error.start) from error


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
    # a million of these in a package: the names are sorted already, and the other values need no escapes
    rest = f'{{"path":{encode_basestring(path)},"sha256":"{sha256}","size":{size},"sm3":"{sm3}"}}'
    return leaf_hash(bytes.fromhex(salt) + rest.encode("utf-8")).hex()


def item_line_bytes(line: ItemLine) -> bytes:
    """RFC 8785 bytes of one line of `items.json`, without the comma."""
    return dumps({"leaf": line.leaf} if line.path is None else line._asdict())


def items_bytes(lines: Iterable[ItemLine]) -> bytes:
    """`items.json` of lines in package order."""
    return b"[\n" + b",\n".join(map(item_line_bytes, lines)) + b"\n]\n"


def parse_item_lines(lines: Iterable[bytes], *, where: str = "items.json") -> Iterator[ItemLine]:
    """Each file of `items.json`, given as lines without LF; leaves are not recomputed here. Raises FormatError.

    The order is checked among the lines that have a path.
    """
    previous = None
    pending: Optional[bytes] = None
    number, closed = 0, False
    for number, line in enumerate(lines, 1):
        if number == 1 or closed:
            if closed or line != b"[":
                raise FormatError("trust.items_frame", where=where)
            continue
        if line == b"]":
            closed = True
            if pending is None:
                raise FormatError("trust.items_frame", where=where)
            item = _item_line(pending, f"{where}:{number - 1}", previous)
        elif pending is None:
            pending = line
            continue
        elif not pending.endswith(b","):
            raise FormatError("trust.items_frame", where=where)
        else:
            item = _item_line(pending[:-1], f"{where}:{number - 1}", previous)
            pending = line
        if item.path is not None:
            previous = sort_key(item.path)
        yield item
    if not closed:
        raise FormatError("trust.items_frame", where=where)


def _item_line(raw: bytes, where: str, previous: Optional[tuple[str, str]]) -> ItemLine:
    line = _usual_item_line(raw)
    if line is None:
        line = _any_item_line(raw, where)
    if line.path is not None and previous is not None and previous >= sort_key(line.path):
        raise FormatError("trust.items_order", where=where)
    return line


def _usual_item_line(raw: bytes) -> Optional[ItemLine]:
    """A line without escapes, which is nearly every one; None where it takes a whole parser to read or to refuse it."""
    match = _ITEM_LINE.fullmatch(raw)
    if match is None:
        return None
    item, leaf, path, salt, sha256, size, sm3 = match.groups()
    try:
        name = path.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if int(size) > MAX_INTEGER:
        return None
    return ItemLine(
        leaf.decode("ascii"), None if item is None else item.decode("ascii"), name, salt.decode("ascii"),
        sha256.decode("ascii"), int(size), sm3.decode("ascii"),
    )  # fmt: skip


def _any_item_line(raw: bytes, where: str) -> ItemLine:
    value = loads_canonical(raw, where=where, max_bytes=MAX_LINE)
    if isinstance(value, dict) and set(value) == {"leaf"}:
        if not _is_hex(value["leaf"]):
            raise FormatError("trust.items_line", where=where)
        return ItemLine(value["leaf"])
    if not isinstance(value, dict) or set(value) != set(ItemLine._fields):
        raise FormatError("trust.items_line", where=where)
    line = ItemLine(**value)
    if not all(map(_is_hex, (line.leaf, line.salt, line.sha256, line.sm3))) or not isinstance(line.path, str):
        raise FormatError("trust.items_line", where=where)
    if type(line.size) is not int or line.size < 0 or not (line.item is None or isinstance(line.item, str)):
        raise FormatError("trust.items_line", where=where)
    return line


def parse_items(data: bytes, *, where: str = "items.json") -> list[ItemLine]:
    """The lines of `items.json`. Raises FormatError."""
    if not data.endswith(b"\n"):
        raise FormatError("trust.items_frame", where=where)
    return list(parse_item_lines(data.split(b"\n")[:-1], where=where))


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and _HEX64.fullmatch(value) is not None


# ---- in-toto statements ------------------------------------------------------------------------------


Subjects = Mapping[str, tuple[str, str]]
"""Name -> (sha256, sm3), hex."""


def _statement_bytes(subjects: Iterable[tuple[str, tuple[str, str]]], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    subject = [{"name": name, "digest": dict(zip(_DIGESTS, pair))} for name, pair in subjects]
    return dumps({"_type": STATEMENT_TYPE, "subject": subject, "predicateType": predicate_type, "predicate": dict(predicate)})


class _Reader:
    """One document while it is read: `need` refuses with its name and the field."""

    def __init__(self, where: str, message: str = "trust.statement_field") -> None:
        self.where, self.message = where, message

    def need(self, holds: object, field: str) -> None:
        if not holds:
            raise FormatError(self.message, where=self.where, field=field)

    def closed(self, value: Any, names: Iterable[str], field: str) -> dict[str, Any]:
        self.need(isinstance(value, dict) and set(value) == set(names), field)
        result: dict[str, Any] = value
        return result

    def text(self, value: Any, field: str, pattern: Optional[re.Pattern[str]] = None) -> str:
        self.need(isinstance(value, str) and (pattern is None or pattern.fullmatch(value)), field)
        result: str = value
        return result

    def whole(self, value: Any, field: str) -> int:
        self.need(type(value) is int and value >= 0, field)
        result: int = value
        return result

    def one_of(self, value: Any, known: Iterable[str], field: str) -> str:
        self.need(isinstance(value, str) and value in known, field)
        result: str = value
        return result

    def statement(self, payload: bytes, kinds: Iterable[str]) -> tuple[list[tuple[str, tuple[str, str]]], str, Any]:
        """Subjects in their order, predicate type, predicate."""
        value = loads_canonical(payload, where=self.where, max_bytes=MAX_DOCUMENT)
        self.closed(value, ("_type", "subject", "predicateType", "predicate"), "statement")
        self.need(value["_type"] == STATEMENT_TYPE, "_type")
        kind = self.one_of(value["predicateType"], kinds, "predicateType")
        self.need(isinstance(value["subject"], list), "subject")
        subjects = []
        for each in value["subject"]:
            self.closed(each, ("name", "digest"), "subject")
            digest = self.closed(each["digest"], _DIGESTS, "subject")
            self.need(all(map(_is_hex, digest.values())), "subject")
            subjects.append((self.text(each["name"], "subject"), (digest["sha256"], digest["sm3"])))
        self.need(len({name for name, _ in subjects}) == len(subjects), "subject")
        return subjects, kind, value["predicate"]

    def sorted_subjects(self, subjects: list[tuple[str, tuple[str, str]]]) -> dict[str, tuple[str, str]]:
        names = [name for name, _ in subjects]
        self.need(names == sorted(names), "subject")
        return dict(subjects)

    def common(self, raw: dict[str, Any]) -> None:
        """Fields that several predicates share, where this one has them."""
        patterns = {
            "case": CASE, "workspace": WORKSPACE, "package_root": _HEX64, "software": _SOFTWARE, "time_claimed": TIME,
            "supplement_sha256": _HEX64,
        }  # fmt: skip
        for name, pattern in patterns.items():
            if name in raw:
                self.text(raw[name], name, pattern)
        if "demonstration" in raw:
            self.need(isinstance(raw["demonstration"], bool), "demonstration")
        if "required_digests" in raw:
            self.need(raw["required_digests"] == _DIGESTS, "required_digests")
            del raw["required_digests"]


def statement_kind(payload: bytes, *, where: str = STATEMENT) -> str:
    """`predicateType` of a statement: one of `PACKAGE_V1`, `PACKAGE_V2`, `SUPPLEMENT_TYPE`. Raises FormatError."""
    return _Reader(where).statement(payload, (PACKAGE_V1, PACKAGE_V2, SUPPLEMENT_TYPE))[1]


class _Bagged:
    """What a signed document says of its bag: the lines of bag-info.txt."""

    case: str
    software: str
    time_claimed: str

    def bag_info(self, payload_bytes: int, payload_files: int) -> bytes:
        """`bag-info.txt` of the package, the redacted copy or the supplement."""
        return (
            f"Bag-Software-Agent: {self.software}\nBagging-Date: {self.time_claimed[:10]}\n"
            f"External-Identifier: {self.case}\nPayload-Oxum: {payload_bytes}.{payload_files}\n"
        ).encode()


@dataclass(frozen=True)
class Statement(_Bagged):
    """What the sealer signed: the payload of `seal/statement.dsse`.

    subjects: manifest name -> (sha256, sm3), hex. items: lines of items.json. package_root: hex.
    checkpoint_before: text of the note. predicate_type: `PACKAGE_V1` or `PACKAGE_V2`.
    """

    subjects: Subjects
    case: str
    workspace: str
    items: int
    package_root: str
    checkpoint_before: str
    software: str
    time_claimed: str
    demonstration: bool
    predicate_type: str = PACKAGE_V2

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes."""
        names = ("case", "workspace", "items", "package_root", "checkpoint_before", "software", "time_claimed", "demonstration")
        predicate = {**{name: getattr(self, name) for name in names}, "required_digests": _DIGESTS}
        return _statement_bytes(sorted(self.subjects.items()), self.predicate_type, predicate)

    @property
    def version(self) -> int:
        """1 or 2."""
        return 1 if self.predicate_type == PACKAGE_V1 else 2


def parse_statement(payload: bytes, *, where: str = STATEMENT) -> Statement:
    """The statement of its RFC 8785 bytes. Raises FormatError."""
    reader = _Reader(where)
    subjects, kind, raw = reader.statement(payload, (PACKAGE_V1, PACKAGE_V2))
    names = (
        "case", "workspace", "items", "package_root", "checkpoint_before", "required_digests", "software", "time_claimed",
        "demonstration",
    )  # fmt: skip
    reader.closed(raw, names, "predicate")
    reader.common(raw)
    reader.whole(raw["items"], "items")
    reader.text(raw["checkpoint_before"], "checkpoint_before")
    reader.need([name for name, _ in subjects] == sorted(MANIFESTS), "subject")
    return Statement(subjects=dict(subjects), predicate_type=kind, **raw)


@dataclass(frozen=True)
class SupplementStatement(_Bagged):
    """The payload of `seal/statement.dsse` of a supplement.

    subjects: manifest name -> (sha256, sm3), hex. package_root: of the package spoken of, hex.
    supplement_sha256: of `data/supplement.json`, hex.
    """

    subjects: Subjects
    case: str
    workspace: str
    package_root: str
    supplement_sha256: str
    software: str
    time_claimed: str
    demonstration: bool

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes."""
        names = ("case", "workspace", "package_root", "supplement_sha256", "software", "time_claimed", "demonstration")
        predicate = {**{name: getattr(self, name) for name in names}, "required_digests": _DIGESTS}
        return _statement_bytes(sorted(self.subjects.items()), SUPPLEMENT_TYPE, predicate)


def parse_supplement_statement(payload: bytes, *, where: str = STATEMENT) -> SupplementStatement:
    """The statement of its RFC 8785 bytes. Raises FormatError."""
    reader = _Reader(where)
    subjects, _, raw = reader.statement(payload, (SUPPLEMENT_TYPE,))
    names = (
        "case", "workspace", "package_root", "supplement_sha256", "required_digests", "software", "time_claimed",
        "demonstration",
    )  # fmt: skip
    reader.closed(raw, names, "predicate")
    reader.common(raw)
    reader.need([name for name, _ in subjects] == sorted(MANIFESTS), "subject")
    return SupplementStatement(subjects=dict(subjects), **raw)


@dataclass(frozen=True)
class Closing:
    """The payload of `seal/closing.dsse`. subjects: path (`seal/...`) -> (sha256, sm3), hex."""

    subjects: Subjects
    case: str
    workspace: str
    package_root: str

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes."""
        predicate = {"case": self.case, "workspace": self.workspace, "package_root": self.package_root}
        return _statement_bytes(sorted(self.subjects.items()), CLOSING_TYPE, predicate)


def parse_closing(payload: bytes, *, where: str = CLOSING) -> Closing:
    """The closing of its RFC 8785 bytes. Raises FormatError."""
    reader = _Reader(where)
    subjects, _, raw = reader.statement(payload, (CLOSING_TYPE,))
    reader.closed(raw, ("case", "workspace", "package_root"), "predicate")
    reader.common(raw)
    return Closing(subjects=reader.sorted_subjects(subjects), **raw)


@dataclass(frozen=True)
class Redaction(_Bagged):
    """The payload of `seal/redaction.dsse`.

    subjects: the four manifests of the copy and the other files of seal/ -> (sha256, sm3), hex.
    files_withheld, leaves_withheld, disclosures_withheld: numbers (of disclosures: fields).
    """

    subjects: Subjects
    case: str
    workspace: str
    package_root: str
    files_withheld: int
    leaves_withheld: int
    disclosures_withheld: int
    reason: str
    software: str
    time_claimed: str
    demonstration: bool

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes."""
        names = (
            "case", "workspace", "package_root", "files_withheld", "leaves_withheld", "disclosures_withheld", "reason",
            "software", "time_claimed", "demonstration",
        )  # fmt: skip
        predicate = {**{name: getattr(self, name) for name in names}, "required_digests": _DIGESTS}
        return _statement_bytes(sorted(self.subjects.items()), REDACTION_TYPE, predicate)


def parse_redaction(payload: bytes, *, where: str = REDACTION) -> Redaction:
    """The statement of a redacted copy of its RFC 8785 bytes. Raises FormatError."""
    reader = _Reader(where)
    subjects, _, raw = reader.statement(payload, (REDACTION_TYPE,))
    names = (
        "case", "workspace", "package_root", "files_withheld", "leaves_withheld", "disclosures_withheld", "reason",
        "required_digests", "software", "time_claimed", "demonstration",
    )  # fmt: skip
    reader.closed(raw, names, "predicate")
    reader.common(raw)
    for name in ("files_withheld", "leaves_withheld", "disclosures_withheld"):
        reader.whole(raw[name], name)
    reader.text(raw["reason"], "reason")
    stated = reader.sorted_subjects(subjects)
    reader.need(set(MANIFESTS) <= stated.keys(), "subject")
    return Redaction(subjects=stated, **raw)


def attestation_payload(leaf: Leaf) -> bytes:
    """The in-toto statement of a `derived` event, made from its leaf alone: the payload of `data/attestations/<event>.dsse`."""
    event = leaf.event
    subjects = [(item.path, (item.sha256, item.sm3)) for item in event.outputs]
    predicate = {
        "case": event.case,
        "event": event.event_id,
        "leaf_hash": leaf.hash.hex(),
        "inputs": [item._asdict() for item in event.inputs],
        "process": event.raw["process"],
        "time_claimed": event.time_claimed,
    }
    return _statement_bytes(subjects, DERIVATION_TYPE, predicate)


# ---- records of recomputation -------------------------------------------------------------------------


class RecomputedQuantity(NamedTuple):
    """One number of a finding, stated and found again. stated, found, tolerance: decimals as text; found None: not run."""

    finding: str
    unit: str
    stated: str
    found: Optional[str]
    tolerance: str
    status: str


class RecomputedFile(NamedTuple):
    """One file made again. path: in the case. detail: text."""

    path: str
    status: str
    detail: str


@dataclass(frozen=True)
class RecomputedResult:
    """What came out when a result was computed again.

    event, tool: that made it. status: of `RECOMPUTE_STATUSES`, no better than the worst of its rows.
    reason: (message id, values), or None.
    """

    event: str
    tool: str
    status: str
    reason: Optional[tuple[str, Mapping[str, Any]]] = None
    quantities: tuple[RecomputedQuantity, ...] = ()
    files: tuple[RecomputedFile, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "event": self.event,
            "tool": self.tool,
            "status": self.status,
            "reason": None if self.reason is None else {"id": self.reason[0], "values": dict(self.reason[1])},
            "quantities": [each._asdict() for each in self.quantities],
            "files": [each._asdict() for each in self.files],
        }


@dataclass(frozen=True)
class RecomputeRecord:
    """The payload of a record of recomputation.

    subjects: (path in the case, sha256, sm3) of each `result.json`. results: one for each, in the same order.
    scope: of `RECOMPUTE_SCOPES`. code_digest, environment_digest: `sha256:<hex>`, or None where unknown.
    machine: text.
    """

    subjects: tuple[tuple[str, str, str], ...]
    results: tuple[RecomputedResult, ...]
    case: str
    workspace: str
    package_root: str
    scope: str
    software: str
    code_digest: Optional[str]
    environment_digest: Optional[str]
    machine: str
    time_claimed: str

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes."""
        names = (
            "case", "workspace", "package_root", "scope", "software", "code_digest", "environment_digest", "machine",
            "time_claimed",
        )  # fmt: skip
        predicate = {**{name: getattr(self, name) for name in names}, "results": [each.to_dict() for each in self.results]}
        return _statement_bytes(((name, (sha256, sm3)) for name, sha256, sm3 in self.subjects), RECOMPUTE_TYPE, predicate)

    @property
    def status(self) -> str:
        """The worst status of all results, `not_run` where there is none."""
        return max((each.status for each in self.results), key=RECOMPUTE_STATUSES.index, default="not_run")


def parse_recompute(payload: bytes, *, where: str = RECOMPUTE) -> RecomputeRecord:
    """The record of its RFC 8785 bytes. Raises FormatError."""
    reader = _Reader(where)
    subjects, _, raw = reader.statement(payload, (RECOMPUTE_TYPE,))
    names = (
        "case", "workspace", "package_root", "scope", "results", "software", "code_digest", "environment_digest", "machine",
        "time_claimed",
    )  # fmt: skip
    reader.closed(raw, names, "predicate")
    reader.common(raw)
    reader.one_of(raw["scope"], RECOMPUTE_SCOPES, "scope")
    for name in ("code_digest", "environment_digest"):
        value = raw[name]
        reader.need(value is None or (isinstance(value, str) and value[:7] == "sha256:" and _is_hex(value[7:])), name)
    reader.text(raw["machine"], "machine")
    results = raw.pop("results")
    reader.need(isinstance(results, list) and len(results) == len(subjects), "results")
    parsed = tuple(_result(reader, name, each) for (name, _), each in zip(subjects, results))
    stated = tuple((name, sha256, sm3) for name, (sha256, sm3) in subjects)
    return RecomputeRecord(subjects=stated, results=parsed, **raw)


def _result(reader: _Reader, name: str, raw: Any) -> RecomputedResult:
    reader.closed(raw, ("event", "tool", "status", "reason", "quantities", "files"), "results")
    event = reader.text(raw["event"], "results.event", EVENT_ID)
    reader.need(name == f"derived/{event}/result.json", "subject")
    tool = reader.text(raw["tool"], "results.tool")
    status = reader.one_of(raw["status"], RECOMPUTE_STATUSES, "results.status")
    reason = raw["reason"]
    if reason is not None:
        reader.closed(reason, ("id", "values"), "results.reason")
        reader.text(reason["id"], "results.reason")
        reader.need(isinstance(reason["values"], dict), "results.reason")
        reason = (reason["id"], reason["values"])
    reader.need(isinstance(raw["quantities"], list) and isinstance(raw["files"], list), "results")
    quantities, files = [], []
    for row in raw["quantities"]:
        reader.closed(row, RecomputedQuantity._fields, "results.quantities")
        reader.one_of(row["status"], RECOMPUTE_STATUSES, "results.quantities.status")
        reader.need((row["found"] is None) == (row["status"] == "not_run"), "results.quantities.found")
        for field in ("finding", "unit"):
            reader.text(row[field], f"results.quantities.{field}")
        for field in ("stated", "tolerance") if row["found"] is None else ("stated", "tolerance", "found"):
            reader.text(row[field], f"results.quantities.{field}", _DECIMAL)
        quantities.append(RecomputedQuantity(**row))
    for row in raw["files"]:
        reader.closed(row, RecomputedFile._fields, "results.files")
        reader.one_of(row["status"], RECOMPUTE_STATUSES, "results.files.status")
        for field in ("path", "detail"):
            reader.text(row[field], f"results.files.{field}")
        files.append(RecomputedFile(**row))
    rows = [*(each.status for each in quantities), *(each.status for each in files)]
    worst = max(rows, key=RECOMPUTE_STATUSES.index, default="identical")
    # a result may not be called better than its rows
    reader.need(RECOMPUTE_STATUSES.index(status) >= RECOMPUTE_STATUSES.index(worst), "results.status")
    return RecomputedResult(event, tool, status, reason, tuple(quantities), tuple(files))


# ---- supplements --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SupplementDocument:
    """`data/supplement.json`: what is said, of which package, by whom.

    kind: of `SUPPLEMENT_KINDS`. case, workspace, package_root, statement_sha256, statement_sm3: of the package.
    previous: sha256 of the statement of the author's supplement before, hex, or None.
    """

    kind: str
    case: str
    workspace: str
    package_root: str
    statement_sha256: str
    statement_sm3: str
    previous: Optional[str]
    author: str
    text: str

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes."""
        names = ("case", "workspace", "package_root", "statement_sha256", "statement_sm3")
        value = {name: getattr(self, name) for name in ("kind", "previous", "author", "text")}
        return dumps({**value, "schema": SUPPLEMENT_TYPE, "package": {name: getattr(self, name) for name in names}})


def parse_supplement(data: bytes, *, where: str = SUPPLEMENT) -> SupplementDocument:
    """The document of its RFC 8785 bytes. Raises FormatError."""
    reader = _Reader(where, "trust.document_field")
    value = loads_canonical(data, where=where, max_bytes=MAX_DOCUMENT)
    reader.closed(value, ("schema", "kind", "package", "previous", "author", "text"), "supplement")
    reader.need(value["schema"] == SUPPLEMENT_TYPE, "schema")
    names = ("case", "workspace", "package_root", "statement_sha256", "statement_sm3")
    package = reader.closed(value["package"], names, "package")
    reader.common(package)
    for name in ("statement_sha256", "statement_sm3"):
        reader.text(package[name], name, _HEX64)
    reader.need(value["previous"] is None or _is_hex(value["previous"]), "previous")
    return SupplementDocument(
        kind=reader.one_of(value["kind"], SUPPLEMENT_KINDS, "kind"),
        previous=value["previous"],
        author=reader.text(value["author"], "author"),
        text=reader.text(value["text"], "text"),
        **package,
    )


# ---- keys ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedKey:
    """A key of `data/log/keys.json`.

    label: what its holder calls it, a claim, not a proof. certificates: DER of X.509 certificates, the key's own first.
    """

    key: PublicKey
    label: str
    certificates: tuple[bytes, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields that `keys.json` and `key-change.json` share."""
        return {
            "algorithm": self.key.algorithm,
            "certificates": [base64_text(each) for each in self.certificates],
            "key_id": self.key.key_id,
            "label": self.label,
            "public_key": base64_text(self.key.raw),
        }


def keys_bytes(rows: Iterable[NamedKey], *, version: int = 2) -> bytes:
    """RFC 8785 bytes of `data/log/keys.json`, rows sorted by key id. version 1 has no certificates."""
    value = [{**row.to_dict(), "name": note_key_name(row.key)} for row in sorted(rows, key=lambda each: each.key.key_id)]
    for row in value if version == 1 else ():
        del row["certificates"]
    return dumps(value)


def _named_key(raw: dict[str, Any], where: str) -> NamedKey:
    key = parse_key(raw["algorithm"], raw["public_key"], raw["key_id"], where=where)
    certificates = raw.get("certificates", [])
    if not isinstance(certificates, list) or not isinstance(raw["label"], str):
        raise FormatError("trust.keys_fields", where=where)
    return NamedKey(key, raw["label"], tuple(base64_value(each, where=where) for each in certificates))


def parse_keys(data: bytes, *, where: str = KEYS) -> tuple[NamedKey, ...]:
    """The keys, sorted by id, each id and name those of the key, no chain twice. Raises FormatError.

    Rows of version 1, without certificates, are read too, but not beside others.
    """
    value = loads_canonical(data, where=where, max_bytes=MAX_DOCUMENT)
    if not isinstance(value, list) or not value:
        raise FormatError("trust.keys_fields", where=where)
    fields = {"algorithm", "certificates", "key_id", "label", "name", "public_key"}
    if isinstance(value[0], dict) and "certificates" not in value[0]:
        fields.remove("certificates")
    keys = []
    for raw in value:
        if not isinstance(raw, dict) or set(raw) != fields:
            raise FormatError("trust.keys_fields", where=where)
        named = _named_key(raw, where)
        if raw["name"] != note_key_name(named.key):
            raise FormatError("trust.keys_fields", where=where)
        keys.append(named)
    ids = [each.key.key_id for each in keys]
    if ids != sorted(set(ids)) or len({each.key.chain for each in keys}) != len(keys):
        raise FormatError("trust.keys_fields", where=where)
    return tuple(keys)


@dataclass(frozen=True)
class KeyChange:
    """`records/<event>/key-change.json`: a key ends (docs/formats/trust.md).

    action: `rotated` or `revoked`. key_id: the key that ends. new_key: its successor, or None.
    reason: `superseded`, `compromised`, `lost` or `ended`. effective: tree size from which the key says nothing more.
    """

    action: str
    key_id: str
    new_key: Optional[NamedKey]
    reason: str
    effective: int

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes."""
        value = {name: getattr(self, name) for name in ("action", "key_id", "reason", "effective")}
        new_key = None if self.new_key is None else self.new_key.to_dict()
        return dumps({**value, "schema": KEY_CHANGE_SCHEMA, "new_key": new_key})


def parse_key_change(data: bytes, *, where: str = "key-change.json") -> KeyChange:
    """The document of its RFC 8785 bytes. Raises FormatError."""
    reader = _Reader(where, "trust.document_field")
    value = loads_canonical(data, where=where, max_bytes=MAX_DOCUMENT)
    reader.closed(value, ("schema", "action", "key_id", "new_key", "reason", "effective"), "key_change")
    reader.need(value["schema"] == KEY_CHANGE_SCHEMA, "schema")
    action = reader.one_of(value["action"], ("rotated", "revoked"), "action")
    reader.need((value["new_key"] is None) == (action == "revoked"), "new_key")
    new_key = None
    if value["new_key"] is not None:
        raw = reader.closed(value["new_key"], ("algorithm", "certificates", "key_id", "label", "public_key"), "new_key")
        new_key = _named_key(raw, where)
    return KeyChange(
        action=action,
        key_id=reader.text(value["key_id"], "key_id", _HEX64),
        new_key=new_key,
        reason=reader.one_of(value["reason"], ("superseded", "compromised", "lost", "ended"), "reason"),
        effective=reader.whole(value["effective"], "effective"),
    )


# ---- disclosures -----------------------------------------------------------------------------------------


def parse_disclosure_line(line: bytes, *, where: str) -> tuple[str, dict[str, Any]]:
    """(event id, {field: {salt, value}}) of a line without LF; commitments are opened by the caller. Raises FormatError."""
    value = loads_canonical(line, where=where, max_bytes=MAX_LINE)
    if not isinstance(value, dict) or set(value) != {"disclosures", "event"} or not isinstance(value["event"], str):
        raise FormatError("trust.disclosure_fields", where=where)
    if not isinstance(value["disclosures"], dict) or not value["disclosures"]:
        raise FormatError("trust.disclosure_fields", where=where)
    return value["event"], value["disclosures"]


def parse_disclosures(data: bytes, *, where: str = DISCLOSURES) -> list[tuple[str, dict[str, Any]]]:
    """All lines of `disclosures.jsonl`; no event stands twice. Raises FormatError."""
    lines = split_lines(data, where=where)
    result = [parse_disclosure_line(line, where=f"{where}:{number}") for number, line in enumerate(lines, 1)]
    if len({event for event, _ in result}) != len(result):
        raise FormatError("trust.disclosure_fields", where=where)
    return result
