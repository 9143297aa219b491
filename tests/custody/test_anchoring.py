"""Evidence over the log of a case: what is recorded, what is owed, what survives, what is refused."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from geoevidence.catalogue import open_log_store
from geoevidence.custody import (
    Answer,
    Case,
    CustodyEvent,
    EvidenceSources,
    PendingEvidence,
    TimeSettings,
    Witness,
    WitnessClient,
    Workspace,
    anchor_case,
    known_witness_keys,
    read_time_settings,
    seal_evidence,
    sources_of,
    take_answer,
    time_stamp_request,
    witness_request,
)
from geoevidence.custody.anchoring import AnchorResult, Owed, log_testimonies, newest_attested_time, stated_interval
from geoevidence.custody.timestamps import build_request
from geoevidence.errors import AnswerError, ConfigError, CustodyError, FormatError, GeoEvidenceError, NoAnswerError
from geoevidence.trust import TlogProof, inclusion_proof, parse_checkpoint, parse_cosignature, parse_leaf, tree_root
from geoevidence.trust.certificates import parse_certificate
from geoevidence.trust.timestamps import parse_time_stamp
from tests.custody.authorities import TSA_URL, client, local_tsa, log_key, stamper, unreachable, witness
from tests.custody.workspaces import CARD, Clock, Place, derive, session


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    made = place.workspace.new_case("川检 2026-1", demonstration=True)
    made.ingest(place.card(CARD), label="SD-1")
    return made


@pytest.fixture
def pending(place: Place) -> PendingEvidence:
    return PendingEvidence(place.workspace.path / "pending")


def watcher(place: Place, case: Case, *, seed: int = 50) -> Witness:
    made = witness(place.root / f"witness-{seed}", seed=seed)
    made.allow(f"geoevidence/{case.workspace_id}/*", log_key(case.session))
    return made


def everybody(place: Place, case: Case) -> EvidenceSources:
    return EvidenceSources(stamps=(stamper(),), witnesses=(client(watcher(place, case)),))


def files_of(case: Case, event: CustodyEvent) -> dict[str, bytes]:
    return {each.path.rpartition("/")[2]: case.read_object(each.sha256) for each in event.outputs}


def attested(event: CustodyEvent) -> str | None:
    anchor = parse_leaf(event.leaf).event.raw["anchor"]
    found: str | None = None if anchor is None else anchor["attested_time"]
    return found


def event_of(result: AnchorResult) -> CustodyEvent:
    assert result.event is not None
    return result.event


# ---------------------------------------------------------------- what is recorded


def test_evidence_is_recorded_over_the_newest_checkpoint(place: Place, case: Case, pending: PendingEvidence) -> None:
    before = case.checkpoint_bytes()
    result = anchor_case(case, everybody(place, case), pending)
    event = event_of(result)
    assert result.complete and result.times == ("2026-11-23T09:00:00Z", "2026-11-23T09:30:00Z")
    assert [each.path for each in event.outputs] == [
        f"records/{event.event_id}/{name}" for name in ("checkpoint.note", "time-1.tsr", "witness-1.cosig")
    ]
    assert (event.type, event.inputs, event.process) == ("anchored", (), None)
    files = files_of(case, event)
    assert files["checkpoint.note"] == before
    assert parse_checkpoint(before)[0].tree_size == event.index
    stamp = parse_time_stamp(files["time-1.tsr"])
    stamp.verify(before, roots=[parse_certificate(local_tsa().root_der)])
    head, cosignature = parse_cosignature(files["witness-1.cosig"])
    keys = {key.public_key.key_id: key for key in case.public_keys()}
    (key,) = [key for key in keys.values() if key.label.startswith("witness ")]
    cosignature.verify(key.public_key, head.to_text())
    assert head == parse_checkpoint(before)[0] and len(keys) == 2
    assert pending.entries(case.id) == () and not list(pending.folder.rglob("*.json"))
    case.require_consistent_log()
    # the read models follow from the leaves
    assert {item.role for item in case.items() if item.id.startswith(event.event_id)} == {"record"}
    assert [key.name for key in known_witness_keys(case)] == [cosignature.name]


def test_openssl_checks_what_was_recorded(place: Place, case: Case, pending: PendingEvidence) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl absent: another implementation was not asked")
    event = event_of(anchor_case(case, everybody(place, case), pending))
    for name, data in {**files_of(case, event), "root.pem": local_tsa().root}.items():
        (place.root / name).write_bytes(data)
    words = [openssl, "ts", "-verify", "-data", "checkpoint.note", "-in", "time-1.tsr", "-CAfile", "root.pem"]
    at = str(int(datetime(2026, 11, 23, 9, tzinfo=UTC).timestamp()))
    done = subprocess.run([*words, "-attime", at], cwd=place.root, capture_output=True, text=True)
    assert "Verification: OK" in done.stdout + done.stderr


def test_later_events_name_the_newest_attested_time(place: Place, case: Case, pending: PendingEvidence) -> None:
    anchor_case(case, EvidenceSources(stamps=(stamper(),)), pending)
    case.set_sheet({"cause": "一"})
    anchor_case(case, EvidenceSources(witnesses=(client(watcher(place, case)),)), pending)
    case.set_sheet({"cause": "二"})
    found = [(event.type, attested(event)) for event in case.events()]
    assert found == [
        ("commissioned", None),
        ("copied", None),
        ("anchored", None),
        ("corrected", "2026-11-23T09:00:00Z"),
        ("anchored", "2026-11-23T09:00:00Z"),
        ("corrected", "2026-11-23T09:30:00Z"),
    ]
    for event in case.events():
        size = 0 if event.anchor is None else event.anchor[0]
        assert newest_attested_time(case.events()[:size], case.read_object) == attested(event)


def test_a_damaged_token_does_not_stop_the_recording(place: Place, case: Case, pending: PendingEvidence) -> None:
    event = event_of(anchor_case(case, EvidenceSources(stamps=(stamper(),)), pending))
    (token,) = [item for item in case.items() if item.path.endswith(".tsr")]
    case.path_of(token).unlink()
    case.set_sheet({"cause": "继续"})
    assert attested(case.events()[-1]) is None and case.events()[-1].index == event.index + 1


def test_two_of_three_witnesses(place: Place, case: Case, pending: PendingEvidence) -> None:
    made = [watcher(place, case, seed=seed) for seed in (50, 51, 52)]
    clients = [client(each, url=f"https://w{n}.example") for n, each in enumerate(made)]
    clients[1] = client(made[1], unreachable, url="https://w1.example")
    result = anchor_case(case, EvidenceSources(witnesses=tuple(clients)), pending)
    files = files_of(case, event_of(result))
    assert sorted(files) == ["checkpoint.note", "witness-1.cosig", "witness-2.cosig"]
    signers = {parse_cosignature(files[f"witness-{n}.cosig"])[1].name for n in (1, 2)}
    assert signers == {made[0].key.name, made[2].key.name}
    assert {key.public_key for key in case.public_keys()} == {
        case.session.signer.public_key,
        made[0].key.key,
        made[2].key.key,
    }
    ((name, error),) = result.missing
    assert name == "https://w1.example" and isinstance(error, NoAnswerError)


# ---------------------------------------------------------------- what is owed


def test_nobody_to_ask_is_said_and_changes_nothing(case: Case, pending: PendingEvidence) -> None:
    size = len(case.events())
    with pytest.raises(ConfigError) as caught:
        anchor_case(case, EvidenceSources(), pending)
    assert caught.value.message_id == "custody.no_sources" and "time.toml" in caught.value.render("zh")
    assert len(case.events()) == size and not pending.folder.exists()


def test_what_nobody_answers_is_kept_and_worked_off(place: Place, case: Case, pending: PendingEvidence) -> None:
    made = watcher(place, case)
    absent = EvidenceSources(stamps=(stamper(unreachable),), witnesses=(client(made, unreachable),))
    size = len(case.events())
    result = anchor_case(case, absent, pending)
    assert result.event is None and len(result.missing) == 2 and len(case.events()) == size
    owed = pending.entries(case.id)
    assert [(each.kind, each.source, each.tree_size, each.request) for each in owed] == [
        ("time", TSA_URL, size, None),
        ("witness", "https://witness.example", size, None),
    ]
    case.set_sheet({"cause": "后来"})  # the case goes on
    again = anchor_case(case, absent, pending)
    assert again.event is None
    later = pending.entries(case.id)
    assert [each.tree_size for each in later] == [size + 1] * 2 and [each.since for each in later] == [owed[0].since] * 2
    done = anchor_case(case, EvidenceSources(stamps=(stamper(),), witnesses=(client(made),)), pending)
    assert done.complete and pending.entries(case.id) == ()
    assert parse_checkpoint(files_of(case, event_of(done))["checkpoint.note"])[0].tree_size == size + 1


def test_only_who_owes_is_asked_again(place: Place, case: Case, pending: PendingEvidence) -> None:
    asked: list[str] = []

    def counting(url: str, body: bytes | None, content_type: str) -> Answer:
        asked.append(url)
        return local_tsa().transport()(url, body, content_type)

    other = "https://other.example"
    first = EvidenceSources(stamps=(stamper(counting), stamper(unreachable, url=other)))
    result = anchor_case(case, first, pending)
    assert result.event is not None and [name for name, _ in result.missing] == [other]
    assert asked == [TSA_URL]
    both = EvidenceSources(stamps=(stamper(counting), stamper(counting, url=other)))
    assert anchor_case(case, both, pending).complete
    assert asked == [TSA_URL, other] and pending.entries(case.id) == ()
    idle = anchor_case(case, both, pending)
    assert idle.event is None and idle.message.id == "custody.anchor_current" and len(asked) == 2
    # a witness that has never been asked is, though the log has not grown
    made = watcher(place, case)
    assert anchor_case(case, EvidenceSources(witnesses=(client(made),)), pending).event is not None
    assert anchor_case(case, EvidenceSources(witnesses=(client(made),)), pending).event is None


def _dies(root: str, moment: str) -> None:
    """Anchors a case in a process that is killed while the authority answers, or just before the event is recorded."""
    path = Path(root) / "workspace"
    opened = Workspace.open(path, session=session(Path(root) / "keys", seed=9, clock=Clock()), log_store=open_log_store(path))
    found = opened.case("川检 2026-1")

    def transport(url: str, body: bytes | None, content_type: str) -> Answer:
        if moment == "asking":
            os._exit(9)
        return local_tsa().transport()(url, body, content_type)

    if moment == "recording":
        found.record_anchor = lambda *args, **options: os._exit(9)  # type: ignore[method-assign]
    anchor_case(found, EvidenceSources(stamps=(stamper(transport),)), PendingEvidence(path / "pending"))


@pytest.mark.parametrize("moment", ["asking", "recording"])
def test_what_is_asked_survives_a_kill(place: Place, case: Case, pending: PendingEvidence, moment: str) -> None:
    size = len(case.events())
    worker = multiprocessing.get_context("spawn").Process(target=_dies, args=(str(place.root), moment))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 9
    assert [(each.source, each.tree_size) for each in pending.entries(case.id)] == [(TSA_URL, size)]
    reopened = place.reopened().case(case.id)
    assert len(reopened.events()) == size
    assert anchor_case(reopened, EvidenceSources(stamps=(stamper(),)), pending).complete
    assert pending.entries(case.id) == () and len(reopened.events()) == size + 1


@pytest.mark.parametrize(
    "content",
    [b"", b'{"case":"../..","kind":"time","request":null,"schema":"geoevidence.pending.v1","since":"2026-11-23T09:00:00Z","source":"s","tree_size":1}', b"{}", b"[]", b'{"a":', b'{"case":"C","kind":"time","request":null,"schema":"x","since":"2026-11-23T09:00:00Z","source":"s","tree_size":1}'],
)  # fmt: skip
def test_a_list_that_was_tampered_with_is_said(case: Case, pending: PendingEvidence, content: bytes) -> None:
    path = pending.folder / case.id / "1" / "time-0.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        pending.entries(case.id)
    assert caught.value.message_id == "custody.pending_unreadable"


# ---------------------------------------------------------------- renewal


def test_evidence_is_renewed_after_a_year_and_not_before(place: Place, case: Case, pending: PendingEvidence) -> None:
    anchor_case(case, EvidenceSources(stamps=(stamper(),)), pending)
    size = len(case.events())

    def at(moment: datetime) -> AnchorResult:
        later = place.reopened(as_session=session(place.root / "keys", seed=3, clock=Clock(moment))).case(case.id)
        transport = local_tsa(moment).transport()
        return anchor_case(later, EvidenceSources(stamps=(stamper(transport),)), pending, renew=True)

    early = at(datetime(2027, 11, 23, 8, 59, 0, tzinfo=UTC))
    assert early.event is None and early.message.values["due"] == "2027-11-23T09:00:00Z"
    late = at(datetime(2027, 11, 23, 9, 0, 0, tzinfo=UTC))
    assert late.times == ("2027-11-23T09:00:00Z",) and event_of(late).index == size
    # the new evidence is over a checkpoint that holds the old one
    assert parse_checkpoint(files_of(case, event_of(late))["checkpoint.note"])[0].tree_size == size


# ---------------------------------------------------------------- who may witness


def test_a_witness_at_the_end_of_time_does_not_stop_the_case(place: Place, case: Case, pending: PendingEvidence) -> None:
    """What it signed stands in the log for good: no later run may fail of it."""
    mad = watcher(place, case)
    mad._now = lambda: datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    sources = EvidenceSources(witnesses=(WitnessClient(url="http://witness", key=mad.key, transport=mad.transport()),))
    assert anchor_case(case, sources, pending).times == ("9999-12-31T23:59:59Z",)
    again = anchor_case(case, sources, pending)
    assert (again.event, again.message.id) == (None, "custody.anchor_current")
    assert case.set_sheet({"cause": "x"}) is not None
    assert anchor_case(case, sources, pending).event is not None


def test_nobody_witnesses_their_own_log(place: Place, case: Case, pending: PendingEvidence) -> None:
    own = Witness(place.root / "own", signer=case.session.signer.note_signer, now=case.session.now)
    own.allow(case.origin, log_key(case.session))
    with pytest.raises(ConfigError) as caught:
        anchor_case(case, EvidenceSources(witnesses=(client(own),)), pending)
    assert caught.value.message_id == "custody.witness_is_signer"
    request = witness_request(case, pending)
    with pytest.raises(ConfigError):
        take_answer(case, pending, own.add_checkpoint(request).body, where="x", keys=[own.key])
    assert len(case.events()) == 2


def test_a_witness_refuses_a_log_that_came_back_shorter_or_other(place: Place, case: Case, pending: PendingEvidence) -> None:
    """A workspace restored from an old copy, with a key folder that does not remember: only the witness does."""
    made = watcher(place, case)
    shutil.copytree(place.workspace.path, place.root / "copy")
    anchor_case(case, EvidenceSources(witnesses=(client(made),)), pending)
    case.set_sheet({"cause": "真"})
    anchor_case(case, EvidenceSources(witnesses=(client(made),)), pending)

    path, forgetful = place.root / "copy", place.root / "forgetful"
    shutil.copytree(place.root / "keys", forgetful, ignore=shutil.ignore_patterns("checkpoints"))
    old = Workspace.open(path, session=session(forgetful, seed=4), log_store=open_log_store(path)).case(case.id)
    behind = anchor_case(old, EvidenceSources(witnesses=(client(made),)), PendingEvidence(path / "pending"))
    assert behind.event is None and behind.missing[0][1].message_id == "custody.witness_ahead"
    while len(old.events()) < len(case.events()):
        old.set_sheet({"cause": f"假 {len(old.events())}"})
    forked = anchor_case(old, EvidenceSources(witnesses=(client(made),)), PendingEvidence(path / "pending"))
    assert forked.missing[0][1].message_id in ("custody.witness_refuses", "custody.witness_contradicts")
    assert forked.event is None and len(made.contradictions()) == 1
    # the honest log goes on
    assert anchor_case(case, EvidenceSources(stamps=(stamper(),)), pending).event is not None


# ---------------------------------------------------------------- files that are carried


def test_a_request_and_its_answer_as_files(place: Place, case: Case, pending: PendingEvidence) -> None:
    request, size = time_stamp_request(case, pending), len(case.events())
    case.set_sheet({"cause": "路上"})  # the answer comes days later
    result = take_answer(case, pending, local_tsa().reply(request), where="x.tsr")
    files = files_of(case, event_of(result))
    assert parse_checkpoint(files["checkpoint.note"])[0].tree_size == size
    parse_time_stamp(files["time-1.tsr"]).verify_signature(files["checkpoint.note"])
    assert pending.entries(case.id) == ()
    with pytest.raises(AnswerError) as caught:  # the same answer again
        take_answer(case, pending, local_tsa().reply(request), where="x.tsr")
    assert caught.value.message_id == "custody.answer_unasked"


def test_a_witness_request_and_its_answer_as_files(place: Place, case: Case, pending: PendingEvidence) -> None:
    made = watcher(place, case)
    answer = made.add_checkpoint(witness_request(case, pending)).body
    with pytest.raises(AnswerError) as caught:
        take_answer(case, pending, answer, where="x")
    assert caught.value.message_id == "custody.answer_no_witness"
    assert take_answer(case, pending, answer, where="x", keys=[watcher(place, case, seed=51).key, made.key]).event is not None
    known = list(known_witness_keys(case))
    assert known == [made.key]
    size = len(case.events())
    refused = made.add_checkpoint(witness_request(case, pending))
    assert refused == Answer(409, "text/x.tlog.size", f"{size - 1}\n".encode())
    again = made.add_checkpoint(witness_request(case, pending, witness_size=size - 1)).body
    assert take_answer(case, pending, again, where="x", keys=known).event is not None
    with pytest.raises(CustodyError):
        witness_request(case, pending, witness_size=100)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d[:-1], "custody.tsa_answer"),
        (lambda d: b"0", "custody.tsa_answer"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "custody.tsa_answer"),
        (lambda d: local_tsa().reply(b"x"), "custody.tsa_rejected"),
        (lambda d: b"", "custody.answer_unasked"),
        (lambda d: b"\xff\xfe", "custody.answer_unasked"),
        (lambda d: stamper().transport("", _other_request(), "").body, "custody.answer_unasked"),
    ],
)
def test_answers_that_do_not_hold_change_nothing(
    place: Place, case: Case, pending: PendingEvidence, change: Callable[[bytes], bytes], expected: str
) -> None:
    answer = local_tsa().reply(time_stamp_request(case, pending))
    keys = [watcher(place, case).key]
    with pytest.raises(AnswerError) as caught:
        take_answer(case, pending, change(answer), where="x", keys=keys)
    assert caught.value.message_id == expected and "{" not in caught.value.render("zh")
    assert len(case.events()) == 2 and len(pending.entries(case.id)) == 1
    assert take_answer(case, pending, answer, where="x").event is not None


def _other_request() -> bytes:
    from geoevidence.custody.timestamps import build_request

    return build_request(b"other", lambda n: bytes(n))


def test_a_request_for_a_checkpoint_that_is_not_there(place: Place, case: Case, pending: PendingEvidence) -> None:
    answer = local_tsa().reply(time_stamp_request(case, pending))
    folder = pending.folder / case.id
    (entry,) = folder.rglob("*.json")
    entry.write_bytes(entry.read_bytes().replace(b'"tree_size":2', b'"tree_size":1'))
    with pytest.raises(GeoEvidenceError):
        take_answer(case, pending, answer, where="x")
    assert len(case.events()) == 2


# ---------------------------------------------------------------- sealing, settings


def test_evidence_for_a_package(place: Place, case: Case) -> None:
    """Time stamps over the whole proof file, cosignatures over the checkpoint in it; a witness goes on from the log's evidence."""
    made = watcher(place, case)
    anchor_case(case, EvidenceSources(witnesses=(client(made),)), PendingEvidence(place.root / "pending"))
    hashes = [bytes.fromhex(event.leaf_hash) for event in case.events()]
    proof = TlogProof(len(hashes) - 1, inclusion_proof(hashes, len(hashes) - 1), case.checkpoint_bytes(), case.events()[-1].leaf)
    missing = stamper(unreachable, url="https://other.example")
    asked = EvidenceSources(stamps=(stamper(), missing), witnesses=(client(made),))
    found = seal_evidence(asked, proof.to_bytes(), leaf_hashes=hashes)
    (stamp,), (cosignature,) = found.stamps, found.cosignatures
    parse_time_stamp(stamp).verify_signature(proof.to_bytes())
    head, parsed = parse_cosignature(cosignature)
    parsed.verify(made.key.key, head.to_text())
    assert (head.tree_size, head.root) == (len(hashes), tree_root(hashes))
    assert [name for name, _ in found.missing] == ["https://other.example"] and found.answered[0] == TSA_URL
    assert [(each.public_key, each.label) for each in asked.labels()] == [(made.key.key, "witness https://witness.example")]
    assert not seal_evidence(EvidenceSources(), proof.to_bytes(), leaf_hashes=hashes)


