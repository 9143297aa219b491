"""Opens workspaces for the person at this machine, and names the processes that can be run.

Knows no streamlit. Reads the environment (GEOEVIDENCE_KEYS) and the clock on behalf of the parts below,
which are given them as arguments.
"""

from __future__ import annotations

import getpass
import os
import platform
import secrets
from datetime import UTC, datetime
from pathlib import Path

from geoevidence import __version__
from geoevidence.catalogue import open_log_store
from geoevidence.custody import KeyFolder, Session, Workspace
from geoevidence.types import Actor


def local_session(keys: Path | None = None) -> Session:
    """The session of the local user on this device: software key, system clock, identity level "local"."""
    folder = KeyFolder(keys or (Path(os.environ["GEOEVIDENCE_KEYS"]) if os.environ.get("GEOEVIDENCE_KEYS") else None))
    return Session(
        actor=Actor(id=getpass.getuser(), role="operator", auth_level="local"),
        signer=folder.signer(),
        device_serial=platform.node() or "unknown",
        software=f"geoevidence {__version__}",
        now=lambda: datetime.now(UTC),
        clock_source="system",
        clock_offset_ms=None,
        random=secrets.token_bytes,
    )


def create_workspace(path: Path) -> Workspace:
    """A new workspace at `path`. Raises CustodyError when something else is there."""
    return Workspace.create(path, session=local_session(), log_store=open_log_store(path))


def open_workspace(path: Path) -> Workspace:
    """The workspace at `path`. Raises CustodyError when there is none."""
    return Workspace.open(path, session=local_session(), log_store=open_log_store(path))
