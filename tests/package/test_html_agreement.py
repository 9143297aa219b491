"""Two verifiers, one answer: the core of verify.html under Node against geoevidence.trust, on the tree of packages and on damaged ones."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.package.html_core import ask, by_the_kernel, details, summary, written
from tests.trust import tree
from tests.trust.builder import Files, write_folder, write_zip
from tests.trust.tree import TREE, Case

NOT_SEEN = ("container/link",)
"""Cases of the tree with something that a browser does not show; `test_what_only_one_of_them_can_see` has them."""


def disagreements(folder: Path, cases: list[tuple[str, dict]]) -> list[str]:
    answers = ask(folder, {"cases": [one for _, one in cases]})
    found = []
    for (name, one), answer in zip(cases, answers, strict=True):
        here, there = answer["value"], by_the_kernel(one)
        mine, other = summary(here), summary(there)
        if not other["failed"]:
            mine, other = {**mine, **details(here)}, {**other, **details(there)}
        if mine != other:
            found.append(f"{name}\n  verify.html {mine}\n  verify.pyz  {other}")
    return found


def test_on_the_tree(tmp_path: Path) -> None:
    assert len(TREE) > 150
    seen = [case for case in TREE if case.name not in NOT_SEEN]
    cases = [(case.name, written(case, tmp_path / str(number))) for number, case in enumerate(seen)]
    found = disagreements(tmp_path, cases)
    assert not found, "\n".join(found)


def test_what_the_tree_says_of_itself(tmp_path: Path) -> None:
    chosen = [case for case in TREE if case.name not in NOT_SEEN][::3]
    answers = ask(tmp_path, {"cases": [written(case, tmp_path / str(number)) for number, case in enumerate(chosen)]})
    for case, answer in zip(chosen, answers, strict=True):
        report = summary(answer["value"])
        assert (set(report["failed"]), report["exit_code"]) == (case.failed, case.exit_code), case.name
        if case.verdicts is not None:
            assert tuple(report["verdicts"].values()) == case.verdicts, case.name


SOUND: dict[str, Callable[[], Files]] = {
    "package": tree.base,
    "version 1": lambda: tree.base(1),
    "redacted": tree._whole_redacted,
    "revoked key": tree.grown(tree._revoked),
    "rotated key": tree.grown(tree._after_rotation),
    "supplement": tree._supplement(stamps=[(tree.stamper(), "2026-11-25T09:00:00Z")], files={"x": b"x"}),
}


def damaged(data: bytes, draw: random.Random) -> bytes:
    """One byte changed, taken out or put in."""
    place, kind = draw.randrange(len(data) + 1), draw.random()
    if kind < 0.6 and place < len(data):
        return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
    return data[:place] + data[place + 1 :] if kind < 0.8 else data[:place] + bytes([draw.randrange(256)]) + data[place:]


@pytest.mark.parametrize("seed", range(3))
def test_on_damaged_packages(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    trust = tmp_path / "trust.json"
    trust.write_bytes(tree.full_trust())
    cases = []
    for number in range(80):
        kind = draw.choice(sorted(SOUND))
        files = SOUND[kind]()
        if draw.random() < 0.3:
            path = write_zip(files, tmp_path / f"{number}.zip")
            path.write_bytes(damaged(path.read_bytes(), draw))
            name = f"{kind}, archive {number}"
        else:
            # verify.pyz is large, and one file more whose digest differs
            changed = draw.choice([name for name in sorted(files) if name != "verify.pyz"])
            files[changed] = damaged(files[changed], draw)
            path = write_folder(files, tmp_path / str(number))
            name = f"{kind}, {changed} {number}"
        given = str(trust) if draw.random() < 0.6 else None
        one = {
            "package": str(path),
            "trust": given,
            "checkpoints": [],
            "code": None,
            "now": tree.NOW,
            "supplements": [],
            "packages": [],
        }
        cases.append((name, one))
    found = disagreements(tmp_path, cases)
    assert not found, "\n".join(found)


def test_what_only_one_of_them_can_see(tmp_path: Path) -> None:
    # Node lists folders as a browser does that was dropped one: empty folders are seen, links and special files are not there
    for number, (name, change) in enumerate(_ODD.items()):
        case = Case("odd", tree.base)
        one = written(case, tmp_path / str(number))
        change(Path(one["package"]))
        mine, other = ask(tmp_path, {"cases": [one]})[0]["value"], by_the_kernel(one)
        assert "container" in summary(other)["failed"]
        assert ("container" in summary(mine)["failed"]) is (name == "empty folder")
        assert "html.limit.folder_dropped" in mine["limits"]


def _link(package: Path) -> None:
    target = next((package / "data/originals").rglob("*.JPG"))
    (package / "data/originals" / "link.JPG").symlink_to(target)


_ODD: dict[str, Callable[[Path], None]] = {
    "link": _link,
    "empty folder": lambda package: (package / "data/originals/none").mkdir(),
}


def test_the_guide_checks_a_signature_by_hand(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("sh", "jq", "xxd", "openssl", "sha256sum"))):
        pytest.skip("jq, xxd or openssl absent")
    guide = (Path(__file__).parents[2] / "docs/how-to/verify.md").read_text(encoding="utf-8")
    commands = next(block for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) if "pkeyutl" in block)
    package = write_folder(tree.base(), tmp_path / "P")
    shell = ["sh", "-e", "-c", commands.replace("/tmp/", f"{tmp_path}/")]
    assert (
        "Signature Verified Successfully" in subprocess.run(shell, cwd=package, capture_output=True, text=True, check=True).stdout
    )
    statement = package / "seal/statement.dsse"
    statement.write_bytes(statement.read_bytes().replace(b'"payload":"eyJ', b'"payload":"eyK', 1))
    assert subprocess.run(shell, cwd=package, capture_output=True, text=True).returncode != 0
