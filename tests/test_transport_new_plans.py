"""When the sender wants a new plan, what it says of the old ones, and what becomes of it, in virtual time."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from channel_emulator.settings import LinkSettings, Schedule
from shared.packets import MAX_REVISIONS
from tests.transport_fakes import LINK, SURE, Planner, packed, small_planner
from tests.transport_run import transmit
from transmitter.transport.contract import PackedRevision, RevisionWanted
from transmitter.transport.sender import Sender


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
