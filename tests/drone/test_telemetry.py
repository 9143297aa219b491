"""XMP under the makers' own names, and MRK lines as their manual prints them, come out in our units and axes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drone.georeference import attitude_rotation
from drone.metadata import read_flight
from drone.telemetry import gimbal_of_body, gps_to_utc, read_mrk, telemetry_of, utc_of, xmp_values
from geoevidence.crs import transformer
from geoevidence.errors import FormatError
from tests.drone.paper_flight import CRS_OF_FLIGHT, changed, origin, plan, write
from tests.drone.test_metadata import LAT, LON, dji, photo

# The two lines that the subject's public examples show, fixed and single point.
FIXED = "1\t282401.669089\t[2404]\t   101,N\t   107,E\t   129,V\t22.77995359,Lat\t114.10089118,Lon\t139.231,Ellh\t0.002967, 0.003104, 0.007622\t50,Q"
SINGLE = "2\t400373.488877\t[2264]\t-40,N\t0,E\t86,V\t44.42824637,Lat\t1.26196331,Lon\t359.494,Ellh\t0.028, 0.031, 0.055\t16,Q"


def test_dji_names() -> None:
    told = telemetry_of(
        dji(
            GpsLatitude="+43.36511377",
            GpsLongtitude="+141.81345593",
            AbsoluteAltitude="+116.56",
            RelativeAltitude="+69.95",
            AltitudeType="RtkAlt",
            GimbalYawDegree="-79.00",
            GimbalPitchDegree="-89.90",
            GimbalRollDegree="+0.00",
            FlightYawDegree="-78.60",
            FlightPitchDegree="-4.50",
            FlightRollDegree="-2.50",
            FlightXSpeed="+0.50",
            FlightYSpeed="-2.90",
            FlightZSpeed="+0.20",
            RtkFlag="50",
            RtkStdLon="0.01274",
            RtkStdLat="0.01122",
            RtkStdHgt="0.02394",
            ShutterCount="12345",
            UTCAtExposure="2024:10:20 03:30:05.250000",
            CalibratedFocalLength="3666.666504",
            DewarpFlag="0",
            DewarpData="2018-03-13;3659.78,3653.17,-7.71,45.9,-0.269478,0.115681,-0.0000875619,-0.000306177,-0.0357628",
            CameraSerialNumber="CAM-M3E-001",
        ).encode()
    )
    assert told.place == (141.81345593, 43.36511377)
    assert (told.height, told.from_rtk, told.relative_altitude) == (116.56, True, 69.95)
    assert told.attitude == (-79.0, -89.9, 0.0) and told.flight_attitude == (-78.6, -4.5, -2.5)
    assert told.velocity == (-2.9, 0.5, -0.2)  # X is north, Y east, Z down in the makers' axes
    assert (told.rtk, told.sd) == ("fixed", (0.01274, 0.01122, 0.02394))
    assert told.exposed == datetime(2024, 10, 20, 3, 30, 5, 250_000, UTC)
    assert (told.shutter_count, told.serial, told.focal_px, told.dewarped) == (12345, "CAM-M3E-001", 3666.666504, False)
    assert told.dewarp == (3659.78, 3653.17, -7.71, 45.9, -0.269478, 0.115681, -0.0000875619, -0.000306177, -0.0357628)


def test_autel_writes_the_same_names_under_another_prefix() -> None:
    xmp = dji(GpsLatitude="30.5", GpsLongitude="114.5", GimbalYawDegree="10", GimbalPitchDegree="-90", GimbalRollDegree="0")
    told = telemetry_of(xmp.replace("drone-dji:", "drone:").replace("xmlns:drone-dji", "xmlns:drone").encode())
    assert (told.place, told.attitude) == ((114.5, 30.5), (10.0, -90.0, 0.0))


def test_pix4d_names_and_elements() -> None:
    xmp = (
        "<rdf:Description><Camera:Yaw>33</Camera:Yaw><Camera:Pitch>0</Camera:Pitch><Camera:Roll>0</Camera:Roll>"
        "<Camera:GPSXYAccuracy>1.2</Camera:GPSXYAccuracy><Camera:GPSZAccuracy>1.7</Camera:GPSZAccuracy></rdf:Description>"
        '<x Camera:AboveGroundAltitude="1234/100" exif:GPSLatitude="30,21.5N" exif:GPSLongitude="114,16,30W" xmp:CreatorTool="Tool 1"/>'
    )
    told = telemetry_of(xmp.encode())
    assert told.attitude == pytest.approx((33.0, -90.0, 0.0))
    assert (told.relative_altitude, told.sd, told.tools) == (12.34, (1.2, 1.2, 1.7), ("Tool 1",))
    assert told.place == pytest.approx((-(114 + 16.5 / 60), 30 + 21.5 / 60))


@settings(max_examples=100, deadline=None)
@given(yaw=st.floats(-180, 180), pitch=st.floats(-89, 89), roll=st.floats(-80, 80))
def test_a_body_and_its_gimbal_look_the_same_way(yaw: float, pitch: float, roll: float) -> None:
    y, p, r = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(y), -np.sin(y), 0], [np.sin(y), np.cos(y), 0], [0, 0, 1]])
    turn = turn @ np.array([[np.cos(p), 0, np.sin(p)], [0, 1, 0], [-np.sin(p), 0, np.cos(p)]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(r), -np.sin(r)], [0, np.sin(r), np.cos(r)]])
    top, right, view = (np.array([v[1], v[0], -v[2]]) for v in turn.T)  # north, east, down -> E, N, U
    # asin loses half the digits where the view is vertical.
    assert np.allclose(attitude_rotation(gimbal_of_body(yaw, pitch, roll)), [right, -top, view], atol=1e-6)


def test_what_is_said_twice_and_differently_is_not_used() -> None:
    both = b'<a drone-dji:RelativeAltitude="1"/><drone-dji:RelativeAltitude>2</drone-dji:RelativeAltitude>'
    assert "drone-dji:RelativeAltitude" not in xmp_values(both)
    assert telemetry_of(b'<a drone-dji:ShutterCount="1.5" drone-dji:DewarpData="2018;1,2"/>').shutter_count is None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_hostile_xmp_and_mrk_raise_only_our_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    telemetry_of(data + b'<a drone-dji:GpsLatitude="' + data + b'"/>')
    path = tmp_path_factory.getbasetemp() / "hostile.MRK"
    path.write_bytes(FIXED.encode() + b"\n" + data)
    try:
        read_mrk(path)
    except FormatError as error:
        assert error.message_id == "drone.mrk_bad_line"


@pytest.mark.parametrize("text", ["2024:13:01 00:00:00", "2024-10-20", "", "x", "2024-10-20T03:30:61Z"])
def test_times_that_are_none(text: str) -> None:
    assert utc_of(text) is None


def test_gps_time() -> None:
    # GPS week 2268, second 0 is 2023-06-25 00:00:00 GPS; 18 leap seconds since 2017, 17 before.
    assert gps_to_utc(2268, 0.0) == datetime(2023, 6, 24, 23, 59, 42, tzinfo=UTC)
    assert gps_to_utc(1930, 0.0) == datetime(2016, 12, 31, 23, 59, 43, tzinfo=UTC)
    assert gps_to_utc(1930, 18.0) == datetime(2017, 1, 1, 0, 0, 0, tzinfo=UTC)
    assert utc_of("2024-10-20T03:30:05.5Z") == datetime(2024, 10, 20, 3, 30, 5, 500_000, UTC)


def test_mrk_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.MRK"
    path.write_text(FIXED + "\n\n" + SINGLE + "\n")
    one, two = read_mrk(path)
    assert (one.number, one.place, one.height, one.rtk) == (1, (114.10089118, 22.77995359), 139.231, "fixed")
    assert one.lever_arm == (0.107, 0.101, -0.129)  # V is positive downwards
    assert one.sd == (0.003104, 0.002967, 0.007622)  # written north, east, up
    assert one.exposed == datetime(2026, 2, 4, 6, 26, 23, 669_089, UTC)
    assert (two.rtk, two.lever_arm[1]) == ("single", -0.04)


@pytest.mark.parametrize("fault", ["604801.0", "[x]", "91.0,Lat", "51,Q", "nonsense"])
def test_faulty_mrk_lines(tmp_path: Path, fault: str) -> None:
    kinds = {"604801.0": "282401.669089", "[x]": "[2404]", "91.0,Lat": "22.77995359,Lat", "51,Q": "50,Q", "nonsense": FIXED}
    path = tmp_path / "a.MRK"
    path.write_text(FIXED.replace(kinds[fault], fault))
    with pytest.raises(FormatError) as caught:
        read_mrk(path)
    assert (caught.value.message_id, caught.value.values["line"]) == ("drone.mrk_bad_line", 1)


class TestFlights:
    """What the flight makes of it."""

    @staticmethod
    def mrk_lines(shots: list, *, off: float = 0.0, q: str = "50") -> str:
        from pyproj import CRS

        back = transformer(CRS_OF_FLIGHT, CRS.from_epsg(4326))
        x, y = origin()
        lines = []
        for k, shot in enumerate(shots):
            lon, lat = back.transform(x + shot.east + off, y + shot.north)
            since = (shot.time - datetime(1980, 1, 6, tzinfo=UTC)).total_seconds() + 18
            week, second = divmod(since, 604_800)
            lines.append(
                f"{k + 1}\t{second:.6f}\t[{int(week)}]\t 30,N\t 10,E\t 190,V\t{lat:.9f},Lat\t{lon:.9f},Lon\t85.500,Ellh\t"
                f"0.011, 0.012, 0.023\t{q},Q"
            )
        return "\n".join(lines)

    def test_mrk_positions_and_times_reach_the_photos(self, tmp_path: Path) -> None:
        shots = changed(plan(1, 4), (0, 1, 2, 3), rtk=None)
        write(tmp_path, shots)
        (tmp_path / "DJI_Timestamp.MRK").write_text(self.mrk_lines(shots, off=1.5))
        flight = read_flight(tmp_path)
        for one, shot in zip(flight.photos, shots, strict=True):
            assert one.position is not None and one.position[2] == 85.5
            assert (one.height_kind, one.rtk, one.lever_arm) == ("ellipsoidal", "fixed", (0.01, 0.03, -0.19))
            assert one.position_sd == pytest.approx((np.hypot(0.012, 0.02), np.hypot(0.011, 0.02), np.hypot(0.023, 0.03)))
            assert one.exposed is not None and abs((one.exposed - shot.time).total_seconds()) < 2e-6
            assert one.exif_position is not None and one.exif_position != one.position
        assert flight.height_kind == "ellipsoidal"
        assert [gap.id for gap in flight.gaps] == ["drone.mrk_used"]

    def test_mrk_that_belongs_elsewhere_is_not_believed(self, tmp_path: Path) -> None:
        shots = plan(1, 4)
        write(tmp_path, shots)
        (tmp_path / "a.MRK").write_text(self.mrk_lines(shots, off=500.0))
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "b.MRK").write_text("broken")
        flight = read_flight(tmp_path)
        assert {gap.id for gap in flight.gaps} == {"drone.mrk_used", "drone.mrk_elsewhere", "drone.mrk_bad_line"}
        assert all(one.lever_arm is None for one in flight.photos)

    def test_two_missions_in_one_folder_go_by_their_names(self, tmp_path: Path) -> None:
        shots = plan(2, 3)
        named = [
            changed([s], (0,), name=f"100_{'0001' if k < 3 else '0002'}_{k % 3 + 1:04d}.JPG")[0] for k, s in enumerate(shots)
        ]
        write(tmp_path, named)
        (tmp_path / "100_0001_Timestamp.MRK").write_text(self.mrk_lines(named[:3]))
        (tmp_path / "100_0002_Timestamp.MRK").write_text(self.mrk_lines(named[3:]))
        flight = read_flight(tmp_path)
        for one, shot in zip(flight.photos, named, strict=True):
            assert one.exposed is not None and abs((one.exposed - shot.time).total_seconds()) < 2e-6
        assert not [gap for gap in flight.gaps if gap.id == "drone.mrk_elsewhere"]

    def test_not_fixed_keeps_the_general_error(self, tmp_path: Path) -> None:
        shots = plan(1, 3)
        write(tmp_path, shots)
        (tmp_path / "a.MRK").write_text(self.mrk_lines(shots, q="34"))
        one = read_flight(tmp_path).photos[0]
        assert (one.rtk, one.position_sd, one.height_kind) == ("float", (1.5, 1.5, 3.0), "ellipsoidal")

    def test_exif_without_position_and_xmp_with_one(self, tmp_path: Path) -> None:
        xmp = dji(GpsLatitude=f"{LAT}", GpsLongitude=f"{LON}", AbsoluteAltitude="+80.5")
        photo(tmp_path / "a.jpg", lon=None, xmp=xmp)
        photo(tmp_path / "b.jpg", lon=None, xmp=xmp)
        flight = read_flight(tmp_path)
        assert [one.position for one in flight.photos] == [(LON, LAT, 80.5)] * 2
        assert [gap.id for gap in flight.gaps] == ["drone.position_from_xmp"]

    def test_a_receiver_without_a_fix(self, tmp_path: Path) -> None:
        photo(tmp_path / "a.jpg", xmp=dji(GpsStatus="Invalid", GpsLatitude="30.1", GpsLongitude="114.1"))
        photo(tmp_path / "b.jpg")
        flight = read_flight(tmp_path)
        assert flight.photos[0].position is None
        assert [gap.id for gap in flight.gaps] == ["drone.photo_without_position", "drone.position_void"]

    @pytest.mark.parametrize(("relative", "gap"), [("+55.20", "height_from_takeoff"), (None, "height_zero")])
    def test_heights_of_nought(self, tmp_path: Path, relative: str | None, gap: str) -> None:
        xmp = dji(RelativeAltitude=relative) if relative else None
        for name in ("a.jpg", "b.jpg"):
            photo(tmp_path / name, height=0.0, xmp=xmp)
        flight = read_flight(tmp_path)
        one = flight.photos[0]
        assert one.position is not None
        assert [g.id for g in flight.gaps] == [f"drone.{gap}"]
        if relative:
            assert (one.position[2], one.height_kind, flight.height_kind) == (55.2, "relative", "relative")
        else:
            assert (one.position[2], one.height_kind, one.position_sd[2]) == (0.0, "unknown", 100.0)

    def test_a_gimbal_that_says_nought(self, tmp_path: Path) -> None:
        dead = dji(GimbalYawDegree="0", GimbalPitchDegree="+0.0", GimbalRollDegree="0.00")
        photo(tmp_path / "a.jpg", xmp=dead)
        photo(tmp_path / "b.jpg", xmp=dead)
        flight = read_flight(tmp_path)
        assert [one.attitude for one in flight.photos] == [None, None]
        assert [gap.id for gap in flight.gaps] == ["drone.gimbal_dead"]
        photo(tmp_path / "c.jpg", xmp=dji(GimbalYawDegree="20", GimbalPitchDegree="-90", GimbalRollDegree="0"))
        assert read_flight(tmp_path).photos[0].attitude == (0.0, 0.0, 0.0)  # one gimbal works, so nought may be meant

    def test_rtk_height_comes_before_the_barometric_one(self, tmp_path: Path) -> None:
        fixed = dji(RtkFlag="50", RtkStdLon="0.01", RtkStdLat="0.01", RtkStdHgt="0.02", AbsoluteAltitude="+61.250")
        photo(tmp_path / "a.jpg", height=98.0, xmp=fixed)
        photo(tmp_path / "b.jpg", height=97.0)
        flight = read_flight(tmp_path)
        heights = [one.position[2] for one in flight.photos if one.position is not None]
        assert heights == [61.25, 97.0]
        assert [one.height_kind for one in flight.photos] == ["ellipsoidal", "unknown"]
        assert flight.height_kind == "unknown" and [gap.id for gap in flight.gaps] == ["drone.heights_mixed"]

    def test_cameras_of_one_model_are_told_apart(self, tmp_path: Path) -> None:
        dewarp = "2024-01-01;60.5,60.1,-1.5,2.5,-0.1,0.01,0,0,0"
        for name, serial in (("a.jpg", "A"), ("b.jpg", "A"), ("c.jpg", "B")):
            photo(tmp_path / name, xmp=dji(CameraSerialNumber=serial, DewarpData=dewarp if serial == "A" else ""))
        flight = read_flight(tmp_path)
        a, b, c = (flight.cameras[one.camera_id] for one in flight.photos)
        assert a is b and a is not c and len(flight.cameras) == 2
        assert a.dewarp == (60.5, 60.1, 32 - 1.5, 24 + 2.5, -0.1, 0.01, 0.0, 0.0, 0.0)
        assert (a.focal_prior, a.focal_prior_sd) == (pytest.approx(60.3), 0.005)
        assert c.dewarp is None
