"""Simulated Yangtze-like sites with exact truth: the demonstration scenes and the test bench of the detectors.

In: a `SimulationConfig` and a seed. Out: a `SimulatedCube` (surface reflectance with clouds, a quality band, truth per
pixel) and, through `write_stack`, a folder of GeoTIFF scenes as a provider would deliver them.

The land is drawn four times finer than a pixel, so pixels are mixed as real ones are. Each class mixes a soil and a
vegetation spectrum by a seasonal curve whose timing and height differ by parcel and by year; flats drown when the river
rises. Observations add haze, clouds and shadows (a part of them not in the mask), scene-wide and pixel noise.
Everything made here is marked as demonstration data (synthetic). Spectra are rounded typical values, not a library.
Nothing here detects anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates
from scipy.ndimage import shift as shift_array

from geoevidence.crs import parse_crs, transform_geometry
from geoevidence.raster import Grid, Raster, write_cog
from satellite.basin import (
    BANDS,
    CLASSES,
    CLEAR,
    FINE,
    KINDS,
    QUALITY,
    SPECTRA,
    BasinConfig,
    Change,
    Sensing,
    simulate_basin,
)
from satellite.indices import index_values
from satellite.types import NODATE, Cube, Observed

TUNING_SEEDS = range(1, 100)
"""Seeds that settings may be chosen on."""
TEST_SEEDS = range(101, 1000)
"""Seeds for figures that are reported. No setting is ever chosen on them."""

_MIXES = {  # class -> (ground spectrum, cover spectrum)
    "water": ("water", "water"),
    "flat": ("mud", "grass"),
    "bank": ("sand", "grass"),
    "levee": ("soil", "grass"),
    "single_crop": ("soil", "crop"),
    "double_crop": ("soil", "crop"),
    "forest": ("litter", "trees"),
    "urban": ("roof", "grass"),
    "road": ("asphalt", "grass"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """What is simulated.

    shape: (rows, cols) of the scene. resolution: cell size, m. origin: (x, y) of the upper left corner, m. crs: EPSG code text.
    start, end: first and last possible day. revisit_days: days between acquisitions.
    max_cloud: scenes with a larger covered fraction are not delivered (as in a catalogue search); 1 keeps all.
    overcast, partial: probability of a fully and of a partly covered sky, yearly mean; both rise in the plum rains (June, July).
    undetected: share of the cloud edge and of thin cloud that the quality band calls clear.
    pixel_noise: independent error, as fraction of the reflectance plus a quarter of it absolute per 0.1; 0.015 gives ~0.02 in NDVI.
    scene_noise: common relative error of one scene and band. haze_sd: spread of the residual path reflectance in blue.
    phase_sd_days: spread of the yearly shift of the season. amplitude_sd: spread of the yearly relative height of the season.
    changes: the true changes. random_changes: number of further ones scattered over the land with 15-100 % of the pixel.
    basin: None = the one site of the demonstration, drawn as always; else a tile of the wide simulation, see `benchmark_config`:
    its own land, dates, sky and scattered changes, so `revisit_days`, `overcast`, `partial`, `phase_sd_days`, `amplitude_sd`
    and `random_changes` are not used.
    """

    shape: tuple[int, int] = (96, 96)
    resolution: float = 10.0
    origin: tuple[float, float] = (238360.0, 3362260.0)
    crs: str = "EPSG:32650"
    start: date = date(2021, 1, 3)
    end: date = date(2024, 12, 31)
    revisit_days: int = 10
    max_cloud: float = 0.6
    overcast: float = 0.38
    partial: float = 0.20
    undetected: float = 0.15
    pixel_noise: float = 0.015
    scene_noise: float = 0.02
    haze_sd: float = 0.006
    phase_sd_days: float = 6.0
    amplitude_sd: float = 0.05
    changes: tuple[Change, ...] = ()
    random_changes: int = 0
    basin: BasinConfig | None = None

    def __post_init__(self) -> None:
        if min(self.shape) < 8:
            raise ValueError("a scene has at least 8 x 8 pixels")
        if self.revisit_days < 1 or self.start >= self.end:
            raise ValueError("the period must be positive")
        for name in ("max_cloud", "overcast", "partial", "undetected"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is not in [0, 1]")

    @property
    def grid(self) -> Grid:
        x, y = self.origin
        return Grid(shape=self.shape, transform=Affine(self.resolution, 0, x, 0, -self.resolution, y), crs=parse_crs(self.crs))


def benchmark_config(
    kind: Literal["land", "water"],
    *,
    shape: tuple[int, int] = (96, 96),
    start: date = date(2018, 1, 2),
    end: date = date(2023, 12, 30),
    pixel_noise: float = 0.015,
    scene_noise: float = 0.015,
    haze_sd: float = 0.004,
    undetected: float = 0.12,
    changes: tuple[Change, ...] = (),
    **basin: Any,
) -> SimulationConfig:
    """A tile on which detectors are tuned and measured: 322 dates 2018-2023 of which about 170 are clear for a pixel, all delivered.

    kind: "land" or "water". basin: any field of `BasinConfig`. The others: fields of `SimulationConfig`.
    Use a seed of `TUNING_SEEDS` to choose settings and one of `TEST_SEEDS` for a figure that is reported, never the other way.
    Raises: ValueError, and TypeError for an unknown field.
    """
    return SimulationConfig(
        shape=shape,
        start=start,
        end=end,
        max_cloud=1.0,
        pixel_noise=pixel_noise,
        scene_noise=scene_noise,
        haze_sd=haze_sd,
        undetected=undetected,
        changes=changes,
        basin=BasinConfig(kind=kind, **basin),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrueBreaks:
    """All true changes of every pixel; k counts those of a pixel in order of time, k >= 1. Where there is none: NODATE or 0.

    day: (k, y, x) int32 days since 1970-01-01, first day of the new state (of a gradual change: its begin).
    kind: (k, y, x) uint8, index into `KINDS`. duration: (k, y, x) int32 days from begin to end, 0 = abrupt.
    fraction: (k, y, x) float32 share of the pixel that changes. regrowth: (k, y, x) float32 e-folding time in years, 0 = none.
    change: (k, y, x) int32 index into `SimulatedCube.changes`, -1 = none. contrast: (k, y, x) float32, mean over the year after
    its end of what this change alone does to the reflectance (root mean square over bands); NaN where not known or none.
    """

    day: NDArray[np.int32]
    kind: NDArray[np.uint8]
    duration: NDArray[np.int32]
    fraction: NDArray[np.float32]
    regrowth: NDArray[np.float32]
    change: NDArray[np.int32]
    contrast: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedCube:
    """Scenes and what is true about them. Times are the acquisition days; y runs north to south.

    observed: (time, band, y, x) float32 reflectance as delivered, clouds included; NaN where the sensor saw nothing.
    quality: (time, y, x) uint8, codes of `QUALITY`.
    cloud_truth: (time, y, x) bool, True where cloud or shadow really is (the quality band misses some).
    break_date: (y, x) datetime64[D], first change of the pixel, NaT = none. kind: (y, x) uint8, index into `KINDS`.
    fraction: (y, x) float32, largest share of the pixel that ever changes. stable: (y, x) bool, nothing of the pixel changes.
    land: (y, x) uint8, index into `CLASSES` of the largest part. changes: all true changes, random ones included.
    breaks: all true changes pixel by pixel. purity: (y, x) float32, share of the pixel that its largest part takes.
    flooded: (y, x) float32, share of the dates on which water covers at least half of the pixel, changes left aside; NaN where
    not known (a site without `basin`). unusual: (y, x) bool, fields with a fallow season or another crop in at least one year: no change.
    beside: (y, x) bool, stable, but next to a changed pixel, a share of which a shifted scene may bring in.
    """

    config: SimulationConfig
    seed: int
    grid: Grid
    observed: xr.DataArray
    quality: xr.DataArray
    cloud_truth: NDArray[np.bool_]
    break_date: NDArray[np.datetime64]
    kind: NDArray[np.uint8]
    fraction: NDArray[np.float32]
    stable: NDArray[np.bool_]
    land: NDArray[np.uint8]
    changes: tuple[Change, ...]
    breaks: TrueBreaks
    purity: NDArray[np.float32]
    flooded: NDArray[np.float32]
    unusual: NDArray[np.bool_]
    beside: NDArray[np.bool_]

    @property
    def clear(self) -> xr.DataArray:
        """(time, y, x) bool: seen and clear by the quality band."""
        return self.quality.isin(CLEAR)

    @property
    def reflectance(self) -> xr.DataArray:
        """(time, band, y, x) float32: `observed` with NaN wherever the quality band is not clear."""
        return self.observed.where(self.clear).transpose("time", "band", "y", "x")

    @property
    def flats(self) -> NDArray[np.bool_]:
        """(y, x) bool: seasonal flats, whatever changes there (see `stable`): land that the river or lake covers for 4 to 96 %
        of the dates; on a site without `basin` the class `flat`."""
        wet = [CLASSES.index(name) for name in ("flat", "reed", "bank", "lake")]
        by_level = np.isin(self.land, wet) & (self.flooded >= 0.04) & (self.flooded <= 0.96)
        return np.where(np.isnan(self.flooded), self.land == CLASSES.index("flat"), by_level)

    def index(self, name: str) -> xr.DataArray:
        """(time, band, y, x) float32 with the one band `name` (NDVI, MNDWI, NBR, BSI ...), NaN exactly where `reflectance` is.

        Reflectance below 0.0001, the smallest number that a product stores, counts as 0.0001.
        """
        values = index_values(name, np.maximum(self.observed.values, np.float32(1e-4)), BANDS, axis=1).astype(np.float32)
        values[~self.clear.values] = np.nan
        coords = {**{key: self.observed[key] for key in ("time", "y", "x")}, "band": [name]}
        return xr.DataArray(values[:, None], dims=("time", "band", "y", "x"), coords=coords)

    def as_int16(self) -> Cube:
        """The cube as a reader would hand it over: int16 at a scale of 0.0001, and an `Observed` code per date and pixel."""
        values = self.observed.values
        stored = np.where(np.isnan(values), 0, np.rint(np.clip(values, -0.2, 2.0) * 1e4)).astype(np.int16)
        quality = self.quality.values
        codes = np.where(self.clear.values, Observed.CLEAR, Observed.CLOUD)
        codes = np.where(quality == QUALITY["nodata"], Observed.NOT_OBSERVED, codes).astype(np.uint8)
        days = np.array(self.observed["time"].values.astype("datetime64[D]").astype(np.int64), np.int32)
        return Cube(stored=stored, observed=codes, days=days, bands=BANDS, grid=self.grid, scale=1e-4)

    @property
    def dates(self) -> tuple[date, ...]:
        return tuple(np.datetime64(day, "D").item() for day in self.observed["time"].values)


@dataclass(frozen=True, slots=True, eq=False)
class _Land:
    """Fractions (class, y, x), inner distance to the river (m), per-pixel phase (d) and amplitude (1) of the parcel, texture."""

    fractions: NDArray[np.float64]
    distance: NDArray[np.float64]
    phase: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    brightness: NDArray[np.float64]


def simulate(config: SimulationConfig, *, seed: int) -> SimulatedCube:
    """The simulated site; the same config and seed give the same arrays on one machine.

    Raises: ValueError when no scene at all passes `max_cloud`.
    """
    if config.basin is not None:
        return _simulate_tile(config, config.basin, seed)
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)]
    land = _draw_land(config, streams[0])
    changes = config.changes + _scatter_changes(config, land, streams[1])
    weights = np.stack([_cover(config, c) * c.fraction for c in changes]) if changes else np.zeros((0, *config.shape))
    years = range(config.start.year - 1, config.end.year + 2)
    season = {
        y: (streams[2].normal(0, config.phase_sd_days), 1 + streams[2].normal(0, config.amplitude_sd), streams[2].normal(0, 12))
        for y in years
    }

    days, observed, quality, clouded = [], [], [], []
    day = config.start
    while day <= config.end:
        sky = _draw_sky(config, day, streams[3])
        truth = _surface(config, land, changes, weights, season, day)
        scene, codes = _observe(config, truth, sky, day, streams[4])
        if np.mean(~np.isin(codes, CLEAR)) <= config.max_cloud:
            days.append(np.datetime64(day, "ns"))
            observed.append(scene)
            quality.append(codes)
            clouded.append((sky.cover > 0.08) | sky.shadow)
        day += timedelta(days=config.revisit_days)
    if not days:
        raise ValueError("no scene passes max_cloud")

    main = np.argmax(land.fractions, axis=0).astype(np.uint8)
    return _cube(
        config,
        seed,
        np.array(days),
        np.stack(observed),
        np.stack(quality),
        np.stack(clouded),
        main,
        changes,
        weights,
        np.full(weights.shape, np.nan, np.float32),
        purity=land.fractions.max(axis=0).astype(np.float32),
        flooded=np.full(config.shape, np.nan, np.float32),
        unusual=np.zeros(config.shape, bool),
    )


def _simulate_tile(config: SimulationConfig, basin: BasinConfig, seed: int) -> SimulatedCube:
    made = simulate_basin(
        basin,
        Sensing(
            undetected=config.undetected,
            pixel_noise=config.pixel_noise,
            scene_noise=config.scene_noise,
            haze_sd=config.haze_sd,
        ),
        shape=config.shape,
        transform=config.grid.transform,
        period=(config.start, config.end),
        changes=config.changes,
        seed=seed,
    )
    keep = np.mean(~np.isin(made.quality, CLEAR), axis=(1, 2)) <= config.max_cloud
    if not keep.any():
        raise ValueError("no scene passes max_cloud")
    return _cube(
        config,
        seed,
        np.array([np.datetime64(day, "ns") for day in made.days])[keep],
        made.observed if keep.all() else made.observed[keep],
        made.quality[keep],
        made.clouded[keep],
        made.land,
        made.changes,
        made.weights,
        made.contrast,
        purity=made.purity,
        flooded=made.flooded,
        unusual=made.unusual,
    )


def _cube(
    config: SimulationConfig,
    seed: int,
    times: NDArray[np.datetime64],
    observed: NDArray[np.float32],
    quality: NDArray[np.uint8],
    clouded: NDArray[np.bool_],
    main: NDArray[np.uint8],
    changes: tuple[Change, ...],
    weights: NDArray[np.floating],
    contrast: NDArray[np.float32],
    *,
    purity: NDArray[np.float32],
    flooded: NDArray[np.float32],
    unusual: NDArray[np.bool_],
) -> SimulatedCube:
    grid = config.grid
    break_date, kind, fraction = _pixel_truth(config, changes, weights)
    stable = weights.max(axis=0, initial=0) == 0
    x = grid.transform.c + (np.arange(config.shape[1]) + 0.5) * config.resolution
    y = grid.transform.f - (np.arange(config.shape[0]) + 0.5) * config.resolution
    coords = {"time": times, "y": y, "x": x}
    return SimulatedCube(
        config=config,
        seed=seed,
        grid=grid,
        observed=xr.DataArray(observed, dims=("time", "band", "y", "x"), coords={**coords, "band": list(BANDS)}),
        quality=xr.DataArray(quality, dims=("time", "y", "x"), coords=coords),
        cloud_truth=clouded,
        break_date=break_date,
        kind=kind,
        fraction=fraction,
        stable=stable,
        land=main,
        changes=changes,
        breaks=_true_breaks(changes, weights, contrast),
        purity=purity,
        flooded=flooded,
        unusual=unusual,
        beside=stable & binary_dilation(~stable, np.ones((3, 3), bool)),
    )


def _true_breaks(changes: Sequence[Change], weights: NDArray[np.floating], contrast: NDArray[np.float32]) -> TrueBreaks:
    shape = weights.shape[1:]
    layers = max(int((weights > 0).sum(axis=0).max(initial=0)), 1)
    day = np.full((layers, *shape), NODATE, np.int32)
    kind = np.zeros((layers, *shape), np.uint8)
    duration = np.zeros((layers, *shape), np.int32)
    fraction, regrowth = (np.zeros((layers, *shape), np.float32) for _ in range(2))
    which = np.full((layers, *shape), -1, np.int32)
    seen = np.full((layers, *shape), np.nan, np.float32)
    filled = np.zeros(shape, np.int64)
    for index in sorted(range(len(changes)), key=lambda i: (changes[i].day, changes[i].name)):
        rows, cols = np.nonzero(weights[index] > 0)
        k = filled[rows, cols]
        day[k, rows, cols] = (changes[index].day - date(1970, 1, 1)).days
        kind[k, rows, cols] = KINDS.index(changes[index].kind)
        duration[k, rows, cols] = changes[index].duration_days
        fraction[k, rows, cols] = weights[index, rows, cols]
        regrowth[k, rows, cols] = changes[index].regrowth_years
        which[k, rows, cols] = index
        seen[k, rows, cols] = contrast[index, rows, cols]
        filled[rows, cols] += 1
    return TrueBreaks(day=day, kind=kind, duration=duration, fraction=fraction, regrowth=regrowth, change=which, contrast=seen)


def _noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth random field, mean 0, sd 1, correlated over about `scale` cells."""
    rows, cols = (int(np.ceil(n / scale * 2)) + 4 for n in shape)
    coarse = gaussian_filter(rng.standard_normal((rows, cols)), 0.8, mode="wrap")
    r = np.linspace(1, rows - 2.5, shape[0])
    c = np.linspace(1, cols - 2.5, shape[1])
    fine = map_coordinates(coarse, np.meshgrid(r, c, indexing="ij"), order=3, mode="wrap")
    return (fine - fine.mean()) / (fine.std() + 1e-12)


