"""The ledger: what feedback proves of every packet, what it does not, and what counts as lost."""

import pytest

from shared.feedback import Arrived, Feedback
from shared.packets import PacketKind
from tests.transport_fakes import ID, PATCHES, packed
from transmitter.transport.entries import State
from transmitter.transport.ledger import Ledger


def _ledger(packets: int = 10, header: int = 300) -> Ledger:
    ledger = Ledger()
    ledger.planned.add(packed(312 + 1_200 * packets, header=header))
    return ledger


def _hand_all(ledger: Ledger, now: float = 0.0) -> None:
    while (entry := ledger.planned.next_open()) is not None:
        ledger.hand(entry, now)


def _feedback(last: int, *packets: int, header: bool = True, kind: PacketKind = PacketKind.PATCHES) -> Feedback:
    """That packets of those numbers are there, and which came last."""
    runs = tuple((number * PATCHES, (number + 1) * PATCHES) for number in packets)
    states = (Arrived(0, header, runs if header else ()),)
    return Feedback(ID, 1, 0, 0, 5.0, 0.0, kind, 0, last if kind is PacketKind.POLL else last * PATCHES, states)


def _take(ledger: Ledger, feedback: Feedback, now: float = 1.0) -> tuple[int, list[int]]:
    """How many packets arrived, and which ones are lost."""
    assert ledger.makes_sense(feedback)
    found = ledger.resolve(feedback, ledger.copy_named(feedback, None), now)
    return len(found.arrived), [each.entry.index for each in found.lost if each.entry]


def _state(ledger: Ledger, number: int) -> State:
    return ledger.planned._patches[0][number].state


def test_the_header_goes_first_and_then_patches_by_importance() -> None:
    ledger = _ledger(3)
    order = []
    while (entry := ledger.planned.next_open()) is not None:
        order.append((entry.kind, entry.index))
        ledger.hand(entry, 0.0)
    assert order == [(PacketKind.HEADER, 0), *((PacketKind.PATCHES, number) for number in range(3))]
    assert (ledger.planned.open_bytes, ledger.sent_bytes, ledger.unresolved_bytes) == (0, 3_912, 3_912)


def test_a_packet_is_lost_when_three_later_ones_have_come() -> None:
    ledger = _ledger()
    _hand_all(ledger)
    assert _take(ledger, _feedback(2, 1, 2)) == (3, [])  # number 0 may just be late
    assert _take(ledger, _feedback(3, 1, 2, 3)) == (1, [0])
    assert _state(ledger, 0) is State.LOST
    entry = ledger.planned.next_open()
    assert entry is not None
    assert entry.index == 0
    assert ledger.planned.open_bytes == 1_200


def test_a_packet_that_was_overtaken_for_long_is_lost_too() -> None:
    ledger = _ledger()
    _hand_all(ledger)
    _take(ledger, _feedback(1, 1), now=1.0)
    assert ledger.first_passed_s == 1.0
    assert ledger.expire(0.99) == []
    assert [each.entry.index for each in ledger.expire(1.0) if each.entry] == [0]
    assert ledger.first_passed_s is None


def test_an_answered_poll_settles_everything_before_it() -> None:
    ledger = _ledger(4)
    _hand_all(ledger)
    ledger.hand_other((PacketKind.POLL, 0, 0), 12, 0.0)
    assert _take(ledger, _feedback(0, 0, 1, kind=PacketKind.POLL)) == (3, [2, 3])
    assert ledger.unresolved_packets == 0
    assert ledger.in_flight_bytes == 0


def test_who_arrives_after_all_makes_it_wait_longer_for_others() -> None:
    ledger = _ledger(20)
    _hand_all(ledger)
    assert _take(ledger, _feedback(3, 1, 2, 3)) == (4, [0])
    feedback = _feedback(4, 0, 1, 2, 3, 4)
    assert ledger.resolve(feedback, ledger.copy_named(feedback, None), 1.0).revived == 1
    assert _state(ledger, 0) is State.ARRIVED
    assert ledger.planned.next_open() is None
    assert _take(ledger, _feedback(9, 0, 1, 2, 3, 4, 7, 8, 9))[1] == []  # 5 would have been lost at 8
    assert _take(ledger, _feedback(11, 0, 1, 2, 3, 4, 7, 8, 9, 10, 11))[1] == [5]


def test_before_the_header_nothing_is_known_of_patches() -> None:
    ledger = _ledger()
    _hand_all(ledger)
    assert _take(ledger, _feedback(7, header=False))[1] == [0]  # the header alone
    header = ledger.planned.next_open()
    assert header is not None
    assert header.kind is PacketKind.HEADER
    assert ledger.unresolved_packets == 10
    ledger.hand(header, 2.0)
    assert _take(ledger, _feedback(9, *range(2, 10)))[1] == [0, 1]


