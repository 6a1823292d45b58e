"""The encoder's half of dependent quantisation: the cheapest way through the states of every lane.

```
way    2 * quantiser + parity: what the residual at a place is like

lane   0 │ 1   2   3   4 ─► meeting ◄─ 5   6   7   8        place 0 on its own where the length is odd
begins                                                ends
```
Viterbi's algorithm, from every state that a lane may begin in at once: the ring (`trellis.py`) closes only in the
state that belongs to the beginning, and the cheapest of those is taken. All lanes of a part take each step together,
and from both ends, as a step takes the same time for many states as for few.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import BoolArray, Float32Array, Int64Array
from shared.codec.entropy.trellis import DRIFT, NEXT_STATES, PERIOD, STARTS, STATES, Lanes

WAYS: Final = 4
"""Two quantisers, two parities."""

_NEVER: Final = np.float32(1e30)
_STATE: Final = np.arange(STATES)
_NEXT: Final = NEXT_STATES.T.astype(np.int64)
_OUT: Final = 2 * (_STATE & 1) + np.array([[0], [1]])
"""(2, STATES) the ways out of each state, to `_NEXT`."""


def _branches() -> tuple[Int64Array, Int64Array]:
    into = [[(s, _OUT[odd, s]) for s in _STATE for odd in (0, 1) if _NEXT[odd, s] == end] for end in _STATE]
    before, ways = np.array(into, np.int64).transpose(2, 1, 0)
    return np.hstack([before, STATES + _NEXT]), np.hstack([ways, WAYS + _OUT])


_FROM, _WAY = _branches()
"""(2, 2 * STATES) the two branches into each state: from which, and by which way; then those out of each, for the
search from the end, whose states and ways are numbered on from these."""


def _ends() -> Int64Array:
    ends = np.empty((PERIOD, STATES), np.int64)
    for turns, starts in enumerate(STARTS):
        ends[turns, starts] = _STATE ^ DRIFT[turns, starts]
    return ends


_ENDS: Final = _ends()
"""(PERIOD, STATES) the state that a lane ends in, by its length modulo PERIOD and the state that it begins in."""


@dataclass(frozen=True)
class _Halves:
    """Lanes, longest first, from their ends to where the halves meet."""

    lengths: Int64Array
    """(lanes,)."""
    lanes: Int64Array
    """(n,) the lane of each residual."""
    odd: Int64Array
    """(n,) residuals that are the first of a lane of odd length, by their numbers."""
    paired: Int64Array
    """(n,) all others, likewise."""
    steps: Int64Array
    """(n,) of each of these, how far it is from its end of the lane."""
    sides: Int64Array
    """(n,) of each, 0 where that is the beginning, otherwise 1."""

    @property
    def going(self) -> list[int]:
        """At each step, how many lanes, the first ones, have residuals there."""
        steps = np.arange(int(self.lengths.max(initial=0)) // 2)[:, None]
        return [int(count) for count in (self.lengths // 2 > steps).sum(axis=1)]


def _halves(lanes: Lanes) -> _Halves:
    # Longest first, so that those which go on at a step are the first so many.
    order = np.argsort(-lanes.lengths, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    length = lanes.lengths[lanes.lanes]
    from_start, from_end = lanes.places - length % 2, length - 1 - lanes.places
    first = from_start < 0
    steps = np.minimum(from_start, from_end)
    paired = np.flatnonzero(~first)
    sides = (from_end < from_start).astype(np.int64)
    return _Halves(lanes.lengths[order], rank[lanes.lanes], np.flatnonzero(first), paired, steps[paired], sides[paired])


def cheapest_ways(costs: Float32Array, lanes: Lanes) -> Int64Array:
    """What residuals should be like so that those of each lane together cost least.

    Args:
        costs: (WAYS, n) of each residual in lanes, at its best, for each way.
        lanes: theirs.

    Returns:
        (n,) ways, which `trellis.on_second` agrees with.
    """
    halves = _halves(lanes)
    going, lane, count = halves.going, halves.lanes[halves.paired], len(halves.lengths)
    table = np.zeros((len(going), 2 * WAYS, count), np.float32)
    for way in range(WAYS):
        table[halves.steps, WAYS * halves.sides + way, lane] = costs[way, halves.paired]
    totals, turnings = _steps(_begun(costs, halves), table[:, _WAY], going)
    ends = _ENDS[halves.lengths % PERIOD]
    meetings, starts = _cheapest(totals, ends)
    branches, seconds = _traced(turnings, going, meetings, starts, ends[np.arange(count), starts])
    ways = np.empty(len(halves.lanes), np.int64)
    ways[halves.paired] = _WAY.take(branches[halves.steps, halves.sides, lane]) % WAYS
    begun = halves.lanes[halves.odd]
    parity = (_NEXT[1, starts[begun]] == seconds[begun]).astype(np.int64)
    ways[halves.odd] = _OUT[parity, starts[begun]]
    return ways


def _begun(costs: Float32Array, halves: _Halves) -> Float32Array:
    """(2 * STATES, STATES, lanes) costs before the first step: of what is between the beginning and each state."""
    totals = np.full((2, STATES, STATES, len(halves.lengths)), _NEVER, np.float32)
    totals[:, _STATE, _STATE] = 0
    lane = halves.lanes[halves.odd]
    totals[0, :, :, lane] = _NEVER
    for following, ways in zip(_NEXT, _OUT, strict=True):
        totals[0, following[:, None], _STATE[:, None], lane] = costs[ways[:, None], halves.odd]
    return totals.reshape(2 * STATES, STATES, -1)


def _steps(totals: Float32Array, branches: Float32Array, going: list[int]) -> tuple[Float32Array, BoolArray]:
    """Least costs between the ends and where they meet.

    Args:
        totals: of `_begun`; used up.
        branches: (steps, 2, 2 * STATES, lanes) costs of the branches.
        going: (steps,) how many lanes, the first ones, have so many.

    Returns:
        (2 * STATES, STATES, lanes) costs from each state to each beginning, and to each end; and for each step
        whether they came by the second branch.
    """
    turnings = np.zeros((len(branches), *totals.shape), np.bool_)
    known, both = totals, np.empty((2, *totals.shape), np.float32)
    for costs, count, turning in zip(branches, going, turnings, strict=True):
        if count < known.shape[-1]:
            known = totals[..., :count]
            both = np.empty((2, *known.shape), np.float32)
        known.take(_FROM, axis=0, out=both, mode="clip")  # by default, take would buffer what it writes
        both += costs[:, :, None, :count]
        np.less(both[1], both[0], out=turning[..., :count])
        np.minimum(both[0], both[1], out=known)
    return totals, turnings


def _cheapest(totals: Float32Array, ends: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Of each lane the state in which its halves meet, and the one it begins in; `ends`: (lanes, STATES)."""
    to_end = totals[STATES:][:, ends.T, np.arange(len(ends))]
    best = (totals[:STATES] + to_end).reshape(STATES * STATES, -1).argmin(axis=0)
    meetings, starts = np.divmod(best, STATES)
    return meetings, starts


def _traced(
    turnings: BoolArray, going: list[int], meetings: Int64Array, starts: Int64Array, ends: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """(steps, 2, lanes) branches, as places in `_WAY`, from the meetings outwards; (lanes,) states they began with."""
    lanes, stride = len(starts), STATES * len(starts)
    flat = turnings.reshape(len(turnings), 2 * STATES * stride).view(np.int8)
    offsets = np.stack([starts, ends]) * lanes + np.arange(lanes)
    states = np.stack([meetings, STATES + meetings])
    branches = np.zeros((len(going), 2, lanes), np.int64)
    for step in range(len(going) - 1, -1, -1):
        count = going[step]
        now, branch = states[:, :count], branches[step, :, :count]
        turned = flat[step].take(now * stride + offsets[:, :count])
        np.multiply(turned, 2 * STATES, out=branch)
        branch += now
        now[...] = _FROM.take(branch)
    return branches, states[0]
