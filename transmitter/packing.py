"""From a plan and coded patches to the packets on the channel, most important first."""

from collections.abc import Iterator

import numpy as np

from shared.codec.contract import EncodedPatches
from shared.levels import LEVEL_BYTES
from shared.packets import PACKET_HEADER_BYTES, Packet, PacketKind, packet_runs, sending_order
from transmitter.planning import Plan


def pack(plan: Plan, encoded: EncodedPatches, transmission_id: int) -> list[bytes]:
    """Every packet of a transmission, in the order of sending.

    Args:
        plan: which patch goes at which level.
        encoded: the patches at every level.
        transmission_id: 0 to 2**32 - 1.

    Returns:
        Packets of at most `plan.packet_bytes`, `plan.wire_bytes` in all.
    """
    packets = [*_header_packets(plan, transmission_id), *_patch_packets(plan, encoded, transmission_id)]
    return [packet.to_bytes() for packet in packets]


def _header_packets(plan: Plan, transmission_id: int) -> Iterator[Packet]:
    section = plan.header.to_bytes()
    step = plan.packet_bytes - PACKET_HEADER_BYTES
    for offset in range(0, len(section), step):
        yield Packet(PacketKind.HEADER, transmission_id, offset, section[offset : offset + step])


def _patch_packets(plan: Plan, encoded: EncodedPatches, transmission_id: int) -> Iterator[Packet]:
    order = sending_order(plan.levels)
    sizes = np.asarray(LEVEL_BYTES)[plan.levels[order]]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    content = _content(plan, encoded)
    first = 0
    for run in packet_runs(plan.level_counts, plan.packet_bytes):
        body = content[ends[first] : ends[first + run]]
        yield Packet(PacketKind.PATCHES, transmission_id, first, body)
        first += run


def _content(plan: Plan, encoded: EncodedPatches) -> bytes:
    """The bytes of all sent patches in the order of sending, which is level by level."""
    levels = range(len(LEVEL_BYTES) - 1, 0, -1)
    return b"".join(encoded.payloads[level][plan.levels == level].tobytes() for level in levels)
