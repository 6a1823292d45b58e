"""What the link is like, checked."""

from dataclasses import dataclass
from typing import Final

from shared.errors import InvalidInputError

MIN_RATE_BPS: Final = 1.0
MAX_RATE_BPS: Final = 1e12
MAX_PROPAGATION_S: Final = 3_600.0

MIN_QUEUE_BYTES: Final = 1_500
"""Smallest queue: a smaller one would hold no packet of ordinary size, and its sender would wait for ever."""

MAX_QUEUE_BYTES: Final = 2**30


@dataclass(frozen=True)
class LinkSettings:
    """What the link is like.

    Raises:
        InvalidInputError: a value is out of range; the error names it.
    """

    rate_bps: float = 1_000_000.0
    """Bits per second, 1 to 1e12."""

    propagation_s: float = 0.02
    """One-way delay in seconds, each direction, 0 to 3,600."""

    queue_bytes: int = 65_536
    """Bytes that may wait or be in service, per stream, 1,500 to 2**30."""

    loss_rate: float = 0.0
    """Probability that a packet is lost after it took its time on the link, 0 to 1."""

    seed: int = 0
    """Seeds the losses, 0 to 2**64 - 1."""

    def __post_init__(self) -> None:
        _check("rate_bps", self.rate_bps, MIN_RATE_BPS, MAX_RATE_BPS)
        _check("propagation_s", self.propagation_s, 0.0, MAX_PROPAGATION_S)
        _check("queue_bytes", self.queue_bytes, MIN_QUEUE_BYTES, MAX_QUEUE_BYTES)
        _check("loss_rate", self.loss_rate, 0.0, 1.0)
        _check("seed", self.seed, 0, 2**64 - 1)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # not so for NaN either
        raise InvalidInputError(name, f"{value!r} is not in {low:,g} to {high:,g}")
