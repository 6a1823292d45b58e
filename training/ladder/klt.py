"""Alternating training of one level: every patch to its best class, every class refitted to its patches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from shared.arrays import AnyArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.klt import ClassifiedKlt
from training.ladder.fit import ClassTables, fit_class

_FIRST_CLASSES: Final = 4
_FEW_MEMBERS: Final = 250


@dataclass(frozen=True)
class LevelSettings:
    """How one level is trained."""

    payload_bytes: int
    """Bytes of a coded patch."""

    classes: int
    """Classes in the end, a power of two."""

    coefficients: int
    """Most coefficients that a class may code."""

    growth_rounds: int = 3
    """Refits after each doubling of the classes."""

    final_rounds: int = 4
    """Refits on all patches once the classes are all there."""


def train_level(
    patches: UInt8Array, weights: Float32Array, settings: LevelSettings, log: Callable[[str], None]
) -> ClassifiedKlt:
    """Trains a level's tables.

    Args:
        patches: (n, 192), in random order.
        weights: (n,).
        settings: the level's settings.
        log: takes a line of progress.
    """
    trainer = _Trainer(settings, log)
    classes = 1
    tables = trainer.fit(patches[:40_000], weights[:40_000], np.zeros(40_000, np.int64), classes)
    while classes < settings.classes:
        part = slice(0, min(len(patches), max(40_000, 3_000 * classes)))
        labels = trainer.assign(tables, patches[part], weights[part])
        labels = split_classes(tables, patches[part], labels)
        classes *= 2
        for _ in range(settings.growth_rounds):
            tables = trainer.fit(patches[part], weights[part], labels, classes)
            labels = trainer.assign(tables, patches[part], weights[part])
    for _ in range(settings.final_rounds):
        labels = trainer.assign(tables, patches, weights)
        tables = trainer.fit(patches, weights, labels, classes)
    return tables


@dataclass
class _Trainer:
    settings: LevelSettings
    log: Callable[[str], None]
    errors: AnyArray | None = None
    """(n,) weighted error of each patch at the last assignment."""

    def assign(self, tables: ClassifiedKlt, patches: UInt8Array, weights: Float32Array) -> Int64Array:
        """(n,) class of each patch."""
        choice = tables.choose(patches, shortlist=3)
        self.errors = choice.errors.numpy() * weights
        error = float(self.errors.sum() / weights.sum() / 192)
        plain = float(choice.errors.mean() / 192)
        self.log(
            f"{self.settings.payload_bytes} bytes, {len(tables.bits)} classes, {len(patches)} patches: "
            f"weighted {10 * np.log10(255**2 / error):.3f} dB, plain {10 * np.log10(255**2 / plain):.3f} dB"
        )
        return choice.classes.numpy()

    def fit(self, patches: UInt8Array, weights: Float32Array, labels: Int64Array, classes: int) -> ClassifiedKlt:
        """Refits every class to its members; a class with few takes half of the costliest class."""
        labels = self._revive(labels, classes)
        prior = np.cov(patches[:20_000].T.astype(np.float64))
        order = np.argsort(labels, kind="stable")
        edges = np.searchsorted(labels[order], np.arange(classes + 1))
        members = [order[edges[k] : edges[k + 1]] for k in range(classes)]
        return self._assemble([self._fit_class(patches[m], weights[m], prior, classes) for m in members])

    def _fit_class(self, patches: UInt8Array, weights: Float32Array, prior: Float64Array, classes: int) -> ClassTables:
        return fit_class(
            patches[:40_000],
            weights[:40_000],
            prior,
            total_bits=8 * self.settings.payload_bytes - (classes - 1).bit_length(),
            coefficients=self.settings.coefficients,
            samples=8_000,
        )

    def _assemble(self, parts: list[ClassTables]) -> ClassifiedKlt:
        return ClassifiedKlt(
            self.settings.payload_bytes,
            np.stack([part.mean for part in parts]),
            np.stack([part.basis for part in parts]),
            np.stack([part.bits for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def _revive(self, labels: Int64Array, classes: int) -> Int64Array:
        labels = labels.copy()
        for k in np.flatnonzero(np.bincount(labels, minlength=classes) < _FEW_MEMBERS):
            costs = np.bincount(labels, self.errors, minlength=classes)
            costliest = np.flatnonzero(labels == costs.argmax())
            labels[costliest[::2]] = k
        return labels


def split_classes(tables: ClassifiedKlt, patches: UInt8Array, labels: Int64Array) -> Int64Array:
    """Splits every class in two by how its members' energy spreads over the class's own coefficients."""
    labels = labels.copy()
    for k in range(len(tables.bits)):
        members = np.flatnonzero(labels == k)
        if len(members) > 2:
            centred = patches[members].astype(np.float32) - tables.means[k] / np.float32(16)
            spread = np.sqrt(np.abs(centred @ tables.basis[k, :16].T.astype(np.float32)) / 2**14)
            labels[members[_two_means(torch.from_numpy(spread))]] = k + len(tables.bits)
    return labels


def _two_means(features: torch.Tensor) -> AnyArray:
    """(n,) bool: members of the second of two clusters."""
    centred = features - features.mean(dim=0)
    axis = torch.pca_lowrank(centred, q=1, niter=2)[2][:, 0]
    second = centred @ axis > 0
    for _ in range(5):
        if second.all() or not second.any():
            break
        near = torch.cdist(features, torch.stack([features[~second].mean(dim=0), features[second].mean(dim=0)]))
        second = near[:, 1] < near[:, 0]
    mask: AnyArray = second.numpy()
    return mask