def test_settings_name_whom_to_ask(tmp_path: Path, place: Place, case: Case) -> None:
    made = watcher(place, case)
    path = tmp_path / "time.toml"
    assert read_time_settings(path) == TimeSettings()
    path.write_text(
        f'[[time_stamp]]\nurl = "{TSA_URL}"\n[[witness]]\nurl = "https://a.example"\nkey = "{made.key.text}"\n'
        '[[witness]]\nurl = "https://b.example"\n'
    )
    settings = read_time_settings(path)
    assert settings == TimeSettings(
        time_stamps=(TSA_URL,), witnesses=(("https://a.example", made.key), ("https://b.example", None))
    )
    found = sources_of(settings, random=lambda n: bytes(n), transport=made.transport())
    assert [each.name for each in found.stamps] == [TSA_URL]
    assert [(each.name, each.key) for each in found.witnesses] == [
        ("https://a.example", made.key),
        ("https://b.example", made.key),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[[time_stamp]]\n",
        '[[time_stamp]]\nurl = "ftp://x"\n',
        '[[time_stamp]]\nurl = 1\n',
        '[[time_stamp]]\nurl = "http://x"\nkey = "y"\n',
        '[time_stamp]\nurl = "http://x"\n',
        '[[witness]]\nurl = "http://x"\nkey = "y"\n',
        '[[witnes]]\nurl = "http://x"\n',
        "x",
        "\x00",
    ],
)  # fmt: skip
def test_settings_that_are_misspelt_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "time.toml").write_text(text)
    with pytest.raises(ConfigError):
        read_time_settings(tmp_path / "time.toml")


