"""Tables of the catalogue.

`leaf`, `disclosure`, `checkpoint` and `case_key` are the log and what belongs to it: written once, never changed.
`case_view`, `event_view`, `item_view` and `finding_view` are read models: `rebuild` makes the same rows again
from the log and the stored objects. `meta` holds the schema number and the workspace.
"""

from __future__ import annotations

from sqlalchemy import Boolean, ForeignKeyConstraint, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = 2
"""Raised by every change of these tables. 2: `case_key` has `certificates`."""


class Base(DeclarativeBase):
    """All tables of one catalogue."""


class Meta(Base):
    """`schema` and `workspace`."""

    __tablename__ = "meta"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[str] = mapped_column(String)


class Leaf(Base):
    """A leaf of a case's log. data: its bytes, frozen at append."""

    __tablename__ = "leaf"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[str] = mapped_column(String)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    __table_args__ = (Index("leaf_event", "case_id", "event_id", unique=True),)


class Disclosure(Base):
    """What a commitment of an event hides. field: actor.id, device.serial or note."""

    __tablename__ = "disclosure"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    event_id: Mapped[str] = mapped_column(String, primary_key=True)
    field: Mapped[str] = mapped_column(String, primary_key=True)
    salt: Mapped[str] = mapped_column(String)
    value: Mapped[str] = mapped_column(Text)


class Checkpoint(Base):
    """A signed head of a case's log."""

    __tablename__ = "checkpoint"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    tree_size: Mapped[int] = mapped_column(Integer, primary_key=True)
    note: Mapped[bytes] = mapped_column(LargeBinary)


class CaseKeyRow(Base):
    """A public key that signs in a case. certificates: JSON list of base64 DER, its own first."""

    __tablename__ = "case_key"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    key_id: Mapped[str] = mapped_column(String, primary_key=True)
    algorithm: Mapped[str] = mapped_column(String)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    label: Mapped[str] = mapped_column(String)
    certificates: Mapped[str] = mapped_column(Text, server_default="[]")


class CaseView(Base):
    """A case as lists show it. sheet: JSON of the newest case sheet's fields."""

    __tablename__ = "case_view"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    number: Mapped[str] = mapped_column(String, unique=True)
    demonstration: Mapped[bool] = mapped_column(Boolean)
    opened: Mapped[str] = mapped_column(String)
    sheet: Mapped[str] = mapped_column(Text)


class EventView(Base):
    """An event as lists show it. tool: name of the process, if any."""

    __tablename__ = "event_view"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[str] = mapped_column(String)
    type: Mapped[str] = mapped_column(String)
    time_claimed: Mapped[str] = mapped_column(String)
    role: Mapped[str] = mapped_column(String)
    key_id: Mapped[str] = mapped_column(String)
    tool: Mapped[str | None] = mapped_column(String)


class ItemView(Base):
    """An item. ordinal: its place among the outputs of its event, from 1."""

    __tablename__ = "item_view"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[str] = mapped_column(String)
    path: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String)
    sm3: Mapped[str] = mapped_column(String)
    size: Mapped[int] = mapped_column(Integer)
    role: Mapped[str] = mapped_column(String)
    media_type: Mapped[str] = mapped_column(String)
    acquired: Mapped[str | None] = mapped_column(String)
    acquired_from: Mapped[str | None] = mapped_column(String)
    __table_args__ = (
        ForeignKeyConstraint(["case_id", "position"], ["event_view.case_id", "event_view.position"]),
        Index("item_digest", "sha256"),
    )


class FindingView(Base):
    """A finding. result_event: the `derived` event; data: RFC 8785 JSON of the finding."""

    __tablename__ = "finding_view"
    case_id: Mapped[str] = mapped_column(String, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    result_event: Mapped[str] = mapped_column(String)
    finding_id: Mapped[str] = mapped_column(String)
    data: Mapped[str] = mapped_column(Text)


READ_MODELS = (FindingView, ItemView, EventView, CaseView)
"""In the order in which they can be emptied."""
