"""Whether two files that one process made at different times or places say the same within a tolerance.

Rasters are compared cell by cell, JSON and CSV number by number, pictures pixel by pixel; what this module does not know
is left to the engine that wrote it. A file that cannot be read is different, and says why. Nothing is written.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geoevidence.errors import GeoEvidenceError
from geoevidence.raster import raster_difference
from geoevidence.types import Product

Likeness = Literal["within_tolerance", "differs"]
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
RELATIVE = 1e-4
"""Numbers in JSON and CSV may differ by this share: the last digits of an adjustment on another processor, not its result."""
_PLACES = re.compile(r"\.(coordinates|bbox|polygon)\[")
"""Where numbers are coordinates: of a northing of 3 000 km that share would be 300 m."""
_PICTURE_LEVELS, _PICTURE_SHARE = 16, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Of a raster product. value: largest difference of a cell, in its unit. share: part of the cells that may exceed it or be missing."""

    value: float
    share: float


def compare_product(
    product: Product, stated: Path, found: Path, *, tolerances: Mapping[str, Tolerance]
) -> tuple[Likeness, str] | None:
    """How `found` differs from `stated`, whose bytes differ: status and, in words of numbers, where. None for a kind not known here.

    Args:
        product: what the file is. tolerances: kind of product -> tolerance; a raster of another kind must be equal.
    """
    media = product.media_type.partition(";")[0]
    try:
        if media == "image/tiff":
            return _rasters(stated, found, tolerances.get(product.kind, Tolerance(value=0.0, share=0.0)))
        if media in ("application/json", "application/geo+json"):
            return compare_values(_json(stated), _json(found))
        if media == "text/csv":
            return compare_values(_csv(stated), _csv(found))
        if media == "image/png":
            return _pictures(stated, found)
    except GeoEvidenceError as error:
        return "differs", error.render("en")
    except (OSError, ValueError) as error:
        return "differs", str(error)
    return None


def _rasters(stated: Path, found: Path, tolerance: Tolerance) -> tuple[Likeness, str]:
    difference = raster_difference(stated, found, tolerance=tolerance.value)
    off = difference.over + difference.other_mask
    detail = f"{off} of {difference.cells} cells differ by more than {tolerance.value:g} or are missing in one; largest {difference.largest:.6g}"
    return ("within_tolerance" if off <= tolerance.share * difference.cells else "differs"), detail


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _csv(path: Path) -> Any:
    return list(csv.reader(io.StringIO(path.read_text("utf-8"))))


def compare_values(stated: Any, found: Any) -> tuple[Likeness, str]:
    """Two JSON values: equal but for numbers (also as decimal text) that differ by at most `RELATIVE`, coordinates by a centimetre."""
    worst, where = 0.0, ""
    for place, one, other in _pairs(stated, found, "$"):
        if one == other:
            continue
        first, second = _value(one), _value(other)
        if first is None or second is None:
            return "differs", f"{place}: {_short(one)} / {_short(other)}"
        if _PLACES.search(place):
            if not same_coordinate(first, second):
                return "differs", f"{place}: {_short(one)} / {_short(other)}"
            continue
        apart = abs(first - second) / max(abs(first), abs(second))
        if apart > worst:
            worst, where = apart, place
    if worst > RELATIVE:
        return "differs", f"{where}: relative difference {worst:.2g}"
    return "within_tolerance", f"largest relative difference {worst:.2g}"


def _pairs(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one:
            yield from _pairs(one[name], other[name], f"{place}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _pairs(left, right, f"{place}[{index}]")
    else:
        yield place, one, other


def _value(raw: Any) -> float | None:
    """A finite number, also one written as decimal text."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)) or (isinstance(raw, str) and not _NUMBER.fullmatch(raw)):
        return None
    value = float(raw)
    return value if math.isfinite(value) else None


def same_coordinate(one: float, other: float) -> bool:
    """Within a centimetre: 0.01 of a metre, or 1e-7 of what can be a degree."""
    return abs(one - other) <= (1e-7 if max(abs(one), abs(other)) <= 360 else 0.01)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _pictures(stated: Path, found: Path) -> tuple[Likeness, str]:
    import numpy as np
    from PIL import Image

    with Image.open(stated, formats=("PNG",)) as one, Image.open(found, formats=("PNG",)) as other:
        if (one.size, one.mode) != (other.size, other.mode):
            return "differs", f"{one.size} {one.mode} / {other.size} {other.mode}"
        apart = np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16))
    share = float((apart > _PICTURE_LEVELS).mean())
    detail = f"{share:.2%} of the values differ by more than {_PICTURE_LEVELS} of 255"
    return ("within_tolerance" if share <= _PICTURE_SHARE else "differs"), detail
