"""From a plan to the packets on the channel, most important first."""

from shared.packets import PACKET_HEADER_BYTES, Packet, PacketKind
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
    packed = pack_revision(plan, transmission_id, 0)
    return [*packed.header, *(packet.data for packet in packed.patches)]


def pack_revision(plan: Plan, transmission_id: int, number: int) -> PackedRevision:
    """Every packet of one revision of a transmission.

    Args:
        plan: what is sent.
        transmission_id: 0 to 2**32 - 1.
        number: of the revision, 0 to MAX_REVISIONS - 1.

    Returns:
        Packets of at most `plan.packet_bytes`, which together take `plan.wire_bytes` but for a container's frames.
    """
    section = plan.header.to_bytes()
    step = plan.packet_bytes - PACKET_HEADER_BYTES
    header = (
        Packet(PacketKind.HEADER, transmission_id, offset, section[offset : offset + step], number).to_bytes()
        for offset in range(0, len(section), step)
    )
    return PackedRevision(number, tuple(header), tuple(_packed(body, transmission_id, number) for body in plan.bodies))


def _packed(body: Body, transmission_id: int, number: int) -> PatchesPacket:
    packet = Packet(PacketKind.PATCHES, transmission_id, body.position, body.content, number)
    return PatchesPacket(body.position, body.patches, packet.to_bytes())
