"""The renderer states a truth; these tests hold site, camera, files and pictures against it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from drone.metadata import read_flight
from drone.synthetic import (
    MARK,
    ROAD_WIDTH,
    FlightConfig,
    FlightTruth,
    Site,
    SiteConfig,
    _Caster,
    _hit,
    _rays,
    build_site,
    plan_flight,
    project,
    render_flight,
    rotation,
    sun_position,
    write_truth,
)
from drone.types import Pose

COARSE = SiteConfig(detail=0.2)
SMALL = FlightConfig(image_size=(300, 225), focal=246.25, principal_offset=(1.1, -0.8), gsd=0.2, strips=3, photos_per_strip=3)


@pytest.fixture(scope="module")
def site() -> Site:
    return build_site(COARSE)


@pytest.fixture(scope="module")
def flown(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FlightTruth]:
    folder = tmp_path_factory.mktemp("flight")
    return folder, render_flight(folder, config=SMALL, site=site, seed=4, threads=2)


def nodes(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates of the nodes, flat (n,)."""
    rows, cols = site.heights.shape
    x = site.config.origin[0] + site.corner[0] + np.arange(cols) * site.config.detail
    y = site.config.origin[1] + site.corner[1] + np.arange(rows) * site.config.detail
    e, n = np.meshgrid(x, y)
    return e.ravel(), n.ravel()


@pytest.mark.parametrize(("name", "sign"), [("pit", -1.0), ("pile", 1.0)])
def test_volume_is_that_between_surface_and_rim_plane(site: Site, name: str, sign: float) -> None:
    body = getattr(site, name)
    outline = shapely.Polygon(body.outline)
    e, n = nodes(site)
    z = site.heights.ravel().astype(float)
    points = shapely.points(e, n)
    inside = shapely.contains(outline, points)
    rim = shapely.contains(outline.buffer(0.9), points) & ~shapely.contains(outline.buffer(0.3), points)
    design = np.stack([e - e.mean(), n - n.mean(), np.ones_like(e)], axis=1)
    plane, *_ = np.linalg.lstsq(design[rim], z[rim], rcond=None)
    # The rim is a plane to the rounding of float32 heights (2e-6 m at 25 m).
    assert np.abs(z[rim] - design[rim] @ plane).max() < 2e-5
    volume = sign * float(np.sum((z - design @ plane)[inside])) * site.config.detail**2
    # Cells along the outline hold almost no volume; the rounding of the plane gives 350 m2 * 1e-5 m.
    assert volume == pytest.approx(body.volume, rel=1e-3)
    # Counting cells misses the area by about perimeter * cell * sqrt(cell / perimeter).
    assert inside.sum() * site.config.detail**2 == pytest.approx(body.area, abs=1.5)
    assert outline.area == pytest.approx(body.area, rel=1e-9)


@pytest.mark.slow
def test_detail_does_not_change_the_truth(site: Site) -> None:
    coarser = build_site(replace(COARSE, detail=0.25))
    assert coarser.pit.area == pytest.approx(site.pit.area, rel=1e-9)
    # Roughness of the walls is sampled elsewhere; midpoint sums of a smooth body agree to far better than a per mille.
    assert coarser.pit.volume == pytest.approx(site.pit.volume, rel=2e-3)
    assert coarser.pile.volume == pytest.approx(site.pile.volume, rel=2e-3)


@pytest.mark.slow
def test_a_second_date_differs_only_where_it_was_dug(site: Site) -> None:
    before = build_site(replace(COARSE, pit_depth=0.0, pile_height=0.0))
    assert before.pit.volume == before.pile.volume == 0
    changed = before.heights != site.heights
    e, n = nodes(site)
    hull = shapely.union_all([shapely.Polygon(b.outline).buffer(0.3) for b in (site.pit, site.pile)])
    outside = ~shapely.contains(hull, shapely.points(e, n)).reshape(changed.shape)
    assert changed.any() and not (changed & outside).any()


def test_water_is_level_and_its_mask_is_exact(site: Site) -> None:
    assert site.water.any()
    assert np.all(site.heights[site.water] == np.float32(site.water_level))
    assert site.heights[~site.water].min() >= 20.0
    assert np.array_equal(site.water_mask[::-1], site.water)


