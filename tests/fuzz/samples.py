"""Real inputs of the decoders, made on the spot: a photo, its relevance, and plans of both codecs."""

import io
import itertools
from functools import cache
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

from shared.arrays import UInt8Array
from transmitter.codecs import load_sender
from transmitter.pipeline import StageClock
from transmitter.planning import Plan, PlanRequest
from transmitter.relevance.contract import Relevance

from .mutations import Sample

TRANSMISSION = 0x0BADCAFE
"""Of all packets."""


@cache
def photo(width: int, height: int, left: int = 90) -> UInt8Array:
    """(height, width, 3) a part of a photo."""
    return np.ascontiguousarray(skimage.data.chelsea()[40 : 40 + height, left : left + width])


def clock() -> StageClock:
    """A clock that nobody waits for."""
    ticks = itertools.count()
    return StageClock(lambda: float(next(ticks)))


def middle(width: int, height: int) -> Any:
    """(height, width) a relevance map: what matters is in the middle."""
    y, x = np.mgrid[0:height, 0:width]
    return np.exp(-((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) * 8).astype(np.float32)


@cache
def plans(name: str) -> tuple[Plan, ...]:
    """Plans of a codec: of few and many bytes, several packets or one, and exact."""
    sender, found = load_sender(name), []
    for width, height, budget, packet in ((96, 72, 900, 300), (61, 45, 400, 256), (120, 80, 6_000, 1_200)):
        request = PlanRequest(budget, packet)
        found.append(sender.prepare(photo(width, height)).plan(middle(width, height), request))
    found.append(sender.plan_exactly(photo(40, 30), packet_bytes=1_200, frame_bytes=0))
    return tuple(found)


def encoded_photos() -> list[Sample]:
    """A picture in every format and mode that is read, one string each."""
    picture = Image.fromarray(photo(40, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: list[tuple[str, str, dict[str, Any]]] = [
        *(("RGB", kind, {}) for kind in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "GIF")),
        *(("RGBA", "PNG", {}), ("L", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {}), ("CMYK", "JPEG", {})),
        *(("RGB", "TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
        *(("RGB", "JPEG", {"exif": exif, "progressive": True}), ("RGB", "WEBP", {"lossless": True})),
        *(("F", "TIFF", {}), ("LAB", "TIFF", {}), ("I;16", "PNG", {}), ("RGB", "PNG", {"exif": exif})),
    ]
    found = []
    for mode, kind, options in ways:
        buffer = io.BytesIO()
        converted = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257) if mode == "I;16" else None
        if mode == "LAB":
            converted = Image.new("LAB", picture.size)
        (converted or picture.convert(mode)).save(buffer, kind, **options)
        found.append((buffer.getvalue(),))
    return found


class LeftHalf:
    """An extractor to which the left half is what was asked for."""

    name = "left-half"

    def __call__(self, image: UInt8Array, query: str) -> Relevance:
        relevance = np.zeros(image.shape[:2], np.float32)
        relevance[:, : max(image.shape[1] // 2, 1)] = 1
        return Relevance(relevance, query != "unicorn")
