"""The Merkle tree against a naive one, written from the recursive definitions of RFC 6962."""

from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.audit import merkle
from chimera.audit.merkle import Frontier, ProofError

SIZE_MAX = 65

# --- the naive tree -------------------------------------------------------------------------------


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = naive_split(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: Sequence[bytes], known: bool) -> list[bytes]:
    """SUBPROOF of section 2.1.2."""
    if m == len(leaves):
        return [] if known else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], known), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


LEAVES = [sha256(b"\x00" + n.to_bytes(4, "big")).digest() for n in range(SIZE_MAX)]
ROOTS = [naive_root(LEAVES[:n]) for n in range(SIZE_MAX + 1)]


class Store:
    """Stored nodes as a database would hold them: only complete subtrees, each written once."""

    def __init__(self, batches: Sequence[Sequence[bytes]]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.frontier = Frontier()
        for batch in batches:
            for offset, value in enumerate(batch):
                self.nodes[0, self.frontier.size + offset] = value
            self.frontier, grown = self.frontier.extend(batch)
            for level, index, value in grown:
                assert (level, index) not in self.nodes
                self.nodes[level, index] = value

    def reader(self, wanted: list[tuple[int, int]]) -> Callable[[int, int], bytes]:
        """Answers only for nodes that were named beforehand, as one query would."""
        assert len(set(wanted)) == len(wanted)
        fetched = {node: self.nodes[node] for node in wanted}
        return lambda level, index: fetched.pop((level, index))


STORE = Store([LEAVES])


def inclusion(index: int, size: int) -> list[bytes]:
    wanted = merkle.inclusion_nodes(index, size)
    return merkle.inclusion_proof(index, size, STORE.reader(wanted))


def consistency(size1: int, size2: int) -> list[bytes]:
    wanted = merkle.consistency_nodes(size1, size2)
    return merkle.consistency_proof(size1, size2, STORE.reader(wanted))


# --- published vectors ----------------------------------------------------------------------------

# The 8-leaf reference tree of the certificate-transparency project.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_published_tree(size):
    """Our roots are the ones everybody else's RFC 6962 code gives, the empty tree included."""
    leaves = [merkle.leaf_hash(data) for data in CT_LEAVES[:size]]

    assert merkle.root(leaves).hex() == CT_ROOTS[size]


# --- generation and acceptance --------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, SIZE_MAX + 1))
def test_every_inclusion_proof_is_the_naive_one_and_holds(size):
    """All leaves of all sizes: same path as the definition, and accepted."""
    for index in range(size):
        proof = inclusion(index, size)

        assert proof == naive_path(index, LEAVES[:size])
        merkle.verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


@pytest.mark.parametrize("size2", range(SIZE_MAX + 1))
def test_every_consistency_proof_is_the_naive_one_and_holds(size2):
    """All pairs of sizes: same proof as the definition, and accepted."""
    assert consistency(0, size2) == []
    for size1 in range(1, size2 + 1):
        proof = consistency(size1, size2)

        assert proof == naive_subproof(size1, LEAVES[:size2], True)
        merkle.verify_consistency(size1, ROOTS[size1], size2, ROOTS[size2], proof)


@given(st.lists(st.integers(0, 20), max_size=8))
def test_growing_in_batches_is_growing_at_once(batch_sizes):
    """However the sealer cuts its batches, frontier, root and stored nodes are the same."""
    leaves = [sha256(n.to_bytes(4, "big")).digest() for n in range(sum(batch_sizes))]
    ends = [sum(batch_sizes[: n + 1]) for n in range(len(batch_sizes))]
    batches = [leaves[end - size : end] for end, size in zip(ends, batch_sizes, strict=True)]
    cut, whole = Store(batches), Store([leaves])

    assert cut.frontier == whole.frontier
    assert cut.nodes == whole.nodes
    assert cut.frontier.root == naive_root(leaves)
    revived = Frontier(cut.frontier.size, tuple(bytes(h) for h in cut.frontier.hashes))
    assert merkle.new_nodes(revived, LEAVES[:3]) == cut.frontier.extend(LEAVES[:3])[1]


@given(st.integers(1, 2**40), st.data())
def test_a_proof_in_a_huge_tree_needs_few_nodes(size, data):
    """One indexed query is enough: the number of nodes grows with the logarithm of the size."""
    index = data.draw(st.integers(0, size - 1))
    smaller = data.draw(st.integers(0, size))

    assert len(merkle.inclusion_nodes(index, size)) <= 2 * size.bit_length()
    assert len(merkle.consistency_nodes(smaller, size)) <= 2 * size.bit_length()
    for level, node in merkle.inclusion_nodes(index, size):
        assert (node + 1) << level <= size  # complete, so it is stored


# --- refusal --------------------------------------------------------------------------------------


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def mutations(proof: list[bytes]) -> list[list[bytes]]:
    """Every way to bend a proof: bits flipped, nodes missing, doubled, added, swapped, cut."""
    found: list[list[bytes]] = []
    for at, node in enumerate(proof):
        rest = (proof[:at], proof[at + 1 :])
        found += [[*rest[0], flipped(node, bit), *rest[1]] for bit in (0, 7, 100, 255)]
        found += [[*rest[0], *rest[1]], [*rest[0], node, node, *rest[1]]]
        found += [[*rest[0], node[:31], *rest[1]], [*rest[0], b"", *rest[1]]]
        found += [[*rest[0], node + b"\0", *rest[1]]]
        if at and proof[at - 1] != node:
            found.append([*proof[: at - 1], node, proof[at - 1], *proof[at + 1 :]])
    extra = sha256(b"extra").digest()
    found += [[*proof, extra], [extra, *proof], [*proof, b""], [*proof, bytes(32)]]
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64, 65])
def test_every_bent_inclusion_proof_is_refused(size):
    """Nothing but the proof itself is accepted, for this leaf, at this place, under this root."""
    for index in range(size):
        proof = inclusion(index, size)
        leaf, root = LEAVES[index], ROOTS[size]
        for bent in mutations(proof):
            with pytest.raises(ProofError):
                merkle.verify_inclusion(leaf, index, size, bent, root)
        with pytest.raises(ProofError, match="superfluous"):
            merkle.verify_inclusion(leaf, index, size, [*proof, root], root)
        with pytest.raises(ProofError, match="another root"):
            merkle.verify_inclusion(flipped(leaf, 3), index, size, proof, root)
        with pytest.raises(ProofError, match="another root"):
            merkle.verify_inclusion(leaf, index, size, proof, flipped(root, 200))
        for other in range(size):
            if other != index:
                with pytest.raises(ProofError):
                    merkle.verify_inclusion(leaf, other, size, proof, root)


