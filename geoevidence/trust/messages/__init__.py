"""Texts by message id, in Chinese and English.

A catalogue is a folder `<lang>/<subject>.json` of {message id: text with {names}}
(or, in this package, `<lang>.json`). Other parts add theirs with `add_catalogue`.
A text uses plain `{name}` fields only; a value never chooses a format or an attribute.
An id without a text is shown as the id with its values: nothing is hidden, nothing raises.
Standard library only, Python 3.9+.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

LANGUAGES = ("zh", "en")
_FIELD = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_catalogues: dict[str, tuple[str, ...]] = {}
_texts: dict[str, dict[str, str]] = {}


def add_catalogue(package: str, subjects: tuple[str, ...]) -> None:
    """Register the texts `<lang>/<subject>.json` that ship inside `package`."""
    _catalogues[package] = subjects
    _texts.clear()


def _load(lang: str) -> dict[str, str]:
    if lang not in _texts:
        sources = [(__name__, f"{lang}.json")]
        for package, subjects in sorted(_catalogues.items()):
            sources += [(package, f"{lang}/{subject}.json") for subject in subjects]
        merged: dict[str, str] = {}
        for package, name in sources:
            raw = pkgutil.get_data(package, name)
            if raw is not None:
                merged.update(json.loads(raw.decode("utf-8")))
        _texts[lang] = merged
    return _texts[lang]


def texts(lang: str) -> Mapping[str, str]:
    """All texts known in `lang`, by message id."""
    return dict(_load(lang))


def render(message_id: str, values: Mapping[str, Any], lang: str) -> str:
    """The text of `message_id` in `lang` with `values` filled in."""
    if lang not in LANGUAGES:
        raise ValueError(f"lang is one of {LANGUAGES}, not {lang!r}")
    template = _load(lang).get(message_id)
    if template is None:
        shown = ", ".join(f"{key}={value}" for key, value in sorted(values.items()))
        return f"{message_id} ({shown})" if shown else message_id
    return _FIELD.sub(lambda m: str(values.get(m.group(1), m.group(0))), template)
