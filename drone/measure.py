"""Places, heights, lengths, areas, profiles and volumes on a surface model, each with a propagated error.

Once base and weights are chosen every figure is a linear function of heights and places, f = sum c_i z_i + ..., so one rule
gives its error: var f = c' S c. S has parts of different range: matching noise of the cells, the errors that the adjustment may
have left in the block (`ErrorField`: common to all that lies near each other), and ground below a body that nobody measured. Errors
that a body and its base share cancel in c. Boundary, place of the boundary, holes and the scale of the map grid are added.
The parts of each error are listed with it. Without an uncertainty raster there is no error, only `not_available`.
Missing cells are never interpolated here: they are counted and bounded. Nothing is classified; no legal conclusion.
Sources: JCGM 100:2008 (GUM) 5.1-5.2; Lane et al. 2003, doi:10.1002/esp.483 (error of volumes between surfaces); Rolstad et
al. 2009, doi:10.3189/002214309789470950 (spatially correlated error); Karney 2013, doi:10.1007/s00190-012-0578-z (area).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry
from numpy.typing import NDArray
from pyproj import CRS, Proj
from scipy import ndimage

from drone.bases import Base, Ground, Plane, base_of_volume, lowest_doubt
from drone.propagation import (
    Patch,
    bilinear,
    cut_patch,
    edge_gradients,
    field_sum,
    rings,
    sign_doubt,
    slopes,
    spread_of,
    stretch_field,
)
from drone.types import AccuracyReport, Contribution, HeightKind, Measurement, SurfaceModel
from geoevidence.crs import transformer
from geoevidence.errors import ConfigError, CoverageError, CrsError
from geoevidence.types import Message, Quantity

_EARTH_RADIUS = 6_371_000.0
_WGS84 = CRS.from_epsg(4326)
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """Settings of the measurements.

    uncovered_limit: share of the polygon that may be without heights (1); above it the measurement is refused.
    vertex_gsd: standard uncertainty of a vertex drawn on the survey's own pictures (GSD), per axis; a point or line likewise.
    noise_range_gsd: range of the matching noise (GSD) where the surface does not say it; about the width of the matching window.
    slow_sd_gsd: slow deformation of the block, from poses and lens (GSD), where the survey brings no error field; measured on
        synthetic flights. A surface without a stated range holds it in its uncertainty (`SurfaceConfig`).
    slow_range_gsd: its range (GSD).
    lowest_share: part of the rim that is averaged before its lowest place is taken (1); shorter follows noise.
    profile_cells: spacing of the samples of a profile (cells).
    """

    uncovered_limit: float = 0.05
    vertex_gsd: float = 2.0
    noise_range_gsd: float = 14.0
    slow_sd_gsd: float = 0.65
    slow_range_gsd: float = 400.0
    lowest_share: float = 0.025
    profile_cells: float = 1.0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "uncovered_limit": (0, 1),
            "vertex_gsd": (0, 1000),
            "noise_range_gsd": (0.1, 1000),
            "slow_sd_gsd": (0, 100),
            "slow_range_gsd": (1, 100_000),
            "lowest_share": (0.001, 0.5),
            "profile_cells": (0.1, 1000),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"measure.{name}", found=str(getattr(self, name)), low=low, high=high
                )


def base_of(text: str) -> dict[str, Any]:
    """Arguments `base`, `base_height`, `base_plane` of `measure_volume` for the text of a command.

    "rim", "lowest", "triangulated", "horizontal:<H>" or "plane:<E>,<N>,<H>,<slope east>,<slope north>" (m; slopes 1).

    Raises:
        ConfigError: anything else.
    """
    kind, _, rest = text.partition(":")
    if text in ("rim", "lowest", "triangulated"):
        return {"base": text}
    try:
        values = [float(part) for part in rest.split(",")]
    except ValueError:
        values = []
    if all(math.isfinite(v) for v in values):
        if kind == "horizontal" and len(values) == 1:
            return {"base": "horizontal", "base_height": values[0]}
        if kind == "plane" and len(values) == 5:
            return {"base": "plane", "base_plane": tuple(values)}
    raise ConfigError("drone.bad_base", found=text)


def grid_scale(crs: CRS, x: float, y: float, height: float) -> float:
    """Factor by which a length in the grid of `crs` is longer than on the ground at that place and ellipsoidal height.

    The point scale of the projection over the enlargement from ellipsoid to ground. Raises CrsError unless projected, in metres.
    """
    if not crs.is_projected or crs.axis_info[0].unit_conversion_factor != 1:
        raise CrsError("drone.crs_not_metric", found=crs.name)
    lon, lat = transformer(crs, _WGS84).transform(x, y)
    return float(math.sqrt(Proj(crs).get_factors(lon, lat).areal_scale)) / (1 + height / _EARTH_RADIUS)


def ground_height(surface: SurfaceModel | None, kind: HeightKind) -> float:
    """Height for the scale factor: the surface's median where it is metres above an ellipsoid or the sea, else 0."""
    if surface is None or kind not in ("ellipsoidal", "orthometric"):
        return 0.0
    return float(np.nanmedian(surface.raster.data[0]))


