"""verify.pyz: the same bytes everywhere, runs with a bare Python, says what it is and what it does not prove."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import locale
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geoevidence.trust import __main__ as command
from geoevidence.trust import build_pyz, errors, messages
from geoevidence.trust.__main__ import default_language, main
from geoevidence.trust.bundle import MODULES, TEXTS
from geoevidence.trust.events import TYPES
from geoevidence.trust.policy import VERDICTS
from geoevidence.trust.verdict import PACKAGE_CHECKS, RULES, plain
from tests.trust.builder import Key, Log, package_files, write_folder
from tests.trust.test_defects import known, policy

KERNEL = Path(errors.__file__).parent


def old_python() -> str | None:
    """A Python 3.9 or 3.10 that runs (a version manager may leave a stub that does not)."""
    names = [shutil.which(name) for name in ("python3.9", "python3.10")]
    # version managers keep them out of the path
    names += sorted(str(path) for path in Path.home().glob(".pyenv/versions/3.9*/bin/python"))
    for path in names:
        if path and subprocess.run([path, "-c", ""], capture_output=True, timeout=60).returncode == 0:
            return path
    return None


def run(program: Path, *words: str, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "PYTHONUTF8": "1", **environment}
    return subprocess.run(
        [python, "-I", str(program), *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=clean,
        timeout=120,
        cwd=program.parent,
    )


@pytest.fixture(scope="module")
def sealed(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package folder with the real verify.pyz in it."""
    return write_folder(package_files(log), tmp_path_factory.mktemp("sealed") / "P-1")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """verify.pyz, obtained elsewhere."""
    path = tmp_path_factory.mktemp("elsewhere") / "verify.pyz"
    path.write_bytes(build_pyz())
    return path


def test_bundle_is_the_kernel_and_nothing_else() -> None:
    found = {str(path.relative_to(KERNEL).with_suffix("")) for path in KERNEL.rglob("*.py")}
    assert found == set(MODULES)
    with zipfile.ZipFile(io.BytesIO(build_pyz())) as archive:
        listed = set(archive.namelist())
        assert listed == {"__main__.py", "geoevidence/__init__.py"} | {f"geoevidence/trust/{name}.py" for name in MODULES} | {
            f"geoevidence/trust/{name}" for name in TEXTS
        }
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0) and info.compress_type == zipfile.ZIP_STORED


def test_bundle_makes_itself_again(program: Path, tmp_path: Path) -> None:
    script = tmp_path / "again.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from geoevidence.trust import build_pyz\n"
        "import geoevidence.trust.checks as checks; assert 'verify.pyz' in checks.__file__\n"
        "import hashlib; print(hashlib.sha256(build_pyz()).hexdigest())\n"
    )
    result = run(script, str(program))
    assert result.stdout.strip() == hashlib.sha256(program.read_bytes()).hexdigest(), result.stderr


def test_kernel_imports_the_standard_library_alone() -> None:
    for path in KERNEL.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            for name in names:
                assert name.startswith("geoevidence.trust") or name.partition(".")[0] in sys.stdlib_module_names, (path, name)


def test_kernel_uses_no_syntax_newer_than_python_3_9() -> None:
    for path in KERNEL.rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("which", ["this", "old"])
def test_runs_from_inside_and_outside(which: str, sealed: Path, program: Path) -> None:
    python = sys.executable if which == "this" else old_python()
    if python is None:
        pytest.skip("old Python absent: neither python3.9 nor python3.10 runs here")
    before = sorted(sealed.rglob("*"))
    outside = run(program, str(sealed), "--lang", "zh", python=python)
    assert outside.returncode == 0, outside.stderr
    assert "签名：未受信任的演示密钥" in outside.stdout and "来自被核验的证据包本身" not in outside.stdout
    assert hashlib.sha256(program.read_bytes()).hexdigest() in outside.stdout
    for words in ([str(sealed)], []):
        inside = run(sealed / "verify.pyz", *words, "--lang", "zh", python=python)
        assert inside.returncode == 0 and "来自被核验的证据包本身" in inside.stdout
    assert sorted(sealed.rglob("*")) == before


