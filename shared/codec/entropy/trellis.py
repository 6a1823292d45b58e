"""Dependent quantisation: on which of two quantisers a residual lies follows from the residuals before it.

```
points, POINT_PARTS apart   -4  -3  -2  -1   0   1   2   3   4
first quantiser             -2      -1       0       1       2      after an even state
second quantiser                -2      -1   0   1       2          after an odd state: residual k at 2 k - sign k
```
Together they are finer than a quantiser that takes as many bits on its own; the encoder looks for the way through the
states that costs least (`trellis_search.py`). This is trellis-coded quantisation with union quantisers (Marcellin and
Fischer 1990), as in JPEG 2000 part 2 and H.266.

Only residuals that are likely to be large take part. Those of one packet in one part of a step form lanes. A lane is
a ring: the state that it begins in follows from its own residuals, so that none is worse off for being the first.
That can be because tables know nothing of states: all residuals are read before any is placed.

The trellis is linear over GF(2), and so are rings: a state is that of a lane which began in state 0, plus what so
many even residuals make of the state that it did begin in.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.arrays import BoolArray, Int64Array

NEXT_STATES: Final = np.array([[0, 1], [3, 2], [5, 4], [6, 7], [1, 0], [2, 3], [4, 5], [7, 6]], np.int8)
"""(STATES, 2) the state after an even and after an odd residual: Ungerboeck's trellis, as in JPEG 2000 part 2."""

STATES: Final = len(NEXT_STATES)

POINT_PARTS: Final = 39
"""From one point to the next, in MEAN_PARTS of a quantiser step: about as many bits as without, and a finer picture."""

LEAST_SCALE: Final = 16
"""Residuals of narrower spreads are quantised on their own: nearly all are 0."""

LEAST_COUNT: Final = 6
"""Where a packet has fewer that take part, they too are quantised on their own."""

LANE: Final = 64
"""Residuals in the longest lane."""

PERIOD: Final = 4
"""So many even residuals lead every state back to itself."""

STARTS: Final = np.array(
    [[0, 5, 1, 4, 2, 7, 3, 6], [0, 1, 2, 3, 5, 4, 7, 6], [0, 1, 3, 2, 7, 6, 4, 5], [0, 1, 2, 3, 5, 4, 7, 6]], np.int8
)
"""(PERIOD, STATES) the state that a lane begins in, by its length modulo PERIOD and by where it would end had it begun
in state 0. Linear maps, chosen so that the state that it ends in, too, is another for every beginning."""


@dataclass(frozen=True)
class Lanes:
    """The residuals of a part of a step that depend on each other."""

    where: Int64Array
    """(n,) their places among all residuals of the part, which are (t, part), flattened."""
    lanes: Int64Array
    """(n,) the lane of each."""
    places: Int64Array
    """(n,) its place in the lane."""
    lengths: Int64Array
    """(lanes,)."""

    @property
    def longest(self) -> int:
        """Residuals in the longest lane."""
        return int(self.lengths.max(initial=0))


NO_LANES: Final = Lanes(*(np.zeros(0, np.int64) for _ in range(4)))
"""Of a part whose residuals are all quantised on their own."""


def lanes_of(scales: Int64Array, packets: Int64Array) -> Lanes:
    """The lanes of a part of a step.

    Args:
        scales: (t, part) how far from the mean residuals are likely to be.
        packets: (t,) number of the packet that each patch travels in.

    Returns:
        Lanes of one packet each, the same whatever other packets there are.
    """
    order = np.argsort(packets, kind="stable")
    rows, columns = np.nonzero(scales[order] >= LEAST_SCALE)
    if len(rows) < LEAST_COUNT:
        return NO_LANES
    in_order = packets[order[rows]]
    starts = np.flatnonzero(np.diff(in_order, prepend=in_order[0] - 1))
    counts = np.diff(starts, append=len(rows))
    shares = np.where(counts >= LEAST_COUNT, -(-counts // LANE), 0)
    rank, share = np.arange(len(rows)) - starts.repeat(counts), shares.repeat(counts)
    part = share > 0
    lanes = (np.cumsum(shares) - shares).repeat(counts)[part] + rank[part] % share[part]
    where = order[rows[part]] * scales.shape[1] + columns[part]
    return Lanes(where, lanes, rank[part] // share[part], np.bincount(lanes, minlength=int(shares.sum())))


def on_second(residuals: Int64Array, lanes: Lanes) -> BoolArray:
    """(n,) which of (n,) residuals in lanes lie on the second quantiser."""
    # A state is what PERIOD-periodic drift makes of the sum of the state at the beginning and of a residual each.
    sums = np.zeros((lanes.longest + 1, len(lanes.lengths)), np.int8)
    sums[lanes.places + 1, lanes.lanes] = (residuals & 1) * _SHARES[lanes.places % PERIOD]
    np.bitwise_xor.accumulate(sums, axis=0, out=sums)
    turns = lanes.lengths % PERIOD
    starts = STARTS[turns, DRIFT[turns, sums[lanes.lengths, np.arange(len(turns))]]]
    states = DRIFT[lanes.places % PERIOD, sums[lanes.places, lanes.lanes] ^ starts[lanes.lanes]]
    return np.asarray(states & 1, np.bool_)


def points(residuals: Int64Array, second: BoolArray) -> Int64Array:
    """Which points residuals stand for, counted from the mean; `second`: those on the second quantiser."""
    return np.asarray(2 * residuals - np.sign(residuals) * second, np.int64)


def _drift() -> NDArray[np.int8]:
    drift = [np.arange(STATES, dtype=np.int8)]
    for _ in range(PERIOD - 1):
        drift.append(NEXT_STATES[drift[-1], 0])
    return np.stack(drift)


DRIFT: Final = _drift()
"""(PERIOD, STATES) where so many even residuals lead from each state."""

_SHARES: Final = np.array([DRIFT[-(place + 1) % PERIOD, NEXT_STATES[0, 1]] for place in range(PERIOD)], np.int8)
"""(PERIOD,) what an odd residual at a place adds to the state at the beginning, so to speak."""