def scale_doubt(surface: SurfaceModel | None) -> float:
    """Relative standard uncertainty of a length from the grid's scale: the height above the ellipsoid that enters it.

    Orthometric heights miss the geoid (within 110 m of the ellipsoid: 64 m as a uniform error). Heights from an unknown or
    relative start say nothing: land lies between 0 and 5000 m (1443 m as a uniform error).
    """
    kind = "unknown" if surface is None else surface.height_kind
    return {"ellipsoidal": 0.0, "orthometric": 64.0}.get(kind, 1443.0) / _EARTH_RADIUS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorModel:
    """What is known of the errors of one surface, in the form in which every figure uses it.

    field: of the block, or None. noise_range: m, NaN = not known. slow_sd, slow_range: m, slow deformation where there is no field.
    scale_sd, focal_sd: relative (1). position_sd: (E, N, U) m, of the whole block; beside a field all zero, which holds it.
    vertex_sd: m, of a vertex drawn on this survey's pictures. gps_only: rests on no control.
    """

    surface: SurfaceModel
    noise_range: float
    slow_sd: float
    slow_range: float
    scale_sd: float
    focal_sd: float
    position_sd: tuple[float, float, float]
    vertex_sd: float
    gps_only: bool
    limits: tuple[Message, ...]

    @classmethod
    def of(cls, surface: SurfaceModel, accuracy: AccuracyReport | None, config: MeasureConfig) -> ErrorModel | None:
        """None where the surface comes without an uncertainty raster: then there is no error of anything on it."""
        if surface.standard_uncertainty is None:
            return None
        field, limits = surface.error_field, []
        noise_range = math.nan if surface.correlation_m is None else surface.correlation_m
        slow, slow_range, scale, focal, position = 0.0, 1.0, 0.0, 0.0, (0.0, 0.0, 0.0)
        vertex = surface.raster.grid.resolution[0]
        if accuracy is None:
            limits.append(Message(id="drone.limit_no_block_errors" if field is None else "drone.limit_block_as_one"))
            focal = surface.stretch_sd or 0.0
        else:
            vertex, focal = config.vertex_gsd * accuracy.gsd, accuracy.focal_sd
            if math.isnan(noise_range):
                noise_range = config.noise_range_gsd * accuracy.gsd
            if field is None:
                slow, slow_range = config.slow_sd_gsd * accuracy.gsd, config.slow_range_gsd * accuracy.gsd
                scale, position = accuracy.scale_sd, accuracy.position_sd
            if accuracy.control == "gps":
                limits.append(Message(id="drone.limit_gps_only"))
        return cls(
            surface=surface,
            noise_range=noise_range,
            slow_sd=slow,
            slow_range=slow_range,
            scale_sd=scale,
            focal_sd=focal,
            position_sd=position,
            vertex_sd=vertex,
            gps_only=accuracy is not None and accuracy.control == "gps",
            limits=tuple(limits),
        )

    def noise_of(self, sd: Array) -> Array:
        """Matching noise of cells from the stated uncertainty: a surface without a stated range holds the slow part in it. NaN -> 0."""
        stated = np.nan_to_num(sd, nan=0.0)
        if self.surface.correlation_m is not None:
            return stated
        return np.asarray(np.sqrt(np.maximum(stated**2 - self.slow_sd**2, 0.0)))

    def noise_sum(self, c: Array, noise: Array, cell: float) -> float:
        """Standard deviation of sum c_i e_i of the cells' noise; where its range is not known, for the least favourable one."""
        if not math.isnan(self.noise_range):
            return spread_of(c * noise, self.noise_range / cell)
        return max(spread_of(c * noise, r) for r in np.geomspace(1.0, 2.0 * max(c.shape), 10))

    def block_sum(self, x: Array, y: Array, along: tuple[Array | float, Array | float, Array | float]) -> Array:
        """(K,) sum of `along` . error over places (m), by the modes of the field; empty without a field."""
        field = self.surface.error_field
        return np.zeros(0) if field is None else field_sum(field, x, y, along)

    def place_sd(self, x: float, y: float) -> tuple[float, float, float]:
        """(E, N, U) m: standard uncertainty of the block's position at a place."""
        field = self.surface.error_field
        if field is None:
            return self.position_sd
        east, north, up = np.sqrt((field.at(np.array([[x, y]]))[0] ** 2).sum(axis=1))
        return float(east), float(north), float(up)

    def shift_sd(self, shape: shapely.Geometry) -> float:
        """m per axis: how far the survey may lie off a shape that was given in coordinates."""
        east, north, _ = self.place_sd(shape.centroid.x, shape.centroid.y)
        return math.hypot(east, north) / math.sqrt(2)


