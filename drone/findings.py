"""What a survey and its measurements state: findings with their error, limits and sources, and named gaps.

A finding never says more than was measured: positions untested by check points are said to be untested, water and crowns to
be unmeasured, and no finding is a legal conclusion. Texts are message ids (geoevidence/messages).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.geometry
import shapely.ops
from affine import Affine
from pyproj import CRS

from drone.measure import MeasureConfig, measure_area, measure_covered, measure_volume, polygons_of, read_polygon
from drone.products import ResultFolder, cut_out, shaded_relief, source_digests, write_picture
from drone.types import AccuracyReport, Flight, Measurement, Reconstruction, SurfaceModel
from geoevidence.crs import crs_label, transform_geometry
from geoevidence.errors import ConfigError, CoverageError, FormatError
from geoevidence.raster import Raster
from geoevidence.trust import canonical
from geoevidence.types import Finding, Message, Quantity, decimal_text

_WGS84 = CRS.from_epsg(4326)
_CHIP_SIDE = 1000


def period_of(flight: Flight) -> tuple[date, date] | None:
    """First and last day that the cameras claim (in UTC where they know their zone), or None."""
    days = sorted((p.taken.astimezone(UTC) if p.taken.tzinfo else p.taken).date() for p in flight.photos if p.taken is not None)
    return (days[0], days[-1]) if days else None


def gsd_of(report: AccuracyReport) -> Quantity:
    # a wrong focal length moves the flying height with it: the size of a pixel on the ground stays
    sd = 100 * report.gsd * report.scale_sd
    return Quantity(value=100 * report.gsd, unit="cm", standard_uncertainty=sd, propagation="drone.propagation_gsd")


def note_gsd(report: AccuracyReport) -> Message:
    """The line below a picture: how much ground a pixel shows."""
    return Message(id="drone.note_gsd", values={"gsd": gsd_of(report)})


def height_note(surface: SurfaceModel) -> Message:
    return Message(id=f"drone.heights_{surface.height_kind}")


def _crs_text(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def _footprint(surface: SurfaceModel) -> dict[str, Any]:
    """Outline of the cells with heights, to about half a metre, as a GeoJSON MultiPolygon."""
    from rasterio.features import shapes

    known = np.isfinite(surface.raster.data[0])
    grid = surface.raster.grid
    factor = max(1, round(0.5 / grid.resolution[0]))
    rows, cols = (-(-side // factor) for side in known.shape)
    padded = np.zeros((rows * factor, cols * factor), bool)
    padded[: known.shape[0], : known.shape[1]] = known
    coarse = padded.reshape(rows, factor, cols, factor).mean(axis=(1, 3)) >= 0.5
    if not coarse.any():
        coarse = padded.reshape(rows, factor, cols, factor).any(axis=(1, 3))
    parts = [
        shapely.geometry.shape(part)
        for part, _ in shapes(coarse.astype(np.uint8), mask=coarse, transform=grid.transform @ Affine.scale(factor))
    ]
    simple = shapely.set_precision(shapely.simplify(shapely.union_all(parts), 0.5), 0.01)
    polygons = [p for p in getattr(simple, "geoms", [simple]) if p.area >= 1.0] or [simple]
    rings = [
        [[list(point) for point in ring.coords] for ring in (p.exterior, *p.interiors)]
        for p in sorted(polygons, key=lambda p: p.bounds)
    ]
    return {"type": "MultiPolygon", "coordinates": rings}


def _common_limits(report: AccuracyReport, crs: CRS, height_kind: str, when: tuple[date, date] | None) -> list[Message]:
    limits = [Message(id=f"drone.limit_heights_{height_kind}"), Message(id="drone.limit_auxiliary_survey")]
    if report.control == "gps":
        limits.insert(0, Message(id="drone.limit_gps_only"))
    if "2000" in crs.name and report.control == "gps":
        limits.append(Message(id="drone.limit_wgs84_as_cgcs2000"))
    if when is not None:
        limits.append(Message(id="drone.limit_time_claimed"))
    return limits


def survey_findings(
    block: Reconstruction, surface: SurfaceModel, when: tuple[date, date] | None
) -> tuple[list[Finding], list[Message]]:
    flight, report = block.flight, block.accuracy
    common = tuple(_common_limits(report, flight.crs, surface.height_kind, when))
    sources = source_digests(flight)
    footprint, crs = _footprint(surface), _crs_text(flight.crs)
    products = (
        "cloud.laz",
        "dsm.tif",
        "dsm_uncertainty.tif",
        "mesh.glb",
        "orthomosaic.tif",
        "preview-dsm.png",
        "preview-orthomosaic.png",
        "sources.tif",
    )
    method = Message(id="drone.method_survey")
    covered = measure_covered(surface, report)
    common_fields: dict[str, Any] = {"period": when, "sources": sources, "synthetic": flight.synthetic, "method": method}
    findings = [
        Finding(
            id="D-001",
            message=Message(
                id="drone.finding_survey",
                values={
                    "photos": len(flight.photos),
                    "used": len(block.poses),
                    "gsd": gsd_of(report),
                    "crs": crs_label(flight.crs),
                },
            ),
            quantity=gsd_of(report),
            geometry=footprint,
            crs=crs,
            limitations=(Message(id="drone.limit_water"), Message(id="drone.limit_vegetation"), *common),
            products=products,
            **common_fields,
        ),
        Finding(id="D-002", limitations=common, products=("accuracy.json",), **_accuracy_statement(report), **common_fields),
        Finding(
            id="D-003",
            message=Message(id="drone.finding_covered", values={"area": covered.quantity}),
            quantity=covered.quantity,
            geometry=footprint,
            crs=crs,
            limitations=(*covered.limitations, Message(id="drone.limit_water"), *common),
            products=("dsm.tif",),
            **common_fields,
        ),
    ]
    gaps = [
        Message(id="drone.gap_rejected", values={"photo": name, "reason": reason})
        for name, reason in sorted(flight.rejected.items())
    ]
    gaps += [
        Message(id="drone.gap_unregistered", values={"photo": name, "reason": reason})
        for name, reason in sorted(block.unregistered.items())
    ]
    gaps += [*flight.gaps, *block.gaps]
    if report.check_rmse_horizontal is None:
        gaps.append(Message(id="drone.gap_no_check_points"))
    return findings, gaps


def _accuracy_statement(report: AccuracyReport) -> dict[str, Any]:
    """message and quantity of the finding on accuracy: tested by check points, or said not to be."""
    checks = sum(1 for point in report.ground_points if point.role == "check")
    if report.check_rmse_horizontal is None or report.check_rmse_vertical is None or checks == 0:
        east, north, up = report.position_sd

        # an sd is itself an error, and one flight does not tell its own
        stated = {"horizontal": f"{math.hypot(east, north):.2g} m", "vertical": f"{up:.2g} m"}
        return {"message": Message(id="drone.finding_accuracy_untested", values=stated), "quantity": None}

    horizontal, vertical = _rmse(report.check_rmse_horizontal, checks), _rmse(report.check_rmse_vertical, checks)
    values = {"points": checks, "horizontal": horizontal, "vertical": vertical}
    return {"message": Message(id="drone.finding_accuracy_checked", values=values), "quantity": vertical}


def accuracy_quantity(report: AccuracyReport) -> Quantity | None:
    """The headline number of the finding on accuracy: vertical RMSE of the check points, None without any."""
    quantity: Quantity | None = _accuracy_statement(report)["quantity"]
    return quantity


def _rmse(value: float, checks: int) -> Quantity:
    # An RMSE of n independent normal residuals has a relative sd of 1 / sqrt(2 n).
    return Quantity(
        value=value, unit="m", standard_uncertainty=value / math.sqrt(2 * checks), propagation="drone.propagation_rmse"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A polygon to measure. name: as its file calls it; drawn: on the pictures of this survey."""

    name: str
    geometry: Mapping[str, Any]
    crs: CRS
    drawn: bool


