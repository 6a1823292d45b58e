"""Counts what the integer networks leave to be coded, and makes the shipped model of it."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from shared.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.lossy import SCALES, Prediction
from shared.codec.entropy.lossy_model import DEFAULT_PRICE, LossyModel
from shared.codec.entropy.part_network import PartNetwork
from shared.codec.entropy.schedule import GROUPS
from shared.codec.entropy.symbols import SymbolTables, fit_frequencies
from shared.codec.entropy.transform import PatchTransform
from training.entropy.rollouts import random_crop_coded
from training.entropy.tables import REACH, logistic_bits, shrink_of

_ROUNDS: Final = 3
_BORROWED: Final = 500.0
_TABLES: Final = GROUPS * SCALES


def counted_model(
    transform: PatchTransform, networks: Sequence[PartNetwork], photos: Sequence[UInt8Array], seed: int
) -> LossyModel:
    """The model whose tables are what coding the photos, several times over, needed."""
    bits = logistic_bits()
    probabilities = 2.0 ** -np.concatenate([bits[:, :0:-1], bits, np.full((SCALES, 1), 20.0)], axis=1)
    tables = SymbolTables(np.tile(fit_frequencies(probabilities * 1e6), (GROUPS, 1)))
    model = LossyModel(transform, tuple(networks), tables, np.zeros((_TABLES, 3)))
    for round_ in range(_ROUNDS):
        counter = Counter()
        rng = np.random.default_rng(seed + round_)
        for photo in photos:
            counter.code(model, photo, rng)
        model = counter.model(model)
    return model


class Counter:
    """Residuals of many photos."""

    def __init__(self) -> None:
        self.counts: Float64Array = np.zeros((_TABLES, 2 * REACH + 2))
        self.sums: Float64Array = np.zeros((_TABLES, 3, 2))

    def code(self, model: LossyModel, photo: UInt8Array, rng: np.random.Generator) -> None:
        """Codes a random crop under random quantisers, and counts."""
        crop = random_crop_coded(photo, model.transform, rng)
        if crop is None:
            return
        chooser = model.chooser(crop.coefficients, crop.context.packets, DEFAULT_PRICE)
        model.run_encoder(crop.coefficients, crop.context, chooser)
        for prediction, residuals in chooser.coded:
            self._count(prediction, residuals, crop.coefficients)

    def _count(self, prediction: Prediction, residuals: Int64Array, coefficients: Float32Array) -> None:
        true = coefficients[prediction.targets, prediction.part]
        wanted = np.abs((true - prediction.means) / prediction.widths)
        columns = np.where(np.abs(residuals) <= REACH, residuals + REACH, 2 * REACH + 1)
        np.add.at(self.counts, (prediction.tables, columns), 1)
        nonzero = residuals != 0
        magnitude = np.abs(residuals[nonzero])
        places = (prediction.tables[nonzero], np.minimum(magnitude, 2))
        np.add.at(self.sums[..., 0], places, magnitude - wanted[nonzero])
        np.add.at(self.sums[..., 1], places, 1)

    def model(self, before: LossyModel) -> LossyModel:
        """With tables of what was counted; positive and negative residuals are alike."""
        mirrored = self.counts.copy()
        mirrored[:, :-1] += self.counts[:, -2::-1]
        # Where a group has seldom seen a scale, it borrows from the others.
        common = mirrored.reshape(GROUPS, SCALES, -1).sum(axis=0)
        borrowed = _BORROWED * common / np.maximum(common.sum(axis=1, keepdims=True), 1)
        tables = SymbolTables(fit_frequencies(mirrored + np.tile(borrowed, (GROUPS, 1)), prior=2.0))
        return LossyModel(before.transform, before.networks, tables, shrink_of(self.sums))
