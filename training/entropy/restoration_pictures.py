"""Training pictures of the entropy codec's restoration: what the codec makes of a photo under random qualities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from shared.arrays import BoolArray, Int64Array, UInt8Array
from shared.codec.entropy.background import GREY, encode_background, expected_means, thumbnail
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.levels import QUALITY_EXACT, QUALITY_SKIPPED
from shared.codec.entropy.lossy_model import DEFAULT_PRICE, LossyModel
from shared.codec.entropy.weights import load_lossy
from shared.patches import PatchGrid, join, split
from training.entropy.rollouts import random_crop
from training.ladder.data import Photos
from training.ladder.pictures import random_levels

_LEAST_SIDE: Final = 128
"""Pixels; smaller photos are not used."""

_SOURCE_WEIGHTS: Final = (3.0, 1.0, 1.0, 3.0)
"""How often a photo of each source of `training.ladder.data.SOURCES` is used: the larger ones more often."""

_OFTEN: Final = (60, 116)
_RANGE: Final = (16, 152)
_TOP_LEVEL: Final = 4


@dataclass(frozen=True)
class CodedPicture:
    """A photo and what is received of it."""

    photo: UInt8Array
    """(8 rows, 8 columns, 3) RGB."""

    decoded: UInt8Array
    """(8 rows, 8 columns, 3) RGB, black where nothing arrived."""

    qualities: Int64Array
    """(rows, columns) as `EntropyRestorer.restore` takes them."""

    background: UInt8Array
    """(rows, columns, 3) RGB, the colour of every patch."""


@cache
def _model() -> LossyModel:
    return load_lossy()[0]


def coded_picture(photo: UInt8Array, rng: np.random.Generator) -> CodedPicture:
    """Codes a random crop of a photo under random qualities and over a random background.

    Args:
        photo: (height, width, 3) RGB.
        rng: of the crop, the qualities, losses and the background.
    """
    crop = random_crop(photo, rng)
    grid = PatchGrid.of(crop)
    qualities, lost = random_quality_map(rng, grid.rows, grid.columns)
    background = random_colours(crop, rng)
    return received_picture(crop, qualities, lost, background)


def received_picture(photo: UInt8Array, qualities: Int64Array, lost: BoolArray, background: UInt8Array) -> CodedPicture:
    """Codes a whole photo.

    Args:
        photo: (8 rows, 8 columns, 3) RGB.
        qualities: (rows, columns) as they are sent.
        lost: (rows, columns) which patches do not arrive.
        background: (rows, columns, 3) RGB.
    """
    grid = PatchGrid.of(photo)
    patches = split(photo)
    decoded = np.where((qualities == QUALITY_EXACT).ravel()[:, None, None, None], patches, np.uint8(0))
    coded = np.flatnonzero(qualities >= 0)
    if len(coded):
        means = expected_means(_model(), background.reshape(-1, 3)[coded])
        context = PatchContext(*np.divmod(coded, grid.columns), qualities.ravel()[coded], means)
        encoding = _model().encode(_model().transform.analyse(patches[coded]), context, DEFAULT_PRICE)
        decoded[coded] = _model().transform.synthesise(encoding.coefficients)
    decoded[lost.ravel()] = 0
    return CodedPicture(photo, join(decoded, grid), np.where(lost, QUALITY_SKIPPED, qualities), background)


def random_quality_map(rng: np.random.Generator, rows: int, columns: int) -> tuple[Int64Array, BoolArray]:
    """Half of them uniform, the others in blobs with skipped and at times exact patches; what is lost of some."""
    base = int(rng.integers(*(_OFTEN if rng.random() < 0.75 else _RANGE)))
    qualities = np.full((rows, columns), base, np.int64)
    if rng.random() < 0.5:
        levels = random_levels(rng, rows, columns)
        spread = int(rng.choice([0, 8, 16, 24]))
        qualities = np.clip(base + spread * (2 - levels), *_RANGE)
        qualities[levels == 0] = QUALITY_SKIPPED
        if rng.random() < 0.25:
            qualities[levels == _TOP_LEVEL] = QUALITY_EXACT
    share = 0.3 * rng.random() if rng.random() < 0.25 else 0.0
    return qualities, rng.random((rows, columns)) < share


def random_colours(photo: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """(rows, columns, 3) a thumbnail as it may arrive: coded by the codec itself, or else blurred, true, or flat."""
    grid = PatchGrid.of(photo)
    small = thumbnail(photo)
    kind = rng.random()
    if kind < 0.55:
        return coded_thumbnail(small, int(rng.integers(56, 120)), halved=bool(rng.random() < 0.5))
    if kind < 0.8:
        factor = int(rng.choice([2, 3, 4, 8]))
        size = (-(-grid.columns // factor), -(-grid.rows // factor))
        coarse = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BOX)).astype(np.float64)
        step = int(rng.choice([1, 8, 16]))
        rough = Image.fromarray(np.clip(np.rint(coarse / step) * step, 0, 255).astype(np.uint8))
        return np.asarray(rough.resize((grid.columns, grid.rows), Image.Resampling.BICUBIC))
    if kind < 0.9:
        return small
    return np.full_like(small, GREY if kind < 0.95 else small.mean())


def coded_thumbnail(small: UInt8Array, quality: int, *, halved: bool) -> UInt8Array:
    """(rows, columns, 3) the thumbnail of a picture of so many patches as it comes out of the codec."""
    return encode_background(_model(), small, quality, halved=halved).colours.reshape(small.shape)


def make_pictures(
    photos: Photos, chosen: Int64Array, folder: Path, *, count: int, seed: int, log: Callable[[str], None]
) -> list[CodedPicture]:
    """`count` coded pictures of photos drawn from `chosen`, from the folder where they were made before."""
    folder.mkdir(parents=True, exist_ok=True)
    large = chosen[photos.sizes[chosen].min(axis=1) >= _LEAST_SIDE]
    weights = np.array(_SOURCE_WEIGHTS)[photos.sources[large]]
    drawn = np.random.default_rng(seed).choice(large, count, p=weights / weights.sum())
    pictures = []
    for number, index in enumerate(drawn):
        pictures.append(_from_cache(folder / f"{seed}-{number:05d}.npz", photos[index], (seed, number)))
        if (number + 1) % 100 == 0:
            log(f"{number + 1} pictures coded")
    return pictures


def _from_cache(path: Path, photo: UInt8Array, seed: tuple[int, int]) -> CodedPicture:
    if path.exists():
        with np.load(path) as arrays:
            return CodedPicture(**{name: arrays[name] for name in arrays})
    picture = coded_picture(photo, np.random.default_rng(seed))
    scratch = path.with_suffix(".new.npz")
    np.savez(scratch, **vars(picture))
    scratch.replace(path)
    return picture
