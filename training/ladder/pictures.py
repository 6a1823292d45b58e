"""Training pictures of the restoration: what the ladder makes of a photo, under random level maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from shared.arrays import AnyArray, Int64Array, UInt8Array
from shared.codec.ladder import Ladder
from shared.levels import LEVEL_BYTES, RAW, SKIPPED
from shared.patches import PATCH_SIZE, PatchGrid, join, split
from shared.sketch import decode_sketch, encode_sketch
from training.ladder.data import Photos, cache_folder

_SKETCH_BYTES: Final = (0, 3, 6, 12, 24, 48, 96, 160)
_LAYERS: Final = len(LEVEL_BYTES) + 1  # levels 1 to 4, and two backgrounds


@dataclass(frozen=True)
class Layered:
    """Photos with everything that may be seen of them, in one flat array."""

    samples: UInt8Array
    """For each photo (6, height, width, 3): decoded at levels 1 to 4, then two backgrounds."""

    sizes: Int64Array
    """(photos, 2) height and width, multiples of 8."""

    ends: Int64Array
    """(photos,) where each photo's samples end."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> UInt8Array:
        height, width = self.sizes[index]
        size = _LAYERS * height * width * 3
        layers: UInt8Array = self.samples[self.ends[index] - size : self.ends[index]]
        return layers.reshape(_LAYERS, height, width, 3)


def layer_photos(photos: Photos, chosen: Int64Array, ladder: Ladder, seed: int) -> Layered:
    """Encodes and decodes photos at every level, from the cache where it was done before."""
    name = f"layered-{ladder.weights_hash.hex()}-{len(chosen)}-{seed}"
    flat, table = cache_folder() / f"{name}.npy", cache_folder() / f"{name}.sizes.npy"
    if not (flat.exists() and table.exists()):
        _write_layers(photos, chosen, ladder, seed, (flat, table))
    sizes = np.load(table)
    return Layered(np.load(flat, mmap_mode="r"), sizes, np.cumsum(sizes.prod(axis=1) * 3 * _LAYERS))


def _write_layers(photos: Photos, chosen: Int64Array, ladder: Ladder, seed: int, paths: tuple[Path, Path]) -> None:
    rng = np.random.default_rng(seed)
    sizes = photos.sizes[chosen] // PATCH_SIZE * PATCH_SIZE
    out = np.lib.format.open_memmap(paths[0], "w+", np.uint8, (int(sizes.prod(axis=1).sum()) * 3 * _LAYERS,))
    position = 0
    for index, (height, width) in zip(chosen, sizes, strict=True):
        layers = _layers(photos[index][:height, :width], ladder, rng)
        out[position : position + layers.size] = layers.ravel()
        position += layers.size
    out.flush()
    np.save(paths[1], sizes)


def _layers(photo: UInt8Array, ladder: Ladder, rng: np.random.Generator) -> UInt8Array:
    grid = PatchGrid.of(photo)
    payloads = ladder.encode(split(photo)).payloads
    decoded = [join(ladder.decode(level, payloads[level]), grid) for level in range(1, len(LEVEL_BYTES))]
    sketches = [encode_sketch(photo, int(size)) for size in rng.choice(_SKETCH_BYTES, 2)]
    return np.stack([*decoded, *(join(decode_sketch(sketch, grid), grid) for sketch in sketches)])


def random_levels(rng: np.random.Generator, rows: int, columns: int) -> Int64Array:
    """A level map: blobs and noise with any fraction skipped, some with losses on top."""
    field = _blobs(rng, rows, columns) + rng.choice([0.0, 0.05, 0.3, 2.0]) * rng.standard_normal((rows, columns))
    rank = field.ravel().argsort().argsort() / field.size
    skipped = 0.02 + 0.98 * rng.random()
    cuts = np.sort(np.concatenate([[skipped], skipped + (1 - skipped) * rng.random(RAW - 1)]))
    levels: Int64Array = np.searchsorted(cuts, rank).reshape(rows, columns).astype(np.int64)
    if rng.random() < 0.3:
        levels[rng.random((rows, columns)) < 0.4 * rng.random()] = SKIPPED
    return levels


def _blobs(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    seeds = torch.from_numpy(rng.standard_normal((1, 1, rng.integers(2, 9), rng.integers(2, 9))))
    smooth = torch.nn.functional.interpolate(seeds, size=(rows, columns), mode="bicubic", align_corners=True)
    blobs: AnyArray = smooth[0, 0].numpy()
    return blobs


@dataclass(frozen=True)
class Batch:
    """Pictures as received, and the truth."""

    picture: Tensor
    """(n, 3, height, width) float, 0..1."""

    levels: Tensor
    """(n, rows, columns) int64."""

    background: Tensor
    """(n, 3, height, width) float, 0..1."""

    target: Tensor
    """(n, 3, height, width) float, 0..1."""


def random_batch(layered: Layered, count: int, patches: int, rng: np.random.Generator) -> Batch:
    """`count` random square crops, `patches` to a side, each under a random level map."""
    crops, levels, backgrounds = [], [], []
    for index in rng.choice(len(layered), count):
        layers = _random_crop(layered[index], patches, rng)
        crops.append(layers[:RAW])
        backgrounds.append(layers[RAW + rng.integers(2)])
        levels.append(random_levels(rng, patches, patches))
    return make_batch(np.stack(crops), np.stack(levels), np.stack(backgrounds))


def make_batch(crops: UInt8Array, levels: Int64Array, backgrounds: UInt8Array) -> Batch:
    """Puts pictures together from their layers.

    Args:
        crops: (n, 4, height, width, 3), decoded at levels 1 to 4.
        levels: (n, rows, columns).
        backgrounds: (n, height, width, 3).
    """
    fine = levels.repeat(PATCH_SIZE, axis=1).repeat(PATCH_SIZE, axis=2)
    chosen = np.maximum(fine - 1, 0)[:, None, :, :, None]
    picture = np.take_along_axis(crops, chosen, axis=1)[:, 0] * (fine != SKIPPED)[..., None]
    return Batch(_planes(picture), torch.from_numpy(levels), _planes(backgrounds), _planes(crops[:, -1]))


def _random_crop(layers: UInt8Array, patches: int, rng: np.random.Generator) -> UInt8Array:
    top = PATCH_SIZE * rng.integers(layers.shape[1] // PATCH_SIZE - patches + 1)
    left = PATCH_SIZE * rng.integers(layers.shape[2] // PATCH_SIZE - patches + 1)
    crop = layers[:, top : top + PATCH_SIZE * patches, left : left + PATCH_SIZE * patches]
    if rng.random() < 0.5:
        crop = crop[:, :, ::-1]
    return crop[:, ::-1] if rng.random() < 0.2 else crop


def _planes(pictures: AnyArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 255
