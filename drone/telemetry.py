"""What drones write beside the EXIF: XMP of the makers, and DJI's MRK files of RTK flights.

In: the bytes of one photo's XMP, or one text file. Out: `Telemetry`, in the units and axes of `drone.types`; `MrkRow`, as the line
says it. XMP is read value by value with a bounded pattern under its customary prefixes, so no entity and no DTD is ever resolved; a
value given twice, differently, is not used. Nothing is judged here, and no position is preferred over another (`drone.metadata`).
Names: DJI (Mavic 3M manual v1.4 pp. 89-90, Matrice 4 manual pp. 90-92), Autel (the same names, prefix `drone`), Pix4D's `Camera`
(senseFly, Parrot Sequoia, older Autel), the standard `exif` (XMP part 2). Not read: Skydio's and Yuneec's own names, thermal data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from drone.types import RtkState
from geoevidence.errors import FormatError

Triple = tuple[float, float, float]

_MAX_XMP, _MAX_VALUE = 1_000_000, 600
_PREFIX = rb"(drone-dji|drone|Camera|exif|tiff|xmp|xmpMM|stEvt|x|photoshop)"
_ATTRIBUTE = re.compile(_PREFIX + rb":([A-Za-z0-9]{1,40})\s*=\s*[\"']([^\"'<&]{0,%d})[\"']" % _MAX_VALUE)
_ELEMENT = re.compile(rb"<" + _PREFIX + rb":([A-Za-z0-9]{1,40})>\s*([^<&]{0,%d}?)\s*</" % _MAX_VALUE)

# Start (UTC) of each offset GPS - UTC, s: IERS Bulletin C; no leap second has been announced since.
_LEAP_SECONDS = (
    (datetime(2017, 1, 1, tzinfo=UTC), 18),
    (datetime(2015, 7, 1, tzinfo=UTC), 17),
    (datetime(2012, 7, 1, tzinfo=UTC), 16),
)
_GPS_EPOCH = datetime(1980, 1, 6, tzinfo=UTC)

_MAX_MRK_LINES, _MAX_MRK_BYTES = 100_000, 20_000_000
_NUMBER = r"(-?\d{1,7}(?:\.\d{1,12})?)"
_MRK = re.compile(
    rf"(\d{{1,6}})\s+{_NUMBER}\s+\[(\d{{1,5}})\]\s+{_NUMBER},N\s+{_NUMBER},E\s+{_NUMBER},V\s+"
    rf"{_NUMBER},Lat\s+{_NUMBER},Lon\s+{_NUMBER},Ellh\s+{_NUMBER},?\s+{_NUMBER},?\s+{_NUMBER}\s+(\d{{1,3}}),Q"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What the XMP of one photo says; None where it does not.

    place: (lon, lat) degrees. height: m, absolute as the maker counts it; from_rtk: it is the RTK receiver's, above the ellipsoid.
    relative_altitude: m above take-off. attitude, flight_attitude: (yaw, pitch, roll) degrees as in `Photo`. velocity: (E, N, U) m/s.
    rtk: state of the receiver. sd: (E, N, U) m as stated. void: the receiver says that it has no position.
    exposed: UTC. shutter_count: exposures so far. focal_px: the lens as designed. dewarp: (fx, fy, cx, cy, k1, k2, p1, p2, k3) px, the
    principal point from the middle of the photo. dewarped: the photo is already free of distortion. serial: of camera, else aircraft.
    tools: programs that say they handled the file, sorted.
    """

    place: tuple[float, float] | None
    height: float | None
    from_rtk: bool
    relative_altitude: float | None
    attitude: Triple | None
    flight_attitude: Triple | None
    velocity: Triple | None
    rtk: RtkState | None
    sd: Triple | None
    void: bool
    exposed: datetime | None
    shutter_count: int | None
    focal_px: float | None
    dewarp: tuple[float, ...] | None
    dewarped: bool
    serial: str
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MrkRow:
    """One line of an MRK file: number of the photo, time of exposure (UTC), (lon, lat) degrees and ellipsoidal height (m) of the camera,
    (E, N, U) m from antenna to camera (already in the position), sd (E, N, U) m, state of the receiver."""

    number: int
    exposed: datetime
    place: tuple[float, float]
    height: float
    lever_arm: Triple
    sd: Triple
    rtk: RtkState


def xmp_values(xmp: bytes) -> dict[str, str]:
    """`prefix:Name` -> text, of attributes and plain elements; what is given twice and differently is left out."""
    found: dict[str, str] = {}
    doubtful: set[str] = set()
    for pattern in (_ELEMENT, _ATTRIBUTE):
        for prefix, name, value in pattern.findall(xmp[:_MAX_XMP]):
            key, text = f"{prefix.decode()}:{name.decode()}", value.decode("utf-8", "replace").strip()
            if found.setdefault(key, text) != text:
                doubtful.add(key)
    return {key: text for key, text in found.items() if key not in doubtful}


