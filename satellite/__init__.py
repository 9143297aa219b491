"""Dated land changes from stacks of satellite scenes. Heavy packages load on first use of a name, not on import."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "AccuracyAssessment": "satellite.accuracy",
    "AlertConfig": "satellite.alerts",
    "AlertState": "satellite.alerts",
    "AssessmentConfig": "satellite.accuracy",
    "Asset": "satellite.types",
    "AttributeConfig": "satellite.attribute",
    "BreakConfig": "satellite.segment",
    "BreakMap": "satellite.types",
    "ChangeEvent": "satellite.types",
    "Cover": "satellite.types",
    "Cube": "satellite.types",
    "EventConfig": "satellite.events",
    "EvidenceStyle": "satellite.evidence",
    "FormConfig": "satellite.response_form",
    "MonitorConfig": "satellite.workflow",
    "NODATE": "satellite.types",
    "Observed": "satellite.types",
    "Pace": "satellite.types",
    "QueueConfig": "satellite.queue",
    "RegistrationConfig": "satellite.coregistration",
    "RegistrationShifts": "satellite.coregistration",
    "RegistrationStatus": "satellite.coregistration",
    "SampleConfig": "satellite.sampling",
    "ScanConfig": "satellite.region",
    "ScanRequest": "satellite.region",
    "ScanResult": "satellite.publish",
    "Scene": "satellite.types",
    "Stack": "satellite.stack",
    "StackReader": "satellite.cube",
    "StackSpec": "satellite.stack",
    "Status": "satellite.types",
    "TileState": "satellite.alerts",
    "alert_properties": "satellite.alert_report",
    "alerts_geojson": "satellite.alert_report",
    "alerts_of": "satellite.alert_report",
    "append_review": "satellite.queue",
    "compare_alert_models": "satellite.alert_store",
    "compare_models": "satellite.alert_report",
    "compare_product": "satellite.workflow",
    "contact_sheet": "satellite.response_form",
    "describe_event": "satellite.events",
    "design_sample": "satellite.sampling",
    "detect_breaks": "satellite.segment",
    "estimate_accuracy": "satellite.accuracy",
    "figures_again": "satellite.workflow",
    "measure_registration": "satellite.coregistration",
    "measure_stack": "satellite.coregistration",
    "monitor": "satellite.workflow",
    "monitor_case": "satellite.workflow",
    "read_alert_states": "satellite.alert_store",
    "read_block": "satellite.cube",
    "read_responses": "satellite.responses",
    "read_reviews": "satellite.queue",
    "read_sample": "satellite.sampling",
    "read_scenes": "satellite.scenes",
    "region_window": "satellite.stack",
    "review_of": "satellite.queue",
    "run_again": "satellite.workflow",
    "scan_region": "satellite.region",
    "scenes_record": "satellite.scenes",
    "start_alerts": "satellite.alert_store",
    "start_monitoring": "satellite.alerts",
    "stated_options": "satellite.sampling",
    "tiles": "satellite.stack",
    "update_alerts": "satellite.alert_store",
    "write_event_evidence": "satellite.evidence",
    "write_form": "satellite.response_form",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'satellite' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
