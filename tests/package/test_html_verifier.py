"""verify.html as a file, and its core under Node: vectors, and the other verifier's answers to the same questions."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from geoevidence.package import html_verifier
from geoevidence.trust import (
    GeoEvidenceError,
    UnsupportedError,
    build_pyz,
    der,
    inclusion_proof,
    leaf_hash,
    parse_time_stamp,
    tree_root,
)
from geoevidence.trust.archive import fold, sort_key
from geoevidence.trust.canonical import dumps, loads, loads_canonical
from geoevidence.trust.digests import PureSM3
from tests.package.html_core import call, core
from tests.trust.authority import MESSAGE, MOMENT, SIGNING, STAMPING, Draft, authority, certify, info, octets, openssl_reply

VECTORS = Path(__file__).parents[1] / "vectors"


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def pair(r: int, s: int) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_integer(r), der.encode_integer(s))


# ---- the file ---------------------------------------------------------------------------------------


def test_same_bytes_and_not_large() -> None:
    page = html_verifier.build_html()
    assert page == html_verifier.build_html()
    assert len(page) < 400_000
    assert b"\r" not in page and page.endswith(b"</html>\n")
    page.decode("utf-8")


def test_policy_names_the_scripts_and_the_style() -> None:
    page = html_verifier.build_html().decode("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.group(1).split(";"))
    assert rules["default-src"] == "'none'" and "connect-src" not in rules and "img-src" not in rules

    def digests(pattern: str) -> list[str]:
        found = re.findall(pattern, page, re.DOTALL)
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found]

    assert rules["script-src"].split() == digests(r"<script[^>]*>(.*?)</script>") and len(rules["script-src"].split()) == 2
    assert rules["style-src"].split() == digests(r"<style>(.*?)</style>")
    assert rules["worker-src"] == "blob:"


def test_asks_for_nothing_from_outside() -> None:
    page = html_verifier.build_html().decode("utf-8")
    head = page.partition("<script")[0]
    assert not re.search(r"<(link|img|iframe|object|embed|script[^>]+src)|url\(|@import", head)
    for word in (
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "EventSource",
        "sendBeacon",
        "importScripts",
        "eval(",
        "innerHTML",
        "outerHTML",
    ):
        assert word not in page
    # names of formats, never fetched
    assert set(re.findall(r"https?://[^\s\"'`<]+", page)) == {"https://in-toto.io/Statement/v1"}


def test_texts_are_there_in_both_languages() -> None:
    texts = html_verifier.texts()
    assert set(texts) == {"zh", "en"} and texts["zh"].keys() == texts["en"].keys()
    page = html_verifier.build_html().decode("utf-8")
    named = set(
        re.findall(r'"((?:trust|html)\.[a-z0-9_.]*[a-z0-9_])"', page.partition("const TEXTS")[0] + page.partition("};\n")[2])
    )
    assert named and named <= texts["zh"].keys(), sorted(named - texts["zh"].keys())
    checks = set(re.findall(r'(\w+): \["\d\.\d+", "\w+"\]', page))
    assert len(checks) == 41 and {f"trust.check.{name}" for name in checks} <= texts["zh"].keys()
    for name in texts["zh"]:
        places = [set(re.findall(r"\{(\w+)\}", texts[lang][name])) for lang in ("zh", "en")]
        assert places[0] == places[1], name
        assert "[" not in name and re.search(r"[\u4e00-\u9fff]", texts["zh"][name]), name


def test_own_texts_are_all_used() -> None:
    sources = (
        core()
        + html_verifier.build_html().decode("utf-8").partition("</script>")[2].partition("const TEXTS")[2].partition(";\n")[2]
    )
    families = re.compile(r"html\.(exit|report|question|verdict|fact)\.")
    own = [name for name in html_verifier.texts()["zh"] if name.startswith("html.") and not families.match(name)]
    assert [name for name in own if f'"{name}"' not in sources] == []


def test_the_kernel_does_not_hold_the_page() -> None:
    assert b"html_verifier" not in build_pyz()


# ---- digests, texts, JSON -----------------------------------------------------------------------------


def test_digests(tmp_path: Path) -> None:
    draw = random.Random(1)
    samples = [draw.randbytes(size) for size in [*range(0, 260), 1000, 100_003]]
    names = ("sha1", "sha256", "sha384", "sha512")
    calls = [{"call": "digest", "name": name, "data": data.hex()} for data in samples for name in (*names, "sm3")]
    expected = [
        value
        for data in samples
        for value in (*(hashlib.new(name, data).hexdigest() for name in names), PureSM3(data).hexdigest())
    ]
    assert [each["value"] for each in call(tmp_path, calls)] == expected
    crcs = call(tmp_path, [{"call": "crc32", "data": data.hex()} for data in samples])
    assert [each["value"] for each in crcs] == [zlib.crc32(data) for data in samples]


def test_sm3_of_the_standard(tmp_path: Path) -> None:
    # GB/T 32905-2016, appendix A
    calls = [{"call": "digest", "name": "sm3", "data": text.hex()} for text in (b"abc", b"abcd" * 16)]
    assert [each["value"] for each in call(tmp_path, calls)] == [
        "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
        "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
    ]


def test_folding_is_that_of_every_character(tmp_path: Path) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    # NFC first: it may change a character that stands alone
    answers = call(tmp_path, [{"call": "fold", "text": each} for each in characters])
    wrong = [hex(ord(each)) for each, answer in zip(characters, answers, strict=True) if answer["value"] != fold(each)]
    # newer versions of Unicode fold more characters; the table of the page is that of version 14
    assert all(
        int(code, 16) not in range(0x10000) or code in ("0xa7cb", "0xa7cc", "0xa7da", "0xa7dc", "0x1c89") for code in wrong
    ), wrong


def test_order_of_paths(tmp_path: Path) -> None:
    draw = random.Random(2)
    letters = "aAbBßẞſKÅ照é\uffee\U0001f600\U00010400/._-Zẞ"
    paths = list(dict.fromkeys("".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(2000)))
    assert call(tmp_path, [{"call": "sort", "texts": paths}])[0]["value"] == sorted(paths, key=sort_key)


JSON = [
    b"", b" ", b"null", b"-0", b"01", b"1.0", b"1e3", b"9007199254740991", b"9007199254740992", b"NaN", b"[Infinity]", b"-Infinity",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'{"a":1,"\\u0061":2}', b"\xef\xbb\xbf{}", b"[" * 64 + b"]" * 64,
    b"[" * 65 + b"]" * 65, b'{"a":' * 64 + b"1" + b"}" * 64, b'"\x01"', b'"\x7f"', b'"\\x"', b"[1,]", b'{"a":1,}', b"{,}", b"[1 2]",
    b'{"a" 1}', b"\xff", b'"\xed\xa0\x80"', b'"\xc0\x80"', b" [1] ", b"[1]x", b"tru", b'"abc', b'{"__proto__":1,"constructor":2}',
    b'{"1":1,"0":2,"a":3}', b'"\\u00zz"', b"\x0b1", b"\xc2\xa01", '"\u2028"'.encode(), b"-", b"--1", b"+1", b".5", b"1.", b'"\\/"', b"[],",
    '{"\U0001f600":1,"\uffee":2,"é":3}'.encode(), b'{"a":{"b":[true,false,null,"x\\u00e9\\n"]},"c":-5}',
]  # fmt: skip


def test_json_is_read_as_the_other_verifier_reads_it(tmp_path: Path) -> None:
    draw = random.Random(3)
    documents = list(JSON)
    for document in JSON[-2:]:
        for _ in range(800):
            data = bytearray(document)
            place, byte = draw.randrange(len(data)), draw.choice(b'{}[]",:\\u0123456789abcdefnrt -.eE\x00\x1f\xff\xed\xa0')
            data[place : place + draw.randint(0, 1)] = bytes([byte]) * draw.randint(0, 1)
            documents.append(bytes(data))
    calls = [{"call": kind, "data": data.hex()} for data in documents for kind in ("json", "canonical")]
    accepted = 0
    for one, answer in zip(calls, call(tmp_path, calls), strict=True):
        data = bytes.fromhex(one["data"])
        try:
            expected = dumps(loads(data) if one["call"] == "json" else loads_canonical(data)).decode("utf-8")
            accepted += 1
        except GeoEvidenceError:
            expected = None
        assert answer.get("value") == expected, (one["call"], data, answer)
    assert 100 < accepted < len(calls) - 100


def test_base64_has_one_spelling(tmp_path: Path) -> None:
    good = ["", "AA==", "AAA=", "AAAA", base64.b64encode(bytes(range(256))).decode()]
    bad = ["A", "AA", "AA=", "AAA", "AB==", "AAB=", "A===", "====", "AA==AA==", "AA A", "AA-_", "AA\n==", "ＡAAA", " AAAA"]
    answers = call(tmp_path, [{"call": "base64", "text": text} for text in good + bad])
    assert [each.get("value") for each in answers] == [base64.b64decode(text).hex() for text in good] + [None] * len(bad)


# ---- signatures ------------------------------------------------------------------------------------------


def test_ed25519_vectors(tmp_path: Path) -> None:
    known = vectors("ed25519")
    rows = [(each, True) for each in known["rfc8032"]] + [(each, each["accept"]) for each in known["speccheck"]]
    calls = [
        {
            "call": "signature",
            "algorithm": "ed25519",
            "key": row["public_key"],
            "signature": row["signature"],
            "message": row["message"],
        }
        for row, _ in rows
    ]
    assert ["value" in each for each in call(tmp_path, calls)] == [accept for _, accept in rows]
    # S + L, RFC 8032 section 8.4
    signature = bytes.fromhex(known["rfc8032"][0]["signature"])
    s = int.from_bytes(signature[32:], "little") + 2**252 + 27742317777372353535851937790883648493
    malleable = {**calls[0], "signature": (signature[:32] + s.to_bytes(32, "little")).hex()}
    assert call(tmp_path, [malleable])[0]["fault"] == "trust.signature_malleable"


def test_ecdsa_and_sm2_vectors(tmp_path: Path) -> None:
    calls, expected = [], []
    for row in vectors("ecdsa")["rfc6979"]:
        signature = pair(int(row["r"], 16), int(row["s"], 16))
        for message in (row["message"], row["message"] + "!"):
            asked = {"call": "ecdsa", "curve": row["curve"], "hash": row["hash"], "key": row["public_key"]}
            calls.append({**asked, "signature": signature.hex(), "message": message.encode().hex()})
            expected.append(message == row["message"])
    for row in vectors("ecdsa")["wycheproof"]:
        names = {"key": row["public_key"], "signature": row["signature"], "message": row["message"]}
        calls.append({"call": "signature", "algorithm": "ecdsa-p256-sha256", **names})
        expected.append(row["result"] == "valid")
    row = vectors("sm2")["gmt0003"][0]
    for message in ("message digest", "message digesu"):
        signature = pair(int(row["r"], 16), int(row["s"], 16))
        asked = {"call": "signature", "algorithm": "sm2-sm3", "key": row["public_key"], "message": message.encode().hex()}
        calls.append({**asked, "signature": signature.hex()})
        expected.append(message == row["message"])
    assert ["value" in each for each in call(tmp_path, calls)] == expected


def test_rsa_made_by_another_program(tmp_path: Path) -> None:
    calls, expected = [], []
    for bits in (2048, 2049):
        key = rsa.generate_private_key(65537, bits)
        raw = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        for algorithm, scheme in (("rsa-pkcs1-sha256", padding.PKCS1v15()), ("rsa-pss-sha256", pss)):
            signature = key.sign(b"m", scheme, hashes.SHA256())
            changed = bytes([signature[0], signature[1] ^ 1]) + signature[2:]
            for made, message, accept in (
                (signature, b"m", True),
                (signature, b"n", False),
                (changed, b"m", False),
                (signature[1:], b"m", False),
            ):
                asked = {
                    "call": "signature",
                    "algorithm": algorithm,
                    "key": raw.hex(),
                    "signature": made.hex(),
                    "message": message.hex(),
                }
                calls.append(asked)
                expected.append(accept)
        other = key.sign(b"m", padding.PSS(padding.MGF1(hashes.SHA256()), 20), hashes.SHA256())
        calls.append(
            {"call": "signature", "algorithm": "rsa-pss-sha256", "key": raw.hex(), "signature": other.hex(), "message": "6d"}
        )
        expected.append(False)
    assert ["value" in each for each in call(tmp_path, calls)] == expected


# ---- trees, time stamps ---------------------------------------------------------------------------------------


def test_roots_and_inclusion(tmp_path: Path) -> None:
    known = vectors("merkle")
    calls = [{"call": "root", "leaves": known["leaves"][:size]} for size in range(1, 9)]
    assert [each["value"] for each in call(tmp_path, calls)] == known["roots"]
    asked, accept = [], []
    for size in range(1, 34):
        leaves = [leaf_hash(bytes([n])) for n in range(size)]
        root = tree_root(leaves).hex()
        for index in range(size):
            proof = [each.hex() for each in inclusion_proof(leaves, index)]
            one = {"call": "inclusion", "leaf": leaves[index].hex(), "index": index, "size": size, "proof": proof, "root": root}
            asked += [
                one,
                {**one, "proof": [*proof, root]},
                {**one, "index": (index + 1) % (size + 1)},
                {**one, "proof": proof[1:]},
            ]
            accept += [True, False, False, not proof]
    assert ["value" in each for each in call(tmp_path, asked)] == accept


def stamp_outcome(data: bytes, message: bytes, roots: list[Any]) -> Any:
    """As the other verifier has it: the times, or "fault", or "unknown"."""
    try:
        stamp = parse_time_stamp(data)
        chain = stamp.verify(message, roots=[root.read for root in roots])
    except UnsupportedError:
        return "unknown"
    except GeoEvidenceError:
        return "fault"
    return [stamp.gen_time, stamp.earliest, stamp.latest, chain[-1].sha256]


def test_time_stamps_flipped_byte_by_byte(tmp_path: Path) -> None:
    root = authority("时间戳根")
    holder = certify("时间戳机构", by=root, number=3, extensions=[STAMPING, SIGNING], serial=1234)
    second = der.encode(der.SEQUENCE, der.encode_integer(1), der.encode(0x80, b"\x05"))
    token = Draft(holder, info(after_time=second), certificates=(holder.der,)).token()
    samples = [(token, MESSAGE), (token, b"another")]
    samples += [(token[:n] + bytes([token[n] ^ mask]) + token[n + 1 :], MESSAGE) for n in range(len(token)) for mask in (1, 0x20)]
    samples += [(token + b"\0", MESSAGE), (token[:-1], MESSAGE), (octets(token), MESSAGE)]
    calls = [
        {"call": "stamp", "data": data.hex(), "message": message.hex(), "roots": [root.der.hex()]} for data, message in samples
    ]
    for (data, message), answer in zip(samples, call(tmp_path, calls), strict=True):
        found = answer["value"] if "value" in answer else "unknown" if answer["unknown"] else "fault"
        assert found == stamp_outcome(data, message, [root]), answer
    # genTime is a whole second; an accuracy of 1.005 s is rounded outward
    assert stamp_outcome(token, MESSAGE, [root])[:3] == [MOMENT, "2027-06-01T11:59:58Z", "2027-06-01T12:00:02Z"]


@pytest.mark.parametrize("kind", ["rsa", "P-256", "P-384", "ed25519"])
def test_time_stamps_of_openssl(kind: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    term = {"start": now - timedelta(days=10), "end": now + timedelta(days=10)}
    root = authority("根", "P-384", **term)
    made = certify(
        "TSA", "P-256" if kind == "ed25519" else kind, by=root, number=3, extensions=[STAMPING, SIGNING], serial=55, **term
    )
    options: dict[str, Any] = {"imprint": "sm3", "ess": "sha1"} if kind == "P-256" else {"digest": "sha384", "precision": 3}
    data = openssl_reply(made, tmp_path / "tsa", extra=[root], **options)
    answer = call(tmp_path, [{"call": "stamp", "data": data.hex(), "message": MESSAGE.hex(), "roots": [root.der.hex()]}])[0]
    assert answer.get("value") == stamp_outcome(data, MESSAGE, [root]), answer
