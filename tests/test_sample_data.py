"""The committed sample data: complete, small, marked, and made by this code."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from datetime import date
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from geoevidence.raster import open_strict, read_raster

LIMIT = 25_000_000
"""Bytes that the sample data may take in the repository."""


@pytest.fixture(scope="module")
def builder(sample_data: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_data_build", sample_data / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def truth(sample_data: Path) -> dict:
    return json.loads((sample_data / "truth" / "flight.json").read_text(encoding="utf-8"))


def test_every_file_is_listed_with_its_digest(sample_data: Path, builder: ModuleType) -> None:
    stated = builder.read_sums(sample_data / "SHA256SUMS")
    assert list(stated) == sorted(stated)
    assert builder.sums(sample_data) == stated
    for name, digest in stated.items():
        assert hashlib.sha256((sample_data / name).read_bytes()).hexdigest() == digest


def test_the_samples_are_small_and_explained(sample_data: Path) -> None:
    files = [path for path in sample_data.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < LIMIT
    readme = (sample_data / "README.md").read_text(encoding="utf-8")
    for path in sample_data.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"`{path.name}" in readme or f"{path.name}" in readme, path.name
    assert "Apache-2.0" in readme and "演示数据（合成）" in readme


def test_scenes_read_as_the_satellite_engine_reads_them(sample_data: Path) -> None:
    from satellite.scenes import read_scenes

    stack = read_scenes(sample_data / "scenes")
    assert stack.spec.synthetic and stack.spec.quality == "quality"
    assert len(stack.usable) == len(stack.scenes) == 84
    assert stack.days[0] >= date(2021, 1, 1) and stack.days[-1] <= date(2024, 12, 31)
    assert stack.grid.shape == (96, 96) and stack.grid.resolution == (10.0, 10.0)
    for scene in stack.scenes:
        with open_strict(scene.path) as dataset:
            assert dataset.tags()["GEOEVIDENCE_SYNTHETIC"] == "yes"


def test_changes_are_where_and_when_the_truth_says(sample_data: Path) -> None:
    from rasterio.features import geometry_mask

    from geoevidence.crs import parse_crs, transform_geometry

    paths = sorted((sample_data / "scenes").glob("*.tif"))
    rasters = [read_raster(path) for path in paths]
    days = [date.fromisoformat(f"{p.name[4:8]}-{p.name[8:10]}-{p.name[10:12]}") for p in paths]
    grid = rasters[0].grid
    features = json.loads((sample_data / "truth" / "changes.geojson").read_text(encoding="utf-8"))["features"]
    assert {f["properties"]["name"] for f in features} == {"mining", "felling", "building_site"}
    for feature in features:
        shape = transform_geometry(feature["geometry"], parse_crs("EPSG:4326"), grid.crs)
        inside = geometry_mask([shape], grid.shape, grid.transform, invert=True)
        # Pixel centres count the area to about perimeter * cell / sqrt(12 n); the outlines are near 450 m and 100 pixels.
        assert inside.sum() * 100 == pytest.approx(feature["properties"]["area_m2"], rel=0.06)
        day = date.fromisoformat(feature["properties"]["date"])
        summer: dict[bool, list[float]] = {False: [], True: []}
        for raster, when in zip(rasters, days, strict=True):
            clear = np.isin(raster.data[6], (4, 5, 6)) & inside
            if clear.sum() < 0.8 * inside.sum() or when.month not in (6, 7, 8, 9):
                continue
            red, nir = raster.data[2][clear].astype(float), raster.data[3][clear].astype(float)
            summer[when >= day].append(float(np.median((nir - red) / (nir + red))))
        assert min(len(values) for values in summer.values()) >= 3
        assert np.median(summer[False]) - np.median(summer[True]) > 0.2, feature["properties"]["name"]


def test_photos_read_as_the_drone_engine_reads_them(sample_data: Path, truth: dict) -> None:
    from drone.metadata import read_flight

    folder = sample_data / "flight"
    flight = read_flight(folder, gcp=folder / "gcp_list.txt", checks=folder / "check_list.txt")
    assert flight.synthetic and not flight.rejected
    assert [photo.name for photo in flight.photos] == sorted(truth["photos"])
    roles = [point.role for point in flight.ground_points]
    assert (roles.count("control"), roles.count("check")) == (6, 5)
    assert all(len(point.observations) >= 3 for point in flight.ground_points)
    for point in flight.ground_points:
        off = np.subtract(point.position, truth["targets"][point.name]["position"])
        assert np.abs(off).max() < 0.06, "four sigma of the survey"


def test_targets_lie_in_the_photos_where_the_truth_says(sample_data: Path, truth: dict) -> None:
    cv2 = pytest.importorskip("cv2")
    off = []
    pictures = {name: cv2.imread(str(sample_data / "flight" / name), cv2.IMREAD_GRAYSCALE) for name in truth["photos"]}
    for target in truth["targets"].values():
        for photo, (col, row) in target["pixels"].items():
            # OpenCV counts from the centre of the first pixel, the truth from its outer corner.
            start = np.array([[[col - 0.5, row - 0.5]]], np.float32)
            criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
            found = cv2.cornerSubPix(pictures[photo], start, (4, 4), (-1, -1), criteria)[0, 0]
            off.append(found + 0.5 - (col, row))
    errors = np.array(off)
    assert len(errors) > 60
    # 2 x 2 samples a pixel place an edge to within a quarter of a pixel (sd 0.14); several rows meet in a corner. Such errors
    # have no direction, so the mean over some 90 marks is known to 0.01.
    assert np.median(np.hypot(*errors.T)) < 0.15
    assert np.abs(errors.mean(axis=0)).max() < 0.04


def test_polygons_lie_around_the_bodies(sample_data: Path, truth: dict) -> None:
    import shapely

    from geoevidence.crs import parse_crs, transform_geometry

    features = json.loads((sample_data / "polygons.geojson").read_text(encoding="utf-8"))["features"]
    assert [feature["properties"]["name"] for feature in features] == ["pit", "pile"]
    for feature in features:
        drawn = shapely.geometry.shape(transform_geometry(feature["geometry"], parse_crs("EPSG:4326"), parse_crs(truth["crs"])))
        body = shapely.Polygon(truth[feature["properties"]["name"]]["outline"])
        assert drawn.contains(body)
        assert shapely.hausdorff_distance(drawn.exterior, body.exterior) < 1.0


@pytest.mark.slow
def test_scenes_are_made_by_this_code(sample_data: Path, builder: ModuleType, tmp_path: Path) -> None:
    from satellite.synthetic import simulate, write_stack

    cube = simulate(builder.scenes_config(), seed=builder.SCENES_SEED)
    made = write_stack(tmp_path, cube)
    assert [path.name for path in made] == sorted(path.name for path in (sample_data / "scenes").glob("*.tif"))
    for path in made[::6]:
        mine, theirs = read_raster(path).data, read_raster(sample_data / "scenes" / path.name).data
        # One step of the int16 scale: another processor may round the last digit the other way.
        assert np.abs(mine.astype(int) - theirs).max() <= 1


@pytest.mark.slow
def test_photos_are_made_by_this_code(sample_data: Path, builder: ModuleType) -> None:
    from drone.synthetic import FlightConfig, SiteConfig, _Caster, _rays, build_site, plan_flight

    config, site = FlightConfig(), build_site(SiteConfig())
    truth = json.loads((sample_data / "truth" / "flight.json").read_text(encoding="utf-8"))
    caster = _Caster(site, (truth["sun"]["azimuth_deg"], truth["sun"]["elevation_deg"]))
    name, (pose, *_) = list(plan_flight(config, site, seed=builder.FLIGHT_SEED).items())[8]
    rng = np.random.default_rng([builder.FLIGHT_SEED, 3, 8])
    mine = caster.photo(config, pose, _rays(config.params, config.image_size, 2), wave_seed=1000 + 97 * 8, rng=rng)
    with Image.open(sample_data / "flight" / name) as image:
        theirs = np.asarray(image.convert("RGB"), float)
    # What is left is the JPEG's quantisation at quality 90 with halved chroma: about two grey levels in the mean.
    grey = np.abs((mine - theirs).mean(axis=2))
    assert 0.2 < grey.mean() < 3.0
    assert truth["pit"]["volume_m3"] == pytest.approx(site.pit.volume, abs=1e-3)
