"""Patches of several packets on one canvas, each packet as if it were there alone.

```
picture            canvas
┌──────────┐       ┌──┐ ┌─┐ ┌────┐      corners on multiples of 16, as the coarsest lattice over the corners has it;
│ aabbb    │       │aa│ │b│ │ccc │      between packets two cells or more, so that the guesses around one are not
│ aab  ccc │  ──►  │aa│ └─┘ │c   │      those around another
└──────────┘       └──┘     └────┘
```
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from shared.arrays import AnyArray, Int64Array

_LATTICE: Final = 16
_GAP: Final = 2
_CELLS: Final = 1 << 15  # of one canvas with several packets; a cell takes 768 bytes


def apart(rows: AnyArray, columns: AnyArray, packets: AnyArray) -> tuple[Int64Array, Int64Array]:
    """Places of patches on a common canvas.

    Args:
        rows: (n,) row of each patch in the picture's grid, at least 0.
        columns: (n,) column, likewise.
        packets: (n,) number of each patch's packet, from 0; each number occurs.

    Returns:
        (n,) rows and columns on the canvas, from 0.
    """
    tops, heights = _extents(rows, packets)
    lefts, widths = _extents(columns, packets)
    shelf = max(int(np.sqrt((heights * widths).sum())), int(widths.max()))
    new_tops, new_lefts = np.zeros_like(tops), np.zeros_like(lefts)
    y = x = lowest = 0
    for number, (height, width) in enumerate(zip(heights.tolist(), widths.tolist(), strict=True)):
        if x + width > shelf:
            x, y = 0, lowest
        new_tops[number], new_lefts[number] = y, x
        x, lowest = x + width, max(lowest, y + height)
    return (
        np.asarray(rows - tops[packets] + new_tops[packets], np.int64),
        np.asarray(columns - lefts[packets] + new_lefts[packets], np.int64),
    )


def batches(rows: AnyArray, columns: AnyArray, packets: AnyArray) -> Iterator[slice]:
    """Which packets share a canvas: as many that follow each other as memory allows, one at least.

    Args:
        rows: as above.
        columns: as above.
        packets: as above.
    """
    areas = _extents(rows, packets)[1] * _extents(columns, packets)[1]
    first = total = 0
    for number, area in enumerate(areas.tolist()):
        if number > first and total + area > _CELLS:
            yield slice(first, number)
            first, total = number, 0
        total += area
    yield slice(first, len(areas))


def _extents(places: AnyArray, packets: AnyArray) -> tuple[Int64Array, Int64Array]:
    """(packets,) least place of each packet, and how many cells it takes with what keeps it apart."""
    count = int(packets.max(initial=-1)) + 1
    least, most = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(least, packets, places)
    np.maximum.at(most, packets, places)
    spans = most - least + 1 + _GAP
    return least, -(-spans // _LATTICE) * _LATTICE
