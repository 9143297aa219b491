"""Merkle trees of RFC 9162 section 2.1: roots, inclusion proofs, consistency proofs.

Works on leaf hashes. A root is built leaf by leaf in memory of log2(n) hashes. The
functions that verify are pure and raise ProofError; those that make proofs raise
ValueError on a position that does not exist (a fault of the caller). Standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from geoevidence.trust.errors import ProofError

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of the tree without leaves."""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf): the prefix keeps a leaf from being replayed as a node."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class RootBuilder:
    """The root of a tree that grows leaf by leaf.

    Holds the roots of the perfect subtrees of the leaves so far, largest first: one for
    each bit set in `size`.
    """

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append(self, hash_of_leaf: bytes) -> None:
        """Add a leaf by its leaf hash (32 bytes)."""
        if len(hash_of_leaf) != 32:
            raise ValueError("a leaf hash has 32 bytes")
        peak, size = hash_of_leaf, self.size
        while size & 1:
            peak = node_hash(self._peaks.pop(), peak)
            size >>= 1
        self._peaks.append(peak)
        self.size += 1

    def copy(self) -> RootBuilder:
        """One of its own with the same leaves."""
        other = RootBuilder()
        other.size, other._peaks = self.size, list(self._peaks)
        return other

    def root(self) -> bytes:
        """Root of the leaves so far; more may follow."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


def tree_root(leaf_hashes: Iterable[bytes]) -> bytes:
    """Root over leaf hashes in order."""
    builder = RootBuilder()
    for each in leaf_hashes:
        builder.append(each)
    return builder.root()


def _split(size: int) -> int:
    # the largest power of two smaller than size
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Hashes that lead from leaf `index` to the root of `leaf_hashes`, leaf side first (RFC 9162 section 2.1.3.1)."""
    if not 0 <= index < len(leaf_hashes):
        raise ValueError(f"no leaf {index} in a tree of {len(leaf_hashes)}")
    start, end, path = 0, len(leaf_hashes), []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(tree_root(leaf_hashes[middle:end]))
            end = middle
        else:
            path.append(tree_root(leaf_hashes[start:middle]))
            start = middle
    return tuple(reversed(path))


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """Hashes that show that the first `old_size` leaves are a prefix of `leaf_hashes` (RFC 9162 section 2.1.4.1)."""
    if not 0 < old_size <= len(leaf_hashes):
        raise ValueError(f"no tree of {old_size} inside a tree of {len(leaf_hashes)}")
    start, end, complete, path = 0, len(leaf_hashes), True, []
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(tree_root(leaf_hashes[middle:end]))
            end = middle
        else:
            path.append(tree_root(leaf_hashes[start:middle]))
            start, complete = middle, False
    if not complete:
        path.append(tree_root(leaf_hashes[start:end]))
    return tuple(reversed(path))


def verify_inclusion(hash_of_leaf: bytes, index: int, tree_size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raises unless the leaf is number `index` of the tree of that size and root.

    Pure; constant memory; RFC 9162 section 2.1.3.2. Raises: ProofError.
    """
    if not 0 <= index < tree_size:
        raise ProofError("trust.proof_index", index=index, tree_size=tree_size)
    node, last, found = index, tree_size - 1, hash_of_leaf
    for step in proof:
        if last == 0:
            raise ProofError("trust.proof_length", expected="fewer", found=len(proof))
        if node & 1 or node == last:
            found = node_hash(step, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, step)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofError("trust.proof_length", expected="more", found=len(proof))
    if found != root:
        raise ProofError("trust.proof_root", expected=root.hex(), found=found.hex())


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises unless the new tree starts with all the leaves of the old one.

    Pure; constant memory; RFC 9162 section 2.1.4.2. An empty old tree is a prefix of every
    tree, with an empty proof. Raises: ProofError.
    """
    if not 0 <= old_size <= new_size:
        raise ProofError("trust.proof_index", index=old_size, tree_size=new_size)
    if old_size in (0, new_size):
        if proof:
            raise ProofError("trust.proof_length", expected="0", found=len(proof))
        stated = EMPTY_ROOT if old_size == 0 else new_root
        if old_root != stated:
            raise ProofError("trust.proof_root", expected=stated.hex(), found=old_root.hex())
        return
    steps = list(proof)
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        raise ProofError("trust.proof_length", expected="more", found=0)
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise ProofError("trust.proof_length", expected="fewer", found=len(proof))
        if node & 1 or node == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, step)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofError("trust.proof_length", expected="more", found=len(proof))
    if old != old_root:
        raise ProofError("trust.proof_root", expected=old_root.hex(), found=old.hex())
    if new != new_root:
        raise ProofError("trust.proof_root", expected=new_root.hex(), found=new.hex())
