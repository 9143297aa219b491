"""The witness against the protocol, rollbacks, forks, crashes and two processes; and over HTTP."""

from __future__ import annotations

import http.client
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.witness_server
from app.witness_server import WitnessServer
from geoevidence.custody import Answer, Witness, WitnessClient, WitnessKey, http_transport, read_log_keys
from geoevidence.custody.witness import MAX_KEPT, build_witness_request, parse_witness_request, read_cosignature
from geoevidence.errors import AnswerError, ConfigError, CustodyError, FormatError, NoAnswerError
from geoevidence.trust import (
    Cosignature,
    LogCheckpoint,
    NoteSignature,
    PublicKey,
    SignedNote,
    consistency_proof,
    leaf_hash,
    note_key_hash,
    parse_checkpoint,
    parse_cosignature,
    parse_note,
    tree_root,
)
from geoevidence.trust.manifest import NamedKey, keys_bytes
from geoevidence.trust.merkle import EMPTY_ROOT
from tests.custody.authorities import client, fixed, unreachable, witness
from tests.trust.builder import Key

ORIGIN = "geoevidence/W-abcdef0123/C-0123456789"
LEAVES = [leaf_hash(bytes([n])) for n in range(20)]
LOG = Key(1)
LOG_KEY = WitnessKey.of_log(LOG.public)


def head(size: int, *, leaves: list[bytes] = LEAVES, key: Key = LOG, origin: str = ORIGIN) -> bytes:
    return key.checkpoint(size, tree_root(leaves[:size]), origin=origin)


def proof(old: int, size: int, leaves: list[bytes] = LEAVES) -> tuple[bytes, ...]:
    return consistency_proof(leaves[:size], old) if old else ()


def ask(old: int, size: int, *, leaves: list[bytes] = LEAVES) -> bytes:
    return build_witness_request(head(size, leaves=leaves), old, proof(old, size, leaves))


@pytest.fixture
def watcher(tmp_path: Path) -> Witness:
    made = witness(tmp_path / "witness")
    made.allow(ORIGIN, LOG_KEY)
    return made


FORKED = [*LEAVES[:4], *(leaf_hash(bytes([n, n])) for n in range(4, 20))]
"""The same log with another fifth entry."""


# ---------------------------------------------------------------- another implementation's requests

# Test data of the witness of github.com/FiloSottile/torchwood, internal/witness/witness_test.go: a log key, and requests
# from size 0 to 1, and from 1 to 3 and to 5, made by sigsum-go.
SIGSUM = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
SIGSUM_KEY = WitnessKey(
    SIGSUM, PublicKey("ed25519", bytes.fromhex("ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f")), 1
)
TO_1 = f"""old 0

{SIGSUM}
1
KgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

\u2014 {SIGSUM} UgIom7fPZTqpxWWhyjWduBvTvGVqsokMbqTArsQilegKoFBJQjUFAmQ0+YeSPM3wfUQMFSzVnnNuWRTYrajXpNUbIQY=
""".encode()
TO_3 = f"""old 1
KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
KgIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

{SIGSUM}
3
RcCI1Nk56ZcSmIEfIn0SleqtV7uvrlXNccFx595Iwl0=

\u2014 {SIGSUM} UgIom2VbtIcdFbwFAy1n7s6IkAxIY6J/GQOTuZF2ORV39d75cbAj2aQYwyJre36kezNobZs4SUUdrcawfAB8WVrx6go=
""".encode()
TO_5 = f"""old 1
KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
+fUDV+k970B4I3uKrqJM4aP1lloPZP8mvr2Z4wRw2LI=
KgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

{SIGSUM}
5
QrtXrQZCCvpIgsSmOsah7HdICzMLLyDfxToMql9WTjY=

\u2014 {SIGSUM} UgIomw/EOJmWi0i1FQsOj+etB7F8IccFam/jgd6wzRns4QPVmyEZtdvl1U2KEmLOZ/ASRcWJi0tW90dJWAShei7sDww=
""".encode()


