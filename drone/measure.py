"""Areas and volumes on a surface model, each with a propagated error.

Everything measured is a linear function of the cell heights once the base is chosen: V = sum c_i z_i, where the base
plane, itself fitted to cells, enters with negative weights. So one formula, var V = c' S c, covers the noise of the cells, the
noise of the base and the errors that both share and that cancel. S has three parts, each with its own range: matching noise
of the cells, slow deformation of the block, and the roughness of the ground along the rim. Scale, focal length, polygon
vertices, cells without data and the rectified noise of cut and fill are added in quadrature.
Missing cells are never interpolated here: they are counted and bounded. Nothing is classified; no legal conclusion.
Sources: JCGM 100:2008 (GUM) 5.1-5.2; Lane et al. 2003, doi:10.1002/esp.483 (error of volumes between surfaces); Rolstad et
al. 2009, doi:10.3189/002214309789470950 (spatially correlated error); Karney 2013, doi:10.1007/s00190-012-0578-z (area).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry
from numpy.typing import NDArray
from pyproj import CRS, Proj
from scipy import fft, ndimage

from drone.types import AccuracyReport, HeightKind, Measurement, SurfaceModel
from geoevidence.crs import parse_crs, transform_geometry, transformer
from geoevidence.errors import ConfigError, CoverageError, CrsError, FormatError
from geoevidence.types import Message, Quantity

Base = Literal["rim", "lowest", "horizontal"]
_EARTH_RADIUS = 6_371_000.0
_WGS84 = CRS.from_epsg(4326)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """Settings of the measurements.

    uncovered_limit: share of the polygon that may be without heights (1); above it the measurement is refused.
    vertex_gsd: standard uncertainty of a polygon vertex drawn on the survey's own pictures (GSD), per axis.
    noise_range_gsd: range of the matching noise (GSD); about the width of the matching window on the ground.
    slow_sd_gsd: slow deformation of the block, from poses and lens (GSD); part of the surface's uncertainty (`SurfaceConfig`).
    slow_range_gsd: its range (GSD); with the one before measured on synthetic flights.
    rim_range: range of the ground's roughness along the rim, as a share of the polygon's width (1).
    """

    uncovered_limit: float = 0.05
    vertex_gsd: float = 2.0
    noise_range_gsd: float = 14.0
    slow_sd_gsd: float = 0.65
    slow_range_gsd: float = 400.0
    rim_range: float = 0.25

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "uncovered_limit": (0, 1),
            "vertex_gsd": (0, 1000),
            "noise_range_gsd": (0.1, 1000),
            "slow_sd_gsd": (0, 100),
            "slow_range_gsd": (1, 100_000),
            "rim_range": (0.01, 10),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"measure.{name}", found=str(getattr(self, name)), low=low, high=high
                )


def read_polygon(geometry: Mapping[str, Any], crs: CRS, target: CRS) -> shapely.Polygon:
    """A GeoJSON Polygon as a valid polygon in `target`.

    Raises:
        FormatError: another geometry, open or crossing rings, or no area.
        CrsError: cannot be transformed.
    """
    if not isinstance(geometry, Mapping) or geometry.get("type") != "Polygon":
        raise FormatError(
            "drone.not_a_polygon", found=str(geometry.get("type") if isinstance(geometry, Mapping) else type(geometry).__name__)
        )
    rings = geometry.get("coordinates")
    if not isinstance(rings, (list, tuple)) or not rings or not all(_is_ring(ring) for ring in rings):
        raise FormatError("drone.bad_polygon", reason="coordinates")
    plain = {"type": "Polygon", "coordinates": [[[float(p[0]), float(p[1])] for p in ring] for ring in rings]}
    try:
        polygon = shapely.geometry.shape(transform_geometry(plain, crs, target))
    except (ValueError, OverflowError, shapely.errors.ShapelyError) as error:
        raise FormatError("drone.bad_polygon", reason=str(error)) from error
    if not polygon.is_valid or polygon.area <= 0:
        raise FormatError("drone.bad_polygon", reason=shapely.is_valid_reason(polygon))
    return polygon


def _is_ring(ring: Any) -> bool:
    """At least four positions, each at least two finite numbers below what any reference system has."""
    return (
        isinstance(ring, (list, tuple))
        and len(ring) >= 4
        and all(
            isinstance(p, (list, tuple))
            and len(p) >= 2
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in p[:2])
            for p in ring
        )
    )


def grid_scale(crs: CRS, x: float, y: float, height: float) -> float:
    """Factor by which a length in the grid of `crs` is longer than on the ground at that place and ellipsoidal height.

    The point scale of the projection over the enlargement from ellipsoid to ground. Raises CrsError unless projected, in metres.
    """
    if not crs.is_projected or crs.axis_info[0].unit_conversion_factor != 1:
        raise CrsError("drone.crs_not_metric", found=crs.name)
    lon, lat = transformer(crs, _WGS84).transform(x, y)
    return float(math.sqrt(Proj(crs).get_factors(lon, lat).areal_scale)) / (1 + height / _EARTH_RADIUS)


def _ground_height(surface: SurfaceModel | None, kind: HeightKind) -> float:
    """Height for the scale factor: the surface's median where it is metres above an ellipsoid or the sea, else 0."""
    if surface is None or kind not in ("ellipsoidal", "orthometric"):
        return 0.0
    return float(np.nanmedian(surface.raster.data[0]))


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
    Without `accuracy` the uncertainty is not available.

    Raises:
        CrsError: `crs` is not projected in metres.
    """
    centre = polygon.centroid
    kind: HeightKind = surface.height_kind if surface is not None else "unknown"
    scale = grid_scale(crs, centre.x, centre.y, _ground_height(surface, kind))
    area = polygon.area / scale**2
    limits = [Message(id="drone.limit_boundary_drawn")]
    if accuracy is None:
        uncertainty = None
        limits.append(Message(id="drone.limit_no_accuracy"))
    else:
        sd = vertex_sd if vertex_sd is not None else config.vertex_gsd * accuracy.gsd
        # Shoelace: dA/dx_i = (y_i+1 - y_i-1) / 2, dA/dy_i = (x_i-1 - x_i+1) / 2.
        spread = sum(float(np.sum(((np.roll(p, -1, 0) - np.roll(p, 1, 0)) / 2) ** 2)) for p in _rings(polygon))
        uncertainty = math.hypot(math.sqrt(spread) * sd, 2 * accuracy.scale_sd * area)
        if accuracy.control == "gps":
            limits.append(Message(id="drone.limit_gps_only"))
    return Measurement(
        kind="area",
        quantity=Quantity(value=area, unit="m2", standard_uncertainty=uncertainty, propagation="drone.propagation_area"),
        geometry=shapely.geometry.mapping(polygon),
        crs=crs,
        base="",
        uncovered_fraction=0.0,
        limitations=tuple(limits),
    )


def _rings(polygon: shapely.Polygon) -> list[NDArray[np.float64]]:
    """Vertices of each ring, (n, 2), without the repeated last one."""
    return [np.asarray(ring.coords)[:-1, :2] for ring in (polygon.exterior, *polygon.interiors)]


def measure_covered(surface: SurfaceModel, accuracy: AccuracyReport) -> Measurement:
    """Ground area for which the surface model has heights, m2, with its error.

    The edge is known to a cell: each run of edge cells of one matching window is off by up to one cell (uniform).
    """
    grid = surface.raster.grid
    known = np.isfinite(surface.raster.data[0])
    cell = grid.resolution[0]
    row, col = ndimage.center_of_mass(known)
    x, y = grid.transform @ (col + 0.5, row + 0.5)
    scale = grid_scale(grid.crs, x, y, _ground_height(surface, surface.height_kind))
    area = float(np.count_nonzero(known)) * grid.cell_area / scale**2
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Patch:
    """The cells that a polygon touches, with a rim around. All (rows, cols); x, y in m from the middle of the patch.

    share: part of the cell inside the polygon (1). rim: weight of the cell as a sample of the boundary (0 off it).
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    z: NDArray[np.float64]
    sd: NDArray[np.float64] | None
    share: NDArray[np.float64]
    rim: NDArray[np.float64]
    cell_area: float
    middle: tuple[float, float]


