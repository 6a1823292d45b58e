"""Masks are compared at points, not at pixels: where the points lie, and what a map reads there.

Coordinates are (x, y) in 0..1 over the whole map, so that one set of points fits maps of any resolution. All
randomness comes through a `Draw`, which a test may replace by recorded draws.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

OVERSAMPLING: Final = 3
"""Candidates per point, of which the most uncertain are kept (FACTS section 8)."""

UNCERTAIN_SHARE: Final = 0.75
"""Of the points: the most uncertain of the candidates; the others are drawn anew."""

Draw: TypeAlias = Callable[[Sequence[int], int], Tensor]
"""`draw(images, points)`: (len(images), points, 2) float32 in 0..1; row i belongs to picture `images[i]` of the batch.

Rows of one picture follow one another."""


class PictureDraws:
    """Uniform points from one random stream per picture.

    With a stream of its own a picture gets the same points whichever process holds it, and whatever else is in the
    batch.

    Args:
        seeds: one per picture of the batch.
        device: where the points are drawn; streams of different kinds of device differ.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, images: Sequence[int], points: int) -> Tensor:
        """As `Draw` says."""
        rows = [torch.rand(1, points, 2, generator=self._streams[image], device=self._device) for image in images]
        return torch.cat(rows) if rows else torch.zeros(0, points, 2, device=self._device)


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Reads maps at points, bilinearly; what lies outside counts as 0.

    Args:
        maps: (n, h, w) float.
        points: (n or 1, p, 2), x and y in 0..1; 0 and 1 are the outer edges of the border pixels. One row serves
            all maps.

    Returns:
        (n, p) of the maps' dtype.
    """
    if len(points) != 1:
        grid = 2 * points[:, :, None].to(maps.dtype) - 1
        return functional.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]
    # The maps as channels of one picture: the weights of the four neighbours are worked out once.
    return functional.grid_sample(maps[None], 2 * points[:, :, None].to(maps.dtype) - 1, align_corners=False)[
        0, :, :, 0
    ]


@torch.no_grad()
def uncertain_points(logits: Tensor, images: Sequence[int], count: int, draw: Draw) -> Tensor:
    """Points where a mask cannot decide, and some anywhere.

    Args:
        logits: (n, h, w) of the matched masks; may be none.
        images: n numbers, the picture of each.
        count: points per mask.
        draw: where randomness comes from; asked twice, for `OVERSAMPLING * count` and for the rest.

    Returns:
        (n, count, 2): the `UNCERTAIN_SHARE` of smallest absolute logit among the candidates, then the rest.
    """
    candidates = draw(images, OVERSAMPLING * count)
    kept = int(UNCERTAIN_SHARE * count)
    doubt = -point_sample(logits, candidates).abs() if len(images) else candidates[:, :, 0]
    best = doubt.topk(kept, dim=1).indices
    chosen = candidates.gather(1, best[:, :, None].expand(-1, -1, 2))
    return torch.cat([chosen, draw(images, count - kept)], dim=1)