def test_requests_of_another_implementation(tmp_path: Path) -> None:
    made = witness(tmp_path)
    assert made.add_checkpoint(TO_1).status == 404
    made.allow(SIGSUM, SIGSUM_KEY)
    first = made.add_checkpoint(TO_1)
    assert first.status == 200
    (line,) = parse_note(TO_1.partition(b"\n\n")[2].partition(b"\n\n")[0] + b"\n\n" + first.body).signatures
    text = parse_witness_request(TO_1).note.text
    Cosignature.of_signature(line).verify(made.key.key, text)
    assert made.add_checkpoint(TO_5).status == 200
    # the shorter one was on its way meanwhile: no roll back
    assert made.add_checkpoint(TO_3) == Answer(409, "text/x.tlog.size", b"5\n")
    assert made.newest(SIGSUM) == TO_5.partition(b"\n\n")[2]
    assert parse_witness_request(TO_5).to_bytes() == TO_5


def test_more_than_63_hashes_are_a_bad_request(watcher: Witness) -> None:
    line, rest = TO_3.splitlines(keepends=True)[1], TO_1.partition(b"\n\n")[2]
    assert watcher.add_checkpoint(b"old 0\n" + line * 64 + b"\n" + rest).status == 400
    assert len(parse_witness_request(b"old 0\n" + line * 63 + b"\n" + rest).proof) == 63


@pytest.mark.parametrize(
    ("known", "old", "size", "root", "with_proof", "status"),
    [
        (0, 0, 0, EMPTY_ROOT, False, 200),
        (0, 0, 0, LEAVES[0], False, 422),
        (0, 0, 0, bytes(32), False, 422),
        (0, 0, 0, EMPTY_ROOT, True, 422),
        (0, 0, 1, LEAVES[0], False, 200),
        (0, 0, 1, LEAVES[0], True, 422),
        (1, 0, 1, LEAVES[0], True, 409),
        (1, 1, 0, EMPTY_ROOT, False, 400),
    ],
)
def test_empty_trees(watcher: Witness, known: int, old: int, size: int, root: bytes, with_proof: bool, status: int) -> None:
    """The cases of torchwood's TestZeroSize."""
    if known:
        assert watcher.add_checkpoint(ask(0, 1)).status == 200
    request = f"old {old}\n".encode() + (f"{'A' * 43}=\n".encode() if with_proof else b"") + b"\n" + LOG.checkpoint(size, root)
    assert watcher.add_checkpoint(request).status == status


# ---------------------------------------------------------------- what it signs


def test_a_log_grows_and_is_cosigned(watcher: Witness) -> None:
    known = 0
    for size in (1, 2, 3, 4, 7, 8, 8, 15, 20):
        answer = watcher.add_checkpoint(ask(known, size))
        assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
        checkpoint, cosignature = parse_cosignature(read_cosignature(answer.body, head(size), watcher.key, where="x"))
        cosignature.verify(watcher.key.key, checkpoint.to_text())
        assert (checkpoint.tree_size, cosignature.time) == (size, "2026-11-23T09:30:00Z")
        known = size
    assert watcher.newest(ORIGIN) == head(20) and watcher.contradictions() == ()


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda: ask(5, 9), 409),
        (lambda: ask(0, 9), 409),
        (lambda: ask(0, 3), 409),
        (lambda: ask(3, 7), 409),
        (lambda: build_witness_request(head(9), 7, ()), 422),
        (lambda: build_witness_request(head(9), 7, proof(7, 9)[::-1]), 422),
        (lambda: build_witness_request(head(9), 7, (*proof(7, 9), bytes(32))), 422),
        (lambda: build_witness_request(head(7), 7, (bytes(32),)), 422),
        (lambda: build_witness_request(head(9, key=Key(2)), 7, proof(7, 9)), 403),
        (lambda: build_witness_request(head(9, origin=ORIGIN[:-1] + "8"), 7, proof(7, 9)), 404),
        (lambda: ask(7, 9).replace(b"old 7", b"old 07"), 400),
        (lambda: ask(7, 9).replace(b"old 7", b"old -7"), 400),
        (lambda: ask(7, 9).replace(b"old 7", b"old 10"), 400),
        (lambda: ask(7, 9).replace(b"old 7", b"Old 7"), 400),
        (lambda: ask(7, 9).replace(b"old 7\n", b""), 400),
        (lambda: ask(7, 9).replace(b"=\n\n", b"\n\n", 1), 400),
        (lambda: ask(7, 9).replace(b"\n", b"\r\n"), 400),
        (lambda: ask(7, 9)[:-1], 400),
        (lambda: ask(7, 9) + b"x" * (1 << 16), 400),
        (lambda: b"", 400),
        (lambda: b"\xff\n\n", 400),
        (lambda: ask(7, 9).replace(b"\n9\n", b"\n9\n9\n"), 400),
    ],
)
def test_what_is_refused_changes_nothing(watcher: Witness, make: Callable[[], bytes], status: int) -> None:
    assert watcher.add_checkpoint(ask(0, 7)).status == 200
    answer = watcher.add_checkpoint(make())
    assert answer.status == status and b"\xe2\x80\x94" not in answer.body
    if status == 409:
        assert answer == Answer(409, "text/x.tlog.size", b"7\n")
    assert watcher.newest(ORIGIN) == head(7)
    assert watcher.add_checkpoint(ask(7, 9)).status == 200


