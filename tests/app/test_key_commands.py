"""Commands for keys, trust files and field devices, each as a user gives them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from app import cli, commands
from geoevidence.custody import keyfiles
from geoevidence.trust.policy import parse_policy
from tests.custody.sm2 import Sm2Holder


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `geoevidence WORDS` from its entry point, with keys of its own, in English and without a terminal."""
    monkeypatch.setattr(keyfiles, "ITERATIONS", 1000)
    monkeypatch.setattr(commands, "LANG", "en")
    monkeypatch.chdir(tmp_path)

    def call(*words: object, code: int = 0, keys: str = "keys", **environment: str) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["geoevidence", *map(str, words)])
            patch.setattr(sys.stdin, "isatty", lambda: False)
            for name, value in {"GEOEVIDENCE_KEYS": str(tmp_path / keys), **environment}.items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
            done = Done(*capsys.readouterr())
        assert (ended.value.code or 0) == code, f"{words}: {ended.value.code}\n{done.stdout}\n{done.stderr}"
        return done

    return call


def rows(done: Done) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_key_under_a_passphrase_from_first_use_to_restoring(run: Run, tmp_path: Path) -> None:
    assert "no key" in run("key", "show").stdout
    run("init", "w")
    run("case", "new", "1", "-w", "w")
    (first,) = rows(run("key", "show", "--json"))
    assert (first["use"], first["encrypted"]) == ("signing", False)
    run("key", "passphrase", GEOEVIDENCE_NEW_PASSPHRASE="口令")
    secret = {"GEOEVIDENCE_PASSPHRASE": "口令"}
    assert "GEOEVIDENCE_PASSPHRASE" in run("case", "list", "-w", "w", code=1).stderr
    assert "wrong" in run("case", "list", "-w", "w", code=1, GEOEVIDENCE_PASSPHRASE="x").stderr
    run("key", "backup", "stick/backup.pem")
    run("key", "restore", "stick/backup.pem", keys="new", code=1)
    (restored,) = rows(run("key", "restore", "stick/backup.pem", "--json", keys="new", **secret))
    assert restored["key_id"] == first["key_id"]
    run("case", "list", "-w", "w", keys="new", **secret)
    run("key", "passphrase", "--remove", **secret)
    run("case", "list", "-w", "w")


def test_rotation_and_revocation(run: Run, tmp_path: Path) -> None:
    run("init", "w")
    for number in ("1", "2"):
        run("case", "new", number, "-w", "w")
    (first,) = rows(run("key", "show", "--json"))
    assert "--all" in run("key", "rotate", "-w", "w", code=64).stderr
    assert len(rows(run("key", "rotate", "--case", "1", "-w", "w", "--json"))) == 1
    signing, retired = rows(run("key", "show", "--json"))
    assert retired["key_id"] == first["key_id"] and retired["use"] == "retired"
    (done,) = rows(run("key", "rotate", "--all", "--record-only", "-w", "w", "--json"))
    assert str(done["event_id"]).startswith(f"E-{str(first['key_id'])[:8]}-")
    assert "nothing" in run("key", "rotate", "--all", "--record-only", "-w", "w").stdout
    (revoked,) = rows(run("key", "revoke", str(signing["key_id"])[:10], "--case", "2", "--reason", "lost", "-w", "w", "--json"))
    assert revoked["key_id"] == signing["key_id"] and revoked["effective"] == 3
    assert "ended" in run("key", "revoke", str(first["key_id"]), "--case", "2", "--reason", "lost", "-w", "w", code=1).stderr
    assert "meant" in run("key", "revoke", "zz", "--case", "1", "--reason", "lost", "-w", "w", code=1).stderr


