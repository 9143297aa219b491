"""The log: one signed history that cannot be shortened, changed or forked without being refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from geoevidence.catalogue import open_log_store
from geoevidence.custody import Case, Workspace
from geoevidence.custody import case as case_module
from geoevidence.custody import log as log_module
from geoevidence.custody.signers import SoftwareSigner
from geoevidence.errors import CustodyError, LogInconsistentError
from geoevidence.trust.events import parse_leaf
from geoevidence.trust.merkle import leaf_hash, tree_root
from geoevidence.trust.notes import parse_checkpoint
from tests.custody.workspaces import CARD, Clock, Place, derive, full_case, session

DATABASE = "catalogue.sqlite"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def copy_database(place: Place, name: str) -> None:
    with sqlite3.connect(place.workspace.path / DATABASE) as source, sqlite3.connect(place.root / name) as target:
        source.backup(target)
    source.close()
    target.close()


def restore_database(place: Place, name: str) -> None:
    place.log_store.close()
    for suffix in ("-wal", "-shm"):
        (place.workspace.path / (DATABASE + suffix)).unlink(missing_ok=True)
    shutil.copyfile(place.root / name, place.workspace.path / DATABASE)


def edit_database(place: Place, statement: str) -> None:
    with sqlite3.connect(place.workspace.path / DATABASE) as connection:
        connection.execute(statement)
    connection.close()


def check_log(case: Case) -> None:
    """Every rule of docs/formats/event.md that neighbours in a log must keep, checked with the kernel."""
    events = case.events()
    leaves = [parse_leaf(event.leaf) for event in events]
    hashes = [leaf_hash(event.leaf) for event in events]
    keys = {key.public_key.key_id: key.public_key for key in case.public_keys()}
    last: dict[str, tuple[int, str]] = {}
    known: dict[str, object] = {}
    for index, (event, leaf) in enumerate(zip(events, leaves, strict=True)):
        leaf.envelope.verify(keys)
        assert event.index == index and event.leaf_hash == hashes[index].hex()
        seq, previous = last.get(event.key_id, (0, None))
        assert event.seq == seq + 1
        assert event.prev_event == (None if previous is None else f"sha256:{previous}")
        last[event.key_id] = (event.seq, event.leaf_hash)
        if event.anchor is not None:
            assert tree_root(hashes[: event.anchor[0]]).hex() == event.anchor[1] and event.anchor[0] <= index
        assert all(known[ref.item] == ref for ref in event.inputs)
        known.update({ref.item: ref for ref in event.outputs})
        assert event.actor_id is not None and event.device_serial == "SN-0001"
    raw = case.checkpoint_bytes()
    checkpoint, note = parse_checkpoint(raw)
    note.verify(next(key for key in keys.values() if f"geoevidence-{key.chain}" == note.signatures[0].name))
    assert (checkpoint.tree_size, checkpoint.root, checkpoint.origin) == (len(hashes), tree_root(hashes), case.origin)
    outside = case._workspace.path / "checkpoints" / f"{case.id}.note"
    assert outside.read_bytes() == raw == case.session.signer.memory.known(case.origin)


def test_a_whole_case_is_one_history(place: Place) -> None:
    case = full_case(place)
    assert [event.type for event in case.events()] == ["commissioned", "copied", "derived", "found", "corrected", "reported"]
    check_log(case)
    assert case.log_status().rollback == "passed"
    assert case.events()[0].anchor is None and case.events()[3].anchor == case.events()[2].anchor


def test_names_and_serials_are_not_in_the_leaves(place: Place) -> None:
    for event in full_case(place).events():
        assert "张三".encode() not in event.leaf and b"SN-0001" not in event.leaf
        payload = parse_leaf(event.leaf).envelope.payload
        assert "张三".encode() not in payload and b"SN-0001" not in payload


def test_a_log_that_went_back_is_refused(place: Place) -> None:
    case = place.workspace.new_case("1")
    copy_database(place, "old")
    case.ingest(place.card(CARD))
    restore_database(place, "old")
    case = place.reopened().case("1")
    assert case.log_status().rollback == "failed" and "2" in case.log_status().message.render("zh")
    with pytest.raises(LogInconsistentError) as raised:
        case.set_sheet({"cause": "x"})
    assert raised.value.message_id == "custody.log_behind"
    assert (raised.value.values["known"], raised.value.values["found"]) == (2, 1)
    assert len(case.events()) == 1

    # the workspace's own note alone is enough; the memory of the key folder alone as well
    shutil.rmtree(place.root / "keys" / "checkpoints")
    with pytest.raises(LogInconsistentError):
        case.set_sheet({"cause": "x"})


def test_a_log_that_went_back_is_known_by_the_key_folder_alone(place: Place) -> None:
    case = place.workspace.new_case("1")
    copy_database(place, "old")
    shutil.copytree(place.workspace.path / "checkpoints", place.root / "old-checkpoints")
    case.ingest(place.card(CARD))
    restore_database(place, "old")
    shutil.rmtree(place.workspace.path / "checkpoints")
    shutil.copytree(place.root / "old-checkpoints", place.workspace.path / "checkpoints")
    with pytest.raises(LogInconsistentError) as raised:
        place.reopened().case("1").set_sheet({"cause": "x"})
    assert "key folder" in raised.value.values["place"]


def test_another_history_is_refused(place: Place) -> None:
    case = place.workspace.new_case("1")
    copy_database(place, "old")
    case.set_sheet({"cause": "one"})
    restore_database(place, "old")
    (place.workspace.path / "checkpoints" / f"{case.id}.note").unlink()
    shutil.move(place.root / "keys" / "checkpoints", place.root / "memory")
    case = place.reopened().case("1")
    case.set_sheet({"cause": "two"})
    shutil.rmtree(place.root / "keys" / "checkpoints")
    shutil.move(place.root / "memory", place.root / "keys" / "checkpoints")
    with pytest.raises(LogInconsistentError) as raised:
        case.set_sheet({"cause": "three"})
    assert raised.value.message_id == "custody.log_differs"


@pytest.mark.parametrize(
    ("statement", "message_id"),
    [
        ("update leaf set data = (select data from leaf where position = 2) where position = 1", "custody.log_differs"),
        ("update leaf set data = 'text'", "custody.leaf_unreadable"),
        ("delete from leaf where position = 2", "custody.log_behind"),
        ("delete from checkpoint", "custody.log_unsigned"),
        ("delete from checkpoint where tree_size = 3", "custody.log_unsigned"),
        ("update checkpoint set note = X'2020'", "custody.checkpoint_unreadable"),
        ("update case_key set public_key = zeroblob(32)", "custody.catalogue_key"),
        ("update case_key set algorithm = 'rot13'", "custody.catalogue_key"),
    ],
)
def test_an_edited_catalogue_is_refused(place: Place, statement: str, message_id: str) -> None:
    case = place.workspace.new_case("1")
    case.ingest(place.card(CARD))
    case.set_sheet({"cause": "one"})
    edit_database(place, statement)
    with pytest.raises(LogInconsistentError) as raised:
        case.set_sheet({"cause": "two"})
    assert raised.value.message_id == message_id
    assert case.log_status().rollback == "failed"


def test_a_hole_in_the_log_is_refused(place: Place) -> None:
    case = place.workspace.new_case("1")
    case.ingest(place.card(CARD))
    edit_database(place, "delete from leaf where position = 0")
    with pytest.raises(CustodyError) as raised:
        case.set_sheet({"cause": "two"})
    assert raised.value.message_id == "custody.leaf_missing"


def test_a_leaf_that_cannot_be_read_is_named(place: Place) -> None:
    case = place.workspace.new_case("1")
    edit_database(place, "update leaf set data = X'7b7d'")
    broken = place.reopened().case("1")
    with pytest.raises(LogInconsistentError) as raised:
        broken.events()
    assert (raised.value.message_id, raised.value.values["index"]) == ("custody.leaf_unreadable", 0)
    assert case.events()[0].type == "commissioned"


@pytest.mark.parametrize("content", [b"garbage", b"geoevidence/W-0/C-0\n1\nAAAA\n\n"])
def test_a_damaged_note_outside_is_refused(place: Place, content: bytes) -> None:
    case = place.workspace.new_case("1")
    (place.workspace.path / "checkpoints" / f"{case.id}.note").write_bytes(content)
    with pytest.raises(LogInconsistentError) as raised:
        case.set_sheet({"cause": "x"})
    assert raised.value.message_id == "custody.checkpoint_unreadable"


def test_the_note_of_another_log_is_refused(place: Place) -> None:
    first, second = place.workspace.new_case("1"), place.workspace.new_case("2")
    notes = place.workspace.path / "checkpoints"
    shutil.copyfile(notes / f"{second.id}.note", notes / f"{first.id}.note")
    with pytest.raises(LogInconsistentError) as raised:
        first.set_sheet({"cause": "x"})
    assert raised.value.message_id == "custody.checkpoint_other_log"


def test_a_device_that_never_saw_the_log_says_so_and_then_knows_it(place: Place) -> None:
    place.workspace.new_case("1").ingest(place.card(CARD))
    other = session(place.root / "other-keys", seed=2, name="李四")
    case = place.reopened(as_session=other).case("1")
    assert case.log_status().rollback == "not_checked"
    event = case.set_sheet({"cause": "x"})
    assert event is not None and event.seq == 1 and event.prev_event is None and event.index == 2
    assert case.log_status().rollback == "passed"
    check_log(case)
    assert len(case.public_keys()) == 2


class _FailingMemory:
    """A key folder on a stick that was pulled out."""

    def known(self, origin: str) -> bytes | None:
        return None

    def keep(self, origin: str, checkpoint: bytes) -> None:
        raise CustodyError("custody.checkpoint_not_kept", path="stick", reason="gone")


def test_a_checkpoint_that_could_not_be_copied_out_is_copied_at_the_next_opening(place: Place) -> None:
    case = place.workspace.new_case("1")
    good = place.session
    failing = session(place.root / "keys", seed=1)
    signer = failing.signer
    assert isinstance(signer, SoftwareSigner)
    signer.memory = _FailingMemory()
    with pytest.raises(CustodyError) as raised:
        place.reopened(as_session=failing).case("1").set_sheet({"cause": "x"})
    assert raised.value.message_id == "custody.checkpoint_not_kept"
    remembered = good.signer.memory.known(case.origin)
    assert remembered is not None and parse_checkpoint(remembered)[0].tree_size == 1
    case = place.reopened().case("1")
    assert len(case.events()) == 2
    check_log(case)


def test_a_lost_note_of_the_workspace_is_written_again(place: Place) -> None:
    case = place.workspace.new_case("1")
    (place.workspace.path / "checkpoints" / f"{case.id}.note").unlink()
    check_log(place.reopened().case("1"))


def test_an_event_of_an_unknown_type_is_a_fault_of_the_programmer(place: Place) -> None:
    case = place.workspace.new_case("1")
    with pytest.raises(ValueError, match="invented"), case._log.writing() as appender:
        appender.append("invented")
    assert len(case.events()) == 1


def test_two_sessions_see_each_other(place: Place) -> None:
    case = place.workspace.new_case("1")
    twin = place.reopened().case("1")
    case.set_sheet({"cause": "one"})
    twin.set_sheet({"cause": "two"})
    case.set_sheet({"cause": "three"})
    check_log(case)
    check_log(twin)
    assert [event.type for event in twin.events()] == ["commissioned", "corrected", "corrected", "corrected"]
    assert twin.sheet["cause"] == "three"


_INGEST = """
import os, sys
from pathlib import Path
from geoevidence.catalogue import open_log_store
from geoevidence.custody import Workspace
from tests.custody.workspaces import session
root, children = Path(sys.argv[1]), []
for number, card in enumerate(sys.argv[2:]):
    child = os.fork()
    if child == 0:
        path = root / "workspace"
        who = session(root / "keys", seed=10 + number)
        workspace = Workspace.open(path, session=who, log_store=open_log_store(path))
        done = workspace.case("1").ingest(root / card)
        (root / f"done-{number}").write_text(f"{len(done.items)} {len(done.already_present)}")
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.skipif(os.name == "nt", reason="fork is POSIX")
def test_two_processes_at_once_lose_nothing_and_take_nothing_twice(place: Place, repository: Path) -> None:
    case = place.workspace.new_case("1")
    shared = {f"both/{n:02d}.bin": bytes([n]) * 40_000 for n in range(12)}
    place.card({**shared, "only-a.bin": b"a"}, name="a")
    place.card({**shared, "only-b.bin": b"b"}, name="b")
    place.log_store.close()
    command = [sys.executable, "-c", _INGEST, str(place.root), "a", "b", "a"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=120)
    assert done.returncode == 0, done.stderr
    counts = [tuple(map(int, (place.root / f"done-{number}").read_text().split())) for number in range(3)]
    assert sum(new for new, _ in counts) == 14 and all(new + old == 13 for new, old in counts)
    case = place.reopened().case("1")
    names = [item.path.split("/", 2)[2] for item in case.items(role="original")]
    assert sorted(names) == sorted({*shared, "only-a.bin", "only-b.bin"})
    check_log(case)


