"""Time stamps: OpenSSL's and hand-made ones, one defect at a time, every flipped byte, and OpenSSL's opinion of the same."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.trust import (
    CertificateError,
    FormatError,
    GeoEvidenceError,
    SignatureError,
    TimeStamp,
    UnsupportedError,
    VerificationError,
    der,
    openssl_command,
    parse_certificates_pem_or_der,
    parse_time_stamp,
)
from geoevidence.trust.certificates import MAX_CERTIFICATES
from geoevidence.trust.signatures import HASH_OIDS, digest_of
from tests.trust.authority import (
    CONTENT_TYPE,
    MESSAGE,
    MOMENT,
    SIGNING,
    STAMPING,
    Draft,
    Holder,
    algorithm_identifier,
    attribute,
    authority,
    certificate_id,
    certify,
    info,
    octets,
    old_python,
    openssl,
    openssl_reply,
    private_key,
    response,
    sign,
    usage,
)

NOW = datetime.now(UTC)
CURRENT = {"start": NOW - timedelta(days=10), "end": NOW + timedelta(days=10)}


def problem(data: bytes, roots: Sequence[Holder], message: bytes = MESSAGE, **more: Any) -> str | None:
    """Message id of why the time stamp does not count."""
    try:
        stamp = parse_time_stamp(data, where="时间戳")
        chain = stamp.verify(message, roots=[root.read for root in roots], **more)
    except GeoEvidenceError as error:
        assert "{" not in error.render("zh") + error.render("en")
        return error.message_id
    assert chain[0] == stamp.tsa and chain[-1] in [root.read for root in roots]
    return None


def openssl_accepts(folder: Path, data: bytes, roots: Sequence[Holder], message: bytes = MESSAGE, moment: str = MOMENT) -> bool:
    """What the command that we print says."""
    openssl("version")
    (folder / "data file").write_bytes(message)
    (folder / "token").write_bytes(data)
    (folder / "roots").write_bytes(b"".join(root.pem for root in roots))
    # a response begins with a sequence, a token with an object identifier
    is_token = der.read(data, where="x").children()[0].tag == der.OID
    command = openssl_command(str(folder / "data file"), str(folder / "token"), str(folder / "roots"), is_token, gen_time=moment)
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60)
    assert (done.returncode == 0) is (b"Verification: OK" in done.stdout)
    return done.returncode == 0


@pytest.fixture(scope="module")
def root() -> Holder:
    return authority("时间戳根 CA")


@pytest.fixture(scope="module")
def middle(root: Holder) -> Holder:
    return authority("时间戳中间 CA", by=root, number=2)


@pytest.fixture(scope="module")
def tsa(middle: Holder) -> Holder:
    return certify("时间戳机构", by=middle, number=3, extensions=[STAMPING, SIGNING], serial=1234)


@pytest.fixture(scope="module")
def draft(tsa: Holder, middle: Holder) -> Draft:
    return Draft(tsa, certificates=(tsa.der, middle.der))


# ---- OpenSSL makes --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "P-256", "P-384"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"digest": "sha384", "imprint": "sha512", "precision": 3},
        {"chain": "yes", "ess": "sha1", "imprint": "sha384"},
        {"name": "no", "ess": "sha384", "digest": "sha512", "imprint": "sm3"},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_openssl_reply(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    root = authority("根", kind, **CURRENT)
    middle = authority("中", kind, by=root, number=2, **CURRENT)
    tsa = certify("TSA", kind, by=middle, number=3, extensions=[STAMPING, SIGNING], serial=55, **CURRENT)
    data = openssl_reply(tsa, tmp_path / "tsa", extra=[root, middle], **options)
    stamp = parse_time_stamp(data)
    assert stamp.verify(MESSAGE, roots=[root.read]) == (tsa.read, middle.read, root.read)
    assert stamp.imprint_algorithm == options.get("imprint", "sha256")
    assert stamp.imprint == digest_of(stamp.imprint_algorithm, MESSAGE)
    assert (stamp.policy, stamp.serial, stamp.accuracy_ms) == ("1.2.3.4.1", 11, 1501) and stamp.nonce is not None
    assert stamp.earliest < stamp.gen_time < stamp.latest
    shown = openssl("ts", "-reply", "-in", tmp_path / "tsa" / "reply.tsr", "-text").stdout.decode()
    shown_time = next(line.partition(": ")[2] for line in shown.splitlines() if line.startswith("Time stamp:"))
    shown_time = (
        shown_time.partition(".")[0] + " " + shown_time.split()[-2] if "." in shown_time else shown_time.removesuffix(" GMT")
    )
    assert datetime.strptime(shown_time, "%b %d %H:%M:%S %Y").isoformat() + "Z" == stamp.gen_time
    # the bare token says the same
    bare = openssl("ts", "-reply", "-in", tmp_path / "tsa" / "reply.tsr", "-token_out").stdout
    assert stamp.token == bare and parse_time_stamp(bare) == stamp
    for each in (data, bare):
        assert openssl_accepts(tmp_path, each, [root], moment=stamp.gen_time)
        assert not openssl_accepts(tmp_path, each, [root], message=b"other", moment=stamp.gen_time)
        assert problem(each, [root], b"other") == "trust.stamp_imprint"


def test_openssl_reply_without_certificate_or_refused(tmp_path: Path) -> None:
    tsa = certify("TSA", number=3, extensions=[STAMPING, SIGNING], **CURRENT)
    assert problem(openssl_reply(tsa, tmp_path / "tsa", no_certificate=True), [tsa]) == "trust.stamp_signer"
    # a hash that this authority does not take
    config = (tmp_path / "tsa" / "tsa.cnf").read_text().replace("digests = sha256,", "digests =")
    (tmp_path / "tsa" / "tsa.cnf").write_text(config)
    files = {each: tmp_path / "tsa" / each for each in ("tsa.cnf", "query.tsq", "refused.tsr")}
    openssl("ts", "-reply", "-config", files["tsa.cnf"], "-queryfile", files["query.tsq"], "-out", files["refused.tsr"])
    assert problem(files["refused.tsr"].read_bytes(), [tsa]) == "trust.stamp_status"


# ---- the same verdict as OpenSSL ------------------------------------------------------------


def stamping(*purposes: x509.ObjectIdentifier, critical: bool = True) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(purposes), critical


YEARS = {"start": datetime(2020, 1, 1, tzinfo=UTC), "end": datetime(2021, 1, 1, tzinfo=UTC)}
LATER = {"start": datetime(2028, 1, 1, tzinfo=UTC), "end": datetime(2029, 1, 1, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("good", None),
        ("self-signed signer given as root", None),
        ("signer given as root", None),
        ("expired", "trust.certificate_expired"),
        ("not yet valid", "trust.certificate_early"),
        ("authority expired", "trust.certificate_expired"),
        ("other purpose", "trust.certificate_usage"),
        ("two purposes", "trust.certificate_usage"),
        ("no purpose", "trust.certificate_usage"),
        ("purpose not critical", "trust.certificate_usage"),
        ("key usage", "trust.certificate_usage"),
        ("untrusted root", "trust.certificate_untrusted"),
        ("no intermediate", "trust.certificate_untrusted"),
        ("intermediate no authority", "trust.certificate_no_authority"),
        ("wrong content", "trust.stamp_imprint"),
        ("unordered", None),
        ("response", None),
        ("granted with modifications", None),
        ("rejected", "trust.stamp_status"),
        ("unsigned attribute", None),
        ("changed content", "trust.stamp_digest"),
        ("changed signature", "trust.signature_wrong"),
        ("other certificate signed", "trust.stamp_certificate"),
        ("issuer and serial of another", "trust.stamp_certificate"),
        ("serial of another", "trust.stamp_certificate"),
        ("signature by another key", "trust.signature_wrong"),
        ("appended bytes", "trust.der_one"),
    ],
)
def test_one_defect_at_a_time(
    case: str, expected: str | None, root: Holder, middle: Holder, tsa: Holder, draft: Draft, tmp_path: Path
) -> None:
    roots, message, wrap = [root], MESSAGE, False
    status, after = 0, b""
    more: dict[str, Any] = {"extensions": [STAMPING, SIGNING]}
    by: Holder | None = middle
    between = middle
    if case == "self-signed signer given as root":
        by = None
    elif case == "expired":
        more |= YEARS
    elif case == "not yet valid":
        more |= LATER
    elif case == "authority expired":
        by = between = authority("时间戳中间 CA", by=root, number=2, **YEARS)
    elif case == "other purpose":
        more["extensions"] = [stamping(ExtendedKeyUsageOID.CODE_SIGNING)]
    elif case == "two purposes":
        more["extensions"] = [stamping(ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING)]
    elif case == "no purpose":
        more["extensions"] = [SIGNING]
    elif case == "purpose not critical":
        more["extensions"] = [stamping(ExtendedKeyUsageOID.TIME_STAMPING, critical=False)]
    elif case == "key usage":
        more["extensions"] = [STAMPING, (usage("digital_signature", "key_encipherment"), True)]
    elif case == "intermediate no authority":
        by = between = certify("时间戳中间 CA", by=root, number=2)
    holder = certify("时间戳机构", by=by, number=3, serial=1234, **more)
    made = replace(draft, holder=holder, certificates=(holder.der, between.der))
    digest = attribute("1.2.840.113549.1.9.4", octets(digest_of("sha256", made.info)))
    if case in ("self-signed signer given as root", "signer given as root"):
        roots = [holder]
    elif case == "untrusted root":
        roots = [authority("别的根", number=77)]
    elif case == "no intermediate":
        made = replace(made, certificates=(holder.der,))
    elif case == "wrong content":
        message = b"another checkpoint"
    elif case == "unordered":
        strangers = tuple(authority(f"别人 {n}", number=80 + n).der for n in range(3))
        ordered = sorted((*strangers, holder.der, between.der, root.der))
        made = replace(made, certificates=tuple(ordered[::-1]))
    elif case in ("response", "granted with modifications", "rejected"):
        wrap, status = True, {"response": 0, "granted with modifications": 1, "rejected": 2}[case]
    elif case == "unsigned attribute":
        made = replace(made, unsigned=der.encode(0xA1, attribute("1.2.3", octets(b"x"))))
    elif case == "changed content":
        other = info(gen_time=b"20270601120001Z")
        made = replace(made, info=other, attributes=(CONTENT_TYPE, digest, certificate_id(holder.read)))
    elif case == "changed signature":
        made = replace(made, sign=lambda signed: draft.holder.key.sign(signed + b"!", ecdsa()))
    elif case == "other certificate signed":
        made = replace(made, attributes=(CONTENT_TYPE, digest, certificate_id(middle.read, issuer_serial=False)))
    elif case == "issuer and serial of another":
        mixed = certificate_id(replace_read(holder, issuer=root.read.subject))
        made = replace(made, attributes=(CONTENT_TYPE, digest, mixed))
    elif case == "serial of another":
        mixed = certificate_id(replace_read(holder, serial=1235))
        made = replace(made, attributes=(CONTENT_TYPE, digest, mixed))
    elif case == "signature by another key":
        made = replace(made, sign=lambda signed: private_key("P-256", 99).sign(signed, ecdsa()))
    elif case == "appended bytes":
        after = b"\5\0"
    data = (response(made.token(), status) if wrap else made.token()) + after
    assert problem(data, roots, message) == expected
    if case == "appended bytes":
        return  # OpenSSL reads one value and leaves what follows
    agreed = openssl_accepts(tmp_path, data, roots, message)
    # RFC 3161 does not ask a signer that is trusted itself for an issuer; OpenSSL does without -partial_chain
    assert agreed is (expected is None) or case == "signer given as root"


def ecdsa() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(hashes.SHA256())


def replace_read(holder: Holder, **changes: Any) -> Any:
    """A certificate with the bytes of `holder` and other values, to put those into a signed attribute."""
    return replace(holder.read, **changes)


# ---- algorithms -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "P-256", "P-384", "ed25519"])
@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
def test_all_schemes(kind: str, hash_name: str, root: Holder) -> None:
    holder = certify("TSA", kind, by=root, number=4, extensions=[STAMPING])
    for pss in (None, 20, 32) if kind == "rsa" else (None,):
        made = Draft(holder, info(hash_name=hash_name), hash_name=hash_name, pss=pss)
        assert problem(made.token(), [root]) is None
        changed = replace(made, sign=lambda signed, made=made: replace(made, sign=None).signer_info()[-10:] + signed)  # type: ignore[misc]
        assert problem(changed.token(), [root]) is not None
    # the key alone named as the algorithm, as RFC 3370 has it for RSA
    if kind != "ed25519":
        alone = {"rsa": algorithm_identifier("1.2.840.113549.1.1.1", b"\5\0")}.get(
            kind, algorithm_identifier("1.2.840.10045.2.1")
        )
        assert problem(Draft(holder, hash_name=hash_name, signature_algorithm=alone).token(), [root]) is None


def test_rsa_pss_authority(tmp_path: Path) -> None:
    top = authority("根", "rsa", hash_name="sha384", pss=48)
    holder = certify("TSA", by=top, number=4, extensions=[STAMPING], hash_name="sha384", pss=48)
    made = Draft(holder)
    assert problem(made.token(), [top]) is None and openssl_accepts(tmp_path, made.token(), [top])


def test_sm2_token(tmp_path: Path) -> None:
    """Certificate and signature by OpenSSL, whose own `ts` cannot sign so; put together here."""
    identity = "distid:1234567812345678"
    key, pem, config = tmp_path / "key", tmp_path / "pem", tmp_path / "cnf"
    config.write_text("[req]\ndistinguished_name=dn\n[dn]\n")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2", "-out", key)
    openssl("req", "-x509", "-new", "-sm3", "-sigopt", identity, "-config", config, "-key", key, "-subj", "/C=CN/CN=SM2 TSA", "-days", "30",
            "-addext", "extendedKeyUsage=critical,timeStamping", "-out", pem)  # fmt: skip
    (certificate,) = parse_certificates_pem_or_der(pem.read_bytes())

    def sign_sm2(message: bytes) -> bytes:
        (tmp_path / "m").write_bytes(message)
        return openssl(
            "pkeyutl", "-sign", "-rawin", "-digest", "sm3", "-pkeyopt", identity, "-inkey", key, "-in", tmp_path / "m"
        ).stdout

    class Signer:
        read, der = certificate, certificate.der

    gen_time = datetime.now(UTC).strftime("%Y%m%d%H%M%SZ").encode()
    holder: Any = Signer()
    attributes = (
        CONTENT_TYPE,
        attribute("1.2.840.113549.1.9.4", octets(digest_of("sm3", info(hash_name="sm3", gen_time=gen_time)))),
    )
    for oid, signed_data in (
        ("1.2.156.10197.1.301.1", "1.2.156.10197.6.1.4.2.2"),
        ("1.2.156.10197.1.501", "1.2.840.113549.1.7.2"),
    ):
        made = Draft(holder, info(hash_name="sm3", gen_time=gen_time), hash_name="sm3", signature_algorithm=algorithm_identifier(oid), sign=sign_sm2,
                     attributes=(*attributes, certificate_id(certificate, hash_name="sm3")), signed_data_oid=signed_data)  # fmt: skip
        stamp = parse_time_stamp(made.token())
        assert stamp.verify(MESSAGE, roots=[certificate]) == (certificate,) and stamp.imprint_algorithm == "sm3"
        old = replace(made, version=1).token()
        if signed_data.startswith("1.2.156."):
            parse_time_stamp(old).verify_signature(MESSAGE)
        else:
            with pytest.raises(FormatError):
                parse_time_stamp(old)
        broken = parse_time_stamp(replace(made, sign=lambda message: sign_sm2(message + b"!")).token())
        with pytest.raises(SignatureError):
            broken.verify_signature(MESSAGE)


def test_unknown_algorithms_are_not_checked_rather_than_failed(draft: Draft, root: Holder) -> None:
    for made in (
        replace(draft, signature_algorithm=algorithm_identifier("1.2.3")),
        replace(draft, info=info(imprint_oid="1.3.14.3.2.26", imprint=bytes(20))),
        replace(
            draft,
            info=info(after_time=der.encode(0xA1, der.encode(der.SEQUENCE, der.encode_oid("1.2.3"), b"\1\1\xff", octets(b"")))),
        ),
        replace(draft, attributes=(CONTENT_TYPE, attribute("1.2.840.113549.1.9.4", octets(b"")), unknown_certificate_id())),
    ):
        with pytest.raises(UnsupportedError):
            parse_time_stamp(made.token())
    p521 = certify("TSA", "P-521", by=root, number=4, extensions=[STAMPING])
    stamp = parse_time_stamp(Draft(p521).token())
    with pytest.raises(UnsupportedError):
        stamp.verify_signature(MESSAGE)


def unknown_certificate_id() -> bytes:
    one = der.encode(der.SEQUENCE, algorithm_identifier("1.2.3"), octets(b""))
    return attribute("1.2.840.113549.1.9.16.2.47", der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, one)))


# ---- parts ----------------------------------------------------------------------------------


def test_what_is_broken_is_told_from_what_is_not_trusted(draft: Draft, root: Holder) -> None:
    stamp = parse_time_stamp(draft.token())
    stamp.check_imprint(MESSAGE)
    stamp.verify_signature(MESSAGE)
    with pytest.raises(CertificateError) as caught:
        stamp.verify(MESSAGE, roots=[])
    assert caught.value.message_id == "trust.certificate_untrusted"
    for check in (stamp.check_imprint, stamp.verify_signature):
        with pytest.raises(VerificationError):
            check(b"other")
    revoked = {(stamp.tsa.issuer, stamp.tsa.serial)}
    assert problem(draft.token(), [root], revoked=revoked) == "trust.certificate_revoked"


def accuracy(*parts: bytes) -> bytes:
    return der.encode(der.SEQUENCE, *parts)


SECONDS, MILLIS, MICROS = b"\2\1\2", b"\x80\2\1\xf4", b"\x81\1\1"


@pytest.mark.parametrize(
    ("gen_time", "after", "expected"),
    [
        (b"20270601120000Z", b"", (None, "12:00:00", "12:00:01")),
        (b"20270601120000.25Z", b"", (None, "12:00:00", "12:00:01")),
        (b"20270601120000.25Z", accuracy(), (0, "12:00:00", "12:00:01")),
        (b"20270601120000Z", accuracy(), (0, "12:00:00", "12:00:00")),
        (b"20270601120000.0000001Z", accuracy(), (0, "12:00:00", "12:00:01")),
        (b"20270601120000Z", accuracy(SECONDS), (2000, "11:59:58", "12:00:02")),
        (b"20270601120000.5Z", accuracy(SECONDS, MILLIS), (2500, "11:59:58", "12:00:03")),
        (b"20270601120000.5Z", accuracy(MILLIS), (500, "12:00:00", "12:00:01")),
        (b"20270601120000.5Z", accuracy(MILLIS, MICROS), (501, "11:59:59", "12:00:02")),
        (b"20270601120000.999999Z", accuracy(MICROS), (1, "12:00:00", "12:00:01")),
    ],
)
def test_interval(gen_time: bytes, after: bytes, expected: tuple[int | None, str, str], draft: Draft) -> None:
    stamp = parse_time_stamp(replace(draft, info=info(gen_time=gen_time, after_time=after)).token())
    assert (stamp.accuracy_ms, stamp.earliest[11:19], stamp.latest[11:19]) == expected
    assert stamp.gen_time == "2027-06-01T12:00:00Z"


def test_optional_fields(draft: Draft, tsa: Holder, root: Holder, middle: Holder) -> None:
    ordering, nonce = b"\1\1\xff", b"\2\2\1\0"
    noncritical = der.encode(0xA1, der.encode(der.SEQUENCE, der.encode_oid("1.2.3"), octets(b"")))
    named = der.encode(0xA0, der.encode(0xA4, tsa.read.subject))
    made = replace(draft, info=info(after_time=accuracy(SECONDS) + ordering + nonce + named + noncritical))
    assert parse_time_stamp(made.token()).nonce == 256 and problem(made.token(), [root]) is None
    alternative = certify(
        "TSA", by=middle, number=3, extensions=[STAMPING, (x509.SubjectAlternativeName([x509.DNSName("tsa.example")]), False)]
    )
    for kind, content, holder, expected in [
        (0xA4, middle.read.subject, tsa, "trust.stamp_tsa_name"),
        (0x82, b"tsa.example", tsa, "trust.stamp_tsa_name"),
        (0x82, b"tsa.example", alternative, None),
        (0x82, b"tsa.exampl", alternative, "trust.stamp_tsa_name"),
        # the same name in another kind of string
        (0xA4, tsa.read.subject.replace(b"\x0c\x0f", b"\x0c\x0f"), tsa, None),
        (0xA4, b"", tsa, "trust.der_structure"),
        (0xA4, tsa.read.subject * 2, tsa, "trust.der_structure"),
    ]:
        changed = replace(
            draft,
            holder=holder,
            certificates=(holder.der, middle.der),
            info=info(after_time=der.encode(0xA0, der.encode(kind, content))),
        )
        assert problem(changed.token(), [root]) == expected
    two = der.encode(0xA0, der.encode(0x82, b"a"), der.encode(0x82, b"b"))
    assert problem(replace(draft, info=info(after_time=two)).token(), [root]) == "trust.der_structure"


def test_the_name_in_another_kind_of_string(middle: Holder, root: Holder) -> None:
    holder = certify("TSA", by=middle, number=3, extensions=[STAMPING])
    printable = holder.read.subject.replace(b"\x0c\x03TSA", b"\x13\x03TSA")
    assert printable != holder.read.subject
    made = Draft(holder, info(after_time=der.encode(0xA0, der.encode(0xA4, printable))), certificates=(holder.der, middle.der))
    assert problem(made.token(), [root]) is None


def test_signed_attributes(draft: Draft, tsa: Holder, root: Holder) -> None:
    digest = attribute("1.2.840.113549.1.9.4", octets(digest_of("sha256", draft.info)))
    own = certificate_id(tsa.read)
    more = attribute("1.2.840.113549.1.9.5", der.encode(der.UTC_TIME, b"270601120000Z"))

    def judge(*attributes: bytes, **changes: Any) -> str | None:
        return problem(replace(draft, attributes=attributes, **changes).token(), [root])

    first, second = certificate_id(tsa.read, 1), certificate_id(tsa.read, hash_name="sha512")
    for fine in ((own,), (first,), (second,), (first, own), (certificate_id(tsa.read, issuer_serial=False),), (own, more)):
        assert judge(CONTENT_TYPE, digest, *fine) is None
    wrong = certificate_id(root.read, 1)
    assert judge(CONTENT_TYPE, digest, own, wrong) == "trust.stamp_certificate"
    other_type = attribute("1.2.840.113549.1.9.3", der.encode_oid("1.2.840.113549.1.7.1"))
    two = attribute("1.2.840.113549.1.9.4", octets(b"a"), octets(b"b"))
    for bad in (
        (CONTENT_TYPE, own),
        (digest, own),
        (CONTENT_TYPE, digest),
        (other_type, digest, own),
        (CONTENT_TYPE, two, own),
        (CONTENT_TYPE, CONTENT_TYPE, digest, own),
        (CONTENT_TYPE, attribute("1.2.840.113549.1.9.4", b"\5\0"), own),
        (CONTENT_TYPE, digest, attribute("1.2.840.113549.1.9.16.2.47", b"\5\0")),
        (),
    ):
        assert judge(*bad) == "trust.stamp_field"
    assert judge(CONTENT_TYPE, digest, own, sort=lambda each: sorted(each)[::-1]) == "trust.der_order"
    names = der.encode(der.SEQUENCE, der.encode(0x82, b"dns"))
    for one in (
        b"",
        octets(b"") + b"\5\0",
        octets(b"") + der.encode(der.SEQUENCE, names, b"\2\1\1"),
        octets(b"") + der.encode(der.SEQUENCE, der.encode(der.SEQUENCE)),
    ):
        value = der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, one)))
        assert judge(CONTENT_TYPE, digest, attribute("1.2.840.113549.1.9.16.2.47", value)) == "trust.der_structure"


def test_signer_identifier(draft: Draft, middle: Holder, root: Holder) -> None:
    holder = certify("TSA", by=middle, number=3, extensions=[STAMPING, (x509.SubjectKeyIdentifier(b"key"), False)])
    made = replace(draft, holder=holder, certificates=(middle.der, holder.der))
    by_key = replace(made, identifier=der.encode(0x80, b"key"), signer_version=3)
    assert problem(by_key.token(), [root]) is None
    assert problem(replace(by_key, signer_version=1).token(), [root]) == "trust.stamp_field"
    assert problem(replace(by_key, identifier=der.encode(0x80, b"other")).token(), [root]) == "trust.stamp_signer"
    assert problem(replace(made, certificates=(middle.der,)).token(), [root]) == "trust.stamp_signer"
    assert problem(replace(made, certificates=()).token(), [root]) == "trust.stamp_signer"
    # a certificate with the same issuer and number, or the same key identifier, put in before: the signed one is found
    decoy = certify("别的", by=middle, number=5, extensions=[STAMPING, (x509.SubjectKeyIdentifier(b"key"), False)])
    for each in (made, by_key):
        assert problem(replace(each, certificates=(decoy.der, holder.der, middle.der)).token(), [root]) is None
        assert problem(replace(each, certificates=(decoy.der, middle.der)).token(), [root]) == "trust.stamp_certificate"


def bad_fields() -> list[Callable[[Draft], Draft]]:
    century = b"\2\5\1\0\0\0\0"
    changes: list[dict[str, Any]] = [
        {"content_oid": "1.2.840.113549.1.7.1"},
        {"signed_data_oid": "1.2.840.113549.1.7.1"},
        {"version": 2},
        {"signers": 0},
        {"signers": 2},
        {"digests": (HASH_OIDS["sha384"],)},
        {"signer_version": 3},
        {"info": info(version=2)},
        {"info": info(imprint=bytes(31))},
        {"info": info(after_time=accuracy(b"\2\1\xff"))},
        {"info": info(after_time=accuracy(century))},
        {"info": info(after_time=accuracy(b"\x80\1\0"))},
        {"info": info(after_time=accuracy(b"\x80\2\3\xe8"))},
        {"info": info(after_time=accuracy(b"\x81\1\0"))},
    ]
    return [lambda draft, change=change: replace(draft, **change) for change in changes]  # type: ignore[misc]


@pytest.mark.parametrize("change", bad_fields())
def test_fields_out_of_range(change: Callable[[Draft], Draft], draft: Draft, root: Holder) -> None:
    assert problem(change(draft).token(), [root]) == "trust.stamp_field"


@pytest.mark.parametrize(
    "content",
    [
        info(gen_time=b"20270601120000.50Z"),
        info(gen_time=b"20270601120000.Z"),
        info(gen_time=b"20270601120000,5Z"),
        info(gen_time=b"20270601120000"),
        info(gen_time=b"20270601120000+0800"),
        info(gen_time=b"202706011200Z"),
        info(gen_time=b"20270631120000Z"),
        info(gen_time=b"00010101000000Z", after_time=accuracy(SECONDS)),
        info(gen_time=b"99991231235959.5Z", after_time=accuracy()),
        info(after_time=accuracy(b"\x80\2\0\1")),
        info(after_time=accuracy(MICROS, MILLIS)),
        info(after_time=b"\1\1\1"),
        info(after_time=b"\5\0"),
        info() + b"\0",
        b"",
        b"\x30\0",
    ],
)
def test_contents_that_are_none(content: bytes, draft: Draft) -> None:
    with pytest.raises(FormatError) as caught:
        parse_time_stamp(replace(draft, info=content).token(), where="时间戳")
    assert "时间戳" in caught.value.render("zh")


def test_encodings_that_are_not_der(draft: Draft, root: Holder) -> None:
    token = draft.token()
    assert problem(response(token, text="好") + b"", [root]) is None
    body = der.read(token, where="x").content
    expected = {
        b"\x30\x80" + body + b"\0\0": "trust.der_length",
        b"\x30\x83" + len(body).to_bytes(3, "big") + body: "trust.der_length",
        token[:-1]: "trust.der_length",
        token + token: "trust.der_one",
        b"": "trust.der_one",
        b"\x31" + token[1:]: "trust.der_structure",
        b"\x30\0": "trust.der_structure",
        der.encode(der.SEQUENCE, body, b"\5\0"): "trust.der_structure",
        response(token) [:-1] + b"": "trust.der_length",
        der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, b"\2\1\0")): "trust.der_structure",
        der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, b"\2\1\0"), token, b"\5\0"): "trust.der_structure",
        bytes(der.MAX_BYTES + 1): "trust.der_size",
    }  # fmt: skip
    for data, message_id in expected.items():
        assert problem(data, [root]) == message_id
    deep = b"\5\0"
    for _ in range(der.MAX_DEPTH):
        deep = der.encode(der.SEQUENCE, deep)
    assert problem(deep, [root]) == "trust.der_depth"
    many = replace(draft, certificates=(draft.holder.der,) * (MAX_CERTIFICATES + 1))
    assert problem(many.token(), [root]) == "trust.certificate_file"
    # an attribute certificate and revocation lists vouch for nothing and are passed over
    passed = replace(
        draft, certificates=(*(draft.certificates or ()), der.encode(0xA2, b"\5\0")), crls=der.encode(0xA1, b"\x30\0"), version=4
    )
    assert problem(passed.token(), [root]) is None
    other = {"crls": der.encode(0xA1, der.encode(0xA1, b"\5\0"))}
    another = {"certificates": (*(draft.certificates or ()), der.encode(0xA3, b"\5\0"))}
    for changes, version in (({}, 3), (other, 5), (another, 5)):
        for stated in range(7):
            token = replace(draft, version=stated, **changes).token()  # type: ignore[arg-type]
            assert problem(token, [root]) == (None if stated == version else "trust.stamp_field")


# ---- every byte -----------------------------------------------------------------------------


def spans(data: bytes, *parts: bytes) -> set[int]:
    found: set[int] = set()
    for part in parts:
        start = data.index(part)
        found |= set(range(start, start + len(part)))
    return found


def vouched(stamp: TimeStamp) -> tuple[Any, ...]:
    """All that a reader takes from a verified time stamp."""
    return (stamp.gen_time, stamp.accuracy_ms, stamp.earliest, stamp.latest, stamp.imprint_algorithm, stamp.imprint, stamp.serial,
            stamp.policy, stamp.nonce, stamp.tsa)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mask"), [("rsa", 0x01), ("P-256", 0xFF), ("rsa", 0x40)])
def test_every_flipped_byte_is_refused_or_vouches_for_nothing(kind: str, mask: int) -> None:
    """Free are bytes of: the text of the response and its status 0 or 1, a root or a stranger inside the token, unsigned attributes, revocation lists."""
    root = authority("根")
    middle = authority("中", by=root, number=2)
    stranger = authority("无关", number=9)
    holder = certify("TSA", kind, by=middle, number=3, extensions=[STAMPING, SIGNING])
    unsigned, crls = (
        der.encode(0xA1, attribute("1.2.3", octets(b"unsigned"))),
        der.encode(0xA1, der.encode(der.SEQUENCE, octets(b"list"))),
    )
    content = info(after_time=accuracy(SECONDS) + b"\2\1\7" + der.encode(0xA0, der.encode(0xA4, holder.read.subject)))
    made = Draft(holder, content, certificates=(stranger.der, middle.der, holder.der, root.der), unsigned=unsigned, crls=crls)
    token = made.token()
    data = response(token, text="text")
    stamp = parse_time_stamp(data)
    chain = stamp.verify(MESSAGE, roots=[root.read])
    free = spans(data, stranger.der, root.der, unsigned, crls) | set(range(data.index(token)))
    passed = set()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= mask
        try:
            read = parse_time_stamp(bytes(changed))
            assert read.verify(MESSAGE, roots=[root.read]) == chain
        except GeoEvidenceError:
            continue
        assert vouched(read) == vouched(stamp)
        passed.add(position)
    assert passed and passed <= free
    # the text of the response is one of the free ones (a byte above 0x7f would be no UTF-8, which nobody looks at either)
    assert data.index(b"text") in passed


@pytest.mark.slow
def test_a_minimal_token_has_no_free_bit(root: Holder) -> None:
    holder = certify("TSA", by=root, number=3, extensions=[STAMPING])
    token = Draft(holder).token()
    assert problem(token, [root]) is None
    for position in range(len(token)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128):
            changed = bytearray(token)
            changed[position] ^= mask
            assert problem(bytes(changed), [root]) is not None, position


WHOLE = Draft(certify("TSA", number=3, extensions=[STAMPING]), info(after_time=accuracy(SECONDS) + b"\2\1\7")).token()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_bytes_raise_only_our_errors(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(WHOLE)))
    end = data.draw(st.integers(start, min(len(WHOLE), start + 8)))
    changed = WHOLE[:start] + data.draw(st.binary(max_size=8)) + WHOLE[end:]
    try:
        stamp = parse_time_stamp(changed)
        stamp.verify_signature(MESSAGE)
    except GeoEvidenceError:
        return
    assert changed == WHOLE


@given(st.binary(max_size=120))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_time_stamp(data)


# ---- DER ------------------------------------------------------------------------------------


@given(st.recursive(
    st.one_of(
        st.integers(-(1 << 80), 1 << 80).map(der.encode_integer),
        st.binary(max_size=300).map(octets),
        st.sampled_from([b"\5\0", b"\1\1\0", b"\1\1\xff", der.encode_oid("2.999.1234567890.0"), der.encode_oid("0.39"), b"\3\2\4\xf0", b"\3\1\0"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: der.encode(der.SEQUENCE, *parts)),
        st.lists(inner, max_size=4).map(der.encode_set_of),
    ),
    max_leaves=20,
))  # fmt: skip
def test_what_is_encoded_is_read(data: bytes) -> None:
    element = der.read(data, where="x")
    assert element.encoded == data and der.encode(element.tag, element.content) == data
    if element.tag == der.INTEGER:
        assert der.encode_integer(element.integer()) == data
    if element.tag == der.OID:
        assert der.encode_oid(element.oid()) == data


@pytest.mark.parametrize(
    "data",
    [
        b"\1\1\1", b"\1\0", b"\1\2\0\0", b"\2\0", b"\2\2\0\x7f", b"\2\2\xff\x80", b"\x0a\2\0\1", b"\3\0", b"\3\1\1", b"\3\2\x08\0", b"\3\2\1\1",
        b"\5\1\0", b"\6\0", b"\6\2\x80\1", b"\6\1\x81", b"\6\x41" + b"\1" * 65, b"\0\0", b"\x10\0", b"\x11\0", b"\x24\3\4\1a", b"\x22\0",
        b"\x1f\1\0", b"\x3f\1\0", b"\x04\x80", b"\x04\x81\x7f" + bytes(127), b"\x04\x82\0\x80" + bytes(128), b"\x04\x85\0\0\0\0\1a", b"\4\2a",
        b"\x04\x85\1\0\0\0\0", b"\4", b"\x04\x82\1", b"\x31\6\2\1\2\2\1\1",
    ],
    ids=lambda data: data[:6].hex(),
)  # fmt: skip
def test_what_is_not_der(data: bytes) -> None:
    for each in (data, der.encode(der.SEQUENCE, data)):
        with pytest.raises(FormatError) as caught:
            der.read(each, where="文件")
        assert "文件" in caught.value.render("zh") and "{" not in caught.value.render("en")


def test_messages_say_where_in_the_whole_document() -> None:
    inside = octets(der.encode(der.SEQUENCE, b"\5\0", b"\1\1\7"))
    with pytest.raises(FormatError) as caught:
        der.read(der.encode(der.SEQUENCE, inside), where="x").children()[0].inner(der.SEQUENCE)
    assert caught.value.values["offset"] == 8
    with pytest.raises(FormatError) as caught:
        der.read(der.encode(der.SEQUENCE, inside), where="x").children()[0].inner(der.SET)
    assert caught.value.values["offset"] == 4


def test_values_at_the_limits() -> None:
    assert der.read(b"\x04\x81\x80" + bytes(128), where="x").content == bytes(128)
    assert [der.read(der.encode_integer(each), where="x").integer() for each in (0, 127, 128, -128, -129)] == [
        0,
        127,
        128,
        -128,
        -129,
    ]
    assert der.encode_integer(-128) == b"\2\1\x80" and der.encode_integer(128) == b"\2\2\0\x80"
    with pytest.raises(FormatError):
        der.read(b"\x30\0", where="x", tag=der.SET)
    with pytest.raises(FormatError):
        der.read(b"\5\0", where="x").text()
    with pytest.raises(FormatError):
        der.read(b"\3\2\4\xf0", where="x").whole_bits()
    with pytest.raises(FormatError):
        der.Fields(der.read(b"\x30\0", where="x")).take()


# ---- the command ----------------------------------------------------------------------------


def test_openssl_command_is_safe_to_paste() -> None:
    command = openssl_command("照 片; rm -rf ~.JPG", "$(x).tsr", "ca's.pem", False)
    assert shlex.split(command) == [
        "openssl",
        "ts",
        "-verify",
        "-data",
        "照 片; rm -rf ~.JPG",
        "-in",
        "$(x).tsr",
        "-CAfile",
        "ca's.pem",
    ]
    assert shlex.split(openssl_command("a", "b", "c", True, gen_time="1970-01-02T00:00:00Z"))[-5:] == [
        "-token_in",
        "-CAfile",
        "c",
        "-attime",
        "86400",
    ]


# ---- the oldest Python ----------------------------------------------------------------------

SMOKE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from geoevidence.trust import FormatError, PublicKey, SignatureError, build_chain, build_pyz, parse_certificate, parse_time_stamp
from geoevidence.trust import openssl_command, verify_sm2
case = json.load(sys.stdin)
for algorithm, raw, signature, message in case["keys"]:
    key = PublicKey(algorithm, bytes.fromhex(raw))
    key.verify(bytes.fromhex(signature), bytes.fromhex(message))
    key.to_spki()
    try:
        key.verify(bytes.fromhex(signature), b"other")
    except SignatureError as error:
        assert error.render("zh") != error.render("en")
    else:
        raise SystemExit(algorithm)
root = parse_certificate(bytes.fromhex(case["root"]))
stamp = parse_time_stamp(bytes.fromhex(case["token"]))
chain = stamp.verify(bytes.fromhex(case["message"]), roots=[root])
assert build_chain(stamp.tsa, stamp.others, [root], moment=stamp.gen_time, purpose="sign") == chain
print(sys.version_info[:2], stamp.gen_time, stamp.earliest, stamp.latest, len(chain), openssl_command("a", "b", "c", True, gen_time=stamp.gen_time))
"""