def stated_figure(
    kind: str,
    value: float,
    unit: str,
    parts: Mapping[str, float] | None,
    *,
    propagation: str,
    shape: shapely.Geometry,
    crs: CRS,
    limits: Sequence[Message],
    base: str = "",
    uncovered: float = 0.0,
) -> Measurement:
    """A figure with its error and what that is made of; `parts` None = not available."""
    contributions = () if parts is None else tuple(Contribution(kind=name, standard_uncertainty=sd) for name, sd in parts.items())
    total = None if parts is None else math.sqrt(sum(sd**2 for sd in parts.values()))
    return Measurement(
        kind=kind,
        quantity=Quantity(value=value, unit=unit, standard_uncertainty=total, propagation=propagation),
        geometry=shapely.geometry.mapping(shape),
        crs=crs,
        base=base,
        uncovered_fraction=uncovered,
        limitations=tuple(limits),
        contributions=contributions,
    )


def norm_of(vector: Array) -> float:
    return float(np.sqrt(np.sum(vector**2)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Heights of a surface at places. z, sd: (n,) m (sd of the noise, None without); slope: (n, 2) east, north (1)."""

    places: Array
    z: Array
    sd: Array | None
    slope: Array


def sample_heights(surface: SurfaceModel, places: Array) -> Samples:
    """Bilinear between cells; NaN where one of the four cells is without height. places: (n, 2) E, N in the surface's CRS."""
    grid, errors = surface.raster.grid, surface.standard_uncertainty
    return Samples(
        places=places,
        z=bilinear(grid, surface.raster.data[0], places),
        sd=None if errors is None else bilinear(grid, errors.data[0], places),
        slope=slopes(grid, surface.raster.data[0], places),
    )


def _known_samples(surface: SurfaceModel, places: Array) -> Samples:
    found = sample_heights(surface, places)
    if not np.isfinite(found.z).all():
        x, y = places[~np.isfinite(found.z)][0]
        raise CoverageError("drone.place_uncovered", east=f"{x:.2f}", north=f"{y:.2f}")
    return found


def _height_parts(model: ErrorModel, found: Samples, weight: Array, vertex_sd: float) -> dict[str, float]:
    """Contributions to sum weight_i z_i of few places: noise, block, the place itself on a slope."""
    assert found.sd is not None
    c = weight * model.noise_of(found.sd)
    d = np.hypot(*(found.places[:, None] - found.places[None]).transpose(2, 0, 1))
    if math.isnan(model.noise_range):
        # not known how far it is alike: two errors at their worst
        noise = float(np.abs(c).sum())
    else:
        noise = math.sqrt(max(float(c @ np.exp(-((d / model.noise_range) ** 2)) @ c), 0.0))
    parts = {"noise": noise, "boundary": vertex_sd * norm_of(weight[:, None] * found.slope)}
    if model.surface.error_field is not None:
        x, y = found.places.T
        # a place on the survey's own pictures moves with the survey
        parts["block"] = norm_of(model.block_sum(x, y, (0.0, 0.0, weight)))
    else:
        slow = math.sqrt(max(float(weight @ np.exp(-((d / model.slow_range) ** 2)) @ weight), 0.0)) * model.slow_sd
        parts["block"] = math.hypot(slow, abs(float(weight.sum())) * model.position_sd[2])
    parts["focal"] = abs(float(weight @ (found.z - found.z.mean()))) * model.focal_sd
    return parts


def measure_point(
    surface: SurfaceModel,
    place: shapely.Point,
    *,
    accuracy: AccuracyReport | None,
    vertex_sd: float | None = None,
    config: MeasureConfig = MeasureConfig(),
) -> tuple[Measurement, Measurement, Measurement]:
    """East, north (m in the surface's CRS, of the spot that was pointed at) and height (m, in the surface's heights) of a place.

    Raises:
        CoverageError: no height there.
    """
    crs = surface.raster.grid.crs
    found = _known_samples(surface, np.array([[place.x, place.y]]))
    model = ErrorModel.of(surface, accuracy, config)
    limits = [Message(id="drone.limit_surface_not_ground"), *_error_limits(model)]
    east: dict[str, float] | None = None
    north, up = east, east
    if model is not None:
        vertex = model.vertex_sd if vertex_sd is None else vertex_sd
        block = model.place_sd(place.x, place.y)
        east, north = {"block": block[0], "boundary": vertex}, {"block": block[1], "boundary": vertex}
        up = _height_parts(model, found, np.ones(1), vertex)
    common: dict[str, Any] = {"propagation": "drone.propagation_place", "shape": place, "crs": crs, "limits": limits}
    return (
        stated_figure("east", place.x, "m", east, **common),
        stated_figure("north", place.y, "m", north, **common),
        stated_figure("height", float(found.z[0]), "m", up, **common),
    )


def measure_height(
    surface: SurfaceModel,
    line: shapely.LineString,
    *,
    accuracy: AccuracyReport | None,
    vertex_sd: float | None = None,
    config: MeasureConfig = MeasureConfig(),
) -> Measurement:
    """Height of the last place of a line above its first, m. What both share (position, slow deformation) cancels.

    Raises:
        CoverageError: no height at one of them.
    """
    ends = np.asarray(line.coords)[[0, -1], :2]
    found = _known_samples(surface, ends)
    model = ErrorModel.of(surface, accuracy, config)
    parts = None
    if model is not None:
        parts = _height_parts(model, found, np.array([-1.0, 1.0]), model.vertex_sd if vertex_sd is None else vertex_sd)
    return stated_figure(
        "height_difference",
        float(found.z[1] - found.z[0]),
        "m",
        parts,
        propagation="drone.propagation_height",
        shape=line,
        crs=surface.raster.grid.crs,
        limits=[Message(id="drone.limit_surface_not_ground"), *_error_limits(model)],
    )


def measure_length(
    surface: SurfaceModel,
    line: shapely.LineString,
    *,
    accuracy: AccuracyReport | None,
    vertex_sd: float | None = None,
    config: MeasureConfig = MeasureConfig(),
) -> tuple[Measurement, Measurement]:
    """Horizontal length of a line on the ground (not the grid's: see `grid_scale`), and its slope length from vertex to vertex; m.

    Raises:
        CoverageError: no height at one of the vertices. CrsError: the surface's CRS is not projected in metres.
    """
    crs = surface.raster.grid.crs
    spots = np.asarray(line.coords)[:, :2]
    spots = spots[np.concatenate([[True], np.any(np.diff(spots, axis=0) != 0, axis=1)])]
    scale = grid_scale(crs, line.centroid.x, line.centroid.y, ground_height(surface, surface.height_kind))
    found = _known_samples(surface, spots)
    step = np.diff(spots, axis=0) / scale
    flat = np.hypot(*step.T)
    rise = np.diff(found.z)
    sloped = np.hypot(flat, rise)
    model = ErrorModel.of(surface, accuracy, config)
    limits = [Message(id="drone.limit_line_drawn"), *_error_limits(model)]
    results = []
    for kind, each in (("length_horizontal", flat), ("length_slope", sloped)):
        parts = None
        value = float(each.sum())
        if model is not None:
            vertex = model.vertex_sd if vertex_sd is None else vertex_sd
            # d length / d place of each vertex: unit vectors of its two edges
            gradient = np.zeros((len(spots), 3))
            edges = np.column_stack([step, rise if kind == "length_slope" else np.zeros(len(step))]) / each[:, None]
            gradient[:-1] -= edges
            gradient[1:] += edges
            moved = gradient[:, :2] + gradient[:, 2:] * found.slope
            parts = {"boundary": vertex * norm_of(moved)}
            if kind == "length_slope":
                height = _height_parts(model, found, gradient[:, 2], 0.0)
                parts["noise"], parts["focal"] = height["noise"], height["focal"]
            if surface.error_field is not None:
                x, y = spots.T
                parts["block"] = norm_of(model.block_sum(x, y, (gradient[:, 0], gradient[:, 1], gradient[:, 2])))
            else:
                parts["block"] = model.scale_sd * value
                if kind == "length_slope":
                    parts["block"] = math.hypot(parts["block"], height["block"])
            parts["grid_scale"] = scale_doubt(surface) * value
        results.append(
            stated_figure(kind, value, "m", parts, propagation="drone.propagation_length", shape=line, crs=crs, limits=limits)
        )
    return results[0], results[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """Heights along a line. distance: (n,) m on the ground from its start; places: (n, 2) E, N; height: (n,) m, NaN = nothing known;

    standard_uncertainty: (n,) m of each height against the world, or None where it is not available.
    """

    distance: Array
    places: Array
    height: Array
    standard_uncertainty: Array | None


def measure_profile(
    surface: SurfaceModel, line: shapely.LineString, *, accuracy: AccuracyReport | None, config: MeasureConfig = MeasureConfig()
) -> Profile:
    """Heights every `profile_cells` cells along a line, its vertices included; at most 20 000 samples.

    Raises:
        CoverageError: more samples. CrsError: the surface's CRS is not projected in metres.
    """
    crs = surface.raster.grid.crs
    spacing = config.profile_cells * surface.raster.grid.resolution[0]
    if line.length / spacing + len(line.coords) > 20_000:
        raise CoverageError("drone.profile_too_long", length=f"{line.length:.0f}", limit=f"{20_000 * spacing:.0f}")
    scale = grid_scale(crs, line.centroid.x, line.centroid.y, ground_height(surface, surface.height_kind))
    dense = shapely.segmentize(line, spacing)
    places = np.asarray(dense.coords)[:, :2]
    distance = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(places, axis=0).T))]) / scale
    found = sample_heights(surface, places)
    model = ErrorModel.of(surface, accuracy, config)
    sd = None
    if model is not None and found.sd is not None:
        field = surface.error_field
        block = (
            np.hypot(model.position_sd[2], model.slow_sd) if field is None else np.sqrt((field.at(places)[:, 2] ** 2).sum(axis=1))
        )
        sd = np.where(np.isfinite(found.z), np.hypot(model.noise_of(found.sd), block), np.nan)
    return Profile(distance=distance, places=places, height=found.z, standard_uncertainty=sd)


