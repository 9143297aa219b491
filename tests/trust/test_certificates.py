"""Certificates and chains: what `cryptography` and OpenSSL make and say, one defect at a time, and hostile bytes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.trust import (
    Certificate,
    CertificateError,
    FormatError,
    GeoEvidenceError,
    PublicKey,
    Scheme,
    SignatureError,
    UnsupportedError,
    build_chain,
    check_purpose,
    der,
    parse_certificate,
    parse_certificates_pem_or_der,
)
from geoevidence.trust.certificates import MAX_CERTIFICATES, MAX_CHAIN, Links, name_text, parse_scheme
from geoevidence.trust.signatures import HASH_OIDS
from tests.trust.authority import (
    CA,
    CA_USAGE,
    MOMENT,
    SIGNING,
    STAMPING,
    Holder,
    algorithm_identifier,
    authority,
    certify,
    name,
    octets,
    openssl,
    private_key,
    pss_parameters,
    sign,
    usage,
)


def problem(leaf: Holder, others: Sequence[Holder], roots: Sequence[Holder], **more: Any) -> str | None:
    """Message id of why there is no chain."""
    asked = {"moment": MOMENT, "purpose": "sign", **more}
    try:
        chain = build_chain(leaf.read, [each.read for each in others], [each.read for each in roots], **asked)
    except (CertificateError, UnsupportedError) as error:
        assert error.render("zh") != error.render("en")
        assert "{" not in error.render("zh") + error.render("en")
        return error.message_id
    assert chain[0] == leaf.read and chain[-1] in [root.read for root in roots]
    return None


def openssl_accepts(folder: Path, leaf: Holder, others: Sequence[Holder], roots: Sequence[Holder], moment: str = MOMENT) -> bool:
    for file, holders in (("leaf", [leaf]), ("others", others), ("roots", roots)):
        (folder / file).write_bytes(b"".join(each.pem for each in holders))
    seconds = int(datetime.fromisoformat(moment).timestamp())
    untrusted = ["-untrusted", folder / "others"] if others else []
    words = [
        "verify",
        "-partial_chain",
        "-attime",
        str(seconds),
        "-CAfile",
        folder / "roots",
        "-no-CApath",
        *untrusted,
        folder / "leaf",
    ]
    return openssl(*words, check=False).returncode == 0


# ---- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "P-256", "P-384", "ed25519"])
def test_fields_are_those_that_cryptography_reads(kind: str) -> None:
    root = authority("根 CA", kind)
    names = x509.SubjectAlternativeName([x509.DNSName("tsa.example"), x509.DirectoryName(name("又名"))])
    key_id = x509.SubjectKeyIdentifier(b"\1\2\3")
    extensions = [SIGNING, STAMPING, (names, False), (key_id, False), (x509.BasicConstraints(ca=False, path_length=None), True)]
    holder = certify("张三, 测绘员", kind, by=root, extensions=extensions, serial=0x1234567890ABCDEF)
    read, made = holder.read, holder.made
    assert read.serial == made.serial_number and read.version == 3 and read.der == holder.der
    assert read.issuer == made.issuer.public_bytes() and read.subject == made.subject.public_bytes()
    assert read.subject_text == "CN=张三\\, 测绘员, O=测试机构, C=CN" and read.issuer_text == "CN=根 CA, O=测试机构, C=CN"
    assert (read.not_before, read.not_after) == ("2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert read.key_usage == ("digitalSignature",) and not read.is_ca and read.path_length is None
    assert read.extended_key_usage == ("1.3.6.1.5.5.7.3.8",) and read.extended_key_usage_critical
    assert read.subject_key_id == b"\1\2\3" and len(read.alternative_names) == 2 and read.unknown_critical == ()
    assert read.signed == made.tbs_certificate_bytes and read.signature == made.signature
    assert read.algorithm == made.signature_algorithm_oid.dotted_string
    assert read.sha256 == holder.made.fingerprint(hashes.SHA256()).hex()
    spki = made.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert spki.endswith(read.key.raw) and read.key.kind == kind
    assert root.read.is_ca and root.read.key_usage == ("keyCertSign", "cRLSign")
    read.check_issued_by(root.read)


def test_all_key_usages_and_path_length() -> None:
    every = certify("a", extensions=[(usage("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False),
        (x509.BasicConstraints(ca=True, path_length=3), False)])  # fmt: skip
    assert every.read.key_usage is not None and len(every.read.key_usage) == 9 and every.read.path_length == 3
    assert certify("b").read.key_usage is None and certify("b").read.extended_key_usage is None


def test_pem_and_der() -> None:
    one, two = certify("一"), certify("二")
    assert parse_certificates_pem_or_der(one.der) == (one.read,)
    assert parse_certificates_pem_or_der(b"0 comment\n" + one.pem + b"# more\r\n" + two.pem.replace(b"\n", b"\r\n")) == (
        one.read,
        two.read,
    )
    broken = one.pem.replace(b"\nMII", b"\nM-I")
    for bad in (
        b"",
        b"no certificate",
        broken,
        one.pem + broken,
        one.pem[:-10],
        one.pem.replace(b"-----END", b"A-----END"),
        one.pem * (MAX_CERTIFICATES + 1),
        one.der + b"\0",
    ):
        with pytest.raises(FormatError):
            parse_certificates_pem_or_der(bad)
    assert len(parse_certificates_pem_or_der(one.pem * MAX_CERTIFICATES)) == MAX_CERTIFICATES


def test_names_cannot_pretend() -> None:
    def text(*parts: bytes) -> str:
        return name_text(der.read(der.encode(der.SEQUENCE, *parts), where="name"))

    def part(*pairs: tuple[str, int, bytes]) -> bytes:
        return der.encode_set_of(
            [der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(tag, value)) for oid, tag, value in pairs]
        )

    cn = "2.5.4.3"
    assert text() == ""
    assert text(part((cn, 0x0C, b"A, O=B"))) == "CN=A\\, O\\=B"
    assert text(part((cn, 0x13, b" #x \n"))) == "CN=\\20#x \\0a" and text(part((cn, 0x13, b"#"))) == "CN=\\23"
    assert text(part((cn, 0x13, b"x "))) == "CN=x\\20" and text(part((cn, 0x13, b" "))) == "CN=\\20"
    assert text(part((cn, 0x1E, "深圳".encode("utf-16-be")))) == "CN=深圳" and text(part((cn, 0x14, b"\xe9"))) == "CN=é"
    assert text(part((cn, 0x1C, "水".encode("utf-32-be")))) == "CN=水"
    assert text(part(("1.2.3", 0x04, b"\1"))) == "1.2.3=#040101"
    assert text(part((cn, 0x0C, b"a"), ("2.5.4.5", 0x13, b"1"))) == "CN=a+serialNumber=1"
    for bad in (
        part((cn, 0x0C, b"\xff")),
        part((cn, 0x13, b"\xe9")),
        part((cn, 0x1E, b"x")),
        der.encode(der.SET),
        der.encode(der.SEQUENCE),
        der.encode_set_of([b"\5\0"]),
    ):
        with pytest.raises(FormatError):
            text(bad)


# ---- structure ------------------------------------------------------------------------------


def assemble(
    holder: Holder,
    *,
    version: bytes | None = b"\xa0\x03\x02\x01\x02",
    serial: bytes = b"\2\1\7",
    validity: Sequence[bytes] = (b"\x17\x0d260101000000Z", b"\x17\x0d300101000000Z"),
    spki: bytes | None = None,
    unique: bytes = b"",
    extensions: Sequence[bytes] | None = None,
    outer: bytes | None = None,
    bits: bytes = b"\0",
    rest: bytes = b"",
    algorithm: bytes = algorithm_identifier("1.2.840.10045.4.3.2"),
) -> bytes:
    """A certificate put together by hand, rightly signed."""
    public = spki or holder.made.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    more = b"" if extensions is None else der.encode(0xA3, der.encode(der.SEQUENCE, *extensions))
    signed = der.encode(
        der.SEQUENCE, version or b"", serial, algorithm, holder.read.issuer, der.encode(der.SEQUENCE, *validity), holder.read.subject,
        public, unique, more, rest,
    )  # fmt: skip
    signature = sign(holder.key, "sha256", signed)
    return der.encode(der.SEQUENCE, signed, outer or algorithm, der.encode(der.BIT_STRING, bits, signature))


def extension(oid: str, value: bytes, critical: bytes = b"") -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), critical, octets(value))


BASIC, USAGE, EXTENDED = "2.5.29.19", "2.5.29.15", "2.5.29.37"
TRUE, FALSE = b"\1\1\xff", b"\1\1\0"


def test_assembled_certificates() -> None:
    holder = certify("手工")
    plain = parse_certificate(assemble(holder))
    plain.check_issued_by(plain)
    assert plain.version == 3 and parse_certificate(assemble(holder, version=None)).version == 1
    assert parse_certificate(assemble(holder, version=b"\xa0\x03\x02\x01\x01", unique=b"\x81\2\0\1\x82\2\0\1")).version == 2
    late = parse_certificate(assemble(holder, validity=(b"\x17\x0d500101000000Z", b"\x18\x0f99991231235959Z")))
    assert (late.not_before, late.not_after) == ("1950-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
    spelled = parse_certificate(
        assemble(holder, extensions=[extension(BASIC, b"\x30\3" + FALSE, FALSE), extension("1.2.3", b"", TRUE)])
    )
    assert not spelled.is_ca and spelled.unknown_critical == ("1.2.3",)
    assert parse_certificate(assemble(holder, serial=b"\2\1\xff")).serial == -1


@pytest.mark.parametrize(
    "changes",
    [
        {"version": b"\xa0\x03\x02\x01\x00"},
        {"version": b"\xa0\x03\x02\x01\x03"},
        {"version": b"\xa0\x06\x02\x01\x02\x02\x01\x02"},
        {"version": None, "extensions": [extension("1.2.3", b"")]},
        {"version": b"\xa0\x03\x02\x01\x01", "extensions": [extension("1.2.3", b"")]},
        {"serial": b"\2\2\0\7"},
        {"validity": (b"\x17\x0d260101000000Z",)},
        {"validity": (b"\x17\x0d260101000000Z",) * 3},
        {"validity": (b"\x17\x0b2601010000Z", b"\x17\x0d300101000000Z")},
        {"validity": (b"\x17\x11260101000000+0800", b"\x17\x0d300101000000Z")},
        {"validity": (b"\x17\x0d260230000000Z", b"\x17\x0d300101000000Z")},
        {"validity": (b"\x17\x0d26010100000 Z", b"\x17\x0d300101000000Z")},
        {"validity": (b"\x18\x1120260101000000.5Z", b"\x17\x0d300101000000Z")},
        {"validity": (b"\x18\x0f20260101000060Z", b"\x17\x0d300101000000Z")},
        {"validity": (b"\x17\x00", b"\x17\x0d300101000000Z")},
        {"validity": (b"\x16\x0d260101000000Z", b"\x17\x0d300101000000Z")},
        {"extensions": [extension("1.2.3", b"")] * 2},
        {"extensions": [extension(BASIC, b"\x30\3" + TRUE, b"\1\1\1")]},
        {"extensions": [extension(BASIC, b"\x30\3\2\1\0")]},
        {"extensions": [extension(BASIC, b"\x30\6" + TRUE + b"\2\1\xff")]},
        {"extensions": [extension(BASIC, b"\x30\0\0")]},
        {"extensions": [extension(BASIC, b"")]},
        {"extensions": [extension(USAGE, b"\x03\2\7\x81")]},
        {"extensions": [extension(USAGE, b"\x04\1\x80")]},
        {"extensions": [extension(EXTENDED, b"\x30\0")]},
        {"extensions": [extension(EXTENDED, b"\x30\2\5\0")]},
        {"extensions": [extension("2.5.29.14", b"\5\0")]},
        {"extensions": [extension("2.5.29.17", b"\5\0")]},
        {"extensions": [der.encode(der.SEQUENCE, der.encode_oid("1.2.3"))]},
        {"rest": b"\5\0"},
        {"outer": algorithm_identifier("1.2.840.10045.4.3.3")},
        {"bits": b"\1"},
        {"unique": b"\x82\2\0\1\x81\2\0\1"},
    ],
)
def test_other_structures_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        parse_certificate(assemble(certify("手工"), **changes), where="文件.cer")
    assert "文件.cer" in caught.value.render("zh")


def spki(oid: str, *parameters: bytes, raw: bytes) -> bytes:
    return der.encode(der.SEQUENCE, algorithm_identifier(oid, *parameters), der.encode(der.BIT_STRING, b"\0", raw))


EC = "1.2.840.10045.2.1"
RSA, PSS = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10"
NULL = b"\5\0"


def test_keys_that_are_not_known_are_kept_and_refused_when_used() -> None:
    holder = certify("手工")
    rsa_raw = PublicKey("rsa-pss-sha256", certify("r", "rsa").read.key.raw).raw
    small = der.encode(der.SEQUENCE, der.encode_integer((1 << 1023) + 1), der.encode_integer(65537))
    p256 = certify("p").read.key.raw
    for key, kind in [
        (spki("1.2.3", raw=b"x"), "1.2.3"),
        (spki(EC, der.encode_oid("1.3.132.0.35"), raw=b"\4x"), EC + " 1.3.132.0.35"),
        (spki(EC, der.encode_oid("1.2.840.10045.3.1.7"), raw=b"\2" + p256[1:33]), EC + " 1.2.840.10045.3.1.7"),
        (spki(EC, b"\x30\0", raw=b"explicit curve"), EC),
        (spki("1.3.101.112", NULL, raw=bytes(32)), "1.3.101.112"),
        (spki(RSA, NULL, raw=small), RSA + " 1024"),
        (spki(RSA, b"\2\1\0", raw=rsa_raw), RSA),
        # SHA-1 by default
        (spki(PSS, b"\x30\0", raw=rsa_raw), PSS),
    ]:
        read = parse_certificate(assemble(holder, spki=key))
        assert read.key.kind == kind
        with pytest.raises(UnsupportedError) as caught:
            read.key.verify(Scheme("ecdsa-sha256"), b"", b"")
        assert kind in str(caught.value)
        assert not read.has_key(PublicKey("ecdsa-p256-sha256", p256))
    bad_rsa = der.encode(der.SEQUENCE, der.encode_integer(1 << 2047), der.encode_integer(65537))
    for key in (
        spki(RSA, NULL, raw=bad_rsa),
        spki(RSA, NULL, raw=b"x"),
        spki("1.3.101.112", raw=bytes(31)),
        spki(EC, der.encode_oid("1.2.840.10045.3.1.7"), raw=p256[:-1] + bytes([p256[-1] ^ 1])),
    ):
        with pytest.raises(FormatError):
            parse_certificate(assemble(holder, spki=key))


def test_pss_keys_bound_to_a_hash() -> None:
    holder, signer = certify("手工"), private_key("rsa")
    raw = certify("r", "rsa").read.key.raw
    free = parse_certificate(assemble(holder, spki=spki(PSS, raw=raw))).key
    bound = parse_certificate(assemble(holder, spki=spki(PSS, pss_parameters("sha384", 40), raw=raw)))
    assert free.kind == bound.key.kind == "rsa-pss" and bound.key.scheme == Scheme("rsa-pss-sha384", 40)
    for hash_name, salt, allowed in [("sha384", 48, True), ("sha384", 40, True), ("sha384", 39, False), ("sha256", 48, False)]:
        signature, scheme = sign(signer, hash_name, b"m", pss=salt), Scheme(f"rsa-pss-{hash_name}", salt)
        free.verify(scheme, signature, b"m")
        if allowed:
            bound.key.verify(scheme, signature, b"m")
            continue
        with pytest.raises(SignatureError) as caught:
            bound.key.verify(scheme, signature, b"m")
        assert caught.value.message_id == "trust.signature_scheme"
    with pytest.raises(SignatureError):
        free.verify(Scheme("rsa-pkcs1-sha256"), sign(signer, "sha256", b"m"), b"m")
    key = PublicKey("rsa-pss-sha256", raw)
    assert not bound.has_key(key) and parse_certificate(assemble(holder, spki=spki(PSS, raw=raw))).has_key(key)
    assert parse_certificate(assemble(holder, spki=spki(PSS, pss_parameters("sha256", 32), raw=raw))).has_key(key)
    assert not parse_certificate(assemble(holder, spki=spki(PSS, pss_parameters("sha256", 33), raw=raw))).has_key(key)


def test_has_key() -> None:
    holder = certify("r", "rsa").read
    for algorithm in ("rsa-pkcs1-sha256", "rsa-pss-sha256"):
        assert holder.has_key(PublicKey(algorithm, holder.key.raw))
    point = certify("p", number=3).read
    assert point.has_key(PublicKey("ecdsa-p256-sha256", point.key.raw))
    assert not point.has_key(PublicKey("ecdsa-p256-sha256", certify("p", number=4).read.key.raw))
    assert not holder.has_key(PublicKey("ecdsa-p256-sha256", point.key.raw))


# ---- schemes --------------------------------------------------------------------------------


def scheme(oid: str, *parameters: bytes, digest: str | None = None) -> Scheme | None:
    try:
        return parse_scheme(der.read(algorithm_identifier(oid, *parameters), where="x"), digest=digest)
    except UnsupportedError:
        return None


def test_schemes() -> None:
    assert scheme("1.2.840.113549.1.1.11") == scheme("1.2.840.113549.1.1.11", NULL) == Scheme("rsa-pkcs1-sha256")
    assert scheme("1.2.840.113549.1.1.11", b"\2\1\0") is None and scheme("1.2.840.113549.1.1.5", NULL) is None
    assert scheme("1.2.156.10197.1.501") == Scheme("sm2-sm3") and scheme("1.3.101.112") == Scheme("ed25519")
    assert scheme("1.3.101.112", NULL) is None and scheme(RSA, NULL) is None and scheme(EC) is None
    assert scheme(RSA, NULL, digest="sha384") == Scheme("rsa-pkcs1-sha384") and scheme(RSA, NULL, digest="sm3") is None
    assert scheme(EC, digest="sha512") == Scheme("ecdsa-sha512") and scheme(EC, digest="sm3") is None
    assert scheme(EC, NULL, digest="sha512") is None
    for oid in ("1.2.156.10197.1.301", "1.2.156.10197.1.301.1", "1.2.156.10197.1.501"):
        assert scheme(oid, digest="sm3") == Scheme("sm2-sm3")
    assert scheme("1.2.156.10197.1.301.1", digest="sha256") is None


def test_pss_parameters() -> None:
    def pss(*parts: bytes) -> Scheme | None:
        return scheme(PSS, der.encode(der.SEQUENCE, *parts))

    sha256, sha384, sm3 = (algorithm_identifier(HASH_OIDS[each], NULL) for each in ("sha256", "sha384", "sm3"))
    mask = algorithm_identifier("1.2.840.113549.1.1.8", sha256)
    hashed, masked, salt = der.encode(0xA0, sha256), der.encode(0xA1, mask), der.encode(0xA2, b"\2\1\x20")
    assert pss(hashed, masked, salt) == pss(hashed, masked, salt, b"\xa3\3\2\1\1") == Scheme("rsa-pss-sha256", 32)
    assert pss(hashed, masked) == Scheme("rsa-pss-sha256", 20)
    other = der.encode(0xA1, algorithm_identifier("1.2.840.113549.1.1.8", sha384))
    another = der.encode(0xA1, algorithm_identifier("1.2.3", sha256))
    for bad in (
        (),
        (masked,),
        (hashed,),
        (hashed, other),
        (hashed, another),
        (der.encode(0xA0, sm3), masked),
        (hashed, masked, b"\xa3\3\2\1\2"),
        (hashed, masked, b"\xa2\3\2\1\xff"),
        (hashed, masked, b"\xa2\4\2\2\x7f\xff"),
    ):
        assert pss(*bad) is None
    assert scheme(PSS) is None
    for broken in ((salt, hashed), (hashed, masked, b"\xa2\0")):
        with pytest.raises(FormatError):
            pss(*broken)


def test_key_and_scheme_must_belong_together() -> None:
    for kind, fitting in (
        ("rsa", "rsa-pkcs1-sha256"),
        ("P-256", "ecdsa-sha256"),
        ("P-384", "ecdsa-sha256"),
        ("ed25519", "ed25519"),
    ):
        key = certify("k", kind, number=5).read.key
        key.verify(Scheme(fitting), sign(private_key(kind, 5), "sha256", b"m"), b"m")
        for other in ("rsa-pkcs1-sha256", "ecdsa-sha256", "ed25519", "sm2-sm3"):
            with pytest.raises(SignatureError) as caught:
                key.verify(Scheme(other), b"", b"m")
            assert other == fitting or caught.value.message_id == "trust.signature_scheme"


# ---- chains ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root() -> Holder:
    return authority("根 CA")


@pytest.fixture(scope="module")
def middle(root: Holder) -> Holder:
    return authority("中间 CA", by=root, number=2, serial=11)


@pytest.fixture(scope="module")
def leaf(middle: Holder) -> Holder:
    return certify("签名人", by=middle, number=3, extensions=[SIGNING], serial=12)


@pytest.mark.parametrize(
    ("root_kind", "middle_kind", "hash_name", "pss"),
    [
        ("rsa", "rsa", "sha256", None),
        ("rsa", "P-256", "sha384", 48),
        ("rsa", "rsa", "sha512", 20),
        ("P-384", "P-384", "sha384", None),
        ("P-256", "P-384", "sha512", None),
        ("P-384", "ed25519", "sha256", None),
        ("ed25519", "P-256", "sha256", None),
    ],
)
def test_chains_of_all_algorithms(root_kind: str, middle_kind: str, hash_name: str, pss: int | None, tmp_path: Path) -> None:
    rsa_root = pss if root_kind == "rsa" else None
    top = authority("根", root_kind, hash_name=hash_name, pss=rsa_root)
    between = authority("中", middle_kind, by=top, number=2, hash_name=hash_name, pss=rsa_root)
    end = certify(
        "人", by=between, number=3, extensions=[SIGNING], hash_name=hash_name, pss=pss if middle_kind == "rsa" else None
    )
    chain = build_chain(end.read, [between.read], [top.read], moment=MOMENT, purpose="sign")
    assert chain == (end.read, between.read, top.read)
    assert openssl_accepts(tmp_path, end, [between], [top])


def test_order_and_strangers_do_not_matter(root: Holder, middle: Holder, leaf: Holder) -> None:
    strangers = [authority(f"别人 {n}", number=n + 20) for n in range(5)]
    pretender = authority("中间 CA", number=40)
    for others in ([middle, *strangers], [*strangers, pretender, root, middle], [pretender, middle, middle, leaf, root]):
        assert problem(leaf, others, [strangers[0], root]) is None
    assert problem(leaf, [pretender], [root]) == "trust.certificate_signature"
    assert (
        problem(leaf, [], [root])
        == problem(leaf, [middle], [strangers[0]])
        == problem(leaf, [middle], [])
        == "trust.certificate_untrusted"
    )
    assert problem(leaf, [middle, middle], [strangers[0]]) == "trust.certificate_untrusted"
    with pytest.raises(CertificateError) as caught:
        leaf.read.check_issued_by(root.read)
    assert caught.value.message_id == "trust.certificate_untrusted"
    # an authority given as root need not be signed by itself, and a certificate may be trusted as such
    assert problem(leaf, [], [middle]) is None and problem(leaf, [], [leaf]) is None
    assert build_chain(leaf.read, [], [leaf.read], moment=MOMENT, purpose="sign") == (leaf.read,)


def test_term_at_the_moment(root: Holder, middle: Holder, leaf: Holder, tmp_path: Path) -> None:
    short = certify(
        "签名人",
        by=middle,
        number=3,
        extensions=[SIGNING],
        start=datetime(2027, 1, 1, tzinfo=UTC),
        end=datetime(2028, 1, 1, tzinfo=UTC),
    )
    for moment, expected in [
        ("2026-12-31T23:59:59Z", "trust.certificate_early"),
        ("2027-01-01T00:00:00Z", None),
        ("2028-01-01T00:00:00Z", None),
        ("2028-01-01T00:00:01Z", "trust.certificate_expired"),
    ]:
        assert problem(short, [middle], [root], moment=moment) == expected
        if moment != "2028-01-01T00:00:00Z":  # OpenSSL leaves out the last second, which RFC 5280 section 4.1.2.5 includes
            assert openssl_accepts(tmp_path, short, [middle], [root], moment) is (expected is None)
    ended = authority("根 CA", end=datetime(2027, 1, 1, tzinfo=UTC))
    assert problem(leaf, [middle], [ended]) == "trust.certificate_expired"
    old = authority("中间 CA", by=root, number=2, start=datetime(2028, 1, 1, tzinfo=UTC))
    assert problem(leaf, [old], [root]) == "trust.certificate_early"
    # of two certificates for one authority the one in its term is found
    assert problem(leaf, [old, middle], [root]) is None and problem(leaf, [middle], [ended, root]) is None


def test_authorities(root: Holder, tmp_path: Path) -> None:
    for extensions, expected in [
        ([CA, CA_USAGE], None),
        ([CA], None),
        ([], "trust.certificate_no_authority"),
        ([CA_USAGE], "trust.certificate_no_authority"),
        ([(x509.BasicConstraints(ca=False, path_length=None), True), CA_USAGE], "trust.certificate_no_authority"),
        ([CA, (usage("crl_sign"), True)], "trust.certificate_no_authority"),
        ([CA, (x509.PolicyConstraints(0, None), True)], "trust.certificate_critical"),
        ([CA, (x509.NameConstraints([x509.DNSName("a")], None), True)], "trust.certificate_critical"),
        ([CA, (x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)]), True)], None),
        ([CA, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), False)], None),
        ([CA, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)], "trust.certificate_critical"),
    ]:
        between = authority("中", by=root, number=2, extensions=extensions)
        end = certify("人", by=between, number=3, extensions=[SIGNING])
        assert problem(end, [between], [root]) == expected
        # OpenSSL does process policies and name constraints
        if not any(
            "Constraints" in type(each).__name__ and not isinstance(each, x509.BasicConstraints) for each, _ in extensions
        ):
            assert openssl_accepts(tmp_path, end, [between], [root]) is (expected is None)
    weird = certify(
        "人", by=root, number=3, extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b""), True)]
    )
    assert problem(weird, [], [root]) == "trust.certificate_critical"


@pytest.mark.parametrize(("limit", "levels", "fine"), [(0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False), (None, 5, True)])
def test_path_length(limit: int | None, levels: int, fine: bool, tmp_path: Path) -> None:
    top = authority("根", extensions=[(x509.BasicConstraints(ca=True, path_length=limit), True), CA_USAGE])
    others: list[Holder] = []
    for level in range(levels):
        others.append(authority(f"中 {level}", by=others[-1] if others else top, number=10 + level))
    end = certify("人", by=others[-1] if others else top, number=3, extensions=[SIGNING])
    assert problem(end, others, [top]) == (None if fine else "trust.certificate_path_length")
    assert openssl_accepts(tmp_path, end, others, [top]) is fine


def test_a_new_key_of_the_same_authority_does_not_count_for_the_path_length(tmp_path: Path) -> None:
    top = authority(
        "根",
        extensions=[(x509.BasicConstraints(ca=True, path_length=0), True), CA_USAGE, (x509.SubjectKeyIdentifier(b"old"), False)],
    )
    # OpenSSL tries one issuer of a name alone, and is told which by the key identifiers
    new, old = (x509.SubjectKeyIdentifier(b"new"), False), (x509.AuthorityKeyIdentifier(b"old", None, None), False)
    renewed = authority("根", by=top, number=9, extensions=[CA, CA_USAGE, new, old])
    hint = (x509.AuthorityKeyIdentifier(b"new", None, None), False)
    end = certify("人", by=renewed, number=3, extensions=[SIGNING, hint])
    assert problem(end, [renewed], [top]) is None and openssl_accepts(tmp_path, end, [renewed], [top])


def test_the_same_root_in_another_certificate(root: Holder, middle: Holder, leaf: Holder) -> None:
    cross = authority("根 CA", by=authority("更上面", number=50), number=1)
    assert cross.read.key == root.read.key and cross.der != root.der
    assert build_chain(leaf.read, [cross.read, middle.read], [root.read], moment=MOMENT, purpose="sign")[-1] == root.read
    # a leaf that only shares name and key with a root was not given as one: it has to be signed
    twin = certify("签名人", number=3, extensions=[SIGNING], serial=99)
    assert problem(leaf, [], [twin]) == "trust.certificate_untrusted"


def test_loops_and_long_chains_end() -> None:
    first, second = (
        authority(each, number=60 + n, as_issuer=name("乙" if each == "甲" else "甲")) for n, each in enumerate("甲乙")
    )
    a = Holder(first.key, first.made, second)
    loop_a = authority("甲", by=second, number=60)
    loop_b = authority("乙", by=a, number=61)
    end = certify("人", by=loop_a, number=3, extensions=[SIGNING])
    assert (
        problem(end, [loop_a, loop_b], []) == problem(end, [loop_a, loop_b], [authority("丙")]) == "trust.certificate_untrusted"
    )
    chain = [authority("根")]
    for level in range(MAX_CHAIN):
        chain.append(authority(f"中 {level}", by=chain[-1], number=10 + level))
    for length, expected in ((MAX_CHAIN - 2, None), (MAX_CHAIN - 1, "trust.certificate_untrusted")):
        end = certify("人", by=chain[length], number=3, extensions=[SIGNING])
        assert problem(end, chain[1 : length + 1], chain[:1]) == expected


def test_many_certificates_cost_no_time(root: Holder, middle: Holder, leaf: Holder) -> None:
    pretenders = [authority("中间 CA", number=100 + n) for n in range(MAX_CERTIFICATES)]
    assert problem(leaf, [*pretenders[1:], middle], [root]) is None
    assert problem(leaf, [*pretenders, middle], [root]) == "trust.certificate_many"
    # authorities of one name that sign one another: each level would ask each of them
    ring = [authority("环", number=200)]
    for n in range(40):
        ring.append(authority("环", by=ring[-1], number=201 + n))
    end = certify("人", by=ring[-1], number=3, extensions=[SIGNING])
    assert problem(end, ring, [root]) == "trust.certificate_many"


def test_many_ways_that_lead_nowhere_cost_no_time(root: Holder) -> None:
    # each authority has several certificates: as many ways as there are choices, though each signature is checked once
    level = [authority("顶", number=210)]
    offered = list(level)
    for n in range(1, 9):
        level = [authority(f"层 {n}", by=level[0], number=210 + n) for _ in range(5)]
        offered += level
    end = certify("人", by=level[0], number=3, extensions=[SIGNING])
    assert problem(end, offered, [root]) == "trust.certificate_many"


def test_each_signature_is_checked_once(root: Holder, middle: Holder, leaf: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Certificate] = []
    check = Certificate.check_issued_by

    def counting(certificate: Certificate, issuer: Certificate) -> None:
        asked.append(issuer)
        check(certificate, issuer)

    monkeypatch.setattr(Certificate, "check_issued_by", counting)
    pretender = authority("中间 CA", number=99)
    known: Links = {}
    for _ in range(3):
        chain = build_chain(leaf.read, [pretender.read, middle.read], [root.read], moment=MOMENT, purpose="sign", links=known)
        assert chain == (leaf.read, middle.read, root.read)
    assert len(asked) == len(known) == 3 and [each.message_id for each in known.values() if each] == [
        "trust.certificate_signature"
    ]


def test_revoked(root: Holder, middle: Holder, leaf: Holder) -> None:
    assert problem(leaf, [middle], [root], revoked={(root.read.subject, 99), (b"", 12)}) is None
    for each in (leaf, middle, root):
        revoked = {(each.read.issuer, each.read.serial)}
        assert problem(leaf, [middle], [root], revoked=revoked) == "trust.certificate_revoked"
    # where there is another way, it is taken
    again = authority("中间 CA", by=root, number=2, serial=77)
    assert problem(leaf, [middle, again], [root], revoked={(root.read.subject, 11)}) is None


def test_unknown_algorithms_are_not_checked_rather_than_failed(root: Holder) -> None:
    p521 = authority("五二一", "P-521")
    end = certify("人", by=p521, number=3, extensions=[SIGNING])
    with pytest.raises(UnsupportedError) as caught:
        build_chain(end.read, [], [p521.read], moment=MOMENT, purpose="sign")
    assert caught.value.message_id == "trust.algorithm_unknown"
    holder = certify("手工")
    unknown = parse_certificate(assemble(holder, algorithm=algorithm_identifier("1.2.3.4")))
    assert unknown.scheme is None and unknown.algorithm == "1.2.3.4"
    with pytest.raises(UnsupportedError) as caught:
        build_chain(unknown, [], [holder.read], moment=MOMENT, purpose="sign")
    assert "1.2.3.4" in caught.value.render("zh")


def test_version_1_is_an_authority_only_as_a_given_root() -> None:
    top = certify("根", number=70)
    old_root = Holder(top.key, x509.load_der_x509_certificate(assemble(top, version=None)))
    between = certify("中", by=old_root, number=71)
    end = certify("人", by=between, number=3, extensions=[SIGNING])
    assert problem(certify("人", by=old_root, number=3, extensions=[SIGNING]), [], [old_root]) is None
    assert problem(end, [between], [old_root]) == "trust.certificate_no_authority"
    # version 3 can say it, so it has to, also as a root
    assert problem(certify("人", by=top, number=3), [], [top]) == "trust.certificate_no_authority"


def test_flipped_bytes_of_a_chain_never_pass(root: Holder, middle: Holder, leaf: Holder) -> None:
    for position in range(len(leaf.der)):
        changed = bytearray(leaf.der)
        changed[position] ^= 0x01
        with pytest.raises(GeoEvidenceError):
            build_chain(parse_certificate(bytes(changed)), [middle.read], [root.read], moment=MOMENT, purpose="sign")


# ---- purpose --------------------------------------------------------------------------------


def stamping(*purposes: x509.ObjectIdentifier, critical: bool = True) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(purposes), critical


@pytest.mark.parametrize(
    ("extensions", "signs", "stamps"),
    [
        ([], True, False),
        ([STAMPING], True, True),
        ([STAMPING, (usage("digital_signature"), True)], True, True),
        ([STAMPING, (usage("content_commitment"), False)], True, True),
        ([STAMPING, (usage("digital_signature", "content_commitment"), True)], True, True),
        ([STAMPING, (usage("digital_signature", "key_encipherment"), True)], True, False),
        ([STAMPING, (usage("key_cert_sign"), True)], False, False),
        ([stamping(ExtendedKeyUsageOID.TIME_STAMPING, critical=False)], True, False),
        ([stamping(ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING)], True, False),
        ([stamping(ExtendedKeyUsageOID.CODE_SIGNING)], True, False),
        ([(usage("key_agreement"), True)], False, False),
        ([SIGNING], True, False),
    ],
)
def test_purposes(root: Holder, extensions: Sequence[tuple[x509.ExtensionType, bool]], signs: bool, stamps: bool) -> None:
    holder = certify("人", by=root, number=3, extensions=extensions)
    assert problem(holder, [], [root]) == (None if signs else "trust.certificate_usage")
    assert problem(holder, [], [root], purpose="time") == (None if stamps else "trust.certificate_usage")
    with pytest.raises(ValueError, match="purpose"):
        build_chain(holder.read, [], [root.read], moment=MOMENT, purpose="mail")
    with pytest.raises(ValueError, match="purpose"):
        check_purpose(holder.read, "mail")


# ---- SM2, by OpenSSL ------------------------------------------------------------------------


def test_sm2_certificates_by_openssl(tmp_path: Path) -> None:
    distid = ["-sigopt", "distid:1234567812345678"]
    for who in ("root", "leaf"):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2", "-out", tmp_path / f"{who}.key")
    (tmp_path / "empty.cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n[leaf]\nkeyUsage=critical,digitalSignature\n")
    config = ["-config", tmp_path / "empty.cnf"]
    openssl("req", "-x509", "-new", "-sm3", *distid, *config, "-key", tmp_path / "root.key", "-subj", "/C=CN/CN=SM2 Root", "-days", "3650",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign", "-out", tmp_path / "root.pem")  # fmt: skip
    openssl(
        "req",
        "-new",
        "-sm3",
        *distid,
        *config,
        "-key",
        tmp_path / "leaf.key",
        "-subj",
        "/C=CN/CN=SM2 Leaf",
        "-out",
        tmp_path / "leaf.csr",
    )
    openssl("x509", "-req", "-sm3", *distid, "-vfyopt", "distid:1234567812345678", "-in", tmp_path / "leaf.csr", "-CA", tmp_path / "root.pem",
            "-CAkey", tmp_path / "root.key", "-set_serial", "5", "-days", "365", "-extfile", tmp_path / "empty.cnf", "-extensions", "leaf",
            "-out", tmp_path / "leaf.pem")  # fmt: skip
    (top,), (end,) = (parse_certificates_pem_or_der((tmp_path / f"{who}.pem").read_bytes()) for who in ("root", "leaf"))
    assert end.key.kind == "SM2" and end.scheme == Scheme("sm2-sm3") and end.key_usage == ("digitalSignature",)
    assert build_chain(end, [], [top], moment=end.not_before, purpose="sign") == (end, top)
    assert end.has_key(PublicKey("sm2-sm3", end.key.raw))
    changed = bytearray(end.der)
    changed[-1] ^= 1
    with pytest.raises(CertificateError) as caught:
        build_chain(parse_certificate(bytes(changed)), [], [top], moment=end.not_before, purpose="sign")
    assert caught.value.message_id == "trust.certificate_signature"


# ---- hostile bytes --------------------------------------------------------------------------


WHOLE = certify("人", extensions=[SIGNING, STAMPING, CA]).der


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_bytes_raise_only_our_errors(data: st.DataObject) -> None:
    good = WHOLE
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 8)))
    changed = good[:start] + data.draw(st.binary(max_size=8)) + good[end:]
    try:
        read: Certificate = parse_certificate(changed)
    except FormatError:
        return
    assert read.der == changed


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_certificates_pem_or_der(data)
