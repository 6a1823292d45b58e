"""Counts the patches of a picture over all revisions: each counts once, in however many it was announced or came."""

import numpy as np

from shared.arrays import AnyArray, BoolArray, Int64Array, UInt8Array
from shared.levels import SKIPPED


class Tally:
    """Which patches are announced, and which are there.

    A patch that came in several revisions counts at its level in the newest of these, whatever the order of arrival.

    Args:
        patches: of the picture.
        levels: of the codec.
    """

    def __init__(self, patches: int, levels: int) -> None:
        self.expected = 0
        """Patches that any revision announces."""
        self._announced, self._there = _Newest(patches, levels), _Newest(patches, levels)
        self._levels: dict[int, UInt8Array] = {}
        self._orders: dict[int, AnyArray] = {}

    @property
    def received(self) -> int:
        """Patches that have arrived in any revision."""
        return sum(self.levels_received)

    @property
    def levels_received(self) -> tuple[int, ...]:
        """Patches that have arrived at each level; nothing arrives at level 0."""
        return tuple(self._there.counts.tolist())

    @property
    def levels_planned(self) -> tuple[int, ...]:
        """Patches at each level: those that have arrived as they have, the others as they were announced last."""
        there, counts = self._there.levels, self._there.counts
        planned: AnyArray = np.where(there, there, self._announced.levels)
        return tuple(np.bincount(planned, minlength=len(counts)).tolist())

    @property
    def stored_bytes(self) -> int:
        """Memory of the counts; the level maps belong to the revisions."""
        orders = sum(order.nbytes for order in self._orders.values())
        return orders + self._announced.stored_bytes + self._there.stored_bytes

    def announce(self, revision: int, levels: UInt8Array, order: Int64Array) -> None:
        """Adds what a revision announces.

        Args:
            revision: its number; each is announced once, in any order.
            levels: (patches,) its level map in raster order.
            order: numbers of the patches that it announces, in its order of sending.
        """
        self._levels[revision], self._orders[revision] = levels, order.astype(np.uint32)
        self._announced.mark(order, levels[order], revision)
        self.expected = int(self._announced.counts.sum())

    def arrive(self, revision: int, place: slice) -> None:
        """Notes that the patches at adjacent places of a revision's order of sending have arrived."""
        numbers = self._orders[revision][place]
        self._there.mark(numbers, self._levels[revision][numbers], revision)


class _Newest:
    """Of each patch, its level in the newest revision that has it; 0 while none has."""

    def __init__(self, patches: int, levels: int) -> None:
        self.levels: UInt8Array = np.zeros(patches, np.uint8)
        self.counts: Int64Array = np.zeros(levels, np.int64)
        """Patches at each level; none counts at level 0."""
        self._revisions: AnyArray = np.full(patches, -1, np.int8)

    @property
    def stored_bytes(self) -> int:
        return self.levels.nbytes + self._revisions.nbytes + self.counts.nbytes

    def mark(self, numbers: AnyArray, levels: UInt8Array, revision: int) -> None:
        newer: BoolArray = self._revisions[numbers] < revision
        numbers, levels = numbers[newer], levels[newer]
        count = len(self.counts)
        self.counts += np.bincount(levels, minlength=count) - np.bincount(self.levels[numbers], minlength=count)
        self.counts[SKIPPED] = 0
        self.levels[numbers], self._revisions[numbers] = levels, revision
