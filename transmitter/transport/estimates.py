"""What is believed of the link: rate, losses and round trip, each from its own evidence, all forgetting slowly."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from transmitter.transport.contract import LinkEstimate

MIN_RATE_BPS: Final = 8.0
"""A rate is believed to be at least this; nothing divides by less."""

PRIOR_LOST: Final = 0.5
PRIOR_ARRIVED: Final = 9.5
"""Beta prior of the loss rate, in packets: 5 % expected, in one case of ten more than a seventh."""

PRIOR_BURST: Final = 1.5
"""Mean length of a row of losses, before there was one: losses come in rows more often than not."""

_NORMAL_90: Final = 1.2816
_MEMORY_S: Final = 0.7  # time constant of the rate
_MOMENT_S: Final = 0.15  # and of what it is like just now
_FIRST_S: Final = 0.02  # for how long a belief counts among the last moments
_JUMP: Final = 1.6  # by this factor, seen for so long, a rate has changed for good
_JUMP_S: Final = 0.08
_JUMP_MOMENT_S: Final = 0.05  # time constant while it does
_SETTLING_S: Final = 0.15  # how long that takes
_CHUNK_S: Final = 0.1  # over which the spread of the rate is taken
_SPREAD_MEMORY: Final = 10.0  # chunks
_MOST_CASES: Final = 2_000.0  # that a belief counts for


class RateMeter:
    """The rate at which the link carries what waits for it: bytes over busy seconds, older ones counting less.

    Args:
        rate_bps: what is believed at first.
        spread: its standard deviation over its mean.
        weight_s: for how many busy seconds that stands.
    """

    def __init__(self, rate_bps: float, spread: float, weight_s: float) -> None:
        self._bits, self._seconds = rate_bps * weight_s, weight_s
        self._recent_s = min(weight_s, _FIRST_S)
        self._recent_bits = rate_bps * self._recent_s
        self._spread2, self._chunks = spread**2, 1.0
        self._strayed2 = self._strayed_s = 0.0
        self._chunk_bits = self._chunk_s = self._settling_s = 0.0
        self.busy_s = 0.0
        """How long it was watched."""

    @property
    def rate_bps(self) -> float:
        """Bits per second, by what is complete."""
        return max(self._bits / self._seconds, MIN_RATE_BPS)

    @property
    def settles(self) -> bool:
        """Whether the rate has just jumped, and is not well known yet."""
        return self._settling_s > 0

    @property
    def spread(self) -> float:
        """Standard deviation of the rate over tenths of a second, over its mean."""
        return math.sqrt(self._spread2)

    @property
    def seen_spread(self) -> float:
        """The same of what was seen alone; what is believed, as long as nothing was."""
        return math.sqrt(self._strayed2 / self._strayed_s) if self._strayed_s else self.spread

    def rate_with(self, size: int, waiting_s: float) -> float:
        """Bits per second, if a packet of so many bytes has been on the link for so long, and departed now."""
        if 8 * size >= self.rate_bps * waiting_s:
            return self.rate_bps
        return max(_mixed(self._bits, self._seconds, 8 * size, waiting_s, _MEMORY_S), MIN_RATE_BPS)

    def recent_bps(self, size: int, waiting_s: float) -> float:
        """The same of the last moments alone, where that is less."""
        recent_bps = self._recent_bits / self._recent_s
        if 8 * size < recent_bps * waiting_s:
            recent_bps = _mixed(self._recent_bits, self._recent_s, 8 * size, waiting_s, _MOMENT_S)
        return max(min(recent_bps, self.rate_with(size, waiting_s)), MIN_RATE_BPS)

    def saw(self, size: int, seconds: float) -> None:
        """So many bytes were carried in so many seconds, with more waiting all the time."""
        if seconds <= 0:
            return
        fade = math.exp(-seconds / _MEMORY_S)
        self._bits = self._bits * fade + 8 * size
        self._seconds = self._seconds * fade + seconds
        fade = math.exp(-seconds / (_JUMP_MOMENT_S if self.settles else _MOMENT_S))
        self._recent_bits = self._recent_bits * fade + 8 * size
        self._recent_s = self._recent_s * fade + seconds
        self._follow_jump(seconds)
        self.busy_s += seconds
        self._chunk_bits += 8 * size
        self._chunk_s += seconds
        if self._chunk_s >= _CHUNK_S:
            self._end_chunk()

    def saw_at_least(self, size: int, seconds: float) -> None:
        """So many bytes were carried although more could have been."""
        if seconds > 0 and 8 * size / seconds > self.rate_bps:
            self.saw(size, seconds)

    def saw_arrive(self, size: int, came_s: float, went_s: float, *, sole: bool) -> None:
        """So many bytes arrived within some time after they were handed over within another.

        Args:
            size: bytes, lost ones included.
            came_s: seconds between arrivals, more than 0.
            went_s: seconds between handing over; where they are more, it was not the link that took the time.
            sole: whether nothing else tells of the rate.
        """
        if went_s > came_s:
            self.saw_at_least(size, went_s)
        elif sole:
            self.saw(size, came_s)

    def _follow_jump(self, seconds: float) -> None:
        """Once the last moments are no mere fluctuation, nothing else counts for a while."""
        ratio = self._recent_bits / self._recent_s / self.rate_bps
        if self._recent_s > _JUMP_S and not 1 / _JUMP < ratio < _JUMP:
            self._settling_s = _SETTLING_S
        if self.settles:
            self._settling_s -= seconds
            self._bits, self._seconds = self._recent_bits, self._recent_s
            self._chunk_bits = self._chunk_s = 0.0

    def _end_chunk(self) -> None:
        off = self._chunk_bits / self._chunk_s / self.rate_bps - 1
        # A long chunk averages over more.
        weight = self._chunk_s / _CHUNK_S
        self._chunks = min(self._chunks + 1, _SPREAD_MEMORY)
        strayed2 = min(off * off * weight, 4.0)
        self._spread2 += (strayed2 - self._spread2) / self._chunks
        self._strayed2, self._strayed_s = self._strayed2 + strayed2 * self._chunk_s, self._strayed_s + self._chunk_s
        self._chunk_bits = self._chunk_s = 0.0


def _mixed(bits: float, seconds: float, more_bits: float, more_s: float, memory_s: float) -> float:
    fade = math.exp(-more_s / memory_s)
    return (bits * fade + more_bits) / (seconds * fade + more_s)


class LossMeter:
    """Share of lost packets, as a Beta distribution, and how they cluster.

    Losses in a row are no independent cases: with a mean length b of such rows, n packets count as n / b.

    Args:
        lost: cases that are believed at first.
        arrived: likewise.
        burst_packets: mean length of a row of losses, believed at first.
    """

    def __init__(
        self, lost: float = PRIOR_LOST, arrived: float = PRIOR_ARRIVED, burst_packets: float = PRIOR_BURST
    ) -> None:
        self._prior = (lost, arrived)
        self._burst_packets = burst_packets
        self._last_lost = -2
        self.packets = 0
        """Whose fate was seen."""
        self.lost_packets = 0
        self.bursts = 0
        """Rows of lost packets."""

    @property
    def loss_rate(self) -> float:
        """Expected share."""
        lost, arrived = self._cases()
        return lost / (lost + arrived)

    @property
    def loss_at_most(self) -> float:
        """Exceeded in one case of ten."""
        return upper_bound(*self._cases())

    @property
    def burst_packets(self) -> float:
        """Mean length of a row of lost packets."""
        return mean_burst(self.lost_packets, self.bursts, self._burst_packets)

    def _cases(self) -> tuple[float, float]:
        lost, arrived = self._prior
        burst = self.burst_packets
        return lost + self.lost_packets / burst, arrived + (self.packets - self.lost_packets) / burst

    def saw(self, arrived: int, lost_orders: Iterable[int]) -> None:
        """Takes fates.

        Args:
            arrived: number of packets that did.
            lost_orders: of those that did not, by the order of handing over, rising.
        """
        for order in lost_orders:
            self.lost_packets += 1
            self.packets += 1
            self.bursts += order != self._last_lost + 1
            self._last_lost = order
        self.packets += arrived

    def were_not_lost(self, packets: int) -> None:
        """So many packets that were taken for lost have arrived."""
        self.lost_packets = max(self.lost_packets - packets, 0)


def mean_burst(lost: float, bursts: float, believed: float = PRIOR_BURST) -> float:
    """Mean length of a row of lost packets, where one such row was believed in before."""
    return max((lost + believed) / (bursts + 1), 1.0)


def upper_bound(lost: float, arrived: float) -> float:
    """The 90 % point of a loss rate, by Wilson and Hilferty's approximation of the gamma distribution.

    Args:
        lost: independent cases, with those of the prior.
        arrived: likewise.
    """
    root = 1 - 1 / (9 * lost) + _NORMAL_90 / (3 * math.sqrt(lost))
    return min(max(lost * root**3, lost) / (lost + arrived), 1.0)


class RoundTrip:
    """Least time from handing over to hearing of it, and the offset of the receiver's clock.

    Args:
        round_trip_s: what is believed at first.
        sure: whether that was measured rather than claimed.
    """

    def __init__(self, round_trip_s: float, *, sure: bool = False) -> None:
        self._first_s = round_trip_s
        self._least_s = round_trip_s if sure else math.inf
        self.smoothed_s = round_trip_s
        """Mean of late, with the queue."""
        self.deviation_s = round_trip_s / 4
        self.offset_s: float | None = None
        """Least of the receiver's clock at an arrival over ours at handing over."""

    @property
    def least_s(self) -> float:
        """Without the queue."""
        return self._least_s if self._least_s < math.inf else self._first_s

    def saw(self, seconds: float) -> None:
        """A packet took so long until it was heard of, less what the receiver waited."""
        seconds = max(seconds, 1e-6)
        self._least_s = min(seconds, self._least_s)
        self.deviation_s += (abs(seconds - self.smoothed_s) - self.deviation_s) / 4
        self.smoothed_s += (seconds - self.smoothed_s) / 8

    def saw_offset(self, seconds: float) -> None:
        """The receiver's clock was ahead of ours by so much and the delay."""
        self.offset_s = seconds if self.offset_s is None else min(self.offset_s, seconds)

    def begin_again(self) -> None:
        """The receiver may have another clock."""
        self.offset_s = None


