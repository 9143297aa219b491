"""From a card into custody: everything or a name and a reason, and never twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.custody import Case, ingest
from geoevidence.custody.ingest import name_problem, scan_source
from geoevidence.errors import CustodyError, InputError
from geoevidence.trust.archive import fold
from geoevidence.trust.canonical import dumps, loads_canonical
from geoevidence.trust.digests import digest_bytes, short_code
from geoevidence.trust.events import path_defect
from geoevidence.trust.notes import parse_checkpoint
from geoevidence.types import Message
from tests.custody.test_log import check_log
from tests.custody.workspaces import CARD, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    return place.workspace.new_case("川检 2026-1", fields={"cause": "演示"})


def contents(case: Case) -> dict[str, bytes]:
    """Name relative to the source -> bytes, of all originals; a name that stands twice fails."""
    found: dict[str, bytes] = {}
    for item in case.items(role="original"):
        name = item.path.split("/", 2)[2]
        assert name not in found
        found[name] = case.path_of(item).read_bytes()
        assert (item.sha256, item.sm3, item.size) == digest_bytes(found[name])
    return found


def test_a_card_is_taken_whole(place: Place, case: Case) -> None:
    stages: list[tuple[str, float]] = []
    done = case.ingest(place.card(CARD), label="SD-1", progress=lambda stage, part: stages.append((stage, part)))
    assert contents(case) == CARD and done.skipped == {} and done.already_present == ()
    assert done.event is not None and done.event.type == "copied" and done.event.process is not None
    assert [item.id for item in done.items] == [f"{done.event.event_id}-{n}" for n in (1, 2, 3)]
    assert [item.path for item in done.items] == [f"originals/{done.event.event_id}/{name}" for name in sorted(CARD, key=fold)]
    assert {item.media_type for item in done.items} == {"image/jpeg", "text/plain"}
    parameters = done.event.process.parameters
    assert parameters == {"source": "SD-1", "files": 3, "manifest_sha256": done.manifest_sha256}
    assert done.event.process.tool == "custody.ingest"
    assert stages[0][0] == "custody.stage.scan" and ("custody.stage.copy", 1.0) in stages
    assert all(0 <= part <= 1 for _, part in stages)
    assert {path: (place.root / "card" / path).read_bytes() for path in CARD} == CARD
    check_log(case)


def test_an_upload_is_received(place: Place, case: Case) -> None:
    event = case.ingest(place.card(CARD), kind="received").event
    assert event is not None and event.type == "received"
    assert event.process is not None and (event.process.tool, event.process.parameters["source"]) == ("custody.upload", "card")
    with pytest.raises(ValueError, match="kind"):
        case.ingest(place.root / "card", kind="stolen")  # type: ignore[arg-type]


def test_the_same_card_again_adds_nothing(place: Place, case: Case) -> None:
    first = case.ingest(place.card(CARD))
    before = len(case.events())
    again = case.ingest(place.root / "card")
    assert again.event is None and again.items == () and again.already_present == first.items
    assert len(case.events()) == before
    assert (again.short_code, again.receipt_json) == (first.short_code, first.receipt_json)
    place.card({"new.txt": b"new"})
    more = case.ingest(place.root / "card")
    assert [item.path.split("/", 2)[2] for item in more.items] == ["new.txt"] and more.already_present == first.items
    assert again.manifest_sha256 != more.manifest_sha256
    both = case.ingest(place.root / "card")
    assert both.event is None and both.receipt_json is None and len(both.already_present) == 4


def test_a_file_that_changed_on_the_card_is_another_item(place: Place, case: Case) -> None:
    case.ingest(place.card({"a.txt": b"one"}))
    done = case.ingest(place.card({"a.txt": b"two"}))
    assert len(done.items) == 1 and done.already_present == ()
    assert [case.path_of(item).read_bytes() for item in case.items(role="original")] == [b"one", b"two"]


def test_two_identical_files_are_two_items_and_one_object(place: Place, case: Case) -> None:
    case.ingest(place.card({"a.txt": b"same", "b/c.txt": b"same"}))
    items = case.items(role="original")
    assert len(items) == 2 and len({case.path_of(item) for item in items}) == 1


def test_one_file_is_a_source_too(place: Place, case: Case) -> None:
    card = place.card(CARD)
    done = case.ingest(card / "flight.MRK")
    assert [item.path.split("/", 2)[2] for item in done.items] == ["flight.MRK"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NUL.txt", "custody.skip_reserved"),
        ("com1", "custody.skip_reserved"),
        ("a/aux.jpg/b", "custody.skip_reserved"),
        ("a:b", "custody.skip_windows"),
        ("a\\b", "custody.skip_windows"),
        ("ends ", "custody.skip_windows"),
        ("ends.", "custody.skip_windows"),
        ("what?", "custody.skip_windows"),
        ("bell\x07", "custody.skip_invisible"),
        ("line\nbreak", "custody.skip_invisible"),
        ("photo\u202egpj.exe", "custody.skip_invisible"),
        ("zero\u200bwidth", "custody.skip_invisible"),
        ("stray\udcffbyte", "custody.skip_encoding"),
        ("x" * 250, "custody.skip_long"),
        ("照" * 80, "custody.skip_long"),
        ("/".join(["deep"] * 200), "custody.skip_long"),
        ("a/../b", "custody.skip_dots"),
        ("照片 1.JPG", None),
        ("100%.txt", None),
        (".hidden", None),
        ("console.txt", None),
    ],
)
def test_names_that_would_be_another_file_somewhere(name: str, reason: str | None) -> None:
    assert name_problem(name) == reason


@given(st.text(max_size=40))
def test_a_name_that_is_taken_is_one_the_kernel_accepts(name: str) -> None:
    name = unicodedata.normalize("NFC", name)
    if name_problem(name) is None:
        assert path_defect(f"originals/E-00000000-1/{name}") is None


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses these names itself")
def test_what_is_not_taken_is_named_with_a_reason(place: Place, case: Case) -> None:
    card = place.card(
        {
            "good.txt": b"1",
            "CON": b"2",
            "Photo.jpg": b"3",
            "photo.JPG": b"4",
            "Folder": b"5",
            "folder/inside.txt": b"6",
            "u\u0308.txt": b"7",
            "\u00fc.txt": b"8",
        }
    )
    (card / "link").symlink_to("good.txt")
    (card / "linked-folder").symlink_to(card)
    os.mkfifo(card / "pipe")
    Path(os.fsdecode(os.fsencode(card) + b"/bad\xff")).write_bytes(b"9")
    done = case.ingest(card)
    reasons = {name: message.id for name, message in done.skipped.items()}
    assert reasons == {
        "CON": "custody.skip_reserved",
        "link": "custody.skip_link",
        "linked-folder": "custody.skip_link",
        "pipe": "custody.skip_special",
        "bad\\udcff": "custody.skip_encoding",
        "photo.JPG": "custody.skip_collision",
        "folder/inside.txt": "custody.skip_collision",
        "ü.txt": "custody.skip_collision",
    }
    assert set(contents(case)) == {"good.txt", "Photo.jpg", "Folder", "ü.txt"}
    for lang in ("zh", "en"):
        assert all("{" not in message.render(lang) for message in done.skipped.values())
    check_log(case)


def test_sources_that_cannot_be_used(place: Place, case: Case) -> None:
    empty = place.root / "empty"
    (empty / "only folders").mkdir(parents=True)
    with pytest.raises(CustodyError) as raised:
        case.ingest(empty)
    assert raised.value.message_id == "custody.nothing_to_ingest"
    for source, message_id in (
        (place.root / "nothing", "custody.source_unreadable"),
        (place.workspace.path, "custody.source_is_workspace"),
        (place.workspace.path / "objects", "custody.source_is_workspace"),
        (place.root, "custody.source_is_workspace"),
    ):
        with pytest.raises(InputError) as refused:
            case.ingest(source)
        assert refused.value.message_id == message_id
    if os.name != "nt":
        (place.root / "link").symlink_to(empty)
        with pytest.raises(InputError):
            scan_source(place.root / "link")
    assert len(case.events()) == 1


@pytest.mark.skipif(os.name == "nt", reason="folders are opened by handle")
def test_folders_deeper_than_any_path_that_is_kept(place: Place, case: Case) -> None:
    card = place.card({"a.txt": b"a"})
    folder = os.open(card, os.O_RDONLY)
    for _ in range(1200):  # deeper than Python calls itself, too
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    done = case.ingest(card)
    assert [message.id for message in done.skipped.values()] == ["custody.skip_long"] and set(contents(case)) == {"a.txt"}
    # shutil.rmtree, by which pytest clears old folders, calls itself once a level and would fail at the end of a later run
    while (card / "d").exists():
        half = card / "d"
        for _ in range(300):
            if not (half / "d").exists():
                break
            half /= "d"
        if (half / "d").exists():
            (half / "d").rename(card / "rest")
        shutil.rmtree(card / "d")
        if (card / "rest").exists():
            (card / "rest").rename(card / "d")


def test_a_file_that_changes_meanwhile_is_named_and_the_rest_is_taken(place: Place, case: Case) -> None:
    card = place.card({"a-steady.bin": b"s" * 100, "b-growing.bin": b"g" * 3_000_000})

    def grow(stage: str, part: float) -> None:
        if stage == "custody.stage.copy" and part > 0.3:
            with (card / "b-growing.bin").open("ab") as stream:
                stream.write(b"more")

    done = case.ingest(card, progress=grow)
    assert {name: message.id for name, message in done.skipped.items()} == {"b-growing.bin": "custody.source_changed"}
    assert set(contents(case)) == {"a-steady.bin"}
    assert set(contents(case)) | {"b-growing.bin"} == {
        item.path.split("/", 2)[2] for item in (*case.ingest(card).items, *done.items)
    }


def test_a_store_that_stops_records_nothing_and_goes_on_later(place: Place, case: Case) -> None:
    card = place.card({f"{n}.bin": bytes([n]) * 1000 for n in range(6)})
    blocked = place.workspace.path / "objects" / digest_bytes(b"\x03" * 1000).sha256[:2]
    assert not blocked.exists()
    blocked.write_bytes(b"in the way")
    with pytest.raises(CustodyError) as raised:
        case.ingest(card)
    assert raised.value.message_id.startswith("custody.disk_")
    assert len(case.events()) == 1 and case.items(role="original") == ()
    assert [path.name for path in (place.workspace.path / "tmp").iterdir()] == [".lock"]
    blocked.unlink()
    assert len(case.ingest(card).items) == 6
    check_log(case)


# ---------------------------------------------------------------- receipts


def test_a_process_that_opens_the_workspace_leaves_a_receipt_being_written_alone(
    place: Place, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening sweeps the halves that killed processes left; the half of a live one is none of these."""
    from geoevidence.custody import files

    opened: list[str] = []
    replace = os.replace

    def replace_while_another_opens(part: Path, path: Path) -> None:
        if "receipts" in path.parts:
            place.reopened()
            opened.append(path.suffix)
        replace(part, path)

    monkeypatch.setattr(files.os, "replace", replace_while_another_opens)
    done = case.ingest(place.card(CARD))
    assert {".html", ".json"} <= set(opened)
    assert (
        done.receipt_json is not None
        and done.receipt_json.exists()
        and done.receipt_html is not None
        and done.receipt_html.exists()
    )


