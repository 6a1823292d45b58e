"""Repair packets at the receiver: what they bring back is as if it had arrived, and forged ones cost little."""

import contextlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from receiver_fakes import ID, receivers, sent, sources

from receiver.assembly import Arrival, Assembly
from receiver.repairs import MAX_REPAIR_BYTES
from shared.errors import PacketError, StreamError
from shared.feedback import Arrived
from shared.packets import Packet, PacketKind
from shared.repair import MAX_BLOCK, repair_packets
from shared.reports import ReportOutcome

SENT = sent(size=(120, 90))
LATER = sent(size=(120, 90), levels=np.where(SENT.levels, 0, 3).astype(np.uint8), revision=1, seed=4)


BLOCK = slice(2, 12)
REPAIRS = repair_packets(ID, 0, sources(SENT)[BLOCK], 8)
LATER_REPAIRS = repair_packets(ID, 1, sources(LATER)[:6], 6)


def opened() -> Assembly:
    return Assembly(ID, receivers(), now=10.0)


def feed(assembly: Assembly, packets: list[bytes]) -> list[Arrival]:
    return [assembly.accept(Packet.from_bytes(data), 11.0) for data in packets]


def picture(assembly: Assembly) -> np.ndarray:
    arrived = assembly.snapshot()
    assert arrived is not None
    return arrived.decode().paint()


@settings(max_examples=50)
@given(
    st.sets(st.integers(0, 9), max_size=5), st.sets(st.integers(0, 5), max_size=3), st.randoms(use_true_random=False)
)
def test_what_did_not_arrive_is_there_whatever_the_order(
    lost: set[int], lost_later: set[int], shuffled: random.Random
) -> None:
    gone = {SENT.patches[BLOCK][at] for at in lost} | {LATER.patches[at] for at in lost_later}
    packets = [data for data in SENT.packets + LATER.packets if data not in gone]
    packets += REPAIRS[: len(lost) + 3] + LATER_REPAIRS[: len(lost_later) + 3]
    shuffled.shuffle(packets)
    assembly, whole = opened(), opened()
    feed(assembly, packets)
    feed(whole, SENT.packets + LATER.packets)
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert assembly.report(0.0) == whole.report(0.0)
    assert assembly.arrived == (
        Arrived(0, header=True, runs=((0, SENT.expected),)),
        Arrived(1, header=True, runs=((0, LATER.expected),)),
    )
    assert (picture(assembly) == picture(whole)).all()
    assert {packet.to_bytes() for packet in assembly.take_recovered()} >= gone  # others came after all
    assert assembly.take_recovered() == []
    # The blocks are of no more use, and take nothing.
    assert set(feed(assembly, REPAIRS)) == {Arrival.DUPLICATE}
    assert assembly.stored_bytes == whole.stored_bytes


def test_repair_packets_alone_give_their_block() -> None:
    assembly = opened()
    feed(assembly, [*SENT.header, *repair_packets(ID, 0, sources(SENT)[:MAX_BLOCK], MAX_BLOCK + 3)])
    assert assembly.received_patches == sources(SENT)[MAX_BLOCK].position
    assert assembly.version > 0


def test_too_few_bring_nothing_and_are_waited_for() -> None:
    assembly = opened()
    feed(assembly, [*SENT.header, *SENT.patches[4:12], *REPAIRS[:1]])
    have = assembly.received_patches
    assert feed(assembly, REPAIRS[:1]) == [Arrival.DUPLICATE]
    assert Arrival.REPAIR in feed(assembly, REPAIRS[1:4])
    assert assembly.received_patches == have + sources(SENT)[4].position - sources(SENT)[2].position


@pytest.mark.parametrize("position", [SENT.expected - 1, SENT.expected + 10])
def test_repair_of_what_is_not_announced_is_refused(position: int) -> None:
    packet = Packet.from_bytes(REPAIRS[0])
    outside = Packet(PacketKind.REPAIR, ID, position, packet.body)
    assembly = opened()
    feed(assembly, SENT.header)
    before = assembly.stored_bytes
    with pytest.raises(PacketError, match="outside"):
        assembly.accept(outside, 11.0)
    assert assembly.stored_bytes == before
    early = opened()
    early.accept(outside, 11.0)
    feed(early, SENT.header)
    assert early.stored_bytes == before


def test_repair_packets_of_a_transmission_that_never_begins_are_bounded() -> None:
    assembly, body = opened(), Packet.from_bytes(REPAIRS[0]).body
    head = body[2:23]
    for position in range(300):
        for symbol in range(3):
            forged = symbol.to_bytes(2, "big") + head + bytes(60_000)
            assembly.accept(Packet(PacketKind.REPAIR, ID, position, forged, position % 16), 11.0)
    assert assembly.stored_bytes <= MAX_REPAIR_BYTES + 10_000
    for position in range(1_000):
        assembly.accept(Packet(PacketKind.REPAIR, ID, position, b"\0\0" + head + bytes(8)), 11.0)
    assert assembly.stored_bytes < 100_000


@settings(max_examples=50)
@given(st.integers(0, 40), st.integers(0, 300), st.integers(1, 12), st.binary(min_size=1, max_size=64), st.booleans())
def test_forged_symbols_never_replace_what_arrived(
    position: int, symbol: int, packets: int, content: bytes, early: bool
) -> None:
    assembly = opened()
    feed(assembly, SENT.patches if early else SENT.packets[:-3])
    body = symbol.to_bytes(2, "big") + bytes([packets]) + b"\0\1" * packets + content
    for number in range(4):
        forged = Packet(PacketKind.REPAIR, ID, position, body[:1] + bytes([number]) + body[2:])
        with contextlib.suppress(PacketError, StreamError):
            assembly.accept(forged, 11.0)
    feed(assembly, SENT.header)
    feed(assembly, SENT.patches)
    whole = opened()
    feed(whole, SENT.packets)
    assert (picture(assembly) == picture(whole)).all()
    assert assembly.outcome is ReportOutcome.COMPLETE
