"""A supplement: a signed later addition to a package (docs/formats/package.md; check 4.16).

It is verified like a package without a log, and held against the package it speaks of. What it
adds to that package, time stamps and records of recomputation, is handed back. Standard library only.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from geoevidence.trust import manifest
from geoevidence.trust.bag import SUPPLEMENT, Layout
from geoevidence.trust.container import Container
from geoevidence.trust.digests import FileDigests
from geoevidence.trust.errors import GeoEvidenceError
from geoevidence.trust.evidence import Testimony
from geoevidence.trust.policy import DEMONSTRATION, SUPPLEMENT_ROLE
from geoevidence.trust.sealed import Record, Sealed, Settings
from geoevidence.trust.verdict import SUPPLEMENT_CHECKS, VerificationReport

_RECORD = "data/files/recompute.dsse"


class PackageFacts(NamedTuple):
    """The package that supplements speak of.

    statement: where its signature is valid, else None. digests: of `seal/statement.dsse`. proof: bytes of `seal/proof.tlog`.
    tree_size: of the checkpoint in it.
    """

    label: str
    statement: Optional[manifest.Statement]
    digests: Optional[FileDigests]
    proof: Optional[bytes]
    tree_size: int


class VerifiedSupplement(NamedTuple):
    """testimonies, records: what it adds to the package; they count only where the report has no failure."""

    report: VerificationReport
    testimonies: tuple[Testimony, ...]
    records: tuple[Record, ...]


def verify_supplement(
    container: Container, settings: Settings, of: Optional[PackageFacts], *, beside: bool = False
) -> VerifiedSupplement:
    """Check a supplement.

    of: the package it speaks of, or None where it was not given. beside: it is verified with that package, whose own time
    is what a policy asks for.
    """
    made = _Supplement(container, settings)
    asked = tuple(each for each in made.required if each != "recomputes" and not (beside and each == "time"))
    # where nothing is left to ask for, not everything is well
    made.required = asked or DEMONSTRATION.required
    return made.verify(of)


class _Supplement(Sealed):
    def __init__(self, container: Container, settings: Settings) -> None:
        super().__init__(container, settings, SUPPLEMENT)
        self.statement: Optional[manifest.SupplementStatement] = None
        self.document: Optional[manifest.SupplementDocument] = None
        self.testimonies: list[Testimony] = []

    def verify(self, of: Optional[PackageFacts]) -> VerifiedSupplement:
        if not self.container.readable:
            # it lists no file; listing says why
            list(self.container.files(lambda d: self.ledger.fail("container", d.subject, d.detail, found=d.found)))
            return VerifiedSupplement(self.finish(SUPPLEMENT_CHECKS, {"files": 0, "bytes": 0}), (), ())
        self._read()
        self._check_bag()
        self._check_other_signatures()
        self._check_of(of)
        self._check_time(of)
        self.ledger.skip("recompute", self.container.label, "trust.supplement_recompute")
        self.check_trust(manifest.SUPPLEMENT_KEYS)
        self.ledger.close("container", self.container.label)
        report = self.finish(SUPPLEMENT_CHECKS, self._facts())
        return VerifiedSupplement(report, tuple(self.testimonies), tuple(self.records))

    def _read(self) -> None:
        ledger = self.ledger
        self.layout = Layout(SUPPLEMENT)
        self.bag.scan(self.layout)
        self.read_seal()
        # 1.4
        self.statement = self.open_document(manifest.STATEMENT, manifest.parse_supplement_statement)
        self.closing = self.open_document(manifest.CLOSING, manifest.parse_closing)
        for path in (manifest.STATEMENT, manifest.CLOSING):
            if path not in self.bag.data:
                ledger.skip_because("seal", path, "layout")
        self.check_keys(manifest.SUPPLEMENT_KEYS)
        # 2.2
        if self.statement is None:
            ledger.skip_because("statement_signature", manifest.STATEMENT, "seal")
        self.check_envelope("statement_signature", manifest.STATEMENT, role=SUPPLEMENT_ROLE, claimed=self._claimed, leaf=0)
        ledger.close("statement_signature", manifest.STATEMENT)
        # documents that are digested with the other files must be read before them
        self._supplement = self.bag.read(manifest.SUPPLEMENT, "supplement_of")
        self._record = self.bag.read(_RECORD, "other_signatures")
        self._stamps = {}
        for number in range(1, manifest.MOST_EVIDENCE + 1):
            path = manifest.time_file(number, folder=manifest.SUPPLEMENT_FILES)
            data = self.bag.read(path, "time_stamps")
            if data is None:
                break
            self._stamps[path] = data

    @property
    def _claimed(self) -> str:
        return self.statement.time_claimed if self.statement is not None else ""

    def _check_bag(self) -> None:
        bag = self.bag
        bag.merge(self.layout)
        signed = self.statement if self.ledger.passed("statement_signature") else None
        cause = "seal" if self.statement is None else "statement_signature"
        bag.check_manifests(self.layout, None if signed is None else signed.subjects, cause, manifest.STATEMENT)
        contents = bag.contents
        bag.check_tags(None if signed is None else signed.bag_info(contents.payload_size, contents.payload_files), cause)

    def _check_other_signatures(self) -> None:
        # 2.5, 1.10
        ledger, name = self.ledger, "other_signatures"
        if self.closing is None:
            ledger.skip_because(name, manifest.CLOSING, "seal" if manifest.CLOSING in self.bag.data else "layout")
        statement = self.envelopes.get(manifest.STATEMENT)
        signers = None if statement is None else [each.keyid for each in statement.signatures]
        valid = self.check_envelope(
            name, manifest.CLOSING, role=SUPPLEMENT_ROLE, claimed=self._claimed, leaf=0, only=signers, all_of=True
        )
        self.check_closing(self.closing, manifest.CLOSING, valid, name, self.statement)
        ledger.close("closing", manifest.CLOSING, len(self.bag.contents.seal))
        if self._record is not None and _RECORD not in self.bag.contents.blamed:
            record = self.open_document(_RECORD, manifest.parse_recompute, name, data=self._record)
            if record is not None and self.check_envelope(name, _RECORD, role="", claimed="", leaf=0):
                ids = tuple(each.keyid for each in self.envelopes[_RECORD].signatures)
                self.records.append(Record(record, ids, self.holders, f"{self.container.label}/{_RECORD}"))
        ledger.close(name, manifest.CLOSING)

    def _check_of(self, of: Optional[PackageFacts]) -> None:
        # 4.16
        ledger, name, path = self.ledger, "supplement_of", manifest.SUPPLEMENT
        if self._supplement is None:
            ledger.skip_because(name, path, "layout")
            return
        if path in self.bag.contents.blamed:
            ledger.skip_because(name, path, "files")
            return
        try:
            document = manifest.parse_supplement(self._supplement)
        except GeoEvidenceError as error:
            ledger.fail_by(name, path, error)
            return
        self.document = document
        if self.statement is not None:
            found = self.bag.digests[path].sha256
            if self.statement.supplement_sha256 != found:
                ledger.fail(name, path, "trust.digest_wrong", expected=self.statement.supplement_sha256, found=found)
            for field in ("case", "workspace", "package_root"):
                self._compare(field, getattr(self.statement, field), getattr(document, field))
        if document.kind == "recompute" and self._record is None:
            ledger.fail(name, _RECORD, "trust.file_missing")
        if document.kind == "time" and not self._stamps:
            ledger.fail(name, manifest.time_file(1, folder=manifest.SUPPLEMENT_FILES), "trust.file_missing")
        if of is None:
            ledger.skip(name, path, "trust.supplement_alone")
        elif of.statement is None or of.digests is None:
            ledger.skip(name, path, "trust.supplement_package", package=of.label)
        else:
            for field in ("case", "workspace", "package_root"):
                self._compare(field, getattr(of.statement, field), getattr(document, field))
            self._compare("statement_sha256", of.digests.sha256, document.statement_sha256)
            self._compare("statement_sm3", of.digests.sm3, document.statement_sm3)
        ledger.close(name, path)

    def _compare(self, field: str, expected: str, found: str) -> None:
        if expected != found:
            self.ledger.fail(
                "supplement_of", manifest.SUPPLEMENT, "trust.supplement_other", expected=f"{field} {expected}", found=found
            )

    def _check_time(self, of: Optional[PackageFacts]) -> None:
        ledger = self.ledger
        self.check_past([(manifest.STATEMENT, self._claimed)] if self.statement else [], manifest.STATEMENT)
        own = []
        sealed = self.bag.data.get(manifest.STATEMENT)
        for path in self.bag.contents.seal:
            data = self.bag.data.get(path)
            if manifest.evidence_number(path[5:]) is None or data is None:
                continue
            if sealed is None:
                ledger.skip_because("time_stamps", path, "layout")
            else:
                own.append(self.evidence.stamp(data, sealed, path, size=1, message_file=manifest.STATEMENT, strict="seal"))
        ledger.close("seal", "seal/", len(self.bag.contents.seal))
        # kind `time`: new time stamps over the package's own proof
        if self.document is not None and self.document.kind == "time":
            for path, data in self._stamps.items():
                if of is None or of.proof is None:
                    ledger.skip("time_stamps", path, "trust.supplement_alone")
                    continue
                subject = f"{self.container.label}/{path}"
                made = self.evidence.stamp(
                    data, of.proof, subject, size=of.tree_size, message_file=f"{of.label}/{manifest.PROOF}"
                )
                if made is not None:
                    self.testimonies.append(made)
        ledger.close("time_stamps", manifest.STATEMENT, len(own) + len(self.testimonies))
        trusted = [each for each in own if each is not None and each.trusted]
        if trusted:
            self.facts["attested_after"], self.facts["attested_before"] = None, min(each.latest for each in trusted)
            self.uses = [(holders, use._replace(before=self.facts["attested_before"])) for holders, use in self.uses]
        for each in own:
            if each is not None and not each.trusted and not trusted:
                ledger.skip("attested", each.subject, each.detail, **each.values)
        if not trusted and not ledger.has("attested"):
            ledger.skip("attested", manifest.STATEMENT, "trust.no_attested")
        ledger.close("attested", manifest.STATEMENT)

    def _facts(self) -> dict[str, object]:
        contents = self.bag.contents
        facts: dict[str, object] = {"files": contents.files, "bytes": contents.size, **self.facts}
        if self.statement is not None:
            for name in ("case", "workspace", "software", "time_claimed", "demonstration"):
                facts[name] = getattr(self.statement, name)
        if self.document is not None:
            facts["supplement_kind"], facts["author"] = self.document.kind, self.document.author
        return facts
