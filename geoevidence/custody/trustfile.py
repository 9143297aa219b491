"""Making a trust file: whom the reader of packages trusts, put together key by key (docs/formats/trust.md).

`TrustFile` reads and writes `trust.json`; each change gives a new policy, which is read back strictly before it is
written. `read_public_keys` finds the keys in a key list, a PEM public key or a verifier key. Decides nothing: whoever
adds a key says by it that they know its holder from elsewhere than a package.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from geoevidence.custody.files import write_durably
from geoevidence.custody.signers import KeyInfo
from geoevidence.custody.witness import WitnessKey
from geoevidence.errors import ConfigError, FormatError, InputError
from geoevidence.trust.certificates import Certificate, parse_certificates_pem_or_der
from geoevidence.trust.container import open_container
from geoevidence.trust.manifest import KEYS, SUPPLEMENT_KEYS, NamedKey, keys_bytes, parse_keys
from geoevidence.trust.policy import (
    LOG_ROLE,
    PACKAGE_ROLE,
    SIGN,
    VERDICTS,
    Authority,
    TrustedKey,
    TrustPolicy,
    parse_policy,
)
from geoevidence.trust.signatures import ALGORITHMS, PublicKey
from geoevidence.types import utc_value

DEFAULT_ROLES = ("operator", LOG_ROLE, PACKAGE_ROLE)
"""What a key may do where nothing else is said: sign for the local user, sign checkpoints, seal."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----")
_SIZES = {"ed25519": 32, "ecdsa-p256-sha256": 65, "ecdsa-p384-sha384": 97, "sm2-sm3": 65}
_MAX_FILE = 16 << 20


