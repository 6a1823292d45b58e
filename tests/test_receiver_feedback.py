"""When the sender is told what: at once where it matters, seldom where it costs, and always the truth."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiver_fakes import ID, receivers, sent

from receiver.assembly import Assembly
from receiver.feedback import FEEDBACK_SHARE, INTERVAL_S, REPEATS_S, REPORTS, SLOW_INTERVAL_S, Teller
from shared.feedback import Arrived, Feedback
from shared.packets import Packet, PacketKind
from shared.reports import Report, ReportOutcome

POLL = Packet(PacketKind.POLL, ID, 0, b"")
REPORT = Report(ID, ReportOutcome.COMPLETE, 1, 1, 1, 0.1).to_packet()
STATE = (Arrived(0, header=True, runs=((0, 3),)),)


class Told:
    """A teller on a clock of its own, and what it said when."""

    def __init__(self) -> None:
        self.teller = Teller(ID)
        self.now = 100.0
        self.said: list[tuple[float, bytes]] = []

    def arrive(
        self, position: int = 0, *, size: int = 1_200, headers: int = 1, ended: bool = False, poll: bool = False
    ) -> None:
        packet = POLL if poll else Packet(PacketKind.PATCHES, ID, position, bytes(size - 12))
        self.teller.arrived(packet, size, self.now, headers=headers, ended=ended)

    def wait(self, seconds: float) -> None:
        """Lets time pass and says what is due when it is due."""
        end = self.now + seconds
        while self.teller.wake_s <= end:
            self.now = max(self.teller.wake_s, self.now)
            said = self.teller.say(self.now, STATE)
            assert said
            self.said += [(self.now, data) for data in said]
        self.now = end

    def take(self) -> list[tuple[float, bytes]]:
        said, self.said = self.said, []
        return said

    @property
    def kinds(self) -> list[PacketKind]:
        return [Packet.from_bytes(data).kind for _, data in self.said]


@pytest.fixture
def told() -> Told:
    return Told()


def opened() -> Told:
    """After the first message, with nothing to say."""
    told = Told()
    told.arrive()
    told.wait(2.0)
    told.take()
    return told


def feedback(data: bytes) -> Feedback:
    return Feedback.from_packet(Packet.from_bytes(data))


def test_nothing_is_said_to_nobody(told: Told) -> None:
    assert told.teller.wake_s == math.inf
    assert told.teller.say(1e6, ()) == []


def test_a_header_is_told_at_once(told: Told) -> None:
    told.arrive(headers=0)
    assert told.teller.wake_s > told.now
    told.wait(0.01)
    told.arrive(headers=1)
    assert told.teller.wake_s == told.now


@pytest.mark.parametrize("poll", [False, True])
def test_the_end_and_questions_are_told_at_once(poll: bool) -> None:
    told = opened()
    told.arrive(poll=poll, size=12, ended=not poll)
    assert told.teller.wake_s == told.now
    told.wait(0.0)
    assert told.kinds == [PacketKind.FEEDBACK]


def test_a_message_says_all() -> None:
    told = opened()
    told.arrive(7, size=500)
    told.now += 0.01
    told.arrive(9, size=300)
    told.wait(0.1)
    message = feedback(told.take()[0][1])
    assert (message.transmission_id, message.arrived_bytes, message.arrived_packets) == (ID, 2_000, 3)
    assert (message.last_kind, message.last_revision, message.last_position) == (PacketKind.PATCHES, 0, 9)
    assert message.last_s == pytest.approx(102.01)
    assert message.hold_s == 0.0
    assert message.revisions == STATE


def test_what_arrives_in_a_row_is_told_at_intervals(told: Told) -> None:
    for _ in range(100):
        told.arrive(size=10_000)
        told.wait(0.01)
    times = [at for at, _ in told.said]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) == pytest.approx(INTERVAL_S)
    assert max(gaps) < INTERVAL_S + 0.011


def test_messages_stay_small_beside_what_arrives(told: Told) -> None:
    for _ in range(500):
        told.arrive(size=100)
        told.wait(0.02)
    gaps = [after - before for (before, _), (after, _) in pairwise(told.said)]
    assert max(gaps) <= SLOW_INTERVAL_S + 0.021
    assert sum(len(data) for _, data in told.said[:-3]) < FEEDBACK_SHARE * 50_000 + 10 / SLOW_INTERVAL_S * 60


def test_the_last_message_is_repeated_and_then_there_is_silence(told: Told) -> None:
    told.arrive()
    told.wait(10.0)
    times = [at - 100.0 for at, _ in told.said]
    assert times == pytest.approx([0.0, *REPEATS_S])
    sequences, holds = zip(*((feedback(data).sequence, feedback(data).hold_s) for _, data in told.said), strict=True)
    assert sequences == (0, 1, 2, 3)
    assert holds == pytest.approx((0.0, *REPEATS_S))
    assert {feedback(data).arrived_packets for _, data in told.said} == {1}


def test_a_question_is_answered_once(told: Told) -> None:
    told.arrive(poll=True, headers=0)
    told.wait(10.0)
    assert [at for at, _ in told.said] == [100.0]


def test_questions_in_a_flood_are_answered_at_intervals(told: Told) -> None:
    for _ in range(1_000):
        told.arrive(poll=True, size=12)
        told.wait(0.0001)
    assert len(told.said) <= 21


def test_the_report_is_sent_three_times() -> None:
    told = opened()
    told.arrive(ended=True)
    told.wait(0.02)
    told.teller.ended(REPORT, told.now)
    told.wait(10.0)
    reports = [at for at, data in told.said if data == REPORT]
    assert [after - before for before, after in pairwise(reports)] == pytest.approx([INTERVAL_S] * (REPORTS - 1))
    assert told.kinds.count(PacketKind.FEEDBACK) == 1  # at once, and not repeated


def test_what_was_not_said_goes_with_the_report() -> None:
    told = opened()
    told.arrive(size=13)
    told.teller.ended(REPORT, told.now)
    told.wait(0.0)
    assert told.kinds == [PacketKind.FEEDBACK, PacketKind.REPORT]
    assert feedback(told.said[0][1]).arrived_packets == 2


@pytest.mark.parametrize("poll", [False, True])
def test_after_the_end_copies_and_questions_are_answered_with_both_at_intervals(poll: bool) -> None:
    told = opened()
    told.arrive(ended=True)
    told.teller.ended(REPORT, told.now)
    told.wait(5.0)
    told.take()
    for _ in range(100):
        told.arrive(ended=True, poll=poll, size=1_200)
        told.wait(0.001)
    assert told.kinds[:2] == [PacketKind.FEEDBACK, PacketKind.REPORT]
    assert told.kinds.count(PacketKind.REPORT) <= 3
    assert told.kinds.count(PacketKind.FEEDBACK) <= (21 if poll else 3)
    told.wait(1.0)
    assert told.teller.wake_s == math.inf


def test_what_opens_again_is_reported_again() -> None:
    told = opened()
    told.arrive(ended=True)
    told.teller.ended(REPORT, told.now)
    told.wait(0.01)
    told.arrive(headers=2, ended=False)
    told.take()
    told.wait(5.0)
    assert PacketKind.REPORT not in told.kinds
    assert told.kinds.count(PacketKind.FEEDBACK) == 1 + len(REPEATS_S)
    told.arrive(headers=2, ended=True)
    told.teller.ended(REPORT, told.now)
    told.take()
    told.wait(5.0)
    assert told.kinds.count(PacketKind.REPORT) == REPORTS


@given(st.lists(st.tuples(st.floats(0, 0.4), st.integers(12, 1_200), st.booleans(), st.integers(0, 1)), max_size=40))
def test_whatever_comes_is_told_in_time_and_repeated(steps: list[tuple[float, int, bool, int]]) -> None:
    told = Told()
    headers = 0
    for wait_s, size, poll, more in steps:
        headers = min(headers + more, 16)
        told.arrive(size=size, poll=poll, headers=headers)
        assert told.teller.wake_s - told.now <= SLOW_INTERVAL_S + 1e-9
        told.wait(wait_s)
    told.wait(10.0)
    assert told.teller.wake_s == math.inf
    if steps:
        last = feedback(told.said[-1][1])
        assert (last.arrived_packets, last.arrived_bytes) == (len(steps), sum(size for _, size, *_ in steps))


SENT = sent()


@given(st.sets(st.integers(0, len(SENT.packets) - 1), min_size=1), st.randoms())
def test_what_is_told_is_what_the_assembly_has(kept: set[int], random) -> None:
    assembly, teller = Assembly(ID, receivers(), 0.0), Teller(ID)
    packets = [SENT.packets[at] for at in kept]
    random.shuffle(packets)
    for number, data in enumerate(packets):
        packet, now = Packet.from_bytes(data), number * 0.013
        assembly.accept(packet, now)
        ended = assembly.outcome is not ReportOutcome.RECEIVING
        teller.arrived(packet, len(data), now, headers=assembly.headers, ended=ended)
        for message in map(feedback, teller.say(now, assembly.arrived)):
            assert message.arrived_bytes == sum(map(len, packets[: number + 1]))
            (state,) = message.revisions
            assert state.header is (assembly.header is not None)
            assert sum(stop - start for start, stop in state.runs) == assembly.received_patches
