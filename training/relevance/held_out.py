"""How a network in training does on photos that it never trains on, and the threshold of `present` from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional

from shared.arrays import BoolArray, Float32Array, UInt8Array
from training.relevance.photos import CATEGORIES, COLUMNS, HEIGHT, ROWS, WIDTH, Crop, Photo
from transmitter.relevance.embedded import peak
from transmitter.relevance.looks import look, score
from transmitter.relevance.network import RelevanceNetwork
from transmitter.relevance.text_tower import TextTower

SMALLEST_SHARE: Final = 0.01
"""Objects that cover less of a held-out photo do not count."""

_PRESENT_COUNTS: Final = 3

_ASPECT: Final = WIDTH / HEIGHT


@dataclass(frozen=True)
class HeldOut:
    """One photo that is never trained on."""

    pixels: UInt8Array
    """(height, width, 3) RGB, as the extractor would be given it."""

    shares: Float32Array
    """(80, patches): share of each category in each patch, 0 to 1."""

    @property
    def truths(self) -> dict[int, BoolArray]:
        """(patches,) by category of those that are large enough, the largest first."""
        found = {kind: self.shares[kind] > 0.5 for kind in np.argsort(-self.shares.mean(1))}
        return {int(kind): truth for kind, truth in found.items() if truth.mean() >= SMALLEST_SHARE}


def held_out(photos: Sequence[Photo]) -> list[HeldOut]:
    """The largest middle window of each photo, 480x320, as the extractor would be given it."""
    return [_middle(photo) for photo in photos]


def _middle(photo: Photo) -> HeldOut:
    image = Image.fromarray(photo.pixels())
    width, height = min(1.0, image.height * _ASPECT / image.width), min(1.0, image.width / _ASPECT / image.height)
    crop = Crop((1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2, mirrored=False)
    pixels = np.asarray(crop.of(image, (WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    shares = np.zeros((len(CATEGORIES), WIDTH * HEIGHT // 64), np.float32)
    for name, mask in photo.masks.items():
        shares[CATEGORIES.index(name)] = crop.grid(mask).ravel()
    return HeldOut(pixels, shares)


@torch.no_grad()
def answers(network: RelevanceNetwork, tower: TextTower, anything: Tensor, photo: HeldOut) -> Tensor:
    """(81, rows, columns) logits of all categories and, last, of the empty query, on the network's own grid."""
    phrases = torch.cat([tower.encode(CATEGORIES), functional.normalize(anything, dim=0)[None]])
    return score(network, look(network, photo.pixels, torch.device("cpu")), phrases)


def _on_patches(logits: Tensor) -> Float32Array:
    """(81, rows, columns) to the (81, patches) of the photo."""
    grid = functional.interpolate(logits[None], (ROWS, COLUMNS), mode="bilinear", antialias=True, align_corners=False)
    return np.asarray(grid[0].flatten(1).numpy(), np.float32)


def report(network: RelevanceNetwork, tower: TextTower, anything: Tensor, photos: Sequence[HeldOut]) -> str:
    """What `mmsc evaluate relevance` would say of these photos, in short."""
    singles, pairs, silents, separations, below = [], [], [], [], []
    for photo in photos:
        logits = _on_patches(answers(network, tower, anything, photo))
        truths = photo.truths
        singles += [average_precision_score(truth, logits[kind]) for kind, truth in truths.items()]
        if len(truths) >= 2:
            (a, first), (b, second) = list(truths.items())[:2]
            both = first | second
            pairs.append(average_precision_score(both, logits[[a, b]].max(0)))
            silents.append(average_precision_score(both, logits[-1]))
            either = first ^ second
            for kind, truth in ((a, first), (b, second)):
                if (truth & either).any() and (~truth & either).any():
                    separations.append(roc_auc_score(truth[either], logits[kind][either]))
        if truths:
            lowest = min(logits[kind].max() for kind in truths)
            absent = np.flatnonzero(photo.shares.max(1) == 0)
            below.append(np.mean(logits[absent].max(1) < lowest))
    figures = {"single": singles, "pair": pairs, "empty": silents, "separation": separations, "absent below": below}
    return ", ".join(f"{name} {np.mean(values):.3f}" for name, values in figures.items())


def find_threshold(peaks: Float32Array, present: BoolArray) -> float:
    """The peak confidence that best splits present from absent.

    To tell someone that what they ask for is not there costs far more (9 dB of it, where measured) than to spend bytes
    on something like it, so that the present count three times. A logistic fit does not hang on a single object, as
    the best of all splits would.

    Args:
        peaks: (count,), 0 to 1.
        present: (count,), with both kinds in it.
    """
    weights = {True: _PRESENT_COUNTS / present.sum(), False: 1 / (~present).sum()}
    fit = LogisticRegression(class_weight=weights, C=1e6).fit(logit(np.clip(peaks, 1e-4, 1 - 1e-4))[:, None], present)
    return float(expit(-fit.intercept_[0] / fit.coef_[0, 0]))


def calibrate(network: RelevanceNetwork, tower: TextTower, anything: Tensor, photos: Sequence[HeldOut]) -> float:
    """Threshold of `present`."""
    peaks, present = [], []
    for photo in photos:
        logits = answers(network, tower, anything, photo)
        truths = photo.truths
        for kind in range(len(CATEGORIES)):
            if kind in truths or photo.shares[kind].max() == 0:
                peaks.append(peak(logits[kind]))
                present.append(kind in truths)
    return find_threshold(np.array(peaks, np.float32), np.array(present, np.bool_))
