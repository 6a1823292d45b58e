"""What a mask shows: texts adapted to the picture (CDT), CLIP's vector of each mask, and how well they agree.

```
res5 ─ scrambled tokens ─ CLIP head ─ CDT cross-attention of the texts ─ T_hat ─┐
  └─ mean over each mask ─ CLIP head ─ V ─ unit length ─────────────────────────┴─ <v, t> * scale ─ max over synonyms
```

FACTS 0 and 6 tell where the original differs from its paper; what it does is what stands here.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from transmitter.relevance.maft_plus.config import MaftConfig
from transmitter.relevance.maft_plus.deformable import sine_positions

_TINY: Final = 1e-8


class Vocabulary(NamedTuple):
    """Classes, each with one or more synonyms."""

    rows: Tensor
    """(synonyms of all classes + 1, embed_dim), unit length, the void row last; before CDT."""
    synonyms: tuple[int, ...]
    """How many rows each class has."""


class _CrossAttention(nn.Module):
    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(config.embed_dim, config.cdt_heads, batch_first=True)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.MLP = nn.Linear(config.embed_dim, config.embed_dim)


class ContentTransfer(nn.Module):
    """The content-dependent transfer: texts look at the picture, once (one layer, whatever the paper says).

    Args:
        config: embed_dim, cdt_heads, and whether the model is panoptic.
    """

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.cross_atten = _CrossAttention(config)
        self.panoptic = config.panoptic

    def forward(self, texts: Tensor, tokens: Tensor) -> Tensor:
        """Adapts texts to pictures; each row by itself.

        Args:
            texts: (rows, embed_dim), the same for all pictures, or (batch, rows, embed_dim).
            tokens: (batch, embed_dim, rows, columns) from `scrambled_tokens`.

        Returns:
            T_hat, (batch, rows, embed_dim), not of unit length.
        """
        attended = self.attend(texts.expand(len(tokens), -1, -1), tokens)
        moved = self.cross_atten.MLP(attended)
        if self.panoptic:
            return texts + self._norm(moved)
        return self._norm(texts + moved)

    def attend(self, texts: Tensor, tokens: Tensor) -> Tensor:
        """The attention alone: (batch, rows, embed_dim)."""
        value = tokens.flatten(2).transpose(1, 2)
        position = sine_positions(tokens.shape[2], tokens.shape[3], tokens.shape[1], tokens.device)
        attended: Tensor
        attended, _ = self.cross_atten.multihead_attn(texts, value + position.flatten(1).T, value, need_weights=False)
        return attended

    def _norm(self, x: Tensor) -> Tensor:
        y: Tensor = self.cross_atten.norm(x)
        return y


def scrambled(dense: Tensor) -> Tensor:
    """The vectors that the original hands to CLIP's head for CDT: runs of the map's memory, not its places.

    The released weights were trained with this reshape of (batch, channels, rows, columns) without a
    transposition, so that it belongs to the model (FACTS 0.1).

    Args:
        dense: (batch, channels, rows, columns), in any memory layout.

    Returns:
        (batch, rows, columns, channels).
    """
    batch, channels, rows, columns = dense.shape
    return dense.contiguous(memory_format=torch.contiguous_format).reshape(batch, rows, columns, channels)


def pool_masks(maps: Tensor, mask_logits: Tensor) -> Tensor:
    """Means over binary masks (logit above 0); an empty mask gives zeros.

    Args:
        maps: (batch, channels, h, w).
        mask_logits: (batch, queries, h', w'), resized bilinearly to the maps' size where they differ.

    Returns:
        (batch, queries, channels); gradients reach the maps only.
    """
    mask_logits = mask_logits.detach()
    if mask_logits.shape[2:] != maps.shape[2:]:
        mask_logits = functional.interpolate(mask_logits, size=maps.shape[2:], mode="bilinear", align_corners=False)
    inside = (mask_logits > 0).to(maps.dtype)
    shares = inside / (inside.sum((2, 3), keepdim=True) + _TINY)
    return torch.einsum("bchw,bqhw->bqc", maps, shares)


def pool_masks_or_strongest(maps: Tensor, mask_logits: Tensor) -> Tensor:
    """As `pool_masks`, but a mask that covers no place of the maps takes the one where it is strongest.

    The original gives every such mask, a small object's as well as that of no object, the same vector, that of no
    picture at all.

    Args:
        maps: (batch, channels, h, w).
        mask_logits: (batch, queries, h', w'), h' and w' multiples of h and w.

    Returns:
        (batch, queries, channels).
    """
    size = maps.shape[2:]
    resized = functional.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    empty = (resized <= 0).all((2, 3), keepdim=True)
    blocks = functional.adaptive_max_pool2d(mask_logits, size)
    strongest = torch.where(blocks == blocks.amax((2, 3), keepdim=True), 1.0, -1.0)
    return pool_masks(maps, torch.where(empty, strongest.to(resized.dtype), resized))


def class_logits(vectors: Tensor, texts: Tensor, synonyms: Sequence[int], scale: Tensor) -> Tensor:
    """Agreement of vectors with texts; a class is as likely as its likeliest synonym.

    Args:
        vectors: (batch, queries, embed_dim), any length.
        texts: (rows, embed_dim) or (batch, rows, embed_dim), used as they are; the void row last.
        synonyms: rows of each class.
        scale: 0-d.

    Returns:
        (batch, queries, classes + 1), void last.
    """
    scores = scale * functional.normalize(vectors, dim=-1) @ texts.transpose(-1, -2)
    if all(count == 1 for count in synonyms):
        return scores
    return torch.stack([group.amax(-1) for group in torch.split(scores, [*synonyms, 1], -1)], -1)


def class_shares(out_logits: Tensor, in_logits: Tensor) -> Tensor:
    """The logs of class probabilities as the original hands them to its semantic inference (FACTS 7).

    Args:
        out_logits: (..., classes + 1) of CLIP's vectors and adapted texts, void last and unused.
        in_logits: (..., classes + 1) of the in-vocabulary head, which says what is void.

    Returns:
        (..., classes + 1).
    """
    void = in_logits.softmax(-1)[..., -1:]
    shares = torch.cat([out_logits[..., :-1].softmax(-1) * (1 - void), void], -1)
    return (shares + _TINY).log()
