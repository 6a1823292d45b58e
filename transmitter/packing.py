"""From a plan to the packets on the channel, most important first."""

from collections.abc import Sequence
from dataclasses import replace

from shared.packets import PACKET_HEADER_BYTES, Packet, PacketKind, StreamHeader
from transmitter.planning import Body, Plan
from transmitter.transport.contract import PackedRevision, PatchesPacket


def pack(plan: Plan, transmission_id: int) -> list[bytes]:
    """Every packet of a transmission that has but one plan, in the order of sending.

    Args:
        plan: what is sent.
        transmission_id: 0 to 2**32 - 1.

    Returns:
        Packets of at most `plan.packet_bytes`.
    """
    return pack_revision(plan, transmission_id, 0).packets


def pack_revision(plan: Plan, transmission_id: int, number: int) -> PackedRevision:
    """Every packet of one revision of a transmission.

    Args:
        plan: what is sent.
        transmission_id: 0 to 2**32 - 1.
        number: of the revision, 0 to MAX_REVISIONS - 1.

    Returns:
        Packets of at most `plan.packet_bytes`, which together take `plan.wire_bytes` but for a container's frames.
    """
    scans = tuple(
        _revision(plan.scan_header, bodies, plan.packet_bytes, transmission_id, number + further)
        for further, bodies in enumerate(plan.scans, 1)
    )
    return replace(_revision(plan.header, plan.bodies, plan.packet_bytes, transmission_id, number), scans=scans)


def _revision(
    header: StreamHeader, bodies: Sequence[Body], packet_bytes: int, transmission_id: int, number: int
) -> PackedRevision:
    section = header.to_bytes()
    step = packet_bytes - PACKET_HEADER_BYTES
    fragments = (
        Packet(PacketKind.HEADER, transmission_id, offset, section[offset : offset + step], number).to_bytes()
        for offset in range(0, len(section), step)
    )
    return PackedRevision(number, tuple(fragments), tuple(_packed(body, transmission_id, number) for body in bodies))


def _packed(body: Body, transmission_id: int, number: int) -> PatchesPacket:
    packet = Packet(PacketKind.PATCHES, transmission_id, body.position, body.content, number)
    return PatchesPacket(body.position, body.patches, packet.to_bytes())
