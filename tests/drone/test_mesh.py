"""The mesh: its file can be read by another library, its vertices lie on the surface, holes stay holes, bytes repeat."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from drone.mesh import MeshConfig, triangulate, write_mesh
from drone.ortho import Orthomosaic
from drone.products import ResultFolder
from drone.types import Camera, Pose, SurfaceModel
from geoevidence.crs import parse_crs
from geoevidence.errors import CoverageError
from geoevidence.raster import Grid, Raster
from tests.drone import sample_block as sample

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
        raster=Raster(data=data, grid=grid),
        sources=Raster(data=data[:2].astype(np.uint16), grid=grid),
        photos=(),
        gains={},
        fall_off={},
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


def _write(folder: Path, surface: SurfaceModel, config: MeshConfig = MeshConfig()) -> Path:
    """The folder `mesh` of a surface that no photo shows."""
    block = replace(sample.block(4), poses={})
    write_mesh(ResultFolder(folder, synthetic=True), block, surface, _mosaic(surface), config=config)
    return folder / "mesh"


def test_other_libraries_read_vertices_on_the_surface(tmp_path: Path) -> None:
    import trimesh

    row, col = np.mgrid[:40, :60]
    z = 20 + 0.1 * col + np.sin(row / 6.0)
    z[10:15, 20:30] = np.nan
    surface = _surface(z)
    folder = _write(tmp_path, surface)
    mesh = trimesh.load(folder / "surface.glb", force="mesh", process=False)
    assert len(mesh.vertices) == np.isfinite(z).sum()
    data = (folder / "surface.glb").read_bytes()
    document = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
    origin = document["asset"]["extras"]["origin"]
    assert document["asset"]["extras"]["crs_name"].endswith("(EPSG:4547)")
    east, north, up = mesh.vertices[:, 0] + origin[0], origin[1] - mesh.vertices[:, 2], mesh.vertices[:, 1] + origin[2]
    c, r = ~surface.raster.grid.transform @ (east, north)
    expected = z[(r - 0.5).round().astype(int), (c - 0.5).round().astype(int)]
    # float32 of a hundred metres: 8e-6 m; the raster is float32 too.
    np.testing.assert_allclose(up, expected, atol=2e-5)
    # the OBJ is the same mesh with other axes, to the millimetre; its picture is found through its material
    other = trimesh.load(folder / "surface.obj", force="mesh", process=False, maintain_order=True)
    assert other.faces.shape == mesh.faces.shape
    np.testing.assert_allclose(other.triangles_center[:, 2], mesh.triangles_center[:, 1], atol=6e-4)
    assert other.visual.material.image.size == (120, 80)


def test_the_vertex_budget_is_kept_and_bytes_repeat(tmp_path: Path) -> None:
    import trimesh

    surface, config = _surface(np.zeros((300, 300))), MeshConfig(vertices=2000, texture=128)
    first, second = _write(tmp_path / "a", surface, config), _write(tmp_path / "b", surface, config)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["surface.glb", "surface.jpg", "surface.mtl", "surface.obj"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert 500 <= len(trimesh.load(first / "surface.glb", force="mesh", process=False).vertices) <= 2000


def test_a_surface_without_a_triangle_is_an_error(tmp_path: Path) -> None:
    z = np.full((5, 5), np.nan)
    z[2, 2] = 1.0
    with pytest.raises(CoverageError):
        _write(tmp_path, _surface(z))
    assert not (tmp_path / "mesh").exists()


def test_the_header_says_its_length(tmp_path: Path) -> None:
    data = (_write(tmp_path, _surface(np.zeros((3, 3)))) / "surface.glb").read_bytes()
    magic, version, total = struct.unpack("<III", data[:12])
    assert (magic, version, total) == (0x46546C67, 2, len(data))


def test_walls_carry_the_photo_that_faces_them(tmp_path: Path) -> None:
    """A block 6 m high, one side red, the other green, below two cameras that each see one of the sides."""
    import cv2

    height = 30.0
    camera = Camera(
        id="c", model="SIMPLE_RADIAL", params=(400.0, 400.0, 300.0, 0.0), size=(800, 600), make_model="", focal_prior=None
    )
    z = np.zeros((80, 120), np.float32)
    z[20:60, 50:70] = 6.0
    grid = Grid(shape=z.shape, transform=Affine(0.25, 0, 527000, 0, -0.25, 3360000), crs=CRS)
    surface = replace(_surface(z), raster=Raster(data=z[None], grid=grid, nodata=float("nan"), unit="m"))
    down = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    poses, photos = {}, []
    for name, east, colour in (("west.jpg", 5.0, (0, 0, 200)), ("east.jpg", 25.0, (0, 200, 0))):
        poses[name] = Pose(R=down, C=np.array([527000 + east, 3360000 - 10, height]))
        path = tmp_path / name
        cv2.imwrite(str(path), np.full((600, 800, 3), colour, np.uint8))
        photo = replace(sample.block(4).flight.photos[0], name=name, path=path, size=(800, 600), camera_id="c")
        photos.append(photo)
    base = sample.block(4)
    block = replace(
        base, flight=replace(base.flight, photos=tuple(photos), cameras={"c": camera}), cameras={"c": camera}, poses=poses
    )
    mosaic = replace(
        _mosaic(surface),
        photos=("east.jpg", "west.jpg"),
        gains={name: (1.0, 1.0, 1.0) for name in poses},
        fall_off={"c": (0.0, 0.0, 0.0)},
    )
    work = ResultFolder(tmp_path / "out", synthetic=True)
    write_mesh(work, block, surface, mosaic)
    lines = (tmp_path / "out" / "mesh" / "surface.obj").read_text("utf-8").splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    places = np.array([line.split()[1:] for line in lines if line.startswith("vt ")], float)
    faces = [line for line in lines[lines.index("usemtl walls") :] if line.startswith("f ")]
    corner = np.array([[part.split("/")[0] for part in face.split()[1:]] for face in faces], int) - 1
    picture = cv2.imread(str(tmp_path / "out" / "mesh" / "walls.jpg"))
    at = places[corner].mean(axis=1) * [picture.shape[1], picture.shape[0]]
    shown = picture[(picture.shape[0] - at[:, 1]).astype(int), at[:, 0].astype(int)].astype(int)
    east = vertices[corner].mean(axis=1)[:, 0]
    middle = np.median(vertices[:, 0])
    west_side = east < middle - 1
    # a wall that looks west is seen from the camera in the west alone, and the other way round
    assert west_side.sum() > 50 and (~west_side).sum() > 50
    assert np.all(shown[west_side & (np.abs(east - middle) > 2)][:, 2] > 150)
    assert np.all(shown[~west_side & (np.abs(east - middle) > 2)][:, 1] > 150)
