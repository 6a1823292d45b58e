"""Examples for the lossless context model: samples of photos, and what the coder would know of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image

from shared.arrays import AnyArray, Float32Array, Int64Array, UInt8Array
from shared.codec.entropy.lossless_canvas import CHANNELS, Canvas, to_planes
from shared.codec.entropy.lossless_context import Context
from shared.codec.entropy.lossless_steps import KINDS, CornerStep, LatticeStep, steps
from shared.patches import PATCH_SIZE, split
from training.ladder.data import Photos

_SHARES: Final = (0.4, 0.35, 0.2, 0.05)  # of the crops, by source of `training.ladder.data.SOURCES`
_HELD_OUT: Final = (20, 20, 20, 0)  # first photos of each source
_SIDE: Final = 24  # of a crop in patches
_ENLARGED: Final = 0.15  # share of crops that are enlarged
_ENLARGEMENT: Final = (1.3, 2.0)
_GRAIN: Final = (0.3, 2.5)  # grey levels
_MASKED: Final = 0.35  # share of crops of which a part is missing
_LEARNT: Final = 200  # patches of a crop that are learnt from


@dataclass(frozen=True)
class Examples:
    """Samples of one kind of step and channel."""

    targets: Float32Array
    """(rows,) sample less reference."""

    activity: Float32Array
    """(rows,)."""

    features: Float32Array
    """(rows, inputs)."""


def held_out_photos(photos: Photos) -> Int64Array:
    """Numbers of the photos that nothing is trained on."""
    chosen = [np.flatnonzero(photos.sources == source)[:count] for source, count in enumerate(_HELD_OUT)]
    return np.concatenate(chosen)


def random_crop(photos: Photos, rng: np.random.Generator) -> UInt8Array:
    """A crop of up to 192x192 pixels, of a photo that is not held out, sometimes mirrored or turned."""
    source = int(rng.choice(len(_SHARES), p=_SHARES))
    photo = photos[int(rng.choice(np.flatnonzero(photos.sources == source)[_HELD_OUT[source] :]))]
    height, width = (min(_SIDE * PATCH_SIZE, side // PATCH_SIZE * PATCH_SIZE) for side in photo.shape[:2])
    enlarged = rng.uniform(*_ENLARGEMENT) if rng.random() < _ENLARGED else 1.0
    rows, columns = round(height / enlarged), round(width / enlarged)
    top, left = rng.integers(photo.shape[0] - rows + 1), rng.integers(photo.shape[1] - columns + 1)
    crop = photo[top : top + rows, left : left + columns]
    if enlarged > 1:
        crop = _grainy(crop, height, width, rng)
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    return crop.transpose(1, 0, 2) if rng.random() < 0.2 else crop


def _grainy(crop: UInt8Array, height: int, width: int, rng: np.random.Generator) -> UInt8Array:
    """A crop enlarged, with noise of its own: soft and grainy like a large photo, which no photo at hand is."""
    large = np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = rng.standard_normal((height, width, 1)) + 0.7 * rng.standard_normal((height, width, 3))
    noisy = large + rng.uniform(*_GRAIN) * grain
    return np.asarray(np.rint(noisy).clip(0, 255), np.uint8)


def batch(photos: Photos, crops: int, rng: np.random.Generator) -> list[Examples]:
    """Examples of all kinds of steps and channels, numbered kind * 3 + channel, from random crops."""
    found: list[list[Examples]] = [[] for _ in range(KINDS * CHANNELS)]
    for _ in range(crops):
        for number, examples in _examples(random_crop(photos, rng), rng):
            found[number].append(examples)
    return [_joined(parts) for parts in found]


def _examples(crop: UInt8Array, rng: np.random.Generator) -> Iterator[tuple[int, Examples]]:
    patches = split(crop)
    kept = rng.permutation(_kept(crop.shape[0] // PATCH_SIZE, crop.shape[1] // PATCH_SIZE, rng))
    rows, columns = np.divmod(kept, crop.shape[1] // PATCH_SIZE)
    truth = to_planes(patches[kept]).astype(np.float32)
    for step in steps(Canvas(rows, columns)):
        for channel in range(CHANNELS):
            values = truth[channel][list(step.positions)][:, step.patches]
            yield step.kind * CHANNELS + channel, _example(step, channel, values)
            step.place(channel, values.ravel())


def _example(step: CornerStep | LatticeStep, channel: int, values: Float32Array) -> Examples:
    if isinstance(step, CornerStep):
        contexts, learnt = list(step.contexts(channel)), values
    else:
        contexts, learnt = [step.context(channel, slice(None), slice(0, _LEARNT))], values[:, :_LEARNT]
    return _of(contexts, learnt.ravel())


def _of(contexts: Sequence[Context], values: Float32Array) -> Examples:
    reference = np.concatenate([context.reference for context in contexts])
    features = np.concatenate([context.features.T for context in contexts])
    return Examples(values - reference, np.concatenate([context.activity for context in contexts]), features)


def _joined(parts: list[Examples]) -> Examples:
    return Examples(
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.activity for part in parts]),
        np.concatenate([part.features for part in parts]),
    )


def _kept(rows: int, columns: int, rng: np.random.Generator) -> Int64Array:
    """Patches that are there: all, or a random region with ragged edges."""
    if rng.random() >= _MASKED:
        return np.arange(rows * columns)
    seeds = torch.from_numpy(rng.standard_normal((1, 1, rng.integers(2, 7), rng.integers(2, 7))))
    blobs: AnyArray = torch.nn.functional.interpolate(seeds, size=(rows, columns), mode="bicubic").numpy()[0, 0]
    blobs = blobs + rng.choice([0.0, 0.1, 0.5]) * rng.standard_normal((rows, columns))
    kept = np.flatnonzero(blobs > np.quantile(blobs, 0.8 * rng.random()))
    return kept if len(kept) else np.arange(rows * columns)
