"""How files are listed, read and digested: order, threads, failing media, bounds, memory."""

from __future__ import annotations

import errno
import io
import os
import random
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.trust import FormatError, VerificationReport, checks, digest_bytes, verify_package
from geoevidence.trust import bag as bag_module
from geoevidence.trust.archive import Entry, archive_bytes, fold, sort_key
from geoevidence.trust.bag import Bag, Layout, _Paths
from geoevidence.trust.checks import _Package
from geoevidence.trust.container import Container, Defect, Report, open_container
from geoevidence.trust.digests import DigestingLines, FileDigester, has_fast_sm3
from geoevidence.trust.history import Hasher, HashSet, History, visible_leaves
from geoevidence.trust.holders import Holders
from geoevidence.trust.manifest import MAX_DOCUMENT
from geoevidence.trust.policy import DEMONSTRATION
from geoevidence.trust.sealed import Settings
from geoevidence.trust.verdict import MOST_KEPT, Check, Ledger
from tests.trust import tree
from tests.trust.builder import Files, sample_log, write_folder, write_zip

NAMES = st.text(st.sampled_from("aAbBéÉ.-~ß!照0\u0130\u0301"), min_size=1, max_size=4).filter(
    lambda name: name not in (".", "..")
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=12))
def test_a_folder_is_walked_in_the_order_of_the_package(tmp_path_factory: pytest.TempPathFactory, names: list[list[str]]) -> None:
    """Sorting each folder, with "/" after the names of folders, gives the order of whole paths, whatever the names."""
    root = tmp_path_factory.mktemp("walk")
    made = set()
    for parts in names:
        path = "/".join(parts)
        try:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"")
        except OSError:
            continue  # a file is where a folder is asked for, or the other way round
        made.add(path)
    with open_container(root) as container:
        found = [path for path, _ in container.files()]
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert found == sorted(there, key=sort_key) and made <= there


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=12, unique=True))
def test_collisions_are_found_among_neighbours(paths: list[str]) -> None:
    """The same answer as comparing every path with every other."""
    folded = sorted(paths, key=sort_key)
    ledger = Ledger()
    seen = _Paths(ledger)
    for path in folded:
        seen.add(path)
    clash = {
        after
        for n, after in enumerate(folded)
        for before in folded[:n]
        if fold(before) == fold(after) or fold(after).startswith(fold(before) + "/")
    }
    assert {check.subject for check in ledger.sorted() if check.detail == "trust.path_collides"} == clash


class Trouble(Container):
    """A folder whose medium fails, or changes, at chosen files. errors: path -> bytes that can be read before the error."""

    def __init__(self, inner: Container, *, errors: dict[str, int] | None = None, second: Files | None = None) -> None:
        self.inner, self.errors, self.second = inner, errors or {}, dict(second or {})
        self.path, self.label, self.readable = inner.path, inner.label, True
        self.opened: dict[str, int] = {}

    def files(self, report: Report | None = None) -> Iterator[tuple[str, int]]:
        return self.inner.files(report)

    def open(self, path: str) -> BinaryIO:
        stream = self.inner.open(path)
        self.opened[path] = self.opened.get(path, 0) + 1
        if path in self.errors:
            data = stream.read()
            stream.close()
            if self.errors[path] < 0:
                raise OSError(5, "Input/output error")
            return Failing(data[: self.errors[path]])
        if path in self.second and self.opened[path] > 1:
            stream.close()
            return io.BytesIO(self.second[path])
        return stream


