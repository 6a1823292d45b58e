"""What goes wrong with packets: rates against closed forms, and that it goes wrong the same way again."""

import math
import random
from itertools import groupby

import pytest

from channel_emulator.impairments import Blackouts, GilbertElliott, Impairer, Impairments
from shared.errors import InvalidInputError

PACKETS = 20_000


def impairer(settings: Impairments, seed: int = 1) -> Impairer:
    return Impairer(settings, lambda name: random.Random(f"{seed}/{name}"), 0.0)


def fates(settings: Impairments, seed: int = 1, packets: int = PACKETS) -> list[int]:
    """How many copies of each packet arrive."""
    line = impairer(settings, seed)
    return [len(line.apply(b"packet", 0.001 * n)) for n in range(packets)]


def close(count: int, probability: float, packets: int = PACKETS) -> bool:
    """Within five standard deviations of a binomial count."""
    return abs(count - packets * probability) <= 5 * math.sqrt(packets * probability * (1 - probability)) + 1


def test_nothing_goes_wrong_by_default():
    line = impairer(Impairments())
    packet = bytes(range(200))
    assert not line.acts
    assert line.apply(packet, 1.0) == [(packet, 0.0, 0.0)]


def test_losses_have_their_rate():
    assert close(fates(Impairments(loss_rate=0.05)).count(0), 0.05)


def test_gilbert_elliott_has_its_stationary_rate_and_its_runs():
    """Loss g/(g+b) in the long run; the losses come in runs of 1/b packets on average."""
    to_bad, to_good = 0.01, 0.2
    chain = GilbertElliott(to_bad, to_good, bad_loss_rate=1.0)
    found = fates(Impairments(gilbert_elliott=chain))
    runs = [len(list(run)) for copies, run in groupby(found) if not copies]
    assert found.count(0) / PACKETS == pytest.approx(to_bad / (to_bad + to_good), rel=0.2)
    assert sum(runs) / len(runs) == pytest.approx(1 / to_good, rel=0.2)


def test_a_chain_that_cannot_turn_bad_loses_by_its_good_rate():
    assert close(fates(Impairments(gilbert_elliott=GilbertElliott(good_loss_rate=0.1))).count(0), 0.1)


def test_bursts_take_packets_in_a_row():
    found = fates(Impairments(burst_rate=0.002, burst_packets=7))
    runs = [len(list(run)) for copies, run in groupby(found) if not copies]
    assert len(runs) > 10
    assert all(run % 7 == 0 for run in runs[:-1])


@pytest.mark.parametrize("rate", [1e-4, 0.03, 0.5])
def test_bits_flip_at_their_rate_wherever_they_are(rate):
    line, size, packets = impairer(Impairments(bit_error_rate=rate)), 40, 1_000
    flips = [0] * (8 * size)
    for _ in range(packets):
        (copy,) = line.apply(bytes(size), 0.0)
        assert len(copy.packet) == size
        number = int.from_bytes(copy.packet, "big")
        for place in range(8 * size):
            flips[place] += number >> place & 1
    assert close(sum(flips), rate, 8 * size * packets)
    assert close(sum(flips[::2]), rate, 4 * size * packets)
    assert close(sum(flips[:100]), rate, 100 * packets)


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e-19])
def test_bits_that_hardly_ever_flip_are_waited_for(rate):
    line = impairer(Impairments(bit_error_rate=rate))
    assert all([copy.packet for copy in line.apply(bytes(1_500), 0.0)] == [bytes(1_500)] for _ in range(100))


def test_duplicates_come_twice():
    found = fates(Impairments(duplicate_rate=0.3))
    assert close(found.count(2), 0.3)
    assert found.count(0) == 0


def test_jitter_and_holding_back_are_told_with_the_copy():
    line = impairer(Impairments(jitter_s=0.01, reorder_rate=0.25, reorder_s=0.5))
    copies = [line.apply(b"x", 0.0)[0] for _ in range(PACKETS)]
    late = [copy.late_s for copy in copies]
    assert min(late) >= 0
    assert max(late) <= 0.01
    assert sum(late) / PACKETS == pytest.approx(0.005, rel=0.03)
    assert {copy.held_s for copy in copies} == {0.0, 0.5}
    assert close(sum(copy.held_s > 0 for copy in copies), 0.25)


def test_blackouts_lose_what_departs_in_them():
    line = impairer(Impairments(blackouts=Blackouts(((1.0, 2.0), (5.0, 5.5)), period_s=10.0)))
    times = [0.0, 0.999, 1.0, 1.999, 2.0, 5.2, 5.5, 9.9, 11.5, 12.0, 15.0]
    assert [len(line.apply(b"x", at_s)) for at_s in times] == [1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0]


def test_blackouts_count_from_when_they_were_set():
    line = impairer(Impairments())
    line.change(Impairments(blackouts=Blackouts(((1.0, 2.0),))), 100.0)
    line.change(Impairments(jitter_s=0.1, blackouts=Blackouts(((1.0, 2.0),))), 100.5)  # the same ones
    assert [len(line.apply(b"x", at_s)) for at_s in (100.9, 101.5, 102.0, 201.5)] == [1, 0, 1, 1]


EVERYTHING = Impairments(
    loss_rate=0.1,
    gilbert_elliott=GilbertElliott(0.05, 0.3, 0.01, 0.8),
    burst_rate=0.01,
    burst_packets=3,
    bit_error_rate=1e-3,
    duplicate_rate=0.1,
    reorder_rate=0.1,
    reorder_s=0.2,
    jitter_s=0.1,
)


def test_the_same_seed_deals_the_same_fates_and_another_seed_others():
    def dealt(seed: int) -> list:
        line = impairer(EVERYTHING, seed)
        return [line.apply(bytes(50), 0.0) for _ in range(500)]

    assert dealt(1) == dealt(1) != dealt(2)


def test_one_process_leaves_the_fates_of_the_others_alone():
    alone = fates(Impairments(loss_rate=0.1), packets=2_000)
    among = fates(Impairments(loss_rate=0.1, duplicate_rate=1.0, bit_error_rate=0.1, jitter_s=1.0), packets=2_000)
    assert [copies > 0 for copies in alone] == [copies > 0 for copies in among]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("loss_rate", lambda: Impairments(loss_rate=1.1)),
        ("burst_rate", lambda: Impairments(burst_rate=-0.1)),
        ("burst_packets", lambda: Impairments(burst_packets=-1)),
        ("bit_error_rate", lambda: Impairments(bit_error_rate=0.6)),
        ("duplicate_rate", lambda: Impairments(duplicate_rate=math.nan)),
        ("reorder_rate", lambda: Impairments(reorder_rate=2.0)),
        ("reorder_s", lambda: Impairments(reorder_s=61.0)),
        ("jitter_s", lambda: Impairments(jitter_s=-1.0)),
        ("bad_to_good", lambda: GilbertElliott(bad_to_good=1.5)),
        ("intervals", lambda: Blackouts(((2.0, 1.0),))),
        ("intervals", lambda: Blackouts(((1.0, 3.0), (2.0, 4.0)))),
        ("intervals", lambda: Blackouts(((-1.0, 3.0),))),
        ("intervals", lambda: Blackouts(((0.0, math.nan),))),
        ("intervals", lambda: Blackouts(((0.0, 1.0),) * 10_001)),
        ("period_s", lambda: Blackouts(((1.0, 3.0),), period_s=2.0)),
    ],
)
def test_impossible_impairments_are_refused_by_name(name, make):
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert caught.value.field == name
