"""Set-up on machines that lack something: decided by loading libraries, repaired by the package manager or told in one command.

The interpreter and the package manager are small scripts on PATH; the code under test is what runs on a bare machine.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bootstrap

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="system packages are installed on Linux only")
LIBRARIES = {"libGL.so.1": "libgl1", "libEGL.so.1": "libegl1"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, apart from the few tools that the scripts in it need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "env", "touch", "true"):
        found = bootstrap.shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def script(path: Path, body: str) -> Path:
    path.write_text("#!/bin/sh\n" + body + "\n")
    path.chmod(0o755)
    return path


def broken_python(machine: Path) -> Path:
    """An interpreter that cannot load cv2 until the file `repaired` lies beside it."""
    reason = "libGL.so.1: cannot open shared object file: No such file or directory"
    return script(machine / "python", f"if [ -e {machine}/repaired ]; then echo '[]'; else echo '[[\"cv2\", \"{reason}\"]]'; fi")


def apt(machine: Path, repairs: bool) -> Path:
    """A package manager that writes down what it is asked, and may repair the interpreter when it installs."""
    log = machine.parent / "apt.log"
    repair = f'case "$*" in install*) touch {machine}/repaired;; esac' if repairs else ":"
    script(machine / "apt-get", f'echo "$DEBIAN_FRONTEND $*" >> {log}\n{repair}')
    return log


@linux
def test_a_missing_library_is_installed_and_tried_again(machine: Path) -> None:
    log = apt(machine, repairs=True)
    bootstrap.ensure_libraries(broken_python(machine), LIBRARIES, ("cv2",), is_root=True)
    update, install = log.read_text().splitlines()
    assert update.startswith("noninteractive update ")
    assert install.startswith("noninteractive install -y ") and install.endswith(" libegl1 libgl1")


@linux
def test_sudo_is_used_where_it_asks_nothing(machine: Path) -> None:
    log = apt(machine, repairs=True)
    script(machine / "sudo", '[ "$1" = -n ] || exit 1\nshift\nexec "$@"')
    bootstrap.ensure_libraries(broken_python(machine), LIBRARIES, ("cv2",), is_root=False)
    assert len(log.read_text().splitlines()) == 2


@linux
def test_without_the_right_to_install_the_one_command_is_told(machine: Path) -> None:
    log = apt(machine, repairs=True)
    script(machine / "sudo", "exit 1")
    with pytest.raises(
        bootstrap.SetupError, match=r"libGL\.so\.1(.|\n)*sudo apt-get update && sudo apt-get install -y libegl1 libgl1\n"
    ):
        bootstrap.ensure_libraries(broken_python(machine), LIBRARIES, ("cv2",), is_root=False)
    assert not log.exists()


@linux
def test_without_apt_the_packages_are_named(machine: Path) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"libegl1 libgl1(.|\n)*install\.md"):
        bootstrap.ensure_libraries(broken_python(machine), LIBRARIES, ("cv2",), is_root=True)


@linux
def test_an_installation_that_does_not_help_is_an_error(machine: Path) -> None:
    apt(machine, repairs=False)
    with pytest.raises(bootstrap.SetupError, match=r"still cannot be loaded:\n  cv2: libGL"):
        bootstrap.ensure_libraries(broken_python(machine), LIBRARIES, ("cv2",), is_root=True)


@linux
def test_a_failing_package_manager_stops_set_up(machine: Path) -> None:
    script(machine / "apt-get", "exit 100")
    with pytest.raises(bootstrap.SetupError, match=r"failed with status 100: .*apt-get update"):
        bootstrap.ensure_libraries(broken_python(machine), LIBRARIES, ("cv2",), is_root=True)


@linux
def test_an_error_that_names_no_library_installs_nothing(machine: Path) -> None:
    log = apt(machine, repairs=True)
    script(machine / "python", 'echo \'[["cv2", "No module named cv2"]]\'')
    with pytest.raises(bootstrap.SetupError, match="No module named cv2"):
        bootstrap.ensure_libraries(machine / "python", LIBRARIES, ("cv2",), is_root=True)
    assert not log.exists()


@linux
def test_an_interpreter_that_dies_is_reported_with_its_last_words(machine: Path) -> None:
    script(machine / "python", "echo 'Illegal instruction' >&2; exit 132")
    with pytest.raises(bootstrap.SetupError, match=r"status 132:\nIllegal instruction"):
        bootstrap.probe(machine / "python", [], ["cv2"])


@linux
def test_the_probe_tells_what_loads() -> None:
    failures = bootstrap.probe(sys.executable, ["libc.so.6", "libabsent-evidence.so.9"], ["json", "absent_evidence"])
    assert [name for name, _ in failures] == ["libabsent-evidence.so.9", "absent_evidence"]
    assert bootstrap.missing_libraries(failures) == ["libabsent-evidence.so.9"]


def test_a_library_is_read_from_what_python_says() -> None:
    said = [
        ("open3d", "libusb-1.0.so.0: cannot open shared object file: No such file or directory"),
        ("cv2", "libGL.so.1: cannot open shared object file: No such file or directory"),
        ("x", "/usr/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found"),
    ]
    assert bootstrap.missing_libraries(said) == ["libGL.so.1", "libusb-1.0.so.0"]


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18), (3, 10, 13)])
def test_an_old_python_is_refused_in_words(version: tuple[int, int, int]) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"needs Python 3\.11 or newer; this is " + ".".join(map(str, version))):
        bootstrap.check_python(version)


def test_old_pythons_can_parse_the_script() -> None:
    ast.parse(Path(bootstrap.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))


def test_children_see_no_foreign_proj_or_python() -> None:
    given = {"PATH": "x", "PROJ_DATA": "a", "PROJ_LIB": "b", "PYTHONPATH": "c", "VIRTUAL_ENV": "d", "HTTPS_PROXY": "e"}
    assert bootstrap.child_environment(given) == {"PATH": "x", "HTTPS_PROXY": "e"}


def test_uv_is_handed_the_mirror_of_pip_unless_it_has_its_own() -> None:
    settings = "global.index-url='https://mirror.example/simple'\nglobal.cert='/etc/ca.pem'\ninstall.no-binary='x'\n"
    assert bootstrap.uv_environment({}, settings) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    own = {"UV_DEFAULT_INDEX": "https://own.example/simple", "SSL_CERT_FILE": "/own.pem"}
    assert bootstrap.uv_environment(own, settings) == own
    assert bootstrap.uv_environment({}, "") == {}


def test_the_digest_sees_content_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = bootstrap.digest([folder])
    (folder / "a").rename(folder / "b")
    second = bootstrap.digest([folder])
    (folder / "b").write_text("2")
    assert len({first, second, bootstrap.digest([folder])}) == 3


def test_a_task_that_is_not_known_and_a_word_that_setup_does_not_know_are_refused() -> None:
    for words, status in ((["bake"], 2), (["setup", "--bear"], 1)):
        done = subprocess.run([sys.executable, bootstrap.__file__, *words], capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == status and words[-1] in done.stderr
