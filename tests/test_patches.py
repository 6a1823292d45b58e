"""The patch grid fits any size, and joining gives back what was split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInputError
from shared.patches import MAX_PIXELS, PatchGrid, join, split


@given(width=st.integers(1, 70), height=st.integers(1, 70), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_joining_gives_back_what_was_split(width, height, channels, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    grid = PatchGrid.of(image)
    patches = split(image)
    assert patches.shape == (grid.count, 8, 8, channels)
    np.testing.assert_array_equal(join(patches, grid), image)


def test_patches_are_numbered_in_raster_order():
    rows, columns = np.mgrid[:24, :16]
    patches = split((rows // 8 * 2 + columns // 8)[:, :, None])
    assert [int(patch[0, 0, 0]) for patch in patches] == [0, 1, 2, 3, 4, 5]


def test_padding_repeats_the_last_column_and_row():
    patch = split(np.arange(6, dtype=np.uint8).reshape(2, 3, 1))[0, :, :, 0]
    assert patch[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert patch[7].tolist() == [3, 4, 5, 5, 5, 5, 5, 5]


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (65_536, 1), (4096, 4097), (-1, 2)])
def test_impossible_sizes_are_refused(width, height):
    with pytest.raises(InvalidInputError, match="image"):
        PatchGrid(width, height)


def test_sixteen_megapixels_are_allowed():
    assert PatchGrid(4096, 4096).raw_bytes == MAX_PIXELS * 3
