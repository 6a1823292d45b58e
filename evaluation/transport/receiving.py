"""The receiver's plain parts as one end of a simulated stream."""

import math
from contextlib import suppress
from typing import Final

from receiver.assembly import Assembly
from receiver.contract import ArrivedPatches, ReceiverCodecs
from receiver.feedback import Teller
from shared.errors import PacketError, StreamError
from shared.packets import Packet, PacketKind
from shared.reports import ReportOutcome

PAINT_S: Final = 0.25
"""What the picture takes, which a report waits for, of a photo of the paper's size on one core."""


class Receiving:
    """A receiver that gets one transmission on one stream, and answers as the service does.

    Args:
        transmission_id: of the packets that count.
        codecs: those at hand.
        now: when the stream begins.
    """

    def __init__(self, transmission_id: int, codecs: ReceiverCodecs, now: float) -> None:
        self._assembly = Assembly(transmission_id, codecs, now)
        self._teller = Teller(transmission_id)
        self._report_s = math.inf

    @property
    def wake_s(self) -> float:
        """When it has something to say though nothing arrived; infinity if never."""
        return min(self._teller.wake_s, self._report_s)

    @property
    def complete(self) -> bool:
        """Whether all that was announced is there."""
        return self._assembly.outcome is ReportOutcome.COMPLETE

    def take(self, data: bytes, now: float) -> None:
        """A packet arrives; what was damaged is no packet."""
        try:
            packet = Packet.from_bytes(data)
        except PacketError:
            return
        ended = self.complete
        if packet.kind is not PacketKind.POLL:
            with suppress(PacketError, StreamError):
                self._assembly.accept(packet, now)
        self._teller.arrived(packet, len(data), now, headers=self._assembly.headers, ended=self.complete)
        if self.complete != ended:
            self._report_s = now + PAINT_S if self.complete else math.inf

    def end(self, now: float) -> None:
        """Nothing more will arrive."""
        if not self.complete:
            self._assembly.close()
            self._report_s = now + PAINT_S

    def say(self, now: float) -> list[bytes]:
        """What it sends back now."""
        if self._report_s <= now:
            self._report_s = math.inf
            self._teller.ended(self._assembly.report(PAINT_S).to_packet(), now)
        return self._teller.say(now, self._assembly.arrived)

    def snapshot(self) -> ArrivedPatches | None:
        """What the picture can be made of; None before the header."""
        return self._assembly.snapshot()