def test_the_receipt_can_be_recomputed(place: Place, case: Case) -> None:
    done = case.ingest(place.card(CARD), label="<script>alert(1)</script> & 卡")
    assert done.event is not None and done.receipt_json is not None and done.receipt_html is not None
    raw = done.receipt_json.read_bytes()
    receipt = loads_canonical(raw)
    assert receipt["schema"] == "geoevidence.receipt.v1" and receipt["leaf_hash"] == done.event.leaf_hash
    rows = [
        {**dict(zip(("sha256", "sm3", "size"), digest_bytes(data), strict=True)), "path": path} for path, data in CARD.items()
    ]
    manifest = hashlib.sha256(dumps(sorted(rows, key=lambda row: row["path"])))
    assert receipt["manifest_sha256"] == manifest.hexdigest() == done.manifest_sha256
    assert receipt["short_code"] == short_code(manifest.digest()) == done.short_code
    assert {row["path"] for row in receipt["files"]} == set(CARD)
    assert parse_checkpoint(receipt["checkpoint"].encode())[0] == case.log_checkpoint()
    page = done.receipt_html.read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and done.short_code in page
    assert "http://" not in page and "https://" not in page and "custody.receipt" not in page
    for text in ("入证回执", "川检 2026-1", "见证人", "2026-11-23 16:00:", *CARD):
        assert text in page