def read_polygons(path: Path | None) -> list[Asked]:
    if path is None:
        return []
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError("drone.not_geojson", path=Path(path).name) from error
    found = polygons_of(document, where=Path(path).name)
    return [Asked(name=name, geometry=geometry, crs=crs, drawn=drawn) for name, geometry, crs, drawn in found]


def base_of(base: str) -> dict[str, Any]:
    """Arguments `base` and `base_height` of `measure_volume` for the text of a command."""
    if base in ("rim", "lowest"):
        return {"base": base}
    kind, _, height = base.partition(":")
    if kind == "horizontal":
        try:
            value = float(height)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return {"base": "horizontal", "base_height": value}
    raise ConfigError("drone.bad_base", found=base)


def measured_findings(
    work: ResultFolder,
    surface: SurfaceModel,
    accuracy: AccuracyReport | None,
    asked: Sequence[Asked],
    config: MeasureConfig,
    picture: Raster,
    when: tuple[date, date] | None,
    first: int,
    sources: tuple[str, ...],
    base: str = "rim",
) -> tuple[list[Finding], list[Message]]:
    """Two findings a polygon, area and volume; polygons that cannot be measured are named gaps."""
    findings: list[Finding] = []
    gaps: list[Message] = []
    features: list[dict[str, Any]] = []
    crs = surface.raster.grid.crs
    for each in asked:
        polygon = read_polygon(each.geometry, each.crs, crs)
        shift = 0.0 if each.drawn or accuracy is None else math.hypot(*accuracy.position_sd[:2]) / math.sqrt(2)
        try:
            area = measure_area(polygon, crs=crs, accuracy=accuracy, surface=surface, config=config)
            volumes = measure_volume(surface, polygon, accuracy=accuracy, shift_sd=shift, config=config, **base_of(base))
        except CoverageError as error:
            reason = Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()})
            gaps.append(Message(id="drone.gap_not_measured", values={"name": each.name, "reason": reason}))
            continue
        common = (
            tuple(_common_limits(accuracy, crs, surface.height_kind, when))
            if accuracy is not None
            else (Message(id="drone.limit_auxiliary_survey"),)
        )
        geometry = json.loads(json.dumps(shapely.geometry.mapping(polygon)))
        fill, cut, net = volumes
        stated = [
            (
                area.quantity,
                Message(id="drone.finding_area", values={"name": each.name, "area": area.quantity}),
                (area,),
                Message(id="drone.method_area"),
            ),
            (
                net.quantity,
                Message(
                    id="drone.finding_volume",
                    values={
                        "name": each.name,
                        "fill": fill.quantity,
                        "cut": cut.quantity,
                        "net": net.quantity,
                        "base": Message(id=f"drone.base_{volumes[0].base}", values={"height": base.partition(":")[2]}),
                    },
                ),
                volumes,
                Message(id="drone.method_volume"),
            ),
        ]
        notes = (
            Message(id="drone.note_area", values={"area": area.quantity}),
            Message(id="drone.note_volume", values={"fill": fill.quantity, "cut": cut.quantity}),
        )
        for (quantity, message, parts, method), note in zip(stated, notes, strict=True):
            number = f"D-{first + len(findings):03d}"
            limits = tuple(_unique([m for part in parts for m in part.limitations] + list(common)))
            name = f"{number}-measurement.json"
            work.write_json(
                name,
                "measurement",
                _measurement_record(number, each.name, parts, surface),
                title=Message(id="drone.title_measurement", values={"name": each.name}),
            )
            chip = f"{number}-picture.png"
            margin = 0.25 * max(polygon.bounds[2] - polygon.bounds[0], polygon.bounds[3] - polygon.bounds[1])
            shown = cut_out(
                picture if len(parts) == 1 else _relief_around(surface.raster, polygon.bounds, margin), polygon.bounds, margin
            )
            write_picture(work, chip, shown, "drone.title_measured", when, note, (geometry,), {"name": each.name}, _CHIP_SIDE)
            findings.append(
                Finding(
                    id=number,
                    message=message,
                    quantity=quantity,
                    geometry=geometry,
                    crs=_crs_text(crs),
                    period=when,
                    method=method,
                    sources=sources,
                    limitations=limits,
                    products=(name, chip),
                    synthetic=work.synthetic,
                )
            )
            features.append(
                {
                    "type": "Feature",
                    "properties": {"finding": number, "name": each.name},
                    "geometry": _rounded(transform_geometry(geometry, crs, _WGS84)),
                }
            )
    if features:
        path = work.path("measurements.geojson", "measurement_geojson", "application/geo+json")
        path.write_text(
            json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, sort_keys=True, indent=1) + "\n",
            "utf-8",
        )
    return findings, gaps


