"""Keys of a case: several signers, SM2, rotation and revocation, and what a key may no longer do."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from geoevidence.custody import Case, CustodyEvent, KeyFolder, Session, Sm2Signer, keyfiles, sign_envelope
from geoevidence.custody.keys import EndedKey, note_end
from geoevidence.custody.log import NewFile
from geoevidence.custody.signers import FolderMemory
from geoevidence.errors import CustodyError, DigestMismatchError, LogInconsistentError
from geoevidence.trust.canonical import loads_canonical
from geoevidence.trust.events import parse_leaf
from geoevidence.trust.manifest import KeyChange, NamedKey, parse_key_change
from geoevidence.trust.notes import note_key_name, parse_checkpoint
from tests.custody.sm2 import Sm2Holder
from tests.custody.test_log import check_log
from tests.custody.workspaces import CARD, Clock, Place, full_case, session


@pytest.fixture(autouse=True)
def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "ITERATIONS", 1000)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Session:
    """Another person at the same workspace, with other keys."""
    return session(tmp_path / "other-keys", seed=2, name="李四")


def key_id(of: Session) -> str:
    return of.signer.public_key.key_id


def message_of(act: Callable[[], object]) -> str:
    with pytest.raises(CustodyError) as raised:
        act()
    return raised.value.message_id


def signer_of_checkpoint(case: Case) -> str:
    return parse_checkpoint(case.checkpoint_bytes())[1].signatures[0].name


def check_signatures(case: Case) -> None:
    """Every signature of every leaf, by the keys that the case lists."""
    keys = {each.public_key.key_id: each.public_key for each in case.public_keys()}
    for event in case.events():
        parse_leaf(event.leaf).envelope.verify(keys)


def signers_of(event: CustodyEvent) -> set[str]:
    return {each.keyid for each in parse_leaf(event.leaf).envelope.signatures}


# ---------------------------------------------------------------- several signers


def test_two_signatures_stand_on_every_event(place: Place, other: Session) -> None:
    both = replace(place.session, cosigners=(other.signer,))
    place.workspace.new_case("1")
    case = place.reopened(as_session=both).case("1")
    event = case.ingest(place.card(CARD)).event
    assert event is not None and signers_of(event) == {key_id(place.session), key_id(other)}
    assert event.key_id == key_id(place.session)
    raw = loads_canonical(event.leaf)
    assert [each["keyid"] for each in raw["signatures"]] == sorted(signers_of(event))
    assert {each.public_key for each in case.public_keys()} == {place.session.signer.public_key, other.signer.public_key}
    check_signatures(case)
    check_log(case)
    # the cosigner may also write events of its own: its numbers are its own
    own = place.reopened(as_session=other).case("1").set_sheet({"cause": "x"})
    assert own is not None and own.seq == 1


def test_an_envelope_of_a_session_carries_all_signatures(place: Place, other: Session) -> None:
    both = replace(place.session, cosigners=(other.signer,))
    envelope = sign_envelope(both, "text/plain", b"statement")
    assert [each.keyid for each in envelope.signatures] == sorted((key_id(place.session), key_id(other)))
    envelope.verify({each.public_key.key_id: each.public_key for each in both.keys})
    with pytest.raises(ValueError, match="once"):
        replace(place.session, cosigners=(place.session.signer,))


# ---------------------------------------------------------------- SM2


def sm2_session(place: Place, holder: Sm2Holder, *, clock: Callable[[], datetime] | None = None) -> Session:
    folder = KeyFolder(place.root / "sm2-keys")
    folder.signer(passphrase="x")
    folder.import_sm2(*holder.files(place.root / "from-ca"), key_passphrase="import", passphrase="x")
    return replace(place.session, signer=folder.signer(passphrase="x"), now=clock or Clock())


def test_sm2_signs_events_and_ed25519_the_checkpoints(place: Place) -> None:
    holder = Sm2Holder()
    certified = sm2_session(place, holder)
    place.workspace.new_case("1")
    workspace = place.reopened(as_session=certified)
    case = workspace.case("1")
    event = case.ingest(place.card(CARD)).event
    assert event is not None and event.key_id == key_id(certified) and event.event_id == f"E-{event.key_id[:8]}-1"
    notes = certified.signer.note_signer.public_key
    assert signer_of_checkpoint(case) == note_key_name(notes)
    listed = {each.public_key: each.certificates for each in case.public_keys()}
    assert listed[certified.signer.public_key] == (holder.own, holder.root) and listed[notes] == ()
    check_signatures(case)
    check_log(case)
    assert case.log_status().rollback == "passed"
    # kept in the catalogue as they are
    assert place.reopened(as_session=certified).case("1").public_keys() == case.public_keys()


def test_both_algorithms_on_one_event(place: Place) -> None:
    certified = sm2_session(place, Sm2Holder())
    both = replace(certified, cosigners=(place.session.signer,))
    place.workspace.new_case("1")
    case = place.reopened(as_session=both).case("1")
    event = case.set_sheet({"cause": "x"})
    assert event is not None and len(signers_of(event)) == 2
    check_signatures(case)


@pytest.mark.parametrize("year", [2025, 2031])
def test_nothing_is_signed_outside_the_term_of_the_certificate(place: Place, year: int) -> None:
    certified = sm2_session(place, Sm2Holder(), clock=lambda: datetime(year, 1, 1, tzinfo=UTC))
    place.workspace.new_case("1")
    case = place.reopened(as_session=certified).case("1")
    assert message_of(lambda: case.set_sheet({"cause": "x"})) == "custody.certificate_term"
    assert len(case.events()) == 1 and len(case.public_keys()) == 1


def test_a_key_keeps_its_certificate_in_a_case(place: Place) -> None:
    holder = Sm2Holder()
    certified = sm2_session(place, holder)
    signer = certified.signer
    assert isinstance(signer, Sm2Signer)
    place.workspace.new_case("1")
    place.reopened(as_session=certified).case("1").set_sheet({"cause": "x"})
    signer.certificates = (holder.own,)
    case = place.reopened(as_session=certified).case("1")
    assert message_of(lambda: case.set_sheet({"cause": "y"})) == "custody.key_other_certificates"
    assert len(case.events()) == 2


# ---------------------------------------------------------------- rotation


def rotated(place: Place) -> tuple[Case, Session]:
    """A case whose key was rotated within one folder, and the session of the new key."""
    folder = KeyFolder(place.root / "keys")
    full_case(place)
    following = folder.next_signer()
    event = place.workspace.case("川检 2026-1").rotate_key(following)
    assert event.event_id.startswith(f"E-{place.session.signer.public_key.chain}-")
    folder.promote_next()
    after = replace(place.session, signer=folder.signer())
    return place.reopened(as_session=after).case("川检 2026-1"), after


def test_a_rotation_is_signed_by_both_keys_and_carries_its_record(place: Place) -> None:
    case, after = rotated(place)
    event = case.events()[-1]
    assert event.type == "key_rotated" and event.key_id == key_id(place.session)
    assert signers_of(event) == {key_id(place.session), key_id(after)}
    assert [ref.path for ref in event.outputs] == [f"records/{event.event_id}/key-change.json"]
    change = parse_key_change(case.read_object(event.outputs[0].sha256))
    assert (change.action, change.key_id, change.reason) == ("rotated", key_id(place.session), "superseded")
    assert change.effective == event.index + 1 and change.new_key is not None
    assert change.new_key.key == after.signer.public_key and change.new_key.label == after.signer.label
    assert signer_of_checkpoint(case) == note_key_name(after.signer.note_signer.public_key)
    assert case.log_status().rollback == "passed"
    (ended,) = case.ended_keys().values()
    assert (ended.key_id, ended.successor, ended.event_id) == (key_id(place.session), key_id(after), event.event_id)


def test_the_new_key_goes_on_and_the_old_one_is_refused(place: Place) -> None:
    case, after = rotated(place)
    before = len(case.events())
    event = case.set_sheet({**case.sheet, "cause": "新"})
    assert event is not None and event.key_id == key_id(after) and event.seq == 1
    old = place.reopened().case("川检 2026-1")
    assert len(old.events()) == before + 1  # looking is free
    for act in (
        lambda: old.set_sheet({"cause": "旧"}),
        lambda: old.ingest(place.card({"new.txt": b"new"}, name="second")),
        lambda: old.revoke_key(key_id(after), "compromised"),
        lambda: old.rotate_key(after.signer),
    ):
        assert message_of(act) == "custody.key_ended"
    # nor as a cosigner, nor as the signer of checkpoints
    beside = place.reopened(as_session=replace(after, cosigners=(place.session.signer,))).case("川检 2026-1")
    assert message_of(lambda: beside.set_sheet({"cause": "旧"})) == "custody.key_ended"
    assert len(old.events()) == before + 1
    check_signatures(case)
    check_log(case)
    # another case of the workspace still knows nothing of it
    assert place.reopened().new_case("2").events()[0].key_id == key_id(place.session)


def test_a_rotation_that_was_not_copied_out_is_copied_at_the_next_opening(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = KeyFolder(place.root / "keys")
    case = place.workspace.new_case("1")

    def gone(self: FolderMemory, origin: str, checkpoint: bytes) -> None:
        raise CustodyError("custody.checkpoint_not_kept", path="stick", reason="gone")

    with monkeypatch.context() as patch:
        patch.setattr(FolderMemory, "keep", gone)
        assert message_of(lambda: case.rotate_key(folder.next_signer())) == "custody.checkpoint_not_kept"
    folder.promote_next()
    after = place.reopened(as_session=replace(place.session, signer=folder.signer())).case("1")
    assert [event.type for event in after.events()] == ["commissioned", "key_rotated"]
    assert after.log_status().rollback == "passed"
    assert after.set_sheet({"cause": "x"}) is not None


def test_a_rotation_to_another_folder_is_known_there(place: Place, other: Session) -> None:
    case = place.workspace.new_case("1")
    case.rotate_key(other.signer, reason="lost")
    assert other.signer.memory.known(case.origin) == place.session.signer.memory.known(case.origin)
    assert place.reopened(as_session=other).case("1").log_status().rollback == "passed"


def test_rotations_that_make_no_sense_are_refused(place: Place, other: Session) -> None:
    case = place.workspace.new_case("1")
    assert message_of(lambda: case.rotate_key(place.session.signer)) == "custody.key_known"
    assert message_of(lambda: case.rotate_key(other.signer, reason="because")) == "custody.key_reason"
    third = session(place.root / "third", seed=3)
    case.rotate_key(other.signer)
    # back to a key that has ended
    after = place.reopened(as_session=other).case("1")
    assert message_of(lambda: after.rotate_key(place.session.signer)) == "custody.key_ended"
    assert message_of(lambda: after.rotate_key(third.signer, old=place.session.signer)) == "custody.key_ended"
    assert [event.type for event in after.events()] == ["commissioned", "key_rotated"]


def test_the_key_for_checkpoints_beside_an_sm2_key_is_rotated(place: Place) -> None:
    certified = sm2_session(place, Sm2Holder())
    place.workspace.new_case("1")
    place.reopened(as_session=certified).case("1").set_sheet({"cause": "x"})
    folder = KeyFolder(place.root / "sm2-keys")
    old, following = folder.software_signer(passphrase="x"), folder.next_signer(passphrase="x")
    event = place.reopened(as_session=certified).case("1").rotate_key(following, old=old)
    assert event.key_id == old.public_key.key_id and signers_of(event) == {event.key_id, following.public_key.key_id}
    stale = place.reopened(as_session=certified).case("1")
    assert message_of(lambda: stale.set_sheet({"cause": "y"})) == "custody.key_ended"
    folder.promote_next(passphrase="x")
    case = place.reopened(as_session=replace(certified, signer=folder.signer(passphrase="x"))).case("1")
    assert case.set_sheet({"cause": "y"}) is not None
    check_signatures(case)
    check_log(case)


def test_a_key_that_signs_the_checkpoints_of_its_successor_does_not_end(place: Place) -> None:
    """An SM2 key beside the Ed25519 key in use: without that one nobody could sign a checkpoint in the case any more."""
    case = place.workspace.new_case("1")
    certified = sm2_session(place, Sm2Holder()).signer
    assert isinstance(certified, Sm2Signer)
    certified.note_signer = place.session.signer.note_signer
    assert message_of(lambda: case.rotate_key(certified)) == "custody.key_signs_checkpoints"
    assert [event.type for event in case.events()] == ["commissioned"]


# ---------------------------------------------------------------- revocation


def test_a_stolen_key_is_revoked_by_another_from_a_size_in_the_past(place: Place, other: Session) -> None:
    full_case(place)
    by_other = place.reopened(as_session=other).case("川检 2026-1")
    event = by_other.revoke_key(key_id(place.session), "compromised", 3)
    change = parse_key_change(by_other.read_object(event.outputs[0].sha256))
    assert (change.action, change.new_key, change.reason, change.effective) == ("revoked", None, "compromised", 3)
    assert event.key_id == key_id(other) and signers_of(event) == {key_id(other)}
    thief = place.reopened().case("川检 2026-1")
    assert message_of(lambda: thief.set_sheet({"cause": "偷"})) == "custody.key_ended"
    # earlier is possible, later is not
    assert message_of(lambda: by_other.revoke_key(key_id(place.session), "compromised", 4)) == "custody.key_ended"
    by_other.revoke_key(key_id(place.session), "compromised", 2)
    assert by_other.ended_keys()[key_id(place.session)].effective == 2
    check_signatures(by_other)
    check_log(by_other)


def test_one_ends_ones_own_key_from_now_on_only(place: Place) -> None:
    case = place.workspace.new_case("1")
    assert message_of(lambda: case.revoke_key(key_id(place.session), "lost", 1)) == "custody.key_own"
    event = case.revoke_key(key_id(place.session), "ended")
    assert case.ended_keys()[key_id(place.session)].effective == event.index + 1 == 2
    assert message_of(lambda: case.set_sheet({"cause": "x"})) == "custody.key_ended"
    assert case.log_status().rollback == "passed"


def test_revocations_that_make_no_sense_are_refused(place: Place, other: Session) -> None:
    case = place.workspace.new_case("1")
    place.reopened(as_session=other).case("1").set_sheet({"cause": "x"})
    assert message_of(lambda: case.revoke_key("0" * 64, "lost")) == "custody.key_unknown"
    assert message_of(lambda: case.revoke_key(key_id(other), "lost", 4)) == "custody.key_effective"
    assert message_of(lambda: case.revoke_key(key_id(other), "lost", -1)) == "custody.key_effective"
    assert message_of(lambda: case.revoke_key(key_id(other), "angry")) == "custody.key_reason"
    assert len(case.events()) == 2
    assert case.revoke_key(key_id(other), "lost", 3).index == 2


def test_a_missing_or_changed_record_stops_appending(place: Place) -> None:
    case, _ = rotated(place)
    stored = place.workspace._objects.path_of(case.events()[-1].outputs[0].sha256)
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes() + b" ")
    with pytest.raises(DigestMismatchError):
        case.set_sheet({"cause": "x"})


def test_a_record_that_is_none_is_not_logged(place: Place) -> None:
    case = place.workspace.new_case("1")
    stored = place.workspace._objects.add_bytes(b"{}")
    with case._log.writing() as appender, pytest.raises(LogInconsistentError):
        appender.append("key_rotated", outputs=[NewFile(folder="records", name="key-change.json", file=stored)])
    assert [event.type for event in case.events()] == ["commissioned"] and case.log_checkpoint().tree_size == 1
    check_log(case)


# ---------------------------------------------------------------- limits and chains


def test_two_keys_of_one_chain_do_not_sign_in_one_case(place: Place, other: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    place.workspace.new_case("1")
    chain = place.session.signer.public_key.chain
    with monkeypatch.context() as patch:
        patch.setattr(type(other.signer.public_key), "chain", property(lambda self: chain))
        case = place.reopened(as_session=replace(place.session, cosigners=(other.signer,))).case("1")
        assert message_of(lambda: case.set_sheet({"cause": "x"})) == "custody.key_chain_taken"
    assert len(case.events()) == 1


def test_the_key_list_of_a_session_is_sorted_and_has_each_key_once(place: Place, other: Session) -> None:
    certified = sm2_session(place, Sm2Holder())
    keys = replace(certified, cosigners=(other.signer, certified.signer.note_signer)).keys  # type: ignore[arg-type]
    ids = [each.public_key.key_id for each in keys]
    assert ids == sorted(set(ids)) and len(ids) == 3
    assert base64.b64encode(certified.signer.certificates[0]) in [base64.b64encode(c) for key in keys for c in key.certificates]


def test_of_two_ends_of_a_key_the_earlier_counts(place: Place, other: Session) -> None:
    found: dict[str, EndedKey] = {}
    ended, successor = key_id(place.session), NamedKey(other.signer.public_key, "新")
    for number, (action, reason, effective) in enumerate(
        (("rotated", "superseded", 9), ("revoked", "compromised", 4), ("revoked", "lost", 6)), 1
    ):
        change = KeyChange(action, ended, successor if action == "rotated" else None, reason, effective)
        note_end(found, change, f"E-{number}")
    assert (found[ended].effective, found[ended].reason, found[ended].event_id) == (4, "compromised", "E-2")
    assert found[ended].successor is None and list(found) == [ended]


def test_a_key_whose_events_would_have_the_ids_of_another_does_not_sign(
    place: Place, other: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = place.workspace.new_case("1")
    chain = place.session.signer.public_key.chain
    with monkeypatch.context() as patch, pytest.raises(CustodyError) as caught, case._log.writing(session=other) as appender:
        assert appender.next_event_id() == f"E-{other.signer.public_key.chain}-1"
        patch.setattr(type(other.signer.public_key), "chain", property(lambda self: chain))
        appender.append("viewed")
    assert caught.value.message_id == "custody.key_chain_taken" and len(case.events()) == 1
