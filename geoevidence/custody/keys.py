"""Keys of a case that end: rotation and revocation as they stand in its log (docs/formats/trust.md).

A key ends by an event `key_rotated`, whose output `key-change.json` says from which tree size on it says nothing
more. What was logged before stays as it is. Made from events and their records; appends nothing itself
(`Case.rotate_key` and `Case.revoke_key` do) and decides nothing about trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoevidence.errors import CustodyError, FormatError, LogInconsistentError
from geoevidence.trust.manifest import KeyChange, NamedKey, parse_key_change

if TYPE_CHECKING:
    from geoevidence.custody.log import CustodyEvent
    from geoevidence.custody.signers import Signer

KEY_CHANGE = "key-change.json"
"""Name of the output of a `key_rotated` event."""
REASONS = ("superseded", "compromised", "lost", "ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedKey:
    """A key that ended in a case.

    action: rotated or revoked. reason: one of `REASONS`.
    effective: tree size from which on nothing by this key counts.
    event_id: where it stands. successor: key id, or None.
    """

    key_id: str
    action: str
    reason: str
    effective: int
    event_id: str
    successor: str | None


def ended_keys(events: Iterable[CustodyEvent], read: Callable[[str], bytes]) -> dict[str, EndedKey]:
    """Key id -> how it ended; where a key ended more than once, the smallest tree size counts.

    Args:
        events: of one case, in log order.
        read: the stored bytes of a SHA-256.

    Raises: DigestMismatchError when a record is missing or was changed; LogInconsistentError when one cannot be read.
    """
    found: dict[str, EndedKey] = {}
    for event in events:
        if event.type != "key_rotated":
            continue
        raw = read(event.outputs[0].sha256)
        try:
            change = parse_key_change(raw, where=event.outputs[0].path)
        except FormatError as error:
            raise LogInconsistentError("custody.leaf_unreadable", index=event.index, reason=str(error)) from error
        note_end(found, change, event.event_id)
    return found


def note_end(found: dict[str, EndedKey], change: KeyChange, event_id: str) -> None:
    """Add what the event of that id says to `found`: the smallest tree size counts."""
    if change.key_id not in found or change.effective < found[change.key_id].effective:
        found[change.key_id] = EndedKey(
            key_id=change.key_id,
            action=change.action,
            reason=change.reason,
            effective=change.effective,
            event_id=event_id,
            successor=None if change.new_key is None else change.new_key.key.key_id,
        )


def rotation(old: Signer, new: Signer, *, index: int, ended: Mapping[str, EndedKey], reason: str = "superseded") -> KeyChange:
    """The record of a rotation by the event at `index`. Raises CustodyError when one of the keys has ended."""
    _require_reason(reason)
    if new.note_signer.public_key == old.public_key:
        # an SM2 key beside the Ed25519 key that is to end: nobody could sign a checkpoint any more
        raise CustodyError("custody.key_signs_checkpoints", key_id=old.public_key.key_id)
    for key_id in (old.public_key.key_id, new.public_key.key_id):
        require_not_ended(key_id, ended, index=index)
    successor = NamedKey(new.public_key, new.label, new.certificates)
    return KeyChange("rotated", old.public_key.key_id, successor, reason, index + 1)


def revocation(
    key_id: str,
    *,
    reason: str,
    effective: int | None,
    index: int,
    ended: Mapping[str, EndedKey],
    known: Sequence[str],
    own: Sequence[str],
) -> KeyChange:
    """The record of a revocation by the event at `index`.

    Args:
        effective: tree size from which on nothing by the key counts, at most `index + 1`; that where it is None.
        known: ids of the keys of the case.
        own: ids of the keys that sign the event and its checkpoint: they cannot end before it.

    Raises: CustodyError.
    """
    _require_reason(reason)
    since = index + 1 if effective is None else effective
    if key_id not in known:
        raise CustodyError("custody.key_unknown", key_id=key_id, known=", ".join(known) or "-")
    if not 0 <= since <= index + 1:
        raise CustodyError("custody.key_effective", found=since, limit=index + 1)
    if key_id in own and since <= index:
        raise CustodyError("custody.key_own", key_id=key_id, limit=index + 1)
    if key_id in ended and ended[key_id].effective <= since:
        raise CustodyError("custody.key_ended", key_id=key_id, event=ended[key_id].event_id, size=ended[key_id].effective)
    return KeyChange("revoked", key_id, None, reason, since)


def require_not_ended(key_id: str, ended: Mapping[str, EndedKey], *, index: int) -> None:
    """Raises CustodyError when nothing by that key counts at leaf `index` any more."""
    how = ended.get(key_id)
    if how is not None and index >= how.effective:
        raise CustodyError("custody.key_ended", key_id=key_id, event=how.event_id, size=how.effective)


def _require_reason(reason: str) -> None:
    if reason not in REASONS:
        raise CustodyError("custody.key_reason", found=reason, known=", ".join(REASONS))
