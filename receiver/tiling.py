"""Works on large pictures piece by piece, so that memory stays bounded, and between patches and planes of pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from shared.arrays import AnyArray, UInt8Array
from shared.patches import PATCH_SIZE, PatchGrid

_TILE: Final = 96  # patches along the side of a tile
_MARGIN: Final = 8  # patches around a tile that the network sees but does not write


@dataclass(frozen=True)
class Box:
    """A rectangle of patches."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, outer: "Box") -> tuple[slice, slice]:
        """Its rows and columns, counted from the corner of a box around it."""
        top, left = self.top - outer.top, self.left - outer.left
        return slice(top, top + self.bottom - self.top), slice(left, left + self.right - self.left)


def tiles(grid: PatchGrid) -> Iterator[tuple[Box, Box]]:
    """Boxes to write and the boxes to look at for them: memory stays bounded on large pictures."""
    for top in range(0, grid.rows, _TILE):
        for left in range(0, grid.columns, _TILE):
            inner = Box(top, left, min(top + _TILE, grid.rows), min(left + _TILE, grid.columns))
            yield (
                inner,
                Box(
                    max(top - _MARGIN, 0),
                    max(left - _MARGIN, 0),
                    min(inner.bottom + _MARGIN, grid.rows),
                    min(inner.right + _MARGIN, grid.columns),
                ),
            )


def to_picture(patches: AnyArray) -> Tensor:
    """(rows, columns, 8, 8, 3) uint8 to (1, 3, 8 rows, 8 columns) float in 0..1."""
    rows, columns = patches.shape[:2]
    planes = np.ascontiguousarray(patches.transpose(4, 0, 2, 1, 3)).reshape(
        1, 3, rows * PATCH_SIZE, columns * PATCH_SIZE
    )
    return torch.from_numpy(planes).float() / 255


def to_patches(picture: Tensor) -> UInt8Array:
    """The inverse of `to_picture`, rounded and clipped."""
    planes = (picture[0] * 255).round_().clamp_(0, 255).to(torch.uint8).numpy()
    rows, columns = planes.shape[1] // PATCH_SIZE, planes.shape[2] // PATCH_SIZE
    patches: UInt8Array = planes.reshape(3, rows, PATCH_SIZE, columns, PATCH_SIZE).transpose(1, 3, 2, 4, 0)
    return patches
