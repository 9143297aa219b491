"""Files of surveyed points -> GroundPoint. Three forms, told apart by their content:

OpenDroneMap's gcp_list.txt: the reference system, then rows `x y z col row photo [name]`. A table with a header (CSV; names below): one
row a point or a point in a photo. Pix4D: rows `label,x,y,z[,sd across,sd up]` without a header, and a file of marks beside it.
A table's or Pix4D's reference system stands in a comment line (`# EPSG:4547`), in the first line, in a column `crs` or a .prj beside it;
its marks stand in its own rows or in `<name>_marks.csv` (or .txt), rows `photo,label,col,row` or `label,photo,col,row`.
x is the easting or longitude, y the northing or latitude. Wrong reference systems and swapped axes are recognised by the photos'
positions and named; nothing is put right silently. Heights stay as they are. Nothing is written.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from drone.types import GroundPoint, Photo
from geoevidence.crs import parse_crs, transformer
from geoevidence.errors import CrsError, FormatError
from geoevidence.types import Message

Role = Literal["control", "check"]

_MAX_BYTES, _MAX_LINES = 50_000_000, 500_000
_HEIGHT_STEP = 8.0
"""m between two groups of heights that cannot be terrain alone: below the geoid's height over the ellipsoid in most places."""

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "label", "id", "point", "点名", "点号", "编号"),
    "x": ("x", "e", "east", "easting", "lon", "longitude", "东坐标", "经度"),
    "y": ("y", "n", "north", "northing", "lat", "latitude", "北坐标", "纬度"),
    "z": ("z", "h", "u", "height", "altitude", "elevation", "高程", "大地高"),
    "photo": ("photo", "image", "file", "filename", "照片", "影像"),
    "col": ("col", "column", "px", "pixel_x", "列"),
    "row": ("row", "line", "py", "pixel_y", "行"),
    "role": ("role", "type", "类型", "用途"),
    "sd_x": ("sd_x", "sd_e", "sd_east"),
    "sd_y": ("sd_y", "sd_n", "sd_north"),
    "sd_z": ("sd_z", "sd_u", "sd_h", "sd_up", "accuracy_vert", "高程中误差"),
    "sd_xy": ("sd_xy", "sd_horizontal", "accuracy_horz", "平面中误差"),
    "crs": ("crs", "epsg", "坐标系"),
}
_ROLES: Mapping[str, Role] = {
    "control": "control", "gcp": "control", "控制点": "control", "像控点": "control",
    "check": "check", "checkpoint": "check", "check point": "check", "cp": "check", "chk": "check", "检查点": "check", "检核点": "check",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Row:
    """One line: where it stands, and what it says of a point (position, role, sd) and of its mark in a photo."""

    line: int
    name: str
    position: tuple[float, float, float] | None
    photo: str = ""
    pixel: tuple[float, float] | None = None
    role: Role | None = None
    sd: tuple[float, float, float] | None = None
    crs: str = ""


@dataclass(slots=True)
class _Point:
    position: tuple[float, float, float]
    role: Role
    sd: tuple[float, float, float] | None
    observations: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    crs: CRS | None
    rows: tuple[_Row, ...]
    marks: tuple[_Row, ...] = ()
    marks_path: Path | None = None


def point_crs(gcp: Path | None, checks: Path | None) -> CRS | None:
    """The reference system that the first of these files names, or None where neither does.

    Raises:
        FormatError, CrsError: the file is of none of the forms, or its reference system is not known.
    """
    for path in (gcp, checks):
        if path is not None and (crs := _read(Path(path)).crs) is not None:
            return crs
    return None


def read_points(
    path: Path,
    role: Role,
    *,
    photos: Sequence[Photo],
    rejected: Mapping[str, Message],
    crs: CRS,
    sd: tuple[float, float, float],
    max_distance: float,
) -> tuple[list[GroundPoint], list[Message]]:
    """The points of a file in `crs`, sorted by name, and what is to be said about them.

    Args:
        role: of points whose line states none. A file of check points holds no control points; the reverse is allowed.
        rejected: photos of the flight that cannot be used: their marks are left out.
        crs: projected, of the result; also that of a file that names none. Heights are not converted.
        sd: (E, N, U) m of points whose line states none. max_distance: m that a point may lie outside the photos' positions.

    Raises:
        FormatError: the file is not of its form, contradicts itself, or marks a point in an unknown photo or outside one.
        CrsError: the reference system is not known, or the points lie elsewhere than the photos.
    """
    file = _read(path)
    source = file.crs or crs
    points = _collected(file, role)
    _observe(points, file, photos, rejected)
    places = _places(photos, crs)
    result = []
    for name in sorted(points):
        point = points[name]
        position = _moved(point.position, source, crs)
        _require_near(position, point.position, name, path, places, crs, source, max_distance)
        result.append(
            GroundPoint(
                name=name,
                position=position,
                sd=point.sd or sd,
                role=point.role,
                observations=dict(sorted(point.observations.items())),
            )
        )
    gaps = [] if file.crs is not None else [Message(id="drone.gcp_crs_assumed", values={"path": path.name, "crs": crs.name})]
    unmarked = [point.name for point in result if not point.observations]
    if unmarked:
        gaps.append(Message(id="drone.gcp_unmarked", values={"path": path.name, "names": ", ".join(unmarked[:10])}))
    return result, gaps + _height_groups(result, path)


# --------------------------------------------------------------------------------------------------------------------
# The forms


def _read(path: Path) -> _File:
    lines = _lines(path)
    content = [(number, text) for number, text in lines if not text.startswith("#")]
    if not content:
        raise FormatError("drone.gcp_empty", path=path.name)
    stated = next((found for _, text in lines if text.startswith("#") and (found := _crs_in_comment(text)) is not None), None)
    header = _header(content[0][1])
    if header is not None:
        rows = _table(content, header, path)
        stated = _column_crs(rows, path) or stated or _sidecar_crs(path)
    elif (first := _survey_crs(content[0][1])) is not None and "," not in content[0][1].removeprefix("+proj"):
        stated, content = first, content[1:]
        if not content:
            raise FormatError("drone.gcp_empty", path=path.name)
        # The form is that of the first row: Pix4D's begins with a label and has commas.
        pix4d = _is_pix4d(content[0][1])
        rows = _pix4d(content, path) if pix4d else _odm(content, path)
        if not pix4d:
            return _File(path, stated, rows)
    elif _is_pix4d(content[0][1]):
        rows, stated = _pix4d(content, path), stated or _sidecar_crs(path)
    else:
        raise CrsError("drone.gcp_unknown_crs", path=path.name, found=content[0][1][:80])
    if not rows:
        raise FormatError("drone.gcp_empty", path=path.name)
    marks_path = next((p for p in (path.with_name(f"{path.stem}_marks{end}") for end in (".csv", ".txt")) if p.is_file()), None)
    marks = _marks(marks_path, rows) if marks_path is not None else ()
    return _File(path, stated, rows, marks, marks_path)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError("drone.gcp_too_large", path=path.name, limit=_MAX_BYTES // 1_000_000)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FormatError("core.cannot_read", path=path.name, reason=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise FormatError("drone.gcp_not_text", path=path.name) from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if len(lines) > _MAX_LINES:
        raise FormatError("drone.gcp_too_large", path=path.name, limit=_MAX_LINES)
    return lines


def _survey_crs(text: str) -> CRS | None:
    """CRS of `WGS84 UTM 15N`, `EPSG:4547`, `+proj=...` or WKT; None for anything else."""
    utm = re.fullmatch(r"WGS84\s+UTM\s+(\d{1,2})\s*([NS])", text.strip(), re.IGNORECASE)
    try:
        if utm:
            return parse_crs(f"EPSG:{(32600 if utm[2].upper() == 'N' else 32700) + int(utm[1])}")
        return parse_crs(text.strip())
    except CrsError:
        return None


def _crs_in_comment(text: str) -> CRS | None:
    body = re.sub(r"^(crs|srs|坐标系)\s*[:=：]?\s*", "", text.lstrip("#").strip(), flags=re.IGNORECASE)
    return (
        _survey_crs(body)
        if re.match(r"(EPSG:|WGS84\s+UTM|\+proj|PROJCR?S\[|GEOGCR?S\[|COMPD?_?CR?S\[)", body, re.IGNORECASE)
        else None
    )


def _sidecar_crs(path: Path) -> CRS | None:
    beside = path.with_suffix(".prj")
    if not beside.is_file():
        return None
    text = " ".join(line for _, line in _lines(beside))
    found = _survey_crs(text)
    if found is None:
        raise CrsError("drone.gcp_unknown_crs", path=beside.name, found=text[:80])
    return found


def _column_crs(rows: Iterable[_Row], path: Path) -> CRS | None:
    stated = sorted({row.crs for row in rows if row.crs})
    if len(stated) > 1:
        raise CrsError("drone.gcp_several_crs", path=path.name, found=", ".join(stated[:5]))
    if not stated:
        return None
    found = _survey_crs(f"EPSG:{stated[0]}" if stated[0].isdecimal() else stated[0])
    if found is None:
        raise CrsError("drone.gcp_unknown_crs", path=path.name, found=stated[0][:80])
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _split(text: str) -> list[str]:
    """Cells at tabs, commas or semicolons, whichever the line has; else at spaces."""
    for mark in ("\t", ",", ";"):
        if mark in text:
            return [cell.strip() for cell in next(csv.reader([text], delimiter=mark))]
    return text.split()


def _odm(content: Sequence[tuple[int, str]], path: Path) -> tuple[_Row, ...]:
    rows = []
    for number, text in content:
        cells = [cell.strip() for cell in (text.split("\t") if "\t" in text else text.split())]
        values = [_number(cell) for cell in cells[:5]]
        if len(cells) < 6 or any(value is None for value in values):
            raise FormatError("drone.gcp_bad_row", path=path.name, line=number, found=text[:80])
        x, y, z, col, row = (float(value) for value in values if value is not None)
        rows.append(_Row(number, cells[6] if len(cells) > 6 else "", (x, y, z), photo=cells[5], pixel=(col, row)))
    return tuple(rows)


def _header(text: str) -> dict[str, int] | None:
    """Column of each known name, where the line is a header with x, y and z; None otherwise."""
    cells = [re.sub(r"\s*[(（\[].*$", "", cell).strip().lower().replace(" ", "_") for cell in _split(text)]
    found = {key: cells.index(word) for key, words in _COLUMNS.items() for word in words if word in cells}
    return found if {"x", "y", "z"} <= found.keys() else None


def _table(content: Sequence[tuple[int, str]], header: Mapping[str, int], path: Path) -> tuple[_Row, ...]:
    rows = []
    for number, text in content[1:]:
        cells = _split(text)

        def cell(key: str, cells: Sequence[str] = cells) -> str:
            return cells[header[key]] if key in header and header[key] < len(cells) else ""

        x, y, z = (_number(cell(key)) for key in ("x", "y", "z"))
        col, row = _number(cell("col")), _number(cell("row"))
        role = _ROLES.get(cell("role").lower()) if cell("role") else None
        stated = [_number(cell(key) or cell(other)) for key, other in (("sd_x", "sd_xy"), ("sd_y", "sd_xy"), ("sd_z", "sd_z"))]
        said = any(cell(key) for key in ("sd_x", "sd_y", "sd_z", "sd_xy"))
        if (
            x is None
            or y is None
            or z is None
            or (cell("photo") and (col is None or row is None))
            or (cell("role") and role is None)
        ):
            raise FormatError("drone.gcp_bad_cell", path=path.name, line=number, found=text[:80])
        if said and any(s is None or not 0 < s < 100 for s in stated):
            raise FormatError("drone.gcp_bad_sd", path=path.name, line=number, found=text[:80])
        rows.append(
            _Row(
                number,
                cell("name"),
                (x, y, z),
                photo=cell("photo"),
                pixel=None if col is None or row is None else (col, row),
                role=role,
                sd=(stated[0] or 0.0, stated[1] or 0.0, stated[2] or 0.0) if said else None,
                crs=cell("crs"),
            )
        )
    return tuple(rows)


def _is_pix4d(text: str) -> bool:
    cells = _split(text)
    return "," in text and len(cells) in (4, 6) and all(_number(cell) is not None for cell in cells[1:])


def _pix4d(content: Sequence[tuple[int, str]], path: Path) -> tuple[_Row, ...]:
    rows = []
    for number, text in content:
        if not _is_pix4d(text):
            raise FormatError("drone.gcp_bad_pix4d", path=path.name, line=number, found=text[:80])
        label, *cells = _split(text)
        x, y, z, *sd = (float(cell) for cell in cells)
        if sd and not all(0 < s < 100 for s in sd):
            raise FormatError("drone.gcp_bad_sd", path=path.name, line=number, found=text[:80])
        rows.append(_Row(number, label, (x, y, z), sd=(sd[0], sd[0], sd[1]) if sd else None))
    return tuple(rows)


def _marks(path: Path, points: Sequence[_Row]) -> tuple[_Row, ...]:
    """Rows `photo,label,col,row[,...]` or `label,photo,col,row[,...]`; which of the two is the label is told by the points' names."""
    names = {row.name for row in points}
    rows = []
    for index, (number, text) in enumerate(_lines(path)):
        cells = _split(text)
        col, row = (_number(cell) for cell in cells[2:4]) if len(cells) >= 4 else (None, None)
        if text.startswith("#") or (index == 0 and len(cells) >= 4 and col is None and row is None):
            continue  # a comment, or a header
        if col is None or row is None:
            raise FormatError("drone.gcp_bad_mark", path=path.name, line=number, found=text[:80])
        label, photo = (cells[0], cells[1]) if cells[0] in names and cells[1] not in names else (cells[1], cells[0])
        if label not in names:
            raise FormatError("drone.gcp_unknown_label", path=path.name, line=number, found=text[:80])
        rows.append(_Row(number, label, None, photo=photo, pixel=(col, row)))
    return tuple(rows)


# --------------------------------------------------------------------------------------------------------------------
# From lines to points


def _collected(file: _File, role: Role) -> dict[str, _Point]:
    """The points by name; those without one are numbered in the order of their first line."""
    points: dict[str, _Point] = {}
    for name, row in _named_rows(file, role):
        if row.position is None:
            continue
        # OpenDroneMap takes points whose name begins with CHK- for check points.
        own = row.role or ("check" if name.upper().startswith("CHK-") else role)
        if role == "check" and own == "control":
            raise FormatError("drone.gcp_control_among_checks", path=file.path.name, line=row.line, name=name)
        point = points.setdefault(name, _Point(row.position, own, row.sd))
        if point.position != row.position or point.role != own or point.sd != row.sd:
            raise FormatError("drone.gcp_two_positions", path=file.path.name, line=row.line, name=name)
    return points


def _named_rows(file: _File, role: Role) -> list[tuple[str, _Row]]:
    unnamed: dict[tuple[float, float, float], str] = {}
    named = []
    for row in file.rows:
        name = row.name
        if not name and row.position is not None:
            name = unnamed.setdefault(row.position, f"{role}-{len(unnamed) + 1:02d}")
        named.append((name, row))
    return named


def _observe(points: dict[str, _Point], file: _File, photos: Sequence[Photo], rejected: Mapping[str, Message]) -> None:
    by_name = {photo.name: photo for photo in photos}
    by_base: dict[str, list[str]] = {}
    for name in (*by_name, *rejected):
        by_base.setdefault(name.rsplit("/", 1)[-1].lower(), []).append(name)
    role: Role = next(iter(points.values())).role if points else "control"
    marked = [(file.path, name, row) for name, row in _named_rows(file, role)]
    marked += [(file.marks_path or file.path, row.name, row) for row in file.marks]
    for path, name, row in marked:
        if not row.photo or row.pixel is None:
            continue
        found = [row.photo] if row.photo in by_name else by_base.get(row.photo.rsplit("/", 1)[-1].lower(), [])
        if len(found) != 1:
            raise FormatError("drone.gcp_unknown_photo", path=path.name, line=row.line, photo=row.photo)
        if found[0] not in by_name:
            continue  # the photo is rejected, with its reason
        width, height = by_name[found[0]].size
        if not (0 <= row.pixel[0] <= width and 0 <= row.pixel[1] <= height):
            col, line = (f"{value:g}" for value in row.pixel)
            raise FormatError("drone.gcp_outside_photo", path=path.name, line=row.line, photo=row.photo, col=col, row=line)
        observations = points[name].observations
        if found[0] in observations:
            raise FormatError("drone.gcp_seen_twice", path=path.name, line=row.line, name=name, photo=row.photo)
        observations[found[0]] = row.pixel


def _moved(position: tuple[float, float, float], source: CRS, crs: CRS) -> tuple[float, float, float]:
    """Horizontal coordinates in `crs`, infinite where the point lies outside one of the systems; the height is kept as it is."""
    x, y = transformer(source, crs).transform(position[0], position[1])
    return float(x), float(y), position[2]


# --------------------------------------------------------------------------------------------------------------------
# Whether the points lie where the photos are


def _places(photos: Sequence[Photo], crs: CRS) -> NDArray[np.float64]:
    """(N, 2) m: the photos' positions in `crs`."""
    places = np.array([p.position[:2] for p in photos if p.position is not None], float).reshape(-1, 2)
    return np.column_stack(transformer(CRS.from_epsg(4326), crs).transform(places[:, 0], places[:, 1]))


def _away(places: NDArray[np.float64], x: float, y: float) -> float:
    """m from a place to the rectangle around the photos' positions; infinite where it is none."""
    (west, south), (east, north) = places.min(axis=0), places.max(axis=0)
    gap = max(west - x, x - east, south - y, y - north, 0.0)
    return float(gap) if math.isfinite(gap) else math.inf


def _require_near(
    position: tuple[float, float, float],
    written: tuple[float, float, float],
    name: str,
    path: Path,
    places: NDArray[np.float64],
    crs: CRS,
    source: CRS,
    limit: float,
) -> None:
    """A ground point lies near the photos. Raises CrsError, naming swapped axes or the likely reference system where that is the cause."""
    outside = not (math.isfinite(position[0]) and math.isfinite(position[1]))
    if not len(places):
        if outside:
            raise CrsError("drone.gcp_outside_crs", path=path.name, name=name, crs=source.name)
        return
    away = _away(places, position[0], position[1])
    if away <= limit:
        return
    if _away(places, position[1], position[0]) <= limit:
        raise CrsError("drone.gcp_axes_swapped", path=path.name, name=name)
    likely = _likely_crs(written, places, crs, limit)
    distance = "-" if outside else f"{away / 1000:.0f} km"
    if likely is not None:
        found, swapped = likely
        message = "drone.gcp_other_crs_swapped" if swapped else "drone.gcp_other_crs"
        raise CrsError(message, path=path.name, name=name, distance=distance, likely=found)
    if outside:
        raise CrsError("drone.gcp_outside_crs", path=path.name, name=name, crs=source.name)
    raise CrsError("drone.gcp_far_away", path=path.name, name=name, distance=distance, crs=crs.name)


def _likely_crs(
    written: tuple[float, float, float], places: NDArray[np.float64], crs: CRS, limit: float
) -> tuple[str, bool] | None:
    """Name of the common reference system in which the point, as written, lies among the photos; and whether with swapped axes.

    Tried in this order: geographic, CGCS2000 Gauss-Krueger of 3 and 6 degrees, with and without zone number, UTM.
    """
    codes = [4490, 4326, *range(4513, 4555), *range(4491, 4513), *range(32601, 32661), *range(32701, 32761)]
    back = transformer(crs, CRS.from_epsg(4326))
    lon, lat = back.transform(float(np.median(places[:, 0])), float(np.median(places[:, 1])))
    for code in codes:
        other = CRS.from_epsg(code)
        area = other.area_of_use
        if area is not None and not (area.west - 6 <= lon <= area.east + 6 and area.south - 3 <= lat <= area.north + 3):
            continue
        for swapped in (False, True):
            x, y = (written[1], written[0]) if swapped else (written[0], written[1])
            e, n = transformer(other, crs).transform(x, y)
            if _away(places, float(e), float(n)) <= limit:
                return f"EPSG:{code} {other.name}", swapped
    return None


def _height_groups(points: Sequence[GroundPoint], path: Path) -> list[Message]:
    """Said where the heights fall into two groups far apart, as when heights of two datums are mixed.

    Far apart: more than `_HEIGHT_STEP`, and more than three times the spread within the wider group.
    """
    heights = sorted((point.position[2], point.name) for point in points)
    steps = [(b[0] - a[0], k) for k, (a, b) in enumerate(pairwise(heights))]
    if len(heights) < 3 or not steps:
        return []
    step, k = max(steps)
    spread = max(heights[k][0] - heights[0][0], heights[-1][0] - heights[k + 1][0])
    if step <= _HEIGHT_STEP or step <= 3 * spread:
        return []
    few = heights[: k + 1] if k + 1 <= len(heights) / 2 else heights[k + 1 :]
    names = ", ".join(name for _, name in few[:10])
    return [Message(id="drone.gcp_height_groups", values={"path": path.name, "names": names, "step": f"{step:.1f}"})]
