"""The error tree. Nothing else leaves a public function for bad data (STYLE: errors).

    GeoEvidenceError                 (geoevidence.trust.errors)
    |-- InputError                   something from outside cannot be used
    |   |-- FormatError              bytes are not what their format asks
    |   |-- CrsError                 a coordinate reference system is missing, wrong or mixed
    |   |-- GridMismatchError        two rasters do not share a grid
    |   `-- CoverageError            too much of what was asked is not covered by data
    |-- ConfigError                  an unknown or out-of-range setting
    |-- CustodyError                 the store or the log refuses
    |   |-- DigestMismatchError      bytes are not those that were recorded
    |   `-- LogInconsistentError     the log is not an extension of what is known
    |-- PackageError                 a package cannot be made
    |-- VerificationError            a claim does not hold
    |   |-- ProofError
    |   `-- SignatureError
    `-- AnalysisError                the data do not support the computation
        |-- ReconstructionError
        `-- HistoryTooShortError

Bad use by a programmer is TypeError or ValueError.
"""

from geoevidence import messages as _messages  # noqa: F401  (adds the texts)
from geoevidence.trust.errors import (
    FormatError,
    GeoEvidenceError,
    InputError,
    ProofError,
    SignatureError,
    VerificationError,
)


class CrsError(InputError):
    """A coordinate reference system is missing, wrong or mixed."""


class GridMismatchError(InputError):
    """Two rasters do not share a grid."""


class CoverageError(InputError):
    """Too much of what was asked is not covered by data."""


class ConfigError(GeoEvidenceError):
    """An unknown or out-of-range setting."""


class CustodyError(GeoEvidenceError):
    """The store or the log refuses."""


class DigestMismatchError(CustodyError):
    """Bytes are not those that were recorded."""


class LogInconsistentError(CustodyError):
    """The log is not an extension of what is known."""


class PackageError(GeoEvidenceError):
    """A package cannot be made."""


class AnalysisError(GeoEvidenceError):
    """The data do not support the computation."""


class ReconstructionError(AnalysisError):
    """The photos cannot be reconstructed."""


class HistoryTooShortError(AnalysisError):
    """There are too few clear observations to model the past."""


__all__ = [
    "AnalysisError",
    "ConfigError",
    "CoverageError",
    "CrsError",
    "CustodyError",
    "DigestMismatchError",
    "FormatError",
    "GeoEvidenceError",
    "GridMismatchError",
    "HistoryTooShortError",
    "InputError",
    "LogInconsistentError",
    "PackageError",
    "ProofError",
    "ReconstructionError",
    "SignatureError",
    "VerificationError",
]
