"""The sender over emulated links in virtual time: a budget, losses, and what must never happen."""

import math
import random
from dataclasses import replace
from statistics import fmean

import pytest

from channel_emulator.impairments import Blackouts, GilbertElliott, Impairments
from channel_emulator.settings import LinkSettings, Schedule
from shared.feedback import Arrived, Feedback
from shared.packets import PacketKind
from tests.transport_fakes import ID, LINK, SURE, begun, estimate_of, losses, small_planner
from tests.transport_run import transmit
from transmitter.transport.contract import SenderSettings
from transmitter.transport.sender import first_budget, first_packet_bytes

# ---- a budget --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_bps", [1e5, 1e6, 1e7, 1e9])
@pytest.mark.parametrize("propagation_s", [0.002, 0.02, 0.27])
def test_on_a_known_link_without_loss_all_bytes_go_at_once(rate_bps: float, propagation_s: float) -> None:
    link = LinkSettings(rate_bps, propagation_s)
    course = transmit(link, estimate=replace(SURE, rate_bps=rate_bps, round_trip_s=2 * propagation_s), budget=40_000)
    assert course.sender.stats.sent_bytes == 40_000 - 12  # but for a question, should the stream break
    assert course.last_arrival_s <= 1.02 * 8 * 40_000 / rate_bps + propagation_s + 1e-6
    assert course.wanted == []
    assert course.done_s <= course.last_arrival_s


def test_on_a_fast_link_it_is_asked_early_whether_anything_gets_lost() -> None:
    course = transmit(LinkSettings(8e6, 0.02), budget=92_160)
    assert course.last_arrival_s <= 1.02 * 8 * course.sender.stats.sent_bytes / 8e6 + 0.02
    assert course.sender.stats.sent_bytes > 0.92 * 92_160
    assert 24 <= course.sender.stats.poll_bytes <= 180


@pytest.mark.parametrize("claim", [0.05, 20.0])
def test_a_claim_that_is_far_off_costs_no_time(claim: float) -> None:
    course = transmit(LINK, estimate=replace(SURE, rate_bps=claim * 1e6), budget=100_000)
    assert course.last_arrival_s <= 1.05 * 0.8 + 0.02
    assert course.sender.estimate.rate_bps == pytest.approx(1e6, rel=0.15)


def test_credit_that_is_told_seldom_costs_no_time() -> None:
    assert transmit(LINK, estimate=SURE, budget=100_000, tell_s=0.005).last_arrival_s <= 1.02 * 0.8 + 0.02


@pytest.mark.parametrize("burst", [1, 6])
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.1, 0.2])
def test_under_losses_nearly_all_that_the_link_brings_is_of_use(loss: float, burst: float) -> None:
    shares, budget = [], 100_000
    for seed in range(12):
        link = LinkSettings(1e6, 0.02, seed=seed, impairments=losses(loss, burst))
        course = transmit(link, budget=budget, estimate=estimate_of(link, warm=True, loss=loss))
        brought = course.receiver.total_bytes / course.sender.stats.sent_bytes
        assert course.receiver.header_there(0)
        assert course.sender.stats.revisions <= 8
        assert course.sender.acknowledged.bytes <= course.receiver.total_bytes
        shares.append(course.receiver.distinct_bytes / budget - brought)
    assert fmean(shares) > (-0.05 if burst == 1 else -0.07)
    assert max(shares) <= 0


def test_a_link_of_which_nothing_is_known_still_brings_the_header() -> None:
    for seed in range(40):
        link = LinkSettings(1e7, 0.02, seed=seed, loss_rate=0.3)
        course = transmit(link, replace(link, rate_bps=1e9), budget=20_000)
        assert course.receiver.header_there(0)
        assert course.receiver.distinct_bytes > 5_000


