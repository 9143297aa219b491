"""A time-stamp authority of one's own, for demonstrations and tests: it proves nothing about time.

`create` makes a root and an authority under it and throws the root's key away; `reply` answers RFC 3161 requests by the
clock that it is given. Whoever owns the folder can stamp any time, and every certificate says so in its names.
The same request at the same second gives the same token (RSASSA-PKCS1-v1_5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from geoevidence.custody.asking import Answer, Transport
from geoevidence.custody.files import storage_error, write_durably
from geoevidence.custody.timestamps import FAILURES, REPLY, TimeStampRequest, parse_request
from geoevidence.errors import ConfigError, CustodyError, FormatError
from geoevidence.trust import der
from geoevidence.trust.signatures import HASH_OIDS, digest_of

POLICY = "2.25.296204012583129374586071421840531307945"
"""A name of nobody else (ITU-T X.667) for the rules of such an authority: there are none."""
_BITS = 3072
_CERTIFICATE, _KEY, _ROOT = "tsa.pem", "tsa-key.pem", "root.pem"
_TST_INFO, _SIGNED_DATA = "1.2.840.113549.1.9.16.1.4", "1.2.840.113549.1.7.2"
_CONTENT_TYPE, _MESSAGE_DIGEST, _CERTIFICATE_V2 = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4", "1.2.840.113549.1.9.16.2.47"
_RSA_SHA256 = "1.2.840.113549.1.1.11"
_WARNING = "geoevidence demonstration {part} - not a trusted time source"
_WARNING_ZH = "演示用，不具证明力"
_HASHES = {oid: name for name, oid in HASH_OIDS.items()}


class LocalTsa:
    """The authority in a folder.

    Args:
        folder: made by `create`.
        now: its clock; aware times.
    """

    def __init__(self, folder: Path, *, now: Callable[[], datetime]) -> None:
        self._now = now
        try:
            key = load_pem_private_key((folder / _KEY).read_bytes(), None)
            self._certificate = x509.load_pem_x509_certificate((folder / _CERTIFICATE).read_bytes())
            self.root = (folder / _ROOT).read_bytes()
            """PEM of the root certificate."""
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CustodyError("custody.tsa_folder", path=folder, reason=str(error)) from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise CustodyError("custody.tsa_folder", path=folder, reason=type(key).__name__)
        self._key = key

    @classmethod
    def create(cls, folder: Path, *, label: str, now: Callable[[], datetime]) -> LocalTsa:
        """A new authority in a folder that does not exist or is empty, valid for ten years.

        Args:
            label: stands in the names of its certificates, at most 64 characters.

        Raises: ConfigError for the label; CustodyError when something is there, or nothing can be written.
        """
        if not label.strip() or len(label) > 64 or not label.isprintable():
            raise ConfigError("custody.tsa_label", found=label[:80])
        root_key, key = (rsa.generate_private_key(65537, _BITS) for _ in range(2))
        start = now().replace(microsecond=0) - timedelta(minutes=5)
        root_name, name = _name("root", label), _name("TSA", label)
        root = _certificate(root_name, root_name, root_key.public_key(), root_key, start, authority=True)
        certificate = _certificate(name, root_name, key.public_key(), root_key, start, authority=False)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise CustodyError("custody.target_exists", path=folder)
            write_durably(folder / _ROOT, root.public_bytes(Encoding.PEM))
            write_durably(folder / _CERTIFICATE, certificate.public_bytes(Encoding.PEM))
            write_durably(folder / _KEY, secret, mode=0o600)
        except OSError as error:
            raise storage_error(error, folder) from error
        return cls(folder, now=now)

    @property
    def root_der(self) -> bytes:
        """DER of the root certificate: what a trust file names."""
        return x509.load_pem_x509_certificate(self.root).public_bytes(Encoding.DER)

    def reply(self, request: bytes) -> bytes:
        """DER of the TimeStampResp to the DER of a TimeStampReq; a bad request is rejected in it (RFC 3161 section 2.4.2)."""
        try:
            asked = parse_request(request)
        except FormatError:
            return _rejection("badDataFormat")
        hash_name = _HASHES.get(asked.algorithm)
        if hash_name is None or len(digest_of(hash_name, b"")) != len(asked.digest):
            return _rejection("badAlg")
        if asked.policy not in (None, POLICY):
            return _rejection("unacceptedPolicy")
        granted = der.encode(der.SEQUENCE, der.encode_integer(0))
        return der.encode(der.SEQUENCE, granted, self._token(asked))

    def transport(self) -> Transport:
        """Answers in this process, as it would over HTTP."""

        def answer(url: str, body: bytes | None, content_type: str) -> Answer:
            return Answer(200, REPLY, self.reply(body or b""))

        return answer

    def _token(self, asked: TimeStampRequest) -> bytes:
        """RFC 5652 section 5.1 around the TSTInfo of RFC 3161 section 2.4.2."""
        info = self._info(asked)
        sha256 = der.encode(der.SEQUENCE, der.encode_oid(HASH_OIDS["sha256"]), der.encode(der.NULL))
        certificate = self._certificate.public_bytes(Encoding.DER)
        # RFC 5035 section 4: SHA-256 is the default algorithm, so it is left out
        identifier = der.encode(der.SEQUENCE, der.encode(der.OCTET_STRING, hashlib.sha256(certificate).digest()))
        signed = der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, identifier))
        attributes = der.encode_set_of(
            (
                _attribute(_CONTENT_TYPE, der.encode_oid(_TST_INFO)),
                _attribute(_MESSAGE_DIGEST, der.encode(der.OCTET_STRING, hashlib.sha256(info).digest())),
                _attribute(_CERTIFICATE_V2, signed),
            )
        )
        signature = self._key.sign(attributes, padding.PKCS1v15(), hashes.SHA256())
        issuer = self._certificate.issuer.public_bytes()
        signer = der.encode(
            der.SEQUENCE,
            der.encode_integer(1),
            der.encode(der.SEQUENCE, issuer, der.encode_integer(self._certificate.serial_number)),
            sha256,
            # the attributes are signed as a SET and stand here under [0]
            b"\xa0" + attributes[1:],
            der.encode(der.SEQUENCE, der.encode_oid(_RSA_SHA256), der.encode(der.NULL)),
            der.encode(der.OCTET_STRING, signature),
        )
        content = der.encode(der.SEQUENCE, der.encode_oid(_TST_INFO), der.encode(0xA0, der.encode(der.OCTET_STRING, info)))
        data = der.encode(
            der.SEQUENCE,
            der.encode_integer(3),
            der.encode(der.SET, sha256),
            content,
            der.encode(0xA0, certificate) if asked.wants_certificate else b"",
            der.encode(der.SET, signer),
        )
        return der.encode(der.SEQUENCE, der.encode_oid(_SIGNED_DATA), der.encode(0xA0, data))

    def _info(self, asked: TimeStampRequest) -> bytes:
        moment = self._now().astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii")
        nonce = b"" if asked.nonce is None else der.encode_integer(asked.nonce)
        # unlike what was stamped at another time or on another request, without a counter that a crash could turn back
        serial = int.from_bytes(hashlib.sha256(moment + asked.imprint + nonce).digest()[:15], "big")
        return der.encode(
            der.SEQUENCE,
            der.encode_integer(1),
            der.encode_oid(POLICY),
            asked.imprint,
            der.encode_integer(serial),
            der.encode(der.GENERALIZED_TIME, moment),
            der.encode(der.SEQUENCE, der.encode_integer(1)),
            nonce,
        )


def _attribute(oid: str, value: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.SET, value))


def _rejection(failure: str) -> bytes:
    bit = next(number for number, name in FAILURES.items() if name == failure)
    octets = bytearray(bit // 8 + 1)
    octets[-1] = 0x80 >> bit % 8
    bits = der.encode(der.BIT_STRING, bytes([7 - bit % 8]), bytes(octets))
    return der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode_integer(2), bits))


def _name(part: str, label: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _WARNING_ZH),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, label),
            x509.NameAttribute(NameOID.COMMON_NAME, _WARNING.format(part=part)),
        ]
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPublicKey,
    signer: rsa.RSAPrivateKey,
    start: datetime,
    *,
    authority: bool,
) -> x509.Certificate:
    """RFC 5280 section 4.2; RFC 3161 section 2.3: extended key usage critical and for time stamping alone."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3652))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return builder.sign(signer, hashes.SHA256())