def _error_limits(model: ErrorModel | None) -> tuple[Message, ...]:
    return (Message(id="drone.limit_no_accuracy"),) if model is None else model.limits


def measure_area(
    polygon: shapely.Polygon,
    *,
    crs: CRS,
    accuracy: AccuracyReport | None,
    surface: SurfaceModel | None = None,
    vertex_sd: float | None = None,
    config: MeasureConfig = MeasureConfig(),
) -> Measurement:
    """Horizontal area inside a polygon on the ground, m2 (not the grid's: see `grid_scale`).

    vertex_sd: standard uncertainty of each vertex (m, per axis); None = `vertex_gsd`. The vertices are taken as independent.
    Without `accuracy`, and without a surface that states its errors, the uncertainty is not available.

    Raises:
        CrsError: `crs` is not projected in metres.
    """
    centre = polygon.centroid
    kind: HeightKind = surface.height_kind if surface is not None else "unknown"
    scale = grid_scale(crs, centre.x, centre.y, ground_height(surface, kind))
    area = polygon.area / scale**2
    limits = [Message(id="drone.limit_boundary_drawn")]
    model = None if surface is None else ErrorModel.of(surface, accuracy, config)
    parts: dict[str, float] | None = None
    if accuracy is not None or model is not None:
        vertex = model.vertex_sd if model is not None else config.vertex_gsd * accuracy.gsd  # type: ignore[union-attr]
        vertex = vertex if vertex_sd is None else vertex_sd
        # Shoelace: dA/dx_i = (y_i+1 - y_i-1) / 2, dA/dy_i = (x_i-1 - x_i+1) / 2.
        spread = sum(float(np.sum(((np.roll(p, -1, 0) - np.roll(p, 1, 0)) / 2) ** 2)) for p in rings(polygon))
        parts = {"boundary": math.sqrt(spread) * vertex / scale**2}
        if surface is not None and surface.error_field is not None:
            parts["block"] = norm_of(_area_modes(surface, polygon)) / scale**2
        else:
            parts["block"] = 2 * (accuracy.scale_sd if accuracy is not None else 0.0) * area
        parts["grid_scale"] = 2 * scale_doubt(surface) * area
        if accuracy is not None and accuracy.control == "gps":
            limits.append(Message(id="drone.limit_gps_only"))
    else:
        limits.append(Message(id="drone.limit_no_accuracy"))
    return stated_figure("area", area, "m2", parts, propagation="drone.propagation_area", shape=polygon, crs=crs, limits=limits)


