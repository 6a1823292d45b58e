"""The transport's simulation: the clock, the two links, and what is measured, with small ends of its own."""

import math
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pytest

from channel_emulator.impairments import Impairments
from channel_emulator.replay import shipped_trace
from channel_emulator.settings import LinkSettings, Replay, Schedule
from evaluation.transport.scenarios import LOSS_CASES, TRACE_SCENARIOS, LossCase, shared_trace, starts
from evaluation.transport.simulation import Course, Outcome, bytes_by, carried_bytes, simulate
from receiver.contract import ArrivedPatches
from shared.feedback import Feedback
from shared.packets import Packet, PacketKind
from transmitter.transport.contract import PackedRevision, RevisionWanted, SenderStats

SIZE = 1_200
LINK = LinkSettings(1e6, 0.02, 65_536)


@dataclass
class Pouring:
    """Sends packets as fast as the channel takes them, and remembers what it is told."""

    packets: list[bytes]
    wants_at_s: float = math.inf
    heard: list[tuple[float, Feedback]] = field(default_factory=list)
    revised_s: list[float] = field(default_factory=list)
    stats: SenderStats = field(default_factory=SenderStats)
    waits: bool = False
    """Whether it is done only once all has been acknowledged."""
    _want: RevisionWanted | None = None

    @property
    def wake_s(self) -> float:
        return self.wants_at_s

    @property
    def done(self) -> bool:
        told = bool(self.heard) and self.heard[-1][1].arrived_packets == self.stats.sent_packets
        return not self.packets and (told or not self.waits)

    def give(self, now: float, room_bytes: int) -> list[bytes]:
        if now >= self.wants_at_s:
            self._want, self.wants_at_s = RevisionWanted(1, 5_000, SIZE, ()), math.inf
        count = min(room_bytes // SIZE, len(self.packets))
        given, self.packets = self.packets[:count], self.packets[count:]
        self.stats.sent_packets += len(given)
        return given

    def take(self, feedback: Feedback, now: float) -> None:
        self.heard.append((now, feedback))

    def wanted(self, now: float) -> RevisionWanted | None:
        want, self._want = self._want, None
        return want

    def revise(self, revision: PackedRevision | None, now: float) -> None:
        self.revised_s.append(now)


@dataclass(frozen=True)
class Seen:
    """Stands for a snapshot."""

    count: int


@dataclass
class Counting:
    """Answers every packet with feedback."""

    count: int = 0
    ended_s: float | None = None
    _bytes: int = 0
    _due: list[bytes] = field(default_factory=list)
    expected: int = 10

    @property
    def wake_s(self) -> float:
        return math.inf

    @property
    def complete(self) -> bool:
        return self.count == self.expected

    def take(self, data: bytes, now: float) -> None:
        self.count, self._bytes = self.count + 1, self._bytes + len(data)
        feedback = Feedback(7, self.count, self._bytes, self.count, now, 0.0, PacketKind.PATCHES, 0, 0, ())
        self._due.append(feedback.to_packet())

    def end(self, now: float) -> None:
        self.ended_s = now

    def say(self, now: float) -> list[bytes]:
        due, self._due = self._due, []
        return due

    def snapshot(self) -> ArrivedPatches | None:
        # What a picture could be made of does not matter here; how much had arrived when, does.
        return cast("ArrivedPatches", Seen(self.count)) if self.count else None


def packets(count: int) -> list[bytes]:
    body = bytes(SIZE - len(Packet(PacketKind.PATCHES, 7, 0, b"").to_bytes()))
    return [Packet(PacketKind.PATCHES, 7, place, body).to_bytes() for place in range(count)]


def nothing(_wanted: RevisionWanted) -> PackedRevision | None:
    return None


def run(count: int = 10, course: Course | None = None, *, waits: bool = False) -> tuple[Outcome, Pouring, Counting]:
    pouring, counting = Pouring(packets(count), waits=waits), Counting(expected=count)
    return simulate(pouring, counting, nothing, course or Course(LINK, LINK)), pouring, counting


def test_packets_arrive_when_the_link_has_carried_them() -> None:
    outcome, _, counting = run()
    expected = [8 * SIZE * (place + 1) / 1e6 + 0.02 for place in range(10)]
    assert [at_s for at_s, _ in outcome.arrivals] == pytest.approx(expected)
    assert outcome.complete_s == outcome.last_arrival_s == pytest.approx(expected[-1])
    assert outcome.sent_bytes == 10 * SIZE
    assert counting.ended_s == pytest.approx(expected[-1])


def test_feedback_comes_after_a_round_trip() -> None:
    outcome, pouring, _ = run()
    size = outcome.feedback[0][1]
    assert pouring.heard[0][0] == pytest.approx(8 * SIZE / 1e6 + 0.04 + 8 * size / 1e6)
    assert len(pouring.heard) == 10


def test_credit_holds_the_sender_back_and_nothing_overflows() -> None:
    narrow = replace(LINK, queue_bytes=3_000)
    outcome, _, _ = run(50, Course(narrow, LINK, tell_s=0.005))
    assert outcome.refused_packets == 0
    assert all(sent - bytes_by(outcome.arrivals, at_s + 0.02) <= 3_000 for at_s, sent in outcome.departures)
    assert outcome.last_arrival_s == pytest.approx(8 * 50 * SIZE / 1e6 + 0.02)


def test_a_transmission_begins_anywhere_in_the_model() -> None:
    link = replace(LINK, model=Schedule(((0.0, 1e6), (10.0, 2e6))))
    outcome, _, _ = run(10, Course(link, LINK, start_s=30.0))
    assert outcome.last_arrival_s == pytest.approx(8 * 10 * SIZE / 2e6 + 0.02)


def test_deadline_shows_what_had_arrived_by_then() -> None:
    for deadline_s, arrived in ((0.0296, 1), (0.0297, 1), (0.06, 4), (5.0, 10), (0.01, None)):
        outcome, _, _ = run(10, Course(LINK, LINK, start_s=3.0, deadline_s=deadline_s))
        assert (cast("Seen", outcome.at_deadline).count if outcome.at_deadline else None) == arrived
        assert cast("Seen", outcome.at_end).count == 10


def test_revision_comes_when_planning_is_over() -> None:
    asked: list[RevisionWanted] = []

    def planner(wanted: RevisionWanted) -> PackedRevision | None:
        asked.append(wanted)
        return None

    sender = Pouring(packets(10), wants_at_s=2.05, waits=True)
    outcome = simulate(sender, Counting(), planner, Course(LINK, LINK, start_s=2.0, replan_s=0.02))
    assert [wanted.budget_bytes for wanted in asked] == [5_000]
    assert sender.revised_s == [pytest.approx(2.07)]
    assert [each.wanted_s for each in outcome.replanned] == pytest.approx([0.05])
    assert outcome.replanned[0].revision is None


def test_lost_packets_do_not_arrive_and_a_sender_that_waits_for_them_is_found_out() -> None:
    lossy = replace(LINK, impairments=Impairments(loss_rate=0.5), seed=3)
    outcome, _, counting = run(40, Course(lossy, LINK))
    assert 10 < counting.count == len(outcome.arrivals) < 30
    assert not outcome.hung
    assert outcome.complete_s == math.inf
    waiting, _, _ = run(40, Course(lossy, LINK, limit_s=5.0), waits=True)
    assert waiting.done_s == math.inf  # it ends, for nothing will ever happen again, but it was never done


def test_a_sender_that_always_wants_its_turn_is_hung() -> None:
    class Restless(Pouring):
        @property
        def wake_s(self) -> float:
            return 0.0

        @property
        def done(self) -> bool:
            return False

    assert simulate(Restless(packets(1)), Counting(), nothing, Course(LINK, LINK)).hung


def test_same_seed_same_outcome() -> None:
    lossy = replace(LINK, impairments=Impairments(loss_rate=0.2, jitter_s=0.01), seed=5)
    first, second, other = (run(40, Course(replace(lossy, seed=seed), lossy))[0] for seed in (5, 5, 6))
    assert first == second
    assert first.arrivals != other.arrivals


def test_carried_bytes_is_what_a_full_link_brings() -> None:
    link = replace(LINK, model=Replay(shared_trace(shipped_trace("lte"), 0.1)), queue_bytes=2**20)
    outcome, _, _ = run(400, Course(link, LINK, start_s=16.5))
    for end_s in (0.02, 0.3, 1.0, 1.5):  # there is a handover between 17.2 and 17.6 s
        at_best = carried_bytes(link, 16.5, 16.5 + end_s)
        assert at_best - SIZE < bytes_by(outcome.arrivals, end_s + 1e-9) <= at_best
    assert carried_bytes(link, 16.5, 16.51) == 0


def test_a_share_of_a_trace_carries_that_share() -> None:
    for scenario in TRACE_SCENARIOS:
        whole = shipped_trace(scenario.trace)
        settings = scenario.settings
        assert settings.rate_bps == pytest.approx(whole.rate(0.0).mean_bps * scenario.share, rel=2e-3)
        part, full = settings.rate("forward", 0.0), whole.rate(0.0)
        for end_s in (1.0, 7.5, 20.0):
            assert part.carried_bits(0.0, end_s) == pytest.approx(full.carried_bits(0.0, end_s) * scenario.share)


def test_starts_are_spread_over_the_trace() -> None:
    trace = shipped_trace("satellite")
    found = starts(trace, 60, seed=1)
    assert found == starts(trace, 60, seed=1) != starts(trace, 60, seed=2)
    assert np.diff(found) == pytest.approx(4.0)
    assert 0 <= found[0] < found[-1] < trace.period_s


@pytest.mark.parametrize("case", LOSS_CASES)
def test_loss_cases_lose_what_they_say(case: LossCase) -> None:
    link = replace(LINK, rate_bps=1e9, impairments=case.impairments, seed=1, queue_bytes=2**27)
    count = 8_000
    outcome, _, _ = run(count, Course(link, LINK))
    assert 1 - len(outcome.arrivals) / count == pytest.approx(case.rate, abs=0.03)
