"""Training examples of the context networks: what a coder with the current networks sees, and what is true."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image

from shared.arrays import AnyArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.choosing import Chooser
from shared.codec.entropy.context import QUALITIES, PatchContext
from shared.codec.entropy.lossy import SCALES, Prediction, Predictor, Residuals, run
from shared.codec.entropy.lossy_model import DEFAULT_PRICE, LossyModel, needed_groups
from shared.codec.entropy.schedule import GROUPS, Step
from shared.codec.entropy.transform import MEANS, UNITS_PER_LEVEL, PatchTransform
from shared.patches import PATCH_SIZE, PatchGrid, split
from training.entropy.tables import logistic_bits
from training.ladder.pictures import random_levels

_MOST_ROWS: Final = 40
_FINEST: Final = 20
_COARSEST: Final = 128
_ENLARGED: Final = 0.35
_FACTORS: Final = (1.15, 2.0)
_GRAIN: Final = 2.0  # grey levels, the same for all colours
_NO_SHRINK: Final[Float64Array] = np.zeros((1, GROUPS * SCALES, 3))


@dataclass
class Examples:
    """Per group the features and the true coefficients, in quantiser steps from the context's estimate."""

    features: list[list[AnyArray]] = field(default_factory=lambda: [[] for _ in range(GROUPS)])
    own: list[list[AnyArray]] = field(default_factory=lambda: [[] for _ in range(GROUPS)])
    targets: list[list[Float32Array]] = field(default_factory=lambda: [[] for _ in range(GROUPS)])

    def add(self, other: "Examples") -> None:
        """Takes in the examples of another picture."""
        for group in range(GROUPS):
            self.features[group] += other.features[group]
            self.own[group] += other.own[group]
            self.targets[group] += other.targets[group]

    def arrays(self, group: int) -> tuple[AnyArray, AnyArray, Float32Array]:
        """(n, inputs) int16 of the context, (n, group) int16 of the group itself, and (n, group) float32."""
        parts = (self.features[group], self.own[group], self.targets[group])
        features, own, targets = (np.concatenate(arrays) for arrays in parts)
        return features, own, targets


@dataclass(frozen=True)
class Crop:
    """A part of a photo, ready to be coded."""

    coefficients: Float32Array
    """(n, 192) of the patches that are sent."""
    context: PatchContext
    """Theirs, fresh."""
    background: Float64Array
    """(n, 3) its first guess."""

    def fresh_context(self) -> PatchContext:
        """Another one, of which nothing is coded yet."""
        return PatchContext(self.context.rows, self.context.columns, self.context.qualities, self.background)


def random_crop_coded(photo: UInt8Array, transform: PatchTransform, rng: np.random.Generator) -> Crop | None:
    """A random crop under random quantisers and a random background; None where no patch is sent."""
    crop = random_crop(photo, rng)
    grid = PatchGrid.of(crop)
    coefficients = transform.analyse(split(crop))
    qualities = random_qualities(rng, grid.rows, grid.columns).ravel()
    background = random_background(rng, coefficients[:, :MEANS].astype(np.float64), grid.rows, grid.columns)
    sent = np.flatnonzero(qualities >= 0)
    rows, columns = np.divmod(sent, grid.columns)
    if not len(sent):
        return None
    context = PatchContext(rows, columns, qualities[sent], background[sent])
    return Crop(coefficients[sent], context, background[sent])


def roll_out(photo: UInt8Array, transform: PatchTransform, predictor: Predictor, rng: np.random.Generator) -> Examples:
    """Codes a random crop of a photo under random quantisers with the current networks.

    Returns:
        What the networks saw, and what was true.
    """
    examples = Examples()
    crop = random_crop_coded(photo, transform, rng)
    if crop is not None:
        recorder = _Recorder(crop, examples, _nearly_cheapest(crop.coefficients))
        groups = np.full(crop.context.count, GROUPS)
        run(recorder.watched(), predictor, _NO_SHRINK, recorder.choose, groups, dependent=False)
    return examples


def roll_out_coded(photo: UInt8Array, model: LossyModel, rng: np.random.Generator) -> Examples:
    """The same, coded by a whole model as the encoder does it: dependently quantised, without groups that are empty."""
    examples = Examples()
    crop = random_crop_coded(photo, model.transform, rng)
    if crop is not None:
        context = crop.context
        chooser = Chooser(model.tables.costs, model.shrink, crop.coefficients, context.packets, DEFAULT_PRICE)
        recorder = _Recorder(crop, examples, chooser)
        run(recorder.watched(), model, model.shrink, recorder.choose, needed_groups(crop.coefficients, context))
    return examples