def _draw_land(config: SimulationConfig, rng: np.random.Generator) -> _Land:
    rows, cols = (n * FINE for n in config.shape)
    cell = config.resolution / FINE
    east, north = np.meshgrid((np.arange(cols) + 0.5) * cell, (rows - np.arange(rows) - 0.5) * cell)
    # The river fills the south west; its bank runs from north west to south east and bends.
    span = cell * max(rows, cols)
    along = (east - north) / np.sqrt(2)
    across = (east + north) / np.sqrt(2) - 0.46 * span
    bend = 45 * np.sin(along / 310 + 0.6) + 18 * np.sin(along / 97 + 2.0)
    distance = across + bend + 5 * _noise((rows, cols), 40 / cell, rng)

    # Field parcels: a grid turned with the bank, with rows of uneven depth.
    u = along + 4 * np.sin(across / 90)
    v = across + bend * 0.8
    strip = np.floor(v / 62)
    strip_offset = rng.uniform(0, 40, 4096)
    parcel = np.floor((u + strip_offset[(strip.astype(int) % 4096)]) / (34 + 9 * (strip % 3)))
    key = ((strip.astype(np.int64) * 7919 + parcel.astype(np.int64) * 104729) % 8191).astype(int)
    table = rng.uniform(size=(8191, 4))
    edge = np.minimum(v / 62 - strip, strip + 1 - v / 62) * 62 < 2.2

    land = np.full((rows, cols), CLASSES.index("single_crop"), np.uint8)
    land[table[key, 0] < 0.45] = CLASSES.index("double_crop")
    land[edge] = CLASSES.index("levee")
    hills = _noise((rows, cols), 260 / cell, rng) + (distance - 380) / 160
    hills += 0.16 * _noise((rows, cols), 45 / cell, rng) + 0.10 * _noise((rows, cols), 14 / cell, rng)
    land[hills > 0.55] = CLASSES.index("forest")
    town = _noise((rows, cols), 150 / cell, rng) - np.abs(v - 300) / 75
    village = (town > 0.15) & (distance > 200) & (land != CLASSES.index("forest"))
    blocks = (np.mod(u, 21) < 14) & (np.mod(v, 17) < 11)
    land[village] = CLASSES.index("levee")
    land[village & blocks] = CLASSES.index("urban")
    pond = (table[key, 1] < 0.04) & ~village & (land < CLASSES.index("forest")) & (distance > 230)
    land[pond] = CLASSES.index("water")
    lane = (np.abs(v - 282) < 3.5) | ((np.abs(u - 150 - 0.15 * v) < 3.2) & (distance > 160))
    land[lane & (distance > 190)] = CLASSES.index("road")
    land[distance < 178] = CLASSES.index("levee")
    land[np.abs(distance - 168) < 3.5] = CLASSES.index("road")
    land[distance < 158] = CLASSES.index("bank")
    land[distance < 70] = CLASSES.index("flat")
    land[distance < -25] = CLASSES.index("water")

    def pixels(values: NDArray[Any]) -> NDArray[np.float64]:
        return values.reshape(config.shape[0], FINE, config.shape[1], FINE).mean(axis=(1, 3), dtype=np.float64)

    texture = 1 + 0.05 * _noise((rows, cols), 18 / cell, rng) + 0.04 * _noise((rows, cols), 6 / cell, rng)
    crops = (land == CLASSES.index("single_crop")) | (land == CLASSES.index("double_crop"))
    return _Land(
        fractions=np.stack([pixels(land == k) for k in range(len(_MIXES))]),
        distance=pixels(distance),
        phase=pixels(np.where(crops, (table[key, 2] - 0.5) * 26, 3 * _noise((rows, cols), 80 / cell, rng))),
        amplitude=pixels(np.where(crops, 0.85 + 0.3 * table[key, 3], 1 + 0.06 * _noise((rows, cols), 30 / cell, rng))),
        brightness=pixels(texture * np.where(crops, 0.9 + 0.2 * table[key, 1], 1.0)),
    )