def test_runs_under_python_3_9(draft: Draft, root: Holder) -> None:
    keys = []
    for kind, algorithm in (
        ("rsa", "rsa-pkcs1-sha256"),
        ("rsa", "rsa-pss-sha256"),
        ("P-256", "ecdsa-p256-sha256"),
        ("ed25519", "ed25519"),
    ):
        signature = sign(private_key(kind), "sha256", b"m", pss=32 if "pss" in algorithm else None)
        keys.append([algorithm, certify("k", kind).read.key.raw.hex(), signature.hex(), b"m".hex()])
    keys.append(
        [
            "ecdsa-p384-sha384",
            certify("k", "P-384").read.key.raw.hex(),
            sign(private_key("P-384"), "sha384", b"m").hex(),
            b"m".hex(),
        ]
    )
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "sm2.json").read_text())["gmt0003"][0]
    sm2 = der.encode(der.SEQUENCE, *(der.encode_integer(int(vector[each], 16)) for each in "rs"))
    keys.append(["sm2-sm3", vector["public_key"], sm2.hex(), vector["message"].encode().hex()])
    case = {"keys": keys, "root": root.der.hex(), "token": draft.token().hex(), "message": MESSAGE.hex()}
    kernel = Path(der.__file__).parents[2]
    done = subprocess.run(
        [old_python(), "-I", "-c", SMOKE, str(kernel)], input=json.dumps(case), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(3, 9) 2027-06-01T12:00:00Z 2027-06-01T12:00:00Z 2027-06-01T12:00:01Z 3 openssl ts -verify")
