"""A transmission over two emulated links in virtual time."""

import math
from contextlib import suppress
from dataclasses import dataclass, field

from channel_emulator.link import Link
from channel_emulator.settings import LinkSettings
from shared.errors import PacketError
from shared.feedback import Feedback
from shared.packets import Packet
from tests.transport_fakes import (
    ID,
    Planner,
    Receiver,
    estimate_of,
    in_scans,
    packed,
    scanning_planner,
    small_planner,
)
from transmitter.transport.contract import LinkEstimate, PackedRevision, RevisionWanted, SenderSettings
from transmitter.transport.sender import Sender, first_budget, first_packet_bytes, scans_for


@dataclass
class Course:
    """What happened; times from the start."""

    sender: Sender
    receiver: Receiver
    done_s: float = math.inf
    last_arrival_s: float = 0.0
    late_bytes: int = 0
    in_time_bytes: int = 0
    """Distinct PATCHES bytes by the deadline."""
    header_in_time: bool = False
    largest: int = 0
    """Packet."""
    refused: int = 0
    gives: int = 0
    wanted: list[tuple[float, RevisionWanted]] = field(default_factory=list)
    feedback_bytes: int = 0
    hung: bool = False


def transmit(
    forward: LinkSettings,
    backward: LinkSettings | None = None,
    *,
    budget: int = 20_000,
    deadline: float | None = None,
    estimate: LinkEstimate | None = None,
    planner: Planner | None = small_planner,
    replan_s: float = 0.3,
    start: float = 0.0,
    closed: bool = True,
    header: int = 300,
    packet_bytes: int = 1_200,
    tell_s: float = 0.0,
    reconnect: tuple[float, ...] = (),
    forget: bool = False,
    limit_s: float = 300.0,
) -> Course:
    """One transmission from `start` on the links' clock; other times are seconds from then.

    Args:
        forward: the way there.
        backward: the way back; clean and fast if left out.
        budget: bytes.
        deadline: when the picture must be there.
        estimate: what is believed of the link; the cold memory's if left out.
        planner: makes revisions; None never does.
        replan_s: how long that takes.
        start: when it begins.
        closed: whether feedback counts.
        header: bytes of the first header section.
        packet_bytes: largest packet.
        tell_s: least time between two words about credit.
        reconnect: when the stream breaks and another one stands.
        forget: whether the receiver then knows nothing any more.
        limit_s: after which it counts as hung.
    """
    settings = SenderSettings(budget, None if deadline is None else start + deadline, closed, packet_bytes)
    believed = estimate or estimate_of(forward)
    size = max(first_budget(settings, believed, start), 400)
    first = packed(size, header=header, packet_bytes=first_packet_bytes(settings, believed, start))
    if planner is scanning_planner:
        first = in_scans(first, scans_for(settings))
    links = (Link(forward), Link(backward or LinkSettings(1e9, forward.propagation_s, 1 << 20), name="backward"))
    course = Course(
        Sender(first, settings, believed, ID, start), Receiver({scan.number: scan for scan in (first, *first.scans)})
    )
    breaks = [start + at for at in reconnect]
    return _Run(course, links, settings, planner, replan_s, start, tell_s, breaks, forget).run(limit_s)


@dataclass
class _Run:
    """A transmission under way."""

    course: Course
    links: tuple[Link, Link]
    settings: SenderSettings
    planner: Planner | None
    replan_s: float
    start: float
    tell_s: float
    breaks: list[float]
    forget: bool
    stream: int = 1
    sent: int = 0
    credit: int = 0
    told_s: float = -math.inf
    looked: bool = False
    coming: tuple[float, PackedRevision | None] | None = None

    def run(self, limit_s: float) -> Course:
        now, same = self.start, 0
        for link in self.links:
            link.advance(now)
            link.open(self.stream, now)
        while now < self.start + limit_s and same < 10_000:
            for happen in (self.break_off, self.look, self.arrive, self.answer, self.revise, self.give, self.want):
                happen(now)
            following = self.next_s()
            if following == math.inf:
                self.look(math.inf)
                return self.course
            same = same + 1 if following <= now else 0
            now = max(now, following)
        self.course.hung = True
        return self.course

    def break_off(self, now: float) -> None:
        receiver, sender = self.course.receiver, self.course.sender
        if not self.breaks or self.breaks[0] > now or sender.done:
            return
        self.breaks.pop(0)
        for link in self.links:
            link.close(self.stream, now)
            link.open(self.stream + 1, now)
        self.stream, self.sent, self.credit, self.told_s = self.stream + 1, 0, 0, -math.inf
        receiver.new_stream(forget=self.forget)
        sender.reconnected(now)

    def look(self, now: float) -> None:
        """At what is there, once the deadline is over."""
        deadline_s = self.settings.deadline_s
        if not self.looked and (now == math.inf or (deadline_s is not None and now > deadline_s)):
            receiver = self.course.receiver
            self.course.in_time_bytes = receiver.distinct_bytes
            self.course.header_in_time = receiver.header_there(0)
            self.looked = True

    def arrive(self, now: float) -> None:
        for delivery in self.links[0].poll(now):
            if delivery.packet is None:
                self.course.receiver.ended = True
                continue
            self.course.receiver.take(delivery.packet, now)
            self.course.last_arrival_s = now - self.start
            self.course.late_bytes += len(delivery.packet) if self.looked else 0

    def answer(self, now: float) -> None:
        for packet in self.course.receiver.say(now):
            self.course.feedback_bytes += len(packet)
            self.links[1].offer(self.stream, packet, now)
        for delivery in self.links[1].poll(now):
            with suppress(PacketError):  # of damaged ones
                self.course.sender.take(Feedback.from_packet(Packet.from_bytes(delivery.packet or b"")), now)

    def revise(self, now: float) -> None:
        if self.coming is None or self.coming[0] > now:
            return
        plan, self.coming = self.coming[1], None
        if plan is not None:
            self.course.receiver.plans |= {scan.number: scan for scan in (plan, *plan.scans)}
        self.course.sender.revise(plan, now)

    def give(self, now: float) -> None:
        course, sender = self.course, self.course.sender
        if not sender.done:
            if now >= self.told_s + self.tell_s:
                self.credit, self.told_s = self.links[0].account(self.stream).credit_bytes, now
            room = self.credit - self.sent
            given = sender.give(now, room)
            course.gives += 1
            self.sent += sum(map(len, given))
            assert sum(map(len, given)) <= max(room, 0)
            assert sender.done or sender.wake_s > now
            assert sender.stats.sent_bytes <= self.settings.budget_bytes
            for data in given:
                course.largest = max(course.largest, len(data))
                course.refused += not self.links[0].offer(self.stream, data, now)
        if sender.done and course.done_s == math.inf:
            course.done_s = now - self.start
            self.links[0].finish(self.stream, now)

    def want(self, now: float) -> None:
        if self.coming is not None or self.course.sender.done:
            return
        wanted = self.course.sender.wanted(now)
        if wanted is not None:
            self.course.wanted.append((now - self.start, wanted))
            self.coming = (now + self.replan_s, self.planner(wanted) if self.planner else None)

    def next_s(self) -> float:
        events = [*(link.next_event_s for link in self.links), self.course.receiver.wake_s]
        if not self.course.sender.done:
            events += [self.course.sender.wake_s, *self.breaks[:1]]
            events += [self.coming[0]] if self.coming else []
            untold = self.links[0].account(self.stream).credit_bytes != self.credit
            events += [self.told_s + self.tell_s] if untold else []
        return min(events)
