"""From photos to an adjusted block: who is matched with whom, who is left out and why, and the same again."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drone.metadata import read_flight
from drone.sfm import SfmConfig, pairs_to_match, reconstruct
from drone.synthetic import FlightConfig, SiteConfig, build_site, render_flight
from drone.types import Flight, Reconstruction
from geoevidence.errors import ReconstructionError
from tests.drone.simulated_block import simulate
from tests.drone.test_metadata import LAT, LON, photo

SMALL = FlightConfig(image_size=(400, 300), focal=328.3, principal_offset=(1.1, -0.8), gsd=0.15, strips=2, photos_per_strip=3)


def test_few_photos_are_matched_each_with_each() -> None:
    flight = simulate(strips=2, per_strip=6).flight
    assert len(pairs_to_match(flight, SfmConfig())) == 12 * 11 // 2


def test_many_photos_are_matched_with_their_neighbours() -> None:
    simulated = simulate(strips=5, per_strip=10, points=10, gps_noise=(0, 0, 0))
    config = SfmConfig(neighbours=8)
    pairs = pairs_to_match(simulated.flight, config)
    assert pairs == sorted(set(pairs))
    assert all(i < j for i, j in pairs)
    # each has its 8 nearest: at least 4 pairs a photo, and no more than 8
    assert 4 * 50 <= len(pairs) <= 8 * 50
    distance = np.linalg.norm(simulated.C[:, None, :2] - simulated.C[None, :, :2], axis=2)
    for i in range(50):
        mine = {j for pair in pairs if i in pair for j in pair} - {i}
        assert set(np.argsort(distance[i])[1:5]) <= mine


def test_photos_without_position_are_matched_with_all() -> None:
    flight = simulate(strips=5, per_strip=6, points=10).flight
    lost = tuple(replace(p, position=None) if i == 3 else p for i, p in enumerate(flight.photos))
    pairs = pairs_to_match(replace(flight, photos=lost), SfmConfig(neighbours=4))
    assert {j for pair in pairs if 3 in pair for j in pair} == set(range(30))
    none = tuple(replace(p, position=None) for p in flight.photos)
    assert len(pairs_to_match(replace(flight, photos=none), SfmConfig())) == 30 * 29 // 2


def test_one_photo_is_an_error(tmp_path: Path) -> None:
    flight = simulate(strips=1, per_strip=4, points=10).flight
    with pytest.raises(ReconstructionError) as caught:
        reconstruct(replace(flight, photos=flight.photos[:1]), workdir=tmp_path)
    assert caught.value.message_id == "drone.too_few_photos"


def repaint(path: Path, level: int) -> None:
    """The photo in one grey, its metadata kept."""
    with Image.open(path) as image:
        exif, size = image.getexif(), image.size
    Image.new("RGB", size, (level, level, level)).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize("kind", ["noise", "blank"])
def test_two_photos_that_share_nothing(tmp_path: Path, kind: str) -> None:
    for index, name in enumerate(("a.jpg", "b.jpg")):
        path = photo(tmp_path / "photos" / name, size=(320, 240), lon=LON + index * 1e-4)
        if kind == "blank":
            repaint(path, 90 + index)
    (tmp_path / "work").mkdir()
    with pytest.raises(ReconstructionError) as caught:
        reconstruct(read_flight(tmp_path / "photos"), workdir=tmp_path / "work")
    assert caught.value.message_id == "drone.no_overlap_at_all"
    assert caught.value.values == {"photos": 2, "matched": 0}
    assert "{" not in caught.value.render("zh")


@pytest.fixture(scope="session")
def small_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small rendered photos, and two that do not belong: noise, and a grey wall."""
    folder = tmp_path_factory.mktemp("small")
    render_flight(folder, config=SMALL, site=build_site(SiteConfig(detail=0.2)), seed=4, threads=2)
    for path in sorted(folder.iterdir()):
        if path.suffix != ".JPG":
            path.unlink()
    photo(folder / "noise.jpg", size=(400, 300), lon=LON, lat=LAT)
    grey = photo(folder / "wall.jpg", size=(400, 300), lon=LON, lat=LAT)
    repaint(grey, 120)
    return folder


