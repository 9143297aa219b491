"""From a place on the ground back to the photos that saw it: the photo table of a survey, and where in each photo the place lies.

In: `accuracy.json` (photos with pose and digest, cameras), the surface, `sources.tif`. Out: `Sighting`s. A photo counts as having
seen a place when the place lies in its frame and no part of the surface stands in the way; the surface is all that is known, so a
branch that it does not hold hides nothing here. Nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from drone.camera import project
from drone.types import Camera, Pose, SurfaceModel
from geoevidence.errors import FormatError
from geoevidence.raster import Raster
from geoevidence.trust import canonical
from geoevidence.types import decimal_value

Array = NDArray[np.float64]
_MODELS = {"SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TablePhoto:
    """value: number of the photo in `sources.tif`; name; sha256 (lower-case hex); camera; pose."""

    value: int
    name: str
    sha256: str
    camera: Camera
    pose: Pose


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A place in a photo. pixel: (col, row) px; shown: the orthomosaic shows the place from this photo."""

    name: str
    sha256: str
    pixel: tuple[float, float]
    shown: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, pixels to a hundredth."""
        return {
            "photo": self.name,
            "sha256": self.sha256,
            "col": f"{self.pixel[0]:.2f}",
            "row": f"{self.pixel[1]:.2f}",
            "shown_in_orthomosaic": self.shown,
        }


def read_photo_table(path: Path) -> tuple[TablePhoto, ...]:
    """The photos of an accuracy record, in the order of their numbers. Raises FormatError."""
    name = Path(path).name
    try:
        raw = canonical.loads_canonical(Path(path).read_bytes())
        cameras = {each["id"]: _camera(each, name) for each in raw["cameras"]}
        photos = tuple(
            TablePhoto(
                value=int(each["value"]),
                name=str(each["name"]),
                sha256=str(each["sha256"]),
                camera=cameras[each["camera"]],
                pose=Pose(
                    R=np.array([decimal_value(v, name) for v in each["rotation"]]).reshape(3, 3),
                    C=np.array([decimal_value(v, name) for v in each["centre"]]).reshape(3),
                ),
            )
            for each in raw["photos"]
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FormatError("drone.bad_accuracy", path=name, reason=str(error)) from error
    return tuple(sorted(photos, key=lambda photo: photo.value))


def _camera(raw: Mapping[str, Any], where: str) -> Camera:
    params = tuple(decimal_value(v, where) for v in raw["params"])
    if len(params) != _MODELS.get(raw["model"]):
        raise ValueError(f"camera model {raw['model']} with {len(params)} parameters")
    width, height = (int(v) for v in raw["size"])
    return Camera(
        id=str(raw["id"]), model=str(raw["model"]), params=params, size=(width, height), make_model="", focal_prior=None
    )


def photos_of_place(
    table: Sequence[TablePhoto], surface: SurfaceModel, place: tuple[float, float], *, sources: Raster | None = None
) -> tuple[Sighting, ...]:
    """The photos that saw the cell at `place` (E, N in the surface's CRS), in the order of the table; empty where it has no height."""
    found = _height_at(surface, place)
    if found is None:
        return ()
    point = np.array([[place[0], place[1], found]])
    shown = None if sources is None else _value_at(sources, place)
    top, result = _top(surface), []
    for photo in table:
        col, row = project(photo.camera, photo.pose, point)[0]
        width, height = photo.camera.size
        if not (0 <= col <= width and 0 <= row <= height) or _hidden(surface, top, point[0], photo.pose.C):
            continue
        result.append(Sighting(name=photo.name, sha256=photo.sha256, pixel=(float(col), float(row)), shown=photo.value == shown))
    return tuple(result)


def photos_of_shape(
    table: Sequence[TablePhoto], surface: SurfaceModel, shape: shapely.Geometry, *, spots: int = 64
) -> tuple[tuple[TablePhoto, float], ...]:
    """The photos that saw any of up to `spots` places spread over a shape, with the share of these places that each saw (1)."""
    places = _spread(shape, spots)
    heights = [_height_at(surface, (x, y)) for x, y in places]
    points = np.array([[x, y, z] for (x, y), z in zip(places, heights, strict=True) if z is not None]).reshape(-1, 3)
    top, result = _top(surface), []
    for photo in table:
        if not len(points):
            continue
        pixels = project(photo.camera, photo.pose, points)
        width, height = photo.camera.size
        inside = (pixels[:, 0] >= 0) & (pixels[:, 0] <= width) & (pixels[:, 1] >= 0) & (pixels[:, 1] <= height)
        seen = sum(1 for i in np.flatnonzero(inside) if not _hidden(surface, top, points[i], photo.pose.C))
        if seen:
            result.append((photo, seen / len(points)))
    return tuple(result)


def _spread(shape: shapely.Geometry, count: int) -> list[tuple[float, float]]:
    """About `count` places of a shape on a regular net (a line: along it), the same every time."""
    if isinstance(shape, shapely.Point):
        return [(shape.x, shape.y)]
    if isinstance(shape, shapely.LineString):
        at = shapely.line_interpolate_point(shape, np.linspace(0, shape.length, count))
        return [(float(p.x), float(p.y)) for p in at]
    xmin, ymin, xmax, ymax = shape.bounds
    step = max(np.sqrt(shape.area / count), 1e-6)
    x, y = np.meshgrid(np.arange(xmin + step / 2, xmax, step), np.arange(ymin + step / 2, ymax, step))
    inside = shapely.contains_xy(shape, x, y)
    places = [(float(a), float(b)) for a, b in zip(x[inside], y[inside], strict=True)]
    middle = shape.representative_point()
    return places or [(float(middle.x), float(middle.y))]


def _cell(raster: Raster, place: tuple[float, float]) -> tuple[int, int] | None:
    col, row = ~raster.grid.transform @ place
    rows, cols = raster.grid.shape
    return (int(row), int(col)) if 0 <= row < rows and 0 <= col < cols else None


def _height_at(surface: SurfaceModel, place: tuple[float, float]) -> float | None:
    cell = _cell(surface.raster, place)
    value = np.nan if cell is None else float(surface.raster.data[0][cell])
    return value if np.isfinite(value) else None


def _value_at(sources: Raster, place: tuple[float, float]) -> int | None:
    cell = _cell(sources, place)
    return None if cell is None else int(sources.data[0][cell])


def _top(surface: SurfaceModel) -> float:
    known = surface.raster.data[0][np.isfinite(surface.raster.data[0])]
    return float(known.max()) if known.size else -np.inf


def _hidden(surface: SurfaceModel, top: float, point: Array, centre: Array) -> bool:
    """Whether the surface rises above the ray from a point to a camera by more than a cell's side, before it leaves the surface."""
    cell = surface.raster.grid.resolution[0]
    way = centre - point
    flat = float(np.hypot(way[0], way[1]))
    if way[2] <= 0 or flat < cell:
        return False
    heights = surface.raster.data[0]
    far = min(1.0, max(top - point[2], 0.0) / float(way[2]))
    n = int(np.ceil(far * flat / cell))
    if n < 2:
        return False
    s = np.arange(2, n + 1) / n * far
    spots = point + s[:, None] * way
    t = surface.raster.grid.transform
    col, row = np.floor((spots[:, 0] - t.c) / t.a).astype(np.int64), np.floor((spots[:, 1] - t.f) / t.e).astype(np.int64)
    on = (col >= 0) & (row >= 0) & (col < heights.shape[1]) & (row < heights.shape[0])
    return bool(np.any(heights[row[on], col[on]] > spots[on, 2] + cell))
