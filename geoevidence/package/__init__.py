"""Packages: a self-contained cut of a case's log and files that a stranger can verify."""

from geoevidence.package.before import QUESTIONS, BeforeRecording, before_recording
from geoevidence.package.difference import PackageDifference, compare_packages
from geoevidence.package.draft import PackageDraft, draft
from geoevidence.package.recompute import (
    DerivedEvent,
    Engine,
    recompute_events,
    recompute_package,
    recomputing,
    record_of,
    sign_record,
)
from geoevidence.package.redact import RedactedCopy, RedactionRequest, redact_package
from geoevidence.package.seal import SealedPackage, seal_folder, seal_zip
from geoevidence.package.supplement import SealedSupplement, supplement_package

__all__ = [
    "QUESTIONS",
    "BeforeRecording",
    "DerivedEvent",
    "Engine",
    "PackageDifference",
    "PackageDraft",
    "RedactedCopy",
    "RedactionRequest",
    "SealedPackage",
    "SealedSupplement",
    "before_recording",
    "compare_packages",
    "draft",
    "recompute_events",
    "recompute_package",
    "recomputing",
    "record_of",
    "redact_package",
    "seal_folder",
    "seal_zip",
    "sign_record",
    "supplement_package",
]
