"""Ours, pyxccd and nrt on the real sets: what they flag, how far they agree, and blind sheets to count precision by eye.

    python bench/satellite_real.py [--out DIR] [--data DIR] [--sets NAME ...] [--sheets all|new|none]    run, write sheets and key
    python bench/satellite_real.py --draw [--sheets all|new] [--out DIR]              sheets and key again, from the dates in DIR
    python bench/satellite_real.py --record NAME=ANSWERS.txt [--out DIR]                                 note what was counted
    python bench/satellite_real.py --score [--out DIR]                                                   join counts and key

In: the satellite sets of the shared data, `bench/real_counts.csv` (answers by place and date, made without the key). Out: tables on
stdout; in DIR the sheets, `key_<set>.json` (which detectors flagged an item) and the dates found. Every detector gets the same
clear observations, with the settings chosen in `bench/satellite_adapters.py` on simulated tiles, none on these sets.
It will not judge: precision is what an observer counted, and places without an answer are said to have none.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import satellite
from bench.satellite_adapters import DETECTORS, NODATE, ORDINAL, SCALE, Bands, Block, Detector, Found
from satellite.indices import band_roles

COUNTS = Path(__file__).with_name("real_counts.csv")
EPOCH = np.datetime64("1970-01-01")
SEED = 20260
WITHIN = 60
"""Days within which two detectors say the same."""
LATE = 150
"""Days within which a detector has found a change that another one dated: some confirm months later."""
ANSWERS = {"y": "change", "n": "no change", "u": "cannot tell"}
NRT = ("MoSum (nrt)", "CCDC (nrt)", "EWMA (nrt)", "IQR (nrt)")
PYXCCD = ("COLD", "S-CCD (pyxccd)")
NAMES = ("ours", *PYXCCD, *NRT)
HALF = 20
"""Half width of a chip, px."""
ZOOM = 6
SIZE = ZOOM * (2 * HALF + 1)
PLOT = 472
"""Width of the plot, px."""
PER_SHEET = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """One real set: the observations all detectors get, and what the pictures show.

    block: reflectance or index. ndvi: (time, y, x), NaN = not clear. second: another line of the plot with its name and the value
    at the top of the plot, or None. picture: three band positions, or one. limits: of the picture's bands. strip: the set is one row of pixels.
    sample: flagged pixels drawn for ours and pyxccd, and for each nrt detector. history_years: that nrt fits.
    """

    name: str
    block: Block
    ndvi: NDArray[np.float32]
    second: tuple[str, NDArray[np.float32], float] | None
    picture: tuple[int, ...]
    limits: tuple[tuple[float, float], ...]
    sample: tuple[int, int]
    strip: bool = False
    history_years: int = 2

    @property
    def shape(self) -> tuple[int, int]:
        return self.ndvi.shape[1], self.ndvi.shape[2]

    @property
    def clear(self) -> NDArray[np.bool_]:
        return np.isfinite(self.ndvi)


# ------------------------------------------------------------------------------------------------ the sets


def _ndvi(values: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    roles = band_roles(names)
    nir, red = values[:, roles["nir"]], values[:, roles["red"]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(nir + red > 0, (nir - red) / (nir + red), np.nan).astype(np.float32)


def _masked(values: NDArray[np.float32], clear: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Not clear where the mask says so, and where any band is not between 0 and 1.6: what detectors get is the same for all."""
    with np.errstate(invalid="ignore"):
        good = clear & ((values > 0) & (values < 1.6)).all(axis=1)
    return np.where(good[:, None], values, np.float32(np.nan)).astype(np.float32)


