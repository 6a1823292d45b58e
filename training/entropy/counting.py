"""Counts what the integer networks leave to be coded, and makes the shipped model of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.choosing import Chooser
from shared.codec.entropy.context import QUALITIES
from shared.codec.entropy.lossy import MEAN_PARTS, SCALES, Prediction
from shared.codec.entropy.lossy_model import DEFAULT_PRICE, QUALITY_BAND, Estimates, LossyModel
from shared.codec.entropy.part_network import PartNetwork
from shared.codec.entropy.schedule import GROUPS
from shared.codec.entropy.symbols import SymbolCosts, SymbolTables, fit_frequencies
from shared.codec.entropy.transform import PatchTransform
from shared.codec.entropy.trellis import POINT_PARTS, on_second, points
from training.entropy.rollouts import random_crop_coded
from training.entropy.tables import REACH, logistic_bits, shrink_of

_ROUNDS: Final = 3
_BORROWED: Final = 500.0
_TABLES: Final = GROUPS * SCALES
_BANDS: Final = QUALITIES // QUALITY_BAND
_UNSEEN: Final = 300.0  # bits from which on what was seen is believed


def counted_model(
    transform: PatchTransform, networks: Sequence[PartNetwork], photos: Sequence[UInt8Array], seed: int
) -> LossyModel:
    """The model whose tables are what coding the photos, several times over, needed."""
    bits = logistic_bits()
    probabilities = 2.0 ** -np.concatenate([bits[:, :0:-1], bits, np.full((SCALES, 1), 20.0)], axis=1)
    tables = SymbolTables(np.tile(fit_frequencies(probabilities * 1e6), (GROUPS, 1)))
    estimates = Estimates(tables.costs, np.zeros((1, _TABLES, 3)), np.ones(_BANDS))
    model = LossyModel(transform, tuple(networks), tables, np.zeros((2, _TABLES, 3)), estimates)
    for round_ in range(_ROUNDS):
        counter = Counter()
        rng = np.random.default_rng(seed + round_)
        for photo in photos:
            counter.code(model, photo, rng)
        model = counter.model(model)
    return model


@dataclass(frozen=True)
class Tally:
    """Residuals of many photos."""

    counts: Float64Array
    """(GROUPS * SCALES, 2 * REACH + 2) how often each occurred."""
    sums: Float64Array
    """(quantisers, GROUPS * SCALES, 3, 2) by how much residuals of 0, 1 and more exceed what was wanted; how many."""

    @classmethod
    def empty(cls, quantisers: int) -> "Tally":
        """Nothing counted yet."""
        return cls(np.zeros((_TABLES, 2 * REACH + 2)), np.zeros((quantisers, _TABLES, 3, 2)))

    def add(self, chooser: Chooser) -> None:
        """Counts what was chosen."""
        for prediction, residuals in chooser.coded:
            columns = np.where(np.abs(residuals) <= REACH, residuals + REACH, 2 * REACH + 1)
            np.add.at(self.counts, (prediction.tables, columns), 1)
            self._add_excess(prediction, residuals, chooser.wanted(prediction))

    def _add_excess(self, prediction: Prediction, residuals: Int64Array, wanted: Float64Array) -> None:
        shown, second = residuals.ravel().astype(np.float64), np.zeros(residuals.size, np.int64)
        where = prediction.lanes.where
        if len(where):
            second[where] = on_second(residuals.ravel()[where], prediction.lanes)
            shown[where] = points(residuals.ravel()[where], second[where] > 0) * (POINT_PARTS / MEAN_PARTS)
        some = np.flatnonzero(shown)
        excess = np.abs(shown[some]) - wanted.ravel()[some] * np.sign(shown[some])
        magnitudes = np.minimum(np.abs(residuals.ravel()[some]), 2)
        places = (second[some], prediction.tables.ravel()[some], magnitudes)
        np.add.at(self.sums[..., 0], places, excess)
        np.add.at(self.sums[..., 1], places, 1)

    def tables(self) -> SymbolTables:
        """Of what was counted; positive and negative residuals are alike."""
        mirrored = self.counts.copy()
        mirrored[:, :-1] += self.counts[:, -2::-1]
        # Where a group has seldom seen a scale, it borrows from the others.
        common = mirrored.reshape(GROUPS, SCALES, -1).sum(axis=0)
        borrowed = _BORROWED * common / np.maximum(common.sum(axis=1, keepdims=True), 1)
        return SymbolTables(fit_frequencies(mirrored + np.tile(borrowed, (GROUPS, 1)), prior=2.0))

    def shrink(self) -> Float64Array:
        """See `shrink_of`."""
        return shrink_of(self.sums)

    def bits(self, tables: SymbolTables) -> Float64Array:
        """(GROUPS * SCALES,) what a residual takes, on average."""
        taken = (self.counts * tables.costs.bits).sum(axis=1)
        return np.asarray((taken + _UNSEEN) / (self.counts.sum(axis=1) + _UNSEEN))


class Counter:
    """Codes photos as the encoder does, and as it estimates, and counts."""

    def __init__(self) -> None:
        self.coded, self.estimated = Tally.empty(quantisers=2), Tally.empty(quantisers=1)
        self.band_bits: Float64Array = np.full((2, _BANDS), _UNSEEN)

    def code(self, model: LossyModel, photo: UInt8Array, rng: np.random.Generator) -> None:
        """Codes a random crop under random quantisers, and counts."""
        crop = random_crop_coded(photo, model.transform, rng)
        if crop is None:
            return
        coded = model.choose(crop.coefficients, crop.context, DEFAULT_PRICE)
        estimated = model.choose_roughly(crop.coefficients, crop.fresh_context(), DEFAULT_PRICE)
        self.coded.add(coded)
        self.estimated.add(estimated)
        bands = crop.context.qualities // QUALITY_BAND
        self.band_bits += [np.bincount(bands, chooser.bits, _BANDS) for chooser in (coded, estimated)]

    def model(self, before: LossyModel) -> LossyModel:
        """With tables and estimates of what was counted."""
        tables, alone = self.coded.tables(), self.estimated.tables()
        ratios = self.coded.bits(tables) / self.estimated.bits(alone)
        costs = SymbolCosts(alone.costs.bits * ratios[:, None])
        factors = before.estimates.factors * self.band_bits[0] / self.band_bits[1]
        estimates = Estimates(costs, self.estimated.shrink(), factors)
        return LossyModel(before.transform, before.networks, tables, self.coded.shrink(), estimates)
