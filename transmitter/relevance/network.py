"""The small dense network that gives every 8x8 patch a vector in the space of the text tower.

```
                 ┌ MobileNetV2 ─ 1/8, 1/16, 1/32 ┐
picture (1/1) ───┤                               ├─ lateral ─ top-down decoder ─ 512 per patch (1/8)
                 └ detector trunk  (same sizes) ─┘
```

Both trunks were initialised from published weights (see models/relevance.md) and trained on from there. The
logit of a patch v for a phrase t is `scale * <v, t> + bias`, the vision-language score of paper eq. 7.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

TEXT_CHANNELS: Final = 512
"""Dimensions of the space shared with the text tower."""

STRIDE: Final = 8
"""Pixels between two vectors of the network's output, each way."""

SIZE_STEP: Final = 32
"""Both sides of the network's input are multiples of this."""

# Expansion, channels, repeats and stride of each group of MobileNetV2's inverted residuals.
_MOBILE_GROUPS: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_MOBILE_TAPS: Final = {6: 32, 13: 96, 17: 320}
_DETECTOR_WIDTHS: Final = (16, 32, 64, 128, 256)


class MobileConv(nn.Module):
    """Convolution with the 'SAME' padding of TensorFlow, then ReLU6 where `active`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, active: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.pad = (0, 1, 0, 1) if stride == 2 else (kernel // 2,) * 4
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h / stride, w / stride)."""
        x = self.conv(functional.pad(x, self.pad) if self.conv.kernel_size != (1, 1) else x)
        return functional.relu6(x) if self.active else x


class InvertedResidual(nn.Module):
    """Expand, filter by depth, project: the block of MobileNetV2 (Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [MobileConv(inputs, hidden, active=True)] if expansion > 1 else []
        layers += [
            MobileConv(hidden, hidden, 3, stride, hidden, active=True),
            MobileConv(hidden, outputs, active=False),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h / stride, w / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileTrunk(nn.Module):
    """MobileNetV2 1.0 with batch normalisation folded in; gives its maps at strides 8, 16 and 32."""

    channels = tuple(_MOBILE_TAPS.values())

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [MobileConv(3, 32, 3, 2, active=True)]
        width = 32
        for expansion, outputs, repeats, stride in _MOBILE_GROUPS:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(width, outputs, stride if repeat == 0 else 1, expansion))
                width = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(batch, 3, h, w) RGB in -1..1 to maps at strides 8, 16 and 32."""
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _MOBILE_TAPS:
                taps.append(x)
        return taps


class SiluConv(nn.Module):
    """Convolution and SiLU, with folded batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h / stride, w / stride)."""
        return functional.silu(self.conv(x))


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(SiluConv(inputs, inputs, 3, stride, inputs), SiluConv(inputs, outputs))


class _Bottleneck(nn.Module):
    def __init__(self, width: int, *, residual: bool) -> None:
        super().__init__()
        self.narrow, self.filter, self.residual = SiluConv(width, width), _separable(width, width), residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.filter(self.narrow(x))
        return x + y if self.residual else y


