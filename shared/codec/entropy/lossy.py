"""The lossy levels: the coefficients of a set of patches, each under its own quantiser, into one string of symbols.

```
for every step (schedule.py):
    context ─► network ─► mean, spread of every coefficient ─► residual = coefficient - mean, in quantiser steps
                                       └──► table ──────────────► coded or read
    context ◄── mean + residual, what the decoder will see
```
Encoder and decoder run the same loop and differ in one function: where the residuals come from.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

import numpy as np

from shared.arrays import Float64Array, Int64Array
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.schedule import Step, steps

MEAN_PARTS: Final = 64
"""Means and reconstruction points are counted in this part of a quantiser step."""

SCALES: Final = 48
"""Spreads that the networks tell apart, four to an octave; `FIRST_SCALE_LOG2` is the least."""

FIRST_SCALE_LOG2: Final = -5.0
"""Base-2 logarithm of the least spread in quantiser steps."""

SCALES_PER_OCTAVE: Final = 4

_CORES: Final = len(os.sched_getaffinity(0))
_LEAST_PART: Final = 192  # patches
_MOST_PART: Final = 4_096


class Predictor(Protocol):
    """What a group's coefficients are likely to be."""

    def __call__(self, group: int, features: Float64Array) -> tuple[Float64Array, Int64Array]:
        """Predicts.

        Args:
            group: of coefficients.
            features: (n, inputs_of(group)) whole numbers.

        Returns:
            (n, group) means in MEAN_PARTS of a quantiser step from the context's estimate, whole numbers, and
            (n, group) scales, 0 to SCALES - 1.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """Of the coefficients of one step."""

    step: Step
    targets: Int64Array
    """(t,) patches."""
    means: Float64Array
    """(t, group) in coefficient units."""
    widths: Float64Array
    """(t, 1) quantiser steps in coefficient units."""
    scales: Int64Array
    """(t, group) how far from the mean a coefficient is likely to be."""

    @property
    def tables(self) -> Int64Array:
        """(t, group) number of each residual's table: every group has its own for each scale."""
        return SCALES * self.step.group + self.scales

    def values(self, residuals: Int64Array, shrink: Float64Array) -> Float64Array:
        """The coefficients that residuals (t, group) stand for, in coefficient units, whole numbers.

        Args:
            residuals: in quantiser steps.
            shrink: (GROUPS * SCALES, 3) by how many MEAN_PARTS residuals of 0, 1, and more are nearer to the mean,
                of each table.
        """
        inward = np.sign(residuals) * shrink[self.tables, np.minimum(np.abs(residuals), 2)]
        return np.asarray(self.means + np.floor((residuals * MEAN_PARTS - inward) * self.widths / MEAN_PARTS))


Residuals = Callable[[Prediction], Int64Array]
"""Where a step's residuals come from: chosen and written, or read."""


def run(
    context: PatchContext, predict: Predictor, shrink: Float64Array, residuals: Residuals, groups: Int64Array
) -> None:
    """Codes all patches of a context, which afterwards holds what was decoded.

    Args:
        context: the patches.
        predict: the networks.
        shrink: see `Prediction.values`.
        residuals: chooses or reads.
        groups: (n,) how many groups of coefficients each patch has; those beyond stay 0.
    """
    for step in steps(int(groups.max(initial=0))):
        targets = step.targets(context.rows, context.columns)
        targets = targets[groups[targets] > step.group]
        if len(targets):
            prediction = _predicted(context, predict, step, targets)
            context.learn(step, targets, prediction.values(residuals(prediction), shrink))


def _predicted(context: PatchContext, predict: Predictor, step: Step, targets: Int64Array) -> Prediction:
    estimate = context.estimate(step, targets)

    def part_of(part: slice) -> tuple[Float64Array, Int64Array]:
        return predict(step.group, context.features(step, targets[part], estimate[part]))

    parts = _parts(len(targets))
    # The patches of a step do not depend on each other, and the matrix library lets other threads run.
    found = list(map(part_of, parts) if len(parts) == 1 else _pool().map(part_of, parts))
    means, scales = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    widths = context.step_widths[targets][:, None]
    return Prediction(step, targets, estimate + np.floor(means * widths / MEAN_PARTS), widths, scales)


def _parts(count: int) -> list[slice]:
    """A part for every core, but none too small to be worth a thread or too large for the memory of its features."""
    size = min(max(-(-count // _CORES), _LEAST_PART), _MOST_PART)
    return [slice(start, start + size) for start in range(0, count, size)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_CORES, thread_name_prefix="entropy")
