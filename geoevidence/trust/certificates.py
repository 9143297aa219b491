"""X.509 certificates, and chains from one of them to a root that the reader trusts.

A subset of RFC 5280: names chain by their exact bytes, every signature is checked, every
certificate is in its term at the moment asked for, issuers are authorities within their path
length and may sign certificates, and no critical extension is unknown. Roots come from outside
and are trusted as given. What was revoked is an argument; no revocation list is fetched or read,
and policies and name constraints are not processed (a critical one is refused). Decides only.
Raises FormatError, CertificateError, UnsupportedError. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from geoevidence.trust import curves, der
from geoevidence.trust.canonical import base64_value
from geoevidence.trust.errors import CertificateError, FormatError, SignatureError, UnsupportedError, VerificationError
from geoevidence.trust.signatures import (
    EC_OID,
    ED25519_OID,
    HASH_OIDS,
    RSA_OID,
    PublicKey,
    digest_of,
    parse_rsa_key,
    verify_ed25519,
    verify_rsa_pkcs1,
    verify_rsa_pss,
)

PURPOSES = ("sign", "time")
"""What a chain is asked for: to sign documents, or to stamp times."""
TIME_STAMPING = "1.3.6.1.5.5.7.3.8"
"""id-kp-timeStamping, RFC 5280 section 4.2.1.12."""
MAX_CHAIN = 10
"""Most certificates in a chain."""
MAX_CERTIFICATES = 64
"""Most certificates in one file, in one token, or offered for one chain."""
MAX_LINKS = 256
"""Most signatures checked for one chain, so that certificates made to cost time do not."""
MAX_PATHS = 1000
"""Most beginnings of a chain that are looked at, for the same reason."""
KEY_USAGES = (
    "digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign",
    "encipherOnly", "decipherOnly",
)  # fmt: skip
"""Names of the bits of keyUsage, RFC 5280 section 4.2.1.3."""
PSS_OID = "1.2.840.113549.1.1.10"
_MGF1_OID = "1.2.840.113549.1.1.8"
_SHA1_OID = "1.3.14.3.2.26"
HASH_NAMES = {oid: name for name, oid in HASH_OIDS.items()}
"""Object identifier of a hash function -> its name."""
# RFC 4055, RFC 5758, RFC 8410, GM/T 0006-2012: signature algorithm -> scheme
_SCHEMES = {
    "1.2.840.113549.1.1.11": "rsa-pkcs1-sha256",
    "1.2.840.113549.1.1.12": "rsa-pkcs1-sha384",
    "1.2.840.113549.1.1.13": "rsa-pkcs1-sha512",
    "1.2.840.10045.4.3.2": "ecdsa-sha256",
    "1.2.840.10045.4.3.3": "ecdsa-sha384",
    "1.2.840.10045.4.3.4": "ecdsa-sha512",
    "1.2.156.10197.1.501": "sm2-sm3",
    ED25519_OID: "ed25519",
}
# Attribute types by the short names that RFC 4514 and certificates use
_NAMES = {
    "2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
    "2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.42": "GN",
    "2.5.4.97": "organizationIdentifier", "1.2.840.113549.1.9.1": "emailAddress",
    "0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC",
}  # fmt: skip
_BASIC_CONSTRAINTS, _KEY_USAGE, _EXTENDED_KEY_USAGE = "2.5.29.19", "2.5.29.15", "2.5.29.37"
_SUBJECT_KEY_ID, _ALTERNATIVE_NAMES, _POLICIES = "2.5.29.14", "2.5.29.17", "2.5.29.32"
# May be critical: those that are acted on; further names (nothing here rests on a name that is not shown); and
# policies, as RFC 5280 section 6.1 asks no more of a verifier that accepts any policy.
_KNOWN = {_BASIC_CONSTRAINTS, _KEY_USAGE, _EXTENDED_KEY_USAGE, _SUBJECT_KEY_ID, _ALTERNATIVE_NAMES, _POLICIES}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True)
class Scheme:
    """How a signature is made.

    name: `rsa-pkcs1-`, `rsa-pss-` or `ecdsa-` and `sha256`, `sha384` or `sha512`; `sm2-sm3`; `ed25519`.
    salt_length: of PSS, octets; else None.
    """

    name: str
    salt_length: Optional[int] = None


@dataclass(frozen=True)
class SubjectKey:
    """The public key of a certificate's subject.

    kind: rsa, rsa-pss (for PSS alone), P-256, P-384, SM2, ed25519; or the object identifiers of one that is not known here.
    raw: as in `PublicKey`; for a key not known here the contents of its BIT STRING.
    scheme: of an rsa-pss key that is bound to one hash; its salt length is the shortest allowed. Else None.
    """

    kind: str
    raw: bytes
    scheme: Optional[Scheme] = None

    def verify(self, scheme: Scheme, signature: bytes, message: bytes) -> None:
        """Raises unless `signature` is this key's over `message`.

        Raises: SignatureError; UnsupportedError where the kind of key is not known here.
        """
        if self.kind not in _KINDS:
            raise UnsupportedError("trust.algorithm_unknown", found=self.kind)
        family, _, hash_name = scheme.name.rpartition("-")
        if (family or scheme.name) not in _KINDS[self.kind]:
            raise SignatureError("trust.signature_scheme", key=self.kind, scheme=scheme.name)
        if self.scheme is not None and (
            scheme.name != self.scheme.name or (scheme.salt_length or 0) < (self.scheme.salt_length or 0)
        ):
            raise SignatureError("trust.signature_scheme", key=self.scheme.name, scheme=scheme.name)
        if family == "rsa-pkcs1":
            verify_rsa_pkcs1(self.raw, signature, message, hash_name=hash_name)
        elif family == "rsa-pss":
            verify_rsa_pss(self.raw, signature, message, hash_name=hash_name, salt_length=scheme.salt_length)
        elif family == "ecdsa":
            curve = curves.P256 if self.kind == "P-256" else curves.P384
            curves.verify_ecdsa(curve, self.raw, signature, digest_of(hash_name, message))
        elif family == "sm2":
            curves.verify_sm2(self.raw, signature, message)
        else:
            verify_ed25519(self.raw, signature, message)


_KINDS = {
    "rsa": ("rsa-pkcs1", "rsa-pss"),
    "rsa-pss": ("rsa-pss",),
    "P-256": ("ecdsa",),
    "P-384": ("ecdsa",),
    "SM2": ("sm2",),
    "ed25519": ("ed25519",),
}
_PUBLIC_KINDS = {
    "ed25519": ("ed25519",),
    "ecdsa-p256-sha256": ("P-256",),
    "ecdsa-p384-sha384": ("P-384",),
    "sm2-sm3": ("SM2",),
    "rsa-pkcs1-sha256": ("rsa",),
    "rsa-pss-sha256": ("rsa", "rsa-pss"),
}


@dataclass(frozen=True)
class Certificate:
    """An X.509 certificate, read and not yet trusted.

    der: its bytes.
    signed: the part that its issuer signed.
    algorithm: object identifier of the issuer's signature.
    scheme: the same as this program knows it, or None where it does not.
    signature: the issuer's.
    version: 1, 2 or 3.
    serial: number given by the issuer.
    issuer, subject: DER of the names.
    issuer_text, subject_text: readable, the most particular part first: `CN=..., O=..., C=CN`.
    not_before, not_after: term, UTC text, both included.
    key: public key of the subject.
    is_ca: may issue certificates, as basicConstraints says.
    path_length: authorities that may follow below this one, or None for any number.
    key_usage: names of `KEY_USAGES`, or None where it does not say.
    extended_key_usage: object identifiers, or None where it does not say.
    extended_key_usage_critical: that extension is marked critical.
    unknown_critical: object identifiers of critical extensions that this program does not know.
    subject_key_id: or None.
    alternative_names: DER of each further name of the subject.
    """

    der: bytes
    signed: bytes
    algorithm: str
    scheme: Optional[Scheme]
    signature: bytes
    version: int
    serial: int
    issuer: bytes
    subject: bytes
    issuer_text: str
    subject_text: str
    not_before: str
    not_after: str
    key: SubjectKey
    is_ca: bool
    path_length: Optional[int]
    key_usage: Optional[tuple[str, ...]]
    extended_key_usage: Optional[tuple[str, ...]]
    extended_key_usage_critical: bool
    unknown_critical: tuple[str, ...]
    subject_key_id: Optional[bytes]
    alternative_names: tuple[bytes, ...]

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the whole certificate."""
        return hashlib.sha256(self.der).hexdigest()

    def has_key(self, key: PublicKey) -> bool:
        """True where the subject's key is `key`, with an algorithm that the certificate leaves open to it."""
        if self.key.kind not in _PUBLIC_KINDS[key.algorithm] or self.key.raw != key.raw:
            return False
        bound = self.key.scheme
        return bound is None or (bound.name == key.algorithm and (bound.salt_length or 0) <= 32)

    def check_issued_by(self, issuer: Certificate) -> None:
        """Raises unless `issuer` signed this certificate and is its issuer by name. RFC 5280 section 6.1.3 (a)(1) and (4).

        Raises: CertificateError; UnsupportedError.
        """
        if self.issuer != issuer.subject:
            raise CertificateError("trust.certificate_untrusted", subject=self.subject_text, issuer=self.issuer_text)
        if self.scheme is None:
            raise UnsupportedError("trust.algorithm_unknown", found=self.algorithm)
        try:
            issuer.key.verify(self.scheme, self.signature, self.signed)
        except SignatureError as error:
            raise CertificateError("trust.certificate_signature", subject=self.subject_text, issuer=self.issuer_text) from error


