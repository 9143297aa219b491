"""Textured mesh of a surface model: GLB (glTF 2.0, binary container) and OBJ with its material and pictures, in one folder.

The mesh is the surface model's own grid, thinned to a vertex budget: holes stay holes, nothing is modelled under overhangs. Level
and sloping ground carries the orthomosaic. Steep faces (walls, pit sides), on which a view from above is smeared, carry the
photo that sees them best from the side, where one does and nothing hides them; else they keep the orthomosaic.
Vertices are metres from a local origin; `asset.extras` and the head of the OBJ say where that lies.
Axes of the GLB as glTF asks (y up): x = east, y = up, z = south; of the OBJ: x = east, y = north, z = up. Same input, same bytes.
Source: Khronos Group, glTF 2.0 specification, sections 4 (GLB) and 3.7.2 (meshes); photo per patch as in Waechter et al. 2014,
doi:10.1007/978-3-319-10602-1_54, without its adjustment of seams.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from drone.camera import project
from drone.dense import read_photo
from drone.ortho import Orthomosaic, fill_ground, levelled
from drone.products import ResultFolder
from drone.types import Reconstruction, SurfaceModel
from geoevidence.crs import crs_label
from geoevidence.errors import ConfigError, CoverageError

_GLB_MAGIC, _JSON_CHUNK, _BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT32 = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """Settings of `write_mesh`.

    vertices: most vertices (count); a browser draws some hundred thousand fluently.
    texture: longest side of the texture (px); 4096 is the most that every device takes.
    quality: JPEG quality of the texture (1 to 100).
    steep_deg: faces steeper than this are textured from the side (degrees); above 90 none is.
    patch: steep patches of fewer faces keep the orthomosaic (count).
    """

    vertices: int = 250_000
    texture: int = 4096
    quality: int = 85
    steep_deg: float = 55.0
    patch: int = 12

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "vertices": (100, 50_000_000),
            "texture": (64, 16384),
            "quality": (1, 100),
            "steep_deg": (10, 91),
            "patch": (1, 1_000_000),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    "drone.setting_out_of_range", setting=f"mesh.{name}", found=str(getattr(self, name)), low=low, high=high
                )


def triangulate(heights: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Cells that become vertices (N, 2) as (row, col), and triangles (M, 3) of their numbers, counter-clockwise from above.

    A square of four neighbouring cells gives two triangles, split along its flatter diagonal; with one cell missing, one.
    """
    rows, cols = heights.shape
    known = np.isfinite(heights)
    a, b, c, d = known[:-1, :-1], known[:-1, 1:], known[1:, :-1], known[1:, 1:]
    number = np.arange(rows * cols).reshape(rows, cols)
    na, nb, nc, nd = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    with np.errstate(invalid="ignore"):
        first = np.abs(heights[:-1, :-1] - heights[1:, 1:]) <= np.abs(heights[:-1, 1:] - heights[1:, :-1])
    whole = a & b & c & d
    parts = [
        np.stack([na, nc, nd], axis=-1)[(whole & first) | (a & c & d & ~b)],
        np.stack([na, nd, nb], axis=-1)[(whole & first) | (a & d & b & ~c)],
        np.stack([na, nc, nb], axis=-1)[(whole & ~first) | (a & c & b & ~d)],
        np.stack([nb, nc, nd], axis=-1)[(whole & ~first) | (b & c & d & ~a)],
    ]
    triangles = np.concatenate(parts)
    used, inverse = np.unique(triangles, return_inverse=True)
    return np.stack(np.divmod(used, cols), axis=1), inverse.reshape(-1, 3).astype(np.uint32)


class _Part(NamedTuple):
    """Faces that share a picture. vertices: (N, 3) float64 (E, N, U) from the origin; places: (N, 2) in the picture, from its upper
    left corner, 1 = whole side; triangles (M, 3) uint32; picture: JPEG bytes."""

    name: str
    vertices: NDArray[np.float64]
    places: NDArray[np.float64]
    triangles: NDArray[np.uint32]
    picture: bytes


