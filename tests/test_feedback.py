"""The receiver's feedback on the wire: every message says all, and nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PacketError
from shared.feedback import Arrived, Feedback
from shared.packets import MAX_REVISIONS, POSITIONS, Packet, PacketKind


@st.composite
def _arrived(draw: st.DrawFn, revision: int) -> Arrived:
    ends = sorted(draw(st.sets(st.integers(0, POSITIONS), max_size=40)))
    runs = tuple(zip(ends[::2], ends[1::2], strict=False))
    return Arrived(revision, draw(st.booleans()), runs, draw(st.integers(0, POSITIONS)))


@st.composite
def _feedbacks(draw: st.DrawFn) -> Feedback:
    numbers = sorted(draw(st.sets(st.integers(0, MAX_REVISIONS - 1), max_size=4)))
    return Feedback(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 2**16 - 1)),
        draw(st.integers(0, 2**40)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 10**12)) / 1e6,
        draw(st.integers(0, 2**32 - 1)) / 1e6,
        draw(st.sampled_from(PacketKind)),
        draw(st.integers(0, MAX_REVISIONS - 1)),
        draw(st.integers(0, POSITIONS - 1)),
        tuple(draw(_arrived(number)) for number in numbers),
    )


@given(_feedbacks())
def test_a_message_comes_as_it_went(feedback: Feedback) -> None:
    assert Feedback.from_packet(Packet.from_bytes(feedback.to_packet())) == feedback


@given(_feedbacks(), st.data())
def test_nonsense_is_refused_or_read(feedback: Feedback, data: st.DataObject) -> None:
    body = bytearray(Packet.from_bytes(feedback.to_packet()).body)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    try:
        read = Feedback.from_packet(Packet(PacketKind.FEEDBACK, 1, 0, bytes(body)))
    except PacketError:
        return
    assert all(0 <= start < stop <= POSITIONS for state in read.revisions for start, stop in state.runs)


def test_of_many_runs_the_first_are_told_and_how_far_they_tell() -> None:
    runs = tuple((2 * start, 2 * start + 1) for start in range(1_000))
    feedback = Feedback(7, 1, 10, 1, 0.5, 0.0, PacketKind.PATCHES, 0, 3, (Arrived(0, True, runs),))
    packet = feedback.to_packet()
    told = Feedback.from_packet(Packet.from_bytes(packet)).revisions[0]
    assert len(packet) < 1_200
    assert told.runs == runs[: len(told.runs)]
    assert told.known_below == runs[len(told.runs)][0]


def test_other_packets_are_no_feedback() -> None:
    with pytest.raises(PacketError):
        Feedback.from_packet(Packet(PacketKind.POLL, 1, 0, b""))


def test_the_last_time_there_is_can_be_written_again() -> None:
    feedback = Feedback(1, 0, 0, 0, (2**64 - 1) / 1e6, 0.0, PacketKind.PATCHES, 0, 0, ())
    assert Feedback.from_packet(Packet.from_bytes(feedback.to_packet())) == feedback
