"""The orthomosaic: true places on the ground come out where they are, things stay whole, invented ground is marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from scipy import ndimage

from drone.camera import project
from drone.ortho import INTERPOLATED, MEASURED, NOT_DRAWN, OrthoConfig, Orthomosaic, build_orthomosaic, fill_ground, photo_index
from drone.types import SurfaceModel
from geoevidence.errors import ConfigError
from geoevidence.raster import Grid, Raster
from tests.drone import crown_scene as crown
from tests.drone import sample_block as sample

PHOTOS = 9


def test_targets_lie_at_their_coordinates() -> None:
    """The painted targets (0.6 m, quarters black and white) are found where they were surveyed, within one cell."""
    mosaic = sample.mosaic(PHOTOS)
    grey = mosaic.raster.data[:3].mean(axis=0)
    half = round(0.3 / mosaic.raster.grid.resolution[0])
    step = np.arange(-half, half) + 0.5
    quarters = np.sign(-np.outer(step, step))
    found = 0
    for target in sample.truth()["targets"].values():
        col, row = ~mosaic.raster.grid.transform @ tuple(target["position"][:2])
        corner_row, corner_col = round(row), round(col)
        inside = half + 4 < corner_row < grey.shape[0] - half - 4 and half + 4 < corner_col < grey.shape[1] - half - 4
        # Where the ground was only continued, the picture claims no place.
        if not inside or mosaic.sources.data[1, corner_row, corner_col] != MEASURED:
            continue
        scores = {}
        for dy in range(-4, 5):
            for dx in range(-4, 5):
                r, c = corner_row + dy, corner_col + dx
                part = grey[r - half : r + half, c - half : c + half]
                scores[dx, dy] = float(np.corrcoef(part.ravel(), quarters.ravel())[0, 1])
        dx, dy = max(scores, key=scores.__getitem__)
        assert abs(dx) <= 1 and abs(dy) <= 1
        found += 1
    assert found >= 5


def test_a_level_picture_is_the_photo_seen_through_the_camera() -> None:
    """On the true surface every cell has the colour that its source photo has at the projected place."""
    import cv2

    from drone.dense import read_photo

    block, mosaic, surface = sample.block(PHOTOS), sample.mosaic(PHOTOS), sample.surface(PHOTOS)
    photos = {photo.name: photo for photo in block.flight.photos}
    rng = np.random.default_rng(1)
    rows, cols = np.nonzero(mosaic.sources.data[1] == MEASURED)
    pick = rng.choice(len(rows), 400, replace=False)
    rows, cols = rows[pick], cols[pick]
    x, y = mosaic.raster.grid.transform @ (cols + 0.5, rows + 0.5)
    c, r = ~surface.raster.grid.transform @ (x, y)
    z = surface.raster.data[0][r.astype(int), c.astype(int)]
    differences = []
    for value, name in enumerate(mosaic.photos, start=1):
        mine = (mosaic.sources.data[0, rows, cols] == value) & np.isfinite(z)
        if not mine.any():
            continue
        pixels = project(next(iter(block.cameras.values())), block.poses[name], np.column_stack([x, y, z])[mine])
        picture = read_photo(photos[name])
        at = pixels.astype(np.float32) - 0.5
        seen = cv2.remap(picture, at[:, None, 0], at[:, None, 1], cv2.INTER_LINEAR)[:, 0].astype(float)
        camera = next(iter(block.cameras.values()))
        q = np.sum((pixels - np.array(camera.size) / 2) ** 2, axis=1) / (np.sum(np.square(camera.size)) / 4)
        a, b, c_ = mosaic.fall_off[camera.id]
        light = np.exp(q * (a + q * (b + q * c_)))[:, None]
        toned = 128 * (seen / 128) ** mosaic.contrast[name]
        expected = np.clip(toned * light * np.array(mosaic.gains[name]), 0, 255)
        differences.append(np.abs(mosaic.raster.data[:3, rows[mine], cols[mine]].T - expected).mean(axis=1))
    # Cubic against linear sampling and blends along seams differ on edges; the middle of all cells does not.
    assert np.median(np.concatenate(differences)) < 3.0


def test_every_drawn_cell_names_its_photo_and_its_support() -> None:
    mosaic = sample.mosaic(PHOTOS)
    drawn = mosaic.raster.data[3] == 255
    assert set(np.unique(mosaic.raster.data[3])) <= {0, 255}
    assert np.array_equal(mosaic.sources.data[0] > 0, drawn)
    assert np.array_equal(mosaic.sources.data[1] != NOT_DRAWN, drawn)
    assert mosaic.sources.data[0].max() <= len(mosaic.photos)
    table = photo_index(mosaic.photos, sample.block(PHOTOS).flight.photos)
    assert [entry["value"] for entry in table] == list(range(1, PHOTOS + 1))


def test_support_follows_the_surface_model() -> None:
    mosaic, surface = sample.mosaic(PHOTOS), sample.surface(PHOTOS)
    rows, cols = np.nonzero(mosaic.sources.data[1])
    x, y = mosaic.raster.grid.transform @ (cols + 0.5, rows + 0.5)
    c, r = ~surface.raster.grid.transform @ (x, y)
    known = np.isfinite(surface.raster.data[0][r.astype(int), c.astype(int)])
    support = mosaic.sources.data[1, rows, cols]
    assert np.all(support[~known] == INTERPOLATED)
    # but for speckles that no photo surely shows
    assert 0.999 < np.mean(support[known] == MEASURED) <= 1


def test_speckles_are_small_and_inside() -> None:
    from drone.ortho import _speckles

    labels = np.ones((40, 40), np.uint16)
    labels[5, 5:8], labels[20:30, 20:30], labels[:, 39] = 0, 0, 0
    drawable = np.ones((40, 40), bool)
    drawable[:, 39] = False
    found = _speckles(labels, drawable, 0.1)
    assert found[5, 5:8].all() and found.sum() == 3


def test_without_reach_only_measured_ground_is_drawn() -> None:
    mosaic = build_orthomosaic(sample.block(PHOTOS), sample.surface(PHOTOS), config=OrthoConfig(reach=0.0))
    assert not (mosaic.sources.data[1] == INTERPOLATED).any()
    assert (mosaic.sources.data[1] == MEASURED).any()


def test_a_wall_hides_the_ground_behind_it() -> None:
    """A cell is not drawn from a photo whose line of sight passes through something higher."""
    from drone.ortho import _lines_of_sight, _visible

    block = sample.block(PHOTOS)
    name = sorted(block.poses)[0]
    line = _lines_of_sight(block, (name,), 0.0)[0]
    centre = block.poses[name].C
    west, north, cell = np.floor(centre[0]) - 20, np.floor(centre[1]) + 20, 0.1
    ground = np.zeros((400, 400), np.float32)
    wall_col = int((centre[0] + 8 - west) / cell)
    ground[:, wall_col : wall_col + 2] = 3.0
    datum = centre[2] - 40.0
    seen = _visible(line, ground, west, north, cell, datum, 3.0, np.ones(ground.shape, bool), 0.15, 0, 400, 0, 400)
    row = int((north - centre[1]) / cell)
    # The wall, 3 m high at 8 m from below a camera 40 m up, hides the ground up to 8 * 40 / 37 = 8.65 m (less the tolerance).
    behind, beyond = int((centre[0] + 8.4 - west) / cell), int((centre[0] + 8.9 - west) / cell)
    assert not seen[row, behind]
    assert seen[row, beyond] and seen[row, wall_col - 3]
    # a part of the ground gives the same cells
    part = _visible(line, ground, west, north, cell, datum, 3.0, np.ones(ground.shape, bool), 0.15, 100, 300, 150, 390)
    np.testing.assert_array_equal(part, seen[100:300, 150:390])


def test_ground_is_continued_below_things_and_never_replaces_heights() -> None:
    z = np.fromfunction(lambda r, c: 10 + 0.01 * c, (200, 300))
    z[80:120, 100:160] = np.nan
    filled = fill_ground(z, 0.1)
    assert np.array_equal(filled[np.isfinite(z)], z[np.isfinite(z)])
    hole = filled[80:120, 100:160]
    expected = np.fromfunction(lambda r, c: 10 + 0.01 * (c + 100), hole.shape)
    # A slope of 0.1 over a hole of 6 m: continued to a few centimetres, no spikes.
    assert np.max(np.abs(hole - expected)) < 0.15


@pytest.mark.slow
def test_threads_change_no_byte() -> None:
    one = build_orthomosaic(sample.block(PHOTOS), sample.surface(PHOTOS), config=OrthoConfig(threads=1))
    two = build_orthomosaic(sample.block(PHOTOS), sample.surface(PHOTOS), config=OrthoConfig(threads=2))
    assert one.raster.data.tobytes() == two.raster.data.tobytes()
    assert one.sources.data.tobytes() == two.sources.data.tobytes()


def _seen_by(photos: int, places: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A chain of photos, each sharing ground with its neighbours only: (place, photo) of each sample, sorted by place."""
    width = 2 * places // (photos + 1)
    where = [np.arange(i * width // 2, i * width // 2 + width) for i in range(photos)]
    place, photo = np.concatenate(where), np.repeat(np.arange(photos), width)
    order = np.lexsort((photo, place))
    return place[order], photo[order]


def test_exposure_steps_are_levelled() -> None:
    """Gains bring the same ground to the same brightness, also with a tenth of the samples showing something else."""
    from drone.ortho import level

    rng = np.random.default_rng(2)
    place, photo = _seen_by(6, 2100, rng)
    ground, exposure = rng.normal(4.5, 0.4, 2100), rng.normal(0, 0.2, 6)
    logs = ground[place] + exposure[photo] + rng.normal(0, 0.03, len(place))
    odd = rng.random(len(logs)) < 0.1
    logs[odd] += rng.normal(0, 1, odd.sum())
    gains, _, _ = level(place, photo, logs, 6, 0.01)
    # 600 samples a pair of noise 0.03: 0.002 a step, five steps along the chain
    assert np.std(gains + exposure) < 0.015 < np.std(exposure)


def test_fall_off_is_told_from_exposure() -> None:
    """A lens that darkens by exp(-0.3 q) towards its corners, and photos of other exposures: both come out."""
    from drone.ortho import level

    rng = np.random.default_rng(3)
    place = np.repeat(np.arange(4000), 4)
    photo = np.argsort(rng.random((4000, 8)), axis=1)[:, :4]
    photo.sort(axis=1)
    photo = photo.ravel()
    radius, exposure = rng.uniform(0, 1, len(place)), rng.normal(0, 0.2, 8)
    logs = rng.normal(4.5, 0.4, 4000)[place] + exposure[photo] - 0.3 * radius + rng.normal(0, 0.03, len(place))
    gains, fall_off, _ = level(place, photo, logs, 8, 0.01, radius, np.zeros(len(place), np.int64), 1, 0.01)
    q = np.linspace(0, 1, 11)
    curve = q * (fall_off[0, 0] + q * (fall_off[0, 1] + q * fall_off[0, 2]))
    np.testing.assert_allclose(curve, 0.3 * q, atol=0.01)
    assert np.std(gains + exposure) < 0.005


def test_seams_go_where_photos_agree() -> None:
    """Two photos that differ but for a winding line: the seam follows the line; what one photo does not see stays with the other."""
    from drone.ortho import _flood

    rows, cols = 60, 90
    line = (45 + 12 * np.sin(np.arange(rows) / 9)).astype(int)
    differs = np.full((rows, cols), 80, np.uint8)
    for beside in (-1, 0, 1):
        differs[np.arange(rows), line + beside] = 0
    labels = np.where(np.arange(cols) < 45, 1, 2).astype(np.uint16)[None].repeat(rows, axis=0)
    led = np.zeros((rows, cols), np.uint16)
    led[:, :10], led[:, -10:] = 1, 2
    boxes = np.array([[0, rows, 0, cols], [0, rows, 0, cols]])
    seen = np.ones((2, rows, cols), bool)
    seen[1, 20:25, 20:70] = False
    bits = [np.packbits(part, axis=1) for part in seen]
    offsets = np.array([0, bits[0].size, bits[0].size + bits[1].size])
    _flood(led, labels, differs, boxes, offsets, np.concatenate([part.ravel() for part in bits]))
    assert np.all(led > 0)
    free = np.r_[0:18, 27:rows]
    edge = (led[free] == 1).sum(axis=1)
    # the line is three cells wide
    assert np.all(np.abs(edge - line[free] - 0.5) <= 1.5)
    assert np.all(led[20:25, 20:70] == 1)


def test_a_photo_at_odds_with_the_others_is_not_drawn() -> None:
    from drone.ortho import _at_odds

    rng = np.random.default_rng(4)
    stack = np.full((5, 20, 20, 3), 120, np.int16) + rng.integers(-6, 7, (5, 20, 20, 3))
    stack[2, 5:10, 5:10] = 220  # a car that passed
    seen = np.ones((5, 20, 20), bool)
    seen[3:, :, 15:] = False
    known = np.ones((20, 20), bool)
    odd = _at_odds(stack.astype(np.uint8), seen, known, 24, 5.0)
    assert odd[2, 5:10, 5:10].all() and odd.sum() == 25
    # with two photos nobody knows which is right; nor where the height is not known
    seen[2:] = False
    assert not _at_odds(stack.astype(np.uint8), seen, known, 24, 5.0).any()
    assert not _at_odds(stack.astype(np.uint8), np.ones((5, 20, 20), bool), ~known, 24, 5.0).any()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError):
        OrthoConfig(border=0.5)


def test_a_surface_no_photo_shows_is_an_error() -> None:
    from geoevidence.errors import CoverageError

    grid = Grid(shape=(20, 20), transform=Affine(0.5, 0, 0, 0, -0.5, 0), crs=sample.block(PHOTOS).flight.crs)
    raster = Raster(data=np.zeros((1, 20, 20), np.float32), grid=grid, nodata=float("nan"))
    far = SurfaceModel(raster=raster, kind="dsm", height_kind="ellipsoidal", standard_uncertainty=None, density=None)
    with pytest.raises(CoverageError):
        build_orthomosaic(sample.block(PHOTOS), far)


def _crown_shown(mosaic: Orthomosaic) -> np.ndarray:
    """Cells that show the crown: dark red, unlike the ground."""
    return mosaic.raster.data[0] < 0.75 * mosaic.raster.data[1]


def test_a_crown_across_a_photo_border_comes_whole_from_one_photo(tmp_path: Path) -> None:
    """The line of equal view of two photos passes through a crown without heights, and no seam does."""
    block, surface = crown.crown_block(tmp_path)
    mosaic = build_orthomosaic(block, surface)
    shown = ndimage.binary_opening(_crown_shown(mosaic), structure=np.ones((3, 3)))
    values, counts = np.unique(mosaic.sources.data[0][shown], return_counts=True)
    chosen = int(values[np.argmax(counts)])
    assert counts.max() > 0.99 * counts.sum()
    # Drawn on the ground a disc of radius 3 m, 14 m up under a camera at 40 m, has the radius 4.6 m: all of it, and only once.
    whole = np.pi * (crown.CROWN * crown.FLIGHT / (crown.FLIGHT - crown.HEIGHT)) ** 2
    # the noise of the crown passes the test of colour in all but its darkest specks
    assert np.count_nonzero(shown) * crown.GSD**2 == pytest.approx(whole, rel=0.05)
    # It stands where that photo sees it: moved away from the photo by 14 / 26 of the way to it.
    rows, cols = np.nonzero(shown)
    x, y = mosaic.raster.grid.transform @ (cols.mean() + 0.5, rows.mean() + 0.5)
    place = crown.PLACES[chosen - 1]
    lean = crown.HEIGHT / (crown.FLIGHT - crown.HEIGHT)
    assert x - crown.EAST == pytest.approx(-lean * place[0], abs=0.15)
    assert y - crown.NORTH == pytest.approx(-lean * place[1], abs=0.15)
    assert chosen in (1, 2)  # the two that look down on it most steeply


def test_ground_hidden_by_a_leaning_crown_is_not_called_measured(tmp_path: Path) -> None:
    block, surface = crown.crown_block(tmp_path)
    mosaic = build_orthomosaic(block, surface, config=OrthoConfig(threads=1))
    support, shown = mosaic.sources.data[1], ndimage.binary_opening(_crown_shown(mosaic), structure=np.ones((3, 3)))
    rows, cols = np.mgrid[: support.shape[0], : support.shape[1]]
    x, y = mosaic.raster.grid.transform @ (cols + 0.5, rows + 0.5)
    measured = np.hypot(x - crown.EAST, y - crown.NORTH) > crown.EMPTY + 2 * crown.CELL
    # Windows of 1.4 m decide: a rim is left open, and where edges of the crown in two photos fall together they look alike (0.06).
    inner, outer = ndimage.binary_erosion(shown, iterations=4), ndimage.binary_dilation(shown, iterations=8)
    assert np.count_nonzero(inner & measured) * crown.GSD**2 > 10
    assert np.mean(support[inner & measured] == INTERPOLATED) > 0.85
    assert np.mean(support[~outer & measured & (support > 0)] == MEASURED) > 0.99
    again = build_orthomosaic(block, surface, config=OrthoConfig(threads=2))
    assert again.raster.data.tobytes() == mosaic.raster.data.tobytes()
    assert again.sources.data.tobytes() == mosaic.sources.data.tobytes()


def test_contrast_is_told_from_exposure() -> None:
    """Photos whose contrast differs by a tenth: it comes out, and the contrast of the whole stays."""
    from drone.ortho import level

    rng = np.random.default_rng(5)
    place = np.repeat(np.arange(4000), 4)
    photo = np.argsort(rng.random((4000, 8)), axis=1)[:, :4]
    photo.sort(axis=1)
    photo = photo.ravel()
    exposure, contrast = rng.normal(0, 0.2, 8), rng.normal(1, 0.1, 8)
    ground = rng.normal(4.5, 0.4, 4000)[place]
    middle = np.log(128)
    logs = (ground - exposure[photo] - middle) / contrast[photo] + middle + rng.normal(0, 0.02, len(place))
    gains, _, found = level(place, photo, logs, 8, 0.01, contrast_pull=0.01)
    assert np.mean(found) == pytest.approx(1, abs=1e-4)
    # Noise of 0.02 against a spread of 0.4 lowers a slope by its square, 0.25 %; 2000 samples a photo give 0.001.
    np.testing.assert_allclose(found, contrast / contrast.mean(), atol=0.006)
    assert np.std(gains - exposure / contrast.mean()) < 0.01
    assert np.all(level(place, photo, logs, 8, 0.01)[2] == 1)
