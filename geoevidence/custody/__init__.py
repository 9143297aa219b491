"""Custody: files come in, are fixed by digest, and every act on them is a signed event in an append-only log."""

from geoevidence.custody.case import Case, Derivation, IngestResult, StoredResult, Workspace
from geoevidence.custody.inspection import InspectionResult, inspect_path
from geoevidence.custody.log import (
    CaseKey,
    CaseSummary,
    CustodyEvent,
    FileRef,
    LogReader,
    LogStatus,
    LogStore,
    LogWriter,
    Session,
)
from geoevidence.custody.sheet import CASE_FIELDS, case_template_text, read_case_toml
from geoevidence.custody.signers import KeyFolder, Signer, SoftwareSigner

__all__ = [
    "CASE_FIELDS",
    "Case",
    "CaseKey",
    "CaseSummary",
    "CustodyEvent",
    "Derivation",
    "FileRef",
    "IngestResult",
    "InspectionResult",
    "KeyFolder",
    "LogReader",
    "LogStatus",
    "LogStore",
    "LogWriter",
    "Session",
    "Signer",
    "SoftwareSigner",
    "StoredResult",
    "Workspace",
    "case_template_text",
    "inspect_path",
    "read_case_toml",
]
