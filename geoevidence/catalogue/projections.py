"""Read models of one event: rows made from the leaf and the stored objects it names, and from nothing else.

The same event gives the same rows, so the read models can be thrown away and made again.
"""

from __future__ import annotations

from sqlalchemy import insert, update
from sqlalchemy.engine import Connection

from geoevidence.catalogue.models import CaseView, EventView, FindingView, ItemView
from geoevidence.custody.log import CustodyEvent
from geoevidence.custody.media import describe_outputs
from geoevidence.custody.sheet import read_sheet
from geoevidence.custody.store import ObjectStore
from geoevidence.errors import FormatError
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.types import require, utc_text


def project(connection: Connection, event: CustodyEvent, objects: ObjectStore) -> None:
    """Bring the read models up to date with one event, the next of its case.

    Raises: FormatError, DigestMismatchError for a stored record that is not what its event needs.
    """
    key = {"case_id": event.case, "position": event.index}
    connection.execute(
        insert(EventView).values(
            **key,
            event_id=event.event_id,
            type=event.type,
            time_claimed=utc_text(event.time_claimed),
            role=event.role,
            key_id=event.key_id,
            tool=None if event.process is None else event.process.tool,
        )
    )
    rows = [
        {
            **key,
            "ordinal": ordinal,
            "item_id": item.id,
            "path": item.path,
            "sha256": item.sha256,
            "sm3": item.sm3,
            "size": item.size,
            "role": item.role,
            "media_type": item.media_type,
            "acquired": None if item.acquired is None else utc_text(item.acquired),
            "acquired_from": item.acquired_from,
        }
        for ordinal, item in enumerate(describe_outputs(event, objects), start=1)
    ]
    if rows:
        connection.execute(insert(ItemView), rows)
    if event.type in ("commissioned", "corrected"):
        _project_sheet(connection, event, objects)
    if event.type == "found":
        _project_findings(connection, event, objects)


def _project_sheet(connection: Connection, event: CustodyEvent, objects: ObjectStore) -> None:
    sheet = read_sheet(objects.read_bytes(event.outputs[0].sha256))
    if sheet.case != event.case:
        raise FormatError("custody.sheet_other_case", expected=event.case, found=sheet.case)
    fields = dumps(dict(sheet.fields)).decode("utf-8")
    if event.type == "commissioned":
        connection.execute(
            insert(CaseView).values(
                case_id=event.case,
                number=sheet.number,
                demonstration=sheet.demonstration,
                opened=utc_text(event.time_claimed),
                sheet=fields,
            )
        )
    else:
        connection.execute(update(CaseView).where(CaseView.case_id == event.case).values(sheet=fields))


def _project_findings(connection: Connection, event: CustodyEvent, objects: ObjectStore) -> None:
    raw = loads_canonical(objects.read_bytes(event.outputs[0].sha256), where="findings.json")
    rows = [
        {
            "case_id": event.case,
            "position": event.index,
            "ordinal": ordinal,
            "result_event": event.inputs[0].item.rpartition("-")[0],
            "finding_id": require(finding, "id", str, "findings.json"),
            "data": dumps(finding).decode("utf-8"),
        }
        for ordinal, finding in enumerate(require(raw, "findings", list, "findings.json"), start=1)
    ]
    if rows:
        connection.execute(insert(FindingView), rows)
