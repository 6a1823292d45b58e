"""Makes the shipped coder of trained networks: rounds them, and counts what they leave to be coded."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from tqdm import tqdm

from shared.arrays import AnyArray, Float64Array, UInt8Array
from shared.codec.entropy.exact import FLOAT32_LIMIT, ExactNetwork
from shared.codec.entropy.lossless import FRACTIONS, LEAST_SCALE, OUTPUT_UNIT, SCALES, LosslessCoder
from shared.codec.entropy.lossless_canvas import CHANNELS
from shared.codec.entropy.lossless_context import FEATURE_LIMIT, FEATURE_UNIT
from shared.codec.entropy.symbols import SymbolTables, SymbolWriter, fit_frequencies
from shared.patches import PatchGrid, split

REACH: Final = 128
"""Residuals beyond escape."""

_PRIOR: Final = 30.0  # occurrences that the logistic distribution of a table counts for


def rounded(layers: Sequence[tuple[AnyArray, AnyArray]]) -> ExactNetwork:
    """A trained network in integers that float32 carries exactly."""
    return ExactNetwork.from_floats(
        layers, 1 / FEATURE_UNIT, OUTPUT_UNIT, input_limit=FEATURE_LIMIT, sum_limit=FLOAT32_LIMIT
    )


def logistic_shares() -> Float64Array:
    """(SCALES * FRACTIONS, symbols) shares that the networks were trained to expect."""
    scale = 2.0 ** (np.arange(SCALES) / 4 + LEAST_SCALE + 1 / 8)
    mean = (np.arange(FRACTIONS) - FRACTIONS // 2) / FRACTIONS
    edges = np.arange(-REACH, REACH + 2) - 0.5
    below = 1 / (1 + np.exp(-((edges - mean[:, None]) / scale[:, None, None]).clip(-500, 500)))
    shares = np.diff(below, axis=-1)
    return np.concatenate([shares, 1 - shares.sum(axis=-1, keepdims=True)], axis=-1).reshape(SCALES * FRACTIONS, -1)


def counted(networks: Sequence[ExactNetwork], photos: Iterable[UInt8Array]) -> LosslessCoder:
    """The coder whose tables are what coding the photos needs."""
    shares = np.tile(logistic_shares(), (CHANNELS, 1))
    plain = LosslessCoder(tuple(networks), SymbolTables(fit_frequencies(shares * 1e9, prior=0)))
    counter = _Counter(shares * _PRIOR)
    for photo in tqdm(photos, desc="counting", mininterval=10):
        grid = PatchGrid.of(photo)
        rows, columns = np.divmod(np.arange(grid.count), grid.columns)
        plain.encode(split(photo), rows, columns, counter)
    return LosslessCoder(tuple(networks), SymbolTables(fit_frequencies(counter.counts, prior=2.0)))


class _Counter(SymbolWriter):
    """Counts symbols instead of writing them."""

    def __init__(self, counts: Float64Array) -> None:
        super().__init__()
        self.counts = counts

    def write(self, tables: SymbolTables, symbols: AnyArray, numbers: AnyArray) -> None:
        columns = np.where(np.abs(symbols) <= tables.reach, symbols + tables.reach, 2 * tables.reach + 1)
        places = numbers.astype(np.int64) * self.counts.shape[1] + columns
        self.counts += np.bincount(places, minlength=self.counts.size).reshape(self.counts.shape)
