"""What is known of a set of patches while they are coded, and what a network gets to see of it.

Everything is whole numbers carried by floating point: differences, divisions that are floored, clips. None of
them comes near the 53 bits (24 for the stored features) up to which that is exact, so that two machines see the
same.

```
a target, seen from its 8 neighbours at the step's distance (of other groups: at distance 1)

group 0   means of the neighbours less an estimate of the target's, in steps of its quantiser
others    means of the neighbours less the target's; its own finer coefficients so far; the same and the
          group's own of the 4 neighbours beside it; the first 16 of the 4 at its corners
both      which neighbours are there, how much finer or coarser they are, the pass, the quantiser; and the
          target's coefficients of the parts before
```
"""

from typing import Final

import numpy as np

from shared.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array
from shared.codec.entropy.schedule import GROUP_ENDS, Step, passes_of
from shared.codec.entropy.transform import COEFFICIENTS, MEANS

QUALITIES: Final = 160
"""Quantisers, from the finest, 0, to the coarsest; 16 to an octave."""

STEP_PARTS: Final = 16
"""Features count coefficients in this part of a quantiser step."""

FEATURE_BOUND: Final = 1023
"""No feature is larger in absolute value."""

_NEIGHBOURS: Final = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
_BESIDE: Final = 4  # the first neighbours share a side with the target
_CORNER_END: Final = 16
_WEIGHTS: Final = np.array([2, 2, 2, 2, 1, 1, 1, 1], np.float64)[:, None, None]
_LINEAR: Final = 256  # differences of means beyond this are told more coarsely
_COARSER: Final = 8
_YES: Final = 64
QUALITY_ZERO: Final = 80
QUALITY_SCALE: Final = 2
_MARGIN: Final = 8  # the farthest that any step looks


def quantiser_steps() -> Float64Array:
    """(QUALITIES,) width of each quantiser's step in units of 2^-6 grey levels: half a grey level and up."""
    return np.round(32 * 2.0 ** (np.arange(QUALITIES) / 16))


def inputs_of(group: int) -> int:
    """How many features a network of that group sees."""
    end, start = GROUP_ENDS[group], (0, *GROUP_ENDS)[group]
    both = 2 * len(_NEIGHBOURS) + len(passes_of(group)) + 1
    means = MEANS * len(_NEIGHBOURS)
    if group == 0:
        return means + MEANS + both
    corner = min(end, _CORNER_END) - MEANS
    return means + (start - MEANS) + _BESIDE * (end - MEANS) + (len(_NEIGHBOURS) - _BESIDE) * corner + both


