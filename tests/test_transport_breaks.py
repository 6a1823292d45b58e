"""Streams that break under the sender: it asks first what has arrived, and then goes on."""

from dataclasses import replace

import pytest

from shared.feedback import Arrived, Feedback
from shared.packets import Packet, PacketKind
from tests.transport_fakes import ID, LINK, SURE, begun, packed
from tests.transport_run import transmit
from transmitter.transport.contract import SenderSettings
from transmitter.transport.sender import Sender


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
    sender, _ = begun()
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