# ---------------------------------------------------------------- what the evidence in a log says of its events


def test_events_lie_between_the_evidence_around_them(place: Place, case: Case, pending: PendingEvidence) -> None:
    """By the words of the evidence alone; the verifier's intervals are the same where it trusts all of it."""
    anchor_case(case, everybody(place, case), pending)
    case.set_sheet({"cause": "后来"})
    events = case.events()
    found = log_testimonies(events, case.read_object)
    assert [(each.kind, each.index, each.covers) for each in found] == [("time", 2, 2), ("witness", 2, 2)]
    assert "TSA" in found[0].who and found[1].who == watcher(place, case).key.name
    # genTime 09:00:00 with an accuracy of a second; the witness says 09:30:00 (tests/custody/authorities.py)
    assert [each.earliest.strftime("%H:%M:%S") for each in found] == ["08:59:59", "09:30:00"]
    assert all(each.earliest <= each.latest for each in found)
    assert stated_interval(events[0], found) == (None, found[0].latest)
    assert stated_interval(events[-1], found) == (found[1].earliest, None)
    assert stated_interval(events[0], ()) == (None, None)


# ---------------------------------------------------------------- the list of what is owed


def owed(case: Case, *, size: int = 2, request: bytes | None = None, source: str = "file") -> Owed:
    moment = datetime(2026, 11, 23, tzinfo=UTC)
    return Owed(case=case.id, tree_size=size, kind="time", source=source, request=request, since=moment)


