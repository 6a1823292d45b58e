"""The link model: packets, stream numbers and `now` go in, deliveries come out. No I/O and no clock.

```
offer ──► queue of stream 1 ─┐                        impairments of the link, of the stream
offer ──► queue of stream 2 ─┼─ round robin ─► Carrier ──┬──► in flight ──► Delivery
offer ──► queue of stream 3 ─┘   (by bytes)    8L/rate   │    propagation, jitter
             │ full: overflow                            └──► lost
```

The link keeps a virtual clock. At a constant rate, a packet of L bytes departs at

    departure = max(arrival, previous departure) + 8 L / rate

and in general when the rate, whatever its model, has carried it (`channel_emulator.rates`). Whoever calls late, or
seldom, gets the same departures: a late event loop never lowers the rate. The same calls with the same `now` and
seed give the same deliveries, bit for bit.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from channel_emulator.counters import LinkCounters
from channel_emulator.delay import DelayLine
from channel_emulator.fates import Fates
from channel_emulator.impairments import Copy
from channel_emulator.queue import QUANTUM_BYTES, FairRow, StreamAccount, StreamQueue
from channel_emulator.rates import Carrier, Rate
from channel_emulator.settings import MAX_QUEUE_BYTES, LinkSettings

__all__ = ["QUANTUM_BYTES", "Delivery", "Link", "LinkCounters", "StreamAccount"]


class Delivery(NamedTuple):
    """A packet that came out at the far end."""

    stream: int
    packet: bytes | None
    """None marks the end of the stream; it comes once, after every packet."""
    due_s: float
    """When it came out, in the time of `now`."""


class Link:
    """One link that all its streams share.

    `now` is in seconds on any clock, and must not go back from call to call.

    Args:
        settings: what it is like; whether each stream has its own is for `channel_emulator.bank`.
        now: when it begins to be.
        name: whose random sequences it has, such as a direction.
        counters: where it counts.
    """

    def __init__(
        self, settings: LinkSettings, now: float = 0.0, name: str = "forward", counters: LinkCounters | None = None
    ) -> None:
        self.counters = counters or LinkCounters()
        self._settings, self._name = settings, name
        self._streams: dict[int, StreamQueue] = {}
        self._row = FairRow()
        self._served: tuple[StreamQueue, bytes] | None = None  # the packet on the link, and whose it is
        self._start_s, self._done_s = -math.inf, math.inf  # since when it is there; when it departs
        self._free_s = -math.inf  # the previous departure
        self._in_flight: DelayLine[tuple[int, bytes | None]] = DelayLine()
        self._arrived: list[Delivery] = []
        self._carrier = Carrier(settings.rate(name, now), settings.burst_bytes, now)
        self._fates = Fates(settings, name, now)

    @property
    def settings(self) -> LinkSettings:
        """The settings in force."""
        return self._settings

    @property
    def rate(self) -> Rate:
        """The rate in force."""
        return self._carrier.rate

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def next_event_s(self) -> float:
        """When a packet departs or arrives next; infinity when nothing is under way."""
        if self._arrived:
            return self._arrived[0].due_s
        return min(self._done_s, self._in_flight.next_due_s)

    def open(self, stream: int, now: float = 0.0) -> None:
        """Adds a stream with an empty queue."""
        if stream in self._streams:
            raise ValueError(f"stream {stream} is open")
        self._streams[stream] = StreamQueue(stream, self._room(now))
        self._fates.open(stream, now)

    def offer(self, stream: int, packet: bytes, now: float) -> bool:
        """Hands over a packet of at least one byte.

        Returns:
            Whether it was accepted; otherwise it went beyond the credit and was dropped at the queue's tail.
        """
        if self._done_s <= now:
            self.advance(now)
        target, size = self._streams[stream], len(packet)
        if target.finished or not size:
            raise ValueError("packet is empty or comes after the stream's end")
        if self._settings.queue_s:  # what it holds changes with the rate
            target.grant(self._room(now))
        if not target.accept(packet):
            self.counters.overflow_bytes += size
            self.counters.overflow_packets += 1
            return False
        self.counters.accepted_bytes += size
        self.counters.queued_bytes += size
        if len(target.queue) == 1:
            self._row.join(target)
        if self._served is None:
            self._serve_next(now)
        return True

    def finish(self, stream: int, now: float) -> None:
        """Ends a stream: its end follows the last packet down the link."""
        self.advance(now)
        target = self._streams[stream]
        if not target.finished:
            target.finished = True
            self._end_if_drained(target, now)

    def close(self, stream: int, now: float) -> None:
        """Forgets a stream; what waits, is in service or in flight is discarded, and the link freed."""
        self.advance(now)
        target = self._streams.pop(stream)
        self._fates.close(stream)
        self.counters.discarded_bytes += target.queued_bytes + self._drop_in_flight(stream)
        self.counters.queued_bytes -= target.queued_bytes
        self._row.leave(target)
        if self._served and self._served[0] is target:
            self.counters.busy_s += now - self._start_s
            self._carrier.abandon(now)
            self._serve_next(now)

    def configure(
        self, settings: LinkSettings, now: float, *, restart_random: bool = False, restart_rate: bool = False
    ) -> None:
        """Changes the settings from `now` on.

        The packet in service keeps what it has sent so far and sends the rest at the new rate. The propagation, the
        losses and the other impairments hold for packets that depart from now on. Credit that was granted is kept
        when the queue shrinks: the stream gets no more until it fits.

        Args:
            settings: the new ones.
            now: when they begin to hold; a new model of the rate and new blackouts count from here.
            restart_random: whether random sequences, model and blackouts begin again, as in a new link.
            restart_rate: whether the model begins again.
        """
        self.advance(now)
        old, self._settings = self._settings, settings
        (self._fates.restart if restart_random else self._fates.change)(settings, now)
        fresh = restart_random or restart_rate or (old.rate_bps, old.model) != (settings.rate_bps, settings.model)
        if fresh or old.burst_bytes != settings.burst_bytes:
            rate = settings.rate(self._name, now) if fresh else self._carrier.rate
            self._done_s = self._carrier.change(rate, settings.burst_bytes, now, busy=self._served is not None)
        for stream in self._streams.values():
            stream.grant(self._room(now))

    def poll(self, now: float) -> list[Delivery]:
        """Everything that came out since the last poll, in order."""
        self.advance(now)
        arrived, self._arrived = self._arrived, []
        return arrived

    def account(self, stream: int) -> StreamAccount:
        """What a stream may send and has sent, as of the last call."""
        return self._streams[stream].account

    def busy_s(self, now: float) -> float:
        """Seconds for which the link was busy, the packet in service included."""
        self.advance(now)
        return self.counters.busy_s + self.in_service_s(now)

    def in_service_s(self, now: float) -> float:
        """For how many seconds the packet on the link, if there is one, has been there."""
        return now - self._start_s if self._served else 0.0

    def advance(self, now: float) -> None:
        """Lets happen what happens up to a time."""
        while self._done_s <= now:
            self._depart()
            self._serve_next(self._free_s)
        if self._in_flight.next_due_s <= now:
            self._arrive(now)

    def _arrive(self, now: float) -> None:
        arrived_bytes = arrived_packets = 0
        for due_s, (number, packet) in self._in_flight.take(now):
            self._arrived.append(Delivery(number, packet, due_s))
            if packet is not None:
                arrived_bytes += len(packet)
                arrived_packets += 1
        self.counters.delivered_bytes += arrived_bytes
        self.counters.delivered_packets += arrived_packets

    def _depart(self) -> None:
        assert self._served is not None
        stream, packet = self._served
        counters, size, self._free_s = self.counters, len(packet), self._done_s
        counters.busy_s += self._free_s - self._start_s
        counters.queued_bytes -= size
        stream.departed_bytes += size
        stream.grant(self._room(self._free_s))
        lost = self._fates.lost()
        if self._fates.impaired:
            self._fly(stream, packet, [] if lost else self._fates.copies(stream.number, packet, self._free_s))
        elif lost:
            counters.count(packet, ())
        else:
            self._in_flight.put((stream.number, packet), self._free_s + self._settings.propagation_s)
        if stream.finished:
            self._end_if_drained(stream, self._free_s)

    def _fly(self, stream: StreamQueue, packet: bytes, copies: Sequence[Copy]) -> None:
        self.counters.count(packet, copies)
        for copy in copies:
            due_s = self._free_s + self._settings.propagation_s + copy.late_s
            out_s = self._in_flight.put((stream.number, copy.packet), due_s, copy.held_s)
            if copy.held_s:
                stream.held_until_s = max(stream.held_until_s, out_s)

    def _end_if_drained(self, stream: StreamQueue, at_s: float) -> None:
        if stream.finished and not stream.queued_bytes:
            due_s = at_s + self._settings.propagation_s
            self._in_flight.put_after((stream.number, None), due_s, stream.held_until_s)

    def _serve_next(self, start_s: float) -> None:
        self._served = self._row.next_packet()
        if self._served is None:
            self._done_s = math.inf
        else:
            self._start_s, self._done_s = start_s, self._carrier.finish(start_s, len(self._served[1]))

    def _drop_in_flight(self, stream: int) -> int:
        dropped = self._in_flight.remove(lambda item: item[0] == stream)
        return sum(len(packet or b"") for _, packet in dropped)

    def _room(self, now: float) -> int:
        """Bytes that a stream's queue holds."""
        settings = self._settings
        if not settings.queue_s:
            return settings.queue_bytes
        carried_bytes = self._carrier.rate.carried_bits(now, now + settings.queue_s) / 8
        return int(min(max(settings.queue_bytes, carried_bytes), MAX_QUEUE_BYTES))
