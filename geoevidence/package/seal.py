"""Seals a case into a package that verifies without us (docs/formats/package.md).

All documents are made first, in memory, from the log; then the files are copied out of the store, in the order of
the package, each compared with its digest in the log while it is copied. Only then is the `packaged` event appended,
the seal written, the whole verified by the kernel that a stranger runs, and the package given its name. Before that
there is nothing at the target; what fails leaves nothing there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from geoevidence import __version__
from geoevidence.custody import Case, CustodyEvent
from geoevidence.custody.files import storage_error, sync_folder
from geoevidence.errors import DigestMismatchError, PackageError
from geoevidence.package.crate import crate_bytes
from geoevidence.package.draft import PackageDraft, draft
from geoevidence.package.instructions import verify_text
from geoevidence.trust.archive import Entry, end_records, sort_key
from geoevidence.trust.bundle import build_pyz
from geoevidence.trust.canonical import base64_text, dumps
from geoevidence.trust.checks import verify_package
from geoevidence.trust.digests import BLOCK, FileDigests, digest_bytes, short_code
from geoevidence.trust.manifest import (
    BAGIT,
    CHECKPOINT,
    CRATE,
    DISCLOSURES,
    FINDINGS,
    KEYS,
    LEAVES,
    MANIFESTS,
    PAYLOAD_MANIFESTS,
    SEAL_FILES,
    STATEMENT_PAYLOAD_TYPE,
    TAG_FILES,
    ItemLine,
    Statement,
    item_leaf,
    items_bytes,
    manifest_bytes,
)
from geoevidence.trust.merkle import inclusion_proof, leaf_hash, tree_root
from geoevidence.trust.notes import TlogProof, note_key_name, parse_checkpoint
from geoevidence.trust.signatures import Envelope, EnvelopeSignature, pae
from geoevidence.types import Progress, no_progress, utc_text

SOFTWARE = f"geoevidence {__version__}"
PACKAGE_FINDINGS_SCHEMA = b"geoevidence.package-findings.v1"
_PROOF, _STATEMENT = SEAL_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPackage:
    """A package that was sealed and verified.

    statement_sha256: hex, of `seal/statement.dsse`. package_root: hex, of the package tree.
    short_code: of the log's head after sealing, as the verifier prints it.
    items: files under data/. size: bytes of the folder's files or of the archive.
    event: the `packaged` event.
    """

    path: Path
    statement_sha256: str
    package_root: str
    short_code: str
    items: int
    size: int
    event: CustodyEvent


def seal_folder(case: Case, out: Path, *, progress: Progress = no_progress) -> SealedPackage:
    """Seal a case into a new folder.

    Raises: PackageError when there is something at `out`, nothing to seal, or the result does not verify;
        DigestMismatchError when a file of the store is not what the log says; CustodyError when the log moved meanwhile
        or nothing can be written.
    """
    return _seal(case, Path(out), _FolderSink, progress)


def seal_zip(case: Case, out: Path, *, progress: Progress = no_progress) -> SealedPackage:
    """Seal a case into a new zip archive. Raises as `seal_folder`."""
    return _seal(case, Path(out), _ZipSink, progress)


def _seal(case: Case, out: Path, make_sink: Callable[[Path, str], _Sink], progress: Progress) -> SealedPackage:
    out = out.absolute()
    if os.path.lexists(out):
        raise PackageError("package.target_exists", path=out)
    progress("package.stage.prepare", 0.0)
    plan = _Plan(draft(case), case)
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    with _storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _storing(out):
            sink = make_sink(part, out.stem if make_sink is _ZipSink else out.name)
        event = _write(case, plan, sink, out, progress)
        with _storing(out):
            size = sink.finish()
        progress("package.stage.verify", 0.0)
        report = verify_package(part, progress=lambda _, fraction: progress("package.stage.verify", fraction))
        if not report.verified:
            first = next((check for check in report.checks if check.status != "passed"), None)
            raise PackageError("package.not_verified", check="-" if first is None else f"{first.number} {first.subject}")
        with _storing(out):
            # neither renames over a package that someone else has made meanwhile
            if os.path.lexists(out):
                raise PackageError("package.target_exists", path=out)
            os.rename(part, out)
            sync_folder(out.parent)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
    after = parse_checkpoint(case.checkpoint_bytes(at_least=event.index + 1))[0]
    return SealedPackage(
        path=out,
        statement_sha256=hashlib.sha256(plan.sealed_statement).hexdigest(),
        package_root=plan.statement.package_root,
        short_code=short_code(after.root),
        items=plan.statement.items,
        size=size,
        event=event,
    )


def _write(case: Case, plan: _Plan, sink: _Sink, out: Path, progress: Progress) -> CustodyEvent:
    """All files in the order of the package; the `packaged` event once every copy was compared."""
    total = sum(item.size for item in plan.draft.items) or 1
    done = 0
    event: CustodyEvent | None = None
    documents = dict(plan.documents)
    for path in sorted([*plan.objects, *documents, *SEAL_FILES], key=sort_key):
        if path in SEAL_FILES and event is None:
            # every file under data/ sorts before seal/, so all copies agree with the log by now
            event = case.record_sealing(plan.sealed_statement, expected_size=len(plan.draft.events))
            documents.update(_seal_files(case, plan, event))
        if path in documents:
            with _storing(out):
                sink.add(path, len(documents[path]), iter((documents[path],)))
            continue
        digests, source = plan.objects[path]
        found = _Comparison()
        with open(source, "rb") as stream:
            blocks = found.blocks(stream)
            with _storing(out):
                sink.add(path, digests.size, blocks)
        if (found.digest.hexdigest(), found.size) != (digests.sha256, digests.size):
            raise DigestMismatchError("custody.object_changed", path=source, expected=digests.sha256)
        done += digests.size
        progress("package.stage.copy", done / total)
    assert event is not None  # SEAL_FILES is never empty
    return event


def _seal_files(case: Case, plan: _Plan, event: CustodyEvent) -> dict[str, bytes]:
    hashes = [leaf_hash(each.leaf) for each in plan.draft.events] + [leaf_hash(event.leaf)]
    after = case.checkpoint_bytes(at_least=len(hashes))
    checkpoint = parse_checkpoint(after)[0]
    if (checkpoint.tree_size, checkpoint.root) != (len(hashes), tree_root(hashes)):
        raise PackageError("package.log_moved", case=plan.draft.number)
    proof = TlogProof(event.index, inclusion_proof(hashes, event.index), after, event.leaf)
    return {_STATEMENT: plan.sealed_statement, _PROOF: proof.to_bytes()}


class _Comparison:
    """Digest and size of what passes through."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0

    def blocks(self, stream: BinaryIO) -> Iterator[bytes]:
        while block := stream.read(BLOCK):
            self.digest.update(block)
            self.size += len(block)
            yield block