# ---- reading --------------------------------------------------------------------------------


def parse_certificate(data: bytes, *, where: str = "X.509") -> Certificate:
    """The certificate of its DER. Raises FormatError."""
    return certificate_from_element(der.read(data, where=where, tag=der.SEQUENCE))


def parse_certificates_pem_or_der(data: bytes, *, where: str = "X.509") -> tuple[Certificate, ...]:
    """The certificates of one DER, or of the PEM blocks of a text (RFC 7468; what stands between the blocks is skipped).

    In the order of the file, at least one. Raises FormatError.
    """
    # a text is ASCII, where a certificate is always longer than a length of one octet can say
    if data[:1] == b"\x30" and data[1:2] >= b"\x80":
        return (parse_certificate(data, where=where),)
    blocks = _PEM.findall(data)
    if not 0 < len(blocks) <= MAX_CERTIFICATES or data.count(b"-----BEGIN CERTIFICATE-----") != len(blocks):
        raise FormatError("trust.certificate_file", where=where, found=len(blocks), limit=MAX_CERTIFICATES)
    bodies = [base64_value(b"".join(block.split()).decode("ascii"), where=where) for block in blocks]
    return tuple(parse_certificate(body, where=f"{where} [{n}]") for n, body in enumerate(bodies, 1))