class _Recorder:
    """Looks over the coder's shoulder."""

    def __init__(self, crop: Crop, examples: Examples, residuals: Residuals) -> None:
        self._crop, self._examples, self._residuals = crop, examples, residuals
        self._estimate: Float64Array = np.zeros((0, 0))
        self._features: list[tuple[int, AnyArray]] = []

    def watched(self) -> PatchContext:
        """The crop's context, which tells its estimates and features."""
        context, estimate_of, features_of = self._crop.context, self._crop.context.estimate, self._crop.context.features

        def estimate(step: Step, targets: Int64Array) -> Float64Array:
            self._estimate = estimate_of(step, targets)
            return self._estimate

        def features(step: Step, targets: Int64Array, estimate: Float64Array) -> Float64Array:
            found = features_of(step, targets, estimate)
            self._features.append((int(targets[0]), found.astype(np.int16)))
            return found

        context.estimate, context.features = estimate, features  # type: ignore[method-assign]
        return context

    def choose(self, prediction: Prediction) -> Int64Array:
        """The coder's residuals; keeps what was known before them."""
        step = prediction.step
        if prediction.part == step.parts[-1]:
            true = self._crop.coefficients[prediction.targets, step.start : step.end]
            self._note(prediction, true.astype(np.float64))
        return self._residuals(prediction)

    def _note(self, prediction: Prediction, true: Float64Array) -> None:
        """Keeps a step, at its last part: (targets, group) true coefficients, and what was known of them."""
        step, examples = prediction.step, self._examples
        # Several threads work on the shares of a step; the order in which they came is not that of the targets.
        examples.features[step.group] += [features for _, features in sorted(self._features, key=lambda pair: pair[0])]
        self._features.clear()
        own = self._crop.context.own_features(step, prediction.part, prediction.targets, self._estimate)
        padded = np.pad(own.astype(np.int16), ((0, 0), (0, true.shape[1] - own.shape[1])))
        examples.own[step.group].append(padded)
        examples.targets[step.group].append(((true - self._estimate) / prediction.widths).astype(np.float32))


def _nearly_cheapest(coefficients: Float32Array) -> Residuals:
    """Residuals that trade error for bits nearly as the encoder does, before there is a model."""
    bits = logistic_bits()

    def residuals(prediction: Prediction) -> Int64Array:
        true = coefficients[prediction.targets, prediction.part].astype(np.float64)
        return _cheap_residuals((true - prediction.means) / prediction.widths, bits, prediction.scales)

    return residuals


def _cheap_residuals(wanted: Float64Array, bits: Float64Array, scales: Int64Array) -> Int64Array:
    """(t, group) residuals of least squared error plus price of bits, (SCALES, reach + 1) by absolute value."""
    magnitude = np.abs(wanted)
    nearest = np.rint(magnitude).astype(np.int64)
    best = np.zeros_like(nearest)
    cost = magnitude**2 + DEFAULT_PRICE * bits[scales, 0]
    for candidate in (np.maximum(nearest - 1, 0), nearest):
        price = DEFAULT_PRICE * bits[scales, np.minimum(candidate, bits.shape[1] - 1)]
        other = (magnitude - candidate) ** 2 + price
        better = other < cost
        best, cost = np.where(better, candidate, best), np.where(better, other, cost)
    return np.asarray(best * np.sign(wanted), np.int64)


# ---- random circumstances --------------------------------------------------------------------------


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


def random_crop(photo: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """At a random phase of the patch grid, mirrored or turned at random, at most 40 patches high and wide.

    The photos to learn from are small; every third is enlarged, for the soft detail of those from a camera.
    """
    photo = _enlarged(photo, rng) if rng.random() < _ENLARGED else photo
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


def _enlarged(photo: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """A random part of a photo at up to twice its size, with a little grain."""
    factor = rng.uniform(*_FACTORS)
    size = [min(round(_MOST_ROWS * PATCH_SIZE / factor), side) for side in photo.shape[:2]]
    top, left = (rng.integers(0, side - part + 1) for side, part in zip(photo.shape[:2], size, strict=True))
    part = Image.fromarray(photo[top : top + size[0], left : left + size[1]])
    width, height = (round(side * factor) for side in part.size)
    large = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = rng.standard_normal(large.shape[:2], np.float32)[..., None] * rng.uniform(0, _GRAIN)
    return np.clip(np.rint(large + grain), 0, 255).astype(np.uint8)
