"""What the link is like, checked."""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from channel_emulator.checks import check_range
from channel_emulator.fading import Fading, FadingRate
from channel_emulator.impairments import Impairments
from channel_emulator.rates import MAX_RATE_BPS, MIN_RATE_BPS, ConstantRate, LoopedRate, Rate, ThenRate
from channel_emulator.replay import LEAST_STEP_S, Trace, check_points
from shared.errors import InvalidInputError

MAX_PROPAGATION_S: Final = 3_600.0

MIN_QUEUE_BYTES: Final = 1_500
"""Smallest queue: a smaller one would hold no packet of ordinary size, and its sender would wait for ever."""

MAX_QUEUE_BYTES: Final = 2**30
MAX_QUEUE_S: Final = 3_600.0
MAX_PERIOD_S: Final = 1e9


@dataclass(frozen=True)
class Schedule:
    """A rate that changes at given times.

    Raises:
        InvalidInputError: the points do not begin at 0, do not rise, or carry nothing.
    """

    points: tuple[tuple[float, float], ...]
    """(seconds since it was set, bits per second); the first at 0, rising; 0 bits per second is an outage."""

    period_s: float = 0.0
    """After how many seconds it begins again, more than the last point's; 0: the last rate stays."""

    def __post_init__(self) -> None:
        check_points("points", list(self.points))
        if self.period_s:
            check_range("period_s", self.period_s, 0.0, MAX_PERIOD_S)
            if self.period_s < self.points[-1][0] + LEAST_STEP_S:
                raise InvalidInputError("period_s", "not after the last point")

    def rate(self, origin_s: float) -> Rate:
        """The schedule from a time on."""
        if self.period_s:
            return LoopedRate(self.points, self.period_s, origin_s)
        last_s, last_bps = self.points[-1]
        last = ConstantRate(last_bps)
        if not any(rate_bps for _, rate_bps in self.points[:-1]):
            return ThenRate(ConstantRate(0.0), origin_s + last_s, last) if last_s else last
        return ThenRate(LoopedRate(self.points[:-1], last_s, origin_s), origin_s + last_s, last)


@dataclass(frozen=True)
class Replay:
    """A trace that is played."""

    trace: Trace

    once: bool = False
    """Whether the link goes on at rate_bps after the trace's end, rather than from its beginning."""


RateModel: TypeAlias = Schedule | Replay | Fading


@dataclass(frozen=True)
class LinkSettings:
    """What one direction of the link is like.

    Raises:
        InvalidInputError: a value is out of range; the error names it.
    """

    rate_bps: float = 1_000_000.0
    """Bits per second, 1 to 1e12. With a model, what the link is said to carry, which senders may ask for."""

    propagation_s: float = 0.02
    """One-way delay in seconds, each direction, 0 to 3,600."""

    queue_bytes: int = 65_536
    """Bytes that may wait or be in service, per stream, 1,500 to 2**30."""

    loss_rate: float = 0.0
    """Probability that a packet is lost after it took its time on the link, 0 to 1."""

    seed: int = 0
    """Seeds everything random, 0 to 2**64 - 1."""

    burst_bytes: int = 0
    """Token bucket: what an idle link saves up and then carries at once, 0 to 2**30."""

    queue_s: float = 0.0
    """Queue as time: what the link is going to carry in so many seconds may wait, per stream, and queue_bytes in
    any case; 0 to 3,600; 0: queue_bytes alone."""

    per_stream: bool = False
    """Whether each stream has a link of its own like this one, from its opening on, rather than a part of one."""

    model: RateModel | None = None
    """How the rate varies; None: rate_bps always."""

    impairments: Impairments = field(default_factory=Impairments)
    """What goes wrong on the link, for all its streams together."""

    stream_impairments: Impairments = field(default_factory=Impairments)
    """What goes wrong beyond that for each stream, by itself and independently of the others."""

    def __post_init__(self) -> None:
        check_range("rate_bps", self.rate_bps, MIN_RATE_BPS, MAX_RATE_BPS)
        check_range("propagation_s", self.propagation_s, 0.0, MAX_PROPAGATION_S)
        check_range("queue_bytes", self.queue_bytes, MIN_QUEUE_BYTES, MAX_QUEUE_BYTES)
        check_range("loss_rate", self.loss_rate, 0.0, 1.0)
        check_range("seed", self.seed, 0, 2**64 - 1)
        check_range("burst_bytes", self.burst_bytes, 0, MAX_QUEUE_BYTES)
        check_range("queue_s", self.queue_s, 0.0, MAX_QUEUE_S)

    def rate(self, name: str, origin_s: float) -> Rate:
        """The rate over time.

        Args:
            name: whose rate it is, for the random sequence.
            origin_s: when the model begins.
        """
        if self.model is None:
            return ConstantRate(self.rate_bps)
        if isinstance(self.model, Fading):
            return FadingRate(self.model, f"{self.seed}/{name}/fading", origin_s)
        if isinstance(self.model, Schedule):
            return self.model.rate(origin_s)
        replayed = self.model.trace.rate(origin_s)
        if not self.model.once:
            return replayed
        return ThenRate(replayed, origin_s + self.model.trace.period_s, ConstantRate(self.rate_bps))