def certificate_from_element(element: der.Element) -> Certificate:
    """The certificate of a SEQUENCE that was read as part of something else. RFC 5280 section 4.1. Raises FormatError."""
    outer = der.Fields(element)
    signed, algorithm = outer.take(der.SEQUENCE), outer.take(der.SEQUENCE)
    signature = outer.take(der.BIT_STRING).whole_bits()
    outer.end()
    fields = der.Fields(signed)
    version = _version(fields.optional(0xA0))
    serial = fields.take(der.INTEGER).integer()
    # section 4.1.1.2: the algorithm outside is the one that is signed
    inner = fields.take(der.SEQUENCE)
    if inner.encoded != algorithm.encoded:
        raise FormatError("trust.certificate_algorithms", where=element.where)
    issuer = fields.take(der.SEQUENCE)
    validity = der.Fields(fields.take(der.SEQUENCE))
    not_before, not_after = (validity.take(der.UTC_TIME, der.GENERALIZED_TIME).time() for _ in range(2))
    validity.end()
    subject = fields.take(der.SEQUENCE)
    key = _subject_key(fields.take(der.SEQUENCE))
    fields.optional(0x81)
    fields.optional(0x82)
    extensions = _extensions(fields.optional(0xA3))
    fields.end()
    if extensions and version != 3:
        raise FormatError("trust.certificate_version", where=element.where, found=version)
    values = {oid: value for oid, (_, value) in extensions.items()}
    is_ca, path_length = _basic_constraints(values.get(_BASIC_CONSTRAINTS))
    return Certificate(
        der=element.encoded,
        signed=signed.encoded,
        algorithm=der.Fields(algorithm).take(der.OID).oid(),
        scheme=_known_scheme(algorithm),
        signature=signature,
        version=version,
        serial=serial,
        issuer=issuer.encoded,
        subject=subject.encoded,
        issuer_text=name_text(issuer),
        subject_text=name_text(subject),
        not_before=not_before,
        not_after=not_after,
        key=key,
        is_ca=is_ca,
        path_length=path_length,
        key_usage=_key_usage(values.get(_KEY_USAGE)),
        extended_key_usage=_extended_key_usage(values.get(_EXTENDED_KEY_USAGE)),
        extended_key_usage_critical=_EXTENDED_KEY_USAGE in extensions and extensions[_EXTENDED_KEY_USAGE][0],
        unknown_critical=tuple(oid for oid, (critical, _) in extensions.items() if critical and oid not in _KNOWN),
        subject_key_id=_subject_key_id(values.get(_SUBJECT_KEY_ID)),
        alternative_names=_alternative_names(values.get(_ALTERNATIVE_NAMES)),
    )


