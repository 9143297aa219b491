"""What the trust file says of a key: by its own line, by a certificate, at a time; and trust files that are none."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from geoevidence.trust import FormatError, PublicKey, TrustPolicy, dumps, parse_policy
from geoevidence.trust.holders import Holders, Use
from geoevidence.trust.manifest import NamedKey
from geoevidence.trust.policy import DEMONSTRATION, Authority
from tests.trust import authority, tree
from tests.trust.builder import Key, stamper

ROOT, CERTIFIED = tree.CERTIFIED_ROOT, tree.CERTIFIED
ROLES = ("operator", "package")


def vouched(**options: Any) -> TrustPolicy:
    return TrustPolicy(
        ("signed",), authorities=(Authority(ROOT.read, "机构", ("sign",), options.pop("roles", ROLES), **options),)
    )


def judge(policy: TrustPolicy, row: NamedKey = CERTIFIED.named, **use: Any) -> Any:
    holders = Holders(policy)
    assert holders.add([row], where="keys.json") == []
    fields = {"role": "operator", "claimed": "2027-01-01T00:00:00Z", "leaf": 0, "subject": "x", **use}
    return holders.judge(Use(row.key.key_id, **fields))


def test_a_certificate_names_the_holder() -> None:
    judged = judge(vouched())
    assert judged.holder == "CN=李检察官, O=测试机构, C=CN" and not judged.refused and not judged.detail


@pytest.mark.parametrize(
    ("use", "detail"),
    [
        ({"role": "log"}, "trust.policy_role"),
        ({"claimed": "2025-12-31T23:59:59Z"}, "trust.certificate_early"),
        ({"claimed": "2030-01-01T00:00:01Z"}, "trust.certificate_expired"),
        # what is attested moves a claimed time that cannot be
        ({"claimed": "2027-01-01T00:00:00Z", "after": "2031-01-01T00:00:00Z"}, "trust.certificate_expired"),
        ({"claimed": "2027-01-01T00:00:00Z", "before": "2025-01-01T00:00:00Z"}, "trust.certificate_early"),
    ],
)
def test_refused(use: dict[str, Any], detail: str) -> None:
    judged = judge(vouched(), **use)
    assert judged.refused and judged.detail == detail and judged.holder


@pytest.mark.parametrize(
    ("since", "before", "refused"),
    [
        ("2027-06-01T00:00:00Z", None, True),
        ("2027-06-01T00:00:00Z", "2027-06-01T00:00:00Z", True),
        ("2027-06-01T00:00:00Z", "2027-05-31T23:59:59Z", False),
    ],
)
def test_a_revoked_certificate_needs_attested_time(since: str, before: str | None, refused: bool) -> None:
    judged = judge(vouched(revoked={0x5A: since}), before=before)
    assert judged.refused == refused and (judged.detail == "trust.certificate_revoked") == refused


def test_a_chain_is_asked_again_at_another_time() -> None:
    holders = Holders(vouched())
    holders.add([CERTIFIED.named], where="keys.json")
    use = Use(CERTIFIED.public.key_id, "operator", "2027-01-01T00:00:00Z", 0, "x")
    assert not holders.judge(use).refused
    assert holders.judge(use._replace(claimed="2031-01-01T00:00:00Z")).detail == "trust.certificate_expired"
    assert not holders.judge(use).refused


def test_unknown_is_not_refused() -> None:
    for policy in (TrustPolicy(("signed",), authorities=(Authority(stamper().root.read, "x", ("sign",), ROLES),)), DEMONSTRATION):
        judged = judge(policy)
        assert judged.holder is None and not judged.refused and judged.detail in ("trust.policy_unknown", "trust.policy_none")


def test_an_algorithm_that_is_not_known_is_neither() -> None:
    root = authority.authority("P-521", "P-521", number=71)
    leaf = authority.certify("leaf", "ed25519", by=root, number=72, extensions=(authority.SIGNING,), hash_name="sha512")
    key = PublicKey("ed25519", leaf.key.public_key().public_bytes_raw())
    policy = TrustPolicy(("signed",), authorities=(Authority(root.read, "x", ("sign",), ROLES),))
    judged = judge(policy, NamedKey(key, "x", (leaf.der,)))
    assert judged.holder is None and not judged.refused and judged.detail == "trust.algorithm_unknown"


def test_too_many_certificates() -> None:
    (problem,) = Holders(vouched()).add([replace(CERTIFIED.named, certificates=CERTIFIED.certificates * 11)], where="keys.json")
    assert problem.message_id == "trust.key_certificates"


def test_a_key_of_the_trust_file_needs_no_row() -> None:
    policy = parse_policy(tree.trust(keys={Key(5): ("log",)}))
    holders = Holders(policy)
    assert holders.by_note_name(f"geoevidence-{Key(5).public.chain}") == Key(5).public
    judged = holders.judge(Use(Key(5).public.key_id, "log", "2027-01-01T00:00:00Z", 0, "x"))
    assert judged.holder == "某县检察院"


# ---- trust.json, version 2 ------------------------------------------------------------------------------


def value(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(tree.full_trust(authorities=(tree.stamping(revoked={0: "2026-01-01T00:00:00Z", 255: "2027-01-01T00:00:00Z"}),)))  # fmt: skip
    made["authorities"][0].update(changes)
    return made


def test_round_trip() -> None:
    made = value()
    policy = parse_policy(dumps(made))
    assert json.loads(policy.to_bytes()) == made and parse_policy(policy.to_bytes()) == policy
    assert policy.witness_threshold == 1 and made["authorities"][0]["revoked"][1]["serial"] == "ff"
    assert policy.roots("time") == policy.authorities and policy.roots("sign") == ()
    subject = policy.authorities[0].certificate.subject
    assert policy.revoked_at("2026-06-01T00:00:00Z") == {(subject, 0)}
    assert policy.revoked_at(None) == {(subject, 0), (subject, 255)}


def test_version_1_is_read() -> None:
    made = {name: each for name, each in value().items() if name in ("required", "keys")}
    policy = parse_policy(dumps({**made, "schema": "geoevidence.trust.v1"}))
    assert policy.authorities == () and policy.witness_threshold == 0 and len(policy.keys) == len(made["keys"])


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": "AAAA"},
        {"certificate": 5},
        {"certificate": base64.b64encode(ROOT.der + b"x").decode()},
        {"holder": ""},
        {"holder": None},
        {"purposes": []},
        {"purposes": ["time", "time"]},
        {"purposes": ["sell"]},
        {"purposes": [["time"]]},
        {"purposes": "time"},
        {"purposes": ["sign"], "roles": []},
        {"roles": [""]},
        {"roles": None},
        {"revoked": {}},
        {"revoked": [{"serial": "0A", "since": "2026-01-01T00:00:00Z"}]},
        {"revoked": [{"serial": "00", "since": "2026-01-01T00:00:00Z"}]},
        {"revoked": [{"serial": 5, "since": "2026-01-01T00:00:00Z"}]},
        {"revoked": [{"serial": "5", "since": "today"}]},
        {"revoked": [{"serial": "5"}]},
        {"revoked": [{"serial": "5", "since": "2026-01-01T00:00:00Z"}] * 2},
        {"more": 1},
    ],
)
def test_authorities_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_policy(dumps(value(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "geoevidence.trust.v1"},
        {"schema": "geoevidence.trust.v3"},
        {"schema": 5},
        {"schema": []},
        {"authorities": {}},
        {"authorities": [5]},
        {"authorities": value()["authorities"] * 2},
        {"witness_threshold": -1},
        {"witness_threshold": True},
        {"witness_threshold": "1"},
    ],
)
def test_files_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_policy(dumps({**value(), **changes}))
