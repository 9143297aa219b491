"""`verify.pyz`: this kernel as one file that runs with a bare Python 3.9 or later.

The same sources give the same bytes, on every machine; a package carries them, and anyone can
make them again and compare. Makes bytes only. Standard library only.
"""

from __future__ import annotations

import pkgutil

from geoevidence.trust.archive import archive_bytes

MODULES = (
    "__init__", "__main__", "archive", "bag", "bundle", "canonical", "certificates", "checks", "container", "continuity", "curves",
    "der", "devices", "digests", "errors", "events", "evidence", "history", "holders", "manifest", "merkle", "messages/__init__",
    "notes", "policy", "recomputed", "sealed", "signatures", "supplement", "timestamps", "verdict",
)  # fmt: skip
"""All modules of the kernel; a test compares the list with the folder."""
TEXTS = ("messages/en.json", "messages/zh.json")
_START = b"""import sys

from geoevidence.trust.__main__ import main

sys.exit(main())
"""
_ROOT = b'"""geoevidence: the verifier alone."""\n'


def build_pyz() -> bytes:
    """The bytes of `verify.pyz`, made from the running sources (also from within a `verify.pyz`)."""
    files = [("__main__.py", _START), ("geoevidence/__init__.py", _ROOT)]
    for name in [f"{module}.py" for module in MODULES] + list(TEXTS):
        data = pkgutil.get_data("geoevidence.trust", name)
        if data is None:
            raise FileNotFoundError(name)
        # a checkout with CRLF must not make another program
        files.append((f"geoevidence/trust/{name}", data.replace(b"\r\n", b"\n")))
    return archive_bytes(files)
