"""Field devices: what a device hands over is checked wholly, absorbed once, and never taken back."""

from __future__ import annotations

import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geoevidence.custody import Case, KeyFolder, keyfiles
from geoevidence.custody import log as log_module
from geoevidence.custody import sync as sync_module
from geoevidence.custody.log import read_event
from geoevidence.custody.sync import RECORDS, TOOL
from geoevidence.errors import (
    CustodyError,
    DigestMismatchError,
    FormatError,
    GeoEvidenceError,
    InputError,
    LogInconsistentError,
    VerificationError,
)
from geoevidence.trust.archive import archive_bytes
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.trust.container import Defect
from geoevidence.trust.digests import digest_bytes
from geoevidence.trust.events import PAYLOAD_TYPE, parse_leaf
from geoevidence.trust.manifest import KeyChange, NamedKey, keys_bytes, parse_keys
from geoevidence.trust.merkle import leaf_hash, tree_root
from geoevidence.trust.notes import LogCheckpoint, NoteSignature, SignedNote, note_key_hash, note_key_name, parse_checkpoint
from geoevidence.trust.signatures import Envelope, EnvelopeSignature, pae
from tests.custody.sm2 import Sm2Holder
from tests.custody.test_keys import check_signatures
from tests.custody.test_log import check_log
from tests.custody.workspaces import CARD, Place, derive, session

NUMBER = "外业 1"


@pytest.fixture
def device(tmp_path: Path) -> Place:
    (tmp_path / "device").mkdir()
    return Place(tmp_path / "device", seed=1)


@pytest.fixture
def server(tmp_path: Path) -> Place:
    (tmp_path / "server").mkdir()
    return Place(tmp_path / "server", seed=2)


def field_case(device: Place) -> Case:
    """A case on a device with two cards and a result that is not handed over."""
    case = device.workspace.new_case(NUMBER, fields={"cause": "演示"})
    case.ingest(device.card(CARD), label="SD-1")
    derive(case)
    case.ingest(device.card({"large.bin": random.Random(4).randbytes(3 << 20)}, name="second"), label="SD-2")
    return case


def handed_over(device: Place, name: str = "handover.zip") -> Path:
    return device.workspace.case(NUMBER).hand_over(device.root / name).path


