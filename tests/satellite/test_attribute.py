"""From spectra of known surfaces to the classes: each is named by its own rule, and nothing is named that the data do not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.crs import parse_crs
from geoevidence.errors import ConfigError
from geoevidence.raster import Grid
from satellite.attribute import AttributeConfig, Attribution, attribute_change, cover_indices
from satellite.types import Cover, Cube, Observed

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
# Rounded reflectances of plain surfaces as field spectra have them; not those of the simulator.
WATER = (0.050, 0.055, 0.040, 0.020, 0.010, 0.006)
SILT = (0.080, 0.120, 0.135, 0.080, 0.015, 0.010)
ALGAE = (0.030, 0.080, 0.040, 0.110, 0.040, 0.020)
GREEN = (0.030, 0.060, 0.035, 0.400, 0.190, 0.090)
SOIL = (0.080, 0.110, 0.150, 0.220, 0.290, 0.240)
CONCRETE = (0.190, 0.210, 0.225, 0.255, 0.290, 0.270)
CHAR = (0.030, 0.032, 0.035, 0.045, 0.090, 0.095)
DAYS = np.arange(18000, 19500, 10, dtype=np.int32)
BREAK = 18800
CONFIG = AttributeConfig()


def cube_of(
    old: np.ndarray | tuple[float, ...], new: np.ndarray | tuple[float, ...], *, bands: tuple[str, ...] = BANDS, size: int = 12
) -> Cube:
    """Every pixel shows `old` until BREAK and `new` from then on; (band,) or (time, band)."""
    series = np.where((DAYS < BREAK)[:, None], np.broadcast_to(old, (len(DAYS), 6)), np.broadcast_to(new, (len(DAYS), 6)))
    kept = [BANDS.index(name) for name in bands]
    values = np.broadcast_to(series[:, kept, None, None], (len(DAYS), len(kept), size, size)).astype(np.float32)
    grid = Grid(shape=(size, size), transform=Affine(10, 0, 500000, 0, -10, 3300000), crs=parse_crs("EPSG:32650"))
    observed = np.zeros((len(DAYS), size, size), np.uint8)
    return Cube(stored=values, observed=observed, days=DAYS, bands=bands, grid=grid)


def attributed(cube: Cube, config: AttributeConfig = CONFIG, **limits: int | None) -> Attribution:
    inside = np.zeros(cube.grid.shape, bool)
    inside[3:9, 3:9] = True
    period: dict[str, int | None] = {"since": None, "until": None, **limits}
    return attribute_change(cube, inside, before=BREAK - 10, after=BREAK, config=config, **period)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spectrum, cover",
    [
        (WATER, Cover.WATER),
        (SILT, Cover.TURBID),
        (ALGAE, Cover.TURBID),
        (GREEN, Cover.VEGETATION),
        (SOIL, Cover.BARE),
        (CONCRETE, Cover.BUILT),
        (CHAR, Cover.UNKNOWN),
    ],
)
def test_plain_surfaces_are_named_on_either_side(spectrum: tuple[float, ...], cover: Cover) -> None:
    first, second = attributed(cube_of(spectrum, GREEN)), attributed(cube_of(GREEN, spectrum))
    assert (first.before.cover, first.after.cover) == (cover, Cover.VEGETATION)
    assert (second.before.cover, second.after.cover) == (Cover.VEGETATION, cover)
    assert (second.after.margin >= 1) == (cover is not Cover.UNKNOWN)
    assert second.water_level == (cover in (Cover.WATER, Cover.TURBID))


def test_a_field_is_vegetation_although_it_is_bare_most_of_the_year() -> None:
    season = np.mod(DAYS, 365.2425)
    green = (season > 160) & (season < 270)
    field = np.where(green[:, None], GREEN, SOIL)
    found = attributed(cube_of(field, SOIL))
    assert (found.before.cover, found.after.cover) == (Cover.VEGETATION, Cover.BARE)
    assert found.before.indices["NDVI_swing"].value > 0.5 > found.after.indices["NDVI_swing"].value


def test_bare_ground_seen_in_winter_only_is_not_named_unless_it_was_green_in_winter() -> None:
    # Until the end of the series the new state is seen for four months; they were bare in other years as well.
    season = np.mod(DAYS, 365.2425)
    then = np.mod(np.arange(BREAK, BREAK + 120), 365.2425)
    fallow = np.isin(np.round(season), np.round(then))
    fallow = np.array([np.abs(((s - then + 182.6) % 365.2425) - 182.6).min() < 12 for s in season])
    field = np.where(fallow[:, None], SOIL, GREEN)
    found = attributed(cube_of(field, SOIL), until=BREAK + 110)
    assert found.before.cover is Cover.VEGETATION
    assert (found.after.cover, found.after.reason) == (Cover.UNKNOWN, "satellite.cover_part_of_year")
    assert attributed(cube_of(GREEN, SOIL), until=BREAK + 110).after.cover is Cover.BARE


def test_ground_that_is_flooded_at_times_is_not_named() -> None:
    summer = np.mod(DAYS, 365.2425) < 180
    found = attributed(cube_of(np.where(summer[:, None], WATER, SOIL), SOIL))
    assert found.before.cover is Cover.UNKNOWN and found.before.reason == "satellite.cover_flooded"
    assert found.before.water_share == pytest.approx(0.5, abs=0.06) and found.after.water_share == 0
    assert found.water_level


def test_water_next_to_the_event_is_named_and_dry_land_is_not() -> None:
    cube = cube_of(GREEN, SOIL)
    values = cube.stored.copy()
    values[:, :, :, 9:] = np.array(WATER, np.float32)[:, None, None]
    beside = attributed(replace(cube, stored=values))
    assert beside.water_level and beside.after.cover is Cover.BARE
    assert not attributed(cube).water_level


def test_missing_bands_few_dates_and_one_index_are_said_not_guessed() -> None:
    four = attributed(cube_of(SOIL, WATER, bands=("blue", "green", "red", "nir")))
    assert (four.before.cover, four.before.reason) == (Cover.UNKNOWN, "satellite.cover_missing_bands")
    assert four.after.cover is Cover.WATER  # NDWI is enough
    two = attributed(cube_of(GREEN, SOIL, bands=("red", "nir")))
    assert (two.before.cover, two.after.cover, two.after.water_share) == (Cover.VEGETATION, Cover.UNKNOWN, None)
    few = attributed(cube_of(GREEN, SOIL), until=BREAK + 20)
    assert (few.after.cover, few.after.reason, few.after.dates) == (Cover.UNKNOWN, "satellite.cover_few_dates", 3)
    plain = cube_of(GREEN, SOIL)
    ndvi = (plain.stored[:, 3:4] - plain.stored[:, 2:3]) / (plain.stored[:, 3:4] + plain.stored[:, 2:3])
    index = attributed(replace(plain, stored=ndvi, bands=("NDVI",)))
    assert (index.before.cover, index.after.cover) == (Cover.VEGETATION, Cover.UNKNOWN)
    other = attributed(replace(plain, stored=ndvi, bands=("EVI2",)))
    assert (other.before.cover, other.after.cover) == (Cover.UNKNOWN, Cover.UNKNOWN)


def test_another_change_ends_what_is_looked_at() -> None:
    second = np.where((DAYS < BREAK + 150)[:, None], SOIL, WATER)
    cube = cube_of(GREEN, second)
    assert attributed(cube, until=BREAK + 140).after.cover is Cover.BARE
    assert attributed(cube).after.cover is not Cover.BARE
    early = np.where((DAYS < BREAK - 300)[:, None], WATER, GREEN)
    assert attributed(cube_of(early, SOIL), since=BREAK - 300).before.cover is Cover.VEGETATION


def test_values_within_the_margin_are_unknown_and_cloud_is_never_used() -> None:
    # NDVI of 0.42 lies above the limit of 0.40, but not by the margin of 0.05.
    near = (0.05, 0.08, 0.145, 0.355, 0.25, 0.2)
    found = attributed(cube_of(near, SOIL))
    assert (found.before.cover, found.before.reason) == (Cover.UNKNOWN, "satellite.cover_near_limit")
    assert 0 < found.before.margin < 1
    cube = cube_of(GREEN, SOIL)
    observed = cube.observed.copy()
    observed[::2] = Observed.CLOUD
    values = cube.stored.copy()
    values[::2] = 0.6
    clouded = attributed(replace(cube, stored=values, observed=observed))
    assert (clouded.before.cover, clouded.after.cover) == (Cover.VEGETATION, Cover.BARE)
    assert clouded.before.dates == pytest.approx(attributed(cube).before.dates / 2, abs=1)


@settings(max_examples=25, deadline=None)
@given(
    share=st.floats(0, 1),
    pair=st.sampled_from([(WATER, SOIL), (GREEN, SOIL), (SOIL, CONCRETE), (WATER, GREEN), (CONCRETE, GREEN)]),
)
def test_a_mixture_is_called_what_one_of_its_parts_is_or_not_at_all(
    share: float, pair: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    mixed = tuple(share * a + (1 - share) * b for a, b in zip(*pair, strict=True))
    covers = {attributed(cube_of(part, GREEN)).before.cover for part in pair}
    # A mixture of water and bright ground is grey, one of water and plants is dark: neither may be named from that.
    assert attributed(cube_of(mixed, GREEN)).before.cover in covers | {Cover.UNKNOWN, Cover.BUILT, Cover.BARE, Cover.TURBID}


def test_shown_values_belong_to_the_rule() -> None:
    found = attributed(cube_of(GREEN, SOIL))
    assert [name for name, _ in cover_indices(found.before)] == ["NDVI_high", "NDVI_swing", "MNDWI"]
    assert [name for name, _ in cover_indices(found.after)] == ["NDVI_high", "BSI", "NDRB", "brightness"]
    assert found.after.indices["BSI"].value == pytest.approx((0.29 + 0.15 - 0.22 - 0.08) / (0.29 + 0.15 + 0.22 + 0.08), abs=1e-6)


def test_settings_out_of_range_are_refused() -> None:
    for change in ({"green_margin": 0.0}, {"min_months": 13}, {"water_share": 2.0}, {"before_days": 1}):
        with pytest.raises(ConfigError) as caught:
            AttributeConfig(**change)  # type: ignore[arg-type]
        assert caught.value.message_id == "satellite.setting_out_of_range"
