"""Killed at any moment, disks that fill up, cards that fail or change: what was acknowledged is there, nothing is half-done."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from geoevidence.catalogue import open_log_store
from geoevidence.custody import Workspace
from geoevidence.custody.store import ObjectStore
from geoevidence.errors import CustodyError, InputError
from geoevidence.package import seal_folder, seal_zip
from geoevidence.trust import verify_package
from geoevidence.trust.digests import BLOCK, digest_bytes
from tests.custody.test_ingest import contents
from tests.custody.test_log import check_log
from tests.custody.workspaces import Place, session

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, links and mounts")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@contextmanager
def mounted_tmpfs(folder: Path, kilobytes: int) -> Iterator[None]:
    """A disk of a few MB at `folder`; skips, and says so, where nothing can be mounted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here, so no disk to fill")
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def check_whole(workspace: Workspace) -> None:
    """Logs as known outside, every recorded file there and whole, nothing partial in sight."""
    report = workspace.scrub()
    # an object that was stored and not yet recorded may stay; it is whole under its name
    assert {defect.message.id for defect in report.defects} <= {"custody.scrub.extra"}, report.defects
    assert report.intact == report.objects
    assert [path.name for path in (workspace.path / "tmp").iterdir()] == [".lock"]
    for folder in ("objects", "checkpoints", "receipts"):
        assert not list((workspace.path / folder).rglob("*.part"))
    for summary in workspace.cases():
        case = workspace.case(summary.id)
        assert case.log_status().rollback == "passed"
        check_log(case)


# ---------------------------------------------------------------- killed

_KILLED = """
import json, os, signal, sys, time
from pathlib import Path
from geoevidence.catalogue import open_log_store
from geoevidence.custody import Workspace
from geoevidence.package import seal_folder, seal_zip
from tests.custody.workspaces import session

def act(root, what):
    path = root / "workspace"
    workspace = Workspace.open(path, session=session(root / "keys"), log_store=open_log_store(path))
    case = workspace.case("1")
    told = os.open(root / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if what == "ingest":
        for card in sorted(root.glob("card-*")):
            for item in case.ingest(card).items:
                os.write(told, f"{item.id} {item.sha256}\\n".encode())
    else:
        seal = seal_zip if what == "zip" else seal_folder
        os.write(told, f"{seal(case, root / 'out' / 'package').package_root}\\n".encode())

spent = []
for root, what, after in json.loads(sys.argv[1]):
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        act(Path(root), what)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    spent.append([status, time.perf_counter() - start])
print(json.dumps(spent))
"""


def run_killed(runs: list[tuple[str, str, float | None]], repository: Path) -> list[tuple[int, float]]:
    """(exit status, seconds) of each (root, what to do, seconds until SIGKILL or None)."""
    command = [sys.executable, "-c", _KILLED, json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=300)
    assert done.returncode == 0, done.stderr
    return [(status, seconds) for status, seconds in json.loads(done.stdout)]


def reopened(root: Path) -> Workspace:
    path = root / "workspace"
    return Workspace.open(path, session=session(root / "keys"), log_store=open_log_store(path))


CARDS = {f"card-{c}": {f"DCIM/{n}.bin": bytes([c, n]) * 300_000 for n in range(5)} for c in range(4)}


def moments(seed: int, count: int, whole: float) -> list[float]:
    """Seeded moments over the whole run, one in each of `count` equal parts of it."""
    rng = random.Random(seed)
    return [whole * (n + rng.random()) / count for n in range(count)]


@posix
@pytest.mark.slow
def test_an_ingest_killed_at_twenty_moments(tmp_path: Path, repository: Path) -> None:
    place = Place(tmp_path / "template")
    place.workspace.new_case("1")
    for name, files in CARDS.items():
        place.card(files, name=name)
    place.log_store.close()
    trial = shutil.copytree(place.root, tmp_path / "trial")
    ((status, whole),) = run_killed([(str(trial), "ingest", None)], repository)
    assert status == 0
    roots = [shutil.copytree(place.root, tmp_path / f"killed-{n}") for n in range(20)]
    runs = [(str(root), "ingest", after) for root, after in zip(roots, moments(20261126, 20, whole), strict=True)]
    statuses = [status for status, _ in run_killed(runs, repository)]
    assert statuses.count(-signal.SIGKILL) >= 5, statuses  # a busy machine makes the trial slower than what follows
    stopped_with: set[int] = set()
    for root in roots:
        workspace = reopened(root)
        told = [line.split() for line in (root / "told").read_text().splitlines()] if (root / "told").exists() else []
        case = workspace.case("1")
        check_whole(workspace)
        assert {tuple(line) for line in told} <= {(item.id, item.sha256) for item in case.items()}
        stopped_with.add(len(case.items(role="original")))
        for name in CARDS:
            case.ingest(root / name)
        originals = sorted((item.path.split("/", 2)[2], item.sha256) for item in case.items(role="original"))
        expected = sorted((path, digest_bytes(data).sha256) for files in CARDS.values() for path, data in files.items())
        assert originals == expected, "each file once"
        assert workspace.scrub().status == "clean"
    assert len(stopped_with) > 1, "the moments fell on different states"