def test_what_was_never_owed_is_struck_out_without_a_trace(case: Case, pending: PendingEvidence) -> None:
    pending.settle(owed(case))
    assert not pending.folder.exists() or not list(pending.folder.rglob("*"))


def test_a_list_that_the_disk_refuses_is_said(case: Case, pending: PendingEvidence, tmp_path: Path) -> None:
    one = owed(case)
    (tmp_path / "file").write_bytes(b"")
    path = pending._path(one)
    path.mkdir(parents=True)
    for act in (
        lambda: PendingEvidence(tmp_path / "file").owe(one),
        lambda: pending.settle(one),
        lambda: pending.entries(case.id),
    ):
        with pytest.raises(CustodyError) as caught:
            act()
        assert caught.value.message_id.startswith("custody.disk_")
    assert path.is_dir()


def test_evidence_over_an_older_checkpoint_does_not_stand_for_the_newest(
    place: Place, case: Case, pending: PendingEvidence
) -> None:
    """An answer that comes by file when the log has grown: what came since still has no evidence, and is asked for."""
    request = time_stamp_request(case, pending)
    case.set_sheet({"cause": "路上"})
    take_answer(case, pending, local_tsa().reply(request), where="x.tsr")
    owing = anchor_case(case, EvidenceSources(stamps=(stamper(unreachable),)), pending)
    assert owing.event is None and [each.source for each in pending.entries(case.id)] == [stamper().name]
    assert event_of(anchor_case(case, EvidenceSources(stamps=(stamper(),)), pending)).type == "anchored"
    assert pending.entries(case.id) == ()


