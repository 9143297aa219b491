"""A dishonest or faulty sealer of version 1: one defect each, sealed with valid signatures, and the check that must fail."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from geoevidence.trust import (
    Check,
    FormatError,
    TrustedKey,
    TrustPolicy,
    VerificationReport,
    commitment,
    digest_bytes,
    dumps,
    leaf_hash,
    messages,
    parse_leaf,
    parse_policy,
    tree_root,
    verify_package,
)
from geoevidence.trust.events import PAYLOAD_TYPE
from geoevidence.trust.manifest import MANIFESTS, parse_disclosures, parse_manifest
from geoevidence.trust.verdict import SHOWN
from tests.trust.builder import ORIGIN, SALT, Key, Log, package_files, sample_log, write_folder


def verify(files: dict[str, bytes], tmp_path: Path, **options: Any) -> VerificationReport:
    return verify_package(write_folder(files, tmp_path / "P"), **options)


def seal(log: Log, **options: Any) -> dict[str, bytes]:
    options["changes"] = {"verify.pyz": b"PK", **options.get("changes", {})}
    return package_files(log, **{"version": 1, **options})


@pytest.fixture(scope="session")
def files(log: Log) -> dict[str, bytes]:
    """A package of version 1: what it must be is unchanged. Version 2 is tested by the tree."""
    return seal(log)


def failed(report: VerificationReport) -> set[str]:
    return {check.name for check in report.failures}


def one(report: VerificationReport, name: str) -> Check:
    return next(check for check in report.failures if check.name == name)


def edit_leaf(log: Log, index: int, change: Callable[[dict[str, Any]], object], *, key: Key | None = None) -> None:
    """Change an event of the log and sign it again, as one who holds the key could."""
    raw = json.loads(base64.b64decode(json.loads(log.leaves[index])["payload"]))
    change(raw)
    log.leaves[index] = (key or log.keys[0]).envelope(PAYLOAD_TYPE, dumps(raw)).to_bytes()


# ---- documents that the sealer wrote wrongly --------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content", "check"),
    [
        ("bagit.txt", b"BagIt-Version: 0.97\n", "tags"),
        ("bag-info.txt", b"Payload-Oxum: 1.1\n", "tags"),
        ("data/findings.json", b'{"results":[],"schema":"geoevidence.package-findings.v1"}', "findings"),
        ("data/log/keys.json", b"[]", "keys"),
        ("data/log/keys.json", b"{}", "keys"),
        ("data/log/checkpoint", b"none", "checkpoint_signatures"),
        ("data/log/checkpoint", Key(1).checkpoint(5, bytes(32)), "log_root"),
        ("data/log/checkpoint", Key(9).checkpoint(5, bytes(32)), "checkpoint_signatures"),
        ("data/log/leaves.jsonl", b"", "log_root"),
        ("data/log/leaves.jsonl", b"{}\n", "events"),
        ("data/log/leaves.jsonl", b'{"withheld":"' + b"0" * 64 + b'"}', "events"),
        ("data/log/leaves.jsonl", b'{"withheld":"' + b"0" * 63 + b'"}\n', "events"),
        ("data/log/disclosures.jsonl", b"{}\n", "disclosures"),
        ("data/log/disclosures.jsonl", b"\xff\n", "disclosures"),
        ("data/log/disclosures.jsonl", b"{}", "disclosures"),
        ("manifest-sha256.txt", b"", "listing"),
        ("manifest-sm3.txt", b"no manifest\n", "manifests"),
        ("tagmanifest-sha256.txt", b"", "listing"),
        ("items.json", b"[]", "tree"),
        ("items.json", b"[\n{}\n]\n", "tree"),
        ("items.json", b'[\n{"leaf":"' + b"0" * 64 + b'"}\n]\n', "tree"),
    ],
)
def test_documents(path: str, content: bytes, check: str, log: Log, tmp_path: Path) -> None:
    report = verify(seal(log, changes={path: content}), tmp_path)
    assert check in failed(report) and report.exit_code == 1
    assert (
        any(path.split("/")[-1] in failure.subject for failure in report.failures if failure.name == check) or check == "listing"
    )


def test_manifest_that_leaves_a_file_out(log: Log, tmp_path: Path) -> None:
    files = seal(log)
    listed = parse_manifest(files["manifest-sm3.txt"], where="x")
    gone = next(path for path in listed if path.startswith("data/originals/"))
    lines = files["manifest-sm3.txt"].splitlines(keepends=True)
    shorter = b"".join(line for line in lines if gone.replace("%", "%25").encode() not in line)
    report = verify(seal(log, changes={"manifest-sm3.txt": shorter}), tmp_path)
    assert one(report, "listing").subject == gone


@pytest.mark.parametrize("field", ["sha256", "sm3", "size", "leaf", "salt", "path", "item"])
def test_items_line(field: str, log: Log, tmp_path: Path) -> None:
    lines = seal(log)["items.json"].decode()[2:-3].split(",\n")
    place = next(n for n, line in enumerate(lines) if "照片" in line)
    line = json.loads(lines[place])
    line[field] = {"size": line["size"] + 1, "path": line["path"] + "x", "item": "E-00000000-1-1"}.get(field, "0" * 64)
    lines[place] = dumps(line).decode()
    report = verify(seal(log, changes={"items.json": ("[\n" + ",\n".join(lines) + "\n]\n").encode()}), tmp_path)
    assert ("items" if field == "item" else "tree") in failed(report) and report.exit_code == 1


# ---- the log ------------------------------------------------------------------------------------


def set_field(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for name in path[:-1]:
            raw = raw[name]
        raw[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_field("schema", value="v2"),
        set_field("type", value="invented"),
        set_field("event_id", value="E-00000000-5"),
        set_field("case", value="C-1"),
        set_field("actor", "id", value="张三"),
        set_field("actor", "role", value=""),
        set_field("actor", "auth_level", value=None),
        set_field("actor", "key_id", value="0" * 64),
        set_field("actor", "more", value=1),
        set_field("device", "serial", value="SN-1"),
        set_field("device", "software", value=1),
        set_field("time_claimed", value="2026-11-23T08:04:00+00:00"),
        set_field("time_claimed", value="2026-13-23T08:04:00Z"),
        set_field("clock", "source", value="sundial"),
        set_field("clock", "offset_ms", value=True),
        set_field("seq", value=0),
        set_field("seq", value="5"),
        set_field("prev_event", value=None),
        set_field("prev_event", value="sha256:0"),
        set_field("anchor", "tree_size", value=0),
        set_field("anchor", "root", value="x"),
        set_field("anchor", "attested_time", value=1),
        set_field("anchor", value={}),
        set_field("inputs", value=None),
        set_field("inputs", value=[{}]),
        set_field("outputs", value={}),
        set_field("process", value={}),
        set_field(
            "process",
            value={"tool": "t", "version": "1", "code_digest": None, "environment_digest": "x", "parameters": {}, "seed": 1},
        ),
        set_field(
            "process",
            value={"tool": "t", "version": "1", "code_digest": None, "environment_digest": None, "parameters": [], "seed": 1},
        ),
        set_field(
            "process",
            value={"tool": "t", "version": "1", "code_digest": None, "environment_digest": None, "parameters": {}, "seed": "1"},
        ),
        set_field("note", value="text"),
        set_field("more", value=1),
        lambda raw: raw.pop("note"),
        lambda raw: raw["outputs"][0].update(item="E-00000000-5-1"),
        lambda raw: raw["outputs"][0].update(path="report/E-00000000-1/x"),
        lambda raw: raw["outputs"][0].update(path=raw["outputs"][0]["path"].replace("report/", "elsewhere/")),
        lambda raw: raw["outputs"][0].update(path=raw["outputs"][0]["path"] + "/../../x"),
        lambda raw: raw["outputs"][0].update(path=raw["outputs"][0]["path"] + "\\x"),
        lambda raw: raw["outputs"][0].update(path=raw["outputs"][0]["path"] + "e\u0301"),
        lambda raw: raw["outputs"][0].update(size=-1),
        lambda raw: raw["outputs"][0].update(sha256="0"),
        lambda raw: raw["outputs"][0].update(more=1),
        lambda raw: raw["inputs"].append(raw["inputs"][0]),
    ],
)
def test_events_are_closed(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    log = sample_log()
    edit_leaf(log, 4, change)
    report = verify(seal(log), tmp_path)
    assert one(report, "events").subject == "data/log/leaves.jsonl:5" and report.exit_code == 1
    assert one(report, "events").detail in ("trust.event_field", "trust.event_signer")


@pytest.mark.parametrize(
    ("index", "change", "check"),
    [
        (4, set_field("case", value="C-9999999999"), "events"),
        (4, set_field("prev_event", value="sha256:" + "0" * 64), "chains"),
        (4, set_field("anchor", "root", value="0" * 64), "anchors"),
        (4, set_field("anchor", "tree_size", value=3), "anchors"),
        (4, set_field("anchor", "tree_size", value=5), "anchors"),
        (4, set_field("anchor", "tree_size", value=50), "anchors"),
        (4, lambda raw: raw["inputs"][0].update(sm3="0" * 64), "inputs"),
        (4, lambda raw: raw["inputs"][0].update(size=1), "inputs"),
        (4, lambda raw: raw["inputs"][0].update(item=raw["inputs"][0]["item"][:-1] + "9"), "inputs"),
        (4, lambda raw: raw["outputs"][0].update(sha256="0" * 64), "items"),
        (4, lambda raw: raw["outputs"][0].update(size=9), "items"),
        (4, lambda raw: raw["outputs"].clear(), "items"),
        (4, lambda raw: raw["outputs"].append({**raw["outputs"][0], "item": raw["event_id"] + "-2"}), "items"),
        (
            4,
            lambda raw: raw["outputs"].append(
                {**raw["outputs"][0], "item": raw["event_id"] + "-2", "path": raw["outputs"][0]["path"] + "x"}
            ),
            "items",
        ),
        (4, set_field("actor", "id", value=commitment("李四", SALT)), "disclosures"),
        (4, set_field("device", "serial", value=None), "disclosures"),
    ],
)
def test_history(index: int, change: Callable[[dict[str, Any]], object], check: str, tmp_path: Path) -> None:
    log = sample_log()
    edit_leaf(log, index, change)
    log.heads[log.keys[0].public.key_id] = (5, f"sha256:{leaf_hash(log.leaves[4]).hex()}")
    report = verify(seal(log), tmp_path)
    assert failed(report) == {check} and report.exit_code == 1, report.failures


def test_an_event_taken_out_of_the_history(tmp_path: Path) -> None:
    log = sample_log()
    del log.leaves[3], log.disclosures[3]
    log.files = {path: data for path, data in log.files.items() if not path.endswith("/findings.json")}
    report = verify(seal(log), tmp_path)
    assert {"chains", "anchors", "inputs"} <= failed(report)
    assert "leaves.jsonl:4" in one(report, "chains").subject


def test_events_in_another_order_or_twice(tmp_path: Path) -> None:
    log = sample_log()
    log.leaves[2:4] = reversed(log.leaves[2:4])
    report = verify(seal(log), tmp_path)
    assert {"chains", "anchors", "inputs", "disclosures"} <= failed(report)
    log = sample_log()
    log.leaves.append(log.leaves[0])
    report = verify(seal(log), tmp_path)
    assert one(report, "events").subject == "data/log/leaves.jsonl:6"


def test_two_first_events_of_one_key(tmp_path: Path) -> None:
    log = sample_log()
    raw = log.event("viewed", {})
    raw.update(seq=1, event_id=f"E-{log.keys[0].public.chain}-1", prev_event=None)
    log.leaves.append(log.leaf(raw))
    assert "events" in failed(verify(seal(log), tmp_path))


def test_two_keys_and_a_leaf_signed_by_another(tmp_path: Path) -> None:
    log = sample_log()
    second = Key(2)
    log.keys.append(second)
    log.append("reviewed", {"records/{e}/review.json": b"{}"}, key=second)
    assert verify(seal(log), tmp_path).verified
    log.append("viewed", {}, key=Key(7))
    report = verify(seal(log), tmp_path)
    assert failed(report) == {"event_signatures"} and "leaves.jsonl:7" in one(report, "event_signatures").subject


def test_signature_of_another_event(tmp_path: Path) -> None:
    log = sample_log()
    taken, leaf = json.loads(log.leaves[1]), json.loads(log.leaves[4])
    leaf["signatures"] = taken["signatures"]
    log.leaves[4] = dumps(leaf)
    log.heads[log.keys[0].public.key_id] = (5, f"sha256:{leaf_hash(log.leaves[4]).hex()}")
    report = verify(seal(log), tmp_path)
    assert failed(report) == {"event_signatures"} and one(report, "event_signatures").detail == "trust.signature_wrong"


@pytest.mark.parametrize(
    ("packaged", "checks"),
    [
        ({"type": "viewed"}, {"packaged"}),
        ({"outputs": []}, {"packaged"}),
        ({"anchor": None}, {"packaged"}),
        ({"case": "C-9999999999"}, {"events", "chains", "anchors", "inputs", "items", "log_root", "findings", "packaged"}),
    ],
)
def test_packaged_event(packaged: dict[str, Any], checks: set[str], log: Log, tmp_path: Path) -> None:
    report = verify(seal(log, packaged=packaged), tmp_path)
    assert failed(report) and failed(report) <= checks and report.exit_code == 1


def test_packaged_event_of_another_statement(log: Log, tmp_path: Path) -> None:
    other = digest_bytes(b"other")
    event_id = f"E-{log.keys[0].public.chain}-6"
    output = {
        "item": f"{event_id}-1",
        "path": f"seal/{event_id}/statement.dsse",
        "size": 5,
        "sha256": other.sha256,
        "sm3": other.sm3,
    }
    report = verify(seal(log, packaged={"outputs": [output]}), tmp_path)
    assert failed(report) == {"packaged"}
    assert {check.subject for check in report.failures} == {"seal/statement.dsse", "seal/proof.tlog"}


def test_seal_of_another_package_of_the_same_log(log: Log, tmp_path: Path) -> None:
    """Both are valid, both by the same key: the seal fits its own package only."""
    files, other = seal(log), seal(log, changes={"VERIFY.txt": b"other"})
    assert verify(other, tmp_path / "other").verified
    for path in ("seal/statement.dsse", "seal/proof.tlog"):
        report = verify({**files, path: other[path]}, tmp_path)
        assert report.exit_code == 1 and any(path in check.subject for check in report.failures)
    report = verify(
        {**files, "seal/statement.dsse": other["seal/statement.dsse"], "seal/proof.tlog": other["seal/proof.tlog"]}, tmp_path
    )
    assert {check.subject for check in report.failures} == {"VERIFY.txt", "tagmanifest-sha256.txt", "tagmanifest-sm3.txt"} - {
        "VERIFY.txt"
    }


def test_a_later_proof_of_the_same_leaf(log: Log, tmp_path: Path) -> None:
    """A proof in a larger tree is valid in itself; the format asks for the checkpoint right after, so that there is one seal only."""
    from geoevidence.trust import TlogProof, inclusion_proof, parse_proof

    files = seal(log)
    proof = parse_proof(files["seal/proof.tlog"])
    hashes = [*log.hashes, leaf_hash(proof.extra or b""), leaf_hash(b"later")]
    later = TlogProof(5, inclusion_proof(hashes, 5), log.keys[0].checkpoint(7, tree_root(hashes)), proof.extra)
    report = verify({**files, "seal/proof.tlog": later.to_bytes()}, tmp_path)
    assert failed(report) == {"packaged"}


def test_a_second_package_of_a_log_holds_no_earlier_statement(tmp_path: Path) -> None:
    log = sample_log()
    log.append("packaged", {"seal/{e}/statement.dsse": b"{}"})
    log.files = {path: data for path, data in log.files.items() if not path.startswith("data/seal/")}
    assert verify(seal(log), tmp_path).verified


def test_withheld_leaves_are_said_and_not_passed(tmp_path: Path) -> None:
    log = sample_log()
    log.append("viewed", {})
    log.disclosures.pop()
    files = seal(log)
    lines = files["data/log/leaves.jsonl"].splitlines()
    lines[5] = dumps({"withheld": leaf_hash(lines[5]).hex()})
    report = verify(seal(log, changes={"data/log/leaves.jsonl": b"".join(line + b"\n" for line in lines)}), tmp_path)
    assert not report.failures and report.verdicts["continuous"] == "not_checked" and report.exit_code == 2
    assert report.facts["withheld"] == 1 and "1" in report.render("zh")


# ---- time ---------------------------------------------------------------------------------------


def test_clocks_are_noted(log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    report = verify(files, tmp_path, now=datetime(2026, 11, 23, 8, 3, 30, tzinfo=UTC))
    noted = [check for check in report.checks if check.name == "claimed_past"]
    assert [check.subject[-2:] for check in noted] == ["-5", "-6"] and report.exit_code == 0
    report = verify(files, tmp_path, now=datetime(2026, 11, 24, tzinfo=UTC))
    assert [check.status for check in report.checks if check.name == "claimed_past"] == ["passed"]
    with pytest.raises(ValueError):
        verify(files, tmp_path, now=datetime(2026, 11, 24))


def test_a_clock_that_runs_back_is_noted(tmp_path: Path) -> None:
    log = sample_log()
    log.append("viewed", {}, time="2026-11-23T07:00:00Z")
    report = verify(seal(log), tmp_path)
    (noted,) = [check for check in report.checks if check.name == "claimed_order"]
    assert noted.status == "not_checked" and "07:00:00" in str(noted.values) and report.exit_code == 0


# ---- checkpoints from outside -------------------------------------------------------------------


def known(log: Log, size: int, *, leaves: list[bytes] | None = None, **options: Any) -> bytes:
    hashes = leaves or log.hashes
    return log.keys[0].checkpoint(size, tree_root(hashes[:size]), **options)


def test_known_checkpoints(log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    for size in range(6):
        report = verify(files, tmp_path, known_checkpoints=[known(log, size)])
        assert report.exit_code == 0 and "trust.limit.rollback" not in report.limits
    fork = [*log.hashes[:2], leaf_hash(b"other"), *log.hashes[3:]]
    for size in range(3, 6):
        report = verify(files, tmp_path, known_checkpoints=[known(log, size, leaves=fork)])
        assert report.exit_code == 4 and report.fork and one(report, "rollback")
    report = verify(files, tmp_path, known_checkpoints=[known(log, 9, leaves=[*log.hashes, *log.hashes])])
    assert report.exit_code == 3 and report.stale and not report.failures
    report = verify(files, tmp_path, known_checkpoints=[known(log, 3, origin=ORIGIN[:-1] + "8")])
    assert failed(report) == {"rollback"} and report.exit_code == 1
    forged = known(log, 3).replace(b"\n3\n", b"\n2\n")
    assert one(verify(files, tmp_path, known_checkpoints=[forged]), "rollback").detail == "trust.signature_wrong"


def test_a_broken_log_is_not_called_a_fork(log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    broken = {**files, "data/log/leaves.jsonl": files["data/log/leaves.jsonl"][:-1]}
    report = verify(broken, tmp_path, known_checkpoints=[known(log, 5)])
    assert report.exit_code == 1 and not report.fork


# ---- trust --------------------------------------------------------------------------------------


def policy(key: Key, **changes: Any) -> TrustPolicy:
    fields = {
        "key": key.public,
        "holder": "某县检察院",
        "roles": ("operator", "log", "package"),
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_to": None,
        "revoked_at_tree_size": None,
        **changes,
    }
    return TrustPolicy(("intact", "signed", "continuous"), (TrustedKey(**fields),))


def test_a_trusted_key_makes_signed_pass(log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    report = verify(files, tmp_path, policy=policy(log.keys[0]))
    assert report.verdicts["signed"] == "passed" and report.exit_code == 0
    assert "某县检察院" in report.render("zh") and "trust.limit.who" not in report.limits


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"roles": ("operator", "log")}, "trust.policy_role"),
        ({"roles": ("operator", "package")}, "trust.policy_role"),
        ({"roles": ("log", "package")}, "trust.policy_role"),
        ({"valid_from": "2026-11-23T08:00:01Z"}, "trust.policy_term"),
        ({"valid_to": "2026-11-23T08:59:59Z"}, "trust.policy_term"),
        ({"revoked_at_tree_size": 5}, "trust.policy_revoked"),
    ],
)
def test_a_key_outside_its_role_or_term(
    changes: dict[str, Any], detail: str, log: Log, files: dict[str, bytes], tmp_path: Path
) -> None:
    report = verify(files, tmp_path, policy=policy(log.keys[0], **changes))
    assert {check.detail for check in report.failures} == {detail} and report.exit_code == 1
    assert report.verdicts["intact"] == report.verdicts["continuous"] == "passed"


@pytest.mark.parametrize(
    "changes", [{"valid_to": "2026-11-23T09:00:00Z"}, {"valid_from": "2026-11-23T08:00:00Z"}, {"revoked_at_tree_size": 6}]
)
def test_the_ends_of_a_term_belong_to_it(changes: dict[str, Any], log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    assert verify(files, tmp_path, policy=policy(log.keys[0], **changes)).exit_code == 0


def test_an_unknown_key_is_incomplete_not_broken(files: dict[str, bytes], tmp_path: Path) -> None:
    report = verify(files, tmp_path, policy=policy(Key(8)))
    assert report.verdicts["signed"] == "not_checked" and report.exit_code == 2 and not report.failures


def test_a_key_swapped_in_the_package_does_not_pass(log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    """All signed again by another key: consistent in itself, so only the policy can tell."""
    mine = Log(keys=[Key(4)])
    for path in ("records/{e}/case.json",):
        mine.append("commissioned", {path: b"{}"})
    report = verify(seal(mine), tmp_path, policy=policy(log.keys[0]))
    assert report.exit_code == 2 and report.verdicts["signed"] == "not_checked"


# ---- trust.json ---------------------------------------------------------------------------------


def trust_file(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(policy(Key(1)).to_bytes())
    value["keys"][0].update(changes)
    return value


def test_policy_round_trip() -> None:
    one_key = policy(Key(1), valid_to="2027-01-01T00:00:00Z", revoked_at_tree_size=7)
    assert parse_policy(one_key.to_bytes()) == one_key
    pretty = json.dumps(json.loads(one_key.to_bytes()), indent=2, ensure_ascii=False).encode()
    assert parse_policy(pretty) == one_key


@pytest.mark.parametrize(
    "changes",
    [
        {"key_id": "0" * 64},
        {"algorithm": "rsa"},
        {"algorithm": 5},
        {"public_key": "AA=="},
        {"public_key": 5},
        {"holder": ""},
        {"holder": 5},
        {"roles": []},
        {"roles": "log"},
        {"roles": [5]},
        {"valid_from": None},
        {"valid_from": "2026-01-01"},
        {"valid_to": 5},
        {"revoked_at_tree_size": -1},
        {"revoked_at_tree_size": True},
        {"more": 1},
    ],
)
def test_policy_refuses_keys(changes: dict[str, Any]) -> None:
    from geoevidence.trust import FormatError

    with pytest.raises(FormatError):
        parse_policy(dumps(trust_file(**changes)))


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {**trust_file(), "schema": "v2"},
        {**trust_file(), "required": []},
        {**trust_file(), "required": ["intact", "intact"]},
        {**trust_file(), "required": ["beautiful"]},
        {**trust_file(), "required": [["intact"]]},
        {**trust_file(), "keys": {}},
        {**trust_file(), "keys": [5]},
        {**trust_file(), "keys": trust_file()["keys"] * 2},
        {**trust_file(), "more": 1},
    ],
)
def test_policy_refuses(value: Any) -> None:
    from geoevidence.trust import FormatError

    with pytest.raises(FormatError):
        parse_policy(dumps(value))


# ---- statements and seals -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "check"),
    [
        ({"package_root": "0" * 64}, "tree"),
        ({"items": 3}, "tree"),
        ({"workspace": "W-0000000000"}, "log_root"),
        ({"case": "C-9999999999"}, "events"),
        ({"checkpoint_before": "x"}, "log_root"),
        ({"software": "geoevidence 9"}, "tags"),
        ({"time_claimed": "2026-11-24T09:00:00Z"}, "tags"),
        ({"software": "other 1"}, "seal"),
        ({"time_claimed": "today"}, "seal"),
        ({"demonstration": 1}, "seal"),
        ({"items": -1}, "seal"),
        ({"items": True}, "seal"),
        ({"case": "x"}, "seal"),
        ({"checkpoint_before": None}, "seal"),
        ({"subjects": {}}, "seal"),
        ({"subjects": {name: ("0" * 64, "x") for name in MANIFESTS}}, "seal"),
        ({"subjects": {name: ("0" * 64, "0" * 64) for name in MANIFESTS}}, "manifests"),
        ({"subjects": {f"{name}x": ("0" * 64, "0" * 64) for name in MANIFESTS}}, "seal"),
    ],
)
def test_statements(stated: dict[str, Any], check: str, log: Log, tmp_path: Path) -> None:
    report = verify(seal(log, stated=stated), tmp_path)
    assert check in failed(report) and report.exit_code == 1
    if check == "seal":
        assert one(report, "seal").subject == "seal/statement.dsse"


@pytest.mark.parametrize("payload", [b"[]", b"{}", b'{"a": 1}', b"\xff"])
def test_statement_payloads_of_another_shape(payload: bytes, log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    sealed = log.keys[0].envelope("application/vnd.in-toto+json", payload).to_bytes()
    assert "seal" in failed(verify({**files, "seal/statement.dsse": sealed}, tmp_path))


def test_statement_of_another_payload_type(log: Log, tmp_path: Path) -> None:
    report = verify(seal(log, payload_type="text/plain"), tmp_path)
    assert one(report, "seal").detail == "trust.payload_type"


def test_statement_signed_by_an_unknown_key(log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    from geoevidence.trust import parse_envelope

    payload = parse_envelope(files["seal/statement.dsse"]).payload
    forged = Key(9).envelope("application/vnd.in-toto+json", payload).to_bytes()
    report = verify({**files, "seal/statement.dsse": forged}, tmp_path)
    assert one(report, "statement_signature").detail == "trust.key_unknown" and report.exit_code == 1
    # a statement that is not signed by a known key blames no other file
    assert {check.subject for check in report.failures} == {"seal/statement.dsse", "seal/proof.tlog"}


def test_a_second_signature_line_is_refused(log: Log, files: dict[str, bytes], tmp_path: Path) -> None:
    """Anyone may add a line to a note; here each byte counts."""
    added = Key(9).checkpoint(6, bytes(32)).splitlines(keepends=True)[-1]
    report = verify({**files, "seal/proof.tlog": files["seal/proof.tlog"] + added}, tmp_path)
    assert one(report, "seal").detail == "trust.note_one_signature"
    checkpoint = files["data/log/checkpoint"] + added
    report = verify(seal(log, changes={"data/log/checkpoint": checkpoint}), tmp_path)
    assert one(report, "checkpoint_signatures").detail == "trust.note_one_signature"


def test_a_proof_without_its_leaf(files: dict[str, bytes], tmp_path: Path) -> None:
    lines = [line for line in files["seal/proof.tlog"].splitlines(keepends=True) if not line.startswith(b"extra ")]
    assert one(verify({**files, "seal/proof.tlog": b"".join(lines)}, tmp_path), "seal").subject == "seal/proof.tlog"


def test_a_damaged_list_of_keys_blames_no_signature(files: dict[str, bytes], tmp_path: Path) -> None:
    report = verify({**files, "data/log/keys.json": files["data/log/keys.json"][:-1]}, tmp_path)
    assert {check.subject for check in report.failures} == {"data/log/keys.json"}


def test_a_key_that_is_not_in_the_list(log: Log, tmp_path: Path) -> None:
    from geoevidence.trust.manifest import parse_keys

    log = sample_log()
    log.keys.append(Key(2))
    files = seal(log)
    keys = json.loads(files["data/log/keys.json"])
    assert len(parse_keys(files["data/log/keys.json"])) == 2
    for wrong in (
        keys[::-1],
        keys[:1] * 2,
        [{**keys[0], "name": "other"}],
        [{**keys[0], "label": 1}],
        [{**keys[0], "more": 1}],
        [{**keys[0], "key_id": "0" * 64}],
        [5],
    ):
        assert failed(verify(seal(log, changes={"data/log/keys.json": dumps(wrong)}), tmp_path)) == {"keys"}
    others = [key for key in keys if key["key_id"] != log.keys[0].public.key_id]
    report = verify(seal(log, changes={"data/log/keys.json": dumps(others)}), tmp_path)
    assert {"statement_signature", "checkpoint_signatures", "event_signatures"} <= failed(report)


@pytest.mark.parametrize(
    "lines",
    [
        b'{"disclosures":{},"event":"E-1"}\n',
        b'{"disclosures":[],"event":"E-1"}\n',
        b'{"disclosures":{"actor.id":5},"event":"E-bd8a63bd-1"}\n',
        b'{"disclosures":{"note":{"salt":"","value":""}},"event":"E-bd8a63bd-1"}\n',
        b'{"disclosures":{"a":1},"event":"E-bd8a63bd-1"}\n' * 2,
        b'{"disclosures":{"a":1},"event":"E-00000000-1"}\n',
        b'{"disclosures":{"a":1},"event":5}\n',
    ],
)
def test_disclosures_of_another_shape(lines: bytes, log: Log, tmp_path: Path) -> None:
    assert failed(verify(seal(log, changes={"data/log/disclosures.jsonl": lines}), tmp_path)) == {"disclosures"}


def test_no_disclosures_is_allowed(log: Log, tmp_path: Path) -> None:
    assert verify(seal(log, changes={"data/log/disclosures.jsonl": b""}), tmp_path).verified


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: lines[::-1],
        lambda lines: [lines[0].upper(), *lines[1:]],
        lambda lines: [lines[0].replace(b"  ", b" *"), *lines[1:]],
        lambda lines: [line.replace(b"%25", b"%2525") for line in lines],
        lambda lines: [line.replace(b"%25", b"%") for line in lines],
        lambda lines: [b"".join(lines)[:-1]],
        lambda lines: [*lines, b"\xff\n"],
    ],
)
def test_manifests_of_another_shape(change: Callable[[list[bytes]], list[bytes]], log: Log, tmp_path: Path) -> None:
    for name in ("manifest-sha256.txt", "manifest-sm3.txt"):
        content = b"".join(change(seal(log)[name].splitlines(keepends=True)))
        report = verify(seal(log, changes={name: content}), tmp_path)
        assert {check.name for check in report.failures} <= {"manifests", "listing"} and report.exit_code == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[::-1],
        lambda lines: [lines[0], *lines],
        lambda lines: [{**lines[0], "path": None}, *lines[1:]],
        lambda lines: [{**lines[0], "path": 5}, *lines[1:]],
        lambda lines: [{**lines[0], "size": "1"}, *lines[1:]],
        lambda lines: [{**lines[0], "item": 5}, *lines[1:]],
        lambda lines: [{**lines[0], "salt": "A" * 64}, *lines[1:]],
        lambda lines: [{**lines[0], "more": 1}, *lines[1:]],
        lambda lines: lines[1:],
        lambda lines: [*lines, {**lines[-1], "path": "data/zzz"}],
        lambda lines: [{**line, "item": "E-00000000-1-1"} if line["path"] == "data/findings.json" else line for line in lines],
    ],
)
def test_items_of_another_shape(change: Callable[[list[Any]], list[Any]], log: Log, tmp_path: Path) -> None:
    lines = change(json.loads(seal(log)["items.json"]))
    content = b"[\n" + b",\n".join(dumps(line) for line in lines) + b"\n]\n"
    report = verify(seal(log, changes={"items.json": content}), tmp_path)
    assert failed(report) and failed(report) <= {"tree", "items"} and report.exit_code == 1


def test_withheld_files_are_said(log: Log, tmp_path: Path) -> None:
    lines = json.loads(seal(log)["items.json"])
    lines[-1] = {"leaf": lines[-1]["leaf"]}
    content = b"[\n" + b",\n".join(dumps(line) for line in lines) + b"\n]\n"
    report = verify(seal(log, changes={"items.json": content}), tmp_path)
    # the root still holds; the file that lies there although it is withheld does not
    assert [check.detail for check in report.failures] == ["trust.tree_files"]
    assert any(check.detail == "trust.withheld_files" for check in report.checks)


def test_an_event_that_skips_a_number(tmp_path: Path) -> None:
    log = sample_log()
    raw = log.event("viewed", {})
    raw.update(seq=7, event_id=f"E-{log.keys[0].public.chain}-7")
    log.leaves.append(log.leaf(raw))
    log.heads[log.keys[0].public.key_id] = (7, f"sha256:{leaf_hash(log.leaves[-1]).hex()}")
    report = verify(seal(log), tmp_path)
    assert failed(report) == {"chains"} and one(report, "chains").expected == f"E-{log.keys[0].public.chain}-6"


def test_a_packaged_event_that_is_in_the_log_already(tmp_path: Path) -> None:
    log = sample_log()
    event_id = f"E-{log.keys[0].public.chain}-5"
    output = {"item": f"{event_id}-1", "path": f"seal/{event_id}/statement.dsse", "size": 0, "sha256": "0" * 64, "sm3": "0" * 64}
    report = verify(seal(log, packaged={"seq": 5, "event_id": event_id, "outputs": [output]}), tmp_path)
    assert "trust.event_twice" in {check.detail for check in report.failures} and report.exit_code == 1


def test_paths_whose_folder_is_a_file_elsewhere(files: dict[str, bytes], tmp_path: Path) -> None:
    """`data/Report` the file and `data/report/` the folder are one name on some computers."""
    report = verify({**files, "data/Report": b"x"}, tmp_path)
    assert {"paths", "layout", "listing"} <= failed(report)


def test_a_finding_that_cannot_be_read(files: dict[str, bytes], tmp_path: Path) -> None:
    path = next(path for path in files if path.startswith("data/records/") and path.endswith("findings.json"))
    report = verify({**files, path: files[path].replace(b"findings", b"findingz")}, tmp_path)
    assert {check.subject for check in report.failures} == {path}


def test_a_derived_event_without_a_result(tmp_path: Path) -> None:
    """Nothing can be recomputed or rest on it, and nothing else is wrong with it."""
    log = sample_log()
    log.append("derived", {"derived/{e}/dsm.tif": b"II*\0"})
    report = verify(seal(log), tmp_path)
    assert report.failures == () and report.exit_code == 0 and report.facts["leaves"] == 6


def test_of_two_inputs_the_wrong_one_is_named(tmp_path: Path) -> None:
    log = sample_log()
    right = json.loads(base64.b64decode(json.loads(log.leaves[1])["payload"]))["outputs"]
    log.append("derived", {"derived/{e}/result.json": b"{}"}, inputs=[right[0], {**right[1], "sha256": "0" * 64}])
    (check,) = verify(seal(log), tmp_path).failures
    assert (check.name, check.detail) == ("inputs", "trust.input_unknown")
    assert (
        right[1]["item"] in (check.found or "")
        and "0" * 64 in (check.found or "")
        and right[1]["sha256"] in (check.expected or "")
    )


def test_inputs_are_named_also_where_the_proof_is_spoilt(tmp_path: Path) -> None:
    log = sample_log()
    edit_leaf(log, 4, lambda raw: raw["inputs"][0].update(size=1))
    log.heads[log.keys[0].public.key_id] = (5, f"sha256:{leaf_hash(log.leaves[4]).hex()}")
    files = seal(log)
    report = verify({**files, "seal/proof.tlog": b"x"}, tmp_path)
    assert {"inputs", "seal"} <= failed(report) and one(report, "inputs").subject.startswith("data/log/leaves.jsonl:5")


def test_disclosures_are_read_as_a_whole() -> None:
    lines = [dumps({"disclosures": {"note": {"salt": SALT, "value": "x"}}, "event": f"E-{n}"}) + b"\n" for n in (1, 2)]
    assert [event for event, _ in parse_disclosures(b"".join(lines))] == ["E-1", "E-2"]
    with pytest.raises(FormatError) as error:
        parse_disclosures(lines[0] * 2)
    assert error.value.message_id == "trust.disclosure_fields"


def test_an_error_crosses_processes_with_its_values() -> None:
    error = pickle.loads(pickle.dumps(FormatError("trust.json_size", where="x", limit=3, found=4)))
    assert type(error) is FormatError and error.values == {"where": "x", "limit": 3, "found": 4}
    assert str(error) == error.render("en") != error.render("zh") and "x" in str(error)


def test_a_long_history_is_shown_in_part(tmp_path: Path) -> None:
    log = sample_log()
    for _ in range(SHOWN):
        log.append("viewed", {}, time="2026-11-23T08:30:00Z")
    report = verify(seal(log), tmp_path)
    text = report.render("en")
    last = log.leaves[-1]
    assert len(report.claims) == SHOWN + 5 + 1 and report.claims[SHOWN - 1].event_id in text
    assert report.claims[SHOWN].event_id + "  " not in text and messages.render("trust.report.more", {"count": 6}, "en") in text
    assert parse_leaf(last).event.event_id in {claim.event_id for claim in report.claims}


def test_a_report_without_facts_or_details_is_shown() -> None:
    check = Check("files", "data/x", "failed")
    report = VerificationReport("P", ("intact",), True, (check,), {}, (), ())
    text = report.render("en")
    assert "data/x" in text and messages.render("trust.exit.1", {}, "en") in text and "{" not in text
