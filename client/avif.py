"""The yardstick: the whole picture as AVIF in no more bytes than ours took."""

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from shared.arrays import UInt8Array

_BEST_QUALITY = 100
_SPEED = 6


@dataclass(frozen=True)
class AvifPicture:
    """A picture as AVIF, 4:4:4, encoder speed 6."""

    data: bytes
    quality: int
    """0 to 100."""

    fits: bool
    """False where even quality 0 takes more bytes than were allowed; the picture is then that one."""

    @cached_property
    def pixels(self) -> UInt8Array:
        """(height, width, 3) RGB as a viewer decodes it."""
        with Image.open(io.BytesIO(self.data)) as image:
            return np.array(image.convert("RGB"))


def encode_within(image: UInt8Array, limit_bytes: int) -> AvifPicture:
    """The best AVIF of at most that many bytes, found by bisection over the quality.

    Args:
        image: (height, width, 3) RGB.
        limit_bytes: what the file may take.
    """
    picture = Image.fromarray(image)
    best, low, high = AvifPicture(_encode(picture, 0), 0, fits=True), 1, _BEST_QUALITY
    if len(best.data) > limit_bytes:
        return AvifPicture(best.data, 0, fits=False)
    while low <= high:
        quality = (low + high) // 2
        data = _encode(picture, quality)
        if len(data) <= limit_bytes:
            best, low = AvifPicture(data, quality, fits=True), quality + 1
        else:
            high = quality - 1
    return best


def _encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "AVIF", quality=quality, speed=_SPEED, subsampling="4:4:4")
    return buffer.getvalue()
