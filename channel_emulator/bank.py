"""One direction of the channel: a link that all streams share, or one for each."""

import math
from collections.abc import Iterable
from typing import Final

from channel_emulator.counters import LinkCounters
from channel_emulator.link import Delivery, Link, StreamAccount
from channel_emulator.settings import LinkSettings

NO_TIME_S: Final = 20e-6
"""Less than the event loop takes to get round."""


class LinkBank:
    """Leads each stream over the shared link, or over its own; has a link's methods, and counts over all.

    With `per_stream` a stream that opens gets a link of its own, whose rate model begins at that time and whose
    random sequences depend on how many streams had been opened before it. Streams stay where they were opened.

    Args:
        settings: what the links are like.
        now: when the shared one begins to be.
        name: the direction; the links' random sequences differ by it.
    """

    def __init__(self, settings: LinkSettings, now: float = 0.0, name: str = "forward") -> None:
        self.counters = LinkCounters()
        self._name = name
        self._shared = Link(settings, now, name, self.counters)
        self._own: dict[int, Link] = {}
        self._opened = 0

    @property
    def settings(self) -> LinkSettings:
        """The settings in force."""
        return self._shared.settings

    @property
    def mean_rate_bps(self) -> float:
        """What a link carries in the long run."""
        return self._shared.rate.mean_bps

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._shared.streams + len(self._own)

    @property
    def next_event_s(self) -> float:
        """When a packet departs or arrives next; infinity when nothing is under way."""
        return min((link.next_event_s for link in self._links()), default=math.inf)

    def all_departs_by(self, now: float) -> bool:
        """Whether, at the mean rate, what waits will have departed in no time worth mentioning."""
        return 8 * self.counters.queued_bytes <= self.mean_rate_bps * NO_TIME_S and self.next_event_s <= now

    def rate_bps(self, now: float) -> float:
        """The shared link's rate at a time."""
        return self._shared.rate.rate_bps(now)

    def open(self, stream: int, now: float) -> None:
        """Adds a stream."""
        if self.settings.per_stream:
            self._opened += 1
            self._own[stream] = Link(self.settings, now, f"{self._name}/{self._opened}", self.counters)
        self._of(stream).open(stream, now)

    def offer(self, stream: int, packet: bytes, now: float) -> bool:
        """See Link."""
        return self._of(stream).offer(stream, packet, now)

    def offer_all(self, stream: int, packets: Iterable[bytes], now: float) -> None:
        """Hands over packets, one after another."""
        offer = self._of(stream).offer
        for packet in packets:
            offer(stream, packet, now)

    def finish(self, stream: int, now: float) -> None:
        """See Link."""
        self._of(stream).finish(stream, now)

    def close(self, stream: int, now: float) -> None:
        """See Link."""
        self._of(stream).close(stream, now)
        self._own.pop(stream, None)

    def configure(
        self, settings: LinkSettings, now: float, *, restart_random: bool = False, restart_rate: bool = False
    ) -> None:
        """See Link; holds for all links."""
        if restart_random:
            self._opened = 0
        for link in self._links():
            link.configure(settings, now, restart_random=restart_random, restart_rate=restart_rate)

    def poll(self, now: float) -> list[Delivery]:
        """Everything that came out since the last poll, in order on each link."""
        return [delivery for link in self._links() for delivery in link.poll(now)]

    def account(self, stream: int) -> StreamAccount:
        """See Link."""
        return self._of(stream).account(stream)

    def busy_s(self, now: float) -> float:
        """Seconds for which the links were busy, taken together, the packets in service included."""
        for link in self._links():
            link.advance(now)
        return self.counters.busy_s + sum(link.in_service_s(now) for link in self._links())

    def _of(self, stream: int) -> Link:
        return self._own.get(stream, self._shared)

    def _links(self) -> list[Link]:
        return [self._shared, *self._own.values()] if self._own else [self._shared]
