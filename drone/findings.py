"""What a survey and its measurements state: findings with their error, limits and sources, and named gaps.

A finding never says more than was measured: positions untested by check points are said to be untested, water and crowns to
be unmeasured, and no finding is a legal conclusion. Texts are message ids (geoevidence/messages).
"""

from __future__ import annotations

import math
from datetime import UTC, date
from typing import Any

import numpy as np
import shapely
import shapely.geometry
import shapely.ops
from affine import Affine
from pyproj import CRS

from drone.measure import measure_covered
from drone.products import GeoidUsed, source_digests
from drone.types import AccuracyReport, Flight, Reconstruction, SurfaceModel
from drone.water import Water
from geoevidence.crs import crs_label
from geoevidence.types import Finding, Message, Quantity


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


def crs_text(crs: CRS) -> str:
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


def common_limits(report: AccuracyReport, crs: CRS, height_kind: str, when: tuple[date, date] | None) -> list[Message]:
    limits = [Message(id=f"drone.limit_heights_{height_kind}"), Message(id="drone.limit_auxiliary_survey")]
    if report.control == "gps":
        limits.insert(0, Message(id="drone.limit_gps_only"))
    if "2000" in crs.name and report.control == "gps":
        limits.append(Message(id="drone.limit_wgs84_as_cgcs2000"))
    if when is not None:
        limits.append(Message(id="drone.limit_time_claimed"))
    return limits


def survey_findings(
    block: Reconstruction, surface: SurfaceModel, when: tuple[date, date] | None, geoid: GeoidUsed | None = None
) -> tuple[list[Finding], list[Message]]:
    flight, report = block.flight, block.accuracy
    common = tuple(common_limits(report, flight.crs, surface.height_kind, when))
    if geoid is not None:
        common = (*common, Message(id="drone.limit_geoid", values={"file": geoid.file}))
    sources = source_digests(flight)
    footprint, crs = _footprint(surface), crs_text(flight.crs)
    products = (
        "cloud.copc.laz",
        "dsm.tif",
        "dsm_uncertainty.tif",
        "mesh/surface.glb",
        "mesh/surface.jpg",
        "mesh/surface.mtl",
        "mesh/surface.obj",
        "orthomosaic.tif",
        "preview-dsm.png",
        "preview-orthomosaic.png",
        "quality-en.pdf",
        "quality.json",
        "quality.pdf",
        "sources.tif",
        "water.tif",
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


def water_gaps(water: Water) -> list[Message]:
    """That heights are missing because water was found, and where to see it; nothing when none was found."""
    if not water.bodies:
        return []
    area = sum(body.area for body in water.bodies)
    gaps = [
        Message(id="drone.gap_water", values={"count": len(water.bodies), "area": f"{area:.2g}" if area < 10 else f"{area:.0f}"})
    ]
    open_rim = sum(body.open_rim for body in water.bodies)
    if open_rim > 0:
        gaps.append(Message(id="drone.gap_water_open", values={"length": f"{open_rim:.0f}"}))
    return gaps


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
