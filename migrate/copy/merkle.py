"""A Merkle root over a stream of leaves, in memory that grows with the logarithm of their number.

The tree is RFC 6962's (Certificate Transparency), section 2.1: leaves hashed with a 0 byte before
them, nodes with a 1, an unbalanced right side carried up unhashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class MerkleRoot:
    """Add leaves in their order, then read `hex()`."""

    def __init__(self) -> None:
        self.leaves = 0
        self._peaks: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        node = hashlib.sha256(b"\0" + leaf).digest()
        number = self.leaves
        while number & 1:
            node = _node(self._peaks.pop(), node)
            number >>= 1
        self._peaks.append(node)
        self.leaves += 1

    def hex(self) -> str:
        """The root so far; of no leaf at all it is the SHA-256 of nothing."""
        if not self._peaks:
            return hashlib.sha256().hexdigest()
        *rest, root = self._peaks
        for peak in reversed(rest):
            root = _node(peak, root)
        return root.hex()


@dataclass(frozen=True)
class Step:
    """One step up the tree: the other half's hash, and whether that half is the left one."""

    sibling: str
    is_left: bool


class MerkleProofs:
    """The way of chosen leaves up to the root, by their place (from 0), in one pass over all leaves.

    Memory grows with the number of chosen leaves and the logarithm of all of them.
    """

    def __init__(self, chosen: Iterable[int]) -> None:
        self.paths: dict[int, list[Step]] = {place: [] for place in chosen}
        self._leaves = 0
        self._peaks: list[tuple[bytes, frozenset[int]]] = []

    def add(self, leaf: bytes) -> None:
        place = self._leaves
        peak = (hashlib.sha256(b"\0" + leaf).digest(), frozenset({place} & self.paths.keys()))
        number = place
        while number & 1:
            peak = self._joined(self._peaks.pop(), peak)
            number >>= 1
        self._peaks.append(peak)
        self._leaves += 1

    def root(self) -> str:
        """Ends the paths; call it once, after the last leaf."""
        if not self._peaks:
            return hashlib.sha256().hexdigest()
        *rest, peak = self._peaks
        for other in reversed(rest):
            peak = self._joined(other, peak)
        return peak[0].hex()

    def _joined(
        self, left: tuple[bytes, frozenset[int]], right: tuple[bytes, frozenset[int]]
    ) -> tuple[bytes, frozenset[int]]:
        for place in left[1]:
            self.paths[place].append(Step(right[0].hex(), is_left=False))
        for place in right[1]:
            self.paths[place].append(Step(left[0].hex(), is_left=True))
        return _node(left[0], right[0]), left[1] | right[1]


def root_of(leaf: bytes, path: Sequence[Step]) -> str:
    """The root that a leaf and its path lead to: equal to the signed one only if the leaf is in that tree."""
    node = hashlib.sha256(b"\0" + leaf).digest()
    for step in path:
        sibling = bytes.fromhex(step.sibling)
        node = _node(sibling, node) if step.is_left else _node(node, sibling)
    return node.hex()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
