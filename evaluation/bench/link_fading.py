"""Statistics of the emulated physical layer over 10^5 blocks, against closed forms."""

import math
from typing import Final

from scipy.integrate import quad
from scipy.special import exp1
from scipy.stats import ncx2

from channel_emulator.fading import Fading, FadingKind, FadingRate
from evaluation.bench.checks import Check

BLOCKS: Final = 100_000
_COHERENCE_S: Final = 0.01


def _rates(fading: Fading) -> list[float]:
    rate = FadingRate(fading, "bench", 0.0)
    return [rate.rate_bps((block + 0.5) * _COHERENCE_S) for block in range(BLOCKS)]


def _ratio(decibel: float) -> float:
    return float(10 ** (decibel / 10))


def _rician_cdf(gain: float, k: float) -> float:
    """1 - Q1(sqrt(2K), sqrt(2 (K+1) gain)): |h|^2 is a scaled noncentral chi-squared of two degrees."""
    return float(ncx2.cdf(2 * (k + 1) * gain, 2, 2 * k))


def _rician_capacity(snr: float, gap: float, k: float) -> float:
    """E[log2(1 + snr g / gap)] by quadrature over g's noncentral chi-squared density."""

    def integrand(gain: float) -> float:
        return math.log2(1 + snr * gain / gap) * 2 * (k + 1) * float(ncx2.pdf(2 * (k + 1) * gain, 2, 2 * k))

    return float(quad(integrand, 0, 1)[0] + quad(integrand, 1, 12)[0])


def _capacity(fading: Fading) -> float:
    """Bits per second and hertz in the mean."""
    snr, gap = _ratio(fading.mean_snr_db), _ratio(fading.gap_db)
    if fading.kind is FadingKind.AWGN:
        return math.log2(1 + snr / gap)
    if fading.kind is FadingKind.RAYLEIGH:
        return float(math.exp(gap / snr) * exp1(gap / snr) / math.log(2))
    return _rician_capacity(snr, gap, fading.k_factor)


def _outage(fading: Fading) -> float:
    assert fading.threshold_db is not None
    gain = _ratio(fading.threshold_db - fading.mean_snr_db)
    return _rician_cdf(gain, fading.k_factor) if fading.k_factor else 1 - math.exp(-gain)


def _check(name: str, found: float, expected: float) -> Check:
    off = 100 * abs(found / expected - 1)
    return Check(f"{name}, closed form {expected:.5g}, off by", off, "%", "<= 2", off <= 2)


def fading_checks() -> list[Check]:
    """Ergodic capacity and outage probability of every kind."""
    checks = []
    for kind, k in (
        (FadingKind.AWGN, 0.0),
        (FadingKind.RAYLEIGH, 0.0),
        (FadingKind.RICIAN, 1.0),
        (FadingKind.RICIAN, 10.0),
    ):
        name = kind.value + (f", K = {k:g}" if k else "")
        for snr_db, gap_db in ((0.0, 0.0), (10.0, 3.0), (25.0, 6.0)):
            fading = Fading(kind, snr_db, 1.0, gap_db, _COHERENCE_S, k)
            title = f"{name}, {snr_db:g} dB, gap {gap_db:g} dB: capacity"
            checks.append(_check(title, sum(_rates(fading)) / BLOCKS, _capacity(fading)))
        if kind is FadingKind.AWGN:
            continue
        for below_db in (10.0, 5.0, 2.0):
            fading = Fading(kind, 15.0, 1.0, 0.0, _COHERENCE_S, k, 15.0 - below_db)
            expected = _outage(fading)
            # Where outages are so rare that chance alone is beyond the bar, nothing can be judged.
            if expected * BLOCKS >= 5_000:
                title = f"{name}: outage {below_db:g} dB below the mean"
                checks.append(_check(title, _rates(fading).count(0.0) / BLOCKS, expected))
    return checks