def test_a_second_signature_and_unknown_keys_are_passed_over(watcher: Witness) -> None:
    text = parse_checkpoint(head(3))[0].to_text()
    stranger = Key(9)
    name = WitnessKey.of_log(stranger.public).name
    lines = (
        NoteSignature(name, note_key_hash(name, stranger.public.raw), stranger.sign(text.encode())),
        parse_checkpoint(head(3))[1].signatures[0],
    )
    both = SignedNote(text, lines).to_bytes()
    assert watcher.add_checkpoint(b"old 0\n\n" + both).status == 200
    forged = SignedNote(text, (NoteSignature(LOG_KEY.name, LOG_KEY.key_hash, stranger.sign(text.encode())),)).to_bytes()
    assert watcher.add_checkpoint(b"old 3\n\n" + forged).status == 403


def test_logs_are_kept_apart_and_a_workspace_is_allowed_at_once(tmp_path: Path) -> None:
    made = witness(tmp_path)
    made.allow("geoevidence/W-abcdef0123/*", LOG_KEY)
    made.allow("geoevidence/W-abcdef0123/*", LOG_KEY)
    assert made.allowed() == (("geoevidence/W-abcdef0123/*", LOG_KEY.text),)
    for case in "123":
        origin = f"geoevidence/W-abcdef0123/C-{case * 10}"
        assert made.add_checkpoint(build_witness_request(head(2, origin=origin), 0, ())).status == 200
    for origin in ("geoevidence/W-abcdef0124/C-1", "geoevidence/W-abcdef0123", "other/geoevidence/W-abcdef0123/C-1", "/" * 30000):
        assert made.add_checkpoint(build_witness_request(head(2, origin=origin), 0, ())).status == 404
    for origin, key in (("", LOG_KEY), ("a\nb", LOG_KEY), (ORIGIN, made.key)):
        with pytest.raises(ConfigError):
            made.allow(origin, key)


# ---------------------------------------------------------------- contradictions


def test_a_fork_at_the_same_size_is_refused_and_kept_once(watcher: Witness) -> None:
    assert watcher.add_checkpoint(ask(0, 7)).status == 200
    for old in (7, 7, 0):
        request = build_witness_request(head(7, leaves=FORKED), old, ())
        assert watcher.add_checkpoint(request) == Answer(409, "text/x.tlog.size", b"7\n")
    (folder,) = watcher.contradictions()
    assert (folder / "known.note").read_bytes() == head(7)
    assert (folder / "presented.note").read_bytes() == head(7, leaves=FORKED)
    for name in ("known.note", "presented.note"):
        parse_checkpoint((folder / name).read_bytes())[1].verify(LOG.public)
    assert "-fork-7-" in folder.name


def test_a_fork_at_an_earlier_size_is_seen(watcher: Witness) -> None:
    assert watcher.add_checkpoint(ask(0, 7)).status == 200
    assert watcher.add_checkpoint(ask(7, 9)).status == 200
    assert watcher.add_checkpoint(ask(0, 7, leaves=FORKED)).status == 409
    assert [folder.name.split("-")[1:3] for folder in watcher.contradictions()] == [["fork", "7"]]
    # a checkpoint of the same history, only older, is no contradiction
    assert watcher.add_checkpoint(ask(0, 7)).status == 409
    assert len(watcher.contradictions()) == 1