@posix
@pytest.mark.slow
@pytest.mark.parametrize("what", ["folder", "zip"])
def test_a_seal_killed_at_ten_moments(tmp_path: Path, repository: Path, what: str) -> None:
    place = Place(tmp_path / "template")
    case = place.workspace.new_case("1")
    case.ingest(place.card({**CARDS["card-0"], **{f"x/{path}": data for path, data in CARDS["card-1"].items()}}))
    before = case.events()
    place.log_store.close()
    trial = shutil.copytree(place.root, tmp_path / "trial")
    ((status, whole),) = run_killed([(str(trial), what, None)], repository)
    assert status == 0
    roots = [shutil.copytree(place.root, tmp_path / f"killed-{n}") for n in range(10)]
    runs = [(str(root), what, after) for root, after in zip(roots, moments(20261127, 10, whole), strict=True)]
    statuses = [status for status, _ in run_killed(runs, repository)]
    assert statuses.count(-signal.SIGKILL) >= 3, statuses
    for root in roots:
        workspace = reopened(root)
        check_whole(workspace)
        case = workspace.case("1")
        events = case.events()
        assert [event.leaf for event in events[: len(before)]] == [event.leaf for event in before]
        assert [event.type for event in events[len(before) :]] in ([], ["packaged"])
        package = root / "out" / "package"
        assert package.exists() or not (root / "told").exists() or not (root / "told").read_text()
        if package.exists():
            # a package that has its name is whole, and its sealing is in the log
            report = verify_package(package).require()
            assert len(events) == len(before) + 1 and report.facts["files"] > 10
        out = root / "again"
        verify_package((seal_zip if what == "zip" else seal_folder)(case, out / "package").path).require()
        check_whole(workspace)


# ---------------------------------------------------------------- no room


@posix
def test_a_full_disk_stops_an_ingest_and_room_lets_it_go_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted_tmpfs(disk, 6_000):
        place = Place(disk)
        case = place.workspace.new_case("1")
        files = {f"{n}.bin": bytes([n]) * 1_500_000 for n in range(6)}
        card = tmp_path / "card"
        card.mkdir()
        for name, data in files.items():
            (card / name).write_bytes(data)
        with pytest.raises(CustodyError) as raised:
            case.ingest(card)
        assert raised.value.message_id == "custody.disk_full"
        assert case.items(role="original") == () and len(case.events()) == 1
        check_whole(place.workspace)
        subprocess.run(["mount", "-o", "remount,size=40000k", str(disk)], check=True)
        case.ingest(card)
        assert contents(case) == files
        check_whole(place.reopened())
        place.log_store.close()


@posix
def test_wherever_a_disk_runs_full_what_was_acknowledged_stays(tmp_path: Path) -> None:
    """From no room at all to enough, page by page of the database: every write of an ingest meets a full disk."""
    disk, card = tmp_path / "disk", tmp_path / "card"
    card.mkdir()
    with mounted_tmpfs(disk, 32_000):
        place = Place(disk)
        case = place.workspace.new_case("1")
        acknowledged: dict[str, bytes] = {}
        refused: set[str] = set()
        filler = disk / "filler"
        for room in [1 << 20, *range(0, 240_000, 4_096), 1 << 20]:
            (card / "data.bin").write_bytes(b"%08d" % room * 2_000)
            status = os.statvfs(disk)
            if acknowledged:  # the first receipt brings its font along
                filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room)))
            try:
                done = case.ingest(card)
            except CustodyError as error:
                refused.add(error.message_id)
            else:
                acknowledged |= {item.id: (card / "data.bin").read_bytes() for item in done.items}
            finally:
                filler.unlink(missing_ok=True)
            case = place.reopened().case("1")
            items = {item.id: case.path_of(item).read_bytes() for item in case.items(role="original")}
            assert acknowledged.items() <= items.items()
        # the last where only the copy of the checkpoint found no room: the event is recorded, and it says so
        seldom = {"custody.checkpoint_not_kept"}
        assert refused - seldom == {"custody.disk_full", "custody.catalogue_failed"} and len(acknowledged) > 5, (
            refused,
            len(acknowledged),
        )
        check_whole(place.reopened())
        place.log_store.close()


