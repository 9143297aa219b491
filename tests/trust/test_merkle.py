"""Trees and proofs: published roots, a second implementation by the definition, all trees up to 64 leaves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.trust import (
    ProofError,
    RootBuilder,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text())
LEAVES = [leaf_hash(bytes([n])) for n in range(64)]


def by_definition(leaf_hashes: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word by word."""
    if not leaf_hashes:
        return hashlib.sha256().digest()
    if len(leaf_hashes) == 1:
        return leaf_hashes[0]
    k = 1
    while k * 2 < len(leaf_hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaf_hashes[:k]) + by_definition(leaf_hashes[k:])).digest()


ROOTS = [by_definition(LEAVES[:size]) for size in range(65)]


def test_published_roots() -> None:
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
    builder = RootBuilder()
    assert builder.root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for each, root in zip(hashes, VECTORS["roots"], strict=True):
        builder.append(each)
        assert builder.root().hex() == root
    # the proof of leaf 3 of 8, published with the tree
    assert [each.hex()[:8] for each in inclusion_proof(hashes[:3], 1)] == ["6e340b9c", "0298d122"]


@pytest.mark.parametrize("size", range(65))
def test_every_leaf_and_prefix_of_every_tree(size: int) -> None:
    hashes, root = LEAVES[:size], ROOTS[size]
    assert tree_root(hashes) == root
    for index in range(size):
        verify_inclusion(hashes[index], index, size, inclusion_proof(hashes, index), root)
    for old in range(1, size + 1):
        verify_consistency(old, ROOTS[old], size, root, consistency_proof(hashes, old))
    verify_consistency(0, ROOTS[0], size, root, ())


@given(st.data())
def test_a_changed_proof_does_not_hold(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 64))
    index = data.draw(st.integers(0, size - 1))
    proof = list(inclusion_proof(LEAVES[:size], index))
    kind = data.draw(st.sampled_from(["hash", "longer", "shorter", "index", "size", "leaf", "root"]))
    leaf, root, at, of = LEAVES[index], ROOTS[size], index, size
    if kind in ("hash", "shorter") and not proof:
        return
    if kind == "hash":
        place = data.draw(st.integers(0, len(proof) - 1))
        proof[place] = bytes([proof[place][0] ^ 1]) + proof[place][1:]
    elif kind == "longer":
        proof.append(ROOTS[3])
    elif kind == "shorter":
        proof.pop()
    elif kind == "index":
        at = data.draw(st.integers(-1, 70).filter(lambda n: n != index))
    elif kind == "size":
        # the same path may serve a tree of another size; its root then is another one
        of, root = data.draw(st.integers(0, 64).filter(lambda n: n != size).map(lambda n: (n, ROOTS[n])))
    elif kind == "leaf":
        leaf = leaf_hash(b"other")
    else:
        root = leaf_hash(b"other")
    with pytest.raises(ProofError):
        verify_inclusion(leaf, at, of, proof, root)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 8), st.sampled_from(["hash", "longer", "shorter", "old", "new"]))
def test_a_changed_consistency_proof_does_not_hold(one: int, other: int, place: int, kind: str) -> None:
    old, new = sorted((one, other))
    proof = list(consistency_proof(LEAVES[:new], old))
    old_root, new_root = ROOTS[old], ROOTS[new]
    if kind in ("hash", "shorter") and not proof:
        return
    if kind == "hash":
        place %= len(proof)
        proof[place] = bytes([proof[place][0] ^ 1]) + proof[place][1:]
    elif kind == "longer":
        proof.append(ROOTS[3])
    elif kind == "shorter":
        proof.pop()
    elif kind == "old":
        old_root = leaf_hash(b"other")
    else:
        new_root = leaf_hash(b"other")
    with pytest.raises(ProofError):
        verify_consistency(old, old_root, new, new_root, proof)


def test_a_leaf_cannot_pose_as_a_node() -> None:
    left, right = LEAVES[0], LEAVES[1]
    assert leaf_hash(left + right) != ROOTS[2]


def test_wrong_sizes() -> None:
    for index in (-1, 3):
        with pytest.raises(ValueError):
            inclusion_proof(LEAVES[:3], index)
    for old in (0, 4):
        with pytest.raises(ValueError):
            consistency_proof(LEAVES[:3], old)
    for old, new in ((3, 2), (-1, 2)):
        with pytest.raises(ProofError):
            verify_consistency(old, ROOTS[1], new, ROOTS[2], ())
    with pytest.raises(ProofError):
        verify_consistency(3, ROOTS[3], 5, ROOTS[5], ())
    with pytest.raises(ProofError):
        verify_consistency(0, ROOTS[1], 5, ROOTS[5], ())
    with pytest.raises(ValueError):
        RootBuilder().append(b"short")
