"""The files of a package against its manifests and its list of items (checks 1.1 to 1.3, 1.5 to 1.9).

All files are read once, in the order of the package; the two payload manifests and items.json are
in the same order, so that the four are merged line by line and nothing has to be remembered but
what disagrees. A manifest is digested in the reading in which it is parsed; what it says counts only
if those digests turn out to be the stated ones. Reports to a `Ledger`. Standard library only.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional, Union

from geoevidence.trust import manifest
from geoevidence.trust.archive import fold, sort_key
from geoevidence.trust.container import Container, Defect
from geoevidence.trust.digests import DigestedFile, DigestingLines, FileDigester, FileDigests, digest_bytes
from geoevidence.trust.errors import FormatError, GeoEvidenceError
from geoevidence.trust.events import path_defect
from geoevidence.trust.history import Hasher
from geoevidence.trust.merkle import RootBuilder
from geoevidence.trust.verdict import MOST_KEPT, Ledger

Progress = Callable[[str, float], None]
"""Called with a message id of the stage and the fraction done, 0 to 1."""
PACKAGE, REDACTED, SUPPLEMENT = "package", "redacted", "supplement"
_STREAMED = {"items.json", *manifest.PAYLOAD_MANIFESTS}


@dataclass(frozen=True)
class Layout:
    """Which files a kind of package has.

    required: must be there. tags: listed by the tag manifests. has_items: items.json is one of them.
    """

    kind: str
    version: int = 2

    @property
    def tags(self) -> tuple[str, ...]:
        if self.kind == SUPPLEMENT:
            return manifest.SUPPLEMENT_TAG_FILES
        return manifest.TAG_FILES_V1 if self.version == 1 else manifest.TAG_FILES

    @property
    def required(self) -> tuple[str, ...]:
        if self.kind == SUPPLEMENT:
            plain: tuple[str, ...] = (manifest.SUPPLEMENT, manifest.SUPPLEMENT_KEYS, manifest.STATEMENT, manifest.CLOSING)
        elif self.version == 1:
            plain = (*manifest.PLAIN_FILES_V1, *manifest.SEAL_FILES)
        else:
            plain = (*manifest.PLAIN_FILES, *manifest.SEAL_FILES, manifest.CLOSING)
        redaction = (manifest.REDACTION,) if self.kind == REDACTED else ()
        return (*self.tags, *manifest.TAG_MANIFESTS, *plain, *redaction)

    @property
    def has_items(self) -> bool:
        return self.kind != SUPPLEMENT

    def is_optional(self, path: str) -> bool:
        """True for a file that may be there."""
        folder, _, name = path.rpartition("/")
        evidence = manifest.evidence_number(name) if folder == "seal" else None
        if self.kind == SUPPLEMENT:
            return path.startswith(manifest.SUPPLEMENT_FILES) or (evidence is not None and evidence[0] == "time")
        if manifest.is_item_path(path):
            return True
        if self.version == 1:
            return False
        return evidence is not None or path == manifest.RECOMPUTE or manifest.attested_event(path) is not None


class _Anomaly(NamedTuple):
    """A path on which the sources disagree. None: the source does not have it; `_UNKNOWN`: it broke off before."""

    path: str
    found: Union[FileDigests, str, None]
    sha256: Optional[str]
    sm3: Optional[str]
    line: Union[manifest.ItemLine, str, None]


_UNKNOWN = "?"
_UNREADABLE = "!"


class _Source:
    """One sorted list while it is merged. key: of the path at hand, None at the end. error: what broke it off."""

    def __init__(self, rows: Iterator[tuple[str, Any]]) -> None:
        self._rows = rows
        self.path: Optional[str] = None
        self.key: Optional[tuple[str, str]] = None
        self.value: Any = None
        self.error: Optional[GeoEvidenceError] = None
        self.advance()

    def advance(self) -> None:
        try:
            self.path, self.value = next(self._rows)
            self.key = sort_key(self.path)
        except StopIteration:
            self.path = self.key = self.value = None
        except GeoEvidenceError as error:
            self.path = self.key = self.value = None
            self.error = error

    def require(self) -> None:
        """Raises what broke the list off."""
        if self.error is not None:
            raise self.error

    def take(self, key: tuple[str, str]) -> Any:
        """The value at `key`, moving on; None where the list does not have it."""
        if self.key != key:
            return None if self.error is None else _UNKNOWN
        value = self.value
        self.advance()
        return value


@dataclass
class Contents:
    """What the files of a package came to.

    files, size: number and bytes of all. payload_files, payload_size: of those under data/.
    item_hashes: of the files of the item folders, in the order of the package; item_sum: sum of the hashes of (path, item id)
    in items.json. lines, withheld: of items.json. attestations: event id -> sha256 of the file.
    """

    files: int = 0
    size: int = 0
    payload_files: int = 0
    payload_size: int = 0
    seal: list[str] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    lined: set[str] = field(default_factory=set)
    item_hashes: Any = field(default_factory=lambda: array("Q"))
    item_sum: int = 0
    lines: int = 0
    withheld: int = 0
    root: str = ""
    attestations: dict[str, str] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    blamed: set[str] = field(default_factory=set)


class Bag:
    """A package as a BagIt bag.

    digests: of the files that were read as documents, and of those outside data/. sm3: SM3 is compared for the payload too.
    """

    def __init__(
        self, container: Container, ledger: Ledger, hasher: Hasher, *, sm3: bool, progress: Optional[Progress] = None
    ) -> None:
        self.container, self.ledger, self.sm3 = container, ledger, sm3
        self.digests: dict[str, FileDigests] = {}
        self.data: dict[str, bytes] = {}
        self.contents = Contents()
        self.items_usable = False
        self.watched: set[str] = set()
        """Files under data/ whose digests are kept as well."""
        self._hasher, self._progress = hasher, progress
        self._anomalies: dict[tuple[bool, ...], list[_Anomaly]] = {}
        self._uncounted: Counter[tuple[bool, ...]] = Counter()
        self._wrong_leaves: list[str] = []
        self._found: Optional[dict[str, FileDigests]] = None
        self._sources: dict[str, _Source] = {}

    # ---- documents -----------------------------------------------------------------------------------

    def read(self, path: str, check: str = "container", *, limit: int = manifest.MAX_DOCUMENT) -> Optional[bytes]:
        """The bytes of a document, digested as read; None where it is not there or cannot be read, which is reported."""
        if path in self.data:
            return self.data[path]
        try:
            with self.container.open(path) as stream:
                data = stream.read(limit + 1)
                if len(data) > limit:
                    self.ledger.fail(check, path, "trust.document_size", where=path, limit=limit)
                    return None
                self._note_defect(path, None, getattr(stream, "defect", None))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note_defect(path, error.strerror or str(error), None)
            return None
        self.data[path], self.digests[path] = data, digest_bytes(data)
        return data

    @contextmanager
    def lines(self, path: str, *, longest: int, sm3: bool = True) -> Iterator[Optional[DigestingLines]]:
        """The lines of a file, digested to its end when the context is left; None where it is not there or cannot be read."""
        try:
            stream = self.container.open(path)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            self._note_defect(path, error.strerror or str(error), None)
            yield None
            return
        with stream:
            lines = DigestingLines(stream, where=path, longest=longest, sm3=sm3)
            yield lines
            try:
                found = lines.finish()
            except OSError as error:
                self._note_defect(path, error.strerror or str(error), None)
                return
            # a second reading must be of the same bytes
            if self.digests.setdefault(path, found).sha256 != found.sha256:
                self.ledger.fail("container", path, "trust.changed_meanwhile")
            self._note_defect(path, None, getattr(stream, "defect", None))

    def item(self, path: str, sha256: str, *, limit: int = manifest.MAX_DOCUMENT) -> Optional[bytes]:
        """The bytes of a small file where they have a digest that is known from elsewhere, else None."""
        try:
            with self.container.open(path) as stream:
                data = stream.read(limit + 1)
        except OSError:
            return None
        return data if len(data) <= limit and digest_bytes(data).sha256 == sha256 else None

    def _note_defect(self, path: str, error: Optional[str], defect: Optional[Defect]) -> None:
        if error is not None and path not in self.contents.unreadable:
            self.contents.unreadable.add(path)
            self.ledger.fail("container", path, "trust.unreadable", found=error)
        if defect is not None and path not in self.contents.blamed:
            self.ledger.fail("container", path, defect.detail, expected=defect.expected, found=defect.found)

    # ---- 1.1 to 1.3 ----------------------------------------------------------------------------------

    def scan(self, layout: Layout) -> None:
        """List all files: container, paths, layout."""
        contents, ledger = self.contents, self.ledger
        missing = set(layout.required)
        numbers: dict[str, list[int]] = {}
        paths = _Paths(ledger)

        def report(defect: Defect) -> None:
            ledger.fail("container", defect.subject, defect.detail, expected=defect.expected, found=defect.found)

        for path, size in self.container.files(report):
            contents.files += 1
            contents.size += size
            if path.startswith("data/"):
                contents.payload_files += 1
                contents.payload_size += size
            # 1.2
            paths.add(path)
            # 1.3
            if path in missing:
                missing.discard(path)
            elif not layout.is_optional(path):
                ledger.fail("layout", path, "trust.file_unexpected")
            if path in layout.required:
                contents.present.add(path)
            if path.startswith("seal/"):
                contents.seal.append(path)
                evidence = manifest.evidence_number(path[5:])
                if evidence is not None:
                    numbers.setdefault(evidence[0], []).append(evidence[1])
        for path in layout.required:
            if path in missing:
                ledger.fail("layout", path, "trust.file_missing")
        for kind, found in numbers.items():
            for position, number in enumerate(sorted(found), 1):
                if position != number:
                    name = manifest.time_file(number) if kind == "time" else manifest.witness_file(number)
                    ledger.fail("layout", name, "trust.evidence_gap", expected=position, found=number)
                    break
        self.ledger.close("paths", self.container.label)
        self.ledger.close("layout", self.container.label, contents.files)

    # ---- the one reading of all files ----------------------------------------------------------------

    def merge(self, layout: Layout) -> None:
        """Digest what was not read yet and compare it with manifests and items.json, without judging yet."""
        streams = [*manifest.PAYLOAD_MANIFESTS, *(["items.json"] if layout.has_items else [])]
        with ExitStack() as stack:
            for name in streams:
                lines = stack.enter_context(self.lines(name, longest=manifest.MAX_LINE, sm3=self.sm3))
                if lines is not None:
                    rows = self._item_rows(lines) if name == "items.json" else manifest.parse_manifest_lines(lines, where=name)
                    self._sources[name] = _Source(rows)
            absent = _Source(iter(()))
            absent.error = FormatError("trust.file_missing")
            files = _Source(self._payload())
            sha256, sm3, items = (self._sources.get(name, absent) for name in (*manifest.PAYLOAD_MANIFESTS, "items.json"))
            sources = (files, sha256, sm3, items)
            while True:
                # mostly all four stand at the same path
                if files.path is not None and files.path == sha256.path == sm3.path == items.path:
                    key = files.key
                else:
                    key = min((each.key for each in sources if each.key is not None), default=None)
                if key is None:
                    break
                path = next(each.path for each in sources if each.key == key)
                assert path is not None
                self._compare(path, files.take(key), sha256.take(key), sm3.take(key), items.take(key))

    def _payload(self) -> Iterator[tuple[str, Any]]:
        """(path, digests) of each file under data/; the others are digested on the way."""
        waiting: deque[tuple[str, bool]] = deque()
        total = max(self.contents.size, 1)

        def tell(done: int) -> None:
            if self._progress is not None:
                self._progress("trust.progress.files", min(done / total, 1.0))

        def unread() -> Iterator[tuple[str, int]]:
            for path, size in self.container.files():
                known = path in self.digests or path in _STREAMED or path in self.contents.unreadable
                waiting.append((path, known))
                if not known:
                    yield path, size

        def known_first() -> Iterator[tuple[str, Any]]:
            while waiting and waiting[0][1]:
                path = waiting.popleft()[0]
                if path.startswith("data/"):
                    yield self._note_file(path, self.digests.get(path))

        for result in FileDigester(self.container.open, sm3=self.sm3, on_progress=tell).digest(unread()):
            yield from known_first()
            waiting.popleft()
            self._note_defect(result.path, result.error, result.defect)
            if result.path.startswith("data/"):
                yield self._note_file(result.path, result.digests)
            elif result.digests is not None:
                self._keep(result)
        yield from known_first()
        tell(total)

    def _keep(self, result: DigestedFile) -> None:
        # of the files outside data/ only those that something is compared with: others may be any number
        if result.path in manifest.TAG_FILES and result.digests is not None:
            self.digests[result.path] = result.digests

    def _note_file(self, path: str, digests: Optional[FileDigests]) -> tuple[str, Any]:
        if digests is None:
            return path, _UNREADABLE
        if manifest.is_item_path(path):
            self.contents.item_hashes.append(self._hasher.file(path, self._shown(digests)))
        event = manifest.attested_event(path)
        if event is not None:
            self.contents.attestations[event] = digests.sha256
        elif path in manifest.PLAIN_FILES or path in self.watched:
            self.digests[path] = digests
        return path, digests

    def _shown(self, digests: FileDigests) -> FileDigests:
        return digests if self.sm3 else digests._replace(sm3="")

    def _item_rows(self, lines: DigestingLines) -> Iterator[tuple[str, manifest.ItemLine]]:
        """The lines with a path; leaves are made again, and the root over all."""
        contents, builder = self.contents, RootBuilder()
        for line in manifest.parse_item_lines(lines):
            builder.append(bytes.fromhex(line.leaf))
            contents.lines += 1
            if line.path is None:
                contents.withheld += 1
                continue
            assert line.size is not None and line.sha256 and line.sm3 and line.salt
            made = manifest.item_leaf(line.path, line.size, line.sha256, line.sm3, line.salt)
            if made != line.leaf and len(self._wrong_leaves) < MOST_KEPT:
                self._wrong_leaves.append(line.path)
            if line.item is not None or manifest.is_item_path(line.path):
                contents.item_sum += self._hasher.of(line.path, line.item)
            if line.path in manifest.PLAIN_FILES:
                contents.lined.add(line.path)
            yield line.path, line
        contents.root = builder.root().hex()

    def _compare(self, path: str, found: Any, sha256: Any, sm3: Any, line: Any) -> None:
        """Keep a path on which a source disagrees with the file, sorted by which do."""
        if isinstance(found, FileDigests):
            sha_wrong = sha256 not in (found.sha256, _UNKNOWN)
            sm3_wrong = sm3 is None or (bool(found.sm3) and sm3 not in (found.sm3, _UNKNOWN))
            line_wrong = line is not _UNKNOWN and (
                line is None
                or (line.sha256, line.size) != (found.sha256, found.size)
                or line.sm3 not in (found.sm3, line.sm3 if not found.sm3 else "")
            )
        else:
            # unreadable: a list is wrong that does not have it; missing: one that has it
            there = found is _UNREADABLE
            wrong = [(value is not None) != there and value is not _UNKNOWN for value in (sha256, sm3, line)]
            sha_wrong, sm3_wrong, line_wrong = wrong
        if sha_wrong or sm3_wrong or line_wrong:
            kind = (found is None, sha_wrong, sm3_wrong, line_wrong)
            kept = self._anomalies.setdefault(kind, [])
            if len(kept) < MOST_KEPT:
                kept.append(_Anomaly(path, found, sha256, sm3, line))
            else:
                self._uncounted[kind] += 1

    # ---- 1.5 to 1.9: what the comparison means ---------------------------------------------------------

    def check_manifests(self, layout: Layout, stated: Optional[Mapping[str, tuple[str, str]]], cause: str, where: str) -> None:
        """1.5, 1.6 and 1.7. stated: digests of the four manifests by a valid signature; None: none, because of check `cause`."""
        ledger = self.ledger
        # 1.5
        if stated is None:
            ledger.skip_because("manifests", where, cause)
        if not self.sm3:
            ledger.skip("manifests", ", ".join(manifest.PAYLOAD_MANIFESTS), "trust.sm3_slow")
        good: set[str] = set()
        tags: dict[str, dict[str, str]] = {}
        for name in manifest.MANIFESTS:
            data = self.read(name) if name in manifest.TAG_MANIFESTS else b""
            if name not in self.digests or data is None:
                ledger.skip_because("manifests", name, "layout" if name not in self.contents.unreadable else "container")
                continue
            found = self.digests[name]
            if stated is not None and stated[name] != (found.sha256, found.sm3 or stated[name][1]):
                expected = " ".join(stated[name])
                ledger.fail("manifests", name, "trust.digest_wrong", expected=expected, found=f"{found.sha256} {found.sm3}")
                continue
            try:
                if name in manifest.TAG_MANIFESTS:
                    tags[name] = manifest.parse_manifest(data, where=name)
                else:
                    self._sources[name].require()
            except GeoEvidenceError as error:
                ledger.fail_by("manifests", name, error)
                continue
            good.add(name)
        ledger.close("manifests", ", ".join(manifest.MANIFESTS), len(good))
        # 1.6, 1.7
        for name in manifest.MANIFESTS:
            if name not in good:
                reason = "manifests" if name in self.digests else "layout"
                ledger.skip_because("listing", name, reason)
                ledger.skip_because("files", name, reason)
        for row in self._tag_rows(layout, tags):
            self._check_row(row, manifest.TAG_MANIFESTS, good)
        for row in self._payload_rows():
            self._check_row(row, manifest.PAYLOAD_MANIFESTS, good)
        wrong = [name in good for name in manifest.PAYLOAD_MANIFESTS]
        uncounted = sum(count for kind, count in self._uncounted.items() if (kind[1] and wrong[0]) or (kind[2] and wrong[1]))
        if uncounted:
            ledger.fail("files", "data/", "trust.and_more", count=uncounted)
        if not self.sm3:
            ledger.skip("files", "data/", "trust.sm3_slow")
        ledger.close("listing", ", ".join(sorted(good)), self.contents.payload_files + len(layout.tags))
        ledger.close("files", "data/", self.contents.files)

    def _payload_rows(self) -> list[_Anomaly]:
        rows = [each for kept in self._anomalies.values() for each in kept]
        return sorted(rows, key=lambda each: sort_key(each.path))

    def _tag_rows(self, layout: Layout, tags: Mapping[str, Mapping[str, str]]) -> Iterator[_Anomaly]:
        listed = {path for each in tags.values() for path in each}
        for path in sorted({*layout.tags, *listed}, key=sort_key):
            found: Union[FileDigests, str, None] = self.digests.get(path) if path in layout.tags else None
            if found is None and path in layout.tags and path in self.contents.present:
                found = _UNREADABLE
            sha256, sm3 = (tags.get(name, {}).get(path) for name in manifest.TAG_MANIFESTS)
            yield _Anomaly(path, found, sha256, sm3, None)

    def _check_row(self, row: _Anomaly, names: tuple[str, str], good: set[str]) -> None:
        """One path of a manifest or a file. names: the two manifests. good: those that may be asked."""
        blamed = self.contents.blamed
        stated = {name: value for name, value in zip(names, (row.sha256, row.sm3)) if name in good}
        for name, value in stated.items():
            if (value is None) != (row.found is None) and row.path not in blamed:
                detail = "trust.file_missing" if row.found is None else "trust.file_unlisted"
                self.ledger.fail("listing", row.path, detail, expected=name)
                blamed.add(row.path)
        if isinstance(row.found, FileDigests):
            for name, algorithm, found in zip(names, ("sha256", "sm3"), row.found):
                value = stated.get(name)
                if value is not None and found and value != found:
                    expected, got = f"{algorithm}:{value}", f"{algorithm}:{found}"
                    self.ledger.fail("files", row.path, "trust.digest_wrong", expected=expected, found=got)
                    blamed.add(row.path)

    def check_tags(self, bag_info: Optional[bytes], cause: str) -> None:
        """1.8. bag_info: what bag-info.txt must be; None: not known because of check `cause`."""
        bagit, found = self.read("bagit.txt"), self.read("bag-info.txt")
        if bagit is not None and bagit != manifest.BAGIT:
            self.ledger.fail("tags", "bagit.txt", "trust.tag_content", expected=_line(manifest.BAGIT), found=_line(bagit))
        if bag_info is None:
            self.ledger.skip_because("tags", "bag-info.txt", cause)
        elif found is not None and found != bag_info:
            self.ledger.fail("tags", "bag-info.txt", "trust.tag_content", expected=_line(bag_info), found=_line(found))
        if bagit is None or found is None:
            self.ledger.skip_because("tags", "bagit.txt" if bagit is None else "bag-info.txt", "layout")
        self.ledger.close("tags", "bag-info.txt")

    def check_tree(self, layout: Layout, stated: Optional[tuple[str, int]], where: str) -> None:
        """1.9. stated: root and number of lines by a valid signature; None: none."""
        ledger, contents, name = self.ledger, self.contents, "items.json"
        source = self._sources.get(name)
        if source is None or name not in self.digests:
            ledger.skip_because("tree", name, "layout" if name not in contents.unreadable else "container")
            return
        if name in contents.blamed:
            ledger.skip_because("tree", name, "files")
            return
        if source.error is not None:
            ledger.fail_by("tree", name, source.error)
            return
        self.items_usable = True
        allowed = set(manifest.CHANGED_BY_REDACTION) if layout.kind == REDACTED else set()
        for row in self._payload_rows():
            line = row.line
            if row.path in contents.blamed or (line is None and row.path in allowed):
                continue
            if (line is None) != (row.found is None):
                ledger.fail("tree", row.path, "trust.tree_files")
            elif isinstance(line, manifest.ItemLine) and isinstance(row.found, FileDigests):
                assert line.sha256 and line.sm3 and line.size is not None
                stated_file = FileDigests(line.sha256, line.sm3 if row.found.sm3 else "", line.size)
                if stated_file != row.found:
                    ledger.fail(
                        "tree", row.path, "trust.tree_line", expected=files_text(stated_file), found=files_text(row.found)
                    )
        for path in self._wrong_leaves:
            ledger.fail("tree", name, "trust.tree_leaf", found=path)
        if contents.withheld and layout.kind != REDACTED:
            ledger.skip("tree", name, "trust.withheld_files", count=contents.withheld)
        if stated is None:
            ledger.skip_because("tree", where, "statement_signature")
        elif (contents.root, contents.lines) != stated:
            expected, found = f"{stated[0]} ({stated[1]})", f"{contents.root} ({contents.lines})"
            ledger.fail("tree", name, "trust.tree_root", expected=expected, found=found)
        ledger.close("tree", name, contents.lines)

    def found_at(self, path: str) -> Optional[FileDigests]:
        """Digests of a file on which the sources disagree, where they are known."""
        if self._found is None:
            rows = (row for kept in self._anomalies.values() for row in kept)
            self._found = {row.path: row.found for row in rows if isinstance(row.found, FileDigests)}
        return self._found.get(path, self.digests.get(path))


class _Paths:
    """1.2: unsafe names, and names that collide on some computer, found among neighbours."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._before: list[tuple[str, str]] = []
        """The paths (folded, as they are) that the last one starts with, the last one included."""

    def add(self, path: str) -> None:
        """The next path in the order of the package."""
        defect = path_defect(path)
        if defect:
            self._ledger.fail("paths", path, defect, path=path)
        folded = fold(path)
        # in sorted order all that start with a path follow it at once
        while self._before and not folded.startswith(self._before[-1][0]):
            self._before.pop()
        for other, named in self._before:
            # the same name, or a file with the name of a folder
            if folded[len(other) : len(other) + 1] in ("", "/"):
                self._ledger.fail("paths", path, "trust.path_collides", found=named, path=path)
        self._before.append((folded, path))


def _line(data: bytes) -> str:
    return data[:400].decode("utf-8", "replace").replace("\n", " | ")


def files_text(digests: FileDigests) -> str:
    """Digests and size in words, for a report."""
    return f"sha256:{digests.sha256} sm3:{digests.sm3} {digests.size} B"
