"""Currency types of the core: what passes between the parts.

All are frozen, keyword-only and validated; times are aware and in UTC. `to_dict` gives
I-JSON without floats (decimals are strings, so that RFC 8785 bytes do not depend on a
float printer); `from_dict` refuses wrong types with `FormatError`.
Standard library and the kernel's JSON only; the one file touched is the `result.json` of a `ProcessResult`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from geoevidence.errors import FormatError
from geoevidence.messages import render
from geoevidence.trust import canonical

_Config = TypeVar("_Config")
Lang = Literal["zh", "en"]
Role = Literal["original", "derived", "record"]
AcquiredFrom = Literal["exif", "stac", "file", "declared"]
Progress = Callable[[str, float], None]
"""Called with a message id of the stage and the fraction done, 0 to 1."""

_UNITS = {"m2": "m²", "m3": "m³", "m": "m", "cm": "cm", "[px]": "px", "deg": "°", "d": "d", "1": "", "ha": "ha"}


def no_progress(stage: str, fraction: float) -> None:
    """The `Progress` that shows nothing."""


def require(mapping: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`mapping[key]`, checked: present and of type `kind` (a bool is not an int).

    Raises:
        FormatError: the key is missing or of another type.
    """
    if not isinstance(mapping, Mapping) or key not in mapping:
        raise FormatError("core.field_missing", field=key, where=where)
    value = mapping[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise FormatError(
            "core.field_type",
            field=key,
            where=where,
            expected="/".join(k.__name__ for k in kinds),
            found=type(value).__name__,
        )
    return value


def decimal_text(value: float) -> str:
    """The shortest decimal text that reads back as the same float64."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no decimal text")
    return repr(float(value))


def decimal_value(text: Any, where: str) -> float:
    """The finite float64 of a decimal text. Raises FormatError."""
    if not isinstance(text, str) or not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text):
        raise FormatError("core.not_a_decimal", where=where, found=repr(text))
    value = float(text)
    if not math.isfinite(value):
        raise FormatError("core.not_a_decimal", where=where, found=repr(text))
    return value


def config_from_parameters(kind: type[_Config], parameters: Mapping[str, Any], *, where: str = "parameters") -> _Config:
    """The configuration dataclass whose recorded parameters these are: decimals are texts, nested dataclasses tables.

    A field that is not recorded keeps its default. Raises FormatError for a name or type that the dataclass does not have.
    """
    hints = get_type_hints(kind)
    known = {each.name for each in fields(kind) if each.init}  # type: ignore[arg-type]
    values = {}
    for name, raw in parameters.items():
        if name not in known:
            raise FormatError("core.unknown_parameter", where=where, name=name)
        values[name] = _typed(hints[name], raw, f"{where}.{name}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise FormatError("core.bad_parameter", where=where, reason=str(error)) from error


def _typed(hint: Any, raw: Any, where: str) -> Any:
    """`raw` as a value of the type `hint`. Raises FormatError."""
    origin, parts = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(raw, Mapping):
        return config_from_parameters(cast(type, hint), raw, where=where)
    if origin is Literal and raw in parts:
        return raw
    if origin in (UnionType, Union):
        if raw is None and type(None) in parts:
            return None
        # one type besides None is all that configurations use
        return _typed(next(part for part in parts if part is not type(None)), raw, where)
    if origin is tuple and isinstance(raw, list):
        each = [parts[0]] * len(raw) if parts[1:] == (...,) else list(parts)
        if len(each) == len(raw):
            return tuple(_typed(part, value, f"{where}[{n}]") for n, (part, value) in enumerate(zip(each, raw, strict=True)))
    if hint is float:
        return decimal_value(raw, where)
    if hint in (int, str, bool) and type(raw) is hint:
        return raw
    raise FormatError("core.field_type", field=where, where="parameters", expected=str(hint), found=type(raw).__name__)


def utc_text(moment: datetime) -> str:
    """RFC 3339 text in UTC to the second, such as 2026-11-23T08:00:00Z."""
    if moment.tzinfo is None:
        raise ValueError("a time must be aware")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_value(text: Any, where: str) -> datetime:
    """The aware UTC time of such a text. Raises FormatError."""
    if isinstance(text, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text):
        try:
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            pass
    raise FormatError("core.not_a_time", where=where, found=repr(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A measured value with its error (GUM: JCGM 100:2008, clause 7.2).

    value: the estimate.
    unit: UCUM code, such as m2.
    standard_uncertainty: one standard deviation in `unit`, or None where the data give none.
    coverage_factor: k of the expanded uncertainty that is shown (2: about 95 % for a normal error).
    propagation: message id that says how the error was propagated.
    """

    value: float
    unit: str
    standard_uncertainty: float | None
    coverage_factor: float = 2.0
    propagation: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError("a quantity has a finite value")
        u = self.standard_uncertainty
        if u is not None and not (math.isfinite(u) and u >= 0):
            raise ValueError("a standard uncertainty is finite and not negative")
        if not self.coverage_factor > 0:
            raise ValueError("a coverage factor is positive")

    def format(self, lang: Lang = "zh") -> str:
        """Value ± expanded uncertainty with the unit; two significant digits of uncertainty."""
        unit = _UNITS.get(self.unit, self.unit)
        space = " " if unit and unit != "°" else ""
        if self.standard_uncertainty is None:
            text = render("core.uncertainty_not_available", {}, lang)
            return f"{self.value:.6g}{space}{unit}（{text}）" if lang == "zh" else f"{self.value:.6g}{space}{unit} ({text})"
        expanded = self.standard_uncertainty * self.coverage_factor
        if expanded == 0:
            return f"{self.value:.6g} ± 0{space}{unit} (k={self.coverage_factor:g})"
        digits = 1 - math.floor(math.log10(expanded))
        step = Decimal(1).scaleb(-digits)
        shown = Decimal(repr(self.value)).quantize(step, ROUND_HALF_EVEN)
        error = Decimal(repr(expanded)).quantize(step, ROUND_HALF_EVEN)
        return f"{shown:f} ± {error:f}{space}{unit} (k={self.coverage_factor:g})"

    def to_dict(self) -> dict[str, Any]:
        u = self.standard_uncertainty
        return {
            "value": decimal_text(self.value),
            "unit": self.unit,
            "standard_uncertainty": None if u is None else decimal_text(u),
            "coverage_factor": decimal_text(self.coverage_factor),
            "propagation": self.propagation,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Quantity:
        where = "quantity"
        u = require(raw, "standard_uncertainty", (str, type(None)), where)
        try:
            return cls(
                value=decimal_value(require(raw, "value", str, where), "quantity.value"),
                unit=require(raw, "unit", str, where),
                standard_uncertainty=None if u is None else decimal_value(u, "quantity.standard_uncertainty"),
                coverage_factor=decimal_value(require(raw, "coverage_factor", str, where), "quantity.coverage_factor"),
                propagation=require(raw, "propagation", str, where),
            )
        except ValueError as error:
            raise FormatError("core.bad_quantity", found=str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A statement as a message id with typed values, rendered in Chinese or English.

    values: name -> str | int | date | Quantity | Message.
    """

    id: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if isinstance(value, (bool, datetime)) or not isinstance(value, (str, int, date, Quantity, Message)):
                raise TypeError(f"message value {name} is {type(value).__name__}")
        object.__setattr__(self, "values", dict(sorted(self.values.items())))

    def render(self, lang: Lang = "zh") -> str:
        shown = {
            name: value.format(lang)
            if isinstance(value, Quantity)
            else value.render(lang)
            if isinstance(value, Message)
            else value.isoformat()
            if isinstance(value, date)
            else value
            for name, value in self.values.items()
        }
        return render(self.id, shown, lang)

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in self.values.items():
            if isinstance(value, Quantity):
                values[name] = {"type": "quantity", "value": value.to_dict()}
            elif isinstance(value, Message):
                values[name] = {"type": "message", "value": value.to_dict()}
            elif isinstance(value, date):
                values[name] = {"type": "date", "value": value.isoformat()}
            else:
                values[name] = {"type": "integer" if isinstance(value, int) else "text", "value": value}
        return {"id": self.id, "values": values}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Message:
        values: dict[str, Any] = {}
        for name, entry in require(raw, "values", Mapping, "message").items():
            kind = require(entry, "type", str, f"message.{name}")
            if kind == "quantity":
                values[name] = Quantity.from_dict(require(entry, "value", Mapping, f"message.{name}"))
            elif kind == "message":
                values[name] = Message.from_dict(require(entry, "value", Mapping, f"message.{name}"))
            elif kind == "date":
                values[name] = _date_value(require(entry, "value", str, f"message.{name}"))
            elif kind == "integer":
                values[name] = require(entry, "value", int, f"message.{name}")
            elif kind == "text":
                values[name] = require(entry, "value", str, f"message.{name}")
            else:
                raise FormatError(
                    "core.field_type", field=name, where="message", expected="quantity/message/date/integer/text", found=kind
                )
        return cls(id=require(raw, "id", str, "message"), values=values)


def _date_value(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise FormatError("core.not_a_time", where="date", found=repr(text)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statement of fact with its error, its limits and the way back to the sources.

    id: unique within a result, such as S-001.
    message: what is stated, in one sentence; never a legal conclusion.
    facts: further measured facts that support it.
    quantity: the headline number, or None.
    geometry: GeoJSON geometry in `crs`, or None.
    crs: WKT2 or EPSG code text of `geometry`, or None.
    period: (start, end) of the evidence interval, dates in UTC, or None.
    method: message that names the method and its references.
    sources: `sha256:<hex>` of each file the statement rests on, sorted.
    limitations: what the statement cannot prove.
    products: paths of derived files that show it, relative to the result's folder.
    synthetic: made from demonstration data; every page, screen and picture says so.
    """

    id: str
    message: Message
    quantity: Quantity | None = None
    geometry: Mapping[str, Any] | None = None
    crs: str | None = None
    period: tuple[date, date] | None = None
    method: Message
    sources: tuple[str, ...] = ()
    facts: tuple[Message, ...] = ()
    limitations: tuple[Message, ...] = ()
    products: tuple[str, ...] = ()
    synthetic: bool = False

    def __post_init__(self) -> None:
        if (self.geometry is None) != (self.crs is None):
            raise ValueError("a geometry comes with its crs")
        if self.period is not None and self.period[0] > self.period[1]:
            raise ValueError("a period starts before it ends")
        if not self.limitations:
            raise ValueError("a finding names its limits")
        object.__setattr__(self, "sources", tuple(sorted(set(self.sources))))

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "message": self.message.to_dict(),
            "facts": [fact.to_dict() for fact in self.facts],
            "quantity": None if self.quantity is None else self.quantity.to_dict(),
            "geometry": None if self.geometry is None else _floats_to_text(self.geometry),
            "crs": self.crs,
            "period": None if self.period is None else [day.isoformat() for day in self.period],
            "method": self.method.to_dict(),
            "sources": list(self.sources),
            "limitations": [limit.to_dict() for limit in self.limitations],
            "products": list(self.products),
            "synthetic": self.synthetic,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Finding:
        where = "finding"
        quantity = require(raw, "quantity", (Mapping, type(None)), where)
        geometry = require(raw, "geometry", (Mapping, type(None)), where)
        period = require(raw, "period", (list, type(None)), where)
        if period is not None and (len(period) != 2 or not all(isinstance(day, str) for day in period)):
            raise FormatError("core.field_type", field="period", where=where, expected="[date, date]", found=repr(period))
        try:
            return cls(
                id=require(raw, "id", str, where),
                message=Message.from_dict(require(raw, "message", Mapping, where)),
                facts=tuple(Message.from_dict(fact) for fact in require(raw, "facts", list, where)),
                quantity=None if quantity is None else Quantity.from_dict(quantity),
                geometry=None if geometry is None else _text_to_floats(geometry),
                crs=require(raw, "crs", (str, type(None)), where),
                period=None if period is None else (_date_value(period[0]), _date_value(period[1])),
                method=Message.from_dict(require(raw, "method", Mapping, where)),
                sources=_texts(require(raw, "sources", list, where), "finding.sources"),
                limitations=tuple(Message.from_dict(limit) for limit in require(raw, "limitations", list, where)),
                products=_texts(require(raw, "products", list, where), "finding.products"),
                synthetic=require(raw, "synthetic", bool, where),
            )
        except ValueError as error:
            raise FormatError("core.bad_finding", found=str(error)) from error


def _texts(values: list[Any], where: str) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise FormatError("core.field_type", field=where, where=where, expected="str", found="other")
    return tuple(values)


def _floats_to_text(value: Any) -> Any:
    if isinstance(value, float):
        return decimal_text(value)
    if isinstance(value, Mapping):
        return {str(key): _floats_to_text(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_floats_to_text(part) for part in value]
    return value


def _text_to_floats(geometry: Mapping[str, Any]) -> dict[str, Any]:
    def numbers(value: Any) -> Any:
        if isinstance(value, list):
            return [numbers(part) for part in value]
        return float(value) if isinstance(value, int) else decimal_value(value, "geometry")

    result = dict(geometry)
    if "coordinates" in result:
        result["coordinates"] = numbers(result["coordinates"])
    if "geometries" in result:
        result["geometries"] = [_text_to_floats(part) for part in result["geometries"]]
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One file that a process wrote.

    path: POSIX path relative to the result's folder.
    kind: what it is, from the table in docs/formats/result.md (orthomosaic, dsm, events, chip_before ...).
    media_type: IANA media type.
    title: what a person is told it is.
    """

    path: str
    kind: str
    media_type: str
    title: Message

    def __post_init__(self) -> None:
        pure = PurePosixPath(self.path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in self.path or not self.path:
            raise ValueError(f"a product lies inside its folder, not at {self.path!r}")

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "kind": self.kind, "media_type": self.media_type, "title": self.title.to_dict()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Product:
        try:
            return cls(
                path=require(raw, "path", str, "product"),
                kind=require(raw, "kind", str, "product"),
                media_type=require(raw, "media_type", str, "product"),
                title=Message.from_dict(require(raw, "title", Mapping, "product")),
            )
        except ValueError as error:
            raise FormatError("core.bad_product", found=str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessResult:
    """What a workflow function leaves: files in a folder, findings, gaps, and how it was run.

    process: name in the table of processes, such as drone.survey.
    parameters: the whole configuration, defaults included; I-JSON without floats.
    seed: the seed of every random choice, or None.
    products: sorted by path; every file in the folder, `result.json` itself excepted.
    findings: in order of id.
    gaps: what is missing and why (photos left out, scenes that failed to read ...).
    synthetic: True when any input is demonstration data.
    """

    FILE: ClassVar[str] = "result.json"

    process: str
    parameters: Mapping[str, Any]
    seed: int | None
    products: tuple[Product, ...]
    findings: tuple[Finding, ...]
    gaps: tuple[Message, ...] = ()
    synthetic: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "geoevidence.result.v1",
            "process": self.process,
            "parameters": dict(self.parameters),
            "seed": self.seed,
            "products": [product.to_dict() for product in self.products],
            "findings": [finding.to_dict() for finding in self.findings],
            "gaps": [gap.to_dict() for gap in self.gaps],
            "synthetic": self.synthetic,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ProcessResult:
        where = "result"
        if require(raw, "schema", str, where) != "geoevidence.result.v1":
            raise FormatError("core.unknown_schema", where=where, found=str(raw["schema"]))
        return cls(
            process=require(raw, "process", str, where),
            parameters=require(raw, "parameters", Mapping, where),
            seed=require(raw, "seed", (int, type(None)), where),
            products=tuple(Product.from_dict(part) for part in require(raw, "products", list, where)),
            findings=tuple(Finding.from_dict(part) for part in require(raw, "findings", list, where)),
            gaps=tuple(Message.from_dict(part) for part in require(raw, "gaps", list, where)),
            synthetic=require(raw, "synthetic", bool, where),
        )

    def write(self, folder: Path) -> None:
        """Write `result.json` into `folder`, last and atomically.

        Raises:
            ValueError: the products listed are not exactly the other files of the folder, sorted by path.
        """
        there = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != self.FILE)
        listed = [product.path for product in self.products]
        if listed != there:
            raise ValueError(
                f"products {sorted(set(listed) ^ set(there))} are listed and missing, or there and not listed, or unsorted"
            )
        part = folder / ".result.part"
        part.write_bytes(canonical.dumps(self.to_dict()))
        os.replace(part, folder / self.FILE)

    @classmethod
    def read(cls, folder: Path) -> ProcessResult:
        """The result of `folder`. Raises FormatError when its `result.json` is missing or not valid."""
        try:
            raw = (folder / cls.FILE).read_bytes()
        except OSError as error:
            raise FormatError("core.cannot_read", path=cls.FILE, reason=error.strerror or str(error)) from error
        return cls.from_dict(canonical.loads_canonical(raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceItem:
    """One file at one event and path; two identical files are two items and one object in the store.

    id: event and position, such as E-1f3a9c02-4-7 (see docs/formats/event.md).
    path: POSIX path under the case, NFC.
    sha256, sm3: lower-case hex of the bytes.
    size: bytes.
    role: original (came from outside), derived (made by a process), record (case sheet, findings, report).
    media_type: IANA media type by content, application/octet-stream when unknown.
    acquired: claimed time of acquisition in UTC, or None.
    acquired_from: where that claim comes from, or None.
    """

    id: str
    path: str
    sha256: str
    sm3: str
    size: int
    role: Role
    media_type: str
    acquired: datetime | None = None
    acquired_from: AcquiredFrom | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts. id: name or account; role: field_team, prosecutor, centre, appraiser or system; auth_level: local, password or oidc."""

    id: str
    role: str
    auth_level: str = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """How something was computed; goes whole into the custody event (docs/formats/event.md)."""

    tool: str
    version: str
    code_digest: str
    environment_digest: str
    parameters: Mapping[str, Any]
    seed: int | None
