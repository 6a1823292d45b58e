"""Tables counted on photos: of what the encoder does to them, and of what it estimates."""

from dataclasses import replace

import numpy as np
import pytest
from skimage.data import chelsea

from shared.codec.entropy.lossy import MEAN_PARTS
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.symbols import FREQUENCY_TOTAL
from shared.codec.entropy.trellis import LEAST_SCALE
from shared.codec.entropy.weights import load_lossy
from training.entropy.counting import Counter, Tally
from training.entropy.rollouts import random_crop_coded
from training.entropy.tables import REACH

MODEL, _ = load_lossy()
PHOTO = np.ascontiguousarray(chelsea()[40:200, 100:300])


def _crop(seed):
    crop = random_crop_coded(PHOTO, MODEL.transform, np.random.default_rng(seed))
    assert crop is not None
    return crop


def test_every_residual_is_counted_once():
    crop = _crop(1)
    tally = Tally.empty(quantisers=2)
    chooser = MODEL.choose(crop.coefficients, crop.context, DEFAULT_PRICE)
    tally.add(chooser)
    assert tally.counts.sum() == sum(residuals.size for _, residuals in chooser.coded)
    zeros = sum(np.count_nonzero(residuals == 0) for _, residuals in chooser.coded)
    assert tally.counts[:, REACH].sum() == zeros
    assert tally.sums[..., 1].sum() == tally.counts.sum() - zeros
    narrow = np.arange(len(tally.counts)) % 48 < LEAST_SCALE
    assert not tally.sums[1, narrow].any()
    assert tally.sums[1].any()


def test_points_are_moved_to_where_coefficients_are():
    """After shrinking by what was counted, what is shown exceeds what was wanted by nothing, on average."""
    crop = _crop(2)
    tally = Tally.empty(quantisers=2)
    tally.add(MODEL.choose(crop.coefficients, crop.context, DEFAULT_PRICE))
    seen = tally.sums[..., 1] >= 50
    mean = tally.sums[..., 0][seen] / tally.sums[..., 1][seen] * MEAN_PARTS
    assert seen.any()
    np.testing.assert_allclose(tally.shrink()[seen], np.clip(mean, -8, 24), atol=0.51)


def test_tables_counted_on_a_picture_code_it_in_fewer_bytes():
    crop, tally = _crop(3), Tally.empty(quantisers=2)
    chooser = MODEL.choose(crop.coefficients, crop.context, DEFAULT_PRICE)
    for _ in range(30):
        tally.add(chooser)
    counted = replace(MODEL, tables=tally.tables(), shrink=tally.shrink())
    before, after = (
        model.encode(crop.coefficients, crop.fresh_context(), DEFAULT_PRICE).bodies[0] for model in (MODEL, counted)
    )
    assert len(after) < 0.995 * len(before)
    frequencies = counted.tables.frequencies.astype(np.int64)
    assert (frequencies.sum(axis=1) == FREQUENCY_TOTAL).all()
    # Positive and negative residuals are alike, but for rounding.
    mirrored = frequencies[:, 2 * REACH : REACH : -1]
    np.testing.assert_allclose(frequencies[:, :REACH], mirrored, atol=FREQUENCY_TOTAL * 2e-3)


def test_estimates_are_brought_to_what_coding_took():
    counter, crop = Counter(), _crop(4)
    counter.code(MODEL, PHOTO, np.random.default_rng(4))
    counted = counter.model(MODEL)
    sizes = [
        8 * len(counted.encode(crop.coefficients, crop.fresh_context(), DEFAULT_PRICE).bodies[0]),
        counted.measure(crop.coefficients, crop.fresh_context(), DEFAULT_PRICE).bits.sum(),
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
