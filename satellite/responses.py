"""What interpreters answered about the points of a sample, and how far two of them agree.

In: files saved by the response form (JSON) or plain tables (CSV). Out: one `Responses` an interpreter, an `Agreement`, and
the answers that count. Two who differ are settled by a third look or not at all: an unsettled point is unsure, never dropped.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

from geoevidence.errors import FormatError
from geoevidence.trust import canonical
from geoevidence.types import Quantity, decimal_text, require
from satellite.sampling import Sample, read_bounded

Change = Literal["yes", "no", "unsure"]
LandClass = Literal["unknown", "water", "turbid", "vegetation", "crop", "bare", "built", "other"]
Confidence = Literal["", "high", "medium", "low"]
CHANGES, CLASSES, CONFIDENCES = get_args(Change), get_args(LandClass), get_args(Confidence)
MAX_NOTE = 2000
_SCHEMA = "geoevidence.responses.v1"
COLUMNS = ("point", "change", "last_before", "first_after", "from_class", "to_class", "confidence", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one interpreter says about one point.

    change: whether the ground of that pixel changed lastingly. last_before, first_after: dates of the last view of the old
    state and the first of the new one, None = not said. from_class, to_class: what it was and became. confidence, note: theirs.
    """

    point: str
    change: Change
    last_before: date | None = None
    first_after: date | None = None
    from_class: LandClass = "unknown"
    to_class: LandClass = "unknown"
    confidence: Confidence = ""
    note: str = ""

    @property
    def dated(self) -> tuple[date, date] | None:
        """The interval of the change, None where it is not stated with both ends."""
        if self.last_before is None or self.first_after is None:
            return None
        return self.last_before, self.first_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """interpreter: name as given. sample: digest of the sample, "" where a table does not say. answers: by point."""

    interpreter: str
    sample: str
    answers: Mapping[str, Answer]

    def to_bytes(self) -> bytes:
        """Canonical bytes of the JSON form."""
        return canonical.dumps(
            {
                "schema": _SCHEMA,
                "sample": self.sample,
                "interpreter": self.interpreter,
                "answers": [
                    {
                        "point": a.point,
                        "change": a.change,
                        "last_before": "" if a.last_before is None else a.last_before.isoformat(),
                        "first_after": "" if a.first_after is None else a.first_after.isoformat(),
                        "from_class": a.from_class,
                        "to_class": a.to_class,
                        "confidence": a.confidence,
                        "note": a.note,
                    }
                    for _, a in sorted(self.answers.items())
                ],
            }
        )


def read_responses(path: Path, sample: Sample) -> Responses:
    """The answers in a JSON file of the form or in a CSV table with the columns `COLUMNS` (only `point` and `change` needed).

    Raises FormatError: not such a file, another sample, an unknown point or value, a date the wrong way round.
    """
    path = Path(path)
    data = read_bounded(path)
    if path.suffix.lower() == ".csv":
        interpreter, digest, rows = path.stem, "", _table(data, path.name)
    else:
        raw = canonical.loads(data, where=path.name)
        if require(raw, "schema", str, path.name) != _SCHEMA:
            raise FormatError("core.unknown_schema", where=path.name, found=str(raw["schema"])[:80])
        interpreter, digest = require(raw, "interpreter", str, path.name).strip(), require(raw, "sample", str, path.name)
        rows = require(raw, "answers", list, path.name)
    if digest and digest != sample.digest:
        raise FormatError("satellite.answers_other_sample", path=path.name, expected=sample.digest, found=digest[:80])
    known = {point.id for point in sample.points}
    answers: dict[str, Answer] = {}
    for row in rows:
        answer = _answer(row, path.name)
        if answer.point not in known:
            raise FormatError("satellite.answers_unknown_point", path=path.name, point=answer.point[:40])
        if answer.point in answers:
            raise FormatError("satellite.answers_twice", path=path.name, point=answer.point)
        answers[answer.point] = answer
    return Responses(interpreter=interpreter or path.stem, sample=digest, answers=dict(sorted(answers.items())))


def _table(data: bytes, name: str) -> list[dict[str, str]]:
    """Rows of a CSV: UTF-8, or GB 18030 as Chinese spreadsheets write it."""
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise FormatError("satellite.bad_answers", path=name, point="-", field="encoding", found="-")
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = list(reader)
    except csv.Error as error:
        raise FormatError("core.cannot_read", path=name, reason=str(error)) from error
    extra = sorted(set(columns) - set(COLUMNS))
    if not {"point", "change"} <= set(columns) or extra or len(set(columns)) != len(columns):
        raise FormatError("satellite.answers_columns", path=name, found=", ".join(columns)[:200], known=", ".join(COLUMNS))
    if any(None in row or None in row.values() for row in rows):
        raise FormatError("satellite.answers_columns", path=name, found="-", known=", ".join(COLUMNS))
    return [{key: value.strip() for key, value in row.items()} for row in rows if any(value.strip() for value in row.values())]


_DATE = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})")


