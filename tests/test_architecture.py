"""Who may import whom, read from the import statements; what must stay light, tried in a fresh interpreter."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("geoevidence", "drone", "satellite", "app")
STDLIB = sys.stdlib_module_names
HEAVY = {
    "cv2", "dask", "distributed", "geopandas", "h5netcdf", "h5py", "matplotlib", "numba", "numpy", "odc", "open3d", "pandas", "pyceres",
    "pycolmap", "pyogrio", "pyproj", "rasterio", "rio_tiler", "scipy", "shapely", "streamlit", "trimesh", "typst", "xarray", "zarr",
}  # fmt: skip

# Parts of geoevidence that each part may know, itself left out. A name stands for the module and what lies in it.
CORE = {"trust", "errors", "messages", "types"}
GEOEVIDENCE = {
    "trust": set(),
    "messages": {"trust"},
    "errors": {"trust", "messages"},
    "types": {"trust", "messages", "errors"},
    "crs": CORE,
    "raster": CORE | {"crs"},
    "figures": CORE | {"crs", "raster"},
    "comparison": CORE | {"raster"},
    "cluster": CORE,
    "config": CORE,
    "custody": CORE | {"config"},
    "catalogue": CORE | {"config", "custody"},
    "package": CORE | {"config", "custody"},
    "redaction": CORE | {"custody"},
    "report": CORE | {"config", "custody", "package", "crs", "raster", "figures"},
}
NO_ENGINES = {"cv2", "dask", "distributed", "open3d", "pyceres", "pycolmap", "streamlit"}
NO_ARRAYS = {"trust", "messages", "errors", "types", "config", "custody", "catalogue", "package"}
ENGINE_MAY_KNOW = {"types", "errors", "messages", "raster", "crs", "figures", "comparison", "cluster"}
DASK_ALLOWED = {"geoevidence.cluster", "drone.split", "satellite.scan"}


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the product."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if "node_modules" not in parts:
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that a module imports anywhere, functions included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), node.lineno


def refusal(name: str, target: str) -> str | None:
    """Why module `name` may not import `target`, or None where it may."""
    top = target.split(".")[0]
    mine, own = name.split(".")[0], name.split(".")[1] if "." in name else ""
    inner = target.split(".")[1] if top == "geoevidence" and "." in target else ""
    if mine == "geoevidence":
        if top in PACKAGES and top != "geoevidence":
            return "the core knows neither the engines nor the app"
        if own in NO_ARRAYS and top in HEAVY | NO_ENGINES:
            return f"geoevidence.{own} runs on a bare install"
        if top in NO_ENGINES and not (top in ("dask", "distributed") and name in DASK_ALLOWED):
            return "the core runs no engine"
        if own == "trust" and not (top in STDLIB or target.startswith("geoevidence.trust")):
            return "the kernel needs the standard library alone"
        if own and top == "geoevidence" and inner != own and inner and inner not in GEOEVIDENCE[own]:
            return f"geoevidence.{own} may know {sorted(GEOEVIDENCE[own])}"
        return None
    if mine in ("drone", "satellite"):
        other = {"drone", "satellite", "app"} - {mine}
        if top in other:
            return "an engine knows neither the other engine nor the app"
        if top == "streamlit":
            return "an engine has no screens"
        if top in ("dask", "distributed") and name not in DASK_ALLOWED:
            return f"dask belongs in {sorted(DASK_ALLOWED)}"
        if target == "geoevidence.trust.canonical":
            return None  # records are written and read as canonical bytes, a pure function
        if name == "drone.quality" and target == "geoevidence.report":
            return None  # its document is set as the other reports are
        if name.endswith(".workflow") and inner == "custody":
            return None  # the workflow alone knows the case
        if top == "geoevidence" and inner and inner not in ENGINE_MAY_KNOW:
            return f"an engine may know {sorted(ENGINE_MAY_KNOW)}; its workflow also geoevidence.custody"
        return None
    if top in ("drone", "satellite") and "." in target:
        return f"the app uses what {top}/__init__.py exports"
    if top == "geoevidence" and target.count(".") > 1 and target != "geoevidence.trust.__main__":  # the verifier's own command
        return f"the app uses what geoevidence/{inner}/__init__.py exports"
    if top == "streamlit" and (name in ("app.cli", "app.worker", "app.tools", "app.demo") or name.startswith("app.commands")):
        return "works without screens"
    return None


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_follow_the_table(name: str) -> None:
    path = MODULES[name]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}: {why}"
        for target, line in imported(name, path)
        if (why := refusal(name, target)) is not None
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "target", "allowed"),
    [
        ("geoevidence.trust.merkle", "hashlib", True),
        ("geoevidence.trust.merkle", "cryptography", False),
        ("geoevidence.trust.merkle", "geoevidence.types", False),
        ("geoevidence.custody.case", "geoevidence.package", False),
        ("geoevidence.custody.case", "numpy", False),
        ("geoevidence.package.seal", "geoevidence.custody.case", True),
        ("geoevidence.report.document", "geoevidence.figures", True),
        ("geoevidence.report.document", "drone", False),
        ("drone.sfm", "geoevidence.custody", False),
        ("drone.workflow", "geoevidence.custody", True),
        ("drone.sfm", "satellite.types", False),
        ("drone.sfm", "dask.array", False),
        ("drone.split", "dask.array", True),
        ("app.cli", "drone.sfm", False),
        ("app.cli", "drone", True),
        ("app.cli", "streamlit", False),
        ("app.cli", "geoevidence.custody.case", False),
        ("app.commands", "streamlit", False),
        ("app.commands.engines", "drone", True),
        ("app.commands.engines", "drone.sfm", False),
        ("app.commands.packages", "streamlit", False),
        ("app.screens.case", "streamlit", True),
    ],
)
def test_the_table_refuses_and_allows(name: str, target: str, allowed: bool) -> None:
    assert (refusal(name, target) is None) is allowed


def test_every_part_of_the_core_has_a_rule() -> None:
    parts = {name.split(".")[1] for name in MODULES if name.startswith("geoevidence.")}
    assert parts <= set(GEOEVIDENCE), f"no import rule for {sorted(parts - set(GEOEVIDENCE))}"


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES.values()}
    missing = sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists())
    assert not missing, f"no __init__.py, so set-up would leave them out of a wheel: {missing}"


@pytest.mark.parametrize("package", ["drone", "satellite"])
def test_what_an_engine_exports_is_there_and_is_no_module(package: str) -> None:
    """A public name that is also a module would be the function or the module, whichever was loaded last."""
    exported = importlib.import_module(package).__all__
    shadowed = sorted(name for name in exported if f"{package}.{name}" in MODULES)
    assert not shadowed, f"{package}/__init__.py exports {shadowed}, which are modules too"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["drone", "satellite"])
def test_what_an_engine_exports_loads(package: str) -> None:
    engine = importlib.import_module(package)
    for name in engine.__all__:
        assert getattr(engine, name) is not None


def test_the_app_asks_the_engines_for_exported_names_only() -> None:
    wrong = []
    for module, path in MODULES.items():
        if module.split(".")[0] != "app":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in ("drone", "satellite"):
                exported = importlib.import_module(node.module).__all__
                wrong += [
                    f"{module}:{node.lineno}: {node.module}.{alias.name}" for alias in node.names if alias.name not in exported
                ]
    assert not wrong, "\n".join(wrong)


def test_no_shapeless_module_names() -> None:
    assert not [name for name in MODULES if name.rpartition(".")[2] in {"utils", "helpers", "common", "base", "manager"}]


# ---------------------------------------------------------------- the kernel under Python 3.9


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("geoevidence.trust")))
def test_kernel_parses_as_python_39(name: str) -> None:
    ast.parse(MODULES[name].read_text(encoding="utf-8"), feature_version=(3, 9))


def _python39() -> str | None:
    places = [shutil.which("python3.9"), *sorted(map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python3.9")))]
    for place in places:
        if place and subprocess.run([place, "-c", ""], capture_output=True).returncode == 0:
            return place
    return None


def test_kernel_imports_under_python_39(tmp_path: Path) -> None:
    python = _python39()
    if python is None:
        pytest.skip("Python 3.9 absent: the kernel was parsed as 3.9, not run under it")
    kernel = tmp_path / "geoevidence"
    kernel.mkdir()
    (kernel / "__init__.py").write_text("")
    shutil.copytree(ROOT / "geoevidence/trust", kernel / "trust", ignore=shutil.ignore_patterns("__pycache__"))
    names = sorted(name for name in MODULES if name.startswith("geoevidence.trust") and not name.endswith("__main__"))
    code = "import importlib; [importlib.import_module(name) for name in " + repr(names) + "]"
    done = subprocess.run(
        [python, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- what stays light

BLOCK = """
import importlib.metadata, json, re, sys
allowed = set(json.loads(sys.argv[1]))
owners = importlib.metadata.packages_distributions()
norm = lambda name: re.sub(r"[-_.]+", "-", name).lower()
class OnlyBare:
    def find_spec(self, name, path=None, target=None):
        distributions = {norm(owner) for owner in owners.get(name.partition(".")[0], [])}
        if distributions and not distributions & allowed:
            raise ImportError(f"{name} is not part of a bare install")