def _cut_out(surface: SurfaceModel, polygon: shapely.Polygon) -> _Patch:
    grid = surface.raster.grid
    t, cell = grid.transform, grid.resolution[0]
    xmin, ymin, xmax, ymax = polygon.bounds
    left, right = math.floor((xmin - t.c) / t.a) - 3, math.ceil((xmax - t.c) / t.a) + 3
    top, bottom = math.floor((ymax - t.f) / t.e) - 3, math.ceil((ymin - t.f) / t.e) + 3
    rows, cols = bottom - top, right - left
    if rows * cols > 200_000_000:
        raise CoverageError("drone.polygon_too_large", rows=rows, cols=cols)

    def window(values: NDArray[Any]) -> NDArray[np.float64]:
        out = np.full((rows, cols), np.nan)
        r0, r1, c0, c1 = max(top, 0), min(bottom, values.shape[0]), max(left, 0), min(right, values.shape[1])
        if r1 > r0 and c1 > c0:
            out[r0 - top : r1 - top, c0 - left : c1 - left] = values[r0:r1, c0:c1]
        return out

    z = window(surface.raster.data[0])
    sd = window(surface.standard_uncertainty.data[0]) if surface.standard_uncertainty is not None else None
    east, north = t.c + (left + np.arange(cols) + 0.5) * t.a, t.f + (top + np.arange(rows) + 0.5) * t.e
    x, y = np.meshgrid(east, north)
    share = np.zeros((rows, cols))
    half_x, half_y = abs(t.a) / 2, abs(t.e) / 2
    shapely.prepare(polygon)
    share[shapely.contains_xy(polygon, x, y)] = 1.0
    # Cells that the boundary may cross get the exact part.
    line = polygon.boundary
    shapely.prepare(line)
    mask = np.zeros((rows, cols), bool)
    for ring in _rings(polygon):
        closed = np.vstack([ring, ring[:1]])
        for p, q in itertools.pairwise(closed):
            n = max(2, int(np.ceil(np.hypot(*(q - p)) / (0.5 * cell))) + 1)
            s = np.linspace(0, 1, n)[:, None]
            spots = p + s * (q - p)
            mask[((spots[:, 1] - t.f) / t.e - top).astype(int), ((spots[:, 0] - t.c) / t.a - left).astype(int)] = True
    mask = ndimage.binary_dilation(mask, structure=np.ones((3, 3)))
    boxes = shapely.box(x[mask] - half_x, y[mask] - half_y, x[mask] + half_x, y[mask] + half_y)
    share[mask] = shapely.area(shapely.intersection(boxes, polygon)) / grid.cell_area
    rim = np.zeros((rows, cols))
    rim[mask] = shapely.length(shapely.intersection(boxes, polygon.exterior))
    middle = (float(east.mean()), float(north.mean()))
    return _Patch(x=x - middle[0], y=y - middle[1], z=z, sd=sd, share=share, rim=rim, cell_area=grid.cell_area, middle=middle)