class _SplitStage(nn.Module):
    """Cross-stage partial block: half of the channels pass the bottlenecks, half go around them."""

    def __init__(self, inputs: int, outputs: int, repeats: int, *, residual: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.through, self.around = SiluConv(inputs, half), SiluConv(inputs, half)
        self.blocks = nn.Sequential(*(_Bottleneck(half, residual=residual) for _ in range(repeats)))
        self.join = SiluConv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.join(torch.cat([self.blocks(self.through(x)), self.around(x)], 1))
        return y


class _PyramidPool(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.narrow, self.join = SiluConv(inputs, inputs // 2), SiluConv(inputs * 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        pools = [functional.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13)]
        y: Tensor = self.join(torch.cat([x, *pools], 1))
        return y


class DetectorTrunk(nn.Module):
    """Backbone, path-aggregation neck and class branch of YOLOX-nano (Ge et al., 2021), no box outputs.

    The submodules stand in the order of the published graph's convolutions, which is how they are loaded.
    """

    channels = (_DETECTOR_WIDTHS[2] * 2, _DETECTOR_WIDTHS[2] + _DETECTOR_WIDTHS[3], 64 + _DETECTOR_WIDTHS[4])

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = _DETECTOR_WIDTHS
        self.stem = SiluConv(12, c1, 3)
        self.dark2 = nn.Sequential(_separable(c1, c2, 2), _SplitStage(c2, c2, 1, residual=True))
        self.dark3 = nn.Sequential(_separable(c2, c3, 2), _SplitStage(c3, c3, 3, residual=True))
        self.dark4 = nn.Sequential(_separable(c3, c4, 2), _SplitStage(c4, c4, 3, residual=True))
        self.dark5 = nn.Sequential(_separable(c4, c5, 2), _PyramidPool(c5, c5), _SplitStage(c5, c5, 1, residual=False))
        self.lateral5, self.up4 = SiluConv(c5, c4), _SplitStage(c4 * 2, c4, 1, residual=False)
        self.lateral4, self.up3 = SiluConv(c4, c3), _SplitStage(c3 * 2, c3, 1, residual=False)
        self.down3, self.out4 = _separable(c3, c3, 2), _SplitStage(c3 * 2, c4, 1, residual=False)
        self.down4, self.out5 = _separable(c4, c4, 2), _SplitStage(c4 * 2, c5, 1, residual=False)
        self.class_branches = nn.ModuleList(
            nn.Sequential(SiluConv(width, 64), _separable(64, 64), _separable(64, 64)) for width in (c3, c4, c5)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(batch, 3, h, w) RGB in -1..1 to maps at strides 8, 16 and 32."""
        x = x * 127.5 + 127.5
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        third = self.dark3(self.dark2(self.stem(torch.cat(corners, 1))))
        fourth = self.dark4(third)
        top = self.lateral5(self.dark5(fourth))
        middle = self.lateral4(self.up4(torch.cat([_twice(top), fourth], 1)))
        fine = self.up3(torch.cat([_twice(middle), third], 1))
        mid_out = self.out4(torch.cat([self.down3(fine), middle], 1))
        top_out = self.out5(torch.cat([self.down4(mid_out), top], 1))
        outs = (fine, mid_out, top_out)
        return [torch.cat([branch(y), y], 1) for branch, y in zip(self.class_branches, outs, strict=True)]


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class _DecoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.widen, self.narrow = nn.Conv2d(width, width * 2, 1), nn.Conv2d(width * 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(functional.silu(self.widen(self.norm(self.spread(x)))))
        return x + y


class Decoder(nn.Module):
    """Joins both trunks' maps from coarse to fine and gives one 512-vector per 8x8 patch.

    Args:
        channels: channels of the joined maps at strides 8, 16 and 32.
        width: channels inside.
    """

    def __init__(self, channels: Sequence[int], width: int = 128) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1, bias=False), nn.BatchNorm2d(width)) for count in channels
        )
        self.context = nn.Sequential(nn.Linear(channels[-1], width), nn.SiLU(), nn.Linear(width, width))
        self.stages = nn.ModuleList(
            nn.Sequential(*(_DecoderBlock(width) for _ in range(repeats))) for repeats in (2, 2, 2)
        )
        self.embed = nn.Sequential(nn.SiLU(), nn.Conv2d(width, TEXT_CHANNELS, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps at strides 8, 16 and 32 to (batch, 512, h, w) at stride 8."""
        context = self.context(maps[-1].mean((2, 3)))[:, :, None, None]
        x: Tensor | None = None
        for level in (2, 1, 0):
            lateral = self.laterals[level](maps[level])
            below = context if x is None else _smooth_twice(x)
            x = self.stages[level](lateral + below)
        y: Tensor = self.embed(x)
        return y


def _smooth_twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class RelevanceNetwork(nn.Module):
    """Both trunks, the decoder and the calibration of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.mobile, self.detector = MobileTrunk(), DetectorTrunk()
        pairs = zip(self.mobile.channels, self.detector.channels, strict=True)
        self.decoder = Decoder([a + b for a, b in pairs])
        self.scale, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-4.0))

    def features(self, pictures: Tensor) -> list[Tensor]:
        """(batch, 3, h, w) RGB in -1..1, sides multiples of 32, to joined maps at strides 8, 16 and 32."""
        pairs = zip(self.mobile(pictures), self.detector(pictures), strict=True)
        return [torch.cat(pair, 1) for pair in pairs]

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 3, h, w) RGB in -1..1 to (batch, 512, h / 8, w / 8)."""
        y: Tensor = self.decoder(self.features(pictures))
        return y

    def logits(self, vectors: Tensor, phrases: Tensor) -> Tensor:
        """Scores every patch against every phrase.

        Args:
            vectors: (batch, 512, rows, columns) from `forward`.
            phrases: (count, 512), unit length.

        Returns:
            (batch, count, rows, columns), unbounded; a sigmoid makes it a confidence.
        """
        return torch.einsum("bchw,nc->bnhw", vectors, phrases) * self.scale + self.bias