def telemetry_of(xmp: bytes) -> Telemetry:
    """What the XMP bytes of one photo say."""
    values = xmp_values(xmp)
    own = {name: values.get(f"drone-dji:{name}", values.get(f"drone:{name}")) for name in _OWN}
    number = {name: number_of(text) for name, text in own.items()}
    longitude = (
        number["GpsLongitude"] if number["GpsLongitude"] is not None else number["GpsLongtitude"]
    )  # the second is DJI's spelling
    place = _pair(longitude, number["GpsLatitude"]) or _pair(
        _xmp_degrees(values.get("exif:GPSLongitude"), "EW"), _xmp_degrees(values.get("exif:GPSLatitude"), "NS")
    )
    rtk = rtk_state(number["RtkFlag"])
    sd = _triple(number["RtkStdLon"], number["RtkStdLat"], number["RtkStdHgt"])
    across, up = number_of(values.get("Camera:GPSXYAccuracy")), number_of(values.get("Camera:GPSZAccuracy"))
    if sd is None and across is not None and up is not None:
        sd = (across, across, up)
    flight = _triple(number["FlightYawDegree"], number["FlightPitchDegree"], number["FlightRollDegree"])
    north, east, down = (number[f"Flight{axis}Speed"] for axis in "XYZ")
    height = number["AbsoluteAltitude"]
    if height is None:
        height = number_of(values.get("exif:GPSAltitude"))
    relative = number["RelativeAltitude"]
    if relative is None:
        relative = number_of(values.get("Camera:AboveGroundAltitude"))
    count = number["ShutterCount"]
    tools = {values.get(key, "") for key in ("xmp:CreatorTool", "stEvt:softwareAgent", "tiff:Software", "x:xmptk")}
    if any(key.startswith("photoshop:") for key in values):
        tools.add("photoshop:")
    return Telemetry(
        place=place,
        height=height,
        from_rtk=rtk == "fixed" or (own["AltitudeType"] or "").lower().startswith("rtk"),
        relative_altitude=relative,
        attitude=_attitude(number, values),
        flight_attitude=flight,
        velocity=None if north is None or east is None or down is None else (east, north, -down),
        rtk=rtk,
        sd=sd,
        void=(own["GpsStatus"] or "").lower() in ("invalid", "nofix", "none"),
        exposed=utc_of(own["UTCAtExposure"]),
        shutter_count=int(count) if count is not None and 0 <= count < 2**31 and count == int(count) else None,
        focal_px=number["CalibratedFocalLength"],
        dewarp=_dewarp(own["DewarpData"]),
        dewarped=number["DewarpFlag"] == 1,
        serial=own["CameraSerialNumber"] or own["DroneSerialNumber"] or "",
        tools=tuple(sorted(tools - {""})),
    )


_OWN = (
    "GpsLatitude", "GpsLongitude", "GpsLongtitude", "AbsoluteAltitude", "RelativeAltitude", "AltitudeType", "GpsStatus", "RtkFlag",
    "RtkStdLon", "RtkStdLat", "RtkStdHgt", "GimbalYawDegree", "GimbalPitchDegree", "GimbalRollDegree", "FlightYawDegree",
    "FlightPitchDegree", "FlightRollDegree", "FlightXSpeed", "FlightYSpeed", "FlightZSpeed", "UTCAtExposure", "ShutterCount",
    "CalibratedFocalLength", "DewarpData", "DewarpFlag", "CameraSerialNumber", "DroneSerialNumber",
)  # fmt: skip


def number_of(value: object) -> float | None:
    """A finite number from a number, decimal text or a fraction `a/b` of text; None where it is none."""
    if isinstance(value, str) and "/" in value:
        above, _, below = value.partition("/")
        a, b = number_of(above), number_of(below)
        return None if a is None or not b else a / b
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def rtk_state(flag: float | None) -> RtkState | None:
    """State by DJI's number: 0 none, 16 single point, 32 to 49 float, 50 fixed; None for another or no number."""
    if flag is None:
        return None
    if 32 <= flag <= 49:
        return "float"
    return {0.0: "none", 16.0: "single", 50.0: "fixed"}.get(flag)  # type: ignore[return-value]


def utc_of(text: str | None) -> datetime | None:
    """A moment in UTC from `2024:05:01 08:11:58.123456`, or with `-`, `T` and `Z`; None for anything else."""
    parts = re.fullmatch(
        r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:?00)?", (text or "").strip()
    )
    if parts is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in parts.groups()[:6])
    try:
        whole = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return whole + timedelta(microseconds=round(float(f"0.{parts[7] or 0}") * 1e6))


def gps_to_utc(week: int, second: float) -> datetime:
    """UTC of a GPS week and second of week; leap seconds after IERS Bulletin C, weeks of 2012 and later."""
    gps = _GPS_EPOCH + timedelta(weeks=week, microseconds=round(second * 1e6))
    for start, offset in _LEAP_SECONDS:
        if gps - timedelta(seconds=offset) >= start:
            return gps - timedelta(seconds=offset)
    return gps - timedelta(seconds=_LEAP_SECONDS[-1][1])