class _Plan:
    """Every byte of a package but those of the stored files and the seal, made before anything is written.

    documents: path -> bytes. objects: path -> (digests, file in the store).
    """

    def __init__(self, of: PackageDraft, case: Case) -> None:
        self.draft = of
        session = case.session
        moment = utc_text(session.now())
        self.objects = {
            f"data/{item.path}": (FileDigests(item.sha256, item.sm3, item.size), case.path_of(item)) for item in of.items
        }
        data = self._log_documents(case)
        data[FINDINGS] = self._findings(case)
        kinds = {path: "application/json" if path.endswith("json") else "text/plain" for path in data}
        kinds[LEAVES] = kinds[DISCLOSURES] = "application/x-ndjson"
        others = {path.removeprefix("data/"): (kinds[path], len(raw)) for path, raw in data.items()}
        data[CRATE] = crate_bytes(of, others, day=moment[:10], software=SOFTWARE)

        ids = {f"data/{item.path}": item.id for item in of.items}
        digests = {path: pair[0] for path, pair in self.objects.items()}
        digests.update({path: digest_bytes(raw) for path, raw in data.items()})
        lines = []
        for path in sorted(digests, key=sort_key):
            sha256, sm3, size = digests[path]
            salt = session.random(32).hex()
            lines.append(ItemLine(item_leaf(path, size, sha256, sm3, salt), ids.get(path), path, salt, sha256, size, sm3))
        statement = Statement(
            subjects={},
            case=of.case,
            workspace=of.workspace,
            items=len(lines),
            package_root=tree_root(bytes.fromhex(line.leaf) for line in lines).hex(),
            checkpoint_before=of.checkpoint.to_text(),
            software=SOFTWARE,
            time_claimed=moment,
            demonstration=of.demonstration,
        )
        tags = self._tag_files(statement, lines, digests)
        pairs = {name: (found.sha256, found.sm3) for name in MANIFESTS if (found := digest_bytes(tags[name]))}
        self.statement = replace(statement, subjects=pairs)
        self.documents: Mapping[str, bytes] = {**data, **tags}
        payload = self.statement.to_bytes()
        signer = session.signer
        signature = EnvelopeSignature(signer.public_key.key_id, signer.sign(pae(STATEMENT_PAYLOAD_TYPE, payload)))
        self.sealed_statement = Envelope(STATEMENT_PAYLOAD_TYPE, payload, (signature,)).to_bytes()

    def _log_documents(self, case: Case) -> dict[str, bytes]:
        signer = case.session.signer
        keys = {key.public_key.key_id: (key.public_key, key.label) for key in self.draft.keys}
        keys.setdefault(signer.public_key.key_id, (signer.public_key, signer.label))
        rows = [
            {
                "algorithm": key.algorithm,
                "key_id": key_id,
                "label": label,
                "name": note_key_name(key),
                "public_key": base64_text(key.raw),
            }
            for key_id, (key, label) in sorted(keys.items())
        ]
        disclosed = [
            dumps({"disclosures": {name: dict(each) for name, each in event.disclosures.items()}, "event": event.event_id})
            for event in self.draft.events
            if event.disclosures
        ]
        return {
            LEAVES: b"".join(event.leaf + b"\n" for event in self.draft.events),
            DISCLOSURES: b"".join(line + b"\n" for line in disclosed),
            CHECKPOINT: self.draft.checkpoint_bytes,
            KEYS: dumps(rows),
        }

    def _findings(self, case: Case) -> bytes:
        # each findings.json is RFC 8785 already: putting the bytes together gives RFC 8785 bytes
        stated = [case.read_object(ref.sha256) for event in self.draft.events if event.type == "found" for ref in event.outputs]
        return b'{"results":[' + b",".join(stated) + b'],"schema":"' + PACKAGE_FINDINGS_SCHEMA + b'"}'

    def _tag_files(self, statement: Statement, lines: list[ItemLine], digests: Mapping[str, FileDigests]) -> dict[str, bytes]:
        tags = {
            "bagit.txt": BAGIT,
            "bag-info.txt": statement.bag_info(sum(each.size for each in digests.values()), len(digests)),
            "items.json": items_bytes(lines),
            "VERIFY.txt": verify_text(case=statement.case, software=SOFTWARE, demonstration=statement.demonstration),
            "verify.pyz": build_pyz(),
            PAYLOAD_MANIFESTS[0]: manifest_bytes({path: each.sha256 for path, each in digests.items()}),
            PAYLOAD_MANIFESTS[1]: manifest_bytes({path: each.sm3 for path, each in digests.items()}),
        }
        found = {name: digest_bytes(tags[name]) for name in TAG_FILES}
        tags["tagmanifest-sha256.txt"] = manifest_bytes({name: each.sha256 for name, each in found.items()})
        tags["tagmanifest-sm3.txt"] = manifest_bytes({name: each.sm3 for name, each in found.items()})
        return tags


