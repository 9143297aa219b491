"""Scenes whose numbers do not fit the others': a scale or an offset that was applied twice, not at all, or wrongly.

In: a stack. Out: the same stack, with what the comparison gave for each scene, scenes that depart like a wrong scale
or offset set aside as `odd_values`, and the dates on which all scenes step to another level. About a thousand places are read (overviews or a few blocks), so haze, snow or flood
of parts of a scene decide nothing: a departure counts only where it is the same in all bands. Where too little is clear
nothing is said. The comparison cannot tell which side is right when scenes fall into two equal groups: the larger one
is kept, nor whether a step is of the ground or of how scenes were made: values are not adjusted. Method and thresholds: docs/formats/scenes.md.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoevidence.errors import CoverageError, FormatError
from satellite.assets import open_quiet
from satellite.cube import StackReader, code_table, judge
from satellite.cubefiles import SERIES
from satellite.stack import LevelStep, Stack, Storage, cell_offset, set_aside, storage_for
from satellite.types import Cube, Observed, Scene

_PLACES = 1000
"""About how many cells of a scene are looked at."""
_REDUCED, _SIDE, _WHOLE = 64, 32, 128 * 128
"""Side of the reduced copy that is used where files have overviews; else of four windows, or the whole of a small grid."""
_MIN_CLEAR = 40
"""Clear places that a scene must share with the reference to be judged."""
_MIN_SCENES = 5
"""Dates below which there is no reference to compare with."""
FACTOR = 2.5
"""A common factor beyond this (or its inverse) in every band is no change of land: wrong scales are 10 or 10,000."""
OFFSETS = (0.1, 0.2)
"""Offsets of products, reflectance: Sentinel-2 from baseline 04.00 on, Landsat Collection 2."""
_USUAL = (0.01, 0.035)
"""Least and largest scatter of a band between scenes that is taken as usual, reflectance: noise of the median of the
places, and haze and season (a larger one would be the odd scenes themselves)."""
_FIT, _MISFIT = 3.0, 5.0
"""Root mean square over bands of a departure in units of the usual scatter: at most 3 once the offset is undone, and 5 before,
so that what is undone explains the departure in all bands."""
_BAND_MISFIT, _RAGGED, _CLEAR_SHARE = {1: 0.04, -1: 0.06}, 3.0, 0.2
"""What tells an offset from cloud that was left over: every band lies within 0.04 of it (0.06 below zero, where no cloud
leads), places differ among themselves no more than three times as much as usual, and a fifth of them is clear."""
_YEAR, _PARTS, _SEASON, _SEASON_SCENES = 365.2425, 12, 60, 7
"""A scene is compared with those within so many days of the middle of its twelfth of the year, where there are so many, else
with all."""
_ROUNDS, _MIN_SIDE, _STEP_MISFIT = 4, 8, 0.4
"""Rounds of comparing; scenes that each side of a step must have; and how far from an offset, as a share of it, the step of the
medians may be in any band."""
_STEP_DAYS, _STEP_SHARE, _STEP_SIZE = 366, 0.1, 4.0
"""A step of the level: days compared on either side, least share of the usual level in every band, and least size, standard errors.
Tiles of two simulators without a step reach 0.08 in the band that moves least, with 3.6 standard errors (docs/formats/scenes.md)."""


def checked_values(stack: Stack) -> Stack:
    """The stack with a `check` of each scene that was compared, and steps of the level; odd scenes are set aside unless `keep_odd`."""
    if len(stack.days) < _MIN_SCENES:
        return stack
    days = np.array([0 if scene.acquired is None else scene.acquired.toordinal() for scene in stack.usable], np.int64)
    samples = _samples(stack)
    found = compare_scenes(samples, days)
    checks: dict[str, dict[str, str] | None] = {}
    odd: dict[str, tuple[str, str]] = {}
    for scene, (check, kind, text) in zip(stack.usable, found, strict=True):
        checks[scene.name] = check
        if kind:
            odd[scene.name] = (kind, text)
    kept = np.array([stack.spec.keep_odd or not kind for _, kind, _ in found], np.bool_)
    scenes = tuple(_judged(scene, checks, {} if stack.spec.keep_odd else odd) for scene in stack.scenes)
    left = [scene for scene in scenes if scene.status == "read"]
    if not left:
        raise CoverageError("satellite.all_odd", count=len(stack.usable))
    return replace(stack, scenes=scenes, storage=storage_for(left), steps=level_steps(samples[kept], days[kept]))


def _judged(scene: Scene, checks: dict[str, dict[str, str] | None], odd: dict[str, tuple[str, str]]) -> Scene:
    if scene.name not in checks:
        return scene
    scene = replace(scene, check=checks[scene.name])
    if scene.name in odd:
        kind, text = odd[scene.name]
        return set_aside(scene, "odd_values", f"satellite.scene_odd_{kind}", value=text)
    return scene


def _samples(stack: Stack) -> NDArray[np.float64]:
    """(scene, band, n) physical values at places spread over the grid, NaN where not clear."""
    windows = _windows(stack)
    if stack.layout in SERIES:
        with StackReader(replace(stack, scenes=_apart(stack.usable))) as reader:
            return _flat([reader.read(window) for window in windows])
    # In the order of the scenes whatever finishes first.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda scene: _sample(stack, scene, windows), stack.usable))
    return np.stack(found) if len({sample.shape for sample in found}) == 1 else _flat_windows(stack, windows)


def _sample(stack: Stack, scene: Scene, windows: list[Window]) -> NDArray[np.float64]:
    """(band, n) values of one scene, from its overviews or in the windows."""
    sample = _from_overviews(stack, scene)
    if sample is not None:
        return sample
    # Kept open: the windows may lie in one block of the file.
    with StackReader(replace(stack, scenes=(scene,)), keep_blocks=True) as reader:
        return _flat([reader.read(window) for window in windows])[0]


def _flat_windows(stack: Stack, windows: list[Window]) -> NDArray[np.float64]:
    """Where only some scenes have overviews, all are read in the same windows."""
    found = []
    for scene in stack.usable:
        with StackReader(replace(stack, scenes=(scene,)), keep_blocks=True) as reader:
            found.append(_flat([reader.read(window) for window in windows])[0])
    return np.stack(found)


def _apart(scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    """The scenes each on a day of its own, so that those of one day do not hide each other."""
    return tuple(replace(scene, acquired=date.fromordinal(1 + index)) for index, scene in enumerate(scenes))


def _windows(stack: Stack) -> list[Window]:
    rows, cols = stack.grid.shape
    if rows * cols <= _WHOLE:
        return [Window(0, 0, cols, rows)]  # type: ignore[call-arg]
    return [
        Window(left, top, min(_SIDE, cols), min(_SIDE, rows))  # type: ignore[call-arg]
        for top in (max(0, rows // 4 - _SIDE // 2), max(0, min(3 * rows // 4 - _SIDE // 2, rows - _SIDE)))
        for left in (max(0, cols // 4 - _SIDE // 2), max(0, min(3 * cols // 4 - _SIDE // 2, cols - _SIDE)))
    ]


def _flat(cubes: list[Cube]) -> NDArray[np.float64]:
    """(time, band, n) values of about `_PLACES` places of the cubes."""
    step = max(1, round((sum(cube.observed[0].size for cube in cubes) / _PLACES) ** 0.5))
    parts = [cube.values[:, :, ::step, ::step] for cube in cubes]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2).astype(np.float64)


def _from_overviews(stack: Stack, scene: Scene) -> NDArray[np.float64] | None:
    """(band, n) values of a scene from the reduced copies in its files; None where it does not fill the grid with such."""
    if scene.grid is None or cell_offset(stack.grid, scene.grid) != (0, 0) or scene.grid.shape != stack.grid.shape:
        return None
    shape = (min(_REDUCED, stack.grid.shape[0]), min(_REDUCED, stack.grid.shape[1]))
    values, state = np.zeros((len(stack.spec.bands), *shape), np.float32), np.zeros(shape, np.uint8)
    tables = {asset.nodata: code_table(stack.spec, asset.nodata) for asset in scene.assets if asset.role == "quality"}
    band = 0
    known: dict[tuple[Path, int], NDArray[Any]] = {}
    for asset in scene.assets:
        assert asset.path is not None
        target = values[band] if asset.role == "value" else None
        band += asset.role == "value"
        if (asset.path, asset.position) not in known:
            # All bands of a file at once: they may lie in the same blocks.
            positions = sorted({other.position for other in scene.assets if other.path == asset.path})
            try:
                with open_quiet(asset.path) as dataset:
                    factors = dataset.overviews(asset.position)
                    # The smallest copy in a COG is one block of 512 cells, or less.
                    if not factors or dataset.height // max(factors) > 8 * _REDUCED:
                        return None
                    raws = dataset.read(positions, out_shape=(len(positions), *shape))
            except (FormatError, RasterioError):
                return None
            known.update({(asset.path, position): raw for position, raw in zip(positions, raws, strict=True)})
        raw = known[asset.path, asset.position]
        judge(asset, raw, target, state, Storage(dtype="float32", scale=1.0, offset=0.0), tables)
    return np.where(state == Observed.CLEAR, values, np.nan).reshape(len(values), -1).astype(np.float64)


def compare_scenes(values: NDArray[np.float64], days: NDArray[np.int64]) -> list[tuple[dict[str, str] | None, str, str]]:
    """What comparing each scene with the usual scene of its season gives.

    Args:
        values: (scene, band, n) physical values at the same n places, NaN where not clear. days: (scene,) of any epoch.

    Returns:
        Per scene: the record (`places` compared, `shift` and `factor` against the median of its season as medians over
        bands, `spread` of the shift between bands, `negative` share of values) or None where too little is clear; the
        kind of departure ("", "factor" or "offset"); its size as text.
    """
    side, step = _changed_side(_compared(values, days, np.ones(len(values), np.bool_))[1], days)
    kept = ~side
    found: list[tuple[dict[str, str] | None, str, str]] = []
    # Odd scenes pull the usual scene towards them: it is made again without them until the answer stays.
    for _ in range(_ROUNDS):
        found, _ = _compared(values, days, kept)
        found = [
            (record, "offset", step) if odd else (record, kind, text)
            for odd, (record, kind, text) in zip(side, found, strict=True)
        ]
        now = np.array([not kind for _, kind, _ in found], np.bool_)
        if (now == kept).all() or now.sum() < _MIN_SCENES:
            break
        kept = now
    return found


def _changed_side(shifts: NDArray[np.float64], days: NDArray[np.int64]) -> tuple[NDArray[np.bool_], str]:
    """Scenes on the smaller side of a date on which all bands step by one of `OFFSETS`, and the step; none where none do.

    An archive that changes its way, or a reader that does not follow it, is wrong from one date on: medians of many scenes
    show that where haze and season hide it in a single one.
    """
    none = np.zeros(len(shifts), np.bool_)
    judged = np.isfinite(shifts).all(axis=1)
    if shifts.shape[1] < 3:
        return none, ""
    best, cut, size = np.inf, 0, 0.0
    for day in np.unique(days)[1:]:
        before, after = shifts[judged & (days < day)], shifts[judged & (days >= day)]
        if min(len(before), len(after)) < _MIN_SIDE:
            continue
        low, high = np.median(before, axis=0), np.median(after, axis=0)
        miss = min(float(np.abs(high - low - sign * known).max()) / known for known in OFFSETS for sign in (1, -1))
        # The date is where the two sides are each most alike.
        cost = float(np.abs(before - low).sum() + np.abs(after - high).sum())
        if miss < _STEP_MISFIT and cost < best:
            best, cut, size = cost, int(day), float(np.median(high - low))
    if not np.isfinite(best):
        return none, ""
    later = days >= cut
    odd = later if later.sum() <= (~later).sum() else ~later
    return odd, f"{size if odd is later else -size:+.2f}"


def level_steps(values: NDArray[np.float64], days: NDArray[np.int64]) -> tuple[LevelStep, ...]:
    """Dates from which on scenes lie higher or lower in all bands than in the year before, the largest of a year, in order of time.

    Args:
        values: (scene, band, n) physical values at the same n places, NaN where not clear. days: (scene,) proleptic ordinals.

    Medians of the departures from the season, over places and then over the scenes of a year on either side, are compared. Their
    standard error is that of a median, 1.2533 sigma / sqrt(n), sigma from the median absolute deviation on both sides. Fewer than
    three bands tell a step from nothing else: none is named. A change of the ground that moves most places in all bands alike
    (snow that stays, a flood over the whole area) looks the same.
    """
    if values.shape[1] < 3 or len(values) < 2 * _MIN_SIDE:
        return ()
    shifts = _compared(values, days, np.ones(len(values), np.bool_))[1]
    judged = np.isfinite(shifts).all(axis=1)
    usual = np.nanmedian(np.abs(_median(values)), axis=1) if judged.any() else np.full(values.shape[1], np.nan)
    shifts, days = shifts[judged], days[judged]
    steps = []
    for day in np.unique(days)[1:]:
        before = shifts[(days < day) & (days >= day - _STEP_DAYS)]
        after = shifts[(days >= day) & (days < day + _STEP_DAYS)]
        if min(len(before), len(after)) < _MIN_SIDE:
            continue
        low, high = np.median(before, axis=0), np.median(after, axis=0)
        sigma = 1.4826 * np.median(np.abs(np.concatenate([before - low, after - high])), axis=0)
        error = np.maximum(1.2533 * sigma * np.sqrt(1 / len(before) + 1 / len(after)), 1e-4)
        shift, size = high - low, _size(high - low, error)
        share = shift / usual
        if size >= _STEP_SIZE and ((share >= _STEP_SHARE).all() or (share <= -_STEP_SHARE).all()):
            last = int(days[days < day].max())
            sides = (len(before), len(after))
            steps.append((size, last, int(day), sides, tuple(shift.tolist()), tuple(share.tolist())))
    found: list[LevelStep] = []
    for size, last, first, scenes, moved, part in sorted(steps, key=lambda step: (-step[0], step[2])):
        if all(abs(first - other.after.toordinal()) > _STEP_DAYS for other in found):
            dates = {"before": date.fromordinal(last), "after": date.fromordinal(first)}
            found.append(LevelStep(**dates, scenes=scenes, shift=moved, share=part, size=size))
    return tuple(sorted(found, key=lambda step: step.after))


def _compared(
    values: NDArray[np.float64], days: NDArray[np.int64], kept: NDArray[np.bool_]
) -> tuple[list[tuple[dict[str, str] | None, str, str]], NDArray[np.float64]]:
    """One round of `compare_scenes`, and the shifts (scene, band); only `kept` scenes make the usual one."""
    clear = np.asarray(np.isfinite(values).all(axis=1), np.bool_)
    whole = _median(values[kept])
    known = max(1, int(np.isfinite(whole).all(axis=0).sum()))
    shifts = np.full(values.shape[:2], np.nan)
    factors, ragged = shifts.copy(), shifts.copy()
    places = np.zeros(len(values), int)
    for part in range(_PARTS):
        near = np.abs((days - (part + 0.5) * _YEAR / _PARTS + _YEAR / 2) % _YEAR - _YEAR / 2)
        inside = np.flatnonzero(near <= _YEAR / _PARTS / 2)
        if not len(inside):
            continue
        members = kept & (near <= _SEASON)
        season = _median(values[members]) if members.sum() >= _SEASON_SCENES else whole
        reference = np.where(np.isfinite(season), season, whole)
        for i in inside.tolist():
            seen = clear[i] & np.isfinite(reference).all(axis=0)
            places[i] = seen.sum()
            if places[i] < _MIN_CLEAR:
                continue
            apart = values[i][:, seen] - reference[:, seen]
            shifts[i] = np.median(apart, axis=1)
            ragged[i] = np.median(np.abs(apart - shifts[i][:, None]), axis=1)
            factors[i] = _factors(values[i][:, seen], reference[:, seen])
    judged = np.isfinite(shifts).all(axis=1)
    if not judged.any():
        return [(None, "", "")] * len(values), shifts
    usual = np.clip(1.4826 * np.median(np.abs(_nearest(shifts[judged])), axis=0), *_USUAL)
    smooth = np.maximum(np.median(ragged[judged], axis=0), 1e-4)
    found: list[tuple[dict[str, str] | None, str, str]] = []
    for i, scene in enumerate(values):
        if not judged[i]:
            found.append((None, "", ""))
            continue
        record = {
            "places": str(places[i]),
            "shift": f"{float(np.median(shifts[i])):.4f}",
            "spread": f"{float(np.ptp(shifts[i])):.4f}",
            "factor": f"{float(np.median(factors[i])):.4g}",
            "negative": f"{float((scene[:, clear[i]] < 0).mean()):.4f}",
        }
        plain = places[i] >= _CLEAR_SHARE * known and bool(np.median(ragged[i] / smooth) <= _RAGGED)
        found.append((record, *_departure(shifts[i], factors[i], usual, plain)))
    return found, shifts


def _nearest(shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(scene, band) what is left of shifts after the offset, or none, that leaves least."""
    left = np.stack([shifts - offset for offset in (0.0, *(sign * size for size in OFFSETS for sign in (1, -1)))])
    best = np.argmin(np.abs(left).mean(axis=2), axis=0)
    return left[best, np.arange(len(shifts))]


