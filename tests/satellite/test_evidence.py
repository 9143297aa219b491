"""Chips, table and plot of one event: one stretch, every state in its own colour and word, the same bytes again."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from geoevidence.crs import parse_crs
from geoevidence.raster import Grid
from satellite.events import EventConfig, describe_event, group_pixels
from satellite.evidence import STATE_COLOURS, EvidenceStyle, chip_day, painted, write_event_evidence
from satellite.types import NODATE, BreakMap, ChangeEvent, Cube, Observed, Pace, Status

SIZE = 60
GRID = Grid(shape=(SIZE, SIZE), transform=Affine(10, 0, 500_000, 0, -10, 3_300_000), crs=parse_crs("EPSG:32650"))
DAYS = np.arange(18000, 19500, 15, dtype=np.int32)
DAY = 18900
PART = np.s_[20:30, 22:33]


def cube_of(*, states: dict[int, Observed] | None = None) -> Cube:
    """Dark green ground, white sand in PART from DAY on; `states`: position of a date -> what most of it is."""
    values = np.empty((len(DAYS), 4, SIZE, SIZE), np.float32)
    values[:] = np.array([0.03, 0.06, 0.04, 0.35], np.float32)[:, None, None]
    values[DAYS >= DAY, :, PART[0], PART[1]] = np.array([0.2, 0.25, 0.3, 0.33], np.float32)[:, None, None]
    values += np.random.default_rng(4).normal(0, 0.002, values.shape).astype(np.float32)
    observed = np.zeros((len(DAYS), SIZE, SIZE), np.uint8)
    for position, code in (states or {}).items():
        observed[position, 10:] = code
    return Cube(stored=values, observed=observed, days=DAYS, bands=("blue", "green", "red", "nir"), grid=GRID)


def described(cube: Cube, *, pace: Pace = Pace.ABRUPT) -> ChangeEvent:
    hit = np.zeros((1, SIZE, SIZE), bool)
    hit[0, PART[0], PART[1]] = True

    def dates(day: int) -> np.ndarray:
        return np.where(hit, day, NODATE).astype(np.int32)

    breaks = BreakMap(
        grid=GRID,
        first_day=int(DAYS[0]),
        last_day=int(DAYS[-1]),
        break_date=dates(DAY - 7),
        last_clear_before=dates(DAY - 15),
        first_clear_after=dates(DAY),
        magnitude=np.where(hit, -0.7, np.nan).astype(np.float32),
        magnitude_of="NDVI",
        score=np.where(hit, 30, np.nan).astype(np.float32),
        pace=np.where(hit, np.uint8(pace), np.uint8(0)),
        observations=np.full((SIZE, SIZE), len(DAYS), np.int16),
        status=np.where(hit[0], np.uint8(Status.CHANGE), np.uint8(Status.NO_CHANGE)),
    )
    (group,), _ = group_pixels(breaks, EventConfig())
    return describe_event("S-001", group, breaks, cube, EventConfig(), taken=hit[0])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_files_are_complete_and_have_the_same_bytes_again(tmp_path: Path, lang: str) -> None:
    cube = cube_of(states={70: Observed.CLOUD, 72: Observed.FAILED_READ})
    event = described(cube)
    style = EvidenceStyle(lang=lang, sensor="Sentinel-2", synthetic=True)  # type: ignore[arg-type]
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        products = write_event_evidence(tmp_path / name, event, cube, shape=GRID.shape, style=style)
        written.append({product.path: (tmp_path / name / product.path).read_bytes() for product in products})
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted(written[-1])
    assert written[0] == written[1]
    assert sorted(written[0]) == ["S-001-chip_after.png", "S-001-chip_before.png", "S-001-series.csv", "S-001-series_plot.png"]


def test_both_chips_have_one_stretch(tmp_path: Path) -> None:
    """Ground that did not change has the same colour in both, although only one of them holds white sand."""
    cube = cube_of()
    write_event_evidence(tmp_path, described(cube), cube, shape=GRID.shape, style=EvidenceStyle())
    before, after = (pixels(tmp_path / f"S-001-chip_{side}.png") for side in ("before", "after"))
    assert before.shape == after.shape
    # Most of the two pictures is unchanged ground and frame: alike but for the noise of 0.002 in 0.27 of stretch.
    apart = np.abs(before.astype(int) - after.astype(int)).max(axis=2)
    changed = (apart > 100).mean()
    assert (apart <= 25).mean() > 0.85
    assert 0.02 < changed < 0.15


def test_no_state_is_drawn_as_ground() -> None:
    image = np.full((4, 5, 4), 255, np.uint8)
    observed = np.zeros((4, 5), np.uint8)
    observed[0, :4] = [Observed.CLOUD, Observed.NOT_OBSERVED, Observed.FAILED_READ, Observed.OUTSIDE]
    result, legend = painted(image, observed, "en")
    drawn = [tuple(int(v) for v in result[0, col, :3]) for col in range(4)]
    assert drawn == [STATE_COLOURS[code] for code in STATE_COLOURS] and len(set(drawn)) == 4
    assert [colour for colour, _ in legend] == drawn and len({text for _, text in legend}) == 4
    assert (result[1:] == 255).all() and (image == 255).all()
    assert painted(image, np.zeros((4, 5), np.uint8), "en")[1] == []


def test_table_tells_the_states_apart(tmp_path: Path) -> None:
    states = {10: Observed.CLOUD, 11: Observed.NOT_OBSERVED, 12: Observed.FAILED_READ, 13: Observed.OUTSIDE}
    cube = cube_of(states=states)
    write_event_evidence(tmp_path, described(cube), cube, shape=GRID.shape, style=EvidenceStyle())
    rows = list(csv.DictReader((tmp_path / "S-001-series.csv").read_text("utf-8").splitlines()))
    assert [rows[i]["state"] for i in (9, 10, 11, 12, 13)] == ["clear", "cloud", "not_observed", "failed_read", "outside"]
    assert [int(rows[i][f"pixels_{code.name.lower()}"]) for i, code in states.items()] == [110] * 4
    assert rows[10]["NDVI"] == "" and float(rows[9]["NDVI"]) == pytest.approx(0.79, abs=0.02)
    # DAY - 15 = 18885 = 2021-09-15 is the last of the old state, DAY the first of the new one.
    parts = {date.fromisoformat(row["date"]): row["part"] for row in rows}
    assert parts[date(2021, 9, 15)] == "before" and parts[date(2021, 9, 30)] == "after"


def test_chips_are_of_the_nearest_dates_with_clear_surroundings() -> None:
    cube = cube_of()
    observed = cube.observed.copy()
    nearest = int(np.flatnonzero(DAYS < DAY)[-1])
    observed[nearest, :15] = Observed.CLOUD  # around the event, a quarter is cloud on the last date before
    rows, cols = (part.ravel() for part in np.mgrid[PART])
    clouded = replace(cube, observed=observed)
    last = date.fromordinal(int(DAYS[nearest]) + date(1970, 1, 1).toordinal())
    assert chip_day(cube, rows, cols, last=last) == nearest
    assert chip_day(clouded, rows, cols, last=last) == nearest - 1


def test_a_gradual_event_is_drawn_without_a_day(tmp_path: Path) -> None:
    cube = cube_of()
    for pace in (Pace.ABRUPT, Pace.GRADUAL):
        folder = tmp_path / pace.name
        folder.mkdir()
        write_event_evidence(folder, described(cube, pace=pace), cube, shape=GRID.shape, style=EvidenceStyle())
    plots = [pixels(tmp_path / pace.name / "S-001-series_plot.png").astype(int) for pace in (Pace.ABRUPT, Pace.GRADUAL)]
    # the dotted red line of the estimated date, from top to bottom of the axes
    red = [((plot[..., 0] > 150) & (plot[..., 1] < 90) & (plot[..., 2] < 90)).sum() for plot in plots]
    assert red[0] > 100 > red[1]
