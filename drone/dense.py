"""Dense points of an adjusted block: photos + poses in, coloured points with height errors out.

For every photo an inverse-depth map is made from the photo and its best neighbours at once, coarse to fine:
plane sweep around the previous level with windowed normalised cross-correlation (NCC), the mean of the two best
neighbours per hypothesis (occluded ones drop out), semi-global smoothing, sub-pixel refinement along the found surface.
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
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from drone.camera import opencv_params, project_camera_points
from drone.matching import GREY_STEPS, add_costs, best_hypothesis, claim_pixels, compare_maps, peak_of, score_views, smooth_costs
from drone.types import Camera, DenseCloud, Photo, Reconstruction
from geoevidence.errors import ConfigError, FormatError, ReconstructionError
from geoevidence.types import Progress, no_progress

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConfig:
    """Settings of `densify`.

    downscale: photos are reduced by this factor (1); 2 costs a quarter of 1 and loses little where 3 and more photos meet.
    neighbours: photos that judge each pixel (1); more cost time, fewer leave occluded ground empty.
    neighbour_angle_deg: preferred angle between the rays of two neighbours (deg); small: noisy heights, large: poor likeness.
    window_radius: NCC window of 2 r + 1 px; small: noise, large: rounded edges.
    range_px: half-width of the search around the coarser level (px of disparity).
    headroom, footroom: widening of the depth range of the tie points towards and away from the camera, as a share of the
        depth (1); crowns and roofs carry few tie points.
    smooth_small, smooth_large: penalties of the smoothing for steps of one and of more hypotheses (1/64 NCC).
    min_ncc: a pixel below this likeness is dropped (1).
    min_texture: a pixel whose window varies by less is dropped (standard deviation, grey levels of 255).
    min_island: smaller connected pieces of a depth map are dropped (pixels).
    min_views: photos whose depth maps must agree (count); at the rim of the block, where fewer see the ground, 2.
    agreement_px: depth maps agree when they differ by less (px of disparity over the widest baseline).
    agreement_depth: and by less than this share of the depth (1).
    disparity_sd_px: matching noise of one depth map, prior to the observed scatter (px); measured on synthetic flights.
    threads: workers (count), 0 = one a processor, at most 8; does not change the result.
    """

    downscale: int = 2
    neighbours: int = 5
    neighbour_angle_deg: float = 12.0
    window_radius: int = 3
    range_px: int = 6
    headroom: float = 0.45
    footroom: float = 0.08
    smooth_small: int = 8
    smooth_large: int = 60
    min_ncc: float = 0.35
    min_texture: float = 1.5
    min_island: int = 200
    min_views: int = 3
    agreement_px: float = 1.0
    agreement_depth: float = 0.01
    disparity_sd_px: float = 0.15
    threads: int = 0

    def __post_init__(self) -> None:
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
            "min_texture": (0, 64),
            "min_island": (0, 100_000),
            "min_views": (2, 12),
            "agreement_px": (0.1, 8),
            "agreement_depth": (1e-4, 0.2),
            "disparity_sd_px": (0.01, 4),
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
    """How to draw the pinhole picture of a camera; width and height are multiples of `multiple` (pixels are cut, not scaled).

    A width that does not divide shifts the coarser levels against each other and biases heights (by centimetres).
    """
    params = opencv_params(camera)
    K = np.array([[params[0], 0, params[2]], [0, params[1], params[3]], [0, 0, 1]])
    width, height = (side // multiple * multiple for side in camera.size)
    if min(width, height) < multiple:
        raise FormatError("drone.photo_too_small", path=camera.id, width=camera.size[0], height=camera.size[1])
    # Cut evenly, by whole pixels, so that the picture stays centred.
    K[0, 2] -= (camera.size[0] - width) // 2
    K[1, 2] -= (camera.size[1] - height) // 2
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

    levels: (rows, cols) int16 grey in 1/8 level, -1 = no data. colour: (rows, cols, 3) at levels[0].
    """

    name: str
    K: NDArray[np.float64]
    R: NDArray[np.float64]
    C: NDArray[np.float64]
    levels: tuple[NDArray[np.int16], ...]
    colour: NDArray[np.uint8]


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
    partners = choose_neighbours(reconstruction, neighbours=config.neighbours, angle_deg=config.neighbour_angle_deg)
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
    side, wide on the large side), times the likeness of the distances.
    """
    names = sorted(reconstruction.poses)
    centres = np.array([reconstruction.poses[name].C for name in names])
    owner = np.repeat(np.arange(len(reconstruction.points)), np.diff(reconstruction.track_offsets))
    seen = sparse.csr_matrix(
        (np.ones(len(owner), np.int32), (reconstruction.track_photos, owner)), shape=(len(names), len(reconstruction.points))
    )
    seen.data[:] = 1
    shared = (seen @ seen.T).tocoo()
    scores: dict[int, list[tuple[float, int]]] = {index: [] for index in range(len(names))}
    for first, second, count in zip(shared.row, shared.col, shared.data, strict=True):
        if first >= second or count < 8:
            continue
        points = reconstruction.points[np.intersect1d(seen[first].indices, seen[second].indices)]
        a, b = centres[first] - points, centres[second] - points
        far_a, far_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        angle = np.degrees(np.arccos(np.clip(np.sum(a * b, axis=1) / (far_a * far_b), -1, 1)))
        width = np.where(angle < angle_deg, 5.0, 12.0)
        weight = np.exp(-0.5 * ((angle - angle_deg) / width) ** 2) * np.minimum(far_a / far_b, far_b / far_a) ** 2
        score = float(np.sum(weight))
        scores[int(first)].append((-score, int(second)))
        scores[int(second)].append((-score, int(first)))
    chosen = {}
    for index, name in enumerate(names):
        ranked = [(score, other) for score, other in sorted(scores[index]) if -score >= 4]
        chosen[name] = tuple(names[other] for _, other in ranked[:neighbours])
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
    stored = tuple(_stored(folder / f"{photo.name}.{i}.npy", level) for i, level in enumerate(levels))
    return _View(name=photo.name, K=lens.K, R=R, C=C, levels=stored, colour=_stored(folder / f"{photo.name}.rgb.npy", colour))


def _stored(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """The array, moved to a file and mapped: the system keeps in memory what is in use."""
    np.save(path, array)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _scaled(K: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """K of the picture reduced by `factor`; exact, since pixel coordinates start at the outer corner."""
    return np.diag([1 / factor, 1 / factor, 1.0]) @ K


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _DepthMap:
    """inverse: (rows, cols) float32 1/m along the optical axis, 0 = none; step: 1/m for one px of disparity."""

    K: NDArray[np.float64]
    inverse: NDArray[np.float32]
    step: float


def _depth_map(
    view: _View, neighbours: Sequence[_View], seen: NDArray[np.float64], config: DenseConfig, folder: Path
) -> _DepthMap:
    import cv2

    K0 = _scaled(view.K, config.downscale)
    widest = max(float(np.linalg.norm(other.C - view.C)) for other in neighbours)
    plane, reach = _start(view, K0, seen, config)
    level = len(view.levels) - 1
    # Enough hypotheses for the whole range at a level where small things are still seen: 1/4 of the working size
    # or coarser when the range would need more than 160.
    while level > 1 and reach * K0[0, 0] / 2 ** (level - 1) * widest <= 160:
        level -= 1
    inverse = np.zeros((0, 0), np.float32)
    while level >= 0:
        reference = np.ascontiguousarray(view.levels[level])
        stack = _stack([other.levels[level] for other in neighbours])
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
            count = 2 * config.range_px + 1
        volume = np.empty((rows, cols, count), np.uint8)
        score = np.empty((rows, cols), np.float32)
        for k in range(count):
            score_views(reference, stack, A, b, base + np.float32((k - count // 2) * step), config.window_radius, score)
            add_costs(score, volume, k)
        total = smooth_costs(
            volume, reference, np.rint(base / np.float32(step)).astype(np.int32), config.smooth_small, config.smooth_large
        )
        offset = best_hypothesis(total)
        del volume, total
        inverse = base + (offset - np.float32(count // 2)) * np.float32(step)
        inverse = cv2.medianBlur(inverse, 3) if level else inverse
        level -= 1
    inverse = _refined(reference, stack, A, b, inverse, step, config)
    return _DepthMap(K=K0, inverse=_stored(folder / f"{view.name}.depth.npy", inverse), step=step)


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
) -> NDArray[np.float32]:
    """Sub-pixel inverse depth; 0 where likeness or texture is too low.

    Windows now follow the found surface (each pixel is carried over with its own depth), so slopes do not bias them.
    """
    import cv2

    score = np.empty((3, *inverse.shape), np.float32)
    result = inverse
    for delta in (0.5, 0.25):
        # A light edge-keeping filter: windows must not inherit the pixel noise of the map they refine.
        base = cv2.bilateralFilter(result / np.float32(step), 5, 1.0, 1.5) * np.float32(step)
        move = np.float32(delta * step)
        for i in range(3):
            score_views(reference, stack, A, b, base + np.float32(i - 1) * move, config.window_radius, score[i])
        result = base + peak_of(score) * move
    score_views(reference, stack, A, b, result, config.window_radius, score[0])
    side = 2 * config.window_radius + 1
    grey = reference.astype(np.float32) / GREY_STEPS
    mean = cv2.blur(grey, (side, side))
    texture = np.sqrt(np.maximum(cv2.blur(grey * grey, (side, side)) - mean * mean, 0))
    keep = (score[0] >= config.min_ncc) & (texture >= config.min_texture) & (result > 0)
    result = np.where(keep, result, 0).astype(np.float32)
    # Chance matches (waves, leaves) come as small islands.
    quarter = np.rint(result * np.float32(4 / step)).astype(np.int32)
    islands = np.clip(quarter - (quarter[quarter > 0].min() - 1 if (quarter > 0).any() else 0), 0, 32767).astype(np.int16)
    cv2.filterSpeckles(islands, 0, config.min_island, 4)
    return np.where(islands > 0, result, 0).astype(np.float32)


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
    judges = choose_neighbours(reconstruction, neighbours=12, angle_deg=config.neighbour_angle_deg)
    used = {name: np.zeros(maps[name].inverse.shape, np.bool_) for name in names}
    parts: list[tuple[NDArray[Any], ...]] = []
    for index, name in enumerate(names):
        view, own = views[name], maps[name]
        inverse = np.asarray(own.inverse)
        back = view.R.T @ np.linalg.inv(own.K)
        vote = _Vote.empty(inverse.shape)
        others = [other for other in judges[name] if other in maps]
        transfers = []
        for bit, other in enumerate(others):
            P = maps[other].K @ views[other].R
            transfers.append((P @ back, P @ (view.C - views[other].C)))
            limit = config.agreement_px * maps[other].step
            compare_maps(inverse, np.asarray(maps[other].inverse), *transfers[-1], limit, config.agreement_depth, bit, *vote)
        needed = np.where(vote.judged >= config.min_views, config.min_views, 2)
        keep = (inverse > 0) & ~used[name] & (vote.agree >= needed) & (vote.agree > vote.against)
        for bit, other in enumerate(others):
            claim_pixels(keep, vote.bits, bit, inverse, *transfers[bit], used[other])
        row, col = np.nonzero(keep)
        depth, count = 1.0 / inverse[keep].astype(np.float64), vote.agree[keep].astype(np.float64)
        mean = vote.total[keep] / count
        # Scatter between maps, held by the expected noise as if that had been seen in four maps.
        expected = config.disparity_sd_px * own.step * depth**2
        scatter = (4 * expected**2 + np.maximum(vote.square[keep] - count * mean**2, 0)) / (3 + count)
        points = (back @ (np.stack([col + 0.5, row + 0.5, np.ones(len(row))]) * (depth + mean))).T + view.C + origin
        # Maps share photos: half of the further ones count as independent.
        sd = np.sqrt(scatter / (0.5 * (count + 1)))
        parts.append((points, np.asarray(view.colour)[keep], vote.agree[keep], sd.astype(np.float32)))
        progress("drone.stage_fuse", (index + 1) / len(names))
    return DenseCloud(
        points=np.concatenate([np.zeros((0, 3)), *(p[0] for p in parts)]),
        colours=np.concatenate([np.zeros((0, 3), np.uint8), *(p[1] for p in parts)]),
        views=np.concatenate([np.zeros(0, np.uint8), *(p[2] for p in parts)]),
        height_sd=np.concatenate([np.zeros(0, np.float32), *(p[3] for p in parts)]),
    )


class _Vote(NamedTuple):
    """What the other maps say of each pixel of one map.

    total, square: sum and sum of squares of their depth minus ours (m), own map included as 0. agree: maps that agree, own
    included. against: maps that look through our surface. judged: maps whose picture covers it. bits: which agree.
    """

    total: NDArray[np.float64]
    square: NDArray[np.float64]
    agree: NDArray[np.uint8]
    against: NDArray[np.uint8]
    judged: NDArray[np.uint8]
    bits: NDArray[np.uint16]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> _Vote:
        one = np.ones(shape, np.uint8)
        return cls(np.zeros(shape), np.zeros(shape), one, np.zeros(shape, np.uint8), one.copy(), np.zeros(shape, np.uint16))
