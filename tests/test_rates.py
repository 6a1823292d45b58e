"""What a rate carries by when: closed forms, and laws that hold for every rate."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_emulator.fading import Fading, FadingRate
from channel_emulator.rates import (
    OPPORTUNITY_BITS,
    Carrier,
    ConstantRate,
    LoopedRate,
    OpportunityRate,
    ThenRate,
)

CONTINUOUS = [
    ConstantRate(1e6),
    LoopedRate([(0.0, 1e6), (1.0, 0.0), (1.5, 5e3)], 4.0, origin_s=10.0),
    ThenRate(LoopedRate([(0.0, 2e5)], 1.0, 10.0), 12.5, ConstantRate(7e4)),
    FadingRate(Fading(threshold_db=18.0, coherence_s=0.003), "seed", 10.0),
]
STEPPED = [
    OpportunityRate([3, 3, 10, 250, 400], 10.0),
    ThenRate(OpportunityRate([3, 3, 10, 250, 400], 10.0), 10.8, ConstantRate(7e4)),
]


@pytest.mark.parametrize("rate", CONTINUOUS)
@settings(max_examples=40)
@given(start_s=st.floats(10.0, 40.0), bits=st.floats(1.0, 3e5))
def test_what_is_carried_until_the_finish_is_what_was_asked_for(rate, start_s, bits):
    at_s, spare_bits = rate.finish(start_s, bits)
    assert spare_bits == 0.0
    assert rate.carried_bits(start_s, at_s) == pytest.approx(bits, rel=1e-6, abs=0.1)


@pytest.mark.parametrize("rate", STEPPED)
@settings(max_examples=40)
@given(start_s=st.floats(10.0, 12.0), bits=st.floats(1.0, 3e5))
def test_opportunities_leave_their_rest(rate, start_s, bits):
    at_s, spare_bits = rate.finish(start_s, bits)
    assert 0 <= spare_bits < OPPORTUNITY_BITS
    assert rate.carried_bits(start_s, at_s) >= bits - 0.1
    assert rate.carried_bits(start_s, at_s - 1e-5) < bits


@pytest.mark.parametrize("rate", [*CONTINUOUS, *STEPPED])
@settings(max_examples=40)
@given(times=st.lists(st.floats(10.0, 40.0), min_size=3, max_size=3))
def test_what_is_carried_adds_up(rate, times):
    first, second, third = sorted(times)
    parts = rate.carried_bits(first, second) + rate.carried_bits(second, third)
    assert parts == pytest.approx(rate.carried_bits(first, third), rel=1e-9, abs=1e-3)


@pytest.mark.parametrize("rate", [CONTINUOUS[1], CONTINUOUS[3], STEPPED[0]])
def test_the_mean_is_what_is_carried_in_the_long_run(rate):
    assert rate.carried_bits(10.0, 210.0) / 200.0 == pytest.approx(rate.mean_bps, rel=0.02)


def test_a_schedule_loops_and_waits_through_its_outage():
    rate = LoopedRate([(0.0, 1_000.0), (1.0, 0.0)], 3.0, origin_s=100.0)
    assert rate.finish(100.0, 1_000.0)[0] == pytest.approx(101.0)  # ends with the last bit before the outage
    assert rate.finish(101.0, 1.0)[0] == pytest.approx(103.001)
    assert rate.finish(100.5, 1_500.0)[0] == pytest.approx(106.0 + 0.0 - 2.0)
    assert [rate.rate_bps(at_s) for at_s in (100.5, 101.0, 102.9, 103.0)] == [1_000.0, 0.0, 0.0, 1_000.0]
    assert rate.mean_bps == pytest.approx(1_000 / 3)


def test_a_dead_link_never_finishes():
    assert ConstantRate(0.0).finish(1.0, 1.0)[0] == math.inf
    assert ThenRate(ConstantRate(10.0), 5.0, ConstantRate(0.0)).finish(4.0, 11.0)[0] == math.inf


def test_opportunities_are_mahimahis():
    """1,500 bytes at each timestamp; the last one is the period; what comes at 0 comes again at the period."""
    rate = OpportunityRate([0, 5, 5, 20], origin_s=1.0)
    assert rate.mean_bps == 4 * OPPORTUNITY_BITS / 0.02
    assert rate.finish(1.0, 1.0) == (1.005, OPPORTUNITY_BITS - 1.0)
    assert rate.finish(1.0, 2 * OPPORTUNITY_BITS) == (1.005, 0.0)
    assert rate.finish(1.005, 1.0)[0] == 1.020
    assert rate.finish(1.010, 3 * OPPORTUNITY_BITS)[0] == pytest.approx(1.025)
    assert rate.rate_bps(1.0) == pytest.approx(20 * OPPORTUNITY_BITS / 0.1)


def departures(rate, burst_bytes, arrivals):
    """Of (time, bytes), one after another."""
    carrier, free_s, result = Carrier(rate, burst_bytes, 0.0), 0.0, []
    for arrival_s, size in arrivals:
        free_s = carrier.finish(max(arrival_s, free_s), size)
        result.append(free_s)
    return result


def test_packets_share_an_opportunity_only_while_they_wait():
    rate = OpportunityRate([10], origin_s=0.0)
    waiting = [(0.0, 500), (0.0, 900), (0.0, 200)]
    assert departures(rate, 0, waiting) == pytest.approx([0.010, 0.010, 0.020])
    assert departures(rate, 0, [(0.0, 500), (0.011, 500)]) == pytest.approx([0.010, 0.020])


def test_a_bucket_lets_a_burst_pass_and_then_the_rate():
    rate = ConstantRate(8_000.0)  # a byte a millisecond
    assert departures(rate, 1_000, [(0.0, 600), (0.0, 400), (0.0, 100), (0.0, 50)]) == pytest.approx([0, 0, 0.1, 0.15])
    # Idle, it fills again, but not beyond the burst.
    assert departures(rate, 1_000, [(0.0, 1_000), (0.5, 600), (9.0, 1_200)]) == pytest.approx([0, 0.6, 9.2])


@settings(max_examples=40)
@given(
    burst_bytes=st.integers(0, 5_000),
    traffic=st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 1_500)), min_size=1, max_size=30),
)
def test_a_bucket_never_passes_more_than_rate_and_burst(burst_bytes, traffic):
    rate_bps, now, arrivals = 64_000.0, 0.0, []
    for gap_s, size in traffic:
        now += gap_s
        arrivals.append((now, size))
    out = departures(ConstantRate(rate_bps), burst_bytes, arrivals)
    assert out == sorted(out)
    for i in range(len(out)):
        carried = 0
        for j in range(i, len(out)):
            carried += arrivals[j][1]
            # The first packet may have been on the way before.
            bound = burst_bytes + rate_bps / 8 * (out[j] - out[i]) + arrivals[i][1]
            assert carried <= bound + 1e-3


def test_a_packet_in_service_goes_on_at_the_new_rate():
    carrier = Carrier(ConstantRate(8_000.0), 0, 0.0)
    assert carrier.finish(0.0, 1_000) == 1.0
    assert carrier.change(ConstantRate(80_000.0), 0, 0.5, busy=True) == pytest.approx(0.55)
    assert carrier.change(ConstantRate(0.0), 0, 0.51, busy=True) == math.inf
    assert carrier.change(ConstantRate(8_000.0), 0, 9.0, busy=True) == pytest.approx(9.4)


def test_an_idle_bucket_keeps_its_tokens_through_a_change():
    carrier = Carrier(ConstantRate(8_000.0), 1_000, 0.0)
    carrier.finish(0.0, 1_000)
    carrier.change(ConstantRate(80_000.0), 500, 0.3, busy=False)
    assert carrier.finish(0.3, 300) == pytest.approx(0.3)
    assert carrier.finish(0.3, 100) == pytest.approx(0.31)
