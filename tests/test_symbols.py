"""Symbols come back under any tables, take the bits that were announced, and damage is bounded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.entropy.symbols import (
    FREQUENCY_TOTAL,
    MAX_EXCESS,
    SymbolReader,
    SymbolTables,
    SymbolWriter,
    fit_frequencies,
)
from shared.errors import InvalidInputError, StreamError, WeightsError


def _laplace(reach, scales):
    distance = np.abs(np.arange(-reach, reach + 2)).astype(float)
    return SymbolTables(fit_frequencies(1e4 * np.exp(-distance / np.array(scales)[:, None])))


TABLES = _laplace(7, (0.2, 0.8, 2.0, 5.0))
WIDE = _laplace(40, (1.0, 10.0))


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 5.0, 3_000.0]))
def test_symbols_of_several_tables_share_one_coder(count, seed, spread):
    random = np.random.default_rng(seed)
    calls = [
        (t, np.rint(random.standard_cauchy(count) * spread).clip(-30_000, 30_000).astype(np.int64))
        for t in (TABLES, WIDE, TABLES)
    ]
    numbers = [random.integers(0, len(t.frequencies), count) for t, _ in calls]
    writer = SymbolWriter()
    for (tables, symbols), chosen in zip(calls, numbers, strict=True):
        writer.write(tables, symbols, chosen)
    reader = SymbolReader(writer.to_bytes())
    for (tables, symbols), chosen in zip(calls, numbers, strict=True):
        np.testing.assert_array_equal(reader.read(tables, chosen), symbols)


@pytest.mark.parametrize("beyond", [1, 2, 3, MAX_EXCESS])
def test_values_out_of_reach_come_back(beyond):
    symbols = np.array([7 + beyond, -7 - beyond, 7, -7, 0])
    writer = SymbolWriter()
    writer.write(TABLES, symbols, np.zeros(5, np.int64))
    np.testing.assert_array_equal(SymbolReader(writer.to_bytes()).read(TABLES, np.zeros(5, np.int64)), symbols)


def test_a_value_far_out_of_reach_is_refused():
    with pytest.raises(InvalidInputError, match="reach"):
        SymbolWriter().write(TABLES, np.array([8 + MAX_EXCESS]), np.array([0]))


def test_announced_bits_are_what_the_coder_takes():
    random = np.random.default_rng(3)
    numbers = random.integers(0, 4, 50_000)
    symbols = np.rint(random.laplace(size=50_000) * np.array([0.2, 0.8, 2.0, 5.0])[numbers]).astype(np.int64)
    writer = SymbolWriter()
    writer.write(TABLES, symbols, numbers)
    assert (np.abs(symbols) > 7).sum() > 1_000
    assert len(writer.to_bytes()) * 8 == pytest.approx(TABLES.code_bits(symbols, numbers).sum(), rel=5e-4)


def test_announced_bits_keep_the_shape():
    assert TABLES.code_bits(np.zeros((3, 4), np.int64), np.zeros((3, 4), np.int64)).shape == (3, 4)


def test_nothing_takes_no_bytes():
    writer = SymbolWriter()
    writer.write(TABLES, np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert writer.to_bytes() == b""
    assert SymbolReader(b"").read(TABLES, np.zeros(0, np.int64)).shape == (0,)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_garbage_is_symbols_or_an_error(data, seed):
    numbers = np.random.default_rng(seed).integers(0, 4, 500)
    reader = SymbolReader(data)
    try:
        symbols = reader.read(TABLES, numbers)
    except StreamError:
        return
    assert symbols.shape == (500,)
    assert np.abs(symbols).max() <= 7 + MAX_EXCESS


def test_golden_bytes_decode():
    symbols = SymbolReader(bytes.fromhex(GOLDEN)).read(TABLES, np.arange(24) % 4)
    assert symbols.tolist() == [0, -1, 2, 9, 0, 1, -4, -20, 0, 0, 1, 3, 0, 0, 0, 100, 1, 0, -2, 5, 0, 2, 8, -6]


GOLDEN = "f7f6ef07ebaec8a8e146517a11ecf25f"


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_fitted_frequencies_are_valid_tables(tables, reach, seed):
    random = np.random.default_rng(seed)
    counts = np.floor(random.pareto(0.3, (tables, 2 * reach + 2))).clip(0, 1e12) * (random.random((tables, 1)) < 0.8)
    frequencies = fit_frequencies(counts)
    assert frequencies.min() >= 1
    assert (frequencies.sum(axis=1, dtype=np.int64) == FREQUENCY_TOTAL).all()
    SymbolTables(frequencies)


def test_fitted_frequencies_follow_the_counts():
    fitted = fit_frequencies(np.array([[1e6, 2e6, 1e6, 1e-3]]))
    np.testing.assert_allclose(fitted[0, :3], np.array([1, 2, 1]) * FREQUENCY_TOTAL / 4, atol=3)


@pytest.mark.parametrize(
    "frequencies",
    [
        np.array([[1, 2, 3, 4]], np.uint32),
        np.array([[0, 1 << 19, 1 << 18, 1 << 18]], np.uint32),
        np.array([[1 << 19, 1 << 18, 1 << 18]], np.uint32),
        np.array([[4_096] * 4], np.int64),
        np.full(4, 1 << 18, np.uint32),
    ],
)
def test_tables_that_are_none_are_refused(frequencies):
    with pytest.raises(WeightsError, match="frequencies"):
        SymbolTables(frequencies)
