"""The link model: packets, stream numbers and `now` go in, deliveries come out. No I/O and no clock.

```
offer ──► queue of stream 1 ─┐                       lost?
offer ──► queue of stream 2 ─┼─ round robin ─► link ──┬──► in flight ──► Delivery
offer ──► queue of stream 3 ─┘   (by bytes)   8L/rate │    propagation
             │ full: overflow                         └──► lost
```

The link keeps a virtual clock. A packet of L bytes departs at

    departure = max(arrival, previous departure) + 8 L / rate

so that whoever calls late, or seldom, gets the same departures: a late event loop never lowers the rate. The same
calls with the same `now` and seed give the same deliveries, bit for bit.
"""

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from channel_emulator.delay import DelayLine
from channel_emulator.settings import LinkSettings

QUANTUM_BYTES: Final = 1_500
"""What a stream may send per turn when several wait: one full Ethernet frame."""


class Delivery(NamedTuple):
    """A packet that came out at the far end."""

    stream: int
    packet: bytes | None
    """None marks the end of the stream; it comes once, after every packet."""
    due_s: float
    """When it came out, in the time of `now`."""


class StreamAccount(NamedTuple):
    """One stream's account with the link, counted from its start."""

    credit_bytes: int
    """Bytes that may have been handed over: those that left the queue, plus the queue. What overflowed has left
    too, so that a sender who once went too far is not throttled for ever. Never decreases."""
    departed_bytes: int
    """Bytes that left the queue onto the link, lost ones included."""
    queued_bytes: int
    """Bytes that wait or are in service now."""


