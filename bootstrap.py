#!/usr/bin/env python3
"""Set the project up and run its usual tasks: `python bootstrap.py setup`, then demo, test, serve ...

One script for Linux, macOS and Windows; standard library only; Python 3.11 or newer (an older one gets a clear
message, so this file keeps to syntax that Python 3.6 can parse). Everything goes into `.venv`, `app/web/node_modules`
and files that git ignores; native libraries come from the system's packages where this may install them, else the one
command to run is printed. What was set up is remembered by the digest of the lock files, so a repeat is quick.
No package index is named here: pip, uv and npm use what the machine is configured for, mirrors included.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
WEB = ROOT / "app" / "web"
FONTS = ROOT / "geoevidence" / "fonts"
STAMP = VENV / "geoevidence-setup.json"
OLDEST = (3, 11)

# shared library -> Debian package; each was needed on a bare Debian 12 (docs/how-to/install.md)
ENGINE_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",  # without it numba falls back to a layer that aborts on concurrent parallel calls
}
NODE_LIBRARIES = {"libatomic.so.1": "libatomic1"}
ENGINE_MODULES = ("cv2", "open3d")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
# Loads each shared library, then imports each module, and prints what failed and why: one JSON list of [name, reason].
PROBE = """
import ctypes, importlib, json, sys
libraries, modules = json.loads(sys.argv[1])
failed = []
for load, names in ((ctypes.CDLL, libraries), (importlib.import_module, modules)):
    for name in names:
        try:
            load(name)
        except (OSError, ImportError) as error:
            failed.append([name, str(error)])
