"""MAFT+ as a whole, with the module names of the official checkpoints.

```
picture ─ backbone (CLIP's ConvNeXt) ─ res2..res5 ─ pixel_decoder ─ E_pixel, memories ─ predictor ─ masks
                                          │ res5                                                     │
prompts ─ backbone (CLIP's text tower) ─┬─┼─────────────────────────── mean over each mask, CLIP head ─ V ─┐
                 void_embedding ────────┴─┴─ cdt ─ T_hat ──────────────────────────────────────────────────┴─ logits
```

Everything here carries gradients and computes every prediction; `inference.py` has the short way.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import InvalidInputError
from transmitter.relevance.maft_plus.classification import (
    ContentTransfer,
    Vocabulary,
    class_logits,
    pool_masks,
    scrambled,
)
from transmitter.relevance.maft_plus.clip import ClipBackbone, ClipFeatures
from transmitter.relevance.maft_plus.config import SIZE_STEP, MaftConfig
from transmitter.relevance.maft_plus.mask_decoder import MaskDecoder, Prediction
from transmitter.relevance.maft_plus.pixel_decoder import PixelDecoder, PixelFeatures

PIXEL_MEAN: Final = (122.7709383, 116.7460125, 104.09373615)
"""CLIP's mean colour, RGB, 0 to 255."""

PIXEL_STD: Final = (68.5005327, 66.6321579, 70.32316305)


class MaftOutput(NamedTuple):
    """Everything the model makes of a batch of pictures and a vocabulary."""

    features: ClipFeatures
    pixels: PixelFeatures
    predictions: list[Prediction]
    """`decoder_layers + 1`, the final one last."""
    vectors: Tensor
    """V, (batch, queries, embed_dim), not of unit length."""
    texts: Tensor
    """T_hat, (batch, rows, embed_dim), the void row last, not of unit length."""
    logits: Tensor
    """Out-vocabulary, (batch, queries, classes + 1), void last."""


class _Head(nn.Module):
    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(config)
        self.predictor = MaskDecoder(config)


class MaftPlus(nn.Module):
    """MAFT+.

    Args:
        config: the sizes.
        teacher: whether to hold the frozen CLIP that training compares with (`backbone_t`).
    """

    def __init__(self, config: MaftConfig, *, teacher: bool = False) -> None:
        super().__init__()
        self.config = config
        self.backbone = ClipBackbone(config)
        self.backbone_t: ClipBackbone | None = ClipBackbone(config).requires_grad_(False) if teacher else None
        self.sem_seg_head = _Head(config)
        self.void_embedding = nn.Embedding(1, config.embed_dim)
        self.cdt = ContentTransfer(config)

    def forward(self, images: Tensor, vocabulary: Vocabulary) -> MaftOutput:
        """The whole graph.

        Args:
            images: (batch, 3, h, w) from `normalise_and_pad`.
            vocabulary: from `vocabulary`.
        """
        features = self.backbone.features(images)
        pixels, predictions = self.segment(features, vocabulary)
        vectors = self.mask_vectors(features.res5, predictions[-1].mask_logits)
        texts = self.adapt(vocabulary.rows, features.res5)
        return MaftOutput(features, pixels, predictions, vectors, texts, self.classify(vectors, texts, vocabulary))

    def vocabulary(self, texts: Tensor, synonyms: Sequence[int]) -> Vocabulary:
        """Classes and the void row.

        Args:
            texts: (rows, embed_dim), unit length, the synonyms of a class one after the other.
            synonyms: how many rows each class has.

        Raises:
            InvalidInputError: they do not add up.
        """
        if sum(synonyms) != len(texts):
            raise InvalidInputError("synonyms", f"{sum(synonyms)} synonyms, but {len(texts)} texts")
        void = functional.normalize(self.void_embedding.weight, dim=-1)
        return Vocabulary(torch.cat([texts, void]), tuple(synonyms))

    def segment(self, features: ClipFeatures, vocabulary: Vocabulary) -> tuple[PixelFeatures, list[Prediction]]:
        """Memories and E_pixel, and all sets of predictions."""
        pixels: PixelFeatures = self.sem_seg_head.pixel_decoder(features)
        predictions: list[Prediction] = self.sem_seg_head.predictor(pixels, vocabulary)
        return pixels, predictions

    def mask_vectors(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """V: CLIP's vector of what each mask covers.

        Args:
            dense: (batch, C3, h / 32, w / 32), `res5`.
            mask_logits: (batch, queries, h / 4, w / 4).

        Returns:
            (batch, queries, embed_dim), not of unit length.
        """
        return self.backbone.project(pool_masks(dense, mask_logits))

    def adapt(self, texts: Tensor, dense: Tensor) -> Tensor:
        """T_hat: texts adapted to the pictures.

        Args:
            texts: (rows, embed_dim) or (batch, rows, embed_dim).
            dense: (batch, C3, h / 32, w / 32), `res5`.

        Returns:
            (batch, rows, embed_dim), not of unit length.
        """
        adapted: Tensor = self.cdt(texts, self.transfer_tokens(dense))
        return adapted

    def transfer_tokens(self, dense: Tensor) -> Tensor:
        """What texts look at in `adapt`: (batch, embed_dim, h / 32, w / 32)."""
        return self.backbone.project(scrambled(dense)).permute(0, 3, 1, 2)

    def classify(self, vectors: Tensor, texts: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Out-vocabulary logits: (batch, queries, classes + 1), void last."""
        return class_logits(vectors, texts, vocabulary.synonyms, self.backbone.logit_scale())


def normalise_and_pad(images: Sequence[Tensor]) -> Tensor:
    """Pictures of any sizes as one batch: normalised, then padded with 0 at the bottom and at the right.

    Args:
        images: (3, height, width) each, RGB, 0 to 255, any number type.

    Returns:
        (batch, 3, h, w) float32, h and w the least multiples of 32 that hold the largest.

    Raises:
        InvalidInputError: no picture, or one that is not of this shape.
    """
    for image in images:
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise InvalidInputError("image", f"not (3, height, width): {tuple(image.shape)}")
    if not images:
        raise InvalidInputError("image", "there is none")
    height, width = (-(-max(image.shape[axis] for image in images) // SIZE_STEP) * SIZE_STEP for axis in (1, 2))
    return torch.stack([_padded(_normalised(image), height, width) for image in images])


def _normalised(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (image.to(torch.float32) - mean) / std


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    return functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
