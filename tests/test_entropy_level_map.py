"""The entropy codec's level map comes back exactly, in few bytes, and damage is told."""

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from weights_fakes import NO_WEIGHTS, assert_no_weights_refused

from shared.entropy_level_map import (
    FREQUENCY_TOTAL,
    INPUTS,
    LEVEL_MAP_FORMAT,
    LEVELS,
    decode,
    density_of,
    encode,
    estimate_bytes,
    frequencies_of,
    load_network,
    weights_hash,
)
from shared.errors import InvalidInputError, StreamError, WeightsError
from shared.patches import PatchGrid
from shared.weights import default_path

GRID = PatchGrid(480, 320)


def _blobs(grid, top=6):
    y, x = np.mgrid[: grid.rows, : grid.columns]
    distance = np.hypot(y - grid.rows / 2, x - grid.columns / 3)
    return np.clip(top - distance / 3, 0, top).astype(np.uint8).ravel()


def _disc(grid, inside=6, outside=0):
    return np.where(_blobs(grid) > 2, inside, outside).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_any_map_comes_back(width, height, seed):
    grid = PatchGrid(width, height)
    random = np.random.default_rng(seed)
    levels = random.choice(LEVELS, grid.count, p=random.dirichlet(np.ones(LEVELS) * 0.3)).astype(np.uint8)
    data = encode(levels, grid)
    np.testing.assert_array_equal(decode(data, grid), levels)
    assert len(data) <= 12 + grid.count


@pytest.mark.parametrize(("width", "height"), [(8, 4000), (4000, 8), (16, 2000)])
def test_narrow_maps_come_back(width, height):
    grid = PatchGrid(width, height)
    levels = np.random.default_rng(2).integers(0, LEVELS, grid.count).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(levels, grid), grid), levels)


@pytest.mark.parametrize("level", range(LEVELS))
def test_one_level_all_over_takes_one_byte(level):
    levels = np.full(GRID.count, level, np.uint8)
    assert encode(levels, GRID) == bytes([1 << level])
    assert estimate_bytes(levels, GRID) == 1


def test_smooth_maps_take_few_bytes():
    assert len(encode(_blobs(GRID), GRID)) < 120
    assert len(encode(_disc(GRID), GRID)) < 30


def test_only_the_order_of_the_levels_counts():
    taken = {len(encode(_disc(GRID, inside, outside), GRID)) for inside, outside in [(7, 6), (6, 0), (3, 2)]}
    assert len(taken) == 1


@pytest.mark.parametrize("make", [_blobs, _disc])
@pytest.mark.parametrize("size", [(480, 320), (1024, 200), (64, 64)])
def test_the_estimate_is_near(make, size):
    grid = PatchGrid(*size)
    assert estimate_bytes(make(grid), grid) == pytest.approx(len(encode(make(grid), grid)), abs=2.5)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=120))
def test_garbage_is_a_map_or_an_error(data):
    grid = PatchGrid(96, 64)
    try:
        levels = decode(data, grid)
    except StreamError:
        return
    assert levels.shape == (96,)
    assert set(np.unpackbits(np.array(data[0], np.uint8), bitorder="little")[np.unique(levels)]) == {1}


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 10_000))
def test_damage_is_a_map_or_an_error(place, bit, end):
    grid = PatchGrid(120, 80)
    data = bytearray(encode(_blobs(grid), grid))
    data[place % len(data)] ^= 1 << bit
    for damaged in (bytes(data), bytes(data[: end % len(data)])):
        try:
            assert decode(damaged, grid).shape == (grid.count,)
        except StreamError:
            continue


@pytest.mark.parametrize("data", [b"", b"\0", b"\1\1", b"\3", b"\3" + b"\xff" * 10_000])
def test_what_no_encoder_writes_is_refused(data):
    with pytest.raises(StreamError, match="level map"):
        decode(data, GRID)


@pytest.mark.parametrize("levels", [np.zeros(7, np.uint8), np.full(GRID.count, LEVELS, np.uint8)])
def test_what_is_no_map_is_not_coded(levels):
    with pytest.raises(InvalidInputError, match="levels"):
        encode(levels, GRID)


def test_a_large_map_is_decoded_in_time_linear_in_its_patches():
    grid = PatchGrid(2048, 1024)
    data = encode(_blobs(grid), grid)
    start = time.process_time()
    np.testing.assert_array_equal(decode(data, grid), _blobs(grid))
    assert time.process_time() - start < 3


def test_density_tells_calm_maps_from_busy_ones():
    calm = np.zeros((40, 60), np.int64)
    calm[10:20, 10:20] = 1
    assert density_of(np.indices((40, 60)).sum(axis=0) % 2) == 0
    assert density_of(calm) == 6
    assert density_of(np.zeros((40, 60), np.int64)) == 7


def test_frequencies_add_up_and_none_is_zero():
    random = np.random.default_rng(1)
    inputs = (random.random((50, INPUTS)) < 0.2).astype(np.float32)
    for used in range(2, LEVELS + 1):
        frequencies = frequencies_of(load_network(), inputs, used)
        assert frequencies.shape == (50, used)
        assert frequencies.min() >= 1
        assert (frequencies.sum(axis=1) == FREQUENCY_TOTAL).all()


GOLDEN = "0e261f8b5c138d09"


def test_the_coded_bytes_follow_from_integers_alone():
    """The golden bytes: whoever changes the coder or the network changes the stream, and must say so here."""
    coded = b"".join(encode(make(GRID), GRID) for make in (_blobs, _disc))
    assert hashlib.sha256(coded).hexdigest()[:16] == GOLDEN


def test_the_hash_names_the_file():
    content = default_path("entropy_level_map.safetensors").read_bytes()
    assert weights_hash() == hashlib.sha256(content).digest()[:4]


def test_foreign_weights_are_refused(tmp_path):
    path = tmp_path / "map.safetensors"
    tensors = load_network().to_tensors("network")
    wrong = {**tensors, "network.2.weights": tensors["network.2.weights"][:5], "network.2.bias": np.zeros(5, np.int64)}
    for content, tag in [(tensors, "another"), ({}, LEVEL_MAP_FORMAT), (wrong, LEVEL_MAP_FORMAT)]:
        save_file(content, path, metadata={"mmsc_format": tag})
        with pytest.raises(WeightsError, match=r"map\.safetensors|network"):
            load_network(path)


@pytest.mark.parametrize("content", NO_WEIGHTS)
def test_absent_or_damaged_weights_are_refused(tmp_path, content):
    assert_no_weights_refused(load_network, tmp_path / "map.safetensors", content)
