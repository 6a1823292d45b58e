"""The sending half of the transport under feedback that no receiver sends, and under the outages that a link may have.

A sample is a session: what the transmission may take, and then what happens, one string each, a letter and numbers:

```
G bytes  leave the queue, then T ms     time passes            F packet         feedback, any bytes
         the sender hands over
H mask   feedback, as a receiver that got the packets of the mask sends it      X field value mask   one thing changed
W choice a new plan if wanted  R        a new stream stands
```
At its end nothing is heard any more: the sender must come to an end by itself.
"""

import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from shared.errors import PacketError
from shared.feedback import Arrived, Feedback
from shared.packets import MAX_REVISIONS, POSITIONS, Packet, PacketKind
from transmitter.packing import pack_revision
from transmitter.transport.contract import LinkEstimate, PackedRevision, SenderSettings
from transmitter.transport.memory import LinkMemory
from transmitter.transport.sender import Sender

from .mutations import Sample, mutated, seal_packet
from .runner import Target
from .samples import TRANSMISSION, plans

_MIB: Final = 1024 * 1024
_SETTINGS: Final = struct.Struct(">IHBBIBH")
_ROOM: Final = struct.Struct(">I")
_TIME: Final = struct.Struct(">H")
_CHANGE: Final = struct.Struct(">BQ")
_START_S: Final = 1_000.0
_MOST_EVENTS: Final = 200
_MOST_STEPS: Final = 20_000
_LONGEST_S: Final = 3_600.0
_QUEUE_BYTES: Final = 8_000


