"""One transmission in virtual time: a sender and a receiver at the two ends of the emulated link.

```
sender ──give──► forward link ──► receiver
   ▲ ◄──take── backward link ◄──────┘
   └─ revise ◄── planner, replan_s after the sender wanted it
```

Nothing here waits: the clock leaps from one event to the next, so that a transmission takes milliseconds whatever
its link is like. The same ends, planner, course and seed give the same outcome, bit for bit.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from channel_emulator.link import Link
from channel_emulator.settings import LinkSettings
from receiver.contract import ArrivedPatches
from shared.errors import PacketError
from shared.feedback import Feedback
from shared.packets import Packet, PacketKind
from transmitter.transport.contract import PackedRevision, RevisionWanted, SenderStats

_STREAM: Final = 1
_TURNS: Final = 10_000
"""Turns that may be taken at one instant before somebody is believed to ask for turns for ever."""


class SendingEnd(Protocol):
    """What the simulation needs of `transmitter.transport.sender.Sender`."""

    @property
    def wake_s(self) -> float:
        """When it wants to be asked again though nothing happened."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing more will be sent."""
        ...

    @property
    def stats(self) -> SenderStats:
        """What it took so far."""
        ...

    def give(self, now: float, room_bytes: int) -> list[bytes]:
        """What to hand over now."""
        ...

    def take(self, feedback: Feedback, now: float) -> None:
        """Hears what has arrived."""
        ...

    def wanted(self, now: float) -> RevisionWanted | None:
        """Whether it wants a new plan."""
        ...

    def revise(self, revision: PackedRevision | None, now: float) -> None:
        """Gets it, or that there is none."""
        ...


class ReceivingEnd(Protocol):
    """What the simulation needs of the receiver."""

    @property
    def wake_s(self) -> float:
        """When it has something to say though nothing arrived; infinity if never."""
        ...

    @property
    def complete(self) -> bool:
        """Whether all that was announced is there."""
        ...

    def take(self, data: bytes, now: float) -> None:
        """A packet arrives, of whatever content."""
        ...

    def end(self, now: float) -> None:
        """Nothing more will arrive."""
        ...

    def say(self, now: float) -> list[bytes]:
        """What it sends back now."""
        ...

    def snapshot(self) -> ArrivedPatches | None:
        """What the picture can be made of; None before the header."""
        ...


Planner = Callable[[RevisionWanted], PackedRevision | None]
"""Makes the revision that a sender wants; None where nothing is worth its bytes."""


@dataclass(frozen=True)
class Course:
    """What a transmission meets."""

    forward: LinkSettings
    backward: LinkSettings
    start_s: float = 0.0
    """When it begins, on the clock of the link's model and blackouts, which both begin at 0."""
    deadline_s: float | None = None
    """Seconds from the start at which the picture is looked at; the sender is told of it elsewhere."""
    replan_s: float = 0.3
    """Seconds from wanting a revision to having it."""
    tell_s: float = 0.0
    """Least time between two words of the channel to the sender about its credit."""
    limit_s: float = 900.0
    """Seconds from the start after which a transmission counts as hung."""


@dataclass(frozen=True)
class Replanned:
    """A revision that was wanted."""

    wanted_s: float
    """Seconds from the start."""
    budget_bytes: int
    revision: PackedRevision | None
    """None where nothing was worth its bytes."""


@dataclass
class Outcome:
    """What became of a transmission; all times are seconds from its start."""

    at_deadline: ArrivedPatches | None = None
    """What was there at the deadline; of a transmission without one, None."""
    at_end: ArrivedPatches | None = None
    """What was there in the end."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """(time, bytes) of every packet that came out of the forward link."""
    departures: list[tuple[float, int]] = field(default_factory=list)
    """(time, bytes in all so far) handed over by the sender."""
    feedback: list[tuple[float, int]] = field(default_factory=list)
    """(time, bytes) of what the receiver sent back."""
    replanned: list[Replanned] = field(default_factory=list)
    complete_s: float = math.inf
    """When all that had been announced was there; infinity if never."""
    done_s: float = math.inf
    """When the sender had no more to send."""
    end_s: float = math.inf
    """When nothing more would ever happen."""
    refused_packets: int = 0
    """Handed over beyond the channel's credit, and dropped by it."""
    hung: bool = False
    """Whether it did not end by itself."""

    @property
    def sent_bytes(self) -> int:
        """Everything handed to the channel."""
        return self.departures[-1][1] if self.departures else 0

    @property
    def last_arrival_s(self) -> float:
        """When the last packet came; 0 if none did."""
        return self.arrivals[-1][0] if self.arrivals else 0.0


def simulate(sender: SendingEnd, receiver: ReceivingEnd, planner: Planner, course: Course) -> Outcome:
    """Lets a transmission happen.

    Args:
        sender: at its beginning, at `course.start_s` on its clock.
        receiver: that knows nothing yet.
        planner: makes revisions; it is asked when they are wanted, and answers `course.replan_s` later.
        course: what the transmission meets.
    """
    return _Run(sender, receiver, planner, course).run()


