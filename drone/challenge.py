"""Somebody else's area or volume beside ours: which choices make the difference, each with its number.

In: a survey, our polygon and base, and a `Claim` (a figure, and what is known of how it came about: polygon, how its coordinates
were read, base, date, area on the grid or on the ground). Out: a `Challenge`: our figure, the figure with one choice after the
other taken over from the claim, with all of them, and what remains. Choices that the claim does not state are tried as "if":
they say what the figure would be, not what the other body did. No cause is named and no figure is called wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import shapely
import shapely.geometry
from pyproj import CRS, Geod

from drone.measure import ErrorModel, MeasureConfig, base_of, measure_area, measure_volume
from drone.measured import NOT_AVAILABLE, base_message, read_shapes
from drone.shapes import Asked, read_polygon
from drone.surveyed import Surveyed, read_surveyed
from drone.types import Measurement
from geoevidence.crs import crs_label, parse_crs, transform_geometry
from geoevidence.errors import FormatError, GeoEvidenceError, InputError
from geoevidence.types import Lang, Message, Quantity

Kind = Literal["area", "volume_fill", "volume_cut", "volume_net"]
AreaOn = Literal["ground", "grid", "ellipsoid", "web_mercator"]
KINDS: tuple[Kind, ...] = ("area", "volume_fill", "volume_cut", "volume_net")
AREAS_ON: tuple[AreaOn, ...] = ("ground", "grid", "ellipsoid", "web_mercator")
_FIELDS = {"kind", "value", "unit", "standard_uncertainty", "polygon", "read_as", "base", "survey", "area_on", "name"}
_WGS84 = CRS.from_epsg(4326)
_WEB_MERCATOR = CRS.from_epsg(3857)
_TRIED_BASES = ("rim", "triangulated", "lowest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A figure of another body; None = it does not say.

    value in m2 or m3; standard_uncertainty likewise. polygon: as it was given. read_as: reference system in which the numbers of its
    coordinates were taken, where that is another than they are stated in. base: text as of a command. survey: of the date it rests on.
    area_on: where the area was taken: on the ground, in the plane of the map grid, on the ellipsoid, in Web Mercator.
    """

    name: str
    kind: Kind
    value: float
    standard_uncertainty: float | None = None
    polygon: Asked | None = None
    read_as: CRS | None = None
    base: str | None = None
    survey: Surveyed | None = None
    area_on: AreaOn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one choice does. choice: boundary, datum, base, date, scale; stated: the claim states it, else it is an "if".

    quantity: our figure with this choice alone taken over; change: that less ours, in its unit. told: the choice in words.
    """

    choice: str
    stated: bool
    quantity: Quantity
    change: float
    told: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """ours: our figure. effects: one at a time. together: with all that the claim states; None where that cannot be measured.

    joint: what the stated choices do together beyond the sum of each; remainder: claim less `together`. gaps: what could not be tried.
    """

    claim: Claim
    ours: Quantity
    effects: tuple[Effect, ...]
    together: Quantity
    joint: float
    remainder: float
    gaps: tuple[Message, ...]

    def messages(self) -> list[Message]:
        """The explanation in sentences, in order."""
        claimed = _quantity(self.claim.value, self.ours.unit, self.claim.standard_uncertainty)
        found = [
            Message(
                id="drone.challenge_figures",
                values={
                    "ours": self.ours,
                    "claim": claimed,
                    "difference": _signed(self.claim.value - self.ours.value, self.ours.unit),
                    "percent": _percent(self.claim.value - self.ours.value, self.ours.value),
                },
            )
        ]
        for each in self.effects:
            values = {"told": each.told, "value": each.quantity, "change": _signed(each.change, self.ours.unit)}
            values["left"] = _signed(self.claim.value - each.quantity.value, self.ours.unit)
            found.append(Message(id="drone.challenge_stated" if each.stated else "drone.challenge_if", values=values))
        if any(each.stated for each in self.effects):
            values = {"value": self.together, "joint": _signed(self.joint, self.ours.unit)}
            found.append(Message(id="drone.challenge_together", values=values))
        u = _combined(self.together.standard_uncertainty, self.claim.standard_uncertainty)
        values = {"remainder": _signed(self.remainder, self.ours.unit)}
        if u is None:
            found.append(Message(id="drone.challenge_remainder_unknown", values=values))
        else:
            values["expanded"] = _signed(2 * u, self.ours.unit).lstrip("+")
            within = abs(self.remainder) <= 2 * u
            found.append(
                Message(id="drone.challenge_remainder_within" if within else "drone.challenge_remainder_beyond", values=values)
            )
            if self.claim.standard_uncertainty is None:
                found.append(Message(id="drone.challenge_claim_without_error"))
        return [*found, *self.gaps]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers as numbers, an error that is not known as "not_available"."""

        def plain(quantity: Quantity) -> dict[str, Any]:
            u = quantity.standard_uncertainty
            return {
                "value": quantity.value,
                "standard_uncertainty": NOT_AVAILABLE if u is None else u,
                "coverage_factor": quantity.coverage_factor,
                "unit": quantity.unit,
            }

        sd = self.claim.standard_uncertainty
        messages = self.messages()
        return {
            "schema": "geoevidence.challenge.v1",
            "kind": self.claim.kind,
            "claim": plain(_quantity(self.claim.value, self.ours.unit, sd)) | {"name": self.claim.name},
            "ours": plain(self.ours),
            "difference": self.claim.value - self.ours.value,
            "effects": [
                {
                    "choice": each.choice,
                    "stated": each.stated,
                    **plain(each.quantity),
                    "change": each.change,
                    "left": self.claim.value - each.quantity.value,
                    "told": each.told.to_dict(),
                }
                for each in self.effects
            ],
            "together": plain(self.together),
            "joint": self.joint,
            "remainder": self.remainder,
            "messages": [each.to_dict() for each in messages],
            "text": {lang: [each.render(lang) for each in messages] for lang in ("zh", "en")},
        }

    def lines(self, lang: Lang) -> list[str]:
        return [each.render(lang) for each in self.messages()]


