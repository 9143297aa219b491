"""Which code computed: one digest over the source files, one over the installed distributions.

They tell whether two computations ran the same program; they are not a proof of what it did.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from geoevidence import __version__
from geoevidence.trust.canonical import dumps
from geoevidence.types import Process

_PACKAGES = ("geoevidence", "drone", "satellite")
_SUFFIXES = {".py", ".toml", ".json", ".typ"}


@cache
def code_digest() -> str:
    """`sha256:<hex>` over the RFC 8785 list of [path, sha256] of the source files of the three packages, sorted."""
    root = Path(__file__).resolve().parents[2]
    rows = []
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file() and "node_modules" not in path.parts:
                # a checkout may end lines otherwise; the program is the same
                data = path.read_bytes().replace(b"\r\n", b"\n")
                rows.append([path.relative_to(root).as_posix(), hashlib.sha256(data).hexdigest()])
    return "sha256:" + hashlib.sha256(dumps(rows)).hexdigest()


@cache
def environment_digest() -> str:
    """`sha256:<hex>` over the RFC 8785 list of Python's version and machine and of all installed `name==version`, sorted."""
    names = {f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions() if each.metadata["Name"]}
    rows = [platform.python_version(), platform.system(), platform.machine(), sorted(names)]
    return "sha256:" + hashlib.sha256(dumps(rows)).hexdigest()


@cache
def machine_text() -> str:
    """The machine as a line of text: system, architecture, processor and its vector instructions, which move last digits."""
    parts = [platform.system(), platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return " ".join([*parts, platform.processor()]).strip()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    flags = sorted(
        {"sse4_2", "avx", "avx2", "fma", "avx512f", "asimd", "sve"} & set(facts.get("flags", facts.get("Features", "")).split())
    )
    return " ".join([*parts, facts.get("model name", ""), *flags]).replace("  ", " ").strip()


def describe_process(tool: str, parameters: dict[str, object], seed: int | None) -> Process:
    """The process record of a computation by this program, here and now."""
    return Process(
        tool=tool,
        version=__version__,
        code_digest=code_digest(),
        environment_digest=environment_digest(),
        parameters=parameters,
        seed=seed,
    )
