"""What packages and supplements have in common: signed documents in seal/, keys, trust, the report.

Checks 1.4, 1.10, 2.1, 2.2, 2.5, 2.7, 3.2. `checks` and `supplement` build on it. Reports to a
`Ledger`. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Callable, NamedTuple, Optional, TypeVar, Union

from geoevidence.trust import manifest
from geoevidence.trust.bag import Bag, Layout, Progress
from geoevidence.trust.container import Container
from geoevidence.trust.errors import FormatError, GeoEvidenceError
from geoevidence.trust.evidence import Evidence
from geoevidence.trust.history import Hasher
from geoevidence.trust.holders import Holders, Use
from geoevidence.trust.policy import TrustPolicy
from geoevidence.trust.signatures import Envelope, parse_envelope
from geoevidence.trust.verdict import PASSED, Check, Claim, Ledger, Signer, VerificationReport

Document = TypeVar("Document")


class Settings(NamedTuple):
    """What a verification was asked with. now: UTC text, or None. sm3_limit: bytes; a larger package is compared by SHA-256 alone."""

    policy: TrustPolicy
    now: Optional[str]
    progress: Optional[Progress]
    sm3_limit: Optional[int]


class Record(NamedTuple):
    """A record of recomputation whose signatures are valid, with the keys of where it was found."""

    document: manifest.RecomputeRecord
    signers: tuple[str, ...]
    holders: Holders
    subject: str


def utc_text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Sealed:
    """One sealed thing while it is verified: what was read of it, and the checks so far."""

    def __init__(self, container: Container, settings: Settings, kind: str) -> None:
        self.container, self.settings, self.kind = container, settings, kind
        self.policy = settings.policy
        self.ledger = Ledger()
        self.holders = Holders(self.policy)
        self.evidence = Evidence(self.ledger, self.holders)
        total = 0
        if settings.sm3_limit is not None:
            total = sum(size for _, size in container.files())
        sm3 = settings.sm3_limit is None or total <= settings.sm3_limit
        self.hasher = Hasher()
        self.bag = Bag(container, self.ledger, self.hasher, sm3=sm3, progress=settings.progress)
        self.layout = Layout(kind)
        self.envelopes: dict[str, Envelope] = {}
        self.uses: list[tuple[Holders, Use]] = []
        self.records: list[Record] = []
        self.facts: dict[str, Any] = {}
        self.claims: list[Claim] = []
        self.ended: dict[str, int] = {}
        self.stale = self.fork = False
        self.fork_proof: Optional[tuple[str, str]] = None
        self.supplements: list[VerificationReport] = []
        self.required = self.policy.required

    # ---- documents -----------------------------------------------------------------------------------

    def open_document(
        self, path: str, parse: Callable[..., Document], check: str = "seal", *, data: Optional[bytes] = None
    ) -> Optional[Document]:
        """The payload of an envelope, parsed; failures are recorded under `check`. data: its bytes, if they were read elsewhere."""
        data = self.bag.read(path, check) if data is None else data
        if data is None:
            return None
        try:
            envelope = parse_envelope(data, where=path)
            if envelope.payload_type != manifest.STATEMENT_PAYLOAD_TYPE:
                expected = manifest.STATEMENT_PAYLOAD_TYPE
                raise FormatError("trust.payload_type", where=path, expected=expected, found=envelope.payload_type[:80])
            document = parse(envelope.payload, where=path)
        except GeoEvidenceError as error:
            self.ledger.fail_by(check, path, error)
            return None
        self.envelopes[path] = envelope
        return document

    def check_keys(self, path: str) -> None:
        """2.1."""
        data = self.bag.read(path, "keys")
        if data is None:
            if not self.ledger.spoilt("keys"):
                self.ledger.skip_because("keys", path, "layout")
            return
        try:
            problems = self.holders.add(manifest.parse_keys(data, where=path), where=path)
        except GeoEvidenceError as error:
            self.ledger.fail_by("keys", path, error)
            return
        for problem in problems:
            self.ledger.fail_by("keys", path, problem)
        self.ledger.close("keys", path, len(self.holders.labels))

    def check_envelope(
        self,
        check: str,
        path: str,
        *,
        role: str,
        claimed: str,
        leaf: int,
        only: Optional[Iterable[str]] = None,
        all_of: bool = False,
    ) -> bool:
        """The signatures of a document; True where all are valid.

        only: key ids that may sign it, and, with all_of, must. role, claimed, leaf: of the use that is noted for 2.7.
        """
        envelope = self.envelopes.get(path)
        if envelope is None:
            return False
        return self.check_signatures(
            self.ledger, check, path, envelope, role=role, claimed=claimed, leaf=leaf, only=only, all_of=all_of
        )

    def check_signatures(
        self,
        ledger: Ledger,
        check: str,
        path: str,
        envelope: Envelope,
        *,
        role: str,
        claimed: str,
        leaf: int,
        only: Optional[Iterable[str]] = None,
        all_of: bool = False,
    ) -> bool:
        """As `check_envelope`, of an envelope at hand, recorded in `ledger`."""
        signers = [each.keyid for each in envelope.signatures]
        if self.ledger.spoilt("keys") and any(each not in self.holders.keys for each in signers):
            ledger.skip_because(check, path, "keys")
            return False
        try:
            envelope.verify(self.holders.keys, where=path)
        except GeoEvidenceError as error:
            ledger.fail_by(check, path, error)
            return False
        finally:
            if role:
                self.uses += [(self.holders, Use(each, role, claimed, leaf, path)) for each in signers]
        if only is not None:
            allowed = set(only)
            if not set(signers) <= allowed or (all_of and set(signers) != allowed):
                expected, found = ", ".join(sorted(allowed)), ", ".join(signers)
                ledger.fail(check, path, "trust.signers_differ", expected=expected, found=found)
                return False
        return True

    # ---- 1.10 ----------------------------------------------------------------------------------------

    def check_closing(
        self,
        closing: Union[manifest.Closing, manifest.Redaction, None],
        path: str,
        valid: bool,
        cause: str,
        statement: Union[manifest.Statement, manifest.SupplementStatement, None],
        *,
        ignored: Iterable[str] = (),
    ) -> None:
        """The files of seal/ against a document that names them. ignored: files that it does not name."""
        ledger, seal = self.ledger, self.bag.contents.seal
        if closing is None or not valid:
            ledger.skip_because("closing", path, "seal" if closing is None else cause)
            return
        skipped = {path, *ignored}
        stated = {name: pair for name, pair in closing.subjects.items() if name not in manifest.MANIFESTS}
        for name in sorted(stated.keys() | (set(seal) - skipped)):
            if name not in seal or name in skipped:
                ledger.fail("closing", name, "trust.file_missing", expected=path)
            elif name not in stated:
                ledger.fail("closing", name, "trust.closing_unlisted", expected=path)
            elif name in self.bag.digests:
                found = self.bag.digests[name]
                if (found.sha256, found.sm3) != stated[name]:
                    expected = " ".join(stated[name])
                    ledger.fail("closing", name, "trust.digest_wrong", expected=expected, found=f"{found.sha256} {found.sm3}")
            else:
                ledger.skip_because("closing", name, "container")
        if statement is not None:
            for field in ("case", "workspace", "package_root"):
                expected, value = getattr(statement, field), getattr(closing, field)
                if value != expected:
                    ledger.fail("closing", path, "trust.closing_other", expected=f"{field} {expected}", found=value)

    def read_seal(self) -> None:
        """Read the files of seal/ that the layout knows, so that their digests are there."""
        for path in self.bag.contents.seal:
            if path in self.layout.required or self.layout.is_optional(path):
                self.bag.read(path, "seal")

    # ---- 2.7, 3.2 ------------------------------------------------------------------------------------

    def check_trust(self, where: str) -> None:
        """2.7: every key, for every role it signed in."""
        by_key: dict[str, list[tuple[Holders, Use]]] = {}
        for holders, use in self.uses:
            by_key.setdefault(use.key_id, []).append((holders, use))
        for key_id, uses in sorted(by_key.items()):
            said: set[str] = set()
            holder = None
            for holders, use in uses:
                judged = holders.judge(use)
                holder = judged.holder or holder
                detail, values = judged.detail, judged.values
                ended = self.ended.get(key_id)
                if not detail and ended is not None and use.leaf >= ended:
                    detail, values = "trust.key_ended", {"size": ended}
                if detail and detail not in said:
                    said.add(detail)
                    if judged.refused:
                        found = f"{use.subject} ({use.role}, {use.moment or '-'})"
                        self.ledger.fail("trusted_keys", key_id, detail, found=found, **values)
                    else:
                        self.ledger.add(Check("trusted_keys", key_id, "not_checked", None, use.subject, detail, values))
            if not said:
                self.ledger.add(Check("trusted_keys", key_id, PASSED, None, holder))
        if not by_key:
            self.ledger.skip_because("trusted_keys", where, "seal")

    def check_past(self, claims: Iterable[tuple[str, str]], where: str) -> None:
        """3.2. claims: (event or file, claimed time)."""
        count = 0
        if self.settings.now is None:
            self.ledger.skip("claimed_past", where, "trust.no_clock")
        else:
            for subject, time in claims:
                count += 1
                if time > self.settings.now:
                    self.ledger.skip("claimed_past", subject, "trust.time_future", time=time, now=self.settings.now)
        self.ledger.close("claimed_past", where, count)

    # ---- the report ----------------------------------------------------------------------------------

    def signers(self) -> list[Signer]:
        """Every key that signed something, once."""
        found: dict[str, Signer] = {}
        for holders, use in sorted(self.uses, key=lambda each: each[1].key_id):
            known = found.get(use.key_id)
            if known is not None and known.holder is not None:
                continue
            key = holders.keys.get(use.key_id)
            trusted = self.policy.find(use.key_id)
            ended = self.ended.get(use.key_id)
            if trusted is not None and trusted.revoked_at_tree_size is not None:
                ended = min(trusted.revoked_at_tree_size, ended if ended is not None else trusted.revoked_at_tree_size)
            holder = holders.judge(use).holder
            found[use.key_id] = Signer(
                use.key_id, key.algorithm if key else "-", holders.labels.get(use.key_id, ""), holder, ended
            )
        return list(found.values())

    def finish(self, names: Iterable[str], facts: Mapping[str, Any]) -> VerificationReport:
        """The report; checks that nothing was said of could not be made because of the container."""
        for name in names:
            if not self.ledger.has(name):
                self.ledger.skip_because(name, self.container.label, "container")
        return VerificationReport(
            package=self.container.label,
            required=self.required,
            builtin_policy=self.policy.builtin,
            checks=self.ledger.sorted(),
            facts=dict(facts),
            claims=tuple(self.claims),
            signers=tuple(self.signers()),
            stale=self.stale,
            fork=self.fork,
            kind=self.kind,
            fork_proof=self.fork_proof,
            supplements=tuple(self.supplements),
        )
