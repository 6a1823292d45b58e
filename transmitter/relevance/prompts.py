"""How a query becomes a vector of CLIP's text space, and how its scores become a relevance between 0 and 1.

```
query ─ 14 templates ─ text tower ─ unit length ─ mean ─ unit length ─ vector (cached) ─┐
                                                                                        ├─ scores ─ relevancy ─ 0 to 1
contrasts ("object", "things"...) ─ the same ───────────────────────────────────────────┘
```
A query is one phrase, commas and all: "cat, dog" are not synonyms (the class lists of MAFT+ split there).

A score of CLIP says nothing alone: what is high for one phrase is low for another, and a softmax over one query is 1
everywhere. So scores are compared with those of phrases that fit anything, as LERF does (arXiv 2303.09553, section
3.3): the relevancy is the softmax of the query against one such phrase, at the model's own logit scale, and the least
over them. Where the picture is better described by "object" than by the query, it is below 1/2.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from transmitter.relevance.recent import Recent

_SIZES: Final = ("small", "medium", "large")

TEMPLATES: Final = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in _SIZES),
    *(f"This is a photo of a {size} {{}}." for size in _SIZES),
    *(f"There is a {size} {{}} in the scene." for size in _SIZES),
)
"""The templates of ViLD that FC-CLIP and MAFT+ were trained with, in their order; the second to the fifth have no full
stop, and that matters."""

NEGATIVES: Final = ("object", "things", "stuff", "texture")
"""LERF's canonical phrases: they fit anything, so that what fits a query less than them is not what was asked for."""

ANYTHING: Final = "main subject"
"""What the empty query asks for."""

BACKGROUNDS: Final = ("background",)
"""What the empty query is compared with; `NEGATIVES` mean nearly the same as it does."""

CONTRASTS: Final = (*NEGATIVES, *BACKGROUNDS)
"""Every phrase that queries are compared with; encoded like a query."""

THRESHOLD: Final = 0.5
"""Relevancy from which something asked for counts as found: it fits better than every contrast."""

CACHED_PHRASES: Final = 256
"""Vectors of this many phrases are kept."""

_PEAK_SHARE: Final = 0.005


def phrase_of(query: str) -> str:
    """The phrase that a query asks for: its words with single spaces; of none, `ANYTHING`."""
    return " ".join(query.split()) or ANYTHING


def prompts_of(phrase: str) -> list[str]:
    """The phrase in each of `TEMPLATES`, in their order; braces in it mean nothing."""
    return [template.format(phrase) for template in TEMPLATES]


def ensemble(features: Tensor) -> Tensor:
    """Prompt ensembling: the mean of unit vectors, made a unit vector again.

    Args:
        features: (..., templates, channels) of the text tower, of any length.

    Returns:
        (..., channels), unit length.
    """
    return functional.normalize(functional.normalize(features, dim=-1).mean(-2), dim=-1)


class PhraseEncoder:
    """Turns phrases into unit vectors, and remembers those used last; threads may share it.

    Args:
        encode: a text tower: prompts to (prompts, channels), of any length.
        capacity: phrases that are remembered, 1 or more.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], capacity: int = CACHED_PHRASES) -> None:
        self._encode = encode
        self._vectors: Recent[str, Tensor] = Recent(capacity)

    def __call__(self, phrases: Sequence[str]) -> Tensor:
        """Vectors of phrases; the text tower is asked once about all that are not remembered.

        Args:
            phrases: one or more, as from `phrase_of`.

        Returns:
            (phrases, channels), unit length, where and of the dtype that the text tower computes.
        """
        asked = dict.fromkeys(phrases)
        known = {phrase: found for phrase in asked if (found := self._vectors.get(phrase)) is not None}
        new = [phrase for phrase in asked if phrase not in known]
        if new:
            known |= self._learnt(new)
        return torch.stack([known[phrase] for phrase in phrases])

    def _learnt(self, phrases: Sequence[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            features = self._encode([prompt for phrase in phrases for prompt in prompts_of(phrase)])
            vectors = ensemble(features.reshape(len(phrases), len(TEMPLATES), -1))
        learnt = dict(zip(phrases, vectors, strict=True))
        for phrase, vector in learnt.items():
            self._vectors.put(phrase, vector)
        return learnt


def rivals(queries: Sequence[str]) -> Tensor:
    """Which contrasts each query is compared with.

    A query that is itself one of `NEGATIVES` is compared with the others, the empty query with `BACKGROUNDS`.

    Returns:
        (queries, contrasts) bool, at least one True in each row.
    """
    return torch.tensor([[contrast in _contrasts_of(query) for contrast in CONTRASTS] for query in queries])


def _contrasts_of(query: str) -> tuple[str, ...]:
    phrase = " ".join(query.split()).casefold()
    return tuple(negative for negative in NEGATIVES if negative != phrase) if phrase else BACKGROUNDS


def relevancy(scores: Tensor, contrasts: Tensor, scale: float | Tensor, against: Tensor) -> Tensor:
    """How much better a query fits than whatever fits anything: LERF's relevancy (arXiv 2303.09553, section 3.3).

    The least of the softmaxes exp(a s) / (exp(a s) + exp(a c)) over the contrasts' scores c is the sigmoid of
    a (s - max c), which is what is computed.

    Args:
        scores: (batch, queries, ...) scores of the queries, before the logit scale.
        contrasts: (batch, contrasts, ...) those of `CONTRASTS`.
        scale: the model's logit scale a.
        against: (queries, contrasts) bool, as from `rivals`.

    Returns:
        (batch, queries, ...), 0 to 1; above 1/2 where the query fits better than everything it is compared with. It
        rises with the score of the query.
    """
    left_out = ~against.to(contrasts.device).view(1, *against.shape, *(1,) * (contrasts.ndim - 2))
    best = contrasts.unsqueeze(1).masked_fill(left_out, -torch.inf).amax(2)
    return torch.sigmoid(scale * (scores - best))


def peak(relevance: Tensor) -> Tensor:
    """Relevance of the best half percent of the places; one stray place is not a find.

    Args:
        relevance: (..., rows, columns).

    Returns:
        (...): their mean; compare with `THRESHOLD`.
    """
    places = relevance.flatten(-2)
    count = max(1, round(places.shape[-1] * _PEAK_SHARE))
    return places.topk(count, -1).values.mean(-1)
