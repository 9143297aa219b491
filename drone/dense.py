"""Dense points of an adjusted block: photos + poses in, coloured points with height errors out.

For every photo an inverse-depth map is made from the photo and its best neighbours at once, coarse to fine:
plane sweep around the previous level with windowed normalised cross-correlation (NCC), the mean of the two best
neighbours per hypothesis (occluded ones drop out), semi-global smoothing, a contest of the two layers at depth edges
(`drone.edges`), sub-pixel refinement along the found surface.
Maps are then compared with each other: a point is kept where enough photos see the same surface. What only the
smoothing suggests (water, textureless ground) fails that test and stays empty: no point is ever filled in.

Invariants: the same bytes for the same input, whatever the number of threads. No georeferencing, no gridding here.
Sources: Hirschmueller 2008, doi:10.1109/TPAMI.2007.1166 (semi-global matching); Rothermel et al. 2012, "SURE",
LC3D workshop (coarse-to-fine ranges); Schoenberger et al. 2016, doi:10.1007/978-3-319-46487-9_31 (view choice, fusion).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from drone.camera import opencv_params, project_camera_points
from drone.edges import settle_edges
from drone.matching import (
    GREY_STEPS,
    MIDDLE_GREY,
    add_costs,
    best_hypothesis,
    claim_pixels,
    compare_maps,
    peak_of,
    score_views,
    smooth_costs,
)
from drone.types import Camera, DenseCloud, Photo, Reconstruction
from geoevidence.errors import ConfigError, FormatError, ReconstructionError
from geoevidence.types import Progress, no_progress

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effort:
    """What a profile spends. Upper bounds of settings: neighbours, judges (maps that a map is compared with), range_px.

    widest: the coarsest level of the full search is at least this one (0 = working size); a full search at a finer level
    finds smaller things far above the ground and costs eight times as much. places: of `drone.edges.settle_edges`.
    """

    neighbours: int
    judges: int
    range_px: int
    widest: int
    places: int


_EFFORTS = {
    "default": _Effort(neighbours=12, judges=14, range_px=32, widest=1, places=1),
    "fast": _Effort(neighbours=7, judges=12, range_px=3, widest=2, places=0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConfig:
    """Settings of `densify`.

    profile: "default", or "fast" for a first look on site: at most 7 neighbours, a search range of 3 px, the full search at a
        coarser level; half of the time, somewhat more noise, and thin things may be lost (docs/methods/drone-surfaces.md).
    downscale: photos are reduced by this factor (1); 2 costs a quarter of 1 and loses little where 3 and more photos meet.
    neighbours: photos that judge each pixel (1); more cost time, fewer leave occluded ground empty.
    neighbour_angle_deg: preferred angle between the rays of two neighbours (deg); small: noisy heights, large: poor likeness.
    window_radius: NCC window of 2 r + 1 px; small: noise, large: rounded edges.
    range_px: half-width of the search around the coarser level (px of disparity).
    headroom, footroom: widening of the depth range of the tie points towards and away from the camera, as a share of the
        depth (1); crowns and roofs carry few tie points.
    smooth_small, smooth_large: penalties of the smoothing for steps of one and of more hypotheses (1/64 NCC).
    min_ncc: a pixel below this likeness is dropped (1).
    clear_ncc: likeness that lets two maps do where only `min_views` photos see a place (1).
    rim_headroom: and those photos must also show the place if it lay this much nearer to the camera (share of the depth).
    min_texture: a pixel whose window varies by less is dropped (standard deviation, grey levels of 255).
    min_island: smaller connected pieces of a depth map are dropped (pixels).
    min_views: photos whose depth maps must agree (count); at the rim of the block, where fewer see the ground, 2.
    agreement_px: depth maps agree when they differ by less (px of disparity over the widest baseline).
    agreement_depth: and by less than this share of the depth (1).
    contradiction: a map that looks through a point weighs as much as this many that agree (1).
    edge_jump: a step of the depth map counts as an edge from here on (px of disparity); 0 = edges are left as matched.
    edge_reach: pixels this near an edge are matched again (px); the widest windows spread the upper layer by 6.
    edge_radius: in a window of 2 r + 1 px that follows the look of its middle.
    edge_ncc: a pixel near an edge whose layer is less alike there is dropped (1); small windows are alike by chance more often.
    sd_factor: the true error of a point over what the sharpness of its peaks promises (1); measured on synthetic flights.
    relief_factor: the error from relief that is smaller than a window, over the relief found inside the window (1); likewise.
    threads: workers (count), 0 = one a processor, at most 8; does not change the result.
    """

    profile: Literal["default", "fast"] = "default"
    downscale: int = 2
    neighbours: int = 9
    neighbour_angle_deg: float = 12.0
    window_radius: int = 3
    range_px: int = 6
    headroom: float = 0.45
    footroom: float = 0.08
    smooth_small: int = 8
    smooth_large: int = 60
    min_ncc: float = 0.35
    clear_ncc: float = 0.6
    rim_headroom: float = 0.2
    min_texture: float = 1.5
    min_island: int = 200
    min_views: int = 3
    agreement_px: float = 1.0
    agreement_depth: float = 0.01
    contradiction: int = 3
    edge_jump: float = 2.0
    edge_reach: int = 10
    edge_radius: int = 2
    edge_ncc: float = 0.4
    sd_factor: float = 1.25
    relief_factor: float = 0.75
    threads: int = 0

    def __post_init__(self) -> None:
        if self.profile not in _EFFORTS:
            raise ConfigError("drone.unknown_profile", found=str(self.profile), known=", ".join(sorted(_EFFORTS)))
        limits: dict[str, tuple[float, float]] = {
            "downscale": (1, 8),
            "neighbours": (2, 12),
            "neighbour_angle_deg": (1, 60),
            "window_radius": (1, 5),
            "range_px": (2, 32),
            "headroom": (0.01, 0.8),
            "footroom": (0.01, 0.8),
            "smooth_small": (1, 100),
            "smooth_large": (2, 400),
            "min_ncc": (0, 1),
            "clear_ncc": (0, 1),
            "rim_headroom": (0, 0.8),
            "min_texture": (0, 64),
            "min_island": (0, 100_000),
            "min_views": (2, 12),
            "agreement_px": (0.1, 8),
            "agreement_depth": (1e-4, 0.2),
            "contradiction": (1, 100),
            "edge_jump": (0, 16),
            "edge_reach": (2, 32),
            "edge_radius": (1, 5),
            "edge_ncc": (-1, 1),
            "sd_factor": (0.1, 10),
            "relief_factor": (0, 10),
            "threads": (0, 1024),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"dense.{name}", found=str(getattr(self, name)), low=low, high=high
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Undistortion:
    """A pinhole picture of the same size for a camera with distortion.

    K: 3x3, px (pixel centres at 0.5). size: (width, height). source: (rows, cols, 2) float32 col, row in the photo.
    inside: (rows, cols) True where the photo has data.
    """

    K: NDArray[np.float64]
    size: tuple[int, int]
    source: NDArray[np.float32]
    inside: NDArray[np.bool_]


def undistortion(camera: Camera, *, multiple: int = 16) -> Undistortion:
    """How to draw the pinhole picture of a camera; width and height are multiples of `multiple` (a rim without data is added).

    A width that does not divide shifts the coarser levels against each other and biases heights (by centimetres).
    """
    params = opencv_params(camera)
    K = np.array([[params[0], 0, params[2]], [0, params[1], params[3]], [0, 0, 1]])
    if min(camera.size) < multiple:
        raise FormatError("drone.photo_too_small", path=camera.id, width=camera.size[0], height=camera.size[1])
    width, height = (-(-side // multiple) * multiple for side in camera.size)
    # Widened evenly, by whole pixels, so that the picture stays centred.
    K[0, 2] += (width - camera.size[0]) // 2
    K[1, 2] += (height - camera.size[1]) // 2
    source = np.empty((height, width, 2), np.float32)
    cols = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    for top in range(0, height, 256):
        rows = (np.arange(top, min(top + 256, height)) + 0.5 - K[1, 2]) / K[1, 1]
        rays = np.ones((len(rows), width, 3))
        rays[..., 0], rays[..., 1] = cols[None, :], rows[:, None]
        source[top : top + len(rows)] = project_camera_points(params, rays.reshape(-1, 3)).reshape(len(rows), width, 2)
    with np.errstate(invalid="ignore"):
        inside = (
            (source[..., 0] >= 0.5)
            & (source[..., 1] >= 0.5)
            & (source[..., 0] <= camera.size[0] - 0.5)
            & (source[..., 1] <= camera.size[1] - 0.5)
        )
    return Undistortion(K=K, size=(width, height), source=source, inside=inside)


def read_photo(photo: Photo) -> NDArray[np.uint8]:
    """RGB (rows, cols, 3) of the photo's bytes, as the sensor lies (EXIF rotation not applied).

    Raises:
        FormatError: cannot be decoded, or another size than the flight says.
    """
    import cv2

    data = np.fromfile(photo.path, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        raise FormatError("drone.unreadable_photo", path=photo.name)
    if (picture.shape[1], picture.shape[0]) != tuple(photo.size):
        raise FormatError(
            "drone.photo_size_changed",
            path=photo.name,
            expected=f"{photo.size[0]} x {photo.size[1]}",
            found=f"{picture.shape[1]} x {picture.shape[0]}",
        )
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _View:
    """One photo ready for matching. K at full size; C relative to the block's origin; levels[i] is reduced by 2^i more.

    levels: (rows, cols) int16 grey in 1/8 level, -1 = no data. colour: (rows, cols, 3) uint8 at levels[0].
    """

    name: str
    K: NDArray[np.float64]
    R: NDArray[np.float64]
    C: NDArray[np.float64]
    levels: tuple[_Stored, ...]
    colour: _Stored


def in_threads(
    function: Callable[..., _T], jobs: Sequence[Any], threads: int, tick: Callable[[int], None] = lambda done: None
) -> list[_T]:
    """`[function(job) for job in jobs]`, on several threads; order and result do not depend on their number."""
    import os

    # Each worker holds a picture's search volume, some hundred MB: many processors need not mean as many workers.
    workers = threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    results: list[_T] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(function, jobs):
            results.append(result)
            tick(len(results))
    return results


def densify(
    reconstruction: Reconstruction, *, config: DenseConfig = DenseConfig(), progress: Progress = no_progress
) -> DenseCloud:
    """Points of the visible surface with colour, number of agreeing photos and standard deviation of the height.

    points: (N, 3) float64, (E, N, U) m in the flight's CRS, in order of photo name, row, column.
    height_sd: the random part only (matching noise, geometry, scatter between photos); that of the block's position and
    scale is in `reconstruction.accuracy`. Ground that fewer than `min_views` photos agree on has no points.
    Intermediate maps live in a temporary folder: memory does not grow with the number of photos, except for the points.

    Raises:
        ReconstructionError: fewer than two photos overlap, or no point passes.
        FormatError: a photo cannot be read.
    """
    names = sorted(reconstruction.poses)
    effort = _EFFORTS[config.profile]
    partners = choose_neighbours(
        reconstruction, neighbours=min(config.neighbours, effort.neighbours), angle_deg=config.neighbour_angle_deg
    )
    if sum(1 for name in names if len(partners[name]) >= 2) == 0:
        raise ReconstructionError("drone.too_little_overlap", photos=len(names))
    origin = np.asarray(np.round(np.mean([reconstruction.poses[name].C for name in names], axis=0)), np.float64)
    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    lenses = {key: undistortion(camera, multiple=config.downscale * 16) for key, camera in sorted(reconstruction.cameras.items())}
    with tempfile.TemporaryDirectory(prefix="geoevidence-dense-") as folder:

        def prepare(name: str) -> _View:
            pose = reconstruction.poses[name]
            return _prepare(photos[name], lenses[photos[name].camera_id], pose.R, pose.C - origin, config, Path(folder))

        prepared = in_threads(prepare, names, config.threads, lambda n: progress("drone.stage_undistort", n / len(names)))
        views = dict(zip(names, prepared, strict=True))

        def match(name: str) -> _DepthMap | None:
            seen = _tie_points(reconstruction, names.index(name)) - origin
            neighbours = [views[other] for other in partners[name]]
            return _depth_map(views[name], neighbours, seen, config, Path(folder)) if len(neighbours) >= 2 else None

        found = in_threads(match, names, config.threads, lambda n: progress("drone.stage_match", n / len(names)))
        maps = {name: depth for name, depth in zip(names, found, strict=True) if depth is not None}
        cloud = _fuse(views, maps, reconstruction, origin, config, progress)
    if len(cloud.points) == 0:
        raise ReconstructionError("drone.no_dense_points", photos=len(names))
    return cloud


def _tie_points(reconstruction: Reconstruction, index: int) -> NDArray[np.float64]:
    owner = np.repeat(np.arange(len(reconstruction.points)), np.diff(reconstruction.track_offsets))
    return reconstruction.points[owner[reconstruction.track_photos == index]]


def choose_neighbours(reconstruction: Reconstruction, *, neighbours: int, angle_deg: float) -> dict[str, tuple[str, ...]]:
    """For each photo the names of its best partners, best first.

    A shared tie point counts by how near the angle between its two rays is to the preferred one (narrow on the small
    side, wide on the large side), times the likeness of the distances; less where partners already chosen see it, so that no
    part of a picture is left with a single partner while the middle has many.
    """
    names = sorted(reconstruction.poses)
    centres = np.array([reconstruction.poses[name].C for name in names])
    owner = np.repeat(np.arange(len(reconstruction.points)), np.diff(reconstruction.track_offsets))
    seen = [np.unique(owner[reconstruction.track_photos == index]) for index in range(len(names))]
    chosen = {}
    for index, name in enumerate(names):
        worth = np.zeros((len(names), len(seen[index])))
        for other in range(len(names)):
            shared = np.isin(seen[index], seen[other], assume_unique=True)
            if other == index or np.count_nonzero(shared) < 8:
                continue
            points = reconstruction.points[seen[index][shared]]
            a, b = centres[index] - points, centres[other] - points
            far_a, far_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
            angle = np.degrees(np.arccos(np.clip(np.sum(a * b, axis=1) / (far_a * far_b), -1, 1)))
            width = np.where(angle < angle_deg, 5.0, 12.0)
            weight = np.exp(-0.5 * ((angle - angle_deg) / width) ** 2) * np.minimum(far_a / far_b, far_b / far_a) ** 2
            # Any base is better than none at the rim of the block.
            worth[other, shared] = np.where((angle > 1.5) & (angle < 50), np.maximum(weight, 0.2), weight)
        worth[worth.sum(axis=1) < 4] = 0
        # The first two partners of a place count in full, each further one less.
        left, ranked = np.ones(len(seen[index])), []
        crowd = np.zeros(len(seen[index]))
        for _ in range(neighbours):
            gain = worth @ left
            best = int(np.argmax(gain))
            if gain[best] < 1:
                break
            ranked.append(best)
            crowd += worth[best] > 0.05
            left = np.where(crowd < 2, 1.0, 0.25 ** (crowd - 1))
            worth[best] = 0
        chosen[name] = tuple(names[other] for other in ranked)
    return chosen


def _prepare(
    photo: Photo, lens: Undistortion, R: NDArray[np.float64], C: NDArray[np.float64], config: DenseConfig, folder: Path
) -> _View:
    import cv2

    straight = cv2.remap(
        read_photo(photo), lens.source[..., 0] - 0.5, lens.source[..., 1] - 0.5, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    width, height = (side // config.downscale for side in lens.size)
    colour = cv2.resize(straight, (width, height), interpolation=cv2.INTER_AREA) if config.downscale > 1 else straight
    inside = cv2.resize(lens.inside.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0.999
    # ITU-R BT.601 luma, from the reduced picture with its fractional grey levels.
    reduced = (
        cv2.resize(straight.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        if config.downscale > 1
        else straight.astype(np.float32)
    )
    grey = reduced @ np.array([0.299, 0.587, 0.114], np.float32)
    levels = []
    for _ in range(4):
        levels.append(np.where(inside, np.rint(grey * GREY_STEPS), -1).astype(np.int16))
        size = (grey.shape[1] // 2, grey.shape[0] // 2)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
    stored = tuple(_Stored.of(folder / f"{photo.name}.{i}.npy", level) for i, level in enumerate(levels))
    return _View(name=photo.name, K=lens.K, R=R, C=C, levels=stored, colour=_Stored.of(folder / f"{photo.name}.rgb.npy", colour))


@dataclass(frozen=True, slots=True)
class _Stored:
    """An array in a file, mapped anew whenever it is read, so that only what is in use counts as memory."""

    path: Path
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, array: NDArray[Any]) -> _Stored:
        np.save(path, array)
        return cls(path, array.shape)

    def read(self) -> NDArray[Any]:
        return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))


def _scaled(K: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """K of the picture reduced by `factor`; exact, since pixel coordinates start at the outer corner."""
    return np.diag([1 / factor, 1 / factor, 1.0]) @ K


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _DepthMap:
    """inverse: (rows, cols) float32 1/m along the optical axis, 0 = none; sd: float32, its standard deviation, 1/m; likeness: uint8,
    NCC of the second best neighbour (1/250).

    step: 1/m for one px of disparity over the widest base.
    """

    K: NDArray[np.float64]
    inverse: _Stored
    sd: _Stored
    likeness: _Stored
    step: float


def _depth_map(
    view: _View, neighbours: Sequence[_View], seen: NDArray[np.float64], config: DenseConfig, folder: Path
) -> _DepthMap:
    import cv2

    K0 = _scaled(view.K, config.downscale)
    widest = max(float(np.linalg.norm(other.C - view.C)) for other in neighbours)
    plane, reach = _start(view, K0, seen, config)
    level = len(view.levels) - 1
    # Enough hypotheses for the whole range at a level where small things are still seen: 1/2 of the working size (1/4 in the
    # fast profile), or coarser when the range would need more than 160.
    effort = _EFFORTS[config.profile]
    while level > effort.widest and reach * K0[0, 0] / 2 ** (level - 1) * widest <= 160:
        level -= 1
    inverse = np.zeros((0, 0), np.float32)
    while level >= 0:
        reference = np.ascontiguousarray(view.levels[level].read())
        stack = _stack([other.levels[level].read() for other in neighbours])
        factor = config.downscale * 2**level
        A, b = _transfers(view, neighbours, factor)
        step = 1.0 / (K0[0, 0] / 2**level * widest)
        rows, cols = reference.shape
        if inverse.size == 0:
            x, y = np.meshgrid(np.arange(cols) + 0.5, np.arange(rows) + 0.5)
            base = (plane[0] + (plane[1] * x + plane[2] * y) * 2**level).astype(np.float32)
            count = int(np.ceil(reach / step)) + 1
            base += np.float32((count // 2) * step)
        else:
            base = _finer(inverse, reference.shape)
            count = 2 * min(config.range_px, effort.range_px) + 1
        boxes = seen_boxes(stack.shape[1:], A, b, base, (count // 2 + 1) * step)
        volume = np.empty((rows, cols, count), np.uint8)
        score = np.empty((rows, cols), np.float32)
        window = window_statistics(reference, config.window_radius)
        room = np.empty((3, rows, cols), np.float32)
        for k in range(count):
            moved = base + np.float32((k - count // 2) * step)
            score_views(reference, *window, stack, A, b, boxes, moved, config.window_radius, room, score)
            add_costs(score, volume, k)
        total = smooth_costs(
            volume, reference, np.rint(base / np.float32(step)).astype(np.int32), config.smooth_small, config.smooth_large
        )
        offset = best_hypothesis(total)
        del volume, total
        inverse = base + (offset - np.float32(count // 2)) * np.float32(step)
        inverse = cv2.medianBlur(inverse, 3) if level else inverse
        level -= 1
    doubted = np.zeros(inverse.shape, np.bool_)
    if config.edge_jump > 0:
        inverse, doubted = settle_edges(
            reference, stack, A, b, inverse, step,
            reach=config.edge_reach, jump=config.edge_jump, radius=config.edge_radius, places=effort.places,
            min_likeness=config.edge_ncc,
        )  # fmt: skip
    inverse, sd, likeness = _refined(reference, stack, A, b, inverse, step, config)
    inverse[doubted] = 0
    return _DepthMap(
        K=K0,
        inverse=_Stored.of(folder / f"{view.name}.depth.npy", inverse),
        sd=_Stored.of(folder / f"{view.name}.sd.npy", sd),
        likeness=_Stored.of(folder / f"{view.name}.ncc.npy", likeness),
        step=step,
    )


def window_statistics(reference: NDArray[np.int16], radius: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Sum of each window of the picture (from the middle grey), and the reciprocal root of its variance; 0 = no whole window."""
    import cv2

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        # Whole numbers below 2^53: exact.
        return np.asarray(cv2.boxFilter(values, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT))

    side = 2 * radius + 1
    count = float(side * side)
    known = reference >= 0
    grey = np.where(known, reference - MIDDLE_GREY, 0).astype(np.float64)
    sums, squares = total(grey), total(grey * grey)
    whole = total(known.astype(np.float64)) == count
    scale = np.where(whole, 1 / np.sqrt(count * squares - sums * sums + (GREY_STEPS * count) ** 2), 0)
    return sums.astype(np.int32), scale.astype(np.float32)


