"""Restoration: raw patches untouched, gaps never black, quality not lowered, refusal of bad weights."""

import numpy as np
import pytest
from skimage import data
from weights_fakes import assert_others_refused

from receiver.restoration import Restorer
from shared.codec.ladder import load_ladder
from shared.levels import RAW, SKIPPED
from shared.patches import PatchGrid, join, split
from shared.sketch import decode_sketch, encode_sketch


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.load()


@pytest.fixture(scope="module")
def scene():
    """A photo whose sides are no multiples of 8, its patches at every level, and a background."""
    photo = np.ascontiguousarray(data.astronaut()[:189, 120:397])
    grid = PatchGrid.of(photo)
    ladder = load_ladder()
    payloads = ladder.encode(split(photo)).payloads
    decoded = [np.zeros((grid.count, 8, 8, 3), np.uint8)]
    decoded += [ladder.decode(level, payloads[level]) for level in range(1, RAW + 1)]
    return photo, grid, np.stack(decoded), decode_sketch(encode_sketch(photo, 24), grid)


def _psnr(a, b) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def _mixture(scene, levels):
    _, _, decoded, _ = scene
    return decoded[levels, np.arange(len(levels))]


def test_all_raw_is_bit_exact(restorer, scene):
    photo, grid, decoded, background = scene
    levels = np.full(grid.count, RAW, np.uint8)
    np.testing.assert_array_equal(restorer.restore(decoded[RAW], levels, grid, background), photo)


def test_raw_patches_in_a_mixture_are_exact(restorer, scene):
    photo, grid, _, background = scene
    levels = np.random.default_rng(0).integers(0, RAW + 1, grid.count).astype(np.uint8)
    restored = restorer.restore(_mixture(scene, levels), levels, grid, background)
    assert restored.shape == photo.shape
    assert restored.dtype == np.uint8
    raw = join(np.broadcast_to((levels == RAW)[:, None, None, None], (grid.count, 8, 8, 1)), grid)[..., 0]
    np.testing.assert_array_equal(restored[raw], photo[raw])


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_uniform_level_is_not_made_worse(restorer, scene, level):
    photo, grid, decoded, background = scene
    levels = np.full(grid.count, level, np.uint8)
    restored = restorer.restore(decoded[level], levels, grid, background)
    assert _psnr(restored, photo) >= _psnr(join(decoded[level], grid), photo)


def test_the_smallest_level_gains_from_its_neighbours(restorer, scene):
    photo, grid, decoded, background = scene
    restored = restorer.restore(decoded[1], np.ones(grid.count, np.uint8), grid, background)
    assert _psnr(restored, photo) > _psnr(join(decoded[1], grid), photo) + 0.2


def test_gaps_are_filled_better_than_by_the_background(restorer, scene):
    photo, grid, _, background = scene
    levels = np.full((grid.rows, grid.columns), 2, np.uint8)
    levels[::3, ::3] = SKIPPED
    flat = levels.ravel()
    patches = _mixture(scene, flat)
    naive = np.where((flat == SKIPPED)[:, None, None, None], background, patches)
    restored = restorer.restore(patches, flat, grid, background)
    assert _psnr(restored, photo) > _psnr(join(naive, grid), photo) + 1


def test_what_stands_in_skipped_patches_does_not_matter(restorer, scene):
    _, grid, _, background = scene
    levels = np.random.default_rng(1).integers(0, 3, grid.count).astype(np.uint8)
    patches = _mixture(scene, levels)
    loud = np.where((levels == SKIPPED)[:, None, None, None], np.uint8(255), patches)
    np.testing.assert_array_equal(
        restorer.restore(patches, levels, grid, background), restorer.restore(loud, levels, grid, background)
    )


def test_all_skipped_shows_the_background(restorer, scene):
    _, grid, decoded, background = scene
    restored = restorer.restore(decoded[0], np.zeros(grid.count, np.uint8), grid, background)
    np.testing.assert_array_equal(restored, join(background, grid))


def test_gaps_are_never_black(restorer):
    """One patch arrives in the corner of a bright picture; the sketch knows no more than grey."""
    grid = PatchGrid(width=160, height=96)
    levels = np.zeros(grid.count, np.uint8)
    levels[0] = RAW
    patches = np.where((levels == RAW)[:, None, None, None], np.uint8(230), np.uint8(0))
    patches = np.broadcast_to(patches, (grid.count, 8, 8, 3))
    restored = restorer.restore(patches, levels, grid, np.full((grid.count, 8, 8, 3), 128, np.uint8))
    assert restored.min() > 80
    assert restored[:8, 8:16].mean() > 150


def test_inputs_are_left_alone(restorer, scene):
    _, grid, decoded, background = scene
    patches, levels, under = decoded[1].copy(), np.ones(grid.count, np.uint8), background.copy()
    restorer.restore(patches, levels, grid, under)
    np.testing.assert_array_equal(patches, decoded[1])
    np.testing.assert_array_equal(under, background)
    assert (levels == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 3), (3, 70)])
@pytest.mark.parametrize("level", [0, 1, 4])
def test_tiny_pictures(restorer, size, level):
    grid = PatchGrid(width=size[1], height=size[0])
    patches = np.full((grid.count, 8, 8, 3), 200, np.uint8)
    levels = np.full(grid.count, level, np.uint8)
    restored = restorer.restore(patches, levels, grid, patches)
    assert restored.shape == (*size, 3)
    assert np.abs(restored.astype(int) - 200).max() <= 8


def test_tiles_meet_without_a_seam(restorer, scene, monkeypatch):
    _, grid, decoded, background = scene
    levels = np.full(grid.count, 1, np.uint8)
    whole = restorer.restore(decoded[1], levels, grid, background)
    monkeypatch.setattr("receiver.tiling._TILE", 12)
    tiled = restorer.restore(decoded[1], levels, grid, background)
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_absent_foreign_and_damaged_weights_are_refused(tmp_path):
    assert_others_refused(Restorer.load, "restoration.safetensors", "ladder.safetensors", tmp_path)