@pytest.mark.parametrize("name", ["verify.pyz", "verify.html"])
def test_a_verifier_that_lies_is_caught_by_one_from_outside(name: str, sealed: Path, program: Path, tmp_path: Path) -> None:
    """Somebody changes a photo and puts a verifier that says all is well into the package."""
    copy = shutil.copytree(sealed, tmp_path / "P-1")
    photo = next(copy.rglob("照片 1.JPG"))
    photo.write_bytes(b"another scene")
    lies = tmp_path / "lies.py"
    lies.write_text("print('完整    通过')\n")
    with zipfile.ZipFile(copy / name, "w") as archive:
        archive.writestr("__main__.py", lies.read_text())
    if name == "verify.pyz":
        assert run(copy / name).stdout == "完整    通过\n"
    result = run(program, str(copy), "--json")
    assert result.returncode == 1
    failed = {
        check["subject"]
        for check in json.loads(result.stdout)["checks"]
        if check["name"] == "files" and check["status"] == "failed"
    }
    assert failed == {name, photo.relative_to(copy).as_posix()}


def test_says_what_failed_in_which_file(sealed: Path, program: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sealed, tmp_path / "P-1")
    photo = next(copy.rglob("照片 1.JPG"))
    photo.write_bytes(photo.read_bytes()[:-1] + b"!")
    for lang, words in (
        ("zh", ["完整    失败", "内容与封存时不同", "退出码 1"]),
        ("en", ["intact      FAILED", "differs from what was sealed", "exit code 1"]),
    ):
        result = run(program, str(copy), "--lang", lang)
        assert result.returncode == 1 and "照片 1.JPG" in result.stdout
        for word in words:
            assert word in result.stdout, result.stdout


def test_json(sealed: Path, program: Path) -> None:
    result = run(program, str(sealed), "--json", "--lang", "en")
    value = json.loads(result.stdout)
    assert value["exit_code"] == result.returncode == 0
    assert list(value["verdicts"]) == sorted(VERDICTS) and value["verifier"]["inside"] is False
    assert value["verifier"]["digest"] == "sha256:" + hashlib.sha256(program.read_bytes()).hexdigest()
    assert {check["number"] for check in value["checks"]} == {RULES[name].number for name in PACKAGE_CHECKS}


def test_trust_and_checkpoint_files(sealed: Path, tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trust.json").write_bytes(policy(log.keys[0]).to_bytes())
    (tmp_path / "unknown.json").write_bytes(policy(Key(9)).to_bytes())
    (tmp_path / "known.note").write_bytes(known(log, 3))
    (tmp_path / "later.note").write_bytes(known(log, 8, leaves=log.hashes * 2))
    (tmp_path / "fork.note").write_bytes(known(log, 3, leaves=log.hashes[::-1]))
    (tmp_path / "bad").write_bytes(b"{}")
    (tmp_path / "huge").write_bytes(bytes((16 << 20) + 1))

    def code(*words: str) -> int:
        return main(
            [str(sealed), "--lang", "zh", *(str(tmp_path / word) if (tmp_path / word).exists() else word for word in words)]
        )

    assert code("--trust", "trust.json", "--checkpoint", "known.note") == 0
    assert code("--trust", "unknown.json") == 2
    assert code("--checkpoint", "later.note") == 3
    assert code("--checkpoint", "fork.note") == 4
    assert capsys.readouterr().err == ""
    for words in (
        ["--trust", "bad"],
        ["--trust", "huge"],
        ["--checkpoint", "bad"],
        ["--trust", "absent"],
        ["--nonsense"],
        ["--lang", "fr"],
        ["second"],
    ):
        assert code(*words) == 64
        assert capsys.readouterr().err.startswith("verify.pyz: ")
    assert main([str(tmp_path / "absent")]) == 64


@pytest.mark.parametrize(
    ("named", "lang"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LC_ALL": "de_DE.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "zh"),
        ({"LC_ALL": "POSIX"}, "zh"),
    ],
)
def test_language_of_the_locale(named: dict[str, str], lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    assert default_language() == lang


def test_chinese_where_no_locale_is_named(sealed: Path, program: Path) -> None:
    assert "证据包核验" in run(program, str(sealed), LC_CTYPE="C").stdout


def test_a_terminal_that_cannot_show_chinese(sealed: Path, program: Path) -> None:
    clean = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, str(program), str(sealed), "--lang", "zh"], capture_output=True, env=clean, timeout=60
    )
    assert result.returncode == 0 and result.stdout.isascii()


