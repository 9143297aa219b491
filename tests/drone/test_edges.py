"""Depth edges: a box before a ground, drawn from its true disparities; the map given is the one that large windows make of it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from drone.edges import settle_edges

SIZE, GROUND, BOX = (90, 110), 4.0, 18.0
SHIFTS = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.7, 0.7))


def _texture(seed: int, middle: float) -> np.ndarray:
    """Smooth grey texture on a larger frame, 1/8 levels."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(SIZE[0] + 120, SIZE[1] + 120)), 1.2)
    return middle + 160 * field / field.std()


def _picture(shift: tuple[float, float], ground: np.ndarray, roof: np.ndarray) -> np.ndarray:
    """What a camera shows in which a point of disparity d lies d * shift px (col, row) further than in the reference."""
    row, col = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)

    def seen(texture: np.ndarray, disparity: float) -> np.ndarray:
        return ndimage.map_coordinates(texture, [row - disparity * shift[1] + 60, col - disparity * shift[0] + 60], order=1)

    r, c = row - BOX * shift[1], col - BOX * shift[0]
    on_box = (r >= 30) & (r < 60) & (c >= 35) & (c < 75)
    return np.rint(np.where(on_box, seen(roof, BOX), seen(ground, GROUND))).astype(np.int16)


def _settled(ground: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Map given, map settled, doubt, and where the box truly is. The upper layer is given 5 px too wide."""
    roof = _texture(2, 1500.0)
    truth = np.zeros(SIZE, bool)
    truth[30:60, 35:75] = True
    given = np.where(ndimage.binary_dilation(truth, np.ones((11, 11))), BOX, GROUND).astype(np.float32)
    A = np.repeat(np.eye(3, dtype=np.float32)[None], len(SHIFTS), axis=0)
    b = np.array([[*shift, 0.0] for shift in SHIFTS], np.float32)
    stack = np.stack([_picture(shift, ground, roof) for shift in SHIFTS])
    reference = _picture((0.0, 0.0), ground, roof)
    found, doubted = settle_edges(reference, stack, A, b, given, 1.0, reach=10, jump=2.0, radius=2, places=1, min_likeness=0.4)
    return given, found, doubted, truth


def test_ground_beside_a_wall_gets_its_own_height_back() -> None:
    given, found, doubted, truth = _settled(_texture(1, 600.0))
    ring = (given == BOX) & ~truth
    expected = np.where(truth, BOX, GROUND)
    wrong = np.abs(found - expected) > 1.5
    # Hidden in two of five neighbours at most: the others tell. Two pixels in a hundred may fall to chance.
    assert wrong[ring].mean() < 0.02
    assert not wrong[truth & ~doubted].any()
    # Away from the edge nothing moves.
    far = ndimage.binary_erosion(given == GROUND, np.ones((25, 25)), border_value=1)
    np.testing.assert_array_equal(found[far], given[far])
    assert not doubted[far].any() and doubted[ring].mean() < 0.1


def test_ground_without_texture_is_doubted_not_invented() -> None:
    given, _, doubted, truth = _settled(np.full((SIZE[0] + 120, SIZE[1] + 120), 600.0))
    ring = ndimage.binary_dilation(truth, np.ones((9, 9))) & ~ndimage.binary_dilation(truth, np.ones((5, 5)))
    assert doubted[ring].mean() > 0.95
    assert not doubted[ndimage.binary_erosion(truth, np.ones((5, 5)))].any()
    assert given.shape == doubted.shape


def test_a_surface_without_edges_stays_as_it_is() -> None:
    row, col = np.mgrid[: SIZE[0], : SIZE[1]]
    slope = (5 + 0.2 * row + 0.1 * col).astype(np.float32)
    grey = _texture(3, 900.0)[: SIZE[0], : SIZE[1]].astype(np.int16)
    A, b = np.eye(3, dtype=np.float32)[None], np.array([[1, 0, 0]], np.float32)
    found, doubted = settle_edges(grey, grey[None], A, b, slope, 1.0, reach=10, jump=2.0, radius=2, places=1, min_likeness=0.4)
    np.testing.assert_array_equal(found, slope)
    assert not doubted.any()
