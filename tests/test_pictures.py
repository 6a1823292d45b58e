"""Every kind of picture file becomes upright 8-bit RGB, or a typed error."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import InvalidInputError
from shared.patches import PatchGrid
from shared.pictures import png_bytes, read_picture, read_relevance

_RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def _encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("TIFF", {}), ("BMP", {}), ("PPM", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_are_read_exactly(form, options):
    np.testing.assert_array_equal(read_picture(_encoded(Image.fromarray(_RGB), form, **options)), _RGB)


@pytest.mark.parametrize("form", ["JPEG", "AVIF", "GIF"])
def test_lossy_formats_are_read(form):
    assert read_picture(_encoded(Image.fromarray(_RGB), form)).shape == (6, 9, 3)


def test_exif_rotation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image = read_picture(_encoded(Image.fromarray(_RGB), "PNG", exif=exif))
    np.testing.assert_array_equal(image, np.rot90(_RGB, -1))


def test_sixteen_bit_grey_keeps_its_upper_byte():
    samples = np.arange(0, 65_536, 1024, dtype=np.uint16).reshape(8, 8)
    image = read_picture(_encoded(Image.fromarray(samples), "PNG"))
    np.testing.assert_array_equal(image, np.repeat((samples >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_transparency_is_laid_over_white():
    rgba = np.dstack([_RGB, np.zeros((6, 9), np.uint8)])
    rgba[0, 0, 3] = 255
    image = read_picture(_encoded(Image.fromarray(rgba), "PNG"))
    assert image[0, 0].tolist() == _RGB[0, 0].tolist()
    assert (image[1:] == 255).all()


def test_cmyk_and_palette_and_grey_are_converted():
    cmyk = read_picture(_encoded(Image.new("CMYK", (5, 4), (255, 0, 0, 0)), "JPEG", quality=95))
    assert cmyk[0, 0, 0] < 40 < cmyk[0, 0, 2]
    palette = Image.fromarray(_RGB).quantize(4)
    np.testing.assert_array_equal(read_picture(_encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    assert read_picture(_encoded(Image.new("L", (5, 4), 77), "PNG"))[0, 0].tolist() == [77, 77, 77]
    assert read_picture(_encoded(Image.new("1", (5, 4), 1), "PNG"))[0, 0].tolist() == [255, 255, 255]


def _png_of_size(width, height):
    """A valid PNG header that promises a picture of any size, without its pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "no picture"),
        (b"%PDF-1.4 not a picture", "no picture"),
        (_png_of_size(60_000, 60_000), "pixels"),
        (_png_of_size(5000, 5000), "pixels"),
        (_png_of_size(70_000, 2), "65535"),
        (_png_of_size(0, 10), "image"),
        (_png_of_size(10, 10), "damaged"),
    ],
)
def test_unusable_pictures_are_refused_by_name(data, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        read_picture(data)
    assert caught.value.field == "image"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_truncated_and_damaged_files_are_errors_or_pictures(form, data):
    whole = _encoded(Image.fromarray(_RGB.repeat(8, 0).repeat(8, 1)), form)
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for position in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=4)):
        if damaged:
            damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        assert read_picture(bytes(damaged)).ndim == 3
    except InvalidInputError as error:
        assert error.field == "image"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
def test_no_damaged_byte_breaks_the_reader(form):
    whole = _encoded(Image.fromarray(_RGB), form)
    for position in range(min(len(whole), 600)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        try:
            assert read_picture(bytes(damaged)).ndim == 3
        except InvalidInputError as error:
            assert error.field == "image"


def test_a_client_map_is_read_as_relevance():
    grid = PatchGrid(9, 6)
    grey = np.linspace(0, 255, 54).astype(np.uint8).reshape(6, 9)
    np.testing.assert_allclose(read_relevance(png_bytes(grey), grid), grey / 255, atol=1e-6)
    deep = np.linspace(0, 65_535, 54).astype(np.uint16).reshape(6, 9)
    np.testing.assert_allclose(read_relevance(_encoded(Image.fromarray(deep), "PNG"), grid), deep / 65_535, atol=1e-6)


def test_a_client_map_of_floats_must_be_finite():
    values = np.full((6, 9), 0.5, np.float32)
    assert read_relevance(_encoded(Image.fromarray(values), "TIFF"), PatchGrid(9, 6)).mean() == pytest.approx(0.5)
    values[2, 3] = np.nan
    with pytest.raises(InvalidInputError, match="not finite"):
        read_relevance(_encoded(Image.fromarray(values), "TIFF"), PatchGrid(9, 6))


@pytest.mark.parametrize(("data", "reason"), [(b"x", "no picture"), (png_bytes(_RGB), "picture is 9x7")])
def test_an_unusable_client_map_is_refused_by_name(data, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        read_relevance(data, PatchGrid(9, 7))
    assert caught.value.field == "options.relevance_png"