def test_a_lost_receipt_is_made_again_the_same(place: Place, case: Case) -> None:
    done = case.ingest(place.card(CARD))
    assert done.receipt_json is not None and done.receipt_html is not None
    case.set_sheet({**case.sheet, "witness": "王五"})
    before = done.receipt_json.read_bytes(), done.receipt_html.read_bytes()
    done.receipt_json.unlink()
    done.receipt_html.unlink()
    place.reopened().case(case.id)
    assert (done.receipt_json.read_bytes(), done.receipt_html.read_bytes()) == before


# ---------------------------------------------------------------- killed at any moment

_KILLED = """
import json, os, signal, sys
from pathlib import Path
from geoevidence.catalogue import open_log_store
from geoevidence.custody import Workspace
from tests.custody.workspaces import session

def ingest(root, limit):
    path = root / "workspace"
    workspace = Workspace.open(path, session=session(root / "keys", seed=30), log_store=open_log_store(path))
    case = workspace.case("1")
    count = 0
    def step(*_):
        nonlocal count
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)
    acts = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.link")
    sys.addaudithook(lambda event, _: step() if event in acts else None)
    calls = ("execute", "commit", "fsync", "write")
    sys.setprofile(lambda _, event, what: step() if event == "c_call" and getattr(what, "__name__", "") in calls else None)
    case.ingest(root / "card", progress=step)
    sys.setprofile(None)
    (root / "steps").write_text(str(count))

statuses = []
for root, limit in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        ingest(Path(root), limit)
        os._exit(0)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""


def _run_killed(runs: list[tuple[str, int]], repository: Path) -> list[int]:
    """Exit status of an ingest of each (root, number of the act at which it is killed)."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, json.dumps(runs)], capture_output=True, text=True, cwd=repository, timeout=300
    )
    assert done.returncode == 0, done.stderr
    statuses: list[int] = json.loads(done.stdout)
    return statuses