def _only(element: der.Element, *tags: int) -> der.Element:
    """The one value inside an explicit tag."""
    fields = der.Fields(element, element.tag)
    value = fields.take(*tags)
    fields.end()
    return value


def _version(element: Optional[der.Element]) -> int:
    if element is None:
        return 1
    version = _only(element, der.INTEGER).integer() + 1
    if version not in (2, 3):
        raise FormatError("trust.certificate_version", where=element.where, found=version)
    return version


def name_text(element: der.Element) -> str:
    """A distinguished name as text, most particular part first, escaped as RFC 4514 section 2.4 does. Raises FormatError.

    A value that is no string is shown in hexadecimal after `#`.
    """
    parts = []
    for relative in element.children():
        members = der.Fields(relative, der.SET)
        pairs = []
        for pair in (members.take(der.SEQUENCE), *members.rest()):
            fields = der.Fields(pair)
            oid, value = fields.take(der.OID).oid(), fields.take()
            fields.end()
            pairs.append(f"{_NAMES.get(oid, oid)}={_name_value(value)}")
        parts.append("+".join(pairs))
    return ", ".join(reversed(parts))


def _name_value(value: der.Element) -> str:
    if value.tag not in der.CHARACTERS:
        return "#" + value.encoded.hex()
    text = re.sub(r'([,+"\\<>;=])', r"\\\1", value.text())
    # spaces and # at the edges mean something in RFC 4514; a line break would look like another line
    return re.sub(r"\A[ #]| \Z|[\x00-\x1f\x7f]", lambda found: f"\\{ord(found.group()):02x}", text)


def _subject_key(element: der.Element) -> SubjectKey:
    """RFC 5280 section 4.1.2.7; a kind of key that is not known here is kept, to be refused when it is used."""
    fields = der.Fields(element)
    identifier = fields.take(der.SEQUENCE)
    raw = fields.take(der.BIT_STRING).whole_bits()
    fields.end()
    parts = der.Fields(identifier)
    oid = parts.take(der.OID).oid()
    parameters = parts.rest()
    tags = [parameter.tag for parameter in parameters]
    if oid in (RSA_OID, PSS_OID):
        # bound to a scheme that is not known here, or too short to count: kept, and refused when it is used
        scheme = _known_scheme(identifier) if oid == PSS_OID and parameters else None
        if tags not in ([], [der.NULL]) and scheme is None:
            return SubjectKey(oid, raw)
        try:
            parse_rsa_key(raw)
        except FormatError as error:
            if error.message_id != "trust.key_rsa_bits":
                raise
            return SubjectKey(f"{oid} {error.values['found']}", raw)
        return SubjectKey("rsa" if oid == RSA_OID else "rsa-pss", raw, scheme)
    if oid == ED25519_OID and not parameters:
        if len(raw) != 32:
            raise FormatError("trust.key_length", algorithm="ed25519", found=len(raw))
        return SubjectKey("ed25519", raw)
    if oid == EC_OID and tags == [der.OID]:
        named = parameters[0].oid()
        for curve in curves.CURVES:
            # a compressed point (RFC 5480 section 2.2) is left to the unknown kinds
            if curve.oid == named and raw[:1] == b"\x04":
                curve.point(raw)
                return SubjectKey(curve.name, raw)
        oid += f" {named}"
    return SubjectKey(oid, raw)


def _extensions(element: Optional[der.Element]) -> dict[str, tuple[bool, der.Element]]:
    """Object identifier -> (critical, value); none twice (RFC 5280 section 4.2)."""
    extensions: dict[str, tuple[bool, der.Element]] = {}
    for each in [] if element is None else _only(element, der.SEQUENCE).children():
        oid, critical, value = parse_extension(each)
        if oid in extensions:
            raise FormatError("trust.certificate_extension", where=each.where, oid=oid)
        extensions[oid] = critical, value
    return extensions


