"""A picture ready to be coded, and what one setting of the entropy codec makes of it before anything is coded."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from shared.arrays import BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.context import QUALITIES, quantiser_steps
from shared.codec.entropy.levels import EXACT, FINEST, HALF_OCTAVE, sending_order
from shared.codec.entropy.schedule import GROUP_ENDS, GROUPS
from shared.codec.entropy.transform import MEANS
from shared.patches import PatchGrid
from transmitter.entropy.edges import Edges

EXACT_BELOW: Final = 30
"""Patches whose quantiser would be finer than this are sent exactly."""

COARSEST: Final = 150
"""Patches whose quantiser would be coarser than this are left to the background layer."""

OUTSIDE: Final = 16
"""The offset of what lies outside a mask: its turn comes when all inside is exact."""

ALL_EXACT: Final = EXACT_BELOW - HALF_OCTAVE * OUTSIDE - 1
"""The fineness at which every patch is exact."""

_FINE: Final = 110  # a quantiser
_TWO: Final = 2
_LIKE_EXACT: Final = 22  # the quantiser under which patches take about as much as exactly
_PART: Final = 8_192  # patches
_LEAST: Final = 1e-9
_BITS_PER_OCTAVE: Final = 0.95  # of signal over step, squared; measured with the next one on training photos
_SIGNAL: Final = 2.0
_TAKEN: Final = (0.71, 0.71, 0.62, 0.59, 0.62, 0.77, 1.0, 1.08, 0.99, 0.92, 1.03)
"""What patches took over that, by whole base-2 logarithms of it from 0: contexts tell most of patches of few bits."""
_EXPONENTS: Final = (3.0, -0.65, 0.6)  # by bits of a patch: factor, power, largest; measured, rather too large


class Allotment(NamedTuple):
    """What relevance makes of the patches, before there is a budget."""

    offsets: Int64Array
    """(grid.count,) how many half octaves coarser than the most important patch's each quantiser is."""
    merits: Float64Array
    """(grid.count,) how many half octaves coarser it would ideally be: too coarse a one is not worth sending."""
    prices: Float64Array
    """(grid.count,) what a bit is worth in each patch, in its own squared quantiser steps, over what it is worth in
    patches whose quantiser is the ideal one."""


@dataclass(frozen=True)
class Source:
    """A picture, ready to be tried."""

    patches: UInt8Array
    """(grid.count, 8, 8, 3)."""
    coefficients: Float32Array
    """(grid.count, 192), of the patches at a mask's edge what continues the inside."""
    offsets: Int64Array
    merits: Float64Array
    prices: Float64Array
    """See `Allotment`."""
    edges: Edges | None
    """The patches that a mask's edge cuts through; None without a mask."""
    grid: PatchGrid
    layer: bytes
    """The coded background."""
    means: Float64Array
    """(grid.count, 3) first coefficients that the background leads to expect."""

    def centred(self, part: slice | Int64Array) -> Float32Array:
        """(n, 192) coefficients of some patches, less what the background leads to expect."""
        coefficients = np.array(self.coefficients[part])
        coefficients[:, :MEANS] -= self.means[part]
        return coefficients

    @cached_property
    def exact_at_once(self) -> bool:
        """Whether all that matters is equally important: the inside of a mask, or everything."""
        return bool(np.isin(self.offsets, (0, OUTSIDE)).all())

    def for_exact(self, *, whole: bool) -> tuple[UInt8Array, BoolArray | None]:
        """What exact patches are coded from.

        Args:
            whole: whether all their pixels are to be exact, not only those inside a mask.

        Returns:
            (grid.count, 8, 8, 3), and (grid.count, 8, 8) which pixels are free; None: none.
        """
        return (self.patches, None) if whole or self.edges is None else self._inside_alone

    @cached_property
    def _inside_alone(self) -> tuple[UInt8Array, BoolArray]:
        assert self.edges is not None
        free = np.zeros(self.patches.shape[:-1], np.bool_)
        free[self.edges.numbers] = ~self.edges.inside
        return self.edges.continued(self.patches), free

    @cached_property
    def shares(self) -> Float64Array:
        """(grid.count,) how much of each patch counts: at the edge of a mask, what lies inside."""
        shares = np.ones(self.grid.count)
        if self.edges is not None:
            shares[self.edges.numbers] = self.edges.inside.mean(axis=(1, 2))
        return shares


@dataclass(frozen=True)
class Setting:
    """What is varied."""

    fineness: int
    """Quantiser of the most important patches; may be below 0, where all of them are exact."""
    more_exact: int = 0
    """How many of the most important lossy patches are exact nevertheless."""
    reluctance: float = 1.0
    """How many times as much as its bits gain elsewhere a patch must gain that is there already, to be sent again."""


