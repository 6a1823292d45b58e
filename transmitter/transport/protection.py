"""Repair packets for what goes too late to be sent again: blocks of the last packets before the deadline."""

from collections import deque
from functools import lru_cache
from typing import Final, NamedTuple

from shared.repair import MAX_BLOCK, parity_for, repair_packet_bytes, repair_packets
from transmitter.transport.contract import LinkEstimate, PatchesPacket
from transmitter.transport.entries import Entry

BLOCK_FAILURE: Final = 0.1
"""How often a block may stay incomplete: less would cost more packets than it saves."""


class RepairPacket(NamedTuple):
    """A REPAIR packet that is to be sent."""

    revision: int
    position: int
    data: bytes


class Protection:
    """The block that is being sent, and the repair packets of the one before.

    Args:
        transmission_id: of all packets.
        packet_bytes: the largest packet; where repair packets would be larger, there are none.
    """

    def __init__(self, transmission_id: int, packet_bytes: int) -> None:
        self._id, self._packet_bytes = transmission_id, packet_bytes
        self._block: list[PatchesPacket] = []
        self._last: Entry | None = None
        self._ready: deque[RepairPacket] = deque()

    @property
    def ready(self) -> RepairPacket | None:
        """The repair packet that goes next."""
        return self._ready[0] if self._ready else None

    @property
    def idle(self) -> bool:
        """Whether nothing is to be sent, nor would be if the block ended now."""
        return not self._ready and not self._block

    def taken(self) -> None:
        """The ready one was handed over."""
        self._ready.popleft()

    def continues(self, entry: Entry) -> bool:
        """Whether a packet can belong to the block."""
        last = self._last
        if last is None:
            return True
        follows = entry.revision == last.revision and entry.index == last.index + 1
        return follows and len(self._block) < MAX_BLOCK

    def repair_bytes_with(self, entry: Entry, link: LinkEstimate) -> int:
        """What the block's repair packets take in all if it ends with this packet."""
        block = [*self._block, _source(entry)]
        size = repair_packet_bytes(block)
        return repairs_for(len(block), link) * size if size <= self._packet_bytes else 0

    def add(self, entry: Entry) -> None:
        """A packet of the block was handed over; it continues it."""
        self._block.append(_source(entry))
        self._last = entry

    def end_block(self, link: LinkEstimate) -> None:
        """No more packets come: its repair packets are ready."""
        block, last = self._block, self._last
        self._block, self._last = [], None
        if last is None or repair_packet_bytes(block) > self._packet_bytes:
            return
        count = repairs_for(len(block), link)
        packets = repair_packets(self._id, last.revision, block, count) if count else []
        self._ready.extend(RepairPacket(last.revision, block[0].position, data) for data in packets)

    def give_up(self) -> None:
        """Nothing of this is of use any more."""
        self._block, self._last = [], None
        self._ready.clear()


def repairs_for(packets: int, link: LinkEstimate) -> int:
    """How many repair packets a block gets: what it needs, but no more than half as many as it has packets."""
    return _repairs_for(packets, round(min(link.loss_rate, 0.5), 2), round(link.burst_packets))


@lru_cache(maxsize=4_096)
def _repairs_for(packets: int, loss_rate: float, burst_packets: int) -> int:
    return min(parity_for(packets, loss_rate, BLOCK_FAILURE, burst_packets), packets // 2) if loss_rate else 0


def share_of_sources(packets: float, link: LinkEstimate) -> float:
    """Share of the bytes of protected blocks that are no repair packets; without such, of what arrives."""
    block = min(max(round(packets), 1), MAX_BLOCK)
    count = repairs_for(block, link)
    return block / (block + count) if count else 1 - link.loss_rate


def _source(entry: Entry) -> PatchesPacket:
    return PatchesPacket(entry.position, entry.patches, entry.data)
