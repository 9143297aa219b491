"""The kernel that a stranger runs: what is canonical, what a digest is, what a proof proves.

Standard library only, Python 3.9 or later, no writing. The rest of geoevidence uses the
same code. Names load on first use, so that the import costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "canonical": ("dumps", "loads", "loads_canonical"),
    "certificates": (
        "Certificate", "Scheme", "SubjectKey", "build_chain", "check_purpose", "parse_certificate",
        "parse_certificates_pem_or_der",
    ),
    "checks": ("verify_package",),
    "curves": ("verify_ecdsa", "verify_sm2"),
    "digests": ("Digest", "FileDigests", "commitment", "digest_bytes", "digest_file", "open_commitment", "short_code"),
    "errors": (
        "CertificateError", "FormatError", "GeoEvidenceError", "InputError", "ProofError", "SignatureError",
        "UnsupportedError", "VerificationError",
    ),
    "events": ("Event", "ItemRecord", "Leaf", "event_bytes", "parse_event", "parse_leaf"),
    "bundle": ("build_pyz",),
    "merkle": (
        "RootBuilder", "consistency_proof", "inclusion_proof", "leaf_hash", "tree_root", "verify_consistency",
        "verify_inclusion",
    ),
    "notes": (
        "Cosignature", "LogCheckpoint", "NoteSignature", "SignedNote", "TlogProof", "cosignature_key_hash", "note_key_hash",
        "note_key_name", "parse_checkpoint", "parse_cosignature", "parse_note", "parse_proof",
    ),
    "policy": ("DEMONSTRATION", "VERDICTS", "TrustPolicy", "TrustedKey", "parse_policy"),
    "signatures": (
        "ALGORITHMS", "Envelope", "EnvelopeSignature", "PublicKey", "pae", "parse_envelope", "verify_ed25519",
    ),
    "timestamps": ("TimeStamp", "openssl_command", "parse_time_stamp"),
    "verdict": ("Check", "VerificationReport"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
