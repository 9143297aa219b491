"""The gate on flights whose overlap is known by hand, and on faults put into them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from pyproj import CRS
from scipy.ndimage import gaussian_filter, uniform_filter1d

from drone.appearance import blur_of
from drone.camera import project
from drone.gate import GateConfig, check_flight, read_area
from drone.gate_files import summary_lines, write_check
from drone.georeference import attitude_rotation
from drone.metadata import MetadataConfig, read_flight
from drone.strips import footprint, lay_out, overlaps, views
from drone.types import Camera, Pose
from geoevidence.crs import transformer
from geoevidence.errors import ConfigError, CrsError, FormatError
from geoevidence.trust import canonical
from tests.drone.paper_flight import ACROSS, ALONG, CRS_OF_FLIGHT, HEIGHT, changed, origin, plan, write
from tests.drone.test_metadata import photo


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("flown"), plan())


def polygon(path: Path, west: float, south: float, east: float, north: float) -> Path:
    """A rectangle in m from the first photo, as GeoJSON in longitude and latitude."""
    x, y = origin()
    back = transformer(CRS_OF_FLIGHT, CRS.from_epsg(4326))
    ring = [back.transform(x + a, y + b) for a, b in ((west, south), (east, south), (east, north), (west, north), (west, south))]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return path


def ids(check: Any, severity: str | None = None) -> dict[str, tuple[str, ...]]:
    return {r.message.id: r.photos for r in check.remarks if severity in (None, r.severity)}


def test_a_good_flight_is_good_and_its_figures_are_those_by_hand(flown: Path) -> None:
    check = check_flight(flown)
    assert check.verdict == "good"
    assert not ids(check, "again")
    assert [strip.photos[0] for strip in check.layout.strips] == ["DJI_0001.JPG", "DJI_0006.JPG", "DJI_0011.JPG"]
    along = [o.value for o in check.overlaps if o.kind == "along"]
    across = [o.value for o in check.overlaps if o.kind == "across"]
    assert len(along) == 12 and len(across) == 20
    # Positions are written to 1e-9 degrees, 0.1 mm; the grid's convergence of 0.14 degrees is turned back.
    assert along == pytest.approx([1 - 14 / ALONG] * 12, abs=1e-4)
    inner = [o.value for o in check.overlaps if o.kind == "across"]
    assert max(inner) == pytest.approx(1 - 30 / ACROSS, abs=2e-3)
    assert min(inner) > 0.59
    # Height: 3 m of 60 on what is not shared; positions of RTK add next to nothing.
    least = next(o for o in check.overlaps if o.kind == "along")
    assert least.sd == pytest.approx((14 / ALONG) * 3 / HEIGHT, rel=0.05)
    assert check.coverage is not None and not check.coverage.commissioned
    for lang in ("zh", "en"):
        lines = summary_lines(check, lambda message: message.render(lang))  # noqa: B023
        assert all("{" not in line and "drone." not in line for line in lines)


def test_a_hole_of_two_photos_is_to_be_flown_again(flown: Path, tmp_path: Path) -> None:
    shots = plan()
    check = check_flight(write(tmp_path, [s for k, s in enumerate(shots) if k not in (6, 7)]))
    assert check.verdict == "again"
    (remark,) = [r for r in check.remarks if r.severity == "again"]
    assert (remark.check, remark.strip, remark.photos) == ("along", 2, ("DJI_0006.JPG", "DJI_0009.JPG"))
    assert "DJI_0006.JPG" in check.sentence.render("en") and "2" in check.sentence.render("zh")
    assert any(r.message.id == "drone.gate_gap" for r in check.remarks)


def test_strips_too_far_apart(tmp_path: Path) -> None:
    shots = [replace(s, east=s.east + (35 if k >= 10 else 0)) for k, s in enumerate(plan())]
    check = check_flight(write(tmp_path, shots))
    assert check.verdict == "again"
    assert {r.check for r in check.remarks if r.severity == "again"} == {"across"}
    (value,) = [r.message.values["value"] for r in check.remarks if r.severity == "again"]
    assert value.value == pytest.approx(100 * (1 - 65 / ACROSS), abs=1.0)


def test_blurred_photos_are_found_by_their_neighbours(tmp_path: Path) -> None:
    def moved(picture: np.ndarray) -> np.ndarray:
        return np.asarray(uniform_filter1d(picture, 5, axis=0))

    check = check_flight(write(tmp_path, changed(plan(), (6, 7), picture=moved)))
    assert ids(check)["drone.gate_blur"] == ("DJI_0007.JPG", "DJI_0008.JPG")
    assert check.unusable == {"DJI_0007.JPG": "blur", "DJI_0008.JPG": "blur"}
    assert check.verdict == "again"  # without them the strip has a hole
    alone = check_flight(write(tmp_path / "one", changed(plan(step=8), (6,), picture=moved)))
    assert alone.verdict == "good" and "drone.gate_blur" in ids(alone)


def test_a_flight_out_of_focus(tmp_path: Path) -> None:
    check = check_flight(write(tmp_path, changed(plan(), tuple(range(15)), picture=lambda p: gaussian_filter(p, 3.0) * 1.0)))
    assert check.verdict == "again" and "drone.gate_soft" in ids(check, "again")


@pytest.mark.parametrize("sigma", [0.0, 0.8, 1.2, 2.0])
def test_blur_grows_with_blur_and_not_with_contrast(sigma: float) -> None:
    ground = np.random.default_rng(3).normal(0, 40, (256, 256))
    sharp = gaussian_filter(ground, 0.6)
    soft = gaussian_filter(ground, np.hypot(0.6, sigma))

    def value(picture: np.ndarray) -> float:
        found = blur_of(np.clip(128 + picture / picture.std() * 30, 0, 255).astype(np.uint8))
        assert found is not None
        return max(found)

    half = blur_of(np.clip(128 + sharp / sharp.std() * 15, 0, 255).astype(np.uint8))
    assert half is not None
    assert max(half) == pytest.approx(value(sharp), abs=0.01)  # rounding to whole grey levels
    assert (value(soft) > value(sharp) + 0.05) == (sigma > 0.5)
    assert blur_of(np.full((256, 256), 99, np.uint8)) is None


def test_exposure_and_texture(tmp_path: Path) -> None:
    shots = changed(plan(), (2,), picture=lambda p: p * 0.2)
    shots = changed(shots, (8,), picture=lambda p: p * 3)
    shots = changed(shots, (12,), picture=lambda p: 100 + 0 * p)
    check = check_flight(write(tmp_path, shots))
    found = ids(check)
    assert found["drone.gate_texture"] == ("DJI_0013.JPG",)
    assert found["drone.gate_bright"] == ("DJI_0009.JPG",)
    assert "DJI_0003.JPG" in found["drone.gate_exposure_step"]
    assert check.unusable["DJI_0009.JPG"] == "exposure"


def test_a_damaged_photo_is_named_and_does_not_stop(flown: Path, tmp_path: Path) -> None:
    check = check_flight(write(tmp_path, changed(plan(), (7,), file=lambda data: data[: len(data) // 2])))
    assert len(check.flight.photos) == 14
    assert ids(check)["drone.gate_files"] == ("DJI_0008.JPG",)
    assert "DJI_0008.JPG" in next(r for r in check.remarks if r.message.id == "drone.gate_gap_damaged").message.render("en")


def test_the_commissioned_area(flown: Path, tmp_path: Path) -> None:
    inside = check_flight(flown, area=polygon(tmp_path / "in.geojson", 5, 5, 55, 50))
    assert inside.verdict == "good" and inside.coverage is not None
    assert inside.coverage.enough.value == 100.0
    # The outermost photos are at 60 m and show 37.5 m more; beyond 97.5 m nothing is seen.
    beyond = check_flight(flown, area=polygon(tmp_path / "out.geojson", 5, 5, 120, 50))
    assert beyond.verdict == "again" and beyond.coverage is not None
    assert beyond.coverage.once.value == pytest.approx(100 * (97.5 - 5) / 115, abs=1.5)
    assert beyond.coverage.enough.value <= beyond.coverage.once.value
    (part,) = beyond.coverage.missing
    x, y = origin()
    assert part.contains(shapely.Point(x + 115, y + 25)) and not part.contains(shapely.Point(x + 30, y + 25))
    (remark,) = [r for r in beyond.remarks if r.severity == "again"]
    assert remark.strip == 3
    # The error of the share holds what a footprint smaller or larger by 3 of 60 m of height makes of it.
    edge = 37.5 * 3 / 60 / 115 * 100
    assert beyond.coverage.once.standard_uncertainty == pytest.approx(edge, rel=0.25)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("{", Exception, None),
        ('{"type": "Point", "coordinates": [1, 2]}', FormatError, "drone.no_polygons"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}', FormatError, "drone.bad_area"),
        ('{"type": "Polygon", "coordinates": 5}', FormatError, "drone.not_geojson"),
        ('{"type": "FeatureCollection", "features": [7]}', FormatError, "drone.not_geojson"),
        ("[]", FormatError, "drone.not_geojson"),
    ],
)
def test_bad_areas(tmp_path: Path, text: str, kind: type[Exception], expected: str | None) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(kind) as caught:
        read_area(path)
    assert expected is None or caught.value.message_id == expected  # type: ignore[attr-defined]


def test_an_area_with_swapped_axes(flown: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[[30, 114], [31, 114], [31, 115], [30, 114]]]}))
    with pytest.raises(CrsError):
        check_flight(flown, area=path)


def test_without_heights_it_cannot_tell(tmp_path: Path) -> None:
    folder = write(tmp_path, changed(plan(), tuple(range(15)), relative=False))
    check = check_flight(folder)
    assert check.verdict == "cannot_tell" and check.coverage is None
    assert len(ids(check)["drone.gate_no_footprint"]) == 15
    assert write_check(check, tmp_path / "out") == ("check.json", "footprints.geojson")
    told = check_flight(folder, config=GateConfig(height_above_ground=60.0))
    assert told.verdict == "good"


def test_without_positions_the_pictures_are_still_judged(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(tmp_path / "f" / name, lon=None, size=(320, 240))
    check = check_flight(tmp_path / "f", area=polygon(tmp_path / "a.geojson", 0, 0, 5, 5))
    assert check.verdict == "cannot_tell" and len(ids(check)["drone.gate_positions"]) == 3
    assert all(look.blur is not None for look in check.looks.values())
    assert json.loads(canonical.dumps(check.to_dict()))["crs"] is None


def test_attitude_unknown_is_taken_as_nadir_and_said(tmp_path: Path) -> None:
    check = check_flight(write(tmp_path, changed(plan(), tuple(range(15)), attitude=False)))
    assert len(ids(check)["drone.gate_nadir_assumed"]) == 15
    along = [o.value for o in check.overlaps if o.kind == "along"]
    assert along == pytest.approx([1 - 14 / ALONG] * 12, abs=2e-3)  # the heading stands for the yaw


def test_rtk_clock_height_and_motion(tmp_path: Path) -> None:
    from datetime import timedelta

    shots = changed(plan(), (3, 4), rtk="34")
    shots = changed(shots, tuple(range(15)), clock=timedelta(seconds=37))
    shots = changed(shots, (9,), height=130.0)
    shots = changed(shots, (1,), exposure=(1, 10))
    check = check_flight(write(tmp_path, shots))
    found = ids(check)
    assert found["drone.gate_rtk"] == ("DJI_0004.JPG", "DJI_0005.JPG")
    assert found["drone.gate_height"] == ("DJI_0010.JPG",)
    # 7 m/s x 0.1 s at a GSD of 0.234 m
    assert found["drone.gate_motion"] == ("DJI_0002.JPG",)
    (clock,) = [r.message.values["value"] for r in check.remarks if r.message.id == "drone.gate_clock"]
    assert clock.value == pytest.approx(37, abs=0.01)
    strict = check_flight(tmp_path, config=GateConfig(require_rtk=True))
    assert strict.unusable == {"DJI_0004.JPG": "rtk", "DJI_0005.JPG": "rtk"} and strict.verdict == "again"


def test_records_and_map_do_not_depend_on_threads(flown: Path, tmp_path: Path) -> None:
    area = polygon(tmp_path / "a.geojson", 5, 5, 120, 50)
    for threads, out in ((1, "one"), (3, "three")):
        check = check_flight(flown, area=area, config=GateConfig(metadata=MetadataConfig(threads=threads)))
        assert write_check(check, tmp_path / out, lang="zh") == ("check.json", "footprints.geojson", "map.png")
    for name in ("check.json", "footprints.geojson", "map.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    record = json.loads((tmp_path / "one" / "check.json").read_bytes())
    assert record["verdict"] == "again" and len(record["photos"]) == 15
    assert {p["sha256"] for p in record["photos"]} == {p.sha256 for p in check.flight.photos}
    shapes = json.loads((tmp_path / "one" / "footprints.geojson").read_bytes())["features"]
    assert sum(s["properties"]["kind"] == "footprint" for s in shapes) == 15
    assert sum(s["properties"]["kind"] == "missing" for s in shapes) == 1


def test_too_little_to_make_heights_of(tmp_path: Path) -> None:
    two = check_flight(write(tmp_path / "two", plan(1, 2)))
    assert two.verdict == "again" and "drone.gate_few_views" in ids(two, "again")
    shots = [replace(s, east=0.1 * k, north=0.0) for k, s in enumerate(plan(1, 4))]
    hover = check_flight(write(tmp_path / "hover", shots))
    assert hover.verdict == "again" and "drone.gate_no_base" in ids(hover, "again")


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError):
        GateConfig(min_along=1.2)
    with pytest.raises(ConfigError):
        GateConfig(max_height=-1)


@pytest.mark.parametrize("attitude", [(0.0, -90.0, 0.0), (37.0, -90.0, 0.0), (120.0, -60.0, 5.0), (300.0, -75.0, -8.0)])
def test_footprints_project_back_to_the_rim_of_the_photo(attitude: tuple[float, float, float]) -> None:
    camera = Camera(
        id="c", model="SIMPLE_RADIAL", params=(1000.0, 600.0, 450.0, -0.05), size=(1200, 900), make_model="", focal_prior=1000.0
    )
    shape = footprint(camera, attitude, np.array([100.0, 200.0]), 80.0)
    assert shape is not None
    corners = np.asarray(shape.exterior.coords)[:-1]
    world = np.column_stack([corners, np.zeros(len(corners))])
    pixels = project(camera, Pose(R=attitude_rotation(attitude), C=np.array([100.0, 200.0, 80.0])), world)
    rim = np.minimum(np.abs(pixels / [1200, 900]), np.abs(1 - pixels / [1200, 900])).min(axis=1)
    assert rim.max() < 1e-6  # float64 and the Newton steps of the distortion
    assert footprint(camera, (0.0, 0.0, 0.0), np.zeros(2), 80.0) is None


def test_views_are_counted_as_shapely_would(flown: Path) -> None:
    flight = read_flight(flown)
    layout = lay_out(flight)
    west, south, east, north = shapely.union_all(list(layout.footprints.values())).bounds
    count = views(layout, cell=3.0, bounds=(west, south, east, north), without=("DJI_0003.JPG",))
    x = west + (np.arange(count.shape[1]) + 0.5) * 3
    y = north - (np.arange(count.shape[0]) + 0.5) * 3
    xx, yy = np.meshgrid(x, y)
    expected = sum(shapely.contains_xy(s, xx, yy).astype(int) for n, s in layout.footprints.items() if n != "DJI_0003.JPG")
    assert (count == expected).mean() > 0.999  # cells whose middle is on a rim
    assert count.max() >= 6


def test_overlap_of_what_was_not_taken_is_that_of_the_next(flown: Path) -> None:
    flight = read_flight(flown)
    found = overlaps(flight, lay_out(flight), height_sd=3.0, without=("DJI_0003.JPG",))
    (wide,) = [o for o in found if (o.first, o.second) == ("DJI_0002.JPG", "DJI_0004.JPG")]
    assert wide.value == pytest.approx(1 - 28 / ALONG, abs=1e-4)


def test_real_flight(shared: Path) -> None:
    check = check_flight(shared / "data" / "drone" / "brighton_beach" / "images")
    assert check.verdict == "good"
    assert [len(strip.photos) for strip in check.layout.strips] == [6, 6, 6]
    assert not check.unusable
    values = [max(look.blur) for look in check.looks.values() if look.blur is not None]
    assert len(values) == 18 and min(values) > 0.2 and max(values) < 0.26


def test_two_cameras_that_shoot_at_once_are_judged_apart(tmp_path: Path) -> None:
    """A second camera doubles the photos, not the overlap: with every second photo of the first one gone there is a hole."""
    first = plan(2, 6)
    second = [replace(s, name=s.name.replace(".JPG", "_Z.JPG"), serial="CAM-2") for s in first]
    check = check_flight(write(tmp_path / "both", first + second))
    assert check.verdict == "good" and len(check.layout.strips) == 4
    assert {len(strip.photos) for strip in check.layout.strips} == {6}
    assert max(o.value for o in check.overlaps if o.kind == "along") == pytest.approx(1 - 14 / ALONG, abs=1e-3)
    thin = [s for k, s in enumerate(first) if k % 2 == 0] + [s for k, s in enumerate(second) if k % 2 == 1]
    assert check_flight(write(tmp_path / "thin", thin)).verdict == "again"
