"""What every extractor asks of a picture first."""

import hashlib

import numpy as np

from shared.arrays import UInt8Array
from shared.errors import InvalidInputError
from shared.patches import PatchGrid


def check_picture(image: UInt8Array) -> None:
    """Refuses what is no picture that the codecs take.

    Args:
        image: (height, width, 3) uint8 RGB, any size that `PatchGrid` takes.

    Raises:
        InvalidInputError: the picture is of another shape or dtype, or too large.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InvalidInputError("image", f"must be (height, width, 3) uint8, not {image.shape} {image.dtype}")
    PatchGrid.of(image)


def picture_key(image: UInt8Array) -> bytes:
    """16 bytes that stand for the pixels and the shape, by which what was seen of a picture is found again."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, salt=repr(image.shape).encode()[:16]).digest()
