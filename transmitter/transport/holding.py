"""Why a packet does not go: the channel's credit and queue, what is under way, the deadline, bytes that are kept."""

from enum import Enum
from typing import Final

from shared.packets import PacketKind
from transmitter.transport import policy
from transmitter.transport.contract import SenderSettings
from transmitter.transport.entries import Entry, State
from transmitter.transport.ledger import Ledger
from transmitter.transport.link import LinkView

_LATER_MARGIN: Final = 0.03  # of the time to the deadline, that is left to links that fall silent
_SPARE_S: Final = 0.01  # before the channel's queue runs dry


class Hold(Enum):
    """Why a packet does not go."""

    ROOM = "no credit"
    QUEUE = "enough waits in the channel's queue"
    WINDOW = "enough is under way"
    TIME = "would be late"
    RESERVE = "bytes are kept for what may be lost"
    PAUSE = "a new plan will hold its patches"
    NOTHING = "nothing is to be sent"


class Holding:
    """The rules for one packet, now.

    Args:
        settings: of the transmission.
        ledger: of its packets.
        link: as it is seen.
        now: when sending begins.
    """

    def __init__(self, settings: SenderSettings, ledger: Ledger, link: LinkView, now: float) -> None:
        self.blind = False
        """Whether nothing is expected to be heard any more; then what is under way or may be lost does not count."""
        self.kept_bytes = 0
        """Of the budget, for asking what has arrived after the stream breaks; nothing else may take them."""
        self._settings, self._ledger, self._link = settings, ledger, link
        self._forgotten_bytes = 0
        self._later_margin_s = 0.0 if settings.deadline_s is None else _LATER_MARGIN * (settings.deadline_s - now)

    @property
    def left(self) -> int:
        """Bytes of the budget that are left, but for those that are kept."""
        return self._settings.budget_bytes - self._ledger.sent_bytes - self.kept_bytes

    @property
    def spare_bytes(self) -> float:
        """With less than this in the channel's queue, the link may soon be idle."""
        return self._link.estimate.rate_bps / 8 * _SPARE_S

    def forget(self) -> None:
        """What was handed over so far is there or lost by now."""
        self._forgotten_bytes = self._ledger.sent_bytes

    def why_not(self, entry: Entry | None, now: float, room_bytes: int, promised_bytes: float) -> Hold | None:
        """Why a packet does not go, if so; a new plan is being made for the bytes that are promised."""
        if entry is None:
            return Hold.NOTHING
        size, link = len(entry.data), self._link.estimate
        # Of further scans and finer plans the last bytes are missed least: those end some time before the deadline.
        margin_s = self._later_margin_s if entry.revision else 0.0
        crowded = self.too_many(size, now, room_bytes, margin_s, sure=not self._must_go(entry))
        if crowded is not None or not self._settings.closed_loop:
            return crowded
        if self._under_way > policy.window_bytes(link, self._settings.packet_bytes) and not self.blind:
            return Hold.WINDOW
        if self.left - size < self._reserve(entry, now):
            return Hold.RESERVE
        pauses = promised_bytes > 0 and (not entry.kept or self.left - size < promised_bytes)
        return Hold.PAUSE if pauses else None

    def too_many(
        self, size: int, now: float, room_bytes: int, margin_s: float = 0.0, *, sure: bool = True
    ) -> Hold | None:
        """Whether so many bytes are more than the channel takes, or more than it should have to keep."""
        if size > room_bytes:
            return Hold.ROOM
        if not self._settings.closed_loop:
            return None
        waiting = self._link.waiting_bytes(now)
        if waiting > self._queue_bytes and not self.blind:
            return Hold.QUEUE
        return None if self.in_time(waiting + size, now + margin_s, sure=sure) else Hold.TIME

    def in_time(self, waiting_bytes: float, now: float, *, sure: bool = True) -> bool:
        """Whether what waits will have arrived by the deadline; sure: even if the rate falls."""
        link = self._link
        return policy.in_time(self._settings, link.estimate, link.recent_bps(now), waiting_bytes, now, sure=sure)

    def _must_go(self, entry: Entry) -> bool:
        """Whether a packet goes even if it may be late: an idle link brings nothing, and nor does one without header.

        What waits behind others is committed before the rate is known at which it goes; what goes alone is not.
        """
        return self._link.queue.is_idle or (entry.kind is PacketKind.HEADER and not entry.revision)

    def _reserve(self, entry: Entry, now: float) -> float:
        """Bytes that must be left after a packet, for what may turn out to be lost."""
        ledger, link = self._ledger, self._link.estimate
        hopeless = self.blind or policy.rounds_left(self._settings, link, now) < 1
        if hopeless or entry.kind is PacketKind.HEADER or entry.flying or not ledger.unresolved_packets:
            return 0.0
        reserve = self._header_reserve(now)
        if not policy.expects_loss(link, ledger.unresolved_packets + 1):
            return reserve
        if self._settings.deadline_s is None:
            return self._whole_reserve(reserve, entry)
        if entry.state is State.WAITING:
            reserve += link.loss_at_most * (ledger.unresolved_bytes + len(entry.data))
        return reserve

    def _whole_reserve(self, reserve: float, entry: Entry) -> float:
        """So that what is under way can be planned again: the less, the better it is known that the link is clean."""
        link = self._link.estimate
        if self._ledger.lost_packets and link.loss_at_most >= policy.MAY_LOSE_PACKETS:
            share = 1.0
        elif policy.is_short(self._settings, link):
            share = policy.feared_loss(link)
        else:
            share = policy.doubt_of_loss(link.loss_at_most)
        # Hardly ever is it the header and much else.
        reserve = max(reserve, share * self._ledger.unresolved_bytes)
        return max(reserve, self._settings.packet_bytes) if entry.state is State.LOST else reserve

    def _header_reserve(self, now: float) -> float:
        """Bytes for the first header until it has arrived; where it hardly gets lost, as long as that costs no time."""
        link = self._link.estimate
        needed = policy.sends_needed(link.loss_rate, policy.NO_HEADER)
        if needed == 1 and self._link.waiting_bytes(now) <= self.spare_bytes:
            return 0.0
        return sum(
            len(entry.data) * max(needed - entry.sends, 1)
            for entry in self._ledger.planned.headers[0]
            if entry.state is not State.ARRIVED
        )

    @property
    def _queue_bytes(self) -> float:
        """With more than this waiting nothing goes; before a deadline, the first packet alone tells of the rate."""
        if self._settings.deadline_s is not None and not self._link.queue.has_departed:
            return 0.0
        return policy.queue_bytes(self._link.estimate)

    @property
    def _under_way(self) -> int:
        """Handed over, neither overtaken nor so long ago that it must be there or lost."""
        return min(self._ledger.in_flight_bytes, self._ledger.sent_bytes - self._forgotten_bytes)