def test_dsm_is_north_up_and_lies_on_the_nodes(site: Site) -> None:
    dsm = site.dsm
    for name, _, x, y, z in site.targets:
        world = np.array([[site.config.origin[0] + x, site.config.origin[1] + y]])
        assert site.heights_at(world)[0] == pytest.approx(z, abs=1e-4), name
        col, row = ~dsm.grid.transform @ (world[0, 0], world[0, 1])
        # The ground within half a metre of a target is level.
        assert float(dsm.data[0, int(row), int(col)]) == pytest.approx(z, abs=1e-4)


def test_kerbs_are_a_road_apart(site: Site) -> None:
    # Along the normal of the road the inner edges of the kerbs (height step) are ROAD_WIDTH apart, to two nodes.
    across = np.arange(-5, 5, 0.01)
    foot = np.array([site.config.origin[0] + 0.8 * 38.0, site.config.origin[1] + 0.6 * 38.0])
    heights = site.heights_at(foot + across[:, None] * np.array([0.8, 0.6]))
    raised = across[heights > heights[np.abs(across) < 1].max() + 0.05]
    assert raised[raised > 0].min() - raised[raised < 0].max() == pytest.approx(ROAD_WIDTH, abs=2 * COARSE.detail)


def test_sun_position_agrees_with_a_published_example() -> None:
    # Reda and Andreas 2008, NREL/TP-560-34302, appendix A.5: azimuth 194.340241, elevation without refraction 39.872046.
    moment = datetime(2003, 10, 17, 12, 30, 30, tzinfo=timezone(timedelta(hours=-7)))
    azimuth, elevation = sun_position(moment, -105.1786, 39.742476)
    assert azimuth == pytest.approx(194.340241, abs=0.03)
    assert elevation == pytest.approx(39.872046, abs=0.03)


def test_rotation_is_that_of_a_gimbal() -> None:
    east = rotation(90.0, -90.0, 0.0)
    assert np.allclose(east @ [0, 0, -1], [0, 0, 1], atol=1e-12)  # looks down
    assert np.allclose(east @ [1, 0, 0], [0, -1, 0], atol=1e-12)  # east is up in the picture
    level = rotation(0.0, 0.0, 0.0)
    assert np.allclose(level @ [0, 1, 0], [0, 0, 1], atol=1e-12)  # looks north
    any_ = rotation(33.0, -71.0, 4.0)
    assert np.allclose(any_ @ any_.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(any_) == pytest.approx(1.0)


def test_rays_invert_projection_and_agree_with_colmap() -> None:
    import pycolmap

    config = FlightConfig()
    rays = _rays(config.params, config.image_size, 1).astype(np.float64)
    pose = Pose(R=np.eye(3), C=np.zeros(3))
    rows, cols = np.array([0, 0, 449, 899, 899]), np.array([0, 1199, 600, 0, 1199])
    uv = rays[rows, cols]
    pixels = project(config.params, pose, np.column_stack([uv, np.ones(5)]))
    # float32 rays: 0.7 * 6e-8 * 985 px = 4e-5 px.
    assert np.abs(pixels - np.column_stack([cols + 0.5, rows + 0.5])).max() < 2e-4
    camera = pycolmap.Camera(model="OPENCV", width=1200, height=900, params=list(config.params))
    assert np.allclose(camera.cam_from_img(pixels), uv, atol=1e-6)


def test_points_behind_the_camera_have_no_pixel() -> None:
    pose = Pose(R=rotation(0.0, -90.0, 0.0), C=np.array([0.0, 0.0, 50.0]))
    assert np.isnan(project(FlightConfig().params, pose, np.array([[0.0, 0.0, 60.0]]))).all()


def test_rays_meet_the_surface_first(site: Site) -> None:
    caster = _Caster(site, (166.0, 48.0))
    rng = np.random.default_rng(0)
    top = float(caster.tops.max()) + 0.01
    for _ in range(200):
        eye = np.array([rng.uniform(-35, 35), rng.uniform(-25, 25), 75.0])
        ray = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.5), -1.0])
        t = _hit(site.heights, caster.tops, caster.block, *site.corner, site.config.detail, *eye, *ray, top)
        # Against dense sampling: above the surface before, on or below it just after.
        steps = np.linspace((top - 75.0) / ray[2], t - 1e-3, 4000)
        path = eye + steps[:, None] * ray
        world = path[:, :2] + np.array(site.config.origin)
        assert np.all(path[:, 2] > site.heights_at(world) - 1e-3)
        after = eye + (t + 1e-3) * ray
        assert after[2] < site.heights_at(after[None, :2] + np.array(site.config.origin))[0] + 1e-3


