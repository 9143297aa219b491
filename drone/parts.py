"""Parts of a large flight: which photos go together, and what is made of each by itself. Memory is that of one part.

Photos are put into compact cells by their positions; a part is a cell and the photos around it, so that neighbours share photos on all sides.
`place_part` adjusts a part, `make_part` makes its products once the parts are joined; both keep what they finished in a folder of the part
(`drone.resume`), so that neither is done twice. Which process calls them changes no byte.
Source of the memory model: measurements in docs/methods/drone_split.md.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from drone.dense import densify
from drone.georeference import positions_of
from drone.joining import JoinConfig, Territory, corrected_block
from drone.merging import Lattice, PartProducts, save_array, save_rasters
from drone.ortho import build_orthomosaic
from drone.resume import StageStore
from drone.sfm import reconstruct
from drone.surface import build_surface
from drone.terrain import build_terrain
from drone.types import DenseCloud, ErrorField, Flight, Reconstruction
from drone.water import find_water, mask_water
from geoevidence.errors import AnalysisError, ConfigError, CoverageError, InputError, ReconstructionError
from geoevidence.types import Message, Progress, no_progress

Array = NDArray[np.float64]
_PROGRAM = 0.7e9
_PER_PHOTO_MP = 3.6e6
_PER_MP = 110e6
"""Bytes that a part takes: of program and libraries, of each photo per megapixel, and of a megapixel whatever the number of photos."""
_FEWEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Settings of `survey_split`.

    photos_per_part: most photos of a part, those around its cell included; 0 = as many as `memory_gb` holds.
    memory_gb: memory that a part under way may take (GB); several workers on one machine take as much each.
    overlap: photos around a cell: of each of its photos so many nearest ones in each of eight directions; more tie parts together
        more firmly, and cost time.
    feather: width over which heights pass over from one part to the next (cells of the surface).
    workers: parts under way at once on this machine; changes no byte.
    join: settings of the joint solution.
    """

    photos_per_part: int = 0
    memory_gb: float = 4.0
    overlap: int = 2
    feather: float = 20.0
    workers: int = 1
    join: JoinConfig = field(default_factory=JoinConfig)

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "photos_per_part": (0, 100_000),
            "memory_gb": (1, 4096),
            "overlap": (1, 10),
            "feather": (0, 500),
            "workers": (1, 1024),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"split.{name}", found=str(getattr(self, name)), low=low, high=high
                )
        if 0 < self.photos_per_part < _FEWEST:
            raise ConfigError(
                "drone.setting_out_of_range",
                setting="split.photos_per_part",
                found=str(self.photos_per_part),
                low=_FEWEST,
                high="-",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """number: from 0. core: photos of its cell; photos: those and the ones around; both sorted by name."""

    number: int
    core: tuple[str, ...]
    photos: tuple[str, ...]


def part_bytes(photos: int, megapixels: float) -> float:
    """Memory that a part of so many photos of so many megapixels takes, bytes."""
    return _PROGRAM + megapixels * (_PER_MP + _PER_PHOTO_MP * photos)


def photos_within(memory_gb: float, megapixels: float) -> int:
    """Most photos of a part that takes no more memory. Raises ConfigError when it holds too few to make a part."""
    count = math.floor((memory_gb * 1e9 - _PROGRAM - megapixels * _PER_MP) / (megapixels * _PER_PHOTO_MP))
    if count < _FEWEST:
        need = part_bytes(_FEWEST, megapixels) / 1e9
        raise ConfigError("drone.split_memory", memory=f"{memory_gb:g}", need=f"{need:.1f}", photos=_FEWEST)
    return count


def plan_parts(flight: Flight, split: SplitConfig) -> tuple[Part, ...]:
    """The parts of a flight; one part where all of it fits.

    The same photos give the same parts, in whatever order they come. Photos without a position are refused unless all fit in one part.

    Raises:
        InputError: photos without position. ConfigError: parts so small that they would be nothing but overlap.
    """
    names = sorted(photo.name for photo in flight.photos)
    largest = max(photo.size[0] * photo.size[1] for photo in flight.photos) / 1e6
    most = split.photos_per_part or photos_within(split.memory_gb, largest)
    if len(names) <= most:
        return (Part(number=0, core=tuple(names), photos=tuple(names)),)
    placed = positions_of(flight)
    lost = [name for name in names if name not in placed]
    if lost:
        raise InputError("drone.split_no_positions", photos=len(lost), first=lost[0], most=most)
    places = np.array([placed[name][:2] for name in names])
    around = _around(places, split.overlap)
    for count in range(-(-len(names) // most), len(names) // 2 + 1):
        cells = _cells(np.arange(len(names)), places, count)
        whole = [np.unique(np.concatenate([cell, *(around[i] for i in cell)])) for cell in cells]
        if max(map(len, whole)) <= most:
            return tuple(
                Part(number=k, core=tuple(names[i] for i in cell), photos=tuple(names[i] for i in every))
                for k, (cell, every) in enumerate(zip(cells, whole, strict=True))
            )
    raise ConfigError("drone.split_part_too_small", most=most, overlap=split.overlap)


def _cells(members: NDArray[np.int64], places: Array, count: int) -> list[NDArray[np.int64]]:
    """`count` compact cells of nearly as many members each: halves along the longer side, again and again."""
    if count == 1:
        return [np.sort(members)]
    extent = np.ptp(places[members], axis=0)
    axis = int(extent[1] > extent[0])
    # equal places are told apart by their index, that is by name
    order = members[np.lexsort((members, places[members, 1 - axis], places[members, axis]))]
    first = count // 2
    cut = round(len(order) * first / count)
    return _cells(order[:cut], places, first) + _cells(order[cut:], places, count - first)


def _around(places: Array, each: int) -> list[NDArray[np.int64]]:
    """For every photo the nearest ones in each of eight directions, none farther than two and a half times where most have eight."""
    tree = cKDTree(places)
    reach = 2.5 * float(np.median(tree.query(places, k=min(9, len(places)))[0][:, -1]))
    found = []
    for index, near in enumerate(tree.query_ball_point(places, max(reach, 1e-6))):
        others = np.array(sorted(set(near) - {index}), np.int64)
        away = places[others] - places[index]
        direction = np.floor((np.degrees(np.arctan2(away[:, 1], away[:, 0])) + 22.5) / 45).astype(np.int64) % 8
        distance = np.hypot(away[:, 0], away[:, 1])
        order = np.lexsort((others, distance))
        chosen = [others[order[direction[order] == k][:each]] for k in range(8)]
        found.append(np.concatenate([np.zeros(0, np.int64), *chosen]))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every task needs: where finished work is kept, what it depends on, the flight, its parts, the settings."""

    folder: Path
    request: Mapping[str, Any]
    flight: Flight
    parts: tuple[Part, ...]
    config: Any
    split: SplitConfig

    def home(self, number: int) -> Path:
        return self.folder / f"part-{number:04d}"

    def store(self, number: int) -> StageStore:
        """Finished stages of a part."""
        flight = self.flight_of(number)
        request = {**self.request, "part": number, "part_photos": [photo.name for photo in flight.photos]}
        shared = {"flight": flight, "crs": flight.crs}
        return StageStore(self.home(number), request, shared=shared, kinds=(PartProducts,))

    def block_of(self, number: int) -> Reconstruction | Message:
        """The adjusted part, or why there is none. Raises AnalysisError when it does not stand in its store."""
        block = self.store(number).load("block")
        if block is None:
            raise AnalysisError("drone.part_missing", part=number + 1)
        return cast("Reconstruction | Message", block)

    def placed_of(self, number: int) -> Reconstruction:
        """The adjusted part, which must be one."""
        block = self.block_of(number)
        assert isinstance(block, Reconstruction)
        return block

    def products_of(self, number: int) -> PartProducts:
        """Raises AnalysisError when they do not stand in the part's store."""
        made = self.store(number).load("products")
        if made is None:
            raise AnalysisError("drone.part_missing", part=number + 1)
        return cast(PartProducts, made)

    def flight_of(self, number: int) -> Flight:
        """The flight with the photos of a part, and the ground points that they show."""
        wanted = set(self.parts[number].photos)
        photos = tuple(photo for photo in self.flight.photos if photo.name in wanted)
        used = {photo.camera_id for photo in photos}
        points = tuple(
            replace(point, observations={name: pixel for name, pixel in point.observations.items() if name in wanted})
            for point in self.flight.ground_points
            if sum(name in wanted for name in point.observations) >= 2
        )
        cameras = {key: camera for key, camera in self.flight.cameras.items() if key in used}
        return replace(self.flight, photos=photos, cameras=cameras, ground_points=points, rejected={}, gaps=())


def place_part(job: Job, number: int, progress: Progress = no_progress) -> None:
    """Reconstructs a part and keeps it; a part that cannot be reconstructed is kept as the reason."""

    def placed() -> Reconstruction | Message:
        try:
            with tempfile.TemporaryDirectory(prefix="geoevidence-sfm-") as scratch:
                return reconstruct(job.flight_of(number), config=job.config.sfm, workdir=Path(scratch), progress=progress)
        except ReconstructionError as error:
            return Message(id=error.message_id, values={name: str(value) for name, value in error.values.items()})

    job.store(number).once("block", placed)


def make_part(job: Job, number: int, joined: PartTask, progress: Progress = no_progress) -> None:
    """Makes the products of a part, corrected, and keeps them."""
    store = job.store(number)
    if store.load("products") is not None:
        return
    block = corrected_block(job.placed_of(number), joined.correction)
    store.save("products", _products(job.home(number), job, number, block, joined, progress))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartTask:
    """What a part must know of the whole to make its products. centres, owner: cameras of all parts, see `Territory`."""

    correction: ErrorField
    lattice: Lattice
    centres: Array
    owner: NDArray[np.int64]


def _products(home: Path, job: Job, number: int, block: Reconstruction, task: PartTask, progress: Progress) -> PartProducts:
    config, lattice, gaps = job.config, task.lattice, []
    territory = Territory(task.centres, task.owner)
    cloud = densify(block, config=config.dense, progress=progress)
    surface = build_surface(cloud, block, config=replace(config.surface, cell=lattice.metres))
    mine = territory.of(cloud.points) == number
    own = DenseCloud(
        points=cloud.points[mine], colours=cloud.colours[mine], views=cloud.views[mine], height_sd=cloud.height_sd[mine]
    )
    files = {name: save_array(home, name, getattr(own, name)) for name in ("points", "colours", "views", "height_sd")}
    count, median_views = len(own.points), float(np.median(own.views)) if len(own.points) else 0.0
    median_sd = float(np.median(own.height_sd)) if count else 0.0
    # a quarter of what a part takes: gone before the picture is made
    del cloud, own, mine
    surface = replace(
        surface,
        raster=lattice.padded(surface.raster, math.nan),
        standard_uncertainty=None
        if surface.standard_uncertainty is None
        else lattice.padded(surface.standard_uncertainty, math.nan),
        density=None if surface.density is None else lattice.padded(surface.density, math.nan),
    )
    water = find_water(block, surface, config=config.water)
    surface = mask_water(surface, water)
    ortho = replace(config.ortho, cell=lattice.picture_metres)
    mosaic = build_orthomosaic(block, surface, config=ortho, progress=progress)
    terrain = None
    try:
        terrain = build_terrain(surface, config=config.terrain)
    except CoverageError as error:
        reason = Message(id=error.message_id, values={name: str(value) for name, value in error.values.items()})
        gaps.append(Message(id="drone.gap_no_terrain", values={"reason": reason}))
    (row, col, rows, cols), rasters = save_rasters(home, lattice, surface, terrain, water, mosaic)
    return PartProducts(
        number=number,
        row=row,
        col=col,
        rows=rows,
        cols=cols,
        photos=mosaic.photos,
        gains=dict(mosaic.gains),
        fall_off=dict(mosaic.fall_off),
        contrast=dict(mosaic.contrast),
        points=count,
        median_views=median_views,
        median_sd=median_sd,
        correlation_m=surface.correlation_m,
        terrain=terrain is not None,
        files=files | rasters,
        gaps=tuple(gaps),
    )
