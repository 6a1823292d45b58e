"""Fading channels against closed forms."""

import math
import statistics
import time

import pytest
from scipy.special import exp1
from scipy.stats import ncx2

from channel_emulator.fading import CHUNK_BLOCKS, Fading, FadingKind, FadingRate
from shared.errors import InvalidInputError

BLOCKS = 30_000


def gammas(fading: Fading) -> list[float]:
    """|h|^2 of many blocks, taken back from their rates."""
    rate = FadingRate(fading, "test", 0.0)
    mean, gap = 10 ** (fading.mean_snr_db / 10), 10 ** (fading.gap_db / 10)
    rates = [rate.rate_bps((block + 0.5) * fading.coherence_s) for block in range(BLOCKS)]
    return [(2 ** (bps / fading.bandwidth_hz) - 1) * gap / mean for bps in rates]


def test_awgn_is_shannon_with_a_gap():
    """log2(1 + 15/1) = 4 bits per symbol; with a gap of 15 it is one."""
    snr_db = 10 * math.log10(15)
    assert FadingRate(Fading(FadingKind.AWGN, snr_db, 2e6), "", 0.0).mean_bps == pytest.approx(8e6)
    assert FadingRate(Fading(FadingKind.AWGN, snr_db, 2e6, snr_db), "", 0.0).rate_bps(3.0) == pytest.approx(2e6)


@pytest.mark.parametrize(("snr_db", "gap_db"), [(-5.0, 0.0), (10.0, 3.0), (30.0, 6.0)])
def test_rayleighs_mean_is_the_ergodic_capacity(snr_db, gap_db):
    """E[log2(1 + g/Gap)] = exp(Gap/mean) E1(Gap/mean) / ln 2 for exponential g."""
    fading = Fading(FadingKind.RAYLEIGH, snr_db, 1e6, gap_db)
    ratio = 10 ** ((gap_db - snr_db) / 10)
    expected = 1e6 * math.exp(ratio) * exp1(ratio) / math.log(2)
    rate = FadingRate(fading, "test", 0.0)
    assert rate.mean_bps == pytest.approx(expected, rel=2e-3)
    assert rate.carried_bits(0.0, 300.0) / 300.0 == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("k_factor", [0.0, 0.5, 3.0, 50.0])
@pytest.mark.parametrize("below_db", [10.0, 3.0])
def test_the_outage_probability_is_marcums(k_factor, below_db):
    fading = Fading(FadingKind.RICIAN, 12.0, k_factor=k_factor, threshold_db=12.0 - below_db)
    ratio = 10 ** (-below_db / 10)
    expected = ncx2.cdf(2 * (k_factor + 1) * ratio, 2, 2 * k_factor) if k_factor else 1 - math.exp(-ratio)
    assert fading.outage_probability == pytest.approx(expected, rel=1e-6, abs=1e-12)
    rate = FadingRate(fading, "test", 0.0)
    out = sum(rate.rate_bps((block + 0.5) * fading.coherence_s) == 0.0 for block in range(BLOCKS)) / BLOCKS
    assert out == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / BLOCKS) + 1e-9)


@pytest.mark.parametrize("k_factor", [0.0, 2.0, 20.0])
def test_the_gain_has_the_moments_of_rician_power(k_factor):
    """E = 1 and Var = (2K + 1) / (K + 1)^2."""
    found = gammas(Fading(FadingKind.RICIAN, 0.0, k_factor=k_factor))
    assert statistics.fmean(found) == pytest.approx(1.0, abs=0.02)
    assert statistics.pvariance(found) == pytest.approx((2 * k_factor + 1) / (k_factor + 1) ** 2, rel=0.06)


def test_blocks_are_independent_and_hold_for_the_coherence_time():
    fading = Fading(coherence_s=0.5)
    rate = FadingRate(fading, "test", 100.0)
    assert rate.rate_bps(100.0) == rate.rate_bps(100.499) != rate.rate_bps(100.5)
    found = gammas(fading)
    correlation = statistics.correlation(found[:-1], found[1:])
    assert abs(correlation) < 4 / math.sqrt(BLOCKS)


def test_time_may_be_entered_anywhere_and_the_seed_decides():
    fading = Fading(coherence_s=0.01)
    late, early = FadingRate(fading, "a", 0.0), FadingRate(fading, "a", 0.0)
    times = [0.005 + 0.01 * n for n in range(3 * CHUNK_BLOCKS)]
    assert [late.rate_bps(at_s) for at_s in reversed(times)][::-1] == [early.rate_bps(at_s) for at_s in times]
    assert [FadingRate(fading, "b", 0.0).rate_bps(at_s) for at_s in times[:5]] != [
        early.rate_bps(at_s) for at_s in times[:5]
    ]


def test_a_long_outage_is_waited_for():
    rate = FadingRate(Fading(mean_snr_db=0.0, threshold_db=8.0, coherence_s=1e-3), "test", 0.0)
    assert rate.rate_bps(0.0005) == 0.0
    at_s = rate.finish(0.0, 1.0)[0]
    assert rate.rate_bps(at_s) > 0.0
    assert rate.carried_bits(0.0, at_s) == pytest.approx(1.0, abs=1e-3)


def test_the_far_future_costs_no_more_than_the_near_one():
    """A slow link with fast blocks: what is far is taken at the mean."""
    fading = Fading(mean_snr_db=0.0, bandwidth_hz=100.0, coherence_s=1e-4)
    rate = FadingRate(fading, "test", 0.0)
    start_s = time.process_time()
    assert rate.carried_bits(0.0, 1e6) == pytest.approx(1e6 * rate.mean_bps, rel=0.01)
    assert rate.finish(0.0, 524_288.0)[0] == pytest.approx(524_288.0 / rate.mean_bps, rel=0.01)
    assert time.process_time() - start_s < 5.0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mean_snr_db", {"mean_snr_db": math.nan}),
        ("bandwidth_hz", {"bandwidth_hz": 0.0}),
        ("gap_db", {"gap_db": -1.0}),
        ("coherence_s", {"coherence_s": 0.0}),
        ("k_factor", {"k_factor": -1.0, "kind": FadingKind.RICIAN}),
        ("k_factor", {"k_factor": 3.0}),
        ("threshold_db", {"threshold_db": 70.0}),
        ("threshold_db", {"threshold_db": 30.0}),
        ("threshold_db", {"threshold_db": 21.0, "kind": FadingKind.AWGN}),
    ],
)
def test_impossible_channels_are_refused_by_name(name, values):
    with pytest.raises(InvalidInputError) as caught:
        Fading(**values)
    assert caught.value.field == name
