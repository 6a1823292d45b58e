"""The relevance extractor that needs nothing but this repository: picture and free text to a soft map.

```
query ─ split_query ─ phrases ─ TextTower ─ unit vectors ┐
                                                         ├─ logits ─ lower what is absent ─ max ─ sigmoid ─ map
picture ─ scaled to 576 ─ RelevanceNetwork ─ 512 per 8x8 ┘
```
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from shared.arrays import Float32Array, UInt8Array
from transmitter.relevance.contract import Relevance
from transmitter.relevance.network import SIZE_STEP, RelevanceNetwork
from transmitter.relevance.phrases import split_query
from transmitter.relevance.pictures import check_picture
from transmitter.relevance.text_tower import TextTower

NAME: Final = "embedded"
"""What requests and events call this extractor."""

LONG_SIDE: Final = 576
"""Pictures are scaled to this before the network, in pixels; somewhat more than those it learnt from, so that small
objects are larger (0.014 single-object AP on held-out photos)."""

MOST_ZOOM: Final = 1.5
"""Small pictures are not enlarged by more than this."""

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
    """(512,), unit length: the phrase vector of the empty query."""

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
            vectors = self._model.network(to_input(image).to(self._device))
            return [self._answer(vectors, query, image.shape[0], image.shape[1]) for query in queries]

    def _answer(self, vectors: Tensor, query: str, height: int, width: int) -> Relevance:
        phrases = split_query(query)
        logits = self._model.network.logits(vectors, self._vectors(phrases).to(self._device))[0].cpu()
        found = [not phrases or peak(each) >= self._model.threshold for each in logits]
        lowered = logits - _ABSENT_SHIFT * (~torch.tensor(found))[:, None, None]
        return Relevance(_to_pixels(lowered.amax(0), height, width), present=any(found))

    def _encode(self, phrases: tuple[str, ...]) -> Tensor:
        with torch.inference_mode():
            return self._model.tower.encode(phrases) if phrases else self._model.anything[None]


def to_input(image: UInt8Array) -> Tensor:
    """(height, width, 3) uint8 RGB to the network's (1, 3, h, w) in -1..1, sides multiples of 32."""
    height, width = image.shape[:2]
    zoom = min(MOST_ZOOM, LONG_SIDE / max(height, width))
    size = tuple(max(1, round(side * zoom / SIZE_STEP)) * SIZE_STEP for side in (width, height))
    scaled = Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BICUBIC)
    # Already one pixel after the other, as the network wants it.
    return torch.from_numpy(np.array(scaled, np.float32))[None].permute(0, 3, 1, 2) / 127.5 - 1


def peak(logits: Tensor) -> float:
    """Confidence of the best half percent of the patches; one stray patch is not a find.

    Args:
        logits: of one phrase, any shape.

    Returns:
        0 to 1.
    """
    count = max(1, round(logits.numel() * _PEAK_SHARE))
    return float(torch.sigmoid(logits.flatten().topk(count).values).mean())


def _to_pixels(logits: Tensor, height: int, width: int) -> Float32Array:
    """(rows, columns) logits to (height, width) confidences, 0 to 1; logits blend to sharper edges."""
    grown = functional.interpolate(logits[None, None], (height, width), mode="bilinear", align_corners=False)
    return np.asarray(torch.sigmoid(grown[0, 0]).numpy(), np.float32)