def test_a_forked_log_that_has_grown_is_refused_and_kept(watcher: Witness) -> None:
    assert watcher.add_checkpoint(ask(0, 7)).status == 200
    assert watcher.add_checkpoint(ask(7, 12, leaves=FORKED)).status == 422
    assert [folder.name.split("-")[1:3] for folder in watcher.contradictions()] == [["unproved", "12"]]
    assert watcher.newest(ORIGIN) == head(7)


def test_contradictions_do_not_fill_the_disk(watcher: Witness) -> None:
    assert watcher.add_checkpoint(ask(0, 1)).status == 200
    for n in range(MAX_KEPT + 5):
        assert watcher.add_checkpoint(build_witness_request(LOG.checkpoint(1, leaf_hash(b"x%d" % n)), 1, ())).status == 409
    assert len(watcher.contradictions()) == MAX_KEPT


def test_what_is_only_unproved_does_not_crowd_out_a_fork(watcher: Witness) -> None:
    """Whoever has checkpoints and no key can send them with a made-up proof; the proof of a fork is kept all the same."""
    assert watcher.add_checkpoint(ask(0, 1)).status == 200
    for n in range(2, MAX_KEPT + 4):
        wrong = build_witness_request(LOG.checkpoint(n, leaf_hash(b"x%d" % n)), 1, (bytes(32),))
        assert watcher.add_checkpoint(wrong).status == 422
    assert watcher.add_checkpoint(build_witness_request(LOG.checkpoint(1, leaf_hash(b"y")), 1, ())).status == 409
    kept = [path.name.split("-")[1] for path in watcher.contradictions()]
    assert (kept.count("unproved"), kept.count("fork")) == (MAX_KEPT, 1)


def test_a_contradiction_of_which_a_crash_left_half_is_kept_whole(watcher: Witness) -> None:
    assert watcher.add_checkpoint(ask(0, 1)).status == 200
    forked = build_witness_request(LOG.checkpoint(1, leaf_hash(b"y")), 1, ())
    watcher.add_checkpoint(forked)
    (watcher.contradictions()[0] / "presented.note").unlink()
    watcher.add_checkpoint(forked)
    assert sorted(path.name for path in watcher.contradictions()[0].iterdir()) == ["known.note", "presented.note"]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.booleans()), max_size=12))
def test_whatever_is_asked_it_signs_one_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]
) -> None:
    made = witness(tmp_path_factory.mktemp("w"))
    made.allow(ORIGIN, LOG_KEY)
    signed: list[LogCheckpoint] = []
    for old, size, forked in steps:
        leaves = FORKED if forked else LEAVES
        request = build_witness_request(head(size, leaves=leaves), old, proof(old, size, leaves) if old <= size else ())
        if made.add_checkpoint(request).status == 200:
            signed.append(parse_checkpoint(head(size, leaves=leaves))[0])
    assert [each.tree_size for each in signed] == sorted(each.tree_size for each in signed)
    # all of them are heads of the same tree: the honest one or, wholly, the other
    assert any(all(tree_root(leaves[: each.tree_size]) == each.root for each in signed) for leaves in (LEAVES, FORKED))


# ---------------------------------------------------------------- state that survives


def test_state_survives_and_a_new_process_remembers(tmp_path: Path) -> None:
    made = witness(tmp_path)
    made.allow(ORIGIN, LOG_KEY)
    assert made.add_checkpoint(ask(0, 7)).status == 200
    again = witness(tmp_path, seed=51, moment=datetime(2027, 1, 1, tzinfo=UTC))
    assert again.key == made.key and again.newest(ORIGIN) == head(7)
    assert again.add_checkpoint(ask(0, 3)).status == 409
    assert again.add_checkpoint(ask(7, 7)).status == 200


