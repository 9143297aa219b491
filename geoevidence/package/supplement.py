"""Supplements: signed later additions to a package that nobody touches (docs/formats/package.md).

An appraiser's note, a disagreement, a correction, a recomputation, a new time stamp: by anybody with a key, without the
workspace and without the case. The package is verified first; of a broken one a supplement is made only when that is
asked for, and its text says what was found. The supplement is verified before it gets its name.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from geoevidence.custody import Session
from geoevidence.custody.anchoring import EvidenceSources
from geoevidence.custody.log import sign_envelope
from geoevidence.errors import ConfigError, CustodyError, InputError, PackageError
from geoevidence.package.bag import Content, Copy, NewBag, ShortDocument, new_bag, storing, tag_files
from geoevidence.package.instructions import supplement_text
from geoevidence.package.opened import OpenPackage, open_package
from geoevidence.package.seal import SOFTWARE, closing_bytes, error_message
from geoevidence.trust.archive import fold, sort_key
from geoevidence.trust.checks import verify_package
from geoevidence.trust.digests import digest_file
from geoevidence.trust.events import path_defect
from geoevidence.trust.manifest import (
    CLOSING,
    KEYS,
    PROOF,
    STATEMENT,
    STATEMENT_PAYLOAD_TYPE,
    SUPPLEMENT,
    SUPPLEMENT_FILES,
    SUPPLEMENT_KEYS,
    SUPPLEMENT_KINDS,
    NamedKey,
    Statement,
    SupplementDocument,
    SupplementStatement,
    keys_bytes,
    parse_keys,
    parse_recompute,
    parse_supplement,
    time_file,
)
from geoevidence.trust.signatures import parse_envelope
from geoevidence.trust.verdict import VerificationReport, plain
from geoevidence.types import Message, Progress, no_progress, utc_text

_RECOMPUTE = "recompute.dsse"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSupplement:
    """A supplement that was signed and verified.

    statement_sha256: hex, of its `seal/statement.dsse`: what the next supplement of its author calls `previous`.
    package: report of the verification of the package spoken of. files: under data/files/. size: bytes.
    time_stamps: over its own statement. evidence_missing: (who was asked, why nothing of it is here).
    """

    path: Path
    statement_sha256: str
    document: SupplementDocument
    package: VerificationReport
    files: int
    size: int
    time_stamps: int
    evidence_missing: tuple[tuple[str, Message], ...]


def supplement_package(
    package: Path,
    out: Path,
    *,
    session: Session,
    kind: str,
    text: str,
    author: str,
    files: Sequence[Path] = (),
    documents: Mapping[str, bytes] | None = None,
    previous: Path | None = None,
    evidence: EvidenceSources | None = None,
    broken_too: bool = False,
    archive: bool = False,
    progress: Progress = no_progress,
) -> SealedSupplement:
    """Say something about a sealed package, signed.

    Args:
        package: folder or zip; it is only read.
        out: where the supplement goes, a folder or (`archive`) a zip.
        session: who signs. kind: note, disagreement, correction, recompute or time. author: who speaks, as it is to be read.
        files: are added, each under its name. documents: the same from memory, name -> bytes.
            Kind `recompute`: one of them is recompute.dsse.
        previous: the supplement that the same author made before this one, or None.
        evidence: whose authorities are asked for time stamps over the new statement and, for kind `time`, over the
            package's `seal/proof.tlog`.
        broken_too: speak also of a package that fails verification; the text then says which checks failed.

    Raises: PackageError for a package that is broken, or is a supplement, for a name that is taken, a missing record or
        time stamp, or a result that does not verify; InputError, FormatError, CustodyError.
    """
    if kind not in SUPPLEMENT_KINDS:
        raise ConfigError("package.supplement_unknown_kind", found=kind, known=", ".join(SUPPLEMENT_KINDS))
    progress("package.stage.verify", 0.0)
    report = verify_package(package, progress=lambda _, fraction: progress("package.stage.verify", fraction))
    out = Path(out).absolute()
    with open_package(Path(package)) as opened, new_bag(out, archive=archive) as bag:
        if opened.kind == "supplement":
            raise PackageError("package.is_supplement", path=package)
        said = text.strip()
        if not said or not author.strip():
            raise PackageError("package.supplement_empty")
        if report.failures or report.verdicts["intact"] != "passed":
            if not broken_too:
                raise PackageError("package.supplement_broken", path=package, checks=_failures(report))
            said = f"{said}\n\n[核验结果 / verification: {report.exit_code}; {_failures(report)}]"
        statement = opened.statement()
        sealed = opened.statement_digests
        document = SupplementDocument(
            kind=kind,
            case=statement.case,
            workspace=statement.workspace,
            package_root=statement.package_root,
            statement_sha256=sealed.sha256,
            statement_sm3=sealed.sm3,
            previous=None if previous is None else _previous(previous, statement, session),
            author=author.strip(),
            text=said,
        )
        missing: list[tuple[str, Message]] = []
        payload = _added(files, documents or {})
        if kind == "time":
            payload |= _stamps(opened, payload, evidence, missing)
        rows = [NamedKey(each.public_key, each.label, each.certificates) for each in session.signers]
        if kind == "recompute":
            rows += _record_keys(payload, opened, {row.key.key_id for row in rows})
        payload[SUPPLEMENT] = ShortDocument(document.to_bytes())
        payload[SUPPLEMENT_KEYS] = ShortDocument(keys_bytes(rows))
        seal = _write(bag, out, payload, document, statement, session, evidence, missing)
        bag.finish()
        _require_verified(bag.part, Path(package))
        bag.publish()
    return SealedSupplement(
        path=out,
        statement_sha256=seal[STATEMENT].digests.sha256,
        document=document,
        package=report,
        files=len(payload) - 2,
        size=bag.size,
        time_stamps=len(seal) - 2,
        evidence_missing=tuple(missing),
    )


def _failures(report: VerificationReport) -> str:
    shown = [f"{check.number} {plain(check.subject)}" for check in report.failures[:_SHOWN]]
    more = len(report.failures) - len(shown)
    return "; ".join(shown) + (f"; +{more}" if more else "") if shown else "intact: not_checked"


def _previous(path: Path, statement: Statement, session: Session) -> str:
    """Hex SHA-256 of the statement of the supplement before. Raises PackageError when it is not one of this package and signer,
    or does not verify."""
    with open_package(path) as before:
        if before.kind != "supplement":
            raise PackageError("package.not_a_supplement", path=path)
        document = parse_supplement(before.read(SUPPLEMENT))
        if (document.case, document.package_root) != (statement.case, statement.package_root):
            raise PackageError("package.supplement_of_other", path=path, found=document.package_root)
        own = {each.public_key.key_id for each in session.signers}
        if not own & {each.keyid for each in before.envelope.signatures}:
            raise PackageError("package.supplement_by_other", path=path)
        # names of keys are only claims until the signatures are checked
        report = verify_package(path)
        if report.failures or report.verdicts["intact"] != "passed":
            raise PackageError("package.supplement_broken_previous", path=path, checks=_failures(report))
        return before.statement_digests.sha256


def _added(files: Sequence[Path], documents: Mapping[str, bytes]) -> dict[str, Content]:
    """What goes under data/files/. Raises InputError for a name that cannot be used, or no plain file."""
    added: dict[str, Content] = {}
    seen: set[str] = set()
    for name in [*(path.name for path in files), *documents]:
        plain_name = unicodedata.normalize("NFC", name)
        if "/" in plain_name or path_defect(plain_name) is not None or fold(plain_name) in seen:
            raise InputError("package.supplement_name", name=plain(name))
        seen.add(fold(plain_name))
    for path in files:
        try:
            if not stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
                raise InputError("package.not_a_file", path=path)
            with path.open("rb") as stream:
                digests = digest_file(stream)
        except OSError as error:
            raise InputError("core.cannot_read", path=path, reason=error.strerror or str(error)) from error
        added[SUPPLEMENT_FILES + unicodedata.normalize("NFC", path.name)] = Copy(digests, _Opener(path), str(path))
    added |= {SUPPLEMENT_FILES + unicodedata.normalize("NFC", name): ShortDocument(data) for name, data in documents.items()}
    return added


@dataclass(frozen=True, slots=True)
class _Opener:
    path: Path

    def __call__(self) -> BinaryIO:
        return self.path.open("rb")


def _stamps(
    opened: OpenPackage, added: Mapping[str, Content], evidence: EvidenceSources | None, missing: list[tuple[str, Message]]
) -> dict[str, Content]:
    """`data/files/time-<n>.tsr` over the package's proof, after those that were given. Raises PackageError when there is none."""
    proof = opened.read(PROOF)
    given = len(added)
    if set(added) != {time_file(number, folder=SUPPLEMENT_FILES) for number in range(1, given + 1)}:
        raise PackageError("package.supplement_time_names", names=", ".join(sorted(added)))
    gained = _ask(proof, evidence, missing)
    if not given and not gained:
        raise PackageError("package.supplement_no_time")
    return {time_file(number, folder=SUPPLEMENT_FILES): ShortDocument(each) for number, each in enumerate(gained, given + 1)}