def parse_extension(element: der.Element) -> tuple[str, bool, der.Element]:
    """Object identifier, whether critical, and the OCTET STRING of an Extension. RFC 5280 section 4.1.

    A FALSE that DER would leave out is accepted: many certificates spell it. Raises FormatError.
    """
    fields = der.Fields(element)
    oid, flag, value = fields.take(der.OID).oid(), fields.optional(der.BOOLEAN), fields.take(der.OCTET_STRING)
    fields.end()
    return oid, flag is not None and flag.boolean(), value


def _basic_constraints(value: Optional[der.Element]) -> tuple[bool, Optional[int]]:
    if value is None:
        return False, None
    fields = der.Fields(value.inner(der.SEQUENCE))
    flag, length = fields.optional(der.BOOLEAN), fields.optional(der.INTEGER)
    fields.end()
    is_ca, path_length = flag is not None and flag.boolean(), None if length is None else length.integer()
    # section 4.2.1.9: a path length belongs to an authority
    if path_length is not None and (path_length < 0 or not is_ca):
        raise FormatError("trust.certificate_extension", where=value.where, oid=_BASIC_CONSTRAINTS)
    return is_ca, path_length


def _key_usage(value: Optional[der.Element]) -> Optional[tuple[str, ...]]:
    if value is None:
        return None
    octets, _ = value.inner(der.BIT_STRING).bits()
    return tuple(
        name for n, name in enumerate(KEY_USAGES) if n // 8 < len(octets) and octets[n // 8] & 0x80 >> n % 8
    )  # fmt: skip


def _extended_key_usage(value: Optional[der.Element]) -> Optional[tuple[str, ...]]:
    if value is None:
        return None
    purposes = der.Fields(value.inner(der.SEQUENCE))
    return tuple(each.oid() for each in [purposes.take(der.OID), *purposes.rest()])


def _subject_key_id(value: Optional[der.Element]) -> Optional[bytes]:
    return None if value is None else value.inner(der.OCTET_STRING).content


def _alternative_names(value: Optional[der.Element]) -> tuple[bytes, ...]:
    if value is None:
        return ()
    return tuple(each.encoded for each in value.inner(der.SEQUENCE).children())


def parse_scheme(element: der.Element, *, digest: Optional[str] = None) -> Scheme:
    """The signature scheme of an AlgorithmIdentifier.

    Args:
        element: the SEQUENCE.
        digest: name of the hash, where the identifier may name the key alone, as in a SignerInfo (RFC 5652 section 10.1.2).

    Raises: FormatError; UnsupportedError for one that is not known here.
    """
    fields = der.Fields(element)
    oid = fields.take(der.OID).oid()
    parameters = fields.rest()
    if oid == PSS_OID and len(parameters) == 1:
        return _pss_scheme(parameters[0])
    # RFC 4055 section 5: absent means NULL for RSA; for SM2 both are found. Elsewhere they are absent.
    if parameters and (oid in (ED25519_OID, EC_OID) or [each.tag for each in parameters] != [der.NULL]):
        raise UnsupportedError("trust.algorithm_unknown", found=oid)
    named = _SCHEMES.get(oid)
    if digest is not None:
        if oid == RSA_OID and digest != "sm3":
            named = f"rsa-pkcs1-{digest}"
        elif oid == EC_OID and digest != "sm3":
            named = f"ecdsa-{digest}"
        elif oid in _SM2_OIDS and digest == "sm3":
            named = "sm2-sm3"
    if named is None:
        raise UnsupportedError("trust.algorithm_unknown", found=oid)
    return Scheme(named)


def _known_scheme(element: der.Element) -> Optional[Scheme]:
    try:
        return parse_scheme(element)
    except UnsupportedError:
        return None


# GM/T 0006-2012: SM2, and SM2 as signature algorithm
_SM2_OIDS = (curves.SM2.oid, curves.SM2.oid + ".1")