class _Run:
    """A transmission under way."""

    def __init__(self, sender: SendingEnd, receiver: ReceivingEnd, planner: Planner, course: Course) -> None:
        self._sender, self._receiver, self._planner, self._course = sender, receiver, planner, course
        # The models of both links begin at 0, the transmission later: somewhere in the trace.
        self._forward, self._backward = Link(course.forward), Link(course.backward, name="backward")
        self._now = course.start_s
        for link in (self._forward, self._backward):
            link.advance(self._now)
            link.open(_STREAM, self._now)
        self._sent_bytes = 0
        self._credit_bytes, self._told_s = self._forward.account(_STREAM).credit_bytes, self._now
        self._coming: tuple[float, PackedRevision | None] | None = None
        self._finished = False
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Until nothing more will happen, or the limit."""
        end_s, turns = self._course.start_s + self._course.limit_s, 0
        while self._now <= end_s:
            self._turn()
            following_s = self._next_s()
            if following_s == math.inf:
                break
            turns = turns + 1 if following_s <= self._now else 0
            if turns > _TURNS:
                break
            self._look(following_s)
            self._now = max(following_s, self._now)
        else:
            turns = _TURNS + 1
        outcome = self._outcome
        outcome.hung = turns > _TURNS
        outcome.end_s = self._elapsed(self._now)
        outcome.at_end = self._receiver.snapshot()
        self._look(math.inf)
        return outcome

    # ---- one instant -------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._arrive()
        self._hear()
        self._revise()
        self._send()
        self._want()

    def _arrive(self) -> None:
        for delivery in self._forward.poll(self._now):
            if delivery.packet is None:
                self._receiver.end(self._now)
            else:
                self._outcome.arrivals.append((self._elapsed(delivery.due_s), len(delivery.packet)))
                self._receiver.take(delivery.packet, self._now)
        if self._receiver.complete and self._outcome.complete_s == math.inf:
            self._outcome.complete_s = self._elapsed(self._now)
        for packet in self._receiver.say(self._now):
            self._outcome.feedback.append((self._elapsed(self._now), len(packet)))
            self._backward.offer(_STREAM, packet, self._now)

    def _hear(self) -> None:
        for delivery in self._backward.poll(self._now):
            # What was damaged on the way is no word of the receiver's.
            with suppress(PacketError):
                packet = Packet.from_bytes(delivery.packet or b"")
                if packet.kind is PacketKind.FEEDBACK:
                    self._sender.take(Feedback.from_packet(packet), self._now)

    def _revise(self) -> None:
        if self._coming is not None and self._coming[0] <= self._now:
            revision, self._coming = self._coming[1], None
            self._sender.revise(revision, self._now)

    def _send(self) -> None:
        if self._now >= self._told_s + self._course.tell_s:
            credit_bytes = self._forward.account(_STREAM).credit_bytes
            if credit_bytes != self._credit_bytes:
                self._credit_bytes, self._told_s = credit_bytes, self._now
        if self._finished:
            return
        for packet in self._sender.give(self._now, self._credit_bytes - self._sent_bytes):
            self._sent_bytes += len(packet)
            self._outcome.departures.append((self._elapsed(self._now), self._sent_bytes))
            self._outcome.refused_packets += not self._forward.offer(_STREAM, packet, self._now)
        if self._sender.done:
            # Not when the receiver reports that all is there: finer patches may be on their way.
            self._finished = True
            self._outcome.done_s = self._elapsed(self._now)
            self._forward.finish(_STREAM, self._now)

    def _want(self) -> None:
        if self._coming is not None or self._finished:
            return
        wanted = self._sender.wanted(self._now)
        if wanted is not None:
            revision = self._planner(wanted)
            self._coming = (self._now + self._course.replan_s, revision)
            self._outcome.replanned.append(Replanned(self._elapsed(self._now), wanted.budget_bytes, revision))

    # ---- the clock ---------------------------------------------------------------------------------

    def _next_s(self) -> float:
        events = [self._forward.next_event_s, self._backward.next_event_s, self._receiver.wake_s]
        if not self._finished:
            told = self._forward.account(_STREAM).credit_bytes == self._credit_bytes
            events += [self._sender.wake_s, math.inf if told else self._told_s + self._course.tell_s]
            events += [self._coming[0]] if self._coming is not None else []
        return min(events)

    def _look(self, following_s: float) -> None:
        """Looks at what is there at the deadline, if that lies before the next event."""
        deadline_s = self._course.deadline_s
        if deadline_s is not None and self._now <= self._course.start_s + deadline_s < following_s:
            self._outcome.at_deadline = self._receiver.snapshot()

    def _elapsed(self, now: float) -> float:
        return now - self._course.start_s


def carried_bytes(settings: LinkSettings, start_s: float, end_s: float, name: str = "forward") -> int:
    """What a link, kept full, brings from the beginning of one time to that of another, propagation included.

    Args:
        settings: what it is like; its model begins at 0.
        start_s: when sending begins.
        end_s: when what was sent must have arrived.
        name: whose random sequences it has.
    """
    last_s = end_s - settings.propagation_s
    return int(settings.rate(name, 0.0).carried_bits(start_s, last_s) / 8) if last_s > start_s else 0


def bytes_by(arrivals: Sequence[tuple[float, int]], end_s: float) -> int:
    """How many bytes arrived up to and with a time."""
    return sum(size for at_s, size in arrivals if at_s <= end_s)
