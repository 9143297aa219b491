"""The case sheet: the words about a case that its report needs (docs/formats/event.md, case.json).

Fields are texts; an empty one is left out and shown as not filled in. The template `case-template.toml` names
them all; a case file is read strictly, so that a misspelt field is an error and not a gap.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache
from pathlib import Path
from typing import Any

from geoevidence.errors import ConfigError, FormatError
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.types import require

SCHEMA = "geoevidence.case.v1"
_TEMPLATE = Path(__file__).with_name("case-template.toml")
_MAX_TEXT = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSheet:
    """The content of `case.json`. fields: name -> text, none empty."""

    case: str
    workspace: str
    fields: Mapping[str, str]
    demonstration: bool

    @property
    def number(self) -> str:
        return self.fields["case_number"]

    def to_bytes(self) -> bytes:
        return dumps(
            {
                "schema": SCHEMA,
                "case": self.case,
                "workspace": self.workspace,
                "fields": dict(self.fields),
                "demonstration": self.demonstration,
            }
        )


def read_sheet(data: bytes) -> CaseSheet:
    """The sheet of the bytes of `case.json`. Raises FormatError."""
    where = "case.json"
    raw = loads_canonical(data, where=where)
    if require(raw, "schema", str, where) != SCHEMA:
        raise FormatError("core.unknown_schema", where=where, found=raw["schema"])
    fields = require(raw, "fields", dict, where)
    for name in fields:
        require(fields, name, str, where)
    require(fields, "case_number", str, where)
    return CaseSheet(
        case=require(raw, "case", str, where),
        workspace=require(raw, "workspace", str, where),
        fields=fields,
        demonstration=require(raw, "demonstration", bool, where),
    )


def case_template_text() -> str:
    """The commented template, to be filled in by hand."""
    return _TEMPLATE.read_text(encoding="utf-8")


@cache
def _field_names() -> tuple[str, ...]:
    return tuple(tomllib.loads(case_template_text()))


CASE_FIELDS = _field_names()
"""Names of all fields, in the order of the template."""


def checked_fields(number: str, fields: Mapping[str, Any]) -> dict[str, str]:
    """`fields` with the case number, empty ones left out.

    Raises: ConfigError for an unknown field, one that is not a text, or another case number.
    """
    checked: dict[str, str] = {}
    for name, value in {"case_number": number, **fields}.items():
        if name not in CASE_FIELDS:
            raise ConfigError("custody.sheet_unknown_field", field=name, known=", ".join(CASE_FIELDS))
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise ConfigError("custody.sheet_not_text", field=name, limit=_MAX_TEXT)
        if value.strip():
            checked[name] = value.strip()
    if checked.get("case_number", number.strip()) != number.strip() or not number.strip():
        raise ConfigError("custody.sheet_other_number", expected=number, found=checked.get("case_number", ""))
    checked["case_number"] = number.strip()
    try:
        dumps(checked)
    except FormatError as error:
        raise ConfigError("custody.sheet_bad_character") from error
    return dict(sorted(checked.items()))


def read_case_toml(path: Path) -> dict[str, str]:
    """The fields of a filled-in template; TOML dates become their text.

    Raises: ConfigError naming the field that is unknown or of the wrong type; FormatError for a file that is not TOML.
    """
    try:
        raw = tomllib.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise FormatError("core.cannot_read", path=path, reason=error.strerror or str(error)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError("custody.sheet_not_toml", path=path, reason=str(error)) from error
    fields: dict[str, str] = {}
    for name, value in raw.items():
        if name not in CASE_FIELDS:
            raise ConfigError("custody.sheet_unknown_field", field=name, known=", ".join(CASE_FIELDS))
        if isinstance(value, (date, datetime, time)):
            value = value.isoformat()
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise ConfigError("custody.sheet_not_text", field=name, limit=_MAX_TEXT)
        if value.strip():
            fields[name] = value.strip()
    return fields
