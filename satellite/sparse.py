"""Changed pixels of many tiles as lists: their files, their support across tile edges, their grouping.

In: break maps of single tiles. Out: lists of breaks in order of (row, col, layer) on the whole grid, groups of breaks that
belong together, and the file of a tile: header, arrays, digest (docs/formats/scan.md). A map of a province does not fit
into memory; its changed pixels do, and they are joined band of rows by band of rows.
The rules are those of `segment.keep_supported` and `events.group_pixels`; nothing is decided here that they do not decide.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from geoevidence.errors import FormatError
from geoevidence.raster import Grid
from geoevidence.trust import canonical
from satellite.types import NODATE, BreakMap, Status

MAGIC = b"GEOSCAN1"
SUPPORT_REACH = 2
"""How far away, in pixels, a pixel can matter to `keep_supported`: eight neighbours, applied twice."""

_DTYPES = {"|u1", "<i2", "<i4", "<i8", "<f4", "<f8"}
_MAX_HEADER = 64 << 20
_MAX_ARRAY = 1 << 30
_LAYERS = tuple(
    f.name for f in fields(BreakMap) if f.name not in ("grid", "first_day", "last_day", "magnitude_of", "observations", "status")
)
"""Fields of a break map that have a value for each break."""


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A window of the whole grid: first row, first col, rows, cols."""

    row: int
    col: int
    rows: int
    cols: int

    @property
    def window(self) -> Window:
        return Window(self.col, self.row, self.cols, self.rows)  # type: ignore[call-arg]

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.rows), slice(self.col, self.col + self.cols)

    def holds(self, rows: NDArray[np.int32], cols: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of the pixels lie in the window."""
        inside_rows = (rows >= self.row) & (rows < self.row + self.rows)
        return np.asarray(inside_rows & (cols >= self.col) & (cols < self.col + self.cols))

    def grown(self, by: int) -> Box:
        """The window with `by` pixels more on every side (fewer with a negative number); may leave the grid."""
        return Box(self.row - by, self.col - by, self.rows + 2 * by, self.cols + 2 * by)

    def within(self, other: Box) -> bool:
        ends = self.row + self.rows <= other.row + other.rows and self.col + self.cols <= other.col + other.cols
        return self.row >= other.row and self.col >= other.col and ends


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """Breaks of single pixels as a list.

    rows, cols: (n,) int32 on the whole grid. layers: (n,) uint8, number of the break at its pixel. values: name -> (n,), the
    fields of a `BreakMap` that have a value for each break. Sorted by (row, col, layer).
    """

    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    layers: NDArray[np.uint8]
    values: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[Any]) -> Nodes:
        """Those at the positions, or where the mask is True, in that order."""
        values = {name: array[chosen] for name, array in self.values.items()}
        return Nodes(self.rows[chosen], self.cols[chosen], self.layers[chosen], values)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, for a file."""
        return {"row": self.rows, "col": self.cols, "layer": self.layers, **self.values}

    def digest(self) -> str:
        """SHA-256 of the list, hex."""
        found = hashlib.sha256()
        for name, array in sorted(self.arrays().items()):
            found.update(f"{name} {array.dtype.str} {len(array)}\n".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def nodes_of(breaks: BreakMap, box: Box) -> Nodes:
    """The breaks of a map that covers `box`."""
    layers, rows, cols = np.nonzero(breaks.break_date != NODATE)
    order = np.lexsort((layers, cols, rows))
    layers, rows, cols = layers[order], rows[order], cols[order]
    values = {name: getattr(breaks, name)[layers, rows, cols] for name in _LAYERS}
    return Nodes(
        (rows + box.row).astype(np.int32),
        (cols + box.col).astype(np.int32),
        layers.astype(np.uint8),
        dict(sorted(values.items())),
    )


def nodes_from(arrays: Mapping[str, NDArray[Any]], *, where: str) -> Nodes:
    """The list in the arrays of a file. Raises FormatError."""
    try:
        nodes = Nodes(arrays["row"], arrays["col"], arrays["layer"], {name: arrays[name] for name in sorted(_LAYERS)})
    except KeyError as error:
        raise FormatError("satellite.scan_file_damaged", path=where, reason=f"no array {error}") from error
    if any(array.shape != nodes.rows.shape for array in nodes.arrays().values()):
        raise FormatError("satellite.scan_file_damaged", path=where, reason="arrays of different length")
    return nodes


def joined(parts: Sequence[Nodes]) -> Nodes:
    """One list of several of different pixels, in order."""
    if len(parts) == 1:
        return parts[0]
    names = parts[0].arrays() if parts else {}
    all_ = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in names}
    order = np.lexsort((all_["layer"], all_["col"], all_["row"]))
    values = {name: array[order] for name, array in all_.items() if name not in ("row", "col", "layer")}
    return Nodes(all_["row"][order], all_["col"][order], all_["layer"][order], values)


def no_nodes() -> Nodes:
    """The empty list."""
    types = {"magnitude": np.float32, "score": np.float32, "pace": np.uint8}
    values = {name: np.empty(0, types.get(name, np.int32)) for name in sorted(_LAYERS)}
    return Nodes(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint8), values)


