"""What is stated about the ground agrees with how it scatters; what disturbs a block is found, and what does not is left alone."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyproj import CRS, Geod

from drone.adjustment import solved
from drone.camera import opencv_params, project_camera_points
from drone.georeference import AdjustConfig, FreeModel, _task, _velocities, attitude_rotation, georeference, grid_scale
from drone.residuals import residuals_of
from drone.tiepoints import TieConfig, refine_ties
from drone.types import Camera, Photo, Reconstruction
from drone.uncertainty import pivoted_factor
from geoevidence.crs import transformer
from geoevidence.errors import FormatError
from tests.drone.simulated_block import GRID, GSD, ORIGIN, SIZE, TRUE_PARAMS, Simulated, simulate


def intersected(simulated: Simulated, block: Reconstruction, places: np.ndarray) -> np.ndarray:
    """(N, 3) m: error of true places (N, 3), intersected from their true pixels with the poses and camera of the block."""
    names = sorted(block.poses)
    params = opencv_params(block.cameras["cam"])
    centres = np.array([block.poses[name].C for name in names])
    turns = np.array([block.poses[name].R for name in names])
    errors = []
    for place in places:
        local = np.einsum("pij,pj->pi", simulated.R, place - simulated.C)
        pixels = project_camera_points(TRUE_PARAMS, local)
        seen = ((pixels >= 0) & (pixels <= SIZE)).all(axis=1)

        def at(point: np.ndarray, seen: np.ndarray = seen) -> np.ndarray:
            return project_camera_points(params, np.einsum("pij,pj->pi", turns[seen], point - centres[seen])).ravel()

        found = place.copy()
        for _ in range(4):
            slope = np.stack([(at(found + step) - at(found - step)) / 2e-3 for step in 1e-3 * np.eye(3)], axis=1)
            found = found + np.linalg.lstsq(slope, pixels[seen].ravel() - at(found), rcond=None)[0]
        errors.append(found - place)
    return np.array(errors)


@pytest.mark.parametrize(
    "case",
    [
        {"control": 6},
        {"gps_noise": (0.02, 0.02, 0.03), "gps_sd": (0.02, 0.02, 0.03), "offset": (0.02, 0.02, 0.03)},
        {"offset": (1.5, 1.5, 3.0)},
    ],
    ids=["control", "rtk", "gps"],
)
def test_error_field_is_how_the_ground_scatters(case: dict[str, object]) -> None:
    """Errors of ground points and of differences between them, over their stated sd: root mean square near 1."""
    case = dict(case)
    offset = np.array(case.pop("offset", (1.5, 1.5, 3.0)))
    rng = np.random.default_rng(5)
    single, apart = [], []
    for seed in range(6):
        simulated = simulate(200 + seed, points=300, gps_offset=tuple(rng.normal(0, 1, 3) * offset), **case)  # type: ignore[arg-type]
        block = georeference(simulated.model, simulated.flight)
        field = block.error_field
        assert field is not None
        x, y = rng.uniform(-12, 12, (2, 24))
        places = np.column_stack([x, y, 3 * np.sin(x / 9) * np.cos(y / 7)]) + ORIGIN
        errors = intersected(simulated, block, places)
        modes = field.at(places[:, :2])
        single.append((errors**2 / (modes**2).sum(axis=2)).mean(axis=0))
        change = modes[:12] - modes[12:]
        apart.append(((errors[:12] - errors[12:]) ** 2 / (change**2).sum(axis=2)).mean(axis=0))
    # Places of one block err together, so a block is worth one to three draws an axis: 6 blocks and 3 axes are at least 18
    # freedoms, root mean square within 1 +- 3 / sqrt(36) = 0.5 to 1.5.
    assert 0.5 < math.sqrt(np.mean(single)) < 1.5
    assert 0.5 < math.sqrt(np.mean(apart)) < 1.5


def test_error_field_holds_what_the_accuracy_states() -> None:
    simulated = simulate(40, control=6, checks=2)
    block = georeference(simulated.model, simulated.flight)
    field = block.error_field
    assert field is not None
    inside = block.points[np.abs(block.points[:, :2] - ORIGIN[:2]).max(axis=1) < 15]
    sd = np.sqrt((field.at(inside[:, :2]) ** 2).sum(axis=2).mean(axis=0))
    # position_sd is over all tie points, seen twice at the edge; in the middle it is smaller, not by an order.
    assert np.all(sd < 1.2 * np.array(block.accuracy.position_sd))
    assert np.all(sd > 0.2 * np.array(block.accuracy.position_sd))
    assert field.factor.dtype == np.float32
    assert georeference(simulated.model, simulated.flight).error_field.factor.tobytes() == field.factor.tobytes()  # type: ignore[union-attr]


def test_factor_of_a_covariance() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(0, 1, (12, 4))
    factor = pivoted_factor(root @ root.T, 1e-9)
    assert factor.shape == (12, 4)
    assert np.abs(factor @ factor.T - root @ root.T).max() < 1e-8
    assert pivoted_factor(root @ root.T, 1e9).shape == (12, 0)


def test_solving_passes_over_zeros() -> None:
    """A banded matrix with two full rows in front, as cameras make them."""
    rng = np.random.default_rng(1)
    n = 60
    root = np.where(np.abs(np.subtract.outer(np.arange(n), np.arange(n))) < 4, rng.normal(0, 1, (n, n)), 0)
    root[:2] = rng.normal(0, 1, (2, n))
    matrix = root.T @ root + np.eye(n)
    right = rng.normal(0, 1, (n, 2))
    # Condition below 1e4: 1e-16 * 1e4, with room for the size of the right side.
    assert np.abs(solved(matrix, right) - np.linalg.solve(matrix, right)).max() < 1e-10


# --- what disturbs a block ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", [0.0, 0.3])
def test_rolling_shutter_is_found_where_there_is_one(readout: float) -> None:
    simulated = simulate(31, points=700, readout_m=readout, sway_deg=0.5, control=6, checks=8)
    block = georeference(simulated.model, simulated.flight)
    accuracy = block.accuracy
    if not readout:
        assert accuracy.rolling_shutter is None
        return
    held = georeference(simulated.model, simulated.flight, config=AdjustConfig(shutter_sd=1e9)).accuracy
    assert accuracy.rolling_shutter is not None
    found, sd = accuracy.rolling_shutter
    assert abs(found - readout) < 3 * sd
    assert sd < 0.2 * readout
    assert (accuracy.check_rmse_horizontal or 9) < 0.7 * GSD
    assert (held.check_rmse_horizontal or 0) > 2 * (accuracy.check_rmse_horizontal or 9)
    # Cameras without a shutter that stand for the photos: 0.3 m are 6 px over the columns, 3 px at an edge, of which relief (3 m in 50 m)
    # leaves 0.18 px there and less elsewhere; noise is 0.3 px an axis.
    residual = residuals_of(block)
    assert math.sqrt(float((residual**2).sum(axis=1).mean())) < math.hypot(0.424, 0.18)


def test_velocities_are_those_of_the_strips() -> None:
    simulated = timed(simulate(41, points=60))
    task = _task(simulated.model, simulated.flight, AdjustConfig())
    gusty = np.random.default_rng(0).normal(0, 0.1, simulated.C.shape)
    for times in (task.times, None, None if task.times is None else task.times + 0.25):
        found = _velocities(replace(task, times=times, config=AdjustConfig(interval=3.0)), simulated.C + gusty)
        way = np.where(np.arange(24) // 6 % 2 == 0, 1.0, -1.0) * 0.2 * SIZE[1] * GSD / 3
        # Places are off by 0.4 m an axis and 0.1 m more: over one way of 3 s that is 0.19 m/s, of which four sd are asked for.
        assert np.abs(found[:, 0]).max() < 4 * 0.195
        assert np.abs(found[:, 1] - way).max() < 4 * 0.195


def timed(simulated: Simulated) -> Simulated:
    start = datetime(2024, 5, 1, 3, 0, tzinfo=timezone(timedelta(hours=8)))
    photos = tuple(replace(p, taken=start + timedelta(seconds=3 * i)) for i, p in enumerate(simulated.flight.photos))
    return replace(simulated, flight=replace(simulated.flight, photos=photos))


def test_points_that_move_are_left_out() -> None:
    simulated = timed(simulate(41, points=500))
    model = simulated.model
    still = georeference(model, simulated.flight)
    assert not still.gaps
    # A fifth of the points, in one corner, go east by 2 cm (0.4 px) a photo, as shadows do.
    walking = (simulated.X[:, 0] > np.quantile(simulated.X[:, 0], 0.5)) & (
        simulated.X[:, 1] > np.quantile(simulated.X[:, 1], 0.6)
    )
    pixel = model.obs_pixel.copy()
    for index in range(len(model.names)):
        mine = np.flatnonzero((model.obs_photo == index) & walking[model.obs_point])
        places = simulated.X[model.obs_point[mine]]
        moved = places + [0.02 * index, 0, 0]
        local, away = ((p - simulated.C[index]) @ simulated.R[index].T for p in (places, moved))
        pixel[mine] += project_camera_points(TRUE_PARAMS, away) - project_camera_points(TRUE_PARAMS, local)
    block = georeference(replace(model, obs_pixel=pixel), simulated.flight)
    (gap,) = [gap for gap in block.gaps if gap.id == "drone.points_moved"]
    moving = int(walking.sum())
    # Those seen in one strip only, for 15 s, or in less than four photos, give no test; some are dropped as wrong matches.
    assert 0.3 * moving < int(str(gap.values["points"])) < 1.2 * moving
    # Had they stayed, the residuals would be some pixels.
    assert block.accuracy.reprojection_rmse < 2 * still.accuracy.reprojection_rmse


def test_held_out_points_are_predicted_as_well_as_their_noise_allows() -> None:
    simulated = simulate(42)
    accuracy = georeference(simulated.model, simulated.flight).accuracy
    # 0.3 px an axis; a point of n rays adds about 3 / (2 n) of the variance, n from 3 to 12.
    assert 0.424 < (accuracy.held_out_rmse or 0) < 1.5 * 0.424
    assert georeference(simulated.model, simulated.flight, config=AdjustConfig(held_out=0)).accuracy.held_out_rmse is None


# --- the scale of the grid ---------------------------------------------------------------------------------------------


def test_grid_scale_is_that_of_the_projection() -> None:
    utm = CRS.from_epsg(32650)
    # On the central meridian of UTM 0.9996; 100 m above the ellipsoid takes off 100 / 6378137.
    assert grid_scale(utm, np.array([5e5, 3.3e6, 0.0])) == pytest.approx(0.9996, abs=1e-8)
    assert grid_scale(utm, np.array([5e5, 3.3e6, 100.0])) == pytest.approx(0.9996 * (1 - 100 / 6378237), abs=1e-8)
    assert grid_scale(GRID, ORIGIN) == pytest.approx(1 + 0.5 * (27000 / 6.37e6) ** 2 - 25 / 6.37e6, abs=2e-7)


def test_heights_do_not_take_up_the_scale_of_the_grid() -> None:
    """The same flight on the central meridian of UTM: lengths of the grid are 4e-4 short, heights are not."""
    simulated = simulate(43, control=8, checks=8, noise_px=0.02, gps_noise=(0.02, 0.02, 0.03), gps_offset=(0, 0, 0), sway_deg=3.0)
    utm, here = CRS.from_epsg(32650), np.array([5e5, 3.36e6, 25.0])
    scale = np.array([grid_scale(utm, here)] * 2 + [1.0])

    def there(positions: np.ndarray) -> np.ndarray:
        return (positions - ORIGIN) * scale + here

    to_degrees = transformer(utm, CRS.from_epsg(4326))
    photos = []
    for photo, centre in zip(simulated.flight.photos, simulated.C, strict=True):
        lon, lat = to_degrees.transform(*there(centre)[:2])
        photos.append(replace(photo, position=(float(lon), float(lat), float(centre[2])), position_sd=(0.02, 0.02, 0.03)))
    points = tuple(
        replace(p, position=tuple(float(v) for v in there(np.array(p.position)))) for p in simulated.flight.ground_points
    )
    flight = replace(simulated.flight, crs=utm, photos=tuple(photos), ground_points=points)
    block = georeference(simulated.model, flight)
    # Surveyed to 0.01 m, marked to 0.02 px; taken for a scale, 4e-4 of 50 m would put 0.02 m into heights or cameras.
    assert (block.accuracy.check_rmse_vertical or 9) < 0.02
    off = np.array([block.poses[name].C for name in simulated.model.names]) - there(simulated.C)
    assert abs(float(off[:, 2].mean())) < 0.012
    assert block.cameras["cam"].params[0] == pytest.approx(1000 / scale[0], rel=1.5e-4)
    distance = Geod(ellps="WGS84").inv(*np.ravel([to_degrees.transform(*there(c)[:2]) for c in simulated.C[[0, -1]]]))[2]
    assert np.hypot(*(there(simulated.C[0]) - there(simulated.C[-1]))[:2]) / distance == pytest.approx(0.9996, abs=1e-5)


# --- tie points measured anew ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> tuple[FreeModel, tuple[Photo, ...], np.ndarray]:
    return plane_photos(
        tmp_path_factory.mktemp("plane"), ((0, -90, 0), (3, -88, 1), (180, -89, -2)), ((0, -5, 50), (0, 5, 51), (8, 0, 49.5))
    )


def plane_photos(
    folder: Path, attitudes: tuple[tuple[float, float, float], ...], places: tuple[tuple[float, float, float], ...]
) -> tuple[FreeModel, tuple[Photo, ...], np.ndarray]:
    """Photos of one textured plane 50 m below, with pixels that are off by 1 px; the true pixels."""
    rng = np.random.default_rng(3)
    waves = rng.normal(0, 1, (60, 2)) * 2.2
    phases, heights = rng.uniform(0, 2 * np.pi, 60), rng.uniform(4, 12, 60)
    size = (360, 270)
    params = np.array([300.0, 300.0, 180.0, 135.0, 0, 0, 0, 0])
    camera = Camera(id="cam", model="OPENCV", params=tuple(params), size=size, make_model="", focal_prior=None)
    turns = np.stack([attitude_rotation(a) for a in attitudes])
    centres = np.array(places, float)
    col, row = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    photos = []
    for index, (turn, centre) in enumerate(zip(turns, centres, strict=True)):
        ray = np.stack([(col - 180) / 300, (row - 135) / 300, np.ones_like(col)], axis=-1) @ turn
        ground = centre[:2] + ray[..., :2] * (-centre[2] / ray[..., 2])[..., None]
        grey = 128 + (heights * np.sin(ground @ waves.T + phases)).sum(axis=-1) * 0.35 * (1 + 0.1 * index)
        path = folder / f"{index}.png"
        Image.fromarray(np.clip(grey + rng.normal(0, 1, grey.shape), 0, 255).astype(np.uint8)).save(path)
        photo = simulate(points=10, strips=1, per_strip=1).flight.photos[0]
        photos.append(replace(photo, name=path.name, path=path, size=size))
    X = np.column_stack([rng.uniform(-12, 12, 150), rng.uniform(-9, 9, 150), np.zeros(150)])
    true = np.stack([project_camera_points(params, (X - c) @ r.T) for r, c in zip(turns, centres, strict=True)], axis=1)
    seen = ((true > 12) & (true < np.array(size) - 12)).all(axis=(1, 2))
    X, true = X[seen], true[seen]
    model = FreeModel(
        names=tuple(p.name for p in photos),
        R=turns,
        C=centres,
        cameras={"cam": camera},
        points=X,
        obs_photo=np.tile(np.arange(len(turns)), len(X)),
        obs_point=np.repeat(np.arange(len(X)), len(turns)),
        obs_pixel=true.reshape(-1, 2) + rng.normal(0, 0.7, (len(turns) * len(X), 2)),
    )
    return model, tuple(photos), true.reshape(-1, 2)


def plane_spread(model: FreeModel) -> float:
    """Root mean square, px: how far the rays of each point miss each other on the plane."""
    params = np.array([300.0, 300.0, 180.0, 135.0, 0, 0, 0, 0])
    ray = np.column_stack([(model.obs_pixel - params[2:4]) / 300, np.ones(len(model.obs_pixel))])
    ray = np.einsum("mi,mij->mj", ray, model.R[model.obs_photo])
    centre = model.C[model.obs_photo]
    ground = centre[:, :2] - ray[:, :2] * (centre[:, 2] / ray[:, 2])[:, None]
    total = np.stack([np.bincount(model.obs_point, ground[:, k]) for k in range(2)], axis=1)
    mean = total / np.bincount(model.obs_point)[:, None]
    return float(np.sqrt(((ground - mean[model.obs_point]) ** 2).sum(axis=1).mean()) * 300 / 50)


def test_matching_meets_where_the_photos_agree(pictured: tuple[FreeModel, tuple[Photo, ...], np.ndarray]) -> None:
    model, photos, _ = pictured
    flight = replace(simulate(points=10, strips=1, per_strip=1).flight, photos=photos, cameras=dict(model.cameras))
    before = plane_spread(model)
    refined = refine_ties(model, flight)
    assert refined.obs_matched is not None
    assert refined.obs_matched.mean() > 0.9
    matched = refine_ties(model, flight, threads=2)
    assert matched.obs_pixel.tobytes() == refined.obs_pixel.tobytes()
    # One grey level of noise against tens of contrast over 225 pixels: hundredths of a pixel.
    assert 0.7 < before < 1.2
    assert plane_spread(refined) < 0.08


def test_what_cannot_be_matched_stays_a_feature(pictured: tuple[FreeModel, tuple[Photo, ...], np.ndarray]) -> None:
    model, photos, _ = pictured
    flight = replace(simulate(points=10, strips=1, per_strip=1).flight, photos=photos, cameras=dict(model.cameras))
    none = refine_ties(model, flight, config=TieConfig(least_contrast=250.0))
    assert none.obs_matched is not None
    assert not none.obs_matched.any()
    assert (none.obs_pixel == model.obs_pixel).all()
    gone = tuple(replace(p, path=p.path.with_name("gone.png")) if i == 1 else p for i, p in enumerate(photos))
    with pytest.raises(FormatError) as caught:
        refine_ties(model, replace(flight, photos=gone))
    assert caught.value.message_id == "drone.unreadable_photo"


def test_windows_seen_obliquely_are_not_moved(tmp_path: Path) -> None:
    """Straight down and 25 degrees ahead: without the perspective within a window its match lies 15^2 / 12 tan(25) / 300 = 0.03 px off."""
    model, photos, _ = plane_photos(tmp_path, ((0, -90, 0), (0, -65, 0)), ((0, 0, 50), (0, -23, 50)))
    flight = replace(simulate(points=10, strips=1, per_strip=1).flight, photos=photos, cameras=dict(model.cameras))
    refined = refine_ties(model, flight)
    params = np.array([300.0, 300.0, 180.0, 135.0, 0, 0, 0, 0])
    first, second = (refined.obs_pixel[refined.obs_photo == index] for index in (0, 1))
    ray = np.column_stack([(first - params[2:4]) / 300, np.ones(len(first))]) @ refined.R[0]
    ground = refined.C[0] - ray * (refined.C[0, 2] / ray[:, 2])[:, None]
    off = second - project_camera_points(params, (ground - refined.C[1]) @ refined.R[1].T)
    good = np.linalg.norm(off, axis=1) < 0.3
    assert good.sum() > 40
    # Matches scatter by some hundredths; their mean by a tenth of that.
    assert np.abs(off[good].mean(axis=0)).max() < 0.01