def test_nothing_leaves_before_it_is_kept(tmp_path: Path) -> None:
    """The signer dies instead of signing: the state has the checkpoint already, so that only this one can be signed."""
    made = witness(tmp_path)
    made.allow(ORIGIN, LOG_KEY)

    class Dying:
        public_key, label, certificates = made.key.key, "", ()

        def sign(self, message: bytes) -> bytes:
            assert witness(tmp_path).newest(ORIGIN) == head(7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Witness(tmp_path, signer=Dying(), now=fixed(datetime(2026, 11, 23, tzinfo=UTC))).add_checkpoint(ask(0, 7))
    assert witness(tmp_path).add_checkpoint(build_witness_request(head(7, leaves=FORKED), 0, ())).status == 409
    assert witness(tmp_path).add_checkpoint(ask(7, 7)).status == 200


def test_a_state_that_cannot_be_read_signs_nothing(tmp_path: Path) -> None:
    made = witness(tmp_path)
    (tmp_path / "witness.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(CustodyError) as caught:
        made.add_checkpoint(ask(0, 1))
    assert caught.value.message_id == "custody.witness_state"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CustodyError):
        Witness(tmp_path / "file", signer=Dead(), now=fixed(datetime(2026, 11, 23, tzinfo=UTC)))


class Dead:
    """A key that is never used."""

    public_key, label, certificates = LOG.public, "", ()

    def sign(self, message: bytes) -> bytes:
        raise AssertionError


def _race(folder: str, forked: bool, start: object, results: object) -> None:
    made = witness(Path(folder))
    start.wait()  # type: ignore[attr-defined]
    answer = made.add_checkpoint(ask(3, 9, leaves=FORKED if forked else LEAVES))
    results.put((forked, answer.status))  # type: ignore[attr-defined]


def test_two_processes_cannot_sign_two_histories(tmp_path: Path) -> None:
    made = witness(tmp_path)
    made.allow(ORIGIN, LOG_KEY)
    assert made.add_checkpoint(ask(0, 3)).status == 200
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_race, args=(str(tmp_path), n % 2 == 1, start, results)) for n in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    signed = {forked for forked, status in found if status == 200}
    assert len(signed) == 1 and sorted(status for _, status in found) == [200, 409, 409, 409]


# ---------------------------------------------------------------- the side of the log


def test_client_finds_where_the_witness_stands(watcher: Witness) -> None:
    asked: list[bytes] = []

    def transport(url: str, body: bytes | None, content_type: str) -> Answer:
        asked.append((body or b"").splitlines()[0])
        assert url == "https://witness.example/add-checkpoint"
        return watcher.transport()(url, body, content_type)

    for size in (3, 3, 8):
        cosig = client(watcher, transport, url="https://witness.example/").cosign(head(size), lambda old, s=size: proof(old, s))
        checkpoint, found = parse_cosignature(cosig)
        found.verify(watcher.key.key, checkpoint.to_text())
        assert checkpoint.tree_size == size
    assert asked == [b"old 0", b"old 0", b"old 3", b"old 0", b"old 3"]


def test_client_sees_that_the_log_is_behind_or_another(watcher: Witness) -> None:
    client(watcher).cosign(head(8), lambda old: proof(old, 8))
    with pytest.raises(AnswerError) as caught:
        client(watcher).cosign(head(5), lambda old: proof(old, 5))
    assert caught.value.message_id == "custody.witness_ahead" and caught.value.values["known"] == 8
    with pytest.raises(AnswerError) as caught:
        client(watcher).cosign(head(8, leaves=FORKED), lambda old: proof(old, 8, FORKED))
    assert caught.value.message_id == "custody.witness_contradicts"
    with pytest.raises(AnswerError) as caught:
        client(watcher).cosign(head(9, leaves=FORKED), lambda old: proof(old, 9, FORKED))
    assert caught.value.message_id == "custody.witness_refuses" and caught.value.values["status"] == 422


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, "text/plain", b""), "custody.witness_answer"),
        (Answer(200, "text/plain", "\u2014 witness AAAA\n".encode()), "custody.witness_answer"),
        (Answer(200, "text/plain", b"\xff"), "custody.witness_answer"),
        (Answer(409, "text/plain", b"3\n"), "custody.witness_answer"),
        (Answer(409, "text/x.tlog.size", b"-3\n"), "custody.witness_answer"),
        (Answer(409, "text/x.tlog.size", b"3\n3\n"), "custody.witness_answer"),
        (Answer(409, "text/x.tlog.size", b"0\n"), "custody.witness_contradicts"),
        (Answer(409, "text/x.tlog.size", b"9\n"), "custody.witness_ahead"),
        (Answer(404, "text/html", b"<b>\x1b[2J</b>"), "custody.witness_refuses"),
        (Answer(302, "", b""), "custody.witness_refuses"),
    ],
)
def test_client_takes_no_other_answer(watcher: Witness, answer: Answer, expected: str) -> None:
    with pytest.raises(AnswerError) as caught:
        client(watcher, lambda url, body, kind: answer).cosign(head(8), lambda old: proof(old, 8))
    assert caught.value.message_id == expected and "\x1b" not in caught.value.render("zh")
    assert "{" not in caught.value.render("zh")


