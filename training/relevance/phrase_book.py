"""The text side of what the dense network learns: which phrases may stand for which plane of the targets."""

import random
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.relevance.photos import CATEGORIES
from training.relevance.targets import ANYTHING, COLUMN_NAMES
from training.relevance.text import nonsense
from training.relevance.vocabulary import alias_phrases
from transmitter.relevance.network import CLIP_CHANNELS, TEXT_CHANNELS
from transmitter.relevance.text_tower import TextTower

NONSENSE_PHRASES: Final = 2
"""Meaningless phrases that each batch is scored against."""

GUESSED_FROM: Final = 0.7
"""Categories are asked for under a guessed vector when a draw from 0..1 is above this."""


class PhraseBook:
    """The text side of the targets: which phrases may stand for which plane.

    Args:
        tower: encodes phrases.
        labels: of the labelled photos.
        guesses: CLIP's part, (count, 512) by plane name, as a tower would guess it that CLIP never told the name.
    """

    def __init__(self, tower: TextTower, labels: Sequence[str], guesses: dict[str, Tensor] | None = None) -> None:
        torch.manual_seed(0)
        self.anything = nn.Parameter(functional.normalize(torch.randn(TEXT_CHANNELS), dim=0))
        names = [name for name in COLUMN_NAMES if name != ANYTHING]
        with torch.no_grad():
            self._options = [tower.encode(alias_phrases(name)) for name in names]
            self.labels = tuple(sorted({label for label in labels if label}))
            self.label_vectors = tower.encode(self.labels) if self.labels else torch.zeros(0, TEXT_CHANNELS)
            self.category_vectors = tower.encode(CATEGORIES)
        self._tower = tower
        self._guesses = [
            with_meaning(guesses[name], options[0]) if guesses and name in guesses else None
            for name, options in zip(names, self._options, strict=True)
        ]

    def draw(self, rng: random.Random) -> Tensor:
        """(planes, TEXT_CHANNELS): each plane under its own name half of the time, else under an alias or a guess."""
        rows = []
        for options, guesses in zip(self._options, self._guesses, strict=True):
            draw = rng.random()
            if draw > GUESSED_FROM and guesses is not None:
                rows.append(guesses[rng.randrange(len(guesses))])
            else:
                rows.append(options[0 if draw < 0.5 else rng.randrange(len(options))])
        return torch.stack([*rows, functional.normalize(self.anything, dim=0)])

    def nonsense(self, rng: random.Random) -> Tensor:
        """(count, TEXT_CHANNELS): random letters, which name nothing in any picture."""
        numbers = np.random.default_rng(rng.getrandbits(32))
        with torch.no_grad():
            return self._tower.encode([nonsense(numbers) for _ in range(NONSENSE_PHRASES)])


def with_meaning(guesses: Tensor, told: Tensor) -> Tensor:
    """Guesses of CLIP's part, (count, 512), with the meaning of a told vector (TEXT_CHANNELS,)."""
    return torch.cat([guesses, told[CLIP_CHANNELS:].expand(len(guesses), -1)], 1)
