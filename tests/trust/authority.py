"""Certificates and time stamps for the tests: made with `cryptography`, with bytes put together by hand, and by OpenSSL."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from geoevidence.trust import der
from geoevidence.trust.certificates import Certificate, parse_certificate
from geoevidence.trust.signatures import HASH_OIDS, digest_of

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
MOMENT = "2027-06-01T12:00:00Z"
MESSAGE = b"a checkpoint"
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def openssl(*words: str | Path, check: bool = True, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs OpenSSL 3; the test is skipped, and says so, where there is none."""
    program = shutil.which("openssl")
    if program is None or b"OpenSSL 3" not in subprocess.run([program, "version"], capture_output=True, timeout=60).stdout:
        pytest.skip("OpenSSL 3 absent: no second opinion on these bytes")
    done = subprocess.run([program, *map(str, words)], capture_output=True, input=data, timeout=60)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def old_python() -> str:
    """The oldest Python that the kernel promises to run under: on the path, or one of pyenv's. Skips aloud where there is none."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for path in [shutil.which("python3.9"), *sorted(versions.glob("3.9.*/bin/python"))]:
        if path and subprocess.run([path, "-c", ""], capture_output=True, timeout=60).returncode == 0:
            return str(path)
    pytest.skip("old Python absent: python3.9 does not run here")


def private_key(kind: str, number: int = 0) -> Any:
    """The same key for the same kind and number within one run (RSA is slow to make)."""
    return _private_key(kind, number)


@cache
def _private_key(kind: str, number: int) -> Any:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"authority %d" % number).digest())
    curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[kind]
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(f"{kind} {number}".encode()).digest(), "big") >> 8, curve)


def name(common: str, organisation: str = "测试机构") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def usage(*names: str) -> x509.KeyUsage:
    known = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{each: each in names for each in known})


CA = (x509.BasicConstraints(ca=True, path_length=None), True)
CA_USAGE = (usage("key_cert_sign", "crl_sign"), True)
STAMPING = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True)
SIGNING = (usage("digital_signature"), True)


@dataclass(frozen=True)
class Holder:
    """A key with its certificate; `read` is ours, `made` the one of `cryptography`."""

    key: Any
    made: x509.Certificate
    issuer: Holder | None = None
    read: Certificate = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", parse_certificate(self.der))

    @property
    def der(self) -> bytes:
        return self.made.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.made.public_bytes(serialization.Encoding.PEM)


def certify(
    common: str,
    kind: str = "P-256",
    *,
    by: Holder | None = None,
    number: int = 0,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    start: datetime = START,
    end: datetime = END,
    serial: int = 7,
    hash_name: str = "sha256",
    pss: int | None = None,
    as_issuer: x509.Name | None = None,
    public: Any = None,
) -> Holder:
    """A certificate for a key, signed by `by` or by itself. pss: salt length of an RSA-PSS signature."""
    key = private_key(kind, number)
    issuer = as_issuer or (by.made.subject if by else name(common))
    builder = x509.CertificateBuilder(issuer, name(common), public or key.public_key(), serial, start, end)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signer = by.key if by else key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else HASHES[hash_name]
    pad = None if pss is None else padding.PSS(padding.MGF1(HASHES[hash_name]), pss)
    return Holder(key, builder.sign(signer, algorithm, rsa_padding=pad), by)


def authority(common: str, kind: str = "P-256", *, by: Holder | None = None, number: int = 1, **more: Any) -> Holder:
    """A certificate authority."""
    return certify(common, kind, by=by, number=number, extensions=more.pop("extensions", (CA, CA_USAGE)), **more)


# ---- tokens put together by hand ---------------------------------------------------------


def algorithm_identifier(oid: str, *parameters: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), *parameters)


def octets(value: bytes) -> bytes:
    return der.encode(der.OCTET_STRING, value)


def attribute(oid: str, *values: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode_set_of(values))


def pss_parameters(hash_name: str, salt: int) -> bytes:
    hashed = algorithm_identifier(HASH_OIDS[hash_name], der.encode(der.NULL))
    return der.encode(
        der.SEQUENCE,
        der.encode(0xA0, hashed),
        der.encode(0xA1, algorithm_identifier("1.2.840.113549.1.1.8", hashed)),
        der.encode(0xA2, der.encode_integer(salt)),
    )


def sign(key: Any, hash_name: str, message: bytes, *, pss: int | None = None) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        pad = padding.PKCS1v15() if pss is None else padding.PSS(padding.MGF1(HASHES[hash_name]), pss)
        return key.sign(message, pad, HASHES[hash_name])
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(HASHES[hash_name]))
    return key.sign(message)


SCHEME_OIDS = {
    ("rsa", "sha256"): "1.2.840.113549.1.1.11",
    ("rsa", "sha384"): "1.2.840.113549.1.1.12",
    ("rsa", "sha512"): "1.2.840.113549.1.1.13",
    ("ec", "sha256"): "1.2.840.10045.4.3.2",
    ("ec", "sha384"): "1.2.840.10045.4.3.3",
    ("ec", "sha512"): "1.2.840.10045.4.3.4",
}


def scheme_identifier(key: Any, hash_name: str, pss: int | None = None) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        if pss is not None:
            return algorithm_identifier("1.2.840.113549.1.1.10", pss_parameters(hash_name, pss))
        return algorithm_identifier(SCHEME_OIDS["rsa", hash_name], der.encode(der.NULL))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return algorithm_identifier(SCHEME_OIDS["ec", hash_name])
    return algorithm_identifier("1.3.101.112")


def info(
    message: bytes = MESSAGE,
    *,
    hash_name: str = "sha256",
    imprint: bytes | None = None,
    gen_time: bytes = b"20270601120000Z",
    after_time: bytes = b"",
    version: int = 1,
    imprint_oid: str | None = None,
) -> bytes:
    """A TSTInfo; after_time: encodings of the optional fields."""
    value = digest_of(hash_name, message) if imprint is None else imprint
    hashed = algorithm_identifier(imprint_oid or HASH_OIDS[hash_name], der.encode(der.NULL))
    return der.encode(
        der.SEQUENCE,
        der.encode_integer(version),
        der.encode_oid("1.2.3.4.1"),
        der.encode(der.SEQUENCE, hashed, octets(value)),
        der.encode_integer(0x0102030405),
        der.encode(der.GENERALIZED_TIME, gen_time),
        after_time,
    )


def certificate_id(certificate: Certificate, version: int = 2, *, issuer_serial: bool = True, hash_name: str = "sha256") -> bytes:
    """A SigningCertificate (SHA-1) or SigningCertificateV2 attribute."""
    digest = hashlib.sha1(certificate.der).digest() if version == 1 else digest_of(hash_name, certificate.der)
    named = b""
    if issuer_serial:
        names = der.encode(der.SEQUENCE, der.encode(0xA4, certificate.issuer))
        named = der.encode(der.SEQUENCE, names, der.encode_integer(certificate.serial))
    algorithm = b"" if version == 1 or hash_name == "sha256" else algorithm_identifier(HASH_OIDS[hash_name])
    one = der.encode(der.SEQUENCE, algorithm, octets(digest), named)
    oid = "1.2.840.113549.1.9.16.2.12" if version == 1 else "1.2.840.113549.1.9.16.2.47"
    return attribute(oid, der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, one)))


CONTENT_TYPE = attribute("1.2.840.113549.1.9.3", der.encode_oid("1.2.840.113549.1.9.16.1.4"))


@dataclass(frozen=True)
class Draft:
    """All parts of a token, to be changed before it is put together."""

    holder: Holder
    info: bytes = field(default_factory=info)
    certificates: tuple[bytes, ...] | None = None
    hash_name: str = "sha256"
    pss: int | None = None
    identifier: bytes | None = None
    signature_algorithm: bytes | None = None
    attributes: tuple[bytes, ...] | None = None
    sort: Callable[[Sequence[bytes]], Sequence[bytes]] = sorted
    signature: bytes | None = None
    sign: Callable[[bytes], bytes] | None = None
    unsigned: bytes = b""
    crls: bytes = b""
    version: int = 3
    signer_version: int = 1
    content_oid: str = "1.2.840.113549.1.9.16.1.4"
    signed_data_oid: str = "1.2.840.113549.1.7.2"
    digests: tuple[str, ...] | None = None
    signers: int = 1

    def signer_info(self) -> bytes:
        certificate = self.holder.read
        attributes = self.attributes
        if attributes is None:
            message_digest = attribute("1.2.840.113549.1.9.4", octets(digest_of(self.hash_name, self.info)))
            attributes = (CONTENT_TYPE, message_digest, certificate_id(certificate))
        joined = b"".join(self.sort(attributes))
        signed = der.encode(der.SET, joined)
        make = self.sign or (lambda message: sign(self.holder.key, self.hash_name, message, pss=self.pss))
        identifier = self.identifier or der.encode(der.SEQUENCE, certificate.issuer, der.encode_integer(certificate.serial))
        return der.encode(
            der.SEQUENCE,
            der.encode_integer(self.signer_version),
            identifier,
            algorithm_identifier(HASH_OIDS[self.hash_name], der.encode(der.NULL)),
            der.encode(0xA0, joined),
            self.signature_algorithm or scheme_identifier(self.holder.key, self.hash_name, self.pss),
            octets(make(signed) if self.signature is None else self.signature),
            self.unsigned,
        )

    def token(self) -> bytes:
        certificates = (self.holder.der,) if self.certificates is None else self.certificates
        digests = (HASH_OIDS[self.hash_name],) if self.digests is None else self.digests
        data = der.encode(
            der.SEQUENCE,
            der.encode_integer(self.version),
            der.encode_set_of([algorithm_identifier(oid, der.encode(der.NULL)) for oid in digests]),
            der.encode(der.SEQUENCE, der.encode_oid(self.content_oid), der.encode(0xA0, octets(self.info))),
            der.encode(0xA0, *certificates) if certificates else b"",
            self.crls,
            der.encode_set_of([self.signer_info()] * self.signers),
        )
        return der.encode(der.SEQUENCE, der.encode_oid(self.signed_data_oid), der.encode(0xA0, data))


def response(token: bytes, status: int = 0, text: str = "") -> bytes:
    words = der.encode(der.SEQUENCE, der.encode(der.UTF8_STRING, text.encode())) if text else b""
    return der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode_integer(status), words), token)


# ---- time stamps by OpenSSL -----------------------------------------------------------------

_CONFIGURATION = """
[ tsa ]
default_tsa = it
[ it ]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
certs = {folder}/certs.pem
signer_key = {folder}/tsa.key
signer_digest = {digest}
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512, sm3
accuracy = secs:1, millisecs:500, microsecs:100
clock_precision_digits = {precision}
tsa_name = {name}
ess_cert_id_chain = {chain}
ess_cert_id_alg = {ess}
"""


def openssl_reply(
    holder: Holder,
    folder: Path,
    *,
    message: bytes = MESSAGE,
    extra: Sequence[Holder] = (),
    digest: str = "sha256",
    imprint: str = "sha256",
    name: str = "yes",
    chain: str = "no",
    ess: str = "sha256",
    precision: int = 0,
    no_certificate: bool = False,
) -> bytes:
    """A TimeStampResp by `openssl ts -reply`, at the real time of the machine."""
    folder.mkdir(exist_ok=True)
    (folder / "serial").write_text("0A\n")
    (folder / "tsa.pem").write_bytes(holder.pem)
    (folder / "certs.pem").write_bytes(b"".join(each.pem for each in extra))
    (folder / "tsa.key").write_bytes(
        holder.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    text = _CONFIGURATION.format(folder=folder, digest=digest, name=name, chain=chain, ess=ess, precision=precision)
    (folder / "tsa.cnf").write_text("\n".join(line for line in text.splitlines() if extra or not line.startswith("certs =")))
    (folder / "data").write_bytes(message)
    asked = [] if no_certificate else ["-cert"]
    openssl("ts", "-query", "-data", folder / "data", f"-{imprint}", *asked, "-out", folder / "query.tsq")
    openssl(
        "ts", "-reply", "-config", folder / "tsa.cnf", "-queryfile", folder / "query.tsq", "-out", folder / "reply.tsr"
    )  # fmt: skip
    return (folder / "reply.tsr").read_bytes()
