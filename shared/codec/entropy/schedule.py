"""The order in which the coefficients of a set of patches are coded: frequency by frequency, patch by patch.

Coefficients form groups of rising frequency. Within a group, patches form passes: first a coarse lattice, then
the patches between, so that a later pass sees neighbours on all sides. Within a pass, the coefficients of a group
follow each other in parts, so that a later part sees the earlier ones of its own patch; one part of all patches of a
pass is coded at once.

```
group 0, the three means: lattices of 8, 4, 2 and 1 patches        other groups: lattices of 2 and 1
  0 . . . 2 . . .      0: every 8th patch, nothing around it         0 2 0 2      0: every 2nd patch
  . . . . . . . .      1: the middles, seen from their corners       2 1 2 1      1: the middles
  . . . . . . . .      2: the rest, seen from four sides             0 2 0 2      2: the rest
  . . . . . . . .      and so on at half the distance                2 1 2 1
  2 . . . 1 . . .
```
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import Int64Array

GROUP_ENDS: Final = (3, 7, 16, 32, 64, 128, 192)
"""Where each group of coefficients ends."""

GROUPS: Final = len(GROUP_ENDS)

PART_SIZES: Final = (1, 1, 2, 4, 8, 16, 32)
"""Of each group, how many coefficients are coded at once."""

_MEANS_LATTICE: Final = 8
_LATTICE: Final = 2


@dataclass(frozen=True)
class Pass:
    """Patches that are coded at once."""

    distance: int
    """To the neighbours that are looked at, in patches."""
    rest: tuple[tuple[int, int], ...]
    """Row and column, modulo `period`, of the patches."""
    period: int


@dataclass(frozen=True)
class Step:
    """One pass over one group."""

    group: int
    start: int
    """The group's first coefficient."""
    end: int
    """The one after its last."""
    number: int
    """Of the pass within the group."""
    patches: Pass

    @property
    def parts(self) -> tuple[slice, ...]:
        """The coefficients of each part, in order."""
        return tuple(slice(self.start + part.start, self.start + part.stop) for part in parts_of(self.group))

    def targets(self, rows: Int64Array, columns: Int64Array) -> Int64Array:
        """Which of the patches, (n,) rows and columns in the picture's grid, the step codes: their indices."""
        period = self.patches.period
        kind = rows % period * period + columns % period
        return np.flatnonzero(np.isin(kind, [row * period + column for row, column in self.patches.rest]))


def parts_of(group: int) -> tuple[slice, ...]:
    """Which coefficients, counted from the group's first, each of its parts holds."""
    size, count = PART_SIZES[group], GROUP_ENDS[group] - (0, *GROUP_ENDS)[group]
    return tuple(slice(start, min(start + size, count)) for start in range(0, count, size))


def passes_of(group: int) -> tuple[Pass, ...]:
    """The passes of a group, in order."""
    lattice = _MEANS_LATTICE if group == 0 else _LATTICE
    passes = [Pass(lattice, ((0, 0),), lattice)]
    while lattice > 1:
        half = lattice // 2
        passes.append(Pass(half, ((half, half),), lattice))
        passes.append(Pass(half, ((0, half), (half, 0)), lattice))
        lattice = half
    return tuple(passes)


def steps(groups: int = GROUPS) -> tuple[Step, ...]:
    """All steps of the first groups, in the order of coding."""
    starts = (0, *GROUP_ENDS)
    return tuple(
        Step(group, starts[group], GROUP_ENDS[group], number, patches)
        for group in range(groups)
        for number, patches in enumerate(passes_of(group))
    )