def test_the_answer_to_the_second_of_two_requests_is_found(place: Place, case: Case, pending: PendingEvidence) -> None:
    witness_request(case, pending)
    case.set_sheet({"cause": "后来"})
    size = len(case.events())
    made = watcher(place, case)
    answer = made.add_checkpoint(witness_request(case, pending)).body
    result = take_answer(case, pending, answer, where="x", keys=[made.key])
    assert parse_checkpoint(files_of(case, event_of(result))["checkpoint.note"])[0].tree_size == size
    assert [each.tree_size for each in pending.entries(case.id)] == [2]
    # and one by a witness whose key is not among those given is said to be no answer
    with pytest.raises(AnswerError):
        take_answer(case, pending, answer, where="x", keys=[watcher(place, case, seed=51).key])


def test_an_answer_for_a_size_that_was_never_signed_is_refused(case: Case, pending: PendingEvidence) -> None:
    """Two events of one commit have one checkpoint: a request over the first alone is not of this log."""
    derive(case)
    events = case.events()
    assert [event.type for event in events[-2:]] == ["derived", "found"]
    request = build_request(b"no checkpoint", lambda n: bytes(n))
    pending.owe(owed(case, size=len(events) - 1, request=request))
    with pytest.raises(AnswerError) as caught:
        take_answer(case, pending, local_tsa().reply(request), where="x")
    assert caught.value.message_id == "custody.answer_other_log" and case.events() == events
