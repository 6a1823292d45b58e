"""Training pieces of the ladder: codebooks near the known optimum, bits given out in full, honest level maps."""

import numpy as np
import pytest

from evaluation.ladder_quality import psnr_db
from shared.levels import RAW, SKIPPED
from training.ladder.fit import Scalar, allocate, fit_class
from training.ladder.pictures import make_batch, random_levels


def _scalar(scale: float, count: int = 20_000) -> Scalar:
    samples = np.sort(np.random.default_rng(0).standard_normal(count)) * scale
    return Scalar(samples, np.full(count, 1 / count))


@pytest.mark.parametrize(("bits", "error"), [(0, 1.0), (1, 0.3634), (2, 0.1175), (3, 0.03454)])
def test_codebooks_reach_the_lloyd_max_error_of_a_gaussian(bits, error):
    """Values of Max (1960), table I."""
    values, measured = _scalar(1.0).book(bits)
    assert len(values) == 1 << bits
    assert (np.diff(values) > 0).all()
    assert measured == pytest.approx(error, rel=0.06)


def test_bits_go_in_full_to_the_widest_coefficients():
    bits = allocate([_scalar(scale, 4_000) for scale in (16.0, 4.0, 1.0, 0.1)], 8)
    assert sum(bits) == 8
    assert bits == sorted(bits, reverse=True)
    assert bits[3] == 0


def test_a_class_uses_every_bit_it_has():
    rng = np.random.default_rng(1)
    patches = np.clip(rng.normal(128, 40, (600, 1)) + rng.normal(0, 12, (600, 192)), 0, 255).astype(np.uint8)
    prior = np.eye(192)
    tables = fit_class(patches, np.ones(600), prior, total_bits=20, coefficients=12, samples=600)
    assert tables.bits.sum() == 20
    assert len(tables.values) == (1 << tables.bits.astype(int)).sum()
    assert (tables.basis[tables.bits == 0] == 0).all()


def test_level_maps_hold_every_level_and_always_a_gap():
    maps = [random_levels(np.random.default_rng(seed), 14, 14) for seed in range(40)]
    assert all((levels == SKIPPED).any() for levels in maps)
    assert set(np.unique(np.stack(maps))) == set(range(RAW + 1))


def test_a_training_picture_shows_each_patch_at_its_level():
    crops = np.stack([np.full((8, 16, 3), 10 * level, np.uint8) for level in range(1, RAW + 1)])[None]
    batch = make_batch(crops, np.array([[[0, 3]]]), np.full((1, 8, 16, 3), 255, np.uint8))
    np.testing.assert_allclose(batch.picture[0, 0, 0].numpy() * 255, [0] * 8 + [30] * 8, atol=1e-4)
    np.testing.assert_allclose(batch.target.numpy() * 255, 40, atol=1e-4)


def test_psnr_of_a_known_error():
    truth = np.full((4, 4, 3), 100, np.uint8)
    assert psnr_db(truth + np.uint8(5), truth) == pytest.approx(34.151, abs=1e-3)
    assert psnr_db(truth, truth) == 100.0
