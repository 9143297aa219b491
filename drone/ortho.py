"""Orthomosaic: for each cell of the ground the photo that sees it best, drawn through the surface model.

A photo may show a cell only if nothing of the surface stands between them. Seams are smoothed, things whose height is not
known (a tree, a patch of water) are taken whole from one photo where one shows them whole, and exposure differences between
photos are levelled by one gain per photo and colour, solved over all overlaps. Where the surface model is empty the picture is
drawn on ground interpolated from around: `support` says so for every cell, and heights are never written back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from drone.camera import opencv_params
from drone.dense import in_threads, read_photo
from drone.types import Photo, Reconstruction, SurfaceModel
from geoevidence.errors import ConfigError, CoverageError
from geoevidence.raster import Grid, Raster
from geoevidence.types import Progress, no_progress

NOT_DRAWN, MEASURED, INTERPOLATED = 0, 1, 2
"""Values of `Orthomosaic.support`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrthoConfig:
    """Settings of `build_orthomosaic`.

    cell: side of a cell (m), 0 = the GSD rounded up to a whole millimetre.
    reach: how far from measured heights the picture is continued on interpolated ground (m); 0 = not at all.
    whole_up_to: patches without heights up to this size are taken from a single photo if one shows them whole (m2).
    seam_window: side of the window in which neighbouring cells vote for their photo (m); large: smooth, few seams.
    feather: width of the blend along a seam (cells); wide blends double edges that do not meet.
    occlusion_tolerance: something must stand this far above the line of sight to hide a cell (m).
    border: photo pixels this near to the edge of a photo are not used (share of the width).
    gain_pull, colour_pull: weight that holds each photo's brightness and colour as they are, against 1 of an overlap (1);
        small: seamless but drifting.
    max_gain: largest brightness correction (factor).
    threads: workers (count), 0 = one a processor, at most 8; does not change the result.
    """

    cell: float = 0.0
    reach: float = 15.0
    whole_up_to: float = 400.0
    seam_window: float = 1.5
    feather: float = 8.0
    occlusion_tolerance: float = 0.15
    border: float = 0.01
    gain_pull: float = 0.3
    colour_pull: float = 1.5
    max_gain: float = 2.0
    threads: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "cell": (0, 100),
            "reach": (0, 1000),
            "whole_up_to": (0, 1e6),
            "seam_window": (0, 100),
            "feather": (0, 200),
            "occlusion_tolerance": (0, 10),
            "border": (0, 0.3),
            "gain_pull": (0.01, 100),
            "colour_pull": (0.01, 100),
            "max_gain": (1, 10),
            "threads": (0, 1024),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"ortho.{name}", found=str(getattr(self, name)), low=low, high=high
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Orthomosaic:
    """raster: uint8 (4, y, x) red, green, blue, alpha (0 = no photo shows the place).

    sources: uint16 (2, y, x) on the same grid: 1 + position of the photo in `photos` (0 = none); support (see above).
    photos: names in order of position. gains: per photo the factor on (red, green, blue).
    """

    raster: Raster
    sources: Raster
    photos: tuple[str, ...]
    gains: Mapping[str, tuple[float, float, float]]


def build_orthomosaic(
    reconstruction: Reconstruction,
    surface: SurfaceModel,
    *,
    config: OrthoConfig = OrthoConfig(),
    progress: Progress = no_progress,
) -> Orthomosaic:
    """Orthomosaic on the surface's extent, in its CRS.

    Raises:
        CoverageError: no photo shows the surface.
        FormatError: a photo cannot be read.
    """
    names = tuple(sorted(reconstruction.poses))
    lines = _lines_of_sight(reconstruction, names, config.border)
    coarse = surface.raster.grid
    height = surface.raster.data[0].astype(np.float64)
    known = np.isfinite(height)
    datum = float(np.median(height[known]))
    ground = (fill_ground(height, coarse.resolution[0]) - datum).astype(np.float32)
    drawable = ndimage.distance_transform_edt(~known) * coarse.resolution[0] <= config.reach if config.reach > 0 else known
    labels, seen = _choose(lines, ground, known & drawable, drawable, coarse, datum, config)
    if not labels.any():
        raise CoverageError("drone.ortho_empty")
    gains = _gains(reconstruction, names, lines, labels, seen, ground, coarse, datum, config)
    return _draw(reconstruction, names, lines, labels, ground, known, coarse, datum, gains, config, progress)


