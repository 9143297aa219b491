"""Files that survive a crash: written beside, synced, then renamed; and what the system's refusals mean.

POSIX gives durability of a new name only after the folder is synced too; Windows has no such call.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from pathlib import Path

from geoevidence.errors import CustodyError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.ASCII)
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True) -> bool:
    """Put `data` at `path` whole or not at all; False when `replace` is not asked and something is there.

    Raises: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            os.replace(part, path)
        else:
            try:
                os.link(part, path)
            except FileExistsError:
                return False
            except OSError:  # no hard links here (a FAT stick)
                if path.exists():
                    return False
                os.rename(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def sweep_parts(folder: Path) -> int:
    """Remove what a process killed inside `write_durably` left under `folder`; the number of files removed. Raises: OSError."""
    parts = [path for path in folder.rglob("*.part") if _PART.fullmatch(path.name)]
    for part in parts:
        part.unlink(missing_ok=True)
    return len(parts)


def storage_error(error: OSError, path: Path) -> CustodyError:
    """What a refusal of the disk under the workspace means to its user."""
    if error.errno in _FULL:
        return CustodyError("custody.disk_full", path=path, reason=error.strerror)
    if error.errno in _REFUSED:
        return CustodyError("custody.disk_refuses", path=path, reason=error.strerror)
    return CustodyError("custody.disk_failed", path=path, reason=error.strerror or str(error))
