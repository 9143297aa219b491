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
RtkState = Literal["none", "single", "float", "fixed"]
"""Solution of the receiver: no position, single point, RTK float, RTK fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTraces:
    """What a photo file shows of the programs that wrote it; compared with the other photos of the camera, never judged alone.

    tables: digest (16 hex digits) of the JPEG quantisation tables. markers: names of the segments before the picture, in order.
    software: EXIF Software; tools: what EXIF and XMP say of programs that handled the file since, sorted.
    maker_note, thumbnail: whether the EXIF has one. stated_size: (width, height) px that the EXIF states, or None.
    changed: time of the last change as the EXIF states it, or None. make_model, serial: of the camera, "" where not said.
    """

    tables: str
    markers: tuple[str, ...]
    software: str
    tools: tuple[str, ...]
    maker_note: bool
    thumbnail: bool
    stated_size: tuple[int, int] | None
    changed: datetime | None
    make_model: str
    serial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photo and what its metadata claim.

    name: file name, unique in the flight. path: where the bytes are. sha256: lower-case hex of the file.
    size: (width, height) px. taken: camera clock (claimed; aware only if the camera says its zone), or None.
    position: (lon deg, lat deg, height m) or None; height kind in `height_kind`. position_sd: (E, N, U) m, 1 sigma.
    attitude: (yaw, pitch, roll) of the camera in degrees, yaw clockwise from north, pitch -90 = nadir; or None.
    relative_altitude: m above take-off (barometric), or None. camera_id: key into `Flight.cameras`.
    flight_attitude: (yaw, pitch, roll) of the aircraft in degrees, or None. velocity: (E, N, U) m/s as the aircraft told it, or None.
    rtk: state of the receiver, None where nothing is said of RTK. lever_arm: (E, N, U) m from antenna to camera, which the maker has
    already applied to `position`, or None. exposed: time of exposure by GNSS (UTC), or None. exposure_s: duration in s, or None.
    shutter_count: exposures of the camera so far, or None. exif_position: that of the EXIF, where `position` is from elsewhere.
    traces: what the file shows of the programs that wrote it, or None where it was not read.
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
    flight_attitude: tuple[float, float, float] | None = None
    velocity: tuple[float, float, float] | None = None
    rtk: RtkState | None = None
    lever_arm: tuple[float, float, float] | None = None
    exposed: datetime | None = None
    exposure_s: float | None = None
    shutter_count: int | None = None
    exif_position: tuple[float, float, float] | None = None
    traces: FileTraces | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Interior orientation.

    model: COLMAP model name (SIMPLE_RADIAL, OPENCV ...); params in that model's order, px.
    size: (width, height) px. make_model: as the EXIF says. focal_prior: focal length in px from the EXIF, or None.
    focal_prior_sd: its standard uncertainty relative to it (1), or None.
    dewarp: the maker's calibration in the OPENCV model with k3, (fx, fy, cx, cy, k1, k2, p1, p2, k3), px from the outer corner of the
    first pixel, or None. dewarped: the camera had already removed its lens distortion, so `dewarp` is not to be applied.
    """

    id: str
    model: str
    params: tuple[float, ...]
    size: tuple[int, int]
    make_model: str
    focal_prior: float | None
    focal_prior_sd: float | None = None
    dewarp: tuple[float, ...] | None = None
    dewarped: bool = False


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
    gaps: what the photos do not say (no position ...), and what was read otherwise than they say it.
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

    reprojection_rmse: px, root mean square length of the residuals of all tie-point observations; reprojection_mean: their mean
    length, as some programs state it. gsd: m.
    held_out_rmse: px, of tie points that took no part in the adjustment: each observation against the point that the others of
    its track give, None where there were none; held_out_observations: how many, None where nobody says.
    rolling_shutter: (m, standard uncertainty) that the camera moved while a photo was read out, as far as
    the photos show it and the adjustment allowed for it; None where they do not.
    ground_points: residual of each control and check point.
    check_rmse_horizontal, check_rmse_vertical: m over check points, or None without any; horizontal is sqrt(E^2 + N^2).
    gps_rmse_horizontal, gps_rmse_vertical: m, camera centres against GPS after the fit, or None.
    control: what the georeference rests on.
    position_sd: (E, N, U) m: standard uncertainty of the absolute position of the block.
    scale_sd: relative standard uncertainty of horizontal lengths (1).
    focal_sd: that of the focal length (1); heights above the ground around them stretch with it.
    not_recorded: names of the fields that the record this was read from does not have; what stands in them here means nothing.
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
    reprojection_mean: float | None = None
    held_out_rmse: float | None = None
    held_out_observations: int | None = None
    rolling_shutter: tuple[float, float] | None = None
    not_recorded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorField:
    """The errors that the adjustment may have left in the block: smooth, and common to all that lies near each other.

    All of it: the common shift of the block, its tilt, scale and bending, and what single poses and the camera may be off by;
    the noise of single points is not in it.

    The error of a place is `at(places) @ z` with z of independent standard normal variables, so that the covariance of any
    figure follows from its derivatives: (d figure / d X) @ at(X), summed over the places, squared and added up.
    origin: (E, N) of the first node, m; spacing: m between nodes, eastwards and northwards.
    factor: (K, rows, columns, 3) float32, (E, N, U) in m; row 0 is the southernmost.
    """

    origin: tuple[float, float]
    spacing: tuple[float, float]
    factor: NDArray[np.float32]

    def at(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 3, K) m at places (N, 2) (E, N): linear between nodes, that of the nearest edge outside."""
        rows, columns = self.factor.shape[1:3]
        x = np.clip((places[:, 0] - self.origin[0]) / self.spacing[0], 0, columns - 1)
        y = np.clip((places[:, 1] - self.origin[1]) / self.spacing[1], 0, rows - 1)
        column = np.minimum(x.astype(np.int64), max(columns - 2, 0))
        row = np.minimum(y.astype(np.int64), max(rows - 2, 0))
        right, up = np.minimum(column + 1, columns - 1), np.minimum(row + 1, rows - 1)
        s, t = (x - column)[:, None, None], (y - row)[:, None, None]
        node = self.factor.astype(np.float64).transpose(1, 2, 3, 0)
        south = (1 - s) * node[row, column] + s * node[row, right]
        north = (1 - s) * node[up, column] + s * node[up, right]
        return np.asarray((1 - t) * south + t * north)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reconstruction:
    """The adjusted block.

    poses: photo name -> Pose, registered photos only. cameras: adjusted. points: (N, 3) float64 m.
    tracks: per point, tuple of (photo name, col, row) as three parallel arrays in CSR form (see `track_offsets`).
    unregistered: photo name -> reason.
    gaps: what else the adjustment could not use or could not say (positions that do not fit, points not seen twice ...).
    error_field: what the adjustment may have left; None where the frame is arbitrary.
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
    error_field: ErrorField | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenseCloud:
    """points (N, 3) float64 m; colours (N, 3) uint8; views (N,) uint8: photos whose depth maps agree; height_sd (N,) float32 m.

    height_sd is each point's own standard uncertainty against the block: its confidence. correlation_m: the distance in m over
    which the matching noise is alike (its autocorrelation falls to 1/e), None where too few depth maps overlap to tell.
    """

    points: NDArray[np.float64]
    colours: NDArray[np.uint8]
    views: NDArray[np.uint8]
    height_sd: NDArray[np.float32]
    correlation_m: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SurfaceModel:
    """raster: one band float32 m, NaN = nothing known; standard_uncertainty: same grid, m; density: points/m2.

    Both are None for a surface that came without them. standard_uncertainty is of single cells against the block (matching noise),
    without what `ErrorField` holds; correlation_m: the distance in m over which that noise is alike (its autocorrelation falls to
    1/e), None where it is not known. error_field: of the block that the surface rests on. stretch_sd: relative standard uncertainty (1)
    of heights above the ground around them, which a wrong focal length stretches (`AccuracyReport.focal_sd`); None where not known.
    """

    raster: Raster
    kind: Literal["dsm", "dtm"]
    height_kind: HeightKind
    standard_uncertainty: Raster | None
    density: Raster | None
    correlation_m: float | None = None
    error_field: ErrorField | None = None
    stretch_sd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One source of a figure's uncertainty. kind: block, noise, base ... (docs/methods/measurement.md); in the figure's unit, 1 sigma."""

    kind: str
    standard_uncertainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured figure on a surface. kind: area, height, volume_cut ...; quantity with error; how the base was chosen.

    contributions: what the standard uncertainty is made of, squares adding up to its own; empty where it is not available.
    """

    kind: str
    quantity: Quantity
    geometry: Mapping[str, Any]
    crs: CRS
    base: str
    uncovered_fraction: float
    limitations: tuple[Message, ...]
    contributions: tuple[Contribution, ...] = ()
