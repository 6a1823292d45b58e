"""The pixel decoder: three of the trunk's maps look at one another, and E_pixel comes out at stride 4 (FACTS 4).

```
res5 ─ input_proj.0 ─┐                                                 ┌ stride 32 ┐
res4 ─ input_proj.1 ─┼─ tokens ─ encoder (deformable attention) ─ maps ┼ stride 16 ┼ memories of the mask decoder
res3 ─ input_proj.2 ─┘                                                 └ stride  8 ┴ twice as large ┐
res2 ─ adapter_1 ───────────────────────────────────────────────────────────────────────────────────+ layer_1 ─ E_pixel
```
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from transmitter.relevance.maft_plus.clip import ClipFeatures
from transmitter.relevance.maft_plus.config import LEVELS, MaftConfig
from transmitter.relevance.maft_plus.deformable import (
    DeformableAttention,
    Sizes,
    reference_points,
    sine_positions,
)

_GROUPS: Final = 32


class PixelFeatures(NamedTuple):
    """What the pixel decoder makes of a batch of pictures."""

    memories: tuple[Tensor, Tensor, Tensor]
    """(batch, hidden, rows, columns) at strides 32, 16 and 8."""

    pixel: Tensor
    """E_pixel of the paper, (batch, hidden, h / 4, w / 4)."""


class EncoderTokens(NamedTuple):
    """The maps as one row of tokens, from the coarsest to the finest, and where each of them is."""

    source: Tensor
    """(batch, tokens, hidden)."""
    position: Tensor
    """(1, tokens, hidden): sine position and level embedding, added to queries only."""
    reference: Tensor
    """(tokens, 2), x and y, 0 to 1."""
    sizes: Sizes


class EncoderLayer(nn.Module):
    """Deformable attention, then a perceptron per token; each with a residual that is normalised afterwards."""

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(config)
        self.norm1 = nn.LayerNorm(config.hidden)
        self.linear1 = nn.Linear(config.hidden, config.encoder_ffn)
        self.linear2 = nn.Linear(config.encoder_ffn, config.hidden)
        self.norm2 = nn.LayerNorm(config.hidden)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor, tokens: EncoderTokens) -> Tensor:
        """(batch, tokens, hidden) to the same."""
        x = self.norm1(x + self.self_attn(x + tokens.position, x, tokens.reference, tokens.sizes))
        y: Tensor = self.norm2(x + self.linear2(self.linear1(x).relu()))
        return y


class _Encoder(nn.Module):
    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))


class _Transformer(nn.Module):
    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(LEVELS, config.hidden))
        self.encoder = _Encoder(config)


class NormedConv(nn.Conv2d):
    """A convolution without bias and the GroupNorm after it, under detectron2's names."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, out_channels)
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, rows, columns) to (batch, out, rows, columns)."""
        y: Tensor = self.norm(super().forward(x))
        return y


class PixelDecoder(nn.Module):
    """Module names are those of the official checkpoints.

    Args:
        config: channels of the trunk and of the decoder, encoder layers.
    """

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        fine, *coarser = config.trunk_dims
        self.input_proj = nn.ModuleList(_projection(channels, config.hidden) for channels in reversed(coarser))
        self.transformer = _Transformer(config)
        self.mask_features = nn.Conv2d(config.hidden, config.hidden, 1)
        self.adapter_1 = NormedConv(fine, config.hidden, 1)
        self.layer_1 = NormedConv(config.hidden, config.hidden, 3)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(_bias(self.mask_features))

    def forward(self, features: ClipFeatures) -> PixelFeatures:
        """Maps of the trunk to the memories and E_pixel."""
        tokens = self.tokens(features)
        x = tokens.source
        for layer in self.transformer.encoder.layers:
            x = layer(x, tokens)
        return self.join(x, tokens.sizes, features.res2)

    def tokens(self, features: ClipFeatures) -> EncoderTokens:
        """The maps at strides 32, 16 and 8 as the encoder's tokens."""
        maps = (features.res5, features.res4, features.res3)
        projected = [projection(x) for projection, x in zip(self.input_proj, maps, strict=True)]
        sizes = tuple((x.shape[2], x.shape[3]) for x in projected)
        device = projected[0].device
        return EncoderTokens(
            source=torch.cat([x.flatten(2).transpose(1, 2) for x in projected], 1),
            position=self.positions(sizes, device),
            reference=reference_points(sizes, device),
            sizes=sizes,
        )

    def positions(self, sizes: Sizes, device: torch.device) -> Tensor:
        """(1, tokens, hidden)."""
        embeds = self.transformer.level_embed
        levels = [
            sine_positions(rows, columns, embeds.shape[1], device).flatten(1).T + embed
            for (rows, columns), embed in zip(sizes, embeds, strict=True)
        ]
        return torch.cat(levels)[None]

    def join(self, encoded: Tensor, sizes: Sizes, res2: Tensor) -> PixelFeatures:
        """Tokens back to maps, and the finest of them onto res2.

        Args:
            encoded: (batch, tokens, hidden).
            sizes: of the levels.
            res2: (batch, C0, h / 4, w / 4).
        """
        coarse, middle, fine = level_maps(encoded, sizes)
        return PixelFeatures((coarse, middle, fine), self.mask_features(self.joined(fine, res2)))

    def joined(self, fine: Tensor, res2: Tensor) -> Tensor:
        """The memory at stride 8 and res2 as one map at stride 4: (batch, hidden, h / 4, w / 4)."""
        above = functional.interpolate(fine, size=res2.shape[2:], mode="bilinear", align_corners=False)
        y: Tensor = self.layer_1(self.adapter_1(res2) + above).relu()
        return y


def _projection(channels: int, hidden: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, hidden, 1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(_bias(conv))
    return nn.Sequential(conv, nn.GroupNorm(_GROUPS, hidden))


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def level_maps(encoded: Tensor, sizes: Sizes) -> Sequence[Tensor]:
    """(batch, tokens, hidden) to one (batch, hidden, rows, columns) per level."""
    levels = torch.split(encoded, [rows * columns for rows, columns in sizes], dim=1)
    return [level.transpose(1, 2).reshape(len(level), -1, *size) for level, size in zip(levels, sizes, strict=True)]
