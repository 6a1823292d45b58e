"""Plans of packets that are only sizes, a receiver that understands no picture, and what is believed of a link."""

import math
from collections.abc import Callable
from dataclasses import replace

from channel_emulator.impairments import GilbertElliott, Impairments
from channel_emulator.settings import LinkSettings
from shared.errors import PacketError
from shared.feedback import Arrived, Feedback
from shared.packets import PACKET_HEADER_BYTES, Packet, PacketKind
from shared.repair import RepairBlock
from transmitter.transport.contract import LinkEstimate, PackedRevision, PatchesPacket, RevisionWanted, SenderSettings
from transmitter.transport.memory import LinkMemory
from transmitter.transport.sender import Sender

ID = 77
PATCHES = 10  # of every packet
LINK = LinkSettings(1e6, 0.02)
SURE = LinkEstimate(1e6, 0.02, 1e-4, 1e-3, 1.0, 0.04)


def losses(rate: float, burst: float) -> Impairments:
    """So many packets, by themselves or in rows of that mean length."""
    if burst <= 1:
        return Impairments(loss_rate=rate)
    return Impairments(gilbert_elliott=GilbertElliott(rate / (1 - rate) / burst, 1 / burst, 0.0, 1.0))


def in_scans(plan: PackedRevision, scans: int) -> PackedRevision:
    """The same packets as a plan in scans, the last of which goes on with but every second body."""
    bodies = -(-len(plan.patches) // max(scans - 0.5, 1))
    first, rest = plan.patches[: int(bodies)], list(plan.patches[int(bodies) :])
    further = []
    for number in range(plan.number + 1, plan.number + scans):
        step = 2 if number == plan.number + scans - 1 else 1
        parts = [_moved(rest.pop(0), packet.position, number) for packet in first[::step] if rest]
        header = Packet(PacketKind.HEADER, ID, 0, bytes(15), number).to_bytes()
        further += [PackedRevision(number, (header,), tuple(parts))] if parts else []
    return PackedRevision(plan.number, plan.header, first, tuple(further))


def _moved(packet: PatchesPacket, position: int, revision: int) -> PatchesPacket:
    data = Packet(PacketKind.PATCHES, ID, position, Packet.from_bytes(packet.data).body, revision).to_bytes()
    return PatchesPacket(position, packet.patches, data)


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

    def __init__(self, plans: dict[int, PackedRevision]) -> None:
        self.plans = plans
        self.header_bytes: dict[int, set[int]] = {}
        self.packets: dict[tuple[int, int], int] = {}
        self.repaired = self.total_bytes = 0
        self.arrived_bytes = self.arrived_packets = self.sequence = 0
        self.last: tuple[float, Packet] | None = None
        self.ended = False
        self._bodies: dict[int, dict[int, bytes]] = {}
        self._blocks: dict[object, RepairBlock] = {}
        self._said_s = -math.inf
        self._said_bytes = 0
        self._due_s = math.inf
        self._repeats: list[float] = []

    def new_stream(self, *, forget: bool) -> None:
        self.arrived_bytes = self.arrived_packets = 0
        if forget:
            self.packets.clear()
            self.header_bytes.clear()
            self._bodies.clear()

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
        pause = min(max(0.05, 20 * self._said_bytes / self._rate(now)), 0.25)
        self._due_s = min(self._due_s, now if urgent else max(now, self._said_s + pause))
        self._repeats = [now + 0.1, now + 0.4, now + 1.4]

    def _rate(self, now: float) -> float:
        return max(self.arrived_bytes / max(now - self._said_s, 0.05), 1.0) if self._said_s > -math.inf else 1e9

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
        return min([self._due_s, *self._repeats[:1]])

    def say(self, now: float) -> list[bytes]:
        if self.ended or self.last is None or now < self.wake_s:
            return []
        while self._repeats and self._repeats[0] <= now:
            self._repeats.pop(0)
        self._due_s, self._said_s = math.inf, now
        packet = self.feedback(now).to_packet()
        self._said_bytes = len(packet)
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


Planner = Callable[[RevisionWanted], PackedRevision | None]


def small_planner(wanted: RevisionWanted) -> PackedRevision | None:
    """Takes all it may have."""
    plan = packed(wanted.budget_bytes, number=wanted.number, header=100, packet_bytes=wanted.packet_bytes)
    return plan if plan.patches else None


def scanning_planner(wanted: RevisionWanted) -> PackedRevision | None:
    """The same in as many scans as are wanted."""
    plan = small_planner(wanted)
    return None if plan is None else in_scans(plan, wanted.scans)


def estimate_of(settings: LinkSettings, *, warm: bool = False, loss: float | None = None) -> LinkEstimate:
    """What a memory says of a link: cold, or warm of as much loss."""
    rate = settings.rate_bps
    cold = LinkMemory().estimate(rate, settings.propagation_s, 0.0)
    if not warm:
        return cold
    return replace(cold, rate_spread=0.02, loss_rate=loss or 1e-3, loss_at_most=(1.2 * loss + 0.01) if loss else 5e-3)


def begun(budget: int = 30_000) -> tuple[Sender, list[bytes]]:
    """A sender at 100 s, and what it hands over at once."""
    sender = Sender(packed(20_000), SenderSettings(budget), estimate_of(LINK), ID, 100.0)
    return sender, sender.give(100.0, 10_000)
