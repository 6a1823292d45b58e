"""What a transport that listens reads: feedback, repair packets, revisions; and what the sender makes of it."""

import random
from collections.abc import Sequence
from typing import Final

from shared.errors import PacketError
from shared.feedback import Arrived, Feedback
from shared.packets import MAX_REVISIONS, PACKET_HEADER_BYTES, POSITIONS, Packet, PacketKind
from shared.repair import MAX_BLOCK, RepairBlock, RepairLayout, repair_packets
from transmitter.packing import pack_revision
from transmitter.transport.contract import PackedRevision, PatchesPacket

from .mutations import Sample, seal_packet
from .runner import Target
from .samples import TRANSMISSION, plans

_MIB: Final = 1024 * 1024
_CODECS: Final = ("ladder", "entropy")


# ---- feedback --------------------------------------------------------------------------------------


def some_feedback(rng: random.Random, revisions: Sequence[int], below: int) -> Feedback:
    """A message as a receiver may send it, or nearly.

    Args:
        rng: where all choices come from.
        revisions: numbers of those that it may tell of.
        below: ordinals that it tells of are mostly below this.
    """
    states = tuple(_some_state(rng, number, below) for number in sorted(revisions))
    return Feedback(
        TRANSMISSION,
        rng.choice((0, 1, 7, 32_768, 65_535, rng.randrange(65_536))),
        rng.choice((0, 1, 900, 40_000, 2**40, 2**64 - 1)),
        rng.choice((0, 1, 30, 2**32 - 1)),
        rng.choice((0.0, 1e-6, 0.5, 3.0, 1e6, 1e13)),
        rng.choice((0.0, 1e-6, 0.02, 4_294.0)),
        rng.choice(tuple(PacketKind)),
        rng.choice((0, 1, MAX_REVISIONS - 1)),
        rng.choice((0, 1, below, POSITIONS - 1)),
        states,
    )


def _some_state(rng: random.Random, number: int, below: int) -> Arrived:
    ends = sorted({rng.randrange(max(below, 2)) for _ in range(2 * rng.choice((0, 1, 1, 3, 40)))})
    runs = tuple(zip(ends[::2], ends[1::2], strict=False))
    return Arrived(number, rng.random() < 0.8, runs, rng.choice((POSITIONS, below, 0)))


def feedback() -> Target:
    """Messages of the receiver."""
    rng = random.Random(1)
    numbers = [sorted(rng.sample(range(MAX_REVISIONS), count)) for count in (0, 1, 1, 2, 5, 16) for _ in range(3)]
    corpus = [(some_feedback(rng, revisions, 300).to_packet(),) for revisions in numbers]

    def decode(sample: Sample) -> None:
        message = Feedback.from_packet(Packet.from_bytes(sample[0]))
        assert all(0 <= start < stop <= POSITIONS for state in message.revisions for start, stop in state.runs)
        assert Feedback.from_packet(Packet.from_bytes(message.to_packet())) == message

    return Target("feedback", corpus, decode, (PacketError,), 0.5, 32 * _MIB, seal_packet)


# ---- repair ----------------------------------------------------------------------------------------


def _packed(name: str, number: int = 0) -> list[PackedRevision]:
    return [pack_revision(plan, TRANSMISSION, number) for plan in plans(name)]


def _blocks(packets: Sequence[PatchesPacket]) -> list[tuple[PatchesPacket, ...]]:
    return [tuple(packets[start : start + size]) for size in (1, 2, 5, MAX_BLOCK) for start in (0, size)]


def repair_blocks() -> Target:
    """PATCHES and REPAIR packets of several blocks in any order, as they come to a receiver."""
    corpus: list[Sample] = []
    for packed in (revision for name in _CODECS for revision in _packed(name)):
        for block in filter(None, _blocks(packed.patches)):
            repairs = repair_packets(TRANSMISSION, 0, block, len(block) + 1)
            corpus.append((*(packet.data for packet in block[::2]), *repairs))

    def decode(sample: Sample) -> None:
        blocks: dict[RepairLayout, RepairBlock] = {}
        bodies: dict[int, bytes] = {}
        for data in sample:
            try:
                _take(Packet.from_bytes(data), blocks, bodies)
            except PacketError:
                continue

    return Target("repair", corpus, decode, (), 1.0, 64 * _MIB, seal_packet)


def _take(packet: Packet, blocks: dict[RepairLayout, RepairBlock], bodies: dict[int, bytes]) -> None:
    if packet.kind is PacketKind.PATCHES:
        bodies.setdefault(packet.position, packet.body)
    else:
        layout = RepairLayout.of(packet)
        blocks.setdefault(layout, RepairBlock(layout)).add(packet)
    for layout, block in blocks.items():
        assert block.held_bytes <= (MAX_BLOCK + 3) * layout.symbol_bytes
        for position, body in block.recover(bodies):
            assert position not in bodies
            assert 0 < len(body) <= layout.symbol_bytes
            bodies[position] = body


def repair_making() -> Target:
    """Any PATCHES packets are protected; what is said to be no block is refused, and what was made is of use.

    The first string is how many patches each packet holds, two bytes each.
    """
    corpus: list[Sample] = []
    for packed in (revision for name in _CODECS for revision in _packed(name)):
        for block in filter(None, _blocks(packed.patches)):
            counts = b"".join(packet.patches.to_bytes(2, "big") for packet in block)
            corpus.append((counts, *(packet.data for packet in block)))

    def decode(sample: Sample) -> None:
        counts, *packets = sample
        block, position = [], 0
        for number, data in enumerate(packets):
            patches = int.from_bytes(counts[2 * number : 2 * number + 2], "big")
            block.append(PatchesPacket(position, patches, data))
            position += patches
        repairs = [Packet.from_bytes(data) for data in repair_packets(TRANSMISSION, 3, block, len(block) + 3)]
        received = RepairBlock(RepairLayout.of(repairs[0]))
        assert all(received.add(repair) for repair in repairs)
        expected = [(packet.position, packet.data[PACKET_HEADER_BYTES:]) for packet in block]
        assert received.recover({}) == expected

    return Target("repair-making", corpus, decode, (ValueError,), 1.0, 64 * _MIB)
