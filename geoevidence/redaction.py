"""Items made fit for release: boxes of a picture blurred, coordinates of a GeoJSON file rounded.

Each is a process of its own on one item of a case, recorded as a `derived` event before the package is sealed; a
redacted copy then holds the new item and leaves the original out. The new file carries nothing of the old one but what
is seen: no EXIF, no colour profile, no file name. Pillow loads on first use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoevidence.custody import Case, StoredResult
from geoevidence.errors import ConfigError, FormatError
from geoevidence.trust.canonical import loads
from geoevidence.types import EvidenceItem, Message, ProcessResult, Product

if TYPE_CHECKING:
    from PIL.Image import Image

BLUR, ROUND = "redact.blur", "redact.round"
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the picture as it is shown, from its upper left corner."""
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
_MODES = {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "1": "L", "CMYK": "RGB"}
_MAX_PIXELS = 500_000_000
_MAX_JSON = 64 << 20
CELLS, CELL_PIXELS = 6, 8
"""Cells along the longer side of a blurred box, at most, and pixels along a cell, at least: too few for a face or a number
plate to be told (each is one mean colour). Without the second a box of a few pixels would stay as it is."""


def blur_item(case: Case, item: EvidenceItem, boxes: Sequence[Box] = ()) -> StoredResult:
    """A picture of the case with boxes blurred, as a new item `redacted.png`; without boxes the whole picture is.

    Raises: FormatError for a file that is no picture, or of a kind that would change otherwise (16 bits); ConfigError for
        a box outside it; CustodyError.
    """
    parameters = {"boxes": [list(box) for box in boxes], "cells": CELLS, "cell_pixels": CELL_PIXELS}
    return _derive(case, item, BLUR, parameters, "redacted.png", "image/png", lambda old, new: _blur(old, new, boxes), ())


def round_item(case: Case, item: EvidenceItem, decimals: int) -> StoredResult:
    """A GeoJSON file of the case with every coordinate rounded, as a new item `redacted.geojson`.

    Args:
        decimals: of a coordinate, 0 to 7; of a degree of latitude, 3 decimals are about 110 m.

    Coordinates that stand among the properties of a feature stay; the result says so.
    Raises: FormatError for a file that is no GeoJSON; ConfigError; CustodyError.
    """
    if not 0 <= decimals <= 7:
        raise ConfigError("redaction.decimals", found=decimals)
    gaps = (Message(id="redaction.properties_stay"),)
    kind = "application/geo+json"
    return _derive(
        case, item, ROUND, {"decimals": decimals}, "redacted.geojson", kind, lambda old, new: _round(old, new, decimals), gaps
    )


def redact_again(former: ProcessResult, *, inputs: Path, out: Path) -> ProcessResult:
    """The same redaction of the one file in `inputs`, with the recorded parameters, into `out`.

    Raises: FormatError, ConfigError as when it was made; FormatError where the inputs are not one file.
    """
    files = [path for path in sorted(inputs.rglob("*")) if path.is_file()]
    if len(files) != 1:
        raise FormatError("redaction.one_input", found=len(files))
    out.mkdir(parents=True, exist_ok=True)
    target = out / former.products[0].path
    if former.process == BLUR:
        if (former.parameters.get("cells"), former.parameters.get("cell_pixels")) != (CELLS, CELL_PIXELS):
            raise ConfigError("core.unknown_parameter", where=BLUR, name="cells")
        boxes = [(int(x), int(y), int(width), int(height)) for x, y, width, height in former.parameters["boxes"]]
        _blur(files[0], target, boxes)
    else:
        _round(files[0], target, int(former.parameters["decimals"]))
    former.write(out)
    return former


def _derive(
    case: Case,
    item: EvidenceItem,
    process: str,
    parameters: dict[str, Any],
    name: str,
    media_type: str,
    make: Callable[[Path, Path], None],
    gaps: tuple[Message, ...],
) -> StoredResult:
    with case.derivation(process=process, inputs=[item], parameters=parameters) as derivation:
        make(derivation.path_of(item), derivation.out / name)
        product = Product(path=name, kind="redacted", media_type=media_type, title=Message(id=f"redaction.title.{process}"))
        result = ProcessResult(
            process=process,
            parameters=parameters,
            seed=None,
            products=(product,),
            findings=(),
            gaps=gaps,
            synthetic=case.demonstration,
        )
        return derivation.commit(result)


def _blur(source: Path, target: Path, boxes: Sequence[Box]) -> None:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(source, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise FormatError("redaction.too_large", limit=_MAX_PIXELS)
            if opened.mode not in _MODES:
                raise FormatError("redaction.image_mode", found=opened.mode)
            shown = ImageOps.exif_transpose(opened).convert(_MODES[opened.mode])
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError("redaction.not_a_picture", reason=type(error).__name__) from error
    # made anew from the pixels alone: nothing else of the original travels along
    clean = Image.frombytes(shown.mode, shown.size, shown.tobytes())
    for box in boxes or [(0, 0, *clean.size)]:
        _pixelate(clean, box)
    clean.save(target, format="PNG", compress_level=6)


def _pixelate(image: Image, box: Box) -> None:
    from PIL import Image as images

    x, y, width, height = box
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > image.width or y + height > image.height:
        raise ConfigError("redaction.box", found=f"{x},{y},{width},{height}", width=image.width, height=image.height)
    # a narrow strip has one row of cells, a small box a single one
    across, down = (max(1, min(round(CELLS * side / max(width, height)), side // CELL_PIXELS)) for side in (width, height))
    cells = image.crop((x, y, x + width, y + height)).resize((across, down), images.Resampling.BOX)
    image.paste(cells.resize((width, height), images.Resampling.NEAREST), (x, y))


def _round(source: Path, target: Path, decimals: int) -> None:
    step = Decimal(1).scaleb(-decimals)

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(each) for each in value]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise FormatError("redaction.not_geojson", reason="coordinates")
        return float(Decimal(repr(value)).quantize(step, ROUND_HALF_EVEN))

    def walk(value: Any, name: str = "") -> Any:
        if name in ("coordinates", "bbox"):
            return rounded(value)
        if isinstance(value, dict):
            return {key: each if key == "properties" else walk(each, key) for key, each in value.items()}
        return [walk(each) for each in value] if isinstance(value, list) else value

    if source.stat().st_size > _MAX_JSON:
        raise FormatError("redaction.too_large", limit=_MAX_JSON)
    raw = loads(source.read_bytes(), where="GeoJSON", allow_floats=True)
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise FormatError("redaction.not_geojson", reason="type")
    try:
        text = json.dumps(walk(raw), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (InvalidOperation, ValueError) as error:
        raise FormatError("redaction.not_geojson", reason="coordinates") from error
    target.write_bytes(text.encode("utf-8"))
