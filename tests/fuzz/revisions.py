"""Transmissions of several plans: what the receiver makes of their packets, and what the planner makes of any rest."""

import random
import struct
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np

from receiver.assembly import Assembly
from receiver.codecs import load_receiver
from receiver.contract import by_number
from receiver.feedback import Teller
from shared.arrays import BoolArray
from shared.errors import BudgetTooSmallError, PacketError, StreamError
from shared.feedback import Feedback
from shared.packets import MAX_REVISIONS, POSITIONS, Packet, PacketKind
from shared.repair import repair_packets
from shared.reports import Report, ReportOutcome
from transmitter.codecs import load_sender
from transmitter.packing import pack_revision
from transmitter.planning import Earlier, Plan, PlanRequest, PreparedPicture
from transmitter.transport.contract import PackedRevision

from .mutations import Sample, seal_packet
from .runner import Target
from .samples import TRANSMISSION, middle, photo

_MIB: Final = 1024 * 1024
_WIDTH: Final = 96
_HEIGHT: Final = 72
_SHOWN_PATCHES: Final = 1_024
_REST: Final = struct.Struct(">IHQ")


@cache
def _prepared(name: str) -> PreparedPicture:
    return load_sender(name).prepare(photo(_WIDTH, _HEIGHT))


@cache
def _first(name: str) -> Plan:
    return _prepared(name).plan(middle(_WIDTH, _HEIGHT), PlanRequest(1_500, 300))


def _served(plan: Plan, mask: int) -> BoolArray:
    """(patches,) those that are there, packet by packet: where the bit of the packet is not set."""
    there = [not mask >> number % 64 & 1 for number, _ in enumerate(plan.bodies)]
    return np.repeat(there, [body.patches for body in plan.bodies]).astype(np.bool_)


@cache
def _plans(name: str) -> tuple[Plan, ...]:
    """Plans that follow each other, each made when some packets of those before had not arrived."""
    plans, masks = [_first(name)], (0b1010, 0b100, 0b1)
    for number, mask in enumerate(masks, 1):
        earlier = [Earlier(plan, _served(plan, missing)) for plan, missing in zip(plans, masks, strict=False)]
        budget = PlanRequest(900 - 150 * number + mask, 256)
        if (plan := _prepared(name).replan(middle(_WIDTH, _HEIGHT), budget, earlier)) is not None:
            plans.append(plan)
    return tuple(plans)


def revised_packets(name: str, transmission_id: int) -> list[bytes]:
    """All packets of all plans, one plan after the other."""
    packed = [pack_revision(plan, transmission_id, number) for number, plan in enumerate(_plans(name))]
    return [packet for revision in packed for packet in _packets(revision)]


def _packets(revision: PackedRevision) -> list[bytes]:
    return [*revision.header, *(packet.data for packet in revision.patches)]


def _corpus(name: str) -> list[Sample]:
    """Packets of several plans, lost ones repaired or not, in order and mixed."""
    revisions = [pack_revision(plan, TRANSMISSION, number) for number, plan in enumerate(_plans(name))]
    whole = [_packets(revision) for revision in revisions]
    repairs = [repair_packets(TRANSMISSION, revision.number, revision.patches[:32], 3) for revision in revisions]
    poll = Packet(PacketKind.POLL, TRANSMISSION, 0, b"").to_bytes()
    rng, mixed = random.Random(3), [packet for packets in (*whole, *repairs) for packet in packets]
    rng.shuffle(mixed)
    ends = [tuple(packet for packets in whole[:count] for packet in packets) for count in range(1, len(whole) + 1)]
    holes = [(*packets[:2], *packets[3:], poll, *repaired) for packets, repaired in zip(whole, repairs, strict=True)]
    return [*ends, tuple(mixed), *holes, (*whole[0], *holes[-1]), (*reversed(mixed), poll)]


def _change(rng: random.Random, sample: Sample) -> Sample:
    """Packets of another revision, place or kind than they were made for, and in another order."""
    packets = list(sample)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(packets))
        packet = Packet.from_bytes(packets[at])
        number = rng.choice((packet.revision, rng.randrange(4), rng.randrange(MAX_REVISIONS)))
        kind = rng.choice((packet.kind, packet.kind, *PacketKind))
        moved = (packet.position + rng.randint(-40, 40)) % POSITIONS
        position = rng.choice((packet.position, moved, rng.randrange(200), POSITIONS - 1))
        body = packet.body if rng.random() < 0.7 else packet.body[: rng.randrange(len(packet.body) + 1)]
        changed = Packet(kind, packet.transmission_id, position, body, number).to_bytes()
        packets[at : at + rng.randrange(2)] = [changed]
    if rng.random() < 0.4:
        rng.shuffle(packets)
    return tuple(packets)