def _answer(row: Any, where: str) -> Answer:
    if not isinstance(row, Mapping) or not all(isinstance(v, str) for v in row.values()) or set(row) - set(COLUMNS):
        raise FormatError("satellite.bad_answers", path=where, point="-", field="answers", found=str(row)[:80])
    point = require(row, "point", str, where)

    def one_of(field: str, values: Sequence[str], default: str) -> Any:
        value = row.get(field, default) or default
        if value not in values:
            raise FormatError("satellite.bad_answers", path=where, point=point[:40], field=field, found=value[:80])
        return value

    def day(field: str) -> date | None:
        text = row.get(field, "")
        if not text:
            return None
        found = _DATE.fullmatch(text)
        try:
            if found:
                return date(*(int(part) for part in found.groups()))  # type: ignore[arg-type]
        except ValueError:
            pass
        raise FormatError("satellite.bad_answers", path=where, point=point[:40], field=field, found=text[:80])

    require(row, "change", str, where)
    answer = Answer(
        point=point,
        change=one_of("change", CHANGES, "-"),
        last_before=day("last_before"),
        first_after=day("first_after"),
        from_class=one_of("from_class", CLASSES, "unknown"),
        to_class=one_of("to_class", CLASSES, "unknown"),
        confidence=one_of("confidence", CONFIDENCES, ""),
        note=row.get("note", "")[:MAX_NOTE],
    )
    if answer.dated and answer.dated[0] >= answer.dated[1]:
        raise FormatError("satellite.answers_dates", path=where, point=point, first=answer.dated[0], second=answer.dated[1])
    return answer


# Two interpreters ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two interpreters agree on yes, no, unsure.

    interpreters: both names. points: answered by both. agreed: of these, with the same answer. kappa: Cohen's, None where
    chance alone would agree always. differing: ids of points with different answers, sorted. dated: changes that both dated;
    overlapping: of these, with intervals that meet. The figures describe the drawn points, not the area.
    """

    interpreters: tuple[str, str]
    points: int
    agreed: int
    kappa: Quantity | None
    differing: tuple[str, ...]
    dated: int
    overlapping: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "interpreters": list(self.interpreters),
            "points": self.points,
            "agreed": self.agreed,
            "share": decimal_text(self.agreed / self.points) if self.points else None,
            "kappa": None if self.kappa is None else self.kappa.to_dict(),
            "differing": list(self.differing),
            "dated": self.dated,
            "overlapping": self.overlapping,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Agreement:
        where = "agreement"
        names, differing = require(raw, "interpreters", list, where), require(raw, "differing", list, where)
        kappa = require(raw, "kappa", (Mapping, type(None)), where)
        if len(names) != 2 or not all(isinstance(text, str) for text in (*names, *differing)):
            raise FormatError("core.field_type", field="interpreters", where=where, expected="[str, str]", found=str(names)[:80])
        return cls(
            interpreters=(names[0], names[1]),
            points=require(raw, "points", int, where),
            agreed=require(raw, "agreed", int, where),
            kappa=None if kappa is None else Quantity.from_dict(kappa),
            differing=tuple(differing),
            dated=require(raw, "dated", int, where),
            overlapping=require(raw, "overlapping", int, where),
        )


def agreement_of(one: Responses, other: Responses) -> Agreement:
    """Plain agreement and Cohen's kappa (1960, doi:10.1177/001316446002000104), with the standard error given there:
    sqrt(p_o (1 - p_o) / n) / (1 - p_e), p_o observed and p_e expected agreement."""
    both = sorted(set(one.answers) & set(other.answers))
    pairs = [(one.answers[point], other.answers[point]) for point in both]
    n, agreed = len(pairs), sum(a.change == b.change for a, b in pairs)
    kappa = None
    if n:
        observed = agreed / n
        chance = sum(
            sum(a.change == value for a, _ in pairs) * sum(b.change == value for _, b in pairs) / n**2 for value in CHANGES
        )
        if chance < 1:
            error = math.sqrt(observed * (1 - observed) / n) / (1 - chance)
            kappa = Quantity(
                value=(observed - chance) / (1 - chance),
                unit="1",
                standard_uncertainty=error,
                propagation="satellite.kappa_propagation",
            )
    dated = [(a.dated, b.dated) for a, b in pairs if a.change == b.change == "yes" and a.dated and b.dated]
    return Agreement(
        interpreters=(one.interpreter, other.interpreter),
        points=n,
        agreed=agreed,
        kappa=kappa,
        differing=tuple(point for point, (a, b) in zip(both, pairs, strict=True) if a.change != b.change),
        dated=len(dated),
        overlapping=sum(max(a[0], b[0]) <= min(a[1], b[1]) for a, b in dated if a and b),
    )


def settle(responses: Sequence[Responses], adjudicated: Responses | None = None) -> dict[str, Answer]:
    """The answers that count, by point.

    One interpreter: theirs. More: where all who answered say the same, that, with the interval that holds all of theirs and
    a class only where they name the same one. Where they differ: the adjudicated answer, or unsure without one.
    """
    final: dict[str, Answer] = {}
    for point in sorted({point for each in responses for point in each.answers}):
        said = [each.answers[point] for each in responses if point in each.answers]
        if adjudicated is not None and point in adjudicated.answers:
            final[point] = adjudicated.answers[point]
        elif len(said) == 1:
            final[point] = said[0]
        elif len({answer.change for answer in said}) > 1:
            final[point] = Answer(point=point, change="unsure")
        else:
            dated = [answer.dated for answer in said if answer.dated]
            classes = [{getattr(answer, side) for answer in said} for side in ("from_class", "to_class")]
            final[point] = Answer(
                point=point,
                change=said[0].change,
                last_before=min(start for start, _ in dated) if dated else None,
                first_after=max(end for _, end in dated) if dated else None,
                from_class=classes[0].pop() if len(classes[0]) == 1 else "unknown",
                to_class=classes[1].pop() if len(classes[1]) == 1 else "unknown",
            )
    for point, answer in adjudicated.answers.items() if adjudicated else ():
        final.setdefault(point, answer)
    return final