def _pss_scheme(element: der.Element) -> Scheme:
    """RSASSA-PSS-params, RFC 4055 section 3.1: the mask made with MGF1 and the same hash, the one trailer there is.

    What is left out means SHA-1 and a salt of 20 octets.
    """
    fields = der.Fields(element)
    found = {tag: fields.optional(tag) for tag in (0xA0, 0xA1, 0xA2, 0xA3)}
    fields.end()
    inner = {tag: None if value is None else _only(value) for tag, value in found.items()}
    hash_oid, mask, length, trailer = (inner[tag] for tag in (0xA0, 0xA1, 0xA2, 0xA3))
    name = HASH_NAMES.get(_SHA1_OID if hash_oid is None else hash_identifier(hash_oid))
    salt_length = 20 if length is None else length.integer()
    if name in (None, "sm3") or mask is None or not 0 <= salt_length <= 1024 or (trailer and trailer.integer() != 1):
        raise UnsupportedError("trust.algorithm_unknown", found=PSS_OID)
    mask_fields = der.Fields(mask)
    mask_oid, mask_hash = mask_fields.take(der.OID).oid(), mask_fields.take(der.SEQUENCE)
    mask_fields.end()
    if mask_oid != _MGF1_OID or HASH_NAMES.get(hash_identifier(mask_hash)) != name:
        raise UnsupportedError("trust.algorithm_unknown", found=PSS_OID)
    return Scheme(f"rsa-pss-{name}", salt_length)


def hash_identifier(element: der.Element) -> str:
    """Object identifier of a hash function's AlgorithmIdentifier, with NULL or no parameters. Raises FormatError."""
    fields = der.Fields(element)
    oid = fields.take(der.OID).oid()
    fields.optional(der.NULL)
    fields.end()
    return oid


# ---- chains ---------------------------------------------------------------------------------


Links = dict[tuple[bytes, bytes], Optional[VerificationError]]
"""(DER of a certificate, DER of its issuer) -> what is wrong with the signature, or None."""


def build_chain(
    leaf: Certificate,
    others: Sequence[Certificate],
    roots: Sequence[Certificate],
    *,
    moment: str,
    purpose: str,
    revoked: Collection[tuple[bytes, int]] = (),
    links: Optional[Links] = None,
) -> tuple[Certificate, ...]:
    """The certificates from `leaf` to one of `roots`, each signed by the next, all good for `purpose` at `moment`.

    A subset of RFC 5280 section 6. A certificate among `others` with the name and the key of a root stands for that
    root, which is used as it was given. A root may itself be the leaf. A root is trusted as given, but its term, its
    constraints and its extensions hold like those of the others.

    Args:
        leaf: whose use is in question.
        others: certificates that may stand between, in any order, from anywhere.
        roots: what the reader trusts.
        moment: UTC text.
        purpose: one of `PURPOSES`; see `check_purpose`.
        revoked: (DER of the issuer's name, serial) of certificates that no longer count.
        links: what is known of signatures that were checked before; new ones are added.

    Raises: CertificateError, of the first way to a root where several fail; UnsupportedError where the only ways
        there are need an algorithm or a critical extension that this program does not know.
    """
    if len(others) > MAX_CERTIFICATES:
        raise CertificateError("trust.certificate_many", found=len(others), limit=MAX_CERTIFICATES)
    check_purpose(leaf, purpose)
    refused: list[VerificationError] = []
    unlinked: list[VerificationError] = []
    for path in _paths(leaf, others, roots, unlinked, {} if links is None else links):
        try:
            _check_path(path, moment, revoked)
        except (CertificateError, UnsupportedError) as error:
            refused.append(error)
        else:
            return path
    untrusted = CertificateError("trust.certificate_untrusted", subject=leaf.subject_text, issuer=leaf.issuer_text)
    raise (refused + unlinked + [untrusted])[0]


