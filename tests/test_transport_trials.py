"""What is measured of a transmission: trials of a synthetic and of a small real photo, and the tables' figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from channel_emulator.impairments import Impairments
from channel_emulator.settings import LinkSettings
from evaluation.transport import report
from evaluation.transport.experiment import (
    DEADLINES,
    SYNTHETIC,
    UNLIMITED_BYTES,
    Row,
    Task,
    deadline_tasks,
    loss_tasks,
    rate_tasks,
    run_task,
)
from evaluation.transport.figures import draw
from evaluation.transport.photos import CAP_DB, AskedPhoto, Codecs
from evaluation.transport.scenarios import LOSS_CASES, TRACE_SCENARIOS
from evaluation.transport.simulation import Outcome
from evaluation.transport.synthetic import BACKGROUND_DB, GREY_DB, SyntheticPhoto
from evaluation.transport.trials import REPLAN_S, Session, Trial, Wish
from receiver.assembly import Assembly
from receiver.contract import ArrivedPatches
from shared.errors import BudgetTooSmallError
from shared.packets import Packet
from transmitter.packing import pack_revision
from transmitter.planning import Earlier, Plan, PlanRequest
from transmitter.transport.contract import SenderStats

LINK = LinkSettings(1e6, 0.02)


@pytest.fixture(scope="module")
def small_photo() -> AskedPhoto:
    """A part of a real photo, with an ellipse that is asked for."""
    image = np.ascontiguousarray(skimage.data.coffee()[120:184, 200:296])  # type: ignore[no-untyped-call]
    rows, columns = np.indices(image.shape[:2])
    mask = ((rows - 32) / 25) ** 2 + ((columns - 48) / 30) ** 2 < 1
    return AskedPhoto("small", image, np.asarray(mask, np.bool_), Codecs.load())


def arrived(photo: SyntheticPhoto, plans: list[Plan], lost: set[tuple[int, int]]) -> ArrivedPatches | None:
    """What an assembly makes of revisions of which some packets, (revision, number), got lost."""
    assembly = Assembly(7, photo.receivers, 0.0)
    for number, plan in enumerate(plans):
        packed = pack_revision(plan, 7, number)
        there = [packet.data for place, packet in enumerate(packed.patches) if (number, place) not in lost]
        for data in (*packed.header, *there):
            assembly.accept(Packet.from_bytes(data), 0.0)
    return assembly.snapshot()


# ---- the photo that is none ------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [500, 2_304, 9_216, 23_040])
@pytest.mark.parametrize("packet", [400, 1_200])
def test_a_synthetic_plan_fills_its_budget_and_has_the_oracles_quality(budget: int, packet: int) -> None:
    photo = SyntheticPhoto()
    plan = photo.plan(PlanRequest(budget, packet))
    assert 0.93 * budget < plan.wire_bytes <= budget
    assert photo.shown_db(arrived(photo, [plan], set())) == pytest.approx(photo.oracle_db(budget, packet), abs=0.25)


def test_lost_packets_of_a_synthetic_photo_show_its_background_and_a_new_plan_mends_them() -> None:
    photo = SyntheticPhoto()
    first = photo.plan(PlanRequest(9_216, 1_200))
    whole_db = photo.shown_db(arrived(photo, [first], set()))
    hole_db = photo.shown_db(arrived(photo, [first], {(0, 3)}))
    assert BACKGROUND_DB < hole_db < whole_db - 5
    served = np.ones(840, np.bool_)
    served[first.bodies[3].position : first.bodies[3].position + first.bodies[3].patches] = False
    second = photo.replan(PlanRequest(500, 1_200), [Earlier(first, served)])
    assert second is not None
    assert second.wire_bytes <= 500
    assert second.levels.sum() == first.bodies[3].patches  # nothing but the hole
    assert hole_db + 3 < photo.shown_db(arrived(photo, [first, second], {(0, 3)})) < whole_db


def test_with_bytes_to_spare_a_synthetic_photo_gets_finer() -> None:
    photo = SyntheticPhoto()
    first = photo.plan(PlanRequest(3_000, 600))
    second = photo.replan(PlanRequest(9_000, 600), [Earlier(first, np.ones(840, np.bool_))])
    assert second is not None
    assert photo.shown_db(arrived(photo, [first, second], set())) > photo.shown_db(arrived(photo, [first], set())) + 4
    assert photo.replan(PlanRequest(60, 600), [Earlier(first, np.ones(840, np.bool_))]) is None


def test_of_too_few_bytes_there_is_no_picture() -> None:
    photo = SyntheticPhoto()
    with pytest.raises(BudgetTooSmallError):
        photo.plan(PlanRequest(60, 1_200))
    assert photo.oracle_db(60, 1_200) is None
    assert photo.shown_db(None) == GREY_DB


# ---- one transmission ------------------------------------------------------------------------------


def test_a_transmission_on_a_clean_link_uses_its_budget_in_time() -> None:
    trial = Session(SyntheticPhoto(), LINK).transmit(Wish(23_040, closed_loop=False), 0.0, 0)
    assert trial.pictured
    assert trial.delivery_ratio == pytest.approx(1.0, abs=0.01)
    assert 0.98 * 23_040 < trial.arrived_bytes == trial.outcome.sent_bytes <= 23_040


def _drone(deadline_s: float) -> LinkSettings:
    return next(s for s in TRACE_SCENARIOS if (s.trace, s.deadline_s) == ("drone", deadline_s)).settings


def test_a_link_that_nearly_stood_once_is_tried_again() -> None:
    """One packet took a second there; every later deadline would be over before it were heard of."""
    session = Session(SyntheticPhoto(), _drone(0.5))
    trials = [session.transmit(Wish(UNLIMITED_BYTES, 0.5), start_s, 1) for start_s in (118.1, 120.6, 123.1)]
    assert [trial.pictured for trial in trials] == [False, True, True]


def test_after_an_outage_the_header_still_goes() -> None:
    """It is large, the rate of late was tiny: it might be late, but without it all is lost."""
    trial = Session(SyntheticPhoto(), _drone(4.0)).transmit(Wish(UNLIMITED_BYTES, 4.0), 88.60157192270759, 1)
    assert trial.pictured
    assert trial.met


@pytest.mark.parametrize("rate_bps", [6e4, 1e5, 2e5])
def test_before_a_deadline_the_link_works_nearly_to_the_end(rate_bps: float) -> None:
    """Its rate is only claimed and may fall, but while nothing else waits, no packet is too doubtful to go."""
    trial = Session(SyntheticPhoto(), LinkSettings(rate_bps, 0.02)).transmit(Wish(UNLIMITED_BYTES, 2.0), 0.0, 1)
    assert trial.met
    assert trial.outcome.last_arrival_s > 0.94 * 2.0


@pytest.mark.parametrize("rate_bps", [8e4, 4e5])
@pytest.mark.parametrize("slow", [0.7, 1.0, 1.6])
def test_before_a_deadline_the_link_does_not_idle_while_a_new_plan_is_made(rate_bps: float, slow: float) -> None:
    """Even if that takes longer than is expected."""
    session = Session(SyntheticPhoto(), LinkSettings(rate_bps, 0.02), slow * REPLAN_S)
    trial = session.transmit(Wish(UNLIMITED_BYTES, 1.5), 0.0, 1)
    assert trial.stats.revisions > 1
    assert trial.stats.sent_bytes > 0.9 * rate_bps / 8 * 1.5


def test_the_closed_loop_mends_what_the_open_loop_loses() -> None:
    lossy = replace(LINK, impairments=Impairments(loss_rate=0.1))
    photo = SyntheticPhoto()

    def shown(*, closed: bool) -> list[float]:
        trials = [Session(photo, lossy).transmit(Wish(23_040, closed_loop=closed), 0.0, seed) for seed in range(12)]
        assert all(trial.outcome.sent_bytes <= 23_040 and not trial.outcome.hung for trial in trials)
        return [photo.shown_db(trial.arrived) for trial in trials]

    assert np.mean(shown(closed=True)) > np.mean(shown(closed=False)) + 2


def test_the_same_seed_gives_the_same_trial() -> None:
    lossy = replace(LINK, impairments=Impairments(loss_rate=0.2))
    first, second, other = (
        Session(SyntheticPhoto(), lossy).transmit(Wish(9_216), 0.0, seed).outcome.arrivals for seed in (1, 1, 2)
    )
    assert first == second != other


def test_a_link_without_room_for_a_header_sends_nothing() -> None:
    trial = Session(SyntheticPhoto(), LinkSettings(1_000.0, 0.3)).transmit(
        Wish(UNLIMITED_BYTES, 0.5, closed_loop=False), 0.0, 0
    )
    assert not trial.met
    assert trial.outcome.sent_bytes == 0


def test_a_deadline_is_missed_by_what_comes_after_it_and_the_way() -> None:
    def trial(*arrivals: tuple[float, int]) -> Trial:
        outcome = Outcome(at_deadline=arrived(SyntheticPhoto(), [SyntheticPhoto().plan(PlanRequest(999, 400))], set()))
        outcome.arrivals += arrivals
        return Trial(Wish(5_000, 2.0), LINK, 10.0, 999, outcome, SenderStats())

    assert trial((1.0, 300), (2.0, 300), (2.02, 300)).met
    late = trial((1.0, 300), (2.021, 301))
    assert not late.met
    assert (late.late_bytes, late.arrived_bytes) == (301, 300)
    assert late.deliverable_bytes == pytest.approx(1e6 / 8 * (2.0 - 0.02), abs=1)
    assert not replace(trial((1.0, 300)), outcome=Outcome()).met  # no picture


# ---- a real photo ----------------------------------------------------------------------------------


def test_a_real_photo_is_sent_and_drawn(small_photo: AskedPhoto, tmp_path: Path) -> None:
    scenario = replace(TRACE_SCENARIOS[1], share=1 / 200)
    session = Session(small_photo, scenario.settings)
    trial = session.transmit(Wish(UNLIMITED_BYTES, scenario.deadline_s), 3.0, 0)
    without = session.transmit(Wish(UNLIMITED_BYTES, scenario.deadline_s, closed_loop=False), 3.0, 0)
    assert trial.pictured
    path = tmp_path / "figure.png"
    draw(small_photo, scenario, trial, without, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_oracle_is_a_plan_of_which_all_arrives(small_photo: AskedPhoto) -> None:
    for budget in (700, 1_700):
        plan = small_photo.plan(PlanRequest(budget, 1_200))
        exactly = small_photo.shown_db(small_photo.whole(plan))
        assert small_photo.oracle_db(budget, 1_200) == pytest.approx(exactly, abs=0.7)
    assert small_photo.oracle_db(small_photo.raw_bytes, 1_200) == CAP_DB
    assert small_photo.oracle_db(20, 1_200) is None


# ---- many ------------------------------------------------------------------------------------------


def test_tasks_are_as_many_as_asked_and_the_same_each_time() -> None:
    photos = {SYNTHETIC: SyntheticPhoto()}
    deadlines = list(deadline_tasks(photos, 2))
    assert deadlines == list(deadline_tasks(photos, 2))
    assert len(deadlines) == len(TRACE_SCENARIOS) * 2 * 2
    assert all(len(task.starts_s) == DEADLINES for task in deadlines)
    # With and without feedback: the same links at the same times.
    assert [task.starts_s for task in deadlines[::2]] == [task.starts_s for task in deadlines[1::2]]
    assert {task.case for task in deadline_tasks(photos, 1, ["drone"])} == {"drone"}
    assert len(list(loss_tasks(photos, 3))) == 2 * 2 * (1 + 3 * (len(LOSS_CASES) - 1))
    assert len({task.case for task in rate_tasks(photos)}) == 4


@pytest.fixture(scope="module")
def row() -> Row:
    """One with a deadline, as it is measured."""
    task = next(deadline_tasks({SYNTHETIC: SyntheticPhoto()}, 1, ["lte"]))
    assert isinstance(task, Task)
    return replace(run_task(task, SyntheticPhoto())[0], masked_db=36.0, oracle_db=40.0, deliverable_percent=2.0)


def test_checks_of_deadlines_count_what_was_possible(row: Row) -> None:
    closed = [replace(row, closed_loop=True, number=number, met=number != 1, masked_db=38.0) for number in range(4)]
    without = [replace(row, closed_loop=False, number=number, met=number == 0) for number in range(4)]
    hopeless = [replace(row, closed_loop=each, met=False, deliverable_percent=0.1) for each in (True, False)]
    found = {check.name: check for check in report.met_checks([*closed, *without, *hopeless])}
    assert found["lte: deadlines met, in all, of 4"].value == 75
    assert not found["lte: deadlines met, in all, of 4"].ok
    assert (found["lte: missed, of 4"].value, found["lte: missed, of 4"].bar) == (1, "< 3 without feedback")
    quality = {check.name: check for check in report.quality_checks([*closed, *without, *hopeless])}
    assert quality["all traces: PSNR of the oracle's, in all"].value == pytest.approx(95)
    assert quality["all traces: PSNR at the deadline"].ok


def test_checks_of_losses_compare_with_their_bars(row: Row) -> None:
    cases = {case.name: case for case in LOSS_CASES}
    rows = [
        replace(row, kind="loss", case=name, closed_loop=closed, number=number, masked_db=40 - db, pictured=pictured)
        for name, db in (("none", 0.4), ("10%", 1.9), ("20%", 4.1))
        for closed, number, pictured in ((True, 0, True), (True, 1, True), (False, 0, False))
    ]
    found = {check.name: check for check in report.loss_checks(rows, "photos")}
    assert set(cases) >= {"10%", "20%"}
    assert found["photos, loss 10%, later: PSNR lost, mean of 1"].ok
    assert not found["photos, loss 20%, later: PSNR lost, mean of 1"].ok
    assert found["photos, loss 20%, later: PSNR below that without losses"].value == pytest.approx(3.7)
    assert found["photos, loss 20%, later: PSNR below that without losses"].ok
    assert report.picture_check(rows).ok
    assert "3 of 3" in report.picture_check(rows).bar
    assert not report.budget_check([replace(row, sent_bytes=row.budget_bytes + 1)]).ok
    assert not report.end_check([replace(row, hung=True)]).ok
