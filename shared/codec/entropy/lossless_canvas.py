"""The samples of a set of patches, laid out so that one step of coding reads and writes all patches at once.

A cell is a place of the patch grid; cells outside the set, next to it, hold guesses made of their neighbours'
samples, so that every context is defined.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from shared.arrays import AnyArray, Float32Array, Int64Array, UInt8Array
from shared.errors import InvalidInputError
from shared.patches import PATCH_SIZE

CHANNELS: Final = 3
"""Green, then red less green, then blue less green."""

POSITIONS: Final = PATCH_SIZE * PATCH_SIZE
"""Pixels of a patch; position 8 y + x is in row y and column x."""

LOWEST: Final = (0, -255, -255)
"""Smallest value of a channel's sample."""

HIGHEST: Final = (255, 255, 255)
"""Largest value of a channel's sample."""

MAX_CELLS: Final = 1 << 19
"""Largest area of the patch grid that a set of patches may span."""

SIDES: Final = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""Left, right, upper and lower neighbour as (rows, columns)."""

_AROUND: Final = (*SIDES, (-1, -1), (-1, 1), (1, -1), (1, 1))


class Canvas:
    """Samples of a set of patches, by channel, position and cell.

    Args:
        rows: (n,) row of each patch in the grid, at least 0.
        columns: (n,) column, likewise; no patch twice.
        owners: (n,) from 0; patches of different owners lie apart and know nothing of each other. None: all are one's.

    Raises:
        InvalidInputError: the places are not such, or span more than MAX_CELLS.
    """

    def __init__(self, rows: AnyArray, columns: AnyArray, owners: AnyArray | None = None) -> None:
        self.rows, self.columns = _from_the_corner(rows), _from_the_corner(columns)
        if self.rows.shape != self.columns.shape:
            raise InvalidInputError("rows", "are not as many as columns")
        self.height, self.width = (int(side.max(initial=0)) + 3 for side in (self.rows, self.columns))
        if self.height * self.width > 2 * MAX_CELLS:
            raise InvalidInputError("rows", "and columns span too large an area")
        self.cells: Int64Array = (self.rows + 1) * self.width + self.columns + 1
        """(n,) the cell of each patch; one more cell on every side surrounds them."""
        self.planes: Float32Array = np.zeros((CHANNELS, POSITIONS * self.height * self.width), np.float32)
        """(3, positions * cells) whole numbers."""
        present = np.zeros(self.height * self.width, bool)
        present[self.cells] = True
        if int(present.sum()) != len(self.cells):
            raise InvalidInputError("rows", "and columns name a patch twice")
        self.missing: Float32Array = np.stack([~present[self.cells + self.offset(*side)] for side in SIDES]).astype(
            np.float32
        )
        """(4, n) 1 where the neighbour on that side is not in the set."""
        self._guessed = self._guesses(present)
        self._owners: Int64Array | None = None
        if owners is not None:
            self._owners = np.full(self.area, -1, np.int64)
            self._owners[self.cells] = owners

    def related(self, cells: Int64Array, sites: Int64Array) -> AnyArray:
        """(neighbours, n) whether patches of these cells and of the (n,) sites have the same owner."""
        return np.array(True) if self._owners is None else self._owners[cells] == self._owners[sites]

    @property
    def area(self) -> int:
        """Cells in all."""
        return self.height * self.width

    def offset(self, rows: int, columns: int) -> int:
        """What to add to a cell's number to get there."""
        return rows * self.width + columns

    def _guesses(self, present: AnyArray) -> list[tuple[int, Int64Array, Int64Array]]:
        """By direction: cells outside the set, and the cell of the set that each takes its guesses from."""
        open_, guesses = ~present, []
        for direction, (rows, columns) in enumerate(_AROUND):
            offset = self.offset(rows, columns)
            outside = self.cells[open_[self.cells + offset]] + offset
            if len(outside):
                guesses.append((direction, outside, outside - offset))
                open_[outside] = False
        return guesses

    def guess(self, channel: int, stage: int) -> None:
        """Repeats the nearest samples known after a stage into the cells around the set."""
        plane = self.planes[channel].reshape(POSITIONS, self.area)
        known = known_positions(stage)
        for direction, outside, inside in self._guessed:
            nearest = _nearest_known(stage, direction)
            plane[known[:, None], outside] = plane[nearest[:, None], inside]


def _from_the_corner(places: AnyArray) -> Int64Array:
    found = np.asarray(places, np.int64)
    if found.ndim != 1 or found.min(initial=0) < 0 or found.max(initial=0) >= MAX_CELLS:
        raise InvalidInputError("rows", "or columns are not places of the patch grid")
    return np.asarray(found - found.min(initial=MAX_CELLS), np.int64) if len(found) else found


@dataclass(frozen=True)
class Stage:
    """Positions that are coded together in every patch."""

    half: int
    """Distance to the nearest known samples along a row or column, or a diagonal of it, in pixels."""

    positions: tuple[int, ...]
    """Pixels of a patch."""


@cache
def stages() -> tuple[Stage, ...]:
    """The corner, then lattices of spacing 8, 4 and 2: first their centres, then what lies on rows, then on columns.

    The finest are taken in two halves like the colours of a chessboard, so that the second sees the first.
    """
    found = [Stage(PATCH_SIZE, (0,))]
    for spacing in (8, 4, 2):
        half = spacing // 2
        for top, left in ((half, half), (0, half), (half, 0)):
            places = [(y, x) for y in range(top, PATCH_SIZE, spacing) for x in range(left, PATCH_SIZE, spacing)]
            colours = 2 if spacing == 2 else 1
            for colour in range(colours):
                chosen = [PATCH_SIZE * y + x for y, x in places if (y // spacing + x // spacing) % colours == colour]
                found.append(Stage(half, tuple(chosen)))
    return tuple(found)


@cache
def known_positions(stage: int) -> Int64Array:
    """Positions known once a stage is done."""
    return np.array([p for done in stages()[: stage + 1] for p in done.positions], np.int64)


@cache
def _nearest_known(stage: int, direction: int) -> Int64Array:
    """For each known position of a cell in that direction of a patch: the patch's nearest known position."""
    known = known_positions(stage)
    y, x = np.divmod(known, PATCH_SIZE)
    rows, columns = _AROUND[direction]
    squares = (y[:, None] + PATCH_SIZE * rows - y) ** 2 + (x[:, None] + PATCH_SIZE * columns - x) ** 2
    return np.asarray(known[squares.argmin(axis=1)], np.int64)


def to_planes(patches: UInt8Array) -> AnyArray:
    """Samples by channel and position.

    Args:
        patches: (n, 8, 8, 3) RGB.

    Returns:
        (3, 64, n) int16.
    """
    red, green, blue = np.moveaxis(patches.astype(np.int16), 3, 0).reshape(CHANNELS, -1, POSITIONS)
    return np.stack([green, red - green, blue - green]).transpose(0, 2, 1)


def to_patches(planes: AnyArray) -> UInt8Array:
    """The inverse of `to_planes`; values that no patch has are clipped.

    Args:
        planes: (3, 64, n) whole numbers of any type.

    Returns:
        (n, 8, 8, 3) RGB.
    """
    green = planes[0]
    rgb = np.stack([planes[1] + green, green, planes[2] + green]).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(rgb.transpose(2, 1, 0)).reshape(-1, PATCH_SIZE, PATCH_SIZE, CHANNELS)
