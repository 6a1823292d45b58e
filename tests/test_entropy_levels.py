"""Importance becomes levels whose quantisers go with the root of the weight, in maps that are cheap to say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.patches import PatchGrid
from transmitter.entropy.levels import FINEST_LOSSY, ideal_offsets, is_mask, relative_levels, relative_offsets
from transmitter.importance import patch_importance
from transmitter.ladder.allocation import IMPORTANCE_FLOOR

GRID = PatchGrid(480, 320)


def _changes(levels):
    plane = levels.reshape(GRID.rows, GRID.columns)
    return int((plane[1:] != plane[:-1]).sum() + (plane[:, 1:] != plane[:, :-1]).sum())


def _disc(radius=90.0, softness=0.0):
    y, x = np.mgrid[: GRID.height, : GRID.width]
    distance = np.hypot(y - 150.5, x - 200.5)
    if softness == 0:
        return (distance < radius).astype(np.float32)
    return (1 / (1 + np.exp((distance - radius) / softness))).astype(np.float32)


def _noisy():
    random = np.random.default_rng(3)
    soft = patch_importance(_disc(softness=20))
    return np.clip(soft * random.uniform(0.6, 1.4, GRID.count), 0, 1).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("reach", [1, 6])
def test_equal_importance_is_one_level_all_over(value, reach):
    levels = relative_levels(np.full(GRID.count, value, np.float32), GRID, reach=reach, smoothness=1)
    assert (levels == FINEST_LOSSY).all()


def test_without_smoothness_half_the_weight_is_one_level_less():
    weights = 2.0 ** -np.arange(7)
    importance = (weights * (1 + IMPORTANCE_FLOOR) - IMPORTANCE_FLOOR).clip(0).astype(np.float32)
    grid = PatchGrid(7 * 8, 8)
    levels = relative_levels(importance, grid, reach=6, smoothness=0)
    assert levels.tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert relative_levels(importance, grid, reach=3, smoothness=0).tolist() == [6, 5, 4, 0, 0, 0, 0]


@pytest.mark.parametrize("reach", range(1, 7))
def test_no_more_levels_than_the_reach_and_skipped(reach):
    levels = relative_levels(_noisy(), GRID, reach=reach, smoothness=0.5)
    assert set(levels.tolist()) <= {0, *range(FINEST_LOSSY - reach + 1, FINEST_LOSSY + 1)}
    assert levels.max() == FINEST_LOSSY


@pytest.mark.parametrize("brightness", [1.0, 128 / 255])
@pytest.mark.parametrize("reach", [1, 3, 6])
def test_a_mask_is_two_levels_and_its_edge_is_sent(brightness, reach):
    share = patch_importance(_disc())
    levels = relative_levels(share * np.float32(brightness), GRID, reach=reach, smoothness=1)
    assert set(levels.tolist()) == {0, FINEST_LOSSY}
    assert (levels[share >= 0.125] == FINEST_LOSSY).all()
    assert (levels[share == 0] == 0).all()


def test_a_soft_map_is_no_mask():
    assert is_mask(patch_importance(_disc()))
    assert not is_mask(patch_importance(_disc(softness=4)))


def test_smoothness_saves_changes_at_a_small_loss():
    importance = _noisy()
    rough, smooth, smoother = (
        relative_levels(importance, GRID, reach=6, smoothness=smoothness) for smoothness in (0, 2, 8)
    )
    assert _changes(smoother) < _changes(smooth) < 0.8 * _changes(rough)
    ideal = np.minimum(ideal_offsets(importance), 6)
    assert np.abs((FINEST_LOSSY - smooth) - ideal).mean() < 0.5


def test_offsets_reach_as_far_as_asked():
    offsets = relative_offsets(np.linspace(0, 1, GRID.count, dtype=np.float32), GRID, reach=7, smoothness=0)
    assert set(offsets.tolist()) == set(range(8))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 6), st.floats(0, 10), st.integers(0, 2**32 - 1))
def test_any_importance_gives_levels(width, height, reach, smoothness, seed):
    grid = PatchGrid(width, height)
    random = np.random.default_rng(seed)
    importance = random.choice([random.random(grid.count), np.zeros(grid.count)], axis=0).astype(np.float32)
    levels = relative_levels(importance, grid, reach=reach, smoothness=smoothness)
    assert levels.shape == (grid.count,)
    assert levels.dtype == np.uint8
    assert levels.max() == FINEST_LOSSY
