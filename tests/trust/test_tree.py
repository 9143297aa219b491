"""Every package of the tree comes out as it must: exit code, failed checks and no other, verdicts."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from geoevidence.trust import VerificationReport, manifest, parse_policy, verify_package
from geoevidence.trust.__main__ import main
from geoevidence.trust.verdict import PACKAGE_CHECKS, RULES, SUPPLEMENT_CHECKS
from tests.trust import tree
from tests.trust.builder import (
    Files,
    Key,
    Log,
    device_log,
    redact,
    sample_log,
    stamper,
    supplement_files,
    write_folder,
    write_zip,
)
from tests.trust.test_package import flip_every, names
from tests.trust.tree import TREE, Case, full, full_trust


def verify(case: Case, folder: Path) -> VerificationReport:
    return verify_package(
        case.make(folder),
        policy=None if case.trust is None else parse_policy(case.trust),
        known_checkpoints=case.checkpoints,
        code=case.code,
        supplements=case.make_supplements(folder),
        package=case.make_package(folder),
        now=datetime.fromisoformat(case.now),
    )


@pytest.mark.parametrize("case", TREE, ids=[case.name for case in TREE])
def test_case(case: Case, tmp_path: Path) -> None:
    report = verify(case, tmp_path)
    assert {check.name for check in report.failures} == case.failed, report.render("en")
    assert report.exit_code == case.exit_code, report.render("en")
    if case.verdicts is not None:
        assert tuple(report.verdicts.values()) == case.verdicts, report.render("en")
    wanted = SUPPLEMENT_CHECKS if report.kind == "supplement" else PACKAGE_CHECKS
    assert {check.name for check in report.checks} == set(wanted)
    for check in report.failures:
        assert check.subject and check.detail, check
    for lang in ("zh", "en"):
        assert "trust." not in report.render(lang).replace("trust.json", "")
    json.dumps(report.to_dict())


def test_names_are_unique_and_every_check_fails_somewhere() -> None:
    assert len({case.name for case in TREE}) == len(TREE)
    failing = {name for case in TREE for name in case.failed}
    # a clock that is wrong breaks nothing; 5.2 and the threshold are not checked rather than failed
    never = {"claimed_order", "claimed_past", "attested", "witnesses", "recompute_trusted"}
    assert failing | never | {"container"} == set(RULES)


def one(name: str, tmp_path: Path) -> VerificationReport:
    return verify(next(case for case in TREE if case.name == name), tmp_path)


def test_a_fork_is_proved_by_both_notes(tmp_path: Path) -> None:
    report = one("outside/fork", tmp_path)
    assert report.fork and report.fork_proof is not None
    known, here = report.fork_proof
    assert known.startswith(f"{tree.ORIGIN}\n3\n") and here.startswith(f"{tree.ORIGIN}\n6\n")
    assert report.to_dict()["fork_proof"] == {"known": known, "here": here}
    assert known.splitlines()[2] in report.render("zh")


def test_the_sealing_has_an_attested_interval(tmp_path: Path) -> None:
    report = one("sound/everything-folder", tmp_path)
    # the token in the log floors to 08:30:00, the witness says 08:31:00: the sealing is after the later of the two
    assert report.facts["attested_after"] == "2026-11-23T08:31:00Z"
    assert report.facts["attested_before"] == "2026-11-23T09:01:01Z"
    claims = {claim.event_id: claim for claim in report.claims}
    first, last = claims["E-bd8a63bd-1"], claims["E-bd8a63bd-8"]
    assert (first.after, first.before) == (None, "2026-11-23T08:30:01Z")
    assert (last.after, last.before) == ("2026-11-23T08:31:00Z", "2026-11-23T09:01:01Z")
    assert report.facts["witnesses"] == 2 and "trust.limit.fork" not in report.limits


def said(report: VerificationReport, name: str) -> list[str]:
    return [check.detail for check in report.checks if check.name == name]


def test_trusted_evidence_that_says_nothing(tmp_path: Path) -> None:
    """It is over a checkpoint of another log, by the signer itself, or contradicts itself: no time is stated by it."""
    report = one("time/stamp-over-a-checkpoint-of-another-log", tmp_path / "another")
    assert all(claim.before is None for claim in report.claims) and "attested_before" not in report.facts
    report = one("time/witness-of-own-work", tmp_path / "own")
    assert said(report, "attested") == ["trust.witness_own"] and report.facts["witnesses"] == 0
    report = one("time/contradiction", tmp_path / "contradiction")
    assert set(said(report, "attested")) == {"trust.attested_conflict"} and "attested_before" not in report.facts
    report = one("time/contradiction-inside", tmp_path / "inside")
    assert said(report, "attested") == ["trust.attested_conflict"]
    assert report.facts["attested_before"] == "2026-11-23T11:00:01Z"


def test_a_checkpoint_by_nobody_known_proves_no_fork(tmp_path: Path) -> None:
    report = one("outside/contradicted-by-unknown-signer", tmp_path)
    assert said(report, "rollback") == ["trust.fork_unsigned"]
    assert not report.fork and report.fork_proof is None and report.exit_code == 1


def test_what_a_copy_leaves_out_may_matter_to_what_is_left(tmp_path: Path) -> None:
    for name in ("redacted/finding-left-out", "redacted/finding-left-out-log-kept"):
        assert one(name, tmp_path / name.replace("/", "-")).verdicts["recomputes"] == "not_checked"
    report = one("redacted/revocation-left-out", tmp_path)
    assert report.verdicts["signed"] == "not_checked" and "trust.because" in said(report, "trusted_keys")


def test_a_key_that_ended_is_noted(tmp_path: Path) -> None:
    for name, size in (("keys/rotated", 6), ("signed/revoked-later", 6)):
        report = one(name, tmp_path / name.replace("/", "-"))
        ended = next(signer for signer in report.signers if signer.revoked is not None)
        assert ended.revoked == size and "仍然有效" in report.render("zh")


def test_witnesses_and_recomputers_are_no_signers_of_the_package(tmp_path: Path) -> None:
    report = one("witness/untrusted", tmp_path)
    assert report.verdicts["signed"] == "passed"
    assert any(check.detail == "trust.witnesses_few" for check in report.checks)


def test_supplements_are_reported_with_the_package(tmp_path: Path) -> None:
    report = one("with-supplement/broken", tmp_path)
    assert not report.failures and report.exit_code == 1
    (other,) = report.supplements
    assert other.kind == "supplement" and other.failures and report.to_dict()["supplements"][0]["exit_code"] == 1
    assert "补充材料核验" in report.render("zh")


def test_the_command_takes_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = write_folder(tree.base(), tmp_path / "P")
    supplement = write_folder(tree._recompute_supplement(), tmp_path / "S")
    note = tmp_path / "note"
    note.write_bytes(tree.note(3))
    code = tree._code().lower().replace("-", " ")
    words = ["--checkpoint", str(note), "--checkpoint", str(note), "--code", code, "--supplement", str(supplement), "--slow"]
    assert main([str(package), *words, "--lang", "en"]) == 0
    assert "supplement S" in capsys.readouterr().out
    assert main([str(supplement), "--package", str(package), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "supplement"
    assert main([str(supplement), "--lang", "zh"]) == 2
    for wrong in (
        [str(package), "--code", "short"],
        [str(package), "--package", str(package)],
        [str(supplement), "--package", str(supplement)],
        [str(package), "--supplement", str(tmp_path / "absent")],
        [str(package), "--supplement", str(package)],
    ):
        assert main([*wrong, "--lang", "zh"]) == 64
        assert capsys.readouterr().err.startswith("verify.pyz: ")


def test_a_supplement_that_cannot_be_read_is_broken(tmp_path: Path) -> None:
    package = write_folder(tree.base(), tmp_path / "P")
    broken = tmp_path / "S.zip"
    broken.write_bytes(b"PK")
    report = verify_package(package, supplements=[broken])
    assert report.exit_code == 1 and not report.failures
    assert [check.name for check in report.supplements[0].failures] == ["container"]
    assert verify_package(write_folder(tree._supplement()(), tmp_path / "S"), package=broken).exit_code == 2


def test_the_clock_is_aware(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aware"):
        verify_package(tmp_path, now=datetime(2026, 1, 1))


def test_a_time_stamp_that_is_not_known_comes_with_a_command(tmp_path: Path) -> None:
    report = one("time/curve-unknown", tmp_path)
    text = next(check for check in report.checks if check.detail == "trust.stamp_unsupported").to_dict()["text"]
    assert "openssl ts -verify -data seal/proof.tlog -in seal/time-1.tsr -token_in -CAfile root.pem" in text
    response = one("time/digest-unknown", tmp_path / "response")
    text = next(check for check in response.checks if check.detail == "trust.stamp_unsupported").to_dict()["text"]
    assert "openssl ts -verify" in text and "-token_in" not in text


# ---- every byte of a package of version 2 -------------------------------------------------------------


def small(files: Files) -> Files:
    """Without the largest files, whose bytes are met with a stride elsewhere."""
    return {path: data for path, data in files.items() if path.startswith("seal/") or len(data) < 300}


def test_flipped_bytes_of_seal_and_documents(tmp_path: Path) -> None:
    files = full()
    folder = write_folder(files, tmp_path / "P")
    policy = parse_policy(full_trust())
    assert verify_package(folder, policy=policy).exit_code == 0
    for path, data in small(files).items():
        for place in range(0, len(data), max(1, len(data) // 7)):
            (folder / path).write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
            report = verify_package(folder, policy=policy)
            assert report.exit_code == 1 and names(report, path), (path, place)
        (folder / path).write_bytes(data)


@pytest.mark.slow
def test_every_byte_of_the_seal(tmp_path: Path) -> None:
    files = full()
    folder = write_folder(files, tmp_path / "P")
    for path in ("seal/time-1.tsr", "seal/witness-1.cosig", "seal/closing.dsse", "seal/recompute.dsse", "seal/proof.tlog"):
        data = files[path]
        for place in range(0, len(data), 3):
            (folder / path).write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
            report = verify_package(folder)
            assert report.exit_code == 1 and names(report, path), (path, place)
        (folder / path).write_bytes(data)


def test_flipped_bytes_of_a_sealed_archive(tmp_path: Path) -> None:
    files = full()
    archive = write_zip(files, tmp_path / "P.zip")
    # a stride coprime to the sizes of headers and lines
    assert flip_every(archive, files, iter(range(0, archive.stat().st_size, 397))) > 100


def test_a_findings_file_that_goes_away_after_it_was_digested(tmp_path: Path) -> None:
    folder = write_folder(tree.base(), tmp_path / "P")

    def tell(_: str, part: float) -> None:
        if part == 1.0:
            (folder / "data" / "findings.json").unlink(missing_ok=True)

    report = verify_package(folder, progress=tell)
    assert {(check.name, check.subject, check.detail) for check in report.failures} == {
        ("container", "data/findings.json", "trust.unreadable")
    }


def test_a_redaction_that_says_too_few_leaves(tmp_path: Path) -> None:
    log = tree.sample()
    files = redact(
        tree.base(), log, withhold=[tree.find(tree.base(), "report-zh")], events=["E-bd8a63bd-5"], stated={"leaves_withheld": 0}
    )
    report = verify_package(write_folder(files, tmp_path / "P"))
    (check,) = (check for check in report.failures if check.name == "withheld")
    assert (check.detail, check.expected, check.found) == ("trust.withheld_count", "0", "1")


def test_logs_of_two_devices_need_not_extend_each_other(tmp_path: Path) -> None:
    log = sample_log()
    log.synced(device_log())
    other = Log(keys=[Key(22)], workspace="W-00000000d2")
    other.append("viewed", {})
    log.synced(other)
    report = verify_package(write_folder(tree.sealed(log), tmp_path / "P"))
    assert report.verified and "device_logs" not in {check.name for check in report.checks if check.status != "passed"}


def test_evidence_in_the_log_alone_gives_no_time_before_which_it_was_sealed(tmp_path: Path) -> None:
    log = sample_log()
    log.anchored(stamps=[(stamper(), "2026-11-23T08:30:00Z")])
    policy = parse_policy(full_trust(required=("intact", "time")))
    report = verify_package(write_folder(tree.sealed(log), tmp_path / "P"), policy=policy)
    assert report.exit_code == 2 and not report.failures and "attested_before" not in report.facts
    assert [check.detail for check in report.checks if check.name == "attested"] == ["trust.no_attested"]
    # though the events that the time stamp covers do have one
    assert report.claims[0].before == "2026-11-23T08:30:01Z" and report.claims[-1].before is None


def test_as_many_time_stamps_in_a_supplement_as_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MOST_EVIDENCE", 2)
    proof = tree.base()["seal/proof.tlog"]
    tokens = {f"time-{n}.tsr": stamper().stamp(proof, f"2026-11-25T09:0{n}:00Z") for n in (1, 2)}
    supplement = write_folder(supplement_files(tree.base(), kind="time", key=tree.AUTHOR, files=tokens), tmp_path / "S")
    package = write_folder(tree.base(), tmp_path / "P")
    policy = parse_policy(full_trust(required=("intact", "time")))
    report = verify_package(package, policy=policy, supplements=[supplement])
    assert report.exit_code == 0 and report.facts["attested_before"] == "2026-11-25T09:01:01Z"


def test_a_supplement_whose_statement_is_gone_but_not_its_time_stamp(tmp_path: Path) -> None:
    files = supplement_files(tree.base(), key=tree.AUTHOR, stamps=[(stamper(), "2026-11-25T09:00:00Z")])
    del files["seal/statement.dsse"]
    report = verify_package(write_folder(files, tmp_path / "S"))
    assert report.kind == "supplement" and report.exit_code == 1, report.render("en")
    skipped = next(check for check in report.checks if check.name == "time_stamps")
    assert skipped.subject == "seal/time-1.tsr" and skipped.status == "not_checked"


def test_a_device_log_that_is_gone_leaves_nothing_to_compare_the_next_one_with(tmp_path: Path) -> None:
    def grow(log: Log) -> None:
        device = device_log()
        log.synced(device)
        device.append("viewed", {})
        log.synced(device)

    files = tree.grown(grow)()
    gone = tree.find(files, "device-leaves")
    report = verify_package(write_folder({path: data for path, data in files.items() if path != gone}, tmp_path / "P"))
    assert {check.subject for check in report.failures} == {gone, "bag-info.txt"}, report.failures
    assert [check.subject for check in report.checks if check.name == "device_logs"] == [gone]
