"""RFC 3161 time stamps: reading a token, and checking all that it claims.

A time stamp says that certain bytes existed at a time, by the word of an authority whose clock
one trusts. Read here are the strict DER of a TimeStampResp or of the bare token (RFC 5652
SignedData around TSTInfo, RFC 5816), and checked are digest, signed attributes, signature,
purpose of the signer's certificate, and its chain to a root from outside at that time. What
a token holds beside that (revocation lists, unsigned attributes, further certificates, the
text of a response) vouches for nothing and is not used, nor is anything fetched. Raises
FormatError, CertificateError, SignatureError, VerificationError, UnsupportedError. Standard library only.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Optional

from geoevidence.trust import der
from geoevidence.trust.certificates import (
    HASH_NAMES,
    MAX_CERTIFICATES,
    Certificate,
    Scheme,
    build_chain,
    certificate_from_element,
    check_purpose,
    hash_identifier,
    name_text,
    parse_extension,
    parse_scheme,
)
from geoevidence.trust.errors import FormatError, SignatureError, UnsupportedError, VerificationError
from geoevidence.trust.signatures import digest_of

IMPRINT_ALGORITHMS = ("sha256", "sha384", "sha512", "sm3")
"""Hash functions that a time stamp may use here."""
# RFC 5652 section 5.1; GM/T 0010-2012 has its own number for the same structure, and version 1 of it
_SIGNED_DATA = ("1.2.840.113549.1.7.2", "1.2.156.10197.6.1.4.2.2")
_TST_INFO = "1.2.840.113549.1.9.16.1.4"
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.12", "1.2.840.113549.1.9.16.2.47"
_DIRECTORY_NAME = 0xA4
_TEXT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class TimeStamp:
    """A time-stamp token, read and not yet believed.

    gen_time: when the authority says it stamped, UTC text, floored to the second.
    accuracy_ms: how far it says it may be off, milliseconds rounded up, or None where it does not say.
    earliest, latest: gen_time with its fraction minus and plus the accuracy, rounded outward to seconds, UTC text;
        where no accuracy is stated, gen_time and the second after.
    imprint_algorithm: one of `IMPRINT_ALGORITHMS`.
    imprint: digest of what was stamped.
    serial: number of the token at its authority.
    policy: object identifier of the rules it was made by.
    nonce: number that the requester chose, or None.
    tsa: certificate of the signer.
    others: the other certificates of the token, in its order.
    token: DER of the bare token.
    """

    gen_time: str
    accuracy_ms: Optional[int]
    earliest: str
    latest: str
    imprint_algorithm: str
    imprint: bytes
    serial: int
    policy: str
    nonce: Optional[int]
    tsa: Certificate
    others: tuple[Certificate, ...]
    token: bytes
    _signed: _Signed

    def check_imprint(self, message: bytes) -> None:
        """Raises VerificationError unless the token is of `message`."""
        if digest_of(self.imprint_algorithm, message) != self.imprint:
            raise VerificationError("trust.stamp_imprint", gen_time=self.gen_time)

    def verify_signature(self, message: bytes) -> None:
        """Raises unless the token is of `message` and signed, for this purpose, by the key in its own certificate.

        Whether that certificate can be trusted is not asked; `verify` does.

        Raises: VerificationError, SignatureError, CertificateError (wrong purpose), UnsupportedError.
        """
        self.check_imprint(message)
        self._signed.check(self.tsa)
        check_purpose(self.tsa, "time")

    def verify(
        self, message: bytes, *, roots: Sequence[Certificate], revoked: Collection[tuple[bytes, int]] = ()
    ) -> tuple[Certificate, ...]:
        """The chain from the signer to one of `roots`, after all checks of `verify_signature` and of the chain at gen_time.

        Args:
            roots, revoked: as in `build_chain`.

        Raises: as `verify_signature` and `build_chain`.
        """
        self.verify_signature(message)
        return build_chain(self.tsa, self.others, roots, moment=self.gen_time, purpose="time", revoked=revoked)


@dataclass(frozen=True)
class _CertificateId:
    """ESSCertID or ESSCertIDv2: digest of the signer's certificate, and its issuer (DER) and serial where they are given."""

    algorithm: str
    digest: bytes
    issuer_serial: Optional[tuple[bytes, int]]

    def fits(self, certificate: Certificate) -> bool:
        if self.issuer_serial not in (None, (certificate.issuer, certificate.serial)):
            return False
        if self.algorithm == "sha1":
            # bad where an attacker makes both documents; here one is an authority's certificate, and the standard knew no other
            return hashlib.new("sha1", certificate.der, usedforsecurity=False).digest() == self.digest
        return digest_of(self.algorithm, certificate.der) == self.digest


