"""A sealed package, redacted copy or supplement, opened for reading: its documents, item lines and leaves.

Reads a folder or a zip through the kernel's own container; long files are read line by line. Nothing is verified
here: whoever uses what this gives has had the kernel verify the package first, or says that it was not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from geoevidence.errors import FormatError
from geoevidence.package.bag import Copy
from geoevidence.trust.container import Container, open_container
from geoevidence.trust.digests import BLOCK, FileDigests, digest_bytes
from geoevidence.trust.events import Leaf, parse_leaf
from geoevidence.trust.manifest import (
    ATTESTATIONS,
    ITEM_FOLDERS,
    LEAVES,
    MAX_DOCUMENT,
    MAX_LEAF,
    PROOF,
    REDACTION,
    STATEMENT,
    SUPPLEMENT_TYPE,
    ItemLine,
    Statement,
    parse_item_lines,
    parse_statement,
    statement_kind,
)
from geoevidence.trust.merkle import leaf_hash
from geoevidence.trust.notes import TlogProof, parse_proof
from geoevidence.trust.signatures import Envelope, parse_envelope

_WITHHELD = re.compile(rb'\{"withheld":"([0-9a-f]{64})"\}')


class OpenPackage:
    """A package at hand.

    kind: package, redacted or supplement. statement_bytes: the file `seal/statement.dsse`.
    """

    def __init__(self, container: Container) -> None:
        self.container = container
        # the files that are no items: their number does not grow with the case
        self._sizes = {path: size for path, size in container.files() if not path.startswith((*ITEM_FOLDERS, ATTESTATIONS))}
        self.statement_bytes = self.read(STATEMENT)
        self.envelope: Envelope = parse_envelope(self.statement_bytes, where=STATEMENT)
        supplement = statement_kind(self.envelope.payload) == SUPPLEMENT_TYPE
        self.kind = "supplement" if supplement else "redacted" if REDACTION in self._sizes else "package"

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that are neither items nor attestations, in the order of the package."""
        return tuple(self._sizes)

    def statement(self) -> Statement:
        """The statement of a package. Raises FormatError for a supplement."""
        return parse_statement(self.envelope.payload)

    @property
    def statement_digests(self) -> FileDigests:
        return digest_bytes(self.statement_bytes)

    def read(self, path: str) -> bytes:
        """A document whole. Raises FormatError when it is missing, unreadable or too long."""
        limit = MAX_DOCUMENT
        if self._sizes.get(path, 0) > limit:
            raise FormatError("package.document_too_long", where=path, limit=limit)
        return self.read_long(path)

    def read_long(self, path: str) -> bytes:
        """A file whole, however long. Raises FormatError when it is missing or unreadable."""
        if path not in self._sizes:
            raise FormatError("package.document_missing", where=path, package=self.container.label)
        try:
            with self.container.open(path) as stream:
                return stream.read()
        except OSError as error:
            raise FormatError("core.cannot_read", path=path, reason=error.strerror or str(error)) from error

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of a file, without their LF. Raises FormatError for one that is too long, or cannot be read."""
        rest = b""
        try:
            with self.container.open(path) as stream:
                while block := stream.read(BLOCK):
                    *whole, rest = (rest + block).split(b"\n")
                    yield from whole
                    if len(rest) > MAX_LEAF:
                        raise FormatError("package.document_too_long", where=path, limit=MAX_LEAF)
        except OSError as error:
            raise FormatError("core.cannot_read", path=path, reason=error.strerror or str(error)) from error
        if rest:
            yield rest

    def items(self) -> Iterator[ItemLine]:
        """The lines of items.json, in the order of the package."""
        return parse_item_lines(self.lines("items.json"))

    def leaves(self) -> Iterator[tuple[bytes, bytes | None]]:
        """(leaf hash, leaf) of each line of the log; None for the leaf of a withheld one."""
        for line in self.lines(LEAVES):
            match = _WITHHELD.fullmatch(line)
            yield (bytes.fromhex(match[1].decode()), None) if match else (leaf_hash(line), line)

    def proof(self) -> TlogProof:
        """`seal/proof.tlog`."""
        return parse_proof(self.read(PROOF), where=PROOF)

    def packaged(self) -> Leaf:
        """The `packaged` event. Raises FormatError."""
        extra = self.proof().extra
        if extra is None:
            raise FormatError("package.document_missing", where="seal/proof.tlog: extra", package=self.container.label)
        return parse_leaf(extra, where=PROOF)

    def copy_of(self, path: str, digests: FileDigests) -> Copy:
        """A file of this package as content of another; compared with its digests on the way."""
        opener: partial[BinaryIO] = partial(self.container.open, path)
        return Copy(digests, opener, path)


@contextmanager
def open_package(path: Path) -> Iterator[OpenPackage]:
    """The package at a folder or zip. Raises InputError when there is none; FormatError when its statement cannot be read."""
    with open_container(path) as container:
        yield OpenPackage(container)
