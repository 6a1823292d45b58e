"""The receiver's answer to the transmitter, as it crosses the channel back."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shared.errors import PacketError
from shared.packets import Packet, PacketKind

_REPORT: Final = struct.Struct(">BQIIf")


class ReportOutcome(IntEnum):
    """How far a transmission has come at the receiver; the numbers of `mmsc.v1.Outcome`."""

    RECEIVING = 0
    COMPLETE = 1
    PARTIAL = 2
    FAILED = 3


@dataclass(frozen=True)
class Report:
    """What the receiver has of one transmission."""

    transmission_id: int
    outcome: ReportOutcome
    received_bytes: int
    """Intact bytes of this transmission, duplicates left out."""
    expected_patches: int
    """Patches that the level map announces; 0 while it has not arrived."""
    received_patches: int
    reconstruct_s: float
    """Seconds spent on decoding, restoration and assembly."""

    def to_packet(self) -> bytes:
        """The report as a packet."""
        counts = (self.received_bytes, self.expected_patches, self.received_patches)
        body = _REPORT.pack(self.outcome, *counts, self.reconstruct_s)
        return Packet(PacketKind.REPORT, self.transmission_id, 0, body).to_bytes()

    @classmethod
    def from_packet(cls, packet: Packet) -> "Report":
        """Reads a report.

        Raises:
            PacketError: the packet is no report.
        """
        if packet.kind is not PacketKind.REPORT or len(packet.body) != _REPORT.size:
            raise PacketError("packet is no report")
        outcome, received, expected, patches, seconds = _REPORT.unpack(packet.body)
        if outcome not in tuple(ReportOutcome):
            raise PacketError(f"unknown outcome {outcome}")
        return cls(packet.transmission_id, ReportOutcome(outcome), received, expected, patches, seconds)
