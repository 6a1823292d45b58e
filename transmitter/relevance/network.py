"""The small dense network that gives every 8x8 patch a vector in the space of the text tower.

```
                 ┌ scene segmenter ─ 1/8, 1/16, class shares ──┐          ┌ what the classes say ┐
picture (1/1) ───┼ detector ─ 1/8, 1/16, 1/32, painted boxes ──┼─ Decoder ┤                      + ─ 608 per patch
        (1/2) ───┴ thing segmenter ─ 1/16, class shares ───────┘          └ what the shapes say  ┘
```

The trunks were initialised from published weights (see models/relevance.md) and trained on from there. The
logit of a patch v for a phrase t is `scale * <v, t> + bias`, the vision-language score of paper eq. 7.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from transmitter.relevance.detector import DETECTOR_CLASSES, Detector
from transmitter.relevance.segmenter import DEEP_CHANNELS, Segmenter

CLIP_CHANNELS: Final = 512
"""Of a phrase's vector: what CLIP ViT-B/32 says of it."""

MEANING_CHANNELS: Final = 96
"""Of a phrase's vector: what it means as a sentence."""

TEXT_CHANNELS: Final = CLIP_CHANNELS + MEANING_CHANNELS
"""Dimensions of the space shared with the text tower."""

STRIDE: Final = 8
"""Pixels between two vectors of the network's output, each way."""

SIZE_STEP: Final = 32
"""Both sides of the network's input are multiples of this."""

SCENE_CLASSES: Final = 151
THING_CLASSES: Final = 21
PRIOR_CHANNELS: Final = DETECTOR_CLASSES + SCENE_CLASSES + THING_CLASSES
"""Classes of the detector, of the scene segmenter and of the thing segmenter, backgrounds included."""

_SCENE_FINE: Final = 32


class TrunkMaps(NamedTuple):
    """What the trunks say of a batch of pictures."""

    levels: list[Tensor]
    """Joined features at strides 8, 16 and 32."""

    prior: Tensor
    """(batch, `PRIOR_CHANNELS`, h / 16, w / 16): shares of the classes, 0 to 1."""

    painted: Tensor
    """(batch, 80, h / 8, w / 8): the detector's boxes, 0 to 1."""


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
    """Joins the trunks' maps from coarse to fine and gives one vector of TEXT_CHANNELS per 8x8 patch.

    What the classes say goes to the output by a way of its own, whose filter starts as the classes' text
    vectors: so the network begins as its trunks' joint opinion and learns where that is wrong.

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
        self.classes = nn.Conv2d(PRIOR_CHANNELS, TEXT_CHANNELS, 1, bias=False)
        self.boxes = nn.Conv2d(DETECTOR_CLASSES, TEXT_CHANNELS, 1, bias=False)

    def forward(self, maps: TrunkMaps) -> Tensor:
        """Maps of the trunks to (batch, TEXT_CHANNELS, h, w) at stride 8."""
        context = self.context(maps.levels[-1].mean((2, 3)))[:, :, None, None]
        x: Tensor | None = None
        for level in (2, 1, 0):
            lateral = self.laterals[level](maps.levels[level])
            below = context if x is None else _smooth_twice(x)
            x = self.stages[level](lateral + below)
        y: Tensor = self.embed(x) + self.boxes(maps.painted) + _smooth_twice(self.classes(maps.prior))
        return y


def _smooth_twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class RelevanceNetwork(nn.Module):
    """The trunks, the decoder and the calibration of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scenes = Segmenter(1.0, SCENE_CLASSES, 16)
        self.things = Segmenter(0.5, THING_CLASSES, 8)
        self.detector = Detector()
        fine, middle, coarse = self.detector.channels
        self.decoder = Decoder(
            [
                fine + _SCENE_FINE + DETECTOR_CLASSES,
                middle + 2 * DEEP_CHANNELS + PRIOR_CHANNELS,
                coarse + 2 * DEEP_CHANNELS,
            ]
        )
        self.scale, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-4.0))

    def trunks(self) -> list[nn.Module]:
        """The parts that were initialised from published weights."""
        return [self.scenes, self.things, self.detector]

    def features(self, pictures: Tensor) -> TrunkMaps:
        """(batch, 3, h, w) RGB in -1..1, sides multiples of 32, to what the trunks say."""
        scene = self.scenes(pictures)
        # At half size the output stride of 8 is 16, and the pictures are as large as those it learnt from.
        thing = self.things(functional.avg_pool2d(pictures, 2))
        found = self.detector(pictures)
        fine, middle, coarse = found.sure
        sure = functional.max_pool2d(fine, 2).maximum(middle).maximum(_smooth_twice(coarse))
        prior = torch.cat([sure, scene.shares, thing.shares], 1)
        deep = torch.cat([scene.deep, thing.deep], 1)
        fine, middle, coarse = found.features
        levels = [
            torch.cat([fine, scene.fine, found.painted], 1),
            torch.cat([middle, deep, prior], 1),
            torch.cat([coarse, functional.avg_pool2d(deep, 2)], 1),
        ]
        return TrunkMaps(levels, prior, found.painted)

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 3, h, w) RGB in -1..1 to (batch, TEXT_CHANNELS, h / 8, w / 8)."""
        y: Tensor = self.decoder(self.features(pictures))
        return y

    def logits(self, vectors: Tensor, phrases: Tensor) -> Tensor:
        """Scores every patch against every phrase.

        Args:
            vectors: (batch, TEXT_CHANNELS, rows, columns) from `forward`.
            phrases: (count, TEXT_CHANNELS), as from the text tower.

        Returns:
            (batch, count, rows, columns), unbounded; a sigmoid makes it a confidence.
        """
        return torch.einsum("bchw,nc->bnhw", vectors, phrases) * self.scale + self.bias
