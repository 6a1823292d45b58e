"""Turns the patches that arrived into a picture.

```
pieces ─► codec, level by level ─► patches ──┐
sketch ──────────────────► background ───────┴─► restoration ─► picture
```
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from receiver.assembly import ArrivedPatches
from shared.arrays import UInt8Array
from shared.codec.contract import PatchCodec
from shared.levels import LEVEL_BYTES, SKIPPED
from shared.packets import StreamHeader, sending_order
from shared.patches import PATCH_SIZE, PatchGrid
from shared.sketch import decode_sketch


class Restorer(Protocol):
    """Fills what was not sent and hides the borders between patches of different levels."""

    def restore(self, decoded: UInt8Array, levels: UInt8Array, grid: PatchGrid, background: UInt8Array) -> UInt8Array:
        """Paints the picture.

        Args:
            decoded: (grid.count, 8, 8, 3) RGB, zero where the level is 0.
            levels: (grid.count,) level of each patch that arrived, 0 where skipped or lost.
            grid: the picture's grid.
            background: (grid.count, 8, 8, 3) RGB, the sketch.

        Returns:
            (grid.height, grid.width, 3) RGB.
        """
        ...


@dataclass(frozen=True)
class DecodedPatches:
    """The patches that arrived, as pixels."""

    header: StreamHeader
    patches: UInt8Array
    """(grid.count, 8, 8, 3) RGB, zero where nothing arrived."""
    levels: UInt8Array
    """(grid.count,) level of each patch, 0 where skipped or lost."""


def decode(arrived: ArrivedPatches, codec: PatchCodec) -> DecodedPatches:
    """Decodes every patch that arrived, one call of the codec per level."""
    grid = arrived.header.grid
    order = sending_order(arrived.levels)
    patches = np.zeros((grid.count, PATCH_SIZE, PATCH_SIZE, 3), np.uint8)
    levels = np.zeros(grid.count, np.uint8)
    for level in range(SKIPPED + 1, len(LEVEL_BYTES)):
        pieces = [piece for piece in arrived.pieces if piece.level == level]
        if pieces:
            numbers = np.concatenate([order[piece.place] for piece in pieces])
            joined = np.frombuffer(b"".join(piece.payload for piece in pieces), np.uint8)
            patches[numbers] = codec.decode(level, joined.reshape(-1, LEVEL_BYTES[level]))
            levels[numbers] = level
    return DecodedPatches(arrived.header, patches, levels)


def restore(decoded: DecodedPatches, restorer: Restorer) -> UInt8Array:
    """Paints the picture, (height, width, 3) RGB."""
    grid = decoded.header.grid
    background = decode_sketch(decoded.header.sketch, grid)
    return restorer.restore(decoded.patches, decoded.levels, grid, background)


def level_picture(decoded: DecodedPatches) -> UInt8Array:
    """The levels as (rows, columns), one pixel per patch."""
    grid = decoded.header.grid
    return decoded.levels.reshape(grid.rows, grid.columns)


def warm_up(codec: PatchCodec, restorer: Restorer) -> None:
    """Makes the first picture as fast as those after it: builds tables, starts threads."""
    grid = PatchGrid(8 * PATCH_SIZE, PATCH_SIZE)
    header = StreamHeader(0, codec.weights_hash, grid, b"", b"", 0)
    levels = np.arange(grid.count, dtype=np.uint8) % len(LEVEL_BYTES)
    patches = np.zeros((grid.count, PATCH_SIZE, PATCH_SIZE, 3), np.uint8)
    for level in range(SKIPPED + 1, len(LEVEL_BYTES)):
        payload = np.zeros((int((levels == level).sum()), LEVEL_BYTES[level]), np.uint8)
        patches[levels == level] = codec.decode(level, payload)
    restore(DecodedPatches(header, patches, levels), restorer)
