"""The physical layer: a mean SNR and a fading law give a rate for each coherence block.

Conventions: complex baseband, one complex symbol per second and hertz of bandwidth. The SNR is Es/N0, the mean
energy of a received complex symbol over the variance of the complex noise (both its dimensions together). The
channel gain h is complex and constant over a block, independent from block to block, with E|h|^2 = 1, so that

    gamma = mean SNR * |h|^2            AWGN:      |h|^2 = 1
    rate  = B log2(1 + gamma / gap)     Rayleigh:  h ~ CN(0, 1), |h|^2 exponential with mean 1
          = 0 where gamma < threshold   Rician:    h ~ sqrt(K/(K+1)) + sqrt(1/(K+1)) CN(0, 1)

with the gap to capacity of the coding and modulation in use (0 dB: Shannon's limit).
"""

import math
import random
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple

from channel_emulator.checks import check_range
from channel_emulator.rates import Finish
from shared.errors import InvalidInputError

CHUNK_BLOCKS: Final = 1_024
"""Blocks that are drawn together; each chunk has a seed of its own, so that time may be entered anywhere."""

MAX_OUTAGE: Final = 0.999
"""A link that is out for more than this part of the blocks is a mistake, not a link."""

_FINISH_CHUNKS: Final = 128
"""How far a packet is followed block by block; whatever is left of it then goes at the mean rate."""

_CARRIED_CHUNKS: Final = 64
"""Over how many chunks what is carried is added up; beyond, their number is multiplied by the mean, which 65,536
blocks meet to about half a percent."""


class FadingKind(Enum):
    """The law of |h|^2."""

    AWGN = "awgn"
    RAYLEIGH = "rayleigh"
    RICIAN = "rician"


@dataclass(frozen=True)
class Fading:
    """A block fading channel.

    Raises:
        InvalidInputError: a value is out of range, or the link would hardly ever be up; the error names it.
    """

    kind: FadingKind = FadingKind.RAYLEIGH

    mean_snr_db: float = 20.0
    """Mean Es/N0 in dB, -30 to 100."""

    bandwidth_hz: float = 1e6
    """Bandwidth B, 1 to 1e11 Hz."""

    gap_db: float = 0.0
    """SNR gap to capacity in dB, 0 to 30."""

    coherence_s: float = 0.01
    """Length of a block in seconds, 1e-4 to 3,600."""

    k_factor: float = 0.0
    """Rician K: power of the line of sight over that of the scatter, linear, 0 (Rayleigh) to 1e4."""

    threshold_db: float | None = None
    """Below this gamma in dB, -60 to 60, a block is an outage: it carries nothing. None: no block is."""

    def __post_init__(self) -> None:
        check_range("mean_snr_db", self.mean_snr_db, -30.0, 100.0)
        check_range("bandwidth_hz", self.bandwidth_hz, 1.0, 1e11)
        check_range("gap_db", self.gap_db, 0.0, 30.0)
        check_range("coherence_s", self.coherence_s, 1e-4, 3_600.0)
        check_range("k_factor", self.k_factor, 0.0, 1e4)
        if self.k_factor and self.kind is not FadingKind.RICIAN:
            raise InvalidInputError("k_factor", f"{self.kind.value} fading has none")
        if self.threshold_db is not None:
            check_range("threshold_db", self.threshold_db, -60.0, 60.0)
            if self.outage_probability > MAX_OUTAGE:
                raise InvalidInputError("threshold_db", f"{self.threshold_db:g} dB leaves hardly a block to send in")

    @property
    def outage_probability(self) -> float:
        """P(gamma < threshold), in closed form.

        Rayleigh: 1 - exp(-threshold / mean). Rician: 1 - Q1(sqrt(2K), sqrt(2 (K+1) threshold / mean)), with
        Marcum's Q as a sum of Gamma distributions over a Poisson number of scatter terms.
        """
        if self.threshold_db is None:
            return 0.0
        ratio = _linear(self.threshold_db - self.mean_snr_db)
        if self.kind is FadingKind.AWGN:
            return float(ratio > 1.0)
        return _rician_cdf(ratio, self.k_factor)

    def gain(self, draw: float, phase: float) -> float:
        """|h|^2 from two numbers that are uniform in 0 to 1 (1 excluded)."""
        if self.kind is FadingKind.AWGN:
            return 1.0
        scatter = -math.log1p(-draw)  # |CN(0, 1)|^2
        k = self.k_factor
        cross = 2.0 * math.sqrt(k * scatter) * math.cos(2.0 * math.pi * phase)
        return max(0.0, (k + cross + scatter) / (k + 1.0))

    def rate_bps(self, gain: float) -> float:
        """The rate of a block whose |h|^2 is `gain`."""
        gamma = _linear(self.mean_snr_db) * gain
        if self.threshold_db is not None and gamma < _linear(self.threshold_db):
            return 0.0
        return self.bandwidth_hz * math.log2(1.0 + gamma / _linear(self.gap_db))


