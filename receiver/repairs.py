"""The REPAIR packets of a transmission, within a bound: which blocks they are for, and what they bring back."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from receiver.revision import OBJECT_BYTES, Revision
from shared.errors import PacketError
from shared.packets import Packet
from shared.repair import RepairBlock, RepairLayout

MAX_REPAIR_BYTES: Final = 4 * 1024 * 1024
"""Memory for repair packets, per transmission; the blocks that were begun first give way."""

_MAX_BLOCKS: Final = 16


class Repairs:
    """Blocks that are not whole yet."""

    def __init__(self) -> None:
        self._blocks: dict[RepairLayout, RepairBlock] = {}

    @property
    def stored_bytes(self) -> int:
        """Memory that the blocks take."""
        return sum(_held_bytes(block) for block in self._blocks.values())

    def add(self, packet: Packet, revision: Revision | None) -> bool:
        """Takes a REPAIR packet.

        Args:
            packet: of this transmission.
            revision: the packet's, if something of it has arrived.

        Returns:
            Whether it may be of use.

        Raises:
            PacketError: it makes no sense, or lies outside what is announced.
        """
        layout = RepairLayout.of(packet)
        if revision is not None and revision.header is not None:
            _check(layout, revision)
            if revision.has(_place(layout)):
                return False
        block = self._blocks.setdefault(layout, RepairBlock(layout))
        fresh = block.add(packet)
        self._make_room()
        return fresh

    def recovered(self, revision: Revision, place: slice) -> list[tuple[int, bytes]]:
        """What the blocks that reach into a place bring back.

        Args:
            revision: open; its blocks are looked at, and those that are of no more use dropped.
            place: in the revision's order of sending.

        Returns:
            Position and body of each packet that did not arrive and now is there.
        """
        found: list[tuple[int, bytes]] = []
        for layout, block in list(self._blocks.items()):
            if layout.revision == revision.number and layout.positions[0] < place.stop and place.start < layout.stop:
                bodies = block.recover(dict(_present(layout, revision)))
                if bodies or layout.stop > revision.layout.expected or revision.has(_place(layout)):
                    del self._blocks[layout]
                found += bodies
        return found

    def _make_room(self) -> None:
        while len(self._blocks) > _MAX_BLOCKS or (self.stored_bytes > MAX_REPAIR_BYTES and len(self._blocks) > 1):
            del self._blocks[next(iter(self._blocks))]


def _held_bytes(block: RepairBlock) -> int:
    # The layout has a number for each packet of the block, and Python takes much for each number.
    return block.held_bytes + OBJECT_BYTES * 2 + 40 * len(block.layout.positions)


def _place(layout: RepairLayout) -> slice:
    return slice(layout.positions[0], layout.stop)


def _check(layout: RepairLayout, revision: Revision) -> None:
    if layout.stop > revision.layout.expected:
        raise PacketError("repair packet is for patches outside the picture")


def _present(layout: RepairLayout, revision: Revision) -> Iterator[tuple[int, bytes]]:
    for start, stop in pairwise((*layout.positions, layout.stop)):
        body = revision.body(slice(start, stop))
        if body is not None:
            yield start, body
