"""A stratified random sample of the pixels of a change map: where people are to look so that the map can be judged.

In: the result folder of `satellite.monitor` (`status.tif`, `break_date.tif`), how to divide it, a seed. Out: a `Sample`
with the strata, their pixel counts, the inclusion probabilities and the points, and its files (docs/formats/assessment.md).
Whether a pixel is drawn depends on the seed, its row and column and the size of its stratum, on nothing else: not on the
order of reading, and a larger sample of the same seed holds the smaller one (permanent random numbers, Ohlsson 1995).
It looks at no scene and judges nothing; the estimates are in `accuracy`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import box, mapping

from geoevidence.crs import parse_crs, transformer
from geoevidence.errors import ConfigError, CoverageError, FormatError, GridMismatchError
from geoevidence.messages import render
from geoevidence.raster import Grid, grid_of, open_strict, read_raster
from geoevidence.trust import canonical
from geoevidence.types import Lang, ProcessResult, config_from_parameters, decimal_text, decimal_value, require
from satellite.events import WGS84, day_of, ground_area
from satellite.stack import StackSpec
from satellite.types import NODATE, Pace, Status

SAMPLE_FILE = "sample.json"
MAX_PIXELS = 400_000_000
"""Largest map whose patches are told apart at once: about 8 bytes a pixel in all (labels 4, state, stratum, masks)."""
MAX_POINTS = 20_000
MAX_BYTES = 64 * 1024 * 1024
_SCHEMA = "geoevidence.sample.v1"

Allocation = Literal["neyman", "proportional", "equal"]
Claim = Literal["change", "no_change", "undecided"]
"""What the map says about every pixel of a stratum."""

STRATA: Mapping[str, Claim] = {
    "change_large": "change",
    "change_small": "change",
    "change_gradual": "change",
    "change_tiny": "change",
    "near_change": "no_change",
    "stable": "no_change",
    "undecided": "undecided",
}
"""All strata in order, and what the map claims there."""
UNDECIDED = (Status.TOO_FEW, Status.CLOUD, Status.NOT_OBSERVED, Status.FAILED_READ)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """How the map is divided and how many points are drawn.

    points: of the whole sample, 0 = as many as `target_se` asks for.
    target_se: standard error wanted for the changed share of the decided area (1); used where `points` is 0. 0.005 keeps
        the interval within one percent of the area either way.
    allocation: "neyman" minimises the error of the changed area for the rates expected below (Cochran 1977, eq. 5.26),
        "proportional" follows the area, "equal" serves the accuracies of the single strata.
    min_points: of each stratum that has so many pixels; 20 is a compromise of cost, 50 to 100 are advised for classes
        whose own accuracy matters (Olofsson et al. 2014, section 3.2).
    large_pixels: a patch of changed pixels (touching, also at corners) of at least so many is large; 100 = 1 ha at 10 m.
    tiny_pixels: a patch of fewer is tiny; 10 is the smallest event that `satellite.monitor` lists.
    ring_pixels: unchanged pixels so near to a changed one are a stratum of their own, since omissions hide there
        (Olofsson et al. 2020, doi:10.1016/j.rse.2019.111492), px. 0 = no such stratum.
    undecided_points: of the stratum of pixels that the map does not decide; they never count as no change. 0 = not looked at.
    expect_large ... expect_stable: share of each stratum expected to have really changed (1). Guesses: they steer how
        many points a stratum gets and bias nothing when they are wrong.
    """

    points: int = 0
    target_se: float = 0.005
    allocation: Allocation = "neyman"
    min_points: int = 20
    large_pixels: int = 100
    tiny_pixels: int = 10
    ring_pixels: int = 3
    undecided_points: int = 20
    expect_large: float = 0.9
    expect_small: float = 0.75
    expect_gradual: float = 0.6
    expect_tiny: float = 0.4
    expect_near: float = 0.05
    expect_stable: float = 0.005

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "points": (0, MAX_POINTS),
            "target_se": (1e-6, 0.5),
            "min_points": (2, MAX_POINTS),
            "large_pixels": (1, 10**9),
            "tiny_pixels": (1, self.large_pixels),
            "ring_pixels": (0, 1000),
            "undecided_points": (0, MAX_POINTS),
            **{f.name: (0.0, 1.0) for f in fields(self) if f.name.startswith("expect_")},
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError("satellite.setting_out_of_range", name=name, value=value, low=low, high=high)
        if self.allocation not in ("neyman", "proportional", "equal"):
            raise ConfigError(
                "satellite.unknown_setting", name=f"allocation = {self.allocation}", known="neyman, proportional, equal"
            )

    def replace(self, **changes: Any) -> SampleConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def read(cls, path: Path) -> SampleConfig:
        """The configuration in a TOML file. Raises ConfigError: not such a file, an unknown key, a wrong type or value."""
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError("satellite.bad_stack_file", path=Path(path).name, reason=str(error)) from error
        known: dict[str, Any] = {f.name: type(f.default) for f in fields(cls)}
        for name, value in raw.items():
            if name not in known:
                raise ConfigError("satellite.unknown_setting", name=name, known=", ".join(sorted(known)))
            if type(value) is not known[name] and not (known[name] is float and type(value) is int):
                raise ConfigError("satellite.setting_type", name=name, found=type(value).__name__)
            raw[name] = known[name](value)
        return cls(**raw)

    def expected(self, stratum: str) -> float:
        """Share of that stratum expected to have changed."""
        return float(getattr(self, f"expect_{stratum.removeprefix('change_').removesuffix('_change')}"))

    def to_parameters(self) -> dict[str, Any]:
        """All fields as I-JSON without floats, defaults included."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: decimal_text(value) if isinstance(value, float) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """name: of `STRATA`. claim: what the map says there. pixels: all of it. points: drawn from it."""

    name: str
    claim: Claim
    pixels: int
    points: int

    @property
    def inclusion(self) -> float:
        """Probability of each of its pixels to be drawn."""
        return self.points / self.pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class MapBreak:
    """One break of a pixel as the map has it, days since 1970-01-01; the interval is None where the map holds dates alone."""

    break_date: int
    last_clear_before: int | None
    first_clear_after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePoint:
    """One drawn pixel. id: neutral, in random order. row, col: on the grid. breaks: of the map, in order of time."""

    id: str
    row: int
    col: int
    stratum: str
    breaks: tuple[MapBreak, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A design and its points.

    grid: of the map. cell_area_m2: mean of its cells on the ellipsoid. strata: those with pixels, in the order of `STRATA`.
    points: in order of id. statuses: `Status` name -> pixels of the map. seed: of every random choice.
    config: as asked for. maps: file name -> sha256 of the rasters it was drawn from. source: how the scenes are meant,
    as the result recorded it, for the pictures. synthetic: of demonstration data.
    """

    grid: Grid
    cell_area_m2: float
    strata: tuple[Stratum, ...]
    points: tuple[SamplePoint, ...]
    statuses: Mapping[str, int]
    seed: int
    config: SampleConfig
    maps: Mapping[str, str]
    source: Mapping[str, Any]
    synthetic: bool

    def __post_init__(self) -> None:
        drawn = {stratum.name: stratum.points for stratum in self.strata}
        found = {name: sum(point.stratum == name for point in self.points) for name in drawn}
        if found != drawn or any(point.stratum not in drawn for point in self.points):
            raise FormatError("satellite.bad_sample", path=SAMPLE_FILE, reason=f"strata {drawn}, points {found}")
        rows, cols = self.grid.shape
        places = {(point.row, point.col) for point in self.points}
        inside = all(0 <= row < rows and 0 <= col < cols for row, col in places)
        ids = [point.id for point in self.points]
        if not inside or len(places) != len(ids) or len(set(ids)) != len(ids) or ids != sorted(ids):
            raise FormatError("satellite.bad_sample", path=SAMPLE_FILE, reason="points")

    def place(self, point: SamplePoint) -> tuple[float, float]:
        """Longitude and latitude of the middle of a point's pixel, WGS 84, degrees."""
        x, y = self.grid.transform @ (point.col + 0.5, point.row + 0.5)
        lon, lat = transformer(self.grid.crs, WGS84).transform(x, y)
        return float(lon), float(lat)

    def to_bytes(self) -> bytes:
        """Canonical bytes of `sample.json`."""
        return canonical.dumps(
            {
                "schema": _SCHEMA,
                "seed": self.seed,
                "config": self.config.to_parameters(),
                "maps": dict(self.maps),
                "source": dict(self.source),
                "synthetic": self.synthetic,
                "grid": {
                    "shape": list(self.grid.shape),
                    "transform": [decimal_text(value) for value in tuple(self.grid.transform)[:6]],
                    "crs": self.grid.crs.to_wkt(),
                },
                "cell_area_m2": decimal_text(self.cell_area_m2),
                "statuses": dict(self.statuses),
                "strata": self.strata_record(),
                "points": [
                    {
                        "id": p.id,
                        "row": p.row,
                        "col": p.col,
                        "stratum": p.stratum,
                        "breaks": [[b.break_date, b.last_clear_before, b.first_clear_after] for b in p.breaks],
                    }
                    for p in self.points
                ],
            }
        )

    def strata_record(self) -> list[dict[str, Any]]:
        """The strata as they stand in `sample.json`."""
        return [
            {"name": s.name, "claim": s.claim, "pixels": s.pixels, "points": s.points, "inclusion": decimal_text(s.inclusion)}
            for s in self.strata
        ]

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of `to_bytes`: answers name the sample they belong to by it."""
        return f"sha256:{hashlib.sha256(self.to_bytes()).hexdigest()}"

    def write(self, out: Path) -> None:
        """Write `sample.json`, `sample.csv` and `sample.geojson` into a folder. All three show what the map says: not for
        interpreters, who get the form."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / SAMPLE_FILE, self.to_bytes())
        rows = io.StringIO()
        table = csv.writer(rows, lineterminator="\n")
        table.writerow(["point", "row", "col", "lon", "lat", "stratum", "map_claim", "inclusion", "map_break_dates"])
        features = []
        inclusion = {stratum.name: stratum.inclusion for stratum in self.strata}
        for point in self.points:
            lon, lat = (round(value, 7) for value in self.place(point))
            dates = [day_of(b.break_date).isoformat() for b in point.breaks]
            share = f"{inclusion[point.stratum]:.9g}"
            claim = STRATA[point.stratum]
            table.writerow([point.id, point.row, point.col, lon, lat, point.stratum, claim, share, " ".join(dates)])
            values = {"point": point.id, "stratum": point.stratum, "map_claim": claim, "map_break_dates": dates}
            features.append({"type": "Feature", "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": values})
        write_file(out / "sample.csv", rows.getvalue().encode("utf-8"))
        collection = {"type": "FeatureCollection", "features": features}
        write_file(out / "sample.geojson", (json.dumps(collection, sort_keys=True) + "\n").encode("utf-8"))

    def lines(self, lang: Lang) -> list[str]:
        """The design in words: one line a stratum."""
        lines = []
        for stratum in self.strata:
            values = {
                "stratum": render(f"satellite.stratum_{stratum.name}", {}, lang),
                "pixels": stratum.pixels,
                "area": f"{stratum.pixels * self.cell_area_m2 / 1e4:.4g}",
                "points": stratum.points,
            }
            lines.append(render("satellite.sample_stratum", values, lang))
        return lines


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def read_bounded(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file of at most `limit`. Raises FormatError."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise FormatError("core.cannot_read", path=Path(path).name, reason=error.strerror or str(error)) from error
    if len(data) > limit:
        raise FormatError("satellite.file_too_large", path=Path(path).name, limit=limit)
    return data


_FIELDS = {
    "schema", "seed", "config", "maps", "source", "synthetic", "grid", "cell_area_m2", "statuses", "strata", "points",
}  # fmt: skip


def read_sample(path: Path) -> Sample:
    """The sample of a `sample.json`, or of a folder that holds one. Raises FormatError."""
    path = Path(path)
    path = path / SAMPLE_FILE if path.is_dir() else path
    raw = canonical.loads(read_bounded(path), where=path.name)
    name = path.name
    if require(raw, "schema", str, name) != _SCHEMA:
        raise FormatError("core.unknown_schema", where=name, found=str(raw["schema"]))
    if set(raw) != _FIELDS:
        raise FormatError("satellite.bad_sample", path=name, reason=", ".join(sorted(set(raw) ^ _FIELDS)))
    grid = require(raw, "grid", Mapping, name)
    shape, transform = require(grid, "shape", list, name), require(grid, "transform", list, name)
    try:
        return Sample(
            grid=Grid(
                shape=(_count(shape[0], name), _count(shape[1], name)),
                transform=Affine(*(decimal_value(value, name) for value in transform)),
                crs=parse_crs(require(grid, "crs", str, name)),
            ),
            cell_area_m2=decimal_value(raw["cell_area_m2"], name),
            strata=tuple(_stratum(entry, name) for entry in require(raw, "strata", list, name)),
            points=tuple(_point(entry, name) for entry in require(raw, "points", list, name)),
            statuses={str(k): _count(v, name) for k, v in require(raw, "statuses", Mapping, name).items()},
            seed=_count(raw["seed"], name),
            config=config_from_parameters(SampleConfig, require(raw, "config", Mapping, name), where=name),
            maps={str(k): str(v) for k, v in require(raw, "maps", Mapping, name).items()},
            source=require(raw, "source", Mapping, name),
            synthetic=require(raw, "synthetic", bool, name),
        )
    except (IndexError, TypeError, ValueError) as error:
        raise FormatError("satellite.bad_sample", path=name, reason=str(error)) from error


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FormatError("satellite.bad_sample", path=where, reason=repr(value)[:80])
    return value


def _stratum(raw: Mapping[str, Any], where: str) -> Stratum:
    name = require(raw, "name", str, where)
    pixels, points = _count(require(raw, "pixels", int, where), where), _count(require(raw, "points", int, where), where)
    if STRATA.get(name) != require(raw, "claim", str, where) or not points <= pixels or pixels == 0:
        raise FormatError("satellite.bad_sample", path=where, reason=f"stratum {name[:40]}")
    return Stratum(name=name, claim=STRATA[name], pixels=pixels, points=points)


def _point(raw: Mapping[str, Any], where: str) -> SamplePoint:
    breaks = []
    for entry in require(raw, "breaks", list, where):
        known = isinstance(entry, list) and len(entry) == 3 and type(entry[0]) is int
        if not known or any(day is not None and (type(day) is not int or abs(day) >= 10**6) for day in entry):
            raise FormatError("satellite.bad_sample", path=where, reason=repr(entry)[:80])
        breaks.append(MapBreak(break_date=entry[0], last_clear_before=entry[1], first_clear_after=entry[2]))
    return SamplePoint(
        id=require(raw, "id", str, where),
        row=_count(require(raw, "row", int, where), where),
        col=_count(require(raw, "col", int, where), where),
        stratum=require(raw, "stratum", str, where),
        breaks=tuple(breaks),
    )


# The map and its strata ----------------------------------------------------------------------------------------------


def _map_files(result: Path) -> tuple[dict[str, Path], Mapping[str, Any], bool]:
    """Files by kind, recorded parameters, synthetic: by `result.json` where there is one, else by name, with what a scan recorded."""
    if not result.is_dir():
        raise FormatError("satellite.no_such_source", path=result.name)
    known = ("status", "break_date", "pace")
    if (result / ProcessResult.FILE).is_file():
        record = ProcessResult.read(result)
        files = {product.kind: result / product.path for product in record.products if product.kind in known}
        parameters, synthetic = record.parameters, record.synthetic
    else:
        files = {kind: result / f"{kind}.tif" for kind in known if (result / f"{kind}.tif").is_file()}
        parameters, synthetic = {}, False
        if (result / "scan.json").is_file():
            scan = canonical.loads(read_bounded(result / "scan.json"), where="scan.json", allow_floats=True)
            parameters = require(require(scan, "parameters", Mapping, "scan.json"), "monitor", Mapping, "scan.json")
            synthetic = require(scan, "synthetic", bool, "scan.json")
    missing = [kind for kind in ("status", "break_date") if kind not in files]
    if missing:
        raise FormatError("satellite.no_map", path=result.name, missing=", ".join(f"{kind}.tif" for kind in missing))
    return files, parameters, synthetic


def classify_strata(status: NDArray[np.uint8], gradual: NDArray[np.bool_] | None, config: SampleConfig) -> NDArray[np.uint8]:
    """(y, x) uint8: position of each pixel's stratum in `STRATA`, 255 = outside the area asked for.

    status: (y, x) `Status`. gradual: (y, x) the strongest change of the pixel went gradually, None = not known.
    """
    names = list(STRATA)
    strata = np.full(status.shape, np.uint8(255))
    changed = status == Status.CHANGE
    label = np.zeros(status.shape, np.int32)
    ndimage.label(changed, structure=np.ones((3, 3), np.uint8), output=label)
    size = np.bincount(label.ravel())
    # One number a patch, then a look-up: sizes spread over all pixels would take 8 bytes each.
    kind = np.full(len(size), np.uint8(names.index("change_small")))
    kind[size >= config.large_pixels] = names.index("change_large")
    tiny = size < config.tiny_pixels
    kind[tiny] = names.index("change_tiny")
    strata[changed] = kind[label[changed]]
    if gradual is not None:
        slow = changed & gradual
        slow[slow] = ~tiny[label[slow]]
        strata[slow] = names.index("change_gradual")
    del label
    stable = status == Status.NO_CHANGE
    strata[stable] = names.index("stable")
    if config.ring_pixels:
        reach = np.ones((2 * config.ring_pixels + 1,) * 2, bool)
        # A square is two lines: cheaper, and the same for any ring.
        near = ndimage.binary_dilation(ndimage.binary_dilation(changed, reach[:1]), reach[:, :1])
        strata[stable & near] = names.index("near_change")
    strata[np.isin(status, UNDECIDED)] = names.index("undecided")
    return strata


def _gradual(files: Mapping[str, Path], grid: Grid) -> NDArray[np.bool_] | None:
    if "pace" not in files:
        return None
    raster = read_raster(files["pace"])
    if not raster.grid.matches(grid):
        raise GridMismatchError("core.grids_differ", one=files["status"].name, other=files["pace"].name)
    known = raster.data != Pace.NONE
    return np.asarray(known.any(axis=0) & ((raster.data == Pace.GRADUAL) | ~known).all(axis=0))


def _priorities(seed: int, row: int, cols: int) -> NDArray[np.uint64]:
    """Permanent random numbers of one row of pixels: the first 64-bit words of Philox (Salmon et al. 2011,
    doi:10.1145/2063384.2063405) under the key (seed, row), so that each depends on seed, row and column alone."""
    return np.random.Philox(key=np.array([seed, row], np.uint64)).random_raw(cols)


def draw_pixels(strata: NDArray[np.uint8], wanted: Mapping[int, int], seed: int) -> dict[int, list[tuple[int, int]]]:
    """Simple random samples without replacement: of each stratum the pixels with the smallest priorities.

    strata: (y, x). wanted: stratum -> number of pixels. Returns (row, col) of each stratum in order of priority.
    """
    rows, cols = strata.shape
    best: dict[int, list[tuple[int, int, int]]] = {code: [] for code in wanted}
    bar = dict.fromkeys(wanted, np.uint64(2**64 - 1))  # what is larger is not among the smallest any more
    for row in range(rows):
        counts = np.bincount(strata[row], minlength=256)
        present = [code for code in wanted if counts[code] and wanted[code]]
        if not present:
            continue
        priority = _priorities(seed, row, cols)
        for code in present:
            places = np.flatnonzero((strata[row] == code) & (priority <= bar[code]))
            best[code] += [(int(priority[col]), row, int(col)) for col in places]
            if len(best[code]) > 2 * wanted[code] + 1024:
                best[code] = sorted(best[code])[: wanted[code]]
                bar[code] = np.uint64(best[code][-1][0])
    return {code: [(row, col) for _, row, col in sorted(entries)[: wanted[code]]] for code, entries in best.items()}


# How many ------------------------------------------------------------------------------------------------------------


def points_for_target(sizes: Mapping[str, int], expected: Mapping[str, float], target_se: float) -> int:
    """Points that give the stratified estimate of a share the standard error `target_se` under Neyman allocation.

    n = (sum W S)^2 / (V + sum W S^2 / N), W = share of the area, S = sqrt(p (1 - p)) of the expected share p.
    Source: Cochran 1977, eq. 5.25; without the last term Olofsson et al. 2014, eq. 13.
    """
    total = sum(sizes.values())
    weight = {name: size / total for name, size in sizes.items()}
    spread = {name: math.sqrt(expected[name] * (1 - expected[name])) for name in sizes}
    above = sum(weight[name] * spread[name] for name in sizes) ** 2
    below = target_se**2 + sum(weight[name] * spread[name] ** 2 for name in sizes) / total
    return min(total, max(1, math.ceil(above / below)))


def allocate(
    sizes: Mapping[str, int], expected: Mapping[str, float], points: int, *, allocation: Allocation, min_points: int
) -> dict[str, int]:
    """Points of each stratum: by the rule, at least `min_points` and at most all of its pixels, `points` together.

    Raises ConfigError where `points` do not suffice for the least of every stratum.
    """
    least = {name: min(min_points, size) for name, size in sizes.items()}
    if points < sum(least.values()):
        raise ConfigError(
            "satellite.sample_too_small", points=points, needed=sum(least.values()), strata=len(sizes), each=min_points
        )
    points = min(points, sum(sizes.values()))
    if allocation == "equal":
        pull = {name: 1.0 for name in sizes}
    elif allocation == "proportional":
        pull = {name: float(size) for name, size in sizes.items()}
    else:
        pull = {name: size * math.sqrt(expected[name] * (1 - expected[name])) for name, size in sizes.items()}
    fixed: dict[str, int] = {}
    while True:
        free = [name for name in sizes if name not in fixed]
        left, total = points - sum(fixed.values()), sum(pull[name] for name in free)
        share = {name: left * pull[name] / total if total else left / len(free) for name in free}
        low = {name: least[name] for name in free if share[name] < least[name]}
        high = {name: sizes[name] for name in free if share[name] > sizes[name]}
        # The side that moves more points is fixed first; the other is looked at again with what is left.
        short = sum(least[name] - share[name] for name in low)
        over = sum(share[name] - sizes[name] for name in high)
        if not low and not high:
            break
        fixed |= low if short >= over else high
    whole = {name: math.floor(share[name]) for name in free}
    rest = left - sum(whole.values())
    for name in sorted(free, key=lambda n: (whole[n] - share[n], list(sizes).index(n)))[:rest]:
        whole[name] += 1
    return {name: {**fixed, **whole}[name] for name in sizes}


def design_sample(result: Path, *, seed: int, config: SampleConfig | None = None) -> Sample:
    """A stratified random sample of the pixels of a change map.

    Args:
        result: folder of `satellite.monitor` or of a scan, or any with `status.tif` and `break_date.tif` (and `pace.tif`).
        seed: 0 to 2^53 - 1; state it before the map is seen, and keep it.
        config: None = defaults.

    Raises:
        FormatError: no such rasters. GridMismatchError: they lie on different grids. CoverageError: no pixel is decided.
        ConfigError: too few points, a seed out of range, or a map of more than `MAX_PIXELS`.
    """
    config = config or SampleConfig()
    if not 0 <= seed <= canonical.MAX_INTEGER:
        raise ConfigError("satellite.setting_out_of_range", name="seed", value=seed, low=0, high=canonical.MAX_INTEGER)
    files, parameters, synthetic = _map_files(Path(result))
    with open_strict(files["status"]) as dataset:
        grid = grid_of(dataset, files["status"].name)
    pixels = grid.shape[0] * grid.shape[1]
    if pixels > MAX_PIXELS:
        raise ConfigError("satellite.map_too_large", pixels=pixels, limit=MAX_PIXELS)
    status = read_raster(files["status"], bands=[1]).data[0]
    if status.dtype != np.uint8 or int(status.max()) > max(Status):
        raise FormatError("satellite.bad_status", path=files["status"].name)
    strata = classify_strata(np.asarray(status), _gradual(files, grid), config)
    names = list(STRATA)
    counts = np.bincount(strata.ravel(), minlength=256)
    sizes = {name: int(counts[i]) for i, name in enumerate(names) if counts[i]}
    decided = {name: size for name, size in sizes.items() if STRATA[name] != "undecided"}
    if not decided:
        raise CoverageError("satellite.nothing_decided", path=Path(result).name)
    expected = {name: config.expected(name) for name in decided}
    points = config.points or max(
        points_for_target(decided, expected, config.target_se), sum(min(config.min_points, size) for size in decided.values())
    )
    drawn = allocate(decided, expected, points, allocation=config.allocation, min_points=config.min_points)
    if "undecided" in sizes:
        drawn["undecided"] = min(config.undecided_points, sizes["undecided"])
    if sum(drawn.values()) > MAX_POINTS:
        raise ConfigError("satellite.sample_too_large", points=sum(drawn.values()), limit=MAX_POINTS)
    places = draw_pixels(strata, {names.index(name): count for name, count in drawn.items()}, seed)
    where = sorted((row, col, names[code]) for code, entries in places.items() for row, col in entries)
    # The order in which people see the points must not tell the stratum.
    order = np.argsort(np.random.Philox(key=np.array([seed, 2**64 - 1], np.uint64)).random_raw(len(where)), kind="stable")
    digits = max(3, len(str(len(where))))
    drawn_at = [where[index] for index in order.tolist()]
    changed = [(row, col) for row, col, name in drawn_at if STRATA[name] == "change"]
    breaks = dict(zip(changed, _breaks_at(files["break_date"], grid, changed), strict=True))
    chosen = tuple(
        SamplePoint(id=f"P-{number:0{digits}d}", row=row, col=col, stratum=name, breaks=breaks.get((row, col), ()))
        for number, (row, col, name) in enumerate(drawn_at, start=1)
    )
    bounds = grid.bounds
    cells = Status.__members__.items()
    return Sample(
        grid=grid,
        cell_area_m2=ground_area(mapping(box(*bounds)), grid.crs) / pixels,
        strata=tuple(
            Stratum(name=name, claim=STRATA[name], pixels=sizes[name], points=drawn[name]) for name in names if name in sizes
        ),
        points=chosen,
        statuses={name.lower(): int((status == code).sum()) for name, code in cells},
        seed=seed,
        config=config,
        maps={path.name: _sha256(path) for _, path in sorted(files.items())},
        source={f.name: parameters[f.name] for f in fields(StackSpec) if f.name in parameters},
        synthetic=synthetic,
    )


def _breaks_at(path: Path, grid: Grid, places: Iterable[tuple[int, int]]) -> list[tuple[MapBreak, ...]]:
    """The breaks of single pixels, read from `break_date.tif`. Raises FormatError, GridMismatchError."""
    found = []
    with open_strict(path) as dataset:
        if not grid_of(dataset, path.name).matches(grid):
            raise GridMismatchError("core.grids_differ", one="status.tif", other=path.name)
        alone = dataset.count == 1  # of a scan: the date of the strongest change, without its interval
        if (not alone and dataset.count % 3) or set(dataset.dtypes) != {"int32"}:
            raise FormatError("satellite.no_map", path=path.name, missing="3 k x int32")
        for row, col in places:
            try:
                layers = dataset.read(window=Window(col, row, 1, 1))[:, 0, 0]  # type: ignore[call-arg]
            except RasterioError as error:
                raise FormatError("core.cannot_read", path=path.name, reason=str(error)) from error
            found.append(
                tuple(
                    MapBreak(
                        break_date=int(day),
                        last_clear_before=None if alone else int(before),
                        first_clear_after=None if alone else int(after),
                    )
                    for day, before, after in zip(*([layers] * 3 if alone else np.split(layers, 3)), strict=True)
                    if day != NODATE
                )
            )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stated_options(sample: Sample) -> dict[str, Any]:
    """What the result recorded about the numbers in the scenes, as options of `read_scenes`. Raises FormatError."""
    stated = {name: raw for name, raw in sample.source.items() if raw not in (None, "", [])}
    spec = config_from_parameters(StackSpec, stated, where=SAMPLE_FILE)
    return {name: getattr(spec, name) for name in stated}
