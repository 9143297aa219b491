"""Two surveys of one place as a result: difference of heights, where it stands out, volumes of change, pictures before and after.

In: two survey folders (or surface models), polygons or none. Out: a folder with `difference.tif`, `detection_level.tif`,
`comparison.json`, `changes.geojson`, pictures, findings. Without polygons the areas that stand out from their errors are measured.
Heights that rose or sank are shown by colour; what lies below the level of detection is cream. No cause of a change is named.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.geometry
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import CRS

from drone.compare import Change, CompareConfig, changed_regions, level_of_detection, measure_change, register
from drone.findings import common_limits, crs_text
from drone.measure import ErrorModel, MeasureConfig
from drone.measured import figure_record, read_shapes, rounded, unique
from drone.products import ResultFolder, cut_out, digest_of, empty_folder
from drone.shapes import read_shape
from drone.surveyed import Surveyed, read_surveyed
from drone.types import Measurement, parameters_of
from geoevidence.crs import transform_geometry
from geoevidence.errors import CoverageError, InputError
from geoevidence.figures import map_picture, shared_limits, stretch
from geoevidence.raster import Grid, Raster, write_cog
from geoevidence.types import Finding, Message, ProcessResult, Progress, Quantity, decimal_text, no_progress

Array = NDArray[np.float64]
_WGS84 = CRS.from_epsg(4326)
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_SIDE = 1400
_MOST_REGIONS = 30
# Red where ground sank, blue where it rose (ColorBrewer RdBu), cream between.
_LOSS = ((253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43))
_GAIN = ((209, 229, 240), (146, 197, 222), (67, 147, 195), (33, 102, 172))
_CALM = (250, 246, 225)  # not the grey that stands for missing data


def compare_surveys(
    before: Path,
    after: Path,
    *,
    out: Path,
    polygon: Path | None = None,
    boundary_sd: float | None = None,
    config: CompareConfig = CompareConfig(),
    measure: MeasureConfig = MeasureConfig(),
    progress: Progress = no_progress,
) -> ProcessResult:
    """What changed between two dates, with errors, in the new or empty folder `out`.

    Args:
        before, after: folders that `survey` left, or surface models (GeoTIFF); the earlier first.
        polygon: GeoJSON polygons to measure, taken as changed; None = the areas that stand out are measured.
        boundary_sd: standard uncertainty of each vertex (m, per axis) of polygons that do not state it.

    Raises:
        InputError, FormatError, CrsError: see `read_surveyed`, `register`; a polygon file without polygons.
        CoverageError: no common or no stable ground.
    """
    out = empty_folder(out)
    first, second = read_surveyed(before), read_surveyed(after)
    work = ResultFolder(out, synthetic=first.synthetic or second.synthetic)
    progress("drone.stage_compare", 0.0)
    crs = first.surface.raster.grid.crs
    asked = [
        (each, shape)
        for each in read_shapes(polygon)
        if isinstance(shape := read_shape(each.geometry, each.crs, crs), shapely.Polygon)
    ]
    if polygon is not None and not asked:
        raise InputError("drone.no_polygons", path=Path(polygon).name)
    change = register(
        first.surface,
        second.surface,
        accuracy=(first.accuracy, second.accuracy),
        changed=[shape for _, shape in asked],
        config=config,
        measure=measure,
    )
    lod = level_of_detection(change, config)
    progress("drone.stage_compare", 0.5)
    regions = [] if asked else changed_regions(change, lod, config)
    named = [(each.name, shape, each.boundary_sd) for each, shape in asked]
    named += [(str(number), shape, None) for number, shape in enumerate(regions[:_MOST_REGIONS], start=1)]
    model = ErrorModel.of(first.surface, first.accuracy, measure)
    measured: list[tuple[str, shapely.Polygon, tuple[Measurement, Measurement, Measurement]]] = []
    gaps: list[Message] = []
    for name, shape, stated in named:
        # areas that were found have no drawn edge: their edge lies where nothing changed
        drawn = (model.vertex_sd if model is not None else 0.0) if asked else 0.0
        sd = stated if stated is not None else boundary_sd if boundary_sd is not None else drawn
        try:
            measured.append((name, shape, measure_change(change, shape, vertex_sd=sd, config=measure)))
        except CoverageError as error:
            reason = Message(id=error.message_id, values={k: str(v) for k, v in error.values.items()})
            gaps.append(Message(id="drone.gap_not_measured", values={"name": name, "reason": reason}))
    if len(regions) > _MOST_REGIONS:
        gaps.append(Message(id="drone.gap_more_changes", values={"shown": _MOST_REGIONS, "found": len(regions)}))
    _write_rasters(work, change, lod)
    outlines = [shapely.geometry.mapping(shape) for _, shape, _ in measured]
    _draw_difference(work, change, lod, first, second, outlines)
    _draw_pictures(work, first, second, change, [shape for _, shape, _ in measured], gaps)
    progress("drone.stage_compare", 0.9)
    findings = _findings(work, change, lod, first, second, measured, asked=bool(asked))
    work.write_json("comparison.json", "comparison", _record(change, lod, first, second, measured))
    if measured:
        features = [
            {
                "type": "Feature",
                "properties": {"name": name, "finding": f"D-{index:03d}"},
                "geometry": rounded(transform_geometry(_plain(shape), crs, _WGS84)),
            }
            for index, (name, shape, _) in enumerate(measured, start=2)
        ]
        text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, sort_keys=True, indent=1)
        work.path("changes.geojson", "measurement_geojson", "application/geo+json").write_text(text + "\n", "utf-8")
    parameters: dict[str, Any] = {
        "config": parameters_of(config),
        "measure": parameters_of(measure),
        "before": list(first.digests),
        "after": list(second.digests),
        "polygon": digest_of(polygon),
        "boundary_sd": None if boundary_sd is None else decimal_text(boundary_sd),
    }
    result = work.finish("drone.compare", parameters=parameters, findings=findings, gaps=gaps)
    progress("drone.stage_compare", 1.0)
    return result


def _plain(shape: shapely.Geometry) -> dict[str, Any]:
    return dict(json.loads(json.dumps(shapely.geometry.mapping(shape))))


def _write_rasters(work: ResultFolder, change: Change, lod: Array) -> None:
    from rasterio.enums import Resampling

    tags = {"SYNTHETIC": "YES"} if work.synthetic else {}
    for name, kind, values in (
        ("difference.tif", "difference", change.difference),
        ("detection_level.tif", "detection_level", lod),
    ):
        raster = Raster(data=values[None].astype(np.float32), grid=change.grid, nodata=float("nan"), unit="m")
        write_cog(work.path(name, kind, _COG), raster, band_names=(kind,), tags=tags, overviews=Resampling.average)


def _when(site: Surveyed) -> str:
    if site.when is None:
        return site.name
    first, last = site.when
    return first.isoformat() if first == last else f"{first.isoformat()} – {last.isoformat()}"


def _means(values: Array, factor: int) -> Array:
    """Means of whole blocks, NaN where less than half of a block is known."""
    rows, cols = values.shape[0] // factor, values.shape[1] // factor
    cut = values[: rows * factor, : cols * factor].reshape(rows, factor, cols, factor)
    known = np.isfinite(cut)
    count = known.sum(axis=(1, 3))
    total = np.where(known, cut, 0.0).sum(axis=(1, 3))
    return np.where(2 * count >= factor * factor, total / np.maximum(count, 1), np.nan)


def _steps(change: Change, lod: Array, outlines: Sequence[Any]) -> list[float]:
    """Four round limits (m) of the colours, above the usual level of detection; the last near the largest change."""
    low = max(float(np.nanmedian(lod)), 1e-3)  # two equal surfaces have no level
    known = np.abs(change.difference[np.isfinite(change.difference)])
    outstanding = known[known > low]
    high = float(np.quantile(outstanding, 0.98)) if outstanding.size else 4 * low
    top = max(high, 2.5 * low)
    raw = np.geomspace(low, top, 5)[:4]
    # two significant digits; sums of thousandths stay apart
    digits = [max(0, 1 - math.floor(math.log10(v))) for v in raw]
    return [round(float(v), d) for v, d in zip(raw, digits, strict=True)]


def _draw_difference(
    work: ResultFolder, change: Change, lod: Array, first: Surveyed, second: Surveyed, outlines: Sequence[Any]
) -> None:
    factor = max(1, math.ceil(max(change.grid.shape) / _SIDE))
    dh, level = _means(change.difference, factor), _means(lod, factor)
    steps = _steps(change, lod, outlines)
    heights = _means(_registered_heights(change), factor)
    rows, cols = dh.shape
    cell = change.grid.resolution[0] * factor
    gy, gx = np.gradient(heights, cell)
    slope = np.nan_to_num(-gx - gy) / math.sqrt(2)
    light = np.clip(0.88 + 0.22 * slope / np.sqrt(1 + np.nan_to_num(gx) ** 2 + np.nan_to_num(gy) ** 2), 0.75, 1.0)
    image = np.zeros((rows, cols, 4), np.uint8)
    colour = np.broadcast_to(np.array(_CALM, float), (rows, cols, 3)).copy()
    for sign, colours in ((-1, _LOSS), (1, _GAIN)):
        for step, each in zip(steps, colours, strict=True):
            colour[(sign * dh >= step) & (np.abs(dh) > level)] = each
    image[..., :3] = np.clip(colour * light[..., None], 0, 255).astype(np.uint8)
    image[..., 3] = np.where(np.isfinite(dh), 255, 0)
    image[image[..., 3] == 0] = 0
    grid = Grid(shape=(rows, cols), transform=change.grid.transform @ Affine.scale(factor), crs=change.grid.crs)
    legend: list[tuple[tuple[int, int, int], str]] = []
    ends: list[float | None] = [*steps[1:], None]
    for kind, colours in (("gain", _GAIN[::-1]), ("loss", _LOSS)):
        pairs = list(zip(steps, ends, strict=True))
        for (low, high), each in zip(pairs[::-1] if kind == "gain" else pairs, colours, strict=True):
            values = {"low": f"{low:g}"} | ({} if high is None else {"high": f"{high:g}"})
            legend.append((each, Message(id=f"drone.legend_{kind}{'_over' if high is None else ''}", values=values).render("zh")))
        if kind == "gain":
            limit = Message(id="drone.legend_calm", values={"level": f"{float(np.nanmedian(lod)):.2g}"}).render("zh")
            legend.append((_CALM, limit))
    title = Message(id="drone.title_difference")
    map_picture(
        work.path("preview-difference.png", "preview", "image/png", title),
        image,
        grid,
        title=title.render("zh"),
        date_text=Message(id="drone.dates_compared", values={"before": _when(first), "after": _when(second)}).render("zh"),
        outlines=outlines,
        note="\n".join(
            Message(id=f"drone.note_{name}", values=_registration_values(change)).render("zh")
            for name in ("registration", "stable")
        ),
        legend=legend,
        synthetic=work.synthetic,
    )


def _registered_heights(change: Change) -> Array:
    grid, whole = change.grid, change.before.raster
    col = round((grid.transform.c - whole.grid.transform.c) / whole.grid.transform.a)
    row = round((grid.transform.f - whole.grid.transform.f) / whole.grid.transform.e)
    rows, cols = grid.shape
    return whole.data[0][row : row + rows, col : col + cols].astype(np.float64)


def _registration_values(change: Change) -> dict[str, Any]:
    reg = change.registration
    return {
        axis: Quantity(value=value, unit="m", standard_uncertainty=sd, propagation="drone.propagation_registration")
        for axis, value, sd in zip(("east", "north", "up"), reg.shift, reg.sd[:3], strict=True)
    } | {"stable": f"{100 * reg.stable_share:.0f}"}


def _draw_pictures(
    work: ResultFolder,
    first: Surveyed,
    second: Surveyed,
    change: Change,
    shapes: Sequence[shapely.Polygon],
    gaps: list[Message],
) -> None:
    """The orthomosaics of both dates on the same ground with the same stretch, alone and side by side."""
    pictures = [site.read_picture() for site in (first, second)]
    if pictures[0] is None or pictures[1] is None:
        gaps.append(Message(id="drone.gap_no_pictures"))
        return
    west, south, east, north = change.grid.bounds
    if shapes:
        bounds = shapely.union_all(list(shapes)).bounds
        margin = 0.3 * max(bounds[2] - bounds[0], bounds[3] - bounds[1], 10.0)
        west, south = max(west, bounds[0] - margin), max(south, bounds[1] - margin)
        east, north = min(east, bounds[2] + margin), min(north, bounds[3] + margin)
    step = max(
        (east - west) / _SIDE, (north - south) / _SIDE, *(each.grid.resolution[0] for each in pictures if each is not None)
    )
    cols, rows = max(2, round((east - west) / step)), max(2, round((north - south) / step))
    grid = Grid(shape=(rows, cols), transform=Affine(step, 0, west, 0, -step, north), crs=change.grid.crs)
    shift = change.registration.shift
    shown = [_on_grid(pictures[0], grid, (0.0, 0.0)), _on_grid(pictures[1], grid, (shift[0], shift[1]))]
    limits = shared_limits(np.concatenate(shown, axis=2))
    outlines = [shapely.geometry.mapping(shape) for shape in shapes]
    files = []
    for name, site, bands in (("before", first, shown[0]), ("after", second, shown[1])):
        image, _ = stretch(bands, limits)
        title = Message(id=f"drone.title_{name}")
        path = work.path(f"preview-{name}.png", "preview", "image/png", title)
        map_picture(
            path,
            image,
            grid,
            title=title.render("zh"),
            date_text=_when(site),
            outlines=outlines,
            note=Message(id="drone.note_same_stretch").render("zh"),
            synthetic=work.synthetic,
        )
        files.append(path)
    both = [Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in files]
    wide = Image.new("RGB", (sum(each.width for each in both), max(each.height for each in both)), "white")
    wide.paste(both[0], (0, 0))
    wide.paste(both[1], (both[0].width, 0))
    target = work.path("preview-before-after.png", "preview", "image/png", Message(id="drone.title_before_after"))
    scratch = target.with_name(f".{target.name}.part")
    wide.save(scratch, "PNG")
    os.replace(scratch, target)


def _on_grid(picture: Raster, grid: Grid, shift: tuple[float, float]) -> Array:
    """(3, rows, cols) colours as float, means over the pixels of each cell, NaN where there is no picture; shifted by (E, N) m."""
    west, south, east, north = grid.bounds
    part = cut_out(picture, (west + shift[0], south + shift[1], east + shift[0], north + shift[1]), 0.0)
    ratio = grid.resolution[0] / picture.grid.resolution[0]
    data = part.data[:3].astype(np.float64)
    data[:, part.data[3] == 0] = np.nan
    factor = max(1, int(ratio))
    small = np.stack([_means(band, factor) for band in data]) if factor > 1 else data
    t = part.grid.transform @ Affine.scale(factor)
    rows, cols = grid.shape
    x = grid.transform.c + (np.arange(cols) + 0.5) * grid.transform.a + shift[0]
    y = grid.transform.f + (np.arange(rows) + 0.5) * grid.transform.e + shift[1]
    c, r = np.floor((x - t.c) / t.a).astype(np.int64), np.floor((y - t.f) / t.e).astype(np.int64)
    inside = ((r >= 0) & (r < small.shape[1]))[:, None] & ((c >= 0) & (c < small.shape[2]))[None]
    found = small[:, np.clip(r, 0, small.shape[1] - 1)][:, :, np.clip(c, 0, small.shape[2] - 1)]
    return np.where(inside, found, np.nan)


def _findings(
    work: ResultFolder,
    change: Change,
    lod: Array,
    first: Surveyed,
    second: Surveyed,
    measured: Sequence[tuple[str, shapely.Polygon, tuple[Measurement, Measurement, Measurement]]],
    *,
    asked: bool,
) -> list[Finding]:
    crs = change.grid.crs
    limits = list(change.limits)
    for site in (first, second):
        if site.accuracy is not None:
            limits += common_limits(site.accuracy, crs, site.surface.height_kind, site.when)
    limits = unique([*limits, Message(id="drone.limit_auxiliary_survey")])
    days = [day for site in (first, second) if site.when is not None for day in site.when]
    common: dict[str, Any] = {
        "crs": crs_text(crs),
        "period": (min(days), max(days)) if first.when is not None and second.when is not None else None,
        "method": Message(id="drone.method_change"),
        "sources": tuple(sorted({*first.digests, *second.digests})),
        "synthetic": work.synthetic,
    }
    shown = ("preview-difference.png",)
    pictures = ("preview-after.png", "preview-before-after.png", "preview-before.png") if first.picture and second.picture else ()
    west, south, east, north = change.grid.bounds
    values = _registration_values(change) | {
        "level": f"{float(np.nanmedian(lod)):.2g}",
        "changes": len(measured),
    }
    findings = [
        Finding(
            id="D-001",
            message=Message(id="drone.finding_registered" if asked else "drone.finding_compared", values=values),
            quantity=None,
            geometry=_plain(shapely.box(west, south, east, north)),
            limitations=tuple(limits),
            products=tuple(sorted(("comparison.json", "detection_level.tif", "difference.tif", *shown, *pictures))),
            **common,
        )
    ]
    for name, shape, (gain, loss, net) in measured:
        findings.append(
            Finding(
                id=f"D-{len(findings) + 1:03d}",
                message=Message(
                    id="drone.finding_change",
                    values={
                        "name": name,
                        "fill": gain.quantity,
                        "cut": loss.quantity,
                        "net": net.quantity,
                        "base": Message(id="drone.base_previous"),
                    },
                ),
                quantity=net.quantity,
                geometry=_plain(shape),
                limitations=tuple(unique([*net.limitations, *limits])),
                products=tuple(sorted((*shown, *pictures))),
                **common,
            )
        )
    return findings


def _record(
    change: Change,
    lod: Array,
    first: Surveyed,
    second: Surveyed,
    measured: Sequence[tuple[str, shapely.Polygon, tuple[Measurement, Measurement, Measurement]]],
) -> dict[str, Any]:
    reg = change.registration

    def text(value: float) -> str:
        return decimal_text(round(float(value), 9))

    return {
        "schema": "geoevidence.comparison.v1",
        "before": {"name": first.name, "files": list(first.digests)},
        "after": {"name": second.name, "files": list(second.digests)},
        "crs": crs_text(change.grid.crs),
        "registration": {
            "shift": [text(v) for v in reg.shift],
            "tilt": [text(v) for v in reg.tilt],
            "standard_uncertainty": [text(v) for v in reg.sd],
            "centre": [text(v) for v in reg.centre],
            "stable_share": text(reg.stable_share),
            "stable_cells_used": len(reg.places),
            "scatter": text(reg.scatter),
            "slow_sd": text(reg.slow_sd),
            "slow_range": text(reg.slow_range),
        },
        "noise": {
            "median": text(float(np.nanmedian(change.noise))),
            "correlation_m": text(change.noise_range),
            "from": "stable_ground" if change.empirical else "stated",
        },
        "detection_level": {"median": text(float(np.nanmedian(lod)))},
        "changes": [
            {"name": name, "figures": [figure_record(part) for part in parts], "area": text(shape.area)}
            for name, shape, parts in measured
        ],
    }