class TrustFile:
    """A `trust.json` on its way.

    path: where it is, or will be. policy: what it says now.

    Raises: FormatError when a file is there that is no trust file; InputError when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.policy = TrustPolicy(required=("intact", "signed", "continuous"))
        self._as_read = _read(path) if path.exists() else None
        if self._as_read is not None:
            self.policy = parse_policy(self._as_read, where=str(path))

    def add_key(
        self, key: PublicKey, *, holder: str, roles: Sequence[str] = (), valid_from: str, valid_to: str | None = None
    ) -> TrustedKey:
        """Trust a key; one that is there already is replaced, its revocation stays.

        Args:
            holder: who holds it, as it is printed.
            roles: what it may do, `DEFAULT_ROLES` where none is named.
            valid_from, valid_to: UTC, `YYYY-MM-DD` or `YYYY-MM-DDThh:mm:ssZ`, both included; a day counts whole.

        Raises: ConfigError.
        """
        _require_holder(holder)
        term = (_moment(valid_from, "00:00:00"), None if valid_to is None else _moment(valid_to, "23:59:59"))
        if term[1] is not None and term[1] < term[0]:
            raise ConfigError("custody.trust_term", since=term[0], until=term[1])
        known = self.policy.find(key.key_id)
        added = TrustedKey(
            key,
            holder.strip(),
            tuple(dict.fromkeys(roles)) or DEFAULT_ROLES,
            *term,
            None if known is None else known.revoked_at_tree_size,
        )
        others = [each for each in self.policy.keys if each.key != key]
        self._set(replace(self.policy, keys=tuple(sorted([*others, added], key=lambda each: each.key.key_id))))
        return added

    def add_authority(
        self, certificate: Certificate, *, holder: str, purposes: Sequence[str], roles: Sequence[str] = ()
    ) -> Authority:
        """Trust an authority; one that is there already is replaced, its revocations stay. Raises ConfigError."""
        _require_holder(holder)
        known = next((each for each in self.policy.authorities if each.certificate.der == certificate.der), None)
        wanted = tuple(dict.fromkeys(roles)) or (DEFAULT_ROLES if SIGN in purposes else ())
        revoked = {} if known is None else known.revoked
        added = Authority(certificate, holder.strip(), tuple(dict.fromkeys(purposes)), wanted, revoked)
        others = [each for each in self.policy.authorities if each.certificate.der != certificate.der]
        self._set(replace(self.policy, authorities=(*others, added)))
        return added

    def remove(self, name: str) -> str:
        """Take a key (by key id) or an authority (by the SHA-256 of its certificate) out; the beginning is enough.

        Returns its holder. Raises: ConfigError when nothing, or more than one, begins so.
        """
        found = self._find(name)
        if isinstance(found, TrustedKey):
            self._set(replace(self.policy, keys=tuple(each for each in self.policy.keys if each != found)))
        else:
            rest = tuple(each for each in self.policy.authorities if each != found)
            self._set(replace(self.policy, authorities=rest))
        return found.holder

    def revoke_key(self, name: str, tree_size: int) -> TrustedKey:
        """Trust nothing by a key from leaf `tree_size` of a log on. Raises ConfigError."""
        found = self._find(name)
        if not isinstance(found, TrustedKey) or tree_size < 0:
            raise ConfigError("custody.trust_revoke")
        changed = replace(found, revoked_at_tree_size=tree_size)
        keys = tuple(changed if each == found else each for each in self.policy.keys)
        self._set(replace(self.policy, keys=keys))
        return changed

    def revoke_certificate(self, name: str, serial: str, since: str) -> Authority:
        """Trust nothing by a certificate that an authority issued, from a time on.

        Args:
            name: beginning of the SHA-256 of the authority's certificate.
            serial: of the certificate, hexadecimal; colons are skipped.
            since: UTC, as of `add_key`.

        Raises: ConfigError.
        """
        found = self._find(name)
        digits = serial.replace(":", "").lower()
        if isinstance(found, TrustedKey) or not re.fullmatch(r"[0-9a-f]{1,64}", digits, re.ASCII):
            raise ConfigError("custody.trust_revoke")
        changed = replace(found, revoked={**found.revoked, int(digits, 16): _moment(since, "00:00:00")})
        rest = tuple(changed if each == found else each for each in self.policy.authorities)
        self._set(replace(self.policy, authorities=rest))
        return changed

    def require(self, names: Sequence[str]) -> None:
        """Which verdicts must pass. Raises ConfigError."""
        for name in names:
            if name not in VERDICTS:
                raise ConfigError("custody.trust_verdict", found=name, known=", ".join(VERDICTS))
        if not names:
            raise ConfigError("custody.trust_verdict", found="-", known=", ".join(VERDICTS))
        self._set(replace(self.policy, required=tuple(name for name in VERDICTS if name in names)))

    def set_threshold(self, count: int) -> None:
        """How many witnesses must have cosigned. Raises ConfigError for more than there are."""
        witnesses = _witnesses(self.policy)
        if not 0 <= count <= witnesses:
            raise ConfigError("custody.trust_threshold", found=count, limit=witnesses)
        self._set(replace(self.policy, witness_threshold=count))

    def save(self) -> None:
        """Write the file. Raises InputError, also when somebody else has changed it since it was read."""
        if (_read(self.path) if self.path.exists() else None) != self._as_read:
            raise InputError("custody.trust_changed", path=self.path)
        data = self.policy.to_bytes()
        try:
            mode = 0o644 if self._as_read is None else self.path.stat().st_mode & 0o777
            write_durably(self.path, data, mode=mode)
            self._as_read = data
        except OSError as error:
            raise InputError("custody.trust_not_written", path=self.path, reason=error.strerror or str(error)) from error

    def _find(self, name: str) -> TrustedKey | Authority:
        wanted = name.lower()
        keys = [each for each in self.policy.keys if each.key.key_id.startswith(wanted)]
        authorities = [each for each in self.policy.authorities if each.certificate.sha256.startswith(wanted)]
        found: list[TrustedKey | Authority] = [*keys, *authorities]
        if len(found) != 1 or not wanted:
            raise ConfigError("custody.trust_which", name=name, found=len(found))
        return found[0]

    def _set(self, policy: TrustPolicy) -> None:
        count = _witnesses(policy)
        if count < _witnesses(self.policy) and count < policy.witness_threshold:
            raise ConfigError("custody.trust_threshold", found=policy.witness_threshold, limit=count)
        try:
            self.policy = parse_policy(policy.to_bytes(), where=str(self.path))
        except FormatError as error:
            raise ConfigError("custody.trust_refused", reason=str(error)) from error


def _moment(text: str, clock: str) -> str:
    moment = f"{text}T{clock}Z" if _DAY.fullmatch(text) else text
    try:
        utc_value(moment, "trust.json")
    except FormatError as error:
        raise ConfigError("custody.trust_time", found=text) from error
    return moment


def _require_holder(holder: str) -> None:
    """The name is printed as it stands: one line, and nothing that moves a cursor or turns the order of letters round."""
    if not holder.strip() or any(unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") for each in holder.strip()):
        raise ConfigError("custody.trust_holder")


def _witnesses(policy: TrustPolicy) -> int:
    return sum("witness" in each.roles for each in policy.keys)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_FILE + 1)
    except OSError as error:
        raise InputError("core.cannot_read", path=path, reason=error.strerror or str(error)) from error


def read_public_keys(path: Path) -> tuple[PublicKey, ...]:
    """The keys in a file: a list as `data/log/keys.json` of a package, PEM public keys, or verifier keys one a line.

    Raises: InputError when the file cannot be read; FormatError when it holds no key that is known here.
    """
    data = _read(path)
    if data.lstrip()[:1] == b"[":
        return tuple(each.key for each in parse_keys(data.strip(), where=str(path)))
    blocks = _PEM.findall(data)
    if blocks:
        try:
            return tuple(_of_spki(base64.b64decode(b"".join(block.split()), validate=True), path) for block in blocks)
        except ValueError as error:
            raise FormatError("custody.public_key_file", path=path) from error
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("custody.public_key_file", path=path) from error
    try:
        found = tuple(WitnessKey.parse(line.strip()).key for line in lines if line.strip())
    except (ConfigError, FormatError) as error:
        raise FormatError("custody.public_key_file", path=path) from error
    if not found:
        raise FormatError("custody.public_key_file", path=path)
    return found


def read_package_keys(path: Path) -> tuple[PublicKey, ...]:
    """The keys that a package lists, whoever holds them. Raises InputError, FormatError."""
    with open_container(path) as container:
        # which of the two there is says whether it is a package or a supplement
        for name in (KEYS, SUPPLEMENT_KEYS):
            try:
                with container.open(name) as stream:
                    return tuple(each.key for each in parse_keys(stream.read(_MAX_FILE), where=name))
            except OSError:
                continue
    raise FormatError("custody.public_key_file", path=path)


def _of_spki(raw: bytes, path: Path) -> PublicKey:
    """The key of a SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7); RSA keys do not say which padding is theirs there."""
    for algorithm in ALGORITHMS:
        size = _SIZES.get(algorithm)
        if size is None:
            continue
        try:
            key = PublicKey(algorithm, raw[-size:])
        except FormatError:
            continue  # bytes of another kind of key
        if key.to_spki() == raw:
            return key
    raise FormatError("custody.public_key_file", path=path)


def read_certificate(path: Path) -> Certificate:
    """The first certificate of a file, PEM or DER. Raises InputError, FormatError."""
    return parse_certificates_pem_or_der(_read(path), where=str(path))[0]


def public_key_list(keys: Sequence[KeyInfo]) -> bytes:
    """The public keys of a key folder as `data/log/keys.json` of a package, for handing to those who are to trust them."""
    return keys_bytes(
        NamedKey(each.public_key, each.label, () if each.certificate is None else (each.certificate.der,)) for each in keys
    )
