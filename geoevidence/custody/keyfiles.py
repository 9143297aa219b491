"""Private keys as files: PKCS#8 in PEM, plain or under a passphrase (RFC 5208, RFC 5958, RFC 8018).

Reads Ed25519 (RFC 8410) and SM2 keys (the curve of GB/T 32918 in the form of RFC 5915), encrypted with PBES2 as
OpenSSL and GmSSL write it: PBKDF2 with SHA-1, SHA-2 or SM3, AES or SM4 in CBC mode. Writes one form: PBKDF2 with
HMAC-SHA256, AES-256-CBC. Opens and writes no file. Raises CustodyError for a passphrase that is missing, needless or
wrong, and for what is no such key.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from geoevidence.errors import CustodyError, FormatError
from geoevidence.trust import curves, der
from geoevidence.trust.signatures import EC_OID, ED25519_OID

ITERATIONS = 600_000
"""Of PBKDF2 in files written here: about a quarter of a second for each guess of a passphrase."""
_MAX_ITERATIONS = 10_000_000
_PBES2, _PBKDF2 = "1.2.840.113549.1.5.13", "1.2.840.113549.1.5.12"
_HMAC_SHA256, _AES_256 = "1.2.840.113549.2.9", "2.16.840.1.101.3.4.1.42"
# RFC 8018 appendix B.1.2; the last one GM/T 0091
_PRFS: dict[str, type[hashes.HashAlgorithm]] = {
    "1.2.840.113549.2.7": hashes.SHA1,
    _HMAC_SHA256: hashes.SHA256,
    "1.2.840.113549.2.10": hashes.SHA384,
    "1.2.840.113549.2.11": hashes.SHA512,
    "1.2.156.10197.1.401.2": hashes.SM3,
}
# RFC 8018 appendix B.2.5, GM/T 0006: cipher, octets of its key
_CIPHERS: dict[str, tuple[Callable[[bytes], BlockCipherAlgorithm], int]] = {
    "2.16.840.1.101.3.4.1.2": (AES, 16),
    "2.16.840.1.101.3.4.1.22": (AES, 24),
    _AES_256: (AES, 32),
    "1.2.156.10197.1.104.2": (SM4, 16),
}
_PEM = re.compile(rb"-----BEGIN (ENCRYPTED )?PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END \1?PRIVATE KEY-----")


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key. algorithm: ed25519 or sm2-sm3; secret: 32 bytes."""

    algorithm: str
    secret: bytes

    def __repr__(self) -> str:
        # never the secret: a traceback may show it
        return f"PrivateKey({self.algorithm!r})"


def private_blocks(pem: bytes) -> tuple[bytes, ...]:
    """The PEM blocks of private keys in a text, in its order."""
    return tuple(found.group() + b"\n" for found in _PEM.finditer(pem))


def is_encrypted(pem: bytes) -> bool:
    """True where the first private key of the text is under a passphrase."""
    found = _PEM.search(pem)
    return found is not None and found.group(1) is not None


def read_private_key(pem: bytes, *, passphrase: str | None, path: Path) -> PrivateKey:
    """The first private key of a PEM text.

    Args:
        pem: the text.
        passphrase: of the key, or None for a plain one.
        path: where the text is from, for messages.

    Raises: CustodyError `custody.key_passphrase_needed`, `custody.key_no_passphrase`, or `custody.key_unusable` for a wrong
        passphrase and for bytes that are no key of these kinds.
    """
    found = _PEM.search(pem)
    if found is None:
        raise CustodyError("custody.key_unusable", path=path)
    if found.group(1) and not passphrase:
        raise CustodyError("custody.key_passphrase_needed", path=path)
    if not found.group(1) and passphrase:
        raise CustodyError("custody.key_no_passphrase", path=path)
    try:
        raw = base64.b64decode(b"".join(found.group(2).split()), validate=True)
        if found.group(1):
            raw = _decrypt(raw, (passphrase or "").encode("utf-8"), str(path))
        return _parse(raw, str(path))
    except (FormatError, ValueError) as error:
        raise CustodyError("custody.key_unusable", path=path) from error


def write_private_key(key: PrivateKey, *, passphrase: str | None, random: Callable[[int], bytes]) -> bytes:
    """The PEM text of a key, encrypted where there is a passphrase. random: gives salt and initialization vector."""
    raw = _encode(key)
    if not passphrase:
        return _pem("PRIVATE KEY", raw)
    salt, vector = random(16), random(16)
    secret = PBKDF2HMAC(hashes.SHA256(), 32, salt, ITERATIONS).derive(passphrase.encode("utf-8"))
    padder, encryptor = padding.PKCS7(128).padder(), Cipher(AES(secret), CBC(vector)).encryptor()
    encrypted = encryptor.update(padder.update(raw) + padder.finalize()) + encryptor.finalize()
    prf = der.encode(der.SEQUENCE, der.encode_oid(_HMAC_SHA256), der.encode(der.NULL))
    kdf = der.encode(der.SEQUENCE, der.encode(der.OCTET_STRING, salt), der.encode_integer(ITERATIONS), prf)
    scheme = der.encode(
        der.SEQUENCE,
        der.encode(der.SEQUENCE, der.encode_oid(_PBKDF2), kdf),
        der.encode(der.SEQUENCE, der.encode_oid(_AES_256), der.encode(der.OCTET_STRING, vector)),
    )
    algorithm = der.encode(der.SEQUENCE, der.encode_oid(_PBES2), scheme)
    return _pem("ENCRYPTED PRIVATE KEY", der.encode(der.SEQUENCE, algorithm, der.encode(der.OCTET_STRING, encrypted)))