@pytest.mark.parametrize("size2", [2, 3, 4, 6, 7, 8, 9, 16, 17, 32, 33, 64, 65])
def test_every_bent_consistency_proof_is_refused(size2):
    """Nothing but the proof itself is accepted, between these two sizes and roots."""
    for size1 in range(1, size2):
        proof = consistency(size1, size2)
        roots = ROOTS[size1], ROOTS[size2]
        for bent in mutations(proof):
            with pytest.raises(ProofError):
                merkle.verify_consistency(size1, roots[0], size2, roots[1], bent)
        with pytest.raises(ProofError):
            merkle.verify_consistency(size1, flipped(roots[0], 9), size2, roots[1], proof)
        with pytest.raises(ProofError):
            merkle.verify_consistency(size1, roots[0], size2, flipped(roots[1], 9), proof)
        with pytest.raises(ProofError):
            merkle.verify_consistency(size1, roots[1], size2, roots[0], proof)


@pytest.mark.parametrize("number", [-1, 65, 2**63, True, None, 1.0, "1"])
def test_numbers_that_are_no_index_are_refused(number):
    """Negative, too large, bool, float: an error of ours, never an acceptance or a TypeError."""
    with pytest.raises(ProofError):
        merkle.verify_inclusion(LEAVES[1], number, 65, inclusion(1, 65), ROOTS[65])
    with pytest.raises(ProofError):
        merkle.inclusion_nodes(number, 65)


@pytest.mark.parametrize("number", [-1, 2**63, True, None, 1.0])
def test_numbers_that_are_no_size_are_refused(number):
    """The same for sizes, on either side of a consistency proof."""
    with pytest.raises(ProofError):
        merkle.verify_inclusion(LEAVES[0], 0, number, [], LEAVES[0])
    with pytest.raises(ProofError):
        merkle.verify_consistency(number, ROOTS[1], 1, ROOTS[1], [])
    with pytest.raises(ProofError):
        merkle.verify_consistency(1, ROOTS[1], number, ROOTS[1], [])
    with pytest.raises(ProofError):
        merkle.consistency_nodes(number, 8)


def test_the_empty_tree_and_its_traps():
    """Size 0 has one root and no leaves; that anything grew out of it proves nothing."""
    empty = merkle.EMPTY_ROOT
    merkle.verify_consistency(0, empty, 0, empty, [])

    for sizes_and_proof in (
        (0, empty, 5, ROOTS[5], []),
        (0, empty, 5, ROOTS[5], [ROOTS[5]]),
        (0, ROOTS[5], 5, ROOTS[5], []),
        (0, bytes(32), 0, bytes(32), []),
        (0, b"", 0, b"", []),
        (5, ROOTS[5], 0, empty, []),
    ):
        with pytest.raises(ProofError):
            merkle.verify_consistency(*sizes_and_proof)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(LEAVES[0], 0, 0, [], empty)


def test_equal_sizes_need_equal_roots_and_no_proof():
    """Two roots for one size are the split view itself."""
    merkle.verify_consistency(5, ROOTS[5], 5, ROOTS[5], [])
    with pytest.raises(ProofError, match="two different roots"):
        merkle.verify_consistency(5, ROOTS[5], 5, ROOTS[6], [])
    with pytest.raises(ProofError, match="superfluous"):
        merkle.verify_consistency(5, ROOTS[5], 5, ROOTS[5], [ROOTS[5]])
    with pytest.raises(ProofError, match="too short"):
        merkle.verify_consistency(4, ROOTS[4], 5, ROOTS[5], [])


@pytest.mark.parametrize(
    ("size", "hashes"),
    [(1, ()), (0, (bytes(32),)), (3, (bytes(32),)), (1, (bytes(31),)), (-1, ()), (True, (b"",))],
)
def test_a_frontier_of_the_wrong_shape_is_refused(size, hashes):
    """A damaged stored frontier must not be appended to."""
    with pytest.raises(ProofError):
        Frontier(size, hashes)


def test_short_stored_nodes_are_refused():
    """A truncated row in the node table gives an error, not a wrong proof."""
    with pytest.raises(ProofError):
        merkle.inclusion_proof(0, 8, lambda level, index: b"short")
    with pytest.raises(ProofError):
        Frontier().extend([b"short"])
