"""A dense cloud as Cloud Optimized Point Cloud (COPC 1.0, a LAZ 1.4 file with an octree of point sets).

A viewer that asks for a place and a coarseness reads only the nodes that it needs; any LAZ reader reads the whole. Each node
keeps one point per cell of a 128-cell grid of its cube, the finest nodes keep what is left: no point is dropped or repeated.
Beside colour every point carries its confidence: `height_sd` (m, standard uncertainty against the block) and `views` (photos
whose depth maps agree).
Header dates are fixed and identifiers empty: the same cloud gives the same bytes. Written whole or not at all.
Source: COPC specification 1.0 (copc.io); ASPRS LAS 1.4 R15, point format 7.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from drone.types import DenseCloud
from geoevidence.errors import CoverageError

_CELL_BITS = 7
_GRID = 1 << _CELL_BITS
"""Cells along the side of a node's cube: the COPC reference writers use the same."""
_LEAF = 50_000
"""A node that is left with no more points than this keeps them all."""
_DEEPEST = 20
_SCALE = 0.001
"""Coordinates are stored to the millimetre."""
_ONE_OF_ONE = 0x11
"""LAS bit fields: return 1 of 1."""


def octree_of(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, NDArray[np.int32]]:
    """Cube (centre (3,), half of its side, m) and node of each point, (N, 4) as (depth, x, y, z).

    At each depth a node takes the first of its points in each cell of its grid, in the order of the array.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    half = max(float((high - low).max()) / 2, _SCALE)
    # some readers take the least coordinates of the header for the corner of the cube: there it is
    centre = low + half
    return centre, half, _nodes(_places(points, low, half))


def _places(points: NDArray[np.float64], low: NDArray[np.float64], half: float) -> NDArray[np.uint32]:
    """Places in the cube as whole numbers, (N, 3): their leading bits are the node, the next seven the cell of its grid."""
    steps = 1 << (_DEEPEST + _CELL_BITS)
    place = np.empty((len(points), 3), np.uint32)
    for axis in range(3):
        place[:, axis] = np.minimum((points[:, axis] - low[axis]) * (steps / (2 * half)), steps - 1)
    return place


def _nodes(place: NDArray[np.uint32], leaves_from: int = 0) -> NDArray[np.int32]:
    """Node of each point, (N, 4); above the depth `leaves_from` no node keeps all that is left."""
    nodes = np.zeros((len(place), 4), np.int32)
    left = np.arange(len(place), dtype=np.int32)
    for depth in range(_DEEPEST + 1):
        down = _DEEPEST + _CELL_BITS - depth
        key = np.zeros(len(left), np.int64)
        for axis in range(3):
            key = (key << depth) | (place[left, axis] >> np.uint32(down))
        _, node, counts = np.unique(key, return_inverse=True, return_counts=True)
        taken = (counts[node] <= _LEAF) & (depth >= leaves_from)
        key = node.astype(np.int64)
        for axis in range(3):
            key = (key << _CELL_BITS) | ((place[left, axis] >> np.uint32(down - _CELL_BITS)) & np.uint32(_GRID - 1))
        # a stable sort: the first of a cell is the first of the array
        order = np.argsort(key, kind="stable")
        taken[order[np.concatenate([[True], np.diff(key[order]) > 0])]] = True
        if depth == _DEEPEST:
            taken[:] = True
        mine = left[taken]
        nodes[mine, 0] = depth
        nodes[mine, 1:] = place[mine] >> np.uint32(down)
        left = left[~taken]
        if len(left) == 0:
            break
    return nodes


def write_copc(path: Path, cloud: DenseCloud, crs: CRS, *, synthetic: bool) -> None:
    """Write the cloud, in order of octree nodes.

    Raises:
        CoverageError: no points.
    """
    if len(cloud.points) == 0:
        raise CoverageError("drone.surface_empty")
    header = _header(np.floor(cloud.points.min(axis=0)), crs)
    array = _records(header, cloud)
    # nodes follow from the coordinates as stored, so that a reader finds each point inside its node
    stored = _stored(array, header)
    centre, half, nodes = octree_of(stored)
    with _CopcWriter(path, header, crs, stored.min(axis=0), stored.max(axis=0), centre, half, len(array), synthetic) as writer:
        for key, rows in _by_node(nodes):
            writer.add(key, array[rows])


def write_copc_of_parts(
    path: Path, parts: Sequence[Callable[[], DenseCloud]], crs: CRS, *, synthetic: bool, most: int = 20_000_000
) -> None:
    """Write the points of all parts as one cloud, with about `most` of them, or the largest part, in memory at once.

    A part is asked for several times and must be the same each time. Up to `most` points in all, the file is that of `write_copc` of
    the parts one after the other. Beyond, points go to scratch files by cubes of the octree first; each cube is then put in order by itself, and
    the few points that coarser nodes keep are held back to the end.

    Raises:
        CoverageError: no points.
    """
    low, high, total = np.full(3, np.inf), np.full(3, -np.inf), 0
    for part in parts:
        points = part().points
        if len(points):
            low, high, total = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0)), total + len(points)
    if total == 0:
        raise CoverageError("drone.surface_empty")
    if total <= most:
        every = [part() for part in parts]
        whole = DenseCloud(
            points=np.concatenate([each.points for each in every]),
            colours=np.concatenate([each.colours for each in every]),
            views=np.concatenate([each.views for each in every]),
            height_sd=np.concatenate([each.height_sd for each in every]),
        )
        write_copc(path, whole, crs, synthetic=synthetic)
        return
    header = _header(np.floor(low), crs)
    # as they are stored: to the millimetre
    low, high = (np.rint((edge - header.offsets) / _SCALE) * _SCALE + header.offsets for edge in (low, high))
    half = max(float((high - low).max()) / 2, _SCALE)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=Path(path).parent) as scratch:
        cubes: dict[tuple[int, int, int], int] = {}
        for part in parts:
            array = _records(header, part())
            cube = _places(_stored(array, header), low, half) >> np.uint32(_DEEPEST + _CELL_BITS - _CUBES_AT)
            for (x, y, z), rows in _by_node(cube.astype(np.int32)):
                cubes[x, y, z] = cubes.get((x, y, z), 0) + len(rows)
                with open(os.path.join(scratch, f"{x}-{y}-{z}"), "ab") as stream:
                    array[rows].tofile(stream)
        kept: dict[tuple[int, ...], list[NDArray[Any]]] = {}
        with _CopcWriter(path, header, crs, low, high, low + half, half, total, synthetic) as writer:
            for group in _groups(cubes, most):
                array = np.concatenate(
                    [np.fromfile(os.path.join(scratch, "-".join(map(str, cube))), dtype=_dtype(header)) for cube in group]
                )
                for key, rows in _by_node(_nodes(_places(_stored(array, header), low, half), leaves_from=_CUBES_AT)):
                    if key[0] < _CUBES_AT:
                        kept.setdefault(key, []).append(array[rows])
                    else:
                        writer.add(key, array[rows])
            for key in sorted(kept):
                writer.add(key, np.concatenate(kept[key]))


_CUBES_AT = 5
"""Depth at which points are parted into cubes. A cell of the coarsest grid, a 128th of the whole, lies within one of them."""


def _groups(cubes: Mapping[tuple[int, int, int], int], most: int) -> Iterator[list[tuple[int, int, int]]]:
    """Cubes in their order, as many at once as hold about `most` points."""
    group: list[tuple[int, int, int]] = []
    held = 0
    for cube in sorted(cubes):
        if group and held + cubes[cube] > most:
            yield group
            group, held = [], 0
        group.append(cube)
        held += cubes[cube]
    if group:
        yield group


def _header(offsets: NDArray[np.float64], crs: CRS) -> Any:
    import laspy

    header = laspy.LasHeader(point_format=7, version="1.4")
    # A date and a random identifier would make the same cloud differ from day to day.
    header.creation_date = date(1970, 1, 1)
    header.offsets = offsets
    header.scales = np.full(3, _SCALE)
    header.add_crs(crs)
    header.add_extra_dim(laspy.ExtraBytesParams(name="height_sd", type=np.float32, description="m, against the block"))
    header.add_extra_dim(laspy.ExtraBytesParams(name="views", type=np.uint8, description="photos that agree"))
    return header


def _records(header: Any, cloud: DenseCloud) -> NDArray[Any]:
    """The points as they are stored."""
    import laspy

    records = laspy.LasData(header)
    records.x, records.y, records.z = cloud.points.T
    # LAS colours have 16 bits.
    records.red, records.green, records.blue = (cloud.colours.astype(np.uint16) * 257).T
    records.height_sd, records.views = cloud.height_sd, cloud.views
    array = records.points.array
    array["bit_fields"] = _ONE_OF_ONE
    return np.asarray(array)


def _dtype(header: Any) -> np.dtype[Any]:
    return np.dtype(header.point_format.dtype())


def _stored(array: NDArray[Any], header: Any) -> NDArray[np.float64]:
    return np.asarray(np.column_stack([array[axis] for axis in "XYZ"]) * _SCALE + header.offsets, np.float64)


def _by_node(nodes: NDArray[np.int32]) -> Iterator[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Each node, sorted, and the rows that are in it, in their order."""
    order = np.lexsort(nodes.T[::-1])
    starts = np.concatenate([[0], np.nonzero(np.any(np.diff(nodes[order], axis=0) != 0, axis=1))[0] + 1, [len(order)]])
    for first, last in pairwise(starts):
        if first < last:
            yield tuple(int(v) for v in nodes[order[first]]), order[first:last]


