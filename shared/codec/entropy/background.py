"""The background layer: the whole picture at an eighth or a sixteenth of its size, in a few hundred bytes.

It is the photo's own thumbnail, coded by the lossy levels as a small picture of its own. The receiver shows it
where nothing better arrives, and both ends start their guesses of every patch's means from it.

```
layer    halved:1 bit, quality:7 bits │ string of `LossyModel` over the thumbnail's patches
         empty: grey everywhere          halved: one colour for 2x2 patches of the picture, else one for each
```
"""

from typing import Final, NamedTuple

import numpy as np

from shared.arrays import Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.lossy_model import DEFAULT_PRICE, LossyModel
from shared.codec.entropy.transform import MEANS, UNITS_PER_LEVEL
from shared.errors import StreamError
from shared.patches import PATCH_SIZE, PatchGrid, join, split

GREY: Final = 128
"""What an empty layer shows."""

MAX_LAYER_QUALITY: Final = 127
"""The coarsest quantiser that a layer can name."""

_HALVED: Final = 128


def thumbnail(image: UInt8Array) -> UInt8Array:
    """(rows, columns, 3) mean colour of each patch of a picture (height, width, 3)."""
    grid = PatchGrid.of(image)
    means = split(image).reshape(grid.count, PATCH_SIZE**2, 3).mean(axis=1, dtype=np.float64)
    return np.asarray(np.rint(means), np.uint8).reshape(grid.rows, grid.columns, 3)


class Background(NamedTuple):
    """A background layer."""

    layer: bytes
    colours: UInt8Array
    """(patches of the picture, 3) RGB, as `decode_background` gives them."""


def encode_background(model: LossyModel, small: UInt8Array, quality: int, *, halved: bool) -> Background:
    """Codes a thumbnail.

    Args:
        model: the lossy levels.
        small: (rows, columns, 3) of `thumbnail`.
        quality: quantiser, 0 to MAX_LAYER_QUALITY.
        halved: whether to send it at half its size.
    """
    sent = thumbnail_halved(small) if halved else small
    grid = PatchGrid.of(sent)
    encoding = model.encode(model.transform.analyse(split(sent)), _context(grid, quality), DEFAULT_PRICE)
    layer = bytes([quality | _HALVED * halved]) + encoding.bodies[0]
    return Background(layer, _shown(model, encoding.coefficients, grid, *small.shape[:2], halved=halved))


def thumbnail_halved(small: UInt8Array) -> UInt8Array:
    """(rows, columns, 3) at half the size, rounded up; a row or column too few is repeated."""
    even = np.pad(small, ((0, len(small) % 2), (0, small.shape[1] % 2), (0, 0)), mode="edge").astype(np.float64)
    means = even.reshape(len(even) // 2, 2, -1, 2, 3).mean(axis=(1, 3))
    return np.asarray(np.rint(means), np.uint8)


def decode_background(model: LossyModel, layer: bytes, grid: PatchGrid) -> UInt8Array:
    """The colour of each patch.

    Args:
        model: the lossy levels.
        layer: of `encode_background`, or empty.
        grid: the picture's grid.

    Returns:
        (grid.count, 3) RGB, the same on every machine.

    Raises:
        StreamError: the layer is damaged.
    """
    if not layer:
        return np.full((grid.count, 3), GREY, np.uint8)
    halved, quality = bool(layer[0] & _HALVED), layer[0] & MAX_LAYER_QUALITY
    small = PatchGrid(-(-grid.columns // 2), -(-grid.rows // 2)) if halved else PatchGrid(grid.columns, grid.rows)
    decoding = model.decode([layer[1:]], _context(small, quality))
    if decoding.damaged.any():
        raise StreamError("background layer is damaged")
    return _shown(model, decoding.coefficients, small, grid.rows, grid.columns, halved=halved)


def _shown(
    model: LossyModel, coefficients: Float64Array, small: PatchGrid, rows: int, columns: int, *, halved: bool
) -> UInt8Array:
    """(rows * columns, 3) colours of the patches of a thumbnail, or of half of one."""
    shown = join(model.transform.synthesise(coefficients), small)
    return np.ascontiguousarray(_doubled(shown)[:rows, :columns] if halved else shown).reshape(-1, 3)


def _doubled(small: UInt8Array) -> UInt8Array:
    """Twice as high and wide, by linear interpolation in whole numbers."""
    values = small.astype(np.int64)
    for axis in (0, 1):
        padded = np.pad(values, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        here, count = values, values.shape[axis]
        before = np.take(padded, np.arange(count), axis)
        after = np.take(padded, np.arange(2, count + 2), axis)
        shape = [2 * length if a == axis else length for a, length in enumerate(values.shape)]
        values = np.stack([3 * here + before, 3 * here + after], axis=axis + 1).reshape(shape)
    return np.asarray((values + 8) >> 4, np.uint8)


def expected_means(model: LossyModel, colours: UInt8Array) -> Float64Array:
    """(n, 3) first coefficients that patches of (n, 3) colours would have, whole numbers."""
    return model.transform.means_of(colours.astype(np.float64) * UNITS_PER_LEVEL)


def _context(small: PatchGrid, quality: int) -> PatchContext:
    rows, columns = np.divmod(np.arange(small.count, dtype=np.int64), small.columns)
    qualities: Int64Array = np.full(small.count, quality, np.int64)
    return PatchContext(rows, columns, qualities, np.zeros((small.count, MEANS)))
