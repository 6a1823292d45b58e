"""What goes wrong with packets once they have left the queue: one process each, all seeded, none with a clock.

```
packet at its departure ─► blackout? lost? Gilbert-Elliott? burst? ─► flipped bits ─► twice? ─► jitter, held back?
                                       │ any of them: lost
```

Every process has a random sequence of its own and draws once for every packet, whatever the others do to it, so
that turning one on or changing its rate leaves the fates that the others deal as they were.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple

from channel_emulator.checks import check_range
from shared.errors import InvalidInputError

MAX_DELAY_S: Final = 60.0
MAX_BURST_PACKETS: Final = 1_000_000
MAX_BLACKOUTS: Final = 10_000
MAX_TIME_S: Final = 1e9


@dataclass(frozen=True)
class GilbertElliott:
    """Losses in a good and a bad state; the chain steps once per packet, before that packet is judged.

    The bad state holds for a part good_to_bad / (good_to_bad + bad_to_good) of the packets, and for
    1 / bad_to_good packets at a time.
    """

    good_to_bad: float = 0.0
    """Probability of a step from good to bad, 0 to 1."""

    bad_to_good: float = 0.0
    """Probability of a step from bad to good, 0 to 1."""

    good_loss_rate: float = 0.0
    """Probability of a loss in the good state, 0 to 1."""

    bad_loss_rate: float = 0.0
    """Probability of a loss in the bad state, 0 to 1."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_range(name, value, 0.0, 1.0)


@dataclass(frozen=True)
class Blackouts:
    """Intervals in which everything that departs is lost."""

    intervals_s: tuple[tuple[float, float], ...] = ()
    """(begin, end) in seconds since the blackouts were set; the end is not part of it. Rising, apart."""

    period_s: float = 0.0
    """After how many seconds they come again, at least the last end; 0: never."""

    def __post_init__(self) -> None:
        check_range("period_s", self.period_s, 0.0, MAX_TIME_S)
        if len(self.intervals_s) > MAX_BLACKOUTS:
            raise InvalidInputError("intervals", f"more than {MAX_BLACKOUTS:,}")
        times_s = [time_s for interval in self.intervals_s for time_s in interval]
        for earlier_s, later_s in zip([0.0, *times_s], [*times_s, MAX_TIME_S], strict=True):
            if not earlier_s <= later_s:
                raise InvalidInputError("intervals", "not rising, or below 0")
        if self.period_s and times_s and self.period_s < times_s[-1]:
            raise InvalidInputError("period_s", "shorter than the last interval's end")

    def cover(self, elapsed_s: float) -> bool:
        """Whether there is a blackout at a time since they were set."""
        if self.period_s:
            elapsed_s %= self.period_s
        later = bisect_right(self.intervals_s, elapsed_s, key=itemgetter(0))
        return later > 0 and elapsed_s < self.intervals_s[later - 1][1]


