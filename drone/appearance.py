"""What the picture of one photo shows without understanding it: how sharp, how exposed, a fingerprint, its thumbnail beside it.

In: brightness of the whole picture (`drone.metadata.Look`). Out: `Appearance`. Blur is measured where there is texture: water, snow and
blurred ground without any are told apart by `textured`. Nothing is compared with other photos and nothing is judged here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drone.metadata import Look

TILES = (3, 4)
"""Rows and columns of squares that are looked at in full size."""
_SQUARE, _TEXTURE, _WINDOW = 256, 9.0, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """blur: (along columns, along rows), 0 sharp to 1, median over the textured squares; None with fewer than three of them.
    textured: share (1) of squares with texture. dark, bright: share (1) of pixels at the ends of the scale. median: brightness, 0-255.
    fingerprint: 256 bits as an integer. contrast: standard deviation of the 16 x 17 means it is made of, grey levels.
    thumbnail, thumbnail_turned: correlation of the EXIF thumbnail with the picture, and with the picture turned by 180 degrees, or None.
    """

    blur: tuple[float, float] | None
    textured: float
    dark: float
    bright: float
    median: float
    fingerprint: int
    contrast: float
    thumbnail: float | None
    thumbnail_turned: float | None


def appearance_of(look: Look) -> Appearance:
    """The appearance of one photo."""
    picture = look.picture
    blurs, squares = [], 0
    for square in _squares(picture):
        squares += 1
        blur = blur_of(square)
        if blur is not None:
            blurs.append(blur)
    middle = np.median(np.array(blurs), axis=0) if len(blurs) >= 3 else None
    # Every fourth pixel of every fourth row: a sixteenth of the picture tells its shares and means to far better than a percent.
    step = max(1, min(4, min(picture.shape) // 64))
    sample = np.ascontiguousarray(picture[::step, ::step])
    small = _reduced(sample, 17, 16)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    upright, turned = _likeness(sample, look.thumbnail)
    return Appearance(
        blur=None if middle is None else (float(middle[0]), float(middle[1])),
        textured=len(blurs) / max(squares, 1),
        dark=float((sample <= 2).mean()),
        bright=float((sample >= 253).mean()),
        median=float(np.median(sample)),
        fingerprint=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        contrast=float(small.std()),
        thumbnail=upright,
        thumbnail_turned=turned,
    )


def _squares(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    rows, cols = picture.shape
    side = min(_SQUARE, rows // TILES[0], cols // TILES[1])
    if side < 2 * _WINDOW:
        return []
    corners = [
        (int((r + 0.5) * rows / TILES[0] - side / 2), int((c + 0.5) * cols / TILES[1] - side / 2))
        for r in range(TILES[0])
        for c in range(TILES[1])
    ]
    return [picture[top : top + side, left : left + side] for top, left in corners]


def blur_of(square: NDArray[np.uint8]) -> tuple[float, float] | None:
    """Blur along columns and along rows, 0 sharp to 1; None without texture.

    Crete, Dolmiere, Ladret, Nicolas (2007), The blur effect: perception and estimation with a new no-reference perceptual blur metric,
    Proc. SPIE 6492: how much of the differences between neighbours survives another blur, over 9 pixels; what was blurred before
    loses little. Content counts little, so photos of the same ground differ by about 0.01.
    """
    grey = square.astype(np.float32)
    # Texture by what lies a window apart: blur takes the fine differences away, and must not pass for water. Lawn has 13 and more
    # (brighton_beach), noise on water 1 to 8.
    wide = np.abs(grey[_WINDOW:] - grey[:-_WINDOW]).mean() + np.abs(grey[:, _WINDOW:] - grey[:, :-_WINDOW]).mean()
    if wide < _TEXTURE:
        return None
    steps = [np.abs(np.diff(grey, axis=axis)) for axis in (0, 1)]
    values = []
    for axis, step in enumerate(steps):
        again = cv2.blur(grey, (1, _WINDOW) if axis == 0 else (_WINDOW, 1))
        lost = np.maximum(step - np.abs(np.diff(again, axis=axis)), 0).sum()
        total = step.sum()
        values.append(float((total - lost) / total) if total > 0 else 1.0)
    return values[0], values[1]


def _reduced(picture: NDArray[np.uint8], cols: int, rows: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(picture, (cols, rows), interpolation=cv2.INTER_AREA), np.float32)


def distance(one: Appearance, other: Appearance) -> int:
    """How many of 256 bits of the fingerprints differ: difference hash of 16 rows x 17 columns; 128 by chance, few in copies."""
    return (one.fingerprint ^ other.fingerprint).bit_count()


def _likeness(picture: NDArray[np.uint8], thumbnail: NDArray[np.uint8] | None) -> tuple[float | None, float | None]:
    """Correlation of the thumbnail with the picture, upright and turned by 180 degrees; None where there is nothing to compare.

    Cameras fit a wide picture into 160 x 120 with bars above and below; with and without them, the better counts.
    """
    if thumbnail is None or min(thumbnail.shape) < 16:
        return None, None
    rows, cols = thumbnail.shape
    bars_above = (rows - min(rows, round(cols * picture.shape[0] / picture.shape[1]))) // 2
    bars_beside = (cols - min(cols, round(rows * picture.shape[1] / picture.shape[0]))) // 2
    cuts = {(0, rows, 0, cols), (bars_above, rows - bars_above, bars_beside, cols - bars_beside)}
    best: list[tuple[float, float]] = []
    for top, bottom, left, right in sorted(cut for cut in cuts if cut[1] > cut[0] + 8 and cut[3] > cut[2] + 8):
        part = thumbnail[top:bottom, left:right].astype(np.float64)
        same = _reduced(picture, right - left, bottom - top).astype(np.float64)
        best.append((_correlation(part, same), _correlation(part, same[::-1, ::-1])))
    found = [pair for pair in best if math.isfinite(pair[0])]
    return max(found, key=max) if found else (None, None)


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else math.nan
