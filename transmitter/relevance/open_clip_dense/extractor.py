"""Relevance from plain OpenCLIP weights: text against every location of the picture, no training and no checkpoint.

```
picture ─ scaled ─ ViT (NACLIP) or ConvNeXt (FC-CLIP) ─ unit vectors, one per cell (cached) ─┐
                                                                                             ├─ cosines ─ relevancy
query ─ split_query ─ phrases ─ 14 templates ─ text tower ─ unit vectors (cached) ───────────┘                │
                                          map ◄─ edges of the picture (guided filter) ◄─ greatest over phrases
```
What the cosines of a phrase mean, and what the empty query asks for, is said in `transmitter.relevance.prompts`; each
cell is a mask of its own there, as eq. 7 of the paper has its masks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from torch import Tensor

from shared.arrays import UInt8Array
from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance.clip_text import encode_text, logit_scale
from transmitter.relevance.contract import Relevance
from transmitter.relevance.open_clip_dense import dense, vit
from transmitter.relevance.open_clip_dense.refinement import to_pixels
from transmitter.relevance.open_clip_dense.weights import DEFAULT_MODEL, ModelChoice, load_clip
from transmitter.relevance.phrases import split_query
from transmitter.relevance.pictures import check_picture, picture_key
from transmitter.relevance.prompts import CONTRASTS, THRESHOLD, PhraseEncoder, peak, phrase_of, relevancy, rivals
from transmitter.relevance.recent import Recent

NAME: Final = "open-clip"
"""What requests and events call this extractor."""

PRECISIONS: Final[Mapping[str, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""What a GPU may compute the features in."""

CACHED_PICTURES: Final = 8
"""Features of this many pictures are kept; 1 to 4 MB each."""

_TAKES: Final = {
    "short-side": "a number of pixels",
    "neighbourhood": "a number of patches above 0",
    "refine": "yes or no",
    "precision": f"one of {', '.join(PRECISIONS)}",
}
_ABSENT_SHIFT: Final = 3.0
"""Logits of a phrase that names nothing in the picture are lowered by this, so that it adds next to nothing."""


@dataclass(frozen=True)
class Settings:
    """What can be chosen beside the weights."""

    model: ModelChoice
    """Architecture and tag."""

    short_side: int | None = None
    """Pixels that the picture's short side is scaled to; none means the default of the network's kind."""

    neighbourhood: float = vit.NEIGHBOURHOOD
    """Reach of a ViT's patches, see `vit`."""

    refine: bool = True
    """Whether the map's edges follow the picture's."""

    precision: torch.dtype = torch.float32
    """What a GPU computes the features in."""