@dataclass
class LinkCounters:
    """What passed since the link was made.

    Each one alone may be read from another thread. At any time
    accepted = delivered + lost + discarded + queued + in flight.
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
    """Link time of the packets that have departed, in seconds."""


@dataclass(eq=False)
class _Stream:
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

    @property
    def queued_bytes(self) -> int:
        return self.accepted_bytes - self.departed_bytes

    def grant(self, queue_bytes: int) -> None:
        self.window_bytes = max(self.window_bytes, self.departed_bytes + queue_bytes)


@dataclass
class _Service:
    """The packet on the link."""

    stream: _Stream
    packet: bytes
    start_s: float
    done_s: float


class Link:
    """One link that all streams share.

    `now` is in seconds on any clock, and must not go back from call to call.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.counters = LinkCounters()
        self._settings = settings
        self._random = _losses(settings.seed)
        self._streams: dict[int, _Stream] = {}
        self._waiting: deque[_Stream] = deque()  # streams with a queue, in the order of their turns
        self._service: _Service | None = None
        self._free_s = -math.inf  # the previous departure
        self._in_flight: DelayLine[tuple[int, bytes | None]] = DelayLine()
        self._arrived: list[Delivery] = []

    @property
    def settings(self) -> LinkSettings:
        """The settings in force."""
        return self._settings

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def next_event_s(self) -> float:
        """When a packet departs or arrives next; infinity when nothing is under way."""
        if self._arrived:
            return self._arrived[0].due_s
        done_s = self._service.done_s if self._service else math.inf
        return min(done_s, self._in_flight.next_due_s)

    def open(self, stream: int) -> None:
        """Adds a stream with an empty queue."""
        if stream in self._streams:
            raise ValueError(f"stream {stream} is open")
        self._streams[stream] = _Stream(stream, self._settings.queue_bytes)

    def offer(self, stream: int, packet: bytes, now: float) -> bool:
        """Hands over a packet of at least one byte.

        Returns:
            Whether it was accepted; otherwise it went beyond the credit and was dropped at the queue's tail.
        """
        self._advance(now)
        target, size = self._streams[stream], len(packet)
        if target.finished or not size:
            raise ValueError("packet is empty or comes after the stream's end")
        if target.accepted_bytes + size > target.window_bytes:
            target.overflow_bytes += size
            self.counters.overflow_bytes += size
            self.counters.overflow_packets += 1
            return False
        target.accepted_bytes += size
        self.counters.accepted_bytes += size
        self.counters.queued_bytes += size
        if not target.queue:
            self._waiting.append(target)
        target.queue.append(packet)
        if self._service is None:
            self._serve_next(now)
        return True

    def finish(self, stream: int, now: float) -> None:
        """Ends a stream: its end follows the last packet down the link."""
        self._advance(now)
        target = self._streams[stream]
        if not target.finished:
            target.finished = True
            self._end_if_drained(target, now)

    def close(self, stream: int, now: float) -> None:
        """Forgets a stream; what waits, is in service or in flight is discarded, and the link freed."""
        self._advance(now)
        target = self._streams.pop(stream)
        flying = self._in_flight.clear()
        for due_s, item in flying:
            if item[0] != stream:
                self._in_flight.put(item, due_s)
        gone = sum(len(packet or b"") for _, (number, packet) in flying if number == stream)
        self.counters.discarded_bytes += gone + target.queued_bytes
        self.counters.queued_bytes -= target.queued_bytes
        if target.queue:
            self._waiting.remove(target)
        if self._service and self._service.stream is target:
            self.counters.busy_s += now - self._service.start_s
            self._serve_next(now)

    def configure(self, settings: LinkSettings, now: float, *, restart_random: bool = False) -> None:
        """Changes the settings from `now` on.

        The packet in service keeps what it has sent so far and sends the rest at the new rate. The propagation and
        the loss rate hold for packets that depart from now on. Credit that was granted is kept when the queue
        shrinks: the stream gets no more until it fits.
        """
        self._advance(now)
        service, scale = self._service, self._settings.rate_bps / settings.rate_bps
        if service and scale != 1.0:
            service.done_s = now + (service.done_s - now) * scale
        self._settings = settings
        if restart_random:
            self._random = _losses(settings.seed)
        for stream in self._streams.values():
            stream.grant(settings.queue_bytes)

    def poll(self, now: float) -> list[Delivery]:
        """Everything that came out since the last poll, in order."""
        self._advance(now)
        arrived, self._arrived = self._arrived, []
        return arrived

    def account(self, stream: int) -> StreamAccount:
        """What a stream may send and has sent, as of the last call."""
        target = self._streams[stream]
        credit_bytes = target.window_bytes + target.overflow_bytes
        return StreamAccount(credit_bytes, target.departed_bytes, target.queued_bytes)

    def busy_s(self, now: float) -> float:
        """Seconds for which the link was busy, the packet in service included."""
        self._advance(now)
        return self.counters.busy_s + (now - self._service.start_s if self._service else 0.0)

    def _advance(self, now: float) -> None:
        while self._service and self._service.done_s <= now:
            self._depart(self._service)
            self._serve_next(self._free_s)
        for due_s, (number, packet) in self._in_flight.take(now):
            self._arrived.append(Delivery(number, packet, due_s))
            if packet is not None:
                self.counters.delivered_bytes += len(packet)
                self.counters.delivered_packets += 1

    def _depart(self, service: _Service) -> None:
        stream, size = service.stream, len(service.packet)
        self._free_s = service.done_s
        self.counters.busy_s += service.done_s - service.start_s
        self.counters.queued_bytes -= size
        stream.departed_bytes += size
        stream.grant(self._settings.queue_bytes)
        # Drawn for every packet, so that the fate of the others does not depend on the rate of loss.
        if self._random.random() < self._settings.loss_rate:
            self.counters.lost_bytes += size
            self.counters.lost_packets += 1
        else:
            self._fly(stream, service.packet, self._free_s)
        self._end_if_drained(stream, self._free_s)

    def _end_if_drained(self, stream: _Stream, at_s: float) -> None:
        if stream.finished and not stream.queued_bytes:
            self._fly(stream, None, at_s)

    def _fly(self, stream: _Stream, packet: bytes | None, at_s: float) -> None:
        self._in_flight.put((stream.number, packet), at_s + self._settings.propagation_s)

    def _serve_next(self, start_s: float) -> None:
        packet = self._next_packet()
        if packet is None:
            self._service = None
            return
        stream, data = packet
        self._service = _Service(stream, data, start_s, start_s + 8 * len(data) / self._settings.rate_bps)

    def _next_packet(self) -> tuple[_Stream, bytes] | None:
        """Deficit round robin: who cannot afford its first packet gets a quantum and goes to the end of the row."""
        while self._waiting:
            stream = self._waiting[0]
            if stream.deficit_bytes < len(stream.queue[0]):
                stream.deficit_bytes += QUANTUM_BYTES
                self._waiting.rotate(-1)
                continue
            packet = stream.queue.popleft()
            stream.deficit_bytes -= len(packet)
            if not stream.queue:
                self._waiting.popleft()
                stream.deficit_bytes = 0
            return stream, packet
        return None


def _losses(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a simulation must repeat; nothing here is a secret