@dataclass(frozen=True)
class _Signed:
    """What the signature is over, and how. RFC 5652 section 5.3.

    content: DER of the TSTInfo.
    attributes: DER of the signed attributes as SET OF.
    message_digest, certificate_ids: values of those attributes.
    digest: hash function of message_digest.
    tsa_name, tsa_text: the GeneralName by which the TSTInfo names its signer, and its text if it is a directory name.
    """

    content: bytes
    attributes: bytes
    message_digest: bytes
    certificate_ids: tuple[_CertificateId, ...]
    digest: str
    scheme: Scheme
    signature: bytes
    tsa_name: Optional[bytes]
    tsa_text: Optional[str]

    def check(self, certificate: Certificate) -> None:
        # RFC 5652 section 11.2
        if self.message_digest != digest_of(self.digest, self.content):
            raise SignatureError("trust.stamp_digest")
        # RFC 3161 section 2.4.1, RFC 5816: the certificate is signed too, so that no other one with the key takes its place
        if not all(each.fits(certificate) for each in self.certificate_ids):
            raise SignatureError("trust.stamp_certificate", subject=certificate.subject_text)
        # RFC 3161 section 2.4.2, field tsa; directory names as text, as the same name may be in another kind of string
        if self.tsa_name not in (None, *certificate.alternative_names) and self.tsa_text != certificate.subject_text:
            raise SignatureError("trust.stamp_tsa_name", subject=certificate.subject_text)
        certificate.key.verify(self.scheme, self.signature, self.attributes)


# ---- reading --------------------------------------------------------------------------------


def parse_time_stamp(data: bytes, *, where: str = "RFC 3161") -> TimeStamp:
    """The time stamp of the DER of a granted TimeStampResp or of a bare TimeStampToken.

    The token carries the signer's certificate; its certificates are taken in any order.

    Raises: FormatError; UnsupportedError where a hash or signature algorithm is not known.
    """
    element = der.read(data, where=where, tag=der.SEQUENCE)
    fields = der.Fields(element)
    status = fields.optional(der.SEQUENCE)
    if status is not None:
        # RFC 3161 section 2.4.2: granted, or granted with modifications
        number = der.Fields(status).take(der.INTEGER).integer()
        if number not in (0, 1):
            raise FormatError("trust.stamp_status", where=where, found=number)
        element = fields.take(der.SEQUENCE)
        fields.end()
    return _parse_token(element)


def _parse_token(token: der.Element) -> TimeStamp:
    """RFC 5652 sections 3 and 5.1."""
    where = token.where
    fields = der.Fields(token)
    kind, explicit = fields.take(der.OID), der.Fields(fields.take(0xA0), 0xA0)
    fields.end()
    _require(kind.oid() in _SIGNED_DATA, kind)
    data = der.Fields(explicit.take(der.SEQUENCE))
    explicit.end()
    version = data.take(der.INTEGER)
    digests = [hash_identifier(each) for each in data.take(der.SET).children()]
    content = _content(data.take(der.SEQUENCE))
    choices, lists = data.optional(0xA0), data.optional(0xA1)
    signers = data.take(der.SET)
    data.end()
    _require(version.integer() == _version(choices, lists) or (version.integer() == 1 and kind.oid() != _SIGNED_DATA[0]), version)
    certificates = _certificates(choices)
    # RFC 3161 section 2.4.2: no other signature than the authority's
    _require(len(signers.children()) == 1, signers)
    return _parse_signer(token, signers.children()[0], content, certificates, digests, where)


