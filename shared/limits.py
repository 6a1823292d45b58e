"""How many calls a service takes at once and per second, in all and from one peer. Pure: time comes from outside."""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shared.errors import BusyError, InvalidInputError

RETRY_S: Final = 1.0
"""What is told to a caller who found all places taken: nobody knows when one becomes free."""

RELAYING_RPCS: Final = 128
"""Calls at once of a service behind the transmitter: what that one took in is to find a place here, beside the calls
that only ask."""

BURST_S: Final = 2.0
"""A peer that was silent may make the calls of this many seconds at once."""

MAX_PEERS: Final = 4_096
"""Peers whose rates are remembered; of more, the longest unseen is forgotten."""


@dataclass(frozen=True)
class RpcLimits:
    """What a service takes.

    Raises:
        InvalidInputError: a number is out of its range.
    """

    total: int = 64
    """Calls at once from all peers together, at least 1."""

    per_peer: int = 0
    """Calls at once from one peer; 0 sets no limit besides `total`."""

    per_peer_rate: float = 0.0
    """New calls per second from one peer, with bursts of BURST_S; 0 sets no limit."""

    def __post_init__(self) -> None:
        if self.total < 1:
            raise InvalidInputError("max_rpcs", f"{self.total} is not at least 1")
        if self.per_peer < 0:
            raise InvalidInputError("peer_rpcs", f"{self.per_peer} is negative")
        if not (math.isfinite(self.per_peer_rate) and self.per_peer_rate >= 0):
            raise InvalidInputError("peer_rate", f"{self.per_peer_rate} is not a number of calls per second")


class Limit(Enum):
    """Which limit a call would have exceeded; the values are a metric's labels."""

    TOTAL = "concurrency"
    PER_PEER = "peer_concurrency"
    PER_PEER_RATE = "peer_rate"


class LimitError(BusyError):
    """A call that a limit keeps out.

    Args:
        limit: which one.
        message: in words for a person.
        retry_s: seconds after which another try makes sense.
    """

    def __init__(self, limit: Limit, message: str, retry_s: float) -> None:
        super().__init__(message, retry_s)
        self.limit = limit


class TokenBucket:
    """Lets `rate` things pass per second on average, and at most `burst` at once.

    Args:
        rate: per second, above 0.
        burst: at least 1.
        now_s: the time, in seconds of a monotonic clock; the bucket is full then.
    """

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate, self._burst = rate, burst
        self._level, self._at_s = burst, now_s

    def take(self, now_s: float) -> float:
        """Takes one, if there is one.

        Returns:
            0 if it was there, else the seconds after which it will be.
        """
        self._level = min(self._burst, self._level + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


class Admission:
    """Counts the calls that run, and keeps out those that would be too many.

    Args:
        limits: what may run.
    """

    def __init__(self, limits: RpcLimits) -> None:
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self.active = 0
        """Calls that run."""

    @contextmanager
    def admitted(self, peer: str, now_s: float) -> Iterator[None]:
        """Holds a place for a call while the context lasts.

        Args:
            peer: who calls.
            now_s: seconds of a monotonic clock.

        Raises:
            LimitError: there is no place.
        """
        self._check(peer, now_s)
        self.active += 1
        self._running[peer] += 1
        try:
            yield
        finally:
            self.active -= 1
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]

    def _check(self, peer: str, now_s: float) -> None:
        limits = self._limits
        if self.active >= limits.total:
            raise LimitError(Limit.TOTAL, f"all {limits.total} places are taken", RETRY_S)
        if limits.per_peer and self._running[peer] >= limits.per_peer:
            raise LimitError(Limit.PER_PEER, f"a peer may have {limits.per_peer} calls at once", RETRY_S)
        if limits.per_peer_rate and (wait_s := self._bucket(peer, now_s).take(now_s)):
            message = f"a peer may make {limits.per_peer_rate:g} calls per second"
            raise LimitError(Limit.PER_PEER_RATE, message, wait_s)

    def _bucket(self, peer: str, now_s: float) -> TokenBucket:
        rate = self._limits.per_peer_rate
        bucket = self._buckets.setdefault(peer, TokenBucket(rate, max(1.0, rate * BURST_S), now_s))
        self._buckets.move_to_end(peer)
        if len(self._buckets) > MAX_PEERS:
            self._buckets.popitem(last=False)
        return bucket
