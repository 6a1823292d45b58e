"""Allocation: optimal but for the last bytes, and monotone in relevance."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.levels import LEVEL_BYTES, RAW
from transmitter.ladder.allocation import IMPORTANCE_FLOOR, greedy, rate_distortion
from transmitter.ladder.planning import STRATEGIES
from transmitter.ladder.vit_sc import vit_sc

_SIZES = np.asarray(LEVEL_BYTES)


def _curves(random, count):
    start = random.gamma(1, 20_000, count)
    return (start[:, None] * [1, 0.1, 0.04, 0.01, 0] * random.uniform(0.5, 1.5, (count, 5))).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(0, 30_000), strategy=st.sampled_from(sorted(STRATEGIES)))
def test_levels_stay_within_the_content_bytes(seed, budget, strategy):
    random = np.random.default_rng(seed)
    importance = random.random(120).astype(np.float32)
    levels = STRATEGIES[strategy](importance, _curves(random, 120)).levels_within(budget)
    assert levels.shape == (120,)
    assert _SIZES[levels].sum() <= budget


@settings(max_examples=500, deadline=None)
@example(seed=512_829, budget=4716)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(0, 20_000))
def test_of_two_patches_with_equal_content_the_more_relevant_gets_no_less(seed, budget):
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 5, 80)
    importance = random.random(80).astype(np.float32)
    curves = np.concatenate([_curves(random, 4), np.zeros((1, 5), np.float32)])
    levels = rate_distortion(importance, curves[kinds]).levels_within(budget)
    for kind in range(5):
        of_kind = np.flatnonzero(kinds == kind)
        by_importance = of_kind[np.argsort(importance[of_kind])]
        assert (np.diff(levels[by_importance].astype(int)) >= 0).all()


def test_no_allocation_within_the_same_bytes_is_better_on_the_hull():
    random = np.random.default_rng(3)
    importance, errors = random.random(5).astype(np.float32), _curves(random, 5)
    weights = importance + IMPORTANCE_FLOOR
    allocator = rate_distortion(importance, errors)
    for spent in allocator.totals_bytes:
        levels = allocator.levels_within(int(spent))
        ours = (weights * errors[np.arange(5), levels]).sum()
        everything = itertools.product(range(RAW + 1), repeat=5)
        fitting = (np.array(option) for option in everything if _SIZES[list(option)].sum() <= spent)
        best = min((weights * errors[np.arange(5), option]).sum() for option in fitting)
        assert ours <= best * (1 + 1e-6)


def test_patches_whose_error_never_falls_go_raw_last():
    errors = np.zeros((4, 5), np.float32)
    errors[1] = [1000, 100, 40, 10, 0]
    allocator = rate_distortion(np.ones(4, np.float32), errors)
    assert allocator.levels_within(192).tolist() == [0, RAW, 0, 0]
    assert allocator.levels_within(4 * 192).tolist() == [RAW] * 4


def test_greedy_looks_at_relevance_alone():
    random = np.random.default_rng(4)
    importance = np.linspace(0, 1, 50, dtype=np.float32)
    levels = greedy(importance, _curves(random, 50)).levels_within(2_000)
    assert (np.diff(levels.astype(int)) >= 0).all()


def test_vit_sc_spends_a_low_budget_on_the_top_patches():
    importance = np.arange(100, dtype=np.float32)
    levels = vit_sc(importance, np.zeros((100, 5), np.float32)).levels_within(12 * 30)
    assert levels.tolist() == [0] * 70 + [1] * 30


@pytest.mark.parametrize("budget", [12 * 100 + 1, 4_000, 10_000, 100 * 192])
def test_vit_sc_gives_every_patch_something_above_the_lowest_rung(budget):
    importance = np.random.default_rng(0).random(100).astype(np.float32)
    levels = vit_sc(importance, np.zeros((100, 5), np.float32)).levels_within(budget)
    assert levels.min() >= 1
    assert 0.9 * budget <= _SIZES[levels].sum() <= budget


def test_vit_sc_spreads_evenly_where_nothing_is_relevant():
    levels = vit_sc(np.zeros(10, np.float32), np.zeros((10, 5), np.float32)).levels_within(10 * 24)
    assert levels.tolist() == [2] * 10
