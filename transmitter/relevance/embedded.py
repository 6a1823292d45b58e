"""The relevance extractor that needs nothing but this repository: picture and free text to a soft map.

```
query ─ split_query ─ phrases ─ TextTower ─ vectors ─────┐
                                                         ├─ logits ─ lower what is absent ─ max ─ sigmoid ─ map
picture ─ looks (RelevanceNetwork) ─ 608 per 8x8 ────────┘
```
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shared.arrays import Float32Array, UInt8Array
from transmitter.relevance.contract import Relevance
from transmitter.relevance.looks import Looks, look, score
from transmitter.relevance.network import RelevanceNetwork
from transmitter.relevance.phrases import split_query
from transmitter.relevance.pictures import check_picture
from transmitter.relevance.text_tower import TextTower

NAME: Final = "embedded"
"""What requests and events call this extractor."""

_CACHED_QUERIES: Final = 256
_PEAK_SHARE: Final = 0.005
_ABSENT_SHIFT: Final = 3.0
"""Logits of a phrase that names nothing in the picture are lowered by this, so that it adds next to nothing."""


@dataclass(frozen=True)
class RelevanceModel:
    """Everything that training makes and the weights file holds."""

    network: RelevanceNetwork
    """Sees the picture."""

    tower: TextTower
    """Reads the phrases."""

    anything: Tensor
    """(TEXT_CHANNELS,), unit length: the phrase vector of the empty query."""

    threshold: float
    """Peak confidence from which something asked for counts as present, 0 to 1."""


class EmbeddedExtractor:
    """Computes relevance maps with the shipped weights.

    Args:
        model: as from `weights.load`.
        device: where the network computes; the model's own network is moved there.
    """

    name = NAME

    def __init__(self, model: RelevanceModel, device: torch.device | None = None) -> None:
        self._model, self._device = model, device or torch.device("cpu")
        # A fifth to a third faster on CPUs than planes one after the other.
        model.network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._vectors: Callable[[tuple[str, ...]], Tensor] = lru_cache(_CACHED_QUERIES)(self._encode)

    def __call__(self, image: UInt8Array, query: str) -> Relevance:
        """Relevance of each pixel (paper eq. 7).

        Args:
            image: (height, width, 3) uint8 RGB, any size that `PatchGrid` takes.
            query: any text; empty (or without letters and digits) means "whatever is salient".

        Returns:
            A map of the picture's own size. A phrase that names nothing in the picture adds next to nothing to it;
            where that holds of all phrases the map is low and nearly flat, and `present` is False. The empty
            query always counts as present.

        Raises:
            InvalidInputError: the picture is of another shape or dtype, or too large.
        """
        return self.many(image, (query,))[0]

    def many(self, image: UInt8Array, queries: Sequence[str]) -> list[Relevance]:
        """Relevance of each pixel under several queries; the picture is looked at once.

        Args:
            image: as above.
            queries: any texts.

        Raises:
            InvalidInputError: the picture is of another shape or dtype, or too large.
        """
        check_picture(image)
        with torch.inference_mode():
            looks = look(self._model.network, image, self._device)
            return [self._answer(looks, query, image.shape[0], image.shape[1]) for query in queries]

    def _answer(self, looks: Looks, query: str, height: int, width: int) -> Relevance:
        phrases = split_query(query)
        scores = score(self._model.network, looks, self._vectors(phrases).to(self._device)).cpu()
        found = [not phrases or peak(each) >= self._model.threshold for each in scores]
        lowered = scores - _ABSENT_SHIFT * (~torch.tensor(found))[:, None, None]
        return Relevance(_to_pixels(lowered.amax(0), height, width), present=any(found))

    def _encode(self, phrases: tuple[str, ...]) -> Tensor:
        with torch.inference_mode():
            return self._model.tower.encode(phrases) if phrases else self._model.anything[None]


def peak(scores: Tensor) -> float:
    """Confidence of the best half percent of the patches; one stray patch is not a find.

    Args:
        scores: logits of one phrase, any shape.

    Returns:
        0 to 1.
    """
    count = max(1, round(scores.numel() * _PEAK_SHARE))
    return float(torch.sigmoid(scores.flatten().topk(count).values).mean())


def _to_pixels(scores: Tensor, height: int, width: int) -> Float32Array:
    """(rows, columns) logits to (height, width) confidences, 0 to 1; logits blend to sharper edges."""
    grown = functional.interpolate(scores[None, None], (height, width), mode="bilinear", align_corners=False)
    return np.asarray(torch.sigmoid(grown[0, 0]).numpy(), np.float32)
