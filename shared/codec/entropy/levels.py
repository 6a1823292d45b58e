"""The levels of the entropy codec, what they mean, and the order in which patches are sent.

```
0 skipped │ 1 2 3 4 5 6: quantisers evenly apart, 6 the finest; the stream names it and the distance │ 7 exact
```
"""

from typing import Final

import numpy as np

from shared.arrays import AnyArray, Int16Array, Int64Array, UInt8Array
from shared.codec.entropy.context import QUALITIES
from shared.patches import PatchGrid

LEVELS: Final = 8
"""How many there are, skipped and exact included."""

SKIPPED: Final = 0
"""Nothing is sent."""

FINEST: Final = 6
"""The lossy level whose quantiser the stream names."""

EXACT: Final = 7
"""The patch comes out as it was."""

HALF_OCTAVE: Final = 8
"""Quantisers from one step width to its square root of two."""

QUALITY_SKIPPED: Final = -1
"""What stands for a quantiser where nothing arrived."""

QUALITY_EXACT: Final = -2
"""What stands for a quantiser where the patch is exact."""


_ALL_MISSING: Final = 48  # quantisers: of one of four scans there is as much to be seen as under a step 5 times as wide


def qualities_of(levels: UInt8Array, base: int, spacing: int) -> Int16Array:
    """The quantiser of each patch.

    Args:
        levels: (n,) 0 to 7.
        base: quantiser of level FINEST, 0 to 255; beyond QUALITIES - 1 all are the coarsest.
        spacing: quantisers from one level to the next, 0 to 255.

    Returns:
        (n,) 0 to QUALITIES - 1, QUALITY_SKIPPED or QUALITY_EXACT.
    """
    lossy = base + spacing * (FINEST - levels.astype(np.int16))
    qualities = np.clip(lossy, 0, QUALITIES - 1)
    qualities[levels == SKIPPED] = QUALITY_SKIPPED
    qualities[levels == EXACT] = QUALITY_EXACT
    return np.asarray(qualities, np.int16)


def coarser_by(missing: AnyArray | int, scans: int) -> AnyArray:
    """By how many quantisers patches count as coarser of which scans are missing; the measured loss, about.

    Args:
        missing: how many scans of each patch, 0 to `scans`.
        scans: in how many it comes.
    """
    return np.asarray(_ALL_MISSING * np.asarray(missing) // scans)


def sending_order(levels: UInt8Array, grid: PatchGrid) -> Int64Array:
    """Numbers of all patches that are sent: by level, highest first, along a Morton curve within a level.

    The curve keeps the patches of a packet together in the picture, so that they are context to each other.
    """
    rows, columns = np.divmod(np.arange(grid.count), grid.columns)
    order = np.lexsort((_spread_bits(rows) << 1 | _spread_bits(columns), -levels.astype(np.int16)))
    return np.asarray(order[: np.count_nonzero(levels)], np.int64)


def _spread_bits(values: Int64Array) -> Int64Array:
    """Bit k of each value, below 2^14, at bit 2 k."""
    spread = values.astype(np.int64)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | spread << shift) & mask
    return spread
