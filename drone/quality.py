"""The quality report of a survey: what its accuracy rests on, what was tested, what was left out; JSON, and PDF in two languages.

In: block, surface, orthomosaic and cloud of a survey. Out: `quality.json`, `quality.pdf` (Chinese), `quality-en.pdf`. Every figure is
one of the block or follows from it by a sum that is stated; nothing is judged good or bad except against the number of check points
that a standard asks for. Same survey, same bytes: the time in the PDF is the last day that the photos claim.
Source: ASPRS Positional Accuracy Standards for Digital Geospatial Data, Edition 2, Version 2 (2024), for check points: RMSE_H and RMSE_V
of the product contain the accuracy of the surveyed check points, and testing asks for at least 30 of them.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drone.appearance import Appearance
from drone.authenticity import Indication, examine, examine_reconstruction, title_of
from drone.camera import PARAMETERS, opencv_params
from drone.findings import gsd_of, period_of
from drone.georeference import AdjustConfig
from drone.ortho import Orthomosaic
from drone.products import ResultFolder, reduced, total_sd
from drone.residuals import CameraResiduals, PhotoResiduals, by_camera, by_photo, draw_camera, draw_positions, residuals_of
from drone.types import AccuracyReport, DenseCloud, Flight, Reconstruction, SurfaceModel
from geoevidence.crs import crs_label
from geoevidence.figures import map_picture
from geoevidence.messages import render
from geoevidence.raster import Grid, Raster
from geoevidence.report import Block, Document, Figure, Figures, Rows, Section, Table, Text, render_pdf
from geoevidence.types import Lang, Message, config_from_parameters, decimal_text

LEAST_CHECK_POINTS = 30
"""ASPRS Edition 2, Version 2 (2024): fewer check points test a product, but do not show that it meets an accuracy class."""
_OVERLAP_COLOURS = ((215, 48, 39), (252, 141, 89), (254, 224, 139), (217, 239, 139), (145, 207, 96), (26, 152, 80))
_SD_STOPS = np.array([[26, 152, 80], [217, 239, 139], [254, 224, 139], [252, 141, 89], [165, 0, 38]], float)


def check_statement(report: AccuracyReport, block: Reconstruction) -> dict[str, Any] | None:
    """RMSE of the check points (m) with and without the accuracy of their survey; None without any.

    fit_*: of the product against the check points. survey_*: root mean square of the standard deviations stated for the points.
    product_*: both together. mean, sd, rmse, largest: of the differences, (E, N, U); sd is None for a single point.
    """
    checks = [point for point in report.ground_points if point.role == "check"]
    if not checks:
        return None
    sd = {point.name: point.sd for point in block.flight.ground_points}
    away = np.array([point.residual for point in checks])
    stated = np.array([sd[point.name] for point in checks])
    fit_h, fit_v = math.sqrt(float(np.mean(away[:, 0] ** 2 + away[:, 1] ** 2))), math.sqrt(float(np.mean(away[:, 2] ** 2)))
    survey_h = math.sqrt(float(np.mean(stated[:, 0] ** 2 + stated[:, 1] ** 2)))
    survey_v = math.sqrt(float(np.mean(stated[:, 2] ** 2)))
    product_h, product_v = math.hypot(fit_h, survey_h), math.hypot(fit_v, survey_v)
    return {
        "points": len(checks),
        "enough": len(checks) >= LEAST_CHECK_POINTS,
        "fit_horizontal": fit_h,
        "fit_vertical": fit_v,
        "survey_horizontal": survey_h,
        "survey_vertical": survey_v,
        "product_horizontal": product_h,
        "product_vertical": product_v,
        "product_3d": math.hypot(product_h, product_v),
        "mean": tuple(float(v) for v in away.mean(axis=0)),
        "sd": tuple(float(v) for v in away.std(axis=0, ddof=1)) if len(away) > 1 else None,
        "rmse": tuple(float(v) for v in np.sqrt(np.mean(away**2, axis=0))),
        "largest": tuple(float(v) for v in np.abs(away).max(axis=0)),
    }


def photos_per_cell(block: Reconstruction, surface: SurfaceModel, longest: int = 400) -> tuple[NDArray[np.uint16], Grid]:
    """How many registered photos show each cell of a coarse grid (at most `longest` cells a side), by their frames alone; 0 = none."""
    from affine import Affine

    from drone.camera import project
    from drone.ortho import fill_ground

    grid = surface.raster.grid
    factor = max(1, math.ceil(max(grid.shape) / longest))
    height = fill_ground(surface.raster.data[0].astype(np.float64), grid.resolution[0])[
        factor // 2 :: factor, factor // 2 :: factor
    ]
    rows, cols = height.shape
    x = grid.transform.c + (np.arange(cols) * factor + factor // 2 + 0.5) * grid.transform.a
    y = grid.transform.f + (np.arange(rows) * factor + factor // 2 + 0.5) * grid.transform.e
    places = np.stack([*np.meshgrid(x, y), height], axis=-1).reshape(-1, 3)
    count = np.zeros(rows * cols, np.uint16)
    cameras = {photo.name: block.cameras[photo.camera_id] for photo in block.flight.photos}
    for name, pose in sorted(block.poses.items()):
        pixels = project(cameras[name], pose, places)
        with np.errstate(invalid="ignore"):
            count += np.all((pixels >= 0) & (pixels <= np.array(cameras[name].size)), axis=1).astype(np.uint16)
    return count.reshape(rows, cols), Grid(shape=(rows, cols), transform=grid.transform @ Affine.scale(factor), crs=grid.crs)


def write_quality(
    work: ResultFolder,
    block: Reconstruction,
    surface: SurfaceModel,
    mosaic: Orthomosaic,
    cloud: DenseCloud,
    looks: Mapping[str, Appearance] | None = None,
    gaps: Sequence[Message] = (),
    flight: Flight | None = None,
) -> None:
    """Write `quality.json`, `quality.pdf` and `quality-en.pdf`.

    looks: appearance of each photo, for the tests of pictures. gaps: what later stages left out, besides those of flight and block.
    flight: the photos with the cameras that took them, where the block has several calibrations of one.

    Raises:
        ConfigError: typst or the fonts of set-up are missing.
    """
    residuals = residuals_of(block)
    photos, cameras = by_photo(block, residuals), by_camera(block, residuals)
    indications = (*examine(flight or block.flight, looks), *examine_reconstruction(block))
    told = (*block.flight.gaps, *block.gaps, *gaps)
    if surface.error_field is None:
        surface = replace(surface, error_field=block.error_field)
    overlap, grid = photos_per_cell(block, surface)
    work.write_json("quality.json", "quality_record", _record(block, surface, cloud, photos, cameras, indications, overlap, told))
    for lang, name in (("zh", "quality.pdf"), ("en", "quality-en.pdf")):
        with tempfile.TemporaryDirectory() as scratch:
            writer = _Writer(lang, Path(scratch), block, surface, mosaic, cloud)  # type: ignore[arg-type]
            document = writer.document(photos, cameras, indications, overlap, grid, told)
            render_pdf(document, work.path(name, "quality", "application/pdf"))


def _number(value: float | None, digits: int = 6) -> str | None:
    return None if value is None or not math.isfinite(value) else decimal_text(round(float(value), digits))


def _record(
    block: Reconstruction,
    surface: SurfaceModel,
    cloud: DenseCloud,
    photos: Sequence[PhotoResiduals],
    cameras: Sequence[CameraResiduals],
    indications: Sequence[Indication],
    overlap: NDArray[np.uint16],
    gaps: Sequence[Message],
) -> dict[str, Any]:
    checks = check_statement(block.accuracy, block)
    known = np.isfinite(surface.raster.data[0])
    sd, total = surface.standard_uncertainty, total_sd(surface)
    shutter = block.accuracy.rolling_shutter
    return {
        "schema": "geoevidence.quality.v1",
        "check_points": None
        if checks is None
        else {
            name: _number(value)
            if isinstance(value, float)
            else [_number(part) for part in value]
            if isinstance(value, tuple)
            else value
            for name, value in checks.items()
        },
        "least_check_points": LEAST_CHECK_POINTS,
        "reprojection_rmse": _number(block.accuracy.reprojection_rmse),
        "reprojection_mean": _number(block.accuracy.reprojection_mean),
        "held_out_rmse": _number(block.accuracy.held_out_rmse),
        "held_out_observations": block.accuracy.held_out_observations,
        "rolling_shutter": None if shutter is None else [_number(value) for value in shutter],
        "photos": [
            {
                "name": photo.name,
                "observations": photo.observations,
                "rmse": _number(photo.rmse),
                "gps": None if photo.gps is None else [_number(value, 4) for value in photo.gps],
            }
            for photo in photos
        ],
        "cameras": [
            {
                "id": found.camera,
                "radius": [_number(value, 2) for value in found.radius],
                "radial": [_number(value) for value in found.radial],
                "radial_sd": [_number(value) for value in found.spread],
            }
            for found in cameras
        ],
        "overlap": dict(zip(("median", "fewer_than_3"), _overlap(overlap), strict=True)),
        "dense_points": len(cloud.points),
        "surface_cells": int(known.sum()),
        "surface_sd": None if sd is None else [_number(v) for v in _median_and_most(sd)],
        "surface_total_sd": None if total is None else [_number(v) for v in _median_and_most(total)],
        "authenticity": [each.to_dict() for each in indications],
        "rejected": {name: reason.to_dict() for name, reason in sorted(block.flight.rejected.items())},
        "unregistered": {name: reason.to_dict() for name, reason in sorted(block.unregistered.items())},
        "gaps": [gap.to_dict() for gap in gaps],
    }


def _overlap(count: NDArray[np.uint16]) -> tuple[int, str | None]:
    """Median number of photos, and share with fewer than three, of the cells that any photo shows."""
    seen = count[count > 0]
    return (int(np.median(seen)), _number(float(np.mean(seen < 3)), 4)) if len(seen) else (0, None)


def _median_and_most(sd: Raster) -> tuple[float, float]:
    """Median and 95th percentile of the cells that have one."""
    median, most = np.nanquantile(sd.data[0], [0.5, 0.95])
    return float(median), float(most)


class _Writer:
    """One language of the report."""

    def __init__(
        self, lang: Lang, folder: Path, block: Reconstruction, surface: SurfaceModel, mosaic: Orthomosaic, cloud: DenseCloud
    ) -> None:
        self.lang, self.folder, self.block, self.surface, self.mosaic, self.cloud = lang, folder, block, surface, mosaic, cloud
        self.report = block.accuracy

    def t(self, name: str, **values: Any) -> str:
        return render(f"drone.quality_{name}", values, self.lang)

    def document(
        self,
        photos: tuple[PhotoResiduals, ...],
        cameras: Sequence[CameraResiduals],
        indications: Sequence[Indication],
        overlap: NDArray[np.uint16],
        grid: Grid,
        gaps: Sequence[Message],
    ) -> Document:
        flight = self.block.flight
        when = period_of(flight)
        moment = datetime(1970, 1, 1, tzinfo=UTC) if when is None else datetime(*when[1].timetuple()[:3], tzinfo=UTC)
        digest = hashlib.sha256("".join(photo.sha256 for photo in flight.photos).encode()).hexdigest()
        return Document(
            lang=self.lang,
            title=self.t("title"),
            subtitle=self.t("subtitle"),
            mark=render("core.synthetic", {}, self.lang) if flight.synthetic else "",
            moment=moment,
            footer=self.t("footer", digest=digest[:16]),
            sections=(
                self._summary(when),
                self._checks(),
                self._cameras(photos),
                self._residuals(photos, cameras),
                self._positions(photos),
                self._surface(overlap, grid),
                self._exposure(),
                self._left_out(gaps),
                self._authenticity(indications),
                self._photos(photos),
            ),
        )

    def _summary(self, when: tuple[Any, Any] | None) -> Section:
        report, flight = self.report, self.block.flight
        days = self.t("no_date") if when is None else " – ".join(dict.fromkeys(day.isoformat() for day in when))
        east, north, up = report.position_sd
        roles = [point.role for point in report.ground_points]
        rows = [
            (self.t("dates"), days),
            (self.t("photos"), self.t("photos_value", used=len(self.block.poses), all=len(flight.photos) + len(flight.rejected))),
            (self.t("gsd"), gsd_of(report).format(self.lang)),
            (self.t("crs"), crs_label(flight.crs)),
            (self.t("heights"), self.t(f"heights_{flight.height_kind}")),
            (self.t("control"), self.t(f"control_{report.control}")),
            (self.t("points"), self.t("points_value", control=roles.count("control"), check=roles.count("check"))),
            (self.t("reprojection"), self._reprojection()),
            (self.t("held_out"), self._held_out()),
            (self.t("position_sd"), self.t("position_sd_value", east=_cm(east), north=_cm(north), up=_cm(up))),
            (
                self.t("cloud"),
                self.t(
                    "cloud_value",
                    points=f"{len(self.cloud.points):,}",
                    views=int(np.median(self.cloud.views)),
                    sd=_cm(float(np.median(self.cloud.height_sd))),
                ),
            ),
        ]
        checks = check_statement(report, self.block)
        lead = (
            self.t("lead_untested")
            if checks is None
            else self.t(
                "lead_tested",
                points=checks["points"],
                horizontal=_cm(checks["product_horizontal"]),
                vertical=_cm(checks["product_vertical"]),
            )
        )
        return Section(title=self.t("summary"), blocks=(Text(text=lead, style="lead"), Rows(rows=tuple(rows))))

    def _reprojection(self) -> str:
        report = self.report
        if "reprojection_mean" in report.not_recorded or report.reprojection_mean is None:
            return self.t("reprojection_alone", rms=f"{report.reprojection_rmse:.2f}", mean=self.t("not_recorded"))
        return self.t("reprojection_value", rms=f"{report.reprojection_rmse:.2f}", mean=f"{report.reprojection_mean:.2f}")

    def _held_out(self) -> str:
        report = self.report
        if report.held_out_observations is None:
            return self.t("not_recorded")
        if report.held_out_rmse is None:
            return self.t("not_made")
        return self.t("held_out_value", rmse=f"{report.held_out_rmse:.2f}", count=f"{report.held_out_observations:,}")

    def _checks(self) -> Section:
        checks = check_statement(self.report, self.block)
        blocks: list[Block] = []
        if checks is None:
            blocks.append(Text(text=self.t("no_checks"), style="note"))
        else:
            values = {
                "points": checks["points"],
                "least": LEAST_CHECK_POINTS,
                "horizontal": _cm(checks["product_horizontal"]),
                "vertical": _cm(checks["product_vertical"]),
                "three": _cm(checks["product_3d"]),
            }
            blocks.append(Text(text=self.t("asprs_enough" if checks["enough"] else "asprs_few", **values), style="lead"))
            blocks.append(
                Table(
                    header=("", "RMSE_H", "RMSE_V"),
                    rows=(
                        (self.t("fit"), _cm(checks["fit_horizontal"]), _cm(checks["fit_vertical"])),
                        (self.t("survey_of_points"), _cm(checks["survey_horizontal"]), _cm(checks["survey_vertical"])),
                        (self.t("product"), _cm(checks["product_horizontal"]), _cm(checks["product_vertical"])),
                    ),
                    widths=(3, 1.3, 1.3),
                )
            )
            rows = [
                (self.t(name), *(("–",) * 3 if checks[key] is None else map(_cm, checks[key])))
                for name, key in (("mean", "mean"), ("spread", "sd"), ("rmse", "rmse"), ("largest", "largest"))
            ]
            blocks.append(
                Table(header=(self.t("differences"), "ΔE", "ΔN", "ΔU"), rows=tuple(rows), widths=(3, 0.85, 0.85, 0.9), small=True)
            )
            blocks.append(Text(text=self.t("asprs_how"), style="note"))
        points = sorted(self.report.ground_points, key=lambda point: (point.role, point.name))
        if points:
            sd = {point.name: point.sd for point in self.block.flight.ground_points}
            blocks.append(
                Table(
                    header=(self.t("point"), self.t("role"), "ΔE", "ΔN", "ΔU", self.t("point_sd"), self.t("photos")),
                    rows=tuple(
                        (
                            point.name,
                            self.t(f"role_{point.role}"),
                            *(_cm(value) for value in point.residual),
                            " / ".join(_cm(value) for value in sd[point.name]),
                            str(point.photos),
                        )
                        for point in points
                    ),
                    widths=(1.6, 1.3, 1.2, 1.2, 1.2, 2.6, 0.9),
                    small=True,
                )
            )
            blocks.append(Text(text=self.t("points_how"), style="note"))
        return Section(title=self.t("checks"), blocks=tuple(blocks))

    def _figure(self, path: Path, caption: str) -> Figures:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Figures(figures=(Figure(path=path, media_type="image/png", caption=caption, item="", sha256=digest),))

    def _residuals(self, photos: Sequence[PhotoResiduals], cameras: Sequence[CameraResiduals]) -> Section:
        settings = self._settings()
        blocks: list[Block] = [Text(text=self.t("residuals_how"), style="note")]
        if settings is not None and self.report.held_out_rmse is not None:
            told = self.t("held_out_how", every=settings.held_out, value=self._held_out())
            blocks.append(Text(text=told, style="note"))
        for number, found in enumerate(cameras):
            path = self.folder / f"camera-{number}.png"
            draw_camera(path, self.block, found)
            blocks.append(self._figure(path, self.t("residuals_caption", camera=found.camera)))
        worst = sorted((photo for photo in photos if math.isfinite(photo.rmse)), key=lambda photo: (-photo.rmse, photo.name))[:3]
        listed = "; ".join(f"{photo.name} {photo.rmse:.2f} px" for photo in worst)
        blocks.append(Text(text=self.t("worst_photos", photos=listed), style="note"))
        return Section(title=self.t("residuals"), blocks=tuple(blocks))

    def _positions(self, photos: tuple[PhotoResiduals, ...]) -> Section:
        told = [photo for photo in photos if photo.gps is not None]
        if len(told) < 2:
            return Section(title=self.t("gps"), blocks=(Text(text=self.t("gps_none"), style="note"),))
        path = self.folder / "positions.png"
        draw_positions(path, photos, self.block)
        away = np.array([photo.gps for photo in told])
        mean, spread = away.mean(axis=0), away.std(axis=0)
        return Section(
            title=self.t("gps"),
            blocks=(
                Text(text=self.t("gps_how", photos=len(told)), style="note"),
                Table(
                    header=("", "E", "N", "U"),
                    rows=(
                        (self.t("mean"), *(_metres(value) for value in mean)),
                        (self.t("spread"), *(f"{value:.3f} m" for value in spread)),
                    ),
                    widths=(2, 1, 1, 1),
                ),
                self._figure(path, self.t("gps_caption")),
            ),
        )

    def _surface(self, overlap: NDArray[np.uint16], grid: Grid) -> Section:
        synthetic, when = self.block.flight.synthetic, period_of(self.block.flight)
        dates = "" if when is None else " – ".join(dict.fromkeys(day.isoformat() for day in when))
        top = len(_OVERLAP_COLOURS)
        level = np.minimum(overlap, top)
        image = np.zeros((*overlap.shape, 4), np.uint8)
        for number, colour in enumerate(_OVERLAP_COLOURS, start=1):
            image[level == number] = (*colour, 255)
        legend = tuple(
            (colour, str(number) if number < top else self.t("and_more", count=number))
            for number, colour in enumerate(_OVERLAP_COLOURS, start=1)
        )
        first = self.folder / "overlap.png"
        map_picture(
            first, image, grid, title=self.t("overlap_title"), date_text=dates, legend=legend, synthetic=synthetic, lang=self.lang
        )
        usual, few = _overlap(overlap)
        share = "–" if few is None else f"{100 * float(few):.1f}"
        blocks: list[Block] = [
            Text(text=self.t("overlap_how", median=usual, share=share), style="note"),
            self._figure(first, self.t("overlap_caption")),
        ]
        sd = self.surface.standard_uncertainty
        if sd is not None:
            low, high = (float(v) for v in np.nanquantile(sd.data[0], [0.02, 0.98]))
            coloured = _coloured(sd, low, high)
            small, where = reduced(coloured, 1200)
            second = self.folder / "uncertainty.png"
            steps = np.linspace(low, high, len(_SD_STOPS))
            scale = tuple(
                ((int(r), int(g), int(b)), _cm(value))
                for (r, g, b), value in zip(_SD_STOPS.tolist(), steps.tolist(), strict=True)
            )
            map_picture(
                second, small, where, title=self.t("sd_title"), date_text=dates, legend=scale, synthetic=synthetic, lang=self.lang
            )
            median, most = _median_and_most(sd)
            blocks.append(Text(text=self.t("sd_how", median=_cm(median), most=_cm(most)), style="note"))
            total = total_sd(self.surface)
            if total is not None:
                median, most = _median_and_most(total)
                blocks.append(Text(text=self.t("sd_total", median=_cm(median), most=_cm(most)), style="note"))
            blocks.append(self._figure(second, self.t("sd_caption")))
        return Section(title=self.t("surface"), blocks=tuple(blocks))

    def _exposure(self) -> Section:
        light = np.array([np.mean(gain) for gain in self.mosaic.gains.values()])
        return Section(
            title=self.t("exposure"),
            blocks=(Text(text=self.t("exposure_how", least=f"{light.min():.2f}", most=f"{light.max():.2f}"), style="note"),),
        )

    def _left_out(self, gaps: Sequence[Message]) -> Section:
        rows = [
            (name, self.t(kind), reason.render(self.lang))
            for kind, left in (("rejected", self.block.flight.rejected), ("unregistered", self.block.unregistered))
            for name, reason in sorted(left.items())
        ]
        blocks: list[Block] = []
        if rows:
            header = (self.t("photo"), self.t("how_left_out"), self.t("reason"))
            blocks.append(Table(header=header, rows=tuple(rows), widths=(1.7, 1.2, 5), small=True))
        else:
            blocks.append(Text(text=self.t("every_photo_used"), style="note"))
        blocks += [Text(text=gap.render(self.lang), style="list") for gap in gaps]
        return Section(title=self.t("left_out"), blocks=tuple(blocks))

    def _authenticity(self, indications: Sequence[Indication]) -> Section:
        rows = tuple(
            (
                title_of(each.test).render(self.lang),
                self.t(f"outcome_{each.outcome}") if each.strength is None else self.t(f"strength_{each.strength}"),
                each.statement.render(self.lang) + ("" if each.reason is None else "\n" + each.reason.render(self.lang)),
            )
            for each in indications
        )
        return Section(
            title=self.t("authenticity"),
            blocks=(
                Text(text=self.t("authenticity_how"), style="note"),
                Table(
                    header=(self.t("test"), self.t("outcome"), self.t("statement")), rows=rows, widths=(1.6, 1.1, 5), small=True
                ),
            ),
        )

    def _settings(self) -> AdjustConfig | None:
        """Settings of the adjustment, None where the block does not say them."""
        said = self.block.parameters.get("adjust")
        return None if said is None else config_from_parameters(AdjustConfig, said)

    def _cameras(self, photos: Sequence[PhotoResiduals]) -> Section:
        owner = {photo.name: photo.camera_id for photo in self.block.flight.photos}
        used = [owner[photo.name] for photo in photos]
        sd = self.report.focal_sd
        blocks: list[Block] = []
        for key in sorted(set(used)):
            camera = self.block.cameras[key]
            values = opencv_params(camera)
            prior = camera.focal_prior
            facts = [
                (self.t("camera"), camera.make_model or key),
                (self.t("picture"), f"{camera.size[0]} × {camera.size[1]} px"),
                (self.t("photos_used"), str(used.count(key))),
                (self.t("model"), camera.model),
                (self.t("focal_prior"), self.t("not_stated") if prior is None else f"{prior:.1f} px"),
                (self.t("focal_change"), "–" if prior is None else f"{100 * (values[0] / prior - 1):+.2f} %"),
                (self.t("focal_sd"), f"{100 * sd:.2g} %" if math.isfinite(sd) else "–"),
                ("", ""),
            ]
            found = [
                (name, f"{value:.2f} px" if name in ("fx", "fy", "cx", "cy") else f"{value:.6f}")
                for name, value in zip(PARAMETERS, values, strict=True)
            ]
            rows = tuple((*fact, *parameter) for fact, parameter in zip(facts, found, strict=True))
            header = (self.t("camera"), key, self.t("parameter"), self.t("adjusted"))
            blocks.append(Table(header=header, rows=rows, widths=(2, 3.2, 0.9, 1.5), small=True))
        blocks.append(Text(text=self.t("cameras_how"), style="note"))
        settings = self._settings()
        if settings is not None:
            principal, free = f"{100 * settings.principal_point_sd:g}\u00a0%", ", ".join(settings.free)
            blocks.append(
                Text(
                    text=self.t("camera_policy", principal=principal, free=free, spread=f"{settings.convergence_deg:g}"),
                    style="note",
                )
            )
            bounds = {"times": f"{settings.shutter_sd:g}", "edge": f"{settings.shutter_px:g}"}
            blocks.append(Text(text=self.t("shutter_policy", **bounds), style="note"))
        blocks.append(Text(text=self._shutter(), style="list"))
        return Section(title=self.t("cameras"), blocks=tuple(blocks))

    def _shutter(self) -> str:
        found = self.report.rolling_shutter
        if "rolling_shutter" in self.report.not_recorded:
            return self.t("shutter_not_recorded")
        if found is None:
            return self.t("shutter_none")
        return self.t("shutter_found", motion=f"{found[0]:.2f} m", sd=f"{found[1]:.2f} m")

    def _photos(self, photos: Sequence[PhotoResiduals]) -> Section:
        rows = tuple(
            (
                photo.name,
                str(photo.observations),
                f"{photo.rmse:.2f}" if math.isfinite(photo.rmse) else "–",
                *(("–", "–", "–") if photo.gps is None else tuple(f"{round(value, 2) + 0.0:+.2f}" for value in photo.gps)),
            )
            for photo in photos
        )
        return Section(
            title=self.t("per_photo"),
            blocks=(
                Table(
                    header=(self.t("photo"), self.t("observations"), "RMSE, px", "E, m", "N, m", "U, m"),
                    rows=rows,
                    widths=(2.6, 1.2, 1, 1, 1, 1),
                    small=True,
                ),
                Text(text=self.t("per_photo_how"), style="note"),
            ),
        )


def _coloured(sd: Raster, low: float, high: float) -> Raster:
    """Uncertainties as colours from green (low) to red (high), uint8 (4, y, x); alpha 0 = no height."""
    known = np.isfinite(sd.data[0])
    share = np.clip((np.where(known, sd.data[0], low) - low) / max(high - low, 1e-9), 0, 1) * (len(_SD_STOPS) - 1)
    index = np.minimum(share.astype(int), len(_SD_STOPS) - 2)
    part = (share - index)[..., None]
    colour = _SD_STOPS[index] * (1 - part) + _SD_STOPS[index + 1] * part
    data = np.concatenate([np.moveaxis(np.rint(colour), -1, 0), np.where(known, 255, 0)[None]]).astype(np.uint8)
    return Raster(data=data, grid=sd.grid)


def _cm(metres: float) -> str:
    """Metres as centimetres, to two digits but not finer than a tenth of a millimetre."""
    if not math.isfinite(metres):
        return "–"
    value = 100 * metres
    # a no-break space: a figure and its unit stay on one line
    return f"{value:.2f}\u00a0cm" if abs(value) < 1 else f"{value:.1f}\u00a0cm" if abs(value) < 100 else f"{metres:.2f}\u00a0m"


def _metres(value: float) -> str:
    return f"{value:+.3f}\u00a0m"
