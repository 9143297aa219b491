"""What photos and survey files say comes out as it went in, and what is broken is named."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from pyproj import CRS

from drone.metadata import MetadataConfig, _walk_jpeg, read_flight
from drone.types import Flight
from geoevidence.crs import transformer
from geoevidence.errors import CrsError, FormatError, GeoEvidenceError, InputError

LON, LAT = 114.28, 30.36
GK = CRS.from_epsg(4547)


def dms(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    """Degrees, minutes and seconds to 1e-6 of a second, 3e-11 degrees."""
    value = abs(value)
    minutes = (value - int(value)) * 60
    return IFDRational(int(value)), IFDRational(int(minutes)), IFDRational(round((minutes - int(minutes)) * 60e6), 1_000_000)


def photo(path: Path, **options: Any) -> Path:
    """A small JPEG with EXIF and DJI XMP; each option replaces one part, None leaves it out."""
    facts: dict[str, Any] = {
        "lon": LON,
        "lat": LAT,
        "height": 80.25,
        "reference": b"\x00",
        "make": "Maker",
        "model": "M1",
        "focal": 5.0,
        "equivalent": 24,
        "taken": "2024:10:20 11:30:05",
        "zone": "+08:00",
        "words": "",
        "xmp": None,
        "size": (64, 48),
        "seed": path.name,
        "quality": 90,
    } | options
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(str(facts["seed"]).encode()).digest()[:4], "big"))
    width, height = facts["size"]
    image = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x010E] = facts["make"], facts["model"], facts["words"].encode()
    inner = exif.get_ifd(0x8769)
    if facts["focal"]:
        inner[0x920A] = IFDRational(round(facts["focal"] * 100), 100)
    if facts["equivalent"]:
        inner[0xA405] = facts["equivalent"]
    if facts["taken"]:
        inner[0x9003] = facts["taken"]
    if facts["zone"]:
        inner[0x9011] = facts["zone"]
    if facts["lon"] is not None:
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2] = "S" if facts["lat"] < 0 else "N", dms(facts["lat"])
        gps[3], gps[4] = "W" if facts["lon"] < 0 else "E", dms(facts["lon"])
        gps[5], gps[6] = facts["reference"], IFDRational(round(abs(facts["height"]) * 1000), 1000)
    extra = {"xmp": facts["xmp"].encode()} if facts["xmp"] else {}
    image.save(path, "JPEG", quality=facts["quality"], exif=exif, **extra)
    return path


def dji(**attributes: str) -> str:
    inside = " ".join(f'drone-dji:{key}="{value}"' for key, value in attributes.items())
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" {inside}/></x:xmpmeta>'


def flight_of(folder: Path, **options: Any) -> Flight:
    """The flight of the folder, with a second, plain photo so that there are two."""
    photo(folder / "zz_second.jpg")
    return read_flight(folder, **options)


@settings(max_examples=12, deadline=None)
@given(
    lon=st.floats(-179.9, 179.9),
    lat=st.floats(-79.9, 83.9),
    height=st.floats(-400, 8000),
    second=st.integers(0, 86399),
)
def test_position_height_and_time_come_back(
    tmp_path_factory: pytest.TempPathFactory, lon: float, lat: float, height: float, second: int
) -> None:
    assume(max(abs(lon), abs(lat)) > 1e-9)  # 0, 0 is what receivers write without a fix
    folder = tmp_path_factory.mktemp("round")
    taken = datetime(2024, 10, 20) + timedelta(seconds=second)
    for name in ("a.jpg", "b.JPG"):
        reference = b"\x01" if height < 0 else b"\x00"
        photo(folder / name, lon=lon, lat=lat, height=height, reference=reference, taken=taken.strftime("%Y:%m:%d %H:%M:%S"))
    found = read_flight(folder).photos[0]
    assert found.position is not None
    # half of the last digit written: 5e-7 seconds of arc, 0.5 mm
    assert abs(found.position[0] - lon) < 2e-10
    assert abs(found.position[1] - lat) < 2e-10
    assert abs(found.position[2] - height) < 0.00051
    assert found.taken is not None
    assert found.taken.astimezone(UTC).replace(tzinfo=None) == taken - timedelta(hours=8)


def test_everything_a_photo_says(tmp_path: Path) -> None:
    xmp = dji(GimbalYawDegree="+45.50", GimbalPitchDegree="-89.90", GimbalRollDegree="+0.10", RelativeAltitude="+39.80")
    path = photo(tmp_path / "DCIM" / "a.jpg", model="FC300S", focal=3.61, size=(400, 225), xmp=xmp)
    flight = flight_of(tmp_path)
    found = flight.photos[0]
    assert found.name == "DCIM/a.jpg"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.size == (400, 225)
    assert found.attitude == (45.5, -89.9, 0.1)
    assert found.relative_altitude == 39.8
    assert found.height_kind == "unknown"
    camera = flight.cameras[found.camera_id]
    assert camera.make_model == "Maker FC300S"
    assert camera.focal_prior == pytest.approx(3.61 / 6.17 * 400, abs=1e-9)
    assert camera.focal_prior_sd == 0.03
    assert camera.params[1:3] == (200, 112.5)
    assert len(flight.cameras) == 2
    assert flight.crs == GK
    assert not flight.synthetic


def test_rtk_states_its_own_error(tmp_path: Path) -> None:
    fixed = dji(
        RtkFlag="50", RtkStdLon="0.03", RtkStdLat="0.04", RtkStdHgt="0.04", GpsLatitude="30.3600001", GpsLongitude="114.2800002"
    )
    photo(tmp_path / "a.jpg", xmp=fixed)
    photo(tmp_path / "b.jpg", xmp=fixed.replace('RtkFlag="50"', 'RtkFlag="34"'))
    rtk, floating, _ = flight_of(tmp_path).photos
    assert rtk.position_sd == pytest.approx((np.hypot(0.03, 0.02), np.hypot(0.04, 0.02), 0.05), abs=1e-12)
    assert rtk.height_kind == "ellipsoidal"
    assert rtk.position is not None
    assert rtk.position[:2] == (114.2800002, 30.3600001)
    assert floating.position_sd == MetadataConfig().gps_sd
    assert floating.height_kind == "unknown"


def test_focal_length_from_the_best_source(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", xmp=dji(CalibratedFocalLength="52.5"), model="FC330", focal=3.61)
    photo(tmp_path / "b.jpg", model="Z9", focal=7.0, equivalent=36)
    photo(tmp_path / "c.jpg", model="Z8", focal=None, equivalent=None)
    flight = flight_of(tmp_path)
    a, b, c = (flight.cameras[found.camera_id] for found in flight.photos[:3])
    assert (a.focal_prior, a.focal_prior_sd) == (52.5, 0.01)
    assert (b.focal_prior, b.focal_prior_sd) == (64.0, 0.07)
    assert (c.focal_prior, c.focal_prior_sd) == (None, None)
    assert c.params[0] == 1.2 * 64


@pytest.mark.parametrize("where", ["exif", "exif_zh", "xmp"])
def test_demonstration_data_are_recognised(tmp_path: Path, where: str) -> None:
    words = {"exif": "demonstration data (Synthetic)", "exif_zh": "演示数据（合成）"}.get(where, "")
    photo(tmp_path / "a.jpg", words=words, xmp="<x>synthetic</x>" if where == "xmp" else None)
    assert flight_of(tmp_path).synthetic


def test_entities_in_xmp_are_not_resolved(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "9">]><x drone-dji:RelativeAltitude="&a;" drone-dji:GimbalYawDegree="1"/>'
    photo(tmp_path / "a.jpg", xmp=bomb)
    found = flight_of(tmp_path).photos[0]
    assert found.relative_altitude is None
    assert found.attitude is None


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / name)
    whole = photo(tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "other.png").write_bytes(b"\x89PNG")
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / "twin.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    flight = read_flight(tmp_path)
    assert [p.name for p in flight.photos] == ["a.jpg", "b.jpg"]
    assert {name: message.id for name, message in flight.rejected.items()} == {
        "cut.jpg": "drone.truncated_jpeg",
        "empty.jpg": "drone.not_a_jpeg",
        "other.png": "drone.not_a_jpeg",
        "text.jpg": "drone.not_a_jpeg",
        "twin.jpg": "drone.duplicate_photo",
    }
    assert all("{" not in message.render(lang) for message in flight.rejected.values() for lang in ("zh", "en"))


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), flip=st.integers(0, 2000), value=st.integers(0, 255))
def test_hostile_bytes_raise_only_our_errors(tmp_path_factory: pytest.TempPathFactory, cut: float, flip: int, value: int) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    data = bytearray(photo(folder / "x.jpg").read_bytes())
    data[flip % len(data)] = value
    (folder / "x.jpg").write_bytes(bytes(data[: int(len(data) * (0.5 + cut))]))
    for name in ("a.jpg", "b.jpg"):
        photo(folder / name)
    flight = read_flight(folder)
    assert len(flight.photos) + len(flight.rejected) == 3


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    data = photo(tmp_path / "a.jpg").read_bytes()
    assert _walk_jpeg(data, "a")[0] == (64, 48)
    for end in range(0, len(data), 7):
        with pytest.raises(FormatError):
            _walk_jpeg(data[:end], "a")


def test_bounds_are_checked_before_decoding(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / name)
    photo(tmp_path / "big.jpg", size=(256, 192))
    flight = read_flight(tmp_path, config=MetadataConfig(max_pixels=10_000))
    assert {name: m.id for name, m in flight.rejected.items()} == {"big.jpg": "drone.photo_too_large"}


def test_photos_without_position(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", lon=None)
    photo(tmp_path / "b.jpg", lon=0.0, lat=0.0)
    flight = flight_of(tmp_path)
    assert [p.position is None for p in flight.photos] == [True, True, False]
    assert [gap.id for gap in flight.gaps] == ["drone.photo_without_position"] * 2
    (tmp_path / "zz_second.jpg").unlink()
    with pytest.raises(InputError) as caught:
        read_flight(tmp_path)
    assert caught.value.message_id == "drone.no_positions"


@pytest.mark.parametrize(("count", "expected"), [(None, "drone.no_folder"), (0, "drone.no_photos"), (1, "drone.one_photo")])
def test_too_little(tmp_path: Path, count: int | None, expected: str) -> None:
    folder = tmp_path / "f"
    if count is not None:
        folder.mkdir()
        for index in range(count):
            photo(folder / f"{index}.jpg")
    with pytest.raises(InputError) as caught:
        read_flight(folder)
    assert caught.value.message_id == expected
    assert "{" not in caught.value.render("zh")


class TestGroundPoints:
    @pytest.fixture()
    def folder(self, tmp_path: Path) -> Path:
        for name in ("a.jpg", "b.jpg"):
            photo(tmp_path / "photos" / name)
        return tmp_path

    @staticmethod
    def place(crs: CRS = GK, east: float = 5.0) -> tuple[float, float]:
        x, y = transformer(CRS.from_epsg(4326), GK).transform(LON, LAT)
        return transformer(GK, crs).transform(x + east, y)

    def read(self, folder: Path, text: str, name: str = "gcp_list.txt", **options: Any) -> Flight:
        (folder / name).write_text(text, "utf-8")
        return read_flight(folder / "photos", gcp=folder / name, **options)

    def test_points_come_back_in_the_flight_crs(self, folder: Path) -> None:
        x, y = self.place()
        flight = self.read(folder, f"EPSG:4547\n{x!r} {y!r} 24.5 10.5 20.25 a.jpg P1\n{x!r} {y!r} 24.5 30 40 b.jpg P1\n")
        (point,) = flight.ground_points
        assert (point.name, point.role, point.sd) == ("P1", "control", MetadataConfig().control_sd)
        assert point.position == (x, y, 24.5)
        assert dict(point.observations) == {"a.jpg": (10.5, 20.25), "b.jpg": (30.0, 40.0)}
        assert flight.height_kind == "unknown"

    @pytest.mark.parametrize(
        "head", ["EPSG:32650", "WGS84 UTM 50N", "+proj=utm +zone=50 +datum=WGS84 +units=m +no_defs", "EPSG:4326"]
    )
    def test_other_reference_systems_are_converted(self, folder: Path, head: str) -> None:
        x, y = self.place(CRS.from_epsg(4326 if head == "EPSG:4326" else 32650))
        flight = self.read(folder, f"{head}\n{x!r}\t{y!r}\t24.5\t10\t20\ta.jpg\n", crs=GK)
        # A micrometre: rounding of PROJ's series there and back.
        assert flight.ground_points[0].position[:2] == pytest.approx(self.place(), abs=1e-5)
        assert flight.ground_points[0].name == "control-01"

    def test_vertical_datum_is_taken_from_the_crs(self, folder: Path) -> None:
        x, y = self.place()
        flight = self.read(folder, f"EPSG:4547+5737\n{x} {y} 24.5 10 20 a.jpg P1\n")
        assert flight.height_kind == "orthometric"
        assert self.read(folder, f"EPSG:4547\n{x} {y} 24.5 1 2 a.jpg P\n", height_kind="ellipsoidal").height_kind == "ellipsoidal"

    def test_check_points_are_apart(self, folder: Path) -> None:
        x, y = self.place()
        (folder / "checks.txt").write_text(f"EPSG:4547\n{x} {y} 24 10 20 a.jpg C1\n")
        flight = self.read(folder, f"EPSG:4547\n{x} {y} 24.5 10 20 a.jpg P1\n", checks=folder / "checks.txt")
        assert {p.name: p.role for p in flight.ground_points} == {"P1": "control", "C1": "check"}

    @pytest.mark.parametrize(
        ("text", "kind", "expected"),
        [
            ("", FormatError, "drone.gcp_empty"),
            ("EPSG:4547\n", FormatError, "drone.gcp_empty"),
            ("EPSG:999999\n{x} {y} 24 1 2 a.jpg P\n", CrsError, "drone.gcp_unknown_crs"),
            ("{x} {y} 24 1 2 a.jpg P\n{x} {y} 24 1 2 b.jpg P\n", CrsError, "drone.gcp_unknown_crs"),
            ("EPSG:4547\n{y} {x} 24 1 2 a.jpg P\n", CrsError, "drone.gcp_axes_swapped"),
            ("EPSG:4547\n{far} {y} 24 1 2 a.jpg P\n", CrsError, "drone.gcp_far_away"),
            ("EPSG:4548\n{x} {y} 24 1 2 a.jpg P\n", CrsError, "drone.gcp_other_crs"),
            ("EPSG:4547\n{x} {y} 24 1 2 c.jpg P\n", FormatError, "drone.gcp_unknown_photo"),
            ("EPSG:4547\n{x} {y} 24 65 2 a.jpg P\n", FormatError, "drone.gcp_outside_photo"),
            ("EPSG:4547\n{x} {y} nan 1 2 a.jpg P\n", FormatError, "drone.gcp_bad_row"),
            ("EPSG:4547\n{x} {y} 24 1 a.jpg\n", FormatError, "drone.gcp_bad_row"),
            ("EPSG:4547\n{x} {y} 24 1 2 a.jpg P\n{x} {y} 24 3 4 a.jpg P\n", FormatError, "drone.gcp_seen_twice"),
            ("EPSG:4547\n{x} {y} 24 1 2 a.jpg P\n{x} {y} 25 3 4 b.jpg P\n", FormatError, "drone.gcp_two_positions"),
        ],
    )
    def test_faults_are_named(self, folder: Path, text: str, kind: type[GeoEvidenceError], expected: str) -> None:
        x, y = self.place()
        with pytest.raises(kind) as caught:
            self.read(folder, text.format(x=x, y=y, far=x + 2000), crs=GK if "4548" in text else None)
        assert caught.value.message_id == expected
        assert all("{" not in caught.value.render(lang) for lang in ("zh", "en"))

    def test_bytes_that_are_no_text(self, folder: Path) -> None:
        (folder / "g.txt").write_bytes(b"EPSG:4547\n\xff\xfe\x00")
        with pytest.raises(FormatError) as caught:
            read_flight(folder / "photos", gcp=folder / "g.txt")
        assert caught.value.message_id == "drone.gcp_not_text"

    def test_a_geographic_crs_is_refused_for_the_result(self, folder: Path) -> None:
        with pytest.raises(CrsError) as caught:
            read_flight(folder / "photos", crs=CRS.from_epsg(4490))
        assert caught.value.message_id == "drone.crs_not_projected"


def test_real_photos(shared: Path) -> None:
    flight = read_flight(shared / "data" / "drone" / "brighton_beach" / "images")
    assert len(flight.photos) == 18
    assert not flight.rejected
    assert flight.crs.to_epsg() == 32615
    first = flight.photos[0]
    assert first.attitude == (45.0, -89.9, 0.0)
    assert first.relative_altitude == 39.8
    assert first.taken == datetime(2016, 6, 23, 16, 31, 59)
    assert len(flight.cameras) == 1
