"""The sketch: any number of bytes is valid, and more bytes come closer."""

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

from shared.patches import PatchGrid, join
from shared.sketch import MAX_SKETCH_BYTES, decode_sketch, encode_sketch


def _error(image, size_bytes):
    grid = PatchGrid.of(image)
    shown = join(decode_sketch(encode_sketch(image, size_bytes), grid), grid)
    return np.mean((shown.astype(float) - image) ** 2)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_more_bytes_come_closer(name):
    image = getattr(skimage.data, name)()
    errors = [_error(image, size) for size in (0, 3, 12, 48, 96, MAX_SKETCH_BYTES)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


def test_one_colour_takes_three_bytes():
    image = np.full((40, 60, 3), (200, 90, 30), np.uint8)
    grid = PatchGrid.of(image)
    assert np.abs(decode_sketch(encode_sketch(image, 12), grid).astype(int) - (200, 90, 30)).max() <= 2


@given(st.binary(max_size=MAX_SKETCH_BYTES), st.integers(1, 90), st.integers(1, 90))
def test_any_bytes_are_a_sketch(sketch, width, height):
    grid = PatchGrid(width, height)
    assert decode_sketch(sketch, grid).shape == (grid.count, 8, 8, 3)


@given(st.integers(0, MAX_SKETCH_BYTES), st.integers(1, 40), st.integers(1, 40))
def test_the_size_is_what_was_asked_for(size_bytes, width, height):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert len(encode_sketch(image, size_bytes)) == size_bytes


def test_no_sketch_is_grey_not_black():
    assert np.abs(decode_sketch(b"", PatchGrid(16, 16)).astype(int) - 128).max() <= 1