def contents(path: Path) -> dict[str, bytes]:
    """{name without the top folder: bytes}, read by another implementation."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def listed(files: dict[str, bytes], **head: object) -> bytes:
    """`handover.json` for these files."""
    old = json.loads(files["handover.json"])
    rows = []
    for path in sorted(files, key=lambda each: (each.casefold(), each)):
        if path != "handover.json":
            found = digest_bytes(files[path])
            rows.append({"path": path, "sha256": found.sha256, "size": found.size, "sm3": found.sm3})
    return dumps({**old, "files": rows, **head})


def rewritten(path: Path, files: dict[str, bytes], target: Path, *, relist: bool = True) -> Path:
    """An archive of other files, correct as an archive, and as a list where `relist`."""
    if relist:
        files = {**files, "handover.json": listed(files)}
    target.write_bytes(archive_bytes((f"handover/{name}", data) for name, data in files.items()))
    return target


# ---------------------------------------------------------------- taking in


def test_a_device_log_is_absorbed_whole(device: Place, server: Place) -> None:
    mine = field_case(device)
    path = handed_over(device)
    case = server.workspace.new_case("检 1")
    taken = case.absorb(path)
    (event,) = taken.events
    assert (taken.origin, taken.tree_size, taken.files) == (mine.origin, len(mine.events()), 4)
    assert event.type == "received" and event.process is not None and event.process.tool == TOOL
    assert dict(event.process.parameters) == {
        "origin": mine.origin,
        "tree_size": len(mine.events()),
        "root": mine.log_checkpoint().root.hex(),
        "workspace": mine.workspace_id,
        "files": 4,
    }
    assert [ref.path for ref in event.outputs[:4]] == [f"records/{event.event_id}/{name}" for name in RECORDS]
    records = [case.read_object(ref.sha256) for ref in event.outputs[:4]]
    assert records[0] == b"".join(each.leaf + b"\n" for each in mine.events())
    assert records[2] == mine.checkpoint_bytes()
    assert {each.key for each in parse_keys(records[3])} == {each.public_key for each in mine.public_keys()}
    # every original under the name it has on the device, byte for byte
    theirs = {item.path.partition("/")[2]: item for item in mine.items(role="original")}
    ours = {item.path.split("/", 2)[2]: item for item in case.items(role="original")}
    assert set(ours) == set(theirs)
    for name, item in ours.items():
        assert (item.sha256, item.sm3, item.size) == (theirs[name].sha256, theirs[name].sm3, theirs[name].size)
        assert case.path_of(item).read_bytes() == mine.path_of(theirs[name]).read_bytes()
    check_log(case)
    check_signatures(case)
    # opening again makes no receipt of it: those are on the device
    assert server.reopened().case("检 1").items() == case.items()
    assert not (server.workspace.path / "receipts" / case.id).exists()


def test_the_archive_has_one_form(device: Place, tmp_path: Path) -> None:
    field_case(device)
    first, second = handed_over(device), handed_over(device, "again.zip")
    assert first.read_bytes() == second.read_bytes()
    files = contents(first)
    assert archive_bytes((f"{zipfile.ZipFile(first).namelist()[0].partition('/')[0]}/{n}", d) for n, d in files.items()) == (
        first.read_bytes()
    )
    assert files["handover.json"] == listed(files)
    with pytest.raises(CustodyError) as raised:
        handed_over(device)
    assert raised.value.message_id == "custody.target_exists"
    assert sorted(path.name for path in device.root.glob("*.zip")) == ["again.zip", "handover.zip"]
    assert not list(device.root.glob(".*.part"))


def test_only_what_is_new_is_taken_in_the_second_time(device: Place, server: Place) -> None:
    field_case(device)
    case = server.workspace.new_case("检 1")
    first = case.absorb(handed_over(device))
    again = case.absorb(device.root / "handover.zip")
    assert again.events == () and again.files == 0 and len(case.events()) == 2
    device.workspace.case(NUMBER).ingest(device.card({"more.txt": b"more"}, name="third"))
    second = case.absorb(handed_over(device, "second.zip"))
    (event,) = second.events
    assert second.files == 1 and second.tree_size == first.tree_size + 1
    assert [ref.path.split("/", 2)[2] for ref in event.outputs[4:]] == [
        f"{device.workspace.case(NUMBER).events()[-1].event_id}/more.txt"
    ]
    # a log that grew without a new original is absorbed as well
    device.workspace.case(NUMBER).set_sheet({"cause": "改"})
    third = case.absorb(handed_over(device, "third.zip"))
    assert third.files == 0 and len(third.events) == 1 and len(third.events[0].outputs) == 4
    check_log(case)


def test_two_devices_stand_side_by_side(device: Place, server: Place, tmp_path: Path) -> None:
    field_case(device)
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other", seed=3)
    field_case(other)
    case = server.workspace.new_case("检 1")
    case.absorb(handed_over(device))
    assert case.absorb(handed_over(other)).files == 4
    assert len(case.items(role="original")) == 8
    with pytest.raises(CustodyError) as raised:
        case.hand_over(tmp_path / "nested.zip")
    assert raised.value.message_id == "custody.handover_nested" and not (tmp_path / "nested.zip").exists()


def test_a_device_with_sm2_and_a_rotated_key(device: Place, server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "ITERATIONS", 1000)
    field_case(device)
    folder = KeyFolder(device.root / "sm2-keys")
    folder.signer(passphrase="x")
    folder.import_sm2(*Sm2Holder().files(device.root / "from-ca"), key_passphrase="import", passphrase="x")
    certified = folder.signer(passphrase="x")
    device.workspace.case(NUMBER).rotate_key(certified)
    device.workspace = device.reopened(as_session=replace(device.session, signer=certified))
    device.workspace.case(NUMBER).ingest(device.card({"sm2.txt": b"sm2"}, name="third"))
    case = server.workspace.new_case("检 1")
    taken = case.absorb(handed_over(device))
    assert taken.files == 5 and {each.key.algorithm for each in taken.keys} == {"ed25519", "sm2-sm3"}
    assert any(each.certificates for each in taken.keys)
    check_log(case)


def test_more_originals_than_one_event_holds(device: Place, server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = field_case(device)
    path = handed_over(device)
    monkeypatch.setattr(sync_module, "MAX_OUTPUTS", 7)
    case = server.workspace.new_case("检 1")
    taken = case.absorb(path)
    assert [len(event.outputs) for event in taken.events] == [7, 5] and taken.files == 4
    assert len({event.outputs[0].sha256 for event in taken.events}) == 1
    assert {item.path.split("/", 2)[2] for item in case.items(role="original")} == {
        item.path.partition("/")[2] for item in mine.items(role="original")
    }
    assert case.absorb(path).events == ()
    check_log(case)


def test_an_interrupted_import_is_taken_up_again(device: Place, server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    field_case(device)
    path = handed_over(device)
    case = server.workspace.new_case("检 1")
    store = type(server.workspace._objects)
    add = store.add_blocks
    calls: list[int] = []

    def stop(self: Any, blocks: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(5, "power cut")
        return add(self, blocks)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(store, "add_blocks", stop)
        case.absorb(path)
    assert len(case.events()) == 1
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(store, "add_blocks", lambda self, blocks: calls.append(1) or add(self, blocks))
        assert case.absorb(path).files == 4
    assert len(calls) == 2  # two were there already
    check_log(case)


# ---------------------------------------------------------------- devices that went back or forked


def test_a_device_that_went_back_is_refused(device: Place, server: Place) -> None:
    field_case(device)
    old = handed_over(device)
    device.workspace.case(NUMBER).ingest(device.card({"more.txt": b"more"}, name="third"))
    new = handed_over(device, "new.zip")
    case = server.workspace.new_case("检 1")
    case.absorb(new)
    with pytest.raises(LogInconsistentError) as raised:
        case.absorb(old)
    assert raised.value.message_id == "custody.device_behind"
    assert (raised.value.values["known"], raised.value.values["found"]) == (6, 5)
    assert raised.value.values["known_root"] != raised.value.values["found_root"]
    assert len(case.events()) == 2


def test_a_device_that_forked_is_refused(device: Place, server: Place, tmp_path: Path) -> None:
    """The device was copied, and both copies went on with the same key."""
    field_case(device)
    device.log_store.close()
    shutil.copytree(device.root, tmp_path / "twin")
    twin = replace_root(device, tmp_path / "twin")
    device.workspace.case(NUMBER).ingest(device.card({"one.txt": b"one"}, name="third"))
    twin.case(NUMBER).ingest(device.card({"two.txt": b"two"}, name="fourth"))
    twin.case(NUMBER).ingest(device.card({"three.txt": b"three"}, name="fifth"))
    forked = twin.case(NUMBER).hand_over(tmp_path / "forked.zip").path
    case = server.workspace.new_case("检 1")
    case.absorb(handed_over(device))
    before = server.log_store.read_models()
    with pytest.raises(LogInconsistentError) as raised:
        case.absorb(forked)
    values = raised.value.values
    assert raised.value.message_id == "custody.device_forked"
    assert (values["index"], values["known"], values["found"]) == (5, 6, 7)
    for lang in ("zh", "en"):
        text = raised.value.render(lang)
        assert values["known_root"] in text and values["found_root"] in text
    assert server.log_store.read_models() == before


def replace_root(device: Place, root: Path) -> Any:
    from geoevidence.catalogue import open_log_store
    from geoevidence.custody import Workspace

    path = root / "workspace"
    as_session = session(root / "keys", seed=1)
    return Workspace.open(path, session=as_session, log_store=open_log_store(path))


# ---------------------------------------------------------------- tampering


def expect_refused(case: Case, path: Path, kind: type[GeoEvidenceError], *message_ids: str) -> GeoEvidenceError:
    """Refused, with nothing recorded or stored."""
    objects = case._workspace.path / "objects"
    before = sorted(objects.rglob("*"))
    with pytest.raises(kind) as raised:
        case.absorb(path)
    assert not message_ids or raised.value.message_id in message_ids, raised.value
    assert sorted(objects.rglob("*")) == before and len(case.events()) == 1
    for lang in ("zh", "en"):
        assert raised.value.render(lang) != raised.value.message_id
    return raised.value


@pytest.fixture
def archive(device: Place) -> Path:
    field_case(device)
    return handed_over(device)


@pytest.fixture
def case(server: Place) -> Case:
    return server.workspace.new_case("检 1")


def test_any_changed_byte_is_refused(archive: Path, case: Case, tmp_path: Path) -> None:
    raw = archive.read_bytes()
    rng = random.Random(8)
    # a few anywhere in the large file, and many where the documents and headers are
    positions = [rng.randrange(len(raw)) for _ in range(4)] + [rng.randrange(20_000) for _ in range(10)]
    positions += [len(raw) - 1 - rng.randrange(2_000) for _ in range(10)]
    for n, position in enumerate(positions):
        changed = bytearray(raw)
        changed[position] ^= 1 << rng.randrange(8)
        target = tmp_path / f"changed-{n}.zip"
        target.write_bytes(changed)
        expect_refused(case, target, GeoEvidenceError)
        target.unlink()


@pytest.mark.parametrize("cut", [1, 100, 3 << 20])
def test_a_cut_archive_is_refused(archive: Path, case: Case, tmp_path: Path, cut: int) -> None:
    (tmp_path / "cut.zip").write_bytes(archive.read_bytes()[:-cut])
    expect_refused(case, tmp_path / "cut.zip", FormatError, "custody.handover_archive")


def test_what_is_no_archive_is_refused(case: Case, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(b"text")
    expect_refused(case, tmp_path / "text.zip", FormatError, "custody.handover_archive")
    (tmp_path / "empty.zip").write_bytes(archive_bytes([]))
    expect_refused(case, tmp_path / "empty.zip", FormatError, "custody.handover_files")
    expect_refused(case, tmp_path / "absent.zip", InputError, "custody.not_a_file")
    expect_refused(case, tmp_path, InputError, "custody.not_a_file")


def test_a_compressed_archive_is_refused(archive: Path, case: Case, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "small.zip", "w", zipfile.ZIP_DEFLATED) as small:
        for name, data in contents(archive).items():
            small.writestr(f"handover/{name}", data)
    expect_refused(case, tmp_path / "small.zip", FormatError, "custody.handover_archive")


def test_each_document_is_checked_though_archive_and_list_agree(archive: Path, case: Case, tmp_path: Path) -> None:
    """Whoever changes a document can make a right list of digests: the signatures then refuse it."""
    files = contents(archive)
    leaves = files["log/leaves.jsonl"].splitlines(keepends=True)
    disclosures = files["log/disclosures.jsonl"].splitlines(keepends=True)
    original = max((name for name in files if name.startswith("objects/")), key=lambda name: len(files[name]))
    without = {name: data for name, data in files.items() if name != original}
    opened = json.loads(disclosures[0])
    opened["disclosures"]["actor.id"]["value"] = "李四"
    changes: dict[str, tuple[dict[str, bytes], type[GeoEvidenceError], str]] = {
        "leaf missing": ({**files, "log/leaves.jsonl": b"".join(leaves[:-1])}, VerificationError, "custody.handover_log"),
        "leaf twice": (
            {**files, "log/leaves.jsonl": b"".join([*leaves, leaves[-1]])},
            VerificationError,
            "custody.handover_leaf",
        ),
        "leaves swapped": (
            {**files, "log/leaves.jsonl": b"".join([*leaves[:2], leaves[3], leaves[2], *leaves[4:]])},
            VerificationError,
            "custody.handover_leaf",
        ),
        "first leaf missing": ({**files, "log/leaves.jsonl": b"".join(leaves[1:])}, VerificationError, "custody.handover_leaf"),
        "leaf with a broken signature": (
            {**files, "log/leaves.jsonl": b"".join([*leaves[:-1], with_signature(leaves[-1], bytes(64))])},
            VerificationError,
            "custody.handover_leaf",
        ),
        "leaf with one more signature": (
            {**files, "log/leaves.jsonl": b"".join([*leaves[:-1], with_stranger(leaves[-1])])},
            VerificationError,
            "custody.handover_leaf",
        ),
        "leaf withheld": (
            {**files, "log/leaves.jsonl": b"".join([*leaves[:-1], dumps({"withheld": "0" * 64}) + b"\n"])},
            VerificationError,
            "custody.handover_leaf",
        ),
        "no last line end": ({**files, "log/leaves.jsonl": files["log/leaves.jsonl"][:-1]}, FormatError, "trust.text_end"),
        "disclosure changed": (
            {**files, "log/disclosures.jsonl": dumps(opened) + b"\n" + b"".join(disclosures[1:])},
            VerificationError,
            "custody.handover_log",
        ),
        "disclosure of no event": (
            {**files, "log/disclosures.jsonl": disclosures[0].replace(b'"event":"E-', b'"event":"E-0')},
            VerificationError,
            "custody.handover_log",
        ),
        "disclosures out of order": (
            {**files, "log/disclosures.jsonl": b"".join(reversed(disclosures))},
            VerificationError,
            "custody.handover_log",
        ),
        "checkpoint of another log": (
            {**files, "log/checkpoint": files["log/checkpoint"].replace(b"geoevidence/W-", b"geoevidence/V-", 1)},
            FormatError,
            "custody.handover_origin",
        ),
        "checkpoint of another size": (
            {**files, "log/checkpoint": files["log/checkpoint"].replace(b"\n5\n", b"\n4\n")},
            VerificationError,
            "custody.handover_log",
        ),
        "key with another name": (
            {**files, "log/keys.json": files["log/keys.json"].replace(b"geoevidence-", b"geoevidence-0", 1)},
            FormatError,
            "trust.keys_fields",
        ),
        "no keys": ({**files, "log/keys.json": b"[]"}, FormatError, "trust.keys_fields"),
        "original missing": (without, VerificationError, "custody.handover_object"),
        "original changed": (
            {**without, original: bytes(len(files[original]))},
            VerificationError,
            "custody.handover_object",
        ),
        "one file more": ({**files, f"objects/{'0' * 64}": b"more"}, VerificationError, "custody.handover_object"),
        "a file of another kind": ({**files, "readme.txt": b"more"}, VerificationError, "custody.handover_object"),
        "checkpoint with a second signature": (
            {**files, "log/checkpoint": files["log/checkpoint"] + "\u2014 witness AAAAAAAAAAAA\n".encode()},
            FormatError,
            "custody.handover_origin",
        ),
    }
    for name, (changed, kind, message_id) in changes.items():
        target = rewritten(archive, changed, tmp_path / "changed.zip")
        error = expect_refused(case, target, kind)
        assert error.message_id == message_id, (name, error)


def with_signature(line: bytes, signature: bytes) -> bytes:
    envelope = parse_leaf(line[:-1]).envelope
    signatures = (EnvelopeSignature(envelope.signatures[0].keyid, signature),)
    return Envelope(envelope.payload_type, envelope.payload, signatures).to_bytes() + b"\n"


def with_stranger(line: bytes) -> bytes:
    envelope = parse_leaf(line[:-1]).envelope
    signatures = sorted([*envelope.signatures, EnvelopeSignature("f" * 64, bytes(64))], key=lambda each: each.keyid)
    return Envelope(envelope.payload_type, envelope.payload, tuple(signatures)).to_bytes() + b"\n"


def test_the_list_is_checked(archive: Path, case: Case, tmp_path: Path) -> None:
    files = contents(archive)
    head = json.loads(files["handover.json"])

    def listing(change: Callable[[dict[str, Any]], object]) -> Path:
        value = json.loads(json.dumps(head))
        change(value)
        return rewritten(archive, {**files, "handover.json": dumps(value)}, tmp_path / "list.zip", relist=False)

    expect_refused(case, listing(lambda v: v["files"].pop()), FormatError, "custody.handover_files")
    expect_refused(case, listing(lambda v: v["files"].reverse()), FormatError, "custody.handover_list")
    expect_refused(case, listing(lambda v: v["files"].append(v["files"][-1])), FormatError, "custody.handover_list")
    expect_refused(case, listing(lambda v: v["files"][0].update(more=1)), FormatError, "custody.handover_list")
    expect_refused(case, listing(lambda v: v["files"][0].update(size="1")), FormatError, "core.field_type")
    expect_refused(case, listing(lambda v: v.update(schema="geoevidence.handover.v9")), FormatError, "core.unknown_schema")
    expect_refused(case, listing(lambda v: v.update(more=1)), FormatError, "custody.handover_list")
    for name in ("sha256", "sm3"):
        changed = listing(lambda v, name=name: v["files"][0].update({name: "0" * 64}))
        expect_refused(case, changed, DigestMismatchError, "custody.handover_digest")
    expect_refused(case, listing(lambda v: v.update(tree_size=4)), VerificationError, "custody.handover_head")
    unlisted = {name: data for name, data in files.items() if name != "handover.json"}
    target = rewritten(archive, unlisted, tmp_path / "unlisted.zip", relist=False)
    expect_refused(case, target, FormatError, "custody.handover_files")


def test_documents_have_a_largest_size(archive: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("handover.json", "log/leaves.jsonl"):
        with monkeypatch.context() as patch:
            patch.setitem(sync_module._LIMITS, name, 100)
            expect_refused(case, archive, FormatError, "custody.handover_large")
    monkeypatch.setattr(sync_module, "_MAX_RECORD", 10)
    expect_refused(case, archive, VerificationError, "custody.handover_leaf")


def test_own_log_and_other_kind_of_case_are_refused(device: Place, server: Place, archive: Path, tmp_path: Path) -> None:
    mine = device.workspace.case(NUMBER)
    with pytest.raises(CustodyError) as raised:
        mine.absorb(archive)
    assert raised.value.message_id == "custody.handover_same"
    demonstration = server.workspace.new_case("演示", demonstration=True)
    expect_refused(demonstration, archive, CustodyError, "custody.handover_demonstration")


def test_an_original_that_the_device_lost_or_changed_is_not_handed_over(device: Place, tmp_path: Path) -> None:
    mine = field_case(device)
    stored = mine.path_of(mine.items(role="original")[0])
    stored.chmod(0o644)
    raw = stored.read_bytes()
    for changed in (raw[:-1] + b"x", raw + b"x", raw[:-1]):
        stored.write_bytes(changed)
        with pytest.raises(DigestMismatchError):
            handed_over(device)
    stored.unlink()
    with pytest.raises(DigestMismatchError):
        handed_over(device)
    assert not list(device.root.glob("*.zip")) and not list(device.root.glob(".*.part"))


def test_a_disk_that_refuses_leaves_nothing(device: Place, tmp_path: Path) -> None:
    field_case(device)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CustodyError):
        device.workspace.case(NUMBER).hand_over(tmp_path / "file" / "handover.zip")


# ---------------------------------------------------------------- logs that a device with its key could make


class Forger:
    """Writes a log with real signatures that breaks one rule: what a stolen or faulty device could hand over."""

    def __init__(self, device: Place, archive: Path) -> None:
        self.files = contents(archive)
        self.signer = device.session.signer
        self.leaves = [line[:-1] for line in self.files["log/leaves.jsonl"].splitlines(keepends=True)]
        self.origin = parse_checkpoint(self.files["log/checkpoint"])[0].origin

    def event(self, index: int) -> dict[str, Any]:
        raw = loads_canonical(parse_leaf(self.leaves[index]).envelope.payload)
        assert isinstance(raw, dict)
        return raw

    def sign(self, raw: dict[str, Any], *others: Any) -> bytes:
        payload = dumps(raw)
        signers = (self.signer, *others)
        found = [EnvelopeSignature(each.public_key.key_id, each.sign(pae(PAYLOAD_TYPE, payload))) for each in signers]
        return Envelope(PAYLOAD_TYPE, payload, tuple(sorted(found, key=lambda each: each.keyid))).to_bytes()

    def write(self, target: Path, *, more: dict[str, bytes] | None = None) -> Path:
        root = tree_root(leaf_hash(leaf) for leaf in self.leaves)
        text = LogCheckpoint(self.origin, len(self.leaves), root).to_text()
        name = note_key_name(self.signer.public_key)
        signature = NoteSignature(name, note_key_hash(name, self.signer.public_key.raw), self.signer.sign(text.encode()))
        files = {
            **self.files,
            **(more or {}),
            "log/leaves.jsonl": b"".join(leaf + b"\n" for leaf in self.leaves),
            "log/disclosures.jsonl": b"",
            "log/checkpoint": SignedNote(text, (signature,)).to_bytes(),
        }
        head = {"origin": self.origin, "tree_size": len(self.leaves), "root": root.hex()}
        files["handover.json"] = listed(files, **head)
        target.write_bytes(archive_bytes((f"h/{each}", data) for each, data in files.items()))
        return target


@pytest.fixture
def forger(device: Place, archive: Path) -> Forger:
    return Forger(device, archive)


def test_the_forger_can_write_a_log_that_holds(forger: Forger, case: Case, tmp_path: Path) -> None:
    """Else the tests below would be refused for another reason than theirs."""
    forger.leaves[-1] = forger.sign({**forger.event(4), "time_claimed": "2026-12-01T00:00:00Z"})
    assert case.absorb(forger.write(tmp_path / "forged.zip")).files == 4


def follow(forger: Forger, **changes: Any) -> dict[str, Any]:
    """An event that follows the last one."""
    last, seq = forger.event(len(forger.leaves) - 1), len(forger.leaves) + 1
    event_id = f"E-{forger.signer.public_key.chain}-{seq}"
    bare = {"inputs": [], "outputs": [], "process": None, "anchor": None}
    follows = {"event_id": event_id, "seq": seq, "prev_event": f"sha256:{leaf_hash(forger.leaves[-1]).hex()}"}
    return {**last, **bare, **follows, "type": "viewed", **changes}


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("custody.handover_chain", {"prev_event": "sha256:" + "0" * 64}),
        ("custody.handover_chain", {"seq": 9, "event_id": "E-{chain}-9"}),
        ("custody.handover_chain", {"case": "C-0000000000"}),
        ("custody.handover_anchor", {"anchor": {"tree_size": 6, "root": "0" * 64, "attested_time": None}}),
        ("custody.handover_anchor", {"anchor": {"tree_size": 2, "root": "0" * 64, "attested_time": None}}),
        ("custody.handover_chain", {"type": "commissioned"}),
    ],
)
def test_neighbours_and_anchors_are_checked(
    forger: Forger, case: Case, tmp_path: Path, reason: str, changes: dict[str, Any]
) -> None:
    chain = forger.signer.public_key.chain
    changes = {name: value.format(chain=chain) if name == "event_id" else value for name, value in changes.items()}
    forger.leaves.append(forger.sign(follow(forger, **changes)))
    error = expect_refused(case, forger.write(tmp_path / "forged.zip"), VerificationError, "custody.handover_leaf")
    assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == reason


def test_items_and_paths_are_checked(forger: Forger, case: Case, tmp_path: Path) -> None:
    original = forger.event(1)["outputs"][0]
    base = list(forger.leaves)

    def refuse(raw: dict[str, Any], reason: str) -> None:
        forger.leaves = [*base, forger.sign(raw)]
        error = expect_refused(case, forger.write(tmp_path / "forged.zip"), VerificationError, "custody.handover_leaf")
        assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == reason, error.__cause__
        forger.leaves = list(base)

    refuse(follow(forger, inputs=[{**original, "sha256": "0" * 64}]), "custody.handover_input")
    event_id = follow(forger)["event_id"]
    for name in ("a/CON", "a\u200b.txt", "x."):
        output = {**original, "item": f"{event_id}-1", "path": f"originals/{event_id}/{name}"}
        refuse(follow(forger, outputs=[output]), "custody.handover_path")
    twins = [
        {**original, "item": f"{event_id}-{n}", "path": f"originals/{event_id}/{name}"}
        for n, name in ((1, "a.txt"), (2, "A.txt"))
    ]
    refuse(follow(forger, outputs=twins), "custody.handover_path")
    nested = {"tool": TOOL, "version": "1", "code_digest": None, "environment_digest": None, "parameters": {}, "seed": None}
    refuse(follow(forger, type="received", process=nested), "custody.handover_nested")


def test_key_changes_of_the_device_are_checked(forger: Forger, case: Case, device: Place, tmp_path: Path) -> None:
    other = session(tmp_path / "other-keys", seed=9).signer
    named = [*parse_keys(forger.files["log/keys.json"])]
    following = sync_module.NamedKey(other.public_key, other.label)
    forger.files["log/keys.json"] = keys_bytes([*named, following])
    base, mine, index = list(forger.leaves), forger.signer.public_key.key_id, len(forger.leaves)

    def attempt(change: KeyChange, *others: Any, then: bool = False) -> Path:
        raw = change.to_bytes()
        found = digest_bytes(raw)
        forger.leaves = list(base)
        event_id = follow(forger)["event_id"]
        output = {
            "item": f"{event_id}-1",
            "path": f"records/{event_id}/key-change.json",
            "size": found.size,
            "sha256": found.sha256,
            "sm3": found.sm3,
        }
        forger.leaves.append(forger.sign(follow(forger, type="key_rotated", outputs=[output]), *others))
        if then:
            forger.leaves.append(forger.sign(follow(forger)))
        return forger.write(tmp_path / "forged.zip", more={f"objects/{found.sha256}": raw})

    good = KeyChange("rotated", mine, following, "superseded", index + 1)
    for bad, others in (
        (good, ()),  # the new key did not sign
        (replace(good, effective=index), (other,)),
        (replace(good, key_id=other.public_key.key_id), (other,)),
        (replace(good, new_key=replace(following, label="another")), (other,)),
        (KeyChange("revoked", mine, None, "lost", index), ()),
        (KeyChange("revoked", other.public_key.key_id, None, "lost", index + 2), ()),
        (KeyChange("revoked", "0" * 64, None, "lost", index), ()),
    ):
        error = expect_refused(case, attempt(bad, *others), VerificationError, "custody.handover_leaf")
        assert isinstance(error.__cause__, GeoEvidenceError)
        assert error.__cause__.message_id == "custody.handover_key_change", bad
    # an event by the key that ended
    error = expect_refused(case, attempt(good, other, then=True), VerificationError, "custody.handover_leaf")
    assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == "custody.key_ended"
    assert case.absorb(attempt(good, other)).tree_size == index + 1


def test_events_of_more_outputs_than_allowed_are_refused(
    forger: Forger, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "MAX_OUTPUTS", 2)
    error = expect_refused(case, forger.write(tmp_path / "forged.zip"), VerificationError, "custody.handover_leaf")
    assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == "custody.too_many_outputs"


def test_an_event_takes_no_more_outputs_than_allowed(device: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MAX_OUTPUTS", 2)
    case = device.workspace.new_case("1")
    with pytest.raises(CustodyError) as raised:
        case.ingest(device.card(CARD))
    assert raised.value.message_id == "custody.too_many_outputs" and raised.value.values["found"] == 3
    assert len(case.events()) == 1
    assert read_event(0, case.events()[0].leaf, {}).type == "commissioned"


def test_a_checkpoint_by_a_key_that_is_not_listed(forger: Forger, case: Case, tmp_path: Path) -> None:
    signer, forger.signer = forger.signer, session(tmp_path / "stranger", seed=9).signer
    assert signer.public_key != forger.signer.public_key
    error = expect_refused(case, forger.write(tmp_path / "forged.zip"), VerificationError, "custody.handover_log")
    assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == "custody.handover_key"


def test_a_disclosure_of_a_field_that_the_event_does_not_have(archive: Path, case: Case, tmp_path: Path) -> None:
    files = contents(archive)
    lines = files["log/disclosures.jsonl"].splitlines()
    first = json.loads(lines[0])
    first["disclosures"]["note"] = first["disclosures"]["actor.id"]
    files["log/disclosures.jsonl"] = b"\n".join([dumps(first), *lines[1:]]) + b"\n"
    target = rewritten(archive, files, tmp_path / "changed.zip")
    error = expect_refused(case, target, VerificationError, "custody.handover_log")
    assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == "trust.disclosure_fields"


def _by_id(key: NamedKey) -> str:
    return key.key.key_id


def test_a_log_without_an_event_is_refused(forger: Forger, case: Case, tmp_path: Path) -> None:
    forger.leaves = []
    forger.files = {name: data for name, data in forger.files.items() if not name.startswith("objects/")}
    expect_refused(case, forger.write(tmp_path / "forged.zip"), VerificationError, "custody.handover_empty")


def test_a_log_begins_with_its_case(forger: Forger, case: Case, tmp_path: Path) -> None:
    """The first event opens the case, with the sheet of this very case."""
    first = forger.event(0)

    def refuse(reason: str, *, more: dict[str, bytes] | None = None) -> None:
        error = expect_refused(case, forger.write(tmp_path / "forged.zip", more=more), VerificationError, "custody.handover_leaf")
        assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == reason, error.__cause__

    forger.leaves = [forger.sign({**first, "type": "viewed", "outputs": []})]
    refuse("custody.handover_chain")
    # a key change is no beginning either: such a log would belong to no case, and be no demonstration
    following = session(tmp_path / "other", seed=9).signer
    change = KeyChange(
        "rotated",
        forger.signer.public_key.key_id,
        NamedKey(following.public_key, following.label, following.certificates),
        "superseded",
        1,
    ).to_bytes()
    told = digest_bytes(change)
    path = f"records/{first['event_id']}/key-change.json"
    record = {**first["outputs"][0], "path": path, "size": told.size, "sha256": told.sha256, "sm3": told.sm3}
    forger.leaves = [forger.sign({**first, "type": "key_rotated", "outputs": [record]}, following)]
    both = sorted([*parse_keys(forger.files["log/keys.json"]), NamedKey(following.public_key, following.label, ())], key=_by_id)
    refuse("custody.handover_chain", more={f"objects/{told.sha256}": change, "log/keys.json": keys_bytes(both)})
    sheet = loads_canonical(forger.files[f"objects/{first['outputs'][0]['sha256']}"])
    assert isinstance(sheet, dict)
    raw = dumps({**sheet, "case": "C-0000000000"})
    found = digest_bytes(raw)
    output = {**first["outputs"][0], "size": found.size, "sha256": found.sha256, "sm3": found.sm3}
    forger.leaves = [forger.sign({**first, "outputs": [output]})]
    refuse("custody.sheet_other_case", more={f"objects/{found.sha256}": raw})
    # the bytes of another sheet under the right name
    forger.leaves = [forger.sign(first)]
    refuse("custody.handover_digest", more={f"objects/{first['outputs'][0]['sha256']}": raw})


def test_a_key_change_has_its_record(forger: Forger, case: Case, tmp_path: Path) -> None:
    forger.leaves.append(forger.sign(follow(forger, type="key_rotated")))
    error = expect_refused(case, forger.write(tmp_path / "forged.zip"), VerificationError, "custody.handover_leaf")
    assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == "custody.handover_key_change"


def test_an_archive_that_changes_after_it_was_checked(archive: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every original is digested again while it is stored."""
    check = sync_module.HandoverArchive.check

    def then_change(self: sync_module.HandoverArchive, progress: Any) -> Any:
        device = check(self, progress)
        raw = bytearray(archive.read_bytes())
        start = raw.index(random.Random(4).randbytes(16))
        raw[start] ^= 1
        with archive.open("r+b") as stream:
            stream.write(raw)
        return device

    monkeypatch.setattr(sync_module.HandoverArchive, "check", then_change)
    with pytest.raises(GeoEvidenceError) as raised:
        case.absorb(archive)
    assert raised.value.message_id in ("custody.handover_archive", "custody.handover_digest")
    assert len(case.events()) == 1


