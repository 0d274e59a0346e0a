"""RFC 6962 / RFC 9162 Merkle tree hashing and proofs, with SHA-256 and nothing else.

What must stay true:
- Verification never trusts a length, an index or a hash it was handed: a wrong one is a
  `ProofError`, not an exception of some other kind and never an acceptance.
- A node is named `(level, index)`: the complete subtree over the leaves
  `[index << level, (index + 1) << level)`; level 0 are the leaf hashes. Complete subtrees never
  change once they exist, so they can be stored once and read by any later proof.

Source: RFC 6962 section 2.1, RFC 9162 sections 2.1.1 to 2.1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

HASH_BYTES = 32
SIZE_MAX = 2**63 - 1
EMPTY_ROOT = sha256(b"").digest()

Node = tuple[int, int]
NodeAt = Callable[[int, int], bytes]
TreeNode = tuple[int, int, bytes]  # level, index and 32-byte hash of a complete subtree
Span = tuple[int, int]  # leaves [low, high)


class ProofError(ValueError):
    """A proof, or an argument of one, does not hold. `reason` says why in one sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def _checked_hash(value: object, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != HASH_BYTES:
        raise ProofError(f"{what} is not {HASH_BYTES} bytes")
    return value


def _checked_size(value: object, what: str) -> int:
    # bool is an int to Python; True as a size is always somebody's mistake.
    if type(value) is not int or not 0 <= value <= SIZE_MAX:
        raise ProofError(f"{what} is not a whole number from 0 to 2^63 - 1")
    return value


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of a tree: all that is needed to go on appending to it.

    `hashes` holds the roots of the complete subtrees which make up the tree, largest (leftmost)
    first: exactly one per 1 bit of `size`, so at most 63 of them. Raises ProofError for any other
    shape. Values are never changed; `extend` returns a new frontier.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = field(default=())

    def __post_init__(self) -> None:
        _checked_size(self.size, "frontier size")
        if len(self.hashes) != self.size.bit_count():
            raise ProofError(
                f"a frontier of size {self.size} has {self.size.bit_count()} hashes, "
                f"not {len(self.hashes)}"
            )
        for value in self.hashes:
            _checked_hash(value, "frontier hash")

    @property
    def root(self) -> bytes:
        """The root of the tree; SHA-256 of nothing for the empty one."""
        return _fold(self.hashes) if self.hashes else EMPTY_ROOT

    def extend(self, leaf_hashes: Iterable[bytes]) -> tuple[Frontier, list[TreeNode]]:
        """Append leaves; returns the new frontier and the interior nodes now complete.

        O(batch + log size). The nodes come children before parents and are exactly those of the
        grown tree that the old one did not have; leaf hashes (level 0) are not repeated in them.
        """
        nodes: list[TreeNode] = []
        return self._grown(leaf_hashes, nodes), nodes

    def grow(self, leaf_hashes: Iterable[bytes]) -> Frontier:
        """As `extend`, for whoever has no use for the nodes."""
        return self._grown(leaf_hashes, None)

    def _grown(self, leaf_hashes: Iterable[bytes], nodes: list[TreeNode] | None) -> Frontier:
        """Level by level: what stands alone at its level is the frontier's, pairs make the next."""
        row = [_checked_hash(value, "leaf hash") for value in leaf_hashes]
        size = self.size + len(row)
        left = list(self.hashes)  # smallest last
        alone: list[bytes] = []
        level = 0
        while row or left:
            first = self.size >> level
            if first & 1:  # a left sibling of the same size is waiting
                row.insert(0, left.pop())
            if len(row) & 1:
                alone.append(row.pop())
            row = [
                sha256(b"\x01" + one + other).digest()
                for one, other in zip(row[::2], row[1::2], strict=True)
            ]
            level += 1
            if nodes is not None:
                first >>= 1
                nodes += [(level, first + at, node) for at, node in enumerate(row)]
        return Frontier(size, tuple(reversed(alone)))


EMPTY_TREE = Frontier()


def root(leaf_hashes: Iterable[bytes]) -> bytes:
    """The root of the tree over these leaf hashes."""
    return EMPTY_TREE.grow(leaf_hashes).root


def new_nodes(before: Frontier, leaf_hashes: Iterable[bytes]) -> list[TreeNode]:
    """The interior nodes which come to exist by appending; see `Frontier.extend`.

    Takes the frontier and not only its size: a node completed by an appended leaf has a left
    child that was there before.
    """
    return before.extend(leaf_hashes)[1]


# --- which nodes a proof is made of ---------------------------------------------------------------


def _split(span: Span) -> int:
    """Where RFC 6962 cuts a span of two leaves or more: largest power of two below its length."""
    low, high = span
    return low + (1 << ((high - low - 1).bit_length() - 1))


def _inclusion_spans(index: int, size: int) -> list[Span]:
    """The spans whose roots are the audit path of a leaf, leaf end first."""
    if _checked_size(index, "index") >= _checked_size(size, "size"):
        raise ProofError(f"index {index} is not in a tree of size {size}")
    low, high = 0, size
    spans: list[Span] = []
    while high - low > 1:
        middle = _split((low, high))
        if index < middle:
            spans.append((middle, high))
            high = middle
        else:
            spans.append((low, middle))
            low = middle
    return spans[::-1]


def _consistency_spans(size1: int, size2: int) -> list[Span]:
    """The spans whose roots are the consistency proof, in proof order."""
    _checked_size(size1, "first size")
    if size1 > _checked_size(size2, "second size"):
        raise ProofError(f"a tree of size {size1} does not shrink to {size2}")
    if size1 in (0, size2):
        return []
    low, high = 0, size2
    spans: list[Span] = []
    while high != size1:
        middle = _split((low, high))
        if size1 <= middle:
            spans.append((middle, high))
            high = middle
        else:
            spans.append((low, middle))
            low = middle
    if low:  # otherwise this is the old root itself, which the verifier already has
        spans.append((low, high))
    return spans[::-1]


def _span_nodes(span: Span) -> list[Node]:
    """The complete subtrees a span of an RFC 6962 tree consists of, largest first."""
    low, high = span
    nodes: list[Node] = []
    while low < high:
        level = (high - low).bit_length() - 1
        nodes.append((level, low >> level))
        low += 1 << level
    return nodes


def frontier_nodes(size: int) -> list[Node]:
    """The stored nodes that are the `hashes` of the frontier of this size, in their order."""
    return _span_nodes((0, _checked_size(size, "size")))


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees given largest first: they nest to the right."""
    node = hashes[-1]
    for left in reversed(hashes[:-1]):
        node = node_hash(left, node)
    return node


def _proof(spans: Iterable[Span], node_at: NodeAt) -> list[bytes]:
    return [
        _fold([_checked_hash(node_at(*node), f"stored node {node}") for node in _span_nodes(span)])
        for span in spans
    ]


def inclusion_nodes(index: int, size: int) -> list[Node]:
    """The stored nodes `inclusion_proof` will ask for; at most about 2 log2(size), all distinct."""
    return [node for span in _inclusion_spans(index, size) for node in _span_nodes(span)]


def inclusion_proof(index: int, size: int, node_at: NodeAt) -> list[bytes]:
    """The audit path of leaf `index` in the tree of the first `size` leaves, leaf end first.

    node_at: gives the hash of the complete subtree (level, index). Raises ProofError if the leaf
    is not in the tree.
    """
    return _proof(_inclusion_spans(index, size), node_at)


def consistency_nodes(size1: int, size2: int) -> list[Node]:
    """The stored nodes `consistency_proof` will ask for, all distinct."""
    return [node for span in _consistency_spans(size1, size2) for node in _span_nodes(span)]


def consistency_proof(size1: int, size2: int, node_at: NodeAt) -> list[bytes]:
    """The proof that the first `size1` leaves are a prefix of the first `size2`.

    Empty if the sizes are equal or the first is 0. Raises ProofError if size1 > size2.
    """
    return _proof(_consistency_spans(size1, size2), node_at)


# --- verification: the iterative algorithms of RFC 9162, independent of the generation above ------


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf_hash` is leaf `index` of the tree (size, root); raises ProofError.

    The size must come from the same signed checkpoint as the root: a path alone does not always
    tell one size from another.
    """
    node = _checked_hash(leaf_hash, "leaf hash")
    _checked_hash(root, "root")
    if _checked_size(index, "index") >= _checked_size(size, "size"):
        raise ProofError(f"index {index} is not in a tree of size {size}")
    fn, sn = index, size - 1
    for item in proof:
        sibling = _checked_hash(item, "proof node")
        if sn == 0:
            raise ProofError("the proof has superfluous nodes")
        if fn & 1 or fn == sn:
            node = node_hash(sibling, node)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            node = node_hash(node, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise ProofError("the proof is too short")
    if node != root:
        raise ProofError("the proof leads to another root")


def verify_consistency(
    size1: int, root1: bytes, size2: int, root2: bytes, proof: Sequence[bytes]
) -> None:
    """Check that tree (size1, root1) is a prefix of tree (size2, root2); raises ProofError.

    Equal sizes need equal roots and an empty proof. Nothing can be proven about the growth of the
    empty tree, of which everything is a continuation, so a first size of 0 is refused: whoever
    holds no leaf yet has nothing to compare (transparency-dev/merkle's vectors say the same).
    """
    _checked_hash(root1, "first root")
    _checked_hash(root2, "second root")
    if _checked_size(size1, "first size") > _checked_size(size2, "second size"):
        raise ProofError(f"a tree of size {size1} does not shrink to {size2}")
    for size, claimed in ((size1, root1), (size2, root2)):
        if size == 0 and claimed != EMPTY_ROOT:
            raise ProofError("the root of the empty tree is another one")
    if size1 == 0 < size2:
        raise ProofError("a proof from the empty tree is meaningless")
    if size1 == size2:
        if proof:
            raise ProofError("the proof has superfluous nodes")
        if root1 != root2:
            raise ProofError(f"two different roots for size {size1}")
        return
    _walk_consistency(size1, root1, size2, root2, proof)


def _walk_consistency(
    size1: int, root1: bytes, size2: int, root2: bytes, proof: Sequence[bytes]
) -> None:
    if not proof:
        raise ProofError("the proof is too short")
    path = [_checked_hash(item, "proof node") for item in proof]
    if size1 & (size1 - 1) == 0:  # a complete old tree is itself the first node of the path
        path.insert(0, root1)
    fn, sn = size1 - 1, size2 - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    first = second = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise ProofError("the proof has superfluous nodes")
        if fn & 1 or fn == sn:
            first = node_hash(sibling, first)
            second = node_hash(sibling, second)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            second = node_hash(second, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise ProofError("the proof is too short")
    if first != root1:
        raise ProofError("the proof does not lead to the first root")
    if second != root2:
        raise ProofError("the proof does not lead to the second root")
