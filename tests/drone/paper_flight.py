"""A small flight written photo by photo: crops of one textured ground, with the metadata that a camera with a satellite receiver writes.

Its truth is plain: ground level, camera looking straight down, strips flown up and down at `HEIGHT`; overlap follows by hand.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from pyproj import CRS, Proj
from scipy.ndimage import gaussian_filter, map_coordinates

from geoevidence.crs import transformer
from tests.drone.test_metadata import LAT, LON, dji, dms

WIDTH, ROWS, FOCAL, HEIGHT = 320, 240, 256.0, 60.0
GSD = HEIGHT / FOCAL
ALONG, ACROSS = ROWS * GSD, WIDTH * GSD
"""What a photo shows of the ground, m: 56.25 along the way flown, 75 across it."""
START = datetime(2024, 10, 20, 3, 30, tzinfo=UTC)
CRS_OF_FLIGHT = CRS.from_epsg(4547)


@dataclass(frozen=True)
class Shot:
    """One photo as planned: change what it says, or what it shows, with `replace`."""

    name: str
    east: float
    north: float
    yaw: float
    time: datetime
    count: int
    height: float = HEIGHT
    clock: timedelta = timedelta()
    told_east: float = 0.0
    """m that the XMP position is off the true one; `exif_east` of the EXIF one."""
    exif_east: float = 0.0
    picture: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    file: Callable[[bytes], bytes] | None = None
    software: str = "v01.02.0003"
    rtk: str | None = "50"
    attitude: bool = True
    relative: bool = True
    serial: str = "CAM-1"
    maker_note: bool = True
    stated_width: int = WIDTH
    exposure: tuple[int, int] = (1, 1000)


def plan(strips: int = 3, per_strip: int = 5, *, step: float = 14.0, apart: float = 30.0) -> list[Shot]:
    """Strips flown north and south in turn; 14 m steps overlap by 75.1 %, strips 30 m apart by 60 %."""
    shots = []
    for strip in range(strips):
        for k in range(per_strip):
            n = len(shots)
            north = (k if strip % 2 == 0 else per_strip - 1 - k) * step
            time = START + timedelta(seconds=2 * n + 4 * strip, milliseconds=137)
            shots.append(Shot(f"DJI_{n + 1:04d}.JPG", strip * apart, north, 180.0 * (strip % 2), time, 500 + n))
    return shots


@lru_cache(maxsize=1)
def ground() -> NDArray[np.float64]:
    """Brightness of the ground from (-60, -60) m on, a cell a GSD: rough at every scale down to two cells."""
    rng = np.random.default_rng(11)
    cells = (1100, 1300)
    return 128 + sum(
        s * 25 * gaussian_filter(rng.standard_normal(cells).astype(np.float32), s) * 2 for s in (0.7, 2.0, 6.0, 18.0)
    )


def view(shot: Shot) -> NDArray[np.float64]:
    """(rows, cols) of what the photo shows."""
    turn = np.radians(shot.yaw)
    col, row = np.meshgrid(np.arange(WIDTH) + 0.5 - WIDTH / 2, np.arange(ROWS) + 0.5 - ROWS / 2)
    gsd = shot.height / FOCAL
    x, y = col * gsd, -row * gsd
    east = shot.east + x * np.cos(turn) + y * np.sin(turn)
    north = shot.north - x * np.sin(turn) + y * np.cos(turn)
    return np.asarray(map_coordinates(ground(), [(north + 60) / GSD, (east + 60) / GSD], order=1, mode="reflect"))


def origin() -> tuple[float, float]:
    return transformer(CRS.from_epsg(4326), CRS_OF_FLIGHT).transform(LON, LAT)


def as_camera(data: bytes) -> bytes:
    """The file as cameras write it: the Exif segment first, without JFIF's."""
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]


def write(folder: Path, shots: list[Shot], quality: int = 92) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    back = transformer(CRS_OF_FLIGHT, CRS.from_epsg(4326))
    x0, y0 = origin()
    turn = Proj(CRS_OF_FLIGHT).get_factors(LON, LAT).meridian_convergence  # strips follow the grid, yaws are told from true north
    for shot in shots:
        picture = view(shot)
        if shot.picture is not None:
            picture = shot.picture(picture)
        image = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8)).convert("RGB")
        lon, lat = back.transform(x0 + shot.east + shot.told_east, y0 + shot.north)
        exif_lon, exif_lat = back.transform(x0 + shot.east + shot.exif_east, y0 + shot.north)
        local = (shot.time + shot.clock + timedelta(hours=8)).strftime("%Y:%m:%d %H:%M:%S")
        exif = Image.Exif()
        exif[0x010F], exif[0x0110], exif[0x0131], exif[0x0132] = "DJI", "FC6310R", shot.software, local
        inner = exif.get_ifd(0x8769)
        inner[0x9003], inner[0x9011], inner[0x9291] = local, "+08:00", f"{(shot.time + shot.clock).microsecond // 1000:03d}"
        inner[0xA002], inner[0xA003], inner[0xA431] = shot.stated_width, ROWS, shot.serial
        inner[0x829A] = IFDRational(*shot.exposure)
        if shot.maker_note:
            inner[0x927C] = b"\x01\x02\x03\x04maker"
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2], gps[3], gps[4] = "N", dms(exif_lat), "E", dms(exif_lon)
        gps[5], gps[6] = b"\x00", IFDRational(round((24 + shot.height) * 1000), 1000)
        utc = shot.time
        gps[7] = (IFDRational(utc.hour), IFDRational(utc.minute), IFDRational(utc.second * 1000 + utc.microsecond // 1000, 1000))
        gps[29] = utc.strftime("%Y:%m:%d")
        told = {
            "GpsLatitude": f"{lat:.9f}",
            "GpsLongitude": f"{lon:.9f}",
            "AbsoluteAltitude": f"{24 + shot.height:+.2f}",
            "CalibratedFocalLength": f"{FOCAL:.2f}",
            "ShutterCount": str(shot.count),
        }
        if shot.rtk is not None:
            told |= {"RtkFlag": shot.rtk, "RtkStdLon": "0.010", "RtkStdLat": "0.010", "RtkStdHgt": "0.020"}
        if shot.attitude:
            yaw = (shot.yaw + turn + 180) % 360 - 180
            told |= {"GimbalYawDegree": f"{yaw:+.4f}", "GimbalPitchDegree": "-90.0", "GimbalRollDegree": "+0.0"}
        if shot.relative:
            told["RelativeAltitude"] = f"{shot.height:+.2f}"
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, exif=exif, xmp=dji(**told).encode())
        data = as_camera(buffer.getvalue())
        (folder / shot.name).write_bytes(data if shot.file is None else shot.file(data))
    return folder


def changed(shots: list[Shot], which: tuple[int, ...], **values: object) -> list[Shot]:
    """The plan with some shots changed."""
    return [replace(shot, **values) if k in which else shot for k, shot in enumerate(shots)]  # type: ignore[arg-type]
