"""What is measured on a survey as findings and records: each place, line and polygon that was asked for, with its error and photos.

In: a `Surveyed`, the shapes of a file, a base. Out: findings, a `measurement` record each (figures, what their errors are made of,
the photos that saw the place), pictures, and named gaps for shapes that cannot be measured. No finding is a legal conclusion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.geometry
from pyproj import CRS

from drone.compare import Change, CompareConfig, measure_change, register
from drone.findings import common_limits, crs_text
from drone.measure import (
    ErrorModel,
    MeasureConfig,
    Profile,
    base_of,
    measure_area,
    measure_height,
    measure_length,
    measure_point,
    measure_profile,
    measure_volume,
)
from drone.products import ResultFolder, cut_out, shaded_relief, write_picture
from drone.shapes import Asked, read_shape, shapes_of
from drone.sight import photos_of_place, photos_of_shape
from drone.surveyed import Surveyed
from drone.types import Measurement
from geoevidence.crs import crs_label, transform_geometry
from geoevidence.errors import CoverageError, FormatError
from geoevidence.raster import Raster
from geoevidence.trust import canonical
from geoevidence.types import Finding, Message, ProcessResult, Product, Quantity, decimal_text

_WGS84 = CRS.from_epsg(4326)
_CHIP_SIDE = 1000
_LARGEST_FILE = 64_000_000
NOT_AVAILABLE = "not_available"
"""Stands for an error that the data do not give."""


def read_shapes(path: Path | None) -> list[Asked]:
    """The shapes of a GeoJSON file, none without one. Raises FormatError, CrsError."""
    if path is None:
        return []
    try:
        if Path(path).stat().st_size > _LARGEST_FILE:
            raise FormatError("drone.not_geojson", path=Path(path).name)
        document = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError("drone.not_geojson", path=Path(path).name) from error
    return shapes_of(document, where=Path(path).name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stated:
    """One finding in the making: what it says, its headline and parts, how it is shown."""

    headline: Quantity
    message: Message
    parts: tuple[Measurement, ...]
    method: Message
    note: Message
    on_relief: bool = False
    profile: Profile | None = None


def measured_findings(
    work: ResultFolder,
    site: Surveyed,
    asked: Sequence[Asked],
    *,
    config: MeasureConfig,
    picture: Raster,
    first: int,
    base: str = "rim",
    boundary_sd: float | None = None,
    former: Surveyed | None = None,
    compare: CompareConfig = CompareConfig(),
    sources: Raster | None = None,
) -> tuple[list[Finding], list[Message]]:
    """Findings of each shape (a polygon: area and volume), their records and pictures in `work`; what cannot be measured is a gap.

    picture: what pictures are cut from. first: number of the first finding. base: see `measure.base_of`, or "previous" with
    `former`. boundary_sd: m, of vertices whose shape does not state it. sources: photo numbers of the orthomosaic, or None.
    """
    findings: list[Finding] = []
    gaps: list[Message] = []
    features: list[dict[str, Any]] = []
    crs = site.surface.raster.grid.crs
    change = None
    if former is not None:
        polygons = [read_shape(each.geometry, each.crs, crs) for each in asked if each.geometry.get("type") == "Polygon"]
        change = register(
            former.surface,
            site.surface,
            accuracy=(former.accuracy, site.accuracy),
            changed=polygons,
            config=compare,
            measure=config,
        )
    limits = (
        tuple(common_limits(site.accuracy, crs, site.surface.height_kind, site.when))
        if site.accuracy is not None
        else (Message(id="drone.limit_auxiliary_survey"),)
    )
    for each in asked:
        shape = read_shape(each.geometry, each.crs, crs)
        sd = each.boundary_sd if each.boundary_sd is not None else boundary_sd
        try:
            stated = _measured(site, each, shape, config=config, base=base, vertex_sd=sd, change=change)
        except CoverageError as error:
            reason = Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()})
            gaps.append(Message(id="drone.gap_not_measured", values={"name": each.name, "reason": reason}))
            continue
        geometry = json.loads(json.dumps(shapely.geometry.mapping(shape)))
        for one in stated:
            number = f"D-{first + len(findings):03d}"
            name = f"{number}-measurement.json"
            work.write_json(
                name,
                "measurement",
                _record(number, each.name, one, site, shape, sources),
                title=Message(id="drone.title_measurement", values={"name": each.name}),
            )
            chip = f"{number}-picture.png"
            _draw(work, chip, site, picture, shape, one, each.name)
            findings.append(
                Finding(
                    id=number,
                    message=one.message,
                    quantity=one.headline,
                    geometry=geometry,
                    crs=crs_text(crs),
                    period=site.when,
                    method=one.method,
                    sources=site.digests if former is None else tuple(sorted({*site.digests, *former.digests})),
                    limitations=tuple(unique([m for part in one.parts for m in part.limitations] + list(limits))),
                    products=(name, chip),
                    synthetic=work.synthetic,
                )
            )
            features.append(
                {
                    "type": "Feature",
                    "properties": {"finding": number, "name": each.name},
                    "geometry": rounded(transform_geometry(geometry, crs, _WGS84)),
                }
            )
    if features:
        path = work.path("measurements.geojson", "measurement_geojson", "application/geo+json")
        text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, sort_keys=True, indent=1)
        path.write_text(text + "\n", "utf-8")
    return findings, gaps


def _measured(
    site: Surveyed,
    each: Asked,
    shape: Any,
    *,
    config: MeasureConfig,
    base: str,
    vertex_sd: float | None,
    change: Change | None,
) -> list[_Stated]:
    common: dict[str, Any] = {"accuracy": site.accuracy, "vertex_sd": vertex_sd, "config": config}
    surface, name = site.surface, each.name
    if isinstance(shape, shapely.Point):
        east, north, height = measure_point(surface, shape, **common)
        values = {"name": name, "east": east.quantity, "north": north.quantity, "height": height.quantity}
        return [
            _Stated(
                headline=height.quantity,
                message=Message(id="drone.finding_point", values=values),
                parts=(east, north, height),
                method=Message(id="drone.method_place"),
                note=Message(id="drone.note_height", values={"height": height.quantity}),
            )
        ]
    if isinstance(shape, shapely.LineString):
        flat, sloped = measure_length(surface, shape, **common)
        rise = measure_height(surface, shape, **common)
        values = {"name": name, "length": flat.quantity, "slope": sloped.quantity, "height": rise.quantity}
        return [
            _Stated(
                headline=flat.quantity,
                message=Message(id="drone.finding_line", values=values),
                parts=(flat, sloped, rise),
                method=Message(id="drone.method_place"),
                note=Message(id="drone.note_length", values={"length": flat.quantity, "height": rise.quantity}),
                profile=measure_profile(surface, shape, accuracy=site.accuracy, config=config),
            )
        ]
    model = ErrorModel.of(surface, site.accuracy, config)
    shift = 0.0 if each.drawn or model is None else model.shift_sd(shape)
    area = measure_area(shape, crs=surface.raster.grid.crs, surface=surface, **common)
    if change is not None:
        sd = vertex_sd if vertex_sd is not None else (model.vertex_sd if model is not None else 0.0)
        volumes = measure_change(change, shape, vertex_sd=sd, config=config)
        if change.empirical:
            # measured against a surface that states no errors: none of its figures carries one
            volumes = tuple(without_error(part) for part in volumes)  # type: ignore[assignment]
        message, method = "drone.finding_change", "drone.method_change"
        stated_base = Message(id="drone.base_previous")
    else:
        volumes = measure_volume(surface, shape, shift_sd=shift, **base_of(base), **common)
        message, method = "drone.finding_volume", "drone.method_volume"
        stated_base = base_message(base)
    first, second, net = volumes
    return [
        _Stated(
            headline=area.quantity,
            message=Message(id="drone.finding_area", values={"name": name, "area": area.quantity}),
            parts=(area,),
            method=Message(id="drone.method_area"),
            note=Message(id="drone.note_area", values={"area": area.quantity}),
        ),
        _Stated(
            headline=net.quantity,
            message=Message(
                id=message,
                values={
                    "name": name,
                    "fill": first.quantity,
                    "cut": second.quantity,
                    "net": net.quantity,
                    "base": stated_base,
                },
            ),
            parts=volumes,
            method=Message(id=method),
            note=Message(id="drone.note_volume", values={"fill": first.quantity, "cut": second.quantity}),
            on_relief=True,
        ),
    ]


def without_error(part: Measurement) -> Measurement:
    """The same figure, its error not available."""
    from dataclasses import replace

    return replace(
        part,
        quantity=replace(part.quantity, standard_uncertainty=None),
        contributions=(),
        limitations=tuple(unique([*part.limitations, Message(id="drone.limit_no_accuracy")])),
    )


def base_message(base: str) -> Message:
    """The base of a volume in words, for the text of a command."""
    kind, _, rest = base.partition(":")
    return Message(id=f"drone.base_{kind}", values={"height": rest})


def _draw(work: ResultFolder, name: str, site: Surveyed, picture: Raster, shape: Any, one: _Stated, label: str) -> None:
    xmin, ymin, xmax, ymax = shape.bounds
    cell = picture.grid.resolution[0]
    margin = max(0.25 * max(xmax - xmin, ymax - ymin), 60 * cell)
    shown = (
        shaded_relief(cut_out(site.surface.raster, shape.bounds, margin))
        if one.on_relief
        else cut_out(picture, shape.bounds, margin)
    )
    outline = shapely.geometry.mapping(shape)
    if isinstance(shape, shapely.Point):
        reach = 0.12 * margin
        outline = {
            "type": "MultiLineString",
            "coordinates": [
                [[shape.x - reach, shape.y], [shape.x + reach, shape.y]],
                [[shape.x, shape.y - reach], [shape.x, shape.y + reach]],
            ],
        }
    write_picture(work, name, shown, "drone.title_measured", site.when, one.note, (outline,), {"name": label}, _CHIP_SIDE)


def unique(messages: Sequence[Message]) -> list[Message]:
    """The messages in their order, each once."""
    seen: dict[bytes, Message] = {}
    for message in messages:
        seen.setdefault(canonical.dumps(message.to_dict()), message)
    return list(seen.values())


def rounded(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Degrees to nine decimals: a tenth of a millimetre."""

    def round_all(value: Any) -> Any:
        return round(value, 9) if isinstance(value, float) else [round_all(part) for part in value]

    return {"type": geometry["type"], "coordinates": round_all(geometry["coordinates"])}