def same(one: Reconstruction, two: Reconstruction) -> bool:
    arrays = ("points", "track_offsets", "track_photos", "track_pixels")
    return (
        all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in arrays)
        and sorted(one.poses) == sorted(two.poses)
        and all(one.poses[n].R.tobytes() == two.poses[n].R.tobytes() for n in one.poses)
        and all(one.poses[n].C.tobytes() == two.poses[n].C.tobytes() for n in one.poses)
        and one.cameras == two.cameras
        and one.accuracy == two.accuracy
        and one.parameters == two.parameters
    )


@pytest.mark.slow
def test_small_flight(small_photos: Path, tmp_path: Path) -> None:
    """Reasons for those left out; the same bytes with one thread, two, another place of the files, and on resuming."""
    flight = read_flight(small_photos)
    places = [tmp_path / name for name in ("one", "two", "moved")]
    for place in places:
        place.mkdir()
    stages: list[tuple[str, float]] = []
    one = reconstruct(flight, workdir=places[0], config=SfmConfig(threads=1), progress=lambda s, f: stages.append((s, f)))
    assert len(one.poses) == 6
    assert {name: reason.id for name, reason in one.unregistered.items()} == {
        "noise.jpg": "drone.left_out_no_overlap",
        "wall.jpg": "drone.left_out_few_features",
    }
    assert all(0 <= fraction <= 1 for _, fraction in stages)
    names = list(dict.fromkeys(stage for stage, _ in stages))
    assert names == [f"drone.stage_{stage}" for stage in ("features", "matches", "mapping", "ties", "adjust")]
    assert "threads" not in one.parameters
    json.dumps(one.parameters, allow_nan=False)

    two = reconstruct(flight, workdir=places[1], config=SfmConfig(threads=2))
    assert same(one, two)
    moved = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(small_photos, moved)
    assert same(one, reconstruct(read_flight(moved), workdir=places[2]))

    before = (places[0] / "sfm.json").stat().st_mtime_ns
    again: list[str] = []
    assert same(one, reconstruct(flight, workdir=places[0], progress=lambda s, f: again.append(s)))
    assert set(again) == {"drone.stage_ties", "drone.stage_adjust"}
    assert (places[0] / "sfm.json").stat().st_mtime_ns == before
    reconstruct(flight, workdir=places[0], config=SfmConfig(features=3000))
    assert (places[0] / "sfm.json").stat().st_mtime_ns != before


@pytest.fixture(scope="session")
def truth(sample_data: Path) -> dict[str, Any]:
    return json.loads((sample_data / "truth" / "flight.json").read_text("utf-8"))


def centre_errors(block: Reconstruction, truth: dict[str, Any]) -> np.ndarray:
    return np.array([block.poses[name].C - truth["photos"][name]["C"] for name in sorted(block.poses)])


@pytest.mark.slow
def test_sample_flight_with_control_points(sample_reconstruction: Reconstruction, truth: dict[str, Any]) -> None:
    block = sample_reconstruction
    accuracy = block.accuracy
    assert len(block.poses) == len(truth["photos"]) == 24
    assert not block.unregistered
    assert accuracy.control == "ground_points"
    assert accuracy.reprojection_rmse < 0.15
    # Points that took no part are predicted by the others of their tracks: worse than fitted ones, by leverage, but not much.
    assert accuracy.reprojection_rmse < (accuracy.held_out_rmse or 0) < 2 * accuracy.reprojection_rmse
    assert accuracy.held_out_observations > 1000
    assert accuracy.rolling_shutter is None
    assert accuracy.gsd == pytest.approx(0.05, rel=0.02)
    checks = [p for p in accuracy.ground_points if p.role == "check"]
    assert len(checks) == 5
    assert all(p.photos >= 3 for p in checks)
    # Half a pixel on the ground in plan, one and a half in height; below a twentieth the check would be too good to be held out.
    assert 0.05 * accuracy.gsd < (accuracy.check_rmse_horizontal or 0) < 0.5 * accuracy.gsd
    assert 0.05 * accuracy.gsd < (accuracy.check_rmse_vertical or 0) < 1.0 * accuracy.gsd
    errors = centre_errors(block, truth)
    assert np.abs(errors[:, :2]).max() < 0.15
    # The focal length moves cameras up and down; what is said of it must cover that.
    assert np.abs(errors[:, 2]).max() < 3 * accuracy.focal_sd * 50 + 0.05
    (camera,) = block.cameras.values()
    true = truth["camera"]["params"]
    assert abs(camera.params[0] / true[0] - 1) < 2 * accuracy.focal_sd
    assert np.abs(np.subtract(camera.params[2:4], true[2:4])).max() < 2.0
    assert block.flight.synthetic