class _CopcWriter:
    """A COPC file under way: written whole or not at all."""

    def __init__(
        self,
        path: Path,
        header: Any,
        crs: CRS,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        centre: NDArray[np.float64],
        half: float,
        points: int,
        synthetic: bool,
    ) -> None:
        import copclib

        self._path = path
        self._scratch = tempfile.TemporaryDirectory(prefix=".part-", dir=Path(path).parent)
        self._target = os.path.join(self._scratch.name, "cloud.copc.laz")
        config = copclib.CopcConfigWriter(
            7, _vector(header.scales), _vector(header.offsets), crs.to_wkt("WKT1_GDAL"), _extra_bytes(header, self._scratch.name),
            False,
        )  # fmt: skip
        config.las_header.creation_year, config.las_header.creation_day = 1970, 1
        config.las_header.generating_software = "geoevidence"
        config.las_header.system_identifier = "SYNTHETIC" if synthetic else ""
        config.las_header.min, config.las_header.max = _vector(low), _vector(high)
        config.las_header.points_by_return = [points, *[0] * 14]
        config.copc_info.center_x, config.copc_info.center_y, config.copc_info.center_z = map(float, centre)
        config.copc_info.halfsize, config.copc_info.spacing = half, 2 * half / _GRID
        self._writer = copclib.FileWriter(self._target, config)

    def __enter__(self) -> _CopcWriter:
        return self

    def add(self, key: tuple[int, ...], points: NDArray[Any]) -> None:
        import copclib

        self._writer.AddNode(copclib.VoxelKey(*key), copclib.VectorChar(np.ascontiguousarray(points).view(np.int8).reshape(-1)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._scratch:
            self._writer.Close()
            if kind is None:
                with open(self._target, "rb") as stream:
                    os.fsync(stream.fileno())
                os.replace(self._target, self._path)


def _vector(values: NDArray[np.float64]):  # type: ignore[no-untyped-def]
    import copclib

    return copclib.Vector3(*(float(v) for v in values))


def _extra_bytes(header, folder: str):  # type: ignore[no-untyped-def]
    """Description of the extra dimensions in the form that copclib takes: it reads, but cannot make one."""
    import copclib
    import laspy

    small = laspy.LasData(header)
    small.x, small.y, small.z = np.repeat(header.offsets[:, None], 1, axis=1)
    path = os.path.join(folder, "dimensions.laz")
    small.write(path, laz_backend=laspy.LazBackend.Lazrs)
    return copclib.LazReader(path).laz_config.extra_bytes_vlr