def _scatter_changes(config: SimulationConfig, land: _Land, rng: np.random.Generator) -> tuple[Change, ...]:
    """`random_changes` more changes on classes where they make sense, in the second half of the period, not overlapping."""
    made: list[Change] = []
    main = np.argmax(land.fractions, axis=0)
    taken = np.zeros(config.shape, bool)
    for change in config.changes:
        taken |= _cover(config, change) > 0
    where = {
        "sand_mining": ("bank",),
        "clear_cut": ("forest",),
        "construction": ("single_crop", "double_crop"),
        "gradual": ("forest",),
    }
    half = (config.end - config.start).days // 2
    for _ in range(config.random_changes * 40):
        if len(made) == config.random_changes:
            break
        row, col = int(rng.integers(3, config.shape[0] - 3)), int(rng.integers(3, config.shape[1] - 3))
        kind = str(rng.choice(sorted(where)))
        radius, turn = rng.uniform(0.8, 3.5, 7), np.sort(rng.uniform(0, 2 * np.pi, 7))
        fraction, delay = float(rng.uniform(0.15, 1.0)), int(rng.integers(0, max(half - 150, 1)))
        if CLASSES[main[row, col]] not in where[kind]:
            continue
        x, y = config.grid.transform @ (col + 0.5, row + 0.5)
        ring = tuple(
            (float(x + r * config.resolution * np.cos(a)), float(y + r * config.resolution * np.sin(a)))
            for r, a in zip(radius, turn, strict=True)
        )
        change = Change(
            name=f"R{len(made) + 1:03d}",
            kind=kind,  # type: ignore[arg-type]
            polygon=ring,
            day=config.start + timedelta(days=half + delay),
            fraction=fraction,
            duration_days=360 if kind == "gradual" else 0,
            regrowth_years=2.0 if kind == "clear_cut" and rng.uniform() < 0.5 else 0.0,
        )
        cover = _cover(config, change) > 0
        if not cover.any() or (cover & taken).any():
            continue
        taken |= cover
        made.append(change)
    return tuple(made)