def measure_volume(
    surface: SurfaceModel,
    polygon: shapely.Polygon,
    *,
    accuracy: AccuracyReport | None,
    base: Base = "rim",
    base_height: float | None = None,
    vertex_sd: float | None = None,
    shift_sd: float = 0.0,
    config: MeasureConfig = MeasureConfig(),
) -> tuple[Measurement, Measurement, Measurement]:
    """Volume of material above (fill) and of hollow below (cut) a base plane inside a polygon, and net = fill - cut; m3.

    polygon: in the surface's CRS. base: "rim" = plane fitted robustly to the heights along the outer ring; "lowest" =
    horizontal plane through the lowest covered cell; "horizontal" = at `base_height` (m, in the surface's heights).
    vertex_sd: standard uncertainty of each vertex (m); None = `vertex_gsd`. shift_sd: common uncertainty per axis of a polygon
    that was not drawn on this survey but given in coordinates (m): the survey's position then counts.
    Cells without heights are left out of the value; they widen the uncertainty as if they were like the rest.
    Without `accuracy` or without an uncertainty raster the uncertainty is not available.

    Raises:
        CoverageError: more than `uncovered_limit` of the polygon, or too much of its rim, is without heights.
        CrsError: the surface's CRS is not projected in metres.
        ValueError: `base_height` is missing for "horizontal", or given for another base.
    """
    if (base == "horizontal") != (base_height is not None):
        raise ValueError("base_height goes with base='horizontal'")
    crs = surface.raster.grid.crs
    scale = grid_scale(crs, polygon.centroid.x, polygon.centroid.y, _ground_height(surface, surface.height_kind))
    patch = _cut_out(surface, polygon)
    known = np.isfinite(patch.z)
    uncovered = 1 - float(patch.share[known].sum()) / float(patch.share.sum())
    if uncovered > config.uncovered_limit:
        raise CoverageError(
            "drone.polygon_uncovered", uncovered=f"{100 * uncovered:.1f}", limit=f"{100 * config.uncovered_limit:g}"
        )
    above, pull, rim_sd = _above(patch, known, base, base_height)
    inside = np.where(known, patch.share, 0.0) * patch.cell_area / scale**2
    limits = [Message(id=f"drone.limit_base_{base}"), Message(id="drone.limit_surface_not_ground")]
    if uncovered > 0:
        limits.append(Message(id="drone.limit_uncovered", values={"share": f"{100 * uncovered:.1f}"}))
    if shift_sd > 0:
        limits.append(Message(id="drone.limit_polygon_elsewhere"))
    if accuracy is None or patch.sd is None:
        limits.append(Message(id="drone.limit_no_accuracy"))
    elif accuracy.control == "gps":
        limits.append(Message(id="drone.limit_gps_only"))
    moved = _moved_volumes(surface, polygon, base, base_height, shift_sd, scale) if accuracy is not None and shift_sd > 0 else []
    results = []
    for kind in _KINDS:
        weight = inside * _part(kind, above)
        value = float(np.sum(weight * above))
        uncertainty = None
        if accuracy is not None and patch.sd is not None:
            terms = _terms(patch, known, weight, above, pull, rim_sd, value, uncovered, base, accuracy, polygon, config)
            vertex = config.vertex_gsd * accuracy.gsd if vertex_sd is None else vertex_sd
            terms.append(_edge(patch, above * _part(kind, above), polygon, vertex) / scale**2)
            # East and north, there and back: half of the sum of squares is the variance of a shift by shift_sd on both axes.
            terms += [(other[kind] - value) / math.sqrt(2) for other in moved]
            if kind != "volume_net":
                terms.append(_rectified(patch, known, inside, above))
            uncertainty = math.sqrt(sum(term**2 for term in terms))
        results.append(
            Measurement(
                kind=kind,
                quantity=Quantity(
                    value=value, unit="m3", standard_uncertainty=uncertainty, propagation="drone.propagation_volume"
                ),
                geometry=shapely.geometry.mapping(polygon),
                crs=crs,
                base=base,
                uncovered_fraction=uncovered,
                limitations=tuple(limits),
            )
        )
    fill, cut, net = results
    return fill, cut, net