def _prepare(root: Path, files: dict[str, bytes]) -> Place:
    place = Place(root)
    place.workspace.new_case("1")
    place.card(files)
    place.log_store.close()
    return place


def _check_killed(tmp_path: Path, repository: Path, fractions: list[float]) -> None:
    """Kill an ingest at its n-th visible act (a file opened, renamed, synced; a statement sent), run it again, compare."""
    files = {f"DCIM/{n:02d}.bin": bytes([n]) * 2000 for n in range(5)}
    _prepare(tmp_path / "trial", files)
    assert _run_killed([(str(tmp_path / "trial"), -1)], repository) == [0]
    steps = int((tmp_path / "trial" / "steps").read_text())
    assert steps > 60
    places = [_prepare(tmp_path / str(number), files) for number in range(len(fractions))]
    runs = [(str(place.root), max(1, round(fraction * steps))) for place, fraction in zip(places, fractions, strict=True)]
    statuses = _run_killed(runs, repository)
    # threads take turns differently, so the last acts may not be reached
    assert all(
        status == -signal.SIGKILL or (status == 0 and fraction > 0.95)
        for status, fraction in zip(statuses, fractions, strict=True)
    )
    for place in places:
        case = place.reopened().case("1")
        assert [path.name for path in (place.workspace.path / "tmp").iterdir()] == [".lock"]
        assert contents(case) in ({}, files)
        done = case.ingest(place.root / "card")
        assert contents(case) == files and len(case.events()) == 2
        assert done.receipt_json is not None and done.receipt_html is not None
        assert done.receipt_json.exists() and done.receipt_html.exists()
        for item in case.items():
            case.check_item(item)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_ingest_loses_nothing_and_takes_nothing_twice(tmp_path: Path, repository: Path) -> None:
    rng = random.Random(20261123)
    # the end of an ingest (log, checkpoints, receipt) has few acts: half of the points are drawn from it
    _check_killed(tmp_path, repository, [rng.uniform(0, 1) for _ in range(4)] + [rng.uniform(0.8, 1) for _ in range(4)])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_ingest_at_many_more_points(tmp_path: Path, repository: Path) -> None:
    _check_killed(tmp_path, repository, [n / 30 for n in range(1, 30)])


