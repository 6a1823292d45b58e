"""The lossy levels: the coefficients of a set of patches, each under its own quantiser, into one string of symbols.

```
for every step (schedule.py):
    context ─► network, what all parts share
    for every part of the step:
        own coefficients so far ─► network ─► mean, spread of each ─► residual = coefficient - mean, in quantiser steps
                                                     └──► table ────────► coded or read
        context ◄── mean + residual, what the decoder will see
```
Encoder and decoder run the same loop and differ in one function: where the residuals come from. Where residuals are
likely to be large, what they stand for depends on those before them (`trellis.py`); not so in estimates.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from shared.arrays import AnyArray, Float64Array, Int64Array
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.schedule import Step, steps
from shared.codec.entropy.trellis import NO_LANES, POINT_PARTS, Lanes, lanes_of, on_second, points

MEAN_PARTS: Final = 64
"""Means and reconstruction points are counted in this part of a quantiser step."""

SCALES: Final = 48
"""Spreads that the networks tell apart, four to an octave; `FIRST_SCALE_LOG2` is the least."""

FIRST_SCALE_LOG2: Final = -5.0
"""Base-2 logarithm of the least spread in quantiser steps."""

SCALES_PER_OCTAVE: Final = 4

_T = TypeVar("_T")

_CORES: Final = len(os.sched_getaffinity(0))
_LEAST_SHARE: Final = 192  # patches
_MOST_SHARE: Final = 4_096


class Predictor(Protocol):
    """What a group's coefficients are likely to be."""

    def shared(self, group: int, features: AnyArray) -> AnyArray:
        """What the predictions of all parts of a group have in common.

        Args:
            group: of coefficients.
            features: (n, inputs_of(group)) whole numbers.

        Returns:
            (n, ...) for `part`.
        """
        ...

    def part(self, group: int, number: int, shared: AnyArray, own: Float64Array) -> tuple[Float64Array, Int64Array]:
        """Predicts.

        Args:
            group: of coefficients.
            number: of the part within the group.
            shared: of `shared`, for the same patches.
            own: (n, coefficients before the part) whole numbers, what the patches have of the group.

        Returns:
            (n, part) means in MEAN_PARTS of a quantiser step from the context's estimate, whole numbers, and
            (n, part) scales, 0 to SCALES - 1.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """Of the coefficients of one part of a step."""

    step: Step
    part: slice
    """The coefficients."""
    targets: Int64Array
    """(t,) patches."""
    means: Float64Array
    """(t, part) in coefficient units."""
    widths: Float64Array
    """(t, 1) quantiser steps in coefficient units."""
    scales: Int64Array
    """(t, part) how far from the mean a coefficient is likely to be."""
    lanes: Lanes
    """The residuals that are quantised dependently."""

    @property
    def first_table(self) -> int:
        """Number of the table of scale 0."""
        return SCALES * self.step.group

    @property
    def tables(self) -> Int64Array:
        """(t, part) number of each residual's table: every group has its own for each scale."""
        return self.first_table + self.scales

    def values(self, residuals: Int64Array, shrink: Float64Array) -> Float64Array:
        """The coefficients that residuals (t, part) stand for, in coefficient units, whole numbers.

        Args:
            residuals: in quantiser steps, those in lanes in pairs of points (`trellis.points`).
            shrink: (2, GROUPS * SCALES, 3) by how many MEAN_PARTS residuals of 0, 1, and more are nearer to the mean,
                of each table: on their own or on a lane's first quantiser, and on the second.
        """
        each, tables, where = residuals.ravel(), self.tables.ravel(), self.lanes.where
        parts = each * MEAN_PARTS - _inward(each, tables, shrink[0])
        if len(where):
            parts[where] = self._parts_in_lanes(each[where], tables[where], shrink)
        return np.asarray(self.means + np.floor(parts.reshape(residuals.shape) * self.widths / MEAN_PARTS))

    def _parts_in_lanes(self, residuals: Int64Array, tables: Int64Array, shrink: Float64Array) -> Float64Array:
        second = on_second(residuals, self.lanes)
        inward = np.where(second, *(_inward(residuals, tables, shrink[quantiser]) for quantiser in (1, 0)))
        return np.asarray(points(residuals, second) * POINT_PARTS - inward)


def _inward(residuals: Int64Array, tables: Int64Array, shrink: Float64Array) -> Float64Array:
    """(n,) by how many MEAN_PARTS residuals are nearer to the mean than they say, with their signs."""
    return np.asarray(np.sign(residuals) * shrink[tables, np.minimum(np.abs(residuals), 2)])


Residuals = Callable[[Prediction], Int64Array]
"""Where a part's residuals come from: chosen and written, or read."""


def run(
    context: PatchContext,
    predictor: Predictor,
    shrink: Float64Array,
    residuals: Residuals,
    groups: Int64Array,
    *,
    dependent: bool = True,
) -> None:
    """Codes all patches of a context, which afterwards holds what was decoded.

    Args:
        context: the patches.
        predictor: the networks.
        shrink: see `Prediction.values`.
        residuals: chooses or reads.
        groups: (n,) how many groups of coefficients each patch has; those beyond stay 0.
        dependent: whether residuals form lanes; otherwise each is quantised on its own, for estimates and training.
    """
    for step in steps(int(groups.max(initial=0))):
        targets = step.targets(context.rows, context.columns)
        targets = targets[groups[targets] > step.group]
        if len(targets):
            for prediction in _predictions(context, predictor, step, targets, dependent):
                context.learn(step, prediction.part, targets, prediction.values(residuals(prediction), shrink))


def _predictions(
    context: PatchContext, predictor: Predictor, step: Step, targets: Int64Array, dependent: bool
) -> Iterator[Prediction]:
    """Of each part of a step, once the context has learnt the parts before."""
    estimate = context.estimate(step, targets)
    widths = context.step_widths[targets][:, None]
    shares = _shares(len(targets))

    def of_all_parts(share: slice) -> AnyArray:
        return predictor.shared(step.group, context.features(step, targets[share], estimate[share]))

    shared = _on_all_cores(of_all_parts, shares)
    for number, part in enumerate(step.parts):
        own = context.own_features(step, part, targets, estimate)

        def of_part(
            share: slice, known: AnyArray, number: int = number, own: Float64Array = own
        ) -> tuple[Float64Array, Int64Array]:
            return predictor.part(step.group, number, known, own[share])

        found = _on_all_cores(of_part, shares, shared)
        means, scales = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        origin = estimate[:, part.start - step.start : part.stop - step.start]
        lanes = lanes_of(scales, context.packets[targets]) if dependent else NO_LANES
        yield Prediction(step, part, targets, origin + np.floor(means * widths / MEAN_PARTS), widths, scales, lanes)


def _shares(count: int) -> list[slice]:
    """A share for every core, but none too small to be worth a thread or too large for the memory of its features."""
    size = min(max(-(-count // _CORES), _LEAST_SHARE), _MOST_SHARE)
    return [slice(start, start + size) for start in range(0, count, size)]


def _on_all_cores(work: Callable[..., _T], *arguments: Sequence[Any]) -> list[_T]:
    """Of each share; those of a step do not depend on each other, and the matrix library lets other threads run."""
    return list(map(work, *arguments) if len(arguments[0]) == 1 else _pool().map(work, *arguments))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_CORES, thread_name_prefix="entropy")
