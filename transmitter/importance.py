"""From a relevance map to how important each patch is."""

import numpy as np

from shared.arrays import Float32Array
from shared.patches import split


def patch_importance(relevance: Float32Array) -> Float32Array:
    """Mean relevance over each patch (paper, after eq. 7).

    Args:
        relevance: (height, width), 0 to 1.

    Returns:
        (patches,) in raster order, 0 to 1.
    """
    return np.asarray(split(relevance[:, :, None]).mean(axis=(1, 2, 3)), np.float32)
