"""The order in which samples are coded, and what is known of each when its turn comes.

```
corner of every patch, over the patch grid     every 16th, then halfway between, down to all       kinds 0 to 2
lattice of spacing 8, 4, 2 within the patches  its centres, then its rows, then its columns        kinds 3 to 14
```

Each step codes its samples of one channel in all patches at once, from a context of samples known by then
(lossless_context). Red and blue of a pixel also see its green.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from shared.arrays import AnyArray, Int64Array
from shared.codec.entropy.lossless_canvas import CHANNELS, POSITIONS, SIDES, Canvas, stages
from shared.codec.entropy.lossless_context import (
    FEATURE_UNIT,
    LEAST_ACTIVITY,
    Context,
    lattice_context,
    lattice_inputs,
    lattice_nearness,
    lattice_reads,
    mean_of_known,
    normalised,
)

KINDS: Final = 15
"""Kinds of steps; each has a network for each channel."""

_ROWS: Final = 4_096  # samples whose features stay in the cache


def inputs_of(kind: int, channel: int) -> int:
    """Features that the network of a kind of step and a channel takes."""
    if kind < len(_CORNER_NEIGHBOURS):
        return len(_CORNER_NEIGHBOURS[kind]) * (channel + 2) + 2
    return lattice_inputs(kind - 2, channel)


# Neighbours of a corner over the patch grid, in units of half the lattice's spacing: of its centres, rows, columns.
_CORNER_NEIGHBOURS: Final = (
    ((-1, -1), (-1, 1), (1, -1), (1, 1), (-1, -3), (-1, 3), (1, -3), (1, 3), (-3, -1), (-3, 1), (3, -1), (3, 1)),
    ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -2), (-1, 2), (1, -2), (1, 2), (-2, -1), (-2, 1), (2, -1), (2, 1)),
    ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1), (-2, -1), (-2, 1), (2, -1), (2, 1)),
)
_WIDEST: Final = 16
_MARGIN: Final = 3 * _WIDEST


class CornerStep:
    """Corners of the patches at some places of a lattice over the patch grid.

    Has `kind`, `positions` within a patch, and `patches`, the (n,) numbers of those it codes.

    Args:
        canvas: where the samples are.
        known: (height, width) of the canvas plus a margin on each side: which corners are known; shared by the steps.
        kind: 0 to 2.
        half: half the lattice's spacing in patches.
        chosen: (rows,) the patches to code.
    """

    stage: Final = 0
    positions: Final = (0,)

    def __init__(self, canvas: Canvas, known: AnyArray, kind: int, half: int, chosen: Int64Array) -> None:
        self.kind = kind
        self._sites = canvas.cells[chosen]
        self.patches = chosen
        self._canvas, self._known, self._half = canvas, known, half

    def contexts(self, channel: int) -> Iterator[Context]:
        """What is known before the step's samples of a channel, in parts, patch by patch."""
        for start in range(0, len(self._sites), _ROWS):
            yield self._context(channel, self._sites[start : start + _ROWS])

    def _context(self, channel: int, sites: Int64Array) -> Context:
        rows, columns = np.divmod(sites, self._canvas.width)
        around = np.array(_CORNER_NEIGHBOURS[self.kind]) * self._half
        y, x = (places[None] + around[:, axis, None] for axis, places in enumerate((rows, columns)))
        seen = self._known[y + _MARGIN, x + _MARGIN]
        cells = np.where(seen, y * self._canvas.width + x, 0)
        seen &= self._canvas.related(cells, sites)
        seen = seen.astype(np.float32)
        own = self._canvas.planes[channel].take(cells)
        reference = mean_of_known(own, seen, 128.0 if channel == 0 else 0.0)
        differences = [(own - reference) * seen]
        for before in range(channel):
            plane = self._canvas.planes[before]
            differences.append((plane.take(cells) - plane.take(sites)) * seen)
        count = seen.sum(axis=0)
        magnitudes = np.abs(differences[0]).sum(axis=0) + sum(np.abs(d).sum(axis=0) / 2 for d in differences[1:])
        activity = np.where(count > 0, np.floor(16 * magnitudes / np.maximum(count, 1)) + LEAST_ACTIVITY, 1_024)
        extra = np.full((1, len(sites)), FEATURE_UNIT * self._half.bit_length(), np.float32)
        return normalised(reference, activity, differences, [FEATURE_UNIT * seen, extra])

    def place(self, channel: int, values: AnyArray) -> None:
        """Puts the values of the step's samples of a channel on the canvas, once they are known."""
        self._canvas.planes[channel][self._sites] = values
        if channel == CHANNELS - 1:
            rows, columns = np.divmod(self._sites, self._canvas.width)
            self._known[rows + _MARGIN, columns + _MARGIN] = True