class Life(RuleBasedStateMachine):
    """Any order of acts keeps the rules of the log; what was accepted stays."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.place = Place(Path(self.folder.name))
        self.case = self.place.workspace.new_case("1")
        self.files: dict[str, bytes] = {}
        self.count = 1

    @rule(name=st.sampled_from(["a.bin", "b.bin", "c/d.bin"]), data=st.binary(max_size=3))
    def ingest(self, name: str, data: bytes) -> None:
        shutil.rmtree(self.place.root / "card", ignore_errors=True)
        known = self.files.get(name)
        done = self.case.ingest(self.place.card({name: data}))
        seen = any(
            item.path.endswith(f"/{name}") and self.case.path_of(item).read_bytes() == data
            for item in self.case.items(role="original")
        )
        assert seen and len(done.items) + len(done.already_present) == 1
        if known == data:
            assert done.event is None
        self.files[name] = data
        self.count += done.event is not None

    @rule(cause=st.text(st.characters(categories=["L", "N"]), max_size=5))
    def set_sheet(self, cause: str) -> None:
        before = dict(self.case.sheet)
        event = self.case.set_sheet({"cause": cause})
        assert (event is None) == (before == dict(self.case.sheet))
        self.count += event is not None

    @rule()
    def derive(self) -> None:
        if self.files:
            derive(self.case)
            self.count += 2

    @rule(seed=st.integers(2, 4))
    def reopen(self, seed: int) -> None:
        who = session(self.place.root / f"keys-{seed}", seed=seed, clock=Clock())
        self.case = self.place.reopened(as_session=who).case("1")

    @invariant()
    def one_history(self) -> None:
        if hasattr(self, "case"):
            events = self.case.events()
            assert len(events) == self.count
            hashes = [leaf_hash(event.leaf) for event in events]
            assert self.case.log_checkpoint().root == tree_root(hashes)
            assert self.case.log_status().rollback != "failed"

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            models = open_log_store(self.place.workspace.path)
            before = models.read_models()
            models.rebuild()
            assert models.read_models() == before
            models.close()
            self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=6, stateful_step_count=7, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_opening_is_refused_where_there_is_no_workspace(tmp_path: Path) -> None:
    who = session(tmp_path / "keys")
    with pytest.raises(CustodyError) as raised:
        Workspace.open(tmp_path / "nothing", session=who, log_store=open_log_store(tmp_path / "nothing"))
    assert raised.value.message_id == "custody.not_a_workspace"


# ---------------------------------------------------------------- what the catalogue makes of a log


@pytest.mark.parametrize(
    "statement",
    ["UPDATE case_view SET demonstration = 0", "UPDATE case_view SET number = '2'"],
)
def test_number_and_demonstration_mark_of_the_catalogue_are_those_of_the_log(place: Place, statement: str) -> None:
    """Else one edited cell would take the mark from every page and from the sealed statement."""
    full_case(place)
    edit_database(place, statement)
    workspace = place.reopened()
    with pytest.raises(LogInconsistentError) as caught:
        workspace.case(workspace.cases()[0].id)
    assert caught.value.message_id == "custody.views_differ"
    assert [defect.kind for defect in workspace.scrub().defects] == ["log"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE item_view SET sha256 = '{sha256}', sm3 = '{sm3}', size = {size} WHERE path LIKE '%DJI_0001.JPG'",
        "UPDATE item_view SET path = 'originals/E-1/other.jpg' WHERE path LIKE '%DJI_0001.JPG'",
        "DELETE FROM item_view WHERE path LIKE '%DJI_0001.JPG'",
    ],
)
def test_the_items_of_the_catalogue_are_those_of_the_log(place: Place, statement: str) -> None:
    """Else another photo would be shown under the name, and an event with a false input would break the log for good."""
    other = place.workspace.new_case("2")
    other.ingest(place.card({"b.jpg": b"\xff\xd8\xff\xe0two\xff\xd9"}, name="second"))
    planted = other.items(role="original")[0]
    case = full_case(place)
    edit_database(place, statement.format(sha256=planted.sha256, sm3=planted.sm3, size=planted.size))
    workspace = place.reopened()
    found = workspace.case(case.id)
    for act in (found.items, lambda: derive(found), lambda: found.ingest(place.root / "card")):
        with pytest.raises(LogInconsistentError) as caught:
            act()
        assert caught.value.message_id == "custody.views_differ"
    report = workspace.scrub()
    assert (report.status, [defect.kind for defect in report.defects]) == ("damaged", ["log"])


def test_an_item_planted_while_a_card_is_read_does_not_hide_a_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked up inside the transaction is compared as well: the photo would be "there already" and never recorded."""
    case = place.workspace.new_case("1")
    taken = case_module.take_files

    def take_and_plant(*args: Any, **options: Any) -> Any:
        found = taken(*args, **options)
        name, stored = found.new[0]
        edit_database(
            place,
            "INSERT INTO item_view VALUES "
            f"('{case.id}', 0, 2, 'E-x-1-1', 'originals/E-x-1/{name}', '{stored.sha256}', '{stored.sm3}', {stored.size}, "
            "'original', 'image/jpeg', NULL, NULL)",
        )
        return found

    monkeypatch.setattr(case_module, "take_files", take_and_plant)
    with pytest.raises(LogInconsistentError) as caught:
        case.ingest(place.card(CARD))
    assert caught.value.message_id == "custody.views_differ"