def stream_of_revisions(name: str) -> Target:
    """What the receiver makes of the packets of several plans, and what it tells of them."""
    codecs = by_number(load_receiver("ladder"), load_receiver("entropy"))

    def decode(sample: Sample) -> None:
        assembly, teller = Assembly(TRANSMISSION, codecs, 0.0), Teller(TRANSMISSION)
        for number, data in enumerate(sample):
            try:
                packet = Packet.from_bytes(data)
            except PacketError:
                continue
            _accept(assembly, packet, float(number))
            ended = assembly.outcome is not ReportOutcome.RECEIVING
            teller.arrived(packet, len(data), float(number), headers=assembly.headers, ended=ended)
            _listen(teller, assembly, float(number))
        assembly.close()
        _show(assembly)
        _listen(teller, assembly, len(sample) + 0.5)
        Report.from_packet(Packet.from_bytes(assembly.report(0.0).to_packet()))

    corpus = _corpus(name)
    return Target(f"revisions-{name}", corpus, decode, (), 6.0, 256 * _MIB, seal_packet, change=_change)


def _accept(assembly: Assembly, packet: Packet, now: float) -> None:
    """Takes a packet; whatever it is, the counts stay what they can be."""
    before = assembly.received_patches
    try:
        assembly.accept(packet, now)
    except (PacketError, StreamError):
        assert assembly.received_patches == before
    recovered = assembly.take_recovered()
    assert all(packet.kind is PacketKind.PATCHES for packet in recovered)
    assert 0 <= before <= assembly.received_patches <= assembly.expected_patches
    assert sum(assembly.levels_received) <= assembly.expected_patches
    assert assembly.stored_bytes < 32 * _MIB


def _listen(teller: Teller, assembly: Assembly, now: float) -> None:
    for data in teller.say(now, assembly.arrived):
        Feedback.from_packet(Packet.from_bytes(data))


def _show(assembly: Assembly) -> None:
    arrived = assembly.snapshot()
    if arrived is None or arrived.header.grid.count > _SHOWN_PATCHES:
        return
    decoded, grid = arrived.decode(), arrived.header.grid
    assert decoded.paint().shape == (grid.height, grid.width, 3)
    assert decoded.read_patches <= assembly.expected_patches


def replanning(name: str) -> Target:
    """Plans of any rest: each string is a budget, the largest packet, and which packets of the plan before got lost."""
    codecs = by_number(load_receiver(name))
    rests = ((900, 300, 5), (300, 256, 1), (5_000, 1_200, 2**64 - 1), (0, 256, 2), (60, 256, 3), (20_000, 65_000, 0))
    corpus: list[Sample] = [(_REST.pack(*rest),) for rest in rests]
    corpus += [(_REST.pack(*first), _REST.pack(*second)) for first, second in pairwise(rests)]

    def decode(sample: Sample) -> None:
        plans, masks = [_first(name)], list[int]()
        for part in sample[:4]:
            budget, packet, mask = _REST.unpack(part[: _REST.size].ljust(_REST.size, b"\0"))
            masks.append(mask)
            earlier = [Earlier(plan, _served(plan, lost)) for plan, lost in zip(plans, masks, strict=True)]
            request = PlanRequest(budget % 30_000, 256 + packet % (65_001 - 256))
            plan = _replanned(name, request, earlier)
            if plan is None:
                break
            plans.append(plan)
        assembly = Assembly(TRANSMISSION, codecs, 0.0)
        for number, plan in enumerate(plans):
            packed = pack_revision(plan, TRANSMISSION, number)
            for data in (*packed.header, *(packet.data for packet in packed.patches)):
                assembly.accept(Packet.from_bytes(data), 0.0)
        assert assembly.outcome is ReportOutcome.COMPLETE
        _show(assembly)

    return Target(f"replanning-{name}", corpus, decode, (), 10.0, 256 * _MIB)


def _replanned(name: str, request: PlanRequest, earlier: list[Earlier]) -> Plan | None:
    try:
        plan = _prepared(name).replan(middle(_WIDTH, _HEIGHT), request, earlier)
    except BudgetTooSmallError:
        return None
    if plan is not None:
        assert plan.wire_bytes <= request.budget_bytes
        assert plan.header.sketch == b""
        assert plan.bodies
    return plan
