"""Pictures of any size to dense features in CLIP's joint space, whichever kind of CLIP."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from shared.arrays import UInt8Array
from shared.errors import InvalidInputError
from transmitter.relevance.open_clip_dense import convnext, vit

VIT_SHORT_SIDE: Final = 336
"""What NACLIP scales the short side of pictures to, in pixels."""

CONVNEXT_SHORT_SIDE: Final = 448
"""The same for a ConvNeXt, whose locations are 32 pixels apart: 14x21 of them in a picture of 2:3."""

LARGEST_SHORT_SIDE: Final = 2048
"""More than this takes gigabytes and minutes."""

MOST_ELONGATED: Final = 4
"""Where the long side is over this many times the short side, it decides the scale instead."""


class DenseHead(Protocol):
    """The visual half of a CLIP without its pooling."""

    stride: int
    """Pixels from one location to the next; sides of its input are multiples of it."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, channels, rows, columns) in the joint space, not normalised."""
        ...


def dense_head(visual: Any, neighbourhood: float = vit.NEIGHBOURHOOD) -> DenseHead:
    """The dense features of a visual half.

    Args:
        visual: of an open_clip model.
        neighbourhood: see `vit.VitHead`; means nothing for a ConvNeXt.

    Raises:
        InvalidInputError: it is of a kind that no dense features are known for here.
    """
    if vit.is_supported(visual):
        return vit.VitHead(visual, neighbourhood)
    if convnext.is_supported(visual):
        return convnext.ConvNextHead(visual)
    raise InvalidInputError(
        "model", f"dense features are known of plain ViTs and ConvNeXts, not {type(visual).__name__}"
    )


@dataclass(frozen=True)
class Scaling:
    """How pictures become a network's input."""

    short_side: int
    """Pixels that the short side is scaled to, before it is made a multiple of the stride."""

    stride: int
    """Sides are multiples of this many pixels."""

    mean: tuple[float, float, float]
    """Of red, green and blue, 0 to 1; subtracted."""

    deviation: tuple[float, float, float]
    """Of red, green and blue; divided by."""

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of the input for a picture of that size; one stride at least."""
        zoom = min(self.short_side / min(height, width), MOST_ELONGATED * self.short_side / max(height, width))
        rows, columns = (max(1, round(side * zoom / self.stride)) for side in (height, width))
        return rows * self.stride, columns * self.stride

    def to_input(self, image: UInt8Array) -> Tensor:
        """(height, width, 3) uint8 RGB to (1, 3, h, w) float32, normalised."""
        height, width = self.size_of(*image.shape[:2])
        scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(scaled, np.float32)).permute(2, 0, 1) / 255
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return ((pixels - mean) / deviation)[None]


def unit_features(head: DenseHead, pixels: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Features of unit length.

    Args:
        head: as from `dense_head`.
        pixels: (batch, 3, height, width), where the network is.
        precision: what a GPU computes in; float32 everywhere else.

    Returns:
        (batch, channels, rows, columns) float32.
    """
    device = pixels.device.type
    with torch.autocast(device, precision, enabled=device == "cuda" and precision != torch.float32):
        features = head(pixels)
    return functional.normalize(features.float(), dim=1)