class OpenClipExtractor:
    """Computes relevance maps with a CLIP; threads may share it.

    Args:
        clip: open_clip's `CLIP`; it is moved to the device.
        settings: how; `settings.model` names the tokenizer and the colours.
        device: where it computes.

    Raises:
        InvalidInputError: no dense features of this CLIP are known, or the short side is smaller than one cell.
    """

    name = NAME

    def __init__(self, clip: Any, settings: Settings, device: torch.device | None = None) -> None:
        self._device, self._settings = device or torch.device("cpu"), settings
        self._clip = clip.to(self._device)
        self._head = dense.dense_head(clip.visual, settings.neighbourhood)
        self._scaling = _scaling(settings, self._head)
        self._tokenize = open_clip.get_tokenizer(settings.model.architecture)
        self._phrases = PhraseEncoder(self._encode)
        self._pictures: Recent[bytes, Tensor] = Recent(CACHED_PICTURES)

    def __call__(self, image: UInt8Array, query: str) -> Relevance:
        """Relevance of each pixel (paper eq. 7, with cells for masks).

        Args:
            image: (height, width, 3) uint8 RGB, any size that `PatchGrid` takes.
            query: any text; empty (or without letters and digits) means "whatever is salient".

        Returns:
            A map of the picture's own size, above 1/2 where a phrase of the query fits better than what fits
            anything. A phrase that names nothing in the picture adds next to nothing to it; where that holds of all
            phrases, the map is low and `present` is False. The empty query always counts as present.

        Raises:
            InvalidInputError: the picture is of another shape or dtype, or too large.
            WeightsError: the weights give no finite numbers in this precision.
        """
        return self.many(image, (query,))[0]

    def many(self, image: UInt8Array, queries: Sequence[str]) -> list[Relevance]:
        """Relevance of each pixel under several queries; the picture is looked at once.

        Args:
            image: as above.
            queries: any texts.

        Raises:
            InvalidInputError: the picture is of another shape or dtype, or too large.
            WeightsError: the weights give no finite numbers in this precision.
        """
        if not queries:
            return []
        with torch.inference_mode():
            features = self.features(image)
            answers = [self._cells(features, query) for query in queries]
            maps = to_pixels(torch.stack([cells for cells, _ in answers]), image, refine=self._settings.refine)
        return [
            Relevance(np.asarray(each, np.float32), present=present)
            for each, (_, present) in zip(maps.cpu().numpy(), answers, strict=True)
        ]

    def features(self, image: UInt8Array) -> Tensor:
        """Unit vectors of the picture's cells; those of the last `CACHED_PICTURES` pictures are remembered.

        Args:
            image: as above.

        Returns:
            (channels, rows, columns) float32 on the extractor's device; not to be written to.

        Raises:
            InvalidInputError: the picture is of another shape or dtype, or too large.
            WeightsError: the weights give no finite numbers in this precision.
        """
        check_picture(image)
        key = picture_key(image)
        found = self._pictures.get(key)
        if found is None:
            with torch.inference_mode():
                pixels = self._scaling.to_input(image).to(self._device)
                found = dense.unit_features(self._head, pixels, self._settings.precision)[0]
            if not bool(found.isfinite().all()):
                raise WeightsError(f"{NAME}: no finite numbers come out; another precision may help")
            self._pictures.put(key, found)
        return found

    def _cells(self, features: Tensor, query: str) -> tuple[Tensor, bool]:
        """(rows, columns) relevance of the cells, and whether any phrase was found."""
        asked = split_query(query)
        phrases = asked or ("",)
        vectors = self._phrases([*map(phrase_of, phrases), *CONTRASTS])
        scores = torch.einsum("nc,chw->nhw", vectors.float(), features)[None]
        wanted, contrasts = scores[:, : len(phrases)], scores[:, len(phrases) :]
        relevance = relevancy(wanted, contrasts, logit_scale(self._clip), rivals(phrases))[0]
        found = peak(relevance) >= THRESHOLD if asked else torch.ones(1, dtype=torch.bool, device=features.device)
        return _lowered(relevance, found).amax(0), bool(found.any())

    def _encode(self, prompts: list[str]) -> Tensor:
        with torch.inference_mode():
            return encode_text(self._clip, self._tokenize(prompts).to(self._device))


def _lowered(relevance: Tensor, found: Tensor) -> Tensor:
    """The same with the logits of phrases that were not found lowered."""
    return torch.sigmoid(torch.logit(relevance, eps=1e-6) - _ABSENT_SHIFT * (~found)[:, None, None])


def _scaling(settings: Settings, head: dense.DenseHead) -> dense.Scaling:
    default = dense.VIT_SHORT_SIDE if isinstance(head, vit.VitHead) else dense.CONVNEXT_SHORT_SIDE
    short_side = default if settings.short_side is None else settings.short_side
    if not head.stride <= short_side <= dense.LARGEST_SHORT_SIDE:
        raise InvalidInputError("short-side", f"{short_side} is not {head.stride} to {dense.LARGEST_SHORT_SIDE} pixels")
    return dense.Scaling(short_side, head.stride, settings.model.mean, settings.model.deviation)


def load(
    path: Path | None = None, device: torch.device | None = None, options: Mapping[str, str] | None = None
) -> OpenClipExtractor:
    """Loads an extractor.

    Args:
        path: a weights file, see `weights`; none takes the hub's.
        device: where it computes.
        options: values of some of those that `registry.EXTRACTORS` describes.

    Raises:
        InvalidInputError: an option's value makes no sense, or neither tag nor file are given.
        WeightsError: the weights are absent, damaged, or of another network; it says what helps.
    """
    settings = parse_settings(options or {})
    return OpenClipExtractor(load_clip(settings.model, path), settings, device)


def parse_settings(options: Mapping[str, str]) -> Settings:
    """Reads the options that `registry.EXTRACTORS` describes.

    Raises:
        InvalidInputError: a value makes no sense.
    """
    settings = Settings(ModelChoice.parse(options.get("model", DEFAULT_MODEL)))
    for name, text in options.items():
        settings = _with(settings, name, text)
    return settings


def _with(settings: Settings, name: str, text: str) -> Settings:
    try:
        match name:
            case "short-side":
                return replace(settings, short_side=int(text))
            case "neighbourhood":
                return replace(settings, neighbourhood=_above_zero(float(text)))
            case "refine":
                return replace(settings, refine={"yes": True, "no": False}[text])
            case "precision":
                return replace(settings, precision=PRECISIONS[text])
    except (ValueError, KeyError) as error:
        raise InvalidInputError(name, f"{text!r} is not {_TAKES[name]}") from error
    return settings


def _above_zero(number: float) -> float:
    if not 0 < number < math.inf:
        raise ValueError(number)
    return number
