"""Which key may say what: the trust policy, read from outside the package.

A key found in a package proves nothing about who holds it. `trust.json` names the keys that
the reader of a package trusts, with holder, roles and term; the authorities whose certificates
and time stamps count; how many witnesses it takes; and the verdicts that must pass
(docs/formats/trust.md). Without it the built-in demonstration policy holds nothing. Decides
only; reads no file. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from geoevidence.trust.canonical import base64_text, base64_value, dumps, loads
from geoevidence.trust.certificates import Certificate, parse_certificate
from geoevidence.trust.errors import FormatError
from geoevidence.trust.signatures import PublicKey

SCHEMA, SCHEMA_V1 = "geoevidence.trust.v2", "geoevidence.trust.v1"
VERDICTS = ("intact", "signed", "time", "continuous", "recomputes")
"""The five verdicts, in the order they are said."""
LOG_ROLE = "log"
"""Role of a key that signs checkpoints."""
PACKAGE_ROLE = "package"
"""Role of a key that signs the statement of a package, its attestations and its closing."""
WITNESS_ROLE, RECOMPUTE_ROLE, REDACTION_ROLE, SUPPLEMENT_ROLE = "witness", "recompute", "redaction", "supplement"
"""Roles of keys that sign cosignatures, records of recomputation, redacted copies, supplements."""
SIGN, TIME_STAMPS = "sign", "time"
"""Purposes of an authority."""
TIME = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ", re.ASCII)
"""`YYYY-MM-DDThh:mm:ssZ`; such texts sort as the times do."""
_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SERIAL = re.compile(r"0|[1-9a-f][0-9a-f]{0,63}", re.ASCII)
MAX_POLICY = 16 << 20
"""Longest trust file, in bytes: room for ten thousand keys and certificates."""


@dataclass(frozen=True)
class TrustedKey:
    """A key with what it may do.

    key: the public key.
    holder: who holds it, as it is printed.
    roles: roles of actors it may sign events as, `log` for checkpoints, `package` for statements.
    valid_from, valid_to: term, UTC text; valid_to None: open.
    revoked_at_tree_size: leaves from this index on are not trusted (None: not revoked).
    """

    key: PublicKey
    holder: str
    roles: tuple[str, ...]
    valid_from: str
    valid_to: Optional[str]
    revoked_at_tree_size: Optional[int]

    def refusal(self, role: str, moment: str, leaf_index: int) -> Optional[str]:
        """Message id of why the key may not sign in `role` at a claimed time and leaf index, or None where it may."""
        if role not in self.roles:
            return "trust.policy_role"
        if moment < self.valid_from or (self.valid_to is not None and moment > self.valid_to):
            return "trust.policy_term"
        if self.revoked_at_tree_size is not None and leaf_index >= self.revoked_at_tree_size:
            return "trust.policy_revoked"
        return None

    def to_dict(self) -> dict[str, Any]:
        return {
            "key_id": self.key.key_id,
            "algorithm": self.key.algorithm,
            "public_key": base64_text(self.key.raw),
            "holder": self.holder,
            "roles": list(self.roles),
            "valid_from": self.valid_from,
            "valid_to": self.valid_to,
            "revoked_at_tree_size": self.revoked_at_tree_size,
        }


@dataclass(frozen=True)
class Authority:
    """A certification or time-stamp authority that the reader trusts.

    certificate: its own, the root of what it vouches for.
    holder: as it is printed.
    purposes: `sign` (its certificates name holders of keys) and `time` (its time stamps count).
    roles: what keys with its certificates may do, as of `TrustedKey`.
    revoked: serial -> UTC text since when, of certificates that it issued itself.
    """

    certificate: Certificate
    holder: str
    purposes: tuple[str, ...]
    roles: tuple[str, ...] = ()
    revoked: Mapping[int, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "certificate": base64_text(self.certificate.der),
            "holder": self.holder,
            "purposes": list(self.purposes),
            "roles": list(self.roles),
            "revoked": [{"serial": f"{serial:x}", "since": self.revoked[serial]} for serial in sorted(self.revoked)],
        }


@dataclass(frozen=True)
class TrustPolicy:
    """Keys, authorities and the verdicts that must pass.

    required: names of `VERDICTS`, in their order.
    keys: sorted by key id.
    builtin: the policy of the program itself, not of a reader.
    authorities: in the order of the file.
    witness_threshold: so many trusted witnesses must have cosigned the checkpoint after sealing.
    """

    required: tuple[str, ...]
    keys: tuple[TrustedKey, ...] = ()
    builtin: bool = False
    authorities: tuple[Authority, ...] = ()
    witness_threshold: int = 0

    def find(self, key_id: str) -> Optional[TrustedKey]:
        """The trusted key of that id, or None."""
        return next((each for each in self.keys if each.key.key_id == key_id), None)

    def roots(self, purpose: str) -> tuple[Authority, ...]:
        """The authorities for a purpose."""
        return tuple(each for each in self.authorities if purpose in each.purposes)

    def revoked_at(self, moment: Optional[str]) -> frozenset[tuple[bytes, int]]:
        """(DER of the issuer's name, serial) of certificates that no longer count at a moment; None: at no moment known for sure."""
        return frozenset(
            (each.certificate.subject, serial)
            for each in self.authorities
            for serial, since in each.revoked.items()
            if moment is None or since <= moment
        )

    def to_bytes(self) -> bytes:
        """A `trust.json` as RFC 8785 bytes."""
        return dumps(
            {
                "schema": SCHEMA,
                "required": list(self.required),
                "keys": [each.to_dict() for each in self.keys],
                "authorities": [each.to_dict() for each in self.authorities],
                "witness_threshold": self.witness_threshold,
            }
        )


DEMONSTRATION = TrustPolicy(required=("intact", "continuous"), builtin=True)
"""Used where the reader gives none: asks for `intact` and `continuous`, trusts no key."""

_KEY_FIELDS = {"key_id", "algorithm", "public_key", "holder", "roles", "valid_from", "valid_to", "revoked_at_tree_size"}


def parse_policy(data: bytes, *, where: str = "trust.json") -> TrustPolicy:
    """The policy of a `trust.json`, version 1 or 2: strict JSON, closed, each key id that of its key. Raises FormatError."""
    value = loads(data, where=where, max_bytes=MAX_POLICY)
    fields = {"schema", "required", "keys"}
    if not isinstance(value, dict) or value.get("schema") not in (SCHEMA, SCHEMA_V1):
        raise FormatError("trust.policy_fields", where=where)
    if value["schema"] == SCHEMA:
        fields |= {"authorities", "witness_threshold"}
    if set(value) != fields:
        raise FormatError("trust.policy_fields", where=where)
    required, keys = value["required"], value["keys"]
    authorities, threshold = value.get("authorities", []), value.get("witness_threshold", 0)
    if not isinstance(required, list) or not required or not isinstance(keys, list) or not isinstance(authorities, list):
        raise FormatError("trust.policy_fields", where=where)
    if type(threshold) is not int or threshold < 0:
        raise FormatError("trust.policy_fields", where=where)
    for name in required:
        if name not in VERDICTS or required.count(name) > 1:
            raise FormatError("trust.policy_verdict", where=where, found=str(name)[:40], known=", ".join(VERDICTS))
    trusted = sorted((_parse_key(each, f"{where} keys[{n}]") for n, each in enumerate(keys)), key=lambda k: k.key.key_id)
    if len({each.key.key_id for each in trusted}) != len(trusted):
        raise FormatError("trust.policy_key", where=where)
    vouching = tuple(_parse_authority(each, f"{where} authorities[{n}]") for n, each in enumerate(authorities))
    if len({each.certificate.der for each in vouching}) != len(vouching):
        raise FormatError("trust.policy_authority", where=where)
    return TrustPolicy(
        tuple(name for name in VERDICTS if name in required),
        tuple(trusted),
        authorities=vouching,
        witness_threshold=threshold,
    )


def _parse_authority(raw: Any, where: str) -> Authority:
    def need(holds: object) -> None:
        if not holds:
            raise FormatError("trust.policy_authority", where=where)

    need(isinstance(raw, dict) and set(raw) == {"certificate", "holder", "purposes", "roles", "revoked"})
    need(isinstance(raw["holder"], str) and raw["holder"])
    purposes, roles = raw["purposes"], raw["roles"]
    need(isinstance(purposes, list) and purposes and all(each in (SIGN, TIME_STAMPS) for each in purposes))
    need(len(set(purposes)) == len(purposes))
    need(isinstance(roles, list) and all(isinstance(role, str) and role for role in roles))
    need(roles or SIGN not in purposes)
    need(isinstance(raw["revoked"], list))
    revoked: dict[int, str] = {}
    for each in raw["revoked"]:
        need(isinstance(each, dict) and set(each) == {"serial", "since"})
        need(isinstance(each["serial"], str) and _SERIAL.fullmatch(each["serial"]))
        need(isinstance(each["since"], str) and TIME.fullmatch(each["since"]))
        serial = int(each["serial"], 16)
        need(serial not in revoked)
        revoked[serial] = each["since"]
    certificate = parse_certificate(base64_value(raw["certificate"], where=where), where=where)
    return Authority(certificate, raw["holder"], tuple(purposes), tuple(roles), revoked)


def _parse_key(raw: Any, where: str) -> TrustedKey:
    if not isinstance(raw, dict) or set(raw) != _KEY_FIELDS:
        raise FormatError("trust.policy_key", where=where)
    roles, revoked = raw["roles"], raw["revoked_at_tree_size"]
    if not isinstance(roles, list) or not roles or not all(isinstance(role, str) and role for role in roles):
        raise FormatError("trust.policy_key", where=where)
    if not isinstance(raw["holder"], str) or not raw["holder"]:
        raise FormatError("trust.policy_key", where=where)
    if revoked is not None and (type(revoked) is not int or revoked < 0):
        raise FormatError("trust.policy_key", where=where)
    for name in ("valid_from", "valid_to"):
        if not (isinstance(raw[name], str) and TIME.fullmatch(raw[name])) and not (name == "valid_to" and raw[name] is None):
            raise FormatError("trust.policy_key", where=where)
    key = parse_key(raw["algorithm"], raw["public_key"], raw["key_id"], where=where)
    return TrustedKey(key, raw["holder"], tuple(roles), raw["valid_from"], raw["valid_to"], revoked)


def parse_key(algorithm: Any, public_key: Any, key_id: Any, *, where: str) -> PublicKey:
    """A public key of its three fields; the id must be that of the key. Raises FormatError."""
    if not isinstance(algorithm, str) or not isinstance(key_id, str) or not _HEX64.fullmatch(key_id):
        raise FormatError("trust.policy_key", where=where)
    key = PublicKey(algorithm, base64_value(public_key, where=where))
    if key.key_id != key_id:
        raise FormatError("trust.key_id", where=where, expected=key.key_id, found=key_id)
    return key
