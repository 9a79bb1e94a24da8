"""A Merkle root over a stream of leaves, in memory that grows with the logarithm of their number.

The tree is RFC 6962's (Certificate Transparency), section 2.1: leaves hashed with a 0 byte before
them, nodes with a 1, an unbalanced right side carried up unhashed.
"""

from __future__ import annotations

import hashlib


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


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
