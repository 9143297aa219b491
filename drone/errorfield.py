"""The error field of a block on disk, and what it says of the heights of a grid's cells.

In and out: `ErrorField` and a `.npz` of three plain arrays (docs/formats/result.md). The same field gives the same bytes.
What is read is not trusted: no pickled objects, bounded size, exact names, shapes and types.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drone.types import ErrorField
from geoevidence.errors import FormatError
from geoevidence.raster import Grid

_LARGEST = 256_000_000
"""Bytes of a field that is read; the field of 1000 photos with 200 modes on 40 x 40 nodes has a hundredth of that."""
_NAMES = {"origin", "spacing", "factor"}


def write_error_field(path: Path, field: ErrorField) -> None:
    """Write `field` as `path` (.npz: origin (2,) and spacing (2,) float64 m, factor (K, rows, columns, 3) float32 m), atomically."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as stream:
        # numpy stamps every entry 1980-01-01, so that no clock enters the bytes
        np.savez(
            stream,
            origin=np.asarray(field.origin, np.float64),
            spacing=np.asarray(field.spacing, np.float64),
            factor=np.ascontiguousarray(field.factor, np.float32),
        )
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(scratch, path)


def read_error_field(path: Path) -> ErrorField:
    """The field of such a file.

    Raises:
        FormatError: unreadable, other arrays, other shapes or types, values that are not finite, or too large.
    """
    name = Path(path).name
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if {entry.filename for entry in entries} != {f"{part}.npy" for part in _NAMES} or len(entries) != len(_NAMES):
                raise FormatError("drone.bad_error_field", path=name, reason="names")
            if sum(entry.file_size for entry in entries) > _LARGEST:
                raise FormatError("drone.bad_error_field", path=name, reason="size")
        with np.load(path, allow_pickle=False) as stored:
            origin, spacing, factor = (stored[part] for part in ("origin", "spacing", "factor"))
    except (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError("drone.bad_error_field", path=name, reason=str(error)) from error
    good = (
        origin.shape == (2,)
        and spacing.shape == (2,)
        and origin.dtype == spacing.dtype == np.float64
        and factor.dtype == np.float32
        and factor.ndim == 4
        and factor.shape[3] == 3
        and min(factor.shape) >= 1
        and bool(np.isfinite(origin).all() and np.isfinite(spacing).all() and np.isfinite(factor).all() and (spacing > 0).all())
    )
    if not good:
        raise FormatError("drone.bad_error_field", path=name, reason="arrays")
    return ErrorField(origin=(float(origin[0]), float(origin[1])), spacing=(float(spacing[0]), float(spacing[1])), factor=factor)


def height_sd(field: ErrorField, grid: Grid) -> NDArray[np.float32]:
    """(rows, cols) float32 m: standard uncertainty that the field gives the height of each cell of a grid without rotation.

    The vertical component alone: that of a spot of ground which the photos show there, wherever the block lies in plan.
    """
    t = grid.transform
    up = field.factor[..., 2].astype(np.float64)
    rows, columns = up.shape[1:]
    x = np.clip((t.c + (np.arange(grid.shape[1]) + 0.5) * t.a - field.origin[0]) / field.spacing[0], 0, columns - 1)
    y = np.clip((t.f + (np.arange(grid.shape[0]) + 0.5) * t.e - field.origin[1]) / field.spacing[1], 0, rows - 1)
    column, row = np.minimum(x.astype(np.int64), max(columns - 2, 0)), np.minimum(y.astype(np.int64), max(rows - 2, 0))
    right, north = np.minimum(np.arange(columns) + 1, columns - 1), np.minimum(np.arange(rows) + 1, rows - 1)
    corners = (up, up[:, :, right], up[:, north], up[:, north][:, :, right])
    s, u = x - column, y - row
    east = (1 - s, s)
    variance = np.empty(grid.shape, np.float32)
    # between nodes the variance is a form in the four weights, with the covariances of the corners: no copy for each of the K modes
    pairs = [(i, j, np.sum(corners[i] * corners[j], axis=0) * (1 if i == j else 2)) for i in range(4) for j in range(i, 4)]
    for line in range(grid.shape[0]):
        nodes = row[line]
        weight = [part * east[corner % 2] for corner, part in enumerate((1 - u[line], 1 - u[line], u[line], u[line]))]
        total = np.zeros(grid.shape[1])
        for i, j, covariance in pairs:
            total += covariance[nodes][column] * weight[i] * weight[j]
        variance[line] = total
    return np.sqrt(np.maximum(variance, 0))