def _number(value: float) -> str | None:
    return decimal_text(round(float(value), 6)) if np.isfinite(value) else None


def figure_record(part: Measurement) -> dict[str, Any]:
    """A figure for a record: quantity, base, contributions to its error (I-JSON without floats)."""
    return {
        "kind": part.kind,
        "quantity": part.quantity.to_dict(),
        "base": part.base,
        "uncovered_fraction": decimal_text(round(part.uncovered_fraction, 9)),
        "contributions": [
            {"kind": each.kind, "standard_uncertainty": decimal_text(each.standard_uncertainty)} for each in part.contributions
        ],
        "limitations": [limit.to_dict() for limit in part.limitations],
    }


def _record(number: str, name: str, one: _Stated, site: Surveyed, shape: Any, sources: Raster | None) -> dict[str, Any]:
    surface = site.surface
    record: dict[str, Any] = {
        "schema": "geoevidence.measurement.v1",
        "finding": number,
        "name": name,
        "crs": crs_label(surface.raster.grid.crs),
        "height_kind": surface.height_kind,
        "cell": decimal_text(surface.raster.grid.resolution[0]),
        "figures": [figure_record(part) for part in one.parts],
        "shape": {"type": shape.geom_type, "coordinates": _texts(shapely.geometry.mapping(shape)["coordinates"])},
        "photos": _photos_record(site, shape, sources),
    }
    if isinstance(shape, shapely.Polygon):
        record["polygon"] = record["shape"]["coordinates"]
    if one.profile is not None:
        profile = one.profile
        record["profile"] = [
            {
                "distance": _number(profile.distance[i]),
                "east": _number(profile.places[i, 0]),
                "north": _number(profile.places[i, 1]),
                "height": _number(profile.height[i]),
                "standard_uncertainty": None
                if profile.standard_uncertainty is None
                else _number(profile.standard_uncertainty[i]),
            }
            for i in range(len(profile.distance))
        ]
    return record


