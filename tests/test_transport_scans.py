"""The sender with plans in scans: their order, and what a tail that does not come means before a deadline."""

import random
from dataclasses import replace

import pytest

from channel_emulator.impairments import GilbertElliott, Impairments
from channel_emulator.settings import LinkSettings, Schedule
from shared.packets import MAX_REVISIONS, Packet, PacketKind
from tests.transport_fakes import ID, estimate_of, in_scans, packed, scanning_planner
from tests.transport_run import Course, transmit
from transmitter.transport.contract import LinkEstimate, PackedRevision, SenderSettings
from transmitter.transport.entries import State
from transmitter.transport.ledger import Ledger
from transmitter.transport.policy import SCANS
from transmitter.transport.sender import Sender, scans_for

LINK = LinkSettings(2e5, 0.02)
SURE = LinkEstimate(2e5, 0.02, 1e-4, 1e-3, 1.0, 0.04)


def scanned(link: LinkSettings, deadline: float, estimate: LinkEstimate | None = None, budget: int = 10**7) -> Course:
    return transmit(link, budget=budget, deadline=deadline, estimate=estimate, planner=scanning_planner)


def came(course: Course, number: int) -> float:
    """Share of a revision's packets that came."""
    plan = course.receiver.plans[number]
    return sum(1 for revision, _ in course.receiver.packets if revision == number) / len(plan.patches)


def names(given: list[bytes]) -> list[tuple[PacketKind, int, int]]:
    packets = [Packet.from_bytes(data) for data in given]
    return [(packet.kind, packet.revision, packet.position) for packet in packets]


# ---- order -----------------------------------------------------------------------------------------


def test_scans_follow_each_other_each_with_its_header() -> None:
    plan = in_scans(packed(20_000, header=100), 4)
    assert [scan.number for scan in plan.scans] == [1, 2, 3]
    assert plan.whole_bytes == sum(map(len, plan.packets)) > plan.wire_bytes
    ledger, order = Ledger(), []
    ledger.planned.add(plan)
    while (entry := ledger.planned.next_open()) is not None:
        order.append(entry.data)
        ledger.hand(entry, 0.0)
    assert order == plan.packets


def test_headers_of_later_plans_go_before_the_scans_that_are_left() -> None:
    ledger = Ledger()
    ledger.planned.add(in_scans(packed(8_000, header=100), 4))
    ledger.planned.add(packed(3_000, number=4, header=60))
    entry = ledger.planned.next_open()
    assert entry is not None
    ledger.hand(entry, 0.0)
    entry = ledger.planned.next_open()
    assert entry is not None
    assert (entry.kind, entry.revision) == (PacketKind.HEADER, 4)


def test_a_new_plan_takes_the_place_of_scans_with_their_headers() -> None:
    ledger = Ledger()
    plan = in_scans(packed(8_000, header=100), 4)
    ledger.planned.add(plan)
    ledger.planned.keep_only(plan.wire_bytes)
    served = ledger.planned.served()
    assert [each.all() for each in served] == [True, False, False, False]
    assert not any(each.any() for each in served[1:])
    ledger.planned.hand_over_to_revision()
    assert ledger.planned.open_bytes == plan.wire_bytes
    assert all(entry.state is State.DROPPED for header in ledger.planned.headers[1:] for entry in header)
    assert ledger.planned.missing_patches() == plan.expected  # each patch counts once


def test_only_before_a_deadline_and_with_feedback_plans_come_in_scans() -> None:
    assert scans_for(SenderSettings(9_000, 2.0)) == SCANS > 1
    assert scans_for(SenderSettings(9_000)) == 1
    assert scans_for(SenderSettings(9_000, 2.0, closed_loop=False)) == 1


# ---- before a deadline -----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.45, 0.7])
def test_what_does_not_come_of_a_plan_is_its_last_scans_and_nothing_is_planned_anew(share: float) -> None:
    course = scanned(replace(LINK, model=Schedule(((0.0, share * 2e5),))), 2.0, replace(SURE, rate_spread=0.05))
    assert course.wanted == []
    assert came(course, 0) == 1
    assert came(course, 3 if share > 0.5 else 2) < 1
    assert course.in_time_bytes > 0.8 * share * 1.98 * 25_000
    assert course.late_bytes == 0


