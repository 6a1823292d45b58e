"""The background layer: the whole picture at an eighth of its size, one colour per patch, in a few hundred bytes.

It is the photo's own thumbnail, coded by the lossy levels as a small picture of its own. The receiver shows it
where nothing better arrives, and both ends start their guesses of every patch's means from it.

```
layer    quality:u8 │ string of `LossyModel` over the thumbnail's patches         empty: grey everywhere
```
"""

from typing import Final

import numpy as np

from shared.arrays import Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.context import QUALITIES, PatchContext
from shared.codec.entropy.lossy_model import DEFAULT_PRICE, LossyModel
from shared.codec.entropy.transform import MEANS, UNITS_PER_LEVEL
from shared.errors import StreamError
from shared.patches import PATCH_SIZE, PatchGrid, join, split

GREY: Final = 128
"""What an empty layer shows."""


def thumbnail(image: UInt8Array) -> UInt8Array:
    """(rows, columns, 3) mean colour of each patch of a picture (height, width, 3)."""
    grid = PatchGrid.of(image)
    means = split(image).reshape(grid.count, PATCH_SIZE**2, 3).mean(axis=1, dtype=np.float64)
    return np.rint(means).astype(np.uint8).reshape(grid.rows, grid.columns, 3)


def encode_background(model: LossyModel, small: UInt8Array, quality: int) -> bytes:
    """Codes a thumbnail.

    Args:
        model: the lossy levels.
        small: (rows, columns, 3) of `thumbnail`.
        quality: quantiser, 0 to QUALITIES - 1.
    """
    context = _context(PatchGrid.of(small), quality)
    encoding = model.encode(model.transform.analyse(split(small)), context, DEFAULT_PRICE)
    return bytes([quality]) + encoding.bodies[0]


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
    if layer[0] >= QUALITIES:
        raise StreamError("background layer is of no known quality")
    small = PatchGrid(grid.columns, grid.rows)
    decoding = model.decode([layer[1:]], _context(small, layer[0]))
    if decoding.damaged.any():
        raise StreamError("background layer is damaged")
    return np.asarray(join(model.transform.synthesise(decoding.coefficients), small).reshape(grid.count, 3))


def expected_means(model: LossyModel, colours: UInt8Array) -> Float64Array:
    """(n, 3) first coefficients that patches of (n, 3) colours would have, whole numbers."""
    return model.transform.means_of(colours.astype(np.float64) * UNITS_PER_LEVEL)


def _context(small: PatchGrid, quality: int) -> PatchContext:
    rows, columns = np.divmod(np.arange(small.count, dtype=np.int64), small.columns)
    qualities: Int64Array = np.full(small.count, quality, np.int64)
    return PatchContext(rows, columns, qualities, np.zeros((small.count, MEANS)))
