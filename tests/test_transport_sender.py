"""The sender over emulated links in virtual time: budget, deadline, losses, new plans, and what must never happen."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest

from channel_emulator.impairments import Blackouts, GilbertElliott, Impairments
from channel_emulator.replay import SHIPPED, shipped_trace
from channel_emulator.settings import LinkSettings, Replay, Schedule
from shared.feedback import Arrived, Feedback
from shared.packets import MAX_REVISIONS, Packet, PacketKind
from tests.transport_fakes import ID, Course, Planner, estimate_of, packed, small_planner, transmit
from transmitter.transport.contract import LinkEstimate, PackedRevision, RevisionWanted, SenderSettings
from transmitter.transport.sender import Sender, first_budget, first_packet_bytes

LINK = LinkSettings(1e6, 0.02)
SURE = LinkEstimate(1e6, 0.02, 1e-4, 1e-3, 1.0, 0.04)


def _losses(rate: float, burst: float) -> Impairments:
    if burst <= 1:
        return Impairments(loss_rate=rate)
    return Impairments(gilbert_elliott=GilbertElliott(rate / (1 - rate) / burst, 1 / burst, 0.0, 1.0))


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
    assert course.sender.stats.sent_bytes > 0.93 * 92_160
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
        link = LinkSettings(1e6, 0.02, seed=seed, impairments=_losses(loss, burst))
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
    assert first_budget(settings, lossy, 0.0) == pytest.approx(80_900, abs=100)
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


# ---- a deadline ------------------------------------------------------------------------------------


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
        link = LinkSettings(1e6, 0.27, seed=seed, impairments=_losses(0.1, burst))
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


# ---- new plans -------------------------------------------------------------------------------------


def test_a_new_plan_serves_what_is_not_there_and_not_on_its_way() -> None:
    link = LinkSettings(1e6, 0.02, loss_rate=0.2, seed=5)
    wanted: list[tuple[RevisionWanted, Sequence[bool]]] = []
    senders: list[Sender] = []

    def planner(wish: RevisionWanted) -> object:
        wanted.append((wish, ()))
        return small_planner(wish)

    course = transmit(link, budget=100_000, planner=planner)  # type: ignore[arg-type]
    senders.append(course.sender)
    assert [wish.number for wish, _ in wanted] == list(range(1, len(wanted) + 1))
    first = wanted[0][0]
    (served,) = first.served
    assert served.dtype == bool
    assert 0 < served.sum() < len(served)
    assert not served[-10:].any()  # the least important wait for the plan
    assert 300 < first.budget_bytes < 100_000
    revised = course.receiver.plans[1]
    assert revised.wire_bytes <= first.budget_bytes


def test_where_nothing_is_worthwhile_what_is_there_goes_on() -> None:
    link = LinkSettings(1e6, 0.02, loss_rate=0.2, seed=5)
    course = transmit(link, budget=100_000, planner=None)
    assert course.wanted
    assert len(course.wanted) < 6
    assert course.sender.stats.revisions == 1
    assert course.receiver.distinct_bytes > 70_000


def test_a_plan_that_never_comes_is_not_waited_for_for_ever() -> None:
    link = LinkSettings(1e6, 0.02, loss_rate=0.2, seed=5)
    course = transmit(link, budget=100_000, replan_s=1_000.0, limit_s=60.0)
    assert course.done_s < 12
    assert course.receiver.distinct_bytes > 65_000
    course.sender.revise(packed(1_000, number=1), 1_000.0)  # too late: ignored
    assert course.sender.stats.revisions == 1


def test_no_more_plans_than_there_are_revisions() -> None:
    swings = Schedule(tuple((0.5 * step, 1e6 if step % 2 else 1e5) for step in range(40)), 20.0)
    course = transmit(replace(LINK, model=swings), budget=10**7, deadline=20.0, estimate=SURE, replan_s=0.01)
    assert course.sender.stats.revisions <= MAX_REVISIONS
    assert course.sender.done


def _hole_planner(plans: list[RevisionWanted]) -> Planner:
    def plan(wanted: RevisionWanted) -> PackedRevision | None:
        plans.append(wanted)
        return small_planner(wanted)

    return plan


@pytest.mark.parametrize("loss", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("budget", [9_216, 23_040])
def test_what_is_lost_and_does_not_fit_what_is_left_is_planned_again_before_the_end(loss: float, budget: int) -> None:
    """A patch that comes nowhere costs more than all of them coarser."""
    holes = 0
    for seed in range(20):
        plans: list[RevisionWanted] = []
        link = LinkSettings(1e6, 0.03, seed=seed, loss_rate=loss)
        course = transmit(link, budget=budget, planner=_hole_planner(plans), packet_bytes=600)
        first = course.receiver.plans[0]
        came = sum(1 for revision, _ in course.receiver.packets if revision == 0)
        served = len(plans) > 0 and course.receiver.header_there(course.sender.stats.revisions - 1)
        holes += came < len(first.patches) and not served
        assert course.sender.stats.sent_bytes <= budget
    assert holes <= 4


def test_a_plan_for_more_bytes_is_not_waited_for_while_there_is_something_to_send() -> None:
    course = transmit(LINK, budget=23_040)
    assert course.wanted == []
    assert course.last_arrival_s <= 1.02 * 8 * course.sender.stats.sent_bytes / 1e6 + 0.02


def test_a_new_plan_knows_all_that_got_lost_and_finds_its_bytes() -> None:
    """One for what was lost first, while more is under way that is lost too, leaves holes; so does what eats it up."""
    unheard = 0
    for seed in range(20):
        plans: list[RevisionWanted] = []
        link = LinkSettings(1e6, 0.03, seed=seed, loss_rate=0.2)
        course = transmit(link, budget=23_040, planner=_hole_planner(plans))
        for wanted in plans:
            handed_over = sum(len(packet.data) for packet in course.receiver.plans[wanted.number].patches)
            unheard += handed_over > wanted.budget_bytes
        if not plans:
            continue
        last = course.receiver.plans[plans[-1].number]
        spent = course.sender.stats.sent_bytes
        assert spent >= 0.93 * 23_040 or course.receiver.header_there(last.number)
    assert not unheard


def test_what_is_too_little_for_a_new_plan_goes_into_copies_of_the_last_packets() -> None:
    found = []
    for seed in range(30):
        course = transmit(LinkSettings(1e6, 0.03, seed=seed, loss_rate=0.2), budget=9_216)
        found.append(course.sender.stats.repair_bytes)
        assert course.sender.stats.sent_bytes <= 9_216
    assert sum(size > 0 for size in found) >= 3


def test_a_plan_that_left_something_out_is_followed_by_another() -> None:
    """What would not fit the first new plan gets what is left in the end."""

    def short(wanted: RevisionWanted) -> PackedRevision | None:
        return packed(min(wanted.budget_bytes, 2_000), number=wanted.number, header=60, packet_bytes=600)

    found = [
        transmit(replace(LINK, seed=seed, loss_rate=0.1), budget=23_040, planner=short, packet_bytes=600)
        for seed in range(12)
    ]
    again = [course for course in found if course.wanted and course.wanted[0][1].budget_bytes > 3_500]
    assert len(again) > 2
    assert all(len(course.wanted) > 1 for course in again)


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


def _sender(budget: int = 30_000) -> tuple[Sender, list[bytes]]:
    sender = Sender(packed(20_000), SenderSettings(budget), estimate_of(LINK), ID, 100.0)
    return sender, sender.give(100.0, 10_000)


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
    sender, _ = _sender()
    before = (sender.acknowledged, sender.wake_s, sender.estimate)
    sender.take(forged, 100.05)
    assert (sender.acknowledged, sender.wake_s, sender.estimate) == before


def test_stale_feedback_takes_nothing_back() -> None:
    sender, given = _sender()
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


# ---- streams that break ----------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("deadline", [None, 2.0])
def test_after_a_break_it_asks_first_and_goes_on(forget: bool, deadline: float | None) -> None:
    course = transmit(LINK, budget=100_000, deadline=deadline, reconnect=(0.2,), forget=forget)
    assert course.sender.stats.poll_bytes >= 12
    assert course.receiver.header_there(0)
    assert course.receiver.distinct_bytes > (60_000 if forget else 75_000)


def test_when_the_stream_breaks_after_the_last_byte_it_can_still_ask() -> None:
    sender = Sender(packed(6_000 - 12), SenderSettings(6_000), replace(SURE, rate_bps=1e9), ID, 0.0)
    sent = sender.give(0.0, 10_000)
    assert sum(map(len, sent)) == 6_000 - 12
    assert sender.done
    sender.reconnected(1.0)
    assert not sender.done
    (question,) = (Packet.from_bytes(data) for data in sender.give(1.0, 10_000))
    assert question.kind is PacketKind.POLL
    runs = ((0, packed(6_000 - 12).expected),)
    answer = Feedback(ID, 1, 12, 1, 1.0, 0.0, PacketKind.POLL, 0, question.position, (Arrived(0, True, runs),))
    sender.take(answer, 1.1)
    assert sender.done
    assert sender.stats.sent_bytes == 6_000
    assert sender.acknowledged.bytes == 6_000 - 12
    sender.reconnected(2.0)
    assert sender.done  # there is nothing left to ask with


def test_a_plan_that_needs_all_of_its_budget_gets_it() -> None:
    sender = Sender(packed(6_000), SenderSettings(6_000), replace(SURE, rate_bps=1e9), ID, 0.0)
    assert sum(map(len, sender.give(0.0, 10_000))) == 6_000


def test_after_a_break_nothing_but_a_question_goes_until_it_is_answered() -> None:
    sender, _ = _sender()
    sender.reconnected(101.0)
    assert sender.wake_s > 101.0
    packets = [Packet.from_bytes(data) for data in sender.give(101.0, 10_000)]
    assert [packet.kind for packet in packets] == [PacketKind.POLL]
    assert sender.give(101.01, 10_000) == []
    answer = Feedback(ID, 1, 12, 1, 1.0, 0.0, PacketKind.POLL, 0, packets[0].position, ())
    sender.take(answer, 101.1)
    again = [Packet.from_bytes(data) for data in sender.give(101.1, 10_000)]
    assert again[0].kind is PacketKind.HEADER  # nothing had arrived
    assert sender.stats.again_bytes > 0


def test_after_a_break_that_nobody_answers_it_sends_without_being_asked_again() -> None:
    sender = Sender(packed(6_000), SenderSettings(6_000), replace(SURE, rate_bps=1e9), ID, 0.0)
    sender.reconnected(0.0)
    kinds, now = [], 0.0
    for _ in range(100):
        kinds += [Packet.from_bytes(data).kind for data in sender.give(now, 10_000)]
        if sender.done:
            break
        now = sender.wake_s
    assert sender.done
    assert kinds[0] is PacketKind.POLL
    assert PacketKind.HEADER in kinds
    assert kinds.count(PacketKind.PATCHES) >= 3


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
