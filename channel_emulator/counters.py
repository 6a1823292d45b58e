"""What passed over a link."""

from collections.abc import Sequence
from dataclasses import dataclass

from channel_emulator.impairments import Copy


@dataclass
class LinkCounters:
    """What passed since the link was made.

    Each one alone may be read from another thread. At any time
    accepted + duplicated = delivered + lost + discarded + queued + in flight.
    """

    accepted_bytes: int = 0
    delivered_bytes: int = 0
    delivered_packets: int = 0
    lost_bytes: int = 0
    lost_packets: int = 0
    overflow_bytes: int = 0
    """Dropped because the stream's queue was full; not part of accepted_bytes."""
    overflow_packets: int = 0
    discarded_bytes: int = 0
    """Accepted, and dropped because the stream was closed."""
    queued_bytes: int = 0
    """Waiting or in service now, all streams."""
    busy_s: float = 0.0
    """Link time of the packets that have departed, in seconds; of all links, where each stream has its own."""
    corrupted_packets: int = 0
    """Arrive with flipped bits."""
    duplicated_packets: int = 0
    """Copies beyond the first."""
    duplicated_bytes: int = 0
    reordered_packets: int = 0
    """Held back so that others may overtake."""

    def count(self, packet: bytes, copies: Sequence[Copy]) -> None:
        """Counts what became of a packet that departed."""
        if not copies:
            self.lost_bytes += len(packet)
            self.lost_packets += 1
            return
        first, more = copies[0], len(copies) - 1
        self.corrupted_packets += first.packet is not packet
        self.reordered_packets += first.held_s > 0
        if more:
            self.duplicated_packets += more
            self.duplicated_bytes += more * len(packet)
