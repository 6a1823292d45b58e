"""What the receiver remembers: a bounded number of transmissions in a bounded number of bytes.

When room is needed, the transmission that ended longest ago goes first. Those that are still received stay; if
there is nothing but them, new ones are refused until some fall silent for too long.
"""

from dataclasses import dataclass
from typing import Final

from receiver.assembly import Assembly
from receiver.contract import ReceiverCodecs
from shared.errors import UnavailableError
from shared.packets import Packet
from shared.reports import ReportOutcome

_RESERVE_BYTES: Final = 2_000  # more than what keeping a packet takes beyond its body


@dataclass(frozen=True)
class Picture:
    """A picture as it stood at some version of its assembly."""

    version: int
    image_png: bytes
    """8-bit RGB."""
    level_map_png: bytes
    """8-bit grey, a pixel per patch."""
    reconstruct_s: float
    """Seconds spent on decoding, restoration and assembly, without the PNGs."""

    @property
    def stored_bytes(self) -> int:
        """Memory of the two PNGs."""
        return len(self.image_png) + len(self.level_map_png)


@dataclass(eq=False)
class Entry:
    """A transmission in the store."""

    assembly: Assembly
    last_s: float
    """When its last packet came, accepted or not."""
    picture: Picture | None = None
    """The last picture that was made of it."""
    charged_bytes: int = 0
    """What the store's sum holds for it."""
    counted: ReportOutcome = ReportOutcome.RECEIVING
    """The outcome that the metrics know of."""

    @property
    def ended(self) -> bool:
        """Whether nothing more is awaited."""
        return self.assembly.outcome is not ReportOutcome.RECEIVING


class Store:
    """Transmissions by their number.

    Args:
        max_transmissions: how many are kept, at least 1.
        max_bytes: memory of all of them; may be exceeded by one level map while it is taken in.
        idle_s: seconds of silence after which a transmission counts as ended.
        codecs: those at hand.
    """

    def __init__(self, max_transmissions: int, max_bytes: int, idle_s: float, codecs: ReceiverCodecs) -> None:
        self._max_transmissions, self._max_bytes, self._idle_s = max_transmissions, max_bytes, idle_s
        self._codecs = codecs
        self._entries: dict[int, Entry] = {}
        self.stored_bytes = 0
        """Memory of all transmissions and their pictures."""

    def get(self, transmission_id: int) -> Entry | None:
        """The transmission, or None if it is unknown or forgotten."""
        return self._entries.get(transmission_id)

    def newest_first(self) -> list[Entry]:
        """All transmissions by when their first packet came."""
        return sorted(self._entries.values(), key=lambda entry: entry.assembly.first_s, reverse=True)

    def admit(self, packet: Packet, now: float) -> Entry:
        """Finds or opens a packet's transmission, with room for the packet.

        Raises:
            UnavailableError: the store is full of transmissions that are still received.
        """
        entry = self._entries.get(packet.transmission_id)
        count = self._max_transmissions if entry else self._max_transmissions - 1
        if not self._make_room(count, self._max_bytes - len(packet.body) - _RESERVE_BYTES, keep=entry):
            raise UnavailableError("the receiver is full")
        if entry is None:
            assembly = Assembly(packet.transmission_id, self._codecs, now)
            entry = self._entries[packet.transmission_id] = Entry(assembly, now)
            self.settle(entry)
        entry.last_s = now
        return entry

    def adopt(self, assembly: Assembly, now: float) -> Entry:
        """Takes a transmission in that was taken back from the disk; one that is there already stays as it is.

        Args:
            assembly: ended.
            now: seconds of the clock of the packets.

        Raises:
            UnavailableError: the store is full of transmissions that are still received.
        """
        known = self._entries.get(assembly.transmission_id)
        if known is not None:
            return known
        if not self._make_room(self._max_transmissions - 1, self._max_bytes - assembly.stored_bytes, keep=None):
            raise UnavailableError("the receiver is full")
        entry = self._entries[assembly.transmission_id] = Entry(assembly, now, counted=assembly.outcome)
        self.settle(entry)
        return entry

    def settle(self, entry: Entry) -> None:
        """Sums up again what a transmission takes; to be called after each change of it."""
        if self._entries.get(entry.assembly.transmission_id) is not entry:
            return  # forgotten meanwhile
        size = entry.assembly.stored_bytes + (entry.picture.stored_bytes if entry.picture else 0)
        self.stored_bytes += size - entry.charged_bytes
        entry.charged_bytes = size

    def keep(self, entry: Entry, picture: Picture) -> None:
        """Keeps a picture beside its transmission as far as there is room for it."""
        entry.picture = picture
        self.settle(entry)
        if not self._make_room(self._max_transmissions, self._max_bytes, keep=entry):
            entry.picture = None
            self.settle(entry)

    def expire(self, now: float) -> list[Entry]:
        """Ends the transmissions that fell silent, and returns them; their pictures can still be asked for."""
        limit = now - self._idle_s
        silent = [entry for entry in self._entries.values() if not entry.ended and entry.last_s <= limit]
        for entry in silent:
            entry.assembly.close()
        return silent

    def _make_room(self, count: int, size: int, keep: Entry | None) -> bool:
        while len(self._entries) > count or self.stored_bytes > size:
            ended = [entry for entry in self._entries.values() if entry.ended and entry is not keep]
            if not ended:
                return False
            self._forget(min(ended, key=lambda entry: entry.last_s))
        return True

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.assembly.transmission_id]
        self.stored_bytes -= entry.charged_bytes
