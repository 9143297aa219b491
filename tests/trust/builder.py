"""Small sealed packages made from docs/formats/ alone, to test verifiers without the sealer.

Packages of version 1 and 2, redacted copies, supplements, time stamps, cosignatures, device logs, key changes and
records of recomputation. Signs with `cryptography`, and writes each document by hand where the kernel has no writer.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from geoevidence.trust import (
    Envelope,
    EnvelopeSignature,
    LogCheckpoint,
    NoteSignature,
    PublicKey,
    SignedNote,
    TlogProof,
    build_pyz,
    commitment,
    digest_bytes,
    dumps,
    event_bytes,
    inclusion_proof,
    leaf_hash,
    note_key_hash,
    note_key_name,
    parse_checkpoint,
    parse_leaf,
    parse_proof,
    tree_root,
)
from geoevidence.trust.archive import archive_bytes, sort_key
from geoevidence.trust.events import PAYLOAD_TYPE
from geoevidence.trust.manifest import (
    BAGIT,
    PACKAGE_V1,
    PACKAGE_V2,
    STATEMENT_PAYLOAD_TYPE,
    SUPPLEMENT_TAG_FILES,
    TAG_FILES,
    TAG_FILES_V1,
    Closing,
    ItemLine,
    KeyChange,
    NamedKey,
    RecomputedFile,
    RecomputedQuantity,
    RecomputedResult,
    RecomputeRecord,
    Redaction,
    Statement,
    SupplementDocument,
    SupplementStatement,
    attestation_payload,
    item_leaf,
    items_bytes,
    keys_bytes,
    manifest_bytes,
    parse_closing,
)
from geoevidence.trust.notes import Cosignature, cosignature_key_hash
from geoevidence.trust.signatures import parse_envelope
from tests.trust import authority

CASE, WORKSPACE = "C-0123456789", "W-abcdef0123"
ORIGIN = f"geoevidence/{WORKSPACE}/{CASE}"
DEVICE_WORKSPACE = "W-00000000d1"
SALT = "5a" * 32
SOFTWARE = "geoevidence 0.1.0"
SEALED = "2026-11-23T09:00:00Z"
PYZ = b"PK"
"""Stands for verify.pyz where its content does not matter: it is checked by its digests alone."""


class Key:
    """A signing key from a fixed seed. certificates: DER, to stand beside it in keys.json."""

    def __init__(self, seed: int, *, certificates: tuple[bytes, ...] = ()) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = PublicKey("ed25519", self._private.public_key().public_bytes_raw())
        self.certificates = certificates

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    @property
    def named(self) -> NamedKey:
        return NamedKey(self.public, "demonstration", self.certificates)

    def envelope(self, payload_type: str, payload: bytes) -> Envelope:
        return envelope(payload, self, payload_type=payload_type)

    def checkpoint(self, size: int, root: bytes, *, origin: str = ORIGIN) -> bytes:
        text = LogCheckpoint(origin, size, root).to_text()
        name = note_key_name(self.public)
        signature = NoteSignature(name, note_key_hash(name, self.public.raw), self.sign(text.encode()))
        return SignedNote(text, (signature,)).to_bytes()

    def cosign(self, checkpoint: bytes, time: str) -> bytes:
        """A `.cosig` file over a signed checkpoint."""
        text = parse_checkpoint(checkpoint)[0].to_text()
        name = note_key_name(self.public)
        unsigned = Cosignature(name, cosignature_key_hash(name, self.public.raw), seconds(time), bytes(64))
        return replace(unsigned, signature=self.sign(unsigned.message(text))).to_bytes(text)


def seconds(time: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp())


def envelope(payload: bytes, *keys: Key, payload_type: str = STATEMENT_PAYLOAD_TYPE) -> Envelope:
    """A DSSE envelope signed by all of `keys`."""
    ids = sorted(keys, key=lambda key: key.public.key_id)
    signed = Envelope(payload_type, payload, (EnvelopeSignature("0", b""),)).signed_bytes
    return Envelope(payload_type, payload, tuple(EnvelopeSignature(key.public.key_id, key.sign(signed)) for key in ids))


@dataclass(frozen=True)
class Stamper:
    """A time-stamp authority: root, and the certificate that stamps."""

    root: authority.Holder
    tsa: authority.Holder

    def stamp(self, message: bytes, time: str, *, accuracy: bytes = b"", hash_name: str = "sha256") -> bytes:
        """A bare token over `message`. accuracy: encoded, to stand after genTime."""
        digits = time.replace("-", "").replace(":", "").replace("T", "").encode()
        info = authority.info(message, gen_time=digits, after_time=accuracy, hash_name=hash_name)
        return authority.Draft(self.tsa, info).token()


@cache
def stamper(number: int = 1) -> Stamper:
    root = authority.authority(f"时间根 {number}", number=number)
    tsa = authority.certify(f"时间戳 {number}", by=root, number=number + 50, extensions=(authority.STAMPING,), serial=number)
    return Stamper(root, tsa)


def record(item: str, path: str, data: bytes) -> dict[str, Any]:
    digests = digest_bytes(data)
    return {"item": item, "path": path, "size": len(data), "sha256": digests.sha256, "sm3": digests.sm3}


@dataclass
class Log:
    """A log that grows event by event, with the files of its items. attested: (index of the event, time) of evidence in it."""

    keys: list[Key] = field(default_factory=lambda: [Key(1)])
    leaves: list[bytes] = field(default_factory=list)
    disclosures: list[bytes] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)
    attested: list[tuple[int, str]] = field(default_factory=list)
    workspace: str = WORKSPACE

    @property
    def hashes(self) -> list[bytes]:
        return [leaf_hash(leaf) for leaf in self.leaves]

    @property
    def origin(self) -> str:
        return f"geoevidence/{self.workspace}/{CASE}"

    def event(
        self,
        kind: str,
        outputs: dict[str, bytes],
        *,
        inputs: list[dict[str, Any]] | None = None,
        key: Key | None = None,
        time: str | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """The next event; `outputs` are {path after the event's folder, with {e} for the event: bytes}."""
        key = key or self.keys[0]
        seq, previous = self.heads.get(key.public.key_id, (0, ""))
        seq += 1
        event_id = f"E-{key.public.chain}-{seq}"
        hashes = self.hashes
        attested = max((time for index, time in self.attested if index < len(hashes)), default=None)
        raw = {
            "schema": "geoevidence.event.v1",
            "event_id": event_id,
            "type": kind,
            "case": CASE,
            "actor": {"id": commitment("张三", SALT), "role": "operator", "auth_level": "local", "key_id": key.public.key_id},
            "device": {"serial": commitment("SN-1", SALT), "software": SOFTWARE},
            "time_claimed": time or f"2026-11-23T08:{len(self.leaves):02d}:00Z",
            "clock": {"source": "system", "offset_ms": None},
            "seq": seq,
            "prev_event": previous or None,
            "anchor": {"tree_size": len(hashes), "root": tree_root(hashes).hex(), "attested_time": attested} if hashes else None,
            "inputs": inputs or [],
            "outputs": [
                record(f"{event_id}-{n}", path.format(e=event_id), data) for n, (path, data) in enumerate(outputs.items(), 1)
            ],
            "process": None,
            "note": None,
        }
        raw.update(changes)
        return raw

    def leaf(self, raw: dict[str, Any], *, key: Key | None = None, also: tuple[Key, ...] = ()) -> bytes:
        return envelope(event_bytes(raw), key or self.keys[0], *also, payload_type=PAYLOAD_TYPE).to_bytes()

    def append(self, kind: str, outputs: dict[str, bytes], *, also: tuple[Key, ...] = (), **options: Any) -> dict[str, Any]:
        raw = self.event(kind, outputs, **options)
        key = options.get("key") or self.keys[0]
        leaf = self.leaf(raw, key=key, also=also)
        self.leaves.append(leaf)
        self.heads[key.public.key_id] = (raw["seq"], f"sha256:{leaf_hash(leaf).hex()}")
        for each, data in zip(raw["outputs"], outputs.values(), strict=True):
            self.files[f"data/{each['path']}"] = data
        opened = {"actor.id": {"salt": SALT, "value": "张三"}, "device.serial": {"salt": SALT, "value": "SN-1"}}
        self.disclosures.append(dumps({"disclosures": opened, "event": raw["event_id"]}))
        return raw

    # ---- events of version 2 ----

    def anchored(
        self,
        *,
        stamps: Iterable[tuple[Stamper, str]] = (),
        witnesses: Iterable[tuple[Key, str]] = (),
        size: int | None = None,
        checkpoint: bytes | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """An event that takes evidence by others over a checkpoint of this log into it."""
        size = len(self.leaves) if size is None else size
        note = checkpoint or self.keys[0].checkpoint(size, tree_root(self.hashes[:size]), origin=self.origin)
        outputs = {"records/{e}/checkpoint.note": note}
        times = []
        for n, (authority_, time) in enumerate(stamps, 1):
            outputs[f"records/{{e}}/time-{n}.tsr"] = authority_.stamp(note, time)
            times.append(time)
        for n, (witness, time) in enumerate(witnesses, 1):
            outputs[f"records/{{e}}/witness-{n}.cosig"] = witness.cosign(note, time)
            times.append(time)
        raw = self.append("anchored", outputs, **options)
        self.attested.extend((len(self.leaves) - 1, time) for time in times)
        return raw

    def rotated(self, new: Key, **changes: Any) -> dict[str, Any]:
        """The first key ends, `new` follows; later events are to be by `new`, which becomes the first."""
        old = self.keys[0]
        change = KeyChange("rotated", old.public.key_id, new.named, "superseded", len(self.leaves) + 1)
        document = replace(change, **changes).to_bytes()
        raw = self.append("key_rotated", {"records/{e}/key-change.json": document}, key=old, also=(new,))
        self.keys.insert(0, new)
        return raw

    def revoked(self, ended: Key, *, effective: int, reason: str = "compromised", **options: Any) -> dict[str, Any]:
        document = KeyChange("revoked", ended.public.key_id, None, reason, effective).to_bytes()
        return self.append("key_rotated", {"records/{e}/key-change.json": document}, **options)

    def synced(self, device: Log, *, changes: Mapping[str, bytes] | None = None, **parameters: Any) -> dict[str, Any]:
        """The log of a field device and its originals are taken in. changes: documents of the device to replace, by name."""
        hashes = device.hashes
        documents = {
            "device-leaves.jsonl": b"".join(leaf + b"\n" for leaf in device.leaves),
            "device-disclosures.jsonl": b"".join(line + b"\n" for line in device.disclosures),
            "device-checkpoint": device.keys[0].checkpoint(len(hashes), tree_root(hashes), origin=device.origin),
            "device-keys.json": keys_bytes(key.named for key in device.keys),
            **(changes or {}),
        }
        outputs = {f"records/{{e}}/{name}": data for name, data in documents.items() if "/" not in name}
        originals = {p[15:]: data for p, data in device.files.items() if p.startswith("data/originals/")}
        originals.update({name: data for name, data in documents.items() if "/" in name})
        outputs.update({f"originals/{{e}}/{name}": data for name, data in originals.items()})
        stated = {
            "origin": device.origin,
            "tree_size": len(hashes),
            "root": tree_root(hashes).hex(),
            "workspace": device.workspace,
            "files": len(originals),
            **parameters,
        }
        process = {
            "tool": "custody.sync", "version": "0.1.0", "code_digest": None, "environment_digest": None, "parameters": stated,
            "seed": None,
        }  # fmt: skip
        return self.append("received", outputs, process=process)


def sample_log(*, many: int = 0) -> Log:
    """Case opened, files copied, a result derived, a finding stated, a report: five events, `many` more small originals."""
    log = Log()
    log.append("commissioned", {"records/{e}/case.json": dumps({"schema": "geoevidence.case.v1", "case": CASE})})
    originals = {"originals/{e}/DCIM/照片 1.JPG": b"\xff\xd8photo one", "originals/{e}/DCIM/100%.txt": b""}
    originals.update({f"originals/{{e}}/many/{n:05d}.bin": n.to_bytes(4, "big") for n in range(many)})
    copied = log.append("copied", originals)
    derived = log.append(
        "derived", {"derived/{e}/result.json": b"{}", "derived/{e}/dsm.tif": b"II*\0" * 9}, inputs=copied["outputs"][:1]
    )
    folder, result = derived["outputs"][0]["path"].rpartition("/")[0] + "/", derived["outputs"][0]["item"]
    findings = dumps({"schema": "geoevidence.findings.v1", "findings": [], "folder": folder, "result": result})
    found = log.append("found", {"records/{e}/findings.json": findings}, inputs=derived["outputs"][:1])
    log.append("reported", {"report/{e}/report-zh.pdf": b"%PDF-1.7"}, inputs=found["outputs"])
    return log


def device_log(seed: int = 21) -> Log:
    """The log of a field device: case opened there, photos copied."""
    log = Log(keys=[Key(seed)], workspace=DEVICE_WORKSPACE)
    log.append("commissioned", {"records/{e}/case.json": dumps({"schema": "geoevidence.case.v1", "case": CASE})})
    log.append("copied", {"originals/{e}/IMG_1.JPG": b"\xff\xd8river", "originals/{e}/IMG_2.JPG": b"\xff\xd8bank"})
    return log


# ---- packages ------------------------------------------------------------------------------------------

Files = dict[str, bytes]
Seal = Callable[[Files, Statement], Files]
"""Makes further files of seal/ (time stamps, cosignatures, a record) from the files sealed so far."""


def package_files(
    log: Log,
    *,
    version: int = 2,
    packaged: dict[str, Any] | None = None,
    changes: Files | None = None,
    more: Files | None = None,
    stated: dict[str, Any] | None = None,
    payload_type: str = STATEMENT_PAYLOAD_TYPE,
    signers: tuple[Key, ...] = (),
    others: tuple[Key, ...] = (),
    seal: Seal | None = None,
    closing: dict[str, Any] | None = None,
    closers: tuple[Key, ...] = (),
) -> Files:
    """All files of a sealed package of `log`: path -> bytes.

    packaged: fields of the `packaged` event to replace. changes: documents to replace before sealing. more: files under
    data/ to add before sealing. stated: fields of the statement to replace, also in `subjects`. signers: of the statement
    instead of the log's first key. others: keys for keys.json that signed nothing in the log. seal: makes further files of
    seal/. closing: fields of the closing to replace. closers: sign the closing instead of the signers of the statement.
    """
    key, hashes = log.keys[0], log.hashes
    signers = signers or (key,)
    found = [data for path, data in log.files.items() if path.endswith("/findings.json")]
    files = {
        **log.files,
        "data/findings.json": b'{"results":[' + b",".join(found) + b'],"schema":"geoevidence.package-findings.v1"}',
        "data/ro-crate-metadata.json": b"{}",
        "data/log/leaves.jsonl": b"".join(leaf + b"\n" for leaf in log.leaves),
        "data/log/disclosures.jsonl": b"".join(line + b"\n" for line in log.disclosures),
        "data/log/checkpoint": key.checkpoint(len(hashes), tree_root(hashes)),
        "data/log/keys.json": keys_bytes((each.named for each in (*log.keys, *others)), version=version),
    }
    if version == 2:
        files["data/before-recording.json"] = b'{"schema":"geoevidence.before_recording.v1"}'
        for line in log.leaves:
            raw = json.loads(base64.b64decode(json.loads(line)["payload"]))
            if raw["type"] == "derived":
                payload = attestation_payload(parse_leaf(line))
                files[f"data/attestations/{raw['event_id']}.dsse"] = envelope(payload, *signers).to_bytes()
    files.update({path: data for path, data in (changes or {}).items() if path in files})
    files.update(more or {})
    files = {path: files[path] for path in sorted(files, key=sort_key)}
    item_ids = {
        f"data/{item['path']}": item["item"]
        for leaf in log.leaves
        for item in json.loads(base64.b64decode(json.loads(leaf)["payload"]))["outputs"]
    }
    lines = [item_line(path, data, item_ids.get(path)) for path, data in files.items()]
    root = tree_root(bytes.fromhex(line.leaf) for line in lines).hex()
    before = LogCheckpoint(ORIGIN, len(hashes), tree_root(hashes)).to_text()
    kind = PACKAGE_V1 if version == 1 else PACKAGE_V2
    statement = Statement({}, CASE, WORKSPACE, len(lines), root, before, SOFTWARE, SEALED, True, kind)
    tags = tag_files(
        statement.bag_info(sum(map(len, files.values())), len(files)),
        files,
        TAG_FILES_V1 if version == 1 else TAG_FILES,
        {"items.json": items_bytes(lines)},
        changes or {},
    )
    subjects = {name: tuple(digest_bytes(tags[name]))[:2] for name in tags if "manifest-" in name}
    statement = replace(statement, **{"subjects": subjects, **(stated or {})})
    sealed = envelope(statement.to_bytes(), *signers, payload_type=payload_type).to_bytes()
    raw = {**log.event("packaged", {"seal/{e}/statement.dsse": sealed}, time=SEALED), **(packaged or {})}
    leaf = log.leaf(raw)
    after = [*hashes, leaf_hash(leaf)]
    proof = TlogProof(len(hashes), inclusion_proof(after, len(hashes)), key.checkpoint(len(after), tree_root(after)), leaf)
    files = {**files, **tags, "seal/statement.dsse": sealed, "seal/proof.tlog": proof.to_bytes()}
    files.update({} if seal is None else seal(files, statement))
    if version == 2:
        close(files, CASE, WORKSPACE, root, closers or signers, closing or {})
    files.update({path: data for path, data in (changes or {}).items() if path == "seal/closing.dsse"})
    return files


def item_line(path: str, data: bytes, item: str | None) -> ItemLine:
    digests, salt = digest_bytes(data), hashlib.sha256(path.encode()).hexdigest()
    leaf = item_leaf(path, len(data), digests.sha256, digests.sm3, salt)
    return ItemLine(leaf, item, path, salt, digests.sha256, len(data), digests.sm3)


def tag_files(bag_info: bytes, payload: Files, names: tuple[str, ...], documents: Files, changes: Files) -> Files:
    """The tag files and tag manifests of a bag. changes: documents to replace, before what lists them is made."""
    tags = {
        "manifest-sha256.txt": manifest_bytes({path: digest_bytes(data).sha256 for path, data in payload.items()}),
        "manifest-sm3.txt": manifest_bytes({path: digest_bytes(data).sm3 for path, data in payload.items()}),
        "bagit.txt": BAGIT,
        "bag-info.txt": bag_info,
        "VERIFY.txt": "核验方法 / how to verify\n".encode(),
        "verify.html": b"<!doctype html>",
        "verify.pyz": changes.get("verify.pyz") or build_pyz(),
        **documents,
    }
    tags = {name: tags[name] for name in names}
    tags.update({path: data for path, data in changes.items() if path in tags})
    for algorithm in ("sha256", "sm3"):
        listed = {name: getattr(digest_bytes(tags[name]), algorithm) for name in names}
        tags[f"tagmanifest-{algorithm}.txt"] = manifest_bytes(listed)
    tags.update({path: data for path, data in changes.items() if path in tags})
    return tags


def close(
    files: Files, case: str, workspace: str, root: str, keys: tuple[Key, ...], changes: dict[str, Any] | None = None
) -> None:
    """Write `seal/closing.dsse` over the files of seal/ that are there."""
    names = [path for path in files if path.startswith("seal/") and path not in ("seal/closing.dsse", "seal/redaction.dsse")]
    subjects = {path: tuple(digest_bytes(files[path]))[:2] for path in names}
    closing = replace(Closing(subjects, case, workspace, root), **(changes or {}))  # type: ignore[arg-type]
    files["seal/closing.dsse"] = envelope(closing.to_bytes(), *keys).to_bytes()


def evidence(
    *,
    stamps: Iterable[tuple[Stamper, str]] = (),
    witnesses: Iterable[tuple[Key, str]] = (),
    recompute: Callable[[Files, Statement], bytes] | None = None,
    raw: Files | None = None,
) -> Seal:
    """Makes time stamps over seal/proof.tlog, cosignatures of its checkpoint, and a record; raw: files as they are."""

    def make(files: Files, statement: Statement) -> Files:
        proof = files["seal/proof.tlog"]
        checkpoint = parse_proof(proof).checkpoint
        made = {f"seal/time-{n}.tsr": by.stamp(proof, time) for n, (by, time) in enumerate(stamps, 1)}
        made.update({f"seal/witness-{n}.cosig": by.cosign(checkpoint, time) for n, (by, time) in enumerate(witnesses, 1)})
        if recompute is not None:
            made["seal/recompute.dsse"] = recompute(files, statement)
        return {**made, **(raw or {})}

    return make


def recompute_record(
    log: Log, statement: Statement, *keys: Key, status: str = "identical", changes: dict[str, Any] | None = None
) -> bytes:
    """A signed record that every `derived` event of the log was run again."""
    subjects, results = [], []
    for leaf in log.leaves:
        event = parse_leaf(leaf).event
        if event.type == "derived":
            subjects.append((event.outputs[0].path, event.outputs[0].sha256, event.outputs[0].sm3))
            found = None if status == "not_run" else "12.5"
            rows = (RecomputedQuantity("area", "m2", "12.5", found, "0.1", status),)
            files = (RecomputedFile("dsm.tif", "identical", ""),)
            results.append(RecomputedResult(event.event_id, "drone.survey", status, None, rows, files))
    made = RecomputeRecord(
        tuple(subjects), tuple(results), statement.case, statement.workspace, statement.package_root, "full", SOFTWARE, None, None,
        "x86_64", "2026-11-23T08:50:00Z",
    )  # fmt: skip
    return envelope(replace(made, **(changes or {})).to_bytes(), *keys).to_bytes()


# ---- redacted copies ------------------------------------------------------------------------------------


def redact(
    files: Files,
    log: Log,
    *,
    withhold: Iterable[str] = (),
    events: Iterable[str] = (),
    key: Key | None = None,
    changes: Files | None = None,
    stated: dict[str, Any] | None = None,
    version: int = 2,
) -> Files:
    """A redacted copy: `withhold` are paths under data/, `events` event ids whose leaves and disclosures go too."""
    gone, hidden = set(withhold), set(events)
    key = key or Key(31)
    items = [ItemLine(**line) for line in json.loads(files["items.json"])]
    kept = {path: data for path, data in files.items() if path.startswith("data/") and path not in gone}
    for event in hidden:
        kept.pop(f"data/attestations/{event}.dsse", None)
    leaves, found = [], []
    for line in log.leaves:
        leaf = parse_leaf(line)
        shown = leaf.event.event_id not in hidden
        leaves.append(line if shown else dumps({"withheld": leaf.hash.hex()}))
        if shown and leaf.event.type == "found":
            path = f"data/{leaf.event.outputs[0].path}"
            found += [kept[path]] if path in kept else []
    disclosures = [line for line in log.disclosures if json.loads(line)["event"] not in hidden]
    kept["data/log/leaves.jsonl"] = b"".join(line + b"\n" for line in leaves)
    kept["data/log/disclosures.jsonl"] = b"".join(line + b"\n" for line in disclosures)
    kept["data/findings.json"] = b'{"results":[' + b",".join(found) + b'],"schema":"geoevidence.package-findings.v1"}'
    keys = [row for row in (*log.keys, key)]
    known = {each["key_id"] for each in json.loads(files["data/log/keys.json"])}
    more = [each.named for each in keys if each.public.key_id in known or each is key]
    from geoevidence.trust.manifest import parse_keys

    rows = {each.key.key_id: each for each in (*parse_keys(files["data/log/keys.json"]), *more)}
    kept["data/log/keys.json"] = keys_bytes(rows.values(), version=version)
    kept.update({path: data for path, data in (changes or {}).items() if path.startswith("data/")})
    kept = {path: kept[path] for path in sorted(kept, key=sort_key)}
    same = {line.path for line in items if line.path in kept and digest_bytes(kept[line.path]).sha256 == line.sha256}
    shown_items = [line if line.path in same else ItemLine(line.leaf) for line in items]
    envelope_ = parse_envelope(files["seal/statement.dsse"])
    sealed = json.loads(envelope_.payload)["predicate"]
    withheld_files = sum(1 for line in items if line.path not in kept)
    redaction = Redaction(
        {}, CASE, WORKSPACE, sealed["package_root"], withheld_files, len(hidden),
        sum(len(json.loads(line)["disclosures"]) for line in log.disclosures if json.loads(line)["event"] in hidden),
        "第三人隐私", SOFTWARE, "2026-11-24T10:00:00Z", True,
    )  # fmt: skip
    tags = tag_files(
        redaction.bag_info(sum(map(len, kept.values())), len(kept)),
        kept,
        TAG_FILES_V1 if version == 1 else TAG_FILES,
        {"items.json": items_bytes(shown_items), "verify.pyz": files["verify.pyz"]},
        {"verify.pyz": files["verify.pyz"], **(changes or {})},
    )
    seal = {path: data for path, data in files.items() if path.startswith("seal/")}
    subjects = {
        name: tuple(digest_bytes(data))[:2] for name, data in {**tags, **seal}.items() if "manifest-" in name or name in seal
    }
    redaction = replace(redaction, **{"subjects": subjects, **(stated or {})})
    return {**kept, **tags, **seal, "seal/redaction.dsse": envelope(redaction.to_bytes(), key).to_bytes()}


# ---- supplements ------------------------------------------------------------------------------------------


def supplement_files(
    package: Files,
    *,
    kind: str = "note",
    key: Key | None = None,
    files: Files | None = None,
    stamps: Iterable[tuple[Stamper, str]] = (),
    document: dict[str, Any] | None = None,
    stated: dict[str, Any] | None = None,
    changes: Files | None = None,
    closing: dict[str, Any] | None = None,
) -> Files:
    """All files of a supplement to a package. files: name under data/files/ -> bytes. document, stated, closing: fields to replace."""
    key = key or Key(41)
    sealed = json.loads(parse_envelope(package["seal/statement.dsse"]).payload)["predicate"]
    digests = digest_bytes(package["seal/statement.dsse"])
    said = SupplementDocument(
        kind, sealed["case"], sealed["workspace"], sealed["package_root"], digests.sha256, digests.sm3, None, "某鉴定人", "意见"
    )  # fmt: skip
    payload = {
        "data/supplement.json": replace(said, **(document or {})).to_bytes(),
        "data/keys.json": keys_bytes([key.named]),
        **{f"data/files/{name}": data for name, data in (files or {}).items()},
    }
    payload.update({path: data for path, data in (changes or {}).items() if path in payload})
    payload = {path: payload[path] for path in sorted(payload, key=sort_key)}
    statement = SupplementStatement(
        {}, sealed["case"], sealed["workspace"], sealed["package_root"],
        digest_bytes(payload["data/supplement.json"]).sha256, SOFTWARE, "2026-11-25T08:00:00Z", True,
    )  # fmt: skip
    bag_info = statement.bag_info(sum(map(len, payload.values())), len(payload))
    tags = tag_files(bag_info, payload, SUPPLEMENT_TAG_FILES, {}, {"verify.pyz": PYZ, **(changes or {})})
    subjects = {name: tuple(digest_bytes(tags[name]))[:2] for name in tags if "manifest-" in name}
    statement = replace(statement, **{"subjects": subjects, **(stated or {})})
    made = {**payload, **tags, "seal/statement.dsse": envelope(statement.to_bytes(), key).to_bytes()}
    made.update({f"seal/time-{n}.tsr": by.stamp(made["seal/statement.dsse"], time) for n, (by, time) in enumerate(stamps, 1)})
    close(made, sealed["case"], sealed["workspace"], sealed["package_root"], (key,), closing)
    return made


def closing_of(files: Files) -> Closing:
    return parse_closing(parse_envelope(files["seal/closing.dsse"]).payload)


def write_folder(files: Files, folder: Path) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_zip(files: Files, path: Path) -> Path:
    path.write_bytes(archive_bytes((f"{path.stem}/{name}", data) for name, data in files.items()))
    return path
