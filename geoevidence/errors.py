"""The error tree. Nothing else leaves a public function for bad data (STYLE: errors).

    GeoEvidenceError                 (geoevidence.trust.errors)
    |-- InputError                   something from outside cannot be used
    |   |-- FormatError              bytes are not what their format asks
    |   |-- CrsError                 a coordinate reference system is missing, wrong or mixed
    |   |-- GridMismatchError        two rasters do not share a grid
    |   `-- CoverageError            too much of what was asked is not covered by data
    |-- ConfigError                  an unknown or out-of-range setting
    |-- CustodyError                 the store or the log refuses
    |   |-- AnswerError              an authority or a witness answers otherwise than it was asked
    |   |-- DigestMismatchError      bytes are not those that were recorded
    |   |-- LogInconsistentError     the log is not an extension of what is known
    |   `-- NoAnswerError            an authority or a witness cannot be reached: ask again later
    |-- PackageError                 a package cannot be made
    |-- VerificationError            a claim does not hold
    |   |-- CertificateError
    |   |-- ProofError
    |   |-- SignatureError
    |   `-- UnsupportedError         cannot be checked here, which is not refuted
    `-- AnalysisError                the data do not support the computation
        |-- ReconstructionError
        `-- HistoryTooShortError

Bad use by a programmer is TypeError or ValueError.
"""

from geoevidence import messages as _messages  # noqa: F401  (adds the texts)
from geoevidence.trust.errors import (
    CertificateError,
    FormatError,
    GeoEvidenceError,
    InputError,
    ProofError,
    SignatureError,
    UnsupportedError,
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


class AnswerError(CustodyError):
    """An authority or a witness answers otherwise than it was asked."""


class DigestMismatchError(CustodyError):
    """Bytes are not those that were recorded."""


class LogInconsistentError(CustodyError):
    """The log is not an extension of what is known."""


class NoAnswerError(CustodyError):
    """An authority or a witness cannot be reached: ask again later."""


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
    "AnswerError",
    "CertificateError",
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
    "NoAnswerError",
    "PackageError",
    "ProofError",
    "ReconstructionError",
    "SignatureError",
    "UnsupportedError",
    "VerificationError",
]