def test_a_witness_that_moves_for_ever_is_given_up(watcher: Witness) -> None:
    sizes = iter(range(1, 100))
    with pytest.raises(AnswerError):
        client(watcher, lambda url, body, kind: Answer(409, "text/x.tlog.size", b"%d\n" % next(sizes))).cosign(
            head(20), lambda old: proof(old, 20)
        )
    assert next(sizes) < 8


def test_client_takes_no_cosignature_of_another_checkpoint_or_key(watcher: Witness, tmp_path: Path) -> None:
    line = watcher.add_checkpoint(ask(0, 5)).body
    stranger = witness(tmp_path / "other", seed=60)
    with pytest.raises(AnswerError):
        read_cosignature(line, head(6), watcher.key, where="x")
    with pytest.raises(AnswerError):
        read_cosignature(line, head(5), stranger.key, where="x")
    stranger.allow(ORIGIN, LOG_KEY)
    both = stranger.add_checkpoint(ask(0, 5)).body + line
    assert read_cosignature(both, head(5), watcher.key, where="x") == read_cosignature(line, head(5), watcher.key, where="x")


def test_client_asks_for_the_key_and_waits_for_nobody(watcher: Witness) -> None:
    found = WitnessClient.over_http("https://witness.example/a", transport=watcher.transport())
    assert found.key == watcher.key and found.name == "https://witness.example/a"
    with pytest.raises(NoAnswerError):
        client(watcher, unreachable).cosign(head(1), lambda old: ())
    for answer in (
        Answer(404, "", b""),
        Answer(200, "", b"\xff"),
        Answer(200, "", b"key"),
        Answer(200, "", LOG_KEY.text.encode()),
    ):
        with pytest.raises((AnswerError, ConfigError)):
            WitnessClient.over_http("https://witness.example", transport=lambda url, body, kind, a=answer: a)


# ---------------------------------------------------------------- verifier keys


def test_verifier_keys() -> None:
    # of github.com/transparency-dev/formats, note_cosigv1_test.go: a witness that runs, and a key of the Go package
    for text, kind in (
        ("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", 4),
        ("sigsum.org+e4ade967+AZuUY6B08pW3QVHu8uvsrxWPcAv9nykap2Nb4oxCee+r", 1),
    ):
        found = WitnessKey.parse(f" {text}\n")
        assert (found.kind, found.text) == (kind, text)
    assert WitnessKey.parse(LOG_KEY.text) == LOG_KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "remora.n621.de",
        "remora.n621.de+da77ade7",
        "remora.n621.de+da77ade8+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "remora.n621.dx+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "remora.n621.de+DA77ADE7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "remora.n621.de+da77ade7+BuvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw=",
        "a b+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    ],
)
def test_what_is_no_verifier_key(text: str) -> None:
    with pytest.raises(ConfigError):
        WitnessKey.parse(text)


def test_keys_come_in_files_too(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"{LOG_KEY.text}\n\n{WitnessKey.of_log(Key(2).public).text}\n")
    assert [key.key for key in read_log_keys(str(tmp_path / "keys.txt"))] == [LOG.public, Key(2).public]
    assert read_log_keys(LOG_KEY.text) == (LOG_KEY,)
    rows = keys_bytes([NamedKey(LOG.public, "", ())])
    (tmp_path / "keys.json").write_bytes(rows)
    assert read_log_keys(str(tmp_path / "keys.json")) == (LOG_KEY,)
    wrong = rows.replace(LOG.public.key_id.encode(), b"0" * 64)
    for content in (b"[]", b"[1]", b"[{}]", b"", b"nonsense", b"\xff", wrong):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ConfigError):
            read_log_keys(str(tmp_path / "bad"))
    with pytest.raises(ConfigError):
        read_log_keys(str(tmp_path / "nothing"))


def test_a_witness_needs_an_ed25519_key(tmp_path: Path) -> None:
    class Other:
        public_key = PublicKey(
            "ecdsa-p256-sha256",
            bytes.fromhex(
                "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
                "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
            ),
        )
        label, certificates = "", ()

        def sign(self, message: bytes) -> bytes:
            raise AssertionError

    with pytest.raises(ConfigError):
        Witness(tmp_path, signer=Other(), now=fixed(datetime(2026, 11, 23, tzinfo=UTC)))