def _cover(config: SimulationConfig, change: Change) -> NDArray[np.float64]:
    """Share of each pixel inside the polygon, (y, x), to 1/64."""
    fine = 8
    shape = (config.shape[0] * fine, config.shape[1] * fine)
    ring = [*change.polygon, change.polygon[0]]
    drawn = rasterize(
        [({"type": "Polygon", "coordinates": [ring]}, 1)],
        out_shape=shape,
        transform=config.grid.transform @ Affine.scale(1 / fine),
        fill=0,
        dtype="uint8",
    )
    return drawn.reshape(config.shape[0], fine, config.shape[1], fine).mean(axis=(1, 3), dtype=np.float64)


def _pixel_truth(
    config: SimulationConfig, changes: Sequence[Change], weights: NDArray[np.floating]
) -> tuple[NDArray[np.datetime64], NDArray[np.uint8], NDArray[np.float32]]:
    break_date = np.full(config.shape, np.datetime64("NaT"), "datetime64[D]")
    kind = np.zeros(config.shape, np.uint8)
    for index in sorted(range(len(changes)), key=lambda i: changes[i].day, reverse=True):
        hit = weights[index] > 0
        break_date[hit] = np.datetime64(changes[index].day, "D")
        kind[hit] = KINDS.index(changes[index].kind)
    return break_date, kind, weights.max(axis=0, initial=0).astype(np.float32)


