"""The catalogue of a workspace: its log, and views of it that can be made again."""

from pathlib import Path

from geoevidence.catalogue.logstore import SqliteLogStore, open_log_store
from geoevidence.custody.log import LogStore

__all__ = ["LogStore", "SqliteLogStore", "open_log_store", "rebuild"]


def rebuild(workspace: Path) -> None:
    """Make all read models of a workspace again from its log. Raises CustodyError."""
    open_log_store(workspace).rebuild()