def _area_modes(surface: SurfaceModel, polygon: shapely.Polygon) -> Array:
    """(K,) m2 of the grid: what the modes of the block's error do to the area, along an outline as fine as the field."""
    assert surface.error_field is not None
    total = np.zeros(surface.error_field.factor.shape[0])
    fine = shapely.segmentize(shapely.geometry.polygon.orient(polygon), min(surface.error_field.spacing) / 2)
    for ring in rings(fine):
        d = (np.roll(ring, -1, 0) - np.roll(ring, 1, 0)) / 2
        total += field_sum(surface.error_field, ring[:, 0], ring[:, 1], (d[:, 1], -d[:, 0], 0.0))
    return total


def measure_covered(surface: SurfaceModel, accuracy: AccuracyReport) -> Measurement:
    """Ground area for which the surface model has heights, m2, with its error.

    The edge is known to a cell: each run of edge cells of one matching window is off by up to one cell (uniform).
    """
    grid = surface.raster.grid
    known = np.isfinite(surface.raster.data[0])
    cell = grid.resolution[0]
    count = int(np.count_nonzero(known))
    row, col = (float(np.arange(len(line)) @ line) / max(1, count) for line in (known.sum(axis=1), known.sum(axis=0)))
    x, y = grid.transform @ (col + 0.5, row + 0.5)
    scale = grid_scale(grid.crs, x, y, ground_height(surface, surface.height_kind))
    area = float(count) * grid.cell_area / scale**2
    edge = np.count_nonzero(known & ~ndimage.binary_erosion(known)) * cell
    run = max(14 * accuracy.gsd, cell)
    uncertainty = math.hypot(cell / math.sqrt(3) * math.sqrt(edge * run), 2 * accuracy.scale_sd * area)
    west, south, east, north = grid.bounds
    return Measurement(
        kind="covered_area",
        quantity=Quantity(value=area, unit="m2", standard_uncertainty=uncertainty, propagation="drone.propagation_covered"),
        geometry=shapely.geometry.mapping(shapely.box(west, south, east, north)),
        crs=grid.crs,
        base="",
        uncovered_fraction=0.0,
        limitations=(Message(id="drone.limit_covered_area"),),
    )