def test_files_read_back_as_what_they_are(flown: tuple[Path, FlightTruth]) -> None:
    folder, truth = flown
    flight = read_flight(folder, gcp=folder / "gcp_list.txt", checks=folder / "check_list.txt")
    assert flight.synthetic and not flight.rejected
    assert [photo.name for photo in flight.photos] == sorted(truth.poses)
    assert flight.crs.to_epsg() == 4547
    (camera,) = flight.cameras.values()
    assert camera.focal_prior == pytest.approx(SMALL.focal, rel=0.05)
    told = {point.name: point for point in flight.ground_points}
    for point in truth.ground_points:
        if not point.observations:
            continue
        assert told[point.name].role == point.role
        assert told[point.name].position == pytest.approx(point.position, abs=1e-4)
        assert dict(told[point.name].observations) == dict(point.observations)
    for photo in flight.photos:
        assert photo.taken is not None and photo.taken.astimezone(UTC) == truth.times[photo.name].astimezone(UTC)
        assert photo.attitude is not None and photo.attitude[1] >= -90
        pose = truth.poses[photo.name]
        # 0.4 degrees of noise an axis, rounded: five sigma.
        lean = np.degrees(np.arccos(np.clip((np.trace(rotation(*photo.attitude) @ pose.R.T) - 1) / 2, -1, 1)))
        assert lean < 5 * 0.4 * np.sqrt(3)


@pytest.mark.parametrize(("mode", "sd"), [("gps", (1.5, 3.0)), ("rtk", (0.02, 0.03))])
def test_positions_carry_the_stated_error(site: Site, tmp_path: Path, mode: str, sd: tuple[float, float]) -> None:
    from geoevidence.crs import parse_crs, transformer

    config = replace(SMALL, gps=mode, image_size=(32, 24), focal=26.3, gsd=1.9, strips=5, photos_per_strip=8)
    truth = render_flight(tmp_path, config=config, site=site, seed=9)
    to_metres = transformer(parse_crs("EPSG:4490"), parse_crs(site.config.crs))
    errors = []
    for photo in read_flight(tmp_path, crs=parse_crs(site.config.crs)).photos:
        assert photo.position is not None
        lon, lat, height = photo.position
        errors.append(np.array([*to_metres.transform(lon, lat), height]) - truth.poses[photo.name].C)
    scatter = np.std(errors, axis=0, ddof=1)
    # One fifth of the variance of GPS is not common to the flight; 40 photos give the sd to 11 %: three sigma.
    expected = np.array([sd[0], sd[0], sd[1]]) * (np.sqrt(0.2) if mode == "gps" else 1.0)
    assert np.all((scatter > 0.66 * expected) & (scatter < 1.34 * expected))
    bias = np.abs(np.mean(errors, axis=0)) / np.array([sd[0], sd[0], sd[1]])
    assert bias.max() < 3.0
    if mode == "gps":
        assert bias.max() > 0.1


def test_marks_carry_the_stated_error_and_survey_too(flown: tuple[Path, FlightTruth]) -> None:
    _, truth = flown
    off = [
        np.subtract(mark, truth.marks[point.name][photo])
        for point in truth.ground_points
        for photo, mark in point.observations.items()
    ]
    assert len(off) > 25
    # The sd of n values is known to 1 / sqrt(2 n): 14 % at n = 25; three sigma.
    assert 0.58 * SMALL.mark_sd < np.std(off) < 1.42 * SMALL.mark_sd
    surveyed = np.array([np.subtract(point.position, truth.targets[point.name]) for point in truth.ground_points])
    assert 0.3 * 0.01 < surveyed[:, :2].std() < 2 * 0.01
    assert np.abs(surveyed).max() < 0.06


