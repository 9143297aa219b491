"""A small sealed package made from docs/formats/ alone, to test the verifier without the sealer.

It signs with `cryptography`, and writes each document by hand where the kernel has no writer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
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
    tree_root,
)
from geoevidence.trust.archive import archive_bytes, sort_key
from geoevidence.trust.events import PAYLOAD_TYPE
from geoevidence.trust.manifest import BAGIT, TAG_FILES, ItemLine, Statement, item_leaf, items_bytes, manifest_bytes

CASE, WORKSPACE = "C-0123456789", "W-abcdef0123"
ORIGIN = f"geoevidence/{WORKSPACE}/{CASE}"
SALT = "5a" * 32


class Key:
    """A signing key from a fixed seed."""

    def __init__(self, seed: int) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = PublicKey("ed25519", self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def envelope(self, payload_type: str, payload: bytes) -> Envelope:
        signed = Envelope(payload_type, payload, (EnvelopeSignature(self.public.key_id, b""),)).signed_bytes
        return Envelope(payload_type, payload, (EnvelopeSignature(self.public.key_id, self.sign(signed)),))

    def checkpoint(self, size: int, root: bytes, *, origin: str = ORIGIN) -> bytes:
        text = LogCheckpoint(origin, size, root).to_text()
        name = note_key_name(self.public)
        signature = NoteSignature(name, note_key_hash(name, self.public.raw), self.sign(text.encode()))
        return SignedNote(text, (signature,)).to_bytes()


def record(item: str, path: str, data: bytes) -> dict[str, Any]:
    digests = digest_bytes(data)
    return {"item": item, "path": path, "size": len(data), "sha256": digests.sha256, "sm3": digests.sm3}


@dataclass
class Log:
    """A log that grows event by event, with the files of its items."""

    keys: list[Key] = field(default_factory=lambda: [Key(1)])
    leaves: list[bytes] = field(default_factory=list)
    disclosures: list[bytes] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def hashes(self) -> list[bytes]:
        return [leaf_hash(leaf) for leaf in self.leaves]

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
        raw = {
            "schema": "geoevidence.event.v1",
            "event_id": event_id,
            "type": kind,
            "case": CASE,
            "actor": {"id": commitment("张三", SALT), "role": "operator", "auth_level": "local", "key_id": key.public.key_id},
            "device": {"serial": commitment("SN-1", SALT), "software": "geoevidence 0.1.0"},
            "time_claimed": time or f"2026-11-23T08:{len(self.leaves):02d}:00Z",
            "clock": {"source": "system", "offset_ms": None},
            "seq": seq,
            "prev_event": previous or None,
            "anchor": {"tree_size": len(hashes), "root": tree_root(hashes).hex(), "attested_time": None} if hashes else None,
            "inputs": inputs or [],
            "outputs": [
                record(f"{event_id}-{n}", path.format(e=event_id), data) for n, (path, data) in enumerate(outputs.items(), 1)
            ],
            "process": None,
            "note": None,
        }
        raw.update(changes)
        return raw

    def leaf(self, raw: dict[str, Any], *, key: Key | None = None) -> bytes:
        return (key or self.keys[0]).envelope(PAYLOAD_TYPE, event_bytes(raw)).to_bytes()

    def append(self, kind: str, outputs: dict[str, bytes], **options: Any) -> dict[str, Any]:
        raw = self.event(kind, outputs, **options)
        leaf = self.leaf(raw, key=options.get("key"))
        self.leaves.append(leaf)
        key = options.get("key") or self.keys[0]
        self.heads[key.public.key_id] = (raw["seq"], f"sha256:{leaf_hash(leaf).hex()}")
        for each, data in zip(raw["outputs"], outputs.values(), strict=True):
            self.files[f"data/{each['path']}"] = data
        opened = {"actor.id": {"salt": SALT, "value": "张三"}, "device.serial": {"salt": SALT, "value": "SN-1"}}
        self.disclosures.append(dumps({"disclosures": opened, "event": raw["event_id"]}))
        return raw


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
    findings = dumps({"schema": "geoevidence.findings.v1", "findings": [], "folder": "x", "result": "y"})
    found = log.append("found", {"records/{e}/findings.json": findings}, inputs=derived["outputs"][:1])
    log.append("reported", {"report/{e}/report-zh.pdf": b"%PDF-1.7"}, inputs=found["outputs"])
    return log


def package_files(
    log: Log,
    *,
    packaged: dict[str, Any] | None = None,
    changes: dict[str, bytes] | None = None,
    stated: dict[str, Any] | None = None,
    payload_type: str = "application/vnd.in-toto+json",
) -> dict[str, bytes]:
    """All files of a sealed package of `log`: path -> bytes.

    packaged: fields of the `packaged` event to replace. changes: documents to replace before sealing.
    stated: fields of the statement to replace, also in `subjects`.
    """
    key = log.keys[0]
    hashes = log.hashes
    found = [data for path, data in log.files.items() if path.endswith("/findings.json")]
    files = {
        **log.files,
        "data/findings.json": b'{"results":[' + b",".join(found) + b'],"schema":"geoevidence.package-findings.v1"}',
        "data/ro-crate-metadata.json": b"{}",
        "data/log/leaves.jsonl": b"".join(leaf + b"\n" for leaf in log.leaves),
        "data/log/disclosures.jsonl": b"".join(line + b"\n" for line in log.disclosures),
        "data/log/checkpoint": key.checkpoint(len(hashes), tree_root(hashes)),
        "data/log/keys.json": dumps(
            sorted(
                (
                    {
                        "algorithm": each.public.algorithm,
                        "key_id": each.public.key_id,
                        "label": "demonstration",
                        "name": note_key_name(each.public),
                        "public_key": __import__("base64").b64encode(each.public.raw).decode(),
                    }
                    for each in log.keys
                ),
                key=lambda each: each["key_id"],
            )
        ),
    }
    files.update({path: data for path, data in (changes or {}).items() if path in files})
    files = {path: files[path] for path in sorted(files, key=sort_key)}
    item_ids = {
        f"data/{item['path']}": item["item"]
        for leaf in log.leaves
        for item in json.loads(__import__("base64").b64decode(json.loads(leaf)["payload"]))["outputs"]
    }
    lines = []
    for path, data in files.items():
        digests, salt = digest_bytes(data), hashlib.sha256(path.encode()).hexdigest()
        leaf = item_leaf(path, len(data), digests.sha256, digests.sm3, salt)
        lines.append(ItemLine(leaf, item_ids.get(path), path, salt, digests.sha256, len(data), digests.sm3))
    root = tree_root(bytes.fromhex(line.leaf) for line in lines).hex()
    time = "2026-11-23T09:00:00Z"
    statement = Statement({}, CASE, WORKSPACE, len(lines), root, LogCheckpoint(ORIGIN, len(hashes), tree_root(hashes)).to_text(), "geoevidence 0.1.0", time, True)  # fmt: skip
    tags = {
        "manifest-sha256.txt": manifest_bytes({path: digest_bytes(data).sha256 for path, data in files.items()}),
        "manifest-sm3.txt": manifest_bytes({path: digest_bytes(data).sm3 for path, data in files.items()}),
        "bagit.txt": BAGIT,
        "bag-info.txt": statement.bag_info(sum(map(len, files.values())), len(files)),
        "items.json": items_bytes(lines),
        "VERIFY.txt": "核验方法 / how to verify\n".encode(),
        "verify.pyz": build_pyz(),
    }
    tags.update({path: data for path, data in (changes or {}).items() if path in tags})
    for algorithm in ("sha256", "sm3"):
        tags[f"tagmanifest-{algorithm}.txt"] = manifest_bytes({n: getattr(digest_bytes(tags[n]), algorithm) for n in TAG_FILES})
    tags.update({path: data for path, data in (changes or {}).items() if path in tags})
    subjects = {name: tuple(digest_bytes(tags[name]))[:2] for name in tags if "manifest-" in name}
    statement = Statement(**{**vars(statement), "subjects": subjects, **(stated or {})})
    sealed = key.envelope(payload_type, statement.to_bytes()).to_bytes()
    raw = {**log.event("packaged", {"seal/{e}/statement.dsse": sealed}, time=time), **(packaged or {})}
    leaf = log.leaf(raw)
    after = [*hashes, leaf_hash(leaf)]
    proof = TlogProof(len(hashes), inclusion_proof(after, len(hashes)), key.checkpoint(len(after), tree_root(after)), leaf)
    return {**files, **tags, "seal/statement.dsse": sealed, "seal/proof.tlog": proof.to_bytes()}


def write_folder(files: dict[str, bytes], folder: Path) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_zip(files: dict[str, bytes], path: Path) -> Path:
    path.write_bytes(archive_bytes((f"{path.stem}/{name}", data) for name, data in files.items()))
    return path
