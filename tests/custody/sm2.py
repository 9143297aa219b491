"""SM2 keys and certificates for the tests, put together by hand and signed by GmSSL."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from gmssl_pyx import sm2_key_generate, sm2_sign

from geoevidence.custody.keyfiles import PrivateKey, certificates_pem, write_private_key
from geoevidence.trust import curves, der
from geoevidence.trust.signatures import EC_OID

_SM2_SM3 = der.encode(der.SEQUENCE, der.encode_oid("1.2.156.10197.1.501"))
SIGNS, ENCRYPTS, ISSUES = 0xC0, 0x38, 0x06
"""keyUsage: digitalSignature and nonRepudiation; the three of an encryption certificate; keyCertSign and cRLSign."""


@dataclass
class Sm2Key:
    """secret: 32 bytes; public: 64 bytes."""

    secret: bytes
    public: bytes

    @classmethod
    def make(cls) -> Sm2Key:
        public, secret = sm2_key_generate()
        return cls(secret, public)

    @property
    def spki(self) -> bytes:
        algorithm = der.encode(der.SEQUENCE, der.encode_oid(EC_OID), der.encode_oid(curves.SM2.oid))
        return der.encode(der.SEQUENCE, algorithm, der.encode(der.BIT_STRING, b"\x00\x04" + self.public))

    def pem(self, passphrase: str | None = None) -> bytes:
        return write_private_key(PrivateKey("sm2-sm3", self.secret), passphrase=passphrase, random=os.urandom)


def name(common: str) -> bytes:
    pair = der.encode(der.SEQUENCE, der.encode_oid("2.5.4.3"), der.encode(der.UTF8_STRING, common.encode()))
    return der.encode(der.SEQUENCE, der.encode(der.SET, pair))


def extension(oid: str, value: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.BOOLEAN, b"\xff"), der.encode(der.OCTET_STRING, value))


def certificate(
    subject: str,
    key: Sm2Key,
    issuer: str,
    issuer_key: Sm2Key,
    *,
    usage: int = SIGNS,
    serial: int = 7,
    term: tuple[str, str] = ("20260101000000Z", "20300101000000Z"),
) -> bytes:
    """DER of a certificate of version 3; an authority where `usage` is `ISSUES`."""
    extensions = [extension("2.5.29.15", der.encode(der.BIT_STRING, bytes((0, usage))))]
    if usage == ISSUES:
        extensions.append(extension("2.5.29.19", der.encode(der.SEQUENCE, der.encode(der.BOOLEAN, b"\xff"))))
    signed = der.encode(
        der.SEQUENCE,
        der.encode(0xA0, der.encode_integer(2)),
        der.encode_integer(serial),
        _SM2_SM3,
        name(issuer),
        der.encode(der.SEQUENCE, *(der.encode(der.GENERALIZED_TIME, each.encode()) for each in term)),
        name(subject),
        key.spki,
        der.encode(0xA3, der.encode(der.SEQUENCE, *extensions)),
    )
    signature = sm2_sign(issuer_key.secret, issuer_key.public, signed)
    return der.encode(der.SEQUENCE, signed, _SM2_SM3, der.encode(der.BIT_STRING, b"\x00" + signature))


class Sm2Holder:
    """A person with an SM2 key whose certificate leads to a root."""

    def __init__(self, subject: str = "张三", **changes: object) -> None:
        self.root_key, self.key = Sm2Key.make(), Sm2Key.make()
        self.root = certificate("演示根", self.root_key, "演示根", self.root_key, usage=ISSUES, serial=1)
        self.own = certificate(subject, self.key, "演示根", self.root_key, **changes)  # type: ignore[arg-type]

    def files(self, folder: Path, passphrase: str | None = "import") -> tuple[Path, Path]:
        """The private key and the certificates as files."""
        folder.mkdir(parents=True, exist_ok=True)
        key, chain = folder / "key.pem", folder / "certificates.pem"
        key.write_bytes(self.key.pem(passphrase))
        chain.write_bytes(certificates_pem((self.own, self.root)))
        return key, chain


def public_pem(key: Sm2Key) -> bytes:
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(key.spki) + b"-----END PUBLIC KEY-----\n"
