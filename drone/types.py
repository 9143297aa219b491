"""Currency types of photogrammetry. Conventions, once, for the whole package.

Image coordinates: (col, row) in pixels, float; (0, 0) is the outer corner of the first pixel, so its centre is
(0.5, 0.5), as in COLMAP. Poses: x_camera = R @ (X_world - C), camera axes x right, y down, z forward.
World: the flight's projected CRS, (E, N, U) in metres; U is ellipsoidal unless `height_kind` says otherwise.
No I/O here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from geoevidence.raster import Raster
from geoevidence.types import Message, Quantity, decimal_text


def parameters_of(config: Any) -> dict[str, Any]:
    """A configuration dataclass as I-JSON without floats (decimals are text), defaults and nested ones included."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        return decimal_text(value) if isinstance(value, float) else value

    return dict(plain(config))


HeightKind = Literal["ellipsoidal", "orthometric", "relative", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photo and what its metadata claim.

    name: file name, unique in the flight. path: where the bytes are. sha256: lower-case hex of the file.
    size: (width, height) px. taken: camera clock (claimed; aware only if the camera says its zone), or None.
    position: (lon deg, lat deg, height m) or None; height kind in `height_kind`. position_sd: (E, N, U) m, 1 sigma.
    attitude: (yaw, pitch, roll) of the camera in degrees, yaw clockwise from north, pitch -90 = nadir; or None.
    relative_altitude: m above take-off (barometric), or None. camera_id: key into `Flight.cameras`.
    """

    name: str
    path: Path
    sha256: str
    size: tuple[int, int]
    taken: datetime | None
    position: tuple[float, float, float] | None
    height_kind: HeightKind
    position_sd: tuple[float, float, float]
    attitude: tuple[float, float, float] | None
    relative_altitude: float | None
    camera_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Interior orientation.

    model: COLMAP model name (SIMPLE_RADIAL, OPENCV ...); params in that model's order, px.
    size: (width, height) px. make_model: as the EXIF says. focal_prior: focal length in px from the EXIF, or None.
    focal_prior_sd: its standard uncertainty relative to it (1), or None.
    """

    id: str
    model: str
    params: tuple[float, ...]
    size: tuple[int, int]
    make_model: str
    focal_prior: float | None
    focal_prior_sd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundPoint:
    """A surveyed point. position: (E, N, U) m in the flight's CRS; sd: m per axis.

    observations: photo name -> (col, row) px.
    """

    name: str
    position: tuple[float, float, float]
    sd: tuple[float, float, float]
    role: Literal["control", "check"]
    observations: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Photos sorted by name, the cameras they name, ground points, the projected CRS.

    rejected: file name -> why it is not a photo of this flight (damaged, unreadable ...).
    synthetic: True when any photo says it is demonstration data.
    gaps: what the photos do not say (no position ...).
    """

    photos: tuple[Photo, ...]
    cameras: Mapping[str, Camera]
    ground_points: tuple[GroundPoint, ...]
    crs: CRS
    height_kind: HeightKind
    rejected: Mapping[str, Message] = field(default_factory=dict)
    synthetic: bool = False
    gaps: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """Exterior orientation. R: 3x3 world-to-camera, float64; C: camera centre (3,), m."""

    R: NDArray[np.float64]
    C: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResidual:
    """Estimated minus surveyed position of one ground point, (E, N, U) m; photos it was seen in."""

    name: str
    role: Literal["control", "check"]
    residual: tuple[float, float, float]
    photos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """How good the adjustment is.

    reprojection_rmse: px, over all tie-point observations. gsd: m.
    ground_points: residual of each control and check point.
    check_rmse_horizontal, check_rmse_vertical: m over check points, or None without any; horizontal is sqrt(E^2 + N^2).
    gps_rmse_horizontal, gps_rmse_vertical: m, camera centres against GPS after the fit, or None.
    control: what the georeference rests on.
    position_sd: (E, N, U) m: standard uncertainty of the absolute position of the block.
    scale_sd: relative standard uncertainty of horizontal lengths (1).
    focal_sd: that of the focal length (1); heights above the ground around them stretch with it.
    Without control the uncertainties are infinite and `gsd` is NaN: the frame is arbitrary.
    """

    reprojection_rmse: float
    gsd: float
    ground_points: tuple[PointResidual, ...]
    check_rmse_horizontal: float | None
    check_rmse_vertical: float | None
    gps_rmse_horizontal: float | None
    gps_rmse_vertical: float | None
    control: Literal["gps", "ground_points", "none"]
    position_sd: tuple[float, float, float]
    scale_sd: float
    focal_sd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reconstruction:
    """The adjusted block.

    poses: photo name -> Pose, registered photos only. cameras: adjusted. points: (N, 3) float64 m.
    tracks: per point, tuple of (photo name, col, row) as three parallel arrays in CSR form (see `track_offsets`).
    unregistered: photo name -> reason.
    gaps: what else the adjustment could not use or could not say (positions that do not fit, points not seen twice ...).
    """

    flight: Flight
    poses: Mapping[str, Pose]
    cameras: Mapping[str, Camera]
    points: NDArray[np.float64]
    track_offsets: NDArray[np.int64]
    """(N + 1,): observations of point i are rows track_offsets[i]:track_offsets[i + 1]."""
    track_photos: NDArray[np.int32]
    """(M,): index into sorted(poses)."""
    track_pixels: NDArray[np.float32]
    """(M, 2): col, row."""
    unregistered: Mapping[str, Message]
    accuracy: AccuracyReport
    parameters: Mapping[str, Any] = field(default_factory=dict)
    gaps: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenseCloud:
    """points (N, 3) float64 m; colours (N, 3) uint8; views (N,) uint8: photos that agree; height_sd (N,) float32 m."""

    points: NDArray[np.float64]
    colours: NDArray[np.uint8]
    views: NDArray[np.uint8]
    height_sd: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SurfaceModel:
    """raster: one band float32 m, NaN = nothing known; standard_uncertainty: same grid, m; density: points/m2.

    Both are None for a surface that came without them.
    """

    raster: Raster
    kind: Literal["dsm", "dtm"]
    height_kind: HeightKind
    standard_uncertainty: Raster | None
    density: Raster | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured figure on a surface. kind: area, height, volume_cut ...; quantity with error; how the base was chosen."""

    kind: str
    quantity: Quantity
    geometry: Mapping[str, Any]
    crs: CRS
    base: str
    uncovered_fraction: float
    limitations: tuple[Message, ...]
