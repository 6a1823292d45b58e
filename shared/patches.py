"""The patch grid: cutting a picture into 8x8 patches and putting it together again.

The picture's right and bottom edges are padded by repeating the last column and row, so that any size fits
the grid; joining crops the padding again. Patches are numbered in raster order.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import AnyArray
from shared.errors import InvalidInputError

PATCH_SIZE: Final = 8
"""Side of a patch in pixels."""

MAX_PIXELS: Final = 16 * 1024 * 1024
"""Largest picture (padded or not) that any stage accepts, in pixels."""

MAX_SIDE: Final = 65_535
"""Longest side of a picture in pixels; the stream header holds it in two bytes."""


@dataclass(frozen=True)
class PatchGrid:
    """Size of a picture and of the grid of patches that covers it.

    Raises:
        InvalidInputError: a side is not in 1..MAX_SIDE or the picture has more than MAX_PIXELS pixels.
    """

    width: int
    """Pixels."""

    height: int
    """Pixels."""

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise InvalidInputError("image", f"size {self.width}x{self.height} is outside 1..{MAX_SIDE} pixels")
        if self.width * self.height > MAX_PIXELS:
            raise InvalidInputError("image", f"{self.width}x{self.height} is over {MAX_PIXELS} pixels")

    @classmethod
    def of(cls, image: AnyArray) -> "PatchGrid":
        """Grid of a picture given as (height, width, ...)."""
        return cls(width=image.shape[1], height=image.shape[0])

    @property
    def rows(self) -> int:
        """Patches from top to bottom."""
        return -(-self.height // PATCH_SIZE)

    @property
    def columns(self) -> int:
        """Patches from left to right."""
        return -(-self.width // PATCH_SIZE)

    @property
    def count(self) -> int:
        """Patches in all."""
        return self.rows * self.columns

    @property
    def raw_bytes(self) -> int:
        """Bytes of the picture as 8-bit RGB; percentages of the raw size refer to this."""
        return self.width * self.height * 3


def pad_to_grid(image: AnyArray, grid: PatchGrid) -> AnyArray:
    """Repeats the last column and row until the picture covers the grid.

    Args:
        image: (height, width) or (height, width, channels), any dtype.
        grid: the grid of that picture.

    Returns:
        (rows * 8, columns * 8[, channels]), same dtype.
    """
    pad = [(0, grid.rows * PATCH_SIZE - grid.height), (0, grid.columns * PATCH_SIZE - grid.width)]
    return np.pad(image, pad + [(0, 0)] * (image.ndim - 2), mode="edge")


def split(image: AnyArray) -> AnyArray:
    """Cuts a picture into patches.

    Args:
        image: (height, width, channels), any dtype.

    Returns:
        (patches, 8, 8, channels), same dtype, raster order.
    """
    grid = PatchGrid.of(image)
    tiles = pad_to_grid(image, grid).reshape(grid.rows, PATCH_SIZE, grid.columns, PATCH_SIZE, -1)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3, 4)).reshape(grid.count, PATCH_SIZE, PATCH_SIZE, -1)


def join(patches: AnyArray, grid: PatchGrid) -> AnyArray:
    """Puts patches together and crops the padding; the inverse of `split`.

    Args:
        patches: (grid.count, 8, 8, channels), any dtype, raster order.
        grid: the grid they were cut by.

    Returns:
        (grid.height, grid.width, channels), same dtype.
    """
    tiles = patches.reshape(grid.rows, grid.columns, PATCH_SIZE, PATCH_SIZE, -1).transpose(0, 2, 1, 3, 4)
    picture = tiles.reshape(grid.rows * PATCH_SIZE, grid.columns * PATCH_SIZE, -1)
    return np.ascontiguousarray(picture[: grid.height, : grid.width])