def _pair(x: float | None, y: float | None) -> tuple[float, float] | None:
    return None if x is None or y is None else (x, y)


def _triple(a: float | None, b: float | None, c: float | None) -> Triple | None:
    return None if a is None or b is None or c is None else (a, b, c)


def _xmp_degrees(text: str | None, signs: str) -> float | None:
    """Degrees from XMP's GPSCoordinate, `DDD,MM,SSk` or `DDD,MM.mmk` (XMP specification part 2, 2.1.2)."""
    parts = re.fullmatch(rf"(\d{{1,3}}),(\d{{1,2}}(?:\.\d{{1,12}})?)(?:,(\d{{1,2}}(?:\.\d{{1,9}})?))?([{signs}])", text or "")
    if parts is None:
        return None
    angle = int(parts[1]) + float(parts[2]) / 60 + float(parts[3] or 0) / 3600
    return -angle if parts[4] in "SW" else angle


def _dewarp(text: str | None) -> tuple[float, ...] | None:
    """`date;fx,fy,cx,cy,k1,k2,p1,p2,k3`; None where it is not of that form, or no calibration (zeros)."""
    numbers = [number_of(part) for part in (text or "").partition(";")[2].split(",")]
    if len(numbers) != 9 or any(part is None for part in numbers):
        return None
    values = tuple(float(part) for part in numbers if part is not None)
    return values if values[0] > 0 and values[1] > 0 else None


def _attitude(number: Mapping[str, float | None], values: Mapping[str, str]) -> Triple | None:
    own = _triple(number["GimbalYawDegree"], number["GimbalPitchDegree"], number["GimbalRollDegree"])
    if own is not None:
        return own
    body = _triple(*(number_of(values.get(f"Camera:{axis}")) for axis in ("Yaw", "Pitch", "Roll")))
    return None if body is None else gimbal_of_body(*body)


def gimbal_of_body(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Triple:
    """(yaw, pitch, roll) of a gimbal, from Pix4D's angles of a body that carries a camera looking down.

    Pix4D turns the body's axes (top of the picture, right, along the view) by roll, pitch, yaw in north, east, down: zero pitch and
    roll look down. The gimbal's pitch is -90 there and its roll turns about the view (`Photo.attitude`).
    """
    y, p, r = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    turn_y = np.array([[math.cos(y), -math.sin(y), 0], [math.sin(y), math.cos(y), 0], [0, 0, 1]])
    turn_p = np.array([[math.cos(p), 0, math.sin(p)], [0, 1, 0], [-math.sin(p), 0, math.cos(p)]])
    turn_r = np.array([[1, 0, 0], [0, math.cos(r), -math.sin(r)], [0, math.sin(r), math.cos(r)]])
    top, right, view = (turn_y @ turn_p @ turn_r).T  # each as (north, east, down)
    pitch = math.asin(max(-1.0, min(1.0, -view[2])))
    level = math.hypot(view[0], view[1])
    # Straight down the azimuth of the view is not defined: that of the picture's top stands for it, and the roll is nil.
    yaw = math.atan2(view[1], view[0]) if level > 1e-9 else math.atan2(top[1], top[0])
    ahead_right = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
    roll = math.atan2(float(np.cross(ahead_right, right) @ view), float(ahead_right @ right))
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def read_mrk(path: Path) -> tuple[MrkRow, ...]:
    """The lines of an MRK file with a position, in the order of the file.

    DJI writes latitude, longitude and ellipsoidal height of the camera, the offset from the antenna to it already applied (north and
    east in mm, down positive), and sd north, east, up in m (Matrice 4 manual p. 92).

    Raises:
        FormatError: not text of that form, too large, or a number twice.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= _MAX_MRK_BYTES else b"\0"
        text = data.decode("ascii")
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise FormatError("drone.mrk_bad_line", path=path.name, line=1) from error
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    rows: dict[int, MrkRow] = {}
    for number, line in lines:
        match = _MRK.fullmatch(line)
        if match is None or number > _MAX_MRK_LINES:
            raise FormatError("drone.mrk_bad_line", path=path.name, line=number)
        tow, north, east, down, lat, lon, height, sd_n, sd_e, sd_u = (float(match[k]) for k in (2, 4, 5, 6, 7, 8, 9, 10, 11, 12))
        state = rtk_state(float(match[13]))
        if not 0 <= tow < 604_800 or not (-90 <= lat <= 90 and -180 <= lon <= 180) or int(match[1]) in rows or state is None:
            raise FormatError("drone.mrk_bad_line", path=path.name, line=number)
        if lat == lon == 0 or state == "none":
            continue
        rows[int(match[1])] = MrkRow(
            number=int(match[1]),
            exposed=gps_to_utc(int(match[3]), tow),
            place=(lon, lat),
            height=height,
            lever_arm=(east / 1000, north / 1000, -down / 1000),
            sd=(sd_e, sd_n, sd_u),
            rtk=state,
        )
    return tuple(rows.values())
