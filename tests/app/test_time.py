"""Evidence of time at the command line, by files and over HTTP, and the demonstration's own authorities."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo import demo_evidence
from geoevidence.catalogue import open_log_store
from geoevidence.custody import PendingEvidence, Workspace, anchor_case
from geoevidence.trust import parse_cosignature, parse_policy
from geoevidence.trust.certificates import parse_certificate
from geoevidence.trust.timestamps import parse_time_stamp
from tests.custody.workspaces import session

ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """A person's machine: a folder to work in, keys of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        inherited = {
            name: value for name, value in os.environ.items() if name != "GEOEVIDENCE_WORKSPACE"
        }  # the screens' tests set it
        self.environment = {
            **inherited, "GEOEVIDENCE_KEYS": str(folder / "keys"), "GEOEVIDENCE_LANG": "zh", "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    def __call__(self, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=self.environment, cwd=self.folder)
        assert done.returncode == code and "Traceback" not in done.stderr, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    def told(self, *words: str | Path, code: int = 0) -> dict:
        return json.loads(self(*words, "--json", code=code).stdout.splitlines()[-1])


@pytest.fixture
def office(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "office")
    made("init")
    made("case", "new", "A-1")
    return made


@pytest.mark.slow
def test_nobody_to_ask_is_wrong_usage_with_what_to_do(office: Machine) -> None:
    said = office("custody", "anchor", "--case", "A-1", code=64).stderr
    assert "time.toml" in said and "tsa request" in said
    assert "没有案件在等待" in office("custody", "anchor", "--tsa", "http://127.0.0.1:9").stdout
    assert "ftp" in office("custody", "anchor", "--case", "A-1", "--tsa", "ftp://x", code=64).stderr


@pytest.mark.slow
def test_a_time_stamp_by_files(office: Machine) -> None:
    office("tsa", "init", "tsa", "--label", "测试")
    office("tsa", "request", "--case", "A-1", "--out", "x.tsq")
    office("tsa", "request", "--case", "A-1", "--out", "x.tsq", code=1)  # nothing is overwritten
    office("tsa", "reply", "x.tsq", "--out", "x.tsr")
    told = office.told("custody", "anchor", "--case", "A-1", "--answer", "x.tsr")
    assert told["event_id"].endswith("-2") and len(told["times"]) == 1 and told["missing"] == []
    assert "在途请求" in office("custody", "anchor", "--case", "A-1", "--answer", "x.tsr", code=1).stderr
    office("custody", "anchor", "--answer", "x.tsr", code=64)


@pytest.mark.slow
def test_a_witness_by_files_and_over_http(office: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    other("witness", "sign", "x", "--out", "y", code=1)  # there is no witness yet
    key = other.told("witness", "init")["verifier_key"]
    assert other.told("witness", "key")["verifier_key"] == key
    asked = office.told("witness", "request", "--case", "A-1", "--out", tmp_path / "request")
    assert "404" in other("witness", "sign", tmp_path / "request", "--out", tmp_path / "answer", code=1).stdout
    other("witness", "allow", asked["origin"], asked["verifier_key"])
    other("witness", "sign", tmp_path / "request", "--out", tmp_path / "answer")
    office("custody", "anchor", "--case", "A-1", "--answer", tmp_path / "answer", code=1)  # by whom?
    office("custody", "anchor", "--case", "A-1", "--answer", tmp_path / "answer", "--witness-key", key)
    office("witness", "request", "--case", "A-1", "--out", tmp_path / "second")
    refused = other("witness", "sign", tmp_path / "second", "--out", tmp_path / "no", code=1)
    assert "--witness-size 1" in refused.stdout and not (tmp_path / "no").exists()

    office("case", "set", _sheet(tmp_path), "--case", "A-1")
    with _serving(other) as url:
        told = office.told("custody", "anchor", "--case", "A-1", "--witness", url, "--tsa", "http://127.0.0.1:9", code=2)
        assert len(told["times"]) == 1 and [each["source"] for each in told["missing"]] == ["http://127.0.0.1:9"]
    # the witness has gone too, and the authority still owes
    (office.folder / "workspace" / "time.toml").write_text(f'[[witness]]\nurl = "{url}"\nkey = "{key}"\n')
    told = office.told("custody", "anchor", "--tsa", "http://127.0.0.1:9", code=2)
    assert told["event_id"] is None and [each["source"] for each in told["missing"]] == ["http://127.0.0.1:9"]


def _sheet(folder: Path) -> Path:
    (folder / "fields.toml").write_text('cause = "测试"\n')
    return folder / "fields.toml"


class _serving:
    """`geoevidence witness serve` in a process of its own, on a free port of this machine."""

    def __init__(self, machine: Machine) -> None:
        command = [sys.executable, "-m", "app.cli", "witness", "serve", "--port", "0"]
        self._process = subprocess.Popen(
            command, cwd=machine.folder, env=machine.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return "http://" + line.partition("http://")[2].split()[0]

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def demonstration(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"


def test_the_demonstration_says_that_it_proves_nothing(demonstration: Path) -> None:
    own = session(demonstration / "keys")
    store = open_log_store(demonstration / "workspace")
    workspace = Workspace.create(demonstration / "workspace", session=own, log_store=store)
    made = demo_evidence(demonstration, workspace, own)
    case = workspace.new_case("演示-1", demonstration=True)
    result = anchor_case(case, made.sources, PendingEvidence(workspace.path / "pending"))
    assert result.complete and result.event is not None and len(result.times) == 2

    policy = parse_policy(made.trust.read_bytes())
    assert policy.witness_threshold == 1 and made.trust.parent == demonstration  # outside of every package
    checkpoint, token, cosig = (case.read_object(each.sha256) for each in result.event.outputs)
    (authority,) = policy.authorities
    chain = parse_time_stamp(token).verify(checkpoint, roots=[parse_certificate(authority.certificate.der)])
    assert "not a trusted time source" in chain[0].subject_text and "演示用，不具证明力" in chain[-1].subject_text
    head, cosignature = parse_cosignature(cosig)
    (watcher,) = [each for each in policy.keys if "witness" in each.roles]
    cosignature.verify(watcher.key, head.to_text())
    assert all("不具证明力" in each.holder for each in (*policy.keys, authority))
