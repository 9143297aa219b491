"""Arrays of a Zarr store in a folder, formats 2 and 3: what they are, and windows of their numbers as stored.

In: a folder, whose links and digests the caller has looked at. Out: `ZarrArray`. Decoding is the zarr library's; only codecs that
turn bytes into numbers are let through, so that a store cannot name one that runs code (pickles) or reaches elsewhere.
It interprets no coordinates and knows no scenes.
Sources: Zarr specifications, core 2 and core 3.1; sharding: Zarr extension 2; `_ARRAY_DIMENSIONS` and `_FillValue`: xarray's documentation,
"Zarr encoding specification".
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoevidence.errors import FormatError
from satellite.strict import read_json

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN = re.compile(r"[<>|][biuf][1248]|bool|u?int(8|16|32|64)|float(16|32|64)")
_CODECS_2 = frozenset({"zlib", "gzip", "bz2", "lzma", "zstd", "lz4", "blosc", "shuffle", "delta", "crc32"})
_CODECS_3 = frozenset({"bytes", "gzip", "zstd", "blosc", "crc32c", "transpose"})
_SHARDS = "sharding_indexed"
_LONGEST = 1 << 31
"""Most bytes of a chunk of doubles: blosc holds no more, and a store must not ask for any amount of memory."""


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr store (of any format)."""
    return any((folder / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ZarrArray:
    """One array. dims: names of its axes, empty where none are named. attributes: its own, `_FillValue` as a number where there is one.

    shape, chunks: cells of each axis (of a sharded array the chunks within shards). dtype: numpy name of what `read` gives.
    """

    place: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    attributes: Mapping[str, Any]
    _array: Any

    def read(self, *window: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Stored numbers of a window: for each axis a slice or positions.

        A chunk that is not there holds the fill value that the metadata state. Raises FormatError where a chunk cannot be decoded, or is
        not there and no fill value is stated.
        """
        try:
            if self._array.metadata.fill_value is None:
                self._all_there(window)
            return np.asarray(self._array.oindex[window])
        except FormatError:
            raise
        except Exception as error:  # codecs raise what they like on damaged bytes
            reason = str(error) or type(error).__name__
            raise FormatError("core.cannot_read", path=f"{self.place.parent.name}/{self.place.name}", reason=reason) from error

    def _all_there(self, window: tuple[slice | NDArray[np.int64], ...]) -> None:
        touched = [
            np.unique(np.arange(size)[part] // chunk) for size, chunk, part in zip(self.shape, self.chunks, window, strict=True)
        ]
        for index in np.stack(np.meshgrid(*touched, indexing="ij"), axis=-1).reshape(-1, len(touched)).tolist():
            name = self._array.metadata.encode_chunk_key(tuple(index))
            if not (self.place / name).is_file():
                raise FormatError("satellite.zarr_no_chunk", path=f"{self.place.parent.name}/{self.place.name}", chunk=name)


def read_arrays(folder: Path) -> dict[str, ZarrArray]:
    """The arrays that lie directly in a store, by name, in order of names.

    Raises:
        FormatError: metadata that cannot be read or state no plain array; a codec that is not let through.
    """
    found = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        third, second = place / "zarr.json", place / ".zarray"
        if third.is_file():
            described = read_json(third)
            if not isinstance(described, dict) or described.get("node_type") != "array":
                continue
            attributes, dims = described.get("attributes", {}), described.get("dimension_names")
            fill = None
            codecs = _codecs_3(described.get("codecs"))
            kind, grid = described.get("data_type"), described.get("chunk_grid")
            chunks = grid.get("configuration", {}).get("chunk_shape") if isinstance(grid, dict) else None
        elif second.is_file():
            described = read_json(second)
            if not isinstance(described, dict):
                described = {}
            attributes = read_json(place / ".zattrs") if (place / ".zattrs").is_file() else {}
            dims = attributes.get("_ARRAY_DIMENSIONS") if isinstance(attributes, dict) else None
            fill = described.get("fill_value")
            codecs = [part.get("id") if isinstance(part, dict) else part for part in _stages_2(described)]
            kind, chunks = described.get("dtype"), described.get("chunks")
        else:
            continue
        name = f"{folder.name}/{place.name}"
        shape = described.get("shape")
        if not isinstance(attributes, dict) or not _NAME.fullmatch(place.name) or not _sizes(shape, chunks, kind):
            raise FormatError("core.cannot_read", path=name, reason=third.name if third.is_file() else second.name)
        refused = sorted({str(codec) for codec in codecs} - (_CODECS_3 if third.is_file() else _CODECS_2))
        if refused:
            raise FormatError("satellite.zarr_codec", path=name, codec=", ".join(refused))
        array = _opened(place, name)
        if "_FillValue" in attributes:
            attributes = {**attributes, "_FillValue": _fill(attributes["_FillValue"], name)}
        elif not isinstance(fill, (str, bool, type(None))):
            attributes = {**attributes, "_FillValue": fill}
        found[place.name] = ZarrArray(
            place=place,
            shape=tuple(array.shape),
            chunks=tuple(array.chunks),
            dtype=array.dtype.name,
            dims=tuple(map(str, dims)) if isinstance(dims, list) else (),
            attributes=attributes,
            _array=array,
        )
    return found


def _opened(place: Path, name: str) -> Any:
    import zarr

    try:
        return zarr.open_array(zarr.storage.LocalStore(place, read_only=True), mode="r")
    except Exception as error:  # the library raises many kinds on metadata it does not know
        raise FormatError("core.cannot_read", path=name, reason=str(error) or type(error).__name__) from error


def _stages_2(described: Mapping[str, Any]) -> list[Any]:
    filters = described.get("filters") or []
    stages = [*filters, described.get("compressor")] if isinstance(filters, list) else [filters]
    return [stage for stage in stages if stage is not None]


def _codecs_3(stages: Any) -> list[Any]:
    """Names of all codecs of a chain, those inside shards included."""
    if not isinstance(stages, list):
        return [stages]
    names: list[Any] = []
    for stage in stages:
        name = stage.get("name") if isinstance(stage, dict) else stage
        if name == _SHARDS:
            inner = stage.get("configuration") if isinstance(stage, dict) else None
            inner = inner if isinstance(inner, dict) else {}
            for chain in (inner.get("codecs"), inner.get("index_codecs")):
                names += _codecs_3(chain)
        else:
            names.append(name)
    return names


def _sizes(shape: Any, chunks: Any, kind: Any) -> bool:
    """Whether metadata state a shape, chunks of a bearable size and a plain type."""
    if not isinstance(shape, list) or not isinstance(chunks, list) or len(shape) != len(chunks):
        return False
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in (*shape, *chunks))
    return whole and math.prod(chunks) * 8 <= _LONGEST and isinstance(kind, str) and bool(_PLAIN.fullmatch(kind))


def _fill(value: Any, name: str) -> Any:
    """A fill value of the attributes: a number, or what xarray writes for floats in format 3 (base64 of a double, little-endian)."""
    if not isinstance(value, str) or value in ("NaN", "Infinity", "-Infinity"):
        return value
    try:
        return struct.unpack("<d", base64.b64decode(value, validate=True))[0]
    except (ValueError, struct.error) as error:
        raise FormatError("core.cannot_read", path=name, reason="_FillValue") from error