class _Session:
    """A sender, what it handed over, and what time it is."""

    def __init__(self, start: bytes) -> None:
        budget, deadline_ms, closed, plan, rate, loss, trip_ms = _SETTINGS.unpack(
            start[: _SETTINGS.size].ljust(15, b"\0")
        )
        self.now = _START_S
        self._plans = [found for name in ("ladder", "entropy") for found in plans(name)]
        deadline_s = self.now + deadline_ms / 1e3 if deadline_ms else None
        self.settings = SenderSettings(max(budget % 60_000, 300), deadline_s, closed_loop=closed % 4 != 0)
        loss_rate = loss / 512
        rate_bps, burst = max(rate % 10_000_000, 1_000), 1 + loss % 7
        link = LinkEstimate(
            rate_bps, loss % 3 / 3, loss_rate, min(2 * loss_rate + 0.01, 1), burst, trip_ms % 2_000 / 1e3
        )
        self.revisions = [self._packed(plan, 0)]
        self.sender = Sender(self.revisions[0], self.settings, link, TRANSMISSION, self.now)
        self.given: list[Packet] = []
        self._given_bytes = self._queued_bytes = self._sequence = 0

    def _packed(self, choice: int, number: int) -> PackedRevision:
        return pack_revision(self._plans[choice % len(self._plans)], TRANSMISSION, number)

    def give(self, departed: int) -> None:
        """So many bytes leave the channel's queue; then it takes what the sender has, within credit and budget."""
        self._queued_bytes -= min(departed, self._queued_bytes)
        room = _QUEUE_BYTES - self._queued_bytes
        packets = self.sender.give(self.now, room)
        size = sum(map(len, packets))
        self._given_bytes += size
        self._queued_bytes += size
        assert size <= room
        assert self._given_bytes == self.sender.stats.sent_bytes <= self.settings.budget_bytes
        self.given += map(Packet.from_bytes, packets)

    def pass_time(self, seconds: float) -> None:
        """Nothing happens, but that the sender is asked at the times that it names."""
        end_s = self.now + seconds
        for _ in range(50):
            if not self.sender.wake_s < end_s:
                break
            self.now = max(self.now, self.sender.wake_s)
            self.give(900)
        self.now = end_s

    def reconnect(self) -> None:
        """What was in the channel's queue is gone."""
        self._queued_bytes = 0
        self.sender.reconnected(self.now)

    def hear(self, feedback: Feedback) -> None:
        """Takes a message, as far as it can cross the channel."""
        self.sender.take(Feedback.from_packet(Packet.from_bytes(feedback.to_packet())), self.now)

    def plan_again(self, choice: int) -> None:
        """Brings the new plan, or none, if one is wanted."""
        wanted = self.sender.wanted(self.now)
        if wanted is None:
            return
        assert wanted.number == len(self.revisions) < MAX_REVISIONS
        assert 0 < wanted.budget_bytes <= self.settings.budget_bytes
        assert [len(served) for served in wanted.served] == [revision.expected for revision in self.revisions]
        self.now += choice % 16 / 20
        if choice % 3 == 0:
            self.sender.revise(None, self.now)
            return
        self.revisions.append(self._packed(choice, wanted.number))
        self.sender.revise(self.revisions[-1], self.now)

    def end(self) -> None:
        """Nothing is heard any more, and the channel takes everything."""
        until_s = self.now + _LONGEST_S
        for _ in range(_MOST_STEPS):
            self.give(_QUEUE_BYTES)
            self.plan_again(1)
            if self.sender.done:
                break
            assert self.sender.wake_s > self.now
            assert self.sender.wake_s < until_s, "goes on for hours"
            self.now = self.sender.wake_s
        assert self.sender.done, "never ends"
        assert self.sender.give(self.now, _QUEUE_BYTES) == []
        assert self.sender.wake_s == math.inf
        assert 0 <= self.sender.acknowledged.bytes <= sum(revision.wire_bytes for revision in self.revisions)
        memory = LinkMemory()
        memory.learn(self.sender.evidence, self.now)
        estimate = memory.estimate(1e6, 0.02, self.now + 1)
        assert estimate.rate_bps > 0
        assert 0 <= estimate.loss_rate <= estimate.loss_at_most <= 1

    def feedback(self, mask: int) -> Feedback | None:
        """What a receiver says that got the packets of a mask; None if it got none."""
        arrived = [packet for number, packet in enumerate(self.given) if not mask >> number % 64 & 1]
        if not arrived:
            return None
        self._sequence += 1
        last, size = arrived[-1], sum(12 + len(packet.body) for packet in arrived)
        name = (last.kind, last.revision, last.position)
        states = tuple(self._states(arrived))
        counts = (self._sequence & 0xFFFF, size, len(arrived))
        return Feedback(TRANSMISSION, *counts, round(self.now + 7.5 - 0.02, 6), 0.01, *name, states)

    def _states(self, arrived: list[Packet]) -> Iterator[Arrived]:
        for number in sorted({packet.revision for packet in arrived if packet.kind is not PacketKind.POLL}):
            of_it = [packet for packet in arrived if packet.revision == number]
            fragments = {packet.position for packet in of_it if packet.kind is PacketKind.HEADER}
            there = {packet.position for packet in of_it if packet.kind is PacketKind.PATCHES}
            if len(fragments) < len(self.revisions[number].header):
                yield Arrived(number, header=False, known_below=0)
                continue
            runs: list[tuple[int, int]] = []
            for packet in self.revisions[number].patches:
                if packet.position in there:
                    start = runs.pop()[0] if runs and runs[-1][1] == packet.position else packet.position
                    runs.append((start, packet.position + packet.patches))
            yield Arrived(number, header=True, runs=tuple(runs))


def _changed(feedback: Feedback, number: int, value: int) -> Feedback:
    """The message with one thing in it that no receiver says."""
    first = feedback.revisions[0] if feedback.revisions else Arrived(0, header=True)
    there = Arrived(value % MAX_REVISIONS, header=True, runs=((0, 1 + value % (POSITIONS - 1)),))
    ways: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: {"transmission_id": value & 0xFFFFFFFF},
        lambda: {"sequence": value & 0xFFFF},
        lambda: {"arrived_bytes": value},
        lambda: {"arrived_packets": value & 0xFFFFFFFF},
        lambda: {"last_s": value / 1e6},
        lambda: {"hold_s": (value & 0xFFFFFFFF) / 1e6},
        lambda: {"last_kind": PacketKind(value % 6)},
        lambda: {"last_revision": value % MAX_REVISIONS},
        lambda: {"last_position": value % POSITIONS},
        lambda: {"revisions": ()},
        lambda: {"revisions": (there,)},
        lambda: {"revisions": (replace(first, known_below=value % (POSITIONS + 1)),)},
        lambda: {"revisions": (replace(first, header=not first.header),)},
    )
    return replace(feedback, **ways[number % len(ways)]())