def measure_volume(
    surface: SurfaceModel,
    polygon: shapely.Polygon,
    *,
    accuracy: AccuracyReport | None,
    base: Base = "rim",
    base_height: float | None = None,
    base_plane: Plane | None = None,
    vertex_sd: float | None = None,
    shift_sd: float = 0.0,
    config: MeasureConfig = MeasureConfig(),
) -> tuple[Measurement, Measurement, Measurement]:
    """Volume of material above (fill) and of hollow below (cut) a base inside a polygon, and net = fill - cut; m3.

    polygon: in the surface's CRS. base: "rim" = plane fitted robustly to the heights along the outer ring; "lowest" = level plane
    through the lowest place of the ring; "triangulated" = triangles between the heights along the ring; "horizontal" = at
    `base_height` (m, in the surface's heights); "plane" = `base_plane` (E, N, height, slope east, slope north).
    vertex_sd: standard uncertainty of each vertex (m); None = `vertex_gsd`. shift_sd: common uncertainty per axis of a polygon
    that was not drawn on this survey but given in coordinates (m): the survey's position then counts.
    Cells without heights are left out of the value; they widen the uncertainty as if they were like the rest.
    Without an uncertainty raster the uncertainty is not available.

    Raises:
        CoverageError: more than `uncovered_limit` of the polygon, or too much of its rim, is without heights.
        CrsError: the surface's CRS is not projected in metres.
        ValueError: `base_height` or `base_plane` is missing for its base, or given for another.
    """
    if (base == "horizontal") != (base_height is not None) or (base == "plane") != (base_plane is not None):
        raise ValueError("base_height goes with base='horizontal', base_plane with base='plane'")
    given = base_plane
    if base_height is not None:
        given = (0.0, 0.0, base_height, 0.0, 0.0)
    crs = surface.raster.grid.crs
    scale = grid_scale(crs, polygon.centroid.x, polygon.centroid.y, ground_height(surface, surface.height_kind))
    patch = patch_of(surface, polygon)
    known = np.isfinite(patch.z)
    uncovered = check_covered(patch, known, config)
    model = ErrorModel.of(surface, accuracy, config)
    noise = None if model is None or patch.sd is None else np.where(known, model.noise_of(patch.sd), 0.0)
    alike = patch.cell if model is None or math.isnan(model.noise_range) else model.noise_range
    ground, former = base_of_volume(
        patch, polygon, base, given=given, lowest_share=config.lowest_share, noise=noise, noise_range=alike
    )
    above = np.where(known, np.where(known, patch.z, 0.0) - ground.level, 0.0)
    inside = np.where(known, patch.share, 0.0) * patch.cell_area / scale**2
    limits = [Message(id=f"drone.limit_base_{base}"), Message(id="drone.limit_surface_not_ground")]
    if uncovered > 0:
        limits.append(Message(id="drone.limit_uncovered", values={"share": f"{100 * uncovered:.1f}"}))
    if shift_sd > 0:
        limits.append(Message(id="drone.limit_polygon_elsewhere"))
    limits += _error_limits(model)
    moved = _moved_volumes(surface, polygon, base, given, shift_sd, scale, config) if model is not None and shift_sd > 0 else []
    results = []
    for kind in KINDS:
        weight = inside * part_of(kind, above)
        value = float(np.sum(weight * above))
        parts: dict[str, float] | None = None
        if model is not None and noise is not None:
            c = weight - ground.pulled(weight)
            parts = {"noise": model.noise_sum(c, noise, patch.cell)}
            parts["block"] = _block_part(model, patch, c, weight, above, ground, value)
            parts["focal"] = abs(_stretched(patch, known, c, value, base)) * model.focal_sd
            if former is not None:
                parts["base"] = former.spread(c, patch.cell)
            if base == "lowest":
                parts["base"] = abs(float(weight.sum())) * lowest_doubt(patch, polygon, config.lowest_share, noise, alike)
            vertex = model.vertex_sd if vertex_sd is None else vertex_sd
            edge = sum(float(np.sum(g**2)) for g in edge_gradients(patch, above * part_of(kind, above), polygon))
            parts["boundary"] = math.sqrt(edge) * vertex / scale**2
            if moved:
                # East and north, there and back: half of the sum of squares is the variance of a shift by shift_sd on both axes.
                parts["position"] = math.sqrt(sum((other[kind] - value) ** 2 for other in moved) / 2)
            if uncovered > 0:
                parts["holes"] = hole_doubt(patch, known, above * part_of(kind, above), scale)
            if kind != "volume_net":
                parts["sign"] = sign_doubt(noise, inside, above)
            parts["grid_scale"] = 2 * scale_doubt(surface) * abs(value)
        results.append(
            stated_figure(
                kind,
                value,
                "m3",
                parts,
                propagation="drone.propagation_volume",
                shape=polygon,
                crs=crs,
                limits=limits,
                base=base,
                uncovered=uncovered,
            )
        )
    fill, cut, net = results
    return fill, cut, net