def _quantity(value: float, unit: str, sd: float | None) -> Quantity:
    return Quantity(value=value, unit=unit, standard_uncertainty=sd, propagation="drone.propagation_claim")


def _signed(value: float, unit: str) -> str:
    shown = {"m2": "m²", "m3": "m³"}[unit]
    size = abs(value)
    digits = 0 if size == 0 else max(0, min(3, 2 - math.floor(math.log10(size))))
    return f"{value:+.{digits}f} {shown}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:+.1f}" if whole else "-"


def _combined(one: float | None, other: float | None) -> float | None:
    return None if one is None else math.hypot(one, other or 0.0)


def read_claim(path: Path) -> Claim:
    """The claim of a JSON file (docs/methods/measurement.md); files that it names lie beside it.

    Raises:
        FormatError: not such a file; InputError: a file that it names is not there.
    """
    name = Path(path).name
    try:
        if Path(path).stat().st_size > 64_000_000:
            raise FormatError("drone.bad_claim", path=name, reason="size")
        raw = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError("drone.bad_claim", path=name, reason=str(error)) from error
    if not isinstance(raw, Mapping):
        raise FormatError("drone.bad_claim", path=name, reason="object")
    unknown = sorted(set(raw) - _FIELDS)
    if unknown:
        raise FormatError("drone.bad_claim", path=name, reason=", ".join(unknown))
    return claim_of(raw, where=name, folder=Path(path).parent)


