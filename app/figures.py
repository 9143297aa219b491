"""What the screens draw, as plain values: findings on the map, raster layers, pictures of a finding. Knows no Streamlit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoevidence.errors import GeoEvidenceError
from geoevidence.messages import render
from geoevidence.types import EvidenceItem, Finding, Lang

if TYPE_CHECKING:
    from app.tiles import TileSource
    from geoevidence.custody import Case, StoredResult

# Raster kinds the map offers, bottom first; the first orthomosaic and the picture-like ones are switched on.
RASTER_KINDS = (
    *("dtm", "dtm_uncertainty", "dsm", "dsm_uncertainty", "detection_level", "difference"),
    *("magnitude", "break_date", "observations", "status", "orthomosaic"),
)
SHOWN_AT_FIRST = ("orthomosaic", "magnitude")


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFile:
    """A product of one finding: kind as in docs/formats/result.md, title in the reader's language."""

    kind: str
    title: str
    item: EvidenceItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFinding:
    """A finding as a screen shows it. key: unique in the case; number: 1, 2, ...; title: its id and size; geometry: EPSG:4326 or None."""

    key: str
    number: int
    title: str
    stored: StoredResult
    finding: Finding
    geometry: Mapping[str, Any] | None
    files: tuple[FindingFile, ...]

    def pictures(self, kind: str) -> tuple[FindingFile, ...]:
        return tuple(file for file in self.files if file.kind == kind and file.item.media_type in ("image/png", "image/jpeg"))

    def picture(self, kind: str) -> FindingFile | None:
        return next(iter(self.pictures(kind)), None)


def shown_findings(findings: Iterable[tuple[StoredResult, Finding]], lang: Lang) -> tuple[ShownFinding, ...]:
    """The stated findings of a case as they are shown, in their order."""
    shown = []
    for number, (stored, finding) in enumerate(findings, start=1):
        products = {product.path: product for product in stored.result.products}
        # a product of one finding alone begins with its id (docs/formats/result.md); the others belong to the whole result
        files = tuple(
            FindingFile(kind=products[path].kind, title=products[path].title.render(lang), item=stored.files[path])
            for path in finding.products
            if path in products and path.rpartition("/")[2].startswith(f"{finding.id}-")
        )
        shown.append(
            ShownFinding(
                key=f"{stored.event.event_id}/{finding.id}",
                number=number,
                title=" · ".join(
                    part for part in (finding.id, finding.quantity.format(lang) if finding.quantity else "") if part
                ),
                stored=stored,
                finding=finding,
                geometry=_geographic(finding),
                files=files,
            )
        )
    return tuple(shown)


def previews(stored: StoredResult, lang: Lang) -> tuple[FindingFile, ...]:
    """Pictures of the whole result."""
    own = tuple(f"{finding.id}-" for finding in stored.result.findings)
    return tuple(
        FindingFile(kind=product.kind, title=product.title.render(lang), item=stored.files[product.path])
        for product in stored.result.products
        if product.kind == "preview" and product.media_type in ("image/png", "image/jpeg") and not product.path.startswith(own)
    )


def _geographic(finding: Finding) -> Mapping[str, Any] | None:
    if finding.geometry is None or finding.crs is None:
        return None
    from geoevidence import crs

    return crs.transform_geometry(finding.geometry, crs.parse_crs(finding.crs), crs.parse_crs("EPSG:4326"))


def when(stored: StoredResult, finding: Finding, lang: Lang) -> str:
    """When it happened or was seen, in the words of the report."""
    if finding.period is None:
        return render("report.finding.no_period", {}, lang)
    start, end = (day.isoformat() for day in finding.period)
    if start == end:
        return render("report.finding.one_day", {"day": start}, lang)
    kind = "interval" if stored.result.process.startswith("satellite.") else "span"
    return render(f"report.finding.{kind}", {"start": start, "end": end}, lang)


def feature_collection(shown: Iterable[ShownFinding]) -> dict[str, Any]:
    """GeoJSON (EPSG:4326) of the findings that have a place, large before small: what is drawn last is what a click meets."""
    from shapely.geometry import shape

    placed = [entry for entry in shown if entry.geometry is not None]
    placed.sort(key=lambda entry: (-shape(entry.geometry).area, entry.number))
    features = [{"type": "Feature", "properties": {"key": entry.key}, "geometry": entry.geometry} for entry in placed]
    return {"type": "FeatureCollection", "features": features}


def labels(shown: Iterable[ShownFinding]) -> list[dict[str, Any]]:
    """Pins at a point inside each outline; findings on one outline share a pin."""
    from shapely.geometry import shape

    pins: dict[tuple[float, float], list[ShownFinding]] = {}
    for entry in shown:
        if entry.geometry is not None:
            point = shape(entry.geometry).representative_point()
            pins.setdefault((point.x, point.y), []).append(entry)
    return [
        {
            "keys": [entry.key for entry in entries],
            "label": ", ".join(str(entry.number) for entry in entries),
            "title": "\n".join(entry.title for entry in entries),
            "at": list(at),
        }
        for at, entries in pins.items()
    ]


@lru_cache(maxsize=256)
def _tile_source(path: Path) -> TileSource:
    from app.tiles import TileSource

    return TileSource.open(path)


def raster_layers(case: Case, results: Iterable[StoredResult], lang: Lang) -> list[dict[str, Any]]:
    """Raster products of the results of a case as layers of the map, bottom first; one that has no place on Earth is left out."""
    found: list[tuple[int, dict[str, Any]]] = []
    for stored in results:
        for product in stored.result.products:
            if product.kind not in RASTER_KINDS:
                continue
            item = stored.files[product.path]
            try:
                source = _tile_source(case.path_of(item))
            except GeoEvidenceError:
                continue  # a local grid (no position on Earth) cannot be laid on a map; it stays in the list of files
            layer = {
                "id": item.id,
                "title": product.title.render(lang),
                "tiles": f"/tiles/{case.id}/{item.id}/{{z}}/{{x}}/{{y}}.png",
                "bounds": list(source.bounds),
                "minzoom": source.minzoom,
                "maxzoom": source.maxzoom,
                "visible": product.kind in SHOWN_AT_FIRST,
            }
            found.append((RASTER_KINDS.index(product.kind), layer))
    return [layer for _, layer in sorted(found, key=lambda pair: (pair[0], pair[1]["id"]))]


def bounds(shown: Sequence[ShownFinding], layers: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """[west, south, east, north] of all findings, or of the layers when no finding has a place; None when nothing has."""
    from shapely.geometry import shape

    boxes = [shape(entry.geometry).bounds for entry in shown if entry.geometry is not None] or [
        tuple(layer["bounds"]) for layer in layers
    ]
    if not boxes:
        return None
    west, south, east, north = (pick(box[index] for box in boxes) for index, pick in enumerate((min, min, max, max)))
    margin = max(east - west, north - south, 1e-5) * 0.15
    return [west - margin, south - margin, east + margin, north + margin]