def test_the_last_bytes_wait_until_the_losses_are_known_unless_that_takes_longer_than_sending() -> None:
    course = transmit(LinkSettings(2e6, 0.05), budget=30_000)
    assert course.last_arrival_s > 0.12 + 0.05 + 0.03
    short = transmit(LinkSettings(1e9, 0.05), budget=100_000)
    assert short.last_arrival_s < 0.06
    assert short.sender.stats.sent_bytes < 93_000  # for what may have got lost
    sure = transmit(LinkSettings(1e9, 0.05), budget=100_000, estimate=replace(SURE, rate_bps=1e9, round_trip_s=0.1))
    assert sure.last_arrival_s < 0.06


def test_what_the_first_plan_may_take() -> None:
    settings = SenderSettings(100_000)
    assert first_budget(settings, SURE, 0.0) == 100_000 - 12
    lossy = replace(SURE, loss_rate=0.2, loss_at_most=0.25)
    assert first_budget(settings, lossy, 0.0) == pytest.approx(79_100, abs=100)
    cold = estimate_of(LINK)
    assert 98_500 < first_budget(settings, cold, 0.0) < 99_500  # long before its end it is known what gets lost
    assert first_budget(SenderSettings(6_000), cold, 0.0) == pytest.approx(5_500, abs=60)
    assert first_budget(settings, replace(cold, rate_bps=1e8), 0.0) == pytest.approx(92_400, abs=100)
    assert first_budget(replace(settings, closed_loop=False), lossy, 0.0) == 100_000
    hurried = replace(settings, deadline_s=10.5)
    assert 0.85 * 60_000 < first_budget(hurried, SURE, 10.0) <= 60_000
    assert first_budget(replace(hurried, closed_loop=False), SURE, 10.0) == 60_000
    assert first_budget(hurried, SURE, 11.0) == 0
    assert first_packet_bytes(settings, SURE, 0.0) == 1_200
    assert first_packet_bytes(replace(hurried, deadline_s=10.12), SURE, 10.0) < 1_000


# ---- what must never happen ------------------------------------------------------------------------


def _anything(numbers: random.Random) -> tuple[LinkSettings, LinkSettings, dict[str, object]]:
    rate_bps = 10 ** numbers.uniform(4, 8)
    swings = Schedule(((0.0, rate_bps), (0.7, rate_bps / numbers.choice([2, 50])), (2.0, 0.0), (3.0, rate_bps)), 6.0)
    both = [
        LinkSettings(
            rate_bps,
            numbers.choice([0.001, 0.05, 0.3]),
            numbers.choice([3_000, 65_536, 1 << 20]),
            seed=numbers.randrange(1 << 30),
            queue_s=numbers.choice([0.0, 0.0, 0.1]),
            impairments=Impairments(
                loss_rate=numbers.choice([0.0, 0.1, 0.5, 1.0 if numbers.random() < 0.1 else 0.2]),
                gilbert_elliott=numbers.choice([GilbertElliott(), GilbertElliott(0.05, 0.1, 0.0, 0.9)]),
                bit_error_rate=numbers.choice([0.0, 1e-5]),
                duplicate_rate=numbers.choice([0.0, 0.1]),
                reorder_rate=numbers.choice([0.0, 0.1]),
                reorder_s=0.1,
                jitter_s=numbers.choice([0.0, 0.1]),
                blackouts=numbers.choice([Blackouts(), Blackouts(((0.2, 0.9), (1.5, 1.6)), 3.0)]),
            ),
        )
        for _ in range(2)
    ]
    forward = replace(both[0], model=numbers.choice([None, swings]))
    backward = replace(both[1], rate_bps=1e9, queue_bytes=1 << 20, propagation_s=forward.propagation_s)
    believed = estimate_of(forward)
    return (
        forward,
        backward,
        {
            "budget": int(10 ** numbers.uniform(2.7, 5)),
            "deadline": numbers.choice([None, None, numbers.uniform(0.1, 4)]),
            "estimate": replace(believed, rate_bps=believed.rate_bps * 10 ** numbers.choice([-2, 0, 0, 2])),
            "planner": numbers.choice([small_planner, small_planner, None]),
            "replan_s": numbers.choice([0.0, 0.3, 20.0]),
            "header": numbers.choice([50, 300, 3_000]),
            "tell_s": numbers.choice([0.0, 0.01]),
            "reconnect": numbers.choice([(), (), (0.3,), (0.1, 1.0)]),
            "forget": numbers.random() < 0.3,
            "closed": numbers.random() < 0.95,
            "limit_s": 3_600.0,
        },
    )


