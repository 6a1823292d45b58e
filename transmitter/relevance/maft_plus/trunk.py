"""CLIP's visual half for inference: timm's ConvNeXt, block by block, channels last from beginning to end."""

from typing import Any

from torch import Tensor, nn

from transmitter.relevance.maft_plus.clip import ClipFeatures
from transmitter.relevance.maft_plus.kernels import few_at_once, linear, norm, perceptron


def trunk_features(trunk: Any, images: Tensor) -> ClipFeatures:
    """As `ClipBackbone.features`, without stochastic depth; the stem's map is not kept.

    Args:
        trunk: timm's ConvNeXt.
        images: (batch, 3, h, w) normalised RGB, sides multiples of 32.
    """
    x = norm(trunk.stem[1], _convolved(trunk.stem[0], images.permute(0, 2, 3, 1)))
    maps = []
    for stage in trunk.stages:
        if not isinstance(stage.downsample, nn.Identity):
            before, conv = stage.downsample
            x = _convolved(conv, norm(before, x))
        x = x.contiguous()
        for block in stage.blocks:
            _block(block, x)
        maps.append(x)
    return ClipFeatures(x.new_empty(0), *(each.permute(0, 3, 1, 2) for each in maps))


def projected(visual: Any, vectors: Tensor) -> Tensor:
    """As `ClipBackbone.project`: (..., C3) to (..., embed_dim), not normalised."""
    x = norm(visual.trunk.head.norm, vectors)
    head = visual.head
    y = perceptron(head.mlp.fc1, head.mlp.fc2, x, "gelu") if hasattr(head, "mlp") else linear(head.proj, x)
    return y.to(vectors.dtype)


def _block(block: Any, x: Tensor) -> None:
    """Adds to (batch, rows, columns, channels) what a block makes of it."""
    spread = _convolved(block.conv_dw, x).reshape(-1, x.shape[-1])
    total = x.view(-1, x.shape[-1])
    for few in few_at_once(total):
        added = perceptron(block.mlp.fc1, block.mlp.fc2, norm(block.norm, spread[few]), "gelu")
        total[few].addcmul_(added, block.gamma)


def _convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """(batch, rows, columns, channels) to the same, in x's precision."""
    y: Tensor = conv(x.permute(0, 3, 1, 2).to(conv.weight.dtype))
    return y.permute(0, 2, 3, 1).to(x.dtype)
