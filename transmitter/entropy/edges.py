"""Patches that the edge of a mask cuts through: what lies outside is free, so it is chosen to cost little.

Nobody asked for the pixels outside. They start as what the receiver shows around the patch, the background layer,
and then follow what few coefficients make of the pixels inside: coefficients that the quantiser would drop are
dropped, the pixels inside are put back, and so on (projections onto convex sets, as in region-based coding). Where
patches are exact, the pixels outside go on smoothly from those inside.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from shared.arrays import BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.transform import PatchTransform
from shared.patches import PATCH_SIZE

_ROUNDS: Final = 8
_SMOOTHINGS: Final = 12
_FAR: Final = 1 << 10
_COLOURS: Final = 3
_PIXELS: Final = PATCH_SIZE**2
_DROPPED: Final = 0.6  # coefficients below this part of a quantiser step


@dataclass(frozen=True)
class Edges:
    """The patches of a picture that lie partly inside a mask."""

    numbers: Int64Array
    """(n,) which patches."""
    samples: Float32Array
    """(n, 192) of the photo."""
    around: Float32Array
    """(n, 192) of the background, as the receiver shows it."""
    inside: BoolArray
    """(n, 192)."""

    def coefficients(self, transform: PatchTransform, widths: Float64Array) -> Float32Array:
        """Coefficients that need few bits and keep the pixels inside.

        Args:
            transform: of the codec.
            widths: (n,) quantiser steps in coefficient units.

        Returns:
            (n, 192).
        """
        threshold = (_DROPPED * widths[:, None]).astype(np.float32)
        picture = np.where(self.inside, self.samples, self.around)
        found = transform.analyse_samples(picture)
        for _ in range(_ROUNDS):
            kept = np.where(np.abs(found) > threshold, found, 0)
            picture = np.where(self.inside, self.samples, transform.samples_of(kept))
            found = transform.analyse_samples(picture)
        return found

    def continued(self) -> UInt8Array:
        """(n, 8, 8, 3) the patches, the pixels outside as a smooth continuation of those inside."""
        samples = self.samples.reshape(-1, _PIXELS, _COLOURS)
        inside = self.inside.reshape(samples.shape)
        nearest = np.where(inside[:, None, :, 0], _distances(), _FAR).argmin(axis=2)
        found = np.take_along_axis(samples, nearest[..., None], axis=1)
        for _ in range(_SMOOTHINGS):
            found = np.where(inside, samples, _smoothed(found))
        return np.rint(found).astype(np.uint8).reshape(-1, PATCH_SIZE, PATCH_SIZE, _COLOURS)


@cache
def _distances() -> Int64Array:
    """(64, 64) squared, between pixels of a patch."""
    y, x = np.divmod(np.arange(_PIXELS), PATCH_SIZE)
    return np.asarray(np.subtract.outer(y, y) ** 2 + np.subtract.outer(x, x) ** 2, np.int64)


def _smoothed(samples: Float32Array) -> Float32Array:
    """(n, 64, 3) of (n, 64, 3): binomial, 3 by 3, each patch by itself."""
    planes = samples.reshape(-1, PATCH_SIZE, PATCH_SIZE, _COLOURS)
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    both = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    return np.asarray(both, np.float32).reshape(samples.shape)
