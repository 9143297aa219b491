"""The process in which a file from outside is taken apart: it can read that one file and write one answer.

Run as a script with the file as standard input. It loads what it needs, then gives up everything else: memory, time,
writing, new processes, new descriptors (so no other file and no socket, whatever code runs), and answers with one line
of JSON. Where the system lacks limits (Windows), the audit hook and the parent's clock remain. Standard library only.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

MEMORY = 512 << 20
"""Address space of the process, bytes."""
SECONDS = 10
"""CPU time, and the parent's clock."""
_REFUSED = ("open", "os.", "socket.", "subprocess.", "signal.", "ctypes.", "pickle.", "shutil.")
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp437", "gb18030", "unicode_escape", "ascii")


def confine() -> None:
    """Give up what reading one file does not need, for good."""
    try:
        import resource
    except ImportError:
        resource = None  # type: ignore[assignment]
    if resource is not None:
        limits = {
            "RLIMIT_AS": MEMORY,
            "RLIMIT_CPU": SECONDS,
            "RLIMIT_FSIZE": 0,
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": 0,
            "RLIMIT_NOFILE": 0,  # not 3: whoever closes one of the three could open another in its place
        }
        for name, value in limits.items():
            kind = getattr(resource, name, None)
            if kind is None:
                continue
            try:
                resource.setrlimit(kind, (value, value))
            except (ValueError, OSError):  # a system that knows the name only; the others hold
                continue

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise RuntimeError(event)

    sys.addaudithook(refuse)


def _package_without_its_start(root: Path) -> None:
    """Make the readers importable without `geoevidence.custody.__init__`, which loads keys, logs and databases."""
    sys.path.insert(0, str(root))
    for name in ("geoevidence.custody", "geoevidence.custody.inspection"):
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = module


def main(arguments: list[str]) -> int:
    """Judge standard input, named by the first argument (JSON text). Prints verdict, reason, flags and details."""
    _package_without_its_start(Path(__file__).resolve().parents[3])
    from geoevidence.custody.inspection.look import Source
    from geoevidence.custody.inspection.readers import judge
    from geoevidence.messages import texts

    texts("en")  # messages and codecs load on first use, from files
    for encoding in _ENCODINGS:
        codecs.lookup(encoding)
    stream = os.fdopen(0, "rb", closefd=False)
    size = os.fstat(0).st_size
    confine()
    verdict, reason, flags, details = judge(Source(stream, size), json.loads(arguments[0]), deep=True)
    answer = {
        "verdict": verdict,
        "reason": [reason.id, dict(reason.values)],
        "flags": [[flag.id, dict(flag.values)] for flag in flags],
        "details": details,
    }
    os.write(1, json.dumps(answer).encode("ascii"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
