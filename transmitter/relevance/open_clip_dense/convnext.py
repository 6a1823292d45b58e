"""Dense features of a ConvNeXt CLIP: its visual head at every location of its last stage.

A convolutional CLIP averages its last map over all locations and then normalises and projects that one vector. FC-CLIP
(arXiv 2308.02487) leaves the average out: every location goes through the same norm and projection, which
puts it in CLIP's joint space; unlike a ViT's, the features stay meaningful at larger sizes than the training's.
"""

from typing import Any

from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn


class ConvNextHead:
    """Computes dense features of a ConvNeXt.

    Args:
        visual: a visual half that `is_supported`.
    """

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.stride: int = visual.trunk.feature_info[-1]["reduction"]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Features of every location in CLIP's joint space, not normalised.

        Args:
            pixels: (batch, 3, height, width), normalised, sides multiples of the stride.

        Returns:
            (batch, channels, rows, columns).
        """
        last = self._visual.trunk.forward_features(pixels)
        # Every location as a picture of its own, one location large: the average over it is itself.
        alone = last.permute(0, 2, 3, 1).reshape(-1, last.shape[1], 1, 1)
        features: Tensor = self._visual.head(self._visual.trunk.forward_head(alone))
        return features.reshape(len(last), *last.shape[2:], -1).permute(0, 3, 1, 2)


def is_supported(visual: nn.Module) -> bool:
    """Whether a visual half is a ConvNeXt in open_clip's wrapping, with a head of vectors."""
    return isinstance(visual, TimmModel) and isinstance(visual.trunk, ConvNeXt)
