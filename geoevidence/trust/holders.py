"""Whether a key may say what it said: the keys of a package, held against the reader's policy.

In go the rows of keys.json and the policy; out come public keys by id and by note name, and for
each use of a key (role, time, place in the log) whether the policy trusts it, refuses it, or does
not know it. A key is trusted by its own line in the trust file, or by a certificate that leads to
an authority in it (docs/formats/trust.md). Reads no file, checks no signature over documents.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from geoevidence.trust.certificates import Certificate, Links, build_chain, parse_certificate
from geoevidence.trust.errors import CertificateError, FormatError, UnsupportedError
from geoevidence.trust.manifest import NamedKey
from geoevidence.trust.notes import note_key_name
from geoevidence.trust.policy import SIGN, Authority, TrustPolicy
from geoevidence.trust.signatures import PublicKey

MAX_CERTIFICATES = 10
"""Most certificates beside one key: longer chains are not built."""
_UNKNOWN = ("trust.certificate_untrusted", "trust.certificate_signature", "trust.certificate_usage", "trust.certificate_many")


class Use(NamedTuple):
    """What a key signed. role: asked of it. claimed: UTC text or "". leaf: index. subject: file or line.

    after, before: what others attest of the time, or None.
    """

    key_id: str
    role: str
    claimed: str
    leaf: int
    subject: str
    after: Optional[str] = None
    before: Optional[str] = None

    @property
    def moment(self) -> str:
        """The claimed time, or the nearest to it that the attested interval allows."""
        if self.before is not None and self.claimed > self.before:
            return self.before
        if self.after is not None and self.claimed < self.after:
            return self.after
        return self.claimed


class Judgement(NamedTuple):
    """holder: of a trusted key. detail: message id of why it is refused or unknown, with its values. refused: the policy says no."""

    holder: Optional[str]
    detail: str = ""
    values: Mapping[str, Any] = MappingProxyType({})
    refused: bool = False


class Holders:
    """The keys of one package and what the policy says of them."""

    def __init__(self, policy: TrustPolicy) -> None:
        self.policy = policy
        self.keys: dict[str, PublicKey] = {each.key.key_id: each.key for each in policy.keys}
        self.labels: dict[str, str] = {}
        self._names = {note_key_name(key): key for key in self.keys.values()}
        self._certificates: dict[str, tuple[Certificate, ...]] = {}
        self._chains: dict[str, tuple[Certificate, ...]] = {}
        self._links: Links = {}
        self._roots = tuple(each.certificate for each in policy.roots(SIGN))

    def add(self, rows: Iterable[NamedKey], *, where: str) -> list[FormatError]:
        """Take in rows of a list of keys; gives what is wrong with their certificates."""
        problems = []
        for row in rows:
            key_id = row.key.key_id
            self.keys[key_id], self.labels[key_id] = row.key, row.label
            self._names[note_key_name(row.key)] = row.key
            try:
                self._certificates[key_id] = _certificates(row, where)
            except FormatError as error:
                problems.append(error)
        return problems

    def by_note_name(self, name: str) -> Optional[PublicKey]:
        """The key that signs notes under that name."""
        return self._names.get(name)

    def judge(self, use: Use) -> Judgement:
        """Whether the policy trusts a key for one use."""
        trusted = self.policy.find(use.key_id)
        label = self.labels.get(use.key_id, "-")
        if trusted is not None:
            refusal = trusted.refusal(use.role, use.moment, use.leaf)
            if refusal:
                return Judgement(trusted.holder, refusal, {"holder": trusted.holder}, True)
            return Judgement(trusted.holder)
        unknown = "trust.policy_none" if self.policy.builtin else "trust.policy_unknown"
        certificates = self._certificates.get(use.key_id, ())
        if not certificates or not self._roots:
            return Judgement(None, unknown, {"label": label})
        holder = certificates[0].subject_text
        try:
            authority = self._authority(use, certificates)
        except CertificateError as error:
            if error.message_id in _UNKNOWN:
                return Judgement(None, unknown, {"label": label})
            return Judgement(holder, error.message_id, error.values, True)
        except UnsupportedError as error:
            return Judgement(None, error.message_id, error.values)
        if use.role not in authority.roles:
            return Judgement(holder, "trust.policy_role", {"holder": holder}, True)
        return Judgement(holder)

    def _authority(self, use: Use, certificates: tuple[Certificate, ...]) -> Authority:
        """The authority that a key's certificate leads to, at the time of the use. Raises as `build_chain`."""
        # what nothing attests to lie before a revocation is not believed to: the claimed time is the signer's own word
        revoked = self.policy.revoked_at(use.before)
        chain = self._chains.get(use.key_id)
        if chain is None or not _holds(chain, use.moment, revoked):
            chain = build_chain(
                certificates[0], certificates[1:], self._roots, moment=use.moment, purpose="sign", revoked=revoked,
                links=self._links,
            )  # fmt: skip
            self._chains[use.key_id] = chain
        return next(each for each in self.policy.roots(SIGN) if each.certificate.der == chain[-1].der)


def _holds(chain: tuple[Certificate, ...], moment: str, revoked: frozenset[tuple[bytes, int]]) -> bool:
    """A chain that was good at one moment is good at another: nothing but terms and revocations depends on the time."""
    return all(each.not_before <= moment <= each.not_after and (each.issuer, each.serial) not in revoked for each in chain)


def _certificates(row: NamedKey, where: str) -> tuple[Certificate, ...]:
    """The certificates of a row, the key's own first. Raises FormatError."""
    if len(row.certificates) > MAX_CERTIFICATES:
        raise FormatError("trust.key_certificates", where=where, key_id=row.key.key_id)
    read = tuple(parse_certificate(each, where=f"{where} {row.key.key_id}") for each in row.certificates)
    if read and not read[0].has_key(row.key):
        raise FormatError("trust.key_certificates", where=where, key_id=row.key.key_id)
    return read
