"""The sender before a deadline, in virtual time: what is there by then, what comes late, coarse first, then finer."""

import random
from dataclasses import replace
from statistics import fmean

import pytest

from channel_emulator.replay import SHIPPED, shipped_trace
from channel_emulator.settings import LinkSettings, Replay, Schedule
from tests.transport_fakes import LINK, SURE, estimate_of, losses
from tests.transport_run import Course, transmit
from transmitter.transport.contract import SenderSettings
from transmitter.transport.sender import first_budget


def _by_trace(name: str, deadline_s: float, starts: int) -> list[tuple[Course, float]]:
    trace, numbers = shipped_trace(name), random.Random(7)
    rate = trace.rate(0.0)
    link = LinkSettings(rate.mean_bps, SHIPPED[name].propagation_s, model=Replay(trace))
    found = []
    for _ in range(starts):
        start = numbers.uniform(0, trace.period_s)
        course = transmit(link, budget=10_000_000, deadline=deadline_s, start=start)
        carried = rate.carried_bits(start, start + deadline_s - link.propagation_s) / 8
        found.append((course, carried))
    return found


@pytest.mark.parametrize(("name", "deadline_s"), [("lte", 1.0), ("drone", 1.0), ("satellite", 2.0)])
def test_by_the_deadline_most_of_what_a_trace_carries_is_there_and_nothing_comes_late(
    name: str, deadline_s: float
) -> None:
    found = _by_trace(name, deadline_s, {"lte": 8, "drone": 5, "satellite": 2}[name])
    used = [course.in_time_bytes / carried for course, carried in found if carried > 10_000]
    assert fmean(used) > 0.65
    assert sum(course.late_bytes > 0 for course, _ in found) <= 1
    assert all(course.header_in_time for course, carried in found if carried > 10_000)


def test_when_the_rate_drops_the_rest_is_planned_again_and_nothing_is_late() -> None:
    drop = Schedule(((0.0, 1e6), (0.5, 2e5)))
    course = transmit(replace(LINK, model=drop), budget=10**7, deadline=2.0, estimate=SURE)
    assert course.late_bytes == 0
    assert course.sender.stats.revisions > 1
    assert course.in_time_bytes > 0.85 * (62_500 + 37_000)


def test_when_the_rate_rises_it_is_used() -> None:
    rise = Schedule(((0.0, 2e5), (0.5, 1e6)))
    course = transmit(replace(LINK, model=rise), budget=10**7, deadline=2.0, estimate=replace(SURE, rate_bps=2e5))
    assert course.late_bytes == 0
    assert course.in_time_bytes > 0.65 * (12_500 + 185_000)


def test_during_an_outage_little_is_committed() -> None:
    outage = Schedule(((0.0, 1e6), (0.6, 0.0)))
    course = transmit(replace(LINK, model=outage), budget=10**7, deadline=1.0, estimate=SURE)
    assert course.sender.done
    assert course.sender.stats.sent_bytes < 75_000 + 12_000
    assert course.in_time_bytes > 60_000


@pytest.mark.parametrize("burst", [1, 6])
def test_before_a_deadline_losses_are_repaired_one_way_or_the_other(burst: float) -> None:
    shares, repaired = [], 0
    for seed in range(8):
        link = LinkSettings(1e6, 0.27, seed=seed, impairments=losses(0.1, burst))
        course = transmit(link, budget=10**7, deadline=1.5, estimate=estimate_of(link, warm=True, loss=0.1))
        assert course.header_in_time
        assert course.late_bytes == 0
        shares.append(course.in_time_bytes / (1e6 / 8 * 1.23))
        repaired += course.receiver.repaired
    assert fmean(shares) > 0.7
    assert repaired > 0


def test_repair_packets_are_no_larger_than_packets_may_be() -> None:
    link = LinkSettings(1e6, 0.27, loss_rate=0.1)
    course = transmit(link, budget=10**7, deadline=1.5, estimate=estimate_of(link, warm=True, loss=0.1))
    assert course.sender.stats.repair_bytes > 0
    assert course.largest <= 1_200


def test_a_tight_budget_holds_before_a_deadline_too() -> None:
    course = transmit(LINK, budget=30_000, deadline=5.0, estimate=SURE)
    assert 29_000 < course.sender.stats.sent_bytes <= 30_000
    assert course.done_s < 1.0


@pytest.mark.parametrize("claim", [0.1, 0.3, 1.0])
def test_before_a_deadline_a_coarse_plan_is_followed_by_a_finer_one_that_fills_the_time(claim: float) -> None:
    cold = replace(estimate_of(LINK), rate_bps=claim * 1e6)
    course = transmit(LINK, budget=10**7, deadline=2.0, estimate=cold)
    first = course.receiver.plans[0]
    assert first.wire_bytes < 0.65 * 1.98 * 125_000
    assert sum(1 for revision, _ in course.receiver.packets if revision == 0) == len(first.patches)
    assert course.wanted[0][1].served[0].all()  # nothing of the coarse plan is given up for the finer one
    assert course.in_time_bytes > (0.5 if claim < 0.2 else 0.75) * 1.98 * 125_000
    assert course.late_bytes == 0


def test_a_finer_plan_is_cut_off_at_the_deadline_rather_than_planned_again() -> None:
    drop = Schedule(((0.0, 1e6), (1.3, 3e5)))
    course = transmit(replace(LINK, model=drop), budget=10**7, deadline=2.0, estimate=estimate_of(LINK))
    assert [wish.number for _, wish in course.wanted] == [1]
    assert course.late_bytes == 0
    assert sum(1 for revision, _ in course.receiver.packets if revision == 0) == len(course.receiver.plans[0].patches)


@pytest.mark.parametrize(("rate_bps", "deadline_s"), [(64e3, 2.0), (1e6, 0.4), (1e6, 2.0)])
def test_where_the_rate_is_known_to_be_steady_one_plan_takes_nearly_all_of_the_time(
    rate_bps: float, deadline_s: float
) -> None:
    link = LinkSettings(rate_bps, 0.02)
    steady = replace(SURE, rate_bps=rate_bps, rate_spread=0.08)
    course = transmit(link, budget=10**7, deadline=deadline_s, estimate=steady)
    assert course.receiver.plans[0].wire_bytes > 0.88 * rate_bps / 8 * (deadline_s - 0.02)
    assert sum(1 for revision, _ in course.receiver.packets if revision == 0) == len(course.receiver.plans[0].patches)
    assert course.late_bytes == 0


def test_after_an_outage_was_learnt_the_first_plan_is_not_empty() -> None:
    dead = replace(SURE, rate_bps=8.0, rate_spread=1.0)
    assert first_budget(SenderSettings(100_000, 1.0), dead, 0.0) == 400
