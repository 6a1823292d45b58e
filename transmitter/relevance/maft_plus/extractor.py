"""The paper's own relevance extractor: MAFT+ and equation 7.

```
query ─ 14 templates ─ text tower ─ unit vector (cached) ─┐
contrasts ("object"...) ─ the same ───────────────────────┴─ adapted to the picture ─ t_hat ─┐
picture ─ scaled or not ─ normalised, padded to steps of 32 ─ masks m_i, vectors v_i ────────┴─ eq. 7 ─ map
```
The query is one phrase, commas and all. Masks, vectors and what texts look at are the picture's alone, so that several
queries, and the same picture again, cost little more than one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from shared.arrays import UInt8Array
from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance.contract import Relevance
from transmitter.relevance.maft_plus import checkpoint
from transmitter.relevance.maft_plus.classification import pool_masks, pool_masks_or_strongest
from transmitter.relevance.maft_plus.config import SIZE_STEP
from transmitter.relevance.maft_plus.inference import MaftInference, Precision, Seen
from transmitter.relevance.maft_plus.model import MaftPlus, normalise_and_pad
from transmitter.relevance.maft_plus.relevance import (
    CONVENTIONS,
    Convention,
    Segments,
    Texts,
    checked_convention,
    relevance_maps,
    stretched,
)
from transmitter.relevance.pictures import check_picture, picture_key
from transmitter.relevance.prompts import CONTRASTS, PhraseEncoder, phrase_of, rivals
from transmitter.relevance.recent import Recent

NAME: Final = "maft-plus"
"""What requests and events call this extractor."""

TRAINED_SHORT_SIDE: Final = 800
"""Short side in pixels that MAFT+ was trained and tested with (FACTS 2)."""

LONG_SIDE: Final = 1333
"""Pictures are scaled down until their long side is no more than this."""

LARGEST_SHORT_SIDE: Final = LONG_SIDE

CACHED_PICTURES: Final = 4
"""What was seen in this many pictures is kept; 4 MB for 320x480 pixels, 30 MB for the largest."""

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
"""The default first."""


@dataclass(frozen=True)
class Settings:
    """What can be chosen beside the weights."""

    convention: Convention = CONVENTIONS[0]
    """How eq. 7 is read."""

    short_side: int | None = None
    """Pixels that the short side is scaled to; none leaves pictures as they are, up to `LONG_SIDE`."""

    precision: Precision = PRECISIONS[0]
    """Of the large matrices."""

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which the network sees a picture, before padding; as detectron2 rounds them."""
        short, long = min(height, width), max(height, width)
        zoom = min((self.short_side or short) / short, LONG_SIDE / long)
        if zoom == 1:
            return height, width
        return max(1, int(height * zoom + 0.5)), max(1, int(width * zoom + 0.5))


