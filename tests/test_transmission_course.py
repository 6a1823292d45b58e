"""What the transmitter keeps of a transmission: what it heard, plans made anew, what was left, what it counts."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import skimage.data
from fakes import LeftHalf, mean_sender
from prometheus_client import CollectorRegistry

from shared.errors import DeadlineError, InvalidInputError, NotFoundError
from shared.feedback import Arrived, Feedback
from shared.packets import PacketKind
from shared.pictures import png_bytes
from shared.reports import ReportOutcome
from shared.stubs.mmsc.v1 import channel_pb2, transmitter_pb2
from transmitter.budget import Budget
from transmitter.carrying import course_of, first_plan
from transmitter.hearing import Heard
from transmitter.metrics import TransmitterMetrics
from transmitter.pipeline import Job, Pipeline, StageClock
from transmitter.replanning import Reason, open_bytes, request_for
from transmitter.streams import MAX_MESSAGE_BYTES, batches, message_size
from transmitter.transport.contract import USUAL_REPLAN_S, LinkEstimate, RevisionWanted, SenderStats
from transmitter.transport.pace import PlanningPace
from transmitter.undertakings import KEPT, KEPT_S, Undertaking, Unfinished, request_digest

PHOTO = png_bytes(skimage.data.chelsea()[:120, :160])
JOB = Job(PHOTO, "left", Budget("wire_bytes", 6_000), 5, packet_bytes=300)
CALM = LinkEstimate(1e6, 0.1, 1e-6, 2e-6, 1.0, 0.05)
LOSSY = replace(CALM, loss_rate=0.1, loss_at_most=0.2)


def planned(job=JOB, believed=CALM):
    clock = StageClock(lambda: 0.0)
    pipeline = Pipeline({"ladder": mean_sender()}, {"left-half": LeftHalf()})
    *_, stage = pipeline.run(job, 64_000, clock, partial(first_plan, job, believed, PlanningPace()))
    return stage


def allowed(job, believed, limit):
    return first_plan(job, believed, PlanningPace(), limit, 120 * 160 * 3)


# ---- the first plan ---------------------------------------------------------------------------------


def test_the_first_plan_takes_all_of_the_budget_unless_some_of_it_may_get_lost():
    assert allowed(JOB, CALM, 6_000).budget_bytes == 6_000 - 12  # for a question, should the stream break
    assert 5_000 < allowed(JOB, LOSSY, 6_000).budget_bytes <= 5_400
    assert allowed(replace(JOB, open_loop=True), LOSSY, 6_000).budget_bytes == 6_000
    assert allowed(JOB, CALM, 6_000).packet_bytes == JOB.packet_bytes
    hurried = replace(JOB, time_s=0.5, packet_bytes=1_200)
    assert allowed(hurried, CALM, 6_000).packet_bytes < 1_200  # a late packet is to cost little
    assert 0.97 * 5_300 < planned(believed=LOSSY).plan.wire_bytes <= 5_400
    assert planned(believed=LOSSY).budget_bytes == 6_000


def test_with_a_deadline_the_first_plan_is_what_the_link_is_believed_to_carry():
    job = replace(JOB, budget=Budget("deadline_s", 0.2))
    stage = planned(job)
    assert stage.budget_bytes == 0.2 * 64_000 / 8
    assert stage.limit_bytes > 1e9
    assert 0.5 * 0.175e6 / 8 < stage.plan.wire_bytes <= 0.175e6 / 8
    assert allowed(replace(job, budget=Budget("wire_bytes", 900), time_s=0.2), CALM, 900).budget_bytes == 900 - 12


def test_a_budget_of_little_more_than_a_header_is_not_refused_for_what_would_be_held_back():
    smallest = next(size for size in range(100, 2_000) if fits(size))
    assert planned(replace(JOB, budget=Budget("wire_bytes", smallest)), LOSSY).plan.wire_bytes <= smallest


def fits(size):
    try:
        return planned(replace(JOB, budget=Budget("wire_bytes", size)))
    except InvalidInputError:
        return None


def test_the_sender_is_told_what_was_asked_for():
    job = replace(JOB, budget=Budget("wire_bytes", 50_000), time_s=2.0)
    stage = planned(job)
    course = course_of(job, stage, channel_pb2.LinkSettings(rate_bps=64_000, queue_bytes=65_536), CALM, 0.3)
    assert (course.allowed_s, course.closed_loop, course.message_bytes) == (2.0, True, 40)
    sender = course.begin(10.0)
    assert 0 < sum(map(len, sender.give(10.0, 10**6))) < 50_000
    assert not sender.done
    sender.give(12.5, 10**6)
    assert sender.done


def test_where_planning_takes_long_it_is_asked_for_sooner_and_the_first_plan_lasts_until_then():
    hurried = replace(JOB, budget=Budget("deadline_s", 2.0))
    believed = replace(CALM, rate_spread=0.3)
    slow, pace = PlanningPace(), PlanningPace()
    slow.learn(120 * 160 * 3, 3.0)
    shares = [first_plan(hurried, believed, each, 10**6, 120 * 160 * 3).budget_bytes for each in (pace, slow)]
    assert 1.1 * shares[0] < shares[1] < 250_000


def test_how_long_plans_take_follows_the_machine_and_the_picture():
    pace = PlanningPace()
    assert pace.replan_s(480 * 320 * 3) == pytest.approx(USUAL_REPLAN_S)
    assert pace.replan_s(4 * 480 * 320 * 3) == pytest.approx(4 * USUAL_REPLAN_S)
    assert USUAL_REPLAN_S < pace.after_first(480 * 320 * 3, 1.0) < 0.8
    for _ in range(8):
        pace.learn(1_000_000, 2.0)
    assert pace.replan_s(500_000) == pytest.approx(1.0, rel=0.01)
    pace.learn(0, 1.0)
    assert pace.replan_s(500_000) == pytest.approx(1.0, rel=0.01)


def test_packets_share_messages_up_to_a_size():
    packets = [bytes(300)] * 5 + [bytes(900)]
    assert [len(batch) for batch in batches(packets, 700)] == [2, 2, 1, 1]
    link = channel_pb2.LinkSettings(rate_bps=1e9, queue_bytes=1 << 20)
    assert message_size(link) == MAX_MESSAGE_BYTES
    link.queue_bytes = 4_000
    assert message_size(link) == 2_000


# ---- what was heard ---------------------------------------------------------------------------------


def feedback(packets, last_s, hold_s=0.0, *revisions):
    states = revisions or (Arrived(0, header=True, runs=((0, packets),)),)
    return Feedback(5, packets, 100 * packets, packets, last_s, hold_s, PacketKind.PATCHES, 0, 0, states)


def test_the_last_arrival_is_no_later_than_any_word_of_it_allows():
    heard = Heard()
    assert heard.last_arrival_s(0.1) is None
    heard.take(feedback(1, 70.0), 10.0)
    heard.take(feedback(2, 70.5), 10.9)
    assert heard.last_arrival_s(0.2) == pytest.approx(10.8)
    # The same arrival told again, and this time the way back was quicker.
    heard.take(feedback(2, 70.5, 0.5), 11.1)
    assert heard.last_arrival_s(0.2) == pytest.approx(10.5)
    # One that was overtaken changes nothing.
    heard.take(feedback(1, 70.0), 11.2)
    assert heard.last_arrival_s(0.2) == pytest.approx(10.5)
    assert (heard.messages, heard.heard_s) == (4, 11.2)
    assert heard.rate_bps == pytest.approx(8 * 100 / 0.5)


def test_of_another_stream_everything_counts_anew_but_the_messages():
    heard = Heard()
    heard.take(feedback(8, 70.0), 10.0)
    heard.begin_again()
    assert heard.last_arrival_s(0.0) is None
    assert heard.report(10, 3) is None
    heard.take(feedback(1, 3.0), 12.0)
    assert heard.last_arrival_s(0.0) == 12.0
    assert heard.messages == 2
    assert heard.rate_bps is None


def test_a_report_from_what_was_heard():
    heard = Heard()
    assert heard.report(10, 0) is None
    heard.take(feedback(1, 1.0, 0.0, Arrived(0, header=False)), 1.0)
    assert (heard.report(10, 0).outcome, heard.report(10, 0).received_patches) == (ReportOutcome.FAILED, 0)
    heard.take(feedback(5, 2.0), 2.0)
    partial = heard.report(10, 7)
    assert (partial.outcome, partial.received_patches, partial.expected_patches) == (ReportOutcome.PARTIAL, 7, 10)
    assert partial.received_bytes == 500
    assert heard.report(10, 12).outcome is ReportOutcome.COMPLETE


# ---- plans made anew --------------------------------------------------------------------------------


def test_what_is_not_there_is_planned_anew():
    stage = planned()
    replanner = stage.replanner
    expected = stage.packed.expected
    served = np.arange(expected) < expected // 3
    left = open_bytes(stage.packed, served)
    assert 0 < left < stage.packed.wire_bytes
    assert open_bytes(stage.packed, np.ones(expected, bool)) == 0

    revised = replanner.revised(RevisionWanted(1, left // 2, 300, (served,)))
    assert revised is not None
    assert (revised.reason, revised.packed.number) == (Reason.LESS_ROOM, 1)
    assert 0.5 * left / 2 < revised.packed.wire_bytes <= left // 2
    assert len(replanner.plans) == 1
    replanner.keep(revised)
    assert len(replanner.plans) == len(replanner.packed) == 2
    np.testing.assert_array_equal(replanner.levels, np.maximum(stage.plan.levels, revised.plan.levels))

    both = (served, np.zeros(revised.packed.expected, bool))
    more = replanner.revised(RevisionWanted(2, 3 * left, 300, both))
    assert more is not None
    assert more.reason is Reason.MORE_ROOM
    assert more.packed.wire_bytes > left


def test_in_too_few_bytes_nothing_is_planned():
    stage = planned()
    assert stage.replanner.revised(RevisionWanted(1, 10, 300, (np.zeros(stage.packed.expected, bool),))) is None


def test_in_a_hurry_not_every_byte_is_used():
    assert request_for(RevisionWanted(1, 5_000, 300, ())).enough > 0.99
    request = request_for(RevisionWanted(2, 5_000, 300, (), scans=4, hurried=True), "greedy")
    assert (request.budget_bytes, request.packet_bytes, request.strategy, request.scans) == (5_000, 300, "greedy", 4)
    assert 0.9 < request.enough < 0.99


# ---- what was left ----------------------------------------------------------------------------------


def undertaking(number, deadline_s=None, digest=b"same"):
    job = replace(JOB, transmission_id=number)
    stage = planned(job)
    link = channel_pb2.LinkState(settings=channel_pb2.LinkSettings(rate_bps=1e6, queue_bytes=65_536))
    course = course_of(job, stage, link.settings, CALM, 0.3)
    course.deadline_s = deadline_s
    relevance, made = transmitter_pb2.RelevanceReady(), transmitter_pb2.PlanMade()
    return Undertaking(job, digest, relevance, made, stage, {}, link, course)


def test_what_was_left_is_given_back_once_and_not_for_ever():
    unfinished, left = Unfinished(), undertaking(7)
    unfinished.keep(left, 100.0)
    with pytest.raises(InvalidInputError, match=r"options\.transmission_id"):
        unfinished.take(7, b"other", 101.0)
    assert unfinished.take(7, b"same", 101.0) is left
    with pytest.raises(NotFoundError, match="00000007"):
        unfinished.take(7, b"same", 102.0)
    unfinished.keep(left, 102.0)
    with pytest.raises(NotFoundError):
        unfinished.take(7, b"same", 102.1 + KEPT_S)


def test_a_deadline_goes_on_counting():
    unfinished = Unfinished()
    unfinished.keep(undertaking(7, deadline_s=110.0), 100.0)
    with pytest.raises(DeadlineError, match="has passed"):
        unfinished.take(7, b"same", 110.0)


def test_the_oldest_give_way():
    unfinished, left = Unfinished(), undertaking(0)
    for number in range(KEPT + 3):
        unfinished.keep(replace(left, job=replace(JOB, transmission_id=number)), float(number))
    with pytest.raises(NotFoundError):
        unfinished.take(2, b"same", 50.0)
    assert unfinished.take(3, b"same", 50.0).job.transmission_id == 3


def test_large_pictures_take_the_room_of_many(monkeypatch):
    raw_bytes = 120 * 160 * 3
    monkeypatch.setattr("transmitter.undertakings.KEPT_RAW_BYTES", 2 * raw_bytes)
    unfinished, left = Unfinished(), undertaking(0)
    for number in range(3):
        unfinished.keep(replace(left, job=replace(JOB, transmission_id=number)), 1.0)
    with pytest.raises(NotFoundError):
        unfinished.take(0, b"same", 2.0)
    assert unfinished.take(1, b"same", 2.0).name == "00000001"


def test_requests_are_the_same_whatever_they_take_up():
    def digest(**fields):
        return request_digest(transmitter_pb2.TransmitRequest(image=PHOTO, budget={"wire_bytes": 9}, **fields))

    assert digest() != digest(query="cat")
    assert digest(options={"codec": "x"}) == digest(options={"codec": "x", "transmission_id": "00000007"})


# ---- what is counted --------------------------------------------------------------------------------


def test_every_series_of_the_transport_is_there_from_the_start_and_counts():
    registry = CollectorRegistry()
    metrics = TransmitterMetrics(registry).transport

    def value(name, **labels):
        return registry.get_sample_value(f"mmsc_transmitter_{name}", labels)

    counters = ("sent", "again", "repair", "poll")
    names = [f"{name}_bytes_total" for name in counters]
    names += ["sent_packets_total", "lost_packets_total", "dropped_patches_total", "feedback_messages_total"]
    assert {value(name) for name in [*names, "resumptions_total", "rate_error_ratio_count"]} == {0}
    assert {value("replans_total", reason=reason.value) for reason in Reason} == {0}
    assert {value("deadlines_total", outcome=outcome) for outcome in ("met", "missed")} == {0}

    before = SenderStats(sent_bytes=100, sent_packets=2, lost_packets=5)
    after = SenderStats(1_000, 12, 300, 200, 12, 4, 2, 7)
    metrics.sent(before, after)
    assert [value(name) for name in names] == [900, 300, 200, 12, 10, 0, 7, 0]
    metrics.believes(LOSSY)
    metrics.heard(3, LOSSY, 8e5)
    assert value("feedback_messages_total") == 3
    assert value("estimated_rate_bytes_per_second") == 125_000
    assert value("received_rate_bytes_per_second") == 100_000
    assert value("estimated_loss_ratio") == 0.1
    assert value("rate_error_ratio_sum") == pytest.approx(0.25)
    metrics.heard(1, LOSSY, None)
    assert value("rate_error_ratio_count") == 1