def _version(certificates: Optional[der.Element], lists: Optional[der.Element]) -> int:
    """The version that SignedData has by its parts, where the content is no plain data. RFC 5652 section 5.1."""
    tags = [[] if each is None else [child.tag for child in each.children()] for each in (certificates, lists)]
    if 0xA3 in tags[0] or 0xA1 in tags[1]:
        return 5
    return 4 if 0xA2 in tags[0] else 3


def _content(element: der.Element) -> der.Element:
    """The OCTET STRING that holds the TSTInfo."""
    fields = der.Fields(element)
    kind, explicit = fields.take(der.OID), der.Fields(fields.take(0xA0), 0xA0)
    fields.end()
    _require(kind.oid() == _TST_INFO, kind)
    content = explicit.take(der.OCTET_STRING)
    explicit.end()
    return content


def _certificates(element: Optional[der.Element]) -> tuple[Certificate, ...]:
    """X.509 certificates; the other choices of RFC 5652 section 10.2.2 are passed over. Any order, whatever DER asks of a set."""
    children = [] if element is None else element.children()
    if len(children) > MAX_CERTIFICATES:
        raise FormatError("trust.certificate_file", where=children[0].where, found=len(children), limit=MAX_CERTIFICATES)
    return tuple(certificate_from_element(each) for each in children if each.tag == der.SEQUENCE)


