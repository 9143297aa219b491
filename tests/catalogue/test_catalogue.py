"""The catalogue: read models are what the log makes them, and a database that is not ours is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from geoevidence.catalogue import open_log_store, rebuild
from geoevidence.errors import CustodyError, DigestMismatchError, LogInconsistentError
from tests.custody.workspaces import CARD, Place, full_case


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def edit(place: Place, *statements: str) -> None:
    with sqlite3.connect(place.workspace.path / "catalogue.sqlite") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_read_models_can_be_made_again(place: Place) -> None:
    full_case(place)
    place.workspace.new_case("2").ingest(place.card(CARD))
    before = place.log_store.read_models()
    assert {name: len(rows) for name, rows in before.items()} == {
        "case_view": 2, "event_view": 8, "finding_view": 2, "item_view": 13,
    }  # fmt: skip
    edit(
        place,
        "delete from finding_view",
        "update case_view set number = number || 'x', sheet = '{}'",
        "update item_view set media_type = 'nonsense', sha256 = 'x'",
        "update event_view set type = 'x'",
    )
    assert place.log_store.read_models() != before
    rebuild(place.workspace.path)
    assert place.log_store.read_models() == before
    edit(place, "delete from finding_view", "delete from item_view", "delete from event_view", "delete from case_view")
    rebuild(place.workspace.path)
    assert place.log_store.read_models() == before
    case = place.reopened().case("川检 2026-1")
    assert len(case.findings()) == 2 and case.sheet["place"] == "某县某河段"


def test_a_rebuild_that_fails_changes_nothing(place: Place) -> None:
    case = full_case(place)
    before = place.log_store.read_models()
    path = case.path_of(case.items(role="record")[0])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DigestMismatchError):
        rebuild(place.workspace.path)
    assert place.log_store.read_models() == before


def test_the_log_is_durable_and_ordered(place: Place) -> None:
    full_case(place)
    with sqlite3.connect(place.workspace.path / "catalogue.sqlite") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        rows = connection.execute("select position, event_id from leaf order by position").fetchall()
        assert [position for position, _ in rows] == list(range(6))
        assert connection.execute("select value from meta where name = 'schema'").fetchone() == ("2",)
        # FULL is a setting of a connection: ask one of the store's own
        with place.log_store._engine.connect() as own:
            assert own.exec_driver_sql("pragma synchronous").scalar() == 2
    connection.close()


def test_a_catalogue_of_schema_1_is_brought_up_to_date(place: Place) -> None:
    """Version 0.1 had no column for certificates; what is logged stays as it is."""
    case = full_case(place)
    keys, items = case.public_keys(), case.items()
    edit(place, "alter table case_key drop column certificates", "update meta set value = '1' where name = 'schema'")
    again = place.reopened().case(case.id)
    assert again.public_keys() == keys and again.items() == items
    assert again.set_sheet({"cause": "x"}) is not None
    place.reopened()  # once is enough
    edit(place, "update case_key set certificates = '[1]'")
    with pytest.raises(LogInconsistentError) as raised:
        again.public_keys()
    assert raised.value.message_id == "custody.catalogue_key"


def test_another_schema_is_refused(place: Place) -> None:
    edit(place, "update meta set value = '99' where name = 'schema'")
    with pytest.raises(CustodyError) as raised:
        place.reopened()
    assert raised.value.message_id == "custody.catalogue_version" and raised.value.values["found"] == "99"
    edit(place, "delete from meta")
    with pytest.raises(CustodyError):
        place.reopened()
    edit(place, "drop table meta")
    with pytest.raises(CustodyError) as raised:
        place.reopened()
    assert raised.value.message_id == "custody.catalogue_failed"


def test_looking_makes_no_database(tmp_path: Path) -> None:
    store = open_log_store(tmp_path)
    for attempt in (lambda: store.check("W-0000000000"), lambda: store.rebuild(), lambda: store.reading().__enter__()):
        with pytest.raises(CustodyError) as raised:
            attempt()
        assert raised.value.message_id == "custody.catalogue_missing"
    assert list(tmp_path.iterdir()) == []


def test_an_exception_inside_a_transaction_leaves_nothing(place: Place) -> None:
    case = place.workspace.new_case("1")
    before = place.log_store.read_models()
    with pytest.raises(ZeroDivisionError), case._log.writing() as appender:
        appender.append("viewed")
        raise ZeroDivisionError
    assert place.log_store.read_models() == before and len(case.events()) == 1
    case.set_sheet({"cause": "x"})
    assert len(case.events()) == 2
