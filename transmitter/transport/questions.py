"""Questions to the receiver: when one goes, and what follows where nobody answers.

```
           is_due                       take: an answer, or other news
silence ──────────► POLL ─► asked ──┬──────────────────────────────────► answered
                      ▲             │ none in time
                      └─────────────┴──► too often: nothing will be heard any more
```
"""

import math
from typing import Final

from shared.feedback import Feedback
from shared.packets import Packet, PacketKind
from transmitter.transport import policy
from transmitter.transport.asking import MAX_UNANSWERED, Asking
from transmitter.transport.copies import Copies
from transmitter.transport.holding import Hold
from transmitter.transport.policy import POLL_BYTES
from transmitter.transport.standing import Standing

_MOST_QUEUE_S: Final = 4.0  # that an answer is allowed to wait in the channel's queue


class Questions:
    """Asks at the end of what can be sent for now, early on a fast link, and where no word comes in time.

    Args:
        standing: of the transmission.
        copies: of its headers, which are all that helps where nothing is heard.
    """

    def __init__(self, standing: Standing, copies: Copies) -> None:
        self.rejoining = False
        """Whether a new stream stands, and nobody has told yet what came through the old one."""
        self._standing, self._ledger, self._link = standing, standing.ledger, standing.link
        self._copies = copies
        self._timer = Asking(hurry=standing.hurry)
        self._count = self._packets_before = 0

    @property
    def due_s(self) -> float:
        """When no word has come in time; infinity while none is expected."""
        return self._timer.due_s

    # ---- when to ask -------------------------------------------------------------------------------

    def is_due(self, hold: Hold | None, now: float, room_bytes: int) -> bool:
        """Whether to ask: at the end of what can be sent for now, and where no answer comes.

        Args:
            hold: why the next packet does not go.
            now: the time.
            room_bytes: that the channel takes.
        """
        if not self._standing.closed or self._standing.blind:
            return False
        if self._timer.due_s <= now:
            return self._run_out(now, room_bytes)
        if min(self._standing.left, room_bytes) < POLL_BYTES:
            return False
        if self._timer.more or self.rejoining:
            return self._timer.more > 0
        last = self._ledger.last_handed
        ends = (
            hold in (Hold.NOTHING, Hold.RESERVE) and self._standing.left - POLL_BYTES >= self._ledger.planned.open_bytes
        )
        asks = (ends or hold is Hold.PAUSE) and last is not None and last.entry is not None
        return asks and self.matter(now)

    def is_early(self, room_bytes: int) -> bool:
        """Whether to ask while there is more to send."""
        standing = self._standing
        if standing.hurry or not standing.closed or standing.blind or not self._ledger.planned.open_bytes:
            return False
        packets = standing.stats.sent_packets - self._packets_before
        early = policy.asks_early(standing.estimate, standing.settings.packet_bytes, packets)
        return early and min(standing.left - policy.POLL_SPARE_BYTES, room_bytes) >= POLL_BYTES

    def matter(self, now: float) -> bool:
        """Whether anything could be done about what an answer would tell."""
        if self._standing.left - POLL_BYTES < policy.LEAST_PLAN_BYTES:
            return False
        return policy.rounds_left(self._standing.settings, self._standing.estimate, now) > 1

    # ---- what was asked, and what was heard --------------------------------------------------------

    def next_packet(self) -> Packet:
        """The next question, which is handed over now."""
        packet = Packet(PacketKind.POLL, self._standing.number, self._count, b"")
        self._count += 1
        self._packets_before = self._standing.stats.sent_packets
        return packet

    def asked(self, now: float) -> None:
        """The question was handed over."""
        self._timer.asked(now, self._timeout_s(now))

    def expect(self, now: float) -> None:
        """A word is expected from now on; an earlier expectation stays."""
        self._timer.expect(now, self._timeout_s(now))

    def answered(self) -> None:
        """News came."""
        self._timer.answered()

    def begin_again(self, now: float) -> None:
        """A new stream stands: before anything else goes, it is asked what came through the old one."""
        self._timer.answered()
        if self._standing.closed:
            self._timer.due_s, self.rejoining = now, True

    def rejoin(self, feedback: Feedback | None) -> None:
        """What came through the old stream is known, or nobody tells."""
        self.rejoining = False
        self._timer.answered()
        self._ledger.begin_again(feedback)

    # ---- silence -----------------------------------------------------------------------------------

    def _run_out(self, now: float, room_bytes: int) -> bool:
        """No answer came in time; whether to ask (again)."""
        timer = self._timer
        timer.due_s = now + self._timeout_s(now)
        enough = min(self._standing.left, room_bytes) >= POLL_BYTES
        if not enough or not (self.rejoining or self._ledger.unresolved_packets):
            return False
        if not self.rejoining and self._link.all_waits(self._ledger) and timer.waits():
            return False
        timer.ran_out(was_asked=self._was_asked)
        if self._standing.hurry:
            self._standing.holding.forget()
        if self.rejoining and timer.unanswered >= MAX_UNANSWERED // 2:
            self.rejoin(None)
        elif timer.hopeless:
            self._give_up()
        else:
            return True
        return False

    def _give_up(self) -> None:
        """Nothing will be heard any more: the rest is sent, the headers that may be missing several times."""
        self._standing.holding.blind, self._timer.due_s = True, math.inf
        self._copies.give_up_hearing()

    @property
    def _was_asked(self) -> bool:
        """Whether the last packet handed over was a question."""
        last = self._ledger.last_handed
        return last is not None and last.name[0] is PacketKind.POLL

    def _timeout_s(self, now: float) -> float:
        link = self._link
        queue_s = min(8 * link.waiting_bytes(now) / link.estimate.rate_bps, _MOST_QUEUE_S)
        return self._timer.timeout_s(link.meters.round_trip, queue_s, was_asked=self._was_asked)
