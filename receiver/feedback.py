"""When the sender of a transmission is told what, on one stream: feedback as it goes on, its report when it has ended.

```
packets ─► arrived ─┐
report  ─► ended ───┴─► wake_s ─► say ─► FEEDBACK and REPORT packets, which may be lost on the way
```

Feedback is sent at once when a header is whole, when a transmission ends, and when the sender asks; otherwise so that
it stays small beside what arrives. The last message is repeated a few times, for the sender cannot ask for what it does
not know of. Nothing here looks at a clock: times are seconds of any monotonic one.
"""

import math
from collections.abc import Sequence
from typing import Final

from shared.feedback import Arrived, Feedback
from shared.packets import Packet, PacketKind

INTERVAL_S: Final = 0.05
"""Least time between two messages that nothing hurries."""

SLOW_INTERVAL_S: Final = 0.25
"""Time between two messages at most, while packets arrive."""

FEEDBACK_SHARE: Final = 1 / 20
"""Of the bytes that arrive: what feedback may take before it waits for SLOW_INTERVAL_S."""

REPEATS_S: Final = (0.1, 0.3, 1.0)
"""After the last arrival, when the last message is said again."""

REPORTS: Final = 3
"""How often the report is sent, INTERVAL_S apart."""

_LEAST_INTERVAL_S: Final = 0.005  # however much hurries
_FIRST_BYTES: Final = 60  # about what a message takes, before there was one


class Teller:
    """Tells the sender of one transmission, on one stream, how far it has come.

    Args:
        transmission_id: 0 to 2**32 - 1.
    """

    def __init__(self, transmission_id: int) -> None:
        self._transmission_id = transmission_id
        self._sequence = 0
        self._arrived_bytes = self._arrived_packets = 0
        self._last: Packet | None = None
        self._last_s = -math.inf
        self._headers = 0
        self._ended = self._only_asked = False
        self._said_s = -math.inf
        self._said_bytes, self._message_bytes = 0, _FIRST_BYTES
        self._due_s = self._repeat_s = math.inf
        self._report = b""
        self._report_due_s, self._reported_s = math.inf, -math.inf
        self._reports_left = 0

    # ---- what happens --------------------------------------------------------------------------

    def arrived(self, packet: Packet, size_bytes: int, now: float, *, headers: int, ended: bool) -> None:
        """Notes an intact packet of the transmission, whatever became of it.

        Args:
            packet: as it was read.
            size_bytes: as it crossed the channel.
            now: not before any earlier time.
            headers: revisions whose header is there, after this packet.
            ended: whether nothing more is awaited, after this packet.
        """
        if self._last is None:
            self._said_s, self._only_asked = now, True
        self._arrived_bytes += size_bytes
        self._arrived_packets += 1
        self._last, self._last_s = packet, now
        self._only_asked &= packet.kind is PacketKind.POLL
        news = headers > self._headers or (ended and not self._ended)
        again = ended and self._ended
        self._headers, self._ended = headers, ended
        if not ended:
            self._report, self._report_due_s, self._reports_left = b"", math.inf, 0
        elif self._report and not self._reports_left:
            self._report_due_s, self._reports_left = max(now, self._reported_s + INTERVAL_S), 1
        self._schedule(now, self._wait_s(packet, news=news, again=again))

    def ended(self, report: bytes, now: float) -> None:
        """Has the report sent, several times.

        Args:
            report: a REPORT packet.
            now: not before any earlier time.
        """
        self._report, self._ended = report, True
        self._report_due_s, self._reports_left = now, REPORTS
        self._repeat_s = math.inf
        if self._due_s < math.inf:
            self._due_s = now

    def _wait_s(self, packet: Packet, *, news: bool, again: bool) -> float:
        """How long after the last message the next one may be said."""
        if news or packet.kind is PacketKind.POLL:
            return _LEAST_INTERVAL_S if self._said_bytes else 0.0
        affordable = (self._said_bytes + self._message_bytes) <= FEEDBACK_SHARE * self._arrived_bytes
        return INTERVAL_S if again or affordable else SLOW_INTERVAL_S

    def _schedule(self, now: float, wait_s: float) -> None:
        self._due_s = min(self._due_s, max(now, self._said_s + wait_s))
        self._repeat_s = math.inf

    # ---- what is said --------------------------------------------------------------------------

    @property
    def wake_s(self) -> float:
        """When there is something to say though nothing arrives; infinity if never."""
        return min(self._due_s, self._repeat_s, self._report_due_s)

    @property
    def last_word_s(self) -> float:
        """When the next copy of the report is to be sent; infinity if there is none."""
        return self._report_due_s

    def say(self, now: float, arrived: Sequence[Arrived]) -> list[bytes]:
        """What is to be sent now; nothing before `wake_s`.

        Args:
            now: not before any earlier time.
            arrived: what is there of each revision that anything arrived of, rising.

        Returns:
            Packets.
        """
        said = []
        if min(self._due_s, self._repeat_s) <= now:
            said.append(self._feedback(now, arrived))
        if self._report_due_s <= now:
            said.append(self._report)
            self._reported_s = now
            self._reports_left -= 1
            self._report_due_s = now + INTERVAL_S if self._reports_left else math.inf
        return said

    def _feedback(self, now: float, arrived: Sequence[Arrived]) -> bytes:
        assert self._last is not None
        counts = (self._sequence, self._arrived_bytes, self._arrived_packets)
        name = (self._last.revision, self._last.position)
        times = (_microseconds(self._last_s), _microseconds(now - self._last_s))
        data = Feedback(self._transmission_id, *counts, *times, self._last.kind, *name, tuple(arrived)).to_packet()
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._said_s, self._message_bytes = now, len(data)
        self._said_bytes += len(data)
        self._due_s, self._repeat_s = math.inf, self._next_repeat_s(now)
        return data

    def _next_repeat_s(self, now: float) -> float:
        """Nothing is repeated to a sender that only asks, or that is told by its report."""
        if self._only_asked or self._report:
            return math.inf
        times = (self._last_s + repeat_s for repeat_s in REPEATS_S)
        return next((at for at in times if at >= now + INTERVAL_S), math.inf)


def _microseconds(seconds: float) -> float:
    """To what a message can say."""
    return round(seconds * 1e6) / 1e6
