"""What one stream of packets brings: sorts packets to their transmissions, and tells which of them ended."""

from collections.abc import Callable
from typing import Final

from receiver.assembly import Arrival
from receiver.metrics import ReceiverMetrics
from receiver.store import Entry, Store
from shared.errors import PacketError, StreamError, UnavailableError
from shared.packets import Packet, PacketKind
from shared.reports import ReportOutcome

MAX_OPEN: Final = 16
"""Transmissions that one stream may have open at once; keeps one peer from filling the store."""


class StreamIngest:
    """Takes the packets of one stream.

    Args:
        store: where the transmissions are; shared by all streams.
        metrics: counts every packet.
        keep: told the transmission and the bytes of every packet that brought something new.
    """

    def __init__(
        self, store: Store, metrics: ReceiverMetrics, keep: Callable[[int, bytes], None] = lambda *_: None
    ) -> None:
        self._store, self._metrics, self._keep = store, metrics, keep
        self._open: dict[int, Entry] = {}
        self._complete: set[int] = set()

    def take(self, data: bytes, now: float) -> Entry | None:
        """Takes one packet, of whatever content.

        Args:
            data: the bytes as they came.
            now: seconds of a monotonic clock.

        Returns:
            The transmission if it is complete now; once for each transmission.
        """
        entry, outcome = self._sort(data, now)
        self._metrics.count_packet(len(data), outcome)
        if entry is None or entry.assembly.outcome is not ReportOutcome.COMPLETE:
            return None
        return self._completed(entry)

    def end(self) -> list[Entry]:
        """Ends the stream and every transmission on it that is not complete; returns these."""
        ended = list(self._open.values())
        self._open.clear()
        for entry in ended:
            entry.assembly.close()
            self._metrics.count_end(entry)
        return ended

    def _sort(self, data: bytes, now: float) -> tuple[Entry | None, str]:
        try:
            packet = Packet.from_bytes(data)
        except PacketError:
            return None, "corrupt"
        if packet.kind is PacketKind.REPORT:
            return None, "foreign"
        try:
            entry = self._entry(packet, now)
        except UnavailableError:
            return None, "refused"
        try:
            arrival = self._accept(entry, packet, now)
        except (PacketError, StreamError):
            return None, "foreign"
        finally:
            self._store.settle(entry)
        if arrival is Arrival.ACCEPTED:
            self._keep(packet.transmission_id, data)
        return entry, arrival.value

    def _entry(self, packet: Packet, now: float) -> Entry:
        number = packet.transmission_id
        if number not in self._open and len(self._open) >= MAX_OPEN:
            raise UnavailableError(f"the stream has {MAX_OPEN} transmissions open")
        entry = self._store.admit(packet, now)
        if entry.assembly.outcome is not ReportOutcome.COMPLETE and number not in self._complete:
            self._open[number] = entry
        return entry

    def _accept(self, entry: Entry, packet: Packet, now: float) -> Arrival:
        before = entry.assembly.levels_received, entry.assembly.content_bytes
        arrival = entry.assembly.accept(packet, now)
        self._metrics.count_patches(entry.assembly, *before)
        return arrival

    def _completed(self, entry: Entry) -> Entry | None:
        number = entry.assembly.transmission_id
        if number in self._complete:
            return None
        self._complete.add(number)
        self._open.pop(number, None)
        self._metrics.count_end(entry)
        return entry
