"""Asks an RFC 3161 time-stamp authority, and believes no answer that was not checked.

A request carries the SHA-256 of the message, never the message; a random nonce ties the answer to it. An answer is
taken when its status is granted, it is strict DER, nonce and imprint are those of the request and its signature is
valid. Whether the authority is one to trust is decided later, by the reader of a package and their trust file.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from geoevidence.custody.asking import Transport, ask_patiently, http_transport, require_url
from geoevidence.errors import AnswerError, GeoEvidenceError
from geoevidence.trust import der
from geoevidence.trust.signatures import HASH_OIDS
from geoevidence.trust.timestamps import TimeStamp, parse_time_stamp

QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
"""Media types of RFC 3161 section 3.4."""
_NONCE_BYTES = 8
_SHA256 = der.encode(der.SEQUENCE, der.encode_oid(HASH_OIDS["sha256"]), der.encode(der.NULL))
# RFC 3161 section 2.4.2, PKIFailureInfo: bit -> name
FAILURES = {
    0: "badAlg", 2: "badRequest", 5: "badDataFormat", 14: "timeNotAvailable", 15: "unacceptedPolicy",
    16: "unacceptedExtension", 17: "addInfoNotAvailable", 25: "systemFailure",
}  # fmt: skip


class TimeStampRequest(NamedTuple):
    """What a TimeStampReq asks (RFC 3161 section 2.4.1).

    imprint: DER of the MessageImprint. algorithm: object identifier of its hash. digest: its hash value. policy: object
    identifier, or None. nonce: or None. wants_certificate: the authority is to put its certificate into the token.
    """

    imprint: bytes
    algorithm: str
    digest: bytes
    policy: str | None
    nonce: int | None
    wants_certificate: bool


def build_request(message: bytes, random: Callable[[int], bytes]) -> bytes:
    """DER of a TimeStampReq for SHA-256 of `message`, with a nonce of 64 bits from `random` and the wish for the certificate."""
    imprint = der.encode(der.SEQUENCE, _SHA256, der.encode(der.OCTET_STRING, hashlib.sha256(message).digest()))
    nonce = der.encode_integer(int.from_bytes(random(_NONCE_BYTES), "big"))
    return der.encode(der.SEQUENCE, der.encode_integer(1), imprint, nonce, der.encode(der.BOOLEAN, b"\xff"))


def parse_request(data: bytes, *, where: str = "TimeStampReq") -> TimeStampRequest:
    """The request of its DER. Extensions are refused. Raises FormatError."""
    fields = der.Fields(der.read(data, where=where, tag=der.SEQUENCE))
    version = fields.take(der.INTEGER)
    if version.integer() != 1:
        raise version.bad_value()
    imprint = fields.take(der.SEQUENCE)
    policy, nonce, wanted = fields.optional(der.OID), fields.optional(der.INTEGER), fields.optional(der.BOOLEAN)
    fields.end()
    parts = der.Fields(imprint)
    algorithm, digest = der.Fields(parts.take(der.SEQUENCE)), parts.take(der.OCTET_STRING)
    parts.end()
    oid = algorithm.take(der.OID).oid()
    algorithm.optional(der.NULL)
    algorithm.end()
    return TimeStampRequest(
        imprint.encoded,
        oid,
        digest.content,
        None if policy is None else policy.oid(),
        None if nonce is None else nonce.integer(),
        wanted is not None and wanted.boolean(),
    )


def check_answer(request: bytes, answer: bytes, message: bytes, *, where: str) -> TimeStamp:
    """The time stamp in the answer to a request of ours for `message`.

    Args:
        request: what `build_request` gave.
        answer: DER of a TimeStampResp, or of the bare token.
        where: who answered, for messages.

    Raises: AnswerError when the request was rejected, or the answer is not to it, cannot be read, or is not validly signed.
    """
    try:
        _require_granted(answer, where)
        stamp = parse_time_stamp(answer, where=where)
        if stamp.nonce != parse_request(request).nonce:
            raise AnswerError("custody.tsa_nonce", where=where)
        if (stamp.imprint_algorithm, stamp.imprint) != ("sha256", hashlib.sha256(message).digest()):
            raise AnswerError("custody.tsa_imprint", where=where)
        stamp.verify_signature(message)
    except AnswerError:
        raise
    except GeoEvidenceError as error:
        raise AnswerError("custody.tsa_answer", where=where, reason=error) from error
    return stamp


def _require_granted(answer: bytes, where: str) -> None:
    """PKIStatusInfo, RFC 3161 section 2.4.2. A bare token has none."""
    first = der.Fields(der.read(answer, where=where, tag=der.SEQUENCE)).optional(der.SEQUENCE)
    if first is None:
        return
    fields = der.Fields(first)
    status, texts, failure = fields.take(der.INTEGER).integer(), fields.optional(der.SEQUENCE), fields.optional(der.BIT_STRING)
    if status in (0, 1):
        return
    words = [] if texts is None else [re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", each.text())[:200] for each in texts.children()[:3]]
    if failure is not None:
        octets, unused = failure.bits()
        bits = [n for n in range(8 * len(octets) - unused) if octets[n // 8] >> (7 - n % 8) & 1]
        words += [FAILURES.get(bit, f"bit {bit}") for bit in bits]
    raise AnswerError("custody.tsa_rejected", where=where, status=status, reason="; ".join(words) or "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStampClient:
    """An authority that answers over HTTP (RFC 3161 section 3.4).

    url: of http or https. random: gives that many random bytes, for nonces. transport: how it is asked.
    sleep: waits that many seconds between tries. tries: how often it is asked before giving up.
    """

    url: str
    random: Callable[[int], bytes]
    transport: Transport
    sleep: Callable[[float], None] = time.sleep
    tries: int = 3

    def __post_init__(self) -> None:
        require_url(self.url)

    @classmethod
    def over_http(cls, url: str, *, random: Callable[[int], bytes]) -> TimeStampClient:
        """The authority at that address of the network. Raises ConfigError for an address that cannot be one."""
        return cls(url=url, random=random, transport=http_transport())

    @property
    def name(self) -> str:
        return self.url

    def stamp(self, message: bytes) -> bytes:
        """A time stamp of `message`, checked: DER of the TimeStampResp.

        Raises: NoAnswerError, when it can be asked again later; AnswerError.
        """
        request = build_request(message, self.random)
        answer = ask_patiently(self.transport, self.url, request, QUERY, tries=self.tries, sleep=self.sleep)
        if answer.status != 200:
            raise AnswerError("custody.answer_status", where=self.url, status=answer.status)
        if answer.content_type.partition(";")[0].strip().lower() != REPLY:
            raise AnswerError("custody.answer_type", where=self.url, expected=REPLY, found=answer.content_type[:80] or "-")
        check_answer(request, answer.body, message, where=self.url)
        return answer.body