def claim_of(raw: Mapping[str, Any], *, where: str, folder: Path) -> Claim:
    """The claim of plain values; `polygon` and `survey` are names of files beside `folder`, or `polygon` is GeoJSON itself.

    Raises:
        FormatError: a wrong value. InputError: a file that is not there.
    """

    def wrong(reason: str) -> FormatError:
        return FormatError("drone.bad_claim", path=where, reason=reason)

    def number(key: str) -> float | None:
        value = raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
            raise wrong(key)
        return float(value)

    def beside(text: Any, key: str) -> Path:
        if not isinstance(text, str):
            raise wrong(key)
        found = folder / text
        if not found.exists():
            raise InputError("drone.no_such_surface", path=Path(text).name)
        return found

    kind, value, sd = raw.get("kind"), number("value"), number("standard_uncertainty")
    if kind not in KINDS or value is None or (sd is not None and sd < 0):
        raise wrong("kind" if kind not in KINDS else "value" if value is None else "standard_uncertainty")
    unit = "m2" if kind == "area" else "m3"
    if raw.get("unit", unit) != unit:
        raise wrong(f"unit: {unit}")
    polygon = raw.get("polygon")
    asked: list[Asked] = []
    if isinstance(polygon, Mapping):
        from drone.shapes import shapes_of

        asked = shapes_of(polygon, where=where)
    elif polygon is not None:
        asked = read_shapes(beside(polygon, "polygon"))
    if polygon is not None and (len(asked) != 1 or asked[0].geometry.get("type") != "Polygon"):
        raise wrong("polygon")
    area_on = raw.get("area_on")
    if area_on is not None and area_on not in AREAS_ON:
        raise wrong("area_on")
    base = raw.get("base")
    if base is not None:
        if not isinstance(base, str):
            raise wrong("base")
        base_of(base)
    read_as = raw.get("read_as")
    return Claim(
        name=str(raw.get("name") or (asked[0].name if asked else where)),
        kind=kind,
        value=value,
        standard_uncertainty=sd,
        polygon=asked[0] if asked else None,
        read_as=None if read_as is None else parse_crs(str(read_as)),
        base=base,
        survey=None if raw.get("survey") is None else read_surveyed(beside(raw["survey"], "survey")),
        area_on=area_on,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choices:
    """Everything that a figure depends on."""

    site: Surveyed
    asked: Asked
    base: str
    area_on: AreaOn


def explain(
    site: Surveyed, ours: Asked | None, claim: Claim, *, base: str = "rim", config: MeasureConfig = MeasureConfig()
) -> Challenge:
    """Our figure against a claim. ours: our polygon, None = that of the claim; base: ours, see `measure.base_of`.

    Raises:
        InputError: no polygon at all. CoverageError: our own figure cannot be measured. FormatError, CrsError: a polygon that is none.
    """
    base_of(base)
    mine = ours if ours is not None else claim.polygon
    if mine is None:
        raise InputError("drone.claim_without_polygon")
    start = _Choices(site=site, asked=mine, base=base, area_on="ground")
    figure = _figure(start, claim.kind, config)
    stated: list[tuple[str, Message, _Choices]] = []
    if claim.polygon is not None and ours is not None:
        told = Message(id="drone.choice_boundary", values={"name": claim.polygon.name})
        stated.append(("boundary", told, replace(start, asked=claim.polygon)))
    if claim.read_as is not None:
        own = claim.polygon if claim.polygon is not None else mine
        told = Message(id="drone.choice_datum", values={"crs": crs_label(claim.read_as)})
        stated.append(("datum", told, replace(start, asked=replace(own, crs=claim.read_as))))
    if claim.base is not None and claim.kind != "area":
        stated.append(
            ("base", Message(id="drone.choice_base", values={"base": base_message(claim.base)}), replace(start, base=claim.base))
        )
    if claim.survey is not None:
        told = Message(id="drone.choice_date", values={"date": _date_of(claim.survey)})
        stated.append(("date", told, replace(start, site=claim.survey)))
    if claim.area_on is not None:
        stated.append(("scale", Message(id=f"drone.choice_area_{claim.area_on}"), replace(start, area_on=claim.area_on)))
    tried: list[tuple[str, Message, _Choices]] = []
    if claim.base is None and claim.kind != "area":
        for each in _TRIED_BASES:
            if each != base:
                tried.append(
                    ("base", Message(id="drone.choice_base", values={"base": base_message(each)}), replace(start, base=each))
                )
    if claim.area_on is None:
        for on in AREAS_ON[1:]:
            tried.append(("scale", Message(id=f"drone.choice_area_{on}"), replace(start, area_on=on)))
    effects: list[Effect] = []
    gaps: list[Message] = []
    for is_stated, group in ((True, stated), (False, tried)):
        for choice, told, choices in group:
            try:
                found = _figure(choices, claim.kind, config)
            except GeoEvidenceError as error:
                gaps.append(_gap(told, error))
                continue
            # the datum is tried on the claim's own polygon: its effect is against that polygon read as stated
            against = figure
            if choice == "datum" and claim.polygon is not None and ours is not None:
                against = _figure(replace(start, asked=claim.polygon), claim.kind, config)
            effects.append(Effect(choice=choice, stated=is_stated, quantity=found, change=found.value - against.value, told=told))
    together = _with_all(start, stated, effects, claim, config, gaps)
    together = figure if together is None else together
    joint = together.value - figure.value - sum(each.change for each in effects if each.stated)
    return Challenge(
        claim=claim,
        ours=figure,
        effects=tuple(effects),
        together=together,
        joint=joint,
        remainder=claim.value - together.value,
        gaps=tuple(gaps),
    )


def _gap(told: Message, error: GeoEvidenceError) -> Message:
    reason = Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()})
    return Message(id="drone.challenge_not_tried", values={"told": told, "reason": reason})


