"""The queues in front of the link: one per stream, each with its account, served in turns."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

QUANTUM_BYTES: Final = 1_500
"""What a stream may send per turn when several wait: one full Ethernet frame."""


class StreamAccount(NamedTuple):
    """One stream's account with the link, counted from its start."""

    credit_bytes: int
    """Bytes that may have been handed over: those that left the queue, plus the queue. What overflowed has left
    too, so that a sender who once went too far is not throttled for ever. Never decreases."""
    departed_bytes: int
    """Bytes that left the queue onto the link, lost ones included."""
    queued_bytes: int
    """Bytes that wait or are in service now."""


@dataclass(eq=False, slots=True)
class StreamQueue:
    """One stream's queue and its account."""

    number: int
    window_bytes: int
    """Bytes that may have been accepted by now; grows as packets depart, and never shrinks."""
    queue: deque[bytes] = field(default_factory=deque)
    deficit_bytes: int = 0
    accepted_bytes: int = 0
    departed_bytes: int = 0
    overflow_bytes: int = 0
    finished: bool = False
    held_until_s: float = -math.inf
    """When the last of its packets that were held back comes out; its end comes later."""

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait or are in service."""
        return self.accepted_bytes - self.departed_bytes

    @property
    def account(self) -> StreamAccount:
        """The account as it stands."""
        return StreamAccount(self.window_bytes + self.overflow_bytes, self.departed_bytes, self.queued_bytes)

    def grant(self, queue_bytes: int) -> None:
        """Widens the window to what fits in a queue of this size."""
        self.window_bytes = max(self.window_bytes, self.departed_bytes + queue_bytes)

    def accept(self, packet: bytes) -> bool:
        """Takes a packet into the queue's accounts, unless it goes beyond the window: then it overflows."""
        size = len(packet)
        if self.accepted_bytes + size > self.window_bytes:
            self.overflow_bytes += size
            return False
        self.accepted_bytes += size
        self.queue.append(packet)
        return True


class FairRow:
    """The streams that wait, in the order of their turns: deficit round robin, so that they share by bytes."""

    def __init__(self) -> None:
        self._waiting: deque[StreamQueue] = deque()

    def join(self, stream: StreamQueue) -> None:
        """Adds a stream whose queue was empty and is not now."""
        self._waiting.append(stream)

    def leave(self, stream: StreamQueue) -> None:
        """Removes a stream that waits, if it does."""
        if stream in self._waiting:
            self._waiting.remove(stream)

    def next_packet(self) -> tuple[StreamQueue, bytes] | None:
        """Takes a packet; who cannot afford its first gets a quantum and goes to the end of the row."""
        waiting = self._waiting
        while waiting:
            stream = waiting[0]
            packets = stream.queue
            if stream.deficit_bytes < len(packets[0]):
                stream.deficit_bytes += QUANTUM_BYTES
                waiting.rotate(-1)
                continue
            packet = packets.popleft()
            stream.deficit_bytes -= len(packet)
            if not packets:
                waiting.popleft()
                stream.deficit_bytes = 0
            return stream, packet
        return None
