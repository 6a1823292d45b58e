"""What is believed of a link: rate, losses, round trip; and what is remembered from one transmission to the next."""

import math
import random

import pytest
from scipy.stats import beta

from transmitter.transport.contract import LinkEstimate
from transmitter.transport.estimates import LinkEvidence, LossMeter, Meters, RateMeter, RoundTrip, upper_bound
from transmitter.transport.memory import LinkMemory
from transmitter.transport.queue import LocalQueue


@pytest.mark.parametrize("lost", [0.2, 1.2, 5.2, 20.2])
@pytest.mark.parametrize("packets", [20, 100, 1_000])
def test_the_bound_is_nearly_the_betas(lost: float, packets: int) -> None:
    arrived = packets + 4 - lost
    assert upper_bound(lost, arrived) == pytest.approx(beta.ppf(0.9, lost, arrived), rel=0.35, abs=0.005)
    assert upper_bound(lost, arrived) >= lost / (lost + arrived)


def test_losses_are_estimated_with_their_rows() -> None:
    single, rows = LossMeter(), LossMeter()
    for start in range(0, 400, 40):
        single.saw(36, range(start, start + 40, 10))
        rows.saw(36, range(start, start + 4))
    assert single.loss_rate == pytest.approx(0.1, rel=0.05)
    assert rows.loss_rate == pytest.approx(0.1, rel=0.1)
    assert single.burst_packets == pytest.approx(1, rel=0.1)
    assert rows.burst_packets == pytest.approx(4, rel=0.1)
    assert rows.loss_at_most > single.loss_at_most  # fewer cases are less sure


def test_one_row_of_losses_is_one_case() -> None:
    meter = LossMeter()
    meter.saw(12, range(8))
    assert 0.1 < meter.loss_rate < 0.3
    meter.were_not_lost(8)
    assert meter.loss_rate < 0.02


@pytest.mark.parametrize("factor", [0.2, 0.7, 1.0, 3.0])
def test_a_rate_is_found_soon(factor: float) -> None:
    meter = RateMeter(1e6, 0.3, 0.2)
    for _ in range(round(0.5 * factor * 1e6 / 9_600)):
        meter.saw(1_200, 9_600 / (factor * 1e6))
    assert meter.rate_bps == pytest.approx(factor * 1e6, rel=0.12)
    assert meter.recent_bps(0, 0.0) <= meter.rate_bps


def test_silence_lowers_the_rate() -> None:
    meter = RateMeter(1e6, 0.1, 0.5)
    assert meter.rate_with(1_200, 0.005) == meter.rate_bps
    assert meter.rate_with(1_200, 0.5) < 0.6 * meter.rate_bps
    assert meter.recent_bps(1_200, 0.5) < 0.1 * meter.rate_bps


def test_the_spread_of_a_rate_is_seen() -> None:
    numbers, steady, wild = random.Random(1), RateMeter(1e6, 0.3, 0.2), RateMeter(1e6, 0.3, 0.2)
    for _ in range(400):
        steady.saw(1_250, 0.01)
        wild.saw(1_250, 0.01 * numbers.uniform(0.1, 1.9))
    for _ in range(50):
        wild.saw(12_500, 0.1 * numbers.choice([0.6, 1.4]))
    assert steady.spread < 0.05
    assert wild.spread > 0.2


def test_arrivals_tell_of_the_rate_only_where_the_link_took_the_time() -> None:
    meter = RateMeter(1e6, 0.1, 0.1)
    meter.saw_arrive(12_500, 0.2, 0.5, sole=True)  # it was handed over that slowly
    assert meter.rate_bps == 1e6
    meter.saw_arrive(125_000, 2.0, 0.5, sole=True)
    assert meter.rate_bps == pytest.approx(5e5, rel=0.1)


def test_a_round_trip_is_the_least_one() -> None:
    trip = RoundTrip(0.5)
    for seconds in (0.2, 0.1, 0.4):
        trip.saw(seconds)
    assert trip.least_s == 0.1
    trip.saw_offset(3.0)
    trip.saw_offset(2.5)
    trip.saw_offset(4.0)
    assert trip.offset_s == 2.5


def test_a_belief_survives_being_taken_up() -> None:
    believed = LinkEstimate(2e6, 0.2, 0.08, 0.12, 2.5, 0.06)
    estimate = Meters.of(believed).estimate()
    assert (estimate.rate_bps, estimate.rate_spread) == (2e6, 0.2)
    assert estimate.loss_rate == pytest.approx(0.08)
    assert estimate.loss_at_most == pytest.approx(0.12, rel=0.01)
    assert (estimate.burst_packets, estimate.round_trip_s) == (2.5, 0.06)


# ---- the channel's queue ---------------------------------------------------------------------------


def test_credit_tells_what_waits_and_how_fast_it_leaves() -> None:
    queue, rate = LocalQueue(), RateMeter(1e6, 0.3, 0.05)
    queue.see(10_000, 0, 0.0, rate)
    for _ in range(4):
        queue.hand(1_200, 0.0)
    assert queue.known_bytes == 4_800
    queue.see(10_000 - 3_600, 4_800, 0.02, rate)  # one has left
    assert queue.known_bytes == 3_600
    assert queue.waiting_bytes(0.03, 480_000) == pytest.approx(3_000)
    assert queue.waiting_bytes(9.0, 480_000) == 2_400  # no more than the one on the link has got done
    queue.see(10_000, 4_800, 0.08, rate)
    assert queue.known_bytes == 0
    assert queue.waiting_bytes(1.0, 480_000) == 0
    assert rate.rate_bps < 8e5