def _happen(session: _Session, event: bytes) -> None:
    kind, rest = event[:1], event[1:]
    match kind:
        case b"G":
            session.give(_ROOM.unpack(rest[:4].ljust(4, b"\0"))[0])
        case b"T":
            session.pass_time(_TIME.unpack(rest[:2].ljust(2, b"\0"))[0] / 1e3)
        case b"F":
            session.sender.take(Feedback.from_packet(Packet.from_bytes(rest)), session.now)
        case b"H":
            if (honest := session.feedback(int.from_bytes(rest[:8], "big"))) is not None:
                session.hear(honest)
        case b"X":
            number, value = _CHANGE.unpack(rest[:9].ljust(9, b"\0"))
            if (honest := session.feedback(int.from_bytes(rest[9:17], "big"))) is not None:
                session.hear(_changed(honest, number, value))
        case b"W":
            session.plan_again((rest + b"\0")[0])
        case b"R":
            session.reconnect()


def _some_event(rng: random.Random) -> bytes:
    mask = rng.choice((0, 0, 1 << rng.randrange(64), rng.getrandbits(64) & rng.getrandbits(64), 2**64 - 1))
    match rng.choice("GGGTTTHHHXXWWWR"):
        case "G":
            return b"G" + _ROOM.pack(rng.choice((0, 11, 300, 1_200, 5_000, 65_536)))
        case "T":
            return b"T" + _TIME.pack(rng.choice((0, 1, 5, 30, 30, 200, 1_000, 20_000)))
        case "H":
            return b"H" + mask.to_bytes(8, "big")
        case "X":
            value = rng.choice((0, 1, 2, 40, 65_535, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(20)))
            return b"X" + _CHANGE.pack(rng.randrange(13), value) + mask.to_bytes(8, "big")
        case "W":
            return b"W" + bytes([rng.randrange(256)])
        case _:
            return b"R"


def _some_session(rng: random.Random) -> Sample:
    rate, trip_ms = rng.choice((8_000, 64_000, 1_000_000, 9_000_000)), rng.choice((0, 2, 40, 600))
    deadline_ms = rng.choice((0, 0, 200, 1_000, 10_000, 60_000))
    budget = rng.choice((400, 900, 1_500, 6_000, 30_000))
    start = _SETTINGS.pack(budget, deadline_ms, rng.randrange(256), rng.randrange(8), rate, rng.randrange(256), trip_ms)
    return (start, *(_some_event(rng) for _ in range(rng.choice((0, 3, 10, 40, 120)))))


def _change(rng: random.Random, sample: Sample) -> Sample:
    """Another course of events: some happen otherwise, and some messages are damaged."""
    start, *events = sample if rng.random() < 0.5 else _some_session(rng)
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(events) + 1)
        match rng.randrange(3):
            case 0:
                events.insert(at, _some_event(rng))
            case 1:
                del events[at : at + rng.choice((1, 1, 5))]
            case _:
                honest = Feedback(
                    TRANSMISSION, 1, 900, 3, 7.5, 0.0, PacketKind.HEADER, 0, 0, (Arrived(0, header=True),)
                )
                events.insert(at, b"F" + mutated(rng, [(honest.to_packet(),)], seal_packet)[0])
    if rng.random() < 0.1:
        start = rng.randbytes(_SETTINGS.size)
    return (start, *events)


def _start(budget: int, deadline_ms: int, *, closed: bool = True) -> bytes:
    return _SETTINGS.pack(budget, deadline_ms, closed, 1, 64_000, 100, 40)


def _found_sessions() -> list[Sample]:
    """Sessions that once never ended or failed."""
    silence = b"T" + _TIME.pack(20_000)
    header_of_before = b"X" + _CHANGE.pack(10, 2**63) + bytes(8)
    return [
        (_start(6_000, 0), b"R"),
        (_start(6_000, 0, closed=False), b"R"),
        (_start(30_000, 60_000), silence, b"R"),
        (_start(900, 0), b"R", b"G" + _ROOM.pack(11), header_of_before, b"G" + _ROOM.pack(0), b"H" + bytes(8)),
        (_SETTINGS.pack(30_365, 0, 1, 1, 1_951_552, 255, 601), b"W\xec"),
    ]


def sender() -> Target:
    """Sessions of a sender."""
    rng = random.Random(2)
    corpus = [*_found_sessions(), *(_some_session(rng) for _ in range(60))]

    def decode(sample: Sample) -> None:
        session = _Session(sample[0])
        for event in sample[1:_MOST_EVENTS]:
            try:
                _happen(session, event)
            except PacketError:
                continue
        session.end()

    return Target("sender", corpus, decode, (), 4.0, 64 * _MIB, change=_change)