def _with_all(
    start: _Choices,
    stated: list[tuple[str, Message, _Choices]],
    effects: list[Effect],
    claim: Claim,
    config: MeasureConfig,
    gaps: list[Message],
) -> Quantity | None:
    """The figure with every stated choice that could be tried alone; None (with a gap) where they cannot be combined."""
    done = {each.choice for each in effects if each.stated}
    everything = start
    for choice, _, choices in stated:
        if choice not in done:
            continue
        if choice in ("boundary", "datum"):  # the datum comes last: it holds the boundary
            everything = replace(everything, asked=choices.asked)
        elif choice == "base":
            everything = replace(everything, base=choices.base)
        elif choice == "date":
            everything = replace(everything, site=choices.site)
        else:
            everything = replace(everything, area_on=choices.area_on)
    try:
        return _figure(everything, claim.kind, config)
    except GeoEvidenceError as error:
        gaps.append(_gap(Message(id="drone.choice_all"), error))
        return None


def _date_of(site: Surveyed) -> str:
    if site.when is None:
        return site.name
    first, last = site.when
    return first.isoformat() if first == last else f"{first.isoformat()} – {last.isoformat()}"


def _figure(choices: _Choices, kind: Kind, config: MeasureConfig) -> Quantity:
    """The figure for these choices, with its error."""
    surface, accuracy = choices.site.surface, choices.site.accuracy
    crs = surface.raster.grid.crs
    polygon = read_polygon(choices.asked.geometry, choices.asked.crs, crs)
    sd = choices.asked.boundary_sd
    area = measure_area(polygon, crs=crs, accuracy=accuracy, surface=surface, vertex_sd=sd, config=config)
    found: Measurement = area
    if kind != "area":
        model = ErrorModel.of(surface, accuracy, config)
        shift = 0.0 if choices.asked.drawn or model is None else model.shift_sd(polygon)
        volumes = measure_volume(
            surface, polygon, accuracy=accuracy, vertex_sd=sd, shift_sd=shift, config=config, **base_of(choices.base)
        )
        found = next(each for each in volumes if each.kind == kind)
    if choices.area_on == "ground":
        return found.quantity
    ratio = _area_on(polygon, crs, choices.area_on) / area.quantity.value
    u = found.quantity.standard_uncertainty
    return replace(found.quantity, value=found.quantity.value * ratio, standard_uncertainty=None if u is None else u * ratio)


def _area_on(polygon: shapely.Polygon, crs: CRS, area_on: AreaOn) -> float:
    """m2 of a polygon in the plane of its own grid, in Web Mercator, or on the ellipsoid (Karney 2013)."""
    if area_on == "grid":
        return float(polygon.area)
    plain = json.loads(json.dumps(shapely.geometry.mapping(polygon)))
    if area_on == "web_mercator":
        return float(shapely.geometry.shape(transform_geometry(plain, crs, _WEB_MERCATOR)).area)
    degrees = shapely.geometry.shape(transform_geometry(plain, crs, _WGS84))
    value, _ = Geod(ellps="GRS80").geometry_area_perimeter(shapely.geometry.polygon.orient(degrees))
    return abs(float(value))


def challenge_files(
    survey: Path, claim: Claim, *, polygon: Path | None, base: str = "rim", config: MeasureConfig = MeasureConfig()
) -> Challenge:
    """`explain` on files: a survey's folder (or a surface model), our polygon in a GeoJSON file of one polygon, or None.

    Raises:
        InputError: not one polygon; else as `explain`.
    """
    ours = None
    if polygon is not None:
        asked = [each for each in read_shapes(polygon) if each.geometry.get("type") == "Polygon"]
        if len(asked) != 1:
            raise InputError("drone.one_polygon", path=Path(polygon).name, found=len(asked))
        ours = asked[0]
    return explain(read_surveyed(survey), ours, claim, base=base, config=config)
