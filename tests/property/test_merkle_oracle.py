"""The Merkle tree against pymerkle, written by other people from the same RFC."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_consistency, verify_inclusion

from chimera.audit import merkle
from chimera.audit.merkle import ProofError

ENTRIES = st.lists(st.binary(max_size=40), min_size=1, max_size=90)


class Ours:
    """Leaf hashes and the complete subtrees over them, as the database stores them."""

    def __init__(self, entries: list[bytes]) -> None:
        self.leaves = [merkle.leaf_hash(entry) for entry in entries]
        self.nodes = {(0, index): value for index, value in enumerate(self.leaves)}
        frontier, grown = merkle.EMPTY_TREE.extend(self.leaves)
        self.nodes |= {(level, index): value for level, index, value in grown}
        self.root = frontier.root

    def at(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]


def theirs(entries: list[bytes]) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    tree.append_entries(entries)
    return tree


@settings(deadline=None, max_examples=60)
@given(ENTRIES, st.data())
def test_roots_and_audit_paths_are_theirs(entries: list[bytes], data: st.DataObject) -> None:
    """Any entries, any size, any leaf: the same root and the same audit path, hash by hash."""
    tree, ours = theirs(entries), Ours(entries)
    size = data.draw(st.integers(1, len(entries)))
    index = data.draw(st.integers(0, size - 1))
    root = merkle.root(ours.leaves[:size])
    assert root == tree.get_root(size)

    oracle = tree.prove_inclusion(index + 1, size)
    verify_inclusion(tree.get_leaf(index + 1), root, oracle)
    proof = merkle.inclusion_proof(index, size, ours.at)
    assert sorted([ours.leaves[index], *proof]) == sorted(oracle.path)
    merkle.verify_inclusion(ours.leaves[index], index, size, proof, root)


@settings(deadline=None, max_examples=60)
@given(ENTRIES, st.data())
def test_what_one_calls_consistent_the_other_does(
    entries: list[bytes], data: st.DataObject
) -> None:
    """Growth between any two sizes is proven by both, and by neither against another root."""
    tree, ours = theirs(entries), Ours(entries)
    size2 = data.draw(st.integers(1, len(entries)))
    size1 = data.draw(st.integers(1, size2))
    root1, root2 = tree.get_root(size1), tree.get_root(size2)
    verify_consistency(root1, root2, tree.prove_consistency(size1, size2))
    proof = merkle.consistency_proof(size1, size2, ours.at)
    merkle.verify_consistency(size1, root1, size2, root2, proof)

    stranger = merkle.leaf_hash(b"stranger" + root2)
    for roots in ((stranger, root2), (root1, stranger)):
        with pytest.raises(ProofError):
            merkle.verify_consistency(size1, roots[0], size2, roots[1], proof)
    for bent in ([*proof, stranger], proof[:-1] if proof else [stranger]):
        with pytest.raises(ProofError):
            merkle.verify_consistency(size1, root1, size2, root2, bent)


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33), bytes(64), "0" * 32, None])
def test_a_hash_that_is_not_32_bytes_is_refused(wrong: object) -> None:
    """Wherever it stands: leaf, root, or node of a proof."""
    ours = Ours([b"a", b"b", b"c", b"d", b"e"])
    root4 = merkle.root(ours.leaves[:4])
    path = merkle.inclusion_proof(0, 5, ours.at)
    proof = merkle.consistency_proof(4, 5, ours.at)
    merkle.verify_inclusion(ours.leaves[0], 0, 5, path, ours.root)
    merkle.verify_consistency(4, root4, 5, ours.root, proof)
    for arguments in (
        (wrong, 0, 5, path, ours.root),
        (ours.leaves[0], 0, 5, path, wrong),
        (ours.leaves[0], 0, 5, [wrong, *path[1:]], ours.root),
        (wrong, 0, 1, [], wrong),
    ):
        with pytest.raises(ProofError):
            merkle.verify_inclusion(*arguments)  # type: ignore[arg-type]  # wrong on purpose
    for pair in (
        (4, wrong, 5, ours.root, proof),
        (4, root4, 5, wrong, proof),
        (4, root4, 5, ours.root, [wrong]),
        (5, wrong, 5, wrong, []),
        (0, wrong, 0, wrong, []),
    ):
        with pytest.raises(ProofError):
            merkle.verify_consistency(*pair)  # type: ignore[arg-type]  # wrong on purpose