def edges_are_whole(fineness: int) -> bool:
    """Whether patches at a mask's edge are exact outside it, too: where all else outside is not much worse."""
    return fineness + HALF_OCTAVE * OUTSIDE < _FINE


def guessed_bits(source: Source, fineness: int) -> Float64Array:
    """(grid.count,) what each patch might take, from its coefficients alone; exact ones as under a fine quantiser."""
    bits = np.empty(source.grid.count)
    # In parts, so that a large picture's coefficients are never there twice.
    for start in range(0, len(bits), _PART):
        part = slice(start, start + _PART)
        bits[part] = _octaves(source, fineness, part).sum(axis=1, dtype=np.float64)
    bits *= _BITS_PER_OCTAVE
    return bits * np.interp(np.log2(np.maximum(bits, 1.0)), np.arange(len(_TAKEN)), _TAKEN)


def guessed_shares(source: Source, fineness: int, numbers: Int64Array) -> Float64Array:
    """(GROUPS,) what of the bits of some patches each group of coefficients might take."""
    starts, octaves = [0, *GROUP_ENDS[:-1]], np.zeros(GROUPS)
    for start in range(0, len(numbers), _PART):
        found = _octaves(source, fineness, numbers[start : start + _PART]).sum(axis=0, dtype=np.float64)
        octaves += np.add.reduceat(found, starts)
    return octaves / max(float(octaves.sum()), _LEAST)


def _octaves(source: Source, fineness: int, part: slice | Int64Array) -> Float32Array:
    """(n, 192) base-2 logarithms of 1 and the signal over the quantiser's step, squared, of some patches."""
    qualities = np.minimum(fineness + HALF_OCTAVE * source.offsets[part], QUALITIES - 1)
    qualities[qualities < EXACT_BELOW] = _LIKE_EXACT
    widths = quantiser_steps()[qualities].astype(np.float32)[:, None]
    return np.asarray(np.log2(1 + _SIGNAL * np.square(source.centred(part) / widths)))


def _price_exponents(bits: Float64Array) -> Float64Array:
    """(n,) by which power of the price of a bit patches of so many bits get smaller: the fewer bits, the more."""
    factor, power, largest = _EXPONENTS
    return np.asarray(np.minimum(factor * np.maximum(bits, 1.0) ** power, largest))


def at_price(bits: Float64Array, ratio: float) -> Float64Array:
    """(n,) what patches take where a bit's price is `ratio` times that at which they take (n,) `bits`."""
    return np.asarray(bits * ratio ** -_price_exponents(bits))


def levels_at(source: Source, setting: Setting, closed: BoolArray | None = None) -> tuple[UInt8Array, int, int]:
    """What a setting makes of a picture.

    Args:
        source: the picture.
        setting: the setting.
        closed: (grid.count,) patches that are skipped whatever the setting; None: none.

    Returns:
        (grid.count,) levels, the quantiser of the finest lossy one, and the distance of the others.
    """
    qualities = setting.fineness + HALF_OCTAVE * source.offsets
    open_ = np.ones(source.grid.count, np.bool_) if closed is None else ~closed
    levels = np.where((qualities < EXACT_BELOW) & open_, EXACT, 0).astype(np.uint8)
    worth = (setting.fineness + HALF_OCTAVE * source.merits <= COARSEST) | (source.merits == 0)
    lossy = (qualities >= EXACT_BELOW) & (qualities < QUALITIES) & worth & open_
    if not lossy.any():
        return levels, 0, HALF_OCTAVE
    used = np.unique(source.offsets[lossy])
    spacing = _spacing(used)
    steps = np.rint((source.offsets[lossy] - used[0]) * (HALF_OCTAVE / max(spacing, 1)))
    levels[lossy] = FINEST - steps.astype(np.uint8)
    if setting.more_exact:
        first = sending_order(np.where(levels == FINEST, FINEST, 0).astype(np.uint8), source.grid)
        levels[first[: setting.more_exact]] = EXACT
    return levels, int(setting.fineness + HALF_OCTAVE * used[0]), spacing


def _spacing(used: Int64Array) -> int:
    """Quantisers between levels, so that the offsets in use fit the levels: exactly, if there are but two."""
    span = int(used[-1] - used[0])
    if len(used) == _TWO:
        return HALF_OCTAVE * span
    return max(HALF_OCTAVE, -(-HALF_OCTAVE * span // (FINEST - 1)))
