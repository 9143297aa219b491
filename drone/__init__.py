"""Drone photogrammetry: photos -> adjusted block -> surface -> measured figures.

The public names load on first use, so that importing the package costs nothing.
"""

# pycolmap exports a static zlib; loaded before Python's own it crashes later compression.
import zlib  # noqa: F401
from importlib import import_module
from typing import Any

_EXPORTS = {
    "AuthenticityConfig": "drone.authenticity",
    "examine": "drone.authenticity",
    "examine_reconstruction": "drone.authenticity",
    "GateConfig": "drone.gate",
    "check_flight": "drone.gate",
    "summary_lines": "drone.gate_files",
    "write_check": "drone.gate_files",
    "MetadataConfig": "drone.metadata",
    "read_flight": "drone.metadata",
    "SfmConfig": "drone.sfm",
    "reconstruct": "drone.sfm",
    "AdjustConfig": "drone.georeference",
    "challenge_files": "drone.challenge",
    "claim_of": "drone.challenge",
    "read_claim": "drone.challenge",
    "CompareConfig": "drone.compare",
    "compare_surveys": "drone.comparing",
    "measured_record": "drone.measured",
    "SplitConfig": "drone.parts",
    "survey_split": "drone.split",
    "SurveyConfig": "drone.workflow",
    "compare_case": "drone.workflow",
    "compare_product": "drone.workflow",
    "figures_again": "drone.workflow",
    "measure_case": "drone.workflow",
    "measure_polygons": "drone.workflow",
    "run_again": "drone.workflow",
    "survey": "drone.workflow",
    "survey_case": "drone.workflow",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
