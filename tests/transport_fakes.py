"""A receiver that understands no picture, and a transmission over two emulated links in virtual time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from channel_emulator.link import Link
from channel_emulator.settings import LinkSettings
from shared.errors import PacketError
from shared.feedback import Arrived, Feedback
from shared.packets import PACKET_HEADER_BYTES, Packet, PacketKind
from shared.repair import RepairBlock
from transmitter.transport.contract import LinkEstimate, PackedRevision, PatchesPacket, RevisionWanted, SenderSettings
from transmitter.transport.sender import Sender, first_budget, first_packet_bytes

ID = 77
PATCHES = 10  # of every packet


def packed(
    size: int, *, number: int = 0, header: int = 300, packet_bytes: int = 1_200, sid: int = ID
) -> PackedRevision:
    """A revision of so many bytes on the wire; its contents are only sizes."""
    content = packet_bytes - PACKET_HEADER_BYTES
    starts = range(0, header, content)
    head = tuple(
        Packet(PacketKind.HEADER, sid, at, bytes(min(content, header - at)), number).to_bytes() for at in starts
    )
    left, bodies = size - sum(map(len, head)), []
    while left > PACKET_HEADER_BYTES + 8:
        body = min(left, packet_bytes) - PACKET_HEADER_BYTES
        data = Packet(PacketKind.PATCHES, sid, PATCHES * len(bodies), bytes(body), number).to_bytes()
        bodies.append(PatchesPacket(PATCHES * len(bodies), PATCHES, data))
        left -= len(data)
    return PackedRevision(number, head, tuple(bodies))


class Receiver:
    """Counts what arrives and tells of it as seldom as the real one."""

    def __init__(self, header: int = 300) -> None:
        self.header = header
        self.header_bytes: dict[int, set[int]] = {}
        self.packets: dict[tuple[int, int], int] = {}
        self.repaired = self.total_bytes = 0
        self.known: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._bodies: dict[int, dict[int, bytes]] = {}
        self._blocks: dict[object, RepairBlock] = {}
        self.plans: dict[int, PackedRevision] = {}
        self.arrived_bytes = self.arrived_packets = self.sequence = 0
        self.last: tuple[float, Packet] | None = None
        self.said_s = -math.inf
        self.said_bytes = 0
        self.due_s = math.inf
        self._repeats: list[float] = []
        self.ended = False

    def header_there(self, number: int) -> bool:
        plan = self.plans.get(number)
        return plan is not None and len(self.header_bytes.get(number, ())) == len(plan.header)

    def take(self, data: bytes, now: float) -> None:
        try:
            packet = Packet.from_bytes(data)
        except PacketError:
            return
        self.arrived_bytes += len(data)
        self.total_bytes += len(data)
        self.arrived_packets += 1
        self.last = (now, packet)
        there = self.header_there(packet.revision)
        if packet.kind is PacketKind.HEADER:
            self.header_bytes.setdefault(packet.revision, set()).add(packet.position)
        elif packet.kind is PacketKind.PATCHES:
            self._patches(packet.revision, packet.position, packet.body)
        elif packet.kind is PacketKind.REPAIR:
            self._repair(packet)
        urgent = packet.kind is PacketKind.POLL or (not there and self.header_there(packet.revision))
        pause = min(max(0.05, 20 * self.said_bytes / self._rate(now)), 0.25)
        self.due_s = min(self.due_s, now if urgent else max(now, self.said_s + pause))
        self._repeats = [now + 0.1, now + 0.4, now + 1.4]

    def _rate(self, now: float) -> float:
        return max(self.arrived_bytes / max(now - self.said_s, 0.05), 1.0) if self.said_s > -math.inf else 1e9

    def _patches(self, revision: int, position: int, body: bytes) -> None:
        self.packets[revision, position] = len(body) + PACKET_HEADER_BYTES
        self._bodies.setdefault(revision, {})[position] = body

    def _repair(self, packet: Packet) -> None:
        block = RepairBlock.of(packet)
        block = self._blocks.setdefault(block.layout, block)
        block.add(packet)
        for position, body in block.recover(self._bodies.get(packet.revision, {})):
            self.repaired += 1
            self._patches(packet.revision, position, body)

    @property
    def wake_s(self) -> float:
        if self.ended:
            return math.inf
        return min([self.due_s, *self._repeats[:1]])

    def say(self, now: float) -> list[bytes]:
        if self.ended or self.last is None or now < self.wake_s:
            return []
        while self._repeats and self._repeats[0] <= now:
            self._repeats.pop(0)
        self.due_s, self.said_s = math.inf, now
        packet = self.feedback(now).to_packet()
        self.said_bytes = len(packet)
        return [packet]

    def feedback(self, now: float) -> Feedback:
        assert self.last is not None
        self.sequence += 1
        last_s, last = self.last
        revisions = sorted({*self.header_bytes, *(revision for revision, _ in self.packets)})
        states = tuple(self._state(revision) for revision in revisions)
        return Feedback(
            ID,
            self.sequence & 0xFFFF,
            self.arrived_bytes,
            self.arrived_packets,
            1_000.0 + last_s,
            now - last_s,
            last.kind,
            last.revision,
            last.position,
            states,
        )

    def _state(self, revision: int) -> Arrived:
        if not self.header_there(revision):
            return Arrived(revision, header=False)
        runs: list[tuple[int, int]] = []
        for position in sorted(self._bodies.get(revision, ())):
            stop = position + PATCHES
            if runs and runs[-1][1] == position:
                runs[-1] = (runs[-1][0], stop)
            else:
                runs.append((position, stop))
        return Arrived(revision, True, tuple(runs)).shortened()

    @property
    def distinct_bytes(self) -> int:
        """Of PATCHES packets that count: their header is there."""
        there = {revision for revision in self.plans if self.header_there(revision)}
        return sum(size for (revision, _), size in self.packets.items() if revision in there)


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


Planner = Callable[[RevisionWanted], PackedRevision | None]


def small_planner(wanted: RevisionWanted) -> PackedRevision | None:
    """Takes all it may have."""
    plan = packed(wanted.budget_bytes, number=wanted.number, header=100, packet_bytes=wanted.packet_bytes)
    return plan if plan.patches else None


def estimate_of(settings: LinkSettings, *, warm: bool = False, loss: float | None = None) -> LinkEstimate:
    """What a memory says of a link: cold, or warm of as much loss."""
    from transmitter.transport.memory import LinkMemory

    rate = settings.rate_bps
    cold = LinkMemory().estimate(rate, settings.propagation_s, 0.0)
    if not warm:
        return cold
    return replace(cold, rate_spread=0.02, loss_rate=loss or 1e-3, loss_at_most=(1.2 * loss + 0.01) if loss else 5e-3)


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
    """One transmission from `start` on the links' clock."""
    backward = backward or LinkSettings(1e9, forward.propagation_s, 1 << 20)
    links = [Link(forward), Link(backward, name="backward")]
    now = start
    for link in links:
        link.advance(now)
        link.open(1, now)
    stream = 1
    settings = SenderSettings(budget, None if deadline is None else start + deadline, closed, packet_bytes)
    estimate = estimate or estimate_of(forward)
    first = packed(
        max(first_budget(settings, estimate, now), 400),
        header=header,
        packet_bytes=first_packet_bytes(settings, estimate, now),
    )
    sender = Sender(first, settings, estimate, ID, now)
    receiver = Receiver()
    receiver.plans[0] = first
    course = Course(sender, receiver)
    coming: tuple[float, PackedRevision | None] | None = None
    sent, same, told_s, credit, looked = 0, 0, -math.inf, 0, False
    reconnects = [start + at for at in reconnect]
    end_s = start + deadline if deadline is not None else math.inf
    while now < start + limit_s:
        if reconnects and reconnects[0] <= now and not sender.done:
            reconnects.pop(0)
            for link in links:
                link.close(stream, now)
                link.open(stream + 1, now)
            stream, sent, credit, told_s = stream + 1, 0, 0, -math.inf
            receiver.arrived_bytes = receiver.arrived_packets = 0
            if forget:
                receiver.packets.clear()
                receiver._bodies.clear()
                receiver.header_bytes.clear()
            sender.reconnected(now)
        if now > end_s and not looked:
            course.in_time_bytes, course.header_in_time = receiver.distinct_bytes, receiver.header_there(0)
            looked = True
        for delivery in links[0].poll(now):
            if delivery.packet is None:
                receiver.ended = True
                continue
            receiver.take(delivery.packet, now)
            course.last_arrival_s = now - start
            if now > end_s:
                course.late_bytes += len(delivery.packet)
        for packet in receiver.say(now):
            course.feedback_bytes += len(packet)
            links[1].offer(stream, packet, now)
        for delivery in links[1].poll(now):
            if delivery.packet:
                try:
                    feedback = Feedback.from_packet(Packet.from_bytes(delivery.packet))
                except PacketError:
                    continue
                sender.take(feedback, now)
        if coming is not None and coming[0] <= now:
            plan, coming = coming[1], None
            if plan is not None:
                receiver.plans[plan.number] = plan
            sender.revise(plan, now)
        if not sender.done:
            if now >= told_s + tell_s:
                credit, told_s = links[0].account(stream).credit_bytes, now
            course.gives += 1
            given = sender.give(now, credit - sent)
            assert sum(map(len, given)) <= max(credit - sent, 0)
            for data in given:
                sent += len(data)
                course.largest = max(course.largest, len(data))
                course.refused += not links[0].offer(stream, data, now)
            assert sender.done or sender.wake_s > now
            assert sender.stats.sent_bytes <= budget
        if sender.done and course.done_s == math.inf:
            course.done_s = now - start
            links[0].finish(stream, now)
        if coming is None and not sender.done and (wanted := sender.wanted(now)) is not None:
            course.wanted.append((now - start, wanted))
            coming = (now + replan_s, planner(wanted)) if planner else (now + replan_s, None)
        events = [links[0].next_event_s, links[1].next_event_s, receiver.wake_s]
        if not sender.done:
            events += [sender.wake_s, *reconnects[:1], *([coming[0]] if coming else [])]
            if links[0].account(stream).credit_bytes != credit:
                events.append(told_s + tell_s)
        following = min(events)
        if following == math.inf:
            break
        same = same + 1 if following <= now else 0
        course.hung = same > 10_000
        if course.hung:
            break
        now = max(now, following)
    else:
        course.hung = True
    if not looked:
        course.in_time_bytes, course.header_in_time = receiver.distinct_bytes, receiver.header_there(0)
    return course
