"""The picture that the benchmarks send: one that comes with a library, at the paper's size."""

import numpy as np
import skimage.data
from PIL import Image

from shared.arrays import UInt8Array


def coffee_480x320() -> UInt8Array:
    """scikit-image's `coffee`, (320, 480, 3) RGB."""
    picture: UInt8Array = skimage.data.coffee()  # type: ignore[no-untyped-call]
    resized = Image.fromarray(picture).resize((480, 320), Image.Resampling.LANCZOS)
    return np.asarray(resized)