def test_main_in_process(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sealed), "--lang", "en"]) == 0
    assert "the installed geoevidence" in capsys.readouterr().out
    assert main(["--lang", "zh"]) == 64
    assert "请给出证据包的路径" in capsys.readouterr().err
    assert default_language() in messages.LANGUAGES


def test_hostile_names_cannot_move_the_cursor() -> None:
    assert plain("a\x1b[2Jb\u202ecd\ud800\n照片") == "a\\u{1b}[2Jb\\u{202e}cd\\u{d800}\\u{a}照片"


# ---- texts ----------------------------------------------------------------------------------


def catalogue(lang: str) -> dict[str, str]:
    text = (KERNEL / "messages" / f"{lang}.json").read_text(encoding="utf-8")
    value: dict[str, Any] = json.loads(text)
    assert text == json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    return value


def test_both_languages_say_the_same() -> None:
    zh, en = catalogue("zh"), catalogue("en")
    assert zh.keys() == en.keys()
    for name in zh:
        assert set(re.findall(r"\{(\w+)\}", zh[name])) == set(re.findall(r"\{(\w+)\}", en[name])), name
        assert zh[name] and en[name] and zh[name] != en[name]


def test_every_text_is_used_and_every_use_has_a_text() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in KERNEL.rglob("*.py"))
    used = set(re.findall(r'"(trust\.[a-z_0-9.]+)"', source)) - {"trust.json"}
    used |= {f"trust.{group}.{name}" for group, names in {
        "verdict": VERDICTS, "check": RULES, "event": TYPES, "status": ("passed", "failed", "not_checked"), "exit": range(5),
        "report": ("failed", "not_checked", "title.package", "title.redacted", "title.supplement"),
        "cli": ("description", "exit_codes", "package", "trust", "checkpoint", "code", "supplement", "of", "slow", "lang", "json"),
    }.items() for name in names}  # fmt: skip
    assert used == set(catalogue("zh"))


@pytest.mark.parametrize(
    ("name", "lang"),
    [("C", "zh"), ("zh_CN.UTF-8", "zh"), ("Chinese (Simplified)_China.936", "zh"), ("English_United States.1252", "en")],
)
def test_language_of_a_system_that_names_none_in_the_environment(name: str, lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(locale, "setlocale", lambda category: name)
    assert default_language() == lang


def test_the_program_in_the_package_says_so(sealed: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the package it checks that package where none is named; elsewhere it must be named one."""
    digest = hashlib.sha256((sealed / "verify.pyz").read_bytes()).hexdigest()
    for place, inside in ((sealed / "verify.pyz", True), (program, False)):
        monkeypatch.setitem(vars(command), "__loader__", SimpleNamespace(archive=str(place)))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(["--lang", "en"] if inside else [str(sealed), "--lang", "en"]) == 0
        assert digest in out.getvalue()
        assert (messages.render("trust.self.inside", {}, "en") in out.getvalue()) is inside
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(["--lang", "en"]) == 64
    assert messages.render("trust.cli.no_package", {}, "en") in said.getvalue()


def test_the_module_is_a_program(sealed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["verify.pyz", str(sealed), "--json"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(KERNEL / "__main__.py"), run_name="__main__")
    assert end.value.code == json.loads(capsys.readouterr().out)["exit_code"] == 0


def test_no_program_is_built_where_a_source_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = pkgutil.get_data
    monkeypatch.setattr(pkgutil, "get_data", lambda package, name: None if name == "der.py" else read(package, name))
    with pytest.raises(FileNotFoundError, match="der"):
        build_pyz()


def test_a_text_that_is_not_there_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert messages.render("trust.absent", {"b": 2, "a": 1}, "zh") == "trust.absent (a=1, b=2)"
    assert messages.render("trust.absent", {}, "en") == "trust.absent"
    with pytest.raises(ValueError, match="fr"):
        messages.render("trust.exit.0", {}, "fr")
    assert messages.texts("en")["trust.exit.0"] == messages.render("trust.exit.0", {}, "en")
    # a catalogue that does not ship is left out, the others are there
    read = pkgutil.get_data
    monkeypatch.setattr(messages, "_texts", {})
    monkeypatch.setattr(messages, "_catalogues", {"absent": ("x",)})
    monkeypatch.setattr(pkgutil, "get_data", lambda package, name: None if package == "absent" else read(package, name))
    assert messages.texts("en")["trust.exit.0"] and not any(name.startswith("custody.") for name in messages.texts("en"))
