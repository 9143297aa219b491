"""Asks the core of verify.html, under the Node of this environment: the same text that the page runs in its worker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from geoevidence.package import html_verifier
from geoevidence.trust import verify_package
from geoevidence.trust.policy import parse_policy
from tests.trust.tree import Case

DRIVER = Path(__file__).with_name("run_core.js")


def core() -> str:
    """The text of the page's script `core`."""
    text = html_verifier.build_html().decode("utf-8")
    return text.partition('<script id="core">')[2].partition("</script>")[0]


def ask(folder: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers to {"cases": ...} or {"calls": ...}: {"value"}, or {"fault": message id}."""
    node = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
    if node is None:
        pytest.skip("node absent: `python bootstrap.py setup` installs it")
    program = folder / "core.js"
    program.write_text(core() + "\n" + DRIVER.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run([node, str(program)], input=json.dumps(document).encode(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    errors = [each["error"] for each in answers if "error" in each]
    assert not errors, errors[0]
    return answers


def call(folder: Path, calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return ask(folder, {"calls": list(calls)})


def written(case: Case, folder: Path) -> dict[str, Any]:
    """A case of the test tree on disk: paths of everything that a verifier is given."""
    folder.mkdir(parents=True)
    package = case.make(folder)
    trust = folder / "trust.json"
    if case.trust is not None:
        trust.write_bytes(case.trust)
    checkpoints = [folder / f"checkpoint-{n}" for n in range(len(case.checkpoints))]
    for path, data in zip(checkpoints, case.checkpoints, strict=True):
        path.write_bytes(data)
    spoken = case.make_package(folder)
    return {
        "package": str(package),
        "trust": None if case.trust is None else str(trust),
        "checkpoints": [str(path) for path in checkpoints],
        "code": case.code,
        "now": case.now,
        "supplements": [str(path) for path in case.make_supplements(folder)],
        "packages": [] if spoken is None else [str(spoken)],
    }


FACTS = (
    "case", "workspace", "software", "time_claimed", "demonstration", "files", "bytes", "leaves", "withheld", "tree_size", "root",
    "short_code", "attested_after", "attested_before", "witnesses",
)  # fmt: skip


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """What two verifiers must agree on: exit code, verdicts, failing checks, and the same of the supplements."""
    return {
        "kind": report["kind"],
        "exit_code": report["exit_code"],
        "verdicts": report["verdicts"],
        "failed": sorted({check["name"] for check in report["checks"] if check["status"] == "failed"}),
        "stale": report["stale"],
        "fork": report["fork"],
        "supplements": [summary(each) for each in report["supplements"]],
    }


def details(report: dict[str, Any]) -> dict[str, Any]:
    """What they must say besides of a package that is whole: who signed, when, what is not proved."""
    limits = [each["id"] if isinstance(each, dict) else each for each in report["limits"]]
    return {
        "claims": report["claims"],
        "signers": [{name: each[name] for name in ("key_id", "algorithm", "holder", "revoked")} for each in report["signers"]],
        "facts": {name: report["facts"][name] for name in FACTS if report["facts"].get(name) is not None},
        "limits": [each for each in limits if each.startswith("trust.")],
        "required": report["required"],
        "open": sorted({check["name"] for check in report["checks"] if check["status"] == "not_checked"}),
        "fork_proof": report["fork_proof"],
    }


def by_the_kernel(one: dict[str, Any]) -> dict[str, Any]:
    """The report of the other verifier, geoevidence.trust, on what `written` gave."""
    trust = one["trust"] and parse_policy(Path(one["trust"]).read_bytes())
    report = verify_package(
        one["package"],
        policy=trust,
        known_checkpoints=[Path(path).read_bytes() for path in one["checkpoints"]],
        code=one["code"],
        supplements=one["supplements"],
        package=one["packages"][0] if one["packages"] else None,
        now=datetime.fromisoformat(one["now"]),
    )
    return report.to_dict()