def test_a_queue_that_shrinks_does_not_seem_full_for_ever() -> None:
    queue, rate = LocalQueue(), RateMeter(1e6, 0.3, 0.05)
    queue.see(60_000, 0, 0.0, rate)
    queue.hand(30_000, 0.0)
    queue.see(1_500, 30_000, 1.0, rate)
    assert queue.known_bytes == 30_000
    queue.see(1_500, 0, 2.0, rate)  # feedback says that all has arrived
    assert queue.known_bytes == 0


# ---- memory ----------------------------------------------------------------------------------------


def _evidence(rate_bps: float = 2e6, packets: int = 200, lost: int = 0, bursts: int = 0) -> LinkEvidence:
    return LinkEvidence(rate_bps, 0.1, 1.0, packets, lost, bursts, 0.05)


def test_at_first_the_links_claim_is_believed() -> None:
    estimate = LinkMemory().estimate(1e6, 0.02, 5.0)
    assert estimate.rate_bps == 1e6
    assert estimate.round_trip_s == 0.04
    assert estimate.loss_rate == pytest.approx(0.05)
    assert 0.1 < estimate.loss_at_most < 0.2


def test_what_was_learnt_counts_and_fades() -> None:
    memory = LinkMemory()
    memory.learn(_evidence(lost=20, bursts=5), 10.0)
    soon, late = memory.estimate(1e6, 0.02, 11.0), memory.estimate(1e6, 0.02, 10_000.0)
    assert soon.rate_bps == pytest.approx(1.77e6, rel=0.05)
    assert soon.round_trip_s == 0.05
    assert soon.loss_rate == pytest.approx(0.1, rel=0.15)
    assert soon.burst_packets == pytest.approx(3.5, rel=0.05)
    assert (late.rate_bps, late.round_trip_s) == (pytest.approx(1e6), 0.04)
    assert late.loss_rate == pytest.approx(0.05, rel=0.05)


def test_a_round_trip_that_leaves_no_time_is_not_believed() -> None:
    memory = LinkMemory()
    memory.learn(LinkEvidence(8e3, 0.05, 0.65, 2, 0, 0, 1.06), 10.0)  # a packet took a second on a link that stood
    trips = [memory.estimate(4e5, 0.002, 12.0, within_s).round_trip_s for within_s in (0.5, 4.0, None)]
    assert trips == [0.004, 1.06, 1.06]
    memory.learn(LinkEvidence(8e3, 0.05, 0.65, 2, 0, 0, 0.003), 13.0)
    assert memory.estimate(4e5, 0.002, 14.0, 0.001).round_trip_s == 0.003  # a claim is no reason to believe in more


def test_many_good_transmissions_make_it_sure_and_one_bad_one_does_not_unmake_it() -> None:
    memory = LinkMemory()
    for number in range(20):
        memory.learn(_evidence(), number)
    assert memory.estimate(1e6, 0.02, 20.0).loss_at_most < 0.001
    memory.learn(_evidence(packets=20, lost=10, bursts=2), 21.0)
    assert memory.estimate(1e6, 0.02, 21.0).loss_rate < 0.01


def test_a_link_that_says_it_is_another_one_keeps_its_losses_alone() -> None:
    memory = LinkMemory()
    memory.learn(LinkEvidence(5e6, 0.1, 3.0, 500, 100, 90, 0.2), 1.0)
    losses = memory.estimate(1e6, 0.02, 1.0).loss_rate
    memory.forget_rate()
    estimate, fresh = memory.estimate(1e6, 0.02, 1.0), LinkMemory().estimate(1e6, 0.02, 1.0)
    assert (estimate.rate_bps, estimate.rate_spread) == (fresh.rate_bps, fresh.rate_spread)
    assert estimate.round_trip_s == fresh.round_trip_s
    assert estimate.loss_rate == losses > 0.15


def test_a_transmission_that_saw_nothing_teaches_nothing() -> None:
    memory = LinkMemory()
    memory.learn(LinkEvidence(5e6, 0.1, 0.0, 0, 0, 0, None), 1.0)
    assert memory.estimate(1e6, 0.02, 1.0) == LinkMemory().estimate(1e6, 0.02, 1.0)
    assert math.isfinite(memory.estimate(1e6, 0.02, 1.0).rate_bps)


def test_half_a_second_at_one_rate_is_remembered_as_steady_and_less_is_not() -> None:
    found = []
    for seconds in (0.1, 0.3, 0.6, 2.0):
        meter, memory = RateMeter(1e6, 0.3, 0.2), LinkMemory()
        for _ in range(round(seconds / 0.01)):
            meter.saw(1_250, 0.01)
        memory.learn(LinkEvidence(meter.rate_bps, meter.seen_spread, meter.busy_s, 10, 0, 0, 0.04), 0.0)
        found.append(memory.estimate(1e6, 0.02, 1.0).rate_spread)
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.2
    assert found[2] < 0.15
    assert found[3] < 0.1


def test_what_a_belief_says_of_the_spread_is_no_evidence() -> None:
    meter = RateMeter(1e6, 0.3, 0.2)
    assert meter.seen_spread == pytest.approx(0.3)  # nothing else is known
    for _ in range(30):
        meter.saw(1_250, 0.01)
    assert meter.seen_spread == pytest.approx(0, abs=1e-9)
    assert meter.spread > 0.1
