"""The yardstick: the whole picture as AVIF in no more bytes than ours took."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from client.quality import Quality, measure
from client.runs import Run
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

    def decode(self) -> UInt8Array:
        """(height, width, 3) RGB as a viewer shows it."""
        with Image.open(io.BytesIO(self.data)) as image:
            return np.array(image.convert("RGB"))


@dataclass(frozen=True)
class Yardstick:
    """AVIF's answer to one run."""

    avif: AvifPicture
    pixels: UInt8Array
    """(height, width, 3) RGB."""
    quality: Quality
    """Measured as the run's own is."""

    def to_json(self) -> dict[str, Any]:
        """Bytes and quality as plain values; infinite decibels are null."""
        of_file = {"bytes": len(self.avif.data), "fits": self.avif.fits, "setting": self.avif.quality}
        return {f"avif_{name}": value for name, value in {**of_file, **self.quality.to_json()}.items()}


def yardstick(run: Run) -> Yardstick:
    """The run's original as AVIF in no more bytes than the run put on the channel."""
    avif = encode_within(run.original, run.transmission.delivered.wire_bytes)
    pixels = avif.decode()
    return Yardstick(avif, pixels, measure(run.original, pixels, run.relevance))


def encode_within(image: UInt8Array, limit_bytes: int) -> AvifPicture:
    """The best AVIF of at most that many bytes, found by bisection over the quality.

    Args:
        image: (height, width, 3) RGB.
        limit_bytes: what the file may take.
    """
    picture = Image.fromarray(image)
    best, data, low, high = None, b"", 0, _BEST_QUALITY
    while low <= high:
        quality = (low + high) // 2
        data = _encode(picture, quality)
        if len(data) <= limit_bytes:
            best, low = AvifPicture(data, quality, fits=True), quality + 1
        else:
            high = quality - 1
    # Where nothing fitted, the last that was tried is quality 0.
    return best or AvifPicture(data, 0, fits=False)


def _encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "AVIF", quality=quality, speed=_SPEED, subsampling="4:4:4")
    return buffer.getvalue()