class _Chunk(NamedTuple):
    """Consecutive blocks."""

    rates: Sequence[float]
    """Bits per second."""
    bits: Sequence[float]
    """Carried before each block, and by the end of the last."""


class FadingRate:
    """The rate of a fading channel over time.

    Args:
        fading: the channel.
        seed: seeds the blocks; any text.
        origin_s: when the first block begins.
    """

    def __init__(self, fading: Fading, seed: str, origin_s: float) -> None:
        self._fading, self._seed, self._origin_s = fading, seed, origin_s
        self._chunk = lru_cache(maxsize=8)(self._draw)
        self._total_bits = lru_cache(maxsize=4 * _CARRIED_CHUNKS)(lambda chunk: self._chunk(chunk).bits[-1])

    @property
    def mean_bps(self) -> float:
        """The ergodic capacity less the outages, to about 0.1 %."""
        return _mean_rate_bps(self._fading)

    def rate_bps(self, now: float) -> float:
        """See Rate."""
        chunk, place, _ = self._place(now)
        return self._chunk(chunk).rates[place]

    def carried_bits(self, start_s: float, end_s: float) -> float:
        """See Rate."""
        first, _, start_bits = self._place(start_s)
        last, _, end_bits = self._place(end_s)
        near = min(last, first + _CARRIED_CHUNKS)
        far_s = (last - near) * CHUNK_BLOCKS * self._fading.coherence_s
        whole_bits = sum(map(self._total_bits, range(first, near))) + (far_s * self.mean_bps if far_s else 0.0)
        return whole_bits + end_bits - start_bits

    def finish(self, start_s: float, bits: float) -> Finish:
        """See Rate."""
        first, _, start_bits = self._place(start_s)
        target = start_bits + bits
        chunk = first
        while target > self._total_bits(chunk) and chunk < first + _FINISH_CHUNKS:
            target -= self._total_bits(chunk)
            chunk += 1
        rates, carried = self._chunk(chunk)
        place = 0
        inside_s = target / self.mean_bps
        if target <= carried[-1]:
            place = max(bisect_left(carried, target) - 1, 0)
            inside_s = (target - carried[place]) / rates[place]
        blocks = chunk * CHUNK_BLOCKS + place
        return max(start_s, self._origin_s + blocks * self._fading.coherence_s + inside_s), 0.0

    def _place(self, at_s: float) -> tuple[int, int, float]:
        """Chunk, block in it, and bits that were carried in the chunk by then."""
        block, rest = divmod((at_s - self._origin_s) / self._fading.coherence_s, 1.0)
        chunk, place = divmod(int(block), CHUNK_BLOCKS)
        rates, carried = self._chunk(chunk)
        return chunk, place, carried[place] + rest * self._fading.coherence_s * rates[place]

    def _draw(self, chunk: int) -> _Chunk:
        numbers = random.Random(f"{self._seed}/{chunk}").random  # noqa: S311 - a simulation must repeat
        fading = self._fading
        rates = array("d", (fading.rate_bps(fading.gain(numbers(), numbers())) for _ in range(CHUNK_BLOCKS)))
        return _Chunk(rates, array("d", accumulate((rate * fading.coherence_s for rate in rates), initial=0.0)))


@lru_cache(maxsize=16)
def _mean_rate_bps(fading: Fading) -> float:
    """The mean over a fine grid of both uniform numbers; over the phase that is exact at once."""
    phases = 32 if fading.k_factor else 1
    draws = 1 if fading.kind is FadingKind.AWGN else 2_000
    gains = (fading.gain((n + 0.5) / draws, (m + 0.5) / phases) for n in range(draws) for m in range(phases))
    return sum(map(fading.rate_bps, gains)) / (draws * phases)


def _rician_cdf(ratio: float, k: float) -> float:
    """P(|h|^2 < ratio): P(Gamma(j+1) < (K+1) ratio), which is P(Poisson((K+1) ratio) > j), over j ~ Poisson(K)."""
    level = (k + 1.0) * ratio
    total = below = 0.0
    for j in range(int(k + 12.0 * math.sqrt(k + 1.0) + 40.0)):
        below += _poisson(j, level)
        total += _poisson(j, k) * max(0.0, 1.0 - below)
    return min(total, 1.0)


def _poisson(count: int, mean: float) -> float:
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)) if mean else float(count == 0)


def _linear(decibel: float) -> float:
    return float(10.0 ** (decibel / 10.0))
