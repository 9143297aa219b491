"""Simulated blocks: injected errors come back neither smaller nor larger, and what is stated covers the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drone.adjustment import Block, _jacobians, residuals, rotations
from drone.camera import opencv_params, project, rays, triangulate
from drone.georeference import AdjustConfig, FreeModel, attitude_rotation, georeference, similarity
from drone.synthetic import rotation
from drone.types import Camera, Flight, Pose, Reconstruction
from tests.drone.simulated_block import GSD, HEIGHT, SIZE, TRUE_PARAMS, Simulated, simulate


def centre_errors(simulated: Simulated, block: Reconstruction) -> np.ndarray:
    return np.array([block.poses[name].C for name in simulated.model.names]) - simulated.C


# --- camera -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    k1=st.floats(-0.1, 0.05),
    k2=st.floats(-0.02, 0.02),
    p=st.floats(-1e-3, 1e-3),
    yaw=st.floats(-180, 180),
    pitch=st.floats(-90, -30),
    seed=st.integers(0, 10_000),
)
def test_projection_and_rays_are_inverse(k1: float, k2: float, p: float, yaw: float, pitch: float, seed: int) -> None:
    camera = Camera(
        id="c", model="OPENCV", params=(1000, 1003, 604, 447, k1, k2, p, -p), size=(1200, 900), make_model="", focal_prior=None
    )
    pose = Pose(R=attitude_rotation((yaw, pitch, 3.0)), C=np.array([5e5, 3.3e6, 120.0]))
    pixels = np.random.default_rng(seed).uniform([0, 0], [1200, 900], (50, 2))
    depth = np.random.default_rng(seed + 1).uniform(20, 200, (50, 1))
    points = pose.C + depth * rays(camera, pixels) @ pose.R
    # World coordinates of 3e6 m keep 4e-10 m; a pixel is 0.02 m at the nearest depth.
    assert np.abs(project(camera, pose, points) - pixels).max() < 1e-6
    assert np.isnan(project(camera, pose, 2 * pose.C - points)).all()


def test_camera_models_agree() -> None:
    simple = Camera(
        id="c", model="SIMPLE_RADIAL", params=(900, 600, 450, 0.02), size=(1200, 900), make_model="", focal_prior=None
    )
    radial = replace(simple, model="RADIAL", params=(900, 600, 450, 0.02, 0.0))
    assert (opencv_params(simple) == opencv_params(radial)).all()
    with pytest.raises(ValueError, match="FOV"):
        opencv_params(replace(simple, model="FOV"))


def test_triangulation_is_exact_without_noise() -> None:
    point = np.array([3.0, 4.0, -1.0])
    centres = np.array([[0.0, 0, 40], [10, 0, 40], [0, 12, 42]])
    assert np.abs(triangulate(centres, point - centres) - point).max() < 1e-12
    with pytest.raises(np.linalg.LinAlgError):
        triangulate(np.zeros((2, 3)), np.array([[0.0, 0, 1], [0, 0, 1]]))


@pytest.mark.parametrize("attitude", [(0.0, -90.0, 0.0), (45.0, -60.0, 0.0), (-140.0, -89.9, 2.0)])
def test_attitude_is_the_renderers(attitude: tuple[float, float, float]) -> None:
    """Two implementations of the gimbal's angles."""
    assert np.abs(attitude_rotation(attitude) - rotation(*attitude)).max() < 1e-12


def test_looking_down_north_up() -> None:
    assert np.abs(attitude_rotation((0, -90, 0)) - np.diag([1.0, -1, -1])).max() < 1e-15


def test_what_lies_far_beside_a_photo_is_not_in_it() -> None:
    """A lens whose polynomial turns back at r = 1.24 and is zero at r = 2 would show what lies 63 degrees off the axis in the middle."""
    camera = Camera(
        id="cam",
        model="OPENCV",
        params=(500, 500, 300, 225, -0.16, -0.0225, 0, 0),
        size=(600, 450),
        make_model="",
        focal_prior=None,
    )
    pose = Pose(R=np.diag([1.0, -1, -1]), C=np.array([0.0, 0, 50]))
    pixels = project(camera, pose, np.array([[20.0, 0, 0], [100.0, 0, 0], [0.0, 0, 60]]))
    assert pixels[0, 0] == pytest.approx(300 + 500 * 0.4 * (1 - 0.16 * 0.16 - 0.0225 * 0.0256))
    assert np.isnan(pixels[1:]).all()
    # A lens that grows for good reaches everywhere ahead.
    wide = replace(camera, params=(500, 500, 300, 225, 0.01, 0.01, 0, 0))
    assert np.isfinite(project(wide, pose, np.array([[400.0, 0, 0]]))).all()
    # One that turns back and grows again is one-to-one only before it turns.
    bent = replace(camera, params=(500, 500, 300, 225, -0.8, 0.2, 0, 0))
    assert np.isnan(project(bent, pose, np.array([[25.0, 0, 0], [50.0, 0, 0], [100.0, 0, 0]]))[:, 0]).tolist() == [
        False,
        True,
        True,
    ]