def _parse_signer(
    token: der.Element,
    signer: der.Element,
    content: der.Element,
    certificates: tuple[Certificate, ...],
    digests: list[str],
    where: str,
) -> TimeStamp:
    """RFC 5652 section 5.3, then the TSTInfo."""
    fields = der.Fields(signer)
    version, identifier = fields.take(der.INTEGER), fields.take(der.SEQUENCE, 0x80)
    _require(version.integer() == (1 if identifier.tag == der.SEQUENCE else 3), version)
    algorithm = fields.take(der.SEQUENCE)
    attributes = fields.take(0xA0)
    signature_algorithm, signature = fields.take(der.SEQUENCE), fields.take(der.OCTET_STRING)
    fields.optional(0xA1)
    fields.end()
    _require(hash_identifier(algorithm) in digests, algorithm)
    digest = _hash_name(algorithm)
    values = _attribute_values(attributes)
    certificate_ids = tuple(
        _certificate_id(_value(values, oid, der.SEQUENCE, attributes), oid)
        for oid in (_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2)
        if oid in values
    )
    _require(bool(certificate_ids), attributes)
    content_type = _value(values, _CONTENT_TYPE, der.OID, attributes)
    _require(content_type.oid() == _TST_INFO, content_type)
    named = [each for each in certificates if _is_signer(identifier, each)]
    if not named:
        raise FormatError("trust.stamp_signer", where=where)
    # another certificate with the same number, put in by somebody, must not hide the one that is signed
    tsa = next((each for each in named if all(one.fits(each) for one in certificate_ids)), named[0])
    info = content.inner(der.SEQUENCE)
    parts = der.Fields(info)
    number = parts.take(der.INTEGER)
    _require(number.integer() == 1, number)
    policy = parts.take(der.OID).oid()
    imprint_algorithm, imprint = _imprint(parts.take(der.SEQUENCE))
    serial = parts.take(der.INTEGER).integer()
    moment = parts.take(der.GENERALIZED_TIME)
    gen_time = moment.time(fractions=True)
    accuracy = _accuracy(parts.optional(der.SEQUENCE))
    parts.optional(der.BOOLEAN)
    nonce, name, extensions = parts.optional(der.INTEGER), parts.optional(0xA0), parts.optional(0xA1)
    parts.end()
    for extension in [] if extensions is None else extensions.children():
        oid, critical, _ = parse_extension(extension)
        if critical:
            raise UnsupportedError("trust.algorithm_unknown", found=oid)
    tsa_name, tsa_text = _general_name(name)
    earliest, latest = _interval(gen_time, moment, accuracy)
    return TimeStamp(
        gen_time=gen_time,
        accuracy_ms=None if accuracy is None else -(-accuracy // 1000),
        earliest=earliest,
        latest=latest,
        imprint_algorithm=imprint_algorithm,
        imprint=imprint,
        serial=serial,
        policy=policy,
        nonce=None if nonce is None else nonce.integer(),
        tsa=tsa,
        others=tuple(each for each in certificates if each is not tsa),
        token=token.encoded,
        _signed=_Signed(
            content=content.content,
            # section 5.4: signed under the tag of a SET OF, not under the one that it has inside the SignerInfo
            attributes=der.encode(der.SET, attributes.content),
            message_digest=_value(values, _MESSAGE_DIGEST, der.OCTET_STRING, attributes).content,
            certificate_ids=certificate_ids,
            digest=digest,
            scheme=parse_scheme(signature_algorithm, digest=digest),
            signature=signature.content,
            tsa_name=tsa_name,
            tsa_text=tsa_text,
        ),
    )


def _is_signer(identifier: der.Element, certificate: Certificate) -> bool:
    """SignerIdentifier: issuer and serial, or the subject key identifier."""
    if identifier.tag != der.SEQUENCE:
        return certificate.subject_key_id == identifier.content
    fields = der.Fields(identifier)
    issuer, serial = fields.take(der.SEQUENCE), fields.take(der.INTEGER)
    fields.end()
    return (certificate.issuer, certificate.serial) == (issuer.encoded, serial.integer())


def _attribute_values(attributes: der.Element) -> dict[str, der.Element]:
    """Type and value of each signed attribute, which has one value; sorted as DER asks, since it is this order that is signed."""
    children = attributes.children()
    der.require_sorted(attributes, children)
    found: dict[str, der.Element] = {}
    for each in children:
        fields = der.Fields(each)
        oid, values = fields.take(der.OID).oid(), fields.take(der.SET).children()
        fields.end()
        _require(oid not in found and len(values) == 1, each)
        found[oid] = values[0]
    return found


def _value(values: dict[str, der.Element], oid: str, tag: int, attributes: der.Element) -> der.Element:
    """The value of an attribute that has to be there."""
    _require(oid in values and values[oid].tag == tag, attributes)
    return values[oid]


def _certificate_id(value: der.Element, oid: str) -> _CertificateId:
    """The first ESSCertID or ESSCertIDv2, which is the signer's. RFC 5035 sections 3 to 5."""
    fields = der.Fields(der.Fields(der.Fields(value).take(der.SEQUENCE)).take(der.SEQUENCE))
    algorithm = "sha1"
    if oid == _SIGNING_CERTIFICATE_V2:
        named = fields.optional(der.SEQUENCE)
        algorithm = "sha256" if named is None else _hash_name(named)
    digest, issuer_serial = fields.take(der.OCTET_STRING), fields.optional(der.SEQUENCE)
    fields.end()
    if issuer_serial is None:
        return _CertificateId(algorithm, digest.content, None)
    parts = der.Fields(issuer_serial)
    names, serial = parts.take(der.SEQUENCE), parts.take(der.INTEGER).integer()
    parts.end()
    # one directory name: that is what a certificate has as issuer
    issuer = der.Fields(names)
    name = issuer.take(_DIRECTORY_NAME)
    issuer.end()
    return _CertificateId(algorithm, digest.content, (name.content, serial))


def _general_name(element: Optional[der.Element]) -> tuple[Optional[bytes], Optional[str]]:
    """A GeneralName inside its tag, and its text where it is one directory name."""
    if element is None:
        return None, None
    explicit = der.Fields(element, element.tag)
    name = explicit.take()
    explicit.end()
    if name.tag != _DIRECTORY_NAME:
        return name.encoded, None
    directory = der.Fields(name, _DIRECTORY_NAME)
    text = name_text(directory.take(der.SEQUENCE))
    directory.end()
    return name.encoded, text


def _imprint(element: der.Element) -> tuple[str, bytes]:
    fields = der.Fields(element)
    algorithm, value = fields.take(der.SEQUENCE), fields.take(der.OCTET_STRING)
    fields.end()
    name = _hash_name(algorithm)
    _require(len(value.content) == len(digest_of(name, b"")), value)
    return name, value.content


def _hash_name(element: der.Element) -> str:
    oid = hash_identifier(element)
    if oid not in HASH_NAMES:
        raise UnsupportedError("trust.algorithm_unknown", found=oid)
    return HASH_NAMES[oid]


def _accuracy(element: Optional[der.Element]) -> Optional[int]:
    """Accuracy in microseconds; what is left out counts as zero. RFC 3161 section 2.4.2."""
    if element is None:
        return None
    fields = der.Fields(element)
    seconds, millis, micros = fields.optional(der.INTEGER), fields.optional(0x80), fields.optional(0x81)
    fields.end()
    total = 0
    # a century is nothing that anybody would call accuracy, and keeps the arithmetic of dates in bounds
    for part, unit, low, high in ((seconds, 1_000_000, 0, 100 * 366 * 86400), (millis, 1000, 1, 999), (micros, 1, 1, 999)):
        if part is not None:
            value = part.integer()
            _require(low <= value <= high, part)
            total += unit * value
    return total


def _interval(gen_time: str, moment: der.Element, accuracy: Optional[int]) -> tuple[str, str]:
    """gen_time minus and plus the accuracy, rounded outward. Raises FormatError where a calendar cannot hold it."""
    second = datetime.strptime(gen_time, _TEXT).replace(tzinfo=timezone.utc)
    if accuracy is None:
        before, after = 0, 1_000_000
    else:
        # what is after the sixth digit of the fraction lies between two microseconds
        digits = moment.content[15:-1].decode("ascii")
        micros = int(digits[:6].ljust(6, "0"))
        before, after = micros - accuracy, micros + (len(digits) > 6) + accuracy
    try:
        earliest, latest = (second + timedelta(seconds=part) for part in (before // 1_000_000, -(-after // 1_000_000)))
    except OverflowError as error:
        raise moment.bad_value() from error
    # strftime leaves out leading zeros of a year on some systems
    return tuple(each.replace(tzinfo=None).isoformat() + "Z" for each in (earliest, latest))  # type: ignore[return-value]


def _require(condition: bool, element: der.Element) -> None:
    if not condition:
        raise FormatError("trust.stamp_field", where=element.where, offset=element.offset)


def openssl_command(data_file: str, token_file: str, ca_file: str, is_token: bool, *, gen_time: Optional[str] = None) -> str:
    """The command by which OpenSSL checks the same time stamp (SM2 and SM3 excepted, and RSA-PSS of the signer).

    Args:
        data_file: what was stamped.
        token_file: the time stamp.
        ca_file: PEM of the roots.
        is_token: the file is a bare token, no response.
        gen_time: check the chain at that time instead of now, when the certificates may be past their term; UTC text.

    Returns: one line for a POSIX shell.
    """
    words = ["openssl", "ts", "-verify", "-data", data_file, "-in", token_file]
    if is_token:
        words.append("-token_in")
    words += ["-CAfile", ca_file]
    if gen_time is not None:
        moment = datetime.strptime(gen_time, _TEXT).replace(tzinfo=timezone.utc)
        words += ["-attime", str(int(moment.timestamp()))]
    return " ".join(shlex.quote(word) for word in words)
