"""The catalogue of one workspace in SQLite: the log store that custody asks for.

Write-ahead log with synchronous=FULL: what is committed survives a crash. A writer takes the database's
write lock at its start (BEGIN IMMEDIATE), so two processes never append from the same view. Opens its file
at first use; making one that should be there is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, delete, event, func, insert, select, update
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from geoevidence.catalogue.models import (
    READ_MODELS,
    SCHEMA,
    Base,
    CaseKeyRow,
    CaseView,
    Checkpoint,
    Disclosure,
    EventView,
    FindingView,
    ItemView,
    Leaf,
    Meta,
)
from geoevidence.catalogue.projections import project
from geoevidence.custody.log import CaseKey, CaseSummary, CustodyEvent, read_event
from geoevidence.custody.store import ObjectStore
from geoevidence.errors import CustodyError, FormatError, LogInconsistentError
from geoevidence.trust.canonical import base64_text, base64_value, dumps, loads
from geoevidence.trust.signatures import PublicKey
from geoevidence.types import EvidenceItem, utc_value

FILE = "catalogue.sqlite"
_WAIT_SECONDS = 60
"""How long a writer waits for another."""


def open_log_store(workspace: Path) -> SqliteLogStore:
    """The catalogue of the workspace at this path, which need not exist yet."""
    return SqliteLogStore(Path(workspace))


class SqliteLogStore:
    """Implements `geoevidence.custody.log.LogStore` for a workspace folder."""

    def __init__(self, workspace: Path) -> None:
        self._path = workspace / FILE
        self._objects = ObjectStore(workspace / "objects", workspace / "tmp")
        self._engine = _engine(self._path)

    def create(self, workspace_id: str) -> None:
        with _clear_errors(self._path), self._engine.begin() as connection:
            Base.metadata.create_all(connection)
            rows = [{"name": "schema", "value": str(SCHEMA)}, {"name": "workspace", "value": workspace_id}]
            connection.execute(insert(Meta), rows)

    def check(self, workspace_id: str) -> None:
        if not self._path.is_file():
            raise CustodyError("custody.catalogue_missing", path=self._path)
        with self._connected(immediate=False) as connection:
            meta = {row.name: row.value for row in connection.execute(select(Meta.name, Meta.value))}
        if meta.get("workspace") != workspace_id:
            raise CustodyError(
                "custody.catalogue_other", path=self._path, found=meta.get("workspace", "-"), expected=workspace_id
            )
        if meta.get("schema") == "1":
            self._add_certificates()
        elif meta.get("schema") != str(SCHEMA):
            raise CustodyError("custody.catalogue_version", path=self._path, found=meta.get("schema", "-"), expected=SCHEMA)

    def _add_certificates(self) -> None:
        """From schema 1 to 2, in one transaction."""
        with self._connected(immediate=True) as connection:
            # another process may have done it since we looked
            if connection.scalar(select(Meta.value).where(Meta.name == "schema")) == "1":
                connection.exec_driver_sql("ALTER TABLE case_key ADD COLUMN certificates TEXT NOT NULL DEFAULT '[]'")
                connection.execute(update(Meta).where(Meta.name == "schema").values(value=str(SCHEMA)))

    def close(self) -> None:
        """Give back the file. The store opens it again when asked."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[SqliteLog]:
        with self._connected(immediate=False) as connection:
            yield SqliteLog(connection, self._objects)

    @contextmanager
    def writing(self) -> Iterator[SqliteLog]:
        with self._connected(immediate=True) as connection:
            yield SqliteLog(connection, self._objects)

    @contextmanager
    def _connected(self, *, immediate: bool) -> Iterator[Connection]:
        # no file: SQLite would make an empty one, and a lost log would look like a new one
        if not self._path.is_file():
            raise CustodyError("custody.catalogue_missing", path=self._path)
        options = {"geoevidence_immediate": immediate}
        with (
            _clear_errors(self._path),
            self._engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    def rebuild(self) -> None:
        """Make all read models again from the leaves, in one transaction.

        Raises: CustodyError, FormatError when a leaf or a stored record cannot be read; nothing changes then.
        """
        with self._connected(immediate=True) as connection:
            for model in READ_MODELS:
                connection.execute(delete(model))
            log = SqliteLog(connection, self._objects)
            for case_id in connection.scalars(select(Leaf.case_id).distinct().order_by(Leaf.case_id)).all():
                disclosures = log.disclosures(case_id)
                rows = connection.execute(
                    select(Leaf.position, Leaf.event_id, Leaf.data).where(Leaf.case_id == case_id).order_by(Leaf.position)
                )
                for row in rows.all():
                    project(connection, read_event(row.position, row.data, disclosures.get(row.event_id, {})), self._objects)

    def read_models(self) -> Mapping[str, tuple[tuple[Any, ...], ...]]:
        """Every row of every read model, by table, in the order of keys: for comparing."""
        with self._connected(immediate=False) as connection:
            return {
                model.__tablename__: tuple(
                    tuple(row) for row in connection.execute(select(model.__table__).order_by(*model.__mapper__.primary_key))
                )
                for model in READ_MODELS
            }


class SqliteLog:
    """One transaction: a `LogWriter`, or a `LogReader` where the transaction only reads."""

    def __init__(self, connection: Connection, objects: ObjectStore) -> None:
        self._connection = connection
        self._objects = objects

    def cases(self) -> tuple[CaseSummary, ...]:
        def count(model: Any) -> Any:
            return select(func.count()).where(model.case_id == CaseView.case_id).scalar_subquery()

        query = select(
            CaseView.__table__,
            count(EventView).label("events"),
            count(ItemView).label("items"),
            count(FindingView).label("findings"),
        ).order_by(CaseView.number)
        return tuple(
            CaseSummary(
                id=row.case_id,
                number=row.number,
                demonstration=row.demonstration,
                opened=utc_value(row.opened, "case_view"),
                sheet=loads(row.sheet.encode("utf-8"), where="case_view"),
                events=row.events,
                items=row.items,
                findings=row.findings,
            )
            for row in self._connection.execute(query)
        )

    def leaves(self, case_id: str, start: int) -> tuple[bytes, ...]:
        query = select(Leaf.position, Leaf.data).where(Leaf.case_id == case_id, Leaf.position >= start).order_by(Leaf.position)
        rows = self._connection.execute(query).all()
        if [row.position for row in rows] != list(range(start, start + len(rows))):
            raise LogInconsistentError("custody.leaf_missing", case=case_id)
        for row in rows:
            # SQLite keeps whatever type an editor puts in
            if not isinstance(row.data, bytes):
                raise LogInconsistentError("custody.leaf_unreadable", index=row.position, reason=type(row.data).__name__)
        return tuple(row.data for row in rows)

    def disclosures(self, case_id: str, start: int = 0) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
        found: dict[str, dict[str, dict[str, str]]] = {}
        query = select(Disclosure.__table__).where(Disclosure.case_id == case_id)
        if start:
            later = select(Leaf.event_id).where(Leaf.case_id == case_id, Leaf.position >= start)
            query = query.where(Disclosure.event_id.in_(later))
        for row in self._connection.execute(query):
            found.setdefault(row.event_id, {})[row.field] = {"salt": row.salt, "value": row.value}
        return found

    def checkpoint(self, case_id: str, at_least: int) -> bytes | None:
        query = select(Checkpoint.note).where(Checkpoint.case_id == case_id, Checkpoint.tree_size >= at_least)
        return self._connection.scalars(query.order_by(Checkpoint.tree_size).limit(1)).first()

    def newest_checkpoint(self, case_id: str) -> bytes | None:
        query = select(Checkpoint.note).where(Checkpoint.case_id == case_id).order_by(Checkpoint.tree_size.desc()).limit(1)
        return self._connection.scalars(query).first()

    def keys(self, case_id: str) -> tuple[CaseKey, ...]:
        query = select(CaseKeyRow.__table__).where(CaseKeyRow.case_id == case_id).order_by(CaseKeyRow.key_id)
        keys = []
        for row in self._connection.execute(query):
            try:
                key = PublicKey(row.algorithm, row.public_key)
                if key.key_id != row.key_id:
                    raise LogInconsistentError("custody.catalogue_key", case=case_id, key_id=row.key_id)
                certificates = tuple(
                    base64_value(each, where="case_key") for each in loads(row.certificates.encode("utf-8"), where="case_key")
                )
            except (FormatError, TypeError, AttributeError) as error:
                raise LogInconsistentError("custody.catalogue_key", case=case_id, key_id=row.key_id) from error
            keys.append(CaseKey(public_key=key, label=row.label, certificates=certificates))
        return tuple(keys)

    def items(self, case_id: str) -> tuple[EvidenceItem, ...]:
        query = select(ItemView.__table__).where(ItemView.case_id == case_id).order_by(ItemView.position, ItemView.ordinal)
        return tuple(
            EvidenceItem(
                id=row.item_id,
                path=row.path,
                sha256=row.sha256,
                sm3=row.sm3,
                size=row.size,
                role=row.role,
                media_type=row.media_type,
                acquired=None if row.acquired is None else utc_value(row.acquired, "item_view"),
                acquired_from=row.acquired_from,
            )
            for row in self._connection.execute(query)
        )

    def append(self, event: CustodyEvent) -> None:
        values = {"case_id": event.case, "position": event.index, "event_id": event.event_id, "data": event.leaf}
        self._connection.execute(insert(Leaf).values(**values))
        rows = [
            {"case_id": event.case, "event_id": event.event_id, "field": name, **disclosure}
            for name, disclosure in sorted(event.disclosures.items())
        ]
        if rows:
            self._connection.execute(insert(Disclosure), rows)
        project(self._connection, event, self._objects)

    def add_checkpoint(self, case_id: str, tree_size: int, checkpoint: bytes) -> None:
        self._connection.execute(insert(Checkpoint).values(case_id=case_id, tree_size=tree_size, note=checkpoint))

    def add_key(self, case_id: str, key: CaseKey) -> None:
        public = key.public_key
        self._connection.execute(
            insert(CaseKeyRow).values(
                case_id=case_id,
                key_id=public.key_id,
                algorithm=public.algorithm,
                public_key=public.raw,
                label=key.label,
                certificates=dumps([base64_text(each) for each in key.certificates]).decode("ascii"),
            )
        )


def _engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def _configure(raw: sqlite3.Connection, record: Any) -> None:
        # sqlite3 would start transactions by itself, later than asked: ours are begun below
        raw.isolation_level = None
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("geoevidence_immediate", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise CustodyError("custody.catalogue_failed", path=path, reason=str(cause)) from error
    except sqlite3.Error as error:
        raise CustodyError("custody.catalogue_failed", path=path, reason=str(error)) from error
