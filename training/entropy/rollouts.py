"""Training examples of the context networks: what a coder with the current networks sees, and what is true."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared.arrays import AnyArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.context import QUALITIES, PatchContext, quantiser_steps
from shared.codec.entropy.lossy import MEAN_PARTS, SCALES, Prediction, Predictor, run
from shared.codec.entropy.schedule import GROUPS
from training.entropy.tables import logistic_bits
from shared.codec.entropy.transform import MEANS, UNITS_PER_LEVEL, PatchTransform
from shared.patches import PATCH_SIZE, PatchGrid, split
from training.ladder.pictures import random_levels

_MOST_ROWS: Final = 40
_COARSEST: Final = 128
_FINEST: Final = 20
NO_SHRINK: Final[Float64Array] = np.zeros((SCALES, 3))


@dataclass
class Examples:
    """Per group the features and the true coefficients, in quantiser steps from the context's estimate."""

    features: list[list[AnyArray]] = field(default_factory=lambda: [[] for _ in range(GROUPS)])
    targets: list[list[Float32Array]] = field(default_factory=lambda: [[] for _ in range(GROUPS)])

    def arrays(self, group: int) -> tuple[AnyArray, Float32Array]:
        """(n, inputs) int16 and (n, group) float32."""
        return np.concatenate(self.features[group]), np.concatenate(self.targets[group])


class Recorder:
    """A predictor that keeps what it was shown."""

    def __init__(self, inner: Predictor, examples: Examples) -> None:
        self._inner, self._examples = inner, examples

    def __call__(self, group: int, features: Float64Array) -> tuple[Float64Array, Int64Array]:
        """As the inner one."""
        self._examples.features[group].append(features.astype(np.int16))
        return self._inner(group, features)


def choose(wanted: Float64Array, bits: Float64Array, scales: Int64Array, price: float) -> Int64Array:
    """Residuals that trade error for bits.

    Args:
        wanted: (t, group) true coefficients less the mean, in quantiser steps.
        bits: (SCALES, reach + 1) what a residual of each absolute value costs.
        scales: (t, group).
        price: squared steps that a bit is worth.
    """
    magnitude = np.abs(wanted)
    nearest = np.rint(magnitude).astype(np.int64)
    last = bits.shape[1] - 1
    best = np.zeros_like(nearest)
    cost = magnitude**2 + price * bits[scales, 0]
    for candidate in (np.maximum(nearest - 1, 0), nearest):
        other = (magnitude - candidate) ** 2 + price * bits[scales, np.minimum(candidate, last)]
        better = other < cost
        best, cost = np.where(better, candidate, best), np.where(better, other, cost)
    return best * np.sign(wanted).astype(np.int64)


@dataclass
class Chooser:
    """Residuals of the encoder, with the true coefficients at hand."""

    coefficients: Float32Array
    """(n, 192) of all patches of the context."""
    bits: Float64Array
    price: float
    examples: Examples | None = None
    estimates: Float64Array | None = None
    counts: AnyArray | None = None
    """(SCALES, 2 * reach + 1) residuals seen."""
    sums: AnyArray | None = None
    """(SCALES, 3, 2) sum of |wanted| - |residual| for residuals of 1 and more, and their number."""

    def __call__(self, prediction: Prediction) -> Int64Array:
        """Chooses, and notes what training needs."""
        step = prediction.step
        true = self.coefficients[prediction.targets, step.start : step.end].astype(np.float64)
        wanted = (true - prediction.means) / prediction.widths
        residuals = choose(wanted, self.bits, prediction.scales, self.price)
        if self.counts is not None:
            self._count(prediction, residuals, wanted)
        return residuals

    def _count(self, prediction: Prediction, residuals: Int64Array, wanted: Float64Array) -> None:
        assert self.counts is not None and self.sums is not None
        reach = self.counts.shape[1] // 2
        np.add.at(self.counts, (prediction.scales, np.clip(residuals, -reach, reach) + reach), 1)
        kind = np.minimum(np.abs(residuals), 2)
        error = np.abs(residuals) - np.abs(wanted)
        np.add.at(self.sums[..., 0], (prediction.scales, kind), np.where(residuals == 0, 0, error))
        np.add.at(self.sums[..., 1], (prediction.scales, kind), 1)


def random_qualities(rng: np.random.Generator, rows: int, columns: int) -> Int64Array:
    """(rows, columns) quantisers of one picture, -1 where a patch is not sent."""
    base = int(rng.integers(_FINEST, _COARSEST))
    qualities = np.full((rows, columns), base, np.int64)
    if rng.random() < 0.5:
        levels = random_levels(rng, rows, columns)
        spread = rng.choice([0, 8, 8, 16])
        qualities = np.clip(base + spread * (levels - 2), 0, QUALITIES - 1)
        qualities[levels == 0] = -1
    return qualities