def fill_ground(height: NDArray[np.float64], cell: float) -> NDArray[np.float64]:
    """Heights with every NaN replaced by ground continued from around; measured heights are kept.

    The lower quarter of the heights of each half-metre block is spread into empty blocks, coarse to fine.
    """
    factor = max(1, round(0.5 / cell))
    rows, cols = (-(-side // factor) for side in height.shape)
    padded = np.full((rows * factor, cols * factor), np.nan)
    padded[: height.shape[0], : height.shape[1]] = height
    blocks = padded.reshape(rows, factor, cols, factor).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    blocks = np.sort(blocks, axis=2)  # NaN last
    count = np.isfinite(blocks).sum(axis=2)
    low = np.take_along_axis(blocks, np.maximum((count - 1) // 4, 0)[:, :, None], axis=2)[:, :, 0]
    spread = _spread(low)
    row = np.clip((np.arange(height.shape[0]) + 0.5) / factor - 0.5, 0, rows - 1)
    col = np.clip((np.arange(height.shape[1]) + 0.5) / factor - 0.5, 0, cols - 1)
    fine = ndimage.map_coordinates(spread, np.stack(np.meshgrid(row, col, indexing="ij")), order=1, mode="nearest")
    return np.where(np.isfinite(height), height, fine)


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN replaced by a smooth continuation: means of ever coarser copies, then relaxed (Laplace) from coarse to fine."""
    known = np.isfinite(values)
    if known.all():
        return values
    if min(values.shape) <= 2:
        return np.where(known, values, np.nanmean(values))
    rows, cols = (-(-side // 2) for side in values.shape)
    total, weight = np.zeros((rows * 2, cols * 2)), np.zeros((rows * 2, cols * 2))
    total[: values.shape[0], : values.shape[1]] = np.where(known, values, 0)
    weight[: values.shape[0], : values.shape[1]] = known
    total = total.reshape(rows, 2, cols, 2).sum(axis=(1, 3))
    weight = weight.reshape(rows, 2, cols, 2).sum(axis=(1, 3))
    half = _spread(np.where(weight > 0, total / np.maximum(weight, 1), np.nan))
    filled = np.where(known, values, np.kron(half, np.ones((2, 2)))[: values.shape[0], : values.shape[1]])
    kernel = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
    for _ in range(12):
        filled = np.where(known, values, ndimage.convolve(filled, kernel, mode="nearest"))
    return filled


def _lines_of_sight(reconstruction: Reconstruction, names: tuple[str, ...], border: float) -> NDArray[np.float64]:
    """Per photo one row: R (9), C (3), OPENCV parameters (8), usable range left, top, right, bottom (px), (n, 24)."""
    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    rows = []
    for name in names:
        pose, camera = reconstruction.poses[name], reconstruction.cameras[photos[name].camera_id]
        rim = border * camera.size[0] + 2
        rows.append(
            np.concatenate(
                [pose.R.ravel(), pose.C, opencv_params(camera), [rim, rim, camera.size[0] - rim, camera.size[1] - rim]]
            )
        )
    return np.array(rows)


@numba.njit(nogil=True, cache=True)
def _pixel(line, x, y, z):  # type: ignore[no-untyped-def]
    """(col, row, inside) of a world point in the photo of a row of `_lines_of_sight`."""
    dx, dy, dz = x - line[9], y - line[10], z - line[11]
    cz = line[6] * dx + line[7] * dy + line[8] * dz
    if cz <= 0:
        return 0.0, 0.0, False
    u = (line[0] * dx + line[1] * dy + line[2] * dz) / cz
    v = (line[3] * dx + line[4] * dy + line[5] * dz) / cz
    r2 = u * u + v * v
    if r2 > 4.0:  # far outside any pinhole picture, where a distortion polynomial means nothing
        return 0.0, 0.0, False
    radial = 1 + r2 * (line[16] + line[17] * r2)
    du = u * radial + 2 * line[18] * u * v + line[19] * (r2 + 2 * u * u)
    dv = v * radial + 2 * line[19] * u * v + line[18] * (r2 + 2 * v * v)
    col, row = line[12] * du + line[14], line[13] * dv + line[15]
    return col, row, line[20] <= col <= line[22] and line[21] <= row <= line[23]


@numba.njit(nogil=True, cache=True)
def _visible(line, ground, west, north, cell, datum, highest, drawable, tolerance):  # type: ignore[no-untyped-def]
    """Slope of the line of sight (horizontal over vertical distance) to each drawable cell, inf where hidden or outside."""
    rows, cols = ground.shape
    slope = np.full((rows, cols), np.inf, np.float32)
    for r in range(rows):
        y = north - (r + 0.5) * cell
        for c in range(cols):
            if not drawable[r, c]:
                continue
            x = west + (c + 0.5) * cell
            h = ground[r, c]
            _, _, inside = _pixel(line, x, y, h + datum)
            rise = line[11] - datum - h
            if not inside or rise <= 0:
                continue
            dx, dy = (line[9] - x) / cell, -(line[10] - y) / cell
            far = np.sqrt(dx * dx + dy * dy)
            hidden = False
            if far > 0.5:
                step_x, step_y, step_h = dx / far, dy / far, rise / far
                reach = min(far, (highest - h) / step_h + 1)
                k = 1.5
                while k < reach:
                    rr, cc = int(r + 0.5 + k * step_y), int(c + 0.5 + k * step_x)
                    if rr < 0 or cc < 0 or rr >= rows or cc >= cols:
                        break
                    if ground[rr, cc] > h + k * step_h + tolerance:
                        hidden = True
                        break
                    k += 1.0
            if not hidden:
                slope[r, c] = far * cell / rise
    return slope


def _choose(
    lines: NDArray[np.float64],
    ground: NDArray[np.float32],
    known: NDArray[np.bool_],
    drawable: NDArray[np.bool_],
    grid: Grid,
    datum: float,
    config: OrthoConfig,
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Photo number + 1 per cell (0 = none), and which photos see each cell: bits, (photos, y, x / 8)."""
    import cv2

    west, north, cell = grid.transform.c, grid.transform.f, grid.resolution[0]
    best = np.full(ground.shape, np.inf, np.float32)
    labels = np.zeros(ground.shape, np.uint16)
    highest = float(ground.max())

    def look(line: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.asarray(_visible(line, ground, west, north, cell, datum, highest, drawable, config.occlusion_tolerance))

    slopes = in_threads(look, list(lines), config.threads)
    seen = np.stack([np.packbits(np.isfinite(slope), axis=1) for slope in slopes])
    for index, slope in enumerate(slopes):
        better = slope < best
        labels[better] = index + 1
        best[better] = slope[better]
    width = ground.shape[1]

    def sees(index: int) -> NDArray[np.bool_]:
        return np.unpackbits(seen[index], axis=1, count=width).astype(bool)

    window = round(config.seam_window / cell) | 1
    for _ in range(2 if window > 1 else 0):
        votes = np.zeros(ground.shape, np.float32)
        elected = np.zeros(ground.shape, np.uint16)
        for index in range(len(lines)):
            share = cv2.boxFilter((labels == index + 1).astype(np.float32), -1, (window, window), borderType=cv2.BORDER_CONSTANT)
            better = (share > votes) & sees(index)
            elected[better], votes[better] = index + 1, share[better]
        labels = np.where(elected > 0, elected, labels)
    # Things without heights lean differently in every photo: a seam through them tears them.
    patches, _ = ndimage.label(ndimage.binary_closing(drawable & ~known, iterations=max(1, round(0.2 / cell))) & drawable)
    rim = max(1, round(0.5 / cell))
    for number, box in enumerate(ndimage.find_objects(patches), start=1):
        around = tuple(slice(max(0, part.start - rim), part.stop + rim) for part in box)
        patch = patches[around] == number
        size = patch.sum() * cell**2
        if not 0.05 <= size <= config.whole_up_to:
            continue
        patch = ndimage.binary_dilation(patch, iterations=rim) & drawable[around]
        shown, counts = np.unique(labels[around][patch], return_counts=True)
        if len(shown) < 2:
            continue
        whole = [index for index in range(len(lines)) if np.isfinite(slopes[index][around][patch]).mean() > 0.98]
        if whole:
            # The photo that has most of it already, else the one that looks down most steeply.
            most = int(shown[np.argmax(counts)]) - 1
            chosen = most if most in whole else min(whole, key=lambda index: (float(slopes[index][around][patch].mean()), index))
            labels[around][patch & np.isfinite(slopes[chosen][around])] = chosen + 1
    return labels, seen


def _gains(
    reconstruction: Reconstruction,
    names: tuple[str, ...],
    lines: NDArray[np.float64],
    labels: NDArray[np.uint16],
    seen: NDArray[np.uint8],
    ground: NDArray[np.float32],
    grid: Grid,
    datum: float,
    config: OrthoConfig,
) -> NDArray[np.float64]:
    """Factor per photo and colour, (n, 3), that levels the differences seen in all overlaps."""
    import cv2

    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    west, north, cell = grid.transform.c, grid.transform.f, grid.resolution[0]
    step = max(1, round(np.sqrt(np.count_nonzero(labels) / 20_000)))
    rows, cols = np.nonzero(labels[::step, ::step])
    rows, cols = rows * step, cols * step
    x, y, z = west + (cols + 0.5) * cell, north - (rows + 0.5) * cell, ground[rows, cols] + datum

    def sample(index: int) -> NDArray[np.float64]:
        visible = np.unpackbits(seen[index], axis=1, count=ground.shape[1])[rows, cols] > 0
        picture = read_photo(photos[names[index]])
        small = cv2.resize(picture, (picture.shape[1] // 16, picture.shape[0] // 16), interpolation=cv2.INTER_AREA)
        values = np.full((len(rows), 3), np.nan)
        spots = np.nonzero(visible)[0]
        pixels = _pixels(lines[index], x[spots], y[spots], z[spots])
        at = np.clip((pixels / 16).astype(int), 0, [small.shape[1] - 1, small.shape[0] - 1])
        values[spots] = small[at[:, 1], at[:, 0]]
        # Black and burnt-out pixels say nothing about exposure.
        values[(values < 8) | (values > 247)] = np.nan
        return np.log(values)

    logs = np.stack(in_threads(sample, range(len(names)), config.threads))
    # Brightness follows the overlaps; colour is held, since small casts would add up over a chain of photos.
    light = logs.mean(axis=2)
    gains = _levelled(light, config.gain_pull)[:, None] + np.stack(
        [_levelled(logs[:, :, band] - light, config.colour_pull) for band in range(3)], axis=1
    )
    # What was not burnt out in the photos shall not burn out here.
    with np.errstate(invalid="ignore"):
        drawn = np.nanquantile(light + gains.mean(axis=1)[:, None], 0.99) if np.isfinite(light).any() else 0.0
    gains -= max(0.0, float(drawn) - np.log(230.0))
    return np.round(np.clip(np.exp(gains), 1 / config.max_gain, config.max_gain), 4)


def _levelled(logs: NDArray[np.float64], pull: float) -> NDArray[np.float64]:
    """Log gain per photo, (n,), from log values (n, samples), NaN = not seen: least squares over all pairs of photos."""
    count = len(logs)
    normal, right = sparse.lil_matrix((count, count)), np.zeros(count)
    normal.setdiag(pull**2)
    for a in range(count):
        for b in range(a + 1, count):
            difference = logs[a] - logs[b]
            difference = difference[np.isfinite(difference)]
            if len(difference) < 30:
                continue
            weight, value = min(1.0, len(difference) / 1000), float(np.median(difference))
            normal[a, a] += weight
            normal[b, b] += weight
            normal[a, b] -= weight
            normal[b, a] -= weight
            right[a] -= weight * value
            right[b] += weight * value
    return np.atleast_1d(spsolve(sparse.csc_matrix(normal), right))


@numba.njit(nogil=True, cache=True)
def _pixels(line, x, y, z):  # type: ignore[no-untyped-def]
    out = np.empty((len(x), 2), np.float64)
    for i in range(len(x)):
        out[i, 0], out[i, 1], _ = _pixel(line, x[i], y[i], z[i])
    return out


@numba.njit(nogil=True, cache=True)
def _project_block(line, ground, west, north, coarse, datum, top, left, cell, map_x, map_y):  # type: ignore[no-untyped-def]
    """cv2.remap coordinates of a block of the orthomosaic; heights bilinear between cells of the surface, nearest at steps."""
    rows, cols = map_x.shape
    height, width = ground.shape
    for r in range(rows):
        y = north - (top + r + 0.5) * cell
        gy = min(max((north - y) / coarse - 0.5, 0.0), height - 1.001)
        j = int(gy)
        fy = gy - j
        for c in range(cols):
            x = west + (left + c + 0.5) * cell
            gx = min(max((x - west) / coarse - 0.5, 0.0), width - 1.001)
            i = int(gx)
            fx = gx - i
            a, b, d, e = ground[j, i], ground[j, i + 1], ground[j + 1, i], ground[j + 1, i + 1]
            z = (a * (1 - fx) + b * fx) * (1 - fy) + (d * (1 - fx) + e * fx) * fy
            col, row, _ = _pixel(line, x, y, z + datum)
            map_x[r, c] = col - 0.5
            map_y[r, c] = row - 0.5


def _draw(
    reconstruction: Reconstruction,
    names: tuple[str, ...],
    lines: NDArray[np.float64],
    labels: NDArray[np.uint16],
    ground: NDArray[np.float32],
    known: NDArray[np.bool_],
    coarse: Grid,
    datum: float,
    gains: NDArray[np.float64],
    config: OrthoConfig,
    progress: Progress,
) -> Orthomosaic:
    import cv2

    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    cell = config.cell or round(float(np.ceil(reconstruction.accuracy.gsd * 1000 - 1e-6)) / 1000, 3)
    west, north, side = coarse.transform.c, coarse.transform.f, coarse.resolution[0]
    rows, cols = int(labels.shape[0] * side / cell), int(labels.shape[1] * side / cell)
    picture = np.zeros((4, rows, cols), np.uint8)
    sources = np.zeros((2, rows, cols), np.uint16)
    row_of = np.minimum(((np.arange(rows) + 0.5) * cell / side).astype(int), labels.shape[0] - 1)
    col_of = np.minimum(((np.arange(cols) + 0.5) * cell / side).astype(int), labels.shape[1] - 1)
    drawn = labels > 0
    blur = max(1, round(config.feather)) | 1
    decoded: dict[int, NDArray[np.uint8]] = {}
    strip = 512
    for top in range(0, rows, strip):
        bottom = min(top + strip, rows)
        # Labels of the strip with a rim, so that blends do not depend on where strips meet.
        lo, hi = max(0, top - blur), min(rows, bottom + blur)
        part = labels[row_of[lo:hi]][:, col_of]
        needed = [int(v) for v in np.unique(part) if v > 0]
        decoded = {v: decoded[v] for v in needed if v in decoded}
        missing = [v for v in needed if v not in decoded]

        def decode(v: int) -> NDArray[np.uint8]:
            return read_photo(photos[names[v - 1]])

        decoded.update(zip(missing, in_threads(decode, missing, config.threads), strict=True))
        total = np.zeros((bottom - top, cols, 3), np.float32)
        weights = np.zeros((bottom - top, cols), np.float32)
        strongest = np.zeros((bottom - top, cols), np.float32)

        def render(
            v: int,
            lo: int = lo,
            top: int = top,
            bottom: int = bottom,
            part: NDArray[np.uint16] = part,
            decoded: Mapping[int, NDArray[np.uint8]] = decoded,
        ) -> tuple[int, int, NDArray[np.float32], NDArray[np.float32]]:
            mask = (part == v).astype(np.float32)
            weight = cv2.GaussianBlur(mask, (0, 0), config.feather / 2) if config.feather > 0 else mask
            weight = weight[top - lo : bottom - lo]
            used = np.nonzero((weight > 0.004).any(axis=0))[0]
            left, right = int(used[0]), int(used[-1]) + 1
            map_x, map_y = np.empty((bottom - top, right - left), np.float32), np.empty((bottom - top, right - left), np.float32)
            _project_block(lines[v - 1], ground, west, north, side, datum, top, left, cell, map_x, map_y)
            colour = cv2.remap(decoded[v], map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            weight = weight[:, left:right].copy()
            line = lines[v - 1]
            inside = (map_x >= 0) & (map_y >= 0) & (map_x <= line[22] + line[20] - 1) & (map_y <= line[23] + line[21] - 1)
            weight[~inside] = 0
            return left, right, colour.astype(np.float32) * gains[v - 1].astype(np.float32), weight

        shown = [v for v in needed if (part[top - lo : bottom - lo] == v).any()]
        for v, (left, right, colour, weight) in zip(shown, in_threads(render, shown, config.threads), strict=True):
            total[:, left:right] += colour * weight[:, :, None]
            weights[:, left:right] += weight
            stronger = weight > strongest[:, left:right]
            sources[0, top:bottom, left:right][stronger] = v
            strongest[:, left:right][stronger] = weight[stronger]
        filled = (weights > 0.05) & drawn[row_of[top:bottom]][:, col_of]
        colour = np.rint(np.clip(total / np.maximum(weights, 1e-6)[:, :, None], 0, 255)).astype(np.uint8)
        for band in range(3):
            picture[band, top:bottom] = np.where(filled, colour[:, :, band], 0)
        picture[3, top:bottom] = np.where(filled, 255, 0)
        sources[0, top:bottom][~filled] = 0
        sources[1, top:bottom] = np.where(
            filled, np.where(known[row_of[top:bottom]][:, col_of], MEASURED, INTERPOLATED), NOT_DRAWN
        )
        progress("drone.stage_ortho", bottom / rows)
    grid = Grid(shape=(rows, cols), transform=Affine(cell, 0, west, 0, -cell, north), crs=coarse.crs)
    return Orthomosaic(
        raster=Raster(data=picture, grid=grid),
        sources=Raster(data=sources, grid=grid, nodata=0),
        photos=names,
        gains={name: (float(g[0]), float(g[1]), float(g[2])) for name, g in zip(names, gains, strict=True)},
    )


def photo_index(photos: tuple[str, ...], flight_photos: tuple[Photo, ...]) -> list[dict[str, str | int]]:
    """Table from the value in `sources` to the photo: value, name, SHA-256."""
    digests = {photo.name: photo.sha256 for photo in flight_photos}
    return [{"value": number, "photo": name, "sha256": digests[name]} for number, name in enumerate(photos, start=1)]