def _paths(
    leaf: Certificate,
    others: Sequence[Certificate],
    roots: Sequence[Certificate],
    unlinked: list[VerificationError],
    known: Links,
) -> Iterator[tuple[Certificate, ...]]:
    """Chains of names and signatures to a root, the shortest first.

    Whoever adds certificates that lead nowhere does not make the chains many: each link is a signature.
    Links that fail are added to `unlinked`.
    """
    trusted = {root.der for root in roots}
    if leaf.der in trusted:
        yield (leaf,)
    anchors = {(root.subject, root.key) for root in roots}
    candidates = [*roots, *(each for each in others if (each.subject, each.key) not in anchors)]
    links: dict[bytes, list[Certificate]] = {}
    checked, begun = 0, 1
    pending: deque[tuple[Certificate, ...]] = deque([(leaf,)])
    while pending:
        path = pending.popleft()
        last = path[-1]
        if last.der not in links:
            links[last.der] = []
            for issuer in (each for each in candidates if each.subject == last.issuer):
                checked += 1
                if checked > MAX_LINKS:
                    raise CertificateError("trust.certificate_many", found=checked, limit=MAX_LINKS)
                pair = (last.der, issuer.der)
                if pair not in known:
                    known[pair] = _link_problem(last, issuer)
                problem = known[pair]
                if problem is None:
                    links[last.der].append(issuer)
                else:
                    unlinked.append(problem)
        for issuer in links[last.der]:
            # RFC 5280 section 6.1: none twice; by name and key, so that no loop hides in renewed certificates
            if any((each.subject, each.key) == (issuer.subject, issuer.key) for each in path):
                continue
            if issuer.der in trusted:
                yield (*path, issuer)
            elif len(path) + 1 < MAX_CHAIN:
                begun += 1
                if begun > MAX_PATHS:
                    raise CertificateError("trust.certificate_many", found=begun, limit=MAX_PATHS)
                pending.append((*path, issuer))


def _link_problem(certificate: Certificate, issuer: Certificate) -> Optional[VerificationError]:
    try:
        certificate.check_issued_by(issuer)
    except (CertificateError, UnsupportedError) as error:
        # kept without what it was raised in, which would be kept with it
        return error.with_traceback(None)
    return None


def _check_path(path: tuple[Certificate, ...], moment: str, revoked: Collection[tuple[bytes, int]]) -> None:
    below = 0
    for n, each in enumerate(path):
        subject = each.subject_text
        if moment < each.not_before:
            raise CertificateError("trust.certificate_early", subject=subject, moment=moment, since=each.not_before)
        if moment > each.not_after:
            raise CertificateError("trust.certificate_expired", subject=subject, moment=moment, until=each.not_after)
        if (each.issuer, each.serial) in revoked:
            raise CertificateError("trust.certificate_revoked", subject=subject, serial=f"{each.serial:x}")
        if each.unknown_critical:
            raise UnsupportedError("trust.certificate_critical", subject=subject, oid=", ".join(each.unknown_critical))
        if n == 0:
            continue
        # section 6.1.4 (k) to (n). Versions 1 and 2 cannot say that they are authorities: the reader who gave one as root did.
        is_ca = each.is_ca or (each.version < 3 and each is path[-1])
        if not is_ca or (each.key_usage is not None and "keyCertSign" not in each.key_usage):
            raise CertificateError("trust.certificate_no_authority", subject=subject)
        if each.path_length is not None and below > each.path_length:
            raise CertificateError("trust.certificate_path_length", subject=subject, limit=each.path_length)
        # what an authority issues to itself, to change its key, does not count
        below += each.issuer != each.subject


def check_purpose(certificate: Certificate, purpose: str) -> None:
    """Raises unless the subject's key may be used for one of `PURPOSES`.

    sign: keyUsage, where there is one, has digitalSignature or nonRepudiation.
    time: extendedKeyUsage is critical and timeStamping alone (RFC 3161 section 2.3), and keyUsage, where there is one,
        has nothing but digitalSignature and nonRepudiation, the two that go with it (RFC 5280 section 4.2.1.12).

    Raises: CertificateError.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose is one of {PURPOSES}, not {purpose!r}")
    problem = _CHECKS[purpose](certificate)
    if problem:
        raise CertificateError("trust.certificate_usage", subject=certificate.subject_text, purpose=purpose, problem=problem)


def _signs(certificate: Certificate) -> str:
    usages = certificate.key_usage
    return "keyUsage" if usages is not None and not {"digitalSignature", "nonRepudiation"} & set(usages) else ""


def _stamps(certificate: Certificate) -> str:
    usages = certificate.key_usage
    if usages is not None and not set(usages) <= {"digitalSignature", "nonRepudiation"}:
        return "keyUsage"
    if certificate.extended_key_usage != (TIME_STAMPING,) or not certificate.extended_key_usage_critical:
        return "extendedKeyUsage"
    return _signs(certificate)


_CHECKS: dict[str, Callable[[Certificate], str]] = {"sign": _signs, "time": _stamps}
