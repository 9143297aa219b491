"""How right a change map is, and how much really changed: design-based estimates from a sample that people looked at.

In: a `Sample` and the answers about its points. Out: an `AccuracyAssessment`: error matrix in area shares, accuracies, area
of change, F1 as a function of the allowed date error, each with standard error and interval. The estimates follow from the
random draw alone; no model of the errors is assumed. Points without a clear answer widen the bounds, they are never dropped
silently. Pixels that the map does not decide are reported apart and never count as no change.
Equations, sources and measured coverage: docs/methods/satellite_accuracy.md.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoevidence.errors import ConfigError, CoverageError, FormatError
from geoevidence.messages import render
from geoevidence.trust import canonical
from geoevidence.types import Lang, Message, Quantity, decimal_text, decimal_value, require
from satellite.responses import Agreement, Answer, Responses, agreement_of, settle
from satellite.sampling import Claim, Sample, SamplePoint, read_bounded, write_file

ASSESSMENT_FILE = "assessment.json"
Z95 = 1.959963984540054
_SCHEMA = "geoevidence.assessment.v1"
_EVER = -1
"""Allowed date error that stands for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessmentConfig:
    """How answers become estimates.

    lags: allowed date errors of the curve, d, increasing.
    draws: completions of the unseen pixels per interval (1); 4000 puts the ends of an interval within about 2 % of its width.
    lean: pseudo-observation given to the side that widens an interval, the rest of one goes to the other (1). 0.5 is Jeffreys'
        choice and covers too little where a stratum shows no error at all; 1 is that of Clopper and Pearson and covers too
        much. 0.75 covered 93 to 99 % on the simulated populations of docs/methods/satellite_accuracy.md.
    listed_only: assess the events that are listed; changed pixels in patches too small for that count as no change of the map.
    """

    lags: tuple[int, ...] = (0, 10, 20, 30, 60, 90, 180, 365)
    draws: int = 4000
    lean: float = 0.75
    listed_only: bool = False

    def __post_init__(self) -> None:
        if not self.lags or any(b <= a for a, b in zip((_EVER, *self.lags), self.lags, strict=False)) or self.lags[-1] > 36_500:
            raise ConfigError("satellite.setting_out_of_range", name="lags", value=str(self.lags), low=0, high=36_500)
        for name, low, high in (("draws", 100, 1_000_000), ("lean", 0.5, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=getattr(self, name), low=low, high=high)


# Estimators of any number of classes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassEstimates:
    """Stratified estimates of a map with classes.

    classes: in order. matrix: (map, reference) shares of the area; area: (reference) shares; users, producers, f1: (class);
    overall. Each with `_se`, its standard error (1), NaN where a stratum has one point only or the value is not defined.
    """

    classes: tuple[str, ...]
    matrix: NDArray[np.float64]
    matrix_se: NDArray[np.float64]
    area: NDArray[np.float64]
    area_se: NDArray[np.float64]
    users: NDArray[np.float64]
    users_se: NDArray[np.float64]
    producers: NDArray[np.float64]
    producers_se: NDArray[np.float64]
    f1: NDArray[np.float64]
    f1_se: NDArray[np.float64]
    overall: float
    overall_se: float


def stratified_ratio(
    y: NDArray[np.float64], x: NDArray[np.float64], stratum: NDArray[np.intp], pixels: NDArray[np.float64]
) -> tuple[float, float]:
    """Combined ratio of the totals of y and x over all pixels, and its standard error.

    R = sum N_h mean(y)_h / sum N_h mean(x)_h; V(R) = sum N_h^2 (1 - n_h / N_h) s^2(y - R x)_h / n_h over (sum N_h mean(x)_h)^2.
    With x = 1 everywhere it is the stratified mean. Source: Cochran 1977, section 6.11; Stehman 2014.

    Args:
        y, x: (n,) of the points. stratum: (n,) index of each point's stratum. pixels: (h,) of each stratum with points.

    Returns:
        (ratio, standard error); NaN where the denominator is zero, the error also where a stratum that is not wholly seen has
        one point.
    """
    points = np.bincount(stratum, minlength=len(pixels)).astype(float)
    above = float((pixels * np.bincount(stratum, y, len(pixels)) / points).sum())
    below = float((pixels * np.bincount(stratum, x, len(pixels)) / points).sum())
    if below == 0:
        return math.nan, math.nan
    ratio = above / below
    rest = y - ratio * x
    mean = np.bincount(stratum, rest, len(pixels)) / points
    squares = np.bincount(stratum, (rest - mean[stratum]) ** 2, len(pixels))
    unseen = 1 - points / pixels
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(unseen == 0, 0.0, squares / (points - 1))
    variance = (pixels**2 * unseen * spread / points).sum() / below**2
    return ratio, math.sqrt(variance) if np.isfinite(variance) else math.nan


def class_estimates(
    stratum: Sequence[str], mapped: Sequence[str], reference: Sequence[str], pixels: Mapping[str, float]
) -> ClassEstimates:
    """Accuracy and area of every class; the strata may differ from the map's classes.

    Args:
        stratum, mapped, reference: of each point. pixels: stratum -> its pixels (or its area in any unit with as many units).

    Source: Stehman 2014, doi:10.1080/01431161.2014.930207; where the strata are the map classes it is that of Olofsson et
    al. 2014, doi:10.1016/j.rse.2014.02.015, with the finite population correction. F1 = 2 y / (x_map + x_reference) is a ratio
    of totals too, so it has the same kind of standard error.
    """
    names = [name for name in pixels if name in set(stratum)]
    if set(stratum) != set(pixels):
        raise CoverageError("satellite.stratum_unanswered", strata=", ".join(sorted(set(pixels) ^ set(stratum))))
    where = np.array([names.index(name) for name in stratum], np.intp)
    size = np.array([float(pixels[name]) for name in names])
    classes = tuple(sorted(set(mapped) | set(reference)))
    in_map = np.array([[m == c for m in mapped] for c in classes], float)
    in_ref = np.array([[r == c for r in reference] for c in classes], float)
    one = np.ones(len(where))

    def ratios(
        pairs: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = np.array([stratified_ratio(y, x, where, size) for y, x in pairs])
        return found[:, 0], found[:, 1]

    k = range(len(classes))
    cells, cells_se = ratios((in_map[i] * in_ref[j], one) for i in k for j in k)
    area, area_se = ratios((in_ref[j], one) for j in k)
    users, users_se = ratios((in_map[i] * in_ref[i], in_map[i]) for i in k)
    producers, producers_se = ratios((in_map[i] * in_ref[i], in_ref[i]) for i in k)
    f1, f1_se = ratios((2 * in_map[i] * in_ref[i], in_map[i] + in_ref[i]) for i in k)
    overall, overall_se = stratified_ratio((in_map * in_ref).sum(axis=0), one, where, size)
    square = (len(classes), len(classes))
    return ClassEstimates(
        classes=classes,
        matrix=cells.reshape(square),
        matrix_se=cells_se.reshape(square),
        area=area,
        area_se=area_se,
        users=users,
        users_se=users_se,
        producers=producers,
        producers_se=producers_se,
        f1=f1,
        f1_se=f1_se,
        overall=overall,
        overall_se=overall_se,
    )


# Change or not, and when ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its errors.

    quantity: value with the design-based standard error. low, high: 95 % interval of sampling. bound_low, bound_high: the
    same, widened to hold whatever the points without a clear answer really are; equal to low, high where there are none.
    """

    quantity: Quantity
    low: float
    high: float
    bound_low: float
    bound_high: float

    def to_dict(self) -> dict[str, Any]:
        ends = ("low", "high", "bound_low", "bound_high")
        return {"quantity": self.quantity.to_dict(), **{name: decimal_text(getattr(self, name)) for name in ends}}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Estimate:
        ends = {
            name: decimal_value(require(raw, name, str, "estimate"), name) for name in ("low", "high", "bound_low", "bound_high")
        }
        return cls(quantity=Quantity.from_dict(require(raw, "quantity", Mapping, "estimate")), **ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class LagPoint:
    """days: allowed distance of the map's date from the interval of the true change. precision, recall, f1: where a change
    counts as found only within it; None = not defined."""

    days: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StratumResult:
    """Answers of one stratum. claim: of the map as assessed. pixels, points: of the design. changed, unchanged, unsure,
    missing: points by what the settled answer says; `missing` has no answer."""

    name: str
    claim: Claim
    pixels: int
    points: int
    changed: int
    unchanged: int
    unsure: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """Area that went from one class to another, as the interpreters saw it."""

    from_class: str
    to_class: str
    points: int
    area: Estimate


MEASURES = (
    "overall",
    "users_change",
    "producers_change",
    "users_no_change",
    "producers_no_change",
    "f1",
    "area_change",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyAssessment:
    """What a sample says about a map. All shares and accuracies are of the area that the map decides.

    sample: digest of the sample. interpreters: names. strata: answers by stratum. matrix: (map, reference) -> share of the area.
    overall ... f1: accuracies, None = not defined (nothing mapped, nothing found). area_change: that really changed, m2.
    mapped_change: area that the map calls changed, m2 (a count, without error of sampling). lags: curve over the allowed date error.
    lag_points: changes found by the map and dated by people; lag_median, lag_p90: of |date error|, area-weighted, d; reference_width:
    median width of the interpreters' intervals, d, below which no date error can be told. undated: changes without an interval.
    undecided: `Status` name -> area that the map does not decide, m2. undecided_change: changed area in it, None = not looked at.
    transitions: from -> to. agreement: of two interpreters. method, limits: in words. synthetic: of demonstration data.
    """

    sample: str
    interpreters: tuple[str, ...]
    strata: tuple[StratumResult, ...]
    matrix: Mapping[tuple[str, str], Estimate]
    overall: Estimate | None
    users_change: Estimate | None
    producers_change: Estimate | None
    users_no_change: Estimate | None
    producers_no_change: Estimate | None
    f1: Estimate | None
    area_change: Estimate | None
    mapped_change: Quantity
    lags: tuple[LagPoint, ...]
    lag_points: int
    lag_median: float | None
    lag_p90: float | None
    reference_width: float | None
    undated: int
    undecided: Mapping[str, Quantity]
    undecided_change: Estimate | None
    transitions: tuple[Transition, ...]
    agreement: Agreement | None
    method: Message
    limits: tuple[Message, ...]
    synthetic: bool

    def to_dict(self) -> dict[str, Any]:
        def maybe(value: Any) -> Any:
            return None if value is None else decimal_text(value) if isinstance(value, float) else value.to_dict()

        return {
            "schema": _SCHEMA,
            "sample": self.sample,
            "interpreters": list(self.interpreters),
            "strata": [{f.name: getattr(stratum, f.name) for f in fields(stratum)} for stratum in self.strata],
            "matrix": [
                {"map": row, "reference": column, "share": value.to_dict()}
                for (row, column), value in sorted(self.matrix.items())
            ],
            **{name: maybe(getattr(self, name)) for name in MEASURES},
            "mapped_change": self.mapped_change.to_dict(),
            "lags": [
                {"days": lag.days, **{name: maybe(getattr(lag, name)) for name in ("precision", "recall", "f1")}}
                for lag in self.lags
            ],
            "lag_points": self.lag_points,
            **{name: maybe(getattr(self, name)) for name in ("lag_median", "lag_p90", "reference_width")},
            "undated": self.undated,
            "undecided": {name: value.to_dict() for name, value in self.undecided.items()},
            "undecided_change": maybe(self.undecided_change),
            "transitions": [
                {"from": t.from_class, "to": t.to_class, "points": t.points, "area": t.area.to_dict()} for t in self.transitions
            ],
            "agreement": maybe(self.agreement),
            "method": self.method.to_dict(),
            "limits": [limit.to_dict() for limit in self.limits],
            "synthetic": self.synthetic,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> AccuracyAssessment:
        where = "assessment"
        if require(raw, "schema", str, where) != _SCHEMA:
            raise FormatError("core.unknown_schema", where=where, found=str(raw["schema"])[:80])

        def estimate(value: Any) -> Estimate | None:
            return None if value is None else Estimate.from_dict(value)

        def days(name: str) -> float | None:
            value = require(raw, name, (str, type(None)), where)
            return None if value is None else decimal_value(value, name)

        agreement = require(raw, "agreement", (Mapping, type(None)), where)
        return cls(
            sample=require(raw, "sample", str, where),
            interpreters=tuple(require(raw, "interpreters", list, where)),
            strata=tuple(
                StratumResult(
                    name=require(s, "name", str, where),
                    claim=require(s, "claim", str, where),  # type: ignore[arg-type]
                    **{n: require(s, n, int, where) for n in ("pixels", "points", "changed", "unchanged", "unsure", "missing")},
                )
                for s in require(raw, "strata", list, where)
            ),
            matrix={
                (require(cell, "map", str, where), require(cell, "reference", str, where)): Estimate.from_dict(cell["share"])
                for cell in require(raw, "matrix", list, where)
            },
            **{name: estimate(require(raw, name, (Mapping, type(None)), where)) for name in MEASURES},
            mapped_change=Quantity.from_dict(require(raw, "mapped_change", Mapping, where)),
            lags=tuple(
                LagPoint(
                    days=require(lag, "days", int, where),
                    **{n: estimate(require(lag, n, (Mapping, type(None)), where)) for n in ("precision", "recall", "f1")},
                )
                for lag in require(raw, "lags", list, where)
            ),
            lag_points=require(raw, "lag_points", int, where),
            lag_median=days("lag_median"),
            lag_p90=days("lag_p90"),
            reference_width=days("reference_width"),
            undated=require(raw, "undated", int, where),
            undecided={name: Quantity.from_dict(value) for name, value in require(raw, "undecided", Mapping, where).items()},
            undecided_change=estimate(require(raw, "undecided_change", (Mapping, type(None)), where)),
            transitions=tuple(
                Transition(
                    from_class=require(t, "from", str, where),
                    to_class=require(t, "to", str, where),
                    points=require(t, "points", int, where),
                    area=Estimate.from_dict(require(t, "area", Mapping, where)),
                )
                for t in require(raw, "transitions", list, where)
            ),
            agreement=None if agreement is None else Agreement.from_dict(agreement),
            method=Message.from_dict(require(raw, "method", Mapping, where)),
            limits=tuple(Message.from_dict(limit) for limit in require(raw, "limits", list, where)),
            synthetic=require(raw, "synthetic", bool, where),
        )

    @classmethod
    def read(cls, path: Path) -> AccuracyAssessment:
        """The assessment of an `assessment.json`, or of a folder that holds one. Raises FormatError."""
        path = Path(path)
        path = path / ASSESSMENT_FILE if path.is_dir() else path
        return cls.from_dict(canonical.loads(read_bounded(path), where=path.name))

    def write(self, out: Path) -> None:
        """Write `assessment.json` and the table `assessment.csv` into a folder."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        rows = io.StringIO()
        table = csv.writer(rows, lineterminator="\n")
        table.writerow(["measure", "unit", "value", "standard_error", "low95", "high95", "bound_low", "bound_high"])
        for name, value in self.rows():
            unit = "1" if value is None else value.quantity.unit
            u = None if value is None else value.quantity.standard_uncertainty
            figures = [] if value is None else [value.low, value.high, value.bound_low, value.bound_high]
            shown = [] if value is None else [value.quantity.value, "" if u is None else u, *figures]
            table.writerow([name, unit, *(f"{v:.9g}" if isinstance(v, float) else v for v in shown)])
        write_file(out / "assessment.csv", rows.getvalue().encode("utf-8"))
        write_file(out / ASSESSMENT_FILE, canonical.dumps(self.to_dict()))

    def rows(self) -> list[tuple[str, Estimate | None]]:
        """Every figure by name, in the order of the table."""
        cells = [(f"matrix_{row}_{column}", value) for (row, column), value in sorted(self.matrix.items())]
        curve = [
            (f"{name}_within_{lag.days}_d", getattr(lag, name)) for lag in self.lags for name in ("precision", "recall", "f1")
        ]
        moves = [(f"area_{t.from_class}_to_{t.to_class}", t.area) for t in self.transitions]
        return [
            *((name, getattr(self, name)) for name in MEASURES),
            *cells,
            *curve,
            ("undecided_change", self.undecided_change),
            *moves,
        ]

    def lines(self, lang: Lang) -> list[str]:
        """The assessment in words."""

        def shown(name: str, value: Estimate | None) -> str:
            title = render(f"satellite.accuracy_{name}", {}, lang)
            return _estimate_text(title, value, lang)

        answered = [(s.changed + s.unchanged, s.unsure, s.missing) for s in self.strata]
        counts = {name: sum(entry[i] for entry in answered) for i, name in enumerate(("answered", "unsure", "missing"))}
        lines = [render("satellite.accuracy_points", {"points": sum(s.points for s in self.strata), **counts}, lang)]
        lines += [shown(name, getattr(self, name)) for name in MEASURES]
        lines.append(render("satellite.accuracy_mapped", {"area": _area_text(self.mapped_change.value)}, lang))
        for lag in self.lags:
            title = render("satellite.accuracy_f1_within", {"days": lag.days}, lang)
            lines.append(_estimate_text(title, lag.f1, lang))
        if self.lag_median is not None and self.lag_p90 is not None and self.reference_width is not None:
            values = {
                "median": f"{self.lag_median:.0f}",
                "p90": f"{self.lag_p90:.0f}",
                "points": self.lag_points,
                "width": f"{self.reference_width:.0f}",
            }
            lines.append(render("satellite.accuracy_lag", values, lang))
        if self.undecided:
            areas = {name: _area_text(self.undecided[name].value) for name in ("too_few", "cloud", "not_observed", "failed_read")}
            lines.append(render("satellite.accuracy_undecided", areas, lang))
            lines.append(shown("undecided_change", self.undecided_change))
        if self.agreement is not None:
            kappa = (
                render("satellite.accuracy_none", {}, lang) if self.agreement.kappa is None else self.agreement.kappa.format(lang)
            )
            values = {"agreed": self.agreement.agreed, "points": self.agreement.points, "kappa": kappa}
            lines.append(render("satellite.accuracy_agreement", values, lang))
        return [*lines, *(limit.render(lang) for limit in self.limits)]


def _area_text(square_metres: float) -> str:
    return f"{square_metres / 1e4:.4g} ha"


def _estimate_text(title: str, value: Estimate | None, lang: Lang) -> str:
    if value is None:
        return render("satellite.accuracy_line_none", {"title": title}, lang)

    def text(number: float) -> str:
        return _area_text(number) if value.quantity.unit == "m2" else f"{number:.3f}"

    error = value.quantity.standard_uncertainty
    values = {
        "title": title,
        "value": text(value.quantity.value),
        "error": render("satellite.accuracy_none", {}, lang) if error is None else text(error),
        "low": text(value.low),
        "high": text(value.high),
    }
    line = render("satellite.accuracy_line", values, lang)
    if (value.bound_low, value.bound_high) == (value.low, value.high):
        return line
    return line + render("satellite.accuracy_line_bounds", {"low": text(value.bound_low), "high": text(value.bound_high)}, lang)


def point_lag(point: SamplePoint, answer: Answer) -> int | None:
    """Date error of the map's nearest break, d: 0 inside the interpreter's interval, else the signed distance to its nearer
    end (negative = the map is early). None where either has no date."""
    if not point.breaks or answer.dated is None:
        return None
    start, end = (day.toordinal() - _EPOCH for day in answer.dated)
    lags = [min(0, b.break_date - start) + max(0, b.break_date - end) for b in point.breaks]
    return min(lags, key=lambda lag: (abs(lag), lag))


_EPOCH = 719_163  # date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Answers:
    """Counts by stratum, each (h,): pixels, points answered, of these changed, of these within the allowed date error; claim."""

    pixels: NDArray[np.int64]
    answered: NDArray[np.int64]
    changed: NDArray[np.int64]
    found: NDArray[np.int64]
    claim: NDArray[np.bool_]


def _measures(
    changed: NDArray[np.float64], found: NDArray[np.float64], pixels: NDArray[np.int64], claim: NDArray[np.bool_], cell: float
) -> dict[str, NDArray[np.float64]]:
    """Every measure from the totals (..., h) of really changed pixels, and of those found in time."""
    total, mapped = float(pixels.sum()), float(pixels[claim].sum())
    really, hit, timely = changed.sum(axis=-1), changed[..., claim].sum(axis=-1), found[..., claim].sum(axis=-1)
    missed = really - hit
    quiet = total - mapped - missed
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "overall": (hit + quiet) / total,
            "users_change": hit / np.float64(mapped),
            "producers_change": hit / really,
            "users_no_change": quiet / np.float64(total - mapped),
            "producers_no_change": quiet / (total - really),
            "f1": 2 * hit / (mapped + really),
            "area_change": really * cell,
            "matrix_change_change": hit / total,
            "matrix_change_no_change": (mapped - hit) / total,
            "matrix_no_change_change": missed / total,
            "matrix_no_change_no_change": quiet / total,
            "precision": timely / np.float64(mapped),
            "recall": timely / really,
            "timely_f1": 2 * timely / (mapped + really),
        }


def _completed(
    seen: NDArray[np.int64], of: NDArray[np.int64], unseen: NDArray[np.int64], lean: float, rng: np.random.Generator, draws: int
) -> NDArray[np.float64]:
    """Totals (draws, h) of a property over all pixels: `seen` of the `of` looked at, the unseen ones drawn at a rate that these allow.

    The rate is Beta(seen + lean, of - seen + 1 - lean), the unseen pixels binomial: a Polya completion of a finite
    population (Ghosh and Meeden 1997) that knows no rate to be exactly 0 or 1 from a sample.
    """
    a, b = seen + lean, of - seen + 1 - lean
    shape = (draws, len(seen))
    rate = np.where(a <= 0, 0.0, np.where(b <= 0, 1.0, rng.beta(np.maximum(a, 1e-9), np.maximum(b, 1e-9), shape)))
    return (seen + rng.binomial(np.broadcast_to(unseen, shape), rate)).astype(np.float64)


def interval_ends(
    data: _Answers, cell: float, config: AssessmentConfig, seed: int, names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """95 % interval of the measures in `names`; a measure that is not defined is left out.

    Each end takes the least and the largest 2.5 and 97.5 % quantile over the ways to lean the pseudo-observation: of the
    strata that the map calls changed, of the others, and of the dates. Every measure is monotone in each of the three.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    leans = (1 - config.lean, config.lean)
    unseen = data.pixels - data.answered
    changed = {lean: _completed(data.changed, data.answered, unseen, lean, rng, config.draws) for lean in leans}
    found: dict[tuple[float, float], NDArray[np.float64]] = {}
    for lean, late in product(leans, leans):
        more = changed[lean] - data.changed
        a, b = data.found + late, data.changed - data.found + 1 - late
        share = np.where(a <= 0, 0.0, np.where(b <= 0, 1.0, rng.beta(np.maximum(a, 1e-9), np.maximum(b, 1e-9), more.shape)))
        found[lean, late] = (data.found + rng.binomial(more.astype(np.int64), share)).astype(np.float64)
    ends: dict[str, tuple[float, float]] = {}
    for on_map, off_map, late in product(leans, leans, leans):
        totals = np.where(data.claim, changed[on_map], changed[off_map])
        measures = _measures(totals, found[on_map, late], data.pixels, data.claim, cell)
        for name in names:
            good = measures[name][np.isfinite(measures[name])]
            if not len(good):
                continue
            low, high = np.quantile(good, (0.025, 0.975))
            former = ends.get(name, (math.inf, -math.inf))
            ends[name] = (min(former[0], float(low)), max(former[1], float(high)))
    return ends


def _corners(sure: _Answers, open_: NDArray[np.int64], undated: NDArray[np.int64]) -> list[_Answers]:
    """The extreme ways to read the points without a clear answer, `open_` (h,), and the changes without a date, `undated`."""
    corners: dict[bytes, _Answers] = {}
    for on_map, in_time, off_map in product((0, 1), (0, 1), (0, 1)):
        extra = np.where(sure.claim, on_map * open_, off_map * open_)
        found = sure.found + in_time * (extra * sure.claim + undated)
        corners.setdefault(
            extra.tobytes() + found.tobytes(),
            _Answers(
                pixels=sure.pixels,
                answered=sure.answered + open_,
                changed=sure.changed + extra,
                found=found,
                claim=sure.claim,
            ),
        )
    return list(corners.values())


def estimate_accuracy(
    sample: Sample,
    responses: Sequence[Responses],
    *,
    adjudicated: Responses | None = None,
    config: AssessmentConfig | None = None,
) -> AccuracyAssessment:
    """Accuracy of the map and area of change, from the answers about a sample.

    Points answered unsure and points without an answer: the estimates assume that they are like the other points of their
    stratum, and the bounds hold for whatever they are. A change without an interval counts as not found in time; the bounds of
    the curve hold for either.

    Args:
        sample: as drawn. responses: one an interpreter, at least one. adjudicated: answers to points on which they differ.

    Raises:
        ConfigError: no responses. CoverageError: a stratum without any clear answer.
    """
    config = config or AssessmentConfig()
    if not responses:
        raise ConfigError("satellite.no_answers")
    final = settle(responses, adjudicated)
    claim_of: dict[str, Claim] = {s.name: s.claim for s in sample.strata}
    if config.listed_only and "change_tiny" in claim_of:
        claim_of["change_tiny"] = "no_change"
    strata = []
    for s in sample.strata:
        said = [final[p.id].change if p.id in final else "missing" for p in sample.points if p.stratum == s.name]
        strata.append(
            StratumResult(
                name=s.name,
                claim=claim_of[s.name],
                pixels=s.pixels,
                points=s.points,
                changed=said.count("yes"),
                unchanged=said.count("no"),
                unsure=said.count("unsure"),
                missing=said.count("missing"),
            )
        )
    decided = [s for s in strata if s.claim != "undecided"]
    silent = [s.name for s in decided if not s.changed + s.unchanged]
    if silent:
        raise CoverageError("satellite.stratum_unanswered", strata=", ".join(silent))
    sure_points = [p for p in sample.points if p.id in final and final[p.id].change != "unsure"]
    lags = {
        p.id: point_lag(p, final[p.id]) for p in sure_points if final[p.id].change == "yes" and claim_of[p.stratum] == "change"
    }
    figures = _Figures(sample, config, decided, [p for p in sure_points if claim_of[p.stratum] != "undecided"], final, lags)
    main = figures.at(_EVER)
    known = [(abs(lag), figures.weight[p.stratum]) for p in sure_points if (lag := lags.get(p.id)) is not None]
    widths = [((d[1] - d[0]).days, figures.weight[p.stratum]) for p in sure_points if (d := final[p.id].dated) and p.id in lags]
    area = sample.cell_area_m2
    hidden = {
        name: count for name, count in sample.statuses.items() if name in ("too_few", "cloud", "not_observed", "failed_read")
    }
    undecided = next((s for s in strata if s.claim == "undecided"), None)
    both = agreement_of(responses[0], responses[1]) if len(responses) >= 2 else None
    return AccuracyAssessment(
        sample=sample.digest,
        interpreters=tuple(each.interpreter for each in responses),
        strata=tuple(strata),
        matrix={
            (row, column): cell
            for row, column in product(("change", "no_change"), repeat=2)
            if (cell := main[f"matrix_{row}_{column}"])
        },
        **{name: main[name] for name in MEASURES},
        mapped_change=Quantity(
            value=area * sum(s.pixels for s in decided if s.claim == "change"), unit="m2", standard_uncertainty=0.0
        ),
        lags=tuple(
            LagPoint(days=days, precision=at["precision"], recall=at["recall"], f1=at["timely_f1"])
            for days, at in ((days, figures.at(days)) for days in config.lags)
        ),
        lag_points=len(known),
        lag_median=_weighted_quantile(known, 0.5),
        lag_p90=_weighted_quantile(known, 0.9),
        reference_width=_weighted_quantile(widths, 0.5),
        undated=sum(lag is None for lag in lags.values()),
        undecided={name: Quantity(value=count * area, unit="m2", standard_uncertainty=0.0) for name, count in hidden.items()}
        if any(hidden.values())
        else {},
        undecided_change=None if undecided is None else figures.area_in(undecided),
        transitions=figures.transitions(),
        agreement=both,
        method=Message(id="satellite.accuracy_method"),
        limits=_limits(sample, strata, config, both, adjudicated),
        synthetic=sample.synthetic,
    )


def _limits(
    sample: Sample,
    strata: Sequence[StratumResult],
    config: AssessmentConfig,
    both: Agreement | None,
    adjudicated: Responses | None,
) -> tuple[Message, ...]:
    limits = [Message(id="satellite.accuracy_limit_reference"), Message(id="satellite.accuracy_limit_place")]
    open_points = sum(s.unsure + s.missing for s in strata)
    if open_points:
        limits.append(Message(id="satellite.accuracy_limit_open", values={"points": open_points}))
    zero = [s for s in strata if s.claim == "no_change" and not s.changed and s.points < s.pixels]
    if zero:
        # The chance to see none of a share p in n points is (1 - p)^n: 5 % at p = 1 - 0.05^(1/n).
        worst = max(zero, key=lambda s: s.pixels * (1 - 0.05 ** (1 / max(1, s.unchanged))))
        values = {
            "stratum": Message(id=f"satellite.stratum_{worst.name}"),
            "points": worst.unchanged,
            "area": _area_text(worst.pixels * sample.cell_area_m2 * (1 - 0.05 ** (1 / max(1, worst.unchanged)))),
        }
        limits.append(Message(id="satellite.accuracy_limit_none_seen", values=values))
    if both is None:
        limits.append(Message(id="satellite.accuracy_limit_one_interpreter"))
    elif both.differing and adjudicated is None:
        limits.append(Message(id="satellite.accuracy_limit_not_settled", values={"points": len(both.differing)}))
    if config.listed_only:
        limits.append(Message(id="satellite.accuracy_limit_listed", values={"pixels": sample.config.tiny_pixels}))
    return tuple(limits)


def _weighted_quantile(values: Sequence[tuple[float, float]], share: float) -> float | None:
    """The least value up to which at least `share` of the weight lies, None without values."""
    total, run = sum(weight for _, weight in values), 0.0
    for value, weight in sorted(values):
        run += weight
        if run >= share * total * (1 - 1e-12):
            return float(value)
    return None


class _Figures:
    """Estimates from one set of settled answers."""

    def __init__(
        self,
        sample: Sample,
        config: AssessmentConfig,
        strata: Sequence[StratumResult],
        points: Sequence[SamplePoint],
        final: Mapping[str, Answer],
        lags: Mapping[str, int | None],
    ) -> None:
        self._config, self._cell, self._seed = config, sample.cell_area_m2, sample.seed
        self._points, self._final, self._lags, self._strata = points, final, lags, strata
        names = [s.name for s in strata]
        self._where = np.array([names.index(p.stratum) for p in points], np.intp)
        self._pixels = np.array([s.pixels for s in strata], np.int64)
        self._claim = np.array([s.claim == "change" for s in strata])
        self._open = np.array([s.unsure + s.missing for s in strata], np.int64)
        self._changed = np.array([final[p.id].change == "yes" for p in points], float)
        self.weight = {s.name: s.pixels / max(1, s.changed + s.unchanged) for s in strata}

    def _count(self, flags: NDArray[np.bool_] | NDArray[np.float64]) -> NDArray[np.int64]:
        return np.bincount(self._where, np.asarray(flags, float), len(self._strata)).astype(np.int64)

    def at(self, days: int) -> dict[str, Estimate | None]:
        """Every measure with `days` of allowed date error (`_EVER`: any)."""
        mapped, changed = self._claim[self._where], self._changed
        lag = [self._lags.get(p.id) for p in self._points]
        # Without a limit a change counts as found whether or not anyone can date it.
        timely = changed * mapped if days == _EVER else np.array([v is not None and abs(v) <= days for v in lag], float)
        undated = np.array([p.id in self._lags and v is None for p, v in zip(self._points, lag, strict=True)])
        one, m, quiet = np.ones(len(changed)), mapped.astype(float), (1 - mapped) * (1 - changed)
        if days == _EVER:
            pairs = {
                "overall": (mapped * changed + quiet, one),
                "users_change": (m * changed, m),
                "producers_change": (m * changed, changed),
                "users_no_change": (quiet, 1 - m),
                "producers_no_change": (quiet, 1 - changed),
                "f1": (2 * m * changed, m + changed),
                "area_change": (changed, one),
                "matrix_change_change": (m * changed, one),
                "matrix_change_no_change": (m * (1 - changed), one),
                "matrix_no_change_change": ((1 - m) * changed, one),
                "matrix_no_change_no_change": (quiet, one),
            }
        else:
            pairs = {"precision": (timely, m), "recall": (timely, changed), "timely_f1": (2 * timely, m + changed)}
        answers = _Answers(
            pixels=self._pixels,
            answered=self._count(one),
            changed=self._count(changed),
            found=self._count(timely),
            claim=self._claim,
        )
        names = tuple(pairs)
        ends = interval_ends(answers, self._cell, self._config, self._seed, names)
        loose = self._count(undated) if days != _EVER else np.zeros(len(self._pixels), np.int64)
        wide: list[dict[str, tuple[float, float]]] = []
        if self._open.any() or loose.any():
            corners = _corners(answers, self._open, loose)
            if days == _EVER:  # any change on the map is found: the date is no matter
                corners = [_found_whenever(corner) for corner in corners]
            wide = [interval_ends(corner, self._cell, self._config, self._seed, names) for corner in corners]
        found: dict[str, Estimate | None] = {}
        for name, (y, x) in pairs.items():
            value, error = stratified_ratio(np.asarray(y, float), np.asarray(x, float), self._where, self._pixels.astype(float))
            scale = self._cell * float(self._pixels.sum()) if name == "area_change" else 1.0
            found[name] = _estimate(name, value * scale, error * scale, [each[name] for each in (ends, *wide) if name in each])
        return found

    def _single(
        self, flags: NDArray[np.float64], open_: int, pixels: NDArray[np.int64], where: NDArray[np.intp]
    ) -> Estimate | None:
        """Area of the pixels that have a property, and its bounds where `open_` points may have it or not."""
        count = np.bincount(where, flags, len(pixels)).astype(np.int64)
        answered = np.bincount(where, minlength=len(pixels)).astype(np.int64)
        share, error = stratified_ratio(flags, np.ones(len(flags)), where, pixels.astype(float))
        intervals = []
        for more, extra in ((0, 0), (open_, 0), (open_, open_)) if open_ else ((0, 0),):
            data = _Answers(
                pixels=pixels,
                answered=answered + more,
                changed=count + extra,
                found=count * 0,
                claim=np.zeros(len(pixels), bool),
            )
            intervals.append(interval_ends(data, self._cell, self._config, self._seed, ("area_change",))["area_change"])
        scale = self._cell * float(pixels.sum())
        return _estimate("area_change", share * scale, error * scale, intervals)

    def area_in(self, stratum: StratumResult) -> Estimate | None:
        """Changed area of the stratum that the map does not decide; None where no point of it has a clear answer."""
        answered = stratum.changed + stratum.unchanged
        if not answered:
            return None
        flags = np.array([1.0] * stratum.changed + [0.0] * stratum.unchanged)
        pixels, where = np.array([stratum.pixels], np.int64), np.zeros(answered, np.intp)
        return self._single(flags, stratum.unsure + stratum.missing, pixels, where)

    def transitions(self) -> tuple[Transition, ...]:
        """Area by from -> to class, largest first."""
        kinds = sorted(
            {(a.from_class, a.to_class) for p in self._points if (a := self._final[p.id]).change == "yes"}
            - {("unknown", "unknown")}
        )
        found = []
        for kind in kinds:
            said = [self._final[p.id] for p in self._points]
            flags = np.array([a.change == "yes" and (a.from_class, a.to_class) == kind for a in said], float)
            area = self._single(flags, 0, self._pixels, self._where)
            if area is not None:
                found.append(Transition(from_class=kind[0], to_class=kind[1], points=int(flags.sum()), area=area))
        return tuple(sorted(found, key=lambda t: (-t.area.quantity.value, t.from_class, t.to_class)))


def _found_whenever(data: _Answers) -> _Answers:
    return _Answers(
        pixels=data.pixels,
        answered=data.answered,
        changed=data.changed,
        found=np.where(data.claim, data.changed, 0),
        claim=data.claim,
    )


def _estimate(name: str, value: float, error: float, intervals: Sequence[tuple[float, float]]) -> Estimate | None:
    """The first interval is that of sampling; all of them together are the bounds. Each holds the value itself."""
    if not math.isfinite(value) or not intervals:
        return None
    low, high = min(value, intervals[0][0]), max(value, intervals[0][1])
    quantity = Quantity(
        value=value,
        unit="m2" if name == "area_change" else "1",
        standard_uncertainty=error if math.isfinite(error) else None,
        coverage_factor=2.0,
        propagation="satellite.accuracy_propagation",
    )
    return Estimate(
        quantity=quantity,
        low=low,
        high=high,
        bound_low=min(low, *(end for end, _ in intervals)),
        bound_high=max(high, *(end for _, end in intervals)),
    )