def test_a_target_out_of_the_picture_has_no_mark(site: Site, flown: tuple[Path, FlightTruth]) -> None:
    _, truth = flown
    for name, position in truth.targets.items():
        for photo, pose in truth.poses.items():
            col, row = project(truth.camera.params, pose, np.array([position]))[0]
            if not (0 <= col <= 300 and 0 <= row <= 225):
                assert photo not in truth.marks[name]
            elif 20 < col < 280 and 20 < row < 205:
                assert photo in truth.marks[name], "all targets lie in the open"


def test_every_photo_says_that_it_is_synthetic(flown: tuple[Path, FlightTruth]) -> None:
    folder, truth = flown
    for name in truth.poses:
        data = (folder / name).read_bytes()
        assert data.count(MARK.encode()) == 2  # EXIF description and XMP
        with Image.open(folder / name) as image:
            assert image.size == SMALL.image_size
            exif = image.getexif()
            assert exif[0x010E].encode("latin-1").decode("utf-8") == MARK
            assert exif[0x0131] == "geoevidence synthetic"
            assert exif[0x9C9C].decode("utf-16-le").rstrip("\0") == MARK


def test_land_has_texture_water_has_little(site: Site, flown: tuple[Path, FlightTruth]) -> None:
    folder, truth = flown
    pose = truth.poses["SYN_0001.JPG"]
    with Image.open(folder / "SYN_0001.JPG") as image:
        grey = np.asarray(image.convert("L"), float)
    e, n = nodes(site)
    pixels = project(truth.camera.params, pose, np.column_stack([e, n, site.heights.ravel()]))
    ok = np.all((pixels > 3) & (pixels < np.array(SMALL.image_size) - 3), axis=1)
    cols, rows = pixels[ok].astype(int).T
    contrast = np.abs(grey[rows, cols] - 0.5 * (grey[rows, cols - 2] + grey[rows, cols + 2]))
    water = site.water.ravel()[ok]
    assert water.sum() > 500
    assert np.median(contrast[~water]) > 3 * np.median(contrast[water])


@pytest.mark.slow
def test_bytes_do_not_depend_on_threads(site: Site, flown: tuple[Path, FlightTruth], tmp_path: Path) -> None:
    folder, _ = flown
    render_flight(tmp_path, config=SMALL, site=site, seed=4, threads=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in folder.iterdir())
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_plan_keeps_overlap_and_attitude(site: Site) -> None:
    plan = plan_flight(SMALL, site, seed=4)
    centres = np.array([pose.C for pose, _, _ in plan.values()]).reshape(3, 3, 3)
    step = np.abs(np.diff(centres[:, :, 1], axis=1)).mean()
    # Mean of 6 steps with 0.35 m of jitter at both ends: 0.2 m, three sigma.
    assert step == pytest.approx(0.2 * 225 * 0.2, abs=0.6)
    assert centres[:, :, 2].mean() - site.config.height == pytest.approx(0.2 * 246.25, abs=0.4)
    assert all(attitude[1] >= -90 for _, attitude, _ in plan.values())


def test_truth_is_written_as_json(flown: tuple[Path, FlightTruth], tmp_path: Path) -> None:
    _, truth = flown
    write_truth(tmp_path / "truth.json", truth)
    raw = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    assert raw["synthetic"] == MARK
    assert raw["pit"]["volume_m3"] == pytest.approx(truth.site.pit.volume, abs=1e-3)
    for name, pose in truth.poses.items():
        assert np.allclose(raw["photos"][name]["R"], pose.R, atol=1e-11)
        assert np.allclose(raw["photos"][name]["C"], pose.C, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (SiteConfig, "detail", 0.0),
        (SiteConfig, "size", (50.0, 120.0)),
        (SiteConfig, "pit_depth", -1.0),
        (FlightConfig, "start", datetime(2024, 10, 20)),
        (FlightConfig, "gps", "none"),
        (FlightConfig, "control_points", 7),
        (FlightConfig, "forward_overlap", 1.0),
    ],
)
def test_senseless_settings_are_refused(kind: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        kind(**{field: value})