def test_what_is_nowhere_and_does_not_fit_is_planned_anew_in_scans() -> None:
    drop = Schedule(((0.0, 2e5), (0.15, 2e4)))
    course = scanned(replace(LINK, model=drop), 4.0, replace(SURE, rate_spread=0.05))
    assert course.wanted
    _, wanted = course.wanted[0]
    first = course.receiver.plans[0]
    assert wanted.scans == SCANS
    assert not wanted.served[0].all()
    assert not any(served.any() for served in wanted.served[1:])
    assert wanted.budget_bytes < first.whole_bytes - first.wire_bytes
    assert course.late_bytes == 0


def test_with_time_to_spare_all_scans_are_followed_by_a_finer_plan_in_one() -> None:
    slow = replace(estimate_of(LINK), rate_bps=5e4)
    course = scanned(LINK, 4.0, slow)
    _, wanted = course.wanted[0]
    assert wanted.scans == 1
    plans = [course.receiver.plans[number] for number in range(wanted.number)]
    announced = [sum(packet.patches for packet in plan.patches) for plan in plans]
    assert [served.sum() for served in wanted.served] == announced
    assert [came(course, number) for number in range(wanted.number)] == [1] * wanted.number
    assert course.in_time_bytes > 0.75 * 3.98 * 25_000
    assert course.late_bytes == 0


def test_repair_is_for_what_would_be_missed() -> None:
    """What only refines gets no repair packets; of the first scan what is lost comes back."""
    lossy = LinkEstimate(2e5, 0.05, 0.15, 0.25, 1.0, 0.5)
    link = replace(LINK, propagation_s=0.25, loss_rate=0.15)
    found = [scanned(replace(link, seed=seed), 0.7, lossy) for seed in range(12)]
    assert sum(course.sender.stats.repair_bytes for course in found) > 0
    assert sum(course.receiver.repaired for course in found) > 0
    assert sum(came(course, 0) for course in found) / len(found) > 0.87
    assert sum(course.late_bytes for course in found) == 0


def test_there_are_never_more_scans_than_revisions() -> None:
    swings = Schedule(tuple((0.5 * step, 2e5 if step % 2 else 2e4) for step in range(40)), 20.0)
    course = scanned(replace(LINK, model=swings), 20.0, SURE)
    assert max(course.receiver.plans) < MAX_REVISIONS
    assert course.sender.stats.revisions <= len(course.receiver.plans)
    assert course.sender.done


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_it_ends_in_time_and_within_its_budget(seed: int) -> None:
    numbers = random.Random(seed)
    rate = 10 ** numbers.uniform(4, 6.5)
    losses = Impairments(
        loss_rate=numbers.choice((0.0, 0.05, 0.3)),
        gilbert_elliott=GilbertElliott(0.02 * (seed % 3), 0.3, 0.0, 1.0),
        duplicate_rate=0.1 * (seed % 2),
    )
    steps = tuple((0.4 * step, rate * 10 ** numbers.uniform(-1.5, 0.3)) for step in range(8))
    link = LinkSettings(rate, numbers.choice((0.005, 0.1, 0.3)), seed=seed, model=Schedule(steps), impairments=losses)
    deadline = numbers.choice((0.4, 1.0, 3.0))
    course = scanned(link, deadline, budget=numbers.choice((2_000, 30_000, 10**7)))
    assert course.sender.done
    assert not course.hung
    assert not course.refused
    assert course.done_s <= deadline + 0.01


def test_a_stream_that_breaks_between_scans_goes_on_with_what_is_missing() -> None:
    course = transmit(LINK, budget=10**7, deadline=3.0, estimate=SURE, planner=scanning_planner, reconnect=(1.0,))
    assert course.sender.done
    assert came(course, 0) == 1
    assert course.receiver.header_there(1)
    assert course.late_bytes == 0


def test_the_sender_counts_patches_that_were_given_up_once() -> None:
    plan = in_scans(packed(20_000, header=100), 4)
    sender = Sender(plan, SenderSettings(10**6, 0.3), replace(SURE, rate_bps=2e4), ID, 0.0)
    sender.give(0.0, 2_000)
    sender.give(5.0, 2_000)
    assert sender.done
    assert 0 < sender.stats.dropped_patches <= plan.expected


def test_a_plan_may_be_a_single_scan() -> None:
    plan = packed(2_000)
    assert in_scans(plan, 1) == PackedRevision(0, plan.header, plan.patches)
    assert names(plan.packets)[0] == (PacketKind.HEADER, 0, 0)