def test_beyond_what_feedback_tells_nothing_is_known() -> None:
    ledger = _ledger()
    _hand_all(ledger)
    feedback = Feedback(ID, 1, 0, 0, 5.0, 0.0, PacketKind.PATCHES, 0, 90, (Arrived(0, True, ((0, 10),), 30),))
    assert _take(ledger, feedback) == (2, [1, 2])
    assert [_state(ledger, number) for number in (3, 8)] == [State.FLYING, State.FLYING]


@pytest.mark.parametrize(
    "feedback",
    [
        Feedback(ID, 1, 0, 0, 0.0, 0.0, PacketKind.PATCHES, 0, 5, ()),  # no packet begins there
        Feedback(ID, 1, 0, 0, 0.0, 0.0, PacketKind.PATCHES, 0, 90, ()),  # was not handed over
        Feedback(ID, 1, 0, 0, 0.0, 0.0, PacketKind.POLL, 0, 0, ()),  # nobody asked
        Feedback(ID, 1, 0, 0, 0.0, 0.0, PacketKind.HEADER, 0, 0, (Arrived(0, True, ((0, 101),)),)),
        Feedback(ID, 1, 0, 0, 0.0, 0.0, PacketKind.HEADER, 0, 0, (Arrived(1, True),)),
    ],
)
def test_nonsense_is_known_as_such(feedback: Feedback) -> None:
    ledger = _ledger()
    for _ in range(5):
        ledger.hand(ledger.planned.next_open(), 0.0)  # type: ignore[arg-type]  # there are eleven
    assert not ledger.makes_sense(feedback)


def test_a_new_stream_takes_what_it_says_for_the_truth() -> None:
    ledger = _ledger(5)
    _hand_all(ledger)
    _take(ledger, _feedback(4, 0, 1, 2, 4))
    assert ledger.planned.arrived_patches == 40
    ledger.begin_again(_feedback(4, 0, 3))
    assert [_state(ledger, number) for number in range(5)] == [
        State.ARRIVED,
        State.LOST,
        State.LOST,
        State.ARRIVED,
        State.LOST,
    ]
    assert (ledger.planned.arrived_patches, ledger.planned.open_bytes, ledger.in_flight_bytes) == (20, 3_600, 0)
    assert ledger.planned.arrived_bytes == 312 + 2_400


def test_without_a_word_on_the_new_stream_what_had_arrived_stays() -> None:
    ledger = _ledger(5)
    _hand_all(ledger)
    _take(ledger, _feedback(1, 0, 1))
    ledger.begin_again(None)
    assert [_state(ledger, number) for number in range(5)] == [State.ARRIVED] * 2 + [State.LOST] * 3


def test_a_header_that_the_receiver_forgot_is_sent_again() -> None:
    ledger = _ledger()
    _hand_all(ledger)
    _take(ledger, _feedback(0, kind=PacketKind.HEADER))
    assert ledger.planned.headers[0][0].state is State.ARRIVED
    _take(ledger, _feedback(8, header=False))
    assert ledger.planned.headers[0][0].state is State.LOST


def test_a_revision_takes_over_what_is_not_kept() -> None:
    ledger = _ledger(6)
    for _ in range(3):
        ledger.hand(ledger.planned.next_open(), 0.0)  # type: ignore[arg-type]  # there are seven
    ledger.planned.keep_only(1_500)  # one of the four that wait
    (served,) = ledger.planned.served()
    assert served.tolist() == [True] * 30 + [False] * 30
    ledger.planned.add(packed(2_000, number=1, header=100))
    ledger.planned.hand_over_to_revision()
    assert [_state(ledger, number) for number in range(2, 6)] == [State.WAITING, *[State.DROPPED] * 3]
    assert ledger.planned.open_bytes == 1_200 + ledger.planned.revisions[1].wire_bytes
    assert ledger.planned.missing_patches() == 10 + ledger.planned.revisions[1].expected  # nothing was given up so far


def test_what_was_sent_while_the_plan_was_made_is_not_sent_again() -> None:
    ledger = _ledger(6)
    ledger.planned.keep_only(0)
    _hand_all(ledger)
    ledger.planned.add(packed(2_000, number=1, header=100))
    ledger.planned.hand_over_to_revision()
    _take(ledger, _feedback(5, 1, 2, 3, 4, 5))
    assert _state(ledger, 0) is State.DROPPED
    assert ledger.planned.arrived()[0].tolist() == [False] * 10 + [True] * 50


def test_of_copies_the_one_that_can_have_come_is_named() -> None:
    ledger = _ledger(4)
    _hand_all(ledger, 0.0)
    _take(ledger, _feedback(3, 1, 2, 3))
    lost = ledger.planned.next_open()
    assert lost is not None
    again = ledger.hand(lost, 3.0)
    feedback = _feedback(0, 0, 1, 2, 3)  # came at 5 by the receiver's clock
    assert ledger.copy_named(feedback, 1.9) is again
    assert ledger.copy_named(feedback, 2.5) is not again
