"""Patches that the edge of a mask cuts through: what lies outside is free, so it is chosen to cost little.

Nobody asked for the pixels outside. They start as what the receiver shows around the patch, the background layer,
and then follow what few coefficients make of the pixels inside: coefficients that the quantiser would drop are
dropped, the pixels inside are put back, and so on (projections onto convex sets, as in region-based coding).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from shared.codec.entropy.transform import PatchTransform

_ROUNDS: Final = 8
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
