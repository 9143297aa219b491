"""What others attest of the time: time stamps and cosignatures over checkpoints (checks 3.3, 3.4).

Each piece of evidence is checked by itself, then held against the policy; what the policy trusts
gives every event of the log an interval (docs/formats/time.md): before the first evidence over a
checkpoint that contains it, after the last evidence that stands in the log before the checkpoint
it names. Reports to a `Ledger`; reads no file. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from geoevidence.trust import der
from geoevidence.trust.certificates import build_chain
from geoevidence.trust.errors import CertificateError, GeoEvidenceError, UnsupportedError
from geoevidence.trust.holders import Holders, Use
from geoevidence.trust.notes import parse_cosignature
from geoevidence.trust.policy import TIME_STAMPS, WITNESS_ROLE
from geoevidence.trust.timestamps import TimeStamp, openssl_command, parse_time_stamp
from geoevidence.trust.verdict import Ledger


class Testimony(NamedTuple):
    """One piece of evidence that was checked.

    size: tree size of the checkpoint it is over. time: genTime or the witness's. earliest, latest: with the accuracy.
    leaf: index of the `anchored` event that it stands in, None outside the log. witness: key id of the witness.
    trusted: the policy trusts it. detail, values: message id of why not.
    """

    size: int
    time: str
    earliest: str
    latest: str
    leaf: Optional[int]
    subject: str
    witness: Optional[str]
    trusted: bool
    detail: str = ""
    values: Mapping[str, Any] = MappingProxyType({})


class Evidence:
    """All evidence of one verification."""

    def __init__(self, ledger: Ledger, holders: Holders) -> None:
        self.ledger, self.holders = ledger, holders
        self.all: list[Testimony] = []
        self.own: set[str] = set()
        """Key ids that signed the package itself: none of them is a witness of it."""

    def stamp(
        self,
        data: bytes,
        message: bytes,
        subject: str,
        *,
        size: int,
        leaf: Optional[int] = None,
        message_file: str,
        strict: str = "time_stamps",
    ) -> Optional[Testimony]:
        """A time stamp over `message`, whose failures are recorded under 3.3; no stamp at all under the check `strict`."""
        try:
            stamp = parse_time_stamp(data, where=subject)
        except UnsupportedError as error:
            self._unsupported(error, subject, message_file, data)
            return None
        except GeoEvidenceError as error:
            self.ledger.fail_by(strict, subject, error)
            if strict != "time_stamps":
                self.ledger.skip_because("time_stamps", subject, strict)
            return None
        try:
            stamp.verify_signature(message)
        except UnsupportedError as error:
            self._unsupported(error, subject, message_file, data)
            return None
        except GeoEvidenceError as error:
            self.ledger.fail_by("time_stamps", subject, error)
            return None
        detail, values = self._distrust(stamp)
        made = Testimony(size, stamp.gen_time, stamp.earliest, stamp.latest, leaf, subject, None, not detail, detail, values)
        self.all.append(made)
        return made

    def _unsupported(self, error: UnsupportedError, subject: str, message_file: str, data: bytes) -> None:
        # a response starts with its status, a bare token with its type
        is_token = der.read(data, where=subject).children()[0].tag == der.OID
        command = openssl_command(message_file, subject, "root.pem", is_token)
        self.ledger.skip("time_stamps", subject, "trust.stamp_unsupported", found=error.values.get("found", "-"), command=command)

    def _distrust(self, stamp: TimeStamp) -> tuple[str, Mapping[str, Any]]:
        """Message id and values of why the policy does not trust a valid stamp, or "" and none."""
        policy = self.holders.policy
        roots = tuple(each.certificate for each in policy.roots(TIME_STAMPS))
        if not roots:
            return "trust.no_authority", {"authority": stamp.tsa.subject_text}
        revoked = policy.revoked_at(stamp.latest)
        try:
            build_chain(stamp.tsa, stamp.others, roots, moment=stamp.gen_time, purpose="time", revoked=revoked)
        except (CertificateError, UnsupportedError) as error:
            return error.message_id, error.values
        return "", {}

    def cosignature(
        self, data: bytes, text: str, subject: str, *, size: int, leaf: Optional[int] = None, strict: str = "cosignatures"
    ) -> Optional[Testimony]:
        """A witness's cosignature of the checkpoint with that text; recorded under 3.4, or `strict` where it is none."""
        try:
            checkpoint, cosignature = parse_cosignature(data, where=subject)
        except GeoEvidenceError as error:
            self.ledger.fail_by(strict, subject, error)
            if strict != "cosignatures":
                self.ledger.skip_because("cosignatures", subject, strict)
            return None
        if checkpoint.to_text() != text:
            self.ledger.fail("cosignatures", subject, "trust.cosignature_other", expected=text, found=checkpoint.to_text())
            return None
        key = self.holders.by_note_name(cosignature.name)
        if key is None and self.ledger.spoilt("keys"):
            self.ledger.skip_because("cosignatures", subject, "keys")
            return None
        if key is None:
            self.ledger.fail("cosignatures", subject, "trust.key_unknown", where=subject, key_id=cosignature.name)
            return None
        try:
            cosignature.verify(key, text)
        except GeoEvidenceError as error:
            self.ledger.fail_by("cosignatures", subject, error)
            return None
        time = cosignature.time
        use = Use(key.key_id, WITNESS_ROLE, time, max(size - 1, 0), subject)
        judged = self.holders.judge(use)
        trusted = judged.holder is not None and not judged.refused
        detail, values = judged.detail, judged.values
        if trusted and key.key_id in self.own:
            trusted, detail, values = False, "trust.witness_own", {"holder": judged.holder}
        made = Testimony(size, time, time, cosignature.latest, leaf, subject, key.key_id, trusted, detail, values)
        self.all.append(made)
        return made

    def times_before(self, leaf: int) -> set[str]:
        """Times of all evidence, trusted or not, that stands in the log before an index."""
        return {each.time for each in self.all if each.leaf is not None and each.leaf < leaf}

    def interval(self, leaf: int, anchored: int) -> tuple[Optional[str], Optional[str]]:
        """(after, before) of an event: its index, and the tree size that its anchor names."""
        before = [each.latest for each in self.all if each.trusted and each.size > leaf]
        after = [each.earliest for each in self.all if each.trusted and each.leaf is not None and each.leaf < anchored]
        return max(after, default=None), min(before, default=None)

    def witnesses(self, size: int) -> set[str]:
        """Key ids of trusted witnesses of the checkpoint of that size, outside the log."""
        return {each.witness for each in self.all if each.witness and each.trusted and each.leaf is None and each.size == size}