def _ask(message: bytes, evidence: EvidenceSources | None, missing: list[tuple[str, Message]]) -> list[bytes]:
    """Time stamps over a message, of all authorities that answer."""
    stamps = []
    for source in () if evidence is None else evidence.stamps:
        try:
            stamps.append(source.stamp(message))
        except CustodyError as error:
            missing.append((source.name, error_message(error)))
    return stamps


def _record_keys(payload: Mapping[str, Content], opened: OpenPackage, own: set[str]) -> list[NamedKey]:
    """Rows of keys that signed the record of recomputation and do not sign here. Raises PackageError."""
    content = payload.get(SUPPLEMENT_FILES + _RECOMPUTE)
    if content is None:
        raise PackageError("package.supplement_no_record", name=_RECOMPUTE)
    envelope = parse_envelope(b"".join(content.blocks()), where=_RECOMPUTE)
    record, statement = parse_recompute(envelope.payload, where=_RECOMPUTE), opened.statement()
    if (record.case, record.package_root) != (statement.case, statement.package_root):
        raise PackageError("package.supplement_of_other", path=_RECOMPUTE, found=record.package_root)
    known = {row.key.key_id: row for row in parse_keys(opened.read(KEYS))}
    wanted = [each.keyid for each in envelope.signatures if each.keyid not in own]
    for key_id in wanted:
        if key_id not in known:
            raise PackageError("package.supplement_unknown_key", key_id=key_id)
    return [known[key_id] for key_id in wanted]


