"""The encoder's half of dependent quantisation: the cheapest way through the states of every lane.

```
way   2 * quantiser + parity: what the residual at a place is like
```
Viterbi's algorithm, from every state that a lane may begin in at once: the ring (`trellis.py`) closes only in the
state that belongs to the beginning, and the cheapest of those is taken. All lanes of a part take each step together.
"""

from typing import Final

import numpy as np

from shared.arrays import BoolArray, Float32Array, Int64Array
from shared.codec.entropy.trellis import DRIFT, NEXT_STATES, PERIOD, STARTS, STATES, Lanes

WAYS: Final = 4
"""Two quantisers, two parities."""

_NEVER: Final = np.float32(1e30)
_STATE: Final = np.arange(STATES)


def _branches() -> Int64Array:
    into = [[(s, 2 * (s & 1) + odd) for s in _STATE for odd in (0, 1) if NEXT_STATES[s, odd] == end] for end in _STATE]
    return np.array(into, np.int64).transpose(2, 1, 0)


_FROM, _WAY = _branches()
"""(2, STATES) the two branches into each state: from which, and by which way."""


def _ends() -> Int64Array:
    ends = np.empty((PERIOD, STATES), np.int64)
    for turns, starts in enumerate(STARTS):
        ends[turns, starts] = _STATE ^ DRIFT[turns, starts]
    return ends


_ENDS: Final = _ends()
"""(PERIOD, STATES) the state that a lane ends in, by its length modulo PERIOD and the state that it begins in."""


def cheapest_ways(costs: Float32Array, lanes: Lanes) -> Int64Array:
    """What residuals should be like so that those of each lane together cost least.

    Args:
        costs: (WAYS, n) of each residual in lanes, at its best, for each way.
        lanes: theirs.

    Returns:
        (n,) ways, which `trellis.on_second` agrees with.
    """
    # Longest first, so that those which go on at a place are the first so many.
    order = np.argsort(-lanes.lengths, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    lengths, lane = lanes.lengths[order], rank[lanes.lanes]
    table = np.zeros((lanes.longest, WAYS, len(order)), np.float32)
    table[lanes.places, :, lane] = costs.T
    going = np.count_nonzero(lengths > np.arange(lanes.longest)[:, None], axis=1).tolist()
    totals, turnings = _forward(table[:, _WAY], going)
    starts = totals[_ENDS[lengths % PERIOD].T, _STATE[:, None], np.arange(len(order))].argmin(axis=0)
    ways = _back(turnings, going, starts, _ENDS[lengths % PERIOD, starts])
    return ways[lanes.places, lane]


def _forward(branches: Float32Array, going: list[int]) -> tuple[Float32Array, BoolArray]:
    """Least costs of every beginning and end.

    Args:
        branches: (places, 2, STATES, lanes) costs of the branches into each state.
        going: (places,) how many lanes, the first ones, are that long.

    Returns:
        (STATES, STATES, lanes) costs from each state to each, end first, and (places, STATES, STATES, lanes) whether
        that came by the second branch.
    """
    lanes = branches.shape[-1]
    totals = np.full((STATES, STATES, lanes), _NEVER, np.float32)
    totals[_STATE, _STATE] = 0
    turnings = np.zeros((len(branches), STATES, STATES, lanes), np.bool_)
    known, both = totals, np.empty((2, STATES, STATES, lanes), np.float32)
    for costs, count, turning in zip(branches, going, turnings, strict=True):
        if count < known.shape[-1]:
            known, both = totals[..., :count], np.empty((2, STATES, STATES, count), np.float32)
        known.take(_FROM, axis=0, out=both, mode="clip")  # by default, take would buffer what it writes
        both += costs[:, :, None, :count]
        np.less(both[1], both[0], out=turning[..., :count])
        np.minimum(both[0], both[1], out=known)
    return totals, turnings


def _back(turnings: BoolArray, going: list[int], starts: Int64Array, states: Int64Array) -> Int64Array:
    """(places, lanes) the ways that lead from (lanes,) `starts` to (lanes,) `states`, which are used up."""
    flat = turnings.reshape(len(turnings), -1).view(np.int8)
    offsets, stride = starts * len(starts) + np.arange(len(starts)), STATES * len(starts)
    branches = np.zeros((len(going), len(starts)), np.int64)
    for place in range(len(going) - 1, -1, -1):
        now = states[: going[place]]
        turned = flat[place].take(now * stride + offsets[: len(now)])
        branch = branches[place, : len(now)]
        np.multiply(turned, STATES, out=branch)
        branch += now
        _FROM.take(branch, out=now, mode="clip")
    return _WAY.take(branches)
