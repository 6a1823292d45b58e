"""Restoration of entropy-coded pictures: exact and fine patches untouched, others bettered, bad weights refused."""

from functools import cache

import numpy as np
import pytest
from skimage import data
from weights_fakes import assert_others_refused

from receiver.entropy_restoration import FINEST_RESTORED, EntropyRestorer
from shared.codec.entropy.background import expected_means
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.levels import QUALITY_EXACT, QUALITY_SKIPPED
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.weights import load_lossy
from shared.patches import PatchGrid, join, split


@pytest.fixture(scope="module")
def restorer() -> EntropyRestorer:
    return EntropyRestorer.load()


@pytest.fixture(scope="module")
def scene():
    """A photo whose sides are no multiples of 8, its grid, and the mean colours of its patches."""
    photo = np.ascontiguousarray(data.astronaut()[:189, 120:397])
    colours = np.rint(split(photo).mean(axis=(1, 2))).astype(np.uint8)
    return photo, PatchGrid.of(photo), colours


@pytest.fixture(scope="module")
def coded(scene):
    """The photo's patches as they come out of the codec at a quality."""
    photo, grid, colours = scene
    model, _ = load_lossy()

    @cache
    def at(quality):
        means = expected_means(model, colours)
        places = np.divmod(np.arange(grid.count), grid.columns)
        context = PatchContext(*places, np.full(grid.count, quality), means)
        encoding = model.encode(model.transform.analyse(split(photo)), context, DEFAULT_PRICE)
        return model.transform.synthesise(encoding.coefficients)

    return at


def _uniform(grid, quality):
    return np.full(grid.count, quality, np.int16)


def _mixed(grid, quality):
    """Skipped, exact and coded patches at random places."""
    return np.random.default_rng(0).choice([QUALITY_SKIPPED, QUALITY_EXACT, quality], grid.count).astype(np.int16)


def _psnr(a, b) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def _pixels(chosen, grid):
    return join(np.broadcast_to(chosen[:, None, None, None], (grid.count, 8, 8, 1)), grid)[..., 0]


def test_all_exact_is_bit_exact(restorer, scene):
    photo, grid, colours = scene
    restored = restorer.restore(split(photo), _uniform(grid, QUALITY_EXACT), grid, colours)
    np.testing.assert_array_equal(restored, photo)


def test_exact_patches_in_a_mixture_are_untouched(restorer, scene, coded):
    photo, grid, colours = scene
    qualities = _mixed(grid, 96)
    patches = np.where((qualities == QUALITY_EXACT)[:, None, None, None], split(photo), coded(96))
    restored = restorer.restore(patches, qualities, grid, colours)
    exact = _pixels(qualities == QUALITY_EXACT, grid)
    assert restored.shape == photo.shape
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored[exact], photo[exact])


def test_the_finest_qualities_are_untouched(restorer, scene, coded):
    _, grid, colours = scene
    patches = coded(FINEST_RESTORED - 1)
    restored = restorer.restore(patches, _uniform(grid, FINEST_RESTORED - 1), grid, colours)
    np.testing.assert_array_equal(restored, join(patches, grid))


@pytest.mark.parametrize("quality", [FINEST_RESTORED, FINEST_RESTORED + 8])
def test_the_finest_restored_qualities_are_not_made_worse(restorer, scene, coded, quality):
    photo, grid, colours = scene
    patches = coded(quality)
    restored = restorer.restore(patches, _uniform(grid, quality), grid, colours)
    # On this photo; on Kodak's it is .05 dB better at the finest of them, and more at others.
    assert _psnr(restored, photo) > _psnr(join(patches, grid), photo) - 0.03


@pytest.mark.parametrize("quality", [88, 104, 116])
def test_coarse_qualities_gain(restorer, scene, coded, quality):
    photo, grid, colours = scene
    patches = coded(quality)
    restored = restorer.restore(patches, _uniform(grid, quality), grid, colours)
    assert _psnr(restored, photo) > _psnr(join(patches, grid), photo) + 0.2


def test_gaps_are_filled_better_than_by_their_colour(restorer, scene, coded):
    photo, grid, colours = scene
    rows, columns = np.divmod(np.arange(grid.count), grid.columns)
    qualities = np.where((rows % 3 == 0) & (columns % 3 == 0), QUALITY_SKIPPED, 72).astype(np.int16)
    restored = restorer.restore(coded(72), qualities, grid, colours)
    gaps = _pixels(qualities == QUALITY_SKIPPED, grid)
    flat = join(np.broadcast_to(colours[:, None, None], (grid.count, 8, 8, 3)), grid)
    assert _psnr(restored[gaps], photo[gaps]) > _psnr(flat[gaps], photo[gaps]) + 2


def test_what_stands_in_skipped_patches_does_not_matter(restorer, scene, coded):
    _, grid, colours = scene
    qualities = _mixed(grid, 80)
    patches = coded(80)
    loud = np.where((qualities == QUALITY_SKIPPED)[:, None, None, None], np.uint8(255), patches)
    np.testing.assert_array_equal(
        restorer.restore(patches, qualities, grid, colours), restorer.restore(loud, qualities, grid, colours)
    )


def test_where_nothing_arrived_the_background_is_seen(restorer, scene):
    photo, grid, colours = scene
    restored = restorer.restore(np.zeros_like(split(photo)), _uniform(grid, QUALITY_SKIPPED), grid, colours)
    means = split(restored).mean(axis=(1, 2))
    assert np.abs(means - colours).mean() < 4


def test_an_unknown_background_stays_grey(restorer):
    grid = PatchGrid(width=160, height=120)
    grey = np.full((grid.count, 3), 128, np.uint8)
    restored = restorer.restore(np.zeros((grid.count, 8, 8, 3), np.uint8), _uniform(grid, QUALITY_SKIPPED), grid, grey)
    assert np.abs(restored.astype(int) - 128).max() <= 16


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 3), (3, 70)])
@pytest.mark.parametrize("quality", [QUALITY_SKIPPED, QUALITY_EXACT, 0, 90, 159])
def test_tiny_pictures(restorer, size, quality):
    grid = PatchGrid(width=size[1], height=size[0])
    patches = np.full((grid.count, 8, 8, 3), 200, np.uint8)
    restored = restorer.restore(patches, _uniform(grid, quality), grid, np.full((grid.count, 3), 200, np.uint8))
    assert restored.shape == (*size, 3)
    assert np.abs(restored.astype(int) - 200).max() <= 20


def test_tiles_meet_without_a_seam(restorer, scene, coded, monkeypatch):
    _, grid, colours = scene
    patches = coded(96)
    whole = restorer.restore(patches, _uniform(grid, 96), grid, colours)
    monkeypatch.setattr("receiver.tiling._TILE", 12)
    tiled = restorer.restore(patches, _uniform(grid, 96), grid, colours)
    assert np.abs(tiled.astype(int) - whole).max() <= 2


def test_absent_foreign_and_damaged_weights_are_refused(tmp_path):
    assert_others_refused(EntropyRestorer.load, "entropy_restoration.safetensors", "restoration.safetensors", tmp_path)
