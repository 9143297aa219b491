"""Changed pixels as lists: the same decisions as on whole maps, whatever the tiles; files that any changed byte betrays."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from geoevidence.errors import FormatError
from geoevidence.raster import Grid
from satellite.events import EventConfig, group_pixels
from satellite.segment import BreakConfig, keep_supported
from satellite.sparse import (
    SUPPORT_REACH,
    Box,
    Nodes,
    dense,
    grouped,
    joined,
    no_nodes,
    nodes_from,
    nodes_of,
    pack,
    settled,
    unpack,
)
from satellite.types import NODATE, BreakMap, Pace, Status

GRID = Grid(shape=(30, 26), transform=Affine(10, 0, 500_000, 0, -10, 3_300_000), crs=CRS.from_epsg(32650))


def random_map(seed: int, *, density: float = 0.35, depth: int = 3) -> BreakMap:
    """Breaks in patches with random intervals, in order of time at each pixel; scores on both sides of the rule's limit."""
    rng = np.random.default_rng(seed)
    shape = GRID.shape
    count = np.where(rng.random(shape) < density, rng.integers(1, depth + 1, shape), 0)
    here = np.arange(depth)[:, None, None] < count
    middle = np.sort(rng.choice([17_000, 17_050, 17_400, 18_000], (depth, *shape)) + rng.integers(0, 40, (depth, *shape)), axis=0)
    limit = BreakConfig().min_score

    def filled(values: np.ndarray, fill: float, dtype: type) -> np.ndarray:
        return np.where(here, values, fill).astype(dtype)

    return BreakMap(
        grid=GRID,
        first_day=16_000,
        last_day=19_000,
        break_date=filled(middle, NODATE, np.int32),
        last_clear_before=filled(middle - rng.integers(1, 60, middle.shape), NODATE, np.int32),
        first_clear_after=filled(middle + rng.integers(1, 60, middle.shape), NODATE, np.int32),
        magnitude=filled(rng.normal(size=middle.shape), np.nan, np.float32),
        magnitude_of="NDVI",
        score=filled(limit * rng.uniform(0.6, 1.5, middle.shape), np.nan, np.float32),
        pace=filled(np.full(middle.shape, Pace.ABRUPT), Pace.NONE, np.uint8),
        observations=np.full(shape, 50, np.int16),
        status=np.where(count > 0, np.uint8(Status.CHANGE), np.uint8(Status.NO_CHANGE)),
    )


def boxes(rows: int, cols: int) -> list[Box]:
    return [
        Box(row, col, min(rows, GRID.shape[0] - row), min(cols, GRID.shape[1] - col))
        for row in range(0, GRID.shape[0], rows)
        for col in range(0, GRID.shape[1], cols)
    ]


def part(breaks: BreakMap, box: Box) -> Nodes:
    all_ = nodes_of(breaks, WHOLE)
    return all_.take(box.holds(all_.rows, all_.cols))


WHOLE = Box(0, 0, *GRID.shape)


def same(one: Nodes, other: Nodes) -> bool:
    return one.digest() == other.digest()


@pytest.mark.parametrize(("rows", "cols"), [(30, 26), (10, 13), (7, 5), (2, 3), (1, 1)])
def test_tiles_keep_what_the_whole_map_keeps(rows: int, cols: int) -> None:
    """Also tiles narrower than the reach of the rule, down to single pixels."""
    config = BreakConfig()
    for seed in range(2):
        breaks = random_map(seed)
        tiles = boxes(rows, cols)
        parts = {box: part(breaks, box) for box in tiles}
        kept = []
        for box in tiles:
            wide = box.grown(SUPPORT_REACH)
            near = [
                other
                for b, other in parts.items()
                if b != box
                and b.row < wide.row + wide.rows
                and b.row + b.rows > wide.row
                and b.col < wide.col + wide.cols
                and b.col + b.cols > wide.col
            ]
            kept.append(settled(parts[box], near, box, lambda b: keep_supported(b, config)))
        expected = nodes_of(keep_supported(breaks, config), WHOLE)
        assert 0 < len(expected) < len(nodes_of(breaks, WHOLE))  # the rule decides something here
        assert same(joined(kept), expected)


