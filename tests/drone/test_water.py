"""Water of the demonstration flight: found, level with the truth, and no height left in it."""

from __future__ import annotations

import numpy as np
import pytest

from drone.water import DISAGREE, LEVEL, WaterConfig, find_water, mask_water
from geoevidence.errors import ConfigError
from tests.drone import sample_block as sample


@pytest.mark.slow
def test_the_river_is_found_with_its_level_and_land_is_not_called_water() -> None:
    block, surface = sample.block(sample.RIVER), sample.surface(sample.RIVER)
    water = find_water(block, surface)
    grid = surface.raster.grid
    rows, cols = np.mgrid[0 : grid.shape[0], 0 : grid.shape[1]]
    x, y = grid.transform @ (cols.ravel() + 0.5, rows.ravel() + 0.5)
    truth = sample.true_heights(np.asarray(x), np.asarray(y)).reshape(grid.shape)
    level = sample.truth()["water"]["level"]
    assert len(water.bodies) == 1 and water.bodies[0].reasons & (DISAGREE | LEVEL) == DISAGREE | LEVEL
    # The shore is sand that rises 1 in 3: cells of half a metre put the level within 0.15 m.
    assert water.bodies[0].level == pytest.approx(level, abs=0.15)
    land = np.isfinite(truth) & (truth > level + 0.3)
    assert np.count_nonzero(water.mask & land) < 0.01 * np.count_nonzero(water.mask)
    assert np.count_nonzero(water.mask & (truth <= level + 0.01)) > 0.8 * np.count_nonzero(water.mask)
    masked = mask_water(surface, water)
    assert np.isnan(masked.raster.data[0][water.mask]).all()
    np.testing.assert_array_equal(masked.raster.data[0][~water.mask], surface.raster.data[0][~water.mask])


def test_dry_ground_holds_no_water() -> None:
    block, surface = sample.block(9), sample.surface(9)
    water = find_water(block, surface, config=WaterConfig(threads=1))
    truth = sample.truth()["water"]["level"]
    assert all(body.level == pytest.approx(truth, abs=0.15) for body in water.bodies)
    again = find_water(block, surface, config=WaterConfig(threads=2))
    assert again.reasons.data.tobytes() == water.reasons.data.tobytes()


def test_the_outline_where_too_few_photos_look_is_counted() -> None:
    """A water of 3 x 2 cells: two sides behind which nobody looks, and three at the rim of the grid."""
    from drone.water import _sides

    not_judged = np.zeros((6, 7), bool)
    not_judged[2:4, 6] = True
    rows, cols = np.mgrid[2:4, 3:6]
    cells = np.column_stack([rows.ravel(), cols.ravel()])
    padded = np.pad(not_judged, 1, constant_values=True)
    assert _sides(cells, padded) == 2
    assert _sides(cells + [2, 0], padded) == 3 + 0


@pytest.mark.parametrize("setting", [{"min_views": 1}, {"dark_share": 2.0}, {"changing_factor": 0.5}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        WaterConfig(**setting)  # type: ignore[arg-type]