@given(st.binary(max_size=200))
def test_hostile_requests_raise_only_our_error(data: bytes) -> None:
    for body in (data, b"old 0\n\n" + data):
        try:
            assert parse_witness_request(body).to_bytes() == body
        except FormatError:
            continue


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def served(watcher: Witness) -> Iterator[str]:
    with WitnessServer(watcher, ("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_over_http_from_end_to_end(served: str, watcher: Witness) -> None:
    found = WitnessClient.over_http(f"{served}/some/prefix/")
    assert found.key == watcher.key
    for size in (2, 9, 20):
        checkpoint, cosignature = parse_cosignature(found.cosign(head(size), lambda old, s=size: proof(old, s)))
        cosignature.verify(watcher.key.key, checkpoint.to_text())
    with pytest.raises(AnswerError):
        found.cosign(head(3), lambda old: proof(old, 3))


def raw(url: str, data: bytes, *, wait: float = 5.0) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(data)
        parts = b""
        while block := connection.recv(65536):
            parts += block
    return parts


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde", 411),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n", 411),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", 413),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nold 0", 400),
        (b"POST /../../etc/passwd HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /witness.sqlite HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /add-checkpoint HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"DELETE /add-checkpoint HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ],
)
def test_http_refuses(served: str, data: bytes, status: int) -> None:
    assert f" {status} ".encode() in raw(served, data).splitlines()[0]


def test_a_request_that_stops_or_drips_does_not_hold_the_server(
    served: str, watcher: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.witness_server, "TOTAL_SECONDS", 0.5)
    host, _, port = served.removeprefix("http://").partition(":")
    held = []
    for _ in range(3):
        connection = socket.create_connection((host, int(port)), timeout=5)
        connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nold")
        held.append(connection)
    assert WitnessClient.over_http(served).key == watcher.key  # others are served meanwhile
    start = time.monotonic()
    for connection in held:
        assert connection.recv(100) == b""
        connection.close()
    assert time.monotonic() - start < 3


def test_more_connections_than_threads_are_closed_at_once(watcher: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.witness_server, "MAX_THREADS", 2)
    with WitnessServer(watcher, ("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        held = [socket.create_connection(("127.0.0.1", int(server.server_address[1])), timeout=5) for _ in range(2)]
        time.sleep(0.3)
        with pytest.raises(NoAnswerError):
            http_transport(timeout=2)(f"{url}/key", None, "")
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 5
        while True:  # the threads see the hang-up a moment later
            try:
                assert http_transport(timeout=2)(f"{url}/key", None, "").status == 200
                break
            except NoAnswerError:
                assert time.monotonic() < deadline
        server.shutdown()
        thread.join()


def test_a_state_that_fails_is_a_server_error(served: str, watcher: Witness) -> None:
    (watcher.folder / "witness.sqlite").write_bytes(b"no database" * 100)
    answer = http_transport()(f"{served}/add-checkpoint", ask(0, 1), "text/plain")
    assert (answer.status, answer.body) == (500, b"")


def test_http_client_library_keeps_to_one_request_a_connection(served: str) -> None:
    host, _, port = served.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", "/key")
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("Connection") == "close"
    connection.close()


def test_a_contradiction_that_cannot_be_kept_is_said(watcher: Witness) -> None:
    assert watcher.add_checkpoint(ask(0, 7)).status == 200
    (watcher.folder / "forks").write_bytes(b"in the way")
    with pytest.raises(CustodyError) as caught:
        watcher.add_checkpoint(build_witness_request(head(7, leaves=FORKED), 7, ()))
    assert caught.value.message_id.startswith("custody.disk_")
    assert watcher.newest(ORIGIN) == head(7)


def test_an_answer_that_carries_another_text_is_not_taken(watcher: Witness) -> None:
    """The lines of the answer go after the checkpoint: with a text of their own they would be another note."""
    answer = watcher.add_checkpoint(ask(0, 3)).body
    assert parse_cosignature(read_cosignature(answer, head(3), watcher.key, where="x"))[1].name == watcher.key.name
    with pytest.raises(AnswerError):
        read_cosignature(b"another line\n\n" + answer, head(3), watcher.key, where="x")
