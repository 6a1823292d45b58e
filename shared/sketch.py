"""The sketch: a few bytes in the stream header that tell the whole picture's colours.

A 16x16 thumbnail in YCbCr, cosine-transformed, its coefficients by frequency, one signed byte each. Any number
of bytes from 0 on is a valid sketch: fewer are coarser. The receiver fills skipped patches from it where nothing
nearer arrived, and the transmitter measures against it what skipping a patch costs.
"""

from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from shared.arrays import Float32Array, Int64Array, UInt8Array
from shared.patches import PATCH_SIZE, PatchGrid

_SIDE: Final = 16
_GREY: Final = 128.0

MAX_SKETCH_BYTES: Final = 3 * _SIDE * _SIDE
"""All coefficients."""

# Full-range BT.601, as in JPEG.
_TO_YCBCR: Final = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float64
)
_TO_RGB: Final = np.linalg.inv(_TO_YCBCR)


@cache
def _cosines() -> Float32Array:
    """Orthonormal DCT-II basis, (frequency, position)."""
    k, n = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE), indexing="ij")
    basis = np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    basis[0] = np.sqrt(1 / _SIDE)
    return np.asarray(basis, np.float32)


@cache
def _order() -> Int64Array:
    """(MAX_SKETCH_BYTES, 3) of channel, vertical and horizontal frequency, in the order of sending.

    Colour is sent to half the frequency of brightness, as the eye and the statistics of photos allow.
    """
    entries = [
        ((y + x) * (1 if channel == 0 else 2) + (y * y + x * x) / 1000 + channel / 10_000, channel, y, x)
        for channel in range(3)
        for y in range(_SIDE)
        for x in range(_SIDE)
    ]
    return np.array([entry[1:] for entry in sorted(entries)[:MAX_SKETCH_BYTES]], np.int64)


def _steps() -> Float32Array:
    """Quantiser step of each coefficient: wide enough for the mean, finer as the frequency rises."""
    frequency = _order()[:, 1] + _order()[:, 2]
    steps = np.where(frequency == 0, _SIDE, np.maximum(_SIDE / np.sqrt(1 + frequency), 4))
    return np.asarray(steps, np.float32)


def encode_sketch(image: UInt8Array, size_bytes: int) -> bytes:
    """Sketches a picture.

    Args:
        image: (height, width, 3) RGB.
        size_bytes: 0 to MAX_SKETCH_BYTES.

    Returns:
        Exactly that many bytes.
    """
    thumbnail = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    planes = np.asarray(thumbnail, np.float64) @ _TO_YCBCR.T - [_GREY, 0, 0]
    spectrum = np.einsum("ky,yxc,lx->ckl", _cosines(), planes, _cosines())
    channel, vertical, horizontal = _order()[:size_bytes].T
    levels = np.rint(spectrum[channel, vertical, horizontal] / _steps()[:size_bytes])
    return bytes(np.clip(levels, -127, 127).astype(np.int8).tobytes())


def decode_sketch(sketch: bytes, grid: PatchGrid) -> UInt8Array:
    """Paints a sketch over a grid of patches.

    Args:
        sketch: 0 to MAX_SKETCH_BYTES bytes of any content.
        grid: the picture's grid.

    Returns:
        (grid.count, 8, 8, 3) RGB, smooth over the whole picture; grey for an empty sketch.
    """
    coefficients = np.frombuffer(sketch, np.int8)[:MAX_SKETCH_BYTES]
    spectrum = np.zeros((3, _SIDE, _SIDE), np.float32)
    channel, vertical, horizontal = _order()[: len(coefficients)].T
    spectrum[channel, vertical, horizontal] = coefficients * _steps()[: len(coefficients)]
    rows, columns = _basis_at(grid.rows * PATCH_SIZE), _basis_at(grid.columns * PATCH_SIZE)
    planes = np.einsum("ckl,ky->cyl", spectrum, rows)
    return _paint(planes, columns, grid)


def _basis_at(pixels: int) -> Float32Array:
    """The cosine basis evaluated at the centres of pixels, (frequency, pixels)."""
    position = (np.arange(pixels) + 0.5) / pixels
    basis = np.cos(np.pi * np.arange(_SIDE)[:, None] * position) * np.sqrt(2 / _SIDE)
    basis[0] = np.sqrt(1 / _SIDE)
    return np.asarray(basis, np.float32)


def _paint(planes: Float32Array, columns: Float32Array, grid: PatchGrid) -> UInt8Array:
    """Works one row of patches at a time, so that 16 megapixels need no float copy of the picture."""
    patches = np.empty((grid.rows, grid.columns, PATCH_SIZE, PATCH_SIZE, 3), np.uint8)
    for row in range(grid.rows):
        band = np.einsum("cyl,lx->yxc", planes[:, row * PATCH_SIZE : (row + 1) * PATCH_SIZE], columns)
        rgb = (band + np.array([_GREY, 0, 0], np.float32)) @ _TO_RGB.T.astype(np.float32)
        tiles = np.clip(np.rint(rgb), 0, 255).astype(np.uint8).reshape(PATCH_SIZE, grid.columns, PATCH_SIZE, 3)
        patches[row] = tiles.transpose(1, 0, 2, 3)
    return patches.reshape(grid.count, PATCH_SIZE, PATCH_SIZE, 3)
