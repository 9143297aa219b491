"""Dense matching on the demonstration flight with true poses: errors against the true surface, coverage, water, threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from drone.camera import project, project_camera_points
from drone.dense import DenseConfig, choose_neighbours, densify, undistortion
from drone.types import Camera
from geoevidence.errors import ConfigError, FormatError
from tests.drone import sample_block as sample

PHOTOS = 9


def test_undistortion_draws_what_the_camera_model_says() -> None:
    camera = sample.block(PHOTOS).cameras["synthetic"]
    lens = undistortion(camera, multiple=32)
    assert lens.size == (1184, 896)
    assert lens.K[0, 2] == pytest.approx(camera.params[2] - 8)
    rows, cols = np.array([3, 400, 800]), np.array([7, 600, 1100])
    rays = np.column_stack([(cols + 0.5 - lens.K[0, 2]) / lens.K[0, 0], (rows + 0.5 - lens.K[1, 2]) / lens.K[1, 1], np.ones(3)])
    expected = project_camera_points(np.array(camera.params), rays)
    # float32 holds a pixel of 1200 to 1e-4.
    np.testing.assert_allclose(lens.source[rows, cols], expected, atol=2e-4)


def test_a_camera_too_small_to_match_is_refused() -> None:
    tiny = Camera(id="t", model="SIMPLE_RADIAL", params=(20.0, 8, 8, 0), size=(16, 16), make_model="t", focal_prior=None)
    with pytest.raises(FormatError):
        undistortion(tiny, multiple=32)


def test_neighbours_see_the_same_ground_from_a_useful_angle() -> None:
    block = sample.block()
    chosen = choose_neighbours(block, neighbours=5, angle_deg=12.0)
    heights = {name: pose.C[2] - 22 for name, pose in block.poses.items()}
    for name, others in chosen.items():
        assert name not in others and len(set(others)) == len(others) == 5
        for other in others:
            base = np.linalg.norm(block.poses[name].C - block.poses[other].C)
            # Seen from the flying height, between 3 and 45 degrees.
            assert 0.05 < base / heights[name] < 1.0


def test_heights_agree_with_the_true_surface() -> None:
    cloud = sample.cloud(PHOTOS)
    error = cloud.points[:, 2] - sample.true_heights(cloud.points[:, 0], cloud.points[:, 1])
    land = np.isfinite(error) & (cloud.points[:, 2] > sample.truth()["water"]["level"] + 0.2)
    noise = 1.4826 * np.median(np.abs(error[land] - np.median(error[land])))
    # Matching noise of 0.1 to 0.4 px at a base-to-height ratio of 0.2 to 0.5 gives 0.1 to 0.8 GSD; much less would mean
    # that the truth leaked in, more that matching is broken.
    assert 0.05 * sample.GSD < noise < 0.5 * sample.GSD
    assert abs(np.median(error[land])) < 0.1 * sample.GSD
    # The truth has a post every 0.25 m, so that it is not known within that of an edge.
    assert np.mean(np.abs(error[land]) > 5 * sample.GSD) < 0.02


def test_stated_height_errors_bound_the_true_ones() -> None:
    cloud = sample.cloud(PHOTOS)
    error = cloud.points[:, 2] - sample.true_heights(cloud.points[:, 0], cloud.points[:, 1])
    flat = np.isfinite(error) & (np.abs(error) < 5 * sample.GSD)
    within = np.mean(np.abs(error[flat]) <= 2 * cloud.height_sd[flat])
    assert 0.90 <= within <= 0.999


@pytest.mark.slow
def test_water_is_left_empty() -> None:
    """Moving water may match by chance here and there, but must not become ground."""
    block = sample.block()
    level = sample.truth()["water"]["level"]
    cloud = sample.cloud()
    cell = 0.5
    west, south, east, north = sample.true_dsm().grid.bounds
    x, y = np.meshgrid(np.arange(west + 2, east - 2, cell), np.arange(south + 2, north - 2, cell))
    truth = sample.true_heights(x, y)
    covered = np.zeros(truth.shape, bool)
    col, row = ((cloud.points[:, 0] - west - 2) / cell).astype(int), ((cloud.points[:, 1] - south - 2) / cell).astype(int)
    inside = (col >= 0) & (row >= 0) & (col < covered.shape[1]) & (row < covered.shape[0])
    covered[row[inside], col[inside]] = True
    camera = next(iter(block.cameras.values()))
    places = np.column_stack([x.ravel(), y.ravel(), truth.ravel()])
    pixels = np.stack([project(camera, pose, places) for _, pose in sorted(block.poses.items())])
    seen = np.all((pixels > 20) & (pixels < np.array(camera.size) - 20), axis=2).sum(axis=0).reshape(truth.shape) >= 3
    water, land = seen & (truth <= level + 0.01), seen & (truth > level + 0.3)
    assert water.sum() > 500 and land.sum() > 5000
    # 0.92 measured: crowns and the rim of the block stay empty rather than invented
    assert covered[land].mean() > 0.9
    # Windows reach across the waterline; a metre off it there is nothing.
    off_shore = ndimage.distance_transform_edt(truth <= level + 0.01) * cell > 1.0
    assert covered[water & off_shore].mean() < 0.02


@pytest.mark.slow
def test_threads_and_order_change_no_byte() -> None:
    one, two = sample.cloud(4, threads=1), sample.cloud(4, threads=2)
    for name in ("points", "colours", "views", "height_sd"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()


@pytest.mark.parametrize("setting", [{"downscale": 0}, {"neighbours": 1}, {"min_ncc": 1.5}, {"min_views": 1}])
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        DenseConfig(**setting)
    assert caught.value.message_id == "drone.setting_out_of_range"


def test_photos_without_overlap_are_refused() -> None:
    from dataclasses import fields

    from drone.types import Reconstruction
    from geoevidence.errors import ReconstructionError

    block = sample.block(4)
    values = {part.name: getattr(block, part.name) for part in fields(Reconstruction)}
    lonely = Reconstruction(
        **values
        | {"poses": {name: block.poses[name] for name in sorted(block.poses)[:1]}, "track_photos": block.track_photos * 0}
    )
    with pytest.raises(ReconstructionError) as caught:
        densify(lonely)
    assert caught.value.message_id == "drone.too_little_overlap"