def test_an_sm2_key_is_imported_and_signs(run: Run, tmp_path: Path) -> None:
    key, chain = Sm2Holder().files(tmp_path / "from-ca")
    run("init", "w")
    importing = {"GEOEVIDENCE_IMPORT_PASSPHRASE": "import"}
    assert "geoevidence key passphrase" in run("key", "import-sm2", key, chain, code=1, **importing).stderr
    run("key", "passphrase", GEOEVIDENCE_NEW_PASSPHRASE="x")
    secret = {"GEOEVIDENCE_PASSPHRASE": "x"}
    (made,) = rows(run("key", "import-sm2", key, chain, "--json", **importing, **secret))
    assert made["subject"] == "CN=张三"
    run("case", "new", "1", "-w", "w", **secret)
    (event,) = rows(run("case", "log", "-c", "1", "-w", "w", "--json", **secret))
    assert str(event["event_id"]).startswith(f"E-{str(made['key_id'])[:8]}-")
    assert [row["use"] for row in rows(run("key", "show", "--json", **secret))] == ["signing", "checkpoints"]


def test_a_trust_file_step_by_step(run: Run, tmp_path: Path) -> None:
    _, chain = Sm2Holder().files(tmp_path / "from-ca")
    run("init", "w")
    run("case", "new", "1", "-w", "w")
    (key,) = rows(run("key", "show", "--json", "--out", "public.json"))
    assert "--valid-from" in run("trust", "add", "--key", "public.json", "--holder", "张三", code=64).stderr
    term = ("--valid-from", "2026-01-01")
    assert "--case" in run("trust", "add", "--holder", "张三", *term, code=64).stderr
    run("trust", "add", "--key", "public.json", "--holder", "张三", *term, "--role", "operator", "--role", "log")
    run("trust", "add", str(key["key_id"])[:8], "--case", "1", "-w", "w", "--holder", "张三", *term, "--file", "other.json")
    run("trust", "add", "--authority", chain, "--purpose", "time", "--holder", "演示")
    run("trust", "require", "intact", "time")
    run("trust", "revoke", str(key["key_id"])[:8], "--since-size", "9")
    assert "--serial" in run("trust", "revoke", str(key["key_id"])[:8], code=64).stderr
    assert "0" in run("trust", "threshold", "1", code=64).stderr
    shown = run("trust", "list").stdout
    assert "张三" in shown and "tree size 9" in shown and "演示" in shown
    run("trust", "export", "trust-for-court.json")
    policy = parse_policy((tmp_path / "trust-for-court.json").read_bytes())
    assert policy.required == ("intact", "time") and policy.keys[0].revoked_at_tree_size == 9
    assert (tmp_path / "trust-for-court.json").read_bytes() == (tmp_path / "keys" / "trust.json").read_bytes()
    run("trust", "export", "trust-for-court.json", code=1)
    run("trust", "remove", str(key["key_id"]))
    assert str(key["key_id"]) not in run("trust", "list").stdout
    assert len(json.loads((tmp_path / "other.json").read_bytes())["keys"]) == 1


def test_a_field_device_hands_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "photo.txt").write_text("photo", encoding="utf-8")
    for keys, workspace, number in (("device", "d", "外业"), ("server", "s", "检")):
        run("init", workspace, keys=keys)
        run("case", "new", number, "-w", workspace, keys=keys)
    run("ingest", "card", "--case", "外业", "-w", "d", keys="device")
    (made,) = rows(run("case", "export", "外业", "--out", "handover.zip", "-w", "d", "--json", keys="device"))
    taken = json.loads(run("case", "import", "handover.zip", "--case", "检", "-w", "s", "--json", keys="server").stdout)
    assert (taken["origin"], taken["root"], taken["files"]) == (made["origin"], made["root"], 1)
    assert "nothing new" in run("case", "import", "handover.zip", "--case", "检", "-w", "s", keys="server").stdout
    (tmp_path / "handover.zip").write_bytes((tmp_path / "handover.zip").read_bytes()[:-1])
    assert (
        "Nothing was taken in"
        not in run("case", "import", "handover.zip", "--case", "检", "-w", "s", keys="server", code=1).stdout
    )
    assert len(run("case", "items", "--case", "检", "-w", "s", keys="server").stdout.splitlines()) == 6