class LatticeStep:
    """One stage of the lattices within the patches; attributes as of `CornerStep`.

    Args:
        canvas: where the samples are.
        stage: 1 to 12.
    """

    def __init__(self, canvas: Canvas, stage: int) -> None:
        self.kind, self.stage = stage + 2, stage
        self.positions = stages()[stage].positions
        self.patches: Int64Array = np.arange(len(canvas.cells))
        self._canvas = canvas

    def contexts(self, channel: int) -> Iterator[Context]:
        """What is known before the step's samples of a channel, in parts, position by position."""
        count = len(self._canvas.cells)
        together = max(_ROWS // max(count, 1), 1)
        for first in range(0, len(self.positions), together):
            for start in range(0, count, _ROWS):
                yield self.context(channel, slice(first, first + together), slice(start, start + _ROWS))

    def context(self, channel: int, positions: slice, patches: slice) -> Context:
        """What is known before the samples of a channel at some positions in some patches, position by position."""
        canvas, cells = self._canvas, self._canvas.cells[patches]
        table = lattice_reads(self.stage, channel)
        reads = (table[..., 0] * POSITIONS + table[..., 1]) * canvas.area + canvas.offset(1, 0) * table[..., 2]
        reads = (reads + table[..., 3])[:, positions]
        samples = canvas.planes.ravel().take((reads[..., None] + cells).reshape(len(reads), -1), mode="clip")
        missing = canvas.missing[:, None, patches] * lattice_nearness(self.stage)[:, positions, None]
        return lattice_context(samples, channel, self.stage, missing.reshape(len(SIDES), -1))

    def place(self, channel: int, values: AnyArray) -> None:
        """Puts the values of the step's samples of a channel on the canvas, once they are known."""
        plane = self._canvas.planes[channel].reshape(POSITIONS, -1)
        plane[np.array(self.positions)[:, None], self._canvas.cells] = values.reshape(len(self.positions), -1)
        self._canvas.guess(channel, self.stage)


def steps(canvas: Canvas) -> Iterator[CornerStep | LatticeStep]:
    """All steps in order; each is to be placed in all channels before the next is asked for."""
    known = np.zeros((canvas.height + 2 * _MARGIN, canvas.width + 2 * _MARGIN), bool)
    rows, columns = canvas.rows, canvas.columns
    roots = np.flatnonzero((rows % _WIDEST == 0) & (columns % _WIDEST == 0))
    lattices = [(0, _WIDEST, roots)]
    half = _WIDEST // 2
    while half:
        for kind, (top, left) in enumerate(((half, half), (0, half), (half, 0))):
            chosen = np.flatnonzero((rows % (2 * half) == top) & (columns % (2 * half) == left))
            lattices.append((kind, half, chosen))
        half //= 2
    for kind, half, chosen in lattices:
        if len(chosen):
            yield CornerStep(canvas, known, kind, half, chosen)
    for channel in range(CHANNELS):
        canvas.guess(channel, 0)
    for stage in range(1, len(stages())):
        yield LatticeStep(canvas, stage)
