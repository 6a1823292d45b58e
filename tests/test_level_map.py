"""The level map comes back exactly, in few bytes, and damage is told."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from weights_fakes import NO_WEIGHTS, assert_no_weights_refused

from shared.errors import StreamError, WeightsError
from shared.level_map import CONTEXTS, FREQUENCY_TOTAL, decode_level_map, encode_level_map, load_tables
from shared.levels import LEVEL_BYTES
from shared.patches import PatchGrid


def _blobs(grid):
    y, x = np.mgrid[: grid.rows, : grid.columns]
    distance = np.hypot(y - grid.rows / 2, x - grid.columns / 3)
    return np.clip(4 - distance / 4, 0, 4).astype(np.uint8).ravel()


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_any_map_comes_back(width, height, seed):
    grid = PatchGrid(width, height)
    random = np.random.default_rng(seed)
    levels = random.choice(5, grid.count, p=random.dirichlet(np.ones(5) * 0.5)).astype(np.uint8)
    table, data = encode_level_map(levels, grid)
    np.testing.assert_array_equal(decode_level_map(data, table, grid), levels)


def test_smooth_maps_take_few_bytes():
    grid = PatchGrid(480, 320)
    assert len(encode_level_map(_blobs(grid), grid)[1]) < 120
    for level in range(5):
        assert len(encode_level_map(np.full(grid.count, level, np.uint8), grid)[1]) <= 40


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 255))
def test_garbage_is_a_map_or_an_error(data, table):
    grid = PatchGrid(96, 64)
    try:
        levels = decode_level_map(data, table, grid)
    except StreamError:
        return
    assert levels.shape == (96,)
    assert levels.max() < len(LEVEL_BYTES)


def test_an_unknown_table_is_refused():
    with pytest.raises(StreamError, match="table 255"):
        decode_level_map(b"", 255, PatchGrid(8, 8))


GOLDEN = ("bbfa1c300537059d", "71d0dd1edd499e86")


def test_the_coded_bytes_follow_from_integers_alone():
    """The golden bytes: whoever changes the coder or the tables changes the stream, and must say so here."""
    grid = PatchGrid(480, 320)
    table, data = encode_level_map(_blobs(grid), grid)
    digest = hashlib.sha256(bytes([table]) + data).hexdigest()[:16]
    tables = hashlib.sha256(load_tables().tobytes()).hexdigest()[:16]
    assert (tables, digest) == GOLDEN


@pytest.mark.parametrize(
    ("tensors", "tag"),
    [
        ({"frequencies": np.full((1, CONTEXTS, 5), FREQUENCY_TOTAL // 5, np.uint16)}, "mmsc-level-map-1"),
        ({"frequencies": np.zeros((1, 3, 5), np.uint16)}, "mmsc-level-map-1"),
        ({"frequencies": load_tables()}, "another"),
        ({"other": load_tables()}, "mmsc-level-map-1"),
    ],
)
def test_foreign_tables_are_refused(tmp_path, tensors, tag):
    path = tmp_path / "tables.safetensors"
    save_file(tensors, path, metadata={"mmsc_format": tag})
    with pytest.raises(WeightsError, match=r"tables\.safetensors"):
        load_tables(path)


@pytest.mark.parametrize("content", NO_WEIGHTS)
def test_absent_or_damaged_tables_are_refused(tmp_path, content):
    assert_no_weights_refused(load_tables, tmp_path / "tables.safetensors", content)
