"""What phrases mean by the sentence teacher alone: the second half of every phrase's vector.

CLIP tells how things look, but only of the names that it was asked about; for all others the text map guesses. What
the sentence teacher says is known of every phrase, so that a class finds a phrase that means the same even where the
guess is off.
"""

import numpy as np

from shared.arrays import Float32Array
from training.relevance.sentences import LAYER_CHANNELS
from transmitter.relevance.network import MEANING_CHANNELS


class Meanings:
    """Fits and applies the reduction of sentence embeddings to their strongest directions.

    Args:
        names: (names, layers * 384) features of the teacher's names, as from `sentence_features`.
    """

    def __init__(self, names: Float32Array) -> None:
        self._centre = names[:, -LAYER_CHANNELS:].mean(0)
        _, strengths, axes = np.linalg.svd(self._centred(names), full_matrices=False)
        kept = min(MEANING_CHANNELS, int((strengths > 1e-6 * strengths[0]).sum()))
        self._axes = np.zeros((MEANING_CHANNELS, LAYER_CHANNELS), np.float32)
        # Halfway to equal strength: names come out as far apart as in CLIP's space, synonyms still near.
        self._axes[:kept] = axes[:kept] / np.sqrt(strengths[:kept, None])

    def __call__(self, sentences: Float32Array) -> Float32Array:
        """Features (phrases, layers * 384) to (phrases, MEANING_CHANNELS), unit length."""
        return _unit(self._centred(sentences) @ self._axes.T)

    def _centred(self, sentences: Float32Array) -> Float32Array:
        """The last layer, which holds what the whole phrase means."""
        return _unit(sentences[:, -LAYER_CHANNELS:] - self._centre)


def _unit(vectors: Float32Array) -> Float32Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)