def _unique(messages: Sequence[Message]) -> list[Message]:
    seen: dict[bytes, Message] = {}
    for message in messages:
        seen.setdefault(canonical.dumps(message.to_dict()), message)
    return list(seen.values())


def _relief_around(raster: Raster, bounds: tuple[float, float, float, float], margin: float) -> Raster:
    """Shaded relief of the part of the surface around bounds: its colours span the heights of that part."""
    return shaded_relief(cut_out(raster, bounds, margin))


def _rounded(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Degrees to nine decimals: a tenth of a millimetre."""

    def round_all(value: Any) -> Any:
        return round(value, 9) if isinstance(value, float) else [round_all(part) for part in value]

    return {"type": geometry["type"], "coordinates": round_all(geometry["coordinates"])}


def _measurement_record(number: str, name: str, parts: Sequence[Measurement], surface: SurfaceModel) -> dict[str, Any]:
    return {
        "schema": "geoevidence.measurement.v1",
        "finding": number,
        "name": name,
        "crs": crs_label(surface.raster.grid.crs),
        "height_kind": surface.height_kind,
        "cell": decimal_text(surface.raster.grid.resolution[0]),
        "figures": [
            {
                "kind": part.kind,
                "quantity": part.quantity.to_dict(),
                "base": part.base,
                "uncovered_fraction": decimal_text(round(part.uncovered_fraction, 9)),
                "limitations": [limit.to_dict() for limit in part.limitations],
            }
            for part in parts
        ],
        "polygon": [[[decimal_text(float(v)) for v in point[:2]] for point in ring] for ring in parts[0].geometry["coordinates"]],
    }