def test_a_tile_without_its_neighbours_is_not_enough() -> None:
    """What the reach is for: without the surroundings some breaks are decided otherwise."""
    config, breaks = BreakConfig(), random_map(0)
    alone = joined([settled(part(breaks, box), [], box, lambda b: keep_supported(b, config)) for box in boxes(5, 5)])
    assert not same(alone, nodes_of(keep_supported(breaks, config), WHOLE))


def test_lists_and_maps_turn_into_each_other() -> None:
    breaks = random_map(5)
    nodes = nodes_of(breaks, WHOLE)
    back = dense(nodes, WHOLE, GRID, first_day=16_000, last_day=19_000, magnitude_of="NDVI")
    depth = len(back.break_date)
    for name in ("break_date", "last_clear_before", "first_clear_after", "magnitude", "score", "pace"):
        assert np.array_equal(
            getattr(back, name), getattr(breaks, name)[:depth], equal_nan=getattr(breaks, name).dtype.kind == "f"
        )
    assert np.array_equal(back.status, breaks.status)


@pytest.mark.parametrize("band", [1, 4, 30])
@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_the_whole_map(band: int, seed: int) -> None:
    breaks = random_map(seed, density=(0.15, 0.35, 0.6)[seed])
    config = EventConfig(min_pixels=1)
    expected, left_over = group_pixels(breaks, config)
    assert left_over == 0 and len(expected) > 1
    bands = ((box.row + box.rows - 1, part(breaks, box)) for box in boxes(band, GRID.shape[1]))
    found = list(grouped(bands, link_days=config.link_days))

    def plain(rows: np.ndarray, cols: np.ndarray, layers: np.ndarray) -> tuple[tuple[int, int, int], ...]:
        return tuple(sorted(zip(rows.tolist(), cols.tolist(), layers.tolist(), strict=True)))

    assert sorted(plain(g.rows, g.cols, g.layers) for g in found) == sorted(plain(g.rows, g.cols, g.layers) for g in expected)


def test_files_come_back_and_a_changed_byte_is_seen() -> None:
    nodes = nodes_of(random_map(1), WHOLE)
    header = {"format": "x", "key": "k", "counts": [1, 2]}
    data = pack(header, {"status": np.zeros((3, 4), np.uint8), **nodes.arrays()})
    assert data == pack(header, {**nodes.arrays(), "status": np.zeros((3, 4), np.uint8)})
    head, arrays = unpack(data, where="t")
    assert head == header and same(nodes_from(arrays, where="t"), nodes)
    rng = np.random.default_rng(3)
    for position in [0, 8, 20, len(data) - 1, *rng.integers(0, len(data), 40).tolist()]:
        broken = bytearray(data)
        broken[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(FormatError):
            unpack(bytes(broken), where="t")
    for length in (0, 7, 30, len(data) // 2, len(data) - 1):
        with pytest.raises(FormatError):
            unpack(data[:length], where="t")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_hostile_bytes_raise_our_error_only(body: bytes, sealed: bool) -> None:
    """Also with a digest that holds: whoever writes into the folder can make one."""
    import hashlib

    data = b"GEOSCAN1" + body
    data += hashlib.sha256(data).digest() if sealed else b""
    with pytest.raises(FormatError):
        unpack(data, where="t")


def test_an_array_that_claims_to_be_huge_is_refused() -> None:
    import hashlib
    import struct
    import zlib

    from geoevidence.trust import canonical

    block = zlib.compress(b"\0" * 100)
    for shape in ([1 << 20, 1 << 20], [10, 10], [99], [-1], ["a"]):
        entry = {"name": "a", "dtype": "|u1", "shape": shape, "bytes": len(block)}
        text = canonical.dumps({"content": {}, "arrays": [entry]})
        body = b"GEOSCAN1" + struct.pack("<Q", len(text)) + text + block
        data = body + hashlib.sha256(body).digest()
        if shape == [10, 10]:
            assert unpack(data, where="t")[1]["a"].shape == (10, 10)
        else:
            with pytest.raises(FormatError):
                unpack(data, where="t")


def test_the_empty_list_is_a_list() -> None:
    empty = no_nodes()
    assert list(grouped([(3, empty)], link_days=10)) == []
    assert len(settled(empty, [], Box(0, 0, 1, 1), lambda b: b)) == 0
    assert dense(empty, Box(0, 0, 1, 1), None, first_day=0, last_day=1, magnitude_of="").status.tolist() == [[Status.NO_CHANGE]]
