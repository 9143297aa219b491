"""The mesh: its file can be read by another library, its vertices lie on the surface, holes stay holes, bytes repeat."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from drone.mesh import MeshConfig, triangulate, write_mesh
from drone.ortho import Orthomosaic
from drone.types import SurfaceModel
from geoevidence.crs import parse_crs
from geoevidence.errors import CoverageError
from geoevidence.raster import Grid, Raster

CRS = parse_crs("EPSG:4547")


def _surface(z: np.ndarray) -> SurfaceModel:
    grid = Grid(shape=z.shape, transform=Affine(0.5, 0, 527000, 0, -0.5, 3360000), crs=CRS)
    raster = Raster(data=z[None].astype(np.float32), grid=grid, nodata=float("nan"), unit="m")
    return SurfaceModel(raster=raster, kind="dsm", height_kind="ellipsoidal", standard_uncertainty=None, density=None)


def _mosaic(surface: SurfaceModel) -> Orthomosaic:
    rows, cols = surface.raster.grid.shape
    data = np.zeros((4, rows * 2, cols * 2), np.uint8)
    data[0], data[3] = np.arange(cols * 2)[None, :], 255
    grid = Grid(shape=data.shape[1:], transform=Affine(0.25, 0, 527000, 0, -0.25, 3360000), crs=CRS)
    return Orthomosaic(
        raster=Raster(data=data, grid=grid), sources=Raster(data=data[:2].astype(np.uint16), grid=grid), photos=(), gains={}
    )


def test_triangles_face_up_and_leave_holes() -> None:
    z = np.zeros((4, 5), np.float32)
    z[1, 1] = np.nan
    cells, triangles = triangulate(z)
    assert len(cells) == 19
    # 12 squares; 4 of them lack one corner and give one triangle.
    assert len(triangles) == 8 * 2 + 4
    east, north = cells[:, 1].astype(float), -cells[:, 0].astype(float)
    a, b, c = (np.stack([east, north], 1)[triangles[:, k]] for k in range(3))
    cross = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert np.all(cross == 1.0)


def test_another_library_reads_vertices_on_the_surface(tmp_path: Path) -> None:
    import trimesh

    row, col = np.mgrid[:40, :60]
    z = 20 + 0.1 * col + np.sin(row / 6.0)
    z[10:15, 20:30] = np.nan
    surface = _surface(z)
    path = tmp_path / "mesh.glb"
    write_mesh(path, surface, _mosaic(surface))
    mesh = trimesh.load(path, force="mesh", process=False)
    assert len(mesh.vertices) == np.isfinite(z).sum()
    length = struct.unpack("<I", path.read_bytes()[12:16])[0]
    document = json.loads(path.read_bytes()[20 : 20 + length])
    origin = document["asset"]["extras"]["origin"]
    assert document["asset"]["extras"]["crs_name"].endswith("(EPSG:4547)")
    east, north, up = mesh.vertices[:, 0] + origin[0], origin[1] - mesh.vertices[:, 2], mesh.vertices[:, 1] + origin[2]
    c, r = ~surface.raster.grid.transform @ (east, north)
    expected = z[(r - 0.5).round().astype(int), (c - 0.5).round().astype(int)]
    # float32 of a hundred metres: 8e-6 m; the raster is float32 too.
    np.testing.assert_allclose(up, expected, atol=2e-5)


def test_the_vertex_budget_is_kept_and_bytes_repeat(tmp_path: Path) -> None:
    surface = _surface(np.zeros((300, 300)))
    config = MeshConfig(vertices=2000, texture=128)
    first, second = tmp_path / "a.glb", tmp_path / "b.glb"
    write_mesh(first, surface, _mosaic(surface), config=config)
    write_mesh(second, surface, _mosaic(surface), config=config)
    assert first.read_bytes() == second.read_bytes()
    import trimesh

    assert 500 <= len(trimesh.load(first, force="mesh", process=False).vertices) <= 2000


def test_a_surface_without_a_triangle_is_an_error(tmp_path: Path) -> None:
    z = np.full((5, 5), np.nan)
    z[2, 2] = 1.0
    with pytest.raises(CoverageError):
        write_mesh(tmp_path / "m.glb", _surface(z), _mosaic(_surface(z)))
    assert not (tmp_path / "m.glb").exists()


def test_the_header_says_its_length(tmp_path: Path) -> None:
    surface = _surface(np.zeros((3, 3)))
    write_mesh(tmp_path / "m.glb", surface, _mosaic(surface))
    stream = io.BytesIO((tmp_path / "m.glb").read_bytes())
    magic, version, total = struct.unpack("<III", stream.read(12))
    assert (magic, version, total) == (0x46546C67, 2, len(stream.getvalue()))
