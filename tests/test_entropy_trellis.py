"""Dependent quantisation: rings close, packets stay apart, and the search finds what no other way beats."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.entropy.trellis import (
    DRIFT,
    LANE,
    LEAST_COUNT,
    LEAST_SCALE,
    NEXT_STATES,
    PERIOD,
    STARTS,
    STATES,
    Lanes,
    lanes_of,
    on_second,
    points,
)
from shared.codec.entropy.trellis_search import WAYS, cheapest_ways


def _one_lane(length):
    every = np.arange(length)
    return Lanes(every, np.zeros(length, np.int64), every, np.array([length]))


def _second_by_hand(residuals):
    """Which of a lane's residuals are on the second quantiser, one after another as the text says it."""
    state = 0
    for residual in residuals:
        state = NEXT_STATES[state, residual & 1]
    state, second = STARTS[len(residuals) % PERIOD, state], []
    for residual in residuals:
        second.append(bool(state & 1))
        state = NEXT_STATES[state, residual & 1]
    return second


def test_trellis_is_linear_and_every_state_goes_on_in_two_ways():
    for one, other in itertools.product(range(STATES), repeat=2):
        assert NEXT_STATES[one ^ other, 0] == NEXT_STATES[one, 0] ^ NEXT_STATES[other, 0]
    assert (NEXT_STATES[:, 1] == NEXT_STATES[:, 0] ^ NEXT_STATES[0, 1]).all()
    assert (np.bincount(NEXT_STATES.ravel()) == 2).all()
    assert (NEXT_STATES[DRIFT[-1], 0] == np.arange(STATES)).all()


def test_beginning_and_end_of_a_ring_say_as_much_as_its_residuals():
    for turns, starts in enumerate(STARTS):
        ends = np.arange(STATES) ^ DRIFT[turns, starts]
        assert sorted(starts) == list(range(STATES))
        assert sorted(ends) == list(range(STATES))
        assert starts[0] == 0


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=LANE))
def test_states_of_a_lane_are_those_of_the_trellis(residuals):
    assert on_second(np.array(residuals), _one_lane(len(residuals))).tolist() == _second_by_hand(residuals)


def test_nothing_but_zeros_stays_on_the_first_quantiser():
    for length in range(1, 20):
        assert not on_second(np.zeros(length, np.int64), _one_lane(length)).any()


def test_points_of_both_quantisers_together_are_all_whole_numbers():
    residuals = np.arange(-5, 6)
    first, second = (points(residuals, np.full(11, quantiser)) for quantiser in (False, True))
    assert sorted({*first.tolist(), *second.tolist()}) == list(range(-10, 11))
    assert set(first.tolist()) & set(second.tolist()) == {0}


@settings(max_examples=50)
@given(st.integers(1, 90), st.integers(1, 32), st.integers(0, 99))
def test_lanes_of_a_packet_are_the_same_without_the_others(count, size, seed):
    rng = np.random.default_rng(seed)
    scales, packets = rng.integers(0, 2 * LEAST_SCALE, (count, size)), rng.integers(0, 4, count)
    all_lanes = lanes_of(scales, packets)
    assert len(set(all_lanes.where.tolist())) == len(all_lanes.where)
    assert (scales.ravel()[all_lanes.where] >= LEAST_SCALE).all()
    assert np.bincount(all_lanes.lanes, minlength=len(all_lanes.lengths)).tolist() == all_lanes.lengths.tolist()
    assert all_lanes.longest <= LANE
    for packet in range(4):
        own = np.flatnonzero(packets == packet)
        alone = lanes_of(scales[own], np.zeros(len(own), np.int64))
        mine = packets[all_lanes.where // size] == packet
        rows, columns = np.divmod(alone.where, size)
        assert (own[rows] * size + columns).tolist() == all_lanes.where[mine].tolist()
        assert alone.places.tolist() == all_lanes.places[mine].tolist()
        first = all_lanes.lanes[mine].min(initial=len(scales) * size)
        assert alone.lanes.tolist() == (all_lanes.lanes[mine] - first).tolist()
        wide = np.count_nonzero(scales[own] >= LEAST_SCALE)
        assert np.count_nonzero(mine) == (wide if wide >= LEAST_COUNT else 0)


def _cost_of(residual_parities, costs):
    second = _second_by_hand(residual_parities)
    return sum(costs[2 * int(on) + odd, i] for i, (on, odd) in enumerate(zip(second, residual_parities, strict=True)))


@pytest.mark.parametrize("length", [1, 2, 6, 7, 8, 9])
def test_search_finds_the_cheapest_way_of_all(length):
    rng = np.random.default_rng(length)
    for _ in range(5):
        costs = rng.random((WAYS, length)).astype(np.float32)
        ways = cheapest_ways(costs, _one_lane(length))
        assert on_second(ways & 1, _one_lane(length)).tolist() == (ways >> 1).astype(bool).tolist()
        least = min(_cost_of(parities, costs) for parities in itertools.product((0, 1), repeat=length))
        assert costs[ways, np.arange(length)].sum() == pytest.approx(least, rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_lanes_of_any_lengths_are_searched_at_once(seed):
    rng = np.random.default_rng(seed)
    packets = np.repeat(np.arange(6), rng.integers(1, 60, 6))
    lanes = lanes_of(rng.integers(0, 2 * LEAST_SCALE, (len(packets), 4)), packets)
    costs = rng.random((WAYS, len(lanes.where))).astype(np.float32)
    together = cheapest_ways(costs, lanes)
    for lane, length in enumerate(lanes.lengths.tolist()):
        mine = np.flatnonzero(lanes.lanes == lane)
        mine = mine[np.argsort(lanes.places[mine])]
        assert together[mine].tolist() == cheapest_ways(costs[:, mine], _one_lane(length)).tolist()


def test_together_they_are_finer_than_one_quantiser_of_the_same_spacing():
    """Residuals of even density: granular gain of an eight-state trellis, about .8 dB on rings of 64 (limit: 1.1)."""
    rng = np.random.default_rng(0)
    wanted = rng.uniform(20, 40, 64 * 40)
    lanes = lanes_of(np.full((len(wanted), 1), LEAST_SCALE), np.zeros(len(wanted), np.int64))
    wanted = wanted[lanes.where]
    nearest = [np.floor((wanted + second) / 2).astype(np.int64) for second in (0, 1)]
    costs, residuals = [], []
    for second, low in enumerate(nearest):
        for parity in (0, 1):
            k = low + ((low + parity) & 1)
            below = np.abs(wanted - points(k - 2, np.bool_(second))) < np.abs(wanted - points(k, np.bool_(second)))
            k = np.where(below, k - 2, k)
            residuals.append(k)
            costs.append((wanted - points(k, np.bool_(second))) ** 2)
    ways = cheapest_ways(np.array(costs, np.float32), lanes)
    chosen = np.array(residuals)[ways, np.arange(len(wanted))]
    error = np.square(wanted - points(chosen, on_second(chosen, lanes))).mean()
    gain_db = 10 * np.log10(2**2 / 12 / error)
    assert 0.7 < gain_db < 1.2
