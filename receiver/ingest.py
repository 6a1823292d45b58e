"""What one stream of packets brings: sorts packets to their transmissions, tells which ended, and what to answer."""

import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from receiver.assembly import Arrival
from receiver.feedback import Teller
from receiver.metrics import ReceiverMetrics
from receiver.store import Entry, Store
from shared.errors import PacketError, StreamError, UnavailableError
from shared.packets import Packet, PacketKind
from shared.reports import Report, ReportOutcome

MAX_OPEN: Final = 16
"""Transmissions that one stream may have open at once; keeps one peer from filling the store."""

MAX_HEARD: Final = 64
"""Transmissions, open or not, that are answered on one stream; of the others, those heard longest ago are forgotten."""

_HEARD: Final = ("accepted", "duplicate", "repair", "poll")  # what becomes of packets that are answered
_BACKWARD: Final = (PacketKind.REPORT, PacketKind.FEEDBACK)


def _never() -> None:
    """The transmission that was told to be complete, where none was."""


@dataclass
class _Heard:
    """A transmission that packets of this stream are of."""

    teller: Teller
    known: bool = False
    """Whether the store had it."""
    complete: Callable[[], Entry | None] = _never
    """What was told to be complete, as long as it exists and was not opened again."""
    complete_version: int = 0
    """Of its assembly when that was told."""