def random_background(rng: np.random.Generator, means: Float64Array, rows: int, columns: int) -> Float64Array:
    """(rows * columns, 3) a coarse guess at (rows * columns, 3) means, as from a small background layer; or none."""
    if rng.random() < 0.35:
        return np.zeros_like(means)
    factor = int(rng.choice([2, 4, 8]))
    grid = means.reshape(rows, columns, MEANS)
    padded = np.pad(grid, ((0, -rows % factor), (0, -columns % factor), (0, 0)), mode="edge")
    coarse = padded.reshape(padded.shape[0] // factor, factor, -1, factor, MEANS).mean(axis=(1, 3))
    coarse += rng.uniform(-0.5, 0.5, coarse.shape) * rng.choice([4, 16, 32]) * PATCH_SIZE * UNITS_PER_LEVEL
    return np.floor(_stretched(coarse, factor)[:rows, :columns].reshape(-1, MEANS))


def _stretched(coarse: Float64Array, factor: int) -> Float64Array:
    """Bilinear enlargement along both axes."""
    for axis in (0, 1):
        count = coarse.shape[axis]
        at = np.clip((np.arange(count * factor) + 0.5) / factor - 0.5, 0, count - 1)
        low = np.minimum(at.astype(np.int64), count - 1)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        high = np.minimum(low + 1, count - 1)
        coarse = np.take(coarse, low, axis) * (1 - share) + np.take(coarse, high, axis) * share
    return coarse


@dataclass(frozen=True)
class Rolled:
    """One coded picture."""

    context: PatchContext
    coefficients: Float32Array
    chooser: Chooser


def roll_out(
    photo: UInt8Array,
    transform: PatchTransform,
    predictor: Predictor,
    rng: np.random.Generator,
    price: float,
    bits: Float64Array | None = None,
    counts: tuple[AnyArray, AnyArray] | None = None,
) -> Examples:
    """Codes a random crop of a photo under random quantisers with the current networks.

    Returns:
        What the networks saw, and what was true.
    """
    crop = random_crop(photo, rng)
    grid = PatchGrid.of(crop)
    coefficients = transform.analyse(split(crop))
    qualities = random_qualities(rng, grid.rows, grid.columns).ravel()
    background = random_background(rng, coefficients[:, :MEANS].astype(np.float64), grid.rows, grid.columns)
    sent = np.flatnonzero(qualities >= 0)
    examples = Examples()
    if not len(sent):
        return examples
    rows, columns = np.divmod(sent, grid.columns)
    context = _RecordingContext(rows, columns, qualities[sent], background[sent])
    chooser = _RecordingChooser(coefficients[sent], logistic_bits() if bits is None else bits, price, examples)
    if counts is not None:
        chooser.counts, chooser.sums = counts
    everything = np.full(len(sent), GROUPS)
    run(context, Recorder(predictor, examples), NO_SHRINK, chooser.with_context(context), everything)
    return examples


class _RecordingContext(PatchContext):
    """Keeps the last estimate, which the targets are measured from."""

    last: Float64Array

    def estimate(self, step, targets):  # type: ignore[no-untyped-def]
        self.last = super().estimate(step, targets)
        return self.last


class _RecordingChooser(Chooser):
    _context: _RecordingContext

    def with_context(self, context: _RecordingContext) -> "Chooser":
        self._context = context
        return self

    def __call__(self, prediction: Prediction) -> Int64Array:
        step = prediction.step
        true = self.coefficients[prediction.targets, step.start : step.end].astype(np.float64)
        assert self.examples is not None
        steps_off = (true - self._context.last) / prediction.widths
        self.examples.targets[step.group].append(steps_off.astype(np.float32))
        return super().__call__(prediction)


def random_crop(photo: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """At a random phase of the patch grid, mirrored or turned at random, at most 40 patches high and wide."""
    dy, dx = rng.integers(0, PATCH_SIZE, 2)
    cut = photo[dy:, dx:]
    height, width = (min(side // PATCH_SIZE, _MOST_ROWS) * PATCH_SIZE for side in cut.shape[:2])
    top, left = rng.integers(0, cut.shape[0] - height + 1), rng.integers(0, cut.shape[1] - width + 1)
    cut = cut[top : top + height, left : left + width]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    if rng.random() < 0.25:
        cut = cut[::-1]
    return np.ascontiguousarray(cut.transpose(1, 0, 2) if rng.random() < 0.25 else cut)


__all__ = ["MEAN_PARTS", "Examples", "quantiser_steps", "roll_out"]