def test_a_leaf_longer_than_any_honest_one_is_refused(archive: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = max(len(line) for line in contents(archive)["log/leaves.jsonl"].splitlines())
    monkeypatch.setattr(sync_module, "MAX_LEAF", longest - 1)
    with pytest.raises(GeoEvidenceError) as raised:
        case.absorb(archive)
    error: BaseException | None = raised.value
    assert isinstance(error, GeoEvidenceError)
    found = {error.message_id, getattr(error.__cause__, "message_id", None)}
    assert "custody.handover_large" in found and len(case.events()) == 1


def test_the_case_of_a_device_is_opened_by_one_sheet(forger: Forger, case: Case, tmp_path: Path) -> None:
    raw = forger.event(0)
    forger.leaves = [forger.sign({**raw, "outputs": []})]
    error = expect_refused(case, forger.write(tmp_path / "forged.zip"), VerificationError, "custody.handover_leaf")
    assert isinstance(error.__cause__, GeoEvidenceError) and error.__cause__.message_id == "custody.handover_chain"


def test_a_target_that_appears_meanwhile_is_not_overwritten(device: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    field_case(device)
    target, fsync = device.root / "handover.zip", os.fsync

    def then_appears(fd: int) -> None:
        fsync(fd)
        if list(device.root.glob(".handover.zip.*.part")):
            target.write_bytes(b"somebody else's")

    monkeypatch.setattr(os, "fsync", then_appears)
    with pytest.raises(CustodyError) as raised:
        handed_over(device)
    assert raised.value.message_id == "custody.target_exists"
    assert target.read_bytes() == b"somebody else's" and not list(device.root.glob(".*.part"))


@pytest.mark.parametrize("damage", ["bytes", "checksum"])
def test_an_original_is_digested_again_while_it_is_stored(
    archive: Path, case: Case, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that were others when they were checked; and an archive whose checksum alone was changed since."""
    check = sync_module.HandoverArchive.check

    def then_change(self: sync_module.HandoverArchive, progress: Any) -> Any:
        device = check(self, progress)
        if damage == "bytes":
            monkeypatch.setattr(sync_module.HandoverArchive, "original", lambda self, sha256: iter([b"other"]))
        else:
            inner = self._container.open

            def opened(path: str) -> Any:
                stream = inner(path)
                if path.startswith("objects/"):
                    stream.defect = Defect(path, "trust.zip_crc")
                return stream

            monkeypatch.setattr(self._container, "open", opened)
        return device

    monkeypatch.setattr(sync_module.HandoverArchive, "check", then_change)
    with pytest.raises(GeoEvidenceError) as raised:
        case.absorb(archive)
    assert raised.value.message_id == ("custody.handover_digest" if damage == "bytes" else "custody.handover_archive")
    assert len(case.events()) == 1


def test_an_original_that_cannot_be_read_is_said(archive: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    check = sync_module.HandoverArchive.check

    def then_lost(self: sync_module.HandoverArchive, progress: Any) -> Any:
        device = check(self, progress)

        def lost(path: str) -> Any:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(self._container, "open", lost)
        return device

    monkeypatch.setattr(sync_module.HandoverArchive, "check", then_lost)
    with pytest.raises(FormatError) as raised:
        case.absorb(archive)
    assert raised.value.message_id == "custody.handover_unreadable" and len(case.events()) == 1
