"""The mask decoder: learned queries look at the pixel decoder's maps, each only where its last mask was (FACTS 5).

```
query_feat ─ predict 0 ─ layer 0 (stride 32) ─ predict 1 ─ layer 1 (16) ─ predict 2 ─ layer 2 (8) ─ predict 3 ...
                └ blocked places ┘                └ blocked places ┘         └ blocked places ┘
```

A layer is masked cross-attention, self-attention, perceptron. A prediction is a mask per query, the places that
the next layer may not look at, and (the in-vocabulary head) class logits, which inference needs for p_void only.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from transmitter.relevance.maft_plus.classification import Vocabulary, class_logits, pool_masks
from transmitter.relevance.maft_plus.config import LEVELS, MaftConfig
from transmitter.relevance.maft_plus.deformable import sine_positions
from transmitter.relevance.maft_plus.pixel_decoder import PixelFeatures

_TEMPERATURE: Final = 0.07
_MAX_LOGIT_SCALE: Final = 100.0


class Prediction(NamedTuple):
    """One of the `decoder_layers + 1` sets of predictions."""

    norm: Tensor
    """(batch, queries, hidden), the normalised queries."""
    mask_embed: Tensor
    """(batch, queries, hidden), E_mask of the paper."""
    mask_logits: Tensor
    """(batch, queries, h / 4, w / 4)."""
    blocked: Tensor
    """(batch, queries, places of the next layer's map) bool, before wholly blocked rows are cleared."""
    pooled: Tensor
    """(batch, queries, hidden): E_pixel's mean over the mask."""
    pooled_proj: Tensor
    """(batch, queries, hidden)."""
    class_embed: Tensor
    """(batch, queries, embed_dim)."""
    class_logits: Tensor
    """(batch, queries, classes + 1), void last; in-vocabulary."""


class Memory(NamedTuple):
    """What one layer looks at."""

    key: Tensor
    """(batch, places, hidden), positions added."""
    value: Tensor
    """(batch, places, hidden)."""


class Attention(nn.Module):
    """Multi-head attention under the names of `nn.MultiheadAttention`, whose blocked places all heads share.

    Args:
        channels: of queries, keys and values.
        heads: into which they are split.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Attends.

        Args:
            query: (batch, queries, channels).
            key: (batch, places, channels).
            value: (batch, places, channels).
            blocked: (batch, queries, places) bool, true where a query may not look; none of its rows all true.

        Returns:
            (batch, queries, channels).
        """
        q, k, v = (self._projected(part, x) for part, x in enumerate((query, key, value)))
        allowed = None if blocked is None else ~blocked[:, None]
        read = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        attended: Tensor = self.out_proj(read.transpose(1, 2).flatten(2))
        return attended

    def _projected(self, part: int, x: Tensor) -> Tensor:
        """By the queries' (0), keys' (1) or values' (2) part of the weights: (batch, heads, places, channels)."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        y = functional.linear(x, weight, bias)
        return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)


class CrossAttentionLayer(nn.Module):
    """Queries look at a map, each where it may."""

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.multihead_attn = Attention(config.hidden, config.heads)
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, x: Tensor, embed: Tensor, memory: Memory, blocked: Tensor) -> Tensor:
        """(batch, queries, hidden) to the same."""
        y: Tensor = self.norm(x + self.multihead_attn(x + embed, memory.key, memory.value, blocked))
        return y


class SelfAttentionLayer(nn.Module):
    """Queries look at one another."""

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.hidden, config.heads)
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, x: Tensor, embed: Tensor) -> Tensor:
        """(batch, queries, hidden) to the same."""
        placed = x + embed
        y: Tensor = self.norm(x + self.self_attn(placed, placed, x))
        return y


class FeedForwardLayer(nn.Module):
    """A perceptron per query."""

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.hidden, config.decoder_ffn)
        self.linear2 = nn.Linear(config.decoder_ffn, config.hidden)
        self.norm = nn.LayerNorm(config.hidden)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, queries, hidden) to the same."""
        y: Tensor = self.norm(x + self.linear2(self.linear1(x).relu()))
        return y


class Perceptron(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        sizes = (channels, channels, channels, out_channels)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) to (..., out_channels)."""
        first, second, last = self.layers
        y: Tensor = last(second(first(x).relu()).relu())
        return y


class MaskDecoder(nn.Module):
    """Module names are those of the official checkpoints (`sem_seg_head.predictor`).

    Args:
        config: hidden channels, heads, layers, queries.
    """

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        layers = range(config.decoder_layers)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / _TEMPERATURE)))
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttentionLayer(config) for _ in layers)
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttentionLayer(config) for _ in layers)
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(config) for _ in layers)
        self.decoder_norm = nn.LayerNorm(config.hidden)
        self.query_feat = nn.Embedding(config.queries, config.hidden)
        self.query_embed = nn.Embedding(config.queries, config.hidden)
        self.level_embed = nn.Embedding(LEVELS, config.hidden)
        self.mask_embed = Perceptron(config.hidden, config.hidden)
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(config.hidden), nn.Linear(config.hidden, config.hidden))
        self.class_embed = Perceptron(config.hidden, config.embed_dim)

    def forward(self, features: PixelFeatures, vocabulary: Vocabulary) -> list[Prediction]:
        """All predictions, the one of the learned queries first, the final one last.

        Args:
            features: of a batch of pictures.
            vocabulary: the classes, before the content-dependent transfer, with the void row.
        """
        memories = self.memories(features)
        sizes = [(memory.shape[2], memory.shape[3]) for memory in features.memories]
        x = self.start(len(features.pixel))
        predictions = [self.predict(x, features.pixel, sizes[0], vocabulary)]
        for index in range(len(self.transformer_ffn_layers)):
            x = self.layer(index, x, memories[index % LEVELS], predictions[-1].blocked)
            following = sizes[(index + 1) % LEVELS]
            predictions.append(self.predict(x, features.pixel, following, vocabulary))
        return predictions

    def start(self, batch: int) -> Tensor:
        """The learned queries: (batch, queries, hidden)."""
        return self.query_feat.weight.expand(batch, -1, -1)

    def memories(self, features: PixelFeatures) -> list[Memory]:
        """What the layers look at, strides 32, 16 and 8; layer i at number i mod 3."""
        return [_memory(level, embed) for level, embed in zip(features.memories, self.level_embed.weight, strict=True)]

    def layer(self, index: int, x: Tensor, memory: Memory, blocked: Tensor) -> Tensor:
        """One layer.

        Args:
            index: of the layer, from 0.
            x: (batch, queries, hidden).
            memory: what it looks at.
            blocked: (batch, queries, places) bool; rows that are wholly blocked may look everywhere instead.
        """
        embed, reachable = self.query_embed.weight, blocked & ~blocked.all(-1, keepdim=True)
        x = self.transformer_cross_attention_layers[index](x, embed, memory, reachable)
        x = self.transformer_self_attention_layers[index](x, embed)
        y: Tensor = self.transformer_ffn_layers[index](x)
        return y

    def predict(self, x: Tensor, pixel: Tensor, size: tuple[int, int], vocabulary: Vocabulary) -> Prediction:
        """Everything that queries predict.

        Args:
            x: (batch, queries, hidden).
            pixel: E_pixel.
            size: rows and columns of the map that the next layer looks at.
            vocabulary: with the void row.
        """
        norm = self.decoder_norm(x)
        mask_embed = self.mask_embed(norm)
        mask_logits = masks_of(mask_embed, pixel)
        pooled = pool_masks(pixel, mask_logits)
        pooled_proj = self._mask_pooling_proj(pooled)
        class_embed = self.class_embed(pooled_proj + norm)
        scale = self.logit_scale.exp().clamp(max=_MAX_LOGIT_SCALE)
        return Prediction(
            norm=norm,
            mask_embed=mask_embed,
            mask_logits=mask_logits,
            blocked=blocked_places(resize(mask_logits, size)),
            pooled=pooled,
            pooled_proj=pooled_proj,
            class_embed=class_embed,
            class_logits=class_logits(class_embed, vocabulary.rows, vocabulary.synonyms, scale),
        )


def masks_of(mask_embed: Tensor, pixel: Tensor) -> Tensor:
    """Mask logits: (batch, queries, hidden) and (batch, hidden, rows, columns) to (batch, queries, rows, columns)."""
    return torch.einsum("bqc,bchw->bqhw", mask_embed, pixel)


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, without aligned corners and without smoothing, as everywhere in MAFT+."""
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def blocked_places(mask_logits: Tensor) -> Tensor:
    """(batch, queries, rows, columns) logits to (batch, queries, places) bool: true outside of the mask."""
    return (mask_logits.detach().sigmoid() < 0.5).flatten(2)


def _memory(level: Tensor, embed: Tensor) -> Memory:
    value = level.flatten(2).transpose(1, 2) + embed
    position = sine_positions(level.shape[2], level.shape[3], level.shape[1], level.device)
    return Memory(value + position.flatten(1).T, value)
