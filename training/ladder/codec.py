"""Trains the ladder's three coded levels and writes models/ladder.safetensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from shared.arrays import Float32Array, UInt8Array
from shared.codec.ladder import save_ladder
from training.ladder.data import Photos, sample_patches
from training.ladder.klt import LevelSettings, train_level

LEVELS: Final = (
    LevelSettings(payload_bytes=12, classes=64, coefficients=48),
    LevelSettings(payload_bytes=24, classes=32, coefficients=80),
    LevelSettings(payload_bytes=48, classes=32, coefficients=128),
)

_PER_PHOTO: Final = (1_200, 60, 60, 60)
"""Patches taken of each photo, per source of `training.ladder.data.SOURCES`: two thirds come from photos at the
very scale of the paper's, the rest adds variety."""


def train_ladder(photos: Photos, out: Path, seed: int, log: Callable[[str], None]) -> None:
    """Trains every level on the same patches.

    Args:
        photos: the training photos.
        out: folder that ladder.safetensors goes to.
        seed: of the choice and order of patches.
        log: takes a line of progress.
    """
    patches, weights = _shuffled(photos, seed)
    levels = tuple(train_level(patches, weights, settings, log) for settings in LEVELS)
    save_ladder(out / "ladder.safetensors", levels, {"seed": str(seed), "patches": str(len(patches))})


def _shuffled(photos: Photos, seed: int) -> tuple[UInt8Array, Float32Array]:
    patches, weights = sample_patches(photos, _PER_PHOTO, seed)
    order = np.random.default_rng(seed).permutation(len(patches))
    return patches[order], weights[order]