class MaftPlusExtractor:
    """Computes relevance maps with MAFT+; threads may share it.

    Args:
        model: with its weights; it is moved to the device and laid out for inference.
        settings: how.
        device: where it computes.
    """

    name = NAME

    def __init__(self, model: MaftPlus, settings: Settings | None = None, device: torch.device | None = None) -> None:
        self._settings = settings or Settings()
        # Only the literal readings of eq. 7 must have the original's v_i of a mask too small to cover a place.
        pool = pool_masks_or_strongest if self._settings.convention == "relevancy" else pool_masks
        placed = model.to(device or torch.device("cpu"))
        self._network = MaftInference(placed, precision=self._settings.precision, pool=pool)
        self._tokenize = open_clip.SimpleTokenizer(context_length=model.config.context_length)
        self._phrases = PhraseEncoder(self._encode)
        self._seen: Recent[bytes, Seen] = Recent(CACHED_PICTURES)

    def __call__(self, image: UInt8Array, query: str) -> Relevance:
        """Relevance of each pixel (paper eq. 7).

        Args:
            image: (height, width, 3) uint8 RGB, any size that `PatchGrid` takes.
            query: any text, read as one phrase; empty means "whatever is salient".

        Returns:
            A map of the picture's own size. By the default reading of eq. 7 it is above 1/2 where a mask fits the
            query better than what fits anything; where no mask does, `present` is False. The empty query always
            counts as present.

        Raises:
            InvalidInputError: the picture is of another shape or dtype, or too large.
            WeightsError: the weights give no finite numbers in this precision.
        """
        return self.many(image, (query,))[0]

    def many(self, image: UInt8Array, queries: Sequence[str]) -> list[Relevance]:
        """Relevance of each pixel under several queries; the picture is looked at once, and remembered.

        Args:
            image: as above.
            queries: any texts.

        Raises:
            InvalidInputError: as above.
            WeightsError: as above.
        """
        check_picture(image)
        if not queries:
            return []
        key = picture_key(image)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._look([image])
            self._seen.put(key, seen)
        return self._answers([image], seen, queries)[0]

    def batch(self, images: Sequence[UInt8Array], queries: Sequence[str]) -> list[list[Relevance]]:
        """Relevance of several pictures, each under every query, looked at together; nothing is remembered.

        Pictures are padded to the largest of them, and the network sees the padding, so that maps differ a little
        from those of each picture alone.

        Args:
            images: as above, of any sizes.
            queries: any texts.

        Returns:
            For each picture the answers to the queries.

        Raises:
            InvalidInputError: as above.
            WeightsError: as above.
        """
        for image in images:
            check_picture(image)
        if not images or not queries:
            return [[] for _ in images]
        return self._answers(images, self._look(images), queries)

    def _look(self, images: Sequence[UInt8Array]) -> Seen:
        scaled = [self._scaled(image) for image in images]
        return self._network.look(normalise_and_pad(scaled).to(self._network.device))

    def _scaled(self, image: UInt8Array) -> Tensor:
        """(height, width, 3) to the (3, h, w) that the network sees, uint8."""
        height, width = self._settings.input_size(*image.shape[:2])
        if (height, width) != image.shape[:2]:
            scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)
        return torch.from_numpy(image.copy()).permute(2, 0, 1)

    @torch.inference_mode()
    def _answers(self, images: Sequence[UInt8Array], seen: Seen, queries: Sequence[str]) -> list[list[Relevance]]:
        padded = (seen.masks.shape[2] * 4, seen.masks.shape[3] * 4)
        maps, present = relevance_maps(
            self._texts(queries, seen),
            Segments(seen.visual, seen.masks),
            self._network.logit_scale(),
            convention=self._settings.convention,
            size=padded,
        )
        if not bool(maps.isfinite().all()):
            raise WeightsError(
                f"{NAME}: no finite numbers come out in {self._settings.precision}; bf16 or fp32 may help"
            )
        return [
            self._answers_of(image, each, found.tolist(), queries)
            for image, each, found in zip(images, maps, present, strict=True)
        ]

    def _texts(self, queries: Sequence[str], seen: Seen) -> Texts:
        vectors = self._phrases([*map(phrase_of, queries), *CONTRASTS])
        adapted = self._network.adapt(vectors, seen)
        return Texts(adapted[:, : len(queries)], adapted[:, len(queries) :], rivals(queries))

    def _answers_of(
        self, image: UInt8Array, maps: Tensor, present: list[bool], queries: Sequence[str]
    ) -> list[Relevance]:
        """(queries, rows, columns) of the padded input to maps of the picture's own size."""
        height, width = self._settings.input_size(*image.shape[:2])
        own = maps[None, :, :height, :width]
        if (height, width) != image.shape[:2]:
            own = functional.interpolate(own, image.shape[:2], mode="bilinear", align_corners=False)
        if self._settings.convention != "relevancy":
            own = stretched(own)
        return [
            Relevance(np.ascontiguousarray(each, np.float32), present=found or not query.strip())
            for each, found, query in zip(own[0].cpu().numpy(), present, queries, strict=True)
        ]

    def _encode(self, prompts: list[str]) -> Tensor:
        return self._network.encode_text(self._tokenize(prompts))


def load(
    path: Path | None = None, device: torch.device | None = None, options: Mapping[str, str] | None = None
) -> MaftPlusExtractor:
    """Loads an extractor.

    Args:
        path: an official checkpoint or what `mmsc weights convert` made of it.
        device: where it computes.
        options: values of some of those that `registry.EXTRACTORS` describes.

    Raises:
        InvalidInputError: an option's value makes no sense.
        WeightsError: no file is given, or it is absent, damaged, or of something else; it says what helps.
    """
    settings, variant = parse_settings(options or {})
    if path is None:
        files = ", ".join(checkpoint.OFFICIAL_FILES.values())
        where = "--weights (mmsc relevance) or MMSC_TRANSMITTER_MAFT_WEIGHTS (transmitter)"
        how = "`mmsc weights list` says where they come from"
        raise WeightsError(f"{NAME} needs the path of an official checkpoint ({files}) in {where}; {how}")
    return MaftPlusExtractor(checkpoint.load(path, variant), settings, device)


def parse_settings(options: Mapping[str, str]) -> tuple[Settings, str]:
    """Reads options: the settings, and the variant that the weights must be (empty: any).

    Raises:
        InvalidInputError: a value makes no sense.
    """
    settings = Settings()
    if "convention" in options:
        settings = replace(settings, convention=checked_convention(options["convention"]))
    if "short-side" in options:
        settings = replace(settings, short_side=_short_side(options["short-side"]))
    if "precision" in options:
        settings = replace(settings, precision=_precision(options["precision"]))
    variant = options.get("variant", "")
    if variant and variant not in checkpoint.VARIANTS:
        raise InvalidInputError("variant", f"unknown {variant!r}; there are: {', '.join(checkpoint.VARIANTS)}")
    return settings, variant


def _short_side(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isdecimal() or not SIZE_STEP <= int(text) <= LARGEST_SHORT_SIDE:
        raise InvalidInputError("short-side", f"{text!r} is not native, nor {SIZE_STEP} to {LARGEST_SHORT_SIDE} pixels")
    return int(text)


def _precision(text: str) -> Precision:
    for precision in PRECISIONS:
        if precision == text:
            return precision
    raise InvalidInputError("precision", f"unknown {text!r}; there are: {', '.join(PRECISIONS)}")
