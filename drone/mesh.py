"""Textured mesh of a surface model as one GLB file (glTF 2.0, binary container).

The mesh is the surface model's own grid, thinned to a vertex budget, with the orthomosaic as its texture: holes stay holes,
nothing is modelled under overhangs. Vertices are metres from a local origin; `asset.extras` says where that lies.
Axes as glTF asks (y up): x = east, y = up, z = south. Same input, same bytes.
Source: Khronos Group, glTF 2.0 specification, sections 4 (GLB) and 3.7.2 (meshes).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drone.ortho import Orthomosaic
from drone.types import SurfaceModel
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
    """

    vertices: int = 250_000
    texture: int = 4096
    quality: int = 85

    def __post_init__(self) -> None:
        limits = {"vertices": (100, 50_000_000), "texture": (64, 16384), "quality": (1, 100)}
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


def write_mesh(path: Path, surface: SurfaceModel, orthomosaic: Orthomosaic, *, config: MeshConfig = MeshConfig()) -> None:
    """Write the GLB file.

    Raises:
        CoverageError: the surface has no triangle.
    """
    import cv2

    heights = surface.raster.data[0]
    count = int(np.isfinite(heights).sum())
    step = max(1, int(np.ceil(np.sqrt(count / config.vertices))))
    thin = heights[step // 2 :: step, step // 2 :: step]
    cells, triangles = triangulate(thin)
    if len(triangles) == 0:
        raise CoverageError("drone.surface_empty")
    transform = surface.raster.grid.transform
    col, row = cells[:, 1] * step + step // 2 + 0.5, cells[:, 0] * step + step // 2 + 0.5
    east, north, up = (
        transform.c + col * transform.a,
        transform.f + row * transform.e,
        thin[cells[:, 0], cells[:, 1]].astype(np.float64),
    )
    origin = np.floor([east.mean(), north.mean(), up.min()])
    vertices = np.stack([east - origin[0], up - origin[2], -(north - origin[1])], axis=1).astype("<f4")
    west, south, right, top = orthomosaic.raster.grid.bounds
    texture_at = np.stack([(east - west) / (right - west), (top - north) / (top - south)], axis=1).astype("<f4")
    picture = np.moveaxis(orthomosaic.raster.data[:3], 0, -1)[:, :, ::-1]
    factor = config.texture / max(picture.shape[:2])
    if factor < 1:
        size = (max(1, int(picture.shape[1] * factor)), max(1, int(picture.shape[0] * factor)))
        picture = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, config.quality])[1].tobytes()
    blobs = [triangles.astype("<u4").tobytes(), vertices.tobytes(), texture_at.tobytes(), jpeg]
    views, offset = [], 0
    for blob, target in zip(blobs, (_ELEMENT_BUFFER, _ARRAY_BUFFER, _ARRAY_BUFFER, None), strict=True):
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
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1, "TEXCOORD_0": 2}, "indices": 0, "material": 0, "mode": 4}]}],
        "materials": [
            {
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
                "doubleSided": True,
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": 3, "mimeType": "image/jpeg"}],
        "accessors": [
            {"bufferView": 0, "componentType": _UINT32, "count": int(triangles.size), "type": "SCALAR"},
            {
                "bufferView": 1,
                "componentType": _FLOAT,
                "count": len(vertices),
                "type": "VEC3",
                "min": [float(v) for v in vertices.min(axis=0)],
                "max": [float(v) for v in vertices.max(axis=0)],
            },
            {"bufferView": 2, "componentType": _FLOAT, "count": len(texture_at), "type": "VEC2"},
        ],
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
        for blob in blobs:
            stream.write(blob + b"\0" * (-len(blob) % 4))