class _Sink(Protocol):
    """Where a package is written. Files come in the order of the package."""

    def add(self, path: str, size: int, blocks: Iterator[bytes]) -> None: ...

    def finish(self) -> int:
        """Make it durable; bytes written."""


class _FolderSink:
    def __init__(self, folder: Path, _: str) -> None:
        self._folder = folder
        self._size = 0
        folder.mkdir()

    def add(self, path: str, size: int, blocks: Iterator[bytes]) -> None:
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as stream:
            for block in blocks:
                stream.write(block)
                self._size += len(block)

    def finish(self) -> int:
        # one call for all files: syncing them one by one costs milliseconds a file
        if hasattr(os, "sync"):
            os.sync()
        return self._size


class _ZipSink:
    """Streams stored entries; a header is written again once the CRC of its file is known."""

    def __init__(self, file: Path, top: str) -> None:
        self._file = file
        self._top = top
        self._entries: list[Entry] = []
        self._offset = 0
        file.open("xb").close()

    def add(self, path: str, size: int, blocks: Iterator[bytes]) -> None:
        entry = Entry(f"{self._top}/{path}", size, 0, self._offset)
        with open(self._file, "r+b") as stream:
            stream.seek(self._offset)
            stream.write(entry.local_header())
            crc, written = 0, 0
            for block in blocks:
                stream.write(block)
                crc = zlib.crc32(block, crc)
                written += len(block)
            entry = replace(entry, crc=crc)
            stream.seek(self._offset)
            stream.write(entry.local_header())
        if written == size:
            self._entries.append(entry)
            self._offset = entry.end

    def finish(self) -> int:
        directory = b"".join(entry.central_header() for entry in self._entries)
        with open(self._file, "r+b") as stream:
            stream.seek(self._offset)
            stream.write(directory)
            stream.write(end_records(len(self._entries), self._offset, len(directory)))
            size = stream.tell()
            stream.flush()
            os.fsync(stream.fileno())
        return size


@contextmanager
def _storing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, out) from error