def _bump(day_of_year: NDArray[np.float64], rise: float, fall: float, width: float) -> NDArray[np.float64]:
    """Season between two days: double logistic (Beck et al. 2006, Remote Sens. Environ. 100, eq. 3), 0 to 1."""
    return 1 / (1 + np.exp(-(day_of_year - rise) / width)) - 1 / (1 + np.exp(-(day_of_year - fall) / width))


def _green(name: str, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of green cover of a class by day of the year (after phase shifts), 0 to 1."""
    t = np.mod(t, 365.25)
    if name == "single_crop":
        return 0.08 + 0.84 * _bump(t, 168, 268, 8.0)
    if name == "double_crop":
        winter = _bump(t, 55, 135, 9.0) + 0.35 * (_bump(t, 330, 480, 9.0) + _bump(t, -35, 60, 9.0))
        return 0.08 + 0.80 * np.clip(winter + _bump(t, 178, 282, 8.0), 0, 1)
    if name == "forest":
        return 0.50 + 0.45 * _bump(t, 92, 312, 14.0)
    if name == "flat":
        return 0.10 + 0.55 * (_bump(t, 60, 160, 12.0) + 0.7 * _bump(t, 275, 350, 10.0))
    if name == "bank":
        return 0.22 + 0.55 * _bump(t, 75, 310, 16.0)
    if name == "levee":
        return 0.35 + 0.45 * _bump(t, 75, 310, 16.0)
    if name == "urban":
        return 0.08 + 0.06 * _bump(t, 85, 310, 14.0)
    if name == "road":
        return np.full_like(t, 0.05)
    return np.zeros_like(t)


def _surface(
    config: SimulationConfig,
    land: _Land,
    changes: Sequence[Change],
    weights: NDArray[np.float64],
    season: Mapping[int, tuple[float, float, float]],
    day: date,
) -> NDArray[np.float64]:
    """True reflectance of the surface on one day, (band, y, x)."""
    # The year's shift and height are blended over the turn of the year, so that no series jumps on 1 January.
    t = day.timetuple().tm_yday
    here, other = (season[day.year], season[day.year + (1 if t > 182 else -1)])
    mix = 0.5 * np.exp(-min(t, 366 - t) / 20.0)
    phase, height, shore_shift = (a * (1 - mix) + b * mix for a, b in zip(here, other, strict=True))

    spectra = {name: np.array(values)[:, None, None] for name, values in SPECTRA.items()}
    local = t - phase - land.phase
    # Waterline as distance (m): low in winter, high in July and August, with the year's own flood.
    shore = -12 + (62 + shore_shift) * np.exp(-0.5 * ((t - 208) / 46.0) ** 2)
    under = 1 / (1 + np.exp(-(shore - land.distance) / 5.0))
    turbid = 1 + 0.25 * np.exp(-0.5 * ((t - 208) / 60.0) ** 2)
    water = spectra["water"] * np.array([turbid, turbid, turbid**1.6, turbid**1.3, 1, 1])[:, None, None]

    total = np.zeros((len(BANDS), *config.shape))
    for k, name in enumerate(_MIXES):
        part = land.fractions[k]
        if not part.any():
            continue
        ground, cover = _MIXES[name]
        green = np.clip(_green(name, local) * height * land.amplitude, 0, 0.97)
        look = (spectra[ground] * (1 - green) + spectra[cover] * green) * land.brightness
        if name == "water":
            look = np.broadcast_to(water, look.shape)
        elif name in ("flat", "bank"):
            wet = under if name == "flat" else under**2
            look = look * (1 - wet) + water * wet
        total += part * look

    for change, weight in zip(changes, weights, strict=True):
        age = (day - change.day).days
        if age < 0 or not weight.any():
            continue
        step = min(1.0, (age + 1) / change.duration_days) if change.duration_days else 1.0
        if change.kind == "sand_mining":
            new = spectra["sand"] * 0.92 * land.brightness**2
        elif change.kind == "flooded_pit":
            new = np.broadcast_to(water, total.shape)
        elif change.kind == "construction":
            # Bare soil for half a year, then concrete.
            built = min(1.0, max(0.0, (age - 120) / 90))
            new = (spectra["soil"] * 1.25 * (1 - built) + spectra["concrete"] * 0.85 * built) * land.brightness**2
        else:
            back = 1 - np.exp(-age / 365.25 / change.regrowth_years) if change.regrowth_years else 0.0
            green = np.clip(_green("bank", local) * height, 0, 1) * 0.95 * back
            new = (spectra["soil"] * (1 - green) + spectra["grass"] * green) * land.brightness
        total = total * (1 - weight * step) + new * weight * step
    return total


@dataclass(frozen=True, slots=True, eq=False)
class _Sky:
    """cover: (y, x) cloud opacity 0-1; shade: (y, x) depth of shadow 0-1; seen: (y, x) bool."""

    cover: NDArray[np.float64]
    shade: NDArray[np.float64]
    seen: NDArray[np.bool_]

    @property
    def shadow(self) -> NDArray[np.bool_]:
        return (self.shade > 0.25) & (self.cover < 0.3)


def _draw_sky(config: SimulationConfig, day: date, rng: np.random.Generator) -> _Sky:
    t = day.timetuple().tm_yday
    # Plum rains (about 10 June - 15 July) and the grey end of winter; autumn is clear.
    wet = 0.9 + 0.55 * np.exp(-0.5 * ((t - 178) / 22) ** 2) + 0.30 * np.exp(-0.5 * ((t - 45) / 35) ** 2)
    wet -= 0.25 * np.exp(-0.5 * ((t - 295) / 40) ** 2)
    draw = rng.uniform()
    overcast, partial = min(config.overcast * wet, 0.95), config.partial
    share = rng.uniform(0.80, 1.0) if draw < overcast else rng.beta(1.2, 1.6) if draw < overcast + partial else 0.0
    field_ = 0.8 * _noise(config.shape, 450 / config.resolution, rng) + 0.35 * _noise(config.shape, 120 / config.resolution, rng)
    if share <= 0:
        cover = np.zeros(config.shape)
    elif share >= 0.995:
        cover = np.ones(config.shape)
    else:
        cover = np.clip((field_ - np.quantile(field_, 1 - share)) / 0.35 + 0.15, 0, 1)
        cover[field_ < np.quantile(field_, 1 - share)] = 0
    # Sun from the south east: shadows fall to the north west, further in winter. Lat 30: elevation 36-80 degrees at 10:50.
    height = rng.uniform(700, 1800)
    elevation = np.radians(57 - 21 * np.cos(2 * np.pi * (t - 172) / 365.25 + np.pi))
    reach = min(height / np.tan(elevation), 1200) / config.resolution
    moved = shift_array(cover, (-reach * 0.77, -reach * 0.64), order=1, mode="reflect")
    seen = np.ones(config.shape, bool)
    if rng.uniform() < 0.04:  # edge of the swath
        rows, cols = np.indices(config.shape)
        seen = cols * np.cos(0.2) - rows * np.sin(0.2) < rng.uniform(0.2, 0.9) * config.shape[1]
    return _Sky(cover=cover, shade=gaussian_filter(moved, 1.2), seen=seen)


def _observe(
    config: SimulationConfig, truth: NDArray[np.float64], sky: _Sky, day: date, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One delivered scene (band, y, x) and its quality codes (y, x)."""
    bands = len(BANDS)
    gain = 1 + rng.normal(0, config.scene_noise * 0.7) + rng.normal(0, config.scene_noise * 0.7, bands)
    haze = max(rng.normal(0, config.haze_sd), -1.2 * config.haze_sd) * np.array([1.0, 0.75, 0.55, 0.25, 0.08, 0.05])
    veil = 1 + 0.4 * _noise(config.shape, 400 / config.resolution, rng)
    scene = truth * gain[:, None, None] + haze[:, None, None] * veil
    scene *= 1 - 0.58 * np.clip(sky.shade, 0, 1)
    white = np.array([0.62, 0.60, 0.59, 0.62, 0.46, 0.34])[:, None, None] * (1 + 0.08 * veil)
    scene = scene * (1 - sky.cover) + white * sky.cover
    scene += rng.standard_normal(scene.shape) * config.pixel_noise * (scene + 0.025)

    ndvi = (truth[3] - truth[2]) / (truth[3] + truth[2])
    ndwi = (truth[1] - truth[4]) / (truth[1] + truth[4])
    codes = np.where(ndwi > 0.15, QUALITY["water"], np.where(ndvi > 0.35, QUALITY["vegetation"], QUALITY["bare"])).astype(
        np.uint8
    )
    patchy = _noise(config.shape, 5, rng)
    # `undetected` of the thin part (opacity below 0.35) and of the shadow is called clear, in patches.
    missed = patchy > np.quantile(patchy, 1 - config.undetected) if config.undetected else np.zeros(config.shape, bool)
    codes[sky.shadow & ~missed] = QUALITY["shadow"]
    codes[(sky.cover > 0.02) & (sky.cover <= 0.35) & ~missed] = QUALITY["cirrus"]
    codes[sky.cover > 0.35] = QUALITY["cloud_medium"]
    codes[sky.cover > 0.7] = QUALITY["cloud_high"]
    codes[~sky.seen] = QUALITY["nodata"]
    scene[:, ~sky.seen] = np.nan
    return scene.astype(np.float32), codes


def scene_name(day: date) -> str:
    """File name of a scene, such as SYN_20210103_SR.tif."""
    return f"SYN_{day:%Y%m%d}_SR.tif"


def write_stack(folder: Path, cube: SimulatedCube) -> tuple[Path, ...]:
    """Write one GeoTIFF a date (six bands and `quality`, int16) and `stack.toml`; returns the scene paths in order of time.

    Reflectance = value * 1e-4. Same cube, same bytes. Each file carries the tag GEOEVIDENCE_SYNTHETIC=yes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, day in enumerate(cube.dates):
        values = cube.observed.values[index]
        data = np.where(np.isnan(values), -9999, np.rint(np.clip(values, -0.2, 2.0) * 1e4)).astype(np.int16)
        quality = cube.quality.values[index].astype(np.int16)[None]
        path = folder / scene_name(day)
        write_cog(
            path,
            Raster(data=np.concatenate([data, quality]), grid=cube.grid, nodata=-9999),
            band_names=(*BANDS, "quality"),
            tags={"GEOEVIDENCE_SYNTHETIC": "yes", "ACQUIRED": day.isoformat()},
        )
        paths.append(path)
    (folder / "stack.toml").write_text(_stack_toml(), encoding="utf-8")
    return tuple(paths)


def _stack_toml() -> str:
    bands = ", ".join(f'"{name}"' for name in BANDS)
    codes = ", ".join(str(code) for code in CLEAR)
    return (
        "# 演示数据（合成） demonstration data (synthetic)\n"
        'sensor = "synthetic"\n'
        f"bands = [{bands}]\n"
        "scale = 0.0001\n"
        "offset = 0.0\n"
        "nodata = -9999\n"
        'quality = "quality"\n'
        f"clear = [{codes}]\n"
        "synthetic = true\n"
    )


def truth_geojson(cube: SimulatedCube) -> dict[str, Any]:
    """The true changes as a GeoJSON FeatureCollection in EPSG:4326 (RFC 7946), with date, kind, fraction and area in m2."""
    target = parse_crs("EPSG:4326")
    features = []
    for change in cube.changes:
        ring = [list(corner) for corner in (*change.polygon, change.polygon[0])]
        area = 0.5 * sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
        if area < 0:
            ring.reverse()
        moved = transform_geometry({"type": "Polygon", "coordinates": [ring]}, cube.grid.crs, target)
        moved["coordinates"] = [[[round(x, 8), round(y, 8)] for x, y in moved["coordinates"][0]]]
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "name": change.name,
                    "kind": change.kind,
                    "date": change.day.isoformat(),
                    "duration_days": change.duration_days,
                    "fraction": change.fraction,
                    "regrowth_years": change.regrowth_years,
                    "area_m2": round(abs(area), 3),
                    "synthetic": True,
                },
                "geometry": moved,
            }
        )
    return {"type": "FeatureCollection", "features": features}