@pytest.mark.parametrize("seed", range(100))
def test_whatever_happens_it_ends_within_its_budget_and_never_runs_in_circles(seed: int) -> None:
    forward, backward, course = _anything(random.Random(seed))
    found = transmit(forward, backward, **course)  # type: ignore[arg-type]  # checks budget, credit and wake_s
    assert found.sender.done
    assert not found.hung
    assert math.isfinite(found.done_s)
    assert found.sender.wake_s == math.inf
    assert found.gives < 400 + 20 * found.sender.stats.sent_packets + 20 * found.done_s
    assert course["reconnect"] or not found.refused


@pytest.mark.parametrize("deadline", [None, 2.0])
def test_without_any_feedback_the_plan_is_sent_and_then_it_ends(deadline: float | None) -> None:
    silent = LinkSettings(1e9, 0.02, loss_rate=1.0)
    course = transmit(LINK, silent, budget=50_000, deadline=deadline)
    assert course.done_s < 20
    assert course.receiver.header_there(0)
    assert course.receiver.distinct_bytes > 40_000


def test_where_nothing_moves_it_sleeps() -> None:
    dead = LinkSettings(1e6, 0.02, model=Schedule(((0.0, 1e6), (0.1, 0.0))))
    course = transmit(dead, budget=50_000, limit_s=120.0)
    assert course.gives < 500


@pytest.mark.parametrize(
    "forged",
    [
        Feedback(ID + 1, 1, 0, 0, 0.0, 0.0, PacketKind.HEADER, 0, 0, (Arrived(0, True, ((0, 100),)),)),
        Feedback(ID, 1, 10**12, 10**9, 9e9, 0.0, PacketKind.PATCHES, 3, 77, (Arrived(3, True, ((0, 9),)),)),
        Feedback(ID, 1, 0, 0, 0.0, 0.0, PacketKind.HEADER, 0, 0, (Arrived(0, True, ((0, 1 << 20),)),)),
        Feedback(ID, 1, 0, 0, 0.0, 0.0, PacketKind.REPORT, 0, 0, (Arrived(0, True),)),
    ],
)
def test_forged_feedback_changes_nothing(forged: Feedback) -> None:
    sender, _ = begun()
    before = (sender.acknowledged, sender.wake_s, sender.estimate)
    sender.take(forged, 100.05)
    assert (sender.acknowledged, sender.wake_s, sender.estimate) == before


def test_stale_feedback_takes_nothing_back() -> None:
    sender, given = begun()
    assert len(given) > 3
    early = Feedback(ID, 1, 1_512, 2, 5.04, 0.0, PacketKind.PATCHES, 0, 0, (Arrived(0, True, ((0, 10),)),))
    late = Feedback(ID, 2, 2_712, 3, 5.05, 0.0, PacketKind.PATCHES, 0, 10, (Arrived(0, True, ((0, 20),)),))
    sender.take(late, 100.06)
    known = sender.acknowledged
    sender.take(early, 100.07)
    assert sender.acknowledged == known
    assert known.patches == 20
    assert sender.arrived[0].sum() == 20
    assert sender.stats.lost_packets == 0


# ---- for comparison --------------------------------------------------------------------------------


@pytest.mark.parametrize("deadline", [None, 0.1])
def test_open_loop_sends_the_first_plan_and_no_more(deadline: float | None) -> None:
    link = replace(LINK, loss_rate=0.2)
    course = transmit(link, budget=50_000, deadline=deadline, closed=False)
    stats = course.sender.stats
    assert stats.again_bytes == stats.repair_bytes == stats.poll_bytes == 0
    assert stats.sent_bytes == course.receiver.plans[0].wire_bytes
    assert course.wanted == []
    assert course.done_s < 8 * stats.sent_bytes / 1e6
