"""From a plan to the packets on the channel, most important first."""

from collections.abc import Iterator

from shared.packets import PACKET_HEADER_BYTES, Packet, PacketKind
from transmitter.planning import Plan


def pack(plan: Plan, transmission_id: int) -> list[bytes]:
    """Every packet of a transmission, in the order of sending.

    Args:
        plan: what is sent.
        transmission_id: 0 to 2**32 - 1.

    Returns:
        Packets of at most `plan.packet_bytes`.
    """
    bodies = (Packet(PacketKind.PATCHES, transmission_id, body.position, body.content) for body in plan.bodies)
    return [packet.to_bytes() for packet in (*_header_packets(plan, transmission_id), *bodies)]


def _header_packets(plan: Plan, transmission_id: int) -> Iterator[Packet]:
    section = plan.header.to_bytes()
    step = plan.packet_bytes - PACKET_HEADER_BYTES
    for offset in range(0, len(section), step):
        yield Packet(PacketKind.HEADER, transmission_id, offset, section[offset : offset + step])
