"""What the picture shows: one binary mask per class that is in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Target:
    """The classes of one picture.

    Pixels that belong to no mask (ignored ones too) count as background of every mask.
    """

    labels: Tensor
    """(segments,) int64, number of the class; segments may be none."""

    masks: Tensor
    """(segments, height, width) bool, of the picture's own size or padded at the bottom and right with False."""

    def padded(self, height: int, width: int) -> "Target":
        """The same on a larger canvas, as the batch's pictures are padded."""
        missing = (0, width - self.masks.shape[2], 0, height - self.masks.shape[1])
        return Target(self.labels, functional.pad(self.masks, missing))

    def to(self, device: torch.device) -> "Target":
        """The same on a device."""
        return Target(self.labels.to(device), self.masks.to(device))


def pad_targets(targets: Sequence[Target], height: int, width: int) -> list[Target]:
    """All targets of a batch on its canvas, in pixels."""
    return [target.padded(height, width) for target in targets]
