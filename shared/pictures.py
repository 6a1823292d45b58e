"""Reading any picture file into upright 8-bit RGB, and writing PNGs.

Uploads are hostile until proven otherwise: only known formats are opened, and the size in the file's header is
checked before a single pixel is decoded.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.arrays import AnyArray, Float32Array, UInt8Array
from shared.errors import InvalidInputError
from shared.patches import PatchGrid

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
_SIXTEEN_BIT: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_WHITE: Final = (255, 255, 255, 255)


def read_picture(data: bytes, field: str = "image") -> UInt8Array:
    """Decodes a picture, turns it upright by its EXIF orientation and converts it to 8-bit RGB.

    Transparency is laid over white, 16-bit samples keep their upper 8 bits, CMYK and palettes are converted; of
    an animation the first frame is read.

    Args:
        data: an encoded picture (PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PPM).
        field: the request's field, for the error.

    Returns:
        (height, width, 3) RGB.

    Raises:
        InvalidInputError: no such picture, damaged, empty, or over the limits of `PatchGrid`.
    """
    with _refused_as(field):
        return _rgb(_decoded(data))


def _rgb(image: Image.Image) -> UInt8Array:
    if image.mode in _SIXTEEN_BIT:
        return np.repeat(_upper_byte(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def read_relevance(data: bytes, grid: PatchGrid) -> Float32Array:
    """Decodes a client's own relevance map.

    Args:
        data: a PNG, grey (8 or 16 bit) or anything that converts to grey, of the picture's upright size.
        grid: of the picture that it belongs to.

    Returns:
        (height, width), 0 to 1.

    Raises:
        InvalidInputError: no picture, another size, or not finite.
    """
    field = "options.relevance_png"
    with _refused_as(field):
        return _weights(_decoded(data), grid, field)


def _weights(image: Image.Image, grid: PatchGrid, field: str) -> Float32Array:
    if image.size != (grid.width, grid.height):
        size, wanted = f"{image.width}x{image.height}", f"{grid.width}x{grid.height}"
        raise InvalidInputError(field, f"map is {size}, the upright picture is {wanted}")
    if image.mode not in _SIXTEEN_BIT:
        return np.asarray(image.convert("L"), np.float32) / np.float32(255)
    samples = np.asarray(image).astype(np.float64)
    if not np.isfinite(samples).all():
        raise InvalidInputError(field, "map has values that are not finite")
    top = 1.0 if image.mode == "F" else 65_535.0
    return np.clip(samples / top, 0, 1).astype(np.float32)


def png_bytes(array: AnyArray) -> bytes:
    """Encodes (height, width, 3) RGB or (height, width) grey, both uint8, as a PNG; fast rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _decoded(data: bytes) -> Image.Image:
    if not data:
        raise InvalidInputError("", "is empty")
    with warnings.catch_warnings():
        # Damaged tags are Pillow's to skip, and bombs are PatchGrid's to refuse; neither needs a warning on top.
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        PatchGrid(image.width, image.height)
        image.load()
        return ImageOps.exif_transpose(image)


@contextmanager
def _refused_as(field: str) -> Iterator[None]:
    """Turns whatever Pillow says of a picture, opened or converted, into an error that names the field."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(field, error.description) from error
    except Image.DecompressionBombError as error:
        raise InvalidInputError(field, "has far more pixels than the limit") from error
    except UnidentifiedImageError as error:
        raise InvalidInputError(field, f"is no picture of a known format ({', '.join(_FORMATS)})") from error
    except Exception as error:
        raise InvalidInputError(field, f"is damaged: {' '.join(str(error).split())}") from error


def _upper_byte(samples: AnyArray) -> UInt8Array:
    if samples.dtype.kind == "f":
        return np.asarray(np.clip(np.nan_to_num(samples), 0, 255), np.uint8)
    # Pillow opens 16-bit PNGs as 32-bit integers in some modes; the range tells which it is.
    return np.asarray(np.clip(samples.astype(np.int64), 0, 65_535) >> 8, np.uint8)