def test_an_append_that_failed_is_forgotten(place: Place) -> None:
    """What a transaction had appended before it failed is not in the next one's tree."""
    case = place.workspace.new_case("1")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no"), case._log.writing() as appender:
            appender.append("transferred", note="never recorded")
            raise RuntimeError("no")
        with case._log.writing() as appender:
            appender.append("transferred", note="recorded")
    assert [event.note for event in case.events()] == [None, "recorded", "recorded", "recorded"]
    check_log(case)


# ---------------------------------------------------------------- cards that fail


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/PID/mem is a regular file that gives EIO on Linux only")
def test_a_card_that_cannot_be_read_in_one_place_loses_that_file_only(place: Place) -> None:
    case = place.workspace.new_case("1")
    memory = Path(f"/proc/{os.getpid()}/mem")  # reading its first page is an input/output error
    with pytest.raises(InputError) as raised:
        place.workspace._objects.add_file(memory)
    assert raised.value.message_id == "custody.source_unreadable" and "Input/output" in str(raised.value.values["reason"])
    card = place.card({"a.txt": b"a", "bad.bin": b"", "c.txt": b"c"})
    done = subprocess.run(["mount", "--bind", str(memory), str(card / "bad.bin")], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no bind mount here, so no card with a bad file: {done.stderr.strip()}")
    try:
        result = case.ingest(card)
    finally:
        subprocess.run(["umount", str(card / "bad.bin")], check=True)
    assert {name: message.id for name, message in result.skipped.items()} == {"bad.bin": "custody.source_unreadable"}
    assert contents(case) == {"a.txt": b"a", "c.txt": b"c"}
    check_whole(place.workspace)


@posix
@pytest.mark.parametrize("how", ["removed", "cut", "replaced"])
def test_a_card_pulled_out_half_way(place: Place, how: str) -> None:
    case = place.workspace.new_case("1")
    files = {f"DCIM/{n:02d}.bin": bytes([n]) * (2 * BLOCK) for n in range(12)}
    card, pulled = place.card(files), threading.Event()

    def pull(stage: str, part: float) -> None:
        if stage == "custody.stage.copy" and part > 0.4 and not pulled.is_set():
            pulled.set()
            if how == "removed":
                shutil.rmtree(card)
            elif how == "replaced":
                card.rename(place.root / "old")
                place.card({path: b"another card" for path in files})
            else:
                for path in card.rglob("*.bin"):
                    os.truncate(path, 100)

    done = case.ingest(card, progress=pull)
    taken = contents(case)
    assert 0 < len(taken) < len(files) or how == "replaced"
    assert set(taken) | set(done.skipped) == set(files) and not set(taken) & set(done.skipped), "each is taken or named"
    # whole files only: of the first card, or what now stands under the name
    later = {"removed": None, "cut": 100, "replaced": len(b"another card")}[how]
    for path, data in taken.items():
        assert data == files[path] or len(data) == later, path
    check_whole(place.workspace)
    shutil.rmtree(card, ignore_errors=True)
    case.ingest(place.card(files))
    stored = {(item.path.split("/", 2)[2], item.sha256) for item in case.items(role="original")}
    assert {(path, digest_bytes(data).sha256) for path, data in files.items()} <= stored
    check_whole(place.workspace)


def test_files_that_swap_names_are_each_whole(place: Place) -> None:
    case = place.workspace.new_case("1")
    files = {f"{n}.bin": bytes([n]) * (BLOCK + n) for n in range(6)}
    card, swapped = place.card(files), threading.Event()

    def swap(stage: str, part: float) -> None:
        if stage == "custody.stage.copy" and part > 0.2 and not swapped.is_set():
            swapped.set()
            for one, two in ((4, 5), (0, 1)):
                os.rename(card / f"{one}.bin", card / "swap")
                os.rename(card / f"{two}.bin", card / f"{one}.bin")
                os.rename(card / "swap", card / f"{two}.bin")

    done = case.ingest(card, progress=swap)
    taken = contents(case)
    assert set(taken) | set(done.skipped) == set(files) and set(taken.values()) <= set(files.values())
    check_whole(place.workspace)


@posix
def test_a_folder_that_becomes_a_link_is_not_followed(place: Place) -> None:
    case = place.workspace.new_case("1")
    card = place.card({"DCIM/a.txt": b"mine", "b.txt": b"mine too"})
    secret = place.card({"a.txt": b"secret", "b.txt": b"secret"}, name="secret")

    def turn(stage: str, part: float) -> None:
        if (stage, part) == ("custody.stage.copy", 0.0) and not (card / "DCIM").is_symlink():
            shutil.rmtree(card / "DCIM")
            (card / "DCIM").symlink_to(secret)
            (card / "b.txt").unlink()
            (card / "b.txt").symlink_to(secret / "b.txt")
            (card / "c.txt").write_bytes(b"listed too late")

    with pytest.raises(CustodyError) as raised:
        case.ingest(card, progress=turn)
    assert raised.value.message_id == "custody.nothing_to_ingest"
    assert case.items(role="original") == () and place.workspace.scrub().status == "clean"


@posix
def test_a_file_that_turns_into_a_link_between_look_and_open_is_not_followed(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects", tmp_path / "tmp")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "ours").write_bytes(b"ours")
    (tmp_path / "card").mkdir()
    source, stop = tmp_path / "card" / "file", threading.Event()
    os.link(tmp_path / "ours", source)

    def flip() -> None:
        while not stop.is_set():
            os.symlink(tmp_path / "secret", tmp_path / "link")
            os.replace(tmp_path / "link", source)
            os.link(tmp_path / "ours", tmp_path / "file")
            os.replace(tmp_path / "file", source)

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        found = set()
        for number in range(300):
            try:
                found.add(store.add_file(source, under=source.parent if number % 2 else None).sha256)
            except InputError as error:
                found.add(error.message_id)
    finally:
        stop.set()
        flipping.join()
    assert digest_bytes(b"secret").sha256 not in found
    assert found <= {
        digest_bytes(b"ours").sha256,
        "custody.not_a_file",
        "custody.source_unreadable",  # opening met the link
        "custody.source_changed",  # a name more or less changes the file's own record
    }
    assert "custody.not_a_file" in found


# ---------------------------------------------------------------- large, and many

_LARGE = """
import re, sys
from pathlib import Path
from tests.custody.workspaces import Place
def peak():  # of this program alone; getrusage counts what the process was before it became this program
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
place = Place(Path(sys.argv[1]))
case = place.workspace.new_case("1")
case.ingest(Path(sys.argv[2]) / "small.txt")  # loads what an ingest needs
before = peak()
done = case.ingest(Path(sys.argv[2]) / "video.mp4")
print(len(done.items), done.items[0].size, done.items[0].sha256, (peak() - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sparse files and kilobytes of resident memory as Linux has them")
def test_a_sparse_file_of_two_gigabytes_in_constant_memory(tmp_path: Path, repository: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip("less than 6 GB free for a file of 2 GB and its copy")
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "small.txt").write_bytes(b"small")
    with (tmp_path / "card" / "video.mp4").open("wb") as stream:
        stream.truncate(2 << 30)
    command = [sys.executable, "-c", _LARGE, str(tmp_path / "place"), str(tmp_path / "card")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=120)
    assert done.returncode == 0, done.stderr
    items, size, sha256, megabytes = done.stdout.split()
    # `head -c 2147483648 /dev/zero | sha256sum`
    assert (items, size, sha256) == ("1", str(2 << 30), "a7c744c13cc101ed66c29f672f92455547889cc586ce6d44fe76ae824958ea51")
    # nine blocks of a megabyte for the file, half as much again for the allocator
    assert int(megabytes) < 14, megabytes
    shutil.rmtree(tmp_path / "place")


@pytest.mark.slow
def test_ten_thousand_tiny_files(place: Place) -> None:
    case = place.workspace.new_case("1")
    files = {f"{n // 100:03d}/{n}.txt": b"%d" % n for n in range(10_000)}
    done = case.ingest(place.card(files))
    assert len(done.items) == 10_000 and done.skipped == {} and contents(case) == files
    assert len(case.ingest(place.root / "card").already_present) == 10_000
    assert place.workspace.scrub().status == "clean"