def certificates_pem(certificates: tuple[bytes, ...]) -> bytes:
    """The PEM text of DER certificates (RFC 7468)."""
    return b"".join(_pem("CERTIFICATE", each) for each in certificates)


def _pem(label: str, raw: bytes) -> bytes:
    text = base64.b64encode(raw).decode("ascii")
    lines = "".join(f"{text[at : at + 64]}\n" for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n".encode("ascii")


def _decrypt(raw: bytes, passphrase: bytes, where: str) -> bytes:
    """The PrivateKeyInfo inside an EncryptedPrivateKeyInfo (RFC 5958 section 3, PBES2 of RFC 8018 appendix A.4)."""
    outer = der.Fields(der.read(raw, where=where, tag=der.SEQUENCE))
    algorithm, data = der.Fields(outer.take(der.SEQUENCE)), outer.take(der.OCTET_STRING).content
    outer.end()
    _need(algorithm.take(der.OID).oid() == _PBES2, where)
    scheme = der.Fields(algorithm.take(der.SEQUENCE))
    algorithm.end()
    kdf, cipher = der.Fields(scheme.take(der.SEQUENCE)), der.Fields(scheme.take(der.SEQUENCE))
    scheme.end()
    _need(kdf.take(der.OID).oid() == _PBKDF2, where)
    parameters = der.Fields(kdf.take(der.SEQUENCE))
    kdf.end()
    salt, iterations = parameters.take(der.OCTET_STRING).content, parameters.take(der.INTEGER).integer()
    length, prf = parameters.optional(der.INTEGER), parameters.optional(der.SEQUENCE)
    parameters.end()
    # RFC 8018 appendix A.2: where no function is named, it is HMAC-SHA1
    named = "1.2.840.113549.2.7" if prf is None else der.Fields(prf).take(der.OID).oid()
    kind, vector = cipher.take(der.OID).oid(), cipher.take(der.OCTET_STRING).content
    cipher.end()
    _need(named in _PRFS and kind in _CIPHERS and 0 < iterations <= _MAX_ITERATIONS and len(vector) == 16, where)
    algorithm_of, size = _CIPHERS[kind]
    _need(length is None or length.integer() == size, where)
    secret = PBKDF2HMAC(_PRFS[named](), size, salt, iterations).derive(passphrase)
    decryptor, unpadder = Cipher(algorithm_of(secret), CBC(vector)).decryptor(), padding.PKCS7(128).unpadder()
    plain: bytes = unpadder.update(decryptor.update(data) + decryptor.finalize()) + unpadder.finalize()
    return plain


def _parse(raw: bytes, where: str) -> PrivateKey:
    """A PrivateKeyInfo: Ed25519 as RFC 8410 section 7, SM2 as RFC 5915 with the curve named outside."""
    fields = der.Fields(der.read(raw, where=where, tag=der.SEQUENCE))
    _need(fields.take(der.INTEGER).integer() in (0, 1), where)
    algorithm, inner = der.Fields(fields.take(der.SEQUENCE)), fields.take(der.OCTET_STRING).content
    fields.optional(0xA0)  # attributes
    fields.optional(0x81)  # the public key of RFC 5958: the signer finds its own
    fields.end()
    oid = algorithm.take(der.OID).oid()
    if oid == ED25519_OID:
        algorithm.end()
        secret = der.read(inner, where=where, tag=der.OCTET_STRING).content
        _need(len(secret) == 32, where)
        return PrivateKey("ed25519", secret)
    _need(oid == EC_OID and algorithm.take(der.OID).oid() == curves.SM2.oid, where)
    algorithm.end()
    key = der.Fields(der.read(inner, where=where, tag=der.SEQUENCE))
    _need(key.take(der.INTEGER).integer() == 1, where)
    secret = key.take(der.OCTET_STRING).content
    _need(len(secret) == 32, where)
    return PrivateKey("sm2-sm3", secret)


def _encode(key: PrivateKey) -> bytes:
    if key.algorithm == "ed25519":
        algorithm, inner = der.encode_oid(ED25519_OID), der.encode(der.OCTET_STRING, key.secret)
    else:
        algorithm = der.encode_oid(EC_OID) + der.encode_oid(curves.SM2.oid)
        inner = der.encode(der.SEQUENCE, der.encode_integer(1), der.encode(der.OCTET_STRING, key.secret))
    return der.encode(
        der.SEQUENCE, der.encode_integer(0), der.encode(der.SEQUENCE, algorithm), der.encode(der.OCTET_STRING, inner)
    )


def _need(holds: bool, where: str) -> None:
    if not holds:
        raise FormatError("custody.key_unusable", path=where)