def dense(
    nodes: Nodes,
    box: Box,
    grid: Grid | None,
    *,
    first_day: int,
    last_day: int,
    magnitude_of: str,
    status: NDArray[np.uint8] | None = None,
    observations: NDArray[np.int16] | None = None,
) -> BreakMap:
    """The break map of a window from the breaks in it; without `status` a pixel has a change or none."""
    nodes = nodes.take(box.holds(nodes.rows, nodes.cols))
    rows, cols, layers = nodes.rows - box.row, nodes.cols - box.col, nodes.layers.astype(np.intp)
    depth = int(layers.max(initial=0)) + 1
    filled: dict[str, Any] = {}
    for name, array in nodes.values.items():
        fill = NODATE if array.dtype == np.int32 else np.nan if array.dtype.kind == "f" else 0
        layer = np.full((depth, box.rows, box.cols), fill, array.dtype)
        layer[layers, rows, cols] = array
        filled[name] = layer
    if status is None:
        status = np.full((box.rows, box.cols), np.uint8(Status.NO_CHANGE))
        status[rows, cols] = Status.CHANGE
    if observations is None:
        observations = np.zeros((box.rows, box.cols), np.int16)
    return BreakMap(
        grid=grid,
        first_day=first_day,
        last_day=last_day,
        magnitude_of=magnitude_of,
        status=status,
        observations=observations,
        **filled,
    )


def settled(nodes: Nodes, around: Sequence[Nodes], box: Box, rule: Callable[[BreakMap], BreakMap]) -> Nodes:
    """The breaks of one tile that a rule with a reach of `SUPPORT_REACH` pixels keeps.

    Args:
        nodes: of the tile, before the rule. around: lists that hold all breaks within the reach outside the tile.
        box: the tile. rule: `keep_supported` with its configuration.
    """
    if not len(nodes):
        return nodes
    wide = box.grown(SUPPORT_REACH)
    near = [part.take(wide.holds(part.rows, part.cols)) for part in around]
    every = joined([nodes, *(part for part in near if len(part))])
    # Only the surroundings of breaks are worked on: most of a tile has none.
    row, col = int(nodes.rows.min()) - SUPPORT_REACH, int(nodes.cols.min()) - SUPPORT_REACH
    work = Box(row, col, int(nodes.rows.max()) - row + 1 + SUPPORT_REACH, int(nodes.cols.max()) - col + 1 + SUPPORT_REACH)
    kept = rule(dense(every, work, None, first_day=0, last_day=0, magnitude_of=""))
    found = nodes_of(kept, work)
    return found.take(box.holds(found.rows, found.cols))


# Grouping -------------------------------------------------------------------------------------------------------------


def _labels(nodes: Nodes, link_days: int) -> NDArray[np.int32]:
    """(n,) number of the group of each break: touching pixels (also at corners) whose intervals are near in time."""
    start = nodes.values["last_clear_before"].astype(np.int64)
    end = nodes.values["first_clear_after"].astype(np.int64)
    # One column more than there are keeps the last pixel of a row apart from the first of the next.
    width = int(nodes.cols.max(initial=0)) + 2
    place = nodes.rows.astype(np.int64) * width + nodes.cols
    pixels, first, count = np.unique(place, return_index=True, return_counts=True)
    pairs = [np.empty((2, 0), np.int64)]
    deepest = int(count.max(initial=0))
    for step in (1, width - 1, width, width + 1):
        at = np.searchsorted(pixels, pixels + step)
        there = np.minimum(at, len(pixels) - 1)
        touching = np.flatnonzero(pixels[there] == pixels + step)
        other = there[touching]
        for a in range(deepest):
            for b in range(deepest):
                both = (count[touching] > a) & (count[other] > b)
                one, two = first[touching[both]] + a, first[other[both]] + b
                near = np.maximum(start[one], start[two]) - np.minimum(end[one], end[two]) <= link_days
                pairs.append(np.stack([one[near], two[near]]))
    edges = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(len(nodes), len(nodes)))
    _, label = connected_components(graph, directed=False)
    return np.asarray(label)


