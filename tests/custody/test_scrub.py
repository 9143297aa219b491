"""Reading the store again: everything that is not as recorded is named, with what rests on it; nothing is touched."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from geoevidence.custody import Case, ScrubReport
from geoevidence.errors import CustodyError, LogInconsistentError
from geoevidence.trust.digests import digest_bytes
from tests.custody.test_log import edit_database
from tests.custody.workspaces import CARD, Place, full_case

FILES = {f"DCIM/{n}.JPG": b"photo %d" % n * 5000 for n in range(6)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    case = place.workspace.new_case("1")
    case.ingest(place.card(FILES))
    return case


def path_of(place: Place, name: str) -> Path:
    sha256 = digest_bytes(FILES[name]).sha256
    return place.workspace.path / "objects" / sha256[:2] / sha256


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def named(report: ScrubReport) -> list[tuple[str, str, bool]]:
    return [(defect.kind, Path(defect.path).name, defect.damage) for defect in report.defects]


def snapshot(place: Place) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of all files of the workspace; the database's shared memory is no data."""
    return {
        path.as_posix(): (path.lstat().st_mode, path.read_bytes())
        for path in sorted(place.workspace.path.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def test_an_untouched_store_is_clean(place: Place) -> None:
    full_case(place)
    place.workspace.new_case("other").ingest(place.card(CARD), label="the same card")
    stages: list[tuple[str, float]] = []
    before = snapshot(place)
    report = place.reopened().scrub(progress=lambda stage, part: stages.append((stage, part)))
    assert report.status == "clean" and report.defects == () and report.whole
    stored = [path for path in (place.workspace.path / "objects").rglob("*") if path.is_file()]
    assert report.objects == report.intact == len(stored)
    assert report.size == sum(path.stat().st_size for path in stored)
    assert set(report.cases) == {"川检 2026-1", "other"}
    assert stages[0] == ("custody.stage.scrub", 0.0) and stages[-1] == ("custody.stage.scrub", 1.0)
    assert all(0 <= part <= 1 for _, part in stages)
    assert snapshot(place) == before


def test_flipped_deleted_added_and_swapped_are_each_named(place: Place, case: Case) -> None:
    flipped, deleted, first, second = (path_of(place, f"DCIM/{n}.JPG") for n in range(4))
    data = bytearray(flipped.read_bytes())
    data[12_345] ^= 1
    overwrite(flipped, bytes(data))
    deleted.unlink()
    one, two = first.read_bytes(), second.read_bytes()
    overwrite(first, two)
    overwrite(second, one)
    added = place.workspace.path / "objects" / "ab" / ("ab" + "0" * 62)
    added.parent.mkdir(exist_ok=True)
    added.write_bytes(b"planted")
    before = snapshot(place)
    report = place.reopened().scrub()
    assert report.status == "damaged"
    assert sorted(named(report)) == sorted(
        [
            ("changed", flipped.name, True),
            ("missing", deleted.name, True),
            ("changed", first.name, True),
            ("changed", second.name, True),
            ("extra", added.name, False),
        ]
    )
    assert (report.objects, report.intact) == (7, 3)  # six photographs and the case sheet
    by_name = {Path(defect.path).name: defect for defect in report.defects}
    assert by_name[flipped.name].found == digest_bytes(bytes(data)).sha256
    assert by_name[first.name].found == second.name and by_name[first.name].message.id == "custody.scrub.swapped"
    assert by_name[second.name].found == first.name
    assert by_name[added.name].message.id == "custody.scrub.extra_other" and by_name[added.name].items == ()
    for number, path in enumerate((flipped, deleted, first, second)):
        (item,) = by_name[path.name].items
        assert (item.number, item.case) == ("1", case.id) and item.path.endswith(f"/DCIM/{number}.JPG")
        assert item.item in {known.id for known in case.items()}
    assert snapshot(place) == before, "a scrub repairs and deletes nothing"
    json.dumps(report.to_dict())
    for lang in ("zh", "en"):
        assert all(
            "{" not in defect.message.render(lang) and "scrub." not in defect.message.render(lang) for defect in report.defects
        )


@pytest.mark.parametrize("position", [0, 1, 17_000, -1])
def test_every_flipped_bit_shows(place: Place, case: Case, position: int) -> None:
    path = path_of(place, "DCIM/5.JPG")
    data = bytearray(path.read_bytes())
    data[position] ^= 0x80
    overwrite(path, bytes(data))
    assert named(place.workspace.scrub()) == [("changed", path.name, True)]


def test_cut_and_grown_objects(place: Place, case: Case) -> None:
    cut, grown, emptied = (path_of(place, f"DCIM/{n}.JPG") for n in range(3))
    overwrite(cut, cut.read_bytes()[:-1])
    overwrite(grown, grown.read_bytes() + b"\0")
    overwrite(emptied, b"")
    assert sorted(named(place.workspace.scrub())) == sorted(("changed", path.name, True) for path in (cut, grown, emptied))


def test_an_object_names_every_case_that_rests_on_it(place: Place, case: Case) -> None:
    second = place.workspace.new_case("2")
    second.ingest(place.root / "card")
    path_of(place, "DCIM/0.JPG").unlink()
    (defect,) = place.workspace.scrub().defects
    assert [(item.number, item.path.split("/", 2)[2]) for item in defect.items] == [("1", "DCIM/0.JPG"), ("2", "DCIM/0.JPG")]
    assert {item.case for item in defect.items} == {case.id, second.id}


def test_one_case_alone(place: Place, case: Case) -> None:
    second = place.workspace.new_case("2")
    second.ingest(place.card({"two.txt": b"two"}, name="other"))
    path_of(place, "DCIM/0.JPG").unlink()
    (place.workspace.path / "objects" / "stray").write_bytes(b"x")
    other = place.workspace.scrub(case="2")
    assert other.status == "clean" and other.cases == ("2",) and not other.whole and other.objects == 2
    mine = place.workspace.scrub(case=case.id)
    assert named(mine) == [("missing", path_of(place, "DCIM/0.JPG").name, True)]
    with pytest.raises(CustodyError) as raised:
        place.workspace.scrub(case="3")
    assert raised.value.message_id == "custody.no_such_case"


def test_what_is_out_of_order_without_damage(place: Place, case: Case) -> None:
    objects = place.workspace.path / "objects"
    (objects / "stray.txt").write_bytes(b"stray")
    copied = objects / "00" / path_of(place, "DCIM/0.JPG").name
    copied.parent.mkdir(exist_ok=True)
    shutil.copyfile(path_of(place, "DCIM/0.JPG"), copied)
    orphan = place.workspace._objects.add_bytes(b"stored, never recorded").sha256
    path_of(place, "DCIM/1.JPG").chmod(0o644)
    report = place.workspace.scrub()
    assert report.status == "incomplete" and report.intact == report.objects
    assert sorted(named(report)) == sorted(
        [
            ("extra", "stray.txt", False),
            ("misplaced", copied.name, False),
            ("extra", orphan, False),
            ("writable", path_of(place, "DCIM/1.JPG").name, False),
        ]
    )
    ids = {(defect.kind, Path(defect.path).name): defect.message.id for defect in report.defects}
    assert ids[("extra", orphan)] == "custody.scrub.extra" and ids[("extra", "stray.txt")] == "custody.scrub.extra_other"
    assert [item.path.rpartition("/")[2] for d in report.defects if d.kind == "misplaced" for item in d.items] == ["0.JPG"]


def test_an_object_moved_to_the_wrong_folder_is_missing_and_found(place: Place, case: Case) -> None:
    path = path_of(place, "DCIM/2.JPG")
    wrong = path.parents[1] / ("0" * 2 if path.name[:2] != "00" else "11") / path.name
    wrong.parent.mkdir(exist_ok=True)
    path.rename(wrong)
    report = place.workspace.scrub()
    assert sorted(named(report)) == [("misplaced", path.name, False), ("missing", path.name, True)]
    assert report.status == "damaged" and {defect.path for defect in report.defects} == {
        f"objects/{path.name[:2]}/{path.name}",
        f"objects/{wrong.parent.name}/{path.name}",
    }


@pytest.mark.skipif(os.name == "nt", reason="no links or pipes of this kind on Windows")
def test_links_pipes_and_folders_in_the_store_are_not_read(place: Place, case: Case) -> None:
    objects = place.workspace.path / "objects"
    linked, folder, piped = (path_of(place, f"DCIM/{n}.JPG") for n in range(3))
    shutil.copyfile(linked, place.root / "elsewhere")
    linked.unlink()
    linked.symlink_to(place.root / "elsewhere")  # the right bytes, but not the store's
    folder.unlink()
    folder.mkdir()
    piped.unlink()
    os.mkfifo(piped)
    through = path_of(place, "DCIM/3.JPG").parent
    through.rename(place.root / "moved")
    through.symlink_to(place.root / "moved")
    (objects / "sock").symlink_to("/dev/zero")
    report = place.workspace.scrub()
    kinds = {(defect.kind, Path(defect.path).name) for defect in report.defects}
    expected = {("replaced", path.name) for path in (linked, folder, piped, path_of(place, "DCIM/3.JPG"))}
    assert expected <= kinds and ("extra", "sock") in kinds and ("extra", through.name) in kinds
    assert report.status == "damaged" and report.intact <= 3


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_what_cannot_be_read_is_not_counted_as_whole(place: Place, case: Case) -> None:
    hidden = path_of(place, "DCIM/0.JPG")
    place.log_store.close()
    hidden.chmod(0)
    for folder in [place.root, *place.root.rglob("*")]:
        os.chmod(folder, folder.stat().st_mode | 0o007) if folder != hidden else None
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from geoevidence.catalogue import open_log_store\n"
        "from geoevidence.custody import Workspace\n"
        "from tests.custody.workspaces import session\n"
        "root = Path(sys.argv[1])\n"
        "who = session(root / 'keys')\n"
        "workspace = Workspace.open(root / 'workspace', session=who, log_store=open_log_store(root / 'workspace'))\n"
        "workspace.scrub()\n"  # loads what it needs, while this user may still read the interpreter's folder
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "report = workspace.scrub()\n"
        "print(json.dumps([report.status, report.objects - report.intact, [[d.kind, d.damage] for d in report.defects]]))\n"
    )
    for folder in place.root.parents:
        if not folder.stat().st_mode & 0o001:
            os.chmod(folder, folder.stat().st_mode | 0o001)  # pytest's own folders, closed to others
    done = subprocess.run([sys.executable, "-c", code, str(place.root)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    status, lost, defects = json.loads(done.stdout)
    assert (status, lost) == ("incomplete", 1)
    assert [each for each in defects if each[0] == "unreadable"] == [["unreadable", False]]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is a regular file that gives EIO on Linux only")
def test_a_failing_medium_is_damage(place: Place, case: Case) -> None:
    bad = path_of(place, "DCIM/0.JPG")
    bad.write_bytes(b"")
    done = subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/mem", str(bad)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no bind mount here, so no file that gives EIO: {done.stderr.strip()}")
    try:
        report = place.workspace.scrub()
    finally:
        subprocess.run(["umount", str(bad)], check=True)
    found = [defect for defect in report.defects if defect.kind == "unreadable"]
    assert [(Path(d.path).name, d.damage) for d in found] == [(bad.name, True)] and report.status == "damaged"
    assert "Input/output error" in found[0].message.render("en")


@pytest.mark.parametrize(
    "statement", ["update leaf set data = X'7b7d' where position = 1", "delete from leaf where position = 1"]
)
def test_a_log_that_was_tampered_with_is_named(place: Place, case: Case, statement: str) -> None:
    place.log_store.close()
    with sqlite3.connect(place.workspace.path / "catalogue.sqlite") as connection:
        connection.execute(statement)
    connection.close()
    report = place.reopened().scrub()
    logs = [defect for defect in report.defects if defect.kind == "log"]
    assert report.status == "damaged" and logs and all(defect.path == case.origin and defect.damage for defect in logs)


def test_a_record_with_another_sm3_is_named(place: Place) -> None:
    case = place.workspace.new_case("1")
    stored = place.workspace._objects.add_bytes(b"a report")
    wrong = type(stored)(sha256=stored.sha256, sm3="0" * 64, size=stored.size)
    from geoevidence.custody.log import NewFile

    with case._log.writing() as appender:
        appender.append("reported", outputs=[NewFile(folder="report", name="report.pdf", file=wrong)])
    (defect,) = place.workspace.scrub().defects
    assert (defect.kind, defect.damage, defect.sha256) == ("record", True, stored.sha256)
    assert [item.path.rpartition("/")[2] for item in defect.items] == ["report.pdf"]


def test_the_command(place: Place, case: Case, repository: Path) -> None:
    place.log_store.close()
    env = {**os.environ, "GEOEVIDENCE_KEYS": str(place.root / "keys"), "PYTHONUTF8": "1", "GEOEVIDENCE_LANG": "zh"}

    def scrub(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli", "custody", "scrub", "-w", str(place.workspace.path), *words]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, cwd=repository, timeout=60)

    clean = scrub()
    assert clean.returncode == 0 and "完好" in clean.stdout, clean.stderr
    (place.workspace.path / "objects" / "stray").write_bytes(b"x")
    extra = scrub("--json")
    assert extra.returncode == 2 and json.loads(extra.stdout)["status"] == "incomplete"
    assert scrub("--case", "1").returncode == 0
    path_of(place, "DCIM/4.JPG").unlink()
    damaged = scrub("--case", "1")
    assert damaged.returncode == 1 and "缺失" in damaged.stdout and "DCIM/4.JPG" in damaged.stdout
    assert scrub("--case", "none").returncode == 1


@pytest.mark.parametrize("change", ["acquired = '2020-01-01T00:00:00Z', acquired_from = 'exif'", "media_type = 'text/plain'"])
def test_what_the_catalogue_says_of_a_file_is_what_the_file_says(place: Place, change: str) -> None:
    """A report states the time in a photo from there."""
    case = full_case(place)
    with sqlite3.connect(place.workspace.path / "catalogue.sqlite") as connection:
        connection.execute(f"UPDATE item_view SET {change} WHERE path LIKE '%DJI_0001.JPG'")
    connection.close()
    assert [(each.kind, each.message.id) for each in place.reopened().scrub().defects] == [("log", "custody.views_differ")]
    with pytest.raises(LogInconsistentError) as caught:
        place.reopened().case(case.id).require_consistent_log()
    assert caught.value.message_id == "custody.views_differ"


def test_what_a_commitment_hides_is_missed(place: Place) -> None:
    """Without it the name of who acted could never be shown again, and no digest would tell."""
    full_case(place)
    with sqlite3.connect(place.workspace.path / "catalogue.sqlite") as connection:
        connection.execute("DELETE FROM disclosure WHERE field = 'actor.id' AND event_id LIKE '%-2'")
    connection.close()
    report = place.reopened().scrub()
    assert [(each.kind, each.damage, each.message.id) for each in report.defects] == [("log", True, "custody.scrub.disclosures")]
    assert report.defects[0].message.values["fields"] == "actor.id"


def test_a_sheet_that_is_lost_is_told_once_as_an_object(place: Place, case: Case) -> None:
    sheet = case.events()[0].outputs[0].sha256
    path = place.workspace.path / "objects" / sheet[:2] / sheet
    path.unlink()
    report = place.workspace.scrub()
    assert named(report) == [("missing", sheet, True)] and report.status == "damaged"


def test_folders_and_strangers_that_cannot_be_read_are_named(place: Place, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may hold anything: the store is neither clean nor damaged, as far as is known."""
    closed, stranger = path_of(place, "DCIM/0.JPG").parent, place.workspace.path / "objects" / "stranger"
    stranger.write_bytes(b"stranger")
    scandir, open_, lstat = os.scandir, os.open, Path.lstat

    def refuse(path: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) if path == closed else scandir(path))
    monkeypatch.setattr(os, "open", lambda path, *a, **o: refuse(path) if path == stranger else open_(path, *a, **o))
    monkeypatch.setattr(Path, "lstat", lambda self: refuse(self) if self == stranger else lstat(self))
    report = place.workspace.scrub()
    monkeypatch.undo()
    assert named(report) == [("unreadable", closed.name, False), ("unreadable", "stranger", False)]
    assert all(os.strerror(errno.EACCES) in defect.message.render("en") for defect in report.defects)
    assert report.status == "incomplete" and report.intact == report.objects


def test_a_log_that_cannot_be_read_at_all_is_told_once(place: Place, case: Case) -> None:
    edit_database(place, "DROP TABLE leaf")
    defects = [defect for defect in place.reopened().scrub().defects if defect.kind == "log"]
    assert [(defect.path, defect.damage, defect.message.id) for defect in defects] == [
        (case.origin, True, "custody.log_not_read")
    ]