def _texts(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return decimal_text(float(value))
    if value and isinstance(value[0], (int, float)):
        return [decimal_text(float(v)) for v in value[:2]]
    return [_texts(part) for part in value]


def _photos_record(site: Surveyed, shape: Any, sources: Raster | None) -> list[dict[str, Any]]:
    """The photos that saw a place (with the pixel), or parts of a line or polygon (with the share of it)."""
    if isinstance(shape, shapely.Point):
        return [each.to_dict() for each in photos_of_place(site.table, site.surface, (shape.x, shape.y), sources=sources)]
    return [
        {"photo": photo.name, "sha256": photo.sha256, "share": decimal_text(round(share, 4))}
        for photo, share in photos_of_shape(site.table, site.surface, shape)
    ]


def measured_record(result: ProcessResult, folder: Path) -> dict[str, Any]:
    """What a measurement says as one document for machines: `value`, `standard_uncertainty`, `coverage_factor`, `unit`, and the rest.

    The four stand at the top when one shape was measured: of a polygon those of the net volume, of a line of its length, of a place of
    its height. `standard_uncertainty` is "not_available" where the data give none. `figures` holds every figure with what its error is
    made of; `photos` the photos that saw the shape.

    Raises:
        FormatError: a record of the result is damaged.
    """
    shapes: dict[str, dict[str, Any]] = {}
    for product in result.products:
        if product.kind != "measurement":
            continue
        raw = _read_record(folder, product)
        entry = shapes.setdefault(
            raw["name"], {"name": raw["name"], "crs": raw["crs"], "height_kind": raw["height_kind"], "figures": []}
        )
        entry["figures"] += [_plain_figure(each, raw["finding"]) for each in raw["figures"]]
        entry["shape"], entry["photos"] = raw["shape"], raw["photos"]
        if "profile" in raw:
            entry["profile"] = raw["profile"]
    found = list(shapes.values())
    record: dict[str, Any] = {"shapes": found}
    if len(found) == 1:
        wanted = ("volume_net", "length_horizontal", "height")
        main = next(each for kind in wanted for each in found[0]["figures"] if each["kind"] == kind)
        record = {**{k: main[k] for k in ("kind", "value", "standard_uncertainty", "coverage_factor", "unit", "base")}, **record}
        record["contributions"] = main["contributions"]
        record["name"] = found[0]["name"]
    return record


def _read_record(folder: Path, product: Product) -> Any:
    try:
        return canonical.loads_canonical((folder / product.path).read_bytes())
    except OSError as error:
        raise FormatError("core.cannot_read", path=product.path, reason=error.strerror or str(error)) from error


def _plain_figure(raw: Mapping[str, Any], finding: str) -> dict[str, Any]:
    quantity = Quantity.from_dict(raw["quantity"])
    u = quantity.standard_uncertainty
    return {
        "kind": raw["kind"],
        "value": quantity.value,
        "standard_uncertainty": NOT_AVAILABLE if u is None else u,
        "coverage_factor": quantity.coverage_factor,
        "unit": quantity.unit,
        "base": raw["base"],
        "uncovered_fraction": float(raw["uncovered_fraction"]),
        "contributions": {each["kind"]: float(each["standard_uncertainty"]) for each in raw["contributions"]},
        "finding": finding,
    }