@dataclass(frozen=True)
class LinkEvidence:
    """What one transmission learnt of the link, for those after it."""

    rate_bps: float
    rate_spread: float
    busy_s: float
    """For how long the rate was watched."""
    packets: int
    """Whose fate was seen."""
    lost_packets: int
    bursts: int
    """Rows of lost packets."""
    round_trip_s: float | None
    """The least; None if none was measured."""


@dataclass
class Meters:
    """The three together."""

    rate: RateMeter
    loss: LossMeter
    round_trip: RoundTrip
    measured_round_trip: bool = False

    @classmethod
    def of(cls, link: LinkEstimate) -> "Meters":
        """Beginning with what is believed."""
        rate = RateMeter(max(link.rate_bps, MIN_RATE_BPS), link.rate_spread, _weight_s(link))
        lost, arrived = cases_of(link)
        return cls(rate, LossMeter(lost, arrived, link.burst_packets), RoundTrip(link.round_trip_s))

    def estimate(self, size: int = 0, waiting_s: float = 0.0) -> LinkEstimate:
        """What they say, if a packet of so many bytes has been on the link for some time."""
        loss, rate = self.loss, self.rate
        return LinkEstimate(
            rate.rate_with(size, waiting_s),
            rate.spread,
            loss.loss_rate,
            loss.loss_at_most,
            loss.burst_packets,
            self.round_trip.least_s,
        )

    def evidence(self) -> LinkEvidence:
        """What was seen rather than believed."""
        loss, rate = self.loss, self.rate
        round_trip_s = self.round_trip.least_s if self.measured_round_trip else None
        return LinkEvidence(
            rate.rate_bps, rate.seen_spread, rate.busy_s, loss.packets, loss.lost_packets, loss.bursts, round_trip_s
        )


def _weight_s(link: LinkEstimate) -> float:
    """For how many seconds a believed rate stands: shorter where it moves a lot."""
    return min(max(0.02 / max(link.rate_spread, 0.01) ** 2, 0.05), 0.5)


def cases_of(link: LinkEstimate) -> tuple[float, float]:
    """(lost, arrived) of the Beta distribution with about this mean and 90 % point."""
    mean = min(max(link.loss_rate, 1e-5), 0.99)
    low, high = PRIOR_LOST + PRIOR_ARRIVED, _MOST_CASES
    for _ in range(30):
        total = math.sqrt(low * high)
        if upper_bound(mean * total, (1 - mean) * total) > link.loss_at_most:
            low = total
        else:
            high = total
    return mean * low, (1 - mean) * low