def test_an_earlier_checkpoint_is_compared_before_it_is_given_out(place: Place) -> None:
    case = full_case(place)
    assert parse_checkpoint(case.checkpoint_bytes(at_least=2))[0].tree_size == 2
    other = place.workspace.new_case("2")
    raw = other.checkpoint_bytes().hex()
    edit_database(place, f"UPDATE checkpoint SET note = X'{raw}' WHERE tree_size = 2")
    with pytest.raises(LogInconsistentError) as caught:
        case.checkpoint_bytes(at_least=2)
    assert caught.value.message_id == "custody.checkpoint_other_log"


def test_a_note_that_cannot_be_written_says_that_the_event_is_recorded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told to do it again would record it twice."""
    case = place.workspace.new_case("1")

    def refuse(*args: object, **options: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(log_module, "write_durably", refuse)
    with pytest.raises(CustodyError) as caught:
        case.set_sheet({"cause": "x"})
    assert caught.value.message_id == "custody.checkpoint_not_kept"
    assert [event.type for event in case.events()] == ["commissioned", "corrected"]


def test_a_note_outside_that_cannot_be_read_is_said_and_not_overwritten(place: Place) -> None:
    case = place.workspace.new_case("1")
    note = place.workspace.path / "checkpoints" / f"{case.id}.note"
    note.unlink()
    note.mkdir()
    log = case._log
    log.heal()
    status = log.status()
    assert (status.rollback, status.message.id) == ("failed", "custody.log_not_read") and note.is_dir()
    with pytest.raises(CustodyError) as caught:
        case.set_sheet({"cause": "x"})
    assert caught.value.message_id == "custody.checkpoint_unreadable" and len(case.events()) == 1


def test_a_log_that_moved_since_it_was_looked_at_takes_nothing(place: Place) -> None:
    case = place.workspace.new_case("1")
    event, _ = case.rehearse_sealing(b"statement", expected_size=1)
    assert (event.type, event.index, len(case.events())) == ("packaged", 1, 1)
    case.set_sheet({"cause": "meanwhile"})
    for act in (
        lambda: case.rehearse_sealing(b"statement", expected_size=1),
        lambda: case.record_sealing(b"statement", event, expected_size=1),
        lambda: case.record_sealing(b"statement", event, expected_size=2),
    ):
        with pytest.raises(CustodyError) as caught:
            act()
        assert caught.value.message_id == "custody.log_moved"
    assert [each.type for each in case.events()] == ["commissioned", "corrected"]
    event, checkpoint = case.rehearse_sealing(b"statement", expected_size=2)
    case.record_sealing(b"statement", event, expected_size=2)
    # what was rehearsed is what is recorded, to the byte
    assert case.events()[-1].leaf == event.leaf and parse_checkpoint(checkpoint)[0] == case.log_checkpoint()
    assert case.record_export(b"redaction").type == "exported"
    check_log(case)