def _days(times: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray((times.astype("datetime64[D]") - EPOCH).astype(np.int64))


def romania(data: Path, metres: int) -> Site:
    """SCL 4, 5 and 7 are clear (vegetation, bare, unclassified), as the set's README says."""
    import xarray as xr

    names = {10: ("B2", "B3", "B4", "B8"), 20: ("B3", "B4", "B8A", "B11")}[metres]
    with xr.open_dataset(data / "s2_nrt_romania" / f"sentinel2_cube_subset_romania_{metres}m.nc") as cube:
        raw = np.stack([cube[name].values for name in names], axis=1)
        clear = np.isin(cube["SCL"].values, (4, 5, 7))
        days = _days(cube["time"].values)
    values = _masked(raw * np.float32(1 / SCALE), clear)
    nir = names.index("B8" if metres == 10 else "B8A")
    second = ("NIR", values[:, nir], 0.6) if metres == 10 else ("SWIR1", values[:, names.index("B11")], 0.4)
    return Site(
        name=f"romania_{metres}m",
        block=Block(values, days, names),
        ndvi=_ndvi(values, names),
        second=second,
        picture=(nir, 2, 1) if metres == 10 else (names.index("B11"), nir, 1),
        limits=((0.05, 0.5), (0.01, 0.14), (0.02, 0.14)) if metres == 10 else ((0.02, 0.32), (0.05, 0.5), (0.01, 0.16)),
        sample=(24, 12) if metres == 10 else (16, 8),
    )


def slovenia(data: Path) -> Site:
    folder = data / "s2_eopatch_slovenia" / "TestEOPatch"
    ndvi = np.load(folder / "NDVI.npy", allow_pickle=False)[..., 0]
    cloud = np.load(folder / "CLM.npy", allow_pickle=False)[..., 0] > 0
    seen = np.load(folder / "IS_DATA.npy", allow_pickle=False)[..., 0] > 0
    stamps = json.loads((folder / "timestamps.json").read_text(encoding="utf-8"))
    days = _days(np.array([stamp[:10] for stamp in stamps], "datetime64[D]"))
    values = np.where(seen & ~cloud, ndvi, np.nan).astype(np.float32)
    # One day comes twice (two passes of one orbit): what is clear in the first stands, the second fills the rest.
    unique = np.unique(days)
    merged = np.full((unique.size, *values.shape[1:]), np.nan, np.float32)
    for k, day in enumerate(unique):
        for layer in values[days == day]:
            merged[k] = np.where(np.isfinite(merged[k]), merged[k], layer)
    return Site(
        name="slovenia",
        block=Block(merged[:, None], unique, ("NDVI",)),
        ndvi=merged,
        second=None,
        picture=(0,),
        limits=((0.0, 0.95),),
        sample=(12, 12),
    )


def landsat_row(data: Path) -> Site:
    """Y and dates only; the pickled member of the archive is never opened (`allow_pickle=False`)."""
    with np.load(data / "landsat_p013r030_row" / "p013r030_r50_n423_b8.npz", allow_pickle=False) as archive:
        layers, dates = archive["Y"], archive["dates"]
    order = np.argsort(dates, kind="stable")
    names = ("blue", "green", "red", "nir", "swir1", "swir2")
    raw = layers[:6, order].transpose(1, 0, 2)[:, :, None, :].astype(np.float32) / SCALE
    values = _masked(raw, np.isin(layers[7, order], (0, 1))[:, None, :])
    return Site(
        name="landsat_row",
        block=Block(values, dates[order].astype(np.int64) - ORDINAL, names),
        ndvi=_ndvi(values, names),
        second=("SWIR1", values[:, 4], 0.5),
        picture=(4, 3, 2),
        limits=((0.02, 0.35), (0.05, 0.5), (0.01, 0.16)),
        sample=(16, 8),
        strip=True,
        # Two years of Landsat in the 1980s are some 15 clear dates; five are what a harmonic fit of order 2 needs.
        history_years=5,
    )


SETS: dict[str, Callable[[Path], Site]] = {
    "romania_10m": lambda data: romania(data, 10),
    "romania_20m": lambda data: romania(data, 20),
    "slovenia": slovenia,
    "landsat_row": landsat_row,
}


# ------------------------------------------------------------------------------------------------ running


def _detector(name: str) -> Detector:
    return next(d for d in DETECTORS if d.name == name)


def _settings(detector: Detector, bands: int, tuned: bool) -> dict[str, Any]:
    kind: Bands = "six" if bands > 1 and "six" in detector.settings else "ndvi"
    return {**detector.settings[kind], **(detector.tuned.get(kind, {}) if tuned else {})}


def _flexible(name: str, block: Block, settings: dict[str, Any]) -> Found:
    """pyxccd with any bands: its own screen for clouds looks at green and the first short-wave (else the near infrared) band."""
    pyxccd = importlib.import_module("pyxccd")
    roles = band_roles(block.names)
    single = len(block.names) == 1
    first, second = (1, 1) if single else (roles["green"] + 1, roles.get("swir1", roles["nir"]) + 1)
    call = {"COLD": pyxccd.cold_detect_flex, "S-CCD (pyxccd)": pyxccd.sccd_detect_flex}[name]
    rows: list[list[int]] = []
    for pixel in block.pixels():
        clear = np.isfinite(pixel).all(axis=1)
        scaled = (pixel[clear] + 1) * (SCALE / 2) if single else pixel[clear] * SCALE
        values = np.ascontiguousarray(np.rint(np.maximum(scaled, 1)).astype(np.int64))
        dates = block.days[clear] + ORDINAL
        if dates.size < 12:
            rows.append([])
            continue
        qas = np.zeros(dates.size, np.int64)
        result = call(dates, values, qas, tmask_b1_index=first, tmask_b2_index=second, **settings)
        records = result if name == "COLD" else np.asarray(result.rec_cg)
        if records.dtype.names is None:
            rows.append([])
            continue
        sure = records["t_break"] > 0
        if "change_prob" in records.dtype.names:
            sure &= records["change_prob"] == 100
        rows.append(sorted(int(day) - ORDINAL for day in records["t_break"][sure]))
    depth = max(1, max(map(len, rows)))
    dates_found = np.full((depth, len(rows)), NODATE, np.int32)
    for k, row in enumerate(rows):
        dates_found[: len(row), k] = row
    return Found(dates_found.reshape(depth, *block.values.shape[2:]))


def run(name: str, block: Block, ndvi: NDArray[np.float32], *, history_years: int = 2, tuned: bool = True) -> Found:
    """Dates of one detector. nrt and pyxccd see the clear dates that ours sees; nrt sees NDVI only, as made for."""
    detector = _detector(name)
    settings = _settings(detector, len(block.names), tuned)
    if name in PYXCCD:
        return _flexible(name, block, settings)
    if name == "ours":
        return detector.run(detector.prepare(block), settings, 2)
    # The adapter's history begins on 2018-01-01: the series is moved there and its dates back again.
    seen = np.isfinite(ndvi).any(axis=(1, 2))
    days = block.days[seen]
    shift = int((np.datetime64("2018-01-01") - EPOCH).astype(int)) - int(days[0])
    moved = Block(ndvi[seen][:, None], days + shift, ("ndvi",))
    found = detector.run(detector.prepare(moved), {**settings, "history_years": history_years}, 2)
    return Found(np.where(found.dates == NODATE, NODATE, found.dates - shift).astype(np.int32))


def agreement(first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(y, x): both have a break and some two of them lie within `WITHIN` days."""
    both = np.zeros(first.shape[1:], bool)
    for a in first:
        for b in second:
            both |= (a != NODATE) & (b != NODATE) & (np.abs(a.astype(np.int64) - b) <= WITHIN)
    return both


def print_counts(site: Site, found: dict[str, NDArray[np.int32]], seconds: dict[str, float]) -> None:
    looks = site.clear.sum(axis=0)
    print(
        f"\n## {site.name}: {site.shape[0]} x {site.shape[1]} pixels, {site.block.days.size} dates, clear a pixel {np.median(looks):.0f}"
    )
    years = (site.block.days[-1] - site.block.days[0]) / 365.25
    print(f"{_day(int(site.block.days[0]))} to {_day(int(site.block.days[-1]))}, bands {', '.join(site.block.names)}\n")
    print("| detector | pixels flagged | share | breaks | breaks a pixel-year | s | " + " | ".join(found) + " |")
    print("|---" * (6 + len(found)) + "|")
    for name, dates in found.items():
        flagged = (dates != NODATE).any(axis=0)
        breaks = int((dates != NODATE).sum())
        shared = [
            agreement(dates, other).sum() / max(1, flagged.sum()) if other is not dates else 1.0 for other in found.values()
        ]
        cells = " | ".join(f"{share:.2f}" for share in shared)
        print(
            f"| {name} | {flagged.sum()} | {flagged.mean():.4f} | {breaks} | {breaks / flagged.size / years:.5f} "
            f"| {seconds[name]:.0f} | {cells} |"
        )
    for name, dates in found.items():
        halves = Counter(f"{_day(int(d))[:4]}{'a' if _day(int(d))[5:7] < '07' else 'b'}" for d in dates[dates != NODATE])
        print(f"{name} by half-year: " + ", ".join(f"{half} {count}" for half, count in sorted(halves.items())))
    print(f"\nThe last columns: share of the row's flagged pixels that the column flags too, within {WITHIN} days.")


def _day(day: int) -> str:
    return str(EPOCH + np.timedelta64(day, "D"))


# ------------------------------------------------------------------------------------------------ items and sheets


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One place to judge; day is NODATE for a pixel that is not flagged."""

    row: int
    col: int
    day: int
    detectors: tuple[str, ...]


def draw_items(site: Site, found: dict[str, NDArray[np.int32]]) -> list[Item]:
    """A random sample of each detector's flagged pixels with one of their dates each, equal ones once, shuffled."""
    items: list[Item] = []
    for position, (name, dates) in enumerate(found.items()):
        rng = np.random.default_rng([SEED, position])
        places = np.argwhere((dates != NODATE).any(axis=0))
        count = site.sample[1] if name in NRT else site.sample[0]
        for row, col in places[rng.permutation(len(places))[:count]]:
            there = dates[:, row, col]
            day = int(rng.choice(there[there != NODATE]))
            same = [k for k, i in enumerate(items) if (i.row, i.col) == (row, col) and abs(i.day - day) <= 30]
            if same:
                items[same[0]] = replace(items[same[0]], detectors=(*items[same[0]].detectors, name))
            else:
                items.append(Item(row=int(row), col=int(col), day=day, detectors=(name,)))
    order = np.random.default_rng([SEED, 99]).permutation(len(items))
    return [items[k] for k in order]


def draw_unflagged(site: Site, ours: NDArray[np.int32], count: int) -> list[Item]:
    places = np.argwhere((ours == NODATE).all(axis=0))
    chosen = np.random.default_rng([SEED, 100]).permutation(len(places))[:count]
    return [Item(row=int(r), col=int(c), day=NODATE, detectors=()) for r, c in places[chosen]]


def _year_day(day: int) -> tuple[int, int]:
    when = date(1970, 1, 1).toordinal() + day
    found = date.fromordinal(when)
    return found.year, found.timetuple().tm_yday


def _chip_dates(site: Site, item: Item) -> list[int]:
    """Positions of three dates: the summer before, the summer after, and two summers after that (or the last).

    A date stands for a change of up to half a year before it, as nrt tells it late. Views that are mostly clear win. Without a date:
    three summers spread over the period.
    """
    clear = site.clear[:, item.row, item.col]
    top, left = max(0, item.row - HALF), max(0, item.col - HALF)
    share = site.clear[:, top : item.row + HALF + 1, left : item.col + HALF + 1].mean(axis=(1, 2))
    days = site.block.days
    usable = np.flatnonzero(clear)

    def near(target: float, low: float, high: float) -> int:
        within = [k for k in usable if low <= days[k] <= high] or list(usable)
        return int(min(within, key=lambda k: (abs(days[k] - target) + 200 * (1 - share[k]), k)))

    first, last = int(days[0]), int(days[-1])
    summers = [int((np.datetime64(f"{year}-07-20") - EPOCH).astype(int)) for year in range(1970, 2040)]
    if item.day == NODATE:
        inside = [s for s in summers if first - 20 <= s <= last + 20] or [first, last]
        return [near(inside[round(k)], first, last) for k in np.linspace(0, len(inside) - 1, 3)]
    before = max((s for s in summers if s <= item.day - 100), default=first)
    after = min((s for s in summers if s >= item.day + 45), default=last)
    later = max((s for s in summers if after < s <= min(after + 740, last + 20)), default=last)
    return [
        near(max(before, first), first, item.day - 30),
        near(min(after, last), item.day + 20, last),
        near(later, item.day + 20, last),
    ]


def _stretched(site: Site, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(band, ...) -> (..., 3), grey where not clear, gamma 0.7."""
    layers = []
    for k, band in enumerate(site.picture):
        low, high = site.limits[k]
        with np.errstate(invalid="ignore"):
            layers.append(np.clip((values[band] - low) / (high - low), 0, 1) ** 0.7)
    picture = np.stack(layers * (3 if len(layers) == 1 else 1), axis=-1)
    return np.where(np.isfinite(picture), np.nan_to_num(picture) * 255, 120).astype(np.uint8)


def _chip(site: Site, item: Item, index: int) -> Image.Image:
    rows, cols = site.shape
    picture = np.zeros((2 * HALF + 1, 2 * HALF + 1, 3), np.uint8)
    top, left = max(0, item.row - HALF), max(0, item.col - HALF)
    bottom, right = min(rows, item.row + HALF + 1), min(cols, item.col + HALF + 1)
    part = _stretched(site, site.block.values[index][:, top:bottom, left:right])
    picture[top - item.row + HALF : bottom - item.row + HALF, left - item.col + HALF : right - item.col + HALF] = part
    image = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    corner = ZOOM * HALF
    ImageDraw.Draw(image).rectangle((corner - 2, corner - 2, corner + ZOOM + 1, corner + ZOOM + 1), outline=(255, 255, 0))
    return image


def _strip(site: Site, item: Item) -> Image.Image:
    """Of one row of pixels: summers downwards (median of June to September), 41 pixels across, ten years around the date."""
    centre = _year_day(item.day)[0] if item.day != NODATE else None
    years = sorted({_year_day(int(d))[0] for d in site.block.days})
    shown = [y for y in years if centre is None or abs(y - centre) <= 7]
    lines = np.full((len(shown), len(site.block.names), 2 * HALF + 1), np.nan, np.float32)
    left, right = max(0, item.col - HALF), min(site.shape[1], item.col + HALF + 1)
    for k, year in enumerate(shown):
        chosen = [i for i, d in enumerate(site.block.days) if _year_day(int(d))[0] == year and 152 <= _year_day(int(d))[1] <= 273]
        if chosen:
            part = site.block.values[chosen][:, :, 0, left:right]
            seen = np.isfinite(part).any(axis=0)
            middle = np.full(part.shape[1:], np.nan, np.float32)
            middle[seen] = np.nanmedian(part[:, seen], axis=0)
            lines[k, :, left - item.col + HALF : right - item.col + HALF] = middle
    picture = _stretched(site, lines.transpose(1, 0, 2))
    height = SIZE // len(shown)
    image = Image.fromarray(picture).resize((3 * SIZE, height * len(shown)), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (3 * SIZE, SIZE))
    canvas.paste(image, (0, 0))
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((3 * ZOOM * HALF - 2, 0, 3 * ZOOM * (HALF + 1) + 1, height * len(shown)), outline=(255, 255, 0))
    for k, year in enumerate(shown):
        pen.text((2, k * height - 1), f"{year % 100:02d}", fill=(255, 255, 255), font=ImageFont.load_default(12))
        if centre is not None and year == centre:
            pen.line((0, k * height, 3 * SIZE, k * height), fill=(255, 60, 60))
    return canvas


def _plot(site: Site, item: Item) -> Image.Image:
    """NDVI (green, 0 to 1) and a second line over time, the date in blue, years marked."""
    width, height = PLOT, SIZE
    image = Image.new("RGB", (width, height), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    first, last = int(site.block.days[0]), int(site.block.days[-1])
    if site.strip and item.day != NODATE:
        first, last = max(first, item.day - 2700), min(last, item.day + 2700)

    def x(day: float) -> float:
        return 2 + (width - 5) * (day - first) / (last - first)

    for year in range(_year_day(first)[0], _year_day(last)[0] + 1):
        at = x(int((np.datetime64(f"{year}-01-01") - EPOCH).astype(int)))
        pen.line((at, 0, at, height), fill=(215, 215, 215))
        pen.text((at + 2, height - 13), f"{year % 100:02d}", fill=(110, 110, 110), font=ImageFont.load_default(11))
    for level in (0.25, 0.5, 0.75):
        pen.line((0, height * (1 - level), width, height * (1 - level)), fill=(232, 232, 232))
    if item.day != NODATE:
        pen.line((x(item.day), 0, x(item.day), height), fill=(40, 80, 255), width=2)
    lines = [(site.second[1], site.second[2], (190, 90, 20))] if site.second else []
    for series, most, colour in [*lines, (site.ndvi, 1.0, (0, 140, 40))]:
        for k in np.flatnonzero(site.clear[:, item.row, item.col]):
            day, value = int(site.block.days[k]), float(series[k, item.row, item.col]) / most
            if first <= day <= last:
                at, up = x(day), height * (1 - min(max(value, 0), 1))
                pen.ellipse((at - 2, up - 2, at + 2, up + 2), fill=colour)
    return image


def write_sheets(site: Site, name: str, items: Sequence[Item], numbers: Sequence[int], out: Path) -> None:
    """PNG pages of `PER_SHEET` of the items; an item's number and dates are all that is written on them."""
    for old in out.glob(f"{name}_[0-9]*.png"):
        old.unlink()
    font = ImageFont.load_default(12)
    step, line = SIZE + 2, 16
    for page in range(math.ceil(len(numbers) / PER_SHEET)):
        chosen = numbers[page * PER_SHEET : (page + 1) * PER_SHEET]
        sheet = Image.new("RGB", (3 * step + PLOT, (SIZE + line) * len(chosen)), (255, 255, 255))
        pen = ImageDraw.Draw(sheet)
        for k, number in enumerate(chosen):
            item, top = items[number - 1], k * (SIZE + line)
            if site.strip:
                sheet.paste(_strip(site, item), (0, top + line))
                pen.text((2, top), f"#{number:03d}", fill=(0, 0, 0), font=font)
            else:
                for c, index in enumerate(_chip_dates(site, item)):
                    sheet.paste(_chip(site, item, index), (c * step, top + line))
                    text = (f"#{number:03d}  " if c == 0 else "") + _day(int(site.block.days[index]))
                    pen.text((c * step + 2, top), text, fill=(0, 0, 0), font=font)
            sheet.paste(_plot(site, item), (3 * step, top + line))
            pen.text((3 * step + 2, top), _day(item.day) if item.day != NODATE else "no date", fill=(0, 0, 0), font=font)
        sheet.save(out / f"{name}_{page + 1}.png", optimize=True)


def to_judge(name: str, items: Sequence[Item], counts: Sequence[dict[str, str]]) -> list[int]:
    """Numbers of the items nobody has looked at, among as many drawn from those that were.

    What is new after a change of one detector is all of that detector: judged alone the sheets would not be blind. What is judged
    twice says how far two counts agree.
    """
    new = [k + 1 for k, i in enumerate(items) if not answer_of(counts, name, i.row, i.col, i.day)]
    known = sorted(set(range(1, len(items) + 1)) - set(new))
    again = np.random.default_rng([SEED, 101]).permutation(known)[: len(new)].tolist()
    return sorted(new + again)


def write_key(site: Site, name: str, items: Sequence[Item], out: Path) -> None:
    rows = [
        {"set": name, "item": k + 1, "row": i.row, "col": i.col, "day": i.day, "detectors": list(i.detectors)}
        for k, i in enumerate(items)
    ]
    _write(out / f"key_{name}.json", json.dumps(rows, indent=0) + "\n")


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


# ------------------------------------------------------------------------------------------------ counting


def record(name: str, answers: Path, out: Path) -> None:
    """Adds counted answers (lines `item answer`, answer y, n or u, rest of the line a note) to the counts, by place and date.

    What was counted before stands; how often the new answer is the same is printed.
    """
    key = {row["item"]: row for row in json.loads((out / f"key_{name}.json").read_text(encoding="utf-8"))}
    before = _read_counts()
    rows = list(before)
    twice: Counter[tuple[str, str]] = Counter()
    for line in answers.read_text(encoding="utf-8").splitlines():
        if line.strip():
            number, answer, *note = line.split(maxsplit=2)
            item = key[int(number)]
            known = answer_of(before, name, item["row"], item["col"], item["day"])
            if known:
                twice[known, ANSWERS[answer]] += 1
                if known != ANSWERS[answer]:
                    print(f"{name} {number}: {known} before, {ANSWERS[answer]} now")
                continue
            when = "" if item["day"] == NODATE else _day(item["day"])
            rows.append(
                {
                    "set": name,
                    "row": str(item["row"]),
                    "col": str(item["col"]),
                    "date": when,
                    "answer": ANSWERS[answer],
                    "note": note[0] if note else "",
                }
            )
    part = COUNTS.with_name(COUNTS.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["set", "row", "col", "date", "answer", "note"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["set"], int(row["row"]), int(row["col"]), row["date"])))
    os.replace(part, COUNTS)
    same = sum(count for (old, new), count in twice.items() if old == new)
    print(f"{name}: {sum(twice.values())} counted before, {same} of them the same now; (before, now): {dict(twice)}")


def _read_counts() -> list[dict[str, str]]:
    if not COUNTS.exists():
        return []
    with COUNTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share. Wilson 1927, doi:10.1080/01621459.1927.10502953."""
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def answer_of(counts: Sequence[dict[str, str]], name: str, row: int, col: int, day: int) -> str:
    """The counted answer for a place and date (within 30 days), "" = not looked at."""
    for entry in counts:
        if entry["set"] == name and (int(entry["row"]), int(entry["col"])) == (row, col):
            counted = int((np.datetime64(entry["date"]) - EPOCH).astype(int)) if entry["date"] else NODATE
            if counted == day or (NODATE not in (counted, day) and abs(counted - day) <= 30):
                return entry["answer"]
    return ""


def print_score(out: Path) -> None:
    counts = _read_counts()
    print(
        "| set | detector | items | change | no change | cannot tell | not looked at | precision (change / decided) | 95 % interval |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for path in sorted(out.glob("key_*.json")):
        name = path.stem.removeprefix("key_")
        items = json.loads(path.read_text(encoding="utf-8"))
        if name.endswith("_unflagged"):
            tally = Counter(answer_of(counts, name, i["row"], i["col"], i["day"]) for i in items)
            print(f"| {name} | - | {len(items)} | {_cells(tally)} |")
            continue
        for detector in NAMES:
            own = [i for i in items if detector in i["detectors"]]
            if own:
                tally = Counter(answer_of(counts, name, i["row"], i["col"], i["day"]) for i in own)
                print(f"| {name} | {detector} | {len(own)} | {_cells(tally)} |")


def print_found(out: Path) -> None:
    """Of the places counted as change in the samples of the others: how many a detector flags too, within `LATE` days."""
    counts = _read_counts()
    print(f"\n| set | detector | changes seen in the others' samples | flagged too, within {LATE} days | share | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for path in sorted(out.glob("dates_*.npz")):
        name = path.stem.removeprefix("dates_")
        items = json.loads((out / f"key_{name}.json").read_text(encoding="utf-8"))
        seen = [i for i in items if answer_of(counts, name, i["row"], i["col"], i["day"]) == "change"]
        with np.load(path, allow_pickle=False) as found:
            for detector in found.files:
                hits = total = 0
                for i in seen:
                    if set(i["detectors"]) != {detector}:
                        there = found[detector][:, i["row"], i["col"]].astype(np.int64)
                        hits += bool((np.abs(there[there != NODATE] - i["day"]) <= LATE).any())
                        total += 1
                if total:
                    low, high = wilson(hits, total)
                    print(f"| {name} | {detector} | {total} | {hits} | {hits / total:.2f} | {low:.2f}-{high:.2f} |")


def _cells(tally: Counter[str]) -> str:
    yes, no = tally["change"], tally["no change"]
    low, high = wilson(yes, yes + no)
    share = f"{yes / (yes + no):.2f}" if yes + no else "-"
    return f"{yes} | {no} | {tally['cannot tell']} | {tally['']} | {share} | {low:.2f}-{high:.2f}"


# ------------------------------------------------------------------------------------------------ undisturbed forest


def undisturbed(site: Site, cover: NDArray[np.floating] | None) -> NDArray[np.bool_]:
    """Forest that an independent rule calls undisturbed.

    Dense (tree cover at least 70 %, or, without such a map, a median summer NDVI of at least 0.75); in no year does the median of June to
    August, over that of all years, leave 0.8 to 1.25 of what it is in the median pixel of the set (some years are brighter as a whole),
    in NDVI and in the near infrared; and no neighbour fails.
    """
    values = [site.ndvi]
    roles = band_roles(site.block.names)
    if "nir" in roles:
        values.append(site.block.values[:, roles["nir"]])
    good = np.ones(site.shape, bool)
    whens = [_year_day(int(day)) for day in site.block.days]
    for series in values:
        summers = []
        for year in sorted({y for y, _ in whens}):
            chosen = [k for k, (y, d) in enumerate(whens) if y == year and 152 <= d <= 243]
            part = series[chosen]
            middle = np.full(site.shape, np.nan)
            seen = np.isfinite(part).any(axis=0)
            middle[seen] = np.nanmedian(part[:, seen], axis=0)
            summers.append(middle)
        yearly = np.stack(summers)
        usual = np.nanmedian(yearly, axis=0)
        share = yearly / usual
        share = share / np.nanmedian(share, axis=(1, 2), keepdims=True)
        with np.errstate(invalid="ignore"):
            good &= ~((share < 0.8) | (share > 1.25)).any(axis=0) & np.isfinite(usual)
        if series is site.ndvi and cover is None:
            good &= usual >= 0.75
    if cover is not None:
        good &= cover >= 70
    padded = np.pad(good, ((1, 1), (1, 1)), mode="edge")
    rows, cols = site.shape
    near = [padded[r : r + rows, c : c + cols] for r in range(3) for c in range(3)]
    return np.asarray(np.logical_and.reduce(near))


def print_false_alarms(site: Site, found: dict[str, NDArray[np.int32]], data: Path) -> None:
    cover = None
    if site.name.startswith("romania"):
        import rasterio

        with rasterio.open(data / "s2_nrt_romania" / "tree_cover_density_2018_romania.tif") as source:
            density = source.read(1).astype(np.float32)
        # 20 m cells whose corner is the corner of both cubes (the files' transforms): each is 2 x 2 cells of 10 m.
        cover = np.kron(density, np.ones((2, 2), np.float32)) if site.shape[0] == 100 else density
    elif site.name == "slovenia":
        cover = np.where(
            np.load(data / "s2_eopatch_slovenia" / "TestEOPatch" / "LULC.npy", allow_pickle=False)[..., 0] == 2, 100.0, 0.0
        )
    forest = undisturbed(site, cover)
    years = (site.block.days[-1] - site.block.days[0]) / 365.25
    print(f"\nUndisturbed forest in {site.name}: {int(forest.sum())} pixels, {years:.2f} years")
    for name, dates in found.items():
        breaks = int(((dates != NODATE) & forest).sum())
        places = np.argwhere((dates != NODATE).any(axis=0) & forest)[:8].tolist()
        print(f"| {site.name} | {name} | {breaks} | {breaks / max(1, forest.sum()) / years:.6f} | {places} |")


# ------------------------------------------------------------------------------------------------ labelled series


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _landsat_series(path: Path, header: bool) -> Block:
    """Date, six bands, thermal, quality (0 and 1 are clear)."""
    table = np.loadtxt(path, delimiter=",", skiprows=int(header), encoding="utf-8-sig")
    table = table[np.isin(table[:, 8], (0, 1))]
    _, unique = np.unique(table[:, 0], return_index=True)
    table = table[unique]
    raw = (table[:, 1:7] / SCALE).astype(np.float32)[:, :, None, None]
    values = _masked(raw, np.ones((len(table), 1, 1), bool))
    return Block(values, table[:, 0].astype(np.int64) - ORDINAL, ("blue", "green", "red", "nir", "swir1", "swir2"))


def _crop_series(path: Path) -> Block:
    """QA60 = 0 and blue below 0.25: QA60 is zero under some bright cloud too."""
    rows = [r for r in _rows(path) if int(r["QA60"]) == 0 and float(r["B2"]) < 2500]
    days = _days(np.array([f"{r['Tile'][:4]}-{r['Tile'][4:6]}-{r['Tile'][6:8]}" for r in rows], "datetime64[D]"))
    names = ("B2", "B3", "B4", "B8", "B11", "B12")
    raw = np.array([[float(r[name]) for name in names] for r in rows], np.float32) / np.float32(SCALE)
    _, unique = np.unique(days, return_index=True)
    values = _masked(raw[unique][:, :, None, None], np.ones((unique.size, 1, 1), bool))
    return Block(values, days[unique], names)


def _modis_series(path: Path) -> Block:
    rows = _rows(path)
    days = []
    for row in rows:
        month, day, year = (int(part) for part in row["date"].split("/"))
        days.append(date(year, month, day).toordinal() - ORDINAL)
    order = np.argsort(days, kind="stable")
    ndvi = np.array([float(row["NDVI"]) for row in rows], np.float32)[order]
    return Block(ndvi[:, None, None, None], np.array(days, np.int64)[order], ("NDVI",))


def print_series(data: Path) -> None:
    """What each detector says of the single pixels whose story is known, with the settings of simulated tiles and the published ones."""
    folder = data / "pixel_series"
    blocks = {
        "spectral_336_3980 (fire, labelled 2013-06-21 and 2013-07-27)": _landsat_series(
            folder / "spectral_336_3980_obs.csv", False
        ),
        "1_hls_sc (fire, 2024-03-22 by the tutorial)": _landsat_series(folder / "1_hls_sc.csv", True),
        "2_mpb_co_landsat (beetle, from about 2003, most 2007)": _landsat_series(folder / "2_mpb_co_landsat.csv", True),
        "2_sm_ma_landsat (moth, 2015-2018)": _landsat_series(folder / "2_sm_ma_landsat.csv", True),
        "3_crop_sentinel2 (crops, not labelled)": _crop_series(folder / "3_crop_sentinel2.csv"),
        "5_greenning_modis (slow greening)": _modis_series(folder / "5_greenning_modis.csv"),
    }
    print(
        "\n## Labelled series\n\n| series | clear | detector | as tuned on simulated tiles | as published |\n|---|---|---|---|---|"
    )
    for title, block in blocks.items():
        ndvi = block.values[:, 0] if len(block.names) == 1 else _ndvi(block.values, block.names)
        clear = int(np.isfinite(ndvi).sum())
        for name in NAMES:
            history = 2 if block.days.size > 400 else 5
            results = [run(name, block, ndvi, history_years=history, tuned=tuned) for tuned in (True, False)]
            cells = []
            for result in results:
                marks = np.zeros(result.dates.shape, bool) if result.gradual is None else result.gradual
                dated = [(int(d), bool(g)) for d, g in zip(result.dates.ravel(), marks.ravel(), strict=True) if d != NODATE]
                cells.append(", ".join(_day(d) + (" (gradual)" if g else "") for d, g in sorted(dated)) or "none")
            print(f"| {title} | {clear} | {name} | {cells[0]} | {cells[1]} |")


# ------------------------------------------------------------------------------------------------ main


def _draw(site: Site, found: dict[str, NDArray[np.int32]], sheets: str, out: Path) -> None:
    """Keys and sheets of one set."""
    counts = _read_counts()
    for title, items in (
        (site.name, draw_items(site, found)),
        (f"{site.name}_unflagged", draw_unflagged(site, found["ours"], site.sample[0])),
    ):
        write_key(site, title, items, out)
        if sheets != "none":
            numbers = to_judge(title, items, counts) if sheets == "new" else list(range(1, len(items) + 1))
            write_sheets(site, title, items, numbers, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    shared = Path(os.environ.get("GEOEVIDENCE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--data", type=Path, default=shared / "data" / "satellite")
    parser.add_argument("--out", type=Path, default=Path("real_out"))
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--sheets", default="all", choices=("all", "new", "none"))
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--ours", action="store_true", help="only ours anew; the others' dates are those in --out")
    parser.add_argument("--no-series", action="store_true")
    parser.add_argument("--record", metavar="NAME=FILE")
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.record:
        name, _, answers = options.record.partition("=")
        record(name, Path(answers), options.out)
        return
    if options.score:
        print_score(options.out)
        print_found(options.out)
        return
    if options.draw:
        for chosen in options.sets:
            with np.load(options.out / f"dates_{chosen}.npz", allow_pickle=False) as dates:
                _draw(SETS[chosen](options.data), {name: dates[name] for name in NAMES}, options.sheets, options.out)
        return
    for detector in map(_detector, NAMES):
        if not detector.version():
            raise SystemExit(f"{detector.name}: {detector.package} is not installed (docs/methods/satellite_peers.md says how)")
    sources = b"".join((Path(satellite.__file__).parent / name).read_bytes() for name in ("segment.py", "kernels.py"))
    print(f"ours: sha256 of segment.py and kernels.py begins {hashlib.sha256(sources).hexdigest()[:12]}")
    for chosen in options.sets:
        site = SETS[chosen](options.data)
        found, seconds = {}, {}
        if options.ours:
            with np.load(options.out / f"dates_{chosen}.npz", allow_pickle=False) as dates:
                found = {name: dates[name] for name in NAMES}
            seconds = dict.fromkeys(NAMES, math.nan)
        for name in NAMES[:1] if options.ours else NAMES:
            begin = time.perf_counter()
            found[name] = run(name, site.block, site.ndvi, history_years=site.history_years).dates
            seconds[name] = time.perf_counter() - begin
        print_counts(site, found, seconds)
        print_false_alarms(site, found, options.data)
        np.savez_compressed(options.out / f"dates_{site.name}.npz", **{name: dates for name, dates in found.items()})  # type: ignore[arg-type]
        _draw(site, found, options.sheets, options.out)
        sys.stdout.flush()
    print("\ns1_rtc_10SGD is radar backscatter: no detector here is made for it, none was run.")
    if not options.no_series:
        print_series(options.data)


if __name__ == "__main__":
    main()