KINDS = ("volume_fill", "volume_cut", "volume_net")


def part_of(kind: str, above: Array) -> Array:
    """What a height above the base counts for: 1 or 0 for fill, -1 or 0 for cut, 1 for net."""
    if kind == "volume_fill":
        return (above > 0).astype(np.float64)
    return -(above < 0).astype(np.float64) if kind == "volume_cut" else np.ones_like(above)


def patch_of(surface: SurfaceModel, polygon: shapely.Polygon) -> Patch:
    errors = surface.standard_uncertainty
    return cut_patch(surface.raster.grid, surface.raster.data[0], None if errors is None else errors.data[0], polygon)


def check_covered(patch: Patch, known: NDArray[np.bool_], config: MeasureConfig) -> float:
    """Share of the polygon without heights. Raises CoverageError above the limit."""
    uncovered = max(1 - float(patch.share[known].sum()) / float(patch.share.sum()), 0.0)
    if uncovered > config.uncovered_limit:
        raise CoverageError(
            "drone.polygon_uncovered", uncovered=f"{100 * uncovered:.1f}", limit=f"{100 * config.uncovered_limit:g}"
        )
    return uncovered


def hole_doubt(patch: Patch, known: NDArray[np.bool_], above: Array, scale: float) -> float:
    """Volume (m3) that the cells without heights hold if each is like the nearest cell with one; above: what counts there (m)."""
    missing = ~known & (patch.share > 0)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    typical = np.abs(above)[tuple(part[missing] for part in nearest)]
    return float(np.sum(patch.share[missing] * typical)) * patch.cell_area / scale**2