def grouped(bands: Iterable[tuple[int, Nodes]], *, link_days: int) -> Iterator[Nodes]:
    """Groups of breaks that belong together, each pixel once (with the stronger break), as soon as each is complete.

    Args:
        bands: (last row, breaks) of bands of rows, from top to bottom, that cover all breaks.
        link_days: touching pixels whose intervals are at most this far apart belong together, d.

    Memory is bounded by one band and by the groups that reach its last row.
    """
    open_ = no_nodes()
    for last_row, band in bands:
        nodes = joined([part for part in (open_, band) if len(part)] or [band])
        if not len(nodes):
            continue
        label = _labels(nodes, link_days)
        goes_on = np.zeros(int(label.max()) + 1, bool)
        goes_on[label[nodes.rows >= last_row]] = True
        open_ = nodes.take(goes_on[label])
        yield from _split(nodes.take(~goes_on[label]), label[~goes_on[label]])
    if len(open_):
        yield from _split(open_, _labels(open_, link_days))


def _split(nodes: Nodes, label: NDArray[np.int32]) -> Iterator[Nodes]:
    if not len(nodes):
        return
    # Within a group by pixel, the stronger break first.
    order = np.lexsort((-nodes.values["score"], nodes.cols, nodes.rows, label))
    label = label[order]
    nodes = nodes.take(order)
    new_group = np.concatenate([[True], np.diff(label) != 0])
    new_pixel = np.concatenate([[True], (np.diff(nodes.rows) != 0) | (np.diff(nodes.cols) != 0)])
    keep = new_group | new_pixel
    nodes, starts = nodes.take(keep), np.flatnonzero(new_group[keep])
    for start, stop in zip(starts, [*starts[1:], len(nodes)], strict=True):
        yield nodes.take(np.arange(start, stop))


# Files ----------------------------------------------------------------------------------------------------------------


def pack(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a file with a header (I-JSON without floats) and arrays; the same content gives the same bytes."""
    described, blocks = [], []
    for name, array in sorted(arrays.items()):
        plain = np.ascontiguousarray(array)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        if plain.dtype.str not in _DTYPES:
            raise ValueError(f"the array {name} has the type {plain.dtype}")
        block = zlib.compress(plain.tobytes(), 6)
        described.append({"name": name, "dtype": plain.dtype.str, "shape": list(plain.shape), "bytes": len(block)})
        blocks.append(block)
    text = canonical.dumps({"content": dict(header), "arrays": described})
    body = b"".join([MAGIC, struct.pack("<Q", len(text)), text, *blocks])
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, *, where: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays (read-only) of such a file. Raises FormatError on any change of a byte."""

    def damaged(reason: str) -> FormatError:
        return FormatError("satellite.scan_file_damaged", path=where, reason=reason)

    if len(data) < len(MAGIC) + 8 + 32 or not data.startswith(MAGIC):
        raise damaged("not a file of a scan")
    body, digest = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise damaged("its digest differs")
    (length,) = struct.unpack_from("<Q", body, len(MAGIC))
    position = len(MAGIC) + 8
    if length > min(_MAX_HEADER, len(body) - position):
        raise damaged("header too long")
    record = canonical.loads(body[position : position + length], where=where, max_bytes=_MAX_HEADER)
    position += length
    arrays: dict[str, NDArray[Any]] = {}
    try:
        content, described = record["content"], record["arrays"]
        for entry in described:
            dtype = entry["dtype"]
            shape, size = tuple(entry["shape"]), entry["bytes"]
            if dtype not in _DTYPES or any(not isinstance(n, int) or n < 0 for n in (*shape, size)):
                raise damaged(f"array {entry['name']}")
            expected = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
            if expected > _MAX_ARRAY:
                raise damaged(f"array {entry['name']} is too large")
            engine = zlib.decompressobj()
            raw = engine.decompress(body[position : position + size], expected + 1)
            if len(raw) != expected or not engine.eof:
                raise damaged(f"array {entry['name']}")
            arrays[entry["name"]] = np.frombuffer(raw, dtype).reshape(shape)
            position += size
    except (KeyError, TypeError, zlib.error) as error:
        raise damaged(type(error).__name__) from error
    if position != len(body) or not isinstance(content, dict):
        raise damaged("trailing bytes")
    return content, arrays
