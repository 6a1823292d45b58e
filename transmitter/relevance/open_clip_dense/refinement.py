"""Grows a coarse map to the picture's pixels so that it follows the picture's edges.

The map is grown bilinearly, and what the picture's edges say is added:

    grown + guided(grown, by the picture) - guided(grown, by nothing)

A guided filter (He, Sun, Tang, "Guided image filtering", ECCV 2010; kornia's) makes the map, within a window, the
linear function of the picture's colours that fits it best, so that its edges move to where the colours change. Where
they do not change, it blurs, as it does everywhere if nothing guides it: the difference of the two is the edges alone.
So a picture without edges costs nothing, which the filter by itself does. The window reaches one cell of the coarse map
to each side: by that much the map's own edges are unknown. Measured in docs/open_clip.md.
"""

from typing import Final

import torch
from kornia.filters import guided_blur
from torch import Tensor
from torch.nn import functional

from shared.arrays import UInt8Array

SMOOTHNESS: Final = 1e-3
"""The filter's epsilon: variances of the colours, 0 to 1, far below this are no edges."""

FILTERED_SIDE: Final = 640
"""Where the picture's long side is twice this or more, the filter's linear functions are found on every second,
third... pixel only (He, Sun, "Fast guided filter", 2015), and used on all."""


def to_pixels(coarse: Tensor, image: UInt8Array, *, refine: bool = True) -> Tensor:
    """Maps of cells to maps of pixels.

    Args:
        coarse: (maps, rows, columns) float32, 0 to 1.
        image: (height, width, 3) uint8 RGB, the picture that they are of.
        refine: whether edges follow the picture's; else they are those of bilinear interpolation.

    Returns:
        (maps, height, width), 0 to 1, where `coarse` is.
    """
    height, width = image.shape[:2]
    grown = functional.interpolate(coarse[None], (height, width), mode="bilinear", align_corners=False)
    if not refine:
        return grown[0]
    guidance = torch.tensor(image, device=coarse.device).permute(2, 0, 1)[None].float() / 255
    cell = max(height / coarse.shape[1], width / coarse.shape[2])
    subsample = max(1, max(height, width) // FILTERED_SIDE)
    edges = _guided(guidance, grown, cell, subsample) - _guided(torch.zeros_like(grown[:, :1]), grown, cell, subsample)
    return (grown + edges)[0].clamp(0, 1)


def _guided(guidance: Tensor, grown: Tensor, cell: float, subsample: int) -> Tensor:
    # Odd, so that windows are centred on their pixel.
    window = 2 * max(1, round(cell)) + 1
    filtered: Tensor = guided_blur(
        guidance, grown, window, SMOOTHNESS, border_type="replicate", subsample=subsample, separable=True
    )
    return filtered
