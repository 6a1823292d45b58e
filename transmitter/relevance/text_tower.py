"""The small text encoder: any phrase to two unit vectors, in (centred) CLIP ViT-B/32 text space and of its meaning.

```
word ──┬─ own vector (if known) ─┐
       └─ letter groups, hashed ─┴─ sum ─ each looks at the others ─ attention and last word ┬─ two layers ─ CLIP's
                                                                                             └─ two layers ─ meaning
```

Words that training never saw live on their letter groups alone, so that any script and any typo gets a vector.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from transmitter.relevance.network import CLIP_CHANNELS, MEANING_CHANNELS
from transmitter.relevance.phrases import MAX_WORDS, stem

WORD_CHANNELS: Final = 96
"""Dimensions of a word inside the tower."""

HEADS: Final = 4
"""Heads of the attention between the words of a phrase."""

GRAM_BUCKETS: Final = 8192
"""Rows of the table that the letter groups are hashed into."""

HIDDEN_CHANNELS: Final = 768
"""Width of the layer before CLIP's vector."""

MEANING_HIDDEN_CHANNELS: Final = 384
"""Width of the layer before the meaning."""

MAX_GRAMS: Final = 32
"""Letter groups of a word after this many are not read."""


class TextTower(nn.Module):
    """Encodes phrases.

    Args:
        words: the known words, in the order of their rows.
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__()
        self.words = tuple(words)
        self._rows = {word: row for row, word in enumerate(words, start=2)}
        # Row 0 pads; row 1 is every unknown word's.
        self.word_table = nn.Embedding(len(words) + 2, WORD_CHANNELS, padding_idx=0)
        self.gram_table = nn.EmbeddingBag(GRAM_BUCKETS, WORD_CHANNELS, mode="mean", padding_idx=0)
        self.place_table = nn.Embedding(MAX_WORDS, WORD_CHANNELS)
        self.look = nn.Linear(WORD_CHANNELS, WORD_CHANNELS * 3)
        self.seen = nn.Linear(WORD_CHANNELS, WORD_CHANNELS)
        self.weigh = nn.Linear(WORD_CHANNELS, 1)
        self.body = nn.Sequential(
            nn.Linear(WORD_CHANNELS * 2, HIDDEN_CHANNELS), nn.SiLU(), nn.Linear(HIDDEN_CHANNELS, CLIP_CHANNELS)
        )
        self.meaning = nn.Sequential(
            nn.Linear(WORD_CHANNELS * 2, MEANING_HIDDEN_CHANNELS),
            nn.SiLU(),
            nn.Linear(MEANING_HIDDEN_CHANNELS, MEANING_CHANNELS),
        )

    def tokens(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Numbers of the words and of their letter groups.

        Returns:
            (phrases, words) int64 rows of the word table and (phrases, words, groups) int64 buckets, both
            0 where there is nothing; words are counted from the last, as many as the longest phrase has.
        """
        longest = max((min(MAX_WORDS, len(phrase.split())) for phrase in phrases), default=1)
        words = torch.zeros(len(phrases), max(1, longest), dtype=torch.int64)
        grams = torch.zeros(*words.shape, MAX_GRAMS, dtype=torch.int64)
        for row, phrase in enumerate(phrases):
            for place, word in enumerate(reversed(phrase.split()[-MAX_WORDS:])):
                words[row, place] = self._row(word)
                buckets = letter_groups(stem(word))
                grams[row, place, : len(buckets)] = torch.tensor(buckets)
        return words, grams

    def knows(self, word: str) -> bool:
        """Whether training saw this word."""
        return self._row(word) > 1

    def _row(self, word: str) -> int:
        return self._rows.get(word) or self._rows.get(stem(word), 1)

    def forward(self, words: Tensor, grams: Tensor) -> Tensor:
        """Tokens as from `tokens` to (phrases, TEXT_CHANNELS): CLIP's vector and the meaning, each of unit length."""
        there = words > 0
        there[:, 0] = True
        vectors = self.word_table(words)
        vectors = vectors.index_put(there.nonzero(as_tuple=True), self.gram_table(grams[there]), accumulate=True)
        placed = vectors + self.place_table.weight[: words.shape[1]]
        vectors = vectors + self._look_around(placed, there)
        scores = self.weigh(torch.tanh(placed)).squeeze(-1)
        shares = torch.softmax(scores.masked_fill(~there, -1e4), 1)
        pooled = torch.cat([(shares.unsqueeze(-1) * vectors).sum(1), vectors[:, 0]], 1)
        parts = (functional.normalize(layers(pooled), dim=1) for layers in (self.body, self.meaning))
        return torch.cat(list(parts), 1)

    def _look_around(self, placed: Tensor, there: Tensor) -> Tensor:
        """What each word takes from the others of its phrase."""
        heads = self.look(placed).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], there[:, None, None])
        taken: Tensor = self.seen(mixed.transpose(1, 2).flatten(2))
        return taken

    def encode(self, phrases: Sequence[str]) -> Tensor:
        """Phrases as from `split_query` to (phrases, TEXT_CHANNELS), as `forward` gives them."""
        encoded: Tensor = self(*self.tokens(phrases))
        return encoded


@lru_cache(maxsize=4096)
def letter_groups(word: str) -> list[int]:
    """Buckets (1 and up) of a word's groups of three to five letters, its ends marked."""
    marked = f"<{word[:24]}>"
    groups = [marked[at : at + size] for size in (3, 4, 5) for at in range(max(1, len(marked) - size + 1))]
    return [zlib.crc32(group.encode()) % (GRAM_BUCKETS - 1) + 1 for group in dict.fromkeys(groups)][:MAX_GRAMS]
