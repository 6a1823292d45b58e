"""What a transmitter remembers of the channel from one transmission to the next, fading with time."""

import math
from typing import Final

from transmitter.transport.contract import LinkEstimate
from transmitter.transport.estimates import (
    MIN_RATE_BPS,
    PRIOR_ARRIVED,
    PRIOR_LOST,
    LinkEvidence,
    mean_burst,
    upper_bound,
)

RATE_HALF_LIFE_S: Final = 15.0
LOSS_HALF_LIFE_S: Final = 600.0
ROUND_TRIP_LIFE_S: Final = 600.0

_CLAIM_S: Final = 0.3  # for how many busy seconds a claimed rate stands
_CLAIM_SPREAD: Final = 0.3
_CLAIM_SPREAD_S: Final = 0.1  # likewise; after half a second at one rate it is known to be steady
_MOST_STRAYED2: Final = 0.25
_MOST_S: Final = 2.0  # busy seconds that are remembered at most
_MOST_PACKETS: Final = 2_000.0
_LEAST_BYTES: Final = 800  # a header and a packet or two


class LinkMemory:
    """Rate, losses and round trip, learnt by transmissions that ended; belongs to one channel."""

    def __init__(self) -> None:
        self._rate_log_s = self._rate_s = self._spread2_s = 0.0
        self._rate_at_s = self._loss_at_s = self._round_trip_at_s = -math.inf
        self._packets = self._lost = self._bursts = 0.0
        self._round_trip_s = math.inf

    def estimate(
        self, claim_rate_bps: float, claim_propagation_s: float, now: float, within_s: float | None = None
    ) -> LinkEstimate:
        """What the next transmission may believe.

        Args:
            claim_rate_bps: bits per second that the link says it carries.
            claim_propagation_s: one-way delay that it says it has.
            now: on the clock of `learn`.
            within_s: seconds that the next transmission has; None: no deadline. A round trip that would leave no time
                for anything is not believed, for nothing would ever be sent that could show a shorter one.
        """
        kept = _kept(now - self._rate_at_s, RATE_HALF_LIFE_S)
        seconds = self._rate_s * kept + _CLAIM_S
        # Of rates far apart the geometric mean: a tenth of a claim a hundred times too high must not count for ten.
        claim_bps = max(claim_rate_bps, MIN_RATE_BPS)
        strayed_log_s = (self._rate_log_s - math.log(claim_bps) * self._rate_s) * kept
        claimed2_s = _CLAIM_SPREAD**2 * _CLAIM_SPREAD_S
        spread2 = (self._spread2_s * kept + claimed2_s) / (self._rate_s * kept + _CLAIM_SPREAD_S)
        rate_bps = claim_bps * math.exp(strayed_log_s / seconds)
        round_trip_s = self._round_trip(claim_propagation_s, now)
        if within_s is not None and rate_bps / 8 * (within_s - round_trip_s / 2) < _LEAST_BYTES:
            round_trip_s = min(round_trip_s, 2 * claim_propagation_s)
        return LinkEstimate(rate_bps, math.sqrt(spread2), *self._losses(now), round_trip_s)

    def forget_rate(self) -> None:
        """The link says that it has become another one: its rate and delay are learnt anew."""
        self._rate_log_s = self._rate_s = self._spread2_s = 0.0
        self._round_trip_s, self._round_trip_at_s = math.inf, -math.inf

    def learn(self, evidence: LinkEvidence, now: float) -> None:
        """Takes what a transmission saw when it ended."""
        self._learn_rate(evidence, now)
        if evidence.packets:
            self._learn_losses(evidence, now)
        if evidence.round_trip_s is not None:
            fresh = now - self._round_trip_at_s > ROUND_TRIP_LIFE_S
            self._round_trip_s = evidence.round_trip_s if fresh else min(self._round_trip_s, evidence.round_trip_s)
            self._round_trip_at_s = now if fresh else self._round_trip_at_s

    def _learn_rate(self, evidence: LinkEvidence, now: float) -> None:
        new_s = min(evidence.busy_s, _MOST_S)
        rate_log = math.log(max(evidence.rate_bps, MIN_RATE_BPS))
        kept = _kept(now - self._rate_at_s, RATE_HALF_LIFE_S)
        strayed2 = 0.0
        if self._rate_s:
            strayed2 = min((rate_log - self._rate_log_s / self._rate_s) ** 2, _MOST_STRAYED2)
            kept *= min(1.0, max(_MOST_S - new_s, 0.0) / self._rate_s)
        self._rate_s = self._rate_s * kept + new_s
        self._rate_log_s = self._rate_log_s * kept + rate_log * new_s
        self._spread2_s = self._spread2_s * kept + (evidence.rate_spread**2 + strayed2) * new_s
        self._rate_at_s = now

    def _learn_losses(self, evidence: LinkEvidence, now: float) -> None:
        kept = _kept(now - self._loss_at_s, LOSS_HALF_LIFE_S)
        kept *= min(1.0, max(_MOST_PACKETS - evidence.packets, 0.0) / max(self._packets, 1.0))
        self._packets = self._packets * kept + evidence.packets
        self._lost = self._lost * kept + evidence.lost_packets
        self._bursts = self._bursts * kept + evidence.bursts
        self._loss_at_s = now

    def _losses(self, now: float) -> tuple[float, float, float]:
        """Expected, at most, mean length of a row."""
        kept = _kept(now - self._loss_at_s, LOSS_HALF_LIFE_S)
        burst = mean_burst(self._lost * kept, self._bursts * kept)
        lost = PRIOR_LOST + self._lost * kept / burst
        arrived = PRIOR_ARRIVED + (self._packets - self._lost) * kept / burst
        return lost / (lost + arrived), upper_bound(lost, arrived), burst

    def _round_trip(self, claim_propagation_s: float, now: float) -> float:
        if now - self._round_trip_at_s > 2 * ROUND_TRIP_LIFE_S:
            return 2 * claim_propagation_s
        return self._round_trip_s


def _kept(elapsed_s: float, half_life_s: float) -> float:
    """Share of old evidence that still counts."""
    return 0.0 if elapsed_s == math.inf else 0.5 ** (max(elapsed_s, 0.0) / half_life_s)
