"""Our browser components, mounted from Python: the map of a case, a before/after picture, the resumable upload.

Their bundles are built by set-up into `<name>/dist` and come from our own route `/assets`, so that neither the
name of the installed distribution nor a network decides whether they load. What goes in is plain JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from geoevidence.errors import ConfigError

_HERE = Path(__file__).parent
# The newline makes Streamlit take this for code, not for a path.
_LOADER = """
const bundle = await import(new URL("%s", window.location.origin).href);
export default bundle.default;
"""


def _built(name: str, suffix: str) -> str:
    """Address of the one built file `<name>-<hash><suffix>`. Raises ConfigError when set-up has not built it."""
    found = sorted((_HERE / name / "dist").glob(f"{name}-*{suffix}"))
    if len(found) != 1:
        raise ConfigError("app.web_not_built", component=name)
    return f"/assets/{name}/{found[0].name}"


@lru_cache
def _component(name: str) -> Callable[..., Any]:
    return st.components.v2.component(f"geoevidence_{name}", js=_LOADER % _built(name, ".js"), html="<div></div>\n")


def case_map(
    key: str,
    *,
    findings: Mapping[str, Any],
    labels: Sequence[Mapping[str, Any]],
    rasters: Sequence[Mapping[str, Any]],
    bounds: list[float] | None,
    selected: str | None,
    banner: str,
) -> str | None:
    """Show the map; returns the key of the finding that was just clicked, or None.

    findings: GeoJSON FeatureCollection in EPSG:4326; each feature has `properties.key`.
    labels: {keys, label, title, at: [lon, lat]}, one pin each; clicks go through its keys in turn.
    rasters: {id, title, tiles (address with {z}/{x}/{y}), bounds, minzoom, maxzoom, visible}, bottom first.
    bounds: [west, south, east, north] to show first, degrees.
    banner: text over the map, or "".
    """
    shown = {"findings": findings, "labels": list(labels), "rasters": list(rasters), "bounds": bounds, "banner": banner}
    digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]
    data = {**shown, "key": digest, "selected": selected, "css": _built("map", ".css")}
    result = _component("map")(key=key, data=data, height=564, on_clicked_change=lambda: None)
    return result.clicked if isinstance(result.clicked, str) else None


def compare(key: str, *, before: Mapping[str, str], after: Mapping[str, str], texts: Mapping[str, str]) -> None:
    """Show two pictures of one place with a bar that wipes between them. before, after: {source (address), title}."""
    shown = {"before": before, "after": after, **texts, "css": _built("compare", ".css")}
    _component("compare")(key=key, data={**shown, "key": json.dumps(shown, sort_keys=True)})


def upload_form(key: str, *, case: str, texts: Mapping[str, str], on_finished: Callable[[], None]) -> None:
    """Show the upload field of a case; `on_finished` runs once all chosen files are complete on the server."""
    data = {"endpoint": f"/uploads/{case}", "texts": dict(texts), "css": _built("upload", ".css")}
    _component("upload")(key=key, data=data, on_finished_change=on_finished)
