"""Dated land changes from stacks of satellite scenes. Heavy packages load on first use of a name, not on import."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "BreakConfig": "satellite.segment",
    "BreakMap": "satellite.types",
    "ChangeEvent": "satellite.types",
    "Cube": "satellite.types",
    "EventConfig": "satellite.events",
    "MonitorConfig": "satellite.workflow",
    "NODATE": "satellite.types",
    "Observed": "satellite.types",
    "Scene": "satellite.types",
    "Status": "satellite.types",
    "compare_product": "satellite.workflow",
    "detect_breaks": "satellite.segment",
    "figures_again": "satellite.workflow",
    "monitor": "satellite.workflow",
    "monitor_case": "satellite.workflow",
    "read_block": "satellite.cube",
    "read_scenes": "satellite.scenes",
    "run_again": "satellite.workflow",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'satellite' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