def _block_part(model: ErrorModel, patch: Patch, c: Array, weight: Array, above: Array, ground: Ground, value: float) -> float:
    """Standard uncertainty (m3) of a volume from the errors that the adjustment left, the polygon moving with the survey.

    A cell rises by eU; over a sloping base, moving by e is as good as sinking by slope . e; and where the survey is stretched, the
    ground below a height is larger by the growth of the area.
    """
    field = model.surface.error_field
    if field is None:
        slow = spread_of(c, model.slow_range / patch.cell) * model.slow_sd
        world = abs(float(weight.sum())) * model.position_sd[2] if ground.pull is None else 0.0
        return math.sqrt(slow**2 + world**2 + (3 * model.scale_sd * value) ** 2)
    used = (c != 0) | (weight != 0)
    x, y, each = patch.x[used] + patch.middle[0], patch.y[used] + patch.middle[1], c[used]
    modes = field_sum(field, x, y, (-ground.slope[0] * each, -ground.slope[1] * each, each))
    modes = modes + field_sum(stretch_field(field), x, y, (0.0, 0.0, (weight * above)[used]))
    return norm_of(modes)


def _stretched(patch: Patch, known: NDArray[np.bool_], c: Array, value: float, base: Base) -> float:
    """d volume / d (relative stretch of heights about the ground around), m3: a wrong focal length does that."""
    if base in ("horizontal", "plane"):
        middle = float(np.average(patch.z[known], weights=patch.rim[known])) if (patch.rim[known] > 0).any() else 0.0
        return float(np.sum(c[known] * (patch.z[known] - middle)))
    return value


def _moved_volumes(
    surface: SurfaceModel,
    polygon: shapely.Polygon,
    base: Base,
    given: Plane | None,
    shift: float,
    scale: float,
    config: MeasureConfig,
) -> list[dict[str, float]]:
    """The volumes with the polygon moved by `shift` (m) west, east, south and north; places without heights count nothing.

    Evaluated, not linearised: a polygon drawn close around a pit loses its slope when it is moved.
    """
    found = []
    for dx, dy in ((-shift, 0.0), (shift, 0.0), (0.0, -shift), (0.0, shift)):
        there = shapely.affinity.translate(polygon, dx, dy)
        patch = patch_of(surface, there)
        known = np.isfinite(patch.z)
        try:
            ground, _ = base_of_volume(
                patch, there, base, given=given, lowest_share=config.lowest_share, noise=None, noise_range=0.0
            )
        except CoverageError:  # moved off the survey: nothing is known there, so all of the volume is in doubt
            found.append(dict.fromkeys(KINDS, 0.0))
            continue
        above = np.where(known, np.where(known, patch.z, 0.0) - ground.level, 0.0)
        inside = np.where(known, patch.share, 0.0) * patch.cell_area / scale**2
        found.append({kind: float(np.sum(inside * part_of(kind, above) * above)) for kind in KINDS})
    return found