_KINDS = ("volume_fill", "volume_cut", "volume_net")


def _part(kind: str, above: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a height above the base counts for: 1 or 0 for fill, -1 or 0 for cut, 1 for net."""
    if kind == "volume_fill":
        return (above > 0).astype(np.float64)
    return -(above < 0).astype(np.float64) if kind == "volume_cut" else np.ones_like(above)


def _above(
    patch: _Patch, known: NDArray[np.bool_], base: Base, base_height: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Height of each cell above the base (m, 0 where unknown); how the base hangs on the cells, roughness of the rim (`_base`)."""
    plane, pull, rim_sd = _base(patch, known, base, base_height)
    level = plane[0] + plane[1] * patch.x + plane[2] * patch.y
    return np.where(known, np.where(known, patch.z, 0.0) - level, 0.0), pull, rim_sd


def _moved_volumes(
    surface: SurfaceModel, polygon: shapely.Polygon, base: Base, base_height: float | None, shift: float, scale: float
) -> list[dict[str, float]]:
    """The volumes with the polygon moved by `shift` (m) west, east, south and north; places without heights count nothing.

    Evaluated, not linearised: a polygon drawn close around a pit loses its slope when it is moved.
    """
    found = []
    for dx, dy in ((-shift, 0.0), (shift, 0.0), (0.0, -shift), (0.0, shift)):
        patch = _cut_out(surface, shapely.affinity.translate(polygon, dx, dy))
        known = np.isfinite(patch.z)
        try:
            above, _, _ = _above(patch, known, base, base_height)
        except CoverageError:  # moved off the survey: nothing is known there, so all of the volume is in doubt
            found.append(dict.fromkeys(_KINDS, 0.0))
            continue
        inside = np.where(known, patch.share, 0.0) * patch.cell_area / scale**2
        found.append({kind: float(np.sum(inside * _part(kind, above) * above)) for kind in _KINDS})
    return found


def _base(
    patch: _Patch, known: NDArray[np.bool_], base: Base, base_height: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Plane (3,): height, slope in x, in y; its dependence on the cells (3, rows, cols); roughness of the rim about it (m).

    d plane_k = sum over cells of pull[k] * d z.
    """
    pull = np.zeros((3, *patch.z.shape))
    if base == "horizontal":
        assert base_height is not None
        return np.array([base_height, 0.0, 0.0]), pull, 0.0
    if base == "lowest":
        candidates = np.where(known & (patch.share > 0.5), patch.z, np.inf)
        row, col = divmod(int(np.argmin(candidates)), candidates.shape[1])
        pull[0, row, col] = 1.0
        return np.array([float(candidates[row, col]), 0.0, 0.0]), pull, 0.0
    on_rim = (patch.rim > 0) & known
    covered = float(patch.rim[on_rim].sum() / patch.rim.sum())
    if covered < 0.5:
        raise CoverageError("drone.rim_uncovered", covered=f"{100 * covered:.0f}")
    design = np.column_stack([np.ones(int(on_rim.sum())), patch.x[on_rim], patch.y[on_rim]])
    height, length = patch.z[on_rim], patch.rim[on_rim]
    weight = length.copy()
    for _ in range(20):  # Huber weights: a bush or a boulder on the line must not lift the base.
        solver = np.linalg.pinv(design * np.sqrt(weight)[:, None]) * np.sqrt(weight)
        residual = height - design @ (solver @ height)
        spread = max(1.4826 * float(np.median(np.abs(residual))), 1e-6)
        weight = length * np.minimum(1.0, 1.345 * spread / np.maximum(np.abs(residual), 1e-12))
    plane = solver @ height
    for k in range(3):
        pull[k][on_rim] = solver[k]
    rough = math.sqrt(float(np.sum(weight * residual**2) / np.sum(weight)))
    return plane, pull, rough


def _terms(
    patch: _Patch,
    known: NDArray[np.bool_],
    weight: NDArray[np.float64],
    above: NDArray[np.float64],
    pull: NDArray[np.float64],
    rim_sd: float,
    value: float,
    uncovered: float,
    base: Base,
    accuracy: AccuracyReport,
    polygon: shapely.Polygon,
    config: MeasureConfig,
) -> list[float]:
    """Standard uncertainties (m3) of one volume from heights, base, scale and missing cells."""
    assert patch.sd is not None
    moments = [float(weight.sum()), float(np.sum(weight * patch.x)), float(np.sum(weight * patch.y))]
    # dV/dz of each cell: its own area, less its pull on the base times what the base moves.
    c = weight - sum(m * p for m, p in zip(moments, pull, strict=True))
    slow = config.slow_sd_gsd * accuracy.gsd
    # The raster states both parts together; the first is what is left without the second.
    noise = np.sqrt(np.maximum(np.where(known, np.nan_to_num(patch.sd, nan=0.0), 0.0) ** 2 - slow**2, 0.0))
    step = math.sqrt(patch.cell_area)
    terms = [
        _spread_of(c * noise, config.noise_range_gsd * accuracy.gsd / step),
        _spread_of(c, config.slow_range_gsd * accuracy.gsd / step) * slow,
        math.hypot(3 * accuracy.scale_sd, accuracy.focal_sd) * abs(value),
    ]
    if base == "rim":
        terms.append(_spread_of(c, config.rim_range * math.sqrt(polygon.area) / step) * rim_sd)
    if base == "horizontal":  # The base stands in the world, not on the surface: the block's height counts.
        terms.append(abs(moments[0]) * accuracy.position_sd[2])
    if uncovered > 0:
        known_area = float(np.sum(np.where(known, patch.share, 0)))
        typical = float(np.sum(np.abs(weight * above)) / np.sum(weight != 0)) if np.any(weight != 0) else 0.0
        terms.append(typical * known_area * uncovered / (1 - uncovered))
    return terms


def _spread_of(c: NDArray[np.float64], range_cells: float) -> float:
    """sqrt(sum_ij c_i c_j exp(-(d_ij / range)^2)): standard deviation of sum c_i e_i for unit errors with that correlation."""
    # Thin out: with cells far below the range, blocks of a fifth of it carry the same sum.
    factor = max(1, int(range_cells / 5))
    if factor > 1:
        rows, cols = (-(-side // factor) * factor for side in c.shape)
        padded = np.zeros((rows, cols))
        padded[: c.shape[0], : c.shape[1]] = c
        c = padded.reshape(rows // factor, factor, cols // factor, factor).sum(axis=(1, 3))
        range_cells /= factor
    reach = math.ceil(3.5 * range_cells)
    shape = tuple(fft.next_fast_len(side + reach, real=True) for side in c.shape)
    rows, cols = (np.minimum(np.arange(side), side - np.arange(side)) for side in shape)
    kernel = np.exp(-(np.add.outer(rows.astype(float) ** 2, cols.astype(float) ** 2)) / range_cells**2)
    smooth = fft.irfft2(fft.rfft2(c, shape) * fft.rfft2(kernel), shape)[: c.shape[0], : c.shape[1]]
    return math.sqrt(max(float(np.sum(c * smooth)), 0.0))


def _edge(patch: _Patch, above: NDArray[np.float64], polygon: shapely.Polygon, vertex_sd: float) -> float:
    """Standard uncertainty (m3 in the grid) from vertices that are each off by `vertex_sd` (m) per axis, independently.

    Moving an edge outward by n adds the height above base along it: dV = integral of above * n ds (Reynolds).
    """
    spread = 0.0
    step = math.sqrt(patch.cell_area)
    top_left = (patch.x[0, 0] + patch.middle[0], patch.y[0, 0] + patch.middle[1])
    cell_x, cell_y = patch.x[0, 1] - patch.x[0, 0], patch.y[1, 0] - patch.y[0, 0]
    for ring in _rings(shapely.geometry.polygon.orient(polygon)):
        gradient = np.zeros_like(ring)
        for i in range(len(ring)):
            p, q = ring[i], ring[(i + 1) % len(ring)]
            length = float(np.hypot(*(q - p)))
            if length == 0:
                continue
            n = max(4, math.ceil(length / step))
            s = (np.arange(n) + 0.5) / n
            spots = p + s[:, None] * (q - p)
            col = np.clip(np.rint((spots[:, 0] - top_left[0]) / cell_x).astype(int), 0, above.shape[1] - 1)
            row = np.clip(np.rint((spots[:, 1] - top_left[1]) / cell_y).astype(int), 0, above.shape[0] - 1)
            outward = np.array([q[1] - p[1], p[0] - q[0]]) / length
            gradient[i] += outward * np.sum(above[row, col] * (1 - s)) * length / n
            gradient[(i + 1) % len(ring)] += outward * np.sum(above[row, col] * s) * length / n
        spread += float(np.sum(gradient**2))
    return math.sqrt(spread) * vertex_sd


def _rectified(patch: _Patch, known: NDArray[np.bool_], area: NDArray[np.float64], above: NDArray[np.float64]) -> float:
    """Volume (m3) that noise alone adds to both cut and fill: mean of max(0, e) beyond the true height, per cell."""
    from scipy.stats import norm

    assert patch.sd is not None
    sd = np.where(known, np.nan_to_num(patch.sd, nan=0.0), 0.0)
    t = np.abs(above) / np.maximum(sd, 1e-9)
    return float(np.sum(area * sd * (norm.pdf(t) - t * norm.cdf(-t))))


def polygons_of(document: Mapping[str, Any], *, where: str) -> list[tuple[str, Mapping[str, Any], CRS, bool]]:
    """(name, geometry, CRS, drawn on this survey) of each polygon in a GeoJSON document (RFC 7946, or with the older `crs`).

    Raises:
        FormatError: not GeoJSON, or without polygons.
        CrsError: an unknown CRS.
    """
    if not isinstance(document, Mapping):
        raise FormatError("drone.not_geojson", path=where)
    crs = _WGS84
    named = document.get("crs")
    if named is not None:
        try:
            crs = parse_crs(str(named["properties"]["name"]))
        except (KeyError, TypeError) as error:
            raise FormatError("drone.not_geojson", path=where) from error
    if document.get("type") == "FeatureCollection" and isinstance(document.get("features"), list):
        features = document["features"]
    elif document.get("type") == "Feature":
        features = [document]
    else:
        features = [{"type": "Feature", "properties": {}, "geometry": document}]
    found: list[tuple[str, Mapping[str, Any], CRS, bool]] = []
    for number, feature in enumerate(features, start=1):
        geometry = feature.get("geometry") if isinstance(feature, Mapping) else None
        if not isinstance(geometry, Mapping):
            raise FormatError("drone.not_geojson", path=where)
        properties = feature.get("properties") or {}
        if not isinstance(properties, Mapping):
            raise FormatError("drone.not_geojson", path=where)
        drawn = properties.get("drawn_on_survey") is True
        name = str(properties.get("name") or feature.get("id") or number)
        if geometry.get("type") == "MultiPolygon" and isinstance(geometry.get("coordinates"), list):
            parts = geometry["coordinates"]
            found += [
                (f"{name}-{i}", {"type": "Polygon", "coordinates": part}, crs, drawn) for i, part in enumerate(parts, start=1)
            ]
        else:
            found.append((name, geometry, crs, drawn))
    if not found:
        raise FormatError("drone.no_polygons", path=where)
    return found