@pytest.mark.slow
def test_sample_flight_by_positions_alone(
    sample_data: Path, sample_reconstruction: Reconstruction, truth: dict[str, Any]
) -> None:
    """The free model again, placed by the receiver of a drone without RTK: metres off, and it says so."""
    from drone.georeference import FreeModel, georeference

    folder = sample_data / "flight"
    flight = read_flight(folder, checks=folder / "check_list.txt")
    with_control = sample_reconstruction
    names = tuple(sorted(with_control.poses))
    owner = np.repeat(np.arange(len(with_control.points)), np.diff(with_control.track_offsets))
    shift = with_control.poses[names[0]].C
    model = FreeModel(
        names=names,
        R=np.stack([with_control.poses[name].R for name in names]),
        C=np.stack([with_control.poses[name].C for name in names]) - shift,
        cameras=with_control.cameras,
        points=with_control.points - shift,
        obs_photo=with_control.track_photos.astype(np.int64),
        obs_point=owner,
        obs_pixel=with_control.track_pixels.astype(float),
    )
    block = georeference(model, flight)
    accuracy = block.accuracy
    assert accuracy.control == "gps"
    horizontal, vertical = accuracy.check_rmse_horizontal or 0.0, accuracy.check_rmse_vertical or 0.0
    # The true error lies between a tenth of the stated standard deviation and three of it.
    assert 0.1 * math.hypot(*accuracy.position_sd[:2]) < horizontal < 3 * math.hypot(*accuracy.position_sd[:2])
    assert 0.1 * accuracy.position_sd[2] < vertical < 3 * accuracy.position_sd[2]
    assert accuracy.scale_sd > with_control.accuracy.scale_sd
    assert np.abs(centre_errors(block, truth).mean(axis=0) / accuracy.position_sd).max() < 3


@pytest.mark.slow
def test_real_flight(real_reconstruction: Reconstruction) -> None:
    block = real_reconstruction
    accuracy = block.accuracy
    assert len(block.poses) == 18
    assert not block.unregistered
    assert 0.3 < accuracy.reprojection_rmse < 0.8
    # 39 m above ground by the barometer, give or take the 1.5 m of terrain, over 2340 px.
    assert accuracy.gsd == pytest.approx(39 / 2340, rel=0.04)
    # A consumer receiver over a few minutes of one flight: decimetres of scatter, metres in common.
    assert 0.15 < (accuracy.gps_rmse_horizontal or 0) < 0.8
    # Heights follow the barometer, which hovered within 0.1 m.
    assert 0.05 < (accuracy.gps_rmse_vertical or 0) < 0.25
    up = np.array([pose.C[2] for pose in block.poses.values()])
    assert up.std() < 0.3
    assert accuracy.position_sd == pytest.approx((1.5, 1.5, 3.2), rel=0.1)
    # Nadir photos alone would say 2900 px and stretch all heights by a quarter; the camera's sensor and lens say 2340.
    # Shadows of trees wander over the road by pixels a minute.
    assert [gap.id for gap in block.gaps] == ["drone.focal_held", "drone.points_moved"]
    (camera,) = block.cameras.values()
    # UTM's 0.9996 stands in the focal length, not in the heights; 0.00036 with the height above the ellipsoid.
    assert camera.params[0] == pytest.approx(3.61 / 6.17 * 4000 * 1.00036, rel=5e-5)
    stated = [photo.relative_altitude for photo in block.flight.photos]
    above = float(np.median(up)) - float(np.median(block.points[:, 2]))
    # Above take-off by barometer; the ground lies within a metre or two of where it took off.
    assert abs(above - float(np.mean([a for a in stated if a is not None]))) < 3


def test_two_photos_of_different_flights_share_no_name(tmp_path: Path) -> None:
    """Same file names in two folders of a card stay apart."""
    for folder in ("100MEDIA", "101MEDIA"):
        photo(tmp_path / folder / "DJI_0001.JPG", seed=folder)
    flight: Flight = read_flight(tmp_path)
    assert [p.name for p in flight.photos] == ["100MEDIA/DJI_0001.JPG", "101MEDIA/DJI_0001.JPG"]