class StreamIngest:
    """Takes the packets of one stream.

    Args:
        store: where the transmissions are; shared by all streams.
        metrics: counts every packet.
        keep: told the transmission and the bytes of every packet that is needed to make the picture again.
        stored: whether a transmission that is not in the store is on the disk.
    """

    def __init__(
        self,
        store: Store,
        metrics: ReceiverMetrics,
        keep: Callable[[int, bytes], None] = lambda *_: None,
        stored: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._store, self._metrics, self._keep, self._stored = store, metrics, keep, stored
        self._open: dict[int, Entry] = {}
        self._heard: dict[int, _Heard] = {}

    # ---- what comes ----------------------------------------------------------------------------

    def take(self, data: bytes, now: float) -> Entry | None:
        """Takes one packet, of whatever content.

        Args:
            data: the bytes as they came.
            now: seconds of a monotonic clock.

        Returns:
            The transmission if it is complete now; once for each transmission, and again after it was opened again.
        """
        try:
            packet = Packet.from_bytes(data)
        except PacketError:
            self._metrics.count_packet(len(data), "corrupt")
            return None
        entry, outcome = self._sort(packet, data, now)
        self._metrics.count_packet(len(data), outcome)
        if outcome not in _HEARD:
            return None
        heard = self._hear(packet, len(data), entry, now)
        return None if entry is None else self._completed(entry, heard)

    def end(self) -> list[Entry]:
        """Ends the stream and every transmission on it that is not complete; returns these.

        Complete ones of which more came since, finer patches mostly, are among them.
        """
        ended = [*self._open.values(), *self._grown()]
        self._open.clear()
        for entry in ended:
            entry.assembly.close()
            self._metrics.count_end(entry)
        return ended

    def _grown(self) -> Iterator[Entry]:
        """Transmissions that were complete, and of which more came since."""
        for heard in self._heard.values():
            entry = heard.complete()
            if entry is None or entry.assembly.transmission_id in self._open:
                continue
            if entry.assembly.version > heard.complete_version:
                heard.complete_version = entry.assembly.version
                yield entry

    def _sort(self, packet: Packet, data: bytes, now: float) -> tuple[Entry | None, str]:
        if packet.kind in _BACKWARD:
            return None, "foreign"
        if packet.kind is PacketKind.POLL:
            return self._asked(packet, now)
        try:
            entry = self._admitted(packet, now)
        except UnavailableError:
            return None, "refused"
        try:
            arrival = self._accept(entry, packet, now)
        except (PacketError, StreamError):
            self._await(entry)
            return None, "foreign"
        finally:
            self._store.settle(entry)
        self._keep_needed(entry, packet, data, arrival)
        return entry, arrival.value

    def _asked(self, packet: Packet, now: float) -> tuple[Entry | None, str]:
        """A question opens nothing; of what is on the disk and finds no room here, nothing true could be said."""
        entry = self._store.get(packet.transmission_id)
        if entry is None:
            return None, "refused" if self._stored(packet.transmission_id) else "poll"
        entry.last_s = now
        return entry, "poll"

    def _admitted(self, packet: Packet, now: float) -> Entry:
        if packet.transmission_id not in self._open and len(self._open) >= MAX_OPEN:
            raise UnavailableError(f"the stream has {MAX_OPEN} transmissions open")
        return self._store.admit(packet, now)

    def _accept(self, entry: Entry, packet: Packet, now: float) -> Arrival:
        before = entry.assembly.levels_received, entry.assembly.content_bytes
        arrival = entry.assembly.accept(packet, now)
        self._metrics.count_patches(entry.assembly, *before)
        return arrival

    def _keep_needed(self, entry: Entry, packet: Packet, data: bytes, arrival: Arrival) -> None:
        """Hands on what the picture can be made from again: of repair packets, what they brought back."""
        if arrival is Arrival.ACCEPTED:
            self._keep(packet.transmission_id, data)
        recovered = entry.assembly.take_recovered()
        self._metrics.count_repaired(len(recovered))
        for found in recovered:
            self._keep(packet.transmission_id, found.to_bytes())

    def _completed(self, entry: Entry, heard: _Heard) -> Entry | None:
        if entry.assembly.outcome is not ReportOutcome.COMPLETE:
            self._await(entry)
            return None
        if heard.complete() is entry:
            return None
        heard.complete, heard.complete_version = weakref.ref(entry), entry.assembly.version
        self._open.pop(entry.assembly.transmission_id, None)
        self._metrics.count_end(entry)
        return entry

    def _await(self, entry: Entry) -> None:
        """Notes that this stream is to end a transmission; not where it is complete, or was and then was forgotten."""
        number, outcome = entry.assembly.transmission_id, entry.assembly.outcome
        heard = self._heard.get(number)
        if heard is not None and heard.complete is not _never:
            if heard.complete() is not entry or outcome is not ReportOutcome.RECEIVING:
                return
            heard.complete = _never  # it was opened again
        if outcome is not ReportOutcome.COMPLETE and len(self._open) < MAX_OPEN:
            self._open[number] = entry

    # ---- what is answered ----------------------------------------------------------------------

    @property
    def wake_s(self) -> float:
        """When there is something to answer though nothing comes; infinity if never."""
        return min((heard.teller.wake_s for heard in self._heard.values()), default=math.inf)

    @property
    def last_word_s(self) -> float:
        """When the next copy of a report is to be sent; infinity if there is none."""
        return min((heard.teller.last_word_s for heard in self._heard.values()), default=math.inf)

    def reported(self, report: Report, now: float) -> None:
        """Has a report sent to whom it may concern."""
        heard = self._heard.setdefault(report.transmission_id, _Heard(Teller(report.transmission_id), known=True))
        heard.teller.ended(report.to_packet(), now)

    def say(self, now: float) -> list[bytes]:
        """The packets that are to be sent back now."""
        said: list[bytes] = []
        for number, heard in self._heard.items():
            if heard.teller.wake_s > now:
                continue
            entry = self._store.get(number)
            if entry is None and heard.known:
                heard.teller = Teller(number)  # forgotten meanwhile: nothing true could be said
                continue
            said += heard.teller.say(now, entry.assembly.arrived if entry else ())
        return said

    def _hear(self, packet: Packet, size_bytes: int, entry: Entry | None, now: float) -> _Heard:
        number = packet.transmission_id
        heard = self._heard.pop(number) if number in self._heard else _Heard(Teller(number))
        self._heard[number] = heard
        headers, ended = 0, False
        if entry is not None:
            heard.known = True
            headers, ended = entry.assembly.headers, entry.ended
        heard.teller.arrived(packet, size_bytes, now, headers=headers, ended=ended)
        if len(self._heard) > MAX_HEARD:
            del self._heard[next(other for other in self._heard if other not in self._open)]
        return heard