def _write(
    bag: NewBag,
    out: Path,
    payload: Mapping[str, Content],
    document: SupplementDocument,
    package: Statement,
    session: Session,
    evidence: EvidenceSources | None,
    missing: list[tuple[str, Message]],
) -> dict[str, Content]:
    """All files of the supplement; those of seal/ are given back."""
    moment = utc_text(session.now())
    statement = SupplementStatement(
        subjects={},
        case=document.case,
        workspace=document.workspace,
        package_root=document.package_root,
        supplement_sha256=hashlib.sha256(document.to_bytes()).hexdigest(),
        software=SOFTWARE,
        time_claimed=moment,
        demonstration=package.demonstration,
    )
    ordered = {path: payload[path].digests for path in sorted(payload, key=sort_key)}
    with storing(out):
        text = supplement_text(case=document.case, software=SOFTWARE, demonstration=package.demonstration)
        tags, subjects = tag_files(ordered, bag_info=statement.bag_info, verify_text=text, items=None, spool=bag.spool)
    statement = replace(statement, subjects=subjects)
    signed = sign_envelope(session, STATEMENT_PAYLOAD_TYPE, statement.to_bytes()).to_bytes()
    seal: dict[str, Content] = {STATEMENT: ShortDocument(signed)}
    seal |= {time_file(number): ShortDocument(each) for number, each in enumerate(_ask(signed, evidence, missing), 1)}
    digests = {path: content.digests for path, content in seal.items()}
    seal[CLOSING] = ShortDocument(closing_bytes(session, digests, statement))
    bag.add({**payload, **tags, **seal})
    return seal


def _require_verified(part: Path, package: Path) -> None:
    """Raises PackageError unless the kernel finds nothing wrong with the supplement itself."""
    report = verify_package(part, package=package)
    wrong = [check for check in report.checks if check.status == "failed"]
    if wrong or report.verdicts["intact"] != "passed":
        first = wrong[0] if wrong else None
        raise PackageError("package.supplement_not_verified", check="-" if first is None else f"{first.number} {first.subject}")
