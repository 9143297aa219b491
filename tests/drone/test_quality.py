"""The quality report: its figures follow from the block, its statements from the number of check points."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drone.authenticity import Indication
from drone.camera import project
from drone.ortho import Orthomosaic
from drone.products import ResultFolder
from drone.quality import LEAST_CHECK_POINTS, _Writer, check_statement, photos_per_cell, write_quality
from drone.residuals import by_camera, by_photo, residuals_of
from drone.types import DenseCloud, ErrorField, GroundPoint, PointResidual, Reconstruction, SurfaceModel
from geoevidence.raster import Grid, Raster
from geoevidence.types import Message
from tests.drone import sample_block as sample


def _checked(count: int) -> Reconstruction:
    block = sample.block(4)
    points = tuple(
        GroundPoint(name=f"C{i}", position=(0.0, 0.0, 0.0), sd=(0.02, 0.02, 0.03), role="check", observations={})
        for i in range(count)
    )
    residuals = tuple(
        PointResidual(name=f"C{i}", role="check", residual=(0.03, -0.04, 0.06 * (-1) ** i), photos=4) for i in range(count)
    )
    return replace(
        block, flight=replace(block.flight, ground_points=points), accuracy=replace(block.accuracy, ground_points=residuals)
    )


def test_product_accuracy_contains_that_of_the_check_points() -> None:
    block = _checked(4)
    found = check_statement(block.accuracy, block)
    assert found is not None
    assert found["fit_horizontal"] == pytest.approx(0.05) and found["fit_vertical"] == pytest.approx(0.06)
    assert found["product_horizontal"] == pytest.approx(math.sqrt(0.05**2 + 2 * 0.02**2))
    assert found["product_vertical"] == pytest.approx(math.hypot(0.06, 0.03))
    assert not found["enough"]
    enough = _checked(LEAST_CHECK_POINTS)
    assert check_statement(enough.accuracy, enough)["enough"]  # type: ignore[index]
    assert check_statement(sample.block(4).accuracy, sample.block(4)) is None
    assert found["mean"] == pytest.approx((0.03, -0.04, 0.0)) and found["rmse"] == pytest.approx((0.03, 0.04, 0.06))
    assert found["sd"][2] == pytest.approx(0.06 * math.sqrt(4 / 3)) and found["largest"] == pytest.approx((0.03, 0.04, 0.06))
    alone = check_statement(_checked(1).accuracy, _checked(1))
    assert alone is not None and alone["sd"] is None


def test_residuals_show_what_was_put_in() -> None:
    """Noise of 0.5 px a coordinate, and a picture scaled by 1.001 about its middle: both are found."""
    block = sample.block(4)
    rng = np.random.default_rng(5)
    middle = np.array([600, 450], np.float32)
    pixels = (
        middle
        + (block.track_pixels - middle) * np.float32(1.001)
        + rng.normal(0, 0.5, block.track_pixels.shape).astype(np.float32)
    )
    bent = replace(block, track_pixels=pixels)
    residuals = residuals_of(bent)
    photos, (camera,) = by_photo(bent, residuals), by_camera(bent, residuals)
    assert [photo.name for photo in photos] == sorted(block.poses) and sum(photo.observations for photo in photos) == len(
        residuals
    )
    assert all(0.65 < photo.rmse < 0.95 and photo.gps is None for photo in photos)
    expected = camera.radius * 0.001
    assert np.nanmax(np.abs(camera.radial - expected) / np.maximum(camera.spread, 0.01)) < 4.5
    assert camera.radial[-2] > 0.4


def test_overlap_counts_the_frames_over_a_place() -> None:
    block = sample.block(9)
    surface, _, _ = _products(block)
    count, grid = photos_per_cell(block, surface)
    row, col = count.shape[0] // 2, count.shape[1] // 2
    x, y = grid.transform @ (col + 0.5, row + 0.5)
    place = np.array([[x, y, float(sample.true_heights(np.array([x]), np.array([y]))[0])]])
    camera = next(iter(block.cameras.values()))
    inside = [np.all((p := project(camera, pose, place)[0]) >= 0) and np.all(p <= camera.size) for pose in block.poses.values()]
    # a cell is some decimetres: the frame of a photo may end inside it
    assert abs(int(count[row, col]) - sum(inside)) <= 1 and count.max() <= 9


def test_every_text_is_there_in_both_languages() -> None:
    folder = Path(__file__).parents[2]
    source = (folder / "drone" / "quality.py").read_text("utf-8")
    named = set(re.findall(r'self\.t\(\s*"([a-z0-9_]+)"', source))
    named |= {f"control_{kind}" for kind in ("gps", "ground_points", "none")} | {
        "role_check",
        "role_control",
        "asprs_few",
        "asprs_enough",
        *("mean", "spread", "rmse", "largest", "rejected", "unregistered"),
    }
    named |= {f"heights_{kind}" for kind in ("ellipsoidal", "orthometric", "relative", "unknown")}
    named |= {f"strength_{kind}" for kind in ("weak", "moderate", "strong")} | {
        f"outcome_{kind}" for kind in ("nothing_found", "not_checked")
    }
    assert len(named) > 60
    texts = [json.loads((folder / "geoevidence" / "messages" / lang / "drone.json").read_text("utf-8")) for lang in ("zh", "en")]
    for name in sorted(named):
        fields = [set(re.findall(r"\{(\w+)\}", text[f"drone.quality_{name}"])) for text in texts]
        assert fields[0] == fields[1], name


def _products(block: Reconstruction) -> tuple[SurfaceModel, Orthomosaic, DenseCloud]:
    """The true surface with 1.1 cm of noise and a block that may lie 3 cm too high, and a blank picture of it."""
    heights = sample.true_dsm()
    z = heights.data[0].astype(np.float32)
    surface = SurfaceModel(
        raster=Raster(data=z[None], grid=heights.grid, nodata=float("nan"), unit="m"),
        kind="dsm",
        height_kind="ellipsoidal",
        standard_uncertainty=Raster(
            data=np.full((1, *z.shape), 0.011, np.float32), grid=heights.grid, nodata=float("nan"), unit="m"
        ),
        density=None,
        error_field=ErrorField(
            origin=heights.grid.bounds[:2], spacing=(10.0, 10.0), factor=np.full((1, 1, 1, 3), 0.03, np.float32)
        ),
    )
    blank = Raster(
        data=np.zeros((4, 8, 8), np.uint8), grid=Grid(shape=(8, 8), transform=heights.grid.transform, crs=heights.grid.crs)
    )
    mosaic = Orthomosaic(
        raster=blank,
        sources=Raster(data=np.zeros((2, 8, 8), np.uint16), grid=blank.grid),
        photos=tuple(sorted(block.poses)),
        gains={name: (1.0, 1.1, 0.9) for name in block.poses},
        fall_off={},
    )
    n = 1234
    cloud = DenseCloud(
        points=np.zeros((n, 3)),
        colours=np.zeros((n, 3), np.uint8),
        views=np.full(n, 4, np.uint8),
        height_sd=np.full(n, 0.02, np.float32),
    )
    return surface, mosaic, cloud


def test_the_report_says_what_it_rests_on_and_what_is_missing(tmp_path: Path) -> None:
    block = _checked(4)
    block = replace(
        block,
        accuracy=replace(block.accuracy, held_out_rmse=0.52, held_out_observations=4321, rolling_shutter=(0.31, 0.04)),
        flight=replace(block.flight, rejected={"damaged.JPG": Message(id="drone.truncated_jpeg", values={"path": "damaged.JPG", "size": 6})}),
        unregistered={"blurred.JPG": Message(id="drone.not_a_photo", values={})},
        parameters={"adjust": {"shutter_sd": "7.0"}},
    )  # fmt: skip
    surface, mosaic, cloud = _products(block)
    overlap, grid = photos_per_cell(block, surface, longest=50)
    residuals = residuals_of(block)
    photos, cameras = by_photo(block, residuals), by_camera(block, residuals)
    found = Indication(
        test="encoding",
        outcome="found",
        strength="moderate",
        statement=Message(id="what was seen"),
        reason=Message(id="an innocent cause"),
        photos=(photos[0].name,),
    )

    def text(changed: Reconstruction) -> str:
        writer = _Writer("zh", tmp_path, changed, surface, mosaic, cloud)
        return str(writer.document(photos, cameras, (found,), overlap, grid, (Message(id="a later gap"),)))

    told = text(block)
    for part in (
        *("至少 30 个", "只用了 4 个", "RMSE_H", "0.52 px（4,321 个像点）", "0.31 m（标准不确定度 0.04 m）", "7 倍"),
        *("damaged.JPG", "没有读入", "blurred.JPG", "没有拼入", "a later gap"),
        *("what was seen", "an innocent cause", "'中'", "迹象及其强弱，不是结论"),
        # 1.1 cm of noise and 3 cm of the block: 3.2 cm together
        *("匹配噪声，即下图）：中位数 1.1\\xa0cm", "总标准不确定度：中位数 3.2\\xa0cm", "1,234 个点"),
    ):
        assert part in told, part
    older = replace(
        block.accuracy, not_recorded=("rolling_shutter", "reprojection_mean"), held_out_observations=None, held_out_rmse=None
    )
    told = text(replace(block, accuracy=replace(older, rolling_shutter=None, reprojection_mean=None)))
    assert "卷帘快门：没有记录" in told and "平均长度没有记录" in told and "'留出的连接点的残差', '没有记录'" in told


def test_the_report_is_written_in_both_languages(tmp_path: Path) -> None:
    block = _checked(2)
    surface, mosaic, cloud = _products(block)
    work = ResultFolder(tmp_path, synthetic=True)
    write_quality(work, block, surface, mosaic, cloud, gaps=(Message(id="drone.gap_no_check_points"),))
    assert [product.path for product in work.products()] == ["quality-en.pdf", "quality.json", "quality.pdf"]
    assert all((tmp_path / name).read_bytes().startswith(b"%PDF") for name in ("quality.pdf", "quality-en.pdf"))
    record = json.loads((tmp_path / "quality.json").read_text("utf-8"))
    assert record["surface_sd"] == ["0.011", "0.011"] and float(record["surface_total_sd"][0]) == pytest.approx(
        math.hypot(0.011, 0.03), abs=1e-6
    )
    assert record["gaps"][-1]["id"] == "drone.gap_no_check_points" and record["check_points"]["points"] == 2