class Entries:
    """A folder on a card that fails: entries by name, each a real one or the error that looking at it gives."""

    def __init__(self, folder: Path, bad: str) -> None:
        self.found, self.bad = os.scandir(folder), bad

    def __enter__(self) -> Iterator[Any]:
        return (BadEntry(each.name) if each.name == self.bad else each for each in self.found)

    def __exit__(self, *_: object) -> None:
        self.found.close()


class BadEntry:
    def __init__(self, name: str) -> None:
        self.name = name

    def is_symlink(self) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_card_that_cannot_be_listed_in_one_place_loses_that_place_only(
    place: Place, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = place.card({"a.txt": b"a", "bad.txt": b"b", "locked/c.txt": b"c", "gone.txt": b"d"})
    walk = ingest._walk

    def scandir(folder: Path) -> Entries:
        if folder.name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return Entries(folder, "bad.txt")

    def then_lost(folder: Path, prefix: str, found: list[tuple[str, Path]], skipped: dict[str, Message]) -> None:
        walk(folder, prefix, found, skipped)
        (card / "gone.txt").unlink(missing_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "os", SimpleNamespace(**{**vars(os), "scandir": scandir}))
        patch.setattr(ingest, "_walk", then_lost)
        scan = scan_source(card)
    assert [file.name for file in scan.files] == ["a.txt"]
    assert {name: (message.id, message.values["reason"]) for name, message in scan.skipped.items()} == {
        "bad.txt": ("custody.skip_unreadable", os.strerror(errno.EIO)),
        "locked/": ("custody.skip_unreadable", os.strerror(errno.EACCES)),
        "gone.txt": ("custody.skip_unreadable", os.strerror(errno.ENOENT)),
    }


def test_nothing_more_is_read_once_the_store_has_failed(place: Place, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail(file: ingest.SourceFile, *args: object) -> None:
        tried.append(file.name)
        raise CustodyError("custody.disk_full", path="x", reason="full")

    monkeypatch.setattr(ingest, "WORKERS", 1)
    monkeypatch.setattr(ingest, "_take_one", fail)
    with pytest.raises(CustodyError) as raised:
        case.ingest(place.card({f"{n}.bin": b"x" for n in range(5)}))
    assert raised.value.message_id == "custody.disk_full" and tried == ["0.bin"] and len(case.events()) == 1