print(json.dumps(failed))
"""


class SetupError(Exception):
    """Set-up cannot go on; the text says what to do."""


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- running things


def child_environment(environment):
    """`environment` without what would lead a child astray (another PROJ, another Python), with pip's mirror for uv."""
    clean = dict(environment)
    for name in ("PROJ_DATA", "PROJ_LIB", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX"):
        clean.pop(name, None)
    return clean


def run(command, cwd=ROOT, env=None):
    """Run `command`; what it prints is shown only when it fails. Raises SetupError when it fails or is missing."""
    command = [str(part) for part in command]
    env = child_environment(os.environ) if env is None else env
    try:
        done = subprocess.run(command, cwd=str(cwd), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise SetupError("cannot run {}: {}".format(command[0], error)) from error
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()[-4000:]
        raise SetupError("this command failed with status {}: {}\n{}".format(done.returncode, " ".join(command), said))


def output(command):
    """What `command` prints, or None when it is missing or fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command], stdout=subprocess.PIPE, env=child_environment(os.environ), cwd=str(ROOT)
        )
    except OSError:
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def tool(name, venv=VENV):
    """Path of a program inside the virtual environment."""
    return venv / ("Scripts/" + name + ".exe" if os.name == "nt" else "bin/" + name)


def digest(paths):
    """Hex SHA-256 over names and bytes of `paths` (files, or folders walked in order)."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            total.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def read_stamp():
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_stamp(**changes):
    STAMP.write_text(json.dumps(dict(read_stamp(), **changes), indent=1, sort_keys=True) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- system packages


def installer(is_root=None):
    """The start of an unattended apt-get command, or None where this may not or cannot install."""
    if not shutil.which("apt-get"):
        return None
    if is_root is None:
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        return ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if shutil.which("sudo") and output(["sudo", "-n", "true"]) is not None:
        return ["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    return None


def install_packages(packages, why, is_root=None):
    """Install Debian packages, or raise SetupError with the one command that somebody has to run."""
    apt = installer(is_root)
    if apt is None:
        if shutil.which("apt-get"):
            raise SetupError(
                "{}\nThis account may not install it. Run once, then start again:\n\n    sudo apt-get update && sudo apt-get install -y {}\n".format(
                    why, " ".join(packages)
                )
            )
        raise SetupError(
            "{}\nInstall what your system calls these Debian packages, then start again: {}\n"
            "(docs/how-to/install.md names them for other systems)".format(why, " ".join(packages))
        )
    say("installing system packages: " + " ".join(packages))
    quiet = ["-qq", "-o", "DPkg::Lock::Timeout=300"]
    run(apt + ["update"] + quiet)
    run(apt + ["install", "-y", "--no-install-recommends"] + quiet + packages)


def install_from(debs, why, is_root=None):
    """Install the Debian packages that lie in `debs`, without a network: none is downgraded, none installed twice."""
    files = sorted(debs.glob("*.deb"))
    command = ["dpkg", "--install", "--refuse-downgrade", "--skip-same-version"] + files
    if is_root is None:
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not is_root or not shutil.which("dpkg"):
        raise SetupError("{}\nRun once, then start again:\n\n    sudo dpkg -i -G -E {}\n".format(why, debs / "*.deb"))
    say("installing system packages from {}".format(debs))
    run(command)


def probe(python, libraries, modules):
    """[(name, reason)] of the shared libraries and Python modules that `python` cannot load.

    A child that dies on the way (a crash in a native library) is a SetupError with its last words.
    """
    done = subprocess.run(
        [str(python), "-c", PROBE, json.dumps([list(libraries), list(modules)])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(os.environ),
        cwd=str(ROOT),
    )
    try:
        return [(name, reason) for name, reason in json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])]
    except (ValueError, IndexError):
        last = done.stderr.decode("utf-8", "replace").strip()[-800:]
        raise SetupError(
            "loading {} ended with status {}:\n{}".format(", ".join(modules) or "libraries", done.returncode, last)
        ) from None


def missing_libraries(failures):
    """Names of shared libraries that the failures blame: `libX.so.N: cannot open shared object file`."""
    named = set()
    for name, reason in failures:
        named.update(re.findall(r"(lib[\w.+-]+\.so(?:\.\d+)*): cannot open shared object", reason))
        if re.match(r"lib[\w.+-]+\.so", name):
            named.add(name)
    return sorted(named)


def ensure_libraries(python, libraries, modules, is_root=None, debs=None):
    """Make sure that `python` loads every one of `libraries` (soname -> package) and imports `modules`.

    Decided by loading, never by asking the package manager: a library put there by hand counts, a broken package does not.
    debs: folder of packages to install from instead of the system's sources.
    """
    if not sys.platform.startswith("linux"):
        libraries = {}  # Windows and macOS wheels bring theirs
    failures = probe(python, libraries, modules)
    if not failures:
        return
    missing = missing_libraries(failures)
    if missing:
        why = "Missing system libraries: {}.".format(", ".join(missing))
        if debs is not None and debs.is_dir():
            install_from(debs, why, is_root)
        else:
            install_packages(sorted(set(libraries.values())), why, is_root)
        failures = probe(python, libraries, modules)
    if failures:
        raise SetupError("these still cannot be loaded:\n" + "\n".join("  {}: {}".format(*failure) for failure in failures))


def find_browser():
    """Path of a Chromium-family browser for the browser tests, or None."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    return next((place for place in BROWSER_PLACES if os.path.exists(place)), None)


# ---------------------------------------------------------------- set-up


def check_python(version=sys.version_info):
    if tuple(version[:2]) < OLDEST:
        raise SetupError(
            "geoevidence needs Python {}.{} or newer; this is {}. Start this script with a newer one, such as: python3.11 bootstrap.py".format(
                OLDEST[0], OLDEST[1], ".".join(str(part) for part in version[:3])
            )
        )


def make_venv():
    """`.venv` with this Python; made again when it is broken, of another minor version, or was made in another folder."""
    running = "{}.{}".format(*sys.version_info[:2])
    found = output([tool("python"), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    moved = read_stamp().get("root", str(ROOT)) != str(ROOT)
    if found is not None and found.strip() == running and not moved:
        return
    if VENV.exists():
        fault = "from another folder" if moved else "of Python " + found.strip() if found else "broken"
        say(".venv is {}; making it again with Python {}".format(fault, running))
    if output([sys.executable, "-c", "import ensurepip"]) is None:
        install_packages(["python{}-venv".format(running)], "This Python cannot make virtual environments.")
    run([sys.executable, "-m", "venv", "--clear", VENV])


def uv_environment(environment, pip_settings):
    """The environment for uv: `environment` with the mirror and certificate of `pip config list`, which uv does not read.

    What is set for uv itself wins.
    """
    env = child_environment(environment)
    found = dict(re.findall(r"^(?:global|install|:env:)\.(index-url|cert)='(.*)'\s*$", pip_settings, re.M))
    if "index-url" in found and not any(name in env for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE")):
        env["UV_DEFAULT_INDEX"] = found["index-url"]
    if "cert" in found:
        env.setdefault("SSL_CERT_FILE", found["cert"])
    return env


def uv(*words):
    """Run uv on `.venv` as this machine is configured."""
    settings = output([tool("python"), "-m", "pip", "config", "list"]) or ""
    run([tool("uv"), "pip"] + list(words), env=uv_environment(os.environ, settings))


def setup_python(bare, wheels=None):
    """The locked packages and this project (editable) in `.venv`; from the folder `wheels` alone where one is given."""
    make_venv()
    lock = ROOT / ("requirements-bare.lock" if bare else "requirements-run.lock" if wheels else "requirements.lock")
    wanted = digest([lock, ROOT / "requirements-uv.lock", ROOT / "pyproject.toml"])
    stamp = read_stamp()
    if stamp.get("python") == wanted or (bare and stamp.get("kind") == "full"):
        return
    run(
        [
            tool("python"),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            "requirements-uv.lock",
        ]
        + (["--no-index", "--find-links", wheels] if wheels else [])
    )
    source = ["--offline", "--no-index", "--find-links", wheels] if wheels else []
    say("installing up to {} packages (digests checked)".format(len(re.findall(r"^\w", lock.read_text(encoding="utf-8"), re.M))))
    uv("sync", "-q", "--python", tool("python"), "--require-hashes", lock.name, *source)
    uv("install", "-q", "--python", tool("python"), "--no-deps", "--no-build-isolation", "-e", ".", *source)
    write_stamp(python=wanted, kind="bare" if bare else "full", native=None, root=str(ROOT))


def setup_native(debs=None):
    """Native libraries of the engines. Cheap every time; the slow imports are tried once per set of packages."""
    stamp = read_stamp()
    modules = () if stamp.get("native") == stamp["python"] else ENGINE_MODULES
    ensure_libraries(tool("python"), ENGINE_LIBRARIES, modules, debs=debs)
    write_stamp(native=stamp["python"])


def front_files():
    """(fonts, folders of built components): what `setup_front` makes, there or not."""
    sources = sorted(path.name for path in (WEB / "src").iterdir() if path.is_dir())
    return [FONTS / "NotoSansSC-{}.ttf".format(weight) for weight in (400, 700)], [
        ROOT / "app" / "components" / name / "dist" for name in sources
    ]


def check_front():
    """Raises SetupError unless fonts and built components are there: an offline set brings them ready."""
    fonts, folders = front_files()
    missing = [path for path in fonts if not path.exists()] + [path for path in folders if not any(path.glob("*.js"))]
    if missing:
        raise SetupError("the offline set lacks {}; make it again with `python bootstrap.py bundle`".format(missing[0].name))


def setup_front():
    """Fonts and bundled components, from the npm packages that the lock names."""
    environment = VENV if tool("npm").exists() else Path(sys.prefix)
    if not tool("npm", environment).exists():
        raise SetupError("npm is missing: run `python bootstrap.py setup` first")
    fonts, folders = front_files()
    packages = digest([WEB / "package.json", WEB / "package-lock.json"])
    bundle = digest([WEB / "package-lock.json", WEB / "build.mjs", WEB / "src"])
    stamp_file = WEB / "node_modules" / ".geoevidence.json"
    try:
        stamp = json.loads(stamp_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stamp = {}
    built = all(any(folder.glob(folder.parent.name + "-*.js")) for folder in folders)
    if stamp == {"packages": packages, "bundle": bundle} and built and all(font.exists() for font in fonts):
        return
    ensure_libraries(tool("python", environment), NODE_LIBRARIES, ())
    say("building the front end")
    env = child_environment(os.environ)
    env["PATH"] = str(tool("node", environment).parent) + os.pathsep + env.get("PATH", "")
    if stamp.get("packages") != packages:
        run([tool("npm", environment), "ci", "--ignore-scripts", "--loglevel=error", "--no-progress"], cwd=WEB, env=env)
    for font, source in zip(fonts, ("400Regular/NotoSansSC_400Regular.ttf", "700Bold/NotoSansSC_700Bold.ttf")):
        shutil.copyfile(str(WEB / "node_modules/@expo-google-fonts/noto-sans-sc" / source), str(font))
    run([tool("node", environment), "build.mjs"], cwd=WEB, env=env)
    stamp_file.write_text(json.dumps({"packages": packages, "bundle": bundle}) + "\n", encoding="utf-8")


def setup_browser():
    """A browser for the browser tests."""
    if find_browser() is None:
        install_packages(["chromium"], "The browser tests need Chromium or Chrome.")
        if find_browser() is None:
            raise SetupError("Chromium was installed but is not found on PATH")


def setup(bare=False, browser=False, offline=None):
    """Every step in order; prints how long set-up took, apart from the work that follows.

    offline: folder made by `bundle`; nothing is then taken from anywhere else.
    """
    if offline is not None:
        check_bundle(offline)
        steps = [("Python packages", lambda: setup_python(bare, offline / "wheels"))]
        if not bare:
            steps += [("native libraries", lambda: setup_native(offline / "debs")), ("fonts and front end", check_front)]
    else:
        steps = [("Python packages", lambda: setup_python(bare))]
        if not bare:
            steps += [("native libraries", setup_native), ("fonts and front end", setup_front)]
    if browser:
        steps.append(("browser", setup_browser))
    started, parts = time.monotonic(), []
    for name, step in steps:
        before = time.monotonic()
        step()
        parts.append("{} {:.1f} s".format(name, time.monotonic() - before))
    say("set-up: {:.1f} s ({})".format(time.monotonic() - started, ", ".join(parts)))


# ---------------------------------------------------------------- the offline set

BUNDLE = ROOT / "dist" / "geoevidence-offline"
BUNDLE_README = """\
geoevidence 离线安装包 / offline set

在没有网络的电脑上（{platform}，Python {python}）：
On a machine without a network ({platform}, Python {python}):

    cd source
    python{python} bootstrap.py setup --offline ..
    . .venv/bin/activate
    geoevidence verify PACKAGE
    geoevidence recompute PACKAGE          （从导出的表面重新量算 / measures again from the derived surfaces）
    geoevidence recompute PACKAGE --full   （从原始文件全部重算 / everything from the originals）

wheels  Python 程序库，摘要写在 source/requirements-run.lock 中 / Python packages, their digests are in source/requirements-run.lock
debs    系统程序库（Debian），缺少时才安装 / native libraries (Debian), installed only where they are missing
SHA256SUMS  全部文件的摘要，安装前核对 / digests of all files, compared before anything is installed
"""


def bundle(out):
    """A folder with which a machine of this kind installs without a network: sources, built front end, packages, libraries."""
    setup()
    if out.exists():
        raise SetupError("{} is there already; name another folder or remove it".format(out))
    listed, changed = output(["git", "ls-files", "-z"]), output(["git", "status", "--porcelain"])
    if listed is None or changed:
        raise SetupError("the offline set is made from a git checkout without uncommitted changes")
    part = out.with_name("." + out.name + ".part")
    shutil.rmtree(str(part), ignore_errors=True)
    fonts, folders = front_files()
    made = fonts + [file for folder in folders for file in sorted(folder.iterdir())]
    for file in [ROOT / name for name in listed.split("\0") if name] + made:
        target = part / "source" / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file), str(target))
    say("fetching packages (digests checked)")
    for lock in ("requirements-uv.lock", "requirements-run.lock"):
        pip = [tool("python"), "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        run(pip + ["-r", lock, "-d", part / "wheels"])
    if shutil.which("apt-get") and shutil.which("apt-cache"):
        fetch_debs(part / "debs")
    words = {"platform": platform.system() + " " + platform.machine(), "python": "{}.{}".format(*sys.version_info[:2])}
    (part / "README.txt").write_text(BUNDLE_README.format(**words), encoding="utf-8", newline="\n")
    files = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    sums = "".join("{}  {}\n".format(hashlib.sha256((part / name).read_bytes()).hexdigest(), name) for name in files)
    (part / "SHA256SUMS").write_text(sums, encoding="utf-8", newline="\n")
    part.rename(out)
    say("offline set: {} ({} files, {:.0f} MB)".format(out, len(files), sum((out / name).stat().st_size for name in files) / 1e6))


def fetch_debs(folder):
    """The native libraries of the engines and all that they depend on, as packages of this Debian."""
    folder.mkdir()
    no = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
    names = sorted(set(ENGINE_LIBRARIES.values()))
    tree = output(["apt-cache", "depends", "--recurse"] + ["--no-" + kind for kind in no] + names) or ""
    packages = sorted(set(re.findall(r"^([a-z0-9][a-z0-9.+-]*(?::\w+)?)$", tree, re.M)))
    run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root"] + (packages or names), cwd=folder)


def check_bundle(folder):
    """Raises SetupError unless every file of an offline set is as it was made."""
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SetupError("{} is not an offline set: {}".format(folder, error)) from error
    for line in lines:
        stated, name = line.split("  ", 1)
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != stated:
            raise SetupError("{} in the offline set is missing or changed; copy the set again".format(name))


# ---------------------------------------------------------------- locks (maintainers)


def environment_yml(lock):
    """The text of environment.yml for the text of requirements.lock: conda-forge for Python and native libraries, pip for the rest."""
    pins = re.findall(r"^([A-Za-z0-9][\w.-]*==[^\\\n]*?)\s*\\?$", lock, re.M)
    head = [
        "# Made by `python bootstrap.py lock` from requirements.lock: the same versions under conda (Linux x86-64).",
        "# Afterwards, inside the environment: python bootstrap.py front",
        "name: geoevidence",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        "  - python=3.11",
        "  - pip",
        "  - libgl",
        "  - libegl",
        "  - libglib",
        "  - libusb",
        "  - libgomp",
        "  - pip:",
    ]
    return "\n".join(head + ['      - "{}"'.format(pin) for pin in pins] + ['      - "-e ."']) + "\n"


def lock():
    """Make the locks again from pyproject.toml, package.json and the uv pin; versions already locked are kept."""
    options = [
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-header",
        "--no-annotate",
        "-q",
    ]
    options += ["--no-emit-package", "geoevidence"]
    uv("compile", *options, "requirements.in", "-o", "requirements.lock")
    for name in ("bare", "run"):
        part = "requirements-{}".format(name)
        uv("compile", *options, part + ".in", "-c", "requirements.lock", "-o", part + ".lock")
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (ROOT / "environment.yml").write_text(environment_yml(text), encoding="utf-8", newline="\n")
    npm_env = dict(child_environment(os.environ), PATH=str(tool("node").parent) + os.pathsep + os.environ.get("PATH", ""))
    run([tool("npm"), "install", "--package-lock-only", "--ignore-scripts", "--loglevel=error"], cwd=WEB, env=npm_env)
    record = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))
    for package in record["packages"].values():
        package.pop("funding", None)
        package.pop("resolved", None)
    (WEB / "package-lock.json").write_text(
        json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
    )


# ---------------------------------------------------------------- tasks


def work(name, *commands):
    """Run the commands of a task in turn, stop at the first that fails, say how long it took; its exit status."""
    started, code = time.monotonic(), 0
    for command in commands:
        code = subprocess.call([str(part) for part in command], cwd=str(ROOT), env=child_environment(os.environ))
        if code:
            break
    say("{}: {:.1f} s, {}".format(name, time.monotonic() - started, "failed with status {}".format(code) if code else "done"))
    return code


def task(name, extra):
    """Set up what the task needs, then run it with the extra words of the command line; its exit status."""
    python, pytest = tool("python"), [tool("python"), "-m", "pytest"]
    # each process takes whole groups of tests (tests/conftest.py); more than two would share the memory of engines
    together = pytest + ["-n", str(min(os.cpu_count() or 1, 2)), "--dist", "loadgroup"]
    quick = together + ["-m", "not slow and not browser"]
    if name == "setup":
        offline = None
        if "--offline" in extra:
            place = extra.index("--offline")
            if place + 1 == len(extra):
                raise SetupError("--offline needs the folder of the offline set")
            offline, extra = Path(extra[place + 1]).resolve(), extra[:place] + extra[place + 2 :]
        if set(extra) - {"--bare"}:
            raise SetupError("setup knows --bare and --offline FOLDER only, not: {}".format(" ".join(extra)))
        setup(bare=bool(extra), offline=offline)
        return 0
    if name == "bundle":
        bundle(Path(extra[0]).resolve() if extra else BUNDLE)
        return 0
    if name == "front":
        setup_front()
        return 0
    if name == "lock":
        lock()
        return 0
    setup(browser=name == "test")
    if name == "demo":
        return work(name, [tool("geoevidence"), "demo"] + extra)
    if name == "serve":
        return work(name, [tool("geoevidence"), "serve"] + extra)
    if name == "test":
        return work(name, together + extra)
    if name == "quick":
        return work(name, quick + extra)
    if name == "bench":
        scripts = [script for script in sorted((ROOT / "bench").glob("*.py")) if not script.name.startswith("_")]
        return work(name, *[[python, script] + extra for script in scripts])
    ruff, mypy = [python, "-m", "ruff"], [python, "-m", "mypy"]
    return work(name, ruff + ["format", "--check", "."], ruff + ["check", "."], mypy, quick + extra)


TASKS = {
    "setup": "make .venv with the locked packages, native libraries, fonts and front end (--bare: custody and verifying only;\n         --offline FOLDER: from an offline set alone)",
    "bundle": "make an offline set, with which a machine without a network installs and recomputes",
    "demo": "run the demonstration from photographs and scenes to a verified package",
    "test": "run every test, browser tests included",
    "quick": "run the quick tests",
    "check": "format, lint, types and the quick tests",
    "serve": "start the local web application",
    "bench": "run every benchmark",
    "front": "fetch the fonts and build the front end only",
    "lock": "for maintainers: make the lock files and environment.yml again",
}


def main(argv):
    described = "\n".join("  {:<6} {}".format(name, text) for name, text in TASKS.items())
    parser = argparse.ArgumentParser(
        description="Set geoevidence up and run its usual tasks.",
        epilog="tasks:\n" + described + "\n\nFurther words are handed to what the task runs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "task", choices=sorted(TASKS), metavar="task", nargs="?", default="setup", help="one of those below; setup when left out"
    )
    known, extra = parser.parse_known_args(argv)
    try:
        check_python()
        return task(known.task, extra)
    except SetupError as error:
        sys.stderr.write(
            "\nset-up stopped: {}\n(Python {} on {})\n".format(error, platform.python_version(), platform.platform())
        )
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