def _departure(
    shift: NDArray[np.float64], factor: NDArray[np.float64], usual: NDArray[np.float64], plain: bool
) -> tuple[str, str]:
    """("factor" or "offset", size) of a scene that departs like a wrong scale or offset, else ("", "").

    plain: enough of it is clear, and its places differ among themselves no more than usual.
    """
    if (factor > FACTOR).all() or (factor < 1 / FACTOR).all():
        return "factor", f"{float(np.median(factor)):.3g}"
    if len(shift) < 3 or not plain or _size(shift, usual) < _MISFIT:
        return "", ""
    for offset, sign in ((sign * size, sign) for size in OFFSETS for sign in (1, -1)):
        left = shift - offset
        if _size(left, usual) <= min(_FIT, 0.5 * _size(shift, usual)) and np.abs(left).max() <= _BAND_MISFIT[sign]:
            return "offset", f"{float(np.median(shift)):+.2f}"
    return "", ""


def _size(shift: NDArray[np.float64], usual: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((shift / usual) ** 2)))


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over scenes of what is finite, NaN where fewer than `_MIN_SCENES` are."""
    enough = np.isfinite(values).sum(axis=0) >= _MIN_SCENES
    return np.where(enough, np.nanmedian(np.where(enough[None], values, 0.0), axis=0), np.nan)


def _factors(mine: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of the sizes of a scene and of the reference, band by band: of medians of absolute values."""
    size = np.median(np.abs(usual), axis=1)
    return np.median(np.abs(mine), axis=1) / np.maximum(size, 1e-6)
