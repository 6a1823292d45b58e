"""From trained parts to the shipped file: the threshold of `present`, and proof that no tensor is a teacher's."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evaluation.relevance_ap import average_precision
from shared.arrays import BoolArray, Float32Array
from training.relevance.photos import CATEGORIES
from training.relevance.targets import load_target
from training.relevance.vision import unchanged_tensors
from transmitter.relevance.embedded import RelevanceModel, peak
from transmitter.relevance.network import RelevanceNetwork
from transmitter.relevance.text_tower import TextTower
from transmitter.relevance.weights import save

SMALLEST_SHARE = 0.01
"""Objects that cover less of a held-out photo do not count when the threshold is set."""


def held_out_report(network: RelevanceNetwork, tower: TextTower, anything: Tensor, paths: list[Path]) -> str:
    """Average precision on held-out masked crops, from their pixels."""
    pair, single, silent = [], [], []
    for path in paths:
        logits, wanted = _answers(network, tower, anything, path)
        largest = [kind for kind in np.argsort(-(wanted > 0.5).sum((1, 2)))[:2] if (wanted[kind] > 0.5).any()]
        if len(largest) == 2:
            truth = (wanted[largest].max(0) > 0.5).ravel()
            pair.append(average_precision(logits[largest].max(0).ravel(), truth))
            silent.append(average_precision(logits[-1].ravel(), truth))
            single += [average_precision(logits[kind].ravel(), (wanted[kind] > 0.5).ravel()) for kind in largest]
    return f"held out: pair {np.mean(pair):.3f}, single {np.mean(single):.3f}, empty {np.mean(silent):.3f}"


def _answers(
    network: RelevanceNetwork, tower: TextTower, anything: Tensor, path: Path
) -> tuple[Float32Array, Float32Array]:
    """Logits of all categories and, last, of the empty query; and the true shares of the categories."""
    with torch.no_grad(), np.load(path) as entry:
        picture = torch.from_numpy(entry["pixels"]).permute(2, 0, 1)[None].float() / 127.5 - 1
        phrases = torch.cat([tower.encode(CATEGORIES), functional.normalize(anything, dim=0)[None]])
        logits = network.logits(network(picture), phrases)[0].numpy()
    return logits, load_target(path).wanted[: len(CATEGORIES)]


def find_threshold(peaks: Float32Array, present: BoolArray) -> float:
    """The peak confidence that best splits present from absent: most of both kinds told rightly.

    Args:
        peaks: (count,), 0 to 1.
        present: (count,), with both kinds in it.
    """
    options = np.unique(peaks)
    right = [(peaks[present] >= value).mean() + (peaks[~present] < value).mean() for value in options]
    return float(options[int(np.argmax(right))])


def calibrate(network: RelevanceNetwork, tower: TextTower, anything: Tensor, paths: list[Path]) -> float:
    """Threshold of `present` from held-out masked crops, from their pixels."""
    peaks, present = [], []
    for path in paths:
        logits, wanted = _answers(network, tower, anything, path)
        shares = (wanted > 0.5).mean((1, 2))
        for kind in np.flatnonzero((shares == 0) | (shares > SMALLEST_SHARE)):
            peaks.append(peak(torch.from_numpy(logits[kind])))
            present.append(shares[kind] > 0)
    return find_threshold(np.array(peaks, np.float32), np.array(present, np.bool_))


def ship(model: RelevanceModel, start: RelevanceNetwork, out: Path) -> None:
    """Writes the weights file.

    Raises:
        AssertionError: a tensor of the trunks is still the one that training began with.
    """
    left = unchanged_tensors(model.network, start)
    assert not left, f"these tensors are still a teacher's: {left}"
    save(model, out)
