"""The point cloud file: read by other libraries, every point once and in its node, coarse first, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import laspy
import numpy as np
import pytest

from drone.cloud import octree_of, write_copc, write_copc_of_parts
from drone.types import DenseCloud
from geoevidence.crs import parse_crs
from geoevidence.errors import CoverageError

COUNT = 120_000


def _cloud() -> DenseCloud:
    rng = np.random.default_rng(1)
    places = rng.uniform(0, [60, 40], (COUNT, 2))
    height = 20 + np.sin(places[:, 0] / 5) + rng.normal(0, 0.02, COUNT)
    return DenseCloud(
        points=np.column_stack([places + [527_000, 3_360_000], height]),
        colours=rng.integers(0, 256, (COUNT, 3)).astype(np.uint8),
        views=rng.integers(2, 9, COUNT).astype(np.uint8),
        height_sd=rng.uniform(0.005, 0.1, COUNT).astype(np.float32),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cloud") / "cloud.copc.laz"
    write_copc(path, _cloud(), parse_crs("EPSG:4547"), synthetic=True)
    return path


def test_every_point_comes_back_once(written: Path) -> None:
    cloud, las = _cloud(), laspy.read(written)
    # WKT 1, as LAS 1.4 asks: x east and y north whatever the order of axes in the register
    crs = las.header.parse_crs()
    assert crs.is_projected and 'AUTHORITY["EPSG","4547"]' in crs.to_wkt("WKT1_GDAL")
    assert las.header.creation_date.isoformat() == "1970-01-01" and las.header.uuid.int == 0
    assert las.header.system_identifier == "SYNTHETIC"
    stored = np.column_stack([las.x, las.y, las.z])
    mine, other = np.lexsort(cloud.points.round(3).T), np.lexsort(stored.T)
    # Stored to the millimetre.
    np.testing.assert_allclose(stored[other], cloud.points[mine], atol=5.1e-4)
    assert np.asarray(las.views, int).sum() == cloud.views.astype(int).sum()
    np.testing.assert_array_equal(np.sort(las.height_sd), np.sort(cloud.height_sd))
    assert np.asarray(las.red, np.int64).sum() == 257 * cloud.colours[:, 0].astype(np.int64).sum()


def test_a_reader_gets_a_thin_copy_and_a_place(written: Path) -> None:
    import copclib

    assert copclib.FileReader(str(written)).ValidateSpatialBounds(False)
    with laspy.CopcReader.open(written) as reader:
        first = reader.query(level=0)
        assert 2_000 < len(first) < COUNT / 2
        # evenly spread: each quarter of the ground has its share of the thin copy
        share = np.histogram2d(first.x, first.y, bins=2)[0] / len(first)
        assert np.all(np.abs(share - 0.25) < 0.02)
        bounds = laspy.Bounds(mins=np.array([527_010.0, 3_360_010.0]), maxs=np.array([527_020.0, 3_360_020.0]))
        part = reader.query(bounds)
    points = _cloud().points
    inside = np.all((points[:, :2] >= [527_010, 3_360_010]) & (points[:, :2] <= [527_020, 3_360_020]), axis=1)
    assert abs(len(part) - inside.sum()) <= 2  # at the rim, rounded to the millimetre


def test_bytes_repeat(written: Path, tmp_path: Path) -> None:
    write_copc(tmp_path / "again.copc.laz", _cloud(), parse_crs("EPSG:4547"), synthetic=True)
    assert (tmp_path / "again.copc.laz").read_bytes() == written.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.copc.laz"]


def test_nodes_hold_their_points_and_few_share_a_cell() -> None:
    points = _cloud().points
    centre, half, nodes = octree_of(points)
    side = 2 * half / 2.0 ** nodes[:, :1]
    low = centre - half + nodes[:, 1:] * side
    assert np.all(points >= low - 1e-6) and np.all(points <= low + side + 1e-6)
    # a node that has children keeps one point a cell
    inner = nodes[:, 0] == 0
    cell = np.minimum(((points[inner] - low[inner]) / side[inner] * 128).astype(int), 127)
    assert len(np.unique(cell, axis=0)) == inner.sum()


def test_no_points_is_an_error(tmp_path: Path) -> None:
    cloud = _cloud()
    empty = DenseCloud(points=cloud.points[:0], colours=cloud.colours[:0], views=cloud.views[:0], height_sd=cloud.height_sd[:0])
    with pytest.raises(CoverageError):
        write_copc(tmp_path / "cloud.copc.laz", empty, parse_crs("EPSG:4547"), synthetic=False)


def test_a_cloud_in_parts_holds_the_same_points(written: Path, tmp_path: Path) -> None:
    """Whether all fits into memory or cubes of the octree are put in order one by one."""
    import copclib

    cloud = _cloud()
    cuts = [slice(0, 50_000), slice(50_000, 50_000), slice(50_000, COUNT)]
    parts = [
        lambda cut=cut: DenseCloud(
            points=cloud.points[cut], colours=cloud.colours[cut], views=cloud.views[cut], height_sd=cloud.height_sd[cut]
        )
        for cut in cuts
    ]
    crs = parse_crs("EPSG:4547")
    write_copc_of_parts(tmp_path / "one.copc.laz", parts, crs, synthetic=True)
    assert (tmp_path / "one.copc.laz").read_bytes() == written.read_bytes()
    for name in ("a", "b"):
        write_copc_of_parts(tmp_path / f"{name}.copc.laz", parts, crs, synthetic=True, most=20_000)
    assert (tmp_path / "a.copc.laz").read_bytes() == (tmp_path / "b.copc.laz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.copc.laz", "b.copc.laz", "one.copc.laz"]
    assert copclib.FileReader(str(tmp_path / "a.copc.laz")).ValidateSpatialBounds(False)

    def points(path: Path) -> np.ndarray:
        las = laspy.read(path)
        return np.sort(np.rec.fromarrays([las.X, las.Y, las.Z, las.red, las.views, las.height_sd]))

    np.testing.assert_array_equal(points(tmp_path / "a.copc.laz"), points(written))
    with laspy.CopcReader.open(tmp_path / "a.copc.laz") as reader, laspy.CopcReader.open(written) as other:
        # the coarsest node is the same set: which point stands for a cell does not depend on the cubes
        np.testing.assert_array_equal(np.sort(reader.query(level=0).X), np.sort(other.query(level=0).X))
    with pytest.raises(CoverageError):
        write_copc_of_parts(tmp_path / "none.copc.laz", parts[1:2], crs, synthetic=True)