def write_mesh(
    work: ResultFolder,
    block: Reconstruction,
    surface: SurfaceModel,
    orthomosaic: Orthomosaic,
    *,
    config: MeshConfig = MeshConfig(),
) -> None:
    """Write `mesh/surface.glb`, `mesh/surface.obj`, `mesh/surface.mtl` and the pictures that these two name.

    Raises:
        CoverageError: the surface has no triangle. FormatError: a photo cannot be read.
    """
    heights = surface.raster.data[0]
    count = int(np.isfinite(heights).sum())
    step = max(1, int(np.ceil(np.sqrt(count / config.vertices))))
    thin = heights[step // 2 :: step, step // 2 :: step]
    cells, triangles = triangulate(thin)
    if len(triangles) == 0:
        raise CoverageError("drone.surface_empty")
    transform = surface.raster.grid.transform
    col, row = cells[:, 1] * step + step // 2 + 0.5, cells[:, 0] * step + step // 2 + 0.5
    world = np.stack(
        [
            transform.c + col * transform.a,
            transform.f + row * transform.e,
            thin[cells[:, 0], cells[:, 1]].astype(np.float64),
        ],
        axis=1,
    )
    origin = np.floor([world[:, 0].mean(), world[:, 1].mean(), world[:, 2].min()])
    charts = _side_views(block, surface, orthomosaic, world, triangles, config)
    walls = np.zeros(len(triangles), bool)
    for chart in charts:
        walls[chart.faces] = True
    west, south, right, top = orthomosaic.raster.grid.bounds
    above = np.stack([(world[:, 0] - west) / (right - west), (top - world[:, 1]) / (top - south)], axis=1)
    used, ground = np.unique(triangles[~walls], return_inverse=True)
    picture = _encoded(np.moveaxis(orthomosaic.raster.data[:3], 0, -1), config)
    parts = [_Part("surface", world[used] - origin, above[used], ground.reshape(-1, 3).astype(np.uint32), picture)]
    if charts:
        parts.append(_atlas(block, orthomosaic, world, triangles, charts, origin, config))
    for part in parts:
        work.path(f"mesh/{part.name}.jpg", "mesh_texture", "image/jpeg").write_bytes(part.picture)
    _write_glb(work.path("mesh/surface.glb", "mesh", "model/gltf-binary"), parts, surface, origin)
    _write_obj(work, parts, surface, origin)


def _encoded(picture: NDArray[np.uint8], config: MeshConfig) -> bytes:
    """JPEG of an RGB picture, reduced to the largest texture."""
    import cv2

    image: NDArray[Any] = np.ascontiguousarray(picture[:, :, ::-1])
    factor = config.texture / max(picture.shape[:2])
    if factor < 1:
        size = (max(1, int(picture.shape[1] * factor)), max(1, int(picture.shape[0] * factor)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, config.quality])
    assert done
    return bytes(data.tobytes())


class _Chart(NamedTuple):
    """Steep faces that one photo shows. faces: numbers; photo: name."""

    faces: NDArray[np.int64]
    photo: str


_LEAST_FACING = 0.15
"""A photo must look at a patch by at least this cosine: 9 degrees from along the wall."""
_LEAST_SHOWN = 0.7
"""And show at least this share of its faces unhidden."""


def _side_views(
    block: Reconstruction,
    surface: SurfaceModel,
    orthomosaic: Orthomosaic,
    world: NDArray[np.float64],
    triangles: NDArray[np.uint32],
    config: MeshConfig,
) -> list[_Chart]:
    """Patches of steep faces that look the same way, each with the photo that sees it best; those that none sees are left out."""
    a, b, c = (world[triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    steep = np.nonzero(normal[:, 2] < np.cos(np.radians(config.steep_deg)))[0]
    if len(steep) == 0:
        return []
    # patches: steep neighbours (by edge) whose normals point into the same eighth of the compass
    eighth = np.floor((np.arctan2(normal[steep, 1], normal[steep, 0]) + np.pi / 8) / (np.pi / 4)).astype(int) % 8
    edges = np.sort(triangles[steep][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).astype(np.int64), axis=1)
    key = (edges[:, 0] * len(world) + edges[:, 1]) * 8 + np.repeat(eighth, 3)
    order = np.argsort(key, kind="stable")
    same = np.nonzero(np.diff(key[order]) == 0)[0]
    face = np.repeat(np.arange(len(steep)), 3)[order]
    links = sparse.coo_matrix((np.ones(len(same)), (face[same], face[same + 1])), shape=(len(steep),) * 2)
    count, patch = connected_components(links, directed=False)
    centroids = (a + b + c)[steep] / 3
    grid = surface.raster.grid
    filled = fill_ground(surface.raster.data[0].astype(np.float64), grid.resolution[0])
    datum = float(np.median(filled))
    filled32 = (filled - datum).astype(np.float32)
    names = orthomosaic.photos
    cameras = {photo.name: block.cameras[photo.camera_id] for photo in block.flight.photos}
    score, shown = np.zeros((len(names), count)), np.zeros((len(names), count))
    sizes = np.bincount(patch, minlength=count)
    for index, name in enumerate(names):
        pose, camera = block.poses[name], cameras[name]
        towards = pose.C - centroids
        distance = np.linalg.norm(towards, axis=1)
        facing = np.sum(normal[steep] * towards, axis=1) / distance
        pixels = project(camera, pose, centroids)
        with np.errstate(invalid="ignore"):
            inside = np.all((pixels > 4) & (pixels < np.array(camera.size) - 4), axis=1) & (facing > 0)
        clear = np.zeros(len(steep), bool)
        clear[inside] = _unhidden(
            filled32,
            grid.transform.c,
            grid.transform.f,
            grid.resolution[0],
            datum,
            pose.C,
            centroids[inside],
            normal[steep][inside],
        )
        score[index] = np.bincount(patch, weights=np.where(clear, facing / distance, 0), minlength=count) / sizes
        shown[index] = np.bincount(patch, weights=clear & (facing > _LEAST_FACING), minlength=count) / sizes
    best = np.argmax(np.where(shown >= _LEAST_SHOWN, score, -1.0), axis=0)
    members = np.argsort(patch, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [
        _Chart(steep[members[starts[k] : starts[k + 1]]], names[best[k]])
        for k in range(count)
        if sizes[k] >= config.patch and shown[best[k], k] >= _LEAST_SHOWN
    ]


@numba.njit(nogil=True, cache=True)
def _unhidden(ground, west, north, cell, datum, centre, places, normals):  # type: ignore[no-untyped-def]
    """Whether nothing of the surface stands between each place and the camera; the place's own face is left by a cell."""
    rows, cols = ground.shape
    clear = np.ones(len(places), np.bool_)
    for i in range(len(places)):
        x = places[i, 0] + normals[i, 0] * cell * 1.5
        y = places[i, 1] + normals[i, 1] * cell * 1.5
        z = places[i, 2] + normals[i, 2] * cell * 1.5 - datum
        dx, dy, dz = centre[0] - x, centre[1] - y, centre[2] - datum - z
        far = np.sqrt(dx * dx + dy * dy)
        steps = int(far / cell)
        for k in range(1, steps):
            share = k * cell / far
            c, r = int((x + dx * share - west) / cell), int((north - y - dy * share) / cell)
            if r < 0 or c < 0 or r >= rows or c >= cols:
                break
            if ground[r, c] > z + dz * share + 0.1:
                clear[i] = False
                break
    return clear


def _atlas(
    block: Reconstruction,
    orthomosaic: Orthomosaic,
    world: NDArray[np.float64],
    triangles: NDArray[np.uint32],
    charts: list[_Chart],
    origin: NDArray[np.float64],
    config: MeshConfig,
) -> _Part:
    """The steep patches with one picture: pieces of photos, packed in rows, highest first."""
    import cv2

    photos = {photo.name: photo for photo in block.flight.photos}
    pieces = []
    for chart in charts:
        used, inverse = np.unique(triangles[chart.faces], return_inverse=True)
        pixels = project(block.cameras[photos[chart.photo].camera_id], block.poses[chart.photo], world[used])
        low = np.floor(pixels.min(axis=0)).astype(int) - 2
        high = np.ceil(pixels.max(axis=0)).astype(int) + 3
        pieces.append((chart.photo, used, inverse.reshape(-1, 3), pixels, low, high - low))
    area = float(sum(int(size[0]) * int(size[1]) for *_, size in pieces))
    shrink = min(1.0, 0.85 * config.texture / np.sqrt(area), *(config.texture / float(size.max()) for *_, size in pieces))
    while True:
        sizes = [np.maximum(np.floor(size * shrink), 2).astype(int) for *_, size in pieces]
        places, height = _shelves(sizes, config.texture)
        if height <= config.texture:
            break
        shrink *= 0.9
    sheet = np.zeros((max(height, 2), config.texture, 3), np.uint8)
    vertices, at, faces, first = [], [], [], 0
    # by photo, so that each is read once
    for name in sorted({piece[0] for piece in pieces}):
        picture = levelled(orthomosaic, name, photos[name], read_photo(photos[name]))
        for piece, size, (left, top) in zip(pieces, sizes, places, strict=True):
            if piece[0] != name:
                continue
            _, used, inverse, pixels, low, full = piece
            corner = np.clip(low, 0, [picture.shape[1] - 1, picture.shape[0] - 1])
            end = np.clip(low + full, corner + 1, [picture.shape[1], picture.shape[0]])
            part = picture[corner[1] : end[1], corner[0] : end[0]]
            before, after = corner - low, low + full - end
            cut = cv2.copyMakeBorder(part, before[1], after[1], before[0], after[0], cv2.BORDER_REPLICATE)
            sheet[top : top + size[1], left : left + size[0]] = cv2.resize(
                cut, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA
            )
            vertices.append(world[used] - origin)
            at.append(((pixels - low) * size / full + [left, top]) / [sheet.shape[1], sheet.shape[0]])
            faces.append(inverse + first)
            first += len(used)
    return _Part(
        "walls",
        np.concatenate(vertices),
        np.concatenate(at),
        np.concatenate(faces).astype(np.uint32),
        _encoded(sheet, config),
    )


def _shelves(sizes: list[NDArray[np.int64]], width: int) -> tuple[list[tuple[int, int]], int]:
    """Upper left corner of each piece (width, height), laid in rows from the highest to the lowest, and the height of all rows."""
    places: list[tuple[int, int]] = [(0, 0)] * len(sizes)
    left = top = row = 0
    for index in sorted(range(len(sizes)), key=lambda i: (-int(sizes[i][1]), -int(sizes[i][0]), i)):
        wide, high = int(sizes[index][0]), int(sizes[index][1])
        if left + wide > width:
            left, top, row = 0, top + row, 0
        places[index] = (left, top)
        left, row = left + wide, max(row, high)
    return places, top + row


def _write_glb(path: Path, parts: list[_Part], surface: SurfaceModel, origin: NDArray[np.float64]) -> None:
    blobs: list[tuple[bytes, int | None]] = []
    accessors: list[dict[str, Any]] = []
    primitives = []
    for number, part in enumerate(parts):
        east, north, up = part.vertices.T
        vertices = np.stack([east, up, -north], axis=1).astype("<f4")
        first = len(blobs)
        blobs += [
            (part.triangles.astype("<u4").tobytes(), _ELEMENT_BUFFER),
            (vertices.tobytes(), _ARRAY_BUFFER),
            (part.places.astype("<f4").tobytes(), _ARRAY_BUFFER),
            (part.picture, None),
        ]
        accessors += [
            {"bufferView": first, "componentType": _UINT32, "count": int(part.triangles.size), "type": "SCALAR"},
            {
                "bufferView": first + 1,
                "componentType": _FLOAT,
                "count": len(vertices),
                "type": "VEC3",
                "min": [float(v) for v in vertices.min(axis=0)],
                "max": [float(v) for v in vertices.max(axis=0)],
            },
            {"bufferView": first + 2, "componentType": _FLOAT, "count": len(part.places), "type": "VEC2"},
        ]
        primitives.append(
            {
                "attributes": {"POSITION": 3 * number + 1, "TEXCOORD_0": 3 * number + 2},
                "indices": 3 * number,
                "material": number,
                "mode": 4,
            }
        )
    views, offset = [], 0
    for blob, target in blobs:
        view = {"buffer": 0, "byteOffset": offset, "byteLength": len(blob)}
        views.append(view | ({"target": target} if target else {}))
        offset += len(blob) + -len(blob) % 4
    crs = surface.raster.grid.crs
    document = {
        "asset": {
            "version": "2.0",
            "generator": "geoevidence",
            "extras": {
                "crs": crs.to_wkt(),
                "crs_name": crs_label(crs),
                "height_kind": surface.height_kind,
                "origin": [float(value) for value in origin],
                "axes": "x = east - origin[0], y = up - origin[2], z = -(north - origin[1]); metres",
            },
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "surface"}],
        "meshes": [{"primitives": primitives}],
        "materials": [
            {
                "name": part.name,
                "pbrMetallicRoughness": {"baseColorTexture": {"index": number}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
                "doubleSided": True,
            }
            for number, part in enumerate(parts)
        ],
        "textures": [{"source": number, "sampler": 0} for number in range(len(parts))],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": 4 * number + 3, "mimeType": "image/jpeg"} for number in range(len(parts))],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + offset
    with Path(path).open("wb") as stream:
        stream.write(struct.pack("<III", _GLB_MAGIC, 2, total))
        stream.write(struct.pack("<II", len(text), _JSON_CHUNK) + text)
        stream.write(struct.pack("<II", offset, _BINARY_CHUNK))
        for blob, _ in blobs:
            stream.write(blob + b"\0" * (-len(blob) % 4))


def _write_obj(work: ResultFolder, parts: list[_Part], surface: SurfaceModel, origin: NDArray[np.float64]) -> None:
    """Wavefront OBJ, one group and material a part; coordinates to the millimetre."""
    material = "".join(f"newmtl {part.name}\nKd 1 1 1\nillum 1\nmap_Kd {part.name}.jpg\n" for part in parts)
    work.path("mesh/surface.mtl", "mesh_material", "model/mtl").write_text(material, "ascii")
    with work.path("mesh/surface.obj", "mesh", "model/obj").open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"# {crs_label(surface.raster.grid.crs)}; heights: {surface.height_kind}; metres\n")
        stream.write("# east = x + {:.0f}, north = y + {:.0f}, up = z + {:.0f}\n".format(*origin))
        stream.write("mtllib surface.mtl\n")
        first = 1
        for part in parts:
            _write_lines(stream, "v %.3f %.3f %.3f\n", part.vertices)
            _write_lines(stream, "vt %.6f %.6f\n", np.column_stack([part.places[:, 0], 1 - part.places[:, 1]]))
            stream.write(f"g {part.name}\nusemtl {part.name}\n")
            corner = part.triangles.astype(np.int64) + first
            _write_lines(stream, "f %d/%d %d/%d %d/%d\n", np.repeat(corner, 2, axis=1))
            first += len(part.vertices)


def _write_lines(stream: TextIO, form: str, rows: NDArray[Any]) -> None:
    """A line a row; many at once, which takes a third of the time of one after the other."""
    for start in range(0, len(rows), 65536):
        part = rows[start : start + 65536]
        stream.write(form * len(part) % tuple(part.ravel().tolist()))