def seen_boxes(
    size: tuple[int, ...], A: NDArray[np.float32], b: NDArray[np.float32], inverse: NDArray[np.float32], give: float
) -> NDArray[np.int32]:
    """First and end row, first and end column, per neighbour, outside of which no pixel of the map lies in its picture, (neighbours, 4).

    size: rows and columns of the pictures. give: the map may still move by this much (1/m). Found on blocks of pixels and therefore
    somewhat too large, never too small: it saves time and changes nothing.
    """
    side = 16
    rows, cols = inverse.shape
    blocks = np.pad(inverse, ((0, -rows % side), (0, -cols % side)), mode="edge").astype(np.float64)
    blocks = blocks.reshape(blocks.shape[0] // side, side, -1, side)
    far, near = blocks.min(axis=(1, 3)) - give, blocks.max(axis=(1, 3)) + give
    x, y = np.meshgrid(np.arange(far.shape[1]) * side, np.arange(far.shape[0]) * side)
    boxes = np.zeros((len(A), 4), np.int32)
    for n in range(len(A)):
        # The eight corners of a block in space; what lies between them is seen between their images.
        corners = [
            np.tensordot(A[n].astype(np.float64), np.stack([x + dx, y + dy, np.ones_like(x)]), axes=1)
            + w * b[n].astype(np.float64)[:, None, None]
            for dx in (0, side)
            for dy in (0, side)
            for w in (far, near)
        ]
        depth = np.min([corner[2] for corner in corners], axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            images = np.stack([corner[:2] / corner[2] for corner in corners])
        low, high = images.min(axis=0), images.max(axis=0)
        seen = (high >= -1).all(axis=0) & (low[0] <= size[1] + 1) & (low[1] <= size[0] + 1)
        seen |= depth <= 1e-6  # Partly behind the camera: images say nothing.
        hit_rows, hit_cols = np.nonzero(seen.any(axis=1))[0], np.nonzero(seen.any(axis=0))[0]
        if len(hit_rows):
            boxes[n] = (
                hit_rows[0] * side,
                min((hit_rows[-1] + 1) * side, rows),
                hit_cols[0] * side,
                min((hit_cols[-1] + 1) * side, cols),
            )
    return boxes


def _stack(pictures: Sequence[NDArray[np.int16]]) -> NDArray[np.int16]:
    rows, cols = max(p.shape[0] for p in pictures), max(p.shape[1] for p in pictures)
    stack = np.full((len(pictures), rows, cols), -1, np.int16)
    for i, picture in enumerate(pictures):
        stack[i, : picture.shape[0], : picture.shape[1]] = picture
    return stack


def _transfers(view: _View, neighbours: Sequence[_View], factor: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A, b per neighbour: pixel p = (col, row, 1) at inverse depth w lies at A p + w b (homogeneous) in the neighbour."""
    back = np.linalg.inv(_scaled(view.K, factor))
    A, b = [], []
    for other in neighbours:
        K = _scaled(other.K, factor)
        A.append(K @ other.R @ view.R.T @ back)
        b.append(K @ other.R @ (view.C - other.C))
    return np.array(A, np.float32), np.array(b, np.float32)


def _start(
    view: _View, K: NDArray[np.float64], seen: NDArray[np.float64], config: DenseConfig
) -> tuple[NDArray[np.float64], float]:
    """The far end of the search as a plane of inverse depth (w = p0 + p1 col + p2 row), and its length (1/m).

    The inverse depth of a plane in space is linear in the pixel coordinates, so tilted photos need no longer search.
    """
    camera = (seen - view.C) @ view.R.T
    camera = camera[camera[:, 2] > 0]
    w = 1.0 / camera[:, 2]
    pixel = camera[:, :2] * w[:, None] * [K[0, 0], K[1, 1]] + [K[0, 2], K[1, 2]]
    design = np.column_stack([np.ones(len(w)), pixel])
    weight = np.ones(len(w))
    plane = np.array([np.median(w), 0.0, 0.0])
    for _ in range(10):  # Huber weights: crowns and roofs must not tilt the plane.
        root = np.sqrt(weight)
        plane = np.linalg.lstsq(design * root[:, None], w * root, rcond=None)[0]
        off = np.abs(w - design @ plane)
        scale = max(1.4826 * float(np.median(off)), 1e-12)
        weight = np.minimum(1.0, 1.345 * scale / np.maximum(off, 1e-15))
    far, near = np.quantile(w - design @ plane, [0.005, 0.995])
    middle = float(np.median(w))
    below = min(far, 0.0) - middle * config.footroom / (1 + config.footroom)
    above = max(near, 0.0) + middle * config.headroom / (1 - config.headroom)
    return plane + [below, 0.0, 0.0], float(above - below)


def _finer(inverse: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """The map at twice the size: bilinear on surfaces, nearest across edges (no ramp between roof and ground)."""
    import cv2

    size = (shape[1], shape[0])
    smooth = cv2.resize(inverse, size, interpolation=cv2.INTER_LINEAR)
    near = cv2.resize(inverse, size, interpolation=cv2.INTER_NEAREST)
    spread = cv2.dilate(inverse, np.ones((3, 3), np.uint8)) - cv2.erode(inverse, np.ones((3, 3), np.uint8))
    edge = cv2.resize(spread, size, interpolation=cv2.INTER_NEAREST) > 0.01 * near
    return np.where(edge, near, smooth)


def _refined(
    reference: NDArray[np.int16],
    stack: NDArray[np.int16],
    A: NDArray[np.float32],
    b: NDArray[np.float32],
    inverse: NDArray[np.float32],
    step: float,
    config: DenseConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Sub-pixel inverse depth, 0 where likeness or texture is too low, and its standard deviation.

    Windows now follow the found surface (each pixel is carried over with its own depth), so slopes do not bias them.
    The deviation follows from how sharp the peak of likeness is: (1 - NCC) is noise over signal, its bend the squared
    gradient over signal, and a shift estimated by least squares has the variance 2 noise / (pixels x squared gradient)
    (Foerstner 1982, feature-based correspondence; the factor for shared windows and views is measured, docs/methods).
    """
    import cv2

    score = np.empty((3, *inverse.shape), np.float32)
    window, room = window_statistics(reference, config.window_radius), np.empty_like(score)
    result = inverse
    move = np.float32(step)
    boxes = seen_boxes(stack.shape[1:], A, b, inverse, 4 * step)
    for delta in (0.5, 0.25):
        # A light edge-keeping filter: windows must not inherit the pixel noise of the map they refine.
        base = cv2.bilateralFilter(result / np.float32(step), 5, 1.0, 1.5) * np.float32(step)
        move = np.float32(delta * step)
        for i in range(3):
            score_views(
                reference, *window, stack, A, b, boxes, base + np.float32(i - 1) * move, config.window_radius, room, score[i]
            )
        result = base + peak_of(score) * move
    side = 2 * config.window_radius + 1
    bend = np.maximum(2 * score[1] - score[0] - score[2], np.float32(1e-4)) / (move * move)
    score_views(reference, *window, stack, A, b, boxes, result, config.window_radius, room, score[0])
    sd = np.sqrt(2 * np.maximum(1 - score[0], np.float32(0.005)) / (side * side * bend))
    sd = np.clip(sd, 0.02 * step, 2 * step).astype(np.float32)
    grey = reference.astype(np.float32) / GREY_STEPS
    mean = cv2.blur(grey, (side, side))
    texture = np.sqrt(np.maximum(cv2.blur(grey * grey, (side, side)) - mean * mean, 0))
    # Both of the two best: one good and one chance likeness would make a fair mean.
    keep = (room[1] >= config.min_ncc) & (texture >= config.min_texture) & (result > 0)
    result = np.where(keep, result, 0).astype(np.float32)
    # Chance matches (waves, leaves) come as small islands.
    quarter = np.rint(result * np.float32(4 / step)).astype(np.int32)
    islands = np.clip(quarter - (quarter[quarter > 0].min() - 1 if (quarter > 0).any() else 0), 0, 32767).astype(np.int16)
    cv2.filterSpeckles(islands, 0, config.min_island, 4)
    likeness = np.clip(room[1] * 250, 0, 250).astype(np.uint8)
    return np.where(islands > 0, result, 0).astype(np.float32), sd, likeness


def _fuse(
    views: Mapping[str, _View],
    maps: Mapping[str, _DepthMap],
    reconstruction: Reconstruction,
    origin: NDArray[np.float64],
    config: DenseConfig,
    progress: Progress,
) -> DenseCloud:
    """Points on which depth maps agree; each spot of the surface is given once, by the first photo that shows it."""
    names = sorted(maps)
    judges = choose_neighbours(reconstruction, neighbours=_EFFORTS[config.profile].judges, angle_deg=config.neighbour_angle_deg)
    used = {name: np.zeros(maps[name].inverse.shape, np.bool_) for name in names}
    points: list[NDArray[np.float64]] = [np.zeros((0, 3))]
    colours, counts = [np.zeros((0, 3), np.uint8)], [np.zeros(0, np.uint8)]
    sds, pixels = [np.zeros(0, np.float32)], []
    likeness = _Likeness()
    for index, name in enumerate(names):
        view, own = views[name], maps[name]
        inverse, own_sd = own.inverse.read(), own.sd.read()
        back = view.R.T @ np.linalg.inv(own.K)
        vote = _Vote.start(inverse, own_sd)
        others = [other for other in judges[name] if other in maps]
        transfers = []
        for bit, other in enumerate(others):
            P = maps[other].K @ views[other].R
            transfers.append((P @ back, P @ (view.C - views[other].C)))
            limit = config.agreement_px * maps[other].step
            peer = maps[other].inverse.read(), maps[other].sd.read()
            compare_maps(inverse, own_sd, *peer, *transfers[-1], limit, config.agreement_depth, bit, *vote)
        # Each map rests on three photos; where no more than three see the place, two clear maps that nobody contradicts must do.
        # They must see it too if it were higher: a roof that only two photos show would else be matched, with a third
        # photo, at the lower height where three show something.
        clear = (own.likeness.read() >= 250 * config.clear_ncc) & (vote.against == 0) & (vote.agree == 2) & (inverse > 0)
        row, col = np.nonzero(clear)
        higher = (
            np.stack([col + 0.5, row + 0.5, np.ones(len(row))]) * (1 - config.rim_headroom) / inverse[clear].astype(np.float64)
        )
        covering = np.ones(len(row), np.int64)
        for other, (M, t) in zip(others, transfers, strict=True):
            place = M @ higher + t[:, None]
            with np.errstate(invalid="ignore", divide="ignore"):
                x, y = place[0] / place[2], place[1] / place[2]
            rows, cols = maps[other].inverse.shape
            covering += (place[2] > 0) & (x >= 0) & (y >= 0) & (x < cols) & (y < rows)
        clear[row, col] = covering >= config.min_views
        needed = np.where((vote.judged > config.min_views) | ~clear, config.min_views, 2)
        keep = (inverse > 0) & ~used[name] & (vote.agree >= needed)
        keep &= vote.agree > config.contradiction * vote.against.astype(np.int64)
        for bit, other in enumerate(others):
            claim_pixels(keep, vote.bits, bit, inverse, *transfers[bit], used[other])
        row, col = np.nonzero(keep)
        depth, count, weight = 1.0 / inverse[keep].astype(np.float64), vote.agree[keep].astype(np.float64), vote.weight[keep]
        mean = vote.total[keep] / weight
        points.append((back @ (np.stack([col + 0.5, row + 0.5, np.ones(len(row))]) * (depth + mean))).T + view.C + origin)
        # What the peaks promise, corrected by what the maps' scatter says, the promise counting as much as four maps.
        likeness.add(vote, inverse, own_sd)
        scatter = np.maximum(vote.square[keep] - weight * mean**2, 0)
        variance = config.sd_factor**2 * (4 + scatter) / (3 + count) / weight
        # Relief smaller than the window is smoothed away in all maps alike.
        relief = _relief(inverse, 2 * config.window_radius + 1)[keep] * depth**2
        sd = np.sqrt(variance + (config.relief_factor * relief) ** 2)
        colours.append(view.colour.read()[keep])
        counts.append(vote.agree[keep])
        sds.append(sd.astype(np.float32))
        if (inverse > 0).any():
            pixels.append(1.0 / (float(np.median(inverse[inverse > 0])) * own.K[0, 0]))
        progress("drone.stage_fuse", (index + 1) / len(names))
    return DenseCloud(
        points=_emptied(points),
        colours=_emptied(colours),
        views=_emptied(counts),
        height_sd=_emptied(sds),
        correlation_m=likeness.range_m(pixels),
    )


def _emptied(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """The parts as one array; the list lets go of them, so that not all columns are there twice."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


_LAGS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 26, 32)
"""Distances at which the noise of a map is compared with itself, px."""


class _Likeness:
    """How far the matching noise of a map is alike: autocorrelation of its differences from the mean of all maps.

    In the differences the shape of the ground cancels; what varies more slowly than 65 px is poses, not matching, and is taken out.
    """

    def __init__(self) -> None:
        self.sums = np.zeros((len(_LAGS), 3))

    def add(self, vote: _Vote, inverse: NDArray[np.float32], sd: NDArray[np.float32]) -> None:
        import cv2

        known = (vote.agree >= 3) & (inverse > 0)
        # In units of the map's own deviation, so that no part of the picture counts more than another.
        weight = np.where(known, vote.weight, 1.0)
        q = np.where(known, vote.total / weight * (inverse.astype(np.float64) ** 2 / sd), 0.0)
        q = np.clip(q, -4, 4).astype(np.float32)
        share = np.maximum(cv2.blur(known.astype(np.float32), (65, 65)), np.float32(1e-3))
        q = (q - cv2.blur(q, (65, 65)) / share) * known
        for i, lag in enumerate(_LAGS):
            for a, b in ((q[:, :-lag], q[:, lag:]), (q[:-lag], q[lag:])):
                both = (a != 0) & (b != 0)
                self.sums[i] += (np.sum(a * b, dtype=np.float64), np.sum(a * a * both, dtype=np.float64), np.count_nonzero(both))

    def range_m(self, pixels: Sequence[float]) -> float | None:
        """Where the autocorrelation falls to 1/e (m), linear between lags; pixels: size of a pixel on the ground, per map (m).

        None where too few maps overlap to tell.
        """
        if self.sums[0, 2] < 10_000:
            return None
        correlation = np.concatenate([[1.0], self.sums[:, 0] / np.maximum(self.sums[:, 1], 1e-12)])
        lags = np.concatenate([[0.0], _LAGS])
        below = np.nonzero(correlation < np.exp(-1))[0]
        if len(below) == 0:
            return float(lags[-1] * np.median(pixels))
        i = int(below[0])
        part = (correlation[i - 1] - np.exp(-1)) / (correlation[i - 1] - correlation[i])
        return float((lags[i - 1] + part * (lags[i] - lags[i - 1])) * np.median(pixels))


def _relief(inverse: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """Root mean square of the map about its own mean of a window, 1/m; level and sloping ground give 0."""
    import cv2

    known = (inverse > 0).astype(np.float32)
    share = np.maximum(cv2.blur(known, (side, side)), np.float32(1e-6))
    middle = np.float32(np.median(inverse[inverse > 0])) if known.any() else np.float32(0)
    off = (inverse - middle) * known
    off = (off - cv2.blur(off, (side, side)) / share) * known
    return np.sqrt(np.maximum(cv2.blur(off * off, (side, side)) / share, 0)).astype(np.float64)


class _Vote(NamedTuple):
    """What the other maps say of each pixel of one map.

    weight: sum of 1 / variance of the depth (1/m2). total, square: sums of weight times their depth minus ours (m) and its square,
    own map included as 0. agree: maps that agree, own included. against: maps that look through our surface. judged: maps whose
    picture covers it. bits: which agree.
    """

    weight: NDArray[np.float64]
    total: NDArray[np.float64]
    square: NDArray[np.float64]
    agree: NDArray[np.uint8]
    against: NDArray[np.uint8]
    judged: NDArray[np.uint8]
    bits: NDArray[np.uint16]

    @classmethod
    def start(cls, inverse: NDArray[np.float32], sd: NDArray[np.float32]) -> _Vote:
        shape, one = inverse.shape, np.ones(inverse.shape, np.uint8)
        with np.errstate(divide="ignore"):
            weight = (inverse.astype(np.float64) ** 2 / sd) ** 2
        return cls(
            weight, np.zeros(shape), np.zeros(shape), one, np.zeros(shape, np.uint8), one.copy(), np.zeros(shape, np.uint16)
        )