class PatchContext:
    """Patches that are being coded together.

    Args:
        rows: (n,) row of each patch in the picture's grid.
        columns: (n,) column, likewise; no place twice.
        qualities: (n,) quantiser of each patch, 0 to QUALITIES - 1.
        background: (n, 3) a first guess of each patch's means, whole numbers.
        packets: (n,) number of the packet that each patch travels in; patches of other packets are never looked at.
            None means that all travel together.
    """

    def __init__(
        self,
        rows: Int64Array,
        columns: Int64Array,
        qualities: Int64Array,
        background: Float64Array,
        packets: Int64Array | None = None,
    ) -> None:
        self.rows, self.columns, self.qualities = rows, columns, qualities
        self.count = len(rows)
        self.packets = np.zeros(self.count, np.int64) if packets is None else packets
        self.step_widths = quantiser_steps()[qualities]
        self.values = np.zeros((self.count + 1, COEFFICIENTS))
        """(n + 1, 192) coefficients decoded so far; the last row stands for every patch that is not here."""
        self._known: BoolArray = np.zeros(self.count + 1, np.bool_)
        self._background = np.concatenate([background, np.zeros((1, MEANS))])
        self._qualities: Int64Array = np.concatenate([qualities, np.zeros(1, np.int64)])
        self._packets: Int64Array = np.concatenate([self.packets, np.full(1, -1, np.int64)])
        self._used, self._kind = np.unique(qualities, return_inverse=True)
        shape = (len(self._used), self.count + 1, COEFFICIENTS)
        self._seen: Float32Array = np.zeros(shape, np.float32)
        self._places = _places(rows, columns)
        self._beside = self._places_beside()

    def estimate(self, step: Step, targets: Int64Array) -> Float64Array:
        """(targets, group) what the coefficients are measured from: of the means a guess, of all others 0."""
        if step.group:
            return np.zeros((len(targets), step.end - step.start))
        around = self._around(step.patches.distance, targets)
        weights = _WEIGHTS * self._known[around][..., None]
        errors = self.values[around, :MEANS] - self._background[around]
        total = np.maximum(weights.sum(axis=0), 1)
        return np.asarray(self._background[targets] + np.floor((weights * errors).sum(axis=0) / total))

    def features(self, step: Step, targets: Int64Array, estimate: Float64Array) -> AnyArray:
        """(targets, inputs_of(group)) float32 whole numbers of at most FEATURE_BOUND."""
        if step.group == 0:
            return self._features_of_means(step, targets, estimate)
        around = self._around(1, targets)
        base = self._kind[targets] * (self.count + 1)
        seen = self._seen.reshape(-1, COEFFICIENTS)
        parts: list[AnyArray] = [
            self._mean_differences(around, targets, self.values[targets, :MEANS], around < self.count),
            seen[base + targets, MEANS : step.start],
            *(seen[base + beside, MEANS : step.end] for beside in around[:_BESIDE]),
            *(seen[base + corner, MEANS : min(step.end, _CORNER_END)] for corner in around[_BESIDE:]),
            *self._circumstances(step, targets, around, around < self.count),
        ]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")

    def own_features(self, step: Step, part: slice, targets: Int64Array, estimate: Float64Array) -> Float64Array:
        """(targets, own) the targets' own coefficients of the step's parts before, from the (targets, group) estimate.

        Whole numbers of at most FEATURE_BOUND.
        """
        before = slice(step.start, part.start)
        if step.group:
            return self._seen[self._kind[targets], targets, before].astype(np.float64)
        width = self.step_widths[targets][:, None]
        off = self.values[targets, before] - estimate[:, : part.start - step.start]
        return _companded(np.floor(off * STEP_PARTS / width))

    def learn(self, step: Step, part: slice, targets: Int64Array, values: Float64Array) -> None:
        """Notes the decoded coefficients (targets, part) of a part of a step."""
        self.values[targets, part] = values
        if step.group == 0:
            self._known[targets] = True
            return
        for kind, width in enumerate(quantiser_steps()[self._used]):
            rows = self._beside[kind, targets] if len(self._used) > 1 else slice(None)
            steps = np.floor(values[rows] * (STEP_PARTS / width))
            self._seen[kind, targets[rows], part] = np.clip(steps, -FEATURE_BOUND, FEATURE_BOUND)

    def _places_beside(self) -> BoolArray:
        """(kinds, n + 1) whether a patch is of that quantiser or beside one that is, which sees it in its own steps."""
        beside = np.zeros((len(self._used), self.count + 1), np.bool_)
        numbers = np.arange(self.count)
        beside[self._kind, numbers] = True
        for around in self._around(1, numbers) if len(self._used) > 1 and self.count else ():
            beside[self._kind, around] = True
        return beside

    def _features_of_means(self, step: Step, targets: Int64Array, estimate: Float64Array) -> Float32Array:
        around = self._around(step.patches.distance, targets)
        known = self._known[around]
        width = self.step_widths[targets][:, None]
        parts: list[AnyArray] = [
            self._mean_differences(around, targets, estimate, known),
            _companded(np.floor((self._background[targets] - estimate) * STEP_PARTS / width)),
            *self._circumstances(step, targets, around, known),
        ]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")

    def _mean_differences(
        self, around: Int64Array, targets: Int64Array, origin: Float64Array, known: BoolArray
    ) -> Float64Array:
        """(targets, 24) means of the neighbours less (targets, 3) an origin; 0 where not known."""
        width = self.step_widths[targets][None, :, None]
        differences = np.floor((self.values[around, :MEANS] - origin) * STEP_PARTS / width) * known[..., None]
        return _companded(differences).transpose(1, 0, 2).reshape(len(targets), -1)

    def _circumstances(
        self, step: Step, targets: Int64Array, around: Int64Array, known: BoolArray
    ) -> tuple[Float64Array, ...]:
        """Which neighbours are known, by how much their quantisers differ, which pass this is, which quantiser."""
        own = self._qualities[targets]
        differences = np.clip(self._qualities[around] - own, -128, 128) * known * QUALITY_SCALE
        number = np.zeros((len(targets), len(passes_of(step.group))))
        number[:, step.number] = _YES
        quality = ((own - QUALITY_ZERO) * QUALITY_SCALE)[:, None]
        return tuple(np.asarray(part, np.float64) for part in (known.T * _YES, differences.T, number, quality))

    def _around(self, distance: int, targets: Int64Array) -> Int64Array:
        """(8, targets) indices of the neighbours; `count` where there is none."""
        rows = self.rows[targets] - self.rows.min() + _MARGIN
        columns = self.columns[targets] - self.columns.min() + _MARGIN
        around = np.stack([self._places[rows + distance * dy, columns + distance * dx] for dy, dx in _NEIGHBOURS])
        # Of another packet is as good as not there: this one may arrive alone.
        return np.where(self._packets[around] == self.packets[targets], around, self.count)


def _companded(values: Float64Array) -> Float64Array:
    """As they are up to 16 steps, 8 times more coarsely beyond, bounded."""
    beyond = np.maximum(np.abs(values) - _LINEAR, 0)
    folded = np.minimum(np.abs(values), _LINEAR) + np.floor(beyond / _COARSER)
    return np.asarray(np.sign(values) * np.minimum(folded, FEATURE_BOUND))


def _places(rows: Int64Array, columns: Int64Array) -> Int64Array:
    """Index of the patch at every place of the box around them, with a margin; their number where there is none."""
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    places = np.full((height + 2 * _MARGIN, width + 2 * _MARGIN), len(rows), np.int64)
    places[rows - rows.min() + _MARGIN, columns - columns.min() + _MARGIN] = np.arange(len(rows))
    return places
