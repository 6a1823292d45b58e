"""The ladder codec: sizes, exactness, honest errors, tolerance of any bytes, refusal of bad weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from shared.codec.klt import ClassifiedKlt
from shared.codec.ladder import Ladder, load_ladder, save_ladder
from shared.errors import WeightsError
from shared.levels import LEVEL_BYTES, RAW
from shared.patches import PatchGrid, join, split
from shared.weights import default_path


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    return load_ladder()


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(data.astronaut()[:200, 100:400])


def _psnr(a, b) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_payloads_have_exactly_the_sizes_of_the_levels(ladder, photo):
    patches = split(photo)
    encoded = ladder.encode(patches)
    assert [p.shape for p in encoded.payloads] == [(len(patches), size) for size in LEVEL_BYTES]
    assert all(p.dtype == np.uint8 for p in encoded.payloads)


def test_raw_level_is_the_patch_itself(ladder, photo):
    patches = split(photo)
    encoded = ladder.encode(patches)
    np.testing.assert_array_equal(ladder.decode(RAW, encoded.payloads[RAW]), patches)
    assert (encoded.errors[:, RAW] == 0).all()


def test_errors_are_those_of_the_decoded_patches(ladder, photo):
    patches = split(photo)
    encoded = ladder.encode(patches)
    assert np.isinf(encoded.errors[:, 0]).all()
    for level in range(1, len(LEVEL_BYTES)):
        decoded = ladder.decode(level, encoded.payloads[level])
        assert decoded.shape == patches.shape
        truth = ((patches.astype(np.int64) - decoded) ** 2).sum(axis=(1, 2, 3))
        np.testing.assert_array_equal(encoded.errors[:, level], truth)


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_every_level_is_clearly_better_than_the_one_below(ladder, name):
    patches = split(getattr(data, name)()[:256, :384])
    means = ladder.encode(patches).errors[:, 1:].mean(axis=0)
    assert (means[1:3] < 0.6 * means[:2]).all()
    assert 10 * np.log10(255**2 / (means[0] / 192)) > 27


def test_black_and_white_survive_the_smallest_level(ladder):
    for grey in (0, 128, 255):
        patches = np.full((3, 8, 8, 3), grey, np.uint8)
        assert ladder.encode(patches).errors[:, 1].max() < 192 * 2


def test_decoding_does_not_depend_on_company_or_threads(ladder, photo):
    payload = ladder.encode(split(photo)).payloads[1]
    whole = ladder.decode(1, payload)
    np.testing.assert_array_equal(ladder.decode(1, payload[37:38]), whole[37:38])
    np.testing.assert_array_equal(ladder.decode(1, payload[::-1]), whole[::-1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        np.testing.assert_array_equal(ladder.decode(1, payload), whole)
    finally:
        torch.set_num_threads(threads)


def test_decoded_bytes_are_the_golden_ones(ladder):
    """Decoding is integer arithmetic: fixed bytes give fixed samples on every machine."""
    golden = json.loads((Path(__file__).parent / "expected" / "ladder_decode.json").read_text())
    assert ladder.weights_hash.hex() == golden["weights_hash"], "new weights: renew tests/expected/ladder_decode.json"
    for level in (1, 2, 3):
        payload = (np.arange(64 * LEVEL_BYTES[level]) * 2_654_435_761 % 4_294_967_296 >> 24).astype(np.uint8)
        sums = ladder.decode(level, payload.reshape(64, -1)).reshape(64, -1).sum(axis=1, dtype=np.int64)
        assert sums.tolist() == golden["patch_sums"][level - 1]


@settings(max_examples=40, deadline=None)
@given(level=st.integers(1, RAW), content=st.binary(min_size=0, max_size=600))
def test_any_bytes_decode(level, content):
    size = LEVEL_BYTES[level]
    payload = np.frombuffer(content, np.uint8)[: len(content) // size * size].reshape(-1, size)
    decoded = load_ladder_once().decode(level, payload)
    assert decoded.shape == (len(payload), 8, 8, 3)
    assert decoded.dtype == np.uint8


_LOADED: list[Ladder] = []


def load_ladder_once() -> Ladder:
    if not _LOADED:
        _LOADED.append(load_ladder())
    return _LOADED[0]


@pytest.mark.parametrize("fill", [0, 255])
def test_uniform_bytes_decode(ladder, fill):
    for level in range(1, len(LEVEL_BYTES)):
        assert ladder.decode(level, np.full((5, LEVEL_BYTES[level]), fill, np.uint8)).shape == (5, 8, 8, 3)


def test_lone_patch_and_no_patch(ladder):
    lone = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    encoded = ladder.encode(lone)
    assert ladder.decode(2, encoded.payloads[2]).shape == (1, 8, 8, 3)
    none = ladder.encode(np.zeros((0, 8, 8, 3), np.uint8))
    assert [p.shape for p in none.payloads] == [(0, size) for size in LEVEL_BYTES]
    assert none.errors.shape == (0, len(LEVEL_BYTES))
    assert ladder.decode(1, none.payloads[1]).shape == (0, 8, 8, 3)


def test_picture_of_one_pixel(ladder):
    image = np.array([[[200, 10, 90]]], np.uint8)
    patches = split(image)
    decoded = ladder.decode(1, ladder.encode(patches).payloads[1])
    assert np.abs(join(decoded, PatchGrid.of(image)).astype(int) - image).max() < 8


def test_indices_come_back_from_the_packed_bits(ladder, photo):
    tables = ladder.levels[1]
    choice = tables.choose(split(photo).reshape(-1, 192))
    classes, indices = tables.unpack(tables.pack(choice.classes.numpy(), choice.indices.numpy()))
    np.testing.assert_array_equal(classes, choice.classes.numpy())
    np.testing.assert_array_equal(indices, choice.indices.numpy())


def test_saved_ladder_loads_as_the_same(ladder, tmp_path):
    save_ladder(tmp_path / "copy.safetensors", ladder.levels, {"seed": "1"})
    again = load_ladder(tmp_path / "copy.safetensors")
    payload = np.arange(120, dtype=np.uint8).reshape(-1, 12)
    np.testing.assert_array_equal(again.decode(1, payload), ladder.decode(1, payload))
    assert again.weights_hash != ladder.weights_hash
    assert len(again.weights_hash) == 4


def test_absent_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        load_ladder(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[: len(b) // 2], lambda b: b"\0" * 64, lambda b: b""])
def test_damaged_weights_are_refused(tmp_path, damage):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(default_path("ladder.safetensors").read_bytes()))
    with pytest.raises(WeightsError, match=r"damaged\.safetensors"):
        load_ladder(path)


def test_foreign_weights_are_refused():
    with pytest.raises(WeightsError, match=r"restoration\.safetensors.*format"):
        load_ladder(default_path("restoration.safetensors"))


def test_tables_that_contradict_each_other_are_refused(ladder, tmp_path):
    tables = ladder.levels[0]
    with pytest.raises(WeightsError, match="12-byte"):
        ClassifiedKlt(12, tables.means, tables.basis, tables.bits, tables.values[:-1])
    too_many = tables.bits + np.uint8(1)
    with pytest.raises(WeightsError, match="12-byte"):
        ClassifiedKlt(12, tables.means, tables.basis, too_many, tables.values)


def test_a_level_of_another_type_is_refused(ladder, tmp_path):
    tables = ladder.levels[0]
    wide = ClassifiedKlt(12, tables.means.astype(np.int32), tables.basis, tables.bits, tables.values)
    save_ladder(tmp_path / "wide.safetensors", (wide, *ladder.levels[1:]), {})
    with pytest.raises(WeightsError, match=r"wide\.safetensors.*means"):
        load_ladder(tmp_path / "wide.safetensors")
