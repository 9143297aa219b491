"""Dense matching on the demonstration flight with true poses: errors against the true surface, coverage, water, threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from drone.camera import project, project_camera_points
from drone.dense import DenseConfig, choose_neighbours, densify, seen_boxes, undistortion, window_statistics
from drone.matching import score_views, smooth_costs
from drone.types import Camera
from geoevidence.errors import ConfigError, FormatError
from tests.drone import sample_block as sample

PHOTOS = 9


def test_undistortion_draws_what_the_camera_model_says() -> None:
    camera = sample.block(PHOTOS).cameras["synthetic"]
    lens = undistortion(camera, multiple=32)
    # Widened to multiples of 32 with a rim that the photo does not fill.
    assert lens.size == (1216, 928)
    assert lens.K[0, 2] == pytest.approx(camera.params[2] + 8) and lens.K[1, 2] == pytest.approx(camera.params[3] + 14)
    assert not lens.inside[:3].any() and lens.inside[40:-40, 40:-40].all()
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
    # Of normal errors 68 and 95 % would lie within one and two; real ones have longer tails (relief below a window, edges).
    assert 0.62 <= np.mean(np.abs(error[flat]) <= cloud.height_sd[flat]) <= 0.82
    assert 0.88 <= np.mean(np.abs(error[flat]) <= 2 * cloud.height_sd[flat]) <= 0.985


def test_noise_is_alike_over_about_a_window() -> None:
    """Windows of 7 px of two photo pixels share half their pixels at 7 GSD; smoothing between them widens that a little."""
    correlation = sample.cloud(PHOTOS).correlation_m
    assert correlation is not None
    assert 2 * sample.GSD < correlation < 14 * sample.GSD


def _mapped(picture: np.ndarray) -> np.ndarray:
    """Read-only, as pictures on disk are: the compiled forms of `densify` do for these tests too."""
    picture.flags.writeable = False
    return picture


def _windows(reference: np.ndarray, stack: np.ndarray, shifts: list[float], radius: int) -> tuple[np.ndarray, np.ndarray]:
    """What `score_views` gives for neighbours that are moved along the rows, and the same in plain numpy."""
    rows, cols = reference.shape
    A = np.repeat(np.eye(3, dtype=np.float32)[None], len(stack), axis=0)
    b = np.array([[shift, 0, 0] for shift in shifts], np.float32)
    out, room = np.empty(reference.shape, np.float32), np.empty((3, rows, cols), np.float32)
    inverse = np.ones(reference.shape, np.float32)
    boxes = seen_boxes(stack.shape[1:], A, b, inverse, 0.0)
    score_views(reference, *window_statistics(reference, radius), stack, A, b, boxes, inverse, radius, room, out)
    expected = np.full((len(stack), rows, cols), -2.0)
    for n, shift in enumerate(shifts):
        whole = int(np.floor(shift))
        part = shift - whole
        for y in range(radius, rows - radius):
            for x in range(radius, cols - radius):
                left, right = x - radius + whole, x + radius + whole + 1
                if left < 0 or right > cols - 1 or y + radius >= rows - 1:
                    continue
                r = reference[y - radius : y + radius + 1, x - radius : x + radius + 1].astype(float)
                g = stack[n, y - radius : y + radius + 1].astype(float)
                a, c = g[:, left:right], g[:, left + 1 : right + 1]
                # Interpolation reads the row below too, even where its weight is 0.
                if r.min() < 0 or stack[n, y - radius : y + radius + 2, left : right + 1].min() < 0:
                    continue
                w = np.floor(a + part * (c - a) + 0.5)
                # One grey level (8 steps) of noise in both variances.
                expected[n, y, x] = np.mean((r - r.mean()) * (w - w.mean())) / np.sqrt((r.var() + 64) * (w.var() + 64))
    return out, expected


@pytest.mark.parametrize("radius", [2, 3])
def test_window_scores_are_those_of_plain_arithmetic(radius: int) -> None:
    rng = np.random.default_rng(3)
    reference = rng.integers(0, 2040, (24, 30)).astype(np.int16)
    stack = np.stack([np.roll(reference, 3, axis=1), rng.integers(0, 2040, (24, 30)).astype(np.int16)])
    reference[5, 9], stack[0, 18, 20] = -1, -1
    out, expected = _windows(_mapped(reference), stack, [3.0, 1.25], radius)
    both = np.all(expected > -1.5, axis=0)
    assert both.sum() > 50
    np.testing.assert_array_equal(out > -1.5, both)
    # float32 holds a likeness to 1e-6; a rounded grey step of 1/8 level at a window's rim moves it by less than 1e-3.
    np.testing.assert_allclose(out[both], expected.mean(axis=0)[both], atol=1e-3)


def test_smoothing_spreads_what_the_pictures_show() -> None:
    """A row of pixels without a preference takes that of its ends; without penalties every pixel keeps its own."""
    volume = np.full((3, 12, 5), 40, np.uint8)
    volume[:, 0, 2] = volume[:, -1, 2] = 0
    grey, base = _mapped(np.zeros((3, 12), np.int16)), np.zeros((3, 12), np.int32)
    assert np.all(np.argmin(smooth_costs(volume, grey, base, 8, 60), axis=2) == 2)
    # Ranges that start one hypothesis higher per column are compared at the same disparity.
    tilted = np.full((3, 5, 9), 40, np.uint8)
    for x in range(5):
        tilted[:, x, 6 - x] = 0 if x in (0, 4) else 40
    start = np.repeat(np.arange(5, dtype=np.int32)[None], 3, axis=0)
    best = np.argmin(smooth_costs(tilted, _mapped(np.zeros((3, 5), np.int16)), start, 8, 60), axis=2)
    np.testing.assert_array_equal(best + start, 6)


def _smoothed(volume: np.ndarray, grey: np.ndarray, base: np.ndarray, small: int, large: int) -> np.ndarray:
    """Semi-global costs as Hirschmueller (2008, eqs. 11 and 13) writes them, path by path."""
    rows, cols, count = volume.shape
    total = np.zeros(volume.shape, np.int64)
    for dy, dx in ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)):
        path = np.zeros(volume.shape, np.int64)
        for y in range(rows) if dy >= 0 else range(rows - 1, -1, -1):
            for x in range(cols) if dx >= 0 else range(cols - 1, -1, -1):
                qy, qx = y - dy, x - dx
                path[y, x] = volume[y, x]
                if not (0 <= qy < rows and 0 <= qx < cols):
                    continue
                jump = int(max(small + 2, large / (1 + abs(int(grey[y, x]) - int(grey[qy, qx])) / 64)))
                shift = int(base[y, x]) - int(base[qy, qx])
                for d in range(count):
                    if abs(shift) >= 16:
                        path[y, x, d] += jump
                        continue
                    before = {k: path[qy, qx, k] for k in range(count)}
                    k = d + shift
                    ways = [before[k]] if k in before else []
                    ways += [before[i] + small for i in (k - 1, k + 1) if i in before]
                    path[y, x, d] += min([*ways, min(before.values()) + jump]) - min(before.values())
        total += path
    return total


@pytest.mark.parametrize(("count", "large"), [(5, 60), (18, 400)])
def test_smoothing_is_that_of_the_paper(count: int, large: int) -> None:
    rng = np.random.default_rng(5)
    volume = rng.integers(0, 128, (6, 7, count)).astype(np.uint8)
    grey = _mapped(rng.integers(0, 2040, (6, 7)).astype(np.int16))
    base = rng.integers(-2, 3, (6, 7)).astype(np.int32)
    base[:, 4:] += 20
    np.testing.assert_array_equal(smooth_costs(volume, grey, base, 8, large), _smoothed(volume, grey, base, 8, large))


def test_boxes_hold_every_pixel_that_a_neighbour_sees() -> None:
    rng = np.random.default_rng(7)
    rows, cols, height, width = 50, 70, 40, 60
    row, col = np.mgrid[:rows, :cols] + 0.5
    smallest = rows * cols
    for _ in range(20):
        A = np.eye(3) + rng.normal(size=(3, 3)) * [[0.1, 0.1, 15], [0.1, 0.1, 15], [1e-3, 1e-3, 0.1]]
        b = rng.normal(size=3) * [400, 400, 2]
        inverse = rng.uniform(0.02, 0.05, (rows, cols)).astype(np.float32)
        first, end, left, right = seen_boxes(
            (height, width), A[None].astype(np.float32), b[None].astype(np.float32), inverse, 0.01
        )[0]
        outside = np.ones((rows, cols), bool)
        outside[first:end, left:right] = False
        smallest = min(smallest, np.count_nonzero(~outside))
        for w in (inverse - 0.01, inverse, inverse + 0.01):
            place = np.tensordot(A, np.stack([col, row, np.ones_like(row)]), axes=1) + w * b[:, None, None]
            x, y = place[0] / place[2], place[1] / place[2]
            seen = (place[2] > 0) & (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
            assert not (seen & outside).any()
    assert smallest < 0.7 * rows * cols


@pytest.mark.slow
def test_the_fast_profile_is_somewhat_worse_and_says_so() -> None:
    clouds = {
        "default": sample.cloud(PHOTOS),
        "fast": densify(sample.block(PHOTOS), config=DenseConfig(profile="fast", threads=2)),
    }
    noise, stated = {}, {}
    for name, cloud in clouds.items():
        error = cloud.points[:, 2] - sample.true_heights(cloud.points[:, 0], cloud.points[:, 1])
        land = np.isfinite(error) & (cloud.points[:, 2] > sample.truth()["water"]["level"] + 0.2)
        noise[name] = 1.4826 * np.median(np.abs(error[land] - np.median(error[land])))
        stated[name] = np.mean(np.abs(error[land]) <= 2 * cloud.height_sd[land])
    assert noise["fast"] < 0.5 * sample.GSD and noise["default"] < 1.1 * noise["fast"]
    assert min(stated.values()) > 0.85
    assert 0.7 * len(clouds["default"].points) < len(clouds["fast"].points)


@pytest.mark.slow
def test_water_is_left_empty() -> None:
    """Moving water may match by chance here and there, but must not become ground."""
    block = sample.block(sample.RIVER)
    level = sample.truth()["water"]["level"]
    cloud = sample.cloud(sample.RIVER)
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
    one, two = (densify(sample.block(4), config=DenseConfig(downscale=4, threads=threads)) for threads in (1, 2))
    for name in ("points", "colours", "views", "height_sd"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()


@pytest.mark.parametrize("setting", [{"downscale": 0}, {"neighbours": 1}, {"min_ncc": 1.5}, {"min_views": 1}])
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        DenseConfig(**setting)
    assert caught.value.message_id == "drone.setting_out_of_range"


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        DenseConfig(profile="swift")  # type: ignore[arg-type]
    assert caught.value.message_id == "drone.unknown_profile"


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
