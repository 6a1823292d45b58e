"""How near a received picture is to the original, over the whole and where it matters."""

import math
from dataclasses import dataclass

import numpy as np

from shared.arrays import Float32Array, UInt8Array

_BAND_ROWS = 256
_PEAK_SQUARED = 255.0**2


@dataclass(frozen=True)
class Quality:
    """Peak signal-to-noise ratios in decibels; infinite where every sample is the same."""

    psnr_db: float
    """Over the whole picture."""

    masked_psnr_db: float
    """Each pixel's squared error weighted by its relevance."""

    def to_json(self) -> dict[str, float | bool | None]:
        """JSON has no infinity: null, and `exact` beside it."""
        return {
            "psnr_db": _finite(self.psnr_db),
            "exact": math.isinf(self.psnr_db),
            "masked_psnr_db": _finite(self.masked_psnr_db),
            "masked_exact": math.isinf(self.masked_psnr_db),
        }


def measure(original: UInt8Array, other: UInt8Array, relevance: Float32Array) -> Quality:
    """Compares a picture with the original.

    Args:
        original: (height, width, 3) RGB.
        other: of the same shape.
        relevance: (height, width), 0 to 1; where it is 0 everywhere, every pixel counts the same.
    """
    errors = _squared_errors(original, other)
    weights = relevance if relevance.any() else np.ones_like(relevance)
    weighted = np.average(errors, weights=weights.astype(np.float64))
    return Quality(_psnr_db(float(errors.mean(dtype=np.float64))), _psnr_db(float(weighted)))


def _squared_errors(original: UInt8Array, other: UInt8Array) -> Float32Array:
    """(height, width): mean squared error of each pixel's three samples, in bands that keep memory small."""
    errors = np.empty(original.shape[:2], np.float32)
    for top in range(0, len(original), _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
        difference = original[band].astype(np.float32) - other[band]
        errors[band] = np.square(difference).mean(axis=2)
    return errors


def _psnr_db(mean_squared_error: float) -> float:
    return 10 * math.log10(_PEAK_SQUARED / mean_squared_error) if mean_squared_error else math.inf


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