# --- adjustment -------------------------------------------------------------------------------------------------------


def test_derivatives_agree_with_differences() -> None:
    simulated = simulate(points=60)
    model = simulated.model
    block = Block(
        R=model.R, C=model.C, params=np.append(TRUE_PARAMS, 0.03)[None], velocity=np.full(model.C.shape, (0.3, 4.0, -0.2)), slip=np.zeros(model.C.shape),
        X=model.points, offset=np.zeros(3), photo=model.obs_photo,
        camera=np.zeros(len(model.obs_photo), np.int64), point=model.obs_point, pixel=model.obs_pixel,
        pixel_sd=np.full((len(model.obs_photo), 2), 0.7), phase=model.obs_pixel[:, 1] / SIZE[1] - 0.5,
        share=np.ones(len(model.obs_photo)), group=np.zeros(len(model.obs_photo), np.int64),
    )  # fmt: skip

    def moved(column: int, h: float) -> np.ndarray:
        shift = np.zeros(3)
        shift[column % 3] = h
        if column < 9:
            other = replace(block, params=block.params + h * np.eye(9)[column])
        elif column < 12:
            other = replace(block, R=rotations(shift[None]) @ block.R)
        elif column < 15:
            other = replace(block, C=block.C + shift)
        elif column < 18:
            other = replace(block, slip=block.slip + shift)
        else:
            other = replace(block, X=block.X + shift)
        return residuals(other) / block.pixel_sd

    _, left, right = _jacobians(block, np.eye(9), 9, 1e9)
    derivatives = np.concatenate([left, right], axis=2)
    for column in range(21):
        h = 1e-5
        numeric = (moved(column, h) - moved(column, -h)) / (2 * h)
        # Central differences: truncation h^2 and rounding 1e-13 / h, relative to the largest derivative.
        assert np.abs(numeric - derivatives[:, :, column]).max() < 1e-6 * np.abs(numeric).max(), column


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_similarity_is_recovered(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(0, 10, (6, 3))
    turn, shift = rotations(rng.normal(0, 1, (1, 3)))[0], rng.normal(0, 100, 3)
    found = similarity(source, scale * source @ turn.T + shift)
    assert found[0] == pytest.approx(scale, rel=1e-10)
    assert np.abs(found[1] - turn).max() < 1e-9
    assert np.abs(found[2] - shift).max() < 1e-8 * (1 + scale)


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_positions_alone() -> None:
    simulated = simulate(gps_offset=(0.0, 0.0, 0.0))
    block = georeference(simulated.model, simulated.flight)
    accuracy = block.accuracy
    assert accuracy.control == "gps"
    # 2-D residuals of noise 0.3 px per axis: 0.424 px, less the share that fitting takes (3 of about 10 per point).
    assert 0.75 * 0.424 < accuracy.reprojection_rmse < 1.03 * 0.424
    # 24 positions of 0.4 m per axis: 0.566 m horizontally; 7 of 72 freedoms are fitted, chi-square spread 10 %.
    assert 0.7 * 0.566 < (accuracy.gps_rmse_horizontal or 0) < 1.3 * 0.566
    assert 0.6 * 0.6 < (accuracy.gps_rmse_vertical or 0) < 1.4 * 0.6
    errors = centre_errors(simulated, block)
    # The mean of 24 positions: 0.4 / sqrt(24) = 0.08 m, 0.12 m up; more than 3.3 sigma or less than nothing is a fault.
    assert np.all(np.abs(errors.mean(axis=0)) < 3.3 * np.array([0.082, 0.082, 0.122]))
    assert np.abs(errors).max() > 0.005
    assert accuracy.gsd == pytest.approx(GSD, rel=0.03)
    # The stated position is that of one receiver's common error, whatever the scatter.
    assert accuracy.position_sd == pytest.approx((1.5, 1.5, 3.0), rel=0.1)


def test_control_points_remove_the_common_error() -> None:
    offset = (1.2, -0.9, 2.5)
    simulated = simulate(3, control=6, checks=8, gps_offset=offset)
    block = georeference(simulated.model, simulated.flight)
    accuracy = block.accuracy
    assert accuracy.control == "ground_points"
    assert [p.role for p in accuracy.ground_points] == ["control"] * 6 + ["check"] * 8
    # Marks of 0.3 px in about 8 photos: 0.005 m; surveyed to 0.01 m; the block between six control points adds as much.
    assert 0.1 * GSD < (accuracy.check_rmse_horizontal or 0) < 1.0 * GSD
    assert 0.1 * GSD < (accuracy.check_rmse_vertical or 0) < 1.5 * GSD
    # What positions are off is now seen: the offset, 1.5 m horizontally, and the scatter, 0.57 m.
    assert accuracy.gps_rmse_horizontal == pytest.approx(math.hypot(1.5, 0.566), rel=0.2)
    errors = np.abs(centre_errors(simulated, block))
    assert errors[:, :2].max() < 0.35
    # An error of the focal length moves the cameras up, the ground not at all.
    assert errors[:, 2].max() < 3 * accuracy.focal_sd * HEIGHT + 0.1


def test_stated_uncertainty_covers_the_truth() -> None:
    """Mean block error over its stated sd, for many draws of the receiver's common error: root mean square near 1."""
    rng = np.random.default_rng(11)
    scaled = []
    for seed in range(12):
        offset = rng.normal(0, 1, 3) * [1.5, 1.5, 3.0]
        simulated = simulate(seed, points=200, gps_offset=tuple(offset))
        block = georeference(simulated.model, simulated.flight)
        names = {tuple(np.round(p, 6)) for p in block.points}
        assert len(names) == len(block.points)
        ground = np.median(block.points, axis=0) - np.median(simulated.X, axis=0)
        scaled.append(ground / block.accuracy.position_sd)
    rms = float(np.sqrt(np.mean(np.square(scaled))))
    # 36 normalised errors: the root mean square of a true sd lies within 1 +- 3 / sqrt(72) = 0.65 to 1.35.
    assert 0.65 < rms < 1.35


@pytest.mark.parametrize("seed", [1, 2])
def test_scale_error_is_as_stated(seed: int) -> None:
    simulated = simulate(seed, gps_noise=(1.0, 1.0, 1.0))
    block = georeference(simulated.model, simulated.flight)
    estimated = np.array([block.poses[name].C for name in simulated.model.names])
    scale = similarity(simulated.C[:, :3], estimated)[0]
    assert abs(scale - 1) < 3 * block.accuracy.scale_sd
    # 24 positions of 1 m, 15 m root mean square from their middle: 1 / (sqrt(48) * 15) = 0.010
    assert 0.004 < block.accuracy.scale_sd < 0.02


def test_agreeing_focal_length_is_refined() -> None:
    simulated = simulate(5, focal_prior=1020.0, focal_prior_sd=0.03)
    block = georeference(simulated.model, simulated.flight)
    (camera,) = block.cameras.values()
    assert camera.params[0] == pytest.approx(1000, abs=10)
    assert not block.gaps
    # believed to no better than it agrees with what the camera states: 2 %
    assert 0.01 < block.accuracy.focal_sd < 0.03


def test_disagreeing_focal_length_is_held_and_said() -> None:
    simulated = simulate(6, focal_prior=1060.0, focal_prior_sd=0.01)
    block = georeference(simulated.model, simulated.flight)
    (camera,) = block.cameras.values()
    # but for the scale of the grid, 3e-6 here
    assert camera.params[:2] == pytest.approx((1060, 1060), rel=1e-5)
    (gap,) = block.gaps
    assert (gap.id, gap.values["sd"]) == ("drone.focal_held", "1 %")
    assert int(str(gap.values["off"]).split()[0]) in (5, 6, 7)
    assert block.accuracy.focal_sd == pytest.approx(0.01)


def test_focal_length_is_found_by_photos_that_look_different_ways() -> None:
    simulated = simulate(7, tilt_deg=15.0, focal_prior=1100.0, focal_prior_sd=0.15)
    block = georeference(simulated.model, simulated.flight)
    (camera,) = block.cameras.values()
    assert 0.0005 < block.accuracy.focal_sd < 0.01
    assert abs(camera.params[0] / 1000 - 1) < 3 * block.accuracy.focal_sd
    assert not block.gaps


def dome(block: Reconstruction, simulated: Simulated) -> float:
    """Height error at the edge of the block against its middle, m: the quadratic part over the cameras."""
    errors = centre_errors(simulated, block)[:, 2]
    place = simulated.C[:, :2] - simulated.C[:, :2].mean(axis=0)
    radius = (place**2).sum(axis=1)
    design = np.column_stack([np.ones(len(place)), place, radius])
    return float(np.linalg.lstsq(design, errors, rcond=None)[0][3] * radius.max())


def test_common_errors_of_pixels_do_not_arch_the_block() -> None:
    """A rolling shutter (1.5 m of flight a photo) that is not allowed for bends the lens, and the lens the block, unless heights may
    hold it flat.
    """
    simulated = simulate(
        20, gps_noise=(0.4, 0.4, 0.1), gps_offset=(0, 0, 0), points=1500, readout_m=1.5, sway_deg=0.2, focal_prior_sd=0.01
    )
    photos = tuple(replace(p, relative_altitude=(p.position or (0, 0, 0))[2] - 20.0) for p in simulated.flight.photos)
    flight = replace(simulated.flight, photos=photos)
    unaware = AdjustConfig(shutter_sd=1e9)
    shared = abs(dome(georeference(simulated.model, flight, config=unaware), simulated))
    counted_singly = abs(dome(georeference(simulated.model, flight, config=replace(unaware, independent=10**6)), simulated))
    # 24 heights of 0.1 m tell the middle from the edge to about 0.05 m.
    assert shared < 0.1
    assert counted_singly > 2 * shared


def test_receiver_heights_that_only_look_barometric_are_weighed_as_they_scatter() -> None:
    simulated = simulate(21, gps_noise=(0.4, 0.4, 1.6), gps_offset=(0, 0, 0))
    photos = tuple(replace(p, relative_altitude=(p.position or (0, 0, 0))[2] - 20.0) for p in simulated.flight.photos)
    block = georeference(simulated.model, replace(simulated.flight, photos=photos))
    # Freedoms as in test_positions_alone; were the heights believed, the misfit would be far below the injected 1.6 m.
    assert 0.6 * 1.6 < (block.accuracy.gps_rmse_vertical or 0) < 1.4 * 1.6
    assert abs(dome(block, simulated)) < 0.2


def test_unknown_focal_length_is_said() -> None:
    simulated = simulate(8, focal_prior=None)
    block = georeference(simulated.model, simulated.flight)
    assert [gap.id for gap in block.gaps] == ["drone.focal_unknown"]
    assert block.accuracy.focal_sd == pytest.approx(0.15)


def with_positions(simulated: Simulated, change: object) -> Flight:
    photos = tuple(replace(photo, position=change(i, photo)) for i, photo in enumerate(simulated.flight.photos))  # type: ignore[operator]
    return replace(simulated.flight, photos=photos)


def test_positions_that_do_not_fit_are_refused() -> None:
    """Longitudes mirrored: no turn, shift and scale brings them onto the photos."""
    simulated = simulate(9)
    middle = np.mean([p.position[0] for p in simulated.flight.photos if p.position])
    flight = with_positions(simulated, lambda i, p: (2 * middle - p.position[0], *p.position[1:]))
    block = georeference(simulated.model, flight)
    assert block.accuracy.control == "none"
    assert "drone.gps_does_not_fit" in [gap.id for gap in block.gaps]
    assert np.isinf(block.accuracy.position_sd).all()
    assert math.isinf(block.accuracy.scale_sd)
    assert math.isnan(block.accuracy.gsd)
    assert block.accuracy.gps_rmse_horizontal is None
    assert np.isfinite(block.points).all()


def test_positions_that_never_change_give_no_scale() -> None:
    simulated = simulate(9)
    flight = with_positions(simulated, lambda i, p: simulated.flight.photos[0].position)
    assert georeference(simulated.model, flight).accuracy.control == "none"


def test_one_wrong_position_is_named_and_left_out() -> None:
    simulated = simulate(10, gps_offset=(0, 0, 0))
    flight = with_positions(simulated, lambda i, p: (p.position[0] + (3e-4 if i == 5 else 0), *p.position[1:]))
    block = georeference(simulated.model, flight)
    assert [(gap.id, gap.values.get("photo")) for gap in block.gaps] == [("drone.gps_outlier", "P005.JPG")]
    assert (block.accuracy.gps_rmse_horizontal or 9) < 0.9
    assert np.abs(centre_errors(simulated, block).mean(axis=0)).max() < 0.5


def test_photos_without_position_are_placed_by_the_others() -> None:
    simulated = simulate(12, gps_offset=(0, 0, 0))
    flight = with_positions(simulated, lambda i, p: None if i % 2 else p.position)
    block = georeference(simulated.model, flight)
    assert len(block.poses) == 24
    assert np.abs(centre_errors(simulated, block)).max() < 1.5


def test_control_points_alone_place_a_block() -> None:
    simulated = simulate(13, control=6, checks=4)
    block = georeference(simulated.model, with_positions(simulated, lambda i, p: None))
    assert block.accuracy.control == "ground_points"
    assert block.accuracy.gps_rmse_horizontal is None
    assert (block.accuracy.check_rmse_horizontal or 9) < GSD


def test_a_single_strip_needs_attitudes() -> None:
    simulated = simulate(14, strips=1, per_strip=8, gps_noise=(0.1, 0.1, 0.1), gps_offset=(0, 0, 0), gps_sd=(0.3, 0.3, 0.3))
    block = georeference(simulated.model, simulated.flight)
    assert block.accuracy.control == "gps"
    down = np.array([block.poses[name].R[2] for name in simulated.model.names]).mean(axis=0)
    # The turn about the strip: 0.1 m over 0.4 m of sideways scatter and 8 photos, 5 degrees, with attitudes of 3: 2.6; three of it.
    assert math.degrees(math.acos(min(1.0, -down[2] / np.linalg.norm(down)))) < 7.8
    blind = replace(simulated.flight, photos=tuple(replace(p, attitude=None) for p in simulated.flight.photos))
    assert georeference(simulated.model, blind).accuracy.control == "none"


def test_points_marked_once_are_named() -> None:
    simulated = simulate(15, control=4)
    first = simulated.flight.ground_points[0]
    once = replace(first, observations=dict(list(first.observations.items())[:1]))
    block = georeference(simulated.model, replace(simulated.flight, ground_points=(once, *simulated.flight.ground_points[1:])))
    assert [(gap.id, gap.values.get("name")) for gap in block.gaps] == [("drone.point_seen_once", "control0")]
    assert len(block.accuracy.ground_points) == 3


def test_outlying_matches_are_dropped() -> None:
    simulated = simulate(16)
    pixel = simulated.model.obs_pixel.copy()
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(pixel), len(pixel) // 50, replace=False)
    pixel[wrong] += rng.uniform(8, 40, (len(wrong), 2))
    clean = georeference(simulated.model, simulated.flight)
    block = georeference(replace_pixels(simulated.model, pixel), simulated.flight)
    assert len(block.track_photos) <= len(clean.track_photos) - 0.95 * len(wrong)
    assert block.accuracy.reprojection_rmse == pytest.approx(clean.accuracy.reprojection_rmse, rel=0.03)


def replace_pixels(model: FreeModel, pixel: np.ndarray) -> FreeModel:
    return replace(model, obs_pixel=pixel)


def test_same_input_same_bytes() -> None:
    simulated = simulate(17, control=4, checks=2)
    one = georeference(simulated.model, simulated.flight)
    two = georeference(simulated.model, simulated.flight)
    assert one.points.tobytes() == two.points.tobytes()
    assert one.track_pixels.tobytes() == two.track_pixels.tobytes()
    assert one.cameras == two.cameras
    assert one.accuracy == two.accuracy
    for name in one.poses:
        assert one.poses[name].C.tobytes() == two.poses[name].C.tobytes()
        assert one.poses[name].R.tobytes() == two.poses[name].R.tobytes()


def test_tracks_point_at_what_they_show() -> None:
    simulated = simulate(18)
    block = georeference(simulated.model, simulated.flight)
    names = sorted(block.poses)
    owner = np.repeat(np.arange(len(block.points)), np.diff(block.track_offsets))
    assert len(owner) == len(block.track_photos) == len(block.track_pixels) == block.track_offsets[-1]
    worst = []
    for index, name in enumerate(names):
        mine = block.track_photos == index
        camera = block.cameras["cam"]
        worst.append(
            np.linalg.norm(project(camera, block.poses[name], block.points[owner[mine]]) - block.track_pixels[mine], axis=1)
        )
    distance = np.concatenate(worst)
    assert np.sqrt(np.mean(distance**2)) == pytest.approx(block.accuracy.reprojection_rmse, rel=1e-4)
    assert distance.max() < 4.001
