"""Painting by hand: what arrived as it is, and the enlarged background layer everywhere else."""

import numpy as np
from PIL import Image

from shared.arrays import Int16Array, UInt8Array
from shared.codec.entropy.levels import QUALITY_SKIPPED
from shared.patches import PATCH_SIZE, PatchGrid, join, split


class PlainRestorer:
    """Implements `receiver.entropy_receiver.Restorer` without any weights."""

    def restore(
        self, patches: UInt8Array, qualities: Int16Array, grid: PatchGrid, background: UInt8Array
    ) -> UInt8Array:
        """Paints the picture; see the contract."""
        arrived = qualities != QUALITY_SKIPPED
        if arrived.all():
            return join(patches, grid)
        small = Image.fromarray(background.reshape(grid.rows, grid.columns, 3))
        size = (grid.columns * PATCH_SIZE, grid.rows * PATCH_SIZE)
        behind = split(np.asarray(small.resize(size, Image.Resampling.BICUBIC)))
        return join(np.where(arrived[:, None, None, None], patches, behind), grid)
