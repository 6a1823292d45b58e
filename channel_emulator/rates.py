"""How much a link carries by when: pure functions of time, and the token bucket that stands on them.

```
rate(t) ──► carried_bits(start, end) ──► finish(start, bits)          any Rate
                                              │
 idle: tokens up to the burst ──► Carrier.finish(start, bytes)        departure of a packet
```

Times are seconds on the clock of `now`; a rate that varies counts from its own origin. Whoever asks late, or often,
gets the same answers.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, Protocol, TypeAlias

MIN_RATE_BPS: Final = 1.0
"""The slowest rate but 0: less would carry nothing in any time that a link is used for."""

MAX_RATE_BPS: Final = 1e12

OPPORTUNITY_BITS: Final = 12_000
"""What one delivery opportunity of a mahimahi trace carries: a packet of 1,500 bytes."""

_SLACK_BITS: Final = 1e-6
"""Rounding that must not push the last bit of a packet beyond a stretch without rate."""

_SLACK_MS: Final = 1e-6
"""Rounding of a clock: an opportunity at this time has passed."""


Finish: TypeAlias = tuple[float, float]
"""When some bits have been carried, infinity where that never happens; and the bits that were carried at that very
instant beyond those asked for: the rest of a delivery opportunity. No class: one is made for every packet."""


class Rate(Protocol):
    """A bit rate over time."""

    @property
    def mean_bps(self) -> float:
        """Bits per second in the long run."""

    def rate_bps(self, now: float) -> float:
        """Bits per second at a time."""

    def carried_bits(self, start_s: float, end_s: float) -> float:
        """Bits after start_s up to and with end_s."""

    def finish(self, start_s: float, bits: float) -> Finish:
        """When `bits`, above 0, have been carried that begin at start_s."""


class ConstantRate:
    """The same rate for ever; 0 carries nothing."""

    def __init__(self, rate_bps: float) -> None:
        self._rate_bps = rate_bps

    @property
    def mean_bps(self) -> float:
        """The rate."""
        return self._rate_bps

    def rate_bps(self, now: float) -> float:  # noqa: ARG002 - the same at any time
        """The rate."""
        return self._rate_bps

    def carried_bits(self, start_s: float, end_s: float) -> float:
        """See Rate."""
        return (end_s - start_s) * self._rate_bps

    def finish(self, start_s: float, bits: float) -> Finish:
        """See Rate."""
        return (start_s + bits / self._rate_bps if self._rate_bps else math.inf), 0.0


class LoopedRate:
    """A rate that is constant between breakpoints, over and over.

    Args:
        points: (seconds, bits per second); the first at 0, rising; a rate holds until the next point.
        period_s: when it begins again, after the last point; something is carried in it.
        origin_s: the time of the first point.
    """

    def __init__(self, points: Sequence[tuple[float, float]], period_s: float, origin_s: float) -> None:
        self._starts = [start_s for start_s, _ in points]
        self._rates = [rate for _, rate in points]
        ends = [*self._starts[1:], period_s]
        pieces = [rate * (end - start) for start, end, rate in zip(self._starts, ends, self._rates, strict=True)]
        self._bits = list(accumulate(pieces, initial=0.0))  # carried by each point, and by the end
        self._period_s, self._origin_s = period_s, origin_s

    @property
    def mean_bps(self) -> float:
        """Over one period."""
        return self._bits[-1] / self._period_s

    def rate_bps(self, now: float) -> float:
        """See Rate."""
        _, rest_s = divmod(now - self._origin_s, self._period_s)
        return self._rates[bisect_right(self._starts, rest_s) - 1]

    def carried_bits(self, start_s: float, end_s: float) -> float:
        """See Rate."""
        first, start_bits = self._place(start_s)
        last, end_bits = self._place(end_s)
        return (last - first) * self._bits[-1] + end_bits - start_bits

    def finish(self, start_s: float, bits: float) -> Finish:
        """See Rate."""
        period, start_bits = self._place(start_s)
        more, target = divmod(start_bits + bits, self._bits[-1])
        if target <= _SLACK_BITS and more:  # the end of a period rather than the beginning of the next
            more, target = more - 1, self._bits[-1]
        return max(start_s, self._origin_s + (period + more) * self._period_s + self._time_of(target)), 0.0

    def _place(self, at_s: float) -> tuple[float, float]:
        """The number of the period, and what was carried in it."""
        period, rest_s = divmod(at_s - self._origin_s, self._period_s)
        piece = bisect_right(self._starts, rest_s) - 1
        return period, self._bits[piece] + (rest_s - self._starts[piece]) * self._rates[piece]

    def _time_of(self, bits: float) -> float:
        """The earliest time in a period by which so much is carried."""
        piece = max(bisect_left(self._bits, bits - _SLACK_BITS) - 1, 0)
        if not self._rates[piece]:
            return self._starts[piece]
        return self._starts[piece] + (bits - self._bits[piece]) / self._rates[piece]


class OpportunityRate:
    """Delivery opportunities of 1,500 bytes, over and over, as mahimahi's link emulator reads them.

    A packet departs at the opportunity that carries its last byte. What is left of an opportunity goes to the
    packets that wait behind it at that instant, or is lost.

    Args:
        times_ms: when, in milliseconds, not falling; several at one time carry several packets. The last, above 0,
            is the period too.
        origin_s: the time of 0 ms.
    """

    def __init__(self, times_ms: Sequence[int], origin_s: float) -> None:
        self._times_ms = times_ms
        self._origin_s = origin_s

    @property
    def mean_bps(self) -> float:
        """Over one period."""
        return 1_000 * len(self._times_ms) * OPPORTUNITY_BITS / self._times_ms[-1]

    def rate_bps(self, now: float) -> float:
        """The mean of the 100 ms that follow: at one instant there is an opportunity, or none."""
        return self.carried_bits(now, now + 0.1) / 0.1

    def carried_bits(self, start_s: float, end_s: float) -> float:
        """See Rate."""
        return OPPORTUNITY_BITS * (self._passed(end_s) - self._passed(start_s))

    def finish(self, start_s: float, bits: float) -> Finish:
        """See Rate."""
        needed = math.ceil(bits / OPPORTUNITY_BITS)
        period, place = divmod(self._passed(start_s) + needed - 1, len(self._times_ms))
        at_ms = period * self._times_ms[-1] + self._times_ms[place]
        return self._origin_s + at_ms / 1_000, needed * OPPORTUNITY_BITS - bits

    def _passed(self, at_s: float) -> int:
        """How many opportunities there were up to and with a time."""
        at_ms = (at_s - self._origin_s) * 1_000 + _SLACK_MS
        period, rest_ms = divmod(at_ms, self._times_ms[-1])
        return int(period) * len(self._times_ms) + bisect_right(self._times_ms, rest_ms)


class ThenRate:
    """One rate up to a time, and another one from then on."""

    def __init__(self, first: Rate, until_s: float, then: Rate) -> None:
        self._first, self._until_s, self._then = first, until_s, then

    @property
    def mean_bps(self) -> float:
        """That of the first: what the link is meant to be like."""
        return self._first.mean_bps

    def rate_bps(self, now: float) -> float:
        """See Rate."""
        return (self._first if now < self._until_s else self._then).rate_bps(now)

    def carried_bits(self, start_s: float, end_s: float) -> float:
        """See Rate."""
        middle_s = min(max(start_s, self._until_s), end_s)
        before = self._first.carried_bits(start_s, middle_s) if start_s < middle_s <= self._until_s else 0.0
        return before + (self._then.carried_bits(middle_s, end_s) if end_s > self._until_s else 0.0)

    def finish(self, start_s: float, bits: float) -> Finish:
        """See Rate."""
        if start_s < self._until_s:
            first = self._first.finish(start_s, bits)
            if first[0] <= self._until_s:
                return first
            bits -= self._first.carried_bits(start_s, self._until_s)
            start_s = self._until_s
        return self._then.finish(start_s, bits)


class Carrier:
    """Carries one packet after another at a rate, with a token bucket for what the idle link saved.

    While the link is idle, tokens gather at the rate, up to the burst; a packet of L bytes departs as soon as the
    tokens, and what the link carries from its start on, make up L. With a burst of 0 that is
    `start + 8 L / rate`; otherwise it is the kernel's token bucket filter without a peak rate. The bucket is full
    at the beginning.

    Args:
        rate: what the link carries.
        burst_bytes: the bucket, 0 or more.
        now: when it begins.
    """

    def __init__(self, rate: Rate, burst_bytes: int, now: float) -> None:
        self.rate = rate
        self._burst_bits = 8.0 * burst_bytes
        self._tokens_bits = self._burst_bits
        self._start_s = self._free_s = now
        self._needed_bits = 0.0

    def finish(self, start_s: float, size_bytes: int) -> float:
        """When a packet has been carried that is begun at start_s, not before the previous one was."""
        if start_s > self._free_s:
            self._save(start_s)
        self._start_s = start_s
        self._needed_bits = 8 * size_bytes - self._tokens_bits
        return self._carry(start_s)

    def change(self, rate: Rate, burst_bytes: int, now: float, *, busy: bool) -> float:
        """Goes on with another rate and bucket.

        Returns:
            When the packet in service, if the link is busy, will have been carried.
        """
        if busy:
            if self._needed_bits > 0:
                self._needed_bits -= self.rate.carried_bits(self._start_s, now)
            self._tokens_bits = 0.0
        elif now > self._free_s:
            self._save(now)
        self.rate, self._burst_bits = rate, 8.0 * burst_bytes
        self._tokens_bits = min(self._tokens_bits, self._burst_bits)
        self._start_s = self._free_s = now
        return self._carry(now) if busy else math.inf

    def abandon(self, now: float) -> None:
        """Gives up the packet in service."""
        self._tokens_bits = 0.0
        self._free_s = now

    def _carry(self, start_s: float) -> float:
        if self._needed_bits > 0:
            at_s, self._tokens_bits = self.rate.finish(start_s, self._needed_bits)
        else:
            at_s, self._tokens_bits = start_s, -self._needed_bits
        self._free_s = at_s
        return at_s

    def _save(self, until_s: float) -> None:
        saved = self.rate.carried_bits(self._free_s, until_s) if self._burst_bits else 0.0
        self._tokens_bits = min(self._tokens_bits + saved, self._burst_bits)
        self._free_s = until_s
