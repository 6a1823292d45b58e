"""What waits in the channel's own queue, by the credit that it grants: what has left the queue, plus the queue.

The sender sees departures at once, long before feedback tells of arrivals. It keeps just enough waiting there that the
link never idles, so that hardly anything is committed when the rate falls.
"""

import math
from collections import deque

from transmitter.transport.estimates import RateMeter

_EXACT_S = 0.05
"""Time next to which the delay of a call does not matter."""


class LocalQueue:
    """The channel's queue as credit shows it; where credit shows nothing, it seems empty."""

    def __init__(self) -> None:
        self._capacity = 0
        self._granted = 0
        self._sizes: deque[int] = deque()
        self._handed_bytes = 0
        self._departed_bytes = 0
        self._since_s = 0.0
        self.tells = False
        """Whether credit has shown how fast a packet left while another waited, or took long to leave."""

    def see(self, room_bytes: int, in_flight_bytes: int, now: float, rate: RateMeter) -> None:
        """Takes the credit that is left, and what it says of the rate.

        Args:
            room_bytes: what may be handed over now.
            in_flight_bytes: no more than that of what was handed over can be waiting.
            now: when.
            rate: where busy seconds go.
        """
        if not self._handed_bytes:
            self._capacity = max(self._capacity, room_bytes)
        self._granted = max(self._granted, self._handed_bytes + room_bytes)
        self._capacity = min(self._capacity, max(self._granted - self._handed_bytes + in_flight_bytes, 0))
        departed = min(self._granted - self._capacity, self._handed_bytes)
        if departed > self._departed_bytes:
            self._depart(departed - self._departed_bytes, now, rate)

    def _depart(self, size: int, now: float, rate: RateMeter) -> None:
        self._departed_bytes += size
        seconds, self._since_s = now - self._since_s, now
        emptied = self._departed_bytes >= self._handed_bytes
        if emptied and seconds < _EXACT_S:
            rate.saw_at_least(size, seconds)
        else:
            rate.saw(size, seconds)
            self.tells = True
        gone = size
        while self._sizes and gone >= self._sizes[0]:
            gone -= self._sizes.popleft()
        if self._sizes and gone:
            self._sizes[0] -= gone

    def hand(self, size: int, now: float) -> None:
        """A packet is handed over."""
        if self._departed_bytes >= self._handed_bytes:
            self._since_s = now
            self._sizes.clear()
        self._handed_bytes += size
        self._sizes.append(size)

    def in_service(self, now: float) -> tuple[int, float]:
        """Bytes of the packet on the link, and for how long it has been there; 0 where nothing waits."""
        return (self._sizes[0], now - self._since_s) if self._sizes and self.known_bytes else (0, 0.0)

    @property
    def has_departed(self) -> bool:
        """Whether anything has, or nothing was handed over that could."""
        return self._departed_bytes > 0 or not self._handed_bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits before the next packet, as far as credit shows that at all."""
        return self.tells and not self.known_bytes

    @property
    def known_bytes(self) -> int:
        """Waiting or on the link, by what is known to have departed."""
        return self._handed_bytes - self._departed_bytes

    def waiting_bytes(self, now: float, rate_bps: float) -> float:
        """The same, less what the packet on the link should have got done."""
        if not self._sizes or not self.known_bytes:
            return 0.0
        return self.known_bytes - min(rate_bps / 8 * (now - self._since_s), self._sizes[0])

    def drained_s(self, target_bytes: float, now: float, rate_bps: float) -> float:
        """When, by all that is known, no more than so much waits; infinity where a departure must be seen before."""
        if not self._sizes or self.known_bytes - self._sizes[0] > target_bytes:
            return math.inf
        return now + 8 * max(self.waiting_bytes(now, rate_bps) - target_bytes, 0.0) / rate_bps