sys.meta_path.insert(0, OnlyBare())
"""


def _bare_distributions() -> set[str]:
    text = (ROOT / "requirements-bare.lock").read_text(encoding="utf-8")
    return {name.lower() for name in re.findall(r"^([A-Za-z0-9][\w.-]*)==", text, re.M)} | {"geoevidence"}


def _in_bare_interpreter(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where importing anything outside requirements-bare.lock fails as if it were not installed."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, json.dumps(sorted(_bare_distributions()))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def test_the_bare_interpreter_really_refuses() -> None:
    done = _in_bare_interpreter("import numpy")
    assert done.returncode != 0 and "numpy is not part of a bare install" in done.stderr


def test_custody_and_verifying_run_on_a_bare_install() -> None:
    names = ["types", "custody", "catalogue", "package", "trust.__main__"]
    modules = [*(f"geoevidence.{name}" for name in names), "app.cli", "app.tools"]
    done = _in_bare_interpreter(f"import importlib\nfor name in {modules!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["geoevidence", "app.cli", "drone", "satellite"])
def test_heavy_packages_load_on_first_use(module: str) -> None:
    """Importing the faces and the packages alone loads none of the packages that take seconds."""
    slow = {"cv2", "open3d", "streamlit", "pycolmap", "matplotlib", "dask", "typst"}
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = slow & {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded, f"importing {module} loads {sorted(loaded)}"