@dataclass(frozen=True)
class Impairments:
    """What goes wrong; the default is nothing.

    Raises:
        InvalidInputError: a value is out of range; the error names it.
    """

    loss_rate: float = 0.0
    """Probability that a packet is lost, each by itself, 0 to 1."""

    gilbert_elliott: GilbertElliott = field(default_factory=GilbertElliott)
    """Losses that cluster."""

    burst_rate: float = 0.0
    """Probability that a packet outside a burst is the first of one, 0 to 1."""

    burst_packets: int = 0
    """How many packets in a row a burst takes away, 0 to 1,000,000."""

    bit_error_rate: float = 0.0
    """Probability that a bit is flipped, each by itself, 0 to 0.5."""

    duplicate_rate: float = 0.0
    """Probability that a packet arrives twice, 0 to 1."""

    reorder_rate: float = 0.0
    """Probability that a packet is held back while others overtake it, 0 to 1."""

    reorder_s: float = 0.0
    """For how long it is held back, 0 to 60 s."""

    jitter_s: float = 0.0
    """A packet is late by up to this, evenly distributed, 0 to 60 s; by itself this reorders nothing."""

    blackouts: Blackouts = field(default_factory=Blackouts)
    """When the link is cut."""

    def __post_init__(self) -> None:
        for name in ("loss_rate", "burst_rate", "duplicate_rate", "reorder_rate"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        check_range("bit_error_rate", self.bit_error_rate, 0.0, 0.5)
        check_range("burst_packets", self.burst_packets, 0, MAX_BURST_PACKETS)
        check_range("reorder_s", self.reorder_s, 0.0, MAX_DELAY_S)
        check_range("jitter_s", self.jitter_s, 0.0, MAX_DELAY_S)


class Copy(NamedTuple):
    """What becomes of a packet that is not lost."""

    packet: bytes
    late_s: float = 0.0
    """Later than without impairments by this."""
    held_s: float = 0.0
    """Held back by this beyond that, while others overtake it."""


Numbers = Callable[[str], random.Random]
"""The random sequence of a process, by its name."""


class Impairer:
    """Deals the fates.

    Args:
        settings: what goes wrong.
        numbers: gives each process its random sequence.
        now: when the blackouts begin to count.
    """

    def __init__(self, settings: Impairments, numbers: Numbers, now: float) -> None:
        self._settings, self._origin_s = settings, now
        self.acts = settings != Impairments()
        """Whether anything goes wrong at all."""
        self._draws = {name: numbers(name).random for name in _PROCESSES}
        self._bad = False
        self._burst_left = 0
        self._clean_bits = self._gap() if settings.bit_error_rate else 0

    def change(self, settings: Impairments, now: float) -> None:
        """Goes on with other settings and the same random sequences; blackouts that changed count from `now`."""
        if settings.blackouts != self._settings.blackouts:
            self._origin_s = now
        flips = settings.bit_error_rate != self._settings.bit_error_rate
        self._settings, self.acts = settings, settings != Impairments()
        if flips and settings.bit_error_rate:
            self._clean_bits = self._gap()

    def apply(self, packet: bytes, at_s: float) -> list[Copy]:
        """What arrives of a packet that departs at at_s, which does not go back: nothing, one copy, or two."""
        settings = self._settings
        lost = [
            settings.blackouts.cover(at_s - self._origin_s),
            self._happens("loss", settings.loss_rate),
            self._clustered(settings.gilbert_elliott),
            self._in_burst(),
        ]
        packet = self._flip(packet) if settings.bit_error_rate else packet
        copies = 2 if self._happens("duplicate", settings.duplicate_rate) else 1
        late_s = settings.jitter_s * self._draws["jitter"]()
        held_s = settings.reorder_s if self._happens("reorder", settings.reorder_rate) else 0.0
        return [] if any(lost) else [Copy(packet, late_s, held_s)] * copies

    def _happens(self, process: str, probability: float) -> bool:
        return self._draws[process]() < probability

    def _clustered(self, chain: GilbertElliott) -> bool:
        step, judge = self._draws["state"](), self._draws["gilbert_elliott"]()
        self._bad = step >= chain.bad_to_good if self._bad else step < chain.good_to_bad
        return judge < (chain.bad_loss_rate if self._bad else chain.good_loss_rate)

    def _in_burst(self) -> bool:
        begins = self._happens("burst", self._settings.burst_rate)
        if not self._burst_left and begins:
            self._burst_left = self._settings.burst_packets
        if not self._burst_left:
            return False
        self._burst_left -= 1
        return True

    def _flip(self, packet: bytes) -> bytes:
        """Flips each bit with the probability: the bits between two flips are geometrically distributed."""
        bits = 8 * len(packet)
        if self._clean_bits >= bits:
            self._clean_bits -= bits
            return packet
        flipped, place = bytearray(packet), self._clean_bits
        while place < bits:
            flipped[place // 8] ^= 0x80 >> (place % 8)
            place += 1 + self._gap()
        self._clean_bits = place - bits
        return bytes(flipped)

    def _gap(self) -> int:
        """How many bits stay as they are until the next flip."""
        gap = math.log1p(-self._draws["bit_error"]()) / math.log1p(-self._settings.bit_error_rate)
        return int(min(gap, _MOST_CLEAN_BITS))


_MOST_CLEAN_BITS: Final = 2.0**62
"""More than any link carries; rates like 1e-320 would ask for infinitely many."""

_PROCESSES: Final = (
    "loss",
    "state",
    "gilbert_elliott",
    "burst",
    "bit_error",
    "duplicate",
    "jitter",
    "reorder",
)
