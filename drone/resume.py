"""What a survey under way has finished, so that one that was killed goes on where it stood and gives the same bytes.

A `StageStore` is a folder with one file per finished stage, under a key that stands for everything the stages depend on
(photos, survey files, settings, this code): another key empties it. Values are the dataclasses of this package; arrays are
stored as they are and numbers exactly, so that what comes back equals what was stored. Files are written whole or not at all
and carry checksums; one that does not match, or is not of this form, counts as not finished.
Nothing is executed when a file is read (no pickle), and nothing outside the folder is touched.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from drone import types as drone_types
from geoevidence.raster import Grid, Raster
from geoevidence.trust import canonical
from geoevidence.types import Message, Quantity

_T = TypeVar("_T")
_KEY, _VALUE = "key", "value.json"
_KNOWN = {
    kind.__name__: kind
    for kind in (
        *(value for value in vars(drone_types).values() if isinstance(value, type) and is_dataclass(value)),
        Grid,
        Message,
        Quantity,
        Raster,
    )
}


def code_digest() -> str:
    """SHA-256, hex, of the sources of this package and the versions of the libraries that compute for it."""
    from importlib import metadata

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name in ("numpy", "scipy", "numba", "opencv-python", "pycolmap", "pyceres", "pyproj", "rasterio"):
        try:
            digest.update(f"{name} {metadata.version(name)}\n".encode())
        except metadata.PackageNotFoundError:
            digest.update(f"{name} -\n".encode())
    return digest.hexdigest()


class StageStore:
    """Finished stages of one computation. shared: name -> object that every stage refers to and that is not stored again."""

    def __init__(
        self, folder: Path, request: Mapping[str, Any], *, shared: Mapping[str, Any], kinds: tuple[type, ...] = ()
    ) -> None:
        self._folder = Path(folder)
        self._shared = dict(shared)
        self._kinds = _KNOWN | {kind.__name__: kind for kind in kinds}
        key = hashlib.sha256(canonical.dumps(request)).hexdigest()
        marker = self._folder / _KEY
        if marker.is_file() and marker.read_bytes() != key.encode():
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not marker.is_file():
            part = marker.with_name(f".{_KEY}.part")
            part.write_bytes(key.encode())
            os.replace(part, marker)

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """The value of a stage: the stored one, else that of `make`, which is stored.

        What is given back was read from the store in both cases, down to the layout of arrays, on which the last digits of sums
        depend. Raises OSError when it cannot be stored.
        """
        found = self.load(name)
        if found is None:
            self.save(name, make())
            found = self.load(name)
        if found is None:
            raise OSError(errno.EIO, "cannot be read back", str(self._folder / f"{name}.stage"))
        return cast(_T, found)

    def load(self, name: str) -> Any | None:
        """The value of a finished stage, or None."""
        try:
            # every member carries a checksum, which is tested when it is read to its end
            with zipfile.ZipFile(self._folder / f"{name}.stage") as archive:
                return self._decode(json.loads(archive.read(_VALUE)), archive)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None

    def save(self, name: str, value: Any) -> None:
        """Store the value of a stage. Raises OSError; TypeError for a value that cannot be stored."""
        path = self._folder / f"{name}.stage"
        part = path.with_name(f".{path.name}.part")
        arrays: list[NDArray[Any]] = []
        tree = self._encode(value, arrays)
        with part.open("wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(_VALUE, json.dumps(tree))
                for number, array in enumerate(arrays):
                    with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)

    def _encode(self, value: Any, arrays: list[NDArray[Any]]) -> Any:
        for name, shared in self._shared.items():
            if value is shared or (type(value) is type(shared) and not is_dataclass(value) and value == shared):
                return {"shared": name}
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError("an array of objects cannot be stored")
            arrays.append(value)
            return {"array": len(arrays) - 1, "writeable": bool(value.flags.writeable)}
        if isinstance(value, np.generic):
            return self._encode(value.item(), arrays)
        if isinstance(value, int):
            return {"int": str(value)}
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, datetime):
            return {"datetime": value.isoformat()}
        if isinstance(value, date):
            return {"date": value.isoformat()}
        if isinstance(value, Path):
            return {"path": str(value)}
        if isinstance(value, Affine):
            return {"affine": [float(part).hex() for part in tuple(value)[:6]]}
        if is_dataclass(value) and type(value).__name__ in self._kinds:
            parts = {part.name: self._encode(getattr(value, part.name), arrays) for part in fields(value) if part.init}
            return {"kind": type(value).__name__, "fields": parts}
        if isinstance(value, Mapping):
            return {"map": [[self._encode(key, arrays), self._encode(part, arrays)] for key, part in value.items()]}
        if isinstance(value, (tuple, list)):
            return {
                type(value).__name__ if type(value) in (tuple, list) else "tuple": [self._encode(part, arrays) for part in value]
            }
        raise TypeError(f"{type(value).__name__} cannot be stored")

    def _decode(self, tree: Any, archive: zipfile.ZipFile) -> Any:
        if not isinstance(tree, dict):
            return tree
        if "kind" in tree:
            parts = {name: self._decode(part, archive) for name, part in tree["fields"].items()}
            return self._kinds[tree["kind"]](**parts)
        ((form, raw), *_) = tree.items()
        if form == "array":
            with archive.open(f"{raw}.npy") as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
            array.flags.writeable = tree["writeable"]
            return array
        if form in ("tuple", "list"):
            values = [self._decode(part, archive) for part in raw]
            return tuple(values) if form == "tuple" else values
        if form == "map":
            return {self._decode(key, archive): self._decode(part, archive) for key, part in raw}
        simple = {
            "shared": lambda: self._shared[raw],
            "int": lambda: int(raw),
            "float": lambda: float.fromhex(raw),
            "datetime": lambda: datetime.fromisoformat(raw),
            "date": lambda: date.fromisoformat(raw),
            "path": lambda: Path(raw),
            "affine": lambda: Affine(*(float.fromhex(part) for part in raw)),
        }
        return simple[form]()
