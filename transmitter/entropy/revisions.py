"""Which patches a revision of the entropy codec sends: those that are not there, and those that have become worth it.

At the optimum of a weighted squared error all patches gain alike from one more bit. A patch that is not there takes
part in that as in a first plan. One that is there cannot be refined, only sent once more, finer and in full; that
pays if the error it takes away is more than what its bits would take away elsewhere,

```
D(q) - D(f)  >  price * width(f)^2 * bits(f)         q: quantiser of what is there, f: of what would be sent
```
where `price * width^2` is the error that a bit is worth under the new quantisers, as when residuals are chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared.arrays import AnyArray, BoolArray, Float64Array, Int64Array
from shared.codec.entropy.context import QUALITIES
from shared.codec.entropy.levels import (
    HALF_OCTAVE,
    QUALITY_EXACT,
    QUALITY_SKIPPED,
    coarser_by,
    qualities_of,
    sending_order,
)
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.registry import ENTROPY
from shared.patches import PatchGrid
from transmitter.entropy.settings import EXACT_BELOW, Setting, Source
from transmitter.planning import Earlier, check_earlier

_PRICE: Final = DEFAULT_PRICE  # of a bit, in squared quantiser steps
_MAP_BITS: Final = 10  # by which a level map grows with every patch that is sent once more, here and there
_DEAD_ZONE: Final = 0.6  # coefficients below this part of a step come out as 0
_STEP_ERROR: Final = 1 / 12  # of the others, in squared steps
_ROUNDING: Final = 192 / 12 * 64**2  # what whole grey levels add to a patch's error, in coefficient units squared
_PART: Final = 8_192  # patches


@dataclass(frozen=True, eq=False)
class Served:
    """What is there of a picture, or on its way."""

    qualities: Int64Array
    """(grid.count,) the finest quantiser of each patch; QUALITY_SKIPPED: nothing, QUALITY_EXACT: all of it."""
    errors: Float64Array
    """(grid.count,) about how far each patch is from the photo, squared, in coefficient units; 0 where nothing is."""
    factors: Float64Array | float = 1.0
    """(grid.count,) of each patch's bits over what is guessed. They stay: who takes part must not depend on the way
    by which a search came to a setting."""
    _ratios: dict[int, Float64Array] = field(default_factory=dict)
    """By the fineness, (grid.count,) of `_gains_per_cost`."""

    @classmethod
    def of(cls, earlier: Sequence[Earlier], source: Source, factors: Float64Array | None) -> "Served":
        """What earlier revisions of a transmission have brought.

        Args:
            earlier: all of them.
            source: the picture.
            factors: see above; None: not known.

        Raises:
            InvalidInputError: a plan is not of this picture, or `served` does not fit it.
        """
        qualities = served_qualities(earlier, source.grid)
        errors = np.where(qualities >= 0, _errors(source, qualities), 0)
        return cls(qualities, errors, 1.0 if factors is None else factors)

    def closed(self, source: Source, setting: Setting, guess: Float64Array) -> BoolArray:
        """(grid.count,) patches that stay as they are.

        Args:
            source: the picture.
            setting: what is varied.
            guess: (grid.count,) bits that each might take.
        """
        if setting.fineness not in self._ratios:
            self._ratios[setting.fineness] = self._gains_per_cost(source, setting.fineness, guess)
        worth = self._ratios[setting.fineness] > setting.reluctance
        return np.asarray((self.qualities != QUALITY_SKIPPED) & ~(worth & (self.qualities != QUALITY_EXACT)))

    def _gains_per_cost(self, source: Source, fineness: int, guess: Float64Array) -> Float64Array:
        """(grid.count,) what patches gain over what their bits would gain elsewhere."""
        qualities = fineness + HALF_OCTAVE * source.offsets
        gains = self.errors - np.where(qualities < EXACT_BELOW, 0, _errors(source, qualities))
        costs = _PRICE * _widths(qualities) ** 2 * (self.factors * guess + _MAP_BITS)
        return np.asarray(gains * source.shares / costs)


def served_qualities(earlier: Sequence[Earlier], grid: PatchGrid) -> Int64Array:
    """(grid.count,) the finest quantiser that is there of each patch; see `Served`, raises as `Served.of`."""
    check_earlier(earlier, ENTROPY, grid)
    finest = np.full(grid.count, QUALITIES, np.int64)
    for revision in earlier:
        levels = revision.plan.levels
        numbers = revision.numbers(sending_order(levels, grid))
        qualities = qualities_of(levels[numbers], *revision.plan.header.level_map[:2])
        missing = np.broadcast_to(revision.missing_scans, revision.served.shape)[revision.served]
        coarser = np.minimum(qualities + coarser_by(missing, 1 + len(revision.plan.scans)), QUALITIES - 1)
        qualities = np.where(qualities >= 0, coarser, qualities)
        finest[numbers] = np.minimum(finest[numbers], qualities)
    return np.where(finest == QUALITIES, QUALITY_SKIPPED, finest)


def _errors(source: Source, qualities: Int64Array) -> Float64Array:
    """(grid.count,) squared error of each patch under its quantiser, by a rule of thumb for its coefficients."""
    widths = _widths(qualities)
    errors = np.full(len(widths), _ROUNDING)
    for start in range(0, len(errors), _PART):
        part = slice(start, start + _PART)
        errors[part] += _coefficient_errors(source, part, widths[part, None])
    return errors


def _coefficient_errors(source: Source, part: slice, widths: AnyArray) -> Float64Array:
    coefficients = source.centred(part)
    widths = widths.astype(np.float32)
    zeroed = np.abs(coefficients) < _DEAD_ZONE * widths
    errors = np.where(zeroed, np.square(coefficients), _STEP_ERROR * np.square(widths))
    return np.asarray(errors.sum(axis=1, dtype=np.float64))


def _widths(qualities: Int64Array) -> Float64Array:
    """(n,) steps of quantisers, as of `quantiser_steps`, but below 0, too."""
    return np.asarray(32 * 2.0 ** (qualities / 16))