class Failing(io.BytesIO):
    """Bytes, then an error in place of the end."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if size is None or size < 0 or len(data) < size:
            raise OSError(5, "Input/output error")
        return data


def verify(container: Container, *, sm3_limit: int | None = None) -> VerificationReport:
    return _Package(container, Settings(DEMONSTRATION, None, None, sm3_limit), [], None).report(())


@pytest.mark.parametrize("before", [-1, 0])
def test_a_medium_that_fails_is_said_and_blames_the_file(before: int, tmp_path: Path) -> None:
    files = tree.full()
    folder = write_folder(files, tmp_path / "P")
    for path in files:
        if path.endswith(".pdf"):
            continue
        with open_container(folder) as inner:
            report = verify(Trouble(inner, errors={path: before}))
        assert report.exit_code == 1, path
        assert any(check.name == "container" and check.subject == path for check in report.failures), (path, report.render("en"))
        report.render("zh")


@pytest.mark.parametrize("path", ["data/log/disclosures.jsonl", "data/findings.json"])
def test_a_file_that_changes_meanwhile(path: str, tmp_path: Path) -> None:
    files = tree.base()
    folder = write_folder(files, tmp_path / "P")
    with open_container(folder) as inner:
        report = verify(Trouble(inner, second={path: files[path].replace(b"E-", b"e-").replace(b"results", b"Results")}))
    assert report.exit_code == 1 and any(check.subject.startswith(path) for check in report.failures)


def test_a_folder_that_goes_away_while_it_is_listed(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"")
    defects: list[Defect] = []
    with open_container(tmp_path) as container:
        listing = container.files(defects.append)
        assert next(listing)[0] == "a"
        (tmp_path / "b" / "x").unlink()
        (tmp_path / "b").rmdir()
        assert list(listing) == []
    assert [(each.subject, each.detail) for each in defects] == [("b", "trust.unreadable")]


def test_folders_nested_too_deeply(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("d" * 1 for _ in range(70))
    deep.mkdir(parents=True)
    (deep / "x").write_bytes(b"")
    defects: list[Defect] = []
    with open_container(tmp_path) as container:
        assert list(container.files(defects.append)) == []
    assert [each.detail for each in defects] == ["trust.too_deep"]


def test_names_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with open_container(tmp_path) as container:
        for path in ("a\0b", "folder", "absent"):
            with pytest.raises(OSError):
                container.open(path)


def test_an_archive_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    archive = write_zip({f"data/{n:04d}": bytes([n % 256]) for n in range(300)}, tmp_path / "P.zip")
    with open_container(archive) as container:
        os.truncate(archive, 100)
        defects: list[Defect] = []
        # a first block may be in a buffer still
        assert len(list(container.files(defects.append))) < 2 and defects[0].detail == "trust.unreadable"
        with pytest.raises(OSError):
            container.open("data/0007")


def test_a_name_longer_than_most_and_many_entries(tmp_path: Path) -> None:
    files = {f"data/{'n' * 2000}{n}": b"x" for n in range(1500)}
    archive = tmp_path / "P.zip"
    archive.write_bytes(archive_bytes((f"P/{name}", data) for name, data in files.items()))
    with open_container(archive) as container:
        assert [path for path, _ in container.files()] == sorted(files, key=sort_key)
        for name in random.Random(1).sample(sorted(files), 20):
            with container.open(name) as stream:
                assert stream.read() == b"x"
        with pytest.raises(FileNotFoundError):
            container.open("data/nothing")


# ---- digests -------------------------------------------------------------------------------------------


def test_files_are_digested_in_order_whatever_the_threads_do(tmp_path: Path) -> None:
    rng = random.Random(7)
    sizes = [rng.choice([0, 1, 1000, 70_000, 3 << 20]) for _ in range(300)] + [65 << 20]
    content = {f"{n:03d}": rng.randbytes(size) for n, size in enumerate(sizes)}
    seen: list[int] = []
    digester = FileDigester(lambda path: io.BytesIO(content[path]), on_progress=seen.append)
    found = list(digester.digest((path, len(data)) for path, data in content.items()))
    assert [each.path for each in found] == list(content)
    assert all(each.digests == digest_bytes(content[each.path]) and each.error is None for each in found)
    assert seen == sorted(seen) and seen[-1] == sum(sizes)


def test_a_large_file_that_fails_half_way() -> None:
    digester = FileDigester(lambda path: Failing(bytes(1 << 20)))
    (found,) = digester.digest([("x", 65 << 20)])
    assert found.digests is None and found.error == "Input/output error"


def test_digesting_stops_when_the_taker_does() -> None:
    opened: list[str] = []

    def open_file(path: str) -> BinaryIO:
        opened.append(path)
        return io.BytesIO(b"x" * 100)

    results = FileDigester(open_file).digest((str(n), 5 << 20) for n in range(10_000))
    assert next(results).path == "0"
    results.close()  # type: ignore[attr-defined]
    assert len(opened) < 50


def test_lines_are_digested_as_they_are_read() -> None:
    data = b"one\n" + b"x" * 600_000 + b"\n\nlast\n"
    lines = DigestingLines(io.BytesIO(data), where="f", longest=1 << 20)
    assert list(lines) == [b"one", b"x" * 600_000, b"", b"last"]
    assert lines.finish() == digest_bytes(data)
    half = DigestingLines(io.BytesIO(data), where="f", longest=1 << 20, sm3=False)
    assert next(iter(half)) == b"one" and half.finish() == digest_bytes(data)._replace(sm3="")


@pytest.mark.parametrize(("data", "detail"), [(b"a\nb", "trust.text_end"), (b"a" * 20, "trust.line_long"), (b"a" * 20 + b"\n", "trust.line_long")])  # fmt: skip
def test_lines_refused(data: bytes, detail: str) -> None:
    lines = DigestingLines(io.BytesIO(data), where="f", longest=10)
    with pytest.raises(FormatError) as error:
        list(lines)
    assert error.value.message_id == detail and lines.finish() == digest_bytes(data)


def test_without_fast_sm3_large_packages_are_compared_by_sha256(tmp_path: Path) -> None:
    files = tree.base()
    folder = write_folder(files, tmp_path / "P")
    total = sum(map(len, files.values()))
    assert verify_package(folder, sm3_limit=total).verified
    report = verify_package(folder, sm3_limit=total - 1)
    assert report.exit_code == 2 and not report.failures and report.verdicts["intact"] == "not_checked"
    assert {check.name for check in report.checks if check.detail == "trust.sm3_slow"} == {"manifests", "files"}
    path = next(path for path in files if "照片" in path)
    (folder / path).write_bytes(files[path][:-1] + b"!")
    report = verify_package(folder, sm3_limit=0)
    assert {(check.name, check.subject) for check in report.failures} == {("files", path)}
    assert has_fast_sm3() == verify_package(write_folder(files, tmp_path / "Q")).verified


def test_a_second_reading_passes_over_what_cannot_be_read() -> None:
    lines = [b"x", tree.sample().leaves[0], b'{"withheld":"' + b"0" * 64 + b'"}', tree.sample().leaves[1]]
    assert [(index, subject) for index, subject, _ in visible_leaves(lines, "f")] == [(1, "f:2"), (3, "f:4")]

    def broken() -> Iterator[bytes]:
        yield tree.sample().leaves[0]
        raise OSError(5, "Input/output error")

    assert len(list(visible_leaves(broken(), "f"))) == 1


@pytest.mark.parametrize("most", [1, None])
def test_an_event_has_so_many_outputs(most: int | None) -> None:
    ledger = Ledger()
    history = History("f", ledger=ledger, holders=Holders(DEMONSTRATION), hasher=Hasher(), most_outputs=most)
    history.read(tree.sample().leaves)
    found = [check.subject for check in ledger.sorted() if check.detail == "trust.event_outputs"]
    assert found == ([] if most is None else ["f:2", "f:3"])


# ---- bounds ---------------------------------------------------------------------------------------------


def test_a_document_longer_than_any_honest_one(tmp_path: Path) -> None:
    folder = write_folder(tree.base(), tmp_path / "P")
    for path, check in (("seal/statement.dsse", "seal"), ("data/log/keys.json", "keys"), ("bagit.txt", "container")):
        kept = (folder / path).read_bytes()
        os.truncate(folder / path, MAX_DOCUMENT + 1)
        report = verify_package(folder)
        assert report.exit_code == 1
        assert any(each.detail == "trust.document_size" and each.name == check for each in report.failures), path
        (folder / path).write_bytes(kept)


def test_a_report_does_not_grow_without_bound() -> None:
    ledger = Ledger()
    for n in range(MOST_KEPT + 7):
        ledger.fail("files", str(n), "trust.digest_wrong")
    ledger.add(Check("files", "all", "passed"))
    checks = ledger.sorted()
    assert len(checks) == MOST_KEPT + 2 and checks[-1].values == {"count": 7} and checks[-1].status == "failed"


def test_a_damaged_manifest_does_not_hide_a_changed_file(tmp_path: Path) -> None:
    """One manifest is wrong in every line: it is blamed alone, and the one file that was changed is still named."""
    many = {f"data/originals/{n:05d}": b"%d" % n for n in range(MOST_KEPT + 60)}
    files = {path: data for path, data in many.items()}
    from geoevidence.trust.manifest import manifest_bytes

    right = manifest_bytes({path: digest_bytes(data).sha256 for path, data in files.items()})
    wrong = manifest_bytes({path: "0" * 64 for path in files})
    files["manifest-sha256.txt"], files["manifest-sm3.txt"] = right, wrong
    files["data/originals/00007"] = b"changed"
    folder = write_folder(files, tmp_path / "P")
    ledger = Ledger()
    with open_container(folder) as container:
        bag = Bag(container, ledger, Hasher(), sm3=True)
        layout = Layout("supplement")
        bag.scan(layout)
        bag.merge(layout)
        digests = digest_bytes(right)
        stated = {name: ("0" * 64, "0" * 64) for name in ("manifest-sm3.txt", "tagmanifest-sha256.txt", "tagmanifest-sm3.txt")}
        bag.check_manifests(layout, {**stated, "manifest-sha256.txt": (digests.sha256, digests.sm3)}, "seal", "x")
    failures = [check for check in ledger.sorted() if check.status == "failed" and check.name in ("files", "manifests")]
    assert {(check.name, check.subject) for check in failures} == {
        ("files", "data/originals/00007"),
        ("manifests", "manifest-sm3.txt"),
    }


def test_hashes_are_found_again() -> None:
    made = HashSet()
    hasher = Hasher()
    values = [hasher.of("path", n) for n in range(1000)]
    for value in values[::2]:
        made.add(value)
    assert len(made) == 500 and all((value in made) == (n % 2 == 0) for n, value in enumerate(values))
    assert hasher.of("a", "b") != Hasher().of("a", "b")


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    """Twice the files, nearly the same peak: what is kept of a file is some 40 bytes."""
    peaks = []
    for many in (1500, 3000):
        archive = write_zip(tree.grown(lambda log, many=many: log.append("copied", {f"originals/{{e}}/{n:05d}": b"" for n in range(many)}))(), tmp_path / f"{many}.zip")  # fmt: skip
        tracemalloc.start()
        assert verify_package(archive).verified
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # one event holds all of them here, and a leaf is in memory while it is read: some 5 kB an output
    assert peaks[1] - peaks[0] < 1500 * 8000


def test_an_entry_that_goes_away_while_its_folder_is_listed(tmp_path: Path) -> None:
    """Whichever of two links is met first, the other is gone when its turn comes: it is said, and the rest is listed."""
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("elsewhere")
    (tmp_path / "file").write_bytes(b"")
    defects: list[Defect] = []

    def report(defect: Defect) -> None:
        defects.append(defect)
        for name in {"a", "b"} - {defect.subject}:
            (tmp_path / name).unlink(missing_ok=True)

    with open_container(tmp_path) as container:
        assert list(container.files(report)) == [("file", 0)]
    assert {each.subject for each in defects} == {"a", "b"}
    assert [(each.detail, each.found) for each in defects] == [
        ("trust.not_a_file", None),
        ("trust.unreadable", os.strerror(errno.ENOENT)),
    ]


def test_a_member_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    content = bytes(1 << 20)
    archive = write_zip({"data/big": content}, tmp_path / "P.zip")
    with open_container(archive) as container, container.open("data/big") as stream:
        assert stream.read(10) == content[:10]
        os.truncate(archive, 1 << 19)
        with pytest.raises(OSError, match="zip"):
            stream.read()
        # who only lists asks for no report; the list ends where the directory is gone
        assert list(container.files()) == []


def test_an_end_that_asks_for_a_zip64_record_without_room_for_one(tmp_path: Path) -> None:
    archive = tmp_path / "P.zip"
    archive.write_bytes(b"PK\5\6" + bytes(4) + b"\xff" * 12 + bytes(2))
    with open_container(archive) as container:
        defects: list[Defect] = []
        assert list(container.files(defects.append)) == [] and not container.readable
    assert [(each.subject, each.detail, each.found) for each in defects] == [("P.zip", "trust.zip_directory", "ZIP64")]


def test_a_name_too_long_for_an_archive_is_refused() -> None:
    longest = Entry("n" * 0xFFFF, 0, 0, 0)
    assert len(longest.local_header()) == len(Entry("", 0, 0, 0).local_header()) + 0xFFFF
    for make in (Entry.local_header, Entry.central_header):
        with pytest.raises(FormatError) as error:
            make(Entry("n" * 0x10000, 0, 0, 0))
        assert error.value.message_id == "trust.path_bad"


def test_a_container_of_no_known_kind_gives_no_files(tmp_path: Path) -> None:
    """An empty list would be a package without files."""
    unknown = Container(tmp_path)
    for use in (unknown.files, lambda: unknown.open("x")):
        with pytest.raises(NotImplementedError):
            use()


def test_progress_is_told_while_one_file_takes_long() -> None:
    """A file on a slow medium: the taker hears of it before the file is done."""
    told, heard = [], threading.Event()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert heard.wait(30), "nothing was told while the file was read"
            return super().read(size)

    def tell(done: int) -> None:
        told.append(done)
        heard.set()

    (found,) = FileDigester(lambda path: Slow(b"slow"), on_progress=tell).digest([("x", 4)])
    assert found.digests == digest_bytes(b"slow") and told[0] == 0 and told[-1] == 4


def test_without_fast_sm3_the_limit_is_chosen_by_the_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tree.base(), tmp_path / "P")
    monkeypatch.setattr(checks, "has_fast_sm3", lambda: False)
    assert sum(map(len, tree.base().values())) < checks.SM3_LIMIT and verify_package(folder).verified
    monkeypatch.setattr(checks, "SM3_LIMIT", 100)
    report = verify_package(folder)
    assert not report.failures and {check.name for check in report.checks if check.detail == "trust.sm3_slow"} == {
        "manifests",
        "files",
    }
    assert verify_package(folder, slow=True).verified
    monkeypatch.setattr(checks, "has_fast_sm3", lambda: True)
    assert verify_package(folder).verified


def test_of_very_many_changed_files_the_first_are_named_and_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bag_module, "MOST_KEPT", 3)
    files = tree.sealed(sample_log(many=10))
    changed = [path for path in files if "/many/" in path]
    report = verify_package(write_folder({**files, **{path: b"changed" for path in changed}}, tmp_path / "P"))
    found = [check for check in report.failures if check.name == "files"]
    assert {check.subject for check in found} == {*sorted(changed, key=sort_key)[:3], "data/"}
    assert [check.values["count"] for check in found if check.detail == "trust.and_more"] == [7]


def test_a_changed_file_is_named_with_its_digest_where_no_manifest_can_be_believed(tmp_path: Path) -> None:
    """Neither manifest is the one that was signed; the log still says what the file was."""
    path = tree.find(tree.base(), "照片")
    files = {**tree.flipped("manifest-sm3.txt", make=tree.flipped("manifest-sha256.txt"))(), path: b"changed"}
    report = verify_package(write_folder(files, tmp_path / "P"))
    (check,) = (check for check in report.failures if check.name == "items" and check.subject == path)
    found, stated = digest_bytes(b"changed"), digest_bytes(tree.base()[path])
    assert check.detail == "trust.item_digest" and found.sha256 in (check.found or "") and stated.sha256 in (check.expected or "")
