"""The transform of the entropy codec: every 8x8 RGB patch on its own, 192 samples to 192 coefficients.

A colour rotation, then for each of its three channels a Karhunen-Loeve basis of the 64 samples, both learnt from
photos (`training/entropy/transform.py`). Coefficients are ordered by their variance over photos, but for the three
means, which come first. They are counted in units of 2^-6 of a grey level. The inverse is exact integer arithmetic
carried by float64, so that decoded pixels are the same on every machine.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.arrays import Float32Array, Float64Array, UInt8Array
from shared.errors import WeightsError
from shared.patches import PATCH_SIZE

COEFFICIENTS: Final = PATCH_SIZE * PATCH_SIZE * 3
"""Of one patch."""

MEANS: Final = 3
"""The first coefficients, which are the means of the three colour channels, times 8."""

UNITS_PER_LEVEL: Final = 64
"""Coefficient units in one grey level."""

_BASIS_BITS: Final = 14
_GREY: Final = 128


@dataclass(frozen=True)
class PatchTransform:
    """The learnt basis.

    Raises:
        WeightsError: it is not of the right shape and type, or not orthonormal.
    """

    basis: NDArray[np.int16]
    """(192, 192): row k is the patch (8, 8, 3) of coefficient k, times 2^14; orthonormal but for rounding."""

    def __post_init__(self) -> None:
        if self.basis.shape != (COEFFICIENTS, COEFFICIENTS) or self.basis.dtype != np.int16:
            raise WeightsError(f"the basis is {self.basis.dtype} {self.basis.shape}")
        gram = self._floats @ self._floats.T
        if np.abs(gram - np.eye(COEFFICIENTS)).max() > 2e-3:
            raise WeightsError("the basis is not orthonormal")

    @property
    def _floats(self) -> Float64Array:
        return self.basis / np.float64(1 << _BASIS_BITS)

    def analyse(self, patches: UInt8Array) -> Float32Array:
        """The coefficients of (n, 8, 8, 3) RGB patches: (n, 192) in units of 2^-6 grey levels, not rounded."""
        samples = patches.reshape(-1, COEFFICIENTS).astype(np.float32)
        return np.asarray((samples - np.float32(_GREY)) @ self._forward)

    @cached_property
    def _forward(self) -> Float32Array:
        return np.asarray(self._floats.T * UNITS_PER_LEVEL, np.float32)

    def synthesise(self, coefficients: Float64Array) -> UInt8Array:
        """The patches of whole-numbered coefficients.

        Args:
            coefficients: (n, 192) integers below 2^24 in absolute value.

        Returns:
            (n, 8, 8, 3) RGB, the same on every machine.
        """
        # Sums of 192 products below 2^38: exact in float64 in any order.
        sums = coefficients @ self.basis.astype(np.float64)
        samples = np.floor(sums / (UNITS_PER_LEVEL << _BASIS_BITS) + (_GREY + 0.5))
        return np.clip(samples, 0, 255).astype(np.uint8).reshape(-1, PATCH_SIZE, PATCH_SIZE, 3)

    def means_of(self, colours: Float64Array) -> Float64Array:
        """The first three coefficients of evenly coloured patches.

        Args:
            colours: (n, 3) RGB in whole units of 2^-6 grey levels, 0 to 255 * 64.

        Returns:
            (n, 3) whole numbers.
        """
        columns = self.basis[:MEANS].reshape(MEANS, -1, 3).astype(np.float64).sum(axis=1)
        return np.asarray(np.floor((colours - _GREY * UNITS_PER_LEVEL) @ columns.T / (1 << _BASIS_BITS)))
